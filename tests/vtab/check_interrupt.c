/*
 * check_interrupt.c: sqlite3_interrupt(), called by another thread at some moment, ends whatever the extension is doing
 * within 50 ms, with SQLITE_INTERRUPT; and afterwards the table is as it was, and the same work goes through.
 *
 * Each piece of work is run once to its end, which tells how long it takes, and then interrupted at some moments of that
 * time. How long it takes from the call to the end is measured in CPU time of the working thread, so that a busy machine
 * does not count.
 *
 * And on a few rows, without a thread, at each call of an authorizer: that is while SQLite prepares a statement, the
 * caller's or one of ours, where it loses the code in places.
 */
#include "support.h"

#include <math.h>
#include <pthread.h>
#include <time.h>

/* A function that writes has committed before its statement is at its end, if there is no BEGIN around it. An interrupt that
 * comes while it commits is reported all the same: then all of the work is there. */

/* An optimized build, which has no asserts, is what the promise is about. */
#ifdef NDEBUG
enum { N_ROWS = 3000 };
static const double most_ms = 50;
#else
enum { N_ROWS = 1000 };
static const double most_ms = 500;
#endif
enum { DIMENSIONS = 384, N_MOMENTS = 2 };

static double clock_of(clockid_t id) {
  struct timespec t;
  clock_gettime(id, &t);
  return (double)t.tv_sec * 1e3 + (double)t.tv_nsec / 1e6;
}

typedef struct work {
  const char *name, *before, *sql, *after;
} work;

static const work works[] = {
    {"a first search, which codes all rows", NULL,
     "SELECT id FROM docs WHERE v MATCH (SELECT v FROM docs WHERE id = 5) AND k = 10", NULL},
    {"an exact search by l1", "SELECT id FROM manhattan WHERE v MATCH (SELECT v FROM docs WHERE id = 5) AND k = 1",
     "SELECT sum(distance) FROM generate AS g, manhattan WHERE manhattan.v MATCH g.v AND k = 10", NULL},
    {"searches in a join", NULL,
     "SELECT count(*) FROM docs AS a, docs AS b WHERE b.v MATCH a.v AND b.k = 10 AND a.id < 2000", NULL},
    {"a range search", NULL,
     "SELECT sum(distance) FROM docs WHERE v MATCH (SELECT v FROM docs WHERE id = 5) AND distance < 100", NULL},
    {"a search of the past", NULL,
     "SELECT sum(distance) FROM docs WHERE v MATCH (SELECT v FROM docs WHERE id = 5) AND k = 100 AND as_of = 1500",
     NULL},
    {"a filter", NULL,
     "SELECT sum(distance) FROM docs WHERE v MATCH (SELECT v FROM docs WHERE id = 5) AND k = 10 AND note LIKE '%7%'",
     NULL},
    {"a scan of the past", NULL, "SELECT sum(length(v)) FROM docs WHERE as_of = 1500", NULL},
    {"the feed", NULL, "SELECT sum(length(delta)) FROM delta_log('docs', 0)", NULL},
    {"optimize", NULL, "INSERT INTO docs(docs) VALUES('optimize')", NULL},
    {"rebuild", NULL, "INSERT INTO docs(docs) VALUES('rebuild')", NULL},
    {"integrity-check", NULL, "INSERT INTO docs(docs) VALUES('integrity-check')", NULL},
    {"compaction", NULL, "SELECT delta_compact('docs', '{\"keep\":\"none\"}')", NULL},
    {"export", NULL, "SELECT length(delta_export('docs'))", NULL},
    {"import",
     "CREATE VIRTUAL TABLE other USING delta_vectors(id INTEGER PRIMARY KEY, v FLOAT[384], note TEXT);"
     "CREATE TEMP TABLE parcel AS SELECT delta_export('docs') AS bytes",
     "SELECT delta_import('other', (SELECT bytes FROM parcel))", "DROP TABLE other; DROP TABLE parcel"},
    {"salvage", "CREATE VIRTUAL TABLE other USING delta_vectors(id INTEGER PRIMARY KEY, v FLOAT[384], note TEXT)",
     "SELECT delta_salvage('other', 'docs')", "DROP TABLE other"},
    {"a batch", NULL, "SELECT delta_apply_batch('docs', (SELECT delta_pack(id, delta_offset(0.5)) FROM docs))", NULL},
    {"recall", NULL, "SELECT delta_recall('docs', 1000, 10)", NULL},
    {"an update of all rows", NULL, "UPDATE docs SET delta = delta_scale(0.5)", NULL},
    {"a large insert",
     "CREATE VIRTUAL TABLE other USING delta_vectors(id INTEGER PRIMARY KEY, v FLOAT[384], note TEXT)",
     "INSERT INTO other(id, v, note) SELECT id, v, note FROM docs", "DROP TABLE other"},
};
enum { N_WORKS = sizeof works / sizeof works[0] };

