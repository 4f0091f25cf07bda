/*
 * check_graph.c: the graph by way of SQL. That searches by it find what an exact search finds, whatever happened to
 * the rows a moment ago; that each commit does a bounded part of the work; that the same statements give the same bytes;
 * and that damage to its blocks, one test for each kind, costs neither a crash nor a wrong row, is named by the check and
 * mended by 'rebuild'.
 *
 * Runs on both SQLites, and once more with the small thresholds of ext/thresholds.h, where every few rows settle.
 *
 * DV_SEED=n and DV_STEPS=n are for the random tests.
 */
#include "support.h"

#include <math.h>

#include "../../ext/thresholds.h"
#include "dv_checksum.h"

enum { N_DIMENSIONS = 16, M = 4 };

static sqlite3 *a, *b; /* two connections on one file */
static const char *file;

static void open_files(void) {
  sql_setup();
  file = sql_path("test.db");
  a = sql_open(file);
  b = NULL;
}

static void close_files(void) {
  if (b) sql_close(b);
  if (a) sql_close(a);
  a = b = NULL;
  sql_teardown();
}

static void use_default(void) { sql_profile_now = &sql_default, open_files(); }
static void use_wal(void) { sql_profile_now = &sql_wal, open_files(); }

static void reopen(void) {
  sql_close(a);
  a = sql_open(file);
}

static uint64_t seed_now;

static uint32_t random_below(uint32_t n) {
  seed_now ^= seed_now << 13;
  seed_now ^= seed_now >> 7;
  seed_now ^= seed_now << 17;
  return (uint32_t)((seed_now * 2685821657736338717u >> 32) * n >> 32);
}

static void random_begin(uint64_t seed) {
  const char *given = getenv("DV_SEED");
  seed_now = (given ? strtoull(given, NULL, 10) : seed) * 0x9e3779b97f4a7c15u + 88172645463325252u;
}

static int n_steps(int n) {
  const char *given = getenv("DV_STEPS");
  return given ? atoi(given) : n;
}

/* ---- vectors ----------------------------------------------------------------------------------------------------- */

static void set_length(float *v, float length) {
  float sum = 0;
  for (int j = 0; j < N_DIMENSIONS; j++) sum += v[j] * v[j];
  for (int j = 0; j < N_DIMENSIONS; j++) v[j] *= length / sqrtf(sum);
}

/* The vector number i: near one of 40 centers; of length 1, or, with `is_unequal`, between a half and 2. */
static void make_vector(int i, bool is_unequal, float *v) {
  uint32_t x = (uint32_t)i * 2654435761u + 1, center = (uint32_t)(i % 40) * 40503u + 7;
  float length = is_unequal ? 0.5f + (float)(x >> 16 & 0xff) / 170.0f : 1.0f;
  for (int j = 0; j < N_DIMENSIONS; j++) {
    x = x * 1664525u + 1013904223u;
    center = center * 1664525u + 1013904223u;
    float around = (float)(int32_t)(center >> 8) / 8388608.0f - 1.0f,
          off = (float)(int32_t)(x >> 8) / 8388608.0f - 1.0f;
    v[j] = around + 0.5f * off;
  }
  set_length(v, length);
}

static void create_table(sqlite3 *db, const char *metric, const char *options) {
  sql_run(
      db,
      "CREATE VIRTUAL TABLE docs USING delta_vectors(id INTEGER PRIMARY KEY, embedding FLOAT[%d], n INTEGER, metric=%s,"
      " hnsw_m=%d%s)",
      N_DIMENSIONS, metric, M, options);
}

static void bind_vector(sqlite3_stmt *stmt, int at, const float *v) {
  sqlite3_bind_blob(stmt, at, v, N_DIMENSIONS * (int)sizeof *v, SQLITE_TRANSIENT);
}

static void finish(sqlite3 *db, sqlite3_stmt *stmt) {
  int rc = sqlite3_step(stmt);
  ck_assert_msg(rc == SQLITE_DONE, "%s: %s", sqlite3_sql(stmt), sqlite3_errmsg(db));
  sqlite3_finalize(stmt);
}

/* Rows first .. last, each with the vector of its number. */
static void insert_rows(sqlite3 *db, int first, int last, bool is_unequal) {
  float v[N_DIMENSIONS];
  sqlite3_stmt *stmt = sql_prepare(db, "INSERT INTO docs(id, embedding, n) VALUES(?1, ?2, ?1 %% 10)");
  for (int i = first; i <= last; i++) {
    make_vector(i, is_unequal, v);
    sqlite3_bind_int(stmt, 1, i);
    bind_vector(stmt, 2, v);
    sqlite3_step(stmt);
    ck_assert_msg(sqlite3_reset(stmt) == SQLITE_OK, "INSERT of row %d: %s", i, sqlite3_errmsg(db));
  }
  sqlite3_finalize(stmt);
}

static void fill_table(sqlite3 *db, int n, bool is_unequal) {
  sql_run(db, "BEGIN");
  insert_rows(db, 1, n, is_unequal);
  sql_run(db, "COMMIT");
}

static void optimize(sqlite3 *db) { sql_run(db, "INSERT INTO docs(docs) VALUES('optimize')"); }

static void move_row(sqlite3 *db, int id, const float *v) {
  sqlite3_stmt *stmt = sql_prepare(db, "UPDATE docs SET embedding = ?1 WHERE id = ?2");
  bind_vector(stmt, 1, v);
  sqlite3_bind_int(stmt, 2, id);
  finish(db, stmt);
}

static const char *status(sqlite3 *db, const char *what) {
  return sql_rows(db, "SELECT json_extract(delta_status('docs'), '$.%s')", what);
}

static int64_t n_fresh(sqlite3 *db) { return strtoll(status(db, "fresh"), NULL, 10); }

/* ---- searches ---------------------------------------------------------------------------------------------------- */

enum { MAX_K = 20 };

typedef struct hits {
  int rc;
  int n;
  int64_t ids[MAX_K];
  double distances[MAX_K];
} hits;

/* A failed search is for the caller to judge. */
static hits search(sqlite3 *db, const float *q, int k, const char *options) {
  hits h = {0};
  sqlite3_stmt *stmt = sql_prepare(db, "SELECT id, distance FROM vector_search('docs', ?1, %d, %Q)", k, options);
  bind_vector(stmt, 1, q);
  while (sqlite3_step(stmt) == SQLITE_ROW) {
    ck_assert_int_lt(h.n, k);
    h.ids[h.n] = sqlite3_column_int64(stmt, 0);
    h.distances[h.n++] = sqlite3_column_double(stmt, 1);
  }
  h.rc = sqlite3_finalize(stmt);
  return h;
}

/* Distinct, and in order of their distances. */
static void check_hits(const hits *h, const char *what) {
  for (int i = 0; i < h->n; i++) {
    ck_assert_msg(i == 0 || h->distances[i - 1] <= h->distances[i], "%s: hit %d is nearer than the one before", what,
                  i);
    for (int j = 0; j < i; j++) ck_assert_msg(h->ids[i] != h->ids[j], "%s: row %d twice", what, (int)h->ids[i]);
  }
}

/* The share of what an exact search finds that one with the options finds, too: over n queries that are no rows. */
static double recall(sqlite3 *db, int n, int k, bool is_unequal, const char *options) {
  int n_found = 0, n_expected = 0;
  for (int i = 0; i < n; i++) {
    float q[N_DIMENSIONS];
    make_vector(1000000 + i, is_unequal, q);
    hits exact = search(db, q, k, "{\"exact\":true}"), h = search(db, q, k, options);
    ck_assert_int_eq(exact.rc, SQLITE_OK);
    ck_assert_int_eq(h.rc, SQLITE_OK);
    ck_assert_int_eq(h.n, exact.n);
    check_hits(&h, options);
    for (int j = 0; j < h.n; j++) n_found += h.distances[j] <= exact.distances[exact.n - 1];
    n_expected += exact.n;
  }
  return n_expected ? (double)n_found / n_expected : 1.0;
}

/* The nearest row must be this one, by a search as it runs by default and by an exact one. */
#define nearest_is(db, q, id) nearest_is_at(__LINE__, db, q, id, "{}", true)
#define nearest_is_not(db, q, id) nearest_is_at(__LINE__, db, q, id, "{}", false)
static void nearest_is_at(int line, sqlite3 *db, const float *q, int64_t id, const char *options, bool is_expected) {
  hits h = search(db, q, 1, options), exact = search(db, q, 1, "{\"exact\":true}");
  ck_assert_msg(h.rc == SQLITE_OK && h.n == 1, "line %d: the search fails: %s", line, sqlite3_errmsg(db));
  ck_assert_msg((h.ids[0] == id) == is_expected, "line %d: found row %d at %g, %srow %d", line, (int)h.ids[0],
                h.distances[0], is_expected ? "expected " : "which should not be ", (int)id);
  if (!strcmp(options, "{}")) ck_assert_msg(h.ids[0] == exact.ids[0], "line %d: another row than exactly", line);
}

/* ---- bytes ------------------------------------------------------------------------------------------------------- */

/* Everything that is stored of the graph, but for the random number that tells of a change. To be freed with free(). */
static char *graph_bytes(sqlite3 *db) {
  size_t n = 0, capacity = 1 << 16;
  char *z = malloc(capacity);
  ck_assert_ptr_nonnull(z);
  sqlite3_stmt *stmt = sql_prepare(db, "SELECT block || ':' || quote(links) FROM docs_graph"
                                       " UNION ALL SELECT quote(value) FROM docs_meta WHERE key = 'graph' ORDER BY 1");
  while (sqlite3_step(stmt) == SQLITE_ROW) {
    const char *line = (const char *)sqlite3_column_text(stmt, 0);
    size_t length = (size_t)sqlite3_column_bytes(stmt, 0);
    if (n + length + 2 > capacity) {
      capacity = (n + length + 2) * 2;
      z = realloc(z, capacity);
      ck_assert_ptr_nonnull(z);
    }
    memcpy(z + n, line, length);
    n += length;
    z[n++] = '\n';
  }
  z[n] = 0;
  ck_assert_int_eq(sqlite3_finalize(stmt), SQLITE_OK);
  return z;
}

static void assert_same_bytes(const char *one, const char *other, const char *what) {
  if (strcmp(one, other) == 0) return;
  size_t at = 0;
  while (one[at] == other[at]) at++;
  size_t from = at > 40 ? at - 40 : 0;
  ck_abort_msg("%s: other bytes at %zu of %zu and %zu:\n  %.80s\n  %.80s", what, at, strlen(one), strlen(other),
               one + from, other + from);
}

static int64_t meta(sqlite3 *db, const char *key) {
  return sql_integer(db, "SELECT value FROM docs_meta WHERE key = %Q", key);
}

/* ---- what is found ----------------------------------------------------------------------------------------------- */

static const char *const metrics[] = {"cosine", "l2", "ip", "l1"};
enum { N_METRICS = sizeof metrics / sizeof metrics[0] };

/* After a bulk load and 'optimize' a search by the graph finds what an exact one does; opened anew it finds the same
 * rows, at the same distances. Lengths are unequal with ip. */
START_TEST(searches_find_what_exact_ones_find) {
  bool is_unequal = _i == 2;
  create_table(a, metrics[_i], ", index=hnsw");
  fill_table(a, 1500, is_unequal);
  optimize(a);
  ck_assert_str_eq(status(a, "index"), "hnsw");
  ck_assert_int_eq(n_fresh(a), 0);
  ck_assert_int_gt(sql_integer(a, "SELECT count(*) FROM docs_graph WHERE block >= 0"), 0);
  ck_assert_int_gt(sql_integer(a, "SELECT count(*) FROM docs_graph WHERE block < 0"), 0);
  double found = recall(a, 100, 10, is_unequal, "{\"ef\":150}"),
         found_by_few = recall(a, 100, 10, is_unequal, "{\"ef\":10}");
  ck_assert_msg(found >= 0.95, "%s: recall %.3f", metrics[_i], found);
  /* It is the graph that answers: looking at few rows finds less. */
  ck_assert_msg(found_by_few < found, "%s: recall %.3f with ef = 10", metrics[_i], found_by_few);

  hits before[50], after;
  float q[N_DIMENSIONS];
  for (int i = 0; i < 50; i++) make_vector(2000000 + i, is_unequal, q), before[i] = search(a, q, 10, "{}");
  reopen();
  for (int i = 0; i < 50; i++) {
    make_vector(2000000 + i, is_unequal, q);
    after = search(a, q, 10, "{}");
    ck_assert_mem_eq(&after, &before[i], sizeof after);
  }
  ck_assert_str_eq(status(a, "index"), "hnsw");
  sql_sound(a);
}
END_TEST

