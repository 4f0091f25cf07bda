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

/* The last record that is settled. */
static int64_t settled_seq(sqlite3 *db) {
  sqlite3_stmt *s = sql_prepare(db, "SELECT value FROM docs_meta WHERE key = 'settled'");
  int64_t seq = 0;
  if (sqlite3_step(s) == SQLITE_ROW && sqlite3_column_bytes(s, 0) >= 24) {
    const uint8_t *bytes = sqlite3_column_blob(s, 0);
    for (int i = 7; i >= 0; i--) seq = seq << 8 | bytes[16 + i];
  }
  ck_assert_int_eq(sqlite3_finalize(s), SQLITE_OK);
  return seq;
}

/* Two connections change rows at random, in turns; one of them is opened anew now and then, in the middle of sweeps. The log
 * that whoever opens the table has to read stays within what settle.c says; no commit writes more than a part of the table;
 * and all that is derived is right at every moment. */
START_TEST(backlog_stays_short) {
  enum { N = 6000, N_COMMIT = 60, N_COMMITS = 1500, LIMIT = 4 * N };
  const char *file = sql_path("backlog.db");
  sqlite3 *one = sql_open(file), *other = NULL;
  random_state = 7;
  sql_run(one, "PRAGMA journal_mode=WAL");
  sql_run(one, "CREATE VIRTUAL TABLE docs USING delta_vectors(id INTEGER PRIMARY KEY, v FLOAT[32] distance_metric=l2, "
               "index=flat)");
  sql_run(one,
          "WITH RECURSIVE i(k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM i WHERE k < %d) "
          "INSERT INTO docs SELECT k, CAST(zeroblob(124) || x'0000803f' AS BLOB) FROM i",
          N);
  other = sql_open(file);
  int64_t most_behind = 0, most_written = 0, n_sweeps = 0, before = settled_seq(one);
  for (int c = 0; c < N_COMMITS; c++) {
    sqlite3 *db = c % 2 ? other : one;
    sql_run(db, "BEGIN");
    for (int i = 0; i < N_COMMIT; i++) {
      sqlite3_stmt *s = sql_prepare(db, "SELECT delta_apply('docs', %d, delta_sparse('[%d]', '[%d.5]'))", 1 + below(N),
                                    below(32), below(100));
      ck_assert_msg(sqlite3_step(s) == SQLITE_ROW, "%s", sqlite3_errmsg(db));
      sqlite3_finalize(s);
    }
    int written = 0, high;
    sqlite3_db_status(db, SQLITE_DBSTATUS_CACHE_WRITE, &written, &high, 1);
    sql_run(db, "COMMIT");
    sqlite3_db_status(db, SQLITE_DBSTATUS_CACHE_WRITE, &written, &high, 1);
    int64_t settled = settled_seq(db), behind = sql_integer(db, "SELECT delta_status('docs') ->> 'last_seq'") - settled;
    if (behind > most_behind) most_behind = behind;
    if (written > most_written) most_written = written;
    n_sweeps += settled != before;
    before = settled;
    if (c % 70 == 69) {
      sql_close(other);
      other = sql_open(file);
    }
    if (c % 200 == 199) sql_sound(c % 400 == 199 ? one : other);
  }
  ck_assert_msg(most_behind > LIMIT / 2 && most_behind <= LIMIT + LIMIT / 2 + 2 * N_COMMIT,
                "%d records were behind the settled place", (int)most_behind);
  ck_assert_msg(n_sweeps >= 2 && n_sweeps <= N_COMMITS / 20, "the settled place moved %d times", (int)n_sweeps);
  ck_assert_msg(most_written <= 30, "a commit wrote %d pages", (int)most_written);
  sql_close(other);
  sql_close(one);
}
END_TEST

/* 'optimize' leaves nothing to be settled. And whoever settles what is settled writes nothing: the connection that did it,
 * one that had read the table before, one that opens it afterwards. */
