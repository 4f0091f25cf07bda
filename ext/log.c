/*
 * log.c: owner of %_log, the truth: a stream of records cut into packs.
 *
 * A pack is a blob of fixed size (two pages, page-exact, see dvx_shadow_blob_size; longer when a record needs it),
 * keyed by the seq of the first record that begins in it:
 *
 *   7A DE  magic            01  version            00
 *   first u32               offset of the first record or seal that begins here: the bytes before it end the last
 *                           record of the previous pack
 *   time i64                of the last record that began before this pack: what the first record's time refers to
 *   max_time i64            largest time of all records that began before this pack
 *   crc u32                 of the bytes above
 *   contents                the rest of a straddling record, records, seals (core/dv_frame.h), zeros to the end
 *
 * The record before the first one in a pack has seq key-1 for the purpose of the first record's gap.
 *
 * A seal ends every append and stands at least every LOG_SEAL_BYTES. It holds the CRC-32C of all contents since the
 * seal before it, continued from that seal's CRC: one changed byte anywhere breaks the seal behind it, and (pack,
 * offset, CRC) of the last seal identifies the whole history. The seal's last byte is not zero, so the end of the
 * contents is found from behind, without parsing.
 *
 * A record begins only where LOG_HEAD_BYTES are left, so its head is never cut by a pack's end; a seal is never cut. A
 * pack is made long enough that a record can begin in it behind the rest of the straddling one: that is what makes the
 * keys unique.
 *
 * Appending rewrites the tail pack with an UPDATE of the same size, which makes SQLite write only the page that
 * changed.
 */
#include "ext_int.h"

#define LOG_HEADER_BYTES 28u
#define LOG_HEAD_BYTES DV_RECORD_HEAD_BYTES
#define LOG_SEAL_EVERY 2048u
#define LOG_MAX_RECORD ((size_t)1 << 30)

static int log_corrupt(dvx_table *t, int64_t key, const char *what) {
  return dvx_fail(t->conn, t, SQLITE_CORRUPT_VTAB,
                  "the log is damaged: pack %i: %s; run INSERT INTO \"%w\"(\"%w\") VALUES('integrity-check')", key,
                  what, t->name, t->name);
}

/* ---- packs in memory --------------------------------------------------------------------------------------------- */

static void log_header_write(uint8_t *pack, uint32_t first, int64_t time, int64_t max_time) {
  dv_store_u16(pack, DV_FRAME_MAGIC);
  pack[2] = 1;
  pack[3] = 0;
  dv_store_u32(pack + 4, first);
  dv_store_u64(pack + 8, (uint64_t)time);
  dv_store_u64(pack + 16, (uint64_t)max_time);
  dv_store_u32(pack + 24, dv_crc32c(0, pack, 24));
}

typedef struct log_header {
  uint32_t first;
  int64_t time;
  int64_t max_time;
} log_header;

static int log_header_read(dvx_table *t, int64_t key, const uint8_t *pack, size_t n, log_header *out) {
  if (pack == NULL || n < LOG_HEADER_BYTES || dv_load_u16(pack) != DV_FRAME_MAGIC) {
    return log_corrupt(t, key, "not a pack");
  }
  if (pack[2] != 1) {
    return dvx_fail(t->conn, t, SQLITE_CORRUPT_VTAB, "pack %i has format %d; this library reads format 1", key,
                    pack[2]);
  }
  if (dv_crc32c(0, pack, 24) != dv_load_u32(pack + 24))
    return log_corrupt(t, key, "its header does not match its checksum");
  out->first = dv_load_u32(pack + 4);
  out->time = (int64_t)dv_load_u64(pack + 8);
  out->max_time = (int64_t)dv_load_u64(pack + 16);
  if (out->first < LOG_HEADER_BYTES || out->first > n) return log_corrupt(t, key, "its first record lies outside");
  return SQLITE_OK;
}

/* Lists the records that begin in the pack, from where this ended the last time, until the first whose seq is not below `seq`.
 * Most who come here want one record of fifty: of those before it only the length is looked at, and the gap where there is
 * one. */
