/*
 * graph.c: the graph of a table (core/dv_hnsw.h) in memory and in %_graph.
 *
 *   CREATE TABLE %_graph(block INTEGER PRIMARY KEY, links BLOB);
 *
 *   block b >= 0       rows vid b*graph_rows+1 ..: for each the ids of its neighbours on the ground, 2m u32 (a row's id is
 *                      vid - 1; unused: ffffffff), and a sketch of where it was when it was linked (core/dv_sketch.h)
 *   block -1-j         lists above the ground, in order of their numbers: row u32, m ids u32
 *   block -2^40-j      bits of rows vid j*8*graph_bytes+1 ..: 1: the row is fresh
 *   %_meta 'graph'     64 bytes, see graph_write_state; 'graph_stamp': a random number, another one at each change
 *
 * All blocks have graph_bytes bytes. m is the table's hnsw_m.
 *
 * A row is FRESH when the graph does not answer for it: it is not linked yet, it has moved too far since it was linked,
 * or it was deleted and is linked still. A search scans the fresh rows that are live, and asks the graph for the others.
 * So nothing has to be linked at once: a commit that settles links some rows, 'optimize' all. Small moves need no
 * work at all: the code follows the row (mirror.c), the links stay. The sketch tells a small move from a large one.
 *
 * Only dvx_graph_settle() changes links, inside a write transaction, and writes what it changed. What memory holds
 * is what the file says; a transaction that does not commit makes memory forget it (txn.c). Lists are read as searches
 * come by them.
 *
 * Everything that comes from the file is checked before it is used as an id. What does not hold together makes the graph
 * `damaged`: searches scan, and 'optimize' or 'rebuild' makes a new one.
 */
#include "ext_int.h"

#include <math.h>

#define GRAPH_STATE_BYTES 64u
#define GRAPH_GROWTH_UNIT 512.0 /* growth is kept in these, less 1 */
#define GRAPH_VERSION 1u
#define GRAPH_SEED 0x64656c7461u /* any number: the same log is to give the same graph */
#define GRAPH_FRESH_BLOCKS (-((int64_t)1 << 40))
#define GRAPH_CHANGED ((uint32_t)1 << 31) /* the bit beside n_unwalked for is_changed */
#define GRAPH_WALK_PART 8u /* a walk over the graph when so large a part of it was linked or unlinked */
#define GRAPH_WALK_ROWS 4096u /* ... and always when there are no more rows than this */
#define GRAPH_CHUNK 512u /* rows linked between two looks at sqlite3_interrupt() */

/* A row that has moved by more than this part of its length is linked anew. Below 0.25 recall does not get better any
 * more, and there is more to link; at 0.3 it falls by a point. */
#define GRAPH_DRIFT 0.25f

static inline bool graph_bit(const uint64_t *bits, size_t i) { return bits[i >> 6] >> (i & 63) & 1; }
static inline void graph_set(uint64_t *bits, size_t i) { bits[i >> 6] |= (uint64_t)1 << (i & 63); }

static void graph_set_fresh(dvx_graph *gr, size_t i, bool is_fresh) {
  if (graph_bit(gr->fresh, i) == is_fresh) return;
  gr->fresh[i >> 6] ^= (uint64_t)1 << (i & 63);
  gr->n_fresh += is_fresh ? 1 : (size_t)-1;
}

static inline size_t graph_entry_bytes(const dvx_graph *gr) { return (size_t)8 * gr->hnsw.m + DV_SKETCH_BYTES; }
static inline size_t graph_upper_bytes(const dvx_graph *gr) { return 4 + (size_t)4 * gr->hnsw.m; }

void dvx_graph_free(dvx_table *t) {
  dvx_graph *gr = &t->graph;
  if (gr->hnsw.alloc) dv_hnsw_free(&gr->hnsw);
  if (gr->scratch.alloc) dv_hnsw_scratch_free(&gr->scratch);
  dvx_pages_free(&gr->pages);
  sqlite3_free(gr->fresh);
  sqlite3_free(gr->fresh_stored);
  sqlite3_free(gr->sketches);
  sqlite3_free(gr->has_sketch);
  sqlite3_free(gr->list);
  sqlite3_free(gr->block_checks);
  memset(gr, 0, sizeof *gr);
}

size_t dvx_graph_memory(const dvx_table *t) {
  const dvx_graph *gr = &t->graph;
  const dv_hnsw *g = &gr->hnsw;
  return dvx_pages_bytes(&gr->pages) + g->capacity * sizeof *g->upper_at + g->capacity / 8 +
         g->upper_capacity * graph_upper_bytes(gr) + gr->capacity / 4 + gr->n_sketches * DV_SKETCH_BYTES +
         gr->list_capacity * sizeof *gr->list + gr->scratch.n_visited_words * 8 +
         gr->scratch.pool_capacity * sizeof *gr->scratch.pool;
}

int dvx_graph_reserve(dvx_table *t, size_t n_rows) {
  dvx_graph *gr = &t->graph;
  if (!gr->is_there) return SQLITE_OK;
  if (n_rows > gr->capacity) {
    size_t n = (gr->capacity + gr->capacity / 2 > n_rows ? gr->capacity + gr->capacity / 2 : n_rows) + 63;
    n &= ~(size_t)63;
    int rc = dvx_pages_reserve(&gr->pages, n);
    if (rc == SQLITE_OK) rc = dvx_grow(&gr->fresh, gr->capacity / 8, n / 8);
    if (rc == SQLITE_OK) rc = dvx_grow(&gr->fresh_stored, gr->capacity / 8, n / 8);
    if (rc != SQLITE_OK) return rc;
    gr->capacity = n;
  }
  uint32_t n_before = gr->hnsw.n;
  if (dv_hnsw_reserve(&gr->hnsw, (uint32_t)n_rows) != DV_OK) return SQLITE_NOMEM;
  gr->pages.n_array_rows = gr->hnsw.n; /* lists behind are empty already, and must stay so */
  /* Rows behind the stored ones have no list to be read. */
  for (size_t i = n_before; i < gr->hnsw.n; i++) dvx_pages_put(&gr->pages, i);
  return SQLITE_OK;
}

static dv_status graph_poll(void *ctx) {
  dvx_table *t = ctx;
  t->graph.rc = dvx_is_interrupted(t->conn) ? dvx_fail(t->conn, t, SQLITE_INTERRUPT, "it was interrupted") : SQLITE_OK;
  return t->graph.rc == SQLITE_OK ? DV_OK : DV_CORRUPT;
}

