/*
 * subscription.c: the change feed on a loop.
 *
 * The reader, a thread with a connection of its own, reads a batch behind the last seq it has read, in one short read
 * transaction, and puts it where the loop finds it. The loop takes it and hands over one change after the other. So there
 * are two batches at most: the loop's, and the one that waits or is being read.
 *
 * Exactly once, in order: every query asks for what is behind the last seq read, and seqs never change. The bell (a file
 * event, or the poll's end of patience) only makes the reader look sooner; a bell too many costs a look at the data
 * version, one too few costs poll_ms.
 *
 * What compaction does to a reader. It merges deltas of a row into a create at the last one's seq: behind the reader, that
 * is nothing to it; before it, it reads one state in place of several. A row whose delete is removed is gone without a
 * trace but `purged_seq`, the largest seq of such a delete. If that is behind the last seq read, the reader may have missed
 * one (DVEC_BEHIND). A reader that begins at 0 knows no row that a removed delete could have deleted; so what was removed
 * before it began does not concern it, and until it is past that, any further removal does, since which one it was cannot
 * be told.
 */
#include "native_int.h"

#include <stdlib.h>
#include <uv.h>

#define SUBSCRIPTION_BATCH_COUNT 256u
#define SUBSCRIPTION_BATCH_BYTES ((uint64_t)1 << 20)
#define SUBSCRIPTION_POLL_MS 100u
#define SUBSCRIPTION_BUSY_MS 10u

/* A change whose pointers are places in the batch's bytes, which move while it grows. */
typedef struct batch_entry {
  dvec_change change;
  size_t id_at, delta_at, metadata_at;
  bool has_text_id, has_metadata;
} batch_entry;

typedef struct batch {
  dv_buf entries, bytes;
  size_t n, next;
} batch;

struct dvec_subscription {
  dvec_subscription_options options;
  uv_async_t async;
  uv_fs_event_t bell;
  uv_thread_t reader;
  char *name; /* of the file, without its directory: what the bell looks for */
  void (*on_closed)(void *user);
  batch *current; /* the loop's */
  int64_t seq; /* the last one handed over */
  bool is_paused, is_finishing, is_told; /* the loop's */
  int n_handles;

  uv_mutex_t mutex; /* guards what follows */
  uv_cond_t wake;
  batch *ready;
  bool is_rung, is_closing, is_done;
  int code; /* why the reader ended by itself */
  char *message;
  sqlite3 *sqlite;

  /* the reader's */
  sqlite3_stmt *log, *version, *status;
  int64_t last_read, from_seq;
  int64_t seen_version; /* the data version at which nothing was left to read; -1: none */
  int64_t checked_version, known_purged, known_removed;
};

/* ---- batches ----------------------------------------------------------------------------------------------------- */

static batch *new_batch(void) {
  batch *b = malloc(sizeof *b);
  if (!b) return NULL;
  memset(b, 0, sizeof *b);
  dv_buf_init(&b->entries, &dvn_heap);
  dv_buf_init(&b->bytes, &dvn_heap);
  return b;
}

static void free_batch(batch *b) {
  if (!b) return;
  dv_buf_free(&b->entries);
  dv_buf_free(&b->bytes);
  free(b);
}

static size_t keep(batch *b, const void *bytes, size_t n) {
  size_t at = b->bytes.n;
  dv_buf_bytes(&b->bytes, bytes, n);
  dv_buf_u8(&b->bytes, 0); /* texts end with one */
  return at;
}

static int add_change(batch *b, const dvec_change *c) {
  batch_entry e;
  memset(&e, 0, sizeof e);
  e.change = *c;
  e.has_text_id = c->id.text != NULL;
  e.has_metadata = c->metadata != NULL;
  if (e.has_text_id) e.id_at = keep(b, c->id.text, (size_t)c->id.n_text);
  if (e.has_metadata) e.metadata_at = keep(b, c->metadata, (size_t)c->n_metadata);
  e.delta_at = keep(b, c->delta, c->n_delta);
  dv_buf_bytes(&b->entries, &e, sizeof e);
  b->n++;
  return b->entries.status == DV_OK && b->bytes.status == DV_OK ? SQLITE_OK : SQLITE_NOMEM;
}

