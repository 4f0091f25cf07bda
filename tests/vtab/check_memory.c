/*
 * check_memory.c: a table under a memory_limit answers as one without, and holds no more than it may; and a graph that
 * any number of threads has built is the same, byte for byte.
 */
#include "support.h"

#include <math.h>
#if defined(__linux__)
#include <sys/mman.h>
#endif

/* Large enough for codes to be stored (the log has more than 24 MiB), and for a graph. */
enum { DIMENSIONS = 1024, ROWS = 6500, LIMIT_MB = 4, QUERIES = 12 };

static sqlite3 *db;

static void memory_setup(void) {
  sql_setup();
  db = sql_open(sql_path("test.db"));
}

static void memory_teardown(void) {
  sql_close(db);
  sql_teardown();
}

/* Rows near one of fifty centres, with a number and a word to filter by. */
static void fill(const char *table, int first, int last) {
  sqlite3_stmt *insert =
      sql_prepare(db, "INSERT INTO \"%w\"(id, vector, part, word) VALUES(?1, ?2, ?1 %% 100, 'w' || ?1 %% 7)", table);
  static float v[DIMENSIONS];
  sql_run(db, "BEGIN");
  for (int i = first; i <= last; i++) {
    uint32_t centre = (uint32_t)(i % 50) * 2654435761u + 1, x = (uint32_t)i * 2246822519u + 1;
    for (int j = 0; j < DIMENSIONS; j++) {
      centre = centre * 1664525u + 1013904223u;
      x = x * 1664525u + 1013904223u;
      v[j] = (float)((double)(centre >> 8) / 8388608.0 - 1.0 + ((double)(x >> 8) / 8388608.0 - 1.0) / 2);
    }
    sqlite3_bind_int(insert, 1, i);
    sqlite3_bind_blob(insert, 2, v, sizeof v, SQLITE_STATIC);
    sqlite3_step(insert);
    ck_assert_msg(sqlite3_reset(insert) == SQLITE_OK, "row %d: %s", i, sqlite3_errmsg(db));
  }
  sqlite3_finalize(insert);
  sql_run(db, "COMMIT");
}

static void create(const char *table, const char *options) {
  sql_run(db,
          "CREATE VIRTUAL TABLE \"%w\" USING delta_vectors(id INTEGER PRIMARY KEY, vector FLOAT[%d], part INTEGER, "
          "word TEXT, index=hnsw, hnsw_m=8, hnsw_ef_construction=40%s)",
          table, DIMENSIONS, options);
}

static int64_t memory_of(const char *table) { return sql_integer(db, "SELECT delta_status('%q') ->> 'memory'", table); }

/* A table with and one without the limit, both just opened. */
static void make_both(void) {
  char limited[40];
  snprintf(limited, sizeof limited, ", memory_limit=%d", LIMIT_MB);
  create("free", "");
  create("limited", limited);
  fill("free", 1, ROWS);
  fill("limited", 1, ROWS);
  sql_run(db, "INSERT INTO free(free) VALUES('optimize')");
  sql_run(db, "INSERT INTO limited(limited) VALUES('optimize')");
  ck_assert_int_eq(sql_integer(db, "SELECT count(*) > 0 FROM limited_code"), 1);
  sql_close(db);
  db = sql_open(sql_path("test.db"));
}

/* What `search` finds, %s being the table's name, in both tables. */
#define agree(...) agree_at(__LINE__, __VA_ARGS__)
static void agree_at(int line, const char *search, int row) {
  char *of_free = sqlite3_mprintf(search, "free", "free", row);
  char *of_limited = sqlite3_mprintf(search, "limited", "limited", row);
  char *expected = sqlite3_mprintf("%s", sql_rows(db, "%s", of_free));
  const char *found = sql_rows(db, "%s", of_limited);
  ck_assert_msg(strcmp(expected, found) == 0, "line %d, row %d: %s\n  expected %s\n  found    %s", line, row,
                of_limited, expected, found);
  sqlite3_free(expected);
  sqlite3_free(of_free);
  sqlite3_free(of_limited);
}

static const char by_graph[] =
    "SELECT id, distance FROM \"%w\" WHERE vector MATCH (SELECT vector FROM \"%w\" WHERE id = %d) AND k = 10";
static const char exactly[] =
    "SELECT id, distance FROM vector_search('%q', (SELECT vector FROM \"%w\" WHERE id = %d), 10, '{\"exact\":true}')";