static int log_list(dvx_table *t, dvx_pack *p, uint64_t seq) {
  uint64_t last = p->n_entries ? p->entries[p->n_entries - 1].seq : (uint64_t)p->key - 1;
  size_t at = p->listed;
  while (at < p->n_bytes && (p->n_entries == 0 || last < seq)) {
    uint8_t tag;
    size_t span = dv_record_span(p->bytes + at, p->n_bytes - at, &tag);
    if (span == 0) {
      p->listed = p->n_bytes; /* zeros: the end of the contents */
      break;
    }
    if (span == SIZE_MAX || span > LOG_MAX_RECORD) return log_corrupt(t, p->key, "a record is malformed");
    if ((tag & 7u) != DV_RECORD_SEAL) {
      dv_log_state state = {last, 0, 0};
      if ((tag >> 7) == 0 && last < INT64_MAX) {
        state.seq++; /* without an extra byte there is no gap */
      } else if (dv_record_head(p->bytes + at, p->n_bytes - at, &state) != DV_OK) {
        return log_corrupt(t, p->key, "a record is malformed");
      }
      if (p->n_entries == p->entry_capacity) {
        size_t capacity = p->entry_capacity ? p->entry_capacity * 2 : 64;
        dvx_pack_entry *e = sqlite3_realloc64(p->entries, capacity * sizeof *e);
        if (!e) return SQLITE_NOMEM;
        p->entries = e;
        p->entry_capacity = capacity;
      }
      last = state.seq;
      p->entries[p->n_entries++] = (dvx_pack_entry){last, 0, (uint32_t)at};
    }
    at = span > p->n_bytes - at ? p->n_bytes : at + span;
    p->listed = at;
  }
  return SQLITE_OK;
}

/* The first listed entry whose seq is not below this; n_entries if there is none. */
static size_t log_entry(const dvx_pack *p, uint64_t seq) {
  size_t low = 0, high = p->n_entries;
  while (low < high) {
    size_t mid = (low + high) / 2;
    if (p->entries[mid].seq < seq) {
      low = mid + 1;
    } else {
      high = mid;
    }
  }
  return low;
}

/* Is there a listed entry whose seq is not below this? */
static bool log_reaches(const dvx_pack *p, uint64_t seq) {
  return p->n_entries > 0 && p->entries[p->n_entries - 1].seq >= seq;
}

/* The time of the i-th record, which is told from record to record. */
static int log_time(dvx_table *t, dvx_pack *p, size_t i, int64_t *time) {
  for (; p->n_timed <= i; p->n_timed++) {
    dvx_pack_entry *e = &p->entries[p->n_timed];
    dv_log_state state = {(uint64_t)p->key - 1, (int64_t)dv_load_u64(p->bytes + 8), 0};
    if (p->n_timed > 0) state = (dv_log_state){e[-1].seq, e[-1].time, 0};
    if (dv_record_head(p->bytes + e->offset, p->n_bytes - e->offset, &state) != DV_OK) {
      return log_corrupt(t, p->key, "a record is malformed");
    }
    e->time = state.time;
  }
  *time = p->entries[i].time;
  return SQLITE_OK;
}

/* A slot to read a pack into: the one used longest ago. */
static dvx_pack *log_slot(dvx_log *log) {
  dvx_pack *oldest = &log->slots[0];
  for (size_t i = 1; i < DVX_PACK_SLOTS; i++) {
    if (log->slots[i].used < oldest->used) oldest = &log->slots[i];
  }
  return oldest;
}

static int log_slot_fill(dvx_table *t, dvx_pack *p, int64_t key, const void *bytes, size_t n) {
  p->key = 0;
  p->n_entries = p->n_timed = 0;
  if (n > p->capacity) {
    uint8_t *grown = sqlite3_realloc64(p->bytes, n);
    if (!grown) return SQLITE_NOMEM;
    p->bytes = grown;
    p->capacity = n;
  }
  if (n) memcpy(p->bytes, bytes, n);
  p->n_bytes = n;
  log_header h = {0, 0, 0};
  int rc = log_header_read(t, key, p->bytes, n, &h);
  if (rc == SQLITE_OK) p->key = key;
  p->listed = h.first;
  p->used = ++t->log.clock;
  return rc;
}

/* A damaged b-tree gives what was not asked for, which must not send a search round in circles. */
static bool log_is_asked_for(dvx_sql which, int64_t key, int64_t found) {
  return which == DVX_SQL_LOG_AT ? found <= key : found > key;
}

/* The pack under `which` (LOG_AT: that holds seq; LOG_NEXT: that follows the key), read into a slot. *out is NULL when
 * there is none. */
static int log_fetch(dvx_table *t, dvx_sql which, int64_t key, dvx_pack **out) {
  sqlite3_stmt *stmt = NULL;
  int rc = dvx_shadow_stmt(t, which, &stmt);
  if (rc != SQLITE_OK) return rc;
  *out = NULL;
  sqlite3_bind_int64(stmt, 1, key);
  if (sqlite3_step(stmt) == SQLITE_ROW) {
    int64_t found = sqlite3_column_int64(stmt, 0);
    size_t n = (size_t)sqlite3_column_bytes(stmt, 1);
    const void *bytes = sqlite3_column_blob(stmt, 1);
    if (!log_is_asked_for(which, key, found)) {
      rc = log_corrupt(t, found, "it is not where it belongs");
    } else if (sqlite3_column_type(stmt, 1) != SQLITE_BLOB || (n && !bytes)) {
      rc = n && !bytes ? SQLITE_NOMEM : log_corrupt(t, found, "not a blob");
    } else if (found <= 0 && which == DVX_SQL_LOG_AT) {
      rc = SQLITE_OK; /* packs of a rewrite in progress have negative keys */
    } else {
      dvx_pack *p = log_slot(&t->log);
      rc = log_slot_fill(t, p, found, bytes, n);
      if (rc == SQLITE_OK) *out = p;
    }
  }
  int reset = sqlite3_reset(stmt);
  if (rc == SQLITE_OK && reset != SQLITE_OK) rc = dvx_fail_sqlite(t->conn, t, reset);
  return rc;
}

