/*
 * dv_quant.c: codes of vectors and what can be proved from them. The header has the inequalities; here they meet
 * floating point. Everything that a bound rests on is computed in double, whose own rounding (n * 2^-53 relative, below
 * 2^-36 for 65536 dimensions) is added as slack, or in integers, where there is none.
 *
 * Only +, -, *, / and sqrt are used, each correctly rounded on every machine: codes are the same everywhere.
 */
#include "dv_quant.h"

#include <math.h>

DV_FP_STRICT_BEGIN

#define QUANT_INFINITY ((double)INFINITY)

/* More than the relative rounding error of a sum of 65536 terms in double, and of the few operations around it. */
#define QUANT_SLACK 0x1p-36

/* The smallest f32 that is not below d >= 0 (infinity if there is none). */
static inline float quant_round_up(double d) {
  float f = (float)d;
  return (double)f < d ? dv_bits_float(dv_float_bits(f) + 1) : f;
}

/* Sums in double run over four lanes, so that compilers may keep them in vectors. Their order is fixed all the same. */
static inline double quant_fold(const double lane[4]) { return (lane[0] + lane[2]) + (lane[1] + lane[3]); }

/* |v|_2 of a vector of floats: squares neither overflow nor underflow in double. */
static double quant_norm(const float *v, size_t n) {
  double lane[4];
  dv_kernels_get()->sum_sq_f64(v, n, lane);
  return sqrt(quant_fold(lane));
}

/* ---- codes of rows ----------------------------------------------------------------------------------------------- */

/* What a residual byte promises. */
static float quant_residual(uint32_t meta, size_t n) {
  double step = (double)dv_code_scale(meta) * sqrt((double)n) / 510.0;
  return quant_round_up((double)(meta & 255u) * step * (1.0 + 0x1p-40));
}

uint32_t dv_code_encode(dv_metric m, const float *v, size_t n, int8_t *code) {
  const dv_kernels *k = dv_kernels_get();
  float max_abs = k->max_abs_f32(v, n);
  if (max_abs == 0.0f) {
    memset(code, 0, n);
    return 0;
  }
  double inverse = m == DV_COSINE ? 1.0 / quant_norm(v, n) : 1.0;
  double max = (double)max_abs * inverse;

  uint32_t meta = dv_float_bits((float)(max / 127.0)) & 0xffffff00u;
  while ((double)dv_bits_float(meta) * 127.0 < max) meta += 0x100u;

  double scale = (double)dv_bits_float(meta), lane[4];
  k->encode_i8(v, n, inverse, scale, inverse / scale, code, lane);
  double residual = sqrt(quant_fold(lane)) * (1.0 + QUANT_SLACK);
  if (m == DV_COSINE) residual += QUANT_SLACK; /* v * inverse is not exactly the unit vector */

  /* 255 always suffices: no component is off by more than half a step, and the largest one is off by less than 1/100 of
   * a step, unless scale is the smallest there is and every step counts. quant_residual rounds up by more than is lost
   * here. */
  uint32_t byte = (uint32_t)(residual / (scale * sqrt((double)n) / 510.0));
  if (byte > 255) byte = 255;
  while (byte < 255 && (double)quant_residual(meta | byte, n) < residual) byte++;
  DV_ASSERT((double)quant_residual(meta | byte, n) >= residual);
  return meta | byte;
}

static int32_t quant_sum(const int8_t *code, size_t n) {
  int32_t sum = 0;
  for (size_t i = 0; i < n; i++) sum += code[i];
  return sum;
}

void dv_code_pack(const int8_t *code, size_t n, uint8_t *codes, size_t row) {
  const size_t stride = dv_code_stride(n), half = stride / 2;
  const int8_t *second = code + half;
  uint8_t *high = codes + dv_code_at(row, stride), *low = high + dv_code_to_low(half);
  if (!dv_code_has_halves(stride)) {
    memcpy(high, code, stride);
    return;
  }
  for (size_t i = 0; i < half; i++) {
    high[i] = dv_pack_high(code[i], second[i]);
    low[i] = dv_pack_low(code[i], second[i]);
  }
}

