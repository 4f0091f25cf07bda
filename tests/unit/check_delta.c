/*
 * check_delta.c: payloads of deltas. A second, slow writer of every encoding (naive_*) stands beside the one under
 * test: what the encoder picks must be the smallest of its answers, byte for byte, and what the readers accept must be
 * what it writes. Payloads are read from blocks of exactly their size, so that ASan sees a byte too many.
 */
#include "dv_delta.h"

#include <check.h>
#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#if defined(__SSE2__)
#include <xmmintrin.h>
#endif

#include "dv_checksum.h"
#include "dv_vector.h"

/* ck_assert reports its place to the runner each time it is passed: in loops of millions that is all the time there
 * is. */
#define REQUIRE(x)                                                                                                     \
  do {                                                                                                                 \
    if (!(x)) ck_abort_msg("%s", "not so: " #x);                                                                       \
  } while (0)

/* ---- helpers ----------------------------------------------------------------------------------------------------- */

static uint64_t seed = 1;

static uint32_t next_random(void) {
  seed = seed * 6364136223846793005u + 1442695040888963407u;
  return (uint32_t)(seed >> 32) ^ (uint32_t)(seed >> 11);
}

static uint32_t random_below(uint32_t n) { return (uint32_t)((uint64_t)next_random() * n >> 32); }

/* -1 .. 1 in steps of 2^-23: the same on every platform. */
static float random_unit(void) { return (float)((int32_t)(next_random() >> 8) - (1 << 23)) * 0x1p-23f; }

static float random_finite(void) {
  for (;;) {
    const float f = dv_bits_float(next_random());
    if (dv_is_finite(f)) return f;
  }
}

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

static void *exact_copy(const void *bytes, size_t n) {
  void *copy = malloc(n ? n : 1);
  REQUIRE(copy != NULL);
  if (n) memcpy(copy, bytes, n);
  return copy;
}

/* The delta with its payload in a block of exactly its size: free((void *)result.payload). */
static dv_delta exact(dv_op op, dv_encoding encoding, const void *payload, size_t n) {
  const dv_delta d = {op, encoding, exact_copy(payload, n), n};
  return d;
}

/* ---- the slow writer --------------------------------------------------------------------------------------------- */

static int64_t naive_ordered(float f) {
  const uint32_t u = dv_float_bits(f);
  return u >> 31 ? -(int64_t)(u & 0x7fffffffu) - 1 : (int64_t)u;
}

static uint32_t naive_difference(float from, float to) {
  const int32_t d = (int32_t)(uint32_t)(naive_ordered(to) - naive_ordered(from));
  return (uint32_t)dv_zigzag(d);
}

static unsigned naive_width(const uint32_t *z, size_t m) {
  unsigned width = 0;
  for (size_t i = 0; i < m; i++) {
    while (width < 32 && z[i] >> width != 0) width++;
  }
  return width;
}

static void naive_pack(dv_buf *out, const uint32_t *z, size_t m, unsigned width) {
  const size_t begin = out->n;
  uint8_t *p = dv_buf_extend(out, (m * width + 7) / 8);
  if (out->n > begin) memset(p, 0, out->n - begin);
  for (size_t bit = 0; bit < m * width; bit++) {
    if (z[bit / width] >> bit % width & 1) p[bit / 8] |= (uint8_t)(1u << bit % 8);
  }
}

static void naive_diff(dv_buf *out, const float *from, const float *to, size_t n) {
  for (size_t i = 0; i < n; i += 64) {
    const size_t m = n - i < 64 ? n - i : 64;
    uint32_t z[64];
    for (size_t j = 0; j < m; j++) z[j] = naive_difference(from[i + j], to[i + j]);
    dv_buf_u8(out, (uint8_t)naive_width(z, m));
    naive_pack(out, z, m, naive_width(z, m));
  }
}

static void naive_planes(dv_buf *out, const float *v, size_t n) {
  for (size_t i = 0; i < n; i += 64) {
    const size_t m = n - i < 64 ? n - i : 64;
    uint32_t z[64], smallest = 255;
    for (size_t j = 0; j < m; j++) {
      z[j] = dv_float_bits(v[i + j]) >> 23 & 0xff;
      if (z[j] < smallest) smallest = z[j];
    }
    for (size_t j = 0; j < m; j++) z[j] -= smallest;
    dv_buf_u8(out, (uint8_t)smallest);
    dv_buf_u8(out, (uint8_t)naive_width(z, m));
    naive_pack(out, z, m, naive_width(z, m));
    for (unsigned plane = 0; plane < 3; plane++) {
      for (size_t j = 0; j < m; j++) {
        const uint32_t u = dv_float_bits(v[i + j]);
        dv_buf_u8(out, (uint8_t)(((u & 0x007fffffu) | u >> 31 << 23) >> 8 * plane));
      }
    }
  }
}

static void naive_pairs(dv_buf *out, const uint32_t *indices, const float *values, size_t count) {
  uint64_t next = 0;
  for (size_t i = 0; i < count; i++) {
    dv_buf_varint(out, indices[i] - next);
    next = (uint64_t)indices[i] + 1;
  }
  for (size_t i = 0; i < count; i++) dv_buf_u32(out, dv_float_bits(values[i]));
}

static void naive_sparse(dv_buf *out, const float *from, const float *to, size_t n) {
  uint32_t *indices = malloc(n * sizeof *indices);
  float *values = malloc(n * sizeof *values);
  size_t count = 0;
  REQUIRE(indices && values);
  for (size_t i = 0; i < n; i++) {
    if (dv_float_bits(from[i]) == dv_float_bits(to[i])) continue;
    indices[count] = (uint32_t)i;
    values[count++] = to[i];
  }
  naive_pairs(out, indices, values, count);
  free(indices);
  free(values);
}

static void naive_run(dv_buf *out, const float *from, const float *to, size_t n) {
  size_t first = 0, last = n - 1;
  while (first < n && dv_float_bits(from[first]) == dv_float_bits(to[first])) first++;
  if (first == n) return; /* nothing to write */
  while (dv_float_bits(from[last]) == dv_float_bits(to[last])) last--;
  dv_buf_varint(out, first);
  for (size_t i = first; i <= last; i++) dv_buf_u32(out, dv_float_bits(to[i]));
}

/* ---- names ------------------------------------------------------------------------------------------------------- */

START_TEST(operations_and_encodings_have_names) {
  static const char *const ops[] = {NULL, "create", "sparse", "dense", "scale", "offset", "delete", NULL};
  static const char *const encodings[] = {"none", "sparse", "run", "dense", "diff", "scalar", "planes", NULL};
  for (int i = 0; i < 8; i++) {
    if (ops[i])
      ck_assert_str_eq(dv_op_name(i), ops[i]);
    else
      ck_assert_ptr_null(dv_op_name(i));
    if (encodings[i])
      ck_assert_str_eq(dv_encoding_name(i), encodings[i]);
    else
      ck_assert_ptr_null(dv_encoding_name(i));
  }
  ck_assert_ptr_null(dv_op_name(-1));
  ck_assert_ptr_null(dv_encoding_name(-1));
  ck_assert_ptr_null(dv_op_name(1000));
}
END_TEST

START_TEST(operations_and_encodings_go_together_as_the_grammar_says) {
  static const char *const pairs[] = {
      "", "dense planes", "sparse run dense diff", "sparse run dense diff planes", "scalar", "scalar", "none"};
  static const uint8_t zeros[16];
  float v[4] = {0};
  for (unsigned op = 0; op < 300; op++) {
    for (unsigned encoding = 0; encoding < 300; encoding++) {
      const char *name = dv_encoding_name((int)encoding);
      const bool is_pair = op > 0 && op < 7 && name && strstr(pairs[op], name);
      REQUIRE(dv_delta_is_pair(op, encoding) == is_pair);
      if (is_pair) continue;
      for (size_t n = 0; n <= 16; n += 4) {
        const dv_delta d = {(dv_op)op, (dv_encoding)encoding, zeros, n};
        REQUIRE(dv_delta_check(&d, 4, NULL) == DV_CORRUPT);
        REQUIRE(dv_delta_apply(&d, v, 4, NULL) == DV_CORRUPT);
      }
    }
  }
}
END_TEST

/* ---- writing and reading ----------------------------------------------------------------------------------------- */

enum {
  UNCHANGED,
  ONE,
  FIVE_PERCENT,
  RUN,
  TWO_RUNS,
  SMALL,
  ZERO_CROSSING,
  HALF_SMALL,
  ANEW,
  ANY_BITS,
  FIRST_AND_LAST,
  N_PATTERNS
};

static void change(float *to, const float *from, size_t n, int pattern) {
  memcpy(to, from, n * sizeof *to);
  const size_t a = random_below((uint32_t)n), b = a + random_below((uint32_t)(n - a));
  switch (pattern) {
  case UNCHANGED: break;
  case ONE: to[a] = random_unit(); break;
  case FIVE_PERCENT:
    for (size_t i = 0; i < n; i++) {
      if (random_below(20) == 0) to[i] = random_unit();
    }
    break;
  case RUN:
  case TWO_RUNS:
    for (size_t i = a; i <= b; i++) to[i] = random_unit();
    for (size_t i = 0; pattern == TWO_RUNS && i < a / 2; i++) to[i] = random_unit();
    break;
  case SMALL:
    for (size_t i = 0; i < n; i++) to[i] = from[i] + random_unit() * 1e-4f;
    break;
  case ZERO_CROSSING:
    for (size_t i = 0; i < n; i++)
      to[i] = dv_bits_float(random_below(2) ? 0x80000000u + random_below(3) : random_below(3));
    break;
  case HALF_SMALL:
    for (size_t i = n / 2; i < n; i++) to[i] = dv_bits_float(dv_float_bits(from[i]) ^ random_below(16));
    break;
  case ANEW:
    for (size_t i = 0; i < n; i++) to[i] = random_unit();
    break;
  case ANY_BITS:
    for (size_t i = 0; i < n; i++) to[i] = random_finite();
    break;
  case FIRST_AND_LAST: to[0] = to[n - 1] = 7; break;
  default: ck_abort();
  }
}

/* Encodes, compares with the slow writer, applies, and compares bits. */
static void check_change(const float *from, const float *to, size_t n, dv_op op, dv_compression compression) {
  dv_buf naive[7], out = buffer();
  dv_delta d;
  for (size_t i = 0; i < 7; i++) naive[i] = buffer();
  dv_buf_bytes(&naive[DV_ENC_DENSE], to, 4 * n); /* on a little-endian host */
  dv_encoding best = DV_ENC_DENSE;
  const bool is_compared = from && op != DV_OP_CREATE && compression != DV_COMPRESSION_OFF;
  if (is_compared) {
    naive_run(&naive[DV_ENC_RUN], from, to, n);
    naive_diff(&naive[DV_ENC_DIFF], from, to, n);
    naive_sparse(&naive[DV_ENC_SPARSE], from, to, n);
    if (naive[DV_ENC_DIFF].n < naive[best].n) best = DV_ENC_DIFF;
    if (naive[DV_ENC_RUN].n && naive[DV_ENC_RUN].n <= naive[best].n) best = DV_ENC_RUN;
    if (naive[DV_ENC_SPARSE].n <= naive[best].n) best = DV_ENC_SPARSE;
  }
  if (compression == DV_COMPRESSION_MAX) {
    naive_planes(&naive[DV_ENC_PLANES], to, n);
    if (naive[DV_ENC_PLANES].n < naive[best].n) best = DV_ENC_PLANES;
  }
  dv_buf_u8(&out, 0x5a); /* it appends */
  if (!is_compared) { /* (else it tries what changed, and that may be longer) */
    REQUIRE(dv_buf_reserve(&out, 5 * n + 64));
    memset(out.data + 1, 0xa5, out.capacity - 1);
  }
  dv_delta_encode_dense(&out, &d, op, from, to, n, compression);
  REQUIRE(out.status == DV_OK);
  REQUIRE(out.data[0] == 0x5a);
  REQUIRE(d.payload == NULL);
  REQUIRE(d.n_payload == out.n - 1);
  REQUIRE(d.op == op);
  for (size_t i = out.n; !is_compared && i < out.capacity; i++) REQUIRE(out.data[i] == 0xa5); /* no byte too far */
  if (!(d.encoding == best))
    ck_abort_msg("n %zu: %s, not %s", n, dv_encoding_name((int)d.encoding), dv_encoding_name((int)best));
  REQUIRE(d.n_payload == naive[best].n);
  if (naive[best].n) REQUIRE(memcmp(out.data + 1, naive[best].data, naive[best].n) == 0);

  d = exact(op, d.encoding, out.data + 1, d.n_payload);
  float *v = malloc(n * sizeof *v);
  REQUIRE(v != NULL);
  for (size_t i = 0; i < n; i++) v[i] = from ? from[i] : NAN;
  REQUIRE(dv_delta_check(&d, n, NULL) == DV_OK);
  REQUIRE(dv_delta_check(&d, 0, NULL) == DV_OK);
  REQUIRE(dv_delta_apply(&d, v, n, NULL) == DV_OK);
  REQUIRE(memcmp(v, to, n * sizeof *v) == 0);
  free(v);
  free((void *)d.payload);
  dv_buf_free(&out);
  for (size_t i = 0; i < 7; i++) dv_buf_free(&naive[i]);
}

START_TEST(dense_changes_take_the_smallest_encoding_and_read_back) {
  static const size_t sizes[] = {1, 2, 3, 7, 63, 64, 65, 127, 128, 129, 384, 1000, 16500, 65536};
  for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
    const size_t n = sizes[s];
    float *from = malloc(n * sizeof *from), *to = malloc(n * sizeof *to);
    ck_assert(from && to);
    for (int pattern = 0; pattern < N_PATTERNS; pattern++) {
      for (size_t round = 0; round < (n < 2000 ? 20 : 1); round++) {
        for (size_t i = 0; i < n; i++) from[i] = pattern == ANY_BITS ? random_finite() : random_unit();
        change(to, from, n, pattern);
        for (int compression = 0; compression < 3; compression++) {
          check_change(from, to, n, DV_OP_DENSE, (dv_compression)compression);
          check_change(NULL, to, n, DV_OP_DENSE, (dv_compression)compression);
          check_change(NULL, to, n, DV_OP_CREATE, (dv_compression)compression);
          check_change(from, to, n, DV_OP_CREATE, (dv_compression)compression);
        }
      }
    }
    free(from);
    free(to);
  }
}
END_TEST

