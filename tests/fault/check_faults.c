/*
 * check_faults.c: memory runs out, or the disk fails, at each point of everything the extension does, one point after
 * the other: once, or from there on for good.
 *
 * A piece of work is a transaction, a command or a query on a table that holds a bit of everything. It is run again and
 * again on a fresh copy of the file, with the fault one step later each time, until it gets through without meeting it.
 * Each time
 *
 *   - a statement that met the fault fails with its code (or does well without what it was refused), never with another
 *     error, and nothing crashes;
 *   - afterwards the connection that met it, and a new one, see the table as it was before the work or as it is behind
 *   it,
 *     bit for bit, and 'integrity-check' finds nothing;
 *   - the work then goes through, on the same connection;
 *   - all memory is given back (sql_teardown).
 *
 * check_faults [STEP [WORK]]: the first 10 points, and then each STEP-th (an odd number; default 151). 1: every point,
 * an hour of a core; of one piece of work, by its number from 0, up to some minutes. One kind of fault:
 * CK_RUN_CASE=memory_once, ....
 */
#include "vtab/support.c" /* this directory has no helpers of its own */

/* ---- the fault --------------------------------------------------------------------------------------------------- */

typedef enum fault_kind { NO_MEMORY, BAD_DISK, FULL_DISK } fault_kind;

static struct {
  fault_kind kind;
  bool is_armed;
  bool is_lasting; /* fails from there on, not once */
  long countdown;
  long n_met;
} fault;

static bool is_faulty(fault_kind kind) {
  if (!fault.is_armed || fault.kind != kind) return false;
  if (fault.countdown > 0) {
    fault.countdown--;
    return false;
  }
  if (fault.n_met > 0 && !fault.is_lasting) return false;
  fault.n_met++;
  return true;
}

static sqlite3_mem_methods memory;

static void *faulty_malloc(int n) { return is_faulty(NO_MEMORY) ? NULL : memory.xMalloc(n); }
static void *faulty_realloc(void *p, int n) { return is_faulty(NO_MEMORY) ? NULL : memory.xRealloc(p, n); }

/* A file of the real VFS, of which every call may fail. */
typedef struct faulty_file {
  sqlite3_file base;
  sqlite3_file *real; /* behind this structure */
} faulty_file;

static sqlite3_vfs *real_vfs, faulty_vfs;

#define REAL(f) (((faulty_file *)(f))->real)

static int file_close(sqlite3_file *f) { return REAL(f)->pMethods ? REAL(f)->pMethods->xClose(REAL(f)) : SQLITE_OK; }
static int file_read(sqlite3_file *f, void *p, int n, sqlite3_int64 at) {
  return is_faulty(BAD_DISK) ? SQLITE_IOERR_READ : REAL(f)->pMethods->xRead(REAL(f), p, n, at);
}
static int file_write(sqlite3_file *f, const void *p, int n, sqlite3_int64 at) {
  if (is_faulty(FULL_DISK)) return SQLITE_FULL;
  return is_faulty(BAD_DISK) ? SQLITE_IOERR_WRITE : REAL(f)->pMethods->xWrite(REAL(f), p, n, at);
}
static int file_truncate(sqlite3_file *f, sqlite3_int64 n) {
  return is_faulty(BAD_DISK) ? SQLITE_IOERR_TRUNCATE : REAL(f)->pMethods->xTruncate(REAL(f), n);
}
static int file_sync(sqlite3_file *f, int flags) {
  return is_faulty(BAD_DISK) ? SQLITE_IOERR_FSYNC : REAL(f)->pMethods->xSync(REAL(f), flags);
}
static int file_size(sqlite3_file *f, sqlite3_int64 *n) {
  return is_faulty(BAD_DISK) ? SQLITE_IOERR_FSTAT : REAL(f)->pMethods->xFileSize(REAL(f), n);
}
static int file_lock(sqlite3_file *f, int level) {
  return is_faulty(BAD_DISK) ? SQLITE_IOERR_LOCK : REAL(f)->pMethods->xLock(REAL(f), level);
}
static int file_unlock(sqlite3_file *f, int level) { return REAL(f)->pMethods->xUnlock(REAL(f), level); }
static int file_reserved(sqlite3_file *f, int *out) { return REAL(f)->pMethods->xCheckReservedLock(REAL(f), out); }
static int file_control(sqlite3_file *f, int op, void *p) { return REAL(f)->pMethods->xFileControl(REAL(f), op, p); }
static int file_sector(sqlite3_file *f) { return REAL(f)->pMethods->xSectorSize(REAL(f)); }
static int file_device(sqlite3_file *f) { return REAL(f)->pMethods->xDeviceCharacteristics(REAL(f)); }