static const char filtered[] =
    "SELECT id, distance FROM \"%w\" WHERE vector MATCH (SELECT vector FROM \"%w\" WHERE id = %d) "
    "AND k = 10 AND part < 3 AND word <> 'w1'";
static const char within[] =
    "SELECT id, distance FROM \"%w\" WHERE vector MATCH (SELECT vector FROM \"%w\" WHERE id = %d) AND distance < 10.5";

START_TEST(limited_memory_gives_the_same_answers) {
  make_both();
  for (int q = 0; q < QUERIES; q++) {
    int row = 1 + q * (ROWS / QUERIES);
    agree(by_graph, row);
    agree(exactly, row);
    agree(filtered, row);
    agree(within, row);
  }
}
END_TEST

START_TEST(limited_memory_is_kept_to) {
  make_both();
  int64_t limit = (int64_t)LIMIT_MB << 20, most = 0;
  for (int q = 0; q < QUERIES; q++) {
    agree(by_graph, 1 + q * 17);
    agree(exactly, 1 + q * 17);
    sql_rows(db, by_graph, "limited", "limited", 5000 + q); /* every search begins within the limit ... */
    int64_t now = memory_of("limited");
    if (now > most) most = now;
  }
  /* ... and one takes no more on its way than a part of a scan, some vectors, and records of the log. */
  ck_assert_msg(most < limit + (3 << 20), "%lld bytes under a limit of %d MB", (long long)most, LIMIT_MB);
  ck_assert_msg(memory_of("free") > 2 * limit, "without a limit it takes %lld: this test shows nothing",
                (long long)memory_of("free"));
}
END_TEST

/* Pages of the file that SQLite was asked for. */
static int64_t pages_read(void) {
  int hits = 0, misses = 0, unused = 0;
  sqlite3_db_status(db, SQLITE_DBSTATUS_CACHE_HIT, &hits, &unused, 0);
  sqlite3_db_status(db, SQLITE_DBSTATUS_CACHE_MISS, &misses, &unused, 0);
  return (int64_t)hits + misses;
}

/* A limit that has room for codes and lists and for some of the vectors, and memory is full of vectors, as it is after
 * inserting: vectors go, codes and lists stay. A search reads vectors of its answer, and few are not there. */
START_TEST(vectors_go_before_codes) {
  enum { SOME_VECTORS_MB = 32, SEARCHES = 200 };
  create("free", ", memory_limit=32"); /* of 35 that it would take */
  fill("free", 1, ROWS);
  sql_run(db, "INSERT INTO free(free) VALUES('optimize')");
  int64_t before = 0;
  for (int q = 0; q < 2 * SEARCHES; q++) {
    if (q == SEARCHES) before = pages_read();
    sql_rows(db, by_graph, "free", "free", 1 + q * 37 % ROWS);
  }
  int64_t mean = (pages_read() - before) / SEARCHES;
  ck_assert_msg(mean < 25, "%lld pages a search", (long long)mean);
  ck_assert_int_lt(memory_of("free"), (SOME_VECTORS_MB + 3) << 20);
}
END_TEST

/* What is given back and read again must be the state of now, not the one that was stored. */
START_TEST(limited_memory_follows_changes) {
  make_both();
  for (int step = 0; step < 4; step++) {
    for (const char *const *t = (const char *const[]){"free", "limited", NULL}; *t; t++) {
      sql_run(db, "UPDATE \"%w\" SET delta = delta_offset(0.25) WHERE id %% 40 = %d", *t, step);
      sql_run(db, "DELETE FROM \"%w\" WHERE id %% 97 = %d", *t, step);
      sql_run(db, "UPDATE \"%w\" SET part = 1 WHERE id %% 1000 = %d", *t, step);
      if (step == 2) sql_run(db, "INSERT INTO \"%w\"(\"%w\") VALUES('optimize')", *t, *t);
    }
    for (int q = 0; q < 6; q++) {
      int row = 120 + q * 900 + step; /* not one that was deleted */
      if (sql_integer(db, "SELECT count(*) FROM free WHERE id = %d", row) == 0) row += 4;
      agree(exactly, row);
      agree(filtered, row);
      agree(within, row);
    }
    sql_run(db, "BEGIN");
    sql_run(db, "UPDATE limited SET delta = delta_scale(0.5) WHERE id %% 10 = 3");
    sql_rows(db, exactly, "limited", "limited", 130 + step);
    sql_run(db, "ROLLBACK");
    agree(exactly, 131 + step);
  }
  sql_run(db, "INSERT INTO limited(limited) VALUES('integrity-check')");
}
END_TEST

