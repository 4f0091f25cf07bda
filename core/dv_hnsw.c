/*
 * dv_hnsw.c: the graph. See the header for what it promises.
 */
#include "dv_hnsw.h"

#include <math.h>

DV_FP_STRICT_BEGIN

#define HNSW_FRESH ((uint32_t)1 << 31) /* in a pool: not expanded yet */
enum {
  HNSW_MAX_BATCH = 256,
  HNSW_REFINED = 64, /* rows measured by whole codes at a time */
  HNSW_AHEAD = 768, /* bytes of a half of a code that are fetched ahead */
  HNSW_BEAM = 2 /* nodes expanded at a time: their neighbours' codes are fetched together */
};

/* ---- life -------------------------------------------------------------------------------------------------------- */

#define HNSW_POLL_EVERY 1024u
static dv_status hnsw_poll(const dv_hnsw *g) { return g->poll ? g->poll(g->poll_ctx) : DV_OK; }

void dv_hnsw_init(dv_hnsw *g, uint32_t m, uint64_t seed, const dv_alloc *alloc) {
  memset(g, 0, sizeof *g);
  g->alloc = alloc;
  g->m = m;
  g->seed = seed;
  g->entry = DV_HNSW_NONE;
}

void dv_hnsw_free(dv_hnsw *g) {
  dv_alloc_free(g->alloc, g->ground_memory);
  dv_alloc_free(g->alloc, g->upper_at);
  dv_alloc_free(g->alloc, g->upper);
  dv_alloc_free(g->alloc, g->upper_row);
  dv_alloc_free(g->alloc, g->changed);
  dv_alloc_free(g->alloc, g->upper_changed);
  dv_alloc_free(g->alloc, g->code);
  dv_hnsw_init(g, g->m, g->seed, g->alloc);
}

/* Room for n_new items of `item` bytes; those behind the first n_filled are filled. */
static dv_status hnsw_grow(const dv_alloc *a, void *pointer, size_t item, size_t n_filled, size_t n_new, int fill) {
  uint8_t *p;
  memcpy(&p, pointer, sizeof p);
  p = dv_alloc_array(a, p, n_new, item);
  if (!p) return DV_NOMEM;
  memset(p + n_filled * item, fill, (n_new - n_filled) * item);
  memcpy(pointer, &p, sizeof p);
  return DV_OK;
}

/* The lists on the ground, which begin on a page: the caller may give some of them back to the system. */
static dv_status hnsw_grow_ground(dv_hnsw *g, size_t n_old, size_t n_filled, size_t n_new) {
  size_t before = g->ground ? (size_t)((uint8_t *)g->ground - g->ground_memory) : 0;
  if (n_new > SIZE_MAX - DV_HNSW_PAGE) return DV_NOMEM;
  uint8_t *p = dv_alloc_resize(g->alloc, g->ground_memory, n_new + DV_HNSW_PAGE);
  if (!p) return DV_NOMEM;
  size_t after = (0 - (size_t)(uintptr_t)p) & (DV_HNSW_PAGE - 1);
  if (n_old > 0 && after != before) memmove(p + after, p + before, n_old);
  memset(p + after + n_filled, 0xff, n_new - n_filled);
  g->ground_memory = p;
  g->ground = (uint32_t *)(void *)(p + after);
  return DV_OK;
}

dv_status dv_hnsw_reserve_unread(dv_hnsw *g, uint32_t n, uint32_t n_unread) {
  if (n > DV_HNSW_MAX_ROWS) return DV_LIMIT;
  if (n > g->capacity) {
    size_t old = g->capacity, list = (size_t)2 * g->m * sizeof *g->ground;
    size_t capacity = (old + old / 2 > n ? old + old / 2 : n) + 63;
    capacity &= ~(size_t)63;
    size_t filled = n_unread > old ? n_unread : old;
    if (list > SIZE_MAX / capacity) return DV_NOMEM;
    dv_status st = hnsw_grow_ground(g, old * list, filled * list, capacity * list);
    if (st == DV_OK) st = hnsw_grow(g->alloc, &g->upper_at, sizeof *g->upper_at, old, capacity, 0xff);
    if (st == DV_OK) st = hnsw_grow(g->alloc, &g->changed, 1, old / 8, capacity / 8, 0);
    if (st != DV_OK) return st;
    g->capacity = (uint32_t)capacity;
  }
  if (n > g->n) g->n = n;
  return DV_OK;
}

dv_status dv_hnsw_reserve(dv_hnsw *g, uint32_t n) { return dv_hnsw_reserve_unread(g, n, 0); }

dv_status dv_hnsw_reserve_upper(dv_hnsw *g, size_t n) {
  if (n <= g->upper_capacity) return DV_OK;
  size_t old = g->upper_capacity, list = g->m * sizeof *g->upper;
  size_t capacity = ((old + old / 2 > n ? old + old / 2 : n) + 63) & ~(size_t)63;
  dv_status st = hnsw_grow(g->alloc, &g->upper, list, old, capacity, 0xff);
  if (st == DV_OK) st = hnsw_grow(g->alloc, &g->upper_row, sizeof *g->upper_row, old, capacity, 0xff);
  if (st == DV_OK) st = hnsw_grow(g->alloc, &g->upper_changed, 1, old / 8, capacity / 8, 0);
  if (st == DV_OK) g->upper_capacity = (uint32_t)capacity;
  return st;
}

void dv_hnsw_scratch_init(dv_hnsw_scratch *s, const dv_alloc *alloc) {
  memset(s, 0, sizeof *s);
  s->alloc = alloc;
}

void dv_hnsw_scratch_free(dv_hnsw_scratch *s) {
  dv_alloc_free(s->alloc, s->visited);
  dv_alloc_free(s->alloc, s->pool);
  dv_alloc_free(s->alloc, s->keys);
  dv_alloc_free(s->alloc, s->rows);
  dv_alloc_free(s->alloc, s->codes);
  dv_hnsw_scratch_init(s, s->alloc);
}

/* Room for rows' codes. */
static dv_status hnsw_reserve_codes(const dv_alloc *alloc, int8_t **codes, size_t *capacity, size_t n_bytes) {
  if (n_bytes <= *capacity) return DV_OK;
  int8_t *p = dv_alloc_resize(alloc, *codes, n_bytes);
  if (!p) return DV_NOMEM;
  *codes = p;
  *capacity = n_bytes;
  return DV_OK;
}

static dv_status hnsw_scratch_reserve(dv_hnsw_scratch *s, const dv_hnsw *g, const dv_hnsw_space *space, size_t ef) {
  size_t n_words = ((size_t)g->n + 63) / 64;
  if (n_words > s->n_visited_words) {
    uint64_t *p = dv_alloc_array(s->alloc, s->visited, n_words + n_words / 2, sizeof *p);
    if (!p) return DV_NOMEM;
    s->visited = p;
    s->n_visited_words = n_words + n_words / 2;
  }
  if (ef + 1 > s->pool_capacity) {
    dv_hnsw_hit *p = dv_alloc_array(s->alloc, s->pool, ef + 1, sizeof *p);
    if (!p) return DV_NOMEM;
    s->pool = p;
    uint64_t *keys = dv_alloc_array(s->alloc, s->keys, ef + 1, sizeof *keys);
    if (!keys) return DV_NOMEM;
    s->keys = keys;
    s->pool_capacity = ef + 1;
  }
  size_t n_rows = (size_t)HNSW_BEAM * 2 * g->m;
  if (n_rows > s->row_capacity) {
    uint32_t *p = dv_alloc_array(s->alloc, s->rows, n_rows, 3 * sizeof *p);
    if (!p) return DV_NOMEM;
    s->rows = p;
    s->distances = (float *)(void *)(p + n_rows);
    s->dots = (int32_t *)(void *)(p + 2 * n_rows);
    s->row_capacity = n_rows;
  }
  return hnsw_reserve_codes(s->alloc, &s->codes, &s->code_capacity, 2 * dv_code_stride(space->n));
}

/* ---- lists ------------------------------------------------------------------------------------------------------- */

static inline uint32_t *hnsw_list(const dv_hnsw *g, uint32_t row, uint32_t level) {
  return level == 0 ? g->ground + (size_t)row * 2 * g->m : g->upper + ((size_t)g->upper_at[row] + level - 1) * g->m;
}

static inline size_t hnsw_room(const dv_hnsw *g, uint32_t level) { return level == 0 ? (size_t)2 * g->m : g->m; }

static inline size_t hnsw_count(const uint32_t *list, size_t room) {
  size_t n = 0;
  while (n < room && list[n] != DV_HNSW_NONE) n++;
  return n;
}

static void hnsw_touch(dv_hnsw *g, uint32_t row, uint32_t level) {
  if (level == 0) {
    g->changed[row >> 6] |= (uint64_t)1 << (row & 63);
  } else {
    uint32_t i = g->upper_at[row] + level - 1;
    g->upper_changed[i >> 6] |= (uint64_t)1 << (i & 63);
  }
}

void dv_hnsw_forget_changes(dv_hnsw *g) {
  if (g->changed) memset(g->changed, 0, g->capacity / 8);
  if (g->upper_changed) memset(g->upper_changed, 0, g->upper_capacity / 8);
}

static void hnsw_list_add(dv_hnsw *g, uint32_t row, uint32_t level, uint32_t other) {
  uint32_t *list = hnsw_list(g, row, level);
  size_t n = hnsw_count(list, hnsw_room(g, level));
  if (n == hnsw_room(g, level)) return; /* only in a graph that came from elsewhere, with links that go one way */
  list[n] = other;
  hnsw_touch(g, row, level);
}

