-- What the integrity check finds. Each damage is made in a savepoint and taken back.
.nullvalue NULL

CREATE VIRTUAL TABLE docs USING delta_vectors(id TEXT PRIMARY KEY, v FLOAT[8], genre TEXT, n INTEGER, checkpoint_interval=3);
WITH RECURSIVE i(k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM i WHERE k < 6)
INSERT INTO docs(id, v, genre, n) SELECT 'r' || k, '[' || k || ',1,2,3,4,5,6,7]', 'g' || k, k FROM i;
UPDATE docs SET delta = delta_scale(0.5);
UPDATE docs SET delta = delta_sparse('[1]', '[9.5]') WHERE id <> 'r6';
UPDATE docs SET delta = delta_offset(0.25) WHERE id <> 'r6';
DELETE FROM docs WHERE id = 'r2';
INSERT INTO docs(docs) VALUES('optimize');
INSERT INTO docs(id, v, genre) VALUES('r7', '[1,1,1,1,1,1,1,1]', 'late');
INSERT INTO docs(docs) VALUES('integrity-check');

.print -- the log: a bit of a delta, the header, the end, a pack of zeros, no blob, one more pack
SAVEPOINT s;
UPDATE docs_log SET pack = CAST(substr(pack, 1, 50) || x'ff' || substr(pack, 52) AS BLOB);
INSERT INTO docs(docs) VALUES('integrity-check');
ROLLBACK TO s;
UPDATE docs_log SET pack = CAST(substr(pack, 1, 10) || x'ff' || substr(pack, 12) AS BLOB);
INSERT INTO docs(docs) VALUES('integrity-check');
ROLLBACK TO s;
UPDATE docs_log SET pack = CAST(substr(pack, 1, length(pack) - 1) || x'01' AS BLOB);
INSERT INTO docs(docs) VALUES('integrity-check');
ROLLBACK TO s;
UPDATE docs_log SET pack = substr(pack, 1, 200);
INSERT INTO docs(docs) VALUES('integrity-check');
ROLLBACK TO s;
UPDATE docs_log SET pack = zeroblob(length(pack));
INSERT INTO docs(docs) VALUES('integrity-check');
ROLLBACK TO s;
UPDATE docs_log SET pack = 'text';
INSERT INTO docs(docs) VALUES('integrity-check');
ROLLBACK TO s;
INSERT INTO docs_log SELECT 1000, pack FROM docs_log;
INSERT INTO docs(docs) VALUES('integrity-check');
ROLLBACK TO s;
INSERT INTO docs_log SELECT -5, pack FROM docs_log;
INSERT INTO docs(docs) VALUES('integrity-check');
ROLLBACK TO s;
DELETE FROM docs_log;
INSERT INTO docs(docs) VALUES('integrity-check');
ROLLBACK TO s;

.print -- rows: an id, metadata, a line too few, a line too many
UPDATE docs_row SET id = 'other' WHERE vid = 3;
INSERT INTO docs(docs) VALUES('integrity-check');
ROLLBACK TO s;
UPDATE docs_row SET id = x'00' WHERE vid = 3;
INSERT INTO docs(docs) VALUES('integrity-check');
ROLLBACK TO s;
UPDATE docs_row SET c1 = 'wrong', c2 = NULL WHERE vid = 1;
INSERT INTO docs(docs) VALUES('integrity-check');
ROLLBACK TO s;
DELETE FROM docs_row WHERE vid = 4;
INSERT INTO docs(docs) VALUES('integrity-check');
ROLLBACK TO s;
INSERT INTO docs_row(vid, id) VALUES(100, 'nobody');
INSERT INTO docs(docs) VALUES('integrity-check');
ROLLBACK TO s;
INSERT INTO docs_row(vid, id) VALUES(-3, 'nobody');
INSERT INTO docs(docs) VALUES('integrity-check');
ROLLBACK TO s;

.print -- derived blocks
UPDATE docs_head SET heads = CAST(x'ff' || substr(heads, 2) AS BLOB);
INSERT INTO docs(docs) VALUES('integrity-check');
ROLLBACK TO s;
UPDATE docs_head SET heads = x'00';
INSERT INTO docs(docs) VALUES('integrity-check');
ROLLBACK TO s;

.print -- 'rebuild' mends derived blocks
UPDATE docs_head SET heads = x'00';
INSERT INTO docs(docs) VALUES('rebuild');
INSERT INTO docs(docs) VALUES('integrity-check');
ROLLBACK TO s;

.print -- meta
UPDATE docs_meta SET value = 9 WHERE key = 'metric';
INSERT INTO docs(docs) VALUES('integrity-check');
ROLLBACK TO s;
UPDATE docs_meta SET value = 7 WHERE key = 'dimensions';
INSERT INTO docs(docs) VALUES('integrity-check');
ROLLBACK TO s;
DELETE FROM docs_meta WHERE key = 'uuid';
INSERT INTO docs(docs) VALUES('integrity-check');
ROLLBACK TO s;
UPDATE docs_meta SET value = 2 WHERE key = 'format';
INSERT INTO docs(docs) VALUES('integrity-check');
ROLLBACK TO s;
UPDATE docs_meta SET value = 50 WHERE key = 'last_seq';
INSERT INTO docs(docs) VALUES('integrity-check');
ROLLBACK TO s;
DELETE FROM docs_meta WHERE key = 'settled';
INSERT INTO docs(docs) VALUES('integrity-check');
ROLLBACK TO s;
INSERT INTO docs(docs) VALUES('optimize');
UPDATE docs_meta SET value = CAST(substr(value, 1, 104) || x'05' || substr(value, 106) AS BLOB) WHERE key = 'settled';
INSERT INTO docs(docs) VALUES('integrity-check');
INSERT INTO docs(docs) VALUES('rebuild');
INSERT INTO docs(docs) VALUES('integrity-check');
ROLLBACK TO s;
RELEASE s;

.print -- codes are stored once a log is long: 110 vectors of 256 KiB
CREATE VIRTUAL TABLE wide USING delta_vectors(id INTEGER PRIMARY KEY, v FLOAT[65536]);
WITH RECURSIVE i(k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM i WHERE k < 110)
INSERT INTO wide SELECT k, CAST(zeroblob(262140) || x'0000803f' AS BLOB) FROM i;
INSERT INTO wide(wide) VALUES('optimize');
SELECT count(*) > 0 FROM wide_code;
INSERT INTO wide(wide) VALUES('integrity-check');
SAVEPOINT s;
UPDATE wide_code SET codes = CAST(substr(codes, 1, 5) || x'11' || substr(codes, 7) AS BLOB) WHERE block = 1;
INSERT INTO wide(wide) VALUES('integrity-check');
ROLLBACK TO s;
DELETE FROM wide_code WHERE block = 1;
INSERT INTO wide(wide) VALUES('integrity-check');
ROLLBACK TO s;
UPDATE wide_code SET codes = x'00', block = 1077 WHERE block = 1;
INSERT INTO wide(wide) VALUES('integrity-check');
INSERT INTO wide(wide) VALUES('rebuild');
INSERT INTO wide(wide) VALUES('integrity-check');
RELEASE s;
