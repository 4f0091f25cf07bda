/*
 * check_flat.c: the tiered search against the full scan. "Exact" means the same hits in the same order with the same
 * bits, for every metric, shape of data, mask and k; "not exact" means a recall that is stated, for data of many kinds.
 */
#include "../../core/dv_flat.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
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

/* Counts blocks, and fails at the call it is told to. */
static size_t n_blocks, n_calls, fail_at = SIZE_MAX;

static void *resize(void *ctx, void *p, size_t n) {
  (void)ctx;
  if (n == 0) {
    n_blocks--;
    free(p);
    return NULL;
  }
  if (n_calls++ == fail_at) return NULL;
  void *moved = realloc(p, n);
  n_blocks += p == NULL && moved != NULL;
  return moved;
}
static const dv_alloc alloc = {resize, NULL};

/* ---- tables ------------------------------------------------------------------------------------------------------ */

enum shape {
  GAUSSIAN,
  UNIFORM_POSITIVE,
  CLUSTERS,
  SPARSE,
  DUPLICATES,
  FEW_VALUES,
  LENGTHS,
  TINY,
  HUGE_VALUES,
  MIXED_SIZES,
  SPIKE,
  ZERO,
  N_SHAPES
};

typedef struct table {
  dv_flat flat;
  float *v;
  float *query;
  uint8_t *codes;
  dv_code_row *code_rows;
  uint64_t *bits;
  dv_bit_row *bit_rows;
  float *center;
  uint64_t *mask;
  size_t n_fetched;
  size_t fail_at; /* the fetch that fails */
  dv_status failure;
} table;

static const float *fetch(void *ctx, uint32_t row, dv_status *status) {
  table *t = ctx;
  if (row >= t->flat.n_rows) ck_abort_msg("there is no row %u", row); /* asserts that hold cost time too */
  if (t->mask && !((t->mask[row / 64] >> row % 64) & 1)) ck_abort_msg("row %u is masked out", row);
  if (t->n_fetched++ == t->fail_at) {
    *status = t->failure;
    return NULL;
  }
  return t->v + row * t->flat.n;
}

static void *zeros(size_t n, size_t size) {
  void *p = calloc(n ? n : 1, size);
  ck_assert_ptr_nonnull(p);
  return p;
}

static void fill_row(float *v, size_t n, unsigned shape, size_t row, const float *v_first) {
  static const float sizes[] = {1.0f, 1e-20f, 1e15f, 1e-30f, 1e25f};
  float length = expf(0.4f * random_normal());
  for (size_t i = 0; i < n; i++) switch (shape) {
    case GAUSSIAN: v[i] = random_normal(); break;
    case UNIFORM_POSITIVE: v[i] = random_unit() + 1.0f; break;
    case CLUSTERS: v[i] = sinf((float)((row / 40 + 1) * (i + 1))) + 0.3f * random_normal(); break;
    case SPARSE: v[i] = random_below(10) ? 0.0f : random_normal(); break;
    case DUPLICATES: v[i] = row < 5 ? random_normal() : v_first[row % 5 * n + i]; break;
    case FEW_VALUES: v[i] = (float)random_below(3) - 1.0f; break; /* many exact ties */
    case LENGTHS: v[i] = length * random_normal(); break;
    case TINY: v[i] = 1e-30f * random_normal(); break;
    case HUGE_VALUES: v[i] = 1e30f * random_normal(); break;
    case MIXED_SIZES: v[i] = sizes[row % 5] * random_normal(); break;
    case SPIKE: v[i] = 1e-3f * random_normal() + (i == row % n ? 100.0f : 0.0f); break;
    default: v[i] = row % 2 ? 0.0f : random_normal(); break;
    }
}

