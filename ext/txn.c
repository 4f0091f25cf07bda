/*
 * txn.c: the open transaction: pending deltas, savepoints, and writing them to the file.
 *
 * NOTES ON TRANSACTIONS
 *
 * xUpdate writes nothing to the file. It validates, encodes a record into the overlay (memory reserved first, so that
 * the append cannot fail half-way) and returns. SQLite gives a single-row xUpdate inside BEGIN no statement journal: a
 * shadow row written before a failure would stay and be committed. xSync writes the overlay as packs of the log, the
 * lines of %_row that it touched, and a bounded part of the derived tables.
 *
 * Savepoints are an array of overlay lengths. SQLite does not announce every savepoint:
 *
 *   SAVEPOINT a; SAVEPOINT b; INSERT     only xSavepoint(0) is called, after xBegin
 *   BEGIN; SAVEPOINT s0; INSERT of two rows; ROLLBACK TO s0
 *                                        xSavepoint(1), xRelease(1), and then xRollbackTo(0), never announced
 *
 * so setting level n also fills every level below that is not set with the state of before the table took part.
 *
 * A table may have two objects in one transaction: after a change of the schema, ROLLBACK TO makes SQLite connect it
 * anew, while the old object is kept, and told of everything, until the transaction ends. The new one gets xBegin when
 * it is first written to, and behind it xSavepoint of the innermost savepoint, which may be long past: deltas may have
 * been added since, or written by a COMMIT that was refused. So a level that is set stays as it is. The one of a
 * released savepoint is not set any more, since somebody is told of each release.
 *
 * xRollbackTo(-1) empties the overlay. A level that is not set on xRollbackTo means that nothing was written since it.
 *
 * What has been written in this transaction (by a COMMIT that got SQLITE_BUSY, by a spill, by a command that needs the
 * file) is taken back by SQLite itself on ROLLBACK TO, so a level also remembers how much was written when it was set,
 * and where the stored log ended then. A pending delta that was not yet in the file when a savepoint was set must stay
 * in memory as long as the savepoint can be rolled back to: spilling gives back memory only up to there.
 *
 * A failed write of packs leaves the file half-written inside the transaction; then the transaction is poisoned: xSync
 * refuses the commit, until a ROLLBACK TO takes the file back behind the failure.
 *
 * xCommit folds the overlay into the committed rows and cannot fail: room was made in xSync. xRollback drops it.
 *
 * RENAME writes everything to the file; from then on another object, with another dvx_table, serves the table under its
 * new name. The old one goes out of the registry, and comes back when a ROLLBACK takes the table's name back: it alone
 * knows the deltas that were pending before.
 *
 * A rewrite of the log (compaction, rebuild) inside a transaction drops the overlay, all of which it has written
 * before, and counts `rewrites`. Memory then reflects uncommitted stored state; a rollback across it forgets everything
 * and reads the file again. It is refused when a savepoint still needs deltas from memory.
 */
#include "ext_int.h"

#define TXN_KEPT_VECTORS 256u /* of so many rows of a transaction the vector is kept that a delta has made */

/* ---- touched rows: a hash by vid --------------------------------------------------------------------------------- */

static size_t txn_slot(const dvx_overlay *o, uint32_t vid) {
  size_t mask = o->n_touched_slots - 1;
  size_t i = (size_t)((uint64_t)vid * 0x9e3779b97f4a7c15u >> 32) & mask;
  while (o->touched[i].vid && o->touched[i].vid != vid) i = (i + 1) & mask;
  return i;
}

dvx_touched *dvx_txn_touched(const dvx_table *t, uint32_t vid) {
  const dvx_overlay *o = &t->overlay;
  if (o->n_touched == 0) return NULL;
  dvx_touched *p = &o->touched[txn_slot(o, vid)];
  return p->vid ? p : NULL;
}

static int txn_touched_reserve(dvx_overlay *o) {
  if ((o->n_touched + 1) * 4 <= o->n_touched_slots * 3) return SQLITE_OK;
  dvx_touched *old = o->touched;
  size_t n_old = o->n_touched_slots, n = n_old ? n_old * 2 : 64;
  dvx_touched *grown = sqlite3_malloc64(n * sizeof *grown);
  if (!grown) return SQLITE_NOMEM;
  memset(grown, 0, n * sizeof *grown);
  o->touched = grown;
  o->n_touched_slots = n;
  for (size_t i = 0; i < n_old; i++) {
    if (old[i].vid) o->touched[txn_slot(o, old[i].vid)] = old[i];
  }
  sqlite3_free(old);
  return SQLITE_OK;
}

/* ---- life -------------------------------------------------------------------------------------------------------- */

void dvx_txn_init(dvx_table *t) {
  memset(&t->overlay, 0, sizeof t->overlay);
  dv_buf_init(&t->overlay.arena, &dvx_alloc);
}

