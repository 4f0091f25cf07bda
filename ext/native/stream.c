/*
 * stream.c: deltas from any thread, applied in windows by a worker, acknowledged on a loop.
 *
 * Who owns what
 *
 *   the queue     a ring of bytes: for each delta its length, the time of its push, its frame. Under the mutex
 *   the window    the worker's: frames that were taken out of the queue, which has their room again at once
 *   connection    the worker's; others only call sqlite3_interrupt() on it, under the mutex, and the worker takes it away
 *                 from them, under the mutex, before it closes it
 *   acks          a list under the mutex, from the worker to the loop. An ack is made before its window is applied, since
 *                 behind the COMMIT nothing may fail
 *   async handle  the loop's. The last uv_async_send() is the worker's last act, and the handle is closed behind a join
 *
 * One mutex. Nothing is called while it is held but memcpy, and uv_async_send() never needs it.
 *
 * Waiting. Producers wait for room (DVEC_BLOCK); the worker for work, for its window to fill, for the loop to take acks
 * when it has left too many, and for another writer's lock. Each of these waits ends with a close: DVEC_DRAIN ends the
 * waits for work and for filling, DVEC_CANCEL all of them. The loop waits for nobody, so a loop that is stopped for a
 * while, or for good, stops the worker at most; and dvec_stream_push() does not wait on the loop's own thread.
 *
 * A failed delta. A window is one batch, which applies all or nothing. When it is refused, the two halves are applied, the
 * first one first, and so on down to the delta that is to blame: what is applied, and in which order, is the same as one
 * by one, and a window without failures, the usual one, costs one statement.
 */
#include "native_int.h"

#include <stdlib.h>
#include <uv.h>

#define STREAM_QUEUE_BYTES ((uint64_t)16 << 20)
#define STREAM_MAX_BYTES ((uint64_t)1 << 20)
#define STREAM_MAX_COUNT 8192u
#define STREAM_MAX_DELAY_US 5000u
/* So many deltas share a transaction's cost well enough: a window does not wait for more. */
#define STREAM_ENOUGH 128.0
/* Windows and failures that the loop may leave lying before the worker waits for it. */
#define STREAM_MAX_UNSEEN 4096u
#define STREAM_BUSY_MS 50u /* longest wait between two attempts at a lock */
#define STREAM_HEADER (sizeof(uint32_t) + sizeof(uint64_t))

typedef struct stream_ack {
  struct stream_ack *next;
  dvec_ack ack;
  char *message; /* ack.message; sqlite3_free() */
} stream_ack;

typedef struct stream_window {
  uint8_t *bytes; /* max_bytes */
  size_t *ends; /* max_count: where each frame ends */
  uint32_t n;
  uint64_t first; /* position */
  uint64_t pushed_at; /* of the first */
} stream_window;

struct dvec_stream {
  dvec_stream_options options;
  uv_loop_t *loop;
  uv_async_t async;
  uv_thread_t worker, loop_thread;
  void (*on_closed)(void *user, const dvec_stream_stats *stats);
  bool is_finishing, is_closed; /* the loop's */

  uv_mutex_t mutex; /* guards all that follows */
  uv_cond_t work, room, seen, cancelled;
  uint8_t *ring;
  uint64_t head, used; /* bytes */
  uint64_t n_queued; /* deltas: positions stats.n_pushed - n_queued + 1 and on */
  uint64_t flushed; /* the position up to which nothing waits */
  uint32_t n_waiting; /* producers */
  int32_t closing; /* 0, DVEC_DRAIN, DVEC_CANCEL */
  bool is_done; /* the worker's last word */
  sqlite3 *sqlite;
  stream_ack *first_ack, **last_ack;
  uint64_t n_unseen;
  dvec_stream_stats stats;

  /* the worker's */
  sqlite3_stmt *apply;
  dvn_checkpointer *checkpointer;
  char *table;
  stream_window window;
  uint64_t told; /* the last position in an ack */
  double rate; /* deltas a nanosecond, lately */
  uint64_t rated_at, rated_pushed;
};

/* ---- the queue --------------------------------------------------------------------------------------------------- */

