/*
 * check_config.c: the arguments of CREATE VIRTUAL TABLE: both forms, every option, and the text of every refusal. The
 * arguments come from the schema of a file, so the limits and the wild inputs at the end matter as much as the
 * messages.
 */
#include <check.h>
#include <sqlite3.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static sqlite3 *db;

static void open_up(void) {
  char *message = NULL;
  ck_assert_int_eq(sqlite3_open(":memory:", &db), SQLITE_OK);
  ck_assert_int_eq(sqlite3_enable_load_extension(db, 1), SQLITE_OK);
  int rc = sqlite3_load_extension(db, DV_EXTENSION_PATH, NULL, &message);
  ck_assert_msg(rc == SQLITE_OK, "cannot load " DV_EXTENSION_PATH ": %s", message ? message : "");
}

static void open_down(void) {
  ck_assert_int_eq(sqlite3_close(db), SQLITE_OK);
  ck_assert_int_eq((int)sqlite3_memory_used(), 0);
}

static void run(const char *sql) {
  char *message = NULL;
  int rc = sqlite3_exec(db, sql, NULL, NULL, &message);
  ck_assert_msg(rc == SQLITE_OK, "%s: %s", sql, message ? message : "");
}

/* The rows' first columns with spaces between them; valid until the next call. */
static const char *values(const char *sql) {
  static char text[16384];
  sqlite3_stmt *stmt;
  text[0] = 0;
  ck_assert_msg(sqlite3_prepare_v2(db, sql, -1, &stmt, NULL) == SQLITE_OK, "%s: %s", sql, sqlite3_errmsg(db));
  while (sqlite3_step(stmt) == SQLITE_ROW) {
    const char *value = (const char *)sqlite3_column_text(stmt, 0);
    if (text[0]) strcat(text, " ");
    strncat(text, value ? value : "NULL", sizeof text - strlen(text) - 2);
  }
  ck_assert_int_eq(sqlite3_finalize(stmt), SQLITE_OK);
  return text;
}

static void create(const char *arguments) {
  char *sql = sqlite3_mprintf("CREATE VIRTUAL TABLE t USING delta_vectors(%s)", arguments);
  run(sql);
  sqlite3_free(sql);
}

/* The message with which the arguments are refused, or NULL when they are not; to be freed with sqlite3_free(). */
static char *refusal(const char *arguments) {
  char *sql = sqlite3_mprintf("CREATE VIRTUAL TABLE t USING delta_vectors(%s)", arguments);
  char *message = NULL;
  int rc = sqlite3_exec(db, sql, NULL, NULL, &message);
  if (rc == SQLITE_OK)
    run("DROP TABLE t");
  else
    ck_assert_msg(message != NULL && rc != SQLITE_NOMEM, "%s: no message", sql);
  sqlite3_free(sql);
  return message;
}

static void assert_refused(const char *arguments, const char *expected) {
  char *message = refusal(arguments);
  ck_assert_msg(message != NULL, "accepted: %s", arguments);
  ck_assert_msg(strncmp(message, "delta_vectors: table main.t: ", 29) == 0, "%s", message);
  ck_assert_str_eq(message + 29, expected);
  sqlite3_free(message);
  ck_assert_str_eq(values("SELECT count(*) FROM sqlite_schema"), "0");
}

/* ---- what is accepted -------------------------------------------------------------------------------------------- */

#define VISIBLE "SELECT name || ':' || type FROM pragma_table_xinfo('t') WHERE hidden = 0"
#define HIDDEN "SELECT name FROM pragma_table_xinfo('t') WHERE hidden = 1"

START_TEST(short_form_has_id_vector_and_metadata) {
  create("dimensions=384, metric=cosine");
  ck_assert_str_eq(values(VISIBLE), "id:TEXT vector:BLOB metadata:TEXT");
  ck_assert_str_eq(values(HIDDEN), "t k distance as_of delta");
}
END_TEST

