/*
 * compact.c: delta_compact: versions older than the retention are merged into one state per row, and the log is written
 * anew without them.
 *
 * For each row the retention chooses a base: the last delta that is older than what must be kept. Everything up to the
 * base becomes one record at the base's seq and time: a create (flag MERGED) with the whole vector and all metadata.
 * What follows keeps its seq, time, payload and link. Where the base is a delete, there is no state to write down: the
 * row's history then begins with the create behind it (which gets the flag MERGED too, because whoever follows the log
 * may never hear of the delete), or, with nothing behind it, the row disappears with its line in %_row.
 *
 * Two or three passes over the log: to choose the bases (8 bytes a row, 12 for a retention in versions), then to copy.
 * The new log grows under negative keys beside the old one, which stays readable, so that base states can be folded
 * while the copy is under way; dvx_log_rewrite_finish() puts it in place. All of it is in the caller's transaction. A
 * failure behind the first write leaves half a copy in the file, which an autocommit statement takes back by itself;
 * inside BEGIN nothing would (SQLite gives the call no statement journal), so the commit is vetoed: dvx_table_poison().
 *
 * %_meta keys: 'absent': seqs up to the last one that have no record any more; 'purged': largest seq of a delete that
 * was dropped. Who has followed the log only up to a smaller seq than that cannot learn of the delete: delta_import
 * checks it.
 */
#include "ext_int.h"

#define COMPACT_INTERRUPT_EVERY 256u

/* Marks a base that is a delete. Seqs stay below 2^48: they share a head word with 16 bits of state. */
#define COMPACT_IS_DELETE ((uint64_t)1 << 63)

typedef struct compact_job {
  dvx_keep keep;
  sqlite3_value *id; /* NULL: every row */
  sqlite3_value *owned_id;
  dvx_table *t;
  uint32_t only_vid;
  int64_t cutoff;   /* keep in milliseconds: what is not later than this may be merged */
  uint32_t last_vid;
  uint32_t *counts; /* keep in versions: records of each row not yet passed */
  uint64_t *bases;  /* by vid: seq of the base | COMPACT_IS_DELETE; 0: the row stays as it is */
  unsigned n_seen;
  /* Statistics. */
  uint64_t n_rows;
  uint64_t n_before, n_after, n_merged, n_removed;
  uint64_t purged;
  int64_t bytes_before, bytes_after;
} compact_job;

#define COMPACT_POLL_EVERY 64u

#if !defined(SQLITE_CORE) || SQLITE_VERSION_NUMBER < 3041000
/* SQLite before 3.41 does not tell; but no statement goes a step when it is so. */
static bool compact_probe(dvx_conn *conn) {
  sqlite3_stmt *stmt = conn->probe_stmt;
  conn->probe_stmt = NULL;
  int rc = SQLITE_OK;
  if (!stmt) rc = sqlite3_prepare_v3(conn->db, "SELECT 1", -1, SQLITE_PREPARE_NO_VTAB, &stmt, NULL);
  if (rc == SQLITE_OK) rc = sqlite3_step(stmt);
  (void)sqlite3_reset(stmt);
  /* Not dvx_conn_keep() alone: to begin to watch is one of the things that ask here why they failed. */
  if (conn->has_sentinel)
    dvx_conn_keep(conn, &conn->probe_stmt, stmt);
  else
    (void)sqlite3_finalize(stmt);
  return rc == SQLITE_INTERRUPT;
}
#endif

bool dvx_is_interrupted(dvx_conn *conn) {
#if defined(SQLITE_CORE) && SQLITE_VERSION_NUMBER >= 3041000
  return sqlite3_is_interrupted(conn->db) != 0;
#else
#if SQLITE_VERSION_NUMBER >= 3041000
  /* Older libraries have a shorter table of functions. */
  if (sqlite3_libversion_number() >= 3041000) return sqlite3_is_interrupted(conn->db) != 0;
#endif
  return compact_probe(conn);
#endif
}

int dvx_poll(dvx_table *t) {
  if (++t->conn->n_polls % COMPACT_POLL_EVERY != 0 || !dvx_is_interrupted(t->conn)) return SQLITE_OK;
  return dvx_fail(t->conn, t, SQLITE_INTERRUPT, "it was interrupted");
}

