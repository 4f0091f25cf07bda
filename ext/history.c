/*
 * history.c: what a table has been: delta_chain, delta_log, vector_at and delta_rollback, and how a record of the log
 * is told to the outside (a self-contained frame, its metadata as JSON).
 *
 * Owns no table and writes none: delta_rollback appends through dvx_append like any other write.
 *
 * The two table-valued functions promise to live through anything that can happen between two rows of an open SELECT:
 * the transaction commits (pending records move into the file), is rolled back (they are gone, and their seqs may be
 * given to other records), or the same connection compacts the table. So a cursor keeps no pointer into the log: it
 * remembers a seq, asks for the next record when it is stepped, and copies what its columns will need.
 */
#include "ext_int.h"

/* Vectors remembered by an expander take at most so many bytes. */
#define HISTORY_EXPANDER_BYTES ((size_t)(sizeof(void *) == 4 ? 8 : 32) << 20)

/* ---- ids and fields ---------------------------------------------------------------------------------------------- */

int dvx_history_id(dvx_table *t, sqlite3_value *v, dv_value *id, bool *is_id) {
  dv_value out;
  int type = sqlite3_value_type(v);
  memset(&out, 0, sizeof out);
  *is_id = false;
  if (type == SQLITE_NULL || type == SQLITE_BLOB) return SQLITE_OK;
  if (t->config->id_type == DVX_ID_TEXT) {
    out.type = DV_TEXT;
    out.bytes = sqlite3_value_text(v); /* a number becomes the text it would be stored as */
    if (!out.bytes) return SQLITE_NOMEM;
    out.n_bytes = (size_t)sqlite3_value_bytes(v);
  } else {
    /* As a comparison with an INTEGER column does: '17' and 17.0 are 17. */
    type = sqlite3_value_numeric_type(v);
    out.type = DV_INTEGER;
    if (type == SQLITE_INTEGER) {
      out.integer = sqlite3_value_int64(v);
    } else if (type == SQLITE_FLOAT) {
      double d = sqlite3_value_double(v);
      if (!(d >= -9223372036854775808.0 && d < 9223372036854775808.0)) return SQLITE_OK;
      out.integer = (int64_t)d;
      if ((double)out.integer != d) return SQLITE_OK;
    } else {
      return SQLITE_OK;
    }
  }
  *id = out;
  *is_id = true;
  return SQLITE_OK;
}

int dvx_history_fields(dvx_table *t, const dv_record *rec, dv_value *values, bool *is_set) {
  size_t n = (size_t)t->config->n_columns;
  bool is_all = (rec->extra & DV_RECORD_ALL_FIELDS) != 0;
  dv_reader r = dv_reader_of(rec->fields, rec->n_fields);
  uint32_t number;
  dv_value v;
  for (size_t i = 0; i < n; i++) {
    memset(&values[i], 0, sizeof values[i]);
    is_set[i] = is_all;
  }
  while (dv_numbered_next(&r, &number, &v)) {
    if (number == 0) continue; /* the id */
    if (number > n) {
      r.is_bad = true;
      break;
    }
    values[number - 1] = v;
    is_set[number - 1] = true;
  }
  if (r.is_bad) return dvx_fail(t->conn, t, SQLITE_CORRUPT_VTAB, "the metadata of delta %u is malformed", rec->seq);
  return SQLITE_OK;
}

uint64_t dvx_history_last_seq(const dvx_table *t) {
  const dvx_overlay *o = &t->overlay;
  uint64_t last = t->position.seq > t->floor_seq ? t->position.seq : t->floor_seq;
  if (o->is_open) {
    if (o->written.seq > last) last = o->written.seq;
    if (o->n_pending > 0 && o->first_seq + o->n_pending - 1 > last) last = o->first_seq + o->n_pending - 1;
  }
  return last;
}

/* ---- metadata as JSON -------------------------------------------------------------------------------------------- */

void dvx_history_json_text(dvx_str *s, const uint8_t *z, size_t n) {
  static const char hex[] = "0123456789abcdef";
  size_t from = 0;
  dvx_str_add(s, "\"", 1);
  for (size_t i = 0; i < n; i++) {
    char escape[6] = {'\\', 'u', '0', '0', 0, 0};
    size_t n_escape = 2;
    uint8_t c = z[i];
    if (c >= ' ' && c != '"' && c != '\\') continue;
    if (c == '"' || c == '\\') {
      escape[1] = (char)c;
    } else if (c == '\n') {
      escape[1] = 'n';
    } else if (c == '\r') {
      escape[1] = 'r';
    } else if (c == '\t') {
      escape[1] = 't';
    } else {
      escape[4] = hex[c >> 4];
      escape[5] = hex[c & 15];
      n_escape = 6;
    }
    dvx_str_add(s, (const char *)z + from, i - from);
    dvx_str_add(s, escape, n_escape);
    from = i + 1;
  }
  if (n > from) dvx_str_add(s, (const char *)z + from, n - from);
  dvx_str_add(s, "\"", 1);
}

static void history_json_value(dvx_str *s, const dv_value *v, dvx_column_type type) {
  static const char hex[] = "0123456789ABCDEF";
  switch (v->type) {
  case DV_NULL: dvx_str_addf(s, "null"); break;
  case DV_INTEGER:
    if (type == DVX_COLUMN_BOOLEAN && (v->integer == 0 || v->integer == 1)) {
      dvx_str_addf(s, v->integer ? "true" : "false");
    } else {
      dvx_str_addf(s, "%i", v->integer);
    }
    break;
  case DV_REAL: {
    size_t from = s->n;
    bool is_plain = true;
    if (v->real != v->real) {
      dvx_str_addf(s, "null");
      break;
    }
    if (v->real - v->real != 0) { /* infinite: a number that every JSON reader takes for infinite */
      dvx_str_addf(s, v->real > 0 ? "9e999" : "-9e999");
      break;
    }
    dvx_str_addf(s, "%I", v);
    /* 2.0 stays a REAL when it is read back. */
    for (size_t i = from; !s->is_oom && i < s->n; i++) {
      char c = s->z[i];
      if (c != '-' && (c < '0' || c > '9')) is_plain = false;
    }
    if (is_plain) dvx_str_addf(s, ".0");
    break;
  }
  case DV_TEXT: dvx_history_json_text(s, v->bytes, v->n_bytes); break;
  case DV_BLOB: /* as hex(), since JSON knows no bytes */
    dvx_str_add(s, "\"", 1);
    for (size_t i = 0; i < v->n_bytes; i++) {
      char pair[2] = {hex[v->bytes[i] >> 4], hex[v->bytes[i] & 15]};
      dvx_str_add(s, pair, 2);
    }
    dvx_str_add(s, "\"", 1);
    break;
  }
}

