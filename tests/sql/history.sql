-- The history of a row and of a table: delta_chain, delta_log, vector_at, delta_rollback.
.nullvalue NULL

CREATE VIRTUAL TABLE docs USING delta_vectors(dimensions=4, metric=l2);
SELECT delta_apply('docs', 'a', delta_create('[1,2,3,4]'), 1000, '{"lang":"en"}');
SELECT delta_apply('docs', 'b', delta_create('[0,0,0,1]'), 1500);
SELECT delta_apply('docs', 'a', delta_sparse('[1]', '[0.5]'), 2000);
SELECT delta_apply('docs', 'a', delta_scale(2), 3000);
SELECT delta_apply('docs', 'a', delta_delete(), 4000);
SELECT delta_apply('docs', 'a', delta_create('[9,9,9,9]'), 5000, '{"lang":"de"}');

.print -- a chain, in order of seq
SELECT seq, timestamp, operation, encoding, bytes, checkpoint, delta_json(delta), metadata FROM delta_chain('docs', 'a');
SELECT * FROM delta_chain('docs', 'nobody');
SELECT seq FROM delta_chain('docs', 'a') WHERE seq > 3 AND seq <= 5;
SELECT seq FROM delta_chain('docs', 'a') WHERE seq = 4;
SELECT seq, id FROM delta_chain('docs', 'a') WHERE operation = 'scale' ORDER BY seq;
SELECT count(*) FROM delta_chain('docs', 'a', 'one too many');
SELECT count(*) FROM delta_chain('docs');
SELECT count(*) FROM delta_chain;
SELECT count(*) FROM delta_chain(NULL, 'a');
SELECT count(*) FROM delta_chain('dosc', 'a');
SELECT id, count(*) FROM docs, delta_chain('docs', id) GROUP BY id;
SELECT id, (SELECT max(seq) FROM delta_chain('docs', id)) FROM docs;
SELECT row_id, table_name, seq FROM delta_chain WHERE table_name = 'docs' AND row_id = 'b';
SELECT seq FROM delta_chain('main.docs', 'b');

.print -- the feed
SELECT seq, id, timestamp, operation, delta_json(delta), metadata FROM delta_log('docs', 0);
SELECT seq, id FROM delta_log('docs', 4);
SELECT seq, id FROM delta_log('docs');
SELECT count(*) FROM delta_log('docs', NULL);
SELECT count(*) FROM delta_log('docs', -5);
SELECT count(*) FROM delta_log('docs', 100);
SELECT count(*) FROM delta_log('docs', 'yesterday');
SELECT count(*) FROM delta_log('docs', 1.5);
SELECT seq FROM delta_log('docs') WHERE seq > 2 AND seq < 5;
SELECT seq FROM delta_log('docs') WHERE seq > '2' AND seq < 4.5;
SELECT seq FROM delta_log('docs') WHERE seq >= 9223372036854775807;
SELECT seq FROM delta_log('docs') WHERE seq > -9223372036854775808 LIMIT 1;
SELECT seq FROM delta_log('docs', 2) ORDER BY seq LIMIT 2;
SELECT seq FROM delta_log('docs', 2) ORDER BY seq DESC LIMIT 2;
SELECT seq, delta_apply('docs', id, delta_scale(1), 5000) FROM delta_log('docs', 5);
SELECT max(seq) FROM delta_log('docs');

.print -- what is not committed is seen by the same connection, at the end
BEGIN;
INSERT INTO docs(id, vector) VALUES('c', '[1,1,1,1]');
SELECT seq, id, operation FROM delta_log('docs', 6);
SELECT vector_json(vector_at('docs', 'c'));
ROLLBACK;
SELECT seq, id, operation FROM delta_log('docs', 6);
SELECT vector_at('docs', 'c');

