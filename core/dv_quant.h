/*
 * dv_quant.h: int8 and 1-bit codes of vectors, with error bounds that are proofs.
 *
 * int8: x ~ scale * code, code in -127..127. For cosine the row is first divided by its norm (in double), so its code
 * stands for the unit vector. What is stored is 4 bytes of `meta` and n code bytes:
 *
 *   meta = the top 24 bits of the f32 scale (rounded up, so that no component clips) | residual byte
 *   residual byte r: |x - scale*code|_2 <= r/255 * scale * sqrt(n)/2 (rounded up; 1/2 a step a component is the worst
 *   case)
 *
 * With a = scale*code of the row, b = that of the query, and residuals |x - a| <= r, |q - b| <= s, the triangle and the
 * Cauchy-Schwarz inequality give
 *
 *   | |x-q| - |a-b| | <= r + s               for l2; for cosine too, whose distance is |x-q|^2 / 2 of unit vectors
 *   | x.q - a.b |     <= |a| s + r |q|       for ip and cosine
 *
 * and a.b, |a|, |b| are known exactly: an interval that surely contains the row's distance (dv_code_bounds), which is
 * what makes the scan of codes followed by a re-rank provably exact. A second code for what the first left of the query
 * makes s vanish and the interval half as wide (dv_code_bounds_fine), at the price of a second product: for survivors.
 *
 * 1-bit: signs of x - c, where c is a point in the middle of the table's rows, 32 rows interleaved (see scan_bits), and
 * two floats a row that turn a sum over its signs into an estimate of its distance (RaBitQ without rotation, Gao & Long
 * 2024). An estimate only: it picks candidates for the int8 tier. c matters: of vectors whose components are all
 * positive, signs around zero say nothing.
 */
#ifndef DV_QUANT_H
#define DV_QUANT_H

#include "dv_alloc.h"
#include "dv_metric.h"

#include <math.h>

/* Bytes from one row's codes to the next in memory: n rounded up to 64, the padding that of zeros. */
static inline size_t dv_code_stride(size_t n) { return (n + 63u) & ~(size_t)63u; }

/* Words of sign bits a row; a block of DV_BITS_ROWS rows has DV_BITS_ROWS times as many. */
static inline size_t dv_bit_words(size_t n) { return (n + 63u) / 64u; }
static inline size_t dv_bit_blocks(size_t n_rows) { return (n_rows + DV_BITS_ROWS - 1) / DV_BITS_ROWS; }

/* Writes n codes (and nothing of the padding) and returns meta. All-zero vectors get meta 0 and codes 0. v is
 * finite. */
uint32_t dv_code_encode(dv_metric m, const float *v, size_t n, int8_t *code);

/* Packs dv_code_stride(n) codes, those behind the n-th zero, as rows have them in memory (simd/dv_simd.h), in the place of
 * this row; and takes them out again, all of them: their sum. Any bytes are the codes of some row. */
void dv_code_pack(const int8_t *code, size_t n, uint8_t *codes, size_t row);
int32_t dv_code_unpack(const uint8_t *codes, size_t row, size_t n, int8_t *code);
/* Bytes of n_rows packed rows. */
static inline size_t dv_code_bytes(size_t n_rows, size_t n) {
  return (n_rows + DV_CODE_ROWS - 1) / DV_CODE_ROWS * DV_CODE_ROWS * dv_code_stride(n);
}

static inline float dv_code_scale(uint32_t meta) { return dv_bits_float(meta & 0xffffff00u); }

/* What a scan needs of a row besides its codes, derived from codes and meta when they are loaded. */
typedef struct dv_code_row {
  float scale;
  float residual; /* upper bound of |x - scale*code|_2 */
  float norm_sq; /* scale^2 * sum code^2, rounded to nearest */
} dv_code_row;

/* Of bytes that dv_code_encode did not write, bounds are meaningless but nothing is undefined. */
dv_code_row dv_code_row_of(uint32_t meta, const int8_t *code, size_t n);

/* A query coded for scans. Owned buffers; free with dv_code_query_free. */
typedef struct dv_code_query {
  dv_metric metric;
  size_t n;
  float *unit; /* cosine: v/|v|; else a copy of v */
  double norm; /* |q|_2 of what is coded: cosine: 1, or 0 for a zero vector */
  int8_t *code; /* n codes, padded with zeros to dv_code_stride(n) */
  int32_t sum; /* of them */
  bool is_fine; /* dv_code_query_refine has set code_low, scale_low, residual_low and fine_sq */
  int8_t *code_low; /* the same of what code leaves: q ~ scale*code + scale_low*code_low */
  int32_t sum_low;
  float scale;
  float scale_low;
  float residual; /* upper bound of |q - scale*code|_2 */
  float residual_low; /* upper bound of |q - scale*code - scale_low*code_low|_2 */
  double code_sq; /* |scale*code|^2 */
  double fine_sq; /* |scale*code + scale_low*code_low|^2 */
  double rounding; /* dv_metric_error(n) */
  float weight; /* dv_code_estimate is about weight * row scale * dot */
  double inverse; /* what is coded is v * inverse */
  const dv_alloc *alloc;
} dv_code_query;

