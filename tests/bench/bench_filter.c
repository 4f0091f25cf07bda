/*
 * bench_filter.c: searches with a condition, at several selectivities: as they come, and with each of the two ways in
 * which they can be done forced.
 *
 *   bench_filter [options] [delta_vectors.so]
 *     --set NAME     which data, <name>-<dimensions>                    default: wordnet-384
 *     --rows N       so many of its rows                                default: 100000
 *     --queries N    so many queries a condition                        default: 40
 *     --rounds N                                                        default: 5
 *     --data DIR     where the data lie                                 default: the cache directory
 *     --libraries DIR  where peers.sh installed sqlite-vec              default: <cache directory>/peers
 *     --scratch DIR  where the databases go                             default: $TMPDIR or /tmp
 *     --no-peer      without sqlite-vec
 *     --clock cpu    the time that the process has had, not the time that passed: for a machine that is busy
 *
 * One database, three connections, each with the extension in another build: as it is, with scans that cost nothing
 * (DVX_SCAN_COST=0: it always scans the rows that pass), and with scans that are never worth it (1e6: it always asks
 * the graph). So all three read the same rows and the same graph. It pins itself to one core; in every round each
 * condition is put to each connection with all queries, in turns. A query's time is its median over the rounds; a figure is
 * the mean over queries. README.md says what the columns of the table are.
 */
#define _GNU_SOURCE
#include <math.h>
#include <sched.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <sqlite3.h>

#ifndef DV_EXTENSION_PATH
#define DV_EXTENSION_PATH "./delta_vectors"
#endif

enum { K = 10, QUERIES = 1000, MAX_ROUNDS = 25, N_SELECTIVITIES = 4, FEW_QUERIES = 3, N_OTHERS = 50 };
static const double slow_us = 20000; /* who takes longer is asked only a few queries */

static const double selectivities[N_SELECTIVITIES] = {0.5, 0.1, 0.01, 0.001};
static const char *const groups[N_SELECTIVITIES] = {"half", "tenth", "hundredth", "thousandth"};

/* What queries are asked: any; those nearest to the place that `nearness` is counted from; those farthest from it. */
typedef enum who { ANY, NEAR, FAR } who;

static const struct {
  const char *name;
  const char *condition; /* # stands for the number of the group, @ for its name, % for its share */
  who queries;
  bool has_bound; /* ?2 is the share, and a little else for each query: so that no filter is known */
} kinds[] = {{"INTEGER =", "i = #", ANY, false},
             {"REAL <", "r < %", ANY, false},
             {"REAL <, each time another", "r < ?2", ANY, true},
             {"TEXT =", "t = '@'", ANY, false},
             {"TEXT LIKE", "path LIKE '@/%'", ANY, false},
             {"PARTITION KEY =", "p = #", ANY, false},
             {"nearest to a place, asked there", "nearness < %", NEAR, false},
             {"... asked far from it", "nearness < %", FAR, false}};
enum { N_KINDS = sizeof kinds / sizeof kinds[0], N_FILTERS = N_KINDS * N_SELECTIVITIES };

/* ---- failing, time, data ----------------------------------------------------------------------------------------- */

static char cache_dir[400], data_dir[400], peers_dir[400], scratch_dir[400], set_name[80] = "wordnet-384";
static char extension[400] = DV_EXTENSION_PATH;
static size_t n_rows = 100000, n_queries = 40, n_rounds = 5, n_dimensions;
static float *vectors, *queries;

__attribute__((format(printf, 1, 2), noreturn)) static void die(const char *format, ...) {
  va_list args;
  va_start(args, format);
  fprintf(stderr, "bench_filter: ");
  vfprintf(stderr, format, args);
  fprintf(stderr, "\n");
  va_end(args);
  exit(1);
}

static void *allocate(size_t n) {
  void *p = calloc(n ? n : 1, 1);
  if (!p) die("out of memory");
  return p;
}

static clockid_t clock_used = CLOCK_MONOTONIC;

