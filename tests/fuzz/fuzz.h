/* fuzz.h: what every fuzz target declares, how it says that something does not hold, and how those with a database run
 * their statements. */
#ifndef DV_FUZZ_H
#define DV_FUZZ_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define REQUIRE(x)                                                                                                     \
  do {                                                                                                                 \
    if (!(x)) {                                                                                                        \
      fprintf(stderr, "%s:%d: not so: %s\n", __FILE__, __LINE__, #x);                                                  \
      abort();                                                                                                         \
    }                                                                                                                  \
  } while (0)

/* ---- databases: for targets that include sqlite3.h ---------------------------------------------------------------- */

#ifdef SQLITE_VERSION

/* Opened in memory with the extension; with the n bytes of a file, if there are any. */
static inline sqlite3 *fuzz_open(const uint8_t *bytes, sqlite3_int64 n) {
  sqlite3 *db = NULL;
  REQUIRE(sqlite3_open(":memory:", &db) == SQLITE_OK);
  REQUIRE(sqlite3_deltavectors_init(db, NULL, NULL) == SQLITE_OK);
  if (bytes) {
    unsigned char *copy = sqlite3_malloc64((sqlite3_uint64)n);
    REQUIRE(copy);
    memcpy(copy, bytes, (size_t)n);
    REQUIRE(sqlite3_deserialize(db, "main", copy, n, n,
                                SQLITE_DESERIALIZE_FREEONCLOSE | SQLITE_DESERIALIZE_RESIZEABLE) == SQLITE_OK);
  }
  return db;
}

/* The file that the statements make. From then on SQLite may have 64 MiB. */
static inline uint8_t *fuzz_make_base(const char *const *statements, size_t n_statements, sqlite3_int64 *n) {
  sqlite3 *db = fuzz_open(NULL, 0);
  for (size_t i = 0; i < n_statements; i++) {
    char *message = NULL;
    if (sqlite3_exec(db, statements[i], NULL, NULL, &message) != SQLITE_OK)
      fprintf(stderr, "%s: %s\n", statements[i], message);
    REQUIRE(message == NULL);
  }
  uint8_t *bytes = sqlite3_serialize(db, "main", n, 0);
  REQUIRE(bytes && sqlite3_close(db) == SQLITE_OK);
  sqlite3_hard_heap_limit64((sqlite3_int64)64 << 20);
  return bytes;
}

static inline int fuzz_count_step(void *n_steps) { return ++*(int *)n_steps > 20000; }

/* Runs the statements in a bounded number of steps. None may be a misuse; if nothing was edited, each succeeds. */
static inline void fuzz_run(sqlite3 *db, const char *const *statements, size_t n_statements, bool is_edited) {
  int n_steps = 0;
  sqlite3_progress_handler(db, 100, fuzz_count_step, &n_steps);
  for (size_t i = 0; i < n_statements; i++) {
    int rc = sqlite3_exec(db, statements[i], NULL, NULL, NULL) & 0xff;
    bool is_right = rc != SQLITE_MISUSE && rc != SQLITE_INTERNAL && (is_edited || rc == SQLITE_OK);
    if (!is_right) fprintf(stderr, "%s: %s\n", statements[i], sqlite3_errmsg(db));
    REQUIRE(is_right);
  }
  sqlite3_progress_handler(db, 0, NULL, NULL);
}

#endif
#endif
