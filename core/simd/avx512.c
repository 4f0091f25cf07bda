/*
 * avx512.c: kernels for x86-64 with AVX-512 F, BW and VL, and two tables of them: "avx512", and "avx512vnni" whose sums
 * of bytes use VPDPBUSD. Same functions, same order, same bits as scalar.c.
 *
 * A lane of the definition is a float of two 16-wide accumulators; more were not faster (measured: 16, 32, 64 and 128
 * lanes). Ends of arrays are read under a mask, which neither faults nor reads behind them.
 */
#include "dv_simd.h"

#if defined(DV_SIMD_X86)
DV_FP_STRICT_BEGIN

#include <immintrin.h>

#define AVX512 __attribute__((target("avx512f,avx512bw,avx512vl")))
#define AVX512_INLINE static inline __attribute__((target("avx512f,avx512bw,avx512vl"), always_inline))
#define VNNI __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni")))
#define VNNI_INLINE static inline __attribute__((target("avx512f,avx512bw,avx512vl,avx512vnni"), always_inline))

/* ---- sums of floats ---------------------------------------------------------------------------------------------- */

/* The mask of vector j (0 or 1) when rest < 32 elements are left. */
AVX512_INLINE __mmask16 float_mask_avx512(size_t rest, unsigned j) {
  return (__mmask16)(((1u << rest) - 1u) >> (16 * j));
}

AVX512_INLINE __m512 term_avx512(int term, __m512 a, __m512 b) {
  if (term == DV_TERM_DOT) return _mm512_mul_ps(a, b);
  __m512 d = _mm512_sub_ps(a, b);
  return term == DV_TERM_L2SQ ? _mm512_mul_ps(d, d) : _mm512_abs_ps(d);
}

AVX512_INLINE float fold_avx512(__m512 s0, __m512 s1) {
  s0 = _mm512_add_ps(s0, s1);
  __m256 h =
      _mm256_add_ps(_mm512_castps512_ps256(s0), _mm256_castpd_ps(_mm512_extractf64x4_pd(_mm512_castps_pd(s0), 1)));
  __m128 s = _mm_add_ps(_mm256_castps256_ps128(h), _mm256_extractf128_ps(h, 1));
  s = _mm_add_ps(s, _mm_movehl_ps(s, s));
  return _mm_cvtss_f32(_mm_add_ss(s, _mm_movehdup_ps(s)));
}

AVX512_INLINE float sum_avx512(int term, const float *a, const float *b, size_t n) {
  __m512 s0 = _mm512_setzero_ps(), s1 = s0;
  size_t i = 0;
  for (; n - i >= 32; i += 32) {
    s0 = _mm512_add_ps(s0, term_avx512(term, _mm512_loadu_ps(a + i), _mm512_loadu_ps(b + i)));
    s1 = _mm512_add_ps(s1, term_avx512(term, _mm512_loadu_ps(a + i + 16), _mm512_loadu_ps(b + i + 16)));
  }
  size_t rest = n - i;
  if (rest > 0) {
    __mmask16 m = float_mask_avx512(rest, 0);
    s0 = _mm512_add_ps(s0, term_avx512(term, _mm512_maskz_loadu_ps(m, a + i), _mm512_maskz_loadu_ps(m, b + i)));
  }
  if (rest > 16) {
    __mmask16 m = float_mask_avx512(rest, 1);
    s1 = _mm512_add_ps(s1,
                       term_avx512(term, _mm512_maskz_loadu_ps(m, a + i + 16), _mm512_maskz_loadu_ps(m, b + i + 16)));
  }
  return fold_avx512(s0, s1);
}

AVX512 static float dot_f32_avx512(const float *a, const float *b, size_t n) {
  return sum_avx512(DV_TERM_DOT, a, b, n);
}

AVX512 static float l2sq_f32_avx512(const float *a, const float *b, size_t n) {
  return sum_avx512(DV_TERM_L2SQ, a, b, n);
}

