/*
 * check_kill.c: a writer is killed with SIGKILL at a random moment, again and again, and nothing that it was told is
 * committed may be missing.
 *
 * The child writes by every kind of delta, in transactions with savepoints, batches, compactions and settling, and
 * tells the parent through a pipe: before COMMIT the state it sees inside the transaction (checksum of every row's
 * vector and metadata, and the last seq), and behind COMMIT that it returned. The parent kills it after 1 to 30 ms,
 * opens the file and demands
 *
 *   - the state of the last acknowledged commit, or that of the one that was under way: bit for bit, never between;
 *   - every version of the last commits, by time, bit for bit, unless a compaction has merged it;
 *   - that 'integrity-check' and PRAGMA integrity_check find nothing.
 *
 * In some rounds the parent does not look, so that the next child meets the journal or WAL that the last one left, and
 * may be killed while it recovers. Each delta gets the number of its commit as its time, which is how versions are
 * found again.
 *
 * check_kill [N]: N kills (default 500, also DV_KILLS=N), divided among {WAL, DELETE} x {NORMAL, FULL}. DV_SEED=n.
 */
#define _XOPEN_SOURCE 700
#ifndef _DEFAULT_SOURCE
#define _DEFAULT_SOURCE
#endif
#include "vtab/support.c" /* this directory has one program, and no helpers of its own */

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/wait.h>
#include <time.h>

#define N_ROWS 16
#define DIMENSIONS 200 /* 800 bytes: most records straddle a pack sooner or later */
#define N_VERSIONS 256
#define FILE_ROUNDS 30 /* kills on one file before a fresh one */

static int n_kills = 500;

/* ---- what the two tell each other -------------------------------------------------------------------------------- */

typedef struct state {
  int64_t last_seq;
  uint32_t rows[N_ROWS]; /* checksum of vector and metadata; 0: the row is not there */
} state;

enum { HELLO = 1, PREPARED, UNKNOWN, DONE, FAILED };

typedef struct message {
  int kind;
  bool is_rewrite; /* older versions may be gone afterwards */
  int64_t time;
  state s; /* HELLO: as found; PREPARED: what COMMIT will bring; DONE: as it is */
  char text[200]; /* FAILED */
} message;

static uint64_t random_state;
static uint32_t random_below(uint32_t n) {
  random_state = random_state * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)((random_state >> 33) % n);
}

static uint32_t checksum(uint32_t sum, const void *bytes, size_t n) { /* FNV-1a */
  const uint8_t *p = bytes;
  for (size_t i = 0; i < n; i++) sum = (sum ^ p[i]) * 16777619u;
  return sum;
}

/* SQLITE_OK and the state, or an error code. */
static int read_state(sqlite3 *db, state *s) {
  sqlite3_stmt *stmt = NULL;
  memset(s, 0, sizeof *s);
  int rc = sqlite3_prepare_v2(db, "SELECT id, vector, metadata FROM docs", -1, &stmt, NULL);
  if (rc != SQLITE_OK) return rc;
  while ((rc = sqlite3_step(stmt)) == SQLITE_ROW) {
    int row = atoi((const char *)sqlite3_column_text(stmt, 0));
    uint32_t sum = checksum(2166136261u, sqlite3_column_blob(stmt, 1), (size_t)sqlite3_column_bytes(stmt, 1));
    sum = checksum(sum, sqlite3_column_blob(stmt, 2), (size_t)sqlite3_column_bytes(stmt, 2));
    if (row >= 0 && row < N_ROWS) s->rows[row] = sum ? sum : 1;
  }
  rc = sqlite3_finalize(stmt);
  if (rc == SQLITE_OK)
    rc = sqlite3_prepare_v2(db, "SELECT json_extract(delta_status('docs'), '$.last_seq')", -1, &stmt, NULL);
  if (rc != SQLITE_OK) return rc;
  if (sqlite3_step(stmt) == SQLITE_ROW) s->last_seq = sqlite3_column_int64(stmt, 0);
  return sqlite3_finalize(stmt);
}