START_TEST(long_form_keeps_the_order_of_its_columns) {
  create("genre TEXT, embedding FLOAT[768] distance_metric=l2, index=hnsw,\n"
         "  tenant INTEGER PARTITION KEY, -- a comment, with 'quotes'\n"
         "  id INTEGER PRIMARY KEY, price REAL, +body TEXT, seen BOOLEAN, raw BLOB, hnsw_m=16, retention='90 days'");
  ck_assert_str_eq(values(VISIBLE), "genre:TEXT embedding:BLOB tenant:INTEGER id:INTEGER price:REAL body:TEXT "
                                    "seen:BOOLEAN raw:BLOB");
  ck_assert_str_eq(values(HIDDEN), "t k distance as_of delta");
}
END_TEST

START_TEST(long_form_needs_only_a_vector) {
  create("embedding FLOAT[3]");
  ck_assert_str_eq(values(VISIBLE), "embedding:BLOB");
}
END_TEST

START_TEST(types_have_several_names) {
  create("v f32[3], a INT, b BIGINT, c FLOAT, d DOUBLE, e DOUBLE PRECISION, f BOOL");
  ck_assert_str_eq(values(VISIBLE), "v:BLOB a:INTEGER b:INTEGER c:REAL d:REAL e:REAL f:BOOLEAN");
}
END_TEST

static const char *const accepted[] = {
    "dimensions=1",
    "dimensions=65536",
    "DIMENSIONS = 3 , METRIC = L2",
    "'dimensions'='3', \"metric\"=\"ip\", [index]=[flat]",
    "dimensions=3, distance_metric=l1",
    "dimensions=3, index=auto",
    "dimensions=3, hnsw_m=2, hnsw_ef_construction=1, hnsw_ef_search=100000",
    "dimensions=3, hnsw_m=512, hnsw_ef_construction=100000, hnsw_ef_search=1",
    "dimensions=3, recall_target=0.98",
    "dimensions=3, threads=0, memory_limit=1",
    "dimensions=3, threads=64, memory_limit=1048576",
    "dimensions=3, recall_target=.5",
    "dimensions=3, recall_target=1",
    "dimensions=3, max_vectors=0",
    "dimensions=3, max_vectors=2147483647",
    "dimensions=3, checkpoint_interval=1",
    "dimensions=3, checkpoint_interval=10000",
    "dimensions=3, compression=off",
    "dimensions=3, compression=max",
    "dimensions=3, compression=1",
    "dimensions=3, retention=forever",
    "dimensions=3, retention='none'",
    "dimensions=3, retention='1 version'",
    "dimensions=3, retention=100 versions",
    "dimensions=3, retention='12 Months'",
    "v FLOAT[3]",
    "v float32 [ 3 ] metric=cosine",
    "v F32[3] distance_metric = 'l2'",
    "v FLOAT[3] INDEXED BY flat()",
    "v FLOAT[3] INDEXED BY flat",
    "v FLOAT[3] indexed by hnsw(m=16, ef_construction=100) metric=ip",
    "v FLOAT[3] metric=ip INDEXED BY hnsw(ef_search=70)",
    "v FLOAT[3], dimensions=3",
    "dimensions=3, v FLOAT[3]",
    "\"my \"\"vector\"\"\" FLOAT[3], [x y] TEXT, `back` REAL, 'quoted' INTEGER",
    "v FLOAT[3], id TEXT PRIMARY KEY, vector TEXT, metadata TEXT",
    "v /* of three */ FLOAT[3] -- the end\n",
    "v FLOAT[3], a INT PARTITION KEY, b TEXT PARTITION KEY, c BOOLEAN PARTITION KEY, d REAL PARTITION KEY",
};

START_TEST(accepts) {
  char *message = refusal(accepted[_i]);
  ck_assert_msg(message == NULL, "%s: %s", accepted[_i], message);
}
END_TEST

START_TEST(names_are_quoted_wherever_they_go) {
  run("CREATE VIRTUAL TABLE \"it's \"\"t\"\"\" USING delta_vectors(\"v;--\" FLOAT[2], \"a'b\" TEXT, \"select\" REAL)");
  ck_assert_str_eq(values("SELECT name FROM pragma_table_info('it''s \"t\"')"), "v;-- a'b select");
  run("DROP TABLE \"it's \"\"t\"\"\"");
}
END_TEST

