/*
 * check_vector.c: text to numbers exactly as strtod reads them, floats to the shortest text that reads back, and every
 * error at its place. Texts are parsed from blocks of exactly their size, so that ASan sees a byte too many.
 */
#include "dv_vector.h"

#include <check.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

/* ck_assert reports its place to the runner each time it is passed: in loops of millions that is all the time there
 * is. */
#define REQUIRE(x)                                                                                                     \
  do {                                                                                                                 \
    if (!(x)) ck_abort_msg("%s", "not so: " #x);                                                                       \
  } while (0)

/* ---- helpers ----------------------------------------------------------------------------------------------------- */

static uint64_t seed = 88172645463325252u;

static uint64_t next_random(void) {
  seed ^= seed << 13;
  seed ^= seed >> 7;
  seed ^= seed << 17;
  return seed * 2685821657736338717u;
}

static unsigned random_below(unsigned n) { return (unsigned)((next_random() >> 32) * n >> 32); }

static size_t allocations_left = SIZE_MAX;

static void *resize(void *ctx, void *p, size_t n_bytes) {
  (void)ctx;
  if (n_bytes == 0) {
    free(p);
    return NULL;
  }
  if (allocations_left == 0) return NULL;
  allocations_left--;
  return realloc(p, n_bytes);
}

static const dv_alloc alloc = {resize, NULL};

static dv_buf buffer(void) {
  dv_buf b;
  dv_buf_init(&b, &alloc);
  return b;
}

/* A copy that ends where it says. */
static char *exact_copy(const char *text, size_t n) {
  char *copy = malloc(n ? n : 1);
  REQUIRE(copy != NULL);
  memcpy(copy, text, n);
  return copy;
}

static uint64_t double_bits(double d) {
  uint64_t u;
  memcpy(&u, &d, sizeof u);
  return u;
}

static double bits_double(uint64_t u) {
  double d;
  memcpy(&d, &u, sizeof d);
  return d;
}

/* ---- blobs ------------------------------------------------------------------------------------------------------- */

START_TEST(blobs_are_little_endian_at_any_alignment) {
  static const uint8_t blob[] = {0xff, 0, 0, 0x80, 0x3f, 0, 0, 0x00, 0xc0, 1, 0, 0, 0x80};
  float v[3];
  dv_vector_load(v, blob + 1, 3);
  ck_assert(v[0] == 1.0f && v[1] == -2.0f);
  ck_assert_uint_eq(dv_float_bits(v[2]), 0x80000001u);
  uint8_t out[13] = {0xff};
  dv_vector_store(out + 1, v, 3);
  ck_assert_mem_eq(out, blob, sizeof blob);
  dv_vector_load(v, NULL, 0);
  dv_vector_store(NULL, v, 0);
}
END_TEST

START_TEST(check_finds_the_first_value_that_is_not_finite) {
  static const float bad[] = {INFINITY, -INFINITY, NAN};
  for (size_t n = 1; n < 300; n += n < 140 ? 1 : 37) {
    float *v = malloc(n * sizeof *v);
    REQUIRE(v != NULL);
    for (size_t i = 0; i < n; i++) v[i] = i % 2 ? -FLT_MAX : FLT_MAX;
    REQUIRE(dv_vector_check(v, n, NULL) == DV_OK);
    for (size_t at = 0; at < n; at++) {
      dv_detail detail = {0, 0};
      const float was = v[at];
      v[n - 1] = NAN;
      v[at] = bad[at % 3];
      REQUIRE(dv_vector_check(v, n, &detail) == DV_NOT_FINITE);
      REQUIRE(detail.at == at);
      REQUIRE(dv_float_bits((float)detail.value) == dv_float_bits(bad[at % 3]));
      v[at] = was;
      v[n - 1] = 1;
    }
    free(v);
  }
  REQUIRE(dv_vector_check(NULL, 0, NULL) == DV_OK);
}
END_TEST

/* ---- rounding ---------------------------------------------------------------------------------------------------- */

START_TEST(nearest_float_is_the_cast) {
  for (int i = 0; i < 2000000; i++) {
    uint64_t u = next_random();
    switch (i % 4) {
    case 0: break;
    case 1: /* about the range of floats */
      u = (u & 0x800fffffffffffffu) | (uint64_t)(1023 - 155 + random_below(290)) << 52;
      break;
    case 2: { /* the middle of two floats, and its neighbours */
      const float f = dv_bits_float((uint32_t)u & 0x7f7fffffu);
      const float g = dv_bits_float(dv_float_bits(f) + 1);
      u = double_bits(((double)f + (dv_is_finite(g) ? (double)g : 0x1p128)) / 2) + random_below(3) - 1;
      break;
    }
    default: u = double_bits((double)dv_bits_float((uint32_t)u)); break;
    }
    const double d = bits_double(u);
    const float expected = (float)d, f = dv_float_nearest(d);
    if (isnan(d)) {
      REQUIRE(isnan(f));
    } else {
      if (!(dv_float_bits(f) == dv_float_bits(expected)))
        ck_abort_msg("%a: %a, not %a", d, (double)f, (double)expected);
    }
  }
}
END_TEST

static void check_double(const char *text, size_t n) {
  char *copy = exact_copy(text, n), *end;
  double d = 0;
  const size_t length = dv_double_parse(copy, n, &d);
  const double expected = strtod(text, &end);
  if (!(length == (size_t)(end - text))) ck_abort_msg("%.100s: length %zu", text, length);
  if (!(double_bits(d) == double_bits(expected))) ck_abort_msg("%.100s: %a, not %a", text, d, expected);
  free(copy);
}

/* Appends m * 2^e written out exactly; returns the length. */
static size_t print_exactly(char *out, uint64_t m, int e) {
  uint32_t limbs[140] = {0}; /* base 10^9, lowest first */
  size_t n = 1, at = 0;
  limbs[0] = (uint32_t)(m % 1000000000u);
  limbs[1] = (uint32_t)(m / 1000000000u % 1000000000u);
  limbs[2] = (uint32_t)(m / 1000000000000000000u);
  for (n = 3; n > 1 && limbs[n - 1] == 0;) n--;
  for (int i = 0; i < (e < 0 ? -e : e); i++) { /* 2^e = 5^-e * 10^e */
    uint64_t carry = 0;
    for (size_t j = 0; j < n; j++) {
      carry += (uint64_t)limbs[j] * (e < 0 ? 5 : 2);
      limbs[j] = (uint32_t)(carry % 1000000000u);
      carry /= 1000000000u;
    }
    if (carry) limbs[n++] = (uint32_t)carry;
  }
  at += (size_t)sprintf(out, "%u", limbs[n - 1]);
  for (size_t j = n - 1; j-- > 0;) at += (size_t)sprintf(out + at, "%09u", limbs[j]);
  if (e < 0) at += (size_t)sprintf(out + at, "e%d", e);
  return at;
}

START_TEST(doubles_as_strtod_reads_them) {
  char t[1200];
  for (int i = 0; i < 200000; i++) {
    size_t n = 0;
    switch (i % 4) {
    case 0:
      n = (size_t)sprintf(t, "%llue%d", (unsigned long long)(next_random() >> random_below(64)),
                          (int)random_below(700) - 370);
      break;
    case 1: {
      const double d = bits_double(next_random());
      if (!isfinite(d)) continue;
      n = (size_t)sprintf(t, "%.*e", (int)random_below(20), d);
      break;
    }
    case 2: { /* fractions, with leading and trailing zeros, as long as they like */
      if (random_below(2)) t[n++] = '-';
      n += (size_t)sprintf(t + n, "0.");
      const unsigned zero_bias = random_below(3);
      for (unsigned k = random_below(i % 100 == 2 ? 900 : 30) + 1; k > 0; k--)
        t[n++] = (char)('0' + (random_below(3) < zero_bias ? 0 : random_below(10)));
      t[n] = 0;
      if (random_below(2)) n += (size_t)sprintf(t + n, "e%d", (int)random_below(600) - 300);
      break;
    }
    default: { /* many digits on both sides of the point */
      t[n++] = (char)('1' + random_below(9));
      for (unsigned k = random_below(50); k > 0; k--) t[n++] = (char)('0' + random_below(10));
      t[n++] = '.';
      for (unsigned k = random_below(30) + 1; k > 0; k--) t[n++] = (char)('0' + random_below(10));
      t[n] = 0;
      if (random_below(2)) n += (size_t)sprintf(t + n, "E%+d", (int)random_below(700) - 350);
    }
    }
    check_double(t, n);
  }
}
END_TEST

/* Written out in full, exactly between two doubles, and one digit beside it in the last of up to 800 places. */
START_TEST(doubles_half_way_are_rounded_to_even) {
  char t[1200];
  for (int i = 0; i < 3000; i++) {
    const bool is_subnormal = i % 5 == 0;
    const unsigned exponent = is_subnormal ? 0 : i % 5 == 1 ? random_below(2046) + 1 : 1023 - 80 + random_below(160);
    uint64_t m = next_random() & 0x000fffffffffffffu;
    if (is_subnormal && i % 10 == 0) m = random_below(100);
    if (!is_subnormal) m |= 0x0010000000000000u;
    const int e = (int)(exponent ? exponent : 1) - 1075;
    const size_t n = print_exactly(t, 2 * m + 1, e - 1);
    char *end;
    REQUIRE(strtod(t, &end) == ldexp((double)(m + (m & 1)), e)); /* strtod and the test understand each other */
    check_double(t, n);
    const size_t digits = strcspn(t, "e");
    t[digits - 1]++; /* the last digit of an odd number over a power of two is 5; of a whole number it may be a 9 */
    if (t[digits - 1] <= '9') check_double(t, n);
    t[digits - 1] = (char)(t[digits - 1] - 2);
    if (t[digits - 1] >= '0') check_double(t, n);
    t[digits - 1]++;
    char longer[1300]; /* a nonzero digit far behind the middle */
    memcpy(longer, t, digits);
    memset(longer + digits, '0', 40);
    longer[digits + 40] = '1';
    sprintf(longer + digits + 41, "e%d", (e - 1 < 0 ? e - 1 : 0) - 41);
    check_double(longer, strlen(longer));
  }
}
END_TEST

START_TEST(doubles_known_to_be_hard) {
  static const char *const texts[] = {
      "0",
      "-0",
      "-0.0e5",
      "0e99999999999999999999999",
      "1e-99999999999999999999",
      "1e0",
      "1E+2",
      "1e-2",
      "0.1",
      "1e23",
      "9007199254740993",
      "9007199254740992.5",
      "9007199254740991.5",
      "2.2250738585072011e-308",
      "2.2250738585072012e-308",
      "2.2250738585072014e-308",
      "4.9406564584124654e-324",
      "2.4703282292062327e-324",
      "2.4703282292062328e-324",
      "1.7976931348623157e308",
      "1.7976931348623158e308",
      "1.7976931348623159e308",
      "18446744073709551615",
      "18446744073709551616",
      "9999999999999999999",
      "99999999999999999999",
      "10000000000000000000000000000000000000000000000000000000000000000000000000",
      "100000000000000000000000000000000000000000000000000e-50",
      "7.2057594037927933e16",
      "6.631236846766476e-316",
      "1e-400",
      "3.2378839133029012895883524125015321748630094423847e-319",
      "1e400",
      "123456789012345678901234567890",
      "0."
      "0000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000000"
      "00001e117",
      "5e-324",
      "8.5e-324",
      "0.500000000000000166533453693773481063544750213623046875",
      "3.518437208883201171875e13",
      "62.5364939768271845828",
      "8.10109172351e-10",
      "1.50000000000000011102230246251565",
      "9007199254740991.4999999999999999999999999999999995",
  };
  for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) check_double(texts[i], strlen(texts[i]));
  char t[64];
  for (int q = -345; q <= 310; q++) { /* every power of ten, with every length of mantissa */
    for (int digits = 1; digits <= 20; digits++) {
      const size_t n = (size_t)sprintf(
          t, "%.*llue%d", 1, (unsigned long long)(next_random() >> (64 - 3 * digits > 0 ? 64 - 3 * digits : 0)), q);
      check_double(t, n);
    }
  }
}
END_TEST

