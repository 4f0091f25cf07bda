/*
 * upkeep.c: settling and compacting while nobody writes.
 *
 * The thread looks at the data version, which moves with every commit of another connection. When it has stood still for
 * idle_ms, the thread takes steps of delta_settle(), each a transaction of its own, and looks again before each: if it
 * has moved, or a writer holds the lock (it does not wait for it), it waits anew. Its own commits do not move the version.
 *
 * Nothing here is state that could be lost: how far a table is settled is in the file, and what is not committed is as if
 * it had not been begun. So stopping is an interrupt and a join.
 */
#include "native_int.h"

#include <stdlib.h>
#include <uv.h>

#define UPKEEP_IDLE_MS 200u

struct dvec_upkeep {
  dvec_upkeep_options options;
  uv_thread_t thread;

  uv_mutex_t mutex; /* guards what follows */
  uv_cond_t wake;
  bool is_stopping;
  dvec_upkeep_stats stats;
  sqlite3 *sqlite;

  /* the thread's */
  sqlite3_stmt *settle, *compact, *version;
};

/* false: stop. */
static bool rest(dvec_upkeep *u, uint64_t ms) {
  uint64_t end = uv_hrtime() + ms * 1000000u, now;
  uv_mutex_lock(&u->mutex);
  while (!u->is_stopping && (now = uv_hrtime()) < end) uv_cond_timedwait(&u->wake, &u->mutex, end - now);
  bool is_on = !u->is_stopping;
  uv_mutex_unlock(&u->mutex);
  return is_on;
}

static int64_t data_version(dvec_upkeep *u) {
  int64_t version = -1;
  if (sqlite3_step(u->version) == SQLITE_ROW) version = sqlite3_column_int64(u->version, 0);
  (void)sqlite3_reset(u->version);
  return version;
}

/* Runs a statement that returns one number, to its end. */
static int run(sqlite3_stmt *stmt, int64_t *number) {
  int rc = sqlite3_step(stmt);
  if (rc == SQLITE_ROW) {
    *number = sqlite3_column_int64(stmt, 0);
    rc = sqlite3_step(stmt);
  }
  int final = sqlite3_reset(stmt);
  return (rc == SQLITE_DONE ? final : rc) & 0xff;
}

static void note(dvec_upkeep *u, int rc, uint64_t us, uint64_t *count, bool is_idle) {
  uv_mutex_lock(&u->mutex);
  if (rc == SQLITE_OK) {
    (*count)++;
    if (us > u->stats.longest_step_us && count == &u->stats.n_steps) u->stats.longest_step_us = us;
  } else if (rc == SQLITE_BUSY) {
    u->stats.n_yields++;
  } else if (!u->is_stopping) {
    u->stats.code = rc;
  }
  u->stats.is_idle = is_idle;
  uv_mutex_unlock(&u->mutex);
}

/* Steps until nothing is left, or somebody writes, or one fails. true: nothing is left. */
static bool settle_all(dvec_upkeep *u, int64_t version) {
  int64_t left = INT64_MAX, before;
  do {
    if (!rest(u, 0)) return false;
    if (data_version(u) != version) {
      note(u, SQLITE_BUSY, 0, NULL, false);
      return false;
    }
    before = left;
    uint64_t begin = uv_hrtime();
    int rc = run(u->settle, &left);
    bool is_over = rc == SQLITE_OK && (left == 0 || left >= before);
    note(u, rc, (uv_hrtime() - begin) / 1000, &u->stats.n_steps, is_over);
    if (rc != SQLITE_OK) return false;
    if (is_over) return true;
  } while (true);
}

static void keep_up(void *upkeep) {
  dvec_upkeep *u = upkeep;
  int64_t done_version = -1, version = data_version(u);
  uint64_t compacted_at = uv_hrtime();
  while (rest(u, u->options.idle_ms)) {
    int64_t now = data_version(u);
    bool is_quiet = now == version;
    version = now;
    if (!is_quiet) continue;
    if (now != done_version && settle_all(u, version)) done_version = version;
    uint64_t every = u->options.compact_every_ms * (uint64_t)1000000;
    if (every && uv_hrtime() - compacted_at >= every && data_version(u) == version && rest(u, 0)) {
      int64_t ignored;
      note(u, run(u->compact, &ignored), 0, &u->stats.n_compactions, false);
      compacted_at = uv_hrtime();
      done_version = -1; /* it has emptied what was settled */
    }
  }
  uv_mutex_lock(&u->mutex);
  sqlite3 *sqlite = u->sqlite;
  u->sqlite = NULL;
  uv_mutex_unlock(&u->mutex);
  (void)sqlite3_finalize(u->settle);
  (void)sqlite3_finalize(u->compact);
  (void)sqlite3_finalize(u->version);
  (void)sqlite3_close(sqlite);
}

