/* dv_sketch.c: see the header. Integers and powers of two: the same bytes everywhere. */
#include "dv_sketch.h"

DV_FP_STRICT_BEGIN

enum { SKETCH_SUMS = DV_SKETCH_BYTES - 1, SKETCH_BIAS = 192 };

/* 2^(e - SKETCH_BIAS). */
static inline double sketch_unit(uint8_t e) {
  uint64_t bits = (uint64_t)(1023 - SKETCH_BIAS + (int)e) << 52;
  double unit;
  memcpy(&unit, &bits, sizeof unit);
  return unit;
}

void dv_sketch_make(const dv_code_row *row, const int8_t *code, size_t n, uint8_t out[DV_SKETCH_BYTES]) {
  int32_t sums[16] = {0}; /* a component is below 2^7, and there are at most 2^16 */
  memset(out, 0, DV_SKETCH_BYTES);
  if (!(row->norm_sq > 0.0f) || !dv_is_finite(row->norm_sq)) return;
  for (size_t i = 0; i < n; i++) {
    uint32_t h = ((uint32_t)i + 1) * 0x9e3779b1u;
    h = (h ^ h >> 15) * 0x85ebca77u;
    uint32_t at = (h >> 16) * SKETCH_SUMS >> 16;
    sums[at] += (h & 0x8000u) ? -code[i] : code[i];
  }
  /* The exponent of the squared length, halved (rounded down), is that of the length: unit = 2^that / 64. */
  int exponent = (int)(dv_float_bits(row->norm_sq) >> 23) - 127;
  int e = (exponent - (exponent & 1)) / 2 - 6 + SKETCH_BIAS;
  out[0] = (uint8_t)e;
  double to_unit = (double)row->scale / sketch_unit((uint8_t)e);
  for (size_t i = 0; i < SKETCH_SUMS; i++) {
    double q = (double)sums[i] * to_unit;
    q = q > 127.0 ? 127.0 : q < -127.0 ? -127.0 : q;
    int rounded = (int)(q < 0.0 ? q - 0.5 : q + 0.5);
    out[1 + i] = (uint8_t)(rounded & 0xff);
  }
}

float dv_sketch_distance_sq(const uint8_t a[DV_SKETCH_BYTES], const uint8_t b[DV_SKETCH_BYTES]) {
  double unit_a = a[0] ? sketch_unit(a[0]) : 0.0, unit_b = b[0] ? sketch_unit(b[0]) : 0.0, sum = 0.0;
  for (size_t i = 1; i < DV_SKETCH_BYTES; i++) {
    double d = unit_a * (double)(int8_t)a[i] - unit_b * (double)(int8_t)b[i];
    sum += d * d;
  }
  return (float)sum;
}

DV_FP_STRICT_END
