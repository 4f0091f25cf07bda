/*
 * settle.c: bringing %_head, %_code and the graph up to the log, in bulk and in vid order.
 *
 * Derived data is written lazily: a delta by itself costs one page of the log; thousands of deltas later their rows'
 * heads and codes share page writes. `settled` in %_meta says up to which record the tables are right; the log from
 * there on is scanned when a table is opened, so it is kept short.
 *
 * A SWEEP goes through the rows in the order of their vids and writes what changed since the settled place, each row as it
 * is now. It begins when a commit finds settle_limit() records behind the settled place, and goes on with the commits that
 * follow, a stretch of rows at a time, so that it has arrived at the last row when half as many records have come again.
 * Then the settled place is where the log ended when the sweep began. A block of codes has some twenty rows: were commits to
 * write the rows of the oldest records instead, each of them would cost a block read and a block written.
 *
 * A row's head may so be ahead of the settled place, which a scan of the log notices and skips. All that decides what a
 * commit does is in the file: the same commits give the same derived data, whoever makes them (but for when codes are first
 * stored, which is earlier in WebAssembly).
 */
#include "ext_int.h"

typedef struct settle_list {
  uint32_t *vids;
  size_t n;
} settle_list;

/* ---- how far, and when -------------------------------------------------------------------------------------------- */

/* So many records may be behind the settled place before a sweep begins: a few for each row, since a sweep writes the rows
 * once however often they changed; but opening the table reads them all. */
static uint64_t settle_limit(uint64_t n_rows) {
  uint64_t n = n_rows * DVX_UNSETTLED_PER_ROW;
  return n < DVX_UNSETTLED_RECORDS ? DVX_UNSETTLED_RECORDS : n < DVX_UNSETTLED_MOST ? n : DVX_UNSETTLED_MOST;
}

static uint64_t settle_backlog(const dvx_table *t, const dvx_settled *s) {
  return t->overlay.written.seq > s->position.seq ? t->overlay.written.seq - s->position.seq : 0;
}

static int settle_count_record(void *ctx, const dv_record *rec) {
  *(uint64_t *)ctx += rec->delta.n_payload + rec->n_full + rec->n_fields + 8;
  return SQLITE_OK;
}

/* Adds up the records behind the settled place. What this transaction has written itself is known without reading it. */
static int settle_count_bytes(dvx_table *t, const dvx_settled *s, uint64_t *n_bytes) {
  const dvx_overlay *o = &t->overlay;
  const dvx_position *before = &t->position; /* the end of the log without this transaction */
  bool is_pending = o->is_open && o->n_pending > 0 && o->n_written == o->n_pending && !o->is_renamed;
  dvx_position from = s->position;
  if (!is_pending || from.seq > before->seq) return dvx_log_scan(t, &from, SIZE_MAX, settle_count_record, n_bytes);
  int rc = SQLITE_OK;
  if (from.pack != before->pack || from.end != before->end || from.crc != before->crc)
    rc = dvx_log_scan(t, &from, (size_t)(before->seq - from.seq), settle_count_record, n_bytes);
  for (size_t i = 0; i < o->n_pending; i++) *n_bytes += o->pending[i].n_bytes;
  return rc;
}

/* What %_meta says does not fit the log: settle from the beginning, over whatever the tables hold. */
static int settle_anew(dvx_table *t, dvx_settled *s) {
  static const dvx_sql steps[] = {DVX_SQL_DROP_DERIVED_HEAD, DVX_SQL_DROP_DERIVED_CODE};
  bool has_graph = s->has_graph, is_graph_due = s->is_graph_due;
  memset(s, 0, sizeof *s);
  s->position.max_time = INT64_MIN;
  s->has_graph = has_graph;
  s->is_graph_due = is_graph_due;
  int rc = SQLITE_OK;
  for (size_t i = 0; rc == SQLITE_OK && i < sizeof steps / sizeof steps[0]; i++) {
    sqlite3_stmt *stmt = NULL;
    rc = dvx_shadow_stmt(t, steps[i], &stmt);
    if (rc == SQLITE_OK) rc = dvx_shadow_run(t, stmt);
  }
  return rc == SQLITE_OK ? dvx_checks_forget_codes(t) : rc;
}

