/*
 * harness.c: statements, connections and comparisons for the differential test (see harness.h).
 */
#define _POSIX_C_SOURCE 200809L

#include "harness.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

/* ---- random numbers ---------------------------------------------------------------------------------------------- */

uint64_t mix(uint64_t seed, uint64_t n) {
  /* splitmix64 */
  uint64_t z = seed + (n + 1) * 0x9E3779B97F4A7C15u;
  z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
  z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
  return z ^ (z >> 31);
}

uint64_t rng_next(rng *r) { return mix(r->state++, 0); }
int rng_below(rng *r, int n) { return n <= 1 ? 0 : (int)(rng_next(r) % (uint64_t)n); }
int rng_between(rng *r, int low, int high) { return low + rng_below(r, high - low + 1); }
bool rng_chance(rng *r, int percent) { return rng_below(r, 100) < percent; }

/* ---- text -------------------------------------------------------------------------------------------------------- */

static void *grow(void *old, size_t n) {
  void *p = realloc(old, n);
  if (!p) abort();
  return p;
}

static void text_reserve(text *t, size_t n) {
  if (t->n + n + 1 <= t->capacity) return;
  t->capacity = (t->n + n + 1) * 2;
  t->s = grow(t->s, t->capacity);
}

static void text_append(text *t, const char *s, size_t n) {
  text_reserve(t, n);
  memcpy(t->s + t->n, s, n);
  t->n += n;
  t->s[t->n] = 0;
}

static void text_format(text *t, const char *format, va_list list) {
  va_list again;
  va_copy(again, list);
  int n = vsnprintf(NULL, 0, format, list);
  text_reserve(t, (size_t)n);
  vsnprintf(t->s + t->n, (size_t)n + 1, format, again);
  va_end(again);
  t->n += (size_t)n;
}

void text_put(text *t, const char *format, ...) {
  va_list list;
  va_start(list, format);
  text_format(t, format, list);
  va_end(list);
}

void text_free(text *t) {
  free(t->s);
  *t = (text){0};
}

/* ---- statements -------------------------------------------------------------------------------------------------- */

void put(statement *s, const char *format, ...) {
  va_list list;
  size_t before = s->literal.n;
  va_start(list, format);
  text_format(&s->literal, format, list);
  va_end(list);
  text_append(&s->bound, s->literal.s + before, s->literal.n - before);
}

static void put_quoted(text *t, const char *bytes, size_t n, char quote) {
  text_append(t, &quote, 1);
  for (size_t i = 0; i < n; i++) {
    if (bytes[i] == quote) text_append(t, &quote, 1);
    text_append(t, bytes + i, 1);
  }
  text_append(t, &quote, 1);
}

static void put_literal(text *t, const model_value *v) {
  char number[40];
  switch (v->type) {
  case MODEL_NULL: text_append(t, "NULL", 4); break;
  case MODEL_INTEGER: text_put(t, "%" PRId64, v->integer); break;
  case MODEL_REAL:
    snprintf(number, sizeof number, "%.17g", v->real);
    text_put(t, "%s%s", number, strpbrk(number, ".e") ? "" : ".0");
    break;
  case MODEL_TEXT: put_quoted(t, v->bytes, v->n_bytes, '\''); break;
  case MODEL_BLOB: {
    static const char digits[] = "0123456789abcdef";
    text_reserve(t, v->n_bytes * 2 + 3);
    text_append(t, "x'", 2);
    for (size_t i = 0; i < v->n_bytes; i++) {
      unsigned char b = (unsigned char)v->bytes[i];
      char two[2] = {digits[b >> 4], digits[b & 15]};
      text_append(t, two, 2);
    }
    text_append(t, "'", 1);
  }
  }
}

static void add_parameter(statement *s, model_value v) {
  if (s->n_values == s->capacity) {
    s->capacity = s->capacity * 2 + 8;
    s->values = grow(s->values, (size_t)s->capacity * sizeof *s->values);
  }
  s->values[s->n_values++] = v;
}

