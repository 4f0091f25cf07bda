/*
 * dv_delta.c: the payloads of deltas: writing the smallest one, checking hostile ones, folding them into vectors.
 *
 * The grammar stands in dv_delta.h and, with examples, in docs/file-format.md. What is not obvious from it:
 *
 * Counts are not stored. A payload knows its length from the frame or record around it; a count beside the length would
 * be a byte more and a second truth that a hostile file could bend. Sparse: k gaps take at least k bytes and the values
 * 4k, so bytes(first k gaps) + 4k rises with k and meets the payload's length at one k at most.
 *
 * ordered(): read as signed integers, the bit patterns of floats >= 0 rise with the value and those of negative floats
 * fall. Flipping the 31 low bits of the negative ones makes the whole line monotone, with -0.0 = -1 just below 0.0 = 0.
 * The distance between two floats is then the number of floats between them, small for small changes also across zero.
 * All of it is arithmetic mod 2^32, so every pair of bit patterns round-trips, NaNs included; ordered() undoes itself.
 *
 * PLANES: the exponents of an embedding's values fill two or three bits once the block's smallest is known; sign and
 * mantissa are noise and are stored as they are, in byte planes so that both directions vectorise.
 *
 * Every loop over untrusted bytes is bounded by the bytes that are there; nothing here allocates while reading.
 */
#include "dv_delta.h"

#include "dv_vector.h"

/* Folding must round the product and the sum separately. gcc has no such pragma: there it is -ffp-contract=off, and no
 * expression below has both operations in it. */
#if defined(__clang__)
#pragma STDC FP_CONTRACT OFF
#endif

#define DELTA_BLOCK 64u
#define DELTA_BLOCKS_MAX ((DV_MAX_DIMENSIONS + DELTA_BLOCK - 1) / DELTA_BLOCK)
/* 64 values of up to 32 bits, and slack so that eight bytes can be loaded or stored at the last one. */
#define DELTA_PACKED_MAX (DELTA_BLOCK * 4 + 8)

static dv_status delta_fail(dv_detail *detail, dv_status status, uint64_t at, double value) {
  if (detail) {
    detail->at = at;
    detail->value = value;
  }
  return status;
}

/* ---- names ------------------------------------------------------------------------------------------------------- */

const char *dv_op_name(int op) {
  static const char *const names[] = {NULL, "create", "sparse", "dense", "scale", "offset", "delete"};
  return op >= 0 && op < (int)(sizeof names / sizeof *names) ? names[op] : NULL;
}

const char *dv_encoding_name(int encoding) {
  static const char *const names[] = {"none", "sparse", "run", "dense", "diff", "scalar", "planes"};
  return encoding >= 0 && encoding < (int)(sizeof names / sizeof *names) ? names[encoding] : NULL;
}

bool dv_delta_is_pair(unsigned op, unsigned encoding) {
  static const uint8_t encodings[] = {
      0,
      1u << DV_ENC_DENSE | 1u << DV_ENC_PLANES,
      1u << DV_ENC_SPARSE | 1u << DV_ENC_RUN | 1u << DV_ENC_DENSE | 1u << DV_ENC_DIFF,
      1u << DV_ENC_SPARSE | 1u << DV_ENC_RUN | 1u << DV_ENC_DENSE | 1u << DV_ENC_DIFF | 1u << DV_ENC_PLANES,
      1u << DV_ENC_SCALAR,
      1u << DV_ENC_SCALAR,
      1u << DV_ENC_NONE,
  };
  return op < sizeof encodings && encoding < 8 && (encodings[op] >> encoding & 1);
}

/* ---- bits -------------------------------------------------------------------------------------------------------- */

static inline uint32_t delta_ordered(uint32_t u) { return u ^ (0u - (u >> 31)) >> 1; }

static inline uint32_t delta_zigzag(uint32_t d) { return d << 1 ^ (0u - (d >> 31)); }
static inline uint32_t delta_unzigzag(uint32_t z) { return z >> 1 ^ (0u - (z & 1)); }

static inline unsigned delta_bit_length(uint32_t u) {
#if defined(__GNUC__) || defined(__clang__)
  return u ? 32u - (unsigned)__builtin_clz(u) : 0u;
#else
  unsigned n = 0;
  for (; u; u >>= 1) n++;
  return n;
#endif
}

static inline unsigned delta_count_bits(uint64_t u) {
  u -= u >> 1 & 0x5555555555555555u;
  u = (u & 0x3333333333333333u) + (u >> 2 & 0x3333333333333333u);
  u = (u + (u >> 4)) & 0x0f0f0f0f0f0f0f0fu;
  return (unsigned)(u * 0x0101010101010101u >> 56);
}

/* The places of the lowest and highest bits of u, which is not 0. */
static inline unsigned delta_lowest_bit(uint64_t u) {
#if defined(__GNUC__) || defined(__clang__)
  return (unsigned)__builtin_ctzll(u);
#else
  return delta_count_bits((u & (0 - u)) - 1);
#endif
}

