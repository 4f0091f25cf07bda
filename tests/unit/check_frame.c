/*
 * check_frame.c: values, frames and records: what is written reads back, what was not written so is refused. Inputs are
 * read from blocks of exactly their size, so that ASan sees a byte too many.
 */
#include "dv_frame.h"

#include <check.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#include "dv_checksum.h"

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

/* Any 64 bits, small ones as likely as large ones. */
static uint64_t random_u64(void) { return ((uint64_t)next_random() << 32 | next_random()) >> random_below(64); }

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

static uint8_t *exact_copy(const void *bytes, size_t n) {
  uint8_t *copy = malloc(n ? n : 1);
  REQUIRE(copy != NULL);
  if (n) memcpy(copy, bytes, n);
  return copy;
}

static dv_value integer(int64_t i) { return (dv_value){.type = DV_INTEGER, .integer = i}; }
static dv_value real(double r) { return (dv_value){.type = DV_REAL, .real = r}; }
static dv_value text(const char *t) {
  return (dv_value){.type = DV_TEXT, .bytes = (const uint8_t *)t, .n_bytes = strlen(t)};
}
static dv_value blob(const void *b, size_t n) { return (dv_value){.type = DV_BLOB, .bytes = b, .n_bytes = n}; }
static dv_value null(void) { return (dv_value){.type = DV_NULL}; }

static void assert_same_value(const dv_value *a, const dv_value *b) {
  REQUIRE(a->type == b->type);
  REQUIRE(a->integer == b->integer);
  REQUIRE(memcmp(&a->real, &b->real, sizeof a->real) == 0);
  REQUIRE(a->n_bytes == b->n_bytes);
  if (a->n_bytes) REQUIRE(memcmp(a->bytes, b->bytes, a->n_bytes) == 0);
}

static void assert_same_bytes(const uint8_t *a, size_t n_a, const uint8_t *b, size_t n_b) {
  REQUIRE(n_a == n_b);
  if (n_a) REQUIRE(memcmp(a, b, n_a) == 0);
}

static void assert_same_delta(const dv_delta *a, const dv_delta *b) {
  REQUIRE(a->op == b->op);
  REQUIRE(a->encoding == b->encoding);
  assert_same_bytes(a->payload, a->n_payload, b->payload, b->n_payload);
}

static const struct {
  dv_op op;
  dv_encoding encoding;
} pairs[] = {
    {DV_OP_CREATE, DV_ENC_DENSE},  {DV_OP_CREATE, DV_ENC_PLANES}, {DV_OP_SPARSE, DV_ENC_SPARSE},
    {DV_OP_SPARSE, DV_ENC_RUN},    {DV_OP_SPARSE, DV_ENC_DENSE},  {DV_OP_SPARSE, DV_ENC_DIFF},
    {DV_OP_DENSE, DV_ENC_SPARSE},  {DV_OP_DENSE, DV_ENC_RUN},     {DV_OP_DENSE, DV_ENC_DENSE},
    {DV_OP_DENSE, DV_ENC_DIFF},    {DV_OP_DENSE, DV_ENC_PLANES},  {DV_OP_SCALE, DV_ENC_SCALAR},
    {DV_OP_OFFSET, DV_ENC_SCALAR}, {DV_OP_DELETE, DV_ENC_NONE},
};
#define N_PAIRS (sizeof pairs / sizeof *pairs)

/* Bytes for payloads and fields: their contents do not matter here. */
static const uint8_t *some_bytes(void) {
  static uint8_t bytes[1000];
  for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (uint8_t)(i * 7 + 1);
  return bytes;
}

/* ---- values and fields ------------------------------------------------------------------------------------------- */

START_TEST(values_read_back) {
  const dv_value values[] = {null(),
                             integer(0),
                             integer(-1),
                             integer(INT64_MAX),
                             integer(INT64_MIN),
                             integer(300),
                             real(0),
                             real(-0.0),
                             real(1e308),
                             real(INFINITY),
                             text(""),
                             text("\xc3\xa9t\xc3\xa9"),
                             blob("", 0),
                             blob("\0x", 2),
                             blob(some_bytes(), 1000)};
  for (size_t i = 0; i < sizeof values / sizeof *values; i++) {
    dv_buf out = buffer();
    dv_value v;
    dv_value_write(&out, &values[i]);
    REQUIRE(out.status == DV_OK);
    uint8_t *copy = exact_copy(out.data, out.n);
    dv_reader r = dv_reader_of(copy, out.n);
    dv_value_read(&r, &v);
    REQUIRE(!r.is_bad);
    REQUIRE(dv_reader_left(&r) == 0);
    assert_same_value(&v, &values[i]);
    for (size_t n = 0; n < out.n; n++) { /* cut off */
      uint8_t *cut = exact_copy(out.data, n);
      r = dv_reader_of(cut, n);
      dv_value_read(&r, &v);
      REQUIRE(r.is_bad);
      REQUIRE(v.type == DV_NULL);
      REQUIRE(v.bytes == NULL);
      REQUIRE(dv_reader_left(&r) == 0);
      free(cut);
    }
    free(copy);
    dv_buf_free(&out);
  }
}
END_TEST

START_TEST(values_of_no_type_are_refused) {
  for (unsigned type = 5; type < 256; type++) {
    const uint8_t bytes[] = {(uint8_t)type, 0, 0, 0, 0, 0, 0, 0, 0, 0};
    dv_reader r = dv_reader_of(bytes, sizeof bytes);
    dv_value v;
    dv_value_read(&r, &v);
    ck_assert(r.is_bad);
    ck_assert_int_eq(v.type, DV_NULL);
  }
}
END_TEST

