/*
 * check_api.c: the typed calls say what SQL says, keep nothing, give all back, and refuse with a code and a message.
 */
#include "vtab/support.h"

#include "delta_vectors.h"

#include <math.h>

static dvec_db *db;

static void use(void) {
  sql_setup();
  ck_assert_int_eq(dvec_open(sql_path("test.db"), NULL, &db), DVEC_OK);
}

static void leave(void) {
  ck_assert_int_eq(dvec_close(db), DVEC_OK);
  sql_teardown();
}

#define ok(call) ck_assert_msg((call) == DVEC_OK, "%s: %s", #call, dvec_message(db))
#define refused(code, part, call)                                                                                      \
  do {                                                                                                                 \
    int got = (call);                                                                                                  \
    ck_assert_msg(got == (code), "%s: %d, expected %d: %s", #call, got, (int)(code), dvec_message(db));                \
    ck_assert_msg(strstr(dvec_message(db), part) != NULL, "%s: '%s'", #call, dvec_message(db));                        \
  } while (0)

static dvec_delta delta_of(int operation, const char *id) {
  dvec_delta d;
  memset(&d, 0, sizeof d);
  d.size = sizeof d;
  d.operation = operation;
  d.id = dvec_id_text(id);
  return d;
}

static dvec_delta dense(int operation, const char *id, const float *values, size_t n) {
  dvec_delta d = delta_of(operation, id);
  d.values = values;
  d.n = n;
  return d;
}

static void create_docs(uint32_t dimensions) {
  dvec_table_options o = {.size = sizeof o, .dimensions = dimensions, .metric = "l2"};
  ok(dvec_create_table(db, "docs", &o));
}

static void create_rows(int n) { /* row rI at [I, 0, 0] */
  for (int i = 0; i < n; i++) {
    char id[16];
    float v[3] = {(float)i, 0, 0};
    snprintf(id, sizeof id, "r%d", i);
    dvec_delta d = dense(DVEC_CREATE, id, v, 3);
    ok(dvec_apply(db, "docs", &d, NULL));
  }
}

START_TEST(every_operation_does_what_sql_does) {
  create_docs(3);
  float v[3] = {1, 2, 3}, w[3] = {4, 5, 6}, out[3];
  uint32_t indices[2] = {2, 0};
  float values[2] = {30, 10};
  int64_t seq = 0;
  dvec_id a = dvec_id_text("a");
  dvec_delta d = dense(DVEC_CREATE, "a", v, 3);
  d.time = 1000;
  d.metadata = "{\"lang\":\"en\"}";
  d.n_metadata = -1;
  ok(dvec_apply(db, "docs", &d, &seq));
  ck_assert_int_eq(seq, 1);
  d = delta_of(DVEC_SPARSE, "a");
  d.indices = indices, d.values = values, d.n = 2, d.time = 2000;
  ok(dvec_apply(db, "docs", &d, &seq));
  d = delta_of(DVEC_SCALE, "a");
  d.amount = 2, d.time = 3000;
  ok(dvec_apply(db, "docs", &d, &seq));
  d = delta_of(DVEC_OFFSET, "a");
  d.amount = 0.5, d.time = 4000;
  ok(dvec_apply(db, "docs", &d, &seq));
  ok(dvec_get(db, "docs", &a, out, 3));
  ck_assert(out[0] == 20.5f && out[1] == 4.5f && out[2] == 60.5f);
  ok(dvec_get_at(db, "docs", &a, 2500, out, 3));
  ck_assert(out[0] == 10 && out[1] == 2 && out[2] == 30);
  d = dense(DVEC_DENSE, "a", w, 3);
  d.time = 5000;
  ok(dvec_apply(db, "docs", &d, &seq));
  ck_assert_int_eq(seq, 5);
  d = delta_of(DVEC_DELETE, "a");
  d.time = 6000;
  ok(dvec_apply(db, "docs", &d, &seq));
  ck_assert_int_eq(dvec_get(db, "docs", &a, out, 3), DVEC_NOTFOUND);
  ck_assert_str_eq(dvec_message(db), "");
  sql_is(dvec_sqlite(db),
         "1|create|{\"lang\":\"en\"} 2|sparse|NULL 3|scale|NULL 4|offset|NULL 5|dense|NULL 6|delete|NULL",
         "SELECT seq, operation, metadata FROM delta_chain('docs', 'a')");
  int64_t new_seq = 0;
  refused(DVEC_ERROR, "seq is -1", dvec_rollback(db, "docs", &a, -1, &new_seq));
  ok(dvec_rollback(db, "docs", &a, 2, &new_seq));
  ck_assert_int_eq(new_seq, 7);
  ok(dvec_get(db, "docs", &a, out, 3));
  ck_assert(out[0] == 10 && out[1] == 2 && out[2] == 30);
  /* A create where the row exists fails, or replaces if it is told so. */
  d = dense(DVEC_CREATE, "a", v, 3);
  refused(DVEC_CONSTRAINT, "row 'a' exists already", dvec_apply(db, "docs", &d, &seq));
  d.or_replace = 1;
  ok(dvec_apply(db, "docs", &d, &seq));
  ok(dvec_get(db, "docs", &a, out, 3));
  ck_assert(out[0] == 1);
}
END_TEST

START_TEST(time_0_is_a_time_if_it_is_said_so) {
  create_docs(3);
  float v[3] = {1, 2, 3};
  dvec_delta d[2] = {dense(DVEC_CREATE, "a", v, 3), dense(DVEC_CREATE, "b", v, 3)};
  d[0].has_time = 1;
  ok(dvec_apply_many(db, "docs", d, 2, NULL, NULL, NULL));
  sql_is(dvec_sqlite(db), "a|1 b|0", "SELECT id, timestamp = 0 FROM delta_log('docs')");
}
END_TEST

START_TEST(many_are_applied_or_none) {
  create_docs(3);
  float v[3] = {1, 2, 3};
  uint32_t twice[2] = {1, 1};
  int64_t first = 0, last = 0;
  size_t n_good = 0;
  dvec_delta d[3] = {dense(DVEC_CREATE, "a", v, 3), dense(DVEC_CREATE, "b", v, 3), dense(DVEC_CREATE, "c", v, 3)};
  ok(dvec_apply_many(db, "docs", d, 3, &first, &last, &n_good));
  ck_assert(first == 1 && last == 3 && n_good == 3);
  d[0] = delta_of(DVEC_SCALE, "a"), d[0].amount = 2;
  d[1] = delta_of(DVEC_SCALE, "nobody"), d[1].amount = 2;
  refused(DVEC_ERROR, "row 'nobody' does not exist", dvec_apply_many(db, "docs", d, 2, &first, &last, &n_good));
  ck_assert_uint_eq(n_good, 2);
  d[1] = delta_of(DVEC_SPARSE, "b"), d[1].indices = twice, d[1].values = v, d[1].n = 2;
  refused(DVEC_ERROR, "row 'b': index 1 is given twice", dvec_apply_many(db, "docs", d, 2, &first, &last, &n_good));
  ck_assert_uint_eq(n_good, 1);
  v[1] = NAN;
  d[1] = dense(DVEC_DENSE, "b", v, 3);
  refused(DVEC_ERROR, "row 'b': value 1 is not finite", dvec_apply_many(db, "docs", d, 2, &first, &last, &n_good));
  ck_assert(first == 1 && last == 3); /* not written */
  sql_is(dvec_sqlite(db), "3", "SELECT max(seq) FROM delta_log('docs')");
  ok(dvec_apply_many(db, "docs", NULL, 0, &first, &last, NULL));
  ck_assert(first == 0 && last == 0);
}
END_TEST

/* What an older or a newer program hands in. */
START_TEST(structures_grow_at_their_end) {
  create_docs(3);
  float v[3] = {1, 2, 3};
  struct newer {
    dvec_delta d;
    int64_t more;
  } n[2] = {{dense(DVEC_CREATE, "a", v, 3), 0}, {dense(DVEC_CREATE, "b", v, 3), 0}};
  n[0].d.size = n[1].d.size = sizeof n[0];
  ok(dvec_apply_many(db, "docs", &n[0].d, 2, NULL, NULL, NULL));
  n[0].more = 1;
  refused(DVEC_MISUSE, "does not know", dvec_apply(db, "docs", &n[0].d, NULL));
  dvec_search_options older = {.size = offsetof(dvec_search_options, ef), .k = 1};
  older.filter = "this is behind what an older program has";
  dvec_hits *hits = NULL;
  ok(dvec_search(db, "docs", v, 3, &older, &hits));
  ck_assert_uint_eq(dvec_hits_count(hits), 1);
  dvec_hits_free(hits);
  older.size = 0;
  refused(DVEC_MISUSE, "dvec_search_options", dvec_search(db, "docs", v, 3, &older, &hits));
  int64_t rows = 7;
  ok(dvec_status(db, "docs", (dvec_status_result *)(void *)&rows, sizeof rows));
  ck_assert_int_eq(rows, 2);
}
END_TEST

static void hits_are(const char *expected, const float *query, const dvec_search_options *o, const char *table) {
  dvec_hits *hits = NULL;
  char text[512] = "";
  ok(dvec_search(db, table, query, 3, o, &hits));
  for (size_t i = 0; i < dvec_hits_count(hits); i++) {
    const dvec_hit *h = dvec_hits_at(hits, i);
    size_t n = strlen(text);
    if (h->id.text)
      snprintf(text + n, sizeof text - n, "%s%s=%g", i ? " " : "", h->id.text, h->distance);
    else
      snprintf(text + n, sizeof text - n, "%s%lld=%g", i ? " " : "", (long long)h->id.integer, h->distance);
  }
  ck_assert_ptr_null(dvec_hits_at(hits, dvec_hits_count(hits)));
  dvec_hits_free(hits);
  ck_assert_str_eq(text, expected);
}

START_TEST(searches_with_options) {
  float q[3] = {0, 0, 0};
  create_docs(3);
  create_rows(20);
  dvec_search_options o = {.size = sizeof o, .k = 3};
  hits_are("r0=0 r1=1 r2=2", q, &o, "docs");
  hits_are("r0=0 r1=1 r2=2", q, &o, "main.docs");
  o.has_max_distance = 1, o.max_distance = 1.5, o.exact = 1;
  hits_are("r0=0 r1=1", q, &o, "docs");
  o = (dvec_search_options){.size = sizeof o, .k = 2, .ef = 20, .recall_target = 0.95};
  hits_are("r0=0 r1=1", q, &o, "docs");
  o = (dvec_search_options){.size = sizeof o, .k = 2, .has_as_of = 1, .as_of = 1000};
  hits_are("", q, &o, "docs");
  dvec_hits *hits = NULL;
  ok(dvec_search(db, "docs", q, 3, NULL, &hits));
  ck_assert_uint_eq(dvec_hits_count(hits), 10);
  dvec_hits_free(hits);
  o = (dvec_search_options){.size = sizeof o, .k = -1};
  refused(DVEC_ERROR, "k is -1", dvec_search(db, "docs", q, 3, &o, &hits));
  refused(DVEC_ERROR, "vector has 2 dimensions, expected 3", dvec_search(db, "docs", q, 2, NULL, &hits));
  refused(DVEC_ERROR, "no such table: nowhere", dvec_search(db, "nowhere", q, 3, NULL, &hits));
}
END_TEST

START_TEST(filters_take_values) {
  float q[3] = {0, 0, 0};
  dvec_table_options t = {.size = sizeof t, .dimensions = 3, .metric = "l2"};
  t.columns = "number INTEGER PRIMARY KEY, genre TEXT, price REAL";
  t.arguments = "retention='2 versions'";
  ok(dvec_create_table(db, "items", &t));
  refused(DVEC_ERROR, "already exists", dvec_create_table(db, "items", &t));
  t.if_not_exists = 1;
  ok(dvec_create_table(db, "items", &t));
  for (int i = 1; i <= 30; i++) {
    float v[3] = {(float)i, 0, 0};
    char metadata[64];
    dvec_delta d = dense(DVEC_CREATE, NULL, v, 3);
    d.id = dvec_id_integer(i);
    snprintf(metadata, sizeof metadata, "{\"genre\":\"%s\",\"price\":%d.5}", i % 2 ? "crime" : "drama", i);
    d.metadata = metadata, d.n_metadata = -1;
    ok(dvec_apply(db, "items", &d, NULL));
  }
  dvec_value values[2] = {{.type = DVEC_TEXT, .bytes = "crime", .n_bytes = -1}, {.type = DVEC_REAL, .real = 10}};
  dvec_search_options o = {
      .size = sizeof o, .k = 3, .filter = "genre = ? AND price > ?", .values = values, .n_values = 2};
  hits_are("11=11 13=13 15=15", q, &o, "items");
  values[1].real = 20; /* the statement is kept, the values are not */
  hits_are("21=21 23=23 25=25", q, &o, "items");
  hits_are("21=21 23=23 25=25", q, &o, "main.items");
  o.filter = "genre = ? AND price < 2 OR price > ? -- what only SQLite can test; k rows come all the same";
  hits_are("1=1 20=20 21=21", q, &o, "items");
  o.has_max_distance = 1, o.max_distance = 20;
  hits_are("1=1 20=20", q, &o, "items");
  dvec_hits *hits = NULL;
  o.n_values = 1;
  refused(DVEC_MISUSE, "2 parameters, 1 values", dvec_search(db, "items", q, 3, &o, &hits));
  o.filter = "nonsense = ?";
  refused(DVEC_ERROR, "no such column", dvec_search(db, "items", q, 3, &o, &hits));
  o.filter = "price > ?) OR (1";
  o.n_values = 1;
  (void)dvec_search(db, "items", q, 3, &o, &hits); /* the filter is the program's own text: only no leak, no crash */
  dvec_hits_free(hits);
}
END_TEST

/* It was the rowid, where the id is a text. */
START_TEST(a_filtered_search_gives_ids) {
  float q[3] = {0, 0, 0};
  create_docs(3);
  create_rows(20);
  dvec_search_options o = {.size = sizeof o, .k = 2, .filter = "id <> 'r1'"};
  hits_are("r0=0 r2=2", q, &o, "docs");
  dvec_table_options t = {
      .size = sizeof t, .dimensions = 3, .metric = "l2", .columns = "genre TEXT, \"the \"\"name\" TEXT PRIMARY KEY"};
  ok(dvec_create_table(db, "named", &t));
  dvec_delta d = dense(DVEC_CREATE, "x", q, 3);
  ok(dvec_apply(db, "named", &d, NULL));
  o.filter = "genre IS NULL";
  hits_are("x=0", q, &o, "named");
  t.columns = "genre TEXT";
  ok(dvec_create_table(db, "numbered", &t));
  d = dense(DVEC_CREATE, NULL, q, 3);
  d.id = dvec_id_integer(7);
  ok(dvec_apply(db, "numbered", &d, NULL));
  hits_are("7=0", q, &o, "numbered");
  dvec_hits *hits = NULL;
  refused(DVEC_ERROR, "no such table: nowhere", dvec_search(db, "nowhere", q, 3, &o, &hits));
}
END_TEST

/* The statement is kept, but not the column of the id, if the table has been made anew with another. */
START_TEST(a_filtered_search_in_a_table_made_anew) {
  static const char *const columns[] = {"id TEXT PRIMARY KEY, a TEXT", "number INTEGER PRIMARY KEY, a TEXT",
                                        "key INTEGER PRIMARY KEY, id TEXT, number INTEGER"};
  static const char *const found[] = {"seven=0", "7=0", "7=0"};
  float v[3] = {1, 2, 3};
  dvec_search_options o = {.size = sizeof o, .filter = "true"};
  for (int i = 0; i < 6; i++) {
    dvec_table_options t = {.size = sizeof t, .dimensions = 3, .metric = "l2", .columns = columns[i % 3]};
    /* Where "id" is never a text, the kept statement fails. */
    if (i == 3) sqlite3_db_config(dvec_sqlite(db), SQLITE_DBCONFIG_DQS_DML, 0, NULL);
    ok(dvec_create_table(db, "docs", &t));
    dvec_delta d = dense(DVEC_CREATE, "seven", v, 3);
    if (i % 3) d.id = dvec_id_integer(7);
    ok(dvec_apply(db, "docs", &d, NULL));
    hits_are(found[i % 3], v, &o, "docs");
    hits_are(found[i % 3], v, &o, "main.docs");
    hits_are(found[i % 3], v, &o, "docs");
    sql_run(dvec_sqlite(db), "DROP TABLE docs");
    dvec_hits *hits = NULL;
    refused(DVEC_ERROR, "no such", dvec_search(db, "docs", v, 3, &o, &hits));
  }
}
END_TEST

START_TEST(a_borrowed_vector_is_that_of_now) {
  create_docs(3);
  create_rows(3);
  const float *v = NULL;
  size_t n = 0;
  dvec_id id = dvec_id_text("r2"), nobody = dvec_id_text("nobody"), number = dvec_id_integer(1);
  ok(dvec_borrow(db, "docs", &id, &v, &n));
  ck_assert(n == 3 && v[0] == 2 && v[1] == 0);
  ck_assert_int_eq(dvec_borrow(db, "docs", &nobody, &v, &n), DVEC_NOTFOUND);
  ck_assert_int_eq(dvec_borrow(db, "docs", &number, &v, &n), DVEC_NOTFOUND);
  refused(DVEC_ERROR, "no such table", dvec_borrow(db, "nowhere", &id, &v, &n));
  sql_run(dvec_sqlite(db), "BEGIN");
  dvec_delta d = delta_of(DVEC_SCALE, "r2");
  d.amount = 3;
  ok(dvec_apply(db, "docs", &d, NULL));
  ok(dvec_borrow(db, "docs", &id, &v, &n));
  ck_assert(v[0] == 6);
  sql_run(dvec_sqlite(db), "ROLLBACK");
  ok(dvec_borrow(db, "docs", &id, &v, &n));
  ck_assert(v[0] == 2);
  /* What another connection has committed is seen. */
  sqlite3 *other = sql_open(sqlite3_db_filename(dvec_sqlite(db), "main"));
  sql_run(other, "SELECT delta_apply('docs', 'r2', delta_offset(1))");
  sql_close(other);
  ok(dvec_borrow(db, "docs", &id, &v, &n));
  ck_assert(v[0] == 3 && v[1] == 1);
}
END_TEST

static sqlite3 *replacer;
static int replace_at; /* the n-th statement from now; 0: none */

static int replace_table(unsigned what, void *user, void *statement, void *text) {
  (void)what, (void)user, (void)statement, (void)text;
  if (replace_at > 0 && --replace_at == 0) {
    sql_run(replacer, "DROP TABLE docs; CREATE VIRTUAL TABLE docs USING delta_vectors(dimensions=4000);"
                      "INSERT INTO docs(id, vector) VALUES('r1', zeroblob(16000))");
  }
  return 0;
}

/* The number of dimensions is that of the vector, even if another connection replaces the table in the middle. */
START_TEST(a_borrowed_vector_has_its_own_dimensions) {
  sql_run(dvec_sqlite(db), "PRAGMA journal_mode=WAL");
  replacer = sql_open(sqlite3_db_filename(dvec_sqlite(db), "main"));
  const float *v = NULL;
  dvec_id id = dvec_id_text("r1");
  for (int at = 1; at <= 16; at++) {
    size_t n = 0;
    sql_run(replacer, "DROP TABLE IF EXISTS docs");
    create_docs(3);
    create_rows(2);
    ok(dvec_borrow(db, "docs", &id, &v, &n));
    sqlite3_trace_v2(dvec_sqlite(db), SQLITE_TRACE_STMT, replace_table, NULL);
    replace_at = at;
    ok(dvec_borrow(db, "docs", &id, &v, &n));
    replace_at = 0;
    sqlite3_trace_v2(dvec_sqlite(db), 0, NULL, NULL);
    ck_assert_msg(n == (v[0] == 1 ? 3 : 4000), "at %d: %zu dimensions of a vector that begins with %g", at, n, v[0]);
  }
  sql_close(replacer);
}
END_TEST

/* Two copies of the extension in one process: the connection's is not ours, so its memory is not touched. */
START_TEST(attaches_where_the_loadable_is_loaded) {
  sqlite3_reset_auto_extension();
  create_docs(3);
  create_rows(3);
  sqlite3 *host = NULL;
  dvec_db *second = NULL, *third = NULL;
  ck_assert_int_eq(sqlite3_open(sqlite3_db_filename(dvec_sqlite(db), "main"), &host), SQLITE_OK);
  sqlite3_enable_load_extension(host, 1);
  int rc = sqlite3_load_extension(host, DV_LOADABLE_PATH, NULL, NULL);
  ck_assert_msg(rc == SQLITE_OK, "%s", sqlite3_errmsg(host));
  ck_assert_int_eq(dvec_attach(host, &second), DVEC_OK);
  ck_assert_int_eq(dvec_attach(host, &third), DVEC_OK);
  const float *v = NULL;
  size_t n = 0;
  dvec_id id = dvec_id_text("r2");
  ck_assert_int_eq(dvec_borrow(second, "docs", &id, &v, &n), DVEC_OK);
  ck_assert(n == 3 && v[0] == 2);
  ck_assert_int_eq(dvec_close(third), DVEC_OK);
  ck_assert_int_eq(dvec_close(second), DVEC_OK);
  sql_is(host, "3", "SELECT count(*) FROM docs"); /* the caller's connection stays */
  sql_close(host);
}
END_TEST

START_TEST(chains_and_the_log_are_walked) {
  create_docs(3);
  create_rows(2);
  dvec_delta d = delta_of(DVEC_SCALE, "r1");
  d.amount = 4, d.metadata = "{\"a\":1}", d.n_metadata = -1;
  ok(dvec_apply(db, "docs", &d, NULL));
  dvec_id id = dvec_id_text("r1");
  dvec_cursor *cursor = NULL;
  const dvec_change *c = NULL;
  float v[3] = {0};
  ok(dvec_chain(db, "docs", &id, &cursor));
  refused(DVEC_BUSY, "a cursor is open: close it first", dvec_close(db));
  ok(dvec_cursor_next(cursor, &c));
  ck_assert(c->seq == 2 && c->operation == DVEC_CREATE && c->is_checkpoint == 1 && c->metadata == NULL);
  ck_assert_str_eq(c->id.text, "r1");
  ok(dvec_patch(db, c->delta, c->n_delta, v, 3));
  ck_assert(v[0] == 1);
  ok(dvec_cursor_next(cursor, &c));
  ck_assert(c->seq == 3 && c->operation == DVEC_SCALE && c->is_checkpoint == 0);
  ck_assert_str_eq(c->metadata, "{\"a\":1}");
  ok(dvec_patch(db, c->delta, c->n_delta, v, 3));
  ck_assert(v[0] == 4);
  ok(dvec_cursor_next(cursor, &c));
  ck_assert_ptr_null(c);
  ok(dvec_cursor_next(cursor, &c));
  ck_assert_ptr_null(c);
  dvec_cursor_close(cursor);
  ok(dvec_log(db, "docs", 1, &cursor));
  int64_t expected = 2;
  for (ok(dvec_cursor_next(cursor, &c)); c; ok(dvec_cursor_next(cursor, &c))) ck_assert_int_eq(c->seq, expected++);
  ck_assert_int_eq(expected, 4);
  dvec_cursor_close(cursor);
  dvec_cursor *other = NULL;
  ok(dvec_log(db, "docs", 0, &other));
  ok(dvec_log(db, "nowhere", 0, &cursor));
  refused(DVEC_BUSY, "2 cursors are open: close them first", dvec_close(db));
  refused(DVEC_ERROR, "no such table", dvec_cursor_next(cursor, &c));
  dvec_cursor_close(cursor);
  dvec_cursor_close(other);
  refused(DVEC_ERROR, "not a delta", dvec_patch(db, "x", 1, v, 3));
  ck_assert(v[0] == 4);
}
END_TEST

static int interrupt(void *countdown) { return (*(int *)countdown)-- == 0; }

/* SQLite would begin the statement anew, and with it the rows. */
START_TEST(a_cursor_that_failed_stays_failed) {
  create_docs(3);
  create_rows(300);
  const dvec_change *change = NULL, *last = NULL;
  dvec_cursor *cursor = NULL;
  int countdown = -1;
  ok(dvec_log(db, "docs", 0, &cursor));
  for (int i = 1; i <= 5; i++) {
    ok(dvec_cursor_next(cursor, &change));
    ck_assert_int_eq(change->seq, i);
  }
  countdown = 0;
  sqlite3_progress_handler(dvec_sqlite(db), 1, interrupt, &countdown);
  last = change;
  refused(DVEC_INTERRUPT, "interrupted", dvec_cursor_next(cursor, &change));
  ck_assert_ptr_eq(change, last); /* not written */
  sqlite3_progress_handler(dvec_sqlite(db), 0, NULL, NULL);
  refused(DVEC_INTERRUPT, "the cursor has failed", dvec_cursor_next(cursor, &change));
  ck_assert_int_eq(sqlite3_txn_state(dvec_sqlite(db), "main"), SQLITE_TXN_NONE);
  dvec_cursor_close(cursor);
}
END_TEST

START_TEST(compacts_exports_imports_and_reports) {
  create_docs(3);
  create_rows(5);
  dvec_delta d = delta_of(DVEC_SCALE, "r4");
  d.amount = 2;
  for (int i = 0; i < 5; i++) ok(dvec_apply(db, "docs", &d, NULL));
  void *bytes = NULL;
  size_t n_bytes = 0;
  ok(dvec_export(db, "docs", 0, &bytes, &n_bytes));
  dvec_db *other = NULL;
  ck_assert_int_eq(dvec_open(sql_path("other.db"), NULL, &other), DVEC_OK);
  dvec_table_options t = {.size = sizeof t, .dimensions = 3, .metric = "l2"};
  ck_assert_int_eq(dvec_create_table(other, "copy", &t), DVEC_OK);
  int64_t applied = 0, skipped = 0, last = 0;
  ck_assert_int_eq(dvec_import(other, "copy", bytes, n_bytes, &applied, &skipped, &last), DVEC_OK);
  ck_assert(applied == 10 && skipped == 0 && last == 10);
  ck_assert_int_eq(dvec_import(other, "copy", bytes, n_bytes, &applied, &skipped, &last), DVEC_OK);
  ck_assert(applied == 0 && skipped == 10);
  ck_assert_int_eq(dvec_import(other, "copy", "junk", 4, &applied, &skipped, &last), DVEC_ERROR);
  float v[3];
  dvec_id id = dvec_id_text("r4");
  ck_assert_int_eq(dvec_get(other, "copy", &id, v, 3), DVEC_OK);
  ck_assert(v[0] == 128);
  ck_assert_int_eq(dvec_close(other), DVEC_OK);
  dvec_free(bytes);
  dvec_compact_result r;
  ok(dvec_compact(db, "docs", "2 versions", &r, sizeof r));
  ck_assert(r.rows == 1 && r.deltas_before == 10 && r.deltas_after == 6);
  refused(DVEC_ERROR, "keep", dvec_compact(db, "docs", "some", &r, sizeof r));
  ok(dvec_compact(db, "docs", NULL, NULL, 0));
  ok(dvec_optimize(db, "main.docs"));
  dvec_status_result s;
  ok(dvec_status(db, "docs", &s, sizeof s));
  ck_assert(s.rows == 5 && s.deltas == 6 && s.last_seq == 10 && s.dimensions == 3 && s.fresh == 0);
  ck_assert(s.recall_estimate == -1);
  sql_run(dvec_sqlite(db), "SELECT delta_recall('docs')");
  ok(dvec_status(db, "docs", &s, sizeof s));
  ck_assert(s.recall_estimate == 1);
  char *json = NULL;
  ok(dvec_status_json(db, "docs", &json));
  ck_assert_ptr_nonnull(strstr(json, "\"uuid\""));
  dvec_free(json);
}
END_TEST

START_TEST(refuses_with_a_code_and_a_message) {
  dvec_db *bad = NULL;
  ck_assert_int_eq(dvec_open("/nowhere/at/all.db", NULL, &bad), 14); /* SQLITE_CANTOPEN */
  ck_assert_ptr_nonnull(strstr(dvec_message(bad), "cannot open /nowhere/at/all.db"));
  ck_assert_int_eq(dvec_close(bad), DVEC_OK);
  dvec_open_options o = {.size = sizeof o, .sql = "PRAGMA nonsense; SELECT wrong"};
  ck_assert_int_eq(dvec_open(sql_path("x.db"), &o, &bad), DVEC_ERROR);
  ck_assert_msg(strstr(dvec_message(bad), "no such column: wrong") != NULL, "%s", dvec_message(bad));
  ck_assert_int_eq(dvec_close(bad), DVEC_OK);
  ck_assert_int_eq(dvec_close(NULL), DVEC_OK);
  ck_assert_int_eq(dvec_attach(NULL, &bad), DVEC_MISUSE);
  float v[3] = {0};
  dvec_id id = dvec_id_text("a");
  refused(DVEC_ERROR, "no such table", dvec_get(db, "nowhere", &id, v, 3));
  create_docs(3);
  create_rows(1);
  id = dvec_id_text("r0");
  refused(DVEC_MISUSE, "3 dimensions, there is room for 2", dvec_get(db, "docs", &id, v, 2));
  dvec_table_options t = {.size = sizeof t, .dimensions = 0};
  refused(DVEC_ERROR, "dimensions", dvec_create_table(db, "other", &t));
  dvec_delta d = delta_of(77, "r0");
  refused(DVEC_ERROR, "no operation 77", dvec_apply(db, "docs", &d, NULL));
  d = delta_of(DVEC_FRAME, "r0"), d.blob = "junk", d.n_blob = 4;
  refused(DVEC_ERROR, "not a delta", dvec_apply(db, "docs", &d, NULL));
  /* The lock of another connection. */
  sqlite3 *other = sql_open(sqlite3_db_filename(dvec_sqlite(db), "main"));
  sql_run(other, "BEGIN IMMEDIATE");
  sqlite3_busy_timeout(dvec_sqlite(db), 0);
  d = delta_of(DVEC_SCALE, "r0"), d.amount = 2;
  refused(DVEC_BUSY, "locked", dvec_apply(db, "docs", &d, NULL));
  sql_run(other, "ROLLBACK");
  ok(dvec_apply(db, "docs", &d, NULL));
  sql_close(other);
  ck_assert_str_eq(dvec_code_text(DVEC_CLOSED), "the stream is closed");
  ck_assert_str_eq(dvec_code_text(DVEC_NOTFOUND), "there is no such row");
  ck_assert_str_eq(dvec_code_text(DVEC_BUSY), "database is locked");
  ck_assert_str_eq(dvec_version(), DELTA_VECTORS_VERSION);
}
END_TEST

/* The message is that of this call, not of the one before. */
START_TEST(null_arguments_are_named) {
  create_docs(3);
  create_rows(2);
  dvec_id id = dvec_id_text("r0");
  dvec_cursor *cursor = NULL;
  dvec_hits *hits = NULL;
  float v[3] = {0};
  size_t n = 0;
  refused(DVEC_ERROR, "nowhere", dvec_dimensions(db, "nowhere", &n));
  refused(DVEC_MISUSE, "dvec_apply: delta must not be NULL", dvec_apply(db, "docs", NULL, NULL));
  refused(DVEC_MISUSE, "dvec_apply_many: deltas", dvec_apply_many(db, "docs", NULL, 1, NULL, NULL, NULL));
  refused(DVEC_MISUSE, "dvec_search: query and hits", dvec_search(db, "docs", NULL, 3, NULL, &hits));
  refused(DVEC_MISUSE, "dvec_search: query and hits", dvec_search(db, "docs", v, 3, NULL, NULL));
  refused(DVEC_MISUSE, "dvec_get: id and out", dvec_get(db, "docs", NULL, v, 3));
  refused(DVEC_MISUSE, "dvec_get_at: id and out", dvec_get_at(db, "docs", &id, 0, NULL, 3));
  refused(DVEC_MISUSE, "dvec_borrow: id and vector", dvec_borrow(db, "docs", &id, NULL, NULL));
  refused(DVEC_MISUSE, "no table is named", dvec_get(db, NULL, &id, v, 3));
  refused(DVEC_MISUSE, "dvec_chain: id and cursor", dvec_chain(db, "docs", NULL, &cursor));
  refused(DVEC_MISUSE, "dvec_log: cursor", dvec_log(db, "docs", 0, NULL));
  refused(DVEC_MISUSE, "dvec_rollback: id", dvec_rollback(db, "docs", NULL, 1, NULL));
  refused(DVEC_MISUSE, "dvec_dimensions: dimensions", dvec_dimensions(db, "docs", NULL));
  refused(DVEC_MISUSE, "dvec_status: status", dvec_status(db, "docs", NULL, 8));
  refused(DVEC_MISUSE, "dvec_status_json: json", dvec_status_json(db, "docs", NULL));
  refused(DVEC_MISUSE, "dvec_export: bytes", dvec_export(db, "docs", 0, NULL, &n));
  refused(DVEC_MISUSE, "dvec_import: bytes", dvec_import(db, "docs", NULL, 5, NULL, NULL, NULL));
  refused(DVEC_MISUSE, "dvec_patch: delta", dvec_patch(db, NULL, 0, v, 3));
  ok(dvec_log(db, "docs", 0, &cursor));
  refused(DVEC_MISUSE, "dvec_cursor_next: change", dvec_cursor_next(cursor, NULL));
  dvec_cursor_close(cursor);
  ck_assert_int_eq(dvec_apply(NULL, "docs", NULL, NULL), DVEC_MISUSE);
}
END_TEST

/* Whatever the reason: a code, and a message that is not empty. */
START_TEST(no_failure_is_without_a_message) {
  create_docs(3);
  create_rows(2);
  float v[3] = {0};
  dvec_hits *hits = NULL;
  dvec_value value = {.type = 9};
  dvec_search_options o = {.size = sizeof o, .filter = "metadata = ?", .n_values = 1};
  refused(DVEC_MISUSE, "dvec_search: values must not be NULL", dvec_search(db, "docs", v, 3, &o, &hits));
  o.values = &value;
  refused(DVEC_MISUSE, "value 0 of the filter: type 9", dvec_search(db, "docs", v, 3, &o, &hits));
  value = (dvec_value){.type = DVEC_BLOB, .bytes = "x", .n_bytes = -1};
  refused(DVEC_MISUSE, "value 0 of the filter: a blob of -1 bytes", dvec_search(db, "docs", v, 3, &o, &hits));
  value = (dvec_value){.type = DVEC_TEXT, .bytes = "x", .n_bytes = (int64_t)1 << 40};
  refused(18, "too big", dvec_search(db, "docs", v, 3, &o, &hits)); /* SQLITE_TOOBIG */
  refused(18, "too big", dvec_search(db, "docs", v, (size_t)1 << 40, NULL, &hits));
  dvec_id id = {"r0", (int64_t)1 << 40, 0};
  dvec_cursor *cursor = NULL;
  refused(18, "too big", dvec_get(db, "docs", &id, v, 3));
  refused(18, "too big", dvec_rollback(db, "docs", &id, 1, NULL));
  refused(18, "too big", dvec_chain(db, "docs", &id, &cursor));
  dvec_db *bad = NULL;
  ck_assert_int_eq(dvec_open("/nowhere/at/all.db", NULL, &bad), 14);
  ck_assert_int_eq(dvec_search(bad, "docs", v, 3, &o, &hits), DVEC_MISUSE);
  ck_assert_str_ne(dvec_message(bad), "");
  ck_assert_int_eq(dvec_close(bad), DVEC_OK);
}
END_TEST

/* An id that is cut in a message is cut between two characters. */
START_TEST(messages_are_utf8) {
  create_docs(3);
  dvec_delta d = delta_of(DVEC_SCALE, "€€€€€€€€€€€€€€€€€€€€€€€€€");
  d.amount = NAN;
  refused(DVEC_ERROR, "row '€€€€€€€€€€€€€€€€': the amount", dvec_apply(db, "docs", &d, NULL));
}
END_TEST

/* A limit that is no number has its name in the message; one that is infinite is none. */
START_TEST(limits_that_are_not_finite) {
  create_docs(3);
  create_rows(5);
  float q[3] = {0};
  dvec_hits *hits = NULL;
  dvec_search_options o = {.size = sizeof o, .has_max_distance = 1, .max_distance = INFINITY};
  ok(dvec_search(db, "docs", q, 3, &o, &hits));
  ck_assert_uint_eq(dvec_hits_count(hits), 5);
  dvec_hits_free(hits);
  o.max_distance = -INFINITY;
  ok(dvec_search(db, "docs", q, 3, &o, &hits));
  ck_assert_uint_eq(dvec_hits_count(hits), 0);
  dvec_hits_free(hits);
  o.max_distance = NAN;
  refused(DVEC_ERROR, "max_distance is NULL", dvec_search(db, "docs", q, 3, &o, &hits));
  o.has_max_distance = 0, o.recall_target = NAN;
  refused(DVEC_ERROR, "recall_target is NULL", dvec_search(db, "docs", q, 3, &o, &hits));
}
END_TEST

int main(int argc, char **argv) {
  Suite *suite = suite_create("api");
  TCase *t = tcase_create("api");
  tcase_add_checked_fixture(t, use, leave);
  tcase_add_test(t, every_operation_does_what_sql_does);
  tcase_add_test(t, time_0_is_a_time_if_it_is_said_so);
  tcase_add_test(t, many_are_applied_or_none);
  tcase_add_test(t, structures_grow_at_their_end);
  tcase_add_test(t, searches_with_options);
  tcase_add_test(t, filters_take_values);
  tcase_add_test(t, null_arguments_are_named);
  tcase_add_test(t, no_failure_is_without_a_message);
  tcase_add_test(t, messages_are_utf8);
  tcase_add_test(t, a_cursor_that_failed_stays_failed);
  tcase_add_test(t, a_borrowed_vector_has_its_own_dimensions);
  tcase_add_test(t, limits_that_are_not_finite);
  tcase_add_test(t, a_filtered_search_gives_ids);
  tcase_add_test(t, a_filtered_search_in_a_table_made_anew);
  tcase_add_test(t, a_borrowed_vector_is_that_of_now);
  tcase_add_test(t, attaches_where_the_loadable_is_loaded);
  tcase_add_test(t, chains_and_the_log_are_walked);
  tcase_add_test(t, compacts_exports_imports_and_reports);
  tcase_add_test(t, refuses_with_a_code_and_a_message);
  suite_add_tcase(suite, t);
  return sql_main(suite, argc, argv);
}
