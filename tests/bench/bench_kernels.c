/*
 * bench_kernels.c: every kernel of every table this CPU can run: nanoseconds a call and gigabytes read a second, and
 * the ratio to scalar.
 *
 *   taskset -c 1 bench_kernels [name ...]     only these tables
 *
 * The tables take turns within each repeat and the figures are medians of repeats, so that what else the machine does
 * falls on all of them alike: compare ratios within one run.
 */
#define _GNU_SOURCE
#include "../../core/simd/dv_simd.h"

#include <stdio.h>
#include <stdlib.h>
#include <time.h>

enum { N_REPEATS = 15, MAX_TABLES = 8, N_GATHER = 32, MAX_ROWS = 100000 };

static double now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static int by_value(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return x < y ? -1 : x > y;
}

/* What a case reads; the rows of `floats` are few and stay in the first-level cache. */
typedef struct bench_case {
  size_t n;
  size_t n_rows;
  const float *floats;
  const int8_t *codes;
  const uint64_t *bits;
  const uint8_t *table;
  const dv_bit_row *bit_rows;
  const uint32_t *rows;
  int32_t *out;
} bench_case;

static volatile float float_sink;
static volatile int32_t int_sink;

static void run_dot(const dv_kernels *k, const bench_case *c, size_t i) {
  float_sink = k->dot_f32(c->floats, c->floats + (1 + i % 3) * c->n, c->n);
}
static void run_l2sq(const dv_kernels *k, const bench_case *c, size_t i) {
  float_sink = k->l2sq_f32(c->floats, c->floats + (1 + i % 3) * c->n, c->n);
}
static void run_l1(const dv_kernels *k, const bench_case *c, size_t i) {
  float_sink = k->l1_f32(c->floats, c->floats + (1 + i % 3) * c->n, c->n);
}
static void run_dot_norm(const dv_kernels *k, const bench_case *c, size_t i) {
  float both[2];
  k->dot_norm_f32(c->floats, c->floats + (1 + i % 3) * c->n, c->n, both);
  float_sink = both[0] + both[1];
}
static void run_dot_i8(const dv_kernels *k, const bench_case *c, size_t i) {
  int_sink = k->dot_i8(c->codes, c->codes + (1 + i % 3) * c->n, c->n);
}
static void run_scan_code(const dv_kernels *k, const bench_case *c, size_t i) {
  k->scan_code((const uint8_t *)c->codes, c->n, 0, c->n_rows, c->codes + i % 3 * c->n, 0, c->out);
}
static const uint32_t *some_rows(const bench_case *c, size_t i) {
  return c->rows + i * N_GATHER % (MAX_ROWS - N_GATHER);
}
static void run_gather_code(const dv_kernels *k, const bench_case *c, size_t i) {
  k->gather_code((const uint8_t *)c->codes, c->n, some_rows(c, i), N_GATHER, c->codes, 0, c->out);
}
static void run_gather_high(const dv_kernels *k, const bench_case *c, size_t i) {
  k->gather_high((const uint8_t *)c->codes, c->n, some_rows(c, i), N_GATHER, c->codes, 0, c->out);
}
static void run_scan_bits(const dv_kernels *k, const bench_case *c, size_t i) {
  (void)i;
  k->scan_bits(c->bits, c->n_rows / DV_BITS_ROWS, c->n / 64, c->table, (uint32_t *)c->out);
}
/* One row in a thousand passes, as in a search. */
static void run_pick_bits(const dv_kernels *k, const bench_case *c, size_t i) {
  static uint32_t picked[MAX_ROWS];
  int_sink = (int32_t)k->pick_bits(c->rows, c->bit_rows, c->n_rows, -1.0f, (float)i, -0.999f * (float)MAX_ROWS, picked);
}

/* What coding a row costs: its vector, and its bits. */
static void run_encode(const dv_kernels *k, const bench_case *c, size_t i) {
  static int8_t code[4096];
  double lane[4], scale = 0.5 / 127.0;
  const float *v = c->floats + i % 4 * c->n;
  float_sink = k->max_abs_f32(v, c->n);
  k->sum_sq_f64(v, c->n, lane);
  k->encode_i8(v, c->n, 1.0, scale, 1.0 / scale, code, lane);
  int_sink = code[0];
}
static void run_signs(const dv_kernels *k, const bench_case *c, size_t i) {
  static uint8_t signs[1024];
  double sums[12] = {0};
  k->signs_i8(c->codes + i % 4 * c->n, c->n, 0.5 / 127.0, c->floats, signs, sums);
  int_sink = signs[0];
}

static const dv_kernels *tables[MAX_TABLES];
static size_t n_tables;