START_TEST(fields_are_listed_in_order) {
  const dv_value values[] = {text("en"), integer(7), null(), real(1.5)};
  static const char *const names[] = {"lang", "", "a name that is longer", "price"};
  dv_buf named = buffer(), numbered = buffer();
  for (size_t i = 0; i < 4; i++) {
    dv_field_write(&named, names[i], strlen(names[i]), &values[i]);
    dv_numbered_write(&numbered, (uint32_t)(i * 0x55555555u), &values[i]);
  }
  uint8_t *copy = exact_copy(named.data, named.n);
  dv_reader r = dv_reader_of(copy, named.n);
  const uint8_t *name;
  size_t n_name, n = 0;
  dv_value v;
  for (; dv_field_next(&r, &name, &n_name, &v); n++) {
    assert_same_bytes(name, n_name, (const uint8_t *)names[n], strlen(names[n]));
    assert_same_value(&v, &values[n]);
  }
  ck_assert_uint_eq(n, 4);
  ck_assert(!r.is_bad);
  free(copy);
  copy = exact_copy(numbered.data, numbered.n);
  r = dv_reader_of(copy, numbered.n);
  uint32_t number;
  for (n = 0; dv_numbered_next(&r, &number, &v); n++) {
    ck_assert_uint_eq(number, n * 0x55555555u);
    assert_same_value(&v, &values[n]);
  }
  ck_assert_uint_eq(n, 4);
  ck_assert(!r.is_bad);
  free(copy);
  dv_buf_free(&named);
  dv_buf_free(&numbered);
}
END_TEST

START_TEST(damaged_fields_end_the_list_and_say_so) {
  static const uint8_t no_value[] = {1, 'a'}, long_name[] = {200, 1, 'a', 0},
                       far_number[] = {0xff, 0xff, 0xff, 0xff, 0x1f, 0};
  const uint8_t *name;
  size_t n_name;
  uint32_t number;
  dv_value v;
  dv_reader r = dv_reader_of(no_value, sizeof no_value);
  ck_assert(!dv_field_next(&r, &name, &n_name, &v) && r.is_bad);
  ck_assert(!dv_field_next(&r, &name, &n_name, &v));
  r = dv_reader_of(long_name, sizeof long_name);
  ck_assert(!dv_field_next(&r, &name, &n_name, &v) && r.is_bad);
  r = dv_reader_of(far_number, sizeof far_number);
  ck_assert(!dv_numbered_next(&r, &number, &v) && r.is_bad);
  ck_assert(!dv_numbered_next(&r, &number, &v));
  r = dv_reader_of(NULL, 0);
  ck_assert(!dv_field_next(&r, &name, &n_name, &v) && !r.is_bad);
  ck_assert(!dv_numbered_next(&r, &number, &v) && !r.is_bad);
}
END_TEST

/* ---- frames ------------------------------------------------------------------------------------------------------ */

static dv_frame random_frame(unsigned flags) {
  dv_frame f = {.flags = flags};
  const size_t pair = random_below(N_PAIRS);
  if (flags & DV_FRAME_SEQ) f.seq = random_u64() >> 1;
  if (flags & DV_FRAME_ID) f.id = random_below(2) ? integer((int64_t)random_u64()) : text(random_below(2) ? "row" : "");
  if (flags & DV_FRAME_TIME) f.time = (int64_t)random_u64() * (random_below(2) ? 1 : -1);
  if (flags & DV_FRAME_FIELDS) {
    f.fields = some_bytes();
    f.n_fields = random_below(random_below(2) ? 5 : 300);
  }
  if (flags & DV_FRAME_HEADER) return f;
  f.delta = (dv_delta){pairs[pair].op, pairs[pair].encoding, some_bytes() + 3, random_below(random_below(2) ? 5 : 900)};
  return f;
}

static void assert_same_frame(const dv_frame *a, const dv_frame *b) {
  REQUIRE(a->flags == b->flags);
  REQUIRE(a->seq == b->seq);
  assert_same_value(&a->id, &b->id);
  REQUIRE(a->time == b->time);
  assert_same_bytes(a->fields, a->n_fields, b->fields, b->n_fields);
  assert_same_delta(&a->delta, &b->delta);
}

/* Several frames behind each other, with every set of flags: what delta_apply_batch and exports are made of. */
START_TEST(frames_read_back_from_a_batch) {
  static const unsigned header_flags = DV_FRAME_SEQ | DV_FRAME_TIME | DV_FRAME_FIELDS | DV_FRAME_HEADER;
  for (int round = 0; round < 300; round++) {
    dv_frame frames[40], f;
    dv_buf out = buffer();
    for (unsigned i = 0; i < 40; i++) {
      frames[i] = random_frame(i < 32 ? i : DV_FRAME_HEADER | (random_below(64) & header_flags));
      dv_frame_write(&out, &frames[i]);
    }
    REQUIRE(out.status == DV_OK);
    uint8_t *copy = exact_copy(out.data, out.n);
    dv_reader r = dv_reader_of(copy, out.n);
    for (unsigned i = 0; i < 40; i++) {
      REQUIRE(dv_frame_read(&r, &f, NULL) == DV_OK);
      assert_same_frame(&f, &frames[i]);
    }
    REQUIRE(dv_reader_left(&r) == 0);
    REQUIRE(dv_frame_read(&r, &f, NULL) == DV_CORRUPT);
    free(copy);
    dv_buf_free(&out);
  }
}
END_TEST

