/*
 * check_recall.c: a recall_target is held, on vectors as they occur, for queries that are no rows; and what the table
 * says of its recall is what is measured. Three kinds: texts (cosine), words of unequal lengths (ip), places in
 * photographs (l2).
 *
 *   check_recall                 the samples: tests/data, and the one of sql/examples/data
 *   check_recall <directory>     the sets that tests/bench/make_embeddings.py and make_datasets.py have made there, with
 *                                a table of figures: ./dev soak recall
 *
 * tests/data/make_samples.py says what is in the files.
 */
#define _XOPEN_SOURCE 700
#include "support.h"

#include <math.h>
#include <time.h>

enum { MAX_K = 100, MAX_QUERIES = 1000 };

typedef struct data_set {
  const char *name, *metric;
  size_t dimensions;
  size_t n_rows, n_queries; /* of the whole set */
  const char *sample;
  size_t n_sample_rows, n_sample_queries;
  bool has_scale; /* the sample: signed bytes and a scale for each vector. Else unsigned bytes */
} data_set;

static const data_set sets[] = {
    {"wordnet-384", "cosine", 384, 100000, 1000, "wordnet_sample.db", 1900, 120, true},
    {"words-200", "ip", 200, 50000, 1000, "words-200.sample", 4000, 150, true},
    {"patches-128", "l2", 128, 100000, 1000, "patches-128.sample", 6000, 150, false},
};
enum { N_SETS = sizeof sets / sizeof sets[0] };

static const double targets[] = {0.9, 0.95, 0.98, 0.99, 0.995};
enum { N_TARGETS = sizeof targets / sizeof targets[0] };

static const char *whole; /* where the whole sets are; NULL: the samples */
static bool is_verbose;   /* prints the table of figures; DV_VERBOSE does it for the samples */

/* ---- vectors ----------------------------------------------------------------------------------------------------- */

static float *rows, *queries;
static size_t n_rows, n_queries, n_dimensions;

static float *floats(size_t n) {
  float *p = malloc(n * sizeof *p);
  ck_assert_ptr_nonnull(p);
  return p;
}

static FILE *open_part(const char *directory, const char *name, const char *end) {
  char path[600];
  snprintf(path, sizeof path, "%s/%s%s", directory, name, end);
  FILE *f = fopen(path, "rb");
  ck_assert_msg(f != NULL, "cannot open %s", path);
  return f;
}

static float *read_floats(const data_set *s, const char *end, size_t n) {
  FILE *f = open_part(whole, s->name, end);
  float *v = floats(n * s->dimensions);
  size_t n_read = fread(v, s->dimensions * sizeof *v, n, f);
  fclose(f);
  ck_assert_msg(n_read == n, "%s%s has %zu vectors, expected %zu", s->name, end, n_read, n);
  return v;
}

static void unpack(const data_set *s, const uint8_t *bytes, float scale, float *v) {
  for (size_t j = 0; j < s->dimensions; j++) v[j] = s->has_scale ? (float)(int8_t)bytes[j] * scale : (float)bytes[j];
}

static void read_sample(const data_set *s) {
  FILE *f = open_part(DV_TEST_DATA, s->sample, "");
  uint8_t bytes[512];
  for (size_t i = 0; i < n_rows + n_queries; i++) {
    float scale = 1;
    if (s->has_scale) ck_assert_uint_eq(fread(&scale, sizeof scale, 1, f), 1);
    ck_assert_uint_eq(fread(bytes, s->dimensions, 1, f), 1);
    unpack(s, bytes, scale, (i < n_rows ? rows + i * n_dimensions : queries + (i - n_rows) * n_dimensions));
  }
  ck_assert_int_eq(fgetc(f), EOF);
  fclose(f);
}

/* The data of the demo: 2,000 texts, of which every twentieth is a query here, and 20 questions. */
static void read_demo(const data_set *s) {
  sqlite3 *db;
  sqlite3_stmt *stmt;
  size_t at_row = 0, at_query = 0;
  ck_assert_int_eq(sqlite3_open_v2(DV_DEMO_DATA "/wordnet_sample.db", &db, SQLITE_OPEN_READONLY, NULL), SQLITE_OK);
  for (int questions = 0; questions < 2; questions++) {
    stmt = sql_prepare(db, "SELECT scale, codes FROM %s ORDER BY 2", questions ? "query" : "gloss");
    for (int i = 0; sqlite3_step(stmt) == SQLITE_ROW; i++) {
      bool is_query = questions || i % 20 == 7;
      ck_assert_int_eq(sqlite3_column_bytes(stmt, 1), (int)s->dimensions);
      ck_assert_uint_lt(is_query ? at_query : at_row, is_query ? n_queries : n_rows);
      float *v = is_query ? queries + at_query++ * n_dimensions : rows + at_row++ * n_dimensions;
      unpack(s, sqlite3_column_blob(stmt, 1), (float)sqlite3_column_double(stmt, 0), v);
    }
    sqlite3_finalize(stmt);
  }
  sqlite3_close(db);
  ck_assert_uint_eq(at_row, n_rows);
  ck_assert_uint_eq(at_query, n_queries);
}

