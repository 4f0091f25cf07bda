/*
 * row.c: one row: its id, head, vector and metadata, now and at any past record; the fold.
 *
 * A row's state after a record is found by walking its chain back through `link` to the nearest record that holds a
 * full vector (a key, a create, a dense update stored whole), and applying the deltas on the way forward again. Seqs
 * fall strictly along a chain, so the walk ends whatever the file says.
 *
 * Current committed vectors are cached in chunks of a few rows, allocated when a row is first asked for and given back in
 * turn when the budget is used up; commits of this and other connections are applied to cached vectors in place.
 */
#include "ext_int.h"

/* ---- heads, times, ids ------------------------------------------------------------------------------------------- */

uint32_t dvx_table_last_vid(const dvx_table *t) { return t->overlay.is_open ? t->overlay.last_vid : t->rows.n; }

uint64_t dvx_row_word(const dvx_table *t, uint32_t vid) {
  const dvx_touched *p = dvx_txn_touched(t, vid);
  if (p && p->last) return t->overlay.pending[p->last - 1].word;
  return vid <= t->rows.n && t->rows.words ? t->rows.words[vid] : 0;
}

int dvx_row_time(dvx_table *t, uint32_t vid, int64_t *out) {
  const dvx_touched *p = dvx_txn_touched(t, vid);
  if (p && p->last) {
    *out = t->overlay.pending[p->last - 1].time;
    return SQLITE_OK;
  }
  uint64_t *has_time = &t->rows.has_time[vid >> 6], bit = (uint64_t)1 << (vid & 63);
  if ((*has_time & bit) == 0) {
    dv_record rec;
    int rc = dvx_log_record(t, dvx_word_seq(t->rows.words[vid]), &rec);
    if (rc != SQLITE_OK) return rc;
    t->rows.times[vid] = rec.time;
    *has_time |= bit;
  }
  *out = t->rows.times[vid];
  return SQLITE_OK;
}

/* Brings the whole of %_row's ids into memory, once misses have shown that somebody looks up many. */
static int row_load_ids(dvx_table *t) {
  sqlite3_stmt *stmt = NULL;
  int rc = dvx_shadow_stmt(t, DVX_SQL_ROW_ALL, &stmt);
  if (rc != SQLITE_OK) return rc;
  while (rc == SQLITE_OK && sqlite3_step(stmt) == SQLITE_ROW) {
    int64_t vid = sqlite3_column_int64(stmt, 0);
    dv_value id, known;
    dvx_column_value(stmt, 1, &id);
    if (vid < 1 || vid > (int64_t)dvx_table_last_vid(t) || (id.type != DV_TEXT && id.type != DV_INTEGER)) continue;
    if (dvx_ids_value(&t->ids, (uint32_t)vid, &known)) continue;
    rc = dvx_ids_add(&t->ids, &id, (uint32_t)vid);
  }
  int reset = sqlite3_reset(stmt);
  if (rc == SQLITE_OK && reset != SQLITE_OK) rc = dvx_fail_sqlite(t->conn, t, reset);
  if (rc == SQLITE_OK) t->ids.is_complete = true;
  return rc;
}

#define ROW_MAX_IDS_LOADED 4000000u

int dvx_row_find(dvx_table *t, const dv_value *id, uint32_t *vid) {
  *vid = dvx_ids_find(&t->ids, id);
  if (*vid || t->ids.is_complete) return SQLITE_OK;
  if (++t->ids.n_misses > DVX_ID_MISSES && t->rows.n <= ROW_MAX_IDS_LOADED) {
    int rc = row_load_ids(t);
    if (rc == SQLITE_OK) *vid = dvx_ids_find(&t->ids, id);
    return rc;
  }
  sqlite3_stmt *stmt = NULL;
  int rc = dvx_shadow_stmt(t, DVX_SQL_ROW_BY_ID, &stmt);
  if (rc != SQLITE_OK) return rc;
  rc = dvx_bind_value(stmt, 1, id);
  if (rc == SQLITE_OK && sqlite3_step(stmt) == SQLITE_ROW) {
    int64_t found = sqlite3_column_int64(stmt, 0);
    if (found >= 1 && found <= (int64_t)t->rows.n) *vid = (uint32_t)found;
  }
  int reset = sqlite3_reset(stmt);
  sqlite3_clear_bindings(stmt);
  if (reset != SQLITE_OK) return dvx_fail_sqlite(t->conn, t, reset);
  dv_value known;
  if (*vid && !dvx_ids_value(&t->ids, *vid, &known)) return dvx_ids_add(&t->ids, id, *vid);
  return rc;
}

