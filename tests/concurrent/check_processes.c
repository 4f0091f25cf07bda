/*
 * check_processes.c: writers and readers in processes of their own on one file, in WAL and in DELETE mode, and threads
 * with a connection each.
 *
 * Each writer owns a group of rows and moves the whole group from number n to n+1 in one transaction, by whatever kinds
 * of deltas; when COMMIT has returned, it notes n in shared memory: the ledger. So every reader can tell at any time:
 *
 *   - all rows of a group have the same number: it sees whole transactions only;
 *   - the number is not below what the ledger said before the read began: what was acknowledged is there;
 *   - it never falls from one read to the next;
 *   - a scan, a search, look-ups in memory, the history and the log, read in one transaction, say the same.
 *
 * SQLITE_BUSY is the only refusal. At the end the ledger is compared with the file, and both integrity checks run. With
 * DV_KILL=1 (the default) a process is killed now and then, and another one takes its place.
 *
 * DV_SECONDS=n runs each mode for so long (default 3), DV_SEED=n with that seed. One mode: CK_RUN_CASE=wal,
 * CK_RUN_CASE=delete.
 */
#define _XOPEN_SOURCE 700
#ifndef _DEFAULT_SOURCE
#define _DEFAULT_SOURCE
#endif
#include "vtab/support.c" /* this directory has one program, and no helpers of its own */

#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>

#define N_WRITERS 2
#define N_READERS 2
#define N_PROCESSES (N_WRITERS + N_READERS)
#define N_ROWS 8 /* a group */
#define DIMENSIONS 4

typedef struct ledger {
  _Atomic int64_t acknowledged[N_WRITERS]; /* the number each writer's group is known to have reached */
  _Atomic int64_t n_commits, n_busy, n_reads, n_rewrites, n_kills;
  _Atomic bool is_over;
  _Atomic int n_failed;
  char failure[2048]; /* of the first process that found something wrong */
} ledger;

static ledger *shared;
static const char *file;

static void use_default(void) { sql_profile_now = &sql_default, sql_setup(), file = sql_path("test.db"); }
static void use_wal(void) { sql_profile_now = &sql_wal, sql_setup(), file = sql_path("test.db"); }

/* ---- in a child: a failure is told to the parent, not to Check --------------------------------------------------- */

static void give_up(const char *format, ...) {
  if (atomic_fetch_add(&shared->n_failed, 1) == 0) {
    va_list args;
    va_start(args, format);
    vsnprintf(shared->failure, sizeof shared->failure, format, args);
    va_end(args);
  }
  atomic_store(&shared->is_over, true);
  _exit(1);
}

typedef struct process {
  sqlite3 *db;
  int number; /* writers first */
  uint64_t random;
  const char *name;
} process;

static uint32_t random_below(process *p, uint32_t n) {
  p->random = p->random * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)((p->random >> 33) % n);
}

/* SQLITE_OK or SQLITE_BUSY; anything else ends the process. */
static int try_sql(process *p, const char *format, ...) {
  va_list args;
  va_start(args, format);
  char *sql = sqlite3_vmprintf(format, args), *message = NULL;
  va_end(args);
  int rc = sqlite3_exec(p->db, sql, NULL, NULL, &message);
  if (rc == SQLITE_BUSY)
    atomic_fetch_add(&shared->n_busy, 1);
  else if (rc != SQLITE_OK)
    give_up("%s %d: %s: %d %s", p->name, p->number, sql, rc, message ? message : "");
  sqlite3_free(message);
  sqlite3_free(sql);
  return rc;
}

/* One value as text into out (at most n bytes); SQLITE_ROW, SQLITE_DONE without a row, or SQLITE_BUSY. */
static int try_value(process *p, char *out, size_t n, const char *format, ...) {
  va_list args;
  va_start(args, format);
  char *sql = sqlite3_vmprintf(format, args);
  va_end(args);
  sqlite3_stmt *stmt = NULL;
  int rc = sqlite3_prepare_v2(p->db, sql, -1, &stmt, NULL);
  if (rc == SQLITE_OK) rc = sqlite3_step(stmt);
  out[0] = 0;
  if (rc == SQLITE_ROW)
    snprintf(out, n, "%s", sqlite3_column_text(stmt, 0) ? (const char *)sqlite3_column_text(stmt, 0) : "NULL");
  else if (rc != SQLITE_DONE && rc != SQLITE_BUSY)
    give_up("%s %d: %s: %d %s", p->name, p->number, sql, rc, sqlite3_errmsg(p->db));
  if (rc == SQLITE_BUSY) atomic_fetch_add(&shared->n_busy, 1);
  sqlite3_finalize(stmt);
  sqlite3_free(sql);
  return rc;
}

