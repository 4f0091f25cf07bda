/*
 * check_hnsw.c: the graph against naive ones. Searches, the choice of links and what stays when a row is taken out are
 * computed again without any of the graph's shortcuts, where that can be done; random programs show that what must
 * always hold does, whatever happens: full lists, rows that move, no memory, a pager that fails.
 */
#include "../../core/dv_hnsw.h"

#include <check.h>
#include <math.h>
#include <pthread.h>
#include <stdlib.h>

static uint64_t seed = 88172645463325252u;

static uint64_t next_random(void) {
  seed ^= seed << 13;
  seed ^= seed >> 7;
  seed ^= seed << 17;
  return seed * 2685821657736338717u;
}

static uint32_t random_below(uint32_t n) { return (uint32_t)((next_random() >> 32) * n >> 32); }
static float random_unit(void) { return (float)((double)(next_random() >> 11) * 0x1p-52 - 1.0); }

static float random_normal(void) {
  float s = 0;
  for (int i = 0; i < 6; i++) s += random_unit();
  return s * 0.70710678f;
}

/* Memory that is full of garbage and always moves. Counts blocks, and fails at the call it is told to. */
static size_t n_blocks, n_calls, fail_at = SIZE_MAX;

typedef union block {
  size_t n;
  max_align_t aligned;
} block;

static void *resize(void *ctx, void *p, size_t n) {
  (void)ctx;
  if (n > 0 && n_calls++ == fail_at) return NULL;
  block *old = p ? (block *)p - 1 : NULL, *to = n ? malloc(sizeof *to + n) : NULL;
  if (n > 0) {
    ck_assert_ptr_nonnull(to);
    to->n = n;
    memset(to + 1, 0xa5, n);
    if (old) memcpy(to + 1, old + 1, old->n < n ? old->n : n);
    n_blocks++;
  }
  n_blocks -= old != NULL;
  free(old);
  return to ? to + 1 : NULL;
}
static const dv_alloc alloc = {resize, NULL};

static void *zeros(size_t n, size_t size) {
  void *p = calloc(n ? n : 1, size);
  ck_assert_ptr_nonnull(p);
  return p;
}

static void *copy_of(const void *from, size_t n, size_t size) {
  void *p = zeros(n, size);
  if (n) memcpy(p, from, n * size);
  return p;
}

static bool bit_at(const uint64_t *bits, size_t i) { return bits[i / 64] >> i % 64 & 1; }
static void bit_set(uint64_t *bits, size_t i) { bits[i / 64] |= (uint64_t)1 << i % 64; }

/* ---- a graph, its rows, and the set of those that are in it ------------------------------------------------------- */

enum shape {
  GAUSSIAN,
  CLUSTERS,
  LENGTHS,
  FEW_VALUES,
  DUPLICATES,
  SOME_ZERO,
  EQUAL,
  ZERO,
  N_SHAPES,
  HUGE_VALUES,
  UNEVEN
};

typedef struct world {
  dv_hnsw g;
  dv_hnsw_space space;
  unsigned shape;
  uint32_t n; /* rows */
  float *v;
  uint8_t *codes;
  dv_code_row *rows;
  bool *is_in;
  uint32_t n_in;
} world;

static const dv_metric metrics[] = {DV_L2, DV_COSINE, DV_IP};

static void fill_vector(float *v, size_t n, unsigned shape, uint32_t row, const float *v_first) {
  float length = powf(10.0f, random_unit()); /* lengths over two orders of magnitude */
  bool is_zero = random_below(3) == 0, is_huge = random_below(2);
  for (size_t i = 0; i < n; i++) switch (shape) {
    case GAUSSIAN: v[i] = random_normal(); break;
    case CLUSTERS: v[i] = sinf((float)((row / 40 + 1) * (i + 1))) + 0.3f * random_normal(); break;
    case LENGTHS: v[i] = length * (sinf((float)((row / 40 + 1) * (i + 1))) + 0.3f * random_normal()); break;
    case FEW_VALUES: v[i] = (float)random_below(3) - 1.0f; break; /* many exact ties */
    case DUPLICATES: v[i] = row < 5 ? random_normal() : v_first[row % 5 * n + i]; break;
    case SOME_ZERO: v[i] = is_zero ? 0.0f : random_normal(); break;
    case EQUAL: v[i] = (float)(i + 1); break;
    case UNEVEN:
      v[i] = sinf((float)((row / 400 + 1) * (i + 1))) + (0.1f + 0.2f * (float)(row / 400 % 8)) * random_normal();
      break;
    case HUGE_VALUES: v[i] = (is_huge ? 1e30f : 1.0f) * random_normal(); break;
    default: v[i] = 0.0f; break;
    }
}

static void encode_row(world *w, uint32_t row) {
  size_t n = w->space.n;
  int8_t *code = zeros(dv_code_stride(n), 1);
  w->rows[row] = dv_code_row_of(dv_code_encode(w->space.metric, w->v + row * n, n, code), code, n);
  dv_code_pack(code, n, w->codes, row);
  free(code);
}

static world world_new(dv_metric metric, uint32_t n_rows, size_t n, uint32_t m, unsigned shape) {
  world w = {.n = n_rows, .shape = shape};
  w.v = zeros(n_rows * n, sizeof *w.v);
  w.codes = zeros(dv_code_bytes(n_rows, n), 1);
  w.rows = zeros(n_rows, sizeof *w.rows);
  w.is_in = zeros(n_rows, sizeof *w.is_in);
  w.space = (dv_hnsw_space){.kernels = dv_kernels_get(), .metric = metric, .n = n, .codes = w.codes, .rows = w.rows};
  for (uint32_t r = 0; r < n_rows; r++) {
    fill_vector(w.v + r * n, n, shape, r, w.v);
    encode_row(&w, r);
  }
  dv_hnsw_init(&w.g, m, next_random(), &alloc);
  ck_assert(dv_hnsw_reserve(&w.g, n_rows) == DV_OK);
  return w;
}

static void world_free(world *w) {
  dv_hnsw_free(&w->g);
  free(w->v);
  free(w->codes);
  free(w->rows);
  free(w->is_in);
}

static uint32_t *list_of(const dv_hnsw *g, uint32_t row, uint32_t level) {
  return level == 0 ? g->ground + (size_t)2 * g->m * row : g->upper + ((size_t)g->upper_at[row] + level - 1) * g->m;
}

static uint32_t room_of(const dv_hnsw *g, uint32_t level) { return level == 0 ? 2 * g->m : g->m; }

/* All lists of a sound graph on a level: the row's, or none. */
static uint32_t list_length(const dv_hnsw *g, uint32_t row, uint32_t level) {
  uint32_t n = 0;
  if (level > 0 && (g->upper_at[row] == DV_HNSW_NONE || dv_hnsw_level(g, row) < level)) return 0;
  while (n < room_of(g, level) && list_of(g, row, level)[n] != DV_HNSW_NONE) n++;
  return n;
}

static bool has_link(const dv_hnsw *g, uint32_t row, uint32_t level, uint32_t to) {
  for (uint32_t i = 0, n = list_length(g, row, level); i < n; i++)
    if (list_of(g, row, level)[i] == to) return true;
  return false;
}

/* Rows that are in the graph, or are not, in random order. */
static uint32_t pick_rows(const world *w, bool is_in, uint32_t *out) {
  uint32_t n = 0;
  for (uint32_t r = 0; r < w->n; r++) {
    if (w->is_in[r] != is_in) continue;
    uint32_t at = random_below(n + 1);
    out[n++] = out[at];
    out[at] = r;
  }
  return n;
}

static void link_all(world *w, const uint32_t *rows, uint32_t n, size_t ef, const dv_hnsw_runner *runner) {
  size_t n_done;
  ck_assert(dv_hnsw_link(&w->g, &w->space, rows, n, ef, runner, &n_done) == DV_OK);
  ck_assert_uint_eq(n_done, n);
  for (uint32_t i = 0; i < n; i++) w->is_in[rows[i]] = true;
  w->n_in += n;
}

static void unlink_one(world *w, uint32_t row) {
  ck_assert(dv_hnsw_unlink(&w->g, &w->space, row) == DV_OK);
  w->is_in[row] = false;
  w->n_in--;
}

/* Links up to n more rows, in calls of random sizes. */
static void grow(world *w, uint32_t n, size_t ef) {
  uint32_t *rows = zeros(w->n, sizeof *rows), n_out = pick_rows(w, false, rows), n_now;
  for (uint32_t at = 0; at < n_out && at < n; at += n_now) {
    n_now = 1 + random_below(random_below(2) ? 5 : 100);
    if (n_now > n_out - at) n_now = n_out - at;
    if (n_now > n - at) n_now = n - at;
    link_all(w, rows + at, n_now, ef, NULL);
  }
  free(rows);
}

static uint32_t any_row(const world *w, bool is_in) {
  for (uint32_t r = random_below(w->n);; r = (r + 1) % w->n)
    if (w->is_in[r] == is_in) return r;
}

static void move_one(world *w, uint32_t row, size_t ef) {
  fill_vector(w->v + row * w->space.n, w->space.n, w->shape, row, w->v);
  encode_row(w, row);
  if (!w->is_in[row]) return;
  unlink_one(w, row);
  link_all(w, &row, 1, ef, NULL);
}

/* ---- what must always hold, naively ------------------------------------------------------------------------------ */

static bool is_naively_linked(const dv_hnsw *g, uint32_t row) {
  return g->ground[(size_t)2 * g->m * row] != DV_HNSW_NONE || (row == g->entry && g->n_linked == 1);
}

static bool are_lists_placed(const dv_hnsw *g) {
  for (uint32_t i = 0; i < g->n_upper; i++) {
    uint32_t r = g->upper_row[i];
    if (r >= g->n || g->upper_at[r] > i || i - g->upper_at[r] >= dv_hnsw_level(g, r)) return false;
  }
  for (uint32_t r = 0; r < g->n; r++) {
    uint32_t level = dv_hnsw_level(g, r), at = g->upper_at[r];
    if (at == DV_HNSW_NONE && (level == 0 || !is_naively_linked(g, r))) continue;
    if (level == 0 || at >= g->n_upper || g->n_upper - at < level) return false;
    for (uint32_t l = 0; l < level; l++)
      if (g->upper_row[at + l] != r) return false;
  }
  return true;
}

static bool is_list_sound(const dv_hnsw *g, uint32_t row, uint32_t level) {
  const uint32_t *list = list_of(g, row, level);
  uint32_t n = list_length(g, row, level);
  if (n > 0 && !is_naively_linked(g, row)) return false;
  for (uint32_t i = n; i < room_of(g, level); i++)
    if (list[i] != DV_HNSW_NONE) return false;
  for (uint32_t i = 0; i < n; i++) {
    if (list[i] >= g->n || list[i] == row || !has_link(g, list[i], level, row)) return false;
    for (uint32_t j = 0; j < i; j++)
      if (list[i] == list[j]) return false;
  }
  return true;
}

static uint32_t count_reachable(const dv_hnsw *g) {
  uint32_t n = 0, *queue = zeros(g->n, sizeof *queue);
  bool *is_seen = zeros(g->n, sizeof *is_seen);
  if (g->entry != DV_HNSW_NONE) queue[n++] = g->entry;
  if (n > 0) is_seen[g->entry] = true;
  for (uint32_t at = 0; at < n; at++)
    for (uint32_t i = 0, n_links = list_length(g, queue[at], 0); i < n_links; i++) {
      uint32_t to = list_of(g, queue[at], 0)[i];
      if (is_seen[to]) continue;
      is_seen[to] = true;
      queue[n++] = to;
    }
  free(queue);
  free(is_seen);
  return n;
}

/* What dv_hnsw_check says in one word; of a graph of any bytes. */
static bool is_naively_sound(const dv_hnsw *g) {
  if (!are_lists_placed(g)) return false;
  uint32_t n_linked = 0, top = 0;
  for (uint32_t r = 0; r < g->n; r++) {
    if (!is_list_sound(g, r, 0)) return false;
    for (uint32_t l = 1; g->upper_at[r] != DV_HNSW_NONE && l <= dv_hnsw_level(g, r); l++)
      if (!is_list_sound(g, r, l)) return false;
    if (!is_naively_linked(g, r)) continue;
    n_linked++;
    if (dv_hnsw_level(g, r) > top) top = dv_hnsw_level(g, r);
  }
  if (n_linked != g->n_linked) return false;
  if (g->entry == DV_HNSW_NONE) return n_linked == 0;
  return g->entry < g->n && is_naively_linked(g, g->entry) && g->top == top && dv_hnsw_level(g, g->entry) == top &&
         count_reachable(g) == n_linked;
}

/* Where lists are this short, or rows all alike, and all near a row that leaves are full, it can take the last way to
 * others with it: dv_hnsw_unreachable() says so. */
static bool may_fall_apart(const world *w) { return w->g.m < 4 || w->shape == EQUAL || w->shape == ZERO; }

static void expect_whole(const world *w) {
  dv_hnsw_fault fault;
  uint32_t row, other;
  ck_assert(dv_hnsw_check(&w->g, &fault, &row, &other) == DV_OK);
  if (fault != DV_HNSW_SOUND && !(fault == DV_HNSW_UNREACHABLE && may_fall_apart(w)))
    ck_abort_msg("fault %d: row %u, %u; %u linked", (int)fault, row, other, w->g.n_linked);
  if (is_naively_sound(&w->g) != (fault == DV_HNSW_SOUND)) ck_abort_msg("fault %d: but is it sound?", (int)fault);
  ck_assert_uint_eq(w->g.n_linked, w->n_in);
  for (uint32_t r = 0; r < w->n; r++)
    if (dv_hnsw_is_linked(&w->g, r) != w->is_in[r]) ck_abort_msg("row %u: linked? not %d", r, w->is_in[r]);
}

static bool is_same_graph(const dv_hnsw *a, const dv_hnsw *b) {
  return a->m == b->m && a->n == b->n && a->n_linked == b->n_linked && a->n_upper == b->n_upper &&
         a->entry == b->entry && (a->entry == DV_HNSW_NONE || a->top == b->top) &&
         memcmp(a->ground, b->ground, (size_t)a->n * 2 * a->m * sizeof *a->ground) == 0 &&
         memcmp(a->upper_at, b->upper_at, a->n * sizeof *a->upper_at) == 0 &&
         (a->n_upper == 0 || (memcmp(a->upper_row, b->upper_row, a->n_upper * sizeof *a->upper_row) == 0 &&
                              memcmp(a->upper, b->upper, (size_t)a->n_upper * a->m * sizeof *a->upper) == 0));
}

