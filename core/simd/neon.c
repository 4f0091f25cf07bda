/*
 * neon.c: kernels for AArch64, which always has NEON. Same functions, same order, same bits as scalar.c.
 *
 * A lane of the definition is a float of eight 4-wide accumulators. SDOT is used where the compiler may assume it (all
 * of Apple's machines; -march=armv8.2-a+dotprod elsewhere). Ends of arrays go through a zero-padded copy.
 */
#include "dv_simd.h"

#if defined(DV_SIMD_NEON)
DV_FP_STRICT_BEGIN

#include <arm_neon.h>

#define NEON_INLINE static inline __attribute__((always_inline))

/* ---- sums of floats ---------------------------------------------------------------------------------------------- */

/* Loads as bytes, because a float pointer may be odd. */
NEON_INLINE float32x4_t load_f32_neon(const float *p) {
  return vreinterpretq_f32_u8(vld1q_u8((const uint8_t *)(const void *)p));
}

NEON_INLINE float32x4_t term_neon(int term, float32x4_t a, float32x4_t b) {
  if (term == DV_TERM_DOT) return vmulq_f32(a, b);
  float32x4_t d = vsubq_f32(a, b);
  return term == DV_TERM_L2SQ ? vmulq_f32(d, d) : vabsq_f32(d);
}

/* Without it, GCC at -O2 keeps the accumulators in memory. */
#define UNROLL_NEON _Pragma("GCC unroll 8")

NEON_INLINE void add_lanes_neon(int term, float32x4_t s[8], const float *a, const float *b) {
  UNROLL_NEON
  for (size_t j = 0; j < 8; j++)
    s[j] = vaddq_f32(s[j], term_neon(term, load_f32_neon(a + 4 * j), load_f32_neon(b + 4 * j)));
}

NEON_INLINE float fold_neon(float32x4_t s[8]) {
  float32x4_t s0 = vaddq_f32(s[0], s[4]), s1 = vaddq_f32(s[1], s[5]); /* +16 */
  float32x4_t s2 = vaddq_f32(s[2], s[6]), s3 = vaddq_f32(s[3], s[7]);
  s0 = vaddq_f32(vaddq_f32(s0, s2), vaddq_f32(s1, s3)); /* +8, +4 */
  float32x2_t h = vadd_f32(vget_low_f32(s0), vget_high_f32(s0));
  return vget_lane_f32(h, 0) + vget_lane_f32(h, 1);
}

NEON_INLINE float sum_neon(int term, const float *a, const float *b, size_t n) {
  float32x4_t s[8];
  UNROLL_NEON
  for (size_t j = 0; j < 8; j++) s[j] = vdupq_n_f32(0);
  size_t i = 0;
  for (; n - i >= 32; i += 32) add_lanes_neon(term, s, a + i, b + i);
  if (i < n) {
    float a_rest[32] = {0}, b_rest[32] = {0};
    memcpy(a_rest, (const char *)a + 4 * i, 4 * (n - i));
    memcpy(b_rest, (const char *)b + 4 * i, 4 * (n - i));
    add_lanes_neon(term, s, a_rest, b_rest);
  }
  return fold_neon(s);
}

static float dot_f32_neon(const float *a, const float *b, size_t n) { return sum_neon(DV_TERM_DOT, a, b, n); }

static float l2sq_f32_neon(const float *a, const float *b, size_t n) { return sum_neon(DV_TERM_L2SQ, a, b, n); }

static float l1_f32_neon(const float *a, const float *b, size_t n) { return sum_neon(DV_TERM_L1, a, b, n); }

NEON_INLINE void add_both_lanes_neon(float32x4_t d[8], float32x4_t s[8], const float *a, const float *b) {
  UNROLL_NEON
  for (size_t j = 0; j < 8; j++) {
    float32x4_t x = load_f32_neon(b + 4 * j);
    d[j] = vaddq_f32(d[j], vmulq_f32(load_f32_neon(a + 4 * j), x));
    s[j] = vaddq_f32(s[j], vmulq_f32(x, x));
  }
}

