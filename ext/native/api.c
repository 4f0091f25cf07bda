/*
 * api.c: the typed calls. Each is one statement on the SQL surface, kept prepared by the handle.
 *
 * A call goes: begin() forgets the last message and gives the statement with the table bound to ?1; the caller binds the
 * rest and steps; end() resets it. A statement is never left in the middle, so the handle holds no read transaction
 * between calls; cursors, which do, have statements of their own.
 */
#include "native_int.h"

#include <math.h>
#include <stdarg.h>
#include <stdlib.h>

enum {
  STMT_APPLY,
  STMT_VECTOR,
  STMT_VECTOR_AT,
  STMT_SEARCH,
  STMT_ROLLBACK,
  STMT_COMPACT,
  STMT_EXPORT,
  STMT_IMPORT,
  STMT_STATUS,
  STMT_FILTER, /* of the last search with a filter */
  STMT_COUNT
};

static const char *const statements[STMT_FILTER] = {
    [STMT_APPLY] = "SELECT delta_apply_batch(?1, ?2)",
    [STMT_VECTOR] = "SELECT vector_at(?1, ?2)",
    [STMT_VECTOR_AT] = "SELECT vector_at(?1, ?2, ?3)",
    [STMT_SEARCH] = "SELECT id, distance FROM vector_search(?1, ?2, ?3, ?4)",
    [STMT_ROLLBACK] = "SELECT delta_rollback(?1, ?2, ?3)",
    [STMT_COMPACT] = "SELECT delta_compact(?1, iif(?2 IS NULL, '{}', json_object('keep', ?2)))",
    [STMT_EXPORT] = "SELECT delta_export(?1, ?2)",
    [STMT_IMPORT] = "SELECT delta_import(?1, ?2)",
    [STMT_STATUS] = "SELECT delta_status(?1)",
};

struct dvec_db {
  sqlite3 *sqlite;
  bool is_owner;
  int n_cursors;
  char *message; /* NULL: none */
  sqlite3_stmt *stmts[STMT_COUNT];
  char *filter_key; /* what stmts[STMT_FILTER] was made for */
  char *filter_id; /* the column of the id in it */
  dv_buf frames; /* of the call in progress */
  float *borrowed; /* dvec_borrow() of a loaded extension */
};

struct dvec_hits {
  size_t n;
  dvec_hit *rows;
  dv_buf array, text;
};

struct dvec_cursor {
  dvec_db *db;
  sqlite3_stmt *stmt;
  bool is_chain;
  bool is_done;
  int failure; /* for good: SQLite would begin the statement anew */
  dvec_change change;
};

/* ---- codes and messages ------------------------------------------------------------------------------------------ */

const char *dvec_version(void) { return DELTA_VECTORS_VERSION; }

void dvec_free(void *p) { sqlite3_free(p); }

const char *dvec_code_text(int code) {
  switch (code) {
  case DVEC_FULL_QUEUE: return "the queue is full";
  case DVEC_WOULD_BLOCK: return "the queue is full, and waiting would block the loop that empties it";
  case DVEC_CLOSED: return "the stream is closed";
  case DVEC_BEHIND: return "a delete that was not seen has been compacted away";
  case DVEC_CANCELLED: return "the stream was cancelled";
  case DVEC_NOTFOUND: return "there is no such row";
  default: return sqlite3_errstr(code);
  }
}

static void forget_message(dvec_db *db) {
  sqlite3_free(db->message);
  db->message = NULL;
}

static int fail(dvec_db *db, int rc, const char *format, ...) {
  va_list args;
  va_start(args, format);
  forget_message(db);
  db->message = sqlite3_vmprintf(format, args);
  va_end(args);
  return rc;
}

/* db, or what is named, is NULL and must not be. */
static int fail_null(dvec_db *db, const char *function, const char *arguments) {
  return db ? fail(db, DVEC_MISUSE, "delta_vectors: %s: %s must not be NULL", function, arguments) : DVEC_MISUSE;
}

/* A failure that has no message yet gets that of its code: one that neither SQLite nor a check of ours has told of. */
static int explain(dvec_db *db, int rc) {
  if (rc == DVEC_OK || rc == DVEC_NOTFOUND || db->message) return rc;
  return fail(db, rc, "delta_vectors: %s", dvec_code_text(rc));
}

static int fail_sqlite(dvec_db *db, int rc) { return fail(db, rc & 0xff, "%s", sqlite3_errmsg(db->sqlite)); }

static int fail_options(dvec_db *db, const char *name) {
  return fail(db, DVEC_MISUSE, "delta_vectors: %s has a size or fields that this library (%s) does not know", name,
              DELTA_VECTORS_VERSION);
}

const char *dvec_message(const dvec_db *db) {
  if (!db) return "out of memory";
  return db->message ? db->message : "";
}

sqlite3 *dvec_sqlite(dvec_db *db) { return db->sqlite; }

dvec_id dvec_id_text(const char *text) { return (dvec_id){text, -1, 0}; }
dvec_id dvec_id_integer(int64_t integer) { return (dvec_id){NULL, 0, integer}; }

/* ---- open and close ---------------------------------------------------------------------------------------------- */

static int register_extension(dvec_db *db) {
  char *message = NULL;
  int rc = sqlite3_deltavectors_init(db->sqlite, &message, NULL);
  if (rc != SQLITE_OK) (void)fail(db, rc & 0xff, "%s", message ? message : sqlite3_errstr(rc));
  sqlite3_free(message);
  return rc & 0xff;
}

static dvec_db *new_handle(void) {
  dvec_db *db = sqlite3_malloc64(sizeof *db);
  if (!db) return NULL;
  memset(db, 0, sizeof *db);
  dv_buf_init(&db->frames, &dvx_alloc);
  return db;
}