/* Version 1: no shared memory, so no WAL; and no mmap. */
static const sqlite3_io_methods file_methods = {
    1,         file_close,  file_read,     file_write,   file_truncate, file_sync,   file_size,
    file_lock, file_unlock, file_reserved, file_control, file_sector,   file_device, NULL,
    NULL,      NULL,        NULL,          NULL,         NULL};

static int vfs_open(sqlite3_vfs *vfs, const char *name, sqlite3_file *f, int flags, int *out_flags) {
  faulty_file *file = (faulty_file *)f;
  (void)vfs;
  file->real = (sqlite3_file *)(file + 1);
  memset(file->real, 0, (size_t)real_vfs->szOsFile);
  file->base.pMethods = NULL;
  if (is_faulty(BAD_DISK)) return SQLITE_CANTOPEN;
  int rc = real_vfs->xOpen(real_vfs, name, file->real, flags, out_flags);
  file->base.pMethods = file->real->pMethods ? &file_methods : NULL;
  return rc;
}

static int vfs_delete(sqlite3_vfs *vfs, const char *name, int sync) {
  (void)vfs;
  return is_faulty(BAD_DISK) ? SQLITE_IOERR_DELETE : real_vfs->xDelete(real_vfs, name, sync);
}

static int vfs_access(sqlite3_vfs *vfs, const char *name, int flags, int *out) {
  (void)vfs;
  return is_faulty(BAD_DISK) ? SQLITE_IOERR_ACCESS : real_vfs->xAccess(real_vfs, name, flags, out);
}

/* A clock that stands still: work done twice gives the same table. */
static int vfs_time(sqlite3_vfs *vfs, sqlite3_int64 *out) {
  (void)vfs;
  *out = 212000000000000; /* of a Julian day: in 2005 */
  return SQLITE_OK;
}

/* ---- the work ---------------------------------------------------------------------------------------------------- */

typedef struct work {
  const char *name;
  const char *const *statements;
} work;

#define WORK(name, ...)                                                                                                \
  {                                                                                                                    \
    name, (const char *const[]) { __VA_ARGS__, NULL }                                                                  \
  }