static int64_t try_integer(process *p, int *rc, const char *sql, int group) {
  char text[64];
  *rc = try_value(p, text, sizeof text, sql, group);
  return *rc == SQLITE_ROW ? strtoll(text, NULL, 10) : -1;
}

static void open_database(process *p) {
  if (sqlite3_open_v2(file, &p->db, SQLITE_OPEN_READWRITE, NULL) != SQLITE_OK) give_up("%s: cannot open", p->name);
#ifndef SQLITE_CORE
  char *message = NULL;
  sqlite3_enable_load_extension(p->db, 1);
  if (sqlite3_load_extension(p->db, DV_EXTENSION_PATH, NULL, &message) != SQLITE_OK)
    give_up("cannot load: %s", message);
#endif
  sqlite3_busy_timeout(p->db, (int)random_below(p, 3) * 20); /* with and without patience */
  sqlite3_exec(p->db, "PRAGMA synchronous=OFF", NULL, NULL, NULL);
}

/* ---- a writer ---------------------------------------------------------------------------------------------------- */

/* Moves the group to number n, one row by one kind of delta each; some detours. */
static int write_group(process *p, int64_t n) {
  int g = p->number, rc = SQLITE_OK;
  for (int row = 0; row < N_ROWS && rc == SQLITE_OK; row++) {
    long long i = n;
    switch (random_below(p, 8)) {
    case 0: rc = try_sql(p, "UPDATE docs SET delta=delta_sparse('[0]', '[%lld]') WHERE id='g%d-%d'", i, g, row); break;
    case 1: rc = try_sql(p, "UPDATE docs SET vector='[%lld,%d,%d,1]' WHERE id='g%d-%d'", i, g, row, g, row); break;
    case 2:
      rc = try_sql(
          p, "INSERT OR REPLACE INTO docs(id, vector, metadata) VALUES('g%d-%d', '[%lld,%d,%d,1]', '{\"n\":%lld}')", g,
          row, i, g, row, i);
      break;
    case 3:
      rc = try_sql(
          p, "DELETE FROM docs WHERE id='g%d-%d'; INSERT INTO docs(id, vector) VALUES('g%d-%d', '[%lld,%d,%d,1]')", g,
          row, g, row, i, g, row);
      break;
    case 4:
      rc = try_sql(p,
                   "SAVEPOINT s; UPDATE docs SET delta=delta_scale(3) WHERE id LIKE 'g%d-%%'; DELETE FROM docs WHERE "
                   "id='g%d-%d'; ROLLBACK TO s; RELEASE s",
                   g, g, row);
      if (rc == SQLITE_OK)
        rc = try_sql(p, "SELECT delta_apply('docs', 'g%d-%d', delta_dense('[%lld,%d,%d,1]'))", g, row, i, g, row);
      break;
    case 5:
      rc = try_sql(p,
                   "SELECT delta_apply_batch('docs', CAST(delta_pack('g%d-%d', delta_scale(2)) || delta_pack('g%d-%d', "
                   "delta_dense('[%lld,%d,%d,1]')) AS BLOB))",
                   g, row, g, row, i, g, row);
      break;
    default:
      rc = try_sql(p, "SELECT delta_apply('docs', 'g%d-%d', delta_sparse('[0]', '[%lld]'), NULL, '{\"n\":%lld}')", g,
                   row, i, i);
      break;
    }
  }
  return rc;
}