static void dot_norm_f32_neon(const float *a, const float *b, size_t n, float out[2]) {
  float32x4_t d[8], s[8];
  UNROLL_NEON
  for (size_t j = 0; j < 8; j++) d[j] = s[j] = vdupq_n_f32(0);
  size_t i = 0;
  for (; n - i >= 32; i += 32) add_both_lanes_neon(d, s, a + i, b + i);
  if (i < n) {
    float a_rest[32] = {0}, b_rest[32] = {0};
    memcpy(a_rest, (const char *)a + 4 * i, 4 * (n - i));
    memcpy(b_rest, (const char *)b + 4 * i, 4 * (n - i));
    add_both_lanes_neon(d, s, a_rest, b_rest);
  }
  out[0] = fold_neon(d);
  out[1] = fold_neon(s);
}

/* ---- sums of bytes ----------------------------------------------------------------------------------------------- */

/* acc + products. Two products fit 16 bits, 2*127*127 < 32768, because no code is -128. */
NEON_INLINE int32x4_t add_products_neon(int32x4_t acc, int8x16_t q, int8x16_t c) {
#if defined(__ARM_FEATURE_DOTPROD)
  return vdotq_s32(acc, q, c);
#else
  int16x8_t pairs = vmull_s8(vget_low_s8(q), vget_low_s8(c));
  return vpadalq_s16(acc, vmlal_high_s8(pairs, q, c));
#endif
}

/* The n % 16 bytes at p and zeros. */
NEON_INLINE int8x16_t load_rest_neon(const int8_t *p, size_t rest) {
  int8_t copy[16] = {0};
  memcpy(copy, p, rest);
  return vld1q_s8(copy);
}

static int32_t dot_i8_neon(const int8_t *a, const int8_t *b, size_t n) {
  int32x4_t s0 = vdupq_n_s32(0), s1 = s0;
  size_t i = 0;
  for (; n - i >= 32; i += 32) {
    s0 = add_products_neon(s0, vld1q_s8(b + i), vld1q_s8(a + i));
    s1 = add_products_neon(s1, vld1q_s8(b + i + 16), vld1q_s8(a + i + 16));
  }
  if (n - i >= 16) {
    s0 = add_products_neon(s0, vld1q_s8(b + i), vld1q_s8(a + i));
    i += 16;
  }
  if (i < n) s1 = add_products_neon(s1, load_rest_neon(b + i, n - i), load_rest_neon(a + i, n - i));
  return vaddvq_s32(vaddq_s32(s0, s1));
}

/* ---- sums over packed codes -------------------------------------------------------------------------------------- */

NEON_INLINE int8x16_t code_of_neon(uint8x16_t plus_128) {
  return vreinterpretq_s8_u8(veorq_u8(plus_128, vdupq_n_u8(128)));
}

NEON_INLINE void store_rows_sums_neon(const int32x4_t *s, size_t n, int32_t *out) {
  if (n == 1) {
    *out = vaddvq_s32(s[0]);
  } else {
    vst1q_s32(out, vpaddq_s32(vpaddq_s32(s[0], s[1]), vpaddq_s32(s[2], s[3])));
  }
}

/* Rows share the loads of the query. */
NEON_INLINE void code_rows_neon(const uint8_t *const *c, size_t n, size_t half, const int8_t *query, int32_t *out) {
  int32x4_t s[4];
  UNROLL_NEON
  for (size_t j = 0; j < n; j++) s[j] = vdupq_n_s32(0);
  for (size_t i = 0; i < half; i += 16) {
    int8x16_t a = vld1q_s8(query + i), b = vld1q_s8(query + half + i);
    UNROLL_NEON
    for (size_t j = 0; j < n; j++) {
      uint8x16_t high = vld1q_u8(c[j] + i), low = vld1q_u8(c[j] + dv_code_to_low(half) + i);
      s[j] = add_products_neon(s[j], a, code_of_neon(vsliq_n_u8(low, high, 4)));
      s[j] = add_products_neon(s[j], b, code_of_neon(vsriq_n_u8(high, low, 4)));
    }
  }
  store_rows_sums_neon(s, n, out);
}

NEON_INLINE void short_rows_neon(const uint8_t *const *c, size_t n, size_t half, const int8_t *query, int32_t *out) {
  int32x4_t s[4];
  UNROLL_NEON
  for (size_t j = 0; j < n; j++) s[j] = vdupq_n_s32(0);
  for (size_t i = 0; i < 2 * half; i += 16) {
    int8x16_t q = vld1q_s8(query + i);
    UNROLL_NEON
    for (size_t j = 0; j < n; j++) s[j] = add_products_neon(s[j], q, vld1q_s8((const int8_t *)c[j] + i));
  }
  store_rows_sums_neon(s, n, out);
}

