-- What CREATE VIRTUAL TABLE refuses, and what it says. tests/vtab/check_config.c has the whole list.
CREATE VIRTUAL TABLE docs USING delta_vectors;
CREATE VIRTUAL TABLE docs USING delta_vectors(metric=cosine);
CREATE VIRTUAL TABLE docs USING delta_vectors(dim=384);
CREATE VIRTUAL TABLE docs USING delta_vectors(dimensions=384, distance=cosine);
CREATE VIRTUAL TABLE docs USING delta_vectors(dimensions=384, chunk_size=8);
CREATE VIRTUAL TABLE docs USING delta_vectors(dimensions=0);
CREATE VIRTUAL TABLE docs USING delta_vectors(dimensions=65537);
CREATE VIRTUAL TABLE docs USING delta_vectors(dimensions='many');
CREATE VIRTUAL TABLE docs USING delta_vectors(dimensions=384, metric=hamming);
CREATE VIRTUAL TABLE docs USING delta_vectors(dimensions=384, metric=l2, metric=ip);
CREATE VIRTUAL TABLE docs USING delta_vectors(dimensions=384, index=ivf);
CREATE VIRTUAL TABLE docs USING delta_vectors(dimensions=384, index=hnsw, hnsw_m=1);
CREATE VIRTUAL TABLE docs USING delta_vectors(dimensions=384, recall_target=99);
CREATE VIRTUAL TABLE docs USING delta_vectors(dimensions=384, max_vectors=-1);
CREATE VIRTUAL TABLE docs USING delta_vectors(dimensions=384, checkpoint_interval=0);
CREATE VIRTUAL TABLE docs USING delta_vectors(dimensions=384, compression=zstd);
CREATE VIRTUAL TABLE docs USING delta_vectors(dimensions=384, retention='ninety days');
CREATE VIRTUAL TABLE docs USING delta_vectors(dimensions=384, genre TEXT);

CREATE VIRTUAL TABLE items USING delta_vectors(id TEXT PRIMARY KEY, genre TEXT);
CREATE VIRTUAL TABLE items USING delta_vectors(embedding FLOAT[0]);
CREATE VIRTUAL TABLE items USING delta_vectors(embedding int8[768]);
CREATE VIRTUAL TABLE items USING delta_vectors(embedding FLOAT(768));
CREATE VIRTUAL TABLE items USING delta_vectors(embedding FLOAT[768], title FLOAT[768]);
CREATE VIRTUAL TABLE items USING delta_vectors(embedding FLOAT[768], dimensions=384);
CREATE VIRTUAL TABLE items USING delta_vectors(embedding FLOAT[768] cosine);
CREATE VIRTUAL TABLE items USING delta_vectors(embedding FLOAT[768] INDEXED BY hnsw(links=16));
CREATE VIRTUAL TABLE items USING delta_vectors(embedding FLOAT[768] INDEXED BY diskann());
CREATE VIRTUAL TABLE items USING delta_vectors(embedding FLOAT[768], id REAL PRIMARY KEY);
CREATE VIRTUAL TABLE items USING delta_vectors(embedding FLOAT[768], genre);
CREATE VIRTUAL TABLE items USING delta_vectors(embedding FLOAT[768], genre VARCHAR(20));
CREATE VIRTUAL TABLE items USING delta_vectors(embedding FLOAT[768], genre TEXT NOT NULL);
CREATE VIRTUAL TABLE items USING delta_vectors(embedding FLOAT[768], genre TEXT, Genre TEXT);
CREATE VIRTUAL TABLE items USING delta_vectors(embedding FLOAT[768], distance REAL);
CREATE VIRTUAL TABLE items USING delta_vectors(embedding FLOAT[768], items TEXT);
CREATE VIRTUAL TABLE items USING delta_vectors(embedding FLOAT[768], +body TEXT PARTITION KEY);
CREATE VIRTUAL TABLE delta USING delta_vectors(dimensions=384);

-- A refused table leaves nothing behind.
SELECT count(*) FROM sqlite_schema;

-- And what it takes.
CREATE VIRTUAL TABLE docs USING delta_vectors(dimensions=384, metric=cosine);
SELECT name, type, hidden FROM pragma_table_xinfo('docs');
DROP TABLE docs;
CREATE VIRTUAL TABLE items USING delta_vectors(
  id TEXT PRIMARY KEY,            -- or INTEGER PRIMARY KEY (then it is the rowid)
  embedding FLOAT[768] distance_metric=l2,
  tenant INTEGER PARTITION KEY,   -- metadata columns: INTEGER, REAL, TEXT, BOOLEAN, BLOB; NULL allowed
  genre TEXT, price REAL,
  +body TEXT,                     -- auxiliary: stored, not filterable inside the search
  index=hnsw, hnsw_m=16, checkpoint_interval=100, retention='90 days');
SELECT name, type, hidden FROM pragma_table_xinfo('items');
DROP TABLE items;
CREATE VIRTUAL TABLE items USING delta_vectors("the vector" float[3] INDEXED BY hnsw(m=8, ef_construction=50) metric=ip);
SELECT name, type, hidden FROM pragma_table_xinfo('items');
DROP TABLE items;
