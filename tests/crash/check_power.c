/*
 * check_power.c: the power fails at each point at which SQLite waits for the disk, and what was not yet on it is lost,
 * kept, or torn.
 *
 * A VFS in memory keeps apart what has been synced and what has only been written. At the n-th xSync the power fails:
 * each sector written since the file's last sync is, as a seed decides, on the disk, not on it, or rubbish. From then on
 * every call fails. Then the files are opened again, as they are now, and
 *
 *   - the table is as it was behind the last statement that was acknowledged, or the one under way: row for row and delta
 *     for delta, never between;
 *   - 'integrity-check' and PRAGMA integrity_check find nothing, and the next write works;
 *   - in half of the rounds the power fails again, at each point of the recovery.
 *
 * A removed file is gone at once, as on a file system that writes its directory in order; where that is not so, SQLite
 * has synchronous=EXTRA. The clock stands still.
 *
 * check_power [SEEDS]: so many seeds (default 2) for each workload, journal and point. DV_SEED=n: the first of them.
 */
#include "vtab/support.c"

enum { SECTOR = 512, MAX_FILES = 8 };

/* ---- the disk ---------------------------------------------------------------------------------------------------- */

typedef struct bytes {
  unsigned char *p;
  sqlite3_int64 n;
} bytes;

typedef struct disk_file {
  char name[400]; /* "": free */
  bytes synced, now;
  bool is_on_disk; /* it has been synced, so it is in the directory for sure */
  /* What was done since: an offset and length of a write, or a truncation (n < 0) to an offset. */
  struct {
    sqlite3_int64 at, n;
  } *changes;
  int n_changes, capacity;
} disk_file;

static struct {
  disk_file files[MAX_FILES];
  int n_syncs, fails_at; /* the power fails at this sync; 0: never */
  bool is_off;
  uint64_t random;
} disk;

static uint32_t disk_random(uint32_t n) {
  disk.random = disk.random * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)(disk.random >> 33) % n;
}

static void bytes_resize(bytes *b, sqlite3_int64 n) {
  unsigned char *p = realloc(b->p, (size_t)n + 1);
  ck_assert(p != NULL);
  if (n > b->n) memset(p + b->n, 0, (size_t)(n - b->n));
  b->p = p;
  b->n = n;
}

static void bytes_copy(bytes *to, const bytes *from) {
  bytes_resize(to, from->n);
  if (from->n) memcpy(to->p, from->p, (size_t)from->n);
}

static void disk_remove(disk_file *f) {
  free(f->synced.p);
  free(f->now.p);
  free(f->changes);
  memset(f, 0, sizeof *f);
}

static void disk_format(void) {
  for (int i = 0; i < MAX_FILES; i++) disk_remove(&disk.files[i]);
  memset(&disk, 0, sizeof disk);
}

static disk_file *disk_find(const char *name, bool is_new) {
  disk_file *empty = NULL;
  for (int i = 0; i < MAX_FILES; i++) {
    if (strcmp(disk.files[i].name, name) == 0) return &disk.files[i];
    if (!disk.files[i].name[0] && !empty) empty = &disk.files[i];
  }
  if (!is_new) return NULL;
  ck_assert(empty != NULL && strlen(name) < sizeof empty->name);
  snprintf(empty->name, sizeof empty->name, "%s", name);
  return empty;
}

static void disk_note(disk_file *f, sqlite3_int64 at, sqlite3_int64 n) {
  if (f->n_changes == f->capacity) {
    f->capacity = f->capacity ? 2 * f->capacity : 64;
    f->changes = realloc(f->changes, (size_t)f->capacity * sizeof *f->changes);
    ck_assert(f->changes != NULL);
  }
  f->changes[f->n_changes].at = at;
  f->changes[f->n_changes++].n = n;
}

