/*
 * exchange.c: delta_export and delta_import: a table's deltas as one blob that any other table of the same dimensions
 * takes.
 *
 *   export := header frame, frame*
 *
 * The header (flag 32, no delta) has the named fields
 *   dimensions INTEGER, metric TEXT, id TEXT ('TEXT' or 'INTEGER'), columns TEXT (JSON array of names),
 *   uuid TEXT (16 hexadecimal digits: the table the frames come from, which keeps it for life),
 *   since INTEGER, last INTEGER: every delta with since < seq <= last is here, as far as it still exists,
 *   purged INTEGER: largest seq of a delete that compaction dropped (0: none),
 *   removed INTEGER, if there is one: how many deltas compaction has dropped in all; another number after each.
 * Each frame has seq, id, time and the metadata it sets by column name. Its delta is self-contained: it needs the row's
 * previous vector at most for setting some of its dimensions, scaling or offsetting it.
 *
 * Importing is idempotent because the importing table remembers how far it has followed each origin: %_meta
 * 'import:<uuid>' is the last seq of that origin that was taken over. Everything up to there is skipped, so the same
 * export, or one that overlaps, changes nothing; one that begins later is refused, since what lies between would be
 * missing for ever; and one from an origin that has meanwhile forgotten deletes which this table has not seen is
 * refused for the same reason. Meanwhile: an origin that had forgotten them before the first export was taken may be
 * followed in pages, and %_meta 'removed:<uuid>', the `removed` of the last export taken over, says that it is as it was.
 *
 * The blob is somebody else's bytes: all of it is checked before the first delta is applied, and then all or nothing
 * is.
 */
#include "ext_int.h"

#define EXCHANGE_INTERRUPT_EVERY 256u

/* ---- named fields ------------------------------------------------------------------------------------------------ */

/* A value as the column keeps it; false when it has no place there. */
static bool exchange_value_fits(const dvx_column *column, dv_value *v) {
  if (v->type == DV_NULL) return true;
  switch (column->type) {
  case DVX_COLUMN_INTEGER: return v->type == DV_INTEGER;
  case DVX_COLUMN_BOOLEAN: return v->type == DV_INTEGER && (v->integer == 0 || v->integer == 1);
  case DVX_COLUMN_REAL:
    if (v->type == DV_INTEGER) {
      v->type = DV_REAL;
      v->real = (double)v->integer;
    }
    return v->type == DV_REAL && v->real == v->real;
  case DVX_COLUMN_TEXT:
  case DVX_COLUMN_JSON: return v->type == DV_TEXT;
  case DVX_COLUMN_BLOB: return v->type == DV_BLOB;
  }
  return false;
}

static int exchange_fields(dvx_table *t, const dv_frame *f, bool is_checked, dv_value *values, bool *is_set) {
  const dvx_config *c = t->config;
  dv_reader r = dv_reader_of(f->fields, f->n_fields);
  const uint8_t *name;
  size_t n_name;
  dv_value v;
  for (int i = 0; i < c->n_columns; i++) {
    memset(&values[i], 0, sizeof values[i]);
    is_set[i] = false;
  }
  while (dv_field_next(&r, &name, &n_name, &v)) {
    int i = 0;
    while (i < c->n_columns && (strlen(c->columns[i].name) != n_name ||
                                sqlite3_strnicmp(c->columns[i].name, (const char *)name, (int)n_name) != 0)) {
      i++;
    }
    if (i == c->n_columns) {
      return dvx_fail(t->conn, t, SQLITE_ERROR, "row %I: the table has no column %S", &f->id, (const char *)name,
                      n_name);
    }
    if (is_set[i]) {
      return dvx_fail(t->conn, t, SQLITE_ERROR, "row %I: column %s is given twice", &f->id, c->columns[i].name);
    }
    if (!exchange_value_fits(&c->columns[i], &v)) {
      return dvx_fail(t->conn, t, SQLITE_ERROR, "row %I: %I is no value for column %s", &f->id, &v, c->columns[i].name);
    }
    if (!is_checked && c->columns[i].type == DVX_COLUMN_JSON && v.type != DV_NULL) {
      bool is_json5;
      int rc = dvx_write_check_metadata(t, &f->id, &v, &is_json5);
      if (rc == SQLITE_OK && is_json5) {
        rc = dvx_fail(t->conn, t, SQLITE_ERROR, "row %I: metadata is JSON5, expected JSON", &f->id);
      }
      if (rc != SQLITE_OK) return rc;
    }
    values[i] = v;
    is_set[i] = true;
  }
  if (r.is_bad) return dvx_fail(t->conn, t, SQLITE_ERROR, "row %I: the metadata of its delta is malformed", &f->id);
  return SQLITE_OK;
}