#if defined(__linux__) && defined(__x86_64__)
#define LARGE_PAGE ((size_t)2 << 20)
enum { COLLAPSE = 25 }; /* MADV_COLLAPSE, which headers before Linux 6.1 do not have */

/* Does the system make a large page of small ones for who asks, and is it allowed to? */
static bool has_large_pages(void) {
  char setting[64] = "";
  FILE *f = fopen("/sys/kernel/mm/transparent_hugepage/enabled", "r");
  bool has = f && fgets(setting, sizeof setting, f) && !strstr(setting, "[never]");
  if (f) fclose(f);
  char *memory = malloc(2 * LARGE_PAGE);
  ck_assert_ptr_nonnull(memory);
  memset(memory, 1, 2 * LARGE_PAGE);
  has = has && madvise(memory + (0 - (uintptr_t)memory) % LARGE_PAGE, LARGE_PAGE, COLLAPSE) == 0;
  free(memory);
  return has;
}

static long large_kb(void) {
  char line[128];
  long kb = -1;
  FILE *f = fopen("/proc/self/smaps_rollup", "r");
  while (f && fgets(line, sizeof line, f))
    if (strncmp(line, "AnonHugePages:", 14) == 0) kb = strtol(line + 14, NULL, 10);
  if (f) fclose(f);
  return kb;
}

START_TEST(what_is_searched_again_and_again_gets_large_pages) {
  if (!has_large_pages()) return;
  make_both();
  sql_rows(db, exactly, "free", "free", 1); /* all codes are in memory */
  long before = large_kb();
  for (int q = 0; q < 300; q++) sql_rows(db, by_graph, "free", "free", 1 + q);
  long now = large_kb();
  ck_assert_msg(now - before >= 2048, "%ld kB in large pages before, %ld after", before, now);
  for (int q = 0; q < 4; q++) agree(exactly, 1 + q * 17);
  /* Parts of large pages can be given back. */
  sql_run(db, "INSERT INTO free(free) VALUES('memory_limit=%d')", LIMIT_MB);
  for (int q = 0; q < 40; q++) agree(q % 2 ? exactly : by_graph, 1 + q * 17);
  ck_assert_int_lt(memory_of("free"), (LIMIT_MB + 3) << 20);
}
END_TEST
#endif

START_TEST(limit_is_set_by_a_command_for_good) {
  create("docs", "");
  fill("docs", 1, 10);
  sql_run(db, "INSERT INTO docs(docs) VALUES('memory_limit=3')");
  sql_run(db, "INSERT INTO docs(docs) VALUES('threads=0')");
  sql_is(db, "memory_limit|3 threads|0",
         "SELECT key, value FROM docs_meta WHERE key IN ('memory_limit', 'threads') ORDER BY 1");
  sql_fails(db, SQLITE_ERROR, "memory_limit=0: expected a number from 1 to 1048576",
            "INSERT INTO docs(docs) VALUES('memory_limit=0')");
  sql_fails(db, SQLITE_ERROR, "memory_limit=lots: expected a number from 1 to 1048576",
            "INSERT INTO docs(docs) VALUES('memory_limit=lots')");
  sql_fails(db, SQLITE_ERROR, "threads=65: expected a number from 0 to 64",
            "INSERT INTO docs(docs) VALUES('threads=65')");
  sql_fails(db, SQLITE_ERROR, "threads=: expected a number from 0 to 64", "INSERT INTO docs(docs) VALUES('threads=')");
  sql_is(db, "memory_limit|3 threads|0",
         "SELECT key, value FROM docs_meta WHERE key IN ('memory_limit', 'threads') ORDER BY 1");
}
END_TEST

/* Pending deltas are held up to 32 MiB: so is their memory, and not twice as much. Then it is given back. */
START_TEST(a_large_transaction_holds_what_it_says) {
  enum { WIDE = 4096, MOST = 32 << 20, SLACK = 2 << 20, WRITTEN = MOST / (WIDE * 4) + 40 };
  sql_run(db, "CREATE VIRTUAL TABLE docs USING delta_vectors(dimensions=%d, metric=l2, compression=off); BEGIN", WIDE);
  int64_t most = 0, last = 0;
  for (int i = 0; i < WRITTEN; i++) {
    sql_run(db, "INSERT INTO docs(id, vector) VALUES(%d, zeroblob(%d))", i, WIDE * 4);
    last = memory_of("docs");
    if (last > most) most = last;
  }
  ck_assert_msg(most > MOST && most < MOST + SLACK, "%lld bytes", (long long)most);
  ck_assert_msg(last < SLACK, "%lld bytes", (long long)last);
  /* Behind a savepoint all of them stay, and are there after a ROLLBACK TO behind them. */
  sql_run(db, "SAVEPOINT s");
  for (int i = 0; i < WRITTEN; i++) sql_run(db, "UPDATE docs SET vector=zeroblob(%d) WHERE id=%d", WIDE * 4, i);
  ck_assert_int_gt(memory_of("docs"), MOST);
  sql_run(db, "SAVEPOINT t; DELETE FROM docs; ROLLBACK TO t; COMMIT");
  sql_is(db, "2088|4176", "SELECT delta_status('docs') ->> 'rows', delta_status('docs') ->> 'deltas'");
  sql_sound(db);
}
END_TEST

