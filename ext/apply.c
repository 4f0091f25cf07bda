/*
 * apply.c: delta_apply(table, id, delta [, timestamp [, metadata patch]]) and delta_apply_batch(table, frames).
 */
#include "ext_int.h"

/* ---- metadata patches -------------------------------------------------------------------------------------------- */

typedef struct apply_patch {
  dvx_table *t;
  const dv_value *id;
  dv_value *fields;
  bool *is_set;
  dv_buf hold; /* bytes of the values: the statement they come from moves on */
} apply_patch;

static int apply_hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  if (c >= 'a' && c <= 'f') return c - 'a' + 10;
  return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* A BLOB in JSON is its hexadecimal digits, as the feed gives it out. Appended to p->hold. */
static int apply_patch_blob(apply_patch *p, int column, sqlite3_value *value) {
  const char *z = (const char *)sqlite3_value_text(value);
  size_t n = z ? (size_t)sqlite3_value_bytes(value) : 0, at = p->hold.n;
  bool is_hex = z && n % 2 == 0;
  for (size_t i = 0; is_hex && i < n; i += 2) {
    int high = apply_hex_digit(z[i]), low = apply_hex_digit(z[i + 1]);
    is_hex = high >= 0 && low >= 0;
    if (is_hex) dv_buf_u8(&p->hold, (uint8_t)(high * 16 + low));
  }
  if (!z || p->hold.status != DV_OK) return SQLITE_NOMEM;
  if (!is_hex) {
    return dvx_fail(p->t->conn, p->t, SQLITE_ERROR, "row %I: column %s is %v, expected a BLOB in hexadecimal or NULL",
                    p->id, p->t->config->columns[column].name, value);
  }
  p->fields[column] = (dv_value){.type = DV_BLOB, .bytes = (const uint8_t *)(uintptr_t)at, .n_bytes = n / 2};
  return SQLITE_OK;
}

static int apply_patch_column(void *ctx, const char *key, sqlite3_value *value) {
  apply_patch *p = ctx;
  const dvx_config *c = p->t->config;
  for (int i = 0; i < c->n_columns; i++) {
    if (sqlite3_stricmp(c->columns[i].name, key) != 0) continue;
    p->is_set[i] = true;
    if (c->columns[i].type == DVX_COLUMN_BLOB && sqlite3_value_type(value) == SQLITE_TEXT) {
      return apply_patch_blob(p, i, value);
    }
    int rc = dvx_write_column(p->t, i, value, p->id, &p->fields[i]);
    if (rc != SQLITE_OK) return rc;
    if (p->fields[i].n_bytes) {
      size_t at = p->hold.n;
      dv_buf_bytes(&p->hold, p->fields[i].bytes, p->fields[i].n_bytes);
      p->fields[i].bytes = (const uint8_t *)(uintptr_t)at;
      if (p->hold.status != DV_OK) return SQLITE_NOMEM;
    }
    return SQLITE_OK;
  }
  return dvx_fail(p->t->conn, p->t, SQLITE_ERROR, "row %I: the table has no column %s", p->id, key);
}

/* Short form: RFC 7396 on the metadata object, by SQLite's json_patch. */
static int apply_patch_json(apply_patch *p, uint32_t vid, bool exists, const char *json, int n_json) {
  dvx_table *t = p->t;
  dv_value current[64] = {{.type = DV_NULL}};
  int rc = exists ? dvx_row_fields(t, vid, current) : SQLITE_OK;
  if (rc != SQLITE_OK) return rc;
  sqlite3_stmt *stmt = NULL;
  rc = sqlite3_prepare_v2(t->conn->db, "SELECT json_patch(coalesce(?1, '{}'), ?2)", -1, &stmt, NULL);
  if (rc != SQLITE_OK) return dvx_fail_sqlite(t->conn, t, rc);
  rc = dvx_bind_value(stmt, 1, &current[0]);
  if (rc == SQLITE_OK) sqlite3_bind_text(stmt, 2, json, n_json, SQLITE_STATIC);
  if (rc == SQLITE_OK && sqlite3_step(stmt) == SQLITE_ROW) {
    dv_value v;
    dvx_column_value(stmt, 0, &v);
    p->fields[0] = v;
    p->is_set[0] = true;
    p->fields[0].bytes = NULL; /* offset 0 */
    dv_buf_bytes(&p->hold, v.bytes, v.n_bytes);
    if (p->hold.status != DV_OK) rc = SQLITE_NOMEM;
  }
  int final = sqlite3_finalize(stmt);
  if (rc == SQLITE_OK && final != SQLITE_OK) rc = dvx_fail_sqlite(t->conn, t, final);
  return rc;
}