static int compact_poll(compact_job *job) {
  if (++job->n_seen % COMPACT_INTERRUPT_EVERY != 0 || !dvx_is_interrupted(job->t->conn)) return SQLITE_OK;
  return dvx_fail(job->t->conn, job->t, SQLITE_INTERRUPT, "delta_compact was interrupted");
}

/* ---- choosing the bases ------------------------------------------------------------------------------------------ */

static int compact_visit_count(void *ctx, const dv_record *rec) {
  compact_job *job = ctx;
  if (rec->vid <= job->last_vid) job->counts[rec->vid]++;
  return compact_poll(job);
}

/* Every record up to the base is a candidate; the last candidate of a row is its base. */
static int compact_visit_base(void *ctx, const dv_record *rec) {
  compact_job *job = ctx;
  bool is_candidate = false;
  job->n_before++;
  if (rec->vid == 0 || rec->vid > job->last_vid) {
    return dvx_fail(job->t->conn, job->t, SQLITE_CORRUPT_VTAB, "delta %u belongs to row number %u, which is not there",
                    rec->seq, (uint64_t)rec->vid);
  }
  switch (job->keep.unit) {
  case DVX_KEEP_FOREVER: break;
  case DVX_KEEP_NONE: is_candidate = true; break;
  case DVX_KEEP_MILLISECONDS: is_candidate = rec->time <= job->cutoff; break;
  case DVX_KEEP_VERSIONS: is_candidate = --job->counts[rec->vid] >= (uint64_t)job->keep.amount - 1; break;
  }
  if (is_candidate && (job->only_vid == 0 || rec->vid == job->only_vid)) {
    bool is_delete = rec->delta.op == DV_OP_DELETE;
    /* A row's first record is a full state already: as long as it is the only candidate, the row stays as it is. */
    job->bases[rec->vid] = rec->link == 0 ? 0 : rec->seq | (is_delete ? COMPACT_IS_DELETE : 0);
    if (rec->link != 0) job->n_merged++;
  }
  return compact_poll(job);
}

static int compact_choose(compact_job *job) {
  dvx_table *t = job->t;
  size_t n = (size_t)job->last_vid + 1;
  dvx_position start;
  int rc = SQLITE_OK;
  memset(&start, 0, sizeof start);
  start.max_time = INT64_MIN;
  job->bases = sqlite3_malloc64(n * sizeof *job->bases);
  if (!job->bases) return SQLITE_NOMEM;
  memset(job->bases, 0, n * sizeof *job->bases);
  if (job->keep.unit == DVX_KEEP_VERSIONS) {
    dvx_position from = start;
    job->counts = sqlite3_malloc64(n * sizeof *job->counts);
    if (!job->counts) return SQLITE_NOMEM;
    memset(job->counts, 0, n * sizeof *job->counts);
    rc = dvx_log_scan(t, &from, SIZE_MAX, compact_visit_count, job);
  }
  if (rc == SQLITE_OK) rc = dvx_log_scan(t, &start, SIZE_MAX, compact_visit_base, job);
  sqlite3_free(job->counts);
  job->counts = NULL;
  return rc;
}

/* ---- copying ----------------------------------------------------------------------------------------------------- */

typedef struct compact_copy {
  compact_job *job;
  dvx_rewrite rewrite;
  float *vector;
  dv_value *values;
  dv_buf fields, payload;
} compact_copy;