static void hnsw_list_remove(dv_hnsw *g, uint32_t row, uint32_t level, uint32_t other) {
  uint32_t *list = hnsw_list(g, row, level);
  size_t room = hnsw_room(g, level), i = 0;
  while (i < room && list[i] != other && list[i] != DV_HNSW_NONE) i++;
  if (i == room || list[i] != other) return;
  for (; i + 1 < room && list[i + 1] != DV_HNSW_NONE; i++) list[i] = list[i + 1];
  list[i] = DV_HNSW_NONE;
  hnsw_touch(g, row, level);
}

static bool hnsw_list_has(const dv_hnsw *g, uint32_t row, uint32_t level, uint32_t other) {
  const uint32_t *list = hnsw_list(g, row, level);
  for (size_t i = 0; i < hnsw_room(g, level) && list[i] != DV_HNSW_NONE; i++)
    if (list[i] == other) return true;
  return false;
}

uint32_t dv_hnsw_level(const dv_hnsw *g, uint32_t row) {
  uint64_t h = ((uint64_t)row + 1) * 0x9e3779b97f4a7c15u + g->seed;
  h = (h ^ h >> 30) * 0xbf58476d1ce4e5b9u;
  h = (h ^ h >> 27) * 0x94d049bb133111ebu;
  h ^= h >> 31;
  uint32_t level = 0;
  for (uint64_t below = UINT64_MAX / g->m; h < below && level < DV_HNSW_MAX_LEVEL; below /= g->m) level++;
  return level;
}

bool dv_hnsw_is_linked(const dv_hnsw *g, uint32_t row) {
  return row < g->n && (g->ground[(size_t)row * 2 * g->m] != DV_HNSW_NONE || row == g->entry);
}

/* ---- distances --------------------------------------------------------------------------------------------------- */

/* What a search looks for: a query, or the place of a row. */
typedef struct hnsw_target {
  const dv_hnsw_space *space;
  const dv_code_query *query; /* NULL: a row */
  const int8_t *code;
  int32_t sum; /* of the code */
  float scale;
  float norm_sq;
  bool is_coarse; /* walk by the high halves of codes */
} hnsw_target;

/* Are high halves enough to walk by? What the low ones say is in a product with n numbers like noise of 16/sqrt(12) times
 * their length: beside the product of two codes of a kind, 4.6 / length. Where that is below a hundredth, a search by high
 * halves finds nearly what one by whole codes finds (measured with 384 dimensions: up to .8 points of recall less at ef =
 * 24 and 32, up to .15 from 48 on, in .7 of the time). It is no gain where one number of a code is much larger than all
 * others, nor where a code is no more than four lines of memory (200 dimensions: neither faster nor slower; 128: a point
 * less at ef = 24). */
#define HNSW_COARSE_SQ 262144.0

static inline bool hnsw_is_coarse(const dv_hnsw_space *s, double code_sq, float scale) {
  return dv_code_is_long(dv_code_stride(s->n)) && code_sq >= HNSW_COARSE_SQ * (double)scale * (double)scale;
}

/* code: room for dv_code_stride(n). */
static hnsw_target hnsw_target_row(const dv_hnsw_space *s, uint32_t row, int8_t *code) {
  const dv_code_row *r = &s->rows[row];
  hnsw_target t = {.space = s, .code = code, .scale = r->scale, .norm_sq = r->norm_sq};
  t.sum = dv_code_unpack(s->codes, row, s->n, code);
  t.is_coarse = hnsw_is_coarse(s, (double)r->norm_sq, r->scale);
  return t;
}

static hnsw_target hnsw_target_query(const dv_hnsw_space *s, const dv_code_query *q) {
  hnsw_target t = {.space = s, .query = q, .code = q->code, .sum = q->sum};
  t.is_coarse = hnsw_is_coarse(s, q->code_sq, q->scale);
  return t;
}

/* Of two rows. */
static inline float hnsw_product(float scale, const dv_code_row *row, int32_t dot) {
  return scale * row->scale * (float)dot;
}

static inline float hnsw_apart(const hnsw_target *t, const dv_code_row *row, int32_t dot) {
  return (t->norm_sq + row->norm_sq) - 2.0f * hnsw_product(t->scale, row, dot);
}

/* What is told of growth begins here: the very nearest may be anywhere. */
#define HNSW_NEAR 10u
/* Of squares of distances by high halves, for vectors of length 1: what they leave out is .009 of a product. */
#define HNSW_NOISE 0.02

enum { HNSW_MAX_LIST = 2 * DV_HNSW_MAX_M + 1 };

/* Values so large that a distance is not a number make it the largest; and -0 is 0, so that equal distances have equal bits. */
static inline float hnsw_number(float d) { return d == d ? d + 0.0f : INFINITY; }

/* Distances by whole codes or by their high halves. */
static void hnsw_measure_by(const hnsw_target *t, bool is_coarse, const uint32_t *rows, size_t n, int32_t *dots,
                            float *out) {
  const dv_hnsw_space *s = t->space;
  const size_t stride = dv_code_stride(s->n);
  if (is_coarse) {
    s->kernels->gather_high(s->codes, stride, rows, n, t->code, t->sum, dots);
  } else {
    s->kernels->gather_code(s->codes, stride, rows, n, t->code, t->sum, dots);
  }
  /* Copies, since out might be a part of what they are copies of, and a loop for each, since most of the work is to choose. */
  const dv_code_row *code_rows = s->rows;
  const bool is_l2 = s->metric == DV_L2;
  if (t->query && !is_l2) {
    const float weight = t->query->weight;
    for (size_t i = 0; i < n; i++) out[i] = hnsw_number(-dv_code_product(weight, &code_rows[rows[i]], dots[i]));
  } else if (t->query) {
    for (size_t i = 0; i < n; i++) out[i] = hnsw_number(dv_code_estimate(t->query, &code_rows[rows[i]], dots[i]));
  } else if (!is_l2) {
    const float scale = t->scale;
    for (size_t i = 0; i < n; i++) out[i] = hnsw_number(-hnsw_product(scale, &code_rows[rows[i]], dots[i]));
  } else {
    for (size_t i = 0; i < n; i++) out[i] = hnsw_number(hnsw_apart(t, &code_rows[rows[i]], dots[i]));
  }
}

/* n <= HNSW_MAX_LIST */
static void hnsw_measure(const hnsw_target *t, const uint32_t *rows, size_t n, float *out) {
  int32_t dots[HNSW_MAX_LIST];
  hnsw_measure_by(t, false, rows, n, dots, out);
}

/* The distances that a search walks by. */
static void hnsw_measure_walk(const hnsw_target *t, const uint32_t *rows, size_t n, int32_t *dots, float *out) {
  hnsw_measure_by(t, t->is_coarse, rows, n, dots, out);
}

/* Squares of distances are unit * d + offset, for what distances are measured here, and in doubt by `noise`. False: they do
 * not follow from it. */
static bool hnsw_is_apart(const hnsw_target *t, double *unit, double *offset, double *noise) {
  const dv_code_query *q = t->query;
  const bool is_cosine = t->space->metric == DV_COSINE;
  if (!is_cosine && t->space->metric != DV_L2) return false;
  if (q && !(q->weight > 0.0f)) return false; /* everything is as far from it */
  *unit = !is_cosine ? 1.0 : q ? 2.0 * (double)q->scale / (double)q->weight : 2.0;
  *offset = is_cosine ? 2.0 : 0.0;
  *noise = HNSW_NOISE * (is_cosine ? 1.0 : q ? q->code_sq : (double)t->norm_sq);
  return true;
}

/* How many times as far as the HNSW_NEAR-th the n-th is; between two ends of octaves on the line. */
static double hnsw_growth_to(size_t n, const double *growth) {
  double x = (double)n / HNSW_NEAR, far = 1.0;
  size_t octave = 0;
  while (x >= 2.0) {
    far *= growth[octave];
    if (octave + 1 < DV_HNSW_OCTAVES) octave++;
    x /= 2.0;
  }
  return far * (1.0 + (x - 1.0) * (growth[octave] - 1.0));
}

static inline bool hnsw_is_nearer(float d, uint32_t row, const dv_hnsw_hit *than) {
  return d < than->distance || (d == than->distance && row < (than->row & ~HNSW_FRESH));
}

/* ---- the pool ---------------------------------------------------------------------------------------------------- */

/* Puts a row into a sorted pool of at most `most`, which holds *n; its place, or `most` if there is none for it. */
static inline size_t hnsw_hits_add(dv_hnsw_hit *pool, size_t *n, size_t most, float d, uint32_t row) {
  if (*n == most && !hnsw_is_nearer(d, row, &pool[*n - 1])) return most;
  size_t i = *n == most ? *n - 1 : (*n)++;
  for (; i > 0 && hnsw_is_nearer(d, row, &pool[i - 1]); i--) pool[i] = pool[i - 1];
  pool[i].distance = d;
  pool[i].row = row | HNSW_FRESH;
  return i;
}

static inline size_t hnsw_pool_add(dv_hnsw_scratch *s, size_t ef, float d, uint32_t row) {
  return hnsw_hits_add(s->pool, &s->n_pool, ef, d, row);
}