static dvec_change change_at(const batch *b, size_t i) {
  batch_entry e;
  memcpy(&e, b->entries.data + i * sizeof e, sizeof e);
  const char *bytes = (const char *)b->bytes.data;
  e.change.id.text = e.has_text_id ? bytes + e.id_at : NULL;
  e.change.metadata = e.has_metadata ? bytes + e.metadata_at : NULL;
  e.change.delta = bytes + e.delta_at;
  return e.change;
}

/* ---- the reader -------------------------------------------------------------------------------------------------- */

static int64_t data_version(dvec_subscription *s) {
  int64_t version = -1;
  if (sqlite3_step(s->version) == SQLITE_ROW) version = sqlite3_column_int64(s->version, 0);
  (void)sqlite3_reset(s->version);
  return version;
}

/* Inside the read transaction of a batch: was a delete taken away that has not been read? See the head of this file. */
static int check_removed(dvec_subscription *s, int64_t last_read, bool is_first) {
  int64_t version = data_version(s);
  if (!is_first && version == s->checked_version) return SQLITE_OK;
  int rc = sqlite3_step(s->status);
  if (rc == SQLITE_ROW) {
    const char *json = (const char *)sqlite3_column_text(s->status, 0);
    int64_t purged = dvn_json_integer(json, "purged_seq");
    int64_t removed = dvn_json_integer(json, "last_seq") - dvn_json_integer(json, "deltas");
    if (is_first) {
      s->known_purged = s->from_seq == 0 ? purged : 0;
      s->known_removed = removed;
    }
    bool is_behind = (purged > last_read && purged > s->known_purged) ||
                     (last_read < s->known_purged && removed != s->known_removed);
    s->checked_version = version;
    rc = is_behind ? DVEC_BEHIND : SQLITE_OK;
  }
  (void)sqlite3_reset(s->status);
  return rc;
}

static int read_rows(dvec_subscription *s, batch *b, bool *is_last) {
  const dvec_subscription_options *o = &s->options;
  int64_t last = s->last_read;
  bool has_hole = false;
  int rc = sqlite3_bind_int64(s->log, 2, last);
  while (rc == SQLITE_OK && b->n < o->batch_count && b->bytes.n < o->batch_bytes) {
    dvec_change change;
    rc = sqlite3_step(s->log);
    if (rc != SQLITE_ROW) break;
    rc = dvn_change_read(s->log, &change);
    if (rc == SQLITE_OK) rc = add_change(b, &change);
    if (change.seq != last + 1) has_hole = true;
    last = change.seq;
  }
  *is_last = rc == SQLITE_DONE;
  if (rc == SQLITE_DONE) rc = SQLITE_OK;
  bool is_first = s->checked_version == -1;
  if (rc == SQLITE_OK && (is_first || has_hole || s->last_read < s->known_purged)) {
    rc = check_removed(s, s->last_read, is_first);
  }
  if (rc == SQLITE_OK && *is_last) s->seen_version = data_version(s);
  if (rc == SQLITE_OK) s->last_read = last;
  return rc;
}

static int read_batch(dvec_subscription *s, batch *b, bool *is_last) {
  int rc = sqlite3_exec(s->sqlite, "BEGIN", NULL, NULL, NULL);
  if (rc != SQLITE_OK) return rc;
  rc = read_rows(s, b, is_last);
  if (rc != SQLITE_OK && rc != DVEC_BEHIND && rc != SQLITE_NOMEM) {
    uv_mutex_lock(&s->mutex);
    sqlite3_free(s->message);
    s->message = sqlite3_mprintf("%s", sqlite3_errmsg(s->sqlite));
    uv_mutex_unlock(&s->mutex);
  }
  (void)sqlite3_reset(s->log);
  (void)sqlite3_exec(s->sqlite, "COMMIT", NULL, NULL, NULL); /* of a read: nothing that could fail matters */
  return rc;
}