/* The record that stands for everything up to and with `seq`. */
static int compact_write_base(compact_copy *k, uint32_t vid, uint64_t seq, int64_t time) {
  dvx_table *t = k->job->t;
  const dvx_config *c = t->config;
  size_t n_columns = (size_t)c->n_columns;
  const float *v = k->vector;
  dv_buf hold;
  dv_value id;
  dv_record rec;
  bool exists = true;
  int rc;
  dv_buf_init(&hold, &dvx_alloc);
  memset(&rec, 0, sizeof rec);
  k->fields.n = k->payload.n = 0;
  if (dvx_word_seq(dvx_row_word(t, vid)) == seq) {
    rc = dvx_row_vector(t, vid, &v);
  } else {
    rc = dvx_row_vector_at(t, vid, seq, k->vector, &exists);
  }
  if (rc == SQLITE_OK && !exists) {
    rc = dvx_fail(t->conn, t, SQLITE_CORRUPT_VTAB, "delta %u changes a row that is not there", seq);
  }
  if (rc == SQLITE_OK) {
    dv_delta_encode_dense(&k->payload, &rec.delta, DV_OP_CREATE, NULL, v, c->dimensions, c->compression);
    rc = dvx_row_id(t, vid, &id);
  }
  if (rc == SQLITE_OK) {
    dv_numbered_write(&k->fields, 0, &id);
    if (n_columns) rc = dvx_row_fields_at(t, vid, seq, &hold, k->values);
    for (size_t i = 0; rc == SQLITE_OK && i < n_columns; i++) {
      if (k->values[i].type != DV_NULL) dv_numbered_write(&k->fields, (uint32_t)i + 1, &k->values[i]);
    }
  }
  if (rc == SQLITE_OK && (k->fields.status != DV_OK || k->payload.status != DV_OK)) rc = SQLITE_NOMEM;
  if (rc == SQLITE_OK) {
    rec.seq = seq;
    rec.time = time;
    rec.vid = vid;
    rec.is_key = true;
    rec.extra = DV_RECORD_FIELDS | DV_RECORD_MERGED | (n_columns ? (unsigned)DV_RECORD_ALL_FIELDS : 0u);
    rec.fields = k->fields.data;
    rec.n_fields = k->fields.n;
    rec.delta.payload = k->payload.data;
    rc = dvx_log_rewrite_append(&k->rewrite, &rec);
  }
  dv_buf_free(&hold);
  return rc;
}

static int compact_record(compact_copy *k, dv_record *rec) {
  compact_job *job = k->job;
  if (rec->vid > job->last_vid) return SQLITE_CORRUPT_VTAB; /* checked when the bases were chosen */
  uint64_t mark = job->bases[rec->vid], base = mark & ~COMPACT_IS_DELETE;
  bool is_delete = (mark & COMPACT_IS_DELETE) != 0;
  if (base != 0 && rec->seq < base) return SQLITE_OK;
  if (base != 0 && rec->seq == base && is_delete) {
    if (base > job->purged) job->purged = base;
    return SQLITE_OK;
  }
  job->n_after++;
  if (base != 0 && rec->seq == base) return compact_write_base(k, rec->vid, rec->seq, rec->time);
  if (is_delete && rec->link != 0 && rec->seq - rec->link == base) {
    /* Now the row's first record, which carries the id. */
    dv_value id;
    int rc = dvx_row_id(job->t, rec->vid, &id);
    if (rc != SQLITE_OK) return rc;
    k->fields.n = 0;
    dv_numbered_write(&k->fields, 0, &id);
    dv_buf_bytes(&k->fields, rec->fields, rec->n_fields);
    if (k->fields.status != DV_OK) return SQLITE_NOMEM;
    rec->link = 0;
    rec->extra |= DV_RECORD_FIELDS | DV_RECORD_MERGED;
    rec->fields = k->fields.data;
    rec->n_fields = k->fields.n;
  }
  return dvx_log_rewrite_append(&k->rewrite, rec);
}

/* The lines of rows whose last delta was dropped. */
static int compact_remove_rows(compact_job *job) {
  dvx_table *t = job->t;
  int rc = SQLITE_OK;
  for (uint32_t vid = 1; rc == SQLITE_OK && vid != 0 && vid <= job->last_vid; vid++) {
    uint64_t mark = job->bases[vid];
    if (!(mark & COMPACT_IS_DELETE) || dvx_word_seq(dvx_row_word(t, vid)) != (mark & ~COMPACT_IS_DELETE)) continue;
    sqlite3_stmt *stmt = NULL;
    rc = dvx_shadow_stmt(t, DVX_SQL_ROW_DELETE, &stmt);
    if (rc == SQLITE_OK) {
      sqlite3_bind_int64(stmt, 1, vid);
      rc = dvx_shadow_run(t, stmt);
      job->n_removed++;
    }
  }
  return rc;
}

