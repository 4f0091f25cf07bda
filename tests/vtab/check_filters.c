/*
 * check_filters.c: conditions inside a search mean what they mean in an ordinary table.
 *
 * Beside the table `docs` there is an ordinary one, `plain`, with the same metadata columns, and every change is made to
 * both. Row n has the vector [n]; so of a search for as many rows as pass in `plain`, from below and from above, at
 * least one would show a row that passes and should not: it takes the place of one that should.
 */
#include "support.h"

#define COLUMNS "i, r, s, b, p, q"
enum { N_ROWS = 60 };

static const char *const columns[] = {"i", "r", "s", "b", "p", "q", "id"};
enum { N_COLUMNS = sizeof columns / sizeof columns[0] };

static const char *const literals[] = {"NULL",
                                       "0",
                                       "1",
                                       "-1",
                                       "3",
                                       "-0.0",
                                       "0.5",
                                       "2.5",
                                       "3.0",
                                       "-3.5",
                                       "9007199254740992",
                                       "9007199254740993",
                                       "9007199254740995",
                                       "-9007199254740993",
                                       "9007199254740992.0",
                                       "9007199254740994.0",
                                       "9223372036854775807",
                                       "-9223372036854775807 - 1",
                                       "9223372036854775808.0",
                                       "-9223372036854775808.0",
                                       "-9.4e18",
                                       "1e300",
                                       "9e999",
                                       "-9e999",
                                       "1e-310",
                                       "''",
                                       "'3'",
                                       "'3.0'",
                                       "' 3 '",
                                       "'abc'",
                                       "'ABC'",
                                       "'abd '",
                                       "'abc '",
                                       "'r\xc3\xa9'",
                                       "x''",
                                       "x'616263'",
                                       "x'00'",
                                       "'it''s'"};
enum { N_LITERALS = sizeof literals / sizeof literals[0] };

static const char *const comparisons[] = {"=", "<>", "<", "<=", ">", ">=", "IS", "IS NOT", "LIKE", "GLOB"};
enum { N_COMPARISONS = sizeof comparisons / sizeof comparisons[0] };

static const char *const patterns[] = {"'a%'", "'%b%'", "'A_c'", "'a*'", "'[a-b]*'", "'3%'", "'%'", "'*'", "''"};
enum { N_PATTERNS = sizeof patterns / sizeof patterns[0] };

static sqlite3 *a, *b; /* two connections on one file */
static uint64_t seed;
static int64_t clock_ms; /* of the first rows, long ago; changes are made now */

static unsigned below(unsigned n) {
  seed = seed * 6364136223846793005u + 1442695040888963407u;
  return (unsigned)((seed >> 33) % n);
}

static void open_one(void) {
  sql_setup();
  sql_profile_now = &sql_wal;
  a = sql_open(sql_path("test.db"));
  b = NULL;
  seed = 20240229;
  clock_ms = 1000;
  sql_run(a,
          "CREATE VIRTUAL TABLE docs USING delta_vectors(id INTEGER PRIMARY KEY, v FLOAT[1], i INTEGER, r REAL, s TEXT,"
          " b BLOB, p INTEGER PARTITION KEY, q TEXT PARTITION KEY, metric=l2, index=flat);"
          "CREATE TABLE plain(id INTEGER PRIMARY KEY, i INTEGER, r REAL, s TEXT, b BLOB, p INTEGER, q TEXT)");
}

static void close_all(void) {
  if (b) sql_close(b);
  sql_close(a);
  sql_teardown();
}

/* Ids of a search from `from` for as many rows as pass, in order. */
static const char *found(sqlite3 *db, int from, int64_t n, const char *as_of, const char *condition) {
  return sql_rows(db,
                  "SELECT coalesce(group_concat(id), '') FROM (SELECT id FROM docs WHERE v MATCH '[%d]' AND k = %lld%s"
                  " AND %s ORDER BY id)",
                  from, (long long)(n ? n : 1), as_of, condition);
}

static void agrees_with(sqlite3 *db, const char *table, const char *as_of, const char *condition) {
  int64_t n = sql_integer(db, "SELECT count(*) FROM \"%w\" WHERE %s", table, condition);
  const char *should = sql_rows(
      db, "SELECT coalesce(group_concat(id), '') FROM (SELECT id FROM \"%w\" WHERE %s ORDER BY id)", table, condition);
  const char *low = found(db, -1000, n, as_of, condition), *high = found(db, 1000, n, as_of, condition);
  ck_assert_msg(strcmp(low, should) == 0 && strcmp(high, should) == 0,
                "%s%s: from below '%s', from above '%s', should be '%s'", condition, as_of, low, high, should);
}

