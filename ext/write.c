/*
 * write.c: xUpdate: what INSERT, UPDATE and DELETE mean as deltas, and the commands of the hidden column.
 *
 *   INSERT                       a create delta
 *   INSERT OR REPLACE            of a row that exists: a dense delta and all metadata anew
 *   UPDATE … SET vector = v      a dense delta in its smallest exact encoding
 *   UPDATE … SET delta = d       that delta
 *   UPDATE … SET metadata only   a sparse delta that sets no dimension, with the metadata
 *   DELETE                       a delete delta
 *
 * `as_of` as a written column is the time of the delta. Everything is checked before dvx_append, the one door to the
 * overlay; conflicts are found before anything is changed, which is what SQLITE_VTAB_CONSTRAINT_SUPPORT promises.
 */
#include "ext_int.h"

/* ---- values ------------------------------------------------------------------------------------------------------ */

static const char *write_type_name(dvx_column_type type) {
  switch (type) {
  case DVX_COLUMN_INTEGER: return "INTEGER";
  case DVX_COLUMN_REAL: return "REAL";
  case DVX_COLUMN_TEXT: return "TEXT";
  case DVX_COLUMN_BOOLEAN: return "BOOLEAN (0 or 1)";
  case DVX_COLUMN_BLOB: return "BLOB";
  case DVX_COLUMN_JSON: break;
  }
  return "a JSON object";
}

int dvx_write_check_metadata(dvx_table *t, const dv_value *id, const dv_value *v, bool *is_json5) {
  if (v->n_bytes > INT32_MAX) return SQLITE_TOOBIG;
  char *what = dvx_format("row %I: metadata", id);
  if (!what) return SQLITE_NOMEM;
  int rc = dvx_json_check(t->conn, t, what, (const char *)v->bytes, (int)v->n_bytes, is_json5);
  sqlite3_free(what);
  return rc;
}

int dvx_write_column(dvx_table *t, int column, sqlite3_value *v, const dv_value *id, dv_value *out) {
  const dvx_column *c = &t->config->columns[column];
  int rc = dvx_value_of(t->conn, v, out);
  if (rc != SQLITE_OK || out->type == DV_NULL) return rc;
  bool fits = false;
  switch (c->type) {
  case DVX_COLUMN_INTEGER:
  case DVX_COLUMN_BOOLEAN: {
    int type = sqlite3_value_numeric_type(v); /* text that is a number counts as one, as in any INTEGER column */
    double d = sqlite3_value_double(v);
    if (type == SQLITE_INTEGER || (type == SQLITE_FLOAT && d > -9e15 && d < 9e15 && d == (double)(sqlite3_int64)d)) {
      *out = (dv_value){.type = DV_INTEGER, .integer = sqlite3_value_int64(v)};
      fits = c->type == DVX_COLUMN_INTEGER || out->integer == 0 || out->integer == 1;
    }
    break;
  }
  case DVX_COLUMN_REAL: {
    int type = sqlite3_value_numeric_type(v);
    if (type == SQLITE_INTEGER || type == SQLITE_FLOAT) {
      *out = (dv_value){.type = DV_REAL, .real = sqlite3_value_double(v)};
      fits = true;
    }
    break;
  }
  case DVX_COLUMN_TEXT:
    if (out->type == DV_INTEGER || out->type == DV_REAL) {
      const unsigned char *z = sqlite3_value_text(v);
      if (!z) return SQLITE_NOMEM;
      *out = (dv_value){.type = DV_TEXT, .bytes = z, .n_bytes = (size_t)sqlite3_value_bytes(v)};
    }
    fits = out->type == DV_TEXT;
    break;
  case DVX_COLUMN_BLOB: fits = out->type == DV_BLOB; break;
  case DVX_COLUMN_JSON:
    if (out->type == DV_TEXT) {
      bool is_json5;
      rc = dvx_write_check_metadata(t, id, out, &is_json5);
      if (rc == SQLITE_OK && is_json5) {
        rc = dvx_json_of_json5(t->conn, t, (const char *)out->bytes, (int)out->n_bytes, &t->json_bytes);
        *out = (dv_value){.type = DV_TEXT, .bytes = t->json_bytes.data, .n_bytes = t->json_bytes.n};
      }
      if (rc != SQLITE_OK) return rc;
      fits = true;
    }
    break;
  }
  if (fits) return SQLITE_OK;
  return dvx_fail(t->conn, t, SQLITE_ERROR, "row %I: column %s is %v, expected %s or NULL", id, c->name, v,
                  write_type_name(c->type));
}

