/*
 * bench_search.c: how fast the ten nearest are found, and how many of them, beside the peers that have an index.
 *
 *   bench_search [options] [delta_vectors.so]
 *     --ours FILE    the same as the last argument
 *     --set NAME     which data, <name>-<dimensions>                    default: wordnet-384
 *     --rows N       so many of its rows                                default: 10000
 *     --metric M     cosine, l2 or ip            default: ip for words-200, l2 for patches-128, else cosine
 *     --peers A,B    only these; 'none'; --list prints what there is    default: all that peers.sh installed
 *     --rounds N                                                        default: 5
 *     --data DIR     where the data lie                                 default: the cache directory
 *     --libraries DIR  where peers.sh installed the peers               default: <cache directory>/peers
 *     --scratch DIR  where the databases go                             default: $TMPDIR or /tmp
 *     --json FILE    writes the figures, a line of JSON each; plot_search.py draws them
 *     --quick        two rounds of 100 queries at three settings: is everything there?
 *
 * It pins itself to one core. Every setting (ef) of every peer is asked all queries in every round, in turns: what
 * else the machine does hits all alike. A query's time is its median over the rounds; a figure is the mean over queries.
 * README.md says what is compared with what.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <malloc.h>
#include <math.h>
#include <sched.h>
#include <setjmp.h>
#include <signal.h>
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

#ifndef DV_EXTENSION_PATH
#define DV_EXTENSION_PATH "./delta_vectors"
#endif

enum { K = 10, QUERIES = 1000, MAX_ROUNDS = 25, MAX_POINTS = 16, MAX_ENTRIES = 24, NOT_HERE = 3 };

/* ---- failing, memory, time --------------------------------------------------------------------------------------- */

static jmp_buf give_up; /* set by attempt() */
static char failure[600];

__attribute__((format(printf, 1, 2), noreturn)) static void die(const char *format, ...) {
  va_list args;
  va_start(args, format);
  vsnprintf(failure, sizeof failure, format, args);
  va_end(args);
  longjmp(give_up, 1);
}

static void *allocate(size_t n) {
  void *p = calloc(n ? n : 1, 1);
  if (!p) die("out of memory");
  return p;
}

