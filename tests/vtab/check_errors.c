/*
 * check_errors.c: every refusal of the SQL surface: its code, that its text names the table, the row, the value and
 * what would be right, and that nothing has changed afterwards: not a row, not the log, not a byte of a shadow table.
 * In autocommit mode, inside a transaction with uncommitted changes, and behind a savepoint; and what comes after the
 * error works.
 *
 * Refusals of CREATE VIRTUAL TABLE: check_config.c. Of functions that touch no table: check_functions.c.
 */
#include "support.h"

typedef struct refusal {
  const char *sql;
  int rc;
  const char *parts[5]; /* all of these stand in the message */
} refusal;

#define NAN_BLOB "X'0000803F0000C07F0000803F'"
#define INFINITE_BLOB "X'0000803F0000807F0000803F'"

static const refusal refusals[] = {
    /* ---- INSERT */
    {"INSERT INTO docs(id, vector) VALUES('a', '[1,2,3]')",
     SQLITE_CONSTRAINT,
     {"main.docs", "row 'a' exists already", "INSERT OR REPLACE", "UPDATE"}},
    {"INSERT INTO docs(id, vector) VALUES('new', '[1,2,3]'), ('a', '[1,2,3]')",
     SQLITE_CONSTRAINT,
     {"main.docs", "row 'a' exists already"}},
    {"INSERT INTO docs(id, delta) VALUES('a', delta_create('[1,2,3]'))",
     SQLITE_CONSTRAINT,
     {"main.docs", "row 'a' exists already"}},
    {"INSERT INTO docs(id, vector) VALUES('new', '[1,2]')",
     SQLITE_ERROR,
     {"main.docs", "row 'new'", "2 dimensions", "expected 3"}},
    {"INSERT INTO docs(id, vector) VALUES('new', '[1,2,3,4]')",
     SQLITE_ERROR,
     {"main.docs", "row 'new'", "4 dimensions", "expected 3"}},
    {"INSERT INTO docs(id, vector) VALUES('new', zeroblob(16))",
     SQLITE_ERROR,
     {"main.docs", "row 'new'", "4 dimensions", "expected 3"}},
    {"INSERT INTO docs(id, vector) VALUES('new', zeroblob(11))",
     SQLITE_ERROR,
     {"main.docs", "row 'new'", "11 bytes", "12"}},
    {"INSERT INTO docs(id, vector) VALUES('new', x'')", SQLITE_ERROR, {"main.docs", "row 'new'", "expected 3"}},
    {"INSERT INTO docs(id, vector) VALUES('new', '[]')", SQLITE_ERROR, {"main.docs", "row 'new'", "expected 3"}},
    {"INSERT INTO docs(id, vector) VALUES('new', '')", SQLITE_ERROR, {"main.docs", "row 'new'", "JSON"}},
    {"INSERT INTO docs(id, vector) VALUES('new', '[1,2')", SQLITE_ERROR, {"main.docs", "row 'new'", "JSON"}},
    {"INSERT INTO docs(id, vector) VALUES('new', 'no vector')", SQLITE_ERROR, {"main.docs", "row 'new'", "JSON"}},
    {"INSERT INTO docs(id, vector) VALUES('new', '{\"x\":1}')", SQLITE_ERROR, {"main.docs", "row 'new'", "JSON"}},
    {"INSERT INTO docs(id, vector) VALUES('new', '[1,\"2\",3]')", SQLITE_ERROR, {"main.docs", "row 'new'", "JSON"}},
    {"INSERT INTO docs(id, vector) VALUES('new', '[1,null,3]')", SQLITE_ERROR, {"main.docs", "row 'new'", "JSON"}},
    {"INSERT INTO docs(id, vector) VALUES('new', '[1,NaN,3]')", SQLITE_ERROR, {"main.docs", "row 'new'"}},
    {"INSERT INTO docs(id, vector) VALUES('new', '[1,1e39,3]')",
     SQLITE_ERROR,
     {"main.docs", "row 'new'", "1 is 1e+39", "32-bit float"}},
    {"INSERT INTO docs(id, vector) VALUES('new', " NAN_BLOB ")",
     SQLITE_ERROR,
     {"main.docs", "row 'new'", "1 is NaN", "finite"}},
    {"INSERT INTO docs(id, vector) VALUES('new', " INFINITE_BLOB ")",
     SQLITE_ERROR,
     {"main.docs", "row 'new'", "1 is Infinity", "finite"}},
    {"INSERT INTO docs(id) VALUES('new')", SQLITE_ERROR, {"main.docs", "row 'new'", "NULL", "3 numbers", "12 bytes"}},
    {"INSERT INTO docs(id, vector) VALUES('new', NULL)",
     SQLITE_ERROR,
     {"main.docs", "row 'new'", "NULL", "3 numbers", "12 bytes"}},
    {"INSERT INTO docs(id, vector) VALUES('new', 5)", SQLITE_ERROR, {"main.docs", "row 'new'", "5", "JSON", "BLOB"}},
    {"INSERT INTO docs(vector) VALUES('[1,2,3]')", SQLITE_ERROR, {"main.docs", "id", "NULL", "text"}},
    {"INSERT INTO docs(id, vector) VALUES(x'41', '[1,2,3]')", SQLITE_ERROR, {"main.docs", "id", "BLOB", "text"}},
    {"INSERT INTO docs(rowid, id, vector) VALUES(77, 'new', '[1,2,3]')", SQLITE_ERROR, {"main.docs", "rowid", "id"}},
    {"INSERT INTO docs(id, vector, metadata) VALUES('new', '[1,2,3]', '[1]')",
     SQLITE_ERROR,
     {"main.docs", "row 'new'", "metadata", "JSON object"}},
    {"INSERT INTO docs(id, vector, metadata) VALUES('new', '[1,2,3]', 'x')",
     SQLITE_ERROR,
     {"main.docs", "row 'new'", "metadata", "JSON object"}},
    {"INSERT INTO docs(id, vector, metadata) VALUES('new', '[1,2,3]', 5)",
     SQLITE_ERROR,
     {"main.docs", "row 'new'", "metadata", "5", "JSON object"}},
    {"INSERT INTO docs(id, vector, metadata) VALUES('new', '[1,2,3]', x'00')",
     SQLITE_ERROR,
     {"main.docs", "row 'new'", "metadata", "JSON object"}},
    {"INSERT INTO docs(id, vector, delta) VALUES('new', '[1,2,3]', delta_create('[1,2,3]'))",
     SQLITE_ERROR,
     {"main.docs", "row 'new'", "vector", "delta"}},
    {"INSERT INTO docs(id, delta) VALUES('new', delta_scale(2))",
     SQLITE_ERROR,
     {"main.docs", "row 'new'", "create", "scale"}},
    {"INSERT INTO docs(id, delta) VALUES('new', delta_create('[1,2]'))",
     SQLITE_ERROR,
     {"main.docs", "row 'new'", "2 dimensions", "expected 3"}},
    {"INSERT INTO docs(id, vector, as_of) VALUES('new', '[1,2,3]', 'soon')",
     SQLITE_ERROR,
     {"main.docs", "'soon'", "milliseconds since 1970"}},
    {"INSERT INTO docs(id, vector, as_of) VALUES('new', '[1,2,3]', 1.5)",
     SQLITE_ERROR,
     {"main.docs", "1.5", "milliseconds since 1970"}},
    {"INSERT INTO docs(id, vector, as_of) VALUES('new', '[1,2,3]', 9e18)",
     SQLITE_ERROR,
     {"main.docs", "9000000000000000000", "out of range"}},
    {"INSERT INTO docs(id, vector, as_of) VALUES('gone', '[1,2,3]', 1000)",
     SQLITE_ERROR,
     {"main.docs", "row 'gone'", "1000", "older", "2000000000000"}},
    {"INSERT OR REPLACE INTO docs(id, vector, as_of) VALUES('a', '[1,2,3]', '2001-09-09')",
     SQLITE_ERROR,
     {"main.docs", "row 'a'", "older", "2000000000000"}},
    {"INSERT OR REPLACE INTO docs(id, vector) VALUES('a', '[1,2]')",
     SQLITE_ERROR,
     {"main.docs", "row 'a'", "2 dimensions", "expected 3"}},
    {"REPLACE INTO docs(id, vector, metadata) VALUES('a', '[1,2,3]', 'no')",
     SQLITE_ERROR,
     {"main.docs", "row 'a'", "metadata"}},
    {"INSERT INTO little(id, vector) VALUES('three', '[1]')", SQLITE_ERROR, {"main.little", "max_vectors=2"}},
    {"INSERT INTO little(id, vector) VALUES('two', '[1]'), ('three', '[1]')",
     SQLITE_CONSTRAINT,
     {"main.little", "row 'two' exists already"}},
    {"SELECT delta_apply('little', 'three', delta_create('[1]'))", SQLITE_ERROR, {"main.little", "max_vectors=2"}},

    {"UPDATE docs SET as_of='2100-01-01' WHERE id='a'", /* nothing happened, in silence */
     SQLITE_ERROR,
     {"main.docs", "row 'a'", "as_of is the time of a change, and nothing is changed"}},

    /* ---- columns with types */
    {"INSERT INTO items(id, embedding) VALUES('seven', '[1,2]')",
     SQLITE_ERROR,
     {"main.items", "id", "'seven'", "integer"}},
    {"INSERT INTO items(id, embedding) VALUES(1.5, '[1,2]')", SQLITE_ERROR, {"main.items", "id", "1.5", "integer"}},
    {"INSERT INTO items(id, embedding) VALUES(1, '[1,2]')", SQLITE_CONSTRAINT, {"main.items", "row 1 exists already"}},
    {"INSERT INTO items(rowid, id, embedding) VALUES(8, 9, '[1,2]')", SQLITE_ERROR, {"main.items", "8", "9"}},
    {"INSERT INTO items(id, embedding, n) VALUES(7, '[1,2]', 'many')",
     SQLITE_ERROR,
     {"main.items", "row 7", "column n", "'many'", "INTEGER"}},
    {"INSERT INTO items(id, embedding, n) VALUES(7, '[1,2]', 1.5)",
     SQLITE_ERROR,
     {"main.items", "row 7", "column n", "1.5", "INTEGER"}},
    {"INSERT INTO items(id, embedding, price) VALUES(7, '[1,2]', 'dear')",
     SQLITE_ERROR,
     {"main.items", "row 7", "column price", "'dear'", "REAL"}},
    {"INSERT INTO items(id, embedding, genre) VALUES(7, '[1,2]', x'00')",
     SQLITE_ERROR,
     {"main.items", "row 7", "column genre", "BLOB of 1 byte", "TEXT"}},
    {"INSERT INTO items(id, embedding, sold) VALUES(7, '[1,2]', 2)",
     SQLITE_ERROR,
     {"main.items", "row 7", "column sold", "2", "BOOLEAN"}},
    {"INSERT INTO items(id, embedding, raw) VALUES(7, '[1,2]', 'text')",
     SQLITE_ERROR,
     {"main.items", "row 7", "column raw", "'text'", "BLOB"}},
    {"INSERT INTO items(id, embedding, body) VALUES(7, '[1,2]', x'00')",
     SQLITE_ERROR,
     {"main.items", "row 7", "column body", "TEXT"}},
    {"UPDATE items SET n='many' WHERE id=1", SQLITE_ERROR, {"main.items", "row 1", "column n", "'many'", "INTEGER"}},
    {"UPDATE items SET embedding='[1]' WHERE id=1", SQLITE_ERROR, {"main.items", "row 1", "1 dimension", "expected 2"}},
    {"SELECT delta_apply('items', 1, delta_scale(2), NULL, '{\"n\":\"many\"}')",
     SQLITE_ERROR,
     {"main.items", "row 1", "column n", "'many'", "INTEGER"}},
    {"SELECT delta_apply('items', 1, delta_scale(2), NULL, '{\"colour\":1}')",
     SQLITE_ERROR,
     {"main.items", "row 1", "column", "colour"}},
    {"SELECT delta_apply('items', 'one', delta_scale(2))", SQLITE_ERROR, {"main.items", "'one'", "integer"}},

    /* ---- UPDATE, DELETE */
    {"UPDATE docs SET id='b' WHERE id='a'",
     SQLITE_ERROR,
     {"main.docs", "row 'a'", "id cannot be changed", "INSERT", "DELETE"}},
    {"UPDATE docs SET id=NULL WHERE id='a'", SQLITE_ERROR, {"main.docs", "row 'a'", "id cannot be changed"}},
    {"UPDATE docs SET rowid=99 WHERE id='a'", SQLITE_ERROR, {"main.docs", "row 'a'", "id cannot be changed"}},
    {"UPDATE items SET id=99 WHERE id=1", SQLITE_ERROR, {"main.items", "row 1", "id cannot be changed"}},
    {"UPDATE docs SET vector='[1,2]'", SQLITE_ERROR, {"main.docs", "row 'a'", "2 dimensions", "expected 3"}},
    {"UPDATE docs SET vector=NULL WHERE id='a'",
     SQLITE_ERROR,
     {"main.docs", "row 'a'", "NULL", "3 numbers", "12 bytes"}},
    {"UPDATE docs SET vector=CASE id WHEN 'b' THEN 'x' ELSE '[1,2,3]' END", SQLITE_ERROR, {"main.docs", "row 'b'"}},
    {"UPDATE docs SET metadata='no'", SQLITE_ERROR, {"main.docs", "row 'a'", "metadata", "JSON object"}},
    {"UPDATE docs SET delta=delta_scale(3e38) WHERE id='b'",
     SQLITE_ERROR,
     {"main.docs", "row 'b'", "scale", "overflow", "dimension 1"}},
    {"UPDATE docs SET delta=delta_offset(3.4e38) WHERE id='big'",
     SQLITE_ERROR,
     {"main.docs", "row 'big'", "offset", "overflow", "dimension 0"}},
    {"UPDATE docs SET delta=delta_sparse('[3]', '[1]') WHERE id='a'",
     SQLITE_ERROR,
     {"main.docs", "row 'a'", "index 3", "3 dimensions", "0 to 2"}},
    {"UPDATE docs SET delta=delta_sparse('[0,4294967295]', '[1,1]') WHERE id='a'", SQLITE_ERROR, {"index 4294967295"}},
    {"UPDATE docs SET delta=delta_dense('[1,2]') WHERE id='a'",
     SQLITE_ERROR,
     {"main.docs", "row 'a'", "dense", "2 dimensions", "expected 3"}},
    {"UPDATE docs SET delta=delta_diff('[1,2,3,4]', '[1,2,3,5]') WHERE id='a'",
     SQLITE_ERROR,
     {"main.docs", "row 'a'", "3"}},
    {"UPDATE docs SET delta=delta_create('[1,2,3]') WHERE id='a'",
     SQLITE_CONSTRAINT,
     {"main.docs", "row 'a' exists already", "delta other than create"}},
    {"UPDATE docs SET delta='scale' WHERE id='a'", SQLITE_ERROR, {"main.docs", "row 'a'", "'scale'", "delta_sparse()"}},
    {"UPDATE docs SET delta=x'00' WHERE id='a'",
     SQLITE_ERROR,
     {"main.docs", "row 'a'", "BLOB of 1 byte", "delta_sparse()"}},
    {"UPDATE docs SET delta=CAST(delta_scale(2) || x'00' AS BLOB) WHERE id='a'",
     SQLITE_ERROR,
     {"main.docs", "row 'a'", "delta_sparse()"}},
    {"UPDATE docs SET delta=delta_export('docs', 0) WHERE id='a'",
     SQLITE_ERROR,
     {"main.docs", "row 'a'", "delta_sparse()"}},
    {"UPDATE docs SET delta=delta_scale(2), vector='[1,2,3]' WHERE id='a'",
     SQLITE_ERROR,
     {"main.docs", "row 'a'", "vector", "delta", "set one"}},
    {"UPDATE docs SET delta=delta_scale(2), as_of=5 WHERE id='a'",
     SQLITE_ERROR,
     {"main.docs", "row 'a'", "timestamp 5 is older", "2000000000000"}},
    {"UPDATE docs SET metadata='{}', as_of='1999-12-31T23:59:59Z' WHERE id='a'",
     SQLITE_ERROR,
     {"main.docs", "row 'a'", "946684799000 is older"}},
    {"UPDATE docs SET metadata='{}', as_of='then' WHERE id='a'",
     SQLITE_ERROR,
     {"main.docs", "'then'", "milliseconds since 1970"}},
    {"UPDATE docs SET metadata='{}', as_of=x'00' WHERE id='a'",
     SQLITE_ERROR,
     {"main.docs", "BLOB of 1 byte", "milliseconds since 1970"}},

    /* ---- delta_apply */
    {"SELECT delta_apply('docs', 'nobody', delta_scale(2))",
     SQLITE_ERROR,
     {"main.docs", "row 'nobody' does not exist", "INSERT", "scale"}},
    {"SELECT delta_apply('docs', 'nobody', delta_offset(2))",
     SQLITE_ERROR,
     {"main.docs", "row 'nobody' does not exist", "INSERT", "offset"}},
    {"SELECT delta_apply('docs', 'nobody', delta_sparse('[0]', '[1]'))",
     SQLITE_ERROR,
     {"main.docs", "row 'nobody' does not exist", "sparse"}},
    {"SELECT delta_apply('docs', 'nobody', delta_dense('[1,2,3]'))",
     SQLITE_ERROR,
     {"main.docs", "row 'nobody' does not exist", "dense"}},
    {"SELECT delta_apply('docs', 'nobody', delta_delete())",
     SQLITE_ERROR,
     {"main.docs", "row 'nobody' does not exist", "delete"}},
    {"SELECT delta_apply('docs', 'gone', delta_scale(2))",
     SQLITE_ERROR,
     {"main.docs", "row 'gone' does not exist", "scale"}},
    {"SELECT delta_apply('docs', 'gone', delta_delete())",
     SQLITE_ERROR,
     {"main.docs", "row 'gone' does not exist", "delete"}},
    {"SELECT delta_apply('docs', 'a', delta_create('[1,2,3]'))",
     SQLITE_CONSTRAINT,
     {"main.docs", "row 'a' exists already", "delta other than create"}},
    {"SELECT delta_apply('docs', 'a', delta_dense('[1,2,3,4]'))",
     SQLITE_ERROR,
     {"main.docs", "row 'a'", "4 dimensions", "expected 3"}},
    {"SELECT delta_apply('docs', 'a', delta_sparse('[0,7]', '[1,1]'))",
     SQLITE_ERROR,
     {"main.docs", "row 'a'", "index 7", "0 to 2"}},
    {"SELECT delta_apply('docs', 'big', delta_scale(2))",
     SQLITE_ERROR,
     {"main.docs", "row 'big'", "dimension 0", "overflow"}},
    {"SELECT delta_apply('docs', NULL, delta_scale(2))", SQLITE_ERROR, {"main.docs", "NULL", "text"}},
    {"SELECT delta_apply('docs', x'41', delta_scale(2))", SQLITE_ERROR, {"main.docs", "BLOB of 1 byte", "text"}},
    {"SELECT delta_apply('docs', 'a', NULL)", SQLITE_ERROR, {"main.docs", "row 'a'", "NULL", "delta_scale(0.9)"}},
    {"SELECT delta_apply('docs', 'a', '[1,2,3]')",
     SQLITE_ERROR,
     {"main.docs", "row 'a'", "'[1,2,3]'", "delta_scale(0.9)"}},
    {"SELECT delta_apply('docs', 'a', vector_f32('[1,2,3]'))",
     SQLITE_ERROR,
     {"main.docs", "row 'a'", "BLOB of 12 bytes", "delta_scale(0.9)"}},
    {"SELECT delta_apply('docs', 'a', substr(delta_scale(2), 1, 9))",
     SQLITE_ERROR,
     {"main.docs", "row 'a'", "delta_scale(0.9)"}},
    {"SELECT delta_apply('docs', 'a', delta_scale(2), 5)",
     SQLITE_ERROR,
     {"main.docs", "row 'a'", "timestamp 5 is older", "2000000000000"}},
    {"SELECT delta_apply('docs', 'a', delta_scale(2), 'noon')",
     SQLITE_ERROR,
     {"main.docs", "'noon'", "milliseconds since 1970"}},
    {"SELECT delta_apply('docs', 'a', delta_scale(2), 99999999999999999)",
     SQLITE_ERROR,
     {"main.docs", "99999999999999999", "out of range"}},
    {"SELECT delta_apply('docs', 'a', delta_scale(2), NULL, '{\"x\":')",
     SQLITE_ERROR,
     {"main.docs", "row 'a'", "metadata patch", "JSON"}},
    {"SELECT delta_apply('docs', 'a', delta_scale(2), NULL, '[1]')",
     SQLITE_ERROR,
     {"main.docs", "row 'a'", "metadata patch", "JSON object"}},
    {"SELECT delta_apply('nowhere', 'a', delta_scale(2))", SQLITE_ERROR, {"no such table: nowhere"}},
    {"SELECT delta_apply('main.nowhere', 'a', delta_scale(2))", SQLITE_ERROR, {"no such table: main.nowhere"}},
    {"SELECT delta_apply('plain', 'a', delta_scale(2))", SQLITE_ERROR, {"plain is not a delta_vectors table"}},
    {"SELECT delta_apply(NULL, 'a', delta_scale(2))", SQLITE_ERROR, {"table name is NULL"}},
    {"SELECT delta_apply('', 'a', delta_scale(2))", SQLITE_ERROR, {"no such table"}},
    {"SELECT delta_apply('docs', id, delta_scale(3e38)) FROM docs WHERE id IN ('big')",
     SQLITE_ERROR,
     {"main.docs", "row 'big'", "overflow"}},

    /* ---- batches and exports */
    {"SELECT delta_apply_batch('docs', NULL)", SQLITE_ERROR, {"main.docs", "NULL", "BLOB of frames"}},
    {"SELECT delta_apply_batch('docs', 'text')", SQLITE_ERROR, {"main.docs", "'text'", "BLOB of frames"}},
    {"SELECT delta_apply_batch('docs', x'00')", SQLITE_ERROR, {"main.docs", "frame 1", "byte 0", "not a frame"}},
    {"SELECT delta_apply_batch('docs', delta_scale(2))",
     SQLITE_ERROR,
     {"main.docs", "frame 1", "names no row", "delta_pack"}},
    {"SELECT delta_apply_batch('docs', CAST(delta_pack('a', delta_scale(2)) || delta_pack('nobody', delta_scale(2)) AS "
     "BLOB))",
     SQLITE_ERROR,
     {"main.docs", "row 'nobody' does not exist"}},
    {"SELECT delta_apply_batch('docs', CAST(delta_pack('a', delta_scale(2)) || x'7ade01' AS BLOB))",
     SQLITE_ERROR,
     {"main.docs", "frame 2", "damaged"}},
    {"SELECT delta_apply_batch('docs', CAST(delta_pack('a', delta_scale(2)) || substr(delta_pack('b', delta_scale(2)), "
     "1, 12) AS BLOB))",
     SQLITE_ERROR,
     {"main.docs", "frame 2", "damaged"}},
    {"SELECT delta_apply_batch('docs', CAST(delta_pack('a', delta_scale(2)) || delta_pack('big', delta_scale(2)) AS "
     "BLOB))",
     SQLITE_ERROR,
     {"main.docs", "row 'big'", "overflow"}},
    {"SELECT delta_apply_batch('docs', CAST(delta_pack('a', delta_scale(2)) || delta_pack(5, delta_scale(2)) AS BLOB))",
     SQLITE_ERROR,
     {"main.docs", "frame 2", "id", "text"}},
    {"SELECT delta_apply_batch('items', delta_pack('a', delta_scale(2)))",
     SQLITE_ERROR,
     {"main.items", "frame 1", "id", "integer"}},
    {"SELECT delta_apply_batch('docs', CAST(delta_pack('new', delta_create('[1,2,3]')) || delta_pack('new', "
     "delta_create('[1,2,3]')) AS BLOB))",
     SQLITE_CONSTRAINT,
     {"main.docs", "row 'new' exists already"}},
    {"SELECT delta_import('docs', NULL)", SQLITE_ERROR, {"main.docs", "NULL", "delta_export"}},
    {"SELECT delta_import('docs', x'')", SQLITE_ERROR, {"main.docs", "delta_export"}},
    {"SELECT delta_import('docs', x'7ade0100')", SQLITE_ERROR, {"main.docs", "delta_export"}},
    {"SELECT delta_import('docs', delta_scale(2))", SQLITE_ERROR, {"main.docs", "delta_export"}},
    {"SELECT delta_import('docs', substr(x, 1, length(x)-1)) FROM export",
     SQLITE_ERROR,
     {"main.docs", "frame", "damaged or cut off", "nothing was imported"}},
    {"SELECT delta_import('docs', substr(x, 1, 60)) FROM export", SQLITE_ERROR, {"main.docs"}},
    {"SELECT delta_import('docs', CAST(substr(x, 1, length(x)-9) || x'00' || substr(x, -8) AS BLOB)) FROM export",
     SQLITE_ERROR,
     {"main.docs", "frame", "damaged"}},
    {"SELECT delta_import('docs', CAST(x || x'00' AS BLOB)) FROM export", SQLITE_ERROR, {"main.docs", "frame"}},
    {"SELECT delta_import('docs', CAST(x || x AS BLOB)) FROM export",
     SQLITE_ERROR,
     {"main.docs", "frame", "second header"}},
    {"SELECT delta_import('items', x) FROM export", SQLITE_ERROR, {"main.items", "3 dimensions", "expected 2"}},
    {"SELECT delta_import('docs', delta_export('other', 2))",
     SQLITE_ERROR,
     {"main.docs", "begins behind seq 2", "only up to seq 0"}},
    {"SELECT delta_import('strict', x) FROM export", SQLITE_ERROR, {"main.strict", "metadata"}},
    {"SELECT delta_import('nowhere', x) FROM export", SQLITE_ERROR, {"no such table: nowhere"}},
    {"SELECT delta_export('docs', 'one')", SQLITE_ERROR, {"main.docs", "'one'", "seq"}},
    {"SELECT delta_export('plain')", SQLITE_ERROR, {"plain is not a delta_vectors table"}},

    /* ---- search */
    {"SELECT id FROM docs WHERE vector MATCH '[1,2]' AND k=5",
     SQLITE_ERROR,
     {"main.docs", "query", "2 dimensions", "expected 3"}},
    {"SELECT id FROM docs WHERE vector MATCH zeroblob(16) AND k=5",
     SQLITE_ERROR,
     {"main.docs", "query", "4 dimensions", "expected 3"}},
    {"SELECT id FROM docs WHERE vector MATCH NULL AND k=5", SQLITE_ERROR, {"main.docs", "query", "NULL"}},
    {"SELECT id FROM docs WHERE vector MATCH 'near a' AND k=5", SQLITE_ERROR, {"main.docs", "query", "JSON"}},
    {"SELECT id FROM docs WHERE vector MATCH " NAN_BLOB " AND k=5", SQLITE_ERROR, {"main.docs", "query", "NaN"}},
    {"SELECT id FROM docs WHERE vector MATCH '[1,2,3]' AND k=-1", SQLITE_ERROR, {"main.docs", "k is -1", "0 or more"}},
    {"SELECT id FROM docs WHERE vector MATCH '[1,2,3]' AND k=2.5",
     SQLITE_ERROR,
     {"main.docs", "k is 2.5", "whole number"}},
    {"SELECT id FROM docs WHERE vector MATCH '[1,2,3]' AND k='ten'",
     SQLITE_ERROR,
     {"main.docs", "k is 'ten'", "whole number"}},
    {"SELECT id FROM docs WHERE vector MATCH '[1,2,3]' AND k=NULL",
     SQLITE_ERROR,
     {"main.docs", "k is NULL", "whole number"}},
    {"SELECT id FROM docs WHERE k=5", SQLITE_ERROR, {"main.docs", "k needs a query", "MATCH"}},
    {"SELECT id FROM docs WHERE vector MATCH '[1,2,3]' AND k<=5",
     SQLITE_ERROR,
     {"main.docs", "k takes only =", "k = 10"}},
    {"SELECT id FROM docs WHERE vector MATCH '[1,2,3]' AND k BETWEEN 1 AND 5", SQLITE_ERROR, {"main.docs", "k takes"}},
    {"SELECT id FROM docs WHERE vector MATCH '[1,2,3]' AND k<>5", SQLITE_ERROR, {"main.docs", "k takes only ="}},
    {"SELECT id FROM docs WHERE vector MATCH '[1,2,3]' AND vector MATCH '[1,0,0]' AND k=1",
     SQLITE_ERROR,
     {"main.docs", "a search has one query", "WHERE vector MATCH :query"}},
    {"SELECT id FROM docs('[1,2,3]') WHERE vector MATCH '[1,0,0]'", SQLITE_ERROR, {"a search has one query"}},
    {"SELECT id FROM docs('[1,2,3]', 2, '{\"exact\":true}')", /* its third argument is the next hidden column */
     SQLITE_ERROR,
     {"main.docs", "distance is compared with '{\"exact\":true}'", "number"}},
    {"SELECT id FROM docs WHERE vector MATCH '[1,2,3]' AND distance = 'near'",
     SQLITE_ERROR,
     {"main.docs", "distance is compared with 'near'", "number"}},
    {"SELECT id FROM docs WHERE vector MATCH zeroblob(24) AND k=5", /* somebody's array of doubles */
     SQLITE_ERROR,
     {"main.docs", "query", "6 dimensions", "expected 3", "64-bit floats: 32-bit ones"}},
    {"SELECT id FROM docs WHERE distance<3",
     SQLITE_ERROR,
     {"main.docs", "distance needs a query", "WHERE vector MATCH :query"}},
    {"SELECT id FROM items WHERE 3 > distance AND n = 5",
     SQLITE_ERROR,
     {"main.items", "distance needs a query", "WHERE embedding MATCH :query"}},
    {"SELECT id FROM docs WHERE id = 'a' AND distance BETWEEN 0 AND 3", SQLITE_ERROR, {"distance needs a query"}},
    {"SELECT id FROM docs WHERE distance = 0", SQLITE_ERROR, {"main.docs", "distance needs a query"}},
    {"SELECT id FROM docs WHERE distance <> 0", SQLITE_ERROR, {"main.docs", "distance needs a query"}},
    {"SELECT id FROM docs ORDER BY distance LIMIT 2", SQLITE_ERROR, {"main.docs", "distance needs a query", "MATCH"}},
    {"SELECT id FROM docs WHERE as_of = 5000 ORDER BY distance DESC, id", SQLITE_ERROR, {"distance needs a query"}},
    {"SELECT id FROM docs WHERE id IN (SELECT id FROM docs WHERE vector MATCH '[1,2,3]' AND k=1) ORDER BY distance",
     SQLITE_ERROR,
     {"main.docs", "distance needs a query"}},
    {"SELECT d.id FROM (SELECT 5 AS far) AS s, docs AS d WHERE d.distance < s.far",
     SQLITE_ERROR,
     {"main.docs", "distance needs a query"}},
    {"SELECT id FROM docs WHERE vector MATCH '[1,2,3]' AND k=1 UNION ALL SELECT id FROM docs WHERE distance < 2",
     SQLITE_ERROR,
     {"main.docs", "distance needs a query"}},
    {"DELETE FROM docs WHERE distance > 0.5", SQLITE_ERROR, {"main.docs", "distance needs a query"}},
    {"UPDATE docs SET delta = delta_scale(2) WHERE distance > 0.5", SQLITE_ERROR, {"distance needs a query"}},
    {"SELECT id FROM docs WHERE as_of IS 5000", SQLITE_ERROR, {"main.docs", "as_of takes only =", "as_of = :time"}},
    {"SELECT id FROM docs WHERE vector MATCH '[1,2,3]' AND k IS 5", SQLITE_ERROR, {"main.docs", "k takes only ="}},
    {"SELECT id FROM docs WHERE as_of<5000", SQLITE_ERROR, {"main.docs", "as_of takes only =", "as_of = :time"}},
    {"SELECT d.id FROM (SELECT 5000 AS t) AS s, docs AS d WHERE d.as_of>=s.t", SQLITE_ERROR, {"as_of takes only ="}},
    {"SELECT id FROM docs WHERE vector MATCH '[1,2,3]' AND k=5 AND as_of='soon'",
     SQLITE_ERROR,
     {"main.docs", "'soon'", "milliseconds since 1970"}},
    {"SELECT id FROM docs WHERE as_of=x'00'", SQLITE_ERROR, {"main.docs", "BLOB of 1 byte", "milliseconds since 1970"}},
    {"SELECT id FROM docs WHERE vector MATCH '[1,2,3]' AND distance < 'far'",
     SQLITE_ERROR,
     {"main.docs", "distance", "'far'", "number"}},
    {"SELECT id FROM docs('[1,2]', 5)", SQLITE_ERROR, {"main.docs", "query", "2 dimensions", "expected 3"}},
    {"SELECT id FROM docs('[1,2,3]', '{\"k\":-5}')", SQLITE_ERROR, {"main.docs", "k is -5"}},
    {"SELECT id FROM docs('[1,2,3]', '{\"near\":5}')",
     SQLITE_ERROR,
     {"main.docs", "unknown search option near", "max_distance"}},
    {"SELECT * FROM vector_search('docs', '[1,2]', 5)",
     SQLITE_ERROR,
     {"main.docs", "query", "2 dimensions", "expected 3"}},
    {"SELECT * FROM vector_search('docs', NULL, 5)", SQLITE_ERROR, {"main.docs", "query", "NULL"}},
    {"SELECT * FROM vector_search('docs', '[1,2,3]', -5)", SQLITE_ERROR, {"main.docs", "k is -5", "0 or more"}},
    {"SELECT * FROM vector_search('docs', '[1,2,3]', 'x')", SQLITE_ERROR, {"main.docs", "k is 'x'", "whole number"}},
    {"SELECT * FROM vector_search('docs', '[1,2,3]', 5, '{\"probes\":3}')",
     SQLITE_ERROR,
     {"main.docs", "unknown search option probes", "ef", "exact", "recall_target"}},
    {"SELECT * FROM vector_search('docs', '[1,2,3]', 5, 'ef=3')",
     SQLITE_ERROR,
     {"main.docs", "the argument options is not a JSON object"}},
    {"SELECT * FROM vector_search('docs', '[1,2,3]', 5, '[3]')",
     SQLITE_ERROR,
     {"main.docs", "the argument options is a JSON array, expected a JSON object"}},
    {"SELECT * FROM vector_search('docs', '[1,2,3]', 5, '{\"ef\":0}')",
     SQLITE_ERROR,
     {"main.docs", "ef is 0", "1 to 100000"}},
    {"SELECT * FROM vector_search('docs', '[1,2,3]', 5, '{\"exact\":\"very\"}')",
     SQLITE_ERROR,
     {"main.docs", "exact is 'very'", "true or false"}},
    {"SELECT * FROM vector_search('docs', '[1,2,3]', 5, '{\"recall_target\":2}')",
     SQLITE_ERROR,
     {"main.docs", "recall_target is 2", "at most 1"}},
    {"SELECT * FROM vector_search('docs', '[1,2,3]', 5, '{\"max_distance\":\"far\"}')",
     SQLITE_ERROR,
     {"main.docs", "max_distance is 'far'", "number"}},
    {"SELECT * FROM vector_search('docs', '[1,2,3]', 5, '{\"as_of\":\"soon\"}')",
     SQLITE_ERROR,
     {"main.docs", "'soon'", "milliseconds since 1970"}},
    {"SELECT * FROM vector_search('docs', '[1,2,3]', 5, '{\"ef\":')",
     SQLITE_ERROR,
     {"main.docs", "argument options", "JSON"}},
    {"SELECT * FROM vector_search('docs', '[1,2,3]', 5, '[]')",
     SQLITE_ERROR,
     {"main.docs", "argument options", "JSON object"}},
    {"SELECT * FROM vector_search('docs')", SQLITE_ERROR, {"vector_search needs a table and a query", "10"}},
    {"SELECT * FROM vector_search", SQLITE_ERROR, {"vector_search needs a table and a query", "10"}},
    {"SELECT * FROM vector_search('nowhere', '[1,2,3]', 5)", SQLITE_ERROR, {"no such table: nowhere"}},
    {"SELECT * FROM vector_search('plain', '[1,2,3]', 5)", SQLITE_ERROR, {"plain is not a delta_vectors table"}},
    {"SELECT * FROM vector_search(NULL, '[1,2,3]', 5)", SQLITE_ERROR, {"table name is NULL"}},

    /* ---- history */
    {"SELECT vector_at('nowhere', 'a')", SQLITE_ERROR, {"no such table: nowhere"}},
    {"SELECT vector_at('docs', 'a', 'soon')", SQLITE_ERROR, {"main.docs", "'soon'", "milliseconds since 1970"}},
    {"SELECT * FROM delta_chain('nowhere', 'a')", SQLITE_ERROR, {"no such table: nowhere"}},
    {"SELECT * FROM delta_chain('docs')", SQLITE_ERROR, {"delta_chain", "table", "id"}},
    {"SELECT * FROM delta_log", SQLITE_ERROR, {"delta_log", "table"}},
    {"SELECT * FROM delta_log('plain')", SQLITE_ERROR, {"plain is not a delta_vectors table"}},
    {"SELECT * FROM delta_log('docs', 'x')", SQLITE_ERROR, {"main.docs", "'x'", "seq"}},
    {"SELECT delta_rollback('docs', 'nobody', 1)", SQLITE_ERROR, {"main.docs", "row 'nobody'"}},
    {"SELECT delta_rollback('docs', 'a', 2)", SQLITE_ERROR, {"main.docs", "row 'a'", "2"}},
    {"SELECT delta_rollback('docs', 'a', 9999)", SQLITE_ERROR, {"main.docs", "row 'a'", "9999"}},
    {"SELECT delta_rollback('docs', 'a', 'x')", SQLITE_ERROR, {"main.docs", "'x'", "seq"}},
    {"SELECT delta_rollback('docs', 'a', NULL)", SQLITE_ERROR, {"main.docs", "NULL", "seq"}},
    {"SELECT delta_compact('docs', '{\"days\":5}')", SQLITE_ERROR, {"main.docs", "unknown option", "days", "keep"}},
    {"SELECT delta_compact('docs', '{\"keep\":\"a while\"}')",
     SQLITE_ERROR,
     {"main.docs", "keep is 'a while'", "'90 days'"}},
    {"SELECT delta_compact('docs', '{\"keep\":5}')", SQLITE_ERROR, {"main.docs", "keep is 5", "'90 days'"}},
    {"SELECT delta_compact('docs', '{\"id\":\"nobody\"}')", SQLITE_ERROR, {"main.docs", "'nobody'"}},
    {"SELECT delta_compact('docs', '{\"id\":[1]}')", SQLITE_ERROR, {"main.docs", "'[1]'", "row"}},
    {"SELECT delta_compact('docs', '{')", SQLITE_ERROR, {"main.docs", "JSON"}},
    {"SELECT delta_compact('docs', 5)", SQLITE_ERROR, {"main.docs", "JSON object"}},
    {"SELECT delta_compact('nowhere')", SQLITE_ERROR, {"no such table: nowhere"}},
    {"SELECT delta_status('nowhere')", SQLITE_ERROR, {"no such table: nowhere"}},
    {"SELECT delta_recall('docs', 0, 10)", SQLITE_ERROR, {"main.docs", "0", "1 to"}},
    {"SELECT delta_recall('docs', 10, 'x')", SQLITE_ERROR, {"main.docs", "'x'", "1 to"}},

    /* ---- commands */
    {"INSERT INTO docs(docs, id, vector) VALUES('optimize', 'new', '[1,2,3]')",
     SQLITE_ERROR,
     {"main.docs", "a command takes nothing but itself", "id"}},
    {"INSERT INTO docs(docs, metadata) VALUES('optimize', '{}')",
     SQLITE_ERROR,
     {"main.docs", "a command takes nothing but itself", "metadata"}},
    {"UPDATE docs SET docs='optimize'",
     SQLITE_ERROR,
     {"main.docs", "hidden column docs", "INSERT INTO \"docs\"(\"docs\") VALUES('optimize')"}},
    {"INSERT INTO docs(docs) VALUES('optimise')",
     SQLITE_ERROR,
     {"main.docs", "unknown command 'optimise'", "'optimize'", "'rebuild'"}},
    {"INSERT INTO docs(docs) VALUES(5)", SQLITE_ERROR, {"main.docs", "unknown command 5", "'optimize'"}},
    {"INSERT INTO docs(docs) VALUES(x'00')",
     SQLITE_ERROR,
     {"main.docs", "unknown command BLOB of 1 byte", "'optimize'"}},
    {"INSERT INTO docs(docs) VALUES('hnsw_ef_search=0')", SQLITE_ERROR, {"main.docs", "hnsw_ef_search", "1 to 100000"}},
    {"INSERT INTO docs(docs) VALUES('hnsw_ef_search=many')",
     SQLITE_ERROR,
     {"main.docs", "hnsw_ef_search", "many", "1 to 100000"}},
    {"INSERT INTO docs(docs) VALUES('hnsw_ef_search=')", SQLITE_ERROR, {"main.docs", "hnsw_ef_search", "1 to 100000"}},

    /* ---- making and dropping */
    {"CREATE VIRTUAL TABLE t USING delta_vectors", SQLITE_ERROR, {"main.t", "dimensions"}},
    {"CREATE VIRTUAL TABLE t USING delta_vectors(dimensions=0)",
     SQLITE_ERROR,
     {"main.t", "dimensions", "0", "1 to 65536"}},
    {"CREATE VIRTUAL TABLE t USING delta_vectors(dimensions=3, metrik=l2)",
     SQLITE_ERROR,
     {"main.t", "metrik", "metric"}},
    {"CREATE VIRTUAL TABLE t USING delta_vectors(dimensions=3, metric=l3)",
     SQLITE_ERROR,
     {"main.t", "metric", "l3", "cosine"}},
    {"CREATE VIRTUAL TABLE docs USING delta_vectors(dimensions=3)", SQLITE_ERROR, {"docs", "already exists"}},
    {"ALTER TABLE docs RENAME TO items", SQLITE_ERROR, {"items"}},
    {"ALTER TABLE docs ADD COLUMN x", SQLITE_ERROR, {"virtual"}},
};
#define N_REFUSALS (int)(sizeof refusals / sizeof refusals[0])

