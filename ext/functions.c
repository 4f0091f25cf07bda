/*
 * functions.c: SQL functions that need no table: vectors in and out, and deltas as values.
 *
 * A vector is given as JSON text or as a BLOB of little-endian floats, and handed back as such a BLOB, marked with the
 * subtype that sqlite-vec gives its float vectors. A vector_*() function with a NULL vector gives NULL, as SQL
 * functions do; a delta constructor with a NULL is an error, because the NULL would only be found when the delta is
 * applied, far from its cause.
 *
 * A delta BLOB is exactly one frame (core/dv_frame.h) without id, time or seq: what changes, not what of or when. Many
 * of them with their ids make the batch that delta_apply_batch() takes: delta_pack() collects it.
 *
 * Results follow the arithmetic of folding: one IEEE f32 operation an element, and an error where it gives no finite
 * value.
 */
#include "ext_int.h"

#include <limits.h>
#include <math.h>

/* 3.45 wants functions that set a subtype to say so; older ones ignore the flag. */
#ifndef SQLITE_RESULT_SUBTYPE
#define SQLITE_RESULT_SUBTYPE 0x001000000
#endif
#define FN_SUBTYPE_F32 223
#define FN_SUBTYPE_JSON 'J'

#define FN_FLAGS (SQLITE_UTF8 | SQLITE_DETERMINISTIC | SQLITE_INNOCUOUS | SQLITE_RESULT_SUBTYPE)

static void fn_free(void *p) { sqlite3_free(p); }

static bool fn_is_null(sqlite3_value *v) { return sqlite3_value_type(v) == SQLITE_NULL; }

/* ---- arguments and results --------------------------------------------------------------------------------------- */

/* A vector argument, or a result in the making. */
typedef struct fn_vector {
  float *v;
  size_t n;
  dv_buf bytes; /* what v points at */
} fn_vector;

static int fn_read(dvx_conn *conn, sqlite3_value *value, size_t n_expected, const char *what, fn_vector *out) {
  dv_buf_init(&out->bytes, &dvx_alloc);
  out->v = NULL;
  int rc = dvx_value_vector(conn, NULL, value, n_expected, what, &out->bytes, &out->n);
  if (rc == SQLITE_OK) out->v = (float *)(void *)out->bytes.data;
  return rc;
}

static int fn_new(size_t n, fn_vector *out) {
  dv_buf_init(&out->bytes, &dvx_alloc);
  out->n = n;
  out->v = (float *)(void *)dv_buf_extend(&out->bytes, n * sizeof(float));
  return out->v ? SQLITE_OK : SQLITE_NOMEM;
}

/* SQLITE_OK if all of x is finite. */
static int fn_check(dvx_conn *conn, const fn_vector *x, const char *function) {
  dv_detail detail;
  if (dv_vector_check(x->v, x->n, &detail) == DV_OK) return SQLITE_OK;
  return dvx_fail(conn, NULL, SQLITE_ERROR, "%s: value %u of the result does not fit a 32-bit float", function,
                  detail.at);
}

/* x as the result, or the error rc; frees x. */
static void fn_give(sqlite3_context *ctx, dvx_conn *conn, int rc, fn_vector *x) {
  if (rc != SQLITE_OK) {
    dvx_give_context(conn, ctx, rc);
    dv_buf_free(&x->bytes);
    return;
  }
  for (size_t i = 0; i < x->n; i++) { /* from host to stored order */
    float f = x->v[i];
    dv_store_f32(x->bytes.data + 4 * i, f);
  }
  dvx_result_buf(ctx, &x->bytes);
  sqlite3_result_subtype(ctx, FN_SUBTYPE_F32);
}

/* A number that an f32 can hold. */
static int fn_number(dvx_conn *conn, sqlite3_value *value, const char *what, float *out) {
  int type = sqlite3_value_type(value);
  if (type != SQLITE_INTEGER && type != SQLITE_FLOAT) {
    return dvx_fail(conn, NULL, SQLITE_ERROR, "%s is %v: expected a number", what, value);
  }
  double d = sqlite3_value_double(value);
  /* Half a step above the largest float: from there on conversion would give infinity. */
  if (!(d > -3.4028235677973366e38 && d < 3.4028235677973366e38)) {
    return dvx_fail(conn, NULL, SQLITE_ERROR, "%s is %v, too large for a 32-bit float", what, value);
  }
  *out = (float)d;
  return SQLITE_OK;
}

/* ---- vectors ----------------------------------------------------------------------------------------------------- */

/* vector_f32(v): the BLOB form. */
static void fn_vector_f32(sqlite3_context *ctx, int argc, sqlite3_value **argv) {
  dvx_conn *conn = dvx_context_conn(ctx);
  fn_vector x;
  (void)argc;
  if (fn_is_null(argv[0])) return;
  int rc = fn_read(conn, argv[0], 0, "vector_f32()", &x);
  fn_give(ctx, conn, rc, &x);
}

static void fn_add_floats(dvx_str *s, const float *v, size_t n) {
  char digits[24];
  dvx_str_add(s, "[", 1);
  for (size_t i = 0; i < n; i++) {
    if (i > 0) dvx_str_add(s, ",", 1);
    dvx_str_add(s, digits, dv_float_print(digits, v[i]));
  }
  dvx_str_add(s, "]", 1);
}

/* vector_json(v): the JSON form, each number with the fewest digits that read back as the same float. */
static void fn_vector_json(sqlite3_context *ctx, int argc, sqlite3_value **argv) {
  dvx_conn *conn = dvx_context_conn(ctx);
  fn_vector x;
  dvx_str s = {0};
  (void)argc;
  if (fn_is_null(argv[0])) return;
  int rc = fn_read(conn, argv[0], 0, "vector_json()", &x);
  if (rc == SQLITE_OK) {
    fn_add_floats(&s, x.v, x.n);
    dvx_result_text(ctx, &s);
    sqlite3_result_subtype(ctx, FN_SUBTYPE_JSON);
  } else {
    dvx_give_context(conn, ctx, rc);
  }
  dv_buf_free(&x.bytes);
}