/* Turns a JSON patch into fields; ch->fields points into p, which the caller frees with dv_buf_free(&p->hold). */
static int apply_patch_run(apply_patch *p, dvx_change *ch, const char *json, int n_json) {
  dvx_table *t = p->t;
  const dvx_config *c = t->config;
  bool exists = ch->vid && dvx_word_exists(dvx_row_word(t, ch->vid)), is_json5;
  char *what = dvx_format("row %I: the metadata patch", p->id);
  if (!what) return SQLITE_NOMEM;
  int rc;
  if (c->is_short_form) {
    rc = dvx_json_check(t->conn, t, what, json, n_json, &is_json5);
    if (rc == SQLITE_OK) rc = apply_patch_json(p, ch->vid, exists, json, n_json);
  } else {
    rc = dvx_json_each(t->conn, t, what, json, n_json, apply_patch_column, p);
  }
  sqlite3_free(what);
  if (rc != SQLITE_OK) return rc;
  for (int i = 0; i < c->n_columns; i++) {
    if (p->is_set[i] && (p->fields[i].type == DV_TEXT || p->fields[i].type == DV_BLOB)) {
      p->fields[i].bytes = p->hold.data ? p->hold.data + (uintptr_t)p->fields[i].bytes : (const uint8_t *)"";
    }
  }
  ch->fields = p->fields;
  ch->is_set = p->is_set;
  return SQLITE_OK;
}

/* ---- one delta --------------------------------------------------------------------------------------------------- */

typedef struct apply_one {
  dv_value id;
  dv_delta delta;
  bool has_time;
  int64_t time;
  const char *patch; /* NULL: none */
  int n_patch;
  uint64_t seq;
} apply_one;

/* A dense delta that came as a full vector is stored as the smallest encoding against the current one. */
static int apply_append(dvx_table *t, dvx_change *ch, uint64_t *seq) {
  const dvx_config *c = t->config;
  size_t n = c->dimensions;
  bool is_dense = ch->delta.op == DV_OP_DENSE && dv_encoding_is_full((int)ch->delta.encoding);
  if (!is_dense || c->compression == DV_COMPRESSION_OFF || ch->vid == 0 || !dvx_word_exists(dvx_row_word(t, ch->vid)) ||
      dv_delta_apply(&ch->delta, t->apply_vector, n, NULL) != DV_OK) {
    return dvx_append(t, ch, seq); /* which says what is wrong, if anything is */
  }
  const float *from;
  dv_buf payload;
  int rc = dvx_row_vector(t, ch->vid, &from);
  if (rc != SQLITE_OK) return rc;
  dv_buf_init(&payload, &dvx_alloc);
  dv_delta_encode_dense(&payload, &ch->delta, DV_OP_DENSE, from, t->apply_vector, n, c->compression);
  ch->delta.payload = payload.data;
  ch->result = t->apply_vector;
  rc = payload.status == DV_OK ? dvx_append(t, ch, seq) : SQLITE_NOMEM;
  dv_buf_free(&payload);
  return rc;
}

static int apply_run_one(dvx_table *t, void *arg) {
  apply_one *a = arg;
  dvx_change ch = {.id = a->id, .delta = a->delta, .has_time = a->has_time, .time = a->time};
  int rc = dvx_row_find(t, &a->id, &ch.vid);
  if (rc != SQLITE_OK || a->patch == NULL) return rc == SQLITE_OK ? apply_append(t, &ch, &a->seq) : rc;
  dv_value fields[64] = {{.type = DV_NULL}};
  bool is_set[64] = {false};
  apply_patch p = {.t = t, .id = &a->id, .fields = fields, .is_set = is_set};
  dv_buf_init(&p.hold, &dvx_alloc);
  rc = apply_patch_run(&p, &ch, a->patch, a->n_patch);
  if (rc == SQLITE_OK) rc = apply_append(t, &ch, &a->seq);
  dv_buf_free(&p.hold);
  return rc;
}

int dvx_apply_delta(dvx_table *t, const dv_value *id, const dv_delta *delta, uint64_t *seq) {
  apply_one a = {.id = *id, .delta = *delta};
  int rc = dvx_table_write(t, apply_run_one, &a);
  if (rc == SQLITE_OK) *seq = a.seq;
  return rc;
}

static int apply_id(dvx_table *t, sqlite3_value *v, dv_value *id) {
  bool is_id;
  int rc = dvx_history_id(t, v, id, &is_id);
  if (rc == SQLITE_OK && !is_id) {
    rc = dvx_fail(t->conn, t, SQLITE_ERROR, "%v is not an id: expected %s", v,
                  t->config->id_type == DVX_ID_TEXT ? "a text" : "an integer");
  }
  return rc;
}