static void agrees(sqlite3 *db, const char *condition) { agrees_with(db, "plain", "", condition); }

/* ---- random rows, changes and conditions ---------------------------------------------------------------------------- */

static const char *random_value(int column) {
  static const char *const pools[6][10] = {
      {"NULL", "0", "1", "3", "-3", "9007199254740993", "9007199254740995", "-9007199254740993", "9223372036854775807",
       "-9223372036854775807 - 1"},
      {"NULL", "-0.0", "0.5", "3", "-3.5", "9007199254740992.0", "9007199254740996.0", "9223372036854775808.0", "1e300",
       "9e999"},
      {"NULL", "''", "'abc'", "'ABC'", "'abd '", "'abc '", "'r\xc3\xa9'", "'3'", "'3.0'", "'it''s'"},
      {"NULL", "x''", "x'616263'", "x'00'", "x'0000'", "x'ff'", "x'61'", "x'33'", "x''", "x'616263'"},
      {"NULL", "1", "2", "3", "4", "5", "6", "7", "9007199254740993", "1"},
      {"NULL", "''", "'abc'", "'ABC'", "'x'", "'y'", "'z'", "'3'", "'abc '", "'x'"}};
  return pools[column][below(10)];
}

static void add_row(sqlite3 *db, int id, bool is_first) {
  char values[6][40];
  for (int i = 0; i < 6; i++) snprintf(values[i], sizeof values[i], "%s", random_value(i));
  char time[24] = "NULL";
  if (is_first) snprintf(time, sizeof time, "%lld", (long long)++clock_ms);
  sql_run(db, "INSERT OR REPLACE INTO plain(id, " COLUMNS ") VALUES(%d, %s, %s, %s, %s, %s, %s)", id, values[0],
          values[1], values[2], values[3], values[4], values[5]);
  sql_run(db, "INSERT OR REPLACE INTO docs(id, v, as_of, " COLUMNS ") VALUES(%d, '[%d]', %s, %s, %s, %s, %s, %s, %s)",
          id, id, time, values[0], values[1], values[2], values[3], values[4], values[5]);
}

static void fill(sqlite3 *db) {
  for (int id = 1; id <= N_ROWS; id++) add_row(db, id, true);
}

static void change_row(sqlite3 *db) {
  int id = 1 + (int)below(N_ROWS), column = (int)below(6);
  switch (below(8)) {
  case 0: sql_run(db, "DELETE FROM docs WHERE id = %d; DELETE FROM plain WHERE id = %d", id, id); break;
  case 1: add_row(db, id, false); break;
  case 2: sql_run(db, "UPDATE docs SET v = '[%d]' WHERE id = %d", id, id); break;
  default: {
    const char *value = random_value(column);
    sql_run(db, "UPDATE plain SET %s = %s WHERE id = %d", columns[column], value, id);
    sql_run(db, "UPDATE docs SET %s = %s WHERE id = %d", columns[column], value, id);
  }
  }
}

static void put_random_condition(char *out, size_t size) {
  const char *column = columns[below(N_COLUMNS)], *literal = literals[below(N_LITERALS)];
  switch (below(8)) {
  case 0: snprintf(out, size, "%s %s", column, below(2) ? "IS NULL" : "IS NOT NULL"); break;
  case 1: snprintf(out, size, "%s BETWEEN %s AND %s", column, literal, literals[below(N_LITERALS)]); break;
  case 2:
    snprintf(out, size, "%s IN (%s, %s, %s)", column, literal, literals[below(N_LITERALS)],
             literals[below(N_LITERALS)]);
    break;
  case 3: snprintf(out, size, "%s %s %s", column, below(2) ? "LIKE" : "GLOB", patterns[below(N_PATTERNS)]); break;
  case 4: /* with <> and IS NOT, SQLite does not hand a COLLATE to the table */
    snprintf(out, size, "%s COLLATE NOCASE %s %s", column, comparisons[below(2) ? 0 : 2 + below(5)], literal);
    break;
  default: snprintf(out, size, "%s %s %s", column, comparisons[below(8)], literal); break;
  }
}

