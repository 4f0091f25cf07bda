/*
 * bench_core.c: what the extension costs through SQL, in time and bytes, beside its peers in the same run.
 *
 *   bench_core [options] [delta_vectors.so]
 *     --data DIR     where wordnet-384.* lie (make_embeddings.py)       default: the cache directory
 *     --peers DIR    where peers.sh installed the peers                 default: <cache directory>/peers; 'none'
 *     --scratch DIR  where the databases go                             default: $TMPDIR or /tmp
 *     --only A,B     only these sections: codec insert read search write batch fold past wal large
 *     --json FILE    writes the figures as JSON as well
 *     --clock cpu    CPU time of the thread instead of the clock on the wall, for machines that do other things too
 *     --quick        a tenth of the repeats, no 100,000 rows: is everything there?
 *
 * It pins itself to one core. A figure is the median over rounds of each round's median; beside it stand the smallest
 * and the largest round. Peers take turns with us within every round, so what else the machine does hits all alike.
 * README.md says what each row means and what is fair and unfair about it.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <math.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include <sqlite3.h>

#include "dv_frame.h"

#ifndef DV_EXTENSION_PATH
#define DV_EXTENSION_PATH "./delta_vectors"
#endif

enum {
  N = 384,         /* dimensions */
  ROWS = 10000,    /* the table of most rows */
  LARGE = 100000,
  QUERIES = 1000,
  K = 10,
  CHANGED = 19,    /* 5 % of the dimensions */
  ID_LENGTH = 9,   /* n00001740 */
  VECTOR = N * 4,  /* bytes */
  MAX_ROUNDS = 9,
  MAX_ROWS = 64,
  MAX_PEERS = 12
};

/* ---- failing, memory, numbers ------------------------------------------------------------------------------------ */

static jmp_buf give_up; /* set by the section that runs */
static char failure[600];

__attribute__((format(printf, 1, 2), noreturn)) static void die(const char *format, ...) {
  va_list args;
  va_start(args, format);
  vsnprintf(failure, sizeof failure, format, args);
  va_end(args);
  longjmp(give_up, 1);
}

static void *allocate(size_t n) {
  void *p = malloc(n ? n : 1);
  if (!p) die("out of memory");
  return p;
}

static void *resize(void *ctx, void *p, size_t n_bytes) {
  (void)ctx;
  if (n_bytes == 0) {
    free(p);
    return NULL;
  }
  return realloc(p, n_bytes);
}

static const dv_alloc heap = {resize, NULL};

static uint64_t seed = 1;

static uint64_t next_random(void) {
  seed += 0x9e3779b97f4a7c15u; /* splitmix64 */
  uint64_t z = seed;
  z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
  z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
  return z ^ (z >> 31);
}

static size_t below(size_t n) { return (size_t)(next_random() % n); }
static double uniform(void) { return (double)(next_random() >> 11) * 0x1p-53; }
static double gaussian(void) { return sqrt(-2 * log(uniform() + 1e-300)) * cos(6.283185307179586 * uniform()); }

static void shuffle(uint32_t *x, size_t n) {
  for (size_t i = n; i > 1; i--) {
    size_t j = below(i);
    uint32_t swap = x[i - 1];
    x[i - 1] = x[j];
    x[j] = swap;
  }
}

/* A random order of 0 .. n-1. */
static uint32_t *random_order(size_t n) {
  uint32_t *order = allocate(n * sizeof *order);
  for (size_t i = 0; i < n; i++) order[i] = (uint32_t)i;
  shuffle(order, n);
  return order;
}

/* ---- time -------------------------------------------------------------------------------------------------------- */

static clockid_t clock_id = CLOCK_MONOTONIC;
static bool is_quick;

static double read_clock(clockid_t clock) {
  struct timespec t;
  clock_gettime(clock, &t);
  return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

static double now_us(void) { return read_clock(clock_id); }

static int64_t now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_REALTIME, &t);
  return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void sleep_ms(long n) { nanosleep(&(struct timespec){n / 1000, n % 1000 * 1000000}, NULL); }

static size_t rounds(void) { return is_quick ? 2 : 5; }
static size_t repeats(size_t n) { return is_quick ? (n + 9) / 10 : n; }

static int by_value(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return x < y ? -1 : x > y;
}

static double median(double *x, size_t n) {
  qsort(x, n, sizeof *x, by_value);
  return n % 2 ? x[n / 2] : (x[n / 2 - 1] + x[n / 2]) / 2;
}

/* Collects one figure: samples of the round that runs, medians of the rounds that are over. */
typedef struct meter {
  double *samples;
  size_t n_samples;
  size_t capacity;
  double medians[MAX_ROUNDS];
  size_t n_rounds;
  double sum;
  size_t n_all;
} meter;

static void meter_add(meter *m, double us) {
  if (m->n_samples == m->capacity) {
    m->capacity = m->capacity ? m->capacity * 2 : 1024;
    double *grown = realloc(m->samples, m->capacity * sizeof *grown);
    if (!grown) die("out of memory");
    m->samples = grown;
  }
  m->samples[m->n_samples++] = us;
  m->sum += us;
  m->n_all++;
}

/* Ends a round; its median. */
static double meter_round(meter *m) {
  if (m->n_samples == 0) return 0;
  double x = median(m->samples, m->n_samples);
  if (m->n_rounds < MAX_ROUNDS) m->medians[m->n_rounds++] = x;
  m->n_samples = 0;
  return x;
}

/* ---- figures ----------------------------------------------------------------------------------------------------- */

typedef struct figure {
  bool is_there;
  double median, low, high;
} figure;

static figure one_figure(double x) { return (figure){true, x, x, x}; }

/* The figure of all rounds; empties the meter. */
static figure meter_figure(meter *m) {
  meter_round(m);
  figure f = {false, 0, 0, 0};
  if (m->n_rounds) {
    f.is_there = true;
    f.median = median(m->medians, m->n_rounds); /* sorts them */
    f.low = m->medians[0];
    f.high = m->medians[m->n_rounds - 1];
  }
  free(m->samples);
  memset(m, 0, sizeof *m);
  return f;
}

typedef struct peer_figure {
  char name[48];
  bool is_exact_peer; /* counts for "faster than any exact peer" */
  figure f;
} peer_figure;

typedef struct row {
  char key[40]; /* in the JSON */
  char what[96];
  const char *unit;
  bool has_reach, at_least;
  double reach;
  figure f;
  char note[160];
  peer_figure peers[MAX_PEERS];
  size_t n_peers;
} row;

static row table[MAX_ROWS];
static size_t n_table;

/* A row that something is to be reached in; reach < 0: for information. at_least: more is better. */
static row *add_row(const char *key, const char *what, const char *unit, double reach, figure f) {
  if (n_table == MAX_ROWS) die("the table is full");
  row *r = &table[n_table++];
  memset(r, 0, sizeof *r);
  snprintf(r->key, sizeof r->key, "%s", key);
  snprintf(r->what, sizeof r->what, "%s", what);
  r->unit = unit;
  r->has_reach = reach >= 0;
  r->reach = reach;
  r->f = f;
  return r;
}

__attribute__((format(printf, 2, 3))) static void set_note(row *r, const char *format, ...) {
  va_list args;
  va_start(args, format);
  vsnprintf(r->note, sizeof r->note, format, args);
  va_end(args);
}

static void add_peer(row *r, const char *name, bool is_exact_peer, figure f) {
  if (!f.is_there || r->n_peers == MAX_PEERS) return;
  peer_figure *p = &r->peers[r->n_peers++];
  snprintf(p->name, sizeof p->name, "%s", name);
  p->is_exact_peer = is_exact_peer;
  p->f = f;
}

static bool is_met(const row *r) { return r->at_least ? r->f.median >= r->reach : r->f.median <= r->reach; }

/* ---- data -------------------------------------------------------------------------------------------------------- */

static char cache_dir[400], data_dir[400], peers_dir[400], scratch_dir[400];
static char extension[400] = DV_EXTENSION_PATH;
static float *vectors; /* LARGE x N */
static float *queries; /* QUERIES x N */
static char (*ids)[ID_LENGTH + 1];

static void *read_file(const char *name, size_t n_bytes) {
  char path[512];
  snprintf(path, sizeof path, "%s/%s", data_dir, name);
  FILE *file = fopen(path, "rb");
  if (!file) die("cannot open %s: make the data with tests/bench/make_embeddings.py", path);
  void *p = allocate(n_bytes);
  if (fread(p, 1, n_bytes, file) != n_bytes) die("%s is shorter than %zu bytes", path, n_bytes);
  fclose(file);
  return p;
}

static void load_data(void) {
  vectors = read_file("wordnet-384.f32", (size_t)LARGE * VECTOR);
  queries = read_file("wordnet-384-queries.f32", (size_t)QUERIES * VECTOR);
  ids = read_file("wordnet-384.ids", (size_t)LARGE * (ID_LENGTH + 1));
}

static const float *vector_of(size_t i) { return vectors + i * N; }

/* ---- truth: the ten nearest by cosine, in double ----------------------------------------------------------------- */

typedef struct truth {
  uint32_t rows[K + 6]; /* a few more than asked for, so that ties at the end can be told */
  double distances[K + 6];
} truth;

static double cosine_distance(const float *a, const float *b) {
  double dot = 0, aa = 0, bb = 0;
  for (size_t i = 0; i < N; i++) {
    dot += (double)a[i] * (double)b[i];
    aa += (double)a[i] * (double)a[i];
    bb += (double)b[i] * (double)b[i];
  }
  return 1 - dot / sqrt(aa * bb);
}

/* In f32 with 16 sums, which the compiler vectorises: within 1e-5 of the truth for vectors of norm 1. */
static float rough_dot(const float *a, const float *b) {
  float sums[16] = {0};
  for (size_t i = 0; i < N; i += 16) {
    for (size_t j = 0; j < 16; j++) sums[j] += a[i + j] * b[i + j];
  }
  float sum = 0;
  for (size_t j = 0; j < 16; j++) sum += sums[j];
  return sum;
}

static void truth_insert(truth *t, uint32_t i, double d) {
  size_t n = K + 6, at = n;
  while (at > 0 && (t->distances[at - 1] > d || (t->distances[at - 1] >= d && t->rows[at - 1] > i))) at--;
  if (at == n) return;
  memmove(t->rows + at + 1, t->rows + at, (n - 1 - at) * sizeof *t->rows);
  memmove(t->distances + at + 1, t->distances + at, (n - 1 - at) * sizeof *t->distances);
  t->rows[at] = i;
  t->distances[at] = d;
}

/* The nearest of the first n rows of `all` to each of n_queries queries. Every row that the rough distance does not
 * rule out is measured in double. */
static truth *find_truth(const float *all, size_t n, size_t n_queries) {
  truth *truths = allocate(n_queries * sizeof *truths);
  float *rough = allocate(n * sizeof *rough);
  for (size_t q = 0; q < n_queries; q++) {
    truth *t = &truths[q];
    for (size_t j = 0; j < K + 6; j++) {
      t->rows[j] = UINT32_MAX;
      t->distances[j] = INFINITY;
    }
    for (size_t i = 0; i < n; i++) {
      rough[i] = 1 - rough_dot(queries + q * N, all + i * N);
      if ((double)rough[i] <= t->distances[K + 5] + 1e-4)
        truth_insert(t, (uint32_t)i, cosine_distance(queries + q * N, all + i * N));
    }
  }
  free(rough);
  return truths;
}

/* ---- SQLite, ours or a peer's own -------------------------------------------------------------------------------- */