/* What the disk holds when the power is back. */
static void disk_lose_power(void) {
  static unsigned char rubbish[SECTOR];
  for (int i = 0; i < MAX_FILES; i++) {
    disk_file *f = &disk.files[i];
    if (!f->name[0]) continue;
    if (!f->is_on_disk && disk_random(2)) {
      disk_remove(f);
      continue;
    }
    for (int k = 0; k < f->n_changes; k++) {
      sqlite3_int64 at = f->changes[k].at, n = f->changes[k].n;
      if (n < 0) {
        if (disk_random(2) && at < f->synced.n) bytes_resize(&f->synced, at);
        continue;
      }
      for (sqlite3_int64 from = at, to; from < at + n; from = to) {
        to = (from / SECTOR + 1) * SECTOR;
        if (to > at + n) to = at + n;
        uint32_t what = disk_random(5); /* 0, 1: on the disk; 2, 3: not; 4: rubbish */
        if (what == 2 || what == 3) continue;
        if (to > f->synced.n) bytes_resize(&f->synced, to);
        for (int j = 0; j < SECTOR; j++) rubbish[j] = (unsigned char)disk_random(256);
        /* What a later change cut off is not in memory any more. */
        bool is_there = what < 4 && to <= f->now.n;
        memcpy(f->synced.p + from, is_there ? f->now.p + from : rubbish, (size_t)(to - from));
      }
    }
    f->n_changes = 0;
    bytes_copy(&f->now, &f->synced);
  }
  disk.is_off = false;
  disk.n_syncs = disk.fails_at = 0;
}

/* ---- the VFS ----------------------------------------------------------------------------------------------------- */

typedef struct power_file {
  sqlite3_file base;
  disk_file *f; /* NULL: a temporary file, of its own */
  bytes own;
} power_file;

static bytes *contents(power_file *p) { return p->f ? &p->f->now : &p->own; }

static int power_close(sqlite3_file *file) {
  free(((power_file *)file)->own.p);
  return SQLITE_OK;
}

static int power_read(sqlite3_file *file, void *to, int n, sqlite3_int64 at) {
  bytes *b = contents((power_file *)file);
  if (disk.is_off) return SQLITE_IOERR_READ;
  sqlite3_int64 left = at < b->n ? b->n - at : 0;
  if (left > n) left = n;
  if (left > 0) memcpy(to, b->p + at, (size_t)left);
  if (left < n) memset((char *)to + left, 0, (size_t)(n - left));
  return left < n ? SQLITE_IOERR_SHORT_READ : SQLITE_OK;
}

static int power_write(sqlite3_file *file, const void *from, int n, sqlite3_int64 at) {
  power_file *p = (power_file *)file;
  bytes *b = contents(p);
  if (disk.is_off) return SQLITE_IOERR_WRITE;
  if (at + n > b->n) bytes_resize(b, at + n);
  memcpy(b->p + at, from, (size_t)n);
  if (p->f) disk_note(p->f, at, n);
  return SQLITE_OK;
}

static int power_truncate(sqlite3_file *file, sqlite3_int64 n) {
  power_file *p = (power_file *)file;
  if (disk.is_off) return SQLITE_IOERR_TRUNCATE;
  if (n < contents(p)->n) bytes_resize(contents(p), n);
  if (p->f) disk_note(p->f, n, -1);
  return SQLITE_OK;
}

static int power_sync(sqlite3_file *file, int flags) {
  disk_file *f = ((power_file *)file)->f;
  (void)flags;
  if (disk.is_off) return SQLITE_IOERR_FSYNC;
  if (!f) return SQLITE_OK;
  if (++disk.n_syncs == disk.fails_at) {
    disk.is_off = true;
    return SQLITE_IOERR_FSYNC;
  }
  bytes_copy(&f->synced, &f->now);
  f->n_changes = 0;
  f->is_on_disk = true;
  return SQLITE_OK;
}

static int power_size(sqlite3_file *file, sqlite3_int64 *n) {
  *n = contents((power_file *)file)->n;
  return disk.is_off ? SQLITE_IOERR_FSTAT : SQLITE_OK;
}
static int power_lock(sqlite3_file *file, int level) {
  (void)file, (void)level;
  return SQLITE_OK;
}
static int power_reserved(sqlite3_file *file, int *out) {
  (void)file;
  *out = 0;
  return SQLITE_OK;
}
static int power_control(sqlite3_file *file, int op, void *p) {
  (void)file, (void)op, (void)p;
  return SQLITE_NOTFOUND;
}
static int power_sector(sqlite3_file *file) {
  (void)file;
  return SECTOR;
}
static int power_device(sqlite3_file *file) {
  (void)file;
  return 0;
}

/* Without shared memory: WAL only with locking_mode=EXCLUSIVE. */
static const sqlite3_io_methods power_methods = {
    1,          power_close,    power_read,    power_write,  power_truncate, power_sync, power_size, power_lock,
    power_lock, power_reserved, power_control, power_sector, power_device,   NULL,       NULL,       NULL,
    NULL,       NULL,           NULL};

