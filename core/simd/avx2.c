/*
 * avx2.c: kernels for x86-64 with AVX2. Same functions, same order, same bits as scalar.c.
 *
 * A lane of the definition is a float of four 8-wide accumulators. FMA is there on every such CPU and not used: it
 * would round once where the definition rounds twice.
 */
#include "dv_simd.h"

#if defined(DV_SIMD_X86)
DV_FP_STRICT_BEGIN

#include <immintrin.h>

#define AVX2 __attribute__((target("avx2")))
#define AVX2_INLINE static inline __attribute__((target("avx2"), always_inline))

/* ---- sums of floats ---------------------------------------------------------------------------------------------- */

/* Loading at [32 - rest + 8*j] gives the mask of vector j when rest elements are left. */
#define MINUS_8_AVX2 -1, -1, -1, -1, -1, -1, -1, -1
static const int32_t float_mask_avx2[64] = {MINUS_8_AVX2, MINUS_8_AVX2, MINUS_8_AVX2, MINUS_8_AVX2};

AVX2_INLINE __m256 load_rest_avx2(const float *p, size_t rest, size_t j) {
  if (rest <= 8 * j) return _mm256_setzero_ps();
  __m256i mask = _mm256_loadu_si256((const __m256i *)(const void *)(float_mask_avx2 + 32 - rest + 8 * j));
  return _mm256_maskload_ps(p + 8 * j, mask);
}

AVX2_INLINE __m256 term_avx2(int term, __m256 a, __m256 b) {
  if (term == DV_TERM_DOT) return _mm256_mul_ps(a, b);
  __m256 d = _mm256_sub_ps(a, b);
  return term == DV_TERM_L2SQ ? _mm256_mul_ps(d, d) : _mm256_andnot_ps(_mm256_set1_ps(-0.0f), d);
}

