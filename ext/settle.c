/*
 * settle.c: bringing %_head, %_code and the graph up to the log, in bulk and in vid order.
 *
 * Derived data is written lazily: a delta by itself costs one page of the log; thousands of deltas later their rows'
 * heads and codes share page writes. `settled` in %_meta says up to which record both tables are right; the log from
 * there on is scanned when a table is opened, so it is kept short: a commit that finds it longer than a limit settles a
 * bounded number of records, more than it added itself.
 *
 * Every row with a record in the range is written as it is now, not as it was at the end of the range: its head may be
 * ahead of `settled`, which a scan notices and skips.
 */
#include "ext_int.h"

typedef struct settle_list {
  uint32_t *vids;
  size_t n;
  size_t capacity;
  uint64_t n_bytes; /* of the records, about */
} settle_list;

static int settle_note(settle_list *l, uint32_t vid, size_t n_bytes) {
  if (l->n == l->capacity) {
    size_t capacity = l->capacity ? l->capacity * 2 : 1024;
    uint32_t *grown = sqlite3_realloc64(l->vids, capacity * sizeof *grown);
    if (!grown) return SQLITE_NOMEM;
    l->vids = grown;
    l->capacity = capacity;
  }
  l->n_bytes += n_bytes;
  l->vids[l->n++] = vid;
  return SQLITE_OK;
}

static int settle_note_record(void *ctx, const dv_record *rec) {
  return settle_note(ctx, rec->vid, rec->delta.n_payload + rec->n_full + rec->n_fields + 8);
}

/* Notes the rows of at most max_records records behind s->position (more, to the next seal), and moves it behind them.
 * What this transaction has written itself is known without reading it again. */
static int settle_scan(dvx_table *t, dvx_settled *s, size_t max_records, settle_list *l) {
  const dvx_overlay *o = &t->overlay;
  const dvx_position *before = &t->position; /* the end of the log without this transaction */
  bool is_pending = o->is_open && o->n_pending > 0 && o->n_written == o->n_pending && !o->is_renamed;
  if (!is_pending || max_records < o->written.seq - s->position.seq) {
    return dvx_log_scan(t, &s->position, max_records, settle_note_record, l);
  }
  int rc = SQLITE_OK;
  if (s->position.pack != before->pack || s->position.end != before->end || s->position.crc != before->crc) {
    size_t n_before = s->position.seq < before->seq ? (size_t)(before->seq - s->position.seq) : 0;
    rc = dvx_log_scan(t, &s->position, n_before, settle_note_record, l);
  }
  size_t known = s->position.seq >= o->first_seq ? (size_t)(s->position.seq + 1 - o->first_seq) : 0;
  for (size_t i = known; rc == SQLITE_OK && i < o->n_pending; i++) {
    rc = settle_note(l, o->pending[i].vid, o->pending[i].n_bytes);
  }
  if (rc == SQLITE_OK) s->position = o->written;
  return rc;
}

/* Sorts by bytes (radix), then drops repeats. */
static int settle_sort(settle_list *l) {
  if (l->n < 2) return SQLITE_OK;
  uint32_t *other = sqlite3_malloc64(l->n * sizeof *other);
  if (!other) return SQLITE_NOMEM;
  uint32_t *from = l->vids, *to = other;
  for (unsigned shift = 0; shift < 32; shift += 8) {
    size_t count[257] = {0};
    for (size_t i = 0; i < l->n; i++) count[(from[i] >> shift & 255) + 1]++;
    for (size_t i = 0; i < 256; i++) count[i + 1] += count[i];
    for (size_t i = 0; i < l->n; i++) to[count[from[i] >> shift & 255]++] = from[i];
    uint32_t *swap = from;
    from = to;
    to = swap;
  }
  sqlite3_free(other); /* four passes: the result is back in l->vids */
  size_t n = 1;
  for (size_t i = 1; i < l->n; i++) {
    if (l->vids[i] != l->vids[n - 1]) l->vids[n++] = l->vids[i];
  }
  l->n = n;
  return SQLITE_OK;
}

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