int dvec_attach(sqlite3 *connection, dvec_db **out) {
  if (!out) return DVEC_MISUSE;
  *out = NULL;
  if (!connection) return DVEC_MISUSE;
  dvec_db *db = new_handle();
  if (!db) return DVEC_NOMEM;
  db->sqlite = connection;
  *out = db;
  return register_extension(db);
}

int dvec_open(const char *path, const dvec_open_options *options, dvec_db **out) {
  dvec_open_options o;
  if (!out) return DVEC_MISUSE;
  *out = NULL;
  if (!path) return DVEC_MISUSE;
  dvec_db *db = new_handle();
  if (!db) return DVEC_NOMEM;
  db->is_owner = true;
  *out = db;
  if (!dvn_options_read(&o, sizeof o, options)) return fail_options(db, "dvec_open_options");
  int flags = o.flags ? o.flags : SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE | SQLITE_OPEN_URI;
  int rc = sqlite3_open_v2(path, &db->sqlite, flags, NULL);
  if (rc != SQLITE_OK) {
    return db->sqlite ? fail(db, rc & 0xff, "delta_vectors: cannot open %s: %s", path, sqlite3_errmsg(db->sqlite))
                      : DVEC_NOMEM;
  }
  if (o.busy_timeout_ms >= 0) sqlite3_busy_timeout(db->sqlite, o.busy_timeout_ms ? o.busy_timeout_ms : 5000);
  rc = register_extension(db);
  if (rc == SQLITE_OK && o.sql && sqlite3_exec(db->sqlite, o.sql, NULL, NULL, NULL) != SQLITE_OK) {
    rc = fail_sqlite(db, sqlite3_errcode(db->sqlite));
  }
  return rc;
}

int dvec_close(dvec_db *db) {
  if (!db) return DVEC_OK;
  if (db->n_cursors == 1) return fail(db, DVEC_BUSY, "delta_vectors: a cursor is open: close it first");
  if (db->n_cursors > 1)
    return fail(db, DVEC_BUSY, "delta_vectors: %d cursors are open: close them first", db->n_cursors);
  for (int i = 0; i < STMT_COUNT; i++) {
    (void)sqlite3_finalize(db->stmts[i]);
    db->stmts[i] = NULL;
  }
  if (db->is_owner && sqlite3_close(db->sqlite) != SQLITE_OK) return fail_sqlite(db, DVEC_BUSY);
  dv_buf_free(&db->frames);
  sqlite3_free(db->filter_key);
  sqlite3_free(db->filter_id);
  sqlite3_free(db->borrowed);
  sqlite3_free(db->message);
  sqlite3_free(db);
  return DVEC_OK;
}

/* ---- a call ------------------------------------------------------------------------------------------------------ */

static int begin(dvec_db *db, int which, const char *table, sqlite3_stmt **stmt) {
  forget_message(db);
  if (!db->sqlite) return fail(db, DVEC_MISUSE, "delta_vectors: the database is not open");
  if (!table) return fail(db, DVEC_MISUSE, "delta_vectors: no table is named");
  if (!db->stmts[which]) {
    int rc = sqlite3_prepare_v3(db->sqlite, statements[which], -1, SQLITE_PREPARE_PERSISTENT, &db->stmts[which], NULL);
    if (rc != SQLITE_OK) return fail_sqlite(db, rc);
  }
  *stmt = db->stmts[which];
  return explain(db, sqlite3_bind_text(*stmt, 1, table, -1, SQLITE_STATIC));
}

/* SQLITE_OK with a row, SQLITE_DONE without one. */
static int step(dvec_db *db, sqlite3_stmt *stmt) {
  int rc = sqlite3_step(stmt);
  if (rc == SQLITE_ROW) return SQLITE_OK;
  return rc == SQLITE_DONE ? SQLITE_DONE : fail_sqlite(db, rc);
}

/* The statement's own failure at its end counts too: an autocommit fails there. */
static int end(dvec_db *db, sqlite3_stmt *stmt, int rc) {
  int final = sqlite3_reset(stmt);
  (void)sqlite3_clear_bindings(stmt);
  if (rc == SQLITE_OK && final != SQLITE_OK) rc = fail_sqlite(db, final);
  return explain(db, rc & 0xff);
}

static int bind_id(sqlite3_stmt *stmt, int i, const dvec_id *id, sqlite3_destructor_type lives) {
  if (!id->text) return sqlite3_bind_int64(stmt, i, id->integer);
  if (id->n_text > INT32_MAX) return SQLITE_TOOBIG;
  return sqlite3_bind_text(stmt, i, id->text, id->n_text < 0 ? -1 : (int)id->n_text, lives);
}

static int bind_blob(sqlite3_stmt *stmt, int i, const void *bytes, size_t n) {
  if (n > INT32_MAX) return SQLITE_TOOBIG;
  return n ? sqlite3_bind_blob(stmt, i, bytes, (int)n, SQLITE_STATIC) : sqlite3_bind_zeroblob(stmt, i, 0);
}

/* Runs the statement, which gives one text, to its end, so that an autocommit has happened. The text is the caller's; NULL
 * after an error. */
static int run_text(dvec_db *db, sqlite3_stmt *stmt, int rc, char **text) {
  if (rc == SQLITE_OK) rc = step(db, stmt);
  if (rc == SQLITE_OK) {
    *text = sqlite3_mprintf("%s", sqlite3_column_text(stmt, 0));
    if (!*text) rc = SQLITE_NOMEM;
  }
  if (rc == SQLITE_OK) {
    rc = step(db, stmt);
    if (rc == SQLITE_DONE) rc = SQLITE_OK;
  }
  rc = end(db, stmt, rc);
  if (rc != SQLITE_OK) {
    sqlite3_free(*text);
    *text = NULL;
  }
  return rc;
}