static int vfs_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *file, int flags, int *out) {
  power_file *p = (power_file *)file;
  (void)vfs;
  memset(p, 0, sizeof *p);
  if (disk.is_off) return SQLITE_CANTOPEN;
  if (name) {
    p->f = disk_find(name, (flags & SQLITE_OPEN_CREATE) != 0);
    if (!p->f) return SQLITE_CANTOPEN;
  }
  p->base.pMethods = &power_methods;
  if (out) *out = flags;
  return SQLITE_OK;
}

static int vfs_delete(sqlite3_vfs *vfs, const char *name, int sync) {
  disk_file *f = disk_find(name, false);
  (void)vfs, (void)sync;
  if (disk.is_off) return SQLITE_IOERR_DELETE;
  if (!f) return SQLITE_IOERR_DELETE_NOENT;
  disk_remove(f);
  return SQLITE_OK;
}

static int vfs_access(sqlite3_vfs *vfs, const char *name, int flags, int *out) {
  (void)vfs, (void)flags;
  *out = disk_find(name, false) != NULL;
  return disk.is_off ? SQLITE_IOERR_ACCESS : SQLITE_OK;
}

static int vfs_path(sqlite3_vfs *vfs, const char *name, int n, char *out) {
  (void)vfs;
  snprintf(out, (size_t)n, "%s", name);
  return SQLITE_OK;
}

static int vfs_time(sqlite3_vfs *vfs, sqlite3_int64 *out) {
  (void)vfs;
  *out = 212000000000000;
  return SQLITE_OK;
}

static sqlite3_vfs power_vfs;

static void register_vfs(void) {
  power_vfs = *sqlite3_vfs_find(NULL);
  power_vfs.zName = "power";
  power_vfs.szOsFile = (int)sizeof(power_file);
  power_vfs.mxPathname = 300;
  power_vfs.xOpen = vfs_open;
  power_vfs.xDelete = vfs_delete;
  power_vfs.xAccess = vfs_access;
  power_vfs.xFullPathname = vfs_path;
  power_vfs.xCurrentTimeInt64 = vfs_time;
  sqlite3_vfs_register(&power_vfs, 1);
}

/* ---- the work ---------------------------------------------------------------------------------------------------- */

#define FULL_ALONE "PRAGMA locking_mode=EXCLUSIVE; PRAGMA synchronous=FULL"
static const char *const journals[] = {
    "PRAGMA synchronous=FULL; PRAGMA journal_mode=DELETE",
    FULL_ALONE "; PRAGMA journal_mode=WAL",
    "PRAGMA synchronous=FULL; PRAGMA cache_size=2; PRAGMA journal_mode=TRUNCATE",
    FULL_ALONE "; PRAGMA cache_size=2; PRAGMA journal_mode=WAL; PRAGMA wal_autocheckpoint=4",
};
enum { N_JOURNALS = sizeof journals / sizeof journals[0], MAX_STATEMENTS = 12 };

/* Each statement is acknowledged by itself. */
typedef const char *const workload[MAX_STATEMENTS + 1];
#define INSERT_MANY(first, last)                                                                                       \
  "WITH RECURSIVE i(x) AS (SELECT " #first " UNION ALL SELECT x + 1 FROM i WHERE x < " #last ") INSERT INTO docs"      \
  "(id, vector, metadata) SELECT 'm' || x, json_array(x, 1, x * 0.5), '{\"x\":' || x || '}' FROM i"