/* Appends what the record set of the metadata; *has_metadata is false when that is nothing. The short form's single
 * column is the object itself. A create starts from nothing, so it tells only of what is not NULL. */
static int history_metadata(dvx_table *t, const dv_record *rec, dv_value *values, bool *is_set, dvx_str *s,
                            bool *has_metadata) {
  const dvx_config *c = t->config;
  int n_set = 0;
  *has_metadata = false;
  if (c->n_columns == 0 || rec->delta.op == DV_OP_DELETE) return SQLITE_OK;
  int rc = dvx_history_fields(t, rec, values, is_set);
  if (rc != SQLITE_OK) return rc;
  for (int i = 0; i < c->n_columns; i++) {
    if (rec->delta.op == DV_OP_CREATE && values[i].type == DV_NULL) is_set[i] = false;
    if (is_set[i]) n_set++;
  }
  if (n_set == 0) return SQLITE_OK;
  *has_metadata = true;
  if (c->n_columns == 1 && c->columns[0].type == DVX_COLUMN_JSON) {
    if (values[0].type == DV_TEXT) {
      dvx_str_add(s, (const char *)values[0].bytes, values[0].n_bytes);
    } else {
      history_json_value(s, &values[0], c->columns[0].type);
    }
  } else {
    const char *before = "{";
    for (int i = 0; i < c->n_columns; i++) {
      if (!is_set[i]) continue;
      dvx_str_addf(s, "%s", before);
      dvx_history_json_text(s, (const uint8_t *)c->columns[i].name, strlen(c->columns[i].name));
      dvx_str_add(s, ":", 1);
      history_json_value(s, &values[i], c->columns[i].type);
      before = ",";
    }
    dvx_str_add(s, "}", 1);
  }
  return s->is_oom ? SQLITE_NOMEM : SQLITE_OK;
}

/* ---- self-contained deltas --------------------------------------------------------------------------------------- */

void dvx_expander_init(dvx_expander *x, dvx_table *t) {
  memset(x, 0, sizeof *x);
  x->t = t;
  dv_buf_init(&x->names, &dvx_alloc);
  dv_buf_init(&x->payload, &dvx_alloc);
}

void dvx_expander_free(dvx_expander *x) {
  if (x->t == NULL) return;
  sqlite3_free(x->vectors);
  sqlite3_free(x->seqs);
  sqlite3_free(x->vids);
  sqlite3_free(x->values);
  sqlite3_free(x->is_set);
  dv_buf_free(&x->names);
  dv_buf_free(&x->payload);
  memset(x, 0, sizeof *x);
}

/* Room for one value and one flag a column; a table without columns needs none. */
static int expander_columns(dvx_expander *x) {
  size_t n = (size_t)x->t->config->n_columns;
  if (x->values == NULL) x->values = sqlite3_malloc64((n + 1) * sizeof *x->values);
  if (x->is_set == NULL) x->is_set = sqlite3_malloc64((n + 1) * sizeof *x->is_set);
  return x->values && x->is_set ? SQLITE_OK : SQLITE_NOMEM;
}

/* Only now, when a DIFF is met: most chains have none. */
static int expander_open(dvx_expander *x) {
  if (x->vectors) return SQLITE_OK;
  size_t n_bytes = x->t->config->dimensions * sizeof(float);
  size_t n_slots = HISTORY_EXPANDER_BYTES / n_bytes, last = dvx_table_last_vid(x->t);
  if (n_slots > last) n_slots = last;
  if (n_slots == 0) n_slots = 1;
  float *vectors = sqlite3_malloc64(n_slots * n_bytes);
  uint64_t *seqs = sqlite3_malloc64(n_slots * sizeof *seqs);
  uint32_t *vids = sqlite3_malloc64(n_slots * sizeof *vids);
  if (!vectors || !seqs || !vids) {
    sqlite3_free(vectors);
    sqlite3_free(seqs);
    sqlite3_free(vids);
    return SQLITE_NOMEM;
  }
  memset(seqs, 0, n_slots * sizeof *seqs);
  memset(vids, 0, n_slots * sizeof *vids);
  x->vectors = vectors;
  x->seqs = seqs;
  x->vids = vids;
  x->n_slots = n_slots;
  x->generation = x->t->generation;
  return SQLITE_OK;
}

/* Takes note of the record's change where the row's vector before it is known, or where the record tells the whole
 * vector. */
static void expander_fold(dvx_expander *x, const dv_record *rec) {
  size_t n = x->t->config->dimensions, slot = rec->vid % x->n_slots;
  float *v = x->vectors + slot * n;
  bool is_known = x->seqs[slot] != 0 && x->vids[slot] == rec->vid;
  dv_delta d = rec->delta;
  if (is_known && rec->link != 0 && x->seqs[slot] == rec->seq - rec->link) {
    /* as it is */
  } else if (dv_encoding_is_full((int)rec->delta.encoding)) {
    is_known = true;
  } else if (rec->is_key) {
    d.op = DV_OP_DENSE;
    d.encoding = rec->full_encoding;
    d.payload = rec->full;
    d.n_payload = rec->n_full;
    is_known = true;
  } else {
    is_known = false;
  }
  if (is_known && dv_delta_apply(&d, v, n, NULL) == DV_OK) {
    x->vids[slot] = rec->vid;
    x->seqs[slot] = rec->seq;
  } else if (x->vids[slot] == rec->vid || is_known) {
    x->seqs[slot] = 0; /* behind, or half changed */
  }
}