START_TEST(embeddings_are_smaller_in_planes_and_their_small_changes_in_diffs) {
  enum { N = 384 };
  float from[N], to[N];
  for (size_t i = 0; i < N; i++) { /* near enough to a gaussian */
    float sum = 0;
    for (size_t j = 0; j < 12; j++) sum += random_unit();
    from[i] = sum * 0.0255f;
    to[i] = from[i] * (1 + 1e-3f * random_unit());
  }
  dv_buf out = buffer();
  dv_delta d;
  dv_delta_encode_dense(&out, &d, DV_OP_CREATE, NULL, from, N, DV_COMPRESSION_MAX);
  ck_assert_int_eq(d.encoding, DV_ENC_PLANES);
  ck_assert_msg((double)d.n_payload < 4 * N / 1.13, "%zu bytes", d.n_payload);
  dv_delta_encode_dense(&out, &d, DV_OP_DENSE, from, to, N, DV_COMPRESSION_ON);
  ck_assert_int_eq(d.encoding, DV_ENC_DIFF);
  ck_assert_msg((double)d.n_payload < 4 * N / 1.8, "%zu bytes", d.n_payload);
  dv_buf_free(&out);
}
END_TEST

START_TEST(sparse_pairs_in_any_order) {
  for (int round = 0; round < 3000; round++) {
    const uint32_t n = 1 + random_below(round % 10 ? 400 : 65536);
    uint32_t indices[300] = {0}, shuffled[300];
    float values[300] = {0}, shuffled_values[300], v[65536 / 64];
    size_t count = 0;
    const uint32_t density = 1 + random_below(40);
    for (uint32_t i = round % 3 ? random_below(n) : 0; i < n && count < 300; i += 1 + random_below(density)) {
      indices[count] = i;
      values[count++] = random_finite();
    }
    memcpy(shuffled, indices, sizeof indices);
    memcpy(shuffled_values, values, sizeof values);
    for (size_t i = count; round % 2 && i > 1; i--) {
      const size_t j = random_below((uint32_t)i);
      const uint32_t index = shuffled[j];
      const float value = shuffled_values[j];
      shuffled[j] = shuffled[i - 1];
      shuffled_values[j] = shuffled_values[i - 1];
      shuffled[i - 1] = index;
      shuffled_values[i - 1] = value;
    }
    dv_buf out = buffer(), naive = buffer();
    dv_delta d;
    REQUIRE((dv_delta_encode_sparse(&out, &d, shuffled, shuffled_values, count, round % 5 ? n : 0, NULL)) == DV_OK);
    if (count >= 2 && indices[count - 1] - indices[0] == count - 1) {
      REQUIRE(d.encoding == DV_ENC_RUN);
      dv_buf_varint(&naive, indices[0]);
      dv_buf_bytes(&naive, values, 4 * count);
    } else {
      REQUIRE(d.encoding == DV_ENC_SPARSE);
      naive_pairs(&naive, indices, values, count);
    }
    REQUIRE(d.op == DV_OP_SPARSE);
    REQUIRE(d.n_payload == naive.n);
    if (naive.n) REQUIRE(memcmp(out.data, naive.data, naive.n) == 0);
    d = exact(d.op, d.encoding, out.data, d.n_payload);
    REQUIRE(dv_delta_check(&d, n, NULL) == DV_OK);
    if (n <= sizeof v / sizeof *v) {
      memset(v, 0, sizeof v);
      REQUIRE(dv_delta_apply(&d, v, n, NULL) == DV_OK);
      for (size_t i = 0, at = 0; i < n; i++) {
        const float expected = at < count && indices[at] == i ? values[at++] : 0;
        REQUIRE(dv_float_bits(v[i]) == dv_float_bits(expected));
      }
    }
    free((void *)d.payload);
    dv_buf_free(&out);
    dv_buf_free(&naive);
  }
}
END_TEST

