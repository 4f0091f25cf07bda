/*
 * dv_vector.c: numbers and vectors between text, blob and float.
 *
 * Reading. A decimal w * 10^q, w being the first 19 digits, is multiplied out in 192 bits with a power of ten that is
 * known to within three units of its 128 bits. That decides the rounding to 53 bits unless the true value may lie on
 * the other side of the middle between two doubles; then, and when digits beyond the 19th matter, exact integers of up
 * to 3072 bits decide. No floating point is involved, so the host's rounding mode, extended precision or flushing of
 * subnormals cannot change a bit.
 *
 * Writing. The Schubfach method of Raffaello Giulietti (2020), in the arrangement for floats by Alexander Bolz: the
 * boundaries of the interval of reals that round to f are scaled by a power of ten so that the wanted decimal is one of
 * four integers. That the result reads back as f, and that nothing with fewer digits does, was checked for every float
 * there is (tests/unit/check_vector.c does it for a sample).
 *
 * Both use one small table of powers: 10^(28i) and 5^j, multiplied together when needed.
 */
#include "dv_vector.h"

/* ---- blobs ------------------------------------------------------------------------------------------------------- */

#if defined(__BYTE_ORDER__) && __BYTE_ORDER__ == __ORDER_BIG_ENDIAN__
#define VECTOR_IS_BIG_ENDIAN 1
#else
#define VECTOR_IS_BIG_ENDIAN 0
#endif

void dv_vector_load(float *v, const uint8_t *blob, size_t n) {
  if (n == 0) return;
  memcpy(v, blob, n * sizeof *v);
  if (VECTOR_IS_BIG_ENDIAN) {
    for (size_t i = 0; i < n; i++) v[i] = dv_load_f32((const uint8_t *)&v[i]);
  }
}

void dv_vector_store(uint8_t *blob, const float *v, size_t n) {
  if (n == 0) return;
  if (VECTOR_IS_BIG_ENDIAN) {
    for (size_t i = 0; i < n; i++) dv_store_f32(blob + 4 * i, v[i]);
  } else {
    memcpy(blob, v, n * sizeof *v);
  }
}

dv_status dv_vector_check(const float *v, size_t n, dv_detail *detail) {
  size_t i = 0;
  /* Adding one to an exponent of all ones carries into the sign bit's place. A fixed count and one word at a time: what any
   * compiler makes vectors of, clang for WebAssembly at -Os too. */
  for (; n - i >= 64; i += 64) {
    uint32_t carry = 0;
    for (size_t j = 0; j < 64; j++) {
      uint32_t u;
      memcpy(&u, v + i + j, sizeof u);
      carry |= (u & 0x7fffffffu) + 0x00800000u;
    }
    if (DV_UNLIKELY(carry >> 31)) break;
  }
  for (; i < n; i++) {
    if (DV_LIKELY(dv_is_finite(v[i]))) continue;
    if (detail) {
      detail->at = i;
      detail->value = (double)v[i];
    }
    return DV_NOT_FINITE;
  }
  return DV_OK;
}

float dv_float_nearest(double d) {
  uint64_t u;
  memcpy(&u, &d, sizeof u);
  const uint32_t sign = (uint32_t)(u >> 32) & 0x80000000u;
  const int exponent = (int)(u >> 52 & 0x7ff) - 1023;
  if (exponent == 1024 && (u << 12) != 0) return dv_bits_float(sign | 0x7fc00000u);
  if (exponent > 127) return dv_bits_float(sign | 0x7f800000u);
  if (exponent < -150) return dv_bits_float(sign);
  const uint64_t significand = (u & 0x000fffffffffffffu) | 0x0010000000000000u;
  const int shift = exponent >= -126 ? 29 : 29 - 126 - exponent;
  const uint64_t rest = significand & (((uint64_t)1 << shift) - 1), half = (uint64_t)1 << (shift - 1);
  uint32_t r = (uint32_t)(significand >> shift);
  r += rest > half || (rest == half && (r & 1));
  /* The leading bit of a normal r adds the one that is missing in the exponent, as does a carry out of rounding. */
  return dv_bits_float(sign | ((exponent >= -126 ? (uint32_t)(exponent + 126) << 23 : 0) + r));
}