/* The vector after the record, a DIFF. rec is invalid afterwards. */
static int expander_vector(dvx_expander *x, const dv_record *rec, const float **out) {
  uint64_t seq = rec->seq;
  uint32_t vid = rec->vid;
  size_t n = x->t->config->dimensions;
  int rc = expander_open(x);
  if (rc != SQLITE_OK) return rc;
  size_t slot = vid % x->n_slots;
  float *v = x->vectors + slot * n;
  /* What is not committed can be taken back and its seqs given away again, so it is never remembered; nor is what a
   * compaction has rewritten. */
  if (x->generation != x->t->generation) {
    memset(x->seqs, 0, x->n_slots * sizeof *x->seqs);
    x->generation = x->t->generation;
  }
  bool is_committed = seq <= x->t->position.seq;
  if (is_committed) expander_fold(x, rec);
  if (!is_committed || x->seqs[slot] != seq || x->vids[slot] != vid) {
    bool exists = false;
    x->seqs[slot] = 0;
    rc = dvx_row_vector_at(x->t, vid, seq, v, &exists);
    if (rc != SQLITE_OK) return rc;
    if (!exists)
      return dvx_fail(x->t->conn, x->t, SQLITE_CORRUPT_VTAB, "delta %u changes a row that is not there", seq);
    if (is_committed) {
      x->seqs[slot] = seq;
      x->vids[slot] = vid;
    }
  }
  *out = v;
  return SQLITE_OK;
}

int dvx_expander_frame(dvx_expander *x, const dv_record *rec, unsigned flags, dv_buf *out) {
  dvx_table *t = x->t;
  const dvx_config *c = t->config;
  size_t n = c->dimensions;
  dv_frame f;
  uint32_t vid = rec->vid;
  bool is_diff = rec->delta.encoding == DV_ENC_DIFF;
  int rc = SQLITE_OK;
  memset(&f, 0, sizeof f);
  f.flags = flags & (DV_FRAME_SEQ | DV_FRAME_ID | DV_FRAME_TIME);
  if (rec->extra & DV_RECORD_MERGED) f.flags |= flags & DV_FRAME_MERGED;
  f.seq = rec->seq;
  f.time = rec->time;
  f.delta = rec->delta;
  x->names.n = x->payload.n = 0;

  if ((flags & DV_FRAME_FIELDS) && c->n_columns > 0 && rec->delta.op != DV_OP_DELETE) {
    rc = expander_columns(x);
    if (rc == SQLITE_OK) rc = dvx_history_fields(t, rec, x->values, x->is_set);
    if (rc != SQLITE_OK) return rc;
    for (int i = 0; i < c->n_columns; i++) {
      if (!x->is_set[i] || (rec->delta.op == DV_OP_CREATE && x->values[i].type == DV_NULL)) continue;
      dv_field_write(&x->names, c->columns[i].name, strlen(c->columns[i].name), &x->values[i]);
    }
    if (x->names.status != DV_OK) return SQLITE_NOMEM;
    if (x->names.n > 0) f.flags |= DV_FRAME_FIELDS;
  }

  if (is_diff) {
    const float *v = NULL;
    rc = expander_vector(x, rec, &v);
    if (rc != SQLITE_OK) return rc;
    uint8_t *bytes = dv_buf_extend(&x->payload, n * 4);
    if (!bytes) return SQLITE_NOMEM;
    dv_vector_store(bytes, v, n);
    f.delta.encoding = DV_ENC_DENSE;
  } else {
    dv_buf_bytes(&x->payload, rec->delta.payload, rec->delta.n_payload);
    if (x->payload.status != DV_OK) return SQLITE_NOMEM;
    if (x->vectors && x->generation == t->generation && rec->seq <= t->position.seq) expander_fold(x, rec);
  }
  f.delta.payload = x->payload.data;
  f.delta.n_payload = x->payload.n;
  f.fields = x->names.data;
  f.n_fields = x->names.n;
  if (flags & DV_FRAME_ID) rc = dvx_row_id(t, vid, &f.id);
  if (rc != SQLITE_OK) return rc;
  dv_frame_write(out, &f);
  return out->status == DV_OK ? SQLITE_OK : SQLITE_NOMEM;
}

/* ---- delta_chain and delta_log ----------------------------------------------------------------------------------- */

enum {
  CHAIN_SEQ,
  CHAIN_TIMESTAMP,
  CHAIN_OPERATION,
  CHAIN_ENCODING,
  CHAIN_BYTES,
  CHAIN_CHECKPOINT,
  CHAIN_DELTA,
  CHAIN_METADATA,
  CHAIN_TABLE_NAME,
  CHAIN_ID
};

enum { FEED_SEQ, FEED_ID, FEED_TIMESTAMP, FEED_OPERATION, FEED_DELTA, FEED_METADATA, FEED_TABLE_NAME, FEED_SINCE };

/* idxNum: which arguments xFilter gets, in this order, and what the columns asked for need. */
enum {
  HISTORY_TABLE = 1,
  HISTORY_SECOND = 2, /* id or since_seq */
  HISTORY_EQ = 4, /* seq = */
  HISTORY_GT = 8,
  HISTORY_GE = 16,
  HISTORY_LT = 32,
  HISTORY_LE = 64,
  HISTORY_WANTS_DELTA = 128,
  HISTORY_WANTS_METADATA = 256,
  HISTORY_WANTS_ID = 512
};

typedef struct history_vtab {
  sqlite3_vtab base;
  dvx_conn *conn;
  bool is_log;
} history_vtab;

typedef struct history_cursor {
  sqlite3_vtab_cursor base;
  dvx_table *t; /* a read is open on it; NULL before xFilter and behind the last row */
  dvx_expander expander;
  int wants;
  sqlite3_value *table_name; /* the hidden columns' values */
  sqlite3_value *second;
  uint64_t low, high; /* seqs wanted */
  uint64_t *seqs; /* delta_chain: the chain, oldest first */
  size_t n_seqs, seq_capacity, at;
  uint32_t vid;
  uint64_t last; /* delta_log: where it stands */
  /* The current record, copied. */
  bool is_eof;
  uint64_t seq;
  int64_t time;
  dv_value id; /* its text in id_bytes */
  dv_buf id_bytes;
  int op, encoding;
  bool is_key;
  size_t n_bytes;
  dv_buf delta;
  dvx_str metadata;
  bool has_metadata;
} history_cursor;