/* ---- tables ------------------------------------------------------------------------------------------------------ */

/* "docs" or "schema.docs" as quoted SQL, as dvx_table_find() reads it: a table whose name has the dot goes before. */
char *dvn_table_quoted(sqlite3 *sqlite, const char *table) {
  sqlite3_stmt *stmt = NULL;
  char *quoted = NULL;
  const char *dot = strchr(table, '.');
  bool is_whole = dot == NULL;
  if (dot && sqlite3_prepare_v2(sqlite, "SELECT 1 FROM pragma_table_list WHERE name = ?1 COLLATE NOCASE", -1, &stmt,
                                NULL) == SQLITE_OK) {
    sqlite3_bind_text(stmt, 1, table, -1, SQLITE_STATIC);
    is_whole = sqlite3_step(stmt) == SQLITE_ROW;
  }
  (void)sqlite3_finalize(stmt);
  quoted = is_whole ? sqlite3_mprintf("\"%w\"", table)
                    : sqlite3_mprintf("\"%.*w\".\"%w\"", (int)(dot - table), table, dot + 1);
  return quoted;
}

int dvec_create_table(dvec_db *db, const char *table, const dvec_table_options *options) {
  dvec_table_options o;
  if (!db) return DVEC_MISUSE;
  forget_message(db);
  if (!db->sqlite || !table) return fail(db, DVEC_MISUSE, "delta_vectors: no database, or no table is named");
  if (!dvn_options_read(&o, sizeof o, options)) return fail_options(db, "dvec_table_options");
  char *quoted = dvn_table_quoted(db->sqlite, table);
  char *columns = o.columns ? sqlite3_mprintf("%s, vector FLOAT[%u]", o.columns, o.dimensions)
                            : sqlite3_mprintf("dimensions=%u", o.dimensions);
  char *sql = quoted && columns ? sqlite3_mprintf("CREATE VIRTUAL TABLE %s%s USING delta_vectors(%s, metric='%q'%s%s)",
                                                  o.if_not_exists ? "IF NOT EXISTS " : "", quoted, columns,
                                                  o.metric ? o.metric : "cosine", o.arguments ? ", " : "",
                                                  o.arguments ? o.arguments : "")
                                : NULL;
  int rc = sql ? sqlite3_exec(db->sqlite, sql, NULL, NULL, NULL) : SQLITE_NOMEM;
  if (rc != SQLITE_OK) rc = fail_sqlite(db, rc);
  sqlite3_free(sql);
  sqlite3_free(columns);
  sqlite3_free(quoted);
  return rc;
}

int dvec_status_json(dvec_db *db, const char *table, char **json) {
  sqlite3_stmt *stmt = NULL;
  if (!db || !json) return fail_null(db, "dvec_status_json", "json");
  char *text = NULL;
  int rc = begin(db, STMT_STATUS, table, &stmt);
  if (rc != SQLITE_OK) return rc;
  rc = run_text(db, stmt, rc, &text);
  if (rc == SQLITE_OK) *json = text;
  return rc;
}

int dvec_dimensions(dvec_db *db, const char *table, size_t *dimensions) {
  char *json = NULL;
  if (!db || !dimensions) return fail_null(db, "dvec_dimensions", "dimensions");
  int rc = dvec_status_json(db, table, &json);
  if (rc == DVEC_OK) *dimensions = (size_t)dvn_json_integer(json, "dimensions");
  sqlite3_free(json);
  return rc;
}

int dvec_status(dvec_db *db, const char *table, dvec_status_result *status, size_t size) {
  char *json = NULL;
  if (!db || !status) return fail_null(db, "dvec_status", "status");
  int rc = dvec_status_json(db, table, &json);
  if (rc != DVEC_OK) return rc;
  dvec_status_result s = {
      .rows = dvn_json_integer(json, "rows"),
      .deltas = dvn_json_integer(json, "deltas"),
      .bytes = dvn_json_integer(json, "bytes"),
      .fresh = dvn_json_integer(json, "fresh"),
      .settled = dvn_json_integer(json, "settled"),
      .memory = dvn_json_integer(json, "memory"),
      .last_seq = dvn_json_integer(json, "last_seq"),
      .purged_seq = dvn_json_integer(json, "purged_seq"),
      .pending = dvn_json_integer(json, "pending"),
      .dimensions = dvn_json_integer(json, "dimensions"),
      .recall_estimate = -1,
  };
  sqlite3_stmt *stmt = NULL; /* a real number, which C would read as the locale has it */
  if (sqlite3_prepare_v2(db->sqlite, "SELECT json_extract(?1, '$.recall_estimate')", -1, &stmt, NULL) == SQLITE_OK &&
      sqlite3_bind_text(stmt, 1, json, -1, SQLITE_STATIC) == SQLITE_OK && sqlite3_step(stmt) == SQLITE_ROW &&
      sqlite3_column_type(stmt, 0) != SQLITE_NULL) {
    s.recall_estimate = sqlite3_column_double(stmt, 0);
  }
  (void)sqlite3_finalize(stmt);
  sqlite3_free(json);
  memset(status, 0, size);
  memcpy(status, &s, size < sizeof s ? size : sizeof s);
  return DVEC_OK;
}

/* ---- deltas ------------------------------------------------------------------------------------------------------ */