void put_value(statement *s, const model_value *v) {
  put_literal(&s->literal, v);
  text_append(&s->bound, "?", 1);
  add_parameter(s, model_value_copy(v));
}

void put_statement(statement *s, statement *part) {
  text_append(&s->literal, part->literal.s, part->literal.n);
  text_append(&s->bound, part->bound.s, part->bound.n);
  for (int i = 0; i < part->n_values; i++) add_parameter(s, part->values[i]);
  part->n_values = 0; /* the values moved */
  statement_free(part);
}

static void put_owned(statement *s, model_value v) {
  put_value(s, &v);
  model_value_free(&v);
}

void put_text(statement *s, const char *value) { put_owned(s, model_text(value)); }
void put_integer(statement *s, int64_t value) { put_owned(s, model_integer(value)); }

void put_float(statement *s, float value) {
  /* Nine digits name an f32 exactly; the double nearest to them rounds to it. */
  char number[40];
  snprintf(number, sizeof number, "%.9g", (double)value);
  put_owned(s, model_real(strtod(number, NULL)));
}

void put_name(statement *s, const char *name) {
  put_quoted(&s->literal, name, strlen(name), '"');
  put_quoted(&s->bound, name, strlen(name), '"');
}

void put_vector(statement *s, const float *v, int n, bool as_json) {
  if (!as_json) {
    put_owned(s, model_bytes(MODEL_BLOB, v, (size_t)n * sizeof *v)); /* little-endian machines only */
    return;
  }
  text json = {0};
  text_append(&json, "[", 1);
  for (int i = 0; i < n; i++) text_put(&json, "%s%.9g", i ? "," : "", (double)v[i]);
  text_append(&json, "]", 1);
  put_text(s, json.s);
  text_free(&json);
}

void put_time(statement *s, int64_t time, bool as_text) {
  if (time == MODEL_AUTO) {
    put_owned(s, model_null());
  } else if (as_text && time % 1000 == 0 && time > 0 && time < INT64_C(4000000000000)) {
    time_t seconds = (time_t)(time / 1000);
    struct tm tm;
    char iso[40];
    gmtime_r(&seconds, &tm);
    strftime(iso, sizeof iso, "%Y-%m-%dT%H:%M:%SZ", &tm);
    put_text(s, iso);
  } else {
    put_integer(s, time);
  }
}

void statement_free(statement *s) {
  for (int i = 0; i < s->n_values; i++) model_value_free(&s->values[i]);
  free(s->values);
  text_free(&s->literal);
  text_free(&s->bound);
  *s = (statement){0};
}

/* ---- results ----------------------------------------------------------------------------------------------------- */

const model_value *cell(const result *r, int row, int column) { return &r->cells[row * r->n_columns + column]; }

void result_free(result *r) {
  for (int i = 0; i < r->n_rows * r->n_columns; i++) model_value_free(&r->cells[i]);
  free(r->cells);
  r->cells = NULL;
  r->n_rows = 0;
}

static model_value read_column(sqlite3_stmt *stmt, int i) {
  switch (sqlite3_column_type(stmt, i)) {
  case SQLITE_INTEGER: return model_integer(sqlite3_column_int64(stmt, i));
  case SQLITE_FLOAT: return model_real(sqlite3_column_double(stmt, i));
  case SQLITE_TEXT: {
    const void *bytes = sqlite3_column_text(stmt, i);
    return model_bytes(MODEL_TEXT, bytes, (size_t)sqlite3_column_bytes(stmt, i));
  }
  case SQLITE_BLOB: {
    const void *bytes = sqlite3_column_blob(stmt, i);
    return model_bytes(MODEL_BLOB, bytes, (size_t)sqlite3_column_bytes(stmt, i));
  }
  default: return model_null();
  }
}