START_TEST(fields_are_written_even_when_their_flag_was_forgotten) {
  dv_frame f = random_frame(0), back;
  dv_buf out = buffer();
  f.fields = some_bytes();
  f.n_fields = 3;
  dv_frame_write(&out, &f);
  dv_reader r = dv_reader_of(out.data, out.n);
  ck_assert_int_eq(dv_frame_read(&r, &back, NULL), DV_OK);
  ck_assert_uint_eq(back.flags, DV_FRAME_FIELDS);
  ck_assert_uint_eq(back.n_fields, 3);
  dv_buf_free(&out);
}
END_TEST

/* Every damaged byte is found by the checksum, at the latest; the reader and the frame stay as they were. */
START_TEST(every_truncation_and_changed_byte_of_a_frame_is_refused) {
  dv_frame f = random_frame(DV_FRAME_SEQ | DV_FRAME_ID | DV_FRAME_TIME | DV_FRAME_FIELDS);
  dv_buf out = buffer();
  f.n_fields = 20;
  f.delta.n_payload = 60;
  dv_frame_write(&out, &f);
  for (size_t n = 0; n < out.n; n++) {
    uint8_t *cut = exact_copy(out.data, n);
    dv_reader r = dv_reader_of(cut, n), was = r;
    dv_frame untouched = {.seq = 42};
    dv_detail detail = {999, 0};
    REQUIRE(dv_frame_read(&r, &untouched, &detail) == DV_CORRUPT);
    REQUIRE(dv_frame_read_unsealed(&r, &untouched) == DV_CORRUPT);
    REQUIRE(detail.at <= n);
    REQUIRE(r.p == was.p && r.end == was.end && !r.is_bad);
    REQUIRE(untouched.seq == 42);
    free(cut);
  }
  for (size_t at = 0; at < out.n; at++) {
    for (unsigned x = 1; x < 256; x++) {
      uint8_t *changed = exact_copy(out.data, out.n);
      changed[at] ^= (uint8_t)x;
      dv_reader r = dv_reader_of(changed, out.n);
      const dv_status status = dv_frame_read(&r, &f, NULL);
      REQUIRE(status == DV_CORRUPT || (status == DV_VERSION && at == 2));
      free(changed);
    }
  }
  dv_buf_free(&out);
}
END_TEST

/* The same with the checksum put right again: only a hostile writer does that. What is accepted is sound, and is
 * written again as it was read. */
START_TEST(every_changed_byte_with_a_matching_checksum_is_refused_or_sound) {
  size_t n_accepted = 0;
  for (unsigned flags = 0; flags < 64; flags++) {
    dv_frame f = random_frame(flags & DV_FRAME_HEADER ? flags & ~(unsigned)(DV_FRAME_ID | DV_FRAME_MERGED) : flags);
    dv_buf out = buffer();
    f.n_fields = f.fields ? 9 : 0;
    if (f.delta.n_payload > 20) f.delta.n_payload = 20;
    dv_frame_write(&out, &f);
    for (size_t at = 0; at < out.n - 4; at++) {
      for (unsigned x = 1; x < 256; x += flags % 8 ? 21 : 1) {
        uint8_t *bytes = exact_copy(out.data, out.n);
        bytes[at] ^= (uint8_t)x;
        dv_store_u32(bytes + out.n - 4, dv_crc32c(0, bytes, out.n - 4));
        dv_reader r = dv_reader_of(bytes, out.n);
        dv_frame got, again, unsealed;
        const dv_status status = dv_frame_read(&r, &got, NULL);
        bytes[out.n - 1] ^= 1; /* a reader of frames that are not sealed does not look there, and at all else alike */
        dv_reader u = dv_reader_of(bytes, out.n);
        const dv_status other = dv_frame_read_unsealed(&u, &unsealed);
        /* (but for a shorter frame, whose checksum would be elsewhere) */
        REQUIRE(other == status || (other == DV_OK && u.p < bytes + out.n));
        REQUIRE(status != DV_OK || u.p == r.p);
        bytes[out.n - 1] ^= 1;
        if (status == DV_OK) {
          REQUIRE(unsealed.seq == got.seq && unsealed.flags == got.flags && unsealed.time == got.time);
          REQUIRE(unsealed.delta.payload == got.delta.payload && unsealed.delta.n_payload == got.delta.n_payload);
          dv_buf rewritten = buffer();
          n_accepted++;
          REQUIRE(dv_reader_left(&r) == 0);
          REQUIRE(got.seq <= INT64_MAX);
          REQUIRE((got.flags & DV_FRAME_HEADER)
                      ? got.delta.n_payload == 0
                      : dv_delta_is_pair((unsigned)got.delta.op, (unsigned)got.delta.encoding));
          REQUIRE(!(got.flags & DV_FRAME_ID) || got.id.type == DV_INTEGER || got.id.type == DV_TEXT);
          dv_frame_write(&rewritten, &got);
          dv_reader s = dv_reader_of(rewritten.data, rewritten.n);
          REQUIRE(dv_frame_read(&s, &again, NULL) == DV_OK);
          assert_same_frame(&got, &again);
          dv_buf_free(&rewritten);
        }
        free(bytes);
      }
    }
    dv_buf_free(&out);
  }
  REQUIRE(n_accepted > 1000);
}
END_TEST

/* The frame's bytes with some of them replaced and the checksum right. */
static dv_status read_patched(const dv_frame *f, size_t at, const void *patch, size_t n_patch, dv_detail *detail) {
  dv_buf out = buffer();
  dv_frame got;
  dv_frame_write(&out, f);
  memcpy(out.data + at, patch, n_patch);
  dv_store_u32(out.data + out.n - 4, dv_crc32c(0, out.data, out.n - 4));
  dv_reader r = dv_reader_of(out.data, out.n);
  const dv_status status = dv_frame_read(&r, &got, detail);
  dv_buf_free(&out);
  return status;
}

