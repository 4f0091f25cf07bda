/*
 * dv_simd.h: the table of kernels, one implementation per instruction set.
 *
 * scalar.c is the definition: every other file gives the same bits for every input. Float sums are therefore defined
 * over 32 lanes: lane j starts at +0.0 and adds up the products of elements j, j+32, j+64, ... in order, each product
 * and each sum rounded to f32 by itself (no FMA); the lanes are then added pairwise, l[j] += l[j+16], then +8, +4, +2,
 * +1. A lane never holds -0.0, so adding +0.0 to it changes no bit: kernels may treat elements past the end as zeros.
 * So results never depend on the CPU, only speed does. (When a result is NaN, its payload is not defined.)
 *
 * Pointers need no alignment at all: kernels use unaligned loads. No kernel reads a byte outside what it is told of.
 */
#ifndef DV_SIMD_H
#define DV_SIMD_H

#include "../dv_base.h"

/* Rows of one bit block, see scan_bits. */
#define DV_BITS_ROWS 32u

#if defined(__FAST_MATH__)
#error "delta_vectors: -ffast-math breaks the promise that distances are the same on every machine; compile without it"
#endif

/* A compiler that computes floats in a wider type (x87; s390x in ISO C mode) rounds elsewhere, and changes bits. */
#if defined(__FLT_EVAL_METHOD__) && (__FLT_EVAL_METHOD__ == 1 || __FLT_EVAL_METHOD__ == 2)
#error "delta_vectors: floats must be computed as floats: compile with -msse2 -mfpmath=sse or -fexcess-precision=fast"
#endif

/*
 * A product and a sum contracted into an FMA would round once instead of twice and so change bits. The build says
 * -ffp-contract=off; these say it again around every file that must not depend on how its embedder compiles it.
 * (Clang with an explicit -ffp-contract=fast cannot be told otherwise; its default can.)
 */
#if defined(__clang__)
#define DV_FP_STRICT_BEGIN _Pragma("STDC FP_CONTRACT OFF")
#define DV_FP_STRICT_END
#elif defined(__GNUC__)
#define DV_FP_STRICT_BEGIN _Pragma("GCC push_options") _Pragma("GCC optimize(\"fp-contract=off\")")
#define DV_FP_STRICT_END _Pragma("GCC pop_options")
#else
#define DV_FP_STRICT_BEGIN
#define DV_FP_STRICT_END
#endif

/*
 * Packed codes: the form that codes have in memory. The high halves of 64 rows' bytes lie together, and behind them the
 * low ones: a graph is walked by the former alone, which are nearly the code and half as many lines of memory. Codes of
 * no more than four lines are walked whole, and stay bytes, one row behind the other. So do all codes where no instruction
 * multiplies bytes, in WebAssembly without relaxed SIMD: parting halves costs more there than memory does. Results are
 * the same.
 *
 * With u[i] = code[i] + 128 and half = stride/2, byte b < half of a row's high halves holds that of u[b], in its low four
 * bits, and that of u[half + b]; the low halves likewise. The padding is that of codes 0.
 */
#define DV_CODE_ROWS 64u
#define DV_CODE_SHORT 256u
#if defined(__wasm__) && !defined(__wasm_relaxed_simd__)
#define DV_CODE_HALVES 0
#else
#define DV_CODE_HALVES 1
#endif
static inline bool dv_code_is_long(size_t stride) { return stride > DV_CODE_SHORT; }
static inline bool dv_code_has_halves(size_t stride) { return DV_CODE_HALVES && dv_code_is_long(stride); }
/* Where the first half of a row is, in bytes, and how far behind it the second: the high and the low halves, if it has any. */
static inline size_t dv_code_at(size_t row, size_t stride) {
  if (!dv_code_has_halves(stride)) return row * stride;
  return row / DV_CODE_ROWS * DV_CODE_ROWS * stride + row % DV_CODE_ROWS * (stride / 2);
}
static inline size_t dv_code_to_low(size_t half) { return (dv_code_has_halves(2 * half) ? DV_CODE_ROWS : 1) * half; }
static inline uint8_t dv_pack_high(int a, int b) {
  return (uint8_t)((unsigned)(a + 128) >> 4 | ((unsigned)(b + 128) & 0xf0u));
}
static inline uint8_t dv_pack_low(int a, int b) {
  return (uint8_t)(((unsigned)(a + 128) & 15u) | ((unsigned)(b + 128) & 15u) << 4);
}