static int apply_frame_of(dvx_table *t, sqlite3_value *v, const dv_value *id, dv_delta *delta) {
  dv_reader r =
      dv_reader_of(sqlite3_value_blob(v), sqlite3_value_type(v) == SQLITE_BLOB ? (size_t)sqlite3_value_bytes(v) : 0);
  dv_frame frame;
  if (dv_frame_read(&r, &frame, NULL) != DV_OK || dv_reader_left(&r) || (frame.flags & DV_FRAME_HEADER)) {
    return dvx_fail(t->conn, t, SQLITE_ERROR,
                    "row %I: the third argument of delta_apply is %v: expected a delta, such as delta_scale(0.9)", id,
                    v);
  }
  *delta = frame.delta;
  return SQLITE_OK;
}

static void delta_apply(sqlite3_context *ctx, int argc, sqlite3_value **argv) {
  dvx_conn *conn = dvx_context_conn(ctx);
  dvx_table *t;
  apply_one a = {0};
  int rc = dvx_table_find(conn, (const char *)sqlite3_value_text(argv[0]), &t);
  if (rc == SQLITE_OK) rc = apply_id(t, argv[1], &a.id);
  if (rc == SQLITE_OK) rc = apply_frame_of(t, argv[2], &a.id, &a.delta);
  if (rc == SQLITE_OK && argc > 3 && sqlite3_value_type(argv[3]) != SQLITE_NULL) {
    a.has_time = true;
    rc = dvx_time_parse(conn, t, &a.id, argv[3], &a.time);
  }
  if (rc == SQLITE_OK && argc > 4 && sqlite3_value_type(argv[4]) != SQLITE_NULL) {
    a.patch = (const char *)sqlite3_value_text(argv[4]);
    a.n_patch = sqlite3_value_bytes(argv[4]);
    if (!a.patch) rc = SQLITE_NOMEM;
  }
  if (rc == SQLITE_OK) rc = dvx_table_write(t, apply_run_one, &a);
  if (rc != SQLITE_OK) {
    dvx_give_context(conn, ctx, rc);
  } else {
    sqlite3_result_int64(ctx, (sqlite3_int64)a.seq);
  }
}

/* ---- a batch ----------------------------------------------------------------------------------------------------- */

typedef struct apply_batch {
  const uint8_t *bytes;
  size_t n_bytes;
  bool is_sealed;
  dvx_applied applied;
} apply_batch;

static int apply_batch_error(dvx_table *t, uint64_t frame, size_t at, const char *what) {
  return dvx_fail(t->conn, t, SQLITE_ERROR, "frame %u of the batch (at byte %u) %s", frame, (uint64_t)at, what);
}

/* The fields of a frame: a JSON patch under the empty name, or values by column name (an export). */
static int apply_batch_fields(dvx_table *t, const dv_frame *f, apply_patch *p, dvx_change *ch) {
  dv_reader r = dv_reader_of(f->fields, f->n_fields);
  const uint8_t *name;
  size_t n_name;
  dv_value v;
  if (dv_field_next(&r, &name, &n_name, &v) && n_name == 0 && v.type == DV_TEXT && dv_reader_left(&r) == 0) {
    return apply_patch_run(p, ch, (const char *)v.bytes, (int)v.n_bytes);
  }
  int rc = dvx_exchange_fields(t, f, p->fields, p->is_set);
  ch->fields = p->fields;
  ch->is_set = p->is_set;
  return rc;
}

typedef struct apply_frame {
  dv_frame frame;
  dv_status status;
  uint64_t number; /* in the batch, from 1 */
  size_t at; /* byte */
} apply_frame;

/* false at the end of the batch. A frame that cannot be read is the last one. */
static bool apply_batch_next(dvx_table *t, const apply_batch *b, dv_reader *r, apply_frame *f) {
  if (f->status != DV_OK || dv_reader_left(r) == 0) return false;
  f->at = b->n_bytes - dv_reader_left(r);
  f->number++;
  f->status = b->is_sealed ? dv_frame_read(r, &f->frame, NULL) : dv_frame_read_unsealed(r, &f->frame);
  if (f->status == DV_OK && (f->frame.flags & DV_FRAME_ID)) dvx_row_prefetch(t, dvx_ids_find(&t->ids, &f->frame.id));
  return true;
}