static int history_connect(sqlite3 *db, dvx_conn *conn, bool is_log, sqlite3_vtab **out) {
  int rc = dvx_declare(
      db, is_log ? "CREATE TABLE x(seq INTEGER, id, timestamp INTEGER, operation TEXT, delta BLOB, metadata TEXT,"
                   " table_name HIDDEN, since_seq HIDDEN)"
                 : "CREATE TABLE x(seq INTEGER, timestamp INTEGER, operation TEXT, encoding TEXT, bytes INTEGER,"
                   " checkpoint INTEGER, delta BLOB, metadata TEXT, table_name HIDDEN, row_id HIDDEN)");
  if (rc != SQLITE_OK) return rc;
  history_vtab *v = sqlite3_malloc64(sizeof *v);
  if (!v) return SQLITE_NOMEM;
  memset(v, 0, sizeof *v);
  v->conn = conn;
  v->is_log = is_log;
  /* The table that is read lives in whatever schema the argument names. An error only tells of a SQLite that does not
   * know. */
  (void)dvx_vtab_config(db, SQLITE_VTAB_USES_ALL_SCHEMAS, 0);
  *out = &v->base;
  return SQLITE_OK;
}

static int history_connect_chain(sqlite3 *db, void *aux, int argc, const char *const *argv, sqlite3_vtab **out,
                                 char **message) {
  (void)argc;
  (void)argv;
  (void)message;
  return history_connect(db, aux, false, out);
}

static int history_connect_log(sqlite3 *db, void *aux, int argc, const char *const *argv, sqlite3_vtab **out,
                               char **message) {
  (void)argc;
  (void)argv;
  (void)message;
  return history_connect(db, aux, true, out);
}

static int history_disconnect(sqlite3_vtab *vtab) {
  sqlite3_free(vtab);
  return SQLITE_OK;
}

static int history_best_index(sqlite3_vtab *vtab, sqlite3_index_info *info) {
  bool is_log = ((history_vtab *)vtab)->is_log;
  int table_column = CHAIN_TABLE_NAME, second_column = CHAIN_ID;
  int delta_column = CHAIN_DELTA, metadata_column = CHAIN_METADATA;
  if (is_log) {
    table_column = FEED_TABLE_NAME;
    second_column = FEED_SINCE;
    delta_column = FEED_DELTA;
    metadata_column = FEED_METADATA;
  }
  int which[7] = {-1, -1, -1, -1, -1, -1, -1}; /* constraint for each argument */
  int flags = 0, n_args = 0;
  for (int i = 0; i < info->nConstraint; i++) {
    const struct sqlite3_index_constraint *c = &info->aConstraint[i];
    int slot = -1;
    if (c->iColumn == table_column || c->iColumn == second_column) {
      if (c->op != SQLITE_INDEX_CONSTRAINT_EQ) continue;
      /* An argument that is not known yet in this order of tables: the order is impossible. */
      if (!c->usable) return SQLITE_CONSTRAINT;
      slot = c->iColumn == table_column ? 0 : 1;
    } else if (c->usable && (c->iColumn == 0 || c->iColumn == -1)) {
      switch (c->op) {
      case SQLITE_INDEX_CONSTRAINT_EQ: slot = 2; break;
      case SQLITE_INDEX_CONSTRAINT_GT: slot = 3; break;
      case SQLITE_INDEX_CONSTRAINT_GE: slot = 4; break;
      case SQLITE_INDEX_CONSTRAINT_LT: slot = 5; break;
      case SQLITE_INDEX_CONSTRAINT_LE: slot = 6; break;
      default: break;
      }
    }
    if (slot >= 0 && which[slot] < 0) which[slot] = i;
  }
  for (int slot = 0; slot < 7; slot++) {
    if (which[slot] < 0) continue;
    flags |= 1 << slot;
    info->aConstraintUsage[which[slot]].argvIndex = ++n_args;
    /* A bound on seq is a hint: its value may be of any type, so SQLite compares once more. */
    info->aConstraintUsage[which[slot]].omit = slot < 2;
  }
  if (info->colUsed >> delta_column & 1) flags |= HISTORY_WANTS_DELTA;
  if (info->colUsed >> metadata_column & 1) flags |= HISTORY_WANTS_METADATA;
  if (is_log && (info->colUsed >> FEED_ID & 1)) flags |= HISTORY_WANTS_ID;
  info->idxNum = flags;
  info->estimatedCost = is_log ? 100000.0 : 100.0;
  info->estimatedRows = is_log ? 100000 : 100;
  if (flags & HISTORY_EQ) {
    info->estimatedCost = 1.0;
    info->estimatedRows = 1;
    info->idxFlags = SQLITE_INDEX_SCAN_UNIQUE;
  } else if (flags & (HISTORY_GT | HISTORY_GE)) {
    info->estimatedCost /= 4;
    info->estimatedRows /= 4;
  }
  if (info->nOrderBy == 1 && (info->aOrderBy[0].iColumn == 0 || info->aOrderBy[0].iColumn == -1) &&
      !info->aOrderBy[0].desc) {
    info->orderByConsumed = 1;
  }
  return SQLITE_OK;
}

static int history_open(sqlite3_vtab *vtab, sqlite3_vtab_cursor **out) {
  (void)vtab;
  history_cursor *c = sqlite3_malloc64(sizeof *c);
  if (!c) return SQLITE_NOMEM;
  memset(c, 0, sizeof *c);
  dv_buf_init(&c->delta, &dvx_alloc);
  dv_buf_init(&c->id_bytes, &dvx_alloc);
  c->is_eof = true;
  *out = &c->base;
  return SQLITE_OK;
}

/* Lets go of the table: the cursor is behind its last row, or failed. */
static void history_end(history_cursor *c) {
  c->is_eof = true;
  dvx_expander_free(&c->expander);
  if (c->t) dvx_table_end_read(c->t);
  c->t = NULL;
}