int dvec_apply_many(dvec_db *db, const char *table, const dvec_delta *deltas, size_t n, int64_t *first_seq,
                    int64_t *last_seq, size_t *n_good) {
  sqlite3_stmt *stmt = NULL;
  char message[DVN_MESSAGE], *json = NULL;
  size_t good = 0;
  if (n_good) *n_good = 0;
  if (!db || (n && !deltas)) return fail_null(db, "dvec_apply_many", "deltas");
  int rc = begin(db, STMT_APPLY, table, &stmt);
  if (rc != SQLITE_OK) return rc;
  db->frames.n = 0;
  db->frames.status = DV_OK;
  for (const uint8_t *at = (const uint8_t *)deltas; rc == SQLITE_OK && good < n; good++, at += deltas->size) {
    rc = dvn_delta_encode(&db->frames, at, message);
    if (rc != SQLITE_OK) {
      rc = fail(db, rc, "%s", rc == SQLITE_NOMEM ? "out of memory" : message);
      break;
    }
  }
  if (n_good) *n_good = good;
  if (rc == SQLITE_OK) rc = bind_blob(stmt, 2, db->frames.data, db->frames.n);
  rc = run_text(db, stmt, rc, &json);
  if (rc == SQLITE_OK && first_seq) *first_seq = dvn_json_integer(json, "firstSeq");
  if (rc == SQLITE_OK && last_seq) *last_seq = dvn_json_integer(json, "lastSeq");
  sqlite3_free(json);
  return rc;
}

int dvec_apply(dvec_db *db, const char *table, const dvec_delta *delta, int64_t *seq) {
  if (!db || !delta) return fail_null(db, "dvec_apply", "delta");
  return dvec_apply_many(db, table, delta, 1, seq, NULL, NULL);
}

static int get(dvec_db *db, int which, const char *table, const dvec_id *id, int64_t time, float *out,
               size_t dimensions) {
  sqlite3_stmt *stmt = NULL;
  int rc = begin(db, which, table, &stmt);
  if (rc != SQLITE_OK) return rc;
  rc = bind_id(stmt, 2, id, SQLITE_STATIC);
  if (rc == SQLITE_OK && which == STMT_VECTOR_AT) rc = sqlite3_bind_int64(stmt, 3, time);
  if (rc == SQLITE_OK) rc = step(db, stmt);
  if (rc == SQLITE_OK) {
    const void *bytes = sqlite3_column_blob(stmt, 0);
    size_t n = (size_t)sqlite3_column_bytes(stmt, 0);
    if (sqlite3_column_type(stmt, 0) == SQLITE_NULL)
      rc = DVEC_NOTFOUND;
    else if (n != dimensions * sizeof *out)
      rc = fail(db, DVEC_MISUSE, "delta_vectors: table %s has %d dimensions, there is room for %d", table,
                (int)(n / sizeof *out), (int)dimensions);
    else
      memcpy(out, bytes, n);
  }
  return end(db, stmt, rc);
}

int dvec_get(dvec_db *db, const char *table, const dvec_id *id, float *out, size_t dimensions) {
  if (!db || !id || !out) return fail_null(db, "dvec_get", "id and out");
  return get(db, STMT_VECTOR, table, id, 0, out, dimensions);
}

int dvec_get_at(dvec_db *db, const char *table, const dvec_id *id, int64_t time, float *out, size_t dimensions) {
  if (!db || !id || !out) return fail_null(db, "dvec_get_at", "id and out");
  return get(db, STMT_VECTOR_AT, table, id, time, out, dimensions);
}

/* The extension that was loaded into this connection may be another build: its objects are not to be touched. Ours are
 * known by where its kernels are. */
static dvx_conn *own_conn(dvec_db *db) {
  dvx_conn *conn = dvx_direct_conn(db->sqlite);
  return conn && conn->kernels == dv_kernels_get() ? conn : NULL;
}

static int borrow_copy(dvec_db *db, const char *table, const dvec_id *id, const float **vector, size_t *dimensions) {
  size_t n = 0;
  int rc = dvec_dimensions(db, table, &n);
  if (rc != DVEC_OK) return rc;
  float *copy = sqlite3_realloc64(db->borrowed, (n ? n : 1) * sizeof *copy);
  if (!copy) return explain(db, DVEC_NOMEM);
  db->borrowed = copy;
  rc = dvec_get(db, table, id, copy, n);
  if (rc == DVEC_OK) *vector = copy;
  if (rc == DVEC_OK && dimensions) *dimensions = n;
  return rc;
}

int dvec_borrow(dvec_db *db, const char *table, const dvec_id *id, const float **vector, size_t *dimensions) {
  if (!db || !id || !vector) return fail_null(db, "dvec_borrow", "id and vector");
  forget_message(db);
  if (!db->sqlite || !table) return fail(db, DVEC_MISUSE, "delta_vectors: no database, or no table is named");
  dvx_conn *conn = own_conn(db);
  if (!conn) return borrow_copy(db, table, id, vector, dimensions);
  const float *found = NULL;
  size_t n = 0;
  dvx_table *t = NULL;
  dv_value value = {.type = id->text ? DV_TEXT : DV_INTEGER, .integer = id->integer};
  value.bytes = (const uint8_t *)id->text;
  if (id->text) value.n_bytes = id->n_text < 0 ? strlen(id->text) : (size_t)id->n_text;
  /* One read for both: another connection may replace the table. */
  int rc = dvx_table_find_to_read(conn, table, &t);
  if (rc == SQLITE_OK) {
    rc = dvx_direct_vector(conn, table, &value, false, &found);
    n = t->config->dimensions;
    dvx_table_end_read(t);
  }
  if (rc != SQLITE_OK) {
    rc = fail(db, rc & 0xff, "%s", conn->error ? conn->error : sqlite3_errstr(rc));
    sqlite3_free(conn->error);
    conn->error = NULL;
    return rc;
  }
  if (!found) return DVEC_NOTFOUND;
  *vector = found;
  if (dimensions) *dimensions = n;
  return DVEC_OK;
}