int dvx_row_id(dvx_table *t, uint32_t vid, dv_value *id) {
  if (dvx_ids_value(&t->ids, vid, id)) return SQLITE_OK;
  sqlite3_stmt *stmt = NULL;
  int rc = dvx_shadow_stmt(t, DVX_SQL_ROW_BY_VID, &stmt);
  if (rc != SQLITE_OK) return rc;
  sqlite3_bind_int64(stmt, 1, vid);
  bool is_there = false;
  if (sqlite3_step(stmt) == SQLITE_ROW) {
    dvx_column_value(stmt, 0, id);
    is_there = id->type == DV_TEXT || id->type == DV_INTEGER;
    if (is_there && dvx_ids_find(&t->ids, id))
      is_there = false; /* two rows with one id: the index of %_row is broken */
    if (is_there) rc = dvx_ids_add(&t->ids, id, vid);
  }
  int reset = sqlite3_reset(stmt);
  if (reset != SQLITE_OK) return dvx_fail_sqlite(t->conn, t, reset);
  if (rc != SQLITE_OK) return rc;
  if (!is_there || !dvx_ids_value(&t->ids, vid, id)) {
    return dvx_fail(t->conn, t, SQLITE_CORRUPT_VTAB, "%s_row has no id for row number %u", t->name, (uint64_t)vid);
  }
  return SQLITE_OK;
}

/* ---- folding ----------------------------------------------------------------------------------------------------- */

/* One delta of a chain, kept in fold_bytes while the walk goes on: records borrow memory from the pack cache. */
typedef struct row_step {
  uint32_t n_payload;
  uint8_t op;
  uint8_t encoding;
} row_step;

static int row_fold_failed(dvx_table *t, uint32_t vid, uint64_t seq) {
  return dvx_fail(t->conn, t, SQLITE_CORRUPT_VTAB,
                  "the log is damaged: the chain of row number %u does not fold at record %u", (uint64_t)vid, seq);
}

/* The state the record `seq` left. `base` (may be NULL) is the vector after record base_seq, where the walk may end. */
static int row_fold(dvx_table *t, uint32_t vid, uint64_t seq, uint64_t base_seq, const float *base, float *out,
                    bool *exists) {
  const size_t n = t->config->dimensions;
  dv_buf *b = &t->fold_bytes;
  int polled = dvx_poll(t);
  if (polled != SQLITE_OK) return polled;
  b->n = 0;
  b->status = DV_OK;
  *exists = true;
  uint64_t at = seq;
  dv_delta full = {DV_OP_CREATE, DV_ENC_DENSE, NULL, 0};
  for (;;) {
    if (base && at == base_seq) {
      memcpy(out, base, n * sizeof *out);
      break;
    }
    dv_record rec;
    int rc = dvx_log_change(t, at, &rec);
    if (rc != SQLITE_OK) return rc;
    if (rec.vid != vid) return row_fold_failed(t, vid, at);
    if (rec.delta.op == DV_OP_DELETE) {
      if (at != seq) return row_fold_failed(t, vid, at); /* nothing but a create may follow a delete */
      *exists = false;
      return SQLITE_OK;
    }
    bool is_base = false;
    if (dv_encoding_is_full((int)rec.delta.encoding)) {
      full = rec.delta;
      is_base = true;
    } else if (rec.is_key) {
      full.encoding = rec.full_encoding;
      full.payload = rec.full;
      full.n_payload = rec.n_full;
      is_base = true;
    }
    if (is_base) {
      if (dv_delta_apply(&full, out, n, NULL) != DV_OK) return row_fold_failed(t, vid, at);
      break;
    }
    row_step step = {(uint32_t)rec.delta.n_payload, (uint8_t)rec.delta.op, (uint8_t)rec.delta.encoding};
    dv_buf_bytes(b, rec.delta.payload, rec.delta.n_payload);
    dv_buf_bytes(b, &step, sizeof step);
    if (b->status != DV_OK) return SQLITE_NOMEM;
    if (rec.link == 0 || rec.link >= at) return row_fold_failed(t, vid, at);
    at -= rec.link;
  }
  for (size_t end = b->n; end > 0;) {
    row_step step;
    memcpy(&step, b->data + end - sizeof step, sizeof step);
    end -= sizeof step + step.n_payload;
    dv_delta d = {(dv_op)step.op, (dv_encoding)step.encoding, b->data + end, step.n_payload};
    if (dv_delta_apply(&d, out, n, NULL) != DV_OK) return row_fold_failed(t, vid, seq);
  }
  return SQLITE_OK;
}