START_TEST(settled_table_is_left_alone) {
  static const char *const names[] = {"the same connection", "one that knew it before", "a new one"};
  const char *file = sql_path("settled.db");
  sqlite3 *watcher = sql_open(file), *connections[3] = {sql_open(file), sql_open(file), NULL};
  sql_run(connections[0], "CREATE VIRTUAL TABLE docs USING delta_vectors(id INTEGER PRIMARY KEY, v FLOAT[4], index=%s)",
          _i ? "hnsw" : "flat");
  sql_run(connections[0], "WITH RECURSIVE i(k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM i WHERE k < 3000)"
                          " INSERT INTO docs SELECT k, json_array(k, 1, 2, k %% 7) FROM i");
  ck_assert_int_eq(sql_integer(connections[1], "SELECT count(*) FROM docs"), 3000);
  sql_run(connections[0], "INSERT INTO docs(docs) VALUES('optimize')");
  ck_assert_int_eq(settled_seq(connections[0]), 3000);
  connections[2] = sql_open(file);
  int64_t version = sql_integer(watcher, "PRAGMA data_version");
  for (int i = 0; i < 3; i++) {
    ck_assert_int_eq(sql_integer(connections[i], "SELECT delta_settle('docs')"), 0);
    ck_assert_msg(sql_integer(watcher, "PRAGMA data_version") == version, "delta_settle() by %s wrote something",
                  names[i]);
    sql_run(connections[i], "INSERT INTO docs(docs) VALUES('optimize')");
    ck_assert_msg(sql_integer(watcher, "PRAGMA data_version") == version, "'optimize' by %s wrote something", names[i]);
    sql_sound(connections[i]);
  }
  for (int i = 0; i < 3; i++) sql_close(connections[i]);
  sql_close(watcher);
}
END_TEST

/* `settled` is lost: heads and codes are made anew, and their checksums too. */
START_TEST(lost_settled_is_made_anew) {
  const char *file = sql_path("lost.db");
  sqlite3 *db = sql_open(file);
  sql_run(db, "CREATE VIRTUAL TABLE docs USING delta_vectors(id INTEGER PRIMARY KEY, v FLOAT[4], index=%s)",
          _i ? "hnsw" : "flat");
  sql_run(db, "WITH RECURSIVE i(k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM i WHERE k < 3000)"
              " INSERT INTO docs SELECT k, json_array(k, 1, 2, k %% 7) FROM i");
  sql_run(db, "INSERT INTO docs(docs) VALUES('optimize')");
  ck_assert_int_gt(sql_integer(db, "SELECT count(*) FROM docs_head"), 0);
#ifdef DVX_SMALL_LIMITS
  ck_assert_int_gt(sql_integer(db, "SELECT count(*) FROM docs_code"), 0);
#endif
  sql_run(db, "DELETE FROM docs_meta WHERE key = 'settled'");
  sql_close(db);
  db = sql_open(file);
  sql_run(db, "INSERT INTO docs(docs) VALUES('optimize')");
  ck_assert_int_eq(settled_seq(db), 3000);
  sql_sound(db);
  sql_close(db);
}
END_TEST

