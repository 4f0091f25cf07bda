/*
 * shadow.c: owner of the shadow tables' shape and of every SQL statement on them.
 *
 *   CREATE TABLE %_log  (seq INTEGER PRIMARY KEY, pack BLOB);         -- the truth, see log.c
 *   CREATE TABLE %_row  (vid INTEGER PRIMARY KEY, id UNIQUE, c1, c2, …); -- ids, metadata and auxiliary columns
 *   CREATE TABLE %_head (block INTEGER PRIMARY KEY, heads BLOB);      -- derived
 *   CREATE TABLE %_code (block INTEGER PRIMARY KEY, codes BLOB);      -- derived
 *   CREATE TABLE %_graph(block INTEGER PRIMARY KEY, links BLOB);      -- derived, see graph.c
 *   CREATE TABLE %_meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
 *
 * %_row is written in the same xSync as the log records that change it, so it is always current. A deleted row keeps
 * its line: its history still needs the id, and a later INSERT of that id goes on with the same chain.
 *
 * %_head: block b holds rows vid b*head_rows+1 .. (b+1)*head_rows, 8 bytes each: the head word (seq of the row's last
 * record << 16 | deleted << 15 | records since its last key), little-endian. 0: no such row.
 *
 * %_code: block b holds rows vid b*code_rows+1 .., 4 + dimensions bytes each: meta u32 and int8 codes
 * (core/dv_quant.h).
 *
 * Both are right for every row whose head is not behind the position in %_meta 'settled'; later records are found by
 * scanning the log from there. They may be ahead for some rows: applying a record twice does no harm, because a head
 * only moves forward.
 *
 * %_meta keys: format (1), uuid (random, the table's for ever), generation (random, anew when the log is rewritten: it
 * tells every connection that what it knows is void), dimensions, metric, pack_bytes, head_rows, head_bytes, code_rows,
 * code_bytes, graph_rows, graph_bytes, page_bytes, last_seq (a floor for the next seq after a rewrite), settled (120 bytes, see
 * dvx_settled_write), checks (dvx_checks_write), and what commands and imports keep there.
 *
 * Names: one suffix without a second underscore, else SQLite does not see the shadow table and defensive mode does not
 * protect it. All have an INTEGER PRIMARY KEY (or are WITHOUT ROWID), so VACUUM cannot renumber them.
 *
 * Every statement is prepared with SQLITE_PREPARE_NO_VTAB: a crafted file can put a view over our own virtual table in
 * the place of a shadow table, and without the flag the two would call each other until the stack ends.
 */
#include "ext_int.h"

static const char *const shadow_suffixes[] = {"log", "row", "head", "code", "graph", "meta"};
#define SHADOW_N_SUFFIXES (sizeof shadow_suffixes / sizeof shadow_suffixes[0])

bool dvx_shadow_is_suffix(const char *suffix) {
  for (size_t i = 0; i < SHADOW_N_SUFFIXES; i++) {
    if (sqlite3_stricmp(suffix, shadow_suffixes[i]) == 0) return true;
  }
  return false;
}

/* SQLite's b-tree keeps at most page-35 bytes of a cell's payload on a leaf; what is beyond goes to overflow pages of
 * page-4 bytes (file format, 1.6). A payload of exactly page-35 + i*(page-4) bytes leaves no overflow page half empty.
 * The record header takes 4 bytes of it, 5 when the blob is longer than 8185 bytes. */
size_t dvx_shadow_blob_size(size_t page_size, size_t n_pages) {
  size_t payload = page_size - 35 + (n_pages - 1) * (page_size - 4);
  return payload - 4 <= 8185 ? payload - 4 : payload - 5;
}

/* ---- statements -------------------------------------------------------------------------------------------------- */