static double now_us(void) {
  struct timespec t;
  clock_gettime(clock_used, &t);
  return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

static int by_value(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static double median(double *x, size_t n) {
  qsort(x, n, sizeof *x, by_value);
  return n % 2 ? x[n / 2] : (x[n / 2 - 1] + x[n / 2]) / 2;
}

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

static double distance(const float *a, const float *b) {
  double dot = 0, aa = 0, bb = 0;
  for (size_t i = 0; i < n_dimensions; i++) {
    double x = (double)a[i], y = (double)b[i];
    dot += x * y;
    aa += x * x;
    bb += y * y;
  }
  return 1 - dot / sqrt(aa * bb);
}

/* ---- the rows' metadata ------------------------------------------------------------------------------------------- */

static uint32_t *shuffled; /* a random place in 0 .. n_rows - 1 */
static uint32_t *nearness; /* the place in order of distance from row 0 */
static size_t asked[3][QUERIES]; /* by who: numbers of queries */

typedef struct placed {
  double distance;
  uint32_t number;
} placed;

static int by_distance(const void *a, const void *b) {
  double x = ((const placed *)a)->distance, y = ((const placed *)b)->distance;
  return (x > y) - (x < y);
}

static void make_metadata(void) {
  uint64_t seed = 1;
  shuffled = allocate(n_rows * sizeof *shuffled);
  nearness = allocate(n_rows * sizeof *nearness);
  placed *order = allocate((n_rows + QUERIES) * sizeof *order);
  for (size_t i = 0; i < n_rows; i++) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    size_t j = (size_t)(seed >> 33) % (i + 1);
    shuffled[i] = shuffled[j];
    shuffled[j] = (uint32_t)i;
  }
  for (size_t i = 0; i < n_rows; i++) order[i] = (placed){distance(vector_of(0), vector_of(i)), (uint32_t)i};
  qsort(order, n_rows, sizeof *order, by_distance);
  for (size_t i = 0; i < n_rows; i++) nearness[order[i].number] = (uint32_t)i;
  for (size_t q = 0; q < QUERIES; q++) order[q] = (placed){distance(vector_of(0), query_of(q)), (uint32_t)q};
  qsort(order, QUERIES, sizeof *order, by_distance);
  for (size_t q = 0; q < QUERIES; q++) {
    asked[ANY][q] = q;
    asked[NEAR][q] = order[q].number;
    asked[FAR][q] = order[QUERIES - 1 - q].number;
  }
  free(order);
}

/* Half of the rows are in group 0, a tenth in 1, and so on; the others in many small groups. */
static int group_of(size_t row) {
  double place = (double)shuffled[row], end = 0;
  for (int s = 0; s < N_SELECTIVITIES; s++) {
    end += selectivities[s] * (double)n_rows;
    if (place < end) return s;
  }
  return N_SELECTIVITIES + (int)(shuffled[row] % N_OTHERS);
}

static bool passes(int kind, int s, size_t row) {
  double end = selectivities[s] * (double)n_rows;
  if (kinds[kind].queries != ANY) return (double)nearness[row] < end;
  return kinds[kind].condition[0] == 'r' ? (double)shuffled[row] < end : group_of(row) == s;
}

static void put_condition(int kind, int s, char *out, size_t size) {
  size_t n = 0;
  for (const char *c = kinds[kind].condition; *c && n + 40 < size; c++) {
    if (*c == '#')
      n += (size_t)snprintf(out + n, size - n, "%d", s);
    else if (*c == '@')
      n += (size_t)snprintf(out + n, size - n, "%s", groups[s]);
    else if (*c == '%' && c[1] != '\'')
      n += (size_t)snprintf(out + n, size - n, "%g", selectivities[s]);
    else
      out[n++] = *c;
  }
  out[n] = 0;
}

/* ---- contenders --------------------------------------------------------------------------------------------------- */

enum { OURS, SCAN, GRAPH, PEER, N_CONTENDERS };
static const char *const contender_builds[] = {"", "scan/", "graph/"};

typedef struct contender {
  sqlite3 *db;
  sqlite3_stmt *search;
  size_t n_asked;
} contender;

static contender contenders[N_CONTENDERS];

static void run(sqlite3 *db, const char *sql) {
  char *message = NULL;
  if (sqlite3_exec(db, sql, NULL, NULL, &message) != SQLITE_OK) die("%s: %s", sql, message);
}

static bool open_database(const char *file, const char *library, sqlite3 **out) {
  char *message = NULL;
  if (sqlite3_open(file, out) != SQLITE_OK) die("cannot open %s", file);
  sqlite3_db_config(*out, SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 1, NULL);
  if (sqlite3_load_extension(*out, library, NULL, &message) == SQLITE_OK) return true;
  fprintf(stderr, "bench_filter: %s\n", message);
  sqlite3_free(message);
  return false;
}

static void insert_rows(sqlite3 *db) {
  sqlite3_stmt *insert;
  const char *sql = "INSERT INTO docs(id, v, i, r, t, path, p, nearness) VALUES(?1, ?2, ?3, ?4, ?5, ?6, ?7, ?8)";
  run(db, "BEGIN");
  if (sqlite3_prepare_v2(db, sql, -1, &insert, NULL) != SQLITE_OK) die("%s", sqlite3_errmsg(db));
  for (size_t row = 0; row < n_rows; row++) {
    char name[40], path[60];
    int group = group_of(row);
    if (group < N_SELECTIVITIES)
      snprintf(name, sizeof name, "%s", groups[group]);
    else
      snprintf(name, sizeof name, "other-%d", group);
    snprintf(path, sizeof path, "%s/%u", name, shuffled[row] % 20);
    sqlite3_bind_int64(insert, 1, (sqlite3_int64)row + 1);
    sqlite3_bind_blob(insert, 2, vector_of(row), (int)(n_dimensions * sizeof(float)), SQLITE_STATIC);
    sqlite3_bind_int(insert, 3, group);
    sqlite3_bind_double(insert, 4, (double)shuffled[row] / (double)n_rows);
    sqlite3_bind_text(insert, 5, name, -1, SQLITE_STATIC);
    sqlite3_bind_text(insert, 6, path, -1, SQLITE_STATIC);
    sqlite3_bind_int(insert, 7, group);
    sqlite3_bind_double(insert, 8, (double)nearness[row] / (double)n_rows);
    if (sqlite3_step(insert) != SQLITE_DONE) die("%s", sqlite3_errmsg(db));
    sqlite3_reset(insert);
  }
  sqlite3_finalize(insert);
  run(db, "COMMIT");
}

static void make_ours(void) {
  char file[500], library[500], sql[400];
  const char *slash = strrchr(extension, '/');
  snprintf(file, sizeof file, "%s/ours.db", scratch_dir);
  for (int c = OURS; c <= GRAPH; c++) {
    snprintf(library, sizeof library, "%.*s/%s%s", (int)(slash - extension), extension, contender_builds[c], slash + 1);
    if (!open_database(file, library, &contenders[c].db)) die("no %s", library);
    if (c != OURS) continue;
    snprintf(sql, sizeof sql,
             "CREATE VIRTUAL TABLE docs USING delta_vectors(id INTEGER PRIMARY KEY, v FLOAT[%zu], i INTEGER, r REAL,"
             " t TEXT, path TEXT, p INTEGER PARTITION KEY, nearness REAL, metric=cosine)",
             n_dimensions);
    run(contenders[c].db, sql);
    insert_rows(contenders[c].db);
    run(contenders[c].db, "INSERT INTO docs(docs) VALUES('optimize')");
  }
}

static void make_peer(void) {
  char file[500], library[500], sql[400];
  contender *c = &contenders[PEER];
  snprintf(file, sizeof file, "%s/peer.db", scratch_dir);
  snprintf(library, sizeof library, "%s/vec0.so", peers_dir);
  if (access(library, R_OK) != 0 || !open_database(file, library, &c->db)) {
    c->db = NULL;
    return;
  }
  snprintf(
      sql, sizeof sql,
      "CREATE VIRTUAL TABLE docs USING vec0(id INTEGER PRIMARY KEY, v FLOAT[%zu] distance_metric=cosine, i INTEGER,"
      " r FLOAT, t TEXT, path TEXT, p INTEGER PARTITION KEY, nearness FLOAT)",
      n_dimensions);
  run(c->db, sql);
  insert_rows(c->db);
}

/* ---- asking ------------------------------------------------------------------------------------------------------- */

static double truth[QUERIES][K]; /* of the filter at hand: the distances of the ten nearest that pass */
static size_t n_true;

/* Distances are needed for each filter anew: they are kept. */
static const double *distances_of(size_t query) {
  static const double *known[QUERIES];
  if (known[query]) return known[query];
  double *d = allocate(n_rows * sizeof *d);
  for (size_t row = 0; row < n_rows; row++) d[row] = distance(query_of(query), vector_of(row));
  return known[query] = d;
}

static void find_truth(int kind, int s) {
  bool *is_passing = allocate(n_rows);
  n_true = 0;
  for (size_t row = 0; row < n_rows; row++) n_true += is_passing[row] = passes(kind, s, row);
  if (n_true > K) n_true = K;
  for (size_t at = 0; at < n_queries; at++) {
    const double *d = distances_of(asked[kinds[kind].queries][at]);
    size_t n = 0;
    for (size_t row = 0; row < n_rows; row++) {
      if (!is_passing[row] || (n == n_true && d[row] >= truth[at][n - 1])) continue;
      size_t place = n < n_true ? n++ : n - 1;
      for (; place > 0 && truth[at][place - 1] > d[row]; place--) truth[at][place] = truth[at][place - 1];
      truth[at][place] = d[row];
    }
  }
  free(is_passing);
}

/* Microseconds; *n_right: rows that belong to the answer. */
static double ask(contender *c, int kind, int s, size_t at, size_t *n_right) {
  size_t query = asked[kinds[kind].queries][at];
  double started = now_us(), found[K];
  size_t n = 0;
  sqlite3_bind_blob(c->search, 1, query_of(query), (int)(n_dimensions * sizeof(float)), SQLITE_STATIC);
  if (kinds[kind].has_bound)
    sqlite3_bind_double(c->search, 2, selectivities[s] - (0.1 + 0.0001 * (double)at) / (double)n_rows);
  while (sqlite3_step(c->search) == SQLITE_ROW && n < K) found[n++] = sqlite3_column_double(c->search, 1);
  if (sqlite3_reset(c->search) != SQLITE_OK) die("%s", sqlite3_errmsg(c->db));
  double took = now_us() - started;
  *n_right = 0;
  for (size_t i = 0; i < n; i++) *n_right += found[i] <= truth[at][n_true - 1] + 1e-6;
  return took;
}

typedef struct figure {
  double us, recall;
} figure;

/* All rounds of one filter. */
static void measure(int kind, int s, figure *out) {
  char condition[100], sql[300];
  static double times[N_CONTENDERS][QUERIES][MAX_ROUNDS];
  size_t n_right[N_CONTENDERS] = {0};
  put_condition(kind, s, condition, sizeof condition);
  find_truth(kind, s);
  for (int c = 0; c < N_CONTENDERS; c++) {
    out[c] = (figure){NAN, NAN};
    contenders[c].n_asked = n_queries;
    if (contenders[c].db == NULL) continue;
    snprintf(sql, sizeof sql, "SELECT id, distance FROM docs WHERE v MATCH ?1 AND k = 10 AND %s", condition);
    if (sqlite3_prepare_v2(contenders[c].db, sql, -1, &contenders[c].search, NULL) == SQLITE_OK) continue;
    fprintf(stderr, "bench_filter: %s: %s\n", sql, sqlite3_errmsg(contenders[c].db));
    contenders[c].search = NULL;
  }
  for (size_t round = 0; round <= n_rounds; round++) {
    for (int c = 0; c < N_CONTENDERS; c++) {
      for (size_t at = 0; contenders[c].search && at < contenders[c].n_asked; at++) {
        size_t n;
        double us = ask(&contenders[c], kind, s, at, &n);
        if (round > 0) {
          times[c][at][round - 1] = us;
          continue;
        }
        n_right[c] += n; /* and what is read when it is first used is read */
        if (at + 1 == FEW_QUERIES && us > slow_us) contenders[c].n_asked = FEW_QUERIES;
      }
    }
  }
  for (int c = 0; c < N_CONTENDERS; c++) {
    contender *one = &contenders[c];
    if (one->search == NULL) continue;
    double sum = 0;
    for (size_t at = 0; at < one->n_asked; at++) sum += median(times[c][at], n_rounds);
    out[c] = (figure){sum / (double)one->n_asked, (double)n_right[c] / (double)(one->n_asked * n_true)};
    sqlite3_finalize(one->search);
    one->search = NULL;
  }
}

/* ---- main --------------------------------------------------------------------------------------------------------- */

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

static void print_header(void) {
  sqlite3_stmt *s = NULL;
  const char *sql = "SELECT delta_vectors_version() || ' (' || delta_vectors_backend() || ')'";
  if (sqlite3_prepare_v2(contenders[OURS].db, sql, -1, &s, NULL) != SQLITE_OK || sqlite3_step(s) != SQLITE_ROW)
    die("%s", sqlite3_errmsg(contenders[OURS].db));
  printf("delta_vectors %s, SQLite %s\n%zu rows of %s, cosine, ten nearest, %zu queries a condition, %zu rounds\n\n",
         (const char *)sqlite3_column_text(s, 0), sqlite3_libversion(), n_rows, set_name, n_queries, n_rounds);
  sqlite3_finalize(s);
  printf("%-34s %6s  %8s %8s %8s %7s  %7s %7s %7s  %10s\n", "", "pass", "us", "scan us", "graph us", "/ best", "recall",
         "scan", "graph", "sqlite-vec");
  fflush(stdout);
}

/* Of the two pure ways, that which is faster, if it finds enough. */
static double best(const figure *f) {
  bool is_graph_fit = f[GRAPH].recall >= 0.99;
  return is_graph_fit && f[GRAPH].us < f[SCAN].us ? f[GRAPH].us : f[SCAN].us;
}

static void print_figures(int kind, int s, const figure *f) {
  printf("%-34s %5g%%  %8.0f %8.0f %8.0f %6.2fx  %7.4f %7.4f %7.4f", s == 0 ? kinds[kind].name : "",
         100 * selectivities[s], f[OURS].us, f[SCAN].us, f[GRAPH].us, f[OURS].us / best(f), f[OURS].recall,
         f[SCAN].recall, f[GRAPH].recall);
  if (isnan(f[PEER].us))
    printf("  %10s\n", "-");
  else
    printf("  %10.0f\n", f[PEER].us);
  fflush(stdout);
}

static void remove_scratch(void) {
  static const char *const names[] = {"ours.db", "ours.db-journal", "peer.db", "peer.db-journal"};
  char path[500];
  for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
    snprintf(path, sizeof path, "%s/%s", scratch_dir, names[i]);
    unlink(path);
  }
  rmdir(scratch_dir);
}

