/*
 * worker.c: a connection for a thread of its own: WAL, so that readers and the one writer do not wait for each other.
 */
#include "native_int.h"

static int worker_fail(sqlite3 **sqlite, int rc, const char *what, char **message) {
  if (message) {
    *message = sqlite3_mprintf("delta_vectors: %s: %s", what, *sqlite ? sqlite3_errmsg(*sqlite) : sqlite3_errstr(rc));
  }
  (void)sqlite3_close(*sqlite);
  *sqlite = NULL;
  return rc & 0xff;
}

int dvn_worker_open(const char *path, const char *sql, sqlite3 **sqlite, char **message) {
  char *reason = NULL;
  if (message) *message = NULL;
  int rc = sqlite3_open_v2(path, sqlite, DVN_OPEN_FLAGS, NULL);
  if (rc != SQLITE_OK) return worker_fail(sqlite, rc, path, message);
  rc = sqlite3_deltavectors_init(*sqlite, &reason, NULL);
  if (rc != SQLITE_OK) {
    rc = worker_fail(sqlite, rc, reason ? reason : "cannot register", message);
    sqlite3_free(reason);
    return rc;
  }
  sqlite3_busy_timeout(*sqlite, 5000); /* changing the journal's mode needs the file for itself */
  rc = sqlite3_exec(*sqlite, "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL", NULL, NULL, NULL);
  if (rc == SQLITE_OK && sql) rc = sqlite3_exec(*sqlite, sql, NULL, NULL, NULL);
  return rc == SQLITE_OK ? rc : worker_fail(sqlite, rc, path, message);
}

int dvn_fail_null(const char *function, const char *arguments, char **message) {
  if (message) *message = sqlite3_mprintf("delta_vectors: %s: %s must not be NULL", function, arguments);
  return DVEC_MISUSE;
}

int dvn_explain(int rc, char **message) {
  if (rc != DVEC_OK && message && !*message) *message = sqlite3_mprintf("%s", dvec_code_text(rc));
  return rc;
}

bool dvn_code_is_of_delta(int rc) {
  rc &= 0xff;
  return rc == SQLITE_ERROR || rc == SQLITE_CONSTRAINT || rc == SQLITE_TOOBIG || rc == SQLITE_MISMATCH;
}