/*
 * While a level is searched the pool is one of keys: numbers in the order of the hits that they stand for. A hit finds its
 * place among others by comparing and moving them one after the other, and with numbers that is less work. From the
 * top: the distance's bits, made to rise as distances do; the row; and whether it is to be expanded.
 */
#define HNSW_KEY_FRESH ((uint64_t)1)

static inline uint64_t hnsw_key(float distance, uint32_t row) {
  uint32_t bits = dv_float_bits(distance); /* never -0 */
  bits = bits >> 31 ? ~bits : bits | (uint32_t)1 << 31;
  return (uint64_t)bits << 32 | (uint64_t)row << 1 | HNSW_KEY_FRESH;
}

static inline uint32_t hnsw_key_row(uint64_t key) { return (uint32_t)key >> 1; }

static inline float hnsw_key_distance(uint64_t key) {
  uint32_t bits = (uint32_t)(key >> 32);
  return dv_bits_float(bits >> 31 ? bits & ~((uint32_t)1 << 31) : ~bits);
}

/* The first n hits of the pool as they are now; all of them have been expanded. */
static void hnsw_keys_to_pool(dv_hnsw_scratch *s, size_t n) {
  for (size_t i = 0; i < n; i++) s->pool[i] = (dv_hnsw_hit){hnsw_key_distance(s->keys[i]), hnsw_key_row(s->keys[i])};
}

/* As hnsw_pool_add. */
static inline size_t hnsw_keys_add(dv_hnsw_scratch *s, size_t ef, uint64_t key) {
  uint64_t *keys = s->keys;
  size_t i = s->n_pool;
  if (i == ef) {
    if (key > keys[i - 1]) return ef;
    i--;
  } else {
    s->n_pool++;
  }
  for (; i > 0 && key < keys[i - 1]; i--) keys[i] = keys[i - 1];
  keys[i] = key;
  return i;
}

/* Of n rows that were measured, those that are not farther than that. Most are, and no CPU can guess which: so no branch
 * asks. */
static inline size_t hnsw_keep_near(dv_hnsw_scratch *s, size_t n, float farthest) {
  size_t n_near = 0;
  for (size_t i = 0; i < n; i++) {
    float d = s->distances[i];
    s->distances[n_near] = d;
    s->rows[n_near] = s->rows[i];
    n_near += d <= farthest;
  }
  return n_near;
}

static inline bool hnsw_visit(uint64_t *visited, uint32_t row) {
  uint64_t word = visited[row >> 6];
  visited[row >> 6] = word | (uint64_t)1 << (row & 63);
  return (word >> (row & 63) & 1) == 0;
}

/* ---- what is in memory ------------------------------------------------------------------------------------------- */

static inline bool hnsw_has(const uint64_t *bits, uint32_t row) { return bits[row >> 6] >> (row & 63) & 1; }

static dv_status hnsw_need_codes(const dv_hnsw_space *space, const uint32_t *rows, size_t n) {
  const dv_hnsw_pager *p = space->pager;
  dv_status st = DV_OK;
  for (size_t i = 0; p && i < n && st == DV_OK; i++)
    if (DV_UNLIKELY(!hnsw_has(p->has_code, rows[i]))) st = p->need_code(p->ctx, rows[i]);
  return st;
}

static inline dv_status hnsw_need_list(const dv_hnsw_space *space, uint32_t row) {
  const dv_hnsw_pager *p = space->pager;
  return p && DV_UNLIKELY(!hnsw_has(p->has_list, row)) ? p->need_list(p->ctx, row) : DV_OK;
}

/* ---- searching one level ----------------------------------------------------------------------------------------- */

/* Into the second-level cache: what limits a search is how many lines can be on their way at a time, and more can be
 * there than to the first level (measured: a fifth faster). */
static inline void hnsw_prefetch_half(const uint8_t *half, size_t n) {
  if (n > HNSW_AHEAD) n = HNSW_AHEAD; /* the rest comes by itself */
  for (size_t i = 0; i < n; i += 64) DV_PREFETCH_FAR(half + i);
}

/* Its high halves, or all of it. */
static inline void hnsw_prefetch_code(const dv_hnsw_space *space, uint32_t row, bool is_coarse) {
  const size_t stride = dv_code_stride(space->n), half = stride / 2;
  const uint8_t *high = space->codes + dv_code_at(row, stride);
  hnsw_prefetch_half(high, half);
  if (!is_coarse) hnsw_prefetch_half(high + dv_code_to_low(half), half);
  DV_PREFETCH(&space->rows[row]);
}

static inline void hnsw_prefetch_list(const dv_hnsw *g, uint32_t row, uint32_t level) {
  const uint32_t *list = hnsw_list(g, row, level);
  DV_PREFETCH(list);
  DV_PREFETCH(list + 16);
}

/* Where a search of a level ends. */
typedef struct hnsw_end {
  size_t most; /* the pool holds so many */
  size_t least; /* the nearest so many are expanded, ... */
  size_t k; /* ... and who is not farther than slope * the k-th's distance + base; 0: only they */
  float slope, base;
} hnsw_end;

static inline hnsw_end hnsw_end_of(size_t ef) { return (hnsw_end){.most = ef, .least = ef}; }

/* The last key that is worth a place in the pool. */
static inline uint64_t hnsw_last_key(const hnsw_end *end, const dv_hnsw_scratch *s) {
  const uint64_t *keys = s->keys;
  if (s->n_pool < end->least) return UINT64_MAX;
  uint64_t last = keys[end->least - 1];
  if (end->k) {
    const float far = end->slope * hnsw_key_distance(keys[end->k - 1]) + end->base;
    const uint64_t farthest = hnsw_key(hnsw_number(far), DV_HNSW_MAX_ROWS - 1);
    if (farthest > last) last = farthest;
    if (s->n_pool == end->most && keys[end->most - 1] < last) last = keys[end->most - 1];
  }
  return last;
}

/* From what the pool holds (all visited, all fresh) to the nearest that links lead to. */
static dv_status hnsw_search_level(const dv_hnsw *g, const hnsw_target *t, uint32_t level, const hnsw_end *end,
                                   const dv_hnsw_watch *watch, dv_hnsw_scratch *s) {
  const size_t room = hnsw_room(g, level);
  uint64_t *keys = s->keys, *visited = s->visited;
  size_t at = 0, n_watched = watch ? watch->first : SIZE_MAX;
  for (size_t i = 0; i < s->n_pool; i++) keys[i] = hnsw_key(s->pool[i].distance, s->pool[i].row & ~HNSW_FRESH);
  uint64_t last = hnsw_last_key(end, s);
  while (at < s->n_pool) {
    if ((keys[at] & HNSW_KEY_FRESH) == 0) {
      at++;
      continue;
    }
    if (keys[at] > last) break;
    if (at >= n_watched) {
      hnsw_keys_to_pool(s, at);
      if (!watch->goes_on(watch->ctx, s->pool, at)) {
        s->n_pool = at;
        return DV_OK;
      }
      n_watched = at + at / 4 + 1;
    }
    uint32_t *rows = s->rows;
    size_t n = 0;
    size_t next = at;
    for (size_t n_expanded = 0; next < s->n_pool && keys[next] <= last && n_expanded < HNSW_BEAM; next++) {
      if ((keys[next] & HNSW_KEY_FRESH) == 0) continue;
      keys[next] &= ~HNSW_KEY_FRESH;
      uint32_t row = hnsw_key_row(keys[next]);
      dv_status st = level == 0 ? hnsw_need_list(t->space, row) : DV_OK;
      if (st != DV_OK) return st;
      const uint32_t *list = hnsw_list(g, row, level);
      /* Half of them were seen before: no branch asks here, either. */
      const size_t first = n;
      for (size_t j = 0; j < room && list[j] != DV_HNSW_NONE; j++) {
        const uint32_t other = list[j]; /* rows might be the list, for all that a compiler knows */
        rows[n] = other;
        n += hnsw_visit(visited, other);
      }
      for (size_t j = first; j < n; j++) hnsw_prefetch_code(t->space, rows[j], t->is_coarse);
      s->n_hops++;
      n_expanded++;
    }
    s->n_distances += n;
    /* What is probably expanded next, unless some of these rows come before it. */
    for (size_t n_ahead = 0; next < s->n_pool && n_ahead < HNSW_BEAM; next++) {
      if ((keys[next] & HNSW_KEY_FRESH) == 0) continue;
      hnsw_prefetch_list(g, hnsw_key_row(keys[next]), level);
      n_ahead++;
    }
    dv_status st = hnsw_need_codes(t->space, rows, n);
    if (st != DV_OK) return st;
    hnsw_measure_walk(t, rows, n, s->dots, s->distances);
    if (last != UINT64_MAX) n = hnsw_keep_near(s, n, hnsw_key_distance(last));
    size_t lowest = at + 1;
    for (size_t i = 0; i < n; i++) {
      size_t place = hnsw_keys_add(s, end->most, hnsw_key(s->distances[i], rows[i]));
      if (place < at + (size_t)2 * HNSW_BEAM) hnsw_prefetch_list(g, rows[i], level);
      if (place < lowest) lowest = place;
    }
    at = lowest;
    last = hnsw_last_key(end, s);
  }
  while (s->n_pool > 0 && keys[s->n_pool - 1] > last) s->n_pool--;
  hnsw_keys_to_pool(s, s->n_pool);
  return DV_OK;
}

