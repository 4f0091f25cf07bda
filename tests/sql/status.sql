-- delta_status and delta_recall.
.nullvalue NULL

CREATE VIRTUAL TABLE docs USING delta_vectors(dimensions=4, metric=l2);
SELECT json_extract(delta_status('docs'), '$.rows', '$.deltas', '$.chain', '$.fresh', '$.settled', '$.index', '$.recall_estimate', '$.dimensions', '$.metric', '$.last_seq');
SELECT group_concat(key) FROM json_each(delta_status('docs'));
SELECT delta_recall('docs');

WITH RECURSIVE i(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM i WHERE n < 50)
INSERT INTO docs(id, vector) SELECT 'r' || n, '[' || n || ',' || (n * 7 % 13) || ',1,2]' FROM i;
DELETE FROM docs WHERE id IN ('r1', 'r2');
UPDATE docs SET delta = delta_scale(2) WHERE id = 'r3';
UPDATE docs SET delta = delta_scale(2) WHERE id = 'r3';
SELECT json_extract(delta_status('docs'), '$.rows', '$.deltas', '$.chain.max', '$.fresh', '$.settled', '$.last_seq', '$.pending');
SELECT json_extract(delta_status('docs'), '$.bytes') = json_extract(delta_status('docs'), '$.log_bytes') + json_extract(delta_status('docs'), '$.row_bytes') + json_extract(delta_status('docs'), '$.head_bytes') + json_extract(delta_status('docs'), '$.code_bytes') + json_extract(delta_status('docs'), '$.graph_bytes');
SELECT length(json_extract(delta_status('docs'), '$.uuid'));
BEGIN;
INSERT INTO docs(id, vector) VALUES('p', '[1,1,1,1]');
SELECT json_extract(delta_status('docs'), '$.rows', '$.deltas', '$.last_seq', '$.pending');
ROLLBACK;
SELECT json_extract(delta_status('docs'), '$.rows', '$.deltas', '$.last_seq', '$.pending');
INSERT INTO docs(docs) VALUES('optimize');
SELECT json_extract(delta_status('docs'), '$.fresh', '$.settled');
SELECT count(delta_compact('docs', '{"keep":"none"}'));
SELECT json_extract(delta_status('docs'), '$.rows', '$.deltas', '$.last_seq', '$.purged_seq', '$.chain');

SELECT delta_recall('docs', 20, 5);
SELECT json_extract(delta_status('docs'), '$.recall_estimate');
SELECT delta_recall('docs', 1000, 1000), delta_recall('docs', NULL, NULL), delta_recall('docs', 7);
SELECT delta_recall('docs', 0);
SELECT delta_recall('docs', 10, -1);
SELECT delta_recall('docs', 'all');
SELECT delta_recall('nodocs');
SELECT delta_recall(NULL);
SELECT delta_status('nodocs');
SELECT delta_status(NULL);
SELECT delta_status();