/* Drops all pending deltas; memory is kept for the next transaction unless it was a large one. */
static void txn_drop_pending(dvx_table *t) {
  dvx_overlay *o = &t->overlay;
  for (size_t i = 0; o->n_touched && i < o->n_touched_slots; i++) sqlite3_free(o->touched[i].vector);
  /* A large table would be gone through by each small transaction that follows: 15 us a commit after a batch of 1,000. */
  if (o->n_touched_slots > 4096 || (o->n_touched_slots > 64 && o->n_touched * 16 < o->n_touched_slots)) {
    sqlite3_free(o->touched);
    o->touched = NULL;
    o->n_touched_slots = 0;
  } else if (o->n_touched) {
    memset(o->touched, 0, o->n_touched_slots * sizeof *o->touched);
  }
  o->n_touched = 0;
  o->n_pending = o->n_written = o->n_released = o->n_synced = 0;
  if (o->pending_capacity > 65536) {
    sqlite3_free(o->pending);
    o->pending = NULL;
    o->pending_capacity = 0;
  }
  if (o->arena.capacity > DVX_SAVEPOINT_FLUSH_BYTES) dv_buf_free(&o->arena);
  o->arena.n = 0;
  o->arena.status = DV_OK;
  o->arena_base = 0;
  o->live_change = 0;
}

void dvx_txn_free(dvx_table *t) {
  dvx_overlay *o = &t->overlay;
  txn_drop_pending(t);
  sqlite3_free(o->touched);
  sqlite3_free(o->pending);
  sqlite3_free(o->levels);
  sqlite3_free(o->poison);
  dv_buf_free(&o->arena);
  memset(o, 0, sizeof *o);
}

/* The overlay begins where the stored state that memory reflects ends. */
void dvx_txn_rebase(dvx_table *t) {
  dvx_overlay *o = &t->overlay;
  o->written = t->position;
  uint64_t last = t->position.seq > t->floor_seq ? t->position.seq : t->floor_seq;
  o->first_seq = last + 1;
  o->last_vid = t->rows.n;
  o->stored_vid = t->rows.n;
}

int dvx_txn_begin(dvx_table *t) {
  dvx_overlay *o = &t->overlay;
  if (o->is_open) return SQLITE_OK; /* a second object of the same table joins */
  t->n_refs++; /* memory must not go away under the transaction */
  int rc = dvx_table_refresh_for_write(t);
  if (rc != SQLITE_OK) {
    dvx_table_release(t);
    return rc;
  }
  o->is_open = true;
  o->n_levels = 0;
  o->rewrites = 0;
  o->is_settled_touched = o->is_poisoned = false;
  o->is_one_statement = sqlite3_get_autocommit(t->conn->db) != 0;
  dvx_txn_rebase(t);
  o->joined = o->written;
  o->joined_vid = o->stored_vid;
  o->is_renamed = false;
  return SQLITE_OK;
}

static void txn_end(dvx_table *t) {
  dvx_overlay *o = &t->overlay;
  txn_drop_pending(t);
  o->is_open = false;
  o->n_levels = 0;
  sqlite3_free(o->poison);
  o->poison = NULL;
  dvx_table_release(t);
}

void dvx_table_poison(dvx_table *t, const char *message) {
  dvx_overlay *o = &t->overlay;
  if (o->poison == NULL) o->poison = dvx_format("%s", message);
  o->is_poisoned = true;
}

/* ---- appending --------------------------------------------------------------------------------------------------- */

/* `row 'a'` for messages; static buffer of the caller. */
static void txn_name_row(dvx_table *t, const dvx_change *ch, char *out, size_t n_out) {
  dvx_str s = {0};
  dv_value id = ch->id;
  if (ch->vid && dvx_row_id(t, ch->vid, &id) != SQLITE_OK) {
    dvx_str_addf(&s, "row number %u", (uint64_t)ch->vid);
  } else {
    dvx_str_addf(&s, "row %I", &id);
  }
  char *z = dvx_str_take(&s);
  size_t n = z ? strlen(z) : 0;
  if (n >= n_out) n = n_out - 1;
  if (n) memcpy(out, z, n);
  out[n] = 0;
  sqlite3_free(z);
}

static int txn_delta_error(dvx_table *t, const dvx_change *ch, dv_status status, const dv_detail *d) {
  char row[96];
  uint64_t n = t->config->dimensions;
  txn_name_row(t, ch, row, sizeof row);
  const char *op = dv_op_name((int)ch->delta.op);
  switch (status) {
  case DV_NOMEM: return SQLITE_NOMEM;
  case DV_LENGTH:
    return dvx_fail(t->conn, t, SQLITE_ERROR, "%s: the %s delta has %u dimensions, expected %u", row, op, d->at, n);
  case DV_INDEX:
    return dvx_fail(t->conn, t, SQLITE_ERROR, "%s: index %u is out of range: the table has %u dimensions (0 to %u)",
                    row, d->at, n, n - 1);
  case DV_NOT_FINITE:
    return dvx_fail(t->conn, t, SQLITE_ERROR, "%s: the %s delta has a value that is NaN or infinite (dimension %u)",
                    row, op, d->at);
  case DV_OVERFLOW:
    return dvx_fail(t->conn, t, SQLITE_ERROR, "%s: the %s delta makes dimension %u overflow a 32-bit float", row, op,
                    d->at);
  default: return dvx_fail(t->conn, t, SQLITE_ERROR, "%s: the %s delta is malformed", row, op);
  }
}

/* Time of the new record: given or now, never before the row's last one. */
static int txn_time(dvx_table *t, const dvx_change *ch, uint64_t word, int64_t *out) {
  int64_t last = INT64_MIN;
  if (word) {
    int rc = dvx_row_time(t, ch->vid, &last);
    if (rc != SQLITE_OK) return rc;
  }
  if (!ch->has_time) {
    int64_t now = dvx_time_now(t->conn);
    *out = now > last ? now : last;
    return SQLITE_OK;
  }
  if (ch->time > DVX_TIME_MAX || ch->time < -DVX_TIME_MAX) {
    return dvx_fail(t->conn, t, SQLITE_ERROR, "timestamp %i is out of range (milliseconds since 1970)", ch->time);
  }
  if (ch->time < last) {
    char row[96];
    txn_name_row(t, ch, row, sizeof row);
    return dvx_fail(t->conn, t, SQLITE_ERROR, "%s: timestamp %i is older than the row's last one, %i", row, ch->time,
                    last);
  }
  *out = ch->time;
  return SQLITE_OK;
}