static inline unsigned delta_highest_bit(uint64_t u) {
  const uint32_t high = (uint32_t)(u >> 32);
  return high ? 31 + delta_bit_length(high) : delta_bit_length((uint32_t)u) - 1;
}

static inline size_t delta_packed_bytes(size_t m, unsigned width) { return (m * width + 7) / 8; }

static inline size_t delta_block_of(size_t left) { return left < DELTA_BLOCK ? left : DELTA_BLOCK; }

/* z as `width` low bits each, first value in the lowest bits; 8*width bytes. */
static void delta_pack(uint8_t packed[DELTA_PACKED_MAX], const uint32_t z[DELTA_BLOCK], unsigned width) {
  uint64_t bits = 0;
  unsigned fill = 0;
  for (size_t i = 0; i < DELTA_BLOCK; i++) {
    bits |= (uint64_t)z[i] << fill;
    fill += width;
    if (fill >= 32) {
      dv_store_u32(packed, (uint32_t)bits);
      packed += 4;
      bits >>= 32;
      fill -= 32;
    }
  }
}

/* The reverse, of ceil(m*width/8) bytes at p. False if the bits behind the m values are not zero. */
static bool delta_unpack(uint32_t z[DELTA_BLOCK], const uint8_t *p, size_t m, unsigned width) {
  uint8_t packed[DELTA_PACKED_MAX] = {0};
  const uint64_t mask = ((uint64_t)1 << width) - 1;
  uint32_t rest = 0;
  memcpy(packed, p, delta_packed_bytes(m, width));
  for (size_t i = 0, at = 0; i < DELTA_BLOCK; i++, at += width)
    z[i] = (uint32_t)(dv_load_u64(packed + (at >> 3)) >> (at & 7) & mask);
  for (size_t i = m; i < DELTA_BLOCK; i++) rest |= z[i];
  return rest == 0;
}

/* The bits of m floats, zero behind them: blocks are always handled whole, so that loops have a fixed count. */
static inline void delta_load_block(uint32_t u[DELTA_BLOCK], const float *v, size_t m) {
  if (m < DELTA_BLOCK) memset(u, 0, DELTA_BLOCK * sizeof *u);
  memcpy(u, v, m * sizeof *u);
}

/* Index of the first value that is not finite among the `count` floats at p, or count. */
static size_t delta_find_not_finite(const uint8_t *p, size_t count) {
  for (size_t i = 0; i < count; i += DELTA_BLOCK) {
    const size_t m = delta_block_of(count - i);
    float v[DELTA_BLOCK];
    dv_detail detail;
    dv_vector_load(v, p + 4 * i, m);
    if (dv_vector_check(v, m, &detail) != DV_OK) return i + (size_t)detail.at;
  }
  return count;
}

/* ---- sparse and run ---------------------------------------------------------------------------------------------- */

/* A minimal varint below 2^32 from p, which has `left` bytes; returns its length, 0 when malformed. */
static inline size_t delta_read_varint(const uint8_t *p, size_t left, uint64_t *out) {
  uint64_t v = 0;
  for (size_t i = 0; i < 5 && i < left; i++) {
    v |= (uint64_t)(p[i] & 0x7f) << 7 * i;
    if (p[i] < 0x80) {
      *out = v;
      return (i > 0 && p[i] == 0) || v > UINT32_MAX ? 0 : i + 1;
    }
  }
  return 0;
}

/* Are these n bytes all gaps below 128? */
static inline bool delta_all_short(const uint8_t *p, size_t n) {
  uint64_t high = 0;
  for (; n >= 8; p += 8, n -= 8) high |= dv_load_u64(p);
  for (; n > 0; p++, n--) high |= *p;
  return (high & 0x8080808080808080u) == 0;
}

/* Where the values of a sparse payload begin: the length of its gaps; SIZE_MAX when there is no such place. */
static size_t delta_sparse_gap_bytes(const uint8_t *p, size_t n_bytes) {
  if (n_bytes % 5 == 0 && DV_LIKELY(delta_all_short(p, n_bytes / 5))) return n_bytes / 5;
  size_t at = 0;
  for (size_t k = 0; at + 4 * k < n_bytes;) {
    uint64_t gap;
    const size_t n = delta_read_varint(p + at, n_bytes - at, &gap);
    if (n == 0) return SIZE_MAX;
    at += n;
    k++;
    if (at + 4 * k > n_bytes) return SIZE_MAX;
  }
  return at;
}