int dvx_exchange_fields(dvx_table *t, const dv_frame *f, dv_value *values, bool *is_set) {
  return exchange_fields(t, f, false, values, is_set);
}

/* ---- delta_export ------------------------------------------------------------------------------------------------ */

static void exchange_hex(uint64_t u, char out[17]) {
  static const char hex[] = "0123456789abcdef";
  for (int i = 0; i < 16; i++) out[i] = hex[u >> (60 - 4 * i) & 15];
  out[16] = 0;
}

static void exchange_field_integer(dv_buf *out, const char *name, uint64_t u) {
  dv_value v;
  memset(&v, 0, sizeof v);
  v.type = DV_INTEGER;
  v.integer = (int64_t)u;
  dv_field_write(out, name, strlen(name), &v);
}

static void exchange_field_text(dv_buf *out, const char *name, const char *text) {
  dv_value v;
  memset(&v, 0, sizeof v);
  v.type = DV_TEXT;
  v.bytes = (const uint8_t *)text;
  v.n_bytes = strlen(text);
  dv_field_write(out, name, strlen(name), &v);
}

static int exchange_write_header(dvx_table *t, uint64_t since, uint64_t last, dv_buf *out) {
  const dvx_config *c = t->config;
  int64_t uuid, purged, removed;
  char hex[17];
  dv_frame f;
  dv_buf fields;
  dvx_str columns = {0};
  int rc = dvx_meta_get(t, "uuid", 0, &uuid);
  if (rc == SQLITE_OK) rc = dvx_meta_get(t, "purged", 0, &purged);
  if (rc == SQLITE_OK) rc = dvx_meta_get(t, "absent", 0, &removed);
  if (rc != SQLITE_OK) return rc;
  dvx_str_add(&columns, "[", 1);
  for (int i = 0; i < c->n_columns; i++) {
    if (i > 0) dvx_str_add(&columns, ",", 1);
    dvx_history_json_text(&columns, (const uint8_t *)c->columns[i].name, strlen(c->columns[i].name));
  }
  dvx_str_add(&columns, "]", 1);
  char *names = dvx_str_take(&columns);
  if (!names) return SQLITE_NOMEM;
  dv_buf_init(&fields, &dvx_alloc);
  exchange_hex((uint64_t)uuid, hex);
  exchange_field_integer(&fields, "dimensions", c->dimensions);
  exchange_field_text(&fields, "metric", dv_metric_name(c->metric));
  exchange_field_text(&fields, "id", c->id_type == DVX_ID_TEXT ? "TEXT" : "INTEGER");
  exchange_field_text(&fields, "columns", names);
  exchange_field_text(&fields, "uuid", hex);
  exchange_field_integer(&fields, "since", since);
  exchange_field_integer(&fields, "last", last);
  exchange_field_integer(&fields, "purged", purged > 0 ? (uint64_t)purged : 0);
  if (purged > 0 && removed > 0) exchange_field_integer(&fields, "removed", (uint64_t)removed);
  memset(&f, 0, sizeof f);
  f.flags = DV_FRAME_HEADER | DV_FRAME_FIELDS;
  f.fields = fields.data;
  f.n_fields = fields.n;
  if (fields.status == DV_OK) dv_frame_write(out, &f);
  rc = fields.status == DV_OK && out->status == DV_OK ? SQLITE_OK : SQLITE_NOMEM;
  dv_buf_free(&fields);
  sqlite3_free(names);
  return rc;
}