/* vector_length(v): number of dimensions. */
static void fn_vector_length(sqlite3_context *ctx, int argc, sqlite3_value **argv) {
  dvx_conn *conn = dvx_context_conn(ctx);
  fn_vector x;
  (void)argc;
  if (fn_is_null(argv[0])) return;
  int rc = fn_read(conn, argv[0], 0, "vector_length()", &x);
  if (rc == SQLITE_OK)
    sqlite3_result_int64(ctx, (sqlite3_int64)x.n);
  else
    dvx_give_context(conn, ctx, rc);
  dv_buf_free(&x.bytes);
}

/* What a JSON text was parsed to: SQLite keeps it with the statement as long as the argument is a constant, so that
 * `ORDER BY vector_distance(v, '[...]')` reads its text once and not once a row. */
typedef struct fn_parsed {
  size_t n;
  float v[];
} fn_parsed;

static int fn_read_constant(sqlite3_context *ctx, int i, sqlite3_value *value, size_t n_expected, const char *what,
                            fn_vector *out) {
  bool is_text = sqlite3_value_type(value) == SQLITE_TEXT;
  fn_parsed *parsed = is_text ? sqlite3_get_auxdata(ctx, i) : NULL;
  if (parsed && (n_expected == 0 || parsed->n == n_expected)) {
    dv_buf_init(&out->bytes, &dvx_alloc);
    out->v = parsed->v;
    out->n = parsed->n;
    return SQLITE_OK;
  }
  int rc = fn_read(dvx_context_conn(ctx), value, n_expected, what, out);
  if (rc != SQLITE_OK || !is_text) return rc;
  parsed = sqlite3_malloc64(sizeof *parsed + out->n * sizeof(float));
  if (parsed) { /* without memory for it the text is parsed again */
    parsed->n = out->n;
    memcpy(parsed->v, out->v, out->n * sizeof(float));
    sqlite3_set_auxdata(ctx, i, parsed, fn_free); /* may free it at once */
  }
  return SQLITE_OK;
}

/* vector_distance(a, b [, metric]): smaller is nearer; cosine unless said otherwise. */
static void fn_vector_distance(sqlite3_context *ctx, int argc, sqlite3_value **argv) {
  dvx_conn *conn = dvx_context_conn(ctx);
  fn_vector a, b;
  dv_metric metric = DV_COSINE;
  int rc = SQLITE_OK;
  if (fn_is_null(argv[0]) || fn_is_null(argv[1])) return;
  if (argc > 2) {
    const char *name = (const char *)sqlite3_value_text(argv[2]);
    if (!name || !dv_metric_parse(name, (size_t)sqlite3_value_bytes(argv[2]), &metric)) {
      rc = dvx_fail(conn, NULL, SQLITE_ERROR, "vector_distance(): metric is %v: expected 'l2', 'cosine', 'ip' or 'l1'",
                    argv[2]);
      dvx_give_context(conn, ctx, rc);
      return;
    }
  }
  dv_buf_init(&b.bytes, &dvx_alloc);
  rc = fn_read_constant(ctx, 0, argv[0], 0, "vector_distance(): argument 1", &a);
  if (rc == SQLITE_OK) rc = fn_read_constant(ctx, 1, argv[1], a.n, "vector_distance(): argument 2", &b);
  if (rc == SQLITE_OK)
    sqlite3_result_double(ctx, dv_distance(conn->kernels, metric, a.v, b.v, a.n));
  else
    dvx_give_context(conn, ctx, rc);
  dv_buf_free(&a.bytes);
  dv_buf_free(&b.bytes);
}

/* vector_normalize(v): v / |v|. A zero vector has no direction and stays as it is. */
static void fn_vector_normalize(sqlite3_context *ctx, int argc, sqlite3_value **argv) {
  dvx_conn *conn = dvx_context_conn(ctx);
  fn_vector x;
  (void)argc;
  if (fn_is_null(argv[0])) return;
  int rc = fn_read(conn, argv[0], 0, "vector_normalize()", &x);
  if (rc == SQLITE_OK) {
    double sum = 0; /* in double no square of a float overflows or vanishes */
    for (size_t i = 0; i < x.n; i++) sum += (double)x.v[i] * (double)x.v[i];
    double norm = sqrt(sum);
    for (size_t i = 0; i < x.n && norm > 0; i++) x.v[i] = (float)((double)x.v[i] / norm);
  }
  fn_give(ctx, conn, rc, &x);
}

/* vector_add(a, b), vector_sub(a, b). */
static void fn_combine(sqlite3_context *ctx, sqlite3_value **argv, const char *const names[3], float sign) {
  dvx_conn *conn = dvx_context_conn(ctx);
  fn_vector a, b;
  if (fn_is_null(argv[0]) || fn_is_null(argv[1])) return;
  dv_buf_init(&b.bytes, &dvx_alloc);
  int rc = fn_read(conn, argv[0], 0, names[1], &a);
  if (rc == SQLITE_OK) rc = fn_read(conn, argv[1], a.n, names[2], &b);
  if (rc == SQLITE_OK) {
    for (size_t i = 0; i < a.n; i++) a.v[i] += sign * b.v[i]; /* exact product: the sign flips */
    rc = fn_check(conn, &a, names[0]);
  }
  dv_buf_free(&b.bytes);
  fn_give(ctx, conn, rc, &a);
}