static int settle_heads(dvx_table *t, const settle_list *l, dvx_settled *s, uint8_t *block) {
  const dvx_geometry *g = &t->geometry;
  bool is_there;
  int rc = SQLITE_OK;
  for (size_t i = 0; rc == SQLITE_OK && i < l->n;) {
    int64_t number = (l->vids[i] - 1) / (int64_t)g->head_rows;
    rc = settle_block_get(t, DVX_SQL_HEAD_GET, number, block, g->head_bytes, &is_there);
    for (; rc == SQLITE_OK && i < l->n && (l->vids[i] - 1) / (int64_t)g->head_rows == number; i++) {
      uint8_t *at = block + 8 * ((l->vids[i] - 1) % g->head_rows);
      uint64_t word = dvx_row_word(t, l->vids[i]);
      s->checksum += dvx_word_mix(l->vids[i], word) - dvx_word_mix(l->vids[i], dv_load_u64(at));
      dv_store_u64(at, word);
      if (l->vids[i] > s->n_rows) s->n_rows = l->vids[i];
    }
    if (rc == SQLITE_OK) rc = settle_block_put(t, DVX_SQL_HEAD_PUT, number, block, g->head_bytes);
  }
  return rc;
}

/* *change: by how much the sum of the blocks' checksums does. */
static int settle_codes(dvx_table *t, const settle_list *l, uint8_t *block, uint32_t *change) {
  const dvx_geometry *g = &t->geometry;
  const size_t n = t->config->dimensions;
  bool is_there;
  int rc = SQLITE_OK;
  for (size_t i = 0; rc == SQLITE_OK && i < l->n;) {
    int64_t number = (l->vids[i] - 1) / (int64_t)g->code_rows;
    rc = settle_block_get(t, DVX_SQL_CODE_GET, number, block, g->code_bytes, &is_there);
    if (rc == SQLITE_OK && is_there) *change -= dvx_block_check(number, block, g->code_bytes);
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
    *change += dvx_block_check(number, block, g->code_bytes);
  }
  return rc;
}

/* The log has grown past the limit: from now on codes are stored, so every row's must be. */
static int settle_all_codes(dvx_table *t, uint8_t *block, uint32_t *change) {
  settle_list all = {0};
  uint32_t n = dvx_table_last_vid(t);
  all.vids = sqlite3_malloc64(((size_t)n + 1) * sizeof *all.vids);
  if (!all.vids) return SQLITE_NOMEM;
  for (uint32_t vid = 1; vid <= n; vid++) {
    if (dvx_row_word(t, vid)) all.vids[all.n++] = vid;
  }
  int rc = dvx_vectors_load_if_cold(t); /* once through the log, not once along each row's chain */
  if (rc == SQLITE_OK) rc = settle_codes(t, &all, block, change);
  sqlite3_free(all.vids);
  return rc;
}

static int settle_see_stored(dvx_table *t) {
  if (t->is_settled_known) return SQLITE_OK;
  int rc = dvx_settled_read(t, &t->settled);
  if (rc != SQLITE_OK) return rc;
  t->is_settled_known = true;
  if (t->settled.is_wrong) t->is_settle_wrong = true;
  return SQLITE_OK;
}