/* ---- the child --------------------------------------------------------------------------------------------------- */

typedef struct writer {
  sqlite3 *db;
  int pipe;
  int64_t time; /* of the commit being made */
} writer;

static void tell(writer *w, const message *m) {
  if (write(w->pipe, m, sizeof *m) != (ssize_t)sizeof *m) _exit(0); /* the parent has gone */
}

static void give_up(writer *w, const char *what, int rc) {
  message m = {.kind = FAILED, .time = w->time};
  snprintf(m.text, sizeof m.text, "%.90s: %d %.90s", what, rc, sqlite3_errmsg(w->db));
  tell(w, &m);
  _exit(1);
}

static void must(writer *w, const char *format, ...) {
  va_list args;
  va_start(args, format);
  char *sql = sqlite3_vmprintf(format, args);
  va_end(args);
  int rc = sqlite3_exec(w->db, sql, NULL, NULL, NULL);
  if (rc != SQLITE_OK) give_up(w, sql, rc);
  sqlite3_free(sql);
}

static void random_vector(float *v) {
  for (int i = 0; i < DIMENSIONS; i++) v[i] = (float)((int)random_below(2000) - 1000) / 8;
}

static void run_bound(writer *w, const char *sql, int row, const void *blob, int n) {
  sqlite3_stmt *stmt = NULL;
  char id[8];
  int rc = sqlite3_prepare_v2(w->db, sql, -1, &stmt, NULL);
  if (rc != SQLITE_OK) give_up(w, sql, rc);
  snprintf(id, sizeof id, "%d", row);
  sqlite3_bind_text(stmt, 1, id, -1, SQLITE_TRANSIENT);
  sqlite3_bind_blob(stmt, 2, blob, n, SQLITE_STATIC);
  sqlite3_bind_int64(stmt, 3, w->time);
  sqlite3_step(stmt);
  rc = sqlite3_finalize(stmt);
  if (rc != SQLITE_OK) give_up(w, sql, rc);
}

static void insert(writer *w, int row) {
  float v[DIMENSIONS];
  random_vector(v);
  run_bound(w, "INSERT OR REPLACE INTO docs(id, vector, metadata, as_of) VALUES(?1, ?2, json_object('t', ?3), ?3)", row,
            v, sizeof v);
}

static bool exists(writer *w, int row) {
  sqlite3_stmt *stmt = NULL;
  bool found = false;
  if (sqlite3_prepare_v2(w->db, "SELECT 1 FROM docs WHERE id=?1", -1, &stmt, NULL) != SQLITE_OK)
    give_up(w, "exists", 1);
  char id[8];
  snprintf(id, sizeof id, "%d", row);
  sqlite3_bind_text(stmt, 1, id, -1, SQLITE_TRANSIENT);
  found = sqlite3_step(stmt) == SQLITE_ROW;
  sqlite3_finalize(stmt);
  return found;
}

/* Frames for many rows in one blob; enough of them make the commit settle. */
static void batch(writer *w, int n_frames) {
  sqlite3_stmt *stmt = NULL;
  uint8_t *frames = malloc((size_t)n_frames * 64);
  int n = 0;
  if (!frames ||
      sqlite3_prepare_v2(w->db, "SELECT delta_pack(?1, delta_sparse(?2, ?3), ?4)", -1, &stmt, NULL) != SQLITE_OK)
    give_up(w, "delta_pack", 1);
  for (int i = 0; i < n_frames; i++) {
    char id[8], index[16], value[16];
    int row = i % N_ROWS;
    if (i < N_ROWS && !exists(w, row)) insert(w, row);
    snprintf(id, sizeof id, "%d", row);
    snprintf(index, sizeof index, "[%u]", random_below(DIMENSIONS));
    snprintf(value, sizeof value, "[%u]", random_below(1000));
    sqlite3_bind_text(stmt, 1, id, -1, SQLITE_STATIC);
    sqlite3_bind_text(stmt, 2, index, -1, SQLITE_STATIC);
    sqlite3_bind_text(stmt, 3, value, -1, SQLITE_STATIC);
    sqlite3_bind_int64(stmt, 4, w->time);
    if (sqlite3_step(stmt) != SQLITE_ROW || sqlite3_column_bytes(stmt, 0) > 64) give_up(w, "delta_pack", 1);
    memcpy(frames + n, sqlite3_column_blob(stmt, 0), (size_t)sqlite3_column_bytes(stmt, 0));
    n += sqlite3_column_bytes(stmt, 0);
    sqlite3_reset(stmt);
  }
  sqlite3_finalize(stmt);
  run_bound(w, "SELECT delta_apply_batch('docs', ?2)", 0, frames, n);
  free(frames);
}

