/*
 * check_quant.c: what codes promise. The bounds are a theorem about real numbers plus an error analysis about computed
 * ones; here both meet vectors of every shape: the interval must contain the computed distance, always, and the
 * residuals must hold in long double.
 */
#include "../../core/dv_quant.h"

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

static void *resize(void *ctx, void *p, size_t n) {
  size_t *n_left = ctx;
  if (n == 0) {
    free(p);
    return NULL;
  }
  if (n_left && (*n_left)-- == 0) return NULL;
  return realloc(p, n);
}
static const dv_alloc alloc = {resize, NULL};

enum shape {
  GAUSSIAN,
  UNIFORM,
  POSITIVE,
  SPARSE,
  SPIKE,
  TINY,
  DENORMAL,
  HUGE_VALUES,
  LARGEST,
  CONSTANT,
  ZERO,
  MIXED,
  STEPS,
  N_SHAPES
};

static void fill(float *v, size_t n, unsigned shape) {
  float constant = random_unit();
  for (size_t i = 0; i < n; i++) switch (shape) {
    case GAUSSIAN: v[i] = random_normal(); break;
    case UNIFORM: v[i] = random_unit(); break;
    case POSITIVE: v[i] = random_unit() + 1.0f; break;
    case SPARSE: v[i] = random_below(20) ? 0.0f : random_normal(); break;
    case SPIKE: v[i] = random_normal() * 1e-3f; break;
    case TINY: v[i] = random_normal() * 1e-30f; break;
    case DENORMAL: v[i] = dv_bits_float((uint32_t)(next_random() >> 32) & 0x807fffffu); break;
    case HUGE_VALUES: v[i] = random_normal() * 1e30f; break;
    case LARGEST: v[i] = random_unit() * 3.4e38f; break;
    case CONSTANT: v[i] = constant; break;
    case ZERO: v[i] = 0.0f; break;
    case MIXED: v[i] = random_normal() * (random_below(4) ? 1.0f : random_below(2) ? 1e18f : 1e-18f); break;
    default: v[i] = (float)((int)random_below(255) - 127) + (random_below(4) ? 0.0f : 0.5f); break; /* half steps */
    }
  if (shape == SPIKE) v[random_below((uint32_t)n)] = 1e4f;
  if (shape == STEPS) v[random_below((uint32_t)n)] = 127.0f;
}

static size_t random_length(unsigned round) {
  static const size_t lengths[] = {1, 2, 3, 7, 8, 15, 31, 32, 33, 63, 64, 65, 96, 127, 128, 129, 200, 300, 384};
  if (round % 4000 == 0) return 65536;
  if (round % 500 == 0) return 1 + random_below(6000);
  return lengths[random_below(sizeof lengths / sizeof lengths[0])];
}

#define MAX_N 65536u
static float row_v[MAX_N], query_v[MAX_N];
static int8_t row_code[MAX_N];

/* |x - s*c - t*d|_2 in long double, x divided by its norm for cosine. */
static long double true_residual(dv_metric m, const float *v, size_t n, float s, const int8_t *c, float t,
                                 const int8_t *d) {
  long double norm = 0, sum = 0;
  for (size_t i = 0; i < n; i++) norm += (long double)v[i] * (long double)v[i];
  norm = m == DV_COSINE && norm > 0 ? sqrtl(norm) : 1;
  for (size_t i = 0; i < n; i++) {
    long double e = (long double)v[i] / norm - (long double)s * c[i] - (d ? (long double)t * d[i] : 0);
    sum += e * e;
  }
  return sqrtl(sum);
}

static const dv_metric metrics[] = {DV_L2, DV_COSINE, DV_IP};