/* A peer may bring its own SQLite (vec1 is built into one), so nothing here calls SQLite but through this table. */
typedef struct api {
  int (*open_v2)(const char *, sqlite3 **, int, const char *);
  int (*close)(sqlite3 *);
  int (*exec)(sqlite3 *, const char *, int (*)(void *, int, char **, char **), void *, char **);
  const char *(*errmsg)(sqlite3 *);
  int (*prepare_v2)(sqlite3 *, const char *, int, sqlite3_stmt **, const char **);
  int (*step)(sqlite3_stmt *);
  int (*reset)(sqlite3_stmt *);
  int (*finalize)(sqlite3_stmt *);
  sqlite3 *(*db_handle)(sqlite3_stmt *);
  const char *(*sql)(sqlite3_stmt *);
  int (*bind_int64)(sqlite3_stmt *, int, sqlite3_int64);
  int (*bind_text)(sqlite3_stmt *, int, const char *, int, void (*)(void *));
  int (*bind_blob)(sqlite3_stmt *, int, const void *, int, void (*)(void *));
  sqlite3_int64 (*column_int64)(sqlite3_stmt *, int);
  double (*column_double)(sqlite3_stmt *, int);
  const void *(*column_blob)(sqlite3_stmt *, int);
  const unsigned char *(*column_text)(sqlite3_stmt *, int);
  int (*column_bytes)(sqlite3_stmt *, int);
  int (*column_type)(sqlite3_stmt *, int);
} api;

static const api system_sqlite = {sqlite3_open_v2,     sqlite3_close,        sqlite3_exec,          sqlite3_errmsg,
                                  sqlite3_prepare_v2,  sqlite3_step,         sqlite3_reset,         sqlite3_finalize,
                                  sqlite3_db_handle,   sqlite3_sql,          sqlite3_bind_int64,    sqlite3_bind_text,
                                  sqlite3_bind_blob,   sqlite3_column_int64, sqlite3_column_double, sqlite3_column_blob,
                                  sqlite3_column_text, sqlite3_column_bytes, sqlite3_column_type};

static bool load_api(const char *path, api *out) {
  static const char *const names[] = {"open_v2",     "close",       "exec",         "errmsg",       "prepare_v2",
                                      "step",        "reset",       "finalize",     "db_handle",    "sql",
                                      "bind_int64",  "bind_text",   "bind_blob",    "column_int64", "column_double",
                                      "column_blob", "column_text", "column_bytes", "column_type"};
  /* DEEPBIND: its own calls to sqlite3_... must not come to the SQLite that this program is linked with. */
  void *library = dlopen(path, RTLD_NOW | RTLD_LOCAL | RTLD_DEEPBIND);
  if (!library) return false;
  _Static_assert(sizeof *out == sizeof names, "as many functions as names");
  for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
    char name[64];
    snprintf(name, sizeof name, "sqlite3_%s", names[i]);
    void *function = dlsym(library, name);
    if (!function) return false;
    memcpy((char *)out + i * sizeof function, &function, sizeof function);
  }
  return true;
}

typedef struct peer {
  const char *name;
  const char *library; /* under peers_dir; NULL: none. One that begins with "lib" is a SQLite of its own */
  bool is_exact;
  bool has_search;
  bool has_text_ids;
  const char *create;
  const char *insert; /* ?1 id, ?2 vector */
  const char *finish; /* after the inserts, or NULL */
  const char *connect; /* on every new connection that searches, or NULL */
  const char *get; /* ?1 id: vector */
  const char *update; /* ?1 id, ?2 vector */
  const char *search; /* ?1 query: id, distance */
  size_t max_inserts; /* 0: all; else only so many are timed, because they take minutes */
} peer;

/* Ids: ours are texts, peers have integers, which is kinder to them. */
static const peer ours = {
    .name = "delta_vectors",
    .is_exact = true,
    .has_search = true,
    .has_text_ids = true,
    .create = "CREATE VIRTUAL TABLE docs USING delta_vectors(dimensions=384, metric=cosine, index=flat)",
    .insert = "INSERT INTO docs(id, vector) VALUES(?1, ?2)",
    .finish = "INSERT INTO docs(docs) VALUES('optimize')",
    .get = "SELECT vector FROM docs WHERE id = ?1",
    .update = "UPDATE docs SET vector = ?2 WHERE id = ?1",
    .search = "SELECT id, distance FROM docs WHERE vector MATCH ?1 AND k = 10",
};
static const char exact_search[] = "SELECT id, distance FROM vector_search('docs', ?1, 10, '{\"exact\":true}')";

static const peer peers[] = {
    {
        .name = "sqlite-vec flat",
        .library = "vec0",
        .is_exact = true,
        .has_search = true,
        .create =
            "CREATE VIRTUAL TABLE docs USING vec0(id INTEGER PRIMARY KEY, vector FLOAT[384] distance_metric=cosine)",
        .insert = "INSERT INTO docs(id, vector) VALUES(?1, ?2)",
        .get = "SELECT vector FROM docs WHERE id = ?1",
        .update = "UPDATE docs SET vector = ?2 WHERE id = ?1",
        .search = "SELECT id, distance FROM docs WHERE vector MATCH ?1 AND k = 10",
    },
    {
        .name = "sqlite-vector full scan",
        .library = "vector",
        .is_exact = true,
        .has_search = true,
        .create = "CREATE TABLE docs(id INTEGER PRIMARY KEY, vector BLOB)",
        .insert = "INSERT INTO docs(id, vector) VALUES(?1, ?2)",
        .connect = "SELECT vector_init('docs', 'vector', 'type=FLOAT32,dimension=384,distance=COSINE')",
        .get = "SELECT vector FROM docs WHERE id = ?1",
        .update = "UPDATE docs SET vector = ?2 WHERE id = ?1",
        .search = "SELECT rowid, distance FROM vector_full_scan('docs', 'vector', ?1, 10)",
    },
    {
        .name = "vec1 flat, in DoltLite",
        .library = "libdoltlite",
        .is_exact = true,
        .has_search = true,
        .create = "CREATE VIRTUAL TABLE docs USING vec1(vector)",
        .insert = "INSERT INTO docs(rowid, vector) VALUES(?1, ?2)",
        .finish = "INSERT INTO docs(cmd, arg) VALUES('rebuild', '{index:\"flat\", distance:\"cos\"}')",
        .get = "SELECT vector FROM docs WHERE rowid = ?1",
        .update = "UPDATE docs SET vector = ?2 WHERE rowid = ?1",
        .search = "SELECT rowid, distance FROM docs(?1, '{k:10}')",
    },
    {
        .name = "vectorlite HNSW",
        .library = "vectorlite",
        .has_search = true,
        .create = "CREATE VIRTUAL TABLE docs USING vectorlite(vector float32[384] cosine,"
                  " hnsw(max_elements=100000, ef_construction=200, M=16))",
        .insert = "INSERT INTO docs(rowid, vector) VALUES(?1, ?2)",
        .get = "SELECT vector FROM docs WHERE rowid = ?1",
        .update = "UPDATE docs SET vector = ?2 WHERE rowid = ?1",
        .search = "SELECT rowid, distance FROM docs WHERE knn_search(vector, knn_param(?1, 10, 100))",
        .max_inserts = 1000,
    },
    {
        .name = "plain table",
        .has_text_ids = true,
        .create = "CREATE TABLE docs(id TEXT PRIMARY KEY, vector BLOB)",
        .insert = "INSERT INTO docs(id, vector) VALUES(?1, ?2)",
        .get = "SELECT vector FROM docs WHERE id = ?1",
        .update = "UPDATE docs SET vector = ?2 WHERE id = ?1",
    },
};
enum { N_PEERS = sizeof peers / sizeof *peers };

/* ---- databases --------------------------------------------------------------------------------------------------- */

typedef struct base {
  const peer *p;
  const api *a;
  sqlite3 *db;
  char path[440];
} base;

static void run(base *b, const char *sql) {
  if (b->a->exec(b->db, sql, NULL, NULL, NULL) != SQLITE_OK) die("%s: %s: %s", b->p->name, b->a->errmsg(b->db), sql);
}

static sqlite3_stmt *prepare(base *b, const char *sql) {
  sqlite3_stmt *s = NULL;
  if (b->a->prepare_v2(b->db, sql, -1, &s, NULL) != SQLITE_OK) die("%s: %s: %s", b->p->name, b->a->errmsg(b->db), sql);
  return s;
}

static void remove_base(const char *path) {
  static const char *const suffixes[] = {"", "-wal", "-shm", "-journal"};
  for (size_t i = 0; i < 4; i++) {
    char name[460];
    snprintf(name, sizeof name, "%s%s", path, suffixes[i]);
    unlink(name);
  }
}

/* Which SQLite and which library the peer needs. false: not installed. */
static bool find_peer(const peer *p, const api **a, char *library, size_t n) {
  *a = &system_sqlite;
  library[0] = 0;
  if (p == &ours) {
    snprintf(library, n, "%s", extension);
    return true;
  }
  if (!p->library) return peers_dir[0] != 0;
  snprintf(library, n, "%s/%s.so", peers_dir, p->library);
  if (peers_dir[0] == 0 || access(library, R_OK) != 0) return false;
  if (strncmp(p->library, "lib", 3) == 0) {
    static api own;
    static int is_loaded;
    if (!is_loaded) is_loaded = load_api(library, &own) ? 1 : -1;
    *a = &own;
    library[0] = 0;
    return is_loaded > 0;
  }
  return true;
}

/* How files are written, unless a section says otherwise. */
#define WAL_FILE "PRAGMA journal_mode = WAL; PRAGMA synchronous = NORMAL"
#define DEFAULT_FILE "PRAGMA journal_mode = DELETE; PRAGMA synchronous = FULL"
static const char *file_mode = WAL_FILE;

static void open_base(base *b, const peer *p, const char *path) {
  char library[460];
  b->p = p;
  b->db = NULL;
  snprintf(b->path, sizeof b->path, "%s", path);
  if (!find_peer(p, &b->a, library, sizeof library)) die("%s is not installed", p->name);
  if (b->a->open_v2(path, &b->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NULL) != SQLITE_OK)
    die("cannot open %s", path);
  if (library[0]) {
    char *message = NULL;
    sqlite3_db_config(b->db, SQLITE_DBCONFIG_ENABLE_LOAD_EXTENSION, 1, NULL);
    if (sqlite3_load_extension(b->db, library, NULL, &message) != SQLITE_OK) die("%s: %s", p->name, message);
  }
  run(b, file_mode);
}

static void connect_base(base *b) {
  if (b->p->connect) run(b, b->p->connect);
}

static void close_base(base *b) {
  if (b->db && b->a->close(b->db) != SQLITE_OK) die("%s: %s", b->p->name, b->a->errmsg(b->db));
  b->db = NULL;
}

static const char *scratch_path(const char *name) {
  static char path[440];
  snprintf(path, sizeof path, "%s/%s.db", scratch_dir, name);
  return path;
}

/* What must not happen between the clock's two readings is small: one comparison. */
static void step_done(const base *b, sqlite3_stmt *s) {
  int rc = b->a->step(s);
  while (rc == SQLITE_ROW) rc = b->a->step(s);
  if (b->a->reset(s) != SQLITE_OK || rc != SQLITE_DONE)
    die("%s: %s: %s", b->p->name, b->a->errmsg(b->db), b->a->sql(s));
}

static void bind_id(const base *b, sqlite3_stmt *s, int at, size_t i) {
  if (b->p->has_text_ids) {
    b->a->bind_text(s, at, ids[i], ID_LENGTH, SQLITE_STATIC);
  } else {
    b->a->bind_int64(s, at, (sqlite3_int64)i + 1);
  }
}