static int compact_add_meta(compact_job *job) {
  dvx_table *t = job->t;
  int64_t absent = 0, purged = 0;
  int rc = dvx_meta_get(t, "absent", 0, &absent);
  if (rc == SQLITE_OK) rc = dvx_meta_get(t, "purged", 0, &purged);
  uint64_t n_absent = (uint64_t)absent + (job->n_before - job->n_after); /* a wrong one stays wrong, for the check */
  if (rc == SQLITE_OK) rc = dvx_meta_put(t, "absent", (int64_t)n_absent);
  if (rc == SQLITE_OK && job->purged > (uint64_t)(purged > 0 ? purged : 0)) {
    rc = dvx_meta_put(t, "purged", (int64_t)job->purged);
  }
  if (rc == SQLITE_OK && job->n_removed > 0) rc = dvx_meta_put(t, "last_vid", (int64_t)job->last_vid);
  return rc;
}

static int compact_rewrite(compact_job *job) {
  dvx_table *t = job->t;
  compact_copy k;
  memset(&k, 0, sizeof k);
  k.job = job;
  dv_buf_init(&k.fields, &dvx_alloc);
  dv_buf_init(&k.payload, &dvx_alloc);
  k.vector = sqlite3_malloc64(t->config->dimensions * sizeof *k.vector);
  k.values = sqlite3_malloc64(((size_t)t->config->n_columns + 1) * sizeof *k.values);
  int rc = k.vector && k.values ? SQLITE_OK : SQLITE_NOMEM;
  if (rc == SQLITE_OK) {
    dv_record rec;
    uint64_t seq = 0;
    rc = dvx_log_rewrite_begin(t, &k.rewrite);
    bool is_begun = rc == SQLITE_OK;
    while (rc == SQLITE_OK && (rc = dvx_log_next(t, seq, &rec)) == SQLITE_OK) {
      seq = rec.seq;
      rc = compact_record(&k, &rec);
      if (rc == SQLITE_OK) rc = compact_poll(job);
    }
    if (rc == SQLITE_DONE) rc = compact_remove_rows(job);
    if (rc == SQLITE_OK) rc = compact_add_meta(job);
    if (rc == SQLITE_OK) rc = dvx_log_rewrite_finish(&k.rewrite);
    if (is_begun) dvx_log_rewrite_free(&k.rewrite);
    if (is_begun && rc != SQLITE_OK) {
      dvx_table_poison(t, "delta_compact failed half-way, so this transaction can only be rolled back");
    }
  }
  dv_buf_free(&k.fields);
  dv_buf_free(&k.payload);
  sqlite3_free(k.vector);
  sqlite3_free(k.values);
  return rc;
}

/* ---- delta_compact ----------------------------------------------------------------------------------------------- */

static int compact_log_bytes(dvx_table *t, int64_t *out) {
  sqlite3_stmt *stmt = NULL;
  int rc = dvx_shadow_stmt(t, DVX_SQL_LOG_SIZE, &stmt);
  if (rc != SQLITE_OK) return rc;
  if (sqlite3_step(stmt) == SQLITE_ROW) *out = sqlite3_column_int64(stmt, 1);
  rc = sqlite3_reset(stmt);
  return rc == SQLITE_OK ? SQLITE_OK : dvx_fail_sqlite(t->conn, t, rc);
}

static int compact_write(dvx_table *t, void *arg) {
  compact_job *job = arg;
  job->t = t;
  int rc = SQLITE_OK;
  job->last_vid = dvx_table_last_vid(t);
  if (job->id) {
    dv_value id;
    bool is_id;
    rc = dvx_history_id(t, job->id, &id, &is_id);
    if (rc == SQLITE_OK && is_id) rc = dvx_row_find(t, &id, &job->only_vid);
    if (rc == SQLITE_OK && job->only_vid == 0) {
      rc = dvx_fail(t->conn, t, SQLITE_ERROR, "delta_compact: there is no row %v", job->id);
    }
    if (rc != SQLITE_OK) return rc;
  }
  rc = dvx_table_flush(t);
  if (rc != SQLITE_OK) return rc;
  if (job->keep.unit == DVX_KEEP_VERSIONS && job->keep.amount == 0) job->keep.unit = DVX_KEEP_NONE;
  if (job->keep.unit == DVX_KEEP_MILLISECONDS) {
    int64_t now = dvx_time_now(t->conn);
    job->cutoff = now < INT64_MIN + job->keep.amount ? INT64_MIN : now - job->keep.amount;
  }
  rc = compact_log_bytes(t, &job->bytes_before);
  if (rc == SQLITE_OK) rc = compact_choose(job);
  job->n_after = job->n_before;
  job->bytes_after = job->bytes_before;
  for (uint32_t vid = 1; rc == SQLITE_OK && vid != 0 && vid <= job->last_vid; vid++) {
    if (job->bases[vid] != 0) job->n_rows++;
  }
  if (rc == SQLITE_OK && job->n_merged > 0) {
    job->n_after = 0;
    rc = compact_rewrite(job);
    if (rc == SQLITE_OK) rc = compact_log_bytes(t, &job->bytes_after);
  }
  sqlite3_free(job->bases);
  job->bases = NULL;
  return rc;
}