static void *duplicate(const void *from, size_t n_bytes) {
  void *p = resize(NULL, NULL, n_bytes ? n_bytes : 1);
  if (n_bytes) memcpy(p, from, n_bytes);
  return p;
}

static dv_hnsw graph_copy(const dv_hnsw *from) {
  dv_hnsw g = *from;
  g.ground = duplicate(from->ground, (size_t)g.capacity * 2 * g.m * sizeof *g.ground);
  g.ground_memory = (uint8_t *)g.ground;
  g.upper_at = duplicate(from->upper_at, g.capacity * sizeof *g.upper_at);
  g.changed = duplicate(from->changed, g.capacity / 8);
  g.upper = duplicate(from->upper, (size_t)g.upper_capacity * g.m * sizeof *g.upper);
  g.upper_row = duplicate(from->upper_row, g.upper_capacity * sizeof *g.upper_row);
  g.upper_changed = duplicate(from->upper_changed, g.upper_capacity / 8);
  g.code = NULL;
  g.code_capacity = 0;
  return g;
}

static world world_copy(const world *from) {
  world w = *from;
  w.g = graph_copy(&from->g);
  w.v = copy_of(from->v, w.n * w.space.n, sizeof *w.v);
  w.codes = copy_of(from->codes, dv_code_bytes(w.n, w.space.n), 1);
  w.rows = copy_of(from->rows, w.n, sizeof *w.rows);
  w.is_in = copy_of(from->is_in, w.n, sizeof *w.is_in);
  w.space.codes = w.codes;
  w.space.rows = w.rows;
  return w;
}

/* ---- distances and searches, naively ----------------------------------------------------------------------------- */

static float estimate(const world *w, const dv_code_query *q, uint32_t row) {
  size_t stride = dv_code_stride(w->space.n);
  int32_t dot;
  dv_kernels_scalar.gather_code(w->codes, stride, &row, 1, q->code, q->sum, &dot);
  return dv_code_estimate(q, &w->rows[row], dot);
}

/* A code is long, and of many numbers, so that its high halves say nearly the same. */
static bool is_coarse(const world *w, const dv_code_query *q) {
  int64_t sq = 0;
  for (size_t i = 0; i < w->space.n; i++) sq += (int64_t)q->code[i] * q->code[i];
  return w->space.n > 256 && sq >= 262144;
}

/* What a search walks by: a high half stands for the middle of its sixteen codes. */
static float walked(const world *w, const dv_code_query *q, uint32_t row) {
  if (!is_coarse(w, q)) return estimate(w, q, row);
  int8_t *code = zeros(dv_code_stride(w->space.n), 1);
  int32_t twice = 0;
  (void)dv_code_unpack(w->codes, row, w->space.n, code);
  for (size_t i = 0; i < w->space.n; i++) twice += (2 * ((code[i] + 128) / 16 * 16 - 128) + 15) * q->code[i];
  free(code);
  return dv_code_estimate(q, &w->rows[row], (twice + (q->sum > 0 && twice % 2 != 0)) >> 1);
}

static float between(const world *w, uint32_t a, uint32_t b) {
  size_t stride = dv_code_stride(w->space.n);
  int8_t *code = zeros(2 * stride, 1);
  (void)dv_code_unpack(w->codes, a, w->space.n, code);
  (void)dv_code_unpack(w->codes, b, w->space.n, code + stride);
  float dot = (float)dv_kernels_scalar.dot_i8(code, code + stride, stride);
  float product = w->rows[a].scale * w->rows[b].scale * dot;
  free(code);
  return w->space.metric == DV_L2 ? w->rows[a].norm_sq + w->rows[b].norm_sq - 2.0f * product : -product;
}

static int by_hit(const void *a, const void *b) {
  const dv_hnsw_hit *x = a, *y = b;
  if (x->distance != y->distance) return x->distance < y->distance ? -1 : 1;
  return x->row < y->row ? -1 : x->row > y->row;
}

static void sort_hits(dv_hnsw_hit *h, size_t n) {
  if (n > 1) qsort(h, n, sizeof *h, by_hit);
}

/* All rows of the graph, by distance. */
static uint32_t brute_force(const world *w, const dv_code_query *q, dv_hnsw_hit *out) {
  uint32_t n = 0;
  for (uint32_t r = 0; r < w->n; r++)
    if (w->is_in[r]) out[n++] = (dv_hnsw_hit){estimate(w, q, r), r};
  sort_hits(out, n);
  return n;
}

/* How many are expanded before the next are chosen: as in dv_hnsw.c. */
enum { BEAM = 2 };

/* Where a search ends: it keeps `most`; expands the nearest `least`, and beyond them whoever is not farther than slope * the
 * k-th's distance + base (k = 0: nobody). */
typedef struct ending {
  size_t most, least, k;
  float slope, base;
} ending;

/* As many times as far as the k-th nearest (or the tenth) as rank ef - (ef - k) / 4 is; where a distance is the root of
 * unit * what is measured + offset, in doubt by `noise`. */
static ending ending_of(const world *w, const dv_code_query *q, size_t k, size_t ef, const double *growth) {
  ending e = {ef, ef, 0, 0, 0};
  double far[2] = {1, 1};
  bool is_l2 = w->space.metric == DV_L2;
  if (k < 10) k = 10;
  if (!growth || ef <= k || w->space.metric == DV_IP || q->weight == 0) return e;
  for (int i = 0; i < 2; i++) {
    double rank = (double)(i ? k : ef - (ef - k) / 4), from = 10;
    for (int octave = 0; rank > from; octave++, from *= 2) {
      double g = growth[octave < 3 ? octave : 3];
      far[i] *= rank >= 2 * from ? g : 1 + (rank / from - 1) * (g - 1);
    }
  }
  double unit = is_l2 ? 1 : 2.0 * (double)q->scale / (double)q->weight, offset = is_l2 ? 0 : 2;
  double noise = is_l2 ? 0.02 * q->code_sq : 0.02, square = far[0] / far[1] * (far[0] / far[1]);
  return (ending){2 * ef, ef / 2 < k ? k : ef / 2, k, (float)square, (float)((square - 1) * (offset + noise) / unit)};
}

static bool is_wanted(const ending *e, const dv_hnsw_hit *hits, size_t n, const dv_hnsw_hit *hit) {
  if (n < e->least || by_hit(hit, &hits[e->least - 1]) <= 0) return true;
  return e->k > 0 && !(hit->distance > e->slope * hits[e->k - 1].distance + e->base);
}

/* From the entry down to the nearest neighbour of nearest neighbours; then, on the ground, expands the nearest that are
 * not expanded yet of the ef nearest seen, until all are. What it has found is then measured by whole codes. */
static size_t naive_search_until(const world *w, const dv_code_query *q, const ending *e, dv_hnsw_hit *out) {
  const dv_hnsw *g = &w->g;
  bool *is_seen = zeros(w->n, sizeof *is_seen), *is_expanded = zeros(w->n, sizeof *is_expanded);
  dv_hnsw_hit at = {walked(w, q, g->entry), g->entry};
  for (uint32_t level = g->top; level > 0;) {
    dv_hnsw_hit best = at;
    for (uint32_t i = 0; i < list_length(g, at.row, level); i++) {
      uint32_t row = list_of(g, at.row, level)[i];
      dv_hnsw_hit hit = {walked(w, q, row), row};
      if (by_hit(&hit, &best) < 0) best = hit;
    }
    if (best.row == at.row) level--;
    at = best;
  }
  out[0] = at;
  is_seen[at.row] = true;
  size_t n = 1, n_now = 1;
  while (n_now > 0) {
    uint32_t now[BEAM];
    n_now = 0;
    for (size_t i = 0; i < n && n_now < BEAM; i++)
      if (!is_expanded[out[i].row] && is_wanted(e, out, n, &out[i])) now[n_now++] = out[i].row;
    for (size_t i = 0; i < n_now; i++) {
      is_expanded[now[i]] = true;
      for (uint32_t j = 0; j < list_length(g, now[i], 0); j++) {
        uint32_t to = list_of(g, now[i], 0)[j];
        if (is_seen[to]) continue;
        is_seen[to] = true;
        out[n++] = (dv_hnsw_hit){walked(w, q, to), to};
      }
    }
    sort_hits(out, n);
    n = n < e->most ? n : e->most;
  }
  while (n > 0 && !is_wanted(e, out, n, &out[n - 1])) n--;
  for (size_t i = 0; i < n; i++) out[i].distance = estimate(w, q, out[i].row);
  sort_hits(out, n);
  free(is_seen);
  free(is_expanded);
  return n;
}

static size_t naive_search(const world *w, const dv_code_query *q, size_t ef, dv_hnsw_hit *out) {
  const ending e = {ef, ef, 0, 0, 0};
  return naive_search_until(w, q, &e, out);
}

/* No zero of what was found is negative. */
static bool are_same_hits(const dv_hnsw_hit *found, const dv_hnsw_hit *expected, size_t n) {
  for (size_t i = 0; i < n; i++)
    if (found[i].row != expected[i].row ||
        dv_float_bits(found[i].distance) != dv_float_bits(expected[i].distance + 0.0f))
      return false;
  return true;
}

/* A query somewhere among the rows, or one of them. */
static dv_code_query query_new(const world *w) {
  dv_code_query q;
  float *v = zeros(w->space.n, sizeof *v);
  uint32_t row = random_below(w->n ? w->n : 1);
  fill_vector(v, w->space.n, w->shape == DUPLICATES ? GAUSSIAN : w->shape, row, w->v);
  if (w->n > 0 && random_below(4) == 0) memcpy(v, w->v + row * w->space.n, w->space.n * sizeof *v);
  ck_assert(dv_code_query_init(&q, w->space.metric, v, w->space.n, &alloc) == DV_OK);
  free(v);
  return q;
}

/* ---- levels ------------------------------------------------------------------------------------------------------ */

START_TEST(levels_depend_on_row_seed_and_m_only) {
  world w = world_new(DV_L2, 300, 8, 3, GAUSSIAN);
  uint32_t before[300], n_other_seed = 0, n_other_m = 0;
  for (uint32_t r = 0; r < 300; r++) before[r] = dv_hnsw_level(&w.g, r);
  grow(&w, 200, 20);
  while (w.n_in > 100) unlink_one(&w, any_row(&w, true));
  ck_assert(dv_hnsw_reserve(&w.g, 1000) == DV_OK);
  dv_hnsw empty, other_seed, other_m;
  dv_hnsw_init(&empty, 3, w.g.seed, NULL);
  dv_hnsw_init(&other_seed, 3, w.g.seed + 1, NULL);
  dv_hnsw_init(&other_m, 2, w.g.seed, NULL);
  for (uint32_t r = 0; r < 300; r++) {
    ck_assert_uint_eq(dv_hnsw_level(&w.g, r), before[r]);
    ck_assert_uint_eq(dv_hnsw_level(&empty, r), before[r]);
    n_other_seed += dv_hnsw_level(&other_seed, r) != before[r];
    n_other_m += dv_hnsw_level(&other_m, r) != before[r];
  }
  ck_assert_uint_gt(n_other_seed, 50);
  ck_assert_uint_gt(n_other_m, 50);
  world_free(&w);
}
END_TEST

START_TEST(one_row_in_m_is_on_the_next_level) {
  static const uint32_t ms[] = {2, 3, 4, 16, DV_HNSW_MAX_M};
  enum { ROWS = 50000 };
  for (size_t i = 0; i < sizeof ms / sizeof ms[0]; i++)
    for (uint64_t s = 0; s < 3; s++) {
      size_t n_at[DV_HNSW_MAX_LEVEL + 1] = {0};
      dv_hnsw g;
      dv_hnsw_init(&g, ms[i], s * 0x123456789abcdefu, NULL);
      for (uint32_t r = 0; r < ROWS; r++) {
        uint32_t level = dv_hnsw_level(&g, r);
        ck_assert_uint_le(level, DV_HNSW_MAX_LEVEL);
        for (uint32_t l = 0; l <= level; l++) n_at[l]++;
      }
      double expected = ROWS;
      for (uint32_t l = 0; l <= DV_HNSW_MAX_LEVEL; l++, expected /= ms[i])
        ck_assert_msg(fabs((double)n_at[l] - expected) <= 4.5 * sqrt(expected) + 1.0, "m %u: %zu on level %u, not %g",
                      ms[i], n_at[l], l, expected);
    }
}
END_TEST

/* ---- searching --------------------------------------------------------------------------------------------------- */

START_TEST(a_search_with_room_for_all_finds_all_in_order) {
  static const uint32_t sizes[] = {0, 1, 2, 3, 33, 500}, ms[] = {2, 5, 16, DV_HNSW_MAX_M};
  dv_hnsw_scratch s; /* one for all: searches leave nothing behind that matters */
  dv_hnsw_scratch_init(&s, &alloc);
  for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
    for (unsigned round = 0; round < 3 * N_SHAPES; round++) {
      uint32_t n = sizes[i];
      world w = world_new(metrics[round % 3], n + n / 4, 1 + random_below(80), ms[random_below(4)], round / 3);
      dv_hnsw_hit *expected = zeros(w.n, sizeof *expected);
      grow(&w, n, 4 + random_below(60));
      for (unsigned search = 0; search < 3; search++) {
        dv_code_query q = query_new(&w);
        size_t ef = n + (search == 2 ? 1 + random_below(100) : 0);
        ck_assert(dv_hnsw_search(&w.g, &w.space, &q, ef, &s) == DV_OK);
        ck_assert_msg(s.n_pool == n, "%s shape %u m %u: %zu of %u rows", dv_metric_name(w.space.metric), w.shape, w.g.m,
                      s.n_pool, n);
        ck_assert_uint_eq(brute_force(&w, &q, expected), n);
        ck_assert(are_same_hits(s.pool, expected, n));
        dv_code_query_free(&q);
      }
      free(expected);
      world_free(&w);
    }
  dv_hnsw_scratch_free(&s);
  ck_assert_uint_eq(n_blocks, 0);
}
END_TEST