static table table_new(dv_metric m, size_t n_rows, size_t n, unsigned shape, bool has_mask, bool has_center) {
  table t;
  memset(&t, 0, sizeof t);
  size_t stride = dv_code_stride(n);
  t.v = zeros(n_rows * n, sizeof *t.v);
  t.query = zeros(n, sizeof *t.query);
  t.codes = zeros(dv_code_bytes(n_rows, n), 1);
  t.code_rows = zeros(n_rows, sizeof *t.code_rows);
  t.bits = zeros(dv_bit_blocks(n_rows) * dv_bit_words(n) * DV_BITS_ROWS, sizeof *t.bits);
  t.bit_rows = zeros(n_rows, sizeof *t.bit_rows);
  t.center = has_center ? zeros(n, sizeof *t.center) : NULL;
  t.mask = has_mask ? zeros((n_rows + 63) / 64, sizeof *t.mask) : NULL;
  t.fail_at = SIZE_MAX;
  for (size_t r = 0; r < n_rows; r++) fill_row(t.v + r * n, n, shape, r, t.v);
  fill_row(t.query, n, shape, random_below(n_rows ? (uint32_t)n_rows : 1), t.v);
  if (n_rows > 0 && random_below(4) == 0)
    memcpy(t.query, t.v + random_below((uint32_t)n_rows) * n, n * sizeof *t.query);
  int8_t *code = zeros(stride, 1);
  for (size_t r = 0; r < n_rows && m != DV_L1; r++) {
    t.code_rows[r] = dv_code_row_of(dv_code_encode(m, t.v + r * n, n, code), code, n);
    dv_code_pack(code, n, t.codes, r);
  }
  if (has_center && m != DV_L1) dv_bits_center(t.codes, t.code_rows, n_rows, n, code, t.center);
  for (size_t r = 0; r < n_rows && m != DV_L1; r++) {
    (void)dv_code_unpack(t.codes, r, n, code);
    t.bit_rows[r] = dv_bits_set(t.bits, r, m, &t.code_rows[r], code, n, t.center);
  }
  free(code);
  uint32_t allowed_in_8 = random_below(9);
  for (size_t r = 0; r < n_rows && has_mask; r++)
    if (random_below(8) < allowed_in_8) t.mask[r / 64] |= (uint64_t)1 << r % 64;
  if (has_mask && n_rows % 64) t.mask[n_rows / 64] |= ~(uint64_t)0 << n_rows % 64; /* of rows that are not there */
  t.flat.n_rows = n_rows;
  t.flat.n = n;
  t.flat.codes = t.codes;
  t.flat.code_rows = t.code_rows;
  t.flat.bits = t.bits;
  t.flat.bit_rows = t.bit_rows;
  t.flat.center = t.center;
  t.flat.mask = t.mask;
  t.flat.vector = fetch;
  return t;
}

static void table_free(table *t) {
  free(t->v);
  free(t->query);
  free(t->codes);
  free(t->code_rows);
  free(t->bits);
  free(t->bit_rows);
  free(t->center);
  free(t->mask);
}

/* A query in both its forms. */
typedef struct coded {
  dv_query q;
  dv_code_query cq;
} coded;

static coded coded_new(const table *t, dv_metric m) {
  coded c;
  dv_query_init(&c.q, dv_kernels_get(), m, t->query, t->flat.n);
  ck_assert(dv_code_query_init(&c.cq, m, t->query, t->flat.n, &alloc) == DV_OK);
  if (random_below(4)) dv_code_query_refine(&c.cq, t->query); /* with it or without, the result is the same */
  return c;
}

static const dv_metric metrics[] = {DV_L2, DV_COSINE, DV_IP, DV_L1};

static bool is_same_list(const dv_topk *a, const dv_topk *b) {
  if (a->n != b->n) return false;
  for (size_t i = 0; i < a->n; i++)
    if (a->hits[i].vid != b->hits[i].vid || memcmp(&a->hits[i].distance, &b->hits[i].distance, sizeof(double)) != 0)
      return false;
  return true;
}

static size_t random_k(size_t n_rows) {
  switch (random_below(6)) {
  case 0: return 1;
  case 1: return n_rows;
  case 2: return n_rows + 1 + random_below(5);
  case 3: return SIZE_MAX;
  default: return 1 + random_below(20);
  }
}

/* ---- exact ------------------------------------------------------------------------------------------------------- */