/* The id of an INSERT: from the id column or the rowid; an integer id that is not given becomes the largest plus
 * one. */
static int write_insert_id(dvx_table *t, sqlite3_value *rowid, sqlite3_value *column, dv_value *id) {
  const dvx_config *c = t->config;
  if (c->id_type == DVX_ID_TEXT) {
    if (sqlite3_value_type(rowid) != SQLITE_NULL) {
      return dvx_fail(t->conn, t, SQLITE_ERROR, "rowid cannot be set: rows are identified by the column %s",
                      c->id_name);
    }
    int type = sqlite3_value_type(column);
    if (type == SQLITE_NULL || type == SQLITE_BLOB) {
      return dvx_fail(t->conn, t, SQLITE_ERROR, "column %s is %v: expected a text that names the row", c->id_name,
                      column);
    }
    const unsigned char *z = sqlite3_value_text(column);
    if (!z) return SQLITE_NOMEM;
    *id = (dv_value){.type = DV_TEXT, .bytes = z, .n_bytes = (size_t)sqlite3_value_bytes(column)};
    return SQLITE_OK;
  }
  bool has_column = column && sqlite3_value_type(column) != SQLITE_NULL;
  bool has_rowid = sqlite3_value_type(rowid) != SQLITE_NULL;
  sqlite3_value *v = has_column ? column : has_rowid ? rowid : NULL;
  if (v == NULL) {
    int64_t largest = 0;
    sqlite3_stmt *stmt = NULL;
    int rc = dvx_shadow_stmt(t, DVX_SQL_ROW_MAX_ID, &stmt);
    if (rc != SQLITE_OK) return rc;
    if (sqlite3_step(stmt) == SQLITE_ROW) largest = sqlite3_column_int64(stmt, 0);
    rc = sqlite3_reset(stmt);
    if (rc != SQLITE_OK) return dvx_fail_sqlite(t->conn, t, rc);
    const dvx_overlay *o = &t->overlay;
    for (uint32_t vid = o->stored_vid + 1; vid <= o->last_vid; vid++) {
      dv_value other;
      if (dvx_ids_value(&t->ids, vid, &other) && other.type == DV_INTEGER && other.integer > largest)
        largest = other.integer;
    }
    if (largest == INT64_MAX) return dvx_fail(t->conn, t, SQLITE_FULL, "the largest possible id is in use: give one");
    *id = (dv_value){.type = DV_INTEGER, .integer = largest < 0 ? 1 : largest + 1};
    return SQLITE_OK;
  }
  double d = sqlite3_value_double(v);
  int type = sqlite3_value_numeric_type(v);
  if (!(type == SQLITE_INTEGER || (type == SQLITE_FLOAT && d > -9e15 && d < 9e15 && d == (double)(sqlite3_int64)d))) {
    return dvx_fail(t->conn, t, SQLITE_ERROR, "column %s is %v: expected an integer", c->id_name ? c->id_name : "rowid",
                    v);
  }
  *id = (dv_value){.type = DV_INTEGER, .integer = sqlite3_value_int64(v)};
  if (has_column && has_rowid && sqlite3_value_int64(rowid) != id->integer) {
    return dvx_fail(t->conn, t, SQLITE_ERROR, "rowid %v and %s %v differ: they are the same thing, give one", rowid,
                    c->id_name, column);
  }
  return SQLITE_OK;
}