START_TEST(code_residuals_hold_in_exact_arithmetic) {
  for (unsigned round = 0; round < 30000; round++) {
    size_t n = random_length(round);
    dv_metric m = metrics[round % 3];
    fill(row_v, n, random_below(N_SHAPES));
    memset(row_code, 77, n + 1 < MAX_N ? n + 1 : n);
    uint32_t meta = dv_code_encode(m, row_v, n, row_code);
    ck_assert(n == MAX_N || row_code[n] == 77); /* nothing of the padding */
    dv_code_row row = dv_code_row_of(meta, row_code, n);
    ck_assert(row.scale == dv_code_scale(meta));
    long double residual = true_residual(m, row_v, n, row.scale, row_code, 0, NULL);
    ck_assert_msg(residual <= (long double)row.residual, "n=%zu metric %d: %Lg > %g", n, (int)m, residual,
                  (double)row.residual);
    /* ... and say something: at most half a step a component, and within a step of the byte of the truth. */
    long double worst = (long double)row.scale * sqrtl((long double)n) / 2;
    ck_assert_msg((long double)row.residual <= worst * (1 + 1e-6L) + 2e-45L, "n=%zu: %g, worst %Lg", n,
                  (double)row.residual, worst);
    ck_assert((long double)row.residual <= residual + worst / 254 + 2e-45L);
    bool is_zero = true, is_in_range = true;
    long double norm_sq = 0;
    for (size_t i = 0; i < n; i++) {
      is_zero &= row_v[i] == 0.0f;
      is_in_range &= row_code[i] >= -127;
      norm_sq += (long double)row.scale * row_code[i] * (long double)row.scale * row_code[i];
    }
    ck_assert(is_in_range);
    if (is_zero) ck_assert(meta == 0);
    if (!is_zero) ck_assert(row.scale > 0.0f);
    if (norm_sq < 3e38L) ck_assert(fabsl((long double)row.norm_sq - norm_sq) <= norm_sq * 6.1e-8L + 1e-45L);
  }
}
END_TEST

START_TEST(query_residuals_hold_in_exact_arithmetic) {
  size_t n_padding_set = 0;
  for (unsigned round = 0; round < 20000; round++) {
    size_t n = random_length(round), stride = dv_code_stride(n);
    dv_metric m = metrics[round % 3];
    fill(query_v, n, random_below(N_SHAPES));
    dv_code_query q;
    ck_assert(dv_code_query_init(&q, m, query_v, n, &alloc) == DV_OK);
    dv_code_query_refine(&q, query_v);
    long double coarse = true_residual(m, query_v, n, q.scale, q.code, 0, NULL);
    long double fine = true_residual(m, query_v, n, q.scale, q.code, q.scale_low, q.code_low);
    ck_assert_msg(coarse <= (long double)q.residual, "n=%zu: %Lg > %g", n, coarse, (double)q.residual);
    ck_assert_msg(fine <= (long double)q.residual_low, "n=%zu: %Lg > %g", n, fine, (double)q.residual_low);
    ck_assert((long double)q.residual_low <= (long double)q.residual / 2 + 1e-42L);
    for (size_t i = n; i < stride; i++) n_padding_set += q.code[i] != 0 || q.code_low[i] != 0;
    dv_code_query_free(&q);
    dv_code_query_free(&q); /* twice does nothing */
  }
  ck_assert_uint_eq(n_padding_set, 0);
}
END_TEST

