/*
 * mirror.c: codes of the committed rows in memory, what every search runs on.
 *
 * Codes lie packed in one region (core/simd/dv_simd.h) that is reserved when the mirror is made and filled as it is used:
 * a stored block is put into its place when a row of it is first looked at, so that opening a table reads nothing of it.
 * A scan asks for all of them. While codes are not stored, they are made from vectors in the same way. Under a
 * memory_limit they are given back (pages.c) and asked for again.
 *
 * A row that changed since %_code was written is stale: it is coded from its current vector when the next search
 * begins. So a commit only sets a bit a row, and a search is never wrong because of a pending change. Uncommitted rows
 * are not here at all: the search scans them exactly. (But for the codes that settling puts here for the graph: see
 * dvx_mirror_set_pending.)
 *
 * Row i of every array is vid i + 1. All arrays grow together; the padding of codes is zero.
 */
#include "ext_int.h"

#define MIRROR_JOIN_EVERY 32u
#define MIRROR_MADE_PART 8u /* without stored codes: so many are made row by row, then the log is read through */

static inline bool mirror_bit(const uint64_t *bits, size_t i) { return bits[i >> 6] >> (i & 63) & 1; }
static inline void mirror_set(uint64_t *bits, size_t i) { bits[i >> 6] |= (uint64_t)1 << (i & 63); }
static inline void mirror_clear(uint64_t *bits, size_t i) { bits[i >> 6] &= ~((uint64_t)1 << (i & 63)); }

void dvx_mirror_free(dvx_table *t) {
  dvx_mirror *m = &t->mirror;
  sqlite3_free(m->code_memory);
  sqlite3_free(m->code);
  sqlite3_free(m->code_rows);
  dvx_pages_free(&m->pages);
  sqlite3_free(m->bits);
  sqlite3_free(m->bit_rows);
  sqlite3_free(m->center);
  sqlite3_free(m->live);
  sqlite3_free(m->stale);
  if (m->scratch.alloc) dv_flat_scratch_free(&m->scratch);
  memset(m, 0, sizeof *m);
}

/* The region of codes, from n_old to n_new bytes. What is new of it is not written to, so it takes no memory until it is.
 * It begins on a page, so that whole pages of it can be given back, and rows lie in as few lines of the cache as they
 * can. */
static int mirror_grow_codes(dvx_mirror *m, size_t n_old, size_t n_new) {
  size_t before = m->code_memory ? (size_t)(m->codes - m->code_memory) : 0;
  uint8_t *p = sqlite3_realloc64(m->code_memory, n_new + m->pages.page_bytes);
  if (!p) return SQLITE_NOMEM;
  size_t after = (0 - (size_t)(uintptr_t)p) & (m->pages.page_bytes - 1);
  if (n_old > 0 && after != before) memmove(p + after, p + before, n_old);
  m->code_memory = p;
  m->codes = p + after;
  return SQLITE_OK;
}

int dvx_mirror_reserve(dvx_table *t, size_t n_rows) {
  dvx_mirror *m = &t->mirror;
  if (!m->is_loaded) return SQLITE_OK;
  int rc = dvx_graph_reserve(t, n_rows);
  if (rc != SQLITE_OK || n_rows <= m->capacity) return rc;
  size_t words = dv_bit_words(t->config->dimensions);
  size_t old = m->capacity;
  size_t n = old ? old + old / 2 : 0;
  if (n < n_rows) n = n_rows;
  n = (n + 63) & ~(size_t)63; /* whole words of the bitmaps, whole blocks of bits */
  rc = mirror_grow_codes(m, dv_code_bytes(old, t->config->dimensions), dv_code_bytes(n, t->config->dimensions));
  if (rc == SQLITE_OK) {
    /* Like codes, set when they are; so a table of many rows is opened without writing to all of it. */
    dv_code_row *rows = sqlite3_realloc64(m->code_rows, n * sizeof *rows);
    if (rows) m->code_rows = rows;
    if (!rows) rc = SQLITE_NOMEM;
  }
  if (rc == SQLITE_OK) rc = dvx_pages_reserve(&m->pages, n);
  if (rc == SQLITE_OK && m->bits) rc = dvx_grow(&m->bits, old * words * 8, n * words * 8);
  if (rc == SQLITE_OK && m->bits) rc = dvx_grow(&m->bit_rows, old * sizeof *m->bit_rows, n * sizeof *m->bit_rows);
  if (rc == SQLITE_OK) rc = dvx_grow(&m->live, old / 8, n / 8);
  if (rc == SQLITE_OK) rc = dvx_grow(&m->stale, old / 8, n / 8);
  if (rc == SQLITE_OK) m->capacity = m->pages.n_array_rows = n;
  return rc;
}

