/*
 * integrity.c: is everything in the file as it should be? For PRAGMA integrity_check, PRAGMA quick_check and the
 * 'integrity-check' command.
 *
 * Shares with the code that writes only core's readers of records, deltas and values: packs, chains, metadata and
 * derived blocks are taken apart here once more, from the comments at the top of log.c and shadow.c, so that a mistake
 * there is not made twice. It reads the stored state only, never what memory holds.
 *
 * The log is checked pack by pack first. Only when it is sound are its rows folded: a band of rows at a time, as many
 * as fit INTEGRITY_BAND_BYTES, with one pass over the log for each band. Whatever the file says, memory stays bounded,
 * and so is time: by the number of lines in %_row and the length of the log.
 *
 * A report has at most INTEGRITY_MAX_LINES lines; each names the table, the place and what is wrong there.
 */
#include "ext_int.h"

#define INTEGRITY_MAX_LINES 100u
#define INTEGRITY_BAND_BYTES ((size_t)(sizeof(void *) == 4 ? 32 : 128) << 20)
#define INTEGRITY_INTERRUPT_EVERY 256u
#define INTEGRITY_PACK_HEADER 28u
#define INTEGRITY_MAX_RECORD ((size_t)1 << 30)

/* A row of the band under the fold. */
typedef struct integrity_row {
  uint32_t vid;
  unsigned chain;
  uint64_t seq; /* of its last record; 0: none seen yet */
  int64_t time;
  bool exists;
  bool is_broken; /* reported already: what follows would only repeat it */
} integrity_row;

typedef struct integrity_job {
  dvx_table *t;
  dvx_str report;
  unsigned n_lines;
  unsigned n_seen;
  dvx_settled settled;
  uint32_t codes_sum; /* of the checksums of blocks of codes */
  /* The log as the first pass found it. */
  bool is_log_broken;
  uint64_t n_records, last_seq, n_orphans;
  uint32_t max_vid;
  bool is_folding; /* a later pass: records are folded; damage and checksums were seen to in the first */
  /* The band. */
  integrity_row *rows;
  size_t n_rows, row_capacity;
  uint32_t after, until; /* rows with after < vid <= until are in it */
  float *vectors;        /* a row's state */
  float *other;          /* a key's full vector */
  uint32_t *row_digests; /* (1 + n_columns) a row: id and metadata as %_row has them ... */
  uint32_t *log_digests; /* ... and as the log folds to */
  uint32_t null_digest;
  dv_buf scratch;
  bool is_unordered; /* %_row's b-tree is damaged: its lines come in any order */
  /* One block of %_head and one of %_code. */
  int64_t head_number, code_number;
  uint8_t *head, *code;
  bool has_head, has_code;
  int8_t *encoded;
} integrity_job;

/* ---- the report -------------------------------------------------------------------------------------------------- */

/* The beginning of a line; false when there is no room for more. Ends with integrity_end(). */
static bool integrity_begin(integrity_job *j) {
  if (j->n_lines >= INTEGRITY_MAX_LINES) return false;
  if (j->n_lines++ > 0) dvx_str_add(&j->report, "\n", 1);
  dvx_str_addf(&j->report, "table %s.%s: ", j->t->schema, j->t->name);
  return true;
}

static int integrity_end(const integrity_job *j) {
  if (j->report.is_oom) return SQLITE_NOMEM;
  return j->n_lines >= INTEGRITY_MAX_LINES ? SQLITE_DONE : SQLITE_OK; /* DONE: enough is known */
}

static int integrity_pack_line(integrity_job *j, int64_t key, const char *what) {
  j->is_log_broken = true;
  if (j->is_folding) return SQLITE_OK;
  if (integrity_begin(j)) dvx_str_addf(&j->report, "%s_log: pack %i: %s", j->t->name, key, what);
  return integrity_end(j);
}

static int integrity_record_line(integrity_job *j, const dv_record *rec, const char *what) {
  if (integrity_begin(j)) {
    dvx_str_addf(&j->report, "%s_log: delta %u (row number %u): %s", j->t->name, rec->seq, (uint64_t)rec->vid, what);
  }
  return integrity_end(j);
}

static int integrity_row_line(integrity_job *j, uint32_t vid, const char *what) {
  if (integrity_begin(j)) dvx_str_addf(&j->report, "%s_row: row number %u: %s", j->t->name, (uint64_t)vid, what);
  return integrity_end(j);
}

static int integrity_meta_line(integrity_job *j, const char *key, int64_t found, int64_t expected) {
  if (integrity_begin(j)) {
    dvx_str_addf(&j->report, "%s_meta: '%s' is %i, expected %i", j->t->name, key, found, expected);
  }
  return integrity_end(j);
}

static int integrity_poll(integrity_job *j) {
  if (++j->n_seen % INTEGRITY_INTERRUPT_EVERY != 0 || !dvx_is_interrupted(j->t->conn)) return SQLITE_OK;
  return dvx_fail(j->t->conn, j->t, SQLITE_INTERRUPT, "the integrity check was interrupted");
}

static int integrity_stmt(dvx_table *t, dvx_str *sql, sqlite3_stmt **out) {
  char *z = dvx_str_take(sql);
  *out = NULL;
  if (!z) return SQLITE_NOMEM;
  int rc = sqlite3_prepare_v3(t->conn->db, z, -1, SQLITE_PREPARE_NO_VTAB, out, NULL);
  sqlite3_free(z);
  return rc == SQLITE_OK ? SQLITE_OK : dvx_fail_sqlite(t->conn, t, rc);
}

static int integrity_finalize(dvx_table *t, sqlite3_stmt *stmt, int rc) {
  int end = sqlite3_finalize(stmt);
  return rc == SQLITE_OK && end != SQLITE_OK ? dvx_fail_sqlite(t->conn, t, end) : rc;
}

/* ---- walking the log --------------------------------------------------------------------------------------------- */