AVX512 static float l1_f32_avx512(const float *a, const float *b, size_t n) { return sum_avx512(DV_TERM_L1, a, b, n); }

AVX512 static void dot_norm_f32_avx512(const float *a, const float *b, size_t n, float out[2]) {
  __m512 d0 = _mm512_setzero_ps(), d1 = d0, s0 = d0, s1 = d0;
  size_t i = 0;
  for (; n - i >= 32; i += 32) {
    __m512 x0 = _mm512_loadu_ps(b + i), x1 = _mm512_loadu_ps(b + i + 16);
    d0 = _mm512_add_ps(d0, _mm512_mul_ps(_mm512_loadu_ps(a + i), x0));
    d1 = _mm512_add_ps(d1, _mm512_mul_ps(_mm512_loadu_ps(a + i + 16), x1));
    s0 = _mm512_add_ps(s0, _mm512_mul_ps(x0, x0));
    s1 = _mm512_add_ps(s1, _mm512_mul_ps(x1, x1));
  }
  size_t rest = n - i;
  if (rest > 0) {
    __mmask16 m = float_mask_avx512(rest, 0);
    __m512 x = _mm512_maskz_loadu_ps(m, b + i);
    d0 = _mm512_add_ps(d0, _mm512_mul_ps(_mm512_maskz_loadu_ps(m, a + i), x));
    s0 = _mm512_add_ps(s0, _mm512_mul_ps(x, x));
  }
  if (rest > 16) {
    __mmask16 m = float_mask_avx512(rest, 1);
    __m512 x = _mm512_maskz_loadu_ps(m, b + i + 16);
    d1 = _mm512_add_ps(d1, _mm512_mul_ps(_mm512_maskz_loadu_ps(m, a + i + 16), x));
    s1 = _mm512_add_ps(s1, _mm512_mul_ps(x, x));
  }
  out[0] = fold_avx512(d0, d1);
  out[1] = fold_avx512(s0, s1);
}

/* ---- sums of bytes ----------------------------------------------------------------------------------------------- */

AVX512_INLINE __mmask64 byte_mask_avx512(size_t rest) { return rest < 64 ? ((__mmask64)1 << rest) - 1 : ~(__mmask64)0; }

/* acc + products: |q| times c with q's sign. Two products fit 16 bits, 2*127*127 < 32768, because no code is -128. */
AVX512_INLINE __m512i add_products_avx512(__m512i acc, __m512i q, __m512i c) {
  __m512i signed_c = _mm512_mask_sub_epi8(c, _mm512_movepi8_mask(q), _mm512_setzero_si512(), c);
  __m512i pairs = _mm512_maddubs_epi16(_mm512_abs_epi8(q), signed_c);
  return _mm512_add_epi32(acc, _mm512_madd_epi16(pairs, _mm512_set1_epi16(1)));
}

/* The four sums of four vectors. */
AVX512_INLINE __m128i fold_four_avx512(__m512i s0, __m512i s1, __m512i s2, __m512i s3) {
  __m512i a = _mm512_add_epi32(_mm512_unpacklo_epi32(s0, s1), _mm512_unpackhi_epi32(s0, s1));
  __m512i b = _mm512_add_epi32(_mm512_unpacklo_epi32(s2, s3), _mm512_unpackhi_epi32(s2, s3));
  a = _mm512_add_epi32(_mm512_unpacklo_epi64(a, b), _mm512_unpackhi_epi64(a, b));
  __m256i h = _mm256_add_epi32(_mm512_castsi512_si256(a), _mm512_extracti64x4_epi64(a, 1));
  return _mm_add_epi32(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1));
}

AVX512_INLINE int32_t fold_i32_avx512(__m512i v) {
  __m256i h = _mm256_add_epi32(_mm512_castsi512_si256(v), _mm512_extracti64x4_epi64(v, 1));
  __m128i s = _mm_add_epi32(_mm256_castsi256_si128(h), _mm256_extracti128_si256(h, 1));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0x4e));
  s = _mm_add_epi32(s, _mm_shuffle_epi32(s, 0xb1));
  return _mm_cvtsi128_si32(s);
}