START_TEST(a_newer_version_is_told_from_damage) {
  const dv_frame f = random_frame(0);
  dv_detail detail;
  for (unsigned version = 0; version < 256; version++) {
    const uint8_t byte = (uint8_t)version;
    ck_assert_int_eq(read_patched(&f, 2, &byte, 1, &detail), version == 0   ? DV_CORRUPT
                                                             : version == 1 ? DV_OK
                                                                            : DV_VERSION);
    if (version != 1) ck_assert_uint_eq(detail.at, 2);
  }
  static const uint8_t head[] = {0x7a, 0xde, 2}; /* what follows a newer version number is not ours to judge */
  dv_reader r = dv_reader_of(head, sizeof head);
  dv_frame got;
  ck_assert_int_eq(dv_frame_read(&r, &got, NULL), DV_VERSION);
}
END_TEST

START_TEST(a_length_beyond_the_bytes_or_2_to_the_31_is_refused) {
  static const uint8_t lengths[][15] = {
      {0x7a, 0xde, 1, 0x45, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 1},
      {0x7a, 0xde, 1, 0x45, 0, 0x81, 0x80, 0x80, 0x80, 0x08, 0, 0, 0, 0, 0}, /* 2^31 + 1 */
      {0x7a, 0xde, 1, 0x45, 0, 0x80, 0x80, 0x80, 0x80, 0x08, 0, 0, 0, 0, 0}, /* 2^31 */
      {0x7a, 0xde, 1, 0x45, 0, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff},
      {0x7a, 0xde, 1, 0x45, 0, 9, 0, 0, 0, 0, 0, 0, 0, 0, 0},
  };
  for (size_t i = 0; i < sizeof lengths / sizeof *lengths; i++) {
    uint8_t *copy = exact_copy(lengths[i], sizeof *lengths);
    dv_reader r = dv_reader_of(copy, sizeof *lengths);
    dv_frame f;
    ck_assert_int_eq(dv_frame_read(&r, &f, NULL), DV_CORRUPT);
    free(copy);
  }
}
END_TEST

START_TEST(headers_and_deltas_are_not_mixed) {
  dv_frame header = {.flags = DV_FRAME_HEADER}, delta = {.delta = {DV_OP_DELETE, DV_ENC_NONE, NULL, 0}};
  const uint8_t kinds[][2] = {{0x60, DV_FRAME_HEADER},
                              {0x00, 0},
                              {0x00, DV_FRAME_HEADER | DV_FRAME_ID},
                              {0x00, DV_FRAME_HEADER | DV_FRAME_MERGED},
                              {0x60, 64},
                              {0x60, 128},
                              {0x70, 0},
                              {0x61, 0}};
  ck_assert_int_eq(read_patched(&header, 0, "\x7a", 1, NULL), DV_OK);
  ck_assert_int_eq(read_patched(&delta, 0, "\x7a", 1, NULL), DV_OK);
  for (size_t i = 0; i < sizeof kinds / sizeof *kinds; i++) {
    dv_detail detail;
    ck_assert_int_eq(read_patched(&delta, 3, kinds[i], 2, &detail), DV_CORRUPT);
    ck_assert_uint_eq(detail.at, 3);
  }
  header.delta.payload = some_bytes();
  header.delta.n_payload = 1;
  ck_assert_int_eq(read_patched(&header, 0, "\x7a", 1, NULL), DV_CORRUPT);
}
END_TEST

START_TEST(an_id_is_an_integer_or_a_text_and_a_seq_fits_a_rowid) {
  dv_frame f = random_frame(DV_FRAME_ID | DV_FRAME_SEQ);
  f.seq = INT64_MAX;
  ck_assert_int_eq(read_patched(&f, 0, "\x7a", 1, NULL), DV_OK);
  f.seq = (uint64_t)INT64_MAX + 1;
  ck_assert_int_eq(read_patched(&f, 0, "\x7a", 1, NULL), DV_CORRUPT);
  f.seq = 1;
  const dv_value bad[] = {null(), real(1), blob("x", 1)};
  for (size_t i = 0; i < 3; i++) {
    f.id = bad[i];
    ck_assert_int_eq(read_patched(&f, 0, "\x7a", 1, NULL), DV_CORRUPT);
  }
}
END_TEST

START_TEST(lack_of_memory_is_reported) {
  const dv_frame f = random_frame(0);
  dv_buf out = buffer();
  allocations_left = 0;
  dv_frame_write(&out, &f);
  ck_assert_int_eq(out.status, DV_NOMEM);
  dv_log_state state = {0, 0, 0};
  const dv_record r = {.seq = 1, .delta = {DV_OP_DELETE, DV_ENC_NONE, NULL, 0}};
  dv_record_write(&out, &r, &state);
  const dv_value v = text("x");
  dv_value_write(&out, &v);
  allocations_left = SIZE_MAX;
  ck_assert_uint_eq(out.n, 0);
  ck_assert_uint_eq(state.seq, 0); /* nothing was written, so the next record follows the same one */
  dv_buf_free(&out);
}
END_TEST

/* ---- records ----------------------------------------------------------------------------------------------------- */