/* The heart: 300,000 pairs, and no computed distance outside its interval. */
START_TEST(bounds_contain_the_distance) {
  size_t n_useful = 0, n_pairs = 0;
  for (unsigned round = 0; round < 20000; round++) {
    size_t n = random_length(round + 1);
    dv_metric m = metrics[random_below(3)];
    fill(query_v, n, random_below(N_SHAPES));
    dv_code_query cq;
    dv_query q;
    ck_assert(dv_code_query_init(&cq, m, query_v, n, &alloc) == DV_OK);
    dv_code_query_refine(&cq, query_v);
    dv_query_init(&q, dv_kernels_get(), m, query_v, n);
    for (size_t r = 0; r < (n > 1000 ? 4 : 16); r++) {
      unsigned shape = random_below(N_SHAPES + 4);
      fill(row_v, n, shape);
      if (shape >= N_SHAPES) { /* near the query: on it, one component off, a little off everywhere, opposite */
        float off = shape == N_SHAPES + 2 ? 1e-3f : 0.0f;
        for (size_t i = 0; i < n; i++) {
          row_v[i] = query_v[i] * (1.0f + off * random_unit());
          if (!dv_is_finite(row_v[i])) row_v[i] = query_v[i];
        }
        if (shape == N_SHAPES + 1) row_v[random_below((uint32_t)n)] *= 0.5f;
        if (shape == N_SHAPES + 3)
          for (size_t i = 0; i < n; i++) row_v[i] = -row_v[i];
      }
      uint32_t meta = dv_code_encode(m, row_v, n, row_code);
      dv_code_row row = dv_code_row_of(meta, row_code, n);
      int32_t dot = dv_kernels_get()->dot_i8(row_code, cq.code, n);
      int32_t dot_low = dv_kernels_get()->dot_i8(row_code, cq.code_low, n);
      double d = dv_query_distance(&q, row_v), low, high, low_fine, high_fine;
      dv_code_bounds(&cq, &row, dot, &low, &high);
      dv_code_bounds_fine(&cq, &row, dot, dot_low, &low_fine, &high_fine);
      bool is_inside = low <= d && d <= high && low_fine <= d && d <= high_fine;
      n_pairs++;
      n_useful += high_fine - low_fine < 1e-2 * cq.norm * (1.0 + cq.norm);
      if (is_inside) continue; /* asserts are slow, and there are many pairs */
      ck_assert_msg(low <= d && d <= high, "%s n=%zu shape %u: %.17g not in [%.17g, %.17g]", dv_metric_name(m), n,
                    shape, d, low, high);
      ck_assert_msg(low_fine <= d && d <= high_fine, "%s n=%zu shape %u: %.17g not in fine [%.17g, %.17g]",
                    dv_metric_name(m), n, shape, d, low_fine, high_fine);
    }
    dv_code_query_free(&cq);
  }
  ck_assert_uint_gt(n_pairs, 200000);
  ck_assert_uint_gt(n_useful, n_pairs / 10);
}
END_TEST

START_TEST(bounds_are_tight_for_ordinary_vectors) {
  const size_t n = 384;
  double coarse = 0, fine = 0;
  for (unsigned round = 0; round < 500; round++) {
    fill(query_v, n, GAUSSIAN);
    for (size_t i = 0; i < n; i++) row_v[i] = query_v[i] + random_normal();
    dv_code_query cq;
    ck_assert(dv_code_query_init(&cq, DV_COSINE, query_v, n, &alloc) == DV_OK);
    dv_code_query_refine(&cq, query_v);
    uint32_t meta = dv_code_encode(DV_COSINE, row_v, n, row_code);
    dv_code_row row = dv_code_row_of(meta, row_code, n);
    double low, high;
    int32_t dot = dv_kernels_get()->dot_i8(row_code, cq.code, n);
    dv_code_bounds(&cq, &row, dot, &low, &high);
    coarse += high - low;
    dv_code_bounds_fine(&cq, &row, dot, dv_kernels_get()->dot_i8(row_code, cq.code_low, n), &low, &high);
    fine += high - low;
    dv_code_query_free(&cq);
  }
  ck_assert_double_lt(coarse / 500, 0.022);
  ck_assert_double_lt(fine / 500, 0.011);
}
END_TEST

