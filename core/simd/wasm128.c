/*
 * wasm128.c: kernels for WebAssembly with SIMD128. Same functions, same order, same bits as scalar.c.
 *
 * A lane of the definition is a float of eight 4-wide accumulators. Ends of arrays go through a zero-padded copy.
 *
 * Compiled with relaxed SIMD, sums of bytes take its dot product, and nothing else of it: relaxed instructions may give
 * other results on other machines, this one only if a byte of its second operand has the highest bit. Here that operand is
 * |query|, at most 127, and the query's signs go to the codes; or halves of codes.
 */
#include "dv_simd.h"

#if defined(DV_SIMD_WASM128)
DV_FP_STRICT_BEGIN

#include <wasm_simd128.h>

#define WASM128_INLINE static inline __attribute__((always_inline))

/* ---- sums of floats ---------------------------------------------------------------------------------------------- */

WASM128_INLINE v128_t term_wasm128(int term, v128_t a, v128_t b) {
  if (term == DV_TERM_DOT) return wasm_f32x4_mul(a, b);
  v128_t d = wasm_f32x4_sub(a, b);
  return term == DV_TERM_L2SQ ? wasm_f32x4_mul(d, d) : wasm_f32x4_abs(d);
}

/* The accumulators belong in registers, whatever the optimisation level unrolls by itself. */
#define UNROLL_WASM128 _Pragma("GCC unroll 8")

WASM128_INLINE void add_lanes_wasm128(int term, v128_t s[8], const float *a, const float *b) {
  UNROLL_WASM128
  for (size_t j = 0; j < 8; j++)
    s[j] = wasm_f32x4_add(s[j], term_wasm128(term, wasm_v128_load(a + 4 * j), wasm_v128_load(b + 4 * j)));
}

WASM128_INLINE float fold_wasm128(v128_t s[8]) {
  v128_t s0 = wasm_f32x4_add(s[0], s[4]), s1 = wasm_f32x4_add(s[1], s[5]); /* +16 */
  v128_t s2 = wasm_f32x4_add(s[2], s[6]), s3 = wasm_f32x4_add(s[3], s[7]);
  s0 = wasm_f32x4_add(wasm_f32x4_add(s0, s2), wasm_f32x4_add(s1, s3)); /* +8, +4 */
  v128_t h = wasm_f32x4_add(s0, wasm_i32x4_shuffle(s0, s0, 2, 3, 0, 1));
  return wasm_f32x4_extract_lane(h, 0) + wasm_f32x4_extract_lane(h, 1);
}

WASM128_INLINE float sum_wasm128(int term, const float *a, const float *b, size_t n) {
  v128_t s[8];
  UNROLL_WASM128
  for (size_t j = 0; j < 8; j++) s[j] = wasm_f32x4_splat(0);
  size_t i = 0;
  for (; n - i >= 32; i += 32) add_lanes_wasm128(term, s, a + i, b + i);
  if (i < n) {
    float a_rest[32] = {0}, b_rest[32] = {0};
    memcpy(a_rest, (const char *)a + 4 * i, 4 * (n - i));
    memcpy(b_rest, (const char *)b + 4 * i, 4 * (n - i));
    add_lanes_wasm128(term, s, a_rest, b_rest);
  }
  return fold_wasm128(s);
}

static float dot_f32_wasm128(const float *a, const float *b, size_t n) { return sum_wasm128(DV_TERM_DOT, a, b, n); }

static float l2sq_f32_wasm128(const float *a, const float *b, size_t n) { return sum_wasm128(DV_TERM_L2SQ, a, b, n); }

static float l1_f32_wasm128(const float *a, const float *b, size_t n) { return sum_wasm128(DV_TERM_L1, a, b, n); }

/* Two passes: sixteen accumulators would not fit the sixteen registers of x86. */
static void dot_norm_f32_wasm128(const float *a, const float *b, size_t n, float out[2]) {
  out[0] = sum_wasm128(DV_TERM_DOT, a, b, n);
  out[1] = sum_wasm128(DV_TERM_DOT, b, b, n);
}

/* ---- sums of bytes ----------------------------------------------------------------------------------------------- */

static int32_t fold_i32_wasm128(v128_t s) {
  s = wasm_i32x4_add(s, wasm_i32x4_shuffle(s, s, 2, 3, 0, 1));
  return wasm_i32x4_extract_lane(wasm_i32x4_add(s, wasm_i32x4_shuffle(s, s, 1, 0, 3, 2)), 0);
}