/* ---- what is refused --------------------------------------------------------------------------------------------- */

#define OPTIONS                                                                                                        \
  "dimensions, metric, distance_metric, index, hnsw_m, hnsw_ef_construction, hnsw_ef_search, recall_target, "          \
  "threads, memory_limit, max_vectors, checkpoint_interval, compression and retention"
#define TYPES "INTEGER, REAL, TEXT, BOOLEAN, BLOB or, for the vector, FLOAT[n]"
#define MISSING                                                                                                        \
  "dimensions is missing: write USING delta_vectors(dimensions=384) or declare a vector column such as embedding "     \
  "FLOAT[384]"
#define EXTENTS "'forever', 'none' or an extent such as '90 days' or '100 versions'"

static const struct {
  const char *arguments;
  const char *message;
} refused[] = {
    {"", MISSING},
    {"metric=l2", MISSING},
    {"dim=3", "unknown option dim, did you mean dimensions? The options are " OPTIONS},
    {"dims=3", "unknown option dims, did you mean dimensions? The options are " OPTIONS},
    {"dimesnions=3", "unknown option dimesnions, did you mean dimensions? The options are " OPTIONS},
    {"dimensions=3, ef_search=9", "unknown option ef_search, did you mean hnsw_ef_search? The options are " OPTIONS},
    {"dimensions=3, colour=red", "unknown option colour: the options are " OPTIONS},
    {"dimensions=3, dimensions=3", "option dimensions is given twice"},
    {"dimensions=3, metric=l2, distance_metric=l2", "option distance_metric is given twice"},
    {"v FLOAT[3] metric=l2, metric=l2", "option metric is given twice"},
    {"v FLOAT[3] INDEXED BY hnsw(m=9), hnsw_m=9", "option hnsw_m is given twice"},
    {"dimensions=", "option dimensions is '': expected an integer from 1 to 65536"},
    {"dimensions=0", "option dimensions is '0': expected an integer from 1 to 65536"},
    {"dimensions=65537", "option dimensions is '65537': expected an integer from 1 to 65536"},
    {"dimensions=-1", "option dimensions is '-1': expected an integer from 1 to 65536"},
    {"dimensions=3.5", "option dimensions is '3.5': expected an integer from 1 to 65536"},
    {"dimensions=3 4", "option dimensions is '3 4': expected an integer from 1 to 65536"},
    {"dimensions=99999999999999999999",
     "option dimensions is '99999999999999999999': expected an integer from 1 to 65536"},
    {"dimensions=3, metric=hamming", "option metric is 'hamming': expected l2, cosine, ip or l1"},
    {"dimensions=3, index=ivf", "option index is 'ivf': expected auto, flat or hnsw"},
    {"dimensions=3, hnsw_m=1", "option hnsw_m is '1': expected an integer from 2 to 512"},
    {"dimensions=3, hnsw_m=513", "option hnsw_m is '513': expected an integer from 2 to 512"},
    {"dimensions=3, hnsw_ef_construction=0",
     "option hnsw_ef_construction is '0': expected an integer from 1 to 100000"},
    {"dimensions=3, hnsw_ef_search=100001", "option hnsw_ef_search is '100001': expected an integer from 1 to 100000"},
    {"dimensions=3, threads=65", "option threads is '65': expected an integer from 0 (only the caller's) to 64"},
    {"dimensions=3, threads=all", "option threads is 'all': expected an integer from 0 (only the caller's) to 64"},
    {"dimensions=3, memory_limit=0", "option memory_limit is '0': expected megabytes, an integer from 1 to 1048576"},
    {"dimensions=3, memory_limit='1GB'",
     "option memory_limit is '1GB': expected megabytes, an integer from 1 to 1048576"},
    {"dimensions=3, recall_target=0",
     "option recall_target is '0': expected a number above 0, at most 1, such as 0.95"},
    {"dimensions=3, recall_target=1.5",
     "option recall_target is '1.5': expected a number above 0, at most 1, such as 0.95"},
    {"dimensions=3, recall_target=95%",
     "option recall_target is '95%': expected a number above 0, at most 1, such as 0.95"},
    {"dimensions=3, max_vectors=-1", "option max_vectors is '-1': expected an integer from 0 (no limit) to 2147483647"},
    {"dimensions=3, checkpoint_interval=0", "option checkpoint_interval is '0': expected an integer from 1 to 10000"},
    {"dimensions=3, checkpoint_interval=10001",
     "option checkpoint_interval is '10001': expected an integer from 1 to 10000"},
    {"dimensions=3, compression=zip", "option compression is 'zip': expected on, off or max"},
    {"dimensions=3, retention='90 moons'", "option retention is '90 moons': expected " EXTENTS},
    {"dimensions=3, retention='days'", "option retention is 'days': expected " EXTENTS},
    {"dimensions=3, retention='1000000000000 years'", "option retention is '1000000000000 years': expected " EXTENTS},
    {"dimensions=3, retention='90 daysx'", "option retention is '90 daysx': expected " EXTENTS},
    {"genre TEXT", "no vector column: declare one such as embedding FLOAT[384], or no columns at all, only "
                   "dimensions=384, to get the columns id, vector and metadata"},
    {"dimensions=3, genre TEXT", "no vector column: declare one such as embedding FLOAT[3], or no columns at all, only "
                                 "dimensions=3, to get the columns id, vector and metadata"},
    {"v FLOAT[3], w FLOAT[3]", "columns v and w are both vectors, a table has exactly one"},
    {"v FLOAT[3], dimensions=4", "option dimensions is 4, but the vector column has 3"},
    {"dimensions=4, v FLOAT[3]", "option dimensions is 4, but the vector column has 3"},
    {"v FLOAT[3], x TEXT, X REAL", "column X is declared twice"},
    {"v FLOAT[3], v TEXT", "column v is declared twice"},
    {"v FLOAT[3], id TEXT PRIMARY KEY, id TEXT", "column id is declared twice"},
    {"v int8[3]",
     "column v: int8[n] is not supported, only FLOAT[n]; searches compress vectors to 8 bits and to 1 bit by "
     "themselves"},
    {"v BIT[3]",
     "column v: BIT[n] is not supported, only FLOAT[n]; searches compress vectors to 8 bits and to 1 bit by "
     "themselves"},
    {"v FLOAT[]", "column v: the dimensions in FLOAT[] are not an integer from 1 to 65536"},
    {"v FLOAT[0]", "column v: the dimensions in FLOAT[0] are not an integer from 1 to 65536"},
    {"v FLOAT[65537]", "column v: the dimensions in FLOAT[65537] are not an integer from 1 to 65536"},
    {"v FLOAT(3)", "column v: unexpected '(', expected FLOAT[n] for a vector, nothing for a number"},
    {"v FLOAT[3] cosine", "column v: unexpected 'cosine', expected distance_metric=... or INDEXED BY ..."},
    {"v FLOAT[3] PRIMARY KEY", "column v: unexpected 'PRIMARY', expected distance_metric=... or INDEXED BY ..."},
    {"v FLOAT[3] INDEXED BY ivf(lists=4)", "option index is 'ivf': expected auto, flat or hnsw"},
    {"v FLOAT[3] INDEXED BY hnsw(lists=4)", "INDEXED BY: unexpected 'lists', the parameters of hnsw are m=, "
                                            "ef_construction= and ef_search="},
    {"v FLOAT[3] INDEXED BY hnsw(m=1)", "option hnsw_m is '1': expected an integer from 2 to 512"},
    {"v FLOAT[3] INDEXED BY hnsw(m=8 9)", "INDEXED BY: unexpected '9', expected , or )"},
    {"v FLOAT[3] INDEXED BY flat(m=8)", "INDEXED BY: unexpected 'm', flat has no parameters"},
    {"v FLOAT[3] INDEXED BY flat, index=flat", "option index is given twice"},
    {"v", "column v has no type: expected " TYPES},
    {"v FLOAT[3], x VARCHAR(10)", "column x: type 'VARCHAR' is not supported: expected " TYPES},
    {"v FLOAT[3], x TEXT NOT NULL", "column x: unexpected 'NOT', expected PRIMARY KEY, PARTITION KEY or nothing"},
    {"v FLOAT[3], x TEXT PRIMARY KEY AUTOINCREMENT", "column x: unexpected 'AUTOINCREMENT' behind KEY"},
    {"v FLOAT[3], x REAL PRIMARY KEY", "column x: the PRIMARY KEY is TEXT or INTEGER"},
    {"v FLOAT[3], x TEXT PRIMARY KEY, y TEXT PRIMARY KEY",
     "columns x and y are both PRIMARY KEY, a table has at most one"},
    {"v FLOAT[3], +x TEXT PARTITION KEY", "column x: unexpected 'PARTITION', expected nothing behind the type"},
    {"v FLOAT[3], distance REAL", "column distance: this name is reserved, choose another one"},
    {"v FLOAT[3], ROWID INTEGER", "column ROWID: this name is reserved, choose another one"},
    {"v FLOAT[3], as_of TEXT", "column as_of: this name is reserved, choose another one"},
    {"v FLOAT[3], T TEXT", "column T has the name of the table, which is that of the column for commands: rename one"},
    {"v FLOAT[3], a INT PARTITION KEY, b INT PARTITION KEY, c INT PARTITION KEY, d INT PARTITION KEY, e INT PARTITION "
     "KEY",
     "column e: at most 4 partition keys are allowed"},
};

