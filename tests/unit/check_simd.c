/*
 * check_simd.c: every table of kernels this CPU can run against the scalar one: the same bits for every length,
 * alignment and value, and not a byte read outside the arrays (they end, or begin, at a page that may not be read).
 */
#define _GNU_SOURCE
#include "../../core/simd/dv_simd.h"

#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

/* ---- a seeded generator ------------------------------------------------------------------------------------------ */

static uint64_t seed = 88172645463325252u;

static uint64_t next_random(void) {
  seed ^= seed << 13;
  seed ^= seed >> 7;
  seed ^= seed << 17;
  return seed * 2685821657736338717u;
}

static uint32_t random_below(uint32_t n) { return (uint32_t)((next_random() >> 32) * n >> 32); }

static float random_unit(void) { return (float)((double)(next_random() >> 11) * 0x1p-52 - 1.0); }

/* Floats of one character a call: ordinary; denormal; so large that sums, products or differences overflow; all
 * mixed. */
enum { N_KINDS = 7 };

static float random_float(unsigned kind) {
  switch (kind) {
  case 0: return random_unit();
  case 1: return dv_bits_float((uint32_t)(next_random() >> 32) & 0x807fffffu); /* denormal or zero */
  case 2: return random_unit() * 3e38f;
  case 3: return random_unit() * 2e19f; /* squares about at the limit */
  case 4: return random_unit() * 1e-22f; /* squares denormal */
  case 5: return random_below(3) ? -0.0f : random_unit();
  default: break;
  }
  for (;;) { /* any finite bits */
    float f = dv_bits_float((uint32_t)(next_random() >> 32));
    if (dv_is_finite(f)) return f;
  }
}

/* ---- memory that ends where it says ------------------------------------------------------------------------------ */

/* room bytes between two pages that may not be touched. */
typedef struct fence {
  uint8_t *map;
  size_t map_bytes;
  uint8_t *begin;
  uint8_t *end;
} fence;