static void agrees_at_random(sqlite3 *db, int n) {
  for (int i = 0; i < n; i++) {
    char one[200], two[200], both[450];
    put_random_condition(one, sizeof one);
    put_random_condition(two, sizeof two);
    snprintf(both, sizeof both, below(3) ? "%s" : "%s AND %s", one, two);
    agrees(db, both);
    if (below(4) == 0) agrees(db, both); /* the second time it is known */
  }
}

/* ---- what conditions mean ----------------------------------------------------------------------------------------- */

START_TEST(every_comparison_with_every_literal_is_that_of_an_ordinary_table) {
  char condition[200];
  fill(a);
  for (int column = 0; column < N_COLUMNS; column++) {
    for (int i = 0; i < N_LITERALS; i++) {
      for (int j = 0; j < N_COMPARISONS; j++) {
        snprintf(condition, sizeof condition, "%s %s %s", columns[column], comparisons[j], literals[i]);
        agrees(a, condition);
      }
      snprintf(condition, sizeof condition, "%s IN (%s, 1, 'abc')", columns[column], literals[i]);
      agrees(a, condition);
      snprintf(condition, sizeof condition, "%s IN (SELECT %s UNION ALL SELECT 3)", columns[column], literals[i]);
      agrees(a, condition);
      snprintf(condition, sizeof condition, "%s COLLATE NOCASE = %s", columns[column], literals[i]);
      agrees(a, condition);
      snprintf(condition, sizeof condition, "%s COLLATE RTRIM >= %s", columns[column], literals[i]);
      agrees(a, condition);
    }
    for (int i = 0; i < N_PATTERNS; i++) {
      snprintf(condition, sizeof condition, "%s LIKE %s", columns[column], patterns[i]);
      agrees(a, condition);
      snprintf(condition, sizeof condition, "%s GLOB %s", columns[column], patterns[i]);
      agrees(a, condition);
    }
    snprintf(condition, sizeof condition, "%s IS NULL", columns[column]);
    agrees(a, condition);
    snprintf(condition, sizeof condition, "%s IS NOT NULL", columns[column]);
    agrees(a, condition);
  }
}
END_TEST

/* A database in UTF-16 compares texts by other bytes. */
START_TEST(texts_of_an_utf16_database_are_compared_as_there) {
  sql_close(a);
  a = sql_open(sql_path("utf16.db"));
  sql_run(a, "PRAGMA encoding = 'UTF-16le';"
             "CREATE VIRTUAL TABLE docs USING delta_vectors(id INTEGER PRIMARY KEY, v FLOAT[1], s TEXT,"
             " q TEXT PARTITION KEY, metric=l2, index=flat);"
             "CREATE TABLE plain(id INTEGER PRIMARY KEY, s TEXT, q TEXT)");
  for (int id = 1; id <= N_ROWS; id++) {
    sql_run(a, "INSERT INTO docs(id, v, s, q) VALUES(%d, '[%d]', char(%d, %d), char(%d))", id, id, 50 * id, 0x4e00 + id,
            40 * id);
    sql_run(a, "INSERT INTO plain(id, s, q) VALUES(%d, char(%d, %d), char(%d))", id, 50 * id, 0x4e00 + id, 40 * id);
  }
  for (int n = 1; n <= N_ROWS; n++) {
    char condition[100];
    for (int j = 0; j < 6; j++) {
      snprintf(condition, sizeof condition, "s %s char(%d, %d)", comparisons[j], 50 * n, 0x4e00 + n);
      agrees(a, condition);
      snprintf(condition, sizeof condition, "q %s char(%d)", comparisons[j], 40 * n);
      agrees(a, condition);
    }
  }
}
END_TEST

START_TEST(case_sensitive_like_is_heeded_at_once) {
  fill(a);
  for (int i = 0; i < 6; i++) {
    sql_run(a, "PRAGMA case_sensitive_like = %d", i % 2);
    agrees(a, "s LIKE 'abc%'");
    agrees(a, "q LIKE 'AB%'");
    agrees(a, "s LIKE 'ABC' AND i > 0");
  }
}
END_TEST

static int by_bytes(void *ctx, int n1, const void *p1, int n2, const void *p2) {
  int n = n1 < n2 ? n1 : n2, order = n ? memcmp(p1, p2, (size_t)n) : 0;
  return (order ? order : n1 - n2) * (ctx ? -1 : 1);
}