/* Exponents that digits before or behind the point make up for. */
START_TEST(doubles_with_huge_exponents_and_many_zeros) {
  const size_t n_zeros = 100000;
  char *t = malloc(n_zeros + 32);
  ck_assert_ptr_nonnull(t);
  memset(t, '0', n_zeros + 3);
  t[1] = '.';
  double d;
  size_t n = n_zeros + 2;
  n += (size_t)sprintf(t + n, "125e%zu", n_zeros + 3);
  ck_assert_uint_eq(dv_double_parse(t, n, &d), n);
  ck_assert(d == 125.0);
  memset(t, '0', n_zeros + 3);
  memcpy(t, "125", 3);
  n = n_zeros + 3;
  n += (size_t)sprintf(t + n, "e-%zu", n_zeros);
  ck_assert_uint_eq(dv_double_parse(t, n, &d), n);
  ck_assert(d == 125.0);
  free(t);
}
END_TEST

START_TEST(the_longest_json_number_is_taken) {
  static const struct {
    const char *text;
    size_t length;
    double value;
  } cases[] = {
      {"", 0, 0},
      {"-", 0, 0},
      {"+1", 0, 0},
      {".5", 0, 0},
      {"-.5", 0, 0},
      {"nan", 0, 0},
      {"inf", 0, 0},
      {"e5", 0, 0},
      {" 1", 0, 0},
      {"01", 1, 0},
      {"-01", 2, -0.0},
      {"1.", 1, 1},
      {"1.e5", 1, 1},
      {"1e", 1, 1},
      {"1e+", 1, 1},
      {"1e-", 1, 1},
      {"1e+-5", 1, 1},
      {"1.5.5", 3, 1.5},
      {"0x10", 1, 0},
      {"1_000", 1, 1},
      {"12abc", 2, 12},
      {"1e2e3", 3, 100},
      {"-1.25E+1]", 8, -12.5},
      {"123456789x", 9, 123456789},
      {"0.12345678.", 10, 0.12345678},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    double d = 0;
    char *copy = exact_copy(cases[i].text, strlen(cases[i].text));
    ck_assert_msg(dv_double_parse(copy, strlen(cases[i].text), &d) == cases[i].length, "%s", cases[i].text);
    ck_assert_msg(double_bits(d) == double_bits(cases[i].value), "%s", cases[i].text);
    free(copy);
  }
}
END_TEST