/* Rows that another connection has changed since codes were read: their chains are walked together, back to a full vector. */
START_TEST(chains_are_walked_together) {
  enum { N = 400, N_CHANGED = 12 };
  const char *file = sql_path("walks.db");
  sqlite3 *db = sql_open(file), *other = NULL;
  sql_run(db, "CREATE VIRTUAL TABLE docs USING delta_vectors(id INTEGER PRIMARY KEY, v FLOAT[8] distance_metric=l2,"
              " index=flat, memory_limit=200000)");
  sql_run(db,
          "WITH RECURSIVE i(k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM i WHERE k < %d)"
          " INSERT INTO docs SELECT k, json_array(k, 1, 2, k %% 7, 0, 0, 0, 0) FROM i",
          N);
  sql_run(db, "INSERT INTO docs(docs) VALUES('optimize')");
  sql_close(db);
  db = sql_open(file);
  ck_assert_int_eq(sql_integer(db, "SELECT id FROM docs WHERE v MATCH '[7,1,2,0,0,0,0,0]' AND k = 1"), 7);
  other = sql_open(file);
  for (int step = 1; step <= 3; step++) {
    for (int i = 1; i <= N_CHANGED; i++)
      sql_run(other, "SELECT delta_apply('docs', %d, delta_sparse('[%d]', '[%d]'))", 30 * i, 4 + step, 1000 * step + i);
    for (int i = 1; i <= N_CHANGED; i++) {
      ck_assert_int_eq(sql_integer(db,
                                   "SELECT id FROM docs WHERE v MATCH json_array(%d, 1, 2, %d, 0, %d, %d, %d) AND k = 1"
                                   " AND distance = 0",
                                   30 * i, 30 * i % 7, 1000 + i, step > 1 ? 2000 + i : 0, step > 2 ? 3000 + i : 0),
                       30 * i);
    }
  }
  sql_close(other);
  sql_close(db);
}
END_TEST

static int count_step(void *n_steps) {
  ++*(int *)n_steps;
  return 0;
}

/* Whoever looks up many ids that are not there has all of them read into memory, once. */
START_TEST(misses_read_the_ids_once) {
  const char *file = sql_path("misses.db");
  sqlite3 *db = sql_open(file);
  sql_run(db, "CREATE VIRTUAL TABLE docs USING delta_vectors(id TEXT PRIMARY KEY, v FLOAT[2], index=flat)");
  sql_run(db, "WITH RECURSIVE i(k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM i WHERE k < 2000)"
              " INSERT INTO docs SELECT 'row ' || k, json_array(k, 1) FROM i");
  sql_close(db);
  db = sql_open(file);
  int n_steps = 0;
  for (int i = 0; i < 100; i++) {
    if (i == 50) sqlite3_progress_handler(db, 1, count_step, &n_steps);
    ck_assert_int_eq(sql_integer(db, "SELECT count(*) FROM docs WHERE id = 'none %d'", i), 0);
  }
  sqlite3_progress_handler(db, 0, NULL, NULL);
  ck_assert_msg(n_steps > 0 && n_steps < 50 * 100, "50 ids took %d steps", n_steps);
  ck_assert_int_eq(sql_integer(db, "SELECT count(*) FROM docs WHERE id = 'row 1999'"), 1);
  sql_close(db);
}
END_TEST

/* What a large transaction has pending is written early, and its memory given back. */
START_TEST(pending_deltas_take_no_more_than_they_may) {
#ifdef DVX_SMALL_LIMITS
  enum { N = 1500, MIB = 2 }; /* 6 MB are pending */
#else
  enum { N = 20000, MIB = 80 }; /* 80 MB, in a buffer that would be 128 MiB */
#endif
  sqlite3 *db = sql_open(sql_path("large.db"));
  sql_run(db, "PRAGMA cache_size = 20");
  sql_run(db, "CREATE VIRTUAL TABLE docs USING delta_vectors(id INTEGER PRIMARY KEY, v FLOAT[1024], index=flat)");
  sqlite3_int64 most = 0, before = sqlite3_memory_used();
  sql_run(db, "BEGIN; SAVEPOINT s");
  sqlite3_stmt *insert = sql_prepare(db, "INSERT INTO docs(id, v) VALUES(?1, CAST(zeroblob(4092) || ?2 AS BLOB))");
  for (int i = 1; i <= N; i++) {
    const float last = (float)i;
    sqlite3_bind_int(insert, 1, i);
    sqlite3_bind_blob(insert, 2, &last, sizeof last, SQLITE_TRANSIENT);
    ck_assert_int_eq(sqlite3_step(insert), SQLITE_DONE);
    sqlite3_reset(insert);
    if (sqlite3_memory_used() - before > most) most = sqlite3_memory_used() - before;
  }
  sqlite3_finalize(insert);
  ck_assert_msg(most < (sqlite3_int64)MIB << 20, "it took %d kB", (int)(most >> 10));
  sql_run(db, "RELEASE s; COMMIT");
  ck_assert_int_eq(sql_integer(db, "SELECT count(*) FROM docs"), N);
  sql_close(db);
}
END_TEST