/* The text of a statement; T(x) stands for the quoted name of the shadow table. */
static void shadow_sql(const dvx_table *t, dvx_sql which, dvx_str *s) {
  const char *db = t->schema, *n = t->name;
  switch (which) {
  case DVX_SQL_PIN: dvx_str_addf(s, "SELECT 1 FROM \"%w\".\"%w_meta\" LIMIT 1", db, n); break;
  case DVX_SQL_STAMP:
    dvx_str_addf(s,
                 "SELECT value, (SELECT max(seq) FROM \"%w\".\"%w_log\"),"
                 " (SELECT pack FROM \"%w\".\"%w_log\" ORDER BY seq DESC LIMIT 1)"
                 " FROM \"%w\".\"%w_meta\" WHERE key='generation'",
                 db, n, db, n, db, n);
    break;
  case DVX_SQL_LOG_AT:
    dvx_str_addf(s, "SELECT seq, pack FROM \"%w\".\"%w_log\" WHERE seq<=?1 ORDER BY seq DESC LIMIT 1", db, n);
    break;
  case DVX_SQL_LOG_NEXT:
    dvx_str_addf(s, "SELECT seq, pack FROM \"%w\".\"%w_log\" WHERE seq>?1 ORDER BY seq LIMIT 1", db, n);
    break;
  case DVX_SQL_LOG_INSERT: dvx_str_addf(s, "INSERT INTO \"%w\".\"%w_log\"(seq, pack) VALUES(?1, ?2)", db, n); break;
  case DVX_SQL_LOG_UPDATE: dvx_str_addf(s, "UPDATE \"%w\".\"%w_log\" SET pack=?2 WHERE seq=?1", db, n); break;
  case DVX_SQL_LOG_DROP_OLD: dvx_str_addf(s, "DELETE FROM \"%w\".\"%w_log\" WHERE seq>0", db, n); break;
  case DVX_SQL_LOG_FLIP: dvx_str_addf(s, "UPDATE \"%w\".\"%w_log\" SET seq=-seq WHERE seq<0", db, n); break;
  case DVX_SQL_LOG_SIZE:
    dvx_str_addf(s, "SELECT count(*), coalesce(sum(length(pack)), 0) FROM \"%w\".\"%w_log\"", db, n);
    break;
  case DVX_SQL_ROW_BY_ID: dvx_str_addf(s, "SELECT vid FROM \"%w\".\"%w_row\" WHERE id=?1", db, n); break;
  case DVX_SQL_ROW_BY_VID:
    dvx_str_addf(s, "SELECT id");
    for (int i = 1; i <= t->config->n_columns; i++) dvx_str_addf(s, ", c%d", i);
    dvx_str_addf(s, " FROM \"%w\".\"%w_row\" WHERE vid=?1", db, n);
    break;
  case DVX_SQL_ROW_INSERT:
    dvx_str_addf(s, "INSERT INTO \"%w\".\"%w_row\" VALUES(?1, ?2", db, n);
    for (int i = 1; i <= t->config->n_columns; i++) dvx_str_addf(s, ", ?%d", i + 2);
    dvx_str_addf(s, ")");
    break;
  case DVX_SQL_ROW_UPDATE:
    dvx_str_addf(s, "UPDATE \"%w\".\"%w_row\" SET ", db, n);
    for (int i = 1; i <= t->config->n_columns; i++) dvx_str_addf(s, i > 1 ? ", c%d=?%d" : "c%d=?%d", i, i + 1);
    dvx_str_addf(s, " WHERE vid=?1");
    break;
  case DVX_SQL_ROW_DELETE: dvx_str_addf(s, "DELETE FROM \"%w\".\"%w_row\" WHERE vid=?1", db, n); break;
  case DVX_SQL_ROW_MAX_ID: dvx_str_addf(s, "SELECT max(id) FROM \"%w\".\"%w_row\"", db, n); break;
  case DVX_SQL_ROW_ALL: dvx_str_addf(s, "SELECT vid, id FROM \"%w\".\"%w_row\" ORDER BY vid", db, n); break;
  case DVX_SQL_HEAD_ALL: dvx_str_addf(s, "SELECT block, heads FROM \"%w\".\"%w_head\" ORDER BY block", db, n); break;
  case DVX_SQL_HEAD_GET: dvx_str_addf(s, "SELECT heads FROM \"%w\".\"%w_head\" WHERE block=?1", db, n); break;
  case DVX_SQL_HEAD_PUT:
    dvx_str_addf(s,
                 "INSERT INTO \"%w\".\"%w_head\"(block, heads) VALUES(?1, ?2)"
                 " ON CONFLICT(block) DO UPDATE SET heads=excluded.heads",
                 db, n);
    break;
  case DVX_SQL_CODE_ALL: dvx_str_addf(s, "SELECT block, codes FROM \"%w\".\"%w_code\" ORDER BY block", db, n); break;
  case DVX_SQL_CODE_RANGE:
    dvx_str_addf(s, "SELECT block, codes FROM \"%w\".\"%w_code\" WHERE block BETWEEN ?1 AND ?2 ORDER BY block", db, n);
    break;
  case DVX_SQL_CODE_GET: dvx_str_addf(s, "SELECT codes FROM \"%w\".\"%w_code\" WHERE block=?1", db, n); break;
  case DVX_SQL_CODE_PUT:
    dvx_str_addf(s,
                 "INSERT INTO \"%w\".\"%w_code\"(block, codes) VALUES(?1, ?2)"
                 " ON CONFLICT(block) DO UPDATE SET codes=excluded.codes",
                 db, n);
    break;
  case DVX_SQL_GRAPH_RANGE:
    dvx_str_addf(s, "SELECT block, links FROM \"%w\".\"%w_graph\" WHERE block BETWEEN ?1 AND ?2 ORDER BY block", db, n);
    break;
  case DVX_SQL_GRAPH_GET: dvx_str_addf(s, "SELECT links FROM \"%w\".\"%w_graph\" WHERE block=?1", db, n); break;
  case DVX_SQL_GRAPH_PUT:
    dvx_str_addf(s,
                 "INSERT INTO \"%w\".\"%w_graph\"(block, links) VALUES(?1, ?2)"
                 " ON CONFLICT(block) DO UPDATE SET links=excluded.links",
                 db, n);
    break;
  case DVX_SQL_META_GET: dvx_str_addf(s, "SELECT value FROM \"%w\".\"%w_meta\" WHERE key=?1", db, n); break;
  case DVX_SQL_META_PUT:
    dvx_str_addf(s,
                 "INSERT INTO \"%w\".\"%w_meta\"(key, value) VALUES(?1, ?2)"
                 " ON CONFLICT(key) DO UPDATE SET value=excluded.value",
                 db, n);
    break;
  case DVX_SQL_DROP_DERIVED_HEAD: dvx_str_addf(s, "DELETE FROM \"%w\".\"%w_head\"", db, n); break;
  case DVX_SQL_DROP_DERIVED_CODE: dvx_str_addf(s, "DELETE FROM \"%w\".\"%w_code\"", db, n); break;
  case DVX_SQL_DROP_DERIVED_GRAPH: dvx_str_addf(s, "DELETE FROM \"%w\".\"%w_graph\"", db, n); break;
  case DVX_SQL_CALL: dvx_str_addf(s, "INSERT INTO \"%w\".\"%w\"(\"%w\") VALUES(?1)", db, n, n); break;
  case DVX_SQL_N: break;
  }
}

