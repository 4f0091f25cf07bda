/*
 * check_stream.c: no delta is lost in silence, none is applied twice, order is kept, and a stream can be closed at any
 * point.
 *
 * Every test keeps a ledger: acknowledgements must tell of the positions 1, 2, 3, … without a gap or an overlap, and in
 * the end what they say was applied must be what the database has.
 */
#include "vtab/support.h"

#include "delta_vectors.h"

#include <sys/stat.h>
#include <unistd.h>
#include <uv.h>

#define DIMENSIONS 4
#define N_ROWS 10

static dvec_db *db;
static char path[500];
static uv_loop_t loop;
static dvec_stream *stream;

enum { UNTOLD, APPLIED, FAILED, DROPPED, CANCELLED };

typedef struct ledger {
  uint64_t told; /* the last position */
  uint64_t n[5];
  uint8_t fate[1 << 17];
  int64_t last_seq;
  int n_acks, n_closed;
  char message[200]; /* of the last failure */
  int cancel_at_ack, stop_at_ack, drain_at_ack; /* 0: never */
} ledger;
static ledger book;

static void on_closed(void *user, const dvec_stream_stats *stats) {
  ck_assert_ptr_eq(user, &book);
  book.n_closed++;
  ck_assert_uint_eq(stats->n_pushed, book.told);
  ck_assert_uint_eq(stats->n_applied, book.n[APPLIED]);
  ck_assert_uint_eq(stats->n_failed, book.n[FAILED]);
  ck_assert_uint_eq(stats->n_dropped, book.n[DROPPED]);
  ck_assert_uint_eq(stats->n_cancelled, book.n[CANCELLED]);
  ck_assert(stats->queue_count == 0 && stats->queue_bytes == 0);
}

static void tell(uint64_t position, int fate) {
  ck_assert_uint_lt(position, sizeof book.fate);
  ck_assert_int_eq(book.fate[position], UNTOLD);
  book.fate[position] = (uint8_t)fate;
  book.n[fate]++;
}

static void on_ack(void *user, const dvec_ack *ack) {
  ck_assert_ptr_eq(user, &book);
  ck_assert_int_eq(book.n_closed, 0);
  ck_assert_uint_eq(ack->first_position - ack->n_dropped, book.told + 1);
  for (uint64_t p = book.told + 1; p < ack->first_position; p++) tell(p, DROPPED);
  for (const dvec_failure *f = ack->failures; f; f = f->next) {
    ck_assert(f->position >= ack->first_position && f->position <= ack->last_position && f->code != 0);
    tell(f->position, FAILED);
    snprintf(book.message, sizeof book.message, "%s", f->message);
  }
  uint64_t n_applied = 0;
  for (uint64_t p = ack->first_position; p <= ack->last_position; p++) {
    if (book.fate[p] != UNTOLD) continue;
    tell(p, ack->code == DVEC_OK ? APPLIED : ack->code == DVEC_CANCELLED ? CANCELLED : FAILED);
    n_applied += ack->code == DVEC_OK;
  }
  if (ack->code != DVEC_OK) snprintf(book.message, sizeof book.message, "%s", ack->message);
  ck_assert_uint_eq(n_applied, ack->n_applied);
  ck_assert_uint_eq(ack->n_applied + ack->n_failed, ack->last_position + 1 - ack->first_position);
  if (n_applied) {
    ck_assert_int_gt(ack->first_seq, book.last_seq);
    ck_assert_int_eq(ack->last_seq - ack->first_seq + 1, (int64_t)n_applied);
    book.last_seq = ack->last_seq;
  }
  book.told = ack->last_position;
  book.n_acks++;
  if (book.n_acks == book.cancel_at_ack) ck_assert_int_eq(dvec_stream_close(stream, DVEC_CANCEL, on_closed), DVEC_OK);
  if (book.n_acks == book.drain_at_ack) ck_assert_int_eq(dvec_stream_close(stream, DVEC_DRAIN, on_closed), DVEC_OK);
  if (book.n_acks == book.stop_at_ack) uv_stop(&loop);
}

