/*
 * salvage.c: delta_salvage(table, damaged): what a damaged log still holds, applied to a new, empty table. And for the
 * integrity check: which rows have lost what.
 *
 * The damaged table need not be one: its shadow tables are read by name, as far as they are there. What their columns
 * are, the new table says, which must be declared like the damaged one.
 *
 * A seal covers the records since the seal before it: a span. Four things can be done about a span whose checksum is
 * wrong, and are tried in this order:
 *
 *   1. The checksum itself differs in one byte: the seal is what was damaged.
 *   2. There is exactly one byte whose change makes the checksum right, and the records are well-formed with it: it is
 *      mended. A CRC is linear, so the place is found by running the difference backwards, a step a byte. Where more
 *      than a byte is wrong, a place is found by chance once in 2^24 / length times; so no more than
 *      SALVAGE_MEND_BYTES are looked at.
 *   3. The span is lost. If its records can be told apart, reading goes on behind its seal; else behind the next seal
 *      of the pack from which a span is right.
 *   4. Neither: reading goes on in the next pack, whose header says how.
 *
 * Behind 3, seqs and times are those that the records say relative to each other: the lost ones may have said
 * otherwise. They are held until the header of the next pack, or the settled place, tells what they are. Where neither
 * follows, links tell the seq: a record's link leads to its row's last one, if that is known. Of the candidates the
 * largest is right, since what was lost can only make one smaller. Times are then taken as if what was lost had taken
 * none; such records are counted.
 *
 * Records then go through the row's chain: one that continues what is known is applied as it is; behind a gap a row
 * goes on at its next key. Metadata that a gap leaves unknown are taken from %_row, which has the current ones. Packs
 * behind a missing one begin with a span that no checksum proves: it is taken if it is well-formed, and counted.
 */
#include "ext_int.h"

#ifdef DVX_WITHOUT_SALVAGE /* the browser package: six kilobytes to load for what is done once, if ever, and elsewhere */

int dvx_salvage_report(dvx_table *t, int (*line)(void *ctx, const char *text), void *ctx) {
  (void)t, (void)line, (void)ctx;
  return SQLITE_OK;
}

int dvx_salvage_register(dvx_conn *conn) {
  (void)conn;
  return SQLITE_OK;
}

#else

#define SALVAGE_HEADER 28u
#define SALVAGE_MEND_BYTES ((size_t)1 << 16)
#define SALVAGE_MEND_BUDGET ((size_t)1 << 22) /* bytes looked at for the sake of one span */
#define SALVAGE_MAX_UNSEALED ((size_t)1 << 16) /* of whole records: a writer seals every 2 KiB */
#define SALVAGE_MAX_RECORD ((size_t)1 << 30)
#define SALVAGE_MAX_LOST 1000u
#define SALVAGE_INTERRUPT_EVERY 256u

/* Where a pack begins in the stream, and what its header says. */
typedef struct salvage_bound {
  size_t at;
  size_t rest; /* bytes of the record that began before it */
  int64_t key;
  int64_t time;
  bool has_header;
  bool is_first; /* nothing comes before it */
} salvage_bound;

/* A record of the stream, and what its differences refer to. */
typedef struct salvage_entry {
  size_t at, n;
  dv_log_state before;
} salvage_entry;

typedef struct salvage_entries {
  salvage_entry *p;
  size_t n, capacity;
} salvage_entries;

/* What is known of a row: by its number in the damaged table. */
typedef struct salvage_row {
  uint32_t vid; /* 0: free slot */
  uint32_t target; /* its number in the new table; 0: not there yet */
  uint64_t seq; /* of its last record that was taken */
  uint64_t gap_after; /* has_gap: of the last one before what was lost */
  int64_t time;
  bool exists;
  bool has_gap; /* records were lost, and none has been taken since */
  bool is_suspect; /* a span was lost that seems to have had records of it, and none has been taken since */
} salvage_row;

typedef struct salvage_job {
  dvx_conn *conn;
  dvx_table *t; /* whose columns count */
  bool is_dry; /* nothing is written: only tell what is lost */
  const char *schema, *name; /* of the damaged table; schema NULL: as SQLite finds it */
  sqlite3_stmt *pack_stmt, *row_stmt;
  unsigned n_seen;
  /* The packs. */
  int64_t *keys;
  size_t n_keys, key_capacity, next_key;
  dv_buf pack;
  /* The stream: contents of packs since the last seal, without headers. */
  dv_buf stream;
  salvage_bound *bounds;
  size_t n_bounds, bound_capacity;
  size_t at; /* the span begins here */
  dv_log_state state; /* there; with the CRC of the seal before it */
  bool has_crc; /* else nobody knows that */
  bool is_relative; /* seqs and times are those relative to each other */
  uint8_t settled[64]; /* as %_meta has it: the place where it says what seq and time are; zeros: nothing is settled */
  salvage_entries span;
  dv_buf scratch; /* a span with a byte changed */
  /* Records that wait to be told their seq: their bytes, and where. */
  dv_buf held_bytes;
  salvage_entries held;
  /* Rows. */
  salvage_row *rows;
  size_t n_slots, n_rows;
  dv_value *values;
  bool *is_set;
  float *vector;
  dv_buf payload;
  /* What came of it. */
  uint64_t n_taken, n_mended, n_unverified, n_lost;
  uint64_t n_undated; /* of those taken, as if the lost ones before them had been of the same time */
  uint64_t n_unread; /* bytes */
  uint64_t max_seq;
  dvx_str lost; /* JSON array, without its brackets; or nothing in a dry run, where ... */
  int (*line)(void *ctx, const char *text); /* ... lines go here */
  void *line_ctx;
} salvage_job;

static int salvage_poll(salvage_job *j) {
  if (++j->n_seen % SALVAGE_INTERRUPT_EVERY != 0 || !dvx_is_interrupted(j->conn)) return SQLITE_OK;
  return dvx_fail(j->conn, j->t, SQLITE_INTERRUPT, "salvaging was interrupted");
}

static int salvage_prepare(salvage_job *j, const char *format, const char *suffix, sqlite3_stmt **out) {
  dvx_str s = {0}, from = {0};
  if (j->schema) dvx_str_addf(&from, "\"%w\".", j->schema);
  dvx_str_addf(&from, "\"%w_%s\"", j->name, suffix);
  char *table = dvx_str_take(&from);
  if (table) dvx_str_addf(&s, format, table);
  sqlite3_free(table);
  char *sql = dvx_str_take(&s);
  *out = NULL;
  if (!table || !sql) {
    sqlite3_free(sql);
    return SQLITE_NOMEM;
  }
  int rc = sqlite3_prepare_v3(j->conn->db, sql, -1, SQLITE_PREPARE_NO_VTAB, out, NULL);
  sqlite3_free(sql);
  return rc;
}

static int salvage_grow(void *pointer, size_t *capacity, size_t n, size_t item) {
  if (n < *capacity) return SQLITE_OK;
  size_t wanted = *capacity ? *capacity * 2 : 64;
  int rc = dvx_grow(pointer, *capacity * item, wanted * item);
  if (rc == SQLITE_OK) *capacity = wanted;
  return rc;
}

static int salvage_entry_add(salvage_entries *list, size_t at, size_t n, const dv_log_state *before) {
  int rc = salvage_grow(&list->p, &list->capacity, list->n, sizeof *list->p);
  if (rc == SQLITE_OK) list->p[list->n++] = (salvage_entry){at, n, *before};
  return rc;
}

/* ---- one wrong byte ---------------------------------------------------------------------------------------------- */

static bool is_one_byte(uint32_t difference) {
  return !(difference & ~0xffu) || !(difference & ~0xff00u) || !(difference & ~0xff0000u) ||
         !(difference & ~0xff000000u);
}