/* Each takes the table from one state to another, or leaves it. Rows a, b, c; d is deleted; many more to settle. */
static const work works[] = {
    WORK("insert",
         "INSERT INTO docs(id, vector, metadata) VALUES('x', '[1,2,3]', '{\"n\":1}'), ('y', '[3,2,1]', NULL)"),
    WORK("update", "UPDATE docs SET delta = delta_sparse('[1]', '[7]'), metadata = '{\"n\":2}', as_of = '2002-01-02' "
                   "WHERE id < 'm'"),
    WORK("transaction", "BEGIN", "INSERT INTO docs(id, vector) VALUES('x', '[1,2,3]')", "SAVEPOINT s",
         "DELETE FROM docs WHERE id = 'a'", "SELECT delta_apply('docs', 'b', delta_scale(2))", "ROLLBACK TO s",
         "UPDATE docs SET vector = '[4,4,4]' WHERE id = 'b'", "RELEASE s",
         "INSERT OR REPLACE INTO docs(id, vector) VALUES('c', '[0,0,1]')", "COMMIT"),
    WORK("batch",
         "SELECT delta_apply_batch('docs', (SELECT delta_pack(id, delta_offset(1), NULL, '{\"n\":5}') FROM docs"
         " WHERE id = 'a'))"),
    WORK("rollback", "SELECT delta_rollback('docs', 'a', 1)"),
    WORK("optimize", "INSERT INTO docs(docs) VALUES('optimize')"),
    WORK("rebuild", "INSERT INTO docs(docs) VALUES('rebuild')"),
    WORK("compact", "SELECT delta_compact('docs', '{\"keep\":\"2 versions\"}')"),
    WORK("import", "SELECT delta_import('docs', (SELECT bytes FROM parcel))"),
    WORK(
        "queries",
        "SELECT id, vector, metadata FROM docs WHERE vector MATCH '[1,0,0]' AND k = 5 AND as_of = '2001-06-01'",
        "SELECT * FROM vector_search('docs', '[1,0,0]', 5, '{\"exact\":true}')",
        "SELECT id, distance FROM docs WHERE vector MATCH '[1,0,0]' AND metadata IS NOT NULL ORDER BY distance LIMIT 3",
        "SELECT *, delta_json(delta) FROM delta_chain('docs', 'a')",
        "SELECT *, delta_json(delta) FROM delta_log('docs', 0)",
        "SELECT vector_at('docs', 'a', '2001-06-01'), vector_at('docs', 'b')", "SELECT length(delta_export('docs'))",
        "SELECT delta_status('docs')", "SELECT delta_recall('docs', 3, 2)",
        "INSERT INTO docs(docs) VALUES('integrity-check')"),
    WORK("filters", "SELECT id FROM shelf WHERE v MATCH '[1,2]' AND k = 2 AND n > 1 AND s LIKE 'w%' AND p = 1",
         "SELECT id FROM shelf WHERE v MATCH '[1,2]' AND k = 2 AND n IN (1, 2, 3) AND s = 'word 2'",
         "BEGIN; UPDATE shelf SET n = 7, s = 'another', p = 2 WHERE id = 2",
         "SELECT id FROM shelf WHERE v MATCH '[1,2]' AND k = 2 AND p IN (1, 2) AND s < 'b'", "COMMIT",
         "SELECT id FROM shelf WHERE v MATCH '[1,2]' AND k = 2 AND p = 2 AND s <> 'x' AND n <> 1"),
    WORK("settle", "SELECT delta_settle('docs')", "UPDATE docs SET delta = delta_scale(2)",
         "SELECT delta_settle('docs')"),
    WORK("salvage", "CREATE VIRTUAL TABLE saved USING delta_vectors(dimensions=3)",
         "SELECT delta_salvage('saved', 'docs')", "DROP TABLE saved"),
    WORK("salvage of a damaged log", "BEGIN", "CREATE VIRTUAL TABLE saved USING delta_vectors(dimensions=3)",
         "UPDATE docs_log SET pack = CAST(substr(pack, 1, 300) || zeroblob(60) || substr(pack, 361) AS BLOB)",
         "SELECT delta_salvage('saved', 'docs')", "ROLLBACK"),
    WORK("create", "CREATE VIRTUAL TABLE other USING delta_vectors(dimensions=3)", "DROP TABLE other"),
    WORK("settings", "INSERT INTO docs(docs) VALUES('hnsw_ef_search=30')",
         "INSERT INTO docs(docs) VALUES('memory_limit=9')"),
    WORK("replace",
         "INSERT OR REPLACE INTO docs(id, vector, metadata) SELECT id, vector_scale(vector, 2), '{\"long\":\"' ||"
         " hex(zeroblob(500)) || '\"}' FROM docs"),
    WORK("savepoints", "BEGIN", "SAVEPOINT a", "UPDATE docs SET delta = delta_offset(1)", "SAVEPOINT b",
         "INSERT INTO docs(docs) VALUES('optimize')", "DELETE FROM docs WHERE id > 'r'", "ROLLBACK TO b", "RELEASE a",
         "COMMIT"),
    WORK("vacuum", "VACUUM"),
    WORK("graph", "INSERT INTO net(net) VALUES('optimize')", "UPDATE net SET v = vector_scale(v, -1) WHERE id < 5",
         "SELECT id FROM net WHERE v MATCH '[1,2]' AND k = 3", "INSERT INTO net(net) VALUES('optimize')",
         "SELECT delta_recall('net', 3, 2)", "INSERT INTO net(net) VALUES('integrity-check')"),
    WORK("ddl", "BEGIN",
         "CREATE VIRTUAL TABLE other USING delta_vectors(id INTEGER PRIMARY KEY, v FLOAT[2], n INTEGER)",
         "INSERT INTO other VALUES(1, '[1,2]', 5)", "ALTER TABLE other RENAME TO another", "DROP TABLE another",
         "INSERT INTO docs(id, vector) VALUES('x', '[1,2,3]')", "COMMIT"),
};