static dv_record random_record(const dv_log_state *state) {
  const size_t pair = random_below(N_PAIRS);
  const bool is_full = dv_encoding_is_full((int)pairs[pair].encoding);
  dv_record r = {.seq = state->seq + (random_below(3) ? 1 : 1 + (random_u64() >> 20)), .vid = (uint32_t)random_u64()};
  r.link = random_below(2) ? 0 : random_u64() % r.seq;
  r.time =
      random_below(4) ? state->time + (int64_t)random_below(100) : (int64_t)random_u64() * (random_below(2) ? 1 : -1);
  r.is_key = is_full || (random_below(2) && pairs[pair].op != DV_OP_DELETE);
  r.extra = random_below(2) ? 0 : random_below(16) & ~1u;
  if (r.extra & DV_RECORD_FIELDS) {
    r.fields = some_bytes();
    r.n_fields = random_below(200);
  }
  r.delta = (dv_delta){pairs[pair].op, pairs[pair].encoding, some_bytes() + 5, random_below(random_below(2) ? 9 : 400)};
  if (r.is_key && !is_full) {
    r.full = some_bytes() + 9;
    r.n_full = random_below(300);
    r.full_encoding = random_below(2) ? DV_ENC_DENSE : DV_ENC_PLANES;
  }
  return r;
}

static void assert_same_record(const dv_record *a, const dv_record *b) {
  REQUIRE(a->seq == b->seq);
  REQUIRE(a->link == b->link);
  REQUIRE(a->time == b->time);
  REQUIRE(a->vid == b->vid);
  REQUIRE(a->is_key == b->is_key);
  REQUIRE(a->extra == b->extra);
  assert_same_bytes(a->fields, a->n_fields, b->fields, b->n_fields);
  assert_same_delta(&a->delta, &b->delta);
  assert_same_bytes(a->full, a->n_full, b->full, b->n_full);
  REQUIRE(a->full_encoding == b->full_encoding);
}

/* A log of records, walked by their spans, with each read whole and by its head. */
START_TEST(records_read_back_from_a_log) {
  for (int round = 0; round < 300; round++) {
    dv_record records[50], r;
    dv_log_state state = {random_u64() >> 8, (int64_t)random_u64(), 0}, start = state;
    dv_buf out = buffer();
    for (size_t i = 0; i < 50; i++) {
      records[i] = random_record(&state);
      dv_record_write(&out, &records[i], &state);
      REQUIRE(state.seq == records[i].seq);
      REQUIRE(state.time == records[i].time);
    }
    uint8_t *log = exact_copy(out.data, out.n);
    dv_log_state reading = start, heading = start;
    size_t at = 0;
    for (size_t i = 0; i < 50; i++) {
      uint8_t tag;
      const size_t span = dv_record_span(log + at, out.n - at, &tag);
      REQUIRE(span <= out.n - at);
      REQUIRE((tag & 7) == (int)records[i].delta.op);
      uint8_t *one = exact_copy(log + at, span);
      REQUIRE(dv_record_read(one, span, &r, &reading) == DV_OK);
      assert_same_record(&r, &records[i]);
      free(one);
      const size_t n_head = span < DV_RECORD_HEAD_BYTES ? span : DV_RECORD_HEAD_BYTES;
      one = exact_copy(log + at, n_head); /* the rest may be in the next pack */
      REQUIRE(dv_record_span(one, n_head, &tag) == span);
      REQUIRE(dv_record_head(one, n_head, &heading) == DV_OK);
      REQUIRE(heading.seq == records[i].seq);
      REQUIRE(heading.time == records[i].time);
      free(one);
      at += span;
    }
    REQUIRE(at == out.n);
    free(log);
    dv_buf_free(&out);
  }
}
END_TEST

START_TEST(times_far_apart_do_not_overflow) {
  static const int64_t times[] = {0, INT64_MAX, INT64_MIN, -1, INT64_MIN, INT64_MAX, 1750000000000};
  dv_log_state writing = {0, 0, 0}, reading = {0, 0, 0};
  for (size_t i = 0; i < sizeof times / sizeof *times; i++) {
    dv_record r = {.seq = i + 1, .time = times[i], .delta = {DV_OP_DELETE, DV_ENC_NONE, NULL, 0}};
    dv_buf out = buffer();
    dv_record_write(&out, &r, &writing);
    ck_assert_int_eq(dv_record_read(out.data, out.n, &r, &reading), DV_OK);
    ck_assert_int_eq(r.time, times[i]);
    dv_buf_free(&out);
  }
}
END_TEST

/* 19 of 384 values: 102 bytes, 104 with the longest gaps there can be, while rows and links are below 16384. */
START_TEST(a_sparse_change_of_five_percent_takes_at_most_104_bytes) {
  for (int longest = 0; longest < 2; longest++) {
    uint32_t indices[19];
    float values[19];
    for (uint32_t i = 0; i < 19; i++) {
      indices[i] = longest ? 128 + 2 * i + (i < 8 ? 0 : 128) : 20 * i;
      values[i] = 1;
    }
    dv_buf payload = buffer(), out = buffer();
    dv_log_state state = {20000, 1000, 0};
    dv_record r = {.seq = 20001, .link = 16383, .vid = 16383, .time = 1000};
    ck_assert_int_eq(dv_delta_encode_sparse(&payload, &r.delta, indices, values, 19, 384, NULL), DV_OK);
    r.delta.payload = payload.data;
    dv_record_write(&out, &r, &state);
    ck_assert_uint_eq(out.n, longest ? 104 : 102);
    dv_buf_free(&payload);
    dv_buf_free(&out);
  }
}
END_TEST