START_TEST(a_search_is_the_naive_one) {
  dv_hnsw_scratch s;
  dv_hnsw_scratch_init(&s, &alloc);
  size_t n_not_all = 0, n_coarse = 0, n_whole = 0;
  for (unsigned round = 0; round < 60; round++) {
    world w = world_new(metrics[round % 3], 50 + random_below(400), 1 + random_below(round % 2 ? 40 : 400),
                        2 + random_below(9), random_below(N_SHAPES));
    dv_hnsw_hit *expected = zeros(w.n, sizeof *expected), *all = zeros(w.n, sizeof *all);
    grow(&w, w.n - 10, 30);
    for (unsigned search = 0; search < 20; search++) {
      dv_code_query q = query_new(&w);
      size_t ef = 1 + random_below(search % 2 ? 5 : 50);
      ck_assert(dv_hnsw_search(&w.g, &w.space, &q, ef, &s) == DV_OK);
      ck_assert_uint_eq(s.n_pool, naive_search(&w, &q, ef, expected));
      ck_assert(are_same_hits(s.pool, expected, s.n_pool));
      n_coarse += is_coarse(&w, &q);
      n_whole += !is_coarse(&w, &q);
      (void)brute_force(&w, &q, all);
      n_not_all += !are_same_hits(s.pool, all, s.n_pool);
      dv_code_query_free(&q);
    }
    free(expected);
    free(all);
    world_free(&w);
  }
  ck_assert_uint_gt(n_coarse, 100);
  ck_assert_uint_gt(n_whole, 100);
  ck_assert_uint_gt(n_not_all, 50); /* with so few links and so small an ef a search errs: the naive one likewise */
  dv_hnsw_scratch_free(&s);
}
END_TEST

START_TEST(a_search_by_growth_is_the_naive_one) {
  dv_hnsw_scratch s;
  dv_hnsw_scratch_init(&s, &alloc);
  size_t n_shorter = 0, n_longer = 0;
  for (unsigned round = 0; round < 60; round++) {
    world w = world_new(metrics[round % 3], 200 + random_below(400), 1 + random_below(round % 2 ? 40 : 400),
                        2 + random_below(9), random_below(N_SHAPES));
    dv_hnsw_hit *expected = zeros(w.n, sizeof *expected);
    grow(&w, w.n - 10, 30);
    for (unsigned search = 0; search < 20; search++) {
      dv_code_query q = query_new(&w);
      size_t k = 1 + random_below(20), ef = k + random_below(60);
      double growth[4];
      for (int i = 0; i < 4; i++) growth[i] = 1 + random_below(300) / 1000.0;
      ending e = ending_of(&w, &q, k, ef, search % 4 ? growth : NULL);
      ck_assert(dv_hnsw_search(&w.g, &w.space, &q, ef, &s) == DV_OK);
      size_t n_hops = s.n_hops;
      ck_assert(dv_hnsw_search_nearest(&w.g, &w.space, &q, k, ef, search % 4 ? growth : NULL, &s) == DV_OK);
      ck_assert_uint_eq(s.n_pool, naive_search_until(&w, &q, &e, expected));
      ck_assert_msg(are_same_hits(s.pool, expected, s.n_pool), "round %u search %u", round, search);
      n_shorter += s.n_hops < n_hops;
      n_longer += s.n_hops > n_hops;
      dv_code_query_free(&q);
    }
    free(expected);
    world_free(&w);
  }
  ck_assert_uint_gt(n_shorter, 50);
  ck_assert_uint_gt(n_longer, 50);
  dv_hnsw_scratch_free(&s);
  ck_assert_uint_eq(n_blocks, 0);
}
END_TEST

/* What is measured is what all distances say; and searches that know it find more with less work, where rows here are
 * nearer to each other than rows there. */
START_TEST(growth_is_that_of_distances_and_pays) {
  enum { QUERIES = 200 };
  dv_hnsw_scratch s;
  dv_hnsw_scratch_init(&s, &alloc);
  for (size_t i = 0; i < 3; i++) {
    world w = world_new(metrics[i], 3200 + QUERIES, 20, 12, UNEVEN);
    dv_hnsw_hit *near = zeros(w.n, sizeof *near);
    uint32_t *rows = zeros(w.n, sizeof *rows);
    double growth[4], far[5] = {0};
    size_t n_found[3] = {0}, n_distances[3] = {0}; /* with ef 22 and 26 alone; with 26 and growth */
    grow(&w, w.n - QUERIES, 100);
    (void)pick_rows(&w, true, rows);
    for (uint32_t j = 0; j < QUERIES; j++) {
      double noise = metrics[i] == DV_L2 ? 0.02 * (double)w.rows[rows[j]].norm_sq : 0.02;
      for (uint32_t r = 0; r < w.n; r++)
        near[r] = (dv_hnsw_hit){r == rows[j] || !w.is_in[r] ? INFINITY : between(&w, rows[j], r), r};
      sort_hits(near, w.n);
      for (int octave = 0; octave < 5; octave++) {
        double d = (double)near[(10 << octave) - 1].distance;
        far[octave] += sqrt((metrics[i] == DV_L2 ? d : 2 * d + 2) + noise);
      }
    }
    ck_assert(dv_hnsw_growth(&w.g, &w.space, rows, QUERIES, growth) == DV_OK);
    for (int octave = 0; octave < 4; octave++)
      ck_assert_double_eq_tol(growth[octave], metrics[i] == DV_IP ? 1 : far[octave + 1] / far[octave], 0.002);
    for (uint32_t r = 0; r < w.n; r++) {
      dv_code_query q;
      if (w.is_in[r]) continue;
      ck_assert(dv_code_query_init(&q, metrics[i], w.v + r * w.space.n, w.space.n, &alloc) == DV_OK);
      (void)brute_force(&w, &q, near);
      for (int way = 0; way < 3; way++) {
        size_t ef = way == 0 ? 22 : 26;
        ck_assert(dv_hnsw_search_nearest(&w.g, &w.space, &q, 10, ef, way == 2 ? growth : NULL, &s) == DV_OK);
        for (size_t h = 0; h < 10; h++) n_found[way] += s.pool[h].distance <= near[9].distance;
        n_distances[way] += s.n_distances;
      }
      dv_code_query_free(&q);
    }
    /* By angles these clusters are not much unlike. */
    size_t n_least = metrics[i] == DV_L2 ? n_found[0] + 1 : n_found[0] - n_found[0] / 100;
    if (metrics[i] != DV_IP)
      ck_assert_msg(n_found[2] >= n_least && n_distances[2] < n_distances[1],
                    "%s: %zu found by %zu distances; without growth %zu by %zu and %zu by %zu",
                    dv_metric_name(metrics[i]), n_found[2], n_distances[2], n_found[0], n_distances[0], n_found[1],
                    n_distances[1]);
    dv_status st = DV_NOMEM;
    for (size_t at = 0; st == DV_NOMEM; at++) {
      n_calls = 0;
      fail_at = at;
      st = dv_hnsw_growth(&w.g, &w.space, rows, 2, growth);
      ck_assert_int_eq(st == DV_OK, n_calls <= at);
      fail_at = SIZE_MAX;
    }
    ck_assert(st == DV_OK);
    free(rows);
    free(near);
    world_free(&w);
  }
  dv_hnsw_scratch_free(&s);
  ck_assert_uint_eq(n_blocks, 0);
}
END_TEST

/* Looks on at a search, and ends it at its call number n_until. */
typedef struct onlooker {
  const world *w;
  const dv_code_query *q;
  size_t first, n_calls, n_until, n_last;
  dv_hnsw_hit last[500]; /* as they were at the last call */
} onlooker;

static bool look_on(void *ctx, const dv_hnsw_hit *pool, size_t n) {
  onlooker *o = ctx;
  ck_assert_uint_ge(n, o->first);
  ck_assert_uint_gt(n, o->n_last);
  ck_assert_uint_le(n, sizeof o->last / sizeof o->last[0]);
  for (size_t i = 0; i < n; i++) {
    o->last[i] = (dv_hnsw_hit){pool[i].distance, pool[i].row & (DV_HNSW_MAX_ROWS - 1)};
    ck_assert(i == 0 || by_hit(&o->last[i - 1], &o->last[i]) < 0);
  }
  /* No link of theirs leads to something nearer that is not among them. */
  for (size_t i = 0; i < n; i++) {
    for (uint32_t j = 0; j < list_length(&o->w->g, o->last[i].row, 0); j++) {
      uint32_t to = list_of(&o->w->g, o->last[i].row, 0)[j];
      dv_hnsw_hit hit = {walked(o->w, o->q, to), to};
      size_t at = 0;
      while (at < n && o->last[at].row != to) at++;
      ck_assert(at < n || by_hit(&hit, &o->last[n - 1]) > 0);
    }
  }
  o->n_last = n;
  return ++o->n_calls != o->n_until;
}

START_TEST(a_search_that_is_looked_on_ends_when_it_is_told_to) {
  static onlooker o;
  dv_hnsw_scratch s, whole;
  size_t n_ended = 0, n_most = 0;
  dv_hnsw_scratch_init(&s, &alloc);
  dv_hnsw_scratch_init(&whole, &alloc);
  for (unsigned round = 0; round < 30; round++) {
    world w = world_new(metrics[round % 3], 50 + random_below(400), 1 + random_below(40), 2 + random_below(9),
                        random_below(N_SHAPES));
    grow(&w, w.n - 10, 30);
    for (unsigned search = 0; search < 10; search++) {
      dv_code_query q = query_new(&w);
      size_t ef = 20 + random_below(100);
      o = (onlooker){.w = &w, .q = &q, .first = 1 + random_below(20), .n_until = search % 5};
      dv_hnsw_watch watch = {o.first, look_on, &o};
      ck_assert(dv_hnsw_search(&w.g, &w.space, &q, ef, &whole) == DV_OK);
      ck_assert(dv_hnsw_search_watched(&w.g, &w.space, &q, ef, &watch, &s) == DV_OK);
      if (o.n_until && o.n_calls == o.n_until) {
        ck_assert_uint_eq(s.n_pool, o.n_last);
        for (size_t i = 0; i < s.n_pool; i++) o.last[i].distance = estimate(&w, &q, o.last[i].row);
        sort_hits(o.last, s.n_pool);
        ck_assert(are_same_hits(s.pool, o.last, s.n_pool));
        ck_assert_uint_le(s.n_hops, whole.n_hops);
        n_ended++;
      } else {
        ck_assert_uint_eq(s.n_pool, whole.n_pool);
        ck_assert(are_same_hits(s.pool, whole.pool, s.n_pool));
      }
      if (o.n_calls > n_most) n_most = o.n_calls;
      dv_code_query_free(&q);
    }
    world_free(&w);
  }
  ck_assert_uint_gt(n_ended, 150);
  ck_assert_uint_gt(n_most, 8); /* now and then, until its end */
  dv_hnsw_scratch_free(&s);
  dv_hnsw_scratch_free(&whole);
  ck_assert_uint_eq(n_blocks, 0);
}
END_TEST

static size_t n_gathered, n_gathered_high;

static void counting_gather(const uint8_t *codes, size_t stride, const uint32_t *rows, size_t n_rows,
                            const int8_t *query, int32_t sum, int32_t *out) {
  n_gathered += n_rows;
  dv_kernels_scalar.gather_code(codes, stride, rows, n_rows, query, sum, out);
}

static void counting_gather_high(const uint8_t *codes, size_t stride, const uint32_t *rows, size_t n_rows,
                                 const int8_t *query, int32_t sum, int32_t *out) {
  n_gathered_high += n_rows;
  dv_kernels_scalar.gather_high(codes, stride, rows, n_rows, query, sum, out);
}

START_TEST(ef_of_zero_finds_nothing_and_looks_at_nothing) {
  dv_kernels kernels = dv_kernels_scalar;
  kernels.gather_code = counting_gather;
  world w = world_new(DV_L2, 40, 8, 4, GAUSSIAN);
  grow(&w, 40, 20);
  w.space.kernels = &kernels;
  dv_hnsw_scratch s;
  dv_hnsw_scratch_init(&s, &alloc);
  dv_code_query q = query_new(&w);
  ck_assert(dv_hnsw_search(&w.g, &w.space, &q, 5, &s) == DV_OK);
  ck_assert_uint_eq(s.n_pool, 5);
  n_gathered = 0;
  ck_assert(dv_hnsw_search(&w.g, &w.space, &q, 0, &s) == DV_OK);
  ck_assert_uint_eq(s.n_pool, 0);
  ck_assert_uint_eq(n_gathered + s.n_distances + s.n_hops, 0);
  dv_code_query_free(&q);
  dv_hnsw_scratch_free(&s);
  world_free(&w);
}
END_TEST

/* The 10 nearest of 3,000, and how many rows were looked at for it. */
static void expect_recall(dv_metric m, unsigned shape) {
  dv_kernels kernels = *dv_kernels_get();
  dv_hnsw_scratch s;
  dv_hnsw_scratch_init(&s, &alloc);
  world w = world_new(m, 3000, 64, 16, shape);
  dv_hnsw_hit *expected = zeros(w.n, sizeof *expected);
  grow(&w, 3000, 100);
  kernels.gather_code = counting_gather;
  kernels.gather_high = counting_gather_high;
  w.space.kernels = &kernels;
  size_t n_found = 0, n_looked = 0;
  const size_t n_queries = 50, k = 10;
  for (unsigned i = 0; i < n_queries; i++) {
    dv_code_query q = query_new(&w);
    n_gathered = n_gathered_high = 0;
    ck_assert(dv_hnsw_search(&w.g, &w.space, &q, 64, &s) == DV_OK);
    ck_assert_uint_eq(is_coarse(&w, &q) ? n_gathered_high : n_gathered, s.n_distances);
    ck_assert_uint_eq(is_coarse(&w, &q) ? n_gathered : 0, is_coarse(&w, &q) ? s.n_pool : 0);
    n_looked += s.n_distances;
    (void)brute_force(&w, &q, expected);
    for (size_t j = 0; j < k; j++) n_found += s.pool[j].distance <= expected[k - 1].distance;
    dv_code_query_free(&q);
  }
  ck_assert_msg(n_found * 100 >= 95 * n_queries * k, "%s shape %u: recall %zu / %zu", dv_metric_name(m), shape, n_found,
                n_queries * k);
  ck_assert_uint_lt(n_looked, n_queries * 3000 / 2); /* and it is a search, not a scan */
  free(expected);
  world_free(&w);
  dv_hnsw_scratch_free(&s);
}

START_TEST(recall_of_clustered_rows_is_high) {
  for (size_t i = 0; i < 3; i++) expect_recall(metrics[i], CLUSTERS);
}
END_TEST

START_TEST(recall_is_high_for_products_of_rows_of_very_unequal_lengths) { expect_recall(DV_IP, LENGTHS); }
END_TEST

/* The sum of the components' differences, which codes know nothing of. */
static float l1_between(const world *w, uint32_t a, uint32_t b) {
  float sum = 0;
  for (size_t i = 0; i < w->space.n; i++) sum += fabsf(w->v[a * w->space.n + i] - w->v[b * w->space.n + i]);
  return sum;
}

static dv_status judge_l1(void *ctx, uint32_t from, const uint32_t *rows, size_t n, float *out) {
  const world *w = ctx;
  if (n_calls++ == fail_at) return DV_CORRUPT;
  for (size_t i = 0; i < n; i++) out[i] = l1_between(w, from, rows[i]);
  return DV_OK;
}