void dvx_mirror_code_changed(dvx_table *t, uint32_t vid) {
  dvx_mirror *m = &t->mirror;
  if (m->is_loaded && vid <= m->capacity) dvx_pages_drop(&m->pages, vid - 1);
}

void dvx_mirror_row_changed(dvx_table *t, uint32_t vid) {
  dvx_mirror *m = &t->mirror;
  size_t i = vid - 1;
  if (!m->is_loaded || i >= m->capacity) return;
  if (i >= m->n) m->n = i + 1;
  /* The code of a deleted row stays that of its last vector: the graph may still lead through it. */
  if (dvx_word_exists(t->rows.words[vid])) dvx_mirror_code_changed(t, vid);
  if (mirror_bit(m->stale, i)) return;
  mirror_set(m->stale, i);
  m->n_stale++;
}

/* ---- codes ------------------------------------------------------------------------------------------------------- */

/* Bits from the code in m->code, which is row i's. */
static void mirror_set_bits(dvx_table *t, size_t i) {
  dvx_mirror *m = &t->mirror;
  m->bit_rows[i] =
      dv_bits_set(m->bits, i, t->config->metric, &m->code_rows[i], m->code, t->config->dimensions, m->center);
}

const int8_t *dvx_mirror_code(dvx_table *t, size_t i) {
  dvx_mirror *m = &t->mirror;
  (void)dv_code_unpack(m->codes, i, t->config->dimensions, m->code);
  return m->code;
}

/* Row i gets the code in m->code. */
static void mirror_put_code(dvx_table *t, size_t i, uint32_t meta) {
  dvx_mirror *m = &t->mirror;
  size_t n = t->config->dimensions;
  dv_code_pack(m->code, n, m->codes, i);
  m->code_rows[i] = dv_code_row_of(meta, m->code, n);
  dvx_pages_put(&m->pages, i);
}

/* Row i gets this code; NULL: zeros, for a row of which there is none. */
static void mirror_put(dvx_table *t, size_t i, uint32_t meta, const uint8_t *bytes) {
  const size_t n = t->config->dimensions;
  int8_t *code = t->mirror.code;
  if (!bytes) memset(code, 0, n);
  for (size_t j = 0; bytes && j < n; j++) {
    code[j] = (int8_t)bytes[j];
    if (code[j] == INT8_MIN) code[j] = -INT8_MAX; /* only a damaged file has it, and kernels rely on that */
  }
  mirror_put_code(t, i, meta);
}

static void mirror_encode(dvx_table *t, size_t i, const float *v) {
  dvx_mirror *m = &t->mirror;
  mirror_put_code(t, i, dv_code_encode(t->config->metric, v, t->config->dimensions, m->code));
  if (m->has_bits) mirror_set_bits(t, i);
}

/* Are codes stored? What 'optimize' wrote in a transaction that is still open stands for pending vectors: it counts only
 * for who knew of the codes before. */
static bool mirror_has_stored(const dvx_table *t) {
  return t->settled.has_codes && !t->is_settle_wrong && (t->mirror.was_stored || !t->overlay.is_settled_touched);
}

/* Has %_code the code of the vector that row i has now? */
static bool mirror_is_stored(const dvx_table *t, size_t i) {
  return mirror_has_stored(t) && !mirror_bit(t->mirror.stale, i) && mirror_bit(t->mirror.live, i) &&
         dvx_word_seq(t->rows.words[i + 1]) <= t->settled.position.seq;
}

