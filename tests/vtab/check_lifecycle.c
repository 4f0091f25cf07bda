/*
 * check_lifecycle.c: what SQLite does to a virtual table besides asking it: transactions and savepoints in every order,
 * renames, drops, other connections' DDL, attached and copied files, snapshots, backups, close. The cases are those of
 * the table of observed callbacks that ext/txn.c's essay is about; each is named after what the user does.
 *
 * Every test runs three times: with default settings, in WAL mode, and with 512-byte pages and a page cache of two,
 * where SQLite writes uncommitted pages to the file all the time. At the end of each, all of SQLite's memory must be
 * free.
 */
#include "support.h"

#define IDS "SELECT coalesce(group_concat(id, ''), '') FROM (SELECT id FROM docs ORDER BY id) AS t"
#define INSERT "INSERT INTO docs(id, vector) VALUES"
#define NEAREST "SELECT id FROM docs WHERE vector MATCH '[1,1,1]' AND k=20"

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
  sql_teardown();
}

static void use_default(void) { sql_profile_now = &sql_default, open_files(); }
static void use_wal(void) { sql_profile_now = &sql_wal, open_files(); }
static void use_tiny(void) { sql_profile_now = &sql_tiny, open_files(); }
static bool is_wal(void) { return sql_profile_now == &sql_wal; }

/* docs with rows a and b; the second connection has read it. */
static void two_rows(void) {
  sql_create_docs(a, 3);
  sql_run(a, INSERT "('a', '[1,0,0]'), ('b', '[0,1,0]')");
}

static void open_second(void) {
  b = sql_open(file);
  sql_rows(b, IDS);
  sql_rows(b, NEAREST);
}

/* ---- savepoints -------------------------------------------------------------------------------------------------- */

/* Rows inserted behind a savepoint that SQLite never tells the table about are gone after ROLLBACK TO it. */
START_TEST(savepoint_never_announced_rolls_back) {
  two_rows();
  sql_run(a, "BEGIN; SAVEPOINT s0");
  sql_run(a, INSERT "('c', '[1,1,0]'), ('d', '[1,1,1]')");
  sql_run(a, "UPDATE docs SET delta=delta_scale(2) WHERE id='a'");
  sql_is(a, "abcd", IDS);
  sql_run(a, "ROLLBACK TO s0");
  sql_is(a, "ab", IDS);
  sql_is(a, "[1,0,0]", "SELECT vector_json(vector) FROM docs WHERE id='a'");
  sql_run(a, INSERT "('e', '[0,0,1]'); COMMIT");
  sql_is(a, "abe", IDS);
  sql_agrees(a);
}
END_TEST

/* The same with two savepoints, neither of them announced, and the outermost being the transaction itself. */
START_TEST(rollback_to_outermost_savepoint) {
  two_rows();
  sql_run(a, "SAVEPOINT a; SAVEPOINT b");
  sql_run(a, INSERT "('c', '[1,1,0]')");
  sql_run(a, "ROLLBACK TO a");
  sql_is(a, "ab", IDS);
  sql_run(a, INSERT "('d', '[1,1,1]'); DELETE FROM docs WHERE id='a'");
  sql_is(a, "bd", IDS);
  sql_run(a, "RELEASE a");
  sql_is(a, "bd", IDS);
  sql_agrees(a);
}
END_TEST

/* A stack of savepoints, cut at every depth: what is left is what was there when the savepoint was set. */
START_TEST(savepoints_nest) {
  two_rows();
  for (int cut = 0; cut < 6; cut++) {
    sql_run(a, "BEGIN; " INSERT "('0', '[0,0,0]')");
    for (int i = 1; i <= 6; i++) {
      sql_run(a, "SAVEPOINT s%d; " INSERT "('%d', '[%d,0,0]'); UPDATE docs SET delta=delta_offset(1) WHERE id='a'", i,
              i, i);
    }
    sql_run(a, "ROLLBACK TO s%d", cut + 1);
    char expected[16] = "0123456";
    snprintf(expected + cut + 1, sizeof expected - 8, "ab");
    sql_is(a, expected, IDS);
    char vector[64];
    snprintf(vector, sizeof vector, "[%d,%d,%d]", cut + 1, cut, cut);
    sql_is(a, vector, "SELECT vector_json(vector) FROM docs WHERE id='a'");
    if (cut % 2 && cut > 1)
      sql_run(a, "RELEASE s%d; ROLLBACK TO s1", cut);
    else
      sql_run(a, "ROLLBACK TO s1");
    sql_is(a, "0ab", IDS);
    sql_run(a, "ROLLBACK");
    sql_is(a, "ab", IDS);
  }
  sql_agrees(a);
}
END_TEST

/* ROLLBACK TO may be repeated: the savepoint stays. */
START_TEST(rollback_to_twice) {
  two_rows();
  sql_run(a, "BEGIN; " INSERT "('c', '[1,1,0]'); SAVEPOINT s");
  for (int i = 0; i < 3; i++) {
    sql_run(a, INSERT
            "('d', '[1,1,1]'); DELETE FROM docs WHERE id='c'; UPDATE docs SET delta=delta_scale(3) WHERE id='a'");
    sql_is(a, "abd", IDS);
    sql_run(a, "ROLLBACK TO s");
    sql_is(a, "abc", IDS);
    sql_is(a, "c a b", NEAREST);
  }
  sql_run(a, "COMMIT");
  sql_is(a, "abc", IDS);
  sql_agrees(a);
}
END_TEST

/* A released savepoint is no place to go back to; the one below it still is. */
START_TEST(release_keeps_the_changes) {
  two_rows();
  sql_run(a, "BEGIN; SAVEPOINT s1; " INSERT "('c', '[1,1,0]'); SAVEPOINT s2; " INSERT "('d', '[1,1,1]'); RELEASE s2");
  sql_is(a, "abcd", IDS);
  sql_run(a, "SAVEPOINT s3; DELETE FROM docs; ROLLBACK TO s3");
  sql_is(a, "abcd", IDS);
  sql_run(a, "ROLLBACK TO s1");
  sql_is(a, "ab", IDS);
  sql_run(a, "RELEASE s1; COMMIT");
  sql_agrees(a);
}
END_TEST

/* A row that is deleted and made again inside a savepoint has its old vector, metadata and history after ROLLBACK
 * TO. */
START_TEST(row_made_again_behind_a_savepoint) {
  two_rows();
  sql_run(a, "UPDATE docs SET metadata='{\"n\":1}' WHERE id='a'");
  sql_run(a, "BEGIN; UPDATE docs SET metadata='{\"n\":2}' WHERE id='a'; SAVEPOINT s");
  sql_run(a,
          "DELETE FROM docs WHERE id='a'; INSERT INTO docs(id, vector, metadata) VALUES('a', '[7,7,7]', '{\"n\":3}')");
  sql_is(a, "[7,7,7]|{\"n\":3}", "SELECT vector_json(vector), metadata FROM docs WHERE id='a'");
  sql_run(a, "ROLLBACK TO s");
  sql_is(a, "[1,0,0]|{\"n\":2}", "SELECT vector_json(vector), metadata FROM docs WHERE id='a'");
  sql_is(a, "3", "SELECT count(*) FROM delta_chain('docs', 'a')");
  sql_run(a, "COMMIT");
  sql_is(a, "[1,0,0]|{\"n\":2}", "SELECT vector_json(vector), metadata FROM docs WHERE id='a'");
  sql_agrees(a);
}
END_TEST

/* ---- statements that fail ---------------------------------------------------------------------------------------- */

/* An INSERT of three rows whose last one is wrong leaves none of them, and the transaction goes on. */
START_TEST(failed_multi_row_insert_is_undone) {
  two_rows();
  sql_run(a, "BEGIN; " INSERT "('c', '[1,1,0]')");
  sql_fails(a, SQLITE_ERROR, "row 'f'", INSERT "('d', '[1,1,1]'), ('e', '[1,1,1]'), ('f', '[1,1]')");
  sql_is(a, "abc", IDS);
  sql_fails(a, SQLITE_CONSTRAINT, "row 'a'", INSERT "('d', '[1,1,1]'), ('a', '[1,1,1]')");
  sql_is(a, "abc", IDS);
  sql_run(a, "CREATE TABLE source(id, v); INSERT INTO source VALUES('x','[1,2,3]'),('y','[4,5,6]'),('z','no')");
  sql_fails(a, SQLITE_ERROR, "row 'z'",
            INSERT "('w','[0,0,0]'); INSERT INTO docs(id, vector) SELECT id, v FROM source");
  sql_is(a, "abcw", IDS);
  sql_run(a, "COMMIT");
  sql_is(a, "abcw", IDS);
  sql_agrees(a);
}
END_TEST

/* An UPDATE of all rows that overflows in the last one changes none. */
START_TEST(failed_multi_row_update_is_undone) {
  two_rows();
  sql_run(a, INSERT "('z', '[3e38,0,0]')");
  for (int i = 0; i < 2; i++) {
    if (i) sql_run(a, "BEGIN");
    sql_fails(a, SQLITE_ERROR, "row 'z'", "UPDATE docs SET delta=delta_scale(2)");
    sql_is(a, "[1,0,0] [0,1,0] [3e+38,0,0]", "SELECT vector_json(vector) FROM docs");
  }
  sql_run(a, "COMMIT");
  sql_is(a, "3", "SELECT count(*) FROM delta_log('docs', 0)");
  sql_agrees(a);
}
END_TEST

/* A trigger that writes to the table and then fails takes its rows with it. */
START_TEST(failed_trigger_is_undone) {
  two_rows();
  sql_run(a, "CREATE TABLE source(id, v);"
             "CREATE TRIGGER copy AFTER INSERT ON source BEGIN"
             " INSERT INTO docs(id, vector) VALUES(new.id, new.v);"
             " DELETE FROM docs WHERE id='a';"
             " SELECT raise(ABORT, 'not this one') WHERE new.id='e'; END");
  sql_run(a, "BEGIN");
  sql_fails(a, SQLITE_CONSTRAINT, "not this one", "INSERT INTO source VALUES('c','[1,1,0]'),('e','[1,1,1]')");
  sql_is(a, "ab", IDS);
  sql_run(a, "INSERT INTO source VALUES('d','[1,1,0]'); COMMIT");
  sql_is(a, "bd", IDS);
  sql_fails(a, SQLITE_CONSTRAINT, "not this one", "INSERT INTO source VALUES('c','[1,1,0]'),('e','[1,1,1]')");
  sql_is(a, "bd", IDS);
  sql_agrees(a);
}
END_TEST

/* INSERT OR IGNORE of a row that exists changes nothing of it, and the other rows of the statement come in. */
START_TEST(insert_or_ignore_leaves_no_half_row) {
  two_rows();
  for (int i = 0; i < 2; i++) {
    if (i) sql_run(a, "BEGIN");
    char *before = sql_dump(a, "main", "docs");
    sql_run(a, "INSERT OR IGNORE INTO docs(id, vector, metadata) VALUES('a', '[9,9,9]', '{\"x\":1}')");
    sql_is(a, "0", "SELECT changes()");
    char *after = sql_dump(a, "main", "docs");
    ck_assert_str_eq(before, after);
    free(before);
    free(after);
  }
  sql_run(a, "INSERT OR IGNORE INTO docs(id, vector) VALUES('c', '[1,1,0]'), ('a', '[9,9,9]'), ('d', '[1,1,1]')");
  sql_is(a, "2", "SELECT changes()");
  sql_run(a, "COMMIT");
  sql_is(a, "abcd", IDS);
  sql_agrees(a);
}
END_TEST

/* The other ways an INSERT can take a conflict mean what they mean for any table. */
START_TEST(insert_or_abort_fail_rollback_replace) {
  two_rows();
  sql_run(a, "BEGIN; " INSERT "('c', '[1,1,0]')");
  sql_fails(a, SQLITE_CONSTRAINT, "exists already",
            "INSERT OR ABORT INTO docs(id, vector) VALUES('d','[1,1,1]'),('a','[1,1,1]'),('e','[1,1,1]')");
  sql_is(a, "abc", IDS);
  sql_fails(a, SQLITE_CONSTRAINT, "exists already",
            "INSERT OR FAIL INTO docs(id, vector) VALUES('d','[1,1,1]'),('a','[1,1,1]'),('e','[1,1,1]')");
  sql_is(a, "abcd", IDS);
  sql_run(a, "INSERT OR REPLACE INTO docs(id, vector) VALUES('a','[5,5,5]')");
  sql_is(a, "[5,5,5]", "SELECT vector_json(vector) FROM docs WHERE id='a'");
  sql_is(a, "2", "SELECT count(*) FROM delta_chain('docs', 'a')");
  sql_fails(a, SQLITE_CONSTRAINT, "exists already",
            "INSERT OR ROLLBACK INTO docs(id, vector) VALUES('e','[1,1,1]'),('a','[1,1,1]')");
  ck_assert_int_eq(sqlite3_get_autocommit(a), 1);
  sql_is(a, "ab", IDS);
  sql_is(a, "[1,0,0]", "SELECT vector_json(vector) FROM docs WHERE id='a'");
  sql_agrees(a);
}
END_TEST

/* A commit hook that says no: everything is as before, and the next transaction works. */
static int say_no(void *p) { return *(int *)p; }

START_TEST(commit_refused_by_a_hook_rolls_back) {
  int no = 1;
  two_rows();
  sqlite3_commit_hook(a, say_no, &no);
  sql_run(a, "BEGIN; " INSERT "('c', '[1,1,0]'); DELETE FROM docs WHERE id='a'");
  sql_fails(a, SQLITE_CONSTRAINT, "", "COMMIT");
  sql_is(a, "ab", IDS);
  sql_fails(a, SQLITE_CONSTRAINT, "", INSERT "('c', '[1,1,0]')");
  sql_is(a, "ab", IDS);
  sql_is(a, "a b", "SELECT id FROM docs WHERE vector MATCH '[1,0,0]' AND k=20");
  no = 0;
  sql_run(a, INSERT "('c', '[1,1,0]')");
  sql_is(a, "abc", IDS);
  sql_agrees(a);
}
END_TEST

/* The disk is full at some point of a transaction: SQLITE_FULL, in a statement or at COMMIT; the transaction is gone,
 * the table is whole, and goes on when there is room again. For every point at which it can be full. */
START_TEST(disk_full_at_every_page) {
  static const char *const script[] = {
      "BEGIN",
      INSERT "('c', '[1,1,0]'), ('d', '[1,1,1]')",
      "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<700)"
      " INSERT INTO docs(id, vector, metadata) SELECT 'n'||i, json_array(i,i,i), json_object('text', 'to make it "
      "longer', 'i', i) FROM n",
      "UPDATE docs SET delta=delta_scale(2), metadata='{\"other\":1}' WHERE rowid %% 3 = 0",
      "SAVEPOINT s; DELETE FROM docs WHERE rowid %% 2; ROLLBACK TO s; RELEASE s",
      "INSERT INTO docs(docs) VALUES('optimize')",
      "SELECT delta_compact('docs', '{\"keep\":\"none\"}')",
      "UPDATE docs SET delta=delta_offset(1)",
      "COMMIT",
  };
  two_rows();
  sql_insert_many(a, "docs", 1, 40);
  char *before = sql_state(a, "main", "docs");
  int start = (int)sql_integer(a, "PRAGMA page_count"), step = sql_profile_now == &sql_tiny ? 5 : 1;
  bool has_committed = false;
  for (int room = 0; !has_committed; room += step) {
    ck_assert_int_lt(room, 3000);
    sql_run(a, "PRAGMA max_page_count=%d", start + room);
    has_committed = true;
    for (size_t i = 0; i < sizeof script / sizeof script[0]; i++) {
      char *message = NULL;
      int rc = sql_try(a, &message, script[i]);
      ck_assert_msg(rc == SQLITE_OK || rc == SQLITE_FULL, "room %d: %s: %d %s", room, script[i], rc, message);
      sqlite3_free(message);
      if (rc == SQLITE_OK) continue;
      has_committed = false;
      if (!sqlite3_get_autocommit(a)) sql_run(a, "ROLLBACK");
      break;
    }
    char *after = sql_state(a, "main", "docs");
    ck_assert_msg(has_committed || strcmp(before, after) == 0, "room %d: before\n%.2000s\nafter\n%.2000s", room, before,
                  after);
    free(after);
    sql_run(a, "PRAGMA max_page_count=1000000");
    if (room % 10 == 0 || has_committed) sql_agrees(a);
  }
  sql_is(a, "744", "SELECT count(*) FROM docs");
  sql_insert_many(a, "docs", 100, 110);
  sql_agrees(a);
  free(before);
}
END_TEST

/* ---- BUSY -------------------------------------------------------------------------------------------------------- */

/* A reader makes COMMIT fail with SQLITE_BUSY. The transaction is still open: more can be written, savepoints still
 * work, and the next COMMIT brings all of it. */