static void bind_value(sqlite3_stmt *stmt, int i, const model_value *v) {
  switch (v->type) {
  case MODEL_NULL: sqlite3_bind_null(stmt, i); break;
  case MODEL_INTEGER: sqlite3_bind_int64(stmt, i, v->integer); break;
  case MODEL_REAL: sqlite3_bind_double(stmt, i, v->real); break;
  case MODEL_TEXT: sqlite3_bind_text(stmt, i, v->bytes, (int)v->n_bytes, SQLITE_STATIC); break;
  case MODEL_BLOB: sqlite3_bind_blob(stmt, i, v->bytes, (int)v->n_bytes, SQLITE_STATIC); break;
  }
}

/* ---- failures ---------------------------------------------------------------------------------------------------- */

static void fail_list(program *p, const char *format, va_list list) {
  if (p->has_failed) return; /* what comes after the first difference follows from it */
  p->has_failed = true;
  int n = snprintf(p->failure, sizeof p->failure, "operation %d: ", p->index);
  vsnprintf(p->failure + n, sizeof p->failure - (size_t)n, format, list);
  text_put(&p->trace, "-- ^^^ %s\n", p->failure);
}

void fail(program *p, const char *format, ...) {
  va_list list;
  va_start(list, format);
  fail_list(p, format, list);
  va_end(list);
}

bool check(program *p, bool holds, const char *format, ...) {
  p->checks++;
  if (holds) return true;
  va_list list;
  va_start(list, format);
  fail_list(p, format, list);
  va_end(list);
  return false;
}

/* ---- connections ------------------------------------------------------------------------------------------------- */

#ifdef SQLITE_CORE
int sqlite3_deltavectors_init(sqlite3 *db, char **message, const sqlite3_api_routines *api);
#endif

static void load_extension(sqlite3 *db, const char *extension) {
  char *message = NULL;
#ifdef SQLITE_CORE
  int rc = sqlite3_deltavectors_init(db, &message, NULL);
  (void)extension;
#else
  sqlite3_enable_load_extension(db, 1);
  int rc = sqlite3_load_extension(db, extension, NULL, &message);
#endif
  if (rc != SQLITE_OK) {
    fprintf(stderr, "differential: cannot load the extension: %s\n", message ? message : sqlite3_errstr(rc));
    exit(2);
  }
}

static void trace_connection(program *p, const connection *c) {
  if (p->traced_connection == c->number) return;
  p->traced_connection = c->number;
  if (p->n_connections > 1) text_put(&p->trace, ".connection %d\n", c->number);
}

void open_connection(program *p, connection *c) {
  trace_connection(p, c);
  text_put(&p->trace, ".open %s\n.load ./delta_vectors\n", p->in_memory ? ":memory:" : "differential.db");
  if (sqlite3_open(p->path, &c->db) != SQLITE_OK) {
    fprintf(stderr, "differential: cannot open %s: %s\n", p->path, sqlite3_errmsg(c->db));
    exit(2);
  }
  load_extension(c->db, p->extension);
  if (p->cache_size) execute(p, c, "PRAGMA cache_size=%d", p->cache_size);
  execute(p, c, "PRAGMA synchronous=%d", p->synchronous);
}

bool makes_small_graphs(const char *extension) {
  sqlite3 *db = NULL;
  sqlite3_stmt *stmt = NULL;
  if (sqlite3_open(":memory:", &db) != SQLITE_OK) abort();
  load_extension(db, extension);
  int rc = sqlite3_exec(db,
                        "CREATE VIRTUAL TABLE t USING delta_vectors(dimensions=1, metric=l2, index=auto);"
                        "WITH RECURSIVE i(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM i WHERE i < 40)"
                        " INSERT INTO t(id, vector) SELECT 'r' || i, json_array(i) FROM i;"
                        "INSERT INTO t(t) VALUES('optimize')",
                        NULL, NULL, NULL);
  if (rc == SQLITE_OK) rc = sqlite3_prepare_v2(db, "SELECT delta_status('t') ->> 'index'", -1, &stmt, NULL);
  if (rc != SQLITE_OK || sqlite3_step(stmt) != SQLITE_ROW) {
    fprintf(stderr, "differential: a table cannot be made: %s\n", sqlite3_errmsg(db));
    exit(2);
  }
  bool has_graph = strcmp((const char *)sqlite3_column_text(stmt, 0), "hnsw") == 0;
  sqlite3_finalize(stmt);
  sqlite3_close(db);
  return has_graph;
}

