/*
 * bench_codec.c: what the codec costs: nanoseconds of processor time an operation, medians of 25 samples of about a
 * millisecond each.
 *
 *   cc -std=c11 -O2 -ffp-contract=off -I core tests/bench/bench_codec.c core/dv_{checksum,vector,delta,frame}.c -lm
 *   ./a.out [part of a name]
 *
 * The vectors are 384 gaussian numbers of norm 1, as embeddings are. Every result is consumed, so that nothing is
 * optimised away, and inputs rotate through 64 variants, so that branch predictors do not learn one by heart.
 */
#define _POSIX_C_SOURCE 200809L

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "dv_checksum.h"
#include "dv_frame.h"
#include "dv_vector.h"

enum { N = 384, CHANGED = 19, VARIANTS = 64, SAMPLES = 25 };

static void *resize(void *ctx, void *p, size_t n_bytes) {
  (void)ctx;
  if (n_bytes == 0) {
    free(p);
    return NULL;
  }
  return realloc(p, n_bytes);
}

static const dv_alloc alloc = {resize, NULL};

static uint64_t seed = 1;

static double uniform(void) {
  seed = seed * 6364136223846793005u + 1442695040888963407u;
  return (double)(seed >> 11) * 0x1p-53;
}

static double gaussian(void) { return sqrt(-2 * log(uniform() + 1e-300)) * cos(6.283185307179586 * uniform()); }

static float base[N], work[N];
static uint32_t sparse_indices[VARIANTS][CHANGED];
static float sparse_values[VARIANTS][CHANGED];
static float to_sparse[VARIANTS][N], to_small[VARIANTS][N], to_random[VARIANTS][N];
static dv_buf payload[VARIANTS], diff_payload[VARIANTS], dense_payload, planes_payload, json, out, frame_bytes,
    record_bytes;
static dv_delta sparse_delta[VARIANTS], diff_delta[VARIANTS], dense_delta, planes_delta;
static uint8_t block[8192];
static char json17[N * 24];
static size_t n_json17;
static volatile uint64_t sink;

static void prepare(void) {
  double norm = 0;
  for (size_t i = 0; i < N; i++) {
    base[i] = (float)gaussian();
    norm += (double)base[i] * (double)base[i];
  }
  for (size_t i = 0; i < N; i++) base[i] = (float)((double)base[i] / sqrt(norm));
  for (size_t i = 0; i < sizeof block; i++) block[i] = (uint8_t)(uniform() * 256);
  for (size_t k = 0; k < VARIANTS; k++) {
    memcpy(to_sparse[k], base, sizeof base);
    for (size_t i = 0; i < N; i++) {
      to_small[k][i] = base[i] * (float)(1 + 1e-3 * gaussian());
      to_random[k][i] = (float)(gaussian() / sqrt((double)N));
    }
    for (size_t i = 0, left = CHANGED; i < N; i++) { /* 19 of 384, each set as likely */
      if (uniform() * (double)(N - i) >= (double)left) continue;
      sparse_indices[k][CHANGED - left] = (uint32_t)i;
      sparse_values[k][CHANGED - left] = to_sparse[k][i] = (float)gaussian();
      left--;
    }
    dv_buf_init(&payload[k], &alloc);
    dv_buf_init(&diff_payload[k], &alloc);
    if (dv_delta_encode_sparse(&payload[k], &sparse_delta[k], sparse_indices[k], sparse_values[k], CHANGED, N, NULL))
      abort();
    sparse_delta[k].payload = payload[k].data;
    dv_delta_encode_dense(&diff_payload[k], &diff_delta[k], DV_OP_DENSE, base, to_small[k], N, DV_COMPRESSION_ON);
    diff_delta[k].payload = diff_payload[k].data;
  }
  dv_buf_init(&dense_payload, &alloc);
  dv_delta_encode_dense(&dense_payload, &dense_delta, DV_OP_CREATE, NULL, base, N, DV_COMPRESSION_ON);
  dense_delta.payload = dense_payload.data;
  dv_buf_init(&planes_payload, &alloc);
  dv_delta_encode_dense(&planes_payload, &planes_delta, DV_OP_CREATE, NULL, base, N, DV_COMPRESSION_MAX);
  planes_delta.payload = planes_payload.data;
  dv_buf_init(&json, &alloc);
  dv_vector_print(&json, base, N);
  for (size_t i = 0; i < N; i++) {
    n_json17 += (size_t)snprintf(json17 + n_json17, 32, "%s%.17g", i ? "," : "[", (double)base[i] * (1 + 1e-12));
  }
  json17[n_json17++] = ']';
  dv_buf_init(&out, &alloc);
  dv_buf_init(&frame_bytes, &alloc);
  dv_buf_init(&record_bytes, &alloc);
  memcpy(work, base, sizeof base);
}

