/*
 * fuzz_file.c: a whole database file with bytes changed anywhere, SQLite's own included, and everything the extension
 * does with it.
 *
 * The input is edits, each u24 offset (modulo the file's length), u8 n (modulo 16, plus 1), n bytes. What is left when
 * a part of an edit is missing is overwritten at its offset.
 *
 * Holds: nothing crashes, reads out of bounds, or runs without bound (64 MiB, a progress handler, -timeout), and no
 * statement answers SQLITE_MISUSE or SQLITE_INTERNAL.
 */
#include <sqlite3.h>

#include "delta_vectors.h"
#include "fuzz.h"

static uint8_t *base;
static sqlite3_int64 n_base;

static const char *const making[] = {
    "PRAGMA page_size = 512",
    "CREATE VIRTUAL TABLE docs USING delta_vectors(id TEXT PRIMARY KEY, v FLOAT[5], n INTEGER, note TEXT,"
    " checkpoint_interval=4, index=hnsw, hnsw_m=2)",
    "WITH RECURSIVE i(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM i WHERE i < 14) INSERT INTO docs(id, v, n, note, "
    "as_of)"
    " SELECT 'r' || i, json_array(i, -i, i * 0.5, 1.0 / i, 0), i, 'note ' || i, 1000 * i FROM i",
    "UPDATE docs SET delta = delta_sparse('[1]', '[7]'), as_of = 50000 WHERE n % 2",
    "DELETE FROM docs WHERE n = 13",
    "INSERT INTO docs(docs) VALUES('optimize')",
    "UPDATE docs SET delta = delta_offset(0.25), as_of = 90000 WHERE n = 2",
};

static const char *const statements[] = {
    "SELECT * FROM docs",
    "SELECT id, distance FROM docs WHERE v MATCH '[1,2,3,4,5]' AND k = 4 AND n > 2",
    "SELECT * FROM vector_search('docs', '[1,2,3,4,5]', 5, '{\"exact\":true,\"as_of\":55000}')",
    "SELECT *, delta_json(delta) FROM delta_log('docs', 3)",
    "SELECT vector_at('docs', id, 65000), delta_status('docs'), length(delta_export('docs')) FROM docs",
    "INSERT INTO docs(docs) VALUES('integrity-check')",
    "PRAGMA integrity_check",
    "CREATE VIRTUAL TABLE saved USING delta_vectors(id TEXT PRIMARY KEY, v FLOAT[5], n INTEGER, note TEXT)",
    "SELECT delta_salvage('saved', 'docs')",
    "BEGIN",
    "UPDATE docs SET delta = delta_sparse('[0]', '[1]') WHERE n < 5",
    "INSERT INTO docs(id, v) VALUES('new', '[1,1,1,1,1]')",
    "COMMIT",
    "INSERT INTO docs(docs) VALUES('optimize')",
    "SELECT delta_compact('docs', '{\"keep\":\"2 versions\"}')",
    "INSERT INTO docs(docs) VALUES('rebuild')",
    "DROP TABLE docs",
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (base == NULL) base = fuzz_make_base(making, sizeof making / sizeof making[0], &n_base);
  uint8_t *bytes = malloc((size_t)n_base);
  REQUIRE(bytes);
  memcpy(bytes, base, (size_t)n_base);
  for (size_t at = 0; at + 4 < size;) {
    size_t offset = ((size_t)data[at] << 16 | (size_t)data[at + 1] << 8 | data[at + 2]) % (size_t)n_base;
    size_t n = data[at + 3] % 16 + 1u;
    for (at += 4; n > 0 && at < size; n--, at++, offset++) {
      if (offset < (size_t)n_base) bytes[offset] = data[at];
    }
  }
  sqlite3 *db = fuzz_open(bytes, n_base);
  free(bytes);
  fuzz_run(db, statements, sizeof statements / sizeof statements[0], size > 4);
  REQUIRE(sqlite3_close(db) == SQLITE_OK);
  return 0;
}