static int txn_existence(dvx_table *t, const dvx_change *ch, bool exists) {
  char row[96];
  if (ch->delta.op == DV_OP_CREATE && exists) {
    txn_name_row(t, ch, row, sizeof row);
    return dvx_fail(t->conn, t, SQLITE_CONSTRAINT,
                    "%s exists already: use INSERT OR REPLACE, UPDATE, or a delta other than create", row);
  }
  if (ch->delta.op != DV_OP_CREATE && !exists) {
    txn_name_row(t, ch, row, sizeof row);
    return dvx_fail(t->conn, t, SQLITE_ERROR, "%s does not exist: INSERT it (a create delta) before any %s delta", row,
                    dv_op_name((int)ch->delta.op));
  }
  if (ch->delta.op == DV_OP_CREATE && t->config->max_vectors) {
    int64_t n = (int64_t)t->rows.n_live + t->overlay.live_change;
    if (n >= t->config->max_vectors) {
      txn_name_row(t, ch, row, sizeof row);
      return dvx_fail(t->conn, t, SQLITE_ERROR, "%s: the table is full (max_vectors=%i): DELETE rows first", row,
                      t->config->max_vectors);
    }
  }
  return SQLITE_OK;
}

/* Appends the metadata of the record to out: what the change sets, or with `all` everything that is not NULL. */
static int txn_fields(dvx_table *t, const dvx_change *ch, bool is_new_row, bool all, bool exists, dv_buf *out) {
  int n = t->config->n_columns;
  if (is_new_row) dv_numbered_write(out, 0, &ch->id);
  if (n == 0) return SQLITE_OK;
  dv_value current[64];
  bool need_current = all && exists && (ch->fields == NULL || ch->is_set != NULL);
  if (need_current) {
    int rc = dvx_row_fields(t, ch->vid, current);
    if (rc != SQLITE_OK) return rc;
  }
  for (int i = 0; i < n; i++) {
    bool is_given = ch->fields && (ch->is_set == NULL || ch->is_set[i]);
    const dv_value *v = is_given ? &ch->fields[i] : need_current ? &current[i] : NULL;
    if (v == NULL || (all && v->type == DV_NULL)) continue;
    dv_numbered_write(out, (uint32_t)i + 1, v);
  }
  return out->status == DV_OK ? SQLITE_OK : SQLITE_NOMEM;
}

/* Does a change that sets all metadata set none? */
static bool txn_is_bare(const dvx_table *t, const dvx_change *ch) {
  for (int i = 0; ch->fields && i < t->config->n_columns; i++) {
    if (ch->fields[i].type != DV_NULL) return false;
  }
  return true;
}

/* Metadata is folded like vectors: a record that sets all of it is where a walk back may end. All of it rides with a
 * key, unless it is large beside the vector; then still once in a while, so that the walk stays short. */
static int txn_fields_of(dvx_table *t, const dvx_change *ch, uint64_t seq, bool is_due, bool is_key, bool *all,
                         dv_buf *out) {
  const dvx_config *c = t->config;
  bool is_new_row = ch->vid == 0;
  bool is_forced = *all || is_due || seq % (uint64_t)c->checkpoint_interval == 0;
  bool exists = !is_new_row && dvx_word_exists(dvx_row_word(t, ch->vid));
  if (ch->delta.op == DV_OP_DELETE) is_forced = is_key = *all = false;
  int rc = txn_fields(t, ch, is_new_row, is_forced || is_key, exists, out);
  if (rc != SQLITE_OK) return rc;
  *all = is_forced || (is_key && out->n <= c->dimensions);
  if (*all || !is_key) return SQLITE_OK;
  out->n = 0;
  return txn_fields(t, ch, is_new_row, false, exists, out);
}

static int txn_spill(dvx_table *t) {
  dvx_overlay *o = &t->overlay;
  int rc = dvx_table_flush(t);
  if (rc != SQLITE_OK) return rc;
  for (size_t i = 0; i < o->n_levels; i++) {
    if (o->levels[i].n_written < o->levels[i].n_pending) return SQLITE_OK; /* the savepoint may need them again */
  }
  o->arena_base += o->arena.n;
  o->n_released = o->n_pending;
  dv_buf_free(&o->arena);
  return SQLITE_OK;
}

/* Makes room for a record. dv_buf doubles, which would hold 64 MiB for the record that fills 32: up to where records are
 * written early, the buffer takes no more than that and the record. */
static int txn_arena_reserve(dvx_overlay *o, const dv_record *rec) {
  dv_buf *arena = &o->arena;
  size_t need = arena->n + rec->delta.n_payload + rec->n_fields + rec->n_full + 80; /* of numbers before and between */
  if (need <= arena->capacity || arena->n > DVX_SPILL_BYTES || arena->capacity <= DVX_SPILL_BYTES / 2) return SQLITE_OK;
  size_t capacity = need > DVX_SPILL_BYTES ? need : DVX_SPILL_BYTES;
  uint8_t *grown = sqlite3_realloc64(arena->data, capacity);
  if (!grown) return SQLITE_NOMEM;
  arena->data = grown;
  arena->capacity = capacity;
  return SQLITE_OK;
}

