-- Ten lines to try: a table of vectors, a search, a small change, and the past.
.load ./delta_vectors

CREATE VIRTUAL TABLE docs USING delta_vectors(dimensions=4, metric=cosine);

INSERT INTO docs(id, vector, metadata, as_of) VALUES
  ('apple',  '[0.9, 0.1, 0.0, 0.2]', '{"kind":"fruit"}',  '2026-05-01'),
  ('banana', '[0.8, 0.3, 0.1, 0.1]', '{"kind":"fruit"}',  '2026-05-01'),
  ('hammer', '[0.0, 0.2, 0.9, 0.4]', '{"kind":"tool"}',   '2026-05-01');

-- The two nearest rows.
SELECT id, round(distance, 4) AS distance FROM docs WHERE vector MATCH '[1, 0, 0, 0]' AND k = 2;

-- A small change: one dimension of one vector. The answer is the change's number in the table's log.
SELECT delta_apply('docs', 'hammer', delta_sparse('[0]', '[3.0]'), '2026-06-01');
SELECT id, round(distance, 4) AS distance FROM docs WHERE vector MATCH '[1, 0, 0, 0]' AND k = 2;

-- The same search in May, before the change.
SELECT id, round(distance, 4) AS distance FROM docs
 WHERE vector MATCH '[1, 0, 0, 0]' AND k = 2 AND as_of = '2026-05-15';

-- What happened to the row.
SELECT seq, date(timestamp / 1000, 'unixepoch') AS day, operation, delta_json(delta) AS delta FROM delta_chain('docs', 'hammer');