/* A judge decides what is near, of all rows and of what a search has found: as many as a naive count says. */
START_TEST(recall_is_by_the_judge) {
  world w = world_new(DV_L2, 900, 16, 6, GAUSSIAN);
  const dv_hnsw_judge judge = {judge_l1, &w};
  static const uint32_t efs[] = {10, 40, 1000};
  uint32_t rows[60];
  double by_codes[3], by_judge[3], expected = 0;
  grow(&w, w.n, 60);
  for (uint32_t i = 0; i < 60; i++) rows[i] = i * 13;
  ck_assert(dv_hnsw_recall(&w.g, &w.space, rows, 60, 10, NULL, efs, 3, by_codes) == DV_OK);
  w.space.judge = &judge;
  ck_assert(dv_hnsw_recall(&w.g, &w.space, rows, 60, 10, NULL, efs, 3, by_judge) == DV_OK);
  /* All but the row itself are found with the largest ef; with the smallest, of the ten nearest by l1 those among the
   * ten nearest by l2, as far as those are found; and the nearest are found first. */
  ck_assert_double_eq(by_judge[2], 1.0);
  for (uint32_t i = 0; i < 60; i++) {
    double near[2][900];
    for (unsigned l = 0; l < 2; l++) {
      for (uint32_t r = 0; r < w.n; r++) {
        double sum = 0;
        for (size_t j = 0; j < w.space.n; j++) {
          double d = (double)w.v[rows[i] * w.space.n + j] - (double)w.v[r * w.space.n + j];
          sum += l ? fabs(d) : d * d;
        }
        near[l][r] = r == rows[i] ? INFINITY : sum;
      }
    }
    for (uint32_t r = 0; r < w.n; r++) {
      unsigned before[2] = {0, 0};
      for (uint32_t o = 0; o < w.n; o++)
        for (unsigned l = 0; l < 2; l++) before[l] += near[l][o] < near[l][r];
      if (before[0] < 10 && before[1] < 10) expected += 1.0 / 600;
    }
  }
  ck_assert_msg(by_judge[0] > expected * by_codes[0] - 0.02 && by_judge[0] < expected + 0.02,
                "%g of l2's neighbours are l1's, %g found, of %g", expected, by_judge[0], by_codes[0]);
  ck_assert(by_judge[1] > by_judge[0] + 0.1);
  n_calls = 0;
  fail_at = 7;
  ck_assert(dv_hnsw_recall(&w.g, &w.space, rows, 60, 10, NULL, efs, 3, by_judge) == DV_CORRUPT);
  fail_at = SIZE_MAX;
  world_free(&w);
}
END_TEST

/* Against searches for rows that were never linked: what is measured is a little less, as a row that is passed over
 * leaves a hole. */
START_TEST(measured_recall_is_nearly_what_searches_for_other_rows_find) {
  const uint32_t n_queries = 150;
  static const uint32_t efs[] = {10, 20, 60, 1350};
  dv_hnsw_scratch s;
  dv_hnsw_scratch_init(&s, &alloc);
  for (size_t i = 0; i < 3; i++) {
    world w = world_new(metrics[i], 1500, 24, 6, GAUSSIAN);
    dv_hnsw_hit *expected = zeros(w.n, sizeof *expected);
    uint32_t *rows = zeros(w.n, sizeof *rows);
    double measured[4] = {-1, -1, -1, -1}, found[4] = {0};
    grow(&w, w.n - n_queries, 60);
    ck_assert_uint_eq(pick_rows(&w, false, rows), n_queries);
    for (unsigned j = 0; j < n_queries; j++) {
      dv_code_query q;
      ck_assert(dv_code_query_init(&q, metrics[i], w.v + rows[j] * w.space.n, w.space.n, &alloc) == DV_OK);
      (void)brute_force(&w, &q, expected);
      for (size_t e = 0; e < 4; e++) {
        ck_assert(dv_hnsw_search(&w.g, &w.space, &q, efs[e], &s) == DV_OK);
        for (size_t k = 0; k < 10; k++) found[e] += (s.pool[k].distance <= expected[9].distance) / (10.0 * n_queries);
      }
      dv_code_query_free(&q);
    }
    (void)pick_rows(&w, true, rows);
    ck_assert(dv_hnsw_recall(&w.g, &w.space, rows, n_queries, 10, NULL, efs, 4, measured) == DV_OK);
    for (size_t e = 0; e < 4; e++) {
      ck_assert_msg(measured[e] <= found[e] + 0.06 && measured[e] >= found[e] - 0.16, "%s ef %u: %g measured, %g found",
                    dv_metric_name(metrics[i]), efs[e], measured[e], found[e]);
      ck_assert(e == 0 || measured[e] >= measured[e - 1]);
    }
    ck_assert(measured[0] < 0.8 && measured[3] > 0.99);
    dv_status st = DV_NOMEM;
    for (size_t at = 0; st == DV_NOMEM; at++) {
      n_calls = 0;
      fail_at = at;
      st = dv_hnsw_recall(&w.g, &w.space, rows, 2, 10, NULL, efs, 2, measured);
      ck_assert_int_eq(st == DV_OK, n_calls <= at);
      fail_at = SIZE_MAX;
    }
    ck_assert(st == DV_OK);
    free(rows);
    free(expected);
    world_free(&w);
  }
  dv_hnsw_scratch_free(&s);
  ck_assert_uint_eq(n_blocks, 0);
}
END_TEST

/* Their squared lengths are beyond f32, and differences of them are not numbers. */
START_TEST(rows_too_large_for_their_distances_do_not_hide_others) {
  dv_hnsw_scratch s;
  dv_hnsw_scratch_init(&s, &alloc);
  for (unsigned round = 0; round < 30; round++) {
    world w = world_new(metrics[round % 3], 60, 8, 4, HUGE_VALUES);
    grow(&w, 60, 20);
    expect_whole(&w);
    for (unsigned search = 0; search < 10; search++) {
      dv_code_query q = query_new(&w);
      ck_assert(dv_hnsw_search(&w.g, &w.space, &q, 60, &s) == DV_OK);
      ck_assert_uint_eq(s.n_pool, 60);
      for (size_t i = 1; i < 60; i++) /* numbers in order, then those that are none */
        ck_assert_msg(isnan(s.pool[i].distance) || s.pool[i - 1].distance <= s.pool[i].distance,
                      "round %u: %zu: %g, %g", round, i, (double)s.pool[i - 1].distance, (double)s.pool[i].distance);
      dv_code_query_free(&q);
    }
    world_free(&w);
  }
  dv_hnsw_scratch_free(&s);
}
END_TEST

/* ---- which links ------------------------------------------------------------------------------------------------- */

/* A graph in which every row sees every other: naive as long as no list is full. */
typedef struct model {
  uint32_t n, m, n_linked, entry, top;
  uint32_t *lists; /* 2m for each row on each level */
  uint32_t *lengths;
  bool is_full; /* a list would have been too long: nothing can be said any more */
} model;

static model model_new(uint32_t n, uint32_t m) {
  model x = {.n = n, .m = m, .entry = DV_HNSW_NONE};
  x.lists = zeros((size_t)n * (DV_HNSW_MAX_LEVEL + 1) * 2 * m, sizeof *x.lists);
  x.lengths = zeros((size_t)n * (DV_HNSW_MAX_LEVEL + 1), sizeof *x.lengths);
  return x;
}

static void model_free(model *x) {
  free(x->lists);
  free(x->lengths);
}

static uint32_t *model_list(const model *x, uint32_t row, uint32_t level, uint32_t **length) {
  size_t at = (size_t)level * x->n + row;
  *length = x->lengths + at;
  return x->lists + at * 2 * x->m;
}

static void model_add(model *x, uint32_t row, uint32_t level, uint32_t to) {
  uint32_t *length, *list = model_list(x, row, level, &length);
  if (*length == (level == 0 ? 2 * x->m : x->m)) {
    x->is_full = true;
  } else {
    list[(*length)++] = to;
  }
}

/* On each of its levels, of all rows there, the nearest first: at most m, none of which is nearer to one of them than
 * to the row. For ip then the nearest of the others, while there are not m. */
static void model_link(model *x, const world *w, const bool *is_in, uint32_t row) {
  uint32_t level = dv_hnsw_level(&w->g, row);
  dv_hnsw_hit *c = zeros(x->n, sizeof *c), *chosen = zeros(x->m, sizeof *chosen);
  bool *is_chosen = zeros(x->n, sizeof *is_chosen);
  for (uint32_t l = 0; l <= level; l++) {
    uint32_t n = 0, n_chosen = 0;
    for (uint32_t r = 0; r < x->n; r++)
      if (is_in[r] && dv_hnsw_level(&w->g, r) >= l) c[n++] = (dv_hnsw_hit){between(w, row, r), r};
    sort_hits(c, n);
    memset(is_chosen, 0, x->n * sizeof *is_chosen);
    for (unsigned pass = 0; pass < (w->space.metric == DV_IP ? 2u : 1u); pass++)
      for (uint32_t i = 0; i < n && n_chosen < x->m; i++) {
        bool is_hidden = is_chosen[c[i].row];
        for (uint32_t j = 0; j < n_chosen && pass == 0; j++)
          is_hidden = is_hidden || between(w, c[i].row, chosen[j].row) < c[i].distance;
        if (is_hidden) continue;
        chosen[n_chosen++] = c[i];
        is_chosen[c[i].row] = true;
      }
    for (uint32_t j = 0; j < n_chosen; j++) {
      model_add(x, row, l, chosen[j].row);
      model_add(x, chosen[j].row, l, row);
    }
  }
  if (x->entry == DV_HNSW_NONE || level > x->top) {
    x->entry = row;
    x->top = level;
  }
  x->n_linked++;
  free(c);
  free(chosen);
  free(is_chosen);
}

static void expect_same_as_model(const world *w, const model *x) {
  ck_assert_uint_eq(w->g.entry, x->entry);
  ck_assert_uint_eq(w->g.top, x->top);
  ck_assert_uint_eq(w->g.n_linked, x->n_linked);
  for (uint32_t l = 0; l <= DV_HNSW_MAX_LEVEL; l++)
    for (uint32_t r = 0; r < w->n; r++) {
      uint32_t *length, *list = model_list(x, r, l, &length), n = list_length(&w->g, r, l);
      if (n != *length || (n > 0 && memcmp(list, list_of(&w->g, r, l), n * sizeof *list) != 0))
        ck_abort_msg("%s shape %u m %u: level %u of row %u", dv_metric_name(w->space.metric), w->shape, w->g.m, l, r);
    }
}

/* A batch sees what was before it and its own earlier rows: with ef for all of them, that is everything. */
START_TEST(links_are_the_naive_choice_while_no_list_is_full) {
  static const uint32_t ms[] = {2, 3, 4, 16, 64};
  size_t n_compared = 0, n_upper = 0, n_in_batches = 0;
  for (unsigned round = 0; round < 150; round++) {
    uint32_t m = ms[round % 5];
    world w = world_new(metrics[round % 3], 240, 1 + random_below(24), m, random_below(N_SHAPES));
    model x = model_new(w.n, m);
    uint32_t *rows = zeros(w.n, sizeof *rows), n_rows = pick_rows(&w, false, rows);
    for (uint32_t at = 0, n; at < n_rows; at += n) {
      n = 1 + random_below(at < 70 ? 4 : 30);
      if (n > n_rows - at) n = n_rows - at;
      bool *is_in = copy_of(w.is_in, w.n, sizeof *is_in);
      for (uint32_t i = 0; i < n; i++) {
        model_link(&x, &w, is_in, rows[at + i]);
        is_in[rows[at + i]] = true;
      }
      free(is_in);
      if (x.is_full) break;
      link_all(&w, rows + at, n, 300, NULL);
      expect_same_as_model(&w, &x);
      n_compared += n;
      n_in_batches += at >= 64 ? n : 0;
    }
    n_upper += w.g.n_upper;
    free(rows);
    model_free(&x);
    world_free(&w);
  }
  ck_assert_uint_gt(n_compared, 3000);
  ck_assert_uint_gt(n_in_batches, 1000);
  ck_assert_uint_gt(n_upper, 100);
}
END_TEST

/* Points on axes around the first, in rows that are on the ground only. */
static void place(world *w, uint32_t row, float a, float b, float c) {
  w->v[row * 3] = a;
  w->v[row * 3 + 1] = b;
  w->v[row * 3 + 2] = c;
  encode_row(w, row);
}

/* A world of m = 2 with its rows of level 0; the first of them is a full list's owner, with four neighbours in four
 * directions that have no other. */
static world star_new(uint32_t *rows, uint32_t n_rows) {
  world w = world_new(DV_L2, 40, 3, 2, ZERO);
  uint32_t n = 0;
  for (uint32_t r = 0; r < w.n && n < n_rows; r++)
    if (dv_hnsw_level(&w.g, r) == 0) rows[n++] = r;
  ck_assert_uint_eq(n, n_rows);
  place(&w, rows[1], 10, 0, 0);
  place(&w, rows[2], -11, 0, 0);
  place(&w, rows[3], 0, 12, 0);
  place(&w, rows[4], 0, -13, 0);
  link_all(&w, rows, 5, 10, NULL);
  for (uint32_t i = 1; i < 5; i++) ck_assert_uint_eq(list_length(&w.g, rows[i], 0), 1);
  ck_assert_uint_eq(list_length(&w.g, rows[0], 0), 4);
  return w;
}

static void expect_links(const world *w, uint32_t row, uint32_t n, const uint32_t *to) {
  ck_assert_uint_eq(list_length(&w->g, row, 0), n);
  for (uint32_t i = 0; i < n; i++) ck_assert_msg(has_link(&w->g, row, 0, to[i]), "row %u has no %u", row, to[i]);
}

START_TEST(a_full_list_leaves_the_one_behind_a_new_row_to_it) {
  uint32_t r[6];
  world w = star_new(r, 6);
  place(&w, r[5], 5, 0, 0);
  link_all(&w, r + 5, 1, 10, NULL);
  expect_links(&w, r[0], 4, (uint32_t[]){r[2], r[3], r[4], r[5]});
  expect_links(&w, r[5], 2, (uint32_t[]){r[0], r[1]});
  expect_links(&w, r[1], 1, (uint32_t[]){r[5]});
  expect_whole(&w);
  world_free(&w);
}
END_TEST

START_TEST(a_full_list_leaves_the_farthest_to_another) {
  uint32_t r[6];
  world w = star_new(r, 6);
  place(&w, r[5], 0, 0, 10.5f); /* a fifth direction */
  link_all(&w, r + 5, 1, 10, NULL);
  expect_links(&w, r[0], 4, (uint32_t[]){r[1], r[2], r[3], r[5]});
  ck_assert_uint_eq(list_length(&w.g, r[4], 0), 1);
  expect_whole(&w);
  world_free(&w);
}
END_TEST