AVX2_INLINE float fold_avx2(__m256 s0, __m256 s1, __m256 s2, __m256 s3) {
  s0 = _mm256_add_ps(_mm256_add_ps(s0, s2), _mm256_add_ps(s1, s3)); /* +16, +8 */
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(s0), _mm256_extractf128_ps(s0, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

AVX2_INLINE float sum_avx2(int term, const float *a, const float *b, size_t n) {
  __m256 s0 = _mm256_setzero_ps(), s1 = s0, s2 = s0, s3 = s0;
  size_t i = 0;
  for (; n - i >= 32; i += 32) {
    s0 = _mm256_add_ps(s0, term_avx2(term, _mm256_loadu_ps(a + i), _mm256_loadu_ps(b + i)));
    s1 = _mm256_add_ps(s1, term_avx2(term, _mm256_loadu_ps(a + i + 8), _mm256_loadu_ps(b + i + 8)));
    s2 = _mm256_add_ps(s2, term_avx2(term, _mm256_loadu_ps(a + i + 16), _mm256_loadu_ps(b + i + 16)));
    s3 = _mm256_add_ps(s3, term_avx2(term, _mm256_loadu_ps(a + i + 24), _mm256_loadu_ps(b + i + 24)));
  }
  size_t rest = n - i;
  if (rest > 0) {
    s0 = _mm256_add_ps(s0, term_avx2(term, load_rest_avx2(a + i, rest, 0), load_rest_avx2(b + i, rest, 0)));
    s1 = _mm256_add_ps(s1, term_avx2(term, load_rest_avx2(a + i, rest, 1), load_rest_avx2(b + i, rest, 1)));
    s2 = _mm256_add_ps(s2, term_avx2(term, load_rest_avx2(a + i, rest, 2), load_rest_avx2(b + i, rest, 2)));
    s3 = _mm256_add_ps(s3, term_avx2(term, load_rest_avx2(a + i, rest, 3), load_rest_avx2(b + i, rest, 3)));
  }
  return fold_avx2(s0, s1, s2, s3);
}

AVX2 static float dot_f32_avx2(const float *a, const float *b, size_t n) { return sum_avx2(DV_TERM_DOT, a, b, n); }

AVX2 static float l2sq_f32_avx2(const float *a, const float *b, size_t n) { return sum_avx2(DV_TERM_L2SQ, a, b, n); }

AVX2 static float l1_f32_avx2(const float *a, const float *b, size_t n) { return sum_avx2(DV_TERM_L1, a, b, n); }

/* Eight elements of both sums. */
AVX2_INLINE void add_both_avx2(__m256 *d, __m256 *s, __m256 a, __m256 b) {
  *d = _mm256_add_ps(*d, _mm256_mul_ps(a, b));
  *s = _mm256_add_ps(*s, _mm256_mul_ps(b, b));
}

AVX2 static void dot_norm_f32_avx2(const float *a, const float *b, size_t n, float out[2]) {
  __m256 d0 = _mm256_setzero_ps(), d1 = d0, d2 = d0, d3 = d0, s0 = d0, s1 = d0, s2 = d0, s3 = d0;
  size_t i = 0;
  for (; n - i >= 32; i += 32) {
    add_both_avx2(&d0, &s0, _mm256_loadu_ps(a + i), _mm256_loadu_ps(b + i));
    add_both_avx2(&d1, &s1, _mm256_loadu_ps(a + i + 8), _mm256_loadu_ps(b + i + 8));
    add_both_avx2(&d2, &s2, _mm256_loadu_ps(a + i + 16), _mm256_loadu_ps(b + i + 16));
    add_both_avx2(&d3, &s3, _mm256_loadu_ps(a + i + 24), _mm256_loadu_ps(b + i + 24));
  }
  size_t rest = n - i;
  if (rest > 0) {
    add_both_avx2(&d0, &s0, load_rest_avx2(a + i, rest, 0), load_rest_avx2(b + i, rest, 0));
    add_both_avx2(&d1, &s1, load_rest_avx2(a + i, rest, 1), load_rest_avx2(b + i, rest, 1));
    add_both_avx2(&d2, &s2, load_rest_avx2(a + i, rest, 2), load_rest_avx2(b + i, rest, 2));
    add_both_avx2(&d3, &s3, load_rest_avx2(a + i, rest, 3), load_rest_avx2(b + i, rest, 3));
  }
  out[0] = fold_avx2(d0, d1, d2, d3);
  out[1] = fold_avx2(s0, s1, s2, s3);
}

/* ---- sums of bytes ----------------------------------------------------------------------------------------------- */

/* Loading at [rest] gives zeros and then the mask of the last `rest` of 32 bytes. */
#define ZERO_8_AVX2 0, 0, 0, 0, 0, 0, 0, 0
static const int8_t byte_mask_avx2[64] = {ZERO_8_AVX2,  ZERO_8_AVX2,  ZERO_8_AVX2,  ZERO_8_AVX2,
                                          MINUS_8_AVX2, MINUS_8_AVX2, MINUS_8_AVX2, MINUS_8_AVX2};

/* The last n % 32 bytes of p in the upper part of a vector, zeros below. */
AVX2_INLINE __m256i load_last_avx2(const int8_t *p, size_t n) {
  size_t rest = n % 32;
  if (n >= 32)
    return _mm256_and_si256(_mm256_loadu_si256((const __m256i *)(const void *)(p + n - 32)),
                            _mm256_loadu_si256((const __m256i *)(const void *)(byte_mask_avx2 + rest)));
  int8_t copy[32] = {0};
  memcpy(copy + 32 - rest, p, rest);
  return _mm256_loadu_si256((const __m256i *)(const void *)copy);
}

AVX2_INLINE __m256i load_avx2(const int8_t *p) { return _mm256_loadu_si256((const __m256i *)(const void *)p); }

/* acc + products: |q| times c with q's sign. Two products fit 16 bits, 2*127*127 < 32768, because no code is -128. */
AVX2_INLINE __m256i add_products_avx2(__m256i acc, __m256i q, __m256i c) {
  __m256i pairs = _mm256_maddubs_epi16(_mm256_abs_epi8(q), _mm256_sign_epi8(c, q));
  return _mm256_add_epi32(acc, _mm256_madd_epi16(pairs, _mm256_set1_epi16(1)));
}

AVX2_INLINE int32_t fold_i32_avx2(__m256i v) {
  __m128i s = _mm_add_epi32(_mm256_castsi256_si128(v), _mm256_extracti128_si256(v, 1));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1));
  return _mm_cvtsi128_si32(s);
}