static void fn_vector_add(sqlite3_context *ctx, int argc, sqlite3_value **argv) {
  static const char *const names[] = {"vector_add()", "vector_add(): argument 1", "vector_add(): argument 2"};
  (void)argc;
  fn_combine(ctx, argv, names, 1.0f);
}

static void fn_vector_sub(sqlite3_context *ctx, int argc, sqlite3_value **argv) {
  static const char *const names[] = {"vector_sub()", "vector_sub(): argument 1", "vector_sub(): argument 2"};
  (void)argc;
  fn_combine(ctx, argv, names, -1.0f);
}

/* vector_scale(v, factor): what folding delta_scale(factor) into v gives, bit for bit. */
static void fn_vector_scale(sqlite3_context *ctx, int argc, sqlite3_value **argv) {
  dvx_conn *conn = dvx_context_conn(ctx);
  fn_vector x;
  float factor = 1;
  (void)argc;
  if (fn_is_null(argv[0]) || fn_is_null(argv[1])) return;
  int rc = fn_read(conn, argv[0], 0, "vector_scale()", &x);
  if (rc == SQLITE_OK) rc = fn_number(conn, argv[1], "vector_scale(): factor", &factor);
  if (rc == SQLITE_OK) {
    for (size_t i = 0; i < x.n; i++) x.v[i] *= factor;
    rc = fn_check(conn, &x, "vector_scale()");
  }
  fn_give(ctx, conn, rc, &x);
}

/* vector_slice(v, start, end): dimensions start .. end-1. */
static void fn_vector_slice(sqlite3_context *ctx, int argc, sqlite3_value **argv) {
  dvx_conn *conn = dvx_context_conn(ctx);
  fn_vector x;
  (void)argc;
  if (fn_is_null(argv[0]) || fn_is_null(argv[1]) || fn_is_null(argv[2])) return;
  int rc = fn_read(conn, argv[0], 0, "vector_slice()", &x);
  if (rc == SQLITE_OK) {
    sqlite3_int64 start = sqlite3_value_int64(argv[1]), end = sqlite3_value_int64(argv[2]);
    if (sqlite3_value_type(argv[1]) != SQLITE_INTEGER || sqlite3_value_type(argv[2]) != SQLITE_INTEGER || start < 0 ||
        start >= end || end > (sqlite3_int64)x.n) {
      rc = dvx_fail(conn, NULL, SQLITE_ERROR,
                    "vector_slice(): start is %v and end is %v: expected integers with 0 <= start < end <= %u", argv[1],
                    argv[2], (uint64_t)x.n);
    } else {
      x.n = (size_t)(end - start);
      memmove(x.v, x.v + start, x.n * sizeof(float));
      x.bytes.n = x.n * sizeof(float);
    }
  }
  fn_give(ctx, conn, rc, &x);
}

/* vector_int8(codes, scale): signed bytes times a scale, as models that quantise their embeddings deliver them. */
static void fn_vector_int8(sqlite3_context *ctx, int argc, sqlite3_value **argv) {
  dvx_conn *conn = dvx_context_conn(ctx);
  fn_vector x;
  float scale = 1;
  (void)argc;
  if (fn_is_null(argv[0]) || fn_is_null(argv[1])) return;
  dv_buf_init(&x.bytes, &dvx_alloc);
  int n = sqlite3_value_type(argv[0]) == SQLITE_BLOB ? sqlite3_value_bytes(argv[0]) : 0;
  int rc = SQLITE_OK;
  if (n < 1 || n > (int)DV_MAX_DIMENSIONS) {
    rc = dvx_fail(conn, NULL, SQLITE_ERROR, "vector_int8(): codes is %v: expected a BLOB of 1 to %u signed bytes",
                  argv[0], (uint64_t)DV_MAX_DIMENSIONS);
  }
  if (rc == SQLITE_OK) rc = fn_number(conn, argv[1], "vector_int8(): scale", &scale);
  if (rc == SQLITE_OK) rc = fn_new((size_t)n, &x);
  const uint8_t *codes = rc == SQLITE_OK ? sqlite3_value_blob(argv[0]) : NULL;
  if (rc == SQLITE_OK && !codes) rc = SQLITE_NOMEM;
  if (rc == SQLITE_OK) {
    for (size_t i = 0; i < x.n; i++) x.v[i] = (float)(codes[i] < 128 ? codes[i] : codes[i] - 256) * scale;
    rc = fn_check(conn, &x, "vector_int8()");
  }
  fn_give(ctx, conn, rc, &x);
}

/* ---- vector_each(v): one row a dimension, as json_each gives them ------------------------------------------------ */

enum { EACH_KEY, EACH_VALUE, EACH_VECTOR };

typedef struct each_table {
  sqlite3_vtab base;
  dvx_conn *conn;
} each_table;

typedef struct each_cursor {
  sqlite3_vtab_cursor base;
  fn_vector x;
  size_t i;
} each_cursor;

static int each_connect(sqlite3 *db, void *aux, int argc, const char *const *argv, sqlite3_vtab **out, char **message) {
  dvx_conn *conn = aux;
  (void)argc;
  (void)argv;
  (void)message;
  int rc = dvx_declare(db, "CREATE TABLE x(key INTEGER, value REAL, vector HIDDEN)");
  if (rc != SQLITE_OK) return rc;
  each_table *t = sqlite3_malloc64(sizeof *t);
  if (!t) return SQLITE_NOMEM;
  memset(t, 0, sizeof *t);
  t->conn = conn;
  (void)dvx_vtab_config(db, SQLITE_VTAB_INNOCUOUS, 0);
  conn->has_sentinel = true;
  *out = &t->base;
  return SQLITE_OK;
}