static void bind_vector(const base *b, sqlite3_stmt *s, int at, const float *v) {
  b->a->bind_blob(s, at, v, VECTOR, SQLITE_STATIC);
}

static double get_number(base *b, const char *sql) {
  sqlite3_stmt *s = prepare(b, sql);
  if (b->a->step(s) != SQLITE_ROW) die("%s: %s: %s", b->p->name, b->a->errmsg(b->db), sql);
  double x = b->a->column_double(s, 0);
  b->a->finalize(s);
  return x;
}

static double raw_bytes(size_t n) { return (double)(n * VECTOR); }

static double file_bytes(const char *path) {
  struct stat st;
  return stat(path, &st) == 0 ? (double)st.st_size : 0;
}

/* A new table with the first n vectors; time of the whole, per vector, if us is given. */
static void fill_base(base *b, const peer *p, const char *name, const char *create, size_t n, double *us) {
  remove_base(scratch_path(name));
  open_base(b, p, scratch_path(name));
  run(b, create ? create : p->create);
  sqlite3_stmt *insert = prepare(b, p->insert);
  double start = now_us();
  run(b, "BEGIN");
  for (size_t i = 0; i < n; i++) {
    bind_id(b, insert, 1, i);
    bind_vector(b, insert, 2, vector_of(i));
    step_done(b, insert);
  }
  run(b, "COMMIT");
  if (us) *us = (now_us() - start) / (double)n;
  b->a->finalize(insert);
}

static void finish_base(base *b) {
  if (b->p->finish) run(b, b->p->finish);
  run(b, "PRAGMA wal_checkpoint(TRUNCATE)");
}

/* ---- codec: the core, without SQL -------------------------------------------------------------------------------- */

enum { VARIANTS = 256 };

/* A change of 5 % of v's dimensions by a little. */
typedef struct change {
  uint32_t indices[CHANGED];
  float values[CHANGED];
} change;

static void make_change(change *c, const float *v) {
  size_t left = CHANGED;
  for (size_t i = 0; i < N; i++) { /* 19 of 384, each set as likely */
    if (uniform() * (double)(N - i) >= (double)left) continue;
    c->indices[CHANGED - left] = (uint32_t)i;
    c->values[CHANGED - left] = v[i] + (float)(0.01 * gaussian());
    left--;
  }
}

static void apply_change(const change *c, float *v) {
  for (size_t i = 0; i < CHANGED; i++) v[c->indices[i]] = c->values[i];
}

/* The delta as a BLOB, as delta_sparse() makes it; with an id, a frame of a batch, as delta_pack() makes it. */
static void write_frame(dv_buf *out, const char *id, const dv_delta *d) {
  dv_frame f = {.delta = *d};
  if (id) {
    f.flags = DV_FRAME_ID;
    f.id = (dv_value){.type = DV_TEXT, .bytes = (const uint8_t *)id, .n_bytes = ID_LENGTH};
  }
  dv_frame_write(out, &f);
  if (out->status != DV_OK) die("out of memory");
}

static void write_change(dv_buf *out, const char *id, const change *c) {
  dv_buf payload;
  dv_delta d;
  dv_buf_init(&payload, &heap);
  if (dv_delta_encode_sparse(&payload, &d, c->indices, c->values, CHANGED, N, NULL) != DV_OK) die("encoding failed");
  d.payload = payload.data;
  write_frame(out, id, &d);
  dv_buf_free(&payload);
}

static void section_codec(void) {
  static change changes[VARIANTS];
  static float v[N];
  dv_buf payload, record;
  meter both = {0}, encode = {0};
  double bytes = 0;
  volatile double sink = 0;
  memcpy(v, vector_of(0), VECTOR);
  for (size_t i = 0; i < VARIANTS; i++) make_change(&changes[i], vector_of(i));
  dv_buf_init(&payload, &heap);
  dv_buf_init(&record, &heap);
  for (size_t r = 0; r < rounds(); r++) {
    for (size_t s = 0; s < repeats(2000); s++) {
      double start = now_us();
      for (size_t i = 0; i < 16; i++) {
        const change *c = &changes[(s * 16 + i) % VARIANTS];
        dv_log_state write_state = {.seq = 1000000, .time = 1700000000000}, read_state = write_state;
        dv_record rec = {.seq = 1000001, .link = 70000, .time = 1700000000003, .vid = 9000}, back;
        payload.n = record.n = 0;
        (void)dv_delta_encode_sparse(&payload, &rec.delta, c->indices, c->values, CHANGED, N, NULL);
        rec.delta.payload = payload.data;
        dv_record_write(&record, &rec, &write_state);
        uint8_t tag;
        size_t span = dv_record_span(record.data, record.n, &tag);
        if (dv_record_read(record.data, span, &back, &read_state) != DV_OK) die("decoding failed");
        if (dv_delta_apply(&back.delta, v, N, NULL) != DV_OK) die("applying failed");
        bytes += (double)record.n;
      }
      meter_add(&both, (now_us() - start) / 16);
      sink = sink + (double)v[s % N];
      start = now_us();
      for (size_t i = 0; i < 16; i++) {
        const change *c = &changes[(s * 16 + i) % VARIANTS];
        dv_delta d;
        payload.n = 0;
        (void)dv_delta_encode_sparse(&payload, &d, c->indices, c->values, CHANGED, N, NULL);
        sink = sink + (double)d.n_payload;
      }
      meter_add(&encode, (now_us() - start) / 16);
    }
    meter_round(&both);
    meter_round(&encode);
  }
  bytes /= (double)(rounds() * repeats(2000) * 16);
  row *r = add_row("codec", "encode + decode a 5 % delta (record of the log, no SQL)", "us", 0.5, meter_figure(&both));
  set_note(r, "of that encoding the payload %.2f us; the record has %.1f bytes", meter_figure(&encode).median, bytes);
  dv_buf_free(&payload);
  dv_buf_free(&record);
}

/* ---- insert, and the size of the file ---------------------------------------------------------------------------- */

/* Inserts by us and every peer, in turns; sizes (may be NULL): of the files, ours first. */
static void time_inserts(const char *mode, meter *mine, meter *theirs, figure *sizes) {
  file_mode = mode;
  for (size_t r = 0; r < rounds(); r++) {
    for (size_t i = 0; i <= N_PEERS; i++) {
      const peer *p = i ? &peers[i - 1] : &ours;
      meter *m = i ? &theirs[i - 1] : mine;
      const api *a;
      char library[460];
      base b;
      double us;
      if (!find_peer(p, &a, library, sizeof library)) continue;
      if (p->max_inserts && r > 0) continue;
      fill_base(&b, p, "insert", NULL, p->max_inserts ? p->max_inserts : ROWS, &us);
      meter_add(m, us);
      meter_round(m);
      if (r == 0 && !p->max_inserts && sizes) {
        finish_base(&b);
        sizes[i] = one_figure(file_bytes(b.path) / raw_bytes(ROWS));
      }
      close_base(&b);
    }
    remove_base(scratch_path("insert"));
  }
  file_mode = WAL_FILE;
}

static void section_insert(void) {
  meter mine = {0}, mine_wal = {0}, theirs[N_PEERS] = {{0}}, theirs_wal[N_PEERS] = {{0}};
  figure sizes[N_PEERS + 1] = {{0}};
  time_inserts(DEFAULT_FILE, &mine, theirs, NULL);
  time_inserts(WAL_FILE, &mine_wal, theirs_wal, sizes);
  row *r = add_row("insert", "insert 10,000 vectors, committed: each", "us", 8, meter_figure(&mine));
  row *r_wal = add_row("insert_wal", "  in a WAL file, with its checkpoint", "us", -1, meter_figure(&mine_wal));
  row *r_size = add_row("file_size", "file, all derived data included / raw vectors", "x", 1.3, sizes[0]);
  for (size_t i = 0; i < N_PEERS; i++) {
    add_peer(r, peers[i].name, false, meter_figure(&theirs[i]));
    add_peer(r_wal, peers[i].name, false, meter_figure(&theirs_wal[i]));
    add_peer(r_size, peers[i].name, false, sizes[i + 1]);
  }
}

/* ---- reading one vector ------------------------------------------------------------------------------------------ */

/* n reads in blocks of `block`, in the transaction that is open; each is checked against `expected` once, at the first
 * call. */
static void time_gets(const base *b, sqlite3_stmt *s, const uint32_t *order, size_t n, size_t block, meter *m) {
  volatile uint8_t sink = 0;
  for (size_t i = 0; i + block <= n; i += block) {
    double start = now_us();
    for (size_t j = i; j < i + block; j++) {
      bind_id(b, s, 1, order[j]);
      if (b->a->step(s) != SQLITE_ROW) die("%s: no row: %s: %s", b->p->name, b->a->errmsg(b->db), b->a->sql(s));
      const uint8_t *v = b->a->column_blob(s, 0);
      if (!v || b->a->column_bytes(s, 0) != VECTOR) die("%s: no vector: %s", b->p->name, b->a->sql(s));
      sink = v[VECTOR - 1];
      b->a->reset(s);
    }
    if (m) meter_add(m, (now_us() - start) / (double)block);
  }
  (void)sink;
}

static void section_read(void) {
  base b, others[N_PEERS];
  sqlite3_stmt *theirs[N_PEERS];
  meter select = {0}, at = {0}, lone = {0}, lone_at = {0}, peer_get[N_PEERS] = {{0}};
  uint32_t *order = random_order(ROWS);
  fill_base(&b, &ours, "read", NULL, ROWS, NULL);
  finish_base(&b);
  sqlite3_stmt *get = prepare(&b, ours.get);
  sqlite3_stmt *vector_at = prepare(&b, "SELECT vector_at('docs', ?1)");
  for (size_t i = 0; i < N_PEERS; i++) {
    const api *a;
    char library[460];
    others[i].db = NULL;
    if (!find_peer(&peers[i], &a, library, sizeof library) || peers[i].max_inserts) continue;
    char name[16];
    snprintf(name, sizeof name, "read%zu", i);
    fill_base(&others[i], &peers[i], name, NULL, ROWS, NULL);
    finish_base(&others[i]);
    theirs[i] = prepare(&others[i], peers[i].get);
    time_gets(&others[i], theirs[i], order, ROWS, 10, NULL);
  }
  time_gets(&b, get, order, ROWS, 10, NULL); /* warm */
  time_gets(&b, vector_at, order, ROWS, 10, NULL);
  for (size_t r = 0; r < rounds(); r++) {
    run(&b, "BEGIN");
    time_gets(&b, get, order, ROWS, 10, &select);
    time_gets(&b, vector_at, order, ROWS, 10, &at);
    run(&b, "COMMIT");
    time_gets(&b, get, order, ROWS, 10, &lone);
    time_gets(&b, vector_at, order, ROWS, 10, &lone_at);
    meter_round(&select);
    meter_round(&at);
    meter_round(&lone);
    meter_round(&lone_at);
    for (size_t i = 0; i < N_PEERS; i++) {
      if (!others[i].db) continue;
      run(&others[i], "BEGIN");
      time_gets(&others[i], theirs[i], order, ROWS, 10, &peer_get[i]);
      run(&others[i], "COMMIT");
      meter_round(&peer_get[i]);
    }
  }
  row *r =
      add_row("get_select", "read one current vector: SELECT vector ... WHERE id = ?", "us", 2, meter_figure(&select));
  for (size_t i = 0; i < N_PEERS; i++) add_peer(r, peers[i].name, false, meter_figure(&peer_get[i]));
  r = add_row("get_vector_at", "read one current vector: SELECT vector_at('docs', ?)", "us", 0.6, meter_figure(&at));
  add_row("get_select_alone", "  the SELECT, each in its own transaction", "us", -1, meter_figure(&lone));
  add_row("get_vector_at_alone", "  vector_at, each in its own transaction", "us", -1, meter_figure(&lone_at));
  b.a->finalize(get);
  b.a->finalize(vector_at);
  close_base(&b);
  remove_base(scratch_path("read"));
  for (size_t i = 0; i < N_PEERS; i++) {
    if (!others[i].db) continue;
    others[i].a->finalize(theirs[i]);
    close_base(&others[i]);
    remove_base(others[i].path);
  }
  free(order);
}