/* ---- one function an operation ----------------------------------------------------------------------------------- */

static void encode_pairs(size_t k) {
  dv_delta d;
  out.n = 0;
  (void)dv_delta_encode_sparse(&out, &d, sparse_indices[k], sparse_values[k], CHANGED, N, NULL);
  sink += d.n_payload;
}

static void apply_sparse(size_t k) { sink += (uint64_t)dv_delta_apply(&sparse_delta[k], work, N, NULL); }
static void check_sparse(size_t k) { sink += (uint64_t)dv_delta_check(&sparse_delta[k], N, NULL); }

static void encode_pairs_and_apply(size_t k) {
  dv_delta d;
  out.n = 0;
  (void)dv_delta_encode_sparse(&out, &d, sparse_indices[k], sparse_values[k], CHANGED, N, NULL);
  d.payload = out.data;
  sink += (uint64_t)dv_delta_apply(&d, work, N, NULL);
}

static void encode(const float *to, dv_compression compression) {
  dv_delta d;
  out.n = 0;
  dv_delta_encode_dense(&out, &d, DV_OP_DENSE, base, to, N, compression);
  sink += d.n_payload;
}

static void encode_unchanged(size_t k) {
  (void)k;
  encode(base, DV_COMPRESSION_ON);
}
static void encode_sparse_change(size_t k) { encode(to_sparse[k], DV_COMPRESSION_ON); }
static void encode_small_change(size_t k) { encode(to_small[k], DV_COMPRESSION_ON); }
static void encode_random_change(size_t k) { encode(to_random[k], DV_COMPRESSION_ON); }
static void encode_random_max(size_t k) { encode(to_random[k], DV_COMPRESSION_MAX); }

static void encode_vectors_and_apply(size_t k) {
  dv_delta d;
  out.n = 0;
  dv_delta_encode_dense(&out, &d, DV_OP_DENSE, base, to_sparse[k], N, DV_COMPRESSION_ON);
  d.payload = out.data;
  sink += (uint64_t)dv_delta_apply(&d, work, N, NULL);
}

static void apply_diff(size_t k) {
  memcpy(work, base, sizeof base);
  sink += (uint64_t)dv_delta_apply(&diff_delta[k], work, N, NULL);
}

static void apply_dense(size_t k) {
  (void)k;
  sink += (uint64_t)dv_delta_apply(&dense_delta, work, N, NULL);
}

static void apply_planes(size_t k) {
  (void)k;
  sink += (uint64_t)dv_delta_apply(&planes_delta, work, N, NULL);
}

static void apply_scale(size_t k) {
  static const uint8_t factor[2][4] = {{0, 0, 0, 0x40}, {0, 0, 0, 0x3f}}; /* 2 and 0.5 in turn */
  const dv_delta d = {DV_OP_SCALE, DV_ENC_SCALAR, factor[k & 1], 4};
  sink += (uint64_t)dv_delta_apply(&d, work, N, NULL);
}

static void crc_100(size_t k) { sink += dv_crc32c(0, block + k, 100); }
static void crc_1536(size_t k) { sink += dv_crc32c(0, block + k, 1536); }
static void crc_8192(size_t k) { sink += dv_crc32c((uint32_t)k, block, 8192); }
static void crc_scalar_8192(size_t k) { sink += dv_crc32c_scalar((uint32_t)k, block, 8192); }

static void parse(const char *text, size_t n_bytes) {
  size_t n = 0;
  out.n = 0;
  if (dv_vector_parse(&out, &n, text, n_bytes, NULL) != DV_OK || n != N) abort();
  sink += out.data[0];
}

static void parse_json(size_t k) {
  (void)k;
  parse((const char *)json.data, json.n);
}
static void parse_json17(size_t k) {
  (void)k;
  parse(json17, n_json17);
}
static void print_json(size_t k) {
  out.n = 0;
  dv_vector_print(&out, to_random[k], N);
  sink += out.n;
}

static dv_frame frame_of(size_t k) {
  dv_frame f;
  memset(&f, 0, sizeof f);
  f.flags = DV_FRAME_SEQ | DV_FRAME_ID | DV_FRAME_TIME;
  f.seq = 123456 + k;
  f.id.type = DV_INTEGER;
  f.id.integer = (int64_t)k;
  f.time = 1750000000000 + (int64_t)k;
  f.delta = sparse_delta[k];
  return f;
}