/* Every delta with since < seq <= until. */
static int exchange_export_records(dvx_table *t, uint64_t since, uint64_t until, dv_buf *out) {
  size_t limit = (size_t)sqlite3_limit(t->conn->db, SQLITE_LIMIT_LENGTH, -1);
  const unsigned with = DV_FRAME_SEQ | DV_FRAME_ID | DV_FRAME_TIME | DV_FRAME_FIELDS | DV_FRAME_MERGED;
  dvx_expander x;
  dv_record rec;
  uint64_t last = dvx_history_last_seq(t), seq = since;
  unsigned n = 0;
  if (until < last) last = until;
  if (last < since) last = since;
  int rc = exchange_write_header(t, since, last, out);
  dvx_expander_init(&x, t);
  while (rc == SQLITE_OK && (rc = dvx_log_next(t, seq, &rec)) == SQLITE_OK) {
    seq = rec.seq;
    if (seq > last) break;
    rc = dvx_expander_frame(&x, &rec, with, out);
    if (rc == SQLITE_OK && out->n > limit) {
      rc =
          dvx_fail(t->conn, t, SQLITE_TOOBIG,
                   "delta_export: the deltas behind seq %u do not fit one BLOB of %u bytes; those up to seq %u do: take"
                   " delta_export('%q', %u, %u), then the rest from there",
                   since, (uint64_t)limit, seq - 1, t->name, since, seq - 1);
    }
    if (rc == SQLITE_OK && ++n % EXCHANGE_INTERRUPT_EVERY == 0 && dvx_is_interrupted(t->conn)) {
      rc = dvx_fail(t->conn, t, SQLITE_INTERRUPT, "delta_export was interrupted");
    }
  }
  dvx_expander_free(&x);
  return rc == SQLITE_DONE ? SQLITE_OK : rc;
}

static int exchange_seq_argument(dvx_conn *conn, const dvx_table *t, sqlite3_value *v, const char *what,
                                 uint64_t absent, uint64_t *out) {
  int type = sqlite3_value_numeric_type(v);
  *out = absent;
  if (type == SQLITE_NULL) return SQLITE_OK;
  if (type != SQLITE_INTEGER) {
    return dvx_fail(conn, t, SQLITE_ERROR, "delta_export: %s is %v: expected the seq of a delta, an integer", what, v);
  }
  int64_t seq = sqlite3_value_int64(v);
  *out = seq > 0 ? (uint64_t)seq : 0;
  return SQLITE_OK;
}

/* delta_export(table [, since_seq [, until_seq]]) */
static void exchange_export(sqlite3_context *ctx, int argc, sqlite3_value **argv) {
  dvx_conn *conn = dvx_context_conn(ctx);
  dvx_table *t;
  dv_buf out;
  uint64_t since = 0, until = INT64_MAX;
  dv_buf_init(&out, &dvx_alloc);
  int rc = dvx_table_find_argument(conn, "delta_export", argv[0], &t);
  if (rc == SQLITE_OK && argc > 1) rc = exchange_seq_argument(conn, t, argv[1], "since_seq", 0, &since);
  if (rc == SQLITE_OK && argc > 2) rc = exchange_seq_argument(conn, t, argv[2], "until_seq", INT64_MAX, &until);
  if (rc == SQLITE_OK) {
    rc = dvx_table_begin_read(t);
    if (rc == SQLITE_OK) {
      rc = exchange_export_records(t, since, until, &out);
      dvx_table_end_read(t);
    }
  }
  if (rc == SQLITE_OK)
    dvx_result_buf(ctx, &out);
  else
    dvx_give_context(conn, ctx, rc);
  dv_buf_free(&out);
}

/* ---- delta_import: checking -------------------------------------------------------------------------------------- */

typedef struct exchange_header {
  uint64_t dimensions, since, last, purged, removed;
  uint64_t uuid;
  bool has_uuid, has_dimensions, has_since, has_last;
} exchange_header;

typedef struct exchange_import {
  const uint8_t *bytes;
  size_t n_bytes;
  exchange_header header;
  size_t first; /* offset of the first frame behind the header */
  dv_value *values;
  bool *is_set;
  float *vector;
  uint64_t n_applied, n_skipped, first_seq, last_seq;
} exchange_import;