/* Waits until there may be something to read and room to put it. false: the subscription ends. */
static bool wait_for_bell(dvec_subscription *s, bool is_last, bool is_busy) {
  uv_mutex_lock(&s->mutex);
  while (s->ready && !s->is_closing) uv_cond_wait(&s->wake, &s->mutex);
  if (!s->is_closing && is_busy) {
    (void)uv_cond_timedwait(&s->wake, &s->mutex, SUBSCRIPTION_BUSY_MS * (uint64_t)1000000);
  } else if (!s->is_closing && is_last && !s->is_rung) {
    (void)uv_cond_timedwait(&s->wake, &s->mutex, s->options.poll_ms * (uint64_t)1000000);
  }
  s->is_rung = false;
  bool is_on = !s->is_closing;
  uv_mutex_unlock(&s->mutex);
  return is_on;
}

static void read_changes(void *subscription) {
  dvec_subscription *s = subscription;
  batch *b = NULL;
  bool is_last = false;
  int rc = SQLITE_OK;
  while (wait_for_bell(s, is_last, rc != SQLITE_OK)) {
    if (is_last && data_version(s) == s->seen_version) continue;
    if (!b) b = new_batch();
    if (!b) {
      rc = SQLITE_NOMEM;
      break;
    }
    b->n = b->next = 0;
    b->entries.n = b->bytes.n = 0;
    rc = read_batch(s, b, &is_last);
    if ((rc & 0xff) == SQLITE_BUSY) {
      is_last = false;
      continue;
    }
    if (rc != SQLITE_OK) break;
    if (b->n == 0) continue;
    uv_mutex_lock(&s->mutex);
    s->ready = b;
    uv_mutex_unlock(&s->mutex);
    b = NULL;
    uv_async_send(&s->async);
  }
  free_batch(b);
  uv_mutex_lock(&s->mutex);
  sqlite3 *sqlite = s->sqlite;
  s->sqlite = NULL;
  uv_mutex_unlock(&s->mutex);
  (void)sqlite3_finalize(s->log);
  (void)sqlite3_finalize(s->version);
  (void)sqlite3_finalize(s->status);
  (void)sqlite3_close(sqlite);
  uv_mutex_lock(&s->mutex);
  s->code = rc > 1000 && rc < 2000 ? rc : rc & 0xff;
  s->is_done = true;
  uv_mutex_unlock(&s->mutex);
  uv_async_send(&s->async);
}

/* ---- the loop ---------------------------------------------------------------------------------------------------- */

static void free_subscription(dvec_subscription *s) {
  free_batch(s->current);
  free_batch(s->ready);
  uv_cond_destroy(&s->wake);
  uv_mutex_destroy(&s->mutex);
  sqlite3_free(s->name);
  sqlite3_free(s->message);
  free(s);
}

static void on_handle_gone(uv_handle_t *handle) {
  dvec_subscription *s = handle->data;
  if (--s->n_handles > 0) return;
  if (s->on_closed) s->on_closed(s->options.user);
  free_subscription(s);
}

static void close_handles(dvec_subscription *s) {
  s->n_handles = 2;
  uv_close((uv_handle_t *)&s->async, on_handle_gone);
  uv_close((uv_handle_t *)&s->bell, on_handle_gone);
}

static batch *take_ready(dvec_subscription *s) {
  uv_mutex_lock(&s->mutex);
  batch *b = s->ready;
  s->ready = NULL;
  if (b) uv_cond_signal(&s->wake);
  uv_mutex_unlock(&s->mutex);
  return b;
}

static bool is_closing(dvec_subscription *s) {
  uv_mutex_lock(&s->mutex);
  bool is = s->is_closing;
  uv_mutex_unlock(&s->mutex);
  return is;
}

