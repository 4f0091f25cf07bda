-- The long form: typed columns, a partition key, filters inside the search, and an auxiliary column.
.load ./delta_vectors

CREATE VIRTUAL TABLE items USING delta_vectors(
  id INTEGER PRIMARY KEY,
  tenant INTEGER PARTITION KEY,
  embedding FLOAT[3] distance_metric=l2,
  genre TEXT, price REAL, in_stock BOOLEAN,
  +body TEXT);

INSERT INTO items(id, tenant, embedding, genre, price, in_stock, body) VALUES
  (1, 7, '[0, 0, 0]', 'crime',   12.5, 1, 'The butler did it.'),
  (2, 7, '[1, 0, 0]', 'crime',   25.0, 1, 'Nobody did it.'),
  (3, 7, '[2, 0, 0]', 'romance', 9.99, 0, 'They meet.'),
  (4, 8, '[0, 1, 0]', 'crime',   8.0,  1, 'Everybody did it.'),
  (5, 7, '[0, 0, 3]', NULL,      NULL, 1, 'A blank book.');

-- Conditions on declared columns are applied inside the search: k rows come back while k rows match.
SELECT id, distance, genre, price, body FROM items
 WHERE embedding MATCH '[0, 0, 0]' AND k = 2 AND tenant = 7 AND genre IN ('crime', 'romance') AND price < 20;

SELECT id FROM items WHERE embedding MATCH '[0, 0, 0]' AND k = 10 AND genre IS NULL;
SELECT id FROM items WHERE embedding MATCH '[0, 0, 0]' AND k = 10 AND genre LIKE 'c%';
SELECT id FROM items WHERE embedding MATCH '[0, 0, 0]' AND k = 2 AND id IN (SELECT 3 UNION SELECT 5 UNION SELECT 99);

-- All rows within a distance; pages of two, each going on where the last one ended.
SELECT id, distance FROM items WHERE embedding MATCH '[0, 0, 0]' AND distance < 2;
SELECT id, distance FROM items WHERE embedding MATCH '[0, 0, 0]' AND distance > 1 ORDER BY distance LIMIT 2;

-- What SQLite tests itself (OR, expressions, other tables): without k the table streams in order of distance until
-- LIMIT is met.
SELECT id, distance FROM items WHERE embedding MATCH '[0, 0, 0]' AND (price > 20 OR genre = 'romance') ORDER BY distance LIMIT 2;

-- A table-valued function, and the table itself as one.
SELECT id, distance, score FROM vector_search('items', '[0, 0, 0]', 2);
SELECT id, distance FROM items('[0, 0, 0]', '{"k": 2}');

-- An update of metadata is part of the row's history too.
UPDATE items SET price = 11, in_stock = 0 WHERE id = 1;
SELECT seq, operation, metadata FROM delta_chain('items', 1);