START_TEST(estimates_order_like_distances) {
  enum { N_ROWS = 400, N = 200 };
  static float rows[N_ROWS][N];
  static const float sizes[] = {1.0f, 1e-15f, 1e15f, 1e-30f, 1e30f};
  for (unsigned round = 0; round < 15; round++) {
    dv_metric m = metrics[round % 3];
    float size = sizes[round / 3];
    if (m == DV_L2 && round / 3 >= 3) continue; /* squares beyond f32: no estimate */
    fill(query_v, N, GAUSSIAN);
    for (size_t i = 0; i < N; i++) query_v[i] *= size;
    dv_code_query cq;
    ck_assert(dv_code_query_init(&cq, m, query_v, N, &alloc) == DV_OK);
    dv_code_query_refine(&cq, query_v);
    float estimates[N_ROWS];
    double distances[N_ROWS];
    size_t n_right = 0;
    double sum_doubt = 0, sum_left = 0;
    for (size_t r = 0; r < N_ROWS; r++) {
      for (size_t i = 0; i < N; i++)
        rows[r][i] = query_v[i] * random_unit() + size * random_normal() * (float)r / (float)N_ROWS;
      uint32_t meta = dv_code_encode(m, rows[r], N, row_code);
      dv_code_row row = dv_code_row_of(meta, row_code, N);
      estimates[r] = dv_code_estimate(&cq, &row, dv_kernels_get()->dot_i8(row_code, cq.code, N));
      distances[r] = dv_distance(dv_kernels_get(), m, query_v, rows[r], N);
      double dot = 0, away = 0, norms[2] = {0};
      for (size_t i = 0; i < N; i++) {
        double x = (double)query_v[i], y = (double)rows[r][i];
        dot += x * y, away += (x - y) * (x - y), norms[0] += x * x, norms[1] += y * y;
      }
      double truth = m == DV_L2       ? away
                     : m == DV_COSINE ? -dot / sqrt(norms[0] * norms[1])
                                      : -dot * (double)(cq.weight / cq.scale);
      double doubt = (double)dv_code_doubt(&cq, &row), left = fabs((double)estimates[r] - truth);
      n_right += left <= doubt;
      sum_doubt += doubt, sum_left += left;
    }
    ck_assert_msg(n_right >= N_ROWS - 4 && (sum_doubt < 12 * sum_left || size > 1e18f),
                  "%s size %g: of %zu, %g times too wide", dv_metric_name(m), (double)size, n_right,
                  sum_doubt / sum_left);
    size_t n_same = 0, n_pairs = 0;
    for (size_t a = 0; a < N_ROWS; a++)
      for (size_t b = 0; b < a; b++) {
        n_pairs++;
        n_same += (estimates[a] < estimates[b]) == (distances[a] < distances[b]);
      }
    ck_assert_msg((double)n_same > 0.985 * (double)n_pairs, "%s size %g: %zu of %zu", dv_metric_name(m), (double)size,
                  n_same, n_pairs);
    dv_code_query_free(&cq);
  }
}
END_TEST

START_TEST(codes_that_nobody_wrote_do_no_harm) {
  fill(query_v, 64, GAUSSIAN);
  for (unsigned round = 0; round < 20000; round++) {
    dv_code_query cq;
    dv_metric m = metrics[round % 3];
    ck_assert(dv_code_query_init(&cq, m, query_v, 64, &alloc) == DV_OK);
    dv_code_query_refine(&cq, query_v);
    for (size_t i = 0; i < 64; i++) row_code[i] = (int8_t)(next_random() >> 56);
    uint32_t meta = round % 2 ? (uint32_t)(next_random() >> 32) : 0x7f800000u + (uint32_t)(next_random() >> 41);
    dv_code_row row = dv_code_row_of(meta, row_code, 64);
    double low, high;
    dv_code_bounds(&cq, &row, (int32_t)(next_random() >> 32), &low, &high);
    ck_assert(low == low && high == high);
    dv_code_query_free(&cq);
  }
}
END_TEST

/* ---- bits -------------------------------------------------------------------------------------------------------- */