.print -- vectors of then and now
SELECT vector_json(vector_at('docs', 'a'));
SELECT vector_json(vector_at('docs', 'a', 999));
SELECT vector_json(vector_at('docs', 'a', 1000));
SELECT vector_json(vector_at('docs', 'a', 2999));
SELECT vector_json(vector_at('docs', 'a', '1970-01-01T00:00:03Z'));
SELECT vector_json(vector_at('docs', 'a', 4000));
SELECT vector_json(vector_at('docs', 'a', 5000));
SELECT vector_at('docs', 'a', NULL), vector_at('docs', NULL), vector_at('docs', 'nobody'), vector_at('docs', x'00');
SELECT typeof(vector_at('docs', 'a')), length(vector_at('docs', 'a'));
SELECT vector_at('nodocs', 'a');
SELECT vector_at(NULL, 'a');
SELECT vector_at('docs', 'a', 'some day');

.print -- going back
SELECT delta_rollback('docs', 'a', 3);
SELECT vector_json(vector), metadata FROM docs WHERE id = 'a';
SELECT delta_rollback('docs', 'a', 5);
SELECT id FROM docs;
SELECT delta_rollback('docs', 'a', 5);
SELECT delta_rollback('docs', 'a', 6);
SELECT vector_json(vector), metadata FROM docs WHERE id = 'a';
SELECT delta_rollback('docs', 'a', 6);
SELECT seq, operation, encoding, bytes, metadata FROM delta_chain('docs', 'a') WHERE seq > 6;
SELECT delta_rollback('docs', 'a', 2);
SELECT delta_rollback('docs', 'a', 0);
SELECT delta_rollback('docs', 'a', 99);
SELECT delta_rollback('docs', 'b', 1);
SELECT delta_rollback('docs', 'nobody', 1);
SELECT delta_rollback('docs', 'a', 'first');
SELECT delta_rollback(NULL, 'a', 1);
SELECT count(*) FROM delta_log('docs');

.print -- differences come out whole
CREATE VIRTUAL TABLE small USING delta_vectors(dimensions=64, metric=l2);
WITH RECURSIVE i(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM i WHERE n < 63)
INSERT INTO small(id, vector) SELECT 'x', '[' || group_concat(0.5 + n * 0.25) || ']' FROM i;
WITH RECURSIVE i(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM i WHERE n < 63)
UPDATE small SET vector = (SELECT '[' || group_concat(0.5001 + n * 0.2501) || ']' FROM i) WHERE id = 'x';
WITH RECURSIVE i(n) AS (SELECT 0 UNION ALL SELECT n + 1 FROM i WHERE n < 63)
UPDATE small SET vector = (SELECT '[' || group_concat(0.5002 + n * 0.2502) || ']' FROM i) WHERE id = 'x';
SELECT seq, operation, encoding, checkpoint, length(delta) > 256 FROM delta_chain('small', 'x');
SELECT vector_patch.v = vector_at('small', 'x') FROM (SELECT delta_patch(vector_at('small', 'x'), delta) AS v FROM delta_log('small') WHERE seq = 3) AS vector_patch;

.print -- metadata of every type
CREATE VIRTUAL TABLE items USING delta_vectors(id INTEGER PRIMARY KEY, embedding FLOAT[2], "a ""name" TEXT, n INTEGER, r REAL, b BOOLEAN, x BLOB, +body TEXT);
INSERT INTO items VALUES(7, '[1,2]', 'tab	"quoted" \ back', 3, 2, true, x'00ff', 'long');
INSERT INTO items(id, embedding) VALUES(8, '[1,2]');
UPDATE items SET r = 0.1, x = NULL WHERE id = 7;
SELECT seq, id, typeof(id), operation, metadata FROM delta_log('items');
SELECT json_valid(metadata) FROM delta_log('items') WHERE metadata IS NOT NULL;
SELECT vector_json(vector_at('items', 7)), vector_json(vector_at('items', '7')), vector_json(vector_at('items', 7.0)), vector_at('items', 'seven'), vector_at('items', 7.5);

.print -- a table of another schema
ATTACH ':memory:' AS other;
CREATE VIRTUAL TABLE other.docs USING delta_vectors(dimensions=2);
INSERT INTO other.docs(id, vector) VALUES('o', '[1,0]');
SELECT id FROM delta_log('other.docs');
SELECT vector_json(vector_at('other.docs', 'o'));
SELECT count(*) FROM delta_log('main.docs');