/* 16 bytes of the query, as products_wasm128 wants them. */
typedef struct query_wasm128 {
  v128_t a, b;
} query_wasm128;

#if defined(__wasm_relaxed_simd__)
#define NAME_WASM128 "wasm128relaxed"

/* |q|, and a mask of where q is negative. */
WASM128_INLINE query_wasm128 load_query_wasm128(const int8_t *q) {
  v128_t bytes = wasm_v128_load(q);
  return (query_wasm128){wasm_i8x16_abs(bytes), wasm_i8x16_shr(bytes, 7)};
}

/* sum + the 16 products of q and c, as four sums. -c is ~c + 1, and never leaves a byte. */
WASM128_INLINE v128_t products_wasm128(v128_t sum, query_wasm128 q, v128_t c) {
  v128_t signed_c = wasm_i8x16_sub(wasm_v128_xor(c, q.b), q.b);
  return wasm_i32x4_relaxed_dot_i8x16_i7x16_add(signed_c, q.a, sum);
}

#else
#define NAME_WASM128 "wasm128"

/* Widened to 16 bits. */
WASM128_INLINE query_wasm128 load_query_wasm128(const int8_t *q) {
  return (query_wasm128){wasm_i16x8_load8x8(q), wasm_i16x8_load8x8(q + 8)};
}

WASM128_INLINE v128_t products_wasm128(v128_t sum, query_wasm128 q, v128_t c) {
  sum = wasm_i32x4_add(sum, wasm_i32x4_dot_i16x8(q.a, wasm_i16x8_extend_low_i8x16(c)));
  return wasm_i32x4_add(sum, wasm_i32x4_dot_i16x8(q.b, wasm_i16x8_extend_high_i8x16(c)));
}

#endif

static int32_t dot_i8_wasm128(const int8_t *a, const int8_t *b, size_t n) {
  v128_t s0 = wasm_i32x4_splat(0), s1 = s0;
  size_t i = 0;
  for (; n - i >= 32; i += 32) {
    s0 = products_wasm128(s0, load_query_wasm128(b + i), wasm_v128_load(a + i));
    s1 = products_wasm128(s1, load_query_wasm128(b + i + 16), wasm_v128_load(a + i + 16));
  }
  for (; n - i >= 16; i += 16) s0 = products_wasm128(s0, load_query_wasm128(b + i), wasm_v128_load(a + i));
  if (i < n) {
    int8_t a_rest[16] = {0}, b_rest[16] = {0};
    memcpy(a_rest, a + i, n - i);
    memcpy(b_rest, b + i, n - i);
    s1 = products_wasm128(s1, load_query_wasm128(b_rest), wasm_v128_load(a_rest));
  }
  return fold_i32_wasm128(wasm_i32x4_add(s0, s1));
}

/* ---- sums over packed codes -------------------------------------------------------------------------------------- */

WASM128_INLINE void store_rows_sums_wasm128(const v128_t *s, size_t n, int32_t *out) {
  if (n == 1) {
    *out = fold_i32_wasm128(s[0]);
    return;
  }
  v128_t t0 = wasm_i32x4_add(wasm_i32x4_shuffle(s[0], s[1], 0, 4, 1, 5), wasm_i32x4_shuffle(s[0], s[1], 2, 6, 3, 7));
  v128_t t2 = wasm_i32x4_add(wasm_i32x4_shuffle(s[2], s[3], 0, 4, 1, 5), wasm_i32x4_shuffle(s[2], s[3], 2, 6, 3, 7));
  wasm_v128_store(out, wasm_i32x4_add(wasm_i64x2_shuffle(t0, t2, 0, 2), wasm_i64x2_shuffle(t0, t2, 1, 3)));
}

/* The sums of those bits of rows' bytes. Rows share the loads of the query. */
WASM128_INLINE void byte_rows_wasm128(const uint8_t *const *c, size_t n, size_t half, const int8_t *query, v128_t bits,
                                      int32_t *out) {
  v128_t s[4];
  UNROLL_WASM128
  for (size_t j = 0; j < n; j++) s[j] = wasm_i32x4_splat(0);
  for (size_t i = 0; i < 2 * half; i += 16) {
    query_wasm128 q = load_query_wasm128(query + i);
    UNROLL_WASM128
    for (size_t j = 0; j < n; j++) s[j] = products_wasm128(s[j], q, wasm_v128_and(wasm_v128_load(c[j] + i), bits));
  }
  store_rows_sums_wasm128(s, n, out);
}