static sqlite3 *db;

static void set_up(void) {
  sql_setup();
  db = sql_open(sql_path("test.db"));
  sql_run(db, "CREATE VIRTUAL TABLE docs USING delta_vectors(dimensions=3, metric=l2)");
  sql_run(db, "INSERT INTO docs(id, vector, metadata, as_of) VALUES('a', '[1,0,0]', '{\"n\":1}', 1000000000000), ('b', "
              "'[0,2,0]', NULL, 1000000000000),"
              " ('big', '[3e38,0,0]', NULL, 1000000000000), ('gone', '[5,5,5]', NULL, 1000000000000)");
  sql_run(db, "SELECT delta_apply('docs', 'a', delta_sparse('[1]', '[0.5]'), 2000000000000), delta_apply('docs', "
              "'gone', delta_delete(), 2000000000000)");
  sql_run(db, "CREATE VIRTUAL TABLE items USING delta_vectors(id INTEGER PRIMARY KEY, embedding FLOAT[2], n INTEGER "
              "PARTITION KEY, genre TEXT,"
              " price REAL, sold BOOLEAN, raw BLOB, +body TEXT);"
              "INSERT INTO items(id, embedding, n, body) VALUES(1, '[1,2]', 5, 'text')");
  sql_run(db, "CREATE VIRTUAL TABLE little USING delta_vectors(dimensions=1, max_vectors=2); INSERT INTO little(id, "
              "vector) VALUES('one', '[1]'), ('two', '[2]')");
  sql_run(db, "CREATE VIRTUAL TABLE strict USING delta_vectors(id TEXT PRIMARY KEY, vector FLOAT[3], colour TEXT)");
  sql_run(
      db,
      "CREATE VIRTUAL TABLE other USING delta_vectors(dimensions=3); INSERT INTO other(id, vector, metadata) VALUES"
      "('p', '[1,1,1]', '{\"x\":1}'), ('q', '[2,2,2]', '{}'), ('r', '[3,3,3]', NULL); DELETE FROM other WHERE id='r'");
  sql_run(db, "CREATE TABLE export AS SELECT delta_export('other', 0) AS x; CREATE TABLE plain(x)");
}