void close_connection(program *p, connection *c) {
  if (!c->db) return;
  int rc = sqlite3_close(c->db);
  check(p, rc == SQLITE_OK, "sqlite3_close: %s: the extension left a statement open", sqlite3_errstr(rc));
  if (rc != SQLITE_OK) sqlite3_close_v2(c->db);
  c->db = NULL;
  forget_transaction(c);
}

bool may_be_busy(const program *p, const connection *c) {
  if (p->n_connections < 2) return false;
  return c->in_transaction || p->connections[1 - c->number].in_transaction;
}

bool is_busy(const program *p, const connection *c, const result *r) {
  if (!may_be_busy(p, c)) return false;
  /* While the other connection holds the file exclusively, SQLite cannot see that its idea of the schema is old, and
   * says that a table renamed since is not there. */
  return r->rc == SQLITE_BUSY || (r->rc == SQLITE_ERROR && strstr(r->message, "no such table"));
}

/* SQLite may end a transaction by itself, but only for the errors that its documentation names. */
static void notice_rollback(program *p, connection *c, int rc) {
  bool is_open = sqlite3_get_autocommit(c->db) == 0;
  if (is_open == c->in_transaction || is_open) return;
  bool is_documented =
      rc == SQLITE_BUSY || rc == SQLITE_FULL || rc == SQLITE_IOERR || rc == SQLITE_NOMEM || rc == SQLITE_INTERRUPT;
  check(p, is_documented, "error %d ended the transaction: %s", rc, sqlite3_errmsg(c->db));
  forget_transaction(c);
}

result run(program *p, connection *c, statement *s) {
  result r = {.rc = SQLITE_OK};
  sqlite3_stmt *stmt = NULL;
  if (p->has_failed) { /* the trace ends where the difference is */
    r.rc = SQLITE_ABORT;
    statement_free(s);
    return r;
  }
  trace_connection(p, c);
  text_append(&p->trace, s->literal.s, s->literal.n);
  text_append(&p->trace, ";\n", 2);
  int rc = sqlite3_prepare_v2(c->db, p->binds ? s->bound.s : s->literal.s, -1, &stmt, NULL);
  if (rc == SQLITE_OK) {
    for (int i = 0; p->binds && i < s->n_values; i++) bind_value(stmt, i + 1, &s->values[i]);
    int capacity = 0;
    r.n_columns = sqlite3_column_count(stmt);
    while ((rc = sqlite3_step(stmt)) == SQLITE_ROW) {
      if (r.n_rows == capacity) {
        capacity = capacity * 2 + 16;
        r.cells = grow(r.cells, (size_t)(capacity * r.n_columns) * sizeof *r.cells);
      }
      for (int i = 0; i < r.n_columns; i++) r.cells[r.n_rows * r.n_columns + i] = read_column(stmt, i);
      r.n_rows++;
    }
    if (rc == SQLITE_DONE) rc = SQLITE_OK;
  }
  r.rc = rc & 0xff;
  r.changes = sqlite3_changes(c->db);
  if (r.rc != SQLITE_OK) {
    snprintf(r.message, sizeof r.message, "%s", sqlite3_errmsg(c->db));
    text_put(&p->trace, "-- error %d: %s\n", r.rc, r.message);
  }
  sqlite3_finalize(stmt);
  statement_free(s);
  if (r.rc != SQLITE_OK) notice_rollback(p, c, r.rc);
  return r;
}

bool query(program *p, connection *c, statement *s, result *r) {
  *r = run(p, c, s);
  if (p->has_failed) return false;
  if (r->rc == SQLITE_OK) return true;
  if (is_busy(p, c, r)) return false;
  fail(p, "a read fails with %d: %s", r->rc, r->message);
  return false;
}