WASM128_INLINE void short_rows_wasm128(const uint8_t *const *c, size_t n, size_t half, const int8_t *query,
                                       int32_t *out) {
  byte_rows_wasm128(c, n, half, query, wasm_i8x16_splat(-1), out);
}

#if DV_CODE_HALVES
/* The codes of 16 dimensions from bytes that hold their high and low halves as the first of two, and of 16 for which they
 * are the second: the high half of each byte of `low` changes places with the low half of the one of `high`. */
typedef struct codes_wasm128 {
  v128_t first, second;
} codes_wasm128;

WASM128_INLINE codes_wasm128 join_wasm128(v128_t high, v128_t low) {
  high = wasm_v128_xor(high, wasm_i8x16_splat(-0x78)); /* 0x88: of both codes, what is 128 too much */
  v128_t first = wasm_v128_bitselect(low, wasm_i16x8_shl(high, 4), wasm_i8x16_splat(15));
  return (codes_wasm128){first, wasm_v128_xor(high, wasm_u16x8_shr(wasm_v128_xor(low, first), 4))};
}

WASM128_INLINE void code_rows_wasm128(const uint8_t *const *c, size_t n, size_t half, const int8_t *query,
                                      int32_t *out) {
  v128_t s[4];
  UNROLL_WASM128
  for (size_t j = 0; j < n; j++) s[j] = wasm_i32x4_splat(0);
  for (size_t i = 0; i < half; i += 16) {
    query_wasm128 a = load_query_wasm128(query + i), b = load_query_wasm128(query + half + i);
    UNROLL_WASM128
    for (size_t j = 0; j < n; j++) {
      codes_wasm128 codes = join_wasm128(wasm_v128_load(c[j] + i), wasm_v128_load(c[j] + dv_code_to_low(half) + i));
      s[j] = products_wasm128(s[j], a, codes.first);
      s[j] = products_wasm128(s[j], b, codes.second);
    }
  }
  store_rows_sums_wasm128(s, n, out);
}

WASM128_INLINE void high_rows_wasm128(const uint8_t *const *c, size_t n, size_t half, const int8_t *query,
                                      int32_t *out) {
  const v128_t nibble = wasm_i8x16_splat(15);
  v128_t s[4];
  UNROLL_WASM128
  for (size_t j = 0; j < n; j++) s[j] = wasm_i32x4_splat(0);
  for (size_t i = 0; i < half; i += 16) {
    v128_t a = wasm_v128_load(query + i), b = wasm_v128_load(query + half + i);
    UNROLL_WASM128
    for (size_t j = 0; j < n; j++) {
      v128_t x = wasm_v128_load(c[j] + i);
      s[j] = wasm_i32x4_relaxed_dot_i8x16_i7x16_add(a, wasm_v128_and(x, nibble), s[j]);
      s[j] = wasm_i32x4_relaxed_dot_i8x16_i7x16_add(b, wasm_v128_and(wasm_u16x8_shr(x, 4), nibble), s[j]);
    }
  }
  UNROLL_WASM128
  for (size_t j = 0; j < n; j++) s[j] = wasm_i32x4_shl(s[j], 4);
  store_rows_sums_wasm128(s, n, out);
}

static int32_t high_offset_wasm128(int32_t sum) { return dv_high_offset(sum); }
#else
#define code_rows_wasm128 NULL /* no code has halves */

/* Of codes that are bytes: their upper four bits, which are 128 less than those of code + 128. */
WASM128_INLINE void high_rows_wasm128(const uint8_t *const *c, size_t n, size_t half, const int8_t *query,
                                      int32_t *out) {
  byte_rows_wasm128(c, n, half, query, wasm_i8x16_splat(-16), out);
}

static int32_t high_offset_wasm128(int32_t sum) { return dv_high_offset(sum) - 128 * sum; }
#endif

static void scan_code_wasm128(const uint8_t *codes, size_t stride, size_t first, size_t n_rows, const int8_t *query,
                              int32_t sum, int32_t *out) {
  (void)sum;
  dv_sum_codes(code_rows_wasm128, 0, short_rows_wasm128, 0, codes, stride, NULL, first, n_rows, query, out);
}

