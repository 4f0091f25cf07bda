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
#include "fuzz.h"

#include <sqlite3.h>
#include <string.h>

#include "delta_vectors.h"

static uint8_t *base;
static sqlite3_int64 n_base;

static void make_base(void) {
  sqlite3 *db = NULL;
  REQUIRE(sqlite3_open(":memory:", &db) == SQLITE_OK);
  REQUIRE(sqlite3_deltavectors_init(db, NULL, NULL) == SQLITE_OK);
  static const char *const sql[] = {
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
  for (size_t i = 0; i < sizeof sql / sizeof sql[0]; i++)
    REQUIRE(sqlite3_exec(db, sql[i], NULL, NULL, NULL) == SQLITE_OK);
  base = sqlite3_serialize(db, "main", &n_base, 0);
  REQUIRE(base && sqlite3_close(db) == SQLITE_OK);
}

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

static int n_steps;
static int progress(void *unused) {
  (void)unused;
  return ++n_steps > 20000;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  sqlite3 *db = NULL;
  if (base == NULL) {
    make_base();
    sqlite3_hard_heap_limit64((sqlite3_int64)64 << 20);
  }
  REQUIRE(sqlite3_open(":memory:", &db) == SQLITE_OK);
  REQUIRE(sqlite3_deltavectors_init(db, NULL, NULL) == SQLITE_OK);
  unsigned char *copy = sqlite3_malloc64((sqlite3_uint64)n_base);
  REQUIRE(copy);
  memcpy(copy, base, (size_t)n_base);
  for (size_t at = 0; at + 4 < size;) {
    size_t offset = ((size_t)data[at] << 16 | (size_t)data[at + 1] << 8 | data[at + 2]) % (size_t)n_base;
    size_t n = data[at + 3] % 16 + 1u;
    for (at += 4; n > 0 && at < size; n--, at++, offset++) {
      if (offset < (size_t)n_base) copy[offset] = data[at];
    }
  }
  REQUIRE(sqlite3_deserialize(db, "main", copy, n_base, n_base,
                              SQLITE_DESERIALIZE_FREEONCLOSE | SQLITE_DESERIALIZE_RESIZEABLE) == SQLITE_OK);
  n_steps = 0;
  sqlite3_progress_handler(db, 100, progress, NULL);
  for (size_t i = 0; i < sizeof statements / sizeof statements[0]; i++) {
    int rc = sqlite3_exec(db, statements[i], NULL, NULL, NULL) & 0xff;
    if (rc == SQLITE_MISUSE || rc == SQLITE_INTERNAL) fprintf(stderr, "%s: %s\n", statements[i], sqlite3_errmsg(db));
    REQUIRE(rc != SQLITE_MISUSE && rc != SQLITE_INTERNAL);
    REQUIRE(size > 4 || rc == SQLITE_OK);
  }
  REQUIRE(sqlite3_close(db) == SQLITE_OK);
  return 0;
}