static double now_us(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

static int by_value(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return x < y ? -1 : x > y;
}

static double median(double *x, size_t n) {
  qsort(x, n, sizeof *x, by_value);
  return n % 2 ? x[n / 2] : (x[n / 2 - 1] + x[n / 2]) / 2;
}

/* What this process occupies, without what free() keeps for later. */
static double resident_mb(void) {
  unsigned long long total, resident = 0;
  malloc_trim(0);
  FILE *file = fopen("/proc/self/statm", "r");
  if (file && fscanf(file, "%llu %llu", &total, &resident) != 2) resident = 0;
  if (file) fclose(file);
  return (double)resident * (double)sysconf(_SC_PAGESIZE) / 1e6;
}

/* ---- what is asked for ------------------------------------------------------------------------------------------- */

typedef enum metric { COSINE, L2, IP, N_METRICS } metric;
static const char *const metric_names[] = {"cosine", "l2", "ip"};

static char cache_dir[400], data_dir[400], peers_dir[400], scratch_dir[400];
static char extension[400] = DV_EXTENSION_PATH;
static char set_name[80] = "wordnet-384";
static metric measure = COSINE;
static size_t n_dimensions, n_rows = 10000, n_queries = QUERIES, n_rounds = 5;
static bool is_quick;
static const char *wanted; /* NULL: all */

static const int full_sweep[] = {10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 384, 512};
static const int quick_sweep[] = {16, 64, 256};
static const int *sweep = full_sweep;
static size_t n_sweep = sizeof full_sweep / sizeof *full_sweep;

/* ---- data -------------------------------------------------------------------------------------------------------- */

static float *vectors, *queries;

static const float *vector_of(size_t i) { return vectors + i * n_dimensions; }
static const float *query_of(size_t i) { return queries + i * n_dimensions; }

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

static void load_data(void) {
  char name[160];
  const char *dash = strrchr(set_name, '-');
  n_dimensions = dash ? (size_t)strtoul(dash + 1, NULL, 10) : 0;
  if (n_dimensions == 0) die("%s: the name of a data set ends with its dimensions", set_name);
  snprintf(name, sizeof name, "%s.f32", set_name);
  vectors = read_file(name, n_rows * n_dimensions * sizeof *vectors);
  snprintf(name, sizeof name, "%s-queries.f32", set_name);
  queries = read_file(name, QUERIES * n_dimensions * sizeof *queries);
}

/* ---- truth: the ten nearest, in double ---------------------------------------------------------------------------- */

static double (*truth)[K]; /* of each query: the distances of its ten nearest */

static double true_distance(const float *a, const float *b) {
  double dot = 0, aa = 0, bb = 0, squares = 0;
  for (size_t i = 0; i < n_dimensions; i++) {
    double x = (double)a[i], y = (double)b[i];
    dot += x * y;
    aa += x * x;
    bb += y * y;
    squares += (x - y) * (x - y);
  }
  return measure == L2 ? sqrt(squares) : measure == IP ? -dot : 1 - dot / sqrt(aa * bb);
}

/* In f32 with 16 sums, which the compiler vectorises. */
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

/* Every row that the rough distance does not rule out is measured in double. */
static void find_ten(const float *query, const float *norms, int32_t *rows, double *distances) {
  double q_norm = sqrt((double)rough_dot(query, query));
  size_t n = 0;
  for (size_t i = 0; i < n_rows; i++) {
    double norm = (double)norms[i], dot = (double)rough_dot(query, vector_of(i)), rough, error;
    if (measure == COSINE) {
      rough = 1 - dot / (norm * q_norm);
      error = 1e-5;
    } else if (measure == IP) {
      rough = -dot;
      error = 1e-5 * norm * q_norm;
    } else {
      rough = norm * norm + q_norm * q_norm - 2 * dot;
      error = 1e-5 * (norm * norm + q_norm * q_norm);
    }
    double worst = n < K ? INFINITY : measure == L2 ? distances[K - 1] * distances[K - 1] : distances[K - 1];
    if (rough > worst + error) continue;
    double d = true_distance(query, vector_of(i));
    size_t at = n;
    while (at > 0 && distances[at - 1] > d) at--;
    if (at == K) continue;
    if (n < K) n++;
    memmove(rows + at + 1, rows + at, (n - 1 - at) * sizeof *rows);
    memmove(distances + at + 1, distances + at, (n - 1 - at) * sizeof *distances);
    rows[at] = (int32_t)i;
    distances[at] = d;
  }
  if (n < K) die("%zu rows are too few", n_rows);
}

/* Kept in the cache directory, in the format of search_peers.py. */
static void load_truth(void) {
  char name[200], path[700], part[720];
  size_t n_ids = QUERIES * K * sizeof(int32_t), n_distances = QUERIES * K * sizeof(double);
  struct stat st;
  snprintf(name, sizeof name, "%s-%zu-%s.top10", set_name, n_rows, metric_names[measure]);
  snprintf(path, sizeof path, "%s/%s", data_dir, name);
  if (stat(path, &st) == 0 && (size_t)st.st_size == n_ids + n_distances) {
    char *data = read_file(name, n_ids + n_distances);
    truth = allocate(n_distances);
    memcpy(truth, data + n_ids, n_distances);
    free(data);
    return;
  }
  fprintf(stderr, "computing %s ...\n", name);
  int32_t *rows = allocate(n_ids);
  float *norms = allocate(n_rows * sizeof *norms);
  truth = allocate(n_distances);
  for (size_t i = 0; i < n_rows; i++) norms[i] = sqrtf(rough_dot(vector_of(i), vector_of(i)));
  for (size_t q = 0; q < QUERIES; q++) find_ten(query_of(q), norms, rows + q * K, truth[q]);
  snprintf(part, sizeof part, "%s.part", path);
  FILE *file = fopen(part, "wb");
  if (file) {
    bool is_written = fwrite(rows, 1, n_ids, file) == n_ids && fwrite(truth, 1, n_distances, file) == n_distances;
    if (fclose(file) != 0 || !is_written || rename(part, path) != 0) unlink(part);
  }
  free(rows);
  free(norms);
}

/* ---- figures ----------------------------------------------------------------------------------------------------- */

/* One setting of one peer. */
typedef struct point {
  int ef; /* 0: the peer has no such setting */
  double mean, median, recall;
} point;

typedef struct peer peer;

typedef struct entry {
  const peer *p;
  char name[64];
  bool is_broken;
  bool is_missing; /* broken because it is not installed or not for this metric, which is no failure */
  /* SQL: */
  sqlite3 *db;
  sqlite3_stmt *search;
  float *times; /* [point][round][query] */
  size_t n_asked; /* queries in a round: fewer than there are if they take long */
  /* A library: a process that search_peers.py runs in. */
  pid_t pid;
  FILE *to, *from;

  double build_s, memory_mb, file_mb, call_us; /* < 0: none */
  size_t n_points;
  point points[MAX_POINTS];
} entry;

static entry entries[MAX_ENTRIES];
static size_t n_entries;

/* ---- peers ------------------------------------------------------------------------------------------------------- */

/* In these texts @ stands for the dimensions, % for the metric and # for the number of rows. */
struct peer {
  const char *key; /* in --peers */
  const char *name;
  const char *library; /* under peers_dir; NULL: ours */
  const char *metrics[N_METRICS]; /* their names; NULL: does not have it */
  const char *create;
  const char *insert; /* ?1 id, ?2 vector */
  const char *finish; /* after the inserts, or NULL; counts as building */
  const char *connect; /* on every new connection that searches, or NULL */
  const char *search; /* ?1 query, ?2 the setting: id, distance */
  const char *setting; /* NULL: none; "" a number; else a text with the number in place of # */
  bool is_view; /* another search of the table of the peer before */
};

static const peer peers[] = {
    {
        .key = "delta_vectors",
        .name = "delta_vectors",
        .metrics = {"cosine", "l2", "ip"},
        .create = "CREATE VIRTUAL TABLE docs USING delta_vectors("
                  "id INTEGER PRIMARY KEY, embedding FLOAT[@] distance_metric=%, index=hnsw)",
        .insert = "INSERT INTO docs(id, embedding) VALUES(?1, ?2)",
        .finish = "INSERT INTO docs(docs) VALUES('optimize')",
        .search = "SELECT id, distance FROM vector_search('docs', ?1, 10, ?2)",
        .setting = "{\"ef\":#}",
    },
    {
        .key = "delta_vectors",
        .name = "delta_vectors MATCH, as it comes",
        .metrics = {"cosine", "l2", "ip"},
        .search = "SELECT id, distance FROM docs WHERE embedding MATCH ?1 AND k = 10",
        .is_view = true,
    },
    {
        .key = "delta_vectors",
        .name = "delta_vectors exact",
        .metrics = {"cosine", "l2", "ip"},
        .search = "SELECT id, distance FROM vector_search('docs', ?1, 10, '{\"exact\":true}')",
        .is_view = true,
    },
    {
        .key = "vectorlite",
        .name = "vectorlite",
        .library = "vectorlite",
        .metrics = {"cosine", "l2", "ip"},
        .create = "CREATE VIRTUAL TABLE docs USING vectorlite(vector float32[@] %,"
                  " hnsw(max_elements=#, M=16, ef_construction=100))",
        .insert = "INSERT INTO docs(rowid, vector) VALUES(?1, ?2)",
        .search = "SELECT rowid, distance FROM docs WHERE knn_search(vector, knn_param(?1, 10, ?2))",
        .setting = "",
    },
    {
        .key = "sqlite-vector-quantised",
        .name = "sqlite-vector quantised",
        .library = "vector",
        .metrics = {"COSINE", "L2", "DOT"},
        .create = "CREATE TABLE docs(id INTEGER PRIMARY KEY, vector BLOB)",
        .insert = "INSERT INTO docs(id, vector) VALUES(?1, ?2)",
        .connect = "SELECT vector_init('docs', 'vector', 'type=FLOAT32,dimension=@,distance=%');"
                   "SELECT vector_quantize('docs', 'vector');"
                   "SELECT vector_quantize_preload('docs', 'vector')",
        .search = "SELECT rowid, distance FROM vector_quantize_scan('docs', 'vector', ?1, 10)",
    },
    {
        .key = "sqlite-vector",
        .name = "sqlite-vector full scan",
        .library = "vector",
        .metrics = {"COSINE", "L2", "DOT"},
        .create = "CREATE TABLE docs(id INTEGER PRIMARY KEY, vector BLOB)",
        .insert = "INSERT INTO docs(id, vector) VALUES(?1, ?2)",
        .connect = "SELECT vector_init('docs', 'vector', 'type=FLOAT32,dimension=@,distance=%')",
        .search = "SELECT rowid, distance FROM vector_full_scan('docs', 'vector', ?1, 10)",
    },
    {
        .key = "sqlite-vec",
        .name = "sqlite-vec",
        .library = "vec0",
        .metrics = {"cosine", "l2", NULL},
        .create = "CREATE VIRTUAL TABLE docs USING vec0(id INTEGER PRIMARY KEY, vector FLOAT[@] distance_metric=%)",
        .insert = "INSERT INTO docs(id, vector) VALUES(?1, ?2)",
        .search = "SELECT id, distance FROM docs WHERE vector MATCH ?1 AND k = 10",
    },
};
enum { N_PEERS = sizeof peers / sizeof *peers };

/* search_peers.py has them. */
static const char *const libraries[] = {"hnswlib", "usearch", "usearch-bf16", "usearch-i8", "faiss", "faiss-sq8"};
enum { N_LIBRARIES = sizeof libraries / sizeof *libraries };

static bool is_wanted(const char *key) {
  size_t n = strlen(key);
  for (const char *p = wanted; p && *p; p += strcspn(p, ","), p += *p == ',') {
    if (strncmp(p, key, n) == 0 && (p[n] == 0 || p[n] == ',')) return true;
  }
  return wanted == NULL;
}

/* ---- SQL --------------------------------------------------------------------------------------------------------- */

/* With the placeholders of struct peer filled in. */
static const char *fill_in(const char *text, const char *metric_name, size_t number) {
  static char out[1000];
  size_t n = 0;
  for (; *text && n + 64 < sizeof out; text++) {
    char *to = out + n;
    size_t room = sizeof out - n;
    if (*text == '@')
      n += (size_t)snprintf(to, room, "%zu", n_dimensions);
    else if (*text == '%')
      n += (size_t)snprintf(to, room, "%s", metric_name);
    else if (*text == '#')
      n += (size_t)snprintf(to, room, "%zu", number);
    else
      out[n++] = *text;
  }
  out[n] = 0;
  return out;
}

static void run(const entry *e, const char *sql) {
  const char *filled = fill_in(sql, e->p->metrics[measure], n_rows);
  if (sqlite3_exec(e->db, filled, NULL, NULL, NULL) != SQLITE_OK) die("%s: %s", sqlite3_errmsg(e->db), filled);
}

static sqlite3_stmt *prepare(const entry *e, const char *sql) {
  sqlite3_stmt *s = NULL;
  if (sqlite3_prepare_v2(e->db, sql, -1, &s, NULL) != SQLITE_OK) die("%s: %s", sqlite3_errmsg(e->db), sql);
  return s;
}

static void bind_vector(sqlite3_stmt *s, int at, const float *v) {
  sqlite3_bind_blob(s, at, v, (int)(n_dimensions * sizeof *v), SQLITE_STATIC);
}

static void set_ef(const entry *e, int ef) {
  if (!e->p->setting) return;
  if (e->p->setting[0]) {
    sqlite3_bind_text(e->search, 2, fill_in(e->p->setting, "", (size_t)ef), -1, SQLITE_TRANSIENT);
  } else {
    sqlite3_bind_int(e->search, 2, ef);
  }
}

/* Asks one query; the rows (from 0), and how many. */
static size_t search_one(const entry *e, const float *query, size_t *rows) {
  size_t n = 0;
  int rc;
  bind_vector(e->search, 1, query);
  while ((rc = sqlite3_step(e->search)) == SQLITE_ROW && n < K) {
    rows[n++] = (size_t)sqlite3_column_int64(e->search, 0) - 1;
  }
  if (sqlite3_reset(e->search) != SQLITE_OK || (rc != SQLITE_DONE && rc != SQLITE_ROW)) {
    die("%s: %s", sqlite3_errmsg(e->db), e->p->search);
  }
  if (rc == SQLITE_ROW) die("more than %d rows: %s", K, e->p->search);
  return n;
}

/* The same, timed: what a host does. */
static double time_one(const entry *e, const float *query) {
  volatile double sink = 0;
  size_t n = 0;
  double start = now_us();
  bind_vector(e->search, 1, query);
  while (sqlite3_step(e->search) == SQLITE_ROW) {
    (void)sqlite3_column_int64(e->search, 0);
    sink = sqlite3_column_double(e->search, 1);
    n++;
  }
  int rc = sqlite3_reset(e->search);
  double end = now_us();
  (void)sink;
  if (rc != SQLITE_OK || n == 0) die("%zu rows: %s: %s", n, sqlite3_errmsg(e->db), e->p->search);
  return end - start;
}

/* Share of the ten nearest; a row as near as the tenth counts, whichever it is. */
static double judge(const entry *e) {
  size_t hits = 0;
  for (size_t q = 0; q < e->n_asked; q++) {
    size_t rows[K], n = search_one(e, query_of(q), rows);
    double tenth = truth[q][K - 1];
    for (size_t i = 0; i < n; i++) {
      if (rows[i] >= n_rows) die("a row that nobody inserted");
      for (size_t j = 0; j < i; j++) {
        if (rows[j] == rows[i]) die("one row twice in an answer");
      }
      hits += true_distance(query_of(q), vector_of(rows[i])) <= tenth + 1e-9 * fmax(1, fabs(tenth));
    }
  }
  return (double)hits / (double)(e->n_asked * K);
}

/* Microseconds of a statement that is bound and stepped, but does nothing. */
static double call_of(const entry *e) {
  static double times[2000];
  sqlite3_stmt *s = prepare(e, "SELECT 1, 1.0 WHERE ?1 IS NOT NULL");
  for (size_t i = 0; i < 2000; i++) {
    double start = now_us();
    bind_vector(s, 1, query_of(i % QUERIES));
    while (sqlite3_step(s) == SQLITE_ROW) (void)sqlite3_column_double(s, 1);
    sqlite3_reset(s);
    times[i] = now_us() - start;
  }
  sqlite3_finalize(s);
  return median(times, 2000);
}

/* How many queries a round asks, so that it takes no more than a few seconds; which settings there are. */
static void plan(entry *e) {
  double us = INFINITY, limit = is_quick ? 3e5 : 3e6;
  e->n_points = e->p->setting ? n_sweep : 1;
  for (size_t i = 0; i < e->n_points; i++) e->points[i].ef = e->p->setting ? sweep[i] : 0;
  set_ef(e, e->points[e->n_points - 1].ef);
  double start = now_us();
  for (size_t i = 0; i < 50 && now_us() - start < limit / 10; i++) (void)time_one(e, query_of(i)); /* warm */
  for (size_t i = 0; i < 3; i++) us = fmin(us, time_one(e, query_of(i)));
  e->n_asked = n_queries;
  if (us * (double)n_queries > limit) e->n_asked = (size_t)fmax(20, limit / us);
  if (e->n_asked > n_queries) e->n_asked = n_queries;
  e->times = allocate(e->n_points * n_rounds * e->n_asked * sizeof *e->times);
}

static void build_sql(entry *e) {
  char path[440], library[460];
  struct stat st;
  if (e->p->is_view) {
    e->db = e[-1].db;
    if (!e->db) die("there is no table");
    e->search = prepare(e, e->p->search);
    e->call_us = e[-1].call_us;
    plan(e);
    return;
  }
  double before = resident_mb();
  snprintf(path, sizeof path, "%s/%zu.db", scratch_dir, (size_t)(e - entries));
  if (sqlite3_open(path, &e->db) != SQLITE_OK) die("cannot open %s", path);
  if (e->p->library)
    snprintf(library, sizeof library, "%s/%s.so", peers_dir, e->p->library);
  else
    snprintf(library, sizeof library, "%s", extension);
  char *message = NULL;
  sqlite3_db_config(e->db, SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 1, NULL);
  if (sqlite3_load_extension(e->db, library, NULL, &message) != SQLITE_OK) die("%s", message);
  run(e, "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL");
  run(e, e->p->create);
  sqlite3_stmt *insert = prepare(e, e->p->insert);
  double start = now_us();
  run(e, "BEGIN");
  for (size_t i = 0; i < n_rows; i++) {
    sqlite3_bind_int64(insert, 1, (sqlite3_int64)i + 1);
    bind_vector(insert, 2, vector_of(i));
    int rc = sqlite3_step(insert);
    if (sqlite3_reset(insert) != SQLITE_OK || rc != SQLITE_DONE) die("%s: %s", sqlite3_errmsg(e->db), e->p->insert);
  }
  run(e, "COMMIT");
  if (e->p->finish) run(e, e->p->finish);
  if (e->p->connect) run(e, e->p->connect);
  e->build_s = (now_us() - start) / 1e6;
  sqlite3_finalize(insert);
  run(e, "PRAGMA wal_checkpoint(TRUNCATE)");
  e->call_us = call_of(e);
  e->search = prepare(e, e->p->search);
  plan(e);
  for (size_t q = 0; q < e->n_asked; q++) (void)time_one(e, query_of(q)); /* memory is that of one that is in use */
  e->memory_mb = resident_mb() - before;
  if (stat(path, &st) == 0) e->file_mb = (double)st.st_size / 1e6;
}

/* ---- libraries --------------------------------------------------------------------------------------------------- */

static double json_number(const char *line, const char *key) {
  char pattern[40];
  snprintf(pattern, sizeof pattern, "\"%s\": ", key);
  const char *at = strstr(line, pattern);
  if (!at) die("no %s in what search_peers.py says: %.200s", key, line);
  return strtod(at + strlen(pattern), NULL);
}

static void ask(entry *e, char *line, size_t n) {
  if (!fgets(line, (int)n, e->from)) die("search_peers.py has ended");
}

static void start_library(entry *e, const char *key) {
  char python[460], script[] = __FILE__, path[600], rows[24], line[1000];
  int to[2], from[2];
  char *slash = strrchr(script, '/');
  if (slash) *slash = 0;
  snprintf(python, sizeof python, "%s/venv/bin/python", peers_dir);
  snprintf(path, sizeof path, "%s/search_peers.py", slash ? script : ".");
  snprintf(rows, sizeof rows, "%zu", n_rows);
  if (pipe(to) != 0 || pipe(from) != 0) die("no pipe");
  e->pid = fork();
  if (e->pid < 0) die("no process");
  if (e->pid == 0) {
    dup2(to[0], 0);
    dup2(from[1], 1);
    for (int i = 3; i < 256; i++) close(i);
    setenv("DELTA_VECTORS_CACHE", data_dir, 1);
    execl(python, python, path, "--serve", "--set", set_name, "--rows", rows, "--metric", metric_names[measure], key,
          (char *)NULL);
    _exit(127);
  }
  close(to[0]);
  close(from[1]);
  e->to = fdopen(to[1], "w");
  e->from = fdopen(from[0], "r");
  if (!e->to || !e->from) die("no pipe");
  if (!fgets(line, sizeof line, e->from)) {
    int status = 0;
    waitpid(e->pid, &status, 0);
    e->pid = 0;
    e->is_missing = WIFEXITED(status) && WEXITSTATUS(status) == NOT_HERE;
    die("%s", e->is_missing ? "not here" : "search_peers.py failed");
  }
  e->build_s = json_number(line, "build_s");
  e->memory_mb = json_number(line, "memory_mb");
  e->call_us = json_number(line, "call_us");
  const char *name = strstr(line, "\"peer\": \"");
  if (name) sscanf(name + 9, "%63[^\"]", e->name);
  e->n_asked = n_queries;
  e->n_points = n_sweep;
  for (size_t i = 0; i < n_sweep; i++) e->points[i].ef = sweep[i];
}

static void end_library(entry *e) {
  if (e->to) fclose(e->to);
  if (e->from) fclose(e->from);
  if (e->pid > 0) waitpid(e->pid, NULL, 0);
  e->pid = 0;
  e->to = e->from = NULL;
}

/* ---- rounds ------------------------------------------------------------------------------------------------------ */

static void add_sql(entry *e, size_t i, size_t round) {
  (void)i;
  (void)round;
  build_sql(e);
}

static void add_library(entry *e, size_t i, size_t round) {
  (void)round;
  start_library(e, libraries[i]);
}

/* One round of one setting; the first time it is judged as well. Whose turn it is has to fetch its memory anew: others
 * had the caches meanwhile, and a thousand queries can take less than that. So they are asked once for nothing. */
static void run_point(entry *e, size_t i, size_t round) {
  if (e->pid > 0) {
    char line[1000];
    fprintf(e->to, "run %d %zu\n", e->points[i].ef, e->n_asked);
    fflush(e->to);
    ask(e, line, sizeof line);
    return;
  }
  set_ef(e, e->points[i].ef);
  if (round == 0) e->points[i].recall = judge(e);
  bool is_scan = e->n_asked < n_queries; /* which reads all there is each time */
  for (size_t q = 0; q < e->n_asked && !is_scan; q++) (void)time_one(e, query_of(q));
  float *times = e->times + (i * n_rounds + round) * e->n_asked;
  for (size_t q = 0; q < e->n_asked; q++) times[q] = (float)time_one(e, query_of(q));
}

static void summarise(entry *e, size_t i, size_t round) {
  (void)i;
  (void)round;
  if (e->pid > 0) {
    char line[1000];
    fprintf(e->to, "report\n");
    fflush(e->to);
    for (size_t at = 0; ask(e, line, sizeof line), line[0] != '\n'; at++) {
      if (at == e->n_points) die("more figures than were asked for");
      e->points[at] = (point){(int)json_number(line, "ef"), json_number(line, "mean_us"),
                              json_number(line, "median_us"), json_number(line, "recall")};
    }
    return;
  }
  double *each = allocate(e->n_asked * sizeof *each);
  for (size_t at = 0; at < e->n_points; at++) {
    double sum = 0, rounds[MAX_ROUNDS];
    for (size_t q = 0; q < e->n_asked; q++) {
      for (size_t r = 0; r < n_rounds; r++) rounds[r] = (double)e->times[(at * n_rounds + r) * e->n_asked + q];
      each[q] = median(rounds, n_rounds);
      sum += each[q];
    }
    e->points[at].mean = sum / (double)e->n_asked;
    e->points[at].median = median(each, e->n_asked);
  }
  free(each);
}

/* A peer that fails is out; the others go on. */
static bool attempt(entry *e, void (*what)(entry *, size_t, size_t), size_t i, size_t round) {
  if (e->is_broken) return false;
  if (setjmp(give_up) == 0) {
    what(e, i, round);
    return true;
  }
  fprintf(stderr, "bench_search: %s: %s\n", e->name, failure);
  e->is_broken = true;
  return false;
}

static entry *add_entry(const peer *p, const char *name) {
  entry *e = &entries[n_entries++];
  e->p = p;
  snprintf(e->name, sizeof e->name, "%s", name);
  e->build_s = e->memory_mb = e->file_mb = e->call_us = -1;
  return e;
}

static void add_entries(void) {
  char path[460];
  for (size_t i = 0; i < N_PEERS; i++) {
    const peer *p = &peers[i];
    if (p->library) {
      snprintf(path, sizeof path, "%s/%s.so", peers_dir, p->library);
      if (!is_wanted(p->key) || peers_dir[0] == 0 || access(path, R_OK) != 0 || !p->metrics[measure]) continue;
    }
    entry *e = add_entry(p, p->name);
    fprintf(stderr, "%s ...\n", e->name);
    (void)attempt(e, add_sql, 0, 0);
  }
  snprintf(path, sizeof path, "%s/venv/bin/python", peers_dir);
  for (size_t i = 0; peers_dir[0] && access(path, X_OK) == 0 && i < N_LIBRARIES; i++) {
    if (!is_wanted(libraries[i])) continue;
    entry *e = add_entry(NULL, libraries[i]);
    fprintf(stderr, "%s ...\n", e->name);
    (void)attempt(e, add_library, i, 0);
  }
}

static void run_rounds(void) {
  for (size_t r = 0; r < n_rounds; r++) {
    fprintf(stderr, "round %zu of %zu ...\n", r + 1, n_rounds);
    for (size_t i = 0; i < MAX_POINTS; i++) {
      for (size_t at = 0; at < n_entries; at++) {
        if (i < entries[at].n_points) (void)attempt(&entries[at], run_point, i, r);
      }
    }
  }
  for (size_t at = 0; at < n_entries; at++) (void)attempt(&entries[at], summarise, 0, 0);
}

/* ---- output ------------------------------------------------------------------------------------------------------ */

static double best_recall(const entry *e) {
  double best = 0;
  for (size_t i = 0; i < e->n_points; i++) best = fmax(best, e->points[i].recall);
  return best;
}

/* Microseconds at a recall: between the last setting below it and the first that reaches it, with the logarithm of the
 * time linear in the recall. NAN: never reached. is_bound: the first setting is above it already. */
static double time_at(const entry *e, double recall, bool *is_bound) {
  *is_bound = false;
  for (size_t i = 0; i < e->n_points; i++) {
    const point *b = &e->points[i], *a = b - 1;
    if (b->recall < recall) continue;
    if (i == 0) {
      *is_bound = e->n_points > 1;
      return b->mean;
    }
    double part = (recall - a->recall) / (b->recall - a->recall);
    return exp(log(a->mean) + part * (log(b->mean) - log(a->mean)));
  }
  return (double)NAN;
}

/* The peers behind ours, the fastest first. */
static int by_time(const void *a, const void *b) {
  const entry *x = *(const entry *const *)a, *y = *(const entry *const *)b;
  bool is_ours_x = x->p && !x->p->library, is_ours_y = y->p && !y->p->library, is_bound;
  if (is_ours_x != is_ours_y) return is_ours_x ? -1 : 1;
  if (is_ours_x) return x < y ? -1 : x > y;
  double s = time_at(x, 0.95, &is_bound), t = time_at(y, 0.95, &is_bound);
  if (isnan(s) || isnan(t)) return isnan(s) - isnan(t);
  return s < t ? -1 : s > t;
}

static const char *number(double x, bool is_bound) {
  static char texts[8][32];
  static size_t next;
  char *text = texts[next++ % 8];
  if (isnan(x) || x < 0)
    snprintf(text, 32, "-");
  else
    snprintf(text, 32, "%s%.*f", is_bound ? "<" : "", x >= 1000 ? 0 : x >= 10 ? 1 : 2, x);
  return text;
}

static void print_table(void) {
  static const double recalls[] = {0.95, 0.99};
  const entry *sorted[MAX_ENTRIES];
  size_t n = 0;
  double mine[2] = {(double)NAN, (double)NAN};
  for (size_t i = 0; i < n_entries; i++) {
    if (!entries[i].is_broken) sorted[n++] = &entries[i];
  }
  qsort(sorted, n, sizeof *sorted, by_time);
  printf("\n%-34s %8s %8s %8s %8s  %10s %7s  %10s %7s  %7s %8s %7s\n", "", "build s", "MB", "file MB", "call us",
         "us at .95", "/ ours", "us at .99", "/ ours", "best", "at us", "queries");
  for (size_t i = 0; i < n; i++) {
    const entry *e = sorted[i];
    double best = best_recall(e);
    bool is_bound;
    printf("%-34s %8s %8s %8s %8s", e->name, number(e->build_s, false), number(e->memory_mb, false),
           number(e->file_mb, false), number(e->call_us, false));
    for (size_t j = 0; j < 2; j++) {
      double t = time_at(e, recalls[j], &is_bound);
      if (i == 0) mine[j] = t;
      double ratio = t / mine[j];
      printf("  %10s %6s%s", number(t, is_bound), number(ratio, false), isnan(ratio) ? " " : "x");
    }
    const point *at = e->points;
    while (at->recall < best) at++;
    printf("  %7.4f %8s %7zu\n", best, number(at->mean, false), e->n_asked);
  }
  printf("\nus a query at recall, by ef\n");
  for (size_t i = 0; i < n; i++) {
    const entry *e = sorted[i];
    printf("%-34s", e->name);
    for (size_t j = 0; j < e->n_points; j++) {
      const point *p = &e->points[j];
      if (p->ef) printf(" %d:", p->ef);
      printf("%s%s/%.4f", p->ef ? "" : " ", number(p->mean, false), p->recall);
    }
    printf("\n");
  }
}

static void json_string(FILE *out, const char *s) {
  fputc('"', out);
  for (; *s; s++) {
    if (*s == '"' || *s == '\\') fputc('\\', out);
    fputc(*s, out);
  }
  fputc('"', out);
}

static char machine[160], version[80];

static void write_json(const char *path) {
  FILE *out = fopen(path, "w");
  if (!out) {
    perror(path);
    return;
  }
  fprintf(out, "{\"machine\": ");
  json_string(out, machine);
  fprintf(out, ", \"version\": ");
  json_string(out, version);
  fprintf(out, ", \"sqlite\": \"%s\", \"rounds\": %zu, \"quick\": %s}\n", sqlite3_libversion(), n_rounds,
          is_quick ? "true" : "false");
  for (size_t i = 0; i < n_entries; i++) {
    const entry *e = &entries[i];
    for (size_t j = 0; !e->is_broken && j < e->n_points; j++) {
      const point *p = &e->points[j];
      fprintf(out, "{\"peer\": ");
      json_string(out, e->name);
      fprintf(out, ", \"dataset\": \"%s\", \"rows\": %zu, \"dimensions\": %zu, \"metric\": \"%s\"", set_name, n_rows,
              n_dimensions, metric_names[measure]);
      if (e->build_s >= 0) fprintf(out, ", \"build_s\": %.3f, \"memory_mb\": %.1f", e->build_s, e->memory_mb);
      if (e->file_mb >= 0) fprintf(out, ", \"file_mb\": %.1f", e->file_mb);
      fprintf(out, ", \"call_us\": %.2f, \"queries\": %zu, \"ef\": ", e->call_us, e->n_asked);
      if (p->ef)
        fprintf(out, "%d", p->ef);
      else
        fprintf(out, "null");
      fprintf(out, ", \"median_us\": %.2f, \"mean_us\": %.2f, \"recall\": %.5f}\n", p->median, p->mean, p->recall);
    }
  }
  fclose(out);
}

static void describe_machine(void) {
  FILE *cpu = fopen("/proc/cpuinfo", "r");
  char line[200];
  snprintf(machine, sizeof machine, "unknown processor");
  while (cpu && fgets(line, sizeof line, cpu)) {
    char *colon = strchr(line, ':');
    if (strncmp(line, "model name", 10) == 0 && colon) {
      colon[strcspn(colon, "\n")] = 0;
      snprintf(machine, sizeof machine, "%.100s", colon + 2);
      break;
    }
  }
  if (cpu) fclose(cpu);
  size_t n = strlen(machine);
  double load[1] = {0};
  (void)getloadavg(load, 1);
  snprintf(machine + n, sizeof machine - n, ", %ld cores, load %.1f", sysconf(_SC_NPROCESSORS_ONLN), load[0]);
}

/* To the last core that this process may use. */
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

/* ---- main -------------------------------------------------------------------------------------------------------- */

static void load_all(entry *e, size_t i, size_t round) {
  (void)i;
  (void)round;
  load_data();
  load_truth();
  if (sqlite3_open(":memory:", &e->db) != SQLITE_OK) die("no database");
  char *message = NULL;
  sqlite3_db_config(e->db, SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 1, NULL);
  if (sqlite3_load_extension(e->db, extension, NULL, &message) != SQLITE_OK) die("%s", message);
  sqlite3_stmt *s = prepare(e, "SELECT delta_vectors_version() || ' (' || delta_vectors_backend() || ')'");
  if (sqlite3_step(s) == SQLITE_ROW) snprintf(version, sizeof version, "%s", (const char *)sqlite3_column_text(s, 0));
  sqlite3_finalize(s);
  sqlite3_close(e->db);
  printf("delta_vectors %s, SQLite %s, %s\n%zu rows of %s, %s, ten nearest, %zu rounds\n", version,
         sqlite3_libversion(), machine, n_rows, set_name, metric_names[measure], n_rounds);
  fflush(stdout);
}

static void close_entries(void) {
  for (size_t i = 0; i < n_entries; i++) {
    entry *e = &entries[i];
    end_library(e);
    sqlite3_finalize(e->search);
    free(e->times);
  }
  for (size_t i = 0; i < n_entries; i++) {
    if (entries[i].p && !entries[i].p->is_view) sqlite3_close(entries[i].db);
  }
}

static void remove_scratch(void) {
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

static void list_peers(void) {
  for (size_t i = 0; i < N_PEERS; i++) {
    if (peers[i].library) puts(peers[i].key);
  }
  for (size_t i = 0; i < N_LIBRARIES; i++) puts(libraries[i]);
  exit(0);
}

static void usage(void) {
  fprintf(stderr,
          "usage: bench_search [--set NAME] [--rows N] [--metric cosine|l2|ip] [--peers A,B|none] [--list] [--rounds N]"
          " [--data DIR] [--libraries DIR] [--scratch DIR] [--json FILE] [--quick] [--ours] [delta_vectors.so]\n");
  exit(2);
}

static void set_extension(const char *path) {
  snprintf(extension, sizeof extension, "%s%s", strchr(path, '/') ? "" : "./", path);
}

static metric metric_of(const char *name) {
  for (metric m = COSINE; m < N_METRICS; m++) {
    if (strcmp(name, metric_names[m]) == 0) return m;
  }
  usage();
  return COSINE;
}

int main(int argc, char **argv) {
  const char *json = NULL, *scratch = getenv("TMPDIR"), *data = NULL, *given = NULL, *metric_name = NULL;
  const char *home = getenv("HOME"), *xdg = getenv("XDG_CACHE_HOME"), *cache = getenv("DELTA_VECTORS_CACHE");
  for (int i = 1; i < argc; i++) {
    if (strcmp(argv[i], "--quick") == 0) {
      is_quick = true;
    } else if (strcmp(argv[i], "--list") == 0) {
      list_peers();
    } else if (argv[i][0] != '-') {
      set_extension(argv[i]);
    } else if (i + 1 == argc) {
      usage();
    } else if (strcmp(argv[i], "--ours") == 0) {
      set_extension(argv[++i]);
    } else if (strcmp(argv[i], "--set") == 0) {
      snprintf(set_name, sizeof set_name, "%s", argv[++i]);
    } else if (strcmp(argv[i], "--rows") == 0) {
      n_rows = (size_t)strtoul(argv[++i], NULL, 10);
    } else if (strcmp(argv[i], "--metric") == 0) {
      metric_name = argv[++i];
    } else if (strcmp(argv[i], "--peers") == 0) {
      wanted = argv[++i];
    } else if (strcmp(argv[i], "--rounds") == 0) {
      n_rounds = (size_t)strtoul(argv[++i], NULL, 10);
    } else if (strcmp(argv[i], "--data") == 0) {
      data = argv[++i];
    } else if (strcmp(argv[i], "--libraries") == 0) {
      given = argv[++i];
    } else if (strcmp(argv[i], "--scratch") == 0) {
      scratch = argv[++i];
    } else if (strcmp(argv[i], "--json") == 0) {
      json = argv[++i];
    } else {
      usage();
    }
  }
  if (n_rounds < 1 || n_rounds > MAX_ROUNDS) usage();
  if (is_quick) {
    n_rounds = 2;
    n_queries = 100;
    sweep = quick_sweep;
    n_sweep = sizeof quick_sweep / sizeof *quick_sweep;
  }
  measure = metric_name                             ? metric_of(metric_name)
            : strncmp(set_name, "words-", 6) == 0   ? IP
            : strncmp(set_name, "patches-", 8) == 0 ? L2
                                                    : COSINE;
  if (cache)
    snprintf(cache_dir, sizeof cache_dir, "%s", cache);
  else if (xdg)
    snprintf(cache_dir, sizeof cache_dir, "%s/delta_vectors", xdg);
  else
    snprintf(cache_dir, sizeof cache_dir, "%s/.cache/delta_vectors", home ? home : ".");
  snprintf(data_dir, sizeof data_dir, "%s", data ? data : cache_dir);
  if (given)
    snprintf(peers_dir, sizeof peers_dir, "%s", given);
  else
    snprintf(peers_dir, sizeof peers_dir, "%.390s/peers", cache_dir);
  if (access(peers_dir, R_OK) != 0) {
    fprintf(stderr, "bench_search: no peers in %s: install them with tests/bench/peers.sh\n", peers_dir);
    peers_dir[0] = 0;
  }
  snprintf(scratch_dir, sizeof scratch_dir, "%.370s/bench_search.XXXXXX", scratch ? scratch : "/tmp");
  if (!mkdtemp(scratch_dir)) {
    perror(scratch_dir);
    return 1;
  }
  signal(SIGPIPE, SIG_IGN); /* a library that dies is out, no more */
  pin();
  describe_machine();
  size_t n_failed = 0;
  entry start = {.name = "start"};
  if (attempt(&start, load_all, 0, 0)) {
    add_entries();
    run_rounds();
    for (size_t i = 0; i < n_entries; i++) n_failed += entries[i].is_broken && !entries[i].is_missing;
    print_table();
    if (json) write_json(json);
  }
  close_entries();
  remove_scratch();
  free(vectors);
  free(queries);
  free(truth);
  return start.is_broken || n_failed ? 1 : 0;
}