int dvx_table_settle(dvx_table *t, size_t max_records) {
  const dvx_geometry *g = &t->geometry;
  settle_list list = {0};
  uint32_t codes_change = 0;
  int rc = settle_see_stored(t);
  if (rc != SQLITE_OK) return rc;
  rc = dvx_graph_prepare(t);
  if (rc != SQLITE_OK) return rc;
  dvx_settled s = t->settled;
  if (!t->is_settle_wrong) rc = settle_scan(t, &s, max_records, &list);
  if (rc == SQLITE_NOTFOUND || (rc == SQLITE_OK && t->is_settle_wrong)) {
    /* What %_meta says does not fit the log: settle from the beginning, over whatever the tables hold. */
    memset(&s, 0, sizeof s);
    s.position.max_time = INT64_MIN;
    list.n = 0;
    list.n_bytes = 0;
    sqlite3_stmt *stmt = NULL;
    rc = dvx_shadow_stmt(t, DVX_SQL_DROP_DERIVED_HEAD, &stmt);
    if (rc == SQLITE_OK) rc = dvx_shadow_run(t, stmt);
    if (rc == SQLITE_OK) rc = dvx_shadow_stmt(t, DVX_SQL_DROP_DERIVED_CODE, &stmt);
    if (rc == SQLITE_OK) rc = dvx_shadow_run(t, stmt);
    if (rc == SQLITE_OK) rc = dvx_checks_forget_codes(t);
    if (rc == SQLITE_OK) rc = dvx_log_scan(t, &s.position, SIZE_MAX, settle_note_record, &list);
  }
  if (rc == SQLITE_OK) rc = settle_sort(&list);
  uint8_t *block = NULL;
  if (rc == SQLITE_OK && list.n) {
    block = sqlite3_malloc64(g->head_bytes > g->code_bytes ? g->head_bytes : g->code_bytes);
    if (!block) rc = SQLITE_NOMEM;
    t->overlay.is_settled_touched = true;
    if (rc == SQLITE_OK) rc = settle_heads(t, &list, &s, block);
    s.log_bytes += list.n_bytes;
    if (s.has_codes) {
      if (rc == SQLITE_OK) rc = settle_codes(t, &list, block, &codes_change);
    } else if (s.log_bytes > DVX_CODES_FROM_BYTES) {
      s.has_codes = true;
      if (rc == SQLITE_OK) rc = settle_all_codes(t, block, &codes_change);
    }
    if (rc != SQLITE_OK) dvx_table_poison(t, "writing derived data failed half-way");
  }
  sqlite3_free(block);
  if (rc == SQLITE_OK) {
    t->overlay.is_settled_touched = true;
    rc = dvx_graph_settle(t, list.vids, list.n, max_records == SIZE_MAX, &s.is_graph_due);
    s.has_graph = t->graph.is_there;
    bool is_other = s.is_graph_due != t->settled.is_graph_due || s.has_graph != t->settled.has_graph;
    if (rc == SQLITE_OK && (list.n || is_other)) rc = dvx_settled_write(t, &s, codes_change);
    if (rc != SQLITE_OK) dvx_table_poison(t, "writing the graph failed half-way");
  }
  if (rc == SQLITE_OK) {
    t->settled = s;
    if (list.n) t->is_settle_wrong = false;
  }
  sqlite3_free(list.vids);
  return rc;
}

/* At commit: only when more than `limit` records wait, or fewer and many rows wait for the graph. */
int dvx_settle_some(dvx_table *t, uint64_t limit, size_t max_records) {
  int rc = settle_see_stored(t);
  if (rc != SQLITE_OK) return rc;
  uint64_t n_waiting = t->overlay.written.seq - t->settled.position.seq;
  /* New rows are fresh, and searches scan fresh ones: so they settle earlier than changes do, which may be small. And
   * while more rows are known to wait for the graph than one commit links, half as many records as that are enough: so
   * fresh rows stay few though every record may make one. All of this is told by the file alone. */
  uint32_t n_rows = dvx_table_last_vid(t), n_new = n_rows > t->settled.n_rows ? n_rows - t->settled.n_rows : 0;
  bool is_graph_due = t->settled.has_graph &&
                      (n_new > DVX_SETTLE_STEP || (t->settled.is_graph_due && n_waiting > DVX_LINKS_A_COMMIT / 2));
  if (n_waiting <= limit && !t->is_settle_wrong && !is_graph_due) return SQLITE_OK;
  return dvx_table_settle(t, max_records);
}

/* ---- delta_settle(table) ----------------------------------------------------------------------------------------- */

/* One step of what commits do in passing; what is left goes to *arg. */
static int settle_step(dvx_table *t, void *arg) {
  int rc = dvx_table_flush(t);
  if (rc == SQLITE_OK) rc = dvx_table_settle(t, DVX_SETTLE_STEP);
  if (rc == SQLITE_OK)
    *(uint64_t *)arg = dvx_history_last_seq(t) - t->settled.position.seq + (t->settled.is_graph_due ? 1 : 0);
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