START_TEST(exact_equals_the_full_scan) {
  dv_flat_scratch scratch; /* one for all: searches leave nothing behind that matters */
  dv_flat_scratch_init(&scratch, &alloc);
  size_t n_rows_total = 0, n_fetched_total = 0;
  for (unsigned round = 0; round < 3000; round++) {
    dv_metric m = metrics[round % 4];
    size_t n_rows = round % 50 == 0 ? random_below(3000) : random_below(200);
    size_t n = round % 20 == 0 ? 384 : 1 + random_below(100);
    unsigned shape = random_below(N_SHAPES);
    table t = table_new(m, n_rows, n, shape, round % 3 == 0, round % 2 == 0);
    t.flat.ctx = &t;
    coded c = coded_new(&t, m);
    for (unsigned search = 0; search < 3; search++) {
      size_t k = random_k(n_rows);
      dv_topk exact, brute;
      dv_topk_init(&exact, k, &alloc);
      dv_topk_init(&brute, k, &alloc);
      if (search == 2) /* the caller's own hits, as of rows that are not in this table */
        for (uint32_t i = 0; i < 5; i++) {
          double d = dv_query_distance(&c.q, t.query) + (double)random_below(3);
          ck_assert(dv_topk_push(&exact, d, 1000000 + i) == DV_OK);
          ck_assert(dv_topk_push(&brute, d, 1000000 + i) == DV_OK);
        }
      t.n_fetched = 0;
      ck_assert(dv_flat_search(&t.flat, &c.q, m == DV_L1 ? NULL : &c.cq, k, true, &exact, &scratch) == DV_OK);
      ck_assert_uint_eq(t.n_fetched, scratch.n_reranked);
      if (n == 384 && n_rows > 500 && k < 20 && m != DV_L1 && shape <= CLUSTERS && !t.mask) {
        n_rows_total += n_rows;
        n_fetched_total += t.n_fetched;
      }
      ck_assert(dv_flat_brute(&t.flat, &c.q, &brute) == DV_OK);
      dv_topk_sort(&exact);
      dv_topk_sort(&brute);
      ck_assert_msg(is_same_list(&exact, &brute), "round %u: %s, %zu x %zu, shape %u, k %zu", round, dv_metric_name(m),
                    n_rows, n, shape, k);
      dv_topk_free(&exact);
      dv_topk_free(&brute);
    }
    dv_code_query_free(&c.cq);
    table_free(&t);
  }
  ck_assert_uint_lt(n_fetched_total, n_rows_total / 5); /* and it is a search, not a scan */
  dv_flat_scratch_free(&scratch);
  ck_assert_uint_eq(n_blocks, 0);
}
END_TEST

START_TEST(a_list_equals_the_same_rows_in_a_mask) {
  dv_flat_scratch scratch;
  dv_flat_scratch_init(&scratch, &alloc);
  for (unsigned round = 0; round < 1000; round++) {
    dv_metric m = metrics[round % 4];
    size_t n_rows = round % 20 == 0 ? random_below(3000) : random_below(200), n = 1 + random_below(70), n_list = 0;
    table t = table_new(m, n_rows, n, random_below(N_SHAPES), true, false);
    t.flat.ctx = &t;
    coded c = coded_new(&t, m);
    uint32_t *list = zeros(n_rows, sizeof *list);
    for (uint32_t row = (uint32_t)n_rows; row-- > 0;) /* in no order */
      if ((t.mask[row / 64] >> row % 64) & 1) {
        uint32_t at = random_below((uint32_t)n_list + 1);
        list[n_list] = list[at];
        list[at] = row;
        n_list++;
      }
    size_t k = random_k(n_rows);
    dv_topk listed, brute;
    dv_topk_init(&listed, k, &alloc);
    dv_topk_init(&brute, k, &alloc);
    ck_assert(dv_flat_brute(&t.flat, &c.q, &brute) == DV_OK);
    dv_flat f = t.flat;
    f.mask = NULL; /* fetch() looks at the table's, and at nothing else */
    f.list = list;
    f.n_list = n_list;
    ck_assert(dv_flat_search(&f, &c.q, m == DV_L1 ? NULL : &c.cq, k, round % 2 == 0, &listed, &scratch) == DV_OK);
    dv_topk_sort(&listed);
    dv_topk_sort(&brute);
    ck_assert_msg(is_same_list(&listed, &brute), "round %u: %s, %zu of %zu x %zu, k %zu", round, dv_metric_name(m),
                  n_list, n_rows, n, k);
    dv_topk_free(&listed);
    dv_topk_free(&brute);
    dv_code_query_free(&c.cq);
    free(list);
    table_free(&t);
  }
  dv_flat_scratch_free(&scratch);
  ck_assert_uint_eq(n_blocks, 0);
}
END_TEST