/* The nearest on a level above the ground by going from neighbour to nearer neighbour. */
static dv_status hnsw_descend(const dv_hnsw *g, const hnsw_target *t, uint32_t level, dv_hnsw_hit *at,
                              dv_hnsw_scratch *s) {
  for (;;) {
    float distances[DV_HNSW_MAX_M];
    const uint32_t *list = hnsw_list(g, at->row, level);
    size_t n = hnsw_count(list, g->m);
    dv_status st = hnsw_need_codes(t->space, list, n);
    if (st != DV_OK) return st;
    for (size_t i = 0; i < n; i++) {
      hnsw_prefetch_code(t->space, list[i], t->is_coarse);
      DV_PREFETCH(&g->upper_at[list[i]]);
    }
    for (size_t i = 0; i < n; i++) DV_PREFETCH(hnsw_list(g, list[i], level)); /* one of them is read next */
    int32_t dots[DV_HNSW_MAX_M];
    hnsw_measure_walk(t, list, n, dots, distances);
    s->n_hops++;
    s->n_distances += n;
    dv_hnsw_hit best = *at;
    for (size_t i = 0; i < n; i++)
      if (hnsw_is_nearer(distances[i], list[i], &best)) best = (dv_hnsw_hit){distances[i], list[i]};
    if (best.row == at->row) return DV_OK;
    *at = best;
    hnsw_prefetch_list(g, best.row, level - 1);
  }
}

/* Begins a search: from the entry down to the level above `level`. */
static dv_status hnsw_approach(const dv_hnsw *g, const hnsw_target *t, uint32_t level, dv_hnsw_hit *at,
                               dv_hnsw_scratch *s) {
  at->row = g->entry;
  dv_status st = hnsw_need_codes(t->space, &at->row, 1);
  if (st != DV_OK) return st;
  int32_t dot;
  hnsw_measure_walk(t, &at->row, 1, &dot, &at->distance);
  s->n_distances++;
  for (uint32_t l = g->top; st == DV_OK && l > level; l--) st = hnsw_descend(g, t, l, at, s);
  return st;
}

/* What a search by high halves has found gets the distances that whole codes have, and the order of those. */
static void hnsw_refine(const hnsw_target *t, dv_hnsw_scratch *s) {
  const dv_hnsw_space *space = t->space;
  const size_t stride = dv_code_stride(space->n), half = stride / 2, n = s->n_pool;
  if (!t->is_coarse) return;
  for (size_t i = 0; i < n; i++)
    hnsw_prefetch_half(space->codes + dv_code_at(s->pool[i].row & ~HNSW_FRESH, stride) + dv_code_to_low(half), half);
  s->n_pool = 0;
  for (size_t first = 0; first < n; first += HNSW_REFINED) {
    uint32_t rows[HNSW_REFINED];
    float distances[HNSW_REFINED];
    const size_t n_here = n - first < HNSW_REFINED ? n - first : HNSW_REFINED;
    for (size_t i = 0; i < n_here; i++) rows[i] = s->pool[first + i].row & ~HNSW_FRESH;
    hnsw_measure(t, rows, n_here, distances);
    /* A place is never behind the one it had room for: nothing that is not read yet is written over. */
    for (size_t i = 0; i < n_here; i++) {
      size_t at = hnsw_pool_add(s, n, distances[i], rows[i]);
      s->pool[at].row &= ~HNSW_FRESH;
    }
  }
}

/* Nothing is visited but what is in the pool, and that is to be expanded again, on another level. */
static void hnsw_pool_restart(const dv_hnsw *g, dv_hnsw_scratch *s) {
  DV_ASSERT(s->visited != NULL); /* a graph with an entry has rows, and so has their bitmap */
  memset(s->visited, 0, ((size_t)g->n + 63) / 64 * sizeof *s->visited);
  for (size_t i = 0; i < s->n_pool; i++) {
    (void)hnsw_visit(s->visited, s->pool[i].row & ~HNSW_FRESH);
    s->pool[i].row |= HNSW_FRESH;
  }
}

/*
 * Where a search for the k nearest ends if it is known how distances grow. With ef alone it ends at the distance of the
 * ef-th of what it has found, wherever that is for this query. Here it ends at as many times the distance of the k-th as
 * the ef-th has at the mean: what queries with near neighbours, which are easy, do not need is spent on those without
 * ("Distance Adaptive Beam Search for Provably Accurate Graph-Based Nearest Neighbor Search", arXiv 2505.15636). ef / 2
 * rows are expanded in any case, and 2 ef at most.
 */
static hnsw_end hnsw_end_by_growth(const hnsw_target *t, size_t k, size_t ef, const double *growth) {
  hnsw_end end = hnsw_end_of(ef);
  double unit, offset, noise;
  if (k < HNSW_NEAR) k = HNSW_NEAR;
  if (!growth || ef <= k || !hnsw_is_apart(t, &unit, &offset, &noise)) return end;
  /* Within the mean distance of the n-th are more than n at the mean, and more so the farther it is from the k-th's. */
  double ratio = hnsw_growth_to(ef - (ef - k) / 4, growth) / hnsw_growth_to(k, growth);
  ratio *= ratio; /* of squares */
  end.most = 2 * ef;
  end.least = ef / 2 > k ? ef / 2 : k;
  end.k = k;
  end.slope = (float)ratio;
  end.base = (float)((ratio - 1.0) * (offset + noise) / unit);
  return end;
}

static dv_status hnsw_search(const dv_hnsw *g, const dv_hnsw_space *space, const dv_code_query *q, size_t k, size_t ef,
                             const double *growth, const dv_hnsw_watch *watch, dv_hnsw_scratch *s) {
  s->n_pool = s->n_distances = s->n_hops = 0;
  hnsw_target t = hnsw_target_query(space, q);
  hnsw_end end = hnsw_end_by_growth(&t, k, ef, growth);
  dv_status st = hnsw_scratch_reserve(s, g, space, end.most);
  if (st != DV_OK || g->entry == DV_HNSW_NONE || ef == 0) return st;
  st = hnsw_approach(g, &t, 0, &s->pool[0], s);
  if (st != DV_OK) return st;
  s->n_pool = 1;
  hnsw_pool_restart(g, s);
  st = hnsw_search_level(g, &t, 0, &end, watch, s); /* every hit has been expanded: no top bit is left */
  if (st == DV_OK) hnsw_refine(&t, s);
  return st;
}

dv_status dv_hnsw_search(const dv_hnsw *g, const dv_hnsw_space *space, const dv_code_query *q, size_t ef,
                         dv_hnsw_scratch *s) {
  return hnsw_search(g, space, q, ef, ef, NULL, NULL, s);
}

dv_status dv_hnsw_search_watched(const dv_hnsw *g, const dv_hnsw_space *space, const dv_code_query *q, size_t ef,
                                 const dv_hnsw_watch *watch, dv_hnsw_scratch *s) {
  return hnsw_search(g, space, q, ef, ef, NULL, watch, s);
}

dv_status dv_hnsw_search_nearest(const dv_hnsw *g, const dv_hnsw_space *space, const dv_code_query *q, size_t k,
                                 size_t ef, const double *growth, dv_hnsw_scratch *s) {
  return hnsw_search(g, space, q, k, ef, growth, NULL, s);
}

/* ---- choosing links ---------------------------------------------------------------------------------------------- */

enum { HNSW_CHOICE = 64 }; /* candidates that are looked at together */

/* Takes those candidates out of left[0 .. n) that are nearer to chosen[at] than to the place they are chosen for; how many
 * stay. code: room for a row's. */
static size_t hnsw_leave_out(const dv_hnsw_space *space, const dv_hnsw_hit *candidates, uint32_t at, int8_t *code,
                             uint32_t *left, size_t n, uint32_t *by) {
  if (n == 0) return 0;
  hnsw_target t = hnsw_target_row(space, candidates[at].row & ~HNSW_FRESH, code);
  uint32_t rows[HNSW_CHOICE];
  float distances[HNSW_CHOICE];
  size_t n_left = 0;
  for (size_t i = 0; i < n; i++) rows[i] = candidates[left[i]].row & ~HNSW_FRESH;
  hnsw_measure(&t, rows, n, distances);
  for (size_t i = 0; i < n; i++) {
    const uint32_t candidate = left[i];
    const bool is_hidden = distances[i] < candidates[candidate].distance;
    if (is_hidden && by) by[candidate] = at;
    left[n_left] = candidate;
    n_left += !is_hidden;
  }
  return n_left;
}

/*
 * Of candidates in order of distance from a place, up to `want` such that none is nearer to one before it than to the
 * place: each leads somewhere else. chosen gets their positions; by[i], if not NULL, for a candidate left out the
 * position of the first that stands before it, or DV_HNSW_NONE if there was no room. If there is a `by`, the choice is
 * for the sake of the candidate at `needed`: it ends, with 0, when that one is left out. code: room for a row's.
 *
 * Who is chosen is compared with all that are left at a time. These are the comparisons of going through the candidates
 * one by one, but only the codes of the chosen are unpacked, and a kernel gets many rows.
 */