/* The one place, counted from the front, and change of a byte that turn the CRC of n bytes by `difference`; false when
 * there is none, or a second one. What a change does to the CRC is a row of the table, shifted on once for each byte
 * behind it. So the difference is shifted back, byte for byte, until it is a row of the table. */
static bool salvage_locate(uint32_t difference, size_t n, size_t *at, uint8_t *change) {
  uint32_t table[256];
  uint8_t inverse[256];
  uint8_t zero = 0;
  size_t n_found = 0;
  uint32_t of_zero = dv_crc32c(0, &zero, 1);
  for (unsigned i = 0; i < 256; i++) {
    uint8_t byte = (uint8_t)i;
    table[i] = dv_crc32c(0, &byte, 1) ^ of_zero;
    inverse[table[i] >> 24] = byte;
  }
  if (n > SALVAGE_MEND_BYTES) return false;
  for (size_t i = n; i-- > 0;) {
    uint8_t row = inverse[difference >> 24];
    difference ^= table[row];
    if (difference == 0 && row != 0) {
      *at = i;
      *change = row;
      n_found++;
    }
    difference = difference << 8 | row;
  }
  return n_found == 1;
}

/* ---- packs ------------------------------------------------------------------------------------------------------- */

static bool salvage_is_damage(int rc) {
  rc &= 0xff;
  return rc == SQLITE_CORRUPT || rc == SQLITE_NOTADB;
}

/* The end of a statement; damage only means that it had no more rows to give. */
static int salvage_finalize(salvage_job *j, sqlite3_stmt *stmt, int rc) {
  int end = sqlite3_finalize(stmt);
  if (rc != SQLITE_OK || end == SQLITE_OK || salvage_is_damage(end)) return rc;
  return dvx_fail_sqlite(j->conn, j->t, end);
}

/* The keys of all packs that can be found: from the front and, if the way is broken there, from behind. */
static int salvage_list_packs(salvage_job *j) {
  int end = SQLITE_DONE;
  size_t n_front = 0;
  for (int is_back = 0; is_back < 2; is_back++) {
    sqlite3_stmt *stmt = NULL;
    int rc = salvage_prepare(
        j, is_back ? "SELECT seq FROM %s WHERE seq>0 ORDER BY seq DESC" : "SELECT seq FROM %s WHERE seq>0 ORDER BY seq",
        "log", &stmt);
    if (rc != SQLITE_OK) {
      return rc == SQLITE_ERROR ? dvx_fail(j->conn, NULL, SQLITE_ERROR, "delta_salvage: there is no table %s_log: %s",
                                           j->name, sqlite3_errmsg(j->conn->db))
                                : dvx_fail_sqlite(j->conn, j->t, rc);
    }
    while ((end = sqlite3_step(stmt)) == SQLITE_ROW) {
      int64_t key = sqlite3_column_int64(stmt, 0);
      if (is_back && n_front && key <= j->keys[n_front - 1]) break;
      rc = salvage_grow(&j->keys, &j->key_capacity, j->n_keys, sizeof *j->keys);
      if (rc == SQLITE_OK) rc = salvage_poll(j);
      if (rc != SQLITE_OK) break;
      j->keys[j->n_keys++] = key;
    }
    (void)sqlite3_finalize(stmt);
    if (rc != SQLITE_OK) return rc;
    if (end == SQLITE_DONE || end == SQLITE_ROW) break;
    if (!salvage_is_damage(end)) return dvx_fail_sqlite(j->conn, j->t, end);
    if (!is_back) n_front = j->n_keys;
  }
  for (size_t i = n_front, k = j->n_keys; n_front && i + 1 < k; i++) {
    int64_t key = j->keys[i];
    j->keys[i] = j->keys[--k];
    j->keys[k] = key;
  }
  return SQLITE_OK;
}

/* The header of the pack that was read, mended if need be. */
static void salvage_read_header(salvage_job *j, salvage_bound *b) {
  uint8_t *h = j->pack.data;
  size_t at;
  uint8_t change;
  uint32_t difference = dv_crc32c(0, h, 24) ^ dv_load_u32(h + 24);
  b->has_header = is_one_byte(difference);
  if (difference != 0 && b->has_header) j->n_mended++;
  if (!b->has_header && salvage_locate(difference, 24, &at, &change)) {
    h[at] ^= change;
    b->has_header = true;
    j->n_mended++;
  }
  size_t first = dv_load_u32(h + 4);
  if (dv_load_u16(h) != DV_FRAME_MAGIC || h[2] != 1 || first < SALVAGE_HEADER || first > j->pack.n) {
    b->has_header = false;
  }
  b->rest = b->has_header ? first - SALVAGE_HEADER : 0;
  b->time = (int64_t)dv_load_u64(h + 8);
  b->is_first = !b->has_header || (int64_t)dv_load_u64(h + 16) == INT64_MIN;
}

/* Adds the next pack that can be read to the stream; *is_there is false behind the last. */
static int salvage_next_pack(salvage_job *j, bool *is_there) {
  int rc = SQLITE_OK;
  *is_there = false;
  while (rc == SQLITE_OK && !*is_there && j->next_key < j->n_keys) {
    int64_t key = j->keys[j->next_key++];
    sqlite3_bind_int64(j->pack_stmt, 1, key);
    int step = sqlite3_step(j->pack_stmt);
    j->pack.n = 0;
    if (step == SQLITE_ROW) {
      const void *bytes = sqlite3_column_blob(j->pack_stmt, 0);
      if (bytes) dv_buf_bytes(&j->pack, bytes, (size_t)sqlite3_column_bytes(j->pack_stmt, 0));
    }
    int reset = sqlite3_reset(j->pack_stmt);
    if (reset != SQLITE_OK && !salvage_is_damage(reset)) return dvx_fail_sqlite(j->conn, j->t, reset);
    if (j->pack.status != DV_OK) return SQLITE_NOMEM;
    rc = salvage_poll(j);
    if (rc != SQLITE_OK || reset != SQLITE_OK || j->pack.n <= SALVAGE_HEADER) continue;
    rc = salvage_grow(&j->bounds, &j->bound_capacity, j->n_bounds, sizeof *j->bounds);
    if (rc != SQLITE_OK) break;
    salvage_bound *b = &j->bounds[j->n_bounds++];
    memset(b, 0, sizeof *b);
    b->at = j->stream.n;
    b->key = key;
    salvage_read_header(j, b);
    dv_buf_bytes(&j->stream, j->pack.data + SALVAGE_HEADER, j->pack.n - SALVAGE_HEADER);
    if (j->stream.status != DV_OK) rc = SQLITE_NOMEM;
    *is_there = true;
  }
  return rc;
}

/* Index of the first bound behind `at`; n_bounds: none yet. */
static size_t salvage_bound_behind(const salvage_job *j, size_t at) {
  size_t i = 0;
  while (i < j->n_bounds && j->bounds[i].at <= at) i++;
  return i;
}

/* What lies before the span is done with. */
static void salvage_drop(salvage_job *j) {
  size_t n = 0;
  if (j->at < (size_t)1 << 16) return;
  size_t kept = salvage_bound_behind(j, j->at); /* and the one of the pack that is being read */
  size_t cut = kept ? j->bounds[kept - 1].at : 0;
  for (size_t i = kept ? kept - 1 : 0; i < j->n_bounds; i++) {
    j->bounds[n] = j->bounds[i];
    j->bounds[n++].at -= cut;
  }
  j->n_bounds = n;
  j->stream.n -= cut;
  j->at -= cut;
  if (cut && j->stream.n) memmove(j->stream.data, j->stream.data + cut, j->stream.n);
}