static int each_disconnect(sqlite3_vtab *vtab) {
  each_table *t = (each_table *)vtab;
  dvx_conn_finalize(t->conn); /* see extension.c: the sentinel */
  sqlite3_free(t);
  return SQLITE_OK;
}

/* idxNum 1: the vector is given. Without it there are no rows. */
static int each_best_index(sqlite3_vtab *vtab, sqlite3_index_info *info) {
  (void)vtab;
  info->estimatedCost = 1;
  info->estimatedRows = 0;
  for (int i = 0; i < info->nConstraint; i++) {
    if (info->aConstraint[i].iColumn != EACH_VECTOR || info->aConstraint[i].op != SQLITE_INDEX_CONSTRAINT_EQ) continue;
    if (!info->aConstraint[i].usable) return SQLITE_CONSTRAINT;
    info->aConstraintUsage[i].argvIndex = 1;
    info->aConstraintUsage[i].omit = 1;
    info->idxNum = 1;
    info->estimatedCost = 400;
    info->estimatedRows = 400;
    break;
  }
  if (info->nOrderBy == 1 && info->aOrderBy[0].iColumn == EACH_KEY && !info->aOrderBy[0].desc)
    info->orderByConsumed = 1;
  return SQLITE_OK;
}

static int each_open(sqlite3_vtab *vtab, sqlite3_vtab_cursor **out) {
  (void)vtab;
  each_cursor *c = sqlite3_malloc64(sizeof *c);
  if (!c) return SQLITE_NOMEM;
  memset(c, 0, sizeof *c);
  dv_buf_init(&c->x.bytes, &dvx_alloc);
  *out = &c->base;
  return SQLITE_OK;
}

static int each_close(sqlite3_vtab_cursor *cursor) {
  each_cursor *c = (each_cursor *)cursor;
  dv_buf_free(&c->x.bytes);
  sqlite3_free(c);
  return SQLITE_OK;
}

static int each_filter(sqlite3_vtab_cursor *cursor, int idx_num, const char *idx_str, int argc, sqlite3_value **argv) {
  each_cursor *c = (each_cursor *)cursor;
  dvx_conn *conn = ((each_table *)cursor->pVtab)->conn;
  (void)idx_str;
  dv_buf_free(&c->x.bytes);
  c->i = c->x.n = 0;
  if (idx_num == 0 || argc < 1 || fn_is_null(argv[0])) return SQLITE_OK;
  int rc = fn_read(conn, argv[0], 0, "vector_each()", &c->x);
  if (rc != SQLITE_OK) c->x.n = 0;
  return dvx_give_vtab(conn, cursor->pVtab, rc);
}

static int each_next(sqlite3_vtab_cursor *cursor) {
  ((each_cursor *)cursor)->i++;
  return SQLITE_OK;
}

static int each_eof(sqlite3_vtab_cursor *cursor) {
  const each_cursor *c = (const each_cursor *)cursor;
  return c->i >= c->x.n;
}

static int each_column(sqlite3_vtab_cursor *cursor, sqlite3_context *ctx, int column) {
  const each_cursor *c = (const each_cursor *)cursor;
  if (column == EACH_KEY)
    sqlite3_result_int64(ctx, (sqlite3_int64)c->i);
  else if (column == EACH_VALUE)
    sqlite3_result_double(ctx, (double)c->x.v[c->i]);
  return SQLITE_OK;
}

static int each_rowid(sqlite3_vtab_cursor *cursor, sqlite3_int64 *rowid) {
  *rowid = (sqlite3_int64)((const each_cursor *)cursor)->i;
  return SQLITE_OK;
}

static const sqlite3_module fn_each_module = {
    .iVersion = 0,
    .xConnect = each_connect, /* no xCreate: a table-valued function only */
    .xBestIndex = each_best_index,
    .xDisconnect = each_disconnect,
    .xOpen = each_open,
    .xClose = each_close,
    .xFilter = each_filter,
    .xNext = each_next,
    .xEof = each_eof,
    .xColumn = each_column,
    .xRowid = each_rowid,
};

/* ---- delta constructors ------------------------------------------------------------------------------------------ */

/* The frame around a payload as the result, or the error rc; frees the payload. */
static void fn_give_delta(sqlite3_context *ctx, dvx_conn *conn, int rc, dv_buf *payload, const dv_delta *delta) {
  dv_buf out;
  dv_frame frame;
  if (rc == SQLITE_OK && payload->status != DV_OK) rc = SQLITE_NOMEM;
  if (rc != SQLITE_OK) {
    dvx_give_context(conn, ctx, rc);
  } else {
    memset(&frame, 0, sizeof frame);
    frame.delta = *delta;
    frame.delta.payload = payload->data;
    dv_buf_init(&out, &dvx_alloc);
    dv_frame_write(&out, &frame);
    dvx_result_buf(ctx, &out);
  }
  dv_buf_free(payload);
}

/* delta_create(vector), delta_dense(vector). */
static void fn_full(sqlite3_context *ctx, sqlite3_value **argv, const char *name, dv_op op) {
  dvx_conn *conn = dvx_context_conn(ctx);
  fn_vector x;
  dv_buf payload;
  dv_delta delta;
  memset(&delta, 0, sizeof delta);
  dv_buf_init(&payload, &dvx_alloc);
  int rc = fn_read(conn, argv[0], 0, name, &x);
  if (rc == SQLITE_OK) dv_delta_encode_dense(&payload, &delta, op, NULL, x.v, x.n, DV_COMPRESSION_ON);
  dv_buf_free(&x.bytes);
  fn_give_delta(ctx, conn, rc, &payload, &delta);
}

static void fn_delta_create(sqlite3_context *ctx, int argc, sqlite3_value **argv) {
  (void)argc;
  fn_full(ctx, argv, "delta_create()", DV_OP_CREATE);
}