NEON_INLINE void high_rows_neon(const uint8_t *const *c, size_t n, size_t half, const int8_t *query, int32_t *out) {
  int32x4_t s[4];
  UNROLL_NEON
  for (size_t j = 0; j < n; j++) s[j] = vdupq_n_s32(0);
  for (size_t i = 0; i < half; i += 16) {
    int8x16_t a = vld1q_s8(query + i), b = vld1q_s8(query + half + i);
    UNROLL_NEON
    for (size_t j = 0; j < n; j++) {
      uint8x16_t high = vld1q_u8(c[j] + i);
      s[j] = add_products_neon(s[j], a, vreinterpretq_s8_u8(vandq_u8(high, vdupq_n_u8(15))));
      s[j] = add_products_neon(s[j], b, vreinterpretq_s8_u8(vshrq_n_u8(high, 4)));
    }
  }
  UNROLL_NEON
  for (size_t j = 0; j < n; j++) s[j] = vshlq_n_s32(s[j], 4);
  store_rows_sums_neon(s, n, out);
}

/* Codes with halves are put together before they are multiplied: no offset comes off their sums, either. */
static void scan_code_neon(const uint8_t *codes, size_t stride, size_t first, size_t n_rows, const int8_t *query,
                           int32_t sum, int32_t *out) {
  (void)sum;
  dv_sum_codes(code_rows_neon, 0, short_rows_neon, 0, codes, stride, NULL, first, n_rows, query, out);
}

static void gather_code_neon(const uint8_t *codes, size_t stride, const uint32_t *rows, size_t n_rows,
                             const int8_t *query, int32_t sum, int32_t *out) {
  (void)sum;
  dv_sum_codes(code_rows_neon, 0, short_rows_neon, 0, codes, stride, rows, 0, n_rows, query, out);
}

static void gather_high_neon(const uint8_t *codes, size_t stride, const uint32_t *rows, size_t n_rows,
                             const int8_t *query, int32_t sum, int32_t *out) {
  dv_sum_rows(high_rows_neon, false, codes, stride, rows, 0, n_rows, query, dv_high_offset(sum), out);
}

/* ---- sums over bits ---------------------------------------------------------------------------------------------- */

NEON_INLINE void store_rows_neon(uint16x8_t sums, bool is_first, uint32_t *out) {
  uint32x4_t low = vmovl_u16(vget_low_u16(sums)), high = vmovl_high_u16(sums);
  if (!is_first) {
    low = vaddq_u32(low, vld1q_u32(out));
    high = vaddq_u32(high, vld1q_u32(out + 4));
  }
  vst1q_u32(out, low);
  vst1q_u32(out + 4, high);
}

static void scan_bits_neon(const uint64_t *blocks, size_t n_blocks, size_t n_words, const uint8_t *table,
                           uint32_t *out) {
  const uint8_t *group = (const uint8_t *)blocks;
  if (n_words == 0) memset(out, 0, n_blocks * DV_BITS_ROWS * sizeof *out);
  for (size_t b = 0; b < n_blocks; b++, out += DV_BITS_ROWS) {
    const uint8_t *entry = table;
    for (size_t word = 0; word < n_words; word += DV_BITS_SPAN) {
      size_t n_quarters = 4 * (n_words - word < DV_BITS_SPAN ? n_words - word : DV_BITS_SPAN);
      uint16x8_t r0 = vdupq_n_u16(0), r8 = r0, r16 = r0, r24 = r0;
      for (; n_quarters > 0; n_quarters--, group += 64, entry += 64) {
        uint8x16_t s0 = vdupq_n_u8(0), s1 = s0; /* four entries of at most 63 fit a byte */
        for (size_t i = 0; i < 64; i += 16) {
          uint8x16_t x = vld1q_u8(group + i), t = vld1q_u8(entry + i);
          s0 = vaddq_u8(s0, vqtbl1q_u8(t, vandq_u8(x, vdupq_n_u8(15))));
          s1 = vaddq_u8(s1, vqtbl1q_u8(t, vshrq_n_u8(x, 4)));
        }
        r0 = vaddw_u8(r0, vget_low_u8(s0));
        r8 = vaddw_high_u8(r8, s0);
        r16 = vaddw_u8(r16, vget_low_u8(s1));
        r24 = vaddw_high_u8(r24, s1);
      }
      store_rows_neon(r0, word == 0, out);
      store_rows_neon(r8, word == 0, out + 8);
      store_rows_neon(r16, word == 0, out + 16);
      store_rows_neon(r24, word == 0, out + 24);
    }
  }
}

