-- The change feed: a durable log with a cursor, and export and import between two databases.
.load ./delta_vectors

CREATE VIRTUAL TABLE source USING delta_vectors(dimensions=2, metric=l2);
INSERT INTO source(id, vector) VALUES('x', '[1, 1]'), ('y', '[2, 2]');

-- A consumer remembers the last number it has seen.
CREATE TABLE cursor(seen INTEGER);
INSERT INTO cursor SELECT max(seq) FROM delta_log('source');

SELECT delta_apply('source', 'x', delta_offset(1));
DELETE FROM source WHERE id = 'y';
SELECT seq, id, operation, delta_json(delta) FROM delta_log('source', (SELECT seen FROM cursor));

-- The same as one BLOB, to be applied elsewhere. Applying it twice changes nothing.
ATTACH 'replica.db' AS replica;
CREATE VIRTUAL TABLE replica.copy USING delta_vectors(dimensions=2, metric=l2);
SELECT delta_import('replica.copy', delta_export('source', 0)) ->> 'applied';
SELECT delta_import('replica.copy', delta_export('source', 0)) ->> 'applied';
SELECT id, vector_json(vector) FROM replica.copy;

-- Later only what is new.
INSERT INTO source(id, vector) VALUES('z', '[3, 3]');
SELECT delta_import('replica.copy', delta_export('source', 4)) ->> 'applied';
SELECT id, vector_json(vector) FROM replica.copy;

-- Many deltas in one call.
SELECT delta_apply_batch('source', delta_pack(id, delta_scale(10))) FROM source;
SELECT id, vector_json(vector) FROM source;