static void fn_delta_dense(sqlite3_context *ctx, int argc, sqlite3_value **argv) {
  (void)argc;
  fn_full(ctx, argv, "delta_dense()", DV_OP_DENSE);
}

/* Indices as host-order integers: a JSON array, or a BLOB of little-endian u32. May be none. */
static int fn_read_indices(dvx_conn *conn, sqlite3_value *value, dv_buf *out, size_t *n) {
  static const char *const expected = "expected a JSON array of dimensions or a BLOB of little-endian 32-bit integers";
  int type = sqlite3_value_type(value), n_bytes = type == SQLITE_BLOB ? sqlite3_value_bytes(value) : -1;
  *n = 0;
  if (n_bytes >= 0 && n_bytes % 4 == 0) {
    *n = (size_t)n_bytes / 4;
    if (*n > 0 && *n <= DV_MAX_DIMENSIONS) {
      const void *blob = sqlite3_value_blob(value);
      if (!blob) return SQLITE_NOMEM;
      dv_buf_bytes(out, blob, 4 * *n);
    }
  } else if (type == SQLITE_TEXT) {
    dv_detail detail = {0, 0};
    const char *text = (const char *)sqlite3_value_text(value);
    if (!text) return SQLITE_NOMEM;
    dv_status status = dv_index_parse(out, n, text, (size_t)sqlite3_value_bytes(value), &detail);
    if (status == DV_LIMIT) {
      *n = DV_MAX_DIMENSIONS + 1;
    } else if (status == DV_SYNTAX) {
      return dvx_fail(conn, NULL, SQLITE_ERROR, "delta_sparse(): indices is %v, not understood at byte %u: %s", value,
                      detail.at + 1, expected);
    } else if (status != DV_OK && status != DV_NOMEM) {
      return dvx_fail_status(conn, NULL, status, "delta_sparse(): indices");
    }
  } else {
    return dvx_fail(conn, NULL, SQLITE_ERROR, "delta_sparse(): indices is %v: %s", value, expected);
  }
  if (out->status != DV_OK) return SQLITE_NOMEM;
  if (*n > DV_MAX_DIMENSIONS) {
    return dvx_fail(conn, NULL, SQLITE_ERROR,
                    "delta_sparse(): indices has more than %u elements, as many as dimensions at most",
                    (uint64_t)DV_MAX_DIMENSIONS);
  }
  for (size_t i = 0; i < out->n; i += 4) {
    uint32_t u = dv_load_u32(out->data + i);
    memcpy(out->data + i, &u, 4);
  }
  return SQLITE_OK;
}

/* The values that go with no indices at all: '[]' or an empty BLOB. A vector argument may not be empty, so it is not
 * asked. */
static int fn_read_no_values(dvx_conn *conn, sqlite3_value *value) {
  dv_buf none;
  size_t n = 0;
  bool is_empty = sqlite3_value_type(value) == SQLITE_BLOB && sqlite3_value_bytes(value) == 0;
  if (sqlite3_value_type(value) == SQLITE_TEXT) {
    const char *text = (const char *)sqlite3_value_text(value);
    if (!text) return SQLITE_NOMEM;
    dv_buf_init(&none, &dvx_alloc);
    dv_status status = dv_vector_parse(&none, &n, text, (size_t)sqlite3_value_bytes(value), NULL);
    dv_buf_free(&none);
    if (status == DV_NOMEM) return SQLITE_NOMEM;
    is_empty = status == DV_OK && n == 0;
  }
  if (is_empty) return SQLITE_OK;
  return dvx_fail(conn, NULL, SQLITE_ERROR,
                  "delta_sparse(): values is %v, but indices is empty: expected as many values", value);
}

/* delta_sparse(indices, values): sets those dimensions. */
static void fn_delta_sparse(sqlite3_context *ctx, int argc, sqlite3_value **argv) {
  dvx_conn *conn = dvx_context_conn(ctx);
  fn_vector x = {NULL, 0, {0}};
  dv_buf indices, payload;
  dv_delta delta;
  dv_detail detail = {0, 0};
  size_t n = 0;
  (void)argc;
  memset(&delta, 0, sizeof delta);
  dv_buf_init(&indices, &dvx_alloc);
  dv_buf_init(&payload, &dvx_alloc);
  dv_buf_init(&x.bytes, &dvx_alloc);
  int rc = fn_read_indices(conn, argv[0], &indices, &n);
  if (rc == SQLITE_OK) {
    rc = n == 0 ? fn_read_no_values(conn, argv[1]) : fn_read(conn, argv[1], 0, "delta_sparse(): values", &x);
  }
  if (rc == SQLITE_OK && x.n != n) {
    rc = dvx_fail(conn, NULL, SQLITE_ERROR,
                  "delta_sparse(): the number of indices is %u, that of values %u: expected one value an index",
                  (uint64_t)n, (uint64_t)x.n);
  }
  if (rc == SQLITE_OK) {
    dv_status status = dv_delta_encode_sparse(&payload, &delta, (const uint32_t *)(const void *)indices.data, x.v, n,
                                              DV_MAX_DIMENSIONS, &detail);
    if (status == DV_INDEX) {
      rc = dvx_fail(conn, NULL, SQLITE_ERROR, "delta_sparse(): index %u is out of range: expected 0 to %u", detail.at,
                    (uint64_t)DV_MAX_DIMENSIONS - 1);
    } else if (status == DV_DUPLICATE) {
      rc = dvx_fail(conn, NULL, SQLITE_ERROR, "delta_sparse(): index %u is given twice", detail.at);
    } else if (status != DV_OK) {
      rc = dvx_fail_status(conn, NULL, status, "delta_sparse()");
    }
  }
  dv_buf_free(&indices);
  dv_buf_free(&x.bytes);
  fn_give_delta(ctx, conn, rc, &payload, &delta);
}