int dvec_patch(dvec_db *db, const void *delta, size_t n_delta, float *vector, size_t dimensions) {
  if (!db || !delta || !vector) return fail_null(db, "dvec_patch", "delta and vector");
  forget_message(db);
  dv_reader r = dv_reader_of(delta, n_delta);
  dv_frame frame;
  dv_detail detail = {0};
  if (dv_frame_read(&r, &frame, NULL) != DV_OK || dv_reader_left(&r) || (frame.flags & DV_FRAME_HEADER)) {
    return fail(db, DVEC_ERROR, "delta_vectors: dvec_patch: the bytes are not a delta");
  }
  float *copy = sqlite3_malloc64((dimensions ? dimensions : 1) * sizeof *copy);
  if (!copy) return explain(db, DVEC_NOMEM);
  memcpy(copy, vector, dimensions * sizeof *copy);
  int rc = DVEC_OK;
  if (dv_delta_check(&frame.delta, dimensions, &detail) != DV_OK ||
      dv_delta_apply(&frame.delta, copy, dimensions, &detail) != DV_OK) {
    rc =
        fail(db, DVEC_ERROR, "delta_vectors: dvec_patch: the %s delta does not fit a vector of %d dimensions (at %lld)",
             dv_op_name((int)frame.delta.op), (int)dimensions, (long long)detail.at);
  } else {
    memcpy(vector, copy, dimensions * sizeof *copy);
  }
  sqlite3_free(copy);
  return rc;
}

/* ---- search ------------------------------------------------------------------------------------------------------ */

/* JSON has no word for what is not finite: 9e999 is read as infinite, and null is refused with the option's name. */
static void append_number(sqlite3_str *s, const char *name, double value) {
  sqlite3_str_appendf(s, ",\"%s\":", name);
  if (isfinite(value)) {
    sqlite3_str_appendf(s, "%!.17g", value);
  } else {
    sqlite3_str_appendf(s, isnan(value) ? "null" : value > 0 ? "9e999" : "-9e999");
  }
}

/* The options as SQL takes them. sqlite3's own printf: C's would write a comma where the locale has one. */
static char *search_json(const dvec_search_options *o) {
  sqlite3_str *s = sqlite3_str_new(NULL);
  sqlite3_str_appendf(s, "{\"exact\":%s", o->exact ? "true" : "false");
  if (o->ef) sqlite3_str_appendf(s, ",\"ef\":%d", o->ef);
  if (o->recall_target != 0) append_number(s, "recall_target", o->recall_target);
  if (o->has_max_distance) append_number(s, "max_distance", o->max_distance);
  if (o->has_as_of) sqlite3_str_appendf(s, ",\"as_of\":%lld", (long long)o->as_of);
  sqlite3_str_appendchar(s, 1, '}');
  return sqlite3_str_finish(s);
}

/* The column that holds the ids: it may have any name, or be the rowid. */
static int id_column(dvec_db *db, const char *table, char **id) {
  sqlite3_stmt *stmt = NULL;
  int rc = sqlite3_prepare_v2(db->sqlite, "SELECT delta_status(?1) ->> 'id'", -1, &stmt, NULL);
  if (rc == SQLITE_OK) rc = sqlite3_bind_text(stmt, 1, table, -1, SQLITE_STATIC);
  if (rc == SQLITE_OK && sqlite3_step(stmt) == SQLITE_ROW) {
    const unsigned char *name = sqlite3_column_text(stmt, 0);
    *id = name ? sqlite3_mprintf("\"%w\"", name) : sqlite3_mprintf("rowid");
    if (!*id) rc = SQLITE_NOMEM;
  }
  int end = sqlite3_finalize(stmt);
  if (rc == SQLITE_OK) rc = end;
  return rc == SQLITE_OK || rc == SQLITE_NOMEM ? rc : fail_sqlite(db, rc);
}

static void forget_filter(dvec_db *db) {
  (void)sqlite3_finalize(db->stmts[STMT_FILTER]);
  db->stmts[STMT_FILTER] = NULL;
  sqlite3_free(db->filter_key);
  sqlite3_free(db->filter_id);
  db->filter_key = db->filter_id = NULL;
}

/* Has the table been made anew, with another column for its ids? SQLite prepares the statement again, as it was. */
static bool is_filter_stale(dvec_db *db, const char *table, int rc) {
  bool is_new = sqlite3_stmt_status(db->stmts[STMT_FILTER], SQLITE_STMTSTATUS_REPREPARE, 1) > 0;
  if (rc == SQLITE_OK ? !is_new : rc != SQLITE_ERROR) return false;
  char *id = NULL;
  bool is = id_column(db, table, &id) == SQLITE_OK && strcmp(id, db->filter_id) != 0;
  sqlite3_free(id);
  return is;
}

/* The table itself as a function, so that the filter is pushed into the search. Without k it streams, so a filter that
 * SQLite has to test itself drops no rows from the k. */
