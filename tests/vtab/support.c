/*
 * support.c: see support.h.
 */
#define _XOPEN_SOURCE 700
#include "support.h"

#include <dirent.h>
#include <stdarg.h>
#include <sys/stat.h>
#include <unistd.h>

#ifdef SQLITE_CORE
extern int sqlite3_deltavectors_init(sqlite3 *, char **, const struct sqlite3_api_routines *);
#endif

/* No test here cuts the power (tests/crash and tests/fault do): waiting for the disk would be all they did. */
const sql_profile sql_default = {"default", "PRAGMA synchronous=OFF"};
const sql_profile sql_wal = {"wal", "PRAGMA journal_mode=WAL; PRAGMA synchronous=OFF"};
const sql_profile sql_tiny = {
    "tiny", "PRAGMA synchronous=OFF; PRAGMA page_size=512; PRAGMA cache_size=2; PRAGMA temp_store=MEMORY"};
const sql_profile *sql_profile_now = &sql_default;

/* ---- text -------------------------------------------------------------------------------------------------------- */

typedef struct growing {
  char *z;
  size_t n, capacity;
} growing;

static void add_bytes(growing *t, const char *z, size_t n) {
  if (t->n + n + 1 > t->capacity) {
    t->capacity = (t->n + n + 1) * 2;
    t->z = realloc(t->z, t->capacity);
    ck_assert(t->z != NULL);
  }
  memcpy(t->z + t->n, z, n);
  t->n += n;
  t->z[t->n] = 0;
}

static void add_z(growing *t, const char *z) { add_bytes(t, z, strlen(z)); }

/* ---- files ------------------------------------------------------------------------------------------------------- */

static char directory[256];
static char paths[16][384];
static int n_paths;

void sql_setup(void) {
  const char *base = getenv("TMPDIR");
  snprintf(directory, sizeof directory, "%s/delta_vectors.XXXXXX",
           base && base[0] && strlen(base) < 200 ? base : "/tmp");
  ck_assert_msg(mkdtemp(directory) != NULL, "cannot make %s", directory);
  n_paths = 0;
#ifdef SQLITE_CORE
  sqlite3_auto_extension((void (*)(void))sqlite3_deltavectors_init);
#endif
}

void sql_teardown(void) {
  DIR *d = opendir(directory);
  for (struct dirent *e; d && (e = readdir(d));) {
    char path[640];
    snprintf(path, sizeof path, "%s/%s", directory, e->d_name);
    if (e->d_name[0] != '.') unlink(path);
  }
  if (d) closedir(d);
  rmdir(directory);
#ifdef SQLITE_CORE
  sqlite3_reset_auto_extension();
#endif
  ck_assert_msg(sqlite3_memory_used() == 0, "%lld bytes of SQLite's memory were not given back",
                (long long)sqlite3_memory_used());
}

const char *sql_path(const char *name) {
  ck_assert_int_lt(n_paths, 16);
  char *path = paths[n_paths++];
  snprintf(path, sizeof paths[0], "%s/%s", directory, name);
  return path;
}

bool sql_file_exists(const char *path) { return access(path, F_OK) == 0; }

void sql_copy_file(const char *from, const char *to) {
  char bytes[65536];
  FILE *in = fopen(from, "rb"), *out = fopen(to, "wb");
  ck_assert(in != NULL && out != NULL);
  for (size_t n; (n = fread(bytes, 1, sizeof bytes, in)) > 0;) ck_assert_uint_eq(fwrite(bytes, 1, n, out), n);
  fclose(in);
  ck_assert_int_eq(fclose(out), 0);
}

/* ---- connections ------------------------------------------------------------------------------------------------- */

sqlite3 *sql_open_flags(const char *path, int flags) {
  sqlite3 *db;
  int rc = sqlite3_open_v2(path, &db, flags, NULL);
  ck_assert_msg(rc == SQLITE_OK, "open %s: %d %s", path, rc, sqlite3_errmsg(db));
  sqlite3_extended_result_codes(db, 0);
#ifndef SQLITE_CORE
  char *message = NULL;
  ck_assert_int_eq(sqlite3_enable_load_extension(db, 1), SQLITE_OK);
  rc = sqlite3_load_extension(db, DV_EXTENSION_PATH, NULL, &message);
  ck_assert_msg(rc == SQLITE_OK, "cannot load " DV_EXTENSION_PATH ": %s", message ? message : "");
#endif
  return db;
}