static void be_writer(process *p) {
  int g = p->number, rc;
  int64_t n;
  /* Where the group stands: at the ledger's number, or one beyond it when a predecessor was killed behind COMMIT. */
  do {
    n = try_integer(p, &rc, "SELECT json_extract(vector_json(vector), '$[0]') FROM docs WHERE id='g%d-0'", g);
  } while (rc != SQLITE_ROW);
  int64_t known = atomic_load(&shared->acknowledged[g]);
  if (n < known) give_up("writer %d begins at %lld, but %lld was acknowledged", g, (long long)n, (long long)known);
  while (!atomic_load(&shared->is_over)) {
    uint32_t what = random_below(p, 40);
    if (what == 0) {
      if (try_sql(p, "SELECT delta_compact('docs', '{\"keep\":\"%s\"}')",
                  random_below(p, 2) ? "none" : "20 versions") == SQLITE_OK) {
        atomic_fetch_add(&shared->n_rewrites, 1);
      }
      continue;
    }
    if (what == 1) {
      if (try_sql(p, "INSERT INTO docs(docs) VALUES('%s')", random_below(p, 2) ? "optimize" : "rebuild") == SQLITE_OK)
        atomic_fetch_add(&shared->n_rewrites, 1);
      continue;
    }
    rc = try_sql(p, random_below(p, 2) ? "BEGIN" : "BEGIN IMMEDIATE");
    if (rc == SQLITE_OK && random_below(p, 4) == 0)
      (void)try_sql(p, "SELECT count(*) FROM docs"); /* a snapshot that may be stale by then */
    if (rc == SQLITE_OK) rc = write_group(p, n + 1);
    if (rc == SQLITE_OK && random_below(p, 10) == 0) rc = SQLITE_ABORT; /* it changes its mind */
    for (int again = 0; rc == SQLITE_OK; again++) {
      rc = try_sql(p, "COMMIT");
      if (rc == SQLITE_OK) break;
      if (again == 20) break;
      rc = SQLITE_OK; /* refused with BUSY: the transaction goes on, so try again */
      usleep(500);
    }
    if (rc == SQLITE_OK) {
      n++;
      atomic_store(&shared->acknowledged[g], n);
      atomic_fetch_add(&shared->n_commits, 1);
    } else if (sqlite3_get_autocommit(p->db) == 0) {
      (void)try_sql(p, "ROLLBACK");
    }
    if (random_below(p, 200) == 0) {
      if (sqlite3_close(p->db) != SQLITE_OK) give_up("writer %d: close: %s", g, sqlite3_errmsg(p->db));
      open_database(p);
    }
  }
}

/* ---- a reader ---------------------------------------------------------------------------------------------------- */