int dvx_append(dvx_table *t, const dvx_change *ch, uint64_t *seq) {
  dvx_overlay *o = &t->overlay;
  const dvx_config *c = t->config;
  const size_t n = c->dimensions;
  dv_detail detail = {0, 0};
  if (!o->is_open) return dvx_fail(t->conn, t, SQLITE_INTERNAL, "a write outside of a transaction");
  int polled = dvx_poll(t);
  if (polled != SQLITE_OK) return polled;
  if (!t->is_loaded) {
    int rc = dvx_table_refresh_for_write(t);
    if (rc != SQLITE_OK) return rc;
  }
  if (o->arena.n > DVX_SPILL_BYTES && o->n_calls == 0) { /* a call that fails is cut away: between statements only */
    int rc = txn_spill(t);
    if (rc != SQLITE_OK) return rc;
  }

  /* 1. May this be done? */
  uint32_t vid = ch->vid;
  bool is_new_row = vid == 0;
  uint64_t word = is_new_row ? 0 : dvx_row_word(t, vid);
  bool exists = dvx_word_exists(word);
  int64_t time = 0;
  int rc = txn_existence(t, ch, exists);
  if (rc == SQLITE_OK) rc = txn_time(t, ch, word, &time);
  if (rc != SQLITE_OK) return rc;
  /* A delta whose result is known was made from it, by dv_delta_encode_dense(). */
  dv_status status = ch->result ? DV_OK : dv_delta_check(&ch->delta, n, &detail);
  if (status != DV_OK) return txn_delta_error(t, ch, status, &detail);
  if (is_new_row && o->last_vid >= DVX_MAX_VID) return dvx_fail(t->conn, t, SQLITE_FULL, "no row numbers are left");

  /* 2. What does the record hold? A key holds the full vector; a chain has one at least every checkpoint_interval. */
  dv_op op = ch->delta.op;
  bool is_full = dv_encoding_is_full((int)ch->delta.encoding);
  unsigned chain = word ? dvx_word_chain(word) + 1 : 0;
  bool is_due = op != DV_OP_DELETE && chain >= (unsigned)c->checkpoint_interval;
  bool is_key = is_full || is_due;
  bool needs_result =
      (op == DV_OP_SCALE || op == DV_OP_OFFSET || ch->delta.encoding == DV_ENC_DIFF || (is_key && !is_full));
  if (needs_result && ch->result) {
    memcpy(t->next_vector, ch->result, n * sizeof *ch->result);
  } else if (needs_result) {
    const float *current;
    rc = dvx_row_vector(t, vid, &current);
    if (rc != SQLITE_OK) return rc;
    memcpy(t->next_vector, current, n * sizeof *current);
    status = dv_delta_apply(&ch->delta, t->next_vector, n, &detail);
    if (status != DV_OK) return txn_delta_error(t, ch, status, &detail);
  }

  /* 3. Room for everything that the append touches. */
  if (o->n_pending == o->pending_capacity) {
    size_t capacity = o->pending_capacity ? o->pending_capacity * 2 : 64;
    dvx_pending *grown = sqlite3_realloc64(o->pending, capacity * sizeof *grown);
    if (!grown) return SQLITE_NOMEM;
    o->pending = grown;
    o->pending_capacity = capacity;
  }
  if (o->n_pending >= UINT32_MAX - 1) return dvx_fail(t->conn, t, SQLITE_FULL, "too many deltas in one transaction");
  rc = txn_touched_reserve(o);
  if (rc != SQLITE_OK) return rc;
  dv_buf fields, full;
  dv_buf_init(&fields, &dvx_alloc);
  dv_buf_init(&full, &dvx_alloc);
  uint32_t new_vid = is_new_row ? o->last_vid + 1 : vid;
  uint64_t new_seq = o->first_seq + o->n_pending;
  bool all_fields = op == DV_OP_CREATE || (ch->fields && ch->is_set == NULL);
  bool is_bare = all_fields && txn_is_bare(t, ch);
  if (is_new_row || c->n_columns) rc = txn_fields_of(t, ch, new_seq, is_due, is_key, &all_fields, &fields);
  dv_delta full_delta = {DV_OP_CREATE, DV_ENC_DENSE, NULL, 0};
  if (rc == SQLITE_OK && is_key && !is_full) {
    dv_delta_encode_dense(&full, &full_delta, DV_OP_CREATE, NULL, t->next_vector, n, c->compression);
    if (full.status != DV_OK) rc = SQLITE_NOMEM;
  }
  const dvx_pending *before = o->n_pending ? &o->pending[o->n_pending - 1] : NULL;
  dv_log_state state = {before ? new_seq - 1 : o->written.seq, before ? before->time : o->written.time, 0};
  dv_record rec = {0};
  rec.seq = new_seq;
  rec.link = word ? new_seq - dvx_word_seq(word) : 0;
  rec.time = time;
  rec.vid = new_vid;
  rec.is_key = is_key;
  rec.extra = (ch->is_merged ? (unsigned)DV_RECORD_MERGED : 0u);
  if (c->n_columns && all_fields) rec.extra |= DV_RECORD_ALL_FIELDS;
  if (fields.n || (rec.extra & DV_RECORD_ALL_FIELDS)) rec.extra |= DV_RECORD_FIELDS;
  rec.fields = fields.data;
  rec.n_fields = fields.n;
  rec.delta = ch->delta;
  rec.full = full.data;
  rec.n_full = full.n;
  rec.full_encoding = full_delta.encoding;
  size_t offset = o->arena.n;
  if (rc == SQLITE_OK) rc = txn_arena_reserve(o, &rec);
  if (rc == SQLITE_OK) {
    dv_record_write(&o->arena, &rec, &state);
    if (o->arena.status != DV_OK) rc = SQLITE_NOMEM;
    if (rc == SQLITE_OK && o->arena.n - offset > (size_t)1 << 30) {
      rc = dvx_fail(t->conn, t, SQLITE_TOOBIG, "a delta with its metadata is larger than 1 GiB");
    }
  }
  if (rc == SQLITE_OK && is_new_row) rc = dvx_ids_add(&t->ids, &ch->id, new_vid);
  dv_buf_free(&fields);
  dv_buf_free(&full);
  if (rc != SQLITE_OK) {
    o->arena.n = offset;
    o->arena.status = DV_OK;
    return rc;
  }

  /* 4. The append: nothing from here on can fail. */
  dvx_touched *p = &o->touched[txn_slot(o, new_vid)];
  if (p->vid == 0) {
    p->vid = new_vid;
    o->n_touched++;
  }
  /* A vector that is known is kept for the commit, which would fold it again; if there is memory, and not of too many rows. */
  if (needs_result && !p->vector && o->n_touched <= TXN_KEPT_VECTORS) p->vector = sqlite3_malloc64(n * sizeof(float));
  bool is_kept = false;
  if (needs_result && p->vector) {
    memcpy(p->vector, t->next_vector, n * sizeof(float));
    is_kept = true;
  } else if (p->vector && p->vector_for == p->last && p->last && op != DV_OP_DELETE) {
    is_kept = dv_delta_apply(&ch->delta, p->vector, n, NULL) == DV_OK;
  }
  p->vector_for = is_kept ? (uint32_t)o->n_pending + 1 : 0;
  bool is_deleted = op == DV_OP_DELETE;
  o->pending[o->n_pending] =
      (dvx_pending){.word = new_seq << 16 | (is_deleted ? DVX_WORD_DELETED : 0) |
                            (is_key                   ? 0
                             : chain > DVX_WORD_CHAIN ? DVX_WORD_CHAIN
                                                      : chain),
                    .time = time,
                    .offset = o->arena_base + offset,
                    .n_bytes = (uint32_t)(o->arena.n - offset),
                    .vid = new_vid,
                    .previous = p->last,
                    .is_new_row = is_new_row,
                    .is_bare = is_bare,
                    .has_fields = c->n_columns > 0 && (ch->fields != NULL || op == DV_OP_CREATE)};
  o->n_pending++;
  p->last = (uint32_t)o->n_pending;
  if (is_new_row) o->last_vid = new_vid;
  o->live_change += (is_deleted ? 0 : 1) - (exists ? 1 : 0);
  *seq = new_seq;
  return SQLITE_OK;
}