/* Checks a sparse payload whose indices must lie below `limit` and, unless v is NULL, stores its values in v. */
static inline dv_status delta_sparse(const dv_delta *d, float *v, uint64_t limit, dv_detail *detail) {
  const uint8_t *gaps = d->payload;
  if (d->n_payload == 0) return DV_OK; /* nothing changed; the payload may be NULL */
  const size_t gap_bytes = delta_sparse_gap_bytes(gaps, d->n_payload);
  if (gap_bytes == SIZE_MAX) return delta_fail(detail, DV_CORRUPT, 0, 0);
  const size_t count = (d->n_payload - gap_bytes) / 4;
  const uint8_t *values = gaps + gap_bytes, *end = values;
  uint64_t index = 0;
  for (size_t i = 0; i < count; i++) {
    uint64_t gap = *gaps;
    if (DV_LIKELY(gap < 0x80)) {
      gaps++;
    } else {
      gaps += delta_read_varint(gaps, (size_t)(end - gaps), &gap); /* well formed: gap_bytes has seen it */
    }
    index += gap;
    const float f = dv_load_f32(values + 4 * i);
    if (DV_UNLIKELY(index >= limit)) return delta_fail(detail, DV_INDEX, index, 0);
    if (DV_UNLIKELY(!dv_is_finite(f))) return delta_fail(detail, DV_NOT_FINITE, index, (double)f);
    if (v) v[index] = f;
    index++;
  }
  return DV_OK;
}

static dv_status delta_run(const dv_delta *d, float *v, uint64_t limit, dv_detail *detail) {
  uint64_t start;
  const size_t head = delta_read_varint(d->payload, d->n_payload, &start);
  const size_t value_bytes = d->n_payload - head;
  const size_t count = value_bytes / 4;
  if (head == 0 || count == 0 || value_bytes % 4 != 0) return delta_fail(detail, DV_CORRUPT, 0, 0);
  if (start >= limit || count > limit - start) {
    return delta_fail(detail, DV_INDEX, start >= limit ? start : limit, 0);
  }
  const size_t bad = delta_find_not_finite(d->payload + head, count);
  if (bad < count) {
    return delta_fail(detail, DV_NOT_FINITE, start + bad, (double)dv_load_f32(d->payload + head + 4 * bad));
  }
  if (v) dv_vector_load(v + start, d->payload + head, count);
  return DV_OK;
}

/* ---- dense ------------------------------------------------------------------------------------------------------- */

static dv_status delta_dense(const dv_delta *d, float *v, size_t n, dv_detail *detail) {
  const size_t count = d->n_payload / 4;
  if (d->n_payload % 4 != 0 || count == 0) return delta_fail(detail, DV_CORRUPT, 0, 0);
  if (n ? count != n : count > DV_MAX_DIMENSIONS) return delta_fail(detail, DV_LENGTH, count, 0);
  if (v) {
    dv_vector_load(v, d->payload, n);
    return dv_vector_check(v, n, detail);
  }
  const size_t bad = delta_find_not_finite(d->payload, count);
  if (bad < count) return delta_fail(detail, DV_NOT_FINITE, bad, (double)dv_load_f32(d->payload + 4 * bad));
  return DV_OK;
}

/* ---- diff -------------------------------------------------------------------------------------------------------- */

/* The zigzag differences of a block at p, of which `left` bytes are there; returns the block's length, 0 when
 * malformed. */
static size_t delta_read_diff_block(uint32_t z[DELTA_BLOCK], const uint8_t *p, size_t left, size_t m) {
  uint32_t all = 0;
  if (left == 0 || p[0] > 32) return 0;
  const unsigned width = p[0];
  const size_t n_bytes = 1 + delta_packed_bytes(m, width);
  if (n_bytes > left || !delta_unpack(z, p + 1, m, width)) return 0;
  for (size_t i = 0; i < DELTA_BLOCK; i++) all |= z[i];
  return delta_bit_length(all) == width ? n_bytes : 0;
}

/* n = 0: the number of dimensions is unknown, so only what holds for some number is checked. */
static dv_status delta_check_diff(const dv_delta *d, size_t n, dv_detail *detail) {
  const uint8_t *p = d->payload;
  uint32_t z[DELTA_BLOCK];
  size_t left = d->n_payload;
  for (size_t i = 0; n ? i < n : left > 0; i += DELTA_BLOCK) {
    size_t m = delta_block_of(n - i);
    if (n == 0) {
      if (i >= DV_MAX_DIMENSIONS || p[0] > 32) return delta_fail(detail, DV_CORRUPT, 0, 0);
      for (m = DELTA_BLOCK; m > 1 && 1 + delta_packed_bytes(m, p[0]) > left;) m--;
    }
    const size_t n_bytes = delta_read_diff_block(z, p, left, m);
    if (n_bytes == 0) return delta_fail(detail, DV_CORRUPT, 0, 0);
    p += n_bytes;
    left -= n_bytes;
  }
  return left || d->n_payload == 0 ? delta_fail(detail, DV_CORRUPT, 0, 0) : DV_OK;
}