static void use(void) {
  memset(&book, 0, sizeof book);
  sql_setup();
  ck_assert_int_eq(uv_loop_init(&loop), 0);
  snprintf(path, sizeof path, "%s", sql_path("test.db"));
  ck_assert_int_eq(dvec_open(path, NULL, &db), DVEC_OK);
  sql_run(dvec_sqlite(db), "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF;"
                           "CREATE VIRTUAL TABLE docs USING delta_vectors(dimensions=4, metric=l2);");
  for (int i = 0; i < N_ROWS; i++)
    sql_run(dvec_sqlite(db), "INSERT INTO docs(id, vector) VALUES('r%d', '[0,0,0,0]')", i);
  book.last_seq = N_ROWS;
}

static void leave(void) {
  ck_assert_int_eq(dvec_stream_free(stream), DVEC_OK);
  stream = NULL;
  ck_assert_int_eq(uv_loop_close(&loop), 0);
  ck_assert_int_eq(dvec_close(db), DVEC_OK);
  sql_teardown();
}

static void open_stream(dvec_stream_options o) {
  char *message = NULL;
  o.size = sizeof o;
  o.on_ack = on_ack;
  o.user = &book;
  if (!o.sql) o.sql = "PRAGMA synchronous=OFF";
  int rc = dvec_stream_open(&loop, path, "docs", &o, &stream, &message);
  ck_assert_msg(rc == DVEC_OK, "%d %s", rc, message);
}

/* Sets dimension 0 of a row to `value`. */
static int push(const char *id, float value, uint64_t *position) {
  static const uint32_t zero = 0;
  dvec_delta d;
  memset(&d, 0, sizeof d);
  d.size = sizeof d;
  d.operation = DVEC_SPARSE;
  d.id = dvec_id_text(id);
  d.indices = &zero;
  d.values = &value;
  d.n = 1;
  return dvec_stream_push(stream, &d, position, NULL, 0);
}

static int push_row(int i) {
  char id[16];
  snprintf(id, sizeof id, "r%d", i % N_ROWS);
  return push(id, (float)i, NULL);
}

static void close_and_run(int how) {
  ck_assert_int_eq(dvec_stream_close(stream, how, on_closed), DVEC_OK);
  ck_assert_int_eq(uv_run(&loop, UV_RUN_DEFAULT), 0);
  ck_assert_int_eq(book.n_closed, 1);
  ck_assert_int_eq(push_row(0), DVEC_CLOSED);
}

/* What was said to be applied is what there is. */
static void database_agrees(void) {
  ck_assert_int_eq(sql_integer(dvec_sqlite(db), "SELECT count(*) FROM delta_log('docs', %d)", N_ROWS),
                   (int64_t)book.n[APPLIED]);
  sql_sound(dvec_sqlite(db));
}

START_TEST(deltas_are_applied_in_order) {
  open_stream((dvec_stream_options){0});
  for (int i = 0; i < 20000; i++) ck_assert_int_eq(push_row(i), DVEC_OK);
  ck_assert_int_eq(dvec_stream_free(stream), DVEC_MISUSE);
  close_and_run(DVEC_DRAIN);
  ck_assert_uint_eq(book.n[APPLIED], 20000);
  database_agrees();
  /* Position p is seq p + N_ROWS, as nobody else writes. */
  sql_is(dvec_sqlite(db), "0",
         "SELECT count(*) FROM delta_log('docs', %d) WHERE id <> 'r' || ((seq - 1 - %d) %% %d) OR "
         "json_extract(delta_json(delta), '$.values[0]') <> seq - 1 - %d",
         N_ROWS, N_ROWS, N_ROWS, N_ROWS);
}
END_TEST