AVX2_INLINE __m256i row_avx2(const int8_t *c, const int8_t *query, size_t n) {
  __m256i s0 = _mm256_setzero_si256(), s1 = s0;
  size_t i = 0;
  for (; n - i >= 64; i += 64) {
    __m256i q0 = load_avx2(query + i), q1 = load_avx2(query + i + 32);
    s0 = add_products_avx2(s0, q0, load_avx2(c + i));
    s1 = add_products_avx2(s1, q1, load_avx2(c + i + 32));
  }
  if (n - i >= 32) {
    __m256i q = load_avx2(query + i);
    s0 = add_products_avx2(s0, q, load_avx2(c + i));
    i += 32;
  }
  if (i < n) {
    __m256i q = load_last_avx2(query, n);
    s1 = add_products_avx2(s1, q, load_last_avx2(c, n));
  }
  return _mm256_add_epi32(s0, s1);
}

AVX2_INLINE __m128i fold_four_avx2(__m256i s0, __m256i s1, __m256i s2, __m256i s3) {
  s0 = _mm256_hadd_epi32(_mm256_hadd_epi32(s0, s1), _mm256_hadd_epi32(s2, s3));
  return _mm_add_epi32(_mm256_castsi256_si128(s0), _mm256_extracti128_si256(s0, 1));
}

AVX2 static int32_t dot_i8_avx2(const int8_t *a, const int8_t *b, size_t n) { return fold_i32_avx2(row_avx2(a, b, n)); }

/* ---- sums over packed codes -------------------------------------------------------------------------------------- */

AVX2_INLINE __m256i load_halves_avx2(const uint8_t *p) { return _mm256_loadu_si256((const __m256i *)(const void *)p); }

/* acc + products, in 16 bits: of the low four bits of x with a, of the high four with b. */
AVX2_INLINE __m256i add_halves_avx2(__m256i acc, __m256i x, __m256i a, __m256i b) {
  const __m256i nibble = _mm256_set1_epi8(15);
  acc = _mm256_add_epi16(acc, _mm256_maddubs_epi16(_mm256_and_si256(x, nibble), a));
  return _mm256_add_epi16(acc, _mm256_maddubs_epi16(_mm256_and_si256(_mm256_srli_epi16(x, 4), nibble), b));
}

AVX2_INLINE __m256i code_avx2(const uint8_t *row, size_t half, const int8_t *query) {
  __m256i sum = _mm256_setzero_si256();
  for (size_t i = 0; i < half;) {
    __m256i high = _mm256_setzero_si256(), low = high;
    for (size_t end = dv_halves_end(i, half, 32); i < end; i += 32) {
      __m256i a = load_avx2(query + i), b = load_avx2(query + half + i);
      high = add_halves_avx2(high, load_halves_avx2(row + i), a, b);
      low = add_halves_avx2(low, load_halves_avx2(row + dv_code_to_low(half) + i), a, b);
    }
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(high, _mm256_set1_epi16(16)));
    sum = _mm256_add_epi32(sum, _mm256_madd_epi16(low, _mm256_set1_epi16(1)));
  }
  return sum;
}