/* ---- arrays ------------------------------------------------------------------------------------------------------ */

static dv_status parse(const char *text, size_t n_bytes, dv_buf *out, size_t *n, dv_detail *detail) {
  char *copy = exact_copy(text, n_bytes);
  const dv_status status = dv_vector_parse(out, n, copy, n_bytes, detail);
  free(copy);
  return status;
}

START_TEST(arrays_of_numbers) {
  static const struct {
    const char *text;
    size_t n;
    float values[4];
  } cases[] = {
      {"[]", 0, {0}},
      {" \t\r\n[ \n ]\n", 0, {0}},
      {"[1]", 1, {1}},
      {"[1,2,3]", 3, {1, 2, 3}},
      {" [ 1 , -2.5e3 ,\t0.1\n, -0 ] ", 4, {1, -2500, 0.1f, -0.0f}},
      {"[3.4028235e38,-3.4028235e38,1e-45,1e-46]", 4, {FLT_MAX, -FLT_MAX, 0x1p-149f, 0}},
      {"[3.40282356e38]", 1, {FLT_MAX}}, /* above the largest float, below the middle to the next */
      {"[7.038531e-26,1e-400]",
       2,
       {0x1.5c87fcp-84f, 0}}, /* reads through a double: not the float nearest to the text */
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    dv_buf out = buffer();
    dv_buf_u8(&out, 0xaa);
    size_t n = 100;
    ck_assert_msg(parse(cases[i].text, strlen(cases[i].text), &out, &n, NULL) == DV_OK, "%s", cases[i].text);
    ck_assert_uint_eq(n, 100 + cases[i].n);
    ck_assert_uint_eq(out.n, 1 + 4 * cases[i].n);
    ck_assert_uint_eq(out.data[0], 0xaa);
    for (size_t j = 0; j < cases[i].n; j++)
      ck_assert_msg(dv_load_u32(out.data + 1 + 4 * j) == dv_float_bits(cases[i].values[j]), "%s", cases[i].text);
    dv_buf_free(&out);
  }
}
END_TEST