/* ---- searching --------------------------------------------------------------------------------------------------- */

typedef struct answer {
  uint32_t rows[K]; /* UINT32_MAX: none */
  double distances[K];
} answer;

static uint32_t row_of_id(const char *id); /* after the index below */

static void search_one(const base *b, sqlite3_stmt *s, const float *q, answer *out) {
  char text[K][ID_LENGTH + 1];
  size_t n = 0;
  int rc;
  bind_vector(b, s, 1, q);
  while ((rc = b->a->step(s)) == SQLITE_ROW && n < K) {
    if (b->p->has_text_ids) {
      memcpy(text[n], b->a->column_text(s, 0), ID_LENGTH);
    } else {
      out->rows[n] = (uint32_t)b->a->column_int64(s, 0) - 1;
    }
    out->distances[n++] = b->a->column_double(s, 1);
  }
  if (b->a->reset(s) != SQLITE_OK || (rc != SQLITE_DONE && rc != SQLITE_ROW)) {
    die("%s: %s: %s", b->p->name, b->a->errmsg(b->db), b->a->sql(s));
  }
  if (rc == SQLITE_ROW) die("%s: more than %d rows: %s", b->p->name, K, b->a->sql(s));
  for (size_t i = 0; b->p->has_text_ids && i < n; i++) {
    text[i][ID_LENGTH] = 0;
    out->rows[i] = row_of_id(text[i]);
  }
  for (size_t i = n; i < K; i++) out->rows[i] = UINT32_MAX;
}

/* Rows by id: sorted once. */
static uint32_t *sorted_ids;

static int by_id(const void *a, const void *b) {
  return memcmp(ids[*(const uint32_t *)a], ids[*(const uint32_t *)b], ID_LENGTH);
}

static uint32_t row_of_id(const char *id) {
  if (!sorted_ids) {
    sorted_ids = random_order(LARGE);
    qsort(sorted_ids, LARGE, sizeof *sorted_ids, by_id);
  }
  size_t low = 0, high = LARGE;
  while (low < high) {
    size_t middle = (low + high) / 2;
    if (memcmp(ids[sorted_ids[middle]], id, ID_LENGTH) < 0)
      low = middle + 1;
    else
      high = middle;
  }
  if (low == LARGE || memcmp(ids[sorted_ids[low]], id, ID_LENGTH) != 0) die("an id that nobody inserted: %.9s", id);
  return sorted_ids[low];
}

/* The same, timed: what a host does, no look-up of ours. */
static void time_search(const base *b, sqlite3_stmt *s, const float *q, meter *m, meter *cpu) {
  volatile double sink = 0;
  double cpu_start = cpu ? read_clock(CLOCK_THREAD_CPUTIME_ID) : 0;
  double start = now_us();
  bind_vector(b, s, 1, q);
  size_t n = 0;
  while (b->a->step(s) == SQLITE_ROW) {
    if (b->p->has_text_ids)
      (void)b->a->column_text(s, 0);
    else
      (void)b->a->column_int64(s, 0);
    sink = b->a->column_double(s, 1);
    n++;
  }
  int rc = b->a->reset(s);
  double end = now_us();
  (void)sink;
  if (rc != SQLITE_OK || n != K) die("%s: %zu rows: %s: %s", b->p->name, n, b->a->errmsg(b->db), b->a->sql(s));
  if (m) meter_add(m, end - start);
  if (cpu) meter_add(cpu, read_clock(CLOCK_THREAD_CPUTIME_ID) - cpu_start);
}

typedef struct quality {
  double recall; /* by distance: a row as near as the tenth counts, whichever it is */
  size_t n_different; /* queries whose rows or their order differ, ties in f32 aside */
} quality;

/* Ties: two rows whose true distances differ by less than what f32 can tell of numbers near 1. */
static quality judge(const base *b, sqlite3_stmt *s, const truth *truths, const float *all, size_t n_queries) {
  quality result = {0, 0};
  size_t hits = 0;
  for (size_t q = 0; q < n_queries; q++) {
    answer a;
    bool is_same = true;
    search_one(b, s, queries + q * N, &a);
    for (size_t i = 0; i < K; i++) {
      if (a.rows[i] == UINT32_MAX) {
        is_same = false;
        continue;
      }
      for (size_t j = 0; j < i; j++) {
        if (a.rows[j] == a.rows[i]) die("%s: one row twice in an answer", b->p->name);
      }
      double d = cosine_distance(queries + q * N, all + (size_t)a.rows[i] * N);
      if (d <= truths[q].distances[K - 1] + 1e-12) hits++;
      if (a.rows[i] != truths[q].rows[i] && fabs(d - truths[q].distances[i]) > 2e-7) is_same = false;
    }
    if (!is_same) result.n_different++;
  }
  result.recall = (double)hits / (double)(n_queries * K);
  return result;
}

static void add_python_peers(row *to, size_t n) {
  char python[460], script[] = __FILE__, command[2200];
  char *slash = strrchr(script, '/');
  snprintf(python, sizeof python, "%s/venv/bin/python", peers_dir);
  if (peers_dir[0] == 0 || access(python, X_OK) != 0 || !slash) return;
  *slash = 0;
  snprintf(command, sizeof command, "'%s' '%s/peers.py' '%s/wordnet-384.f32' '%s/wordnet-384-queries.f32' %d %zu %zu",
           python, script, data_dir, data_dir, N, n, repeats(1000));
  FILE *pipe = popen(command, "r");
  if (!pipe) return;
  char line[256];
  while (fgets(line, sizeof line, pipe)) {
    char name[48];
    figure f = {.is_there = true};
    double recall;
    if (sscanf(line, "%47[^\t]\t%lf\t%lf\t%lf\t%lf", name, &f.median, &f.low, &f.high, &recall) == 5)
      add_peer(to, name, false, f);
  }
  pclose(pipe);
}

/* Part of a file in the page cache. */
static double resident_share(const char *path) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  struct stat st;
  double share = -1;
  if (fd < 0 || fstat(fd, &st) != 0 || st.st_size == 0) return share;
  size_t page = (size_t)sysconf(_SC_PAGESIZE), n = ((size_t)st.st_size + page - 1) / page, in = 0;
  void *map = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
  unsigned char *pages = malloc(n);
  if (map != MAP_FAILED && pages && mincore(map, (size_t)st.st_size, pages) == 0) {
    for (size_t i = 0; i < n; i++) in += pages[i] & 1;
    share = (double)in / (double)n;
  }
  free(pages);
  if (map != MAP_FAILED) munmap(map, (size_t)st.st_size);
  close(fd);
  return share;
}

static void evict(const char *path) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  if (fd < 0) return;
  (void)fsync(fd);
  (void)posix_fadvise(fd, 0, 0, POSIX_FADV_DONTNEED);
  close(fd);
}

/* From sqlite3_open to the first row of a search, the CPU time of that, and the slowest of the ten searches after it:
 * in milliseconds, and of the clock on the wall, because waiting for the disk counts. */
static double open_and_search(const peer *p, const char *path, const char *sql, double *cpu, double *later) {
  base b;
  double start = read_clock(CLOCK_MONOTONIC), cpu_start = read_clock(CLOCK_THREAD_CPUTIME_ID);
  open_base(&b, p, path);
  connect_base(&b);
  sqlite3_stmt *s = prepare(&b, sql);
  bind_vector(&b, s, 1, queries);
  int rc = b.a->step(s);
  double ms = (read_clock(CLOCK_MONOTONIC) - start) / 1000;
  *cpu = (read_clock(CLOCK_THREAD_CPUTIME_ID) - cpu_start) / 1000;
  if (rc != SQLITE_ROW) die("%s: no first row: %s", p->name, b.a->errmsg(b.db));
  b.a->reset(s);
  *later = 0;
  for (size_t q = 1; q <= 10; q++) {
    start = read_clock(CLOCK_MONOTONIC);
    time_search(&b, s, queries + q * N, NULL, NULL);
    double us = read_clock(CLOCK_MONOTONIC) - start;
    if (us / 1000 > *later) *later = us / 1000;
  }
  b.a->finalize(s);
  close_base(&b);
  return ms;
}

/* The rows about opening a file of ours, and of sqlite-vec if peer_path is not NULL. */
static void open_rows(const char *path, const char *peer_path, const char *key, const char *label, double reach) {
  meter cold = {0}, warm = {0}, exact = {0}, second = {0}, peer_cold = {0}, peer_warm = {0};
  char name[40], what[96];
  double share = 0, cpu, cold_cpu = 0, later;
  for (size_t r = 0; r < 5; r++) {
    evict(path);
    share = resident_share(path);
    meter_add(&cold, open_and_search(&ours, path, ours.search, &cpu, &later));
    if (r == 0 || cpu < cold_cpu) cold_cpu = cpu;
    meter_add(&warm, open_and_search(&ours, path, ours.search, &cpu, &later));
    meter_add(&second, later);
    evict(path);
    meter_add(&exact, open_and_search(&ours, path, exact_search, &cpu, &later));
    meter_round(&cold);
    meter_round(&warm);
    meter_round(&second);
    meter_round(&exact);
    if (!peer_path) continue;
    evict(peer_path);
    meter_add(&peer_cold, open_and_search(&peers[0], peer_path, peers[0].search, &cpu, &later));
    meter_add(&peer_warm, open_and_search(&peers[0], peer_path, peers[0].search, &cpu, &later));
    meter_round(&peer_cold);
    meter_round(&peer_warm);
  }
  snprintf(name, sizeof name, "%s_cold_open", key);
  snprintf(what, sizeof what, "%sopen to first result, file out of the page cache", label);
  row *r = add_row(name, what, "ms", reach, meter_figure(&cold));
  set_note(r, "%.0f %% of the file was in the page cache; CPU time of the fastest %.1f ms", share * 100, cold_cpu);
  add_peer(r, peers[0].name, false, meter_figure(&peer_cold));
  snprintf(name, sizeof name, "%s_warm_open", key);
  snprintf(what, sizeof what, "%s  file in the page cache", label);
  r = add_row(name, what, "ms", -1, meter_figure(&warm));
  add_peer(r, peers[0].name, false, meter_figure(&peer_warm));
  snprintf(name, sizeof name, "%s_open_later", key);
  snprintf(what, sizeof what, "%s  the slowest of the ten searches after it", label);
  add_row(name, what, "ms", -1, meter_figure(&second));
  snprintf(name, sizeof name, "%s_cold_open_exact", key);
  snprintf(what, sizeof what, "%s  out of the page cache, first result provably exact", label);
  add_row(name, what, "ms", -1, meter_figure(&exact));
}

/* Searches n rows: ours both ways, and the exact peers. Rows: <key>_flat, <key>_exact, and the ratios, of CPU times: a
 * search of several milliseconds is interrupted by whatever else the machine does far more often than one of a tenth of
 * that. */
