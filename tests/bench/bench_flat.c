/*
 * bench_flat.c: the flat search on real or made-up vectors: time, recall, rows re-ranked.
 *
 *   bench_flat [vectors.f32 queries.f32 [dimensions]]     little-endian f32 rows; without files: 100,000 clustered rows
 *
 * The caller pins it (taskset -c 1 bench_flat ...). Times are medians over queries, each the best of three runs in
 * turn, so that what else the machine does shows little; a search's own cold misses are left in because queries differ.
 */
#define _GNU_SOURCE
#include "../../core/dv_flat.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <time.h>

static void *resize(void *ctx, void *p, size_t n) {
  (void)ctx;
  if (n == 0) {
    free(p);
    return NULL;
  }
  return realloc(p, n);
}
static const dv_alloc alloc = {resize, NULL};

static double now_us(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e6 + (double)t.tv_nsec * 1e-3;
}

static int by_value(const void *a, const void *b) {
  double x = *(const double *)a, y = *(const double *)b;
  return x < y ? -1 : x > y;
}

static double quantile(double *x, size_t n, double q) {
  qsort(x, n, sizeof *x, by_value);
  return x[(size_t)(q * (double)(n - 1))];
}

/* ---- vectors ----------------------------------------------------------------------------------------------------- */

static float *read_floats(const char *path, size_t *n) {
  FILE *file = fopen(path, "rb");
  if (!file) {
    perror(path);
    exit(1);
  }
  fseek(file, 0, SEEK_END);
  *n = (size_t)ftell(file) / sizeof(float);
  rewind(file);
  float *p = malloc(*n * sizeof *p);
  if (!p || fread(p, sizeof *p, *n, file) != *n) exit(1);
  fclose(file);
  return p;
}

static double random_normal(void) {
  double s = 0;
  for (int i = 0; i < 12; i++) s += (double)rand() / RAND_MAX;
  return s - 6.0;
}

/* Unit vectors around 500 centres, with a spectrum that falls off as those of learned embeddings do. */
static float *make_floats(size_t n_rows, size_t n) {
  static float *centres;
  enum { N_CENTRES = 500 };
  if (!centres) {
    centres = malloc(N_CENTRES * n * sizeof *centres);
    for (size_t i = 0; i < N_CENTRES * n; i++)
      centres[i] = (float)(random_normal() / sqrt(1.0 + (double)(i % n) * 0.05));
  }
  float *p = malloc(n_rows * n * sizeof *p);
  for (size_t r = 0; r < n_rows; r++) {
    const float *centre = centres + (size_t)(rand() % N_CENTRES) * n;
    double norm = 0;
    for (size_t i = 0; i < n; i++) {
      p[r * n + i] = centre[i] + (float)(random_normal() / sqrt(1.0 + (double)i * 0.05));
      norm += (double)p[r * n + i] * p[r * n + i];
    }
    for (size_t i = 0; i < n; i++) p[r * n + i] /= (float)sqrt(norm);
  }
  return p;
}

/* ---- one table --------------------------------------------------------------------------------------------------- */

typedef struct table {
  dv_flat flat;
  const float *v;
} table;

static const float *vector_of(void *ctx, uint32_t row, dv_status *status) {
  (void)status;
  const table *t = ctx;
  return t->v + row * t->flat.n;
}

/* Big arrays start on a page; huge pages are the caller's choice, as they are in a host. */
static void *array(size_t bytes) {
  void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (p == MAP_FAILED) exit(1);
  if (getenv("HUGE_PAGES")) madvise(p, bytes, MADV_HUGEPAGE);
  return p;
}

static void table_make(table *t, dv_metric m, const float *v, size_t n_rows, size_t n) {
  size_t stride = dv_code_stride(n);
  memset(t, 0, sizeof *t);
  int8_t *codes = array(n_rows * stride);
  dv_code_row *code_rows = array(n_rows * sizeof *code_rows);
  uint64_t *bits = array(dv_bit_blocks(n_rows) * dv_bit_words(n) * DV_BITS_ROWS * sizeof *bits);
  dv_bit_row *bit_rows = array(n_rows * sizeof *bit_rows);
  double t0 = now_us();
  for (size_t r = 0; r < n_rows; r++) {
    uint32_t meta = dv_code_encode(m, v + r * n, n, codes + r * stride);
    code_rows[r] = dv_code_row_of(meta, codes + r * stride, n);
  }
  double t1 = now_us();
  float *center = malloc(n * sizeof *center);
  dv_bits_center(codes, code_rows, n_rows, n, center);
  if (getenv("NO_CENTER")) memset(center, 0, n * sizeof *center);
  for (size_t r = 0; r < n_rows; r++)
    bit_rows[r] = dv_bits_set(bits, r, m, &code_rows[r], codes + r * stride, n, center);
  printf("%zu x %zu: code and row %.2f us, bits %.2f us a row\n", n_rows, n, (t1 - t0) / (double)n_rows,
         (now_us() - t1) / (double)n_rows);
  t->flat.n_rows = n_rows;
  t->flat.n = n;
  t->flat.codes = codes;
  t->flat.code_rows = code_rows;
  t->flat.bits = bits;
  t->flat.bit_rows = bit_rows;
  t->flat.center = center;
  t->flat.vector = vector_of;
  t->flat.ctx = t;
  t->v = v;
}

