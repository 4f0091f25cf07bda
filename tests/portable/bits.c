/*
 * bits.c: prints checksums of what must be the same on every platform: deltas as they are stored, what they fold to,
 * codes, distances, numbers read and printed, graphs and what is found in them; and compares every table of kernels that is here with the scalar one.
 *
 * Everything is made by a seeded generator of integers. bits.out is what all platforms print: the tests run it on this
 * machine, `./dev cross` on others: AArch64 with NEON, a big-endian one, and WebAssembly without SIMD, with it, and with relaxed SIMD. A
 * difference in one line says what is not portable. Exit code 1: a kernel differs from the scalar one.
 */
#include <stdio.h>
#include <stdlib.h>

#include "dv_checksum.h"
#include "dv_frame.h"
#include "dv_hnsw.h"
#include "dv_metric.h"
#include "dv_quant.h"
#include "dv_vector.h"

enum { MAX_N = 400, MAX_STRIDE = 448, ROWS = 64 };

static uint64_t seed = 88172645463325252u;

static uint64_t next_random(void) {
  seed ^= seed << 13;
  seed ^= seed >> 7;
  seed ^= seed << 17;
  return seed * 2685821657736338717u;
}

static uint32_t random_below(uint32_t n) { return (uint32_t)((next_random() >> 32) * n >> 32); }

/* Ordinary, denormal, so large that sums overflow, so small that squares underflow, or any finite bits. */
static float random_float(unsigned kind) {
  float unit = (float)((double)(next_random() >> 11) * 0x1p-52 - 1.0);
  switch (kind) {
  case 0: return unit;
  case 1: return dv_bits_float((uint32_t)(next_random() >> 32) & 0x807fffffu);
  case 2: return unit * 3e38f;
  case 3: return unit * 1e-22f;
  case 4: return random_below(3) ? -0.0f : unit;
  default: break;
  }
  for (;;) {
    float f = dv_bits_float((uint32_t)(next_random() >> 32));
    if (dv_is_finite(f)) return f;
  }
}

enum { N_KINDS = 6 };

static void fill_floats(float *v, size_t n, unsigned kind) {
  for (size_t i = 0; i < n; i++) v[i] = random_float(kind);
}

static void fill_codes(int8_t *code, size_t n) {
  for (size_t i = 0; i < n; i++) code[i] = (int8_t)((int)random_below(255) - 127);
}

/* ---- checksums --------------------------------------------------------------------------------------------------- */

static uint32_t crc;
static int n_wrong;

static void add_bytes(const void *bytes, size_t n) { crc = dv_crc32c_scalar(crc, bytes, n); }

static void add_u64(uint64_t v) {
  uint8_t bytes[8];
  dv_store_u64(bytes, v);
  add_bytes(bytes, sizeof bytes);
}

/* The payload of a NaN is nobody's promise. */
static void add_float(float f) { add_u64(f == f ? dv_float_bits(f) : 0x7fc00000u); }

static void add_double(double d) {
  uint64_t bits;
  memcpy(&bits, &d, sizeof bits);
  add_u64(d == d ? bits : 0x7ff8000000000000u);
}

static void add_floats(const float *v, size_t n) {
  for (size_t i = 0; i < n; i++) add_float(v[i]);
}

static void report(const char *what) {
  printf("%-10s %08x\n", what, (unsigned)crc);
  crc = 0;
}

static void *heap_resize(void *ctx, void *p, size_t n_bytes) {
  (void)ctx;
  if (n_bytes == 0) {
    free(p);
    return NULL;
  }
  p = realloc(p, n_bytes);
  if (p == NULL) abort();
  return p;
}

static const dv_alloc heap = {heap_resize, NULL};

/* ---- kernels ----------------------------------------------------------------------------------------------------- */

static void expect(bool is_same, const dv_kernels *k, const char *what, size_t n) {
  if (is_same) return;
  if (n_wrong++ < 20) fprintf(stderr, "%s: %s differs from scalar at length %zu\n", k->name, what, n);
}

static bool same_float(float a, float b) { return dv_float_bits(a) == dv_float_bits(b) || (a != a && b != b); }

static void compare_floats(const dv_kernels *k, const float *a, const float *b, size_t n) {
  const dv_kernels *s = &dv_kernels_scalar;
  float both[2], both_scalar[2];
  k->dot_norm_f32(a, b, n, both);
  s->dot_norm_f32(a, b, n, both_scalar);
  expect(same_float(k->dot_f32(a, b, n), s->dot_f32(a, b, n)), k, "dot_f32", n);
  expect(same_float(k->l2sq_f32(a, b, n), s->l2sq_f32(a, b, n)), k, "l2sq_f32", n);
  expect(same_float(k->l1_f32(a, b, n), s->l1_f32(a, b, n)), k, "l1_f32", n);
  expect(same_float(both[0], both_scalar[0]) && same_float(both[1], both_scalar[1]), k, "dot_norm_f32", n);
}