/* The pack in which the record `seq` begins, listed up to it. */
static int log_pack_of(dvx_table *t, uint64_t seq, dvx_pack **out) {
  dvx_log *log = &t->log;
  dvx_pack *p = NULL;
  for (size_t i = 0; i < DVX_PACK_SLOTS; i++) {
    dvx_pack *slot = &log->slots[i];
    if (slot->key > 0 && (uint64_t)slot->key <= seq && (p == NULL || slot->key > p->key)) p = slot;
  }
  int rc = p ? log_list(t, p, seq) : SQLITE_OK;
  if (rc != SQLITE_OK) return rc;
  if (p && log_reaches(p, seq)) {
    p->used = ++log->clock;
    *out = p;
    return SQLITE_OK;
  }
  /* The tail pack grows: a cached copy of it that ends before seq is stale, and must not stay beside the new one. */
  rc = log_fetch(t, DVX_SQL_LOG_AT, (int64_t)seq, out);
  if (rc != SQLITE_OK || *out == NULL) return rc;
  for (size_t i = 0; i < DVX_PACK_SLOTS; i++) {
    if (&log->slots[i] != *out && log->slots[i].key == (*out)->key) log->slots[i].key = 0;
  }
  return log_list(t, *out, seq);
}

void dvx_log_forget(dvx_table *t) {
  for (size_t i = 0; i < DVX_PACK_SLOTS; i++) t->log.slots[i].key = 0;
}

void dvx_log_free(dvx_table *t) {
  for (size_t i = 0; i < DVX_PACK_SLOTS; i++) {
    sqlite3_free(t->log.slots[i].bytes);
    sqlite3_free(t->log.slots[i].entries);
  }
  sqlite3_free(t->log.assembled);
  memset(&t->log, 0, sizeof t->log);
}

/* ---- reading one record ------------------------------------------------------------------------------------------ */

static int log_assemble_room(dvx_table *t, size_t n) {
  if (n <= t->log.assembled_capacity) return SQLITE_OK;
  uint8_t *p = sqlite3_realloc64(t->log.assembled, n);
  if (!p) return SQLITE_NOMEM;
  t->log.assembled = p;
  t->log.assembled_capacity = n;
  return SQLITE_OK;
}

/* The n_bytes of a record in p, in one piece: in the pack, or put together from it and the next. */
static int log_record_bytes(dvx_table *t, dvx_pack *p, dvx_pack_entry e, size_t n_bytes, const uint8_t **out) {
  size_t at = e.offset;
  size_t here = p->n_bytes - at;
  if (n_bytes <= here) {
    *out = p->bytes + at;
    return SQLITE_OK;
  }
  int64_t key = p->key;
  int rc = log_assemble_room(t, n_bytes);
  if (rc != SQLITE_OK) return rc;
  memcpy(t->log.assembled, p->bytes + at, here);
  dvx_pack *next = NULL;
  for (size_t i = 0; i < DVX_PACK_SLOTS; i++) {
    /* The pack behind is keyed by the seq after the straddling record, which is its pack's last one. */
    if (t->log.slots[i].key == (int64_t)(e.seq + 1)) next = &t->log.slots[i];
  }
  if (next == NULL) rc = log_fetch(t, DVX_SQL_LOG_NEXT, key, &next);
  if (rc != SQLITE_OK) return rc;
  if (next == NULL || dv_load_u32(next->bytes + 4) - LOG_HEADER_BYTES != n_bytes - here) {
    return log_corrupt(t, key, "its last record does not go on in the next pack");
  }
  next->used = ++t->log.clock;
  memcpy(t->log.assembled + here, next->bytes + LOG_HEADER_BYTES, n_bytes - here);
  *out = t->log.assembled;
  return SQLITE_OK;
}

static int log_stored_record(dvx_table *t, uint64_t seq, bool is_timed, dv_record *rec) {
  dvx_pack *p;
  int rc = log_pack_of(t, seq, &p);
  if (rc != SQLITE_OK) return rc;
  size_t at = p ? log_entry(p, seq) : 0;
  if (p == NULL || at >= p->n_entries || p->entries[at].seq != seq) {
    return dvx_fail(t->conn, t, SQLITE_CORRUPT_VTAB, "the log is damaged: there is no record with seq %u", seq);
  }
  int64_t time = 0;
  if (is_timed) rc = log_time(t, p, at, &time);
  if (rc != SQLITE_OK) return rc;
  dvx_pack_entry e = p->entries[at];
  int64_t key = p->key;
  uint8_t tag;
  size_t span = dv_record_span(p->bytes + e.offset, p->n_bytes - e.offset, &tag);
  const uint8_t *bytes = NULL;
  rc = log_record_bytes(t, p, e, span, &bytes);
  if (rc != SQLITE_OK) return rc;
  dv_log_state state = {0, 0, 0};
  if (dv_record_read(bytes, span, rec, &state) != DV_OK) return log_corrupt(t, key, "a record is malformed");
  rec->seq = seq;
  rec->time = time;
  return SQLITE_OK;
}