/* ---- powers of ten ----------------------------------------------------------------------------------------------- */

typedef struct vector_u128 {
  uint64_t high, low;
} vector_u128;

static inline vector_u128 vector_multiply(uint64_t a, uint64_t b) {
#if defined(__SIZEOF_INT128__) && !defined(__wasm__)
  /* not on wasm, where it would import a helper function that hosts do not have */
  __extension__ typedef unsigned __int128 u128;
  const u128 p = (u128)a * b;
  return (vector_u128){(uint64_t)(p >> 64), (uint64_t)p};
#else
  const uint64_t low = (a & UINT32_MAX) * (b & UINT32_MAX);
  const uint64_t cross = (a >> 32) * (b & UINT32_MAX) + (low >> 32);
  const uint64_t other = (a & UINT32_MAX) * (b >> 32) + (cross & UINT32_MAX);
  return (vector_u128){(a >> 32) * (b >> 32) + (cross >> 32) + (other >> 32), other << 32 | (low & UINT32_MAX)};
#endif
}

/* The top 128 of the 192 bits of a * b, shifted so that the first is set. 1 is added to *shift if that took a shift. */
static inline vector_u128 vector_multiply_top(vector_u128 a, uint64_t b, int *shift) {
  const vector_u128 low = vector_multiply(a.low, b);
  vector_u128 p = vector_multiply(a.high, b);
  p.low += low.high;
  p.high += p.low < low.high;
  if (!(p.high >> 63)) {
    p.high = p.high << 1 | p.low >> 63;
    p.low = p.low << 1 | low.low >> 63;
    ++*shift;
  }
  return p;
}

/* 5^j, first bit set. */
static const uint64_t vector_pow5[28] = {
    0x8000000000000000u, 0xa000000000000000u, 0xc800000000000000u, 0xfa00000000000000u, 0x9c40000000000000u,
    0xc350000000000000u, 0xf424000000000000u, 0x9896800000000000u, 0xbebc200000000000u, 0xee6b280000000000u,
    0x9502f90000000000u, 0xba43b74000000000u, 0xe8d4a51000000000u, 0x9184e72a00000000u, 0xb5e620f480000000u,
    0xe35fa931a0000000u, 0x8e1bc9bf04000000u, 0xb1a2bc2ec5000000u, 0xde0b6b3a76400000u, 0x8ac7230489e80000u,
    0xad78ebc5ac620000u, 0xd8d726b7177a8000u, 0x878678326eac9000u, 0xa968163f0a57b400u, 0xd3c21bcecceda100u,
    0x84595161401484a0u, 0xa56fa5b99019a5c8u, 0xcecb8f27f4200f3au,
};

/* 10^(28i - 364), the top 128 bits, cut. */
static const vector_u128 vector_pow10_steps[25] = {
    {0xe1afa13afbd14d6du, 0x82189c09a3a1ec21u}, {0xe3e27a444d8d98b7u, 0xfd1b1b2308169b25u},
    {0xe61acf033d1a45dfu, 0x6fb92487298e33bdu}, {0xe858ad248f5c22c9u, 0xd1b3400f8f9cff68u},
    {0xea9c227723ee8bcbu, 0x465e15a979c1cadcu}, {0xece53cec4a314ebdu, 0xa4f8bf5635246428u},
    {0xef340a98172aace4u, 0x86fb897116c87c34u}, {0xf18899b1bc3f8ca1u, 0xdc44e6c3cb279ac1u},
    {0xf3e2f893dec3f126u, 0x5a89dba3c3efccfau}, {0xf64335bcf065d37du, 0x4d4617b5ff4a16d5u},
    {0xf8a95fcf88747d94u, 0x75a44c6397ce912au}, {0xfb158592be068d2eu, 0xeed6e2f0f0d56712u},
    {0xfd87b5f28300ca0du, 0x8bca9d6e188853fcu}, {0x8000000000000000u, 0x0000000000000000u},
    {0x813f3978f8940984u, 0x4000000000000000u}, {0x82818f1281ed449fu, 0xbff8f10e7a8921a4u},
    {0x83c7088e1aab65dbu, 0x792667c6da79e0fau}, {0x850fadc09923329eu, 0x03e2cf6bc604ddb0u},
    {0x865b86925b9bc5c2u, 0x0b8a2392ba45a9b2u}, {0x87aa9aff79042286u, 0x90fb44d2f05d0842u},
    {0x88fcf317f22241e2u, 0x441fece3bdf81f03u}, {0x8a5296ffe33cc92fu, 0x82bd6b70d99aaa6fu},
    {0x8bab8eefb6409c1au, 0x1ad089b6c2f7548eu}, {0x8d07e33455637eb2u, 0xdb0b487b6423e1e8u},
    {0x8e679c2f5e44ff8fu, 0x570f09eaa7ea7648u},
};

