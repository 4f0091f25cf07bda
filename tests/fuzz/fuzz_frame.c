/*
 * fuzz_frame.c: any bytes as frames, as records of a log, as fields.
 *
 *   u8 what: 0 frames; 1 frames with their checksums put right; 2 a log; 3 named fields; 4 numbered fields; the rest
 *   the bytes
 *
 * Holds: what is accepted points into the bytes, is written again, and reads back as the same.
 *
 * With -DDV_FUZZ_REPLAY a main that runs the files given.
 */
#include "fuzz.h"

#include "dv_checksum.h"
#include "dv_frame.h"

static void *resize(void *ctx, void *p, size_t n_bytes) {
  (void)ctx;
  if (n_bytes == 0) {
    free(p);
    return NULL;
  }
  return realloc(p, n_bytes);
}

static const dv_alloc alloc = {resize, NULL};

static uint32_t touched;

/* Every byte that was handed out can be read. */
static void touch(const uint8_t *bytes, size_t n) { touched = dv_crc32c(touched, bytes, n); }

static void require_same(const uint8_t *a, size_t n_a, const uint8_t *b, size_t n_b) {
  REQUIRE(n_a == n_b);
  REQUIRE(n_a == 0 || memcmp(a, b, n_a) == 0);
}

static void require_same_value(const dv_value *a, const dv_value *b) {
  REQUIRE(a->type == b->type && a->integer == b->integer);
  REQUIRE(memcmp(&a->real, &b->real, sizeof a->real) == 0);
  require_same(a->bytes, a->n_bytes, b->bytes, b->n_bytes);
}

static void require_same_delta(const dv_delta *a, const dv_delta *b) {
  REQUIRE(a->op == b->op && a->encoding == b->encoding);
  require_same(a->payload, a->n_payload, b->payload, b->n_payload);
}

static void walk_named(const uint8_t *bytes, size_t n_bytes) {
  dv_reader r = dv_reader_of(bytes, n_bytes), again;
  const uint8_t *name, *name_again;
  size_t n_name, n_name_again;
  dv_value v, v_again;
  dv_buf out;
  dv_buf_init(&out, &alloc);
  while (dv_field_next(&r, &name, &n_name, &v)) {
    touch(name, n_name);
    touch(v.bytes, v.n_bytes);
    out.n = 0;
    dv_field_write(&out, (const char *)name, n_name, &v);
    again = dv_reader_of(out.data, out.n);
    REQUIRE(dv_field_next(&again, &name_again, &n_name_again, &v_again) && dv_reader_left(&again) == 0);
    require_same(name, n_name, name_again, n_name_again);
    require_same_value(&v, &v_again);
  }
  REQUIRE(dv_reader_left(&r) == 0);
  dv_buf_free(&out);
}

static void walk_numbered(const uint8_t *bytes, size_t n_bytes) {
  dv_reader r = dv_reader_of(bytes, n_bytes), again;
  uint32_t number, number_again;
  dv_value v, v_again;
  dv_buf out;
  dv_buf_init(&out, &alloc);
  while (dv_numbered_next(&r, &number, &v)) {
    touch(v.bytes, v.n_bytes);
    out.n = 0;
    dv_numbered_write(&out, number, &v);
    again = dv_reader_of(out.data, out.n);
    REQUIRE(dv_numbered_next(&again, &number_again, &v_again) && dv_reader_left(&again) == 0);
    REQUIRE(number == number_again);
    require_same_value(&v, &v_again);
  }
  REQUIRE(dv_reader_left(&r) == 0);
  dv_buf_free(&out);
}

static void walk_frames(const uint8_t *bytes, size_t n_bytes) {
  dv_reader r = dv_reader_of(bytes, n_bytes);
  for (;;) {
    dv_frame f, again;
    dv_detail detail;
    dv_buf out;
    const dv_reader was = r;
    const dv_status status = dv_frame_read(&r, &f, &detail);
    if (status != DV_OK) {
      REQUIRE(status == DV_CORRUPT || status == DV_VERSION);
      REQUIRE(detail.at <= dv_reader_left(&was));
      REQUIRE(r.p == was.p && r.end == was.end && !r.is_bad);
      return;
    }
    REQUIRE(r.p > was.p && !r.is_bad);
    touch(f.delta.payload, f.delta.n_payload);
    walk_named(f.fields, f.n_fields);
    if (!(f.flags & DV_FRAME_HEADER)) (void)dv_delta_check(&f.delta, 0, NULL);
    dv_buf_init(&out, &alloc);
    dv_frame_write(&out, &f);
    REQUIRE(out.n <= (size_t)(r.p - was.p)); /* varints are written in their shortest form */
    dv_reader s = dv_reader_of(out.data, out.n);
    REQUIRE(dv_frame_read(&s, &again, NULL) == DV_OK && dv_reader_left(&s) == 0);
    REQUIRE(f.flags == again.flags && f.seq == again.seq && f.time == again.time);
    require_same_value(&f.id, &again.id);
    require_same(f.fields, f.n_fields, again.fields, again.n_fields);
    require_same_delta(&f.delta, &again.delta);
    dv_buf_free(&out);
  }
}