static int prepare_filter(dvec_db *db, const char *table, const char *filter, sqlite3_stmt **stmt) {
  forget_message(db);
  if (!db->sqlite || !table) return fail(db, DVEC_MISUSE, "delta_vectors: no database, or no table is named");
  char *key = sqlite3_mprintf("%s %s", table, filter);
  if (key && db->filter_key && strcmp(key, db->filter_key) == 0 && db->stmts[STMT_FILTER]) {
    sqlite3_free(key);
    *stmt = db->stmts[STMT_FILTER];
    return SQLITE_OK;
  }
  forget_filter(db);
  db->filter_key = key;
  char *sql = NULL;
  char *quoted = key ? dvn_table_quoted(db->sqlite, table) : NULL;
  int rc = quoted ? id_column(db, table, &db->filter_id) : SQLITE_NOMEM;
  if (rc == SQLITE_OK) {
    sql = sqlite3_mprintf("SELECT %s, distance FROM %s(?1, ?2) WHERE (%s\n) ORDER BY distance LIMIT ?", db->filter_id,
                          quoted, filter);
    if (!sql) rc = SQLITE_NOMEM;
  }
  if (rc == SQLITE_OK) {
    rc = sqlite3_prepare_v3(db->sqlite, sql, -1, SQLITE_PREPARE_PERSISTENT, &db->stmts[STMT_FILTER], NULL);
    if (rc != SQLITE_OK) rc = fail_sqlite(db, rc);
  }
  sqlite3_free(sql);
  sqlite3_free(quoted);
  *stmt = db->stmts[STMT_FILTER];
  return explain(db, rc);
}

/* The value of the filter's parameter n, counted from 0. */
static int bind_value(dvec_db *db, sqlite3_stmt *stmt, int n, const dvec_value *v) {
  int i = 3 + n;
  switch (v->type) {
  case DVEC_INTEGER: return sqlite3_bind_int64(stmt, i, v->integer);
  case DVEC_REAL: return sqlite3_bind_double(stmt, i, v->real);
  case DVEC_TEXT:
    if (v->n_bytes > INT32_MAX) return SQLITE_TOOBIG;
    return sqlite3_bind_text(stmt, i, v->bytes, v->n_bytes < 0 ? -1 : (int)v->n_bytes, SQLITE_STATIC);
  case DVEC_BLOB:
    if (v->n_bytes >= 0) return bind_blob(stmt, i, v->bytes, (size_t)v->n_bytes);
    return fail(db, DVEC_MISUSE, "delta_vectors: value %d of the filter: a blob of %lld bytes", n,
                (long long)v->n_bytes);
  case DVEC_NULL: return sqlite3_bind_null(stmt, i);
  default:
    return fail(db, DVEC_MISUSE, "delta_vectors: value %d of the filter: type %d: expected DVEC_NULL to DVEC_BLOB", n,
                (int)v->type);
  }
}

/* Ids are collected in one buffer, which moves as it grows: until all are there, a hit's text is its place in it + 1. */
static int add_hit(dvec_hits *hits, sqlite3_stmt *stmt) {
  dvec_hit hit = {{NULL, 0, 0}, sqlite3_column_double(stmt, 1)};
  if (sqlite3_column_type(stmt, 0) == SQLITE_TEXT) {
    const void *text = sqlite3_column_text(stmt, 0);
    hit.id.n_text = sqlite3_column_bytes(stmt, 0);
    hit.id.integer = (int64_t)hits->text.n + 1;
    if (!text) return SQLITE_NOMEM;
    dv_buf_bytes(&hits->text, text, (size_t)hit.id.n_text + 1);
  } else {
    hit.id.n_text = -1; /* an integer */
    hit.id.integer = sqlite3_column_int64(stmt, 0);
  }
  dv_buf_bytes(&hits->array, &hit, sizeof hit);
  return hits->array.status == DV_OK && hits->text.status == DV_OK ? SQLITE_OK : SQLITE_NOMEM;
}

static void settle_hits(dvec_hits *hits) {
  hits->rows = (dvec_hit *)(void *)hits->array.data;
  hits->n = hits->array.n / sizeof(dvec_hit);
  for (size_t i = 0; i < hits->n; i++) {
    dvec_id *id = &hits->rows[i].id;
    if (id->n_text < 0) {
      id->n_text = 0;
    } else {
      id->text = (const char *)hits->text.data + (id->integer - 1);
      id->integer = 0;
    }
  }
}

int dvec_search(dvec_db *db, const char *table, const float *query, size_t dimensions,
                const dvec_search_options *options, dvec_hits **out) {
  dvec_search_options o;
  sqlite3_stmt *stmt = NULL;
  if (!db || !query || !out) return fail_null(db, "dvec_search", "query and hits");
  forget_message(db);
  if (!dvn_options_read(&o, sizeof o, options)) return fail_options(db, "dvec_search_options");
  if (o.n_values && !o.values) return fail_null(db, "dvec_search", "values");
  int64_t k = o.k ? o.k : 10;
  if (k < 0) return fail(db, DVEC_ERROR, "delta_vectors: k is %lld: expected a whole number, 0 or more", (long long)k);
  int rc = o.filter ? prepare_filter(db, table, o.filter, &stmt) : begin(db, STMT_SEARCH, table, &stmt);
  if (rc != SQLITE_OK) return rc;
  char *json = search_json(&o);
  dvec_hits *hits = sqlite3_malloc64(sizeof *hits);
  if (!json || !hits) {
    sqlite3_free(json);
    sqlite3_free(hits);
    return explain(db, DVEC_NOMEM);
  }
  memset(hits, 0, sizeof *hits);
  dv_buf_init(&hits->array, &dvx_alloc);
  dv_buf_init(&hits->text, &dvx_alloc);
  if (o.filter) {
    rc = bind_blob(stmt, 1, query, dimensions * sizeof *query);
    if (rc == SQLITE_OK) rc = sqlite3_bind_text(stmt, 2, json, -1, SQLITE_STATIC);
    int n_values = sqlite3_bind_parameter_count(stmt) - 3; /* the last one is the limit */
    if (rc == SQLITE_OK) rc = sqlite3_bind_int64(stmt, 3 + n_values, k);
    if (rc == SQLITE_OK && (size_t)n_values != o.n_values) {
      rc = fail(db, DVEC_MISUSE, "delta_vectors: the filter has %d parameters, %d values are given", n_values,
                (int)o.n_values);
    }
    for (int i = 0; rc == SQLITE_OK && i < n_values; i++) rc = bind_value(db, stmt, i, &o.values[i]);
  } else {
    rc = bind_blob(stmt, 2, query, dimensions * sizeof *query);
    if (rc == SQLITE_OK) rc = sqlite3_bind_int64(stmt, 3, k);
    if (rc == SQLITE_OK) rc = sqlite3_bind_text(stmt, 4, json, -1, SQLITE_STATIC);
  }
  while (rc == SQLITE_OK) {
    rc = step(db, stmt);
    if (rc == SQLITE_OK) rc = add_hit(hits, stmt);
  }
  rc = end(db, stmt, rc == SQLITE_DONE ? SQLITE_OK : rc);
  sqlite3_free(json);
  if (o.filter && is_filter_stale(db, table, rc)) {
    dvec_hits_free(hits);
    forget_filter(db);
    return dvec_search(db, table, query, dimensions, options, out);
  }
  if (rc != SQLITE_OK) {
    dvec_hits_free(hits);
    return rc;
  }
  settle_hits(hits);
  *out = hits;
  return DVEC_OK;
}