/* Takes from a block of %_code what is not here yet and did not change since. */
static void mirror_take_block(dvx_table *t, int64_t block, const uint8_t *bytes, size_t n_bytes) {
  dvx_mirror *m = &t->mirror;
  const dvx_geometry *g = &t->geometry;
  size_t n = t->config->dimensions;
  if (!bytes || n_bytes != g->code_bytes || block < 0 || (uint64_t)block > m->n / g->code_rows) return;
  size_t end = t->rows.n < m->n ? t->rows.n : m->n;
  for (size_t j = 0, i = (size_t)block * g->code_rows; j < g->code_rows && i < end; j++, i++) {
    if (dvx_pages_has(&m->pages, i) || !mirror_is_stored(t, i)) continue;
    const uint8_t *at = bytes + j * (4 + n);
    mirror_put(t, i, dv_load_u32(at), at + 4);
  }
}

/* The code of a deleted row, for the graph that may lead through it: that of its last vector, or zeros if nobody knows it
 * any more. */
static int mirror_make_deleted(dvx_table *t, size_t i) {
  bool exists = false;
  int rc = dvx_row_last_vector(t, (uint32_t)i + 1, t->rows.words[i + 1], t->next_vector, &exists);
  if (rc == SQLITE_CORRUPT_VTAB) {
    sqlite3_free(t->conn->error);
    t->conn->error = NULL;
  } else if (rc != SQLITE_OK) {
    return rc;
  } else if (exists) {
    mirror_encode(t, i, t->next_vector);
    return SQLITE_OK;
  }
  mirror_put(t, i, 0, NULL);
  return SQLITE_OK;
}

/* The code of a row that no block has: from its vector. */
static int mirror_make(dvx_table *t, size_t i) {
  const float *v = NULL;
  uint32_t vid = (uint32_t)i + 1;
  int rc = SQLITE_OK;
  bool is_committed = i < t->rows.n && dvx_word_exists(t->rows.words[vid]);
  if (is_committed) {
    rc = dvx_row_committed_vector(t, vid, &v);
  } else if (i < t->rows.n && t->rows.words[vid] != 0 && t->graph.is_there) {
    return mirror_make_deleted(t, i); /* it is the graph that asks: links lead there */
  } else if (dvx_word_exists(dvx_row_word(t, vid))) {
    rc = dvx_row_vector(t, vid, &v);
  }
  if (rc != SQLITE_OK) return rc;
  if (v) {
    mirror_encode(t, i, v);
  } else {
    mirror_put(t, i, 0, NULL);
  }
  return SQLITE_OK;
}

int dvx_mirror_need_code(dvx_table *t, size_t i) {
  dvx_mirror *m = &t->mirror;
  if (dvx_pages_has(&m->pages, i) || dvx_pages_wake(&m->pages, i)) return SQLITE_OK;
  int rc = dvx_settled_see(t);
  if (rc == SQLITE_OK && i < t->rows.n && mirror_is_stored(t, i)) {
    sqlite3_stmt *stmt = NULL;
    int64_t block = (int64_t)(i / t->geometry.code_rows);
    rc = dvx_shadow_stmt(t, DVX_SQL_CODE_GET, &stmt);
    if (rc != SQLITE_OK) return rc;
    sqlite3_bind_int64(stmt, 1, block);
    if (sqlite3_step(stmt) == SQLITE_ROW) {
      const uint8_t *bytes = sqlite3_column_blob(stmt, 0);
      mirror_take_block(t, block, bytes, (size_t)sqlite3_column_bytes(stmt, 0));
    }
    rc = sqlite3_reset(stmt);
    if (rc != SQLITE_OK) return dvx_fail_sqlite(t->conn, t, rc);
  } else if (rc == SQLITE_OK && !mirror_has_stored(t) && ++m->n_made == m->n / MIRROR_MADE_PART) {
    rc = dvx_vectors_load_if_cold(t); /* there will be more */
  }
  return rc == SQLITE_OK && !dvx_pages_has(&m->pages, i) ? mirror_make(t, i) : rc;
}