static void bench(const char *name, void (*run)(const dv_kernels *, const bench_case *, size_t), const bench_case *c,
                  size_t n_calls, size_t n_bytes) {
  static double ns[MAX_TABLES][N_REPEATS];
  for (size_t r = 0; r < N_REPEATS; r++)
    for (size_t t = 0; t < n_tables; t++) {
      run(tables[t], c, 0);
      double start = now_ns();
      for (size_t i = 0; i < n_calls; i++) run(tables[t], c, i + r * n_calls);
      ns[t][r] = (now_ns() - start) / (double)n_calls;
    }
  for (size_t t = 0; t < n_tables; t++) qsort(ns[t], N_REPEATS, sizeof(double), by_value);
  for (size_t t = 0; t < n_tables; t++)
    printf("%-10s %5zu %7zu  %-11s %12.1f ns %8.2f GB/s %8.2f x\n", name, c->n, c->n_rows, tables[t]->name,
           ns[t][N_REPEATS / 2], (double)n_bytes / ns[t][N_REPEATS / 2], ns[0][N_REPEATS / 2] / ns[t][N_REPEATS / 2]);
}

static void *filled(size_t n_bytes) {
  uint8_t *p = aligned_alloc(64, (n_bytes + 63) / 64 * 64);
  if (!p) exit(1);
  for (size_t i = 0; i < n_bytes; i++) p[i] = (uint8_t)((unsigned)rand() % 255u + 129u); /* -127 .. 127 as int8 */
  return p;
}

int main(int argc, char **argv) {
  for (size_t i = 0; dv_kernels_name_at(i) && n_tables < MAX_TABLES; i++) {
    bool is_wanted = argc < 2;
    for (int a = 1; a < argc; a++) is_wanted |= strcmp(argv[a], dv_kernels_name_at(i)) == 0;
    if (is_wanted) tables[n_tables++] = dv_kernels_named(dv_kernels_name_at(i));
  }
  printf("kernel      dims    rows  table            a call             read   to the first\n");
  for (size_t n = 384; n <= 1536; n *= 4) {
    bench_case c = {.n = n, .n_rows = 1};
    float *floats = filled(4 * n * sizeof *floats);
    for (size_t i = 0; i < 4 * n; i++) floats[i] = (float)rand() / (float)RAND_MAX - 0.5f;
    uint8_t *table = filled(256 * n / 64);
    for (size_t i = 0; i < 256 * n / 64; i++) table[i] &= 63;
    uint32_t *rows = malloc(MAX_ROWS * sizeof *rows);
    dv_bit_row *bit_rows = malloc(MAX_ROWS * sizeof *bit_rows);
    int32_t *out = malloc((MAX_ROWS + DV_BITS_ROWS) * sizeof *out);
    if (!rows || !bit_rows || !out) return 1;
    for (size_t i = 0; i < MAX_ROWS; i++) {
      rows[i] = (uint32_t)rand() % MAX_ROWS;
      bit_rows[i].factor = 1.0f;
      bit_rows[i].offset = 0.0f;
    }
    c.floats = floats;
    c.codes = filled((MAX_ROWS + DV_CODE_ROWS) * n);
    c.bits = filled(MAX_ROWS * n / 8);
    c.table = table;
    c.rows = rows;
    c.bit_rows = bit_rows;
    c.out = out;
    bench("dot_f32", run_dot, &c, 20000, 8 * n);
    bench("l2sq_f32", run_l2sq, &c, 20000, 8 * n);
    bench("l1_f32", run_l1, &c, 20000, 8 * n);
    bench("dot_norm", run_dot_norm, &c, 20000, 8 * n);
    bench("dot_i8", run_dot_i8, &c, 20000, 2 * n);
    bench("encode", run_encode, &c, 20000, 4 * n);
    bench("signs_i8", run_signs, &c, 20000, 5 * n);
    c.n_rows = MAX_ROWS;
    bench("gather_code", run_gather_code, &c, 1000, N_GATHER * n);
    if (dv_code_is_long(n)) bench("gather_high", run_gather_high, &c, 1000, N_GATHER * n / 2);
    for (c.n_rows = 10000 / DV_BITS_ROWS * DV_BITS_ROWS; c.n_rows <= MAX_ROWS;
         c.n_rows = c.n_rows < MAX_ROWS ? MAX_ROWS : MAX_ROWS + 1) {
      size_t n_calls = c.n_rows < MAX_ROWS ? 10 : 1;
      bench("scan_code", run_scan_code, &c, n_calls, c.n_rows * n);
      bench("scan_bits", run_scan_bits, &c, n_calls, c.n_rows * n / 8);
      bench("pick_bits", run_pick_bits, &c, n_calls, c.n_rows * (sizeof(dv_bit_row) + sizeof(uint32_t)));
    }
    free(floats);
    free(table);
    free(rows);
    free(bit_rows);
    free(out);
    free((void *)(uintptr_t)c.codes);
    free((void *)(uintptr_t)c.bits);
  }
  return 0;
}