/* Takes back every pending delta from index n on. */
static void txn_cut(dvx_table *t, size_t n) {
  dvx_overlay *o = &t->overlay;
  if (n >= o->n_pending) return;
  size_t end = o->pending[n].offset;
  for (size_t i = o->n_pending; i-- > n;) {
    const dvx_pending *p = &o->pending[i];
    dvx_touched *row = &o->touched[txn_slot(o, p->vid)];
    uint64_t before = p->previous ? o->pending[p->previous - 1].word : p->vid <= t->rows.n ? t->rows.words[p->vid] : 0;
    o->live_change += (dvx_word_exists(before) ? 1 : 0) - (dvx_word_exists(p->word) ? 1 : 0);
    row->last = p->previous;
    if (row->vector_for > n) row->vector_for = 0;
    if (p->vid <= t->rows.n) dvx_mirror_row_changed(t, p->vid); /* the graph left it alone while it was touched */
    if (p->has_fields) dvx_columns_row_changed(t, p->vid); /* they may have been read from %_row */
    if (p->is_new_row) {
      dvx_ids_remove(&t->ids, p->vid);
      o->last_vid = p->vid - 1;
    }
  }
  o->n_pending = n;
  if (n >= o->n_released) {
    o->arena.n = end - o->arena_base;
  } else {
    o->n_released = n;
    o->arena.n = 0;
    o->arena_base = end;
  }
  if (o->n_written > n) o->n_written = n;
  if (o->stored_vid > o->last_vid) o->stored_vid = o->last_vid;
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

static int txn_write_row(dvx_table *t, uint32_t vid, bool is_new) {
  dv_value values[64];
  sqlite3_stmt *stmt = NULL;
  int n = t->config->n_columns;
  int rc = dvx_row_fields(t, vid, values);
  if (rc == SQLITE_OK) rc = dvx_shadow_stmt(t, is_new ? DVX_SQL_ROW_INSERT : DVX_SQL_ROW_UPDATE, &stmt);
  if (rc != SQLITE_OK) return rc;
  dvx_row_set_bare(t, vid, false);
  sqlite3_bind_int64(stmt, 1, vid);
  if (is_new) {
    dv_value id;
    rc = dvx_row_id(t, vid, &id);
    if (rc == SQLITE_OK) rc = dvx_bind_value(stmt, 2, &id);
  }
  for (int i = 0; rc == SQLITE_OK && i < n; i++) rc = dvx_bind_value(stmt, i + (is_new ? 3 : 2), &values[i]);
  if (rc == SQLITE_OK) rc = dvx_shadow_run(t, stmt);
  sqlite3_clear_bindings(stmt);
  return rc;
}

/* Is pending i the newest of its row that set metadata? */
static bool txn_is_newest_fields(const dvx_overlay *o, size_t i) {
  size_t at = o->touched[txn_slot(o, o->pending[i].vid)].last;
  while (at && !o->pending[at - 1].has_fields) at = o->pending[at - 1].previous;
  return at == i + 1;
}

static int txn_write_rows(dvx_table *t) {
  dvx_overlay *o = &t->overlay;
  uint32_t first_new = o->stored_vid + 1;
  int rc = SQLITE_OK;
  for (size_t i = o->n_written; rc == SQLITE_OK && i < o->n_pending; i++) {
    const dvx_pending *p = &o->pending[i];
    if (p->is_new_row) {
      rc = txn_write_row(t, p->vid, true);
      if (rc == SQLITE_OK) o->stored_vid = p->vid;
    } else if (p->has_fields && p->vid < first_new && txn_is_newest_fields(o, i)) {
      rc = txn_write_row(t, p->vid, false);
    }
  }
  return rc;
}

int dvx_table_flush(dvx_table *t) {
  dvx_overlay *o = &t->overlay;
  size_t n = o->n_pending - o->n_written;
  if (n == 0) return SQLITE_OK;
  o->is_flushing = true;
  sqlite3_int64 last_rowid = sqlite3_last_insert_rowid(t->conn->db);
  int rc = txn_write_rows(t);
  uint64_t *seqs = NULL;
  int64_t *times = NULL;
  size_t *sizes = NULL;
  if (rc == SQLITE_OK) {
    seqs = sqlite3_malloc64(n * (sizeof *seqs + sizeof *times + sizeof *sizes));
    if (!seqs) rc = SQLITE_NOMEM;
  }
  if (rc == SQLITE_OK) {
    times = (int64_t *)(void *)(seqs + n);
    sizes = (size_t *)(void *)(times + n); /* the last, since on 32 bits it is narrower */
    for (size_t i = 0; i < n; i++) {
      const dvx_pending *p = &o->pending[o->n_written + i];
      sizes[i] = p->n_bytes;
      seqs[i] = o->first_seq + o->n_written + i;
      times[i] = p->time;
    }
    dvx_position end = o->written;
    const uint8_t *bytes = o->arena.data + (o->pending[o->n_written].offset - o->arena_base);
    rc = dvx_log_append(t, &end, bytes, sizes, seqs, times, n, false);
    if (rc == SQLITE_OK) {
      o->written = end;
      o->n_written = o->n_pending;
    }
  }
  sqlite3_free(seqs);
  o->is_flushing = false;
  sqlite3_set_last_insert_rowid(t->conn->db, last_rowid);
  if (rc != SQLITE_OK) dvx_table_poison(t, "an earlier write of this transaction failed half-way");
  return rc;
}

/* ---- the callbacks of a transaction ------------------------------------------------------------------------------ */

static bool txn_has_tables(dvx_table *t) {
  sqlite3_stmt *stmt = NULL;
  int64_t generation = 0;
  if (dvx_shadow_stmt(t, DVX_SQL_META_GET, &stmt) == SQLITE_OK &&
      dvx_meta_get(t, "generation", 0, &generation) == SQLITE_OK) {
    return generation == t->generation; /* else a table of the same name was made since */
  }
  sqlite3_free(t->conn->error);
  t->conn->error = NULL;
  return sqlite3_errcode(t->conn->db) != SQLITE_ERROR;
}

int dvx_txn_sync(dvx_table *t) {
  dvx_overlay *o = &t->overlay;
  if (!o->is_open) return SQLITE_OK;
  if (o->is_poisoned) {
    return dvx_fail(t->conn, t, SQLITE_ABORT, "the commit is refused: %s; ROLLBACK and try again",
                    o->poison ? o->poison : "an earlier write failed");
  }
  if (o->n_pending == o->n_written && o->n_synced == o->n_pending) return SQLITE_OK;
  if (o->is_renamed) { /* all was written at the RENAME, under the old name; what came since is another object's */
    o->n_synced = o->n_pending;
    return SQLITE_OK;
  }
  if (!o->is_one_statement && !txn_has_tables(t)) {
    /* The table was created in this transaction and is gone by a ROLLBACK TO, of which SQLite did not tell. */
    txn_cut(t, 0);
    return SQLITE_OK;
  }
  int rc = dvx_table_flush(t);
  if (rc == SQLITE_OK) rc = dvx_rows_reserve(t, o->last_vid);
  if (rc == SQLITE_OK && o->n_pending) {
    sqlite3_int64 last_rowid = sqlite3_last_insert_rowid(t->conn->db);
    rc = dvx_settle_some(t);
    sqlite3_set_last_insert_rowid(t->conn->db, last_rowid);
  }
  if (rc == SQLITE_OK) rc = dvx_mirror_reserve(t, o->last_vid); /* settling may have loaded it, without the new rows */
  if (rc == SQLITE_OK) o->n_synced = o->n_pending;
  return rc;
}

/* Brings the row's cached committed vector, if there is one, behind its pending deltas. */
static void txn_apply_cached(dvx_table *t, const dvx_touched *p) {
  const dvx_overlay *o = &t->overlay;
  uint64_t word = p->vid <= t->rows.n ? t->rows.words[p->vid] : 0;
  uint32_t chain[64];
  size_t n = 0;
  for (uint32_t at = p->last; at; at = o->pending[at - 1].previous) {
    if (n == sizeof chain / sizeof chain[0] || at - 1 < o->n_released) { /* too much to be worth it */
      dvx_vectors_store(t, p->vid, NULL);
      return;
    }
    chain[n++] = at - 1;
  }
  while (n-- > 0) {
    dv_record rec;
    uint64_t seq = o->first_seq + chain[n];
    if (dvx_log_change(t, seq, &rec) != SQLITE_OK) {
      dvx_vectors_store(t, p->vid, NULL);
      return;
    }
    dvx_vectors_apply(t, p->vid, word, &rec);
    word = o->pending[chain[n]].word;
  }
}

/* The newest pending delta that sets metadata, of this one and those of its row before it; NULL if there is none. `at` is
 * 1 + an index. */
static const dvx_pending *txn_last_fields(const dvx_overlay *o, uint32_t at) {
  while (at && !o->pending[at - 1].has_fields) at = o->pending[at - 1].previous;
  return at ? &o->pending[at - 1] : NULL;
}

void dvx_txn_commit(dvx_table *t) {
  dvx_overlay *o = &t->overlay;
  if (!o->is_open) return;
  if (o->is_renamed) dvx_table_forget(t); /* nobody asks this object again */
  if (o->n_synced && t->is_loaded) {
    dvx_search_forget(t);
    for (size_t i = 0; i < o->n_touched_slots; i++) {
      dvx_touched *p = &o->touched[i];
      if (i + 4 < o->n_touched_slots && p[4].vid) dvx_vectors_prefetch(t, p[4].vid);
      if (p->vid == 0 || p->last == 0) continue;
      const dvx_pending *last = &o->pending[p->last - 1];
      if (p->vector_for == p->last) {
        dvx_vectors_store(t, p->vid, p->vector);
      } else if (dvx_vectors_has(t, p->vid)) {
        txn_apply_cached(t, p);
      }
      dvx_rows_set(t, p->vid, last->word, last->time);
      if (last->previous) dvx_mirror_code_changed(t, p->vid);
      const dvx_pending *fields = txn_last_fields(o, p->last);
      if (fields) dvx_columns_row_changed(t, p->vid);
      if (fields && fields->is_bare) dvx_row_set_bare(t, p->vid, true);
    }
  }
  if (t->is_loaded) {
    t->position = o->written;
    dvx_table_committed(t);
  }
  txn_end(t);
}

/* Settling has put codes of pending vectors, and links, in the place of committed ones. */
static void txn_forget_settled(dvx_table *t) {
  if (!t->overlay.is_settled_touched) return;
  dvx_mirror_free(t);
  dvx_graph_free(t);
}

void dvx_txn_rollback(dvx_table *t) {
  dvx_overlay *o = &t->overlay;
  if (!o->is_open) return;
  bool was_stored = o->n_written > 0 || o->n_released > 0 || o->is_settled_touched;
  if (o->is_renamed) dvx_table_register_again(t);
  if (o->rewrites || !t->is_loaded) {
    dvx_table_forget(t);
  } else {
    txn_cut(t, 0);
  }
  if (was_stored) {
    dvx_log_forget(t);
    t->is_settled_known = false;
  }
  txn_forget_settled(t);
  dvx_search_forget(t);
  txn_end(t);
}

void dvx_txn_savepoint(dvx_table *t, int level, int *rc) {
  dvx_overlay *o = &t->overlay;
  *rc = SQLITE_OK;
  if (!o->is_open || level < 0) return;
  size_t n = (size_t)level;
  if (n < o->n_levels) return; /* told through another object, or by one that joins: see above */
  if (o->arena.n > DVX_SAVEPOINT_FLUSH_BYTES && o->n_written < o->n_pending && !o->is_flushing) {
    /* Deltas that are in the file before the savepoint need not be kept for it. (While they are written, a savepoint is
     * that of a statement on a shadow table with a trigger.) */
    *rc = dvx_table_flush(t);
    if (*rc != SQLITE_OK) return;
  }
  if (n >= o->level_capacity) {
    size_t capacity = o->level_capacity ? o->level_capacity : 16;
    while (capacity <= n) capacity *= 2;
    dvx_level *grown = sqlite3_realloc64(o->levels, capacity * sizeof *grown);
    if (!grown) {
      *rc = SQLITE_NOMEM;
      return;
    }
    o->levels = grown;
    o->level_capacity = capacity;
  }
  /* Levels below that nobody announced are older than this table's part in the transaction. */
  for (size_t i = o->n_levels; i < n; i++)
    o->levels[i] = (dvx_level){.written = o->joined, .stored_vid = o->joined_vid};
  o->levels[n] = (dvx_level){o->n_pending, o->n_written, o->written, o->stored_vid, o->rewrites, o->is_poisoned};
  o->n_levels = n + 1;
}

void dvx_txn_release(dvx_table *t, int level) {
  dvx_overlay *o = &t->overlay;
  if (!o->is_open || level < 0) return;
  if ((size_t)level < o->n_levels) o->n_levels = (size_t)level;
  if (o->renamed_level > (size_t)level) o->renamed_level = (size_t)level;
}

int dvx_txn_rollback_to(dvx_table *t, int level) {
  dvx_overlay *o = &t->overlay;
  if (!o->is_open || (level >= 0 && (size_t)level >= o->n_levels)) return SQLITE_OK;
  dvx_level l = {0};
  if (level >= 0) {
    l = o->levels[level];
    o->n_levels = (size_t)level + 1;
  } else {
    o->n_levels = 0;
  }
  if (o->is_renamed && (level < 0 || (size_t)level < o->renamed_level)) {
    dvx_table_register_again(t);
    o->is_renamed = false;
  }
  bool was_stored = o->n_written > l.n_written || o->is_settled_touched;
  bool is_unproven = l.n_pending == 0 && !t->is_version_known;
  if (level < 0 ? o->rewrites != 0 : l.rewrites != o->rewrites) {
    /* The stored log was rewritten since: read the file again, as it was at the savepoint. */
    txn_drop_pending(t);
    dvx_table_forget(t);
    o->rewrites = l.rewrites + 1000000; /* whatever happens now, a ROLLBACK must read the file again */
  } else {
    txn_cut(t, l.n_pending);
    o->n_written = l.n_written;
    if (level >= 0) {
      o->written = l.written;
      o->stored_vid = l.stored_vid;
    } else {
      dvx_txn_rebase(t);
    }
    if (o->n_released > o->n_written) o->n_released = o->n_written;
    /* What was read inside the transaction may have held what others of our objects wrote in it, before a RENAME. */
    if (is_unproven && o->n_pending == 0) dvx_table_forget(t);
  }
  if (was_stored) {
    dvx_log_forget(t);
    t->is_settled_known = false;
  }
  txn_forget_settled(t);
  o->is_poisoned = l.is_poisoned;
  dvx_search_forget(t);
  return SQLITE_OK;
}

bool dvx_txn_savepoint_needs_memory(const dvx_table *t, size_t n_own) {
  const dvx_overlay *o = &t->overlay;
  for (size_t i = 0; o->is_open && i + n_own < o->n_levels; i++) {
    if (o->levels[i].n_written < o->levels[i].n_pending) return true;
  }
  return false;
}

void dvx_txn_renamed(dvx_table *t) {
  dvx_overlay *o = &t->overlay;
  dvx_table_unregister(t);
  if (!o->is_open) return;
  o->is_renamed = true;
  o->renamed_level = o->n_levels;
}

void dvx_txn_rewritten(dvx_table *t) {
  txn_drop_pending(t);
  t->overlay.rewrites++;
}

/* ---- writing from scalar functions ------------------------------------------------------------------------------- */

#define TXN_CALL_TYPE "delta_vectors_call"

typedef struct txn_call {
  dvx_table *t;
  int (*fn)(dvx_table *t, void *arg);
  void *arg;
} txn_call;

int dvx_table_write(dvx_table *t, int (*fn)(dvx_table *t, void *arg), void *arg) {
  txn_call call = {t, fn, arg};
  sqlite3_stmt *stmt = NULL, *own = NULL;
  t->n_refs++; /* preparing may find that the schema has changed, and drop the object that keeps the table */
  int rc = dvx_conn_watch_close(t->conn);
  if (rc == SQLITE_OK) rc = dvx_shadow_stmt(t, DVX_SQL_CALL, &stmt);
  if (rc != SQLITE_OK) {
    dvx_table_release(t);
    return rc;
  }
  if (sqlite3_stmt_busy(stmt)) {
    /* A write inside a write of the same table (a trigger's function): a statement of its own. */
    rc = sqlite3_prepare_v2(t->conn->db, sqlite3_sql(stmt), -1, &own, NULL);
    if (rc != SQLITE_OK) {
      rc = dvx_fail_sqlite(t->conn, t, rc);
      dvx_table_release(t);
      return rc;
    }
    stmt = own;
  }
  sqlite3_int64 last_rowid = sqlite3_last_insert_rowid(t->conn->db);
  sqlite3_bind_pointer(stmt, 1, &call, TXN_CALL_TYPE, NULL);
  rc = sqlite3_step(stmt);
  rc = rc == SQLITE_DONE ? SQLITE_OK : rc;
  int reset = sqlite3_reset(stmt);
  if (rc != SQLITE_OK) rc = dvx_fail_sqlite(t->conn, NULL, reset != SQLITE_OK ? reset : rc);
  sqlite3_clear_bindings(stmt);
  sqlite3_finalize(own);
  sqlite3_set_last_insert_rowid(t->conn->db, last_rowid);
  dvx_table_release(t);
  return rc;
}

/* Called by xUpdate when the command column holds a call. *is_call is false if it does not. */
int dvx_txn_run_call(dvx_table *t, sqlite3_value *command, bool *is_call) {
  txn_call *call = sqlite3_value_pointer(command, TXN_CALL_TYPE);
  *is_call = call != NULL;
  if (!call) return SQLITE_OK;
  if (call->t != t) {
    return dvx_fail(t->conn, t, SQLITE_SCHEMA, "it was dropped and made anew meanwhile: run the statement again");
  }
  size_t before = t->overlay.n_pending;
  unsigned rewrites = t->overlay.rewrites;
  int rc = dvx_table_begin_read(t);
  if (rc != SQLITE_OK) return rc;
  t->overlay.n_calls++;
  rc = call->fn(t, call->arg);
  t->overlay.n_calls--;
  if (rc != SQLITE_OK && rewrites == t->overlay.rewrites && t->overlay.n_written <= before) txn_cut(t, before);
  if (rc != SQLITE_OK && t->overlay.n_written > before) {
    dvx_table_poison(t, "a command failed after a part of it was written");
  }
  dvx_table_end_read(t);
  return rc;
}