START_TEST(a_row_that_nobody_keeps_is_linked_all_the_same) {
  for (unsigned has_more = 0; has_more < 2; has_more++) {
    uint32_t r[8];
    world w = star_new(r, 8);
    place(&w, r[5], -11, 0, 4); /* a link more for the one it is beside */
    if (has_more) link_all(&w, r + 5, 1, 10, NULL);
    place(&w, r[6], 0, 0, 14); /* the fifth direction, and the farthest */
    link_all(&w, r + 6, 1, 10, NULL);
    ck_assert_uint_gt(list_length(&w.g, r[6], 0), 0);
    expect_whole(&w);
    world_free(&w);
  }
}
END_TEST

/* Equal rows have the same neighbours, those of the smallest numbers: their lists are full first. */
START_TEST(lists_of_the_greatest_length_overflow_like_others) {
  world w = world_new(DV_L2, 1100, 2, DV_HNSW_MAX_M, EQUAL);
  uint32_t n_full = 0;
  uint32_t *rows = zeros(w.n, sizeof *rows);
  for (uint32_t r = 0; r < w.n; r++) rows[r] = r;
  link_all(&w, rows, w.n, 2, NULL);
  for (uint32_t r = 0; r < w.n; r++) n_full += list_length(&w.g, r, 0) == 2 * DV_HNSW_MAX_M;
  ck_assert_uint_gt(n_full, 0);
  expect_whole(&w);
  free(rows);
  world_free(&w);
}
END_TEST

/* ---- taking rows out --------------------------------------------------------------------------------------------- */

static size_t count_links(const dv_hnsw *g, uint32_t level) {
  size_t n = 0;
  for (uint32_t r = 0; r < g->n; r++) n += list_length(g, r, level);
  return n / 2;
}

/* How many of these rows a path of links among them leads to from the first. */
static uint32_t count_together(const dv_hnsw *g, const dv_hnsw_hit *near, uint32_t n) {
  bool is_seen[32] = {true};
  uint32_t n_seen = n > 0;
  for (bool is_new = true; is_new;) {
    is_new = false;
    for (uint32_t i = 0; i < n; i++)
      for (uint32_t j = 0; j < n; j++) {
        if (!is_seen[i] || is_seen[j] || !has_link(g, near[i].row, 0, near[j].row)) continue;
        is_seen[j] = is_new = true;
        n_seen++;
      }
  }
  return n_seen;
}

/* The new links are no longer than those of a tree into which the rows come as they are near to the one that leaves,
 * each linked with the nearest that is there. */
START_TEST(neighbours_of_a_row_that_leaves_stay_together_by_short_links) {
  size_t n_new_total = 0;
  for (unsigned round = 0; round < 60; round++) {
    world w = world_new(metrics[round % 3], 80, 5 + random_below(6), 16, GAUSSIAN);
    grow(&w, 80, 100);
    for (unsigned step = 0; step < 10; step++) {
      uint32_t row = any_row(&w, true), n = list_length(&w.g, row, 0), n_new = 0;
      dv_hnsw_hit near[32];
      bool has_room = true;
      for (uint32_t i = 0; i < n; i++) {
        near[i].row = list_of(&w.g, row, 0)[i];
        near[i].distance = between(&w, row, near[i].row);
        has_room = has_room && list_length(&w.g, near[i].row, 0) + n <= 32;
      }
      if (!has_room) continue;
      sort_hits(near, n);
      double longest = 0, length = 0;
      for (uint32_t i = 1; i < n; i++) {
        float best = between(&w, near[i].row, near[0].row);
        for (uint32_t j = 1; j < i; j++) best = fminf(best, between(&w, near[i].row, near[j].row));
        longest += (double)best;
      }
      dv_hnsw before = graph_copy(&w.g);
      unlink_one(&w, row);
      for (uint32_t i = 0; i < n; i++) {
        uint32_t a = near[i].row;
        for (uint32_t j = i + 1; j < n; j++) {
          if (has_link(&before, a, 0, near[j].row) || !has_link(&w.g, a, 0, near[j].row)) continue;
          length += (double)between(&w, a, near[j].row);
          n_new++;
        }
        /* and nothing else of them changed */
        for (uint32_t k = 0; k < list_length(&before, a, 0); k++) {
          uint32_t to = list_of(&before, a, 0)[k];
          ck_assert(to == row || has_link(&w.g, a, 0, to));
        }
      }
      ck_assert_uint_eq(count_together(&w.g, near, n), n);
      ck_assert_uint_eq(count_links(&w.g, 0), count_links(&before, 0) - n + n_new);
      ck_assert(n == 0 || n_new < n);
      if (w.space.metric == DV_L2) ck_assert_msg(length <= longest + 1e-3, "%g, not %g", length, longest);
      n_new_total += n_new;
      dv_hnsw_free(&before);
    }
    expect_whole(&w);
    world_free(&w);
  }
  ck_assert_uint_gt(n_new_total, 500);
}
END_TEST

START_TEST(unlink_makes_no_more_links_than_are_lost) {
  for (unsigned round = 0; round < 30; round++) {
    world w = world_new(metrics[round % 3], 150, 6, 2 + random_below(4), random_below(N_SHAPES));
    grow(&w, 150, 20);
    while (w.n_in > 0) {
      size_t before[DV_HNSW_MAX_LEVEL + 1];
      for (uint32_t l = 0; l <= DV_HNSW_MAX_LEVEL; l++) before[l] = count_links(&w.g, l);
      unlink_one(&w, any_row(&w, true));
      for (uint32_t l = 0; l <= DV_HNSW_MAX_LEVEL; l++) ck_assert_uint_le(count_links(&w.g, l), before[l]);
    }
    world_free(&w);
  }
}
END_TEST

START_TEST(the_last_row_stays_when_the_other_leaves) {
  for (uint32_t m = 2; m < 6; m++)
    for (uint32_t leaver = 0; leaver < 2; leaver++) {
      world w = world_new(DV_L2, 2, 4, m, GAUSSIAN);
      grow(&w, 2, 10);
      unlink_one(&w, leaver);
      expect_whole(&w);
      dv_hnsw_scratch s;
      dv_hnsw_scratch_init(&s, &alloc);
      dv_code_query q = query_new(&w);
      ck_assert(dv_hnsw_search(&w.g, &w.space, &q, 10, &s) == DV_OK);
      ck_assert_uint_eq(s.n_pool, 1);
      ck_assert_uint_eq(s.pool[0].row, 1 - leaver);
      dv_code_query_free(&q);
      dv_hnsw_scratch_free(&s);
      world_free(&w);
    }
}
END_TEST

/* ---- random programs --------------------------------------------------------------------------------------------- */

/* Links, unlinks and moves, mostly the one or the other for a while; down to nothing now and then. */
static void random_steps(world *w, unsigned n_steps, unsigned check_each) {
  uint32_t *rows = zeros(w->n, sizeof *rows);
  for (unsigned step = 0; step < n_steps; step++) {
    size_t ef = 2 + random_below(40);
    unsigned trend = step / 100 % 4, action = random_below(10);
    if (w->n_in < w->n && action < (trend == 0 ? 8u : trend == 3 ? 1u : 4u)) {
      uint32_t n = pick_rows(w, false, rows), want = 1 + random_below(random_below(4) ? 2 : 30);
      link_all(w, rows, want < n ? want : n, ef, NULL);
    } else if (w->n_in > 0 && (action > 7 || trend == 1)) {
      move_one(w, any_row(w, true), ef);
    } else if (w->n_in > 0) {
      unlink_one(w, random_below(8) ? any_row(w, true) : w->g.entry);
    }
    if (step % check_each == 0) expect_whole(w);
  }
  expect_whole(w);
  free(rows);
}

static void check_programs(uint32_t m, unsigned check_each) {
  for (unsigned round = 0; round < 12; round++) {
    world w = world_new(metrics[round % 3], 300, 2 + random_below(20), m, random_below(N_SHAPES));
    random_steps(&w, 400, check_each);
    world_free(&w);
  }
  ck_assert_uint_eq(n_blocks, 0);
}

START_TEST(a_graph_of_2_links_is_whole_after_every_step_of_random_programs) { check_programs(2, 1); }
END_TEST
START_TEST(a_graph_of_3_links_is_whole_after_every_step_of_random_programs) { check_programs(3, 1); }
END_TEST
START_TEST(a_graph_of_4_links_is_whole_after_every_step_of_random_programs) { check_programs(4, 2); }
END_TEST
START_TEST(a_graph_of_16_links_is_whole_after_every_step_of_random_programs) { check_programs(16, 10); }
END_TEST

START_TEST(a_graph_is_emptied_entry_by_entry_and_filled_again) {
  static const uint32_t ms[] = {2, 3, 4, 16};
  for (unsigned round = 0; round < 12; round++) {
    world w = world_new(metrics[round % 3], 120, 8, ms[round % 4], random_below(N_SHAPES));
    for (unsigned again = 0; again < 3; again++) {
      grow(&w, 120, 20);
      expect_whole(&w);
      while (w.n_in > 0) {
        unlink_one(&w, w.g.entry);
        expect_whole(&w);
        uint32_t highest = DV_HNSW_NONE; /* the first of these */
        for (uint32_t r = 0; r < w.n; r++)
          if (w.is_in[r] && (highest == DV_HNSW_NONE || dv_hnsw_level(&w.g, r) > dv_hnsw_level(&w.g, highest)))
            highest = r;
        ck_assert_uint_eq(w.g.entry, highest);
      }
      ck_assert_uint_eq(w.g.entry, DV_HNSW_NONE);
    }
    world_free(&w);
  }
}
END_TEST

START_TEST(lists_above_the_ground_are_used_again) {
  world w = world_new(DV_L2, 200, 8, 2, GAUSSIAN);
  grow(&w, 200, 20);
  uint32_t n_upper = w.g.n_upper;
  for (unsigned i = 0; i < 300; i++) move_one(&w, random_below(200), 20);
  ck_assert_uint_eq(w.g.n_upper, n_upper);
  world_free(&w);
}
END_TEST

START_TEST(linking_leaves_no_row_that_no_path_leads_to) {
  static const uint32_t ms[] = {2, 3, 5, 16};
  for (unsigned round = 0; round < 4 * N_SHAPES; round++) {
    world w = world_new(metrics[round % 3], 400, 2 + random_below(20), ms[round % 4], round / 4);
    uint32_t *lost = zeros(w.n, sizeof *lost);
    size_t n_lost;
    grow(&w, 400, 2 + random_below(40));
    ck_assert(dv_hnsw_unreachable(&w.g, lost, &n_lost) == DV_OK);
    ck_assert_msg(n_lost == 0, "%s shape %u m %u: %zu of 400", dv_metric_name(w.space.metric), w.shape, w.g.m, n_lost);
    free(lost);
    world_free(&w);
  }
}
END_TEST

START_TEST(no_row_is_lost_however_much_is_moved) {
  static const uint32_t ms[] = {4, 5, 8, 16};
  dv_hnsw_scratch s;
  dv_hnsw_scratch_init(&s, &alloc);
  for (unsigned round = 0; round < 4 * N_SHAPES; round++) {
    world w = world_new(metrics[round % 3], 250, 2 + random_below(20), ms[round % 4], round / 4);
    uint32_t *lost = zeros(w.n, sizeof *lost);
    size_t n_lost;
    grow(&w, 250, 10);
    for (unsigned i = 0; i < 500; i++) move_one(&w, random_below(250), 10);
    while (w.n_in > 50 + 50 * (round % 5)) unlink_one(&w, any_row(&w, true));
    ck_assert(dv_hnsw_unreachable(&w.g, lost, &n_lost) == DV_OK);
    ck_assert_msg(n_lost == 0 || may_fall_apart(&w), "%s shape %u m %u: %zu of %u", dv_metric_name(w.space.metric),
                  w.shape, w.g.m, n_lost, w.n_in);
    for (size_t i = 0; i < n_lost; i++) w.is_in[lost[i]] = false; /* exactly the others are found */
    for (uint32_t r = 0; r < w.n; r += 7) {
      if (!w.is_in[r]) continue;
      dv_code_query q;
      ck_assert(dv_code_query_init(&q, w.space.metric, w.v + r * w.space.n, w.space.n, &alloc) == DV_OK);
      ck_assert(dv_hnsw_search(&w.g, &w.space, &q, w.n_in, &s) == DV_OK);
      bool *is_found = zeros(w.n, sizeof *is_found);
      for (size_t i = 0; i < s.n_pool; i++) is_found[s.pool[i].row] = true;
      ck_assert(memcmp(is_found, w.is_in, w.n * sizeof *is_found) == 0);
      free(is_found);
      dv_code_query_free(&q);
    }
    free(lost);
    world_free(&w);
  }
  dv_hnsw_scratch_free(&s);
  ck_assert_uint_eq(n_blocks, 0);
}
END_TEST

/* ---- the same everywhere ----------------------------------------------------------------------------------------- */

START_TEST(every_table_of_kernels_makes_the_same_graph) {
  for (unsigned round = 0; round < 9; round++) {
    uint64_t start = seed;
    dv_hnsw first, other;
    for (size_t k = 0; dv_kernels_name_at(k); k++) {
      seed = start;
      world w = world_new(metrics[round % 3], 250, 70, 2 + round % 4, round % N_SHAPES);
      w.space.kernels = dv_kernels_named(dv_kernels_name_at(k));
      random_steps(&w, 150, 150);
      other = graph_copy(&w.g);
      world_free(&w);
      if (k == 0) {
        first = other;
        continue;
      }
      ck_assert_msg(is_same_graph(&first, &other), "%s", dv_kernels_name_at(k));
      dv_hnsw_free(&other);
    }
    dv_hnsw_free(&first);
  }
}
END_TEST

enum { WORKERS = 3 };

static size_t n_runs;

/* No two tasks at a time have the same worker: in a row, any will do. */
static void run_backwards(void *ctx, size_t n, void (*task)(void *arg, size_t i, size_t worker), void *arg) {
  (void)ctx;
  n_runs++;
  for (size_t i = n; i-- > 0;) task(arg, i, (i * 7 + n) % WORKERS);
}

static void run_interleaved(void *ctx, size_t n, void (*task)(void *arg, size_t i, size_t worker), void *arg) {
  (void)ctx;
  n_runs++;
  for (size_t i = 1; i < n; i += 2) task(arg, i, WORKERS - 1);
  for (size_t i = 0; i < n; i += 2) task(arg, i, i / 2 % WORKERS);
}

