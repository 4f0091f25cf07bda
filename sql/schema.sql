-- The shadow tables, as a reader meets them: what CREATE VIRTUAL TABLE makes beside the virtual table itself, in the same
-- database. What their blobs hold is in docs/file-format.md. Write to none of them: PRAGMA or sqlite3_db_config() can make
-- SQLite see to that (SQLITE_DBCONFIG_DEFENSIVE).
--
-- tests/docs/check_schema.sh compares this file with the tables that these two statements make:
--
--> CREATE VIRTUAL TABLE docs USING delta_vectors(dimensions=384, metric=cosine);
--> CREATE VIRTUAL TABLE items USING delta_vectors(
-->   id INTEGER PRIMARY KEY,
-->   embedding FLOAT[384] distance_metric=l2,
-->   tenant INTEGER PARTITION KEY,
-->   genre TEXT, price REAL, in_stock BOOLEAN, cover BLOB,
-->   +body TEXT);

-- The truth: the deltas of all rows in the order of their commits, packed. seq is that of a pack's first delta.
CREATE TABLE docs_log(seq INTEGER PRIMARY KEY, pack BLOB);

-- A line for each row that exists or has existed: its number, its id, its metadata and auxiliary columns as they are now.
-- The short form has one column, the JSON object.
CREATE TABLE docs_row(vid INTEGER PRIMARY KEY, id TEXT UNIQUE, c1 TEXT);

-- Derived from the log, in blocks of rows: where each row's chain ends; and its vector in eight bits a dimension.
CREATE TABLE docs_head(block INTEGER PRIMARY KEY, heads BLOB);
CREATE TABLE docs_code(block INTEGER PRIMARY KEY, codes BLOB);

-- Derived: blocks of links of the graph, see docs/file-format.md.
CREATE TABLE docs_graph(block INTEGER PRIMARY KEY, links BLOB);

-- Format version, sizes, identity, and how far the derived tables are.
CREATE TABLE docs_meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID;

-- The long form differs in one table: the type of id, and c1, c2, … for tenant, genre, price, in_stock, cover and body.
CREATE TABLE items_log(seq INTEGER PRIMARY KEY, pack BLOB);
CREATE TABLE items_row(vid INTEGER PRIMARY KEY, id INTEGER UNIQUE,
  c1 INTEGER, c2 TEXT, c3 REAL, c4 INTEGER, c5 BLOB, c6 TEXT);
CREATE TABLE items_head(block INTEGER PRIMARY KEY, heads BLOB);
CREATE TABLE items_code(block INTEGER PRIMARY KEY, codes BLOB);
CREATE TABLE items_graph(block INTEGER PRIMARY KEY, links BLOB);
CREATE TABLE items_meta(key TEXT PRIMARY KEY, value) WITHOUT ROWID;