static void write_something(writer *w) {
  int row = (int)random_below(N_ROWS);
  long long t = w->time;
  if (!exists(w, row)) {
    insert(w, row);
    return;
  }
  switch (random_below(10)) {
  case 0: insert(w, row); break;
  case 1:
    must(w, "SELECT delta_apply('docs', '%d', delta_sparse('[%d,%d]', '[%d,0.5]'), %lld)", row, (int)random_below(100),
         100 + (int)random_below(100), (int)random_below(100), t);
    break;
  case 2:
    must(w, "SELECT delta_apply('docs', '%d', delta_scale(%s), %lld, '{\"n\":%d}')", row,
         random_below(2) ? "1.0625" : "0.96875", t, (int)random_below(1000));
    break;
  case 3: must(w, "SELECT delta_apply('docs', '%d', delta_offset(%d), %lld)", row, (int)random_below(9) - 4, t); break;
  case 4: must(w, "SELECT delta_apply('docs', '%d', delta_delete(), %lld)", row, t); break;
  case 5: must(w, "UPDATE docs SET delta=delta_sparse('[7]', '[%d]'), as_of=%lld", (int)random_below(1000), t); break;
  case 6:
    must(w, "UPDATE docs SET metadata='{\"m\":%d}', as_of=%lld WHERE id='%d'", (int)random_below(1000), t, row);
    break;
  case 7:
    must(w, "SAVEPOINT s");
    insert(w, (row + 1) % N_ROWS);
    must(w, "UPDATE docs SET delta=delta_scale(2), as_of=%lld; ROLLBACK TO s", t);
    insert(w, (row + 2) % N_ROWS);
    must(w, "RELEASE s");
    break;
  case 8: batch(w, random_below(8) ? 20 + (int)random_below(40) : 4500); break;
  default: {
    float v[DIMENSIONS];
    random_vector(v);
    run_bound(w, "SELECT delta_apply('docs', ?1, delta_dense(?2), ?3)", row, v, sizeof v);
    break;
  }
  }
}

static bool write_command(writer *w, bool is_in_transaction) {
  switch (random_below(6)) {
  case 0: must(w, "SELECT delta_compact('docs', '{\"keep\":\"none\"}')"); return true;
  case 1: must(w, "SELECT delta_compact('docs', '{\"keep\":\"5 versions\"}')"); return true;
  case 2: must(w, "INSERT INTO docs(docs) VALUES('rebuild')"); return false;
  case 3:
    if (is_in_transaction) return false;
    must(w, "PRAGMA wal_checkpoint(%s)", random_below(2) ? "TRUNCATE" : "PASSIVE");
    return false;
  default: must(w, "INSERT INTO docs(docs) VALUES('optimize')"); return false;
  }
}