static bool is_function(const work *w) { return strncmp(w->sql, "SELECT delta_", 13) == 0; }

/* What is in the tables that works write to. */
static char *state_of(sqlite3 *db, const work *w) {
  char *docs = strdup(sql_rows(db, "SELECT count(*), max(seq), sum(length(delta)) FROM delta_log('docs', 0)"));
  bool has_other = w->before && strstr(w->before, "other");
  char *both = sqlite3_mprintf("%s %s", docs, has_other ? sql_rows(db, "SELECT count(*) FROM other") : "");
  free(docs);
  return both;
}

static const char *base_path, *now_path;

static void make_base(int n_rows) {
  sqlite3 *db = sql_open(base_path);
  sqlite3_test_control(SQLITE_TESTCTRL_PRNG_SEED, 3, db);
  sql_run(db,
          "CREATE VIRTUAL TABLE docs USING delta_vectors(id INTEGER PRIMARY KEY, v FLOAT[%d], note TEXT, index=hnsw, "
          "threads=1)",
          DIMENSIONS);
  sql_run(db,
          "WITH RECURSIVE i(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM i WHERE i < %d) INSERT INTO docs(id, v, note, "
          "as_of)"
          " SELECT i, vector_int8(randomblob(%d), 0.01), 'note ' || i, 1000 FROM i",
          n_rows, DIMENSIONS);
  sql_run(db, "UPDATE docs SET delta = delta_offset(0.125), as_of = 2000 WHERE id %% 2");
  sql_run(db, "CREATE VIRTUAL TABLE manhattan USING delta_vectors(id INTEGER PRIMARY KEY, v FLOAT[%d] metric=l1)",
          DIMENSIONS);
  sql_run(db, "INSERT INTO manhattan(id, v) SELECT id, v FROM docs");
  sql_run(db, "CREATE TABLE generate AS SELECT v FROM docs LIMIT 20");
  sql_close(db);
}

typedef struct alarm_clock {
  sqlite3 *db;
  double delay;
  clockid_t clock; /* of the working thread */
  double rung; /* its time then; 0: not yet */
} alarm_clock;

static void *ring(void *p) {
  alarm_clock *a = p;
  struct timespec t = {(time_t)(a->delay / 1e3), (long)((a->delay - 1e3 * (double)(time_t)(a->delay / 1e3)) * 1e6)};
  nanosleep(&t, NULL);
  a->rung = clock_of(a->clock);
  sqlite3_interrupt(a->db);
  return NULL;
}

START_TEST(interrupt_is_heard) {
  const work *w = &works[_i];
  double limit = most_ms, worst = 0;
  base_path = sql_path("base.db");
  now_path = sql_path("now.db");
  make_base(N_ROWS);
  sql_copy_file(base_path, now_path);
  sqlite3 *db = sql_open(now_path);
  if (w->before) sql_run(db, "%s", w->before);
  double start = clock_of(CLOCK_MONOTONIC);
  sql_run(db, "%s", w->sql);
  double length = clock_of(CLOCK_MONOTONIC) - start;
  char *done = state_of(db, w);
  sql_close(db);
  int n_heard = 0;
  /* Where the machine was busy with something else the first time, the work is over before: then earlier moments. */
  for (int k = 1; k <= N_MOMENTS || (n_heard == 0 && k <= N_MOMENTS + 8); k++) {
    double part = k <= N_MOMENTS ? (double)k / (N_MOMENTS + 2) : ldexp(1, -k);
    sql_copy_file(base_path, now_path);
    db = sql_open(now_path);
    if (w->before) sql_run(db, "%s", w->before);
    char *before = state_of(db, w);
    sql_close(db);
    db = sql_open(now_path);
    if (strstr(w->before ? w->before : "", "TEMP"))
      sql_run(db, "CREATE TEMP TABLE parcel AS SELECT delta_export('docs') AS bytes");
    alarm_clock a = {.db = db, .delay = length * part};
    pthread_t thread;
    ck_assert_int_eq(pthread_getcpuclockid(pthread_self(), &a.clock), 0);
    ck_assert_int_eq(pthread_create(&thread, NULL, ring, &a), 0);
    char *message = NULL;
    int rc = sql_try(db, &message, "%s", w->sql);
    double end = clock_of(a.clock);
    pthread_join(thread, NULL);
    ck_assert_msg(rc == SQLITE_OK || rc == SQLITE_INTERRUPT, "%s: %d %s", w->name, rc, message ? message : "");
    sqlite3_free(message);
    bool is_done = rc == SQLITE_OK;
    n_heard += rc == SQLITE_INTERRUPT;
    if (rc == SQLITE_INTERRUPT && end - a.rung > worst) worst = end - a.rung;
    if (rc == SQLITE_INTERRUPT) {
      ck_assert_msg(end - a.rung < limit, "%s: interrupted after %.0f of %.0f ms, it went on for %.1f ms", w->name,
                    a.delay, length, end - a.rung);
      ck_assert_int_eq(sqlite3_get_autocommit(db), 1);
      char *after = state_of(db, w);
      is_done = is_function(w) && strcmp(after, before) != 0;
      ck_assert_str_eq(after, is_done ? done : before);
      sqlite3_free(after);
    }
    sqlite3_free(before);
    if (k == N_MOMENTS) {
      if (!is_done) sql_run(db, "%s", w->sql);
      sql_sound(db);
    }
    sql_close(db);
  }
  sqlite3_free(done);
  printf("%-40s %7.0f ms; interrupted %d times, longest to the end %.1f ms\n", w->name, length, n_heard, worst);
  ck_assert_msg(n_heard > 0 || length < 20, "%s: never interrupted in %.0f ms", w->name, length);
}
END_TEST