/* delta_scale(factor), delta_offset(amount). */
static void fn_scalar(sqlite3_context *ctx, sqlite3_value **argv, const char *what, dv_op op) {
  dvx_conn *conn = dvx_context_conn(ctx);
  dv_buf payload;
  dv_delta delta;
  float value = 0;
  memset(&delta, 0, sizeof delta);
  dv_buf_init(&payload, &dvx_alloc);
  int rc = fn_number(conn, argv[0], what, &value);
  if (rc == SQLITE_OK) dv_delta_encode_scalar(&payload, &delta, op, value);
  fn_give_delta(ctx, conn, rc, &payload, &delta);
}

static void fn_delta_scale(sqlite3_context *ctx, int argc, sqlite3_value **argv) {
  (void)argc;
  fn_scalar(ctx, argv, "delta_scale(): factor", DV_OP_SCALE);
}

static void fn_delta_offset(sqlite3_context *ctx, int argc, sqlite3_value **argv) {
  (void)argc;
  fn_scalar(ctx, argv, "delta_offset(): amount", DV_OP_OFFSET);
}

static void fn_delta_delete(sqlite3_context *ctx, int argc, sqlite3_value **argv) {
  dv_buf payload;
  dv_delta delta;
  (void)argc;
  (void)argv;
  memset(&delta, 0, sizeof delta);
  delta.op = DV_OP_DELETE;
  delta.encoding = DV_ENC_NONE;
  dv_buf_init(&payload, &dvx_alloc);
  fn_give_delta(ctx, dvx_context_conn(ctx), SQLITE_OK, &payload, &delta);
}

/* delta_diff(old, new): the smallest delta that makes exactly `new`, bit for bit, of `old` (and only of it: it may hold
 * differences). */
static void fn_delta_diff(sqlite3_context *ctx, int argc, sqlite3_value **argv) {
  dvx_conn *conn = dvx_context_conn(ctx);
  fn_vector a, b;
  dv_buf payload;
  dv_delta delta;
  (void)argc;
  memset(&delta, 0, sizeof delta);
  dv_buf_init(&payload, &dvx_alloc);
  dv_buf_init(&b.bytes, &dvx_alloc);
  int rc = fn_read(conn, argv[0], 0, "delta_diff(): old", &a);
  if (rc == SQLITE_OK) rc = fn_read(conn, argv[1], a.n, "delta_diff(): new", &b);
  if (rc == SQLITE_OK) dv_delta_encode_dense(&payload, &delta, DV_OP_DENSE, a.v, b.v, a.n, DV_COMPRESSION_ON);
  dv_buf_free(&a.bytes);
  dv_buf_free(&b.bytes);
  fn_give_delta(ctx, conn, rc, &payload, &delta);
}

/* ---- deltas as arguments ----------------------------------------------------------------------------------------- */

int dvx_value_delta(dvx_conn *conn, const dvx_table *t, sqlite3_value *v, const char *what, dv_delta *out) {
  static const char *const expected = "expected a delta BLOB as delta_sparse() and its like make it";
  dv_detail detail = {0, 0};
  dv_frame frame;
  if (sqlite3_value_type(v) != SQLITE_BLOB) return dvx_fail(conn, t, SQLITE_ERROR, "%s is %v: %s", what, v, expected);
  const void *bytes = sqlite3_value_blob(v);
  size_t n_bytes = (size_t)sqlite3_value_bytes(v);
  if (!bytes && n_bytes > 0) return SQLITE_NOMEM;
  dv_reader r = dv_reader_of(bytes ? bytes : "", n_bytes);
  dv_status status = dv_frame_read(&r, &frame, &detail);
  if (status == DV_OK && dv_reader_left(&r) > 0) {
    return dvx_fail(conn, t, SQLITE_ERROR, "%s is %v with more than one delta in it: %s", what, v, expected);
  }
  if (status == DV_OK && frame.flags != 0) {
    return dvx_fail(conn, t, SQLITE_ERROR, "%s carries an id, a time or metadata, so it is one of a batch: %s", what,
                    expected);
  }
  if (status == DV_OK) {
    status = dv_delta_check(&frame.delta, 0, &detail);
    if (status == DV_NOT_FINITE) {
      return dvx_fail(conn, t, SQLITE_ERROR, "%s: value %u is NaN or infinite", what, detail.at);
    }
    if (status != DV_OK) status = DV_CORRUPT;
  }
  if (status == DV_CORRUPT) return dvx_fail(conn, t, SQLITE_ERROR, "%s is a damaged %v: %s", what, v, expected);
  if (status != DV_OK) return dvx_fail_status(conn, t, status, what);
  *out = frame.delta;
  return SQLITE_OK;
}

/* Why a well-formed delta does not fit a vector of n dimensions. */
static int fn_fail_patch(dvx_conn *conn, dv_status status, const dv_detail *detail, size_t n) {
  switch (status) {
  case DV_LENGTH:
    return dvx_fail(conn, NULL, SQLITE_ERROR, "delta_patch(): delta has %u %s, but the vector has %u", detail->at,
                    detail->at == 1 ? "dimension" : "dimensions", (uint64_t)n);
  case DV_INDEX:
    return dvx_fail(conn, NULL, SQLITE_ERROR, "delta_patch(): index %u is out of range: expected 0 to %u", detail->at,
                    (uint64_t)n - 1);
  case DV_NOT_FINITE:
  case DV_OVERFLOW:
    return dvx_fail(conn, NULL, SQLITE_ERROR, "delta_patch(): value %u of the result does not fit a 32-bit float",
                    detail->at);
  case DV_CORRUPT:
    return dvx_fail(conn, NULL, SQLITE_ERROR, "delta_patch(): delta was not made for a vector of %u dimensions",
                    (uint64_t)n);
  default: return dvx_fail_status(conn, NULL, status, "delta_patch(): delta");
  }
}

