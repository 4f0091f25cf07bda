-- delta_salvage(): what it refuses, and where it finds things. tests/fixtures/check_damage has what it recovers.
CREATE VIRTUAL TABLE docs USING delta_vectors(dimensions=2, metric=l2);
INSERT INTO docs(id, vector, metadata, as_of) VALUES('a', '[1, 2]', '{"n":1}', 1000), ('b', '[2, 3]', NULL, 2000);
UPDATE docs SET delta = delta_scale(2), as_of = 3000;
DELETE FROM docs WHERE id = 'b';

.print -- refused
SELECT delta_salvage('docs', 'docs');
SELECT delta_salvage('nowhere', 'docs');
CREATE VIRTUAL TABLE saved USING delta_vectors(dimensions=2, metric=l2);
SELECT delta_salvage('saved', 'nowhere');
SELECT delta_salvage('saved', NULL);
SELECT delta_salvage(NULL, 'docs');
CREATE VIRTUAL TABLE other USING delta_vectors(dimensions=3);
SELECT delta_salvage('other', 'docs');
CREATE VIEW v AS SELECT delta_salvage('saved', 'docs');
SELECT * FROM v;
SELECT count(*) FROM saved;

.print -- from a table that is whole, by either name
SELECT delta_salvage('saved', 'main.docs');
SELECT delta_salvage('saved', 'docs');
SELECT id, vector_json(vector), metadata FROM saved;
SELECT count(*) FROM (SELECT seq, id, operation, delta, metadata FROM delta_log('docs') EXCEPT SELECT seq, id, operation, delta, metadata FROM delta_log('saved'));

.print -- from nothing but a log, as .recover may leave it, in another database
ATTACH 'old.db' AS old;
CREATE TABLE old.lost_log AS SELECT * FROM docs_log;
CREATE VIRTUAL TABLE again USING delta_vectors(dimensions=2, metric=l2);
SELECT delta_salvage('again', 'old.lost');
SELECT id, vector_json(vector), metadata FROM again;
SELECT id, vector_json(vector) FROM again WHERE as_of = 2500;

.print -- packs that are none
INSERT INTO old.lost_log VALUES(1000, zeroblob(3000)), (1001, CAST('no pack at all, but some text of a length that has a header' AS BLOB)), (1002, NULL), (-3, x'00');
CREATE VIRTUAL TABLE third USING delta_vectors(dimensions=2, metric=l2);
SELECT delta_salvage('third', 'old.lost');

.print -- in a transaction
CREATE VIRTUAL TABLE fourth USING delta_vectors(dimensions=2, metric=l2);
BEGIN;
SAVEPOINT s;
SELECT delta_salvage('fourth', 'docs') ->> 'deltas';
ROLLBACK TO s;
SELECT count(*) FROM fourth;
SELECT delta_salvage('fourth', 'docs') ->> 'deltas';
COMMIT;
INSERT INTO fourth(fourth) VALUES('integrity-check');
SELECT count(*) FROM fourth;

.print -- row numbers that are text, which is greater than any number: one of them is no row
CREATE VIRTUAL TABLE odd USING delta_vectors(dimensions=2, metric=l2);
INSERT INTO odd(id, vector) VALUES('a', '[1,2]'), ('b', '[2,3]');
INSERT INTO odd(odd) VALUES('optimize');
ATTACH 'odd.db' AS o;
CREATE TABLE o.lost_log AS SELECT * FROM odd_log;
CREATE TABLE o.lost_meta AS SELECT * FROM odd_meta;
CREATE TABLE o.lost_head AS SELECT * FROM odd_head;
CREATE TABLE o.lost_row AS SELECT * FROM odd_row UNION ALL SELECT 'x', 'c', NULL;
CREATE VIRTUAL TABLE fifth USING delta_vectors(dimensions=2, metric=l2);
SELECT delta_salvage('fifth', 'o.lost');