/* A filter, a range, a past moment and a k of more than there are rows are answered right, by the graph or without. */
START_TEST(searches_of_other_kinds) {
  create_table(a, "l2", ", index=hnsw");
  fill_table(a, 1200, false);
  optimize(a);
  for (int i = 0; i < 30; i++) {
    float q[N_DIMENSIONS];
    make_vector(3000000 + i, false, q);
    for (int allowed = 1; allowed <= 9; allowed += 4) {
      sqlite3_stmt *stmt =
          sql_prepare(a, "SELECT id, n FROM docs WHERE embedding MATCH ?1 AND k = 5 AND n <= %d", allowed);
      bind_vector(stmt, 1, q);
      int n = 0;
      while (sqlite3_step(stmt) == SQLITE_ROW) {
        n++;
        ck_assert_int_le(sqlite3_column_int(stmt, 1), allowed);
      }
      ck_assert_int_eq(sqlite3_finalize(stmt), SQLITE_OK);
      ck_assert_int_eq(n, 5);
    }
    hits exact = search(a, q, 10, "{\"exact\":true}"), near;
    char range[64];
    snprintf(range, sizeof range, "{\"max_distance\":%.17g}", exact.distances[9]);
    near = search(a, q, 20, range);
    ck_assert_int_eq(near.n, 10);
    ck_assert_mem_eq(near.ids, exact.ids, sizeof near.ids);
  }
  sql_is(a, "1200", "SELECT count(*) FROM vector_search('docs', (SELECT embedding FROM docs WHERE id = 7), 5000)");
}
END_TEST

/* Most rows that pass a filter lie elsewhere than the query does, and some near it: the graph is asked once, and then for
 * more. With small thresholds, that is, where a scan costs much; otherwise that answers. */
START_TEST(rows_that_pass_are_found_though_few_are_near) {
  enum { N_ROWS = 1500, N_QUERIES = 100, K = 5 };
  int n_found = 0;
  create_table(a, "l2", ", index=hnsw, hnsw_ef_search=8");
  fill_table(a, N_ROWS, false);
  sql_run(a, "UPDATE docs SET n = (id %% 40 >= 20 OR id / 40 %% 8 = 0)");
  optimize(a);
  for (int i = 0; i < N_QUERIES; i++) {
    float q[N_DIMENSIONS], v[N_DIMENSIONS];
    double nearest[K + 1];
    int n = 0;
    make_vector(4000000 + 40 * (i / 20) + i % 20, false, q);
    for (int id = 1; id <= N_ROWS; id++) {
      if (id % 40 < 20 && id / 40 % 8 != 0) continue;
      double sum = 0;
      make_vector(id, false, v);
      for (int j = 0; j < N_DIMENSIONS; j++) sum += ((double)v[j] - q[j]) * ((double)v[j] - q[j]);
      int at = n < K ? n++ : K;
      for (; at > 0 && nearest[at - 1] > sqrt(sum); at--) nearest[at] = nearest[at - 1];
      nearest[at] = sqrt(sum);
    }
    sqlite3_stmt *stmt =
        sql_prepare(a, "SELECT n, distance FROM docs WHERE embedding MATCH ?1 AND k = %d AND n = 1", K);
    bind_vector(stmt, 1, q);
    for (n = 0; sqlite3_step(stmt) == SQLITE_ROW; n++) {
      ck_assert_int_eq(sqlite3_column_int(stmt, 0), 1);
      n_found += sqlite3_column_double(stmt, 1) <= nearest[K - 1] * (1 + 1e-6);
    }
    ck_assert_int_eq(sqlite3_finalize(stmt), SQLITE_OK);
    ck_assert_int_eq(n, K);
  }
  ck_assert_msg(n_found >= N_QUERIES * K * 95 / 100, "%d of %d found", n_found, N_QUERIES * K);
}
END_TEST

/* index=auto: no graph with a row less than the threshold, one with it; and it stays when rows go. */
START_TEST(auto_switches_at_its_threshold) {
  int n = (int)DVX_GRAPH_FROM_ROWS;
  sql_run(a, "CREATE VIRTUAL TABLE docs USING delta_vectors(id INTEGER PRIMARY KEY, v FLOAT[2], metric=l2, hnsw_m=2,"
             " hnsw_ef_construction=4)");
  sql_run(a,
          "WITH RECURSIVE i(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM i WHERE i < %d)"
          " INSERT INTO docs(id, v) SELECT i, json_array(i %% 173, i / 173) FROM i",
          n - 1);
  optimize(a);
  ck_assert_str_eq(status(a, "index"), "flat");
  sql_is(a, "0", "SELECT count(*) FROM docs_graph");
  sql_run(a, "INSERT INTO docs(id, v) VALUES(%d, '[200, 200]')", n);
  optimize(a);
#ifndef DVX_SMALL_LIMITS
  ck_assert_str_eq(status(a, "index"), "hnsw"); /* of the few there, ten are all */
#endif
  ck_assert_int_eq(n_fresh(a), 0);
  sql_is(a, "1", "SELECT count(*) > 0 FROM docs_graph");
  sql_run(a, "DELETE FROM docs WHERE id > 3 AND id %% 2 = 0");
  optimize(a);
  sql_is(a, "1", "SELECT count(*) > 0 FROM docs_graph");
  sql_sound(a);
}
END_TEST

/* No graph, and every search right. */
START_TEST(flat_has_no_graph) {
  create_table(a, metrics[_i], ", index=flat");
  fill_table(a, 1000, false);
  optimize(a);
  ck_assert_str_eq(status(a, "index"), "flat");
  ck_assert_str_eq(sql_rows(a, "SELECT json_extract(delta_status('docs'), '$.recall_estimate') IS NULL"), "1");
  sql_is(a, "0", "SELECT count(*) FROM docs_graph");
  sql_is(a, "0", "SELECT count(*) FROM docs_meta WHERE key LIKE 'graph_stamp' AND value <> 0");
  ck_assert(recall(a, 30, 10, false, "{\"ef\":1}") >= 0.999);
  sql_sound(a);
}
END_TEST

/* ---- what changed a moment ago ------------------------------------------------------------------------------------- */

enum { N_ROWS = 400 };

/* A table of N_ROWS rows, all linked, and a second connection that has searched it. */
static void linked_table(const char *metric) {
  create_table(a, metric, ", index=hnsw");
  fill_table(a, N_ROWS, false);
  optimize(a);
  ck_assert_int_eq(n_fresh(a), 0);
  float q[N_DIMENSIONS];
  make_vector(1, false, q);
  b = sql_open(file);
  nearest_is(b, q, 1);
}

/* A place far from every row and from the other far places, whatever the metric. */
static void far_place(int i, float *v) {
  for (int j = 0; j < N_DIMENSIONS; j++) v[j] = 0.0f;
  v[i % N_DIMENSIONS] = 0.8f;
  v[(i + 1) % N_DIMENSIONS] = -0.6f;
}

static void insert_at(sqlite3 *db, int id, const float *v) {
  sqlite3_stmt *stmt = sql_prepare(db, "INSERT INTO docs(id, embedding, n) VALUES(?1, ?2, 0)");
  sqlite3_bind_int(stmt, 1, id);
  bind_vector(stmt, 2, v);
  finish(db, stmt);
}

static void close_by(const float *v, float *out) {
  for (int j = 0; j < N_DIMENSIONS; j++) out[j] = v[j] * (j % 2 ? 1.02f : 0.98f);
  set_length(out, 1.0f);
}

/* Each kind of change; afterwards a row is nearest to `now` and not to `then`, if those are set. */
enum change { INSERTED, MOVED_FAR, MOVED_A_LITTLE, DELETED, INSERTED_AGAIN, MOVED_TWICE, N_CHANGES };

typedef struct expectation {
  int id;
  bool is_there, was_there;
  float now[N_DIMENSIONS], then[N_DIMENSIONS];
} expectation;

static expectation make_change(sqlite3 *db, enum change kind) {
  expectation e = {.id = 17, .is_there = true, .was_there = true};
  make_vector(17, false, e.then);
  far_place(3, e.now);
  switch (kind) {
  case INSERTED:
    e.id = 5000;
    e.was_there = false;
    insert_at(db, e.id, e.now);
    break;
  case MOVED_FAR: move_row(db, e.id, e.now); break;
  case MOVED_A_LITTLE:
    close_by(e.then, e.now);
    e.was_there = false; /* it is still the nearest to where it was */
    move_row(db, e.id, e.now);
    break;
  case DELETED:
    e.is_there = false;
    sql_run(db, "DELETE FROM docs WHERE id = %d", e.id);
    break;
  case INSERTED_AGAIN:
    sql_run(db, "DELETE FROM docs WHERE id = %d", e.id);
    insert_at(db, e.id, e.now);
    break;
  default:
    move_row(db, e.id, e.now);
    far_place(9, e.now);
    move_row(db, e.id, e.now);
  }
  return e;
}

#define check_change(db, e) check_change_at(__LINE__, db, e)
static void check_change_at(int line, sqlite3 *db, const expectation *e) {
  if (e->is_there) nearest_is_at(line, db, e->now, e->id, "{}", true);
  if (e->was_there) nearest_is_at(line, db, e->then, e->id, "{}", false);
}

#define check_no_change(db, e) check_no_change_at(__LINE__, db, e)
static void check_no_change_at(int line, sqlite3 *db, const expectation *e) {
  if (e->was_there) nearest_is_at(line, db, e->then, e->id, "{}", true);
  if (e->was_there || e->id == 5000) nearest_is_at(line, db, e->now, e->id, "{}", false);
}

/* Seen at once, before and after the commit, by the other connection after it, after either of them has linked
 * everything, and when the file is opened anew. */
START_TEST(change_is_seen_at_once) {
  linked_table(metrics[_i / N_CHANGES]);
  sql_run(a, "BEGIN");
  expectation e = make_change(a, (enum change)(_i % N_CHANGES));
  check_change(a, &e);
  check_no_change(b, &e);
  sql_run(a, "COMMIT");
  check_change(a, &e);
  check_change(b, &e);
  optimize(_i % 2 ? a : b);
  check_change(a, &e);
  check_change(b, &e);
  ck_assert_int_eq(n_fresh(a), 0);
  reopen();
  check_change(a, &e);
  sql_sound(a);
}
END_TEST

/* Gone at once after ROLLBACK TO and ROLLBACK; also when everything was linked in between, which is taken back as well. */
START_TEST(change_that_is_rolled_back_was_never_there) {
  linked_table(metrics[_i / N_CHANGES]);
  char *before = graph_bytes(a);
  for (int links = 0; links < 2; links++) {
    sql_run(a, "BEGIN; SAVEPOINT s");
    expectation e = make_change(a, (enum change)(_i % N_CHANGES));
    check_change(a, &e);
    if (links) optimize(a);
    check_change(a, &e);
    sql_run(a, "ROLLBACK TO s");
    check_no_change(a, &e);
    e = make_change(a, (enum change)(_i % N_CHANGES));
    check_change(a, &e);
    sql_run(a, "SAVEPOINT t");
    if (links) optimize(a);
    sql_run(a, "DELETE FROM docs WHERE id <> %d", e.id);
    sql_run(a, "ROLLBACK TO t; RELEASE t");
    check_change(a, &e);
    if (links) optimize(a);
    check_change(a, &e);
    sql_run(a, "ROLLBACK");
    check_no_change(a, &e);
    check_no_change(b, &e);
  }
  char *after = graph_bytes(a);
  assert_same_bytes(before, after, "after ROLLBACK");
  free(before);
  free(after);
  ck_assert_int_eq(n_fresh(a), 0);
  sql_sound(a);
}
END_TEST