START_TEST(commit_refused_with_busy_goes_on) {
  if (is_wal()) return; /* there a reader blocks nobody */
  two_rows();
  open_second();
  sql_run(b, "BEGIN; SELECT count(*) FROM docs");
  sql_run(a, "BEGIN; " INSERT "('c', '[1,1,0]'); SAVEPOINT s; " INSERT "('d', '[1,1,1]')");
  sql_fails(a, SQLITE_BUSY, "locked", "COMMIT");
  sql_is(a, "abcd", IDS);
  sql_is(b, "ab", IDS);
  sql_run(a, INSERT "('e', '[0,0,1]'); UPDATE docs SET delta=delta_scale(2), metadata='{\"x\":1}' WHERE id='d'");
  sql_is(a, "abcde", IDS);
  sql_fails(a, SQLITE_BUSY, "locked", "COMMIT");
  sql_is(a, "[2,2,2]|{\"x\":1}", "SELECT vector_json(vector), metadata FROM docs WHERE id='d'");
  sql_run(a, "ROLLBACK TO s");
  sql_is(a, "abc", IDS);
  sql_run(a, INSERT "('f', '[0,0,1]')");
  sql_run(b, "COMMIT");
  sql_run(a, "COMMIT");
  sql_is(a, "abcf", IDS);
  sql_is(b, "abcf", IDS);
  sql_agrees(a);
}
END_TEST

/* The same, and then ROLLBACK: nothing of it is left, in memory or in the file. */
START_TEST(commit_refused_with_busy_then_rollback) {
  if (is_wal()) return;
  two_rows();
  open_second();
  sql_run(b, "BEGIN; SELECT count(*) FROM docs");
  for (int i = 0; i < 3; i++) {
    sql_run(a, "BEGIN; " INSERT "('c', '[1,1,0]'); DELETE FROM docs WHERE id='a'");
    sql_fails(a, SQLITE_BUSY, "locked", "COMMIT");
    if (i) sql_run(a, INSERT "('d', '[1,1,0]')");
    if (i == 2) sql_fails(a, SQLITE_BUSY, "locked", "COMMIT");
    sql_run(a, "ROLLBACK");
    sql_is(a, "ab", IDS);
    sql_is(a, "a b", "SELECT id FROM docs WHERE vector MATCH '[1,0,0]' AND k=20");
  }
  sql_run(b, "COMMIT");
  sql_run(a, INSERT "('d', '[1,1,0]')");
  sql_is(a, "abd", IDS);
  sql_agrees(a);
}
END_TEST

/* An autocommit INSERT that meets a reader fails with SQLITE_BUSY and is not there afterwards. */
START_TEST(autocommit_insert_refused_with_busy) {
  if (is_wal()) return;
  two_rows();
  open_second();
  sql_run(b, "BEGIN; SELECT count(*) FROM docs");
  sql_fails(a, SQLITE_BUSY, "locked", INSERT "('c', '[1,1,0]')");
  sql_fails(a, SQLITE_BUSY, "locked", "SELECT delta_apply('docs', 'a', delta_scale(2))");
  ck_assert_int_eq(sqlite3_get_autocommit(a), 1);
  sql_is(a, "ab", IDS);
  sql_run(b, "COMMIT");
  sql_run(a, INSERT "('c', '[1,1,0]')");
  sql_is(b, "abc", IDS);
  sql_agrees(a);
}
END_TEST

/* In WAL mode a transaction that has read cannot write once another connection has committed: SQLITE_BUSY before
 * anything happens. Its reads still see its snapshot. */
START_TEST(wal_stale_snapshot_is_busy) {
  if (!is_wal()) return;
  two_rows();
  open_second();
  sql_run(a, "BEGIN");
  sql_is(a, "ab", IDS);
  sql_run(b, INSERT "('c', '[1,1,1]'); DELETE FROM docs WHERE id='a'");
  sql_fails(a, SQLITE_BUSY, "locked", INSERT "('d', '[1,1,0]')");
  sql_fails(a, SQLITE_BUSY, "locked", "SELECT delta_apply('docs', 'a', delta_scale(2))");
  sql_is(a, "ab", IDS);
  sql_is(a, "a b", "SELECT id FROM vector_search('docs', '[1,0,0]', 10)");
  sql_run(a, "ROLLBACK");
  sql_is(a, "bc", IDS);
  sql_run(a, INSERT "('d', '[1,1,0]')");
  sql_is(b, "bcd", IDS);
  sql_agrees(a);
}
END_TEST

/* ---- creating ---------------------------------------------------------------------------------------------------- */

/* CREATE and INSERT in one transaction, as every dump and migration does. */
START_TEST(create_and_insert_in_one_transaction) {
  sql_run(a, "BEGIN");
  sql_create_docs(a, 3);
  sql_run(a, INSERT "('a', '[1,0,0]')");
  sql_run(a, "SELECT delta_apply('docs', 'a', delta_scale(2))");
  sql_is(a, "[2,0,0]", "SELECT vector_json(vector) FROM docs");
  sql_run(a, "SAVEPOINT s; " INSERT "('b', '[1,0,0]'); ROLLBACK TO s; " INSERT "('c', '[0,1,1]')");
  sql_is(a, "ac", IDS);
  sql_run(a, "COMMIT");
  sql_is(a, "ac", IDS);
  sql_is(a, "c a", NEAREST);
  sql_agrees(a);
}
END_TEST

/* CREATE, then ROLLBACK: no table, no shadow tables, and the name can be used again. */
START_TEST(create_then_rollback) {
  for (int i = 0; i < 3; i++) {
    sql_run(a, "BEGIN");
    sql_create_docs(a, 3 + i);
    if (i) sql_run(a, INSERT "('a', '%s')", i == 1 ? "[1,2,3,4]" : "[1,2,3,4,5]");
    sql_run(a, "ROLLBACK");
    sql_is(a, "0", "SELECT count(*) FROM sqlite_schema");
    sql_fails(a, SQLITE_ERROR, "no such table", "SELECT * FROM docs");
    sql_fails(a, SQLITE_ERROR, "no such table", "SELECT delta_status('docs')");
  }
  two_rows();
  sql_is(a, "ab", IDS);
  sql_agrees(a);
}
END_TEST

/* CREATE behind a savepoint, then ROLLBACK TO it: no table; a transaction that goes on can make it again. */
START_TEST(create_inside_savepoint_then_rollback_to) {
  sql_run(a, "BEGIN; CREATE TABLE other(x); SAVEPOINT s");
  sql_create_docs(a, 3);
  sql_run(a, INSERT "('a', '[1,0,0]')");
  sql_run(a, "ROLLBACK TO s");
  sql_is(a, "other", "SELECT name FROM sqlite_schema");
  sql_create_docs(a, 4);
  sql_run(a, INSERT "('b', '[1,0,0,0]'); SAVEPOINT s2; " INSERT "('c', '[1,0,0,0]'); ROLLBACK TO s2; COMMIT");
  sql_is(a, "b", IDS);
  sql_agrees(a);
}
END_TEST

/* A CREATE that meets a table with the name of a shadow table fails and leaves nothing behind, inside BEGIN too. */
START_TEST(create_that_fails_leaves_nothing) {
  sql_run(a, "CREATE TABLE docs_code(mine)");
  for (int i = 0; i < 2; i++) {
    if (i) sql_run(a, "BEGIN");
    sql_fails(a, SQLITE_ERROR, "docs_code", "CREATE VIRTUAL TABLE docs USING delta_vectors(dimensions=3)");
    sql_is(a, "docs_code", "SELECT name FROM sqlite_schema");
  }
  sql_run(a, "COMMIT");
  sql_is(a, "docs_code", "SELECT name FROM sqlite_schema");
  sql_run(a, "DROP TABLE docs_code");
  two_rows();
  sql_agrees(a);
}
END_TEST

/* CREATE TABLE IF NOT EXISTS of a table that is there changes nothing. */
START_TEST(create_if_not_exists) {
  two_rows();
  sql_run(a, "CREATE VIRTUAL TABLE IF NOT EXISTS docs USING delta_vectors(dimensions=99)");
  sql_is(a, "ab", IDS);
  sql_fails(a, SQLITE_ERROR, "already exists", "CREATE VIRTUAL TABLE docs USING delta_vectors(dimensions=99)");
  sql_is(a, "ab", IDS);
  sql_agrees(a);
}
END_TEST

/* ---- renaming ---------------------------------------------------------------------------------------------------- */

/* RENAME takes rows, history and functions along. */
START_TEST(rename_table) {
  two_rows();
  sql_run(a, "SELECT delta_apply('docs', 'a', delta_scale(2))");
  open_second();
  sql_run(a, "ALTER TABLE docs RENAME TO \"new 'one\"");
  sql_is(a, "a b", "SELECT id FROM \"new 'one\"");
  sql_is(a, "2", "SELECT count(*) FROM delta_chain('new ''one', 'a')");
  sql_run(a, "INSERT INTO \"new 'one\"(id, vector) VALUES('c', '[1,1,1]')");
  sql_run(a, "SELECT delta_apply('new ''one', 'a', delta_scale(2))");
  sql_fails(a, SQLITE_ERROR, "no such table", "SELECT * FROM docs");
  sql_fails(a, SQLITE_ERROR, "no such table", "SELECT delta_status('docs')");
  sql_is(a, "0", "SELECT count(*) FROM sqlite_schema WHERE name LIKE 'docs%%'");
  sql_is(b, "a b c", "SELECT id FROM \"new 'one\"");
  sql_is(b, "[4,0,0]", "SELECT vector_json(vector_at('new ''one', 'a'))");
  sql_agrees_at(__LINE__, a, "main", "new 'one");
  sql_run(a, "ALTER TABLE \"new 'one\" RENAME TO docs");
  sql_is(b, "abc", IDS);
  sql_agrees(a);
}
END_TEST

/* INSERT, RENAME, INSERT, ROLLBACK in one transaction: everything is back, under the old name. */
START_TEST(rename_inside_transaction_then_rollback) {
  two_rows();
  for (int i = 0; i < 2; i++) {
    sql_run(a, "BEGIN; " INSERT "('c', '[1,1,1]'); ALTER TABLE docs RENAME TO d2");
    sql_run(a, "INSERT INTO d2(id, vector) VALUES('d', '[2,2,2]'); DELETE FROM d2 WHERE id='a'");
    sql_is(a, "b c d", "SELECT id FROM d2");
    sql_is(a, "c b d", "SELECT id FROM vector_search('d2', '[1,1,1]', 10)");
    sql_run(a, "ROLLBACK");
    sql_is(a, "ab", IDS);
    sql_fails(a, SQLITE_ERROR, "no such table", "SELECT * FROM d2");
  }
  sql_run(a, INSERT "('e', '[1,1,1]')");
  sql_is(a, "abe", IDS);
  sql_agrees(a);
}
END_TEST

/* The same with COMMIT, and with RENAME behind a savepoint that is rolled back. */
START_TEST(rename_inside_transaction_then_commit) {
  two_rows();
  sql_run(a, "BEGIN; " INSERT "('c', '[1,1,1]'); SAVEPOINT s; ALTER TABLE docs RENAME TO d2");
  sql_run(a, "INSERT INTO d2(id, vector) VALUES('d', '[2,2,2]'); ROLLBACK TO s");
  sql_is(a, "abc", IDS);
  sql_run(a, INSERT
          "('e', '[1,1,1]'); ALTER TABLE docs RENAME TO d3; INSERT INTO d3(id, vector) VALUES('f', '[0,0,0]'); COMMIT");
  sql_is(a, "a b c e f", "SELECT id FROM d3");
  sql_agrees_at(__LINE__, a, "main", "d3");
}
END_TEST

/* Renamed away and back in one transaction, with writes at every step. */
START_TEST(rename_away_and_back_in_one_transaction) {
  two_rows();
  sql_run(a, "BEGIN; " INSERT
             "('c', '[1,1,1]'); ALTER TABLE docs RENAME TO d2; INSERT INTO d2(id, vector) VALUES('d', '[2,2,2]')");
  sql_run(a, "ALTER TABLE d2 RENAME TO docs");
  sql_is(a, "abcd", IDS);
  sql_run(a, INSERT "('e', '[3,3,3]')");
  sql_is(a, "abcde", IDS);
  sql_run(a, "COMMIT");
  sql_is(a, "abcde", IDS);
  sql_agrees(a);
}
END_TEST

/* The name goes away, comes back, and goes away again: three objects have had the table under two names. */
START_TEST(rename_away_and_back_and_away_then_rollback) {
  for (int i = 0; i < 2; i++) {
    two_rows();
    sql_run(a, "BEGIN; UPDATE docs SET delta=delta_scale(2) WHERE id='a'; SAVEPOINT s");
    sql_run(a, "ALTER TABLE docs RENAME TO other; SELECT * FROM other; ALTER TABLE other RENAME TO docs");
    sql_run(a, "UPDATE docs SET delta=delta_offset(1) WHERE id='a'; ALTER TABLE docs RENAME TO third");
    sql_is(a, "[3,1,1]", "SELECT vector_json(vector) FROM third WHERE id='a'");
    sql_run(a, i ? "ROLLBACK TO s" : "ROLLBACK");
    sql_is(a, i ? "[2,0,0]" : "[1,0,0]", "SELECT vector_json(vector) FROM docs WHERE id='a'");
    if (i) sql_run(a, "UPDATE docs SET delta=delta_offset(3) WHERE id='a'; COMMIT");
    sql_is(a, i ? "[5,3,3]" : "[1,0,0]", "SELECT vector_json(vector) FROM docs WHERE id='a'");
    sql_agrees(a);
    sql_run(a, "DROP TABLE docs");
  }
}
END_TEST

/* ROLLBACK TO the first savepoint behind a RENAME leaves the table renamed: with the old name it would have got its old
 * memory again, and lost what was written under the new one when that name came back. */
START_TEST(rename_stays_with_a_rollback_to_behind_it) {
  two_rows();
  sql_run(a, "BEGIN; " INSERT "('c', '[1,1,1]'); ALTER TABLE docs RENAME TO d2; SAVEPOINT s");
  sql_run(a, "INSERT INTO d2(id, vector) VALUES('d', '[2,2,2]'); ROLLBACK TO s");
  sql_run(a, "INSERT INTO d2(id, vector) VALUES('e', '[3,3,3]'); COMMIT");
  sql_is(a, "a b c e", "SELECT id FROM d2");
  sql_run(a, "ALTER TABLE d2 RENAME TO docs");
  sql_is(a, "abce", IDS);
  sql_agrees(a);
}
END_TEST

/* A RENAME rolled back: the memory that was read under the new name holds rows that are gone, and must not be served to a
 * function, nor when the table gets that name again. */
START_TEST(rename_rolled_back_leaves_no_memory_of_it) {
  two_rows();
  sql_run(a, "BEGIN; SAVEPOINT s; " INSERT "('c', '[1,1,1]'); ALTER TABLE docs RENAME TO d2");
  sql_is(a, "c a b", "SELECT id FROM vector_search('d2', '[1,1,1]', 10)");
  sql_run(a, "INSERT INTO d2(id, vector) VALUES('d', '[2,2,2]'); ROLLBACK TO s");
  sql_fails(a, SQLITE_ERROR, "no such table", "SELECT vector_at('d2', 'c')");
  sql_run(a, "ALTER TABLE docs RENAME TO d2");
  sql_is(a, "a b", "SELECT id FROM vector_search('d2', '[1,1,1]', 10)");
  sql_run(a, "INSERT INTO d2(id, vector) VALUES('e', '[3,3,3]'); COMMIT");
  sql_is(a, "a b e", "SELECT id FROM d2");
  sql_agrees_at(__LINE__, a, "main", "d2");
}
END_TEST

/* A RENAME in a transaction with thousands of changes, which the commit wants to settle. */
START_TEST(rename_after_many_changes) {
  two_rows();
  sql_run(a, "BEGIN");
  sql_insert_many(a, "docs", 1, 5000);
  sql_run(a, "ALTER TABLE docs RENAME TO d2; COMMIT");
  sql_is(a, "5002", "SELECT count(*) FROM d2");
  sql_run(a, "DELETE FROM d2 WHERE id='r7'");
  sql_is(a, "5001", "SELECT count(*) FROM d2");
  sql_sound_at(__LINE__, a, "main", "d2");
}
END_TEST

/* RENAME to a name whose shadow tables exist already fails, and the table is as it was. */
START_TEST(rename_that_fails) {
  two_rows();
  sql_run(a, "CREATE TABLE d2_head(mine)");
  sql_fails(a, SQLITE_ERROR, "d2_head", "ALTER TABLE docs RENAME TO d2");
  sql_is(a, "ab", IDS);
  sql_run(a, "BEGIN; " INSERT "('c', '[1,1,1]')");
  sql_fails(a, SQLITE_ERROR, "d2_head", "ALTER TABLE docs RENAME TO d2");
  sql_is(a, "abc", IDS);
  sql_run(a, INSERT "('d', '[1,1,1]'); COMMIT");
  sql_is(a, "abcd", IDS);
  sql_agrees(a);
}
END_TEST