START_TEST(what_is_not_an_array_of_numbers_is_refused_at_its_place) {
  static const struct {
    const char *text;
    dv_status status;
    uint64_t at;
  } cases[] = {
      {"", DV_SYNTAX, 0},
      {"   ", DV_SYNTAX, 3},
      {"1,2", DV_SYNTAX, 0},
      {"[", DV_SYNTAX, 1},
      {"[1", DV_SYNTAX, 2},
      {"[1,", DV_SYNTAX, 3},
      {"[1,]", DV_SYNTAX, 3},
      {"[,1]", DV_SYNTAX, 1},
      {"[1 2]", DV_SYNTAX, 3},
      {"[1] 2", DV_SYNTAX, 4},
      {"[1]]", DV_SYNTAX, 3},
      {"[null]", DV_SYNTAX, 1},
      {"[\"1\"]", DV_SYNTAX, 1},
      {"[[1]]", DV_SYNTAX, 1},
      {"[1,{}]", DV_SYNTAX, 3},
      {"[NaN]", DV_SYNTAX, 1},
      {"[Infinity]", DV_SYNTAX, 1},
      {"[01]", DV_SYNTAX, 2},
      {"[+1]", DV_SYNTAX, 1},
      {"[.5]", DV_SYNTAX, 1},
      {"[1.]", DV_SYNTAX, 2},
      {"[1e]", DV_SYNTAX, 2},
      {"[-]", DV_SYNTAX, 2},
      {"[0x1]", DV_SYNTAX, 2},
      {"[-Infinity]", DV_SYNTAX, 2},
      {"[1;2]", DV_SYNTAX, 2},
      {"{\"a\":1}", DV_SYNTAX, 0},
      {"[\v1]", DV_SYNTAX, 1},
      {"[true]", DV_SYNTAX, 1},
      {"[1,-", DV_SYNTAX, 4},
      {"[1e39]", DV_NOT_FINITE, 0},
      {"[1,2,-1e400]", DV_NOT_FINITE, 2},
      {"[0,3.4028235677973366e38]", DV_NOT_FINITE, 1},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    dv_buf out = buffer();
    dv_buf_u32(&out, 7);
    size_t n = 5;
    dv_detail detail = {99, 0};
    ck_assert_msg(parse(cases[i].text, strlen(cases[i].text), &out, &n, &detail) == cases[i].status, "%s",
                  cases[i].text);
    ck_assert_msg(detail.at == cases[i].at, "%s: at %d", cases[i].text, (int)detail.at);
    ck_assert_uint_eq(n, 5);
    ck_assert_uint_eq(out.n, 4);
    ck_assert_int_eq(parse(cases[i].text, strlen(cases[i].text), &out, &n, NULL), cases[i].status);
    dv_buf_free(&out);
  }
  dv_buf out = buffer();
  size_t n = 0;
  dv_detail detail;
  ck_assert_int_eq(dv_vector_parse(&out, &n, "[1,\0002]", 6, &detail), DV_SYNTAX); /* a zero byte ends nothing */
  ck_assert_uint_eq(detail.at, 3);
  ck_assert_int_eq(dv_vector_parse(&out, &n, "[0,1,1e39]", 10, &detail), DV_NOT_FINITE);
  ck_assert(detail.value == 1e39);
  dv_buf_free(&out);
}
END_TEST