/* Where the walk stands. A record or seal that was cut off by the pack's end waits in `rest`. */
typedef struct integrity_walk {
  integrity_job *j;
  int (*visit)(integrity_job *j, const dv_record *rec);
  bool is_first;
  dv_log_state state;
  int64_t max_time;
  bool is_sealed; /* nothing stands behind the last seal */
  dv_buf rest; /* the beginning of a record that goes on in the next pack */
  size_t n_span; /* its size; 0: none */
} integrity_walk;

static int integrity_visit_bytes(integrity_walk *w, int64_t key, const uint8_t *bytes, size_t n) {
  integrity_job *j = w->j;
  dv_record rec;
  uint64_t before = w->state.seq;
  if (!j->is_folding) w->state.crc = dv_crc32c(w->state.crc, bytes, n);
  w->is_sealed = false;
  if (dv_record_read(bytes, n, &rec, &w->state) != DV_OK) return integrity_pack_line(j, key, "a record is malformed");
  if (rec.seq <= before) return integrity_pack_line(j, key, "a record's seq does not rise");
  if (rec.time > w->max_time) w->max_time = rec.time;
  int rc = w->visit(j, &rec);
  return rc == SQLITE_OK ? integrity_poll(j) : rc;
}

static int integrity_walk_contents(integrity_walk *w, int64_t key, const uint8_t *pack, size_t n, size_t at) {
  integrity_job *j = w->j;
  int rc = SQLITE_OK;
  while (rc == SQLITE_OK && at < n && !j->is_log_broken) {
    uint8_t tag = 0;
    size_t left = n - at, span = dv_record_span(pack + at, left, &tag);
    if (span == 0) {
      for (; at < n; at++) {
        if (pack[at] != 0) return integrity_pack_line(j, key, "bytes stand behind the end of its contents");
      }
      break;
    }
    if (span == SIZE_MAX || span > INTEGRITY_MAX_RECORD) return integrity_pack_line(j, key, "a record is malformed");
    if ((tag & 7u) == DV_RECORD_SEAL) {
      if (span > left || pack[at + 5] != DV_RECORD_SEAL) return integrity_pack_line(j, key, "a seal is malformed");
      if (!j->is_folding && dv_load_u32(pack + at + 1) != w->state.crc) {
        return integrity_pack_line(j, key, "its contents do not match their checksum");
      }
      w->is_sealed = true;
      at += span;
    } else if (span > left) {
      w->rest.n = 0;
      dv_buf_bytes(&w->rest, pack + at, left);
      if (w->rest.status != DV_OK) return SQLITE_NOMEM;
      w->n_span = span;
      break;
    } else {
      rc = integrity_visit_bytes(w, key, pack + at, span);
      at += span;
    }
  }
  return rc;
}

/* How long a pack is that begins with so many bytes of a record: as long as is usual, or as long as it takes for another
 * record to begin in it, in whole pages. */
static bool integrity_is_size(const dvx_geometry *g, size_t n, size_t rest) {
  size_t need = INTEGRITY_PACK_HEADER + rest + 2 * (size_t)DV_RECORD_HEAD_BYTES, size = g->pack_bytes;
  if (g->page_bytes == 0) return true; /* %_meta cannot be read: that has been told */
  for (size_t pages = need / g->page_bytes; size < need; pages++) {
    if (pages > 0) size = dvx_shadow_blob_size(g->page_bytes, pages);
  }
  return n == size;
}

static int integrity_walk_pack(integrity_walk *w, int64_t key, const uint8_t *pack, size_t n) {
  integrity_job *j = w->j;
  if (key <= 0) return integrity_pack_line(j, key, "its number is not positive");
  if (n < INTEGRITY_PACK_HEADER || dv_load_u16(pack) != DV_FRAME_MAGIC || pack[3] != 0) {
    return integrity_pack_line(j, key, "it is not a pack");
  }
  if (pack[2] != 1) return integrity_pack_line(j, key, "its format is not 1");
  if (dv_crc32c(0, pack, 24) != dv_load_u32(pack + 24)) {
    return integrity_pack_line(j, key, "its header does not match its checksum");
  }
  size_t at = INTEGRITY_PACK_HEADER, first = dv_load_u32(pack + 4);
  int64_t time = (int64_t)dv_load_u64(pack + 8), max_time = (int64_t)dv_load_u64(pack + 16);
  if (first < at || first > n) return integrity_pack_line(j, key, "its first record lies outside");
  if (!integrity_is_size(&j->t->geometry, n, first - at)) return integrity_pack_line(j, key, "it has a wrong length");
  if (w->is_first) {
    w->is_first = false;
    w->max_time = max_time;
    w->state = (dv_log_state){(uint64_t)key - 1, time, 0};
  }
  if (w->n_span) {
    size_t missing = w->n_span - w->rest.n;
    if (first - at != missing)
      return integrity_pack_line(j, key, "it does not begin with the rest of the record before it");
    dv_buf_bytes(&w->rest, pack + at, missing);
    if (w->rest.status != DV_OK) return SQLITE_NOMEM;
    size_t span = w->n_span;
    w->n_span = 0;
    int rc = integrity_visit_bytes(w, key, w->rest.data, span);
    if (rc != SQLITE_OK || j->is_log_broken) return rc;
  } else if (first != at) {
    return integrity_pack_line(j, key, "it begins with the end of a record that is not there");
  }
  if ((uint64_t)key <= w->state.seq)
    return integrity_pack_line(j, key, "a record before it has its number or a larger one");
  if (time != w->state.time)
    return integrity_pack_line(j, key, "the time in its header is not that of the record before it");
  if (max_time != w->max_time) return integrity_pack_line(j, key, "the largest time in its header is wrong");
  w->state.seq = (uint64_t)key - 1;
  return integrity_walk_contents(w, key, pack, n, first);
}