/* The column for commands has the name of the table: one with the name of another column could never be opened again. */
START_TEST(rename_to_the_name_of_a_column) {
  two_rows();
  sql_run(a, "BEGIN; " INSERT "('c', '[1,1,1]')");
  static const char *const names[] = {"id", "Vector", "metadata", "distance", "k", "as_of", "DELTA", "score", "rowid"};
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
    sql_fails(a, SQLITE_ERROR, "it cannot be renamed to", "ALTER TABLE docs RENAME TO %s", names[i]);
    sql_is(a, "abc", IDS);
  }
  sql_run(a, "COMMIT; CREATE VIRTUAL TABLE items USING delta_vectors(n INTEGER PRIMARY KEY, at FLOAT[1], genre TEXT)");
  sql_fails(a, SQLITE_ERROR, "table main.items: it cannot be renamed to Genre, the name of a column",
            "ALTER TABLE items RENAME TO Genre");
  sql_fails(a, SQLITE_ERROR, "the name of a column", "ALTER TABLE items RENAME TO n");
  sql_run(a, "ALTER TABLE items RENAME TO vector; INSERT INTO vector(n, at) VALUES(1, '[1]')");
  sql_agrees(a);
}
END_TEST

/* ---- dropping ---------------------------------------------------------------------------------------------------- */

START_TEST(drop_table) {
  two_rows();
  sql_run(a, "SELECT delta_apply('docs', 'a', delta_scale(2))");
  open_second();
  sql_run(a, "DROP TABLE docs");
  sql_is(a, "0", "SELECT count(*) FROM sqlite_schema");
  sql_fails(a, SQLITE_ERROR, "no such table", "SELECT delta_status('docs')");
  sql_fails(b, SQLITE_ERROR, "no such table", "SELECT delta_apply('docs', 'a', delta_scale(2))");
  sql_fails(b, SQLITE_ERROR, "no such table", "SELECT * FROM vector_search('docs', '[1,2,3]')");
  sql_fails(b, SQLITE_ERROR, "no such table", "SELECT * FROM docs");
}
END_TEST

/* DROP, then ROLLBACK: the table is back with all committed rows. */
START_TEST(drop_then_rollback) {
  two_rows();
  sql_run(a, "BEGIN; DROP TABLE docs; ROLLBACK");
  sql_is(a, "ab", IDS);
  sql_run(a, "SELECT delta_apply('docs', 'a', delta_scale(2))");
  sql_run(a, "BEGIN; " INSERT "('c', '[1,1,1]'); DROP TABLE docs");
  sql_fails(a, SQLITE_ERROR, "no such table", "SELECT * FROM docs");
  sql_run(a, "ROLLBACK");
  sql_is(a, "ab", IDS);
  sql_run(a, INSERT "('d', '[1,1,1]')");
  sql_is(a, "abd", IDS);
  sql_agrees(a);
}
END_TEST

/* DROP with uncommitted rows, then COMMIT: gone, and its memory too (the teardown looks). */
START_TEST(drop_with_uncommitted_rows_then_commit) {
  two_rows();
  sql_run(a, "BEGIN; " INSERT "('c', '[1,1,1]'); DROP TABLE docs; COMMIT");
  sql_is(a, "0", "SELECT count(*) FROM sqlite_schema");
  two_rows();
  sql_run(a, "BEGIN; SELECT delta_apply('docs', 'a', delta_scale(2)); DROP TABLE docs; COMMIT");
  two_rows();
  sql_is(a, "ab", IDS);
  sql_agrees(a);
}
END_TEST

/* Dropped and made anew with other columns in one transaction; rolled back, then committed. */
START_TEST(drop_and_create_in_one_transaction) {
  two_rows();
  sql_run(a, "SELECT delta_apply('docs', 'a', delta_scale(2))");
  for (int i = 0; i < 2; i++) {
    sql_run(a, "BEGIN; " INSERT "('c', '[1,1,1]'); DROP TABLE docs;"
               "CREATE VIRTUAL TABLE docs USING delta_vectors(id TEXT PRIMARY KEY, vector FLOAT[2], n INTEGER);"
               "INSERT INTO docs(id, vector, n) VALUES('x', '[1,1]', 5)");
    sql_run(a, "SELECT delta_apply('docs', 'x', delta_scale(2))");
    sql_is(a, "x|[2,2]|5", "SELECT id, vector_json(vector), n FROM docs");
    sql_run(a, i ? "COMMIT" : "ROLLBACK");
    if (!i) sql_is(a, "a|[2,0,0] b|[0,1,0]", "SELECT id, vector_json(vector) FROM docs");
  }
  sql_is(a, "x|[2,2]|5", "SELECT id, vector_json(vector), n FROM docs");
  sql_agrees(a);
}
END_TEST

/* DROP behind a savepoint, then ROLLBACK TO it. With changes that only memory has, the DROP is refused with
 * SQLITE_LOCKED (SQLite has no place for a message there); otherwise the table is back. Either way nothing is lost. */
START_TEST(create_rename_and_drop_in_one_transaction) {
  for (int i = 0; i < 8; i++) {
    sqlite3 *c = sql_open(":memory:");
    sql_run(c, "BEGIN; CREATE VIRTUAL TABLE other USING delta_vectors(dimensions=2)");
    if (i & 1) sql_run(c, "INSERT INTO other(id, vector) VALUES('a', '[1,2]')");
    sql_run(c, "ALTER TABLE other RENAME TO another");
    if (i & 2) sql_run(c, "INSERT INTO another(id, vector) VALUES('b', '[1,2]')");
    sql_run(c, "DROP TABLE another");
    sql_run(c, i & 4 ? "COMMIT" : "ROLLBACK");
    sql_is(c, "0", "SELECT count(*) FROM sqlite_schema");
    sql_close(c); /* nothing of it is left open */
  }
}
END_TEST

START_TEST(drop_inside_savepoint_then_rollback_to) {
  two_rows();
  sql_run(a, "BEGIN; SAVEPOINT s; DROP TABLE docs; ROLLBACK TO s");
  sql_is(a, "ab", IDS);
  sql_run(a, INSERT "('c', '[1,1,1]')");
  sql_run(a, "SAVEPOINT s2; " INSERT "('d', '[1,1,1]')");
  char *message = NULL;
  int rc = sql_try(a, &message, "DROP TABLE docs");
  if (rc == SQLITE_OK) {
    sql_run(a, "ROLLBACK TO s2");
    sql_is(a, "abc", IDS);
    sql_run(a, INSERT "('d', '[1,1,1]')");
  } else {
    ck_assert_int_eq(rc, SQLITE_LOCKED);
    sql_is(a, "abcd", IDS);
  }
  sqlite3_free(message);
  sql_run(a, "COMMIT");
  sql_is(a, "abcd", IDS);
  sql_agrees(a);
}
END_TEST

/* SAVEPOINT as the transaction itself: DROP and ROLLBACK TO it. */
START_TEST(drop_inside_outermost_savepoint) {
  two_rows();
  sql_run(a, "SAVEPOINT s; " INSERT "('c', '[1,1,1]'); DROP TABLE docs; ROLLBACK TO s");
  sql_is(a, "ab", IDS);
  sql_run(a, INSERT "('d', '[1,1,1]'); RELEASE s");
  sql_is(a, "abd", IDS);
  sql_agrees(a);
}
END_TEST

/* A table cannot be dropped while it is being read: SQLITE_LOCKED, and the reader goes on. */
START_TEST(drop_while_reading) {
  two_rows();
  sqlite3_stmt *stmt = sql_prepare(a, "SELECT id FROM docs");
  ck_assert_int_eq(sqlite3_step(stmt), SQLITE_ROW);
  sql_fails(a, SQLITE_LOCKED, "locked", "DROP TABLE docs");
  ck_assert_int_eq(sqlite3_step(stmt), SQLITE_ROW);
  ck_assert_int_eq(sqlite3_finalize(stmt), SQLITE_OK);
  sql_is(a, "ab", IDS);
  sql_run(a, "DROP TABLE docs");
}
END_TEST

/* ---- reading while things change --------------------------------------------------------------------------------- */

/* Steps to the end; the number of rows still delivered. Errors fail the test. */
static int rest_of(sqlite3_stmt *stmt, const char *what) {
  int n = 0, rc;
  while ((rc = sqlite3_step(stmt)) == SQLITE_ROW) n++;
  ck_assert_msg(rc == SQLITE_DONE, "%s: %d %s", what, rc, sqlite3_errmsg(sqlite3_db_handle(stmt)));
  ck_assert_int_eq(sqlite3_finalize(stmt), SQLITE_OK);
  return n;
}

static const char *const readers[] = {
    "SELECT id, vector, metadata FROM docs",
    "SELECT id, distance, metadata FROM docs WHERE vector MATCH '[1,1,1]' AND k=20",
    "SELECT id, distance, vector FROM docs WHERE vector MATCH '[1,1,1]' ORDER BY distance",
    "SELECT id, distance, score FROM vector_search('docs', '[1,1,1]', 20)",
    "SELECT s.id, d.vector FROM vector_search('docs', '[1,1,1]', 20) AS s JOIN docs AS d ON d.id=s.id",
    "SELECT id, vector FROM docs WHERE as_of='2100-01-01'",
    "SELECT id, distance FROM docs WHERE vector MATCH '[1,1,1]' AND k=20 AND as_of='2100-01-01'",
    "SELECT seq, id, delta FROM delta_log('docs', 0)",
    "SELECT seq, delta FROM delta_chain('docs', 'a')",
    "SELECT id FROM docs WHERE id IN ('a','b','c','d','e')",
};
#define N_READERS (int)(sizeof readers / sizeof readers[0])

/* A SELECT that is open when ROLLBACK happens goes on to its end without an error. */
START_TEST(select_goes_on_after_rollback) {
  two_rows();
  sql_run(a, "UPDATE docs SET delta=delta_scale(1)");
  for (int how = 0; how < 4; how++) {
    sql_run(a, "BEGIN; " INSERT
               "('c', '[1,1,1]'), ('d', '[1,1,0]'), ('e', '[0,0,1]'); UPDATE docs SET delta=delta_scale(2)");
    if (how == 1) sql_run(a, "SAVEPOINT s; DELETE FROM docs WHERE id='c'");
    if (how == 2) sql_run(a, "SELECT delta_compact('docs', '{\"keep\":\"none\"}')");
    if (how == 3) sql_run(a, "INSERT INTO docs(docs) VALUES('optimize')");
    sqlite3_stmt *stmt = sql_prepare(a, "%s", readers[_i]);
    ck_assert_int_eq(sqlite3_step(stmt), SQLITE_ROW);
    sql_run(a, "ROLLBACK");
    int n = rest_of(stmt, readers[_i]);
    ck_assert_int_le(n, 20);
    sql_is(a, "ab", IDS);
    sql_is(a, "[1,0,0] [0,1,0]", "SELECT vector_json(vector) FROM docs");
  }
  sql_agrees(a);
}
END_TEST

/* The same with ROLLBACK TO. */
START_TEST(select_goes_on_after_rollback_to) {
  two_rows();
  sql_run(a, "BEGIN; SAVEPOINT s; " INSERT "('c', '[1,1,1]'), ('d', '[1,1,0]'); UPDATE docs SET delta=delta_scale(2)");
  sqlite3_stmt *stmt = sql_prepare(a, "%s", readers[_i]);
  ck_assert_int_eq(sqlite3_step(stmt), SQLITE_ROW);
  sql_run(a, "ROLLBACK TO s");
  rest_of(stmt, readers[_i]);
  sql_is(a, "ab", IDS);
  sql_run(a, "COMMIT");
  sql_agrees(a);
}
END_TEST

/* Rows are deleted, changed and added under an open SELECT of the same connection. */
START_TEST(select_goes_on_while_rows_change) {
  two_rows();
  sql_run(a, INSERT "('c', '[1,1,1]'), ('d', '[1,1,0]')");
  sqlite3_stmt *stmt = sql_prepare(a, "%s", readers[_i]);
  ck_assert_int_eq(sqlite3_step(stmt), SQLITE_ROW);
  sql_run(a, "DELETE FROM docs WHERE id IN ('c', 'd')");
  sql_run(a, "UPDATE docs SET delta=delta_scale(2)");
  sql_run(a, INSERT "('e', '[1,1,1]')");
  rest_of(stmt, readers[_i]);
  sql_is(a, "abe", IDS);
  sql_agrees(a);
}
END_TEST

/* The log is compacted, rebuilt and vacuumed away under an open SELECT of the same connection. */
START_TEST(select_goes_on_while_the_log_is_rewritten) {
  two_rows();
  sql_run(a,
          "UPDATE docs SET delta=delta_scale(2); UPDATE docs SET delta=delta_scale(0.5); " INSERT "('c', '[1,1,1]')");
  sql_run(a, "DELETE FROM docs WHERE id='b'");
  sqlite3_stmt *stmt = sql_prepare(a, "%s", readers[_i]);
  ck_assert_int_eq(sqlite3_step(stmt), SQLITE_ROW);
  sql_run(a, "SELECT delta_compact('docs', '{\"keep\":\"none\"}')");
  sql_run(a, "INSERT INTO docs(docs) VALUES('rebuild')");
  rest_of(stmt, readers[_i]);
  sql_is(a, "ac", IDS);
  sql_agrees(a);
}
END_TEST

/* delta_apply in the SELECT that walks the same table: every row changes once. */
START_TEST(delta_apply_in_a_select_on_the_same_table) {
  two_rows();
  sql_run(a, "SELECT delta_apply('docs', id, delta_scale(2)) FROM docs");
  sql_is(a, "[2,0,0] [0,2,0]", "SELECT vector_json(vector) FROM docs");
  sql_run(a, "BEGIN; SELECT delta_apply('docs', id, delta_scale(2)) FROM docs; ROLLBACK");
  sql_is(a, "[2,0,0] [0,2,0]", "SELECT vector_json(vector) FROM docs");
  sql_run(a, "UPDATE docs SET delta=delta_sparse('[0]', '[7]') WHERE id IN (SELECT id FROM vector_search('docs', "
             "'[0,2,0]', 1))");
  sql_is(a, "[2,0,0] [7,2,0]", "SELECT vector_json(vector) FROM docs");
  sql_agrees(a);
}
END_TEST

/* Statements that were prepared before DDL, VACUUM and ROLLBACK work afterwards. */
START_TEST(prepared_statements_live_on) {
  two_rows();
  sqlite3_stmt *stmts[N_READERS],
      *insert = sql_prepare(a, "INSERT OR REPLACE INTO docs(id, vector) VALUES('c', '[1,1,1]')");
  for (int i = 0; i < N_READERS; i++) stmts[i] = sql_prepare(a, "%s", readers[i]);
  for (int round = 0; round < 6; round++) {
    if (round == 1) sql_run(a, "CREATE TABLE other(x)");
    if (round == 2) sql_run(a, "VACUUM");
    if (round == 3) sql_run(a, "BEGIN; CREATE TABLE third(x); DELETE FROM docs; ROLLBACK");
    if (round == 4) {
      open_second();
      sql_run(b, "CREATE TABLE fourth(x); " INSERT "('q', '[5,5,5]')");
    }
    if (round == 5) sql_run(a, "ALTER TABLE docs RENAME TO d2; ALTER TABLE d2 RENAME TO docs");
    ck_assert_int_eq(sqlite3_step(insert), SQLITE_DONE);
    ck_assert_int_eq(sqlite3_reset(insert), SQLITE_OK);
    for (int i = 0; i < N_READERS; i++) {
      int rc, n = 0;
      while ((rc = sqlite3_step(stmts[i])) == SQLITE_ROW) n++;
      ck_assert_msg(rc == SQLITE_DONE && n > 0, "round %d: %s: %d %s", round, readers[i], rc, sqlite3_errmsg(a));
      ck_assert_int_eq(sqlite3_reset(stmts[i]), SQLITE_OK);
    }
  }
  for (int i = 0; i < N_READERS; i++) sqlite3_finalize(stmts[i]);
  sqlite3_finalize(insert);
  sql_is(a, "abcq", IDS);
  sql_agrees(a);
}
END_TEST

/* ---- vacuum, backup, copies, snapshots --------------------------------------------------------------------------- */

START_TEST(own_vacuum) {
  two_rows();
  sql_insert_many(a, "docs", 1, 500);
  sql_run(a, "DELETE FROM docs WHERE rowid %% 2; UPDATE docs SET delta=delta_scale(2)");
  open_second();
  char *before = sql_state(a, "main", "docs");
  sql_run(a, "VACUUM");
  char *after = sql_state(a, "main", "docs");
  ck_assert_str_eq(before, after);
  free(after);
  after = sql_state(b, "main", "docs");
  ck_assert_str_eq(before, after);
  sql_agrees(a);
  sql_run(a, INSERT "('z', '[1,1,1]')");
  sql_agrees(b);
  free(before);
  free(after);
}
END_TEST