static int log_record(dvx_table *t, uint64_t seq, bool is_timed, dv_record *rec) {
  const dvx_overlay *o = &t->overlay;
  if (o->n_pending > o->n_released && seq >= o->first_seq + o->n_released) {
    uint64_t i = seq - o->first_seq;
    if (i < o->n_pending) {
      const dvx_pending *p = &o->pending[i];
      dv_log_state state = {0, 0, 0};
      if (dv_record_read(o->arena.data + (p->offset - o->arena_base), p->n_bytes, rec, &state) != DV_OK) {
        return dvx_fail(t->conn, t, SQLITE_INTERNAL, "a pending delta cannot be read back");
      }
      rec->seq = seq;
      rec->time = is_timed ? p->time : 0;
      return SQLITE_OK;
    }
  }
  return log_stored_record(t, seq, is_timed, rec);
}

int dvx_log_record(dvx_table *t, uint64_t seq, dv_record *rec) { return log_record(t, seq, true, rec); }

int dvx_log_change(dvx_table *t, uint64_t seq, dv_record *rec) { return log_record(t, seq, false, rec); }

int dvx_log_next(dvx_table *t, uint64_t seq, dv_record *rec) {
  const dvx_overlay *o = &t->overlay;
  bool has_pending = o->is_open && o->n_pending > o->n_written;
  uint64_t first_unwritten = o->first_seq + o->n_written;
  if (!has_pending || seq + 1 < first_unwritten) {
    dvx_pack *p;
    int rc = log_pack_of(t, seq + 1, &p);
    if (rc != SQLITE_OK) return rc;
    if (p == NULL || !log_reaches(p, seq + 1)) {
      /* Behind this pack's last record (a gap left by a rewrite, or the end): the next pack, if there is one. */
      rc = log_fetch(t, DVX_SQL_LOG_NEXT, p ? p->key : 0, &p);
      if (rc == SQLITE_OK && p) rc = log_list(t, p, seq + 1);
      if (rc != SQLITE_OK) return rc;
    }
    if (p && log_reaches(p, seq + 1)) return log_stored_record(t, p->entries[log_entry(p, seq + 1)].seq, true, rec);
  }
  if (!has_pending) return SQLITE_DONE;
  uint64_t next = seq + 1 > first_unwritten ? seq + 1 : first_unwritten;
  return next < o->first_seq + o->n_pending ? dvx_log_record(t, next, rec) : SQLITE_DONE;
}

/* ---- reading forward --------------------------------------------------------------------------------------------- */

/* One pack of a scan, held apart from the cache: a visitor may read other records. */
typedef struct log_cursor {
  int64_t key;
  uint8_t *bytes;
  size_t n;
  size_t capacity;
  uint8_t *record; /* a straddling one, put together */
  size_t record_capacity;
} log_cursor;

/* Records of a pack that are told of before they are read. */
#define LOG_AHEAD 8u

typedef struct log_told {
  int64_t key;
  size_t at;
  size_t n;
} log_told;

static int log_cursor_read(dvx_table *t, log_cursor *c, dvx_sql which, int64_t key, bool *is_there) {
  sqlite3_stmt *stmt = NULL;
  int rc = dvx_shadow_stmt(t, which, &stmt);
  if (rc != SQLITE_OK) return rc;
  *is_there = false;
  sqlite3_bind_int64(stmt, 1, key);
  if (sqlite3_step(stmt) == SQLITE_ROW && sqlite3_column_int64(stmt, 0) > 0) {
    int64_t found = sqlite3_column_int64(stmt, 0);
    size_t n = (size_t)sqlite3_column_bytes(stmt, 1);
    const void *bytes = sqlite3_column_blob(stmt, 1);
    if (!log_is_asked_for(which, key, found)) {
      rc = log_corrupt(t, found, "it is not where it belongs");
    } else if (sqlite3_column_type(stmt, 1) != SQLITE_BLOB) {
      rc = log_corrupt(t, found, "not a blob");
    } else if (n > c->capacity) {
      uint8_t *grown = sqlite3_realloc64(c->bytes, n);
      if (!grown) {
        rc = SQLITE_NOMEM;
      } else {
        c->bytes = grown;
        c->capacity = n;
      }
    }
    if (rc == SQLITE_OK && n && !(bytes && c->bytes)) rc = SQLITE_NOMEM;
    if (rc == SQLITE_OK) {
      if (n) memcpy(c->bytes, bytes, n);
      c->n = n;
      c->key = found;
      *is_there = true;
    }
  }
  int reset = sqlite3_reset(stmt);
  if (rc == SQLITE_OK && reset != SQLITE_OK) rc = dvx_fail_sqlite(t->conn, t, reset);
  return rc;
}

