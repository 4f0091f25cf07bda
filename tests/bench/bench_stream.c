/*
 * bench_stream.c: a stream of deltas into a WAL file, beside writing whole vectors.
 *
 *   bench_stream [options]
 *     --only A,B       of: sustained, latency, reader, wal, naive        default: all
 *     --rows N         of 384 dimensions                                 default: 10000
 *     --deltas N       of sustained and wal; naive takes a 20th           default: 1000000
 *     --rate N         deltas a second of latency and reader             default: 50000
 *     --seconds N      of latency, and of each part of reader            default: 10
 *     --peers DIR      where vec0.so is; "none"                          default: the cache directory's peers
 *     --scratch DIR    where the databases go                            default: $TMPDIR or /tmp
 *     --quick          2,000 rows, 20,000 deltas, 1 second: is everything there?
 *
 * A delta sets 19 of 384 dimensions (5 %) of a random row. The journal is a WAL, synchronous=NORMAL, checkpoints are
 * SQLite's own, but in `wal`. It takes two threads for a stream, and one more for `reader`; it does not pin itself, and times
 * are those of the clock on the wall unless it says CPU: ask a quiet machine. What
 * the table holds in the end is compared, bit for bit, with what was pushed. README.md says what is measured.
 */
#define _GNU_SOURCE
#include <math.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <uv.h>

#include "delta_vectors.h"

enum { DIMENSIONS = 384, CHANGED = 19 };

static uint64_t n_rows = 10000, n_deltas = 1000000, rate = 50000, seconds = 10;
static const char *only;
static char peers[400], scratch[400], file[500];

__attribute__((format(printf, 1, 2), noreturn)) static void die(const char *format, ...) {
  va_list args;
  va_start(args, format);
  fputs("bench_stream: ", stderr);
  vfprintf(stderr, format, args);
  fputs("\n", stderr);
  va_end(args);
  exit(1);
}

static void *allocate(size_t n) {
  void *p = calloc(n ? n : 1, 1);
  if (!p) die("out of memory");
  return p;
}

static double now_us(void) { return (double)uv_hrtime() / 1000; }