#define VECTOR_POW10_MIN (-364)

/* 10^q as 128 bits, first bit set; -364 <= q < 336. What is stored is less than one unit too small; the product with an
 * exact 5^j, cut and perhaps doubled, is less than three too small. Exact for 0 <= q < 28. */
static inline vector_u128 vector_pow10(int q) {
  const unsigned at = (unsigned)(q - VECTOR_POW10_MIN);
  int unused = 0;
  return vector_multiply_top(vector_pow10_steps[at / 28], vector_pow5[at % 28], &unused);
}

/* floor(log2(10^q)), right for |q| <= 400. */
static inline int vector_log2_pow10(int q) { return (q * 217706) >> 16; }

/* ---- reading a number -------------------------------------------------------------------------------------------- */

/* A JSON number as its text says: about digits * 10^exponent. */
typedef struct vector_number {
  const char *text;
  size_t length;
  uint64_t digits; /* the first 19 significant ones */
  int64_t exponent;
  bool is_negative;
  bool is_cut; /* there are more digits, not all zero: the number lies between digits and digits + 1 */
} vector_number;

static inline bool vector_is_digit(char c) { return (unsigned char)(c - '0') < 10; }

/* Are these eight digits? And their value. (Lemire; one step instead of eight on the long fractions of embeddings.) */
static inline bool vector_is_eight_digits(uint64_t v) {
  return ((v & 0xf0f0f0f0f0f0f0f0u) | ((v + 0x0606060606060606u) & 0xf0f0f0f0f0f0f0f0u) >> 4) == 0x3333333333333333u;
}

static inline uint64_t vector_eight_digits(uint64_t v) {
  v = (v & 0x0f0f0f0f0f0f0f0fu) * 2561 >> 8;
  v = (v & 0x00ff00ff00ff00ffu) * 6553601 >> 16;
  return (v & 0x0000ffff0000ffffu) * 42949672960001u >> 32;
}

/* For more than 19 digits: which of them count. `p` is at the first digit, `end` behind the last. */
static void vector_cut(vector_number *x, const char *p, const char *end, int64_t exponent) {
  unsigned n_kept = 0;
  bool is_fraction = false;
  x->digits = 0;
  x->exponent = exponent;
  for (; p < end; p++) {
    if (*p == '.') {
      is_fraction = true;
    } else if (n_kept < 19) {
      x->digits = 10 * x->digits + (uint64_t)(*p - '0');
      n_kept += x->digits != 0; /* leading zeros do not count */
      x->exponent -= is_fraction;
    } else {
      x->is_cut |= *p != '0';
      x->exponent += !is_fraction;
    }
  }
}