typedef struct share {
  size_t n;
  size_t worker;
  void (*task)(void *arg, size_t i, size_t worker);
  void *arg;
} share;

static void *run_share(void *ctx) {
  const share *s = ctx;
  for (size_t i = s->worker; i < s->n; i += WORKERS) s->task(s->arg, i, s->worker);
  return NULL;
}

static void run_threads(void *ctx, size_t n, void (*task)(void *arg, size_t i, size_t worker), void *arg) {
  (void)ctx;
  n_runs++;
  pthread_t threads[WORKERS];
  share shares[WORKERS];
  for (size_t i = 0; i < WORKERS; i++) {
    shares[i] = (share){n, i, task, arg};
    ck_assert_int_eq(pthread_create(&threads[i], NULL, run_share, &shares[i]), 0);
  }
  for (size_t i = 0; i < WORKERS; i++) ck_assert_int_eq(pthread_join(threads[i], NULL), 0);
}

START_TEST(any_order_of_tasks_and_any_number_of_threads_make_the_same_graph) {
  static const dv_hnsw_runner runners[] = {
      {run_backwards, NULL, WORKERS}, {run_interleaved, NULL, WORKERS}, {run_threads, NULL, WORKERS}};
  for (unsigned round = 0; round < 6; round++) {
    world w = world_new(metrics[round % 3], 1200, 16, round < 3 ? 2 : 8, round % N_SHAPES);
    uint32_t *rows = zeros(w.n, sizeof *rows), n = pick_rows(&w, false, rows);
    world alone = world_copy(&w);
    link_all(&alone, rows, n, 20, NULL);
    for (size_t i = 0; i < sizeof runners / sizeof runners[0]; i++) {
      world other = world_copy(&w);
      n_runs = 0;
      link_all(&other, rows, n, 20, &runners[i]);
      ck_assert_uint_gt(n_runs, 50);
      ck_assert(is_same_graph(&alone.g, &other.g));
      world_free(&other);
    }
    free(rows);
    world_free(&alone);
    world_free(&w);
  }
  ck_assert_uint_eq(n_blocks, 0);
}
END_TEST

/* ---- what changed ------------------------------------------------------------------------------------------------ */

/* Every list that is new or not as it was is marked; how many of rows are. */
static size_t expect_marked(const dv_hnsw *before, const dv_hnsw *g) {
  size_t n_marked = 0;
  for (uint32_t r = 0; r < g->n; r++) {
    bool is_marked = bit_at(g->changed, r);
    n_marked += is_marked;
    if (!is_marked && memcmp(list_of(before, r, 0), list_of(g, r, 0), (size_t)2 * g->m * sizeof(uint32_t)) != 0)
      ck_abort_msg("the list of row %u changed", r);
  }
  for (uint32_t i = 0; i < g->n_upper; i++) {
    const uint32_t *list = g->upper + (size_t)i * g->m;
    bool is_other = i >= before->n_upper || memcmp(before->upper + (size_t)i * g->m, list, g->m * sizeof *list) != 0;
    if (is_other && !bit_at(g->upper_changed, i)) ck_abort_msg("list %u above the ground changed", i);
  }
  return n_marked;
}

START_TEST(every_list_that_changed_is_marked_until_it_is_forgotten) {
  size_t n_marked = 0, n_steps = 0;
  for (unsigned round = 0; round < 24; round++) {
    world w = world_new(metrics[round % 3], 300, 6, 2 + random_below(5), random_below(N_SHAPES));
    dv_hnsw_forget_changes(&w.g);
    for (unsigned step = 0; step < 60; step++) {
      dv_hnsw before = graph_copy(&w.g);
      if (random_below(8) == 0) {
        grow(&w, 60, 20);
      } else if (w.n_in > 0 && random_below(2)) {
        unlink_one(&w, any_row(&w, true));
      } else {
        grow(&w, 1, 20);
        n_marked += expect_marked(&before, &w.g);
        n_steps++;
      }
      (void)expect_marked(&before, &w.g);
      dv_hnsw_free(&before);
      if (random_below(4) == 0) continue; /* what was marked stays so */
      dv_hnsw_forget_changes(&w.g);
      for (uint32_t r = 0; r < w.g.capacity; r++) ck_assert(!bit_at(w.g.changed, r));
      for (uint32_t i = 0; i < w.g.upper_capacity; i++) ck_assert(!bit_at(w.g.upper_changed, i));
    }
    world_free(&w);
  }
  ck_assert_uint_lt(n_marked, n_steps * 60); /* of 300 */
}
END_TEST

START_TEST(growing_keeps_lists_and_marks) {
  world w = world_new(DV_L2, 100, 6, 3, GAUSSIAN);
  grow(&w, 100, 20);
  dv_hnsw before = graph_copy(&w.g);
  ck_assert(dv_hnsw_reserve(&w.g, 1000) == DV_OK);
  ck_assert_uint_eq(w.g.n, 1000);
  ck_assert(dv_hnsw_reserve(&w.g, 500) == DV_OK); /* never less */
  ck_assert_uint_eq(w.g.n, 1000);
  ck_assert(dv_hnsw_reserve(&w.g, DV_HNSW_MAX_ROWS + 1) == DV_LIMIT);
  for (uint32_t r = 0; r < 1000; r++) {
    ck_assert_int_eq(dv_hnsw_is_linked(&w.g, r), r < 100);
    ck_assert_int_eq(bit_at(w.g.changed, r), r < 100 && bit_at(before.changed, r));
    ck_assert_uint_eq(w.g.upper_at[r], r < 100 ? before.upper_at[r] : DV_HNSW_NONE);
  }
  w.g.n = 100;
  ck_assert(is_same_graph(&before, &w.g));
  /* Lists that the caller will write, he says, are not emptied: those of rows there was no room for yet. */
  ck_assert(dv_hnsw_reserve_unread(&w.g, 5000, 3000) == DV_OK);
  for (uint32_t r = 3000; r < 5000; r++) ck_assert(!dv_hnsw_is_linked(&w.g, r));
  for (uint32_t r = 100; r < 5000; r++) ck_assert(w.g.upper_at[r] == DV_HNSW_NONE && !bit_at(w.g.changed, r));
  w.g.n = 100;
  ck_assert(is_same_graph(&before, &w.g));
  dv_hnsw_free(&before);
  world_free(&w);
}
END_TEST

/* ---- failures ---------------------------------------------------------------------------------------------------- */

/* What linking the first n_done rows gives. */
static void expect_as_if_linked(const world *before, const world *after, const uint32_t *rows, size_t n_done,
                                size_t ef) {
  world expected = world_copy(before);
  link_all(&expected, rows, (uint32_t)n_done, ef, NULL);
  expect_whole(&expected);
  ck_assert(is_same_graph(&expected.g, &after->g));
  world_free(&expected);
}

START_TEST(without_memory_link_stops_between_two_rows) {
  size_t n_partly = 0;
  for (unsigned round = 0; round < 6; round++) {
    const dv_hnsw_runner runner = {run_backwards, NULL, WORKERS};
    world w = world_new(metrics[round % 3], 400, 4, 2 + round % 2, round % N_SHAPES);
    grow(&w, 20 + 10 * round, 20);
    uint32_t *rows = zeros(w.n, sizeof *rows), n = pick_rows(&w, false, rows);
    dv_status st = DV_NOMEM;
    for (size_t at = 0; st == DV_NOMEM; at++) {
      world tried = world_copy(&w);
      size_t n_done = SIZE_MAX;
      n_calls = 0;
      fail_at = at;
      st = dv_hnsw_link(&tried.g, &tried.space, rows, n, 20, round % 2 ? &runner : NULL, &n_done);
      ck_assert_int_eq(st == DV_OK, n_calls <= at);
      fail_at = SIZE_MAX;
      ck_assert(st == DV_OK || st == DV_NOMEM);
      ck_assert(st == DV_OK ? n_done == n : n_done < n);
      n_partly += st == DV_NOMEM && n_done > 0;
      expect_as_if_linked(&w, &tried, rows, n_done, 20);
      for (size_t i = 0; i < n_done; i++) tried.is_in[rows[i]] = true;
      tried.n_in += (uint32_t)n_done;
      link_all(&tried, rows + n_done, n - (uint32_t)n_done, 20, NULL);
      expect_whole(&tried);
      world_free(&tried);
    }
    free(rows);
    world_free(&w);
    ck_assert_uint_eq(n_blocks, 0);
  }
  ck_assert_uint_gt(n_partly, 5);
}
END_TEST

START_TEST(without_memory_growing_changes_nothing) {
  world w = world_new(DV_L2, 100, 4, 3, GAUSSIAN);
  grow(&w, 80, 20);
  dv_status st = DV_NOMEM;
  for (size_t at = 0; st == DV_NOMEM; at++) {
    world tried = world_copy(&w);
    n_calls = 0;
    fail_at = at;
    st = dv_hnsw_reserve(&tried.g, 1000);
    ck_assert_int_eq(st == DV_OK, at == 3);
    fail_at = SIZE_MAX;
    if (st != DV_OK) ck_assert(is_same_graph(&w.g, &tried.g));
    grow(&tried, 10, 20);
    ck_assert(dv_hnsw_reserve(&tried.g, 1000) == DV_OK);
    for (uint32_t r = 100; r < 1000; r++) ck_assert(!dv_hnsw_is_linked(&tried.g, r) && !bit_at(tried.g.changed, r));
    expect_whole(&tried);
    world_free(&tried);
  }
  world_free(&w);
  ck_assert_uint_eq(n_blocks, 0);
}
END_TEST

START_TEST(without_memory_searches_and_checks_say_so) {
  world w = world_new(DV_L2, 100, 4, 3, GAUSSIAN);
  grow(&w, 80, 20);
  dv_code_query q = query_new(&w);
  for (unsigned what = 0; what < 3; what++) {
    dv_status st = DV_NOMEM;
    for (size_t at = 0; st == DV_NOMEM; at++) {
      dv_hnsw_scratch s;
      dv_hnsw_fault fault;
      uint32_t row, other, lost[80];
      size_t n_lost;
      dv_hnsw_scratch_init(&s, &alloc);
      n_calls = 0;
      fail_at = at;
      st = what == 0   ? dv_hnsw_search(&w.g, &w.space, &q, 10, &s)
           : what == 1 ? dv_hnsw_check(&w.g, &fault, &row, &other)
                       : dv_hnsw_unreachable(&w.g, lost, &n_lost);
      fail_at = SIZE_MAX;
      ck_assert_int_eq(st == DV_OK, n_calls <= at);
      ck_assert_uint_lt(at, 10);
      if (what == 0) ck_assert_uint_eq(s.n_pool, st == DV_OK ? 10 : 0);
      dv_hnsw_scratch_free(&s);
    }
    ck_assert_int_eq((int)st, DV_OK);
  }
  dv_code_query_free(&q);
  world_free(&w);
  ck_assert_uint_eq(n_blocks, 0);
}
END_TEST

/* ---- a graph of which only a part is in memory ------------------------------------------------------------------- */

enum absent { LOOKS_EMPTY, LOOKS_FULL };

typedef struct paged {
  world w; /* codes and lists are garbage until they are asked for */
  world from;
  dv_hnsw_pager pager;
  uint64_t *has_code, *has_list;
  size_t n_asked, fail_at;
  bool brings_more;
} paged;

static void bring_code(paged *p, uint32_t row) {
  size_t stride = dv_code_stride(p->w.space.n);
  if (bit_at(p->has_code, row)) return;
  size_t at = dv_code_at(row, stride), to_low = dv_code_to_low(stride / 2);
  memcpy(p->w.codes + at, p->from.codes + at, stride / 2);
  memcpy(p->w.codes + at + to_low, p->from.codes + at + to_low, stride / 2);
  p->w.rows[row] = p->from.rows[row];
  bit_set(p->has_code, row);
}

static void bring_list(paged *p, uint32_t row) {
  if (bit_at(p->has_list, row)) return;
  memcpy(list_of(&p->w.g, row, 0), list_of(&p->from.g, row, 0), (size_t)2 * p->w.g.m * sizeof(uint32_t));
  bit_set(p->has_list, row);
}

static dv_status need(paged *p, uint32_t row, const uint64_t *has, void (*bring)(paged *p, uint32_t row)) {
  if (row >= p->w.n) ck_abort_msg("there is no row %u", row);
  if (bit_at(has, row)) ck_abort_msg("row %u is there", row);
  if (p->n_asked++ == p->fail_at) return DV_CORRUPT;
  bring(p, row);
  if (p->brings_more)
    for (uint32_t r = row / 4 * 4; r < p->w.n && r < row / 4 * 4 + 4; r++) bring(p, r);
  return DV_OK;
}

static dv_status need_code(void *ctx, uint32_t row) {
  paged *p = ctx;
  return need(p, row, p->has_code, bring_code);
}

static dv_status need_list(void *ctx, uint32_t row) {
  paged *p = ctx;
  return need(p, row, p->has_list, bring_list);
}

/* Not in one piece with its pager: that one points to it. */
static void paged_init(paged *p, const world *from, enum absent absent) {
  *p = (paged){.w = world_copy(from), .from = world_copy(from), .fail_at = SIZE_MAX};
  p->has_code = zeros(from->n / 64 + 1, sizeof *p->has_code);
  p->has_list = zeros(from->n / 64 + 1, sizeof *p->has_list);
  p->pager = (dv_hnsw_pager){p->has_code, p->has_list, need_code, need_list, p};
  p->w.space.pager = &p->pager;
  memset(p->w.codes, 0x55, dv_code_bytes(from->n, from->space.n));
  for (uint32_t r = 0; r < from->n; r++) {
    p->w.rows[r] = (dv_code_row){1e3f, 0.0f, 1.0f};
    for (uint32_t i = 0; i < 2 * from->g.m; i++)
      list_of(&p->w.g, r, 0)[i] = absent == LOOKS_EMPTY ? DV_HNSW_NONE : (r + 1 + i) % from->n;
  }
}

static void bring_all(paged *p) {
  for (uint32_t r = 0; r < p->w.n; r++) bring_code(p, r);
  for (uint32_t r = 0; r < p->w.n; r++) bring_list(p, r);
}

static void paged_free(paged *p) {
  world_free(&p->w);
  world_free(&p->from);
  free(p->has_code);
  free(p->has_list);
}

/* Some rows are linked, lists are full, some have moved. */
static world used_world(unsigned round, uint32_t n) {
  static const uint32_t ms[] = {2, 3, 8};
  unsigned shape = random_below(N_SHAPES);
  world w = world_new(metrics[round % 3], n, 2 + random_below(10), ms[round / 3 % 3], shape);
  grow(&w, n, 20);
  for (unsigned i = 0; i < 50; i++) move_one(&w, random_below(n), 10);
  while (w.n_in > n - n / 4) unlink_one(&w, any_row(&w, true));
  return w;
}