static sqlite3_int64 write_rowid(const dvx_table *t, uint32_t vid, const dv_value *id) {
  return t->config->id_type == DVX_ID_TEXT ? (sqlite3_int64)vid : id->integer;
}

/* The delta column: one frame, as the delta_*() functions make it. */
static int write_delta(dvx_table *t, sqlite3_value *v, const dv_value *id, dv_delta *delta) {
  if (sqlite3_value_type(v) != SQLITE_BLOB) {
    return dvx_fail(t->conn, t, SQLITE_ERROR,
                    "row %I: delta is %v: expected what delta_sparse(), delta_scale() and their like return", id, v);
  }
  size_t n = (size_t)sqlite3_value_bytes(v);
  const void *bytes = sqlite3_value_blob(v);
  dv_reader r = dv_reader_of(bytes, n);
  dv_frame frame;
  dv_detail detail;
  if (dv_frame_read(&r, &frame, &detail) != DV_OK || dv_reader_left(&r) || (frame.flags & DV_FRAME_HEADER)) {
    return dvx_fail(t->conn, t, SQLITE_ERROR,
                    "row %I: delta is %v, which is not one delta: use delta_sparse(), delta_scale() and their like", id,
                    v);
  }
  *delta = frame.delta;
  return SQLITE_OK;
}

/* ---- INSERT, UPDATE, DELETE -------------------------------------------------------------------------------------- */

/* Metadata of the row from argv (values of the declared columns). fields and is_set have n_columns entries. */
static int write_fields(dvx_table *t, sqlite3_value **argv, const dv_value *id, bool is_update, dv_value *fields,
                        bool *is_set, bool *any) {
  const dvx_config *c = t->config;
  *any = false;
  for (int i = 0; i < c->n_columns; i++) {
    sqlite3_value *v = argv[c->meta_column[i]];
    is_set[i] = !is_update || !sqlite3_value_nochange(v);
    memset(&fields[i], 0, sizeof fields[i]);
    if (!is_set[i]) continue;
    *any = true;
    int rc = dvx_write_column(t, i, v, id, &fields[i]);
    if (rc != SQLITE_OK) return rc;
  }
  return SQLITE_OK;
}

static int write_time(dvx_table *t, sqlite3_value *v, dvx_change *ch) {
  if (sqlite3_value_nochange(v) || sqlite3_value_type(v) == SQLITE_NULL) return SQLITE_OK;
  ch->has_time = true;
  return dvx_time_parse(t->conn, t, &ch->id, v, &ch->time);
}

static bool write_is_given(sqlite3_value *v) {
  return !sqlite3_value_nochange(v) && sqlite3_value_type(v) != SQLITE_NULL;
}

/* Appends a change whose vector is `to`: created, or dense against the current one. */
static int write_vector(dvx_table *t, dvx_change *ch, const float *to, uint64_t *seq) {
  const float *from = NULL;
  dv_buf payload;
  int rc = SQLITE_OK;
  dv_buf_init(&payload, &dvx_alloc);
  if (ch->delta.op == DV_OP_DENSE) rc = dvx_row_vector(t, ch->vid, &from);
  if (rc == SQLITE_OK) {
    dv_delta_encode_dense(&payload, &ch->delta, ch->delta.op, from, to, t->config->dimensions, t->config->compression);
    if (payload.status != DV_OK) rc = SQLITE_NOMEM;
  }
  ch->delta.payload = payload.data;
  ch->result = to;
  if (rc == SQLITE_OK) rc = dvx_append(t, ch, seq);
  dv_buf_free(&payload);
  return rc;
}