/* VACUUM with another page size: the shape of packs and blocks was chosen when the table was made, and stays. */
START_TEST(vacuum_to_another_page_size) {
  if (is_wal()) return;
  two_rows();
  sql_insert_many(a, "docs", 1, 300);
  char *before = sql_state(a, "main", "docs");
  sql_run(a, "PRAGMA page_size=2048; VACUUM");
  sql_is(a, "2048", "PRAGMA page_size");
  char *after = sql_state(a, "main", "docs");
  ck_assert_str_eq(before, after);
  sql_insert_many(a, "docs", 301, 900);
  sql_run(a, "INSERT INTO docs(docs) VALUES('optimize')");
  sql_agrees(a);
  free(before);
  free(after);
}
END_TEST

START_TEST(vacuum_into_a_copy) {
  two_rows();
  sql_run(a, "UPDATE docs SET delta=delta_scale(2)");
  const char *copy = sql_path("copy.db");
  sql_run(a, "VACUUM INTO %Q", copy);
  char *here = sql_state(a, "main", "docs");
  b = sql_open(copy);
  char *there = sql_state(b, "main", "docs");
  ck_assert_str_eq(here, there);
  sql_run(b, INSERT "('c', '[1,1,1]')");
  sql_agrees(b);
  sql_is(a, "ab", IDS);
  free(here);
  free(there);
}
END_TEST

/* The database under a connection that has everything in memory is replaced through the backup API: by another table,
 * by an older copy of itself, and by a copy that went another way by deltas of the same size. */
START_TEST(backup_into_live_connection) {
  two_rows();
  const char *copy = sql_path("copy.db");
  sql_run(a, "VACUUM INTO %Q", copy);
  b = sql_open(copy);
  for (int round = 0; round < 4; round++) {
    if (round == 0) sql_run(a, INSERT "('c', '[1,1,1]')"); /* b is an older state of the same table */
    if (round == 1) {
      sql_run(a, INSERT "('x', '[2,2,2]')"); /* same length, other contents */
      sql_run(b, INSERT "('y', '[3,3,3]')");
    }
    if (round == 2) { /* both go on, b farther */
      sql_run(a, "UPDATE docs SET delta=delta_scale(2)");
      sql_run(b,
              "UPDATE docs SET delta=delta_scale(3); UPDATE docs SET delta=delta_scale(3); " INSERT "('w', '[4,4,4]')");
    }
    if (round == 3)
      sql_run(b,
              "DROP TABLE docs; CREATE VIRTUAL TABLE docs USING delta_vectors(dimensions=2);" INSERT "('z', '[1,2]')");
    sql_rows(a, IDS);
    if (round < 3) sql_rows(a, NEAREST);
    sql_run(a, "SELECT delta_status('docs')");
    sqlite3_backup *backup = sqlite3_backup_init(a, "main", b, "main");
    ck_assert_msg(backup != NULL, "%s", sqlite3_errmsg(a));
    ck_assert_int_eq(sqlite3_backup_step(backup, -1), SQLITE_DONE);
    ck_assert_int_eq(sqlite3_backup_finish(backup), SQLITE_OK);
    char *here = sql_state(a, "main", "docs"), *there = sql_state(b, "main", "docs");
    ck_assert_msg(strcmp(here, there) == 0, "round %d:\n%s\n%s", round, here, there);
    free(here);
    free(there);
    sql_agrees(a);
  }
}
END_TEST

/* A backup of a database that is being written to, page by page, is one consistent state. */
START_TEST(backup_of_a_live_database) {
  two_rows();
  sql_insert_many(a, "docs", 1, 200);
  const char *copy = sql_path("copy.db");
  b = sql_open_flags(copy, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE);
  sqlite3_backup *backup = sqlite3_backup_init(b, "main", a, "main");
  for (int i = 0; i < 1000; i++) {
    int rc = sqlite3_backup_step(backup, 5);
    if (rc == SQLITE_DONE) break;
    ck_assert_int_eq(rc, SQLITE_OK);
    if (i < 20) sql_insert_many(a, "docs", 1000 + i, 1000 + i);
  }
  ck_assert_int_eq(sqlite3_backup_finish(backup), SQLITE_OK);
  char *here = sql_state(a, "main", "docs"), *there = sql_state(b, "main", "docs");
  ck_assert_str_eq(here, there);
  sql_sound(b);
  free(here);
  free(there);
}
END_TEST

/* sqlite3_deserialize() swaps the whole database under a live connection. */
START_TEST(deserialize_into_live_connection) {
  two_rows();
  sql_close(a);
  sql_profile_now = &sql_default; /* a database in memory has no WAL */
  a = sql_open(":memory:");
  b = sql_open(":memory:");
  two_rows();
  sql_create_docs(b, 3);
  sql_run(b, INSERT "('p', '[1,0,0]'), ('q', '[0,1,0]'), ('r', '[0,0,1]')");
  sql_rows(a, NEAREST);
  sql_run(a, "SELECT delta_apply('docs', 'a', delta_scale(2))");
  sqlite3_int64 n = 0;
  unsigned char *bytes = sqlite3_serialize(b, "main", &n, 0);
  ck_assert(bytes != NULL);
  ck_assert_int_eq(
      sqlite3_deserialize(a, "main", bytes, n, n, SQLITE_DESERIALIZE_FREEONCLOSE | SQLITE_DESERIALIZE_RESIZEABLE),
      SQLITE_OK);
  sql_is(a, "pqr", IDS);
  sql_is(a, "r p q", "SELECT id FROM vector_search('docs', '[0.1,0,1]', 5)");
  sql_run(a, "SELECT delta_apply('docs', 'p', delta_scale(2)); " INSERT "('s', '[1,1,1]')");
  sql_is(a, "pqrs", IDS);
  sql_sound(a);
}
END_TEST

/* sqlite3_snapshot_open() to an older state and back to the present. */
#pragma weak sqlite3_snapshot_get
#pragma weak sqlite3_snapshot_open
#pragma weak sqlite3_snapshot_free

START_TEST(snapshot_into_the_past) {
  if (!is_wal() || !sqlite3_snapshot_get) return; /* this SQLite was built without SQLITE_ENABLE_SNAPSHOT */
  two_rows();
  open_second();
  sqlite3_snapshot *old = NULL;
  sql_run(a, "PRAGMA wal_autocheckpoint=0");
  sql_run(b, "PRAGMA wal_autocheckpoint=0; BEGIN; SELECT * FROM sqlite_schema");
  ck_assert_int_eq(sqlite3_snapshot_get(b, "main", &old), SQLITE_OK);
  sql_run(b, "COMMIT");
  for (int i = 0; i < 3; i++) {
    sql_run(a, INSERT "('n%d', '[1,1,1]'); DELETE FROM docs WHERE id='a'", i);
    if (i == 2) sql_run(a, "SELECT delta_compact('docs', '{\"keep\":\"none\"}')");
    sql_is(b, "b", "SELECT id FROM docs WHERE vector MATCH '[0,1,0]' AND k=1");
    sql_run(b, "BEGIN");
    ck_assert_int_eq(sqlite3_snapshot_open(b, "main", old), SQLITE_OK);
    sql_is(b, "ab", IDS);
    sql_is(b, "a", "SELECT id FROM docs WHERE vector MATCH '[1,0,0]' AND k=1");
    sql_is(b, "a b", "SELECT id FROM vector_search('docs', '[1,0,0]', 10)");
    sql_fails(b, SQLITE_BUSY, "locked", INSERT "('no', '[1,1,1]')");
    sql_run(b, "COMMIT");
    char *here = sql_state(a, "main", "docs"), *there = sql_state(b, "main", "docs");
    ck_assert_str_eq(here, there);
    free(here);
    free(there);
  }
  sqlite3_snapshot_free(old);
  sql_agrees(a);
}
END_TEST

/* What the sqlite3 shell's .dump writes, with the virtual table as a line of sqlite_schema and its shadow tables as
 * plain ones. */
static char *dump_of(sqlite3 *db) {
  char *all = sqlite3_mprintf("PRAGMA foreign_keys=OFF; BEGIN; PRAGMA writable_schema=ON;\n");
  sqlite3_stmt *s =
      sql_prepare(db, "SELECT name, sql, type FROM sqlite_schema WHERE sql IS NOT NULL AND name NOT LIKE 'sqlite_%%'"
                      " ORDER BY type='index', rowid");
  while (sqlite3_step(s) == SQLITE_ROW) {
    const char *name = (const char *)sqlite3_column_text(s, 0), *sql = (const char *)sqlite3_column_text(s, 1);
    if (strncmp(sql, "CREATE VIRTUAL TABLE", 20) == 0) {
      all =
          sqlite3_mprintf("%zINSERT INTO sqlite_schema(type,name,tbl_name,rootpage,sql) VALUES('table',%Q,%Q,0,%Q);\n",
                          all, name, name, sql);
      continue;
    }
    all = sqlite3_mprintf("%z%s;\n", all, sql);
    if (strcmp((const char *)sqlite3_column_text(s, 2), "table") != 0) continue;
    char columns[1024];
    snprintf(
        columns, sizeof columns, "%s",
        sql_rows(db, "SELECT group_concat('quote(\"' || name || '\")', '||'',''||') FROM pragma_table_info(%Q)", name));
    sqlite3_stmt *rows = sql_prepare(db, "SELECT %s FROM \"%w\"", columns, name);
    while (sqlite3_step(rows) == SQLITE_ROW) {
      all =
          sqlite3_mprintf("%zINSERT INTO \"%w\" VALUES(%s);\n", all, name, (const char *)sqlite3_column_text(rows, 0));
    }
    sqlite3_finalize(rows);
  }
  sqlite3_finalize(s);
  return sqlite3_mprintf("%zPRAGMA writable_schema=OFF; COMMIT;\n", all);
}

START_TEST(dump_and_reload) {
  two_rows();
  sql_insert_many(a, "docs", 1, 60);
  sql_run(a, "UPDATE docs SET delta=delta_scale(2), metadata='{\"it''s\":1}' WHERE id IN ('a','r3'); DELETE FROM docs "
             "WHERE id='b'");
  sql_run(a, "CREATE VIRTUAL TABLE items USING delta_vectors(embedding FLOAT[2] distance_metric=cosine, n INTEGER, "
             "+body TEXT)");
  sql_run(a, "INSERT INTO items(embedding, n, body) VALUES('[1,2]', 5, 'x''y'), ('[2,1]', NULL, 'z')");
  sql_run(a, "INSERT INTO docs(docs) VALUES('optimize')");
  char *dump = dump_of(a);
  b = sql_open(sql_path("reloaded.db"));
  sql_run(b, "%s", dump);
  sqlite3_free(dump);
  sql_close(b); /* SQLite itself sees lines written to sqlite_schema only when it reads the schema anew */
  b = sql_open(sql_path("reloaded.db"));
  for (int table = 0; table < 2; table++) {
    const char *name = table ? "items" : "docs";
    char *here = sql_state(a, "main", name), *there = sql_state(b, "main", name);
    ck_assert_str_eq(here, there);
    sql_sound_at(__LINE__, b, "main", name);
    free(here);
    free(there);
  }
  sql_run(b, INSERT "('new', '[1,1,1]'); SELECT delta_apply('docs', 'a', delta_scale(3))");
  sql_agrees(b);
}
END_TEST

/* ---- other connections, attached files --------------------------------------------------------------------------- */

static const char *const uses[] = {
    "SELECT count(*), hex(vector) FROM docs WHERE id='a'",
    "SELECT id FROM docs WHERE vector MATCH '[1,1,1]' AND k=3",
    "SELECT * FROM vector_search('docs', '[1,1,1]', 3, '{\"exact\":true}')",
    "SELECT * FROM vector_search('main.docs', '[1,1,1]', 3, '{\"as_of\":\"2100-01-01\"}')",
    "SELECT vector_at('docs', 'a')",
    "SELECT vector_at('docs', 'a', '2100-01-01')",
    "SELECT * FROM delta_chain('docs', 'a')",
    "SELECT * FROM delta_log('docs', 0)",
    "SELECT delta_export('docs', 0)",
    "SELECT delta_status('docs')",
    "SELECT delta_recall('docs', 5, 2)",
    "SELECT delta_apply('docs', 'a', delta_scale(1))",
    "SELECT delta_apply('docs', 'a', delta_scale(1), '2100-01-01', '{\"metadata\":\"1\"}')",
    "SELECT delta_apply_batch('docs', x'')",
    "SELECT delta_rollback('docs', 'b', 2)",
    "SELECT delta_import('docs', delta_export('docs', 0))",
    "SELECT delta_compact('docs', '{\"keep\":\"none\"}')",
    "INSERT INTO docs(docs) VALUES('optimize')",
    "INSERT INTO docs(docs) VALUES('integrity-check')",
    "INSERT OR REPLACE INTO docs(id, vector, metadata) VALUES('c', '[1,1,1]', '{\"y\":2}')",
    "UPDATE docs SET metadata='{}' WHERE id='b'",
};

/* Another connection changes the schema between two statements: ours is made anew under every function, without an
 * error. */
START_TEST(other_connections_ddl) {
  two_rows();
  open_second();
  static const char *const ddl[] = {"CREATE TABLE more(x)",
                                    "CREATE INDEX i ON more(x); ANALYZE",
                                    "VACUUM",
                                    "DROP TABLE more",
                                    "CREATE VIRTUAL TABLE other USING delta_vectors(dimensions=2)",
                                    "DROP TABLE other"};
  for (size_t i = 0; i < sizeof ddl / sizeof ddl[0]; i++) {
    sql_run(b, "%s", ddl[i]);
    sql_run(a, "%s", uses[_i]);
    sql_run(b, "%s", ddl[i][0] == 'V' ? "VACUUM" : "PRAGMA user_version=1");
    sql_run(a, "%s", uses[_i]);
  }
  sql_agrees(a);
}
END_TEST

/* Another connection drops the table and makes another one of that name: ours serves the new one, without a detour. */
START_TEST(other_connection_replaces_the_table) {
  two_rows();
  sql_run(a, "SELECT delta_apply('docs', 'a', delta_scale(1))");
  open_second();
  sql_run(b, "SELECT delta_apply('docs', 'a', delta_scale(1))");
  sql_run(a, "DROP TABLE docs; CREATE VIRTUAL TABLE docs USING delta_vectors(id TEXT PRIMARY KEY, vector FLOAT[3], "
             "metadata TEXT,"
             "c1 TEXT, c2 TEXT, c3 TEXT, c4 TEXT, c5 TEXT, c6 TEXT, c7 TEXT, c8 TEXT)");
  sql_run(a, INSERT "('a', '[1,0,0]'), ('b', '[0,1,0]')");
  sql_run(b, "%s", uses[_i]);
  sql_agrees(b);
  sql_run(a, "DROP TABLE docs; CREATE VIRTUAL TABLE docs USING delta_vectors(dimensions=3, metric=l1)");
  sql_run(a, INSERT "('a', '[1,0,0]'), ('b', '[0,1,0]')");
  sql_run(b, "%s", uses[_i]);
  sql_agrees(b);
}
END_TEST

/* An export of a table with ten columns is imported by a connection that still knows a table with none under that
 * name. */
START_TEST(import_into_a_table_that_was_replaced) {
  sql_run(a, "CREATE VIRTUAL TABLE docs USING delta_vectors(id TEXT PRIMARY KEY, vector FLOAT[3])");
  open_second();
  sql_run(a, "DROP TABLE docs; CREATE VIRTUAL TABLE docs USING delta_vectors(id TEXT PRIMARY KEY, vector FLOAT[3],"
             "c0 TEXT, c1 TEXT, c2 TEXT, c3 TEXT, c4 TEXT, c5 TEXT, c6 TEXT, c7 TEXT, c8 TEXT, c9 TEXT)");
  sql_run(a, "INSERT INTO docs VALUES('a','[1,2,3]','0','1','2','3','4','5','6','7','8','9')");
  char *export = sqlite3_mprintf("%s", sql_rows(a, "SELECT quote(delta_export('docs', 0))"));
  sql_run(a, "DROP TABLE docs; CREATE VIRTUAL TABLE docs USING delta_vectors(id TEXT PRIMARY KEY, vector FLOAT[3],"
             "c0 TEXT, c1 TEXT, c2 TEXT, c3 TEXT, c4 TEXT, c5 TEXT, c6 TEXT, c7 TEXT, c8 TEXT, c9 TEXT)");
  sql_run(b, "SELECT delta_import('docs', %s)", export);
  sql_is(b, "a|9", "SELECT id, c9 FROM docs");
  sqlite3_free(export);
  sql_agrees(b);
}
END_TEST

/* Another file under the same schema name, with a table of the same name: other rows, other columns, and a clean
 * close. */