static void search_rows(size_t n, const char *key, const char *label, double reach, double reach_exact) {
  base b, others[N_PEERS];
  sqlite3_stmt *theirs[N_PEERS];
  meter mine = {0}, exact = {0}, peer_search[N_PEERS] = {{0}}, ratio_vec = {0}, ratio_any = {0}, cpu = {0};
  char name[32], what[96];
  bool is_large = n > ROWS;
  truth *truths = find_truth(vectors, n, QUERIES);
  snprintf(name, sizeof name, "search%zu", n);
  double insert_us;
  fill_base(&b, &ours, name, NULL, n, &insert_us);
  finish_base(&b);
  sqlite3_stmt *plain = prepare(&b, ours.search);
  sqlite3_stmt *proven = prepare(&b, exact_search);
  quality plain_quality = judge(&b, plain, truths, vectors, QUERIES);
  quality exact_quality = judge(&b, proven, truths, vectors, QUERIES);
  quality peer_quality[N_PEERS];
  for (size_t i = 0; i < N_PEERS; i++) {
    const api *a;
    char library[460];
    others[i].db = NULL;
    if (!find_peer(&peers[i], &a, library, sizeof library) || !peers[i].has_search) continue;
    if (is_large && (!peers[i].is_exact || is_quick)) continue;
    fprintf(stderr, "  %s: %s, %zu rows\n", key, peers[i].name, n);
    snprintf(name, sizeof name, "search%zu_%zu", n, i);
    fill_base(&others[i], &peers[i], name, NULL, n, NULL);
    finish_base(&others[i]);
    connect_base(&others[i]);
    theirs[i] = prepare(&others[i], peers[i].search);
    peer_quality[i] = judge(&others[i], theirs[i], truths, vectors, is_large ? 5 : 50);
  }
  fprintf(stderr, "  %s: searching\n", key);
  for (size_t r = 0; r < rounds(); r++) {
    double best = INFINITY, vec = INFINITY;
    for (size_t q = 0; q < QUERIES; q += is_quick ? 10 : 1) time_search(&b, plain, queries + q * N, &mine, NULL);
    for (size_t q = 0; q < QUERIES; q += is_quick || is_large ? 5 : 1) {
      time_search(&b, proven, queries + q * N, &exact, &cpu);
    }
    meter_round(&mine);
    meter_round(&exact);
    double own = meter_round(&cpu);
    for (size_t i = 0; i < N_PEERS; i++) {
      if (!others[i].db) continue;
      for (size_t q = 0; q < repeats(is_large ? 10 : 50); q++) {
        time_search(&others[i], theirs[i], queries + q * N, &peer_search[i], &cpu);
      }
      meter_round(&peer_search[i]);
      double us = meter_round(&cpu);
      if (peers[i].is_exact && us < best) best = us;
      if (i == 0) vec = us;
    }
    if (isfinite(vec)) {
      meter_add(&ratio_vec, vec / own);
      meter_round(&ratio_vec);
    }
    if (isfinite(best)) {
      meter_add(&ratio_any, best / own);
      meter_round(&ratio_any);
    }
  }
  snprintf(name, sizeof name, "%s_flat", key);
  snprintf(what, sizeof what, "%sflat top-10, recall >= .999", label);
  row *row_plain = add_row(name, what, "us", reach, meter_figure(&mine));
  snprintf(name, sizeof name, "%s_recall", key);
  snprintf(what, sizeof what, "%s  its recall@10 over 1,000 real queries", label);
  add_row(name, what, "", 0.999, one_figure(plain_quality.recall))->at_least = true;
  snprintf(name, sizeof name, "%s_exact", key);
  snprintf(what, sizeof what, "%sflat top-10, provably exact", label);
  row *row_exact = add_row(name, what, "us", reach_exact, meter_figure(&exact));
  snprintf(name, sizeof name, "%s_exact_differs", key);
  snprintf(what, sizeof what, "%s  queries of 1,000 that differ from the full f32 scan", label);
  add_row(name, what, "", 0, one_figure((double)exact_quality.n_different));
  for (size_t i = 0; i < N_PEERS; i++) {
    figure f = meter_figure(&peer_search[i]);
    if (!f.is_there) continue;
    char label_of_peer[48];
    snprintf(label_of_peer, sizeof label_of_peer, "%s (%.3f)", peers[i].name, peer_quality[i].recall);
    add_peer(row_exact, label_of_peer, peers[i].is_exact, f);
    add_peer(row_plain, label_of_peer, peers[i].is_exact, f);
  }
  (void)meter_figure(&cpu);
  figure vec = meter_figure(&ratio_vec), any = meter_figure(&ratio_any);
  if (vec.is_there) {
    snprintf(name, sizeof name, "%s_ratio_sqlite_vec", key);
    snprintf(what, sizeof what, "%s  exact: times faster than sqlite-vec's flat table (CPU time)", label);
    add_row(name, what, "x", is_large ? -1 : 20, vec)->at_least = true;
  }
  if (any.is_there) {
    snprintf(name, sizeof name, "%s_ratio_any", key);
    snprintf(what, sizeof what, "%s  exact: times faster than the fastest exact SQLite peer (CPU)", label);
    add_row(name, what, "x", is_large ? -1 : 8, any)->at_least = true;
  }
  b.a->finalize(plain);
  b.a->finalize(proven);
  close_base(&b);
  for (size_t i = 0; i < N_PEERS; i++) {
    if (!others[i].db) continue;
    others[i].a->finalize(theirs[i]);
    close_base(&others[i]);
    if (i > 0) remove_base(others[i].path);
  }
  snprintf(name, sizeof name, "search%zu_0", n);
  char peer_path[440];
  snprintf(peer_path, sizeof peer_path, "%s", scratch_path(name));
  open_rows(b.path, access(peer_path, R_OK) == 0 ? peer_path : NULL, key, label, is_large ? 60 : -1);
  if (is_large) {
    add_row("large_insert", "100,000: insert, committed: each", "us", -1, one_figure(insert_us));
    add_row("large_file_size", "100,000: file / raw vectors", "x", -1, one_figure(file_bytes(b.path) / raw_bytes(n)));
  }
  remove_base(b.path);
  remove_base(peer_path);
  fprintf(stderr, "  %s: outside SQLite\n", key);
  if (!is_quick) add_python_peers(row_exact, n);
  free(truths);
}

static void section_search(void) { search_rows(ROWS, "search", "", 100, 200); }

static void section_large(void) {
  if (!is_quick) search_rows(LARGE, "large", "100,000: ", 800, 2800);
}

/* ---- deltas one by one, inside a transaction --------------------------------------------------------------------- */

static float *copy_vectors(size_t n) {
  float *copy = allocate(n * VECTOR);
  memcpy(copy, vectors, n * VECTOR);
  return copy;
}

/* Every row must read back as the program thinks it is, bit for bit. */
static void verify(base *b, const float *model, size_t n) {
  sqlite3_stmt *s = prepare(b, b->p->get);
  for (size_t i = 0; i < n; i++) {
    bind_id(b, s, 1, i);
    if (b->a->step(s) != SQLITE_ROW) die("%s: row %zu is gone", b->p->name, i);
    const void *v = b->a->column_blob(s, 0);
    if (!v || b->a->column_bytes(s, 0) != VECTOR || memcmp(v, model + i * N, VECTOR) != 0) {
      die("%s: row %zu does not read back as written", b->p->name, i);
    }
    b->a->reset(s);
  }
  b->a->finalize(s);
}

static void apply_delta(const base *b, sqlite3_stmt *s, size_t i, const void *delta, size_t n, meter *m) {
  double start = now_us();
  bind_id(b, s, 1, i);
  b->a->bind_blob(s, 2, delta, (int)n, SQLITE_STATIC);
  int rc = b->a->step(s);
  int end = b->a->reset(s);
  double us = now_us() - start;
  if ((rc != SQLITE_ROW && rc != SQLITE_DONE) || end != SQLITE_OK)
    die("%s: %s: %s", b->p->name, b->a->errmsg(b->db), b->a->sql(s));
  if (m) meter_add(m, us);
}

static void section_write(void) {
  base b, others[N_PEERS];
  sqlite3_stmt *theirs[N_PEERS];
  meter sparse = {0}, small = {0}, other = {0}, update = {0}, by_update = {0}, peer_update[N_PEERS] = {{0}};
  const size_t n = repeats(2000);
  float *model = copy_vectors(ROWS);
  uint32_t *order = random_order(ROWS);
  size_t at = 0;
  dv_buf frame;
  fill_base(&b, &ours, "write", NULL, ROWS, NULL);
  finish_base(&b);
  sqlite3_stmt *apply = prepare(&b, "SELECT delta_apply('docs', ?1, ?2)");
  sqlite3_stmt *set_vector = prepare(&b, ours.update);
  sqlite3_stmt *set_delta = prepare(&b, "UPDATE docs SET delta = ?2 WHERE id = ?1");
  for (size_t i = 0; i < N_PEERS; i++) {
    const api *a;
    char library[460];
    others[i].db = NULL;
    if (!find_peer(&peers[i], &a, library, sizeof library) || peers[i].max_inserts) continue;
    char name[16];
    snprintf(name, sizeof name, "write%zu", i);
    fill_base(&others[i], &peers[i], name, NULL, ROWS, NULL);
    finish_base(&others[i]);
    theirs[i] = prepare(&others[i], peers[i].update);
  }
  dv_buf_init(&frame, &heap);
  for (size_t r = 0; r < rounds() + 1; r++) { /* the first warms up */
    bool is_timed = r > 0;
    for (int kind = 0; kind < 5; kind++) {
      meter *meters[] = {&sparse, &small, &other, &update, &by_update};
      sqlite3_stmt *const statements[] = {apply, apply, apply, set_vector, set_delta};
      run(&b, "BEGIN");
      for (size_t i = 0; i < n; i++) {
        size_t to = order[at++ % ROWS];
        float *v = model + to * N;
        frame.n = 0;
        if (kind == 0 || kind == 4) {
          change c;
          make_change(&c, v);
          write_change(&frame, NULL, &c);
          apply_change(&c, v);
        } else {
          const float *source = vector_of(below(LARGE));
          for (size_t j = 0; j < N; j++) v[j] = kind == 2 ? source[j] : v[j] * (float)(1 + 1e-3 * gaussian());
          uint8_t bytes[VECTOR];
          for (size_t j = 0; j < N; j++) dv_store_f32(bytes + 4 * j, v[j]);
          dv_delta d = {DV_OP_DENSE, DV_ENC_DENSE, bytes, VECTOR};
          if (kind == 3)
            dv_buf_bytes(&frame, bytes, VECTOR);
          else
            write_frame(&frame, NULL, &d);
        }
        apply_delta(&b, statements[kind], to, frame.data, frame.n, is_timed ? meters[kind] : NULL);
      }
      run(&b, "COMMIT");
      if (is_timed) meter_round(meters[kind]);
    }
    for (size_t i = 0; i < N_PEERS; i++) {
      if (!others[i].db) continue;
      run(&others[i], "BEGIN");
      for (size_t j = 0; j < repeats(500); j++) {
        size_t to = order[at++ % ROWS];
        apply_delta(&others[i], theirs[i], to, vector_of(below(LARGE)), VECTOR, is_timed ? &peer_update[i] : NULL);
      }
      run(&others[i], "COMMIT");
      meter_round(&peer_update[i]);
    }
  }
  verify(&b, model, ROWS);
  row *row_sparse =
      add_row("delta_apply_sparse", "sparse 5 % delta: delta_apply, in a transaction", "us", 4, meter_figure(&sparse));
  row *row_dense = add_row("delta_apply_dense", "dense delta, all values changed by 1e-3: delta_apply", "us", 6,
                           meter_figure(&small));
  add_row("delta_apply_dense_other", "dense delta, quite another vector: delta_apply", "us", 6, meter_figure(&other));
  add_row("update_vector", "  UPDATE docs SET vector = ?, changed by 1e-3", "us", -1, meter_figure(&update));
  add_row("update_delta", "  UPDATE docs SET delta = ?, sparse", "us", -1, meter_figure(&by_update));
  for (size_t i = 0; i < N_PEERS; i++) {
    figure f = meter_figure(&peer_update[i]);
    add_peer(row_sparse, peers[i].name, false, f);
    add_peer(row_dense, peers[i].name, false, f);
  }
  b.a->finalize(apply);
  b.a->finalize(set_vector);
  b.a->finalize(set_delta);
  close_base(&b);
  remove_base(scratch_path("write"));
  for (size_t i = 0; i < N_PEERS; i++) {
    if (!others[i].db) continue;
    others[i].a->finalize(theirs[i]);
    close_base(&others[i]);
    remove_base(others[i].path);
  }
  dv_buf_free(&frame);
  free(order);
  free(model);
}