AVX2_INLINE void store_sums_avx2(const __m256i *s, size_t n, int32_t *out) {
  if (n == 1) {
    *out = fold_i32_avx2(s[0]);
  } else {
    _mm_storeu_si128((__m128i *)(void *)out, fold_four_avx2(s[0], s[1], s[2], s[3]));
  }
}

#define UNROLL_AVX2 _Pragma("GCC unroll 4")

/* Abreast: four short rows are read in the order of memory, or nearly. */
AVX2_INLINE void short_rows_avx2(const uint8_t *const *c, size_t n, size_t half, const int8_t *query, int32_t *out) {
  __m256i s[4];
  UNROLL_AVX2
  for (size_t j = 0; j < n; j++) s[j] = _mm256_setzero_si256();
  for (size_t i = 0; i < 2 * half; i += 32) {
    __m256i q = load_avx2(query + i);
    UNROLL_AVX2
    for (size_t j = 0; j < n; j++) s[j] = add_products_avx2(s[j], q, load_halves_avx2(c[j] + i));
  }
  store_sums_avx2(s, n, out);
}

/* Row after row, not four abreast: reading memory in its order is worth more than loading the query once for four rows
 * (measured: 1.4 times as fast when the codes are not in a cache, and no slower when they are). */
AVX2_INLINE void code_rows_avx2(const uint8_t *const *c, size_t n, size_t half, const int8_t *query, int32_t *out) {
  __m256i s[4];
  UNROLL_AVX2
  for (size_t j = 0; j < n; j++) s[j] = code_avx2(c[j], half, query);
  store_sums_avx2(s, n, out);
}

/* Abreast: these rows have no order in memory that could be kept, and are in a cache by now. */
AVX2_INLINE void high_rows_avx2(const uint8_t *const *c, size_t n, size_t half, const int8_t *query, int32_t *out) {
  __m256i s[4], pairs[4];
  UNROLL_AVX2
  for (size_t j = 0; j < n; j++) s[j] = _mm256_setzero_si256();
  for (size_t i = 0; i < half;) {
    UNROLL_AVX2
    for (size_t j = 0; j < n; j++) pairs[j] = _mm256_setzero_si256();
    for (size_t end = dv_halves_end(i, half, 32); i < end; i += 32) {
      __m256i a = load_avx2(query + i), b = load_avx2(query + half + i);
      UNROLL_AVX2
      for (size_t j = 0; j < n; j++) pairs[j] = add_halves_avx2(pairs[j], load_halves_avx2(c[j] + i), a, b);
    }
    UNROLL_AVX2
    for (size_t j = 0; j < n; j++) s[j] = _mm256_add_epi32(s[j], _mm256_madd_epi16(pairs[j], _mm256_set1_epi16(16)));
  }
  store_sums_avx2(s, n, out);
}

AVX2 static void scan_code_avx2(const uint8_t *codes, size_t stride, size_t first, size_t n_rows, const int8_t *query,
                                int32_t sum, int32_t *out) {
  dv_sum_codes(code_rows_avx2, 128 * sum, short_rows_avx2, 0, codes, stride, NULL, first, n_rows, query, out);
}

AVX2 static void gather_code_avx2(const uint8_t *codes, size_t stride, const uint32_t *rows, size_t n_rows,
                                  const int8_t *query, int32_t sum, int32_t *out) {
  dv_sum_codes(code_rows_avx2, 128 * sum, short_rows_avx2, 0, codes, stride, rows, 0, n_rows, query, out);
}

AVX2 static void gather_high_avx2(const uint8_t *codes, size_t stride, const uint32_t *rows, size_t n_rows,
                                  const int8_t *query, int32_t sum, int32_t *out) {
  dv_sum_rows(high_rows_avx2, false, codes, stride, rows, 0, n_rows, query, dv_high_offset(sum), out);
}

/* ---- sums over bits ---------------------------------------------------------------------------------------------- */

