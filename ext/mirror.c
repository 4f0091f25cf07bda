/*
 * mirror.c: codes of the committed rows in memory, for the flat scan.
 *
 * Loaded from %_code at the first search, for rows that did not change since they were settled; every other row is
 * stale, and stale rows are coded from their current vector when the next search begins. So a commit only sets a bit a
 * row, and a search is never wrong because of a pending change. Uncommitted rows are not here at all: the search scans
 * them exactly.
 *
 * Row i of every array is vid i + 1. All arrays but the lists grow together; the padding of codes is zero.
 */
#include "ext_int.h"

void dvx_mirror_free(dvx_table *t) {
  dvx_mirror *m = &t->mirror;
  sqlite3_free(m->codes);
  sqlite3_free(m->code_rows);
  sqlite3_free(m->bits);
  sqlite3_free(m->bit_rows);
  sqlite3_free(m->center);
  sqlite3_free(m->live);
  sqlite3_free(m->stale);
  sqlite3_free(m->stale_list);
  if (m->scratch.alloc) dv_flat_scratch_free(&m->scratch);
  memset(m, 0, sizeof *m);
}

/* Grows the array that the pointer at `pointer` points to; what is new is zero if asked for. */
static int mirror_grow(void *pointer, size_t n_old, size_t n_new, bool is_zeroed) {
  uint8_t *p;
  memcpy(&p, pointer, sizeof p);
  p = sqlite3_realloc64(p, n_new);
  if (!p) return SQLITE_NOMEM;
  if (is_zeroed) memset(p + n_old, 0, n_new - n_old);
  memcpy(pointer, &p, sizeof p);
  return SQLITE_OK;
}

int dvx_mirror_reserve(dvx_table *t, size_t n_rows) {
  dvx_mirror *m = &t->mirror;
  if (!m->is_loaded || n_rows <= m->capacity) return SQLITE_OK;
  size_t stride = dv_code_stride(t->config->dimensions);
  size_t words = dv_bit_words(t->config->dimensions);
  size_t old = m->capacity;
  size_t n = old ? old + old / 2 : 0;
  if (n < n_rows) n = n_rows;
  n = (n + 63) & ~(size_t)63; /* whole words of the bitmaps, whole blocks of bits */
  /* Codes are written whole before they are read; only padding must be zero. */
  int rc = mirror_grow(&m->codes, old * stride, n * stride, stride != t->config->dimensions);
  if (rc == SQLITE_OK) rc = mirror_grow(&m->code_rows, old * sizeof *m->code_rows, n * sizeof *m->code_rows, true);
  if (rc == SQLITE_OK) rc = mirror_grow(&m->bits, old * words * 8, n * words * 8, true);
  if (rc == SQLITE_OK) rc = mirror_grow(&m->bit_rows, old * sizeof *m->bit_rows, n * sizeof *m->bit_rows, true);
  if (rc == SQLITE_OK) rc = mirror_grow(&m->live, old / 8, n / 8, true);
  if (rc == SQLITE_OK) rc = mirror_grow(&m->stale, old / 8, n / 8, true);
  if (rc == SQLITE_OK) rc = mirror_grow(&m->stale_list, old * 4, n * 4, true);
  if (rc == SQLITE_OK) m->capacity = n;
  return rc;
}

void dvx_mirror_row_changed(dvx_table *t, uint32_t vid) {
  dvx_mirror *m = &t->mirror;
  size_t i = vid - 1;
  if (!m->is_loaded || i >= m->capacity) return;
  if (i >= m->n) m->n = i + 1;
  uint64_t bit = (uint64_t)1 << (i & 63);
  if (m->stale[i >> 6] & bit) return;
  m->stale[i >> 6] |= bit;
  m->stale_list[m->n_stale++] = (uint32_t)i;
}

static void mirror_set_bits(dvx_table *t, size_t i) {
  dvx_mirror *m = &t->mirror;
  size_t n = t->config->dimensions;
  const int8_t *code = m->codes + i * dv_code_stride(n);
  m->bit_rows[i] = dv_bits_set_code(m->bits, i, t->config->metric, &m->code_rows[i], code, n, m->center);
}

/* The bits estimate best around the mean of the rows. It is taken anew whenever there are twice as many rows. */
static void mirror_recenter(dvx_table *t) {
  dvx_mirror *m = &t->mirror;
  if (m->n == 0 || (m->has_bits && m->n < 2 * m->center_rows)) return;
  m->has_bits = true;
  m->center_rows = m->n;
  dv_bits_center(m->codes, m->code_rows, m->n, t->config->dimensions, m->center);
  for (size_t i = 0; i < m->n; i++) {
    if (m->live[i >> 6] >> (i & 63) & 1) mirror_set_bits(t, i);
  }
}