static int history_close(sqlite3_vtab_cursor *cursor) {
  history_cursor *c = (history_cursor *)cursor;
  history_end(c);
  sqlite3_value_free(c->table_name);
  sqlite3_value_free(c->second);
  sqlite3_free(c->seqs);
  dv_buf_free(&c->delta);
  dv_buf_free(&c->id_bytes);
  dvx_str_free(&c->metadata);
  sqlite3_free(c);
  return SQLITE_OK;
}

/* Copies what the columns need. rec is invalid afterwards. */
static int history_take(history_cursor *c, const dv_record *rec) {
  int rc = SQLITE_OK;
  c->seq = rec->seq;
  c->time = rec->time;
  uint32_t vid = rec->vid;
  c->op = (int)rec->delta.op;
  c->encoding = (int)rec->delta.encoding;
  c->is_key = rec->is_key;
  c->n_bytes = rec->delta.n_payload + (rec->is_key && !dv_encoding_is_full(c->encoding) ? rec->n_full : 0);
  c->has_metadata = false;
  if (c->wants & HISTORY_WANTS_METADATA) {
    c->metadata.n = 0;
    rc = expander_columns(&c->expander);
    if (rc == SQLITE_OK) {
      rc = history_metadata(c->t, rec, c->expander.values, c->expander.is_set, &c->metadata, &c->has_metadata);
    }
  }
  if (rc == SQLITE_OK && (c->wants & HISTORY_WANTS_DELTA)) {
    c->delta.n = 0;
    rc = dvx_expander_frame(&c->expander, rec, 0, &c->delta);
  }
  if (rc == SQLITE_OK && (c->wants & HISTORY_WANTS_ID)) {
    rc = dvx_row_id(c->t, vid, &c->id);
    if (rc == SQLITE_OK && c->id.type == DV_TEXT) {
      c->id_bytes.n = 0;
      dv_buf_bytes(&c->id_bytes, c->id.bytes, c->id.n_bytes);
      if (c->id_bytes.status != DV_OK) return SQLITE_NOMEM;
      c->id.bytes = c->id_bytes.data;
    }
  }
  return rc;
}

/* Lists the seqs of the row's chain that are wanted, oldest first. A link always leads to a smaller seq, so a damaged
 * one cannot make this run in circles. */
static int history_collect(history_cursor *c) {
  uint64_t seq = dvx_word_seq(dvx_row_word(c->t, c->vid));
  c->n_seqs = c->at = 0;
  while (seq != 0 && seq >= c->low) {
    dv_record rec;
    int rc = dvx_log_change(c->t, seq, &rec);
    if (rc != SQLITE_OK) return rc;
    if (rec.vid != c->vid || rec.link >= seq) {
      return dvx_fail(c->t->conn, c->t, SQLITE_CORRUPT_VTAB, "delta %u does not belong to the chain that leads to it",
                      seq);
    }
    if (seq <= c->high) {
      if (c->n_seqs == c->seq_capacity) {
        size_t capacity = c->seq_capacity ? c->seq_capacity * 2 : 64;
        uint64_t *grown = sqlite3_realloc64(c->seqs, capacity * sizeof *grown);
        if (!grown) return SQLITE_NOMEM;
        c->seqs = grown;
        c->seq_capacity = capacity;
      }
      c->seqs[c->n_seqs++] = seq;
    }
    seq = rec.link ? seq - rec.link : 0;
  }
  for (size_t i = 0; i < c->n_seqs / 2; i++) {
    uint64_t other = c->seqs[c->n_seqs - 1 - i];
    c->seqs[c->n_seqs - 1 - i] = c->seqs[i];
    c->seqs[i] = other;
  }
  return SQLITE_OK;
}

/* The next wanted record; SQLITE_DONE behind the last. */
static int history_fetch(history_cursor *c, bool is_log, dv_record *rec) {
  if (is_log) {
    if (c->last >= c->high) return SQLITE_DONE;
    int rc = dvx_log_next(c->t, c->last, rec);
    if (rc != SQLITE_OK) return rc;
    c->last = rec->seq;
    return rec->seq > c->high ? SQLITE_DONE : SQLITE_OK;
  }
  /* A chain whose end was rolled back, or whose beginning was compacted away, since it was listed: what is gone is
   * skipped. dvx_log_next() tells of a missing record without calling it damage. */
  while (c->at < c->n_seqs) {
    uint64_t seq = c->seqs[c->at++];
    int rc = dvx_log_next(c->t, seq - 1, rec);
    if (rc != SQLITE_OK) return rc;
    if (rec->seq == seq && rec->vid == c->vid) return SQLITE_OK;
  }
  return SQLITE_DONE;
}

static int history_next(sqlite3_vtab_cursor *cursor) {
  history_cursor *c = (history_cursor *)cursor;
  history_vtab *v = (history_vtab *)cursor->pVtab;
  dv_record rec;
  int rc = history_fetch(c, v->is_log, &rec);
  if (rc == SQLITE_OK) rc = history_take(c, &rec);
  if (rc == SQLITE_OK) return SQLITE_OK;
  history_end(c);
  return rc == SQLITE_DONE ? SQLITE_OK : dvx_give_vtab(v->conn, cursor->pVtab, rc);
}

/* since_seq: NULL is the beginning, so that "SELECT max(seq)" of an empty list of what was seen does what is meant. */
static int history_since(dvx_conn *conn, const dvx_table *t, sqlite3_value *v, uint64_t *out) {
  int type = sqlite3_value_numeric_type(v);
  int64_t since = 0;
  if (type == SQLITE_INTEGER) {
    since = sqlite3_value_int64(v);
  } else if (type != SQLITE_NULL) {
    return dvx_fail(conn, t, SQLITE_ERROR,
                    "since_seq is %v: expected the seq of the last delta already seen, an integer", v);
  }
  *out = since > 0 ? (uint64_t)since : 0;
  return SQLITE_OK;
}