sqlite3 *sql_open(const char *path) {
  sqlite3 *db = sql_open_flags(path, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_URI);
  char *message = NULL;
  int rc = sqlite3_exec(db, sql_profile_now->pragmas, NULL, NULL, &message);
  ck_assert_msg(rc == SQLITE_OK, "%s: %s", sql_profile_now->pragmas, message);
  return db;
}

void sql_close(sqlite3 *db) {
  int rc = sqlite3_close(db);
  if (rc == SQLITE_OK) return;
  growing t = {0};
  for (sqlite3_stmt *s = sqlite3_next_stmt(db, NULL); s; s = sqlite3_next_stmt(db, s)) {
    add_z(&t, "\n  still open: ");
    add_z(&t, sqlite3_sql(s));
  }
  ck_abort_msg("sqlite3_close() = %d%s", rc, t.z ? t.z : "");
}

/* ---- running ----------------------------------------------------------------------------------------------------- */

static char *format_sql(const char *format, va_list args) {
  char *sql = sqlite3_vmprintf(format, args);
  ck_assert(sql != NULL);
  return sql;
}

void sql_run_at(int line, sqlite3 *db, const char *format, ...) {
  va_list args;
  va_start(args, format);
  char *sql = format_sql(format, args), *message = NULL;
  va_end(args);
  int rc = sqlite3_exec(db, sql, NULL, NULL, &message);
  ck_assert_msg(rc == SQLITE_OK, "line %d: %.200s: error %d: %s", line, sql, rc, message ? message : "");
  sqlite3_free(sql);
}

int sql_try(sqlite3 *db, char **message, const char *format, ...) {
  va_list args;
  va_start(args, format);
  char *sql = format_sql(format, args);
  va_end(args);
  int rc = sqlite3_exec(db, sql, NULL, NULL, message);
  sqlite3_free(sql);
  return rc;
}

const char *sql_fails_at(int line, sqlite3 *db, int rc, const char *part, const char *format, ...) {
  static char kept[4096];
  va_list args;
  va_start(args, format);
  char *sql = format_sql(format, args), *message = NULL;
  va_end(args);
  int got = sqlite3_exec(db, sql, NULL, NULL, &message);
  ck_assert_msg(got != SQLITE_OK, "line %d: %.200s: succeeded, expected error %d with '%s'", line, sql, rc, part);
  ck_assert_msg(got == rc || sqlite3_extended_errcode(db) == rc, "line %d: %.200s: error %d, expected %d: %s", line,
                sql, got, rc, message ? message : "");
  ck_assert_msg(message && strstr(message, part), "line %d: %.200s: '%s', expected '%s' in it", line, sql,
                message ? message : "", part);
  snprintf(kept, sizeof kept, "%s", message);
  sqlite3_free(message);
  sqlite3_free(sql);
  return kept;
}

static int add_row(void *p, int n, char **values, char **names) {
  growing *t = p;
  (void)names;
  if (t->n) add_z(t, " ");
  for (int i = 0; i < n; i++) {
    if (i) add_z(t, "|");
    add_z(t, values[i] ? values[i] : "NULL");
  }
  return 0;
}

static const char *rows_of(int line, sqlite3 *db, const char *sql) {
  static growing kept[8];
  static unsigned next;
  growing *t = &kept[next++ % 8];
  char *message = NULL;
  t->n = 0;
  add_bytes(t, "", 0);
  int rc = sqlite3_exec(db, sql, add_row, t, &message);
  ck_assert_msg(rc == SQLITE_OK, "line %d: %.200s: error %d: %s", line, sql, rc, message ? message : "");
  return t->z;
}

const char *sql_rows(sqlite3 *db, const char *format, ...) {
  va_list args;
  va_start(args, format);
  char *sql = format_sql(format, args);
  va_end(args);
  const char *rows = rows_of(0, db, sql);
  sqlite3_free(sql);
  return rows;
}