static void write_frame(size_t k) {
  const dv_frame f = frame_of(k);
  frame_bytes.n = 0;
  dv_frame_write(&frame_bytes, &f);
  sink += frame_bytes.n;
}

static void read_frame(size_t k) {
  dv_frame f;
  dv_reader r = dv_reader_of(frame_bytes.data, frame_bytes.n);
  (void)k;
  if (dv_frame_read(&r, &f, NULL) != DV_OK) abort();
  sink += f.seq;
}

static void write_record(size_t k) {
  dv_log_state state = {999 + k, 0, 0};
  dv_record r;
  memset(&r, 0, sizeof r);
  r.seq = 1000 + k;
  r.link = 900;
  r.vid = 9000;
  r.delta = sparse_delta[k];
  record_bytes.n = 0;
  dv_record_write(&record_bytes, &r, &state);
  sink += record_bytes.n;
}

static void span_record(size_t k) {
  uint8_t tag;
  (void)k;
  sink += dv_record_span(record_bytes.data, record_bytes.n, &tag);
}

static void read_record(size_t k) {
  dv_log_state state = {999 + k, 0, 0};
  dv_record r;
  if (dv_record_read(record_bytes.data, record_bytes.n, &r, &state) != DV_OK) abort();
  sink += r.link;
}

/* ---- measuring --------------------------------------------------------------------------------------------------- */

static double now_ns(void) {
  struct timespec t;
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return (double)t.tv_sec * 1e9 + (double)t.tv_nsec;
}

static int compare(const void *a, const void *b) {
  const double x = *(const double *)a, y = *(const double *)b;
  return (x > y) - (x < y);
}

static double median_ns(void (*operation)(size_t k)) {
  double samples[SAMPLES];
  size_t rounds = VARIANTS;
  for (double spent = 0; spent < 1e6; rounds *= 2) {
    const double begin = now_ns();
    for (size_t i = 0; i < rounds; i++) operation(i % VARIANTS);
    spent = now_ns() - begin;
  }
  for (size_t s = 0; s < SAMPLES; s++) {
    const double begin = now_ns();
    for (size_t i = 0; i < rounds; i++) operation(i % VARIANTS);
    samples[s] = (now_ns() - begin) / (double)rounds;
  }
  qsort(samples, SAMPLES, sizeof *samples, compare);
  return samples[SAMPLES / 2];
}

int main(int argc, char **argv) {
  static const struct {
    const char *name;
    void (*operation)(size_t k);
  } operations[] = {
      {"sparse 19/384: encode from pairs", encode_pairs},
      {"sparse 19/384: check", check_sparse},
      {"sparse 19/384: apply", apply_sparse},
      {"sparse 19/384: encode from pairs + apply", encode_pairs_and_apply},
      {"sparse 19/384: encode from vectors + apply", encode_vectors_and_apply},
      {"dense encode 384: unchanged", encode_unchanged},
      {"dense encode 384: 5 % changed (sparse)", encode_sparse_change},
      {"dense encode 384: all a little (diff)", encode_small_change},
      {"dense encode 384: all anew (dense)", encode_random_change},
      {"dense encode 384: all anew, max (planes)", encode_random_max},
      {"apply 384: diff", apply_diff},
      {"apply 384: dense", apply_dense},
      {"apply 384: planes", apply_planes},
      {"apply 384: scale", apply_scale},
      {"crc 100 B", crc_100},
      {"crc 1.5 KB", crc_1536},
      {"crc 8 KB", crc_8192},
      {"crc 8 KB, tables", crc_scalar_8192},
      {"json parse 384, as printed", parse_json},
      {"json parse 384, 17 digits", parse_json17},
      {"json print 384", print_json},
      {"frame write (sparse 19/384)", write_frame},
      {"frame read", read_frame},
      {"record write (sparse 19/384)", write_record},
      {"record span", span_record},
      {"record read", read_record},
  };
  prepare();
  write_frame(0);
  write_record(0);
  for (size_t i = 0; i < sizeof operations / sizeof *operations; i++) {
    if (argc > 1 && !strstr(operations[i].name, argv[1])) continue;
    printf("%-44s %9.1f ns\n", operations[i].name, median_ns(operations[i].operation));
  }
  printf("bytes of 1536: sparse %zu, diff %zu, planes %zu; record with sparse %zu\n", sparse_delta[0].n_payload,
         diff_delta[0].n_payload, planes_delta.n_payload, record_bytes.n);
  return 0;
}