static int write_parse_vector(dvx_table *t, sqlite3_value *v, const dv_value *id, dv_buf *out) {
  size_t n;
  char *what = dvx_format("row %I", id);
  if (!what) return SQLITE_NOMEM;
  int rc = dvx_value_vector(t->conn, t, v, t->config->dimensions, what, out, &n);
  sqlite3_free(what);
  return rc;
}

/* distance and k are what a search gives and takes; written to, they would be forgotten in silence. */
static int write_check_hidden(dvx_table *t, sqlite3_value **columns) {
  const dvx_config *c = t->config;
  if (write_is_given(columns[c->command_column])) { /* of an UPDATE */
    return dvx_fail(t->conn, t, SQLITE_ERROR,
                    "the hidden column %s takes commands by INSERT: INSERT INTO \"%w\"(\"%w\") VALUES(%v)", t->name,
                    t->name, t->name, columns[c->command_column]);
  }
  const char *name = write_is_given(columns[c->distance_column]) ? "distance"
                     : write_is_given(columns[c->k_column])      ? "k"
                                                                 : NULL;
  if (name == NULL) return SQLITE_OK;
  return dvx_fail(t->conn, t, SQLITE_ERROR, "the hidden column %s cannot be written: it belongs to searches", name);
}

static int write_insert(dvx_table *t, sqlite3_value **argv, sqlite3_int64 *rowid) {
  const dvx_config *c = t->config;
  sqlite3_value **columns = argv + 2;
  dvx_change ch = {0};
  dv_value fields[64];
  bool is_set[64], any;
  uint64_t seq;
  int rc = write_check_hidden(t, columns);
  if (rc != SQLITE_OK) return rc;
  rc = write_insert_id(t, argv[1], c->id_column >= 0 ? columns[c->id_column] : NULL, &ch.id);
  if (rc == SQLITE_OK) rc = dvx_row_find(t, &ch.id, &ch.vid);
  if (rc != SQLITE_OK) return rc;
  bool exists = ch.vid && dvx_word_exists(dvx_row_word(t, ch.vid));
  bool is_replace = sqlite3_vtab_on_conflict(t->conn->db) == SQLITE_REPLACE;
  if (exists && !is_replace) {
    return dvx_fail(t->conn, t, SQLITE_CONSTRAINT, "row %I exists already: use INSERT OR REPLACE or UPDATE", &ch.id);
  }
  rc = write_fields(t, columns, &ch.id, false, fields, is_set, &any);
  if (rc == SQLITE_OK) rc = write_time(t, columns[c->as_of_column], &ch);
  if (rc != SQLITE_OK) return rc;
  ch.fields = fields;
  sqlite3_value *vector = columns[c->vector_column], *delta = columns[c->delta_column];
  if (sqlite3_value_type(delta) != SQLITE_NULL) {
    if (sqlite3_value_type(vector) != SQLITE_NULL) {
      return dvx_fail(t->conn, t, SQLITE_ERROR, "row %I: both %s and delta are given: give one", &ch.id,
                      c->vector_name);
    }
    rc = write_delta(t, delta, &ch.id, &ch.delta);
    if (rc == SQLITE_OK && ch.delta.op != DV_OP_CREATE) {
      return dvx_fail(t->conn, t, SQLITE_ERROR, "row %I: INSERT takes a create delta, not %s; UPDATE takes the others",
                      &ch.id, dv_op_name((int)ch.delta.op));
    }
    if (rc == SQLITE_OK && exists) ch.delta.op = DV_OP_DENSE;
    if (rc == SQLITE_OK) rc = dvx_append(t, &ch, &seq);
  } else {
    dv_buf v;
    dv_buf_init(&v, &dvx_alloc);
    rc = write_parse_vector(t, vector, &ch.id, &v);
    ch.delta.op = exists ? DV_OP_DENSE : DV_OP_CREATE;
    if (rc == SQLITE_OK) rc = write_vector(t, &ch, (const float *)(const void *)v.data, &seq);
    dv_buf_free(&v);
  }
  if (rc == SQLITE_OK) *rowid = write_rowid(t, ch.vid ? ch.vid : t->overlay.last_vid, &ch.id);
  return rc;
}