static void usage(void) {
  fprintf(stderr,
          "usage: bench_filter [--set NAME] [--rows N] [--queries N] [--rounds N] [--data DIR] [--libraries DIR]"
          " [--scratch DIR] [--no-peer] [--clock cpu] [delta_vectors.so]\n");
  exit(2);
}

int main(int argc, char **argv) {
  const char *scratch = getenv("TMPDIR"), *data = NULL, *libraries = NULL;
  const char *home = getenv("HOME"), *xdg = getenv("XDG_CACHE_HOME"), *cache = getenv("DELTA_VECTORS_CACHE");
  bool has_peer = true;
  for (int i = 1; i < argc; i++) {
    if (strcmp(argv[i], "--no-peer") == 0)
      has_peer = false;
    else if (argv[i][0] != '-')
      snprintf(extension, sizeof extension, "%s%s", strchr(argv[i], '/') ? "" : "./", argv[i]);
    else if (i + 1 == argc)
      usage();
    else if (strcmp(argv[i], "--clock") == 0)
      clock_used = strcmp(argv[++i], "cpu") == 0 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC;
    else if (strcmp(argv[i], "--set") == 0)
      snprintf(set_name, sizeof set_name, "%s", argv[++i]);
    else if (strcmp(argv[i], "--rows") == 0)
      n_rows = (size_t)strtoul(argv[++i], NULL, 10);
    else if (strcmp(argv[i], "--queries") == 0)
      n_queries = (size_t)strtoul(argv[++i], NULL, 10);
    else if (strcmp(argv[i], "--rounds") == 0)
      n_rounds = (size_t)strtoul(argv[++i], NULL, 10);
    else if (strcmp(argv[i], "--data") == 0)
      data = argv[++i];
    else if (strcmp(argv[i], "--libraries") == 0)
      libraries = argv[++i];
    else if (strcmp(argv[i], "--scratch") == 0)
      scratch = argv[++i];
    else
      usage();
  }
  if (n_rounds < 1 || n_rounds > MAX_ROUNDS || n_queries < 1 || n_queries > QUERIES || n_rows < 1000) usage();
  if (cache)
    snprintf(cache_dir, sizeof cache_dir, "%s", cache);
  else if (xdg)
    snprintf(cache_dir, sizeof cache_dir, "%s/delta_vectors", xdg);
  else
    snprintf(cache_dir, sizeof cache_dir, "%s/.cache/delta_vectors", home ? home : ".");
  snprintf(data_dir, sizeof data_dir, "%s", data ? data : cache_dir);
  if (libraries)
    snprintf(peers_dir, sizeof peers_dir, "%s", libraries);
  else
    snprintf(peers_dir, sizeof peers_dir, "%.390s/peers", cache_dir);
  snprintf(scratch_dir, sizeof scratch_dir, "%.370s/bench_filter.XXXXXX", scratch ? scratch : "/tmp");
  if (!mkdtemp(scratch_dir)) die("cannot make %s", scratch_dir);
  atexit(remove_scratch);
  pin();
  load_data();
  make_metadata();
  make_ours();
  if (has_peer) make_peer();
  print_header();
  for (int kind = 0; kind < N_KINDS; kind++) {
    for (int s = 0; s < N_SELECTIVITIES; s++) {
      figure figures[N_CONTENDERS];
      measure(kind, s, figures);
      print_figures(kind, s, figures);
    }
  }
  for (int c = 0; c < N_CONTENDERS; c++) sqlite3_close(contenders[c].db);
  return 0;
}