AVX512_INLINE __m512i row_avx512(const int8_t *c, const int8_t *query, size_t n) {
  __m512i s0 = _mm512_setzero_si512(), s1 = s0;
  size_t i = 0;
  for (; n - i >= 128; i += 128) {
    s0 = add_products_avx512(s0, _mm512_loadu_si512(query + i), _mm512_loadu_si512(c + i));
    s1 = add_products_avx512(s1, _mm512_loadu_si512(query + i + 64), _mm512_loadu_si512(c + i + 64));
  }
  for (; i < n; i += 64) {
    __mmask64 m = byte_mask_avx512(n - i);
    s0 = add_products_avx512(s0, _mm512_maskz_loadu_epi8(m, query + i), _mm512_maskz_loadu_epi8(m, c + i));
  }
  return _mm512_add_epi32(s0, s1);
}

AVX512 static int32_t dot_i8_avx512(const int8_t *a, const int8_t *b, size_t n) {
  return fold_i32_avx512(row_avx512(a, b, n));
}

/* ---- sums over packed codes -------------------------------------------------------------------------------------- */

/* half is a multiple of 32: the last vector may have only its lower half. */
AVX512_INLINE __mmask64 half_mask_avx512(size_t rest) { return rest < 64 ? (__mmask64)0xffffffffu : ~(__mmask64)0; }

/* acc + products, in 16 bits: of the low four bits of x with a, of the high four with b. */
AVX512_INLINE __m512i add_halves_avx512(__m512i acc, __m512i x, __m512i a, __m512i b) {
  const __m512i nibble = _mm512_set1_epi8(15);
  acc = _mm512_add_epi16(acc, _mm512_maddubs_epi16(_mm512_and_si512(x, nibble), a));
  return _mm512_add_epi16(acc, _mm512_maddubs_epi16(_mm512_and_si512(_mm512_srli_epi16(x, 4), nibble), b));
}

AVX512_INLINE __m512i code_avx512(const uint8_t *row, size_t half, const int8_t *query) {
  __m512i sum = _mm512_setzero_si512();
  for (size_t i = 0; i < half;) {
    __m512i high = _mm512_setzero_si512(), low = high;
    for (size_t end = dv_halves_end(i, half, 64); i < end; i += 64) {
      __mmask64 m = half_mask_avx512(half - i);
      __m512i a = _mm512_maskz_loadu_epi8(m, query + i), b = _mm512_maskz_loadu_epi8(m, query + half + i);
      high = add_halves_avx512(high, _mm512_maskz_loadu_epi8(m, row + i), a, b);
      low = add_halves_avx512(low, _mm512_maskz_loadu_epi8(m, row + dv_code_to_low(half) + i), a, b);
    }
    sum = _mm512_add_epi32(sum, _mm512_madd_epi16(high, _mm512_set1_epi16(16)));
    sum = _mm512_add_epi32(sum, _mm512_madd_epi16(low, _mm512_set1_epi16(1)));
  }
  return sum;
}

AVX512_INLINE __m512i high_avx512(const uint8_t *row, size_t half, const int8_t *query) {
  __m512i sum = _mm512_setzero_si512();
  for (size_t i = 0; i < half;) {
    __m512i high = _mm512_setzero_si512();
    for (size_t end = dv_halves_end(i, half, 64); i < end; i += 64) {
      __mmask64 m = half_mask_avx512(half - i);
      __m512i a = _mm512_maskz_loadu_epi8(m, query + i), b = _mm512_maskz_loadu_epi8(m, query + half + i);
      high = add_halves_avx512(high, _mm512_maskz_loadu_epi8(m, row + i), a, b);
    }
    sum = _mm512_add_epi32(sum, _mm512_madd_epi16(high, _mm512_set1_epi16(16)));
  }
  return sum;
}

