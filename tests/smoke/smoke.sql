-- The main path in a few lines, for every form in which the library can be built.
SELECT delta_vectors_version();

CREATE VIRTUAL TABLE docs USING delta_vectors(dimensions=4, metric=l2);
INSERT INTO docs(id, vector, metadata) VALUES('a', '[1,0,0,0]', '{"lang":"en"}');
INSERT INTO docs(id, vector) VALUES('b', '[0,2,0,0]'), ('c', '[0,0,3,0]');
SELECT id, distance FROM docs WHERE vector MATCH '[1,0,0,0]' AND k = 1;

-- A change is a delta, and the past stays.
SELECT delta_apply('docs', 'a', delta_sparse('[3]', '[0.5]')) > 0;
SELECT id, vector_json(vector) FROM docs ORDER BY id;
SELECT operation FROM delta_chain('docs', 'a') ORDER BY seq;

-- A transaction sees its own changes; rolled back, they are gone.
BEGIN;
DELETE FROM docs WHERE id = 'b';
SELECT count(*) FROM docs;
ROLLBACK;
SELECT count(*) FROM docs;

INSERT INTO docs(id, vector) VALUES('d', '[1,2]');
SELECT name FROM sqlite_schema WHERE name = 'docs';
PRAGMA integrity_check;
DROP TABLE docs;
SELECT count(*) FROM sqlite_schema;