int dvx_shadow_stmt(dvx_table *t, dvx_sql which, sqlite3_stmt **out) {
  sqlite3_stmt **slot = &t->stmts[which];
  if (*slot == NULL) {
    dvx_str s = {0};
    shadow_sql(t, which, &s);
    char *sql = dvx_str_take(&s);
    if (!sql) return SQLITE_NOMEM;
    unsigned flags = SQLITE_PREPARE_PERSISTENT | (which == DVX_SQL_CALL ? 0u : (unsigned)SQLITE_PREPARE_NO_VTAB);
    int rc = sqlite3_prepare_v3(t->conn->db, sql, -1, flags, slot, NULL);
    sqlite3_free(sql);
    if (rc != SQLITE_OK) return dvx_fail_sqlite(t->conn, t, rc);
  }
  *out = *slot;
  return SQLITE_OK;
}

int dvx_shadow_run(dvx_table *t, sqlite3_stmt *stmt) {
  int rc = sqlite3_step(stmt);
  int reset = sqlite3_reset(stmt);
  if (rc == SQLITE_DONE || rc == SQLITE_ROW) return SQLITE_OK;
  return dvx_fail_sqlite(t->conn, t, reset != SQLITE_OK ? reset : rc);
}

void dvx_shadow_finalize(dvx_table *t) {
  for (int i = 0; i < DVX_SQL_N; i++) {
    sqlite3_stmt *stmt = t->stmts[i];
    t->stmts[i] = NULL; /* first: the end of the call statement may be the end of an object, which comes here again */
    sqlite3_finalize(stmt);
  }
}