/* ---- rows -------------------------------------------------------------------------------------------------------- */

static salvage_row *salvage_slot(salvage_job *j, uint32_t vid) {
  size_t mask = j->n_slots - 1, i = (size_t)((uint64_t)vid * 0x9e3779b97f4a7c15u >> 32) & mask;
  while (j->rows[i].vid && j->rows[i].vid != vid) i = (i + 1) & mask;
  return &j->rows[i];
}

static salvage_row *salvage_known(salvage_job *j, uint32_t vid) {
  salvage_row *row = j->n_slots ? salvage_slot(j, vid) : NULL;
  return row && row->vid ? row : NULL;
}

static int salvage_row_of(salvage_job *j, uint32_t vid, salvage_row **out) {
  if ((j->n_rows + 1) * 4 > j->n_slots * 3) {
    size_t n_old = j->n_slots, n = n_old ? n_old * 2 : 64;
    salvage_row *old = j->rows, *rows = sqlite3_malloc64(n * sizeof *rows);
    if (!rows) return SQLITE_NOMEM;
    memset(rows, 0, n * sizeof *rows);
    j->rows = rows;
    j->n_slots = n;
    for (size_t i = 0; i < n_old; i++) {
      if (old[i].vid) *salvage_slot(j, old[i].vid) = old[i];
    }
    sqlite3_free(old);
  }
  *out = salvage_slot(j, vid);
  if ((*out)->vid == 0) j->n_rows++;
  (*out)->vid = vid;
  return SQLITE_OK;
}

/* The row's line in %_row: its id, and metadata into the values that are not set. Valid until the next call. */
static int salvage_line(salvage_job *j, uint32_t vid, dv_value *id, bool with_fields) {
  id->type = DV_NULL;
  if (!j->row_stmt) return SQLITE_OK;
  sqlite3_reset(j->row_stmt);
  sqlite3_bind_int64(j->row_stmt, 1, vid);
  int rc = sqlite3_step(j->row_stmt);
  if (rc != SQLITE_ROW) {
    int reset = sqlite3_reset(j->row_stmt);
    return reset == SQLITE_OK || salvage_is_damage(reset) ? SQLITE_OK : dvx_fail_sqlite(j->conn, j->t, reset);
  }
  dvx_column_value(j->row_stmt, 0, id);
  dv_value_type type = j->t->config->id_type == DVX_ID_TEXT ? DV_TEXT : DV_INTEGER;
  if (id->type != type) id->type = DV_NULL;
  int n = j->t->config->n_columns;
  for (int i = 0; with_fields && i < n && i + 1 < sqlite3_column_count(j->row_stmt); i++) {
    if (!j->is_set[i]) dvx_column_value(j->row_stmt, i + 1, &j->values[i]);
    j->is_set[i] = true;
  }
  return SQLITE_OK;
}

/* Tells of a row that records between two seqs are gone; before = 0: up to the end. */
static int salvage_tell(salvage_job *j, uint32_t vid, uint64_t after, uint64_t before) {
  dv_value id;
  dvx_str s = {0};
  j->n_lost++;
  if (j->n_lost > SALVAGE_MAX_LOST) return SQLITE_OK;
  int rc = salvage_line(j, vid, &id, false);
  if (rc != SQLITE_OK) return rc;
  if (!j->is_dry) {
    dvx_str *out = &j->lost;
    dvx_str_addf(out, j->n_lost > 1 ? ",{" : "{");
    if (id.type == DV_TEXT) {
      dvx_str_addf(out, "\"id\":");
      dvx_history_json_text(out, id.bytes, id.n_bytes);
    } else if (id.type == DV_INTEGER) {
      dvx_str_addf(out, "\"id\":%i", id.integer);
    } else {
      dvx_str_addf(out, "\"id\":null,\"row\":%u", (uint64_t)vid);
    }
    dvx_str_addf(out, ",\"after\":%u", after);
    if (before) {
      dvx_str_addf(out, ",\"before\":%u}", before);
    } else {
      dvx_str_addf(out, ",\"before\":null}");
    }
    return out->is_oom ? SQLITE_NOMEM : SQLITE_OK;
  }
  dvx_str_addf(&s, "%s_log: ", j->name);
  if (id.type == DV_NULL) {
    dvx_str_addf(&s, "row number %u", (uint64_t)vid);
  } else {
    dvx_str_addf(&s, "row %I", &id);
  }
  if (after == 0 && before == 0) {
    dvx_str_addf(&s, " is lost");
  } else if (before == 0) {
    dvx_str_addf(&s, " has lost what came after delta %u", after);
  } else if (after == 0) {
    dvx_str_addf(&s, " has lost what came before delta %u", before);
  } else {
    dvx_str_addf(&s, " has lost what came between the deltas %u and %u", after, before);
  }
  char *text = dvx_str_take(&s);
  rc = text ? j->line(j->line_ctx, text) : SQLITE_NOMEM;
  sqlite3_free(text);
  return rc;
}

/* ---- records ----------------------------------------------------------------------------------------------------- */

/* Is it what a record of this table can be? */
static bool salvage_is_sound(salvage_job *j, const dv_record *rec) {
  const dvx_config *c = j->t->config;
  dv_reader r = dv_reader_of(rec->fields, rec->n_fields);
  uint32_t number;
  dv_value v;
  bool has_id = false;
  if (rec->vid == 0 || rec->vid > DVX_MAX_VID || rec->seq == 0 || rec->seq >= (uint64_t)DVX_MAX_SEQ) return false;
  if (rec->link >= rec->seq || rec->time > DVX_TIME_MAX || rec->time < -DVX_TIME_MAX) return false;
  if (rec->link == 0 && rec->delta.op != DV_OP_CREATE) return false;
  if (dv_delta_check(&rec->delta, c->dimensions, NULL) != DV_OK) return false;
  if (rec->is_key && !dv_encoding_is_full((int)rec->delta.encoding)) {
    dv_delta full = {DV_OP_CREATE, rec->full_encoding, rec->full, rec->n_full};
    if (!dv_encoding_is_full((int)rec->full_encoding) || dv_delta_check(&full, c->dimensions, NULL) != DV_OK)
      return false;
  }
  while (dv_numbered_next(&r, &number, &v)) {
    if (number > (uint32_t)c->n_columns) return false;
    if (number != 0) continue;
    if (v.type != (c->id_type == DVX_ID_TEXT ? DV_TEXT : DV_INTEGER)) return false;
    has_id = true;
  }
  return !r.is_bad && (rec->link != 0 || has_id);
}

/* A refusal means the record cannot follow what is there, not that salvaging fails. */
static bool salvage_is_refusal(int rc) {
  rc &= 0xff;
  return rc == SQLITE_ERROR || rc == SQLITE_CONSTRAINT || rc == SQLITE_CORRUPT || rc == SQLITE_TOOBIG;
}

static int salvage_write(salvage_job *j, salvage_row *row, dvx_change *ch, bool *is_taken) {
  uint64_t seq;
  *is_taken = true;
  if (j->is_dry) return SQLITE_OK;
  ch->vid = row->target;
  int rc = ch->vid == 0 ? dvx_row_find(j->t, &ch->id, &ch->vid) : SQLITE_OK;
  if (rc == SQLITE_OK && row->target == 0 && ch->vid != 0) {
    *is_taken = false; /* a second row of the same id: no table has that */
    return SQLITE_OK;
  }
  if (rc == SQLITE_OK) rc = dvx_append(j->t, ch, &seq);
  if (salvage_is_refusal(rc)) {
    sqlite3_free(j->conn->error);
    j->conn->error = NULL;
    *is_taken = false;
    return SQLITE_OK;
  }
  if (rc == SQLITE_OK && row->target == 0) row->target = dvx_table_last_vid(j->t);
  return rc;
}