/* Makes the checksums of all frames whose lengths fit right: a fuzzer would not find them. */
static void mend_frames(uint8_t *bytes, size_t n_bytes) {
  size_t begin = 0;
  while (n_bytes - begin >= 5) {
    dv_reader r = dv_reader_of(bytes + begin + 5, n_bytes - begin - 5);
    const uint64_t length = dv_read_varint(&r);
    if (r.is_bad || length > dv_reader_left(&r) || dv_reader_left(&r) - length < 4) return;
    const size_t end = (size_t)(r.p - bytes) + (size_t)length;
    dv_store_u32(bytes + end, dv_crc32c(0, bytes + begin, end - begin));
    begin = end + 4;
  }
}

static void walk_log(const uint8_t *bytes, size_t n_bytes) {
  dv_log_state state = {0, 1750000000000, 0};
  for (size_t at = 0; at < n_bytes;) {
    uint8_t tag;
    const size_t span = dv_record_span(bytes + at, n_bytes - at, &tag);
    dv_log_state head = state, reading = state, writing = state;
    const dv_status head_status = dv_record_head(bytes + at, n_bytes - at, &head);
    if (span == 0 || span == SIZE_MAX) return;
    if ((tag & 7) == DV_RECORD_SEAL) {
      REQUIRE(span == DV_SEAL_BYTES);
      at += span;
      continue;
    }
    dv_record rec, again;
    dv_buf out;
    if (span > n_bytes - at) return;
    if (dv_record_read(bytes + at, span, &rec, &reading) != DV_OK) {
      REQUIRE(reading.seq == state.seq && reading.time == state.time);
      return;
    }
    REQUIRE(head_status == DV_OK && head.seq == rec.seq && head.time == rec.time);
    REQUIRE(reading.seq == rec.seq && reading.time == rec.time && rec.seq > state.seq && rec.seq <= INT64_MAX);
    touch(rec.delta.payload, rec.delta.n_payload);
    touch(rec.full, rec.n_full);
    walk_numbered(rec.fields, rec.n_fields);
    (void)dv_delta_check(&rec.delta, 0, NULL);
    dv_buf_init(&out, &alloc);
    dv_record_write(&out, &rec, &writing);
    REQUIRE(out.n <= span);
    REQUIRE(writing.seq == rec.seq && writing.time == rec.time);
    REQUIRE(dv_record_span(out.data, out.n, &tag) == out.n);
    writing = state;
    REQUIRE(dv_record_read(out.data, out.n, &again, &writing) == DV_OK);
    REQUIRE(rec.seq == again.seq && rec.link == again.link && rec.time == again.time && rec.vid == again.vid);
    REQUIRE(rec.is_key == again.is_key && rec.extra == again.extra && rec.full_encoding == again.full_encoding);
    require_same(rec.fields, rec.n_fields, again.fields, again.n_fields);
    require_same(rec.full, rec.n_full, again.full, again.n_full);
    require_same_delta(&rec.delta, &again.delta);
    dv_buf_free(&out);
    state = reading;
    at += span;
  }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (size < 2) return 0;
  const size_t n_bytes = size - 1;
  uint8_t *bytes = malloc(n_bytes); /* exactly its size */
  REQUIRE(bytes);
  memcpy(bytes, data + 1, n_bytes);
  switch (data[0]) {
  case 1:
    mend_frames(bytes, n_bytes);
    walk_frames(bytes, n_bytes);
    break;
  case 2: walk_log(bytes, n_bytes); break;
  case 3: walk_named(bytes, n_bytes); break;
  case 4: walk_numbered(bytes, n_bytes); break;
  default: walk_frames(bytes, n_bytes); break;
  }
  free(bytes);
  return 0;
}

#ifdef DV_FUZZ_REPLAY
int main(int argc, char **argv) {
  for (int i = 1; i < argc; i++) {
    static uint8_t buffer[1 << 20];
    FILE *file = fopen(argv[i], "rb");
    REQUIRE(file);
    LLVMFuzzerTestOneInput(buffer, fread(buffer, 1, sizeof buffer, file));
    fclose(file);
  }
  return 0;
}
#endif