/* A row that was moved and not searched for since, then touched, looked at and rolled back: the graph does not answer for
 * it, though it was left alone while it was touched. (By l1 the two places are too near to each other.) */
START_TEST(change_before_one_that_is_rolled_back) {
  float v[N_DIMENSIONS], there[N_DIMENSIONS], elsewhere[N_DIMENSIONS];
  linked_table(metrics[_i / 2]);
  make_vector(17, false, v);
  far_place(3, there), far_place(9, elsewhere);
  nearest_is(a, v, 17);
  move_row(a, 17, there);
  sql_run(a, "BEGIN; SAVEPOINT s");
  move_row(a, 17, elsewhere);
  nearest_is(a, elsewhere, 17);
  sql_run(a, _i % 2 ? "ROLLBACK TO s" : "ROLLBACK");
  nearest_is(a, there, 17);
  nearest_is_not(a, elsewhere, 17);
  nearest_is_not(a, v, 17);
  if (_i % 2) sql_run(a, "COMMIT");
  ck_assert_int_eq(n_fresh(a), 1);
  sql_sound(a);
}
END_TEST

/* What was linked inside a transaction is right when it commits, for who did it and for others. */
START_TEST(linked_in_the_transaction_then_committed) {
  linked_table(metrics[_i / N_CHANGES]);
  sql_run(a, "BEGIN");
  expectation e = make_change(a, (enum change)(_i % N_CHANGES));
  optimize(a);
  check_change(a, &e);
  sql_run(a, "COMMIT");
  check_change(a, &e);
  check_change(b, &e);
  ck_assert_int_eq(n_fresh(a), 0);
  ck_assert_int_eq(n_fresh(b), 0);
  sql_sound(b);
  reopen();
  check_change(a, &e);
  sql_sound(a);
}
END_TEST

/* as_of: a row is found where it was, not where it is. */
START_TEST(past_moments_are_searched_as_they_were) {
  create_table(a, metrics[_i], ", index=hnsw");
  sql_run(a, "BEGIN");
  float v[N_DIMENSIONS], there[N_DIMENSIONS];
  sqlite3_stmt *stmt = sql_prepare(a, "INSERT INTO docs(id, embedding, n, as_of) VALUES(?1, ?2, 0, 1000)");
  for (int i = 1; i <= N_ROWS; i++) {
    make_vector(i, false, v);
    sqlite3_bind_int(stmt, 1, i);
    bind_vector(stmt, 2, v);
    sqlite3_step(stmt);
    ck_assert_int_eq(sqlite3_reset(stmt), SQLITE_OK);
  }
  sqlite3_finalize(stmt);
  sql_run(a, "COMMIT");
  optimize(a);
  far_place(5, there);
  stmt = sql_prepare(a, "UPDATE docs SET embedding = ?1, as_of = 2000 WHERE id = 17");
  bind_vector(stmt, 1, there);
  finish(a, stmt);
  sql_run(a, "SELECT delta_apply('docs', 18, delta_delete(), 2000)");
  for (int linked = 0; linked < 2; linked++) {
    make_vector(17, false, v);
    nearest_is_at(__LINE__, a, v, 17, "{\"as_of\":1500}", true);
    nearest_is_at(__LINE__, a, there, 17, "{\"as_of\":1500}", false);
    nearest_is_at(__LINE__, a, v, 17, "{\"as_of\":2500}", false);
    nearest_is_at(__LINE__, a, there, 17, "{\"as_of\":2500}", true);
    nearest_is(a, there, 17);
    make_vector(18, false, v);
    nearest_is_at(__LINE__, a, v, 18, "{\"as_of\":1500}", true);
    nearest_is_at(__LINE__, a, v, 18, "{\"as_of\":2500}", false);
    make_vector(19, false, v);
    nearest_is_at(__LINE__, a, v, 19, "{\"as_of\":1500}", true);
    optimize(a);
  }
  ck_assert_int_eq(search(a, v, 5, "{\"as_of\":500}").n, 0);
}
END_TEST

/* WAL: who has begun to read goes on with the graph of then, however often others link and commit. */
START_TEST(open_snapshot_keeps_its_graph) {
  linked_table("l2");
  float v[N_DIMENSIONS], there[N_DIMENSIONS];
  make_vector(17, false, v);
  far_place(2, there);
  sql_run(b, "BEGIN");
  nearest_is(b, v, 17);
  for (int i = 0; i < 3; i++) {
    move_row(a, 17, there);
    insert_rows(a, 1000 + 50 * i, 1049 + 50 * i, false);
    optimize(a);
    nearest_is(a, there, 17);
    nearest_is(b, v, 17);
    nearest_is_not(b, there, 17);
    ck_assert(recall(b, 10, 10, false, "{}") >= 0.95);
  }
  sql_run(b, "COMMIT");
  nearest_is(b, there, 17);
  ck_assert(recall(b, 10, 10, false, "{}") >= 0.95);
}
END_TEST

/* A random program on two connections. What was touched is found where it is now, in every state, and the graph stays
 * sound, reachable and as good. */
static void random_change(sqlite3 *db, bool *is_live, float (*where)[N_DIMENSIONS]) {
  int id = 1 + (int)random_below(N_ROWS);
  float *v = where[id];
  if (!is_live[id]) {
    make_vector((int)random_below(100000), false, v);
    insert_at(db, id, v);
    is_live[id] = true;
    return;
  }
  switch (random_below(5)) {
  case 0:
    sql_run(db, "DELETE FROM docs WHERE id = %d", id);
    is_live[id] = false;
    break;
  case 1:
    close_by(v, v);
    move_row(db, id, v);
    break;
  default: make_vector((int)random_below(100000), false, v); move_row(db, id, v);
  }
}

/* Of a few rows: if it lives a search for its place finds a row there, and it if it is alone there. */
static void check_places(sqlite3 *db, const bool *is_live, float (*where)[N_DIMENSIONS], const char *when) {
  for (int i = 0; i < 6; i++) {
    int id = 1 + (int)random_below(N_ROWS);
    hits h = search(db, where[id], 3, "{\"ef\":200}"), exact = search(db, where[id], 3, "{\"exact\":true}");
    ck_assert_int_eq(h.rc, SQLITE_OK);
    check_hits(&h, when);
    for (int j = 0; j < h.n; j++) ck_assert_msg(is_live[h.ids[j]], "%s: found the deleted row %d", when, (int)h.ids[j]);
    if (exact.n == 0) continue;
    ck_assert_msg(h.distances[0] == exact.distances[0], "%s: near row %d (%s): found %d at %g, exactly %d at %g", when,
                  id, is_live[id] ? "lives" : "deleted", (int)h.ids[0], h.distances[0], (int)exact.ids[0],
                  exact.distances[0]);
    if (is_live[id]) ck_assert_msg(exact.distances[0] < 1e-3, "%s: row %d is not where it is", when, id);
  }
}

START_TEST(random_changes_are_seen) {
  static float where[N_ROWS + 1][N_DIMENSIONS], saved[2][N_ROWS + 1][N_DIMENSIONS];
  bool is_live[N_ROWS + 1], was_live[2][N_ROWS + 1];
  random_begin((uint64_t)_i + 1);
  linked_table("l2");
  for (int id = 1; id <= N_ROWS; id++) make_vector(id, false, where[id]), is_live[id] = true;
  for (int step = 0; step < n_steps(60); step++) {
    sqlite3 *db = random_below(2) ? a : b, *other = db == a ? b : a;
    int kind = (int)random_below(8);
    memcpy(saved[0], where, sizeof where), memcpy(was_live[0], is_live, sizeof is_live);
    sql_run(db, "BEGIN");
    for (int i = (int)random_below(20); i > 0; i--) random_change(db, is_live, where);
    if (random_below(8) == 0) optimize(db);
    check_places(db, is_live, where, "in the transaction");
    memcpy(saved[1], where, sizeof where), memcpy(was_live[1], is_live, sizeof is_live);
    sql_run(db, "SAVEPOINT s");
    for (int i = (int)random_below(20); i > 0; i--) random_change(db, is_live, where);
    if (random_below(8) == 0) optimize(db);
    check_places(db, is_live, where, "behind a savepoint");
    check_places(other, was_live[0], saved[0], "before the commit, from the other connection");
    if (kind < 4) {
      sql_run(db, "ROLLBACK TO s");
      memcpy(where, saved[1], sizeof where), memcpy(is_live, was_live[1], sizeof is_live);
      check_places(db, is_live, where, "after ROLLBACK TO");
    }
    if (kind == 1 || kind == 5) {
      sql_run(db, "ROLLBACK");
      memcpy(where, saved[0], sizeof where), memcpy(is_live, was_live[0], sizeof is_live);
      check_places(db, is_live, where, "after ROLLBACK");
    } else {
      sql_run(db, "COMMIT");
      check_places(db, is_live, where, "after COMMIT");
    }
    check_places(other, is_live, where, "from the other connection");
    if (step % 20 == 19) sql_sound(other);
  }
  optimize(b);
  sql_sound(a);
  double found = recall(a, 50, 10, false, "{\"ef\":100}");
  ck_assert_msg(found >= 0.97, "recall %.3f after random changes", found);
  sql_agrees(a);
}
END_TEST

/* ---- how much a commit does ---------------------------------------------------------------------------------------- */

/* Every commit moves or inserts a few rows, so that they are fresh. However many do, no more wait than there are records
 * (of new rows: fewer) between two settlings, and those that one leaves: seen after each commit; and at the end if
 * nobody looked at the table in between, and by a connection that knows nothing of the graph when it begins. */
START_TEST(fresh_rows_stay_few) {
  enum { MOVES, INSERTS, INSERTS_UNSEEN, INSERTS_OPENED_ANEW };
  int n = _i == INSERTS_OPENED_ANEW ? 2500 : 1200, n_commit = 20, n_unseen = 0;
#ifdef DVX_SMALL_LIMITS
  n = 300, n_commit = 2;
#endif
  create_table(a, "l2", ", index=hnsw");
  fill_table(a, n, false);
  optimize(a);
  if (_i == INSERTS_OPENED_ANEW) reopen();
  int64_t between = _i == MOVES ? DVX_UNSETTLED_RECORDS : DVX_SETTLE_STEP, most = 0;
  int64_t bound = between + DVX_FRESH_MOST + 2 * n_commit;
  for (int c = 0, next = n; c < 4 * n / n_commit; c++, next += n_commit) {
    sql_run(a, "BEGIN");
    for (int i = 1; i <= n_commit && _i == MOVES; i++) {
      float v[N_DIMENSIONS];
      make_vector(next + i, false, v);
      move_row(a, 1 + (next + i - 1) % n, v);
    }
    if (_i != MOVES) insert_rows(a, next + 1, next + n_commit, false);
    sql_run(a, "COMMIT");
    if (++n_unseen < (_i >= INSERTS_UNSEEN ? 4 * n / n_commit : 1)) continue;
    int64_t now = n_fresh(a);
    if (now > most) most = now;
  }
  ck_assert_msg(most <= bound, "%lld rows waited for the graph, expected at most %lld", (long long)most,
                (long long)bound);
  ck_assert(most > 0 || _i >= INSERTS_UNSEEN); /* at one moment there may be none */
  ck_assert(recall(a, 20, 10, false, "{\"ef\":150}") >= 0.95);
  sql_sound(a);
}
END_TEST

/* How many lists and sketches of two databases' blocks of the ground differ; the second is a copy of the first as it
 * was. */