START_TEST(refuses_with_a_message) { assert_refused(refused[_i].arguments, refused[_i].message); }
END_TEST

static void assert_fails(const char *sql, const char *expected) {
  char *message = NULL;
  ck_assert_int_ne(sqlite3_exec(db, sql, NULL, NULL, &message), SQLITE_OK);
  ck_assert_str_eq(message, expected);
  sqlite3_free(message);
}

START_TEST(table_may_not_be_named_like_a_column) {
  assert_fails(
      "CREATE VIRTUAL TABLE distance USING delta_vectors(dimensions=3)",
      "delta_vectors: table main.distance: this name is also that of a column, choose another one for the table");
  assert_fails(
      "CREATE VIRTUAL TABLE vector USING delta_vectors(dimensions=3)",
      "delta_vectors: table main.vector: column vector has the name of the table, which is that of the column for "
      "commands: rename one");
  assert_fails("CREATE VIRTUAL TABLE temp.t USING delta_vectors(dimensions=0)",
               "delta_vectors: table temp.t: option dimensions is '0': expected an integer from 1 to 65536");
}
END_TEST

/* ---- limits and wild inputs -------------------------------------------------------------------------------------- */

/* "v FLOAT[2]" and n further arguments, each from a format with the number in it. */
static char *many(const char *format, int n) {
  char *arguments = sqlite3_mprintf("v FLOAT[2]");
  for (int i = 0; i < n; i++) {
    char *one = sqlite3_mprintf(format, i);
    char *all = sqlite3_mprintf("%z, %z", arguments, one);
    arguments = all;
  }
  return arguments;
}