int dvx_mirror_need_range(dvx_table *t, size_t first, size_t end) {
  dvx_mirror *m = &t->mirror;
  int rc = dvx_settled_see(t);
  if (rc == SQLITE_OK && !mirror_has_stored(t)) {
    rc = dvx_vectors_load_if_cold(t); /* once through the log, not once along each row's chain */
  } else if (rc == SQLITE_OK && first < end) {
    sqlite3_stmt *stmt = NULL;
    rc = dvx_shadow_stmt(t, DVX_SQL_CODE_RANGE, &stmt);
    if (rc != SQLITE_OK) return rc;
    sqlite3_bind_int64(stmt, 1, (int64_t)(first / t->geometry.code_rows));
    sqlite3_bind_int64(stmt, 2, (int64_t)((end - 1) / t->geometry.code_rows));
    while (sqlite3_step(stmt) == SQLITE_ROW) {
      const uint8_t *bytes = sqlite3_column_blob(stmt, 1);
      mirror_take_block(t, sqlite3_column_int64(stmt, 0), bytes, (size_t)sqlite3_column_bytes(stmt, 1));
    }
    rc = sqlite3_reset(stmt);
    if (rc != SQLITE_OK) return dvx_fail_sqlite(t->conn, t, rc);
  }
  for (size_t i = first; rc == SQLITE_OK && i < end; i++) {
    if (dvx_pages_has(&m->pages, i) || dvx_pages_wake(&m->pages, i)) continue;
    rc = dvx_poll(t);
    if (rc != SQLITE_OK) break;
    if (mirror_bit(m->live, i)) {
      rc = mirror_make(t, i);
    } else { /* made when the graph leads there */
      mirror_put(t, i, 0, NULL);
      dvx_pages_drop(&m->pages, i);
    }
  }
  return rc;
}

int dvx_mirror_need_all(dvx_table *t) {
  dvx_mirror *m = &t->mirror;
  int rc = m->is_whole ? SQLITE_OK : dvx_mirror_need_range(t, 0, m->n);
  if (rc == SQLITE_OK) m->is_whole = true; /* until codes are given back: a row that comes is coded at once */
  return rc;
}

void dvx_mirror_set_pending(dvx_table *t, uint32_t vid, const float *v) {
  dvx_mirror *m = &t->mirror;
  if (vid > m->n) m->n = vid;
  mirror_encode(t, vid - 1, v);
}

/* ---- being ready ------------------------------------------------------------------------------------------------- */

static int mirror_load(dvx_table *t) {
  dvx_mirror *m = &t->mirror;
  dvx_settled s;
  int rc = dvx_settled_read(t, &s);
  if (rc != SQLITE_OK) return rc;
  m->is_loaded = true;
  size_t stride = dv_code_stride(t->config->dimensions);
  dvx_pages_init(&m->pages, stride, dv_code_has_halves(stride) ? 2 : 1);
  dv_flat_scratch_init(&m->scratch, &dvx_alloc);
  m->code = sqlite3_malloc64(stride);
  if (m->code) memset(m->code, 0, stride); /* the padding stays so */
  rc = m->code ? dvx_mirror_reserve(t, t->rows.n ? t->rows.n : 1) : SQLITE_NOMEM;
  if (rc == SQLITE_OK) {
    m->was_stored = s.has_codes && !t->is_settle_wrong && !t->overlay.is_settled_touched;
    m->n = t->rows.n;
    for (size_t i = 0; i < m->n; i++) {
      uint64_t word = t->rows.words[i + 1];
      if (dvx_word_exists(word)) mirror_set(m->live, i);
      if (word != 0 && (t->is_settle_wrong || dvx_word_seq(word) > s.position.seq)) {
        mirror_set(m->stale, i);
        m->n_stale++;
      }
    }
  }
  if (rc != SQLITE_OK) dvx_mirror_free(t);
  return rc;
}

/* Codes a row anew that has changed. A deleted row keeps its code: the graph may still lead through it. */
static int mirror_refresh(dvx_table *t, size_t i) {
  dvx_mirror *m = &t->mirror;
  if (dvx_word_exists(t->rows.words[i + 1])) {
    const float *v = NULL;
    int rc = dvx_row_committed_vector(t, (uint32_t)i + 1, &v);
    if (rc != SQLITE_OK) return rc;
    mirror_encode(t, i, v);
    mirror_set(m->live, i);
  } else {
    mirror_clear(m->live, i);
  }
  int rc = dvx_graph_judge(t, (uint32_t)i);
  if (rc == SQLITE_OK && !dvx_pages_has(&m->pages, i) && dvx_graph_leads_to(t, i)) rc = mirror_make(t, i);
  if (rc != SQLITE_OK) return rc;
  mirror_clear(m->stale, i);
  m->n_stale--;
  return SQLITE_OK;
}