/* A collation can be made another one while the table is in use. */
START_TEST(collation_made_anew_is_heeded_at_once) {
  static int reversed;
  fill(a);
  for (int i = 0; i < 4; i++) {
    sqlite3_create_collation(a, "mine", SQLITE_UTF8, i % 2 ? &reversed : NULL, by_bytes);
    agrees(a, "s COLLATE mine > 'abc'");
    agrees(a, "s COLLATE mine IN ('abc', 'x')");
    agrees(a, "q COLLATE mine < 'abc'");
  }
}
END_TEST

/* A name that the plan of a search could not hold whole. */
START_TEST(collation_of_any_name_is_heeded) {
  static const char *const names[] = {"a collation; and more", "one whose name is quite a bit longer than others are",
                                      "F0,2,;"};
  static int reversed;
  fill(a);
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
    char condition[200];
    sqlite3_create_collation(a, names[i], SQLITE_UTF8, &reversed, by_bytes);
    snprintf(condition, sizeof condition, "s COLLATE \"%s\" > 'abc' AND i < 3", names[i]);
    agrees(a, condition);
    snprintf(condition, sizeof condition, "q COLLATE \"%s\" IN ('abc', 'x')", names[i]);
    agrees(a, condition);
  }
}
END_TEST

/* Where ids are texts, rows have rowids all the same, and what another table knows of them are these. */
START_TEST(rowids_of_rows_with_text_ids) {
  static const char *const conditions[] = {"rowid = 7",
                                           "rowid = 7.0",
                                           "rowid = '7'",
                                           "rowid = 'x'",
                                           "rowid = NULL",
                                           "rowid <> 7",
                                           "rowid < 7.5",
                                           "rowid <= 7",
                                           "rowid > 25",
                                           "_rowid_ >= '25'",
                                           "oid BETWEEN 3 AND 8",
                                           "rowid IS 7",
                                           "rowid IS NOT 7",
                                           "rowid IS NULL",
                                           "rowid IS NOT NULL",
                                           "rowid IN (3, 5, 99, NULL, '8', 2.5)",
                                           "rowid IN (SELECT rowid FROM plain WHERE i = 1)",
                                           "rowid IN ()",
                                           "rowid LIKE '2%'",
                                           "rowid GLOB '*3'",
                                           "rowid < 9223372036854775807",
                                           "rowid > -1e300",
                                           "rowid > 4 AND id < 'r3' AND i = 1",
                                           "rowid = 12 AND id = 'r12'",
                                           "rowid = 12 AND id = 'r13'"};
  sql_run(a, "DROP TABLE docs; DROP TABLE plain; CREATE VIRTUAL TABLE docs USING delta_vectors(id TEXT PRIMARY KEY,"
             " v FLOAT[1], i INTEGER, metric=l2, index=flat); CREATE TABLE plain(id TEXT, i INTEGER)");
  for (int id = 1; id <= 30; id++) {
    sql_run(a, "INSERT INTO docs(id, v, i, as_of) VALUES('r%d', '[%d]', %d, 1000)", id, id, id % 2);
    sql_run(a, "INSERT INTO plain(id, i) VALUES('r%d', %d)", id, id % 2);
  }
  sql_run(a, "CREATE TABLE past AS SELECT * FROM plain; DELETE FROM docs WHERE i = 0 AND id > 'r2';"
             "DELETE FROM plain WHERE i = 0 AND id > 'r2'");
  for (int is_open = 0; is_open < 2; is_open++) {
    for (size_t i = 0; i < sizeof conditions / sizeof conditions[0]; i++) {
      agrees(a, conditions[i]);
      agrees_with(a, "past", " AND as_of = 1000", conditions[i]);
      sql_is(a, sql_rows(a, "SELECT group_concat(id) FROM (SELECT id FROM plain WHERE %s ORDER BY id)", conditions[i]),
             "SELECT group_concat(id) FROM (SELECT id FROM docs WHERE %s ORDER BY id)", conditions[i]);
    }
    if (!is_open) {
      sql_run(a, "BEGIN; INSERT INTO docs(id, v, i) VALUES('new', '[7]', 1); UPDATE docs SET i = 2 WHERE id = 'r7'");
      sql_run(a, "INSERT INTO plain(rowid, id, i) VALUES(31, 'new', 1); UPDATE plain SET i = 2 WHERE id = 'r7'");
    }
  }
  sql_run(a, "COMMIT");
}
END_TEST