/* A sweep begins: up to where the log ends now. */
static int settle_begin(dvx_table *t, dvx_settled *s) {
  uint64_t n_bytes = 0;
  /* Of a table that never was settled there may be blocks all the same, if `settled` was lost. */
  bool is_at = !t->is_settle_wrong && s->position.pack != 0 && s->position.seq <= t->overlay.written.seq;
  int rc = SQLITE_OK;
  if (is_at && s->has_codes) {
    rc = dvx_log_is_at(t, &s->position, &is_at);
  } else if (is_at) {
    rc = settle_count_bytes(t, s, &n_bytes);
    is_at = rc != SQLITE_NOTFOUND;
  }
  if (!is_at && (rc == SQLITE_OK || rc == SQLITE_NOTFOUND)) {
    n_bytes = 0;
    rc = settle_anew(t, s);
    if (rc == SQLITE_OK) rc = settle_count_bytes(t, s, &n_bytes);
  }
  if (rc != SQLITE_OK) return rc;
  s->log_bytes += n_bytes;
  s->sweep = t->overlay.written;
  s->next = 1;
  if (s->has_codes) return SQLITE_OK;
  /* Soon every row will be coded. Its vectors are read while the log for them is half as long: they follow from here. */
  if (s->log_bytes > DVX_CODES_FROM_BYTES / 2) rc = dvx_vectors_load_if_cold(t);
  if (rc != SQLITE_OK || s->log_bytes <= DVX_CODES_FROM_BYTES) return rc;
  /* The log has grown past the limit: from now on codes are stored, so this sweep writes every row's. */
  s->is_coding = true;
  return SQLITE_OK;
}

/* ---- blocks ------------------------------------------------------------------------------------------------------- */

/* The stored block, copied into out (n bytes), or zeros if it is not there or not of this size. */
static int settle_block_get(dvx_table *t, dvx_sql which, int64_t block, uint8_t *out, size_t n, bool *is_there) {
  sqlite3_stmt *stmt = NULL;
  int rc = dvx_shadow_stmt(t, which, &stmt);
  if (rc != SQLITE_OK) return rc;
  memset(out, 0, n);
  *is_there = false;
  sqlite3_bind_int64(stmt, 1, block);
  if (sqlite3_step(stmt) == SQLITE_ROW && (size_t)sqlite3_column_bytes(stmt, 0) == n) {
    const void *bytes = sqlite3_column_blob(stmt, 0);
    if (bytes) memcpy(out, bytes, n);
    *is_there = bytes != NULL;
  }
  rc = sqlite3_reset(stmt);
  return rc == SQLITE_OK ? SQLITE_OK : dvx_fail_sqlite(t->conn, t, rc);
}

static int settle_block_put(dvx_table *t, dvx_sql which, int64_t block, const uint8_t *bytes, size_t n) {
  sqlite3_stmt *stmt = NULL;
  int rc = dvx_shadow_stmt(t, which, &stmt);
  if (rc != SQLITE_OK) return rc;
  sqlite3_bind_int64(stmt, 1, block);
  sqlite3_bind_blob(stmt, 2, bytes, (int)n, SQLITE_STATIC);
  rc = dvx_shadow_run(t, stmt);
  sqlite3_clear_bindings(stmt);
  return rc;
}

/* Writes the heads of the rows. Of those whose head was there already (a stretch that was written before its turn) the
 * code is there too: they leave the list. */