static size_t pick_bits_neon(const uint32_t *sums, const dv_bit_row *rows, size_t n, float per_sum, float base,
                             float limit, uint32_t *out) {
  size_t n_out = 0, r = 0;
  for (; n - r >= 4; r += 4) {
    float32x4x2_t pairs = vld2q_f32((const float *)(const void *)(rows + r));
    float32x4_t e = vcvtq_f32_s32(vreinterpretq_s32_u32(vld1q_u32(sums + r)));
    e = vaddq_f32(vmulq_f32(vdupq_n_f32(per_sum), e), vdupq_n_f32(base));
    e = vaddq_f32(pairs.val[1], vmulq_f32(pairs.val[0], e));
    uint16x4_t is_above = vmovn_u32(vcgtq_f32(e, vdupq_n_f32(limit)));
    uint64_t m = ~vget_lane_u64(vreinterpret_u64_u16(is_above), 0); /* 16 bits a row */
    for (m &= 0x0001000100010001u; m; m &= m - 1) out[n_out++] = (uint32_t)r + (uint32_t)(__builtin_ctzll(m) / 16);
  }
  for (; r < n; r++)
    if (dv_pick_one(sums[r], &rows[r], per_sum, base, limit)) out[n_out++] = (uint32_t)r;
  return n_out;
}

/* ---- making codes ------------------------------------------------------------------------------------------------ */

/* The four lanes of doubles are two vectors. Zeros behind the end add nothing to a sum. */
typedef struct lanes_neon {
  float64x2_t low, high;
} lanes_neon;

NEON_INLINE float32x4_t load_four_neon(const float *v, size_t n) {
  if (n >= 4) return load_f32_neon(v);
  float four[4] = {0};
  memcpy(four, v, n * sizeof *v);
  return vld1q_f32(four);
}

NEON_INLINE lanes_neon widen_neon(float32x4_t four) {
  lanes_neon x = {vcvt_f64_f32(vget_low_f32(four)), vcvt_high_f64_f32(four)};
  return x;
}

NEON_INLINE void add_product_neon(lanes_neon *sum, lanes_neon a, lanes_neon b) {
  sum->low = vaddq_f64(sum->low, vmulq_f64(a.low, b.low));
  sum->high = vaddq_f64(sum->high, vmulq_f64(a.high, b.high));
}

NEON_INLINE lanes_neon load_neon(const double lane[4]) {
  lanes_neon sum = {vld1q_f64(lane), vld1q_f64(lane + 2)};
  return sum;
}

NEON_INLINE void store_neon(double lane[4], lanes_neon sum) {
  vst1q_f64(lane, sum.low);
  vst1q_f64(lane + 2, sum.high);
}

static float max_abs_f32_neon(const float *v, size_t n) {
  float32x4_t m = vdupq_n_f32(0);
  for (size_t i = 0; i < n; i += 4) m = vmaxq_f32(m, vabsq_f32(load_four_neon(v + i, n - i)));
  return vmaxvq_f32(m);
}

static void sum_sq_f64_neon(const float *v, size_t n, double lane[4]) {
  lanes_neon sum = {vdupq_n_f64(0), vdupq_n_f64(0)};
  for (size_t i = 0; i < n; i += 4) {
    lanes_neon x = widen_neon(load_four_neon(v + i, n - i));
    add_product_neon(&sum, x, x);
  }
  store_neon(lane, sum);
}

/* Four codes; what is left of their values goes to *sum. */
NEON_INLINE uint32_t encode_rows_neon(float32x4_t four, float64x2_t inverse, float64x2_t scale, float64x2_t to_code,
                                      lanes_neon *sum) {
  lanes_neon x = widen_neon(four), left;
  float64x2_t low = vrndnq_f64(vmulq_f64(x.low, to_code)), high = vrndnq_f64(vmulq_f64(x.high, to_code));
  left.low = vsubq_f64(vmulq_f64(x.low, inverse), vmulq_f64(scale, low));
  left.high = vsubq_f64(vmulq_f64(x.high, inverse), vmulq_f64(scale, high));
  add_product_neon(sum, left, left);
  int32x4_t c = vcombine_s32(vmovn_s64(vcvtq_s64_f64(low)), vmovn_s64(vcvtq_s64_f64(high)));
  int16x4_t half = vmovn_s32(c);
  return vget_lane_u32(vreinterpret_u32_s8(vmovn_s16(vcombine_s16(half, half))), 0);
}