static void tear_down(void) {
  sql_close(db);
  sql_teardown();
}

static char *everything(void) {
  static const char *const tables[] = {"docs", "items", "little", "strict", "other"};
  char *all = sqlite3_mprintf("schema: %s\n", sql_rows(db, "SELECT name, sql FROM sqlite_schema ORDER BY name"));
  for (size_t i = 0; i < sizeof tables / sizeof tables[0]; i++) {
    char *one = sql_dump(db, "main", tables[i]);
    all = sqlite3_mprintf("%z== %s\n%s", all, tables[i], one);
    free(one);
  }
  return all;
}

static void assert_refused(const refusal *r) {
  char *before = everything();
  const char *message = sql_fails(db, r->rc, "", "%s", r->sql);
  if (getenv("DV_SHOW_MESSAGES") && sqlite3_get_autocommit(db)) fprintf(stderr, "%s\n  %s\n", r->sql, message);
  for (size_t i = 0; i < sizeof r->parts / sizeof r->parts[0] && r->parts[i]; i++) {
    ck_assert_msg(strstr(message, r->parts[i]) != NULL, "%s\n  says:  %s\n  lacks: %s", r->sql, message, r->parts[i]);
  }
  char *after = everything();
  if (strcmp(before, after) != 0) {
    size_t at = 0;
    while (before[at] == after[at]) at++;
    at = at > 200 ? at - 200 : 0;
    ck_abort_msg("%s\nchanged something: before\n…%.600s\nafter\n…%.600s", r->sql, before + at, after + at);
  }
  sqlite3_free(before);
  sqlite3_free(after);
}