size_t dvec_hits_count(const dvec_hits *hits) { return hits ? hits->n : 0; }

const dvec_hit *dvec_hits_at(const dvec_hits *hits, size_t i) { return hits && i < hits->n ? &hits->rows[i] : NULL; }

void dvec_hits_free(dvec_hits *hits) {
  if (!hits) return;
  dv_buf_free(&hits->array);
  dv_buf_free(&hits->text);
  sqlite3_free(hits);
}

/* ---- history ----------------------------------------------------------------------------------------------------- */

static int32_t operation_of(const char *name) {
  for (int i = DV_OP_CREATE; name && i <= DV_OP_DELETE; i++) {
    if (strcmp(name, dv_op_name(i)) == 0) return i;
  }
  return 0;
}

int dvn_change_read(sqlite3_stmt *stmt, dvec_change *change) {
  memset(change, 0, sizeof *change);
  change->seq = sqlite3_column_int64(stmt, 0);
  change->time = sqlite3_column_int64(stmt, 1);
  change->operation = operation_of((const char *)sqlite3_column_text(stmt, 2));
  change->is_checkpoint = sqlite3_column_int(stmt, 3);
  change->delta = sqlite3_column_blob(stmt, 4);
  change->n_delta = (size_t)sqlite3_column_bytes(stmt, 4);
  change->metadata = (const char *)sqlite3_column_text(stmt, 5);
  change->n_metadata = sqlite3_column_bytes(stmt, 5);
  if (sqlite3_column_type(stmt, 6) == SQLITE_TEXT) {
    change->id.text = (const char *)sqlite3_column_text(stmt, 6);
    change->id.n_text = sqlite3_column_bytes(stmt, 6);
    if (!change->id.text) return SQLITE_NOMEM;
  } else {
    change->id.integer = sqlite3_column_int64(stmt, 6);
  }
  return change->n_delta > 0 && !change->delta ? SQLITE_NOMEM : SQLITE_OK;
}

static int cursor_open(dvec_db *db, const char *sql, const char *table, const dvec_id *id, int64_t since,
                       dvec_cursor **out) {
  forget_message(db);
  if (!db->sqlite || !table) return fail(db, DVEC_MISUSE, "delta_vectors: no database, or no table is named");
  dvec_cursor *c = sqlite3_malloc64(sizeof *c);
  if (!c) return explain(db, DVEC_NOMEM);
  memset(c, 0, sizeof *c);
  c->db = db;
  int rc = sqlite3_prepare_v2(db->sqlite, sql, -1, &c->stmt, NULL);
  if (rc == SQLITE_OK) rc = sqlite3_bind_text(c->stmt, 1, table, -1, SQLITE_TRANSIENT);
  if (rc == SQLITE_OK && id) {
    rc = bind_id(c->stmt, 2, id, SQLITE_TRANSIENT);
  } else if (rc == SQLITE_OK) {
    rc = sqlite3_bind_int64(c->stmt, 2, since);
  }
  if (rc != SQLITE_OK) {
    rc = rc == SQLITE_TOOBIG ? explain(db, rc) : fail_sqlite(db, rc);
    (void)sqlite3_finalize(c->stmt);
    sqlite3_free(c);
    return rc;
  }
  db->n_cursors++;
  *out = c;
  return DVEC_OK;
}

int dvec_chain(dvec_db *db, const char *table, const dvec_id *id, dvec_cursor **cursor) {
  if (!db || !id || !cursor) return fail_null(db, "dvec_chain", "id and cursor");
  return cursor_open(db, "SELECT seq, timestamp, operation, checkpoint, delta, metadata, ?2 FROM delta_chain(?1, ?2)",
                     table, id, 0, cursor);
}

int dvec_log(dvec_db *db, const char *table, int64_t since_seq, dvec_cursor **cursor) {
  if (!db || !cursor) return fail_null(db, "dvec_log", "cursor");
  return cursor_open(db, DVN_LOG_SQL, table, NULL, since_seq, cursor);
}

int dvec_cursor_next(dvec_cursor *c, const dvec_change **change) {
  if (!c || !change) return fail_null(c ? c->db : NULL, "dvec_cursor_next", "change");
  forget_message(c->db);
  if (c->failure) return fail(c->db, c->failure, "delta_vectors: the cursor has failed before: open another");
  int rc = c->is_done ? SQLITE_DONE : step(c->db, c->stmt);
  if (rc == SQLITE_OK) rc = dvn_change_read(c->stmt, &c->change);
  if (rc == SQLITE_OK) {
    *change = &c->change;
    return DVEC_OK;
  }
  (void)sqlite3_reset(c->stmt); /* ends the read transaction */
  if (rc == SQLITE_DONE) {
    c->is_done = true;
    *change = NULL;
    return DVEC_OK;
  }
  c->failure = rc & 0xff;
  return explain(c->db, c->failure);
}