START_TEST(detach_attach_other_file_same_name) {
  const char *one = sql_path("one.db"), *two = sql_path("two.db"), *three = sql_path("three.db");
  sqlite3 *db = sql_open(one);
  sql_create_docs(db, 3);
  sql_run(db, INSERT "('one', '[1,0,0]')");
  sql_close(db);
  sql_copy_file(one, two); /* the same table, to begin with */
  db = sql_open(two);
  sql_run(db, INSERT "('two', '[0,1,0]')");
  sql_close(db);
  db = sql_open(three);
  sql_create_docs(db, 2);
  sql_run(db, INSERT "('three', '[0,1]')");
  sql_close(db);
  for (int round = 0; round < 2; round++) {
    sql_run(a, "ATTACH %Q AS x", one);
    sql_is(a, "one", "SELECT id FROM x.docs");
    sql_run(a, "SELECT delta_apply('x.docs', 'one', delta_scale(1)); SELECT id FROM vector_search('x.docs', '[1,1,1]', "
               "3); DETACH x");
    sql_fails(a, SQLITE_ERROR, "no such", "SELECT delta_apply('x.docs', 'one', delta_scale(1))");
    sql_run(a, "ATTACH %Q AS x", two);
    sql_is(a, "one two", "SELECT id FROM x.docs");
    sql_is(a, "two one", "SELECT id FROM vector_search('x.docs', '[0,1,0]', 3)");
    sql_run(a, "SELECT delta_apply('x.docs', 'two', delta_scale(1)); DETACH x");
    sql_run(a, "ATTACH %Q AS x", three);
    sql_is(a, "three", "SELECT id FROM x.docs");
    sql_run(a, "SELECT delta_apply('x.docs', 'three', delta_scale(1))");
    sql_is(a, "three", "SELECT id FROM vector_search('x.docs', '[0,1]', 3)");
    sql_sound_at(__LINE__, a, "x", "docs");
    sql_run(a, "DETACH x");
  }
}
END_TEST

/* Only read, a file leaves no trace that would tell it from the next one: their data versions are the same. So it is with
 * and without a statement that the application still holds, whichever way the second one is looked at. */
START_TEST(detach_attach_other_file_only_read) {
  const char *paths[] = {sql_path("one.db"), sql_path("two.db")};
  for (int i = 0; i < 2; i++) {
    sqlite3 *db = sql_open(paths[i]);
    sql_create_docs(db, 3);
    sql_run(db, INSERT "('%d', '[%d,0,0]'); CREATE TABLE other(id); INSERT INTO other VALUES('%d')", i, i + 1, i);
    sql_close(db);
  }
  static const char *const looks[] = {
      "SELECT id || vector_json(vector) FROM x.docs",
      "SELECT id || vector_json(vector_at('x.docs', id)) FROM x.docs",
      "SELECT id || vector_json(vector_at('x.docs', id)) FROM x.other",
      "SELECT id || vector_json(vector_at('x.docs', id)) FROM vector_search('x.docs', '[1,0,0]')",
      "SELECT id || (SELECT vector_json(delta_patch('[0,0,0]', delta)) FROM delta_chain('x.docs', id)) FROM x.other",
  };
  enum { N_LOOKS = sizeof looks / sizeof looks[0] };
  for (int is_held = 0; is_held < 2; is_held++) {
    for (int first = 0; first < N_LOOKS; first++) {
      for (int second = 0; second < N_LOOKS; second++) {
        sqlite3_stmt *held = NULL;
        sql_run(a, "ATTACH %Q AS x", paths[0]);
        sql_is(a, "0[1,0,0]", "%s", looks[first]);
        if (is_held) held = sql_prepare(a, "SELECT id FROM x.docs");
        sql_run(a, "DETACH x; ATTACH %Q AS x", paths[1]);
        sql_is(a, "1[2,0,0]", "%s", looks[second]);
        sql_run(a, "DETACH x");
        sqlite3_finalize(held);
      }
    }
    for (int i = 0; i < 2; i++) { /* the same file, which another connection has written to meanwhile */
      sqlite3_stmt *held = NULL;
      sql_run(a, "ATTACH %Q AS x", paths[0]);
      sql_is(a, "0[1,0,0]", "%s", looks[0]);
      if (is_held) held = sql_prepare(a, "SELECT id FROM x.docs");
      sql_run(a, "DETACH x");
      sqlite3 *db = sql_open(paths[0]);
      sql_run(db, "UPDATE docs SET vector='[9,0,0]'");
      sql_run(a, "ATTACH %Q AS x", paths[0]);
      sql_is(a, "0[9,0,0]", "%s", looks[i]);
      sql_run(a, "SELECT delta_apply('x.docs', '0', delta_dense('[1,0,0]'))");
      sql_is(a, "0[1,0,0]", "%s", looks[i]);
      sql_run(a, "DETACH x");
      sql_close(db);
      sqlite3_finalize(held);
    }
    sql_run(a, "ATTACH %Q AS x", paths[0]);
    sql_is(a, "0[1,0,0]", "%s", looks[0]);
    sqlite3_stmt *held = is_held ? sql_prepare(a, "SELECT id FROM x.docs") : NULL;
    sql_run(a, "DETACH x; ATTACH %Q AS x", paths[1]);
    sql_fails(a, SQLITE_ERROR, "row '0' does not exist", "SELECT delta_apply('x.docs', '0', delta_scale(2))");
    sql_run(a, "SELECT delta_apply('x.docs', '1', delta_dense('[2,0,0]'))");
    sql_is(a, "1[2,0,0]", "%s", looks[0]);
    sql_sound_at(__LINE__, a, "x", "docs");
    sql_run(a, "DETACH x");
    sqlite3_finalize(held);
  }
}
END_TEST

/* The same of sqlite3_deserialize(), which is a DETACH and ATTACH of main. */
START_TEST(deserialize_only_read) {
  sql_close(a);
  sql_profile_now = &sql_default;
  a = sql_open(":memory:");
  unsigned char *images[2];
  sqlite3_int64 sizes[2];
  for (int i = 0; i < 2; i++) {
    b = sql_open(":memory:");
    sql_create_docs(b, 3);
    sql_run(b, INSERT "('%d', '[%d,0,0]')", i, i + 1);
    images[i] = sqlite3_serialize(b, "main", &sizes[i], 0);
    sql_close(b);
  }
  b = NULL;
  for (int round = 0; round < 4; round++) {
    ck_assert_int_eq(sqlite3_deserialize(a, "main", images[round % 2], sizes[round % 2], sizes[round % 2],
                                         SQLITE_DESERIALIZE_READONLY),
                     SQLITE_OK);
    if (round & 2)
      sql_is(a, round % 2 ? "[2,0,0]" : "[1,0,0]", "SELECT vector_json(vector_at('docs', '%d'))", round % 2);
    sql_is(a, round % 2 ? "1" : "0", IDS);
    sqlite3_stmt *held = sql_prepare(a, "SELECT id FROM docs");
    ck_assert_int_eq(sqlite3_deserialize(a, "main", images[round % 2 ^ 1], sizes[round % 2 ^ 1], sizes[round % 2 ^ 1],
                                         SQLITE_DESERIALIZE_READONLY),
                     SQLITE_OK);
    if (round & 2)
      sql_is(a, round % 2 ? "[1,0,0]" : "[2,0,0]", "SELECT vector_json(vector_at('docs', '%d'))", round % 2 ^ 1);
    sql_is(a, round % 2 ? "0" : "1", IDS);
    sqlite3_finalize(held);
  }
  sql_close(a);
  a = NULL;
  for (int i = 0; i < 2; i++) sqlite3_free(images[i]);
}
END_TEST

/* One file under two schema names: what is written through one is seen through the other. */
START_TEST(one_file_attached_twice) {
  two_rows();
  sql_run(a, "ATTACH %Q AS x", file);
  sql_is(a, "a b", "SELECT id FROM x.docs");
  sql_run(a, "INSERT INTO main.docs(id, vector) VALUES('c', '[1,1,1]')");
  sql_is(a, "a b c", "SELECT id FROM x.docs");
  sql_is(a, "c", "SELECT id FROM vector_search('x.docs', '[1,1,1]', 1)");
  sql_run(a, "SELECT delta_apply('x.docs', 'a', delta_scale(2)); DELETE FROM x.docs WHERE id='b'");
  sql_is(a, "[2,0,0] [1,1,1]", "SELECT vector_json(vector) FROM main.docs");
  sql_run(a, "SELECT delta_compact('x.docs', '{\"keep\":\"none\"}')");
  char *here = sql_state(a, "main", "docs"), *there = sql_state(a, "x", "docs");
  ck_assert_str_eq(here, there);
  free(here);
  free(there);
  if (is_wal()) { /* readers go on beside a writer */
    sql_run(a, "BEGIN; INSERT INTO main.docs(id, vector) VALUES('d', '[0,0,0]')");
    sql_is(a, "a c", "SELECT id FROM x.docs");
    sql_run(a, "ROLLBACK");
    sql_is(a, "a c", "SELECT id FROM main.docs");
  }
  sql_sound_at(__LINE__, a, "x", "docs");
  sql_agrees(a);
}
END_TEST

/* A trigger that somebody has put on a shadow table: its statement is a savepoint to SQLite, in the middle of writing a
 * transaction with more pending than a savepoint need keep. The commit was refused, with "bad parameter or other API
 * misuse". */
START_TEST(trigger_on_a_shadow_table) {
  enum { WIDE = 4096, N = 80 }; /* 1.25 MiB */
  sql_run(a, "CREATE VIRTUAL TABLE docs USING delta_vectors(dimensions=%d, metric=l2, compression=off)", WIDE);
  sql_run(a, "CREATE TABLE audit(vid); CREATE TRIGGER t AFTER INSERT ON docs_row BEGIN INSERT INTO audit "
             "VALUES(coalesce(new.vid, 0)); UPDATE audit SET vid=vid; END");
  for (int is_undone = 0; is_undone < 2; is_undone++) {
    sql_run(a, "BEGIN");
    for (int i = 0; i < N; i++)
      sql_run(a, "INSERT INTO docs(id, vector) VALUES('%d %d', zeroblob(%d))", is_undone, i, 4 * WIDE);
    if (is_undone)
      sql_run(a, "SAVEPOINT s; DELETE FROM docs; ROLLBACK TO s; INSERT INTO docs(id, vector) VALUES('x', zeroblob(%d))",
              4 * WIDE);
    sql_run(a, "COMMIT");
  }
  sql_is(a, "161|161|161",
         "SELECT count(*), (SELECT count(*) FROM audit), (SELECT max(seq) FROM delta_log('docs')) FROM docs");
  sql_agrees(a);
}
END_TEST

/* vector_search and the other functions on a table of an attached file read one snapshot, whatever others commit
 * meanwhile. */
START_TEST(table_valued_function_on_attached_table) {
  if (!is_wal()) return; /* elsewhere the writer would get BUSY */
  const char *other = sql_path("other.db");
  b = sql_open(other);
  sql_create_docs(b, 3);
  sql_run(b, INSERT "('a', '[1,0,0]'), ('b', '[0,1,0]'), ('c', '[0,0,1]')");
  sql_run(a, "ATTACH %Q AS x", other);
  static const char *const functions[] = {
      "SELECT s.id || vector_json(vector_at('x.docs', s.id)) FROM vector_search('x.docs', '[1,0.1,0]', 10) AS s",
      ("SELECT s.id || vector_json(d.vector) FROM vector_search('x.docs', '[1,0.1,0]', 10) AS s CROSS JOIN x.docs AS d "
       "ON d.id=s.id"),
      "SELECT l.id || vector_json(vector_at('x.docs', l.id)) FROM delta_log('x.docs', 0) AS l",
  };
  for (size_t i = 0; i < sizeof functions / sizeof functions[0]; i++) {
    sqlite3_stmt *stmt = sql_prepare(a, "%s", functions[i]);
    ck_assert_int_eq(sqlite3_step(stmt), SQLITE_ROW);
    ck_assert_str_eq((const char *)sqlite3_column_text(stmt, 0), "a[1,0,0]");
    sql_run(b, "UPDATE docs SET delta=delta_scale(2); DELETE FROM docs WHERE id='c'; SELECT delta_compact('docs', "
               "'{\"keep\":\"none\"}')");
    ck_assert_int_eq(sqlite3_step(stmt), SQLITE_ROW);
    ck_assert_str_eq((const char *)sqlite3_column_text(stmt, 0), "b[0,1,0]");
    ck_assert_int_eq(sqlite3_step(stmt), SQLITE_ROW);
    ck_assert_str_eq((const char *)sqlite3_column_text(stmt, 0), "c[0,0,1]");
    ck_assert_int_eq(sqlite3_step(stmt), SQLITE_DONE);
    sqlite3_finalize(stmt);
    sql_is(a, "[2,0,0] [0,2,0]", "SELECT vector_json(vector) FROM x.docs");
    sql_run(b, "DROP TABLE docs");
    sql_create_docs(b, 3);
    sql_run(b, INSERT "('a', '[1,0,0]'), ('b', '[0,1,0]'), ('c', '[0,0,1]')");
  }
}
END_TEST

/* A read on another table of the attached file is open when the search begins, and ends before the search does. */
START_TEST(search_that_outlives_the_read_it_began_in) {
  if (!is_wal()) return;
  const char *other = sql_path("other.db");
  b = sql_open(other);
  sql_create_docs(b, 3);
  sql_run(b, "CREATE TABLE plain(x); INSERT INTO plain VALUES(1),(2);" INSERT
             "('a', '[1,0,0]'), ('b', '[0,1,0]'), ('c', '[0,0,1]')");
  sql_run(a, "ATTACH %Q AS x", other);
  sqlite3_stmt *plain = sql_prepare(a, "SELECT * FROM x.plain");
  ck_assert_int_eq(sqlite3_step(plain), SQLITE_ROW);
  sqlite3_stmt *stmt = sql_prepare(a, "SELECT id FROM vector_search('x.docs', '[1,0.1,0]', 10)");
  ck_assert_int_eq(sqlite3_step(stmt), SQLITE_ROW);
  sqlite3_finalize(plain);
  sql_run(b, "DELETE FROM docs WHERE id='c'; " INSERT
             "('d', '[5,5,5]'); SELECT delta_compact('docs', '{\"keep\":\"none\"}')");
  sql_rows(a, "SELECT id, hex(vector) FROM x.docs"); /* of either snapshot, but without an error */
  ck_assert_int_eq(sqlite3_step(stmt), SQLITE_ROW);
  sqlite3_finalize(stmt);
  sql_is(a, "a b d", "SELECT id FROM x.docs");
}
END_TEST

/* A name without a schema means the table that SQLite would take: temp, main, then attached ones. */
START_TEST(names_resolve_as_in_sql) {
  const char *other = sql_path("other.db");
  sql_run(a, "ATTACH %Q AS x", other);
  sql_run(a, "CREATE VIRTUAL TABLE x.docs USING delta_vectors(dimensions=3); INSERT INTO x.docs(id, vector) "
             "VALUES('x', '[1,1,1]')");
  sql_is(a, "x", "SELECT id FROM delta_log('docs', 0)");
  two_rows();
  sql_is(a, "a b", "SELECT id FROM delta_log('docs', 0)");
  sql_is(a, "x", "SELECT id FROM delta_log('x.docs', 0)");
  sql_run(a, "CREATE VIRTUAL TABLE temp.docs USING delta_vectors(dimensions=3); INSERT INTO temp.docs(id, vector) "
             "VALUES('t', '[1,1,1]')");
  sql_is(a, "t", "SELECT id FROM delta_log('docs', 0)");
  sql_is(a, "a b", "SELECT id FROM delta_log('main.docs', 0)");
  sql_run(a, "DROP TABLE temp.docs");
  sql_is(a, "a b", "SELECT id FROM delta_log('DOCS', 0)");
  sql_run(a, "DROP TABLE main.docs");
  sql_is(a, "x", "SELECT id FROM delta_log('docs', 0)");
  sql_run(a, "CREATE VIRTUAL TABLE \"x.docs\" USING delta_vectors(dimensions=3)");
  sql_is(a, "0", "SELECT count(*) FROM delta_log('x.docs', 0)"); /* an exact table name wins */
}
END_TEST

/* ---- where it may not write -------------------------------------------------------------------------------------- */

static void assert_reads_work(sqlite3 *db) {
  sql_is(db, "ab", IDS);
  sql_is(db, "a b", "SELECT id FROM docs WHERE vector MATCH '[1,0,0]' AND k=5");
  sql_is(db, "a b", "SELECT id FROM vector_search('docs', '[1,0,0]', 5)");
  sql_is(db, "[1,0,0]", "SELECT vector_json(vector_at('docs', 'a', '2100-01-01'))");
  sql_is(db, "2", "SELECT count(*) FROM delta_log('docs', 0)");
  sql_is(db, "1", "SELECT length(delta_export('docs', 0)) > 10");
  sql_is(db, "2", "SELECT json_extract(delta_status('docs'), '$.rows')");
  sql_is(db, "1.0", "SELECT delta_recall('docs', 10, 2)");
}