/* A high half h stands for the codes from 16h - 128 to 16h - 113: on average for 16h - 120.5, that many times query. */
static inline int32_t dv_high_offset(int32_t sum) { return sum * 120 + sum / 2; }

/* How a row's sum of bits becomes an estimate of its distance, see pick_bits and dv_quant.h. */
typedef struct dv_bit_row {
  float factor;
  float offset;
} dv_bit_row;

typedef struct dv_kernels {
  const char *name; /* "scalar", "avx2", "avx512", "avx512vnni", "neon", "wasm128", "wasm128relaxed" */

  /* Sum of a[i]*b[i]; of (a[i]-b[i])^2; of |a[i]-b[i]|; lanes as above. n may be 0. */
  float (*dot_f32)(const float *a, const float *b, size_t n);
  float (*l2sq_f32)(const float *a, const float *b, size_t n);
  float (*l1_f32)(const float *a, const float *b, size_t n);

  /* out[0] = dot_f32(a, b, n), out[1] = dot_f32(b, b, n): the two sums a cosine needs, in one pass over b. */
  void (*dot_norm_f32)(const float *a, const float *b, size_t n, float out[2]);

  /* Sum of a[i]*b[i] over signed bytes, exact. n <= DV_MAX_DIMENSIONS so an i32 cannot overflow (65536*127*127 < 2^31);
   * a and b never hold -128. */
  int32_t (*dot_i8)(const int8_t *a, const int8_t *b, size_t n);

  /* Sums over rows of packed codes (above): stride bytes each, a multiple of 64 and at most DV_MAX_DIMENSIONS. query is
   * stride bytes of int8 and sum what they add up to; neither it nor a row of bytes holds -128.
   *
   * out[r] = sum of code[i]*query[i] for the rows first .. first+n_rows-1, exact: the flat scan. */
  void (*scan_code)(const uint8_t *codes, size_t stride, size_t first, size_t n_rows, const int8_t *query, int32_t sum,
                    int32_t *out);

  /* The same for rows[0], rows[1], ..., with prefetch if they are more than DV_GATHER_FEW: who asks for few has asked the
   * cache for them before. */
  void (*gather_code)(const uint8_t *codes, size_t stride, const uint32_t *rows, size_t n_rows, const int8_t *query,
                      int32_t sum, int32_t *out);

  /* ... and what the high halves alone say of it, of long rows: 16 * sum of high[i]*query[i] - dv_high_offset(sum). */
  void (*gather_high)(const uint8_t *codes, size_t stride, const uint32_t *rows, size_t n_rows, const int8_t *query,
                      int32_t sum, int32_t *out);

  /* The 1-bit scan, by table look-up: every SIMD set has a shuffle that looks up 16 nibbles at once, few can count
   * bits.
   *
   * A block holds 32 rows of n_words*64 sign bits, in groups of four dimensions: group g is the 16 bytes at 16*g of the
   * block; byte i of it holds the four bits of row i in its low nibble (dimension 4g in bit 0) and those of row 16+i in
   * its high nibble. table holds 16 bytes a group: entry v of group g, at most 63, is what a row whose four bits are v
   * adds to its sum. out[r] = sum over g of table[16*g + nibble of row r], for all 32*n_blocks rows.
   * n_words <= DV_MAX_DIMENSIONS/64. */
  void (*scan_bits)(const uint64_t *blocks, size_t n_blocks, size_t n_words, const uint8_t *table, uint32_t *out);

  /* What to do with the sums: the positions r < n, in order, where rows[r].offset + rows[r].factor * (per_sum * sums[r]
   * + base), each operation rounded to f32, is not above limit (NaN is not). Returns how many. Most rows fail. */
  size_t (*pick_bits)(const uint32_t *sums, const dv_bit_row *rows, size_t n, float per_sum, float base, float limit,
                      uint32_t *out);

  /* What making codes is made of (dv_quant.c). Their sums are in double and over four lanes: element i goes to lane i % 4,
   * in order; whoever asks adds the lanes up. v and centre hold no NaN and no infinity. */

  /* The largest |v[i]|, 0 if there is none. */
  float (*max_abs_f32)(const float *v, size_t n);

  /* Sum of v[i]^2. */
  void (*sum_sq_f64)(const float *v, size_t n, double lane[4]);

  /* code[i] = v[i]*to_code, rounded to the nearest integer, ties to even, which the caller knows to lie in -127..127;
   * lane: the sum of (v[i]*inverse - scale*code[i])^2. */
  void (*encode_i8)(const float *v, size_t n, double inverse, double scale, double to_code, int8_t *code,
                    double lane[4]);

  /* With x = scale*code[i] and y = x - centre[i] (centre NULL: zeros): bit i%4 of signs[i/4] says whether y >= 0, the other
   * bits are 0; to sums[0..3], the lanes of |y|, to sums[4..7], those of y^2, and to sums[8..11], those of x*centre[i], is added. */
  void (*signs_i8)(const int8_t *code, size_t n, double scale, const float *center, uint8_t *signs, double sums[12]);
} dv_kernels;