static void be_writer(const char *file, const char *journal, const char *synchronous, int pipe, uint64_t seed,
                      int64_t time) {
  writer w = {NULL, pipe, time};
  message m = {.kind = HELLO};
  random_state = seed;
  if (sqlite3_open_v2(file, &w.db, SQLITE_OPEN_READWRITE, NULL) != SQLITE_OK) give_up(&w, "open", 1);
#ifndef SQLITE_CORE
  sqlite3_enable_load_extension(w.db, 1);
  if (sqlite3_load_extension(w.db, DV_EXTENSION_PATH, NULL, NULL) != SQLITE_OK) give_up(&w, "load", 1);
#endif
  must(&w, "PRAGMA journal_mode=%s; PRAGMA synchronous=%s; PRAGMA wal_autocheckpoint=50", journal, synchronous);
  int rc = read_state(w.db, &m.s);
  if (rc != SQLITE_OK) give_up(&w, "first read", rc);
  tell(&w, &m);
  for (;; w.time++) {
    m = (message){.kind = UNKNOWN, .time = w.time};
    uint32_t what = random_below(16);
    if (what < 2) { /* without BEGIN: what the commit will bring cannot be seen before it */
      m.is_rewrite = what == 0;
      tell(&w, &m);
      if (what == 0)
        m.is_rewrite = write_command(&w, false);
      else
        insert(&w, (int)random_below(N_ROWS));
      rc = read_state(w.db, &m.s);
      if (rc != SQLITE_OK) give_up(&w, "read", rc);
    } else {
      must(&w, random_below(2) ? "BEGIN" : "BEGIN IMMEDIATE");
      if (what == 2 && random_below(2)) {
        if (random_below(2)) write_something(&w);
        m.is_rewrite = write_command(&w, true);
      }
      for (uint32_t i = random_below(6); i < 6; i++) write_something(&w);
      if (what == 3) {
        must(&w, "ROLLBACK");
        continue;
      }
      rc = read_state(w.db, &m.s);
      if (rc != SQLITE_OK) give_up(&w, "read inside a transaction", rc);
      m.kind = PREPARED;
      tell(&w, &m);
      must(&w, "COMMIT");
    }
    m.kind = DONE;
    tell(&w, &m);
  }
}

/* ---- the parent -------------------------------------------------------------------------------------------------- */

typedef struct version {
  int64_t time;
  int row;
  uint32_t sum; /* of the vector alone; 0: not there */
} version;

typedef struct watcher {
  const char *journal, *synchronous, *file;
  state committed; /* last acknowledged */
  state prepared; /* of the commit under way */
  bool has_prepared, is_unknown; /* a commit is under way: known, not known */
  bool may_be_merged; /* ... and it may take old versions away */
  int64_t time; /* of the last commit */
  int64_t highest; /* time of any commit that was spoken of */
  int64_t safe_since; /* versions of commits from there on must be found */
  state versions[N_VERSIONS]; /* acknowledged states by time % N_VERSIONS ... */
  int64_t version_times[N_VERSIONS];
  int64_t n_commits, n_lost_none, n_found_prepared, n_unlooked;
} watcher;

static bool same(const state *x, const state *y) { return memcmp(x, y, sizeof *x) == 0; }

static void note_committed(watcher *w, const message *m) {
  w->committed = m->s;
  w->time = m->time;
  w->has_prepared = w->is_unknown = false;
  if (m->is_rewrite) w->safe_since = m->time;
  w->versions[m->time % N_VERSIONS] = m->s;
  w->version_times[m->time % N_VERSIONS] = m->time;
  w->n_commits++;
}

/* The state found after a kill: whose is it? */
static void judge(watcher *w, const state *found, int round) {
  if (w->is_unknown) {
    if (w->may_be_merged || !same(found, &w->committed))
      w->safe_since = w->highest + 1; /* its versions are not known */
  } else if (same(found, &w->committed)) {
    w->n_lost_none++;
  } else if (w->has_prepared && same(found, &w->prepared)) {
    w->n_found_prepared++;
    message m = {.time = w->highest, .is_rewrite = w->may_be_merged, .s = *found};
    note_committed(w, &m);
  } else {
    char rows[1024] = "";
    for (int i = 0; i < N_ROWS; i++) {
      snprintf(rows + strlen(rows), sizeof rows - strlen(rows), "%s%d: %08x, acknowledged %08x, under way %08x",
               i ? "\n" : "", i, found->rows[i], w->committed.rows[i], w->prepared.rows[i]);
    }
    ck_abort_msg("%s, synchronous=%s, round %d: after the kill the table is neither at the last acknowledged commit "
                 "nor (%d) at the one under "
                 "way: last seq %lld, acknowledged %lld, under way %lld\n%s",
                 w->journal, w->synchronous, round, w->has_prepared, (long long)found->last_seq,
                 (long long)w->committed.last_seq, (long long)w->prepared.last_seq, rows);
  }
  w->committed = *found;
  w->has_prepared = w->is_unknown = w->may_be_merged = false;
}