/* A statement is refused: the message helps, and nothing has changed. */
START_TEST(refusal_in_autocommit_mode) {
  assert_refused(&refusals[_i]);
  ck_assert_int_eq(sqlite3_get_autocommit(db), 1);
  sql_run(
      db,
      "INSERT INTO docs(id, vector) VALUES('after', '[1,2,3]'); SELECT delta_apply('docs', 'after', delta_scale(2))");
  sql_is(db, "a b big after", "SELECT id FROM docs");
  sql_agrees(db);
}
END_TEST

/* The same inside BEGIN, with changes that are not committed yet: they stay, and are committed. */
START_TEST(refusal_inside_a_transaction) {
  sql_run(db, "BEGIN; INSERT INTO docs(id, vector) VALUES('before', '[1,2,3]'); UPDATE docs SET metadata='{\"n\":2}', "
              "as_of=2000000000000 WHERE id='a';"
              "UPDATE items SET n=6; UPDATE little SET delta=delta_scale(2)");
  assert_refused(&refusals[_i]);
  ck_assert_int_eq(sqlite3_get_autocommit(db), 0);
  sql_run(db, "SAVEPOINT s; DELETE FROM docs WHERE id='before'");
  assert_refused(&refusals[_i]);
  sql_run(db, "ROLLBACK TO s");
  sql_run(db, "INSERT INTO docs(id, vector) VALUES('after', '[1,2,3]'); SELECT delta_apply('docs', 'after', "
              "delta_scale(2)); COMMIT");
  sql_is(db, "a|{\"n\":2} b|NULL big|NULL before|NULL after|NULL", "SELECT id, metadata FROM docs");
  sql_is(db, "6", "SELECT n FROM items");
  sql_agrees(db);
}
END_TEST