START_TEST(bits_estimate_what_they_should) {
  enum { N_ROWS = 256, N = 384 };
  static float rows[N_ROWS][N], center[N];
  static uint64_t blocks[N_ROWS * N / 64];
  static uint8_t table[256 * N / 64];
  static uint32_t sums[N_ROWS];
  for (unsigned round = 0; round < 12; round++) {
    dv_metric m = metrics[round % 3];
    float offset = round < 6 ? 0.0f : 3.0f; /* far from zero, signs only speak around the centre */
    for (size_t i = 0; i < N; i++)
      center[i] = offset * (m == DV_COSINE ? 1.0f / sqrtf((float)N * (offset * offset + 1.0f)) : 1.0f);
    dv_bit_row bit_rows[N_ROWS];
    memset(blocks, 0xa5, sizeof blocks); /* whatever was there before */
    for (size_t r = 0; r < N_ROWS; r++) {
      for (size_t i = 0; i < N; i++) rows[r][i] = random_normal() + offset;
      int8_t code[N];
      uint32_t meta = dv_code_encode(m, rows[r], N, code);
      dv_code_row code_row = dv_code_row_of(meta, code, N);
      bit_rows[r] = dv_bits_set(blocks, r, m, &code_row, code, N, offset != 0.0f ? center : NULL);
    }

    for (size_t i = 0; i < N; i++) query_v[i] = rows[7][i] + 0.5f * random_normal();
    dv_code_query cq;
    dv_bit_query bq;
    ck_assert(dv_code_query_init(&cq, m, query_v, N, &alloc) == DV_OK);
    dv_code_query_refine(&cq, query_v);
    dv_bit_query_init(&bq, &cq, offset != 0.0f ? center : NULL, table);
    for (size_t i = 0; i < sizeof table; i++) ck_assert_uint_le(table[i], 63);
    double error_sq = 0, spread_sq = 0, mean = 0;
    dv_kernels_get()->scan_bits(blocks, N_ROWS / DV_BITS_ROWS, N / 64, table, sums);
    for (size_t r = 0; r < N_ROWS; r++) {
      double d = dv_distance(dv_kernels_get(), m, query_v, rows[r], N);
      double known = m == DV_L2 ? d * d : m == DV_COSINE ? d - 1.0 : d;
      double e = (double)dv_bits_estimate(&bq, &bit_rows[r], sums[r]) - known;
      error_sq += e * e;
      mean += known / (double)N_ROWS;
      spread_sq += known * known;
    }
    spread_sq -= (double)N_ROWS * mean * mean;
    /* Theory for random vectors, w of norm 1: deviation sqrt(pi/2 - 1) = 0.76 of that of y.w itself. Here w is
     * shorter. */
    ck_assert_msg(error_sq < 0.9 * spread_sq, "%s offset %g: %g of %g", dv_metric_name(m), (double)offset, error_sq,
                  spread_sq);
    float near = dv_bits_estimate(&bq, &bit_rows[7], sums[7]);
    for (size_t r = 0; r < N_ROWS && m != DV_IP; r++)
      if (r != 7) ck_assert(near < dv_bits_estimate(&bq, &bit_rows[r], sums[r]));
    dv_code_query_free(&cq);
  }
}
END_TEST

START_TEST(bits_of_a_row_change_no_other_row) {
  enum { N = 100, N_ROWS = 96 };
  static uint64_t blocks[N_ROWS * 2], before[N_ROWS * 2];
  float v[N];
  int8_t code[N];
  for (unsigned round = 0; round < 2000; round++) {
    for (size_t i = 0; i < N_ROWS * 2; i++) before[i] = blocks[i] = next_random();
    size_t row = random_below(N_ROWS);
    fill(v, N, GAUSSIAN);
    dv_code_row code_row = dv_code_row_of(dv_code_encode(DV_L2, v, N, code), code, N);
    dv_bit_row b = dv_bits_set(blocks, row, DV_L2, &code_row, code, N, NULL);
    const uint8_t *was = (const uint8_t *)before, *is = (const uint8_t *)blocks;
    size_t per_block = 2 * 32 * 8, base = row / 32 * per_block;
    size_t n_strange = 0, n_wrong = 0;
    for (size_t i = 0; i < sizeof blocks; i++) {
      bool is_mine = i >= base && i < base + per_block && (i - base) % 16 == row % 16;
      uint8_t mine = (uint8_t)(!is_mine ? 0 : row % 32 < 16 ? 15 : 240);
      n_strange += (was[i] & ~mine & 255) != (is[i] & ~mine & 255);
    }
    for (size_t i = 0; i < 128; i++) { /* each sign where scan_bits looks for it, and zeros behind the last */
      unsigned nibble = is[base + i / 4 * 16 + row % 16] >> (row % 32 < 16 ? 0 : 4);
      n_wrong += ((nibble >> i % 4) & 1) != (i < N && code[i] >= 0);
    }
    ck_assert(n_strange == 0 && n_wrong == 0);
    ck_assert(b.factor > 0.0f);
    memset(v, 0, sizeof v);
    code_row = dv_code_row_of(dv_code_encode(DV_COSINE, v, N, code), code, N);
    b = dv_bits_set(blocks, row, DV_COSINE, &code_row, code, N, NULL);
    ck_assert(b.factor == 0.0f && b.offset == 0.0f);
  }
}
END_TEST