static fence fence_new(size_t room) {
  size_t page = (size_t)sysconf(_SC_PAGESIZE);
  size_t inside = (room + page - 1) / page * page;
  fence f;
  f.map_bytes = inside + 2 * page;
  f.map = mmap(NULL, f.map_bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  ck_assert(f.map != MAP_FAILED);
  ck_assert_int_eq(mprotect(f.map, page, PROT_NONE), 0);
  ck_assert_int_eq(mprotect(f.map + page + inside, page, PROT_NONE), 0);
  f.begin = f.map + page;
  f.end = f.begin + inside;
  return f;
}

static void fence_free(fence *f) { munmap(f->map, f->map_bytes); }

/* Where n_bytes go: `slack` bytes before the far end, or after the near one. */
static uint8_t *fence_place(const fence *f, size_t n_bytes, size_t slack, bool is_at_end) {
  return is_at_end ? f->end - n_bytes - slack : f->begin + slack;
}

static bool is_same(float a, float b) { return dv_float_bits(a) == dv_float_bits(b) || (a != a && b != b); }

/* ---- floats ------------------------------------------------------------------------------------------------------ */

static fence fence_a, fence_b;
#define MAX_N 65536u

static void fences_up(void) {
  fence_a = fence_new(MAX_N * sizeof(float) + 4096);
  fence_b = fence_new(MAX_N * sizeof(float) + 4096);
}

static void fences_down(void) {
  fence_free(&fence_a);
  fence_free(&fence_b);
}

static void compare_floats(const dv_kernels *k, size_t n, size_t slack_a, size_t slack_b, bool is_at_end,
                           unsigned kind) {
  const dv_kernels *s = &dv_kernels_scalar;
  uint8_t *bytes_a = fence_place(&fence_a, n * sizeof(float), slack_a, is_at_end);
  uint8_t *bytes_b = fence_place(&fence_b, n * sizeof(float), slack_b, is_at_end);
  for (size_t i = 0; i < n; i++) {
    float a = random_float(kind), b = random_float(kind);
    if (random_below(8) == 0) b = a;
    memcpy(bytes_a + i * sizeof a, &a, sizeof a);
    memcpy(bytes_b + i * sizeof b, &b, sizeof b);
  }
  const float *a = (const float *)(const void *)bytes_a, *b = (const float *)(const void *)bytes_b;
  float both[2], both_scalar[2];
  k->dot_norm_f32(a, b, n, both);
  s->dot_norm_f32(a, b, n, both_scalar);
  bool ok = is_same(k->dot_f32(a, b, n), s->dot_f32(a, b, n)) && is_same(k->l2sq_f32(a, b, n), s->l2sq_f32(a, b, n)) &&
            is_same(k->l1_f32(a, b, n), s->l1_f32(a, b, n)) && is_same(both[0], both_scalar[0]) &&
            is_same(both[1], both_scalar[1]) && is_same(both[0], s->dot_f32(a, b, n)) &&
            is_same(both[1], s->dot_f32(b, b, n));
  ck_assert_msg(ok, "%s n=%zu slack=%zu,%zu kind=%u", k->name, n, slack_a, slack_b, kind);
}

/* Sums whose order and rounding are written out once more, without any loop over lanes the library could share. */
START_TEST(scalar_is_the_definition) {
  for (size_t n = 0; n <= 200; n++) {
    float a[200], b[200];
    for (size_t i = 0; i < n; i++) {
      a[i] = random_unit();
      b[i] = random_unit();
    }
    volatile float lane[32] = {0};
    for (size_t j = 0; j < 32; j++)
      for (size_t i = j; i < n; i += 32) {
        volatile float product = a[i] * b[i];
        lane[j] = lane[j] + product;
      }
    for (size_t j = 0; j < 16; j++) lane[j] = lane[j] + lane[j + 16];
    for (size_t j = 0; j < 8; j++) lane[j] = lane[j] + lane[j + 8];
    for (size_t j = 0; j < 4; j++) lane[j] = lane[j] + lane[j + 4];
    for (size_t j = 0; j < 2; j++) lane[j] = lane[j] + lane[j + 2];
    volatile float sum = lane[0] + lane[1];
    ck_assert(is_same(sum, dv_kernels_scalar.dot_f32(a, b, n)));
  }
}
END_TEST

START_TEST(float_kernels_equal_scalar_at_every_length) {
  for (size_t t = 0; dv_kernels_name_at(t); t++) {
    const dv_kernels *k = dv_kernels_named(dv_kernels_name_at(t));
    for (size_t n = 0; n <= 257; n++)
      for (unsigned kind = 0; kind < N_KINDS; kind++) compare_floats(k, n, 0, 0, true, kind);
    for (size_t i = 0; i < 300; i++)
      compare_floats(k, random_below(4096), 4 * random_below(16), 4 * random_below(16), i % 2, (unsigned)(i % N_KINDS));
    for (unsigned kind = 0; kind < N_KINDS; kind++) compare_floats(k, 65536 - kind, 0, 0, true, kind);
  }
}
END_TEST

START_TEST(float_kernels_read_any_alignment) {
  static const size_t lengths[] = {0, 1, 7, 8, 15, 16, 31, 32, 33, 63, 64, 65, 96, 127, 384};
  for (size_t t = 0; dv_kernels_name_at(t); t++) {
    const dv_kernels *k = dv_kernels_named(dv_kernels_name_at(t));
    for (size_t l = 0; l < sizeof lengths / sizeof lengths[0]; l++)
      for (size_t slack = 0; slack < 64; slack++) {
        compare_floats(k, lengths[l], slack, 0, true, 0);
        compare_floats(k, lengths[l], 63 - slack, slack, false, 6);
      }
  }
}
END_TEST

/* ---- bytes ------------------------------------------------------------------------------------------------------- */

/* Codes: any; only the extremes; only one extreme, where sums are largest. */
static void fill_codes(int8_t *code, size_t n, unsigned kind) {
  for (size_t i = 0; i < n; i++) {
    if (kind == 0) code[i] = (int8_t)((int)random_below(255) - 127);
    if (kind == 1) code[i] = random_below(2) ? 127 : -127;
    if (kind == 2) code[i] = -127;
    if (kind == 3) code[i] = 127;
  }
}

static void compare_bytes(const dv_kernels *k, size_t n, size_t slack_a, size_t slack_b, bool is_at_end,
                          unsigned kind) {
  int8_t *a = (int8_t *)fence_place(&fence_a, n, slack_a, is_at_end);
  int8_t *b = (int8_t *)fence_place(&fence_b, n, slack_b, is_at_end);
  fill_codes(a, n, kind);
  fill_codes(b, n, kind == 3 ? 2 : kind);
  ck_assert_msg(k->dot_i8(a, b, n) == dv_kernels_scalar.dot_i8(a, b, n), "%s n=%zu slack=%zu,%zu kind=%u", k->name, n,
                slack_a, slack_b, kind);
}

START_TEST(dot_i8_is_exact) {
  for (size_t t = 0; dv_kernels_name_at(t); t++) {
    const dv_kernels *k = dv_kernels_named(dv_kernels_name_at(t));
    for (size_t n = 0; n <= 257; n++)
      for (unsigned kind = 0; kind < 4; kind++) {
        compare_bytes(k, n, 0, 0, true, kind);
        compare_bytes(k, n, 0, 0, false, kind);
      }
    for (size_t slack = 0; slack < 64; slack++) {
      compare_bytes(k, 384, slack, 0, true, 0);
      compare_bytes(k, 91, 0, slack, true, 0);
      compare_bytes(k, 33, slack, 63 - slack, false, 0);
    }
    for (size_t i = 0; i < 300; i++) compare_bytes(k, random_below(4096), random_below(64), random_below(64), i % 2, 0);
    for (unsigned kind = 0; kind < 4; kind++) {
      compare_bytes(k, 65536, 0, 0, true, kind);
      compare_bytes(k, 65535, 0, 0, true, kind);
    }
    ck_assert_int_eq(k->dot_i8((const int8_t *)fence_a.end - 65536, (const int8_t *)fence_a.end - 65536, 0), 0);
  }
}
END_TEST

/* What the kernels over packed codes mean, number by number: of all of a row's code, bytes up to 256 and halves above, or
 * of what its high halves stand for, 241 halves above their lowest. */
static int64_t packed_sum(const uint8_t *codes, size_t row, size_t stride, const int8_t *query, bool is_of_high) {
  int64_t sum = 0, query_sum = 0;
  const size_t half = stride / 2;
  const uint8_t *highs = codes + row / 64 * 64 * stride + row % 64 * half;
  const uint8_t *lows = highs + 64 * half;
  for (size_t i = 0; stride <= 256 && i < stride; i++) sum += ((const int8_t *)codes)[row * stride + i] * query[i];
  if (stride <= 256) return sum;
  for (size_t i = 0; i < stride; i++) {
    int high = i < half ? highs[i] & 15 : highs[i - half] >> 4;
    int low = i < half ? lows[i] & 15 : lows[i - half] >> 4;
    sum += (int64_t)(is_of_high ? 16 * high : 16 * high + low - 128) * query[i];
    query_sum += query[i];
  }
  return is_of_high ? sum - query_sum * 241 / 2 : sum;
}

START_TEST(scan_and_gathers_of_packed_codes_are_exact_and_write_only_their_sums) {
  enum { MAX_ROWS = 137, ROOM = 192, STRIDE_MAX = 704, CANARY = 0x5a5a5a5a };
  fence codes_fence = fence_new(ROOM * STRIDE_MAX + 64);
  for (size_t t = 0; dv_kernels_name_at(t); t++) {
    const dv_kernels *k = dv_kernels_named(dv_kernels_name_at(t));
    for (size_t round = 0; round < 400; round++) {
      size_t stride = round < 12 ? 64 * round : 64 * random_below(STRIDE_MAX / 64 + 1),
             n_rows = random_below(round % 2 ? MAX_ROWS + 1 : 9);
      uint8_t *codes = fence_place(&codes_fence, ROOM * stride, round % 7, true);
      int8_t *query = (int8_t *)fence_place(&fence_a, stride, round % 5, true);
      int32_t sum = 0;
      for (size_t i = 0; i < ROOM * stride; i++) {
        codes[i] = (uint8_t)(round % 4 ? random_below(256) : round % 8 ? 255 : 0x81);
        if (stride <= 256 && codes[i] == 0x80) codes[i] = 0x81; /* no code is -128 */
      }
      fill_codes(query, stride, round % 4);
      for (size_t i = 0; i < stride; i++) sum += query[i];

      int32_t out[MAX_ROWS + 2];
      uint32_t rows[MAX_ROWS];
      for (size_t i = 0; i < MAX_ROWS + 2; i++) out[i] = CANARY;
      size_t first = random_below((uint32_t)(ROOM - n_rows) + 1);
      k->scan_code(codes, stride, first, n_rows, query, sum, out + 1);
      for (size_t r = 0; r < n_rows; r++)
        ck_assert_int_eq(out[1 + r], packed_sum(codes, first + r, stride, query, false));
      ck_assert(out[0] == CANARY && out[n_rows + 1] == CANARY);

      for (size_t i = 0; i < MAX_ROWS + 2; i++) out[i] = CANARY;
      for (size_t i = 0; i < n_rows; i++) rows[i] = random_below(ROOM);
      k->gather_code(codes, stride, rows, n_rows, query, sum, out + 1);
      for (size_t i = 0; i < n_rows; i++)
        ck_assert_int_eq(out[1 + i], packed_sum(codes, rows[i], stride, query, false));
      ck_assert(out[0] == CANARY && out[n_rows + 1] == CANARY);

      if (stride <= 256) continue; /* no halves */
      for (size_t i = 0; i < MAX_ROWS + 2; i++) out[i] = CANARY;
      k->gather_high(codes, stride, rows, n_rows, query, sum, out + 1);
      for (size_t i = 0; i < n_rows; i++) ck_assert_int_eq(out[1 + i], packed_sum(codes, rows[i], stride, query, true));
      ck_assert(out[0] == CANARY && out[n_rows + 1] == CANARY);
    }
  }
  /* The longest rows there are, at the extremes. */
  uint8_t *longest = malloc((size_t)64 * 65536);
  ck_assert(longest != NULL);
  for (size_t t = 0; dv_kernels_name_at(t); t++) {
    const dv_kernels *k = dv_kernels_named(dv_kernels_name_at(t));
    for (unsigned kind = 1; kind < 4; kind++) {
      int8_t *query = (int8_t *)fence_place(&fence_a, 65536, 0, true);
      int32_t sum = 0, out;
      const uint32_t first = 0;
      fill_codes(query, 65536, kind);
      for (size_t i = 0; i < 65536; i++) sum += query[i];
      for (int byte = 0; byte < 256; byte += 255) {
        memset(longest, byte, (size_t)64 * 65536);
        k->scan_code(longest, 65536, 63, 1, query, sum, &out);
        ck_assert_int_eq(out, packed_sum(longest, 63, 65536, query, false));
        k->gather_code(longest, 65536, &first, 1, query, sum, &out);
        ck_assert_int_eq(out, packed_sum(longest, 0, 65536, query, false));
        k->gather_high(longest, 65536, &first, 1, query, sum, &out);
        ck_assert_int_eq(out, packed_sum(longest, 0, 65536, query, true));
      }
    }
  }
  free(longest);
  fence_free(&codes_fence);
}
END_TEST

/* ---- bits -------------------------------------------------------------------------------------------------------- */

/* What scan_bits means, bit by bit. */
static uint32_t sum_of_row(const uint8_t *blocks, size_t row, size_t n_words, const uint8_t *table) {
  const uint8_t *block = blocks + row / 32 * n_words * 256;
  uint32_t sum = 0;
  for (size_t g = 0; g < 16 * n_words; g++) {
    unsigned byte = block[16 * g + row % 16];
    sum += table[16 * g + (row % 32 < 16 ? byte & 15u : byte >> 4)];
  }
  return sum;
}

static void compare_bits(const dv_kernels *k, size_t n_blocks, size_t n_words, bool is_extreme) {
  enum { CANARY = 0x5a5a5a5a };
  fence blocks_fence = fence_new(n_blocks * n_words * 256 + 8), table_fence = fence_new(n_words * 256 + 8);
  size_t slack = is_extreme ? 0 : random_below(8);
  uint8_t *blocks = fence_place(&blocks_fence, n_blocks * n_words * 256, 0, true);
  uint8_t *table = fence_place(&table_fence, n_words * 256, slack, true);
  for (size_t i = 0; i < n_blocks * n_words * 256; i++) blocks[i] = is_extreme ? 255 : (uint8_t)random_below(256);
  for (size_t i = 0; i < n_words * 256; i++) table[i] = is_extreme ? 63 : (uint8_t)random_below(64);
  uint32_t *out = malloc((n_blocks * 32 + 2) * sizeof *out);
  ck_assert_ptr_nonnull(out);
  out[0] = out[n_blocks * 32 + 1] = CANARY;
  k->scan_bits((const uint64_t *)(const void *)blocks, n_blocks, n_words, table, out + 1);
  for (size_t r = 0; r < n_blocks * 32; r++)
    ck_assert_msg(out[1 + r] == sum_of_row(blocks, r, n_words, table), "%s row %zu of %zu blocks, %zu words", k->name,
                  r, n_blocks, n_words);
  ck_assert(out[0] == CANARY && out[n_blocks * 32 + 1] == CANARY);
  free(out);
  fence_free(&blocks_fence);
  fence_free(&table_fence);
}

START_TEST(scan_bits_is_exact) {
  for (size_t t = 0; dv_kernels_name_at(t); t++) {
    const dv_kernels *k = dv_kernels_named(dv_kernels_name_at(t));
    for (size_t n_words = 0; n_words <= 12; n_words++)
      for (size_t n_blocks = 0; n_blocks <= 5; n_blocks++) compare_bits(k, n_blocks, n_words, false);
    compare_bits(k, 2, DV_BITS_SPAN - 1, true);
    compare_bits(k, 2, DV_BITS_SPAN, true);
    compare_bits(k, 2, DV_BITS_SPAN + 1, false);
    compare_bits(k, 1, 3 * DV_BITS_SPAN + 5, false);
    compare_bits(k, 2, MAX_N / 64, true);
  }
}
END_TEST

START_TEST(pick_bits_equals_scalar) {
  enum { MAX_ROWS = 1024, CANARY = 0x5a5a5a5a };
  static uint32_t sums[MAX_ROWS], out[MAX_ROWS + 1], expected[MAX_ROWS];
  fence rows_fence = fence_new(MAX_ROWS * sizeof(dv_bit_row));
  for (size_t t = 0; dv_kernels_name_at(t); t++) {
    const dv_kernels *k = dv_kernels_named(dv_kernels_name_at(t));
    for (size_t round = 0; round < 600; round++) {
      size_t n = round < 200 ? round % 70 : random_below(MAX_ROWS + 1);
      uint8_t *bytes = fence_place(&rows_fence, n * sizeof(dv_bit_row), 0, true);
      dv_bit_row *rows = (dv_bit_row *)(void *)bytes;
      bool is_wild = round % 5 == 0;
      for (size_t r = 0; r < n; r++) {
        rows[r].factor = is_wild ? random_float(6) : random_unit();
        rows[r].offset = is_wild ? random_float(6) : random_unit();
        if (random_below(50) == 0) rows[r].offset = __builtin_nanf("");
        sums[r] = random_below(is_wild ? 1u << 20 : 3000);
      }
      float per_sum = is_wild ? random_float(6) : -1e-3f, base = random_unit(), limit = random_unit() * 4;
      if (round % 7 == 0 && n > 0) { /* a limit that is met exactly */
        volatile float step = per_sum * (float)sums[0]; /* rounded one by one, however this file is compiled */
        step = step + base;
        step = rows[0].factor * step;
        limit = rows[0].offset + step;
      }
      if (round % 11 == 0) limit = __builtin_inff();
      if (round % 13 == 0) base = -__builtin_inff();
      size_t n_expected = dv_kernels_scalar.pick_bits(sums, rows, n, per_sum, base, limit, expected);
      for (size_t i = 0; i <= MAX_ROWS; i++) out[i] = CANARY;
      ck_assert_uint_eq(k->pick_bits(sums, rows, n, per_sum, base, limit, out), n_expected);
      ck_assert_int_eq(memcmp(out, expected, n_expected * sizeof *out), 0);
      ck_assert(out[n] == CANARY);
      if (round % 7 == 0 && round % 13 != 0 && n > 0) ck_assert(n_expected > 0 && expected[0] == 0);
    }
  }
  fence_free(&rows_fence);
}
END_TEST

/* ---- making codes ------------------------------------------------------------------------------------------------ */

static bool are_same_f64(const double *a, const double *b, size_t n) { return memcmp(a, b, n * sizeof *a) == 0; }

static void compare_making(const dv_kernels *k, size_t n, size_t slack, bool is_at_end, unsigned kind) {
  enum { CANARY = 0x5a };
  static int8_t code[MAX_N + 2], expected_code[MAX_N + 2];
  static uint8_t signs[MAX_N / 4 + 2], expected_signs[MAX_N / 4 + 2];
  const dv_kernels *s = &dv_kernels_scalar;
  uint8_t *bytes_v = fence_place(&fence_a, n * sizeof(float), slack, is_at_end);
  uint8_t *bytes_c = fence_place(&fence_b, n * sizeof(float), slack, is_at_end);
  for (size_t i = 0; i < n; i++) {
    float v = random_float(kind), c = random_below(4) ? random_float(kind) : 0.0f;
    memcpy(bytes_v + i * sizeof v, &v, sizeof v);
    memcpy(bytes_c + i * sizeof c, &c, sizeof c);
  }
  const float *v = (const float *)(const void *)bytes_v, *center = (const float *)(const void *)bytes_c;
  float max = s->max_abs_f32(v, n);
  ck_assert_msg(is_same(k->max_abs_f32(v, n), max), "%s n=%zu slack=%zu kind=%u", k->name, n, slack, kind);
  double lane[4], expected_lane[4];
  k->sum_sq_f64(v, n, lane);
  s->sum_sq_f64(v, n, expected_lane);
  ck_assert_msg(are_same_f64(lane, expected_lane, 4), "%s n=%zu kind=%u", k->name, n, kind);

  /* Scales as dv_code_encode has them, and one at which every other value lies in the middle between two codes. */
  double inverse = kind % 2 ? 1.0 : 0.37, scale = max > 0.0f ? (double)max * inverse / 127.0 : 1.0;
  memset(code, CANARY, n + 2);
  k->encode_i8(v, n, inverse, scale, inverse / scale, code + 1, lane);
  s->encode_i8(v, n, inverse, scale, inverse / scale, expected_code + 1, expected_lane);
  bool ok = are_same_f64(lane, expected_lane, 4) && memcmp(code + 1, expected_code + 1, n) == 0;
  ck_assert_msg(ok && code[0] == CANARY && code[n + 1] == CANARY, "%s n=%zu kind=%u", k->name, n, kind);

  memcpy(fence_place(&fence_a, n, slack, is_at_end), expected_code + 1, n);
  const int8_t *placed = (const int8_t *)fence_place(&fence_a, n, slack, is_at_end);
  for (int has_center = 0; has_center < 2; has_center++) {
    double sums[12], expected[12];
    for (size_t i = 0; i < 12; i++) sums[i] = expected[i] = i % 3 ? 0.0 : 1.25;
    memset(signs, CANARY, n / 4 + 2);
    k->signs_i8(placed, n, scale, has_center ? center : NULL, signs, sums);
    s->signs_i8(placed, n, scale, has_center ? center : NULL, expected_signs, expected);
    ok = are_same_f64(sums, expected, 12) && memcmp(signs, expected_signs, (n + 3) / 4) == 0;
    ck_assert_msg(ok && signs[(n + 3) / 4] == CANARY, "%s n=%zu kind=%u center=%d", k->name, n, kind, has_center);
  }
}

START_TEST(codes_are_made_as_scalar_makes_them) {
  for (size_t t = 0; dv_kernels_name_at(t); t++) {
    const dv_kernels *k = dv_kernels_named(dv_kernels_name_at(t));
    for (size_t n = 0; n <= 257; n++)
      for (unsigned kind = 0; kind < N_KINDS; kind++) compare_making(k, n, 0, n % 2, kind);
    for (size_t slack = 0; slack < 64; slack++) compare_making(k, 384 + slack % 5, slack, slack % 2, 0);
    compare_making(k, MAX_N, 0, true, 0);
    compare_making(k, MAX_N - 3, 0, true, 2);
  }
}
END_TEST

/* The definition once more: ties go to the even code, lanes are those of i % 4. */
START_TEST(making_codes_is_defined) {
  float v[11] = {0.5f, 1.5f, 2.5f, -0.5f, -1.5f, 126.5f, -127.0f, 0.49999997f, -0.0f, 3.25f, 1e-30f};
  int8_t code[11], expected[11] = {0, 2, 2, 0, -2, 126, -127, 0, 0, 3, 0};
  double lane[4], sums[12] = {0};
  uint8_t signs[3];
  dv_kernels_scalar.encode_i8(v, 11, 1.0, 1.0, 1.0, code, lane);
  ck_assert(memcmp(code, expected, sizeof code) == 0);
  ck_assert(lane[0] == 0.5 * 0.5 + 0.5 * 0.5 && lane[1] == 0.5 * 0.5 + 0.5 * 0.5 + 0.25 * 0.25 &&
            lane[2] == 0.25 + 1e-30f * (double)1e-30f);
  ck_assert(dv_kernels_scalar.max_abs_f32(v, 11) == 127.0f && dv_kernels_scalar.max_abs_f32(v, 0) == 0.0f);
  dv_kernels_scalar.signs_i8(code, 11, 2.0, NULL, signs, sums);
  ck_assert(signs[0] == 15 && signs[1] == 2 + 8 && signs[2] == 7);
  ck_assert(sums[0] == 4.0 && sums[1] == 4 + 252 + 6 && sums[6] == 16 + 254.0 * 254 && sums[8] == 0);
}
END_TEST

/* ---- the tables -------------------------------------------------------------------------------------------------- */

START_TEST(tables_are_found_by_name) {
  ck_assert_str_eq(dv_kernels_name_at(0), "scalar");
  ck_assert_ptr_eq(dv_kernels_named("scalar"), &dv_kernels_scalar);
  ck_assert_ptr_null(dv_kernels_named("altivec"));
  ck_assert_ptr_null(dv_kernels_named(""));
  size_t n = 0;
  for (; dv_kernels_name_at(n); n++)
    ck_assert_str_eq(dv_kernels_named(dv_kernels_name_at(n))->name, dv_kernels_name_at(n));
  ck_assert_ptr_eq(dv_kernels_get(), dv_kernels_named(dv_kernels_name_at(n - 1)));
  ck_assert_ptr_eq(dv_kernels_get(), dv_kernels_get());
  ck_assert_ptr_null(dv_kernels_name_at(n + 100));
}
END_TEST

int main(void) {
  Suite *suite = suite_create("simd");
  TCase *tc = tcase_create("kernels");
  tcase_set_timeout(tc, 0);
  tcase_add_checked_fixture(tc, fences_up, fences_down);
  tcase_add_test(tc, tables_are_found_by_name);
  tcase_add_test(tc, scalar_is_the_definition);
  tcase_add_test(tc, float_kernels_equal_scalar_at_every_length);
  tcase_add_test(tc, float_kernels_read_any_alignment);
  tcase_add_test(tc, dot_i8_is_exact);
  tcase_add_test(tc, scan_and_gathers_of_packed_codes_are_exact_and_write_only_their_sums);
  tcase_add_test(tc, scan_bits_is_exact);
  tcase_add_test(tc, pick_bits_equals_scalar);
  tcase_add_test(tc, making_codes_is_defined);
  tcase_add_test(tc, codes_are_made_as_scalar_makes_them);
  suite_add_tcase(suite, tc);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed;
}