START_TEST(more_numbers_than_dimensions_are_refused) {
  const size_t n_bytes = 2 * (DV_MAX_DIMENSIONS + 1) + 1;
  char *text = malloc(n_bytes);
  ck_assert_ptr_nonnull(text);
  text[0] = '[';
  for (size_t i = 0; i <= DV_MAX_DIMENSIONS; i++) memcpy(text + 1 + 2 * i, "7,", 2);
  text[n_bytes - 1] = ']';
  dv_buf out = buffer();
  size_t n = 0;
  ck_assert_int_eq(dv_vector_parse(&out, &n, text, n_bytes, NULL), DV_LIMIT);
  ck_assert_uint_eq(out.n, 0);
  text[n_bytes - 3] = ']';
  ck_assert_int_eq(dv_vector_parse(&out, &n, text, n_bytes - 2, NULL), DV_OK);
  ck_assert_uint_eq(n, DV_MAX_DIMENSIONS);
  dv_buf_free(&out);
  free(text);
}
END_TEST

START_TEST(arrays_of_indices) {
  static const struct {
    const char *text;
    dv_status status;
    uint64_t at; /* of the error, or the sum of the indices */
  } cases[] = {
      {"[]", DV_OK, 0},
      {" [ 0 , 17,3 ] ", DV_OK, 20},
      {"[4294967295]", DV_OK, 4294967295u},
      {"[4294967296]", DV_SYNTAX, 1},
      {"[1,99999999999999999999999999]", DV_SYNTAX, 3},
      {"[-1]", DV_SYNTAX, 1},
      {"[1.5]", DV_SYNTAX, 2},
      {"[1e3]", DV_SYNTAX, 2},
      {"[01]", DV_SYNTAX, 2},
      {"[1,]", DV_SYNTAX, 3},
      {"[", DV_SYNTAX, 1},
      {"[3", DV_SYNTAX, 2},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    dv_buf out = buffer();
    dv_detail detail = {0, 0};
    size_t n = 0;
    char *copy = exact_copy(cases[i].text, strlen(cases[i].text));
    ck_assert_msg(dv_index_parse(&out, &n, copy, strlen(cases[i].text), &detail) == cases[i].status, "%s",
                  cases[i].text);
    if (cases[i].status == DV_OK) {
      for (size_t j = 0; j < n; j++) detail.at += dv_load_u32(out.data + 4 * j);
    }
    ck_assert_msg(detail.at == cases[i].at, "%s: at %d", cases[i].text, (int)detail.at);
    ck_assert_uint_eq(out.n, 4 * n);
    free(copy);
    dv_buf_free(&out);
  }
}
END_TEST