static void compare_codes(const dv_kernels *k, const int8_t *a, const int8_t *b, size_t n) {
  expect(k->dot_i8(a, b, n) == dv_kernels_scalar.dot_i8(a, b, n), k, "dot_i8", n);
}

static void compare_scans(const dv_kernels *k, size_t n) {
  static uint8_t codes[ROWS * MAX_STRIDE];
  static int8_t query[MAX_STRIDE];
  static uint64_t blocks[2 * 32 * 7];
  static uint8_t table[7 * 256];
  int32_t out[ROWS], expected[ROWS];
  uint32_t rows[ROWS], sums[ROWS], picked[ROWS], expected_picked[ROWS];
  dv_bit_row bit_rows[ROWS];
  size_t stride = dv_code_stride(n), n_words = dv_bit_words(n);
  int32_t sum = 0;
  for (size_t row = 0; row < ROWS; row++) {
    fill_codes(query, stride); /* no code is -128: kernels may count on it */
    dv_code_pack(query, n, codes, row);
  }
  fill_codes(query, stride);
  for (size_t i = 0; i < stride; i++) sum += query[i];
  for (size_t i = 0; i < ROWS; i++) {
    rows[i] = random_below(ROWS);
    bit_rows[i].factor = random_float(0);
    bit_rows[i].offset = random_float(0);
  }
  k->scan_code(codes, stride, 0, ROWS, query, sum, out);
  dv_kernels_scalar.scan_code(codes, stride, 0, ROWS, query, sum, expected);
  expect(memcmp(out, expected, sizeof out) == 0, k, "scan_code", n);
  k->gather_code(codes, stride, rows, ROWS, query, sum, out);
  dv_kernels_scalar.gather_code(codes, stride, rows, ROWS, query, sum, expected);
  expect(memcmp(out, expected, sizeof out) == 0, k, "gather_code", n);
  if (dv_code_is_long(stride)) {
    k->gather_high(codes, stride, rows, ROWS, query, sum, out);
    dv_kernels_scalar.gather_high(codes, stride, rows, ROWS, query, sum, expected);
    expect(memcmp(out, expected, sizeof out) == 0, k, "gather_high", n);
  }
  for (size_t i = 0; i < 2 * 32 * n_words; i++) blocks[i] = next_random();
  for (size_t i = 0; i < 256 * n_words; i++) table[i] = (uint8_t)random_below(64);
  k->scan_bits(blocks, 2, n_words, table, sums);
  dv_kernels_scalar.scan_bits(blocks, 2, n_words, table, (uint32_t *)expected);
  expect(memcmp(sums, expected, sizeof sums) == 0, k, "scan_bits", n);
  size_t n_picked = k->pick_bits(sums, bit_rows, ROWS, 1e-4f, -0.2f, 0.1f, picked);
  size_t n_expected = dv_kernels_scalar.pick_bits(sums, bit_rows, ROWS, 1e-4f, -0.2f, 0.1f, expected_picked);
  expect(n_picked == n_expected && memcmp(picked, expected_picked, n_picked * sizeof *picked) == 0, k, "pick_bits", n);
}

static void compare_making(const dv_kernels *k, const float *v, size_t n) {
  const dv_kernels *s = &dv_kernels_scalar;
  static int8_t code[MAX_N], expected_code[MAX_N];
  static uint8_t signs[MAX_N / 4 + 1], expected_signs[MAX_N / 4 + 1];
  double lane[4], expected_lane[4], sums[12] = {0}, expected[12] = {0};
  float max = s->max_abs_f32(v, n);
  double scale = max > 0.0f ? (double)max / 127.0 : 1.0;
  expect(same_float(k->max_abs_f32(v, n), max), k, "max_abs_f32", n);
  k->sum_sq_f64(v, n, lane);
  s->sum_sq_f64(v, n, expected_lane);
  expect(memcmp(lane, expected_lane, sizeof lane) == 0, k, "sum_sq_f64", n);
  k->encode_i8(v, n, 1.0, scale, 1.0 / scale, code, lane);
  s->encode_i8(v, n, 1.0, scale, 1.0 / scale, expected_code, expected_lane);
  expect(memcmp(lane, expected_lane, sizeof lane) == 0 && memcmp(code, expected_code, n) == 0, k, "encode_i8", n);
  for (int i = 0; i < 2; i++) {
    k->signs_i8(expected_code, n, scale, i ? v : NULL, signs, sums);
    s->signs_i8(expected_code, n, scale, i ? v : NULL, expected_signs, expected);
    expect(memcmp(sums, expected, sizeof sums) == 0 && memcmp(signs, expected_signs, (n + 3) / 4) == 0, k, "signs_i8",
           n);
  }
}

