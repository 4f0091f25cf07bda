/*
 * fuzz_delta.c: any bytes as the payload of a delta.
 *
 *   u8 op, u8 encoding, u16 dimensions (1 to 256; 0xffff is 65536, which is slow), u32 seed of the vector it is
 *   applied to; the rest is the payload
 *
 * Holds: check and apply agree; what they accept leaves a finite vector; the encoder writes the same change in no more
 * bytes, and that folds to the same bits.
 *
 * With -DDV_FUZZ_REPLAY a main that runs the files given.
 */
#include "fuzz.h"

#include "dv_delta.h"
#include "dv_vector.h"

static void *resize(void *ctx, void *p, size_t n_bytes) {
  (void)ctx;
  if (n_bytes == 0) {
    free(p);
    return NULL;
  }
  return realloc(p, n_bytes);
}

static const dv_alloc alloc = {resize, NULL};

static float *filled(size_t n, uint64_t seed) {
  float *v = malloc(n * sizeof *v);
  REQUIRE(v);
  for (size_t i = 0; i < n; i++) {
    seed = seed * 6364136223846793005u + 1442695040888963407u;
    v[i] = dv_bits_float((uint32_t)(seed >> 32) & (seed >> 20 & 1 ? 0xbfffffffu : 0xbf800000u)); /* below 2 */
  }
  return v;
}

typedef struct pairs {
  dv_buf indices, values;
} pairs;

static void visit(void *ctx, uint32_t index, float value) {
  pairs *p = ctx;
  dv_buf_bytes(&p->indices, &index, sizeof index);
  dv_buf_bytes(&p->values, &value, sizeof value);
}

/* A sparse-like payload is written again from its pairs, in reverse order, in the same bytes. */
static void check_pairs(const dv_delta *d) {
  pairs p;
  dv_buf out;
  dv_delta again;
  dv_buf_init(&p.indices, &alloc);
  dv_buf_init(&p.values, &alloc);
  dv_buf_init(&out, &alloc);
  dv_delta_each(d, visit, &p);
  const size_t count = p.indices.n / 4;
  for (size_t i = 0; i < count / 2; i++) {
    uint8_t t[4], *a = p.indices.data + 4 * i, *b = p.indices.data + 4 * (count - 1 - i);
    memcpy(t, a, 4);
    memcpy(a, b, 4);
    memcpy(b, t, 4);
    a = p.values.data + 4 * i;
    b = p.values.data + 4 * (count - 1 - i);
    memcpy(t, a, 4);
    memcpy(a, b, 4);
    memcpy(b, t, 4);
  }
  REQUIRE(dv_delta_encode_sparse(&out, &again, (const uint32_t *)(const void *)p.indices.data,
                                 (const float *)(const void *)p.values.data, count, 0, NULL) == DV_OK);
  REQUIRE(again.n_payload <= d->n_payload);
  if (again.encoding == d->encoding) {
    REQUIRE(again.n_payload == d->n_payload);
    REQUIRE(d->n_payload == 0 || memcmp(out.data, d->payload, d->n_payload) == 0);
  }
  dv_buf_free(&p.indices);
  dv_buf_free(&p.values);
  dv_buf_free(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size < 8) return 0;
  const size_t head = dv_load_u16(data + 2), n = 1 + (head == 0xffff ? head : head & 0xff);
  const uint32_t seed = dv_load_u32(data + 4);
  const dv_delta d = {(dv_op)data[0], (dv_encoding)data[1], size > 8 ? data + 8 : NULL, size - 8};
  dv_detail detail;

  float *from = filled(n, seed), *to = filled(n, seed), *again = filled(n, seed);
  const dv_status status = dv_delta_check(&d, n, &detail), applied = dv_delta_apply(&d, to, n, NULL);
  const dv_status unknown = dv_delta_check(&d, 0, NULL);
  (void)dv_op_name((int)d.op);
  (void)dv_encoding_name((int)d.encoding);
  if (status != DV_OK) {
    REQUIRE(applied == status);
    REQUIRE(status != DV_INDEX || detail.at >= n);
    REQUIRE(status != DV_LENGTH || detail.at != n);
    REQUIRE(status != DV_NOT_FINITE || detail.at < n);
  } else {
    REQUIRE(unknown == DV_OK);
    REQUIRE(applied == DV_OK || applied == DV_OVERFLOW);
  }
  if (unknown == DV_OK && (d.encoding == DV_ENC_SPARSE || d.encoding == DV_ENC_RUN)) check_pairs(&d);
  if (applied == DV_OK) {
    REQUIRE(dv_vector_check(to, n, NULL) == DV_OK);
    const bool is_set = d.encoding != DV_ENC_SCALAR && d.encoding != DV_ENC_NONE;
    for (int compression = DV_COMPRESSION_OFF; compression <= DV_COMPRESSION_MAX; compression++) {
      for (int has_from = 0; has_from < 2; has_from++) {
        dv_buf out;
        dv_delta written;
        dv_buf_init(&out, &alloc);
        dv_delta_encode_dense(&out, &written, DV_OP_DENSE, has_from ? from : NULL, to, n, (dv_compression)compression);
        written.payload = out.data;
        memcpy(again, from, n * sizeof *again);
        REQUIRE(dv_delta_check(&written, n, NULL) == DV_OK);
        REQUIRE(dv_delta_apply(&written, again, n, NULL) == DV_OK);
        REQUIRE(memcmp(again, to, n * sizeof *again) == 0);
        if (compression == DV_COMPRESSION_MAX && has_from && is_set) REQUIRE(written.n_payload <= d.n_payload);
        if (written.encoding == d.encoding && d.encoding >= DV_ENC_DENSE) { /* one form in each of these */
          REQUIRE(written.n_payload == d.n_payload);
          REQUIRE(memcmp(out.data, d.payload, d.n_payload) == 0);
        }
        dv_buf_free(&out);
      }
    }
  }
  free(from);
  free(to);
  free(again);
  return 0;
}

#ifdef DV_FUZZ_REPLAY
int main(int argc, char **argv) {
  for (int i = 1; i < argc; i++) {
    static uint8_t buffer[1 << 20];
    FILE *file = fopen(argv[i], "rb");
    REQUIRE(file);
    const size_t size = fread(buffer, 1, sizeof buffer, file);
    uint8_t *data = malloc(size ? size : 1); /* exactly its size, so that ASan sees a byte too many */
    REQUIRE(data);
    memcpy(data, buffer, size);
    LLVMFuzzerTestOneInput(data, size);
    free(data);
    fclose(file);
  }
  return 0;
}
#endif