static dv_status delta_apply_diff(const dv_delta *d, float *v, size_t n, dv_detail *detail) {
  const uint8_t *p = d->payload;
  size_t left = d->n_payload;
  for (size_t i = 0; i < n; i += DELTA_BLOCK) {
    const size_t m = delta_block_of(n - i);
    uint32_t z[DELTA_BLOCK], u[DELTA_BLOCK];
    const size_t n_bytes = delta_read_diff_block(z, p, left, m);
    if (n_bytes == 0) return delta_fail(detail, DV_CORRUPT, 0, 0);
    p += n_bytes;
    left -= n_bytes;
    delta_load_block(u, v + i, m);
    for (size_t j = 0; j < DELTA_BLOCK; j++) u[j] = delta_ordered(delta_ordered(u[j]) + delta_unzigzag(z[j]));
    memcpy(v + i, u, m * sizeof *u);
  }
  if (left) return delta_fail(detail, DV_CORRUPT, 0, 0);
  return dv_vector_check(v, n, detail) == DV_OK ? DV_OK : DV_OVERFLOW;
}

/* ---- planes ------------------------------------------------------------------------------------------------------ */

/* The dimensions of a planes payload whose blocks are the right length for that many; 0 when there is no such number.
 * A block of m values is longer the larger m is, so only the last one can be short and its length tells m. */
static size_t delta_planes_count(const uint8_t *p, size_t left) {
  size_t n = 0;
  while (left >= 2 && p[1] <= 8 && n < DV_MAX_DIMENSIONS) {
    const unsigned width = p[1];
    size_t m = delta_block_of((left - 2) / 3);
    while (m > 0 && 2 + delta_packed_bytes(m, width) + 3 * m > left) m--;
    const size_t n_bytes = 2 + delta_packed_bytes(m, width) + 3 * m;
    if (m == 0 || (m < DELTA_BLOCK && n_bytes != left)) return 0;
    n += m;
    p += n_bytes;
    left -= n_bytes;
  }
  return left ? 0 : n;
}

/* m values of the block at p, which delta_planes_count has measured. */
static bool delta_read_planes_block(uint32_t u[DELTA_BLOCK], const uint8_t *p, size_t m) {
  uint8_t planes[3][DELTA_BLOCK] = {{0}};
  uint32_t all = 0, has_smallest = 0;
  const uint32_t first = p[0];
  const unsigned width = p[1];
  if (!delta_unpack(u, p + 2, m, width)) return false;
  p += 2 + delta_packed_bytes(m, width);
  for (size_t i = 0; i < 3; i++) memcpy(planes[i], p + i * m, m);
  for (size_t i = m; i < DELTA_BLOCK; i++) u[i] = u[0];
  for (size_t i = 0; i < DELTA_BLOCK; i++) {
    all |= u[i];
    has_smallest |= u[i] == 0;
  }
  if (delta_bit_length(all) != width || !has_smallest) return false;
  all = 0;
  for (size_t i = 0; i < DELTA_BLOCK; i++) {
    const uint32_t exponent = first + u[i], high = planes[2][i];
    all |= exponent;
    u[i] = planes[0][i] | (uint32_t)planes[1][i] << 8 | (high & 0x7f) << 16 | exponent << 23 | (high & 0x80) << 24;
  }
  return all < 256;
}

static dv_status delta_planes(const dv_delta *d, float *v, size_t n, dv_detail *detail) {
  const uint8_t *p = d->payload;
  const size_t count = delta_planes_count(p, d->n_payload);
  if (count == 0 || count > DV_MAX_DIMENSIONS) return delta_fail(detail, DV_CORRUPT, 0, 0);
  if (n && count != n) return delta_fail(detail, DV_LENGTH, count, 0);
  for (size_t i = 0; i < count; i += DELTA_BLOCK) {
    const size_t m = delta_block_of(count - i);
    uint32_t u[DELTA_BLOCK];
    float f[DELTA_BLOCK];
    dv_detail at;
    if (!delta_read_planes_block(u, p, m)) return delta_fail(detail, DV_CORRUPT, 0, 0);
    p += 2 + delta_packed_bytes(m, p[1]) + 3 * m;
    memcpy(f, u, sizeof f);
    if (dv_vector_check(f, m, &at) != DV_OK) return delta_fail(detail, DV_NOT_FINITE, i + at.at, at.value);
    if (v) memcpy(v + i, f, m * sizeof *f);
  }
  return DV_OK;
}

/* ---- scale and offset -------------------------------------------------------------------------------------------- */

/* As arithmetic: from `(u & 0x7fffffff) != 0` clang makes a comparison of floats, which the FPU then answers its
 * way. */
static inline bool delta_is_subnormal(uint32_t u) { return (u & 0x7fffffffu) - 1 < 0x007fffffu; }

/* A float as a double, for an FPU that takes subnormals for zero. */
static double delta_widen(uint32_t u) {
  if ((u & 0x7f800000u) != 0) return (double)dv_bits_float(u);
  const double magnitude = (double)(u & 0x7fffffffu) * 0x1p-149;
  return u >> 31 ? -magnitude : magnitude;
}

/* One step of folding where a subnormal is involved. Doubles hold products of floats exactly, sums of subnormals too,
 * and have bits enough (53 >= 2*24 + 2) that rounding twice is rounding once. */