static int64_t n_lists_changed(sqlite3 *db, const char *then) {
  sql_run(db, "ATTACH %Q AS old", then);
  int64_t n = sql_integer(db,
                          "WITH RECURSIVE j(j) AS (SELECT 0 UNION ALL SELECT j + 1 FROM j WHERE j + 1 < %lld)"
                          " SELECT count(*) FROM docs_graph AS t, j LEFT JOIN old.docs_graph AS o ON o.block = t.block"
                          " WHERE t.block >= 0 AND substr(t.links, 1 + j * %d, %d) IS NOT"
                          " ifnull(substr(o.links, 1 + j * %d, %d), CAST(substr(t.links, 1 + j * %d, %d) AS BLOB))",
                          (long long)meta(db, "graph_rows"), 8 * M + 16, 8 * M + 16, 8 * M + 16, 8 * M + 16, 8 * M + 16,
                          8 * M + 16);
  sql_run(db, "DETACH old");
  return n;
}

/* A commit links at most DVX_LINKS_A_COMMIT of the rows that wait: seen by how many wait before and after, and by how
 * many lists it changed: each row's own, and those of its neighbours of before and now and of those that had to make
 * room. */
START_TEST(commit_links_a_bounded_number_of_rows) {
  const char *copy = sql_path("copy.db");
  create_table(a, "l2", ", index=hnsw");
  fill_table(a, 6000, false);
  ck_assert_int_ge(n_fresh(a), 6000 - (int64_t)DVX_LINKS_A_COMMIT);
  int n_settled = 0;
  for (int i = 0; i < 8; i++) {
    int64_t before = n_fresh(a), n_new = 100 << (i % 5);
    sql_run(a, "VACUUM INTO %Q", copy);
    sql_run(a, "BEGIN");
    insert_rows(a, 10000 + 5000 * i, 10000 + 5000 * i + (int)n_new - 1, false);
    sql_run(a, "COMMIT");
    int64_t linked = before + n_new - n_fresh(a), changed = n_lists_changed(a, copy);
    n_settled += linked > 0;
    ck_assert_msg(linked <= (int64_t)DVX_LINKS_A_COMMIT, "a commit linked %lld rows", (long long)linked);
    ck_assert_msg(changed <= (int64_t)DVX_LINKS_A_COMMIT * (1 + 6 * M), "a commit changed %lld lists",
                  (long long)changed);
    ck_assert_msg((linked > 0) == (changed > 0), "%lld rows were linked, %lld lists changed", (long long)linked,
                  (long long)changed);
    remove(copy);
  }
  ck_assert_int_gt(n_settled, 0);
  sql_sound(a);
}
END_TEST

/* Neither does one that finds wrong what is stored of the heads, codes or links, by whichever connection it was: somebody's
 * commit of one row would take as long as 'rebuild'. It is mended bit by bit. */
START_TEST(commit_that_finds_damage_links_a_bounded_number_of_rows) {
  static const char *const damages[] = {
      "UPDATE docs_meta SET value = CAST(x'01' || substr(value, 2) AS BLOB) WHERE key = 'settled'",
      "DELETE FROM docs_meta WHERE key = 'settled'",
      "UPDATE docs_head SET heads = zeroblob(length(heads)) WHERE block = 0",
      "UPDATE docs_meta SET value = CAST(x'09' || substr(value, 2) AS BLOB) WHERE key = 'graph'",
      "DELETE FROM docs_meta WHERE key = 'graph_stamp'",
      "DELETE FROM docs_graph WHERE block = (SELECT max(block) FROM docs_graph)",
  };
  const char *copy = sql_path("copy.db");
  for (size_t d = 0; d < sizeof damages / sizeof damages[0]; d++) {
    create_table(a, "l2", ", index=hnsw");
    fill_table(a, 6000, false);
    sql_run(a, "%s", damages[d]);
    ck_assert_int_gt(sqlite3_changes(a), 0);
    reopen();
    sql_run(a, "VACUUM INTO %Q", copy);
    insert_rows(a, 6001, 6001, false);
    int64_t linked = 6001 - n_fresh(a), changed = n_lists_changed(a, copy);
    ck_assert_msg(linked <= 2 * (int64_t)DVX_LINKS_A_COMMIT || d >= 3, "%s: %lld rows are linked behind it", damages[d],
                  (long long)linked); /* a damaged graph is left alone, and says nothing of rows */
    ck_assert_msg(changed <= (int64_t)DVX_LINKS_A_COMMIT * (1 + 6 * M), "%s: a commit changed %lld lists", damages[d],
                  (long long)changed);
    sql_run(a, "INSERT INTO docs(docs) VALUES('rebuild')");
    sql_sound(a);
    sql_run(a, "DROP TABLE docs");
    remove(copy);
  }
}
END_TEST

/* ---- the same bytes ------------------------------------------------------------------------------------------------ */

/* A history with everything in it that changes a graph; it settles many times on the way. */
static void write_history(sqlite3 *db, int metric) {
  create_table(db, metrics[metric], ", index=hnsw");
  fill_table(db, 700, metric == 2);
  optimize(db);
  random_begin(7);
  for (int c = 0; c < 30; c++) {
    sql_run(db, "BEGIN");
    for (int i = 0; i < 60; i++) {
      float v[N_DIMENSIONS];
      make_vector((int)random_below(100000), metric == 2, v);
      move_row(db, 1 + (int)random_below(700), v);
    }
    sql_run(db, "DELETE FROM docs WHERE id = %d", 1 + (int)random_below(700));
    sql_run(db, "SAVEPOINT s; DELETE FROM docs WHERE id %% 3 = 0; ROLLBACK TO s");
    sql_run(db, "COMMIT");
    insert_rows(db, 1000 + 10 * c, 1009 + 10 * c, metric == 2);
  }
}

START_TEST(same_statements_give_the_same_graph) {
  b = sql_open(sql_path("other.db"));
  write_history(a, _i);
  write_history(b, _i);
  ck_assert_int_gt(sql_integer(a, "SELECT count(*) FROM docs_graph"), 0);
  char *one = graph_bytes(a), *other = graph_bytes(b);
  assert_same_bytes(one, other, "two databases");
  free(one), free(other);
  optimize(a);
  optimize(b);
  one = graph_bytes(a), other = graph_bytes(b);
  assert_same_bytes(one, other, "after 'optimize'");
  free(one), free(other);
  sql_sound(a);
}
END_TEST

/* 'optimize' behind 'rebuild' of a table without rows left it with a checksum of nothing, which the check then complained
 * about. */
START_TEST(empty_table_is_rebuilt_and_optimized) {
  create_table(a, "l2", ", index=hnsw");
  for (int i = 0; i < 3; i++) {
    sql_run(a, "INSERT INTO docs(docs) VALUES('rebuild')");
    optimize(a);
    sql_sound(a);
    optimize(a);
    sql_sound(a);
    if (i == 1) continue;
    insert_rows(a, 1, 9, false);
    sql_run(a, "DELETE FROM docs; SELECT delta_compact('docs', '{\"keep\": \"none\"}')");
  }
}
END_TEST

/* 'rebuild' makes a graph of the rows alone: twice the same, the same after VACUUM, in a file that was opened anew, and
 * in a table that took over the log by export and import. A second 'optimize' changes nothing. */
START_TEST(rebuild_gives_the_same_graph_every_time) {
  write_history(a, _i);
  sql_run(a, "INSERT INTO docs(docs) VALUES('rebuild')");
  char *one = graph_bytes(a), *other;
  sql_sound(a);
  optimize(a);
  other = graph_bytes(a);
  assert_same_bytes(one, other, "after 'optimize'");
  free(other);
  sql_run(a, "INSERT INTO docs(docs) VALUES('rebuild')");
  other = graph_bytes(a);
  assert_same_bytes(one, other, "after another 'rebuild'");
  free(other);
  sql_run(a, "VACUUM");
  reopen();
  sql_run(a, "INSERT INTO docs(docs) VALUES('rebuild')");
  other = graph_bytes(a);
  assert_same_bytes(one, other, "opened anew");
  free(other);

  b = sql_open(sql_path("other.db"));
  create_table(b, metrics[_i], ", index=hnsw");
  sqlite3_stmt *from = sql_prepare(a, "SELECT delta_export('docs')");
  sqlite3_stmt *to = sql_prepare(b, "SELECT delta_import('docs', ?1)");
  ck_assert_int_eq(sqlite3_step(from), SQLITE_ROW);
  sqlite3_bind_value(to, 1, sqlite3_column_value(from, 0));
  ck_assert_msg(sqlite3_step(to) == SQLITE_ROW, "%s", sqlite3_errmsg(b));
  sqlite3_finalize(from);
  sqlite3_finalize(to);
  sql_run(b, "INSERT INTO docs(docs) VALUES('rebuild')");
  other = graph_bytes(b);
  assert_same_bytes(one, other, "imported");
  free(other);
  free(one);
}
END_TEST

/* ---- damage ------------------------------------------------------------------------------------------------------ */

enum { N_LINKED = 200, N_QUERIES = 6, K = 5, ENTRY_BYTES = 8 * M + 16, UPPER_BYTES = 4 + 4 * M };
enum { NONE = -1 }; /* an empty place in a list, as u32 */
#define FRESH_BLOCK (-((int64_t)1 << 40))

typedef struct damage {
  const char *name;
  const char *sql; /* one of the two */
  void (*edit)(void);
  const char *expected; /* in the check's message; NULL: it does no harm, and is not found */
  bool has_fresh; /* to a table in which rows wait for the graph */
} damage;

/* Two rows are deleted before the graph is made. With has_fresh there are, besides, rows that a commit has left to later
 * ones. */
static void make_damage_base(bool has_fresh) {
  create_table(a, "l2", ", index=hnsw");
  fill_table(a, N_LINKED, false);
  sql_run(a, "DELETE FROM docs WHERE id IN (7, 77)");
  sql_run(a, "INSERT INTO docs(docs) VALUES('rebuild')");
  if (!has_fresh) return;
  sql_run(a, "BEGIN");
  insert_rows(a, N_LINKED + 1, N_LINKED + 1200, false); /* so many that the commit links some */
  sql_run(a, "COMMIT");
  /* Of rows behind the settled place nobody believes what the file says. */
  for (int i = 0; i < 2; i++) sql_run(a, "SELECT delta_settle('docs')");
  insert_rows(a, N_LINKED + 1201, N_LINKED + 1201, false);
  ck_assert_int_gt(n_fresh(a), 100);
}

/* ---- editing blocks */

static void block_edit(int64_t block, int at, void *bytes, int n, bool writes) {
  sqlite3_blob *blob = NULL;
  ck_assert_msg(sqlite3_blob_open(a, "main", "docs_graph", "links", block, writes, &blob) == SQLITE_OK,
                "block %lld: %s", (long long)block, sqlite3_errmsg(a));
  int rc = writes ? sqlite3_blob_write(blob, bytes, n, at) : sqlite3_blob_read(blob, bytes, n, at);
  ck_assert_int_eq(rc, SQLITE_OK);
  ck_assert_int_eq(sqlite3_blob_close(blob), SQLITE_OK);
}