static void history_narrow(history_cursor *c, int flag, sqlite3_value *v) {
  if (sqlite3_value_type(v) != SQLITE_INTEGER) return;
  int64_t i = sqlite3_value_int64(v);
  uint64_t u = i > 0 ? (uint64_t)i : 0;
  if ((flag & HISTORY_GT) && u < UINT64_MAX) {
    if (i >= 0 && u + 1 > c->low) c->low = u + 1;
  } else if ((flag & (HISTORY_GE | HISTORY_EQ)) && u > c->low) {
    c->low = u;
  }
  if (flag & HISTORY_LT) {
    u = u ? u - 1 : 0;
    if (u < c->high) c->high = u;
  } else if ((flag & (HISTORY_LE | HISTORY_EQ)) && u < c->high) {
    c->high = u;
  }
}

static int history_filter(sqlite3_vtab_cursor *cursor, int flags, const char *plan, int argc, sqlite3_value **argv) {
  history_cursor *c = (history_cursor *)cursor;
  history_vtab *v = (history_vtab *)cursor->pVtab;
  dvx_conn *conn = v->conn;
  dvx_table *t = NULL;
  int arg = 0, rc = SQLITE_OK;
  uint64_t since = 0;
  (void)plan;
  (void)argc;
  history_end(c);
  sqlite3_value_free(c->table_name);
  sqlite3_value_free(c->second);
  c->table_name = c->second = NULL;
  c->wants = flags;
  c->low = 1;
  c->high = INT64_MAX;
  c->n_seqs = c->at = 0;
  if (!(flags & HISTORY_TABLE) || (!v->is_log && !(flags & HISTORY_SECOND))) {
    rc = dvx_fail(conn, NULL, SQLITE_ERROR, "%s",
                  v->is_log ? "delta_log needs the name of a table: delta_log('docs') or delta_log('docs', since_seq)"
                            : "delta_chain needs the name of a table and the id of a row: delta_chain('docs', 'a')");
    return dvx_give_vtab(conn, cursor->pVtab, rc);
  }
  c->table_name = sqlite3_value_dup(argv[arg++]);
  if (!c->table_name) return SQLITE_NOMEM;
  if (flags & HISTORY_SECOND) {
    c->second = sqlite3_value_dup(argv[arg++]);
    if (!c->second) return SQLITE_NOMEM;
  }
  for (int flag = HISTORY_EQ; flag <= HISTORY_LE; flag <<= 1) {
    if (flags & flag) history_narrow(c, flag, argv[arg++]);
  }
  rc = dvx_table_find_argument_to_read(conn, v->is_log ? "delta_log" : "delta_chain", c->table_name, &t);
  if (rc == SQLITE_OK) {
    c->t = t;
    c->is_eof = false;
    dvx_expander_init(&c->expander, t);
    if (v->is_log) {
      if (c->second) rc = history_since(conn, t, c->second, &since);
      if (since + 1 > c->low) c->low = since + 1;
      c->last = c->low - 1;
      /* A statement that appends what it reads ("… delta_apply(…) FROM delta_log(…)") must come to an end. */
      uint64_t last = dvx_history_last_seq(t);
      if (last < c->high) c->high = last;
    } else {
      dv_value id;
      bool is_id;
      c->vid = 0;
      rc = dvx_history_id(t, c->second, &id, &is_id);
      if (rc == SQLITE_OK && is_id) rc = dvx_row_find(t, &id, &c->vid);
      if (rc == SQLITE_OK && c->vid != 0) rc = history_collect(c);
    }
  }
  if (rc != SQLITE_OK) {
    history_end(c);
    return dvx_give_vtab(conn, cursor->pVtab, rc);
  }
  return history_next(cursor);
}

static int history_eof(sqlite3_vtab_cursor *cursor) { return ((history_cursor *)cursor)->is_eof; }

static int history_hidden(sqlite3_context *ctx, sqlite3_value *v) {
  dv_value value;
  if (!v) return SQLITE_OK;
  int rc = dvx_value_of(NULL, v, &value);
  if (rc == SQLITE_OK) dvx_result_value(ctx, &value);
  return rc;
}

static void history_name(sqlite3_context *ctx, const char *name) {
  if (name) sqlite3_result_text(ctx, name, -1, SQLITE_STATIC);
}

static int history_column(sqlite3_vtab_cursor *cursor, sqlite3_context *ctx, int column) {
  history_cursor *c = (history_cursor *)cursor;
  history_vtab *v = (history_vtab *)cursor->pVtab;
  /* delta_log's columns by the names of delta_chain's, where they mean the same. */
  if (v->is_log) {
    static const int as_chain[] = {
        CHAIN_SEQ, -1, CHAIN_TIMESTAMP, CHAIN_OPERATION, CHAIN_DELTA, CHAIN_METADATA, CHAIN_TABLE_NAME, CHAIN_ID};
    if (column == FEED_ID) {
      dvx_result_value(ctx, &c->id);
      return SQLITE_OK;
    }
    column = as_chain[column];
  }
  switch (column) {
  case CHAIN_SEQ: sqlite3_result_int64(ctx, (int64_t)c->seq); break;
  case CHAIN_TIMESTAMP: sqlite3_result_int64(ctx, c->time); break;
  case CHAIN_OPERATION: history_name(ctx, dv_op_name(c->op)); break;
  case CHAIN_ENCODING: history_name(ctx, dv_encoding_name(c->encoding)); break;
  case CHAIN_BYTES: sqlite3_result_int64(ctx, (int64_t)c->n_bytes); break;
  case CHAIN_CHECKPOINT: sqlite3_result_int(ctx, c->is_key); break;
  case CHAIN_DELTA: dvx_result_blob(ctx, c->delta.data, c->delta.n); break;
  case CHAIN_METADATA:
    if (!c->has_metadata) break;
    if (c->metadata.n > INT32_MAX)
      sqlite3_result_error_toobig(ctx);
    else
      sqlite3_result_text(ctx, c->metadata.z, (int)c->metadata.n, SQLITE_TRANSIENT);
    break;
  case CHAIN_TABLE_NAME: return history_hidden(ctx, c->table_name);
  default: return history_hidden(ctx, c->second);
  }
  return SQLITE_OK;
}

static int history_rowid(sqlite3_vtab_cursor *cursor, sqlite3_int64 *out) {
  *out = (int64_t)((history_cursor *)cursor)->seq;
  return SQLITE_OK;
}