/* Finds the longest prefix that is a JSON number; false if there is none. */
static bool vector_scan(vector_number *x, const char *text, size_t n_bytes) {
  const char *p = text, *const end = text + n_bytes;
  x->text = text;
  x->is_cut = false;
  x->is_negative = p < end && *p == '-';
  p += x->is_negative;
  if (p == end || !vector_is_digit(*p)) return false;
  const char *const begin = p;
  uint64_t digits = 0;
  if (*p == '0') {
    p++;
  } else {
    for (; p < end && vector_is_digit(*p); p++) digits = 10 * digits + (uint64_t)(*p - '0');
  }
  const size_t n_whole = (size_t)(p - begin);
  size_t n_fraction = 0;
  if (end - p >= 2 && *p == '.' && vector_is_digit(p[1])) {
    const char *const fraction = ++p;
    while (end - p >= 8 && vector_is_eight_digits(dv_load_u64((const uint8_t *)p))) {
      digits = 100000000u * digits + vector_eight_digits(dv_load_u64((const uint8_t *)p));
      p += 8;
    }
    for (; p < end && vector_is_digit(*p); p++) digits = 10 * digits + (uint64_t)(*p - '0');
    n_fraction = (size_t)(p - fraction);
  }
  const char *const digits_end = p;
  int64_t exponent = 0;
  if (end - p >= 2 && (*p == 'e' || *p == 'E')) {
    const bool has_sign = p[1] == '-' || p[1] == '+', is_below = p[1] == '-';
    const char *e = p + 1 + has_sign;
    if (e < end && vector_is_digit(*e)) {
      /* Saturates far beyond what the longest text could balance with zeros before or behind the point. */
      for (; e < end && vector_is_digit(*e); e++) {
        if (exponent < INT64_MAX / 100) exponent = 10 * exponent + (*e - '0');
      }
      if (is_below) exponent = -exponent;
      p = e;
    }
  }
  x->length = (size_t)(p - text);
  x->digits = digits;
  x->exponent = exponent - (int64_t)n_fraction;
  if (DV_UNLIKELY(n_whole + n_fraction > 19)) vector_cut(x, begin, digits_end, exponent);
  return true;
}

#define VECTOR_INFINITY 0x7ff0000000000000u

/* The bits of the double with `significand` of up to 53 bits (a carry may have made it 54) and leading bit
 * 2^exponent. */
static inline uint64_t vector_assemble(uint64_t significand, int exponent) {
  return exponent >= -1022 ? ((uint64_t)(exponent + 1022) << 52) + significand : significand;
}

/* How many of 53 bits are left to a number whose leading bit is 2^exponent: fewer below 2^-1022. */
static inline int vector_precision(int exponent) { return exponent >= -1022 ? 53 : 53 - (-1022 - exponent); }

/* The bits of the double nearest to w * 10^q, w not 0; false if 128 bits do not tell. */
static inline bool vector_round(uint64_t w, int64_t q, uint64_t *bits) {
  if (q < -342 || q > 308) { /* 2^64 * 10^-343 is less than half the smallest double */
    *bits = q < 0 ? 0 : VECTOR_INFINITY;
    return true;
  }
  int shift = 0;
#if defined(__GNUC__) || defined(__clang__)
  shift = __builtin_clzll(w);
  w <<= shift;
#else
  for (; !(w >> 63); w <<= 1) shift++;
#endif
  const vector_u128 p = vector_multiply_top(vector_pow10((int)q), w, &shift);
  /* p is less than seven too small. Its leading bit stands for: */
  const int exponent = 64 + vector_log2_pow10((int)q) - shift;
  const int precision = vector_precision(exponent);
  if (exponent > 1023) {
    *bits = VECTOR_INFINITY;
    return true;
  }
  if (precision < 0) { /* below half the smallest double, if only just */
    *bits = 0;
    return precision < -1 || p.high != UINT64_MAX;
  }
  uint64_t significand = precision == 0 ? 0 : p.high >> (64 - precision);
  const uint64_t rest = precision == 0 ? p.high : p.high << precision >> precision;
  const uint64_t half = (uint64_t)1 << (63 - precision);
  if ((rest == half && p.low == 0) || (rest == half - 1 && p.low >= UINT64_MAX - 7)) return false;
  significand += rest >= half;
  *bits = vector_assemble(significand, exponent);
  return true;
}