AVX512_INLINE void store_sums_avx512(const __m512i *s, size_t n, int32_t *out) {
  if (n == 1) {
    *out = fold_i32_avx512(s[0]);
  } else {
    _mm_storeu_si128((__m128i *)(void *)out, fold_four_avx512(s[0], s[1], s[2], s[3]));
  }
}

#define UNROLL_AVX512 _Pragma("GCC unroll 4")

AVX512_INLINE void short_rows_avx512(const uint8_t *const *c, size_t n, size_t half, const int8_t *query,
                                     int32_t *out) {
  __m512i s[4];
  UNROLL_AVX512
  for (size_t j = 0; j < n; j++) s[j] = _mm512_setzero_si512();
  for (size_t i = 0; i < 2 * half; i += 64) {
    __m512i q = _mm512_loadu_si512(query + i);
    UNROLL_AVX512
    for (size_t j = 0; j < n; j++) s[j] = add_products_avx512(s[j], q, _mm512_loadu_si512(c[j] + i));
  }
  store_sums_avx512(s, n, out);
}

/* Row after row, not four abreast: reading memory in its order is worth more than loading the query once for four rows
 * (measured: 1.4 times as fast when the codes are not in a cache, and no slower when they are). */
AVX512_INLINE void code_rows_avx512(const uint8_t *const *c, size_t n, size_t half, const int8_t *query, int32_t *out) {
  __m512i s[4];
  UNROLL_AVX512
  for (size_t j = 0; j < n; j++) s[j] = code_avx512(c[j], half, query);
  store_sums_avx512(s, n, out);
}

AVX512_INLINE void high_rows_avx512(const uint8_t *const *c, size_t n, size_t half, const int8_t *query, int32_t *out) {
  __m512i s[4];
  UNROLL_AVX512
  for (size_t j = 0; j < n; j++) s[j] = high_avx512(c[j], half, query);
  store_sums_avx512(s, n, out);
}

AVX512 static void scan_code_avx512(const uint8_t *codes, size_t stride, size_t first, size_t n_rows,
                                    const int8_t *query, int32_t sum, int32_t *out) {
  dv_sum_codes(code_rows_avx512, 128 * sum, short_rows_avx512, 0, codes, stride, NULL, first, n_rows, query, out);
}

AVX512 static void gather_code_avx512(const uint8_t *codes, size_t stride, const uint32_t *rows, size_t n_rows,
                                      const int8_t *query, int32_t sum, int32_t *out) {
  dv_sum_codes(code_rows_avx512, 128 * sum, short_rows_avx512, 0, codes, stride, rows, 0, n_rows, query, out);
}

AVX512 static void gather_high_avx512(const uint8_t *codes, size_t stride, const uint32_t *rows, size_t n_rows,
                                      const int8_t *query, int32_t sum, int32_t *out) {
  dv_sum_rows(high_rows_avx512, false, codes, stride, rows, 0, n_rows, query, dv_high_offset(sum), out);
}

/* ---- the same with VPDPBUSD -------------------------------------------------------------------------------------- */

/* It multiplies unsigned by signed bytes, so a code enters as code + 128 (one XOR) and 128 * sum(query) comes off at
 * the end. The sums may wrap on the way; the difference is exact all the same. */
VNNI_INLINE __m512i add_products_vnni(__m512i acc, __m512i q, __m512i c) {
  return _mm512_dpbusd_epi32(acc, _mm512_xor_si512(c, _mm512_set1_epi8(-128)), q);
}

VNNI_INLINE __m512i add_bytes_vnni(__m512i acc, __m512i q) {
  return _mm512_dpbusd_epi32(acc, _mm512_set1_epi8(-128), q);
}

