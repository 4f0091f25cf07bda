/*
 * bench_upkeep.c: what it costs to keep the graph right while rows change, and what a table costs beside its searches.
 *
 *   bench_upkeep [options] [delta_vectors.so]
 *     --ours FILE    the same as the last argument
 *     --only A,B     of: stream, alone, open, size              default: all
 *     --set NAME     which data, <name>-<dimensions>            default: wordnet-384
 *     --rows N       rows of the stream, alone, size            default: 100000
 *     --deltas N     of the stream                              default: 1000000
 *     --batch N      deltas a commit                            default: 100
 *     --step X       length of a delta, as a part of the row's  default: 0.1
 *     --lines N      lines of the stream's table                default: 10
 *     --rounds N     of alone and open                          default: 7
 *     --clock cpu    the thread's CPU time instead of the clock on the wall
 *     --data DIR     where the data lie                         default: the cache directory
 *     --scratch DIR  where the databases go                     default: $TMPDIR or /tmp
 *     --seed N                                                  default: 1
 *     --quick        2,000 rows, 20,000 deltas, two rounds: is everything there?
 *
 * It pins itself to one core. README.md says what is measured.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <malloc.h>
#include <math.h>
#include <sched.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <sqlite3.h>

#include "dv_delta.h"
#include "dv_frame.h"

#ifndef DV_EXTENSION_PATH
#define DV_EXTENSION_PATH "./delta_vectors"
#endif

enum { K = 10, QUERIES = 1000, ASKED = 200, MAX_ROUNDS = 25 };

/* ---- failing, memory, time --------------------------------------------------------------------------------------- */

static char scratch_dir[400];
static pid_t main_pid;

static void remove_scratch(void) {
  if (getpid() != main_pid) return;
  DIR *dir = opendir(scratch_dir);
  struct dirent *file;
  while (dir && (file = readdir(dir))) {
    char path[720];
    snprintf(path, sizeof path, "%s/%s", scratch_dir, file->d_name);
    if (file->d_name[0] != '.') unlink(path);
  }
  if (dir) closedir(dir);
  rmdir(scratch_dir);
}

__attribute__((format(printf, 1, 2), noreturn)) static void die(const char *format, ...) {
  va_list args;
  va_start(args, format);
  fputs("bench_upkeep: ", stderr);
  vfprintf(stderr, format, args);
  fputs("\n", stderr);
  va_end(args);
  exit(1); /* remove_scratch */
}

static void *allocate(size_t n) {
  void *p = calloc(n ? n : 1, 1);
  if (!p) die("out of memory");
  return p;
}

static void *heap_resize(void *ctx, void *p, size_t n) {
  (void)ctx;
  if (n > 0) return realloc(p, n);
  free(p);
  return NULL;
}

static const dv_alloc heap = {heap_resize, NULL};

static bool is_cpu_clock;