/* The fastest table this CPU can run; the same object for the life of the process. */
const dv_kernels *dv_kernels_get(void);

/* A table by name, or NULL if this build or CPU has none of that name: for tests and benchmarks. */
const dv_kernels *dv_kernels_named(const char *name);

/* The names of dv_kernels_named that exist here, "scalar" first; NULL behind the last. */
const char *dv_kernels_name_at(size_t i);

extern const dv_kernels dv_kernels_scalar;

/* For the files of this directory: which term a sum over lanes adds up. */
enum { DV_TERM_DOT, DV_TERM_L2SQ, DV_TERM_L1 };

/* ... how many rows ahead a gather asks for, if there are more than a few, and how much of each, half of it low
 * halves: the rest of a longer row comes by itself. Asking a second time for what two nodes of a graph lead to costs a search a twentieth of its time. */
enum { DV_GATHER_FEW = 64, DV_GATHER_AHEAD = 8, DV_GATHER_BYTES = 1536 };

/* ... and how many words of a bit block fit sums of 16 bits: 64 words * 16 groups * 63 < 2^16. */
#define DV_BITS_SPAN 64u

/* ... and what pick_bits asks of one row. Sums are below 2^20, and converting signed integers is one instruction. */
DV_FP_STRICT_BEGIN
static inline bool dv_pick_one(uint32_t sum, const dv_bit_row *row, float per_sum, float base, float limit) {
  return !(row->offset + row->factor * (per_sum * (float)(int32_t)sum + base) > limit);
}

/* ... the nearest integer of a double below 2^51, ties to even, without asking libm or the CPU for a rounding instruction. */
static inline int dv_round(double y) {
  const double magic = 0x1.8p52;
  return (int)((y + magic) - magic);
}
DV_FP_STRICT_END

/* Which of the other files compile to something; dispatch.c asks the CPU before it hands one out. */
#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define DV_SIMD_X86 1
extern const dv_kernels dv_kernels_avx2;
extern const dv_kernels dv_kernels_avx512;
extern const dv_kernels dv_kernels_avx512vnni;
/* How many bytes of halves of codes, each a product of at most 15 * 128 twice, and two of them a pair, fit sums of 16
 * bits: 4 vectors * 2 * 2 * 1920 < 2^15. */
