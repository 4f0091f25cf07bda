/*
 * check_functions.c: the SQL functions that need no table: what a script cannot show well, that is properties over
 * random vectors, hostile BLOBs, where SQLite lets the functions be used, and how a connection ends. The plain cases
 * and the texts of the errors are in tests/sql/functions.sql.
 */
#include <check.h>
#include <math.h>
#include <sqlite3.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static sqlite3 *db;

static void load(sqlite3 *to) {
  char *message = NULL;
  ck_assert_int_eq(sqlite3_enable_load_extension(to, 1), SQLITE_OK);
  int rc = sqlite3_load_extension(to, DV_EXTENSION_PATH, NULL, &message);
  ck_assert_msg(rc == SQLITE_OK, "cannot load " DV_EXTENSION_PATH ": %s", message ? message : "");
}

static void open_up(void) {
  ck_assert_int_eq(sqlite3_open(":memory:", &db), SQLITE_OK);
  load(db);
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

static sqlite3_stmt *prepare(const char *sql) {
  sqlite3_stmt *stmt;
  ck_assert_msg(sqlite3_prepare_v2(db, sql, -1, &stmt, NULL) == SQLITE_OK, "%s: %s", sql, sqlite3_errmsg(db));
  return stmt;
}

/* The first value of the first row; valid until the next call. */
static const char *value(const char *sql) {
  static char text[4096];
  sqlite3_stmt *stmt = prepare(sql);
  ck_assert_msg(sqlite3_step(stmt) == SQLITE_ROW, "%s: %s", sql, sqlite3_errmsg(db));
  const char *first = (const char *)sqlite3_column_text(stmt, 0);
  snprintf(text, sizeof text, "%s", first ? first : "NULL");
  sqlite3_finalize(stmt);
  return text;
}

static void assert_fails(const char *sql, const char *expected) {
  char *message = NULL;
  ck_assert_msg(sqlite3_exec(db, sql, NULL, NULL, &message) != SQLITE_OK, "%s succeeds", sql);
  ck_assert_str_eq(message, expected);
  sqlite3_free(message);
}

/* ---- random vectors ---------------------------------------------------------------------------------------------- */

static uint64_t seed = 88172645463325252u;

static uint64_t next_random(void) {
  seed ^= seed << 13;
  seed ^= seed >> 7;
  seed ^= seed << 17;
  return seed * 2685821657736338717u;
}

static uint32_t random_below(uint32_t n) { return (uint32_t)((next_random() >> 32) * n >> 32); }

enum { MAX_N = 700 };

/* Any finite bits: denormals, zeros of both signs and the largest numbers too. */
static void random_vector(float *v, size_t n) {
  for (size_t i = 0; i < n; i++) {
    do {
      uint32_t bits = (uint32_t)(next_random() >> 32);
      if (random_below(8) == 0) bits &= 0x80000000u;
      memcpy(&v[i], &bits, 4);
    } while (!isfinite(v[i]));
  }
}

/* b: a with some of its values changed, a little or wholly. */
static void change_vector(float *b, const float *a, size_t n) {
  static const uint32_t rates[] = {1, 2, 20, 1000};
  uint32_t rate = rates[random_below(4)];
  bool is_small = random_below(2);
  random_vector(b, n);
  for (size_t i = 0; i < n; i++) {
    if (random_below(rate) != 0) {
      b[i] = a[i];
    } else if (is_small) {
      uint32_t bits;
      memcpy(&bits, &a[i], 4);
      bits += random_below(9);
      memcpy(&b[i], &bits, 4);
      if (!isfinite(b[i])) b[i] = a[i];
    }
  }
}

/* The machines these tests run on are little-endian, as the blobs are. */
static void bind_vector(sqlite3_stmt *stmt, int i, const float *v, size_t n) {
  ck_assert_int_eq(sqlite3_bind_blob(stmt, i, v, (int)(n * 4), SQLITE_TRANSIENT), SQLITE_OK);
}

static void assert_row_is(sqlite3_stmt *stmt, const float *v, size_t n) {
  ck_assert_msg(sqlite3_step(stmt) == SQLITE_ROW, "%s", sqlite3_errmsg(db));
  ck_assert_int_eq(sqlite3_column_bytes(stmt, 0), (int)(n * 4));
  ck_assert_int_eq(memcmp(sqlite3_column_blob(stmt, 0), v, n * 4), 0);
  ck_assert_int_eq(sqlite3_reset(stmt), SQLITE_OK);
}

START_TEST(json_reads_back_bit_for_bit) {
  float v[MAX_N];
  sqlite3_stmt *stmt = prepare("SELECT vector_f32(vector_json(?1))");
  for (int i = 0; i < 300; i++) {
    size_t n = 1 + random_below(MAX_N);
    random_vector(v, n);
    for (size_t j = 0; j < n; j++) {
      if (v[j] == 0) v[j] = 0; /* -0 is written 0 or -0: that is the text form's business */
    }
    bind_vector(stmt, 1, v, n);
    assert_row_is(stmt, v, n);
  }
  sqlite3_finalize(stmt);
}
END_TEST

START_TEST(patch_of_diff_gives_the_new_vector_bit_for_bit) {
  float a[MAX_N], b[MAX_N];
  sqlite3_stmt *stmt = prepare("SELECT delta_patch(?1, delta_diff(?1, ?2))");
  for (int i = 0; i < 1000; i++) {
    size_t n = 1 + random_below(MAX_N);
    random_vector(a, n);
    change_vector(b, a, n);
    bind_vector(stmt, 1, a, n);
    bind_vector(stmt, 2, b, n);
    assert_row_is(stmt, b, n);
  }
  sqlite3_finalize(stmt);
}
END_TEST

START_TEST(diff_is_never_larger_than_the_vector) {
  float a[MAX_N], b[MAX_N];
  sqlite3_stmt *stmt = prepare("SELECT length(delta_diff(?1, ?2)) <= length(delta_create(?2))");
  for (int i = 0; i < 300; i++) {
    size_t n = 1 + random_below(MAX_N);
    random_vector(a, n);
    change_vector(b, a, n);
    bind_vector(stmt, 1, a, n);
    bind_vector(stmt, 2, b, n);
    ck_assert_int_eq(sqlite3_step(stmt), SQLITE_ROW);
    ck_assert_int_eq(sqlite3_column_int(stmt, 0), 1);
    sqlite3_reset(stmt);
  }
  sqlite3_finalize(stmt);
}
END_TEST

START_TEST(scale_folds_as_vector_scale_multiplies) {
  float v[MAX_N], scaled[MAX_N];
  sqlite3_stmt *folded = prepare("SELECT delta_patch(?1, delta_scale(?2))"),
               *direct = prepare("SELECT vector_scale(?1, ?2)");
  for (int i = 0; i < 300; i++) {
    size_t n = 1 + random_below(MAX_N);
    double factor = (double)(next_random() >> 11) * 0x1p-53;
    random_vector(v, n);
    for (size_t j = 0; j < n; j++) scaled[j] = v[j] * (float)factor;
    bind_vector(folded, 1, v, n);
    bind_vector(direct, 1, v, n);
    sqlite3_bind_double(folded, 2, factor);
    sqlite3_bind_double(direct, 2, factor);
    assert_row_is(folded, scaled, n);
    assert_row_is(direct, scaled, n);
  }
  sqlite3_finalize(folded);
  sqlite3_finalize(direct);
}
END_TEST

START_TEST(each_gives_what_is_in_the_vector) {
  float v[MAX_N];
  sqlite3_stmt *stmt = prepare("SELECT key, value FROM vector_each(?1)");
  random_vector(v, MAX_N);
  bind_vector(stmt, 1, v, MAX_N);
  for (int i = 0; i < MAX_N; i++) {
    ck_assert_int_eq(sqlite3_step(stmt), SQLITE_ROW);
    ck_assert_int_eq(sqlite3_column_int(stmt, 0), i);
    ck_assert(sqlite3_column_double(stmt, 1) == (double)v[i]);
  }
  ck_assert_int_eq(sqlite3_step(stmt), SQLITE_DONE);
  sqlite3_finalize(stmt);
}
END_TEST

/* ---- limits ------------------------------------------------------------------------------------------------------ */

START_TEST(dimensions_end_at_65536) {
  ck_assert_str_eq(value("SELECT vector_length(zeroblob(4 * 65536))"), "65536");
  ck_assert_str_eq(value("SELECT length(delta_create(zeroblob(4 * 65536))) > 4 * 65536"), "1");
  ck_assert_str_eq(value("SELECT vector_length('[' || replace(hex(zeroblob(65535)), '00', '1,') || '1]')"), "65536");
  assert_fails("SELECT vector_length(zeroblob(4 * 65537))",
               "delta_vectors: vector_length(): vector has 65537 dimensions, expected 1 to 65536");
  assert_fails("SELECT vector_length('[' || replace(hex(zeroblob(65536)), '00', '1,') || '1]')",
               "delta_vectors: vector_length(): vector has more than 65536 dimensions, expected 1 to 65536");
  assert_fails("SELECT delta_sparse(zeroblob(4 * 65537), zeroblob(4))",
               "delta_vectors: delta_sparse(): indices has more than 65536 elements, as many as dimensions at most");
  assert_fails(
      "SELECT vector_int8(zeroblob(65537), 1)",
      "delta_vectors: vector_int8(): codes is BLOB of 65537 bytes: expected a BLOB of 1 to 65536 signed bytes");
}
END_TEST

/* ---- hostile BLOBs ----------------------------------------------------------------------------------------------- */

/* delta_json and delta_patch of the bytes: a result or an error, but never a crash. Returns how many gave a result. */
static int try_delta(sqlite3_stmt *stmt, const uint8_t *bytes, int n) {
  ck_assert_int_eq(sqlite3_bind_blob(stmt, 1, bytes, n, SQLITE_TRANSIENT), SQLITE_OK);
  int rc = sqlite3_step(stmt);
  ck_assert_msg(rc == SQLITE_ROW || rc == SQLITE_ERROR, "%s", sqlite3_errmsg(db));
  sqlite3_reset(stmt);
  return rc == SQLITE_ROW;
}

static const char *const deltas[] = {
    "delta_create('[1,2,3,4]')",
    "delta_dense('[1,2,3,4]')",
    "delta_sparse('[0,2]', '[5,6]')",
    "delta_scale(2)",
    "delta_sparse('[1,2,3]', '[5,6,7]')",
    "delta_offset(2)",
    "delta_delete()",
    "delta_sparse('[]','[]')",
    "delta_diff('[1,2,3,4]', '[1.1,2.1,3.1,4.1]')",
};

START_TEST(a_changed_bit_is_noticed) {
  char sql[200];
  uint8_t bytes[100];
  snprintf(sql, sizeof sql, "SELECT %s", deltas[_i]);
  sqlite3_stmt *make = prepare(sql);
  ck_assert_int_eq(sqlite3_step(make), SQLITE_ROW);
  int n = sqlite3_column_bytes(make, 0);
  ck_assert_int_le(n, (int)sizeof bytes);
  memcpy(bytes, sqlite3_column_blob(make, 0), (size_t)n);
  sqlite3_finalize(make);
  sqlite3_stmt *stmt = prepare("SELECT delta_json(?1), delta_patch('[1,2,3,4]', ?1)");
  ck_assert_int_eq(try_delta(stmt, bytes, n), 1);
  for (int bit = 0; bit < 8 * n; bit++) {
    bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
    ck_assert_msg(try_delta(stmt, bytes, n) == 0, "%s: bit %d", sql, bit);
    bytes[bit / 8] ^= (uint8_t)(1 << bit % 8);
  }
  for (int shorter = 0; shorter < n; shorter++) ck_assert_int_eq(try_delta(stmt, bytes, shorter), 0);
  sqlite3_finalize(stmt);
}
END_TEST

static uint32_t crc32c(const uint8_t *p, size_t n) {
  uint32_t crc = 0xffffffffu;
  for (; n > 0; p++, n--) {
    crc ^= *p;
    for (int i = 0; i < 8; i++) crc = crc >> 1 ^ (0x82f63b78u & (0u - (crc & 1)));
  }
  return ~crc;
}

/* Frames with a right checksum around bytes that mean anything: what an attacker would send. */
START_TEST(any_frame_with_a_right_checksum_is_harmless) {
  uint8_t bytes[64];
  int n_read = 0;
  sqlite3_stmt *json = prepare("SELECT delta_json(?1)"), *patch = prepare("SELECT delta_patch('[1,2,3,4]', ?1)");
  sqlite3_stmt *create = prepare("SELECT delta_patch(NULL, ?1)");
  for (int i = 0; i < 30000; i++) {
    int n_body = (int)random_below(24), n = 6 + n_body;
    bytes[0] = 0x7a;
    bytes[1] = 0xde;
    bytes[2] = 1;
    bytes[3] = (uint8_t)((1 + random_below(6)) << 4 | random_below(7));
    bytes[4] = random_below(8) ? 0 : (uint8_t)random_below(64);
    bytes[5] = (uint8_t)n_body;
    for (int j = 0; j < n_body; j++) bytes[6 + j] = (uint8_t)(random_below(2) ? random_below(5) : random_below(256));
    uint32_t crc = crc32c(bytes, (size_t)n);
    for (int j = 0; j < 4; j++) bytes[n + j] = (uint8_t)(crc >> 8 * j);
    n_read += try_delta(json, bytes, n + 4);
    n_read += try_delta(patch, bytes, n + 4);
    n_read += try_delta(create, bytes, n + 4);
  }
  ck_assert_int_gt(n_read, 1000); /* or the loop has tested nothing but the first check */
  sqlite3_finalize(json);
  sqlite3_finalize(patch);
  sqlite3_finalize(create);
}
END_TEST

/* ---- where they may be used -------------------------------------------------------------------------------------- */

/* In indexes, generated columns and views of a schema that is not trusted: they are pure and say so. */
START_TEST(pure_functions_serve_in_untrusted_schemas) {
  run("PRAGMA trusted_schema = OFF;"
      "CREATE TABLE t(v BLOB, n AS (vector_length(v)), CHECK (vector_length(v) = 2));"
      "CREATE INDEX i ON t(vector_distance(v, '[1,0]', 'l2'));"
      "CREATE VIEW w AS SELECT vector_json(v) AS v, n, (SELECT sum(value) FROM vector_each(v)) AS total FROM t;"
      "INSERT INTO t VALUES(vector_f32('[1,2]')), (vector_f32('[3,4]'))");
  ck_assert_str_eq(value("SELECT group_concat(v || n || total) FROM w"), "[1,2]23.0,[3,4]27.0");
  ck_assert_str_eq(value("SELECT vector_json(v) FROM t ORDER BY vector_distance(v, '[1,0]', 'l2') DESC"), "[3,4]");
  assert_fails("INSERT INTO t VALUES('[1]')", "CHECK constraint failed: vector_length(v) = 2");
}
END_TEST

START_TEST(utf16_databases_work) {
  run("PRAGMA encoding = 'UTF-16le'; CREATE TABLE t(v TEXT); INSERT INTO t VALUES('[1, 2.5]')");
  ck_assert_str_eq(value("SELECT vector_json(v) FROM t"), "[1,2.5]");
  ck_assert_str_eq(value("SELECT vector_distance(v, v, 'l2') FROM t"), "0.0");
}
END_TEST

/* The constant argument is parsed once; each row must be compared with it all the same, whatever its length. */
START_TEST(a_constant_text_is_kept_between_rows) {
  run("CREATE TABLE t(v); INSERT INTO t VALUES('[3,4]'), ('[6,8]'), (vector_f32('[0,0]'))");
  ck_assert_str_eq(value("SELECT group_concat(vector_distance(v, '[0,0]', 'l2')) FROM t"), "5.0,10.0,0.0");
  ck_assert_str_eq(value("SELECT group_concat(vector_distance('[0,0]', v, 'l2')) FROM t"), "5.0,10.0,0.0");
  run("INSERT INTO t VALUES('[1]')");
  assert_fails("SELECT vector_distance(v, '[0,0]', 'l2') FROM t",
               "delta_vectors: vector_distance(): argument 2: vector has 2 dimensions, expected 1");
}
END_TEST

START_TEST(pack_is_the_frames_in_order) {
  run("CREATE TABLE t(id, d); INSERT INTO t VALUES('a', delta_scale(2)), (7, delta_delete())");
  ck_assert_str_eq(value("SELECT delta_pack(id, d) = CAST(a || b AS BLOB) FROM t,"
                         " (SELECT delta_pack('a', delta_scale(2)) AS a), (SELECT delta_pack(7, delta_delete()) AS b)"),
                   "1");
  ck_assert_str_eq(value("SELECT typeof(delta_pack(id, d)) || length(delta_pack(id, d)) FROM t WHERE 0"), "blob0");
}
END_TEST

/* ---- beginning and end of a connection --------------------------------------------------------------------------- */

/* A user saw "unable to close due to unfinalized statements": reading a time as text keeps a statement for the next. */
START_TEST(close_succeeds_after_internal_statements) {
  ck_assert_str_eq(value("SELECT length(delta_pack('a', delta_delete(), 'now')) > 0"), "1");
  ck_assert_str_eq(value("SELECT length(delta_pack('a', delta_delete(), '2026-05-01')) > 0"), "1");
}
END_TEST

/* Then no statement may be kept, for nothing would finalize it. */
START_TEST(close_succeeds_when_a_table_hides_vector_each) {
  run("CREATE TABLE vector_each(x)");
  ck_assert_str_eq(value("SELECT length(delta_pack('a', delta_delete(), 'now')) > 0"), "1");
}
END_TEST

START_TEST(close_v2_with_an_open_statement_frees_all) {
  sqlite3 *other;
  sqlite3_stmt *stmt;
  ck_assert_int_eq(sqlite3_open(":memory:", &other), SQLITE_OK);
  load(other);
  ck_assert_int_eq(sqlite3_prepare_v2(other,
                                      "SELECT delta_pack('a', delta_delete(), 'now'), value FROM vector_each('[1,2]')",
                                      -1, &stmt, NULL),
                   SQLITE_OK);
  ck_assert_int_eq(sqlite3_step(stmt), SQLITE_ROW);
  ck_assert_int_eq(sqlite3_close(other), SQLITE_BUSY); /* the user's own statement */
  ck_assert_int_eq(sqlite3_reset(stmt), SQLITE_OK);
  ck_assert_int_eq(sqlite3_step(stmt), SQLITE_ROW);
  ck_assert_int_eq(sqlite3_close_v2(other), SQLITE_OK);
  ck_assert_int_eq(sqlite3_finalize(stmt), SQLITE_OK);
}
END_TEST

START_TEST(loading_twice_changes_nothing) {
  sqlite3_stmt *stmt = prepare("SELECT vector_length('[1,2]')");
  load(db);
  ck_assert_int_eq(sqlite3_step(stmt), SQLITE_ROW);
  ck_assert_int_eq(sqlite3_column_int(stmt, 0), 2);
  load(db); /* also while a statement uses the functions */
  sqlite3_finalize(stmt);
}
END_TEST

START_TEST(version_and_backend_have_values) {
  ck_assert_str_eq(value("SELECT delta_vectors_version() GLOB '[0-9]*.[0-9]*.[0-9]*'"), "1");
  ck_assert_str_eq(value("SELECT delta_vectors_backend() IN ('scalar','avx2','avx512','avx512vnni','neon','wasm128')"),
                   "1");
}
END_TEST

int main(void) {
  Suite *suite = suite_create("functions");
  TCase *tc = tcase_create("functions");
  tcase_add_checked_fixture(tc, open_up, open_down);
  tcase_add_test(tc, json_reads_back_bit_for_bit);
  tcase_add_test(tc, patch_of_diff_gives_the_new_vector_bit_for_bit);
  tcase_add_test(tc, diff_is_never_larger_than_the_vector);
  tcase_add_test(tc, scale_folds_as_vector_scale_multiplies);
  tcase_add_test(tc, each_gives_what_is_in_the_vector);
  tcase_add_test(tc, dimensions_end_at_65536);
  tcase_add_loop_test(tc, a_changed_bit_is_noticed, 0, (int)(sizeof deltas / sizeof deltas[0]));
  tcase_add_test(tc, any_frame_with_a_right_checksum_is_harmless);
  tcase_add_test(tc, pure_functions_serve_in_untrusted_schemas);
  tcase_add_test(tc, utf16_databases_work);
  tcase_add_test(tc, a_constant_text_is_kept_between_rows);
  tcase_add_test(tc, pack_is_the_frames_in_order);
  tcase_add_test(tc, close_succeeds_after_internal_statements);
  tcase_add_test(tc, close_succeeds_when_a_table_hides_vector_each);
  tcase_add_test(tc, close_v2_with_an_open_statement_frees_all);
  tcase_add_test(tc, loading_twice_changes_nothing);
  tcase_add_test(tc, version_and_backend_have_values);
  suite_add_tcase(suite, tc);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed;
}