int dvx_row_vector_at(dvx_table *t, uint32_t vid, uint64_t seq, float *out, bool *exists) {
  return row_fold(t, vid, seq, 0, NULL, out, exists);
}

int dvx_row_last_vector(dvx_table *t, uint32_t vid, uint64_t word, float *out, bool *exists) {
  dv_record rec;
  uint64_t seq = dvx_word_seq(word);
  *exists = false;
  if (seq == 0) return SQLITE_OK;
  int rc = dvx_log_change(t, seq, &rec);
  if (rc != SQLITE_OK || rec.vid != vid || rec.link == 0 || rec.link >= seq) return rc;
  return row_fold(t, vid, seq - rec.link, 0, NULL, out, exists);
}

int dvx_row_seq_at(dvx_table *t, uint32_t vid, int64_t time, uint64_t *seq) {
  uint64_t at = dvx_word_seq(dvx_row_word(t, vid));
  *seq = 0;
  if (at == 0) return SQLITE_OK;
  int64_t last = 0;
  int rc = dvx_row_time(t, vid, &last);
  if (rc != SQLITE_OK) return rc;
  if (last <= time) {
    *seq = at;
    return SQLITE_OK;
  }
  for (;;) {
    dv_record rec;
    rc = dvx_log_record(t, at, &rec);
    if (rc != SQLITE_OK) return rc;
    if (rec.vid != vid) return row_fold_failed(t, vid, at);
    if (rec.time <= time) {
      *seq = at;
      return SQLITE_OK;
    }
    if (rec.link == 0) return SQLITE_OK;
    if (rec.link >= at) return row_fold_failed(t, vid, at);
    at -= rec.link;
  }
}

/* ---- current vectors --------------------------------------------------------------------------------------------- */

/* What memory_limit leaves for vectors: codes and lists, which every search needs, go before them, also those that are
 * yet to come. Were vectors to take the room of these, every search would give back codes that the next one needs. */
static size_t row_cache_limit(const dvx_table *t) {
  size_t limit = dvx_mirror_target(t), least = dvx_table_memory_limit(t) / 8;
  size_t others = dvx_table_memory(t) - t->vectors.n_bytes + dvx_mirror_missing(t);
  return others < limit && limit - others > least ? limit - others : least;
}

/* Rows a chunk: as many as fill two pages, so that memory is that of rows that were asked for, and not of their
 * neighbours; but no more than a word has bits. */
unsigned dvx_vectors_chunk_shift(size_t n_dimensions) {
  unsigned shift = 6;
  while (shift > 0 && (n_dimensions * sizeof(float) << shift) > 8192) shift--;
  return shift;
}

static inline size_t row_chunk_bytes(const dvx_table *t) {
  return (t->config->dimensions * sizeof(float)) << t->chunk_shift;
}

static inline size_t row_chunk(const dvx_table *t, uint32_t vid) { return vid >> t->chunk_shift; }
static inline unsigned row_in_chunk(const dvx_table *t, uint32_t vid) { return vid & ((1u << t->chunk_shift) - 1); }

/* Gives chunks back until n_bytes more would be within the limit; the next to go is the one that came longest ago. */
static void row_cache_trim(dvx_table *t, size_t n_bytes) {
  dvx_vectors *v = &t->vectors;
  const size_t limit = row_cache_limit(t), chunk_bytes = row_chunk_bytes(t);
  while (v->n_bytes && v->n_bytes + n_bytes > limit) {
    dvx_chunk *victim = &v->chunks[v->hand];
    v->hand = (v->hand + 1) % v->n_chunks;
    if (victim->at == NULL) continue;
    sqlite3_free(victim->at);
    *victim = (dvx_chunk){NULL, 0};
    v->n_bytes -= chunk_bytes;
  }
}

void dvx_vectors_trim(dvx_table *t) { row_cache_trim(t, 0); }

/* Chunks come one after the other from wherever the host's allocator has memory, so that most large pages there are full
 * of them; those are remembered. (Joining pages changes nothing for whoever else has memory in them.) */
