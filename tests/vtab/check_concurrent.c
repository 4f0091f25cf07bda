/*
 * check_concurrent.c: several connections of one process on one file. What one of them commits, the others see,
 * whatever they hold in memory; what it has not committed, they do not; a transaction that has begun to read keeps its
 * snapshot. In WAL and in DELETE mode.
 *
 * DV_SEED=n runs the random test with that seed, DV_STEPS=n with so many steps.
 */
#include "support.h"

#define IDS "SELECT coalesce(group_concat(id, ''), '') FROM (SELECT id FROM docs ORDER BY id) AS t"
#define INSERT "INSERT INTO docs(id, vector) VALUES"

static sqlite3 *a, *b;
static const char *file;

static void open_files(void) {
  sql_setup();
  file = sql_path("test.db");
  a = sql_open(file);
  b = sql_open(file);
  sql_create_docs(a, 3);
  sql_run(a, INSERT "('a', '[1,0,0]'), ('b', '[0,1,0]'), ('c', '[0,0,1]')");
}

static void close_files(void) {
  if (a) sql_close(a);
  if (b) sql_close(b);
  sql_teardown();
}

static void use_default(void) { sql_profile_now = &sql_default, open_files(); }
static void use_wal(void) { sql_profile_now = &sql_wal, open_files(); }
static void use_tiny(void) { sql_profile_now = &sql_tiny, open_files(); }
static bool is_wal(void) { return sql_profile_now == &sql_wal; }

static void assert_same_state(sqlite3 *x, sqlite3 *y, const char *what) {
  char *one = sql_state(x, "main", "docs"), *other = sql_state(y, "main", "docs");
  ck_assert_msg(strcmp(one, other) == 0, "after %s: the writer sees\n%.3000s\nthe other\n%.3000s", what, one, other);
  free(one);
  free(other);
}

/* Everything that can happen to a table from outside. */
static const char *const changes[] = {
    INSERT "('d', '[1,1,1]')",
    INSERT "('e', '[2,1,1]'), ('f', '[2,2,1]'), ('g', '[2,2,2]')",
    "INSERT OR REPLACE INTO docs(id, vector, metadata) VALUES('a', '[3,0,0]', '{\"n\":1}')",
    "UPDATE docs SET vector='[0,3,0]' WHERE id='b'",
    "UPDATE docs SET delta=delta_sparse('[1]', '[7]') WHERE id='a'",
    "UPDATE docs SET delta=delta_scale(2)",
    "UPDATE docs SET delta=delta_offset(-1)",
    "UPDATE docs SET metadata='{\"n\":2}' WHERE id IN ('a', 'c')",
    "SELECT delta_apply('docs', 'c', delta_dense('[9,8,7]'), NULL, '{\"m\":1}')",
    "SELECT delta_apply_batch('docs', delta_export('docs', 999999))",
    "DELETE FROM docs WHERE id='d'",
    INSERT "('d', '[4,4,4]')",
    "SELECT delta_rollback('docs', 'a', 1)",
    "BEGIN; " INSERT
    "('h', '[5,5,5]'); DELETE FROM docs WHERE id='e'; SAVEPOINT s; DELETE FROM docs; ROLLBACK TO s; COMMIT",
    "BEGIN; " INSERT "('no', '[6,6,6]'); DELETE FROM docs; ROLLBACK",
    "INSERT INTO docs(docs) VALUES('optimize')",
    "UPDATE docs SET delta=delta_scale(0.5) WHERE id <> 'a'",
    "SELECT delta_compact('docs', '{\"id\":\"a\",\"keep\":\"none\"}')",
    "UPDATE docs SET delta=delta_scale(0.5)",
    "SELECT delta_compact('docs', '{\"keep\":\"2 versions\"}')",
    "SELECT delta_compact('docs', '{\"keep\":\"none\"}')",
    INSERT "('i', '[1,2,3]')",
    "DELETE FROM docs WHERE id='i'",
    "SELECT delta_compact('docs', '{\"keep\":\"none\"}')", /* the last record goes, its seq must not come back */
    INSERT "('j', '[1,2,4]')",
    "INSERT INTO docs(docs) VALUES('rebuild')",
    "CREATE VIRTUAL TABLE source USING delta_vectors(dimensions=3)",
    "INSERT INTO source(id, vector) VALUES('p', '[1,1,1]'), ('q', '[2,2,2]')",
    "SELECT delta_import('docs', delta_export('source', 0))",
    "UPDATE source SET delta=delta_scale(2)",
    "SELECT delta_import('docs', delta_export('source', 0))",
    "DROP TABLE source",
    "INSERT INTO docs(docs) VALUES('hnsw_ef_search=77')",
    "INSERT INTO docs(docs) VALUES('integrity-check')",
    "WITH RECURSIVE n(i) AS (SELECT 1 UNION ALL SELECT i+1 FROM n WHERE i<6000)"
    " INSERT INTO docs(id, vector) SELECT 'n'||i, json_array(i, i*i%%1000, -i) FROM n",
    "UPDATE docs SET delta=delta_scale(1.5) WHERE rowid %% 3 = 0",
    "DELETE FROM docs WHERE rowid %% 5 = 0",
    "VACUUM",
    "DELETE FROM docs WHERE id LIKE 'n%%'",
    "SELECT delta_compact('docs', '{\"keep\":\"none\"}')",
    "PRAGMA wal_checkpoint(TRUNCATE)",
    "DELETE FROM docs",
    INSERT "('a', '[1,0,0]')",
};
#define N_CHANGES (sizeof changes / sizeof changes[0])