/* 2^53 milliseconds before and after 1970 are times, and nothing beyond. */
START_TEST(first_and_last_times) {
  sqlite3 *db = sql_open(sql_path("times.db"));
  sql_run(db, "CREATE VIRTUAL TABLE docs USING delta_vectors(id INTEGER PRIMARY KEY, v FLOAT[2])");
  sql_run(db, "INSERT INTO docs(id, v, as_of) VALUES(1, '[1,2]', -9007199254740992)");
  sql_run(db, "UPDATE docs SET v = '[3,4]', as_of = 9007199254740992 WHERE id = 1");
  sql_fails(db, SQLITE_ERROR, "out of range", "UPDATE docs SET v = '[5,6]', as_of = 9007199254740993 WHERE id = 1");
  sql_fails(db, SQLITE_ERROR, "out of range", "INSERT INTO docs(id, v, as_of) VALUES(2, '[1,2]', -9007199254740993)");
  ck_assert_int_eq(sql_integer(db, "SELECT max(timestamp) FROM delta_chain('docs', 1)"), 9007199254740992);
  sql_close(db);
}
END_TEST

/* A scan looks at bits first: a row that changed is found by those of its new vector. */
enum { SCANNED = 3000, WIDE = 128 };

static void bind_random(sqlite3_stmt *s, uint64_t seed) {
  float v[WIDE];
  random_state = seed;
  for (int j = 0; j < WIDE; j++) v[j] = (float)(below(2001) - 1000);
  sqlite3_bind_blob(s, 2, v, sizeof v, SQLITE_TRANSIENT);
}

START_TEST(changed_rows_are_found_by_scans) {
  static uint64_t seeds[SCANNED]; /* what each row was made of */
  sqlite3 *db = sql_open(sql_path("bits.db"));
  sql_run(db, "CREATE VIRTUAL TABLE docs USING delta_vectors(id INTEGER PRIMARY KEY, v FLOAT[%d], index=flat)", WIDE);
  sqlite3_stmt *insert = sql_prepare(db, "INSERT INTO docs(id, v) VALUES(?1, ?2)");
  sqlite3_stmt *update = sql_prepare(db, "UPDATE docs SET v = ?2 WHERE id = ?1");
  sqlite3_stmt *nearest = sql_prepare(db, "SELECT id FROM vector_search('docs', ?2, 1) WHERE ?1 IS NULL");
  for (int step = 0; step < 40; step++) {
    sqlite3_stmt *change = step == 0 ? insert : update;
    sql_run(db, "BEGIN");
    for (int i = 0; i < (step == 0 ? SCANNED : 100); i++) {
      int row = step == 0 ? i : (i * 31 + step * 7) % SCANNED;
      seeds[row] = (uint64_t)(step * SCANNED + i);
      sqlite3_bind_int(change, 1, row);
      bind_random(change, seeds[row]);
      ck_assert_int_eq(sqlite3_step(change), SQLITE_DONE);
      sqlite3_reset(change);
    }
    sql_run(db, "COMMIT");
    for (int q = 0; q < 20; q++) {
      int row = (q * 31 + step * 7) % SCANNED; /* the first of those that changed */
      bind_random(nearest, seeds[row]);
      ck_assert_int_eq(sqlite3_step(nearest), SQLITE_ROW);
      ck_assert_msg(sqlite3_column_int(nearest, 0) == row, "step %d: row %d is not found where it is", step, row);
      sqlite3_reset(nearest);
    }
  }
  sqlite3_finalize(insert);
  sqlite3_finalize(update);
  sqlite3_finalize(nearest);
  sql_close(db);
}
END_TEST