static float delta_fold_exactly(dv_op op, uint32_t a, uint32_t b) {
  const double x = delta_widen(a), y = delta_widen(b);
  return dv_float_nearest(op == DV_OP_SCALE ? x * y : x + y);
}

/* Folds `by` into m <= 64 values. Hosts may have switched their FPU to flush subnormals to zero (a library built with
 * -ffast-math does that to the whole process); the same log would fold to other bits there. So wherever a subnormal
 * goes in or could come out, the step is done again in doubles, which have room below. */
static void delta_fold_block(dv_op op, float *v, size_t m, uint32_t by_bits) {
  const float by = dv_bits_float(by_bits);
  uint32_t before[DELTA_BLOCK], after[DELTA_BLOCK], is_tiny = delta_is_subnormal(by_bits);
  float result[DELTA_BLOCK];
  delta_load_block(before, v, m);
  memcpy(result, before, sizeof result);
  if (op == DV_OP_SCALE) {
    for (size_t i = 0; i < DELTA_BLOCK; i++) result[i] = result[i] * by;
  } else {
    for (size_t i = 0; i < DELTA_BLOCK; i++) result[i] = result[i] + by;
  }
  memcpy(after, result, sizeof after);
  for (size_t i = 0; i < DELTA_BLOCK; i++) {
    const int32_t in = (int32_t)(before[i] & 0x7fffffffu), out = (int32_t)(after[i] & 0x7fffffffu);
    const int32_t smaller = in < out ? in : out;
    is_tiny |= smaller < 0x00800000 ? (uint32_t)in : 0; /* zero itself is safe: what comes of it is exact */
  }
  if (DV_UNLIKELY(is_tiny)) {
    for (size_t i = 0; i < m; i++) result[i] = delta_fold_exactly(op, before[i], by_bits);
  }
  memcpy(v, result, m * sizeof *v);
}

static dv_status delta_scalar(const dv_delta *d, float *v, size_t n, dv_detail *detail) {
  if (d->n_payload != 4) return delta_fail(detail, DV_CORRUPT, 0, 0);
  const uint32_t by = dv_load_u32(d->payload);
  if (!dv_is_finite(dv_bits_float(by))) return delta_fail(detail, DV_NOT_FINITE, 0, (double)dv_bits_float(by));
  if (!v) return DV_OK;
  for (size_t i = 0; i < n; i += DELTA_BLOCK) delta_fold_block(d->op, v + i, delta_block_of(n - i), by);
  return dv_vector_check(v, n, detail) == DV_OK ? DV_OK : DV_OVERFLOW;
}

/* ---- the two readers --------------------------------------------------------------------------------------------- */

dv_status dv_delta_check(const dv_delta *d, size_t n, dv_detail *detail) {
  if (!dv_delta_is_pair((unsigned)d->op, (unsigned)d->encoding)) return delta_fail(detail, DV_CORRUPT, 0, 0);
  const uint64_t limit = n ? n : (uint64_t)UINT32_MAX + 1;
  switch (d->encoding) {
  case DV_ENC_NONE: return d->n_payload == 0 ? DV_OK : delta_fail(detail, DV_CORRUPT, 0, 0);
  case DV_ENC_SPARSE: return delta_sparse(d, NULL, limit, detail);
  case DV_ENC_RUN: return delta_run(d, NULL, limit, detail);
  case DV_ENC_DENSE: return delta_dense(d, NULL, n, detail);
  case DV_ENC_DIFF: return delta_check_diff(d, n, detail);
  case DV_ENC_SCALAR: return delta_scalar(d, NULL, n, detail);
  case DV_ENC_PLANES: return delta_planes(d, NULL, n, detail);
  }
  return delta_fail(detail, DV_CORRUPT, 0, 0);
}

dv_status dv_delta_apply(const dv_delta *d, float *v, size_t n, dv_detail *detail) {
  DV_ASSERT(n > 0);
  if (!dv_delta_is_pair((unsigned)d->op, (unsigned)d->encoding)) return delta_fail(detail, DV_CORRUPT, 0, 0);
  switch (d->encoding) {
  case DV_ENC_NONE: return d->n_payload == 0 ? DV_OK : delta_fail(detail, DV_CORRUPT, 0, 0);
  case DV_ENC_SPARSE: return delta_sparse(d, v, n, detail);
  case DV_ENC_RUN: return delta_run(d, v, n, detail);
  case DV_ENC_DENSE: return delta_dense(d, v, n, detail);
  case DV_ENC_DIFF: return delta_apply_diff(d, v, n, detail);
  case DV_ENC_SCALAR: return delta_scalar(d, v, n, detail);
  case DV_ENC_PLANES: return delta_planes(d, v, n, detail);
  }
  return delta_fail(detail, DV_CORRUPT, 0, 0);
}