static void make_change(sqlite3 *db, size_t i) { sql_run(db, changes[i]); } /* a format, hence %% */

/* After each kind of change the other connection's rows, searches, history and log are those of the writer. */
START_TEST(every_change_is_seen) {
  assert_same_state(a, b, "opening");
  for (size_t i = 0; i < N_CHANGES; i++) {
    make_change(a, i);
    assert_same_state(a, b, changes[i]);
    if (i % 9 == 8) sql_sound(b);
  }
  sql_agrees(a);
}
END_TEST

/* The same when the two take turns in writing, so that each has to learn of the other's change before its own. */
START_TEST(writers_take_turns) {
  int64_t last_seq = 0;
  for (size_t i = 0; i < N_CHANGES; i++) {
    sqlite3 *writer = i % 2 ? a : b, *other = i % 2 ? b : a;
    make_change(writer, i);
    if (i % 3 == 0) continue; /* sometimes several changes of others have to be learned at once */
    assert_same_state(writer, other, changes[i]);
    int64_t seq = sql_integer(other, "SELECT json_extract(delta_status('docs'), '$.last_seq')");
    ck_assert_msg(seq >= last_seq, "after %s: the last seq fell from %lld to %lld", changes[i], (long long)last_seq,
                  (long long)seq);
    last_seq = seq;
  }
  sql_sound(b);
  sql_agrees(a);
}
END_TEST

/* Nobody sees what is not committed; the writer does. */
START_TEST(uncommitted_changes_are_private) {
  if (sql_profile_now == &sql_tiny) return; /* in DELETE mode SQLite locks readers out as soon as its cache overflows */
  char *before = sql_state(b, "main", "docs");
  sql_run(a, "BEGIN");
  for (size_t i = 0; i < N_CHANGES; i++) {
    if (strstr(changes[i], "BEGIN") || strstr(changes[i], "VACUUM") || strstr(changes[i], "PRAGMA")) continue;
    make_change(a, i);
    char *now = sql_state(b, "main", "docs");
    ck_assert_msg(strcmp(before, now) == 0, "after uncommitted %s:\n%.2000s\n%.2000s", changes[i], before, now);
    free(now);
  }
  sql_run(a, "ROLLBACK");
  char *now = sql_state(a, "main", "docs");
  ck_assert_msg(strcmp(before, now) == 0, "after ROLLBACK:\n%.2000s\n%.2000s", before, now);
  free(now);
  free(before);
  sql_agrees(a);
}
END_TEST