static int exchange_bad_header(dvx_table *t, const char *what) {
  return dvx_fail(t->conn, t, SQLITE_ERROR, "delta_import: the export's header %s", what);
}

static bool exchange_field_is(const uint8_t *name, size_t n_name, const char *expected) {
  return n_name == strlen(expected) && memcmp(name, expected, n_name) == 0;
}

static bool exchange_unhex(const dv_value *v, uint64_t *out) {
  uint64_t u = 0;
  if (v->type != DV_TEXT || v->n_bytes != 16) return false;
  for (size_t i = 0; i < 16; i++) {
    uint8_t c = v->bytes[i];
    unsigned digit = c >= '0' && c <= '9' ? c - '0' + 0u : c >= 'a' && c <= 'f' ? c - 'a' + 10u : 16;
    if (digit > 15) return false;
    u = u << 4 | digit;
  }
  *out = u;
  return true;
}

static int exchange_read_header(dvx_table *t, const dv_frame *f, exchange_header *h) {
  dv_reader r = dv_reader_of(f->fields, f->n_fields);
  const uint8_t *name;
  size_t n_name;
  dv_value v;
  memset(h, 0, sizeof *h);
  while (dv_field_next(&r, &name, &n_name, &v)) {
    bool is_seq = v.type == DV_INTEGER && v.integer >= 0 && v.integer < DVX_MAX_SEQ;
    uint64_t seq = is_seq ? (uint64_t)v.integer : 0;
    if (exchange_field_is(name, n_name, "dimensions")) {
      h->has_dimensions = is_seq;
      h->dimensions = seq;
    } else if (exchange_field_is(name, n_name, "since")) {
      h->has_since = is_seq;
      h->since = seq;
    } else if (exchange_field_is(name, n_name, "last")) {
      h->has_last = is_seq;
      h->last = seq;
    } else if (exchange_field_is(name, n_name, "purged")) {
      h->purged = seq;
    } else if (exchange_field_is(name, n_name, "removed")) {
      h->removed = seq;
    } else if (exchange_field_is(name, n_name, "uuid")) {
      h->has_uuid = exchange_unhex(&v, &h->uuid);
    } /* anything else is for readers of later versions */
  }
  if (r.is_bad) return exchange_bad_header(t, "is malformed");
  if (!h->has_uuid || !h->has_dimensions || !h->has_since || !h->has_last || h->last < h->since) {
    return exchange_bad_header(t, "lacks a valid uuid, dimensions, since or last");
  }
  if (h->dimensions != t->config->dimensions) {
    return dvx_fail(t->conn, t, SQLITE_ERROR, "delta_import: the export has %u dimensions, expected %u", h->dimensions,
                    (uint64_t)t->config->dimensions);
  }
  return SQLITE_OK;
}

/* A frame that cannot be: what is wrong with it, and which one it is. */
static int exchange_bad_frame(dvx_table *t, uint64_t number, const dv_frame *f, const char *what) {
  if (f && (f->flags & DV_FRAME_ID)) {
    return dvx_fail(t->conn, t, SQLITE_ERROR, "delta_import: frame %u (row %I): %s; nothing was imported", number,
                    &f->id, what);
  }
  return dvx_fail(t->conn, t, SQLITE_ERROR, "delta_import: frame %u: %s; nothing was imported", number, what);
}

static int exchange_bad_delta(dvx_table *t, uint64_t number, const dv_frame *f, dv_status status,
                              const dv_detail *detail) {
  if (status == DV_NOMEM) return SQLITE_NOMEM;
  if (status == DV_LENGTH) {
    return dvx_fail(t->conn, t, SQLITE_ERROR,
                    "delta_import: frame %u (row %I) has %u dimensions, expected %u; nothing was imported", number,
                    &f->id, detail->at, (uint64_t)t->config->dimensions);
  }
  if (status == DV_INDEX) {
    return dvx_fail(t->conn, t, SQLITE_ERROR,
                    "delta_import: frame %u (row %I): index %u is outside 0 to %u; nothing was imported", number,
                    &f->id, detail->at, (uint64_t)t->config->dimensions - 1);
  }
  if (status == DV_NOT_FINITE) return exchange_bad_frame(t, number, f, "a value is NaN or infinite");
  return exchange_bad_frame(t, number, f, "its delta is malformed");
}