/* ---- %_meta ------------------------------------------------------------------------------------------------------ */

int dvx_meta_get(dvx_table *t, const char *key, int64_t fallback, int64_t *out) {
  sqlite3_stmt *stmt = NULL;
  int rc = dvx_shadow_stmt(t, DVX_SQL_META_GET, &stmt);
  if (rc != SQLITE_OK) return rc;
  sqlite3_bind_text(stmt, 1, key, -1, SQLITE_STATIC);
  rc = sqlite3_step(stmt);
  if (rc == SQLITE_ROW) {
    *out = sqlite3_column_type(stmt, 0) == SQLITE_INTEGER ? sqlite3_column_int64(stmt, 0) : fallback;
  } else if (rc == SQLITE_DONE) {
    *out = fallback;
  }
  int reset = sqlite3_reset(stmt);
  return reset == SQLITE_OK ? SQLITE_OK : dvx_fail_sqlite(t->conn, t, reset);
}

int dvx_meta_put(dvx_table *t, const char *key, int64_t value) {
  sqlite3_stmt *stmt = NULL;
  int rc = dvx_shadow_stmt(t, DVX_SQL_META_PUT, &stmt);
  if (rc != SQLITE_OK) return rc;
  sqlite3_bind_text(stmt, 1, key, -1, SQLITE_STATIC);
  sqlite3_bind_int64(stmt, 2, value);
  return dvx_shadow_run(t, stmt);
}

int dvx_meta_get_blob(dvx_table *t, const char *key, void *out, size_t n, bool *is_there) {
  sqlite3_stmt *stmt = NULL;
  int rc = dvx_shadow_stmt(t, DVX_SQL_META_GET, &stmt);
  if (rc != SQLITE_OK) return rc;
  *is_there = false;
  sqlite3_bind_text(stmt, 1, key, -1, SQLITE_STATIC);
  if (sqlite3_step(stmt) == SQLITE_ROW && sqlite3_column_type(stmt, 0) == SQLITE_BLOB &&
      (size_t)sqlite3_column_bytes(stmt, 0) == n) {
    const void *bytes = sqlite3_column_blob(stmt, 0);
    if (bytes) {
      memcpy(out, bytes, n);
      *is_there = true;
    }
  }
  int reset = sqlite3_reset(stmt);
  return reset == SQLITE_OK ? SQLITE_OK : dvx_fail_sqlite(t->conn, t, reset);
}

int dvx_meta_put_blob(dvx_table *t, const char *key, const void *bytes, size_t n) {
  sqlite3_stmt *stmt = NULL;
  int rc = dvx_shadow_stmt(t, DVX_SQL_META_PUT, &stmt);
  if (rc != SQLITE_OK) return rc;
  sqlite3_bind_text(stmt, 1, key, -1, SQLITE_STATIC);
  sqlite3_bind_blob(stmt, 2, bytes, (int)n, SQLITE_STATIC);
  rc = dvx_shadow_run(t, stmt);
  sqlite3_clear_bindings(stmt);
  return rc;
}