/* Copies what %_code has for rows whose head is not behind `settled`. */
static int mirror_load_codes(dvx_table *t, uint64_t settled_seq) {
  dvx_mirror *m = &t->mirror;
  const dvx_geometry *g = &t->geometry;
  size_t n = t->config->dimensions, stride = dv_code_stride(n);
  sqlite3_stmt *stmt = NULL;
  int rc = dvx_shadow_stmt(t, DVX_SQL_CODE_ALL, &stmt);
  if (rc != SQLITE_OK) return rc;
  while (sqlite3_step(stmt) == SQLITE_ROW) {
    int64_t block = sqlite3_column_int64(stmt, 0);
    const uint8_t *bytes = sqlite3_column_blob(stmt, 1);
    if (!bytes || (size_t)sqlite3_column_bytes(stmt, 1) != g->code_bytes) continue;
    if (block < 0 || (uint64_t)block > m->n / g->code_rows) continue;
    for (size_t j = 0, i = (size_t)block * g->code_rows; j < g->code_rows && i < m->n; j++, i++) {
      uint64_t word = t->rows.words[i + 1];
      if (!dvx_word_exists(word) || dvx_word_seq(word) > settled_seq) continue;
      const uint8_t *at = bytes + j * (4 + n);
      int8_t *code = m->codes + i * stride;
      memcpy(code, at + 4, n);
      m->code_rows[i] = dv_code_row_of(dv_load_u32(at), code, n);
      m->live[i >> 6] |= (uint64_t)1 << (i & 63);
      m->stale[i >> 6] &= ~((uint64_t)1 << (i & 63));
    }
  }
  rc = sqlite3_reset(stmt);
  return rc == SQLITE_OK ? SQLITE_OK : dvx_fail_sqlite(t->conn, t, rc);
}

static int mirror_load(dvx_table *t) {
  dvx_mirror *m = &t->mirror;
  dvx_settled s;
  int rc = dvx_settled_read(t, &s);
  if (rc != SQLITE_OK) return rc;
  m->is_loaded = true;
  dv_flat_scratch_init(&m->scratch, &dvx_alloc);
  size_t center_bytes = t->config->dimensions * sizeof(float);
  m->center = sqlite3_malloc64(center_bytes);
  if (!m->center) {
    dvx_mirror_free(t);
    return SQLITE_NOMEM;
  }
  memset(m->center, 0, center_bytes);
  rc = dvx_mirror_reserve(t, t->rows.n ? t->rows.n : 1);
  if (rc == SQLITE_OK) {
    m->n = t->rows.n;
    for (size_t i = 0; i < m->n; i++) m->stale[i >> 6] |= (uint64_t)1 << (i & 63);
    /* What 'optimize' wrote in a transaction that is still open stands for pending vectors. */
    bool has_codes = s.has_codes && !t->is_settle_wrong && !t->overlay.is_settled_touched;
    rc = has_codes ? mirror_load_codes(t, s.position.seq) : dvx_vectors_load_if_cold(t);
    for (size_t i = 0; i < m->n; i++) {
      if (m->stale[i >> 6] >> (i & 63) & 1) m->stale_list[m->n_stale++] = (uint32_t)i;
    }
  }
  if (rc != SQLITE_OK) dvx_mirror_free(t);
  return rc;
}

int dvx_mirror_ready(dvx_table *t) {
  dvx_mirror *m = &t->mirror;
  size_t n = t->config->dimensions, stride = dv_code_stride(n);
  if (!m->is_loaded) {
    int rc = mirror_load(t);
    if (rc != SQLITE_OK) return rc;
  }
  while (m->n_stale) {
    size_t i = m->stale_list[m->n_stale - 1];
    uint64_t bit = (uint64_t)1 << (i & 63);
    if (dvx_word_exists(t->rows.words[i + 1])) {
      const float *v = NULL;
      int rc = dvx_row_committed_vector(t, (uint32_t)i + 1, &v);
      if (rc != SQLITE_OK) return rc;
      int8_t *code = m->codes + i * stride;
      uint32_t meta = dv_code_encode(t->config->metric, v, n, code);
      m->code_rows[i] = dv_code_row_of(meta, code, n);
      if (m->has_bits) mirror_set_bits(t, i);
      m->live[i >> 6] |= bit;
    } else {
      memset(m->codes + i * stride, 0, n);
      m->live[i >> 6] &= ~bit;
    }
    m->stale[i >> 6] &= ~bit;
    m->n_stale--;
  }
  /* The first answer after loading comes from the int8 codes alone; making bits of all rows costs more than it saves
   * it. */
  if (m->n_searches++ > 0) mirror_recenter(t);
  return SQLITE_OK;
}