static workload workloads[] = {
    {"INSERT INTO docs(id, vector) VALUES('x', '[1,2,3]')", "INSERT INTO docs(id, vector) VALUES('y', '[3,2,1]')"},
    {"UPDATE docs SET delta = delta_scale(2)", "UPDATE docs SET vector = '[7,7,7]' WHERE id = 'a'"},
    {"DELETE FROM docs WHERE id = 'a'", "INSERT INTO docs(id, vector) VALUES('a', '[0,0,1]')"},
    {INSERT_MANY(1, 200), "DELETE FROM docs WHERE id LIKE 'm1%'"},
    {INSERT_MANY(1, 30), "INSERT INTO docs(docs) VALUES('optimize')", "UPDATE docs SET delta = delta_offset(1)",
     "INSERT INTO docs(docs) VALUES('optimize')"},
    {"BEGIN; INSERT INTO docs(id, vector) VALUES('x', '[1,2,3]'); SAVEPOINT s; DELETE FROM docs; ROLLBACK TO s; COMMIT",
     "BEGIN; DELETE FROM docs; ROLLBACK", "UPDATE docs SET delta = delta_scale(0.5)"},
    {"INSERT INTO docs(docs) VALUES('optimize')", "INSERT INTO docs(docs) VALUES('rebuild')"},
    {"SELECT delta_compact('docs', '{\"keep\":\"none\"}')", "INSERT INTO docs(id, vector) VALUES('x', '[1,2,3]')"},
    {"SELECT delta_compact('docs', '{\"keep\":\"1 versions\"}')",
     "SELECT delta_compact('docs', '{\"keep\":\"none\"}')"},
    {"SELECT delta_import('docs', (SELECT bytes FROM parcel))",
     "SELECT delta_import('docs', (SELECT bytes FROM parcel))"},
    {"SELECT delta_apply_batch('docs', (SELECT delta_pack(id, delta_offset(1)) FROM docs))",
     "SELECT delta_rollback('docs', 'a', 1)"},
    {"CREATE VIRTUAL TABLE other USING delta_vectors(dimensions=3)", "SELECT delta_salvage('other', 'docs')",
     "DROP TABLE other"},
    {"ALTER TABLE docs RENAME TO papers", "INSERT INTO papers(id, vector) VALUES('x', '[1,2,3]')",
     "ALTER TABLE papers RENAME TO docs"},
    {"BEGIN; ALTER TABLE docs RENAME TO papers; INSERT INTO papers(id, vector) VALUES('x', '[1,2,3]');"
     " ALTER TABLE papers RENAME TO docs; COMMIT"},
    {"VACUUM", "INSERT INTO docs(id, vector) VALUES('x', '[1,2,3]')", "VACUUM"},
    {"INSERT INTO docs(docs) VALUES('hnsw_ef_search=77')", "INSERT INTO docs(docs) VALUES('threads=1')"},
    {"CREATE TABLE plain(a); INSERT INTO plain VALUES(1)",
     "BEGIN; INSERT INTO plain VALUES(2);"
     " INSERT INTO docs(id, vector) VALUES('x', '[1,2,3]'); COMMIT"},
    {"INSERT INTO docs(id, vector, metadata) VALUES('long', '[1,2,3]', json_object('k', hex(zeroblob(30000))))",
     "UPDATE docs SET delta = delta_scale(2) WHERE id = 'long'"},
    {"SELECT delta_settle('docs')", "UPDATE docs SET metadata = '{}'", "SELECT delta_settle('docs')"},
    {"DROP TABLE docs", "CREATE VIRTUAL TABLE docs USING delta_vectors(dimensions=3, metric=l2)",
     "INSERT INTO docs(id, vector) VALUES('x', '[1,2,3]')"},
};
enum { N_WORKLOADS = sizeof workloads / sizeof workloads[0] };

static const char *const path = "power.db";
static int n_seeds = 2;
static uint64_t first_seed = 1;

static void make_base(const char *pragmas) {
  sqlite3 *db = sql_open_flags(path, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE);
  sql_run(db, "PRAGMA page_size=1024; %s", pragmas);
  sql_create_docs(db, 3);
  sql_run(db, "INSERT INTO docs(id, vector, metadata) VALUES('a', '[1,0,0]', '{\"n\":0}'), ('b', '[0,1,0]', NULL),"
              " ('c', '[0,0,1]', '{\"n\":2}')");
  sql_run(db, "UPDATE docs SET delta = delta_sparse('[0]', '[0.5]') WHERE id = 'a'");
  sql_run(db, "CREATE TABLE parcel(bytes); CREATE VIRTUAL TABLE source USING delta_vectors(dimensions=3)");
  sql_run(db, "INSERT INTO source(id, vector) VALUES('s', '[9,9,9]'), ('t', '[8,8,8]')");
  sql_run(db, "INSERT INTO parcel SELECT delta_export('source'); DROP TABLE source");
  sql_close(db);
}

static sqlite3 *power_on(const char *pragmas) {
  sqlite3 *db = sql_open_flags(path, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE);
  (void)sql_try(db, NULL, "%s", pragmas);
  return db;
}