static int settle_heads(dvx_table *t, settle_list *l, dvx_settled *s, uint8_t *block) {
  const dvx_geometry *g = &t->geometry;
  size_t n_left = 0;
  int rc = SQLITE_OK;
  for (size_t i = 0; rc == SQLITE_OK && i < l->n;) {
    int64_t number = (l->vids[i] - 1) / (int64_t)g->head_rows;
    bool is_changed = false, is_there;
    rc = settle_block_get(t, DVX_SQL_HEAD_GET, number, block, g->head_bytes, &is_there);
    for (; rc == SQLITE_OK && i < l->n && (l->vids[i] - 1) / (int64_t)g->head_rows == number; i++) {
      uint32_t vid = l->vids[i];
      uint8_t *at = block + 8 * ((vid - 1) % g->head_rows);
      uint64_t word = dvx_row_word(t, vid), stored = dv_load_u64(at);
      if (word != stored || s->is_coding) l->vids[n_left++] = vid;
      if (vid > s->n_rows) s->n_rows = vid;
      if (word == stored) continue;
      s->checksum += dvx_word_mix(vid, word) - dvx_word_mix(vid, stored);
      dv_store_u64(at, word);
      is_changed = true;
    }
    if (rc == SQLITE_OK && is_changed) rc = settle_block_put(t, DVX_SQL_HEAD_PUT, number, block, g->head_bytes);
  }
  l->n = n_left;
  return rc;
}

static int settle_codes(dvx_table *t, const settle_list *l, dvx_settled *s, uint8_t *block) {
  const dvx_geometry *g = &t->geometry;
  const size_t n = t->config->dimensions;
  bool is_there;
  int rc = dvx_vectors_need(t, l->vids, l->n);
  for (size_t i = 0; rc == SQLITE_OK && i < l->n;) {
    int64_t number = (l->vids[i] - 1) / (int64_t)g->code_rows;
    rc = settle_block_get(t, DVX_SQL_CODE_GET, number, block, g->code_bytes, &is_there);
    if (rc == SQLITE_OK && is_there) s->codes_change -= dvx_block_check(number, block, g->code_bytes);
    for (; rc == SQLITE_OK && i < l->n && (l->vids[i] - 1) / (int64_t)g->code_rows == number; i++) {
      uint8_t *at = block + (4 + n) * ((l->vids[i] - 1) % g->code_rows);
      if (!dvx_word_exists(dvx_row_word(t, l->vids[i]))) {
        memset(at, 0, 4 + n);
        continue;
      }
      const float *v = NULL;
      rc = dvx_poll(t);
      if (rc == SQLITE_OK) rc = dvx_row_vector(t, l->vids[i], &v);
      if (rc == SQLITE_OK) dv_store_u32(at, dv_code_encode(t->config->metric, v, n, (int8_t *)(at + 4)));
    }
    if (rc == SQLITE_OK) rc = settle_block_put(t, DVX_SQL_CODE_PUT, number, block, g->code_bytes);
    s->codes_change += dvx_block_check(number, block, g->code_bytes);
  }
  return rc;
}

/* ---- a stretch of rows -------------------------------------------------------------------------------------------- */

/* The rows first..*last that changed since the settled place, at most max_rows of them: then *last becomes the last of
 * these. */
static int settle_find(dvx_table *t, const dvx_settled *s, uint32_t first, uint32_t *last, size_t max_rows,
                       settle_list *l) {
  size_t room = *last < first ? 1 : (size_t)(*last - first) + 1;
  l->n = 0;
  l->vids = sqlite3_malloc64((room < max_rows ? room : max_rows) * sizeof *l->vids);
  if (!l->vids) return SQLITE_NOMEM;
  for (uint32_t vid = first; vid <= *last; vid++) {
    uint64_t word = dvx_row_word(t, vid);
    if (word == 0 || (!s->is_coding && dvx_word_seq(word) <= s->position.seq)) continue;
    l->vids[l->n++] = vid;
    if (l->n == max_rows) *last = vid;
  }
  return SQLITE_OK;
}