/* Sums of 16 rows from the even and odd bytes' sums in both halves of a vector. */
AVX2_INLINE void store_rows_avx2(__m256i even, __m256i odd, bool is_first, uint32_t *out) {
  __m128i e = _mm_add_epi16(_mm256_castsi256_si128(even), _mm256_extracti128_si256(even, 1));
  __m128i o = _mm_add_epi16(_mm256_castsi256_si128(odd), _mm256_extracti128_si256(odd, 1));
  __m256i low = _mm256_cvtepu16_epi32(_mm_unpacklo_epi16(e, o)), high = _mm256_cvtepu16_epi32(_mm_unpackhi_epi16(e, o));
  __m256i *to = (__m256i *)(void *)out;
  if (!is_first) {
    low = _mm256_add_epi32(low, _mm256_loadu_si256(to));
    high = _mm256_add_epi32(high, _mm256_loadu_si256(to + 1));
  }
  _mm256_storeu_si256(to, low);
  _mm256_storeu_si256(to + 1, high);
}

AVX2 static void scan_bits_avx2(const uint64_t *blocks, size_t n_blocks, size_t n_words, const uint8_t *table,
                                uint32_t *out) {
  const __m256i nibble = _mm256_set1_epi8(15), byte = _mm256_set1_epi16(255), zero = _mm256_setzero_si256();
  const uint8_t *group = (const uint8_t *)blocks;
  if (n_words == 0) memset(out, 0, n_blocks * DV_BITS_ROWS * sizeof *out);
  for (size_t b = 0; b < n_blocks; b++, out += DV_BITS_ROWS) {
    const uint8_t *entry = table;
    for (size_t word = 0; word < n_words; word += DV_BITS_SPAN) {
      size_t n_half_words = 2 * (n_words - word < DV_BITS_SPAN ? n_words - word : DV_BITS_SPAN);
      __m256i even0 = zero, odd0 = zero, even1 = zero, odd1 = zero;
      for (; n_half_words > 0; n_half_words--, group += 128, entry += 128) {
        __m256i s0 = zero, s1 = zero; /* four entries of at most 63 fit a byte */
        for (size_t i = 0; i < 128; i += 32) {
          __m256i x = _mm256_loadu_si256((const __m256i *)(const void *)(group + i));
          __m256i t = _mm256_loadu_si256((const __m256i *)(const void *)(entry + i));
          s0 = _mm256_add_epi8(s0, _mm256_shuffle_epi8(t, _mm256_and_si256(x, nibble)));
          s1 = _mm256_add_epi8(s1, _mm256_shuffle_epi8(t, _mm256_and_si256(_mm256_srli_epi16(x, 4), nibble)));
        }
        even0 = _mm256_add_epi16(even0, _mm256_and_si256(s0, byte));
        odd0 = _mm256_add_epi16(odd0, _mm256_srli_epi16(s0, 8));
        even1 = _mm256_add_epi16(even1, _mm256_and_si256(s1, byte));
        odd1 = _mm256_add_epi16(odd1, _mm256_srli_epi16(s1, 8));
      }
      store_rows_avx2(even0, odd0, word == 0, out);
      store_rows_avx2(even1, odd1, word == 0, out + 16);
    }
  }
}