int64_t sql_integer(sqlite3 *db, const char *format, ...) {
  va_list args;
  va_start(args, format);
  char *sql = format_sql(format, args);
  va_end(args);
  int64_t i = strtoll(rows_of(0, db, sql), NULL, 10);
  sqlite3_free(sql);
  return i;
}

void sql_is_at(int line, sqlite3 *db, const char *expected, const char *format, ...) {
  va_list args;
  va_start(args, format);
  char *sql = format_sql(format, args);
  va_end(args);
  const char *rows = rows_of(line, db, sql);
  ck_assert_msg(strcmp(rows, expected) == 0, "line %d: %.200s: '%s', expected '%s'", line, sql, rows, expected);
  sqlite3_free(sql);
}

sqlite3_stmt *sql_prepare(sqlite3 *db, const char *format, ...) {
  va_list args;
  va_start(args, format);
  char *sql = format_sql(format, args);
  va_end(args);
  sqlite3_stmt *stmt = NULL;
  int rc = sqlite3_prepare_v2(db, sql, -1, &stmt, NULL);
  ck_assert_msg(rc == SQLITE_OK, "%.200s: %s", sql, sqlite3_errmsg(db));
  sqlite3_free(sql);
  return stmt;
}

/* ---- state ------------------------------------------------------------------------------------------------------- */

static void state_part(growing *t, sqlite3 *db, const char *title, const char *format, ...) {
  va_list args;
  va_start(args, format);
  char *sql = format_sql(format, args);
  va_end(args);
  add_z(t, title);
  add_z(t, ": ");
  add_z(t, rows_of(0, db, sql));
  add_z(t, "\n");
  sqlite3_free(sql);
}

/* Name of the column behind `rank` hidden or not: "id" and "vector" unless the table is of the long form. */
static const char *column_of(sqlite3 *db, const char *schema, const char *table, const char *declared,
                             const char *otherwise) {
  const char *name = sql_rows(db, "SELECT name FROM pragma_table_xinfo(%Q, %Q) WHERE name=%Q", table, schema, declared);
  return name[0] ? name : otherwise;
}

char *sql_state(sqlite3 *db, const char *schema, const char *table) {
  growing t = {0};
  char id[64], vector[64];
  snprintf(id, sizeof id, "%s", column_of(db, schema, table, "id", "rowid"));
  snprintf(vector, sizeof vector, "%s", column_of(db, schema, table, "vector", "embedding"));
  state_part(&t, db, "rows", "SELECT rowid, quote(%s), hex(%s), * FROM \"%w\".\"%w\" ORDER BY 1", id, vector, schema,
             table);
  state_part(&t, db, "count", "SELECT count(*) FROM \"%w\".\"%w\"", schema, table);
  /* What a look-up and vector_at() give for each id, and what a search gives for the vector of one of the rows. */
  state_part(
      &t, db, "each",
      "SELECT a.%s, hex(b.%s), hex(vector_at('%q.%q', a.%s)) FROM (SELECT %s FROM \"%w\".\"%w\" ORDER BY rowid) AS a"
      " CROSS JOIN \"%w\".\"%w\" AS b WHERE b.%s=a.%s",
      id, vector, schema, table, id, id, schema, table, schema, table, id, id);
  growing query = {0};
  add_z(&query, sql_rows(db, "SELECT hex(%s) FROM \"%w\".\"%w\" ORDER BY rowid LIMIT 1", vector, schema, table));
  if (query.n) {
    growing scan = {0}, found = {0};
    state_part(&t, db, "nearest", "SELECT %s, distance FROM \"%w\".\"%w\" WHERE %s MATCH X'%s' AND k=5", id, schema,
               table, vector, query.z);
    state_part(&scan, db, "ids", "SELECT CAST(%s AS TEXT) FROM \"%w\".\"%w\" ORDER BY 1", id, schema, table);
    state_part(&found, db, "ids", "SELECT CAST(id AS TEXT) FROM vector_search('%q.%q', X'%s', 1000000) ORDER BY 1",
               schema, table, query.z);
    ck_assert_msg(strcmp(scan.z, found.z) == 0, "a scan and a search differ:\n%.2000s\n%.2000s", scan.z, found.z);
    free(scan.z);
    free(found.z);
  }
  free(query.z);
  state_part(&t, db, "log", "SELECT seq, id, timestamp, operation, hex(delta), metadata FROM delta_log('%q.%q', 0)",
             schema, table);
  return t.z;
}