/* Rows longer than one call of the kernel takes, against sums of their own. */
START_TEST(bits_of_long_rows_are_those_of_their_values) {
  enum { MOST = 3000 };
  static uint64_t blocks[DV_BITS_ROWS * (MOST / 64 + 1)];
  static float v[MOST], center[MOST];
  static int8_t code[MOST];
  static const size_t lengths[] = {1, 3, 63, 64, 65, 1021, 1023, 1024, 1025, 1088, 2048, 2051, 3000};
  for (size_t l = 0; l < sizeof lengths / sizeof lengths[0]; l++) {
    const size_t n = lengths[l], row = random_below(DV_BITS_ROWS);
    for (size_t i = 0; i < n; i++) {
      v[i] = random_normal();
      center[i] = 0.3f * random_normal();
    }
    dv_code_row code_row = dv_code_row_of(dv_code_encode(DV_L2, v, n, code), code, n);
    dv_bit_row b = dv_bits_set(blocks, row, DV_L2, &code_row, code, n, center);
    long double l1 = 0, l2 = 0;
    size_t n_wrong = 0;
    const uint8_t *bytes = (const uint8_t *)blocks;
    for (size_t i = 0; i < 64 * dv_bit_words(n); i++) {
      double y = i < n ? (double)code_row.scale * code[i] - (double)center[i] : -1.0;
      unsigned nibble = bytes[i / 4 * 16 + row % 16] >> (row < 16 ? 0 : 4);
      n_wrong += ((nibble >> i % 4) & 1) != (y >= 0.0);
      l1 += i < n ? fabsl((long double)y) : 0;
      l2 += i < n ? (long double)y * (long double)y : 0;
    }
    ck_assert_uint_eq(n_wrong, 0);
    ck_assert(fabsl((long double)b.offset - l2) <= l2 * 1e-6L);
    ck_assert(fabsl((long double)b.factor - l2 / l1) <= l2 / l1 * 1e-6L);
  }
}
END_TEST

START_TEST(center_is_the_mean_of_rows_that_are_there) {
  enum { N = 70, N_ROWS = 300 };
  static uint8_t codes[(N_ROWS + DV_CODE_ROWS) * 128];
  static dv_code_row rows[N_ROWS];
  int8_t code[128] = {0};
  float v[N], center[N];
  for (size_t r = 0; r < N_ROWS; r++) {
    if (r % 3 == 0) continue; /* absent: scale 0 */
    for (size_t i = 0; i < N; i++) v[i] = 5.0f + (float)i + 0.1f * random_unit();
    uint32_t meta = dv_code_encode(DV_L2, v, N, code);
    rows[r] = dv_code_row_of(meta, code, N);
    dv_code_pack(code, N, codes, r);
  }
  dv_bits_center(codes, rows, N_ROWS, N, code, center);
  for (size_t i = 0; i < N; i++) ck_assert(fabsf(center[i] - 5.0f - (float)i) < 0.5f);
  dv_bits_center(codes, rows, 1, N, code, center);
  for (size_t i = 0; i < N; i++) ck_assert(center[i] == 0.0f);
  dv_bits_center(codes, rows, 0, N, code, center);
}
END_TEST

/* ---- packing ----------------------------------------------------------------------------------------------------- */

START_TEST(packed_codes_come_out_again) {
  static int8_t code[576], again[576];
  static uint8_t packed[3 * DV_CODE_ROWS * 576], bytes[3 * DV_CODE_ROWS * 576];
  for (size_t round = 0; round < 600; round++) {
    size_t n = 1 + round % 570, stride = dv_code_stride(n), half = stride / 2, row = random_below(3 * DV_CODE_ROWS);
    size_t block = row / 64 * 64 * stride, in_block = row % 64;
    int32_t sum = 0;
    memset(code, 0, sizeof code);
    for (size_t i = 0; i < n; i++) {
      code[i] = (int8_t)(round < 256 ? (int)round - 128 : (int)random_below(256) - 128);
      sum += code[i];
    }
    dv_code_pack(code, n, packed, row);
    if (stride <= 256) ck_assert(memcmp(packed + row * stride, code, stride) == 0);
    for (size_t i = 0; i < stride && stride > 256; i++) { /* as the kernels expect them */
      size_t at = block + in_block * half + i % half;
      unsigned u = (unsigned)(code[i] + 128), high = packed[at], low = packed[at + 64 * half];
      ck_assert_uint_eq(u >> 4, i < half ? high & 15 : high >> 4);
      ck_assert_uint_eq(u & 15, i < half ? low & 15 : low >> 4);
    }
    ck_assert_int_eq(dv_code_unpack(packed, row, n, again), sum);
    ck_assert(memcmp(code, again, stride) == 0);
    /* Any bytes: and nothing but the row's is written. */
    for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (uint8_t)random_below(256);
    memcpy(packed, bytes, sizeof packed);
    (void)dv_code_unpack(bytes, row, n, again);
    dv_code_pack(again, n, packed, row);
    ck_assert(memcmp(bytes, packed, sizeof packed) == 0);
  }
}
END_TEST