/* Does the log read so far stand at p? False when the stored log has another history. */
static bool log_is_at(const log_cursor *c, const dvx_position *p) {
  return c->key == p->pack && p->end <= c->n && p->end >= LOG_HEADER_BYTES + DV_SEAL_BYTES &&
         c->bytes[p->end - 1] == DV_RECORD_SEAL && dv_load_u32(c->bytes + p->end - 5) == p->crc;
}

int dvx_log_is_at(dvx_table *t, const dvx_position *position, bool *is_at) {
  log_cursor c = {0};
  *is_at = position->pack == 0;
  if (*is_at) return SQLITE_OK;
  int rc = log_cursor_read(t, &c, DVX_SQL_LOG_AT, position->pack, is_at);
  if (rc == SQLITE_OK) *is_at = *is_at && log_is_at(&c, position);
  sqlite3_free(c.bytes);
  return rc;
}

/* Tells `soon` of rows whose records come next in this pack: a record is read in less time than a vector is fetched in from
 * memory. *asked is where it has come to. */
static void log_tell(const log_cursor *c, size_t at, log_told *told, void (*soon)(void *ctx, uint32_t vid), void *ctx) {
  if (told->key != c->key || told->at < at) *told = (log_told){c->key, at, 0};
  while (told->n < LOG_AHEAD && told->at < c->n) {
    uint8_t tag;
    uint32_t vid;
    size_t span = dv_record_span(c->bytes + told->at, c->n - told->at, &tag);
    if (span == 0 || span > c->n - told->at) break;
    if (dv_record_row(c->bytes + told->at, span, &vid)) {
      soon(ctx, vid);
      told->n++;
    }
    told->at += span;
  }
  if (told->n > 0) told->n--; /* the one that is read now */
}

static int log_scan(dvx_table *t, dvx_position *from, size_t max_records, int (*visit)(void *ctx, const dv_record *rec),
                    void (*soon)(void *ctx, uint32_t vid), void *ctx) {
  log_cursor c = {0};
  log_told told = {0, 0, 0};
  log_header h = {0, 0, 0};
  bool is_there;
  dvx_position reached = *from; /* behind the last seal */
  dv_log_state state = {from->seq, from->time, from->crc};
  int64_t max_time = from->max_time;
  size_t at = from->end;
  size_t n_records = 0;
  int rc;
  if (from->pack == 0) {
    rc = log_cursor_read(t, &c, DVX_SQL_LOG_NEXT, 0, &is_there);
    if (rc == SQLITE_OK && is_there) {
      rc = log_header_read(t, c.key, c.bytes, c.n, &h);
      at = h.first;
      state = (dv_log_state){(uint64_t)c.key - 1, h.time, 0};
      max_time = h.max_time;
    }
  } else {
    rc = log_cursor_read(t, &c, DVX_SQL_LOG_AT, from->pack, &is_there);
    if (rc == SQLITE_OK && (!is_there || !log_is_at(&c, from))) rc = SQLITE_NOTFOUND;
  }
  while (rc == SQLITE_OK && is_there) {
    uint8_t tag = 0;
    size_t span = at < c.n ? dv_record_span(c.bytes + at, c.n - at, &tag) : 0;
    if (span == SIZE_MAX || span > LOG_MAX_RECORD) {
      rc = log_corrupt(t, c.key, "a record is malformed");
      break;
    }
    if (span == 0) { /* the end of this pack's contents */
      int64_t key = c.key;
      rc = log_cursor_read(t, &c, DVX_SQL_LOG_NEXT, key, &is_there);
      if (rc != SQLITE_OK || !is_there) break;
      rc = log_header_read(t, c.key, c.bytes, c.n, &h);
      if (rc == SQLITE_OK && h.first != LOG_HEADER_BYTES) {
        rc = log_corrupt(t, c.key, "it begins with the end of a record that is not there");
      }
      if (rc == SQLITE_OK && (uint64_t)c.key <= state.seq)
        rc = log_corrupt(t, c.key, "its key is not behind the record before it");
      state.seq = (uint64_t)c.key - 1;
      at = h.first;
      continue;
    }
    if ((tag & 7u) == DV_RECORD_SEAL) {
      if (span > c.n - at) {
        rc = log_corrupt(t, c.key, "a seal is cut off");
        break;
      }
      uint32_t crc = dv_load_u32(c.bytes + at + 1);
      if (crc != state.crc || c.bytes[at + 5] != DV_RECORD_SEAL) {
        rc = log_corrupt(t, c.key, "contents do not match their checksum");
        break;
      }
      at += span;
      reached = (dvx_position){c.key, (uint32_t)at, crc, state.seq, state.time, max_time};
      if (n_records >= max_records) break;
      continue;
    }
    if (soon) log_tell(&c, at, &told, soon, ctx);
    const uint8_t *bytes = c.bytes + at;
    size_t here = c.n - at;
    if (span > here) { /* goes on in the next pack */
      int64_t key = c.key;
      if (span > c.record_capacity) {
        uint8_t *grown = sqlite3_realloc64(c.record, span);
        if (!grown) {
          rc = SQLITE_NOMEM;
          break;
        }
        c.record = grown;
        c.record_capacity = span;
      }
      memcpy(c.record, bytes, here);
      rc = log_cursor_read(t, &c, DVX_SQL_LOG_NEXT, key, &is_there);
      if (rc == SQLITE_OK && !is_there) rc = log_corrupt(t, key, "its last record is cut off");
      if (rc == SQLITE_OK) rc = log_header_read(t, c.key, c.bytes, c.n, &h);
      if (rc == SQLITE_OK && h.first - LOG_HEADER_BYTES != span - here) {
        rc = log_corrupt(t, c.key, "it does not begin with the rest of the record before it");
      }
      if (rc != SQLITE_OK) break;
      memcpy(c.record + here, c.bytes + LOG_HEADER_BYTES, span - here);
      bytes = c.record;
      at = h.first;
    } else {
      at += span;
    }
    state.crc = dv_crc32c(state.crc, bytes, span);
    dv_record rec;
    if (dv_record_read(bytes, span, &rec, &state) != DV_OK) {
      rc = log_corrupt(t, c.key, "a record is malformed");
      break;
    }
    if (state.time > max_time) max_time = state.time;
    n_records++;
    rc = visit(ctx, &rec);
    if (rc == SQLITE_OK) rc = dvx_poll(t);
  }
  sqlite3_free(c.bytes);
  sqlite3_free(c.record);
  if (rc == SQLITE_DONE) rc = SQLITE_OK;
  if (rc == SQLITE_OK) *from = reached;
  return rc;
}