/* Without xCreate a module is eponymous only. */
static const sqlite3_module history_chain_module = {
    .iVersion = 0,
    .xConnect = history_connect_chain,
    .xBestIndex = history_best_index,
    .xDisconnect = history_disconnect,
    .xOpen = history_open,
    .xClose = history_close,
    .xFilter = history_filter,
    .xNext = history_next,
    .xEof = history_eof,
    .xColumn = history_column,
    .xRowid = history_rowid,
};

static const sqlite3_module history_log_module = {
    .iVersion = 0,
    .xConnect = history_connect_log,
    .xBestIndex = history_best_index,
    .xDisconnect = history_disconnect,
    .xOpen = history_open,
    .xClose = history_close,
    .xFilter = history_filter,
    .xNext = history_next,
    .xEof = history_eof,
    .xColumn = history_column,
    .xRowid = history_rowid,
};

/* ---- vector_at --------------------------------------------------------------------------------------------------- */

static int history_vector_now(dvx_table *t, uint32_t vid, sqlite3_context *ctx) {
  const float *v = NULL;
  int rc = dvx_row_vector(t, vid, &v);
  if (rc == SQLITE_OK) dvx_result_vector(t->conn, ctx, v, t->config->dimensions);
  return rc;
}

static int history_vector_then(dvx_table *t, uint32_t vid, sqlite3_value *when, sqlite3_context *ctx) {
  int64_t time;
  uint64_t seq = 0;
  bool exists = false;
  if (sqlite3_value_type(when) == SQLITE_NULL) return SQLITE_OK;
  int rc = dvx_time_parse(t->conn, t, NULL, when, &time);
  if (rc != SQLITE_OK || vid == 0) return rc;
  rc = dvx_row_seq_at(t, vid, time, &seq);
  if (rc != SQLITE_OK || seq == 0) return rc;
  uint64_t word = dvx_row_word(t, vid);
  if (seq == dvx_word_seq(word)) return dvx_word_exists(word) ? history_vector_now(t, vid, ctx) : SQLITE_OK;
  float *v = sqlite3_malloc64(t->config->dimensions * sizeof *v);
  if (!v) return SQLITE_NOMEM;
  rc = dvx_row_vector_at(t, vid, seq, v, &exists);
  if (rc == SQLITE_OK && exists) dvx_result_vector(t->conn, ctx, v, t->config->dimensions);
  sqlite3_free(v);
  return rc;
}

static void history_release(void *t) { dvx_table_end_read(t); }

/* Finds the table and begins a read of it, which the caller ends.
 *
 * A statement that reads no table itself would open and close a transaction for every call of vector_at. So the first
 * call that opens one leaves a second read of the table with the statement, as auxiliary data of the first argument,
 * which SQLite drops when the statement ends (or at once, when that argument is no constant). */
static int history_begin(sqlite3_context *ctx, sqlite3_value *name, dvx_table **out) {
  dvx_conn *conn = dvx_context_conn(ctx);
  dvx_table *t = sqlite3_get_auxdata(ctx, 0);
  if (t && t->is_pinned) { /* else what it leaned on has ended: then memory has to be looked at anew */
    *out = t;
    return dvx_table_begin_read(t);
  }
  if (t) sqlite3_set_auxdata(ctx, 0, NULL, NULL);
  int rc = dvx_table_find_argument_to_read(conn, "vector_at", name, &t);
  if (rc == SQLITE_OK && t->is_pinned && t->n_reads == 1) {
    rc = dvx_table_begin_read(t);
    sqlite3_set_auxdata(ctx, 0, t, history_release); /* without memory for it, it is released here and now */
  }
  *out = t;
  return rc;
}

/* vector_at(table, id [, time]). Without a time it is called in the inner loop of queries: nothing is allocated. */
static void history_vector_at(sqlite3_context *ctx, int argc, sqlite3_value **argv) {
  dvx_conn *conn = dvx_context_conn(ctx);
  dvx_table *t = NULL;
  int rc = history_begin(ctx, argv[0], &t);
  if (rc == SQLITE_OK) {
    dv_value id;
    bool is_id;
    uint32_t vid = 0;
    rc = dvx_history_id(t, argv[1], &id, &is_id);
    if (rc == SQLITE_OK && is_id) rc = dvx_row_find(t, &id, &vid);
    if (rc == SQLITE_OK && argc == 3) {
      rc = history_vector_then(t, vid, argv[2], ctx);
    } else if (rc == SQLITE_OK && vid != 0 && dvx_word_exists(dvx_row_word(t, vid))) {
      rc = history_vector_now(t, vid, ctx);
    }
    dvx_table_end_read(t);
  }
  if (rc != SQLITE_OK) dvx_give_context(conn, ctx, rc);
}

/* ---- delta_rollback ---------------------------------------------------------------------------------------------- */

typedef struct history_rollback {
  sqlite3_value *id;
  uint64_t to;
  uint64_t seq; /* out */
} history_rollback;

/* Is `to` one of the row's deltas? If not, an error that names those around it. */
static int history_check_seq(dvx_table *t, uint32_t vid, const dv_value *id, uint64_t to) {
  uint64_t seq = dvx_word_seq(dvx_row_word(t, vid)), above = 0;
  while (seq > to) {
    dv_record rec;
    int rc = dvx_log_change(t, seq, &rec);
    if (rc != SQLITE_OK) return rc;
    if (rec.vid != vid || rec.link >= seq) {
      return dvx_fail(t->conn, t, SQLITE_CORRUPT_VTAB, "delta %u does not belong to the chain that leads to it", seq);
    }
    above = seq;
    seq = rec.link ? seq - rec.link : 0;
  }
  if (seq == to && seq != 0) return SQLITE_OK;
  if (seq != 0 && above != 0) {
    return dvx_fail(
        t->conn, t, SQLITE_ERROR,
        "delta_rollback: row %I has no delta %u; the nearest are %u and %u (all: SELECT * FROM delta_chain)", id, to,
        seq, above);
  }
  return dvx_fail(t->conn, t, SQLITE_ERROR,
                  "delta_rollback: row %I has no delta %u; its %s is %u (all: SELECT * FROM delta_chain)", id, to,
                  above ? "first" : "last", above ? above : seq);
}