/* ---- what is no error -------------------------------------------------------------------------------------------- */

/* A table without rows answers every question with nothing. */
START_TEST(empty_table_gives_nothing) {
  sql_is(db, "", "SELECT * FROM strict");
  sql_is(db, "", "SELECT id FROM strict WHERE vector MATCH '[1,2,3]' AND k=5");
  sql_is(db, "", "SELECT id FROM strict WHERE vector MATCH '[1,2,3]' ORDER BY distance LIMIT 5");
  sql_is(db, "", "SELECT id FROM strict WHERE vector MATCH '[1,2,3]' AND distance < 1");
  sql_is(db, "", "SELECT id FROM strict WHERE vector MATCH '[1,2,3]' AND k=5 AND as_of=0");
  sql_is(db, "", "SELECT id FROM vector_search('strict', '[1,2,3]', 5)");
  sql_is(db, "", "SELECT * FROM delta_log('strict', 0)");
  sql_is(db, "", "SELECT * FROM delta_chain('strict', 'a')");
  sql_is(db, "NULL", "SELECT vector_at('strict', 'a')");
  sql_is(db, "NULL", "SELECT vector_at('strict', 'a', 0)");
  sql_is(db, "0", "SELECT json_extract(delta_status('strict'), '$.rows')");
  sql_is(db, "0", "SELECT json_extract(delta_compact('strict'), '$.rows')");
  sql_is(db, "0", "SELECT json_extract(delta_import('strict', delta_export('strict', 0)), '$.applied')");
  sql_run(db, "SELECT delta_recall('strict', 10, 10); INSERT INTO strict(strict) VALUES('optimize'); INSERT INTO "
              "strict(strict) VALUES('rebuild')");
  sql_run(db, "UPDATE strict SET delta=delta_scale(2); DELETE FROM strict");
  sql_sound_at(__LINE__, db, "main", "strict");
}
END_TEST