/* Calls visit for every stored record. The first damage ends it: behind it nothing can be told apart. */
static int integrity_walk_log(integrity_job *j, int (*visit)(integrity_job *j, const dv_record *rec)) {
  dvx_table *t = j->t;
  integrity_walk w;
  dv_buf pack;
  int64_t key = INT64_MIN;
  int rc = SQLITE_OK;
  memset(&w, 0, sizeof w);
  w.j = j;
  w.visit = visit;
  w.is_first = w.is_sealed = true;
  dv_buf_init(&w.rest, &dvx_alloc);
  dv_buf_init(&pack, &dvx_alloc);
  while (rc == SQLITE_OK && !j->is_log_broken) {
    sqlite3_stmt *stmt = NULL;
    bool is_there = false, is_blob = false;
    rc = dvx_shadow_stmt(t, DVX_SQL_LOG_NEXT, &stmt);
    if (rc != SQLITE_OK) break;
    sqlite3_bind_int64(stmt, 1, key);
    if (sqlite3_step(stmt) == SQLITE_ROW) {
      const void *bytes = sqlite3_column_blob(stmt, 1);
      is_there = true;
      is_blob = sqlite3_column_type(stmt, 1) == SQLITE_BLOB;
      key = sqlite3_column_int64(stmt, 0);
      /* Copied, so that no statement is open on the log while the visitor works. */
      pack.n = 0;
      if (bytes) dv_buf_bytes(&pack, bytes, (size_t)sqlite3_column_bytes(stmt, 1));
    }
    int reset = sqlite3_reset(stmt);
    if (reset != SQLITE_OK) rc = dvx_fail_sqlite(t->conn, t, reset);
    if (rc == SQLITE_OK && pack.status != DV_OK) rc = SQLITE_NOMEM;
    if (rc != SQLITE_OK || !is_there) break;
    rc = is_blob ? integrity_walk_pack(&w, key, pack.data, pack.n) : integrity_pack_line(j, key, "it is not a BLOB");
  }
  if (rc == SQLITE_OK && !j->is_log_broken) {
    if (w.n_span) {
      rc = integrity_pack_line(j, key, "its last record is cut off");
    } else if (!w.is_sealed) {
      rc = integrity_pack_line(j, key, "it does not end with a seal");
    }
  }
  dv_buf_free(&w.rest);
  dv_buf_free(&pack);
  return rc;
}

/* ---- the first pass: records by themselves ----------------------------------------------------------------------- */

static int integrity_check_fields(integrity_job *j, const dv_record *rec) {
  dv_reader r = dv_reader_of(rec->fields, rec->n_fields);
  uint32_t number, n = (uint32_t)j->t->config->n_columns;
  uint64_t seen = 0;
  dv_value v;
  while (dv_numbered_next(&r, &number, &v)) {
    if (number > n || number > 63)
      return integrity_record_line(j, rec, "it sets a column that the table does not have");
    if (seen >> number & 1) return integrity_record_line(j, rec, "it sets a column twice");
    seen |= (uint64_t)1 << number;
    if (number == 0 && v.type != (j->t->config->id_type == DVX_ID_TEXT ? DV_TEXT : DV_INTEGER)) {
      return integrity_record_line(j, rec, "its id is of another type than the ids of the table");
    }
  }
  if (r.is_bad) return integrity_record_line(j, rec, "its metadata is malformed");
  if (rec->link == 0 && !(seen & 1)) return integrity_record_line(j, rec, "it is its row's first, but has no id");
  if (rec->link == 0 && n > 0 && !(rec->extra & DV_RECORD_ALL_FIELDS)) {
    return integrity_record_line(j, rec, "it is its row's first, but does not set all metadata");
  }
  return SQLITE_OK;
}

static int integrity_visit_record(integrity_job *j, const dv_record *rec) {
  size_t n = j->t->config->dimensions;
  j->n_records++;
  j->last_seq = rec->seq;
  if (rec->vid > j->max_vid) j->max_vid = rec->vid;
  if (rec->seq >= (uint64_t)DVX_MAX_SEQ) return integrity_record_line(j, rec, "its seq is out of range");
  if (rec->vid == 0 || rec->vid > DVX_MAX_VID) return integrity_record_line(j, rec, "its row number is out of range");
  if (rec->link >= rec->seq) return integrity_record_line(j, rec, "its link leads out of the log");
  if (rec->time > DVX_TIME_MAX || rec->time < -DVX_TIME_MAX)
    return integrity_record_line(j, rec, "its time is out of range");
  if (rec->link == 0 && rec->delta.op != DV_OP_CREATE)
    return integrity_record_line(j, rec, "its row's first delta is no create");
  if (dv_delta_check(&rec->delta, n, NULL) != DV_OK) return integrity_record_line(j, rec, "its delta is malformed");
  if (rec->is_key && !dv_encoding_is_full((int)rec->delta.encoding)) {
    dv_delta full = {DV_OP_CREATE, rec->full_encoding, rec->full, rec->n_full};
    if (!dv_encoding_is_full((int)rec->full_encoding) || dv_delta_check(&full, n, NULL) != DV_OK) {
      return integrity_record_line(j, rec, "its full vector is malformed");
    }
  }
  return integrity_check_fields(j, rec);
}

/* ---- later passes: folding rows ---------------------------------------------------------------------------------- */

static integrity_row *integrity_find(const integrity_job *j, uint32_t vid) {
  size_t low = 0, high = j->n_rows;
  while (low < high) {
    size_t mid = low + (high - low) / 2;
    if (j->rows[mid].vid < vid)
      low = mid + 1;
    else
      high = mid;
  }
  return low < j->n_rows && j->rows[low].vid == vid ? &j->rows[low] : NULL;
}

/* Checksum of a value. A REAL column gives back 2 as 2.0 and an INTEGER column 2.0 as 2, so both count as the
 * integer. */
static uint32_t integrity_digest(integrity_job *j, const dv_value *v) {
  dv_value plain = *v;
  if (plain.type == DV_REAL && plain.real >= -9007199254740992.0 && plain.real <= 9007199254740992.0 &&
      plain.real == (double)(int64_t)plain.real) {
    plain.type = DV_INTEGER;
    plain.integer = (int64_t)plain.real;
  }
  j->scratch.n = 0;
  dv_value_write(&j->scratch, &plain);
  return dv_crc32c(0, j->scratch.data, j->scratch.n);
}