/* Lengths 0 to 257 at every misalignment: of floats by the byte, as a BLOB may lie. */
static void check_kernels(void) {
  static uint8_t room_a[MAX_N * 4 + 64], room_b[MAX_N * 4 + 64];
  float v[MAX_N];
  for (size_t t = 0; dv_kernels_name_at(t); t++) {
    const dv_kernels *k = dv_kernels_named(dv_kernels_name_at(t));
    fprintf(stderr, "kernels: %s\n", k->name);
    seed = 1;
    for (size_t n = 0; n <= 257; n++) {
      compare_scans(k, n);
      for (size_t slack = 0; slack < 64; slack++) {
        uint8_t *a = room_a + slack, *b = room_b + (slack * 7 + n) % 64;
        fill_codes((int8_t *)a, n);
        fill_codes((int8_t *)b, n);
        compare_codes(k, (const int8_t *)a, (const int8_t *)b, n);
        if (slack % 4) continue;
        b -= (size_t)(b - room_b) % 4;
        fill_floats(v, n, (unsigned)(n + slack / 4) % N_KINDS);
        memcpy(a, v, n * sizeof *v);
        fill_floats(v, n, (unsigned)(n + slack / 4) % N_KINDS);
        memcpy(b, v, n * sizeof *v);
        compare_floats(k, (const float *)(const void *)a, (const float *)(const void *)b, n);
        compare_making(k, (const float *)(const void *)a, n);
      }
    }
  }
}

/* ---- what is stored, and what it folds to ------------------------------------------------------------------------ */

static void add_delta(dv_buf *payload, dv_delta *d, float *v, size_t n) {
  d->payload = payload->data;
  if (payload->status != DV_OK) abort();
  add_u64((uint64_t)d->op << 8 | (uint64_t)d->encoding);
  add_bytes(d->payload, d->n_payload);
  add_u64((uint64_t)dv_delta_apply(d, v, n, NULL)); /* one that overflows says so everywhere */
  add_floats(v, n);
  payload->n = 0;
}

static void fold(void) {
  static float v[MAX_N], to[MAX_N], values[MAX_N];
  static uint32_t indices[MAX_N];
  dv_buf payload;
  dv_buf_init(&payload, &heap);
  seed = 2;
  for (size_t round = 0; round < 3000; round++) {
    size_t n = 1 + random_below(MAX_N);
    unsigned kind = random_below(N_KINDS);
    dv_delta d = {DV_OP_CREATE, DV_ENC_NONE, NULL, 0};
    fill_floats(v, n, kind);
    dv_delta_encode_dense(&payload, &d, DV_OP_CREATE, NULL, v, n, (dv_compression)random_below(3));
    add_delta(&payload, &d, v, n);
    for (size_t step = 0; step < 6; step++) {
      size_t count = 0;
      switch (random_below(4)) {
      case 0:
        for (uint32_t i = random_below(9); i < n; i += 1 + random_below(30)) {
          indices[count] = i;
          values[count++] = random_float(kind);
        }
        if (dv_delta_encode_sparse(&payload, &d, indices, values, count, n, NULL) != DV_OK) abort();
        break;
      case 1: dv_delta_encode_scalar(&payload, &d, DV_OP_SCALE, random_float(0) * 1.5f); break;
      case 2: dv_delta_encode_scalar(&payload, &d, DV_OP_OFFSET, random_float(kind)); break;
      default:
        for (size_t i = 0; i < n; i++) {
          float near = v[i] + 1e-3f * random_float(0);
          to[i] = random_below(4) == 0 || !dv_is_finite(near) ? v[i] : near;
        }
        dv_delta_encode_dense(&payload, &d, DV_OP_DENSE, v, to, n, (dv_compression)random_below(3));
        break;
      }
      memcpy(to, v, n * sizeof *v); /* a delta that overflows leaves half a vector */
      d.payload = payload.data;
      if (dv_delta_apply(&d, to, n, NULL) != DV_OK) {
        payload.n = 0;
        add_u64(round);
        continue;
      }
      add_delta(&payload, &d, v, n);
    }
  }
  dv_buf_free(&payload);
  report("fold");
}