/* Asking for what is not there is no error either. */
START_TEST(questions_without_an_answer) {
  sql_is(db, "", "SELECT * FROM docs WHERE id='nobody'");
  sql_is(db, "", "SELECT * FROM docs WHERE id=NULL");
  sql_is(db, "", "SELECT * FROM docs WHERE rowid=99 OR rowid=-1 OR rowid='x'");
  sql_is(db, "", "SELECT * FROM items WHERE id='one'");
  sql_is(db, "", "SELECT id FROM docs WHERE vector MATCH '[1,2,3]' AND k=0");
  sql_is(db, "", "SELECT id FROM docs WHERE vector MATCH '[1,2,3]' AND k=5 AND distance < NULL");
  sql_is(db, "", "SELECT id FROM docs WHERE as_of=5");
  sql_is(db, "NULL", "SELECT vector_at('docs', 'nobody')");
  sql_is(db, "NULL", "SELECT vector_at('docs', 'gone')");
  sql_is(db, "NULL", "SELECT vector_at('docs', 'a', 5)");
  sql_is(db, "", "SELECT * FROM delta_chain('docs', 'nobody')");
  sql_is(db, "", "SELECT * FROM delta_log('docs', 99999)");
  sql_is(db, "3", "SELECT count(*) FROM (SELECT id FROM docs WHERE vector MATCH '[1,2,3]' AND k=1000000000)");
  sql_run(db, "UPDATE docs SET delta=delta_scale(2) WHERE id='nobody'; DELETE FROM docs WHERE id='nobody'");
  sql_is(db, "0", "SELECT changes()");
  sql_is(db, "{\"count\":0,\"firstSeq\":null,\"lastSeq\":null}", "SELECT delta_apply_batch('docs', x'')");
  sql_is(db, "6", "SELECT count(*) FROM delta_log('docs', 0)");
}
END_TEST