static const char *base_path, *now_path;
static long n_step = 151; /* odd: every other point is met on a table that is loaded */

enum { N_WORKS = sizeof works / sizeof works[0] };

static void make_base(const char *path) {
  sqlite3 *db = sql_open(path);
  sql_create_docs(db, 3);
  sql_run(db, "INSERT INTO docs(id, vector, metadata, as_of) VALUES('a', '[1,0,0]', '{\"n\":0}', '2001-01-01'),"
              " ('b', '[0,1,0]', NULL, '2001-01-01'), ('c', '[0,0,1]', NULL, '2001-01-01'), ('d', '[1,1,1]', NULL, "
              "'2001-01-01')");
  sql_run(db, "UPDATE docs SET delta = delta_sparse('[0]', '[0.5]'), as_of = '2002-01-01' WHERE id = 'a'");
  sql_run(db, "CREATE TABLE parcel(bytes)");
  sql_run(db, "CREATE VIRTUAL TABLE source USING delta_vectors(dimensions=3)");
  sql_run(
      db,
      "INSERT INTO source(id, vector, metadata, as_of) VALUES('s', '[9,9,9]', '{\"from\":\"afar\"}', '2003-01-01')");
  sql_run(db, "INSERT INTO parcel SELECT delta_export('source'); DROP TABLE source; DELETE FROM docs WHERE id = 'd'");
  sql_insert_many(db, "docs", 1, 12);
  sql_run(db, "CREATE VIRTUAL TABLE shelf USING delta_vectors(id INTEGER PRIMARY KEY, v FLOAT[2], n INTEGER, s TEXT,"
              " p INTEGER PARTITION KEY)");
  sql_run(db, "WITH RECURSIVE i(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM i WHERE x < 40)"
              " INSERT INTO shelf(id, v, n, s, p) SELECT x, '[' || x || ',1]', x %% 5, 'word ' || x, x %% 3 FROM i");
  sql_run(db, "CREATE VIRTUAL TABLE net USING delta_vectors(id INTEGER PRIMARY KEY, v FLOAT[2], index=hnsw, hnsw_m=4)");
  sql_run(db, "INSERT INTO net(id, v) SELECT id, v FROM shelf");
  sql_close(db);
}

/* Runs a piece of work up to its first failure; whether the last statement reported success. */
static bool work_run(sqlite3 *db, const work *w, int *rc) {
  for (size_t i = 0; w->statements[i]; i++) {
    char *message = NULL;
    *rc = sqlite3_exec(db, w->statements[i], NULL, NULL, &message);
    sqlite3_free(message);
    if (*rc != SQLITE_OK) return false;
  }
  return true;
}