static const int thread_counts[] = {0, 1, 2, 3, 8, 64};

/* All blocks of the graph, and what %_meta says of it, in one number and a length. */
static const char *graph_of(const char *table) {
  return sql_rows(db,
                  "SELECT count(*), group_concat(hex(links), '') FROM (SELECT links FROM \"%w_graph\" ORDER BY block) "
                  "UNION ALL SELECT 0, hex(value) FROM \"%w_meta\" WHERE key = 'graph'",
                  table, table);
}

START_TEST(threads_build_the_same_graph) {
  char *expected = NULL;
  for (size_t i = 0; i < sizeof thread_counts / sizeof thread_counts[0]; i++) {
    char options[30], name[20];
    snprintf(options, sizeof options, ", threads=%d", thread_counts[i]);
    snprintf(name, sizeof name, "docs%d", thread_counts[i]);
    create(name, options);
    fill(name, 1, 2000);
    sql_run(db, "INSERT INTO \"%w\"(\"%w\") VALUES('optimize')", name, name);
    const char *graph = graph_of(name);
    if (!expected) expected = sqlite3_mprintf("%s", graph);
    ck_assert_msg(strlen(graph) > 100000, "there is no graph");
    ck_assert_msg(strcmp(graph, expected) == 0, "%d threads build another graph than none", thread_counts[i]);
    sql_run(db, "DROP TABLE \"%w\"", name);
  }
  sqlite3_free(expected);
}
END_TEST

/* On a thread of its own: what an application does whose user has pressed a key. */
static int interrupt_after_a_while(void *ctx) {
  int *n_left = ctx;
  if (--*n_left == 0) sqlite3_interrupt(db);
  return 0;
}

START_TEST(threads_end_when_the_build_is_interrupted) {
  if (sqlite3_libversion_number() < 3041000) return; /* does not tell of an interrupt */
  create("docs", ", threads=4");
  fill("docs", 1, 3000);
  int n_left = 60;
  sqlite3_progress_handler(db, 100, interrupt_after_a_while, &n_left);
  char *message = NULL;
  int rc = sql_try(db, &message, "INSERT INTO docs(docs) VALUES('optimize')");
  sqlite3_progress_handler(db, 0, NULL, NULL);
  sqlite3_free(message);
  ck_assert_int_eq(rc, SQLITE_INTERRUPT);
  sql_run(db, "INSERT INTO docs(docs) VALUES('integrity-check')");
  sql_run(db, "INSERT INTO docs(docs) VALUES('optimize')");
  sql_is(db, "hnsw", "SELECT delta_status('docs') ->> 'index'");
}
END_TEST

int main(int argc, char **argv) {
  Suite *suite = suite_create("memory");
  TCase *memory = tcase_create("memory"), *threads = tcase_create("threads");
  tcase_add_checked_fixture(memory, memory_setup, memory_teardown);
  tcase_add_test(memory, limited_memory_gives_the_same_answers);
  tcase_add_test(memory, limited_memory_is_kept_to);
  tcase_add_test(memory, vectors_go_before_codes);
  tcase_add_test(memory, limited_memory_follows_changes);
#if defined(__linux__) && defined(__x86_64__)
  tcase_add_test(memory, what_is_searched_again_and_again_gets_large_pages);
#endif
  tcase_add_test(memory, limit_is_set_by_a_command_for_good);
  tcase_add_test(memory, a_large_transaction_holds_what_it_says);
  suite_add_tcase(suite, memory);
  tcase_add_checked_fixture(threads, memory_setup, memory_teardown);
  tcase_add_test(threads, threads_build_the_same_graph);
  tcase_add_test(threads, threads_end_when_the_build_is_interrupted);
  suite_add_tcase(suite, threads);
  return sql_main(suite, argc, argv);
}