START_TEST(sparse_refuses_what_cannot_be_set) {
  static const uint32_t twice[] = {5, 3, 9, 3}, neighbours[] = {1, 2, 2}, far[] = {1, 384, 2};
  static const float values[] = {1, 2, 3, 4}, bad[] = {1, 2, NAN, 4}, infinite[] = {-INFINITY, 2, 3, 4};
  dv_buf out = buffer();
  dv_delta d;
  dv_detail detail;
  ck_assert_int_eq(dv_delta_encode_sparse(&out, &d, twice, values, 4, 384, &detail), DV_DUPLICATE);
  ck_assert_uint_eq(detail.at, 3);
  ck_assert_int_eq(dv_delta_encode_sparse(&out, &d, neighbours, values, 3, 0, &detail), DV_DUPLICATE);
  ck_assert_uint_eq(detail.at, 2);
  ck_assert_int_eq(dv_delta_encode_sparse(&out, &d, far, values, 3, 384, &detail), DV_INDEX);
  ck_assert_uint_eq(detail.at, 384);
  ck_assert_int_eq(dv_delta_encode_sparse(&out, &d, twice, bad, 4, 384, &detail), DV_NOT_FINITE);
  ck_assert_uint_eq(detail.at, 9);
  ck_assert(isnan(detail.value));
  ck_assert_int_eq(dv_delta_encode_sparse(&out, &d, twice, infinite, 4, 384, &detail), DV_NOT_FINITE);
  ck_assert_uint_eq(detail.at, 5);
  ck_assert(detail.value == -INFINITY);
  ck_assert_int_eq(dv_delta_encode_sparse(&out, &d, far, infinite, 3, 1, NULL), DV_INDEX);
  ck_assert_uint_eq(out.n, 0);
  ck_assert_int_eq(out.status, DV_OK);
  dv_buf_free(&out);
}
END_TEST