static int compact_option(void *ctx, const char *key, sqlite3_value *value) {
  compact_job *job = ctx;
  dvx_table *t = job->t;
  if (strcmp(key, "keep") == 0) {
    const char *text = sqlite3_value_type(value) == SQLITE_TEXT ? (const char *)sqlite3_value_text(value) : NULL;
    if (text && dvx_keep_parse(text, (size_t)sqlite3_value_bytes(value), &job->keep)) return SQLITE_OK;
    return dvx_fail(t->conn, t, SQLITE_ERROR,
                    "delta_compact: keep is %v: expected '90 days', '100 versions', 'none' or 'forever'", value);
  }
  if (strcmp(key, "id") == 0) {
    int type = sqlite3_value_type(value);
    if (type != SQLITE_TEXT && type != SQLITE_INTEGER) {
      return dvx_fail(t->conn, t, SQLITE_ERROR, "delta_compact: id is %v: expected the id of a row", value);
    }
    sqlite3_value_free(job->owned_id);
    job->id = job->owned_id = sqlite3_value_dup(value);
    return job->id ? SQLITE_OK : SQLITE_NOMEM;
  }
  return dvx_fail(t->conn, t, SQLITE_ERROR, "delta_compact: unknown option '%s': expected 'id' or 'keep'", key);
}

static int compact_run(dvx_conn *conn, int argc, sqlite3_value **argv, compact_job *job) {
  dvx_table *t;
  int rc = dvx_table_find_argument(conn, "delta_compact", argv[0], &t);
  if (rc != SQLITE_OK) return rc;
  job->t = t;
  job->keep = t->config->retention;
  t->n_refs++; /* reading JSON prepares a statement, which may make SQLite drop and connect tables anew */
  if (argc == 2 && sqlite3_value_type(argv[1]) != SQLITE_NULL) {
    const char *json = (const char *)sqlite3_value_text(argv[1]);
    rc = !json ? SQLITE_NOMEM
               : dvx_json_each(conn, t, "delta_compact: the second argument", json, sqlite3_value_bytes(argv[1]),
                               compact_option, job);
  }
  if (rc == SQLITE_OK) rc = dvx_table_write(t, compact_write, job);
  dvx_table_release(t);
  return rc;
}

/* delta_compact(table [, options]) */
static void compact_function(sqlite3_context *ctx, int argc, sqlite3_value **argv) {
  dvx_conn *conn = dvx_context_conn(ctx);
  compact_job job;
  memset(&job, 0, sizeof job);
  int rc = compact_run(conn, argc, argv, &job);
  sqlite3_value_free(job.owned_id);
  if (rc != SQLITE_OK) {
    dvx_give_context(conn, ctx, rc);
    return;
  }
  dvx_str s = {0};
  dvx_str_addf(&s,
               "{\"rows\":%u,\"deltasBefore\":%u,\"deltasAfter\":%u,\"bytesBefore\":%i,\"bytesAfter\":%i,\"merged\":%u,"
               "\"removed\":%u}",
               job.n_rows, job.n_before, job.n_after, job.bytes_before, job.bytes_after, job.n_merged, job.n_removed);
  dvx_result_text(ctx, &s);
}

int dvx_compact_register(dvx_conn *conn) {
  int rc = dvx_conn_function(conn, "delta_compact", 1, SQLITE_UTF8 | SQLITE_DIRECTONLY, compact_function);
  if (rc == SQLITE_OK)
    rc = dvx_conn_function(conn, "delta_compact", 2, SQLITE_UTF8 | SQLITE_DIRECTONLY, compact_function);
  return rc;
}
