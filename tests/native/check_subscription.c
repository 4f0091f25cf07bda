/*
 * check_subscription.c: each seq once, in order, whoever wrote it; resumable; and closed at any point.
 */
#include "vtab/support.h"

#include "delta_vectors.h"

#include <sys/wait.h>
#include <unistd.h>
#include <uv.h>

static uv_loop_t loop;
static const char *file;
static sqlite3 *db;
static dvec_subscription *subscription;

typedef struct consumer {
  int64_t last; /* seq */
  int64_t n, holes;
  int64_t close_at, pause_at, until; /* seqs; 0: never */
  int n_closed, n_errors, code;
  char message[200];
  bool is_paused;
} consumer;
static consumer me;

static void on_closed(void *user) {
  ck_assert_ptr_eq(user, &me);
  me.n_closed++;
}

static void on_change(void *user, const dvec_change *c) {
  ck_assert_ptr_eq(user, &me);
  ck_assert_int_gt(c->seq, me.last);
  ck_assert_int_eq(me.n_closed, 0);
  ck_assert(!me.is_paused && me.n_errors == 0);
  ck_assert(c->id.text[0] >= 'a' && strlen(c->id.text) == (size_t)c->id.n_text);
  me.holes += c->seq - me.last - 1;
  me.last = c->seq;
  me.n++;
  ck_assert_int_eq(dvec_subscription_seq(subscription), c->seq);
  if (c->seq == me.pause_at) dvec_subscription_pause(subscription), me.is_paused = true;
  if (c->seq == me.close_at) dvec_subscription_close(subscription, on_closed);
  if (c->seq == me.until) uv_stop(&loop);
}

static void on_error(void *user, int32_t code, const char *message) {
  ck_assert_ptr_eq(user, &me);
  me.n_errors++;
  me.code = code;
  snprintf(me.message, sizeof me.message, "%s", message);
  uv_stop(&loop);
}

static void use(void) {
  memset(&me, 0, sizeof me);
  sql_profile_now = &sql_wal;
  sql_setup();
  ck_assert_int_eq(uv_loop_init(&loop), 0);
  file = sql_path("test.db");
  db = sql_open(file);
  sql_run(db, "CREATE VIRTUAL TABLE docs USING delta_vectors(dimensions=2, metric=l2)");
  sql_run(db, "INSERT INTO docs(id, vector) VALUES('a', '[0,0]')");
}

static void leave(void) {
  ck_assert_int_eq(uv_loop_close(&loop), 0);
  sql_close(db);
  sql_teardown();
}

static void subscribe(int64_t from, dvec_subscription_options o) {
  char *message = NULL;
  o.size = sizeof o;
  o.on_change = on_change;
  o.on_error = on_error;
  o.user = &me;
  me.last = from;
  me.holes = me.n_closed = me.n_errors = 0;
  int rc = dvec_subscribe(&loop, file, "docs", from, &o, &subscription, &message);
  ck_assert_msg(rc == DVEC_OK, "%d %s", rc, message);
}

static void close_and_run(void) {
  int n = me.n_closed;
  dvec_subscription_close(subscription, on_closed);
  ck_assert_int_eq(uv_run(&loop, UV_RUN_DEFAULT), 0);
  ck_assert_int_eq(me.n_closed, n + 1);
}

static void write_many(sqlite3 *to, int n) {
  sql_run(to, "BEGIN IMMEDIATE");
  for (int i = 0; i < n; i++) sql_run(to, "SELECT delta_apply('docs', 'a', delta_offset(1))");
  sql_run(to, "COMMIT");
}

static void run_until(int64_t seq) {
  me.until = seq;
  if (me.last < seq) uv_run(&loop, UV_RUN_DEFAULT);
  ck_assert_msg(me.last == seq, "at %lld, expected %lld: %s", (long long)me.last, (long long)seq, me.message);
}

START_TEST(what_there_is_and_what_comes) {
  write_many(db, 1000);
  subscribe(0, (dvec_subscription_options){.poll_ms = 60000}); /* so it is the bell that is heard */
  run_until(1001);
  for (int i = 0; i < 20; i++) {
    write_many(db, 3);
    run_until(1004 + i * 3);
  }
  ck_assert(me.n == 1061 && me.holes == 0);
  close_and_run();
}
END_TEST