/* v is finite. DV_NOMEM: nothing is owned. */
dv_status dv_code_query_init(dv_code_query *q, dv_metric m, const float *v, size_t n, const dv_alloc *alloc);
/* Codes what the code has left, for dv_code_bounds_fine: of use where many rows are looked at. v as before. */
void dv_code_query_refine(dv_code_query *q, const float *v);
void dv_code_query_free(dv_code_query *q);

/* From the product of row and query codes (scan_code): an estimate that orders rows like the true distance (an increasing
 * function of it: for l2 the squared distance, for cosine and ip minus the dot product; for ip divided by a power of two
 * near |q|, so that it neither overflows nor underflows). Not for l1. */
DV_FP_STRICT_BEGIN
static inline float dv_code_product(float weight, const dv_code_row *row, int32_t dot) {
  return (float)dot * weight * row->scale;
}
static inline float dv_code_estimate(const dv_code_query *q, const dv_code_row *row, int32_t dot) {
  float product = dv_code_product(q->weight, row, dot);
  return q->metric == DV_L2 ? row->norm_sq + (float)q->code_sq - 2.0f * product : -product;
}

/* How far the estimate may be from what it estimates: four standard deviations, as if what codes leave out had nothing to do
 * with what it is multiplied by. Not a bound, as dv_code_bounds are: for who would measure many rows in vain. */
static inline float dv_code_doubt(const dv_code_query *q, const dv_code_row *row) {
  double r = (double)row->residual * q->norm, s = (double)q->residual;
  double deviation = sqrt((r * r + (double)row->norm_sq * s * s) / (double)q->n);
  double unit = q->metric == DV_L2 ? 2.0 : q->scale > 0.0f ? (double)q->weight / (double)q->scale : 1.0;
  return (float)(4.0 * unit * deviation);
}
DV_FP_STRICT_END

/* ... and the interval [*low, *high] that contains the row's dv_distance, f32 rounding of the kernels included; exact
 * real arithmetic would not need the slack, but equality with the full f32 scan does. Values too large for these sums
 * give wide intervals, up to -infinity .. infinity; never NaN. Not for l1. */
void dv_code_bounds(const dv_code_query *q, const dv_code_row *row, int32_t dot, double *low, double *high);

/* The same with dot_low, the product of row codes and q->code_low, of a query that is refined: about half as wide. */
void dv_code_bounds_fine(const dv_code_query *q, const dv_code_row *row, int32_t dot, int32_t dot_low, double *low,
                         double *high);

/*
 * Bits. With y = x - c and w = q - c (cosine: x and q of length 1):
 *
 *   y.w  ~  factor * sum_i sign(y_i) w_i,    factor = |y|_2^2 / |y|_1: exact for w = y, unbiased if signs were random
 *   l2         |x-q|^2 = |y|^2 - 2 y.w + |w|^2          offset = |y|^2
 *   cosine, ip    -x.q = -x.c - y.w - q.c + c.c         offset = -x.c
 */

/* The mean of (up to a thousand, evenly spread) rows, as packed codes stand for them; rows with scale 0 do not count.
 * code: room for dv_code_stride(n). */
void dv_bits_center(const uint8_t *codes, const dv_code_row *rows, size_t n_rows, size_t n, int8_t *code,
                    float *center);

/* Writes row `row` of `blocks`, from its int8 code, (dv_bit_words(n)*DV_BITS_ROWS words a block of DV_BITS_ROWS rows) and returns its factor
 * and offset. center may be NULL: zero. A row equal to it, and a row that is not there, have factor 0. */
dv_bit_row dv_bits_set(uint64_t *blocks, size_t row, dv_metric m, const dv_code_row *row_code, const int8_t *code,
                       size_t n, const float *center);

/* A query for sums over bits. Borrows its table: 256 * dv_bit_words(n) bytes from the caller. */
typedef struct dv_bit_query {
  const uint8_t *table; /* for scan_bits */
  float per_sum; /* estimate = offset + factor * (per_sum * sum + base) + constant */
  float base;
  float constant;
} dv_bit_query;

void dv_bit_query_init(dv_bit_query *b, const dv_code_query *q, const float *center, uint8_t *table);

/* What scan_bits' sum says of a row: for l2 its squared distance, for cosine and ip minus the dot product. */
DV_FP_STRICT_BEGIN
static inline float dv_bits_estimate(const dv_bit_query *b, const dv_bit_row *row, uint32_t sum) {
  return row->offset + row->factor * (b->per_sum * (float)(int32_t)sum + b->base) + b->constant;
}
DV_FP_STRICT_END

/* Indices of the `want` smallest of est[0..n), in no order, ties at the border broken by smaller index; returns how
 * many (min(want, n)). keys is scratch of n words. Linear time. NaN sorts last. */
size_t dv_select_smallest(const float *est, size_t n, size_t want, uint32_t *out, uint32_t *keys);

#endif