START_TEST(searches_ask_for_all_that_they_look_at) {
  size_t n_asked = 0;
  dv_hnsw_scratch s, t;
  dv_hnsw_scratch_init(&s, &alloc);
  dv_hnsw_scratch_init(&t, &alloc);
  for (unsigned round = 0; round < 40; round++) {
    world w = used_world(round, 300);
    paged p;
    paged_init(&p, &w, round % 2);
    p.brings_more = round % 3 == 0;
    for (unsigned search = 0; search < 5; search++) {
      dv_code_query q = query_new(&w);
      size_t ef = 1 + random_below(10);
      ck_assert(dv_hnsw_search(&w.g, &w.space, &q, ef, &s) == DV_OK);
      ck_assert(dv_hnsw_search(&p.w.g, &p.w.space, &q, ef, &t) == DV_OK);
      ck_assert_uint_eq(s.n_pool, t.n_pool);
      ck_assert(are_same_hits(s.pool, t.pool, s.n_pool));
      dv_code_query_free(&q);
      n_asked += search == 0 ? p.n_asked : 0;
    }
    paged_free(&p);
    world_free(&w);
  }
  ck_assert_uint_lt(n_asked, 40 * 600 / 2); /* and not for everything */
  dv_hnsw_scratch_free(&s);
  dv_hnsw_scratch_free(&t);
  ck_assert_uint_eq(n_blocks, 0);
}
END_TEST

START_TEST(linking_asks_for_all_that_it_looks_at) {
  for (unsigned round = 0; round < 150; round++) {
    world w = used_world(round, 160);
    uint32_t rows[160], n = pick_rows(&w, false, rows);
    paged p;
    paged_init(&p, &w, round % 2);
    p.brings_more = round % 5 == 0;
    n = 1 + random_below(n);
    link_all(&w, rows, n, 10, NULL);
    link_all(&p.w, rows, n, 10, NULL);
    bring_all(&p);
    ck_assert_msg(is_same_graph(&w.g, &p.w.g), "round %u: %u rows", round, n);
    paged_free(&p);
    world_free(&w);
  }
  ck_assert_uint_eq(n_blocks, 0);
}
END_TEST

START_TEST(unlinking_asks_for_all_that_it_looks_at) {
  for (unsigned round = 0; round < 150; round++) {
    world w = used_world(round, 100);
    paged p;
    paged_init(&p, &w, round % 2);
    p.brings_more = round % 5 == 0;
    for (unsigned i = 0; i < 1 + round % 3; i++) {
      uint32_t row = (round + i) % 4 ? any_row(&w, true) : w.g.entry;
      unlink_one(&w, row);
      unlink_one(&p.w, row);
    }
    bring_all(&p);
    ck_assert_msg(is_same_graph(&w.g, &p.w.g), "round %u", round);
    paged_free(&p);
    world_free(&w);
  }
  ck_assert_uint_eq(n_blocks, 0);
}
END_TEST

START_TEST(a_graph_is_emptied_while_only_a_part_is_in_memory) {
  for (unsigned round = 0; round < 12; round++) {
    world w = used_world(round, 60);
    while (w.n_in > 0) {
      paged p;
      paged_init(&p, &w, round % 2);
      uint32_t row = w.g.entry;
      unlink_one(&w, row);
      unlink_one(&p.w, row);
      bring_all(&p);
      ck_assert_msg(is_same_graph(&w.g, &p.w.g), "round %u, %u left", round, w.n_in);
      paged_free(&p);
    }
    world_free(&w);
  }
}
END_TEST

/* Every call, at first, then ever fewer of them. */
static size_t next_failure(size_t at) { return at + 1 + at / 6; }

START_TEST(a_pager_that_fails_stops_a_search) {
  dv_hnsw_scratch s;
  dv_hnsw_scratch_init(&s, &alloc);
  for (unsigned round = 0; round < 9; round++) {
    world w = used_world(round, 120);
    dv_code_query q = query_new(&w);
    dv_status st = DV_CORRUPT;
    for (size_t at = 0; st != DV_OK; at = next_failure(at)) {
      paged p;
      paged_init(&p, &w, round % 2);
      p.fail_at = at;
      st = dv_hnsw_search(&p.w.g, &p.w.space, &q, 10, &s);
      ck_assert_int_eq((int)st, p.n_asked > at ? DV_CORRUPT : DV_OK);
      ck_assert(st == DV_OK || p.n_asked == at + 1); /* not asked again */
      bring_all(&p);
      ck_assert(is_same_graph(&w.g, &p.w.g));
      paged_free(&p);
    }
    dv_code_query_free(&q);
    world_free(&w);
  }
  dv_hnsw_scratch_free(&s);
}
END_TEST

START_TEST(a_pager_that_fails_stops_linking_between_two_rows) {
  size_t n_partly = 0;
  for (unsigned round = 0; round < 18; round++) {
    world w = used_world(round, 160);
    uint32_t rows[160], n = pick_rows(&w, false, rows);
    dv_status st = DV_CORRUPT;
    for (size_t at = 0; st != DV_OK; at = next_failure(at)) {
      paged p;
      paged_init(&p, &w, round % 2);
      p.fail_at = at;
      size_t n_done = SIZE_MAX;
      st = dv_hnsw_link(&p.w.g, &p.w.space, rows, n, 10, NULL, &n_done);
      ck_assert_int_eq((int)st, p.n_asked > at ? DV_CORRUPT : DV_OK);
      ck_assert(st == DV_OK ? n_done == n : n_done < n);
      n_partly += st != DV_OK && n_done > 0;
      bring_all(&p);
      expect_as_if_linked(&w, &p.w, rows, n_done, 10);
      paged_free(&p);
    }
    world_free(&w);
  }
  ck_assert_uint_gt(n_partly, 20);
  ck_assert_uint_eq(n_blocks, 0);
}
END_TEST

START_TEST(a_pager_that_fails_lets_unlink_change_nothing) {
  for (unsigned round = 0; round < 27; round++) {
    world w = used_world(round, 100);
    uint32_t row = round % 2 ? w.g.entry : any_row(&w, true);
    dv_hnsw_forget_changes(&w.g);
    dv_status st = DV_CORRUPT;
    for (size_t at = 0; st != DV_OK; at = next_failure(at)) {
      paged p;
      paged_init(&p, &w, round / 2 % 2);
      p.fail_at = at;
      st = dv_hnsw_unlink(&p.w.g, &p.w.space, row);
      ck_assert_int_eq((int)st, p.n_asked > at ? DV_CORRUPT : DV_OK);
      ck_assert(st == DV_OK || p.n_asked == at + 1);
      bring_all(&p);
      if (st != DV_OK) {
        ck_assert(is_same_graph(&w.g, &p.w.g));
        ck_assert(memcmp(w.g.changed, p.w.g.changed, w.g.capacity / 8) == 0);
        ck_assert(memcmp(w.g.upper_changed, p.w.g.upper_changed, w.g.upper_capacity / 8) == 0);
      }
      paged_free(&p);
    }
    world_free(&w);
  }
  ck_assert_uint_eq(n_blocks, 0);
}
END_TEST

/* Lists that come as they are asked for cannot be checked but for their ids. */
START_TEST(lists_of_any_rows_do_no_harm) {
  dv_hnsw_scratch s;
  dv_hnsw_scratch_init(&s, &alloc);
  for (unsigned round = 0; round < 200; round++) {
    world w = used_world(round, 64);
    for (unsigned i = 0; i < 1 + round * 2; i++) {
      uint32_t row = random_below(w.n), n = random_below(2 * w.g.m + 1), *list = list_of(&w.g, row, 0);
      for (uint32_t j = 0; j < 2 * w.g.m; j++) list[j] = j < n ? random_below(w.n) : DV_HNSW_NONE;
    }
    for (unsigned step = 0; step < 40; step++) {
      uint32_t row = random_below(w.n);
      size_t n_done;
      dv_code_query q = query_new(&w);
      ck_assert(dv_hnsw_search(&w.g, &w.space, &q, 1 + random_below(20), &s) == DV_OK);
      dv_code_query_free(&q);
      ck_assert((dv_hnsw_is_linked(&w.g, row) ? dv_hnsw_unlink(&w.g, &w.space, row)
                                              : dv_hnsw_link(&w.g, &w.space, &row, 1, 10, NULL, &n_done)) == DV_OK);
    }
    for (size_t i = 0; i < (size_t)2 * w.g.m * w.n; i++)
      if (w.g.ground[i] >= w.n && w.g.ground[i] != DV_HNSW_NONE) ck_abort_msg("an id of %u", w.g.ground[i]);
    world_free(&w);
  }
  dv_hnsw_scratch_free(&s);
  ck_assert_uint_eq(n_blocks, 0);
}
END_TEST

/* ---- what is wrong with a graph ---------------------------------------------------------------------------------- */

static void expect_fault(dv_hnsw *g, dv_hnsw_fault expected, uint32_t expected_row, const char *what) {
  dv_hnsw_fault fault;
  uint32_t row, other;
  ck_assert(dv_hnsw_check(g, &fault, &row, &other) == DV_OK);
  ck_assert_msg(fault == expected && (row == expected_row || expected == DV_HNSW_SOUND),
                "%s: fault %d in row %u, not %d in %u", what, (int)fault, row, (int)expected, expected_row);
  if (expected != DV_HNSW_SOUND && is_naively_sound(g)) ck_abort_msg("%s: it is sound", what);
}

/* A linked row of a level with a link there to a later one, at a position in its list. */
static uint32_t row_with_later(const dv_hnsw *g, uint32_t level, uint32_t at_least, uint32_t *at) {
  for (uint32_t tries = 0, r = random_below(g->n); tries < g->n; tries++, r = (r + 1) % g->n) {
    uint32_t n = list_length(g, r, level);
    for (*at = 0; *at < n; ++*at)
      if (n >= at_least && list_of(g, r, level)[*at] > r) return r;
  }
  ck_abort_msg("there is no such row");
  return 0;
}

static uint32_t row_that(const world *w, bool is_in, uint32_t min_level, uint32_t max_level) {
  for (uint32_t tries = 0, r = random_below(w->n); tries < w->n; tries++, r = (r + 1) % w->n) {
    uint32_t level = dv_hnsw_level(&w->g, r);
    if (w->is_in[r] == is_in && level >= min_level && level <= max_level) return r;
  }
  ck_abort_msg("there is no such row");
  return 0;
}

/* Most rows are linked; there are levels, full lists, and rows of all kinds that are not linked. */
static world checked_world(unsigned round) {
  world w = world_new(metrics[round % 3], 200, 4, 2 + round % 3, GAUSSIAN);
  grow(&w, 200, 20);
  while (w.n_in > 150) unlink_one(&w, any_row(&w, true));
  expect_whole(&w);
  return w;
}

START_TEST(check_finds_every_wrong_link) {
  for (unsigned round = 0; round < 60; round++) {
    world w = checked_world(round);
    for (uint32_t level = 0; level < 2; level++) {
      for (unsigned damage = 0; damage < 8; damage++) {
        uint32_t at, room = room_of(&w.g, level), r = row_with_later(&w.g, level, damage == 3 ? 2 : 1, &at);
        dv_hnsw g = graph_copy(&w.g);
        uint32_t *list = list_of(&g, r, level), n = list_length(&g, r, level), x = list[at];
        uint32_t *other = list_of(&g, x, level), n_other = list_length(&g, x, level);
        switch (damage) {
        case 0:
          list[at] = g.n;
          expect_fault(&g, DV_HNSW_RANGE, r, "a link to the row behind the last");
          break;
        case 1:
          list[at] = DV_HNSW_NONE - 1;
          expect_fault(&g, DV_HNSW_RANGE, r, "a link to a row far behind the last");
          break;
        case 2:
          list[at] = r;
          expect_fault(&g, DV_HNSW_SELF, r, "a link to itself");
          break;
        case 3:
          list[at] = list[at == 0 ? 1 : 0];
          expect_fault(&g, DV_HNSW_TWICE, r, "a link twice");
          break;
        case 4: /* the later row has lost its link */
          for (uint32_t i = 0; i < n_other; i++)
            if (other[i] == r) other[i] = other[n_other - 1];
          other[n_other - 1] = DV_HNSW_NONE;
          expect_fault(&g, DV_HNSW_ONE_WAY, r, "a link that does not go back");
          break;
        case 5: /* the earlier row has lost its */
          list[at] = list[n - 1];
          list[n - 1] = DV_HNSW_NONE;
          if (n > 1) expect_fault(&g, DV_HNSW_ONE_WAY, x, "a link back that has no link forth");
          break;
        case 6:
          if (n + 1 < room) {
            list[n + 1] = x;
            expect_fault(&g, DV_HNSW_GAP, r, "a link behind the end");
          }
          break;
        default:
          if (n < room) {
            do x = any_row(&w, true);
            while (x == r || has_link(&g, r, level, x) || dv_hnsw_level(&g, x) < level);
            list[n] = x;
            expect_fault(&g, DV_HNSW_ONE_WAY, r, "a new link that does not go back");
          }
          break;
        }
        dv_hnsw_free(&g);
      }
    }
    world_free(&w);
  }
}
END_TEST

START_TEST(check_finds_lists_on_wrong_levels) {
  for (unsigned round = 0; round < 60; round++) {
    world w = checked_world(round);
    for (unsigned damage = 0; damage < 9; damage++) {
      dv_hnsw g = graph_copy(&w.g);
      uint32_t high = row_that(&w, true, 1, 15), low = row_that(&w, true, 0, 0), top = row_that(&w, true, 1, 15);
      uint32_t first = g.upper_row[0], levels = dv_hnsw_level(&g, high), n = list_length(&g, high, 1);
      switch (damage) {
      case 0:
        if (n < g.m) {
          list_of(&g, high, 1)[n] = low;
          expect_fault(&g, DV_HNSW_LEVEL, high, "a link above to a row that is on the ground only");
        }
        break;
      case 1:
        top = row_that(&w, true, 2, 15);
        high = row_that(&w, true, 1, 1);
        n = list_length(&g, top, 2);
        if (n < g.m) {
          list_of(&g, top, 2)[n] = high;
          expect_fault(&g, DV_HNSW_LEVEL, top, "a link above to a row of a lower level");
        }
        break;
      case 2:
        g.upper_at[high] = DV_HNSW_NONE;
        expect_fault(&g, DV_HNSW_LEVEL, high, "a row without its lists");
        break;
      case 3:
        g.upper_at[low] = g.upper_at[high];
        expect_fault(&g, DV_HNSW_LEVEL, low, "lists of a row that is on the ground only");
        break;
      case 4:
        g.upper_row[0] = low;
        expect_fault(&g, DV_HNSW_LEVEL, low, "a list's row that has none");
        break;
      case 5:
        g.upper_row[0] = g.n;
        expect_fault(&g, DV_HNSW_LEVEL, g.n, "a list's row that does not exist");
        break;
      case 6:
        g.upper_at[first] = 1;
        expect_fault(&g, DV_HNSW_LEVEL, first, "a row's lists that begin later");
        break;
      case 7:
        if (levels > 1) {
          g.upper_row[g.upper_at[high] + 1] = low;
          expect_fault(&g, DV_HNSW_LEVEL, high, "one of a row's lists is another's");
        }
        break;
      default:
        high = g.upper_row[g.n_upper - 1];
        g.n_upper--;
        expect_fault(&g, DV_HNSW_LEVEL, high, "a row's last list is missing");
        break;
      }
      dv_hnsw_free(&g);
    }
    world_free(&w);
  }
}
END_TEST