START_TEST(a_failure_takes_nobody_with_it) {
  open_stream((dvec_stream_options){.max_count = 100});
  dvec_delta bad;
  memset(&bad, 0, sizeof bad);
  bad.size = sizeof bad, bad.operation = DVEC_SCALE, bad.amount = 1e300, bad.id = dvec_id_text("r0");
  char message[100];
  for (int i = 1; i <= 3000; i++) {
    uint64_t position = 0;
    int rc = push(i % 7 == 0 ? "nobody" : i % 500 == 1 ? "nobody either" : "r1", (float)i, &position);
    ck_assert(rc == DVEC_OK && position == (uint64_t)i);
    /* What can be seen without the table does not get a position. */
    ck_assert_int_eq(dvec_stream_push(stream, &bad, NULL, message, sizeof message), DVEC_ERROR);
  }
  ck_assert_ptr_nonnull(strstr(message, "row 'r0': the amount is not a finite"));
  close_and_run(DVEC_DRAIN);
  for (int i = 1; i <= 3000; i++) {
    ck_assert_msg(book.fate[i] == (i % 7 == 0 || i % 500 == 1 ? FAILED : APPLIED), "position %d: %d", i, book.fate[i]);
  }
  ck_assert_ptr_nonnull(strstr(book.message, "row 'nobody' does not exist"));
  database_agrees();
}
END_TEST

/* All of a window, and windows of one. */
START_TEST(windows_that_fail_altogether) {
  open_stream((dvec_stream_options){.max_count = (uint32_t)_i});
  for (int i = 0; i < 300; i++) ck_assert_int_eq(push("nobody", 1, NULL), DVEC_OK);
  ck_assert_int_eq(push("r1", 1, NULL), DVEC_OK);
  close_and_run(DVEC_DRAIN);
  ck_assert(book.n[FAILED] == 300 && book.n[APPLIED] == 1);
  database_agrees();
}
END_TEST

typedef struct producer {
  uv_thread_t thread;
  int row, n;
} producer;

static void produce(void *p) {
  producer *self = p;
  char id[16];
  snprintf(id, sizeof id, "r%d", self->row);
  for (int i = 1; i <= self->n; i++) {
    int rc = push(id, (float)i, NULL);
    if (rc == DVEC_CLOSED) return;
    if (rc != DVEC_OK) abort();
  }
}

START_TEST(threads_wait_for_room) {
  producer producers[4];
  open_stream((dvec_stream_options){.when_full = DVEC_BLOCK, .queue_bytes = 2000, .max_delay_us = 100});
  for (int i = 0; i < 4; i++) {
    producers[i] = (producer){.row = i, .n = 3000};
    ck_assert_int_eq(uv_thread_create(&producers[i].thread, produce, &producers[i]), 0);
  }
  for (dvec_stream_stats stats = {0}; stats.n_applied < 12000; dvec_stream_get_stats(stream, &stats, sizeof stats)) {
    uv_run(&loop, UV_RUN_NOWAIT);
    ck_assert_uint_le(stats.queue_bytes_peak, 2000);
  }
  for (int i = 0; i < 4; i++) uv_thread_join(&producers[i].thread);
  close_and_run(DVEC_DRAIN);
  ck_assert_uint_eq(book.n[APPLIED], 12000);
  database_agrees();
  /* Each row's values rise by one. */
  sql_is(dvec_sqlite(db), "0|3000 1|3000 2|3000 3|3000",
         "SELECT row, max(n) FROM (SELECT substr(id, 2) AS row, json_extract(delta_json(delta), '$.values[0]') AS v, "
         "row_number() OVER (PARTITION BY id ORDER BY seq) AS n FROM delta_log('docs', %d)) GROUP BY row "
         "HAVING sum(v = n) = 3000",
         N_ROWS);
}
END_TEST