static void integrity_fold_fields(integrity_job *j, const dv_record *rec, uint32_t *digests) {
  size_t n = (size_t)j->t->config->n_columns;
  dv_reader r = dv_reader_of(rec->fields, rec->n_fields);
  uint32_t number;
  dv_value v;
  if (rec->extra & DV_RECORD_ALL_FIELDS) {
    for (size_t i = 1; i <= n; i++) digests[i] = j->null_digest;
  }
  while (dv_numbered_next(&r, &number, &v)) {
    if (number <= n) digests[number] = integrity_digest(j, &v);
  }
}

/* Takes the record into its row's state; what is wrong with it as the row's next, or NULL. */
static const char *integrity_fold(integrity_job *j, integrity_row *row, const dv_record *rec) {
  size_t n = j->t->config->dimensions, i = (size_t)(row - j->rows);
  float *v = j->vectors + i * n;
  dv_op op = rec->delta.op;
  if (row->seq == 0 ? rec->link != 0 : rec->seq - rec->link != row->seq) {
    return "its link does not lead to the row's delta before it";
  }
  if (row->seq != 0 && rec->time < row->time) return "it is older than the row's delta before it";
  if (op == DV_OP_CREATE ? row->exists : !row->exists) {
    return row->exists ? "it creates a row that exists" : "it changes a row that does not exist";
  }
  if (dv_delta_apply(&rec->delta, v, n, NULL) != DV_OK) return "it does not fold into the row's vector";
  if (rec->is_key && op != DV_OP_DELETE && !dv_encoding_is_full((int)rec->delta.encoding)) {
    dv_delta full = {DV_OP_CREATE, rec->full_encoding, rec->full, rec->n_full};
    if (dv_delta_apply(&full, j->other, n, NULL) != DV_OK) return "its full vector is malformed";
    if (memcmp(v, j->other, n * sizeof *v) != 0) return "its full vector is not what the row's deltas fold to";
  }
  integrity_fold_fields(j, rec, j->log_digests + i * ((size_t)j->t->config->n_columns + 1));
  row->chain = rec->is_key ? 0 : row->chain < DVX_WORD_CHAIN ? row->chain + 1 : DVX_WORD_CHAIN;
  row->seq = rec->seq;
  row->time = rec->time;
  row->exists = op != DV_OP_DELETE;
  return NULL;
}

static int integrity_visit_fold(integrity_job *j, const dv_record *rec) {
  if (rec->vid <= j->after || rec->vid > j->until) return SQLITE_OK;
  integrity_row *row = integrity_find(j, rec->vid);
  if (!row) {
    j->n_orphans++;
    if (rec->link != 0) return SQLITE_OK; /* one line a row */
    return integrity_record_line(j, rec, "the table's rows do not have this number");
  }
  if (row->is_broken) return SQLITE_OK;
  const char *what = integrity_fold(j, row, rec);
  if (!what) return SQLITE_OK;
  row->is_broken = true;
  return integrity_record_line(j, rec, what);
}

/* Reads the block that holds item `vid` of a derived table unless it is there already. */
static int integrity_block(dvx_table *t, dvx_sql which, int64_t number, uint8_t *out, size_t n, int64_t *current,
                           bool *is_there) {
  sqlite3_stmt *stmt = NULL;
  if (*current == number) return SQLITE_OK;
  int rc = dvx_shadow_stmt(t, which, &stmt);
  if (rc != SQLITE_OK) return rc;
  *is_there = false;
  *current = number;
  sqlite3_bind_int64(stmt, 1, number);
  if (sqlite3_step(stmt) == SQLITE_ROW) {
    const void *bytes = sqlite3_column_blob(stmt, 0);
    if (bytes && (size_t)sqlite3_column_bytes(stmt, 0) == n) {
      memcpy(out, bytes, n);
      *is_there = true;
    }
  }
  rc = sqlite3_reset(stmt);
  return rc == SQLITE_OK ? SQLITE_OK : dvx_fail_sqlite(t->conn, t, rc);
}

/* The row's head and codes, if they are to be right by now. */
static int integrity_check_derived(integrity_job *j, const integrity_row *row, const float *v) {
  dvx_table *t = j->t;
  const dvx_geometry *g = &t->geometry;
  size_t n = t->config->dimensions, item = 4 + n, index = row->vid - 1;
  if (row->seq > j->settled.position.seq) return SQLITE_OK;
  int rc = integrity_block(t, DVX_SQL_HEAD_GET, (int64_t)(index / g->head_rows), j->head, g->head_bytes,
                           &j->head_number, &j->has_head);
  if (rc != SQLITE_OK) return rc;
  uint64_t word = row->seq << 16 | (row->exists ? 0 : DVX_WORD_DELETED) | row->chain;
  if (!j->has_head || dv_load_u64(j->head + 8 * (index % g->head_rows)) != word) {
    if (integrity_begin(j)) {
      dvx_str_addf(&j->report,
                   "%s_head: block %i: the head of row number %u is not what the log tells; 'rebuild' mends it",
                   t->name, (int64_t)(index / g->head_rows), (uint64_t)row->vid);
    }
    rc = integrity_end(j);
    if (rc != SQLITE_OK) return rc;
  }
  if (!j->settled.has_codes) return rc;
  rc = integrity_block(t, DVX_SQL_CODE_GET, (int64_t)(index / g->code_rows), j->code, g->code_bytes, &j->code_number,
                       &j->has_code);
  if (rc != SQLITE_OK) return rc;
  uint32_t meta = 0;
  memset(j->encoded, 0, n);
  if (row->exists) meta = dv_code_encode(t->config->metric, v, n, j->encoded);
  const uint8_t *stored = j->code + item * (index % g->code_rows);
  if (!j->has_code || dv_load_u32(stored) != meta || memcmp(stored + 4, j->encoded, n) != 0) {
    if (integrity_begin(j)) {
      dvx_str_addf(&j->report,
                   "%s_code: block %i: the codes of row number %u do not fit its vector; 'rebuild' mends it", t->name,
                   (int64_t)(index / g->code_rows), (uint64_t)row->vid);
    }
    rc = integrity_end(j);
  }
  return rc;
}

