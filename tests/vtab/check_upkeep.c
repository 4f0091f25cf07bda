/*
 * check_upkeep.c: the graph while rows come, move and go. The same log gives the same graph, to the bit: whatever memory
 * held when rows were linked, whoever searched when. And the rows that wait for it stay few.
 */
#include "support.h"

enum { ROWS = 1200, DIMENSIONS = 8, COMMITS = 150, CHANGES = 40 };

static uint64_t random_state;

static uint64_t random_u64(void) {
  uint64_t x = random_state += 0x9e3779b97f4a7c15u;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  x = (x ^ x >> 27) * 0x94d049bb133111ebu;
  return x ^ x >> 31;
}

static int below(int n) { return (int)(random_u64() % (uint64_t)n); }

static float rows[ROWS][DIMENSIONS];
static bool is_there[ROWS];

static void bind(sqlite3_stmt *s, int at, const float *v) {
  sqlite3_bind_blob(s, at, v, (int)(DIMENSIONS * sizeof *v), SQLITE_TRANSIENT);
}

static void run_bound(sqlite3 *db, const char *sql, int id, const float *v) {
  sqlite3_stmt *s = sql_prepare(db, "%s", sql);
  sqlite3_bind_int(s, 1, id);
  if (v) bind(s, 2, v);
  ck_assert_int_eq(sqlite3_step(s), SQLITE_DONE);
  ck_assert_int_eq(sqlite3_finalize(s), SQLITE_OK);
}

static void insert(sqlite3 *db, int i) {
  for (int j = 0; j < DIMENSIONS; j++) rows[i][j] = (float)(below(2001) - 1000) / 500.0f;
  is_there[i] = true;
  run_bound(db, "INSERT INTO docs(id, v) VALUES(?1, ?2)", i + 1, rows[i]);
}

static void change(sqlite3 *db) {
  int i = below(ROWS), kind = below(10);
  if (!is_there[i]) {
    insert(db, i);
  } else if (kind == 0) {
    is_there[i] = false;
    run_bound(db, "DELETE FROM docs WHERE id = ?1", i + 1, NULL);
  } else {
    rows[i][below(DIMENSIONS)] += (float)(below(2001) - 1000) / 1000.0f;
    run_bound(db, "UPDATE docs SET v = ?2 WHERE id = ?1", i + 1, rows[i]);
  }
}

static void search(sqlite3 *db) {
  float query[DIMENSIONS] = {1, -1, 0.5f, 0, 2, -0.25f, 0, 1};
  sqlite3_stmt *s = sql_prepare(db, "SELECT id FROM vector_search('docs', ?1, 5)");
  bind(s, 1, query);
  while (sqlite3_step(s) == SQLITE_ROW) {
  }
  ck_assert_int_eq(sqlite3_finalize(s), SQLITE_OK);
}

static uint64_t hash_of(sqlite3 *db, uint64_t hash, const char *sql) {
  sqlite3_stmt *s = sql_prepare(db, "%s", sql);
  while (sqlite3_step(s) == SQLITE_ROW) {
    const uint8_t *bytes = sqlite3_column_blob(s, 0);
    for (int i = 0; i < sqlite3_column_bytes(s, 0); i++) hash = (hash ^ bytes[i]) * 0x100000001b3u;
  }
  ck_assert_int_eq(sqlite3_finalize(s), SQLITE_OK);
  return hash;
}

/* The stored graph after the stream. search_every, open_every: after so many commits; 0: never. */
static uint64_t graph_after_stream(const char *name, int search_every, int open_every) {
  const char *file = sql_path(name);
  sqlite3 *db = sql_open(file);
  int64_t most_fresh = 0;
  random_state = 1;
  sql_run(db,
          "CREATE VIRTUAL TABLE docs USING delta_vectors(id INTEGER PRIMARY KEY, v FLOAT[%d] distance_metric=l2,"
          " index=hnsw, hnsw_m=6)",
          DIMENSIONS);
  sql_run(db, "BEGIN");
  for (int i = 0; i < ROWS; i++) insert(db, i);
  sql_run(db, "COMMIT; INSERT INTO docs(docs) VALUES('optimize')");
  for (int c = 1; c <= COMMITS; c++) {
    sql_run(db, "BEGIN");
    for (int i = 0; i < CHANGES; i++) change(db);
    sql_run(db, "COMMIT");
    if (search_every && c % search_every == 0) {
      search(db);
      int64_t n = sql_integer(db, "SELECT delta_status('docs') ->> 'fresh'");
      if (n > most_fresh) most_fresh = n;
    }
    if (open_every == 0 || c % open_every != 0) continue;
    sql_close(db);
    db = sql_open(file);
  }
  ck_assert_int_lt(most_fresh, ROWS * 3 / 4);
  sql_sound(db);
  uint64_t hash = hash_of(db, 0xcbf29ce484222325u, "SELECT links FROM docs_graph ORDER BY block");
  hash = hash_of(db, hash, "SELECT value FROM docs_meta WHERE key = 'graph'");
  hash = hash_of(db, hash, "SELECT heads FROM docs_head ORDER BY block");
  ck_assert_int_gt(sql_integer(db, "SELECT count(*) FROM docs_graph"), 10);
  sql_close(db);
  return hash;
}

/* Rows that were found fresh by a search, settlings that were due because of it, and the codes of deleted rows made graphs
 * differ. */
START_TEST(same_log_same_graph) {
  uint64_t plain = graph_after_stream("plain.db", 0, 0);
  ck_assert_msg(graph_after_stream("searched.db", 3, 0) == plain, "another graph if somebody searches");
  ck_assert_msg(graph_after_stream("opened.db", 0, 4) == plain, "another graph if the table is opened anew");
  ck_assert_msg(graph_after_stream("both.db", 2, 5) == plain, "another graph if it is searched and opened anew");
}
END_TEST

int main(void) {
  Suite *suite = suite_create("upkeep");
  TCase *tc = tcase_create("upkeep");
  tcase_set_timeout(tc, 600);
  tcase_add_checked_fixture(tc, sql_setup, sql_teardown);
  tcase_add_test(tc, same_log_same_graph);
  suite_add_tcase(suite, tc);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int n_failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return n_failed ? 1 : 0;
}
