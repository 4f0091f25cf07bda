/*
 * scalar.c: the definition of every kernel, in plain C. The other files of this directory hold the same functions in
 * the same order and must return the same bits. Written over whole groups of lanes, so that compilers vectorise it:
 * on a CPU without a file of its own this is not slow.
 */
#include "dv_simd.h"

DV_FP_STRICT_BEGIN

#define LANES_SCALAR 32u

/* Pointers may be odd, so floats are read through memcpy. */
static inline float at_scalar(const float *p, size_t i) {
  float f;
  memcpy(&f, (const char *)p + i * sizeof f, sizeof f);
  return f;
}

static inline float fold_scalar(float lane[LANES_SCALAR]) {
  for (size_t half = LANES_SCALAR / 2; half > 0; half /= 2)
    for (size_t j = 0; j < half; j++) lane[j] += lane[j + half];
  return lane[0];
}

static float dot_f32_scalar(const float *a, const float *b, size_t n) {
  float lane[LANES_SCALAR] = {0};
  size_t i = 0;
  for (; n - i >= LANES_SCALAR; i += LANES_SCALAR)
    for (size_t j = 0; j < LANES_SCALAR; j++) lane[j] += at_scalar(a, i + j) * at_scalar(b, i + j);
  for (size_t j = 0; i + j < n; j++) lane[j] += at_scalar(a, i + j) * at_scalar(b, i + j);
  return fold_scalar(lane);
}

static float l2sq_f32_scalar(const float *a, const float *b, size_t n) {
  float lane[LANES_SCALAR] = {0};
  size_t i = 0;
  for (; n - i >= LANES_SCALAR; i += LANES_SCALAR)
    for (size_t j = 0; j < LANES_SCALAR; j++) {
      float d = at_scalar(a, i + j) - at_scalar(b, i + j);
      lane[j] += d * d;
    }
  for (size_t j = 0; i + j < n; j++) {
    float d = at_scalar(a, i + j) - at_scalar(b, i + j);
    lane[j] += d * d;
  }
  return fold_scalar(lane);
}

/* |f| by clearing the sign bit: fabsf, without asking which libm. */
static inline float abs_scalar(float f) { return dv_bits_float(dv_float_bits(f) & 0x7fffffffu); }

static float l1_f32_scalar(const float *a, const float *b, size_t n) {
  float lane[LANES_SCALAR] = {0};
  size_t i = 0;
  for (; n - i >= LANES_SCALAR; i += LANES_SCALAR)
    for (size_t j = 0; j < LANES_SCALAR; j++) lane[j] += abs_scalar(at_scalar(a, i + j) - at_scalar(b, i + j));
  for (size_t j = 0; i + j < n; j++) lane[j] += abs_scalar(at_scalar(a, i + j) - at_scalar(b, i + j));
  return fold_scalar(lane);
}

static void dot_norm_f32_scalar(const float *a, const float *b, size_t n, float out[2]) {
  out[0] = dot_f32_scalar(a, b, n);
  out[1] = dot_f32_scalar(b, b, n);
}

static int32_t dot_i8_scalar(const int8_t *a, const int8_t *b, size_t n) {
  int32_t sum = 0;
  for (size_t i = 0; i < n; i++) sum += (int32_t)a[i] * b[i];
  return sum;
}

/* The sum of products with four bits of each of n bytes that belong to a, and the other four that belong to b. */
static inline int32_t halves_scalar(const uint8_t *halves, const int8_t *a, const int8_t *b, size_t n) {
  int32_t sum = 0;
  for (size_t i = 0; i < n; i++) sum += (halves[i] & 15) * a[i] + (halves[i] >> 4) * b[i];
  return sum;
}

static int32_t high_scalar(const uint8_t *row, size_t stride, const int8_t *query, int32_t sum) {
  if (dv_code_has_halves(stride)) return 16 * halves_scalar(row, query, query + stride / 2, stride / 2);
  int32_t less_128 = 0;
  for (size_t i = 0; i < stride; i++) less_128 += (int8_t)(row[i] & 0xf0) * query[i];
  return less_128 + 128 * sum;
}

static int32_t code_scalar(const uint8_t *row, size_t stride, const int8_t *query, int32_t sum) {
  const size_t half = stride / 2;
  if (!dv_code_has_halves(stride)) return dot_i8_scalar((const int8_t *)row, query, stride);
  return high_scalar(row, stride, query, sum) - 128 * sum +
         halves_scalar(row + dv_code_to_low(half), query, query + half, half);
}