static void ring_put(dvec_stream *s, const void *bytes, size_t n) {
  uint64_t at = (s->head + s->used) % s->options.queue_bytes, left = s->options.queue_bytes - at;
  size_t first = n < left ? n : (size_t)left;
  memcpy(s->ring + at, bytes, first);
  memcpy(s->ring, (const uint8_t *)bytes + first, n - first);
  s->used += n;
}

/* `from` bytes behind the head. */
static void ring_look(const dvec_stream *s, uint64_t from, void *bytes, size_t n) {
  uint64_t at = (s->head + from) % s->options.queue_bytes, left = s->options.queue_bytes - at;
  size_t first = n < left ? n : (size_t)left;
  memcpy(bytes, s->ring + at, first);
  memcpy((uint8_t *)bytes + first, s->ring, n - first);
}

static uint32_t ring_length(const dvec_stream *s) {
  uint32_t n;
  ring_look(s, 0, &n, sizeof n);
  return n;
}

static uint64_t ring_time(const dvec_stream *s) {
  uint64_t time;
  ring_look(s, sizeof(uint32_t), &time, sizeof time);
  return time;
}

static void ring_pop(dvec_stream *s) {
  uint64_t n = STREAM_HEADER + ring_length(s);
  s->head = (s->head + n) % s->options.queue_bytes;
  s->used -= n;
  s->n_queued--;
}

static uint64_t head_position(const dvec_stream *s) { return s->stats.n_pushed - s->n_queued + 1; }

/* ---- pushing: any thread ----------------------------------------------------------------------------------------- */

static int make_room(dvec_stream *s, uint64_t n) {
  while (!s->closing && s->options.queue_bytes - s->used < n) {
    if (s->options.when_full == DVEC_FAIL) return DVEC_FULL_QUEUE;
    if (s->options.when_full == DVEC_DROP_OLDEST) {
      ring_pop(s);
      s->stats.n_dropped++;
      continue;
    }
    uv_thread_t self = uv_thread_self();
    if (uv_thread_equal(&self, &s->loop_thread)) return DVEC_WOULD_BLOCK;
    s->n_waiting++;
    uv_cond_signal(&s->work);
    uv_cond_wait(&s->room, &s->mutex);
    s->n_waiting--;
  }
  return s->closing ? DVEC_CLOSED : DVEC_OK;
}

static bool is_window_full(const dvec_stream *s) {
  return s->n_queued >= s->options.max_count || s->used >= s->options.max_bytes || s->n_waiting > 0;
}

int dvec_stream_push(dvec_stream *s, const dvec_delta *delta, uint64_t *position, char *message, size_t n_message) {
  char reason[DVN_MESSAGE] = "";
  dv_buf frame;
  if (!s) return DVEC_MISUSE;
  dv_buf_init(&frame, &dvn_heap);
  int rc = dvn_delta_encode(&frame, delta, reason);
  if (rc == SQLITE_OK && frame.n > s->options.max_bytes) {
    sqlite3_snprintf(DVN_MESSAGE, reason, "delta_vectors: the delta has %lld bytes, max_bytes of the stream is %lld",
                     (long long)frame.n, (long long)s->options.max_bytes);
    rc = SQLITE_TOOBIG;
  }
  if (rc == SQLITE_OK) {
    uint32_t n = (uint32_t)frame.n;
    uint64_t now = uv_hrtime();
    uv_mutex_lock(&s->mutex);
    rc = make_room(s, STREAM_HEADER + frame.n);
    if (rc == DVEC_OK) {
      bool was_empty = s->n_queued == 0, was_full = is_window_full(s);
      ring_put(s, &n, sizeof n);
      ring_put(s, &now, sizeof now);
      ring_put(s, frame.data, frame.n);
      s->n_queued++;
      s->stats.n_pushed++;
      if (position) *position = s->stats.n_pushed;
      if (s->used > s->stats.queue_bytes_peak) s->stats.queue_bytes_peak = s->used;
      if (was_empty || (!was_full && is_window_full(s))) uv_cond_signal(&s->work);
    }
    uv_mutex_unlock(&s->mutex);
  }
  dv_buf_free(&frame);
  if (rc != DVEC_OK && message && n_message) {
    sqlite3_snprintf(n_message > INT32_MAX ? INT32_MAX : (int)n_message, message, "%s",
                     reason[0] ? reason : dvec_code_text(rc));
  }
  return rc;
}