START_TEST(lack_of_memory_is_reported_and_nothing_added) {
  for (size_t left = 0; left < 8; left++) {
    dv_buf out = buffer();
    size_t n = 0;
    char text[601];
    memset(text, ',', sizeof text);
    for (size_t i = 1; i < sizeof text; i += 2) text[i] = '1';
    text[0] = '[';
    text[sizeof text - 1] = ']';
    allocations_left = left;
    const dv_status status = dv_vector_parse(&out, &n, text, sizeof text, NULL);
    allocations_left = SIZE_MAX;
    ck_assert_int_eq(status, left < 6 ? DV_NOMEM : DV_OK); /* 64, 128, ... 2048 bytes */
    ck_assert_uint_eq(n, left < 6 ? 0 : 300);
    ck_assert_uint_eq(out.n, 4 * n);
    dv_buf_free(&out);
  }
  dv_buf out = buffer();
  allocations_left = 0;
  dv_vector_print(&out, &(float){1}, 1);
  allocations_left = SIZE_MAX;
  ck_assert_int_eq(out.status, DV_NOMEM);
  dv_buf_free(&out);
}
END_TEST

/* ---- printing ---------------------------------------------------------------------------------------------------- */

START_TEST(floats_look_like_this) {
  static const struct {
    uint32_t bits;
    const char *text;
  } cases[] = {
      {0x00000000u, "0"},
      {0x80000000u, "-0"},
      {0x3f800000u, "1"},
      {0xbf800000u, "-1"},
      {0x3dcccccdu, "0.1"},
      {0x41200000u, "10"},
      {0x42c80000u, "100"},
      {0x40490fdbu, "3.1415927"},
      {0x00000001u, "1e-45"},
      {0x00000002u, "3e-45"},
      {0x007fffffu, "1.1754942e-38"},
      {0x00800000u, "1.1754944e-38"},
      {0x7f7fffffu, "3.4028235e+38"},
      {0xff7fffffu, "-3.4028235e+38"},
      {0x4b800000u, "16777216"},
      {0x4b7fffffu, "16777215"},
      {0x3727c5acu, "0.00001"},
      {0x3727c5abu, "9.999999e-6"},
      {0x38d1b717u, "0.0001"},
      {0x60ad78ecu, "1e+20"},
      {0x5a0e1bcau, "1e+16"},
      {0x58635fa9u, "1e+15"},
      {0xd8635fa8u, "-999999900000000"},
      {0xb8a5cb5fu, "-0.00007905694"},
      {0x15ae43fdu, "7.0385307e-26"},
      {0x15ae43feu, "7.038531e-26"},
      {0x7f800000u, "null"},
      {0xff800000u, "null"},
      {0x7fc00000u, "null"},
      {0xffffffffu, "null"},
  };
  char text[DV_FLOAT_CHARS + 1];
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    const size_t n = dv_float_print(text, dv_bits_float(cases[i].bits));
    ck_assert_uint_le(n, DV_FLOAT_CHARS);
    text[n] = 0;
    ck_assert_str_eq(text, cases[i].text);
  }
}
END_TEST