static void frames(void) {
  dv_buf out;
  dv_buf_init(&out, &heap);
  seed = 3;
  dv_log_state state = {0, 0, 0};
  for (size_t i = 0; i < 2000; i++) {
    uint8_t payload[40];
    size_t n = 4 * (1 + random_below(8));
    for (size_t j = 0; j < n; j++) payload[j] = (uint8_t)random_below(256);
    dv_frame f = {.flags = DV_FRAME_ID | DV_FRAME_TIME, .time = (int64_t)(next_random() >> 20)};
    f.id = (dv_value){.type = DV_INTEGER, .integer = (int64_t)next_random()};
    f.delta = (dv_delta){DV_OP_CREATE, DV_ENC_DENSE, payload, n};
    dv_frame_write(&out, &f);
    dv_record r = {.seq = state.seq + 1 + random_below(3), .time = f.time, .is_key = true};
    r.vid = 1 + random_below(1000);
    r.delta = f.delta;
    dv_record_write(&out, &r, &state);
  }
  if (out.status != DV_OK) abort();
  add_bytes(out.data, out.n);
  dv_buf_free(&out);
  report("frames");
}

/* ---- what is derived and computed -------------------------------------------------------------------------------- */

static void codes(void) {
  static float v[MAX_N], q[MAX_N];
  static int8_t code[MAX_N + 64], query_code[MAX_N + 64];
  seed = 4;
  for (size_t round = 0; round < 2000; round++) {
    size_t n = 1 + random_below(MAX_N);
    dv_metric m = (dv_metric)(round % 3);
    unsigned kind = random_below(N_KINDS);
    fill_floats(v, n, kind);
    fill_floats(q, n, kind);
    add_u64(dv_code_encode(m, v, n, code));
    add_bytes(code, n);
    (void)dv_code_encode(m, q, n, query_code);
    add_u64((uint64_t)dv_kernels_get()->dot_i8(code, query_code, n));
  }
  report("codes");
}

static void distances(void) {
  static float a[MAX_N], b[MAX_N];
  seed = 5;
  for (size_t round = 0; round < 4000; round++) {
    size_t n = 1 + random_below(MAX_N);
    unsigned kind = random_below(N_KINDS);
    fill_floats(a, n, kind);
    fill_floats(b, n, kind);
    for (unsigned m = 0; m < 4; m++) {
      double d = dv_distance(dv_kernels_get(), (dv_metric)m, a, b, n);
      add_double(d);
      add_double(dv_score((dv_metric)m, d));
    }
  }
  report("distances");
}

static void numbers(void) {
  char text[64];
  dv_buf out;
  dv_buf_init(&out, &heap);
  seed = 6;
  for (size_t round = 0; round < 20000; round++) {
    float f = random_float((unsigned)(round % N_KINDS));
    size_t n = dv_float_print(text, f), n_read = 0;
    add_bytes(text, n);
    /* One by one: C does not say in which order arguments are evaluated. */
    int whole = (int)random_below(20) - 10, exponent = (int)random_below(90) - 50;
    unsigned thousandths = random_below(1000), rest = random_below(100000000);
    int length = snprintf(text, sizeof text, "[%d.%u%08ue%d]", whole, thousandths, rest, exponent);
    out.n = 0;
    add_u64((uint64_t)dv_vector_parse(&out, &n_read, text, (size_t)length, NULL));
    add_bytes(out.data, out.n);
  }
  dv_buf_free(&out);
  report("numbers");
}

/* ---- graphs ------------------------------------------------------------------------------------------------------ */

static void add_ids(const uint32_t *ids, size_t n) {
  for (size_t i = 0; i < n; i++) add_u64(ids[i]);
}

static void add_graph(const dv_hnsw *g) {
  add_u64((uint64_t)g->entry << 32 | g->top);
  add_u64((uint64_t)g->n_linked << 32 | g->n_upper);
  add_ids(g->ground, (size_t)g->n * 2 * g->m);
  add_ids(g->upper_at, g->n);
  add_ids(g->upper_row, g->n_upper);
  add_ids(g->upper, (size_t)g->n_upper * g->m);
}