static void assert_writes_fail(sqlite3 *db, int rc, const char *part) {
  sql_fails(db, rc, part, INSERT "('c', '[1,1,1]')");
  sql_fails(db, rc, part, "UPDATE docs SET metadata='{}'");
  sql_fails(db, rc, part, "DELETE FROM docs");
  sql_fails(db, rc, part, "SELECT delta_apply('docs', 'a', delta_scale(2))");
  sql_fails(db, rc, part, "SELECT delta_compact('docs', '{\"keep\":\"none\"}')");
  sql_fails(db, rc, part, "SELECT delta_import('docs', delta_export('docs', 0))");
  sql_fails(db, rc, part, "SELECT delta_rollback('docs', 'a', 1)");
  sql_fails(db, rc, part, "INSERT INTO docs(docs) VALUES('optimize')");
  sql_fails(db, rc, part, "DROP TABLE docs");
  sql_fails(db, rc, part, "ALTER TABLE docs RENAME TO d2");
}

/* Everything that reads works on a file that must not be written, everything else says "readonly". */
START_TEST(read_only_file) {
  two_rows();
  sql_close(a);
  a = sql_open_flags(file, SQLITE_OPEN_READONLY);
  assert_reads_work(a);
  assert_writes_fail(a, SQLITE_READONLY, "readonly");
  assert_reads_work(a);
  sql_close(a);
  char *uri = sqlite3_mprintf("file:%s?immutable=1", file);
  a = sql_open_flags(uri, SQLITE_OPEN_READONLY | SQLITE_OPEN_URI);
  sqlite3_free(uri);
  assert_reads_work(a);
  assert_writes_fail(a, SQLITE_READONLY, "readonly");
  sql_sound(a);
}
END_TEST

START_TEST(query_only) {
  two_rows();
  sql_run(a, "PRAGMA query_only=ON");
  assert_reads_work(a);
  assert_writes_fail(a, SQLITE_READONLY, "readonly");
  assert_reads_work(a);
  sql_run(a, "PRAGMA query_only=OFF; " INSERT "('c', '[1,1,1]')");
  sql_is(a, "abc", IDS);
  sql_agrees(a);
}
END_TEST

/* ---- temp, memory ------------------------------------------------------------------------------------------------ */

static void all_of_life(sqlite3 *db, const char *schema) {
  sql_run(db, "CREATE VIRTUAL TABLE \"%w\".docs USING delta_vectors(dimensions=3, metric=l2)", schema);
  sql_run(db, INSERT "('a', '[1,0,0]'), ('b', '[0,1,0]')");
  sql_run(db, "BEGIN; " INSERT "('c', '[1,1,1]'); ROLLBACK");
  sql_run(db, "SELECT delta_apply('docs', 'a', delta_scale(2))");
  sql_run(db, "SAVEPOINT s; DELETE FROM docs; ROLLBACK TO s; RELEASE s");
  sql_is(db, "a|[2,0,0] b|[0,1,0]", "SELECT id, vector_json(vector) FROM docs");
  sql_is(db, "b a", "SELECT id FROM vector_search('docs', '[0,1,0]', 5)");
  sql_run(db, "INSERT INTO docs(docs) VALUES('optimize'); SELECT delta_compact('docs', '{\"keep\":\"none\"}')");
  sql_sound_at(__LINE__, db, schema, "docs");
  sql_run(db, "VACUUM");
  sql_is(db, "a|[2,0,0] b|[0,1,0]", "SELECT id, vector_json(vector) FROM docs");
  sql_run(db, "ALTER TABLE docs RENAME TO d2");
  sql_is(db, "b a", "SELECT id FROM vector_search('d2', '[0,1,0]', 5)");
  sql_run(db, "DROP TABLE d2");
  sql_is(db, "0", "SELECT count(*) FROM \"%w\".sqlite_schema", schema);
}

START_TEST(temp_table) { all_of_life(a, "temp"); }
END_TEST

START_TEST(memory_database) {
  sql_close(a);
  a = sql_open(":memory:");
  all_of_life(a, "main");
  sql_run(a, "ATTACH ':memory:' AS second");
  all_of_life(a, "second");
}
END_TEST

/* ---- protection -------------------------------------------------------------------------------------------------- */

/* With defensive mode on, everything works as without. */
START_TEST(defensive_mode) {
  ck_assert_int_eq(sqlite3_db_config(a, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL), SQLITE_OK);
  all_of_life(a, "main");
  two_rows();
  open_second();
  sql_run(a, "BEGIN; " INSERT "('c', '[1,1,1]'); SELECT delta_apply_batch('docs', delta_export('docs', 99)); COMMIT");
  sql_run(a, "SELECT delta_compact('docs', '{\"keep\":\"none\"}'); INSERT INTO docs(docs) VALUES('rebuild')");
  sql_agrees(a);
}
END_TEST

/* SQLite knows every shadow table as one; in defensive mode nobody else writes to them. */
START_TEST(shadow_names_are_protected) {
  static const char *const parts[] = {"log", "row", "head", "code", "graph", "meta"};
  two_rows();
  ck_assert_int_eq(sqlite3_db_config(a, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL), SQLITE_OK);
  for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
    sql_is(a, "shadow", "SELECT type FROM pragma_table_list WHERE name='docs_%s'", parts[i]);
    sql_fails(a, SQLITE_ERROR, "may not be modified", "DELETE FROM docs_%s", parts[i]);
    sql_fails(a, SQLITE_ERROR, "may not be", "DROP TABLE docs_%s", parts[i]);
    sql_fails(a, SQLITE_ERROR, "may not be", "ALTER TABLE docs_%s RENAME TO mine", parts[i]);
  }
  /* No table of another purpose is taken for one. */
  sql_run(a, "CREATE TABLE docs_other(x); INSERT INTO docs_other VALUES(1); DROP TABLE docs_other");
  sql_is(a, "ab", IDS);
}
END_TEST

/* With trusted_schema=OFF a trigger may not use the table: it writes, so it is not marked as harmless. */
START_TEST(untrusted_schema_may_not_use_the_table) {
  two_rows();
  sql_run(
      a, "CREATE TABLE source(id); CREATE TRIGGER t AFTER INSERT ON source BEGIN DELETE FROM docs WHERE id=new.id; END;"
         "CREATE TABLE s2(id); CREATE TRIGGER t2 AFTER INSERT ON s2 BEGIN SELECT delta_apply('docs', new.id, "
         "delta_delete()); END;");
  sql_fails(a, SQLITE_ERROR, "unsafe use of",
            "INSERT INTO s2 VALUES('a')"); /* functions that write: never in a trigger */
  sql_run(a, "PRAGMA trusted_schema=OFF");
  sql_fails(a, SQLITE_ERROR, "unsafe use of", "INSERT INTO source VALUES('a')");
  sql_is(a, "ab", IDS);
  sql_run(a, "PRAGMA trusted_schema=ON; INSERT INTO source VALUES('a')");
  sql_is(a, "b", IDS);
  sql_agrees(a);
}
END_TEST

/* PRAGMA integrity_check (SQLite 3.44 and newer) and the command find a damaged log; neither damages more. */
START_TEST(integrity_checks_find_damage) {
  two_rows();
  sql_sound(a);
  sql_is(a, "ok", "PRAGMA quick_check");
  sql_run(a, "UPDATE docs_log SET pack=zeroblob(length(pack))");
  sql_fails(a, SQLITE_CORRUPT_VTAB, "docs", "INSERT INTO docs(docs) VALUES('integrity-check')");
  if (sqlite3_libversion_number() >= 3044000) {
    ck_assert_ptr_nonnull(strstr(sql_rows(a, "PRAGMA integrity_check"), "docs"));
    ck_assert_ptr_nonnull(strstr(sql_rows(a, "PRAGMA quick_check"), "docs"));
  }
  sql_run(a, "DROP TABLE docs");
  sql_is(a, "ok", "PRAGMA integrity_check");
}
END_TEST

/* Derived data that is lost or damaged comes back: by itself for reading, for good by 'rebuild'. */
START_TEST(derived_data_can_be_lost) {
  two_rows();
  sql_insert_many(a, "docs", 1, 3000);
  sql_run(a, "INSERT INTO docs(docs) VALUES('optimize')");
  char *before = sql_state(a, "main", "docs");
  static const char *const damages[] = {"DELETE FROM docs_head",
                                        "DELETE FROM docs_code",
                                        "DELETE FROM docs_head WHERE block=1",
                                        "UPDATE docs_head SET heads=randomblob(length(heads))",
                                        "UPDATE docs_head SET heads='x'",
                                        "DELETE FROM docs_meta WHERE key='settled'",
                                        "UPDATE docs_meta SET value=randomblob(length(value)) WHERE key='settled'"};
  for (size_t i = 0; i < sizeof damages / sizeof damages[0]; i++) {
    sql_run(a, "%s", damages[i]);
    sql_close(a);
    a = sql_open(file);
    char *after = sql_state(a, "main", "docs");
    ck_assert_msg(strcmp(before, after) == 0, "after %s:\n%.2000s\n%.2000s", damages[i], before, after);
    sql_run(a, "INSERT INTO docs(docs) VALUES('rebuild')");
    sql_sound(a);
    free(after);
  }
  sql_agrees(a);
  free(before);
}
END_TEST

/* ---- commands inside transactions -------------------------------------------------------------------------------- */

static const char *const rewriters[] = {
    "SELECT delta_compact('docs', '{\"keep\":\"none\"}')",
    "SELECT delta_compact('docs', '{\"id\":\"a\",\"keep\":\"none\"}')",
    "INSERT INTO docs(docs) VALUES('optimize')",
    "INSERT INTO docs(docs) VALUES('rebuild')",
    "INSERT INTO docs(docs) VALUES('integrity-check')",
    "SELECT delta_import('docs', (SELECT x FROM export))",
};
#define N_REWRITERS (int)(sizeof rewriters / sizeof rewriters[0])

static void prepare_rewrite(void) {
  two_rows();
  sql_run(a, "CREATE VIRTUAL TABLE source USING delta_vectors(dimensions=3); INSERT INTO source(id, vector) "
             "VALUES('i', '[9,9,9]');"
             "CREATE TABLE export AS SELECT delta_export('source', 0) AS x");
  sql_run(a, "UPDATE docs SET delta=delta_scale(2); UPDATE docs SET metadata='{\"n\":1}' WHERE id='b'; " INSERT
             "('x', '[0,0,0]')");
  sql_run(a, "DELETE FROM docs WHERE id='x'");
  sql_rows(a, NEAREST);
}

/* Changes, a command that rewrites the file, more changes, ROLLBACK: all as before, and the next transaction is
 * sound. */
START_TEST(rewrite_in_a_transaction_then_rollback) {
  prepare_rewrite();
  open_second();
  char *before = sql_dump(a, "main", "docs");
  for (int i = 0; i < 3; i++) {
    sql_run(a, "BEGIN");
    if (i != 1)
      sql_run(a, INSERT "('c', '[1,1,1]'); DELETE FROM docs WHERE id='b'; UPDATE docs SET delta=delta_scale(2), "
                        "metadata='{\"n\":2}'");
    sql_run(a, "%s", rewriters[_i]);
    if (i != 0)
      sql_run(a, INSERT "('d', '[2,1,1]'); UPDATE docs SET delta=delta_offset(1); DELETE FROM docs WHERE id='a'");
    sql_rows(a, NEAREST);
    sql_run(a, "ROLLBACK");
    char *after = sql_dump(a, "main", "docs");
    ck_assert_msg(strcmp(before, after) == 0, "%s: before\n%.3000s\nafter\n%.3000s", rewriters[_i], before, after);
    free(after);
  }
  free(before);
  sql_run(a, INSERT "('e', '[1,1,1]')");
  sql_is(b, "abe", IDS);
  sql_agrees(a);
}
END_TEST

/* The same with COMMIT. */
START_TEST(rewrite_in_a_transaction_then_commit) {
  prepare_rewrite();
  open_second();
  sql_run(a,
          "BEGIN; " INSERT "('c', '[1,1,1]'); UPDATE docs SET delta=delta_scale(2), metadata='{\"n\":2}' WHERE id='a'");
  sql_run(a, "%s", rewriters[_i]);
  sql_run(a, INSERT "('d', '[2,1,1]'); UPDATE docs SET delta=delta_offset(1) WHERE id='a'");
  sql_is(a, "[5,1,1]|{\"n\":2}", "SELECT vector_json(vector), metadata FROM docs WHERE id='a'");
  sql_run(a, "COMMIT");
  sql_is(a, "[5,1,1]|{\"n\":2}", "SELECT vector_json(vector), metadata FROM docs WHERE id='a'");
  sql_is(b, "[5,1,1]|{\"n\":2}", "SELECT vector_json(vector), metadata FROM docs WHERE id='a'");
  sql_agrees(a);
  sql_agrees(b);
}
END_TEST

/* SQLite reads JSON5 from 3.42 on and gives out JSON. What is stored is read by older ones, and by programs that know JSON. */
START_TEST(metadata_in_json5_become_json) {
  two_rows();
  static const char json5[] = "{lang: \'de\', at: +.5, /* a note */ n: 0x10,}";
  if (sqlite3_libversion_number() < 3042000) {
    sql_fails(a, SQLITE_ERROR, "row 'c': metadata is not a JSON object",
              "INSERT INTO docs(id, vector, metadata) VALUES('c', '[1,1,1]', %Q)", json5);
    return;
  }
  sql_run(a, "INSERT INTO docs(id, vector, metadata) VALUES('c', '[1,1,1]', %Q), ('d', '[1,1,1]', '{}')", json5);
  sql_run(a, "UPDATE docs SET metadata=%Q WHERE id='d'", json5);
  static const char json[] = "{\"lang\":\"de\",\"at\":0.5,\"n\":16}";
  sql_is(a, sql_rows(a, "SELECT %Q, %Q", json, json), "SELECT group_concat(metadata, '|') FROM docs WHERE id > 'b'");
  sql_is(a, "1", "SELECT min(json_valid(metadata)) FROM delta_log('docs') WHERE metadata IS NOT NULL");
  sql_run(a, "SELECT delta_apply('docs', 'a', delta_scale(1), NULL, %Q)", json5);
  sql_is(a, json, "SELECT metadata FROM docs WHERE id='a'");
  sql_agrees(a);
}
END_TEST

/* That a row has no metadata is remembered, so that a full vector, whose record has all metadata, need not ask: whoever
 * sets some, or takes it back. */
START_TEST(metadata_of_a_row_that_had_none) {
  const char *metadata = "SELECT metadata FROM docs WHERE id='a'";
  two_rows();
  open_second();
  for (int i = 1; i <= 2; i++) {
    sqlite3 *who = i == 1 ? b : a;
    sql_run(a, "UPDATE docs SET vector='[%d,-5,7]'", i); /* now it is known */
    sql_is(a, "NULL", "%s", metadata);
    sql_run(who, "UPDATE docs SET metadata='{\"n\":1}'");
    sql_is(a, "{\"n\":1}", "%s", metadata);
    sql_run(a, "UPDATE docs SET vector='[%d,6,-8]'", i);
    sql_is(a, "{\"n\":1}", "%s", metadata);
    sql_is(b, "{\"n\":1}", "%s", metadata);
    sql_run(who, "UPDATE docs SET metadata=NULL");
    sql_is(a, "NULL", "%s", metadata);
    sql_run(a,
            "BEGIN; UPDATE docs SET metadata='{\"n\":2}'; INSERT INTO docs(docs) VALUES('optimize')"); /* writes it */
    sql_is(a, "{\"n\":2}", "%s", metadata);
    sql_run(a, "UPDATE docs SET vector='[%d,0,1]'", i);
    sql_is(a, "{\"n\":2}", "%s", metadata);
    sql_run(a, "ROLLBACK");
    sql_is(a, "NULL", "%s", metadata);
    sql_run(a, "BEGIN; UPDATE docs SET metadata='{\"n\":3}'; SAVEPOINT s; UPDATE docs SET metadata=NULL;"
               " INSERT INTO docs(docs) VALUES('optimize')");
    sql_is(a, "NULL", "%s", metadata);
    sql_run(a, "ROLLBACK TO s; COMMIT");
    sql_is(a, "{\"n\":3}", "%s", metadata);
    sql_run(a, "UPDATE docs SET vector='[%d,1,1]', metadata=NULL", i);
  }
  sql_agrees(a);
  sql_agrees(b);
}
END_TEST

/* Behind a savepoint with changes before it: it works or is refused in words; after ROLLBACK TO all is as at the
 * savepoint. */
START_TEST(rewrite_behind_a_savepoint_then_rollback_to) {
  prepare_rewrite();
  for (int has_changes_before = 0; has_changes_before < 2; has_changes_before++) {
    sql_run(a, "BEGIN");
    if (has_changes_before)
      sql_run(a, INSERT "('c', '[1,1,1]'); UPDATE docs SET delta=delta_scale(2), metadata='{\"n\":2}' WHERE id='a'");
    sql_run(a, "SAVEPOINT s");
    char *before = sql_state(a, "main", "docs");
    for (int i = 0; i < 2; i++) {
      sql_run(a, INSERT "('d', '[2,1,1]'); DELETE FROM docs WHERE id='b'");
      char *message = NULL;
      int rc = sql_try(a, &message, "%s", rewriters[_i]);
      ck_assert_msg(rc == SQLITE_OK || (rc == SQLITE_LOCKED && strstr(message, "savepoint")), "%s: %d %s",
                    rewriters[_i], rc, message);
      sqlite3_free(message);
      sql_is(a, has_changes_before ? "0acd" : "ad", IDS " WHERE id<>'i'");
      sql_run(a, "UPDATE docs SET delta=delta_offset(1)");
      sql_run(a, "ROLLBACK TO s");
      char *after = sql_state(a, "main", "docs");
      ck_assert_msg(strcmp(before, after) == 0, "%s: before\n%.3000s\nafter\n%.3000s", rewriters[_i], before, after);
      free(after);
    }
    free(before);
    sql_run(a, INSERT "('%d', '[1,1,1]'); COMMIT", has_changes_before);
    sql_agrees(a);
  }
  sql_is(a, "01abc", IDS);
}
END_TEST

