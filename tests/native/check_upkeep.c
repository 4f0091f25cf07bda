/*
 * check_upkeep.c: what is idle is settled; writers go before; stopped at any time, nothing is lost.
 */
#include "vtab/support.h"

#include "delta_vectors.h"

#include <time.h>
#include <unistd.h>

static const char *file;
static sqlite3 *db;

static void use(void) {
  sql_profile_now = &sql_wal;
  sql_setup();
  file = sql_path("test.db");
  db = sql_open(file);
  sql_run(db, "CREATE VIRTUAL TABLE docs USING delta_vectors(dimensions=8, metric=l2, index=hnsw)");
}

static void leave(void) {
  sql_close(db);
  sql_teardown();
}

static dvec_upkeep *start(dvec_upkeep_options o) {
  dvec_upkeep *upkeep = NULL;
  char *message = NULL;
  o.size = sizeof o;
  o.sql = "PRAGMA synchronous=OFF"; /* no test here cuts the power */
  int rc = dvec_upkeep_start(file, "docs", &o, &upkeep, &message);
  ck_assert_msg(rc == DVEC_OK, "%d %s", rc, message);
  return upkeep;
}

static dvec_upkeep_stats stats_of(dvec_upkeep *upkeep) {
  dvec_upkeep_stats stats;
  dvec_upkeep_get_stats(upkeep, &stats, sizeof stats);
  ck_assert_int_eq(stats.code, 0);
  return stats;
}

static int64_t fresh(void) { return sql_integer(db, "SELECT delta_status('docs') ->> 'fresh'"); }

/* A commit leaves rows to be linked; upkeep links them. */
START_TEST(what_is_idle_is_settled) {
  sql_insert_many(db, "docs", 1, 1000);
  ck_assert_int_gt(fresh(), 900);
  dvec_upkeep *upkeep = start((dvec_upkeep_options){.idle_ms = 20});
  while (!stats_of(upkeep).is_idle) usleep(5000);
  ck_assert_int_le(fresh(), 256);
  ck_assert_uint_ge(stats_of(upkeep).n_steps, 1);
  uint64_t n_steps = stats_of(upkeep).n_steps;
  usleep(100000);
  ck_assert_uint_eq(stats_of(upkeep).n_steps, n_steps); /* idle is idle */
  dvec_upkeep_stop(upkeep);
  sql_sound(db);
}
END_TEST

START_TEST(who_writes_goes_first) {
  sql_insert_many(db, "docs", 1, 1000);
  dvec_upkeep *upkeep = start((dvec_upkeep_options){.idle_ms = 500});
  sqlite3_busy_timeout(db, 10000);
  for (int i = 0; i < 60; i++) { /* more often than idle_ms */
    sql_run(db, "SELECT delta_apply('docs', 'r1', delta_scale(1))");
    usleep(5000);
  }
  ck_assert_uint_le(stats_of(upkeep).n_steps, 2); /* a machine may be slow */
  sql_run(db, "BEGIN IMMEDIATE"); /* holds the lock, and commits nothing */
  while (stats_of(upkeep).n_yields == 0) usleep(5000);
  sql_run(db, "COMMIT");
  while (!stats_of(upkeep).is_idle) usleep(5000);
  dvec_upkeep_stop(upkeep);
  sql_sound(db);
}
END_TEST

START_TEST(compacts_by_the_retention) {
  sql_run(db, "CREATE VIRTUAL TABLE other USING delta_vectors(dimensions=2, metric=l2); DROP TABLE docs;"
              "CREATE VIRTUAL TABLE docs USING delta_vectors(dimensions=8, metric=l2, retention='2 versions')");
  sql_insert_many(db, "docs", 1, 10);
  for (int i = 0; i < 20; i++) sql_run(db, "SELECT delta_apply('docs', 'r1', delta_scale(1))");
  dvec_upkeep *upkeep = start((dvec_upkeep_options){.idle_ms = 10, .compact_every_ms = 50});
  while (stats_of(upkeep).n_compactions == 0) usleep(5000);
  dvec_upkeep_stop(upkeep);
  sql_is(db, "2", "SELECT count(*) FROM delta_chain('docs', 'r1')");
  sql_is(db, "30", "SELECT max(seq) FROM delta_log('docs')");
  sql_sound(db);
}
END_TEST

START_TEST(stopped_at_any_time) {
  sql_insert_many(db, "docs", 1, 3000);
  char *before = sql_state(db, "main", "docs");
  dvec_upkeep *upkeep = start((dvec_upkeep_options){.idle_ms = 1, .compact_every_ms = 3});
  usleep((useconds_t)(_i * _i * 200));
  dvec_upkeep_stop(upkeep);
  char *after = sql_state(db, "main", "docs");
  ck_assert_str_eq(before, after);
  free(before);
  free(after);
  sql_sound(db);
}
END_TEST

START_TEST(what_cannot_be_started) {
  dvec_upkeep *upkeep = NULL;
  char *message = NULL;
  ck_assert_int_eq(dvec_upkeep_start(file, "nowhere", NULL, &upkeep, &message), DVEC_ERROR);
  ck_assert_msg(strstr(message, "no such table: nowhere") != NULL, "%s", message);
  dvec_free(message);
  ck_assert_int_eq(dvec_upkeep_start("/nowhere/at/all", "docs", NULL, &upkeep, NULL), 14);
  ck_assert_int_eq(dvec_upkeep_start(file, NULL, NULL, &upkeep, &message), DVEC_MISUSE);
  ck_assert_msg(message && strstr(message, "dvec_upkeep_start: path and table"), "%s", message);
  dvec_free(message);
  ck_assert_ptr_null(upkeep);
  dvec_upkeep_stop(NULL);
}
END_TEST

int main(int argc, char **argv) {
  Suite *suite = suite_create("upkeep");
  TCase *t = tcase_create("upkeep");
  tcase_add_checked_fixture(t, use, leave);
  tcase_add_test(t, what_is_idle_is_settled);
  tcase_add_test(t, who_writes_goes_first);
  tcase_add_test(t, compacts_by_the_retention);
  tcase_add_loop_test(t, stopped_at_any_time, 0, 16);
  tcase_add_test(t, what_cannot_be_started);
  suite_add_tcase(suite, t);
  return sql_main(suite, argc, argv);
}