char *sql_dump(sqlite3 *db, const char *schema, const char *table) {
  static const char *const parts[] = {"log", "row", "head", "code", "graph", "meta"};
  growing t = {0};
  char *state = sql_state(db, schema, table);
  add_z(&t, state);
  free(state);
  for (size_t i = 0; i < sizeof parts / sizeof parts[0]; i++) {
    char columns[1024] = "";
    const char *list =
        sql_rows(db, "SELECT group_concat('quote(\"' || name || '\")', ', ') FROM pragma_table_info('%q_%s', %Q)",
                 table, parts[i], schema);
    snprintf(columns, sizeof columns, "%s", list);
    state_part(&t, db, parts[i], "SELECT %s FROM \"%w\".\"%w_%s\" ORDER BY 1", columns, schema, table, parts[i]);
  }
  return t.z;
}

void sql_sound_at(int line, sqlite3 *db, const char *schema, const char *table) {
  char *message = NULL;
  if (sqlite3_db_readonly(db, schema) == 0) {
    int rc = sql_try(db, &message, "INSERT INTO \"%w\".\"%w\"(\"%w\") VALUES('integrity-check')", schema, table, table);
    ck_assert_msg(rc == SQLITE_OK, "line %d: integrity-check: %d %s", line, rc, message ? message : "");
  }
  sql_is_at(line, db, "ok", "PRAGMA \"%w\".integrity_check", schema);
}

void sql_agrees_at(int line, sqlite3 *db, const char *schema, const char *table) {
  char *here = sql_state(db, schema, table);
  const char *path = sqlite3_db_filename(db, schema);
  ck_assert_msg(path && path[0], "line %d: no file", line);
  sqlite3 *other = sql_open(path);
  char *there = sql_state(other, "main", table);
  ck_assert_msg(strcmp(here, there) == 0, "line %d: two connections differ; this one:\n%.3000s\na new one:\n%.3000s",
                line, here, there);
  sql_sound_at(line, other, "main", table);
  sql_close(other);
  free(here);
  free(there);
}

void sql_create_docs(sqlite3 *db, int dimensions) {
  sql_run(db, "CREATE VIRTUAL TABLE docs USING delta_vectors(dimensions=%d, metric=l2)", dimensions);
}

void sql_insert_many(sqlite3 *db, const char *table, int first, int last) {
  int n = (int)sql_integer(db, "SELECT coalesce((SELECT value FROM \"%w_meta\" WHERE key='dimensions'), 3)", table);
  sqlite3_stmt *stmt = sql_prepare(db, "INSERT INTO \"%w\"(id, vector) VALUES(?1, ?2)", table);
  float *v = malloc((size_t)n * sizeof *v);
  ck_assert(v != NULL);
  for (int i = first; i <= last; i++) {
    char id[16];
    uint32_t x = (uint32_t)i * 2654435761u + 1;
    for (int j = 0; j < n; j++) {
      x = x * 1664525u + 1013904223u;
      v[j] = (float)(int32_t)(x >> 8) / 8388608.0f - 1.0f;
    }
    snprintf(id, sizeof id, "r%d", i);
    sqlite3_bind_text(stmt, 1, id, -1, SQLITE_TRANSIENT);
    sqlite3_bind_blob(stmt, 2, v, n * (int)sizeof *v, SQLITE_TRANSIENT);
    sqlite3_step(stmt);
    ck_assert_msg(sqlite3_reset(stmt) == SQLITE_OK, "INSERT of row %d: %s", i, sqlite3_errmsg(db));
  }
  sqlite3_finalize(stmt);
  free(v);
}

int sql_main(Suite *suite, int argc, char **argv) {
  (void)argc, (void)argv;
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int n_failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return n_failed > 0;
}