/* A condition on the distance, or an order by it, is refused without a query, and nowhere else: SQLite plans the halves of
 * an OR by themselves, and joins in every order, and then the query is not to be seen. */
START_TEST(distances_with_a_query_elsewhere) {
  sql_run(db, "DELETE FROM docs WHERE id = 'big'; CREATE TABLE q(n INTEGER PRIMARY KEY, v, far);"
              "INSERT INTO q VALUES(1, '[0,0,0]', 1.5), (2, '[0,2,0]', 1.9)");
  const char *pairs = "2|b|0.0 1|a|1.118 2|a|1.803";
  sql_is(db, pairs,
         "SELECT n, id, round(distance, 3) FROM q JOIN docs ON vector MATCH v AND distance < far ORDER BY distance");
  sql_is(db, pairs,
         "SELECT n, id, round(distance, 3) FROM docs JOIN q ON vector MATCH v AND distance < far ORDER BY distance");
  sql_is(
      db, pairs,
      "SELECT n, id, round(distance, 3) FROM q LEFT JOIN docs ON vector MATCH v AND distance < far ORDER BY distance");
  sql_is(db, pairs,
         "SELECT n, id, round(distance, 3) FROM docs, q WHERE vector MATCH v AND far > distance ORDER BY distance");
  sql_is(db, "a b", "SELECT id FROM docs WHERE vector MATCH '[0,0,0]' AND (distance < 1.5 OR distance > 1.9)");
  sql_is(db, "a b",
         "SELECT id FROM docs WHERE vector MATCH '[0,0,0]' AND (id = 'a' OR distance > 1.5) ORDER BY distance");
  sql_is(db, "a b",
         "SELECT id FROM docs WHERE vector MATCH '[0,0,0]' AND (distance > 1.5 OR id = 'a') ORDER BY distance");
  sql_is(
      db, "b|NULL a|1.118",
      "SELECT id, round(distance, 3) FROM docs WHERE (vector MATCH '[0,0,0]' AND k=1) OR id = 'b' ORDER BY distance");
  sql_is(db, "a b", "SELECT d.id FROM vector_search('docs', '[0,0,0]', 2) s NATURAL JOIN docs d ORDER BY s.distance");
  sql_is(db, "a",
         "SELECT id FROM (SELECT id, distance FROM docs WHERE vector MATCH '[0,0,0]' AND k=2) WHERE distance < 1.5");
  sql_run(db, "CREATE VIEW v AS SELECT id, vector, distance FROM docs");
  sql_is(db, "a", "SELECT id FROM v WHERE vector MATCH '[0,0,0]' AND distance < 1.5 ORDER BY distance");
  sql_is(db, "a",
         "SELECT d.id FROM docs d WHERE EXISTS(SELECT 1 FROM docs e WHERE e.vector MATCH d.vector AND e.distance "
         "BETWEEN 1 AND 2) AND d.distance IS NULL LIMIT 1");
  sql_is(db, "a|NULL b|NULL", "SELECT id, distance FROM docs");
  sql_is(db, "a", "SELECT id FROM docs WHERE id = 'a' ORDER BY distance");
  sql_is(db, "NULL", "SELECT min(distance) FROM docs");
  sql_is(db, "a b", "SELECT id FROM docs WHERE distance IS NULL");
  sql_is(db, "", "SELECT id FROM docs WHERE distance IS NOT NULL");
  sql_is(db, "b", "SELECT id FROM docs WHERE vector MATCH '[0,2,1]' AND distance = 1");
  sql_is(db, "b", "SELECT id FROM docs('[0,2,1]', 2, 1)");
  sql_is(db, "b", "SELECT id FROM docs WHERE vector MATCH '[0,0,0]' AND distance = 2 ORDER BY distance LIMIT 1");
  sql_is(db, "", "SELECT id FROM docs WHERE vector MATCH '[0,0,0]' AND distance = 2 AND k = 1");
  sql_is(db, "b", "SELECT id FROM docs WHERE vector MATCH '[0,2,1]' AND distance IN (1, 5)");
  sql_is(db, "", "SELECT id FROM docs WHERE vector MATCH '[0,2,1]' AND distance = NULL");
  sql_is(db, "a b",
         "SELECT id FROM docs WHERE vector MATCH '[1,0.5,0]' AND k=1 UNION ALL SELECT id FROM docs WHERE vector MATCH "
         "'[0,2,1]' AND k=1");
  sql_is(db, "", "SELECT id FROM docs WHERE distance < 3 AND 0");
}
END_TEST