/* WAL: a transaction that has read sees the same rows, searches and log until it ends, whatever others commit:
 * compaction, import, rebuild included. Each time it begins before its first look at the table, with and without
 * anything in memory. */
START_TEST(open_snapshot_does_not_move) {
  if (!is_wal()) return;
  for (size_t i = 0; i < N_CHANGES; i++) {
    if (strstr(changes[i], "VACUUM") || strstr(changes[i], "wal_checkpoint")) continue;
    if (i % 4 == 3) {
      sql_close(b);
      b = sql_open(file);
    }
    char *before = sql_state(a, "main", "docs");
    sql_run(b, "BEGIN");
    if (i % 2)
      sql_rows(b, "SELECT count(*) FROM sqlite_schema"); /* the snapshot is taken, the table not looked at */
    else
      sql_rows(b, "SELECT count(*) FROM docs");
    make_change(a, i);
    for (int again = 0; again < 2; again++) {
      char *now = sql_state(b, "main", "docs");
      ck_assert_msg(strcmp(before, now) == 0, "%s was seen:\n%.2000s\n%.2000s", changes[i], before, now);
      free(now);
    }
    free(before);
    sql_run(b, "COMMIT");
    assert_same_state(a, b, changes[i]);
  }
}
END_TEST

/* The same for one SELECT that is stepped slowly while another connection commits: all rows are of one moment. */
START_TEST(slow_select_sees_one_moment) {
  if (!is_wal()) return;
  static const char *const queries[] = {
      "SELECT id, vector_json(vector), metadata FROM docs",
      "SELECT id, vector_json(vector), distance FROM docs WHERE vector MATCH '[1,1,1]' AND k=20",
      "SELECT id, vector_json(vector), distance FROM docs WHERE vector MATCH '[1,1,1]' ORDER BY distance",
      "SELECT id, distance, vector_json(vector_at('docs', id)) FROM vector_search('docs', '[1,1,1]', 20)",
      "SELECT seq, id, hex(delta) FROM delta_log('docs', 0)",
      "SELECT seq, hex(delta) FROM delta_chain('docs', 'a')",
      "SELECT id, vector_json(vector) FROM docs WHERE as_of='2100-01-01'",
  };
  for (size_t q = 0; q < sizeof queries / sizeof queries[0]; q++) {
    for (size_t i = 0; i < 26; i++) {
      if (strstr(changes[i], "delta_rollback")) continue; /* names a delta of the first round */
      char *expected = sqlite3_mprintf("%s", sql_rows(a, "%s", queries[q])), *got = sqlite3_mprintf("");
      sqlite3_stmt *stmt = sql_prepare(b, "%s", queries[q]);
      int rc, n = 0;
      for (; (rc = sqlite3_step(stmt)) == SQLITE_ROW; n++) {
        if (n == 0) make_change(a, i);
        for (int c = 0; c < sqlite3_column_count(stmt); c++) {
          const char *z = (const char *)sqlite3_column_text(stmt, c);
          got = sqlite3_mprintf("%z%s%s", got, c ? "|" : n ? " " : "", z ? z : "NULL");
        }
      }
      ck_assert_msg(rc == SQLITE_DONE, "%s, during %s: %d %s", queries[q], changes[i], rc, sqlite3_errmsg(b));
      sqlite3_finalize(stmt);
      ck_assert_msg(strcmp(expected, got) == 0, "%s, during %s:\n%s\nexpected\n%s", queries[q], changes[i], got,
                    expected);
      sqlite3_free(expected);
      sqlite3_free(got);
      if (n == 0) make_change(a, i);
    }
    sql_run(a,
            "DELETE FROM docs; SELECT delta_compact('docs', '{\"keep\":\"none\"}'); DROP TABLE IF EXISTS source;" INSERT
            "('a', '[1,0,0]'), ('b', '[0,1,0]'), ('c', '[0,0,1]')");
  }
}
END_TEST

/* DELETE mode: a writer that has written makes another writer wait, a reader makes the commit wait; afterwards all is
 * there. */