/* Producers that wait for room when the stream is closed. */
START_TEST(closing_wakes_who_waits) {
  producer producers[4];
  sqlite3 *other = sql_open(path);
  open_stream((dvec_stream_options){.when_full = DVEC_BLOCK, .queue_bytes = 400});
  sql_run(other, "BEGIN IMMEDIATE");
  for (int i = 0; i < 4; i++) {
    producers[i] = (producer){.row = i, .n = 1000000};
    ck_assert_int_eq(uv_thread_create(&producers[i].thread, produce, &producers[i]), 0);
  }
  usleep(20000);
  close_and_run(DVEC_CANCEL);
  for (int i = 0; i < 4; i++) uv_thread_join(&producers[i].thread);
  sql_run(other, "ROLLBACK");
  sql_close(other);
  ck_assert_uint_eq(book.n[APPLIED], 0);
  ck_assert_uint_gt(book.n[CANCELLED], 0);
  database_agrees();
}
END_TEST

START_TEST(a_full_queue_refuses) {
  static const int modes[] = {DVEC_FAIL, DVEC_BLOCK};
  static const int codes[] = {DVEC_FULL_QUEUE, DVEC_WOULD_BLOCK}; /* this is the loop's own thread */
  sqlite3 *other = sql_open(path);
  open_stream((dvec_stream_options){.when_full = modes[_i], .queue_bytes = 1000});
  sql_run(other, "BEGIN IMMEDIATE");
  uint64_t n_good = 0;
  int n_refused = 0;
  for (int i = 0; i < 1000; i++) {
    int rc = push_row(i);
    ck_assert(rc == DVEC_OK || rc == codes[_i]);
    n_good += rc == DVEC_OK;
    n_refused += rc != DVEC_OK;
  }
  ck_assert_int_gt(n_refused, 900);
  dvec_stream_stats stats;
  while (dvec_stream_get_stats(stream, &stats, sizeof stats), stats.n_busy < 3) usleep(1000);
  ck_assert_uint_eq(stats.n_pushed, n_good);
  ck_assert_uint_le(stats.queue_bytes_peak, 1000);
  sql_run(other, "ROLLBACK");
  sql_close(other);
  close_and_run(DVEC_DRAIN);
  ck_assert_uint_eq(book.n[APPLIED], n_good);
  database_agrees();
}
END_TEST

START_TEST(the_oldest_make_room_and_are_told_of) {
  sqlite3 *other = sql_open(path);
  open_stream((dvec_stream_options){.when_full = DVEC_DROP_OLDEST, .queue_bytes = 1000, .max_count = 5});
  sql_run(other, "BEGIN IMMEDIATE");
  for (int i = 0; i < 1000; i++) ck_assert_int_eq(push_row(i), DVEC_OK);
  sql_run(other, "ROLLBACK");
  sql_close(other);
  close_and_run(_i ? DVEC_DRAIN : DVEC_CANCEL);
  ck_assert_uint_eq(book.told, 1000);
  ck_assert_uint_gt(book.n[DROPPED], 900);
  ck_assert_int_eq(book.fate[1000], _i ? APPLIED : book.fate[1000]);
  ck_assert_uint_eq(book.n[APPLIED] + book.n[DROPPED] + book.n[CANCELLED], 1000);
  database_agrees();
}
END_TEST

/* _i: how many deltas there are when it is cancelled, and how long the worker has had with them. */
START_TEST(cancelled_at_any_point) {
  open_stream((dvec_stream_options){.max_count = 16, .max_delay_us = 200});
  int n = _i * 37 % 400;
  for (int i = 0; i < n; i++) ck_assert_int_eq(push_row(i), DVEC_OK);
  if (_i % 3 == 1) usleep((useconds_t)(_i * 131 % 3000));
  if (_i % 3 == 2) {
    usleep((useconds_t)(_i * 71 % 2000));
    ck_assert_int_eq(dvec_stream_close(stream, DVEC_DRAIN, on_closed), DVEC_OK); /* then all the same */
  }
  close_and_run(DVEC_CANCEL);
  ck_assert_uint_eq(book.told, (uint64_t)n);
  ck_assert_msg(book.n[APPLIED] + book.n[CANCELLED] == (uint64_t)n, "%d of %d failed: %s", (int)book.n[FAILED], n,
                book.message);
  database_agrees();
}
END_TEST