/* Interrupts at the n-th call. */
typedef struct countdown {
  sqlite3 *db;
  int n_calls, rings_at;
} countdown;

static int count_call(void *p, int action, const char *a, const char *b, const char *schema, const char *trigger) {
  countdown *c = p;
  (void)action, (void)a, (void)b, (void)schema, (void)trigger;
  if (++c->n_calls == c->rings_at) sqlite3_interrupt(c->db);
  return SQLITE_OK;
}

START_TEST(interrupt_in_a_preparation_is_one) {
  const work *w = &works[_i];
  base_path = sql_path("base.db");
  now_path = sql_path("now.db");
  make_base(10);
  int n_heard = 0, n_points = 0;
  for (bool is_over = false; !is_over; n_points++) {
    sql_copy_file(base_path, now_path);
    sqlite3 *db = sql_open(now_path);
    if (w->before) sql_run(db, "%s", w->before);
    bool is_temporary = w->before && strstr(w->before, "TEMP");
    if (!is_temporary) { /* so that the tables are connected anew */
      sql_close(db);
      db = sql_open(now_path);
    }
    /* Without a statement that runs SQLite takes the interrupt back when it prepares the next one. */
    sqlite3_stmt *running;
    ck_assert_int_eq(sqlite3_prepare_v2(db, "SELECT 1 UNION ALL SELECT 2", -1, &running, NULL), SQLITE_OK);
    ck_assert_int_eq(sqlite3_step(running), SQLITE_ROW);
    /* That of the caller's own statement is SQLite's: it calls a table-valued function broken then, before 3.41. */
    sql_run(db, "SELECT * FROM delta_log LIMIT 0");
    countdown c = {.db = db, .rings_at = n_points + 1};
    sqlite3_set_authorizer(db, count_call, &c);
    char *message = NULL;
    int rc = sql_try(db, &message, "%s", w->sql);
    is_over = c.n_calls < c.rings_at;
    sqlite3_set_authorizer(db, NULL, NULL);
    ck_assert_msg(rc == SQLITE_OK || (rc == SQLITE_INTERRUPT && !is_over), "%s, call %d: %d %s", w->name, c.rings_at,
                  rc, message ? message : "");
    n_heard += rc == SQLITE_INTERRUPT;
    sqlite3_free(message);
    sqlite3_finalize(running);
    if (rc != SQLITE_OK) sql_run(db, "%s", w->sql);
    sql_close(db);
  }
  printf("%-40s interrupted at %d of %d calls\n", w->name, n_heard, n_points - 1);
  ck_assert_int_gt(n_heard, 0);
}
END_TEST

int main(int argc, char **argv) {
  Suite *suite = suite_create("interrupt");
  TCase *t = tcase_create("interrupt");
  tcase_set_timeout(t, 600);
  tcase_add_checked_fixture(t, sql_setup, sql_teardown);
  tcase_add_loop_test(t, interrupt_is_heard, 0, N_WORKS);
  tcase_add_loop_test(t, interrupt_in_a_preparation_is_one, 0, N_WORKS);
  suite_add_tcase(suite, t);
  return sql_main(suite, argc, argv);
}