static void be_reader(process *p) {
  int64_t last[N_WRITERS] = {0}, last_seq = 0;
  char text[4096];
  while (!atomic_load(&shared->is_over)) {
    int64_t floor[N_WRITERS], n[N_WRITERS];
    int rc;
    for (int g = 0; g < N_WRITERS; g++) floor[g] = atomic_load(&shared->acknowledged[g]);
    if (try_sql(p, "BEGIN") != SQLITE_OK) continue;
    bool is_whole = true;
    for (int look = 0; look < 3 && is_whole; look++) {
      for (int g = 0; g < N_WRITERS && is_whole; g++) {
        /* 1. a scan: each row's number, with its count */
        rc = try_value(p, text, sizeof text,
                       "SELECT group_concat(n || 'x' || c) FROM (SELECT json_extract(vector_json(vector), '$[0]') AS "
                       "n, count(*) AS c"
                       " FROM docs WHERE id LIKE 'g%d-%%' GROUP BY 1)",
                       g);
        if (rc == SQLITE_BUSY) {
          is_whole = false;
          break;
        }
        char expected[64];
        int64_t now = strtoll(text, NULL, 10);
        snprintf(expected, sizeof expected, "%lldx%d", (long long)now, N_ROWS);
        if (strcmp(text, expected) != 0) give_up("reader: a scan sees half a transaction: group %d is %s", g, text);
        if (look == 0) n[g] = now;
        if (now != n[g])
          give_up("reader: group %d moved from %lld to %lld inside a transaction", g, (long long)n[g], (long long)now);
        if (now < floor[g])
          give_up("reader: group %d is %lld, but %lld was acknowledged before", g, (long long)now, (long long)floor[g]);
        if (now < last[g]) give_up("reader: group %d fell from %lld to %lld", g, (long long)last[g], (long long)now);
        /* 2. a search finds exactly the group's rows where they are now */
        rc = try_value(p, text, sizeof text,
                       "SELECT group_concat(id) FROM (SELECT id FROM docs WHERE vector MATCH '[%lld,%d,3.5,1]' AND "
                       "k=%d AND distance < 6 AND id LIKE 'g%d-%%' ORDER BY id)",
                       (long long)now, g, N_ROWS, g);
        int found = text[0] ? 1 : 0;
        for (char *z = text; *z; z++) found += *z == ',';
        if (rc == SQLITE_ROW && found != N_ROWS)
          give_up("reader: group %d is at %lld, but a search finds %d of its rows: %s", g, (long long)now, found, text);
        /* 3. in memory, and by time */
        int row = (int)random_below(p, N_ROWS);
        long long m = try_integer(p, &rc, "SELECT json_extract(vector_json(vector_at('docs', 'g%d-0')), '$[0]')", g);
        if (rc == SQLITE_ROW && m != now) give_up("reader: vector_at() says %lld, a scan %lld", m, (long long)now);
        rc = try_value(
            p, text, sizeof text,
            "SELECT json_extract(vector_json(vector), '$[0]') FROM docs WHERE id='g%d-%d' AND as_of='2200-01-01'", g,
            row);
        if (rc == SQLITE_ROW && strtoll(text, NULL, 10) != now)
          give_up("reader: as_of the future says %s, a scan %lld", text, (long long)now);
      }
      if (!is_whole) break;
      /* 4. the log: seqs rise, the last is not below the one seen before */
      rc = try_value(p, text, sizeof text,
                     "SELECT max(seq) || ' ' || count(*) || ' ' || count(DISTINCT seq) FROM delta_log('docs', 0)");
      if (rc == SQLITE_ROW) {
        long long max, count, distinct;
        if (sscanf(text, "%lld %lld %lld", &max, &count, &distinct) != 3 || count != distinct || count > max)
          give_up("reader: the log has max, count, distinct %s", text);
        if (max < last_seq) give_up("reader: the last seq fell from %lld to %lld", (long long)last_seq, max);
        last_seq = max;
      }
    }
    if (is_whole) {
      for (int g = 0; g < N_WRITERS; g++) last[g] = n[g];
      atomic_fetch_add(&shared->n_reads, 1);
    }
    while (try_sql(p, "COMMIT") != SQLITE_OK) {
    }
    if (random_below(p, 100) == 0) {
      if (sqlite3_close(p->db) != SQLITE_OK) give_up("reader: close: %s", sqlite3_errmsg(p->db));
      open_database(p);
    }
  }
}

/* ---- the parent -------------------------------------------------------------------------------------------------- */

static pid_t start(int number, uint64_t seed) {
  pid_t pid = fork();
  ck_assert_int_ge(pid, 0);
  if (pid == 0) {
    process p = {NULL, number, seed * 2862933555777941757u + (uint64_t)number,
                 number < N_WRITERS ? "writer" : "reader"};
    open_database(&p);
    if (number < N_WRITERS)
      be_writer(&p);
    else
      be_reader(&p);
    if (sqlite3_close(p.db) != SQLITE_OK) give_up("%s: close", p.name);
    _exit(0);
  }
  return pid;
}

static double seconds_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

static int environment(const char *name, int otherwise) { return getenv(name) ? atoi(getenv(name)) : otherwise; }

static void make_database(void) {
  sqlite3 *db = sql_open(file);
  sql_run(db, "CREATE VIRTUAL TABLE docs USING delta_vectors(dimensions=%d, metric=l2, checkpoint_interval=20)",
          DIMENSIONS);
  for (int g = 0; g < N_WRITERS; g++) {
    for (int row = 0; row < N_ROWS; row++)
      sql_run(db, "INSERT INTO docs(id, vector) VALUES('g%d-%d', '[1,%d,%d,1]')", g, row, g, row);
  }
  sql_close(db); /* no connection is carried across fork() */
}

static void check_ledger(void) {
  sqlite3 *db = sql_open(file);
  for (int g = 0; g < N_WRITERS; g++) {
    int64_t n = sql_integer(db, "SELECT json_extract(vector_json(vector), '$[0]') FROM docs WHERE id='g%d-0'", g);
    int64_t known = atomic_load(&shared->acknowledged[g]);
    ck_assert_msg(n == known || (atomic_load(&shared->n_kills) > 0 && n == known + 1),
                  "group %d ends at %lld, the ledger says %lld", g, (long long)n, (long long)known);
  }
  sql_is(db, "16", "SELECT count(*) FROM docs");
  sql_agrees(db);
  sql_close(db);
}