static double cpu_us(clockid_t clock) {
  struct timespec t;
  clock_gettime(clock, &t);
  return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

static int by_value(const void *a, const void *b) {
  float x = *(const float *)a, y = *(const float *)b;
  return x < y ? -1 : x > y;
}

/* Sorts x. */
static double quantile(float *x, size_t n, double q) {
  if (n == 0) return 0;
  qsort(x, n, sizeof *x, by_value);
  return (double)x[(size_t)(q * (double)(n - 1) + 0.5)];
}

static double resident_mb(void) {
  unsigned long long total = 0, resident = 0;
  FILE *f = fopen("/proc/self/statm", "r");
  if (f && fscanf(f, "%llu %llu", &total, &resident) != 2) resident = 0;
  if (f) fclose(f);
  return (double)resident * (double)sysconf(_SC_PAGESIZE) / 1e6;
}

static double wal_bytes(void) {
  char name[520];
  struct stat st;
  snprintf(name, sizeof name, "%s-wal", file);
  return stat(name, &st) == 0 ? (double)st.st_size : 0;
}

static void remove_file(void) {
  static const char *const suffixes[] = {"", "-wal", "-shm"};
  for (int i = 0; i < 3; i++) {
    char name[520];
    snprintf(name, sizeof name, "%s%s", file, suffixes[i]);
    unlink(name);
  }
}

/* ---- changes: the same in every run ------------------------------------------------------------------------------ */

static uint64_t random_state = 1;

static uint64_t random_u64(void) { /* splitmix64 */
  uint64_t x = random_state += 0x9e3779b97f4a7c15u;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  x = (x ^ x >> 27) * 0x94d049bb133111ebu;
  return x ^ x >> 31;
}

static float uniform(void) { return (float)(random_u64() >> 40) * 0x1p-23f - 1; }

static float *model; /* the rows as they were pushed */

typedef struct change {
  uint64_t row;
  uint32_t indices[CHANGED];
  float values[CHANGED];
} change;

static void next_change(change *c) {
  c->row = random_u64() % n_rows;
  for (uint32_t i = 0; i < CHANGED; i++) {
    c->indices[i] = i * (DIMENSIONS / CHANGED) + (uint32_t)(random_u64() % (DIMENSIONS / CHANGED));
    float *at = &model[c->row * DIMENSIONS + c->indices[i]];
    c->values[i] = *at += uniform() / 100;
  }
}

static void make_model(void) {
  random_state = 1;
  for (uint64_t i = 0; i < n_rows * DIMENSIONS; i++) model[i] = uniform();
}

/* ---- a table and a stream into it -------------------------------------------------------------------------------- */

static dvec_db *db;
static uv_loop_t loop;
static dvec_stream *stream;
static uint64_t n_told;
static double *pushed_at; /* by position; NULL: nobody asks */
static float *waited; /* microseconds */
static double producer_us, stream_us; /* CPU time of the last stream: of who pushed; of the worker and the loop */

static void check(int rc) {
  if (rc != DVEC_OK) die("%d %s", rc, dvec_message(db));
}

static void make_table(const char *sql) {
  dvec_open_options o = {.size = sizeof o, .sql = "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL; BEGIN"};
  dvec_table_options t = {
      .size = sizeof t, .dimensions = DIMENSIONS, .metric = "l2", .columns = "id INTEGER PRIMARY KEY"};
  remove_file();
  make_model();
  int rc = dvec_open(file, &o, &db);
  check(rc);
  check(dvec_create_table(db, "docs", &t));
  for (uint64_t row = 0; row < n_rows; row++) {
    dvec_delta d = {.size = sizeof d, .operation = DVEC_CREATE, .id = dvec_id_integer((int64_t)row)};
    d.values = model + row * DIMENSIONS, d.n = DIMENSIONS;
    check(dvec_apply(db, "docs", &d, NULL));
  }
  if (sqlite3_exec(dvec_sqlite(db), "COMMIT", NULL, NULL, NULL) != SQLITE_OK) die("%s", dvec_message(db));
  check(dvec_optimize(db, "docs"));
  if (sql && sqlite3_exec(dvec_sqlite(db), sql, NULL, NULL, NULL) != SQLITE_OK) die("%s", sql);
}

static void check_table(void) {
  float v[DIMENSIONS];
  for (uint64_t row = 0; row < n_rows; row++) {
    dvec_id id = dvec_id_integer((int64_t)row);
    check(dvec_get(db, "docs", &id, v, DIMENSIONS));
    if (memcmp(v, model + row * DIMENSIONS, sizeof v) != 0)
      die("row %llu is not what was pushed", (unsigned long long)row);
  }
  check(dvec_close(db));
  remove_file();
}

static void on_ack(void *user, const dvec_ack *ack) {
  (void)user;
  if (ack->code != DVEC_OK || ack->n_failed || ack->n_dropped)
    die("a window failed: %s", ack->message ? ack->message : "");
  if (pushed_at) {
    double now = now_us();
    for (uint64_t p = ack->first_position; p <= ack->last_position; p++)
      waited[p - 1] = (float)(now - pushed_at[p - 1]);
  }
  n_told = ack->last_position;
}

static void open_stream(const char *sql) {
  char *message = NULL;
  dvec_stream_options o = {.size = sizeof o, .when_full = DVEC_BLOCK, .on_ack = on_ack, .sql = sql};
  n_told = 0;
  if (dvec_stream_open(&loop, file, "docs", &o, &stream, &message) != DVEC_OK) die("%s", message);
}

static void push_next(void) {
  change c;
  char message[240];
  next_change(&c);
  dvec_delta d = {.size = sizeof d, .operation = DVEC_SPARSE, .id = dvec_id_integer((int64_t)c.row)};
  d.indices = c.indices, d.values = c.values, d.n = CHANGED;
  if (dvec_stream_push(stream, &d, NULL, message, sizeof message) != DVEC_OK) die("push: %s", message);
}

/* As fast as the stream takes them. */
static void push_all(void *n) {
  for (uint64_t i = 0; i < *(uint64_t *)n; i++) push_next();
  producer_us = cpu_us(CLOCK_THREAD_CPUTIME_ID);
  dvec_stream_close(stream, DVEC_DRAIN, NULL);
}

/* `rate` a second: every millisecond those that are due. A producer that is late makes up for it, and the wait is counted
 * from when it pushed. */
static void push_paced(void *n) {
  double begin = now_us();
  for (uint64_t i = 0; i < *(uint64_t *)n;) {
    uint64_t due = (uint64_t)((now_us() - begin) * (double)rate / 1e6);
    for (; i < due && i < *(uint64_t *)n; i++) {
      if (pushed_at) pushed_at[i] = now_us();
      push_next();
    }
    usleep(1000);
  }
  producer_us = cpu_us(CLOCK_THREAD_CPUTIME_ID);
  dvec_stream_close(stream, DVEC_DRAIN, NULL);
}

/* Streams n deltas; returns how long it took until the last was acknowledged, in seconds. */
static double run_stream(void (*push)(void *), uint64_t n, const char *sql, dvec_stream_stats *stats) {
  uv_thread_t producer;
  open_stream(sql);
  double begin = now_us(), begin_cpu = cpu_us(CLOCK_PROCESS_CPUTIME_ID);
  uv_thread_create(&producer, push, &n);
  uv_run(&loop, UV_RUN_DEFAULT);
  double took = (now_us() - begin) / 1e6;
  uv_thread_join(&producer);
  stream_us = cpu_us(CLOCK_PROCESS_CPUTIME_ID) - begin_cpu - producer_us;
  dvec_stream_get_stats(stream, stats, sizeof *stats);
  if (n_told != n || stats->n_applied != n)
    die("%llu of %llu were acknowledged", (unsigned long long)n_told, (unsigned long long)n);
  dvec_stream_free(stream);
  return took;
}

/* ---- the sections ------------------------------------------------------------------------------------------------ */

static void measure_sustained(void) {
  dvec_stream_stats stats;
  make_table(NULL);
  double before = resident_mb();
  double took = run_stream(push_all, n_deltas, NULL, &stats);
  printf("sustained    %.0f deltas/s: %llu in %.2f s, %llu windows; queue at most %.1f MB of 16.8; resident %+.0f MB\n",
         (double)n_deltas / took, (unsigned long long)n_deltas, took, (unsigned long long)stats.n_windows,
         (double)stats.queue_bytes_peak / 1e6, resident_mb() - before);
  printf("             CPU a delta: %.2f us of the worker and the loop, %.2f us of who makes and pushes them\n",
         stream_us / (double)n_deltas, producer_us / (double)n_deltas);
  check_table();
}

static void measure_latency(void) {
  dvec_stream_stats stats;
  uint64_t n = rate * seconds;
  pushed_at = allocate(n * sizeof *pushed_at);
  waited = allocate(n * sizeof *waited);
  make_table(NULL);
  (void)run_stream(push_paced, n, NULL, &stats);
  double p50 = quantile(waited, n, 0.5), p99 = quantile(waited, n, 0.99), worst = quantile(waited, n, 1);
  printf("latency      at %llu/s, push to acknowledged: median %.1f ms, p99 %.1f ms, worst %.1f ms; %.0f deltas a "
         "window\n",
         (unsigned long long)rate, p50 / 1000, p99 / 1000, worst / 1000, (double)n / (double)stats.n_windows);
  free(pushed_at);
  free(waited);
  pushed_at = NULL;
  waited = NULL;
  check_table();
}

/* A reader in a thread of its own: the times of its searches. */
typedef struct reader {
  pthread_t thread;
  atomic_bool is_over;
  float *times, *cpu_times;
  size_t n, capacity;
} reader;

static void *read_until_over(void *arg) {
  reader *r = arg;
  dvec_db *mine = NULL;
  float query[DIMENSIONS];
  uint64_t x = 99;
  if (dvec_open(file, NULL, &mine) != DVEC_OK) die("%s", dvec_message(mine));
  for (int warm = 0; !atomic_load(&r->is_over) && r->n < r->capacity; warm++) {
    for (int i = 0; i < DIMENSIONS; i++) {
      x = x * 6364136223846793005u + 1442695040888963407u;
      query[i] = (float)(int32_t)(x >> 32) * 0x1p-31f;
    }
    dvec_hits *hits = NULL;
    double begin = now_us(), begin_cpu = cpu_us(CLOCK_THREAD_CPUTIME_ID);
    if (dvec_search(mine, "docs", query, DIMENSIONS, NULL, &hits) != DVEC_OK) die("%s", dvec_message(mine));
    double took = now_us() - begin, took_cpu = cpu_us(CLOCK_THREAD_CPUTIME_ID) - begin_cpu;
    dvec_hits_free(hits);
    if (warm >= 100) {
      r->times[r->n] = (float)took;
      r->cpu_times[r->n++] = (float)took_cpu;
    }
    usleep(1000); /* a reader, not a load of its own */
  }
  dvec_close(mine);
  return NULL;
}

static void read_begin(reader *r) {
  memset(r, 0, sizeof *r);
  r->capacity = 1000000;
  r->times = allocate(r->capacity * sizeof *r->times);
  r->cpu_times = allocate(r->capacity * sizeof *r->cpu_times);
  if (pthread_create(&r->thread, NULL, read_until_over, r) != 0) die("no thread");
}

static void read_end(reader *r, const char *when) {
  static double idle99, idle_cpu99; /* of the first one */
  atomic_store(&r->is_over, true);
  pthread_join(r->thread, NULL);
  double p50 = quantile(r->times, r->n, 0.5), p99 = quantile(r->times, r->n, 0.99);
  double cpu50 = quantile(r->cpu_times, r->n, 0.5), cpu99 = quantile(r->cpu_times, r->n, 0.99);
  if (idle99 == 0) idle99 = p99, idle_cpu99 = cpu99;
  printf("reader       %s: a search %.0f us, p99 %.0f us (%.1f x idle); CPU time %.0f us, p99 %.0f us (%.1f x)\n", when,
         p50, p99, p99 / idle99, cpu50, cpu99, cpu99 / idle_cpu99);
  free(r->times);
  free(r->cpu_times);
}

static void measure_reader(void) {
  dvec_stream_stats stats;
  reader r;
  make_table(NULL);
  read_begin(&r);
  sleep((unsigned)seconds);
  read_end(&r, "idle");
  read_begin(&r);
  (void)run_stream(push_paced, rate * seconds, NULL, &stats);
  read_end(&r, "at the rate");
  read_begin(&r);
  (void)run_stream(push_all, n_deltas, NULL, &stats);
  read_end(&r, "at full speed");
  check_table();
}

static void measure_wal(void) {
  dvec_stream_stats stats;
  make_table("PRAGMA wal_checkpoint(TRUNCATE); PRAGMA wal_autocheckpoint=0");
  uint64_t n = n_deltas / 10;
  (void)run_stream(push_all, n, "PRAGMA wal_autocheckpoint=0", &stats);
  printf("wal          %.0f bytes a delta at full speed (%.0f deltas a window)\n", wal_bytes() / (double)n,
         (double)n / (double)stats.n_windows);
  check_table();
  make_table("PRAGMA wal_checkpoint(TRUNCATE); PRAGMA wal_autocheckpoint=0");
  (void)run_stream(push_paced, n, "PRAGMA wal_autocheckpoint=0", &stats);
  printf("wal          %.0f bytes a delta at %llu/s (%.0f deltas a window)\n", wal_bytes() / (double)n,
         (unsigned long long)rate, (double)n / (double)stats.n_windows);
  check_table();
}

/* ---- the naive way: UPDATE of the whole vector -------------------------------------------------------------------- */

static void run_sql(sqlite3 *naive, const char *sql) {
  if (sqlite3_exec(naive, sql, NULL, NULL, NULL) != SQLITE_OK) die("%s: %s", sql, sqlite3_errmsg(naive));
}

static void naive_step(sqlite3 *naive, sqlite3_stmt *stmt, uint64_t row) {
  sqlite3_bind_int64(stmt, 1, (int64_t)row);
  sqlite3_bind_blob(stmt, 2, model + row * DIMENSIONS, DIMENSIONS * (int)sizeof *model, SQLITE_STATIC);
  sqlite3_step(stmt);
  if (sqlite3_reset(stmt) != SQLITE_OK) die("%s", sqlite3_errmsg(naive));
}

static void naive_one(const char *name, const char *extension, const char *create, uint64_t n, uint64_t batch) {
  sqlite3 *naive = NULL;
  sqlite3_stmt *insert = NULL, *update = NULL;
  remove_file();
  make_model();
  if (sqlite3_open(file, &naive) != SQLITE_OK) die("cannot open %s", file);
  if (extension) {
    sqlite3_enable_load_extension(naive, 1);
    if (sqlite3_load_extension(naive, extension, NULL, NULL) != SQLITE_OK) {
      printf("naive        %s: cannot be loaded\n", name);
      sqlite3_close(naive);
      return;
    }
  }
  run_sql(naive, "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL");
  run_sql(naive, create);
  sqlite3_prepare_v2(naive, "INSERT INTO docs(id, vector) VALUES(?1, ?2)", -1, &insert, NULL);
  sqlite3_prepare_v2(naive, "UPDATE docs SET vector=?2 WHERE id=?1", -1, &update, NULL);
  run_sql(naive, "BEGIN");
  for (uint64_t row = 0; row < n_rows; row++) naive_step(naive, insert, row);
  run_sql(naive, "COMMIT; PRAGMA wal_checkpoint(TRUNCATE)");
  /* First for the time, with checkpoints as they come; then for the bytes, without. */
  double took = 0, bytes = 0;
  for (int pass = 0; pass < 2; pass++) {
    if (pass == 1) run_sql(naive, "PRAGMA wal_checkpoint(TRUNCATE); PRAGMA wal_autocheckpoint=0");
    uint64_t n_pass = pass == 0 ? n : n / 4;
    double begin = now_us();
    for (uint64_t i = 0; i < n_pass; i++) {
      change c;
      next_change(&c);
      if (batch > 1 && i % batch == 0) run_sql(naive, "BEGIN");
      naive_step(naive, update, c.row);
      if (batch > 1 && (i % batch == batch - 1 || i == n_pass - 1)) run_sql(naive, "COMMIT");
    }
    if (pass == 0) took = (now_us() - begin) / 1e6;
    if (pass == 1) bytes = wal_bytes() / (double)n_pass;
  }
  printf("naive        %s, %llu a transaction: %.0f changes/s, %.0f bytes of WAL a change\n", name,
         (unsigned long long)batch, (double)n / took, bytes);
  sqlite3_finalize(insert);
  sqlite3_finalize(update);
  sqlite3_close(naive);
  remove_file();
}

static void measure_naive(void) {
  char vec0[420];
  uint64_t n = n_deltas / 20;
  snprintf(vec0, sizeof vec0, "%s/vec0.so", peers);
  naive_one("BLOB table", NULL, "CREATE TABLE docs(id INTEGER PRIMARY KEY, vector BLOB)", n, 1);
  naive_one("BLOB table", NULL, "CREATE TABLE docs(id INTEGER PRIMARY KEY, vector BLOB)", n, 1000);
  if (strcmp(peers, "none") == 0 || access(vec0, R_OK) != 0) {
    printf("naive        sqlite-vec is not there: tests/bench/peers.sh\n");
    return;
  }
  const char *create =
      "CREATE VIRTUAL TABLE docs USING vec0(id INTEGER PRIMARY KEY, vector FLOAT[384] distance_metric=l2)";
  naive_one("sqlite-vec", vec0, create, n / 5, 1);
  naive_one("sqlite-vec", vec0, create, n / 5, 1000);
}

/* ------------------------------------------------------------------------------------------------------------------- */

static bool is_wanted(const char *section) {
  size_t n = strlen(section);
  for (const char *p = only; p && *p; p += strcspn(p, ","), p += *p == ',') {
    if (strncmp(p, section, n) == 0 && (p[n] == 0 || p[n] == ',')) return true;
  }
  return only == NULL;
}

int main(int argc, char **argv) {
  const char *cache = getenv("DELTA_VECTORS_CACHE"), *home = getenv("HOME"), *tmp = getenv("TMPDIR");
  if (cache)
    snprintf(peers, sizeof peers, "%s/peers", cache);
  else
    snprintf(peers, sizeof peers, "%s/.cache/delta_vectors/peers", home ? home : "");
  snprintf(scratch, sizeof scratch, "%s", tmp ? tmp : "/tmp");
  for (int i = 1; i < argc; i++) {
    if (strcmp(argv[i], "--quick") == 0) {
      n_rows = 2000, n_deltas = 20000, seconds = 1;
      continue;
    }
    if (i + 1 == argc) die("%s needs a value", argv[i]);
    const char *name = argv[i], *value = argv[++i];
    if (strcmp(name, "--only") == 0)
      only = value;
    else if (strcmp(name, "--rows") == 0)
      n_rows = strtoull(value, NULL, 10);
    else if (strcmp(name, "--deltas") == 0)
      n_deltas = strtoull(value, NULL, 10);
    else if (strcmp(name, "--rate") == 0)
      rate = strtoull(value, NULL, 10);
    else if (strcmp(name, "--seconds") == 0)
      seconds = strtoull(value, NULL, 10);
    else if (strcmp(name, "--peers") == 0)
      snprintf(peers, sizeof peers, "%s", value);
    else if (strcmp(name, "--scratch") == 0)
      snprintf(scratch, sizeof scratch, "%s", value);
    else
      die("no option %s", name);
  }
  snprintf(file, sizeof file, "%s/bench_stream.%d.db", scratch, (int)getpid());
  model = allocate(n_rows * DIMENSIONS * sizeof *model);
  uv_loop_init(&loop);
  setvbuf(stdout, NULL, _IOLBF, 0);
  printf("%llu rows of %d dimensions, deltas of %d values, SQLite %s, %ld cores\n", (unsigned long long)n_rows,
         DIMENSIONS, CHANGED, sqlite3_libversion(), sysconf(_SC_NPROCESSORS_ONLN));
  if (is_wanted("sustained")) measure_sustained();
  if (is_wanted("latency")) measure_latency();
  if (is_wanted("reader")) measure_reader();
  if (is_wanted("wal")) measure_wal();
  if (is_wanted("naive")) measure_naive();
  uv_loop_close(&loop);
  free(model);
  return 0;
}