enum { DV_HALVES_SPAN = 4 };
static inline size_t dv_halves_end(size_t i, size_t half, size_t vector_bytes) {
  return half - i < DV_HALVES_SPAN * vector_bytes ? half : i + DV_HALVES_SPAN * vector_bytes;
}
/* Four lanes of doubles are one vector of AVX2, and a wider one has no use for them: AVX-512's tables have these too. */
float dv_max_abs_f32_avx2(const float *v, size_t n);
void dv_sum_sq_f64_avx2(const float *v, size_t n, double lane[4]);
void dv_encode_i8_avx2(const float *v, size_t n, double inverse, double scale, double to_code, int8_t *code,
                       double lane[4]);
void dv_signs_i8_avx2(const int8_t *code, size_t n, double scale, const float *center, uint8_t *signs, double sums[12]);
#elif defined(__aarch64__) && defined(__ARM_NEON) && !defined(__AARCH64EB__)
#define DV_SIMD_NEON 1
extern const dv_kernels dv_kernels_neon;
#elif defined(__wasm_simd128__)
#define DV_SIMD_WASM128 1
extern const dv_kernels dv_kernels_wasm128;
#endif

#if defined(DV_SIMD_X86) || defined(DV_SIMD_NEON) || defined(DV_SIMD_WASM128)
/* The way of all kernels over packed codes through their rows: rows[0 .. n_rows), or if there is no list those from
 * `first` on. sum_rows gets where n rows begin, n being 1 or 4; its sums are out[i] + offset. */
typedef void (*dv_row_sums)(const uint8_t *const *row, size_t n, size_t half, const int8_t *query, int32_t *out);

static inline __attribute__((always_inline)) void dv_prefetch_half(const uint8_t *half, size_t n) {
  if (n > DV_GATHER_BYTES / 2) n = DV_GATHER_BYTES / 2;
  for (size_t i = 0; i < n; i += 64) __builtin_prefetch(half + i);
}

static inline __attribute__((always_inline)) void dv_sum_rows(dv_row_sums sum_rows, bool has_low, const uint8_t *codes,
                                                              size_t stride, const uint32_t *rows, size_t first,
                                                              size_t n_rows, const int8_t *query, int32_t offset,
                                                              int32_t *out) {
  const size_t half = stride / 2;
  size_t i = 0, ahead = rows && n_rows > DV_GATHER_FEW ? 0 : n_rows;
  const uint8_t *row[4];
  for (; n_rows - i >= 4; i += 4) {
    for (; ahead < n_rows && ahead < i + DV_GATHER_AHEAD; ahead++) {
      const uint8_t *next = codes + dv_code_at(rows[ahead], stride);
      dv_prefetch_half(next, half);
      if (has_low) dv_prefetch_half(next + dv_code_to_low(half), half);
    }
    for (size_t j = 0; j < 4; j++) row[j] = codes + dv_code_at(rows ? rows[i + j] : first + i + j, stride);
    sum_rows(row, 4, half, query, out + i);
    for (size_t j = 0; j < 4; j++) out[i + j] -= offset;
  }
  for (; i < n_rows; i++) {
    row[0] = codes + dv_code_at(rows ? rows[i] : first + i, stride);
    sum_rows(row, 1, half, query, out + i);
    out[i] -= offset;
  }
}

/* Whole codes of either form; what is too much in the sums of each. */
static inline __attribute__((always_inline)) void dv_sum_codes(dv_row_sums sum_halves, int32_t halves_offset,
                                                               dv_row_sums sum_bytes, int32_t bytes_offset,
                                                               const uint8_t *codes, size_t stride,
                                                               const uint32_t *rows, size_t first, size_t n_rows,
                                                               const int8_t *query, int32_t *out) {
  if (dv_code_has_halves(stride)) {
    dv_sum_rows(sum_halves, true, codes, stride, rows, first, n_rows, query, halves_offset, out);
  } else {
    dv_sum_rows(sum_bytes, true, codes, stride, rows, first, n_rows, query, bytes_offset, out);
  }
}
#endif

#endif
