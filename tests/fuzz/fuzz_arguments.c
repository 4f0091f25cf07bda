/*
 * fuzz_arguments.c: any text as the arguments of CREATE VIRTUAL TABLE, as options of a search and of a compaction, as a
 * command, as a time, and as metadata.
 *
 * The input is texts with a zero byte between them: the arguments, then one for each other place, as far as they go. As
 * part of SQL they are what somebody else's file or query may say.
 *
 * Holds: nothing crashes or hangs, no statement answers SQLITE_MISUSE or SQLITE_INTERNAL; a table that was made passes
 * the integrity check, is the same table when the file is opened again, and can be dropped; a refusal has a message.
 */
#include <sqlite3.h>

#include "delta_vectors.h"
#include "fuzz.h"

enum { MAX_TEXTS = 6, MAX_TEXT = 4000 };

static int n_steps;
static int progress(void *unused) {
  (void)unused;
  return ++n_steps > 2000;
}

/* Runs the SQL with the texts as ?1 ...; the code. */
static int run(sqlite3 *db, const char *sql, const char *const *texts, int n) {
  sqlite3_stmt *stmt = NULL;
  n_steps = 0;
  int rc = sqlite3_prepare_v2(db, sql, -1, &stmt, NULL);
  for (int i = 0; rc == SQLITE_OK && i < n; i++) rc = sqlite3_bind_text(stmt, i + 1, texts[i], -1, SQLITE_STATIC);
  while (rc == SQLITE_OK && sqlite3_step(stmt) == SQLITE_ROW) {
  }
  int end = sqlite3_finalize(stmt);
  if (rc == SQLITE_OK) rc = end;
  REQUIRE((rc & 0xff) != SQLITE_MISUSE && (rc & 0xff) != SQLITE_INTERNAL);
  if (rc != SQLITE_OK) REQUIRE(sqlite3_errmsg(db)[0] != 0);
  return rc;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  const char *texts[MAX_TEXTS];
  int n = 0;
  char *copy = malloc(size + 1);
  REQUIRE(copy);
  if (size) memcpy(copy, data, size);
  copy[size] = 0;
  for (size_t at = 0; n < MAX_TEXTS; n++) {
    texts[n] = at < size ? copy + at : "";
    if (strlen(texts[n]) > MAX_TEXT) copy[at + MAX_TEXT] = 0;
    at += strlen(texts[n]) + 1;
  }
  sqlite3_hard_heap_limit64((sqlite3_int64)64 << 20);
  sqlite3 *db = fuzz_open(NULL, 0);
  sqlite3_limit(db, SQLITE_LIMIT_LENGTH, 4 << 20);
  sqlite3_progress_handler(db, 100, progress, NULL);

  char *create = sqlite3_mprintf("CREATE VIRTUAL TABLE t USING delta_vectors(%s)", texts[0]);
  REQUIRE(create);
  if (run(db, create, NULL, 0) == SQLITE_OK) {
    sqlite3_int64 n_bytes = 0;
    REQUIRE(run(db, "INSERT INTO t(t) VALUES('integrity-check')", NULL, 0) == SQLITE_OK);
    unsigned char *bytes = sqlite3_serialize(db, "main", &n_bytes, 0);
    if (bytes) {
      sqlite3 *again = fuzz_open(bytes, n_bytes);
      sqlite3_free(bytes);
      REQUIRE(run(again, "SELECT * FROM t", NULL, 0) == SQLITE_OK);
      REQUIRE(sqlite3_close(again) == SQLITE_OK);
    }
    REQUIRE(run(db, "DROP TABLE t", NULL, 0) == SQLITE_OK);
  }
  sqlite3_free(create);

  REQUIRE(run(db, "CREATE VIRTUAL TABLE docs USING delta_vectors(dimensions=2, metric=l2)", NULL, 0) == SQLITE_OK);
  REQUIRE(run(db, "INSERT INTO docs(id, vector, as_of) VALUES('a', '[1,2]', 1000), ('b', '[2,1]', 2000)", NULL, 0) ==
          SQLITE_OK);
  (void)run(db, "SELECT * FROM vector_search('docs', '[1,1]', 3, ?1)", texts + 1, 1);
  (void)run(db, "SELECT * FROM docs('[1,1]', ?1)", texts + 1, 1);
  (void)run(db, "SELECT delta_compact('docs', ?1)", texts + 1, 1);
  (void)run(db, "INSERT INTO docs(docs) VALUES(?1)", texts + 2, 1);
  (void)run(db, "SELECT vector_at('docs', 'a', ?1), delta_apply('docs', 'a', delta_scale(2), ?1)", texts + 3, 1);
  (void)run(db, "SELECT * FROM docs WHERE as_of = ?1", texts + 3, 1);
  (void)run(db, "SELECT delta_apply('docs', ?1, delta_create('[1,1]'), NULL, ?2)", texts + 4, 2);
  (void)run(db, "INSERT INTO docs(id, vector, metadata) VALUES(?1, ?2, ?2)", texts + 4, 2);
  (void)run(db, "SELECT delta_sparse(?1, ?2), vector_json(?1), vector_each.value FROM vector_each(?2)", texts + 4, 2);
  (void)run(db, "SELECT delta_status(?1), delta_export(?2)", texts + 4, 2);
  REQUIRE(run(db, "INSERT INTO docs(docs) VALUES('integrity-check')", NULL, 0) == SQLITE_OK);
  REQUIRE(sqlite3_close(db) == SQLITE_OK);
  free(copy);
  return 0;
}