static void row_cache_note(dvx_vectors *v, const float *chunk, size_t chunk_bytes) {
  const size_t region = (size_t)(uintptr_t)chunk / DVX_LARGE_PAGE;
  if (region == v->region) {
    v->region_bytes += chunk_bytes;
    return;
  }
  if (v->region_bytes > DVX_LARGE_PAGE - DVX_LARGE_PAGE / 4 && v->n_regions <= v->n_bytes / DVX_LARGE_PAGE) {
    if (v->n_regions == v->region_capacity) {
      size_t n_new = v->region_capacity ? 2 * v->region_capacity : 16, item = sizeof *v->regions;
      if (dvx_grow(&v->regions, v->region_capacity * item, n_new * item) != SQLITE_OK) return; /* then not */
      v->region_capacity = n_new;
    }
    v->regions[v->n_regions++] = v->region;
  }
  v->region = region;
  v->region_bytes = chunk_bytes;
}

void dvx_vectors_join(dvx_vectors *v) {
  if (v->n_regions == 0) return;
  size_t region = v->regions[--v->n_regions];
  (void)dvx_host_join((void *)(uintptr_t)(region * DVX_LARGE_PAGE)); /* it may be nobody's by now: then it fails */
}

/* The place of a committed row in the cache, allocated if need be; NULL when there is no memory for it. */
static float *row_cache_slot(dvx_table *t, uint32_t vid) {
  dvx_vectors *v = &t->vectors;
  size_t chunk = row_chunk(t, vid);
  size_t n = t->config->dimensions, chunk_bytes = row_chunk_bytes(t);
  if (chunk >= v->n_chunks) {
    size_t n_chunks = v->n_chunks ? v->n_chunks : 16;
    while (n_chunks <= chunk) n_chunks *= 2;
    if (dvx_grow(&v->chunks, v->n_chunks * sizeof *v->chunks, n_chunks * sizeof *v->chunks) != SQLITE_OK) return NULL;
    v->n_chunks = n_chunks;
  }
  dvx_chunk *c = &v->chunks[chunk];
  if (c->at == NULL) {
    row_cache_trim(t, chunk_bytes);
    c->at = sqlite3_malloc64(chunk_bytes);
    if (!c->at) return NULL;
    v->n_bytes += chunk_bytes;
    row_cache_note(v, c->at, chunk_bytes);
  }
  return c->at + (row_in_chunk(t, vid))*n;
}

static float *row_cached(const dvx_table *t, uint32_t vid) {
  const dvx_vectors *v = &t->vectors;
  size_t chunk = row_chunk(t, vid);
  if (chunk >= v->n_chunks || (v->chunks[chunk].valid >> (row_in_chunk(t, vid)) & 1) == 0) return NULL;
  return v->chunks[chunk].at + (row_in_chunk(t, vid))*t->config->dimensions;
}

static void row_cache_valid(dvx_table *t, uint32_t vid, bool is_valid) {
  dvx_vectors *v = &t->vectors;
  size_t chunk = row_chunk(t, vid);
  uint64_t bit = (uint64_t)1 << (row_in_chunk(t, vid));
  if (chunk >= v->n_chunks) return;
  if (is_valid) {
    v->chunks[chunk].valid |= bit;
  } else {
    v->chunks[chunk].valid &= ~bit;
  }
}

/* A row is in five places of memory, none of them in the CPU's cache: asking for them early takes a third off the time
 * of a delta or of a look-up. */
void dvx_vectors_prefetch(const dvx_table *t, uint32_t vid) {
  const float *v = row_cached(t, vid);
  size_t n = t->config->dimensions < 1024 ? t->config->dimensions : 1024;
  /* Into the second-level cache: more lines can be on their way to it at a time. */
  for (size_t i = 0; v && i < n; i += 16) DV_PREFETCH_FAR(v + i);
}

void dvx_row_prefetch_hit(const dvx_table *t, uint32_t vid) {
  DV_PREFETCH(&t->rows.words[vid]);
  if (vid < t->ids.n_by_vid) DV_PREFETCH(&t->ids.by_vid[vid]);
  if (row_chunk(t, vid) < t->vectors.n_chunks) DV_PREFETCH(&t->vectors.chunks[row_chunk(t, vid)]);
}