/* The printed text reads back as the same bits; `precision` is its number of significant digits. */
static void check_print(uint32_t bits, int *precision) {
  char text[DV_FLOAT_CHARS + 1];
  const size_t n = dv_float_print(text, dv_bits_float(bits));
  double d;
  REQUIRE(n <= DV_FLOAT_CHARS);
  text[n] = 0;
  REQUIRE(dv_double_parse(text, n, &d) == n);
  if (!(dv_float_bits((float)d) == bits)) ck_abort_msg("%08x: %s", bits, text);
  int n_digits = 0, n_zeros = 0;
  for (const char *p = text; *p && *p != 'e'; p++) {
    if (*p < '0' || *p > '9' || (*p == '0' && n_digits == 0)) continue;
    n_digits++;
    n_zeros = *p == '0' ? n_zeros + 1 : 0;
  }
  *precision = n_digits - n_zeros;
}

/* All floats next to the powers of two and ten, and a sample of the others. */
START_TEST(floats_read_back_as_themselves) {
  int precision;
  for (uint64_t u = 0; u < 0x100000000u; u += 9973) {
    if (dv_is_finite(dv_bits_float((uint32_t)u))) check_print((uint32_t)u, &precision);
  }
  for (uint32_t exponent = 0; exponent < 255; exponent++) {
    for (uint32_t i = 0; i < 64; i++) {
      const uint32_t u = (exponent << 23) + i - 32;
      if (dv_is_finite(dv_bits_float(u))) check_print(u, &precision);
      check_print((exponent << 23) + (1u << i % 23), &precision);
    }
  }
  for (int q = -45; q <= 38; q++) {
    char text[16];
    sprintf(text, "1e%d", q);
    const uint32_t bits = dv_float_bits(strtof(text, NULL));
    for (uint32_t u = bits < 32 ? 0 : bits - 32; u < bits + 32; u++) check_print(u, &precision);
    check_print(bits, &precision);
    ck_assert_int_eq(precision, bits ? 1 : 0);
  }
}
END_TEST

START_TEST(floats_are_printed_with_the_fewest_digits) {
  for (uint32_t u = 1; u < 0x7f800000u; u += 49999) {
    int precision, fewest = 1;
    char text[32];
    check_print(u, &precision);
    for (;; fewest++) {
      snprintf(text, sizeof text, "%.*e", fewest - 1, (double)dv_bits_float(u));
      if (dv_float_bits((float)strtod(text, NULL)) == u) break;
    }
    /* The one nearest to f with so many digits is what printf tries; another with as many may do, none with fewer. */
    if (!(precision <= fewest)) ck_abort_msg("%08x: %d digits, %s", u, precision, text);
    if (precision == fewest) {
      char printed[DV_FLOAT_CHARS + 1];
      printed[dv_float_print(printed, dv_bits_float(u))] = 0;
      REQUIRE(strtod(printed, NULL) == strtod(text, NULL)); /* and of several the nearest is taken */
    }
  }
}
END_TEST