START_TEST(sparse_reaches_the_last_of_all_indices) {
  static const uint32_t indices[] = {0xffffffffu, 0, 0xfffffffdu};
  static const float values[] = {1, 2, 3};
  dv_buf out = buffer();
  dv_delta d;
  dv_detail detail;
  ck_assert_int_eq(dv_delta_encode_sparse(&out, &d, indices, values, 3, 0, NULL), DV_OK);
  d.payload = out.data;
  ck_assert_int_eq(dv_delta_check(&d, 0, NULL), DV_OK);
  ck_assert_int_eq(dv_delta_check(&d, 65536, &detail), DV_INDEX);
  ck_assert_uint_eq(detail.at, 0xfffffffdu);
  dv_buf_free(&out);
}
END_TEST

typedef struct visited {
  uint32_t indices[8];
  float values[8];
  size_t n;
} visited;

static void visit(void *ctx, uint32_t index, float value) {
  visited *v = ctx;
  REQUIRE(v->n < 8);
  v->indices[v->n] = index;
  v->values[v->n++] = value;
}

START_TEST(each_names_the_values_of_sparse_and_run) {
  static const uint32_t sparse[] = {0, 200, 70000, 0xffffffffu}, run[] = {300, 301, 302};
  static const float values[] = {1, -2, 3, -0.0f};
  dv_buf out = buffer();
  dv_delta d;
  visited v = {{0}, {0}, 0};
  ck_assert_int_eq(dv_delta_encode_sparse(&out, &d, sparse, values, 4, 0, NULL), DV_OK);
  d.payload = out.data;
  dv_delta_each(&d, visit, &v);
  ck_assert_uint_eq(v.n, 4);
  ck_assert_mem_eq(v.indices, sparse, sizeof sparse);
  ck_assert_mem_eq(v.values, values, sizeof values);
  out.n = v.n = 0;
  ck_assert_int_eq(dv_delta_encode_sparse(&out, &d, run, values, 3, 0, NULL), DV_OK);
  ck_assert_int_eq(d.encoding, DV_ENC_RUN);
  d.payload = out.data;
  dv_delta_each(&d, visit, &v);
  ck_assert_uint_eq(v.n, 3);
  ck_assert_mem_eq(v.indices, run, sizeof run);
  out.n = v.n = 0;
  ck_assert_int_eq(dv_delta_encode_sparse(&out, &d, run, values, 0, 0, NULL), DV_OK);
  ck_assert_uint_eq(d.n_payload, 0);
  dv_delta_each(&d, visit, &v);
  ck_assert_uint_eq(v.n, 0);
  dv_buf_free(&out);
}
END_TEST

START_TEST(an_empty_sparse_delta_changes_nothing) {
  const dv_delta d = {DV_OP_SPARSE, DV_ENC_SPARSE, NULL, 0};
  float v[2] = {1, 2};
  ck_assert_int_eq(dv_delta_check(&d, 2, NULL), DV_OK);
  ck_assert_int_eq(dv_delta_apply(&d, v, 2, NULL), DV_OK);
  ck_assert(v[0] == 1 && v[1] == 2);
}
END_TEST

START_TEST(delete_leaves_the_vector) {
  dv_delta d = {DV_OP_DELETE, DV_ENC_NONE, NULL, 0};
  float v[2] = {1, 2};
  ck_assert_int_eq(dv_delta_check(&d, 2, NULL), DV_OK);
  ck_assert_int_eq(dv_delta_apply(&d, v, 2, NULL), DV_OK);
  ck_assert(v[0] == 1 && v[1] == 2);
  d.payload = (const uint8_t *)"x";
  d.n_payload = 1;
  ck_assert_int_eq(dv_delta_check(&d, 2, NULL), DV_CORRUPT);
  ck_assert_int_eq(dv_delta_apply(&d, v, 2, NULL), DV_CORRUPT);
}
END_TEST

START_TEST(a_sparse_change_of_five_percent_takes_95_to_97_bytes) {
  /* the longest there can be of 19 of 384: two gaps of 128 and more */
  uint32_t indices[19];
  float values[19];
  for (uint32_t i = 0; i < 19; i++) {
    indices[i] = i < 8 ? 128 + 2 * i : 128 + 16 + 128 + 2 * (i - 8);
    values[i] = 1;
  }
  dv_buf out = buffer();
  dv_delta d;
  ck_assert_int_eq(dv_delta_encode_sparse(&out, &d, indices, values, 19, 384, NULL), DV_OK);
  ck_assert_uint_eq(d.n_payload, 97);
  for (uint32_t i = 0; i < 19; i++) indices[i] = 20 * i + 3;
  ck_assert_int_eq(dv_delta_encode_sparse(&out, &d, indices, values, 19, 384, NULL), DV_OK);
  ck_assert_uint_eq(d.n_payload, 95);
  dv_buf_free(&out);
}
END_TEST

START_TEST(lack_of_memory_is_reported_and_nothing_added) {
  static const uint32_t indices[] = {5, 3, 9};
  static const float values[128] = {1, 2, 3};
  for (size_t left = 0; left < 3; left++) {
    dv_buf out = buffer();
    dv_delta d;
    allocations_left = left;
    const dv_status status = dv_delta_encode_sparse(&out, &d, indices, values, 3, 0, NULL);
    allocations_left = SIZE_MAX;
    ck_assert_int_eq(status, left < 2 ? DV_NOMEM : DV_OK);
    ck_assert_int_eq(out.status, status);
    ck_assert_uint_eq(out.n, left < 2 ? 0 : d.n_payload);
    dv_buf_free(&out);
  }
  for (int pattern = 0; pattern < N_PATTERNS; pattern++) {
    dv_buf out = buffer();
    dv_delta d;
    float to[128];
    change(to, values, 128, pattern);
    allocations_left = 0;
    dv_delta_encode_dense(&out, &d, DV_OP_DENSE, values, to, 128, DV_COMPRESSION_MAX);
    ck_assert_int_eq(out.status, DV_NOMEM);
    dv_delta_encode_scalar(&out, &d, DV_OP_SCALE, 2);
    ck_assert_int_eq(dv_delta_encode_sparse(&out, &d, indices, values, 1, 0, NULL), DV_NOMEM);
    allocations_left = SIZE_MAX;
    ck_assert_uint_eq(out.n, 0);
    dv_buf_free(&out);
  }
}
END_TEST

/* ---- what readers refuse ----------------------------------------------------------------------------------------- */

/* The payload of `hex` (spaces between bytes); free with the payload. */
static dv_delta of_hex(dv_op op, dv_encoding encoding, const char *hex) {
  uint8_t bytes[256];
  size_t n = 0;
  for (const char *p = hex; *p;) {
    char *end;
    ck_assert_uint_lt(n, sizeof bytes);
    bytes[n++] = (uint8_t)strtoul(p, &end, 16);
    ck_assert_ptr_ne(p, end);
    for (p = end; *p == ' ';) p++;
  }
  return exact(op, encoding, bytes, n);
}