void dvx_row_prefetch(const dvx_table *t, uint32_t vid) {
  if (vid == 0 || vid > t->rows.n || !t->rows.words) return;
  DV_PREFETCH(&t->rows.words[vid]);
  DV_PREFETCH(&t->rows.times[vid]);
  dvx_vectors_prefetch(t, vid);
}

void dvx_vectors_apply(dvx_table *t, uint32_t vid, uint64_t before, const dv_record *rec) {
  float *v = row_cached(t, vid);
  if (!v) return;
  if (rec->delta.op == DV_OP_DELETE || dvx_word_seq(before) != rec->seq - rec->link ||
      dv_delta_apply(&rec->delta, v, t->config->dimensions, NULL) != DV_OK) {
    row_cache_valid(t, vid, false);
  }
}

bool dvx_vectors_has(const dvx_table *t, uint32_t vid) { return row_cached(t, vid) != NULL; }

void dvx_vectors_store(dvx_table *t, uint32_t vid, const float *v) {
  float *slot = v ? row_cache_slot(t, vid) : NULL;
  if (slot) memcpy(slot, v, t->config->dimensions * sizeof *v);
  row_cache_valid(t, vid, slot != NULL);
}

static uint64_t row_n_cached(const dvx_table *t) {
  uint64_t n = 0;
  for (size_t i = 0; i < t->vectors.n_chunks; i++) {
    for (uint64_t bits = t->vectors.chunks[i].valid; bits; bits &= bits - 1) n++;
  }
  return n;
}

static int row_load_vector(void *ctx, const dv_record *rec) {
  dvx_table *t = ctx;
  if (rec->vid > t->rows.n) return SQLITE_OK; /* pending in this transaction */
  uint64_t head = dvx_word_seq(t->rows.words[rec->vid]);
  if (rec->seq > head) return SQLITE_OK;
  float *slot = rec->delta.op == DV_OP_DELETE ? NULL : row_cache_slot(t, rec->vid);
  bool has_before = slot && row_cached(t, rec->vid) != NULL;
  bool is_right = false;
  if (slot && rec->is_key && !dv_encoding_is_full((int)rec->delta.encoding)) {
    dv_delta full = {DV_OP_CREATE, rec->full_encoding, rec->full, rec->n_full};
    is_right = dv_delta_apply(&full, slot, t->config->dimensions, NULL) == DV_OK;
  } else if (slot && (has_before || dv_encoding_is_full((int)rec->delta.encoding))) {
    is_right = dv_delta_apply(&rec->delta, slot, t->config->dimensions, NULL) == DV_OK;
  }
  row_cache_valid(t, rec->vid, is_right);
  return SQLITE_OK;
}

/* Folds the whole log forward into the cache of vectors, each record once. */
static int row_load_vectors(dvx_table *t) {
  dvx_position from = {.max_time = INT64_MIN};
  /* A cached vector is that of the head: it must not have earlier records applied to it. */
  for (size_t i = 0; i < t->vectors.n_chunks; i++) t->vectors.chunks[i].valid = 0;
  int rc = dvx_log_scan(t, &from, SIZE_MAX, row_load_vector, t);
  return rc == SQLITE_NOTFOUND ? SQLITE_OK : rc;
}

/* Before work on every row: reading the log once is much faster than following each row's chain, if the vectors fit
 * into their cache and are not there yet. */
static bool row_would_load(const dvx_table *t) {
  size_t bytes = ((size_t)t->rows.n + 64) * t->config->dimensions * sizeof(float);
  return bytes <= row_cache_limit(t) && t->rows.n >= DVX_LOAD_ROWS && row_n_cached(t) <= t->rows.n_live / 2;
}

int dvx_vectors_load_if_cold(dvx_table *t) { return row_would_load(t) ? row_load_vectors(t) : SQLITE_OK; }

/* ---- many vectors at once */

/* A row whose chain is followed back: the record that comes next, and the delta of it that was found last. */
typedef struct row_walk {
  uint64_t seq;
  size_t step;
  uint32_t vid;
} row_walk;

/* A delta of a chain, its payload behind it; `later` is where the one after it is. */
typedef struct row_link {
  size_t later;
  uint32_t n_payload;
  uint8_t op;
  uint8_t encoding;
} row_link;

#define ROW_NO_STEP SIZE_MAX

/* Moves entry i of a heap, the largest seq on top, down to its place. */
static void row_sift(row_walk *heap, size_t n, size_t i) {
  row_walk w = heap[i];
  for (size_t child; (child = 2 * i + 1) < n; i = child) {
    if (child + 1 < n && heap[child + 1].seq > heap[child].seq) child++;
    if (heap[child].seq <= w.seq) break;
    heap[i] = heap[child];
  }
  heap[i] = w;
}