static int integrity_check_row(integrity_job *j, size_t i) {
  const integrity_row *row = &j->rows[i];
  size_t n_columns = (size_t)j->t->config->n_columns;
  const uint32_t *in_row = j->row_digests + i * (n_columns + 1), *in_log = j->log_digests + i * (n_columns + 1);
  if (row->is_broken) return SQLITE_OK;
  if (row->seq == 0) return integrity_row_line(j, row->vid, "the log has no delta of it");
  int rc = SQLITE_OK;
  if (in_row[0] != in_log[0]) rc = integrity_row_line(j, row->vid, "its id is not the one in the log");
  for (size_t c = 1; rc == SQLITE_OK && c <= n_columns; c++) {
    if (in_row[c] == in_log[c]) continue;
    if (integrity_begin(j)) {
      dvx_str_addf(&j->report, "%s_row: row number %u: its %s is not what the log tells", j->t->name,
                   (uint64_t)row->vid, j->t->config->columns[c - 1].name);
    }
    rc = integrity_end(j);
  }
  return rc == SQLITE_OK ? integrity_check_derived(j, row, j->vectors + i * j->t->config->dimensions) : rc;
}

/* One line of %_row: its number, the type of its id, and does its id lead back to it? */
static int integrity_take_row(integrity_job *j, sqlite3_stmt *line) {
  dvx_table *t = j->t;
  size_t n_columns = (size_t)t->config->n_columns;
  int64_t vid = sqlite3_column_int64(line, 0);
  dv_value v;
  sqlite3_stmt *stmt = NULL;
  if (vid < 1 || vid > DVX_MAX_VID) {
    if (integrity_begin(j)) dvx_str_addf(&j->report, "%s_row: row number %i is out of range", t->name, vid);
    return integrity_end(j);
  }
  if (vid <= (int64_t)(j->n_rows ? j->rows[j->n_rows - 1].vid : j->after)) {
    j->is_unordered = true;
    return integrity_row_line(j, (uint32_t)vid, "its line is not where it belongs");
  }
  integrity_row *row = &j->rows[j->n_rows];
  uint32_t *digests = j->row_digests + j->n_rows * (n_columns + 1);
  j->n_rows++;
  memset(row, 0, sizeof *row);
  row->vid = (uint32_t)vid;
  dvx_column_value(line, 1, &v);
  if (v.type != (t->config->id_type == DVX_ID_TEXT ? DV_TEXT : DV_INTEGER)) {
    row->is_broken = true;
    return integrity_row_line(j, row->vid, "its id is of another type than the ids of the table");
  }
  int rc = dvx_shadow_stmt(t, DVX_SQL_ROW_BY_ID, &stmt);
  if (rc == SQLITE_OK) rc = dvx_bind_value(stmt, 1, &v);
  if (rc != SQLITE_OK) return rc;
  bool is_found = sqlite3_step(stmt) == SQLITE_ROW && sqlite3_column_int64(stmt, 0) == vid;
  int reset = sqlite3_reset(stmt);
  sqlite3_clear_bindings(stmt);
  if (reset != SQLITE_OK) return dvx_fail_sqlite(t->conn, t, reset);
  digests[0] = integrity_digest(j, &v);
  for (size_t c = 1; c <= n_columns; c++) {
    dvx_column_value(line, (int)c + 1, &v);
    digests[c] = integrity_digest(j, &v);
  }
  if (j->scratch.status != DV_OK) return SQLITE_NOMEM;
  return is_found ? SQLITE_OK : integrity_row_line(j, row->vid, "looking for its id does not find it");
}

/* Fills the band with the lines behind j->until. */
static int integrity_next_band(integrity_job *j) {
  dvx_table *t = j->t;
  size_t n_columns = (size_t)t->config->n_columns;
  sqlite3_stmt *stmt = NULL;
  dvx_str s = {0};
  dvx_str_addf(&s, "SELECT vid, id");
  for (size_t c = 1; c <= n_columns; c++) dvx_str_addf(&s, ", c%d", (int)c);
  dvx_str_addf(&s, " FROM \"%w\".\"%w_row\" WHERE vid>?1 ORDER BY vid", t->schema, t->name);
  int rc = integrity_stmt(t, &s, &stmt);
  if (rc != SQLITE_OK) return rc;
  /* The first band also tells of lines with impossible numbers below. */
  sqlite3_bind_int64(stmt, 1, j->until == 0 ? INT64_MIN : (int64_t)j->until);
  j->after = j->until;
  j->n_rows = 0;
  bool is_end = false;
  while (rc == SQLITE_OK && j->n_rows < j->row_capacity && !is_end && !j->is_unordered) {
    is_end = sqlite3_step(stmt) != SQLITE_ROW;
    if (!is_end) rc = integrity_take_row(j, stmt);
    if (rc == SQLITE_OK) rc = integrity_poll(j);
  }
  rc = integrity_finalize(t, stmt, rc);
  /* Records of rows behind the last line belong nowhere; the last band looks at them too. */
  j->until = is_end || j->n_rows == 0 ? UINT32_MAX : j->rows[j->n_rows - 1].vid;
  memset(j->log_digests, 0, j->row_capacity * (n_columns + 1) * sizeof *j->log_digests);
  return rc;
}