/* ---- creating, dropping, renaming -------------------------------------------------------------------------------- */

static const char *shadow_affinity(dvx_column_type type) {
  switch (type) {
  case DVX_COLUMN_INTEGER:
  case DVX_COLUMN_BOOLEAN: return "INTEGER";
  case DVX_COLUMN_REAL: return "REAL";
  case DVX_COLUMN_TEXT:
  case DVX_COLUMN_JSON: return "TEXT";
  case DVX_COLUMN_BLOB: break;
  }
  return "BLOB";
}

static int shadow_exec(dvx_table *t, dvx_str *s) {
  char *sql = dvx_str_take(s);
  if (!sql) return SQLITE_NOMEM;
  int rc = sqlite3_exec(t->conn->db, sql, NULL, NULL, NULL);
  sqlite3_free(sql);
  return rc == SQLITE_OK ? SQLITE_OK : dvx_fail_sqlite(t->conn, t, rc);
}

/* *out stays what it is if SQLite gives none that is possible. */
static int shadow_page_size(dvx_table *t, size_t *out) {
  char *sql = dvx_format("PRAGMA \"%w\".page_size", t->schema);
  if (!sql) return SQLITE_NOMEM;
  sqlite3_stmt *stmt = NULL;
  int rc = sqlite3_prepare_v2(t->conn->db, sql, -1, &stmt, NULL);
  sqlite3_free(sql);
  if (rc != SQLITE_OK) return dvx_fail_sqlite(t->conn, t, rc);
  int n = sqlite3_step(stmt) == SQLITE_ROW ? sqlite3_column_int(stmt, 0) : 0;
  if (n >= 512 && n <= 65536) *out = (size_t)n;
  rc = sqlite3_finalize(stmt);
  return rc == SQLITE_OK ? SQLITE_OK : dvx_fail_sqlite(t->conn, t, rc);
}

/* Rows of so many bytes a block: the number of pages, up to eight, that wastes the least; a row larger than that gets
 * as many pages as it needs. */
static void shadow_block(size_t page_bytes, size_t row_bytes, size_t *n_rows, size_t *n_bytes) {
  double best = 1e300;
  for (size_t pages = 1; pages <= 8 || best > 1e200; pages++) {
    size_t bytes = dvx_shadow_blob_size(page_bytes, pages);
    size_t rows = bytes / row_bytes;
    if (rows == 0) continue;
    /* Blocks are read and written for the sake of a row or two: a page more is worth it only if it saves more than 6 %
     * of the space. */
    double cost = (double)(pages * page_bytes) / (double)(rows * row_bytes) + 0.06 * (double)pages;
    if (cost < best) {
      best = cost;
      *n_rows = rows;
      *n_bytes = bytes;
    }
  }
}

void dvx_shadow_geometry(dvx_geometry *g, size_t page_bytes, size_t dimensions, size_t hnsw_m) {
  g->page_bytes = page_bytes;
  g->pack_bytes = dvx_shadow_blob_size(page_bytes, page_bytes < 2048 ? 4096 / page_bytes : 2);
  g->head_bytes = dvx_shadow_blob_size(page_bytes, 1);
  g->head_rows = g->head_bytes / 8;
  shadow_block(page_bytes, 4 + dimensions, &g->code_rows, &g->code_bytes);
  shadow_block(page_bytes, 2 * hnsw_m * sizeof(uint32_t) + DV_SKETCH_BYTES, &g->graph_rows, &g->graph_bytes);
}