/* From a callback, behind the _i-th acknowledgement. */
START_TEST(closed_from_a_callback) {
  open_stream((dvec_stream_options){.max_count = 10});
  (_i % 2 ? &book.drain_at_ack : &book.cancel_at_ack)[0] = 1 + _i / 2;
  for (int i = 0; i < 500; i++) ck_assert_int_eq(push_row(i), DVEC_OK);
  ck_assert_int_eq(uv_run(&loop, UV_RUN_DEFAULT), 0);
  ck_assert_int_eq(book.n_closed, 1);
  ck_assert_uint_eq(book.n[APPLIED] + book.n[CANCELLED], 500);
  if (_i % 2) ck_assert_uint_eq(book.n[APPLIED], 500);
  database_agrees();
}
END_TEST

/* The worker waits for another writer's lock. */
START_TEST(cancelled_while_locked_out) {
  sqlite3 *other = sql_open(path);
  open_stream((dvec_stream_options){0});
  sql_run(other, "BEGIN IMMEDIATE");
  for (int i = 0; i < 100; i++) ck_assert_int_eq(push_row(i), DVEC_OK);
  dvec_stream_stats stats;
  while (dvec_stream_get_stats(stream, &stats, sizeof stats), stats.n_busy < (uint64_t)_i) usleep(100);
  close_and_run(DVEC_CANCEL);
  ck_assert_uint_eq(book.n[CANCELLED], 100);
  ck_assert_str_eq(book.message, dvec_code_text(DVEC_CANCELLED));
  sql_run(other, "COMMIT");
  sql_close(other);
  database_agrees();
}
END_TEST

/* A loop that is stopped stops nothing; run again, it hears all. */
/* Where the program has turned on the shared cache, a lock is one of tables, for which SQLite does not wait: the worker
 * has a cache of its own. */
START_TEST(locked_out_beside_a_shared_cache) {
  dvec_db *shared = NULL;
  ck_assert_int_eq(sqlite3_enable_shared_cache(1), SQLITE_OK);
  ck_assert_int_eq(dvec_open(path, NULL, &shared), DVEC_OK);
  open_stream((dvec_stream_options){0});
  ck_assert_int_eq(sqlite3_enable_shared_cache(0), SQLITE_OK);
  sql_run(dvec_sqlite(shared), "BEGIN IMMEDIATE");
  ck_assert_int_eq(push_row(1), DVEC_OK);
  for (int i = 0; i < 50; i++) {
    usleep(1000);
    uv_run(&loop, UV_RUN_NOWAIT);
  }
  ck_assert_int_eq(book.n_acks, 0); /* it waits */
  sql_run(dvec_sqlite(shared), "COMMIT");
  close_and_run(DVEC_DRAIN);
  ck_assert_uint_eq(book.n[APPLIED], 1);
  ck_assert_int_eq(dvec_close(shared), DVEC_OK);
  database_agrees();
}
END_TEST

START_TEST(the_loop_may_stop) {
  open_stream((dvec_stream_options){.max_count = 10});
  book.stop_at_ack = 3;
  for (int i = 0; i < 200; i++) ck_assert_int_eq(push_row(i), DVEC_OK);
  ck_assert_int_ne(uv_run(&loop, UV_RUN_DEFAULT), 0);
  ck_assert_int_ge(book.n_acks, 3);
  for (int i = 200; i < 500; i++) ck_assert_int_eq(push_row(i), DVEC_OK);
  dvec_stream_stats stats;
  while (dvec_stream_get_stats(stream, &stats, sizeof stats), stats.n_applied < 500) usleep(100);
  close_and_run(DVEC_DRAIN);
  ck_assert_uint_eq(book.n[APPLIED], 500);
  database_agrees();
}
END_TEST