/* ---- batches, committed ------------------------------------------------------------------------------------------ */

enum { BATCH = 100 };

/* The frames of the next 100 rows of the order; the model moves on. */
static void make_batch(dv_buf *frames, float *model, const uint32_t *rows) {
  frames->n = 0;
  for (size_t i = 0; i < BATCH; i++) {
    change c;
    float *v = model + (size_t)rows[i] * N;
    make_change(&c, v);
    write_change(frames, ids[rows[i]], &c);
    apply_change(&c, v);
  }
}

/* Everything that a table keeps in memory is there: codes, bits, vectors, ids. */
static void warm_up(base *b, size_t n) {
  sqlite3_stmt *search = prepare(b, ours.search), *get = prepare(b, ours.get);
  uint32_t *order = random_order(n);
  for (size_t q = 0; q < 3; q++) time_search(b, search, queries + q * N, NULL, NULL);
  run(b, "BEGIN");
  time_gets(b, get, order, n, 10, NULL);
  run(b, "COMMIT");
  b->a->finalize(search);
  b->a->finalize(get);
  free(order);
}

/* n_batches transactions of 100 deltas each, in an order of n rows. The slowest of them, in microseconds. */
static double time_batches(base *b, float *model, const uint32_t *order, size_t n, size_t n_batches, meter *m) {
  sqlite3_stmt *apply = prepare(b, "SELECT delta_apply_batch('docs', ?1)");
  double slowest = 0;
  dv_buf frames;
  dv_buf_init(&frames, &heap);
  for (size_t i = 0; i < n_batches; i++) {
    make_batch(&frames, model, order + i * BATCH % n);
    double start = now_us();
    b->a->bind_blob(apply, 1, frames.data, (int)frames.n, SQLITE_STATIC);
    step_done(b, apply);
    double us = now_us() - start;
    if (m) meter_add(m, us);
    slowest = us > slowest ? us : slowest;
  }
  b->a->finalize(apply);
  dv_buf_free(&frames);
  return slowest;
}

typedef enum batch_way { BATCH_PACKED, BATCH_MADE, BATCH_LOOSE } batch_way;

/* The same 100 deltas through SQL: from a table of deltas, from a table of JSON, or one by one in a transaction. */
static void time_way(base *b, float *model, const uint32_t *rows, batch_way way, meter *m) {
  static const char *const sql[] = {
      "SELECT delta_apply_batch('docs', (SELECT delta_pack(id, delta) FROM changes))",
      "SELECT delta_apply_batch('docs', (SELECT delta_pack(id, delta_sparse(indices, numbers)) FROM changes))",
      "SELECT delta_apply('docs', ?1, ?2)"};
  run(b,
      "CREATE TEMP TABLE IF NOT EXISTS changes(n INTEGER PRIMARY KEY, id TEXT, delta BLOB, indices TEXT, numbers TEXT);"
      "DELETE FROM temp.changes");
  sqlite3_stmt *note = prepare(b, "INSERT INTO changes VALUES(?1, ?2, ?3, ?4, ?5)");
  sqlite3_stmt *apply = prepare(b, sql[way]);
  dv_buf frames[BATCH];
  for (size_t i = 0; i < BATCH; i++) {
    char indices[CHANGED * 4 + 3], values[CHANGED * 16 + 3];
    size_t n_indices = 0, n_values = 0;
    change c;
    make_change(&c, model + (size_t)rows[i] * N);
    for (size_t k = 0; k < CHANGED; k++) {
      n_indices += (size_t)sprintf(indices + n_indices, "%c%u", k ? ',' : '[', c.indices[k]);
      n_values += (size_t)sprintf(values + n_values, "%c%.9g", k ? ',' : '[', (double)c.values[k]);
    }
    strcpy(indices + n_indices, "]");
    strcpy(values + n_values, "]");
    dv_buf_init(&frames[i], &heap);
    write_change(&frames[i], NULL, &c);
    apply_change(&c, model + (size_t)rows[i] * N);
    if (way == BATCH_LOOSE) continue;
    b->a->bind_int64(note, 1, (sqlite3_int64)i);
    bind_id(b, note, 2, rows[i]);
    b->a->bind_blob(note, 3, frames[i].data, (int)frames[i].n, SQLITE_TRANSIENT);
    b->a->bind_text(note, 4, indices, -1, SQLITE_TRANSIENT);
    b->a->bind_text(note, 5, values, -1, SQLITE_TRANSIENT);
    step_done(b, note);
  }
  double start = now_us();
  if (way == BATCH_LOOSE) {
    run(b, "BEGIN");
    for (size_t i = 0; i < BATCH; i++) apply_delta(b, apply, rows[i], frames[i].data, frames[i].n, NULL);
    run(b, "COMMIT");
  } else {
    step_done(b, apply);
  }
  if (m) meter_add(m, now_us() - start);
  for (size_t i = 0; i < BATCH; i++) dv_buf_free(&frames[i]);
  b->a->finalize(note);
  b->a->finalize(apply);
}

/* 100 UPDATEs in a transaction. */
static void time_updates(base *b, sqlite3_stmt *update, const uint32_t *rows, meter *m) {
  double start = now_us();
  run(b, "BEGIN");
  for (size_t k = 0; k < BATCH; k++) apply_delta(b, update, rows[k], vector_of(below(LARGE)), VECTOR, NULL);
  run(b, "COMMIT");
  if (m) meter_add(m, now_us() - start);
}

enum { MANY = 30000 };

static void section_batch(void) {
  base b, others[N_PEERS];
  sqlite3_stmt *theirs[N_PEERS];
  meter batch = {0}, ways[3] = {{0}}, many = {0}, peer_batch[N_PEERS] = {{0}};
  uint32_t *order = random_order(ROWS);
  double slowest = 0, stored = 0, chain = 0;
  for (size_t i = 0; i < N_PEERS; i++) {
    const api *a;
    char library[460];
    others[i].db = NULL;
    if (!find_peer(&peers[i], &a, library, sizeof library) || peers[i].max_inserts) continue;
    char name[16];
    snprintf(name, sizeof name, "batch%zu", i);
    fill_base(&others[i], &peers[i], name, NULL, ROWS, NULL);
    finish_base(&others[i]);
    theirs[i] = prepare(&others[i], peers[i].update);
    for (size_t j = 0; j < 3; j++) time_updates(&others[i], theirs[i], order, NULL);
  }
  for (size_t r = 0; r < rounds(); r++) { /* each on a new table: its log grows by a third */
    const size_t n_batches = repeats(500);
    float *model = copy_vectors(ROWS);
    fill_base(&b, &ours, "batch", NULL, ROWS, NULL);
    finish_base(&b);
    warm_up(&b, ROWS);
    double log_before = get_number(&b, "SELECT sum(length(pack)) FROM docs_log");
    (void)time_batches(&b, model, order, ROWS, repeats(50), NULL);
    double us = time_batches(&b, model, order, ROWS, n_batches, &batch);
    slowest = us > slowest ? us : slowest;
    meter_round(&batch);
    double log_after = get_number(&b, "SELECT sum(length(pack)) FROM docs_log");
    stored = (log_after - log_before) / (double)((n_batches + repeats(50)) * BATCH);
    chain = get_number(&b, "SELECT avg(bytes) FROM delta_chain('docs', (SELECT id FROM docs LIMIT 1))"
                           " WHERE operation = 'sparse'");
    for (size_t i = 0; i < repeats(100) * 3; i++) {
      time_way(&b, model, order + i * BATCH % ROWS, (batch_way)(i % 3), i < 3 ? NULL : &ways[i % 3]);
    }
    for (size_t i = 0; i < 3; i++) meter_round(&ways[i]);
    verify(&b, model, ROWS);
    close_base(&b);
    free(model);
    for (size_t i = 0; i < N_PEERS; i++) {
      if (!others[i].db) continue;
      for (size_t j = 0; j < repeats(30); j++) time_updates(&others[i], theirs[i], order + j * BATCH, &peer_batch[i]);
      meter_round(&peer_batch[i]);
    }
  }
  double mean = batch.sum / (double)batch.n_all;
  row *r = add_row("delta_apply_batch", "sparse 5 % delta: delta_apply_batch of 100, committed", "us", 120,
                   meter_figure(&batch));
  set_note(r, "mean, with settling and checkpoints: %.0f us; the slowest: %.1f ms", mean, slowest / 1000);
  for (size_t i = 0; i < N_PEERS; i++) add_peer(r, peers[i].name, false, meter_figure(&peer_batch[i]));
  add_row("batch_packed", "  frames packed by SQL in the timed part", "us", -1, meter_figure(&ways[BATCH_PACKED]));
  add_row("batch_made", "  deltas made from JSON and packed by SQL in the timed part", "us", -1,
          meter_figure(&ways[BATCH_MADE]));
  add_row("batch_loose", "  BEGIN, 100 delta_apply, COMMIT", "us", -1, meter_figure(&ways[BATCH_LOOSE]));
  if (!is_quick) {
    uint32_t *all = random_order(MANY);
    float *model = copy_vectors(MANY);
    fill_base(&b, &ours, "batch", NULL, MANY, NULL);
    finish_base(&b);
    warm_up(&b, MANY);
    (void)time_batches(&b, model, all, MANY, 50, NULL);
    slowest = 0;
    for (size_t i = 0; i < rounds(); i++) {
      double us = time_batches(&b, model, all, MANY, 300, &many);
      slowest = us > slowest ? us : slowest;
      meter_round(&many);
    }
    close_base(&b);
    mean = many.sum / (double)many.n_all;
    r = add_row("batch_many", "  the batch, in a table of 30,000 rows", "us", -1, meter_figure(&many));
    set_note(r, "mean, with settling and checkpoints: %.0f us; the slowest: %.1f ms", mean, slowest / 1000);
    free(model);
    free(all);
  }
  r = add_row("delta_bytes", "5 % delta: bytes the log grows by, seals and pack headers included", "B", 104,
              one_figure(stored));
  set_note(r, "delta_chain says %.1f bytes on average", chain);
  remove_base(scratch_path("batch"));
  for (size_t i = 0; i < N_PEERS; i++) {
    if (!others[i].db) continue;
    others[i].a->finalize(theirs[i]);
    close_base(&others[i]);
    remove_base(others[i].path);
  }
  free(order);
}

/* ---- folding a chain --------------------------------------------------------------------------------------------- */