AVX2 static size_t pick_bits_avx2(const uint32_t *sums, const dv_bit_row *rows, size_t n, float per_sum, float base,
                                  float limit, uint32_t *out) {
  const __m256 step = _mm256_set1_ps(per_sum), start = _mm256_set1_ps(base), most = _mm256_set1_ps(limit);
  size_t n_out = 0, r = 0;
  for (; n - r >= 8; r += 8) {
    const float *pairs = (const float *)(const void *)(rows + r);
    __m256 p0 = _mm256_loadu_ps(pairs), p1 = _mm256_loadu_ps(pairs + 8);
    /* The shuffles leave rows in the order 0 1 4 5 2 3 6 7; so do the sums, until the answer is put right. */
    __m256 factor = _mm256_shuffle_ps(p0, p1, 0x88), offset = _mm256_shuffle_ps(p0, p1, 0xdd);
    __m256i sum = _mm256_permute4x64_epi64(_mm256_loadu_si256((const __m256i *)(const void *)(sums + r)), 0xd8);
    __m256 e = _mm256_add_ps(_mm256_mul_ps(step, _mm256_cvtepi32_ps(sum)), start);
    e = _mm256_add_ps(offset, _mm256_mul_ps(factor, e));
    unsigned m = (unsigned)_mm256_movemask_ps(_mm256_cmp_ps(e, most, _CMP_NGT_UQ));
    for (m = (m & 0xc3u) | (m & 0x0cu) << 2 | (m & 0x30u) >> 2; m; m &= m - 1)
      out[n_out++] = (uint32_t)r + (uint32_t)__builtin_ctz(m);
  }
  for (; r < n; r++)
    if (dv_pick_one(sums[r], &rows[r], per_sum, base, limit)) out[n_out++] = (uint32_t)r;
  return n_out;
}

/* ---- making codes ------------------------------------------------------------------------------------------------ */

/* The last one, two or three floats with zeros behind: what zeros add to a sum changes no bit of it. */
AVX2_INLINE __m128 load_last_four_avx2(const float *v, size_t n) {
  return _mm_maskload_ps(v, _mm_loadu_si128((const __m128i *)(const void *)(float_mask_avx2 + 32 - n)));
}

AVX2 float dv_max_abs_f32_avx2(const float *v, size_t n) {
  const __m256i size = _mm256_set1_epi32(0x7fffffff);
  __m256i m0 = _mm256_setzero_si256(), m1 = m0;
  size_t i = 0;
  for (; n - i >= 16; i += 16) {
    m0 = _mm256_max_epi32(m0, _mm256_and_si256(size, _mm256_castps_si256(_mm256_loadu_ps(v + i))));
    m1 = _mm256_max_epi32(m1, _mm256_and_si256(size, _mm256_castps_si256(_mm256_loadu_ps(v + i + 8))));
  }
  if (i < n) {
    m0 = _mm256_max_epi32(m0, _mm256_and_si256(size, _mm256_castps_si256(load_rest_avx2(v + i, n - i, 0))));
    m1 = _mm256_max_epi32(m1, _mm256_and_si256(size, _mm256_castps_si256(load_rest_avx2(v + i, n - i, 1))));
  }
  m0 = _mm256_max_epi32(m0, m1);
  __m128i m = _mm_max_epi32(_mm256_castsi256_si128(m0), _mm256_extracti128_si256(m0, 1));
  m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0x4e));
  m = _mm_max_epi32(m, _mm_shuffle_epi32(m, 0xb1));
  return dv_bits_float((uint32_t)_mm_cvtsi128_si32(m));
}

AVX2 void dv_sum_sq_f64_avx2(const float *v, size_t n, double lane[4]) {
  __m256d sum = _mm256_setzero_pd();
  size_t i = 0;
  for (; n - i >= 4; i += 4) {
    __m256d x = _mm256_cvtps_pd(_mm_loadu_ps(v + i));
    sum = _mm256_add_pd(sum, _mm256_mul_pd(x, x));
  }
  if (i < n) {
    __m256d x = _mm256_cvtps_pd(load_last_four_avx2(v + i, n - i));
    sum = _mm256_add_pd(sum, _mm256_mul_pd(x, x));
  }
  _mm256_storeu_pd(lane, sum);
}