/* One batch; then other handles of the loop have their turn. true: there is no more for now. */
static bool deliver(dvec_subscription *s) {
  if (!s->current) s->current = take_ready(s);
  batch *b = s->current;
  if (!b) return true;
  while (b->next < b->n && !s->is_paused && !is_closing(s)) {
    dvec_change change = change_at(b, b->next++);
    s->seq = change.seq;
    s->options.on_change(s->options.user, &change);
  }
  if (b->next < b->n) return false;
  s->current = NULL;
  free_batch(b);
  uv_async_send(&s->async);
  return false;
}

static void on_turn(uv_async_t *async) {
  dvec_subscription *s = async->data;
  if (s->is_finishing) return;
  bool is_at_end = s->is_paused ? false : deliver(s);
  uv_mutex_lock(&s->mutex);
  bool is_over = s->is_done && s->is_closing, is_failed = s->is_done && !s->is_closing && !s->ready;
  uv_mutex_unlock(&s->mutex);
  if (is_over) {
    s->is_finishing = true;
    uv_thread_join(&s->reader);
    close_handles(s);
  } else if (is_failed && is_at_end && !s->is_told) {
    s->is_told = true;
    /* The reader has ended: what it left is ours. */
    if (s->options.on_error) {
      s->options.on_error(s->options.user, s->code, s->message ? s->message : dvec_code_text(s->code));
    }
  }
}

static void on_bell(uv_fs_event_t *bell, const char *name, int events, int status) {
  dvec_subscription *s = bell->data;
  (void)events;
  /* The file itself, its -wal, its -journal. Without a name it may be any of them. */
  if (status == 0 && name && strncmp(name, s->name, strlen(s->name)) != 0) return;
  uv_mutex_lock(&s->mutex);
  s->is_rung = true;
  uv_cond_signal(&s->wake);
  uv_mutex_unlock(&s->mutex);
}

void dvec_subscription_pause(dvec_subscription *s) { s->is_paused = true; }

void dvec_subscription_resume(dvec_subscription *s) {
  s->is_paused = false;
  if (!s->is_finishing) uv_async_send(&s->async);
}

int64_t dvec_subscription_seq(const dvec_subscription *s) { return s->seq; }

void dvec_subscription_close(dvec_subscription *s, void (*on_closed)(void *user)) {
  if (!s) return;
  uv_mutex_lock(&s->mutex);
  if (!s->is_closing) s->on_closed = on_closed;
  s->is_closing = true;
  if (s->sqlite) sqlite3_interrupt(s->sqlite);
  uv_cond_signal(&s->wake);
  uv_mutex_unlock(&s->mutex);
  if (!s->is_finishing) uv_async_send(&s->async); /* the reader may have ended long ago */
}

/* ---- opening ----------------------------------------------------------------------------------------------------- */

/* Prepares what the reader runs, and asks once: is there such a table? */
static int prepare(dvec_subscription *s, const char *path, const char *table, char **message) {
  int rc = dvn_worker_open(path, s->options.sql, &s->sqlite, message);
  if (rc != SQLITE_OK) return rc;
  rc = sqlite3_prepare_v3(s->sqlite, DVN_LOG_SQL, -1, SQLITE_PREPARE_PERSISTENT, &s->log, NULL);
  if (rc == SQLITE_OK) rc = sqlite3_prepare_v2(s->sqlite, "PRAGMA data_version", -1, &s->version, NULL);
  if (rc == SQLITE_OK) rc = sqlite3_prepare_v2(s->sqlite, "SELECT delta_status(?1)", -1, &s->status, NULL);
  if (rc == SQLITE_OK) rc = sqlite3_bind_text(s->log, 1, table, -1, SQLITE_TRANSIENT);
  if (rc == SQLITE_OK) rc = sqlite3_bind_text(s->status, 1, table, -1, SQLITE_TRANSIENT);
  if (rc == SQLITE_OK) rc = sqlite3_bind_int64(s->log, 2, s->last_read);
  if (rc == SQLITE_OK) {
    (void)sqlite3_step(s->log);
    rc = sqlite3_reset(s->log);
  }
  if (rc != SQLITE_OK && message) *message = sqlite3_mprintf("%s", sqlite3_errmsg(s->sqlite));
  return rc & 0xff;
}