static double clock_us(clockid_t clock) {
  struct timespec t;
  clock_gettime(clock, &t);
  return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

static double cpu_us(void) { return clock_us(CLOCK_THREAD_CPUTIME_ID); }
static double now_us(void) { return clock_us(is_cpu_clock ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC); }

static int by_value(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return x < y ? -1 : x > y;
}

/* Sorts x. */
static double quantile(double *x, size_t n, double q) {
  if (n == 0) return 0;
  qsort(x, n, sizeof *x, by_value);
  size_t at = (size_t)(q * (double)(n - 1) + 0.5);
  return x[at];
}

/* What this process occupies, without what free() keeps for later. */
static double resident_bytes(void) {
  unsigned long long total, resident = 0;
  malloc_trim(0);
  FILE *file = fopen("/proc/self/statm", "r");
  if (file && fscanf(file, "%llu %llu", &total, &resident) != 2) resident = 0;
  if (file) fclose(file);
  return (double)resident * (double)sysconf(_SC_PAGESIZE);
}

static double file_bytes(const char *path, const char *suffix) {
  char name[600];
  struct stat st;
  snprintf(name, sizeof name, "%s%s", path, suffix);
  return stat(name, &st) == 0 ? (double)st.st_size : 0;
}

/* ---- random numbers: the same in every run ------------------------------------------------------------------------ */

static uint64_t random_state = 1;

static uint64_t random_u64(void) { /* splitmix64 */
  uint64_t x = random_state += 0x9e3779b97f4a7c15u;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  x = (x ^ x >> 27) * 0x94d049bb133111ebu;
  return x ^ x >> 31;
}

static size_t random_below(size_t n) { return (size_t)(random_u64() >> 11) % n; }
static double uniform(void) { return ((double)(random_u64() >> 11) + 0.5) * 0x1p-53; }
static double gaussian(void) { return sqrt(-2 * log(uniform())) * cos(6.283185307179586 * uniform()); }

/* ---- what is asked for ------------------------------------------------------------------------------------------- */

static char data_dir[400];
static char extension[400] = DV_EXTENSION_PATH;
static char set_name[80] = "wordnet-384";
static size_t n_dimensions, n_rows = 100000, n_deltas = 1000000, batch = 100, n_lines = 10, n_rounds = 7;
static double step = 0.1;
static const char *only;

static bool is_wanted(const char *section) {
  size_t n = strlen(section);
  for (const char *p = only; p && *p; p += strcspn(p, ","), p += *p == ',') {
    if (strncmp(p, section, n) == 0 && (p[n] == 0 || p[n] == ',')) return true;
  }
  return only == NULL;
}

/* ---- data -------------------------------------------------------------------------------------------------------- */

static float *vectors; /* of the data set */
static float *model; /* as the table has them */
static float *queries;

static void *read_file(const char *name, size_t n_bytes) {
  char path[600];
  snprintf(path, sizeof path, "%s/%s", data_dir, name);
  FILE *file = fopen(path, "rb");
  if (!file) die("cannot open %s: see README.md for what makes it", path);
  void *p = allocate(n_bytes);
  if (fread(p, 1, n_bytes, file) != n_bytes) die("%s is shorter than %zu bytes", path, n_bytes);
  fclose(file);
  return p;
}

static size_t dimensions_of(const char *set) {
  const char *dash = strrchr(set, '-');
  size_t n = dash ? (size_t)strtoul(dash + 1, NULL, 10) : 0;
  if (n == 0) die("%s: the name of a data set ends with its dimensions", set);
  return n;
}

static void load_data(void) {
  char name[160];
  n_dimensions = dimensions_of(set_name);
  snprintf(name, sizeof name, "%s.f32", set_name);
  vectors = read_file(name, n_rows * n_dimensions * sizeof *vectors);
  snprintf(name, sizeof name, "%s-queries.f32", set_name);
  queries = read_file(name, QUERIES * n_dimensions * sizeof *queries);
  model = allocate(n_rows * n_dimensions * sizeof *model);
}

static void reset_model(void) { memcpy(model, vectors, n_rows * n_dimensions * sizeof *model); }

static const float *query_of(size_t i) { return queries + i % QUERIES * n_dimensions; }
static float *row_of(size_t i) { return model + i * n_dimensions; }

static float rough_dot(const float *a, const float *b) {
  float sums[16] = {0};
  size_t i = 0;
  for (; i + 16 <= n_dimensions; i += 16) {
    for (size_t j = 0; j < 16; j++) sums[j] += a[i + j] * b[i + j];
  }
  float sum = 0;
  for (; i < n_dimensions; i++) sum += a[i] * b[i];
  for (size_t j = 0; j < 16; j++) sum += sums[j];
  return sum;
}

/* ---- SQL --------------------------------------------------------------------------------------------------------- */

typedef struct table {
  char path[440];
  sqlite3 *db;
  sqlite3_stmt *apply, *search;
} table;

__attribute__((format(printf, 2, 3))) static void run(sqlite3 *db, const char *format, ...) {
  char sql[1000];
  va_list args;
  va_start(args, format);
  vsnprintf(sql, sizeof sql, format, args);
  va_end(args);
  if (sqlite3_exec(db, sql, NULL, NULL, NULL) != SQLITE_OK) die("%s: %s", sqlite3_errmsg(db), sql);
}

static sqlite3_stmt *prepare(sqlite3 *db, const char *sql) {
  sqlite3_stmt *s = NULL;
  if (sqlite3_prepare_v2(db, sql, -1, &s, NULL) != SQLITE_OK) die("%s: %s", sqlite3_errmsg(db), sql);
  return s;
}

static sqlite3 *connect_to(const char *path) {
  sqlite3 *db;
  char *message = NULL;
  if (sqlite3_open(path, &db) != SQLITE_OK) die("cannot open %s", path);
  sqlite3_db_config(db, SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 1, NULL);
  if (sqlite3_load_extension(db, extension, NULL, &message) != SQLITE_OK) die("%s", message);
  return db;
}

static double number_of(sqlite3 *db, const char *sql) {
  sqlite3_stmt *s = prepare(db, sql);
  double x = sqlite3_step(s) == SQLITE_ROW ? sqlite3_column_double(s, 0) : -1;
  if (sqlite3_finalize(s) != SQLITE_OK) die("%s: %s", sqlite3_errmsg(db), sql);
  return x;
}

static double status_of(sqlite3 *db, const char *key) {
  char sql[120];
  snprintf(sql, sizeof sql, "SELECT delta_status('docs') ->> '%s'", key);
  return number_of(db, sql);
}

static const char search_sql[] = "SELECT id, distance FROM vector_search('docs', ?1, 10, ?2)";

static void bind_vector(sqlite3_stmt *s, int at, const float *v) {
  sqlite3_bind_blob(s, at, v, (int)(n_dimensions * sizeof *v), SQLITE_STATIC);
}

/* A new table with the first n rows, optimised; checkpointed if it is in a file. */
static void fill(table *t, const char *path, const char *index, size_t n, const float *rows) {
  snprintf(t->path, sizeof t->path, "%s", path);
  t->db = connect_to(path);
  run(t->db, "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL");
  run(t->db,
      "CREATE VIRTUAL TABLE docs USING delta_vectors("
      "id INTEGER PRIMARY KEY, embedding FLOAT[%zu] distance_metric=cosine, index=%s)",
      n_dimensions, index);
  sqlite3_stmt *insert = prepare(t->db, "INSERT INTO docs(id, embedding) VALUES(?1, ?2)");
  run(t->db, "BEGIN");
  for (size_t i = 0; i < n; i++) {
    sqlite3_bind_int64(insert, 1, (sqlite3_int64)i + 1);
    bind_vector(insert, 2, rows + i * n_dimensions);
    int rc = sqlite3_step(insert);
    if (sqlite3_reset(insert) != SQLITE_OK || rc != SQLITE_DONE) die("%s: insert", sqlite3_errmsg(t->db));
  }
  sqlite3_finalize(insert);
  run(t->db, "COMMIT");
  run(t->db, "INSERT INTO docs(docs) VALUES('optimize')");
  run(t->db, "PRAGMA wal_checkpoint(TRUNCATE)");
  t->apply = prepare(t->db, "SELECT delta_apply_batch('docs', ?1)");
  t->search = prepare(t->db, search_sql);
}

static void close_table(table *t) {
  sqlite3_finalize(t->apply);
  sqlite3_finalize(t->search);
  if (t->db && sqlite3_close(t->db) != SQLITE_OK) die("%s", sqlite3_errmsg(t->db));
  memset(t, 0, sizeof *t);
}

static void path_of(char *out, size_t n, const char *name) { snprintf(out, n, "%s/%s", scratch_dir, name); }

/* One search, timed; ids and distances may be NULL. */
static double search(sqlite3_stmt *s, const float *query, const char *options, int64_t *ids, size_t *n_found) {
  size_t n = 0;
  volatile double sink = 0;
  double start = now_us();
  bind_vector(s, 1, query);
  sqlite3_bind_text(s, 2, options, -1, SQLITE_STATIC);
  while (sqlite3_step(s) == SQLITE_ROW && n < K) {
    sqlite3_int64 id = sqlite3_column_int64(s, 0);
    sink = sqlite3_column_double(s, 1);
    if (ids) ids[n] = id;
    n++;
  }
  int rc = sqlite3_reset(s);
  double end = now_us();
  (void)sink;
  if (rc != SQLITE_OK || n == 0) die("%zu rows found: %s", n, sqlite3_errmsg(sqlite3_db_handle(s)));
  if (n_found) *n_found = n;
  return end - start;
}

/* ---- deltas ------------------------------------------------------------------------------------------------------ */

static void write_frame(dv_buf *out, size_t row, const dv_delta *d) {
  dv_frame f = {.flags = DV_FRAME_ID, .id = {.type = DV_INTEGER, .integer = (int64_t)row + 1}, .delta = *d};
  dv_frame_write(out, &f);
  if (out->status != DV_OK) die("out of memory");
}

/* A step of a row's walk: a twentieth of its dimensions, `step` of its length. The model moves too. */
static void write_step(dv_buf *out, size_t row) {
  enum { MOST = 256 };
  uint32_t indices[MOST];
  float values[MOST];
  float *v = row_of(row);
  size_t n = (n_dimensions + 19) / 20, at = 0;
  if (n > MOST) die("%zu dimensions are too many", n_dimensions);
  double deviation = step * sqrt((double)rough_dot(v, v) / (double)n);
  for (size_t i = 0; i < n_dimensions && at < n; i++) {
    if (uniform() * (double)(n_dimensions - i) >= (double)(n - at)) continue;
    indices[at] = (uint32_t)i;
    values[at++] = v[i] + (float)(deviation * gaussian());
  }
  for (size_t i = 0; i < at; i++) v[indices[i]] = values[i];
  dv_buf payload;
  dv_delta d;
  dv_buf_init(&payload, &heap);
  if (dv_delta_encode_sparse(&payload, &d, indices, values, at, n_dimensions, NULL) != DV_OK) die("encoding failed");
  d.payload = payload.data;
  write_frame(out, row, &d);
  dv_buf_free(&payload);
}

static void write_delete(dv_buf *out, size_t row) {
  dv_delta d = {DV_OP_DELETE, DV_ENC_NONE, NULL, 0};
  write_frame(out, row, &d);
}

/* The row comes back as it was in the beginning. */
static void write_create(dv_buf *out, size_t row) {
  dv_buf payload;
  dv_delta d;
  memcpy(row_of(row), vectors + row * n_dimensions, n_dimensions * sizeof *vectors);
  dv_buf_init(&payload, &heap);
  dv_delta_encode_dense(&payload, &d, DV_OP_CREATE, NULL, row_of(row), n_dimensions, DV_COMPRESSION_OFF);
  d.payload = payload.data;
  write_frame(out, row, &d);
  dv_buf_free(&payload);
}

static void apply(table *t, const dv_buf *frames, double *wall, double *cpu) {
  double start = now_us(), cpu_start = cpu_us();
  sqlite3_bind_blob(t->apply, 1, frames->data, (int)frames->n, SQLITE_STATIC);
  int rc = sqlite3_step(t->apply);
  if (sqlite3_reset(t->apply) != SQLITE_OK || rc != SQLITE_ROW) die("%s: delta_apply_batch", sqlite3_errmsg(t->db));
  *cpu = cpu_us() - cpu_start;
  *wall = now_us() - start;
}

/* ---- recall ------------------------------------------------------------------------------------------------------ */

static float distance_to(const float *query, size_t row) {
  const float *v = row_of(row);
  return -rough_dot(query, v) / sqrtf(rough_dot(v, v));
}

/* Of each asked query the distance of its tenth row, by looking at all. */
static void find_truth(float *tenth) {
  for (size_t q = 0; q < ASKED; q++) {
    float best[K] = {0};
    size_t n = 0;
    for (size_t i = 0; i < n_rows; i++) {
      float d = distance_to(query_of(q), i);
      if (n == K && d >= best[K - 1]) continue;
      size_t at = n < K ? n++ : K - 1;
      for (; at > 0 && best[at - 1] > d; at--) best[at] = best[at - 1];
      best[at] = d;
    }
    tenth[q] = best[K - 1];
  }
}

static double recall_of(const table *t, const char *options, const float *tenth) {
  size_t hits = 0;
  for (size_t q = 0; q < ASKED; q++) {
    int64_t ids[K];
    size_t n = 0;
    (void)search(t->search, query_of(q), options, ids, &n);
    for (size_t i = 0; i < n; i++) {
      if (ids[i] < 1 || (size_t)ids[i] > n_rows) die("a row that nobody inserted");
      hits += distance_to(query_of(q), (size_t)ids[i] - 1) <= tenth[q] + 1e-6f;
    }
  }
  return (double)hits / (double)(ASKED * K);
}

/* ---- the stream -------------------------------------------------------------------------------------------------- */

typedef struct stretch {
  double flat_us, hnsw_us, refresh_us, search_us; /* sums */
  double *commits; /* ms */
  size_t n_commits, n;
} stretch;

typedef struct walk {
  uint32_t *order; /* rows to be deleted and made again, one after the other */
  size_t n_gone; /* of order, deleted */
  size_t n_back; /* ... and made again */
  size_t n_deltas;
} walk;

/* The next deltas: rows taken out by the batch before come back, the next ones go, and the others move. */
static void next_batch(walk *w, dv_buf *frames, size_t n) {
  size_t n_replaced = n_rows / 2, n_end = w->n_deltas + n;
  size_t n_due = (size_t)((double)n_replaced * (double)n_end / (double)n_deltas);
  frames->n = 0;
  size_t left = n;
  for (; w->n_back < w->n_gone && left > 0; left--) write_create(frames, w->order[w->n_back++]);
  size_t n_gone = w->n_gone;
  for (; n_gone < n_due && n_gone < n_replaced && left > 0 && n_end < n_deltas; left--)
    write_delete(frames, w->order[n_gone++]);
  for (; left > 0; left--) {
    size_t row, i;
    do {
      row = random_below(n_rows);
      for (i = w->n_gone; i < n_gone && w->order[i] != row; i++) {
      }
    } while (i < n_gone);
    write_step(frames, row);
  }
  w->n_gone = n_gone;
  w->n_deltas = n_end;
}

static uint32_t *shuffled(size_t n) {
  uint32_t *order = allocate(n * sizeof *order);
  for (size_t i = 0; i < n; i++) order[i] = (uint32_t)i;
  for (size_t i = n; i > 1; i--) {
    size_t j = random_below(i);
    uint32_t swap = order[i - 1];
    order[i - 1] = order[j];
    order[j] = swap;
  }
  return order;
}

static double graph_linked(const table *t) {
  sqlite3_stmt *s = prepare(t->db, "SELECT value FROM docs_meta WHERE key = 'graph'");
  double n = -1;
  if (sqlite3_step(s) == SQLITE_ROW && sqlite3_column_bytes(s, 0) == 64)
    n = (double)dv_load_u32((const uint8_t *)sqlite3_column_blob(s, 0) + 20);
  sqlite3_finalize(s);
  return n;
}

static void print_stretch(const table *hnsw, stretch *st, size_t n_done, double upkeep_us) {
  static float tenth[ASKED];
  find_truth(tenth);
  double n = (double)st->n, fresh = status_of(hnsw->db, "fresh"), log = status_of(hnsw->db, "log_bytes");
  double derived = status_of(hnsw->db, "bytes") - log - status_of(hnsw->db, "row_bytes");
  double p50 = quantile(st->commits, st->n_commits, 0.5), p99 = quantile(st->commits, st->n_commits, 0.99);
  printf("%9zu %6.2f %6.2f %7.2f %7.2f %8.2f %6.1f %7.2f %7.2f %7.2f %6.0f %7.0f %6.4f %6.4f %7.1f %7.1f %8.1f %6.1f\n",
         n_done, st->flat_us / n, st->hnsw_us / n, (st->hnsw_us - st->flat_us) / n, upkeep_us / (double)n_done,
         st->refresh_us / n, st->search_us / (double)st->n_commits, p50, p99, quantile(st->commits, st->n_commits, 1),
         fresh, graph_linked(hnsw), recall_of(hnsw, "{\"ef\":24}", tenth), recall_of(hnsw, "{\"ef\":64}", tenth),
         log / 1e6, derived / 1e6, file_bytes(hnsw->path, "") / 1e6, file_bytes(hnsw->path, "-wal") / 1e6);
  fflush(stdout);
  st->flat_us = st->hnsw_us = st->refresh_us = st->search_us = 0;
  st->n_commits = st->n = 0;
}

static void print_built_anew(const table *hnsw) {
  static float tenth[ASKED];
  char path[460], copy[460];
  table t = {.db = NULL};
  find_truth(tenth);
  path_of(copy, sizeof copy, "copy.db");
  snprintf(path, sizeof path, "VACUUM INTO '%.440s'", copy);
  run(hnsw->db, "%s", path);
  t.db = connect_to(copy);
  t.search = prepare(t.db, search_sql);
  double r[6] = {recall_of(hnsw, "{\"ef\":24}", tenth), recall_of(hnsw, "{\"ef\":64}", tenth)};
  run(t.db, "INSERT INTO docs(docs) VALUES('optimize')");
  r[2] = recall_of(&t, "{\"ef\":24}", tenth), r[3] = recall_of(&t, "{\"ef\":64}", tenth);
  run(t.db, "INSERT INTO docs(docs) VALUES('rebuild')");
  r[4] = recall_of(&t, "{\"ef\":24}", tenth), r[5] = recall_of(&t, "{\"ef\":64}", tenth);
  printf("recall at ef 24, 64: as the stream left it %.4f %.4f, a copy after 'optimize' %.4f %.4f, after 'rebuild' "
         "%.4f %.4f\n"
         "a copy with an integrity check: %s\n",
         r[0], r[1], r[2], r[3], r[4], r[5],
         number_of(hnsw->db, "SELECT count(*) FROM pragma_integrity_check WHERE integrity_check <> 'ok'") == 0
             ? "ok"
             : "NOT ok");
  close_table(&t);
  unlink(copy);
}

static void section_stream(void) {
  char path[2][440];
  table t[2] = {{.db = NULL}, {.db = NULL}}; /* flat, hnsw */
  walk w = {.order = shuffled(n_rows)};
  size_t a_line = n_deltas / n_lines, next_line = a_line;
  stretch st = {.commits = allocate((n_deltas / batch + 2) * sizeof(double))};
  double upkeep_us = 0;
  dv_buf frames;
  dv_buf_init(&frames, &heap);
  reset_model();
  path_of(path[0], sizeof path[0], "flat.db");
  path_of(path[1], sizeof path[1], "hnsw.db");
  fill(&t[0], path[0], "flat", n_rows, vectors);
  fill(&t[1], path[1], "hnsw", n_rows, vectors);
  for (size_t i = 0; i < 2; i++) (void)search(t[i].search, query_of(0), "{}", NULL, NULL);
  printf(
      "\nstream: %zu deltas of 5 %% of the dimensions and length %g of the row, %zu a commit; half of the rows are"
      " deleted and made again\n\n"
      "             CPU us a delta  CPU us                     commit ms                            recall@10     MB\n"
      "   deltas   flat   hnsw  upkeep (so far)  refresh search     p50     p99     max  fresh  linked  ef 24  ef 64   "
      "  log"
      " derived     file    wal\n",
      n_deltas, step, batch);
  for (size_t i = 0; w.n_deltas < n_deltas; i++) {
    size_t n = n_deltas - w.n_deltas < batch ? n_deltas - w.n_deltas : batch;
    double wall[2], cpu[2];
    next_batch(&w, &frames, n);
    for (size_t j = 0; j < 2; j++) {
      size_t which = (i + j) % 2;
      apply(&t[which], &frames, &wall[which], &cpu[which]);
    }
    /* The next search codes and judges the rows that changed: the first of two, less the second. */
    (void)search(t[0].search, query_of(i), "{}", NULL, NULL);
    double start = cpu_us();
    (void)search(t[1].search, query_of(i), "{}", NULL, NULL);
    double middle = cpu_us();
    (void)search(t[1].search, query_of(i), "{}", NULL, NULL);
    double end = cpu_us();
    st.refresh_us += (middle - start) - (end - middle);
    st.search_us += end - middle;
    st.flat_us += cpu[0];
    st.hnsw_us += cpu[1];
    upkeep_us += cpu[1] - cpu[0];
    st.commits[st.n_commits++] = wall[1] / 1e3;
    st.n += n;
    if (w.n_deltas >= next_line || w.n_deltas == n_deltas) {
      print_stretch(&t[1], &st, w.n_deltas, upkeep_us);
      next_line += a_line;
    }
  }
  print_built_anew(&t[1]);
  for (size_t i = 0; i < 2; i++) close_table(&t[i]);
  free(st.commits);
  free(w.order);
  dv_buf_free(&frames);
}

/* ---- one delta alone, and a search that reflects it -------------------------------------------------------------- */

static void check_reflected(const table *t, size_t row) {
  int64_t ids[K];
  size_t n;
  (void)search(t->search, row_of(row), "{\"ef\":200}", ids, &n);
  for (size_t i = 0; i < n; i++) {
    if ((size_t)ids[i] == row + 1) return;
  }
  die("a search for row %zu after its delta does not find it", row + 1);
}

static void alone(const char *path, const char *name) {
  enum { N = 500 };
  static double plain[N][MAX_ROUNDS], after[N][MAX_ROUNDS], commit[N][MAX_ROUNDS];
  table t;
  dv_buf frames;
  dv_buf_init(&frames, &heap);
  reset_model();
  fill(&t, path, "hnsw", n_rows, vectors);
  for (size_t i = 0; i < QUERIES; i++) (void)search(t.search, query_of(i), "{}", NULL, NULL);
  for (size_t r = 0; r < n_rounds; r++) {
    for (size_t i = 0; i < N; i++) {
      double cpu;
      for (size_t turn = 0; turn < 2; turn++) {
        bool is_after = (turn + i + r) % 2 == 0;
        size_t row = random_below(n_rows);
        frames.n = 0;
        write_step(&frames, row);
        if (!is_after) {
          /* What a delta leaves is taken up first; then another search comes before the one that is timed. */
          (void)search(t.search, query_of(i + 500), "{}", NULL, NULL);
          plain[i][r] = search(t.search, query_of(i), "{}", NULL, NULL);
          apply(&t, &frames, &commit[i][r], &cpu);
        } else {
          (void)search(t.search, query_of(i + 500), "{}", NULL, NULL);
          apply(&t, &frames, &commit[i][r], &cpu);
          after[i][r] = search(t.search, query_of(i), "{}", NULL, NULL);
          if (i % 50 == 0) check_reflected(&t, row);
        }
      }
    }
  }
  double sums[3] = {0}, spread[N];
  for (size_t i = 0; i < N; i++) {
    double p = quantile(plain[i], n_rounds, 0.5), a = quantile(after[i], n_rounds, 0.5);
    sums[0] += p / (double)N;
    sums[1] += a / (double)N;
    sums[2] += quantile(commit[i], n_rounds, 0.5) / (double)N;
    spread[i] = a / p;
  }
  printf("%-32s %9.1f %9.1f %6.3f %6.3f %9.1f %9.1f\n", name, sums[0], sums[1], sums[1] / sums[0],
         quantile(spread, N, 0.5), sums[2], sums[1] + sums[2]);
  fflush(stdout);
  dv_buf_free(&frames);
  close_table(&t);
}

static void section_alone(void) {
  char path[440];
  printf("\nalone: one sparse delta is committed, then a search reflects it; %zu rows, us (ef as it comes)\n\n"
         "                                    search     after  ratio median    commit commit+search\n",
         n_rows);
  path_of(path, sizeof path, "alone.db");
  alone(path, "WAL, synchronous=NORMAL");
  alone(":memory:", ":memory:");
}

/* ---- open to first answer ---------------------------------------------------------------------------------------- */

enum { OPEN_CONNECT, OPEN_PREPARE, OPEN_ROW, OPEN_FIRST, OPEN_SECOND, OPEN_TENTH, OPEN_ALL, N_OPEN };

/* In a process of its own, whose memory is new. */
static void open_once(const char *path, bool is_split, double *out) {
  int ends[2];
  if (pipe(ends) != 0) die("no pipe");
  pid_t pid = fork();
  if (pid < 0) die("no process");
  if (pid == 0) {
    double x[N_OPEN] = {0}, begin = now_us(), start = begin;
    sqlite3 *db = connect_to(path);
    x[OPEN_CONNECT] = now_us() - start, start = now_us();
    sqlite3_stmt *s = prepare(db, search_sql);
    sqlite3_finalize(prepare(db, "SELECT 1 FROM docs LIMIT 0")); /* connects it; what it takes is not taken again */
    x[OPEN_PREPARE] = now_us() - start, start = now_us();
    if (is_split) {
      (void)number_of(db, "SELECT embedding IS NULL FROM docs WHERE id = 1");
      x[OPEN_ROW] = now_us() - start;
    }
    x[OPEN_FIRST] = search(s, query_of(0), "{}", NULL, NULL);
    x[OPEN_ALL] = now_us() - begin;
    x[OPEN_SECOND] = search(s, query_of(1), "{}", NULL, NULL);
    for (size_t i = 2; i < 9; i++) (void)search(s, query_of(i), "{}", NULL, NULL);
    x[OPEN_TENTH] = search(s, query_of(9), "{}", NULL, NULL);
    bool is_written = write(ends[1], x, sizeof x) == (ssize_t)sizeof x;
    _exit(is_written ? 0 : 1);
  }
  close(ends[1]);
  bool is_read = read(ends[0], out, N_OPEN * sizeof *out) == (ssize_t)(N_OPEN * sizeof *out);
  int status = 1;
  close(ends[0]);
  if (waitpid(pid, &status, 0) != pid || status != 0 || !is_read) die("the process that opens %s failed", path);
}

static void open_rows(const char *set, size_t n) {
  char path[440], name[160];
  table t;
  static double x[N_OPEN][MAX_ROUNDS], split[N_OPEN][MAX_ROUNDS];
  double one[N_OPEN];
  path_of(path, sizeof path, "open.db");
  snprintf(name, sizeof name, "%s.f32", set);
  float *rows = read_file(name, n * n_dimensions * sizeof *rows);
  fill(&t, path, "hnsw", n, rows);
  free(rows);
  close_table(&t);
  malloc_trim(0);
  for (size_t r = 0; r < n_rounds + 1; r++) { /* the first one only brings the file into the cache */
    size_t at = r ? r - 1 : 0;
    open_once(path, false, one);
    for (size_t i = 0; i < N_OPEN; i++) x[i][at] = one[i] / 1e3;
    open_once(path, true, one);
    for (size_t i = 0; i < N_OPEN; i++) split[i][at] = one[i] / 1e3;
  }
  printf("%9zu", n);
  for (size_t i = 0; i < N_OPEN; i++) printf(" %8.2f", quantile((i == OPEN_ROW ? split : x)[i], n_rounds, 0.5));
  printf("  %8.2f\n", quantile(split[OPEN_FIRST], n_rounds, 0.5));
  fflush(stdout);
  unlink(path);
}

static void section_open(void) {
  char path[600];
  struct stat st;
  printf("\nopen: a new process opens the file, which is in the page cache, and asks; ms, median of %zu\n\n"
         "     rows  connect  prepare      row    first   second    tenth to first  first, behind the row\n",
         n_rounds);
  if (n_rows > 10000) open_rows(set_name, 10000);
  open_rows(set_name, n_rows);
  snprintf(path, sizeof path, "%s/wordnet-1m-384.f32", data_dir);
  if (n_dimensions == 384 && n_rows >= 100000 && stat(path, &st) == 0) open_rows("wordnet-1m-384", 1000000);
}

/* ---- size -------------------------------------------------------------------------------------------------------- */

static void section_size(void) {
  char path[440];
  table t;
  path_of(path, sizeof path, "size.db");
  reset_model();
  fill(&t, path, "hnsw", n_rows, vectors);
  double raw = (double)(n_rows * n_dimensions * sizeof(float)), n = (double)n_rows;
  double all = file_bytes(path, ""), log = status_of(t.db, "log_bytes");
  printf(
      "\nsize: %zu rows after 'optimize'\n\n"
      "file %.1f MB, / raw vectors %.3f; bytes a row: log %.0f, ids %.0f, heads %.0f, codes %.0f, graph %.0f, the rest"
      " of the pages %.0f\n",
      n_rows, all / 1e6, all / raw, log / n, status_of(t.db, "row_bytes") / n, status_of(t.db, "head_bytes") / n,
      status_of(t.db, "code_bytes") / n, status_of(t.db, "graph_bytes") / n, (all - status_of(t.db, "bytes")) / n);
  close_table(&t);
  fflush(stdout);
  pid_t pid = fork();
  if (pid == 0) {
    double before = resident_bytes();
    sqlite3 *db = connect_to(path);
    run(db, "PRAGMA cache_size = -2000");
    sqlite3_stmt *s = prepare(db, search_sql);
    (void)search(s, query_of(0), "{}", NULL, NULL);
    double first = resident_bytes(), first_status = status_of(db, "memory");
    (void)number_of(db, "SELECT total(length(embedding)) FROM docs");
    for (size_t i = 0; i < QUERIES; i++) (void)search(s, query_of(i), "{}", NULL, NULL);
    (void)search(s, query_of(0), "{\"exact\":true}", NULL, NULL); /* asks for all codes */
    double warm = resident_bytes(), warm_status = status_of(db, "memory");
    double vectors_bytes = (double)((n_rows / 64 + 1) * 64 * n_dimensions * sizeof(float));
    printf("memory, bytes a row (resident, delta_status): after the first search %.0f, %.0f; all in memory %.0f, %.0f;"
           " of that without vectors %.0f, %.0f\n",
           (first - before) / n, first_status / n, (warm - before) / n, warm_status / n,
           (warm - before - vectors_bytes) / n, (warm_status - vectors_bytes) / n);
    fflush(stdout);
    _exit(0);
  }
  int status = 1;
  if (pid < 0 || waitpid(pid, &status, 0) != pid || status != 0) die("the process that measures memory failed");
}

/* ---- main -------------------------------------------------------------------------------------------------------- */

static void pin(void) {
  cpu_set_t allowed, one;
  if (sched_getaffinity(0, sizeof allowed, &allowed) != 0) return;
  for (size_t i = CPU_SETSIZE; i > 0; i--) {
    if (!CPU_ISSET(i - 1, &allowed)) continue;
    CPU_ZERO(&one);
    CPU_SET(i - 1, &one);
    (void)sched_setaffinity(0, sizeof one, &one);
    return;
  }
}

static void usage(void) {
  fprintf(stderr,
          "usage: bench_upkeep [--only A,B] [--set NAME] [--rows N] [--deltas N] [--batch N] [--step X] [--lines N]"
          " [--rounds N] [--clock wall|cpu] [--data DIR] [--scratch DIR] [--seed N] [--quick] [--ours]"
          " [delta_vectors.so]\n");
  exit(2);
}

static void set_extension(const char *path) {
  snprintf(extension, sizeof extension, "%s%s", strchr(path, '/') ? "" : "./", path);
}

static size_t number(const char *text) {
  size_t n = (size_t)strtoul(text, NULL, 10);
  if (n < 1) usage();
  return n;
}

static void print_head(void) {
  sqlite3 *db = connect_to(":memory:");
  sqlite3_stmt *s = prepare(db, "SELECT delta_vectors_version() || ' (' || delta_vectors_backend() || ')'");
  if (sqlite3_step(s) == SQLITE_ROW) {
    printf("delta_vectors %s, SQLite %s; %zu rows of %s, cosine; %s\n", (const char *)sqlite3_column_text(s, 0),
           sqlite3_libversion(), n_rows, set_name, is_cpu_clock ? "CPU time" : "time on the wall");
  }
  sqlite3_finalize(s);
  sqlite3_close(db);
}

int main(int argc, char **argv) {
  const char *scratch = getenv("TMPDIR"), *data = NULL, *cache = getenv("DELTA_VECTORS_CACHE");
  const char *home = getenv("HOME"), *xdg = getenv("XDG_CACHE_HOME");
  for (int i = 1; i < argc; i++) {
    const char *value = i + 1 < argc ? argv[i + 1] : NULL;
    if (strcmp(argv[i], "--quick") == 0) {
      n_rows = 2000;
      n_deltas = 20000;
      n_rounds = 2;
      n_lines = 2;
      continue;
    }
    if (argv[i][0] != '-') {
      set_extension(argv[i]);
      continue;
    }
    if (!value) usage();
    if (strcmp(argv[i], "--ours") == 0) {
      set_extension(value);
    } else if (strcmp(argv[i], "--only") == 0) {
      only = value;
    } else if (strcmp(argv[i], "--set") == 0) {
      snprintf(set_name, sizeof set_name, "%s", value);
    } else if (strcmp(argv[i], "--rows") == 0) {
      n_rows = number(value);
    } else if (strcmp(argv[i], "--deltas") == 0) {
      n_deltas = number(value);
    } else if (strcmp(argv[i], "--batch") == 0) {
      batch = number(value);
    } else if (strcmp(argv[i], "--step") == 0) {
      step = strtod(value, NULL);
    } else if (strcmp(argv[i], "--lines") == 0) {
      n_lines = number(value);
    } else if (strcmp(argv[i], "--rounds") == 0) {
      n_rounds = number(value);
    } else if (strcmp(argv[i], "--clock") == 0) {
      is_cpu_clock = strcmp(value, "cpu") == 0;
    } else if (strcmp(argv[i], "--data") == 0) {
      data = value;
    } else if (strcmp(argv[i], "--scratch") == 0) {
      scratch = value;
    } else if (strcmp(argv[i], "--seed") == 0) {
      random_state = number(value);
    } else {
      usage();
    }
    i++;
  }
  if (n_rounds > MAX_ROUNDS || n_deltas < n_lines) usage();
  if (data)
    snprintf(data_dir, sizeof data_dir, "%s", data);
  else if (cache)
    snprintf(data_dir, sizeof data_dir, "%s", cache);
  else if (xdg)
    snprintf(data_dir, sizeof data_dir, "%s/delta_vectors", xdg);
  else
    snprintf(data_dir, sizeof data_dir, "%s/.cache/delta_vectors", home ? home : ".");
  snprintf(scratch_dir, sizeof scratch_dir, "%.370s/bench_upkeep.XXXXXX", scratch ? scratch : "/tmp");
  if (!mkdtemp(scratch_dir)) {
    perror(scratch_dir);
    return 1;
  }
  main_pid = getpid();
  atexit(remove_scratch);
  pin();
  load_data();
  print_head();
  if (is_wanted("open")) section_open();
  if (is_wanted("alone")) section_alone();
  if (is_wanted("size")) section_size();
  if (is_wanted("stream")) section_stream();
  free(vectors);
  free(model);
  free(queries);
  return 0;
}
