/*
 * check_import.c: an export that somebody has changed. Each change is of one frame or of the header, and written with
 * right checksums; delta_import refuses it, with words that say what is wrong, and nothing of it is imported.
 */
#include "support.h"

#include <math.h>

#include "dv_bytes.h"
#include "dv_frame.h"

#define COLUMNS "id TEXT PRIMARY KEY, v FLOAT[3], n INTEGER, price REAL, good BOOLEAN"
enum { N_FRAMES = 3 }; /* of the export: create a, sparse a, create b */

static sqlite3 *db;

static void setup(void) {
  sql_setup();
  db = sql_open(sql_path("test.db"));
  sql_run(db, "CREATE VIRTUAL TABLE docs USING delta_vectors(" COLUMNS ")");
  sql_run(db, "CREATE VIRTUAL TABLE copy USING delta_vectors(" COLUMNS ")");
  sql_run(db, "INSERT INTO docs(id, v, n, price, good, as_of) VALUES('a', '[1,2,3]', 5, 1.5, 1, 1000)");
  sql_run(db, "UPDATE docs SET delta = delta_sparse('[1]', '[9]'), as_of = 2000");
  sql_run(db, "INSERT INTO docs(id, v, as_of) VALUES('b', '[4,5,6]', 3000)");
}

static void teardown(void) {
  sql_close(db);
  sql_teardown();
}

static void *resize(void *ctx, void *p, size_t n_bytes) {
  (void)ctx;
  if (n_bytes) return realloc(p, n_bytes);
  free(p);
  return NULL;
}

static const dv_alloc alloc = {resize, NULL};
static dv_buf fields; /* what a change puts into a frame; kept until it is written */

static void add_field(const char *name, dv_value v) { dv_field_write(&fields, name, strlen(name), &v); }

static void set_fields(dv_frame *f) {
  f->flags |= DV_FRAME_FIELDS;
  f->fields = fields.data;
  f->n_fields = fields.n;
}

#define INTEGER(i) ((dv_value){.type = DV_INTEGER, .integer = (i)})
#define TEXT(z) ((dv_value){.type = DV_TEXT, .bytes = (const uint8_t *)(z), .n_bytes = strlen(z)})

/* ---- the changes ------------------------------------------------------------------------------------------------- */

static void no_seq(dv_frame *f) { f->flags &= ~(unsigned)DV_FRAME_SEQ; }
static void no_id(dv_frame *f) { f->flags &= ~(unsigned)DV_FRAME_ID; }
static void no_time(dv_frame *f) { f->flags &= ~(unsigned)DV_FRAME_TIME; }
static void same_seq(dv_frame *f) { f->seq--; }
static void late_seq(dv_frame *f) { f->seq = 1000; }
static void integer_id(dv_frame *f) { f->id = INTEGER(7); }
static void late_time(dv_frame *f) { f->time = INT64_C(1) << 60; }
static void early_time(dv_frame *f) { f->time = INT64_MIN; }
static void merged(dv_frame *f) { f->flags |= DV_FRAME_MERGED; }
static void second_header(dv_frame *f) {
  f->delta = (dv_delta){0};
  add_field("since", INTEGER(0));
  set_fields(f);
  f->flags = DV_FRAME_HEADER | DV_FRAME_FIELDS;
}

static void unknown_column(dv_frame *f) {
  add_field("nobody", INTEGER(1));
  set_fields(f);
}
static void column_twice(dv_frame *f) {
  add_field("n", INTEGER(1));
  add_field("N", INTEGER(2));
  set_fields(f);
}
static void text_for_integer(dv_frame *f) {
  add_field("n", TEXT("five"));
  set_fields(f);
}
static void two_for_boolean(dv_frame *f) {
  add_field("good", INTEGER(2));
  set_fields(f);
}
static void text_for_real(dv_frame *f) {
  add_field("price", TEXT("1.5"));
  set_fields(f);
}
static void infinite_real_is_taken(dv_frame *f) {
  add_field("price", (dv_value){.type = DV_REAL, .real = INFINITY});
  set_fields(f);
}
static void integer_for_real_is_taken(dv_frame *f) {
  add_field("price", INTEGER(3));
  set_fields(f);
}
static void cut_fields(dv_frame *f) {
  add_field("n", TEXT("a text that is cut off"));
  set_fields(f);
  f->n_fields -= 3;
}