START_TEST(locks_are_waited_for) {
  if (is_wal()) return;
  sql_run(a, "BEGIN; " INSERT "('d', '[1,1,1]')");
  sql_fails(b, SQLITE_BUSY, "locked", INSERT "('e', '[1,1,1]')");
  sql_fails(b, SQLITE_BUSY, "locked", "SELECT delta_apply('docs', 'a', delta_scale(2))");
  sql_fails(b, SQLITE_BUSY, "locked", "BEGIN IMMEDIATE");
  sql_is(b, "abc", IDS);
  sql_run(b, "BEGIN");
  sql_is(b, "abc", IDS);
  sql_fails(a, SQLITE_BUSY, "locked", "COMMIT");
  sql_run(b, "COMMIT");
  sql_run(a, "COMMIT");
  sql_run(b, INSERT "('e', '[1,1,1]')");
  sql_is(a, "abcde", IDS);
  sql_agrees(a);
}
END_TEST

/* WAL: readers and a writer do not disturb each other; two writers exclude each other with SQLITE_BUSY. */
START_TEST(wal_writers_exclude_each_other) {
  if (!is_wal()) return;
  sql_run(a, "BEGIN; " INSERT "('d', '[1,1,1]')");
  sql_fails(b, SQLITE_BUSY, "locked", INSERT "('e', '[1,1,1]')");
  sql_fails(b, SQLITE_BUSY, "locked", "SELECT delta_apply('docs', 'a', delta_scale(2))");
  sql_is(b, "abc", IDS);
  sql_run(a, "COMMIT");
  sql_is(b, "abcd", IDS);
  sql_run(b, INSERT "('e', '[1,1,1]')");
  sql_is(a, "abcde", IDS);
  sql_agrees(a);
}
END_TEST

/* A connection that was away for thousands of commits, some of which settled and compacted, comes back. */
START_TEST(long_absence) {
  assert_same_state(a, b, "opening");
  for (int i = 0; i < 5; i++) {
    sql_run(a, "BEGIN");
    sql_insert_many(a, "docs", 1 + 2000 * i, 2000 * (i + 1));
    sql_run(a, "COMMIT; UPDATE docs SET delta=delta_offset(0.25) WHERE rowid %% 4 = %d", i);
    if (i == 2) sql_run(a, "SELECT delta_compact('docs', '{\"keep\":\"1 version\"}')");
  }
  sql_is(b, "10003", "SELECT count(*) FROM docs");
  for (int i = 1; i < 10000; i += 997) {
    sql_is(b, sql_rows(a, "SELECT id, distance FROM docs WHERE vector MATCH vector_at('docs', 'r%d') AND k=3", i),
           "SELECT id, distance FROM docs WHERE vector MATCH vector_at('docs', 'r%d') AND k=3", i);
  }
  sql_run(b, "DELETE FROM docs WHERE rowid > 50");
  assert_same_state(b, a, "DELETE");
  sql_sound(a);
}
END_TEST

/* The other connection's memory is of a table that is dropped, or made anew with the same columns, while it reads. */
START_TEST(table_is_replaced_under_a_reader) {
  sql_rows(b, IDS);
  sql_run(b, "SELECT delta_apply('docs', 'a', delta_scale(1))");
  for (int i = 0; i < 3; i++) {
    if (is_wal()) sql_run(b, "BEGIN; SELECT count(*) FROM docs");
    sql_run(a, "DROP TABLE docs");
    sql_create_docs(a, 3);
    sql_run(a, INSERT "('x%d', '[5,5,5]')", i);
    if (is_wal()) {
      sql_is(b, i ? "1" : "3", "SELECT count(*) FROM docs");
      sql_rows(b, "SELECT * FROM vector_search('docs', '[1,1,1]', 5)");
      sql_run(b, "COMMIT");
    }
    assert_same_state(a, b, "DROP and CREATE");
    sql_run(b, "SELECT delta_apply('docs', 'x%d', delta_scale(2))", i);
    sql_is(a, "[10,10,10]", "SELECT vector_json(vector) FROM docs");
  }
  sql_agrees(a);
}
END_TEST