static bool is_code_of(fault_kind kind, int rc) {
  rc &= 0xff;
  if (kind == NO_MEMORY) return rc == SQLITE_NOMEM;
  if (kind == FULL_DISK) return rc == SQLITE_FULL || rc == SQLITE_ABORT;
  /* A read that fails while SQLite looks for a hot journal is "cannot open"; a transaction it has ended, an ABORT. */
  return rc == SQLITE_IOERR || rc == SQLITE_CANTOPEN || rc == SQLITE_ABORT;
}

/* WAL needs shared memory, which the VFS has not, unless it has the file alone. */
static const sql_profile exclusive = {"exclusive",
                                      "PRAGMA locking_mode=EXCLUSIVE; PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF"};

/* One point. Returns false when the work went through without the fault. */
static bool point(const work *w, const char *before, const char *after, long countdown) {
  sql_copy_file(base_path, now_path);
  sqlite3 *db = sql_open(now_path);
  if (countdown % 2) sql_run(db, "SELECT count(*) FROM docs"); /* every other time on a table that is loaded */
  fault.countdown = countdown / 2;
  fault.n_met = 0;
  fault.is_armed = true;
  int rc = SQLITE_OK;
  bool is_done = work_run(db, w, &rc);
  fault.is_armed = false;
  bool has_met = fault.n_met > 0;
  ck_assert_msg(is_done || has_met, "%s: failed with %d without a fault: %s", w->name, rc, sqlite3_errmsg(db));
  ck_assert_msg(is_done || is_code_of(fault.kind, rc), "%s at %ld: code %d: %s", w->name, countdown, rc,
                sqlite3_errmsg(db));
  if (!sqlite3_get_autocommit(db)) sql_run(db, "ROLLBACK");
  char *now = sql_state(db, "main", "docs");
  bool is_before = strcmp(now, before) == 0, is_after = strcmp(now, after) == 0;
  ck_assert_msg(is_done ? is_after : is_before || is_after,
                "%s at %ld%s: code %d, and the table is\n%.3000s\nafter\n%.3000s", w->name, countdown,
                fault.is_lasting ? " and on" : "", rc, now, after);
  if (sql_profile_now == &exclusive) {
    sql_sound(db); /* no other connection may look */
  } else {
    sql_agrees(db);
  }
  if (!is_after) {
    ck_assert_msg(work_run(db, w, &rc), "%s at %ld: does not go through afterwards: %d: %s", w->name, countdown, rc,
                  sqlite3_errmsg(db));
    char *again = sql_state(db, "main", "docs");
    ck_assert_msg(strcmp(again, after) == 0, "%s at %ld: done again, the table is\n%.3000s", w->name, countdown, again);
    free(again);
  }
  free(now);
  sql_close(db);
  return has_met;
}

static void every_point(fault_kind kind, bool is_lasting, const work *w) {
  base_path = sql_path("base.db");
  now_path = sql_path("now.db");
  make_base(base_path);
  sql_copy_file(base_path, now_path);
  sqlite3 *db = sql_open(now_path);
  char *before = sql_state(db, "main", "docs");
  int rc;
  ck_assert_msg(work_run(db, w, &rc), "%s: %d: %s", w->name, rc, sqlite3_errmsg(db));
  char *after = sql_state(db, "main", "docs");
  sql_close(db);
  fault.kind = kind;
  fault.is_lasting = is_lasting;
  /* The usual way of doing the work is looked at more closely than the others. */
  bool is_usual = sql_profile_now == &sql_default && kind != FULL_DISK;
  long n_dense = is_usual ? 10 : 4, step = n_step == 1 || is_usual ? n_step : (4 * n_step) | 1;
  /* Creating a table has a point that is SQLite's own, behind xCreate: always looked for. */
  if (is_usual && !is_lasting && kind == NO_MEMORY && strcmp(w->name, "create") == 0) step = 1;
  long countdown = 0, n_points = 0, n_through = 0;
  while (n_through < 2) {
    n_through = point(w, before, after, countdown) ? 0 : n_through + 1;
    countdown += countdown < n_dense || n_through ? 1 : step;
    n_points++;
    ck_assert_int_lt(n_points, 80000); /* "ddl" has 30,000 to 55,000: RENAME reads the schema again and again */
  }
  ck_assert_int_ge(n_points, 2);
  free(before);
  free(after);
}