static void gather_code_wasm128(const uint8_t *codes, size_t stride, const uint32_t *rows, size_t n_rows,
                                const int8_t *query, int32_t sum, int32_t *out) {
  (void)sum;
  dv_sum_codes(code_rows_wasm128, 0, short_rows_wasm128, 0, codes, stride, rows, 0, n_rows, query, out);
}

static void gather_high_wasm128(const uint8_t *codes, size_t stride, const uint32_t *rows, size_t n_rows,
                                const int8_t *query, int32_t sum, int32_t *out) {
  dv_sum_rows(high_rows_wasm128, false, codes, stride, rows, 0, n_rows, query, high_offset_wasm128(sum), out);
}

/* ---- sums over bits ---------------------------------------------------------------------------------------------- */

/* Sums of 16 rows from the even and the odd bytes' sums. */
WASM128_INLINE void store_rows_wasm128(v128_t even, v128_t odd, bool is_first, uint32_t *out) {
  v128_t low = wasm_i16x8_shuffle(even, odd, 0, 8, 1, 9, 2, 10, 3, 11);
  v128_t high = wasm_i16x8_shuffle(even, odd, 4, 12, 5, 13, 6, 14, 7, 15);
  v128_t rows[4] = {wasm_u32x4_extend_low_u16x8(low), wasm_u32x4_extend_high_u16x8(low),
                    wasm_u32x4_extend_low_u16x8(high), wasm_u32x4_extend_high_u16x8(high)};
  for (size_t j = 0; j < 4; j++) {
    if (!is_first) rows[j] = wasm_i32x4_add(rows[j], wasm_v128_load(out + 4 * j));
    wasm_v128_store(out + 4 * j, rows[j]);
  }
}

static void scan_bits_wasm128(const uint64_t *blocks, size_t n_blocks, size_t n_words, const uint8_t *table,
                              uint32_t *out) {
  const v128_t nibble = wasm_i8x16_splat(15), byte = wasm_i16x8_splat(255), zero = wasm_i8x16_splat(0);
  const uint8_t *group = (const uint8_t *)blocks;
  if (n_words == 0) memset(out, 0, n_blocks * DV_BITS_ROWS * sizeof *out);
  for (size_t b = 0; b < n_blocks; b++, out += DV_BITS_ROWS) {
    const uint8_t *entry = table;
    for (size_t word = 0; word < n_words; word += DV_BITS_SPAN) {
      size_t n_quarters = 4 * (n_words - word < DV_BITS_SPAN ? n_words - word : DV_BITS_SPAN);
      v128_t even0 = zero, odd0 = zero, even1 = zero, odd1 = zero;
      for (; n_quarters > 0; n_quarters--, group += 64, entry += 64) {
        v128_t s0 = zero, s1 = zero; /* four entries of at most 63 fit a byte */
        for (size_t i = 0; i < 64; i += 16) {
          v128_t x = wasm_v128_load(group + i), t = wasm_v128_load(entry + i);
          s0 = wasm_i8x16_add(s0, wasm_i8x16_swizzle(t, wasm_v128_and(x, nibble)));
          s1 = wasm_i8x16_add(s1, wasm_i8x16_swizzle(t, wasm_v128_and(wasm_u16x8_shr(x, 4), nibble)));
        }
        even0 = wasm_i16x8_add(even0, wasm_v128_and(s0, byte));
        odd0 = wasm_i16x8_add(odd0, wasm_u16x8_shr(s0, 8));
        even1 = wasm_i16x8_add(even1, wasm_v128_and(s1, byte));
        odd1 = wasm_i16x8_add(odd1, wasm_u16x8_shr(s1, 8));
      }
      store_rows_wasm128(even0, odd0, word == 0, out);
      store_rows_wasm128(even1, odd1, word == 0, out + 16);
    }
  }
}