static int count_log_reads(unsigned kind, void *n, void *statement, void *sql) {
  (void)kind, (void)statement;
  *(int *)n += strstr(sql, "docs_log") != NULL;
  return 0;
}

/* Chains that lie side by side in the log are walked together: each pack is read about once, and not once for each row. */
START_TEST(walks_read_each_pack_about_once) {
  enum {
    N = 6000,
    N_CHANGED = 16,
    N_ROUNDS = 40
  }; /* a round fills a pack; more of them than a table keeps in memory */
  const char *file = sql_path("packs.db");
  sqlite3 *db = sql_open(file);
  sql_run(db,
          "CREATE VIRTUAL TABLE docs USING delta_vectors(id INTEGER PRIMARY KEY, v FLOAT[8] distance_metric=l2, +body "
          "TEXT, index=flat)");
  sql_run(db,
          "WITH RECURSIVE i(k) AS (SELECT 1 UNION ALL SELECT k + 1 FROM i WHERE k < %d)"
          " INSERT INTO docs(id, v, body) SELECT k, json_array(k, 1, 2, 0, 0, 0, 0, 0), hex(zeroblob(2100)) FROM i",
          N);
  sql_run(db, "INSERT INTO docs(docs) VALUES('optimize')");
  ck_assert_int_gt(sql_integer(db, "SELECT count(*) FROM docs_code"), 0); /* so that a search needs few vectors */
  sql_close(db);
  db = sql_open(file);
  ck_assert_int_eq(sql_integer(db, "SELECT id FROM docs WHERE v MATCH '[7,1,2,0,0,0,0,0]' AND k = 1"), 7);
  sqlite3 *other = sql_open(file);
  for (int round = 1; round <= N_ROUNDS; round++) {
    sql_run(other, "BEGIN");
    for (int i = 1; i <= N_CHANGED; i++)
      sql_run(
          other,
          "SELECT delta_apply('docs', %d, delta_sparse('[7]', '[%d]'), NULL, json_object('body', hex(zeroblob(250))))",
          300 * i, round);
    sql_run(other, "COMMIT");
  }
  int n_reads = 0;
  sqlite3_trace_v2(db, SQLITE_TRACE_STMT, count_log_reads, &n_reads);
  for (int i = 1; i <= N_CHANGED; i++)
    ck_assert_int_eq(
        sql_integer(db, "SELECT id FROM docs WHERE v MATCH json_array(%d,1,2,0,0,0,0,%d) AND k = 1", 300 * i, N_ROUNDS),
        300 * i);
  sqlite3_trace_v2(db, 0, NULL, NULL);
  ck_assert_msg(n_reads >= N_ROUNDS && n_reads < 5 * N_ROUNDS, "the log was read %d times", n_reads);
  sql_close(other);
  sql_close(db);
}
END_TEST

static uint64_t load_u64(const uint8_t *p) {
  uint64_t v = 0;
  for (int i = 7; i >= 0; i--) v = v << 8 | p[i];
  return v;
}

static void store_u64(uint8_t *p, uint64_t v) {
  for (int i = 0; i < 8; i++) p[i] = (uint8_t)(v >> 8 * i);
}

/* docs/file-format.md, `settled` */
static uint64_t mix(uint32_t vid, uint64_t word) {
  uint64_t h = word ^ vid * UINT64_C(0x9e3779b97f4a7c15);
  h = (h ^ h >> 30) * UINT64_C(0xbf58476d1ce4e5b9);
  h = (h ^ h >> 27) * UINT64_C(0x94d049bb133111eb);
  return h ^ h >> 31;
}