static void refuse(dv_op op, dv_encoding encoding, const char *hex, size_t n, dv_status status, uint64_t at) {
  dv_delta d = of_hex(op, encoding, hex);
  dv_detail detail = {0, 0};
  float v[128] = {0};
  ck_assert_msg(dv_delta_check(&d, n, &detail) == status, "%s: check gives %d", hex, dv_delta_check(&d, n, NULL));
  ck_assert_msg(status == DV_CORRUPT || detail.at == at, "%s: at %d", hex, (int)detail.at);
  if (n) {
    ck_assert_msg(dv_delta_apply(&d, v, n, &detail) == status, "%s: apply", hex);
    ck_assert_msg(status == DV_CORRUPT || detail.at == at, "%s: at %d", hex, (int)detail.at);
  }
  free((void *)d.payload);
}

START_TEST(sparse_rejects_what_the_grammar_does_not_give) {
  refuse(DV_OP_SPARSE, DV_ENC_SPARSE, "00 00 00 80", 4, DV_CORRUPT, 0); /* a value cut off */
  refuse(DV_OP_SPARSE, DV_ENC_SPARSE, "00 00 00 80 3f 00", 4, DV_CORRUPT, 0); /* a byte too many */
  refuse(DV_OP_SPARSE, DV_ENC_SPARSE, "80 00 00 00 80 3f", 4, DV_CORRUPT, 0); /* a gap of two bytes for one */
  refuse(DV_OP_SPARSE, DV_ENC_SPARSE, "ff ff ff ff ff", 4, DV_CORRUPT, 0); /* a gap without end */
  refuse(DV_OP_SPARSE, DV_ENC_SPARSE, "ff ff ff ff 1f 00 00 80 3f", 0, DV_CORRUPT, 0); /* a gap past 2^32 */
  refuse(DV_OP_SPARSE, DV_ENC_SPARSE, "04 00 00 80 3f", 4, DV_INDEX, 4);
  refuse(DV_OP_SPARSE, DV_ENC_SPARSE, "01 02 00 00 80 3f 00 00 80 3f", 4, DV_INDEX, 4);
  refuse(DV_OP_SPARSE, DV_ENC_SPARSE, "80 80 04 00 00 80 3f", 65536, DV_INDEX, 65536);
  refuse(DV_OP_SPARSE, DV_ENC_SPARSE, "ff ff ff ff 0f 00 00 00 80 3f 00 00 80 3f", 0, DV_INDEX, 0x100000000u);
  refuse(DV_OP_DENSE, DV_ENC_SPARSE, "01 00 00 80 7f", 4, DV_NOT_FINITE, 1);
  refuse(DV_OP_SPARSE, DV_ENC_SPARSE, "01 00 00 00 80 3f 01 00 c0 ff", 4, DV_NOT_FINITE, 2);
}
END_TEST

START_TEST(run_rejects_what_the_grammar_does_not_give) {
  refuse(DV_OP_SPARSE, DV_ENC_RUN, "", 4, DV_CORRUPT, 0);
  refuse(DV_OP_SPARSE, DV_ENC_RUN, "00", 4, DV_CORRUPT, 0); /* no values */
  refuse(DV_OP_SPARSE, DV_ENC_RUN, "00 00 00 80 3f 00", 4, DV_CORRUPT, 0); /* a byte too many */
  refuse(DV_OP_SPARSE, DV_ENC_RUN, "80 00 00 00 80 3f", 4, DV_CORRUPT, 0); /* a start of two bytes for one */
  refuse(DV_OP_SPARSE, DV_ENC_RUN, "80", 4, DV_CORRUPT, 0);
  refuse(DV_OP_SPARSE, DV_ENC_RUN, "04 00 00 80 3f", 4, DV_INDEX, 4);
  refuse(DV_OP_SPARSE, DV_ENC_RUN, "ff ff ff ff 0f 00 00 80 3f 00 00 80 3f", 0, DV_INDEX, 0x100000000u);
  refuse(DV_OP_DENSE, DV_ENC_RUN, "01 00 00 80 3f 00 00 c0 7f", 4, DV_NOT_FINITE, 2);
}
END_TEST

START_TEST(apply_rejects_run_past_end) {
  refuse(DV_OP_SPARSE, DV_ENC_RUN, "03 00 00 80 3f 00 00 80 3f", 4, DV_INDEX, 4);
  refuse(DV_OP_SPARSE, DV_ENC_RUN, "00 00 00 80 3f 00 00 80 3f", 1, DV_INDEX, 1);
  refuse(DV_OP_SPARSE, DV_ENC_RUN, "ff ff ff ff 0f 00 00 80 3f", 4, DV_INDEX, 0xffffffffu);
}
END_TEST

START_TEST(dense_rejects_another_length) {
  refuse(DV_OP_CREATE, DV_ENC_DENSE, "", 1, DV_CORRUPT, 0);
  refuse(DV_OP_CREATE, DV_ENC_DENSE, "", 0, DV_CORRUPT, 0);
  refuse(DV_OP_CREATE, DV_ENC_DENSE, "00 00 80", 1, DV_CORRUPT, 0);
  refuse(DV_OP_CREATE, DV_ENC_DENSE, "00 00 80 3f 00", 1, DV_CORRUPT, 0);
  refuse(DV_OP_CREATE, DV_ENC_DENSE, "00 00 80 3f 00 00 80 3f", 1, DV_LENGTH, 2);
  refuse(DV_OP_CREATE, DV_ENC_DENSE, "00 00 80 3f 00 00 80 3f", 3, DV_LENGTH, 2);
  refuse(DV_OP_CREATE, DV_ENC_DENSE, "00 00 80 3f 00 00 80 7f", 2, DV_NOT_FINITE, 1);
  refuse(DV_OP_CREATE, DV_ENC_DENSE, "00 00 80 3f 00 00 80 7f", 0, DV_NOT_FINITE, 1);
  uint8_t *large = calloc(DV_MAX_DIMENSIONS + 1, 4);
  ck_assert_ptr_nonnull(large);
  dv_delta d = {DV_OP_CREATE, DV_ENC_DENSE, large, 4 * ((size_t)DV_MAX_DIMENSIONS + 1)};
  ck_assert_int_eq(dv_delta_check(&d, 0, NULL), DV_LENGTH);
  d.n_payload -= 4;
  ck_assert_int_eq(dv_delta_check(&d, 0, NULL), DV_OK);
  free(large);
}
END_TEST