VNNI static int32_t dot_i8_avx512vnni(const int8_t *a, const int8_t *b, size_t n) {
  __m512i s = _mm512_setzero_si512(), offset = s;
  for (size_t i = 0; i < n; i += 64) {
    __mmask64 m = byte_mask_avx512(n - i);
    __m512i q = _mm512_maskz_loadu_epi8(m, b + i);
    s = add_products_vnni(s, q, _mm512_maskz_loadu_epi8(m, a + i));
    offset = add_bytes_vnni(offset, q);
  }
  return fold_i32_avx512(_mm512_sub_epi32(s, offset));
}

/* Unsigned by signed is what packed codes are: the bytes put together again are code + 128. */
VNNI_INLINE __m512i code_vnni(const uint8_t *row, size_t half, const int8_t *query) {
  const __m512i nibble = _mm512_set1_epi8(15);
  __m512i s0 = _mm512_setzero_si512(), s1 = s0;
  for (size_t i = 0; i < half; i += 64) {
    __mmask64 m = half_mask_avx512(half - i);
    __m512i high = _mm512_maskz_loadu_epi8(m, row + i),
            low = _mm512_maskz_loadu_epi8(m, row + dv_code_to_low(half) + i);
    /* 0xca: where the mask is one the second, else the third. */
    __m512i a = _mm512_ternarylogic_epi32(nibble, low, _mm512_slli_epi16(high, 4), 0xca);
    __m512i b = _mm512_ternarylogic_epi32(nibble, _mm512_srli_epi16(low, 4), high, 0xca);
    s0 = _mm512_dpbusd_epi32(s0, a, _mm512_maskz_loadu_epi8(m, query + i));
    s1 = _mm512_dpbusd_epi32(s1, b, _mm512_maskz_loadu_epi8(m, query + half + i));
  }
  return _mm512_add_epi32(s0, s1);
}

VNNI_INLINE void code_rows_avx512vnni(const uint8_t *const *c, size_t n, size_t half, const int8_t *query,
                                      int32_t *out) {
  __m512i s[4];
  UNROLL_AVX512
  for (size_t j = 0; j < n; j++) s[j] = code_vnni(c[j], half, query);
  store_sums_avx512(s, n, out);
}

VNNI_INLINE void short_rows_avx512vnni(const uint8_t *const *c, size_t n, size_t half, const int8_t *query,
                                       int32_t *out) {
  __m512i s[4];
  UNROLL_AVX512
  for (size_t j = 0; j < n; j++) s[j] = _mm512_setzero_si512();
  for (size_t i = 0; i < 2 * half; i += 64) {
    __m512i q = _mm512_loadu_si512(query + i);
    UNROLL_AVX512
    for (size_t j = 0; j < n; j++) s[j] = add_products_vnni(s[j], q, _mm512_loadu_si512(c[j] + i));
  }
  store_sums_avx512(s, n, out);
}

/* acc + products of the low four bits of x with a, and of the high four with b. */
VNNI_INLINE __m512i add_halves_vnni(__m512i acc, __m512i x, __m512i a, __m512i b) {
  const __m512i nibble = _mm512_set1_epi8(15);
  acc = _mm512_dpbusd_epi32(acc, _mm512_and_si512(x, nibble), a);
  return _mm512_dpbusd_epi32(acc, _mm512_and_si512(_mm512_srli_epi16(x, 4), nibble), b);
}

/* Abreast: they share what is read of the query. */
VNNI_INLINE void high_rows_avx512vnni(const uint8_t *const *c, size_t n, size_t half, const int8_t *query,
                                      int32_t *out) {
  __m512i s[4];
  UNROLL_AVX512
  for (size_t j = 0; j < n; j++) s[j] = _mm512_setzero_si512();
  for (size_t i = 0; i < half; i += 64) {
    __mmask64 m = half_mask_avx512(half - i);
    __m512i a = _mm512_maskz_loadu_epi8(m, query + i), b = _mm512_maskz_loadu_epi8(m, query + half + i);
    UNROLL_AVX512
    for (size_t j = 0; j < n; j++) s[j] = add_halves_vnni(s[j], _mm512_maskz_loadu_epi8(m, c[j] + i), a, b);
  }
  UNROLL_AVX512
  for (size_t j = 0; j < n; j++) s[j] = _mm512_slli_epi32(s[j], 4);
  store_sums_avx512(s, n, out);
}