/* Number of dimensions of a full payload (checked with dv_delta_check), 0 for any other. */
static size_t fn_delta_dimensions(const dv_delta *d) {
  dv_detail detail = {0, 0};
  if (!dv_encoding_is_full((int)d->encoding)) return 0;
  dv_status status = dv_delta_check(d, 1, &detail);
  if (status == DV_OK) return 1;
  return status == DV_LENGTH && detail.at <= DV_MAX_DIMENSIONS ? (size_t)detail.at : 0;
}

/* delta_patch(vector, delta): the delta applied. A full delta needs no vector, and delete leaves none (NULL). */
static void fn_delta_patch(sqlite3_context *ctx, int argc, sqlite3_value **argv) {
  dvx_conn *conn = dvx_context_conn(ctx);
  fn_vector x;
  dv_delta delta;
  dv_detail detail = {0, 0};
  (void)argc;
  memset(&delta, 0, sizeof delta);
  if (fn_is_null(argv[1])) return;
  dv_buf_init(&x.bytes, &dvx_alloc);
  int rc = dvx_value_delta(conn, NULL, argv[1], "delta_patch(): delta", &delta);
  if (rc == SQLITE_OK && fn_is_null(argv[0])) {
    size_t n = fn_delta_dimensions(&delta);
    if (n == 0) return;
    rc = fn_new(n, &x);
    if (rc == SQLITE_OK) memset(x.v, 0, n * sizeof(float));
  } else if (rc == SQLITE_OK) {
    rc = fn_read(conn, argv[0], 0, "delta_patch()", &x);
  }
  if (rc == SQLITE_OK && delta.op == DV_OP_DELETE) {
    dv_buf_free(&x.bytes);
    return;
  }
  if (rc == SQLITE_OK) {
    dv_status status = dv_delta_apply(&delta, x.v, x.n, &detail);
    if (status != DV_OK) rc = fn_fail_patch(conn, status, &detail, x.n);
  }
  fn_give(ctx, conn, rc, &x);
}

typedef struct fn_lister {
  dvx_str *s;
  bool is_values; /* else indices */
  bool is_begun;
} fn_lister;

static void fn_list(void *p, uint32_t index, float value) {
  fn_lister *l = p;
  char digits[24];
  if (l->is_begun) dvx_str_add(l->s, ",", 1);
  if (l->is_values)
    dvx_str_add(l->s, digits, dv_float_print(digits, value));
  else
    dvx_str_addf(l->s, "%u", (uint64_t)index);
  l->is_begun = true;
}

static int fn_add_full(dvx_str *s, const dv_delta *delta) {
  fn_vector x;
  size_t n = fn_delta_dimensions(delta);
  if (n == 0) return SQLITE_OK;
  int rc = fn_new(n, &x);
  if (rc == SQLITE_OK) memset(x.v, 0, n * sizeof(float));
  if (rc == SQLITE_OK && dv_delta_apply(delta, x.v, n, NULL) == DV_OK) {
    dvx_str_addf(s, ",\"dimensions\":%u,\"vector\":", (uint64_t)n);
    fn_add_floats(s, x.v, n);
  }
  dv_buf_free(&x.bytes);
  return rc;
}

/* delta_json(delta): what it does, for people. {"operation":…, "encoding":…, "bytes":…} and what the encoding tells:
 * indices and values, factor, amount, or dimensions and vector. Differences (encoding diff) mean nothing without the
 * old vector: delta_patch() shows what they make of it. */
static void fn_delta_json(sqlite3_context *ctx, int argc, sqlite3_value **argv) {
  dvx_conn *conn = dvx_context_conn(ctx);
  dv_delta delta;
  dvx_str s = {0};
  (void)argc;
  memset(&delta, 0, sizeof delta);
  if (fn_is_null(argv[0])) return;
  int rc = dvx_value_delta(conn, NULL, argv[0], "delta_json(): delta", &delta);
  if (rc == SQLITE_OK) {
    dvx_str_addf(&s, "{\"operation\":\"%s\",\"encoding\":\"%s\",\"bytes\":%d", dv_op_name((int)delta.op),
                 dv_encoding_name((int)delta.encoding), sqlite3_value_bytes(argv[0]));
    if (delta.encoding == DV_ENC_SPARSE || delta.encoding == DV_ENC_RUN) {
      fn_lister indices = {&s, false, false}, values = {&s, true, false};
      dvx_str_addf(&s, ",\"indices\":[");
      dv_delta_each(&delta, fn_list, &indices);
      dvx_str_addf(&s, "],\"values\":[");
      dv_delta_each(&delta, fn_list, &values);
      dvx_str_add(&s, "]", 1);
    } else if (delta.encoding == DV_ENC_SCALAR) {
      char digits[24];
      dvx_str_addf(&s, ",\"%s\":", delta.op == DV_OP_SCALE ? "factor" : "amount");
      dvx_str_add(&s, digits, dv_float_print(digits, dv_load_f32(delta.payload)));
    } else {
      rc = fn_add_full(&s, &delta);
    }
    dvx_str_add(&s, "}", 1);
  }
  if (rc == SQLITE_OK) {
    dvx_result_text(ctx, &s);
    sqlite3_result_subtype(ctx, FN_SUBTYPE_JSON);
  } else {
    dvx_give_context(conn, ctx, rc);
  }
  dvx_str_free(&s);
}

/* ---- delta_pack(id, delta [, timestamp [, metadata]]): a batch --------------------------------------------------- */