/* ---- exact integers ---------------------------------------------------------------------------------------------- */

/* Digits that can matter: the middle between two doubles has at most 767; one more says on which side a longer text
 * is. */
#define VECTOR_DIGITS_MAX 768
/* 10^769 and 5^(342+768) take 2578 bits. */
#define VECTOR_LIMBS 96

typedef struct vector_big {
  uint32_t limb[VECTOR_LIMBS]; /* lowest first */
  size_t n; /* without leading zeros */
} vector_big;

static void vector_big_multiply_add(vector_big *b, uint32_t factor, uint32_t add) {
  uint64_t carry = add;
  for (size_t i = 0; i < b->n; i++) {
    carry += (uint64_t)b->limb[i] * factor;
    b->limb[i] = (uint32_t)carry;
    carry >>= 32;
  }
  if (carry) b->limb[b->n++] = (uint32_t)carry;
  DV_ASSERT(b->n < VECTOR_LIMBS);
}

static void vector_big_multiply_pow5(vector_big *b, int64_t power) {
  for (; power >= 13; power -= 13) vector_big_multiply_add(b, 1220703125u, 0);
  for (; power > 0; power--) vector_big_multiply_add(b, 5, 0);
}

static int vector_big_bits(const vector_big *b) {
  int n = 32 * ((int)b->n - 1);
  for (uint32_t top = b->limb[b->n - 1]; top; top >>= 1) n++;
  return n;
}

static void vector_big_shift_left(vector_big *b, unsigned n_bits) {
  const size_t limbs = n_bits / 32;
  const unsigned bits = n_bits % 32;
  DV_ASSERT(b->n + limbs + 1 < VECTOR_LIMBS);
  if (bits) {
    uint32_t carry = 0;
    for (size_t i = 0; i < b->n; i++) {
      const uint32_t limb = b->limb[i];
      b->limb[i] = limb << bits | carry;
      carry = limb >> (32 - bits);
    }
    if (carry) b->limb[b->n++] = carry;
  }
  if (limbs && b->n) {
    memmove(b->limb + limbs, b->limb, b->n * sizeof *b->limb);
    memset(b->limb, 0, limbs * sizeof *b->limb);
    b->n += limbs;
  }
}

static int vector_big_compare(const vector_big *a, const vector_big *b) {
  if (a->n != b->n) return a->n < b->n ? -1 : 1;
  for (size_t i = a->n; i-- > 0;) {
    if (a->limb[i] != b->limb[i]) return a->limb[i] < b->limb[i] ? -1 : 1;
  }
  return 0;
}

/* a -= b, a >= b */
static void vector_big_subtract(vector_big *a, const vector_big *b) {
  uint64_t borrow = 0;
  for (size_t i = 0; i < a->n; i++) {
    const uint64_t difference = (uint64_t)a->limb[i] - (i < b->n ? b->limb[i] : 0) - borrow;
    a->limb[i] = (uint32_t)difference;
    borrow = difference >> 63;
  }
  while (a->n > 0 && a->limb[a->n - 1] == 0) a->n--;
}