START_TEST(writers_put_the_key_where_readers_want_it) {
  dv_record deleted = {.seq = 1, .is_key = true, .delta = {DV_OP_DELETE, DV_ENC_NONE, NULL, 0}}, created = {.seq = 2},
            r;
  dv_log_state writing = {0, 0, 0}, reading = {0, 0, 0};
  dv_buf out = buffer();
  created.delta = (dv_delta){DV_OP_CREATE, DV_ENC_DENSE, some_bytes(), 4};
  dv_record_write(&out, &deleted, &writing);
  ck_assert_int_eq(dv_record_read(out.data, out.n, &r, &reading), DV_OK);
  ck_assert(!r.is_key);
  out.n = 0;
  dv_record_write(&out, &created, &writing);
  ck_assert_int_eq(dv_record_read(out.data, out.n, &r, &reading), DV_OK);
  ck_assert(r.is_key && r.full == NULL);
  dv_buf_free(&out);
}
END_TEST

START_TEST(span_tells_the_end_seals_and_what_is_malformed) {
  static const struct {
    const char *bytes;
    size_t n, span;
  } cases[] = {
      {"", 0, 0},
      {"\0", 1, 0},
      {"\0\xff\xff", 3, 0},
      {"\x07....\x07", 6, DV_SEAL_BYTES},
      {"\x07", 1, DV_SEAL_BYTES},
      {"\x47....\x07", 6, SIZE_MAX}, /* a seal with a key */
      {"\x87....\x07", 6, SIZE_MAX},
      {"\x0f....\x07", 6, SIZE_MAX},
      {"\x08\x05", 2, SIZE_MAX}, /* no operation */
      {"\x06", 1, SIZE_MAX}, /* no length */
      {"\x06\x80", 2, SIZE_MAX}, /* half a length */
      {"\x86\x01", 2, SIZE_MAX},
      {"\x06\x02", 2, SIZE_MAX}, /* too short for a vid, a link and a time */
      {"\x06\x03", 2, 5},
      {"\x86\x08\x03", 3, 6},
      {"\x06\x80\x01", 3, 3 + 128},
      {"\x86\x08\x80\x01", 4, 4 + 128},
      {"\x06\x80\x80\x80\x80\x08", 6, 6 + 0x80000000u},
      {"\x06\x81\x80\x80\x80\x08", 6, SIZE_MAX},
      {"\x06\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 11, SIZE_MAX},
      {"\x06\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 12, SIZE_MAX},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    uint8_t tag, *copy = exact_copy(cases[i].bytes, cases[i].n);
    ck_assert_msg(dv_record_span(copy, cases[i].n, &tag) == cases[i].span, "case %d", (int)i);
    free(copy);
  }
}
END_TEST

START_TEST(record_rejects_what_the_grammar_does_not_give) {
  static const struct {
    const char *why, *bytes;
    size_t n;
    dv_status status;
  } cases[] = {
      {"a delete", "\x06\x03\x01\x00\x00", 5, DV_OK},
      {"nothing", "", 0, DV_CORRUPT},
      {"a seal", "\x07\x03\x01\x00\x00", 5, DV_CORRUPT},
      {"no operation", "\x00\x03\x01\x00\x00", 5, DV_CORRUPT},
      {"delete as dense", "\x1e\x03\x01\x00\x00", 5, DV_CORRUPT},
      {"an encoding 7", "\x3b\x03\x01\x00\x00", 5, DV_CORRUPT},
      {"a delete with a full vector", "\x46\x05\x01\x00\x00\x00\x03", 7, DV_CORRUPT},
      {"a full vector without its key", "\x19\x07\x01\x00\x00\x00\x00\x80\x3f", 9, DV_CORRUPT},
      {"the same with it", "\x59\x07\x01\x00\x00\x00\x00\x80\x3f", 9, DV_OK},
      {"longer than it says", "\x06\x03\x01\x00\x00\x00", 6, DV_CORRUPT},
      {"shorter than it says", "\x06\x04\x01\x00\x00", 5, DV_CORRUPT},
      {"too short for its head", "\x06\x02\x01\x00", 4, DV_CORRUPT},
      {"an empty extra byte", "\x86\x00\x03\x01\x00\x00", 6, DV_CORRUPT},
      {"an unknown extra", "\x86\x10\x03\x01\x00\x00", 6, DV_CORRUPT},
      {"a gap of 1", "\x86\x01\x04\x01\x00\x00\x01", 7, DV_CORRUPT},
      {"a gap of 0", "\x86\x01\x04\x01\x00\x00\x00", 7, DV_CORRUPT},
      {"a gap of 2", "\x86\x01\x04\x01\x00\x00\x02", 7, DV_OK},
      {"a gap past 2^63", "\x86\x01\x0d\x01\x00\x00\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", 16, DV_CORRUPT},
      {"a vid past 2^32", "\x06\x07\x80\x80\x80\x80\x10\x00\x00", 9, DV_CORRUPT},
      {"the last vid", "\x06\x07\xff\xff\xff\xff\x0f\x00\x00", 9, DV_OK},
      {"fields past the end", "\x86\x02\x05\x01\x00\x00\x02\x00", 8, DV_CORRUPT},
      {"fields", "\x86\x02\x06\x01\x00\x00\x02\x00\x00", 9, DV_OK},
      {"no full vector behind the delta", "\x6c\x04\x01\x00\x00\x04", 6, DV_CORRUPT},
      {"a delta past the end", "\x6c\x08\x01\x00\x00\x09\x00\x00\x80\x3f", 10, DV_CORRUPT},
      {"a full vector that is not one", "\x6c\x09\x01\x00\x00\x04\x00\x00\x80\x3f\x01", 11, DV_CORRUPT},
      {"a full vector", "\x6c\x09\x01\x00\x00\x04\x00\x00\x80\x3f\x03", 11, DV_OK},
  };
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    uint8_t *copy = exact_copy(cases[i].bytes, cases[i].n);
    dv_log_state state = {5, 10, 3};
    const dv_log_state was = state;
    dv_record r = {.seq = 77};
    ck_assert_msg(dv_record_read(copy, cases[i].n, &r, &state) == cases[i].status, "%s", cases[i].why);
    if (cases[i].status != DV_OK) {
      ck_assert(state.seq == was.seq && state.time == was.time && state.crc == was.crc);
      ck_assert_uint_eq(r.seq, 77);
    } else {
      ck_assert_uint_eq(state.seq, r.seq);
      ck_assert_uint_eq(state.crc, 3);
    }
    free(copy);
  }
  dv_log_state last = {INT64_MAX, 0, 0}, one_before = {INT64_MAX - 1, 0, 0};
  dv_record r;
  ck_assert_int_eq(dv_record_read((const uint8_t *)"\x06\x03\x01\x00\x00", 5, &r, &last), DV_CORRUPT);
  ck_assert_int_eq(dv_record_read((const uint8_t *)"\x06\x03\x01\x00\x00", 5, &r, &one_before), DV_OK);
  ck_assert_int_eq(dv_record_head((const uint8_t *)"\x06\x03\x01\x00\x00", 5, &last), DV_CORRUPT);
}
END_TEST

START_TEST(every_truncation_and_changed_byte_of_a_record_gives_a_status_or_a_sound_record) {
  for (int round = 0; round < 30; round++) {
    const dv_log_state start = {1000, 5000, 0};
    dv_log_state state = start;
    dv_record r = random_record(&state);
    if (r.delta.n_payload > 20) r.delta.n_payload = 20;
    if (r.n_fields > 20) r.n_fields = 20;
    if (r.n_full > 20) r.n_full = 20;
    dv_buf out = buffer();
    dv_record_write(&out, &r, &state);
    for (size_t n = 0; n < out.n; n++) {
      uint8_t tag, *cut = exact_copy(out.data, n);
      dv_log_state s = start;
      const size_t span = dv_record_span(cut, n, &tag);
      REQUIRE(n == 0 ? span == 0 : span == out.n || span == SIZE_MAX);
      REQUIRE(dv_record_read(cut, n, &r, &s) == DV_CORRUPT);
      (void)dv_record_head(cut, n, &s);
      free(cut);
    }
    for (size_t at = 0; at < out.n; at++) {
      for (unsigned x = 1; x < 256; x++) {
        uint8_t tag, *bytes = exact_copy(out.data, out.n);
        dv_log_state s = start, h = start, again = start;
        bytes[at] ^= (uint8_t)x;
        const size_t span = dv_record_span(bytes, out.n, &tag);
        const dv_status status = dv_record_read(bytes, out.n, &r, &s), head = dv_record_head(bytes, out.n, &h);
        if (status == DV_OK) {
          dv_buf rewritten = buffer();
          dv_record back;
          REQUIRE(span == out.n);
          REQUIRE(head == DV_OK);
          REQUIRE(h.seq == s.seq && h.time == s.time);
          dv_record_write(&rewritten, &r, &again);
          again = start;
          REQUIRE(dv_record_read(rewritten.data, rewritten.n, &back, &again) == DV_OK);
          assert_same_record(&back, &r);
          dv_buf_free(&rewritten);
        }
        free(bytes);
      }
    }
    dv_buf_free(&out);
  }
}
END_TEST

/* ---- docs/file-format.md ----------------------------------------------------------------------------------------- */

/* The document's text, from beside this file; NULL where only the program is. */
static char *read_document(void) {
  static char path[4096];
  const char *here = __FILE__, *slash = strrchr(here, '/');
  snprintf(path, sizeof path, "%.*s/../../docs/file-format.md", slash ? (int)(slash - here) : 1, slash ? here : ".");
  FILE *file = fopen(path, "rb");
  if (!file) return NULL;
  char *contents = calloc(1, 1 << 20);
  ck_assert_ptr_nonnull(contents);
  ck_assert_uint_lt(fread(contents, 1, (1 << 20) - 1, file), (1 << 20) - 1);
  fclose(file);
  return contents;
}

static char *document;

/* The bytes written are those of the example, which stands in the document. Empties the buffer. */
static void check_example(dv_buf *out, const char *example) {
  char hex[1000];
  size_t at = 0;
  for (size_t i = 0; i < out->n; i++)
    at += (size_t)snprintf(hex + at, sizeof hex - at, i ? " %02x" : "%02x", out->data[i]);
  ck_assert_str_eq(hex, example);
  if (document) ck_assert_msg(strstr(document, example) != NULL, "not in the document: %s", example);
  out->n = 0;
}

START_TEST(the_examples_of_the_document_are_true) {
  dv_buf out = buffer(), fields = buffer();
  document = read_document();

  const dv_value values[] = {null(), integer(-3), real(1.5), text("en"), blob("\0\xff", 2)};
  static const char *const value_examples[] = {"00", "01 05", "02 00 00 00 00 00 00 f8 3f", "03 02 65 6e",
                                               "04 02 00 ff"};
  for (size_t i = 0; i < 5; i++) {
    dv_value_write(&out, &values[i]);
    check_example(&out, value_examples[i]);
  }
  dv_field_write(&out, "lang", 4, &values[3]);
  check_example(&out, "04 6c 61 6e 67 03 02 65 6e");
  dv_numbered_write(&out, 2, &values[3]);
  check_example(&out, "02 03 02 65 6e");

  static const uint8_t scale[] = {0x66, 0x66, 0x66, 0x3f}, sparse[] = {1, 3, 0, 0, 0, 0x3f, 0, 0, 0x80, 0xbf};
  dv_frame f = {.delta = {DV_OP_SCALE, DV_ENC_SCALAR, scale, sizeof scale}};
  dv_frame_write(&out, &f);
  check_example(&out, "7a de 01 45 00 04 66 66 66 3f 74 9e 2e c7");
  dv_field_write(&fields, "lang", 4, &values[3]);
  f = (dv_frame){.flags = DV_FRAME_SEQ | DV_FRAME_ID | DV_FRAME_TIME | DV_FRAME_FIELDS,
                 .seq = 7,
                 .id = text("a"),
                 .time = 1750000000000};
  f.fields = fields.data;
  f.n_fields = fields.n;
  f.delta = (dv_delta){DV_OP_SPARSE, DV_ENC_SPARSE, sparse, sizeof sparse};
  dv_frame_write(&out, &f);
  check_example(&out, "7a de 01 21 0f 1e 07 03 01 61 80 f0 86 c2 ee 65 09 04 6c 61 6e 67 03 02 65 6e 01 03 00 00 00 3f "
                      "00 00 80 bf 2d 53 1c 6f");

  const dv_value dimensions = integer(384);
  fields.n = 0;
  dv_field_write(&fields, "dimensions", 10, &dimensions);
  f = (dv_frame){.flags = DV_FRAME_FIELDS | DV_FRAME_HEADER, .fields = fields.data, .n_fields = fields.n};
  dv_frame_write(&out, &f);
  check_example(&out, "7a de 01 00 28 0f 0e 0a 64 69 6d 65 6e 73 69 6f 6e 73 01 80 06 f7 36 06 24");

  dv_log_state state = {20, 1750000000000, 0};
  dv_record r = {.seq = 21, .link = 2, .vid = 1, .time = 1750000000005};
  r.delta = (dv_delta){DV_OP_SPARSE, DV_ENC_SPARSE, sparse, sizeof sparse};
  dv_record_write(&out, &r, &state);
  uint8_t seal[DV_SEAL_BYTES] = {DV_RECORD_SEAL};
  dv_store_u32(seal + 1, dv_crc32c(0, out.data, out.n));
  seal[5] = DV_RECORD_SEAL;
  check_example(&out, "0a 0d 01 02 0a 01 03 00 00 00 3f 00 00 80 bf");
  dv_buf_bytes(&out, seal, sizeof seal);
  check_example(&out, "07 07 12 e3 ed 07");

  static const uint8_t full[] = {0xcd, 0xcc, 0xcc, 0x3d, 0, 0, 0, 0xc0};
  fields.n = 0;
  dv_numbered_write(&fields, 2, &values[3]);
  r = (dv_record){.seq = 24, .link = 3, .vid = 300, .time = 1750000000004, .is_key = true, .extra = DV_RECORD_FIELDS};
  r.fields = fields.data;
  r.n_fields = fields.n;
  r.delta = (dv_delta){DV_OP_SCALE, DV_ENC_SCALAR, scale, sizeof scale};
  r.full = full;
  r.n_full = sizeof full;
  r.full_encoding = DV_ENC_DENSE;
  dv_record_write(&out, &r, &state);
  check_example(&out, "ec 03 19 ac 02 03 01 03 05 02 03 02 65 6e 04 66 66 66 3f 03 cd cc cc 3d 00 00 00 c0");
  free(document);
  dv_buf_free(&out);
  dv_buf_free(&fields);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("frame");
  TCase *tc = tcase_create("frame");
  tcase_set_timeout(tc, 0);
  tcase_add_test(tc, values_read_back);
  tcase_add_test(tc, values_of_no_type_are_refused);
  tcase_add_test(tc, fields_are_listed_in_order);
  tcase_add_test(tc, damaged_fields_end_the_list_and_say_so);
  tcase_add_test(tc, frames_read_back_from_a_batch);
  tcase_add_test(tc, fields_are_written_even_when_their_flag_was_forgotten);
  tcase_add_test(tc, every_truncation_and_changed_byte_of_a_frame_is_refused);
  tcase_add_test(tc, every_changed_byte_with_a_matching_checksum_is_refused_or_sound);
  tcase_add_test(tc, a_newer_version_is_told_from_damage);
  tcase_add_test(tc, a_length_beyond_the_bytes_or_2_to_the_31_is_refused);
  tcase_add_test(tc, headers_and_deltas_are_not_mixed);
  tcase_add_test(tc, an_id_is_an_integer_or_a_text_and_a_seq_fits_a_rowid);
  tcase_add_test(tc, lack_of_memory_is_reported);
  tcase_add_test(tc, records_read_back_from_a_log);
  tcase_add_test(tc, times_far_apart_do_not_overflow);
  tcase_add_test(tc, a_sparse_change_of_five_percent_takes_at_most_104_bytes);
  tcase_add_test(tc, writers_put_the_key_where_readers_want_it);
  tcase_add_test(tc, span_tells_the_end_seals_and_what_is_malformed);
  tcase_add_test(tc, record_rejects_what_the_grammar_does_not_give);
  tcase_add_test(tc, every_truncation_and_changed_byte_of_a_record_gives_a_status_or_a_sound_record);
  tcase_add_test(tc, the_examples_of_the_document_are_true);
  suite_add_tcase(suite, tc);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  const int n_failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return n_failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