void execute(program *p, connection *c, const char *format, ...) {
  statement s = {0};
  va_list list;
  va_start(list, format);
  text_format(&s.literal, format, list);
  va_end(list);
  text_append(&s.bound, s.literal.s, s.literal.n);
  result r = run(p, c, &s);
  if (!p->has_failed) check(p, r.rc == SQLITE_OK || is_busy(p, c, &r), "%s", r.message);
  result_free(&r);
}

const model_table *seen_by(const program *p, const connection *c) { return c->view ? c->view : p->committed; }

void adopt(program *p, connection *c, model_table *next, bool is_change) {
  if (!c->in_transaction) {
    model_free(p->committed);
    p->committed = next;
    p->generation += is_change;
    return;
  }
  if (!c->view) {
    c->base = model_copy(p->committed);
    c->base_generation = p->generation;
  }
  if (is_change) {
    check(p, c->base_generation == p->generation,
          "a write succeeded in a transaction whose snapshot is older than the last commit");
    c->is_dirty = true;
  }
  model_free(c->view);
  c->view = next;
}

void pin(program *p, connection *c) {
  if (!c->in_transaction || c->view || p->has_failed) return;
  if (p->n_connections > 1) {
    /* Whether the operation opened the read transaction is hard to say, for failed ones above all. This does. */
    statement s = {0};
    result r;
    put(&s, "SELECT count(*) FROM sqlite_schema");
    bool is_seen = query(p, c, &s, &r);
    result_free(&r);
    if (!is_seen) return;
  }
  c->base = model_copy(p->committed);
  c->view = model_copy(p->committed);
  c->base_generation = p->generation;
}

void forget_transaction(connection *c) {
  model_free(c->base);
  model_free(c->view);
  for (int i = 0; i < c->n_savepoints; i++) model_free(c->savepoints[i].saved);
  c->base = c->view = NULL;
  c->n_savepoints = 0;
  c->in_transaction = c->is_dirty = c->began_with_savepoint = false;
}