void dvec_stream_flush(dvec_stream *s) {
  uv_mutex_lock(&s->mutex);
  s->flushed = s->stats.n_pushed;
  uv_cond_signal(&s->work);
  uv_mutex_unlock(&s->mutex);
}

static dvec_stream_stats stats_now(dvec_stream *s) {
  uv_mutex_lock(&s->mutex);
  dvec_stream_stats stats = s->stats;
  stats.queue_count = s->n_queued;
  stats.queue_bytes = s->used;
  uv_mutex_unlock(&s->mutex);
  return stats;
}

void dvec_stream_get_stats(dvec_stream *s, dvec_stream_stats *stats, size_t size) {
  dvec_stream_stats now = stats_now(s);
  memset(stats, 0, size);
  memcpy(stats, &now, size < sizeof now ? size : sizeof now);
}

/* ---- the worker: acks -------------------------------------------------------------------------------------------- */

static void free_ack(stream_ack *a) {
  for (dvec_failure *f = (dvec_failure *)(uintptr_t)a->ack.failures, *next; f; f = next) {
    next = (dvec_failure *)(uintptr_t)f->next;
    sqlite3_free(f);
  }
  sqlite3_free(a->message);
  sqlite3_free(a);
}

static void give_ack(dvec_stream *s, stream_ack *a) {
  dvec_ack *ack = &a->ack;
  a->next = NULL;
  ack->n_dropped = ack->first_position - s->told - 1;
  s->told = ack->last_position;
  uv_mutex_lock(&s->mutex);
  s->stats.n_applied += ack->n_applied;
  if (ack->code == DVEC_CANCELLED)
    s->stats.n_cancelled += ack->n_failed;
  else
    s->stats.n_failed += ack->n_failed;
  *s->last_ack = a;
  s->last_ack = &a->next;
  s->n_unseen += 1 + (ack->failures ? ack->n_failed : 0);
  uv_mutex_unlock(&s->mutex);
  uv_async_send(&s->async);
}

/* The whole window is not in the database. */
static void fail_ack(stream_ack *a, int code, const char *message) {
  dvec_ack *ack = &a->ack;
  for (dvec_failure *f = (dvec_failure *)(uintptr_t)ack->failures, *next; f; f = next) {
    next = (dvec_failure *)(uintptr_t)f->next;
    sqlite3_free(f);
  }
  sqlite3_free(a->message);
  a->message = sqlite3_mprintf("%s", message);
  ack->code = code & 0x7fff;
  ack->message = a->message ? a->message : "";
  ack->failures = NULL;
  ack->first_seq = ack->last_seq = 0;
  ack->n_applied = 0;
  ack->n_failed = ack->last_position - ack->first_position + 1;
}

/* ---- the worker: a window in a transaction ----------------------------------------------------------------------- */

static bool is_cancelled(dvec_stream *s) {
  uv_mutex_lock(&s->mutex);
  bool is = s->closing == DVEC_CANCEL;
  uv_mutex_unlock(&s->mutex);
  return is;
}

/* Before attempt n + 1 at a lock: 1 ms, 2, 4, ... false: cancelled. */
static bool back_off(dvec_stream *s, int n) {
  uint64_t ms = n < 6 ? 1u << n : STREAM_BUSY_MS;
  uint64_t end = uv_hrtime() + (ms > STREAM_BUSY_MS ? STREAM_BUSY_MS : ms) * 1000000u, now;
  uv_mutex_lock(&s->mutex);
  s->stats.n_busy++;
  while (s->closing != DVEC_CANCEL && (now = uv_hrtime()) < end) uv_cond_timedwait(&s->cancelled, &s->mutex, end - now);
  bool is_on = s->closing != DVEC_CANCEL;
  uv_mutex_unlock(&s->mutex);
  return is_on;
}

/* For the locks that SQLite waits for in the middle of a statement. */
static int on_busy(void *stream, int n) { return back_off(stream, n); }