static void bench(dv_metric m, const float *v, size_t n_rows, size_t n, const float *queries, size_t n_queries,
                  size_t k) {
  table t;
  table_make(&t, m, v, n_rows, n);
  enum { TIERED, EXACT, N_WAYS };
  static const char *way_names[] = {"tiered", "exact"};
  double *us[N_WAYS], reranked[N_WAYS] = {0}, scanned[N_WAYS] = {0}, found = 0, setup = 0, worst_recall = 1;
  size_t n_wrong = 0, n_missing_one = 0;
  for (int w = 0; w < N_WAYS; w++) us[w] = malloc(n_queries * sizeof *us[w]);
  dv_flat_scratch scratch;
  dv_flat_scratch_init(&scratch, &alloc);
  for (size_t i = 0; i < n_queries; i++) {
    const float *v_query = queries + i * n;
    dv_query q;
    dv_code_query cq;
    double t0 = now_us();
    dv_query_init(&q, dv_kernels_get(), m, v_query, n);
    if (dv_code_query_init(&cq, m, v_query, n, &alloc) != DV_OK) exit(1);
    dv_code_query_refine(&cq, v_query);
    setup += now_us() - t0;
    dv_topk out[N_WAYS];
    for (int w = 0; w < N_WAYS; w++) us[w][i] = 1e30;
    for (int repeat = 0; repeat < 3; repeat++)
      for (int w = 0; w < N_WAYS; w++) {
        if (repeat) dv_topk_free(&out[w]);
        dv_topk_init(&out[w], k, &alloc);
        t0 = now_us();
        if (dv_flat_search(&t.flat, &q, &cq, k, w == EXACT, &out[w], &scratch) != DV_OK) exit(1);
        double t1 = now_us();
        if (t1 - t0 < us[w][i]) us[w][i] = t1 - t0;
        if (repeat == 0) reranked[w] += (double)scratch.n_reranked;
        if (repeat == 0) scanned[w] += (double)scratch.n_scanned;
      }
    dv_topk_sort(&out[TIERED]);
    dv_topk_sort(&out[EXACT]);
    if (i < 20 || n_rows <= 10000) { /* exact against the definition */
      dv_topk brute;
      dv_topk_init(&brute, k, &alloc);
      if (dv_flat_brute(&t.flat, &q, &brute) != DV_OK) exit(1);
      dv_topk_sort(&brute);
      for (size_t h = 0; h < brute.n; h++)
        n_wrong += brute.hits[h].vid != out[EXACT].hits[h].vid || brute.hits[h].distance != out[EXACT].hits[h].distance;
      dv_topk_free(&brute);
    }
    size_t n_found = 0;
    for (size_t a = 0; a < out[TIERED].n; a++)
      for (size_t b = 0; b < out[EXACT].n; b++) n_found += out[TIERED].hits[a].vid == out[EXACT].hits[b].vid;
    double recall = (double)n_found / (double)out[EXACT].n;
    found += recall;
    n_missing_one += n_found < out[EXACT].n;
    if (recall < worst_recall) worst_recall = recall;
    for (int w = 0; w < N_WAYS; w++) dv_topk_free(&out[w]);
    dv_code_query_free(&cq);
  }
  for (int w = 0; w < N_WAYS; w++) {
    double mean = reranked[w] / (double)n_queries, half = quantile(us[w], n_queries, 0.5);
    printf("  %-6s %s k=%zu %8zu rows: median %8.1f us  p90 %8.1f  int8 %.0f  re-ranked %.1f", way_names[w],
           dv_metric_name(m), k, n_rows, half, quantile(us[w], n_queries, 0.9), scanned[w] / (double)n_queries, mean);
    if (w == TIERED)
      printf("  recall %.5f (worst query %.2f, %zu of %zu not perfect)\n", found / (double)n_queries, worst_recall,
             n_missing_one, n_queries);
    else
      printf("  differences from the full scan: %zu\n", n_wrong);
  }
  printf("  query set-up %.2f us\n", setup / (double)n_queries);
  dv_flat_scratch_free(&scratch);
  size_t stride = dv_code_stride(n);
  munmap((void *)(uintptr_t)t.flat.codes, n_rows * stride);
  munmap((void *)(uintptr_t)t.flat.bits, dv_bit_blocks(n_rows) * dv_bit_words(n) * DV_BITS_ROWS * sizeof(uint64_t));
  munmap((void *)(uintptr_t)t.flat.code_rows, n_rows * sizeof(dv_code_row));
  munmap((void *)(uintptr_t)t.flat.bit_rows, n_rows * sizeof(dv_bit_row));
  for (int w = 0; w < N_WAYS; w++) free(us[w]);
}

int main(int argc, char **argv) {
  size_t n = argc > 3 ? (size_t)atoi(argv[3]) : 384, n_rows = 100000, n_queries = 300;
  float *v, *queries;
  if (argc > 2) {
    v = read_floats(argv[1], &n_rows);
    queries = read_floats(argv[2], &n_queries);
    n_rows /= n;
    n_queries /= n;
  } else {
    v = make_floats(n_rows, n);
    queries = make_floats(n_queries, n);
  }
  printf("kernels: %s\n", dv_kernels_get()->name);
  static const dv_metric metrics[] = {DV_COSINE, DV_L2, DV_IP};
  for (size_t m = 0; m < (getenv("ALL_METRICS") ? 3 : 1); m++)
    for (size_t k = 10; k <= (getenv("ALL_K") ? 100 : 10); k *= 10) {
      size_t some = n_rows < 10000 ? n_rows : 10000;
      bench(metrics[m], v, some, n, queries, n_queries, k);
      if (n_rows > some) bench(metrics[m], v, n_rows, n, queries, n_queries, k);
    }
  free(v);
  free(queries);
  return 0;
}