int dvx_log_scan(dvx_table *t, dvx_position *from, size_t max_records, int (*visit)(void *ctx, const dv_record *rec),
                 void *ctx) {
  return log_scan(t, from, max_records, visit, NULL, ctx);
}

int dvx_log_follow(dvx_table *t, dvx_position *from, int (*visit)(void *ctx, const dv_record *rec),
                   void (*soon)(void *ctx, uint32_t vid), void *ctx) {
  return log_scan(t, from, SIZE_MAX, visit, soon, ctx);
}

int dvx_log_first_after(dvx_table *t, int64_t time, uint64_t *seq) {
  /* max_time rises from pack to pack, so: bisect for the last pack whose max_time does not exceed `time`. A record past
   * `time` cannot begin before it. */
  uint64_t low = 0, high = t->overlay.is_open && t->overlay.n_written ? t->overlay.written.seq : t->position.seq;
  uint64_t found = 1;
  while (low < high) {
    uint64_t mid = low + (high - low + 1) / 2;
    dvx_pack *p;
    int rc = log_fetch(t, DVX_SQL_LOG_AT, (int64_t)mid, &p);
    if (rc != SQLITE_OK) return rc;
    if (p == NULL) { /* before the first pack */
      low = mid;
      continue;
    }
    if ((int64_t)dv_load_u64(p->bytes + 16) > time) {
      high = (uint64_t)p->key - 1;
    } else {
      rc = log_list(t, p, UINT64_MAX);
      if (rc != SQLITE_OK) return rc;
      low = mid;
      found = (uint64_t)p->key;
      if (p->n_entries && p->entries[p->n_entries - 1].seq > low)
        low = p->entries[p->n_entries - 1].seq < high ? p->entries[p->n_entries - 1].seq : high;
      /* Inside this pack the records tell exactly. */
      int64_t max_time = (int64_t)dv_load_u64(p->bytes + 16);
      for (size_t i = 0; i < p->n_entries; i++) {
        int64_t at = 0;
        rc = log_time(t, p, i, &at);
        if (rc != SQLITE_OK) return rc;
        if (at > max_time) max_time = at;
        if (max_time > time) {
          *seq = p->entries[i].seq;
          return SQLITE_OK;
        }
        found = p->entries[i].seq + 1;
      }
    }
  }
  *seq = found;
  return SQLITE_OK;
}

/* ---- appending --------------------------------------------------------------------------------------------------- */

/* The pack being written. */
typedef struct log_writer {
  dvx_table *t;
  int64_t key; /* as stored: negative in a rewrite */
  bool is_stored; /* the row exists: UPDATE, not INSERT */
  bool is_rewrite;
  uint8_t *bytes;
  size_t n;
  size_t capacity;
  size_t at;
} log_writer;