int dvx_shadow_create(dvx_table *t) {
  const dvx_config *c = t->config;
  dvx_geometry g = {0};
  size_t page_bytes = 4096;
  int rc = shadow_page_size(t, &page_bytes);
  if (rc != SQLITE_OK) return rc;
  dvx_shadow_geometry(&g, page_bytes, c->dimensions, (size_t)c->hnsw_m);

  const char *db = t->schema, *n = t->name;
  dvx_str s = {0};
  dvx_str_addf(&s, "CREATE TABLE \"%w\".\"%w_log\"(seq INTEGER PRIMARY KEY, pack BLOB);", db, n);
  dvx_str_addf(&s, "CREATE TABLE \"%w\".\"%w_row\"(vid INTEGER PRIMARY KEY, id %s UNIQUE", db, n,
               c->id_type == DVX_ID_TEXT ? "TEXT" : "INTEGER");
  for (int i = 0; i < c->n_columns; i++) dvx_str_addf(&s, ", c%d %s", i + 1, shadow_affinity(c->columns[i].type));
  dvx_str_addf(&s, ");CREATE TABLE \"%w\".\"%w_head\"(block INTEGER PRIMARY KEY, heads BLOB);", db, n);
  dvx_str_addf(&s, "CREATE TABLE \"%w\".\"%w_code\"(block INTEGER PRIMARY KEY, codes BLOB);", db, n);
  dvx_str_addf(&s, "CREATE TABLE \"%w\".\"%w_graph\"(block INTEGER PRIMARY KEY, links BLOB);", db, n);
  dvx_str_addf(&s, "CREATE TABLE \"%w\".\"%w_meta\"(key TEXT PRIMARY KEY, value) WITHOUT ROWID;", db, n);
  rc = shadow_exec(t, &s);
  if (rc != SQLITE_OK) return rc;

  int64_t random[2];
  sqlite3_randomness(sizeof random, random);
  const struct {
    const char *key;
    int64_t value;
  } meta[] = {{"format", 1},
              {"uuid", random[0]},
              {"generation", random[1]},
              {"dimensions", (int64_t)c->dimensions},
              {"metric", (int64_t)c->metric},
              {"page_bytes", (int64_t)g.page_bytes},
              {"pack_bytes", (int64_t)g.pack_bytes},
              {"head_rows", (int64_t)g.head_rows},
              {"head_bytes", (int64_t)g.head_bytes},
              {"code_rows", (int64_t)g.code_rows},
              {"code_bytes", (int64_t)g.code_bytes},
              {"graph_rows", (int64_t)g.graph_rows},
              {"graph_bytes", (int64_t)g.graph_bytes},
              {"last_seq", 0}};
  for (size_t i = 0; rc == SQLITE_OK && i < sizeof meta / sizeof meta[0]; i++) {
    rc = dvx_meta_put(t, meta[i].key, meta[i].value);
  }
  const dvx_checks none = {0};
  return rc == SQLITE_OK ? dvx_checks_write(t, &none) : rc;
}

int dvx_shadow_drop(dvx_table *t) {
  dvx_shadow_finalize(t); /* an open statement on a shadow table makes DROP fail with SQLITE_LOCKED */
  dvx_str s = {0};
  for (size_t i = 0; i < SHADOW_N_SUFFIXES; i++) {
    dvx_str_addf(&s, "DROP TABLE IF EXISTS \"%w\".\"%w_%s\";", t->schema, t->name, shadow_suffixes[i]);
  }
  return shadow_exec(t, &s);
}

int dvx_shadow_rename(dvx_table *t, const char *new_name) {
  dvx_shadow_finalize(t);
  dvx_str s = {0};
  for (size_t i = 0; i < SHADOW_N_SUFFIXES; i++) {
    dvx_str_addf(&s, "ALTER TABLE \"%w\".\"%w_%s\" RENAME TO \"%w_%s\";", t->schema, t->name, shadow_suffixes[i],
                 new_name, shadow_suffixes[i]);
  }
  return shadow_exec(t, &s);
}