/* The row that SQLite names by its rowid. */
static int write_find_row(dvx_table *t, sqlite3_value *rowid, uint32_t *vid, dv_value *id) {
  sqlite3_int64 n = sqlite3_value_int64(rowid);
  int rc = SQLITE_OK;
  *vid = 0;
  if (t->config->id_type == DVX_ID_TEXT) {
    if (n >= 1 && n <= (sqlite3_int64)dvx_table_last_vid(t)) *vid = (uint32_t)n;
    if (*vid) rc = dvx_row_id(t, *vid, id);
  } else {
    *id = (dv_value){.type = DV_INTEGER, .integer = n};
    rc = dvx_row_find(t, id, vid);
  }
  if (rc == SQLITE_OK && *vid == 0) rc = dvx_fail(t->conn, t, SQLITE_CORRUPT_VTAB, "there is no row with rowid %i", n);
  return rc;
}

static int write_delete(dvx_table *t, sqlite3_value *rowid) {
  dvx_change ch = {0};
  uint64_t seq;
  int rc = write_find_row(t, rowid, &ch.vid, &ch.id);
  if (rc != SQLITE_OK) return rc;
  /* A DELETE that walks the table may come to a row that a trigger has deleted meanwhile. */
  if (!dvx_word_exists(dvx_row_word(t, ch.vid))) return SQLITE_OK;
  ch.delta.op = DV_OP_DELETE;
  ch.delta.encoding = DV_ENC_NONE;
  return dvx_append(t, &ch, &seq);
}

static int write_same_id(dvx_table *t, sqlite3_value **argv, const dv_value *id) {
  const dvx_config *c = t->config;
  dv_value given = {0};
  bool same = true;
  if (sqlite3_value_int64(argv[0]) != sqlite3_value_int64(argv[1])) same = false;
  sqlite3_value *column = c->id_column >= 0 ? argv[2 + c->id_column] : NULL;
  if (same && column && !sqlite3_value_nochange(column)) {
    int rc = dvx_value_of(t->conn, column, &given);
    if (rc != SQLITE_OK) return rc;
    if (id->type == DV_INTEGER) {
      same = given.type == DV_INTEGER && given.integer == id->integer;
    } else {
      same = given.type == DV_TEXT && given.n_bytes == id->n_bytes &&
             (id->n_bytes == 0 || memcmp(given.bytes, id->bytes, id->n_bytes) == 0);
    }
  }
  if (same) return SQLITE_OK;
  return dvx_fail(
      t->conn, t, SQLITE_ERROR,
      "row %I: the id cannot be changed, since the row's history hangs on it: INSERT the new id and DELETE the old",
      id);
}