/* ---- at random --------------------------------------------------------------------------------------------------- */

#define N_CONNECTIONS 3
#define N_IDS 12

typedef struct model {
  bool exists[N_IDS];
  int v[N_IDS];
} model;

typedef struct player {
  sqlite3 *db;
  bool is_in_transaction, has_snapshot, has_savepoint;
  model now, savepoint; /* what it must see, once has_snapshot */
} player;

typedef struct game {
  player players[N_CONNECTIONS];
  model committed;
  uint64_t seed, random;
  int step;
} game;

static uint32_t random_below(game *g, uint32_t n) {
  g->random = g->random * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)((g->random >> 33) % n);
}

static const char *expected_rows(const model *m) {
  static char text[1024];
  size_t n = 0;
  text[0] = 0;
  for (int i = 0; i < N_IDS; i++) {
    if (m->exists[i]) n += (size_t)snprintf(text + n, sizeof text - n, "%c[%d,1]", 'a' + i, m->v[i]);
  }
  return text;
}

/* The connection sees what it must: its transaction's state, or the committed one. */
static void check_player(game *g, player *p, const char *what) {
  static const char *const queries[] = {
      "SELECT coalesce(group_concat(id || vector_json(vector), ''), '') FROM (SELECT id, vector FROM docs ORDER BY id) "
      "AS t",
      "SELECT coalesce(group_concat(id || v, ''), '') FROM (SELECT id, vector_json(vector_at('docs', id)) AS v"
      " FROM vector_search('docs', '[0,1]', 99) ORDER BY id) AS t"};
  for (size_t q = 0; q < sizeof queries / sizeof queries[0]; q++) {
    sqlite3_stmt *stmt = NULL;
    int rc = sqlite3_prepare_v2(p->db, queries[q], -1, &stmt, NULL);
    if (rc == SQLITE_OK) rc = sqlite3_step(stmt);
    if (rc == SQLITE_BUSY) { /* DELETE mode: somebody's COMMIT waits for readers to end, and lets no new ones in */
      sqlite3_finalize(stmt);
      return;
    }
    ck_assert_msg(rc == SQLITE_ROW, "seed %llu, step %d, after %s: %s: %d %s", (unsigned long long)g->seed, g->step,
                  what, queries[q], rc, sqlite3_errmsg(p->db));
    if (p->is_in_transaction && !p->has_snapshot) {
      p->now = g->committed;
      p->has_snapshot = true;
    }
    const char *rows = (const char *)sqlite3_column_text(stmt, 0);
    const char *expected = expected_rows(p->is_in_transaction ? &p->now : &g->committed);
    ck_assert_msg(strcmp(rows, expected) == 0, "seed %llu, step %d, connection %d, after %s: %s:\n%s\nexpected\n%s",
                  (unsigned long long)g->seed, g->step, (int)(p - g->players), what, queries[q], rows, expected);
    sqlite3_finalize(stmt);
  }
}