static void read_set(const data_set *s) {
  n_dimensions = s->dimensions;
  n_rows = whole ? s->n_rows : s->n_sample_rows;
  n_queries = whole ? s->n_queries : s->n_sample_queries;
  if (whole) {
    rows = read_floats(s, ".f32", n_rows);
    queries = read_floats(s, "-queries.f32", n_queries);
    return;
  }
  rows = floats(n_rows * n_dimensions);
  queries = floats(n_queries * n_dimensions);
  if (strstr(s->sample, ".db")) {
    read_demo(s);
  } else {
    read_sample(s);
  }
}

/* ---- tables and searches ----------------------------------------------------------------------------------------- */

static sqlite3 *db;
static const char *file;
static double truth[MAX_QUERIES][MAX_K]; /* distances of the nearest rows */

static void make_table(const data_set *s) {
  sql_run(db,
          "CREATE VIRTUAL TABLE docs USING delta_vectors(id INTEGER PRIMARY KEY, v FLOAT[%d], metric=%s, index=hnsw)",
          (int)s->dimensions, s->metric);
  sql_run(db, "BEGIN");
  sqlite3_stmt *stmt = sql_prepare(db, "INSERT INTO docs(id, v) VALUES(?1, ?2)");
  for (size_t i = 0; i < n_rows; i++) {
    sqlite3_bind_int(stmt, 1, (int)i + 1);
    sqlite3_bind_blob(stmt, 2, rows + i * n_dimensions, (int)(n_dimensions * sizeof *rows), SQLITE_STATIC);
    ck_assert_msg(sqlite3_step(stmt) == SQLITE_DONE, "row %zu: %s", i, sqlite3_errmsg(db));
    sqlite3_reset(stmt);
  }
  sqlite3_finalize(stmt);
  sql_run(db, "COMMIT");
  sql_run(db, "INSERT INTO docs(docs) VALUES('optimize')");
  sql_is(db, "hnsw|0", "SELECT delta_status('docs') ->> 'index', delta_status('docs') ->> 'fresh'");
}