static int write_update(dvx_table *t, sqlite3_value **argv) {
  const dvx_config *c = t->config;
  sqlite3_value **columns = argv + 2;
  dvx_change ch = {0};
  dv_value fields[64];
  bool is_set[64], any;
  uint64_t seq;
  int rc = write_find_row(t, argv[0], &ch.vid, &ch.id);
  if (rc == SQLITE_OK) rc = write_check_hidden(t, columns);
  if (rc == SQLITE_OK) rc = write_same_id(t, argv, &ch.id);
  if (rc == SQLITE_OK) rc = write_fields(t, columns, &ch.id, true, fields, is_set, &any);
  if (rc == SQLITE_OK) rc = write_time(t, columns[c->as_of_column], &ch);
  if (rc != SQLITE_OK) return rc;
  if (any) {
    ch.fields = fields;
    ch.is_set = is_set;
  }
  sqlite3_value *vector = columns[c->vector_column], *delta = columns[c->delta_column];
  if (write_is_given(delta)) {
    if (!sqlite3_value_nochange(vector)) {
      return dvx_fail(t->conn, t, SQLITE_ERROR, "row %I: both %s and delta are set: set one", &ch.id, c->vector_name);
    }
    rc = write_delta(t, delta, &ch.id, &ch.delta);
    return rc == SQLITE_OK ? dvx_append(t, &ch, &seq) : rc;
  }
  if (!sqlite3_value_nochange(vector)) {
    dv_buf v;
    dv_buf_init(&v, &dvx_alloc);
    rc = write_parse_vector(t, vector, &ch.id, &v);
    ch.delta.op = DV_OP_DENSE;
    if (rc == SQLITE_OK) rc = write_vector(t, &ch, (const float *)(const void *)v.data, &seq);
    dv_buf_free(&v);
    return rc;
  }
  if (!any && ch.has_time) {
    return dvx_fail(t->conn, t, SQLITE_ERROR, "row %I: as_of is the time of a change, and nothing is changed", &ch.id);
  }
  if (!any) return SQLITE_OK; /* UPDATE t SET id = id */
  dv_buf payload;
  dv_buf_init(&payload, &dvx_alloc);
  dv_status status = dv_delta_encode_sparse(&payload, &ch.delta, NULL, NULL, 0, c->dimensions, NULL);
  ch.delta.payload = payload.data;
  rc = status == DV_OK ? dvx_append(t, &ch, &seq) : SQLITE_NOMEM;
  dv_buf_free(&payload);
  return rc;
}

/* ---- commands ---------------------------------------------------------------------------------------------------- */

static int command_integrity(dvx_table *t) {
  char *report = NULL;
  int rc = dvx_table_flush(t);
  if (rc == SQLITE_OK) rc = dvx_integrity_check(t, false, &report);
  if (rc == SQLITE_OK && report) rc = dvx_fail(t->conn, NULL, SQLITE_CORRUPT_VTAB, "%s", report);
  sqlite3_free(report);
  return rc;
}

/* Throws away what is derived and makes it anew from the log. */
static int command_rebuild(dvx_table *t) {
  int rc = dvx_table_flush(t);
  if (rc != SQLITE_OK) return rc;
  t->is_settle_wrong = true;
  t->is_settled_known = false; /* what is stored may be other than what it was */
  t->overlay.is_settled_touched = true;
  dvx_mirror_free(t); /* its codes may be the wrong ones that this is to mend */
  const dvx_checks none = {0};
  rc = dvx_checks_write(t, &none);
  if (rc == SQLITE_OK) rc = dvx_graph_drop(t);
  return rc == SQLITE_OK ? dvx_table_settle(t) : rc;
}

/* 'threads=4': *is_setting is false if the text does not begin with the name of one. */
static int command_set(dvx_table *t, const char *text, bool *is_setting) {
  for (int i = 0; i < DVX_SETTING_N; i++) {
    const dvx_setting_range *range = &dvx_settings[i];
    size_t n_name = strlen(range->name);
    if (sqlite3_strnicmp(text, range->name, (int)n_name) != 0) continue;
    const char *value = dvx_skip_spaces(text + n_name);
    if (*value != '=') continue;
    *is_setting = true;
    value = dvx_skip_spaces(value + 1);
    int64_t n = *value ? 0 : -1;
    for (const char *p = value; *p && n >= 0; p++)
      n = *p < '0' || *p > '9' || n > range->high ? -1 : n * 10 + (*p - '0');
    if (n < range->low || n > range->high) {
      return dvx_fail(t->conn, t, SQLITE_ERROR, "%s=%S: expected a number from %i to %i", range->name, value,
                      strlen(value), range->low, range->high);
    }
    return dvx_table_set(t, (dvx_setting)i, n);
  }
  return SQLITE_OK;
}