int64_t current_time(void) {
  struct timespec now;
  clock_gettime(CLOCK_REALTIME, &now);
  return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

/* ---- comparisons ------------------------------------------------------------------------------------------------- */

void settle(program *p, connection *c, model_table *next) {
  statement s = {0};
  result r;
  char why[300];
  put(&s, "SELECT seq, id, timestamp, operation FROM delta_log(");
  put_text(&s, next->name);
  put(&s, ", ");
  put_integer(&s, next->last_seq);
  put(&s, ")");
  if (!query(p, c, &s, &r)) {
    fail(p, "the log cannot be read after a write: %s", r.message);
    return;
  }
  model_entry *entries = grow(NULL, (size_t)(r.n_rows + 1) * sizeof *entries);
  for (int i = 0; i < r.n_rows; i++) {
    const model_value *operation = cell(&r, i, 3);
    entries[i] = (model_entry){.seq = cell(&r, i, 0)->integer,
                               .id = *cell(&r, i, 1), /* borrowed */
                               .time = cell(&r, i, 2)->integer,
                               .operation = model_operation_named(operation->bytes ? operation->bytes : "")};
  }
  bool is_right = model_settle(next, entries, r.n_rows, current_time(), why, sizeof why);
  check(p, is_right, "%s", why);
  free(entries);
  result_free(&r);
}

void put_columns(statement *s, const program *p) {
  put(s, "id, %s", p->vector_column);
  for (int i = 0; i < p->shape.n_columns; i++) put(s, ", %s", p->shape.columns[i].name);
}

bool check_vector(program *p, const model_value *got, const float *vector, const char *id) {
  size_t n_bytes = (size_t)p->shape.dimensions * sizeof(float);
  p->checks++;
  if (got->type == MODEL_BLOB && got->n_bytes == n_bytes && memcmp(got->bytes, vector, n_bytes) == 0) return true;
  if (got->type != MODEL_BLOB || got->n_bytes != n_bytes) {
    fail(p, "row %s: the vector has type %d and %zu bytes, should have %zu", id, (int)got->type, got->n_bytes, n_bytes);
    return false;
  }
  for (int i = 0; i < p->shape.dimensions; i++) {
    float value;
    memcpy(&value, got->bytes + (size_t)i * sizeof value, sizeof value);
    if (memcmp(&value, &vector[i], sizeof value) == 0) continue;
    fail(p, "row %s: dimension %d is %.9g, should be %.9g", id, i, (double)value, (double)vector[i]);
    break;
  }
  return false;
}

bool column_matches(const model_shape *shape, int i, const model_value *got, const model_value *should) {
  if (shape->columns[i].kind != MODEL_JSON) return model_value_equal(got, should);
  char *a = got->type == MODEL_TEXT || got->type == MODEL_NULL ? model_json_canonical(got->bytes) : NULL;
  char *b = model_json_canonical(should->bytes);
  bool is_equal = a && b && strcmp(a, b) == 0;
  free(a);
  free(b);
  return is_equal;
}

/* Compares one row of a result of put_columns. */
static bool check_content(program *p, const result *r, int row, const model_content *content, bool has_metadata) {
  char id[64], got_text[120], should_text[120];
  model_value_print(cell(r, row, 0), id, sizeof id);
  if (!check_vector(p, cell(r, row, 1), content->vector, id)) return false;
  for (int i = 0; has_metadata && i < p->shape.n_columns; i++) {
    const model_value *got = cell(r, row, 2 + i), *should = &content->values[i];
    model_value_print(got, got_text, sizeof got_text);
    model_value_print(should, should_text, sizeof should_text);
    if (!check(p, column_matches(&p->shape, i, got, should), "row %s: column %s is %s, should be %s", id,
               p->shape.columns[i].name, got_text, should_text))
      return false;
  }
  return true;
}

void check_rows(program *p, connection *c, const char *name, const model_table *t, int64_t time) {
  statement s = {0};
  result r;
  put(&s, "SELECT ");
  put_columns(&s, p);
  put(&s, " FROM ");
  put_name(&s, name);
  if (time != MODEL_NOW) {
    put(&s, " WHERE as_of = ");
    put_time(&s, time, true);
  }
  if (query(p, c, &s, &r)) {
    bool *is_seen = calloc((size_t)t->n_rows + 1, sizeof *is_seen);
    if (!is_seen) abort();
    char id[64];
    bool is_unknown;
    for (int i = 0; i < r.n_rows && !p->has_failed; i++) {
      const model_row *row = model_find(t, cell(&r, i, 0));
      const model_content *content = model_at(row, time, &is_unknown);
      model_value_print(cell(&r, i, 0), id, sizeof id);
      if (is_unknown) continue;
      if (!check(p, content != NULL, "row %s should not be there", id)) break;
      if (!check(p, !is_seen[row - t->rows], "row %s is there twice", id)) break;
      is_seen[row - t->rows] = true;
      check_content(p, &r, i, content, time == MODEL_NOW || MODEL_AS_OF_METADATA);
    }
    for (int i = 0; i < t->n_rows && !p->has_failed; i++) {
      if (is_seen[i] || !model_at(&t->rows[i], time, &is_unknown)) continue;
      model_value_print(&t->rows[i].id, id, sizeof id);
      check(p, false, "row %s is missing", id);
    }
    free(is_seen);
  }
  result_free(&r);
}

void check_row(program *p, connection *c, const model_table *t, const model_value *id) {
  statement s = {0};
  result r;
  char printed[64];
  const model_content *content = model_now(model_find(t, id));
  model_value_print(id, printed, sizeof printed);
  put(&s, "SELECT ");
  put_columns(&s, p);
  put(&s, " FROM ");
  put_name(&s, t->name);
  put(&s, " WHERE id = ");
  put_value(&s, id);
  if (query(p, c, &s, &r)) {
    if (check(p, r.n_rows == (content != NULL), "row %s is there %d times, should be %d", printed, r.n_rows,
              content != NULL) &&
        content)
      check_content(p, &r, 0, content, true);
  }
  result_free(&r);
}

void check_chain(program *p, connection *c, const char *name, const model_row *row, bool is_copy) {
  statement s = {0};
  result r;
  char id[64];
  model_value_print(&row->id, id, sizeof id);
  put(&s, "SELECT seq, timestamp, operation, checkpoint FROM delta_chain(");
  put_text(&s, name);
  put(&s, ", ");
  put_value(&s, &row->id);
  put(&s, ") ORDER BY seq");
  if (query(p, c, &s, &r)) {
    check(p, r.n_rows == row->n_versions, "the chain of row %s has %d versions, should have %d", id, r.n_rows,
          row->n_versions);
    int since_full = 0; /* versions since the last that carries a full vector, or has none */
    for (int i = 0; i < r.n_rows && !p->has_failed; i++) {
      const model_version *v = &row->versions[i];
      const char *operation = cell(&r, i, 2)->bytes;
      since_full = cell(&r, i, 3)->integer || !v->content->exists ? 0 : since_full + 1;
      check(p, since_full < p->checkpoint_interval, "row %s has no full vector in %d versions up to seq %lld", id,
            since_full, (long long)v->seq);
      check(p, is_copy || cell(&r, i, 0)->integer == v->seq, "the chain of row %s has seq %lld, should have %lld", id,
            (long long)cell(&r, i, 0)->integer, (long long)v->seq);
      check(p, cell(&r, i, 1)->integer == v->time, "seq %lld of row %s has time %lld, should have %lld",
            (long long)v->seq, id, (long long)cell(&r, i, 1)->integer, (long long)v->time);
      /* Compaction makes the oldest version that is kept a full one. */
      bool is_merged = i == 0 && row->horizon != INT64_MIN;
      check(p, operation && (is_merged || model_operation_named(operation) == v->operation),
            "seq %lld of row %s has become operation %s", (long long)v->seq, id, operation ? operation : "NULL");
    }
  }
  result_free(&r);
}

/* The delta that the log shows must lead from the version before to this one. */
static void check_log_delta(program *p, connection *c, const model_row *row, const model_version *v,
                            const model_value *delta) {
  if (!MODEL_LOG_DELTA_PATCHES || v == row->versions || delta->type == MODEL_NULL) return;
  if (!v->content->exists || !v[-1].content->exists) return;
  statement s = {0};
  result r;
  char id[64];
  model_value_print(&row->id, id, sizeof id);
  put(&s, "SELECT delta_patch(");
  put_vector(&s, v[-1].content->vector, p->shape.dimensions, false);
  put(&s, ", ");
  put_value(&s, delta);
  put(&s, ")");
  if (query(p, c, &s, &r)) check_vector(p, cell(&r, 0, 0), v->content->vector, id);
  result_free(&r);
}

void check_log(program *p, connection *c, const model_table *t) {
  statement s = {0};
  result r;
  put(&s, "SELECT seq, id, timestamp, operation, delta FROM delta_log(");
  put_text(&s, t->name);
  put(&s, ", 0)");
  if (query(p, c, &s, &r)) {
    int n_versions = 0;
    for (int i = 0; i < t->n_rows; i++) n_versions += t->rows[i].n_versions;
    check(p, r.n_rows == n_versions, "the log has %d entries, should have %d", r.n_rows, n_versions);
    for (int i = 0; i < r.n_rows && !p->has_failed; i++) {
      int64_t seq = cell(&r, i, 0)->integer;
      const char *operation = cell(&r, i, 3)->bytes;
      const model_row *row = model_find(t, cell(&r, i, 1));
      const model_version *v = NULL;
      for (int j = 0; row && j < row->n_versions; j++)
        if (row->versions[j].seq == seq) v = &row->versions[j];
      check(p, i == 0 || seq > cell(&r, i - 1, 0)->integer, "the log is not in order of seq at %lld", (long long)seq);
      if (!check(p, v != NULL, "the log has an entry %lld that never was", (long long)seq)) break;
      bool is_merged = v == row->versions && row->horizon != INT64_MIN;
      check(p, cell(&r, i, 2)->integer == v->time, "log entry %lld has time %lld, should have %lld", (long long)seq,
            (long long)cell(&r, i, 2)->integer, (long long)v->time);
      check(p, operation && (is_merged || model_operation_named(operation) == v->operation),
            "log entry %lld has become %s", (long long)seq, operation ? operation : "NULL");
      if (rng_below(&p->rng, r.n_rows) < 3) check_log_delta(p, c, row, v, cell(&r, i, 4));
    }
  }
  result_free(&r);
}

void check_status(program *p, connection *c, const model_table *t) {
  static const char *const keys[] = {"rows",    "deltas", "bytes", "chain",          "fresh",
                                     "settled", "memory", "index", "recall_estimate"};
  enum { N = sizeof keys / sizeof keys[0] };
  statement s = {0};
  result r;
  put(&s, "SELECT json_extract(status, '$.rows')");
  for (int i = 0; i < N; i++) put(&s, ", json_type(status, '$.%s')", keys[i]);
  put(&s, " FROM (SELECT delta_status(");
  put_text(&s, t->name);
  put(&s, ") AS status)");
  if (query(p, c, &s, &r)) {
    check(p, cell(&r, 0, 0)->integer == model_count(t), "delta_status: rows is %lld, should be %d",
          (long long)cell(&r, 0, 0)->integer, model_count(t));
    for (int i = 0; i < N; i++) check(p, cell(&r, 0, 1 + i)->type == MODEL_TEXT, "delta_status has no key %s", keys[i]);
  }
  result_free(&r);
}

void check_unchanged(program *p, connection *c) {
  const model_table *t = seen_by(p, c);
  statement s = {0};
  result r;
  check_rows(p, c, t->name, t, MODEL_NOW);
  put(&s, "SELECT seq FROM delta_log(");
  put_text(&s, t->name);
  put(&s, ", ");
  put_integer(&s, t->last_seq);
  put(&s, ")");
  if (query(p, c, &s, &r)) check(p, r.n_rows == 0, "a change was logged that should not have been made");
  result_free(&r);
}

int64_t interesting_time(program *p, const model_table *t) {
  if (t->n_rows == 0 || rng_chance(&p->rng, 5)) return rng_chance(&p->rng, 50) ? 0 : INT64_C(4102444800000);
  const model_row *row = &t->rows[rng_below(&p->rng, t->n_rows)];
  if (row->n_versions == 0) return row->horizon;
  return row->versions[rng_below(&p->rng, row->n_versions)].time + rng_between(&p->rng, -1, 1);
}

void check_everything(program *p, connection *c, bool is_thorough) {
  if (p->has_failed) return;
  const model_table *t = seen_by(p, c);
  check_rows(p, c, t->name, t, MODEL_NOW);
  for (int i = 0; i < (is_thorough ? 6 : 2); i++) check_rows(p, c, t->name, t, interesting_time(p, t));
  for (int i = 0; i < t->n_rows; i++)
    if (is_thorough || rng_below(&p->rng, t->n_rows) < 3) check_chain(p, c, t->name, &t->rows[i], false);
  check_log(p, c, t);
  check_status(p, c, t);
  if (!is_thorough && rng_chance(&p->rng, 60)) return;
  statement s = {0};
  put(&s, "INSERT INTO ");
  put_name(&s, t->name);
  put(&s, "(");
  put_name(&s, t->name);
  put(&s, ") VALUES('integrity-check')");
  result r;
  query(p, c, &s, &r);
  result_free(&r);
  put(&s, "PRAGMA integrity_check");
  if (query(p, c, &s, &r)) {
    const model_value *answer = r.n_rows ? cell(&r, 0, 0) : NULL;
    check(p, answer && answer->type == MODEL_TEXT && strcmp(answer->bytes, "ok") == 0, "PRAGMA integrity_check: %.300s",
          answer && answer->bytes ? answer->bytes : "nothing");
  }
  result_free(&r);
}