/* The full vector that stands in a key, encoded for the row as it is in the new table. */
static int salvage_full(salvage_job *j, const dv_record *rec, const salvage_row *row, dvx_change *ch) {
  const dvx_config *c = j->t->config;
  bool is_full = dv_encoding_is_full((int)rec->delta.encoding);
  dv_delta full = {DV_OP_CREATE, is_full ? rec->delta.encoding : rec->full_encoding,
                   is_full ? rec->delta.payload : rec->full, is_full ? rec->delta.n_payload : rec->n_full};
  const float *from = NULL;
  if (dv_delta_apply(&full, j->vector, c->dimensions, NULL) != DV_OK) return SQLITE_CORRUPT_VTAB;
  dv_op op = row->exists ? DV_OP_DENSE : DV_OP_CREATE;
  if (row->exists && !j->is_dry) {
    int rc = dvx_row_vector(j->t, row->target, &from);
    if (rc != SQLITE_OK) return rc;
  }
  j->payload.n = 0;
  dv_delta_encode_dense(&j->payload, &ch->delta, op, from, j->vector, c->dimensions, c->compression);
  if (j->payload.status != DV_OK) return SQLITE_NOMEM;
  ch->delta.payload = j->payload.data;
  ch->is_merged = op == DV_OP_CREATE && rec->delta.op != DV_OP_CREATE;
  return SQLITE_OK;
}

/* Applies the record to the row; *is_taken is false if that needs what was lost. */
static int salvage_apply(salvage_job *j, salvage_row *row, const dv_record *rec, bool *is_taken) {
  const dvx_config *c = j->t->config;
  dv_op op = rec->delta.op;
  dvx_change ch;
  bool is_next = rec->link == 0 ? row->seq == 0 && !row->has_gap : row->seq != 0 && rec->seq - rec->link == row->seq;
  bool any = false;
  dv_value line_id;
  memset(&ch, 0, sizeof ch);
  *is_taken = false;
  int rc = dvx_history_fields(j->t, rec, j->values, j->is_set);
  if (rc != SQLITE_OK) { /* was looked at before: so memory ran out */
    return rc;
  }
  for (int i = 0; i < c->n_columns; i++) any = any || j->is_set[i];
  if (is_next) {
    if (op == DV_OP_CREATE ? row->exists : !row->exists) return SQLITE_OK;
    ch.delta = rec->delta;
    ch.is_merged = op == DV_OP_CREATE && (rec->extra & DV_RECORD_MERGED) != 0;
  } else if (op == DV_OP_DELETE) {
    if (!row->exists) { /* what was deleted is lost: the row is not there, as it should be */
      *is_taken = true;
      return SQLITE_OK;
    }
    ch.delta = rec->delta;
  } else if (rec->is_key) {
    rc = salvage_full(j, rec, row, &ch);
    if (rc == SQLITE_CORRUPT_VTAB) return SQLITE_OK;
    if (rc != SQLITE_OK) return rc;
  } else {
    return SQLITE_OK;
  }
  dv_reader fields = dv_reader_of(rec->fields, rec->n_fields);
  uint32_t number;
  bool has_id = dv_numbered_next(&fields, &number, &ch.id) && number == 0;
  bool wants_fields = !is_next && op != DV_OP_DELETE && op != DV_OP_CREATE;
  if (!has_id || wants_fields) {
    rc = salvage_line(j, rec->vid, &line_id, wants_fields);
    if (rc != SQLITE_OK) return rc;
    if (!has_id) ch.id = line_id;
  }
  if (ch.id.type == DV_NULL && row->target == 0) return SQLITE_OK; /* nobody knows its id any more */
  if (wants_fields || ch.delta.op == DV_OP_CREATE) {
    ch.fields = j->values; /* all of them: one that nobody knows is NULL */
  } else if (any) {
    ch.fields = j->values;
    if (!(rec->extra & DV_RECORD_ALL_FIELDS)) ch.is_set = j->is_set;
  }
  ch.has_time = true;
  ch.time = row->seq && rec->time < row->time ? row->time : rec->time;
  rc = salvage_write(j, row, &ch, is_taken);
  if (rc == SQLITE_OK && *is_taken) row->exists = op != DV_OP_DELETE;
  if (rc == SQLITE_OK && *is_taken) row->time = ch.time;
  return rc;
}

static int salvage_take(salvage_job *j, const uint8_t *bytes, size_t n, dv_log_state before) {
  dv_record rec;
  salvage_row *row;
  bool is_taken;
  int rc = salvage_poll(j);
  if (rc != SQLITE_OK) return rc;
  if (dv_record_read(bytes, n, &rec, &before) != DV_OK || !salvage_is_sound(j, &rec)) return SQLITE_OK;
  if (rec.seq <= j->max_seq) return SQLITE_OK; /* a copy of what has been taken */
  j->max_seq = rec.seq;
  rc = salvage_row_of(j, rec.vid, &row);
  if (rc != SQLITE_OK) return rc;
  rc = salvage_apply(j, row, &rec, &is_taken);
  if (rc != SQLITE_OK) return rc;
  if (!is_taken) {
    if (!row->has_gap) row->gap_after = row->seq;
    row->has_gap = true;
    return SQLITE_OK;
  }
  j->n_taken++;
  bool is_gap = row->has_gap || (rec.link != 0 && rec.seq - rec.link != row->seq);
  uint64_t after = row->has_gap ? row->gap_after : row->seq;
  row->seq = rec.seq;
  row->has_gap = row->is_suspect = false;
  return is_gap ? salvage_tell(j, rec.vid, after, rec.seq) : SQLITE_OK;
}

/* ---- spans ------------------------------------------------------------------------------------------------------- */

static int salvage_take_held(salvage_job *j, uint64_t seq_shift, uint64_t time_shift) {
  int rc = SQLITE_OK;
  for (size_t i = 0; rc == SQLITE_OK && i < j->held.n; i++) {
    const salvage_entry *e = &j->held.p[i];
    dv_log_state before = e->before;
    before.seq += seq_shift;
    before.time = (int64_t)((uint64_t)before.time + time_shift);
    rc = salvage_take(j, j->held_bytes.data + e->at, e->n, before);
  }
  j->held.n = 0;
  j->held_bytes.n = 0;
  return rc;
}

/* How far the seqs of held records are off, by their links. */
static uint64_t salvage_vote(salvage_job *j) {
  uint64_t best = 0;
  for (size_t i = 0; i < j->held.n; i++) {
    const salvage_entry *e = &j->held.p[i];
    dv_log_state state = e->before;
    dv_record rec;
    if (dv_record_read(j->held_bytes.data + e->at, e->n, &rec, &state) != DV_OK || rec.link == 0) continue;
    const salvage_row *row = salvage_known(j, rec.vid);
    uint64_t first = j->held.p[0].before.seq;
    if (!row || row->seq == 0 || rec.link > rec.seq || rec.seq - rec.link > first) continue;
    uint64_t shift = row->seq - (rec.seq - rec.link);
    if (row->seq > rec.seq - rec.link && shift < (uint64_t)DVX_MAX_SEQ && shift > best) best = shift;
  }
  return best;
}

/* Nothing more will tell what the held records' seqs are. */
static int salvage_settle_held(salvage_job *j) {
  uint64_t n_before = j->n_taken;
  j->is_relative = false;
  int rc = j->held.n ? salvage_take_held(j, salvage_vote(j), 0) : SQLITE_OK;
  j->n_undated += j->n_taken - n_before;
  return rc;
}