void dvx_mirror_stale_since(dvx_table *t, uint64_t seq) {
  dvx_mirror *m = &t->mirror;
  for (uint32_t vid = 1; m->is_loaded && vid <= t->rows.n; vid++) {
    /* A row without a head may have had one: compaction forgets rows that were deleted long ago. */
    if (t->rows.words[vid] == 0 || dvx_word_seq(t->rows.words[vid]) > seq) dvx_mirror_row_changed(t, vid);
  }
}

/* A row's code anew takes a vector from far away in memory, and puts a code and its bits there. */
static void mirror_prefetch(const dvx_table *t, uint32_t vid) {
  const dvx_mirror *m = &t->mirror;
  size_t stride = dv_code_stride(t->config->dimensions), half = stride / 2, n = half < 512 ? half : 512;
  const uint8_t *high = m->codes + dv_code_at(vid - 1, stride), *low = high + dv_code_to_low(half);
  dvx_vectors_prefetch(t, vid);
  for (size_t i = 0; i < n; i += 64) {
    DV_PREFETCH_WRITE(high + i);
    DV_PREFETCH_WRITE(low + i);
  }
  DV_PREFETCH_WRITE(&m->code_rows[vid - 1]);
}

/* Codes anew all rows that changed. */
static int mirror_refresh_stale(dvx_table *t) {
  enum { AHEAD = 4 };
  dvx_mirror *m = &t->mirror;
  size_t n = 0;
  uint32_t *vids = sqlite3_malloc64(m->n_stale * sizeof *vids);
  if (!vids) return SQLITE_NOMEM;
  for (size_t w = 0; w < (m->n + 63) / 64; w++) {
    for (uint64_t bits = m->stale[w]; bits && n < m->n_stale; bits &= bits - 1)
      vids[n++] = (uint32_t)(64 * w) + (uint32_t)__builtin_ctzll(bits) + 1;
  }
  int rc = dvx_vectors_need(t, vids, n);
  for (size_t i = 0; rc == SQLITE_OK && i < n; i++) {
    if (i + AHEAD < n) mirror_prefetch(t, vids[i + AHEAD]);
    rc = dvx_poll(t);
    if (rc == SQLITE_OK) rc = mirror_refresh(t, vids[i] - 1);
  }
  sqlite3_free(vids);
  return rc;
}

int dvx_mirror_ready(dvx_table *t) {
  dvx_mirror *m = &t->mirror;
  if (!m->is_loaded) {
    int rc = mirror_load(t);
    if (rc != SQLITE_OK) return rc;
  }
  int rc = dvx_graph_ready(t);
  return rc == SQLITE_OK && m->n_stale > 0 ? mirror_refresh_stale(t) : rc;
}

/* The bits estimate best around the mean of the rows. It is taken anew whenever there are twice as many rows. */
static int mirror_recenter(dvx_table *t) {
  dvx_mirror *m = &t->mirror;
  size_t n = t->config->dimensions;
  if (m->n == 0 || (m->has_bits && m->n < 2 * m->center_rows)) return SQLITE_OK;
  if (!m->bits) {
    if (!m->center) m->center = sqlite3_malloc64(n * sizeof *m->center);
    if (!m->bit_rows) m->bit_rows = sqlite3_malloc64(m->capacity * sizeof *m->bit_rows);
    m->bits = sqlite3_malloc64(m->capacity * dv_bit_words(n) * 8);
    if (!m->center || !m->bit_rows || !m->bits) {
      sqlite3_free(m->bits);
      m->bits = NULL;
      return SQLITE_NOMEM;
    }
    memset(m->bits, 0, m->capacity * dv_bit_words(n) * 8);
    memset(m->bit_rows, 0, m->capacity * sizeof *m->bit_rows);
  }
  m->has_bits = true;
  m->center_rows = m->n;
  dv_bits_center(m->codes, m->code_rows, m->n, n, m->code, m->center);
  for (size_t i = 0; i < m->n; i++) {
    if (!mirror_bit(m->live, i)) continue;
    (void)dvx_mirror_code(t, i);
    mirror_set_bits(t, i);
  }
  return SQLITE_OK;
}