static uint32_t u32_of(const uint8_t *p) {
  return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static void store(uint8_t *p, uint32_t x) {
  for (int i = 0; i < 4; i++) p[i] = (uint8_t)(x >> 8 * i);
}

/* A list on the ground. Rows are numbered from 0 here, as in the blocks. */
static int read_list(uint32_t row, uint32_t *list) {
  uint8_t bytes[8 * M];
  int64_t rows = meta(a, "graph_rows");
  int n = 0;
  block_edit(row / rows, (int)(row % rows) * ENTRY_BYTES, bytes, sizeof bytes, false);
  for (int i = 0; i < 2 * M; i++) {
    list[i] = u32_of(bytes + 4 * i);
    if (list[i] != (uint32_t)NONE && n == i) n++;
  }
  return n;
}

static void write_list(uint32_t row, const uint32_t *list) {
  uint8_t bytes[8 * M];
  int64_t rows = meta(a, "graph_rows");
  for (int i = 0; i < 2 * M; i++) store(bytes + 4 * i, list[i]);
  block_edit(row / rows, (int)(row % rows) * ENTRY_BYTES, bytes, sizeof bytes, true);
}

static void set_link(uint32_t row, int at, uint32_t other) {
  uint32_t list[2 * M];
  ck_assert_int_gt(read_list(row, list), at);
  list[at] = other;
  write_list(row, list);
}

static void remove_link(uint32_t row, uint32_t other) {
  uint32_t list[2 * M];
  int n = read_list(row, list);
  for (int i = 0; i < n; i++) {
    if (list[i] != other) continue;
    list[i] = list[n - 1];
    list[n - 1] = (uint32_t)NONE;
    write_list(row, list);
    return;
  }
}

/* A list above the ground: its row, and M links. */
static void upper_at(int number, uint8_t *bytes, bool writes) {
  int a_block = (int)meta(a, "graph_bytes") / UPPER_BYTES;
  block_edit(-1 - number / a_block, number % a_block * UPPER_BYTES, bytes, UPPER_BYTES, writes);
}

static uint32_t upper_row(int number) {
  uint8_t bytes[UPPER_BYTES];
  upper_at(number, bytes, false);
  return u32_of(bytes);
}

/* 'graph' in docs_meta: the u32 at this offset. */
static uint32_t state_edit(int at, const uint32_t *value) {
  uint8_t bytes[64];
  sqlite3_stmt *stmt = sql_prepare(a, "SELECT value FROM docs_meta WHERE key = 'graph'");
  ck_assert_int_eq(sqlite3_step(stmt), SQLITE_ROW);
  ck_assert_int_eq(sqlite3_column_bytes(stmt, 0), sizeof bytes);
  memcpy(bytes, sqlite3_column_blob(stmt, 0), sizeof bytes);
  sqlite3_finalize(stmt);
  uint32_t old = u32_of(bytes + at);
  if (!value) return old;
  store(bytes + at, *value);
  stmt = sql_prepare(a, "UPDATE docs_meta SET value = ?1 WHERE key = 'graph'");
  sqlite3_bind_blob(stmt, 1, bytes, sizeof bytes, SQLITE_TRANSIENT);
  finish(a, stmt);
  return old;
}

static uint32_t state(int at) { return state_edit(at, NULL); }
static void set_state(int at, uint32_t value) { (void)state_edit(at, &value); }

enum {
  AT_VERSION = 0,
  AT_M = 4,
  AT_SEED = 8,
  AT_N = 16,
  AT_LINKED = 20,
  AT_ENTRY = 24,
  AT_TOP = 28,
  AT_UPPER = 32,
  AT_UNWALKED = 40,
  AT_GROWTH = 36,
  AT_CURVE = 44
};

static bool has_upper(uint32_t row) {
  for (int i = 0; i < (int)state(AT_UPPER); i++)
    if (upper_row(i) == row) return true;
  return false;
}

/* A linked row that stands on the ground only: the i-th. */
static uint32_t low_row(int i) {
  for (uint32_t row = 20;; row++)
    if (row != 76 && row != state(AT_ENTRY) && !has_upper(row) && i-- == 0) return row;
}

/* ---- the edits */

static void ground_out_of_range(void) { set_link(50, 0, 0xfffffff0u); }
static void ground_just_out_of_range(void) { set_link(50, 0, state(AT_N)); }
static void ground_self(void) { set_link(50, 0, 50); }
static void ground_to_unlinked(void) { set_link(50, 0, 6); }
static void ground_gap(void) { set_link(50, 0, (uint32_t)NONE); }
static void ground_gap_inside(void) { set_link(50, 1, (uint32_t)NONE); }

static void ground_twice(void) {
  uint32_t list[2 * M];
  read_list(50, list);
  remove_link(list[1], 50);
  set_link(50, 1, list[0]);
}

static void ground_one_way(void) {
  uint32_t list[2 * M];
  read_list(50, list);
  remove_link(list[0], 50);
}

static void ground_emptied(void) {
  uint32_t list[2 * M];
  memset(list, 0xff, sizeof list);
  write_list(50, list);
}

static void ground_sketch(void) {
  uint8_t sketch[16] = {192};
  memset(sketch + 1, 0x7f, sizeof sketch - 1);
  int64_t rows = meta(a, "graph_rows");
  block_edit(50 / rows, (int)(50 % rows) * ENTRY_BYTES + 8 * M, sketch, sizeof sketch, true);
}

static void ground_swapped(void) {
  uint32_t one[2 * M], other[2 * M];
  read_list(50, one), read_list(51, other);
  write_list(50, other), write_list(51, one);
}

static void random_bytes(int64_t block) {
  uint8_t bytes[256];
  random_begin((uint64_t)block);
  for (int at = 0; at + (int)sizeof bytes < meta(a, "graph_bytes"); at += (int)sizeof bytes) {
    for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (uint8_t)random_below(256);
    block_edit(block, at, bytes, sizeof bytes, true);
  }
}

static void ground_random(void) { random_bytes(1); }
static void upper_random(void) { random_bytes(-1); }
static void fresh_random(void) { random_bytes(FRESH_BLOCK); }

/* n rows are linked with each other and with no one else. */
static void cut_off(int n) {
  uint32_t rows[2 * M], list[2 * M];
  for (int i = 0; i < n; i++) rows[i] = low_row(i);
  for (int i = 0; i < n; i++) {
    int n_links = read_list(rows[i], list);
    for (int j = 0; j < n_links; j++) remove_link(list[j], rows[i]);
    memset(list, 0xff, sizeof list);
    for (int j = 0, at = 0; j < n; j++)
      if (j != i) list[at++] = rows[j];
    write_list(rows[i], list);
  }
}

static void cut_off_two(void) { cut_off(2); }
static void cut_off_six(void) { cut_off(6); }
static void cut_off_and_unwalked(void) {
  cut_off(2);
  set_state(AT_UNWALKED, 5); /* the walk that will find them is announced */
}

static void upper_edit(int number, int at, uint32_t value) {
  uint8_t bytes[UPPER_BYTES];
  upper_at(number, bytes, false);
  store(bytes + at, value);
  upper_at(number, bytes, true);
}

/* Number of a list above the ground with two links or more. */
static int full_upper(uint32_t *row, uint32_t *links) {
  for (int i = 0;; i++) {
    uint8_t bytes[UPPER_BYTES];
    upper_at(i, bytes, false);
    *row = u32_of(bytes);
    for (int l = 0; l < M; l++) links[l] = u32_of(bytes + 4 + 4 * l);
    if (links[1] != (uint32_t)NONE) return i;
  }
}

static uint32_t some_row, some_links[M];

static void upper_row_out_of_range(void) { upper_edit(3, 0, 0xfffffff0u); }
static void upper_row_none(void) { upper_edit(3, 0, (uint32_t)NONE); }
static void upper_row_without_level(void) { upper_edit(3, 0, low_row(0)); }
static void upper_row_twice(void) { upper_edit(3, 0, upper_row(0)); }
static void upper_out_of_range(void) { upper_edit(full_upper(&some_row, some_links), 4, 0xfffffff0u); }
static void upper_to_low_row(void) { upper_edit(full_upper(&some_row, some_links), 4, low_row(0)); }
static void upper_self(void) {
  upper_edit(full_upper(&some_row, some_links), 4, upper_row(full_upper(&some_row, some_links)));
}
static void upper_twice(void) {
  upper_edit(full_upper(&some_row, some_links), 8, (full_upper(&some_row, some_links), some_links[0]));
}
static void upper_gap(void) { upper_edit(full_upper(&some_row, some_links), 4, (uint32_t)NONE); }
static void upper_one_way(void) {
  int last = M - 1, number = full_upper(&some_row, some_links);
  while (some_links[last] == (uint32_t)NONE) last--;
  upper_edit(number, 4 + 4 * last, (uint32_t)NONE);
}

static void state_version(void) { set_state(AT_VERSION, 2); }
static void state_m(void) { set_state(AT_M, 5); }
static void state_m_huge(void) { set_state(AT_M, 0x80000000u); }
static void state_seed(void) { set_state(AT_SEED, 1); }
static void state_n_large(void) { set_state(AT_N, state(AT_N) + 1); }
static void state_n_huge(void) { set_state(AT_N, 0xffffffffu); }
static void state_n_small(void) { set_state(AT_N, state(AT_N) - 10); }
static void state_n_zero(void) { set_state(AT_N, 0); }
static void state_linked_more(void) { set_state(AT_LINKED, state(AT_LINKED) + 1); }
static void state_linked_less(void) { set_state(AT_LINKED, state(AT_LINKED) - 1); }
static void state_linked_zero(void) { set_state(AT_LINKED, 0); }
static void state_linked_huge(void) { set_state(AT_LINKED, 0xffffffffu); }
static void state_entry_out_of_range(void) { set_state(AT_ENTRY, 0xfffffff0u); }
static void state_entry_none(void) { set_state(AT_ENTRY, (uint32_t)NONE); }
static void state_entry_low(void) { set_state(AT_ENTRY, low_row(0)); }
static void state_entry_low_and_top(void) { set_state(AT_ENTRY, low_row(0)), set_state(AT_TOP, 0); }
static void state_entry_unlinked(void) { set_state(AT_ENTRY, 6), set_state(AT_TOP, 0); }
static void state_top_high(void) { set_state(AT_TOP, state(AT_TOP) + 1); }
static void state_top_low(void) { set_state(AT_TOP, state(AT_TOP) - 1); }
static void state_top_huge(void) { set_state(AT_TOP, 0xffffffffu); }
static void state_upper_less(void) { set_state(AT_UPPER, state(AT_UPPER) - 1); }
static void state_upper_more(void) { set_state(AT_UPPER, state(AT_UPPER) + 1); }
static void state_upper_huge(void) { set_state(AT_UPPER, 0xffffffffu); }
static void state_upper_zero(void) { set_state(AT_UPPER, 0); }
static void state_unwalked(void) { set_state(AT_UNWALKED, 0xffffffffu); }
static void state_curve_high(void) { set_state(AT_CURVE, 0xffffffffu); }
#define BLOCK_WRONG "_graph: block "
#define UPPER_WRONG "what stands above the ground does not hold together"
#define CHECKSUM_WRONG "checksum"
#define STATE_WRONG "it does not begin as a graph of this table does"

static const damage damages[] = {
    {"block of the ground missing", "DELETE FROM docs_graph WHERE block = 1", NULL, BLOCK_WRONG "1 cannot be right",
     false},
    {"first block of the ground missing", "DELETE FROM docs_graph WHERE block = 0", NULL,
     BLOCK_WRONG "0 cannot be right", false},
    {"no blocks of the ground", "DELETE FROM docs_graph WHERE block >= 0", NULL, BLOCK_WRONG, false},
    {"no blocks at all", "DELETE FROM docs_graph", NULL, UPPER_WRONG, false},
    {"block of the ground too short",
     "UPDATE docs_graph SET links = substr(links, 1, length(links) - 1) WHERE block = 1", NULL, BLOCK_WRONG "1", false},
    {"block of the ground of one byte", "UPDATE docs_graph SET links = x'00' WHERE block = 1", NULL, BLOCK_WRONG "1",
     false},
    {"block of the ground empty", "UPDATE docs_graph SET links = x'' WHERE block = 1", NULL, BLOCK_WRONG "1", false},
    {"block of the ground too long", "UPDATE docs_graph SET links = CAST(links || x'00' AS BLOB) WHERE block = 1", NULL,
     BLOCK_WRONG "1", false},
    {"block of the ground very long", "UPDATE docs_graph SET links = zeroblob(5000000) WHERE block = 1", NULL,
     BLOCK_WRONG "1", false},
    {"block of the ground NULL", "UPDATE docs_graph SET links = NULL WHERE block = 1", NULL, BLOCK_WRONG "1", false},
    {"block of the ground a number", "UPDATE docs_graph SET links = 1e300 WHERE block = 1", NULL, BLOCK_WRONG "1",
     false},
    {"block of the ground text", "UPDATE docs_graph SET links = printf('%.*c', length(links), 'x') WHERE block = 1",
     NULL, BLOCK_WRONG "1", false},
    {"block of the ground of zeros", "UPDATE docs_graph SET links = zeroblob(length(links)) WHERE block = 0", NULL,
     BLOCK_WRONG "0", false},
    {"blocks of the ground exchanged",
     "UPDATE docs_graph SET block = 500 WHERE block = 1; UPDATE docs_graph SET block = 1 WHERE block = 2; UPDATE "
     "docs_graph SET block = 2 WHERE block = 500",
     NULL, "_graph: ", false},
    {"block behind the last row", "INSERT INTO docs_graph SELECT 900, links FROM docs_graph WHERE block = 1", NULL,
     CHECKSUM_WRONG, false},
    {"link to a row that cannot be", NULL, ground_out_of_range, BLOCK_WRONG, false},
    {"link to the row behind the last", NULL, ground_just_out_of_range, BLOCK_WRONG, false},
    {"link to itself", NULL, ground_self, BLOCK_WRONG, false},
    {"link to a row that is not linked", NULL, ground_to_unlinked, "but not the other way round", false},
    {"link twice", NULL, ground_twice, "is linked twice with row number", false},
    {"link one way", NULL, ground_one_way, "but not the other way round", false},
    {"gap at the beginning of a list", NULL, ground_gap, BLOCK_WRONG, false},
    {"gap in a list", NULL, ground_gap_inside, "but not the other way round", false},
    {"list without links", NULL, ground_emptied, BLOCK_WRONG, false},
    {"lists exchanged", NULL, ground_swapped, "row number ", false},
    {"sketch of another place", NULL, ground_sketch, "row number 51 is not linked as it should be", false},
    {"random bytes on the ground", NULL, ground_random, BLOCK_WRONG, false},
    {"two rows cut off", NULL, cut_off_two, "no links lead to row number", false},
    {"six rows cut off", NULL, cut_off_six, "no links lead to row number", false},
    {"two rows cut off, and a walk to come", NULL, cut_off_and_unwalked, CHECKSUM_WRONG, false},
    {"upper block missing", "DELETE FROM docs_graph WHERE block = -1", NULL, UPPER_WRONG, false},
    {"upper block too short", "UPDATE docs_graph SET links = substr(links, 2) WHERE block = -1", NULL, UPPER_WRONG,
     false},
    {"upper block too long", "UPDATE docs_graph SET links = CAST(links || x'00' AS BLOB) WHERE block = -1", NULL,
     UPPER_WRONG, false},
    {"upper block NULL", "UPDATE docs_graph SET links = NULL WHERE block = -1", NULL, UPPER_WRONG, false},
    {"upper block a number", "UPDATE docs_graph SET links = 7 WHERE block = -1", NULL, UPPER_WRONG, false},
    {"upper block of zeros", "UPDATE docs_graph SET links = zeroblob(length(links)) WHERE block = -1", NULL,
     UPPER_WRONG, false},
    {"upper block behind the last", "INSERT INTO docs_graph SELECT -900, links FROM docs_graph WHERE block = -1", NULL,
     CHECKSUM_WRONG, false},
    {"random bytes above the ground", NULL, upper_random, UPPER_WRONG, false},
    {"upper list of a row that cannot be", NULL, upper_row_out_of_range, UPPER_WRONG, false},
    {"upper list of no row", NULL, upper_row_none, UPPER_WRONG, false},
    {"upper list of a row of the ground", NULL, upper_row_without_level, UPPER_WRONG, false},
    {"upper list of a row that has one", NULL, upper_row_twice, UPPER_WRONG, false},
    {"upper link to a row that cannot be", NULL, upper_out_of_range, UPPER_WRONG, false},
    {"upper link to a row of the ground", NULL, upper_to_low_row, UPPER_WRONG, false},
    {"upper link to itself", NULL, upper_self, "is linked with itself", false},
    {"upper link twice", NULL, upper_twice, "is linked twice with row number", false},
    {"upper link one way", NULL, upper_one_way, "but not the other way round", false},
    {"gap in an upper list", NULL, upper_gap, "but not the other way round", false},
    {"fresh rows unknown", "DELETE FROM docs_graph WHERE block <= -(1 << 40)", NULL, BLOCK_WRONG, true},
    {"fresh block too short", "UPDATE docs_graph SET links = substr(links, 2) WHERE block = -(1 << 40)", NULL,
     UPPER_WRONG, true},
    {"fresh block too long", "UPDATE docs_graph SET links = CAST(links || x'00' AS BLOB) WHERE block = -(1 << 40)",
     NULL, UPPER_WRONG, true},
    {"fresh block NULL", "UPDATE docs_graph SET links = NULL WHERE block = -(1 << 40)", NULL, UPPER_WRONG, true},
    {"fresh block a number", "UPDATE docs_graph SET links = 7 WHERE block = -(1 << 40)", NULL, UPPER_WRONG, true},
    {"fresh bits cleared", "UPDATE docs_graph SET links = zeroblob(length(links)) WHERE block = -(1 << 40)", NULL,
     BLOCK_WRONG, true},
    {"fresh bits of linked rows",
     "UPDATE docs_graph SET links = CAST(x'ffffffff' || substr(links, 5) AS BLOB) WHERE block = -(1 << 40)", NULL,
     CHECKSUM_WRONG, true},
    {"random fresh bits", NULL, fresh_random, BLOCK_WRONG, true},
    {"fresh block behind the last",
     "INSERT INTO docs_graph SELECT block - 5, links FROM docs_graph WHERE block = -(1 << 40)", NULL, CHECKSUM_WRONG,
     true},
    {"state missing", "DELETE FROM docs_meta WHERE key = 'graph'", NULL, "_graph: ", false},
    {"state too short", "UPDATE docs_meta SET value = substr(value, 1, 63) WHERE key = 'graph'", NULL,
     "_graph: ", false},
    {"state too long", "UPDATE docs_meta SET value = CAST(value || x'00' AS BLOB) WHERE key = 'graph'", NULL,
     "_graph: ", false},
    {"state NULL", "UPDATE docs_meta SET value = NULL WHERE key = 'graph'", NULL, "_graph: ", false},
    {"state text", "UPDATE docs_meta SET value = 'graph' WHERE key = 'graph'", NULL, "_graph: ", false},
    {"stamp missing", "DELETE FROM docs_meta WHERE key = 'graph_stamp'", NULL, "_graph: ", false},
    {"stamp zero", "UPDATE docs_meta SET value = 0 WHERE key = 'graph_stamp'", NULL, "_graph: ", false},
    {"stamp another one", "UPDATE docs_meta SET value = 77 WHERE key = 'graph_stamp'", NULL, CHECKSUM_WRONG, false},
    {"version of later", NULL, state_version, STATE_WRONG, false},
    {"another m", NULL, state_m, STATE_WRONG, false},
    {"an impossible m", NULL, state_m_huge, STATE_WRONG, false},
    {"another seed", NULL, state_seed, STATE_WRONG, false},
    {"a row too many", NULL, state_n_large, STATE_WRONG, false},
    {"rows without end", NULL, state_n_huge, STATE_WRONG, false},
    {"rows too few", NULL, state_n_small, "_graph: ", false},
    {"no rows", NULL, state_n_zero, "_graph: ", false},
    {"a linked row too many", NULL, state_linked_more, CHECKSUM_WRONG, false},
    {"a linked row too few", NULL, state_linked_less, CHECKSUM_WRONG, false},
    {"no linked rows", NULL, state_linked_zero, CHECKSUM_WRONG, false},
    {"linked rows without end", NULL, state_linked_huge, UPPER_WRONG, false},
    {"entry that cannot be", NULL, state_entry_out_of_range, UPPER_WRONG, false},
    {"no entry", NULL, state_entry_none, UPPER_WRONG, false},
    {"entry on the ground", NULL, state_entry_low, UPPER_WRONG, false},
    {"entry and top on the ground", NULL, state_entry_low_and_top, CHECKSUM_WRONG, false},
    {"entry that is not linked", NULL, state_entry_unlinked, "_graph: ", false},
    {"top too high", NULL, state_top_high, UPPER_WRONG, false},
    {"top too low", NULL, state_top_low, UPPER_WRONG, false},
    {"top without end", NULL, state_top_huge, UPPER_WRONG, false},
    {"an upper list too few", NULL, state_upper_less, "_graph: ", false},
    {"an upper list too many", NULL, state_upper_more, "_graph: ", false},
    {"upper lists without end", NULL, state_upper_huge, "_graph: it claims", false},
    {"no upper lists", NULL, state_upper_zero, UPPER_WRONG, false},
    {"a walk to come", NULL, state_unwalked, CHECKSUM_WRONG, false},
    {"a recall above one", NULL, state_curve_high, STATE_WRONG, false},
};
enum { N_DAMAGES = sizeof damages / sizeof damages[0] };

static hits truth[N_QUERIES];

static void find_truth(void) {
  for (int i = 0; i < N_QUERIES; i++) {
    float q[N_DIMENSIONS];
    make_vector(4000000 + i, false, q);
    truth[i] = search(a, q, K, "{\"exact\":true}");
    ck_assert_int_eq(truth[i].n, K);
  }
}

/* Each search finds k distinct rows that live, at their true distances; an exact one, the right rows. */
static void check_searches(sqlite3 *db, const char *what, bool is_same) {
  static const char *const options[] = {"{}", "{\"ef\":1}", "{\"ef\":100000}", "{\"recall_target\":0.9}",
                                        "{\"as_of\":\"now\"}"};
  for (int i = 0; i < N_QUERIES; i++) {
    float q[N_DIMENSIONS];
    make_vector(4000000 + i, false, q);
    for (size_t o = 0; o < sizeof options / sizeof options[0]; o++) {
      hits h = search(db, q, K, options[o]);
      ck_assert_msg(h.rc == SQLITE_OK && h.n == K, "%s: %d rows with %s: %s", what, h.n, options[o],
                    sqlite3_errmsg(db));
      check_hits(&h, what);
      sqlite3_stmt *stmt = sql_prepare(db, "SELECT vector_distance(embedding, ?1, 'l2') FROM docs WHERE id = ?2");
      for (int j = 0; j < K; j++) {
        bind_vector(stmt, 1, q);
        sqlite3_bind_int64(stmt, 2, h.ids[j]);
        ck_assert_msg(sqlite3_step(stmt) == SQLITE_ROW, "%s: found row %d, which does not live", what, (int)h.ids[j]);
        ck_assert_msg(sqlite3_column_double(stmt, 0) == h.distances[j], "%s: row %d at a wrong distance", what,
                      (int)h.ids[j]);
        sqlite3_reset(stmt);
      }
      sqlite3_finalize(stmt);
    }
    hits exact = search(db, q, K, "{\"exact\":true}");
    ck_assert_int_eq(exact.rc, SQLITE_OK);
    if (is_same) ck_assert_msg(memcmp(&exact, &truth[i], sizeof exact) == 0, "%s: an exact search finds others", what);
  }
}

/* ... with the checksum that it needs to be believed. */
static void set_state_rightly(int at, uint32_t value) {
  uint8_t number[8], checks[16];
  set_state(at, value);
  int64_t stamp = atoll(sql_rows(a, "SELECT value FROM docs_meta WHERE key = 'graph_stamp'"));
  for (int i = 0; i < 8; i++) number[i] = (uint8_t)((uint64_t)stamp >> 8 * i);
  sqlite3_stmt *stmt = sql_prepare(a, "SELECT value, (SELECT value FROM docs_meta WHERE key = 'graph') FROM docs_meta"
                                      " WHERE key = 'checks'");
  ck_assert_int_eq(sqlite3_step(stmt), SQLITE_ROW);
  ck_assert_int_eq(sqlite3_column_bytes(stmt, 0), sizeof checks);
  memcpy(checks, sqlite3_column_blob(stmt, 0), sizeof checks);
  store(checks + 4, dv_crc32c(dv_crc32c(0, number, sizeof number), sqlite3_column_blob(stmt, 1),
                              (size_t)sqlite3_column_bytes(stmt, 1)));
  sqlite3_finalize(stmt);
  stmt = sql_prepare(a, "UPDATE docs_meta SET value = ?1 WHERE key = 'checks'");
  sqlite3_bind_blob(stmt, 1, checks, sizeof checks, SQLITE_TRANSIENT);
  finish(a, stmt);
}

/* 'optimize' measures how distances grow, where they are distances; every connection searches by it; and a file that does
 * not say it, such as one that was written before it was measured, is searched by ef alone. */
START_TEST(searches_go_by_how_distances_grow) {
  enum { N_ASKED = 300 };
  static hits by_growth[N_ASKED];
  bool is_measured = !strcmp(metrics[_i], "cosine") || !strcmp(metrics[_i], "l2");
  int n_others = 0;
  float q[N_DIMENSIONS];
  create_table(a, metrics[_i], ", index=hnsw");
  fill_table(a, 1500, false);
  optimize(a);
  b = sql_open(file);
  ck_assert_int_eq(state(AT_GROWTH) != 0, is_measured);
  for (int i = 0; i < N_ASKED; i++) {
    make_vector(1000000 + i, false, q);
    by_growth[i] = search(a, q, 10, "{\"ef\":20}");
    hits other = search(b, q, 10, "{\"ef\":20}");
    ck_assert_mem_eq(other.ids, by_growth[i].ids, 10 * sizeof *other.ids);
  }
  set_state_rightly(AT_GROWTH, 0);
  reopen();
  sql_sound(a);
  for (int i = 0; i < N_ASKED; i++) {
    make_vector(1000000 + i, false, q);
    hits h = search(a, q, 10, "{\"ef\":20}");
    ck_assert_int_eq(h.n, 10);
    n_others += memcmp(h.ids, by_growth[i].ids, 10 * sizeof *h.ids) != 0;
  }
  ck_assert_int_eq(n_others > 0, is_measured);
}
END_TEST

static void settle_all(sqlite3 *db) {
  while (atoi(sql_rows(db, "SELECT delta_settle('docs')")) > 0) {
  }
}

/* Who never calls 'optimize' has it measured by the commits that link rows, and again when much has changed. What 'optimize'
 * has measured stays, and recall with it. */
START_TEST(commits_measure_how_distances_grow) {
  bool is_measured = !strcmp(metrics[_i], "cosine") || !strcmp(metrics[_i], "l2");
  create_table(a, metrics[_i], ", index=hnsw");
  uint32_t seen[2] = {0, 0};
  for (int round = 0; round < 2; round++) {
    sql_run(a, "BEGIN");
    insert_rows(a, 5000 * round + 1, 5000 * (round + 1), round > 0);
    sql_run(a, "COMMIT");
    settle_all(a);
    ck_assert_str_eq(status(a, "fresh"), "0");
    seen[round] = state(AT_GROWTH);
    ck_assert_int_eq(seen[round] != 0, is_measured);
    ck_assert_int_eq((int)state(AT_CURVE), 0);
  }
  ck_assert_int_eq(seen[1] != seen[0], is_measured);
  optimize(a);
  uint32_t growth = state(AT_GROWTH), curve = state(AT_CURVE);
  ck_assert_int_eq(growth != 0, is_measured);
  ck_assert_uint_ne(curve, 0);
  sql_run(a, "DELETE FROM docs WHERE id > 7000");
  settle_all(a);
  sql_sound(a);
  ck_assert_uint_eq(state(AT_GROWTH), growth);
  ck_assert_uint_eq(state(AT_CURVE), curve);
}
END_TEST

/* What commits have linked, and walked over, since 'optimize' measured recall, is measured by the next one: as by one that
 * never measured it. */
START_TEST(optimize_measures_what_commits_linked) {
  const char *copy = sql_path("copy.db");
  create_table(a, metrics[_i], ", index=hnsw");
  fill_table(a, 1500, false);
  optimize(a);
  sql_run(a, "BEGIN");
  insert_rows(a, 1501, 1900, true);
  sql_run(a, "COMMIT");
  settle_all(a);
  ck_assert_str_eq(status(a, "fresh"), "0");
  ck_assert_int_eq((int)state(AT_LINKED), 1900);
  sql_copy_file(file, copy);
  reopen();
  optimize(a);
  char *one = graph_bytes(a);
  sql_close(a);
  a = sql_open(copy);
  for (int i = 0; i < 5; i++) set_state_rightly(AT_CURVE + 4 * i, 0);
  sql_close(a);
  a = sql_open(copy);
  optimize(a);
  sql_sound(a);
  char *other = graph_bytes(a);
  ck_assert_msg(strcmp(one, other) == 0, "the graph is measured otherwise");
  free(one);
  free(other);
}
END_TEST

/* Rows whose neighbours the usual ef does not find: evenly spread in many dimensions, or on a circle, where those of most rows
 * have one code. */
static const struct {
  const char *name, *metric;
  int dimensions, n_rows;
} hard[] = {
    {"evenly spread", "l2", 64, 4000}, {"directions in a plane", "cosine", 2, 3000}, {"in space", "cosine", 3, 6000}};

static int hard_now;

enum { N_HARD = sizeof hard / sizeof hard[0], MOST_DIMENSIONS = 64 };

static void make_even(int i, int n_dimensions, float *v) {
  uint32_t x = (uint32_t)i * 2654435761u + 12345;
  for (int j = 0; j < n_dimensions; j++) {
    x = x * 1664525u + 1013904223u;
    v[j] = (float)(x >> 8) / 16777216.0f;
  }
}

/* The part of the ten nearest that searches with these options find; whoever is as near counts. */
static double found_by(const char *options) {
  enum { N_ASKED = 60 };
  int n_found = 0;
  sqlite3_stmt *exact = sql_prepare(a, "SELECT distance FROM vector_search('docs', ?1, 10, '{\"exact\":true}')"),
               *asked = sql_prepare(a, "SELECT distance FROM vector_search('docs', ?1, 10, '%s')", options);
  for (int i = 0; i < N_ASKED; i++) {
    float q[MOST_DIMENSIONS];
    double farthest = 0;
    make_even(1000000 + i, hard[hard_now].dimensions, q);
    sqlite3_bind_blob(exact, 1, q, hard[hard_now].dimensions * (int)sizeof *q, SQLITE_STATIC);
    sqlite3_bind_blob(asked, 1, q, hard[hard_now].dimensions * (int)sizeof *q, SQLITE_STATIC);
    while (sqlite3_step(exact) == SQLITE_ROW) farthest = sqlite3_column_double(exact, 0);
    while (sqlite3_step(asked) == SQLITE_ROW) n_found += sqlite3_column_double(asked, 0) <= farthest;
    sqlite3_reset(exact);
    sqlite3_reset(asked);
  }
  sqlite3_finalize(exact);
  sqlite3_finalize(asked);
  return n_found / (10.0 * N_ASKED);
}

/* Where 'optimize' has seen that the usual ef misses much, a search that says nothing of it finds nine tenths all the same, a
 * target is held, and the status says so. An ef that is given, or a smaller usual one, is what somebody wants. */
START_TEST(usual_searches_find_most) {
  hard_now = _i;
  float v[MOST_DIMENSIONS];
  sql_run(a,
          "CREATE VIRTUAL TABLE docs USING delta_vectors(id INTEGER PRIMARY KEY, embedding FLOAT[%d], metric=%s, "
          "index=hnsw);"
          " BEGIN",
          hard[_i].dimensions, hard[_i].metric);
  sqlite3_stmt *stmt = sql_prepare(a, "INSERT INTO docs(embedding) VALUES(?1)");
  for (int i = 0; i < hard[_i].n_rows; i++) {
    make_even(i, hard[_i].dimensions, v);
    sqlite3_bind_blob(stmt, 1, v, hard[_i].dimensions * (int)sizeof *v, SQLITE_STATIC);
    ck_assert_int_eq(sqlite3_step(stmt), SQLITE_DONE);
    sqlite3_reset(stmt);
  }
  sqlite3_finalize(stmt);
  sql_run(a, "COMMIT");
  optimize(a);
  double few = found_by("{\"ef\":50}");
  ck_assert_msg(few < 0.88, "ef = 50 finds %g: this is not hard", few);
  for (int round = 0; round < 2; round++) {
    ck_assert_msg(found_by("{}") >= 0.9, "%s: found %g", hard[_i].name, found_by("{}"));
    ck_assert_msg(found_by("{\"recall_target\":0.95}") >= 0.95, "%s: found %g for .95", hard[_i].name,
                  found_by("{\"recall_target\":0.95}"));
    ck_assert_double_ge(atof(status(a, "recall_estimate")), 0.9);
    reopen(); /* it is known to whoever opens the file */
  }
  ck_assert_double_eq(found_by("{\"ef\":50}"), few);
  sql_run(a, "INSERT INTO docs(docs) VALUES('hnsw_ef_search=49')");
  ck_assert_double_lt(found_by("{}"), 0.88);
  ck_assert_double_lt(atof(status(a, "recall_estimate")), 0.9);
}
END_TEST

static char *check_message(sqlite3 *db) {
  char *message = NULL;
  int rc = sql_try(db, &message, "INSERT INTO docs(docs) VALUES('integrity-check')");
  ck_assert_msg(rc == SQLITE_OK || rc == SQLITE_CORRUPT, "the check ends with %d: %s", rc, message);
  ck_assert_msg((rc == SQLITE_OK) == (message == NULL), "the check ends with %d and '%s'", rc, message ? message : "");
  return message;
}

/* Goes on as if nothing was: inserts, moves and deletes rows, in several commits. */
static void change_rows(sqlite3 *db, int first) {
  float there[N_DIMENSIONS];
  for (int i = 0; i < 4; i++) {
    far_place(first / 1000 % 2 * 4 + i, there);
    insert_at(db, first + i, there);
    nearest_is_at(__LINE__, db, there, first + i, "{}", true);
    move_row(db, 30 + i, there);
    sql_run(db, "DELETE FROM docs WHERE id = %d", first + i);
    nearest_is_at(__LINE__, db, there, 30 + i, "{}", true);
  }
}

static const char *ids_line(sqlite3 *db) {
  return sql_rows(db, "SELECT count(*), sum(id), sum(length(embedding)) FROM docs");
}

/* Whatever is damaged: searches give rows that are there, the check names it, rows can be changed, 'rebuild' makes the
 * very graph that it makes of a table that was never damaged. So does 'optimize' wherever reading shows that something is
 * wrong. A connection that had read the graph before does no harm either. */
START_TEST(damage_is_named_and_mended) {
  const damage *d = &damages[_i];
  const char *rebuilt = sql_path("rebuilt.db"), *optimized = sql_path("optimized.db");
  make_damage_base(d->has_fresh);
  find_truth();
  b = sql_open(file);
  check_searches(b, d->name, true);
  sql_copy_file(file, rebuilt);
  sqlite3 *db = sql_open(rebuilt);
  sql_run(db, "INSERT INTO docs(docs) VALUES('rebuild')");
  char *sound = graph_bytes(db);
  sql_close(db);

  char *before = graph_bytes(a);
  if (d->sql) sql_run(a, "%s", d->sql);
  if (d->edit) d->edit();
  char *after = graph_bytes(a);
  ck_assert_msg(strcmp(before, after) != 0 || strstr(d->name, "stamp"), "%s: nothing was damaged", d->name);
  free(before), free(after);
  reopen();
  sql_copy_file(file, rebuilt);
  sql_copy_file(file, optimized);

  check_searches(a, d->name, true);
  char *message = check_message(a);
  if (d->expected) {
    ck_assert_msg(message && strstr(message, d->expected), "%s: the check says '%s', expected '%s'", d->name,
                  message ? message : "nothing", d->expected);
    ck_assert_msg(strstr(message, "'rebuild' mends it") != NULL, "%s: %s", d->name, message);
    ck_assert_msg(strcmp(sql_rows(a, "PRAGMA quick_check"), "") != 0, "quick_check");
  } else {
    ck_assert_msg(!message, "%s: the check says '%s'", d->name, message);
  }
  sqlite3_free(message);
  check_searches(a, d->name, true);
  change_rows(a, 7000);
  check_searches(a, d->name, false);

  db = sql_open(optimized);
  bool is_noticed = strstr(status(db, "index"), "damaged") != NULL;
  optimize(db);
  check_searches(db, d->name, true);
  message = check_message(db);
  if (is_noticed || !d->expected) ck_assert_msg(!message, "%s: after 'optimize': %s", d->name, message);
  sqlite3_free(message);
  sql_close(db);

  db = sql_open(rebuilt);
  sql_run(db, "INSERT INTO docs(docs) VALUES('rebuild')");
  char *bytes = graph_bytes(db);
  assert_same_bytes(sound, bytes, d->name);
  free(bytes), free(sound);
  check_searches(db, d->name, true);
  ck_assert_str_eq(status(db, "index"), "hnsw");
  sql_sound(db);
  sql_close(db);

  /* By now the one that was damaged has been written to by `a`; `b` still had the sound one in memory. */
  check_searches(b, d->name, false);
  change_rows(b, 8000);
  optimize(b);
  check_searches(b, d->name, false);
  sql_run(b, "INSERT INTO docs(docs) VALUES('rebuild')");
  sql_sound(b);
  ck_assert_str_eq(ids_line(a), ids_line(b));
}
END_TEST

/* A graph whose stamp or beginning is gone leaves blocks behind. They do not come to life in the next one, not even those
 * of which no row lives any more. */
START_TEST(blocks_of_a_lost_graph_stay_out_of_the_next) {
  make_damage_base(false);
  int64_t rows = meta(a, "graph_rows");
  sql_run(a, "DELETE FROM docs WHERE id > %lld AND id <= %lld", (long long)rows, (long long)(2 * rows));
  sql_run(a, "DELETE FROM docs_meta WHERE key = %Q", _i ? "graph" : "graph_stamp");
  reopen();
  optimize(a);
  reopen();
  ck_assert_str_eq(status(a, "index"), "hnsw");
  ck_assert_int_eq(n_fresh(a), 0);
  sql_sound(a);
}
END_TEST

/* Random bytes at random places, a few at a time. */
START_TEST(random_damage_is_mended) {
  const char *copy = sql_path("copy.db");
  make_damage_base(_i % 2);
  find_truth();
  random_begin((uint64_t)_i + 100);
  for (int step = 0; step < n_steps(15); step++) {
    char what[64];
    snprintf(what, sizeof what, "seed %d, step %d", _i + 100, step);
    sql_copy_file(file, copy);
    sqlite3 *origin = a;
    a = sql_open(copy);
    for (int i = 1 + (int)random_below(6); i > 0; i--) {
      int64_t n = sql_integer(a, "SELECT count(*) FROM docs_graph");
      int64_t block =
          sql_integer(a, "SELECT block FROM docs_graph LIMIT 1 OFFSET %lld", (long long)random_below((uint32_t)n));
      uint8_t bytes[8];
      for (size_t j = 0; j < sizeof bytes; j++) bytes[j] = random_below(3) ? (uint8_t)random_below(256) : 0;
      int n_bytes = 1 + (int)random_below(8), size = (int)meta(a, "graph_bytes");
      if (random_below(4) == 0)
        set_state((int)random_below(16) * 4, random_below(2) ? random_below(300) : random_below(0xffffffffu));
      else
        block_edit(block, (int)random_below((uint32_t)(size - 8)), bytes, n_bytes, true);
    }
    sql_close(a);
    a = sql_open(copy);
    check_searches(a, what, true);
    sqlite3_free(check_message(a));
    change_rows(a, 7000);
    if (random_below(2)) optimize(a);
    check_searches(a, what, false);
    sql_run(a, "INSERT INTO docs(docs) VALUES('rebuild')");
    sql_sound(a);
    sql_close(a);
    a = origin;
  }
}
END_TEST

/* ---- damaged codes --------------------------------------------------------------------------------------------------- */

typedef struct code_damage {
  const char *name, *sql;
  bool is_harmless; /* searches fall back on vectors; else what they find can be wrong, but it is there */
} code_damage;

#define FLIP(at, bytes, n)                                                                                             \
  "UPDATE docs_code SET codes = CAST(substr(codes, 1, " #at ") || x'" bytes "' || substr(codes, 1 + " #at " + " #n     \
  ") AS BLOB) WHERE block = 1"

static const code_damage code_damages[] = {
    {"block missing", "DELETE FROM docs_code WHERE block = 1", true},
    {"no blocks", "DELETE FROM docs_code", true},
    {"block too short", "UPDATE docs_code SET codes = substr(codes, 2) WHERE block = 1", true},
    {"block too long", "UPDATE docs_code SET codes = CAST(codes || x'00' AS BLOB) WHERE block = 1", true},
    {"block empty", "UPDATE docs_code SET codes = x'' WHERE block = 1", true},
    {"block NULL", "UPDATE docs_code SET codes = NULL WHERE block = 1", true},
    {"block a number", "UPDATE docs_code SET codes = 7 WHERE block = 1", true},
    {"zeros", "UPDATE docs_code SET codes = zeroblob(length(codes)) WHERE block = 1", false},
    {"codes of another block",
     "UPDATE docs_code SET codes = (SELECT codes FROM docs_code WHERE block = 0) WHERE block = 1", false},
    {"random bytes", "UPDATE docs_code SET codes = randomblob(length(codes)) WHERE block = 1", false},
    {"a code", FLIP(8, "7f", 1), false},
    {"the code -128", FLIP(8, "80808080", 4), false},
    {"no error allowed for", FLIP(0, "00", 1), false},
    {"scale not a number", FLIP(1, "00c07f", 3), false},
    {"scale infinite", FLIP(1, "00807f", 3), false},
    {"scale negative", FLIP(1, "0000bf", 3), false},
    {"scale zero", FLIP(1, "000000", 3), false},
};
enum { N_CODE_DAMAGES = sizeof code_damages / sizeof code_damages[0] };

/* Codes are stored once the log is long enough. */
static void make_coded_table(void) {
#ifdef DVX_SMALL_LIMITS
  int dimensions = 300, n = 40;
#else
  int dimensions = 65536, n = 100;
#endif
  sql_run(a, "CREATE VIRTUAL TABLE docs USING delta_vectors(dimensions=%d, metric=l2, index=hnsw, hnsw_m=%d)",
          dimensions, M);
  sql_run(a, "BEGIN");
  sql_insert_many(a, "docs", 1, n);
  sql_run(a, "COMMIT");
  optimize(a);
  ck_assert_int_gt(sql_integer(a, "SELECT count(*) FROM docs_code"), 1);
}

static const char *coded_search(sqlite3 *db, int row, const char *options) {
  return sql_rows(db,
                  "SELECT id, distance FROM vector_search('docs', (SELECT vector FROM docs WHERE id = 'r%d'), 4, %Q)",
                  row, options);
}

START_TEST(damaged_codes_are_named_and_mended) {
  const code_damage *d = &code_damages[_i];
#ifndef DVX_SMALL_LIMITS
  if (_i % 8 != 0) return; /* a table that is large enough takes its time */
#endif
  make_coded_table();
  char right[6][600];
  for (int i = 0; i < 6; i++) snprintf(right[i], sizeof right[i], "%s", coded_search(a, 3 * i + 1, "{\"exact\":true}"));
  sql_run(a, "CREATE TABLE sound AS SELECT block, codes FROM docs_code");
  char *graph = graph_bytes(a);
  sql_run(a, "%s", d->sql);
  reopen();
  for (int i = 0; i < 6; i++) {
    const char *exact = coded_search(a, 3 * i + 1, "{\"exact\":true}");
    if (d->is_harmless) ck_assert_msg(!strcmp(exact, right[i]), "%s: '%s', expected '%s'", d->name, exact, right[i]);
    (void)coded_search(a, 3 * i + 1, "{}");
    sql_is(a, "4|4",
           "SELECT count(DISTINCT s.id), count(d.id) FROM vector_search('docs', (SELECT vector FROM docs WHERE id ="
           " 'r%d'), 4) AS s JOIN docs AS d ON d.id = s.id",
           3 * i + 1);
  }
  char *message = check_message(a);
  ck_assert_msg(message && strstr(message, "_code: block "), "%s: the check says '%s'", d->name,
                message ? message : "");
  ck_assert_msg(strstr(message, "'rebuild' mends it") != NULL, "%s: %s", d->name, message);
  sqlite3_free(message);
  sql_run(a, "INSERT INTO docs(docs) VALUES('rebuild')");
  sql_is(a, "0", "SELECT count(*) FROM sound AS s LEFT JOIN docs_code AS c USING(block) WHERE c.codes IS NOT s.codes");
  char *again = graph_bytes(a);
  assert_same_bytes(graph, again, d->name);
  free(graph), free(again);
  for (int i = 0; i < 6; i++) ck_assert_str_eq(coded_search(a, 3 * i + 1, "{\"exact\":true}"), right[i]);
  sql_sound(a);
}
END_TEST

int main(int argc, char **argv) {
  Suite *suite = suite_create("graph");
  TCase *t = tcase_create("default");
  tcase_set_timeout(t, 300);
  tcase_add_checked_fixture(t, use_default, close_files);
  tcase_add_loop_test(t, searches_find_what_exact_ones_find, 0, N_METRICS);
  tcase_add_test(t, searches_of_other_kinds);
  tcase_add_test(t, rows_that_pass_are_found_though_few_are_near);
  tcase_add_test(t, auto_switches_at_its_threshold);
  tcase_add_loop_test(t, searches_go_by_how_distances_grow, 0, N_METRICS);
  tcase_add_loop_test(t, commits_measure_how_distances_grow, 0, N_METRICS);
  tcase_add_loop_test(t, usual_searches_find_most, 0, N_HARD);
  tcase_add_loop_test(t, optimize_measures_what_commits_linked, 0, N_METRICS);
  tcase_add_loop_test(t, flat_has_no_graph, 0, N_METRICS);
  tcase_add_loop_test(t, change_is_seen_at_once, 0, N_METRICS * N_CHANGES);
  tcase_add_loop_test(t, change_that_is_rolled_back_was_never_there, 0, N_METRICS * N_CHANGES);
  tcase_add_loop_test(t, change_before_one_that_is_rolled_back, 0, 6);
  tcase_add_loop_test(t, linked_in_the_transaction_then_committed, 0, N_METRICS * N_CHANGES);
  tcase_add_loop_test(t, past_moments_are_searched_as_they_were, 0, N_METRICS);
  tcase_add_loop_test(t, fresh_rows_stay_few, 0, 4);
  tcase_add_test(t, commit_links_a_bounded_number_of_rows);
  tcase_add_test(t, commit_that_finds_damage_links_a_bounded_number_of_rows);
  tcase_add_test(t, empty_table_is_rebuilt_and_optimized);
  tcase_add_loop_test(t, same_statements_give_the_same_graph, 0, N_METRICS);
  tcase_add_loop_test(t, rebuild_gives_the_same_graph_every_time, 0, N_METRICS);
  tcase_add_loop_test(t, damage_is_named_and_mended, 0, N_DAMAGES);
  tcase_add_loop_test(t, blocks_of_a_lost_graph_stay_out_of_the_next, 0, 2);
  tcase_add_loop_test(t, random_damage_is_mended, 0, 4);
  tcase_add_loop_test(t, damaged_codes_are_named_and_mended, 0, N_CODE_DAMAGES);
  suite_add_tcase(suite, t);
  t = tcase_create("wal");
  tcase_set_timeout(t, 300);
  tcase_add_checked_fixture(t, use_wal, close_files);
  tcase_add_test(t, open_snapshot_keeps_its_graph);
  tcase_add_loop_test(t, random_changes_are_seen, 0, 4);
  suite_add_tcase(suite, t);
  return sql_main(suite, argc, argv);
}