void dv_delta_each(const dv_delta *d, void (*visit)(void *ctx, uint32_t index, float value), void *ctx) {
  if (d->n_payload == 0) return;
  if (d->encoding == DV_ENC_SPARSE) {
    const uint8_t *gaps = d->payload;
    const size_t gap_bytes = delta_sparse_gap_bytes(gaps, d->n_payload);
    if (gap_bytes == SIZE_MAX) return;
    const uint8_t *values = gaps + gap_bytes, *end = gaps + d->n_payload;
    for (uint64_t index = 0, gap = 0; values < end; values += 4, index++) {
      gaps += delta_read_varint(gaps, (size_t)(end - gaps), &gap);
      index += gap;
      visit(ctx, (uint32_t)index, dv_load_f32(values));
    }
  } else if (d->encoding == DV_ENC_RUN) {
    uint64_t start;
    const size_t head = delta_read_varint(d->payload, d->n_payload, &start);
    if (head == 0) return;
    for (size_t at = head; at + 4 <= d->n_payload; at += 4) visit(ctx, (uint32_t)start++, dv_load_f32(d->payload + at));
  }
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

static void delta_done(dv_buf *out, dv_delta *d, dv_op op, dv_encoding encoding, size_t n_bytes) {
  out->n += n_bytes;
  d->op = op;
  d->encoding = encoding;
  d->payload = NULL;
  d->n_payload = n_bytes;
}

/* Sorts (index << 32 | position) keys. Heap sort: no scratch, no bad case. */
static void delta_sort(uint64_t *keys, size_t n) {
  for (size_t start = n / 2, end = n; end > 1;) {
    uint64_t key;
    if (start > 0) {
      key = keys[--start];
    } else {
      key = keys[--end];
      keys[end] = keys[0];
    }
    size_t hole = start;
    for (size_t child; (child = 2 * hole + 1) < end; hole = child) {
      if (child + 1 < end && keys[child + 1] > keys[child]) child++;
      if (keys[child] <= key) break;
      keys[hole] = keys[child];
    }
    keys[hole] = key;
  }
}

/* The payload of pairs with rising indices, of which element i is at position order[i] (low 32 bits; NULL: at i). */
static dv_status delta_write_pairs(dv_buf *out, dv_delta *d, const uint32_t *indices, const float *values,
                                   const uint64_t *order, size_t count) {
  size_t n_bytes, at = 0;
  if (!dv_mul_size(count, 9, &n_bytes) || n_bytes > SIZE_MAX - 10) {
    out->status = DV_NOMEM;
    return DV_NOMEM;
  }
  if (!dv_buf_reserve(out, n_bytes + 10)) return out->status;
  uint8_t *p = out->data + out->n;
  const uint32_t first = count == 0 ? 0 : indices[order ? (uint32_t)order[0] : 0];
  const uint32_t last = count == 0 ? 0 : indices[order ? (uint32_t)order[count - 1] : count - 1];
  dv_encoding encoding = DV_ENC_SPARSE;
  if (count >= 2 && (size_t)(last - first) == count - 1) { /* no gaps: the start alone is smaller */
    encoding = DV_ENC_RUN;
    at = dv_put_varint(p, first);
  } else {
    uint64_t next = 0;
    for (size_t i = 0; i < count; i++) {
      const uint32_t index = indices[order ? (uint32_t)order[i] : i];
      at += dv_put_varint(p + at, index - next);
      next = (uint64_t)index + 1;
    }
  }
  for (size_t i = 0; i < count; i++, at += 4) dv_store_f32(p + at, values[order ? (uint32_t)order[i] : i]);
  delta_done(out, d, DV_OP_SPARSE, encoding, at);
  return DV_OK;
}

dv_status dv_delta_encode_sparse(dv_buf *out, dv_delta *d, const uint32_t *indices, const float *values, size_t count,
                                 size_t n_dims, dv_detail *detail) {
  const uint64_t limit = n_dims ? n_dims : (uint64_t)UINT32_MAX + 1;
  bool is_rising = true;
  for (size_t i = 0; i < count; i++) {
    if (indices[i] >= limit) return delta_fail(detail, DV_INDEX, indices[i], 0);
    if (!dv_is_finite(values[i])) return delta_fail(detail, DV_NOT_FINITE, indices[i], (double)values[i]);
    is_rising &= i == 0 || indices[i] > indices[i - 1];
  }
  if (out->status != DV_OK) return out->status;
  if (is_rising) return delta_write_pairs(out, d, indices, values, NULL, count);
  if (count > UINT32_MAX) return DV_LIMIT;
  uint64_t *order = dv_alloc_array(out->alloc, NULL, count, sizeof *order);
  if (!order) {
    out->status = DV_NOMEM;
    return DV_NOMEM;
  }
  for (size_t i = 0; i < count; i++) order[i] = (uint64_t)indices[i] << 32 | i;
  delta_sort(order, count);
  dv_status status = DV_OK;
  for (size_t i = 1; i < count && status == DV_OK; i++) {
    if (order[i] >> 32 == order[i - 1] >> 32) status = delta_fail(detail, DV_DUPLICATE, order[i] >> 32, 0);
  }
  if (status == DV_OK) status = delta_write_pairs(out, d, indices, values, order, count);
  dv_alloc_free(out->alloc, order);
  return status;
}

void dv_delta_encode_scalar(dv_buf *out, dv_delta *d, dv_op op, float value) {
  if (!dv_buf_reserve(out, 4)) return;
  dv_store_f32(out->data + out->n, value);
  delta_done(out, d, op, DV_ENC_SCALAR, 4);
}

/* What one pass over both vectors tells about the size of each encoding. */
typedef struct delta_survey {
  size_t changed; /* number of values whose bits differ */
  size_t first, last; /* first and last of them */
  size_t diff_bytes;
  uint64_t masks[DELTA_BLOCKS_MAX]; /* a bit for each that differs, lowest first */
  uint8_t widths[DELTA_BLOCKS_MAX]; /* of the block's differences */
} delta_survey;

static void delta_differences(uint32_t z[DELTA_BLOCK], const float *from, const float *to, size_t m) {
  uint32_t a[DELTA_BLOCK], b[DELTA_BLOCK];
  delta_load_block(a, from, m);
  delta_load_block(b, to, m);
  for (size_t i = 0; i < DELTA_BLOCK; i++) z[i] = delta_zigzag(delta_ordered(b[i]) - delta_ordered(a[i]));
}

/* A bit for each value that is not zero. */
static uint64_t delta_nonzero_mask(const uint32_t z[DELTA_BLOCK]) {
  uint8_t is_set[DELTA_BLOCK];
  uint64_t mask = 0;
  for (size_t i = 0; i < DELTA_BLOCK; i++) is_set[i] = z[i] != 0;
  /* Eight bytes of 0 or 1 times this: the i-th lands in bit 56 + i, no two products meet, so nothing carries. */
  for (size_t i = 0; i < 8; i++) mask |= (dv_load_u64(is_set + 8 * i) * 0x0102040810204080u >> 56) << 8 * i;
  return mask;
}

static void delta_take_survey(delta_survey *s, const float *from, const float *to, size_t n) {
  s->changed = s->first = s->last = s->diff_bytes = 0;
  for (size_t i = 0; i < n; i += DELTA_BLOCK) {
    const size_t m = delta_block_of(n - i);
    uint32_t z[DELTA_BLOCK], all = 0;
    if (memcmp(from + i, to + i, m * sizeof *to) == 0) {
      s->widths[i / DELTA_BLOCK] = 0;
      s->masks[i / DELTA_BLOCK] = 0;
      s->diff_bytes++;
      continue;
    }
    delta_differences(z, from + i, to + i, m);
    for (size_t j = 0; j < DELTA_BLOCK; j++) all |= z[j];
    const unsigned width = delta_bit_length(all);
    const uint64_t mask = delta_nonzero_mask(z);
    s->widths[i / DELTA_BLOCK] = (uint8_t)width;
    s->masks[i / DELTA_BLOCK] = mask;
    s->diff_bytes += 1 + delta_packed_bytes(m, width);
    if (s->changed == 0) s->first = i + delta_lowest_bit(mask);
    s->last = i + delta_highest_bit(mask);
    s->changed += delta_count_bits(mask);
  }
}

/* Writes the sparse payload at p, which has room for nine bytes a changed value; returns its length. */
static size_t delta_write_changed(uint8_t *p, const delta_survey *s, const float *to, size_t n) {
  uint8_t *const values = p + 5 * s->changed, *end = values;
  size_t at = 0, next = 0;
  for (size_t i = 0; i < n; i += DELTA_BLOCK) {
    for (uint64_t mask = s->masks[i / DELTA_BLOCK]; mask; mask &= mask - 1, end += 4) {
      const size_t index = i + delta_lowest_bit(mask);
      at += dv_put_varint(p + at, index - next);
      next = index + 1;
      dv_store_f32(end, to[index]);
    }
  }
  memmove(p + at, values, (size_t)(end - values));
  return at + (size_t)(end - values);
}

static void delta_write_diff(uint8_t *p, const delta_survey *s, const float *from, const float *to, size_t n) {
  for (size_t i = 0; i < n; i += DELTA_BLOCK) {
    const size_t m = delta_block_of(n - i);
    const unsigned width = s->widths[i / DELTA_BLOCK];
    *p++ = (uint8_t)width;
    if (width == 0) continue;
    uint32_t z[DELTA_BLOCK];
    uint8_t packed[DELTA_PACKED_MAX];
    delta_differences(z, from + i, to + i, m);
    delta_pack(packed, z, width);
    memcpy(p, packed, delta_packed_bytes(m, width));
    p += delta_packed_bytes(m, width);
  }
}

/* A block's bits with the first value repeated behind the last: fixed counts again, and the exponents stay in their
 * range. */
static void delta_load_repeated(uint32_t u[DELTA_BLOCK], const float *v, size_t m) {
  memcpy(u, v, m * sizeof *u);
  for (size_t i = m; i < DELTA_BLOCK; i++) u[i] = u[0];
}

/* Smallest exponent of a block and the width of what the others have above it. */
static unsigned delta_exponent_width(const uint32_t u[DELTA_BLOCK], uint32_t *smallest) {
  int32_t low = UINT8_MAX, high = 0; /* signed: the comparison that SSE2 has */
  for (size_t i = 0; i < DELTA_BLOCK; i++) {
    const int32_t exponent = (int32_t)(u[i] >> 23 & 0xff);
    low = exponent < low ? exponent : low;
    high = exponent > high ? exponent : high;
  }
  *smallest = (uint32_t)low;
  return delta_bit_length((uint32_t)(high - low));
}

static size_t delta_planes_bytes(const float *v, size_t n) {
  size_t n_bytes = 0;
  for (size_t i = 0; i < n; i += DELTA_BLOCK) {
    const size_t m = delta_block_of(n - i);
    uint32_t u[DELTA_BLOCK], smallest;
    delta_load_repeated(u, v + i, m);
    n_bytes += 2 + delta_packed_bytes(m, delta_exponent_width(u, &smallest)) + 3 * m;
  }
  return n_bytes;
}

static void delta_write_planes(uint8_t *p, const float *v, size_t n) {
  for (size_t i = 0; i < n; i += DELTA_BLOCK) {
    const size_t m = delta_block_of(n - i);
    uint32_t u[DELTA_BLOCK], z[DELTA_BLOCK], smallest;
    uint8_t packed[DELTA_PACKED_MAX], planes[3][DELTA_BLOCK];
    delta_load_repeated(u, v + i, m);
    const unsigned width = delta_exponent_width(u, &smallest);
    for (size_t j = 0; j < DELTA_BLOCK; j++) z[j] = (u[j] >> 23 & 0xff) - smallest;
    for (size_t j = m; j < DELTA_BLOCK; j++) z[j] = 0;
    p[0] = (uint8_t)smallest;
    p[1] = (uint8_t)width;
    p += 2;
    delta_pack(packed, z, width);
    memcpy(p, packed, delta_packed_bytes(m, width));
    p += delta_packed_bytes(m, width);
    for (size_t j = 0; j < DELTA_BLOCK; j++) planes[0][j] = (uint8_t)u[j];
    for (size_t j = 0; j < DELTA_BLOCK; j++) planes[1][j] = (uint8_t)(u[j] >> 8);
    for (size_t j = 0; j < DELTA_BLOCK; j++) planes[2][j] = (uint8_t)((u[j] >> 16 & 0x7f) | (u[j] >> 24 & 0x80));
    for (size_t j = 0; j < 3; j++, p += m) memcpy(p, planes[j], m);
  }
}

void dv_delta_encode_dense(dv_buf *out, dv_delta *d, dv_op op, const float *from, const float *to, size_t n,
                           dv_compression compression) {
  DV_ASSERT(n <= DV_MAX_DIMENSIONS);
  const size_t dense_bytes = 4 * n;
  dv_encoding best = DV_ENC_DENSE;
  size_t best_bytes = dense_bytes;
  delta_survey s;
  s.first = s.last = 0;
  if (compression != DV_COMPRESSION_OFF && from && op != DV_OP_CREATE) {
    delta_take_survey(&s, from, to, n);
    const size_t run_bytes = dv_varint_size(s.first) + 4 * (s.last - s.first + 1);
    if (s.diff_bytes < best_bytes) {
      best = DV_ENC_DIFF;
      best_bytes = s.diff_bytes;
    }
    if (s.changed > 0 && run_bytes <= best_bytes) {
      best = DV_ENC_RUN;
      best_bytes = run_bytes;
    }
    /* What the gaps take is known once they are written: below the cheapest case it is worth trying. */
    if (5 * s.changed <= best_bytes) {
      if (!dv_buf_reserve(out, 9 * s.changed + 10)) return;
      const size_t n_bytes = delta_write_changed(out->data + out->n, &s, to, n);
      if (n_bytes <= best_bytes) {
        best = DV_ENC_SPARSE;
        best_bytes = n_bytes;
      }
    }
  }
  if (compression == DV_COMPRESSION_MAX && best_bytes > 3 * n) {
    const size_t n_bytes = delta_planes_bytes(to, n);
    if (n_bytes < best_bytes) {
      best = DV_ENC_PLANES;
      best_bytes = n_bytes;
    }
  }
  if (!dv_buf_reserve(out, best_bytes)) return;
  uint8_t *p = out->data + out->n;
  switch (best) {
  case DV_ENC_SPARSE: break; /* is there already */
  case DV_ENC_DIFF: delta_write_diff(p, &s, from, to, n); break;
  case DV_ENC_PLANES: delta_write_planes(p, to, n); break;
  case DV_ENC_RUN:
    p += dv_put_varint(p, s.first);
    dv_vector_store(p, to + s.first, s.last - s.first + 1);
    break;
  default: dv_vector_store(p, to, n); break;
  }
  delta_done(out, d, op, best, best_bytes);
}