int dvx_mirror_ready_to_scan(dvx_table *t) {
  dvx_mirror *m = &t->mirror;
  int rc = dvx_mirror_need_all(t);
  /* The first answer after loading comes from the int8 codes alone; making bits of all rows costs more than it saves
   * it. */
  if (rc == SQLITE_OK && m->n_scans++ > 0) rc = mirror_recenter(t);
  return rc;
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

/* Bytes of all codes and lists, in memory or not. */
static size_t mirror_all_bytes(const dvx_table *t) {
  const dvx_mirror *m = &t->mirror;
  const dvx_graph *gr = &t->graph;
  return m->n * m->pages.row_bytes + (gr->is_there ? gr->hnsw.n * gr->pages.row_bytes : 0);
}

/* Makes a large page of codes or links, if there are such and one is due. */
static bool mirror_join(dvx_table *t) {
  dvx_mirror *m = &t->mirror;
  dvx_graph *gr = &t->graph;
  if (mirror_all_bytes(t) > dvx_table_memory_limit(t) / 2)
    return false; /* where the limit is near, pages come and go */
  if (!m->has_asked) m->can_join = dvx_host_has_large_pages();
  m->has_asked = true;
  if (!m->can_join) return false;
  if (dvx_pages_join(&m->pages, m->codes, m->n)) return true;
  return gr->is_there && dvx_pages_join(&gr->pages, gr->hnsw.ground, gr->hnsw.n);
}

/* What is searched again and again gets large pages: 100,000 rows of 384 dimensions are then searched in less than nine
 * tenths of the time. Making one takes as long as some twenty searches, so it is not done with each. */
void dvx_mirror_join(dvx_table *t) {
  dvx_mirror *m = &t->mirror;
  if (!m->is_loaded || ++m->n_searches % MIRROR_JOIN_EVERY != 0) return;
  if (!mirror_join(t) && m->can_join) dvx_vectors_join(&t->vectors);
}

void dvx_mirror_join_all(dvx_table *t) {
  while (mirror_join(t)) {
  }
}

/* Bytes of codes and lists that are not in memory. */
size_t dvx_mirror_missing(const dvx_table *t) {
  size_t all = mirror_all_bytes(t), held = dvx_pages_bytes(&t->mirror.pages);
  if (t->graph.is_there) held += dvx_pages_bytes(&t->graph.pages);
  return all > held ? all - held : 0;
}

/* What memory_limit is kept to, so that not every search has to give something back. */
size_t dvx_mirror_target(const dvx_table *t) {
  size_t limit = dvx_table_memory_limit(t);
  return limit - limit / 16;
}

/* Vectors go first: only the few rows of an answer need theirs. Then codes and lists, each by its part. */
void dvx_mirror_trim(dvx_table *t) {
  dvx_mirror *m = &t->mirror;
  dvx_graph *gr = &t->graph;
  size_t limit = dvx_table_memory_limit(t), now = dvx_table_memory(t);
  /* In a transaction memory may hold what is not in the file yet. */
  if (now <= limit || t->overlay.is_open || !m->is_loaded) return;
  size_t target = dvx_mirror_target(t);
  dvx_vectors_trim(t);
  now = dvx_table_memory(t);
  if (now <= target) return;
  size_t codes = dvx_pages_bytes(&m->pages), lists = gr->is_there ? dvx_pages_bytes(&gr->pages) : 0;
  size_t n_bytes = now - target;
  if (codes + lists == 0) return;
  if (n_bytes > codes + lists) n_bytes = codes + lists;
  size_t of_lists = (size_t)((double)n_bytes * ((double)lists / (double)(codes + lists)));
  dvx_pages_give_back(&m->pages, m->codes, n_bytes - of_lists);
  m->is_whole = false;
  if (of_lists == 0) return;
  dvx_pages_give_back(&gr->pages, gr->hnsw.ground, of_lists);
  gr->is_whole = false;
}