static int log_writer_store(log_writer *w) {
  sqlite3_stmt *stmt = NULL;
  int rc = dvx_shadow_stmt(w->t, w->is_stored ? DVX_SQL_LOG_UPDATE : DVX_SQL_LOG_INSERT, &stmt);
  if (rc != SQLITE_OK) return rc;
  sqlite3_bind_int64(stmt, 1, w->is_rewrite ? -w->key : w->key);
  sqlite3_bind_blob(stmt, 2, w->bytes, (int)w->n, SQLITE_STATIC);
  rc = dvx_shadow_run(w->t, stmt);
  sqlite3_clear_bindings(stmt);
  if (rc == SQLITE_OK) w->is_stored = true;
  return rc;
}

/* Starts a pack whose first record will have seq `key`, behind `rest` bytes of a straddling record. */
static int log_writer_start(log_writer *w, uint64_t key, size_t rest, const dvx_position *p) {
  const dvx_geometry *g = &w->t->geometry;
  size_t need = LOG_HEADER_BYTES + rest + (size_t)2 * LOG_HEAD_BYTES;
  size_t n = g->pack_bytes;
  for (size_t pages = 1; n < need; pages++) n = dvx_shadow_blob_size(g->page_bytes, pages);
  if (n > w->capacity) {
    uint8_t *grown = sqlite3_realloc64(w->bytes, n);
    if (!grown) return SQLITE_NOMEM;
    w->bytes = grown;
    w->capacity = n;
  }
  memset(w->bytes, 0, n);
  w->n = n;
  w->key = (int64_t)key;
  w->is_stored = false;
  log_header_write(w->bytes, (uint32_t)(LOG_HEADER_BYTES + rest), p->time, p->max_time);
  w->at = LOG_HEADER_BYTES;
  return SQLITE_OK;
}

static int log_writer_seal(log_writer *w, dvx_position *p) {
  if (w->n - w->at < DV_SEAL_BYTES) {
    int rc = log_writer_store(w);
    if (rc == SQLITE_OK) rc = log_writer_start(w, p->seq + 1, 0, p);
    if (rc != SQLITE_OK) return rc;
  }
  uint8_t *seal = w->bytes + w->at;
  seal[0] = DV_RECORD_SEAL;
  dv_store_u32(seal + 1, p->crc);
  seal[5] = DV_RECORD_SEAL;
  w->at += DV_SEAL_BYTES;
  p->pack = w->key;
  p->end = (uint32_t)w->at;
  return SQLITE_OK;
}

int dvx_log_append(dvx_table *t, dvx_position *position, const uint8_t *bytes, const size_t *sizes,
                   const uint64_t *seqs, const int64_t *times, size_t n_records, bool is_rewrite) {
  log_writer w = {0};
  dvx_position p = *position;
  int rc = SQLITE_OK;
  w.t = t;
  w.is_rewrite = is_rewrite;
  if (n_records == 0) return SQLITE_OK;
  if (p.pack == 0) {
    rc = log_writer_start(&w, p.seq + 1, 0, &p);
  } else {
    /* The tail is read again rather than kept: a copy kept in memory could be wrong after a ROLLBACK TO. */
    sqlite3_stmt *stmt = NULL;
    rc = dvx_shadow_stmt(t, DVX_SQL_LOG_AT, &stmt);
    if (rc == SQLITE_OK) {
      int64_t stored = is_rewrite ? -p.pack : p.pack;
      sqlite3_bind_int64(stmt, 1, stored);
      if (sqlite3_step(stmt) == SQLITE_ROW && sqlite3_column_int64(stmt, 0) == stored) {
        const void *tail = sqlite3_column_blob(stmt, 1);
        w.n = tail ? (size_t)sqlite3_column_bytes(stmt, 1) : 0;
        w.bytes = sqlite3_malloc64(w.n + 1);
        w.capacity = w.n;
        if (w.bytes == NULL) {
          rc = SQLITE_NOMEM;
        } else if (w.n) {
          memcpy(w.bytes, tail, w.n);
        }
      }
      int reset = sqlite3_reset(stmt);
      if (rc == SQLITE_OK && reset != SQLITE_OK) rc = dvx_fail_sqlite(t->conn, t, reset);
    }
    w.key = p.pack;
    w.is_stored = true;
    w.at = p.end;
    if (rc == SQLITE_OK &&
        (w.n < p.end || p.end < LOG_HEADER_BYTES + DV_SEAL_BYTES || dv_load_u32(w.bytes + p.end - 5) != p.crc)) {
      sqlite3_free(w.bytes);
      return log_corrupt(t, p.pack, "its end is not where it was");
    }
  }
  size_t unsealed = 0;
  for (size_t i = 0; rc == SQLITE_OK && i < n_records; i++) {
    size_t left = sizes[i];
    const uint8_t *src = bytes;
    bytes += left;
    if (w.n - w.at < LOG_HEAD_BYTES) {
      rc = log_writer_store(&w);
      if (rc == SQLITE_OK) rc = log_writer_start(&w, p.seq + 1, 0, &p);
      if (rc != SQLITE_OK) break;
    }
    p.crc = dv_crc32c(p.crc, src, left);
    p.seq = seqs[i];
    p.time = times[i];
    if (times[i] > p.max_time) p.max_time = times[i];
    size_t here = w.n - w.at < left ? w.n - w.at : left;
    memcpy(w.bytes + w.at, src, here);
    w.at += here;
    left -= here;
    unsealed += sizes[i];
    if (left) {
      rc = log_writer_store(&w);
      if (rc == SQLITE_OK) rc = log_writer_start(&w, p.seq + 1, left, &p);
      if (rc != SQLITE_OK) break;
      memcpy(w.bytes + w.at, src + here, left);
      w.at += left;
    }
    if (unsealed >= LOG_SEAL_EVERY || i + 1 == n_records) {
      rc = log_writer_seal(&w, &p);
      unsealed = 0;
    }
  }
  if (rc == SQLITE_OK) rc = log_writer_store(&w);
  sqlite3_free(w.bytes);
  if (rc == SQLITE_OK) {
    for (size_t i = 0; i < DVX_PACK_SLOTS; i++) {
      if (t->log.slots[i].key >= position->pack) t->log.slots[i].key = 0; /* the tail pack changed under this copy */
    }
    *position = p;
  }
  return rc;
}

