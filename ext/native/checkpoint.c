/*
 * checkpoint.c: SQLite's checkpoints, out of a writer's commits.
 *
 * Copying a thousand pages of the WAL into the database and syncing both files takes tens of milliseconds. SQLite does it
 * inside the commit that made the thousandth page, where a window of deltas, and all who wait behind it, wait for it.
 * Here a thread with a connection of its own does it while the writer goes on.
 *
 * Such a checkpoint never comes to the end of a WAL that grows meanwhile, and only at its end may the WAL begin anew. So
 * when it has grown to CHECKPOINT_MOST times the limit, the writer's commit does the rest, of which little is left.
 */
#include "native_int.h"

#include <stdlib.h>
#include <uv.h>

#define CHECKPOINT_MOST 4

struct dvn_checkpointer {
  sqlite3 *writer;
  int limit; /* pages: PRAGMA wal_autocheckpoint */
  int next_asked, next_done; /* the writer's: at so many pages the thread is asked, or the writer does it */
  uv_thread_t thread;

  uv_mutex_t mutex; /* guards what follows */
  uv_cond_t wake;
  bool is_asked, is_stopping;
  sqlite3 *own; /* the thread's; others only interrupt it */
};

static void ask(dvn_checkpointer *c) {
  uv_mutex_lock(&c->mutex);
  c->is_asked = true;
  uv_cond_signal(&c->wake);
  uv_mutex_unlock(&c->mutex);
}

/* After a commit of the writer, which has released the lock. A checkpoint that fails has done part of its work, or none:
 * the commit stands all the same. */
static int on_commit(void *checkpointer, sqlite3 *writer, const char *schema, int n_pages) {
  dvn_checkpointer *c = checkpointer;
  if (n_pages < c->limit) { /* it has begun anew */
    c->next_asked = c->limit;
    c->next_done = CHECKPOINT_MOST * c->limit;
  } else if (n_pages >= c->next_done) {
    (void)sqlite3_wal_checkpoint_v2(writer, schema, SQLITE_CHECKPOINT_PASSIVE, NULL, NULL);
    c->next_done = n_pages + c->limit;
  } else if (n_pages >= c->next_asked) {
    ask(c);
    c->next_asked = n_pages + c->limit / 2;
  }
  return SQLITE_OK;
}

static void copy_pages(void *checkpointer) {
  dvn_checkpointer *c = checkpointer;
  uv_mutex_lock(&c->mutex);
  while (!c->is_stopping) {
    if (!c->is_asked) {
      uv_cond_wait(&c->wake, &c->mutex);
      continue;
    }
    c->is_asked = false;
    uv_mutex_unlock(&c->mutex);
    (void)sqlite3_wal_checkpoint_v2(c->own, "main", SQLITE_CHECKPOINT_PASSIVE, NULL, NULL);
    uv_mutex_lock(&c->mutex);
  }
  uv_mutex_unlock(&c->mutex);
}

/* What a PRAGMA says: a number, or 1 if it is this text. */
static int pragma(sqlite3 *sqlite, const char *sql, const char *text) {
  sqlite3_stmt *stmt = NULL;
  int value = 0;
  if (sqlite3_prepare_v2(sqlite, sql, -1, &stmt, NULL) == SQLITE_OK && sqlite3_step(stmt) == SQLITE_ROW) {
    const char *said = (const char *)sqlite3_column_text(stmt, 0);
    value = text ? said && strcmp(said, text) == 0 : sqlite3_column_int(stmt, 0);
  }
  (void)sqlite3_finalize(stmt);
  return value;
}

/* A connection that syncs as the writer's does. */
static int open_own(dvn_checkpointer *c, const char *path) {
  static const char *const syncs[] = {"PRAGMA synchronous=OFF", "PRAGMA synchronous=NORMAL", "PRAGMA synchronous=FULL",
                                      "PRAGMA synchronous=EXTRA"};
  int sync = pragma(c->writer, "PRAGMA synchronous", NULL);
  int rc = sqlite3_open_v2(path, &c->own, DVN_OPEN_FLAGS, NULL);
  if (rc == SQLITE_OK) rc = sqlite3_exec(c->own, syncs[sync & 3], NULL, NULL, NULL);
  return rc;
}

static void free_checkpointer(dvn_checkpointer *c) {
  (void)sqlite3_close(c->own);
  uv_cond_destroy(&c->wake);
  uv_mutex_destroy(&c->mutex);
  free(c);
}

dvn_checkpointer *dvn_checkpointer_start(sqlite3 *writer, const char *path) {
  int limit = pragma(writer, "PRAGMA wal_autocheckpoint", NULL); /* 0: turned off, or the caller has a hook */
  bool is_of_use = limit > 0 && limit <= INT_MAX / (2 * CHECKPOINT_MOST);
  /* A second connection would keep the writer from having the file for itself, for ever. */
  if (pragma(writer, "PRAGMA locking_mode", "exclusive")) is_of_use = false;
  dvn_checkpointer *c = is_of_use ? calloc(1, sizeof *c) : NULL;
  if (!c) return NULL;
  c->writer = writer;
  c->limit = c->next_asked = limit;
  c->next_done = CHECKPOINT_MOST * limit;
  (void)uv_mutex_init(&c->mutex);
  (void)uv_cond_init(&c->wake);
  if (open_own(c, path) == SQLITE_OK && uv_thread_create(&c->thread, copy_pages, c) == 0) {
    sqlite3_wal_hook(writer, on_commit, c);
    return c;
  }
  free_checkpointer(c);
  return NULL;
}

void dvn_checkpointer_stop(dvn_checkpointer *c) {
  if (!c) return;
  sqlite3_wal_autocheckpoint(c->writer, c->limit);
  uv_mutex_lock(&c->mutex);
  c->is_stopping = true;
  sqlite3_interrupt(c->own);
  uv_cond_signal(&c->wake);
  uv_mutex_unlock(&c->mutex);
  uv_thread_join(&c->thread);
  free_checkpointer(c);
}