/* The bits of the double nearest to x, which is not 0, by long division, a bit at a time. */
static uint64_t vector_round_exactly(const vector_number *x) {
  vector_big a = {{0}, 0}, b = {{1}, 1};
  int64_t q = x->exponent; /* of the 19th digit if the number is cut, of the last one if not */
  size_t n_kept = 0;
  bool is_more = false;
  for (const char *p = x->text + x->is_negative, *end = x->text + x->length; p < end; p++) {
    if (*p == 'e' || *p == 'E') break;
    if (*p == '.' || (*p == '0' && n_kept == 0)) continue;
    if (n_kept < VECTOR_DIGITS_MAX) {
      vector_big_multiply_add(&a, 10, (uint32_t)(*p - '0'));
      n_kept++;
      if (n_kept > 19) q--;
    } else {
      is_more |= *p != '0';
    }
  }
  if (is_more) {
    vector_big_multiply_add(&a, 10, 1);
    q--;
  }
  /* x = a / b * 2^q, with the fives of 10^q in a or b */
  vector_big_multiply_pow5(q < 0 ? &b : &a, q < 0 ? -q : q);
  int shift = vector_big_bits(&a) - vector_big_bits(&b);
  vector_big_shift_left(shift < 0 ? &a : &b, (unsigned)(shift < 0 ? -shift : shift));
  if (vector_big_compare(&a, &b) < 0) {
    vector_big_shift_left(&a, 1);
    shift--;
  }
  /* x = a / b * 2^exponent, b <= a < 2b */
  const int exponent = shift + (int)q;
  const int precision = vector_precision(exponent);
  if (exponent > 1023) return VECTOR_INFINITY;
  if (precision < 0) return 0;
  uint64_t significand = 0;
  for (int i = 0; i < precision; i++) {
    const bool bit = vector_big_compare(&a, &b) >= 0;
    if (bit) vector_big_subtract(&a, &b);
    vector_big_shift_left(&a, 1);
    significand = significand << 1 | bit;
  }
  const int half = vector_big_compare(&a, &b);
  significand += half > 0 || (half == 0 && (significand & 1));
  return vector_assemble(significand, exponent);
}

static inline double vector_value(const vector_number *x) {
  uint64_t bits = 0;
  if (x->digits != 0) {
    bool is_sure = vector_round(x->digits, x->exponent, &bits);
    if (DV_UNLIKELY(x->is_cut)) {
      uint64_t above;
      is_sure = is_sure && vector_round(x->digits + 1, x->exponent, &above) && above == bits;
    }
    if (DV_UNLIKELY(!is_sure)) bits = vector_round_exactly(x);
  }
  bits |= (uint64_t)x->is_negative << 63;
  double value;
  memcpy(&value, &bits, sizeof value);
  return value;
}

size_t dv_double_parse(const char *text, size_t n_bytes, double *out) {
  vector_number x;
  if (!vector_scan(&x, text, n_bytes)) return 0;
  *out = vector_value(&x);
  return x.length;
}

/* ---- reading an array -------------------------------------------------------------------------------------------- */

static dv_status vector_fail(dv_detail *detail, dv_status status, uint64_t at, double value) {
  if (detail) {
    detail->at = at;
    detail->value = value;
  }
  return status;
}

static inline const char *vector_skip_space(const char *p, const char *end) {
  while (p < end && (*p == ' ' || *p == '\t' || *p == '\n' || *p == '\r')) p++;
  return p;
}

/* Reads the element at *p, moves *p behind it and gives its four bytes. `index` is its place in the array. */
typedef dv_status (*vector_element)(const char *text, const char **p, const char *end, size_t index, uint32_t *bits,
                                    dv_detail *detail);

static inline dv_status vector_read_float(const char *text, const char **p, const char *end, size_t index,
                                          uint32_t *bits, dv_detail *detail) {
  vector_number x;
  if (!vector_scan(&x, *p, (size_t)(end - *p))) {
    /* a lone minus sign is understood, what follows it is not */
    const bool has_sign = *p < end && **p == '-';
    return vector_fail(detail, DV_SYNTAX, (uint64_t)(*p - text) + has_sign, 0);
  }
  const double value = vector_value(&x);
  const float f = dv_float_nearest(value);
  if (!dv_is_finite(f)) return vector_fail(detail, DV_NOT_FINITE, index, value);
  *p += x.length;
  *bits = dv_float_bits(f);
  return DV_OK;
}

static inline dv_status vector_read_index(const char *text, const char **p, const char *end, size_t index,
                                          uint32_t *bits, dv_detail *detail) {
  const char *const begin = *p, *q = begin;
  uint64_t value = 0;
  (void)index;
  for (; q < end && vector_is_digit(*q) && value <= UINT32_MAX; q++) {
    if (q > begin && *begin == '0') break;
    value = 10 * value + (uint64_t)(*q - '0');
  }
  if (q == begin || value > UINT32_MAX) return vector_fail(detail, DV_SYNTAX, (uint64_t)(begin - text), 0);
  *p = q;
  *bits = (uint32_t)value;
  return DV_OK;
}