/* The span is lost. Its records can be told apart, so whose they are is likely right. */
static int salvage_suspect(salvage_job *j) {
  int rc = SQLITE_OK;
  for (size_t i = 0; rc == SQLITE_OK && i < j->span.n; i++) {
    dv_record rec;
    dv_value id;
    salvage_row *row;
    dv_log_state state = j->span.p[i].before;
    j->n_unread += j->span.p[i].n;
    if (dv_record_read(j->stream.data + j->span.p[i].at, j->span.p[i].n, &rec, &state) != DV_OK) continue;
    row = salvage_known(j, rec.vid);
    if (!row && rec.vid > 0 && rec.vid <= DVX_MAX_VID) {
      rc = salvage_line(j, rec.vid, &id, false);
      if (rc == SQLITE_OK && id.type != DV_NULL) rc = salvage_row_of(j, rec.vid, &row);
    }
    if (row) row->is_suspect = true;
  }
  return rc;
}

/* Hands over the records of a span that is right; they lie in `bytes`. */
static int salvage_accept(salvage_job *j, const uint8_t *bytes) {
  int rc = SQLITE_OK;
  for (size_t i = 0; rc == SQLITE_OK && i < j->span.n; i++) {
    const salvage_entry *e = &j->span.p[i];
    if (!j->is_relative) {
      rc = salvage_take(j, bytes + e->at, e->n, e->before);
    } else {
      rc = salvage_entry_add(&j->held, j->held_bytes.n, e->n, &e->before);
      dv_buf_bytes(&j->held_bytes, bytes + e->at, e->n);
      if (j->held_bytes.status != DV_OK) rc = SQLITE_NOMEM;
    }
  }
  return rc;
}

/* Is the state, behind a seal that ends there, that of the settled place? Then what is held is told. */
static int salvage_at_settled(salvage_job *j, size_t end, dv_log_state *state) {
  const uint8_t *s = j->settled;
  const salvage_bound *b = NULL;
  for (size_t i = 0; i < j->n_bounds && j->bounds[i].at < end; i++) b = &j->bounds[i];
  int64_t key = (int64_t)dv_load_u64(s);
  if (!j->is_relative || !b || key == 0 || b->key != key || dv_load_u32(s + 8) != end - b->at + SALVAGE_HEADER ||
      dv_load_u32(s + 12) != state->crc) {
    return SQLITE_OK;
  }
  uint64_t seq_shift = dv_load_u64(s + 16) - state->seq, time_shift = dv_load_u64(s + 24) - (uint64_t)state->time;
  state->seq = dv_load_u64(s + 16);
  state->time = (int64_t)dv_load_u64(s + 24);
  j->is_relative = false;
  return salvage_take_held(j, seq_shift, time_shift);
}

typedef enum salvage_found { SALVAGE_SEAL, SALVAGE_BROKEN, SALVAGE_MORE, SALVAGE_END } salvage_found;

/* Walks from j->at to the span's seal, which is then at *seal; the records are in j->span, the state in *state. MORE:
 * the stream ends before; END: nothing stands there, and no pack follows. */
static int salvage_walk(salvage_job *j, bool is_last, size_t *seal, dv_log_state *state, salvage_found *found) {
  const uint8_t *s = j->stream.data;
  size_t at = j->at, n = j->stream.n, n_whole = 0, bound = salvage_bound_behind(j, at);
  int rc = SQLITE_OK;
  *state = j->state;
  *found = SALVAGE_BROKEN;
  j->span.n = 0;
  while (rc == SQLITE_OK) {
    const salvage_bound *b = bound < j->n_bounds ? &j->bounds[bound] : NULL;
    size_t end = b ? b->at : n, left = end - at;
    if (left >= DV_SEAL_BYTES) {
      /* One of its three parts may be wrong: its first byte, its last, or the checksum. */
      bool is_match = j->has_crc && j->span.n && dv_load_u32(s + at + 1) == state->crc;
      if (is_match ? s[at] == DV_RECORD_SEAL || s[at + 5] == DV_RECORD_SEAL
                   : s[at] == DV_RECORD_SEAL && s[at + 5] == DV_RECORD_SEAL) {
        if (is_match && (s[at] != DV_RECORD_SEAL || s[at + 5] != DV_RECORD_SEAL)) j->n_mended++;
        *seal = at;
        *found = SALVAGE_SEAL;
        return SQLITE_OK;
      }
    }
    uint8_t tag = 0;
    size_t span = left < DV_RECORD_HEAD_BYTES ? 0 : dv_record_span(s + at, n - at, &tag);
    if (span == SIZE_MAX || span > SALVAGE_MAX_RECORD || (span != 0 && (tag & 7u) == DV_RECORD_SEAL)) return SQLITE_OK;
    if (span == 0 || span > left) {
      if (!b) {
        if (!is_last) {
          *found = SALVAGE_MORE;
        } else if (j->span.n == 0 && span == 0) {
          while (at < n && s[at] == 0) at++;
          if (at == n) *found = SALVAGE_END;
        }
        return SQLITE_OK;
      }
      if (b->has_header && b->rest != (span == 0 ? 0 : span - left)) return SQLITE_OK;
      if (span > n - at) {
        *found = is_last ? SALVAGE_BROKEN : SALVAGE_MORE;
        return SQLITE_OK;
      }
    }
    if (span != 0) {
      dv_record rec;
      if (n_whole > SALVAGE_MAX_UNSEALED) return SQLITE_OK;
      n_whole += span;
      rc = salvage_entry_add(&j->span, at, span, state);
      if (rc != SQLITE_OK) break;
      state->crc = dv_crc32c(state->crc, s + at, span);
      if (dv_record_read(s + at, span, &rec, state) != DV_OK) return SQLITE_OK;
    }
    if (span != 0 && span <= left) {
      at += span;
      continue;
    }
    at = span == 0 ? b->at : at + span;
    bound++;
    if (!b->has_header) continue;
    if (j->is_relative) {
      uint64_t seq_shift = (uint64_t)b->key - 1 - state->seq, time_shift = (uint64_t)b->time - (uint64_t)state->time;
      for (size_t i = 0; i < j->span.n; i++) {
        j->span.p[i].before.seq += seq_shift;
        j->span.p[i].before.time = (int64_t)((uint64_t)j->span.p[i].before.time + time_shift);
      }
      rc = salvage_take_held(j, seq_shift, time_shift);
      j->is_relative = false;
    } else if (state->seq != (uint64_t)b->key - 1 || state->time != b->time) {
      return SQLITE_OK;
    }
    state->seq = (uint64_t)b->key - 1;
    state->time = b->time;
  }
  return rc;
}

/* The bytes of a would-be span from j->at to a seal at `end`, in j->scratch. Padding of so many zeros more than those
 * that must be is left in front of a pack that begins with a record. */
static bool salvage_region(salvage_job *j, size_t end, size_t n_zeros) {
  size_t at = j->at;
  j->scratch.n = 0;
  for (size_t i = salvage_bound_behind(j, at); at < end; i++) {
    const salvage_bound *b = i < j->n_bounds && j->bounds[i].at < end ? &j->bounds[i] : NULL;
    size_t stop = b ? b->at : end;
    if (b && b->rest == 0) {
      while (stop > at && j->stream.data[stop - 1] == 0) stop--;
      if (b->at - stop < n_zeros) return false;
      stop += n_zeros;
    }
    if (stop - at > SALVAGE_MEND_BYTES - j->scratch.n) return false;
    dv_buf_bytes(&j->scratch, j->stream.data + at, stop - at);
    at = b ? b->at : end;
  }
  return j->scratch.status == DV_OK;
}

