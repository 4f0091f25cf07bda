/*
 * wasm128.c: kernels for WebAssembly with SIMD128. Same functions, same order, same bits as scalar.c.
 *
 * A lane of the definition is a float of eight 4-wide accumulators. WebAssembly has no FMA outside relaxed SIMD, which
 * is not used because its results depend on the machine. Ends of arrays go through a zero-padded copy.
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

/* The n % 8 bytes at p and zeros, widened to 16 bits. */
WASM128_INLINE v128_t load_rest_wasm128(const int8_t *p, size_t rest) {
  int8_t copy[8] = {0};
  memcpy(copy, p, rest);
  return wasm_i16x8_load8x8(copy);
}

static int32_t fold_i32_wasm128(v128_t s) {
  s = wasm_i32x4_add(s, wasm_i32x4_shuffle(s, s, 2, 3, 0, 1));
  return wasm_i32x4_extract_lane(wasm_i32x4_add(s, wasm_i32x4_shuffle(s, s, 1, 0, 3, 2)), 0);
}

WASM128_INLINE v128_t add_products_wasm128(v128_t acc, v128_t q, v128_t c) {
  return wasm_i32x4_add(acc, wasm_i32x4_dot_i16x8(q, c));
}

static int32_t dot_i8_wasm128(const int8_t *a, const int8_t *b, size_t n) {
  v128_t s0 = wasm_i32x4_splat(0), s1 = s0;
  size_t i = 0;
  for (; n - i >= 16; i += 16) {
    s0 = add_products_wasm128(s0, wasm_i16x8_load8x8(b + i), wasm_i16x8_load8x8(a + i));
    s1 = add_products_wasm128(s1, wasm_i16x8_load8x8(b + i + 8), wasm_i16x8_load8x8(a + i + 8));
  }
  if (n - i >= 8) {
    s0 = add_products_wasm128(s0, wasm_i16x8_load8x8(b + i), wasm_i16x8_load8x8(a + i));
    i += 8;
  }
  if (i < n) s1 = add_products_wasm128(s1, load_rest_wasm128(b + i, n - i), load_rest_wasm128(a + i, n - i));
  return fold_i32_wasm128(wasm_i32x4_add(s0, s1));
}

/* Four rows share the loads of the query. */
WASM128_INLINE void dot_four_wasm128(const int8_t *c0, const int8_t *c1, const int8_t *c2, const int8_t *c3,
                                     const int8_t *query, size_t n, int32_t *out) {
  v128_t s0 = wasm_i32x4_splat(0), s1 = s0, s2 = s0, s3 = s0;
  size_t i = 0;
  for (; n - i >= 8; i += 8) {
    v128_t q = wasm_i16x8_load8x8(query + i);
    s0 = add_products_wasm128(s0, q, wasm_i16x8_load8x8(c0 + i));
    s1 = add_products_wasm128(s1, q, wasm_i16x8_load8x8(c1 + i));
    s2 = add_products_wasm128(s2, q, wasm_i16x8_load8x8(c2 + i));
    s3 = add_products_wasm128(s3, q, wasm_i16x8_load8x8(c3 + i));
  }
  if (i < n) {
    v128_t q = load_rest_wasm128(query + i, n - i);
    s0 = add_products_wasm128(s0, q, load_rest_wasm128(c0 + i, n - i));
    s1 = add_products_wasm128(s1, q, load_rest_wasm128(c1 + i, n - i));
    s2 = add_products_wasm128(s2, q, load_rest_wasm128(c2 + i, n - i));
    s3 = add_products_wasm128(s3, q, load_rest_wasm128(c3 + i, n - i));
  }
  v128_t t0 = wasm_i32x4_add(wasm_i32x4_shuffle(s0, s1, 0, 4, 1, 5), wasm_i32x4_shuffle(s0, s1, 2, 6, 3, 7));
  v128_t t2 = wasm_i32x4_add(wasm_i32x4_shuffle(s2, s3, 0, 4, 1, 5), wasm_i32x4_shuffle(s2, s3, 2, 6, 3, 7));
  wasm_v128_store(out, wasm_i32x4_add(wasm_i64x2_shuffle(t0, t2, 0, 2), wasm_i64x2_shuffle(t0, t2, 1, 3)));
}

static void scan_i8_wasm128(const int8_t *codes, size_t stride, size_t n_rows, const int8_t *query, size_t n,
                            int32_t *out) {
  size_t r = 0;
  for (; n_rows - r >= 4; r += 4, codes += 4 * stride)
    dot_four_wasm128(codes, codes + stride, codes + 2 * stride, codes + 3 * stride, query, n, out + r);
  for (; r < n_rows; r++, codes += stride) out[r] = dot_i8_wasm128(codes, query, n);
}

/* WebAssembly has no prefetch. */
static void gather_i8_wasm128(const int8_t *codes, size_t stride, const uint32_t *rows, size_t n_rows,
                              const int8_t *query, size_t n, int32_t *out) {
  size_t i = 0;
  for (; n_rows - i >= 4; i += 4)
    dot_four_wasm128(codes + rows[i] * stride, codes + rows[i + 1] * stride, codes + rows[i + 2] * stride,
                     codes + rows[i + 3] * stride, query, n, out + i);
  for (; i < n_rows; i++) out[i] = dot_i8_wasm128(codes + rows[i] * stride, query, n);
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

const dv_kernels dv_kernels_wasm128 = {
    "wasm128",      dot_f32_wasm128, l2sq_f32_wasm128,  l1_f32_wasm128,    dot_norm_f32_wasm128,
    dot_i8_wasm128, scan_i8_wasm128, gather_i8_wasm128, scan_bits_wasm128, pick_bits_wasm128,
};

DV_FP_STRICT_END
#else
typedef int dv_wasm128_is_not_here; /* ISO C wants a translation unit to declare something */
#endif