static double now(void) {
  struct timespec t;
  timespec_get(&t, TIME_UTC);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* The searches' distances, into out or, if that is NULL, compared with the true ones: the share that is as near. */
static double search_all(int k, const char *options, double (*out)[MAX_K], double *seconds) {
  sqlite3_stmt *stmt = sql_prepare(db, "SELECT distance FROM vector_search('docs', ?1, %d, %Q)", k, options);
  int n_found = 0;
  double begin = now();
  for (size_t i = 0; i < n_queries; i++) {
    int n = 0;
    sqlite3_bind_blob(stmt, 1, queries + i * n_dimensions, (int)(n_dimensions * sizeof *queries), SQLITE_STATIC);
    for (; sqlite3_step(stmt) == SQLITE_ROW; n++) {
      double d = sqlite3_column_double(stmt, 0);
      if (out) out[i][n] = d;
      n_found += d <= truth[i][k - 1];
    }
    ck_assert_msg(sqlite3_reset(stmt) == SQLITE_OK, "query %zu with %s: %s", i, options, sqlite3_errmsg(db));
    ck_assert_int_eq(n, k);
  }
  if (seconds) *seconds = now() - begin;
  sqlite3_finalize(stmt);
  return (double)n_found / ((double)n_queries * k);
}

static double number(const char *expression) { return strtod(sql_rows(db, "SELECT %s", expression), NULL); }

/* ---- tests ------------------------------------------------------------------------------------------------------- */

static int n_missed;

static void report(const data_set *s, int k, const char *what, double target, double found, double seconds) {
  if (!is_verbose) return;
  printf("%-12s %4d  %-14s %6.3f  %7.4f  %7.3f%s\n", s->name, k, what, target, found,
         1000 * seconds / (double)n_queries, found < target ? "  below" : "");
  fflush(stdout);
}

static void find_truth(const data_set *s) {
  double seconds;
  memset(truth, 0, sizeof truth);
  search_all(MAX_K, "{\"exact\":true}", truth, &seconds);
  report(s, MAX_K, "exact", 1, 1, seconds);
}

/* With the search option recall_target. Of k = 1 and 100, too: what the table measures is k = 10. */
static void check_targets(const data_set *s) {
  static const int ks[] = {10, 1, 100};
  double seconds;
  for (size_t j = 0; j < sizeof ks / sizeof ks[0]; j++) {
    if (ks[j] == 100 && n_queries > 200) n_queries = 200; /* they say as much, and take long; the last of ks */
    for (int i = 0; i < N_TARGETS; i++) {
      char options[64];
      snprintf(options, sizeof options, "{\"recall_target\":%g}", targets[i]);
      double found = search_all(ks[j], options, NULL, &seconds);
      report(s, ks[j], "recall_target", targets[i], found, seconds);
      /* One answer a query says little: two standard errors are allowed for. */
      double slack = ks[j] == 1 ? 2 * sqrt(targets[i] * (1 - targets[i]) / (double)n_queries) : 0;
      if (found >= targets[i] - slack) continue;
      n_missed++;
      if (!is_verbose) ck_abort_msg("%s: recall@%d %.4f, target %g", s->name, ks[j], found, targets[i]);
    }
  }
}

/* What is said of recall is what is measured, within a few points. delta_recall() asks for rows, which find themselves. */
static void check_estimates(const data_set *s) {
  double said = number("delta_status('docs') ->> 'recall_estimate'"), seconds;
  double found = search_all(10, "{}", NULL, &seconds);
  report(s, 10, "default ef", 0, found, seconds);
  ck_assert_msg(fabs(said - found) <= 0.03, "%s: recall_estimate %.4f, measured %.4f", s->name, said, found);
  double by_rows = number("delta_recall('docs', 200)");
  if (is_verbose)
    printf("%-12s       recall_estimate %.4f, delta_recall() %.4f, measured %.4f\n", s->name, said, by_rows, found);
  ck_assert_msg(fabs(by_rows - found) <= 0.04, "%s: delta_recall() %.4f, measured %.4f", s->name, by_rows, found);
}

/* The table's option is the same as that of each search. */
static void check_table_option(void) {
  static double by_option[MAX_QUERIES][MAX_K], by_table[MAX_QUERIES][MAX_K];
  if (n_queries > 50) n_queries = 50;
  for (int i = 0; i < N_TARGETS; i++) {
    char options[64];
    snprintf(options, sizeof options, "{\"recall_target\":%g}", targets[i]);
    search_all(10, options, by_option, NULL);
    sql_run(db, "PRAGMA writable_schema = ON");
    sql_run(db,
            "UPDATE sqlite_schema SET sql = substr(sql, 1, instr(sql, 'index=hnsw') + 9) || ', recall_target=%g)'"
            " WHERE name = 'docs'",
            targets[i]);
    sql_close(db);
    db = sql_open(file);
    search_all(10, "{}", by_table, NULL);
    ck_assert_msg(memcmp(by_option, by_table, sizeof by_table) == 0, "recall_target=%g of the table gives other rows",
                  targets[i]);
    /* That of a search comes first. */
    search_all(10, "{\"recall_target\":1}", by_table, NULL);
    for (size_t j = 0; j < n_queries; j++) ck_assert(by_table[j][9] == truth[j][9]);
  }
}

START_TEST(recall_target_is_held) {
  const data_set *s = &sets[_i];
  double begin = now();
  sql_setup();
  file = sql_path("test.db");
  db = sql_open(file);
  read_set(s);
  make_table(s);
  if (is_verbose)
    printf("%-12s %zu rows, %zu queries; loaded and linked in %.0f s\n", s->name, n_rows, n_queries, now() - begin);
  find_truth(s);
  check_estimates(s);
  check_targets(s);
  check_table_option();
  sql_close(db);
  free(rows), free(queries);
  sql_teardown();
  ck_assert_msg(n_missed == 0, "%s: %d targets were missed", s->name, n_missed);
}
END_TEST

int main(int argc, char **argv) {
  Suite *suite = suite_create("recall");
  TCase *t = tcase_create("sets");
  whole = argc > 1 ? argv[1] : NULL;
  is_verbose = whole || getenv("DV_VERBOSE");
  if (is_verbose) {
    setenv("CK_FORK", "no", 1);
    printf("%-12s %4s  %-14s %6s  %7s  %7s\n", "set", "k", "search", "target", "recall", "ms");
  }
  tcase_set_timeout(t, 300);
  for (int i = 0; i < N_SETS; i++) {
    if (whole) {
      char path[600];
      snprintf(path, sizeof path, "%s/%s.f32", whole, sets[i].name);
      if (!sql_file_exists(path)) {
        printf("%-12s is not there\n", sets[i].name);
        continue;
      }
    }
    tcase_add_loop_test(t, recall_target_is_held, i, i + 1);
  }
  suite_add_tcase(suite, t);
  return sql_main(suite, argc, argv);
}