/* ---- rewriting --------------------------------------------------------------------------------------------------- */

int dvx_log_rewrite_begin(dvx_table *t, dvx_rewrite *w) {
  if (dvx_txn_savepoint_needs_memory(t, 0)) {
    return dvx_fail(t->conn, t, SQLITE_LOCKED,
                    "the log cannot be rewritten while a savepoint holds changes: RELEASE it or COMMIT first");
  }
  memset(w, 0, sizeof *w);
  w->t = t;
  w->position.max_time = INT64_MIN;
  dv_buf_init(&w->bytes, &dvx_alloc);
  return SQLITE_OK;
}

static int rewrite_flush(dvx_rewrite *w) {
  int rc = dvx_log_append(w->t, &w->position, w->bytes.data, w->sizes, w->seqs, w->times, w->n, true);
  w->bytes.n = 0;
  w->n = 0;
  return rc;
}

int dvx_log_rewrite_append(dvx_rewrite *w, const dv_record *rec) {
  size_t before = w->bytes.n;
  if (w->position.pack == 0 && w->n == 0) {
    /* The first pack's key is the first seq kept: no gap before it. */
    w->position.seq = rec->seq - 1;
    w->state = (dv_log_state){rec->seq - 1, 0, 0};
  }
  dv_record_write(&w->bytes, rec, &w->state);
  if (w->bytes.status != DV_OK) return SQLITE_NOMEM;
  w->sizes[w->n] = w->bytes.n - before;
  w->seqs[w->n] = rec->seq;
  w->times[w->n] = rec->time;
  w->n++;
  bool is_full = w->n == sizeof w->sizes / sizeof w->sizes[0] || w->bytes.n > 65536;
  return is_full ? rewrite_flush(w) : SQLITE_OK;
}

int dvx_log_rewrite_finish(dvx_rewrite *w) {
  dvx_table *t = w->t;
  dvx_position end = t->overlay.is_open ? t->overlay.written : t->position;
  int rc = rewrite_flush(w);
  static const dvx_sql steps[] = {DVX_SQL_LOG_DROP_OLD, DVX_SQL_LOG_FLIP, DVX_SQL_DROP_DERIVED_HEAD,
                                  DVX_SQL_DROP_DERIVED_CODE};
  for (size_t i = 0; rc == SQLITE_OK && i < sizeof steps / sizeof steps[0]; i++) {
    sqlite3_stmt *stmt = NULL;
    rc = dvx_shadow_stmt(t, steps[i], &stmt);
    if (rc == SQLITE_OK) rc = dvx_shadow_run(t, stmt);
  }
  int64_t generation = 0;
  sqlite3_randomness(sizeof generation, &generation);
  if (rc == SQLITE_OK) rc = dvx_meta_put(t, "generation", generation);
  if (rc == SQLITE_OK) rc = dvx_meta_put(t, "last_seq", (int64_t)(end.seq > t->floor_seq ? end.seq : t->floor_seq));
  if (rc == SQLITE_OK) rc = dvx_meta_put_blob(t, "settled", "", 0);
  if (rc == SQLITE_OK) rc = dvx_checks_forget_codes(t);
  if (rc == SQLITE_OK) {
    dvx_txn_rewritten(t);
    dvx_table_forget(t);
    rc = dvx_table_refresh_for_write(t);
  }
  return rc;
}

void dvx_log_rewrite_free(dvx_rewrite *w) { dv_buf_free(&w->bytes); }