static size_t hnsw_choose(const dv_hnsw_space *space, const dv_hnsw_hit *candidates, size_t n, size_t want,
                          int8_t *code, uint32_t *chosen, uint32_t *by, size_t needed) {
  size_t n_chosen = 0;
  for (size_t i = 0; by && i < n; i++) by[i] = DV_HNSW_NONE;
  for (size_t first = 0; first < n && n_chosen < want; first += HNSW_CHOICE) {
    uint32_t left[HNSW_CHOICE];
    size_t n_left = 0, at = 0;
    for (size_t i = first; i < n && n_left < HNSW_CHOICE; i++) left[n_left++] = (uint32_t)i;
    for (size_t j = 0; j < n_chosen || (at < n_left && n_chosen < want); j++) {
      if (j == n_chosen) chosen[n_chosen++] = left[at++];
      if (!by && n_chosen == want) return n_chosen;
      n_left = at + hnsw_leave_out(space, candidates, chosen[j], code, left + at, n_left - at, by);
      if (by && by[needed] != DV_HNSW_NONE) return 0;
    }
  }
  return n_chosen;
}

/* Adds the nearest of those that were left out until there are `want`. An inner product is no distance: a long row is
 * nearer to most rows than they are to each other, and hides them all. */
static size_t hnsw_fill_up(size_t n, size_t n_chosen, size_t want, uint32_t *chosen) {
  const size_t n_first = n_chosen; /* they rise */
  for (size_t i = 0, at = 0; i < n && n_chosen < want; i++) {
    if (at < n_first && chosen[at] == i) {
      at++;
    } else {
      chosen[n_chosen++] = (uint32_t)i;
    }
  }
  return n_chosen;
}

/* ---- changing links ---------------------------------------------------------------------------------------------- */

static void hnsw_sort(dv_hnsw_hit *h, size_t n) {
  for (size_t i = 1; i < n; i++) {
    dv_hnsw_hit moved = h[i];
    size_t j = i;
    for (; j > 0 && hnsw_is_nearer(moved.distance, moved.row, &h[j - 1]); j--) h[j] = h[j - 1];
    h[j] = moved;
  }
}

static inline size_t hnsw_degree(const dv_hnsw *g, uint32_t row, uint32_t level) {
  return hnsw_count(hnsw_list(g, row, level), hnsw_room(g, level));
}

static inline bool hnsw_is_full(const dv_hnsw *g, uint32_t row, uint32_t level) {
  return hnsw_list(g, row, level)[hnsw_room(g, level) - 1] != DV_HNSW_NONE;
}

static void hnsw_join(dv_hnsw *g, uint32_t a, uint32_t b, uint32_t level) {
  hnsw_list_add(g, a, level, b);
  hnsw_list_add(g, b, level, a);
}

static void hnsw_part(dv_hnsw *g, uint32_t a, uint32_t b, uint32_t level) {
  hnsw_list_remove(g, a, level, b);
  hnsw_list_remove(g, b, level, a);
}

/* The neighbours of a row, sorted by their distance from it. */
static size_t hnsw_neighbours(const dv_hnsw *g, const dv_hnsw_space *space, uint32_t row, uint32_t level,
                              dv_hnsw_hit *out) {
  float distances[2 * DV_HNSW_MAX_M];
  const uint32_t *list = hnsw_list(g, row, level);
  size_t n = hnsw_count(list, hnsw_room(g, level));
  for (size_t i = 0; i < n; i++) hnsw_prefetch_code(space, list[i], false);
  hnsw_target t = hnsw_target_row(space, row, g->code);
  hnsw_measure(&t, list, n, distances);
  for (size_t i = 0; i < n; i++) out[i] = (dv_hnsw_hit){distances[i], list[i]};
  hnsw_sort(out, n);
  return n;
}

/* Links a row that has room for two links with `to`, another one that is not its neighbour. If that one has no room, the
 * row goes between it and the farthest of its neighbours: what was connected stays so. */
static void hnsw_adopt(dv_hnsw *g, const dv_hnsw_space *space, uint32_t row, uint32_t to, uint32_t level) {
  if (hnsw_is_full(g, to, level)) {
    dv_hnsw_hit near[2 * DV_HNSW_MAX_M];
    size_t i = hnsw_neighbours(g, space, to, level, near);
    while (i > 0 && hnsw_list_has(g, row, level, near[i - 1].row)) i--;
    if (i == 0) return; /* they have all neighbours in common: it is connected */
    hnsw_part(g, to, near[i - 1].row, level);
    hnsw_join(g, row, near[i - 1].row, level);
  }
  hnsw_join(g, row, to, level);
}

/* Links two rows, the second of them full: each gives up the farthest neighbour that it can, and those are linked in turn.
 * What was connected stays so, unless both links that go were the only ways. */
static void hnsw_exchange(dv_hnsw *g, const dv_hnsw_space *space, uint32_t a, uint32_t b, uint32_t level) {
  dv_hnsw_hit near_a[2 * DV_HNSW_MAX_M], near_b[2 * DV_HNSW_MAX_M];
  size_t i = hnsw_neighbours(g, space, a, level, near_a), n_b = hnsw_neighbours(g, space, b, level, near_b);
  for (; i > 0; i--) {
    uint32_t x = near_a[i - 1].row;
    for (size_t j = n_b; j > 0; j--) {
      uint32_t y = near_b[j - 1].row;
      bool are_leaves = hnsw_degree(g, x, level) < 2 && hnsw_degree(g, y, level) < 2;
      if (are_leaves || x == y || x == b || y == a || hnsw_list_has(g, x, level, y)) continue;
      hnsw_part(g, a, x, level);
      hnsw_part(g, b, y, level);
      hnsw_join(g, a, b, level);
      hnsw_join(g, x, y, level);
      return;
    }
  }
}

/* Can a row part with `other`, because `over` leads there? It does already, or has room for a link that does. */
static bool hnsw_lead_over(dv_hnsw *g, uint32_t over, uint32_t other, uint32_t level) {
  if (hnsw_list_has(g, other, level, over)) return true;
  if (hnsw_is_full(g, over, level)) return false;
  hnsw_list_add(g, over, level, other); /* `other` gets its half in the place of the link it loses */
  return true;
}

/*
 * Makes `row` a neighbour of `a`, whose list is full. Of all of them a keeps those that lead somewhere else; it parts
 * with one that stands behind another if that one leads to it, so that no path is lost. Where none can go, a keeps what
 * it has.
 */
static void hnsw_squeeze(dv_hnsw *g, const dv_hnsw_space *space, uint32_t a, uint32_t row, uint32_t level) {
  const size_t n = hnsw_room(g, level) + 1;
  uint32_t chosen[HNSW_MAX_LIST], by[HNSW_MAX_LIST];
  bool is_chosen[HNSW_MAX_LIST] = {false};
  dv_hnsw_hit c[HNSW_MAX_LIST];
  (void)hnsw_neighbours(g, space, a, level, c);
  hnsw_target t = hnsw_target_row(space, a, g->code);
  c[n - 1].row = row;
  hnsw_measure(&t, &row, 1, &c[n - 1].distance);
  hnsw_sort(c, n);
  size_t needed = 0;
  while (c[needed].row != row) needed++;
  size_t n_chosen = hnsw_choose(space, c, n, n - 1, g->code, chosen, by, needed);
  for (size_t i = 0; i < n_chosen; i++) is_chosen[chosen[i]] = true;
  if (!is_chosen[needed]) return;
  bool has_room = false;
  for (size_t i = n; i-- > 0;) {
    if (is_chosen[i] || by[i] == DV_HNSW_NONE) continue;
    uint32_t other = c[i].row, over = c[by[i]].row;
    bool was_linked = hnsw_list_has(g, other, level, over);
    /* Two places for a link over the row itself: the other one is for its link with a. */
    if (over == row && hnsw_degree(g, row, level) + 2 > n - 1) continue;
    if (!hnsw_lead_over(g, over, other, level)) continue;
    hnsw_part(g, a, other, level);
    if (!was_linked) hnsw_list_add(g, other, level, over);
    has_room = true;
  }
  if (has_room) hnsw_join(g, a, row, level);
}

/* Makes row a neighbour of a, unless a would not keep it, or row has no room: rows that lost their links to its other
 * neighbours may have been given to it. */
static void hnsw_connect(dv_hnsw *g, const dv_hnsw_space *space, uint32_t a, uint32_t row, uint32_t level) {
  if (hnsw_list_has(g, row, level, a) || hnsw_is_full(g, row, level)) return;
  if (hnsw_is_full(g, a, level)) {
    hnsw_squeeze(g, space, a, row, level);
  } else {
    hnsw_join(g, a, row, level);
  }
}

/* ---- linking ----------------------------------------------------------------------------------------------------- */

/* What a row will be linked with. */
typedef struct hnsw_plan {
  dv_status status;
  uint32_t row;
  uint32_t level;
  uint32_t n_chosen[DV_HNSW_MAX_LEVEL + 1];
  uint32_t *chosen; /* m for each level up to the row's */
} hnsw_plan;

typedef struct hnsw_batch {
  dv_hnsw *g;
  const dv_hnsw_space *space;
  size_t ef;
  size_t n;
  hnsw_plan *plans;
  uint32_t *chosen; /* of all plans */
  dv_hnsw_scratch *scratch; /* one a worker */
  size_t n_workers;
} hnsw_batch;

/* Adds the rows of the batch before the i-th, those that are on this level, to the pool. */
static void hnsw_pool_batch(const hnsw_batch *b, const hnsw_target *t, size_t i, uint32_t level, dv_hnsw_scratch *s) {
  for (size_t first = 0; first < i;) {
    uint32_t rows[64];
    float distances[64];
    size_t n = 0;
    for (; first < i && n < 64; first++)
      if (b->plans[first].level >= level) rows[n++] = b->plans[first].row;
    hnsw_measure(t, rows, n, distances);
    for (size_t j = 0; j < n; j++) (void)hnsw_pool_add(s, b->ef, distances[j], rows[j]);
  }
}