START_TEST(range_equals_the_full_scan) {
  dv_flat_scratch scratch;
  dv_flat_scratch_init(&scratch, &alloc);
  for (unsigned round = 0; round < 2000; round++) {
    dv_metric m = metrics[round % 4];
    size_t n_rows = random_below(300), n = 1 + random_below(80);
    table t = table_new(m, n_rows, n, random_below(N_SHAPES), round % 3 == 0, false);
    t.flat.ctx = &t;
    coded c = coded_new(&t, m);
    dv_topk all, found;
    dv_topk_init(&all, SIZE_MAX, &alloc);
    ck_assert(dv_flat_brute(&t.flat, &c.q, &all) == DV_OK);
    dv_topk_sort(&all);
    for (unsigned search = 0; search < 6; search++) {
      double max = all.n && search < 4 ? all.hits[random_below((uint32_t)all.n)].distance
                   : search == 4       ? (double)INFINITY * (random_below(2) ? 1 : -1)
                                       : (double)NAN;
      bool is_inclusive = search % 2;
      size_t k = search == 3 ? 1 + random_below(10) : SIZE_MAX, n_expected = 0;
      dv_topk_init(&found, k, &alloc);
      ck_assert(dv_flat_range(&t.flat, &c.q, m == DV_L1 ? NULL : &c.cq, max, is_inclusive, &found, &scratch) == DV_OK);
      dv_topk_sort(&found);
      while (n_expected < all.n && n_expected < k &&
             (all.hits[n_expected].distance < max || (is_inclusive && all.hits[n_expected].distance == max)))
        n_expected++;
      dv_topk expected = all;
      expected.n = n_expected;
      ck_assert_msg(is_same_list(&found, &expected), "round %u: %s max %g: %zu rows, not %zu", round, dv_metric_name(m),
                    max, found.n, n_expected);
      dv_topk_free(&found);
    }
    dv_topk_free(&all);
    dv_code_query_free(&c.cq);
    table_free(&t);
  }
  dv_flat_scratch_free(&scratch);
  ck_assert_uint_eq(n_blocks, 0);
}
END_TEST

/* ---- not exact --------------------------------------------------------------------------------------------------- */

static size_t n_common(const dv_topk *a, const dv_topk *b) {
  size_t n = 0;
  for (size_t i = 0; i < a->n; i++)
    for (size_t j = 0; j < b->n; j++) n += a->hits[i].vid == b->hits[j].vid;
  return n;
}

START_TEST(tiers_keep_their_recall_for_data_of_many_kinds) {
  static const unsigned shapes[] = {GAUSSIAN, UNIFORM_POSITIVE, CLUSTERS, SPARSE, LENGTHS, HUGE_VALUES, TINY, SPIKE};
  dv_flat_scratch scratch;
  dv_flat_scratch_init(&scratch, &alloc);
  for (size_t s = 0; s < sizeof shapes / sizeof shapes[0]; s++)
    for (size_t m = 0; m < 3; m++)
      for (unsigned has = 0; has < 4; has++) {
        table t = table_new(metrics[m], 4000, 128, shapes[s], has & 1, has & 2);
        t.flat.ctx = &t;
        size_t n_found = 0, n_there = 0;
        for (unsigned i = 0; i < 20; i++) {
          fill_row(t.query, 128, shapes[s], random_below(4000), t.v);
          coded c = coded_new(&t, metrics[m]);
          size_t k = i % 5 == 0 ? 100 : 10;
          dv_topk tiered, brute;
          dv_topk_init(&tiered, k, &alloc);
          dv_topk_init(&brute, k, &alloc);
          ck_assert(dv_flat_search(&t.flat, &c.q, &c.cq, k, false, &tiered, &scratch) == DV_OK);
          ck_assert(dv_flat_brute(&t.flat, &c.q, &brute) == DV_OK);
          ck_assert_uint_eq(tiered.n, brute.n); /* k rows come back while there are k */
          n_found += n_common(&tiered, &brute);
          n_there += brute.n;
          dv_topk_free(&tiered);
          dv_topk_free(&brute);
          dv_code_query_free(&c.cq);
        }
        ck_assert_msg((double)n_found >= 0.995 * (double)n_there, "%s shape %u mask %u center %u: recall %zu / %zu",
                      dv_metric_name(metrics[m]), shapes[s], has & 1, has & 2, n_found, n_there);
        table_free(&t);
      }
  dv_flat_scratch_free(&scratch);
  ck_assert_uint_eq(n_blocks, 0);
}
END_TEST