static void encode_i8_neon(const float *v, size_t n, double inverse, double scale, double to_code, int8_t *code,
                           double lane[4]) {
  const float64x2_t unit = vdupq_n_f64(inverse), step = vdupq_n_f64(scale), by = vdupq_n_f64(to_code);
  lanes_neon sum = {vdupq_n_f64(0), vdupq_n_f64(0)};
  size_t i = 0;
  for (; n - i >= 4; i += 4) {
    uint32_t four = encode_rows_neon(load_f32_neon(v + i), unit, step, by, &sum);
    memcpy(code + i, &four, 4);
  }
  if (i < n) {
    uint32_t four = encode_rows_neon(load_four_neon(v + i, n - i), unit, step, by, &sum);
    memcpy(code + i, &four, n - i);
  }
  store_neon(lane, sum);
}

NEON_INLINE unsigned signs_of_four_neon(uint32_t four, float64x2_t scale, lanes_neon c, lanes_neon sums[3]) {
  const float64x2_t zero = vdupq_n_f64(0);
  int32x4_t wide = vmovl_s16(vget_low_s16(vmovl_s8(vreinterpret_s8_u32(vdup_n_u32(four)))));
  lanes_neon x, y;
  x.low = vmulq_f64(scale, vcvtq_f64_s64(vmovl_s32(vget_low_s32(wide))));
  x.high = vmulq_f64(scale, vcvtq_f64_s64(vmovl_s32(vget_high_s32(wide))));
  y.low = vsubq_f64(x.low, c.low);
  y.high = vsubq_f64(x.high, c.high);
  sums[0].low = vaddq_f64(sums[0].low, vabsq_f64(y.low));
  sums[0].high = vaddq_f64(sums[0].high, vabsq_f64(y.high));
  add_product_neon(&sums[1], y, y);
  add_product_neon(&sums[2], x, c);
  uint64x2_t low = vcgeq_f64(y.low, zero), high = vcgeq_f64(y.high, zero);
  return (unsigned)((vgetq_lane_u64(low, 0) & 1u) | (vgetq_lane_u64(low, 1) & 2u) | (vgetq_lane_u64(high, 0) & 4u) |
                    (vgetq_lane_u64(high, 1) & 8u));
}

static void signs_i8_neon(const int8_t *code, size_t n, double scale, const float *center, uint8_t *signs,
                          double sums[12]) {
  const float64x2_t step = vdupq_n_f64(scale);
  lanes_neon s[3] = {load_neon(sums), load_neon(sums + 4), load_neon(sums + 8)};
  lanes_neon c = {vdupq_n_f64(0), vdupq_n_f64(0)};
  size_t i = 0;
  uint32_t four = 0;
  for (; n - i >= 4; i += 4) {
    memcpy(&four, code + i, 4);
    if (center) c = widen_neon(load_f32_neon(center + i));
    signs[i / 4] = (uint8_t)signs_of_four_neon(four, step, c, s);
  }
  if (i < n) {
    four = 0;
    memcpy(&four, code + i, n - i);
    if (center) c = widen_neon(load_four_neon(center + i, n - i));
    signs[i / 4] = (uint8_t)(signs_of_four_neon(four, step, c, s) & ((1u << (n - i)) - 1));
  }
  for (size_t j = 0; j < 3; j++) store_neon(sums + 4 * j, s[j]);
}

const dv_kernels dv_kernels_neon = {
    "neon",         dot_f32_neon,     l2sq_f32_neon,    l1_f32_neon,      dot_norm_f32_neon,
    dot_i8_neon,    scan_code_neon,   gather_code_neon, gather_high_neon, scan_bits_neon,
    pick_bits_neon, max_abs_f32_neon, sum_sq_f64_neon,  encode_i8_neon,   signs_i8_neon,
};

DV_FP_STRICT_END
#else
typedef int dv_neon_is_not_here; /* ISO C wants a translation unit to declare something */
#endif
