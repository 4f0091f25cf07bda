-- delta_export and delta_import.
.nullvalue NULL

CREATE VIRTUAL TABLE src USING delta_vectors(dimensions=4, metric=l2);
CREATE VIRTUAL TABLE dst USING delta_vectors(dimensions=4, metric=l2);
SELECT count(delta_apply('src', 'a', delta_create('[1,2,3,4]'), 1000, '{"lang":"en"}'));
SELECT count(delta_apply('src', 'b', delta_create('[5,6,7,8]'), 1000));
SELECT count(delta_apply('src', 'a', delta_sparse('[0]', '[0.5]'), 2000)), count(delta_apply('src', 'b', delta_delete(), 2000));

.print -- all of it, twice
CREATE TEMP TABLE box AS SELECT delta_export('src') AS full;
SELECT typeof(full) FROM box;
SELECT delta_import('dst', full) FROM box;
SELECT delta_import('dst', full) FROM box;
SELECT seq, id, timestamp, operation, delta_json(delta), metadata FROM delta_log('dst');
SELECT id, vector_json(vector), metadata FROM dst;
SELECT delta_import('src', full) FROM box;

.print -- the rest, and the same once more
SELECT count(delta_apply('src', 'b', delta_create('[1,1,1,1]'), 3000, '{"n":1}')), count(delta_apply('src', 'a', delta_scale(2), 3000));
SELECT delta_import('dst', delta_export('src', 4));
SELECT delta_import('dst', delta_export('src', 2));
SELECT delta_import('dst', delta_export('src', 6));
SELECT (SELECT group_concat(id || vector_json(vector) || ifnull(metadata, '')) FROM src) = (SELECT group_concat(id || vector_json(vector) || ifnull(metadata, '')) FROM dst);

.print -- a part that is missing
SELECT delta_apply('src', 'a', delta_scale(2), 4000), delta_apply('src', 'a', delta_scale(2), 4000);
SELECT delta_import('dst', delta_export('src', 7));
SELECT delta_import('dst', delta_export('src', 6, 7));
SELECT delta_import('dst', delta_export('src', 7));

.print -- merged states
SELECT count(delta_apply('src', 'a', delta_offset(1), 5000, '{"lang":"fr"}')), count(delta_apply('src', 'c', delta_create('[3,3,3,3]'), 5000)), count(delta_apply('src', 'c', delta_scale(0.5), 5001));
SELECT json_remove(delta_compact('src', '{"keep":"none"}'), '$.bytesBefore', '$.bytesAfter');
SELECT delta_import('dst', delta_export('src', 8));
SELECT seq, id, timestamp, operation, metadata FROM delta_log('dst', 8);
SELECT (SELECT group_concat(id || vector_json(vector) || ifnull(metadata, '')) FROM src) = (SELECT group_concat(id || vector_json(vector) || ifnull(metadata, '')) FROM dst);

.print -- deletes that were compacted away
SELECT count(delta_apply('src', 'b', delta_delete(), 6000));
SELECT json_remove(delta_compact('src', '{"keep":"none"}'), '$.bytesBefore', '$.bytesAfter');
SELECT delta_import('dst', delta_export('src', 11));
SELECT delta_import('dst', delta_export('src'));
CREATE VIRTUAL TABLE fresh USING delta_vectors(dimensions=4, metric=l2);
SELECT delta_import('fresh', delta_export('src'));
SELECT delta_import('fresh', delta_export('src', 12));
SELECT id, vector_json(vector) FROM fresh;