START_TEST(goes_on_from_any_seq) {
  write_many(db, 500);
  for (int64_t from = 0; from <= 500; from += 125) {
    subscribe(from, (dvec_subscription_options){.batch_count = 7});
    run_until(501);
    ck_assert_int_eq(me.holes, 0);
    close_and_run();
  }
  ck_assert_int_eq(me.n, 501 + 376 + 251 + 126 + 1);
}
END_TEST

static void write_apart(int n, int times) {
  sqlite3 *mine = sql_open(file);
  sqlite3_busy_timeout(mine, 10000);
  for (int i = 0; i < times; i++) write_many(mine, n);
  sql_close(mine);
}

static void write_in_thread(void *arg) { write_apart(*(int *)arg, 40); }

START_TEST(other_connections_and_processes) {
  int five = 5;
  uv_thread_t thread;
  sql_close(db); /* nothing of SQLite's is carried over fork() */
  pid_t pid = fork();
  ck_assert_int_ge(pid, 0);
  if (pid == 0) {
    write_apart(3, 40);
    _exit(0);
  }
  subscribe(0, (dvec_subscription_options){.batch_count = 10, .poll_ms = 20});
  ck_assert_int_eq(uv_thread_create(&thread, write_in_thread, &five), 0);
  run_until(1 + 40 * 8);
  uv_thread_join(&thread);
  ck_assert_int_eq(me.holes, 0);
  close_and_run();
  int status = 0;
  waitpid(pid, &status, 0);
  ck_assert_int_eq(status, 0);
  db = sql_open(file);
}
END_TEST

/* A consumer that pauses gets nothing, and then all of it; the reader does not run ahead. */
START_TEST(pauses_and_resumes) {
  write_many(db, 2000);
  subscribe(0, (dvec_subscription_options){.batch_count = 50});
  me.pause_at = 123;
  for (int i = 0; i < 200; i++) uv_run(&loop, UV_RUN_NOWAIT), usleep(500);
  ck_assert(me.is_paused && me.last == 123);
  me.is_paused = false;
  dvec_subscription_resume(subscription);
  run_until(2001);
  ck_assert(me.n == 2001 && me.holes == 0);
  close_and_run();
}
END_TEST

/* _i: at which seq, from the callback; 0: before anything came. */
START_TEST(closed_at_any_point) {
  write_many(db, 60);
  subscribe(0, (dvec_subscription_options){.batch_count = 8});
  me.close_at = _i * 3;
  if (_i == 0) {
    close_and_run();
  } else {
    ck_assert_int_eq(uv_run(&loop, UV_RUN_DEFAULT), 0);
    ck_assert(me.n_closed == 1 && me.last == me.close_at);
  }
}
END_TEST

START_TEST(closed_while_paused) {
  write_many(db, 60);
  subscribe(0, (dvec_subscription_options){.batch_count = 8});
  me.pause_at = 10;
  while (!me.is_paused) uv_run(&loop, UV_RUN_ONCE);
  close_and_run();
  ck_assert_int_eq(me.last, 10);
}
END_TEST

START_TEST(a_delete_that_was_compacted_away) {
  sql_run(db, "INSERT INTO docs(id, vector) VALUES('b', '[0,0]'); DELETE FROM docs WHERE id='b'"); /* 2, 3 */
  write_many(db, 5);
  sql_run(db, "SELECT delta_compact('docs', '{\"keep\":\"none\"}')");
  ck_assert_int_eq(sql_integer(db, "SELECT delta_status('docs') ->> 'purged_seq'"), 3);
  subscribe(2, (dvec_subscription_options){0}); /* it may know b */
  uv_run(&loop, UV_RUN_DEFAULT);
  ck_assert(me.n_errors == 1 && me.code == DVEC_BEHIND && me.n == 0);
  close_and_run();
  ck_assert_int_eq(me.n_errors, 1);
  subscribe(3, (dvec_subscription_options){0});
  run_until(8);
  close_and_run();
  subscribe(0, (dvec_subscription_options){0}); /* it knows nothing */
  run_until(8);
  ck_assert_int_eq(me.n, 2); /* each time one merged create */
  close_and_run();
}
END_TEST

/* Runs until the consumer has paused, and gives the reader the time to read what it may: two changes. */
static void run_until_paused(void) {
  while (!me.is_paused) uv_run(&loop, UV_RUN_ONCE);
  usleep(100000);
}

static void resume_until_behind(int64_t last) {
  me.is_paused = false;
  me.pause_at = 0;
  dvec_subscription_resume(subscription);
  uv_run(&loop, UV_RUN_DEFAULT);
  ck_assert(me.n_errors == 1 && me.code == DVEC_BEHIND && me.last < last);
  close_and_run();
}