/* Searches for places near rows: by ef alone, or by growth. */
static void add_searches(const dv_hnsw *g, const dv_hnsw_space *space, const float *v, float *q, const double *growth,
                         dv_hnsw_scratch *s) {
  for (size_t round = 0; round < 100; round++) {
    dv_code_query query;
    const size_t n = space->n, ef = 1 + round % 30;
    for (size_t i = 0; i < n; i++) q[i] = v[round * n + i] + random_float(0);
    if (dv_code_query_init(&query, space->metric, q, n, &heap) != DV_OK) abort();
    dv_code_query_refine(&query, q);
    if (dv_hnsw_search_nearest(g, space, &query, 1 + ef / 2, ef, growth, s) != DV_OK) abort();
    add_u64(s->n_distances);
    for (size_t i = 0; i < s->n_pool; i++) {
      add_u64(s->pool[i].row);
      add_float(s->pool[i].distance);
    }
    dv_code_query_free(&query);
  }
}

/* Rows in clusters, some of them twice, with few links, so that lists overflow; in the graph, out of it, and moved. */
static void graph(dv_metric metric, const char *what, const char *by_growth) {
  enum { N_ROWS = 400, N = 300, STRIDE = 320, M = 5, EF = 30 }; /* so many that searches walk by high halves */
  static float v[N_ROWS * N], q[N];
  static uint8_t codes_of_all[(N_ROWS + DV_CODE_ROWS) * STRIDE];
  static dv_code_row rows[N_ROWS];
  int8_t code[STRIDE] = {0};
  uint32_t order[N_ROWS];
  size_t n_linked = 0;
  double growth[DV_HNSW_OCTAVES];
  dv_hnsw_space space = {.kernels = dv_kernels_get(), .metric = metric, .n = N, .codes = codes_of_all, .rows = rows};
  dv_hnsw g;
  dv_hnsw_scratch scratch;
  size_t n_done;
  seed = 7;
  for (size_t i = 0; i < (size_t)N_ROWS * N; i++)
    v[i] = i < (size_t)20 * N ? 2.0f * random_float(0) : v[i % ((size_t)20 * N)] + 0.5f * random_float(0);
  for (uint32_t r = 0; r < N_ROWS; r++) {
    if (r > 20 && r % 9 == 0) memcpy(v + (size_t)r * N, v + (size_t)(r - 20) * N, N * sizeof *v);
    rows[r] = dv_code_row_of(dv_code_encode(metric, v + (size_t)r * N, N, code), code, N);
    dv_code_pack(code, N, codes_of_all, r);
    order[r] = (uint32_t)((uint64_t)r * 147 % N_ROWS);
  }
  dv_hnsw_init(&g, M, 8, &heap);
  dv_hnsw_scratch_init(&scratch, &heap);
  if (dv_hnsw_reserve(&g, N_ROWS) != DV_OK) abort();
  if (dv_hnsw_link(&g, &space, order, N_ROWS, EF, NULL, &n_done) != DV_OK) abort();
  add_graph(&g);
  for (size_t i = 0; i < N_ROWS / 2; i++) {
    uint32_t r = i % 20 == 0 && dv_hnsw_is_linked(&g, g.entry) ? g.entry : order[i];
    if (dv_hnsw_is_linked(&g, r) && dv_hnsw_unlink(&g, &space, r) != DV_OK) abort();
    rows[r] = dv_code_row_of(dv_code_encode(metric, v + (size_t)(r + 5) % N_ROWS * N, N, code), code, N);
    dv_code_pack(code, N, codes_of_all, r);
  }
  add_graph(&g);
  for (size_t i = 0; i < N_ROWS / 4; i++)
    if (!dv_hnsw_is_linked(&g, order[i]) && dv_hnsw_link(&g, &space, &order[i], 1, EF, NULL, &n_done) != DV_OK) abort();
  add_graph(&g);
  add_searches(&g, &space, v, q, NULL, &scratch);
  report(what);
  for (uint32_t r = 0; r < N_ROWS; r++)
    if (dv_hnsw_is_linked(&g, r)) order[n_linked++] = r;
  if (dv_hnsw_growth(&g, &space, order, n_linked, growth) != DV_OK) abort();
  for (size_t i = 0; i < DV_HNSW_OCTAVES; i++) add_double(growth[i]);
  add_searches(&g, &space, v, q, growth, &scratch);
  report(by_growth);
  dv_hnsw_scratch_free(&scratch);
  dv_hnsw_free(&g);
}

int main(void) {
  check_kernels();
  printf("kernels    %d differences from scalar\n", n_wrong);
  fold();
  frames();
  codes();
  distances();
  numbers();
  graph(DV_L2, "graph l2", "growth l2");
  graph(DV_COSINE, "graph cos", "growth cos");
  graph(DV_IP, "graph ip", "growth ip");
  return n_wrong ? 1 : 0;
}