/* Brings first..*last up to date; is_all: and the whole graph. */
static int settle_stretch(dvx_table *t, dvx_settled *s, uint32_t first, uint32_t *last, size_t max_rows, bool is_all) {
  const dvx_geometry *g = &t->geometry;
  settle_list list = {0};
  uint8_t *block = sqlite3_malloc64(g->head_bytes > g->code_bytes ? g->head_bytes : g->code_bytes);
  int rc = block ? settle_find(t, s, first, last, max_rows, &list) : SQLITE_NOMEM;
  if (rc == SQLITE_OK) {
    t->overlay.is_settled_touched = true;
    rc = settle_heads(t, &list, s, block);
    if (rc == SQLITE_OK && (s->has_codes || s->is_coding)) rc = settle_codes(t, &list, s, block);
    if (rc != SQLITE_OK) dvx_table_poison(t, "writing derived data failed half-way");
  }
  if (rc == SQLITE_OK) {
    rc = dvx_graph_settle(t, list.vids, list.n, is_all, &s->is_graph_due);
    s->has_graph = t->graph.is_there;
    s->linked_seq = t->overlay.written.seq;
    if (rc != SQLITE_OK) dvx_table_poison(t, "writing the graph failed half-way");
  }
  sqlite3_free(list.vids);
  sqlite3_free(block);
  return rc;
}

/* The sweep goes on, to row `last` or by max_rows rows that changed. */
static int settle_go_on(dvx_table *t, dvx_settled *s, uint32_t last, size_t max_rows, bool is_all) {
  int rc = settle_stretch(t, s, s->next, &last, max_rows, is_all);
  if (rc != SQLITE_OK) return rc;
  s->next = last + 1;
  if (last < dvx_table_last_vid(t)) return SQLITE_OK;
  s->position = s->sweep;
  s->has_codes |= s->is_coding;
  s->is_coding = false;
  s->next = 0;
  memset(&s->sweep, 0, sizeof s->sweep);
  return SQLITE_OK;
}

static int settle_end(dvx_table *t, int rc, const dvx_settled *s) {
  if (rc == SQLITE_OK) rc = dvx_settled_write(t, s);
  if (rc != SQLITE_OK) {
    dvx_table_poison(t, "writing derived data failed half-way");
    return rc;
  }
  t->settled = *s;
  t->settled.codes_change = 0;
  t->is_settle_wrong = false;
  return SQLITE_OK;
}

/* ---- at a commit, on demand, all of it ---------------------------------------------------------------------------- */

/* Heads and codes of all rows at once; is_all: and all of the graph. */
static int settle_all(dvx_table *t, bool is_all) {
  int rc = dvx_settled_see(t);
  if (rc == SQLITE_OK) rc = dvx_graph_prepare(t);
  if (rc != SQLITE_OK) return rc;
  dvx_settled s = t->settled;
  rc = settle_begin(t, &s);
  if (rc == SQLITE_OK) rc = settle_go_on(t, &s, dvx_table_last_vid(t), SIZE_MAX, is_all);
  return settle_end(t, rc, &s);
}

int dvx_table_settle(dvx_table *t) { return settle_all(t, true); }

/* How far a sweep should be when so many records have come since it began, in stretches that are worth their while: short
 * ones, since somebody waits for the commit; but where there is a graph each one writes much of it. */
static uint32_t settle_due(const dvx_settled *s, uint64_t n_records, uint32_t n_rows) {
  uint64_t all = settle_limit(n_rows) / 2, stretch = DVX_SETTLE_STRETCH;
  if (s->has_graph) stretch = n_rows / 32 > DVX_SETTLE_STEP ? n_rows / 32 : DVX_SETTLE_STEP;
  if (n_records >= all || n_rows <= stretch) return n_rows;
  uint64_t due = n_records * n_rows / all;
  return due + 1 >= s->next + stretch ? (uint32_t)due : 0;
}