/* The walk has come to a full vector: from there forward. */
static int row_unwind(dvx_table *t, const row_walk *w, const dv_delta *full, const dv_buf *steps) {
  const size_t n = t->config->dimensions;
  float *slot = row_cache_slot(t, w->vid);
  if (!slot) return SQLITE_OK; /* whoever needs it will fold it by itself */
  bool is_right = dv_delta_apply(full, slot, n, NULL) == DV_OK;
  for (size_t at = w->step; is_right && at != ROW_NO_STEP;) {
    row_link l;
    memcpy(&l, steps->data + at, sizeof l);
    dv_delta d = {(dv_op)l.op, (dv_encoding)l.encoding, steps->data + at + sizeof l, l.n_payload};
    is_right = dv_delta_apply(&d, slot, n, NULL) == DV_OK;
    at = l.later;
  }
  row_cache_valid(t, w->vid, is_right);
  return is_right ? SQLITE_OK : row_fold_failed(t, w->vid, w->seq);
}

/* One step back along the chain with the largest seq. *is_done: it has come to its end. */
static int row_step_back(dvx_table *t, row_walk *w, dv_buf *steps, bool *is_done) {
  dv_record rec;
  int rc = dvx_log_change(t, w->seq, &rec);
  *is_done = true;
  if (rc != SQLITE_OK) return rc;
  if (rec.vid != w->vid || rec.delta.op == DV_OP_DELETE) return row_fold_failed(t, w->vid, w->seq);
  dv_delta full = {DV_OP_CREATE, rec.full_encoding, rec.full, rec.n_full};
  if (dv_encoding_is_full((int)rec.delta.encoding)) full = rec.delta;
  if (rec.is_key || dv_encoding_is_full((int)rec.delta.encoding)) return row_unwind(t, w, &full, steps);
  row_link l = {w->step, (uint32_t)rec.delta.n_payload, (uint8_t)rec.delta.op, (uint8_t)rec.delta.encoding};
  w->step = steps->n;
  dv_buf_bytes(steps, &l, sizeof l);
  dv_buf_bytes(steps, rec.delta.payload, rec.delta.n_payload);
  if (steps->status != DV_OK) return SQLITE_NOMEM;
  if (rec.link == 0 || rec.link >= w->seq) return row_fold_failed(t, w->vid, w->seq);
  w->seq -= rec.link;
  *is_done = false;
  return SQLITE_OK;
}

/* A record on the way back takes twice the time of one on the way through the whole log, and each walk lists packs for a
 * few records of theirs. Where rows change all the time, somebody who follows would walk until every row had its turn, with
 * every search: after an eighth of the log he reads it through, once, if vectors are not most of what memory may hold. */
static bool row_is_walking_too_much(const dvx_table *t, uint64_t n_now) {
  size_t bytes = ((size_t)t->rows.n + 64) * t->config->dimensions * sizeof(float);
  if (n_now >= t->position.seq / 2) return true;
  return t->vectors.n_walked >= t->position.seq / 8 && bytes <= dvx_table_memory_limit(t) / 8;
}

int dvx_vectors_need(dvx_table *t, const uint32_t *vids, size_t n) {
  const size_t bytes = t->config->dimensions * sizeof(float);
  size_t n_walks = 0;
  uint64_t n_records = 0;
  if (n < DVX_FOLD_TOGETHER || n > row_cache_limit(t) / 2 / bytes) return SQLITE_OK;
  row_walk *heap = sqlite3_malloc64(n * sizeof *heap);
  if (!heap) return SQLITE_NOMEM;
  for (size_t i = 0; i < n; i++) {
    uint64_t word = vids[i] <= t->rows.n ? t->rows.words[vids[i]] : 0;
    if (!dvx_word_exists(word) || row_cached(t, vids[i])) continue;
    heap[n_walks++] = (row_walk){dvx_word_seq(word), ROW_NO_STEP, vids[i]};
    n_records += dvx_word_chain(word) + 1;
  }
  int rc = SQLITE_OK;
  if (n_walks < DVX_FOLD_TOGETHER) n_walks = 0;
  if (n_walks > 0) t->vectors.n_walked += n_records;
  if (n_walks > 0 && row_is_walking_too_much(t, n_records)) {
    t->vectors.n_walked = 0; /* also where most are here already: not counted again with every search */
    if (row_would_load(t)) {
      rc = row_load_vectors(t);
      n_walks = 0;
    }
  }
  for (size_t i = n_walks / 2; i-- > 0;) row_sift(heap, n_walks, i);
  dv_buf steps;
  dv_buf_init(&steps, &dvx_alloc);
  while (rc == SQLITE_OK && n_walks > 0 && steps.n <= DVX_FOLD_BYTES) {
    bool is_done = false;
    rc = dvx_poll(t);
    if (rc == SQLITE_OK) rc = row_step_back(t, &heap[0], &steps, &is_done);
    if (is_done) heap[0] = heap[--n_walks];
    if (n_walks > 0) row_sift(heap, n_walks, 0);
  }
  dv_buf_free(&steps);
  sqlite3_free(heap);
  return rc;
}