static const uint8_t short_vector[8], good_vector[12], nan_vector[12] = {0, 0, 0xc0, 0x7f},
                                                       far_index[6] = {200, 1, 0, 0, 0, 0};
static void short_delta(dv_frame *f) { f->delta = (dv_delta){DV_OP_DENSE, DV_ENC_DENSE, short_vector, 8}; }
static void nan_delta(dv_frame *f) { f->delta = (dv_delta){DV_OP_DENSE, DV_ENC_DENSE, nan_vector, 12}; }
static void far_delta(dv_frame *f) { f->delta = (dv_delta){DV_OP_SPARSE, DV_ENC_SPARSE, far_index, 6}; }
static void odd_delta(dv_frame *f) { f->delta = (dv_delta){DV_OP_SPARSE, DV_ENC_SPARSE, far_index, 3}; }
static void create_again(dv_frame *f) {
  f->delta.op = DV_OP_CREATE, f->delta.encoding = DV_ENC_DENSE, f->delta.payload = good_vector, f->delta.n_payload = 12;
}

static void set_header(dv_frame *f, const char *uuid, dv_value dimensions, int64_t since, int64_t last) {
  add_field("uuid", TEXT(uuid));
  add_field("dimensions", dimensions);
  add_field("since", INTEGER(since));
  add_field("last", INTEGER(last));
  set_fields(f);
}
static void header_of_text(dv_frame *f) { set_header(f, "0123456789abcdef", TEXT("3"), 0, 3); }
static void header_of_bad_uuid(dv_frame *f) { set_header(f, "0123456789ABCDEF", INTEGER(3), 0, 3); }
static void header_backwards(dv_frame *f) { set_header(f, "0123456789abcdef", INTEGER(3), 4, 3); }
static void header_of_others(dv_frame *f) { set_header(f, "0123456789abcdef", INTEGER(4), 0, 3); }
static void header_negative(dv_frame *f) { set_header(f, "0123456789abcdef", INTEGER(3), INT64_MIN, INT64_MAX); }
static void header_cut(dv_frame *f) { f->n_fields -= 2; }
static void no_header(dv_frame *f) { f->flags = DV_FRAME_SEQ; }
static void nothing(dv_frame *f) { (void)f; }
static void json5_metadata(dv_frame *f) {
  add_field("metadata", TEXT("{a: 1}"));
  set_fields(f);
}

static const struct {
  const char *name;
  int frame; /* 0 is the header */
  void (*edit)(dv_frame *f);
  const char *words; /* NULL: it is taken */
} changes[] = {
    {"nothing", 0, nothing, NULL},
    {"no seq", 2, no_seq, "frame 3 (row 'a'): it has no seq, id or time"},
    {"no id", 2, no_id, "frame 3: it has no seq, id or time"},
    {"no time", 2, no_time, "it has no seq, id or time"},
    {"the seq of the frame before", 2, same_seq, "its seq is not behind the frame before it"},
    {"a seq behind the end", 3, late_seq, "or lies outside the export"},
    {"an id of another type", 1, integer_id, "frame 2 (row 7): the ids of this table are TEXT"},
    {"a time that is too late", 3, late_time, "its time is out of range"},
    {"a time that is too early", 3, early_time, "its time is out of range"},
    {"a sparse delta that is merged", 2, merged, "a merged state must be a create"},
    {"a second header", 2, second_header, "a second header"},
    {"a column that is not there", 2, unknown_column, "row 'a': the table has no column nobody"},
    {"a column twice", 2, column_twice, "row 'a': column n is given twice"},
    {"a text for an INTEGER", 2, text_for_integer, "'five' is no value for column n"},
    {"two for a BOOLEAN", 2, two_for_boolean, "2 is no value for column good"},
    {"a text for a REAL", 2, text_for_real, "'1.5' is no value for column price"},
    {"an infinite REAL", 2, infinite_real_is_taken, NULL},
    {"an INTEGER for a REAL", 2, integer_for_real_is_taken, NULL},
    {"metadata cut off", 2, cut_fields, "row 'a': the metadata of its delta is malformed"},
    {"too few dimensions", 2, short_delta, "frame 3 (row 'a') has 2 dimensions, expected 3"},
    {"a vector with NaN", 2, nan_delta, "a value is NaN or infinite"},
    {"an index that is too large", 2, far_delta, "frame 3 (row 'a')"},
    {"a payload of no length", 2, odd_delta, "frame 3 (row 'a'): its delta is malformed"},
    {"a create of a row that is there", 2, create_again, "row 'a' exists already"},
    {"a header with a text for a number", 0, header_of_text, "lacks a valid uuid, dimensions, since or last"},
    {"a header with another uuid", 0, header_of_bad_uuid, "lacks a valid uuid, dimensions, since or last"},
    {"a header that ends before it begins", 0, header_backwards, "lacks a valid uuid, dimensions, since or last"},
    {"a header of other vectors", 0, header_of_others, "the export has 4 dimensions, expected 3"},
    {"a header of impossible numbers", 0, header_negative, "lacks a valid uuid, dimensions, since or last"},
    {"a header cut off", 0, header_cut, ""},
    {"no header", 0, no_header, "the BLOB is not what delta_export returns"},
    {"no change of a short form", 0, nothing, NULL},
    {"metadata in JSON5", 3, json5_metadata, "row 'b': metadata is "}, /* "no JSON object" to an older SQLite */
};
enum { N_CHANGES = sizeof changes / sizeof changes[0], FIRST_SHORT = N_CHANGES - 2 /* of tables in the short form */ };