static size_t pick_bits_wasm128(const uint32_t *sums, const dv_bit_row *rows, size_t n, float per_sum, float base,
                                float limit, uint32_t *out) {
  const v128_t step = wasm_f32x4_splat(per_sum), start = wasm_f32x4_splat(base), most = wasm_f32x4_splat(limit);
  size_t n_out = 0, r = 0;
  for (; n - r >= 4; r += 4) {
    v128_t p0 = wasm_v128_load(rows + r), p1 = wasm_v128_load(rows + r + 2);
    v128_t factor = wasm_i32x4_shuffle(p0, p1, 0, 2, 4, 6), offset = wasm_i32x4_shuffle(p0, p1, 1, 3, 5, 7);
    v128_t e = wasm_f32x4_add(wasm_f32x4_mul(step, wasm_f32x4_convert_i32x4(wasm_v128_load(sums + r))), start);
    e = wasm_f32x4_add(offset, wasm_f32x4_mul(factor, e));
    for (unsigned m = ~wasm_i32x4_bitmask(wasm_f32x4_gt(e, most)) & 15u; m; m &= m - 1)
      out[n_out++] = (uint32_t)r + (uint32_t)__builtin_ctz(m);
  }
  for (; r < n; r++)
    if (dv_pick_one(sums[r], &rows[r], per_sum, base, limit)) out[n_out++] = (uint32_t)r;
  return n_out;
}

/* ---- making codes ------------------------------------------------------------------------------------------------ */

/* The four lanes of doubles are two vectors. Zeros behind the end add nothing to a sum. */
typedef struct lanes_wasm128 {
  v128_t low, high;
} lanes_wasm128;

WASM128_INLINE v128_t load_four_wasm128(const float *v, size_t n) {
  if (n >= 4) return wasm_v128_load(v);
  float four[4] = {0};
  memcpy(four, v, n * sizeof *v);
  return wasm_v128_load(four);
}

WASM128_INLINE lanes_wasm128 widen_wasm128(v128_t four) {
  lanes_wasm128 x = {wasm_f64x2_promote_low_f32x4(four),
                     wasm_f64x2_promote_low_f32x4(wasm_i32x4_shuffle(four, four, 2, 3, 0, 1))};
  return x;
}

WASM128_INLINE void add_product_wasm128(lanes_wasm128 *sum, lanes_wasm128 a, lanes_wasm128 b) {
  sum->low = wasm_f64x2_add(sum->low, wasm_f64x2_mul(a.low, b.low));
  sum->high = wasm_f64x2_add(sum->high, wasm_f64x2_mul(a.high, b.high));
}

WASM128_INLINE lanes_wasm128 load_wasm128(const double lane[4]) {
  lanes_wasm128 sum = {wasm_v128_load(lane), wasm_v128_load(lane + 2)};
  return sum;
}

WASM128_INLINE void store_wasm128(double lane[4], lanes_wasm128 sum) {
  wasm_v128_store(lane, sum.low);
  wasm_v128_store(lane + 2, sum.high);
}

static float max_abs_f32_wasm128(const float *v, size_t n) {
  v128_t m = wasm_f32x4_splat(0);
  for (size_t i = 0; i < n; i += 4) m = wasm_f32x4_pmax(m, wasm_f32x4_abs(load_four_wasm128(v + i, n - i)));
  m = wasm_f32x4_pmax(m, wasm_i32x4_shuffle(m, m, 2, 3, 0, 1));
  float a = wasm_f32x4_extract_lane(m, 0), b = wasm_f32x4_extract_lane(m, 1);
  return a > b ? a : b;
}

static void sum_sq_f64_wasm128(const float *v, size_t n, double lane[4]) {
  lanes_wasm128 sum = {wasm_f64x2_splat(0), wasm_f64x2_splat(0)};
  for (size_t i = 0; i < n; i += 4) {
    lanes_wasm128 x = widen_wasm128(load_four_wasm128(v + i, n - i));
    add_product_wasm128(&sum, x, x);
  }
  store_wasm128(lane, sum);
}

/* Four codes, in the lowest four bytes; what is left of their values goes to *sum. */
WASM128_INLINE v128_t encode_rows_wasm128(v128_t four, v128_t inverse, v128_t scale, v128_t to_code,
                                          lanes_wasm128 *sum) {
  lanes_wasm128 x = widen_wasm128(four), left;
  v128_t low = wasm_f64x2_nearest(wasm_f64x2_mul(x.low, to_code));
  v128_t high = wasm_f64x2_nearest(wasm_f64x2_mul(x.high, to_code));
  left.low = wasm_f64x2_sub(wasm_f64x2_mul(x.low, inverse), wasm_f64x2_mul(scale, low));
  left.high = wasm_f64x2_sub(wasm_f64x2_mul(x.high, inverse), wasm_f64x2_mul(scale, high));
  add_product_wasm128(sum, left, left);
  low = wasm_i32x4_trunc_sat_f64x2_zero(low);
  return wasm_i8x16_shuffle(low, wasm_i32x4_trunc_sat_f64x2_zero(high), 0, 4, 16, 20, 0, 4, 16, 20, 0, 4, 16, 20, 0, 4,
                            16, 20);
}