/* Either form of code enters as code + 128. */
VNNI static void scan_code_avx512vnni(const uint8_t *codes, size_t stride, size_t first, size_t n_rows,
                                      const int8_t *query, int32_t sum, int32_t *out) {
  dv_sum_codes(code_rows_avx512vnni, 128 * sum, short_rows_avx512vnni, 128 * sum, codes, stride, NULL, first, n_rows,
               query, out);
}

VNNI static void gather_code_avx512vnni(const uint8_t *codes, size_t stride, const uint32_t *rows, size_t n_rows,
                                        const int8_t *query, int32_t sum, int32_t *out) {
  dv_sum_codes(code_rows_avx512vnni, 128 * sum, short_rows_avx512vnni, 128 * sum, codes, stride, rows, 0, n_rows, query,
               out);
}

VNNI static void gather_high_avx512vnni(const uint8_t *codes, size_t stride, const uint32_t *rows, size_t n_rows,
                                        const int8_t *query, int32_t sum, int32_t *out) {
  dv_sum_rows(high_rows_avx512vnni, false, codes, stride, rows, 0, n_rows, query, dv_high_offset(sum), out);
}

/* ---- sums over bits ---------------------------------------------------------------------------------------------- */

/* Sums of 16 rows from the even and odd bytes' sums in the four quarters of a vector. */
AVX512_INLINE void store_rows_avx512(__m512i even, __m512i odd, bool is_first, uint32_t *out) {
  __m256i e2 = _mm256_add_epi16(_mm512_castsi512_si256(even), _mm512_extracti64x4_epi64(even, 1));
  __m256i o2 = _mm256_add_epi16(_mm512_castsi512_si256(odd), _mm512_extracti64x4_epi64(odd, 1));
  __m128i e = _mm_add_epi16(_mm256_castsi256_si128(e2), _mm256_extracti128_si256(e2, 1));
  __m128i o = _mm_add_epi16(_mm256_castsi256_si128(o2), _mm256_extracti128_si256(o2, 1));
  __m256i rows = _mm256_inserti128_si256(_mm256_castsi128_si256(_mm_unpacklo_epi16(e, o)), _mm_unpackhi_epi16(e, o), 1);
  __m512i sums = _mm512_cvtepu16_epi32(rows);
  if (!is_first) sums = _mm512_add_epi32(sums, _mm512_loadu_si512(out));
  _mm512_storeu_si512(out, sums);
}

AVX512 static void scan_bits_avx512(const uint64_t *blocks, size_t n_blocks, size_t n_words, const uint8_t *table,
                                    uint32_t *out) {
  const __m512i nibble = _mm512_set1_epi8(15), byte = _mm512_set1_epi16(255), zero = _mm512_setzero_si512();
  const uint8_t *group = (const uint8_t *)blocks;
  if (n_words == 0) memset(out, 0, n_blocks * DV_BITS_ROWS * sizeof *out);
  for (size_t b = 0; b < n_blocks; b++, out += DV_BITS_ROWS) {
    const uint8_t *entry = table;
    for (size_t word = 0; word < n_words; word += DV_BITS_SPAN) {
      size_t n_span = n_words - word < DV_BITS_SPAN ? n_words - word : DV_BITS_SPAN;
      __m512i even0 = zero, odd0 = zero, even1 = zero, odd1 = zero;
      for (; n_span > 0; n_span--, group += 256, entry += 256) {
        __m512i s0 = zero, s1 = zero; /* four entries of at most 63 fit a byte */
        for (size_t i = 0; i < 256; i += 64) {
          __m512i x = _mm512_loadu_si512(group + i), t = _mm512_loadu_si512(entry + i);
          s0 = _mm512_add_epi8(s0, _mm512_shuffle_epi8(t, _mm512_and_si512(x, nibble)));
          s1 = _mm512_add_epi8(s1, _mm512_shuffle_epi8(t, _mm512_and_si512(_mm512_srli_epi16(x, 4), nibble)));
        }
        even0 = _mm512_add_epi16(even0, _mm512_and_si512(s0, byte));
        odd0 = _mm512_add_epi16(odd0, _mm512_srli_epi16(s0, 8));
        even1 = _mm512_add_epi16(even1, _mm512_and_si512(s1, byte));
        odd1 = _mm512_add_epi16(odd1, _mm512_srli_epi16(s1, 8));
      }
      store_rows_avx512(even0, odd0, word == 0, out);
      store_rows_avx512(even1, odd1, word == 0, out + 16);
    }
  }
}