/* A random write, and what it does to m. */
static void choose_write(game *g, char *sql, size_t n_sql, model *m) {
  int row = (int)random_below(g, N_IDS), next = (row + 1) % N_IDS, value = (int)random_below(g, 100) + 1;
  char id = (char)('a' + row);
  switch (random_below(g, 7)) {
  case 0:
    snprintf(sql, n_sql, "INSERT OR REPLACE INTO docs(id, vector) VALUES('%c', '[%d,1]')", id, value);
    m->exists[row] = true;
    m->v[row] = value;
    break;
  case 1:
    snprintf(sql, n_sql, "DELETE FROM docs WHERE id='%c'", id);
    m->exists[row] = false;
    break;
  case 2:
    snprintf(sql, n_sql, "UPDATE docs SET vector='[%d,1]' WHERE id='%c'", value, id);
    m->v[row] = value;
    break;
  case 3:
    snprintf(sql, n_sql, "UPDATE docs SET delta=delta_sparse('[0]', '[%d]')", value);
    for (int i = 0; i < N_IDS; i++) m->v[i] = value;
    break;
  case 4:
    snprintf(sql, n_sql, "INSERT OR IGNORE INTO docs(id, vector) VALUES('%c', '[%d,1]'), ('%c', '[%d,1]')", id, value,
             'a' + next, value);
    if (!m->exists[row]) m->v[row] = value;
    if (!m->exists[next]) m->v[next] = value;
    m->exists[row] = m->exists[next] = true;
    break;
  case 5:
    snprintf(sql, n_sql, "SELECT delta_apply('docs', id, delta_sparse('[0]', '[%d]')) FROM docs WHERE id='%c'", value,
             id);
    m->v[row] = value;
    break;
  default: {
    static const char *const commands[] = {
        "SELECT delta_compact('docs', '{\"keep\":\"none\"}')", "INSERT INTO docs(docs) VALUES('optimize')",
        "SELECT delta_compact('docs', '{\"keep\":\"3 versions\"}')", "INSERT INTO docs(docs) VALUES('rebuild')",
        "INSERT INTO docs(docs) VALUES('integrity-check')"};
    snprintf(sql, n_sql, "%s", commands[random_below(g, 5)]);
    break;
  }
  }
}

static void play(game *g) {
  player *p = &g->players[random_below(g, N_CONNECTIONS)];
  uint32_t dice = random_below(g, 100);
  model after = p->has_snapshot ? p->now : g->committed;
  bool writes = false;
  char sql[256];
  if (dice < 50) {
    writes = true;
    choose_write(g, sql, sizeof sql, &after);
  } else if (dice < 62) {
    snprintf(sql, sizeof sql, p->is_in_transaction ? "SELECT 1" : "BEGIN");
  } else if (dice < 80) {
    snprintf(sql, sizeof sql, !p->is_in_transaction ? "SELECT 1" : dice < 74 ? "COMMIT" : "ROLLBACK");
  } else if (dice < 86) {
    if (!p->is_in_transaction) return;
    check_player(g, p, "SAVEPOINT"); /* takes the snapshot, if it was not */
    if (!p->has_snapshot) return;
    if (getenv("DV_TRACE")) fprintf(stderr, "%d: %c: SAVEPOINT s\n", g->step, 'A' + (int)(p - g->players));
    sql_run(p->db, p->has_savepoint ? "RELEASE s; SAVEPOINT s" : "SAVEPOINT s");
    p->has_savepoint = true;
    p->savepoint = p->now;
    return;
  } else if (dice < 92) {
    if (!p->has_savepoint) return;
    if (getenv("DV_TRACE")) fprintf(stderr, "%d: %c: ROLLBACK TO s\n", g->step, 'A' + (int)(p - g->players));
    sql_run(p->db, "ROLLBACK TO s");
    p->now = p->savepoint;
    check_player(g, p, "ROLLBACK TO");
    return;
  } else if (dice < 94) {
    if (getenv("DV_TRACE")) fprintf(stderr, "%d: %c: close\n", g->step, 'A' + (int)(p - g->players));
    sql_close(p->db);
    memset(p, 0, sizeof *p);
    p->db = sql_open_flags(file, SQLITE_OPEN_READWRITE);
    sql_try(p->db, NULL, "%s", sql_profile_now->pragmas); /* some need a lock; it works without them too */
    return;
  } else {
    check_player(g, p, "nothing");
    return;
  }
  bool has_written = sqlite3_txn_state(p->db, "main") == SQLITE_TXN_WRITE;
  char *message = NULL;
  int rc = sql_try(p->db, &message, "%s", sql);
  bool is_refused = rc == SQLITE_BUSY || (rc == SQLITE_LOCKED && message && strstr(message, "savepoint"));
  ck_assert_msg(rc == SQLITE_OK || is_refused, "seed %llu, step %d: %s: %d %s", (unsigned long long)g->seed, g->step,
                sql, rc, message ? message : "");
  sqlite3_free(message);
  bool was_in_transaction = p->is_in_transaction;
  p->is_in_transaction = sqlite3_get_autocommit(p->db) == 0;
  ck_assert_msg(rc == SQLITE_OK || p->is_in_transaction == was_in_transaction,
                "seed %llu, step %d: %s: ended the transaction", (unsigned long long)g->seed, g->step, sql);
  if (rc == SQLITE_OK && writes && p->is_in_transaction) {
    p->now = after;
    p->has_snapshot = true;
  } else if (rc == SQLITE_OK && writes) {
    g->committed = after;
  } else if (was_in_transaction && !p->is_in_transaction) {
    if (strcmp(sql, "COMMIT") == 0 && has_written) g->committed = p->now;
    p->has_snapshot = p->has_savepoint = false;
  }
  if (getenv("DV_TRACE")) fprintf(stderr, "%d: %c: %s -> %d\n", g->step, 'A' + (int)(p - g->players), sql, rc);
  check_player(g, p, sql);
}