static void read_blob(sqlite3 *db, const char *sql, uint8_t *out, int n) {
  sqlite3_stmt *s = sql_prepare(db, "%s", sql);
  ck_assert_int_eq(sqlite3_step(s), SQLITE_ROW);
  ck_assert_int_ge(sqlite3_column_bytes(s, 0), n);
  memcpy(out, sqlite3_column_blob(s, 0), (size_t)n);
  sqlite3_finalize(s);
}

/* A file whose heads say that a row is there, with right checksums, where the log says that it was deleted: whoever asks for
 * its vector is told so, and gets no numbers from anywhere. */
START_TEST(head_of_a_deleted_row_that_says_it_is_there) {
  const char *file = sql_path("heads.db");
  sqlite3 *db = sql_open(file);
  sql_run(db, "CREATE VIRTUAL TABLE docs USING delta_vectors(id INTEGER PRIMARY KEY, v FLOAT[2] distance_metric=l2, "
              "index=flat);"
              "INSERT INTO docs VALUES(1, '[1,1]'), (2, '[2,2]'), (3, '[3,3]'); DELETE FROM docs WHERE id = 2;"
              "INSERT INTO docs(docs) VALUES('optimize')");
  sql_close(db);
  db = sql_open(file);
  uint8_t head[16], settled[56];
  read_blob(db, "SELECT heads FROM docs_head", head, sizeof head);
  read_blob(db, "SELECT value FROM docs_meta WHERE key = 'settled'", settled, sizeof settled);
  uint64_t word = load_u64(head + 8), there = word & ~UINT64_C(0x8000);
  ck_assert(word != there);
  store_u64(head + 8, there);
  store_u64(settled + 48, load_u64(settled + 48) - mix(2, word) + mix(2, there));
  sqlite3_stmt *s = sql_prepare(db, "UPDATE docs_head SET heads = CAST(?1 || substr(heads, 17) AS BLOB)");
  sqlite3_bind_blob(s, 1, head, sizeof head, SQLITE_STATIC);
  ck_assert_int_eq(sqlite3_step(s), SQLITE_DONE);
  sqlite3_finalize(s);
  s = sql_prepare(db, "UPDATE docs_meta SET value = CAST(?1 || substr(value, 57) AS BLOB) WHERE key = 'settled'");
  sqlite3_bind_blob(s, 1, settled, sizeof settled, SQLITE_STATIC);
  ck_assert_int_eq(sqlite3_step(s), SQLITE_DONE);
  sqlite3_finalize(s);
  sql_run(db, "DELETE FROM docs_meta WHERE key = 'checks'"); /* as in a file made before there were any */
  sql_close(db);
  db = sql_open(file);
  sql_is(db, "3", "SELECT delta_status('docs') ->> 'rows'"); /* it is believed, so far */
  sql_fails(db, SQLITE_CORRUPT, "the chain of row number 2 does not fold at record 4", "SELECT vector_at('docs', 2)");
  sql_fails(db, SQLITE_CORRUPT, "the chain of row number 2 does not fold at record 4",
            "SELECT v FROM docs WHERE id = 2");
  sql_is(db, "[3,3]", "SELECT vector_json(vector_at('docs', 3))");
  sql_close(db);
}
END_TEST

/* ---- memory with an edge ------------------------------------------------------------------------------------------ */

enum { EDGE = 64 };
static sqlite3_mem_methods plain;

static bool edge_is_whole(const void *p) {
  const uint8_t *edge = (const uint8_t *)p + plain.xSize((void *)(uintptr_t)p) - EDGE;
  for (int i = 0; i < EDGE; i++)
    if (edge[i] != 0xed) return false;
  return true;
}

static void *edged(void *p) {
  if (p) memset((uint8_t *)p + plain.xSize(p) - EDGE, 0xed, EDGE);
  return p;
}

static void *edge_malloc(int n) { return edged(plain.xMalloc(n + EDGE)); }
static int edge_size(void *p) { return plain.xSize(p) - EDGE; }
static int edge_roundup(int n) { return plain.xRoundup(n); }