/* The export, with one frame changed. */
static void make_export(int i, dv_buf *out) {
  sqlite3_stmt *stmt = sql_prepare(db, "SELECT delta_export('docs')");
  ck_assert_int_eq(sqlite3_step(stmt), SQLITE_ROW);
  dv_reader r = dv_reader_of(sqlite3_column_blob(stmt, 0), (size_t)sqlite3_column_bytes(stmt, 0));
  dv_frame f;
  int n = 0;
  for (; dv_reader_left(&r) > 0; n++) {
    ck_assert_int_eq(dv_frame_read(&r, &f, NULL), DV_OK);
    if (n == changes[i].frame) changes[i].edit(&f);
    dv_frame_write(out, &f);
  }
  ck_assert_int_eq(n, 1 + N_FRAMES);
  sqlite3_finalize(stmt);
}

START_TEST(changed_export_is_refused_whole) {
  dv_buf bytes;
  dv_buf_init(&fields, &alloc);
  dv_buf_init(&bytes, &alloc);
  if (_i >= FIRST_SHORT) {
    sql_run(db, "DROP TABLE docs; DROP TABLE copy; CREATE VIRTUAL TABLE docs USING delta_vectors(dimensions=3); "
                "CREATE VIRTUAL TABLE copy USING delta_vectors(dimensions=3)");
    sql_run(db, "INSERT INTO docs(id, vector) VALUES('a', '[1,2,3]'); UPDATE docs SET delta = delta_scale(2); "
                "INSERT INTO docs(id, vector) VALUES('b', '[4,5,6]')");
  }
  make_export(_i, &bytes);
  sqlite3_stmt *stmt = sql_prepare(db, "SELECT delta_import('copy', ?1)");
  sqlite3_bind_blob(stmt, 1, bytes.data, (int)bytes.n, SQLITE_STATIC);
  bool is_taken = sqlite3_step(stmt) == SQLITE_ROW;
  const char *message = sqlite3_errmsg(db), *words = changes[_i].words;
  ck_assert_msg(is_taken == (words == NULL), "%s: %s", changes[_i].name, is_taken ? "it was taken" : message);
  ck_assert_msg(!words || strstr(message, words), "%s: '%s', expected '%s'", changes[_i].name, message, words);
  sqlite3_finalize(stmt);
  sql_is(db, is_taken ? "2 3" : "0 0", "SELECT count(*) || ' ' || (SELECT count(*) FROM delta_log('copy')) FROM copy");
  sql_is(db, is_taken ? "1" : "0", "SELECT count(*) FROM copy_meta WHERE key LIKE 'import:%%'");
  sql_sound_at(__LINE__, db, "main", "copy");
  dv_buf_free(&bytes);
  dv_buf_free(&fields);
}
END_TEST

int main(int argc, char **argv) {
  Suite *suite = suite_create("import");
  TCase *t = tcase_create("default");
  tcase_add_checked_fixture(t, setup, teardown);
  tcase_add_loop_test(t, changed_export_is_refused_whole, 0, N_CHANGES);
  suite_add_tcase(suite, t);
  return sql_main(suite, argc, argv);
}