/* Values that are nearly all different are asked for in %_row, and long IN lists in pieces. */
START_TEST(many_distinct_values_change_nothing) {
  for (int id = 1; id <= 400; id++) {
    sql_run(a, "INSERT INTO docs(id, v, s, i, q) VALUES(%d, '[%d]', 't%d', %d, 't%d')", id, id, id * 7 % 401,
            id * 7 % 401, id % 5);
    sql_run(a, "INSERT INTO plain(id, s, i, q) VALUES(%d, 't%d', %d, 't%d')", id, id * 7 % 401, id * 7 % 401, id % 5);
  }
  agrees(a, "s LIKE 't1%'");
  agrees(a, "s = 't17'");
  agrees(a, "s <> 't17' AND s > 't3'");
  agrees(a, "s IN (SELECT 't' || (id * 2) FROM plain)");
  agrees(a, "i IN (SELECT id * 2 FROM plain)");
  agrees(a, "q COLLATE RTRIM IN (SELECT 'a' || id FROM plain UNION ALL SELECT 't3')");
  agrees(a, "s COLLATE NOCASE IN (SELECT 'T' || (id * 2) FROM plain)");
}
END_TEST

/* ---- staying current ---------------------------------------------------------------------------------------------- */

START_TEST(changes_rollbacks_and_other_connections_agree) {
  fill(a);
  b = sql_open(sql_path("test.db"));
  for (int round = 0; round < 150; round++) {
    bool is_in_transaction = below(3) != 0, has_savepoint = is_in_transaction && below(2);
    sqlite3 *writer = below(3) ? a : b, *other = writer == a ? b : a;
    if (is_in_transaction) sql_run(writer, "BEGIN");
    for (unsigned n = below(6); n > 0; n--) change_row(writer);
    if (below(3) == 0) agrees_at_random(writer, 3);
    if (has_savepoint) {
      sql_run(writer, "SAVEPOINT s");
      for (unsigned n = 1 + below(4); n > 0; n--) change_row(writer);
      agrees_at_random(writer, 2);
      /* Writes what is pending to the file, inside the transaction. */
      if (below(4) == 0) sql_run(writer, "INSERT INTO docs(docs) VALUES('optimize')");
      agrees_at_random(writer, 2);
      sql_run(writer, below(2) ? "ROLLBACK TO s" : "RELEASE s");
      agrees_at_random(writer, 3);
    }
    agrees_at_random(other, 2);
    if (is_in_transaction) sql_run(writer, below(3) ? "COMMIT" : "ROLLBACK");
    agrees_at_random(writer, 3);
    agrees_at_random(other, 3);
  }
}
END_TEST

/* A column that is first met while the file holds uncommitted values must not keep those. */
START_TEST(uncommitted_lines_are_not_taken_for_committed_ones) {
  static const char *const conditions[] = {"i = 77", "i <> 77", "s = 'new'", "s <> 'new'",
                                           "p = 77", "p < 77",  "q = 'new'", "q IN ('x', 'abc')"};
  enum { N_CONDITIONS = sizeof conditions / sizeof conditions[0] };
  fill(a);
  for (int is_committed = 0; is_committed < 2; is_committed++) {
    sql_run(a, "BEGIN; UPDATE docs SET i = 77, s = 'new', p = 77, q = 'new' WHERE id <= 20;"
               "UPDATE plain SET i = 77, s = 'new', p = 77, q = 'new' WHERE id <= 20;"
               "INSERT INTO docs(docs) VALUES('optimize')");
    for (int i = 0; i < N_CONDITIONS; i++) agrees(a, conditions[i]);
    for (int i = N_CONDITIONS - 4; i < N_CONDITIONS; i++) agrees(a, conditions[i]); /* those that are remembered */
    sql_run(a, is_committed ? "COMMIT" : "ROLLBACK");
    for (int i = N_CONDITIONS; i-- > 0;) agrees(a, conditions[i]);
  }
}
END_TEST