static int exchange_check_frame(exchange_import *job, dvx_table *t, uint64_t number, const dv_frame *f,
                                uint64_t *previous) {
  const dvx_config *c = t->config;
  const unsigned needed = DV_FRAME_SEQ | DV_FRAME_ID | DV_FRAME_TIME;
  dv_detail detail = {0, 0};
  if (f->flags & DV_FRAME_HEADER) return exchange_bad_frame(t, number, NULL, "a second header: one export at a time");
  if ((f->flags & needed) != needed)
    return exchange_bad_frame(t, number, f, "it has no seq, id or time, so it is no part of an export");
  if (f->seq <= *previous || f->seq > job->header.last) {
    return exchange_bad_frame(t, number, f, "its seq is not behind the frame before it, or lies outside the export");
  }
  if (f->id.type != (c->id_type == DVX_ID_TEXT ? DV_TEXT : DV_INTEGER)) {
    return exchange_bad_frame(t, number, f,
                              c->id_type == DVX_ID_TEXT ? "the ids of this table are TEXT"
                                                        : "the ids of this table are INTEGER");
  }
  if (f->time > DVX_TIME_MAX || f->time < -DVX_TIME_MAX)
    return exchange_bad_frame(t, number, f, "its time is out of range");
  if ((f->flags & DV_FRAME_MERGED) && f->delta.op != DV_OP_CREATE) {
    return exchange_bad_frame(t, number, f, "a merged state must be a create");
  }
  dv_status status = dv_delta_check(&f->delta, c->dimensions, &detail);
  if (status != DV_OK) return exchange_bad_delta(t, number, f, status, &detail);
  *previous = f->seq;
  return dvx_exchange_fields(t, f, job->values, job->is_set);
}

static int exchange_check(exchange_import *job, dvx_table *t) {
  dv_reader r = dv_reader_of(job->bytes, job->n_bytes);
  dv_frame f;
  dv_detail detail = {0, 0};
  uint64_t number = 1, previous;
  dv_status status = job->n_bytes ? dv_frame_read(&r, &f, &detail) : DV_CORRUPT;
  if (status == DV_NOMEM) return SQLITE_NOMEM;
  if (status != DV_OK || !(f.flags & DV_FRAME_HEADER)) {
    return dvx_fail(t->conn, t, SQLITE_ERROR, "delta_import: the BLOB is not what delta_export returns");
  }
  int rc = exchange_read_header(t, &f, &job->header);
  job->first = (size_t)(r.p - job->bytes);
  previous = job->header.since;
  while (rc == SQLITE_OK && dv_reader_left(&r) > 0) {
    size_t at = (size_t)(r.p - job->bytes);
    number++;
    status = dv_frame_read(&r, &f, &detail);
    if (status == DV_NOMEM) return SQLITE_NOMEM;
    if (status != DV_OK) {
      return dvx_fail(t->conn, t, SQLITE_ERROR,
                      status != DV_CORRUPT
                          ? "delta_import: frame %u, at byte %u, comes from a newer delta_vectors than this one"
                          : "delta_import: frame %u, at byte %u, is damaged or cut off; nothing was imported",
                      number, (uint64_t)at);
    }
    rc = exchange_check_frame(job, t, number, &f, &previous);
  }
  return rc;
}

/* ---- delta_import: applying -------------------------------------------------------------------------------------- */