START_TEST(bits_save_most_of_the_work_on_clustered_data) {
  dv_flat_scratch scratch;
  dv_flat_scratch_init(&scratch, &alloc);
  table t = table_new(DV_COSINE, 8000, 256, CLUSTERS, false, true);
  t.flat.ctx = &t;
  size_t n_scanned = 0;
  for (unsigned i = 0; i < 20; i++) {
    fill_row(t.query, 256, CLUSTERS, random_below(8000), t.v);
    coded c = coded_new(&t, DV_COSINE);
    dv_topk out;
    dv_topk_init(&out, 10, &alloc);
    ck_assert(dv_flat_search(&t.flat, &c.q, &c.cq, 10, false, &out, &scratch) == DV_OK);
    n_scanned += scratch.n_scanned;
    dv_topk_free(&out);
    dv_code_query_free(&c.cq);
  }
  ck_assert_uint_lt(n_scanned, 20 * 8000 / 10);
  table_free(&t);
  dv_flat_scratch_free(&scratch);
}
END_TEST

/* Any two CPUs give the same rows, exact or not. */
START_TEST(every_table_of_kernels_finds_the_same) {
  dv_flat_scratch scratch;
  dv_flat_scratch_init(&scratch, &alloc);
  for (unsigned round = 0; round < 24; round++) {
    dv_metric m = metrics[round % 3];
    table t = table_new(m, 2500, 100, round % 4, round % 2, true);
    t.flat.ctx = &t;
    coded c = coded_new(&t, m);
    dv_topk first, other;
    for (size_t i = 0; dv_kernels_name_at(i); i++) {
      dv_query_init(&c.q, dv_kernels_named(dv_kernels_name_at(i)), m, t.query, 100);
      dv_topk_init(i == 0 ? &first : &other, 10, &alloc);
      ck_assert(dv_flat_search(&t.flat, &c.q, &c.cq, 10, round % 5 == 0, i == 0 ? &first : &other, &scratch) == DV_OK);
      dv_topk_sort(i == 0 ? &first : &other);
      if (i == 0) continue;
      ck_assert(is_same_list(&first, &other));
      dv_topk_free(&other);
    }
    dv_topk_free(&first);
    dv_code_query_free(&c.cq);
    table_free(&t);
  }
  dv_flat_scratch_free(&scratch);
}
END_TEST

/* ---- edges ------------------------------------------------------------------------------------------------------- */

START_TEST(nothing_is_found_where_nothing_is) {
  dv_flat_scratch scratch;
  dv_flat_scratch_init(&scratch, &alloc);
  for (unsigned round = 0; round < 16; round++) {
    dv_metric m = metrics[round % 4];
    table t = table_new(m, round < 8 ? 0 : 2000, 40, GAUSSIAN, true, false);
    t.flat.ctx = &t;
    if (round >= 8) memset(t.mask, 0, 2000 / 64 * sizeof *t.mask);
    if (round >= 8) t.mask[2000 / 64] = ~(uint64_t)0 << 2000 % 64;
    coded c = coded_new(&t, m);
    dv_topk out;
    for (size_t k = 0; k < 3; k++) {
      dv_topk_init(&out, k, &alloc);
      ck_assert(dv_flat_search(&t.flat, &c.q, &c.cq, k, round % 2, &out, &scratch) == DV_OK);
      ck_assert(dv_flat_range(&t.flat, &c.q, &c.cq, 1e300, true, &out, &scratch) == DV_OK);
      ck_assert(dv_flat_brute(&t.flat, &c.q, &out) == DV_OK);
      ck_assert_uint_eq(out.n, 0);
      ck_assert_uint_eq(t.n_fetched, 0);
      dv_topk_free(&out);
    }
    dv_code_query_free(&c.cq);
    table_free(&t);
  }
  dv_flat_scratch_free(&scratch);
}
END_TEST