/* Only the vector changes: what is in memory of the metadata stays right, and so does a filter that is known. */
START_TEST(filter_is_known_until_metadata_change) {
  fill(a);
  b = sql_open(sql_path("test.db"));
  for (int i = 0; i < 5; i++) {
    agrees(a, "i > 0 AND s = 'abc'");
    sql_run(a, "UPDATE docs SET v = '[5]' WHERE id = 5");
    agrees(a, "i > 0 AND s = 'abc'");
    sql_run(i % 2 ? a : b,
            "UPDATE docs SET i = %d, s = 'abc' WHERE id = %d; UPDATE plain SET i = %d, s = 'abc' WHERE id = %d", i,
            10 + i, i, 10 + i);
    agrees(a, "i > 0 AND s = 'abc'");
    sql_run(a,
            "UPDATE docs SET i = NULL, r = NULL, s = NULL, b = NULL, p = NULL, q = NULL WHERE id = %d;"
            "UPDATE plain SET i = NULL, r = NULL, s = NULL, b = NULL, p = NULL, q = NULL WHERE id = %d",
            20 + i, 20 + i);
    agrees(b, "i IS NULL");
    agrees(b, "s IS NULL");
    agrees(a, "i > 0 AND s = 'abc'");
    /* A record that sets nothing, but all of it. */
    sql_run(a, "INSERT OR REPLACE INTO docs(id, v) VALUES(%d, '[%d]'); INSERT OR REPLACE INTO plain(id) VALUES(%d)",
            30 + i, 30 + i, 30 + i);
    agrees(b, "s IS NULL");
    agrees(b, "p IS NOT NULL");
  }
}
END_TEST

/* As many values as changes have been made of one row, none of which any row has now. */
START_TEST(values_that_no_row_has_any_more_are_let_go) {
  fill(a);
  agrees(a, "s = 'abc'");
  int64_t before = sql_integer(a, "SELECT json_extract(delta_status('docs'), '$.memory')");
  for (int i = 0; i < 1000; i++) {
    sql_run(a, "UPDATE docs SET s = printf('%%0500d', %d) WHERE id = 1", i);
    sql_rows(a, "SELECT id FROM docs WHERE v MATCH '[1]' AND k = 1 AND s = 'x'");
  }
  sql_run(a, "UPDATE plain SET s = printf('%%0500d', 999) WHERE id = 1");
  agrees(a, "s LIKE '%9'");
  int64_t after = sql_integer(a, "SELECT json_extract(delta_status('docs'), '$.memory')");
  ck_assert_msg(after < before + 300000, "%lld bytes became %lld", (long long)before, (long long)after);
}
END_TEST

/* Of `(i, p) > (1, 2)` SQLite tells the table `i >= 1`, and tests the rest itself: on rows that a LIMIT has counted. */
START_TEST(comparisons_of_rows_leave_as_many_as_the_limit_says) {
  static const char *const comparisons_of_rows[] = {"(i, p) > (1, 2)", "(i, p) <= (3, 0)", "(i, r, p) >= (0, 0, 1)",
                                                    "(i, id) > (1, 30)", "p < 4 AND (i, p) > (-1, 2)"};
  sql_run(a,
          "WITH RECURSIVE n(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM n WHERE n < 60) INSERT INTO docs(id, v, i, r, "
          "p) SELECT n, '[' || n || ']', n %% 4, n %% 5, n %% 7 FROM n;"
          "INSERT INTO plain(id, i, r, p) SELECT id, i, r, p FROM docs");
  for (size_t c = 0; c < sizeof comparisons_of_rows / sizeof comparisons_of_rows[0]; c++) {
    for (int limit = 1; limit < 50; limit += 6) {
      const char *should =
          sql_rows(a, "SELECT id FROM plain WHERE %s ORDER BY id LIMIT %d OFFSET 1", comparisons_of_rows[c], limit);
      sql_is(a, should, "SELECT id FROM docs WHERE v MATCH '[0]' AND %s ORDER BY distance LIMIT %d OFFSET 1",
             comparisons_of_rows[c], limit);
    }
  }
  sql_is(a, "21 22 23",
         "SELECT id FROM docs WHERE v MATCH '[0]' AND (distance, id) > (20, 20) ORDER BY distance LIMIT 3");
}
END_TEST

START_TEST(past_metadata_are_those_of_then) {
  fill(a);
  sql_run(a, "CREATE TABLE past AS SELECT * FROM plain");
  int64_t then = clock_ms;
  char as_of[60], condition[200];
  snprintf(as_of, sizeof as_of, " AND as_of = %lld", (long long)then);
  agrees(a, "i > 0");
  for (int round = 0; round < 20; round++) {
    for (unsigned n = 1 + below(6); n > 0; n--) change_row(a);
    for (int i = 0; i < 10; i++) {
      put_random_condition(condition, sizeof condition);
      agrees_with(a, "past", as_of, condition);
      agrees(a, condition);
    }
  }
}
END_TEST