/* The lists of the first n_stored rows will be read. */
static int graph_begin(dvx_table *t, uint32_t n_stored) {
  dvx_graph *gr = &t->graph;
  uint32_t n_rows = (uint32_t)(t->mirror.n > n_stored ? t->mirror.n : n_stored);
  dv_hnsw_init(&gr->hnsw, (uint32_t)t->config->hnsw_m, GRAPH_SEED, &dvx_alloc);
  gr->hnsw.poll = graph_poll;
  gr->hnsw.poll_ctx = t;
  dv_hnsw_scratch_init(&gr->scratch, &dvx_alloc);
  dvx_pages_init(&gr->pages, (size_t)8 * gr->hnsw.m, 1);
  gr->is_there = true;
  if (n_stored > 0 && dv_hnsw_reserve_unread(&gr->hnsw, n_rows, n_stored) != DV_OK) return SQLITE_NOMEM;
  int rc = dvx_graph_reserve(t, n_rows ? n_rows : 1);
  for (size_t i = n_stored; rc == SQLITE_OK && i < gr->hnsw.n; i++) dvx_pages_put(&gr->pages, i);
  return rc;
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

static void graph_damaged(dvx_table *t, const char *damage, int64_t at) {
  t->graph.is_there = false;
  t->graph.is_damaged = true;
  t->graph.damage = damage;
  t->graph.damage_at = at;
}

static bool graph_is_touched(const dvx_table *t, size_t row) {
  const dvx_touched *p = dvx_txn_touched(t, (uint32_t)row + 1);
  return p && p->last;
}

/* A row that lives, and for which nothing came since it was settled. */
static bool graph_is_settled(const dvx_table *t, size_t row) {
  return graph_bit(t->mirror.live, row) && !graph_bit(t->mirror.stale, row) && !graph_is_touched(t, row);
}

/* Takes the lists of a block that are not in memory yet. False: it cannot be right. */
static bool graph_take_block(dvx_table *t, int64_t block, const uint8_t *bytes, size_t n_bytes) {
  dvx_graph *gr = &t->graph;
  dv_hnsw *g = &gr->hnsw;
  const dvx_geometry *geo = &t->geometry;
  const size_t room = (size_t)2 * g->m, first = (size_t)block * geo->graph_rows;
  if (bytes && n_bytes != geo->graph_bytes) return false;
  for (size_t j = 0; j < geo->graph_rows && first + j < g->n; j++) {
    size_t row = first + j;
    if (dvx_pages_has(&gr->pages, row)) continue;
    uint32_t *list = g->ground + row * room;
    const uint8_t *at = bytes ? bytes + j * graph_entry_bytes(gr) : NULL;
    size_t n = 0;
    for (; at && n < room; n++) {
      uint32_t id = dv_load_u32(at + 4 * n);
      if (id == DV_HNSW_NONE) break;
      if (id >= g->n || id == row) return false;
      list[n] = id;
    }
    /* A row that is not linked must be known to be fresh, or searches would miss it; and one that lives on higher levels
     * must have lists there. */
    if (n == 0 && row != g->entry && graph_is_settled(t, row) && !graph_bit(gr->fresh, row)) return false;
    if ((n > 0 || row == g->entry) && g->upper_at[row] == DV_HNSW_NONE && dv_hnsw_level(g, (uint32_t)row) > 0)
      return false;
    for (; n < room; n++) list[n] = DV_HNSW_NONE;
    dvx_pages_put(&gr->pages, row);
  }
  return true;
}

static int graph_need_list(dvx_table *t, size_t row) {
  dvx_graph *gr = &t->graph;
  sqlite3_stmt *stmt = NULL;
  if (dvx_pages_has(&gr->pages, row) || dvx_pages_wake(&gr->pages, row)) return SQLITE_OK;
  int64_t block = (int64_t)(row / t->geometry.graph_rows);
  int rc = dvx_shadow_stmt(t, DVX_SQL_GRAPH_GET, &stmt);
  if (rc != SQLITE_OK) return rc;
  sqlite3_bind_int64(stmt, 1, block);
  const uint8_t *bytes = sqlite3_step(stmt) == SQLITE_ROW ? sqlite3_column_blob(stmt, 0) : NULL;
  bool is_sound = graph_take_block(t, block, bytes, bytes ? (size_t)sqlite3_column_bytes(stmt, 0) : 0);
  rc = sqlite3_reset(stmt);
  if (rc != SQLITE_OK) return dvx_fail_sqlite(t->conn, t, rc);
  if (!is_sound) graph_damaged(t, "block %i cannot be right", block);
  return SQLITE_OK;
}

static int graph_need_all(dvx_table *t) {
  dvx_graph *gr = &t->graph;
  int rc = dvx_mirror_need_all(t);
  if (rc != SQLITE_OK || gr->is_whole) return rc;
  for (size_t row = 0; rc == SQLITE_OK && gr->is_there && row < gr->hnsw.n; row++) {
    rc = graph_need_list(t, row);
    if (rc == SQLITE_OK && !dvx_pages_has(&t->mirror.pages, row) && dvx_graph_leads_to(t, row))
      rc = dvx_mirror_need_code(t, row); /* of a deleted one */
  }
  gr->is_whole = rc == SQLITE_OK && gr->is_there;
  return rc;
}

/* Calls take(t, number, bytes) for the blocks first .. last, in order, that have the right size. */
static int graph_read_blocks(dvx_table *t, int64_t first, int64_t last,
                             bool (*take)(dvx_table *t, int64_t block, const uint8_t *bytes), bool *is_sound) {
  sqlite3_stmt *stmt = NULL;
  int rc = dvx_shadow_stmt(t, DVX_SQL_GRAPH_RANGE, &stmt);
  if (rc != SQLITE_OK) return rc;
  sqlite3_bind_int64(stmt, 1, first);
  sqlite3_bind_int64(stmt, 2, last);
  while (*is_sound && sqlite3_step(stmt) == SQLITE_ROW) {
    const uint8_t *bytes = sqlite3_column_blob(stmt, 1);
    *is_sound = bytes && (size_t)sqlite3_column_bytes(stmt, 1) == t->geometry.graph_bytes &&
                take(t, sqlite3_column_int64(stmt, 0), bytes);
  }
  rc = sqlite3_reset(stmt);
  return rc == SQLITE_OK ? SQLITE_OK : dvx_fail_sqlite(t->conn, t, rc);
}

static bool graph_take_fresh(dvx_table *t, int64_t block, const uint8_t *bytes) {
  dvx_graph *gr = &t->graph;
  size_t first = (size_t)(GRAPH_FRESH_BLOCKS - block) * 8 * t->geometry.graph_bytes;
  for (size_t j = 0; j < 8 * t->geometry.graph_bytes && first + j < gr->hnsw.n; j++) {
    if (j % 8 == 0 && bytes[j / 8] == 0) j += 7; /* of a table that was optimized, all */
    if ((bytes[j / 8] >> (j % 8) & 1) == 0) continue;
    graph_set_fresh(gr, first + j, true);
    graph_set(gr->fresh_stored, first + j);
  }
  return true;
}

/* The lists of a block, from the last one (blocks come in rising order, and lists are numbered downwards). */
static bool graph_take_upper(dvx_table *t, int64_t block, const uint8_t *bytes) {
  dv_hnsw *g = &t->graph.hnsw;
  const size_t n_bytes = graph_upper_bytes(&t->graph), n_a_block = t->geometry.graph_bytes / n_bytes;
  for (size_t j = 0, i = (size_t)(-1 - block) * n_a_block; j < n_a_block && i < g->n_upper; j++, i++) {
    g->upper_row[i] = dv_load_u32(bytes + j * n_bytes);
    for (size_t l = 0; l < g->m; l++) g->upper[i * g->m + l] = dv_load_u32(bytes + j * n_bytes + 4 + 4 * l);
  }
  return true;
}

/* Do the lists above the ground belong to rows of their levels, and lead to such? */
static bool graph_upper_is_sound(dv_hnsw *g) {
  for (uint32_t i = 0; i < g->n_upper;) {
    uint32_t row = g->upper_row[i], level = row < g->n ? dv_hnsw_level(g, row) : 0;
    if (level == 0 || level > g->n_upper - i || g->upper_at[row] != DV_HNSW_NONE) return false;
    g->upper_at[row] = i;
    for (uint32_t l = 0; l < level; l++, i++)
      if (g->upper_row[i] != row) return false;
  }
  for (uint32_t i = 0; i < g->n_upper; i++) {
    uint32_t level = i - g->upper_at[g->upper_row[i]] + 1;
    for (size_t l = 0; l < g->m; l++) {
      uint32_t id = g->upper[(size_t)i * g->m + l];
      if (id == DV_HNSW_NONE) {
        while (l < g->m) g->upper[(size_t)i * g->m + l++] = DV_HNSW_NONE;
        break;
      }
      /* Who has lists up there has one on the first level. */
      if (id >= g->n || g->upper_at[id] == DV_HNSW_NONE || (level > 1 && dv_hnsw_level(g, id) < level)) return false;
    }
  }
  if (g->entry == DV_HNSW_NONE) return g->n_linked == 0;
  return g->entry < g->n && dv_hnsw_level(g, g->entry) == g->top &&
         (g->top == 0 || g->upper_at[g->entry] != DV_HNSW_NONE);
}

static uint32_t graph_state_check(const uint8_t *b, int64_t stamp) {
  return dvx_block_check(stamp, b, GRAPH_STATE_BYTES);
}

/* If anything has changed since the graph was stored. */
static int graph_write_state(dvx_table *t, int64_t stamp) {
  dvx_graph *gr = &t->graph;
  const dv_hnsw *g = &gr->hnsw;
  uint8_t b[GRAPH_STATE_BYTES] = {0}, stored[GRAPH_STATE_BYTES];
  bool is_there;
  uint32_t last = dvx_table_last_vid(t); /* there may be room for more, of a transaction that was rolled back */
  dv_store_u32(b, GRAPH_VERSION);
  dv_store_u32(b + 4, g->m);
  dv_store_u64(b + 8, g->seed);
  dv_store_u32(b + 16, g->n < last ? g->n : last);
  dv_store_u32(b + 20, g->n_linked);
  dv_store_u32(b + 24, g->entry);
  dv_store_u32(b + 28, g->top);
  dv_store_u32(b + 32, g->n_upper);
  memcpy(b + 36, gr->growth, sizeof gr->growth);
  for (size_t i = 0; i < DVX_CURVE_POINTS; i++) dv_store_u16(b + 44 + 2 * i, gr->curve_stored[i]);
  uint32_t n_unwalked = gr->n_unwalked < GRAPH_CHANGED ? (uint32_t)gr->n_unwalked : GRAPH_CHANGED - 1;
  dv_store_u32(b + 40, n_unwalked | (gr->is_changed ? GRAPH_CHANGED : 0));
  dvx_checks checks;
  bool has_checks;
  int rc = dvx_meta_get_blob(t, "graph", stored, sizeof stored, &is_there);
  if (rc != SQLITE_OK || (!gr->is_written && is_there && memcmp(b, stored, sizeof b) == 0)) return rc;
  gr->is_written = true;
  rc = dvx_checks_read(t, &checks, &has_checks);
  checks.graph = graph_state_check(b, stamp);
  checks.links += gr->links_change;
  if (rc == SQLITE_OK && has_checks) rc = dvx_checks_write(t, &checks);
  if (rc == SQLITE_OK) rc = dvx_meta_put(t, "graph_stamp", stamp);
  return rc == SQLITE_OK ? dvx_meta_put_blob(t, "graph", b, sizeof b) : rc;
}

/* No graph of n rows has more lists above the ground: how many there are follows from the rows' numbers. Of many rows the
 * mean, n/(m-1), is enough to tell what cannot be. */
static uint64_t graph_most_upper(const dv_hnsw *g, uint32_t n) {
  uint64_t n_lists = 0;
  if (n >= GRAPH_WALK_ROWS && g->m > 1) return (uint64_t)n * 2 / (g->m - 1) + 1024;
  for (uint32_t row = 0; row < n; row++) n_lists += dv_hnsw_level(g, row);
  return n_lists;
}

/* Reads everything but the lists on the ground. */
static int graph_load(dvx_table *t, int64_t stamp) {
  dvx_graph *gr = &t->graph;
  dv_hnsw *g = &gr->hnsw;
  uint8_t b[GRAPH_STATE_BYTES] = {0};
  bool is_stored = false, is_sound = true;
  int rc = dvx_meta_get_blob(t, "graph", b, sizeof b, &is_stored);
  if (rc != SQLITE_OK) return rc;
  if (!is_stored) {
    graph_damaged(t, "its beginning is not there", 0);
    return SQLITE_OK;
  }
  dvx_checks checks;
  bool has_checks;
  rc = dvx_checks_read(t, &checks, &has_checks);
  if (rc != SQLITE_OK) return rc;
  uint32_t n = dv_load_u32(b + 16), n_upper = dv_load_u32(b + 32), last = dvx_table_last_vid(t);
  bool is_curve_sound = true;
  for (size_t i = 0; i < DVX_CURVE_POINTS; i++) is_curve_sound &= dv_load_u16(b + 44 + 2 * i) <= 10000;
  if (dv_load_u32(b) != GRAPH_VERSION || dv_load_u32(b + 4) != (uint32_t)t->config->hnsw_m ||
      dv_load_u64(b + 8) != GRAPH_SEED || n > last || !is_curve_sound) {
    graph_damaged(t, "it does not begin as a graph of this table does", 0);
    return SQLITE_OK;
  }
  rc = graph_begin(t, n);
  if (rc == SQLITE_OK) rc = dvx_mirror_reserve(t, n); /* rows of this transaction among them */
  if (rc != SQLITE_OK) return rc;
  if (t->mirror.n < n) {
    t->mirror.n = n;
    t->mirror.is_whole = false;
  }
  memcpy(gr->growth, b + 36, sizeof gr->growth);
  gr->n_unwalked = dv_load_u32(b + 40) & (GRAPH_CHANGED - 1);
  gr->is_changed = (dv_load_u32(b + 40) & GRAPH_CHANGED) != 0;
  for (size_t i = 0; i < DVX_CURVE_POINTS; i++) gr->curve_stored[i] = dv_load_u16(b + 44 + 2 * i);
  memcpy(gr->curve, gr->curve_stored, sizeof gr->curve);
  g->n_linked = dv_load_u32(b + 20);
  g->entry = dv_load_u32(b + 24);
  g->top = dv_load_u32(b + 28);
  uint64_t n_expected = graph_most_upper(g, n);
  if (n_upper > n_expected || dv_hnsw_reserve_upper(g, n_upper) != DV_OK) {
    graph_damaged(t, "it claims %i lists above the ground", n_upper);
    return n_upper > n_expected ? SQLITE_OK : SQLITE_NOMEM;
  }
  g->n_upper = n_upper;
  rc = graph_read_blocks(t, GRAPH_FRESH_BLOCKS + 1, -1, graph_take_upper, &is_sound);
  if (rc == SQLITE_OK)
    rc = graph_read_blocks(t, 2 * GRAPH_FRESH_BLOCKS, GRAPH_FRESH_BLOCKS, graph_take_fresh, &is_sound);
  if (rc != SQLITE_OK) return rc;
  if (!is_sound || !graph_upper_is_sound(g) || g->n_linked > n) {
    graph_damaged(t, "what stands above the ground does not hold together", 0);
    return SQLITE_OK;
  }
  if (has_checks && checks.graph != graph_state_check(b, stamp)) {
    graph_damaged(t, "its beginning does not have its checksum", 0);
    return SQLITE_OK;
  }
  for (size_t i = n; i < t->rows.n; i++) graph_set_fresh(gr, i, graph_bit(t->mirror.live, i));
  /* Rows with later records may have moved, come or gone. */
  dvx_settled s;
  rc = dvx_settled_read(t, &s);
  if (rc == SQLITE_OK) dvx_mirror_stale_since(t, t->is_settle_wrong ? 0 : s.position.seq);
  return rc;
}

int dvx_graph_ready(dvx_table *t) {
  dvx_graph *gr = &t->graph;
  int64_t stamp = 0;
  if (gr->is_loaded && gr->checked_at == t->n_looks) return SQLITE_OK;
  int rc = dvx_meta_get(t, "graph_stamp", 0, &stamp);
  if (rc != SQLITE_OK) return rc;
  if (!gr->is_loaded || gr->stamp != stamp) {
    dvx_graph_free(t);
    if (stamp != 0 && t->config->index != DVX_INDEX_FLAT) rc = graph_load(t, stamp);
    if (rc != SQLITE_OK) {
      dvx_graph_free(t);
      return rc;
    }
    gr->is_loaded = true;
    gr->stamp = stamp;
  }
  gr->checked_at = t->n_looks;
  return SQLITE_OK;
}

/* ---- what searches see ------------------------------------------------------------------------------------------- */

static dv_status graph_page(dvx_table *t, int rc) {
  t->graph.rc = rc;
  if (rc != SQLITE_OK) return rc == SQLITE_NOMEM ? DV_NOMEM : DV_CORRUPT;
  return t->graph.is_there ? DV_OK : DV_CORRUPT;
}

static dv_status graph_page_code(void *ctx, uint32_t row) { return graph_page(ctx, dvx_mirror_need_code(ctx, row)); }
static dv_status graph_page_list(void *ctx, uint32_t row) { return graph_page(ctx, graph_need_list(ctx, row)); }

void dvx_graph_space(dvx_table *t, dv_hnsw_space *space, dv_hnsw_pager *pager) {
  const dvx_mirror *m = &t->mirror;
  *pager = (dv_hnsw_pager){m->pages.has, t->graph.pages.has, graph_page_code, graph_page_list, t};
  *space = (dv_hnsw_space){.kernels = t->conn->kernels,
                           .metric = dvx_graph_metric(t->config->metric),
                           .n = t->config->dimensions,
                           .codes = m->codes,
                           .rows = m->code_rows,
                           .pager = m->is_whole && t->graph.is_whole ? NULL : pager};
  t->graph.rc = SQLITE_OK;
}

/* ---- which rows are fresh ---------------------------------------------------------------------------------------- */

/* The sketch that was stored with the row's links. Those of a block are kept once one of them was asked for. */
static int graph_stored_sketch(dvx_table *t, size_t row, const uint8_t **out) {
  dvx_graph *gr = &t->graph;
  const dvx_geometry *geo = &t->geometry;
  if (gr->n_sketches < gr->capacity) {
    uint8_t *p = sqlite3_realloc64(gr->sketches, gr->capacity * DV_SKETCH_BYTES);
    if (!p) return SQLITE_NOMEM;
    gr->sketches = p;
    int rc = dvx_grow(&gr->has_sketch, gr->n_sketches / 8, gr->capacity / 8);
    if (rc != SQLITE_OK) return rc;
    gr->n_sketches = gr->capacity;
  }
  *out = gr->sketches + row * DV_SKETCH_BYTES;
  if (graph_bit(gr->has_sketch, row)) return SQLITE_OK;
  sqlite3_stmt *stmt = NULL;
  int rc = dvx_shadow_stmt(t, DVX_SQL_GRAPH_GET, &stmt);
  if (rc != SQLITE_OK) return rc;
  size_t first = row / geo->graph_rows * geo->graph_rows;
  sqlite3_bind_int64(stmt, 1, (int64_t)(first / geo->graph_rows));
  const uint8_t *bytes = sqlite3_step(stmt) == SQLITE_ROW ? sqlite3_column_blob(stmt, 0) : NULL;
  bool is_sound = bytes && (size_t)sqlite3_column_bytes(stmt, 0) == geo->graph_bytes;
  for (size_t j = 0; j < geo->graph_rows && first + j < gr->n_sketches; j++) {
    uint8_t *at = gr->sketches + (first + j) * DV_SKETCH_BYTES;
    if (graph_bit(gr->has_sketch, first + j)) continue;
    if (is_sound) {
      memcpy(at, bytes + j * graph_entry_bytes(gr) + (size_t)8 * gr->hnsw.m, DV_SKETCH_BYTES);
    } else {
      memset(at, 0, DV_SKETCH_BYTES);
    }
    graph_set(gr->has_sketch, first + j);
  }
  rc = sqlite3_reset(stmt);
  return rc == SQLITE_OK ? SQLITE_OK : dvx_fail_sqlite(t->conn, t, rc);
}

static int graph_judge_row(dvx_table *t, uint32_t row, bool is_alive) {
  dvx_graph *gr = &t->graph;
  const dvx_mirror *m = &t->mirror;
  int rc = graph_need_list(t, row);
  if (rc != SQLITE_OK || !gr->is_there) return rc;
  bool is_linked = dv_hnsw_is_linked(&gr->hnsw, row), is_fresh = is_alive != is_linked;
  /* It may be fresh because no links lead to it: then it is until it is linked anew. What the file does not say is judged
   * again, or it would matter whether somebody searched in between. */
  if (is_linked && graph_bit(gr->fresh_stored, row)) {
    graph_set_fresh(gr, row, true);
    return SQLITE_OK;
  }
  if (is_alive && is_linked) {
    const uint8_t *then = NULL;
    uint8_t now[DV_SKETCH_BYTES];
    rc = graph_stored_sketch(t, row, &then);
    if (rc != SQLITE_OK) return rc;
    size_t n = t->config->dimensions;
    dv_sketch_make(&m->code_rows[row], dvx_mirror_code(t, row), n, now);
    is_fresh = !(dv_sketch_distance_sq(now, then) <= GRAPH_DRIFT * GRAPH_DRIFT * m->code_rows[row].norm_sq);
  }
  graph_set_fresh(gr, row, is_fresh);
  return SQLITE_OK;
}

bool dvx_graph_leads_to(const dvx_table *t, size_t row) {
  const dvx_graph *gr = &t->graph;
  return gr->is_there && row < gr->hnsw.n && dvx_pages_has(&gr->pages, row) &&
         dv_hnsw_is_linked(&gr->hnsw, (uint32_t)row);
}

int dvx_graph_judge(dvx_table *t, uint32_t row) {
  /* Of a row with pending deltas the mirror has the committed code, but a settling in this transaction may have linked
   * it where it will be. It is left as it is until the commit. */
  if (!t->graph.is_there || graph_is_touched(t, row)) return SQLITE_OK;
  return graph_judge_row(t, row, dvx_word_exists(t->rows.words[row + 1]));
}

/* ---- settling ---------------------------------------------------------------------------------------------------- */

/* Is there to be a graph, or is there one already? */
static int graph_is_wanted(dvx_table *t, bool *is_wanted) {
  const dvx_config *c = t->config;
  int64_t n = (int64_t)t->rows.n_live + t->overlay.live_change, stamp = 0;
  *is_wanted = false;
  if (c->index == DVX_INDEX_FLAT) return SQLITE_OK;
  *is_wanted = c->index == DVX_INDEX_HNSW || n >= (int64_t)DVX_GRAPH_FROM_ROWS;
  if (*is_wanted) return SQLITE_OK;
  int rc = dvx_meta_get(t, "graph_stamp", 0, &stamp);
  *is_wanted = stamp != 0;
  return rc;
}

static int graph_status(dvx_table *t, dv_status status) {
  if (status == DV_OK) return SQLITE_OK;
  if (t->graph.rc != SQLITE_OK) return t->graph.rc;
  return status == DV_NOMEM ? SQLITE_NOMEM : SQLITE_OK; /* DV_CORRUPT: it is damaged now, which the caller sees */
}

/* Takes out of the graph those of the rows that are in it, and links those that live. */
static int graph_relink(dvx_table *t, const uint32_t *rows, size_t n, uint32_t *alive, uint64_t *placed) {
  dvx_graph *gr = &t->graph;
  dv_hnsw_space space;
  dv_hnsw_pager pager;
  size_t n_alive = 0, n_done = 0;
  int rc = SQLITE_OK;
  dvx_graph_space(t, &space, &pager);
  for (size_t i = 0; rc == SQLITE_OK && gr->is_there && i < n; i++) {
    rc = dvx_poll(t);
    if (rc == SQLITE_OK) rc = graph_need_list(t, rows[i]);
    if (rc != SQLITE_OK || !gr->is_there) return rc;
    if (dvx_word_exists(dvx_row_word(t, rows[i] + 1))) alive[n_alive++] = rows[i];
    if (dv_hnsw_is_linked(&gr->hnsw, rows[i])) rc = graph_status(t, dv_hnsw_unlink(&gr->hnsw, &space, rows[i]));
  }
  if (rc != SQLITE_OK || !gr->is_there) return rc;
  dv_hnsw_runner runner = {dvx_crew_run, gr->crew, dvx_crew_size(gr->crew)};
  bool is_shared = gr->crew && !space.pager; /* what reads the file is the caller's thread alone */
  rc = graph_status(t, dv_hnsw_link(&gr->hnsw, &space, alive, n_alive, (size_t)t->config->hnsw_ef_construction,
                                    is_shared ? &runner : NULL, &n_done));
  if (rc != SQLITE_OK || !gr->is_there) return rc;
  gr->n_unwalked += n;
  gr->is_changed = true;
  for (size_t i = 0; i < n_alive; i++) graph_set(placed, alive[i]);
  for (size_t i = 0; i < n; i++) graph_set_fresh(gr, rows[i], false);
  return SQLITE_OK;
}

/* Rows that no links lead to any more (taking rows out may cut off a few that had no other way) become fresh. It takes
 * a walk over the whole graph, so it is done when a part of it has changed since the last time. */
static int graph_find_lost(dvx_table *t, size_t *n_lost) {
  dvx_graph *gr = &t->graph;
  *n_lost = 0;
  int rc = graph_need_all(t);
  if (rc != SQLITE_OK || !gr->is_there) return rc;
  uint32_t *rows = sqlite3_malloc64((size_t)gr->hnsw.n * sizeof *rows); /* n_linked may be a lie */
  rc = rows ? graph_status(t, dv_hnsw_unreachable(&gr->hnsw, rows, n_lost)) : SQLITE_NOMEM;
  if (rc != SQLITE_OK) {
    sqlite3_free(rows);
    *n_lost = 0;
    return rc;
  }
  for (size_t i = 0; i < *n_lost; i++) graph_set_fresh(gr, rows[i], true);
  sqlite3_free(rows);
  gr->n_unwalked = 0;
  return SQLITE_OK;
}

/* ---- how much searches find -------------------------------------------------------------------------------------- */

static const uint32_t graph_curve_ef[DVX_CURVE_POINTS] = {16, 32, 64, 96, 128, 192, 256, 384, 512, 768};

#define GRAPH_CURVE_ROWS 128u
#define GRAPH_CURVE_K 10u
#define GRAPH_CURVE_FROM_ROWS 1000u /* fewer rows are scanned as fast */

static dv_status graph_judge(void *ctx, uint32_t from, const uint32_t *rows, size_t n, float *out) {
  dvx_table *t = ctx;
  const size_t n_dimensions = t->config->dimensions;
  const float *v = NULL;
  int rc = dvx_row_vector(t, from + 1, &v);
  if (rc != SQLITE_OK) return graph_page(t, rc);
  memcpy(t->next_vector, v, n_dimensions * sizeof *v); /* v lives as long as no other vector is asked for */
  for (size_t i = 0; i < n; i++) {
    out[i] = INFINITY; /* a deleted row that is linked still */
    if (!dvx_word_exists(dvx_row_word(t, rows[i] + 1))) continue;
    rc = dvx_row_vector(t, rows[i] + 1, &v);
    if (rc != SQLITE_OK) return graph_page(t, rc);
    out[i] = (float)dv_distance(t->conn->kernels, t->config->metric, t->next_vector, v, n_dimensions);
  }
  return DV_OK;
}

/* Linked rows to be looked for, spread over the table: the same ones each time. */
static size_t graph_sample(const dv_hnsw *g, uint32_t *rows) {
  size_t n = 0;
  for (uint32_t i = 0; i < GRAPH_CURVE_ROWS; i++) {
    uint32_t row = (uint32_t)((uint64_t)g->n * i / GRAPH_CURVE_ROWS);
    while (row < g->n && !dv_hnsw_is_linked(g, row)) row++;
    if (row < g->n) rows[n++] = row;
  }
  return n;
}

/* Measures how distances grow; 0 where they do not. What was known of recall holds no more: searches end elsewhere now. */
static int graph_measure_growth(dvx_table *t) {
  dvx_graph *gr = &t->graph;
  dv_hnsw_space space;
  dv_hnsw_pager pager;
  uint32_t rows[GRAPH_CURVE_ROWS];
  double growth[DV_HNSW_OCTAVES];
  memset(gr->growth, 0, sizeof gr->growth);
  memset(gr->curve, 0, sizeof gr->curve);
  memset(gr->curve_stored, 0, sizeof gr->curve_stored);
  if (gr->hnsw.n_linked < GRAPH_CURVE_FROM_ROWS || t->config->metric == DV_L1) return SQLITE_OK;
  dvx_graph_space(t, &space, &pager);
  int rc = graph_status(t, dv_hnsw_growth(&gr->hnsw, &space, rows, graph_sample(&gr->hnsw, rows), growth));
  for (size_t i = 0; rc == SQLITE_OK && gr->is_there && i < DV_HNSW_OCTAVES; i++) {
    double part = (growth[i] - 1.0) * GRAPH_GROWTH_UNIT;
    gr->growth[i] = (uint8_t)(!(part > 0.0) ? 0.0 : part < 255.0 ? part : 255.0);
  }
  return rc;
}

/* Measures recall by ef with the sampled rows as queries. */
static int graph_measure_curve(dvx_table *t) {
  dvx_graph *gr = &t->graph;
  dv_hnsw_space space;
  dv_hnsw_pager pager;
  uint32_t rows[GRAPH_CURVE_ROWS];
  double recall[DVX_CURVE_POINTS], growth[DV_HNSW_OCTAVES];
  if (gr->hnsw.n_linked < GRAPH_CURVE_FROM_ROWS) return SQLITE_OK;
  int rc = graph_need_all(t);
  if (rc != SQLITE_OK || !gr->is_there) return rc;
  dvx_graph_space(t, &space, &pager);
  const dv_hnsw_judge judge = {graph_judge, t};
  if (dvx_graph_needs_vectors(t->config)) space.judge = &judge;
  dv_status status = dv_hnsw_recall(&gr->hnsw, &space, rows, graph_sample(&gr->hnsw, rows), GRAPH_CURVE_K,
                                    dvx_graph_growth(t, growth), graph_curve_ef, DVX_CURVE_POINTS, recall);
  if (status != DV_OK) return graph_status(t, status);
  for (size_t i = 0; i < DVX_CURVE_POINTS; i++) {
    uint16_t r = (uint16_t)(recall[i] * 10000.0);
    gr->curve[i] = r ? r : 1;
  }
  return SQLITE_OK;
}

const double *dvx_graph_growth(const dvx_table *t, double *growth) {
  bool is_known = false;
  for (size_t i = 0; i < DV_HNSW_OCTAVES; i++) {
    growth[i] = 1.0 + t->graph.growth[i] / GRAPH_GROWTH_UNIT;
    is_known |= t->graph.growth[i] != 0;
  }
  return is_known ? growth : NULL;
}

double dvx_graph_recall_at(const dvx_table *t, size_t ef) {
  const dvx_graph *gr = &t->graph;
  if (!gr->is_there || gr->curve[0] == 0) return -1;
  size_t i = 0;
  while (i < DVX_CURVE_POINTS && graph_curve_ef[i] < ef) i++;
  if (i == DVX_CURVE_POINTS) return gr->curve[i - 1] / 10000.0;
  if (i == 0 || graph_curve_ef[i] == ef) return gr->curve[i] / 10000.0;
  double part = (double)(ef - graph_curve_ef[i - 1]) / (double)(graph_curve_ef[i] - graph_curve_ef[i - 1]);
  return (gr->curve[i - 1] + part * (double)(gr->curve[i] - gr->curve[i - 1])) / 10000.0;
}

int dvx_graph_ef_for(dvx_table *t, double recall, size_t k, size_t *ef) {
  dvx_graph *gr = &t->graph;
  *ef = 0;
  int rc = gr->is_there && gr->curve[0] == 0 ? graph_measure_curve(t) : SQLITE_OK;
  if (rc != SQLITE_OK || !gr->is_there || gr->curve[0] == 0) return rc;
  /* A sample says it within some tenths of a point: a part of what may be missed is kept in hand. */
  double needed = recall + (1.0 - recall) * 0.5;
  for (size_t i = 0; i < DVX_CURVE_POINTS && *ef == 0; i++) {
    if (gr->curve[i] / 10000.0 < needed) continue;
    *ef = graph_curve_ef[i];
    /* Between two points it is on the line; below the first nothing is known. */
    for (size_t low = i ? graph_curve_ef[i - 1] : *ef; *ef - low > 1;) {
      size_t middle = (*ef + low) / 2;
      if (dvx_graph_recall_at(t, middle) >= needed) {
        *ef = middle;
      } else {
        low = middle;
      }
    }
  }
  if (k > GRAPH_CURVE_K) *ef = *ef * (k / GRAPH_CURVE_K + 1);
  return SQLITE_OK;
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

static int graph_get(dvx_table *t, int64_t block, uint8_t *out, bool *is_there) {
  sqlite3_stmt *stmt = NULL;
  int rc = dvx_shadow_stmt(t, DVX_SQL_GRAPH_GET, &stmt);
  if (rc != SQLITE_OK) return rc;
  *is_there = false;
  sqlite3_bind_int64(stmt, 1, block);
  if (sqlite3_step(stmt) == SQLITE_ROW && (size_t)sqlite3_column_bytes(stmt, 0) == t->geometry.graph_bytes) {
    const void *bytes = sqlite3_column_blob(stmt, 0);
    if (bytes) memcpy(out, bytes, t->geometry.graph_bytes);
    *is_there = bytes != NULL;
  }
  rc = sqlite3_reset(stmt);
  return rc == SQLITE_OK ? SQLITE_OK : dvx_fail_sqlite(t->conn, t, rc);
}

/* What the stored block contributes to the sum of checksums. */
static int graph_block_check(dvx_table *t, int64_t block, uint32_t *check) {
  const dvx_graph *gr = &t->graph;
  sqlite3_stmt *stmt = NULL;
  *check = block >= 0 && (uint64_t)block < gr->n_block_checks ? gr->block_checks[block] : 0;
  if (*check != 0) return SQLITE_OK;
  int rc = dvx_shadow_stmt(t, DVX_SQL_GRAPH_GET, &stmt);
  if (rc != SQLITE_OK) return rc;
  sqlite3_bind_int64(stmt, 1, block);
  if (sqlite3_step(stmt) == SQLITE_ROW) {
    const void *bytes = sqlite3_column_blob(stmt, 0);
    if (bytes) *check = dvx_block_check(block, bytes, (size_t)sqlite3_column_bytes(stmt, 0));
  }
  rc = sqlite3_reset(stmt);
  return rc == SQLITE_OK ? SQLITE_OK : dvx_fail_sqlite(t->conn, t, rc);
}

static int graph_put(dvx_table *t, int64_t block, const uint8_t *bytes) {
  dvx_graph *gr = &t->graph;
  sqlite3_stmt *stmt = NULL;
  uint32_t before, after = dvx_block_check(block, bytes, t->geometry.graph_bytes);
  int rc = graph_block_check(t, block, &before);
  if (rc == SQLITE_OK && block >= 0 && (uint64_t)block >= gr->n_block_checks) {
    size_t n = ((size_t)block + 64) * 2;
    rc = dvx_grow(&gr->block_checks, gr->n_block_checks * sizeof *gr->block_checks, n * sizeof *gr->block_checks);
    if (rc == SQLITE_OK) gr->n_block_checks = n;
  }
  if (rc != SQLITE_OK) return rc;
  gr->links_change += after - before;
  if (block >= 0) gr->block_checks[block] = after;
  rc = dvx_shadow_stmt(t, DVX_SQL_GRAPH_PUT, &stmt);
  if (rc != SQLITE_OK) return rc;
  t->graph.is_written = true;
  sqlite3_bind_int64(stmt, 1, block);
  sqlite3_bind_blob(stmt, 2, bytes, (int)t->geometry.graph_bytes, SQLITE_STATIC);
  rc = dvx_shadow_run(t, stmt);
  sqlite3_clear_bindings(stmt);
  return rc;
}

/* Is all known of the rows of a block that it stores? Then what is stored need not be read. */
static bool graph_block_is_known(const dvx_graph *gr, size_t first, size_t end, const uint64_t *placed) {
  for (size_t row = first; row < end; row++) {
    if (!dvx_pages_has(&gr->pages, row)) return false;
    if (!graph_bit(placed, row) && (row >= gr->n_sketches || !graph_bit(gr->has_sketch, row))) return false;
  }
  return true;
}

/* Writes the block of the rows from `first` on, which changed. */
static int graph_save_block(dvx_table *t, size_t first, const uint64_t *placed, uint8_t *bytes) {
  dvx_graph *gr = &t->graph;
  const dv_hnsw *g = &gr->hnsw;
  const dvx_geometry *geo = &t->geometry;
  const size_t n = t->config->dimensions, room = (size_t)2 * g->m;
  const size_t end = g->n - first < geo->graph_rows ? g->n : first + geo->graph_rows;
  const int64_t block = (int64_t)(first / geo->graph_rows);
  bool is_there = false;
  if (!graph_block_is_known(gr, first, end, placed)) {
    int rc = graph_get(t, block, bytes, &is_there);
    if (rc != SQLITE_OK) return rc;
  }
  if (!is_there) memset(bytes, 0, geo->graph_bytes);
  for (size_t row = first; row < first + geo->graph_rows; row++) {
    uint8_t *at = bytes + (row - first) * graph_entry_bytes(gr), *sketch = at + 4 * room;
    if (row >= end || !is_there) memset(at, 0xff, 4 * room);
    if (row >= end || !dvx_pages_has(&gr->pages, row)) continue;
    for (size_t l = 0; l < room; l++) dv_store_u32(at + 4 * l, g->ground[row * room + l]);
    bool is_kept = row < gr->n_sketches;
    if (graph_bit(placed, row)) {
      dv_sketch_make(&t->mirror.code_rows[row], dvx_mirror_code(t, row), n, sketch);
    } else if (is_kept && graph_bit(gr->has_sketch, row)) {
      memcpy(sketch, gr->sketches + row * DV_SKETCH_BYTES, DV_SKETCH_BYTES);
    }
    if (!is_kept) continue;
    memcpy(gr->sketches + row * DV_SKETCH_BYTES, sketch, DV_SKETCH_BYTES);
    graph_set(gr->has_sketch, row);
  }
  return graph_put(t, block, bytes);
}

static int graph_save_ground(dvx_table *t, const uint64_t *placed, uint8_t *bytes) {
  const dv_hnsw *g = &t->graph.hnsw;
  const size_t n_a_block = t->geometry.graph_rows;
  int rc = SQLITE_OK;
  for (size_t row = 0; rc == SQLITE_OK && row < g->n;) {
    uint64_t bits = (g->changed[row >> 6] | placed[row >> 6]) >> (row & 63);
    if (bits == 0) {
      row = (row | 63) + 1;
    } else if ((bits & 1) == 0) {
      row++;
    } else {
      size_t first = row / n_a_block * n_a_block;
      rc = graph_save_block(t, first, placed, bytes);
      row = first + n_a_block;
    }
  }
  return rc;
}

static int graph_save_upper(dvx_table *t, uint8_t *bytes) {
  const dv_hnsw *g = &t->graph.hnsw;
  const size_t n_bytes = graph_upper_bytes(&t->graph), n_a_block = t->geometry.graph_bytes / n_bytes;
  int rc = SQLITE_OK;
  for (size_t first = 0; rc == SQLITE_OK && first < g->n_upper; first += n_a_block) {
    const size_t end = g->n_upper - first < n_a_block ? g->n_upper : first + n_a_block;
    bool is_changed = false;
    for (size_t i = first; i < end && !is_changed; i++) is_changed = graph_bit(g->upper_changed, i);
    if (!is_changed) continue;
    memset(bytes, 0, t->geometry.graph_bytes);
    for (size_t i = first; i < end; i++) {
      uint8_t *at = bytes + (i - first) * n_bytes;
      dv_store_u32(at, g->upper_row[i]);
      for (size_t l = 0; l < g->m; l++) dv_store_u32(at + 4 + 4 * l, g->upper[i * g->m + l]);
    }
    rc = graph_put(t, -1 - (int64_t)(first / n_a_block), bytes);
  }
  return rc;
}

static int graph_save_fresh(dvx_table *t, uint8_t *bytes) {
  const dvx_graph *gr = &t->graph;
  const size_t n_bytes = t->geometry.graph_bytes;
  uint8_t *stored = bytes + n_bytes;
  int rc = SQLITE_OK;
  for (size_t first = 0; rc == SQLITE_OK && first < gr->hnsw.n; first += 8 * n_bytes) {
    bool is_there;
    int64_t block = GRAPH_FRESH_BLOCKS - (int64_t)(first / (8 * n_bytes));
    memset(bytes, 0, n_bytes);
    for (size_t i = first; i < first + 8 * n_bytes && i < gr->hnsw.n; i++) {
      if (graph_bit(gr->fresh, i)) bytes[(i - first) / 8] |= (uint8_t)(1u << ((i - first) % 8));
    }
    rc = graph_get(t, block, stored, &is_there);
    if (rc == SQLITE_OK && (!is_there || memcmp(bytes, stored, n_bytes) != 0)) rc = graph_put(t, block, bytes);
  }
  return rc;
}

static int graph_save(dvx_table *t, const uint64_t *placed) {
  dvx_graph *gr = &t->graph;
  int64_t stamp = 0;
  uint8_t *bytes = sqlite3_malloc64(2 * t->geometry.graph_bytes);
  if (!bytes) return SQLITE_NOMEM;
  gr->is_written = false;
  gr->links_change = 0;
  int rc = graph_save_ground(t, placed, bytes);
  if (rc == SQLITE_OK) rc = graph_save_upper(t, bytes);
  if (rc == SQLITE_OK) rc = graph_save_fresh(t, bytes);
  while (stamp == 0) sqlite3_randomness(sizeof stamp, &stamp);
  if (rc == SQLITE_OK) rc = graph_write_state(t, stamp);
  sqlite3_free(bytes);
  if (rc != SQLITE_OK || !gr->is_written) return rc; /* others need not read it again */
  gr->stamp = stamp;
  memcpy(gr->fresh_stored, gr->fresh, gr->capacity / 8);
  dv_hnsw_forget_changes(&gr->hnsw);
  return SQLITE_OK;
}

int dvx_graph_drop(dvx_table *t) {
  sqlite3_stmt *stmt = NULL;
  int rc = dvx_shadow_stmt(t, DVX_SQL_DROP_DERIVED_GRAPH, &stmt);
  if (rc == SQLITE_OK) rc = dvx_shadow_run(t, stmt);
  if (rc == SQLITE_OK) rc = dvx_meta_put_blob(t, "graph", "", 0);
  if (rc == SQLITE_OK) rc = dvx_meta_put(t, "graph_stamp", 0);
  dvx_checks checks;
  bool has_checks;
  if (rc == SQLITE_OK) rc = dvx_checks_read(t, &checks, &has_checks);
  if (rc == SQLITE_OK && has_checks) {
    checks.graph = checks.links = 0;
    rc = dvx_checks_write(t, &checks);
  }
  dvx_graph_free(t);
  t->graph.is_loaded = rc == SQLITE_OK;
  t->graph.checked_at = t->n_looks;
  return rc;
}

/* ---- a settling, from the beginning to the end ------------------------------------------------------------------- */

/* The code of a row as this transaction leaves it, and whether it is fresh then. */
static int graph_note_row(dvx_table *t, uint32_t vid, uint64_t *noted) {
  if (!t->graph.is_there || !graph_is_touched(t, vid - 1)) return SQLITE_OK; /* dvx_mirror_ready has seen to it */
  uint64_t word = dvx_row_word(t, vid);
  bool is_alive = dvx_word_exists(word), is_known = is_alive;
  const float *v = NULL;
  int rc = is_alive ? dvx_row_vector(t, vid, &v) : graph_need_list(t, vid - 1);
  if (rc == SQLITE_OK && !is_alive && dvx_graph_leads_to(t, vid - 1)) {
    rc = dvx_row_last_vector(t, vid, word, t->next_vector, &is_known);
    v = t->next_vector;
  }
  if (rc == SQLITE_OK && is_known) dvx_mirror_set_pending(t, vid, v);
  if (rc == SQLITE_OK) rc = graph_judge_row(t, vid - 1, is_alive);
  graph_set(noted, vid - 1);
  return rc;
}

/* The rows that are settled; or all that the transaction has touched, if everything is to be linked. The others that it
 * has touched are as the file has them: whether somebody searched before the transaction must not matter. */
static int graph_note_rows(dvx_table *t, const uint32_t *vids, size_t n, bool is_all, uint64_t *noted) {
  const dvx_overlay *o = &t->overlay;
  dvx_graph *gr = &t->graph;
  int rc = SQLITE_OK;
  for (size_t i = 0; rc == SQLITE_OK && !is_all && i < n; i++) rc = graph_note_row(t, vids[i], noted);
  for (size_t i = 0; rc == SQLITE_OK && o->n_touched && i < o->n_touched_slots; i++) {
    uint32_t vid = o->touched[i].vid;
    if (vid == 0 || o->touched[i].last == 0 || !gr->is_there) continue;
    if (is_all) {
      rc = graph_note_row(t, vid, noted);
    } else if (!graph_bit(noted, vid - 1)) {
      graph_set_fresh(gr, vid - 1, graph_bit(gr->fresh_stored, vid - 1));
    }
  }
  return rc;
}

/* So many rows may be fresh before they are linked: many together, since nearly every block changes when some hundred
 * are; but a search scans them. */
static size_t graph_fresh_limit(const dvx_graph *gr) {
  size_t n = gr->hnsw.n / DVX_FRESH_PART;
  return n < DVX_FRESH_ROWS ? DVX_FRESH_ROWS : n < DVX_FRESH_MOST ? n : DVX_FRESH_MOST;
}

/* The next fresh row from `row` on that may be linked now; n_rows if there is none. */
static size_t graph_next_fresh(const dvx_table *t, size_t row, const uint64_t *noted) {
  const dvx_graph *gr = &t->graph;
  const size_t n_rows = gr->hnsw.n;
  while (row < n_rows) {
    uint64_t bits = gr->fresh[row >> 6] >> (row & 63);
    if (bits == 0) {
      row = (row | 63) + 1;
    } else if ((bits & 1) && (graph_bit(noted, row) || !graph_is_touched(t, row))) {
      return row;
    } else {
      row++;
    }
  }
  return n_rows;
}

static int graph_link_fresh(dvx_table *t, size_t max_links, const uint64_t *noted, uint64_t *placed) {
  dvx_graph *gr = &t->graph;
  uint32_t rows[GRAPH_CHUNK], alive[GRAPH_CHUNK];
  size_t n_rows = gr->hnsw.n, n_left = max_links, n = 0, row = 0;
  int rc = SQLITE_OK;
  if (max_links == SIZE_MAX && gr->n_fresh > GRAPH_CHUNK) {
    /* Reading everything in its order is faster than bringing in half of it piece by piece. And what is in memory, any
     * thread can look at. */
    rc = graph_need_all(t);
    if (rc == SQLITE_OK) dvx_mirror_join_all(t); /* a seventh less time */
    size_t n_threads = t->threads == DVX_THREADS_ALL ? dvx_host_cores() : (size_t)t->threads;
    if (rc == SQLITE_OK) gr->crew = dvx_crew_new(n_threads);
  }
  while (rc == SQLITE_OK && gr->is_there) {
    if (n_left > 0) row = graph_next_fresh(t, row, noted);
    bool is_end = n_left == 0 || row == n_rows;
    if (!is_end) {
      rows[n++] = (uint32_t)row++;
      n_left--;
    }
    if (!is_end && n < GRAPH_CHUNK) continue;
    if (n > 0) rc = graph_relink(t, rows, n, alive, placed);
    n = 0;
    if (is_end) break;
    if (rc == SQLITE_OK && max_links == SIZE_MAX && dvx_is_interrupted(t->conn))
      rc = dvx_fail(t->conn, t, SQLITE_INTERRUPT, "it was interrupted");
  }
  dvx_crew_free(gr->crew);
  gr->crew = NULL;
  return rc;
}

int dvx_graph_prepare(dvx_table *t) {
  bool is_wanted;
  int rc = graph_is_wanted(t, &is_wanted);
  return rc == SQLITE_OK && is_wanted ? dvx_mirror_ready(t) : rc;
}

static int graph_settle(dvx_table *t, const uint32_t *vids, size_t n, bool is_all, bool *is_due_again) {
  dvx_graph *gr = &t->graph;
  bool is_wanted;
  *is_due_again = false;
  int rc = graph_is_wanted(t, &is_wanted);
  if (rc != SQLITE_OK || !is_wanted) return rc;
  rc = dvx_mirror_ready(t);
  if (rc == SQLITE_OK && gr->is_damaged) {
    if (!is_all) return SQLITE_OK;
    rc = dvx_graph_drop(t);
  }
  if (rc != SQLITE_OK) return rc;
  bool is_new = !gr->is_there;
  if (is_new) rc = dvx_graph_drop(t); /* blocks that nothing leads to would become a part of it */
  if (is_new && rc == SQLITE_OK) rc = graph_begin(t, 0);
  if (rc == SQLITE_OK) rc = dvx_mirror_reserve(t, dvx_table_last_vid(t));
  for (size_t i = 0; is_new && rc == SQLITE_OK && i < t->mirror.n; i++)
    graph_set_fresh(gr, i, graph_bit(t->mirror.live, i));
  if (rc != SQLITE_OK) return rc;

  size_t n_words = ((size_t)gr->hnsw.n + 63) / 64, n_rows = dvx_table_last_vid(t), max_links = SIZE_MAX;
  uint64_t *placed = sqlite3_malloc64(2 * n_words * sizeof *placed);
  if (!placed) return SQLITE_NOMEM;
  uint64_t *noted = placed + n_words;
  memset(placed, 0, 2 * n_words * sizeof *placed);
  /* A new graph knows nothing of rows that were settled earlier in this transaction. */
  rc = graph_note_rows(t, vids, n, is_new || is_all, noted);
  size_t limit = graph_fresh_limit(gr);
  if (!is_all) max_links = gr->n_fresh > limit ? DVX_LINKS_A_COMMIT : 0;
  if (rc == SQLITE_OK && max_links > 0) rc = graph_link_fresh(t, max_links, noted, placed);
  bool is_much = gr->n_unwalked * GRAPH_WALK_PART >= n_rows;
  bool is_due = is_all || is_much || (n_rows <= GRAPH_WALK_ROWS && gr->n_unwalked > 0);
  for (int pass = 0; rc == SQLITE_OK && gr->is_there && is_due && pass < 3; pass++) {
    size_t n_lost;
    rc = graph_find_lost(t, &n_lost);
    is_due = n_lost > 0 && is_all; /* else they wait */
    if (rc == SQLITE_OK && is_due && gr->is_there) rc = graph_link_fresh(t, max_links, noted, placed);
  }
  /* What 'optimize' has measured holds until the next one, which measures again if anything was linked in between. Who never
   * calls it has at least what costs a few searches. */
  bool is_known = gr->curve_stored[0] != 0;
  if (rc == SQLITE_OK && gr->is_there && (is_all ? !is_known || gr->is_changed : !is_known && is_much)) {
    rc = graph_measure_growth(t);
    if (is_all) {
      if (rc == SQLITE_OK && gr->is_there) rc = graph_measure_curve(t);
      memcpy(gr->curve_stored, gr->curve, sizeof gr->curve);
      gr->is_changed = false;
    }
  }
  if (rc == SQLITE_OK && gr->is_there) rc = graph_save(t, placed);
  *is_due_again = gr->is_there && gr->n_fresh > limit;
  sqlite3_free(placed);
  return rc;
}

int dvx_graph_settle(dvx_table *t, const uint32_t *vids, size_t n, bool is_all, bool *is_due_again) {
  int rc = graph_settle(t, vids, n, is_all, is_due_again);
  if (rc != SQLITE_OK || !t->graph.is_damaged || !is_all) return rc;
  /* Found only now: once more, from nothing. */
  rc = dvx_graph_drop(t);
  return rc == SQLITE_OK ? graph_settle(t, vids, n, is_all, is_due_again) : rc;
}

/* ---- is it right? ------------------------------------------------------------------------------------------------ */

static const char *graph_fault_text(dv_hnsw_fault fault) {
  switch (fault) {
  case DV_HNSW_SOUND: break;
  case DV_HNSW_RANGE: return "row number %u is linked with row number %u, which does not exist";
  case DV_HNSW_SELF: return "row number %u is linked with itself";
  case DV_HNSW_TWICE: return "row number %u is linked twice with row number %u";
  case DV_HNSW_ONE_WAY: return "row number %u is linked with row number %u, but not the other way round";
  case DV_HNSW_GAP: return "row number %u has a link behind the end of its list";
  case DV_HNSW_LEVEL: return "row number %u has lists on levels that are not its own";
  case DV_HNSW_ENTRY: return "searches begin at row number %u, which is not the highest";
  case DV_HNSW_COUNT: return "the number of linked rows is wrong";
  case DV_HNSW_UNREACHABLE: return "no links lead to row number %u";
  }
  return "?";
}

typedef struct graph_report {
  int (*line)(void *ctx, const char *text);
  void *ctx;
} graph_report;

static int graph_line(dvx_table *t, const graph_report *r, const char *format, uint64_t a, uint64_t b) {
  dvx_str s = {0};
  dvx_str_addf(&s, "%s_graph: ", t->name);
  dvx_str_addf(&s, format, a, b);
  dvx_str_addf(&s, "; 'rebuild' mends it");
  char *z = dvx_str_take(&s);
  if (!z) return SQLITE_NOMEM;
  int rc = r->line(r->ctx, z);
  sqlite3_free(z);
  return rc;
}

/* Rows that the graph is to answer for but cannot. */
static int graph_check_rows(dvx_table *t, const graph_report *r) {
  dvx_graph *gr = &t->graph;
  int rc = SQLITE_OK;
  for (uint32_t row = 0; rc == SQLITE_OK && gr->is_there && row < t->rows.n; row++) {
    const dvx_touched *p = dvx_txn_touched(t, row + 1);
    if (graph_bit(gr->fresh, row) || (p && p->last)) continue;
    rc = dvx_poll(t);
    if (rc == SQLITE_OK) rc = dvx_graph_judge(t, row);
    if (rc == SQLITE_OK && graph_bit(gr->fresh, row))
      rc = graph_line(t, r, "row number %u is not linked as it should be", row + 1, 0);
  }
  return rc;
}

/* No links lead to some rows. They must be fresh, unless the walk that finds them is yet to come. */
static int graph_check_lost(dvx_table *t, const graph_report *r) {
  dvx_graph *gr = &t->graph;
  size_t n = 0;
  uint32_t *rows = sqlite3_malloc64((size_t)gr->hnsw.n * sizeof *rows);
  if (!rows) return SQLITE_NOMEM;
  int rc = graph_status(t, dv_hnsw_unreachable(&gr->hnsw, rows, &n));
  for (size_t i = 0; rc == SQLITE_OK && gr->n_unwalked == 0 && i < n; i++) {
    if (!graph_bit(gr->fresh, rows[i]) && graph_bit(t->mirror.live, rows[i]))
      rc = graph_line(t, r, graph_fault_text(DV_HNSW_UNREACHABLE), (uint64_t)rows[i] + 1, 0);
  }
  sqlite3_free(rows);
  return rc == SQLITE_OK ? graph_check_rows(t, r) : rc;
}

/* Are there blocks if, and only if, there is a graph, and does all of it have the checksums that are stored? */
static int graph_check_blocks(dvx_table *t, const graph_report *r) {
  uint8_t b[GRAPH_STATE_BYTES] = {0};
  sqlite3_stmt *stmt = NULL;
  dvx_checks checks;
  bool has_checks = false, is_stored = false, has_blocks = false;
  uint32_t sum = 0;
  int64_t stamp = 0;
  const char *what = NULL;
  int rc = dvx_checks_read(t, &checks, &has_checks);
  if (rc == SQLITE_OK) rc = dvx_meta_get_blob(t, "graph", b, sizeof b, &is_stored);
  if (rc == SQLITE_OK) rc = dvx_meta_get(t, "graph_stamp", 0, &stamp);
  if (rc == SQLITE_OK) rc = dvx_shadow_stmt(t, DVX_SQL_GRAPH_RANGE, &stmt);
  if (rc != SQLITE_OK) return rc;
  sqlite3_bind_int64(stmt, 1, INT64_MIN);
  sqlite3_bind_int64(stmt, 2, INT64_MAX);
  for (; sqlite3_step(stmt) == SQLITE_ROW; has_blocks = true) {
    const void *bytes = sqlite3_column_blob(stmt, 1);
    size_t n = bytes ? (size_t)sqlite3_column_bytes(stmt, 1) : 0;
    sum += dvx_block_check(sqlite3_column_int64(stmt, 0), bytes ? bytes : "", n);
  }
  rc = sqlite3_reset(stmt);
  if (rc != SQLITE_OK) return dvx_fail_sqlite(t->conn, t, rc);
  if (has_blocks && !t->graph.is_there) {
    what = "there are blocks, but no graph";
  } else if (has_checks && checks.graph != (is_stored || stamp != 0 ? graph_state_check(b, stamp) : 0)) {
    what = "its beginning does not have its checksum";
  } else if (has_checks && sum != checks.links) {
    what = "the blocks do not have their checksum";
  }
  return what ? graph_line(t, r, what, 0, 0) : SQLITE_OK;
}

int dvx_graph_check(dvx_table *t, int (*line)(void *ctx, const char *text), void *ctx) {
  dvx_graph *gr = &t->graph;
  graph_report r = {line, ctx};
  dv_hnsw_fault fault = DV_HNSW_SOUND;
  uint32_t row, other;
  dvx_graph_free(t); /* not what memory holds */
  int rc = dvx_mirror_ready(t);
  if (rc == SQLITE_OK && gr->is_there) rc = graph_need_all(t);
  if (rc != SQLITE_OK) return rc;
  if (gr->is_damaged) return graph_line(t, &r, gr->damage, (uint64_t)gr->damage_at, 0);
  rc = graph_check_blocks(t, &r);
  if (rc != SQLITE_OK || !gr->is_there) return rc;
  rc = graph_status(t, dv_hnsw_check(&gr->hnsw, &fault, &row, &other));
  if (rc != SQLITE_OK) return rc;
  if (fault == DV_HNSW_UNREACHABLE) return graph_check_lost(t, &r);
  if (fault != DV_HNSW_SOUND) return graph_line(t, &r, graph_fault_text(fault), (uint64_t)row + 1, (uint64_t)other + 1);
  return graph_check_rows(t, &r);
}