START_TEST(diff_rejects_all_forms_but_one) {
  refuse(DV_OP_DENSE, DV_ENC_DIFF, "", 3, DV_CORRUPT, 0);
  refuse(DV_OP_DENSE, DV_ENC_DIFF, "", 0, DV_CORRUPT, 0);
  refuse(DV_OP_DENSE, DV_ENC_DIFF, "02", 3, DV_CORRUPT, 0); /* the bits are missing */
  refuse(DV_OP_DENSE, DV_ENC_DIFF, "02 06 00", 3, DV_CORRUPT, 0); /* a byte too many */
  refuse(DV_OP_DENSE, DV_ENC_DIFF, "02 46", 3, DV_CORRUPT, 0); /* padding that is not zero */
  refuse(DV_OP_DENSE, DV_ENC_DIFF, "03 12 00", 3, DV_CORRUPT, 0); /* wider than need be */
  refuse(DV_OP_DENSE, DV_ENC_DIFF, "01 00", 3, DV_CORRUPT, 0);
  refuse(DV_OP_DENSE, DV_ENC_DIFF, "21 00 00 00 00 00 00 00 00 00 00 00 00 00 00", 3, DV_CORRUPT, 0); /* 33 bits */
  refuse(DV_OP_DENSE, DV_ENC_DIFF, "ff", 0, DV_CORRUPT, 0);
  refuse(DV_OP_DENSE, DV_ENC_DIFF, "00", 65, DV_CORRUPT, 0);
  refuse(DV_OP_DENSE, DV_ENC_DIFF, "00 00 00", 128, DV_CORRUPT, 0);
}
END_TEST

START_TEST(planes_reject_all_forms_but_one) {
  refuse(DV_OP_CREATE, DV_ENC_PLANES, "", 2, DV_CORRUPT, 0);
  refuse(DV_OP_CREATE, DV_ENC_PLANES, "7f", 2, DV_CORRUPT, 0);
  refuse(DV_OP_CREATE, DV_ENC_PLANES, "7f 00", 2, DV_CORRUPT, 0);
  refuse(DV_OP_CREATE, DV_ENC_PLANES, "7f 00 00 00", 1, DV_CORRUPT, 0);
  refuse(DV_OP_CREATE, DV_ENC_PLANES, "7f 00 00 00 00", 2, DV_LENGTH, 1);
  refuse(DV_OP_CREATE, DV_ENC_PLANES, "7f 00 00 00 00 00 00 00", 1, DV_LENGTH, 2);
  refuse(DV_OP_CREATE, DV_ENC_PLANES, "7f 00 00 00 00 00", 1, DV_CORRUPT, 0); /* a byte too many */
  refuse(DV_OP_CREATE, DV_ENC_PLANES, "7f 09 00 00 00 00 00", 1, DV_CORRUPT, 0); /* nine bits of exponent */
  refuse(DV_OP_CREATE, DV_ENC_PLANES, "7f 01 00 00 00 00", 1, DV_CORRUPT, 0); /* wider than need be */
  refuse(DV_OP_CREATE, DV_ENC_PLANES, "7e 01 03 00 00 00 00 00 00", 2, DV_CORRUPT, 0); /* none is the smallest */
  refuse(DV_OP_CREATE, DV_ENC_PLANES, "7e 01 06 00 00 00 00 00 00", 2, DV_CORRUPT, 0); /* padding that is not zero */
  refuse(DV_OP_CREATE, DV_ENC_PLANES, "ff 01 02 00 00 00 00 00 00", 2, DV_CORRUPT, 0); /* an exponent of 256 */
  refuse(DV_OP_CREATE, DV_ENC_PLANES, "fe 01 02 00 00 00 00 00 00", 2, DV_NOT_FINITE, 1);
  refuse(DV_OP_CREATE, DV_ENC_PLANES, "ff 00 00 00 00", 0, DV_NOT_FINITE, 0);
}
END_TEST

START_TEST(scalars_are_four_finite_bytes) {
  refuse(DV_OP_SCALE, DV_ENC_SCALAR, "", 3, DV_CORRUPT, 0);
  refuse(DV_OP_SCALE, DV_ENC_SCALAR, "00 00 80", 3, DV_CORRUPT, 0);
  refuse(DV_OP_OFFSET, DV_ENC_SCALAR, "00 00 80 3f 00", 3, DV_CORRUPT, 0);
  refuse(DV_OP_OFFSET, DV_ENC_SCALAR, "00 00 80 7f", 3, DV_NOT_FINITE, 0);
  refuse(DV_OP_SCALE, DV_ENC_SCALAR, "00 00 c0 7f", 0, DV_NOT_FINITE, 0);
}
END_TEST

/* Whatever the bytes: check and apply agree, and what they accept is what the slow writer writes for its meaning. */
static void check_hostile(dv_op op, dv_encoding encoding, const uint8_t *payload, size_t n_payload, const float *from,
                          size_t n) {
  dv_delta d = exact(op, encoding, payload, n_payload);
  dv_detail detail = {0, 0}, apply_detail = {0, 0};
  float *v = exact_copy(from, n * sizeof *v);
  const dv_status status = dv_delta_check(&d, n, &detail);
  const dv_status applied = dv_delta_apply(&d, v, n, &apply_detail);
  if (status != DV_OK) {
    REQUIRE(applied == status);
    REQUIRE(apply_detail.at == detail.at);
    free(v);
    free((void *)d.payload);
    return;
  }
  REQUIRE(applied == DV_OK || (applied == DV_OVERFLOW && (encoding == DV_ENC_DIFF || encoding == DV_ENC_SCALAR)));
  REQUIRE(dv_delta_check(&d, 0, NULL) == DV_OK);
  dv_buf naive = buffer();
  if (encoding == DV_ENC_DIFF) naive_diff(&naive, from, v, n);
  if (encoding == DV_ENC_PLANES) naive_planes(&naive, v, n);
  if (encoding == DV_ENC_DIFF || encoding == DV_ENC_PLANES) {
    REQUIRE(naive.n == n_payload);
    REQUIRE(memcmp(naive.data, payload, n_payload) == 0);
  }
  if (applied == DV_OK) {
    REQUIRE(dv_vector_check(v, n, NULL) == DV_OK);
  }
  dv_buf_free(&naive);
  free(v);
  free((void *)d.payload);
}

static void check_all_mutations(dv_op op, dv_encoding encoding, const uint8_t *payload, size_t n_payload,
                                const float *from, size_t n) {
  uint8_t bytes[600];
  REQUIRE(n_payload + 2 < sizeof bytes);
  memcpy(bytes, payload, n_payload);
  bytes[n_payload] = bytes[n_payload + 1] = 0;
  for (size_t length = 0; length <= n_payload + 2; length++) check_hostile(op, encoding, bytes, length, from, n);
  for (size_t at = 0; at < n_payload; at++) {
    for (unsigned x = 1; x < 256; x++) {
      bytes[at] ^= (uint8_t)x;
      check_hostile(op, encoding, bytes, n_payload, from, n);
      bytes[at] ^= (uint8_t)x;
    }
  }
  for (int i = 0; i < 3000; i++) { /* several at once, and other dimensions */
    uint8_t wild[600];
    memcpy(wild, bytes, sizeof wild);
    for (unsigned k = random_below(4); k > 0; k--) wild[random_below((uint32_t)n_payload + 1)] = (uint8_t)next_random();
    check_hostile(op, encoding, wild, random_below(4) ? n_payload : random_below((uint32_t)n_payload + 2), from,
                  1 + random_below((uint32_t)n));
  }
}