/* Are the bytes in j->scratch nothing but records? They are listed in j->span. */
static int salvage_parse(salvage_job *j, dv_log_state *state, bool *is_well) {
  size_t at = 0;
  *state = j->state;
  *is_well = false;
  j->span.n = 0;
  while (at < j->scratch.n) {
    uint8_t tag = 0;
    dv_record rec;
    size_t span = dv_record_span(j->scratch.data + at, j->scratch.n - at, &tag);
    if (span == 0 || span > j->scratch.n - at || (tag & 7u) == DV_RECORD_SEAL) return SQLITE_OK;
    int rc = salvage_entry_add(&j->span, at, span, state);
    if (rc != SQLITE_OK) return rc;
    if (dv_record_read(j->scratch.data + at, span, &rec, state) != DV_OK || !salvage_is_sound(j, &rec))
      return SQLITE_OK;
    at += span;
  }
  *is_well = j->span.n > 0;
  return SQLITE_OK;
}

/* Looks for the seal of the span at j->at with which one byte is wrong; *is_mended, and then the records are in
 * j->scratch, and *seal and *state as salvage_walk has them. */
static int salvage_mend(salvage_job *j, size_t *seal, dv_log_state *state, bool *is_mended) {
  const uint8_t *s = j->stream.data;
  size_t budget = SALVAGE_MEND_BUDGET;
  *is_mended = false;
  if (!j->has_crc) return SQLITE_OK;
  for (size_t p = j->at; p + DV_SEAL_BYTES <= j->stream.n && p - j->at < SALVAGE_MEND_BYTES; p++) {
    if (s[p] != DV_RECORD_SEAL || s[p + 5] != DV_RECORD_SEAL) continue;
    uint32_t stored = dv_load_u32(s + p + 1);
    for (size_t n_zeros = 0; n_zeros < DV_RECORD_HEAD_BYTES; n_zeros++) {
      size_t where;
      uint8_t change;
      if (!salvage_region(j, p, n_zeros)) {
        if (j->scratch.status != DV_OK) return SQLITE_NOMEM;
        break;
      }
      size_t n = j->scratch.n;
      if (n + 64 > budget) return SQLITE_OK;
      budget -= n + 64;
      uint32_t difference = dv_crc32c(j->state.crc, j->scratch.data, n) ^ stored;
      bool is_seal = is_one_byte(difference);
      if (is_seal || salvage_locate(difference, n, &where, &change)) {
        if (!is_seal) j->scratch.data[where] ^= change;
        int rc = salvage_parse(j, state, is_mended);
        if (rc != SQLITE_OK) return rc;
        if (*is_mended) {
          state->crc = stored ^ (is_seal ? difference : 0);
          *seal = p;
          j->n_mended++;
          return SQLITE_OK;
        }
      }
      size_t b = salvage_bound_behind(j, j->at);
      if (b == j->n_bounds || j->bounds[b].at >= p) break; /* it lies in one pack: there is no padding in it */
    }
  }
  return SQLITE_OK;
}

/* Begins behind the header of the bound's pack. The seal before it is known if nothing was lost on the way. */
static int salvage_begin_pack(salvage_job *j, const salvage_bound *b) {
  int rc = salvage_settle_held(j);
  j->at = b->at + b->rest;
  j->state.seq = (uint64_t)b->key - 1;
  j->state.time = b->time;
  return rc;
}

/* The span at j->at cannot be read. Looks in front of `end` for a seal behind which one can be, and goes on there: seqs
 * and times are relative then. *is_found is false, and nothing has changed, if there is none. */
static int salvage_resync(salvage_job *j, size_t end, bool *is_found) {
  const size_t from = j->at;
  const dv_log_state state = j->state;
  const bool has_crc = j->has_crc, was_relative = j->is_relative;
  int rc = salvage_settle_held(j);
  *is_found = false;
  for (size_t p = from; rc == SQLITE_OK && p + DV_SEAL_BYTES <= end; p++) {
    const uint8_t *s = j->stream.data + p;
    dv_log_state behind;
    size_t seal;
    salvage_found found;
    if (s[0] != DV_RECORD_SEAL || s[5] != DV_RECORD_SEAL) continue;
    j->at = p + DV_SEAL_BYTES;
    j->state = (dv_log_state){state.seq, state.time, dv_load_u32(s + 1)};
    j->has_crc = true;
    j->is_relative = true; /* nothing is held, so that a walk beyond a header changes nothing */
    rc = salvage_walk(j, true, &seal, &behind, &found);
    if (rc != SQLITE_OK || found != SALVAGE_SEAL || behind.crc != dv_load_u32(j->stream.data + seal + 1)) continue;
    j->is_relative = true; /* ... the header's part of the walk is still to come */
    j->n_unread += p - from;
    *is_found = true;
    return salvage_at_settled(j, j->at, &j->state);
  }
  j->at = from;
  j->state = state;
  j->has_crc = has_crc;
  j->is_relative = was_relative;
  return rc;
}

/* The span at j->at cannot be read. Goes on behind a seal of the same pack, or else in the next one. */
static int salvage_skip(salvage_job *j, bool *is_end) {
  size_t from = j->at;
  size_t bound = salvage_bound_behind(j, from);
  bool is_there = false, is_found = false;
  int rc = bound == j->n_bounds ? salvage_next_pack(j, &is_there) : SQLITE_OK; /* the span behind may go on in it */
  size_t end = bound < j->n_bounds ? j->bounds[bound].at : j->stream.n;
  if (rc == SQLITE_OK) rc = salvage_resync(j, end, &is_found);
  if (rc != SQLITE_OK || is_found) return rc;
  for (size_t p = from; p < end; p++) { /* not the zeros behind the log's end */
    if (j->stream.data[p] == 0) continue;
    size_t last = end;
    while (j->stream.data[last - 1] == 0) last--;
    j->n_unread += last - p;
    break;
  }
  /* The next pack with a header. What was before it is lost, unless a checksum says that there was nothing. */
  for (;;) {
    for (; bound < j->n_bounds; bound++) {
      if (j->bounds[bound].has_header) return salvage_begin_pack(j, &j->bounds[bound]);
      j->n_unread += (bound + 1 < j->n_bounds ? j->bounds[bound + 1].at : j->stream.n) - j->bounds[bound].at;
    }
    j->at = j->stream.n;
    salvage_drop(j); /* however many follow that cannot be read, they are not kept */
    bound = j->n_bounds;
    rc = salvage_next_pack(j, &is_there);
    if (rc != SQLITE_OK) return rc;
    if (!is_there) {
      *is_end = true;
      return SQLITE_OK;
    }
  }
}

/* A span behind packs that are gone, whose checksum nobody can tell: taken if every record is sound. */
static bool salvage_is_believable(salvage_job *j) {
  for (size_t i = 0; i < j->span.n; i++) {
    dv_record rec;
    dv_log_state state = j->span.p[i].before;
    if (dv_record_read(j->stream.data + j->span.p[i].at, j->span.p[i].n, &rec, &state) != DV_OK ||
        !salvage_is_sound(j, &rec)) {
      return false;
    }
  }
  return true;
}