int32_t dv_code_unpack(const uint8_t *codes, size_t row, size_t n, int8_t *code) {
  const size_t stride = dv_code_stride(n), half = stride / 2;
  const uint8_t *high = codes + dv_code_at(row, stride), *low = high + dv_code_to_low(half);
  int8_t *second = code + half;
  if (!dv_code_has_halves(stride)) {
    memcpy(code, high, stride);
    return quant_sum(code, stride);
  }
  for (size_t i = 0; i < half; i++) {
    code[i] = (int8_t)((uint8_t)(high[i] << 4 | (low[i] & 15)) ^ 128);
    second[i] = (int8_t)((uint8_t)((high[i] & 0xf0) | low[i] >> 4) ^ 128);
  }
  return quant_sum(code, stride);
}

dv_code_row dv_code_row_of(uint32_t meta, const int8_t *code, size_t n) {
  float scale = dv_code_scale(meta);
  if (!dv_is_finite(scale) || scale < 0.0f) { /* not written by dv_code_encode: can be anything, so bound nothing */
    dv_code_row none = {0.0f, INFINITY, INFINITY};
    return none;
  }
  int32_t sum = dv_kernels_get()->dot_i8(code, code, n);
  dv_code_row row = {scale, quant_residual(meta, n), (float)((double)scale * (double)scale * (double)sum)};
  return row;
}

/* ---- codes of queries -------------------------------------------------------------------------------------------- */

/* A step for components up to max, and its inverse (0 if they are all 0). */
static double quant_step(double max, float *step) {
  *step = quant_round_up(max / 127.0 * (1.0 + 0x1p-50));
  return max > 0.0 ? 1.0 / (double)*step : 0.0;
}

dv_status dv_code_query_init(dv_code_query *q, dv_metric m, const float *v, size_t n, const dv_alloc *alloc) {
  size_t stride = dv_code_stride(n);
  memset(q, 0, sizeof *q);
  float *floats = dv_alloc_resize(alloc, NULL, 2 * stride + sizeof(float) * n); /* one allocation for all */
  if (!floats) return DV_NOMEM;
  q->unit = floats;
  q->code = (int8_t *)(floats + n);
  q->code_low = q->code + stride;
  q->alloc = alloc;
  q->metric = m;
  q->n = n;
  q->rounding = dv_metric_error(n);
  memset(q->code + n, 0, stride - n);

  double norm = quant_norm(v, n), inverse = m == DV_COSINE && norm > 0.0 ? 1.0 / norm : 1.0;
  q->norm = m == DV_COSINE && norm > 0.0 ? 1.0 : norm;
  for (size_t i = 0; i < n; i++) q->unit[i] = (float)((double)v[i] * inverse);

  const dv_kernels *k = dv_kernels_get();
  double to_code = quant_step((double)k->max_abs_f32(v, n) * inverse, &q->scale), scale = (double)q->scale, lane[4];
  k->encode_i8(v, n, inverse, scale, inverse * to_code, q->code, lane);
  q->inverse = inverse;
  /* x carries a rounding of 2^-53 of itself, twice that for a unit vector. */
  q->residual = quant_round_up(sqrt(quant_fold(lane)) * (1.0 + QUANT_SLACK) + q->norm * QUANT_SLACK);
  q->sum = quant_sum(q->code, n);
  q->code_sq = scale * scale * (double)k->dot_i8(q->code, q->code, stride);

  /* The order by inner product does not depend on the query's length: divide by the power of two in it. */
  double shrink = 1.0;
  if (m == DV_IP && norm > 0.0) {
    uint64_t bits;
    memcpy(&bits, &norm, sizeof bits);
    bits = (2046 - (bits >> 52)) << 52; /* the norm of f32 vectors is a normal double, far from either end */
    memcpy(&shrink, &bits, sizeof shrink);
  }
  q->weight = (float)((double)q->scale * shrink);
  return DV_OK;
}