static void check_versions(watcher *w, sqlite3 *db, int round) {
  sqlite3_stmt *stmt = sql_prepare(db, "SELECT d.vector, d.metadata FROM docs AS d WHERE d.id=?1 AND d.as_of=?2");
  for (int64_t t = w->time; t >= w->safe_since && t > w->time - 12 && t > 0; t--) {
    if (w->version_times[t % N_VERSIONS] != t) continue;
    for (int row = 0; row < N_ROWS; row++) {
      char id[8];
      uint32_t sum = 0, expected = w->versions[t % N_VERSIONS].rows[row];
      snprintf(id, sizeof id, "%d", row);
      sqlite3_bind_text(stmt, 1, id, -1, SQLITE_TRANSIENT);
      sqlite3_bind_int64(stmt, 2, t);
      if (sqlite3_step(stmt) == SQLITE_ROW) {
        sum = checksum(2166136261u, sqlite3_column_blob(stmt, 0), (size_t)sqlite3_column_bytes(stmt, 0));
        sum = checksum(sum, sqlite3_column_blob(stmt, 1), (size_t)sqlite3_column_bytes(stmt, 1));
        sum = sum ? sum : 1;
      }
      int rc = sqlite3_reset(stmt);
      ck_assert_msg(rc == SQLITE_OK && sum == expected,
                    "%s, round %d: row %d as of commit %lld (now %lld) is %08x, was %08x; %s", w->journal, round, row,
                    (long long)t, (long long)w->time, sum, expected, sqlite3_errmsg(db));
    }
  }
  sqlite3_finalize(stmt);
}

static void look(watcher *w, int round) {
  state found;
  sqlite3 *db = sql_open_flags(w->file, SQLITE_OPEN_READWRITE);
  int rc = read_state(db, &found);
  ck_assert_msg(rc == SQLITE_OK, "%s, round %d: reading after the kill: %d %s", w->journal, round, rc,
                sqlite3_errmsg(db));
  judge(w, &found, round);
  sql_sound(db);
  check_versions(w, db, round);
  sql_close(db);
}

static void hear(watcher *w, const message *m, int round) {
  if (m->time > w->highest) w->highest = m->time;
  switch (m->kind) {
  case HELLO: judge(w, &m->s, round); break;
  case PREPARED:
    w->prepared = m->s;
    w->has_prepared = true;
    w->may_be_merged = m->is_rewrite;
    break;
  case UNKNOWN:
    w->is_unknown = true;
    w->may_be_merged = m->is_rewrite;
    break;
  case DONE:
    ck_assert_msg(!w->has_prepared || same(&w->prepared, &m->s), "the parent is confused");
    note_committed(w, m);
    break;
  default: ck_abort_msg("%s, round %d: the writer: %s", w->journal, round, m->text);
  }
}

static int64_t microseconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000 + t.tv_nsec / 1000;
}

