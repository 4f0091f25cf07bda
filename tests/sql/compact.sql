-- delta_compact: what it merges, what it keeps, and what it says.
.nullvalue NULL

CREATE VIRTUAL TABLE docs USING delta_vectors(dimensions=4, metric=l2);
SELECT count(delta_apply('docs', 'a', delta_create('[1,2,3,4]'), 1000, '{"lang":"en"}'));
SELECT count(delta_apply('docs', 'b', delta_create('[5,6,7,8]'), 1000));
WITH RECURSIVE i(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM i WHERE n < 9)
SELECT count(delta_apply('docs', 'a', delta_sparse('[' || (n % 4) || ']', '[' || n || '.5]'), 1000 + n * 100)) FROM i;
SELECT delta_apply('docs', 'b', delta_delete(), 2000);
CREATE TEMP TABLE before AS SELECT seq, timestamp, vector_at('docs', 'a', timestamp) AS v FROM delta_chain('docs', 'a');

.print -- nothing to do
SELECT json_remove(delta_compact('docs'), '$.bytesBefore', '$.bytesAfter');
SELECT json_remove(delta_compact('docs', '{"keep":"forever"}'), '$.bytesBefore', '$.bytesAfter');
SELECT json_remove(delta_compact('docs', '{"keep":"10 versions"}'), '$.bytesBefore', '$.bytesAfter');
SELECT json_remove(delta_compact('docs', NULL), '$.bytesBefore', '$.bytesAfter');
SELECT count(*) FROM delta_log('docs');

.print -- the last four versions of each row
SELECT json_remove(delta_compact('docs', '{"keep":"4 versions"}'), '$.bytesBefore', '$.bytesAfter');
SELECT seq, id, timestamp, operation, delta_json(delta), metadata FROM delta_log('docs');
SELECT count(*) FROM before WHERE seq >= 9 AND vector_at('docs', 'a', timestamp) IS NOT v;
SELECT vector_at('docs', 'a', 1699), vector_json(vector_at('docs', 'a', 1700));
INSERT INTO docs(docs) VALUES('integrity-check');

.print -- seqs go on, also behind a record that was removed
SELECT json_remove(delta_compact('docs', '{"keep":"none"}'), '$.bytesBefore', '$.bytesAfter');
SELECT seq, id, operation, encoding, checkpoint, metadata FROM delta_chain('docs', 'a');
SELECT count(*) FROM delta_chain('docs', 'b');
SELECT id, vector_json(vector), metadata FROM docs;
SELECT json_remove(delta_compact('docs', '{"keep":"none"}'), '$.bytesBefore', '$.bytesAfter');
SELECT delta_apply('docs', 'c', delta_create('[0,0,0,1]'), 3000);
SELECT delta_apply('docs', 'c', delta_delete(), 3100);
SELECT json_remove(delta_compact('docs', '{"keep":"none"}'), '$.bytesBefore', '$.bytesAfter');
SELECT delta_apply('docs', 'd', delta_create('[0,0,0,1]'), 3000);
SELECT seq, id, operation FROM delta_log('docs');
INSERT INTO docs(docs) VALUES('integrity-check');

.print -- seqs never fall: the last record goes in one compaction, the record before it is merged in the next
CREATE VIRTUAL TABLE falls USING delta_vectors(dimensions=1, metric=l2);
SELECT delta_apply('falls', 'a', delta_create('[1]')), delta_apply('falls', 'a', delta_scale(2)), delta_apply('falls', 'a', delta_scale(3));
SELECT delta_apply('falls', 'b', delta_create('[1]')), delta_apply('falls', 'b', delta_delete());
SELECT json_extract(delta_compact('falls', '{"id":"b","keep":"none"}'), '$.removed');
SELECT json_extract(delta_compact('falls', '{"keep":"none"}'), '$.merged');
SELECT delta_apply('falls', 'c', delta_create('[1]'));
INSERT INTO falls(falls) VALUES('integrity-check');