void dv_code_query_refine(dv_code_query *q, const float *v) {
  const size_t n = q->n, stride = dv_code_stride(n);
  double scale = (double)q->scale, lane[4] = {0}, max = 0.0;
  if (q->is_fine) return;
  for (size_t i = 0; i < n; i++) {
    double left = fabs((double)v[i] * q->inverse - scale * q->code[i]);
    max = left > max ? left : max;
  }
  double to_low = quant_step(max, &q->scale_low), scale_low = (double)q->scale_low;
  memset(q->code_low + n, 0, stride - n);
  for (size_t i = 0; i < n; i += 4)
    for (size_t j = 0; j < 4 && i + j < n; j++) {
      double left = (double)v[i + j] * q->inverse - scale * q->code[i + j];
      int c = dv_round(left * to_low);
      q->code_low[i + j] = (int8_t)c;
      left -= scale_low * c;
      lane[j] += left * left;
    }
  q->sum_low = quant_sum(q->code_low, n);
  q->residual_low = quant_round_up(sqrt(quant_fold(lane)) * (1.0 + QUANT_SLACK) + q->norm * QUANT_SLACK);
  const dv_kernels *k = dv_kernels_get();
  double hh = (double)k->dot_i8(q->code, q->code, stride), hl = (double)k->dot_i8(q->code, q->code_low, stride);
  double ll = (double)k->dot_i8(q->code_low, q->code_low, stride);
  q->fine_sq = scale * scale * hh + 2.0 * scale * scale_low * hl + scale_low * scale_low * ll;
  q->is_fine = true;
}

void dv_code_query_free(dv_code_query *q) {
  if (q->alloc) dv_alloc_free(q->alloc, q->unit);
  memset(q, 0, sizeof *q);
}

/* ---- what codes say of distances --------------------------------------------------------------------------------- */

/* Bounds from ab = a.b, bb = |b|^2 and s >= |q - b|, all but for a relative rounding of 2^-50. Comparisons are written
 * so that a NaN, which only values beyond f32 can cause here, gives the wide answer. */
static void quant_bounds(const dv_code_query *q, const dv_code_row *row, double ab, double bb, double s, double *low,
                         double *high) {
  double aa = (double)row->norm_sq, r = (double)row->residual;
  double a_norm = sqrt(aa * (1.0 + 0x1p-23) + 0x1p-148); /* not less than |a|: norm_sq was rounded to f32 */
  if (q->metric == DV_IP) {
    double width = (a_norm * s + r * q->norm + (a_norm + r) * q->norm * q->rounding) * (1.0 + QUANT_SLACK);
    *low = -ab - width;
    *high = width - ab;
    if (!(*low > -QUANT_INFINITY)) *low = -QUANT_INFINITY;
    if (!(*high < QUANT_INFINITY)) *high = QUANT_INFINITY;
    return;
  }
  if (q->metric == DV_COSINE && (q->norm == 0.0 || (row->scale == 0.0f && aa == 0.0))) {
    *low = *high = 1.0; /* a zero vector, exactly */
    return;
  }

  double between = aa + bb - 2.0 * ab, slack = (aa + bb) * 0x1p-22 + 0x1p-148, width = (r + s) * (1.0 + QUANT_SLACK);
  double nearest = between > slack ? sqrt(between - slack) - width : 0.0;
  double farthest = sqrt((between > 0.0 ? between : 0.0) + slack) + width;
  if (!(nearest > 0.0)) nearest = 0.0;
  if (!(farthest < QUANT_INFINITY)) farthest = QUANT_INFINITY;
  if (q->metric == DV_L2) {
    *low = nearest * (1.0 - q->rounding);
    *high = farthest * (1.0 + q->rounding);
    return;
  }

  /* Both inequalities hold; which is the narrower depends on the distance. */
  double dot_width = a_norm * s + r, rounding = 2.01 * q->rounding;
  double low_dot = 1.0 - ab - dot_width, high_dot = 1.0 - ab + dot_width;
  double low_between = 0.5 * nearest * nearest, high_between = 0.5 * farthest * farthest;
  *low = (low_dot > low_between ? low_dot : low_between) - rounding;
  *high = (high_dot < high_between ? high_dot : high_between) + rounding;
  if (!(*low > 0.0)) *low = 0.0;
  if (!(*high < 2.0)) *high = 2.0;
}

void dv_code_bounds(const dv_code_query *q, const dv_code_row *row, int32_t dot, double *low, double *high) {
  double ab = (double)row->scale * (double)q->scale * (double)dot;
  quant_bounds(q, row, ab, q->code_sq, (double)q->residual, low, high);
}