static void encode_i8_wasm128(const float *v, size_t n, double inverse, double scale, double to_code, int8_t *code,
                              double lane[4]) {
  const v128_t unit = wasm_f64x2_splat(inverse), step = wasm_f64x2_splat(scale), by = wasm_f64x2_splat(to_code);
  lanes_wasm128 sum = {wasm_f64x2_splat(0), wasm_f64x2_splat(0)};
  size_t i = 0;
  for (; n - i >= 4; i += 4)
    wasm_v128_store32_lane(code + i, encode_rows_wasm128(wasm_v128_load(v + i), unit, step, by, &sum), 0);
  if (i < n) {
    int32_t four =
        wasm_i32x4_extract_lane(encode_rows_wasm128(load_four_wasm128(v + i, n - i), unit, step, by, &sum), 0);
    memcpy(code + i, &four, n - i);
  }
  store_wasm128(lane, sum);
}

WASM128_INLINE unsigned signs_of_four_wasm128(v128_t four, v128_t scale, lanes_wasm128 c, lanes_wasm128 sums[3]) {
  const v128_t zero = wasm_f64x2_splat(0);
  lanes_wasm128 x, y;
  four = wasm_i32x4_extend_low_i16x8(wasm_i16x8_extend_low_i8x16(four));
  x.low = wasm_f64x2_mul(scale, wasm_f64x2_convert_low_i32x4(four));
  x.high = wasm_f64x2_mul(scale, wasm_f64x2_convert_low_i32x4(wasm_i32x4_shuffle(four, four, 2, 3, 0, 1)));
  y.low = wasm_f64x2_sub(x.low, c.low);
  y.high = wasm_f64x2_sub(x.high, c.high);
  sums[0].low = wasm_f64x2_add(sums[0].low, wasm_f64x2_abs(y.low));
  sums[0].high = wasm_f64x2_add(sums[0].high, wasm_f64x2_abs(y.high));
  add_product_wasm128(&sums[1], y, y);
  add_product_wasm128(&sums[2], x, c);
  return wasm_i64x2_bitmask(wasm_f64x2_ge(y.low, zero)) | wasm_i64x2_bitmask(wasm_f64x2_ge(y.high, zero)) << 2;
}

static void signs_i8_wasm128(const int8_t *code, size_t n, double scale, const float *center, uint8_t *signs,
                             double sums[12]) {
  const v128_t step = wasm_f64x2_splat(scale);
  lanes_wasm128 s[3] = {load_wasm128(sums), load_wasm128(sums + 4), load_wasm128(sums + 8)};
  lanes_wasm128 c = {wasm_f64x2_splat(0), wasm_f64x2_splat(0)};
  size_t i = 0;
  for (; n - i >= 4; i += 4) {
    if (center) c = widen_wasm128(wasm_v128_load(center + i));
    signs[i / 4] = (uint8_t)signs_of_four_wasm128(wasm_v128_load32_zero(code + i), step, c, s);
  }
  if (i < n) {
    int32_t four = 0;
    memcpy(&four, code + i, n - i);
    if (center) c = widen_wasm128(load_four_wasm128(center + i, n - i));
    signs[i / 4] = (uint8_t)(signs_of_four_wasm128(wasm_i32x4_splat(four), step, c, s) & ((1u << (n - i)) - 1));
  }
  for (size_t j = 0; j < 3; j++) store_wasm128(sums + 4 * j, s[j]);
}

const dv_kernels dv_kernels_wasm128 = {
    NAME_WASM128,      dot_f32_wasm128,     l2sq_f32_wasm128,    l1_f32_wasm128,      dot_norm_f32_wasm128,
    dot_i8_wasm128,    scan_code_wasm128,   gather_code_wasm128, gather_high_wasm128, scan_bits_wasm128,
    pick_bits_wasm128, max_abs_f32_wasm128, sum_sq_f64_wasm128,  encode_i8_wasm128,   signs_i8_wasm128,
};

DV_FP_STRICT_END
#else
typedef int dv_wasm128_is_not_here; /* ISO C wants a translation unit to declare something */
#endif