/* ---- selection --------------------------------------------------------------------------------------------------- */

static const float *compared;

static int by_estimate(const void *a, const void *b) {
  uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
  float ex = compared[x], ey = compared[y];
  bool is_nan_x = ex != ex, is_nan_y = ey != ey;
  if (is_nan_x != is_nan_y) return is_nan_x ? 1 : -1;
  if (ex < ey) return -1;
  if (ex > ey) return 1;
  return x < y ? -1 : x > y;
}

static int by_number(const void *a, const void *b) {
  uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
  return x < y ? -1 : x > y;
}

START_TEST(select_smallest_equals_a_sort) {
  enum { MAX = 3000 };
  static float est[MAX];
  static uint32_t out[MAX + 1], keys[MAX], sorted[MAX];
  for (unsigned round = 0; round < 4000; round++) {
    size_t n = random_below(round % 10 ? 200 : MAX + 1), want = random_below(round % 3 ? 50 : (uint32_t)n + 10);
    for (size_t i = 0; i < n; i++) switch (round % 6) {
      case 0: est[i] = random_unit(); break;
      case 1: est[i] = (float)random_below(4); break;
      case 2: est[i] = dv_bits_float((uint32_t)(next_random() >> 32)); break; /* NaN, infinities, denormals and all */
      case 3: est[i] = random_below(2) ? 0.0f : -0.0f; break;
      case 4: est[i] = 1.0f + random_unit() * 1e-6f; break;
      default: est[i] = random_below(3) ? (float)NAN : -random_unit(); break;
      }
    compared = est;
    for (size_t i = 0; i < n; i++) sorted[i] = (uint32_t)i;
    qsort(sorted, n, sizeof *sorted, by_estimate);
    size_t n_expected = want < n ? want : n;
    out[n_expected] = 0x5a5a5a5a;
    ck_assert_uint_eq(dv_select_smallest(est, n, want, out, keys), n_expected);
    ck_assert_uint_eq(out[n_expected], 0x5a5a5a5a);
    qsort(out, n_expected, sizeof *out, by_number);
    qsort(sorted, n_expected, sizeof *sorted, by_number);
    ck_assert_int_eq(memcmp(out, sorted, n_expected * sizeof *out), 0);
  }
}
END_TEST

START_TEST(no_memory_owns_nothing) {
  size_t n_left = 0;
  dv_alloc failing = {resize, &n_left};
  dv_code_query q;
  fill(query_v, 10, GAUSSIAN);
  ck_assert(dv_code_query_init(&q, DV_L2, query_v, 10, &failing) == DV_NOMEM);
  dv_code_query_free(&q);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("quant");
  TCase *tc = tcase_create("codes");
  tcase_set_timeout(tc, 0);
  tcase_add_test(tc, code_residuals_hold_in_exact_arithmetic);
  tcase_add_test(tc, query_residuals_hold_in_exact_arithmetic);
  tcase_add_test(tc, bounds_contain_the_distance);
  tcase_add_test(tc, bounds_are_tight_for_ordinary_vectors);
  tcase_add_test(tc, estimates_order_like_distances);
  tcase_add_test(tc, codes_that_nobody_wrote_do_no_harm);
  tcase_add_test(tc, bits_estimate_what_they_should);
  tcase_add_test(tc, bits_of_a_row_change_no_other_row);
  tcase_add_test(tc, bits_of_long_rows_are_those_of_their_values);
  tcase_add_test(tc, packed_codes_come_out_again);
  tcase_add_test(tc, center_is_the_mean_of_rows_that_are_there);
  tcase_add_test(tc, select_smallest_equals_a_sort);
  tcase_add_test(tc, no_memory_owns_nothing);
  suite_add_tcase(suite, tc);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed;
}