/* SQLite may plan the halves of an OR by themselves, and then neither sees what stands beside the OR: the arguments of a
 * table-valued function, k, as_of; and tests for each row what stands beside. */
START_TEST(alternatives_beside_what_they_need) {
  sql_run(db, "DELETE FROM docs WHERE id = 'big'");
  sql_is(db, "a b", "SELECT id FROM vector_search('docs', '[0,0,0]', 2) WHERE id = 'a' OR distance > 1.9");
  sql_is(db, "b", "SELECT id FROM vector_search('docs', '[0,0,0]', 2) WHERE id = 'nobody' OR score < 0.4");
  sql_is(db, "1|a 2|b", "SELECT rowid, id FROM vector_search('docs', '[0,0,0]') WHERE rowid = 1 OR rowid = 2");
  sql_is(db, "a b", "SELECT id FROM docs WHERE (vector MATCH '[1,0.5,0]' AND k=1) OR (vector MATCH '[0,2,1]' AND k=1)");
  sql_is(db, "a b", "SELECT id FROM docs WHERE as_of = '2010-01-01' AND (id = 'a' OR rowid = 2)");
  sql_is(db, "a", "SELECT id FROM docs WHERE as_of = '2010-01-01' AND (metadata IS NOT NULL OR rowid = 99)");
  sql_is(db, "a", "SELECT id FROM docs WHERE as_of = '1262304000000' AND (rowid = 99 OR id = 'a')");
  sql_is(db, "a", "SELECT id FROM docs WHERE as_of = 1262304000000.0 AND (rowid = 99 OR id = 'a')");
  sql_is(db, "", "SELECT id FROM docs WHERE as_of = '1969-12-31' AND (rowid = 1 OR id = 'a')");
}
END_TEST

/* A value as long as SQLite allows gives a message of one line all the same, without control characters. */
START_TEST(messages_are_short) {
  static const char *const wild[] = {
      "INSERT INTO docs(id, vector) VALUES(printf('%.*c', 1000000, 'x'), 'no')",
      "INSERT INTO docs(id, vector) VALUES('x' || char(10) || 'y', printf('%.*c', 1000000, 'x'))",
      "INSERT INTO docs(id, vector) VALUES('it''s', '[1]')",
      "INSERT INTO docs(docs) VALUES(printf('%.*c', 1000000, 'x'))",
      "SELECT delta_status(printf('%.*c', 1000000, 'x'))",
      "SELECT * FROM vector_search(printf('%.*c', 1000000, 'x'), '[1]')",
      "SELECT delta_apply('docs', printf('%.*c', 1000000, 'x'), delta_scale(1))",
      "SELECT id FROM docs WHERE as_of = printf('%.*c', 1000000, 'x')",
      "SELECT id FROM docs('[1,2,3]', '{\"' || printf('%.*c', 1000000, 'x') || '\":1}')"};
  for (size_t i = 0; i < sizeof wild / sizeof wild[0]; i++) {
    char *message = NULL;
    ck_assert_int_eq(sqlite3_exec(db, wild[i], NULL, NULL, &message), SQLITE_ERROR);
    ck_assert_msg(strlen(message) < 400, "%s: %zu bytes: %.300s…", wild[i], strlen(message), message);
    for (const char *p = message; *p; p++)
      ck_assert_msg((unsigned char)*p >= ' ', "%s: control character in '%s'", wild[i], message);
    sqlite3_free(message);
  }
}
END_TEST

/* An error inside a trigger, a view and a join reaches the user with its text. */
START_TEST(messages_arrive_through_other_objects) {
  sql_run(db, "CREATE TRIGGER t AFTER INSERT ON plain BEGIN INSERT INTO docs(id, vector) VALUES('t', new.x); END;"
              "CREATE VIEW v AS SELECT id FROM docs WHERE vector MATCH '[1]' AND k=5");
  sql_fails(db, SQLITE_ERROR, "row 't'", "INSERT INTO plain VALUES('[1]')");
  sql_is(db, "0", "SELECT count(*) FROM plain");
  sql_fails(db, SQLITE_ERROR, "expected 3", "SELECT * FROM v");
  sql_fails(db, SQLITE_ERROR, "expected 3", "SELECT * FROM items JOIN vector_search('docs', items.embedding, 3)");
}
END_TEST

/* An error is told once: it does not stick to the connection and turn up in another statement's message. */
START_TEST(errors_do_not_linger) {
  for (int i = 0; i < N_REFUSALS; i++) {
    sql_try(db, NULL, "%s", refusals[i].sql);
    sql_fails(db, SQLITE_ERROR, "row 'lone'", "INSERT INTO docs(id, vector) VALUES('lone', '[1]')");
    sql_fails(db, SQLITE_ERROR, "no such column: nonsense", "SELECT nonsense FROM docs");
    sql_is(db, "a b big", "SELECT id FROM docs");
  }
}
END_TEST

int main(int argc, char **argv) {
  Suite *suite = suite_create("errors");
  TCase *t = tcase_create("refusals");
  tcase_set_timeout(t, 120);
  tcase_add_test(t, distances_with_a_query_elsewhere);
  tcase_add_test(t, alternatives_beside_what_they_need);
  tcase_add_checked_fixture(t, set_up, tear_down);
  tcase_add_loop_test(t, refusal_in_autocommit_mode, 0, N_REFUSALS);
  tcase_add_loop_test(t, refusal_inside_a_transaction, 0, N_REFUSALS);
  tcase_add_test(t, empty_table_gives_nothing);
  tcase_add_test(t, questions_without_an_answer);
  tcase_add_test(t, messages_are_short);
  tcase_add_test(t, messages_arrive_through_other_objects);
  tcase_add_test(t, errors_do_not_linger);
  suite_add_tcase(suite, t);
  return sql_main(suite, argc, argv);
}