/* 'optimize' inside a transaction that is rolled back leaves no trace in later searches: the rows have their old
 * places. */
START_TEST(search_after_optimize_was_rolled_back) {
  sql_create_docs(a, 8);
  sql_insert_many(a, "docs", 1, 6000);
  sql_run(a, "INSERT INTO docs(docs) VALUES('optimize')");
  sql_close(a);
  a = sql_open(file);
  char *before = sqlite3_mprintf(
      "%s",
      sql_rows(
          a, "SELECT group_concat(id) FROM (SELECT id FROM docs WHERE vector MATCH vector_at('docs', 'r77') AND k=1)"));
  sql_close(a);
  a = sql_open(file);
  sql_run(a, "BEGIN; UPDATE docs SET vector='[9,9,9,9,9,9,9,9]' WHERE id='r77'; DELETE FROM docs WHERE id='r78'; "
             "INSERT INTO docs(docs) VALUES('optimize')");
  sql_rows(a, "SELECT id FROM docs WHERE vector MATCH '[0,0,0,0,0,0,0,0]' AND k=10");
  sql_run(a, "ROLLBACK");
  sql_is(a, before, "SELECT id FROM docs WHERE vector MATCH vector_at('docs', 'r77') AND k=1");
  sql_is(a, "r78", "SELECT id FROM docs WHERE vector MATCH vector_at('docs', 'r78') AND k=1");
  sqlite3_free(before);
  sql_agrees(a);
}
END_TEST

/* Two connections that tidy up in turn, each with its own memory of where the other stopped. */
START_TEST(two_connections_optimize_in_turn) {
  two_rows();
  open_second();
  for (int i = 0; i < 6; i++) {
    sqlite3 *db = i % 2 ? a : b;
    sql_run(db, "INSERT INTO docs(docs) VALUES('optimize')");
    sql_insert_many(i % 2 ? b : a, "docs", 10 * i, 10 * i + 5);
    sql_run(i % 2 ? b : a, "INSERT INTO docs(docs) VALUES('optimize')");
    sql_sound(a);
    sql_sound(b);
  }
  sql_agrees(a);
}
END_TEST

/* ---- large transactions ------------------------------------------------------------------------------------------ */

/* A transaction of more than 32 MB is written to the file before it commits. Savepoints before and behind that point
 * cut it right, and changes of rows that have left memory go on from the file. */
static void large_transaction(const char *end) {
  static const char *const sample = "SELECT count(*), sum(length(vector)), min(id), max(id) FROM docs";
  sql_create_docs(a, 2048);
  sql_insert_many(a, "docs", 1, 10);
  sql_run(a, "BEGIN");
  sql_insert_many(a, "docs", 1001, 3000);
  char *r1 = sqlite3_mprintf("%s", sql_rows(a, "SELECT hex(vector) FROM docs WHERE id='r1001'"));
  char *twice = sqlite3_mprintf("%s", sql_rows(a, "SELECT hex(vector_scale(X'%s', 2))", r1));
  sql_run(a, "SAVEPOINT before");
  char *at_before = sqlite3_mprintf("%s", sql_rows(a, "%s", sample));
  sql_insert_many(a, "docs", 3001, 6500); /* beyond 32 MB: spilled on the way */
  sql_run(a, "UPDATE docs SET delta=delta_scale(2) WHERE id='r1001'; DELETE FROM docs WHERE id='r1002'");
  sql_is(a, twice, "SELECT hex(vector) FROM docs WHERE id='r1001'");
  sql_run(a, "SAVEPOINT behind");
  char *at_behind = sqlite3_mprintf("%s", sql_rows(a, "%s", sample));
  sql_run(a, "UPDATE docs SET delta=delta_scale(2) WHERE id IN ('r1001', 'r1', 'r6000')");
  sql_insert_many(a, "docs", 7001, 7010);
  sql_fails(a, SQLITE_CONSTRAINT, "r1003",
            INSERT "('new', vector_at('docs', 'r1')), ('r1003', vector_at('docs', 'r1'))");
  sql_run(a, "ROLLBACK TO behind");
  sql_is(a, at_behind, "%s", sample);
  sql_is(a, twice, "SELECT hex(vector) FROM docs WHERE id='r1001'");
  sql_is(a, "r1001", "SELECT id FROM docs WHERE vector MATCH X'%s' AND k=1", twice);
  if (strcmp(end, "cut") == 0) {
    sql_run(a, "ROLLBACK TO before");
    sql_is(a, at_before, "%s", sample);
    sql_is(a, r1, "SELECT hex(vector) FROM docs WHERE id='r1001'");
    sql_insert_many(a, "docs", 3001, 3010);
    sql_run(a, "COMMIT");
    sql_is(a, "2020", "SELECT count(*) FROM docs");
    sql_is(a, r1, "SELECT hex(vector) FROM docs WHERE id='r1001'");
  } else if (strcmp(end, "commit") == 0) {
    sql_run(a, "COMMIT");
    sql_is(a, at_behind, "%s", sample);
    sql_is(a, twice, "SELECT hex(vector) FROM docs WHERE id='r1001'");
  } else {
    sql_run(a, "ROLLBACK");
    sql_is(a, "10", "SELECT count(*) FROM docs");
    sql_insert_many(a, "docs", 11, 20);
    sql_is(a, "20", "SELECT count(*) FROM docs");
  }
  sql_sound(a);
  b = sql_open(file);
  sql_is(b, sql_rows(a, "SELECT count(*), hex(max(vector)) FROM docs"), "SELECT count(*), hex(max(vector)) FROM docs");
  sqlite3_free(r1);
  sqlite3_free(twice);
  sqlite3_free(at_before);
  sqlite3_free(at_behind);
}

START_TEST(large_transaction_spills_then_commit) { large_transaction("commit"); }
END_TEST
START_TEST(large_transaction_spills_then_rollback) { large_transaction("rollback"); }
END_TEST
START_TEST(large_transaction_spills_then_rollback_to) { large_transaction("cut"); }
END_TEST

/* One statement of more than 32 MB whose last row is wrong. */
START_TEST(large_statement_that_fails) {
  sql_create_docs(a, 2048);
  sql_insert_many(a, "docs", 1, 3);
  for (int i = 0; i < 2; i++) {
    if (i) sql_run(a, "BEGIN; UPDATE docs SET delta=delta_scale(2)");
    char *before = sql_dump(a, "main", "docs");
    sql_fails(
        a, SQLITE_ERROR, "row 'n5001'",
        "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<5001)"
        " INSERT INTO docs(id, vector) SELECT 'n'||i, CASE WHEN i<5001 THEN zeroblob(8192) ELSE '[1]' END FROM n");
    char *after = sql_dump(a, "main", "docs");
    ck_assert_msg(strcmp(before, after) == 0, "before\n%.2000s\nafter\n%.2000s", before, after);
    free(before);
    free(after);
  }
  sql_run(a, "COMMIT");
  sql_insert_many(a, "docs", 10, 12);
  sql_agrees(a);
}
END_TEST

/* ---- several tables ---------------------------------------------------------------------------------------------- */

START_TEST(two_objects_in_one_transaction) {
  two_rows();
  sql_run(a,
          "CREATE VIRTUAL TABLE more USING delta_vectors(dimensions=2); ATTACH %Q AS x; CREATE VIRTUAL TABLE x.docs "
          "USING delta_vectors(dimensions=1)",
          sql_path("x.db"));
  sql_run(a, "BEGIN; INSERT INTO main.docs(id, vector) VALUES('c', '[1,1,1]'); SAVEPOINT s;"
             "INSERT INTO more(id, vector) VALUES('m', '[1,1]'); INSERT INTO x.docs(id, vector) VALUES('y', '[1]'); "
             "ROLLBACK TO s;"
             "INSERT INTO more(id, vector) VALUES('n', '[1,1]'); SAVEPOINT t; DELETE FROM main.docs; INSERT INTO "
             "x.docs(id, vector) VALUES('z', '[1]')");
  sql_is(a, "", "SELECT id FROM main.docs");
  sql_run(a, "ROLLBACK TO t; INSERT INTO x.docs(id, vector) VALUES('w', '[1]'); COMMIT");
  sql_is(a, "a b c", "SELECT id FROM main.docs");
  sql_is(a, "n", "SELECT id FROM more");
  sql_is(a, "w", "SELECT id FROM x.docs");
  sql_sound_at(__LINE__, a, "main", "more");
  sql_sound_at(__LINE__, a, "x", "docs");
  sql_agrees(a);
}
END_TEST

/* One statement that writes two tables of ours, the second one by a trigger, and fails in the second. */
/* ROLLBACK TO over a change of the schema makes SQLite connect the table anew. The new object is told of the innermost
 * savepoint when it is first written to: that savepoint is as old as it is. */
START_TEST(new_object_joins_behind_a_savepoint) {
  two_rows();
  sql_run(a, "BEGIN; UPDATE docs SET delta=delta_scale(2) WHERE id='a'; CREATE TABLE other(x)");
  sql_run(a, "SAVEPOINT s1; UPDATE docs SET delta=delta_scale(10) WHERE id='a'");
  sql_run(a, "SAVEPOINT s2; ROLLBACK TO s2; RELEASE s2");
  sql_is(a, "[20,0,0]", "SELECT vector_json(vector) FROM docs WHERE id='a'");
  sql_run(a, "UPDATE docs SET delta=delta_offset(1) WHERE id='a'");
  sql_is(a, "[21,1,1]", "SELECT vector_json(vector) FROM docs WHERE id='a'");
  sql_run(a, "ROLLBACK TO s1");
  sql_is(a, "[2,0,0]", "SELECT vector_json(vector) FROM docs WHERE id='a'");
  sql_run(a, "SAVEPOINT s2; UPDATE docs SET delta=delta_offset(5) WHERE id='a'; ROLLBACK TO s2");
  sql_is(a, "[2,0,0]", "SELECT vector_json(vector) FROM docs WHERE id='a'");
  sql_run(a, "COMMIT");
  sql_is(a, "[2,0,0]", "SELECT vector_json(vector) FROM docs WHERE id='a'");
  sql_agrees(a);
}
END_TEST

/* ... and the same when a COMMIT was refused in between, which leaves everything written to the file. */
START_TEST(new_object_joins_behind_a_refused_commit) {
  if (is_wal()) return; /* there a reader blocks nobody */
  two_rows();
  open_second();
  sql_run(b, "BEGIN; SELECT count(*) FROM docs");
  sql_run(a, "BEGIN; UPDATE docs SET delta=delta_scale(2), metadata='{\"n\":1}' WHERE id='a'");
  sql_run(a, "SAVEPOINT s; CREATE TABLE other(x); ROLLBACK TO s");
  sql_fails(a, SQLITE_BUSY, "locked", "COMMIT");
  sql_run(a, "UPDATE docs SET delta=delta_offset(1) WHERE id='a'");
  sql_run(a, "ROLLBACK TO s");
  sql_is(a, "[2,0,0]|{\"n\":1}", "SELECT vector_json(vector), metadata FROM docs WHERE id='a'");
  sql_run(b, "COMMIT");
  sql_run(a, "COMMIT");
  sql_is(a, "[2,0,0]|{\"n\":1}", "SELECT vector_json(vector), metadata FROM docs WHERE id='a'");
  sql_is(b, "[2,0,0]|{\"n\":1}", "SELECT vector_json(vector), metadata FROM docs WHERE id='a'");
  sql_agrees(a);
}
END_TEST

START_TEST(two_tables_in_one_statement) {
  two_rows();
  sql_run(a, "CREATE VIRTUAL TABLE more USING delta_vectors(dimensions=3); CREATE TABLE source(id, v);"
             "CREATE TRIGGER t AFTER INSERT ON source BEGIN INSERT INTO docs(id, vector) VALUES(new.id, new.v);"
             " INSERT INTO more(id, vector) VALUES(new.id, new.v); END; INSERT INTO more(id, vector) VALUES('q', "
             "'[1,1,1]'); BEGIN");
  sql_fails(a, SQLITE_CONSTRAINT, "main.more: row 'q'", "INSERT INTO source VALUES('p', '[1,2,3]'), ('q', '[1,2,3]')");
  sql_is(a, "ab", IDS);
  sql_is(a, "q", "SELECT id FROM more");
  sql_run(a, "INSERT INTO source VALUES('p', '[1,2,3]'); COMMIT");
  sql_is(a, "abp", IDS);
  sql_is(a, "q p", "SELECT id FROM more");
  sql_agrees(a);
}
END_TEST

/* ---- at random --------------------------------------------------------------------------------------------------- */

/* Three names, tables of one dimension with rows a..f. */
#define N_NAMES 3
#define N_IDS 6
#define MAX_SAVEPOINTS 5

typedef struct model {
  struct {
    bool is_there, exists[N_IDS];
    int v[N_IDS];
  } tables[N_NAMES];
} model;

static uint64_t random_state;
static uint32_t random_below(uint32_t n) {
  random_state = random_state * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)((random_state >> 33) % n);
}

static void assert_model(sqlite3 *db, const model *m, int step, const char *what) {
  for (int i = 0; i < N_NAMES; i++) {
    char expected[256] = "", *message = NULL;
    for (int j = 0; j < N_IDS && m->tables[i].is_there; j++) {
      if (m->tables[i].exists[j])
        snprintf(expected + strlen(expected), sizeof expected - strlen(expected), "%c[%d]", 'a' + j, m->tables[i].v[j]);
    }
    if (!m->tables[i].is_there) {
      int rc = sql_try(db, &message, "SELECT * FROM t%d", i);
      ck_assert_msg(rc == SQLITE_ERROR && strstr(message, "no such table"), "step %d, after %s: t%d: %d %s", step, what,
                    i, rc, message ? message : "");
      sqlite3_free(message);
      continue;
    }
    static const char *const queries[] = {
        "SELECT coalesce(group_concat(id || vector_json(vector), ''), '') FROM (SELECT id, vector FROM t%d ORDER BY "
        "id) AS t",
        "SELECT coalesce(group_concat(id || v, ''), '') FROM (SELECT id, vector_json(vector_at('t%d', id)) AS v FROM "
        "vector_search('t%d', '[0]', 99) ORDER BY id) AS t"};
    for (int q = 0; q < 2; q++) {
      const char *rows = sql_rows(db, queries[q], i, i);
      ck_assert_msg(strcmp(rows, expected) == 0, "seed %d, step %d, after %s: query %d of t%d: '%s', expected '%s'",
                    (int)random_state, step, what, q, i, rows, expected);
    }
  }
}

/* Tables are created, dropped, renamed, written and compacted in a random order, inside transactions with savepoints
 * that are released and rolled back: at every step each of the three names is what it must be. DV_SEED=n, DV_STEPS=n,
 * DV_TRACE=1. */