/* The search of one row of a batch: reads the graph, writes its plan. */
static dv_status hnsw_plan_levels(const hnsw_batch *b, size_t i, dv_hnsw_scratch *s) {
  const dv_hnsw *g = b->g;
  hnsw_plan *p = &b->plans[i];
  const size_t stride = dv_code_stride(b->space->n);
  hnsw_target t = hnsw_target_row(b->space, p->row, s->codes);
  dv_hnsw_hit start = {0.0f, g->entry};
  dv_status st = g->entry == DV_HNSW_NONE ? DV_OK : hnsw_approach(g, &t, p->level, &start, s);
  s->n_pool = 0;
  for (uint32_t level = p->level + 1; st == DV_OK && level-- > 0;) {
    if (g->entry != DV_HNSW_NONE && level <= g->top) {
      if (s->n_pool == 0) s->pool[s->n_pool++] = start;
      hnsw_pool_restart(g, s);
      const hnsw_end end = hnsw_end_of(b->ef);
      st = hnsw_search_level(g, &t, level, &end, NULL, s);
      if (st != DV_OK) return st;
      hnsw_refine(&t, s);
    }
    hnsw_pool_batch(b, &t, i, level, s);
    uint32_t chosen[DV_HNSW_MAX_M];
    size_t n = hnsw_choose(b->space, s->pool, s->n_pool, g->m, s->codes + stride, chosen, NULL, 0);
    if (b->space->metric == DV_IP) n = hnsw_fill_up(s->n_pool, n, g->m, chosen);
    p->n_chosen[level] = (uint32_t)n;
    for (size_t j = 0; j < n; j++) p->chosen[(size_t)level * g->m + j] = s->pool[chosen[j]].row & ~HNSW_FRESH;
    /* Rows of the batch, which alone are marked now, are not in the graph: the next level's search must not begin at
     * them. */
    size_t n_kept = 0;
    for (size_t j = 0; j < s->n_pool; j++)
      if ((s->pool[j].row & HNSW_FRESH) == 0) s->pool[n_kept++] = s->pool[j];
    s->n_pool = n_kept;
  }
  return st;
}

static void hnsw_plan_row(void *arg, size_t i, size_t worker) {
  hnsw_batch *b = arg;
  b->plans[i].status = hnsw_plan_levels(b, i, &b->scratch[worker]);
}

/* Brings everything into memory that changing links of this row and of `more` of its neighbours looks at. */
static dv_status hnsw_need_around(const dv_hnsw *g, const dv_hnsw_space *space, uint32_t row, uint32_t level,
                                  unsigned more) {
  if (!space->pager) return DV_OK;
  dv_status st = hnsw_need_codes(space, &row, 1);
  if (st == DV_OK && level == 0) st = hnsw_need_list(space, row);
  if (st != DV_OK || more == 0) return st;
  const uint32_t *list = hnsw_list(g, row, level);
  for (size_t j = 0; st == DV_OK && j < hnsw_room(g, level) && list[j] != DV_HNSW_NONE; j++)
    st = hnsw_need_around(g, space, list[j], level, more - 1);
  return st;
}

/* Squeezing the list of a chosen row changes those of its neighbours, and may fill that of another chosen row, which is
 * squeezed then. */
static dv_status hnsw_need_plan(const dv_hnsw *g, const dv_hnsw_space *space, const hnsw_plan *p) {
  dv_status st = hnsw_need_list(space, p->row);
  for (uint32_t level = 0; level <= p->level; level++)
    for (size_t j = 0; st == DV_OK && j < p->n_chosen[level]; j++) {
      uint32_t a = p->chosen[(size_t)level * g->m + j];
      st = hnsw_need_around(g, space, a, level, 2);
    }
  return st;
}

static void hnsw_apply_plan(dv_hnsw *g, const dv_hnsw_space *space, const hnsw_plan *p) {
  if (p->level > 0 && g->upper_at[p->row] == DV_HNSW_NONE) {
    g->upper_at[p->row] = g->n_upper;
    for (uint32_t level = 1; level <= p->level; level++) {
      g->upper_row[g->n_upper++] = p->row;
      hnsw_touch(g, p->row, level);
    }
  }
  for (uint32_t level = 0; level <= p->level; level++) {
    const uint32_t *chosen = p->chosen + (size_t)level * g->m;
    for (size_t j = 0; j < p->n_chosen[level]; j++) hnsw_prefetch_list(g, chosen[j], level);
    for (size_t j = 0; j < p->n_chosen[level]; j++) hnsw_connect(g, space, chosen[j], p->row, level);
    /* Nobody would keep it. */
    if (p->n_chosen[level] > 0 && hnsw_degree(g, p->row, level) == 0) hnsw_adopt(g, space, p->row, chosen[0], level);
  }
  g->n_linked++;
  if (g->entry == DV_HNSW_NONE || p->level > g->top) {
    g->entry = p->row;
    g->top = p->level;
  }
}

/* Rows a batch: a small part of the graph, so that searching it as it was before finds nearly what is nearest. */
static size_t hnsw_batch_size(const dv_hnsw *g) {
  size_t n = g->n_linked / 32;
  return n < 1 ? 1 : n < HNSW_MAX_BATCH ? n : HNSW_MAX_BATCH;
}

static dv_status hnsw_batch_init(hnsw_batch *b, size_t n_rows, const dv_hnsw_runner *runner) {
  const dv_alloc *a = b->g->alloc;
  const size_t n = n_rows < HNSW_MAX_BATCH ? n_rows : HNSW_MAX_BATCH;
  b->n_workers = runner ? runner->n_workers : 1;
  b->plans = dv_alloc_array(a, NULL, n, sizeof *b->plans);
  b->chosen = dv_alloc_array(a, NULL, n * (DV_HNSW_MAX_LEVEL + 1) * b->g->m, sizeof *b->chosen);
  b->scratch = dv_alloc_array(a, NULL, b->n_workers, sizeof *b->scratch);
  for (size_t i = 0; b->scratch && i < b->n_workers; i++) dv_hnsw_scratch_init(&b->scratch[i], a);
  if (!b->plans || !b->chosen || !b->scratch) return DV_NOMEM;
  dv_status st = DV_OK;
  for (size_t i = 0; i < b->n_workers && st == DV_OK; i++)
    st = hnsw_scratch_reserve(&b->scratch[i], b->g, b->space, b->ef);
  return st;
}

static void hnsw_batch_free(hnsw_batch *b) {
  const dv_alloc *a = b->g->alloc;
  for (size_t i = 0; b->scratch && i < b->n_workers; i++) dv_hnsw_scratch_free(&b->scratch[i]);
  dv_alloc_free(a, b->scratch);
  dv_alloc_free(a, b->chosen);
  dv_alloc_free(a, b->plans);
}

/* The plans of the next rows, as far as they can be had, and room for their lists. */
static dv_status hnsw_plan_batch(hnsw_batch *b, const uint32_t *rows, size_t n, const dv_hnsw_runner *runner) {
  uint32_t *chosen = b->chosen;
  size_t n_lists = b->g->n_upper;
  dv_status st = hnsw_need_codes(b->space, rows, n);
  if (st != DV_OK) return st;
  b->n = n;
  for (size_t i = 0; i < n; i++) {
    hnsw_plan *p = &b->plans[i];
    p->row = rows[i];
    p->level = dv_hnsw_level(b->g, p->row);
    p->chosen = chosen;
    chosen += (size_t)(p->level + 1) * b->g->m;
    n_lists += p->level;
  }
  st = dv_hnsw_reserve_upper(b->g, n_lists);
  if (st != DV_OK) return st;
  if (runner && n > 1) {
    runner->run(runner->ctx, n, hnsw_plan_row, b);
  } else {
    for (size_t i = 0; i < n; i++) {
      if (i % 8 == 0) st = hnsw_poll(b->g);
      if (st != DV_OK) return st;
      hnsw_plan_row(b, i, 0);
    }
  }
  return DV_OK;
}

dv_status dv_hnsw_link(dv_hnsw *g, const dv_hnsw_space *space, const uint32_t *rows, size_t n_rows, size_t ef,
                       const dv_hnsw_runner *runner, size_t *n_done) {
  hnsw_batch b = {.g = g, .space = space, .ef = ef};
  dv_status st = hnsw_batch_init(&b, n_rows, runner);
  if (st == DV_OK) st = hnsw_reserve_codes(g->alloc, &g->code, &g->code_capacity, dv_code_stride(space->n));
  *n_done = 0;
  while (st == DV_OK && *n_done < n_rows) {
    st = hnsw_poll(g);
    if (st != DV_OK) break;
    size_t n = hnsw_batch_size(g), n_left = n_rows - *n_done;
    st = hnsw_plan_batch(&b, rows + *n_done, n < n_left ? n : n_left, runner);
    for (size_t i = 0; st == DV_OK && i < b.n; i++) {
      st = b.plans[i].status;
      if (st == DV_OK) st = hnsw_need_plan(g, space, &b.plans[i]);
      if (st != DV_OK) break;
      hnsw_apply_plan(g, space, &b.plans[i]);
      (*n_done)++;
    }
  }
  hnsw_batch_free(&b);
  return st;
}

/* ---- taking rows out --------------------------------------------------------------------------------------------- */