/* Listens to the directory, since the -wal file comes and goes. Where that is not possible the poll has to do. */
static int listen_for_bell(dvec_subscription *s, uv_loop_t *loop) {
  const char *path = sqlite3_db_filename(s->sqlite, "main");
  const char *slash = path ? strrchr(path, '/') : NULL;
  s->name = sqlite3_mprintf("%s", slash ? slash + 1 : path ? path : "");
  char *directory = slash ? sqlite3_mprintf("%.*s", slash > path ? (int)(slash - path) : 1, path) : NULL;
  if (!s->name || uv_fs_event_init(loop, &s->bell) != 0) {
    sqlite3_free(directory);
    return SQLITE_NOMEM;
  }
  s->bell.data = s;
  if (directory) (void)uv_fs_event_start(&s->bell, on_bell, directory, 0);
  sqlite3_free(directory);
  return SQLITE_OK;
}

static void abandon(dvec_subscription *s) {
  (void)sqlite3_finalize(s->log);
  (void)sqlite3_finalize(s->version);
  (void)sqlite3_finalize(s->status);
  (void)sqlite3_close(s->sqlite);
}

int dvec_subscribe(struct uv_loop_s *loop, const char *path, const char *table, int64_t from_seq,
                   const dvec_subscription_options *options, dvec_subscription **out, char **message) {
  if (message) *message = NULL;
  if (!out) return DVEC_MISUSE;
  *out = NULL;
  if (!loop || !path || !table) return dvn_fail_null("dvec_subscribe", "loop, path and table", message);
  if (from_seq < 0) {
    if (message)
      *message =
          sqlite3_mprintf("delta_vectors: dvec_subscribe: from_seq is %lld: expected 0 or more", (long long)from_seq);
    return DVEC_MISUSE;
  }
  dvec_subscription *s = calloc(1, sizeof *s);
  if (!s) return dvn_explain(DVEC_NOMEM, message);
  if (!dvn_options_read(&s->options, sizeof s->options, options) || !s->options.on_change) {
    free(s);
    if (message)
      *message =
          sqlite3_mprintf("delta_vectors: dvec_subscription_options has values that are not known, or no on_change");
    return DVEC_MISUSE;
  }
  if (!s->options.batch_count) s->options.batch_count = SUBSCRIPTION_BATCH_COUNT;
  if (!s->options.batch_bytes) s->options.batch_bytes = SUBSCRIPTION_BATCH_BYTES;
  if (!s->options.poll_ms) s->options.poll_ms = SUBSCRIPTION_POLL_MS;
  s->seq = s->last_read = s->from_seq = from_seq;
  s->seen_version = s->checked_version = -1;
  (void)uv_mutex_init(&s->mutex);
  (void)uv_cond_init(&s->wake);
  int rc = prepare(s, path, table, message);
  if (rc == SQLITE_OK && uv_async_init(loop, &s->async, on_turn) != 0) rc = DVEC_NOMEM;
  if (rc != SQLITE_OK) {
    abandon(s);
    free_subscription(s);
    return dvn_explain(rc, message);
  }
  s->async.data = s;
  s->options.sql = NULL; /* the caller's */
  rc = listen_for_bell(s, loop);
  if (rc == SQLITE_OK && uv_thread_create(&s->reader, read_changes, s) == 0) {
    *out = s;
    return DVEC_OK;
  }
  /* The handles are the loop's until it has run. */
  abandon(s);
  s->n_handles = rc == SQLITE_OK ? 2 : 1;
  s->is_finishing = true;
  uv_close((uv_handle_t *)&s->async, on_handle_gone);
  if (rc == SQLITE_OK) uv_close((uv_handle_t *)&s->bell, on_handle_gone);
  return dvn_explain(DVEC_NOMEM, message);
}