static inline dv_status vector_parse_array(dv_buf *out, size_t *n, const char *text, size_t n_bytes,
                                           vector_element read, dv_detail *detail) {
  const char *p = text, *const end = text + n_bytes;
  const size_t begin = out->n;
  size_t count = 0;
  if (out->status != DV_OK) return out->status;
  p = vector_skip_space(p, end);
  if (p == end || *p != '[') return vector_fail(detail, DV_SYNTAX, (uint64_t)(p - text), 0);
  p = vector_skip_space(p + 1, end);
  bool is_more = p == end || *p != ']';
  while (is_more) {
    uint32_t bits;
    dv_status status = count == DV_MAX_DIMENSIONS ? vector_fail(detail, DV_LIMIT, (uint64_t)(p - text), 0)
                                                  : read(text, &p, end, count, &bits, detail);
    if (status == DV_OK) {
      dv_buf_u32(out, bits);
      status = out->status;
      count++;
      p = vector_skip_space(p, end);
      is_more = p < end && *p == ',';
      if (!is_more && (p == end || *p != ']')) status = vector_fail(detail, DV_SYNTAX, (uint64_t)(p - text), 0);
    }
    if (status != DV_OK) {
      out->n = begin;
      return status;
    }
    if (is_more) p = vector_skip_space(p + 1, end);
  }
  p = vector_skip_space(p + 1, end);
  if (p != end) {
    out->n = begin;
    return vector_fail(detail, DV_SYNTAX, (uint64_t)(p - text), 0);
  }
  *n += count;
  return DV_OK;
}

dv_status dv_vector_parse(dv_buf *out, size_t *n, const char *text, size_t n_bytes, dv_detail *detail) {
  return vector_parse_array(out, n, text, n_bytes, vector_read_float, detail);
}