/* Links rows that had a neighbour in common, nearest to it first, each with the nearest of those before it that has room
 * (or is linked with it already): so they stay together, and nobody gets more links than it lost, or few more. */
static void hnsw_mend(dv_hnsw *g, const dv_hnsw_space *space, const dv_hnsw_hit *near, size_t n, uint32_t level) {
  uint32_t rows[2 * DV_HNSW_MAX_M];
  float distances[2 * DV_HNSW_MAX_M];
  for (size_t i = 1; i < n; i++) {
    uint32_t row = near[i].row;
    size_t n_open = 0;
    for (size_t j = 0; j < i; j++)
      if (!hnsw_is_full(g, near[j].row, level) || hnsw_list_has(g, row, level, near[j].row))
        rows[n_open++] = near[j].row;
    hnsw_target t = hnsw_target_row(space, row, g->code);
    hnsw_measure(&t, rows, n_open, distances);
    dv_hnsw_hit best = {INFINITY, DV_HNSW_NONE};
    for (size_t j = 0; j < n_open; j++)
      if (best.row == DV_HNSW_NONE || hnsw_is_nearer(distances[j], rows[j], &best))
        best = (dv_hnsw_hit){distances[j], rows[j]};
    if (best.row == DV_HNSW_NONE && hnsw_degree(g, row, level) + 2 <= hnsw_room(g, level)) {
      hnsw_adopt(g, space, row, near[0].row, level);
    } else if (best.row == DV_HNSW_NONE) {
      hnsw_exchange(g, space, row, near[0].row, level);
    } else if (!hnsw_list_has(g, row, level, best.row)) {
      hnsw_join(g, row, best.row, level);
    }
  }
}

/* Has it links to others than this row? */
static dv_status hnsw_has_others(const dv_hnsw *g, const dv_hnsw_space *space, uint32_t row, uint32_t than, bool *has) {
  dv_status st = hnsw_need_list(space, row);
  const uint32_t *list = hnsw_list(g, row, 0);
  *has = list[0] != DV_HNSW_NONE && (list[0] != than || list[1] != DV_HNSW_NONE);
  return st;
}

/* Where searches can begin without `row`: at the first of the highest that stay linked; DV_HNSW_NONE if there is none. */
static dv_status hnsw_find_entry(const dv_hnsw *g, const dv_hnsw_space *space, uint32_t row, uint32_t *out) {
  dv_status st = DV_OK;
  uint32_t top = 0;
  bool has_others = false;
  *out = DV_HNSW_NONE;
  for (uint32_t i = 0; st == DV_OK && i < g->n_upper; i++) {
    uint32_t other = g->upper_row[i], level = dv_hnsw_level(g, other);
    if (other == row || level < top || (level == top && other > *out)) continue;
    st = hnsw_has_others(g, space, other, row, &has_others);
    if (st != DV_OK || !has_others) continue;
    *out = other;
    top = level;
  }
  for (uint32_t other = 0; st == DV_OK && *out == DV_HNSW_NONE && other < g->n; other++) {
    if (other == row) continue;
    st = hnsw_has_others(g, space, other, row, &has_others);
    if (st == DV_OK && has_others) *out = other;
  }
  return st;
}

dv_status dv_hnsw_unlink(dv_hnsw *g, const dv_hnsw_space *space, uint32_t row) {
  uint32_t levels = dv_hnsw_level(g, row), entry = g->entry;
  const bool was_entry = entry == row;
  dv_hnsw_hit near[2 * DV_HNSW_MAX_M];
  size_t n = 0;
  dv_status st = hnsw_reserve_codes(g->alloc, &g->code, &g->code_capacity, dv_code_stride(space->n));
  for (uint32_t level = 0; level <= levels && st == DV_OK; level++) st = hnsw_need_around(g, space, row, level, 2);
  if (st == DV_OK && entry == row) st = hnsw_find_entry(g, space, row, &entry);
  if (st == DV_OK && entry != DV_HNSW_NONE) st = hnsw_need_around(g, space, entry, 0, 2);
  if (st != DV_OK) return st;

  for (uint32_t level = levels + 1; level-- > 0;) {
    n = hnsw_neighbours(g, space, row, level, near);
    for (size_t i = 0; i < n; i++) hnsw_part(g, row, near[i].row, level);
    hnsw_mend(g, space, near, n, level);
  }
  g->n_linked--;
  if (entry == DV_HNSW_NONE && n > 0) entry = near[0].row; /* the only one left */
  g->entry = entry;
  g->top = entry == DV_HNSW_NONE ? 0 : dv_hnsw_level(g, entry);
  /* A neighbour that had no other, and whose place nobody near could take: it is to be found through the entry. */
  for (size_t i = 0; i < n; i++)
    if (near[i].row != entry && hnsw_degree(g, near[i].row, 0) == 0) hnsw_adopt(g, space, near[i].row, entry, 0);
  for (size_t i = 0; i < n && was_entry; i++) {
    uint32_t level = dv_hnsw_level(g, near[i].row);
    if (level < g->top || (level == g->top && near[i].row > g->entry)) continue;
    g->entry = near[i].row;
    g->top = level;
  }
  return DV_OK;
}

/* ---- measuring --------------------------------------------------------------------------------------------------- */

enum { HNSW_JUDGED = 256 }; /* rows at a time */

/* Distances of n <= HNSW_JUDGED rows, by the judge if there is one. */
static dv_status hnsw_judge(const hnsw_target *t, uint32_t row, const uint32_t *rows, size_t n, float *out) {
  const dv_hnsw_judge *judge = t->space->judge;
  if (judge) return judge->measure(judge->ctx, row, rows, n, out);
  hnsw_measure(t, rows, n, out);
  return DV_OK;
}

/* What a row is compared with: its k nearest, sorted. */
typedef struct hnsw_nearest {
  dv_hnsw_hit *hits;
  size_t n;
} hnsw_nearest;

/* The k nearest linked rows to each of n_rows linked rows, by looking at all. Some hundred are looked at for all rows before the
 * next ones: so they come from memory once. */
static dv_status hnsw_look_at_all(const dv_hnsw *g, const dv_hnsw_space *space, const uint32_t *rows, size_t n_rows,
                                  size_t k, hnsw_nearest *nearest, dv_hnsw_scratch *s) {
  uint32_t others[HNSW_JUDGED];
  float distances[HNSW_JUDGED];
  for (uint32_t r = 0; r < g->n;) {
    size_t n = 0;
    for (; r < g->n && n < HNSW_JUDGED; r++)
      if (dv_hnsw_is_linked(g, r)) others[n++] = r;
    for (size_t i = 0; i < n_rows; i++) {
      hnsw_target t = hnsw_target_row(space, rows[i], s->codes);
      dv_status st = hnsw_poll(g);
      if (st == DV_OK) st = hnsw_judge(&t, rows[i], others, n, distances);
      if (st != DV_OK) return st;
      for (size_t j = 0; j < n; j++)
        if (others[j] != rows[i]) (void)hnsw_hits_add(nearest[i].hits, &nearest[i].n, k, distances[j], others[j]);
    }
  }
  return DV_OK;
}

/* How many rows of the pool are not farther than that. */
static dv_status hnsw_count_near(const hnsw_target *t, uint32_t row, float farthest, const dv_hnsw_scratch *s,
                                 size_t *n_found) {
  uint32_t rows[HNSW_JUDGED];
  float distances[HNSW_JUDGED];
  for (size_t at = 0; at < s->n_pool;) {
    size_t n = 0;
    for (; at < s->n_pool && n < HNSW_JUDGED; at++) rows[n++] = s->pool[at].row & ~HNSW_FRESH;
    dv_status st = hnsw_judge(t, row, rows, n, distances);
    if (st != DV_OK) return st;
    for (size_t i = 0; i < n; i++) *n_found += distances[i] <= farthest;
  }
  return DV_OK;
}

/* Fills the pool with what a search for a row finds that may not come by the row itself: as if it were not in the graph. */
static dv_status hnsw_search_around(const dv_hnsw *g, const hnsw_target *t, uint32_t row, const hnsw_end *end,
                                    dv_hnsw_scratch *s) {
  s->n_pool = 0;
  dv_status st = hnsw_poll(g);
  if (st == DV_OK) st = hnsw_approach(g, t, 0, &s->pool[0], s);
  if (st != DV_OK) return st;
  if (s->pool[0].row == row) { /* a search cannot begin there; nor go through it, below */
    const uint32_t *list = hnsw_list(g, row, 0);
    if (list[0] == DV_HNSW_NONE) return DV_OK;
    int32_t dot;
    s->pool[0].row = list[hnsw_count(list, hnsw_room(g, 0)) - 1];
    hnsw_measure_walk(t, &s->pool[0].row, 1, &dot, &s->pool[0].distance);
  }
  s->n_pool = 1;
  hnsw_pool_restart(g, s);
  (void)hnsw_visit(s->visited, row);
  return hnsw_search_level(g, t, 0, end, NULL, s);
}