static int exchange_apply(exchange_import *job, dvx_table *t, const dv_frame *f, dv_buf *payload) {
  const dvx_config *c = t->config;
  dvx_change change;
  uint32_t vid;
  uint64_t seq;
  bool is_any_set = false;
  memset(&change, 0, sizeof change);
  int rc = dvx_row_find(t, &f->id, &vid);
  if (rc == SQLITE_OK) rc = exchange_fields(t, f, true, job->values, job->is_set);
  if (rc != SQLITE_OK) return rc;
  for (int i = 0; i < c->n_columns; i++) is_any_set = is_any_set || job->is_set[i];
  bool exists = vid != 0 && dvx_word_exists(dvx_row_word(t, vid));
  bool is_create = f->delta.op == DV_OP_CREATE;
  change.vid = vid;
  change.id = f->id;
  change.has_time = true;
  change.time = f->time;
  change.delta = f->delta;
  change.is_merged = (f->flags & DV_FRAME_MERGED) != 0;
  if (is_create && exists && change.is_merged) {
    /* The origin has merged away what led to this state: here it is a change like any other. */
    change.delta.op = DV_OP_DENSE;
    change.is_merged = false;
  }
  if (is_create) {
    change.fields = job->values; /* all of them: what is not named is NULL */
  } else if (is_any_set) {
    change.fields = job->values;
    change.is_set = job->is_set;
  }
  /* Frames carry full vectors where the log had a difference; the smallest form is found again here. */
  if (dv_encoding_is_full((int)change.delta.encoding) && (change.delta.op == DV_OP_DENSE || is_create)) {
    const float *from = NULL;
    dv_op op = change.delta.op;
    if (dv_delta_apply(&change.delta, job->vector, c->dimensions, NULL) != DV_OK) return SQLITE_CORRUPT_VTAB;
    if (op == DV_OP_DENSE && exists) rc = dvx_row_vector(t, vid, &from);
    if (rc != SQLITE_OK) return rc;
    payload->n = 0;
    dv_delta_encode_dense(payload, &change.delta, op, from, job->vector, c->dimensions, c->compression);
    if (payload->status != DV_OK) return SQLITE_NOMEM;
    change.delta.payload = payload->data;
  }
  rc = dvx_append(t, &change, &seq);
  if (rc == SQLITE_OK) {
    if (job->n_applied++ == 0) job->first_seq = seq;
    job->last_seq = seq;
  }
  return rc;
}

static int exchange_write(dvx_table *t, void *arg) {
  exchange_import *job = arg;
  const exchange_header *h = &job->header;
  char key[] = "import:0123456789abcdef", removed_key[] = "removed:0123456789abcdef";
  int64_t uuid, stored, removed;
  uint64_t mark;
  unsigned n = 0;
  dv_buf payload;
  exchange_hex(h->uuid, key + strlen("import:"));
  exchange_hex(h->uuid, removed_key + strlen("removed:"));
  int rc = dvx_meta_get(t, "uuid", 0, &uuid);
  if (rc == SQLITE_OK) rc = dvx_meta_get(t, key, 0, &stored);
  if (rc == SQLITE_OK) rc = dvx_meta_get(t, removed_key, 0, &removed);
  if (rc != SQLITE_OK) return rc;
  mark = (uint64_t)uuid == h->uuid ? UINT64_MAX : stored > 0 ? (uint64_t)stored : 0;
  if (h->since > mark) {
    return dvx_fail(
        t->conn, t, SQLITE_ERROR,
        "delta_import: the export begins behind seq %u, but this table has followed its origin only up to seq %u:"
        " import delta_export(…, %u) first",
        h->since, mark, mark);
  }
  bool is_as_it_was = h->removed > 0 && removed == (int64_t)h->removed;
  if (mark > 0 && h->last > mark && h->purged > mark && !is_as_it_was) {
    return dvx_fail(
        t->conn, t, SQLITE_ERROR,
        "delta_import: the origin has compacted deletes up to seq %u away, and this table has followed it only up"
        " to seq %u, so it would keep rows that are deleted there: import a full export into an empty table",
        h->purged, mark);
  }
  dv_reader r = dv_reader_of(job->bytes + job->first, job->n_bytes - job->first);
  dv_frame f;
  dv_buf_init(&payload, &dvx_alloc);
  while (rc == SQLITE_OK && dv_reader_left(&r) > 0) {
    if (dv_frame_read(&r, &f, NULL) != DV_OK) {
      rc = SQLITE_CORRUPT_VTAB; /* it was read before */
    } else if (f.seq <= mark) {
      job->n_skipped++;
    } else {
      rc = exchange_apply(job, t, &f, &payload);
      if (rc == SQLITE_OK && ++n % EXCHANGE_INTERRUPT_EVERY == 0 && dvx_is_interrupted(t->conn)) {
        rc = dvx_fail(t->conn, t, SQLITE_INTERRUPT, "delta_import was interrupted");
      }
    }
  }
  dv_buf_free(&payload);
  /* Last, because it goes into the file at once: if it fails, nothing there has changed. */
  if (rc != SQLITE_OK || h->last <= mark) return rc;
  bool is_new = h->removed > 0 && removed != (int64_t)h->removed;
  if (is_new) rc = dvx_meta_put(t, removed_key, (int64_t)h->removed);
  if (rc == SQLITE_OK) rc = dvx_meta_put(t, key, (int64_t)h->last);
  if (rc != SQLITE_OK && is_new) dvx_table_poison(t, "delta_import failed after a part of it was written");
  return rc;
}