/* One frame of the batch. The metadata, a JSON object, rides as the text field without a name. */
static int fn_pack_add(dvx_conn *conn, dv_buf *out, int argc, sqlite3_value **argv) {
  dv_frame frame;
  dv_value metadata;
  dv_buf fields;
  memset(&frame, 0, sizeof frame);
  int rc = dvx_value_of(conn, argv[0], &frame.id);
  if (rc == SQLITE_OK && frame.id.type != DV_INTEGER && frame.id.type != DV_TEXT) {
    rc = dvx_fail(conn, NULL, SQLITE_ERROR, "delta_pack(): id is %v: expected TEXT or INTEGER", argv[0]);
  }
  if (rc == SQLITE_OK) rc = dvx_value_delta(conn, NULL, argv[1], "delta_pack(): delta", &frame.delta);
  frame.flags = DV_FRAME_ID;
  if (rc == SQLITE_OK && argc > 2 && !fn_is_null(argv[2])) {
    frame.flags |= DV_FRAME_TIME;
    rc = dvx_time_parse(conn, NULL, &frame.id, argv[2], &frame.time);
  }
  dv_buf_init(&fields, &dvx_alloc);
  if (rc == SQLITE_OK && argc > 3 && !fn_is_null(argv[3])) {
    rc = dvx_value_of(conn, argv[3], &metadata);
    if (rc == SQLITE_OK && metadata.type != DV_TEXT) {
      rc = dvx_fail(conn, NULL, SQLITE_ERROR, "delta_pack(): metadata is %v: expected the text of a JSON object",
                    argv[3]);
    }
    if (rc == SQLITE_OK) {
      dv_field_write(&fields, "", 0, &metadata);
      if (fields.status != DV_OK) rc = SQLITE_NOMEM;
      frame.flags |= DV_FRAME_FIELDS;
      frame.fields = fields.data;
      frame.n_fields = fields.n;
    }
  }
  if (rc == SQLITE_OK) {
    dv_frame_write(out, &frame);
    if (out->status != DV_OK)
      rc = SQLITE_NOMEM;
    else if (out->n > INT_MAX)
      rc = SQLITE_TOOBIG;
  }
  dv_buf_free(&fields);
  return rc;
}

static void fn_pack_step(sqlite3_context *ctx, int argc, sqlite3_value **argv) {
  dvx_conn *conn = dvx_context_conn(ctx);
  dv_buf *out = sqlite3_aggregate_context(ctx, (int)sizeof *out);
  int rc = SQLITE_NOMEM;
  if (out) {
    if (!out->alloc) dv_buf_init(out, &dvx_alloc);
    rc = fn_pack_add(conn, out, argc, argv);
  }
  if (rc != SQLITE_OK) dvx_give_context(conn, ctx, rc);
}

/* Also called after a failed step, to free what there is; SQLite then ignores the result. */
static void fn_pack_final(sqlite3_context *ctx) {
  dv_buf none, *out = sqlite3_aggregate_context(ctx, 0);
  if (!out || !out->alloc) {
    out = &none; /* no rows: an empty batch */
    dv_buf_init(out, &dvx_alloc);
  }
  dvx_result_buf(ctx, out);
}

/* ---- registration ------------------------------------------------------------------------------------------------ */

/* delta_vectors_backend(): the kernels in use. */
static void fn_backend(sqlite3_context *ctx, int argc, sqlite3_value **argv) {
  (void)argc;
  (void)argv;
  sqlite3_result_text(ctx, dvx_context_conn(ctx)->kernels->name, -1, SQLITE_STATIC);
}

int dvx_functions_register(dvx_conn *conn) {
  static const struct {
    const char *name;
    int n_args;
    void (*fn)(sqlite3_context *, int, sqlite3_value **);
  } functions[] = {
      {"vector_f32", 1, fn_vector_f32},           {"vector_json", 1, fn_vector_json},
      {"vector_length", 1, fn_vector_length},     {"vector_distance", 2, fn_vector_distance},
      {"vector_distance", 3, fn_vector_distance}, {"vector_normalize", 1, fn_vector_normalize},
      {"vector_add", 2, fn_vector_add},           {"vector_sub", 2, fn_vector_sub},
      {"vector_scale", 2, fn_vector_scale},       {"vector_slice", 3, fn_vector_slice},
      {"vector_int8", 2, fn_vector_int8},         {"delta_create", 1, fn_delta_create},
      {"delta_sparse", 2, fn_delta_sparse},       {"delta_dense", 1, fn_delta_dense},
      {"delta_scale", 1, fn_delta_scale},         {"delta_offset", 1, fn_delta_offset},
      {"delta_delete", 0, fn_delta_delete},       {"delta_diff", 2, fn_delta_diff},
      {"delta_patch", 2, fn_delta_patch},         {"delta_json", 1, fn_delta_json},
      {"delta_vectors_backend", 0, fn_backend},
  };
  int rc = SQLITE_OK;
  for (size_t i = 0; rc == SQLITE_OK && i < sizeof functions / sizeof functions[0]; i++) {
    rc = dvx_conn_function(conn, functions[i].name, functions[i].n_args, FN_FLAGS, functions[i].fn);
  }
  /* Not deterministic: its timestamp may be 'now'. */
  for (int n_args = 2; rc == SQLITE_OK && n_args <= 4; n_args++) {
    dvx_conn_ref(conn);
    rc = sqlite3_create_function_v2(conn->db, "delta_pack", n_args, SQLITE_UTF8 | SQLITE_INNOCUOUS, conn, NULL,
                                    fn_pack_step, fn_pack_final, dvx_conn_unref);
  }
  if (rc == SQLITE_OK) rc = dvx_conn_module(conn, "vector_each", &fn_each_module);
  return rc;
}
