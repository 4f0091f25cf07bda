-- Versions: reading the past, differences, rolling back, keeping only what is wanted.
.load ./delta_vectors

CREATE VIRTUAL TABLE t USING delta_vectors(dimensions=3, metric=l2, retention='2 versions');

INSERT INTO t(id, vector, metadata, as_of) VALUES('a', '[1, 2, 3]', '{"note":"first"}', 1000);
SELECT delta_apply('t', 'a', delta_scale(2), 2000, '{"note":"doubled"}');
SELECT delta_apply('t', 'a', delta_offset(0.5), 3000);
UPDATE t SET vector = '[2.5, 9, 6.5]', as_of = 4000 WHERE id = 'a';
DELETE FROM t WHERE id = 'a';
INSERT INTO t(id, vector) VALUES('a', '[0, 0, 1]');

SELECT seq, operation, encoding, checkpoint, delta_json(delta) FROM delta_chain('t', 'a');

-- The vector at any moment.
SELECT vector_json(vector_at('t', 'a', 2500));
SELECT id, vector_json(vector), metadata FROM t WHERE as_of = 3999;

-- The difference of two moments, as a delta that can be applied elsewhere.
SELECT delta_json(delta_diff(vector_at('t', 'a', 3000), vector_at('t', 'a', 4000)));
SELECT vector_json(delta_patch(vector_at('t', 'a', 3000), delta_diff(vector_at('t', 'a', 3000), vector_at('t', 'a', 4000))));

-- Back to version 2.
SELECT delta_rollback('t', 'a', 2);
SELECT vector_json(vector), metadata FROM t;

-- Compaction keeps what the table's retention says: here the last two versions of each row.
SELECT delta_compact('t') ->> 'merged';
SELECT seq, operation, checkpoint FROM delta_chain('t', 'a');
SELECT vector_json(vector), metadata FROM t;