/* Of rows that no list is for, as far as those say. */
START_TEST(check_finds_rows_that_use_the_lists_of_others) {
  for (unsigned round = 0; round < 60; round++) {
    world w = world_new(metrics[round % 3], 200, 4, 2 + round % 3, GAUSSIAN);
    grow(&w, 100, 20); /* so there are rows that never had lists */
    uint32_t unused = row_that(&w, false, 1, 15), high = row_that(&w, true, 1, 15);
    dv_hnsw g = graph_copy(&w.g);
    for (uint32_t i = 0; i < g.n_upper * g.m; i++) g.upper[i] = DV_HNSW_NONE; /* nothing but the place is wrong */
    expect_fault(&g, DV_HNSW_SOUND, 0, "a graph without links above");
    g.upper_at[unused] = g.upper_at[high];
    expect_fault(&g, DV_HNSW_LEVEL, unused, "two rows with the same lists");
    dv_hnsw_free(&g);
    world_free(&w);
  }
}
END_TEST

START_TEST(check_finds_links_above_of_a_row_that_is_not_linked) {
  size_t n_done = 0;
  for (unsigned round = 0; round < 60; round++) {
    world w = checked_world(round);
    uint32_t gone = row_that(&w, false, 1, 15), high = row_that(&w, true, 1, 15), n = list_length(&w.g, high, 1);
    if (n < w.g.m) {
      list_of(&w.g, high, 1)[n] = gone;
      list_of(&w.g, gone, 1)[0] = high;
      if (is_naively_sound(&w.g)) ck_abort_msg("a search would find a row that is not linked");
      dv_hnsw_fault fault;
      uint32_t row, other;
      ck_assert(dv_hnsw_check(&w.g, &fault, &row, &other) == DV_OK);
      ck_assert_int_eq((int)fault, DV_HNSW_LEVEL);
      ck_assert(row == gone || row == high);
      n_done++;
    }
    world_free(&w);
  }
  ck_assert_uint_gt(n_done, 0);
}
END_TEST

START_TEST(check_finds_a_wrong_entry) {
  for (unsigned round = 0; round < 60; round++) {
    world w = checked_world(round);
    dv_hnsw g = w.g; /* lists stay as they are */
    uint32_t entry = g.entry, top = g.top;
    g.entry = g.n;
    expect_fault(&g, DV_HNSW_ENTRY, g.n, "an entry that does not exist");
    g.entry = DV_HNSW_NONE - 1;
    expect_fault(&g, DV_HNSW_ENTRY, g.entry, "an entry far behind the last row");
    g.entry = DV_HNSW_NONE;
    expect_fault(&g, DV_HNSW_ENTRY, g.entry, "no entry");
    g.entry = entry;
    g.top = top + 1;
    expect_fault(&g, DV_HNSW_ENTRY, entry, "levels above the entry's");
    g.top = top - 1;
    expect_fault(&g, DV_HNSW_ENTRY, entry, "not all of the entry's levels");
    g.top = 0xffffffffu;
    expect_fault(&g, DV_HNSW_ENTRY, entry, "levels without end");
    g.entry = row_that(&w, true, 0, top - 1);
    g.top = dv_hnsw_level(&g, g.entry);
    expect_fault(&g, DV_HNSW_ENTRY, g.entry, "an entry that is not the highest");
    g.entry = row_that(&w, false, 0, 0);
    g.top = 0;
    expect_fault(&g, DV_HNSW_ENTRY, g.entry, "an entry that is not linked");
    g.n_linked++;
    expect_fault(&g, DV_HNSW_ENTRY, g.entry, "an entry that counts as linked");
    world_free(&w);
  }
}
END_TEST

START_TEST(check_finds_a_wrong_count) {
  for (unsigned round = 0; round < 10; round++) {
    world w = checked_world(round);
    dv_hnsw g = w.g;
    static const uint32_t counts[] = {0, 1, 149, 151, 0xffffffffu};
    for (size_t i = 0; i < sizeof counts / sizeof counts[0]; i++) {
      g.n_linked = counts[i];
      expect_fault(&g, DV_HNSW_COUNT, g.entry, "a wrong count");
    }
    world_free(&w);
  }
  dv_hnsw empty;
  dv_hnsw_init(&empty, 4, 1, &alloc);
  expect_fault(&empty, DV_HNSW_SOUND, 0, "nothing");
  ck_assert(dv_hnsw_reserve(&empty, 10) == DV_OK);
  expect_fault(&empty, DV_HNSW_SOUND, 0, "no rows are linked");
  empty.n_linked = 1;
  expect_fault(&empty, DV_HNSW_COUNT, DV_HNSW_NONE, "no row, but one is counted");
  dv_hnsw_free(&empty);
}
END_TEST

START_TEST(check_finds_rows_that_no_path_leads_to) {
  for (unsigned round = 0; round < 60; round++) {
    world w = checked_world(round);
    uint32_t a = row_that(&w, false, 0, 0), b = a, lost[160];
    size_t n_lost;
    do b = row_that(&w, false, 0, 0);
    while (b == a);
    list_of(&w.g, a, 0)[0] = b;
    list_of(&w.g, b, 0)[0] = a;
    w.g.n_linked += 2;
    expect_fault(&w.g, DV_HNSW_UNREACHABLE, a < b ? a : b, "two rows for themselves");
    ck_assert(dv_hnsw_unreachable(&w.g, lost, &n_lost) == DV_OK);
    ck_assert_uint_eq(n_lost, 2);
    ck_assert(lost[0] == (a < b ? a : b) && lost[1] == (a < b ? b : a));
    world_free(&w);
  }
}
END_TEST

/* Arrays of exactly as many bytes as the graph says, so that AddressSanitizer sees what is read beyond. */
static dv_hnsw exact_copy(const dv_hnsw *from) {
  dv_hnsw g = *from;
  g.capacity = g.n;
  g.upper_capacity = g.n_upper;
  g.ground = duplicate(from->ground, (size_t)g.n * 2 * g.m * sizeof *g.ground);
  g.ground_memory = (uint8_t *)g.ground;
  g.upper_at = duplicate(from->upper_at, g.n * sizeof *g.upper_at);
  g.upper = duplicate(from->upper, (size_t)g.n_upper * g.m * sizeof *g.upper);
  g.upper_row = duplicate(from->upper_row, g.n_upper * sizeof *g.upper_row);
  g.changed = g.upper_changed = NULL;
  g.code = NULL;
  g.code_capacity = 0;
  return g;
}

static uint32_t random_id(const dv_hnsw *g) {
  switch (random_below(8)) {
  case 0: return DV_HNSW_NONE;
  case 1: return (uint32_t)next_random();
  case 2: return g->n - 1 + random_below(3);
  case 3: return random_below(g->n_upper + 2);
  default: return random_below(g->n);
  }
}

START_TEST(check_says_of_any_bytes_whether_they_are_a_graph) {
  size_t n_sound = 0, n_wrong = 0;
  for (unsigned round = 0; round < 200; round++) {
    world w = world_new(DV_L2, 1 + random_below(30), 3, 2 + random_below(3), GAUSSIAN);
    grow(&w, w.n, 10);
    while (w.n_in > 3 && random_below(6)) unlink_one(&w, any_row(&w, true));
    for (unsigned damages = 0; damages < 60; damages++) {
      dv_hnsw g = exact_copy(&w.g);
      for (unsigned i = 0; i < damages / 6; i++) {
        size_t n_ground = (size_t)g.n * 2 * g.m, n_upper = (size_t)g.n_upper * g.m;
        switch (random_below(12)) {
        case 0: g.entry = random_id(&g); break;
        case 1: g.top = random_below(4) ? random_below(5) : random_id(&g); break;
        case 2: g.n_linked = random_below(g.n + 1); break;
        case 3: g.upper_at[random_below(g.n)] = random_id(&g); break;
        case 4: g.upper_at[random_below(g.n)] = random_below(g.n_upper + 1); break;
        case 5:
          if (n_upper) g.upper_row[random_below(g.n_upper)] = random_id(&g);
          break;
        case 6:
        case 7:
        case 8:
          if (n_upper) g.upper[random_below((uint32_t)n_upper)] = random_id(&g);
          break;
        default: g.ground[random_below((uint32_t)n_ground)] = random_id(&g); break;
        }
      }
      if (damages > 54) /* nothing is left of it */
        for (size_t i = 0; i < (size_t)g.n * 2 * g.m; i++) g.ground[i] = random_id(&g);
      dv_hnsw_fault fault;
      uint32_t row, other;
      ck_assert(dv_hnsw_check(&g, &fault, &row, &other) == DV_OK);
      bool is_sound = is_naively_sound(&g);
      ck_assert_msg((fault == DV_HNSW_SOUND) == is_sound, "fault %d, row %u, other %u: but it is %s", (int)fault, row,
                    other, is_sound ? "sound" : "not sound");
      n_sound += is_sound;
      n_wrong += !is_sound;
      dv_hnsw_free(&g);
    }
    world_free(&w);
  }
  ck_assert_uint_gt(n_sound, 1000);
  ck_assert_uint_gt(n_wrong, 5000);
  ck_assert_uint_eq(n_blocks, 0);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("hnsw");
  TCase *tc = tcase_create("graph");
  tcase_set_timeout(tc, 0);
  tcase_add_test(tc, levels_depend_on_row_seed_and_m_only);
  tcase_add_test(tc, one_row_in_m_is_on_the_next_level);
  tcase_add_test(tc, a_search_with_room_for_all_finds_all_in_order);
  tcase_add_test(tc, a_search_is_the_naive_one);
  tcase_add_test(tc, a_search_by_growth_is_the_naive_one);
  tcase_add_test(tc, growth_is_that_of_distances_and_pays);
  tcase_add_test(tc, a_search_that_is_looked_on_ends_when_it_is_told_to);
  tcase_add_test(tc, ef_of_zero_finds_nothing_and_looks_at_nothing);
  tcase_add_test(tc, recall_of_clustered_rows_is_high);
  tcase_add_test(tc, recall_is_high_for_products_of_rows_of_very_unequal_lengths);
  tcase_add_test(tc, measured_recall_is_nearly_what_searches_for_other_rows_find);
  tcase_add_test(tc, recall_is_by_the_judge);
  tcase_add_test(tc, rows_too_large_for_their_distances_do_not_hide_others);
  tcase_add_test(tc, links_are_the_naive_choice_while_no_list_is_full);
  tcase_add_test(tc, a_full_list_leaves_the_one_behind_a_new_row_to_it);
  tcase_add_test(tc, a_full_list_leaves_the_farthest_to_another);
  tcase_add_test(tc, a_row_that_nobody_keeps_is_linked_all_the_same);
  tcase_add_test(tc, lists_of_the_greatest_length_overflow_like_others);
  tcase_add_test(tc, neighbours_of_a_row_that_leaves_stay_together_by_short_links);
  tcase_add_test(tc, unlink_makes_no_more_links_than_are_lost);
  tcase_add_test(tc, the_last_row_stays_when_the_other_leaves);
  tcase_add_test(tc, a_graph_of_2_links_is_whole_after_every_step_of_random_programs);
  tcase_add_test(tc, a_graph_of_3_links_is_whole_after_every_step_of_random_programs);
  tcase_add_test(tc, a_graph_of_4_links_is_whole_after_every_step_of_random_programs);
  tcase_add_test(tc, a_graph_of_16_links_is_whole_after_every_step_of_random_programs);
  tcase_add_test(tc, a_graph_is_emptied_entry_by_entry_and_filled_again);
  tcase_add_test(tc, lists_above_the_ground_are_used_again);
  tcase_add_test(tc, linking_leaves_no_row_that_no_path_leads_to);
  tcase_add_test(tc, no_row_is_lost_however_much_is_moved);
  tcase_add_test(tc, every_table_of_kernels_makes_the_same_graph);
  tcase_add_test(tc, any_order_of_tasks_and_any_number_of_threads_make_the_same_graph);
  tcase_add_test(tc, every_list_that_changed_is_marked_until_it_is_forgotten);
  tcase_add_test(tc, growing_keeps_lists_and_marks);
  tcase_add_test(tc, without_memory_link_stops_between_two_rows);
  tcase_add_test(tc, without_memory_growing_changes_nothing);
  tcase_add_test(tc, without_memory_searches_and_checks_say_so);
  tcase_add_test(tc, searches_ask_for_all_that_they_look_at);
  tcase_add_test(tc, linking_asks_for_all_that_it_looks_at);
  tcase_add_test(tc, unlinking_asks_for_all_that_it_looks_at);
  tcase_add_test(tc, a_graph_is_emptied_while_only_a_part_is_in_memory);
  tcase_add_test(tc, a_pager_that_fails_stops_a_search);
  tcase_add_test(tc, a_pager_that_fails_stops_linking_between_two_rows);
  tcase_add_test(tc, a_pager_that_fails_lets_unlink_change_nothing);
  tcase_add_test(tc, lists_of_any_rows_do_no_harm);
  tcase_add_test(tc, check_finds_every_wrong_link);
  tcase_add_test(tc, check_finds_lists_on_wrong_levels);
  tcase_add_test(tc, check_finds_rows_that_use_the_lists_of_others);
  tcase_add_test(tc, check_finds_links_above_of_a_row_that_is_not_linked);
  tcase_add_test(tc, check_finds_a_wrong_entry);
  tcase_add_test(tc, check_finds_a_wrong_count);
  tcase_add_test(tc, check_finds_rows_that_no_path_leads_to);
  tcase_add_test(tc, check_says_of_any_bytes_whether_they_are_a_graph);
  suite_add_tcase(suite, tc);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed;
}