static int run(dvec_stream *s, const char *sql) { return sqlite3_exec(s->sqlite, sql, NULL, NULL, NULL); }

/* SQLite does not ask the busy handler where waiting could be a deadlock. */
static int run_patiently(dvec_stream *s, const char *sql) {
  int rc = run(s, sql);
  for (int n = 0; (rc & 0xff) == SQLITE_BUSY && back_off(s, n); n++) rc = run(s, sql);
  return rc;
}

static int note_failure(dvec_stream *s, stream_ack *a, const dvec_failure ***last, uint64_t position, int rc) {
  const char *message = sqlite3_errmsg(s->sqlite);
  size_t n = strlen(message) + 1;
  dvec_failure *f = sqlite3_malloc64(sizeof *f + n);
  if (!f) return SQLITE_NOMEM;
  f->next = NULL;
  f->position = position;
  f->code = rc & 0xff;
  f->message = memcpy(f + 1, message, n);
  **last = f;
  *last = (const dvec_failure **)&f->next;
  a->ack.n_failed++;
  return SQLITE_OK;
}

/* Applies the deltas from..to-1 of the window; see "A failed delta". */
static int apply_part(dvec_stream *s, stream_ack *a, const dvec_failure ***last, uint32_t from, uint32_t to) {
  const stream_window *w = &s->window;
  size_t begin = from ? w->ends[from - 1] : 0;
  int rc = sqlite3_bind_blob(s->apply, 2, w->bytes + begin, (int)(w->ends[to - 1] - begin), SQLITE_STATIC);
  if (rc == SQLITE_OK) rc = sqlite3_step(s->apply);
  if (rc == SQLITE_ROW) {
    const char *json = (const char *)sqlite3_column_text(s->apply, 0);
    int64_t first = dvn_json_integer(json, "firstSeq"), end = dvn_json_integer(json, "lastSeq");
    rc = sqlite3_step(s->apply); /* to its end, so that a failure there counts */
    if (rc == SQLITE_DONE) {
      if (a->ack.n_applied == 0) a->ack.first_seq = first;
      a->ack.last_seq = end;
      a->ack.n_applied += to - from;
      rc = SQLITE_OK;
    }
  }
  if (rc == SQLITE_OK || !dvn_code_is_of_delta(rc) || sqlite3_get_autocommit(s->sqlite)) {
    (void)sqlite3_reset(s->apply);
    return rc;
  }
  /* An interrupt can come out of SQLite as SQLITE_ERROR: when it hits the preparing of a statement. */
  if (is_cancelled(s)) {
    (void)sqlite3_reset(s->apply);
    return SQLITE_INTERRUPT;
  }
  if (to - from == 1) {
    rc = note_failure(s, a, last, w->first + from, rc);
    (void)sqlite3_reset(s->apply);
    return rc;
  }
  (void)sqlite3_reset(s->apply);
  uint32_t middle = from + (to - from) / 2;
  rc = apply_part(s, a, last, from, middle);
  return rc == SQLITE_OK ? apply_part(s, a, last, middle, to) : rc;
}

static void apply_window(dvec_stream *s, stream_ack *a) {
  const dvec_failure **last = &a->ack.failures;
  int rc = run_patiently(s, "BEGIN IMMEDIATE");
  if (rc == SQLITE_OK) rc = apply_part(s, a, &last, 0, s->window.n);
  if (rc == SQLITE_OK) rc = run_patiently(s, "COMMIT");
  if (rc != SQLITE_OK) {
    bool is_by_cancel = ((rc & 0xff) == SQLITE_BUSY || (rc & 0xff) == SQLITE_INTERRUPT) && is_cancelled(s);
    fail_ack(a, is_by_cancel ? DVEC_CANCELLED : rc & 0xff,
             is_by_cancel ? dvec_code_text(DVEC_CANCELLED) : sqlite3_errmsg(s->sqlite));
    if (!sqlite3_get_autocommit(s->sqlite)) (void)run(s, "ROLLBACK");
  }
  a->ack.age_us = (uv_hrtime() - s->window.pushed_at) / 1000;
}

/* ---- the worker: when a window ends ------------------------------------------------------------------------------ */