.print -- in parts, as the message of an export that is too large says, from a table that had compacted deletes away before
CREATE VIRTUAL TABLE parts USING delta_vectors(dimensions=4, metric=l2);
SELECT count(delta_apply('src', 'd', delta_create('[1,1,1,1]'), 7000)), count(delta_apply('src', 'e', delta_create('[2,2,2,2]'), 7000));
SELECT count(delta_apply('src', 'f', delta_create('[3,3,3,3]'), 7000)), count(delta_apply('src', 'd', delta_delete(), 7001));
SELECT seq, id, operation FROM delta_log('src');
SELECT delta_import('parts', delta_export('src', 0, 10));
SELECT delta_import('parts', delta_export('src', 10, 13));
SELECT id FROM parts;
SELECT delta_import('parts', delta_export('src', 0, 11));
SELECT json_remove(delta_compact('src', '{"keep":"none"}'), '$.bytesBefore', '$.bytesAfter');
SELECT delta_import('parts', delta_export('src', 13));
CREATE VIRTUAL TABLE others USING delta_vectors(dimensions=4, metric=l2);
SELECT delta_import('others', delta_export('src', 0, 10));
SELECT delta_import('others', delta_export('src', 10));
SELECT (SELECT group_concat(id || vector_json(vector) || ifnull(metadata, '')) FROM src) = (SELECT group_concat(id || vector_json(vector) || ifnull(metadata, '')) FROM others);

.print -- a row that is here already, a time that is too old: nothing of the import stays
CREATE VIRTUAL TABLE own USING delta_vectors(dimensions=4, metric=l2);
INSERT INTO own(id, vector) VALUES('b', '[0,0,0,0]');
SELECT delta_import('own', full) FROM box;
SELECT id FROM own;
BEGIN;
INSERT INTO own(id, vector) VALUES('z', '[0,0,0,0]');
SELECT delta_import('own', full) FROM box;
SELECT id FROM own;
COMMIT;
SELECT seq, id FROM delta_log('own');

.print -- not an export of a table like this
CREATE VIRTUAL TABLE five USING delta_vectors(dimensions=5);
CREATE VIRTUAL TABLE numbered USING delta_vectors(id INTEGER PRIMARY KEY, v FLOAT[4]);
CREATE VIRTUAL TABLE bare USING delta_vectors(id TEXT PRIMARY KEY, v FLOAT[4]);
SELECT delta_import('five', full) FROM box;
SELECT delta_import('numbered', full) FROM box;
SELECT delta_import('bare', full) FROM box;
SELECT delta_import('fresh', x'');
SELECT delta_import('fresh', x'00');
SELECT delta_import('fresh', delta_scale(2));
SELECT delta_import('fresh', substr(full, 1, length(full) - 1)) FROM box;
SELECT delta_import('fresh', full || x'00') FROM box;
SELECT delta_import('fresh', CAST(full || full AS BLOB)) FROM box;
SELECT delta_import('fresh', 'text');
SELECT delta_import('fresh', NULL);
SELECT delta_import('nofresh', full) FROM box;
SELECT delta_import(NULL, full) FROM box;
SELECT delta_export('nosrc');
SELECT delta_export(NULL);
SELECT delta_export('src', 'x');
SELECT delta_export('src', 1, 2.5);
SELECT id FROM fresh;
INSERT INTO fresh(fresh) VALUES('integrity-check');
INSERT INTO dst(dst) VALUES('integrity-check');

.print -- long form
CREATE VIRTUAL TABLE i1 USING delta_vectors(id INTEGER PRIMARY KEY, v FLOAT[2] distance_metric=cosine, n INTEGER, r REAL, b BOOLEAN, x BLOB, t TEXT, +aux TEXT);
CREATE VIRTUAL TABLE i2 USING delta_vectors(id INTEGER PRIMARY KEY, v FLOAT[2], aux TEXT, t TEXT, x BLOB, b BOOLEAN, r REAL, n INTEGER);
INSERT INTO i1 VALUES(1, '[1,2]', 5, 2, true, x'00', 'text', 'aux'), (2, '[3,4]', NULL, NULL, NULL, NULL, NULL, NULL);
UPDATE i1 SET n = NULL, t = 'other' WHERE id = 1;
INSERT OR REPLACE INTO i1(id, v, r) VALUES(2, '[4,5]', 0.25);
SELECT delta_import('i2', delta_export('i1'));
SELECT id, vector_json(v), n, r, b, quote(x), t, aux FROM i1 EXCEPT SELECT id, vector_json(v), n, r, b, quote(x), t, aux FROM i2;
SELECT id, vector_json(v), n, r, b, quote(x), t, aux FROM i2;
INSERT INTO i2(i2) VALUES('integrity-check');