static void free_upkeep(dvec_upkeep *u) {
  uv_cond_destroy(&u->wake);
  uv_mutex_destroy(&u->mutex);
  free(u);
}

void dvec_upkeep_get_stats(dvec_upkeep *u, dvec_upkeep_stats *stats, size_t size) {
  uv_mutex_lock(&u->mutex);
  dvec_upkeep_stats now = u->stats;
  uv_mutex_unlock(&u->mutex);
  memset(stats, 0, size);
  memcpy(stats, &now, size < sizeof now ? size : sizeof now);
}

void dvec_upkeep_stop(dvec_upkeep *u) {
  if (!u) return;
  uv_mutex_lock(&u->mutex);
  u->is_stopping = true;
  if (u->sqlite) sqlite3_interrupt(u->sqlite);
  uv_cond_signal(&u->wake);
  uv_mutex_unlock(&u->mutex);
  uv_thread_join(&u->thread);
  free_upkeep(u);
}

static int prepare(dvec_upkeep *u, const char *path, const char *table, char **message) {
  sqlite3_stmt *probe = NULL;
  int rc = dvn_worker_open(path, u->options.sql, &u->sqlite, message);
  if (rc != SQLITE_OK) return rc;
  rc = sqlite3_prepare_v2(u->sqlite, "SELECT delta_settle(?1)", -1, &u->settle, NULL);
  if (rc == SQLITE_OK) rc = sqlite3_prepare_v2(u->sqlite, "SELECT delta_compact(?1)", -1, &u->compact, NULL);
  if (rc == SQLITE_OK) rc = sqlite3_prepare_v2(u->sqlite, "PRAGMA data_version", -1, &u->version, NULL);
  if (rc == SQLITE_OK) rc = sqlite3_prepare_v2(u->sqlite, "SELECT 1 FROM delta_log(?1, ?2)", -1, &probe, NULL);
  if (rc == SQLITE_OK) rc = sqlite3_bind_text(u->settle, 1, table, -1, SQLITE_TRANSIENT);
  if (rc == SQLITE_OK) rc = sqlite3_bind_text(u->compact, 1, table, -1, SQLITE_TRANSIENT);
  if (rc == SQLITE_OK) rc = sqlite3_bind_text(probe, 1, table, -1, SQLITE_STATIC);
  if (rc == SQLITE_OK) rc = sqlite3_bind_int64(probe, 2, 0);
  if (rc == SQLITE_OK) (void)sqlite3_step(probe); /* is there such a table? */
  int final = sqlite3_finalize(probe);
  if (rc == SQLITE_OK) rc = final;
  if (rc != SQLITE_OK && message) *message = sqlite3_mprintf("%s", sqlite3_errmsg(u->sqlite));
  sqlite3_busy_timeout(u->sqlite, 0); /* whoever has the lock goes before */
  return rc & 0xff;
}

int dvec_upkeep_start(const char *path, const char *table, const dvec_upkeep_options *options, dvec_upkeep **out,
                      char **message) {
  if (message) *message = NULL;
  if (!out) return DVEC_MISUSE;
  *out = NULL;
  if (!path || !table) return dvn_fail_null("dvec_upkeep_start", "path and table", message);
  dvec_upkeep *u = calloc(1, sizeof *u);
  if (!u) return dvn_explain(DVEC_NOMEM, message);
  if (!dvn_options_read(&u->options, sizeof u->options, options)) {
    free(u);
    if (message) *message = sqlite3_mprintf("delta_vectors: dvec_upkeep_options has values that are not known");
    return DVEC_MISUSE;
  }
  if (!u->options.idle_ms) u->options.idle_ms = UPKEEP_IDLE_MS;
  (void)uv_mutex_init(&u->mutex);
  (void)uv_cond_init(&u->wake);
  int rc = prepare(u, path, table, message);
  u->options.sql = NULL; /* the caller's */
  if (rc == SQLITE_OK && uv_thread_create(&u->thread, keep_up, u) != 0) rc = DVEC_NOMEM;
  if (rc == SQLITE_OK) {
    *out = u;
    return DVEC_OK;
  }
  (void)sqlite3_finalize(u->settle);
  (void)sqlite3_finalize(u->compact);
  (void)sqlite3_finalize(u->version);
  (void)sqlite3_close(u->sqlite);
  free_upkeep(u);
  return dvn_explain(rc, message);
}