static const char *command_column_name(const dvx_config *c, int declared) {
  if (declared == c->id_column) return c->id_name;
  if (declared == c->vector_column) return c->vector_name;
  for (int i = 0; i < c->n_columns; i++) {
    if (declared == c->meta_column[i]) return c->columns[i].name;
  }
  return declared == c->k_column          ? "k"
         : declared == c->distance_column ? "distance"
         : declared == c->as_of_column    ? "as_of"
                                          : "delta";
}

/* A row beside a command would be forgotten in silence. */
static int command_check_alone(dvx_table *t, sqlite3_value **columns) {
  const dvx_config *c = t->config;
  for (int i = 0; i < c->n_declared; i++) {
    if (i == c->command_column || sqlite3_value_type(columns[i]) == SQLITE_NULL) continue;
    return dvx_fail(t->conn, t, SQLITE_ERROR, "a command takes nothing but itself: column %s is given too",
                    command_column_name(c, i));
  }
  return SQLITE_OK;
}

static int write_command(dvx_table *t, sqlite3_value **columns) {
  sqlite3_value *v = columns[t->config->command_column];
  bool is_call;
  int rc = dvx_txn_run_call(t, v, &is_call);
  if (is_call) return rc;
  rc = command_check_alone(t, columns);
  if (rc != SQLITE_OK) return rc;
  const char *text = sqlite3_value_type(v) == SQLITE_TEXT ? (const char *)sqlite3_value_text(v) : "";
  if (!text) return SQLITE_NOMEM;
  if (sqlite3_stricmp(text, "optimize") == 0) {
    rc = dvx_table_flush(t);
    return rc == SQLITE_OK ? dvx_table_settle(t) : rc;
  }
  if (sqlite3_stricmp(text, "rebuild") == 0) return command_rebuild(t);
  if (sqlite3_stricmp(text, "integrity-check") == 0) return command_integrity(t);
  bool is_setting = false;
  rc = command_set(t, text, &is_setting);
  if (is_setting) return rc;
  return dvx_fail(t->conn, t, SQLITE_ERROR,
                  "unknown command %v: expected 'optimize', 'rebuild', 'integrity-check', 'hnsw_ef_search=N', "
                  "'threads=N' or 'memory_limit=N'",
                  v);
}

/* Is it INSERT INTO t(t) VALUES('integrity-check')? */
static bool write_is_check(const dvx_table *t, int argc, sqlite3_value **argv) {
  if (argc == 1 || sqlite3_value_type(argv[0]) != SQLITE_NULL) return false;
  sqlite3_value *command = argv[2 + t->config->command_column];
  const char *text = sqlite3_value_type(command) == SQLITE_TEXT ? (const char *)sqlite3_value_text(command) : NULL;
  return text && sqlite3_stricmp(text, "integrity-check") == 0;
}

int dvx_write_update(dvx_table *t, int argc, sqlite3_value **argv, sqlite3_int64 *rowid) {
  int rc = dvx_table_begin_read(t);
  if ((rc & 0xff) == SQLITE_CORRUPT && write_is_check(t, argc, argv)) {
    sqlite3_free(t->conn->error);
    t->conn->error = NULL;
    return command_integrity(t);
  }
  if (rc != SQLITE_OK) return rc;
  if (!t->overlay.is_open) {
    /* It could not be read when the transaction began, and was mended in it. */
    rc = dvx_fail(t->conn, t, SQLITE_CORRUPT_VTAB, "it was damaged when the transaction began: begin another one");
  } else if (argc == 1) {
    rc = write_delete(t, argv[0]);
  } else if (sqlite3_value_type(argv[0]) != SQLITE_NULL) {
    rc = write_update(t, argv);
  } else if (sqlite3_value_type(argv[2 + t->config->command_column]) != SQLITE_NULL ||
             sqlite3_value_pointer(argv[2 + t->config->command_column], "delta_vectors_call")) {
    rc = write_command(t, argv + 2);
  } else {
    rc = write_insert(t, argv, rowid);
  }
  dvx_table_end_read(t);
  return rc;
}