/* Four codes; what is left of their values goes to *sum. */
AVX2_INLINE int encode_rows_avx2(__m128 four, __m256d inverse, __m256d scale, __m256d to_code, __m256d *sum) {
  __m256d x = _mm256_cvtps_pd(four);
  __m256d c = _mm256_round_pd(_mm256_mul_pd(x, to_code), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  __m256d left = _mm256_sub_pd(_mm256_mul_pd(x, inverse), _mm256_mul_pd(scale, c));
  *sum = _mm256_add_pd(*sum, _mm256_mul_pd(left, left));
  return _mm_cvtsi128_si32(_mm_shuffle_epi8(_mm256_cvtpd_epi32(c), _mm_set1_epi32(0x0c080400)));
}

AVX2 void dv_encode_i8_avx2(const float *v, size_t n, double inverse, double scale, double to_code, int8_t *code,
                            double lane[4]) {
  const __m256d unit = _mm256_set1_pd(inverse), step = _mm256_set1_pd(scale), by = _mm256_set1_pd(to_code);
  __m256d sum = _mm256_setzero_pd();
  size_t i = 0;
  for (; n - i >= 4; i += 4) {
    int four = encode_rows_avx2(_mm_loadu_ps(v + i), unit, step, by, &sum);
    memcpy(code + i, &four, 4);
  }
  if (i < n) {
    int four = encode_rows_avx2(load_last_four_avx2(v + i, n - i), unit, step, by, &sum);
    memcpy(code + i, &four, n - i);
  }
  _mm256_storeu_pd(lane, sum);
}

AVX2_INLINE unsigned signs_of_four_avx2(int four, __m256d scale, __m256d c, __m256d sums[3]) {
  __m256d x = _mm256_mul_pd(scale, _mm256_cvtepi32_pd(_mm_cvtepi8_epi32(_mm_cvtsi32_si128(four))));
  __m256d y = _mm256_sub_pd(x, c);
  sums[0] = _mm256_add_pd(sums[0], _mm256_andnot_pd(_mm256_set1_pd(-0.0), y));
  sums[1] = _mm256_add_pd(sums[1], _mm256_mul_pd(y, y));
  sums[2] = _mm256_add_pd(sums[2], _mm256_mul_pd(x, c));
  return (unsigned)_mm256_movemask_pd(_mm256_cmp_pd(y, _mm256_setzero_pd(), _CMP_GE_OQ));
}

AVX2 void dv_signs_i8_avx2(const int8_t *code, size_t n, double scale, const float *center, uint8_t *signs,
                           double sums[12]) {
  const __m256d step = _mm256_set1_pd(scale);
  __m256d c = _mm256_setzero_pd();
  __m256d s[3] = {_mm256_loadu_pd(sums), _mm256_loadu_pd(sums + 4), _mm256_loadu_pd(sums + 8)};
  size_t i = 0;
  int four = 0;
  for (; n - i >= 4; i += 4) {
    memcpy(&four, code + i, 4);
    if (center) c = _mm256_cvtps_pd(_mm_loadu_ps(center + i));
    signs[i / 4] = (uint8_t)signs_of_four_avx2(four, step, c, s);
  }
  if (i < n) {
    four = 0;
    memcpy(&four, code + i, n - i);
    if (center) c = _mm256_cvtps_pd(load_last_four_avx2(center + i, n - i));
    signs[i / 4] = (uint8_t)(signs_of_four_avx2(four, step, c, s) & ((1u << (n - i)) - 1));
  }
  for (size_t j = 0; j < 3; j++) _mm256_storeu_pd(sums + 4 * j, s[j]);
}

const dv_kernels dv_kernels_avx2 = {
    "avx2",         dot_f32_avx2,        l2sq_f32_avx2,      l1_f32_avx2,       dot_norm_f32_avx2,
    dot_i8_avx2,    scan_code_avx2,      gather_code_avx2,   gather_high_avx2,  scan_bits_avx2,
    pick_bits_avx2, dv_max_abs_f32_avx2, dv_sum_sq_f64_avx2, dv_encode_i8_avx2, dv_signs_i8_avx2,
};

DV_FP_STRICT_END
#else
typedef int dv_avx2_is_not_here; /* ISO C wants a translation unit to declare something */
#endif