/* All that the table tells, if it can be read. */
static char *state_of(sqlite3 *db) {
  static const char *const parts[] = {"SELECT count(*), sum(rootpage > 0) FROM sqlite_schema",
                                      "SELECT name FROM sqlite_schema WHERE sql LIKE 'CREATE VIRTUAL%'",
                                      "SELECT id, hex(vector), metadata FROM docs",
                                      "SELECT seq, id, operation, hex(delta), metadata FROM delta_log('docs')",
                                      "SELECT key, value FROM docs_meta WHERE key IN ('hnsw_ef_search', 'threads')"};
  growing t = {0};
  for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
    char *message = NULL;
    add_z(&t, "\n");
    if (sqlite3_exec(db, parts[i], add_row, &t, &message) != SQLITE_OK) add_z(&t, message ? message : "?");
    sqlite3_free(message);
  }
  return t.z;
}

/* Number of statements acknowledged until the power failed. */
static int work(sqlite3 *db, workload *w) {
  int n = 0;
  while (n < MAX_STATEMENTS && (*w)[n] && sqlite3_exec(db, (*w)[n], NULL, NULL, NULL) == SQLITE_OK) n++;
  return n;
}

static long n_recoveries, n_twice;

START_TEST(power_fails) {
  workload *w = &workloads[_i % N_WORKLOADS];
  const char *pragmas = journals[_i / N_WORKLOADS];
  char *states[MAX_STATEMENTS + 1];
  int n_statements = 0;
  register_vfs();

  /* The states it goes through. */
  disk_format();
  make_base(pragmas);
  sqlite3 *db = power_on(pragmas);
  states[0] = state_of(db);
  while (n_statements < MAX_STATEMENTS && (*w)[n_statements]) {
    sql_run(db, "%s", (*w)[n_statements]);
    states[++n_statements] = state_of(db);
  }
  sql_close(db);

  for (int seed = 0; seed < n_seeds; seed++) {
    bool is_through = false;
    for (int at = 1; !is_through; at++) {
      disk_format();
      make_base(pragmas);
      disk.random = (first_seed + (uint64_t)seed) * 1000003u + (uint64_t)at * 7919u + (uint64_t)_i;
      db = power_on(pragmas);
      disk.n_syncs = 0;
      disk.fails_at = at;
      int n_done = work(db, w);
      is_through = !disk.is_off;
      disk.is_off = true; /* also for what closing would write */
      (void)sqlite3_close_v2(db);
      disk_lose_power();
      /* Again, at each point of the recovery. */
      for (int again = 1; (at + seed) % 2 && again < 50; again++) {
        disk.fails_at = again;
        db = power_on(pragmas);
        char *ignored = state_of(db);
        free(ignored);
        bool is_recovered = !disk.is_off;
        disk.is_off = true;
        (void)sqlite3_close_v2(db);
        disk_lose_power();
        n_twice++;
        if (is_recovered) break;
      }
      db = power_on(pragmas);
      char *now = state_of(db);
      bool is_last = strcmp(now, states[n_done]) == 0,
           is_next = n_done < n_statements && strcmp(now, states[n_done + 1]) == 0;
      ck_assert_msg(is_last || is_next,
                    "seed %d, sync %d, %s: %d statements were acknowledged; the table is%.2000s\nexpected%.2000s", seed,
                    at, pragmas, n_done, now, states[n_done]);
      free(now);
      if (sql_try(db, NULL, "SELECT 1 FROM docs") == SQLITE_OK) {
        sql_sound(db);
        sql_run(db, "INSERT INTO docs(id, vector) VALUES('and on', '[1,1,1]')");
        sql_sound(db);
      } else {
        sql_is(db, "ok", "PRAGMA integrity_check");
      }
      sql_close(db);
      n_recoveries++;
    }
  }
  for (int i = 0; i <= n_statements; i++) free(states[i]);
  disk_format();
  printf("power: workload %d, journal %d: %ld recoveries, %ld power failures in a recovery\n", _i % N_WORKLOADS,
         _i / N_WORKLOADS, n_recoveries, n_twice);
}
END_TEST

int main(int argc, char **argv) {
  if (argc > 1) n_seeds = atoi(argv[1]) > 0 ? atoi(argv[1]) : 1;
  if (getenv("DV_SEED")) first_seed = strtoull(getenv("DV_SEED"), NULL, 10);
  Suite *suite = suite_create("power");
  TCase *t = tcase_create("power");
  tcase_set_timeout(t, n_seeds > 2 ? 3600 : 300);
  tcase_add_checked_fixture(t, sql_setup, sql_teardown);
  tcase_add_loop_test(t, power_fails, 0, N_WORKLOADS * N_JOURNALS);
  suite_add_tcase(suite, t);
  return sql_main(suite, argc, argv);
}