START_TEST(processes_see_whole_transactions) {
  uint64_t seed = (uint64_t)environment("DV_SEED", 1);
  double seconds = environment("DV_SECONDS", 3);
  bool kills = environment("DV_KILL", 1) != 0;
  shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ck_assert(shared != MAP_FAILED);
  for (int g = 0; g < N_WRITERS; g++) atomic_store(&shared->acknowledged[g], 1);
  make_database();
  pid_t pids[N_PROCESSES];
  for (int i = 0; i < N_PROCESSES; i++) pids[i] = start(i, seed);
  double end = seconds_now() + seconds;
  process dice = {NULL, 0, seed, "parent"};
  while (seconds_now() < end && !atomic_load(&shared->is_over)) {
    usleep(20000 + random_below(&dice, 200000));
    if (!kills) continue;
    int victim = (int)random_below(&dice, N_PROCESSES);
    kill(pids[victim], SIGKILL);
    waitpid(pids[victim], NULL, 0);
    atomic_fetch_add(&shared->n_kills, 1);
    pids[victim] = start(victim, ++seed + 1000);
  }
  atomic_store(&shared->is_over, true);
  int n_bad = 0;
  for (int i = 0; i < N_PROCESSES; i++) {
    int status = 0;
    waitpid(pids[i], &status, 0);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) n_bad++;
  }
  printf("%s: %lld commits, %lld reads, %lld rewrites, %lld times busy, %lld killed\n", sql_profile_now->name,
         (long long)shared->n_commits, (long long)shared->n_reads, (long long)shared->n_rewrites,
         (long long)shared->n_busy, (long long)shared->n_kills);
  fflush(stdout);
  ck_assert_msg(shared->n_failed == 0 && n_bad == 0, "%d processes failed: %s", n_bad, shared->failure);
  ck_assert_int_gt(shared->n_commits, 0);
  ck_assert_int_gt(shared->n_reads, 0);
  check_ledger();
  munmap(shared, sizeof *shared);
}
END_TEST

/* ---- threads ----------------------------------------------------------------------------------------------------- */

static void *be_thread(void *argument) {
  process *p = argument;
  open_database(p);
  if (p->number < N_WRITERS)
    be_writer(p);
  else
    be_reader(p);
  if (sqlite3_close(p->db) != SQLITE_OK) give_up("%s: close", p->name);
  return NULL;
}

/* The same in threads of one process: connections share nothing. What is wrong ends the process; TSan sees the rest. */
START_TEST(threads_share_nothing) {
  uint64_t seed = (uint64_t)environment("DV_SEED", 1);
  ledger l;
  pthread_t threads[N_PROCESSES];
  process players[N_PROCESSES];
  memset(&l, 0, sizeof l);
  shared = &l;
  for (int g = 0; g < N_WRITERS; g++) atomic_store(&shared->acknowledged[g], 1);
  make_database();
  for (int i = 0; i < N_PROCESSES; i++) {
    players[i] = (process){NULL, i, seed * 77 + (uint64_t)i, i < N_WRITERS ? "writer" : "reader"};
    ck_assert_int_eq(pthread_create(&threads[i], NULL, be_thread, &players[i]), 0);
  }
  double end = seconds_now() + (double)environment("DV_SECONDS", 3) / 2;
  while (seconds_now() < end && !atomic_load(&shared->is_over)) usleep(10000);
  atomic_store(&shared->is_over, true);
  for (int i = 0; i < N_PROCESSES; i++) pthread_join(threads[i], NULL);
  ck_assert_msg(shared->n_failed == 0, "%s", shared->failure);
  ck_assert_int_gt(shared->n_commits, 0);
  check_ledger();
}
END_TEST

int main(int argc, char **argv) {
  Suite *suite = suite_create("processes");
  const struct {
    const char *name;
    void (*open)(void);
  } modes[] = {{"delete", use_default}, {"wal", use_wal}};
  for (int i = 0; i < 2; i++) {
    TCase *t = tcase_create(modes[i].name);
    tcase_set_timeout(t, 60 + 2 * environment("DV_SECONDS", 3));
    tcase_add_checked_fixture(t, modes[i].open, sql_teardown);
    tcase_add_test(t, processes_see_whole_transactions);
    tcase_add_test(t, threads_share_nothing);
    suite_add_tcase(suite, t);
  }
  return sql_main(suite, argc, argv);
}