/* The committed vector of a row that exists, from the cache or folded into it. */
int dvx_row_committed_vector(dvx_table *t, uint32_t vid, const float **out) {
  float *v = row_cached(t, vid);
  if (v) {
    *out = v;
    return SQLITE_OK;
  }
  float *slot = row_cache_slot(t, vid);
  float *to = slot ? slot : t->fold_vector;
  bool exists;
  int rc = row_fold(t, vid, dvx_word_seq(t->rows.words[vid]), 0, NULL, to, &exists);
  if (rc == SQLITE_OK && !exists) rc = row_fold_failed(t, vid, dvx_word_seq(t->rows.words[vid]));
  if (rc != SQLITE_OK) return rc;
  if (slot) row_cache_valid(t, vid, true);
  *out = to;
  return SQLITE_OK;
}

int dvx_row_vector(dvx_table *t, uint32_t vid, const float **out) {
  dvx_touched *p = dvx_txn_touched(t, vid);
  if (p == NULL || p->last == 0) return dvx_row_committed_vector(t, vid, out);
  if (p->vector_for == p->last) {
    *out = p->vector;
    return SQLITE_OK;
  }
  size_t n = t->config->dimensions;
  if (p->vector == NULL) {
    p->vector = sqlite3_malloc64(n * sizeof(float));
    if (!p->vector) return SQLITE_NOMEM;
  }
  p->vector_for = 0;
  /* The walk back may end at the committed vector instead of going into the log for it, if that one is at hand. */
  uint64_t committed = vid <= t->rows.n ? t->rows.words[vid] : 0;
  const float *base = dvx_word_exists(committed) ? row_cached(t, vid) : NULL;
  bool exists;
  int rc = row_fold(t, vid, dvx_word_seq(t->overlay.pending[p->last - 1].word), dvx_word_seq(committed), base,
                    p->vector, &exists);
  if (rc == SQLITE_OK && !exists) rc = row_fold_failed(t, vid, dvx_word_seq(t->overlay.pending[p->last - 1].word));
  if (rc != SQLITE_OK) return rc;
  p->vector_for = p->last;
  *out = p->vector;
  return SQLITE_OK;
}

/* ---- metadata ---------------------------------------------------------------------------------------------------- */

/* Values point into `hold` by offset while it grows; this makes them pointers. */
static void row_values_settle(const dv_buf *hold, dv_value *values, int n) {
  for (int i = 0; i < n; i++) {
    if (values[i].type == DV_TEXT || values[i].type == DV_BLOB) {
      values[i].bytes = hold->data ? hold->data + (size_t)(uintptr_t)values[i].bytes : (const uint8_t *)"";
    }
  }
}

static void row_value_keep(dv_buf *hold, const dv_value *from, dv_value *to) {
  *to = *from;
  if (from->type == DV_TEXT || from->type == DV_BLOB) {
    to->bytes = (const uint8_t *)(uintptr_t)hold->n; /* an offset until row_values_settle */
    dv_buf_bytes(hold, from->bytes, from->n_bytes);
  }
}

/* Walks the chain back from `seq` (down to, not including, stop_seq) and takes each field from the newest record that
 * sets it. *is_whole: a record that sets all fields was reached. */