/* How long the first delta of a window may wait for others, in nanoseconds. Under the mutex. */
static uint64_t patience(dvec_stream *s, uint64_t now) {
  double most = 1000.0 * s->options.max_delay_us;
  if (now - s->rated_at > 1000000 || s->rated_pushed == 0) { /* at least a millisecond, or the rate is noise */
    double rate = (double)(s->stats.n_pushed - s->rated_pushed) / (double)(now - s->rated_at);
    s->rate = s->rated_pushed ? (s->rate + rate) / 2 : rate;
    s->rated_at = now;
    s->rated_pushed = s->stats.n_pushed;
  }
  if (s->rate * most < 2) return 0; /* nobody else would come */
  double wait = STREAM_ENOUGH / s->rate;
  return (uint64_t)(wait < most ? wait : most);
}

/* Waits for a window and takes it out of the queue. false: the stream ends. */
static bool take_window(dvec_stream *s) {
  stream_window *w = &s->window;
  uv_mutex_lock(&s->mutex);
  while (s->n_queued == 0 && !s->closing) uv_cond_wait(&s->work, &s->mutex);
  uint64_t now = uv_hrtime(), wait = patience(s, now);
  while (s->n_queued > 0 && !s->closing && !is_window_full(s) && head_position(s) > s->flushed) {
    uint64_t end = ring_time(s) + wait; /* the first one may have been dropped meanwhile */
    now = uv_hrtime();
    if (now >= end) break;
    uv_cond_timedwait(&s->work, &s->mutex, end - now);
  }
  while (s->n_unseen >= STREAM_MAX_UNSEEN && s->closing != DVEC_CANCEL) uv_cond_wait(&s->seen, &s->mutex);
  w->n = 0;
  if (s->closing != DVEC_CANCEL && s->n_queued > 0) {
    w->first = head_position(s);
    w->pushed_at = ring_time(s);
    for (size_t at = 0; s->n_queued > 0 && w->n < s->options.max_count;) {
      uint32_t n = ring_length(s);
      if (at + n > s->options.max_bytes) break;
      ring_look(s, STREAM_HEADER, w->bytes + at, n);
      at += n;
      w->ends[w->n++] = at;
      ring_pop(s);
    }
    s->stats.n_windows++;
    uv_cond_broadcast(&s->room);
  }
  bool is_over = w->n == 0 && s->closing;
  uv_mutex_unlock(&s->mutex);
  return !is_over;
}

static stream_ack *new_ack(uint64_t first, uint64_t last) {
  stream_ack *a = sqlite3_malloc64(sizeof *a);
  if (!a) return NULL;
  memset(a, 0, sizeof *a);
  a->ack.first_position = first;
  a->ack.last_position = last;
  return a;
}

/* With DVEC_CANCEL: what nobody will apply. */
static void cancel_rest(dvec_stream *s, stream_ack *a) {
  uv_mutex_lock(&s->mutex);
  uint64_t first = head_position(s), n = s->n_queued;
  s->used = s->n_queued = 0;
  uv_mutex_unlock(&s->mutex);
  if (n == 0 && first - 1 == s->told) {
    free_ack(a);
    return;
  }
  a->ack.first_position = first;
  a->ack.last_position = first + n - 1;
  fail_ack(a, DVEC_CANCELLED, dvec_code_text(DVEC_CANCELLED));
  give_ack(s, a);
}

static void release_connection(dvec_stream *s, sqlite3 *sqlite) {
  dvn_checkpointer_stop(s->checkpointer);
  (void)sqlite3_finalize(s->apply);
  (void)sqlite3_close(sqlite);
}