static int apply_batch_frame(dvx_table *t, apply_batch *b, const apply_frame *frame) {
  const dv_frame *f = &frame->frame;
  uint64_t number = frame->number;
  size_t at = frame->at;
  if (frame->status == DV_VERSION) return apply_batch_error(t, number, at, "was written by a newer delta_vectors");
  if (frame->status != DV_OK) return apply_batch_error(t, number, at, "is damaged or not a frame");
  if (f->flags & DV_FRAME_HEADER) return SQLITE_OK; /* the head of an export */
  if (!(f->flags & DV_FRAME_ID))
    return apply_batch_error(t, number, at, "names no row: pack it with delta_pack(id, delta)");
  bool is_text = t->config->id_type == DVX_ID_TEXT;
  if (f->id.type != (is_text ? DV_TEXT : DV_INTEGER)) {
    return apply_batch_error(t, number, at,
                             is_text ? "has an id that is not a text" : "has an id that is not an integer");
  }
  dvx_change ch = {.id = f->id, .delta = f->delta, .has_time = (f->flags & DV_FRAME_TIME) != 0, .time = f->time};
  uint64_t seq;
  int rc = dvx_row_find(t, &f->id, &ch.vid);
  bool exists = ch.vid && dvx_word_exists(dvx_row_word(t, ch.vid));
  if ((f->flags & DV_FRAME_MERGED) && ch.delta.op == DV_OP_CREATE && exists) ch.delta.op = DV_OP_DENSE;
  if (rc == SQLITE_OK && (f->flags & DV_FRAME_FIELDS)) {
    dv_value fields[64] = {{.type = DV_NULL}};
    bool is_set[64] = {false};
    apply_patch p = {.t = t, .id = &f->id, .fields = fields, .is_set = is_set};
    dv_buf_init(&p.hold, &dvx_alloc);
    rc = apply_batch_fields(t, f, &p, &ch);
    if (rc == SQLITE_OK) rc = apply_append(t, &ch, &seq);
    dv_buf_free(&p.hold);
  } else if (rc == SQLITE_OK) {
    rc = apply_append(t, &ch, &seq);
  }
  if (rc != SQLITE_OK) return rc;
  if (b->applied.count++ == 0) b->applied.first_seq = seq;
  b->applied.last_seq = seq;
  return SQLITE_OK;
}

/* One frame is read ahead, so that the memory of its row is on the way while the one before is applied. */
static int apply_run_batch(dvx_table *t, void *arg) {
  apply_batch *b = arg;
  dv_reader r = dv_reader_of(b->bytes, b->n_bytes);
  apply_frame next = {.status = DV_OK};
  bool has_next = apply_batch_next(t, b, &r, &next);
  while (has_next) {
    apply_frame now = next;
    has_next = apply_batch_next(t, b, &r, &next);
    int rc = apply_batch_frame(t, b, &now);
    if (rc != SQLITE_OK) return rc;
  }
  return SQLITE_OK;
}

int dvx_apply_frames(dvx_table *t, const uint8_t *bytes, size_t n_bytes, bool is_sealed, dvx_applied *out) {
  apply_batch b = {.bytes = bytes, .n_bytes = n_bytes, .is_sealed = is_sealed};
  int rc = n_bytes ? dvx_table_write(t, apply_run_batch, &b) : SQLITE_OK;
  *out = b.applied;
  return rc;
}

static void delta_apply_batch(sqlite3_context *ctx, int argc, sqlite3_value **argv) {
  dvx_conn *conn = dvx_context_conn(ctx);
  dvx_table *t;
  dvx_applied b = {0};
  (void)argc;
  int rc = dvx_table_find(conn, (const char *)sqlite3_value_text(argv[0]), &t);
  if (rc == SQLITE_OK && sqlite3_value_type(argv[1]) != SQLITE_BLOB) {
    rc = dvx_fail(
        conn, t, SQLITE_ERROR,
        "the second argument of delta_apply_batch is %v: expected a BLOB of frames, made by delta_pack(id, delta)",
        argv[1]);
  }
  if (rc == SQLITE_OK) {
    const uint8_t *bytes = sqlite3_value_blob(argv[1]);
    size_t n_bytes = (size_t)sqlite3_value_bytes(argv[1]);
    rc = n_bytes && !bytes ? SQLITE_NOMEM : dvx_apply_frames(t, bytes, n_bytes, true, &b);
  }
  if (rc != SQLITE_OK) {
    dvx_give_context(conn, ctx, rc);
    return;
  }
  char *json = b.count ? dvx_format("{\"count\":%u,\"firstSeq\":%u,\"lastSeq\":%u}", b.count, b.first_seq, b.last_seq)
                       : dvx_format("{\"count\":0,\"firstSeq\":null,\"lastSeq\":null}");
  if (json) {
    sqlite3_result_text(ctx, json, -1, sqlite3_free);
  } else {
    sqlite3_result_error_nomem(ctx);
  }
}

int dvx_apply_register(dvx_conn *conn) {
  int flags = SQLITE_UTF8 | SQLITE_DIRECTONLY;
  int rc = SQLITE_OK;
  for (int n = 3; rc == SQLITE_OK && n <= 5; n++) rc = dvx_conn_function(conn, "delta_apply", n, flags, delta_apply);
  if (rc == SQLITE_OK) rc = dvx_conn_function(conn, "delta_apply_batch", 2, flags, delta_apply_batch);
  return rc;
}