/* Three connections begin, write, cut savepoints, commit, roll back, compact and reopen at random; each sees exactly
 * its snapshot and its own changes, and SQLITE_BUSY is the only refusal. */
START_TEST(random_interleavings) {
  const char *seed = getenv("DV_SEED"), *steps = getenv("DV_STEPS");
  int n_steps = steps ? atoi(steps) : 1000;
  game g;
  memset(&g, 0, sizeof g);
  g.seed = seed ? strtoull(seed, NULL, 10) : (uint64_t)_i + 1;
  g.random = g.seed * 7919;
  sql_run(a, "DROP TABLE docs");
  sql_create_docs(a, 2);
  for (int i = 0; i < N_CONNECTIONS; i++) g.players[i].db = sql_open(file);
  for (g.step = 0; g.step < n_steps; g.step++) play(&g);
  for (int i = 0; i < N_CONNECTIONS; i++) sql_close(g.players[i].db);
  sql_is(a, expected_rows(&g.committed),
         "SELECT coalesce(group_concat(id || vector_json(vector), ''), '') FROM (SELECT id, vector FROM docs ORDER BY "
         "id) AS t");
  sql_agrees(a);
}
END_TEST

static int count_prepared(void *ctx, int what, const char *one, const char *two, const char *three, const char *four) {
  (void)one, (void)two, (void)three, (void)four;
  *(int *)ctx += what == SQLITE_SELECT;
  return SQLITE_OK;
}

/* Somebody who searches beside a busy writer spent a tenth of that time on a statement that had SQLite connect the table anew,
 * after each commit of the other. It is needed only after a change of the schema. */
START_TEST(rows_of_others_prepare_nothing) {
  static const char search[] = "SELECT id FROM vector_search('docs', '[9,0,0]', 1)";
  int n_prepared = 0;
  sqlite3_set_authorizer(b, count_prepared, &n_prepared);
  sqlite3_stmt *stmt = sql_prepare(b, "%s", search);
  for (int i = 0; i < 6; i++) {
    sql_run(a, "UPDATE docs SET vector=CASE WHEN id='%c' THEN '[9,0,0]' ELSE '[0,0,0]' END", 'a' + i % 3);
    if (i == 3) n_prepared = 0; /* now it has all the statements that it needs */
    ck_assert_int_eq(sqlite3_step(stmt), SQLITE_ROW);
    ck_assert_int_eq(sqlite3_column_text(stmt, 0)[0], 'a' + i % 3);
    sqlite3_reset(stmt);
  }
  ck_assert_int_eq(n_prepared, 0);
  /* The schema of another one does: and so it is seen that preparing is counted. */
  sql_run(a, "CREATE TABLE other(x); UPDATE docs SET vector='[7,0,0]' WHERE id='a'");
  ck_assert_int_eq(sqlite3_step(stmt), SQLITE_ROW);
  ck_assert_int_gt(n_prepared, 0);
  sqlite3_finalize(stmt);
  sqlite3_set_authorizer(b, NULL, NULL);
}
END_TEST