/* Chains of 100 sparse deltas behind a full vector, one more behind them; read as of the hundredth. */
static figure time_fold(size_t n_rows, bool is_mixed, double *core_us) {
  base b;
  meter m = {0}, core = {0};
  const int64_t start_time = 1700000000000;
  float *model = copy_vectors(n_rows), *expected = allocate(n_rows * VECTOR);
  dv_buf frame, chain;
  dv_buf_init(&frame, &heap);
  dv_buf_init(&chain, &heap);
  fill_base(&b, &ours, "fold",
            "CREATE VIRTUAL TABLE docs USING delta_vectors(dimensions=384, metric=cosine, index=flat, "
            "checkpoint_interval=1000)",
            0, NULL);
  sqlite3_stmt *create = prepare(&b, "SELECT delta_apply('docs', ?1, delta_create(?2), ?3)");
  sqlite3_stmt *apply = prepare(&b, "SELECT delta_apply('docs', ?1, ?2, ?3)");
  run(&b, "BEGIN");
  for (size_t i = 0; i < n_rows; i++) {
    bind_id(&b, create, 1, i);
    bind_vector(&b, create, 2, vector_of(i));
    b.a->bind_int64(create, 3, start_time);
    step_done(&b, create);
  }
  /* One row's deltas next to each other, or the rows' turn by turn. */
  for (size_t step = 0; step < n_rows * 101; step++) {
    size_t i = is_mixed ? step % n_rows : step / 101, number = is_mixed ? step / n_rows + 1 : step % 101 + 1;
    change c;
    make_change(&c, model + i * N);
    frame.n = 0;
    write_change(&frame, NULL, &c);
    apply_change(&c, model + i * N);
    if (number == 100) memcpy(expected + i * N, model + i * N, VECTOR);
    if (i == 0 && number <= 100) dv_buf_bytes(&chain, frame.data, frame.n);
    bind_id(&b, apply, 1, i);
    b.a->bind_blob(apply, 2, frame.data, (int)frame.n, SQLITE_STATIC);
    b.a->bind_int64(apply, 3, start_time + (int64_t)step + 1);
    step_done(&b, apply);
  }
  run(&b, "COMMIT");
  finish_base(&b);
  sqlite3_stmt *read = prepare(&b, "SELECT vector_at('docs', ?1, ?2)");
  run(&b, "BEGIN");
  for (size_t r = 0; r < rounds() + 1; r++) {
    for (size_t n = 0; n < repeats(1000); n++) {
      size_t i = n % n_rows;
      size_t last = is_mixed ? 99 * n_rows + i : i * 101 + 99;
      double start = now_us();
      bind_id(&b, read, 1, i);
      b.a->bind_int64(read, 2, start_time + (int64_t)last + 1);
      int rc = b.a->step(read);
      const void *v = rc == SQLITE_ROW ? b.a->column_blob(read, 0) : NULL;
      double us = now_us() - start;
      if (!v) die("no vector as of a past time: %s", b.a->errmsg(b.db));
      if (memcmp(v, expected + i * N, VECTOR) != 0) die("row %zu as of delta 100 does not read back as written", i);
      b.a->reset(read);
      if (r > 0) meter_add(&m, us);
    }
    meter_round(&m);
  }
  run(&b, "COMMIT");
  if (core_us) { /* frames to a vector, without SQL */
    static float v[N];
    memcpy(v, vector_of(0), VECTOR);
    for (size_t n = 0; n < repeats(1000); n++) {
      double start = now_us();
      dv_reader reader = dv_reader_of(chain.data, chain.n);
      while (dv_reader_left(&reader)) {
        dv_frame f;
        if (dv_frame_read(&reader, &f, NULL) != DV_OK || dv_delta_apply(&f.delta, v, N, NULL) != DV_OK)
          die("folding failed");
      }
      meter_add(&core, now_us() - start);
    }
    *core_us = meter_figure(&core).median;
  }
  b.a->finalize(create);
  b.a->finalize(apply);
  b.a->finalize(read);
  close_base(&b);
  remove_base(scratch_path("fold"));
  dv_buf_free(&frame);
  dv_buf_free(&chain);
  free(expected);
  free(model);
  return meter_figure(&m);
}

static void section_fold(void) {
  double core_us;
  row *r = add_row("fold", "fold of 100 sparse deltas on a checkpoint: vector_at(.., time)", "us", 30,
                   time_fold(200, false, &core_us));
  set_note(r, "the same from frames, without SQL: %.1f us", core_us);
  add_row("fold_mixed", "  the same, the row's deltas scattered among 200 rows' in the log", "us", -1,
          time_fold(200, true, NULL));
}

/* ---- as of a past time ------------------------------------------------------------------------------------------- */

static void past_rows(size_t n, const char *label, const char *suffix) {
  base b;
  meter plain = {0}, same = {0}, other = {0}, ratio = {0}, ratio_other = {0};
  const size_t n_changed = n / 100, n_queries = repeats(n > ROWS ? 500 : QUERIES);
  char what[96], key[40];
  dv_buf frame;
  dv_buf_init(&frame, &heap);
  truth *truths = find_truth(vectors, n, 50);
  fill_base(&b, &ours, "past", NULL, n, NULL);
  finish_base(&b);
  sleep_ms(5);
  int64_t before = now_ms();
  sleep_ms(50);
  uint32_t *order = random_order(n);
  sqlite3_stmt *apply = prepare(&b, "SELECT delta_apply('docs', ?1, ?2)");
  run(&b, "BEGIN");
  for (size_t i = 0; i < n_changed; i++) {
    change c;
    make_change(&c, vector_of(order[i]));
    for (size_t j = 0; j < CHANGED; j++) c.values[j] = (float)gaussian(); /* so that it shows */
    frame.n = 0;
    write_change(&frame, NULL, &c);
    apply_delta(&b, apply, order[i], frame.data, frame.n, NULL);
  }
  run(&b, "COMMIT");
  sqlite3_stmt *now = prepare(&b, ours.search);
  sqlite3_stmt *then = prepare(&b, "SELECT id, distance FROM docs WHERE vector MATCH ?1 AND k = 10 AND as_of = ?2");
  b.a->bind_int64(then, 2, before);
  quality then_quality = judge(&b, then, truths, vectors, 50);
  for (size_t r = 0; r < rounds() + 1; r++) {
    for (size_t q = 0; q < n_queries; q++) {
      time_search(&b, now, queries + q * N, r ? &plain : NULL, NULL);
      b.a->bind_int64(then, 2, before);
      time_search(&b, then, queries + q * N, r ? &same : NULL, NULL);
    }
    /* Each query another time, all of them before the change. */
    for (size_t q = 0; q < n_queries; q++) {
      b.a->bind_int64(then, 2, before + (int64_t)(q * 7 % 40));
      time_search(&b, then, queries + q * N, r ? &other : NULL, NULL);
    }
    meter_round(&plain);
    meter_round(&same);
    meter_round(&other);
    if (r == 0) continue;
    double base_us = plain.medians[plain.n_rounds - 1];
    meter_add(&ratio, same.medians[same.n_rounds - 1] / base_us);
    meter_round(&ratio);
    meter_add(&ratio_other, other.medians[other.n_rounds - 1] / base_us);
    meter_round(&ratio_other);
  }
  snprintf(key, sizeof key, "as_of_ratio%s", suffix);
  snprintf(what, sizeof what, "%sas of before 1 %% of rows changed / plain search", label);
  row *r = add_row(key, what, "x", 2, meter_figure(&ratio));
  set_note(r, "plain %.1f us, as of %.1f us, recall as of then %.4f", meter_figure(&plain).median,
           meter_figure(&same).median, then_quality.recall);
  snprintf(key, sizeof key, "as_of_ratio_times%s", suffix);
  snprintf(what, sizeof what, "%s  the same, each query another time before", label);
  add_row(key, what, "x", 2, meter_figure(&ratio_other));
  /* Times between the changes: nothing kept from one query helps the next. */
  for (size_t i = 0; i < n_changed; i++) { /* a second change of the same rows, at times of their own */
    sqlite3_stmt *timed = i ? NULL : prepare(&b, "SELECT delta_apply('docs', ?1, ?2, ?3)");
    static sqlite3_stmt *statement;
    if (timed) {
      statement = timed;
      run(&b, "BEGIN");
    }
    change c;
    make_change(&c, vector_of(order[i]));
    frame.n = 0;
    write_change(&frame, NULL, &c);
    b.a->bind_int64(statement, 3, now_ms() + 1000 + (int64_t)i);
    apply_delta(&b, statement, order[i], frame.data, frame.n, NULL);
    if (i + 1 == n_changed) {
      run(&b, "COMMIT");
      b.a->finalize(statement);
    }
  }
  int64_t first = (int64_t)get_number(&b, "SELECT min(timestamp) FROM (SELECT timestamp FROM delta_log('docs', 0)"
                                          " ORDER BY seq DESC LIMIT 50)");
  for (size_t q = 0; q < n_queries / 5; q++) {
    b.a->bind_int64(then, 2, first - (int64_t)(q * 13 % (n_changed / 2)));
    time_search(&b, then, queries + q * N, &other, NULL);
  }
  snprintf(key, sizeof key, "as_of_between%s", suffix);
  snprintf(what, sizeof what, "%s  each query another time amid the changes", label);
  add_row(key, what, "us", -1, meter_figure(&other));
  b.a->finalize(apply);
  b.a->finalize(now);
  b.a->finalize(then);
  close_base(&b);
  remove_base(scratch_path("past"));
  dv_buf_free(&frame);
  free(order);
  free(truths);
}

static void section_past(void) {
  past_rows(ROWS, "", "");
  if (!is_quick) past_rows(LARGE, "100,000: ", "_large");
}

/* ---- what the write-ahead log grows by --------------------------------------------------------------------------- */

/* Bytes of -wal per delta: n_transactions of n_each single deltas over the rows of `order`, then what 'optimize'
 * writes. */
static double wal_bytes(const peer *p, size_t n_rows, const uint32_t *order, size_t n_transactions, size_t n_each,
                        double *before) {
  base b;
  dv_buf frame;
  char wal[460];
  dv_buf_init(&frame, &heap);
  fill_base(&b, p, "wal", NULL, n_rows, NULL);
  finish_base(&b);
  run(&b, "PRAGMA wal_autocheckpoint = 0");
  bool is_ours = p == &ours;
  sqlite3_stmt *s = prepare(&b, is_ours ? "SELECT delta_apply('docs', ?1, ?2)" : p->update);
  for (size_t t = 0; t < n_transactions; t++) {
    if (n_each > 1) run(&b, "BEGIN");
    for (size_t i = 0; i < n_each; i++) {
      size_t to = order[t * n_each + i];
      float v[N];
      change c;
      memcpy(v, vector_of(to), VECTOR);
      make_change(&c, v);
      apply_change(&c, v);
      frame.n = 0;
      if (is_ours)
        write_change(&frame, NULL, &c);
      else
        dv_buf_bytes(&frame, v, VECTOR);
      apply_delta(&b, s, to, frame.data, frame.n, NULL);
    }
    if (n_each > 1) run(&b, "COMMIT");
  }
  snprintf(wal, sizeof wal, "%s-wal", b.path);
  double n = (double)(n_transactions * n_each);
  if (before) *before = file_bytes(wal) / n;
  if (is_ours) run(&b, p->finish);
  double bytes = file_bytes(wal) / n;
  b.a->finalize(s);
  close_base(&b);
  remove_base(scratch_path("wal"));
  dv_buf_free(&frame);
  return bytes;
}