static void one_round(watcher *w, int round, uint64_t seed) {
  int ends[2];
  ck_assert_int_eq(pipe(ends), 0);
  fflush(stdout);
  pid_t pid = fork();
  ck_assert_int_ge(pid, 0);
  if (pid == 0) {
    close(ends[0]);
    be_writer(w->file, w->journal, w->synchronous, ends[1], seed, w->highest + 1);
  }
  close(ends[1]);
  random_state = seed ^ 0x5deece66du;
  /* 1 to 30 ms from when the child has begun to write, now and then long enough for a large batch; in every fifth round
   * from when it was started, while it opens and recovers the file. */
  int64_t delay = 1000 + random_below(29000) + (round % 10 == 1 ? 60000 : 0), end = microseconds() + delay;
  bool is_killed = false, waits_for_hello = round % 5 != 0;
  if (waits_for_hello) end += 10000000;
  for (;;) {
    struct pollfd wait = {ends[0], POLLIN, 0};
    int64_t left = end - microseconds();
    if (left <= 0 && !is_killed) {
      kill(pid, SIGKILL);
      is_killed = true;
    }
    if (poll(&wait, 1, is_killed ? 1000 : (int)(left / 1000)) <= 0) {
      ck_assert_msg(!is_killed, "the pipe stays open behind the kill");
      continue;
    }
    message m;
    ssize_t n = read(ends[0], &m, sizeof m); /* written in one piece, being shorter than PIPE_BUF */
    if (n <= 0) break;
    ck_assert_int_eq(n, (ssize_t)sizeof m);
    hear(w, &m, round);
    if (waits_for_hello) end = microseconds() + delay;
    waits_for_hello = false;
  }
  close(ends[0]);
  waitpid(pid, NULL, 0);
}

static const struct {
  const char *journal, *synchronous;
} modes[] = {{"WAL", "NORMAL"}, {"WAL", "FULL"}, {"DELETE", "NORMAL"}, {"DELETE", "FULL"}};

static void new_file(watcher *w) {
  char name[400];
  static const char *const suffixes[] = {"", "-wal", "-shm", "-journal"};
  for (int i = 0; i < 4; i++) {
    snprintf(name, sizeof name, "%s%s", w->file, suffixes[i]);
    unlink(name);
  }
  sqlite3 *db = sql_open_flags(w->file, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE);
  sql_run(db,
          "PRAGMA journal_mode=%s; CREATE VIRTUAL TABLE docs USING delta_vectors(dimensions=%d, metric=l2, "
          "checkpoint_interval=16)",
          w->journal, DIMENSIONS);
  ck_assert_int_eq(read_state(db, &w->committed), SQLITE_OK);
  sql_close(db);
  w->has_prepared = w->is_unknown = false;
  w->time = w->highest = 0;
  w->safe_since = 1;
  memset(w->version_times, 0, sizeof w->version_times);
}

/* A writer dies; what it was told is there, is there. */
START_TEST(acknowledged_commits_survive_a_kill) {
  static watcher w;
  uint64_t seed = getenv("DV_SEED") ? strtoull(getenv("DV_SEED"), NULL, 10) : 1;
  memset(&w, 0, sizeof w);
  w.journal = modes[_i].journal;
  w.synchronous = modes[_i].synchronous;
  w.file = sql_path("kill.db");
  int n = (n_kills + 3 - _i) / 4;
  for (int round = 0; round < n; round++) {
    if (round % FILE_ROUNDS == 0) new_file(&w);
    one_round(&w, round, (seed + (uint64_t)_i) * 1000003 + (uint64_t)round * 7919);
    bool is_last = round + 1 == n || (round + 1) % FILE_ROUNDS == 0;
    if (is_last || random_below(3))
      look(&w, round);
    else
      w.n_unlooked++;
  }
  printf("%s, synchronous=%s: %d kills, %lld commits; found the last acknowledged %lld times, the one under way %lld "
         "times\n",
         w.journal, w.synchronous, n, (long long)w.n_commits, (long long)w.n_lost_none, (long long)w.n_found_prepared);
  fflush(stdout);
}
END_TEST

int main(int argc, char **argv) {
  if (getenv("DV_KILLS")) n_kills = atoi(getenv("DV_KILLS"));
  if (argc > 1) n_kills = atoi(argv[1]);
  Suite *suite = suite_create("kill");
  TCase *t = tcase_create("kill");
  tcase_set_timeout(t, 60 + n_kills);
  tcase_add_checked_fixture(t, sql_setup, sql_teardown);
  tcase_add_loop_test(t, acknowledged_commits_survive_a_kill, 0, 4);
  suite_add_tcase(suite, t);
  return sql_main(suite, argc, argv);
}
