/*
 * pages.c: which rows of a large array are in memory, and how their memory is given back.
 *
 * Mirror and graph keep codes and lists in arrays that have room for every row, filled as rows are asked for: an
 * untouched page of such an array takes no memory. Under a memory_limit (see dvx_table_trim) pages are taken away
 * again. Nothing is written then: what an array holds can be read again, or made.
 *
 * Who goes is decided as page tables do it, since counting every look would cost searches more than a miss: the hand
 * of a clock goes over the rows, 64 at a time or a few times as many, so that they fill whole pages. Rows it comes by
 * are put to sleep: still in memory, but the next look at them has to ask, which wakes them. Those that are
 * still asleep when the hand comes by again go.
 *
 * Once nearly all of an array is in memory and there is room for it, its pages are joined to large ones, where there are
 * such: a search looks at rows all over the array, and with 4 KB pages the CPU has to find out where nearly each of
 * them is. Not at once: a first answer would wait for whole large pages of which it needs a line.
 */
#include "ext_int.h"

#define PAGES_UNIT 4096u /* pages are counted in these where the system cannot take any back */

void dvx_pages_init(dvx_pages *p, size_t row_bytes, unsigned n_parts) {
  memset(p, 0, sizeof *p);
  size_t page = dvx_host_page_bytes();
  p->row_bytes = row_bytes;
  p->n_parts = n_parts;
  p->page_bytes = page ? page : PAGES_UNIT;
  p->can_give_back = page != 0;
  p->segment_rows = 64;
  while (p->segment_rows * row_bytes % p->page_bytes != 0) p->segment_rows *= 2;
}

void dvx_pages_free(dvx_pages *p) {
  sqlite3_free(p->has);
  sqlite3_free(p->asleep);
  sqlite3_free(p->held);
  memset(p, 0, sizeof *p);
}

int dvx_pages_reserve(dvx_pages *p, size_t n_rows) {
  n_rows = (n_rows + p->segment_rows - 1) / p->segment_rows * p->segment_rows;
  if (n_rows <= p->n_rows) return SQLITE_OK;
  size_t n_words = p->n_rows / 64, n_new = n_rows / 64;
  size_t n_held = (p->n_rows * p->row_bytes / p->page_bytes + 63) / 64;
  size_t n_held_new = (n_rows * p->row_bytes / p->page_bytes + 63) / 64;
  int rc = dvx_grow(&p->has, 8 * n_words, 8 * n_new);
  if (rc == SQLITE_OK) rc = dvx_grow(&p->asleep, 8 * n_words, 8 * n_new);
  if (rc == SQLITE_OK) rc = dvx_grow(&p->held, 8 * n_held, 8 * n_held_new);
  if (rc == SQLITE_OK) p->n_rows = n_rows;
  return rc;
}

/* The pages from `first` to before `end` take memory now. */
static inline void pages_hold(dvx_pages *p, size_t first, size_t end) {
  for (size_t i = first; i < end; i++) {
    uint64_t bit = (uint64_t)1 << (i & 63);
    p->n_held += (p->held[i >> 6] & bit) == 0;
    p->held[i >> 6] |= bit;
  }
}

void dvx_pages_put(dvx_pages *p, size_t row) {
  const size_t part = p->row_bytes / p->n_parts;
  size_t at = row / 64 * 64 * p->row_bytes + row % 64 * part;
  p->has[row >> 6] |= (uint64_t)1 << (row & 63);
  for (unsigned i = 0; i < p->n_parts; i++, at += 64 * part)
    pages_hold(p, at / p->page_bytes, (at + part - 1) / p->page_bytes + 1);
}

void dvx_pages_drop(dvx_pages *p, size_t row) {
  p->has[row >> 6] &= ~((uint64_t)1 << (row & 63));
  p->asleep[row >> 6] &= ~((uint64_t)1 << (row & 63));
}

bool dvx_pages_wake(dvx_pages *p, size_t row) {
  uint64_t *asleep = &p->asleep[row >> 6];
  if ((*asleep >> (row & 63) & 1) == 0) return false;
  p->has[row >> 6] |= *asleep;
  *asleep = 0;
  return true;
}

/* One step of the hand; the bytes given back. */
static size_t pages_step(dvx_pages *p, uint8_t *base) {
  const size_t first = p->hand, n_words = p->segment_rows / 64;
  const size_t n_pages = p->segment_rows * p->row_bytes / p->page_bytes;
  size_t n_given = 0;
  bool is_awake = false;
  p->hand = first + p->segment_rows < p->n_rows ? first + p->segment_rows : 0;
  if (first + p->segment_rows > p->n_array_rows) return 0; /* its last page is not the array's alone */
  for (size_t w = first / 64; w < first / 64 + n_words; w++) {
    is_awake |= p->has[w] != 0;
    p->asleep[w] |= p->has[w];
    p->has[w] = 0;
  }
  if (is_awake) return 0;
  size_t page = first * p->row_bytes / p->page_bytes;
  for (size_t i = page; i < page + n_pages; i++) {
    n_given += (size_t)(p->held[i >> 6] >> (i & 63) & 1);
    p->held[i >> 6] &= ~((uint64_t)1 << (i & 63));
  }
  if (n_given == 0) return 0;
  memset(p->asleep + first / 64, 0, n_words * sizeof *p->asleep);
  p->n_held -= n_given;
  dvx_host_give_back(base + first * p->row_bytes, n_pages * p->page_bytes);
  return n_given * p->page_bytes;
}

/* What is not in memory yet of a large page is then, too. */
bool dvx_pages_join(dvx_pages *p, void *base, size_t n_rows) {
  const size_t n_bytes = n_rows * p->row_bytes;
  if (base != p->joined_base) p->n_joined = 0;
  p->joined_base = base;
  size_t at = ((0 - (uintptr_t)base) & (DVX_LARGE_PAGE - 1)) + p->n_joined * DVX_LARGE_PAGE;
  if (at + DVX_LARGE_PAGE > n_bytes || dvx_pages_bytes(p) < n_bytes - n_bytes / 8) return false;
  if (!dvx_host_join((uint8_t *)base + at)) return false;
  p->n_joined++;
  pages_hold(p, at / p->page_bytes, (at + DVX_LARGE_PAGE) / p->page_bytes);
  return true;
}

void dvx_pages_give_back(dvx_pages *p, void *base, size_t n_bytes) {
  p->n_joined = 0; /* large pages of which a part goes are none any more */
  size_t n_segments = p->n_rows / p->segment_rows, n_given = 0;
  if (!p->can_give_back || (uintptr_t)base % p->page_bytes != 0) return;
  for (size_t i = 0; n_given < n_bytes && i < 2 * n_segments; i++) n_given += pages_step(p, base);
}
