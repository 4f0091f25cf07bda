.print -- metadata with characters that JSON escapes, and numbers it does not have
CREATE VIRTUAL TABLE notes USING delta_vectors(id TEXT PRIMARY KEY, v FLOAT[2], note TEXT, price REAL, raw BLOB);
INSERT INTO notes(id, v, note, price, raw) VALUES('a', '[1,2]', 'q"b\' || char(8, 9, 10, 12, 13, 1, 31) || 'z', 9e999, x'00ff');
INSERT INTO notes(id, v, price) VALUES('b', '[3,4]', -9e999);
UPDATE notes SET note = NULL, price = 0.1 WHERE id = 'a';
SELECT id, metadata FROM delta_log('notes');
SELECT json_valid(metadata), hex(metadata ->> 'note') FROM delta_chain('notes', 'a');

.print -- rowids of table-valued functions
SELECT rowid, value FROM vector_each('[5,6]');
SELECT rowid, id FROM vector_search('notes', '[1,2]', 5);
SELECT rowid, id FROM delta_log('notes');
SELECT rowid, operation FROM delta_chain('notes', 'a');

.print -- what cannot be written, declared, or asked
INSERT INTO notes(id, v, distance) VALUES('c', '[1,2]', 5);
INSERT INTO notes(id, v, k) VALUES('c', '[1,2]', 5);
UPDATE notes SET k = 3;
SELECT delta_settle('nowhere');
SELECT delta_sparse('[1,2', '[1]');
SELECT hex(delta_sparse('[]', '[]'));
SELECT delta_patch('[1,2]', x'7ade01');
SELECT id FROM notes WHERE id = x'61';
CREATE VIRTUAL TABLE digits USING delta_vectors(dimensions=1);
INSERT INTO digits(id, vector) VALUES('5', '[1]');
SELECT id FROM digits WHERE id = 5;

.print -- a query in the column for commands, as users of FTS5 and of vec1 write it; options on lines of their own, and k beside them
CREATE VIRTUAL TABLE line USING delta_vectors(dimensions=1, metric=l2);
INSERT INTO line(id, vector, as_of) VALUES('a', '[1]', 1000), ('b', '[2]', 2000), ('c', '[3]', 3000);
SELECT id, distance FROM line WHERE line MATCH '[0]' AND k = 2;
SELECT id, distance FROM line WHERE line MATCH vector_f32('[9]') ORDER BY distance LIMIT 1;
SELECT id FROM line('[0]', '
  {"k": 1}');
SELECT id FROM line('[9]', '{"as_of": 2000}') WHERE k = 1;
SELECT id FROM line('[9]', '{"as_of": 2000}') WHERE k = 0;
SELECT id FROM line('[9]', '{"k": 1}') WHERE k = 2;
SELECT id FROM line('[9]', 2) WHERE k = 2;
SELECT count(*) FROM line('[9]', 2) WHERE k = 1;
SELECT id FROM line WHERE line MATCH '[0]' AND vector MATCH '[0]' AND k = 2;
INSERT INTO line(line) VALUES('hnsw_ef_search = 77');
SELECT value FROM line_meta WHERE key = 'hnsw_ef_search';
INSERT INTO line(line) VALUES('hnsw_ef_search = 7 7');

.print -- REALs in the feed's metadata read back as they are, those too that are the nearest to a 32-bit float
CREATE VIRTUAL TABLE reals USING delta_vectors(id INTEGER PRIMARY KEY, v FLOAT[1], r REAL);
INSERT INTO reals SELECT key + 1, '[1]', value FROM json_each('[0.1, 12.5, 0.10000000149011612, 9223372036854775808.0, 3.4028234663852886e38, 1e22, 1.1754943508222875e-38, -0.30000001192092896, 1e15, 5e-324]');
SELECT id, metadata FROM delta_log('reals') WHERE (metadata ->> 'r') <> (SELECT r FROM reals WHERE reals.id = delta_log.id);
SELECT metadata FROM delta_log('reals');

.print -- the feed of one table applied to another: every type of metadata
CREATE VIRTUAL TABLE from_here USING delta_vectors(id INTEGER PRIMARY KEY, v FLOAT[2], n INTEGER, r REAL, s TEXT, f BOOLEAN, x BLOB, +y BLOB);
CREATE VIRTUAL TABLE to_there USING delta_vectors(id INTEGER PRIMARY KEY, v FLOAT[2], n INTEGER, r REAL, s TEXT, f BOOLEAN, x BLOB, +y BLOB);
INSERT INTO from_here VALUES(1, '[1,2]', 9223372036854775807, 0.10000000149011612, 'it''s "é"', 1, x'00fF10', x''), (2, '[3,4]', NULL, 2, NULL, 0, NULL, x'41');
UPDATE from_here SET x = NULL, y = x'00' WHERE id = 1;
UPDATE from_here SET delta = delta_scale(2), x = x'ABCD' WHERE id = 2;
SELECT count(delta_apply('to_there', id, delta, timestamp, metadata)) FROM delta_log('from_here');
SELECT *, hex(x), hex(y) FROM (SELECT * FROM from_here EXCEPT SELECT * FROM to_there);
SELECT id, vector_json(v), n, r = 0.10000000149011612, s, f, hex(x), hex(y), typeof(x) FROM to_there;
SELECT delta_apply('to_there', 1, delta_scale(1), NULL, '{"x":"0"}');
SELECT delta_apply('to_there', 1, delta_scale(1), NULL, '{"y":"0g"}');
SELECT delta_apply('to_there', 1, delta_scale(1), NULL, '{"x":5}');