void dvec_cursor_close(dvec_cursor *c) {
  if (!c) return;
  (void)sqlite3_finalize(c->stmt);
  c->db->n_cursors--;
  sqlite3_free(c);
}

int dvec_rollback(dvec_db *db, const char *table, const dvec_id *id, int64_t seq, int64_t *new_seq) {
  sqlite3_stmt *stmt = NULL;
  char *text = NULL;
  if (!db || !id) return fail_null(db, "dvec_rollback", "id");
  int rc = begin(db, STMT_ROLLBACK, table, &stmt);
  if (rc != SQLITE_OK) return rc;
  rc = bind_id(stmt, 2, id, SQLITE_STATIC);
  if (rc == SQLITE_OK) rc = sqlite3_bind_int64(stmt, 3, seq);
  rc = run_text(db, stmt, rc, &text);
  if (text && new_seq) *new_seq = strtoll(text, NULL, 10);
  sqlite3_free(text);
  return rc;
}

/* ---- upkeep and exchange ----------------------------------------------------------------------------------------- */

int dvec_compact(dvec_db *db, const char *table, const char *keep, dvec_compact_result *result, size_t size) {
  sqlite3_stmt *stmt = NULL;
  char *json = NULL;
  if (!db) return DVEC_MISUSE;
  int rc = begin(db, STMT_COMPACT, table, &stmt);
  if (rc != SQLITE_OK) return rc;
  if (keep) rc = sqlite3_bind_text(stmt, 2, keep, -1, SQLITE_STATIC);
  rc = run_text(db, stmt, rc, &json);
  if (rc == SQLITE_OK && result) {
    dvec_compact_result r = {
        .rows = dvn_json_integer(json, "rows"),
        .deltas_before = dvn_json_integer(json, "deltasBefore"),
        .deltas_after = dvn_json_integer(json, "deltasAfter"),
        .bytes_before = dvn_json_integer(json, "bytesBefore"),
        .bytes_after = dvn_json_integer(json, "bytesAfter"),
        .merged = dvn_json_integer(json, "merged"),
        .removed = dvn_json_integer(json, "removed"),
    };
    memset(result, 0, size);
    memcpy(result, &r, size < sizeof r ? size : sizeof r);
  }
  sqlite3_free(json);
  return rc;
}

int dvn_table_command(sqlite3 *sqlite, const char *table, const char *command) {
  char *quoted = dvn_table_quoted(sqlite, table);
  const char *dot = quoted ? strstr(quoted, "\".\"") : NULL; /* the hidden column has the name of the table alone */
  char *sql =
      quoted ? sqlite3_mprintf("INSERT INTO %s(%s) VALUES('%q')", quoted, dot ? dot + 2 : quoted, command) : NULL;
  int rc = sql ? sqlite3_exec(sqlite, sql, NULL, NULL, NULL) : SQLITE_NOMEM;
  sqlite3_free(sql);
  sqlite3_free(quoted);
  return rc;
}

int dvec_optimize(dvec_db *db, const char *table) {
  if (!db) return DVEC_MISUSE;
  forget_message(db);
  if (!db->sqlite || !table) return fail(db, DVEC_MISUSE, "delta_vectors: no database, or no table is named");
  int rc = dvn_table_command(db->sqlite, table, "optimize");
  return rc == SQLITE_OK ? rc : fail_sqlite(db, rc);
}

int dvec_export(dvec_db *db, const char *table, int64_t since_seq, void **bytes, size_t *n_bytes) {
  sqlite3_stmt *stmt = NULL;
  if (!db || !bytes || !n_bytes) return fail_null(db, "dvec_export", "bytes and n_bytes");
  int rc = begin(db, STMT_EXPORT, table, &stmt);
  if (rc != SQLITE_OK) return rc;
  rc = sqlite3_bind_int64(stmt, 2, since_seq);
  if (rc == SQLITE_OK) rc = step(db, stmt);
  if (rc == SQLITE_OK) {
    const void *blob = sqlite3_column_blob(stmt, 0);
    size_t n = (size_t)sqlite3_column_bytes(stmt, 0);
    void *copy = sqlite3_malloc64(n ? n : 1);
    if (!copy || (n && !blob)) {
      sqlite3_free(copy);
      rc = SQLITE_NOMEM;
    } else {
      if (n) memcpy(copy, blob, n);
      *bytes = copy;
      *n_bytes = n;
    }
  }
  return end(db, stmt, rc);
}

int dvec_import(dvec_db *db, const char *table, const void *bytes, size_t n_bytes, int64_t *n_applied,
                int64_t *n_skipped, int64_t *last_seq) {
  sqlite3_stmt *stmt = NULL;
  char *json = NULL;
  if (!db || (n_bytes && !bytes)) return fail_null(db, "dvec_import", "bytes");
  int rc = begin(db, STMT_IMPORT, table, &stmt);
  if (rc != SQLITE_OK) return rc;
  rc = bind_blob(stmt, 2, bytes, n_bytes);
  rc = run_text(db, stmt, rc, &json);
  if (rc == SQLITE_OK && n_applied) *n_applied = dvn_json_integer(json, "applied");
  if (rc == SQLITE_OK && n_skipped) *n_skipped = dvn_json_integer(json, "skipped");
  if (rc == SQLITE_OK && last_seq) *last_seq = dvn_json_integer(json, "lastSeq");
  sqlite3_free(json);
  return rc;
}