static int integrity_alloc_band(integrity_job *j) {
  const dvx_geometry *g = &j->t->geometry;
  size_t n = j->t->config->dimensions, n_values = (size_t)j->t->config->n_columns + 1;
  size_t row_bytes = sizeof *j->rows + n * sizeof(float) + 2 * n_values * sizeof(uint32_t);
  size_t capacity = INTEGRITY_BAND_BYTES / row_bytes;
  dv_value null_value;
  memset(&null_value, 0, sizeof null_value);
  if (capacity > j->t->rows.n) capacity = j->t->rows.n; /* more lines than that in %_row take another band */
  if (capacity < 16) capacity = 16;
  j->row_capacity = capacity;
  j->rows = sqlite3_malloc64(capacity * sizeof *j->rows);
  j->vectors = sqlite3_malloc64(capacity * n * sizeof *j->vectors);
  j->row_digests = sqlite3_malloc64(capacity * n_values * sizeof *j->row_digests);
  j->log_digests = sqlite3_malloc64(capacity * n_values * sizeof *j->log_digests);
  j->other = sqlite3_malloc64(n * sizeof *j->other);
  j->encoded = sqlite3_malloc64(n);
  j->head = sqlite3_malloc64(g->head_bytes + 1);
  j->code = sqlite3_malloc64(g->code_bytes + 1);
  j->head_number = j->code_number = -1;
  if (!j->rows || !j->vectors || !j->row_digests || !j->log_digests || !j->other || !j->encoded || !j->head ||
      !j->code) {
    return SQLITE_NOMEM;
  }
  j->null_digest = integrity_digest(j, &null_value);
  return SQLITE_OK;
}

static int integrity_check_rows(integrity_job *j) {
  int rc = integrity_alloc_band(j);
  j->is_folding = true;
  while (rc == SQLITE_OK && j->until != UINT32_MAX && !j->is_unordered) {
    rc = integrity_next_band(j);
    if (rc == SQLITE_OK) rc = integrity_walk_log(j, integrity_visit_fold);
    for (size_t i = 0; rc == SQLITE_OK && i < j->n_rows; i++) rc = integrity_check_row(j, i);
  }
  return rc;
}

/* ---- derived tables and %_meta ----------------------------------------------------------------------------------- */

/* `settled` and codes against their checksums. */
static int integrity_check_sums(integrity_job *j) {
  dvx_table *t = j->t;
  uint8_t settled[DVX_SETTLED_BYTES];
  size_t n_settled;
  dvx_checks checks;
  bool has_checks;
  int rc = dvx_checks_read(t, &checks, &has_checks);
  if (rc == SQLITE_OK) rc = dvx_settled_blob(t, settled, &n_settled);
  if (rc != SQLITE_OK) return rc;
  if (!has_checks && (n_settled == 0 || settled[47] == 0)) return SQLITE_OK; /* made before there were any */
  const char *what = NULL;
  if (!has_checks) {
    what = "'checks' is missing";
  } else if (checks.settled != (n_settled ? dv_crc32c(0, settled, n_settled) : 0)) {
    what = "'settled' does not have its checksum";
  } else if (checks.codes != j->codes_sum) {
    what = "the codes do not have their checksum";
  }
  if (!what) return SQLITE_OK;
  if (integrity_begin(j)) dvx_str_addf(&j->report, "%s_meta: %s; 'rebuild' mends it", t->name, what);
  return integrity_end(j);
}

static int integrity_check_blocks(integrity_job *j, dvx_sql which, const char *suffix, size_t n_bytes, size_t n_items) {
  dvx_table *t = j->t;
  sqlite3_stmt *stmt = NULL;
  uint64_t sum = 0;
  int rc = dvx_shadow_stmt(t, which, &stmt);
  if (rc != SQLITE_OK) return rc;
  while (rc == SQLITE_OK && sqlite3_step(stmt) == SQLITE_ROW) {
    int64_t block = sqlite3_column_int64(stmt, 0);
    const uint8_t *bytes = sqlite3_column_blob(stmt, 1);
    size_t n = (size_t)sqlite3_column_bytes(stmt, 1);
    if (which == DVX_SQL_CODE_ALL && bytes) j->codes_sum += dvx_block_check(block, bytes, n);
    if (!bytes || sqlite3_column_type(stmt, 1) != SQLITE_BLOB || n != n_bytes || block < 0 ||
        (uint64_t)block > DVX_MAX_VID / n_items) {
      if (integrity_begin(j)) {
        dvx_str_addf(&j->report, "%s_%s: block %i has %u bytes, expected %u; 'rebuild' mends it", t->name, suffix,
                     block, (uint64_t)n, (uint64_t)n_bytes);
      }
      rc = integrity_end(j);
      continue;
    }
    uint64_t first = (uint64_t)block * n_items; /* rows before the block's */
    size_t n_used = j->settled.n_rows <= first            ? 0
                    : j->settled.n_rows - first < n_items ? (size_t)(j->settled.n_rows - first)
                                                          : n_items;
    for (size_t i = n_used * 8; which == DVX_SQL_HEAD_ALL && j->settled.position.pack != 0 && i < n; i++) {
      if (bytes[i] == 0) continue;
      if (integrity_begin(j)) {
        dvx_str_addf(&j->report, "%s_%s: block %i: byte %u belongs to no row, and is not zero; 'rebuild' mends it",
                     t->name, suffix, block, (uint64_t)i);
      }
      rc = integrity_end(j);
      break;
    }
    for (size_t i = 0; which == DVX_SQL_HEAD_ALL && i < n_used; i++) {
      sum += dvx_word_mix((uint32_t)(first + i + 1), dv_load_u64(bytes + 8 * i));
    }
    if (rc == SQLITE_OK) rc = integrity_poll(j);
  }
  int reset = sqlite3_reset(stmt);
  if (rc == SQLITE_OK && reset != SQLITE_OK) rc = dvx_fail_sqlite(t->conn, t, reset);
  if (rc == SQLITE_OK && which == DVX_SQL_HEAD_ALL && j->settled.position.pack != 0 && sum != j->settled.checksum) {
    if (integrity_begin(j)) {
      dvx_str_addf(&j->report, "%s_head: the heads do not match their checksum; 'rebuild' mends it", t->name);
    }
    rc = integrity_end(j);
  }
  return rc;
}