static int salvage_log(salvage_job *j) {
  bool is_there = false, is_end = false, is_fresh = false;
  int rc = salvage_next_pack(j, &is_there);
  if (rc == SQLITE_OK && is_there) {
    const salvage_bound *b = &j->bounds[0];
    j->state = (dv_log_state){(uint64_t)b->key - 1, b->has_header ? b->time : 0, 0};
    j->at = b->rest;
    j->has_crc = b->is_first; /* a log begins with CRC 0 */
    is_fresh = !j->has_crc;
  }
  while (rc == SQLITE_OK && is_there && !is_end) {
    dv_log_state state;
    salvage_found found;
    size_t seal = 0;
    bool is_mended = false;
    rc = salvage_walk(j, j->next_key >= j->n_keys, &seal, &state, &found);
    if (rc != SQLITE_OK || found == SALVAGE_END) break;
    if (found == SALVAGE_MORE) {
      bool more;
      rc = salvage_next_pack(j, &more);
      if (rc == SQLITE_OK && !more) j->next_key = j->n_keys;
      continue;
    }
    uint32_t stored = found == SALVAGE_SEAL ? dv_load_u32(j->stream.data + seal + 1) : 0;
    bool is_right = found == SALVAGE_SEAL && j->has_crc && stored == state.crc;
    bool is_believed = false;
    if (!is_right && found == SALVAGE_SEAL && is_fresh && salvage_is_believable(j)) {
      is_believed = true;
      j->n_unverified += j->span.n;
      state.crc = stored;
    }
    if (is_right || is_believed) {
      rc = salvage_accept(j, j->stream.data);
    } else {
      dv_log_state as_parsed = state;
      size_t as_sealed = seal;
      rc = salvage_mend(j, &seal, &state, &is_mended);
      if (rc == SQLITE_OK && is_mended) {
        rc = salvage_accept(j, j->scratch.data);
      } else if (rc == SQLITE_OK && found == SALVAGE_SEAL) {
        /* A wrong length may have led beyond a seal or two. */
        bool is_found;
        rc = salvage_resync(j, as_sealed, &is_found);
        if (rc == SQLITE_OK && is_found) {
          is_fresh = false;
          continue;
        }
        /* Lost, but its records can be told apart: those behind go on from there, if they said how far it is. */
        seal = as_sealed;
        state = as_parsed;
        state.crc = stored;
        rc = salvage_walk(j, true, &seal, &as_parsed, &found); /* mending used the list */
        if (rc == SQLITE_OK) rc = salvage_suspect(j);
        if (rc == SQLITE_OK) rc = salvage_settle_held(j);
        j->is_relative = true;
        is_mended = true;
      }
      if (rc == SQLITE_OK && !is_mended) {
        rc = salvage_skip(j, &is_end);
        is_fresh = !j->is_relative;
        salvage_drop(j);
        continue;
      }
    }
    if (rc == SQLITE_OK) rc = salvage_at_settled(j, seal + DV_SEAL_BYTES, &state);
    j->at = seal + DV_SEAL_BYTES;
    j->state = state;
    j->has_crc = true;
    is_fresh = false;
    salvage_drop(j);
  }
  return rc == SQLITE_OK ? salvage_settle_held(j) : rc;
}

/* ---- what rows lost behind their last record --------------------------------------------------------------------- */

static int salvage_tell_row(salvage_job *j, uint32_t vid) {
  const salvage_row *row = salvage_known(j, vid);
  return salvage_tell(j, vid, !row ? 0 : row->has_gap ? row->gap_after : row->seq, 0);
}

/* Heads, if they have the checksum that `settled` names. They tell of rows whose end was lost. */
static int salvage_read_heads(salvage_job *j, uint64_t **heads, uint64_t *n_heads) {
  sqlite3_stmt *stmt = NULL;
  uint64_t sum = 0, expected = dv_load_u64(j->settled + 48), n = dv_load_u32(j->settled + 40);
  *n_heads = 0;
  if (dv_load_u64(j->settled) == 0 || n == 0 || n > DVX_MAX_VID) return SQLITE_OK;
  int rc = salvage_prepare(j, "SELECT heads FROM %s ORDER BY block", "head", &stmt);
  if (rc != SQLITE_OK) return rc == SQLITE_NOMEM ? rc : SQLITE_OK;
  uint64_t vid = 0, capacity = 0;
  rc = SQLITE_OK;
  while (rc == SQLITE_OK && vid < n && sqlite3_step(stmt) == SQLITE_ROW) {
    const uint8_t *b = sqlite3_column_blob(stmt, 0);
    size_t rows = b ? (size_t)sqlite3_column_bytes(stmt, 0) / 8 : 0;
    if (vid + rows > capacity) {
      uint64_t *grown = sqlite3_realloc64(*heads, (vid + rows) * 2 * sizeof *grown);
      if (!grown) {
        rc = SQLITE_NOMEM;
        break;
      }
      *heads = grown;
      capacity = (vid + rows) * 2;
    }
    for (size_t i = 0; i < rows && vid < n; i++) {
      uint64_t word = dv_load_u64(b + 8 * i);
      sum += dvx_word_mix((uint32_t)++vid, word);
      (*heads)[vid - 1] = word;
    }
    rc = salvage_poll(j);
  }
  rc = salvage_finalize(j, stmt, rc);
  if (rc == SQLITE_OK && sum == expected) *n_heads = vid;
  return rc;
}

static int salvage_tell_rest(salvage_job *j) {
  uint64_t *heads = NULL, n_heads = 0;
  sqlite3_stmt *stmt = NULL;
  int rc = salvage_read_heads(j, &heads, &n_heads);
  if (rc == SQLITE_OK) {
    int prepared = salvage_prepare(j, "SELECT vid FROM %s WHERE vid>0 ORDER BY vid", "row", &stmt);
    if (prepared == SQLITE_NOMEM) rc = prepared;
  }
  while (rc == SQLITE_OK && stmt && sqlite3_step(stmt) == SQLITE_ROW) {
    int64_t vid = sqlite3_column_int64(stmt, 0);
    if (vid <= 0) continue; /* a text, in a table that somebody made: it is greater than 0 */
    if (vid > DVX_MAX_VID) break;
    uint64_t head = heads && (uint64_t)vid <= n_heads ? dvx_word_seq(heads[vid - 1]) : 1;
    salvage_row *row = salvage_known(j, (uint32_t)vid);
    if (!row || row->has_gap || row->is_suspect || row->seq < head) rc = salvage_tell_row(j, (uint32_t)vid);
    if (row) row->has_gap = row->is_suspect = false;
    if (rc == SQLITE_OK) rc = salvage_poll(j);
  }
  rc = salvage_finalize(j, stmt, rc);
  sqlite3_free(heads);
  /* Rows that %_row does not have either. */
  for (size_t i = 0; rc == SQLITE_OK && i < j->n_slots; i++) {
    if (j->rows[i].vid && (j->rows[i].has_gap || j->rows[i].is_suspect)) rc = salvage_tell_row(j, j->rows[i].vid);
  }
  return rc;
}

/* ---- all of it --------------------------------------------------------------------------------------------------- */

static int salvage_read_settled(salvage_job *j) {
  sqlite3_stmt *stmt = NULL;
  int rc = salvage_prepare(j, "SELECT value FROM %s WHERE key='settled'", "meta", &stmt);
  if (rc != SQLITE_OK) return rc == SQLITE_NOMEM ? rc : SQLITE_OK; /* it goes without */
  if (sqlite3_step(stmt) == SQLITE_ROW && sqlite3_column_bytes(stmt, 0) >= (int)sizeof j->settled) {
    const void *bytes = sqlite3_column_blob(stmt, 0);
    if (bytes) memcpy(j->settled, bytes, sizeof j->settled);
  }
  return salvage_finalize(j, stmt, SQLITE_OK);
}