/* Named with its schema, a table had SQLite prepare a statement each time: vector_at took 25 times as long. */
START_TEST(names_with_a_schema_prepare_nothing) {
  int n_prepared = 0;
  sql_run(a, "CREATE TABLE other(x); INSERT INTO other VALUES('a'), ('b'), ('c'), ('a'), ('b'), ('c')");
  sqlite3_set_authorizer(b, count_prepared, &n_prepared);
  static const char *const names[] = {"docs", "main.docs", "MAIN.Docs"};
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
    sqlite3_stmt *stmt = sql_prepare(b, "SELECT sum(length(vector_at('%s', x))) FROM other", names[i]);
    for (int j = 0; j < 2; j++) {
      if (j == 1) n_prepared = 0; /* now it has all the statements that it needs */
      ck_assert_int_eq(sqlite3_step(stmt), SQLITE_ROW);
      ck_assert_int_eq(sqlite3_column_int(stmt, 0), 6 * 3 * 4);
      sqlite3_reset(stmt);
    }
    ck_assert_int_eq(n_prepared, 0);
    sqlite3_finalize(stmt);
  }
  sqlite3_set_authorizer(b, NULL, NULL);
}
END_TEST

/* A dot may be in a table's name, and then that table is meant, whichever was asked for first, and whoever made it. */
START_TEST(names_with_a_dot_come_first) {
  static const char look[] = "SELECT vector_json(vector_at('main.docs', 'a'))";
  static const char first[] = "[1,0,0]";
  for (int mine = 0; mine < 2; mine++) {
    for (int i = 0; i < 2; i++) sql_is(b, first, "%s", look);
    sql_run(mine ? b : a,
            "CREATE VIRTUAL TABLE \"main.docs\" USING delta_vectors(dimensions=2); INSERT INTO \"main.docs\""
            "(id, vector) VALUES('a', '[1,2]')");
    for (int i = 0; i < 2; i++) sql_is(b, "[1,2]", "%s", look);
    sql_is(b, "[1,2]", "SELECT vector_json(vector_at('main.main.docs', 'a'))");
    sql_is(b, first, "SELECT vector_json(vector_at('docs', 'a'))");
    sqlite3 *c = sql_open(file);
    sql_is(c, first, "SELECT vector_json(vector_at('docs', 'a'))"); /* it knows no other table yet */
    sql_is(c, "[1,2]", "%s", look);
    sql_close(c);
    sql_run(mine ? b : a, "DROP TABLE \"main.docs\"");
  }
  sql_run(a, "ALTER TABLE docs RENAME TO \"main.d\"");
  sql_is(b, first, "SELECT vector_json(vector_at('main.d', 'a'))");
  sql_fails(b, SQLITE_ERROR, "no such table: main.docs", "%s", look);
}
END_TEST

static void add_tests(Suite *suite, const sql_profile *profile, void (*open)(void)) {
  TCase *t = tcase_create(profile->name);
  tcase_set_timeout(t, 240);
  tcase_add_checked_fixture(t, open, close_files);
  tcase_add_test(t, every_change_is_seen);
  tcase_add_test(t, writers_take_turns);
  tcase_add_test(t, uncommitted_changes_are_private);
  tcase_add_test(t, open_snapshot_does_not_move);
  tcase_add_test(t, slow_select_sees_one_moment);
  tcase_add_test(t, locks_are_waited_for);
  tcase_add_test(t, wal_writers_exclude_each_other);
  tcase_add_test(t, long_absence);
  tcase_add_test(t, table_is_replaced_under_a_reader);
  tcase_add_test(t, rows_of_others_prepare_nothing);
  tcase_add_test(t, names_with_a_schema_prepare_nothing);
  tcase_add_test(t, names_with_a_dot_come_first);
  tcase_add_loop_test(t, random_interleavings, 0, 5);
  suite_add_tcase(suite, t);
}

int main(int argc, char **argv) {
  Suite *suite = suite_create("concurrent");
  add_tests(suite, &sql_default, use_default);
  add_tests(suite, &sql_wal, use_wal);
  add_tests(suite, &sql_tiny, use_tiny);
  return sql_main(suite, argc, argv);
}