static void work(void *stream) {
  dvec_stream *s = stream;
  stream_ack *spare = NULL; /* the next window's, or that of what is cancelled */
  for (int n = 0;; n++) {
    /* Without memory for the ack nothing is applied that could not be told of. */
    if (!spare) spare = new_ack(0, 0);
    if (!spare) {
      (void)back_off(s, n < 6 ? n : 6);
      continue;
    }
    n = -1;
    if (!take_window(s)) break;
    if (s->window.n == 0) continue;
    stream_ack *a = spare;
    spare = NULL;
    a->ack.first_position = s->window.first;
    a->ack.last_position = s->window.first + s->window.n - 1;
    a->ack.n_bytes = s->window.ends[s->window.n - 1];
    apply_window(s, a);
    give_ack(s, a);
  }
  cancel_rest(s, spare);
  uv_mutex_lock(&s->mutex);
  sqlite3 *sqlite = s->sqlite;
  s->sqlite = NULL;
  uv_mutex_unlock(&s->mutex);
  release_connection(s, sqlite);
  uv_mutex_lock(&s->mutex);
  s->is_done = true;
  uv_mutex_unlock(&s->mutex);
  uv_async_send(&s->async);
}

/* ---- the loop ---------------------------------------------------------------------------------------------------- */

static void on_handle_closed(uv_handle_t *handle) {
  dvec_stream *s = handle->data;
  dvec_stream_stats stats = stats_now(s);
  s->is_closed = true;
  if (s->on_closed) s->on_closed(s->options.user, &stats); /* which may free s */
}

static void on_async(uv_async_t *async) {
  dvec_stream *s = async->data;
  for (;;) {
    uv_mutex_lock(&s->mutex);
    stream_ack *a = s->first_ack;
    bool is_over = !a && s->is_done && !s->is_finishing;
    if (a) {
      s->first_ack = a->next;
      if (!s->first_ack) s->last_ack = &s->first_ack;
      s->n_unseen -= 1 + (a->ack.failures ? a->ack.n_failed : 0);
      uv_cond_signal(&s->seen);
    }
    uv_mutex_unlock(&s->mutex);
    if (a) {
      if (s->options.on_ack) s->options.on_ack(s->options.user, &a->ack);
      free_ack(a);
      continue;
    }
    if (is_over) {
      s->is_finishing = true;
      uv_thread_join(&s->worker);
      uv_close((uv_handle_t *)async, on_handle_closed);
    }
    return;
  }
}

int dvec_stream_close(dvec_stream *s, int32_t how, void (*on_closed)(void *user, const dvec_stream_stats *stats)) {
  if (!s || (how != DVEC_DRAIN && how != DVEC_CANCEL)) return DVEC_MISUSE;
  uv_mutex_lock(&s->mutex);
  if (!s->closing) s->on_closed = on_closed;
  if (how > s->closing) s->closing = how;
  if (s->closing == DVEC_CANCEL && s->sqlite) sqlite3_interrupt(s->sqlite);
  uv_cond_broadcast(&s->work);
  uv_cond_broadcast(&s->room);
  uv_cond_broadcast(&s->seen);
  uv_cond_broadcast(&s->cancelled);
  uv_mutex_unlock(&s->mutex);
  return DVEC_OK;
}

/* ---- opening and freeing ----------------------------------------------------------------------------------------- */

static void free_stream(dvec_stream *s) {
  uv_cond_destroy(&s->work);
  uv_cond_destroy(&s->room);
  uv_cond_destroy(&s->seen);
  uv_cond_destroy(&s->cancelled);
  uv_mutex_destroy(&s->mutex);
  free(s->ring);
  free(s->window.bytes);
  free(s->window.ends);
  sqlite3_free(s->table);
  free(s);
}

static void on_stillborn_closed(uv_handle_t *handle) { free_stream(handle->data); }

int dvec_stream_free(dvec_stream *s) {
  if (!s) return DVEC_OK;
  if (!s->is_closed) return DVEC_MISUSE;
  free_stream(s);
  return DVEC_OK;
}

static void set_defaults(dvec_stream_options *o) {
  if (!o->queue_bytes) o->queue_bytes = STREAM_QUEUE_BYTES;
  if (!o->max_count) o->max_count = STREAM_MAX_COUNT;
  if (!o->max_delay_us) o->max_delay_us = STREAM_MAX_DELAY_US;
  if (!o->max_bytes) o->max_bytes = STREAM_MAX_BYTES;
  /* What is accepted must fit the queue, and a blob of SQLite's. */
  if (o->queue_bytes < 2 * STREAM_HEADER) o->queue_bytes = 2 * STREAM_HEADER;
  if (o->max_bytes > o->queue_bytes - STREAM_HEADER) o->max_bytes = o->queue_bytes - STREAM_HEADER;
  if (o->max_bytes > 512u << 20) o->max_bytes = 512u << 20;
}