START_TEST(sixty_four_columns_and_no_more) {
  char *arguments = many("c%d TEXT", 64);
  char *message = refusal(arguments);
  ck_assert_msg(message == NULL, "%s", message);
  sqlite3_free(arguments);
  arguments = many("+c%d TEXT", 65);
  assert_refused(arguments, "column c64: at most 64 metadata and auxiliary columns are allowed");
  sqlite3_free(arguments);
  arguments = many("c%d TEXT", 1000);
  assert_refused(arguments, "1001 arguments are given, at most 128 are allowed");
  sqlite3_free(arguments);
}
END_TEST

START_TEST(names_have_128_bytes_at_most) {
  char *arguments = sqlite3_mprintf("v FLOAT[2], %.*c TEXT", 128, 'n');
  char *message = refusal(arguments);
  ck_assert_msg(message == NULL, "%s", message);
  sqlite3_free(arguments);
  arguments = sqlite3_mprintf("v FLOAT[2], %.*c TEXT", 129, 'n');
  assert_refused(arguments, "'nnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnnn…' is not a column name (1 to 128 bytes)");
  sqlite3_free(arguments);
}
END_TEST

/* A value of a megabyte must not be copied anywhere, nor shown whole. */
START_TEST(long_values_are_cut_in_messages) {
  char *arguments = sqlite3_mprintf("dimensions=3, metric=%.*c", 1000000, 'm');
  assert_refused(arguments,
                 "option metric is 'mmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmm…': expected l2, cosine, ip or l1");
  sqlite3_free(arguments);
  arguments = sqlite3_mprintf("dimensions=3, %.*c=1", 1000000, 'm');
  assert_refused(arguments, "unknown option mmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmmm…: the options are " OPTIONS);
  sqlite3_free(arguments);
}
END_TEST