int dvx_settle_some(dvx_table *t) {
  int rc = dvx_settled_see(t);
  if (rc != SQLITE_OK) return rc;
  dvx_settled s = t->settled;
  uint32_t n_rows = dvx_table_last_vid(t), n_new = n_rows > s.n_rows ? n_rows - s.n_rows : 0, due = 0;
  uint64_t end = t->overlay.written.seq;
  if (t->is_settle_wrong || s.position.seq > end || s.sweep.seq > end)
    return settle_all(t, false); /* but a commit links no more than some rows */

  bool is_begun = s.next != 0, is_mostly_new = n_new > DVX_UNSETTLED_RECORDS && n_new >= n_rows / 2;
  bool is_due = settle_backlog(t, &s) > settle_limit(n_rows) || n_new > DVX_UNSETTLED_RECORDS;
  if (is_begun) due = settle_due(&s, end - s.sweep.seq, n_rows);
  if ((!is_begun && is_due && n_rows <= DVX_SETTLE_STEP) || is_mostly_new) due = n_rows;
  /* A graph wants to be looked after more often. New rows are fresh, and searches scan fresh ones: so they are written before
   * their turn. Others may have moved too far: that is seen every few thousand records; and while more rows wait for the
   * graph than one commit links, some are linked every few hundred. So fresh rows stay few though every record may make one. */
  bool is_for_new = s.has_graph && n_new > DVX_SETTLE_STEP;
  bool is_for_graph =
      s.has_graph && end - s.linked_seq > (s.is_graph_due ? DVX_LINKS_A_COMMIT / 2 : DVX_UNSETTLED_RECORDS);
  bool is_beginning = is_due && !is_begun;
  if (due == 0 && !is_beginning && !is_for_new && !is_for_graph) return SQLITE_OK;

  rc = dvx_graph_prepare(t);
  if (rc == SQLITE_OK && is_beginning) rc = settle_begin(t, &s);
  if (rc == SQLITE_OK && due > 0) {
    rc = settle_go_on(t, &s, due, SIZE_MAX, false);
  } else if (rc == SQLITE_OK && (is_for_new || is_for_graph)) {
    rc = settle_stretch(t, &s, is_for_new ? s.n_rows + 1 : n_rows + 1, &n_rows, SIZE_MAX, false);
  }
  return settle_end(t, rc, &s);
}

/* ---- delta_settle(table) ----------------------------------------------------------------------------------------- */

/* One step of what commits do in passing; what is left goes to *arg. */
static int settle_step(dvx_table *t, void *arg) {
  int rc = dvx_table_flush(t);
  if (rc == SQLITE_OK) rc = dvx_settled_see(t);
  if (rc == SQLITE_OK) rc = dvx_graph_prepare(t);
  if (rc != SQLITE_OK) return rc;
  dvx_settled s = t->settled;
  bool is_behind = t->is_settle_wrong || s.position.seq > t->overlay.written.seq || settle_backlog(t, &s) > 0;
  uint32_t n_rows = dvx_table_last_vid(t);
  if (is_behind && (s.next == 0 || t->is_settle_wrong)) rc = settle_begin(t, &s);
  if (rc == SQLITE_OK && s.next != 0) {
    rc = settle_go_on(t, &s, n_rows, DVX_SETTLE_STEP, false);
  } else if (rc == SQLITE_OK && s.is_graph_due) {
    rc = settle_stretch(t, &s, n_rows + 1, &n_rows, SIZE_MAX, false);
  }
  rc = settle_end(t, rc, &s);
  *(uint64_t *)arg = settle_backlog(t, &s) + (s.next != 0 || s.is_graph_due ? 1 : 0);
  return rc;
}

/* Returns how much is left: 0 when another step would do nothing. For programs that have the time (native/upkeep.c). */
static void delta_settle(sqlite3_context *ctx, int argc, sqlite3_value **argv) {
  dvx_conn *conn = dvx_context_conn(ctx);
  dvx_table *t;
  uint64_t left = 0;
  (void)argc;
  int rc = dvx_table_find_argument(conn, "delta_settle", argv[0], &t);
  if (rc == SQLITE_OK) rc = dvx_table_write(t, settle_step, &left);
  if (rc != SQLITE_OK) {
    dvx_give_context(conn, ctx, rc);
  } else {
    sqlite3_result_int64(ctx, (sqlite3_int64)left);
  }
}

int dvx_settle_register(dvx_conn *conn) {
  return dvx_conn_function(conn, "delta_settle", 1, SQLITE_UTF8 | SQLITE_DIRECTONLY, delta_settle);
}