/* SQLite writes pages when its cache is full, in the middle of anything. */
START_TEST(memory_runs_out_with_a_tiny_cache) {
  sql_profile_now = &sql_tiny;
  every_point(NO_MEMORY, false, &works[_i]);
}
END_TEST
START_TEST(disk_fails_with_a_tiny_cache) {
  sql_profile_now = &sql_tiny;
  every_point(BAD_DISK, false, &works[_i]);
}
END_TEST
START_TEST(disk_fails_in_wal) {
  sql_profile_now = &exclusive;
  every_point(BAD_DISK, true, &works[_i]);
}
END_TEST
START_TEST(disk_fills_up) { every_point(FULL_DISK, true, &works[_i]); }
END_TEST
START_TEST(memory_runs_out_once) { every_point(NO_MEMORY, false, &works[_i]); }
END_TEST
START_TEST(memory_runs_out_for_good) { every_point(NO_MEMORY, true, &works[_i]); }
END_TEST
START_TEST(disk_fails_once) { every_point(BAD_DISK, false, &works[_i]); }
END_TEST
START_TEST(disk_fails_for_good) { every_point(BAD_DISK, true, &works[_i]); }
END_TEST

int main(int argc, char **argv) {
  int first = 0, end = N_WORKS;
  if (argc > 1) n_step = atol(argv[1]) | 1;
  if (argc > 2) first = atoi(argv[2]), end = first + 1;
  if (first < 0 || end > N_WORKS) {
    fprintf(stderr, "check_faults: expected a piece of work from 0 to %d, not %s\n", N_WORKS - 1, argv[2]);
    return 2;
  }
  sqlite3_config(SQLITE_CONFIG_GETMALLOC, &memory);
  sqlite3_mem_methods faulty = memory;
  faulty.xMalloc = faulty_malloc;
  faulty.xRealloc = faulty_realloc;
  sqlite3_config(SQLITE_CONFIG_MALLOC, &faulty);
  sqlite3_config(SQLITE_CONFIG_LOOKASIDE, 0, 0); /* so that small allocations can fail too */
  sqlite3_initialize();
  real_vfs = sqlite3_vfs_find(NULL);
  faulty_vfs = *real_vfs;
  faulty_vfs.zName = "faulty";
  faulty_vfs.szOsFile = (int)sizeof(faulty_file) + real_vfs->szOsFile;
  faulty_vfs.xOpen = vfs_open;
  faulty_vfs.xDelete = vfs_delete;
  faulty_vfs.xAccess = vfs_access;
  faulty_vfs.xCurrentTimeInt64 = vfs_time;
  sqlite3_vfs_register(&faulty_vfs, 1);

  const struct {
    const char *name;
    const TTest *test;
  } kinds[] = {{"memory_once", memory_runs_out_once},
               {"memory_for_good", memory_runs_out_for_good},
               {"disk_once", disk_fails_once},
               {"disk_for_good", disk_fails_for_good},
               {"memory_tiny", memory_runs_out_with_a_tiny_cache},
               {"disk_tiny", disk_fails_with_a_tiny_cache},
               {"disk_wal", disk_fails_in_wal},
               {"disk_full", disk_fills_up}};
  Suite *suite = suite_create("faults");
  for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
    TCase *t = tcase_create(kinds[i].name);
    tcase_set_timeout(t, n_step < 151 ? 7200 : 300);
    tcase_add_checked_fixture(t, sql_setup, sql_teardown);
    tcase_add_loop_test(t, kinds[i].test, first, end);
    suite_add_tcase(suite, t);
  }
  return sql_main(suite, argc, argv);
}