static void edge_free(void *p) {
  ck_assert_msg(edge_is_whole(p), "something was written behind the end of %d bytes", edge_size(p));
  plain.xFree(p);
}

static void *edge_realloc(void *p, int n) {
  ck_assert_msg(edge_is_whole(p), "something was written behind the end of %d bytes", edge_size(p));
  return edged(plain.xRealloc(p, n + EDGE));
}

/* As deep as somebody likes. What a level needs is remembered in an array, which grows at the 17th, the 33rd, ...: one that
 * did so one too late was noticed by nobody, so here each piece of memory has an edge. */
START_TEST(savepoints_as_deep_as_somebody_likes) {
  static const int depths[] = {15, 16, 17, 18, 32, 33, 34, 65};
  sqlite3_shutdown();
  ck_assert_int_eq(sqlite3_config(SQLITE_CONFIG_GETMALLOC, &plain), SQLITE_OK);
  sqlite3_mem_methods edge = plain;
  edge.xMalloc = edge_malloc, edge.xFree = edge_free, edge.xRealloc = edge_realloc, edge.xSize = edge_size;
  edge.xRoundup = edge_roundup;
  ck_assert_int_eq(sqlite3_config(SQLITE_CONFIG_MALLOC, &edge), SQLITE_OK);
  for (size_t d = 0; d < sizeof depths / sizeof *depths; d++) {
    sqlite3 *db = sql_open(":memory:");
    sql_run(db, "CREATE VIRTUAL TABLE docs USING delta_vectors(id INTEGER PRIMARY KEY, v FLOAT[1], index=flat); BEGIN");
    for (int i = 1; i <= depths[d]; i++)
      sql_run(db, "SAVEPOINT s%d; INSERT INTO docs(id, v) VALUES(%d, '[%d]')", i, i, i);
    for (int i = depths[d]; i >= 1; i--) {
      sql_run(db, "ROLLBACK TO s%d", i);
      ck_assert_int_eq(sql_integer(db, "SELECT count(*) FROM docs"), i - 1);
      if (i % 2) sql_run(db, "RELEASE s%d", i);
    }
    sql_run(db, "INSERT INTO docs(id, v) VALUES(1, '[1]'); COMMIT");
    sql_is(db, "1", "SELECT id FROM docs");
    sql_sound(db);
    sql_close(db);
  }
  sqlite3_shutdown();
  ck_assert_int_eq(sqlite3_config(SQLITE_CONFIG_MALLOC, &plain), SQLITE_OK);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("upkeep");
  TCase *tc = tcase_create("upkeep");
  tcase_set_timeout(tc, 600);
  tcase_add_checked_fixture(tc, sql_setup, sql_teardown);
  tcase_add_test(tc, backlog_stays_short);
  tcase_add_test(tc, changed_rows_are_found_by_scans);
  tcase_add_test(tc, walks_read_each_pack_about_once);
  suite_add_tcase(suite, tc);
  /* With any thresholds: tests/mutation runs it by its name. */
  TCase *any = tcase_create("any_thresholds");
  tcase_set_timeout(any, 600);
  tcase_add_checked_fixture(any, sql_setup, sql_teardown);
  tcase_add_test(any, same_log_same_graph);
  tcase_add_test(any, head_of_a_deleted_row_that_says_it_is_there);
  tcase_add_test(any, savepoints_as_deep_as_somebody_likes);
  tcase_add_loop_test(any, settled_table_is_left_alone, 0, 2);
  tcase_add_loop_test(any, lost_settled_is_made_anew, 0, 2);
  tcase_add_test(any, chains_are_walked_together);
  tcase_add_test(any, pending_deltas_take_no_more_than_they_may);
  tcase_add_test(any, first_and_last_times);
  tcase_add_test(any, misses_read_the_ids_once);
  suite_add_tcase(suite, any);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int n_failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return n_failed ? 1 : 0;
}