static int row_fields_walk(dvx_table *t, uint32_t vid, uint64_t seq, uint64_t stop_seq, dv_buf *hold, dv_value *values,
                           bool *is_set, bool *is_whole) {
  int n = t->config->n_columns;
  *is_whole = false;
  while (seq > stop_seq && !*is_whole) {
    dv_record rec;
    int rc = dvx_log_change(t, seq, &rec);
    if (rc != SQLITE_OK) return rc;
    if (rec.vid != vid) return row_fold_failed(t, vid, seq);
    dv_reader r = dv_reader_of(rec.fields, rec.n_fields);
    uint32_t number;
    dv_value v;
    while (dv_numbered_next(&r, &number, &v)) {
      if (number == 0 || number > (uint32_t)n || is_set[number - 1]) continue;
      is_set[number - 1] = true;
      row_value_keep(hold, &v, &values[number - 1]);
    }
    if (r.is_bad) return row_fold_failed(t, vid, seq);
    if (hold->status != DV_OK) return SQLITE_NOMEM;
    *is_whole = (rec.extra & DV_RECORD_ALL_FIELDS) != 0;
    if (rec.link == 0 || rec.link >= seq) break;
    seq -= rec.link;
  }
  return SQLITE_OK;
}

#define ROW_MAX_COLUMNS 64

int dvx_row_fields_at(dvx_table *t, uint32_t vid, uint64_t seq, dv_buf *hold, dv_value *values) {
  bool is_set[ROW_MAX_COLUMNS] = {false};
  bool is_whole;
  int n = t->config->n_columns;
  dv_buf_init(hold, &dvx_alloc);
  memset(values, 0, (size_t)n * sizeof *values);
  int rc = dvx_poll(t);
  if (rc == SQLITE_OK) rc = n ? row_fields_walk(t, vid, seq, 0, hold, values, is_set, &is_whole) : SQLITE_OK;
  if (rc == SQLITE_OK) row_values_settle(hold, values, n);
  return rc;
}

void dvx_row_set_bare(dvx_table *t, uint32_t vid, bool is_bare) {
  if (vid >= t->rows.capacity) return;
  uint64_t *word = &t->rows.is_bare[vid >> 6], bit = (uint64_t)1 << (vid & 63);
  *word = is_bare ? *word | bit : *word & ~bit;
}

static bool row_is_known_bare(const dvx_table *t, uint32_t vid) {
  return vid < t->rows.capacity && (t->rows.is_bare[vid >> 6] >> (vid & 63) & 1);
}

int dvx_row_fields(dvx_table *t, uint32_t vid, dv_value *values) {
  bool is_set[ROW_MAX_COLUMNS] = {false};
  bool is_whole = false;
  int n = t->config->n_columns, rc = SQLITE_OK;
  dv_buf *hold = &t->field_bytes;
  hold->n = 0;
  hold->status = DV_OK;
  memset(values, 0, (size_t)n * sizeof *values);
  if (n == 0) return SQLITE_OK;
  dvx_overlay *o = &t->overlay;
  uint64_t stored = o->is_open ? o->first_seq + o->n_written : UINT64_MAX; /* %_row is right for records before this */
  uint64_t seq = dvx_word_seq(dvx_row_word(t, vid));
  if (o->is_open && seq >= stored) rc = row_fields_walk(t, vid, seq, stored - 1, hold, values, is_set, &is_whole);
  if (rc == SQLITE_OK && !is_whole && !row_is_known_bare(t, vid)) {
    sqlite3_stmt *stmt = NULL;
    /* What an open transaction has written may be taken back. */
    bool is_bare = vid <= t->rows.n && dvx_txn_touched(t, vid) == NULL;
    rc = dvx_shadow_stmt(t, DVX_SQL_ROW_BY_VID, &stmt);
    if (rc != SQLITE_OK) return rc;
    sqlite3_bind_int64(stmt, 1, vid);
    if (sqlite3_step(stmt) == SQLITE_ROW) {
      for (int i = 0; i < n; i++) {
        dv_value v;
        if (is_set[i]) continue;
        dvx_column_value(stmt, i + 1, &v);
        row_value_keep(hold, &v, &values[i]);
        is_bare = is_bare && sqlite3_column_type(stmt, i + 1) == SQLITE_NULL;
      }
      if (is_bare) dvx_row_set_bare(t, vid, true);
    }
    int reset = sqlite3_reset(stmt);
    if (reset != SQLITE_OK) return dvx_fail_sqlite(t->conn, t, reset);
    if (hold->status != DV_OK) return SQLITE_NOMEM;
  }
  if (rc == SQLITE_OK) row_values_settle(hold, values, n);
  return rc;
}