/* A table of other dimensions has nothing that could be taken. */
static int salvage_check_dimensions(salvage_job *j) {
  sqlite3_stmt *stmt = NULL;
  int64_t n = 0;
  int rc = salvage_prepare(j, "SELECT value FROM %s WHERE key='dimensions'", "meta", &stmt);
  if (rc != SQLITE_OK) return rc == SQLITE_NOMEM ? rc : SQLITE_OK;
  if (sqlite3_step(stmt) == SQLITE_ROW && sqlite3_column_type(stmt, 0) == SQLITE_INTEGER)
    n = sqlite3_column_int64(stmt, 0);
  rc = salvage_finalize(j, stmt, SQLITE_OK);
  if (rc != SQLITE_OK || j->is_dry || n < 1 || n > (int64_t)DV_MAX_DIMENSIONS || n == (int64_t)j->t->config->dimensions)
    return rc;
  return dvx_fail(j->conn, j->t, SQLITE_ERROR, "delta_salvage: the damaged table has %i dimensions, expected %u", n,
                  (uint64_t)j->t->config->dimensions);
}

static int salvage_run(salvage_job *j) {
  const dvx_config *c = j->t->config;
  size_t n = (size_t)c->n_columns + 1;
  dv_buf_init(&j->pack, &dvx_alloc);
  dv_buf_init(&j->stream, &dvx_alloc);
  dv_buf_init(&j->scratch, &dvx_alloc);
  dv_buf_init(&j->held_bytes, &dvx_alloc);
  dv_buf_init(&j->payload, &dvx_alloc);
  j->values = sqlite3_malloc64(n * sizeof *j->values);
  j->is_set = sqlite3_malloc64(n * sizeof *j->is_set);
  j->vector = sqlite3_malloc64(c->dimensions * sizeof *j->vector);
  if (!j->values || !j->is_set || !j->vector) return SQLITE_NOMEM;
  int rc = salvage_list_packs(j);
  if (rc != SQLITE_OK) return rc;
  rc = salvage_check_dimensions(j);
  if (rc != SQLITE_OK) return rc;
  rc = salvage_prepare(j, "SELECT pack FROM %s WHERE seq=?1", "log", &j->pack_stmt);
  if (rc != SQLITE_OK) return dvx_fail_sqlite(j->conn, j->t, rc);
  dvx_str columns = {0};
  dvx_str_addf(&columns, "SELECT id");
  for (int i = 1; i <= c->n_columns; i++) dvx_str_addf(&columns, ", c%d", i);
  dvx_str_addf(&columns, " FROM %%s WHERE vid=?1");
  char *format = dvx_str_take(&columns);
  if (!format) return SQLITE_NOMEM;
  /* Without %_row the log alone tells: ids are in the records that create rows. */
  rc = salvage_prepare(j, format, "row", &j->row_stmt);
  sqlite3_free(format);
  if (rc == SQLITE_NOMEM) return rc;
  rc = salvage_read_settled(j);
  if (rc == SQLITE_OK) rc = salvage_log(j);
  return rc == SQLITE_OK ? salvage_tell_rest(j) : rc;
}

static void salvage_free(salvage_job *j) {
  (void)sqlite3_finalize(j->pack_stmt);
  (void)sqlite3_finalize(j->row_stmt);
  dv_buf *const bufs[] = {&j->pack, &j->stream, &j->scratch, &j->held_bytes, &j->payload};
  for (size_t i = 0; i < sizeof bufs / sizeof bufs[0]; i++) {
    if (bufs[i]->alloc) dv_buf_free(bufs[i]);
  }
  sqlite3_free(j->keys);
  sqlite3_free(j->bounds);
  sqlite3_free(j->span.p);
  sqlite3_free(j->held.p);
  sqlite3_free(j->rows);
  sqlite3_free(j->values);
  sqlite3_free(j->is_set);
  sqlite3_free(j->vector);
  dvx_str_free(&j->lost);
}

int dvx_salvage_report(dvx_table *t, int (*line)(void *ctx, const char *text), void *ctx) {
  salvage_job j;
  memset(&j, 0, sizeof j);
  j.conn = t->conn;
  j.t = t;
  j.is_dry = true;
  j.schema = t->schema;
  j.name = t->name;
  j.line = line;
  j.line_ctx = ctx;
  int rc = salvage_run(&j);
  if (rc == SQLITE_OK && (j.n_lost == 0 || j.n_unread > 0)) {
    char *text = j.n_unread == 0
                     ? dvx_format("%s_log: no delta is lost: delta_salvage() brings them into a new table", t->name)
                     : dvx_format("%s_log: %u bytes cannot be read: delta_salvage() brings the others into a new table",
                                  t->name, j.n_unread);
    rc = text ? line(ctx, text) : SQLITE_NOMEM;
    sqlite3_free(text);
  }
  salvage_free(&j);
  return rc;
}

static int salvage_into(dvx_table *t, void *arg) {
  salvage_job *j = arg;
  j->t = t;
  if (dvx_history_last_seq(t) != 0) {
    return dvx_fail(t->conn, t, SQLITE_ERROR,
                    "delta_salvage needs an empty table to write to, and this one has deltas");
  }
  return salvage_run(j);
}

/* 'schema.table' or 'table', as dvx_table_find: but only the log needs to be there. *hold is freed by the caller. */
static int salvage_source(salvage_job *j, const char *name, char **hold) {
  sqlite3_stmt *stmt = NULL;
  j->name = name;
  int rc = salvage_prepare(j, "SELECT 1 FROM %s", "log", &stmt);
  (void)sqlite3_finalize(stmt);
  const char *dot = strchr(name, '.');
  if (rc == SQLITE_OK || rc == SQLITE_NOMEM || !dot) return rc == SQLITE_NOMEM ? rc : SQLITE_OK;
  dvx_str s = {0};
  dvx_str_add(&s, name, strlen(name));
  *hold = dvx_str_take(&s);
  if (!*hold) return SQLITE_NOMEM;
  (*hold)[dot - name] = 0;
  j->schema = *hold;
  j->name = *hold + (dot - name) + 1;
  return SQLITE_OK;
}

/* delta_salvage(table, damaged) */
static void salvage_function(sqlite3_context *ctx, int argc, sqlite3_value **argv) {
  dvx_conn *conn = dvx_context_conn(ctx);
  const char *source = (const char *)sqlite3_value_text(argv[1]);
  salvage_job j;
  dvx_table *t = NULL;
  char *hold = NULL;
  (void)argc;
  memset(&j, 0, sizeof j);
  j.conn = conn;
  int rc = SQLITE_OK;
  if (source) {
    rc = dvx_table_find_argument(conn, "delta_salvage", argv[0], &t);
  } else {
    rc = dvx_fail(conn, NULL, SQLITE_ERROR, "delta_salvage: the name of the damaged table is NULL");
  }
  if (t) {
    t->n_refs++; /* preparing a statement may make SQLite drop and connect tables anew */
    rc = salvage_source(&j, source, &hold);
    if (rc == SQLITE_OK) rc = dvx_table_write(t, salvage_into, &j);
    dvx_table_release(t);
  }
  if (rc != SQLITE_OK) {
    dvx_give_context(conn, ctx, rc);
  } else {
    dvx_str s = {0};
    char *lost = j.lost.n ? dvx_str_take(&j.lost) : NULL;
    dvx_str_addf(&s, "{\"deltas\":%u,\"mended\":%u,\"unverified\":%u,\"undated\":%u,\"unread\":%u,\"lost\":[%s]}",
                 j.n_taken, j.n_mended, j.n_unverified, j.n_undated, j.n_unread, lost ? lost : "");
    sqlite3_free(lost);
    dvx_result_text(ctx, &s);
  }
  salvage_free(&j);
  sqlite3_free(hold);
}

int dvx_salvage_register(dvx_conn *conn) {
  return dvx_conn_function(conn, "delta_salvage", 2, SQLITE_UTF8 | SQLITE_DIRECTONLY, salvage_function);
}

#endif