START_TEST(every_truncation_and_changed_byte_gives_a_status_or_a_valid_delta) {
  enum { N = 70 };
  float from[N], to[N];
  dv_buf out = buffer();
  dv_delta d;
  for (size_t i = 0; i < N; i++) from[i] = random_unit();
  for (int pattern = ONE; pattern <= TWO_RUNS; pattern++) {
    change(to, from, N, pattern);
    out.n = 0;
    dv_delta_encode_dense(&out, &d, DV_OP_DENSE, from, to, N, DV_COMPRESSION_ON);
    check_all_mutations(d.op, d.encoding, out.data, d.n_payload, from, N);
  }
  change(to, from, N, SMALL);
  out.n = 0;
  naive_diff(&out, from, to, N);
  check_all_mutations(DV_OP_DENSE, DV_ENC_DIFF, out.data, out.n, from, N);
  out.n = 0;
  naive_planes(&out, to, N);
  check_all_mutations(DV_OP_CREATE, DV_ENC_PLANES, out.data, out.n, from, N);
  check_all_mutations(DV_OP_CREATE, DV_ENC_DENSE, (const uint8_t *)to, sizeof to, from, N);
  check_all_mutations(DV_OP_SCALE, DV_ENC_SCALAR, (const uint8_t *)to, 4, from, N);
  check_all_mutations(DV_OP_OFFSET, DV_ENC_SCALAR, (const uint8_t *)to, 4, from, N);
  out.n = 0;
  for (size_t i = 0; i < 19; i++) dv_buf_varint(&out, i == 7 ? 300 : 1); /* a gap of two bytes among others */
  dv_buf_bytes(&out, to, 19 * 4);
  check_all_mutations(DV_OP_SPARSE, DV_ENC_SPARSE, out.data, out.n, from, N);
  dv_buf_free(&out);
}
END_TEST

/* ---- folding ----------------------------------------------------------------------------------------------------- */

static dv_status fold_scalar(dv_op op, float by, float *v, size_t n, dv_detail *detail) {
  uint8_t payload[4];
  const dv_delta d = {op, DV_ENC_SCALAR, payload, 4};
  dv_store_f32(payload, by);
  return dv_delta_apply(&d, v, n, detail);
}

START_TEST(scale_and_offset_round_once_an_element) {
  for (int round = 0; round < 20000; round++) {
    const size_t n = 1 + random_below(130);
    float v[130], expected[130];
    const dv_op op = round % 2 ? DV_OP_SCALE : DV_OP_OFFSET;
    const float by = round % 5 ? random_unit() * 3 : dv_bits_float(random_below(0x01000000u) | (random_below(2) << 31));
    for (size_t i = 0; i < n; i++) {
      v[i] = round % 3 ? random_unit() : dv_bits_float(next_random() & 0xbfffffffu); /* below 2 */
      if (round % 7 == 0) v[i] = dv_bits_float(next_random() & 0x80ffffffu); /* about the subnormals */
      if (round % 11 == 0) v[i] = i % 2 ? -0.0f : 0;
      const volatile float result = op == DV_OP_SCALE ? v[i] * by : v[i] + by;
      expected[i] = result;
    }
    REQUIRE(fold_scalar(op, by, v, n, NULL) == DV_OK);
    REQUIRE(memcmp(v, expected, n * sizeof *v) == 0);
  }
}
END_TEST

START_TEST(what_grows_beyond_the_floats_is_an_overflow) {
  float v[100];
  dv_detail detail = {0, 0};
  for (size_t i = 0; i < 100; i++) v[i] = i >= 77 ? FLT_MAX : 1;
  ck_assert_int_eq(fold_scalar(DV_OP_SCALE, 2, v, 100, &detail), DV_OVERFLOW);
  ck_assert_uint_eq(detail.at, 77);
  for (size_t i = 0; i < 100; i++) v[i] = i >= 66 ? -FLT_MAX : 1;
  ck_assert_int_eq(fold_scalar(DV_OP_OFFSET, -FLT_MAX, v, 100, &detail), DV_OVERFLOW);
  ck_assert_uint_eq(detail.at, 66);
  /* a difference that leads to an infinity: the vector is not the one the delta was made for */
  dv_delta d = of_hex(DV_OP_DENSE, DV_ENC_DIFF, "02 06");
  float w[3] = {FLT_MAX, 0, -0.5f};
  ck_assert_int_eq(dv_delta_check(&d, 3, NULL), DV_OK);
  ck_assert_int_eq(dv_delta_apply(&d, w, 3, &detail), DV_OVERFLOW);
  ck_assert_uint_eq(detail.at, 0);
  free((void *)d.payload);
}
END_TEST

/* A program of a thousand deltas; the CRC of all payloads and all vectors on the way. */
static uint32_t folded_crc(void) {
  enum { N = 100 };
  float v[N], to[N];
  uint8_t blob[4 * N];
  uint32_t crc = 0;
  dv_buf out = buffer();
  seed = 20240229;
  for (size_t i = 0; i < N; i++) v[i] = random_unit();
  for (int step = 0; step < 1000; step++) {
    dv_delta d;
    out.n = 0;
    switch (random_below(8)) {
    case 0: {
      uint32_t indices[10];
      float values[10];
      size_t count = 0;
      for (uint32_t i = random_below(20); i < N && count < 10; i += 1 + random_below(20)) {
        indices[count] = i;
        values[count++] = random_unit();
      }
      ck_assert_int_eq(dv_delta_encode_sparse(&out, &d, indices, values, count, N, NULL), DV_OK);
      break;
    }
    case 1:
    case 2: dv_delta_encode_scalar(&out, &d, DV_OP_SCALE, 1 + random_unit() / 8); break;
    case 3: dv_delta_encode_scalar(&out, &d, DV_OP_OFFSET, random_unit() / 64); break;
    case 4: dv_delta_encode_scalar(&out, &d, DV_OP_SCALE, step % 50 == 0 ? 0x1p-120f : 0.75f); break;
    default:
      change(to, v, N, (int)random_below(N_PATTERNS - 3));
      dv_delta_encode_dense(&out, &d, DV_OP_DENSE, v, to, N, step % 3 ? DV_COMPRESSION_ON : DV_COMPRESSION_MAX);
    }
    d.payload = out.data;
    ck_assert_int_eq(dv_delta_apply(&d, v, N, NULL), DV_OK);
    dv_vector_store(blob, v, N);
    crc = dv_crc32c(dv_crc32c(crc, out.data, out.n), blob, sizeof blob);
  }
  dv_buf_free(&out);
  return crc;
}

#define FOLDED_CRC 0x39058c30u

START_TEST(folding_gives_these_bits_everywhere) { ck_assert_uint_eq(folded_crc(), FOLDED_CRC); }
END_TEST