static bool history_same_bits(double a, double b) {
  uint64_t a_bits, b_bits;
  memcpy(&a_bits, &a, sizeof a);
  memcpy(&b_bits, &b, sizeof b);
  return a_bits == b_bits;
}

static bool history_same(const dv_value *a, const dv_value *b) {
  if (a->type != b->type) return false;
  switch (a->type) {
  case DV_NULL: return true;
  case DV_INTEGER: return a->integer == b->integer;
  case DV_REAL: return history_same_bits(a->real, b->real);
  case DV_TEXT:
  case DV_BLOB: break;
  }
  return a->n_bytes == b->n_bytes && (a->n_bytes == 0 || memcmp(a->bytes, b->bytes, a->n_bytes) == 0);
}

static int history_rollback_write(dvx_table *t, void *arg) {
  history_rollback *job = arg;
  const dvx_config *c = t->config;
  size_t n_columns = (size_t)c->n_columns;
  dv_value *then = NULL, *now = NULL;
  bool *is_set = NULL, is_id, existed = false;
  float *v = NULL;
  dv_value id;
  dv_buf hold, payload;
  dvx_change change;
  uint32_t vid = 0;
  dv_buf_init(&hold, &dvx_alloc);
  dv_buf_init(&payload, &dvx_alloc);
  memset(&change, 0, sizeof change);

  int rc = dvx_history_id(t, job->id, &id, &is_id);
  if (rc == SQLITE_OK && is_id) rc = dvx_row_find(t, &id, &vid);
  if (rc == SQLITE_OK && vid == 0) {
    rc = dvx_fail(t->conn, t, SQLITE_ERROR, "delta_rollback: there is no row %v", job->id);
  }
  if (rc == SQLITE_OK) rc = history_check_seq(t, vid, &id, job->to);
  if (rc != SQLITE_OK) goto done;

  v = sqlite3_malloc64(c->dimensions * sizeof *v);
  then = sqlite3_malloc64((n_columns + 1) * sizeof *then);
  now = sqlite3_malloc64((n_columns + 1) * sizeof *now);
  is_set = sqlite3_malloc64((n_columns + 1) * sizeof *is_set);
  if (!v || !then || !now || !is_set) {
    rc = SQLITE_NOMEM;
    goto done;
  }
  memset(is_set, 0, (n_columns + 1) * sizeof *is_set);
  rc = dvx_row_vector_at(t, vid, job->to, v, &existed);
  if (rc == SQLITE_OK && existed && n_columns) rc = dvx_row_fields_at(t, vid, job->to, &hold, then);
  if (rc != SQLITE_OK) goto done;

  uint64_t word = dvx_row_word(t, vid);
  change.vid = vid;
  if (!existed && !dvx_word_exists(word)) {
    job->seq = dvx_word_seq(word); /* deleted then as now: nothing to restore */
    goto done;
  }
  if (!existed) {
    change.delta.op = DV_OP_DELETE;
    change.delta.encoding = DV_ENC_NONE;
  } else if (!dvx_word_exists(word)) {
    change.fields = then;
    dv_delta_encode_dense(&payload, &change.delta, DV_OP_CREATE, NULL, v, c->dimensions, c->compression);
  } else {
    const float *from;
    bool has_fields = false;
    if (n_columns) rc = dvx_row_fields(t, vid, now);
    for (size_t i = 0; rc == SQLITE_OK && i < n_columns; i++) {
      is_set[i] = !history_same(&now[i], &then[i]);
      has_fields = has_fields || is_set[i];
    }
    if (has_fields) {
      change.fields = then;
      change.is_set = is_set;
    }
    if (rc == SQLITE_OK) rc = dvx_row_vector(t, vid, &from);
    if (rc != SQLITE_OK) goto done;
    dv_delta_encode_dense(&payload, &change.delta, DV_OP_DENSE, from, v, c->dimensions, c->compression);
  }
  if (payload.status != DV_OK) {
    rc = SQLITE_NOMEM;
    goto done;
  }
  change.delta.payload = payload.data;
  rc = dvx_append(t, &change, &job->seq);

done:
  dv_buf_free(&hold);
  dv_buf_free(&payload);
  sqlite3_free(v);
  sqlite3_free(then);
  sqlite3_free(now);
  sqlite3_free(is_set);
  return rc;
}

/* delta_rollback(table, id, seq) */
static void history_rollback_to(sqlite3_context *ctx, int argc, sqlite3_value **argv) {
  dvx_conn *conn = dvx_context_conn(ctx);
  dvx_table *t;
  (void)argc;
  int rc = dvx_table_find_argument(conn, "delta_rollback", argv[0], &t);
  if (rc == SQLITE_OK && (sqlite3_value_numeric_type(argv[2]) != SQLITE_INTEGER || sqlite3_value_int64(argv[2]) < 0)) {
    rc = dvx_fail(conn, t, SQLITE_ERROR,
                  "delta_rollback: seq is %v: expected the seq of one of the row's deltas (see delta_chain)", argv[2]);
  }
  if (rc == SQLITE_OK) {
    history_rollback job = {argv[1], (uint64_t)sqlite3_value_int64(argv[2]), 0};
    rc = dvx_table_write(t, history_rollback_write, &job);
    if (rc == SQLITE_OK) sqlite3_result_int64(ctx, (int64_t)job.seq);
  }
  if (rc != SQLITE_OK) dvx_give_context(conn, ctx, rc);
}

int dvx_history_register(dvx_conn *conn) {
  int rc = dvx_conn_module(conn, "delta_chain", &history_chain_module);
  if (rc == SQLITE_OK) rc = dvx_conn_module(conn, "delta_log", &history_log_module);
  if (rc == SQLITE_OK) rc = dvx_conn_function(conn, "vector_at", 2, SQLITE_UTF8, history_vector_at);
  if (rc == SQLITE_OK) rc = dvx_conn_function(conn, "vector_at", 3, SQLITE_UTF8, history_vector_at);
  if (rc == SQLITE_OK) {
    rc = dvx_conn_function(conn, "delta_rollback", 3, SQLITE_UTF8 | SQLITE_DIRECTONLY, history_rollback_to);
  }
  return rc;
}