START_TEST(k_of_zero_asks_for_no_vector) {
  dv_flat_scratch scratch;
  dv_flat_scratch_init(&scratch, &alloc);
  table t = table_new(DV_L2, 2000, 40, GAUSSIAN, false, false);
  t.flat.ctx = &t;
  coded c = coded_new(&t, DV_L2);
  dv_topk out;
  dv_topk_init(&out, 0, &alloc);
  ck_assert(dv_flat_search(&t.flat, &c.q, &c.cq, 0, false, &out, &scratch) == DV_OK);
  ck_assert(dv_flat_search(&t.flat, &c.q, &c.cq, 0, true, &out, &scratch) == DV_OK);
  ck_assert_uint_eq(t.n_fetched, 0);
  dv_code_query_free(&c.cq);
  table_free(&t);
  dv_flat_scratch_free(&scratch);
}
END_TEST

START_TEST(failures_of_the_callback_come_back) {
  dv_flat_scratch scratch;
  dv_flat_scratch_init(&scratch, &alloc);
  table t = table_new(DV_COSINE, 2000, 40, CLUSTERS, false, true);
  t.flat.ctx = &t;
  coded c = coded_new(&t, DV_COSINE);
  for (size_t i = 0; i < 10; i++) {
    dv_topk out;
    dv_topk_init(&out, 10, &alloc);
    t.fail_at = i;
    t.n_fetched = 0;
    t.failure = i % 2 ? DV_VERSION : DV_OK; /* NULL without a reason is corruption */
    ck_assert_int_eq((int)dv_flat_search(&t.flat, &c.q, &c.cq, 10, i % 3 == 0, &out, &scratch),
                     i % 2 ? DV_VERSION : DV_CORRUPT);
    ck_assert_uint_eq(t.n_fetched, i + 1);
    dv_topk_free(&out);
  }
  dv_code_query_free(&c.cq);
  table_free(&t);
  dv_flat_scratch_free(&scratch);
  ck_assert_uint_eq(n_blocks, 0);
}
END_TEST

START_TEST(no_memory_is_reported_wherever_it_happens) {
  table t = table_new(DV_L2, 3000, 40, GAUSSIAN, false, true);
  t.flat.ctx = &t;
  coded c = coded_new(&t, DV_L2);
  for (unsigned way = 0; way < 3; way++) {
    dv_status status = DV_NOMEM;
    for (size_t at = 0; status == DV_NOMEM; at++) {
      dv_flat_scratch scratch;
      dv_topk out;
      dv_flat_scratch_init(&scratch, &alloc);
      dv_topk_init(&out, 600, &alloc);
      n_calls = 0;
      fail_at = at;
      status = way == 2 ? dv_flat_range(&t.flat, &c.q, &c.cq, 1e9, true, &out, &scratch)
                        : dv_flat_search(&t.flat, &c.q, &c.cq, 600, way == 0, &out, &scratch);
      ck_assert_int_eq(status == DV_OK, n_calls <= at);
      fail_at = SIZE_MAX;
      ck_assert_uint_lt(at, 100);
      dv_topk_free(&out);
      dv_flat_scratch_free(&scratch);
      ck_assert_uint_eq(n_blocks, 1); /* the query's */
    }
    ck_assert_int_eq((int)status, DV_OK);
  }
  dv_code_query_free(&c.cq);
  table_free(&t);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("flat");
  TCase *tc = tcase_create("search");
  tcase_set_timeout(tc, 0);
  tcase_add_test(tc, exact_equals_the_full_scan);
  tcase_add_test(tc, a_list_equals_the_same_rows_in_a_mask);
  tcase_add_test(tc, range_equals_the_full_scan);
  tcase_add_test(tc, tiers_keep_their_recall_for_data_of_many_kinds);
  tcase_add_test(tc, bits_save_most_of_the_work_on_clustered_data);
  tcase_add_test(tc, every_table_of_kernels_finds_the_same);
  tcase_add_test(tc, nothing_is_found_where_nothing_is);
  tcase_add_test(tc, k_of_zero_asks_for_no_vector);
  tcase_add_test(tc, failures_of_the_callback_come_back);
  tcase_add_test(tc, no_memory_is_reported_wherever_it_happens);
  suite_add_tcase(suite, tc);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed;
}