#if defined(__SSE2__)
/* A library built with -ffast-math switches the whole process to taking subnormals for zero. */
START_TEST(folding_gives_these_bits_without_subnormals) {
  const unsigned was = _mm_getcsr();
  float v[65], expected[65];
  for (int round = 0; round < 20000; round++) {
    const dv_op op = round % 2 ? DV_OP_SCALE : DV_OP_OFFSET;
    const float by = round % 3 ? random_unit() : dv_bits_float(next_random() & 0x80ffffffu);
    for (size_t i = 0; i < 65; i++)
      expected[i] = v[i] =
          i % 3 ? dv_bits_float(next_random() & 0x80ffffffu) : dv_bits_float(next_random() & 0xbfffffffu);
    REQUIRE(fold_scalar(op, by, expected, 65, NULL) == DV_OK);
    _mm_setcsr(was | 0x8040); /* flush to zero, denormals are zero */
    const dv_status status = fold_scalar(op, by, v, 65, NULL);
    _mm_setcsr(was);
    REQUIRE(status == DV_OK);
    REQUIRE(memcmp(v, expected, sizeof v) == 0);
  }
}
END_TEST
#endif

/* ---- docs/file-format.md ----------------------------------------------------------------------------------------- */

/* The document's text, from beside this file; NULL where only the program is. */
static char *read_document(void) {
  static char path[4096];
  const char *here = __FILE__, *slash = strrchr(here, '/');
  snprintf(path, sizeof path, "%.*s/../../docs/file-format.md", slash ? (int)(slash - here) : 1, slash ? here : ".");
  FILE *file = fopen(path, "rb");
  if (!file) return NULL;
  char *text = calloc(1, 1 << 20);
  ck_assert_ptr_nonnull(text);
  ck_assert_uint_lt(fread(text, 1, (1 << 20) - 1, file), (1 << 20) - 1);
  fclose(file);
  return text;
}

START_TEST(the_examples_of_the_document_are_true) {
  char *document = read_document();
  static const struct {
    dv_op op;
    dv_encoding encoding;
    const char *hex;
    size_t n;
    float from[8], to[8];
  } examples[] = {
      {DV_OP_SPARSE, DV_ENC_SPARSE, "01 03 00 00 00 3f 00 00 80 bf", 8, {0}, {0, 0.5f, 0, 0, 0, -1, 0, 0}},
      {DV_OP_SPARSE, DV_ENC_RUN, "05 00 00 80 3f 00 00 00 40 00 00 40 40", 8, {0}, {0, 0, 0, 0, 0, 1, 2, 3}},
      {DV_OP_CREATE, DV_ENC_DENSE, "cd cc cc 3d 00 00 00 c0", 2, {0}, {0.1f, -2}},
      {DV_OP_DENSE, DV_ENC_DIFF, "02 06", 3, {1, 0, -0.5f}, {1.0000001f, -0.0f, -0.5f}},
      {DV_OP_CREATE, DV_ENC_PLANES, "7d 02 ca 00 00 00 00 00 00 00 00 00 c0 00 00", 4, {0}, {1, -1.5f, 0.25f, 2}},
      {DV_OP_SCALE, DV_ENC_SCALAR, "66 66 66 3f", 2, {1, -2}, {0.9f, -1.8f}},
      {DV_OP_OFFSET, DV_ENC_SCALAR, "00 00 00 bf", 2, {1, -2}, {0.5f, -2.5f}},
      {DV_OP_DELETE, DV_ENC_NONE, "", 2, {1, -2}, {1, -2}},
  };
  for (size_t i = 0; i < sizeof examples / sizeof *examples; i++) {
    float v[8];
    dv_delta d = of_hex(examples[i].op, examples[i].encoding, examples[i].hex);
    memcpy(v, examples[i].from, sizeof v);
    ck_assert_int_eq(dv_delta_check(&d, examples[i].n, NULL), DV_OK);
    ck_assert_int_eq(dv_delta_apply(&d, v, examples[i].n, NULL), DV_OK);
    ck_assert_mem_eq(v, examples[i].to, examples[i].n * sizeof *v);
    if (document) ck_assert_msg(strstr(document, examples[i].hex), "%s is not in the document", examples[i].hex);
    free((void *)d.payload);
  }
  /* 300 takes two bytes as an index */
  dv_delta d = of_hex(DV_OP_SPARSE, DV_ENC_SPARSE, "ac 02 00 00 80 3f");
  visited v = {{0}, {0}, 0};
  ck_assert_int_eq(dv_delta_check(&d, 384, NULL), DV_OK);
  dv_delta_each(&d, visit, &v);
  ck_assert(v.n == 1 && v.indices[0] == 300 && v.values[0] == 1);
  if (document) ck_assert_ptr_nonnull(strstr(document, "ac 02 00 00 80 3f"));
  free((void *)d.payload);
  free(document);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("delta");
  TCase *tc = tcase_create("delta");
  tcase_set_timeout(tc, 0);
  tcase_add_test(tc, operations_and_encodings_have_names);
  tcase_add_test(tc, operations_and_encodings_go_together_as_the_grammar_says);
  tcase_add_test(tc, dense_changes_take_the_smallest_encoding_and_read_back);
  tcase_add_test(tc, embeddings_are_smaller_in_planes_and_their_small_changes_in_diffs);
  tcase_add_test(tc, sparse_pairs_in_any_order);
  tcase_add_test(tc, sparse_refuses_what_cannot_be_set);
  tcase_add_test(tc, sparse_reaches_the_last_of_all_indices);
  tcase_add_test(tc, each_names_the_values_of_sparse_and_run);
  tcase_add_test(tc, an_empty_sparse_delta_changes_nothing);
  tcase_add_test(tc, delete_leaves_the_vector);
  tcase_add_test(tc, a_sparse_change_of_five_percent_takes_95_to_97_bytes);
  tcase_add_test(tc, lack_of_memory_is_reported_and_nothing_added);
  tcase_add_test(tc, sparse_rejects_what_the_grammar_does_not_give);
  tcase_add_test(tc, run_rejects_what_the_grammar_does_not_give);
  tcase_add_test(tc, apply_rejects_run_past_end);
  tcase_add_test(tc, dense_rejects_another_length);
  tcase_add_test(tc, diff_rejects_all_forms_but_one);
  tcase_add_test(tc, planes_reject_all_forms_but_one);
  tcase_add_test(tc, scalars_are_four_finite_bytes);
  tcase_add_test(tc, every_truncation_and_changed_byte_gives_a_status_or_a_valid_delta);
  tcase_add_test(tc, scale_and_offset_round_once_an_element);
  tcase_add_test(tc, what_grows_beyond_the_floats_is_an_overflow);
  tcase_add_test(tc, folding_gives_these_bits_everywhere);
#if defined(__SSE2__)
  tcase_add_test(tc, folding_gives_these_bits_without_subnormals);
#endif
  tcase_add_test(tc, the_examples_of_the_document_are_true);
  suite_add_tcase(suite, tc);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  const int n_failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return n_failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