static void scan_code_scalar(const uint8_t *codes, size_t stride, size_t first, size_t n_rows, const int8_t *query,
                             int32_t sum, int32_t *out) {
  for (size_t r = 0; r < n_rows; r++) out[r] = code_scalar(codes + dv_code_at(first + r, stride), stride, query, sum);
}

static void gather_code_scalar(const uint8_t *codes, size_t stride, const uint32_t *rows, size_t n_rows,
                               const int8_t *query, int32_t sum, int32_t *out) {
  for (size_t i = 0; i < n_rows; i++) out[i] = code_scalar(codes + dv_code_at(rows[i], stride), stride, query, sum);
}

static void gather_high_scalar(const uint8_t *codes, size_t stride, const uint32_t *rows, size_t n_rows,
                               const int8_t *query, int32_t sum, int32_t *out) {
  for (size_t i = 0; i < n_rows; i++)
    out[i] = high_scalar(codes + dv_code_at(rows[i], stride), stride, query, sum) - dv_high_offset(sum);
}

static void scan_bits_scalar(const uint64_t *blocks, size_t n_blocks, size_t n_words, const uint8_t *table,
                             uint32_t *out) {
  const uint8_t *group = (const uint8_t *)blocks;
  for (size_t b = 0; b < n_blocks; b++, out += DV_BITS_ROWS) {
    memset(out, 0, DV_BITS_ROWS * sizeof *out);
    for (size_t g = 0; g < n_words * 16; g++, group += 16)
      for (size_t i = 0; i < 16; i++) {
        out[i] += table[16 * g + (group[i] & 15u)];
        out[16 + i] += table[16 * g + (group[i] >> 4)];
      }
  }
}

static size_t pick_bits_scalar(const uint32_t *sums, const dv_bit_row *rows, size_t n, float per_sum, float base,
                               float limit, uint32_t *out) {
  size_t n_out = 0;
  for (size_t r = 0; r < n; r++)
    if (dv_pick_one(sums[r], &rows[r], per_sum, base, limit)) out[n_out++] = (uint32_t)r;
  return n_out;
}

static float max_abs_f32_scalar(const float *v, size_t n) {
  uint32_t max = 0; /* finite floats without sign order like their bits */
  for (size_t i = 0; i < n; i++) {
    uint32_t bits = dv_float_bits(at_scalar(v, i)) & 0x7fffffffu;
    max = bits > max ? bits : max;
  }
  return dv_bits_float(max);
}

static void sum_sq_f64_scalar(const float *v, size_t n, double lane[4]) {
  lane[0] = lane[1] = lane[2] = lane[3] = 0.0;
  for (size_t i = 0; i < n; i += 4)
    for (size_t j = 0; j < 4 && i + j < n; j++) lane[j] += (double)at_scalar(v, i + j) * (double)at_scalar(v, i + j);
}

static void encode_i8_scalar(const float *v, size_t n, double inverse, double scale, double to_code, int8_t *code,
                             double lane[4]) {
  lane[0] = lane[1] = lane[2] = lane[3] = 0.0;
  for (size_t i = 0; i < n; i += 4)
    for (size_t j = 0; j < 4 && i + j < n; j++) {
      double x = (double)at_scalar(v, i + j);
      int c = dv_round(x * to_code);
      double left = x * inverse - scale * c;
      code[i + j] = (int8_t)c;
      lane[j] += left * left;
    }
}

static void signs_i8_scalar(const int8_t *code, size_t n, double scale, const float *center, uint8_t *signs,
                            double sums[12]) {
  for (size_t i = 0; i < n; i += 4) {
    unsigned bits = 0;
    for (size_t j = 0; j < 4 && i + j < n; j++) {
      double x = scale * code[i + j], c = center ? (double)at_scalar(center, i + j) : 0.0, y = x - c;
      bits |= (unsigned)(y >= 0.0) << j;
      sums[j] += y < 0.0 ? -y : y;
      sums[4 + j] += y * y;
      sums[8 + j] += x * c;
    }
    signs[i / 4] = (uint8_t)bits;
  }
}

const dv_kernels dv_kernels_scalar = {
    "scalar",         dot_f32_scalar,     l2sq_f32_scalar,    l1_f32_scalar,      dot_norm_f32_scalar,
    dot_i8_scalar,    scan_code_scalar,   gather_code_scalar, gather_high_scalar, scan_bits_scalar,
    pick_bits_scalar, max_abs_f32_scalar, sum_sq_f64_scalar,  encode_i8_scalar,   signs_i8_scalar,
};

DV_FP_STRICT_END