void dv_code_bounds_fine(const dv_code_query *q, const dv_code_row *row, int32_t dot, int32_t dot_low, double *low,
                         double *high) {
  double ab = (double)row->scale * ((double)q->scale * (double)dot + (double)q->scale_low * (double)dot_low);
  quant_bounds(q, row, ab, q->fine_sq, (double)q->residual_low, low, high);
}

/* ---- bits -------------------------------------------------------------------------------------------------------- */

/* Where the byte of a row's first group is; the next group's is 16 bytes on. Rows 16 to 31 of a block use high
 * nibbles. */
static uint8_t *quant_bits_at(uint64_t *blocks, size_t row, size_t n, unsigned *shift) {
  uint8_t *bytes = (uint8_t *)blocks + row / DV_BITS_ROWS * dv_bit_words(n) * DV_BITS_ROWS * sizeof(uint64_t);
  *shift = row % DV_BITS_ROWS < 16 ? 0 : 4;
  return bytes + row % 16;
}

static inline void quant_put_nibble(uint8_t *at, unsigned shift, unsigned bits) {
  *at = (uint8_t)((*at & (0xf0u >> shift)) | bits << shift);
}

void dv_bits_center(const uint8_t *codes, const dv_code_row *rows, size_t n_rows, size_t n, int8_t *code,
                    float *center) {
  const size_t n_wanted = 1000, step = n_rows > n_wanted ? n_rows / n_wanted : 1;
  size_t n_summed = 0;
  memset(center, 0, n * sizeof *center);
  for (size_t r = 0; r < n_rows; r += step) {
    if (rows[r].scale == 0.0f) continue;
    (void)dv_code_unpack(codes, r, n, code);
    for (size_t i = 0; i < n; i++) center[i] += rows[r].scale * (float)code[i];
    n_summed++;
  }
  for (size_t i = 0; i < n && n_summed > 0; i++) {
    center[i] /= (float)n_summed;
    if (!dv_is_finite(center[i])) center[i] = 0.0f;
  }
}

/* sums as of the kernel signs_i8. */
static dv_bit_row quant_bit_row(const double sums[12], dv_metric m) {
  double l1 = quant_fold(sums), l2 = quant_fold(sums + 4), dot = quant_fold(sums + 8);
  dv_bit_row row = {l1 > 0.0 ? (float)(l2 / l1) : 0.0f, (float)(m == DV_L2 ? l2 : -dot)};
  return row;
}

dv_bit_row dv_bits_set(uint64_t *blocks, size_t row, dv_metric m, const dv_code_row *row_code, const int8_t *code,
                       size_t n, const float *center) {
  unsigned shift;
  uint8_t *at = quant_bits_at(blocks, row, n, &shift);
  enum { N_AT_ONCE = 1024 };
  uint8_t signs[N_AT_ONCE / 4];
  const dv_kernels *k = dv_kernels_get();
  double sums[12] = {0};
  for (size_t i = 0; i < 64 * dv_bit_words(n); i += N_AT_ONCE) {
    size_t n_here = i >= n ? 0 : n - i < N_AT_ONCE ? n - i : N_AT_ONCE, end = 64 * dv_bit_words(n) - i;
    k->signs_i8(code + i, n_here, (double)row_code->scale, center ? center + i : NULL, signs, sums);
    for (size_t g = 0; g < N_AT_ONCE / 4 && 4 * g < end; g++, at += 16)
      quant_put_nibble(at, shift, 4 * g < n_here ? signs[g] : 0);
  }
  return quant_bit_row(sums, m);
}

/*
 * What a group's four bits add to sum_i sign_i w_i lies between -m and m, m = sum |w_i|. An entry is that plus m, in
 * steps chosen so that the largest group's 2m is 63. Rounding four terms together costs a quarter of what rounding each
 * to four bits would. In fixed point with 8 fraction bits, so that sums of entries need only one correction for all the
 * m.
 */