dv_status dv_hnsw_growth(const dv_hnsw *g, const dv_hnsw_space *space, const uint32_t *rows, size_t n_rows,
                         double *growth) {
  enum { MOST = HNSW_NEAR << DV_HNSW_OCTAVES };
  const hnsw_end end = hnsw_end_of(MOST);
  double far[DV_HNSW_OCTAVES + 1] = {0.0}, unit, offset, noise;
  dv_hnsw_scratch s;
  dv_hnsw_scratch_init(&s, g->alloc);
  dv_status st = hnsw_scratch_reserve(&s, g, space, MOST);
  for (size_t i = 0; st == DV_OK && i < n_rows; i++) {
    hnsw_target t = hnsw_target_row(space, rows[i], s.codes);
    if (!hnsw_is_apart(&t, &unit, &offset, &noise)) break;
    st = hnsw_search_around(g, &t, rows[i], &end, &s);
    if (st != DV_OK || s.n_pool < MOST) continue;
    for (size_t octave = 0; octave <= DV_HNSW_OCTAVES; octave++) {
      const double square = unit * (double)s.pool[(HNSW_NEAR << octave) - 1].distance + offset;
      /* Of what is nearer than the noise only the noise is known. */
      far[octave] += sqrt((square > 0.0 ? square : 0.0) + noise);
    }
  }
  for (size_t octave = 0; octave < DV_HNSW_OCTAVES; octave++)
    growth[octave] = far[octave] > 0.0 ? far[octave + 1] / far[octave] : 1.0;
  dv_hnsw_scratch_free(&s);
  return st;
}

dv_status dv_hnsw_recall(const dv_hnsw *g, const dv_hnsw_space *space, const uint32_t *rows, size_t n_rows, size_t k,
                         const double *growth, const uint32_t *efs, size_t n_efs, double *recall) {
  dv_hnsw_scratch s;
  size_t n_hits = 0, n_expected = 0;
  hnsw_nearest *nearest = dv_alloc_array(g->alloc, NULL, n_rows, sizeof *nearest);
  dv_hnsw_hit *hits = dv_mul_size(n_rows, k, &n_hits) ? dv_alloc_array(g->alloc, NULL, n_hits, sizeof *hits) : NULL;
  dv_hnsw_scratch_init(&s, g->alloc);
  dv_status st =
      nearest && hits ? hnsw_scratch_reserve(&s, g, space, n_efs ? 2 * (size_t)efs[n_efs - 1] : 1) : DV_NOMEM;
  for (size_t i = 0; st == DV_OK && i < n_rows; i++) nearest[i] = (hnsw_nearest){hits + i * k, 0};
  if (st == DV_OK) st = hnsw_look_at_all(g, space, rows, n_rows, k, nearest, &s);
  for (size_t i = 0; st == DV_OK && i < n_rows; i++) n_expected += nearest[i].n;
  for (size_t e = 0; st == DV_OK && e < n_efs; e++) {
    size_t n_found = 0;
    bool is_known = e > 0 && recall[e - 1] > 0.9995;
    for (size_t i = 0; st == DV_OK && !is_known && i < n_rows; i++) {
      hnsw_target t = hnsw_target_row(space, rows[i], s.codes);
      const float farthest = nearest[i].n ? nearest[i].hits[nearest[i].n - 1].distance : -INFINITY;
      size_t n = 0;
      const hnsw_end end = hnsw_end_by_growth(&t, k, efs[e], growth);
      st = hnsw_search_around(g, &t, rows[i], &end, &s);
      if (st == DV_OK) st = hnsw_count_near(&t, rows[i], farthest, &s, &n);
      n_found += n < k ? n : k; /* more at the same distance */
    }
    recall[e] = is_known ? recall[e - 1] : n_expected ? (double)n_found / (double)n_expected : 1.0;
    if (recall[e] > 1.0) recall[e] = 1.0;
  }
  dv_alloc_free(g->alloc, hits);
  dv_alloc_free(g->alloc, nearest);
  dv_hnsw_scratch_free(&s);
  return st;
}

/* ---- checking ---------------------------------------------------------------------------------------------------- */

static bool hnsw_check_list(const dv_hnsw *g, uint32_t row, uint32_t level, dv_hnsw_fault *fault, uint32_t *other) {
  const uint32_t *list = hnsw_list(g, row, level);
  const size_t room = hnsw_room(g, level), n = hnsw_count(list, room);
  for (size_t i = 0; i < room; i++) {
    *other = list[i];
    *fault = DV_HNSW_GAP;
    if (i >= n && list[i] != DV_HNSW_NONE) return false;
    if (i >= n) continue;
    *fault = DV_HNSW_RANGE;
    if (list[i] >= g->n) return false;
    *fault = DV_HNSW_SELF;
    if (list[i] == row) return false;
    *fault = DV_HNSW_TWICE;
    for (size_t j = 0; j < i; j++)
      if (list[j] == list[i]) return false;
    *fault = DV_HNSW_LEVEL;
    if (level > 0 && (g->upper_at[list[i]] == DV_HNSW_NONE || dv_hnsw_level(g, list[i]) < level)) return false;
    *fault = DV_HNSW_ONE_WAY;
    if (!hnsw_list_has(g, list[i], level, row)) return false;
  }
  *fault = DV_HNSW_SOUND;
  return true;
}

/* Marks what a path from the entry leads to, on the ground. */
static dv_status hnsw_flood(const dv_hnsw *g, uint64_t **out) {
  size_t n_words = ((size_t)g->n + 63) / 64, n_stack = 0;
  uint64_t *seen = dv_alloc_array(g->alloc, NULL, n_words, sizeof *seen);
  uint32_t *stack = dv_alloc_array(g->alloc, NULL, g->n, sizeof *stack);
  if (!seen || !stack) {
    dv_alloc_free(g->alloc, seen);
    dv_alloc_free(g->alloc, stack);
    return DV_NOMEM;
  }
  memset(seen, 0, n_words * sizeof *seen);
  if (g->entry != DV_HNSW_NONE) {
    stack[n_stack++] = g->entry;
    seen[g->entry >> 6] |= (uint64_t)1 << (g->entry & 63);
  }
  while (n_stack > 0) {
    const uint32_t *list = hnsw_list(g, stack[--n_stack], 0);
    for (size_t i = 0; i < hnsw_room(g, 0) && list[i] != DV_HNSW_NONE; i++) {
      uint64_t bit = (uint64_t)1 << (list[i] & 63), *word = &seen[list[i] >> 6];
      if (*word & bit) continue;
      *word |= bit;
      stack[n_stack++] = list[i];
    }
  }
  dv_alloc_free(g->alloc, stack);
  *out = seen;
  return DV_OK;
}

dv_status dv_hnsw_unreachable(const dv_hnsw *g, uint32_t *out, size_t *n) {
  uint64_t *seen;
  dv_status st = hnsw_flood(g, &seen);
  *n = 0;
  if (st != DV_OK) return st;
  for (uint32_t row = 0; row < g->n; row++)
    if (dv_hnsw_is_linked(g, row) && !hnsw_has(seen, row)) out[(*n)++] = row;
  dv_alloc_free(g->alloc, seen);
  return DV_OK;
}

dv_status dv_hnsw_check(const dv_hnsw *g, dv_hnsw_fault *fault, uint32_t *row, uint32_t *other) {
  uint32_t n_linked = 0, top = 0;
  for (uint32_t i = 0; i < g->n_upper;) {
    *row = g->upper_row[i];
    *fault = DV_HNSW_LEVEL;
    *other = i;
    if (*row >= g->n || g->upper_at[*row] != i) return DV_OK;
    uint32_t levels = dv_hnsw_level(g, *row);
    if (levels == 0 || levels > g->n_upper - i) return DV_OK;
    for (uint32_t l = 0; l < levels; l++, i++)
      if (g->upper_row[i] != *row) return DV_OK;
  }
  for (*row = 0; *row < g->n; ++*row) {
    bool is_linked = dv_hnsw_is_linked(g, *row), has_lists = g->upper_at[*row] != DV_HNSW_NONE;
    uint32_t levels = dv_hnsw_level(g, *row);
    dv_status polled = *row % HNSW_POLL_EVERY == 0 ? hnsw_poll(g) : DV_OK;
    if (polled != DV_OK) return polled;
    n_linked += is_linked;
    *fault = DV_HNSW_LEVEL;
    *other = levels;
    if (has_lists ? levels == 0 || g->upper_at[*row] >= g->n_upper || g->upper_row[g->upper_at[*row]] != *row
                  : is_linked && levels > 0)
      return DV_OK;
    for (uint32_t level = 1; has_lists && !is_linked && level <= levels; level++)
      if (hnsw_list(g, *row, level)[0] != DV_HNSW_NONE) return DV_OK;
    if (is_linked && levels > top) top = levels;
    for (uint32_t level = 0; level <= (has_lists ? levels : 0); level++)
      if (!hnsw_check_list(g, *row, level, fault, other)) return DV_OK;
  }
  *row = g->entry;
  *other = g->top;
  *fault = DV_HNSW_ENTRY;
  if (g->entry == DV_HNSW_NONE ? n_linked > 0 : g->entry >= g->n || g->top != top || dv_hnsw_level(g, g->entry) != top)
    return DV_OK;
  *fault = DV_HNSW_COUNT;
  *other = n_linked;
  if (n_linked != g->n_linked) return DV_OK;

  uint64_t *seen;
  dv_status st = hnsw_flood(g, &seen);
  if (st != DV_OK) return st;
  *fault = DV_HNSW_SOUND;
  for (uint32_t r = 0; r < g->n && *fault == DV_HNSW_SOUND; r++) {
    if (!dv_hnsw_is_linked(g, r) || hnsw_has(seen, r)) continue;
    *fault = DV_HNSW_UNREACHABLE;
    *row = r;
  }
  dv_alloc_free(g->alloc, seen);
  return DV_OK;
}

DV_FP_STRICT_END