/* ---- what does not fit -------------------------------------------------------------------------------------------- */

/* Lines that somebody has edited: the column is left to SQL, and the others are not. */
START_TEST(values_of_other_types_in_a_damaged_file_are_put_to_sql) {
  static const char *const damages[] = {"c1 = 'abc' WHERE vid = 3", "c1 = 2.5 WHERE vid = 4",
                                        "c2 = 'abc' WHERE vid = 5", "c3 = x'616263' WHERE vid = 6",
                                        "c4 = 'abc' WHERE vid = 7", "c5 = 'abc' WHERE vid = 8",
                                        "c6 = x'00' WHERE vid = 9"};
  char condition[200];
  fill(a);
  for (size_t d = 0; d < sizeof damages / sizeof damages[0]; d++) {
    sql_run(a, "UPDATE docs_row SET %s", damages[d]);
    sql_close(a);
    a = sql_open(sql_path("test.db"));
    sql_run(a, "DROP TABLE plain;"
               "CREATE TABLE plain(id INTEGER PRIMARY KEY, i INTEGER, r REAL, s TEXT, b BLOB, p INTEGER, q TEXT);"
               "INSERT INTO plain SELECT id, c1, c2, c3, c4, c5, c6 FROM docs_row");
    for (int i = 0; i < 100; i++) {
      put_random_condition(condition, sizeof condition);
      /* A blob among texts: what SQLite hands down for LIKE leaves it out. */
      if (strstr(condition, "LIKE") == NULL && strstr(condition, "GLOB") == NULL) agrees(a, condition);
    }
  }
}
END_TEST

START_TEST(row_without_a_line_passes_nothing) {
  fill(a);
  sql_run(a, "DELETE FROM docs_row WHERE vid IN (11, 12); DELETE FROM plain WHERE id IN (11, 12)");
  sql_close(a);
  a = sql_open(sql_path("test.db"));
  agrees(a, "r IS NULL");
  agrees(a, "i IS NOT 3");
  agrees(a, "p IS NOT 3");
  agrees(a, "q IS NULL");
}
END_TEST

START_TEST(memory_of_columns_is_told) {
  fill(a);
  sql_rows(a, "SELECT id FROM docs WHERE v MATCH '[1]' AND k = 1 AND i = 1");
  int64_t before = sql_integer(a, "SELECT json_extract(delta_status('docs'), '$.memory')");
  sql_rows(a, "SELECT id FROM docs WHERE v MATCH '[1]' AND k = 1 AND r = 1 AND p = 1 AND s = 'abc'");
  int64_t after = sql_integer(a, "SELECT json_extract(delta_status('docs'), '$.memory')");
  ck_assert_msg(after >= before + N_ROWS * (8 + 12 + 4), "%lld bytes became %lld", (long long)before, (long long)after);
}
END_TEST

int main(int argc, char **argv) {
  Suite *suite = suite_create("filters");
  TCase *cases = tcase_create("filters");
  tcase_add_checked_fixture(cases, open_one, close_all);
  tcase_add_test(cases, every_comparison_with_every_literal_is_that_of_an_ordinary_table);
  tcase_add_test(cases, texts_of_an_utf16_database_are_compared_as_there);
  tcase_add_test(cases, case_sensitive_like_is_heeded_at_once);
  tcase_add_test(cases, collation_made_anew_is_heeded_at_once);
  tcase_add_test(cases, collation_of_any_name_is_heeded);
  tcase_add_test(cases, rowids_of_rows_with_text_ids);
  tcase_add_test(cases, many_distinct_values_change_nothing);
  tcase_add_test(cases, changes_rollbacks_and_other_connections_agree);
  tcase_add_test(cases, uncommitted_lines_are_not_taken_for_committed_ones);
  tcase_add_test(cases, filter_is_known_until_metadata_change);
  tcase_add_test(cases, values_that_no_row_has_any_more_are_let_go);
  tcase_add_test(cases, past_metadata_are_those_of_then);
  tcase_add_test(cases, comparisons_of_rows_leave_as_many_as_the_limit_says);
  tcase_add_test(cases, values_of_other_types_in_a_damaged_file_are_put_to_sql);
  tcase_add_test(cases, row_without_a_line_passes_nothing);
  tcase_add_test(cases, memory_of_columns_is_told);
  suite_add_tcase(suite, cases);
  return sql_main(suite, argc, argv);
}