void dv_bit_query_init(dv_bit_query *b, const dv_code_query *q, const float *center, uint8_t *table) {
  size_t n_groups = 16 * dv_bit_words(q->n);
  double max = 0.0, w_sq[4] = {0}, dot[4] = {0}, center_sq[4] = {0};
  for (size_t i = 0; i < q->n; i += 4) {
    double sum = 0.0;
    for (size_t j = 0; j < 4 && i + j < q->n; j++) {
      double c = center ? (double)center[i + j] : 0.0, w = (double)q->unit[i + j] - c;
      sum += fabs(w);
      w_sq[j] += w * w;
      dot[j] += (double)q->unit[i + j] * c;
      center_sq[j] += c * c;
    }
    max = sum > max ? sum : max;
  }
  double step = 2.0 * max / 63.0, to_fixed = max > 0.0 ? 256.0 / step : 0.0;
  int64_t all = 0;
  for (size_t g = 0; g < n_groups; g++) {
    int w[4] = {0}, m = 0, sums[16];
    for (size_t j = 0; j < 4 && 4 * g + j < q->n; j++) {
      double c = center ? (double)center[4 * g + j] : 0.0;
      w[j] = dv_round(((double)q->unit[4 * g + j] - c) * to_fixed);
      m += w[j] < 0 ? -w[j] : w[j];
    }
    all += m;
    sums[0] = m - w[0] - w[1] - w[2] - w[3] + 128;
    sums[1] = sums[0] + 2 * w[0];
    for (size_t bits = 0; bits < 2; bits++) sums[2 + bits] = sums[bits] + 2 * w[1];
    for (size_t bits = 0; bits < 4; bits++) sums[4 + bits] = sums[bits] + 2 * w[2];
    for (size_t bits = 0; bits < 8; bits++) sums[8 + bits] = sums[bits] + 2 * w[3];
    for (size_t bits = 0; bits < 16; bits++) table[16 * g + bits] = (uint8_t)(sums[bits] >> 8);
  }
  double sign = q->metric == DV_L2 ? -2.0 : -1.0;
  b->table = table;
  b->per_sum = (float)(sign * step);
  b->base = (float)(-sign * step * (double)all / 256.0);
  b->constant = (float)(q->metric == DV_L2 ? quant_fold(w_sq) : quant_fold(center_sq) - quant_fold(dot));
}

/* ---- selection --------------------------------------------------------------------------------------------------- */

/* Unsigned integers that order like the floats, -0.0 with 0.0, NaN last. */
static inline uint32_t quant_key(float f) {
  uint32_t bits = dv_float_bits(f + 0.0f);
  if ((bits & 0x7fffffffu) > 0x7f800000u) return UINT32_MAX;
  return bits & 0x80000000u ? ~bits : bits | 0x80000000u;
}

/*
 * Finds the key of the want-th smallest by histograms over the range it can still lie in, each narrowing the range
 * 512-fold; four are enough for 32 bits, and of values that crowd in a small range the first already does most.
 */
size_t dv_select_smallest(const float *est, size_t n, size_t want, uint32_t *out, uint32_t *keys) {
  if (want >= n) {
    for (size_t i = 0; i < n; i++) out[i] = (uint32_t)i;
    return n;
  }
  if (want == 0) return 0;
  uint32_t low = UINT32_MAX, high = 0;
  for (size_t i = 0; i < n; i++) {
    keys[i] = quant_key(est[i]);
    low = keys[i] < low ? keys[i] : low;
    high = keys[i] > high ? keys[i] : high;
  }
  size_t left = want; /* how many of the keys in low..high are wanted; all below are */
  while (low < high) {
    enum { N_BINS = 512 };
    uint32_t bins[N_BINS] = {0};
    unsigned shift = 0;
    while ((high - low) >> shift >= N_BINS) shift++;
    for (size_t i = 0; i < n; i++)
      if (keys[i] - low <= high - low) bins[(keys[i] - low) >> shift]++;
    uint32_t bin = 0;
    while (bins[bin] < left) left -= bins[bin++];
    low += bin << shift;
    if (((uint32_t)1 << shift) - 1 < high - low) high = low + (((uint32_t)1 << shift) - 1);
    if (bins[bin] == left) break; /* all of this bin: the border lies behind it */
  }
  size_t n_out = 0;
  for (size_t i = 0; n_out < want; i++) {
    bool is_inside = keys[i] - low <= high - low;
    if (keys[i] < low || (is_inside && left > 0)) {
      out[n_out++] = (uint32_t)i;
      left -= is_inside;
    }
  }
  return n_out;
}

DV_FP_STRICT_END