/* More windows than the loop may leave lying: the worker waits for it, and goes on. */
START_TEST(a_slow_loop_slows_the_worker) {
  open_stream((dvec_stream_options){.max_count = 1});
  for (int i = 0; i < 4400; i++) ck_assert_int_eq(push_row(i), DVEC_OK);
  dvec_stream_stats stats;
  while (dvec_stream_get_stats(stream, &stats, sizeof stats), stats.n_windows < 4096) usleep(1000);
  usleep(50000);
  dvec_stream_get_stats(stream, &stats, sizeof stats);
  ck_assert_uint_eq(stats.n_windows, 4096);
  close_and_run(_i ? DVEC_CANCEL : DVEC_DRAIN);
  ck_assert_uint_eq(book.n[APPLIED], _i ? 4096 : 4400);
  database_agrees();
}
END_TEST

static int64_t size_of(const char *suffix) {
  char name[sizeof path + 8];
  struct stat status;
  snprintf(name, sizeof name, "%s%s", path, suffix);
  return stat(name, &status) == 0 ? status.st_size : 0;
}

static void stream_many(const char *sql, uint32_t max_count) {
  open_stream((dvec_stream_options){.sql = sql, .max_count = max_count});
  for (int i = 0; i < 20000; i++) ck_assert_int_eq(push_row(i), DVEC_OK);
  while (book.n[APPLIED] < 20000) uv_run(&loop, UV_RUN_ONCE);
}

enum { WAL_PAGE = 24 + 4096 };

/* Windows of twenty make more than a thousand pages of WAL: it begins anew all the time, also in a file that nobody else
 * may open, and never if that is what the caller wants. */
START_TEST(the_wal_stays_short) {
  static const char *const pragmas[] = {
      "PRAGMA synchronous=OFF; PRAGMA wal_autocheckpoint=20",
      "PRAGMA synchronous=OFF; PRAGMA locking_mode=EXCLUSIVE; PRAGMA wal_autocheckpoint=20",
      "PRAGMA synchronous=OFF; PRAGMA wal_autocheckpoint=0"};
  if (_i == 1) ck_assert_int_eq(dvec_close(db), DVEC_OK);
  stream_many(pragmas[_i], 20);
  int64_t n_pages = size_of("-wal") / WAL_PAGE;
  ck_assert_msg(_i == 2 ? n_pages > 1000 : n_pages < 400, "%lld pages", (long long)n_pages);
  close_and_run(DVEC_DRAIN);
  if (_i == 1) ck_assert_int_eq(dvec_open(path, NULL, &db), DVEC_OK);
  database_agrees();
}
END_TEST

/* Pages get into the database though the WAL is not so long that the worker would have to see to it. */
START_TEST(a_thread_does_the_checkpoints) {
  int64_t before = size_of("");
  stream_many("PRAGMA synchronous=OFF; PRAGMA wal_autocheckpoint=100", 0);
  ck_assert_int_lt(size_of("-wal"), 400 * WAL_PAGE);
  for (int i = 0; size_of("") == before && i < 10000; i++) usleep(1000);
  ck_assert_int_gt(size_of(""), before);
  close_and_run(DVEC_DRAIN);
  database_agrees();
}
END_TEST

START_TEST(a_table_that_goes_away) {
  open_stream((dvec_stream_options){0});
  for (int i = 0; i < 100; i++) ck_assert_int_eq(push_row(i), DVEC_OK);
  while (book.n[APPLIED] < 100) uv_run(&loop, UV_RUN_ONCE);
  sql_run(dvec_sqlite(db), "DROP TABLE docs");
  for (int i = 0; i < 100; i++) ck_assert_int_eq(push_row(i), DVEC_OK);
  close_and_run(DVEC_DRAIN);
  ck_assert_uint_eq(book.n[FAILED], 100);
  ck_assert_msg(strstr(book.message, "no such table") != NULL, "%s", book.message);
}
END_TEST