dv_status dv_index_parse(dv_buf *out, size_t *n, const char *text, size_t n_bytes, dv_detail *detail) {
  return vector_parse_array(out, n, text, n_bytes, vector_read_index, detail);
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

/* digits * 10^exponent */
typedef struct vector_decimal {
  uint32_t digits;
  int exponent;
} vector_decimal;

/* floor(g * c / 2^64), odd if something was cut off: then comparisons with even numbers come out as with the exact
 * value. */
static inline uint32_t vector_scale_to_odd(uint64_t g, uint32_t c) {
  const vector_u128 p = vector_multiply(g, c);
  return (uint32_t)p.high | (uint32_t)(p.low >> 32 > 1);
}

/* The shortest decimal in the interval that rounds to the finite, positive float with these bits; of several the
 * nearest. */
static vector_decimal vector_shortest(uint32_t bits) {
  /* Reading goes through a double and rounds twice: 7.038531e-26 is nearest to the first of these floats, but its
   * double is just the middle between them and goes to the second. Of all floats they are the only ones. */
  if (bits == 0x15ae43fdu) return (vector_decimal){70385307, -33};
  if (bits == 0x15ae43feu) return (vector_decimal){7038531, -32};
  const uint32_t fraction = bits & 0x007fffffu, biased = bits >> 23;
  const uint32_t c = biased ? fraction | 0x00800000u : fraction;
  const int q = biased ? (int)biased - 150 : -149; /* f = c * 2^q */
  if (q <= 0 && q > -24 && (c & ((1u << -q) - 1)) == 0) return (vector_decimal){c >> -q, 0}; /* a small integer */
  /* Four times c and the middles to its neighbours; below a power of two the neighbour is twice as near. */
  const bool is_low_near = fraction == 0 && biased > 1, is_even = (c & 1) == 0;
  const uint32_t low = 4 * c - 2 + is_low_near, middle = 4 * c, high = 4 * c + 2;
  /* k = floor(log10) of the interval's length: multiples of 10^k lie in it, of 10^(k+1) perhaps. */
  const int k = (q * 1262611 - (is_low_near ? 524031 : 0)) >> 22;
  const int h = q + vector_log2_pow10(-k) + 1;
  const vector_u128 power = vector_pow10(-k);
  const uint64_t g = power.high + (power.low != 0);
  const uint32_t scaled_low = vector_scale_to_odd(g, low << h) + !is_even;
  const uint32_t scaled = vector_scale_to_odd(g, middle << h);
  const uint32_t scaled_high = vector_scale_to_odd(g, high << h) - !is_even;
  const uint32_t s = scaled / 4;
  if (s >= 10) {
    const uint32_t tens = s / 10;
    const bool is_down_inside = scaled_low <= 40 * tens, is_up_inside = 40 * tens + 40 <= scaled_high;
    if (is_down_inside != is_up_inside) return (vector_decimal){tens + is_up_inside, k + 1};
  }
  const bool is_down_inside = scaled_low <= 4 * s, is_up_inside = 4 * s + 4 <= scaled_high;
  if (is_down_inside != is_up_inside) return (vector_decimal){s + is_up_inside, k};
  const uint32_t centre = 4 * s + 2;
  return (vector_decimal){s + (scaled > centre || (scaled == centre && (s & 1))), k};
}

static size_t vector_print_float(char *out, float f) {
  const uint32_t bits = dv_float_bits(f), magnitude = bits & 0x7fffffffu;
  char digits[10], *p = out;
  if (!dv_is_finite(f)) {
    memcpy(out, "null", 4);
    return 4;
  }
  if (bits >> 31) *p++ = '-';
  if (magnitude == 0) {
    *p++ = '0';
    return (size_t)(p - out);
  }
  vector_decimal decimal = vector_shortest(magnitude);
  for (; decimal.digits % 10 == 0; decimal.digits /= 10) decimal.exponent++;
  int n = 0;
  for (uint32_t rest = decimal.digits; rest; rest /= 10) digits[sizeof digits - (size_t)++n] = (char)('0' + rest % 10);
  const char *d = digits + sizeof digits - (size_t)n;
  const int point = n + decimal.exponent; /* f = 0.ddd * 10^point */
  if (point >= 1 && point <= 15) {
    int i = 0;
    for (; i < point && i < n; i++) *p++ = *d++;
    for (; i < point; i++) *p++ = '0';
    if (i < n) *p++ = '.';
    for (; i < n; i++) *p++ = *d++;
  } else if (point >= -4 && point <= 0) {
    *p++ = '0';
    *p++ = '.';
    for (int i = point; i < 0; i++) *p++ = '0';
    for (int i = 0; i < n; i++) *p++ = *d++;
  } else {
    const int exponent = point - 1, size = exponent < 0 ? -exponent : exponent;
    *p++ = *d++;
    if (n > 1) *p++ = '.';
    for (int i = 1; i < n; i++) *p++ = *d++;
    *p++ = 'e';
    *p++ = exponent < 0 ? '-' : '+';
    if (size >= 10) *p++ = (char)('0' + size / 10);
    *p++ = (char)('0' + size % 10);
  }
  return (size_t)(p - out);
}

size_t dv_float_print(char *out, float f) { return vector_print_float(out, f); }

void dv_vector_print(dv_buf *out, const float *v, size_t n) {
  size_t room;
  if (!dv_mul_size(n, DV_FLOAT_CHARS + 1, &room) || !dv_add_size(room, 2, &room)) {
    if (out->status == DV_OK) out->status = DV_NOMEM;
    return;
  }
  if (!dv_buf_reserve(out, room)) return;
  char *const begin = (char *)out->data + out->n, *p = begin;
  *p++ = '[';
  for (size_t i = 0; i < n; i++) {
    if (i) *p++ = ',';
    p += vector_print_float(p, v[i]);
  }
  *p++ = ']';
  out->n += (size_t)(p - begin);
}