/* Values of another type than theirs; those that are no integers have checksums. */
static int integrity_check_types(integrity_job *j) {
  dvx_table *t = j->t;
  sqlite3_stmt *stmt = NULL;
  dvx_str s = {0};
  dvx_str_addf(&s,
               "SELECT key FROM \"%w\".\"%w_meta\" WHERE typeof(value)<>'integer'"
               " AND key NOT IN ('settled','graph','graph_stamp','checks')",
               t->schema, t->name);
  int rc = integrity_stmt(t, &s, &stmt);
  while (rc == SQLITE_OK && sqlite3_step(stmt) == SQLITE_ROW) {
    if (integrity_begin(j))
      dvx_str_addf(&j->report, "%s_meta: '%s' is of a wrong type", t->name, sqlite3_column_text(stmt, 0));
    rc = integrity_end(j);
  }
  return integrity_finalize(t, stmt, rc);
}

/* Sizes follow from the page size and what was declared. */
static int integrity_check_geometry(integrity_job *j) {
  dvx_table *t = j->t;
  const dvx_config *c = t->config;
  dvx_geometry g;
  int64_t page = 0, v = 0;
  int rc = dvx_meta_get(t, "page_bytes", 0, &page);
  if (rc != SQLITE_OK) return rc;
  if (page < 512 || page > 65536 || (page & (page - 1)) != 0) return integrity_meta_line(j, "page_bytes", page, 4096);
  dvx_shadow_geometry(&g, (size_t)page, c->dimensions, (size_t)c->hnsw_m);
  const struct {
    const char *key;
    size_t value;
  } sizes[] = {{"pack_bytes", g.pack_bytes},  {"head_rows", g.head_rows},   {"head_bytes", g.head_bytes},
               {"code_rows", g.code_rows},    {"code_bytes", g.code_bytes}, {"graph_rows", g.graph_rows},
               {"graph_bytes", g.graph_bytes}};
  /* Files of small pages have packs of 8 KiB if they were made before packs of 4. */
  const size_t older_pack = dvx_shadow_blob_size((size_t)page, page < 4096 ? 8192 / (size_t)page : 2);
  for (size_t i = 0; rc == SQLITE_OK && i < sizeof sizes / sizeof sizes[0]; i++) {
    rc = dvx_meta_get(t, sizes[i].key, -1, &v);
    if (i == 0 && v == (int64_t)older_pack) continue;
    if (rc == SQLITE_OK && v != (int64_t)sizes[i].value)
      rc = integrity_meta_line(j, sizes[i].key, v, (int64_t)sizes[i].value);
  }
  return rc;
}

static int integrity_check_meta(integrity_job *j) {
  dvx_table *t = j->t;
  const dvx_config *c = t->config;
  int64_t v = 0;
  static const char *const needed[] = {"uuid", "generation", "last_seq"};
  int rc = integrity_check_types(j);
  if (rc == SQLITE_OK) rc = integrity_check_geometry(j);
  if (rc == SQLITE_OK) rc = dvx_meta_get(t, "format", -1, &v);
  if (rc == SQLITE_OK && v != 1) rc = integrity_meta_line(j, "format", v, 1);
  if (rc == SQLITE_OK) rc = dvx_meta_get(t, "dimensions", -1, &v);
  if (rc == SQLITE_OK && v != (int64_t)c->dimensions)
    rc = integrity_meta_line(j, "dimensions", v, (int64_t)c->dimensions);
  if (rc == SQLITE_OK) rc = dvx_meta_get(t, "metric", -1, &v);
  if (rc == SQLITE_OK && v != (int64_t)c->metric) rc = integrity_meta_line(j, "metric", v, (int64_t)c->metric);
  for (size_t i = 0; rc == SQLITE_OK && i < sizeof needed / sizeof needed[0]; i++) {
    int64_t other = 0;
    rc = dvx_meta_get(t, needed[i], 0, &v);
    if (rc == SQLITE_OK) rc = dvx_meta_get(t, needed[i], 1, &other);
    if (rc == SQLITE_OK && v != other) {
      if (integrity_begin(j)) dvx_str_addf(&j->report, "%s_meta: '%s' is missing", t->name, needed[i]);
      rc = integrity_end(j);
    }
  }
  return rc;
}

/* What %_meta says about the log, compared with what the first pass saw. */
static int integrity_check_counts(integrity_job *j) {
  dvx_table *t = j->t;
  int64_t floor, absent;
  int rc = dvx_meta_get(t, "last_seq", 0, &floor);
  if (rc == SQLITE_OK) rc = dvx_meta_get(t, "absent", 0, &absent);
  if (rc != SQLITE_OK) return rc;
  if (absent == 0 && floor != 0) { /* only a log that was written anew has a floor, and it lacks some seqs */
    rc = integrity_meta_line(j, "last_seq", floor, 0);
    if (rc != SQLITE_OK) return rc;
  }
  uint64_t last = floor > 0 && (uint64_t)floor > j->last_seq ? (uint64_t)floor : j->last_seq;
  if (absent < 0 || (uint64_t)absent + j->n_records != last) {
    if (integrity_begin(j)) {
      dvx_str_addf(&j->report, "%s_log: it has %u deltas up to seq %u, but %s_meta says that %i of those seqs are gone",
                   t->name, j->n_records, last, t->name, absent);
    }
    rc = integrity_end(j);
  }
  if (rc == SQLITE_OK && j->settled.position.seq > last) {
    rc = integrity_meta_line(j, "settled", (int64_t)j->settled.position.seq, (int64_t)last);
  }
  return rc;
}

/* Quick: the log ends in a seal. (That its end fits the heads was seen when the table was loaded.) */
static int integrity_check_tail(integrity_job *j) {
  dvx_table *t = j->t;
  sqlite3_stmt *stmt = NULL;
  int rc = dvx_shadow_stmt(t, DVX_SQL_LOG_AT, &stmt);
  if (rc != SQLITE_OK) return rc;
  bool is_there = false, is_sealed = false;
  int64_t key = 0;
  sqlite3_bind_int64(stmt, 1, INT64_MAX);
  if (sqlite3_step(stmt) == SQLITE_ROW) {
    const uint8_t *pack = sqlite3_column_blob(stmt, 1);
    size_t n = pack ? (size_t)sqlite3_column_bytes(stmt, 1) : 0;
    is_there = true;
    key = sqlite3_column_int64(stmt, 0);
    while (n > 0 && pack[n - 1] == 0) n--;
    is_sealed = n >= INTEGRITY_PACK_HEADER + DV_SEAL_BYTES && pack[n - 1] == DV_RECORD_SEAL &&
                pack[n - DV_SEAL_BYTES] == DV_RECORD_SEAL && dv_crc32c(0, pack, 24) == dv_load_u32(pack + 24);
  }
  int reset = sqlite3_reset(stmt);
  if (reset != SQLITE_OK) return dvx_fail_sqlite(t->conn, t, reset);
  return is_there && !is_sealed ? integrity_pack_line(j, key, "it does not end with a seal") : SQLITE_OK;
}