static int exchange_run(dvx_conn *conn, sqlite3_value **argv, exchange_import *job) {
  dvx_table *t;
  int rc = dvx_table_find_argument(conn, "delta_import", argv[0], &t);
  if (rc != SQLITE_OK) return rc;
  if (sqlite3_value_type(argv[1]) != SQLITE_BLOB) {
    return dvx_fail(conn, t, SQLITE_ERROR,
                    "delta_import: the second argument is %v: expected the BLOB of a delta_export", argv[1]);
  }
  job->bytes = sqlite3_value_blob(argv[1]);
  job->n_bytes = (size_t)sqlite3_value_bytes(argv[1]);
  if (job->n_bytes > 0 && !job->bytes) return SQLITE_NOMEM;
  size_t n = (size_t)t->config->n_columns + 1;
  job->values = sqlite3_malloc64(n * sizeof *job->values);
  job->is_set = sqlite3_malloc64(n * sizeof *job->is_set);
  job->vector = sqlite3_malloc64(t->config->dimensions * sizeof *job->vector);
  if (!job->values || !job->is_set || !job->vector) return SQLITE_NOMEM;
  t->n_refs++; /* the check prepares a statement, which may make SQLite drop and connect tables anew */
  rc = exchange_check(job, t);
  if (rc == SQLITE_OK) rc = dvx_table_write(t, exchange_write, job);
  dvx_table_release(t);
  return rc;
}

/* delta_import(table, blob) */
static void exchange_import_function(sqlite3_context *ctx, int argc, sqlite3_value **argv) {
  dvx_conn *conn = dvx_context_conn(ctx);
  exchange_import job;
  (void)argc;
  memset(&job, 0, sizeof job);
  int rc = exchange_run(conn, argv, &job);
  sqlite3_free(job.values);
  sqlite3_free(job.is_set);
  sqlite3_free(job.vector);
  if (rc != SQLITE_OK) {
    dvx_give_context(conn, ctx, rc);
    return;
  }
  dvx_str s = {0};
  dvx_str_addf(&s, "{\"applied\":%u,\"skipped\":%u,", job.n_applied, job.n_skipped);
  if (job.n_applied > 0) {
    dvx_str_addf(&s, "\"firstSeq\":%u,\"lastSeq\":%u}", job.first_seq, job.last_seq);
  } else {
    dvx_str_addf(&s, "\"firstSeq\":null,\"lastSeq\":null}");
  }
  dvx_result_text(ctx, &s);
}

int dvx_exchange_register(dvx_conn *conn) {
  int rc = SQLITE_OK;
  for (int n_args = 1; rc == SQLITE_OK && n_args <= 3; n_args++) {
    rc = dvx_conn_function(conn, "delta_export", n_args, SQLITE_UTF8, exchange_export);
  }
  if (rc == SQLITE_OK) {
    rc = dvx_conn_function(conn, "delta_import", 2, SQLITE_UTF8 | SQLITE_DIRECTONLY, exchange_import_function);
  }
  return rc;
}
