/*
 * fuzz_vector_text.c: any text as a number, as a vector, as indices.
 *
 * Holds: a number is what strtod makes of it; a vector that is understood is printed and read back as the same bits;
 * what is not understood leaves everything as it was and names a place in the text.
 *
 * With -DDV_FUZZ_REPLAY a main that runs the files given.
 */
#include "fuzz.h"

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

static void check_number(const char *text, size_t n_bytes) {
  double d = 0;
  const size_t length = dv_double_parse(text, n_bytes, &d);
  REQUIRE(length <= n_bytes);
  if (length == 0) return;
  char *copy = malloc(length + 1), *end;
  REQUIRE(copy);
  memcpy(copy, text, length);
  copy[length] = 0;
  const double expected = strtod(copy, &end);
  REQUIRE(end == copy + length);
  REQUIRE(memcmp(&d, &expected, sizeof d) == 0);
  const float f = dv_float_nearest(d), cast = (float)d;
  REQUIRE(dv_float_bits(f) == dv_float_bits(cast));
  free(copy);
}

static void check_vector(const char *text, size_t n_bytes) {
  dv_buf blob, printed, again;
  dv_detail detail = {0, 0};
  size_t n = 7, n_again = 0;
  dv_buf_init(&blob, &alloc);
  dv_buf_init(&printed, &alloc);
  dv_buf_init(&again, &alloc);
  dv_buf_u8(&blob, 1); /* so that the floats are not aligned */
  const dv_status status = dv_vector_parse(&blob, &n, text, n_bytes, &detail);
  if (status == DV_OK) {
    REQUIRE(blob.n == 1 + 4 * (n - 7));
    n -= 7;
    float *v = malloc(n ? n * sizeof *v : 1);
    REQUIRE(v);
    dv_vector_load(v, blob.data + 1, n);
    REQUIRE(dv_vector_check(v, n, NULL) == DV_OK);
    dv_vector_print(&printed, v, n);
    REQUIRE(printed.n <= (DV_FLOAT_CHARS + 1) * n + 2);
    REQUIRE(dv_vector_parse(&again, &n_again, (const char *)printed.data, printed.n, NULL) == DV_OK);
    REQUIRE(n_again == n);
    REQUIRE(n == 0 || memcmp(again.data, blob.data + 1, 4 * n) == 0);
    free(v);
  } else {
    REQUIRE(n == 7 && blob.n == 1);
    REQUIRE(status == DV_SYNTAX || status == DV_NOT_FINITE || status == DV_LIMIT);
    REQUIRE(detail.at <= n_bytes);
  }
  dv_buf_free(&blob);
  dv_buf_free(&printed);
  dv_buf_free(&again);
}

static void check_indices(const char *text, size_t n_bytes) {
  dv_buf out;
  dv_detail detail = {0, 0};
  size_t n = 0;
  dv_buf_init(&out, &alloc);
  const dv_status status = dv_index_parse(&out, &n, text, n_bytes, &detail);
  REQUIRE(out.n == 4 * n);
  if (status != DV_OK) REQUIRE(n == 0 && detail.at <= n_bytes && (status == DV_SYNTAX || status == DV_LIMIT));
  dv_buf_free(&out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  const char *text = size ? (const char *)data : "";
  check_number(text, size);
  check_vector(text, size);
  check_indices(text, size);
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