START_TEST(what_cannot_be_opened) {
  char *message = NULL;
  dvec_stream_options o = {.size = sizeof o, .when_full = 7};
  ck_assert_int_eq(dvec_stream_open(&loop, path, "nowhere", NULL, &stream, &message), DVEC_ERROR);
  ck_assert_msg(strstr(message, "no such table: nowhere") != NULL, "%s", message);
  dvec_free(message);
  ck_assert_int_eq(dvec_stream_open(&loop, "/nowhere/at/all.db", "docs", NULL, &stream, &message), 14);
  ck_assert_ptr_nonnull(strstr(message, "unable to open"));
  dvec_free(message);
  ck_assert_int_eq(dvec_stream_open(&loop, path, "docs", &o, &stream, &message), DVEC_MISUSE);
  dvec_free(message);
  o = (dvec_stream_options){.size = sizeof o, .sql = "wrong"};
  ck_assert_int_eq(dvec_stream_open(&loop, path, "docs", &o, &stream, NULL), DVEC_ERROR);
  ck_assert_int_eq(dvec_stream_open(&loop, NULL, "docs", NULL, &stream, NULL), DVEC_MISUSE);
  ck_assert_ptr_null(stream);
}
END_TEST

/* Every failure has a message: also those that no connection tells of. */
START_TEST(no_failure_is_without_a_message) {
  char *message = NULL, text[100] = "stale";
  ck_assert_int_eq(dvec_stream_open(NULL, path, "docs", NULL, &stream, &message), DVEC_MISUSE);
  ck_assert_msg(message && strstr(message, "dvec_stream_open: loop, path and table"), "%s", message);
  dvec_free(message);
  open_stream((dvec_stream_options){0});
  ck_assert_int_eq(dvec_stream_push(stream, NULL, NULL, text, sizeof text), DVEC_MISUSE);
  ck_assert_msg(strstr(text, "delta must not be NULL") != NULL, "%s", text);
  close_and_run(DVEC_DRAIN);
}
END_TEST

int main(int argc, char **argv) {
  Suite *suite = suite_create("stream");
  TCase *t = tcase_create("stream");
  tcase_add_checked_fixture(t, use, leave);
  tcase_add_test(t, deltas_are_applied_in_order);
  tcase_add_test(t, a_failure_takes_nobody_with_it);
  tcase_add_loop_test(t, windows_that_fail_altogether, 1, 3);
  tcase_add_loop_test(t, windows_that_fail_altogether, 300, 302);
  tcase_add_test(t, threads_wait_for_room);
  tcase_add_test(t, closing_wakes_who_waits);
  tcase_add_loop_test(t, a_full_queue_refuses, 0, 2);
  tcase_add_loop_test(t, the_oldest_make_room_and_are_told_of, 0, 2);
  tcase_add_loop_test(t, cancelled_at_any_point, 0, 60);
  tcase_add_loop_test(t, closed_from_a_callback, 0, 20);
  tcase_add_loop_test(t, cancelled_while_locked_out, 0, 8);
  tcase_add_test(t, locked_out_beside_a_shared_cache);
  tcase_add_test(t, the_loop_may_stop);
  tcase_add_loop_test(t, a_slow_loop_slows_the_worker, 0, 2);
  tcase_add_loop_test(t, the_wal_stays_short, 0, 3);
  tcase_add_test(t, a_thread_does_the_checkpoints);
  tcase_add_test(t, a_table_that_goes_away);
  tcase_add_test(t, what_cannot_be_opened);
  tcase_add_test(t, no_failure_is_without_a_message);
  suite_add_tcase(suite, t);
  return sql_main(suite, argc, argv);
}