static uint32_t seed = 1;

static uint32_t random_below(uint32_t n) {
  seed = seed * 1664525u + 1013904223u;
  return (uint32_t)((uint64_t)(seed >> 8) * n >> 24);
}

/* Words of the grammar in any order: every outcome but a table or a message is a fault. */
START_TEST(any_words_give_a_table_or_a_message) {
  static const char *const words[] = {
      "dimensions",  "metric",    "distance_metric",
      "index",       "hnsw_m",    "retention",
      "=",           "=",         "=",
      ",",           ",",         ",",
      "3",           "16",        "0.5",
      "-1",          "l2",        "cosine",
      "hnsw",        "flat",      "v",
      "id",          "FLOAT[3]",  "FLOAT",
      "[3]",         "[]",        "TEXT",
      "INTEGER",     "REAL",      "PRIMARY",
      "KEY",         "PARTITION", "INDEXED",
      "BY",          "(",         ")",
      "(m=8)",       "(m=,)",     "+",
      "-",           "'90 days'", "''",
      "\"a\"\"b\"",  "[x y]",     "`",
      "--\n",        "/**/",      "t",
      "k",           "é",         "\x01",
      ";",           ".",         "max_vectors",
      "boolean",     "int8[2]",   "''''",
      "compression", "off",       "*",
  };
  int n_created = 0;
  for (int i = 0; i < 20000; i++) {
    char arguments[600] = "";
    for (uint32_t n = random_below(14); n > 0; n--) {
      strcat(arguments, words[random_below(sizeof words / sizeof words[0])]);
      if (random_below(4)) strcat(arguments, " ");
    }
    char *message = refusal(arguments);
    n_created += message == NULL;
    sqlite3_free(message);
  }
  ck_assert_int_gt(n_created, 0);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("config");
  TCase *tc = tcase_create("arguments");
  tcase_add_checked_fixture(tc, open_up, open_down);
  tcase_add_test(tc, short_form_has_id_vector_and_metadata);
  tcase_add_test(tc, long_form_keeps_the_order_of_its_columns);
  tcase_add_test(tc, long_form_needs_only_a_vector);
  tcase_add_test(tc, types_have_several_names);
  tcase_add_loop_test(tc, accepts, 0, (int)(sizeof accepted / sizeof accepted[0]));
  tcase_add_test(tc, names_are_quoted_wherever_they_go);
  tcase_add_loop_test(tc, refuses_with_a_message, 0, (int)(sizeof refused / sizeof refused[0]));
  tcase_add_test(tc, table_may_not_be_named_like_a_column);
  tcase_add_test(tc, sixty_four_columns_and_no_more);
  tcase_add_test(tc, names_have_128_bytes_at_most);
  tcase_add_test(tc, long_values_are_cut_in_messages);
  tcase_add_test(tc, any_words_give_a_table_or_a_message);
  suite_add_tcase(suite, tc);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed;
}