START_TEST(random_ddl_and_savepoints) {
  const char *seed = getenv("DV_SEED"), *steps = getenv("DV_STEPS");
  int n_steps = steps ? atoi(steps) : 400, n_savepoints = 0;
  model now, committed, savepoints[MAX_SAVEPOINTS];
  random_state = (seed ? strtoull(seed, NULL, 10) : (uint64_t)_i + 1) * 104729;
  memset(&now, 0, sizeof now);
  committed = now;
  for (int step = 0; step < n_steps; step++) {
    bool is_open = sqlite3_get_autocommit(a) == 0;
    int t = (int)random_below(N_NAMES), u = (int)random_below(N_NAMES), row = (int)random_below(N_IDS),
        value = (int)random_below(90) + 1;
    char sql[300] = "";
    model after = now;
    bool may_be_locked = false;
    switch (random_below(22)) {
    case 0:
    case 1:
      if (is_open) continue;
      snprintf(sql, sizeof sql, "BEGIN");
      n_savepoints = 0;
      break;
    case 2:
      if (!is_open) continue;
      snprintf(sql, sizeof sql, "COMMIT");
      break;
    case 3:
      if (!is_open || random_below(2)) continue;
      snprintf(sql, sizeof sql, "ROLLBACK");
      after = committed;
      break;
    case 4:
    case 5:
      if (!is_open || n_savepoints == MAX_SAVEPOINTS) continue;
      snprintf(sql, sizeof sql, "SAVEPOINT s%d", n_savepoints);
      savepoints[n_savepoints++] = now;
      break;
    case 6:
    case 7: {
      if (!is_open || n_savepoints == 0) continue;
      int level = (int)random_below((uint32_t)n_savepoints);
      snprintf(sql, sizeof sql, "ROLLBACK TO s%d", level);
      after = savepoints[level];
      n_savepoints = level + 1;
      break;
    }
    case 8: {
      if (!is_open || n_savepoints == 0) continue;
      int level = (int)random_below((uint32_t)n_savepoints);
      snprintf(sql, sizeof sql, "RELEASE s%d", level);
      n_savepoints = level;
      break;
    }
    case 9:
    case 10:
      if (now.tables[t].is_there) continue;
      snprintf(sql, sizeof sql, "CREATE VIRTUAL TABLE t%d USING delta_vectors(dimensions=1, metric=l2)", t);
      memset(&after.tables[t], 0, sizeof after.tables[t]);
      after.tables[t].is_there = true;
      break;
    case 11:
      if (!now.tables[t].is_there) continue;
      snprintf(sql, sizeof sql, "DROP TABLE t%d", t);
      after.tables[t].is_there = false;
      may_be_locked = true;
      break;
    case 12:
    case 13:
      if (!now.tables[t].is_there || now.tables[u].is_there) continue;
      snprintf(sql, sizeof sql, "ALTER TABLE t%d RENAME TO t%d", t, u);
      after.tables[u] = now.tables[t];
      after.tables[t].is_there = false;
      break;
    case 14: {
      static const char *const commands[] = {
          "SELECT delta_compact('t%d', '{\"keep\":\"none\"}')", "INSERT INTO t%d(t%d) VALUES('optimize')",
          "INSERT INTO t%d(t%d) VALUES('rebuild')", "INSERT INTO t%d(t%d) VALUES('integrity-check')"};
      if (!now.tables[t].is_there) continue;
      snprintf(sql, sizeof sql, commands[random_below(4)], t, t);
      may_be_locked = true;
      break;
    }
    case 15:
      if (is_open) continue;
      if (random_below(2)) {
        snprintf(sql, sizeof sql, "VACUUM");
        break;
      }
      sql_close(a);
      a = sql_open(file);
      snprintf(sql, sizeof sql, "SELECT 'reopened'");
      break;
    case 16:
      if (!now.tables[t].is_there) continue;
      snprintf(sql, sizeof sql, "DELETE FROM t%d WHERE id='%c'", t, 'a' + row);
      after.tables[t].exists[row] = false;
      break;
    case 17:
      if (!now.tables[t].is_there) continue;
      snprintf(sql, sizeof sql, "UPDATE t%d SET delta=delta_offset(1)", t);
      for (int j = 0; j < N_IDS; j++) after.tables[t].v[j]++;
      break;
    case 18:
      if (!now.tables[t].is_there || !now.tables[t].exists[row]) continue;
      snprintf(sql, sizeof sql, "SELECT delta_apply('t%d', '%c', delta_offset(2))", t, 'a' + row);
      after.tables[t].v[row] += 2;
      break;
    case 19: /* fails behind its first row */
      if (!now.tables[t].is_there) continue;
      sql_fails(a, SQLITE_ERROR, "expected 1",
                "INSERT OR REPLACE INTO t%d(id, vector) VALUES('%c', '[5]'), ('z', '[1,2]')", t, 'a' + row);
      snprintf(sql, sizeof sql, "SELECT 'failed'");
      break;
    default:
      if (!now.tables[t].is_there) continue;
      snprintf(sql, sizeof sql, "INSERT OR REPLACE INTO t%d(id, vector) VALUES('%c', '[%d]')", t, 'a' + row, value);
      after.tables[t].exists[row] = true;
      after.tables[t].v[row] = value;
      break;
    }
    char *message = NULL;
    int rc = sql_try(a, &message, "%s", sql);
    if (getenv("DV_TRACE")) fprintf(stderr, "A: %s\n", sql);
    ck_assert_msg(rc == SQLITE_OK || (rc == SQLITE_LOCKED && may_be_locked && n_savepoints > 0), "step %d: %s: %d %s",
                  step, sql, rc, message ? message : "");
    sqlite3_free(message);
    if (rc == SQLITE_OK) now = after;
    if (sqlite3_get_autocommit(a)) committed = now;
    assert_model(a, &now, step, sql);
    if (step % 20 == 19 && sqlite3_get_autocommit(a)) {
      b = sql_open(file);
      assert_model(b, &now, step, "opening");
      for (int i = 0; i < N_NAMES; i++) {
        char name[8];
        snprintf(name, sizeof name, "t%d", i);
        if (now.tables[i].is_there) sql_sound_at(__LINE__, b, "main", name);
      }
      sql_close(b);
      b = NULL;
    }
  }
}
END_TEST

/* ---- small things that users see --------------------------------------------------------------------------------- */

/* Internal statements do not disturb last_insert_rowid(), changes() and total_changes(). */
START_TEST(counters_are_those_of_the_user) {
  two_rows();
  sql_run(a, "CREATE TABLE plain(x); INSERT INTO plain(rowid) VALUES(4711)");
  sql_run(a, "SELECT delta_apply('docs', 'a', delta_scale(2)); SELECT delta_compact('docs', '{\"keep\":\"none\"}')");
  sql_is(a, "4711", "SELECT last_insert_rowid()");
  sql_run(a, "UPDATE docs SET delta=delta_scale(2)");
  sql_is(a, "2", "SELECT changes()");
  sql_run(a, "BEGIN; INSERT INTO plain(rowid) VALUES(4712); UPDATE docs SET metadata='{}' WHERE id='a'; COMMIT");
  sql_is(a, "4712|1", "SELECT last_insert_rowid(), changes()");
  sql_run(a, "CREATE VIRTUAL TABLE items USING delta_vectors(embedding FLOAT[1]); INSERT INTO items(embedding) "
             "VALUES('[1]'), ('[2]'), ('[3]')");
  sql_is(a, "3", "SELECT last_insert_rowid()");
}
END_TEST

/* A large table: settled in the background by commits, read by a new connection that loads heads and codes from the
 * file. */
START_TEST(many_commits_settle) {
  sql_create_docs(a, 4);
  sql_run(a, "PRAGMA synchronous=OFF");
  for (int i = 0; i < 12; i++) {
    sql_run(a, "BEGIN");
    sql_insert_many(a, "docs", 1 + i * 1000, (i + 1) * 1000);
    sql_run(a, "UPDATE docs SET delta=delta_scale(0.5) WHERE rowid %% 7 = %d; COMMIT", i % 7);
  }
  ck_assert_int_gt(sql_integer(a, "SELECT count(*) FROM docs_head"), 0);
  b = sql_open(file);
  for (int i = 1; i < 12000; i += 571) {
    sql_is(b, sql_rows(a, "SELECT id, distance FROM docs WHERE vector MATCH vector_at('docs', 'r%d') AND k=5", i),
           "SELECT id, distance FROM docs WHERE vector MATCH vector_at('docs', 'r%d') AND k=5", i);
  }
  sql_sound(b);
}
END_TEST

/* sqlite3_close() is SQLITE_OK after everything that keeps statements for later; the teardown looks at the memory. */
START_TEST(close_with_cached_statements_is_ok) {
  two_rows();
  for (size_t i = 0; i < sizeof uses / sizeof uses[0]; i++) sql_run(a, "%s", uses[i]);
  sql_run(a, "CREATE VIRTUAL TABLE temp.tdocs USING delta_vectors(dimensions=2); INSERT INTO tdocs(id, vector) "
             "VALUES('t', '[1,1]')");
  sql_run(a, "SELECT delta_apply('tdocs', 't', delta_scale(2))");
  sql_run(a, "ATTACH ':memory:' AS x; CREATE VIRTUAL TABLE x.more USING delta_vectors(dimensions=2); INSERT INTO "
             "more(id, vector) VALUES('t', '[1,1]')");
  sql_run(a, "SELECT delta_apply('x.more', 't', delta_scale(2)); SELECT * FROM vector_each('[1,2]')");
  sql_close(a); /* fails the test if it is not SQLITE_OK */
  a = sql_open(file);
  sql_run(a, "BEGIN; UPDATE docs SET delta=delta_scale(1), as_of='2101-01-01'; SELECT delta_apply('docs', 'a', "
             "delta_scale(1))");
  sql_close(a); /* rolls back */
  a = sql_open(file);
  sql_agrees(a);
}
END_TEST

/* Close with an open reader is refused with SQLITE_BUSY, as for any table, and the reader goes on; sqlite3_close_v2()
 * waits. */
START_TEST(close_with_an_open_reader) {
  two_rows();
  sqlite3_stmt *stmt = sql_prepare(a, "SELECT id, vector FROM docs");
  ck_assert_int_eq(sqlite3_step(stmt), SQLITE_ROW);
  ck_assert_int_eq(sqlite3_close(a), SQLITE_BUSY);
  sql_run(a, "SELECT delta_apply('docs', 'a', delta_scale(2))");
  ck_assert_int_eq(sqlite3_step(stmt), SQLITE_ROW);
  ck_assert_int_eq(sqlite3_close_v2(a), SQLITE_OK);
  ck_assert_int_eq(sqlite3_step(stmt), SQLITE_DONE);
  ck_assert_int_eq(sqlite3_finalize(stmt), SQLITE_OK);
  a = NULL;
}
END_TEST

/* Loading the extension twice on a connection changes nothing. */
START_TEST(loading_twice) {
  two_rows();
#ifdef SQLITE_CORE
  extern int sqlite3_deltavectors_init(sqlite3 *, char **, const struct sqlite3_api_routines *);
  ck_assert_int_eq(sqlite3_deltavectors_init(a, NULL, NULL), SQLITE_OK);
#else
  ck_assert_int_eq(sqlite3_load_extension(a, DV_EXTENSION_PATH, NULL, NULL), SQLITE_OK);
#endif
  sql_is(a, "ab", IDS);
  sql_run(a, "SELECT delta_apply('docs', 'a', delta_scale(1)); BEGIN; " INSERT "('c', '[1,1,1]')");
  sql_is(a, "abc", IDS);
  sql_run(a, "COMMIT");
  sql_agrees(a);
}
END_TEST

/* ---- the suite --------------------------------------------------------------------------------------------------- */

static void add_tests(Suite *suite, const sql_profile *profile, void (*open)(void), bool is_first) {
  TCase *t = tcase_create(profile->name);
  tcase_set_timeout(t, 240);
  tcase_add_checked_fixture(t, open, close_files);
  tcase_add_test(t, savepoint_never_announced_rolls_back);
  tcase_add_test(t, rollback_to_outermost_savepoint);
  tcase_add_test(t, savepoints_nest);
  tcase_add_test(t, rollback_to_twice);
  tcase_add_test(t, release_keeps_the_changes);
  tcase_add_test(t, row_made_again_behind_a_savepoint);
  tcase_add_test(t, failed_multi_row_insert_is_undone);
  tcase_add_test(t, failed_multi_row_update_is_undone);
  tcase_add_test(t, failed_trigger_is_undone);
  tcase_add_test(t, insert_or_ignore_leaves_no_half_row);
  tcase_add_test(t, insert_or_abort_fail_rollback_replace);
  tcase_add_test(t, commit_refused_by_a_hook_rolls_back);
  tcase_add_test(t, disk_full_at_every_page);
  tcase_add_test(t, commit_refused_with_busy_goes_on);
  tcase_add_test(t, commit_refused_with_busy_then_rollback);
  tcase_add_test(t, autocommit_insert_refused_with_busy);
  tcase_add_test(t, wal_stale_snapshot_is_busy);
  tcase_add_test(t, create_and_insert_in_one_transaction);
  tcase_add_test(t, create_then_rollback);
  tcase_add_test(t, create_inside_savepoint_then_rollback_to);
  tcase_add_test(t, create_that_fails_leaves_nothing);
  tcase_add_test(t, create_if_not_exists);
  tcase_add_test(t, rename_table);
  tcase_add_test(t, rename_inside_transaction_then_rollback);
  tcase_add_test(t, rename_inside_transaction_then_commit);
  tcase_add_test(t, rename_away_and_back_in_one_transaction);
  tcase_add_test(t, rename_away_and_back_and_away_then_rollback);
  tcase_add_test(t, rename_stays_with_a_rollback_to_behind_it);
  tcase_add_test(t, rename_rolled_back_leaves_no_memory_of_it);
  tcase_add_test(t, rename_after_many_changes);
  tcase_add_test(t, rename_that_fails);
  tcase_add_test(t, rename_to_the_name_of_a_column);
  tcase_add_test(t, drop_table);
  tcase_add_test(t, drop_then_rollback);
  tcase_add_test(t, drop_with_uncommitted_rows_then_commit);
  tcase_add_test(t, drop_and_create_in_one_transaction);
  tcase_add_test(t, create_rename_and_drop_in_one_transaction);
  tcase_add_test(t, drop_inside_savepoint_then_rollback_to);
  tcase_add_test(t, drop_inside_outermost_savepoint);
  tcase_add_test(t, drop_while_reading);
  tcase_add_loop_test(t, select_goes_on_after_rollback, 0, N_READERS);
  tcase_add_loop_test(t, select_goes_on_after_rollback_to, 0, N_READERS);
  tcase_add_loop_test(t, select_goes_on_while_rows_change, 0, N_READERS);
  tcase_add_loop_test(t, select_goes_on_while_the_log_is_rewritten, 0, N_READERS);
  tcase_add_test(t, delta_apply_in_a_select_on_the_same_table);
  tcase_add_test(t, prepared_statements_live_on);
  tcase_add_test(t, own_vacuum);
  tcase_add_test(t, vacuum_to_another_page_size);
  tcase_add_test(t, vacuum_into_a_copy);
  tcase_add_test(t, backup_into_live_connection);
  tcase_add_test(t, backup_of_a_live_database);
  tcase_add_test(t, deserialize_into_live_connection);
  tcase_add_test(t, snapshot_into_the_past);
  tcase_add_test(t, dump_and_reload);
  tcase_add_loop_test(t, other_connections_ddl, 0, (int)(sizeof uses / sizeof uses[0]));
  tcase_add_loop_test(t, other_connection_replaces_the_table, 0, (int)(sizeof uses / sizeof uses[0]));
  tcase_add_test(t, import_into_a_table_that_was_replaced);
  tcase_add_test(t, detach_attach_other_file_same_name);
  tcase_add_test(t, detach_attach_other_file_only_read);
  tcase_add_test(t, deserialize_only_read);
  tcase_add_test(t, one_file_attached_twice);
  tcase_add_test(t, trigger_on_a_shadow_table);
  tcase_add_test(t, table_valued_function_on_attached_table);
  tcase_add_test(t, search_that_outlives_the_read_it_began_in);
  tcase_add_test(t, names_resolve_as_in_sql);
  tcase_add_test(t, read_only_file);
  tcase_add_test(t, query_only);
  tcase_add_test(t, temp_table);
  tcase_add_test(t, memory_database);
  tcase_add_test(t, defensive_mode);
  tcase_add_test(t, shadow_names_are_protected);
  tcase_add_test(t, untrusted_schema_may_not_use_the_table);
  tcase_add_test(t, integrity_checks_find_damage);
  tcase_add_test(t, derived_data_can_be_lost);
  tcase_add_loop_test(t, rewrite_in_a_transaction_then_rollback, 0, N_REWRITERS);
  tcase_add_loop_test(t, rewrite_in_a_transaction_then_commit, 0, N_REWRITERS);
  tcase_add_test(t, metadata_in_json5_become_json);
  tcase_add_test(t, metadata_of_a_row_that_had_none);
  tcase_add_loop_test(t, rewrite_behind_a_savepoint_then_rollback_to, 0, N_REWRITERS);
  tcase_add_test(t, search_after_optimize_was_rolled_back);
  tcase_add_test(t, two_connections_optimize_in_turn);
  tcase_add_test(t, two_objects_in_one_transaction);
  tcase_add_test(t, new_object_joins_behind_a_savepoint);
  tcase_add_test(t, new_object_joins_behind_a_refused_commit);
  tcase_add_test(t, two_tables_in_one_statement);
  tcase_add_loop_test(t, random_ddl_and_savepoints, 0, 10);
  tcase_add_test(t, counters_are_those_of_the_user);
  tcase_add_test(t, many_commits_settle);
  tcase_add_test(t, close_with_cached_statements_is_ok);
  tcase_add_test(t, close_with_an_open_reader);
  tcase_add_test(t, loading_twice);
  if (is_first) {
    tcase_add_test(t, large_transaction_spills_then_commit);
    tcase_add_test(t, large_transaction_spills_then_rollback);
    tcase_add_test(t, large_transaction_spills_then_rollback_to);
    tcase_add_test(t, large_statement_that_fails);
  }
  suite_add_tcase(suite, t);
}

int main(int argc, char **argv) {
  Suite *suite = suite_create("lifecycle");
  add_tests(suite, &sql_default, use_default, true);
  add_tests(suite, &sql_wal, use_wal, false);
  add_tests(suite, &sql_tiny, use_tiny, false);
  return sql_main(suite, argc, argv);
}