/* Quick: as many lines in %_row as rows in the log. Not inside a transaction that may have rows of its own. */
static int integrity_check_line_count(integrity_job *j) {
  dvx_table *t = j->t;
  sqlite3_stmt *stmt = NULL;
  dvx_str s = {0};
  uint64_t n_known = 0, n_lines = 0;
  if (t->overlay.is_open) return SQLITE_OK;
  for (uint32_t vid = 1; vid != 0 && vid <= t->rows.n; vid++) n_known += t->rows.words[vid] != 0;
  dvx_str_addf(&s, "SELECT count(*) FROM \"%w\".\"%w_row\"", t->schema, t->name);
  int rc = integrity_stmt(t, &s, &stmt);
  if (rc != SQLITE_OK) return rc;
  if (sqlite3_step(stmt) == SQLITE_ROW) n_lines = (uint64_t)sqlite3_column_int64(stmt, 0);
  rc = integrity_finalize(t, stmt, rc);
  if (rc == SQLITE_OK && n_lines != n_known) {
    if (integrity_begin(j)) {
      dvx_str_addf(&j->report, "%s_row has %u lines, but the log has %u rows", t->name, n_lines, n_known);
    }
    rc = integrity_end(j);
  }
  return rc;
}

static int integrity_line(void *ctx, const char *text) {
  integrity_job *j = ctx;
  if (integrity_begin(j)) dvx_str_addf(&j->report, "%s", text);
  return integrity_end(j);
}

/* ---- all of it --------------------------------------------------------------------------------------------------- */

static int integrity_run(integrity_job *j, bool is_quick, bool is_loaded) {
  const dvx_geometry *g = &j->t->geometry;
  int rc = integrity_check_meta(j);
  if (rc == SQLITE_OK) rc = is_quick ? integrity_check_tail(j) : integrity_walk_log(j, integrity_visit_record);
  if (rc == SQLITE_OK && j->is_log_broken && !is_quick) rc = dvx_salvage_report(j->t, integrity_line, j);
  /* What cannot be loaded, or does not say what its blocks look like, has nothing more to compare. */
  if (rc != SQLITE_OK || !is_loaded) return rc;
  rc = dvx_settled_read(j->t, &j->settled);
  if (rc == SQLITE_OK) rc = integrity_check_blocks(j, DVX_SQL_HEAD_ALL, "head", g->head_bytes, g->head_rows);
  if (is_quick) return rc == SQLITE_OK ? integrity_check_line_count(j) : rc;
  if (rc == SQLITE_OK) rc = integrity_check_blocks(j, DVX_SQL_CODE_ALL, "code", g->code_bytes, g->code_rows);
  if (rc == SQLITE_OK) rc = integrity_check_sums(j);
  if (rc == SQLITE_OK && !j->is_log_broken && j->n_lines == 0) rc = integrity_check_counts(j);
  if (rc == SQLITE_OK && !j->is_log_broken) rc = integrity_check_rows(j);
  /* The graph is checked against codes, and those against rows: only if they are right. */
  if (rc == SQLITE_OK && j->n_lines == 0) rc = dvx_graph_check(j->t, integrity_line, j);
  return rc;
}

/* The message of a failure becomes a line of the report. */
static void integrity_take_error(integrity_job *j) {
  static const char prefix[] = "delta_vectors: ";
  dvx_conn *conn = j->t->conn;
  const char *text = conn->error ? conn->error : "the table cannot be loaded";
  if (strncmp(text, prefix, sizeof prefix - 1) == 0) text += sizeof prefix - 1;
  if (j->n_lines++ > 0) dvx_str_add(&j->report, "\n", 1);
  dvx_str_addf(&j->report, "%s", text);
  sqlite3_free(conn->error);
  conn->error = NULL;
}

int dvx_integrity_check(dvx_table *t, bool is_quick, char **report) {
  integrity_job j;
  memset(&j, 0, sizeof j);
  j.t = t;
  dv_buf_init(&j.scratch, &dvx_alloc);
  *report = NULL;
  int rc = dvx_table_begin_read(t);
  bool is_loaded = rc == SQLITE_OK;
  if (rc == SQLITE_CORRUPT_VTAB) {
    /* What stops every reader is the first line of the report, not the end of the check. */
    integrity_take_error(&j);
    rc = SQLITE_OK;
  }
  if (rc == SQLITE_OK) rc = integrity_run(&j, is_quick, is_loaded);
  if (rc == SQLITE_DONE) rc = SQLITE_OK; /* a hundred lines are enough */
  if (rc == SQLITE_CORRUPT_VTAB && t->conn->error) {
    integrity_take_error(&j);
    rc = SQLITE_OK;
  }
  if (is_loaded) dvx_table_end_read(t);
  sqlite3_free(j.rows);
  sqlite3_free(j.vectors);
  sqlite3_free(j.row_digests);
  sqlite3_free(j.log_digests);
  sqlite3_free(j.other);
  sqlite3_free(j.encoded);
  sqlite3_free(j.head);
  sqlite3_free(j.code);
  dv_buf_free(&j.scratch);
  if (rc == SQLITE_OK && j.n_lines > 0) {
    *report = dvx_str_take(&j.report);
    if (!*report) rc = SQLITE_NOMEM;
  }
  dvx_str_free(&j.report);
  return rc;
}