static void section_wal(void) {
  uint32_t *small = random_order(1000), *spread = random_order(MANY);
  double before;
  for (int batched = 0; batched < 2; batched++) {
    size_t n = batched ? 10 : 1000, each = batched ? 100 : 1;
    double x = wal_bytes(&ours, 1000, small, n, each, &before);
    row *r =
        batched
            ? add_row("wal_hundreds", "WAL, 10 transactions of 100 deltas over 1,000 rows: per delta, flush included",
                      "B", 1536, one_figure(x))
            : add_row("wal_singles", "WAL, 1,000 single-delta transactions over 1,000 rows: per delta, flush included",
                      "B", 5120, one_figure(x));
    set_note(r, "before the flush %.0f", before);
    for (size_t i = 0; i < N_PEERS; i++) {
      const api *a;
      char library[460];
      if (!find_peer(&peers[i], &a, library, sizeof library) || a != &system_sqlite || peers[i].max_inserts) continue;
      add_peer(r, peers[i].name, false, one_figure(wal_bytes(&peers[i], 1000, small, n, each, NULL)));
    }
    x = wal_bytes(&ours, MANY, spread, n, each, &before);
    r = add_row(batched ? "wal_hundreds_spread" : "wal_singles_spread",
                "  the same over 1,000 of 30,000 rows at random", "B", -1, one_figure(x));
    set_note(r, "before the flush %.0f", before);
  }
  free(small);
  free(spread);
}

/* ---- output ------------------------------------------------------------------------------------------------------ */

static const char *number(double x, const char *unit) {
  static char texts[8][32];
  static size_t next;
  char *text = texts[next++ % 8];
  double size = fabs(x);
  const char *format = size >= 100 ? "%.0f%s%s" : size >= 10 ? "%.1f%s%s" : "%.2f%s%s";
  if (unit[0] == 0) format = floor(x) == x ? "%.0f%s%s" : "%.4f%s%s";
  if (strcmp(unit, "us") == 0 && size >= 10000) {
    x /= 1000;
    unit = "ms";
    format = size >= 100000 ? "%.0f%s%s" : "%.1f%s%s";
  }
  snprintf(text, 32, format, x, unit[0] ? " " : "", unit);
  return text;
}

static int by_median(const void *a, const void *b) {
  double x = ((const peer_figure *)a)->f.median, y = ((const peer_figure *)b)->f.median;
  return x < y ? -1 : x > y;
}

static void print_table(void) {
  printf("\n%-82s %9s %10s %21s  %-38s %10s %8s  %s\n", "", "reach", "median", "(rounds)", "peer (recall)", "median",
         "peer/us", "ok");
  size_t n_met = 0, n_reach = 0;
  for (size_t i = 0; i < n_table; i++) {
    row *r = &table[i];
    char range[64] = "", reach[40] = "";
    if (r->f.high > r->f.low) {
      bool is_ms = strcmp(r->unit, "us") == 0 && r->f.high >= 10000;
      double low = is_ms ? r->f.low / 1000 : r->f.low, high = is_ms ? r->f.high / 1000 : r->f.high;
      int digits = high >= 100 ? 0 : high >= 10 ? 1 : 2;
      snprintf(range, sizeof range, "(%.*f - %.*f%s)", digits, low, digits, high, is_ms ? " ms" : "");
    }
    if (r->has_reach) snprintf(reach, sizeof reach, "%s%s", r->at_least ? ">=" : "<=", number(r->reach, r->unit));
    qsort(r->peers, r->n_peers, sizeof *r->peers, by_median);
    printf("%-82s %9s %10s %21s", r->what, reach, number(r->f.median, r->unit), range);
    if (r->n_peers) {
      printf("  %-38s %10s %7.1fx", r->peers[0].name, number(r->peers[0].f.median, r->unit),
             r->peers[0].f.median / r->f.median);
    } else {
      printf("  %-38s %10s %8s", "", "", "");
    }
    printf("  %s\n", !r->has_reach ? "" : is_met(r) ? "ok" : "NOT");
    n_reach += r->has_reach;
    n_met += r->has_reach && is_met(r);
    for (size_t j = 1; j < r->n_peers; j++) {
      printf("%-82s %9s %10s %21s  %-38s %10s %7.1fx\n", "", "", "", "", r->peers[j].name,
             number(r->peers[j].f.median, r->unit), r->peers[j].f.median / r->f.median);
    }
    if (r->note[0]) printf("    %s\n", r->note);
  }
  printf("\n%zu of %zu reached\n", n_met, n_reach);
}

static void json_string(FILE *out, const char *s) {
  fputc('"', out);
  for (; *s; s++) {
    if (*s == '"' || *s == '\\') fputc('\\', out);
    fputc(*s, out);
  }
  fputc('"', out);
}

static char machine[160], backend[40];

static void write_json(const char *path) {
  FILE *out = fopen(path, "w");
  if (!out) {
    perror(path);
    return;
  }
  fprintf(out, "{\"machine\":");
  json_string(out, machine);
  fprintf(out, ",\"sqlite\":\"%s\",\"backend\":\"%s\",\"clock\":\"%s\",\"quick\":%s,\"rows\":[", sqlite3_libversion(),
          backend, clock_id == CLOCK_MONOTONIC ? "wall" : "cpu", is_quick ? "true" : "false");
  for (size_t i = 0; i < n_table; i++) {
    const row *r = &table[i];
    fprintf(out, "%s\n{\"key\":\"%s\",\"what\":", i ? "," : "", r->key);
    json_string(out, r->what);
    fprintf(out, ",\"unit\":\"%s\",\"median\":%.6g,\"low\":%.6g,\"high\":%.6g", r->unit, r->f.median, r->f.low,
            r->f.high);
    if (r->has_reach) {
      fprintf(out, ",\"reach\":%.6g,\"at_least\":%s,\"ok\":%s", r->reach, r->at_least ? "true" : "false",
              is_met(r) ? "true" : "false");
    }
    if (r->note[0]) {
      fprintf(out, ",\"note\":");
      json_string(out, r->note);
    }
    fprintf(out, ",\"peers\":[");
    for (size_t j = 0; j < r->n_peers; j++) {
      fprintf(out, "%s{\"name\":", j ? "," : "");
      json_string(out, r->peers[j].name);
      fprintf(out, ",\"median\":%.6g,\"low\":%.6g,\"high\":%.6g}", r->peers[j].f.median, r->peers[j].f.low,
              r->peers[j].f.high);
    }
    fprintf(out, "]}");
  }
  fprintf(out, "\n]}\n");
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

static const struct {
  const char *name;
  void (*run)(void);
} sections[] = {{"codec", section_codec},   {"batch", section_batch}, {"write", section_write},
                {"read", section_read},     {"fold", section_fold},   {"search", section_search},
                {"insert", section_insert}, {"wal", section_wal},     {"past", section_past},
                {"large", section_large}};

static void section_start(void) {
  base b;
  load_data();
  open_base(&b, &ours, ":memory:");
  sqlite3_stmt *s = prepare(&b, "SELECT delta_vectors_version(), delta_vectors_backend()");
  if (b.a->step(s) == SQLITE_ROW) {
    snprintf(backend, sizeof backend, "%s", (const char *)b.a->column_text(s, 1));
    printf("delta_vectors %s (%s), SQLite %s, %s, %s time\n", (const char *)b.a->column_text(s, 0), backend,
           sqlite3_libversion(), machine, clock_id == CLOCK_MONOTONIC ? "wall" : "CPU");
  }
  b.a->finalize(s);
  close_base(&b);
}

static bool try_section(void (*section)(void), const char *name) {
  if (setjmp(give_up) == 0) {
    section();
    return true;
  }
  fprintf(stderr, "bench_core: %s: %s\n", name, failure);
  return false;
}

static bool is_wanted(const char *list, const char *name) {
  size_t n = strlen(name);
  for (const char *p = list; p && *p; p += strcspn(p, ","), p += *p == ',') {
    if (strncmp(p, name, n) == 0 && (p[n] == 0 || p[n] == ',')) return true;
  }
  return list == NULL;
}

static void remove_scratch(void) {
  DIR *dir = opendir(scratch_dir);
  struct dirent *entry;
  while (dir && (entry = readdir(dir))) {
    char path[720];
    snprintf(path, sizeof path, "%s/%s", scratch_dir, entry->d_name);
    if (entry->d_name[0] != '.' || entry->d_name[1] > '.') unlink(path);
  }
  if (dir) closedir(dir);
  rmdir(scratch_dir);
}

static void usage(void) {
  fprintf(
      stderr,
      "usage: bench_core [--data DIR] [--peers DIR|none] [--scratch DIR] [--only A,B] [--json FILE] [--clock cpu|wall]"
      " [--quick] [delta_vectors.so]\n");
  exit(2);
}

int main(int argc, char **argv) {
  const char *only = NULL, *json = NULL, *scratch = getenv("TMPDIR"), *data = NULL, *peers_given = NULL;
  const char *home = getenv("HOME"), *xdg = getenv("XDG_CACHE_HOME"), *cache = getenv("DELTA_VECTORS_CACHE");
  for (int i = 1; i < argc; i++) {
    if (strcmp(argv[i], "--quick") == 0) {
      is_quick = true;
    } else if (argv[i][0] != '-') {
      snprintf(extension, sizeof extension, "%s%s", strchr(argv[i], '/') ? "" : "./", argv[i]);
    } else if (i + 1 == argc) {
      usage();
    } else if (strcmp(argv[i], "--data") == 0) {
      data = argv[++i];
    } else if (strcmp(argv[i], "--peers") == 0) {
      peers_given = argv[++i];
    } else if (strcmp(argv[i], "--scratch") == 0) {
      scratch = argv[++i];
    } else if (strcmp(argv[i], "--only") == 0) {
      only = argv[++i];
    } else if (strcmp(argv[i], "--json") == 0) {
      json = argv[++i];
    } else if (strcmp(argv[i], "--clock") == 0) {
      clock_id = strcmp(argv[++i], "cpu") == 0 ? CLOCK_THREAD_CPUTIME_ID : CLOCK_MONOTONIC;
    } else {
      usage();
    }
  }
  if (cache)
    snprintf(cache_dir, sizeof cache_dir, "%s", cache);
  else if (xdg)
    snprintf(cache_dir, sizeof cache_dir, "%s/delta_vectors", xdg);
  else
    snprintf(cache_dir, sizeof cache_dir, "%s/.cache/delta_vectors", home ? home : ".");
  snprintf(data_dir, sizeof data_dir, "%s", data ? data : cache_dir);
  if (!peers_given)
    snprintf(peers_dir, sizeof peers_dir, "%.390s/peers", cache_dir);
  else if (strcmp(peers_given, "none") != 0)
    snprintf(peers_dir, sizeof peers_dir, "%s", peers_given);
  if (peers_dir[0] && access(peers_dir, R_OK) != 0) {
    fprintf(stderr, "bench_core: no peers in %s: install them with tests/bench/peers.sh\n", peers_dir);
    peers_dir[0] = 0;
  }
  snprintf(scratch_dir, sizeof scratch_dir, "%.370s/bench_core.XXXXXX", scratch ? scratch : "/tmp");
  if (!mkdtemp(scratch_dir)) {
    perror(scratch_dir);
    return 1;
  }
  pin();
  describe_machine();
  bool is_fine = try_section(section_start, "start");
  size_t n_failed = 0;
  for (size_t i = 0; is_fine && i < sizeof sections / sizeof *sections; i++) {
    if (!is_wanted(only, sections[i].name)) continue;
    fprintf(stderr, "%s ...\n", sections[i].name);
    seed = 1;
    n_failed += !try_section(sections[i].run, sections[i].name);
  }
  remove_scratch();
  print_table();
  if (json) write_json(json);
  return is_fine && n_failed == 0 ? 0 : 1;
}