.print -- one row only
WITH RECURSIVE i(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM i WHERE n < 3)
SELECT count(delta_apply('docs', 'd', delta_scale(2), 4000 + n)), count(delta_apply('docs', 'a', delta_offset(1), 4000 + n)) FROM i;
SELECT json_remove(delta_compact('docs', '{"id":"d","keep":"none"}'), '$.bytesBefore', '$.bytesAfter');
SELECT seq, id, operation, vector_json(vector_at('docs', id)) FROM delta_log('docs');

.print -- by time: a row deleted long ago goes, one created anew begins with its second life
CREATE VIRTUAL TABLE times USING delta_vectors(dimensions=2, metric=l2, retention='1 day');
SELECT delta_apply('times', 'gone', delta_create('[1,1]'), 1000), delta_apply('times', 'gone', delta_delete(), 2000);
SELECT delta_apply('times', 'back', delta_create('[1,1]'), 1000), delta_apply('times', 'back', delta_delete(), 2000), delta_apply('times', 'back', delta_create('[2,2]'));
SELECT delta_apply('times', 'new', delta_create('[1,1]')), delta_apply('times', 'new', delta_scale(3));
SELECT delta_apply('times', 'old', delta_create('[1,1]'), 1000), delta_apply('times', 'old', delta_scale(3), 2000), delta_apply('times', 'old', delta_scale(3));
SELECT json_remove(delta_compact('times'), '$.bytesBefore', '$.bytesAfter');
SELECT seq, id, operation FROM delta_log('times');
SELECT id, vector_json(vector) FROM times ORDER BY id;
SELECT vector_json(vector_at('times', 'old', 2000)), vector_at('times', 'old', 1999), vector_at('times', 'back', 2000), vector_at('times', 'gone');
INSERT INTO times(times) VALUES('integrity-check');
INSERT INTO times(id, vector) VALUES('gone', '[7,7]');
SELECT seq, id, operation FROM delta_log('times') WHERE id = 'gone';

.print -- inside transactions
BEGIN;
SELECT delta_apply('docs', 'a', delta_scale(2), 5000), delta_apply('docs', 'e', delta_create('[1,1,1,1]'), 5000);
SELECT json_remove(delta_compact('docs', '{"keep":"none"}'), '$.bytesBefore', '$.bytesAfter');
SELECT id, vector_json(vector) FROM docs ORDER BY id;
SELECT delta_apply('docs', 'e', delta_scale(2), 5001);
SELECT id, vector_json(vector) FROM docs ORDER BY id;
ROLLBACK;
SELECT id, vector_json(vector) FROM docs ORDER BY id;
SELECT seq, id, operation FROM delta_log('docs');
BEGIN;
SELECT delta_apply('docs', 'e', delta_create('[1,1,1,1]'), 5000);
SAVEPOINT s;
SELECT delta_apply('docs', 'e', delta_scale(2), 5001);
SELECT delta_compact('docs', '{"keep":"none"}');
ROLLBACK TO s;
SELECT id, vector_json(vector) FROM docs ORDER BY id;
COMMIT;
BEGIN;
SAVEPOINT s;
SELECT json_remove(delta_compact('docs', '{"keep":"none"}'), '$.bytesBefore', '$.bytesAfter');
ROLLBACK TO s;
SELECT seq, id, operation FROM delta_log('docs');
SELECT json_remove(delta_compact('docs', '{"keep":"none"}'), '$.bytesBefore', '$.bytesAfter');
COMMIT;
SELECT seq, id, operation FROM delta_log('docs');
INSERT INTO docs(docs) VALUES('integrity-check');
SELECT id FROM docs WHERE vector MATCH '[2,2,2,2]' AND k = 1;

.print -- mistakes
SELECT delta_compact('docs', '{"keep":"a while"}');
SELECT delta_compact('docs', '{"keep":7}');
SELECT delta_compact('docs', '{"retention":"1 day"}');
SELECT delta_compact('docs', '{"id":"nobody"}');
SELECT delta_compact('docs', '{"id":null}');
SELECT delta_compact('docs', 'none');
SELECT delta_compact('docs', '["none"]');
SELECT delta_compact('nodocs');
SELECT delta_compact(NULL);
SELECT delta_compact();