/* Prepares what the worker runs; that the table is there is asked now, not by the first window. */
static int prepare(dvec_stream *s, const char *path, char **message) {
  int rc = dvn_worker_open(path, s->options.sql, &s->sqlite, message);
  if (rc != SQLITE_OK) return rc;
  sqlite3_stmt *stmt = NULL;
  rc = sqlite3_prepare_v2(s->sqlite, "SELECT delta_apply_batch(?1, x'')", -1, &stmt, NULL);
  if (rc == SQLITE_OK) rc = sqlite3_bind_text(stmt, 1, s->table, -1, SQLITE_STATIC);
  if (rc == SQLITE_OK) (void)sqlite3_step(stmt);
  int final = sqlite3_finalize(stmt);
  if (rc == SQLITE_OK) rc = final;
  if (rc == SQLITE_OK) {
    rc = sqlite3_prepare_v3(s->sqlite, "SELECT delta_apply_batch(?1, ?2)", -1, SQLITE_PREPARE_PERSISTENT, &s->apply,
                            NULL);
  }
  if (rc == SQLITE_OK) rc = sqlite3_bind_text(s->apply, 1, s->table, -1, SQLITE_STATIC);
  if (rc != SQLITE_OK && message) *message = sqlite3_mprintf("%s", sqlite3_errmsg(s->sqlite));
  sqlite3_busy_handler(s->sqlite, on_busy, s);
  if (rc == SQLITE_OK) s->checkpointer = dvn_checkpointer_start(s->sqlite, path);
  return rc & 0xff;
}

int dvec_stream_open(struct uv_loop_s *loop, const char *path, const char *table, const dvec_stream_options *options,
                     dvec_stream **out, char **message) {
  if (message) *message = NULL;
  if (!out) return DVEC_MISUSE;
  *out = NULL;
  if (!loop || !path || !table) return dvn_fail_null("dvec_stream_open", "loop, path and table", message);
  dvec_stream *s = calloc(1, sizeof *s);
  if (!s) return dvn_explain(DVEC_NOMEM, message);
  if (!dvn_options_read(&s->options, sizeof s->options, options) || s->options.when_full < DVEC_BLOCK ||
      s->options.when_full > DVEC_DROP_OLDEST) {
    free(s);
    if (message) *message = sqlite3_mprintf("delta_vectors: dvec_stream_options has values that are not known");
    return DVEC_MISUSE;
  }
  set_defaults(&s->options);
  s->loop = loop;
  s->loop_thread = uv_thread_self();
  s->last_ack = &s->first_ack;
  s->rated_at = uv_hrtime();
  (void)uv_mutex_init(&s->mutex);
  (void)uv_cond_init(&s->work);
  (void)uv_cond_init(&s->room);
  (void)uv_cond_init(&s->seen);
  (void)uv_cond_init(&s->cancelled);
  s->ring = malloc(s->options.queue_bytes);
  s->window.bytes = malloc(s->options.max_bytes);
  s->window.ends = malloc(s->options.max_count * sizeof *s->window.ends);
  s->table = sqlite3_mprintf("%s", table);
  int rc = s->ring && s->window.bytes && s->window.ends && s->table ? DVEC_OK : DVEC_NOMEM;
  if (rc == DVEC_OK) rc = prepare(s, path, message);
  if (rc == DVEC_OK && uv_async_init(loop, &s->async, on_async) != 0) rc = DVEC_NOMEM;
  if (rc == DVEC_OK) {
    s->async.data = s;
    if (uv_thread_create(&s->worker, work, s) == 0) {
      s->options.sql = NULL; /* the caller's */
      *out = s;
      return DVEC_OK;
    }
    /* The handle is the loop's until it has run. */
    release_connection(s, s->sqlite);
    uv_close((uv_handle_t *)&s->async, on_stillborn_closed);
    return dvn_explain(DVEC_NOMEM, message);
  }
  release_connection(s, s->sqlite);
  free_stream(s);
  return dvn_explain(rc, message);
}