AVX512 static size_t pick_bits_avx512(const uint32_t *sums, const dv_bit_row *rows, size_t n, float per_sum, float base,
                                      float limit, uint32_t *out) {
  const __m512 step = _mm512_set1_ps(per_sum), start = _mm512_set1_ps(base), most = _mm512_set1_ps(limit);
  const __m512i even = _mm512_setr_epi32(0, 2, 4, 6, 8, 10, 12, 14, 16, 18, 20, 22, 24, 26, 28, 30);
  const __m512i odd = _mm512_setr_epi32(1, 3, 5, 7, 9, 11, 13, 15, 17, 19, 21, 23, 25, 27, 29, 31);
  size_t n_out = 0, r = 0;
  for (; n - r >= 16; r += 16) {
    const float *pairs = (const float *)(const void *)(rows + r);
    __m512 p0 = _mm512_loadu_ps(pairs), p1 = _mm512_loadu_ps(pairs + 16);
    __m512 factor = _mm512_permutex2var_ps(p0, even, p1), offset = _mm512_permutex2var_ps(p0, odd, p1);
    __m512 e = _mm512_add_ps(_mm512_mul_ps(step, _mm512_cvtepi32_ps(_mm512_loadu_si512(sums + r))), start);
    e = _mm512_add_ps(offset, _mm512_mul_ps(factor, e));
    for (unsigned m = _mm512_cmp_ps_mask(e, most, _CMP_NGT_UQ); m; m &= m - 1)
      out[n_out++] = (uint32_t)r + (uint32_t)__builtin_ctz(m);
  }
  for (; r < n; r++)
    if (dv_pick_one(sums[r], &rows[r], per_sum, base, limit)) out[n_out++] = (uint32_t)r;
  return n_out;
}

const dv_kernels dv_kernels_avx512 = {
    "avx512",         dot_f32_avx512,      l2sq_f32_avx512,    l1_f32_avx512,      dot_norm_f32_avx512,
    dot_i8_avx512,    scan_code_avx512,    gather_code_avx512, gather_high_avx512, scan_bits_avx512,
    pick_bits_avx512, dv_max_abs_f32_avx2, dv_sum_sq_f64_avx2, dv_encode_i8_avx2,  dv_signs_i8_avx2,
};

const dv_kernels dv_kernels_avx512vnni = {
    "avx512vnni",      dot_f32_avx512,       l2sq_f32_avx512,        l1_f32_avx512,          dot_norm_f32_avx512,
    dot_i8_avx512vnni, scan_code_avx512vnni, gather_code_avx512vnni, gather_high_avx512vnni, scan_bits_avx512,
    pick_bits_avx512,  dv_max_abs_f32_avx2,  dv_sum_sq_f64_avx2,     dv_encode_i8_avx2,      dv_signs_i8_avx2,
};

DV_FP_STRICT_END
#else
typedef int dv_avx512_is_not_here; /* ISO C wants a translation unit to declare something */
#endif
