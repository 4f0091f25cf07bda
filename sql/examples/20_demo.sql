-- The main job on real data: 2,000 WordNet glosses, embedded by all-MiniLM-L6-v2 (384 dimensions).
-- Load, search by meaning, change vectors by deltas, search the past, follow the log, roll back, compact.
.load ./delta_vectors
.mode list

ATTACH 'data/wordnet_sample.db' AS sample;

CREATE VIRTUAL TABLE words USING delta_vectors(
  id TEXT PRIMARY KEY,
  embedding FLOAT[384] distance_metric=cosine,
  pos TEXT,
  +gloss TEXT,
  checkpoint_interval=20);

.print
.print == 1. Load 2,000 embeddings in one transaction (the sample stores them as int8 codes and a scale)

INSERT INTO words(id, embedding, pos, gloss, as_of)
  SELECT id, vector_int8(codes, scale), pos, text, '2026-05-01' FROM sample.gloss ORDER BY id;
SELECT count(*) || ' rows' FROM words;

.print
.print == 2. Search by meaning: a place where books are kept

CREATE TEMP TABLE question AS
  SELECT text, vector_int8(codes, scale) AS v FROM sample.query WHERE text = 'a place where books are kept';
SELECT round(w.distance, 3) || '  ' || substr(w.gloss, 1, 70)
  FROM question q, words w WHERE w.embedding MATCH q.v AND k = 5;

.print
.print == 3. The same, verbs only: the filter is applied inside the search, so there are five answers

SELECT round(w.distance, 3) || '  ' || substr(w.gloss, 1, 70)
  FROM question q, words w WHERE w.embedding MATCH q.v AND k = 5 AND w.pos = 'verb';

.print
.print == 4. Teach the table: move the word classroom towards the question by a few dozen dimensions at a time

-- The change is stored as what differs, not as a new vector.
CREATE TEMP TABLE target AS SELECT id FROM words WHERE gloss LIKE 'classroom%' OR gloss LIKE 'schoolroom%' ORDER BY id LIMIT 1;
CREATE TEMP TABLE step AS
  SELECT key / 96 AS part, '[' || group_concat(key) || ']' AS dimensions, '[' || group_concat(value) || ']' AS vals
    FROM (SELECT key, value FROM vector_each((SELECT v FROM question)) ORDER BY key) GROUP BY key / 96;
SELECT 'delta number ' || delta_apply('words', (SELECT id FROM target), delta_sparse(dimensions, vals), '2026-06-0' || (part + 1))
  FROM step WHERE part < 3 ORDER BY part;
SELECT round(w.distance, 3) || '  ' || substr(w.gloss, 1, 70)
  FROM question q, words w WHERE w.embedding MATCH q.v AND k = 3;

.print
.print == 5. Search as of May: the answer of before the changes

SELECT round(w.distance, 3) || '  ' || substr(w.gloss, 1, 70)
  FROM question q, words w WHERE w.embedding MATCH q.v AND k = 3 AND w.as_of = '2026-05-20';

.print
.print == 6. The row's chain: every change, with its size in bytes (a whole vector has 1536)

SELECT seq || '  ' || date(timestamp / 1000, 'unixepoch') || '  ' || operation || '  ' || encoding || '  ' || bytes
  FROM delta_chain('words', (SELECT id FROM target));

.print
.print == 7. Follow the log: everything after number 2000, as another process would poll it

SELECT seq || '  ' || id || '  ' || operation FROM delta_log('words', 2000);

.print
.print == 8. Take it back: roll the row back to its first version. The log goes on; nothing is lost

SELECT 'delta number ' || delta_rollback('words', (SELECT id FROM target), (SELECT min(seq) FROM delta_chain('words', (SELECT id FROM target))));
SELECT round(w.distance, 3) || '  ' || substr(w.gloss, 1, 70)
  FROM question q, words w WHERE w.embedding MATCH q.v AND k = 3;

.print
.print == 9. Changes in a transaction are searched at once, and gone after ROLLBACK

BEGIN;
DELETE FROM words WHERE pos = 'noun';
SELECT count(*) || ' rows inside the transaction' FROM words;
SELECT round(w.distance, 3) || '  ' || substr(w.gloss, 1, 70)
  FROM question q, words w WHERE w.embedding MATCH q.v AND k = 1;
ROLLBACK;
SELECT count(*) || ' rows after ROLLBACK' FROM words;

.print
.print == 10. Compact: keep only the current versions

SELECT 'deltas before: ' || (delta_status('words') ->> 'deltas');
SELECT 'merged: ' || (delta_compact('words', '{"keep":"none"}') ->> 'merged');
SELECT 'deltas after:  ' || (delta_status('words') ->> 'deltas');

.print
.print == 11. Statistics and the integrity check

SELECT 'rows ' || (s ->> 'rows') || ', index ' || (s ->> 'index') || ', dimensions ' || (s ->> 'dimensions')
  FROM (SELECT delta_status('words') AS s);
SELECT 'measured recall@10: ' || delta_recall('words', 100, 10);
INSERT INTO words(words) VALUES('integrity-check');
PRAGMA integrity_check;