START_TEST(a_delete_compacted_away_under_way) {
  write_many(db, 20);
  subscribe(0, (dvec_subscription_options){.batch_count = 1});
  me.pause_at = 1;
  run_until_paused();
  sql_run(db, "INSERT INTO docs(id, vector) VALUES('c', '[0,0]'); DELETE FROM docs WHERE id='c'");
  write_many(db, 1);
  sql_run(db, "SELECT delta_compact('docs', '{\"keep\":\"none\"}')");
  resume_until_behind(24);
}
END_TEST

/* One was removed before the reader began, at 0; then an earlier one is: purged_seq stays as it was. */
START_TEST(an_earlier_delete_compacted_away_under_way) {
  sql_run(db, "INSERT INTO docs(id, vector) VALUES('c', '[0,0]'), ('d', '[0,0]')");
  write_many(db, 20);
  sql_run(db, "DELETE FROM docs WHERE id='c'; DELETE FROM docs WHERE id='d'");
  write_many(db, 1);
  sql_run(db, "SELECT delta_compact('docs', '{\"keep\":\"none\",\"id\":\"d\"}')");
  ck_assert_int_eq(sql_integer(db, "SELECT delta_status('docs') ->> 'purged_seq'"), 25);
  subscribe(0, (dvec_subscription_options){.batch_count = 1});
  me.pause_at = 2; /* c */
  run_until_paused();
  sql_run(db, "SELECT delta_compact('docs', '{\"keep\":\"none\",\"id\":\"c\"}')");
  ck_assert_int_eq(sql_integer(db, "SELECT delta_status('docs') ->> 'purged_seq'"), 25);
  resume_until_behind(26);
}
END_TEST

START_TEST(a_table_that_goes_away) {
  subscribe(0, (dvec_subscription_options){.poll_ms = 10});
  run_until(1);
  sql_run(db, "DROP TABLE docs");
  uv_run(&loop, UV_RUN_DEFAULT);
  ck_assert(me.n_errors == 1 && me.code == DVEC_ERROR);
  ck_assert_msg(strstr(me.message, "no such table") != NULL, "%s", me.message);
  close_and_run();
}
END_TEST

START_TEST(what_cannot_be_opened) {
  char *message = NULL;
  dvec_subscription_options o = {.size = sizeof o, .on_change = on_change};
  ck_assert_int_eq(dvec_subscribe(&loop, file, "nowhere", 0, &o, &subscription, &message), DVEC_ERROR);
  ck_assert_msg(strstr(message, "no such table: nowhere") != NULL, "%s", message);
  dvec_free(message);
  ck_assert_int_eq(dvec_subscribe(&loop, "/nowhere/at/all", "docs", 0, &o, &subscription, NULL), 14);
  o.on_change = NULL;
  ck_assert_int_eq(dvec_subscribe(&loop, file, "docs", 0, &o, &subscription, NULL), DVEC_MISUSE);
  ck_assert_int_eq(dvec_subscribe(&loop, file, "docs", -1, &o, &subscription, &message), DVEC_MISUSE);
  ck_assert_msg(message && strstr(message, "from_seq is -1"), "%s", message);
  dvec_free(message);
  ck_assert_int_eq(dvec_subscribe(&loop, file, NULL, 0, &o, &subscription, &message), DVEC_MISUSE);
  ck_assert_msg(message && strstr(message, "dvec_subscribe: loop, path and table"), "%s", message);
  dvec_free(message);
  ck_assert_ptr_null(subscription);
}
END_TEST

int main(int argc, char **argv) {
  Suite *suite = suite_create("subscription");
  TCase *t = tcase_create("subscription");
  tcase_add_checked_fixture(t, use, leave);
  tcase_add_test(t, what_there_is_and_what_comes);
  tcase_add_test(t, goes_on_from_any_seq);
  tcase_add_test(t, other_connections_and_processes);
  tcase_add_test(t, pauses_and_resumes);
  tcase_add_loop_test(t, closed_at_any_point, 0, 20);
  tcase_add_test(t, closed_while_paused);
  tcase_add_test(t, a_delete_that_was_compacted_away);
  tcase_add_test(t, a_delete_compacted_away_under_way);
  tcase_add_test(t, an_earlier_delete_compacted_away_under_way);
  tcase_add_test(t, a_table_that_goes_away);
  tcase_add_test(t, what_cannot_be_opened);
  suite_add_tcase(suite, t);
  return sql_main(suite, argc, argv);
}