START_TEST(vectors_print_as_json_and_read_back) {
  static const float v[] = {0.1f, -2, 3e20f, -0.0f};
  dv_buf out = buffer();
  dv_vector_print(&out, v, 4);
  REQUIRE(out.n == strlen("[0.1,-2,3e+20,-0]"));
  REQUIRE(memcmp(out.data, "[0.1,-2,3e+20,-0]", out.n) == 0);
  dv_vector_print(&out, NULL, 0);
  REQUIRE(memcmp(out.data + out.n - 2, "[]", 2) == 0);
  dv_buf_free(&out);
  for (int i = 0; i < 300; i++) {
    float w[200];
    size_t n = random_below(200), n_read = 0;
    for (size_t j = 0; j < n; j++) {
      do {
        w[j] = dv_bits_float((uint32_t)next_random());
      } while (!dv_is_finite(w[j]));
    }
    dv_buf text = buffer(), blob = buffer();
    dv_vector_print(&text, w, n);
    REQUIRE(parse((const char *)text.data, text.n, &blob, &n_read, NULL) == DV_OK);
    REQUIRE(n_read == n);
    if (n) REQUIRE(memcmp(blob.data, w, 4 * n) == 0); /* on a little-endian host */
    dv_buf_free(&text);
    dv_buf_free(&blob);
  }
}
END_TEST

#if defined(__SSE2__)
/* A library built with -ffast-math switches the whole process to taking subnormals for zero. */
START_TEST(an_fpu_without_subnormals_changes_nothing) {
  const unsigned was = _mm_getcsr();
  char text[DV_FLOAT_CHARS];
  dv_buf out = buffer();
  size_t n = 0;
  _mm_setcsr(was | 0x8040); /* flush to zero, denormals are zero */
  const dv_status status = dv_vector_parse(&out, &n, "[1e-40,-1e-45,5e-324]", 21, NULL);
  const size_t length = dv_float_print(text, dv_bits_float(0x000116c2u));
  const uint32_t nearest = dv_float_bits(dv_float_nearest(0x1p-140));
  _mm_setcsr(was);
  ck_assert_int_eq(status, DV_OK);
  ck_assert_uint_eq(dv_load_u32(out.data), 0x000116c2u);
  ck_assert_uint_eq(dv_load_u32(out.data + 4), 0x80000001u);
  ck_assert_uint_eq(dv_load_u32(out.data + 8), 0);
  ck_assert_uint_eq(length, 5);
  ck_assert_mem_eq(text, "1e-40", 5);
  ck_assert_uint_eq(nearest, 0x00000200u);
  dv_buf_free(&out);
}
END_TEST
#endif

int main(void) {
  Suite *suite = suite_create("vector");
  TCase *tc = tcase_create("vector");
  tcase_set_timeout(tc, 0);
  tcase_add_test(tc, blobs_are_little_endian_at_any_alignment);
  tcase_add_test(tc, check_finds_the_first_value_that_is_not_finite);
  tcase_add_test(tc, nearest_float_is_the_cast);
  tcase_add_test(tc, doubles_as_strtod_reads_them);
  tcase_add_test(tc, doubles_half_way_are_rounded_to_even);
  tcase_add_test(tc, doubles_known_to_be_hard);
  tcase_add_test(tc, doubles_with_huge_exponents_and_many_zeros);
  tcase_add_test(tc, the_longest_json_number_is_taken);
  tcase_add_test(tc, arrays_of_numbers);
  tcase_add_test(tc, what_is_not_an_array_of_numbers_is_refused_at_its_place);
  tcase_add_test(tc, more_numbers_than_dimensions_are_refused);
  tcase_add_test(tc, arrays_of_indices);
  tcase_add_test(tc, lack_of_memory_is_reported_and_nothing_added);
  tcase_add_test(tc, floats_look_like_this);
  tcase_add_test(tc, floats_read_back_as_themselves);
  tcase_add_test(tc, floats_are_printed_with_the_fewest_digits);
  tcase_add_test(tc, vectors_print_as_json_and_read_back);
#if defined(__SSE2__)
  tcase_add_test(tc, an_fpu_without_subnormals_changes_nothing);
#endif
  suite_add_tcase(suite, tc);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  const int n_failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return n_failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
