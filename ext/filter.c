/*
 * filter.c: conditions on declared columns, turned into a bitmap of the rows that pass.
 *
 * They mean inside the search exactly what they mean in SQLite: affinity, collation, NULL, LIKE. So SQLite evaluates
 * them, but not row by row:
 *
 *   numbers against a number, and texts or blobs for equality byte by byte: here, on arrays (columns.c)
 *   everything else on a text or blob: SQLite, once for each distinct value: `CAST(?1 AS TEXT) LIKE ?2`
 *   what arrays cannot hold, a number against a text, LIKE on numbers, ids: SQLite, on %_row: `c2 < ?1`
 *
 * Rows whose metadata is not in %_row (uncommitted changes, past states) are put to the same expression as values.
 *
 * The bitmaps of the last few filters are kept for who asks with the same again, until metadata change: but none that
 * LIKE, GLOB or a collation had a part in, since what those mean can be redefined at any time
 * (PRAGMA case_sensitive_like, sqlite3_create_collation).
 */
#include "ext_int.h"

#define FILTER_IN_CHUNK 400 /* values of an IN list in one statement; longer lists are asked in pieces */
#define FILTER_BATCH 32 /* distinct values that SQLite judges at a time */
#define FILTER_MAX_KEY 65536u /* a filter that takes more bytes to write out is not remembered */

static const char *filter_affinity(const dvx_table *t, int column) {
  if (column == DVX_CONDITION_ID) return t->config->id_type == DVX_ID_TEXT ? "TEXT" : "INTEGER";
  if (column == DVX_CONDITION_ROWID) return "INTEGER";
  switch (t->config->columns[column].type) {
  case DVX_COLUMN_INTEGER:
  case DVX_COLUMN_BOOLEAN: return "INTEGER";
  case DVX_COLUMN_REAL: return "REAL";
  case DVX_COLUMN_TEXT:
  case DVX_COLUMN_JSON: return "TEXT";
  case DVX_COLUMN_BLOB: break;
  }
  return "BLOB";
}

static const char *filter_operator(int op) {
  switch (op) {
  case SQLITE_INDEX_CONSTRAINT_EQ: return "=";
  case SQLITE_INDEX_CONSTRAINT_GT: return ">";
  case SQLITE_INDEX_CONSTRAINT_LE: return "<=";
  case SQLITE_INDEX_CONSTRAINT_LT: return "<";
  case SQLITE_INDEX_CONSTRAINT_GE: return ">=";
  case SQLITE_INDEX_CONSTRAINT_NE: return "<>";
  case SQLITE_INDEX_CONSTRAINT_IS: return "IS";
  case SQLITE_INDEX_CONSTRAINT_ISNOT: return "IS NOT";
  case SQLITE_INDEX_CONSTRAINT_LIKE: return "LIKE";
  case SQLITE_INDEX_CONSTRAINT_GLOB: return "GLOB";
  default: return NULL;
  }
}

/* Values first .. first+n-1 of an IN list. */
typedef struct filter_slice {
  size_t first;
  size_t n;
} filter_slice;

static void filter_expression(const dvx_condition *c, filter_slice s, const char *left, int *parameter, dvx_str *sql) {
  dvx_str_addf(sql, "%s", left);
  if (c->collation) dvx_str_addf(sql, " COLLATE \"%w\"", c->collation);
  if (c->op == SQLITE_INDEX_CONSTRAINT_ISNULL) {
    dvx_str_addf(sql, " IS NULL");
  } else if (c->op == SQLITE_INDEX_CONSTRAINT_ISNOTNULL) {
    dvx_str_addf(sql, " IS NOT NULL");
  } else if (c->is_in) {
    dvx_str_addf(sql, " IN (");
    for (size_t i = 0; i < s.n; i++) dvx_str_addf(sql, i ? ",?%d" : "?%d", (*parameter)++);
    dvx_str_addf(sql, ")");
  } else {
    dvx_str_addf(sql, " %s ?%d", filter_operator(c->op), (*parameter)++);
  }
}

static int filter_bind(sqlite3_stmt *stmt, const dvx_condition *c, filter_slice s, int *parameter) {
  size_t n = c->is_in                                                                                ? s.n
             : c->op == SQLITE_INDEX_CONSTRAINT_ISNULL || c->op == SQLITE_INDEX_CONSTRAINT_ISNOTNULL ? 0
                                                                                                     : 1;
  for (size_t i = 0; i < n; i++) {
    int rc = dvx_bind_value(stmt, (*parameter)++, &c->values[s.first + i]);
    if (rc != SQLITE_OK) return rc;
  }
  return SQLITE_OK;
}

static int filter_prepare(dvx_table *t, dvx_str *sql, sqlite3_stmt **out) {
  char *z = dvx_str_take(sql);
  if (!z) return SQLITE_NOMEM;
  int rc = sqlite3_prepare_v3(t->conn->db, z, -1, SQLITE_PREPARE_NO_VTAB, out, NULL);
  sqlite3_free(z);
  return rc == SQLITE_OK ? SQLITE_OK : dvx_fail_sqlite(t->conn, t, rc);
}

/* Sets the bits of the stored rows that pass one condition (of an IN list: the slice). */
static int filter_stored(dvx_table *t, const dvx_condition *c, filter_slice s, size_t n_rows, uint64_t *bits) {
  dvx_str sql = {0};
  sqlite3_stmt *stmt = NULL;
  int parameter = 1;
  char *left = c->column == DVX_CONDITION_ID      ? dvx_format("id")
               : c->column == DVX_CONDITION_ROWID ? dvx_format("vid")
                                                  : dvx_format("c%d", c->column + 1);
  if (!left) return SQLITE_NOMEM;
  dvx_str_addf(&sql, "SELECT vid FROM \"%w\".\"%w_row\" WHERE ", t->schema, t->name);
  filter_expression(c, s, left, &parameter, &sql);
  sqlite3_free(left);
  int rc = filter_prepare(t, &sql, &stmt);
  parameter = 1;
  if (rc == SQLITE_OK) rc = filter_bind(stmt, c, s, &parameter);
  while (rc == SQLITE_OK && sqlite3_step(stmt) == SQLITE_ROW) {
    int64_t vid = sqlite3_column_int64(stmt, 0);
    if (vid >= 1 && (uint64_t)vid <= n_rows) bits[(vid - 1) >> 6] |= (uint64_t)1 << ((vid - 1) & 63);
  }
  int final = sqlite3_finalize(stmt);
  if (rc == SQLITE_OK && final != SQLITE_OK) rc = dvx_fail_sqlite(t->conn, t, final);
  return rc;
}

/* Does this row pass one condition, with these values? */
static int filter_value(dvx_table *t, const dvx_condition *c, const dv_value *value, bool *passes) {
  *passes = false;
  for (size_t first = 0; first == 0 || (c->is_in && first < c->n_values); first += FILTER_IN_CHUNK) {
    filter_slice s = {first, c->n_values - first < FILTER_IN_CHUNK ? c->n_values - first : FILTER_IN_CHUNK};
    if (c->is_in && s.n == 0) return SQLITE_OK;
    dvx_str sql = {0};
    sqlite3_stmt *stmt = NULL;
    int parameter = 2;
    char *left = dvx_format("CAST(?1 AS %s)", filter_affinity(t, c->column));
    if (!left) return SQLITE_NOMEM;
    dvx_str_addf(&sql, "SELECT ");
    filter_expression(c, s, left, &parameter, &sql);
    sqlite3_free(left);
    int rc = filter_prepare(t, &sql, &stmt);
    if (rc == SQLITE_OK) rc = dvx_bind_value(stmt, 1, value);
    parameter = 2;
    if (rc == SQLITE_OK) rc = filter_bind(stmt, c, s, &parameter);
    if (rc == SQLITE_OK && sqlite3_step(stmt) == SQLITE_ROW) *passes = sqlite3_column_int(stmt, 0) != 0;
    int final = sqlite3_finalize(stmt);
    if (rc == SQLITE_OK && final != SQLITE_OK) rc = dvx_fail_sqlite(t->conn, t, final);
    if (rc != SQLITE_OK || *passes) return rc;
  }
  return SQLITE_OK;
}

/* Puts the row, with these metadata, to every condition and sets or clears its bit. */
static int filter_row(dvx_table *t, const dvx_condition *conditions, int n, uint32_t vid, const dv_value *fields,
                      uint64_t *bits) {
  bool passes = true;
  for (int i = 0; passes && i < n; i++) {
    dv_value v = {.type = DV_INTEGER, .integer = vid};
    int column = conditions[i].column, rc = SQLITE_OK;
    if (column == DVX_CONDITION_ID) {
      rc = dvx_row_id(t, vid, &v);
    } else if (column != DVX_CONDITION_ROWID) {
      v = fields[column];
    }
    if (rc == SQLITE_OK) rc = filter_value(t, &conditions[i], &v, &passes);
    if (rc != SQLITE_OK) return rc;
  }
  uint64_t bit = (uint64_t)1 << ((vid - 1) & 63);
  if (passes) {
    bits[(vid - 1) >> 6] |= bit;
  } else {
    bits[(vid - 1) >> 6] &= ~bit;
  }
  return SQLITE_OK;
}

/* Rows with uncommitted deltas: their metadata now. */
static int filter_touched(dvx_table *t, const dvx_condition *conditions, int n, uint64_t *bits) {
  dvx_overlay *o = &t->overlay;
  for (size_t i = 0; o->n_touched && i < o->n_touched_slots; i++) {
    uint32_t vid = o->touched[i].vid;
    dv_value fields[DVX_MAX_COLUMNS];
    if (vid == 0 || o->touched[i].last == 0 || !dvx_word_exists(dvx_row_word(t, vid))) continue;
    int rc = dvx_row_fields(t, vid, fields);
    if (rc == SQLITE_OK) rc = filter_row(t, conditions, n, vid, fields, bits);
    if (rc != SQLITE_OK) return rc;
  }
  return SQLITE_OK;
}

static int filter_past_row(dvx_table *t, const dvx_condition *conditions, int n, uint32_t vid, int64_t as_of,
                           uint64_t *bits) {
  uint64_t seq;
  int rc = dvx_row_seq_at(t, vid, as_of, &seq);
  if (rc != SQLITE_OK || seq == 0) return rc;
  dv_buf hold;
  dv_value fields[DVX_MAX_COLUMNS];
  rc = dvx_row_fields_at(t, vid, seq, &hold, fields);
  if (rc == SQLITE_OK) rc = filter_row(t, conditions, n, vid, fields, bits);
  dv_buf_free(&hold);
  return rc;
}

static int filter_past(dvx_table *t, const dvx_condition *conditions, int n, int64_t as_of, uint64_t *bits) {
  uint32_t *vids = NULL;
  size_t n_vids = 0;
  int rc = dvx_search_changed(t, as_of, &vids, &n_vids);
  for (size_t i = 0; rc == SQLITE_OK && i < n_vids; i++) rc = filter_past_row(t, conditions, n, vids[i], as_of, bits);
  sqlite3_free(vids);
  dvx_overlay *o = &t->overlay;
  for (size_t i = 0; rc == SQLITE_OK && o->n_touched && i < o->n_touched_slots; i++) {
    if (o->touched[i].vid && o->touched[i].last) rc = filter_past_row(t, conditions, n, o->touched[i].vid, as_of, bits);
  }
  return rc;
}

/* `id = x` and `id IN (…)` need no scan. */
static int filter_ids(dvx_table *t, const dvx_condition *c, uint64_t *bits) {
  for (size_t i = 0; i < c->n_values; i++) {
    dv_value id = c->values[i];
    uint32_t vid;
    bool may_be_integer = id.type == DV_REAL && id.real >= -0x1p63 && id.real < 0x1p63;
    if (may_be_integer && t->config->id_type != DVX_ID_TEXT && id.real == (double)(int64_t)id.real) {
      id.type = DV_INTEGER;
      id.integer = (int64_t)id.real;
    }
    if (id.type != (t->config->id_type == DVX_ID_TEXT ? DV_TEXT : DV_INTEGER)) {
      /* Another type than the column's: let SQLite apply its affinity. */
      dvx_condition one = *c;
      filter_slice s = {i, 1};
      int rc = filter_stored(t, &one, s, t->rows.n, bits);
      if (rc != SQLITE_OK) return rc;
      continue;
    }
    int rc = dvx_row_find(t, &id, &vid);
    if (rc != SQLITE_OK) return rc;
    if (vid) bits[(vid - 1) >> 6] |= (uint64_t)1 << ((vid - 1) & 63);
  }
  return SQLITE_OK;
}

/* ---- conditions on numbers --------------------------------------------------------------------------------------- */

/* A number among the keys of a column, which may not have one for it. */
typedef struct filter_threshold {
  bool is_exact; /* below is its key */
  bool has_below;
  int64_t below; /* the largest key that is not above it */
} filter_threshold;

/* In a column of integers, whose keys they are. As sqlite3IntFloatCompare() has it: exact, beyond 2^53 too. */
static filter_threshold filter_among_integers(const dv_value *v) {
  if (v->type == DV_INTEGER) return (filter_threshold){true, true, v->integer};
  if (v->real >= 0x1p63) return (filter_threshold){false, true, INT64_MAX};
  if (v->real < -0x1p63) return (filter_threshold){false, false, 0};
  int64_t whole = (int64_t)v->real; /* towards zero */
  if ((double)whole == v->real) return (filter_threshold){true, true, whole};
  return (filter_threshold){false, true, (double)whole > v->real ? whole - 1 : whole};
}

static filter_threshold filter_among_reals(const dv_value *v) {
  if (v->type == DV_REAL) return (filter_threshold){true, true, dvx_columns_real_key(v->real)};
  double nearest = (double)v->integer;
  int64_t key = dvx_columns_real_key(nearest);
  if (nearest < 0x1p63 && (int64_t)nearest == v->integer) return (filter_threshold){true, true, key};
  bool is_above = nearest >= 0x1p63 || (int64_t)nearest > v->integer;
  return (filter_threshold){false, true, is_above ? key - 1 : key};
}

static filter_threshold filter_threshold_of(const dvx_column_array *a, const dv_value *v) {
  return a->type == DV_REAL ? filter_among_reals(v) : filter_among_integers(v);
}

static void filter_between(dvx_number_test *test, int64_t low, int64_t high) {
  test->low = low;
  test->span = (uint64_t)high - (uint64_t)low;
  test->is_none = low > high;
}

/* The keys for which `key op number` holds. */
static void filter_compare(dvx_number_test *test, int op, filter_threshold h) {
  bool is_strict = op == SQLITE_INDEX_CONSTRAINT_LT || op == SQLITE_INDEX_CONSTRAINT_GE;
  switch (op) {
  case SQLITE_INDEX_CONSTRAINT_LT:
  case SQLITE_INDEX_CONSTRAINT_LE:
  case SQLITE_INDEX_CONSTRAINT_GT:
  case SQLITE_INDEX_CONSTRAINT_GE:
    /* The keys up to here are below; the others above. */
    if (h.is_exact && is_strict) {
      h.has_below = h.below > INT64_MIN;
      if (h.has_below) h.below--;
    }
    if (op == SQLITE_INDEX_CONSTRAINT_LT || op == SQLITE_INDEX_CONSTRAINT_LE) {
      filter_between(test, INT64_MIN, h.has_below ? h.below : INT64_MIN);
      test->is_none = !h.has_below;
    } else {
      filter_between(test, h.has_below && h.below < INT64_MAX ? h.below + 1 : INT64_MIN, INT64_MAX);
      test->is_none = h.has_below && h.below == INT64_MAX;
    }
    break;
  default: /* =, IS; and <>, IS NOT: the others */
    test->is_outside = op == SQLITE_INDEX_CONSTRAINT_NE || op == SQLITE_INDEX_CONSTRAINT_ISNOT;
    if (h.is_exact) {
      filter_between(test, h.below, h.below);
    } else if (test->is_outside) {
      test->is_outside = false;
      filter_between(test, INT64_MIN, INT64_MAX);
    } else {
      test->is_none = true;
    }
    break;
  }
}

/* SQLite gives the values of an IN list in their order, so hardly anything is ever moved. */
static void filter_list_add(dvx_number_test *test, int64_t key) {
  size_t i = test->n_list++;
  for (; i > 0 && test->list[i - 1] > key; i--) test->list[i] = test->list[i - 1];
  test->list[i] = key;
}

/* Does NULL pass? The value is one of no IN list. */
static bool filter_passes_null(const dvx_condition *c) {
  switch (c->op) {
  case SQLITE_INDEX_CONSTRAINT_ISNULL: return true;
  case SQLITE_INDEX_CONSTRAINT_IS: return c->values[0].type == DV_NULL;
  case SQLITE_INDEX_CONSTRAINT_ISNOT: return c->values[0].type != DV_NULL;
  default: return false;
  }
}

static bool filter_is_about_null(const dvx_condition *c) {
  return c->op == SQLITE_INDEX_CONSTRAINT_ISNULL || c->op == SQLITE_INDEX_CONSTRAINT_ISNOTNULL ||
         (!c->is_in && c->values[0].type == DV_NULL);
}

/* Of a condition that filter_is_about_null(): do all values pass but NULL? */
static bool filter_passes_values(const dvx_condition *c) {
  return c->op == SQLITE_INDEX_CONSTRAINT_ISNOTNULL || c->op == SQLITE_INDEX_CONSTRAINT_ISNOT;
}

static bool filter_is_pattern(const dvx_condition *c) {
  return c->op == SQLITE_INDEX_CONSTRAINT_LIKE || c->op == SQLITE_INDEX_CONSTRAINT_GLOB;
}

/* Can the condition on a column of numbers be judged by keys? Not a text, which may be a number; and not an integer
 * among reals of an IN list that is no real: SQLite rounds it there, but nowhere else. */
static bool filter_is_numeric(const dvx_column_array *a, const dvx_condition *c) {
  if (filter_is_about_null(c)) return !filter_is_pattern(c);
  if (filter_is_pattern(c)) return false;
  for (size_t i = 0; i < c->n_values; i++) {
    const dv_value *v = &c->values[i];
    if (v->type == DV_TEXT || v->type == DV_BLOB) return false;
    if (c->is_in && v->type != DV_NULL && a->type == DV_REAL && !filter_among_reals(v).is_exact) return false;
  }
  return true;
}

/* test->list is to be freed with sqlite3_free. */
static int filter_number_test(const dvx_column_array *a, const dvx_condition *c, dvx_number_test *test) {
  memset(test, 0, sizeof *test);
  if (!c->is_in) {
    test->keeps_null = filter_passes_null(c);
    if (!filter_is_about_null(c)) {
      filter_compare(test, c->op, filter_threshold_of(a, &c->values[0]));
    } else if (filter_passes_values(c)) {
      filter_between(test, INT64_MIN, INT64_MAX);
    } else {
      test->is_none = true;
    }
    return SQLITE_OK;
  }
  test->list = sqlite3_malloc64((c->n_values + 1) * sizeof *test->list);
  if (!test->list) return SQLITE_NOMEM;
  for (size_t i = 0; i < c->n_values; i++) {
    if (c->values[i].type == DV_NULL) continue;
    filter_threshold h = filter_threshold_of(a, &c->values[i]);
    if (h.is_exact) filter_list_add(test, h.below);
  }
  return SQLITE_OK;
}

static int filter_numbers(dvx_table *t, const dvx_column_array *a, const dvx_condition *c, uint64_t *bits) {
  dvx_number_test test;
  int rc = filter_number_test(a, c, &test);
  if (rc != SQLITE_OK) return rc;
  dvx_columns_keep_numbers(a, t->columns.n, &test, bits);
  sqlite3_free(test.list);
  return SQLITE_OK;
}

/* ---- conditions on distinct values ------------------------------------------------------------------------------- */

/* Is the condition one of equality with values that are compared byte by byte? */
static bool filter_is_identity(const dvx_column_array *a, const dvx_condition *c) {
  bool is_equality = c->op == SQLITE_INDEX_CONSTRAINT_EQ || c->op == SQLITE_INDEX_CONSTRAINT_IS ||
                     c->op == SQLITE_INDEX_CONSTRAINT_NE || c->op == SQLITE_INDEX_CONSTRAINT_ISNOT;
  if (!is_equality || c->collation || a->type == DV_INTEGER || a->type == DV_REAL) return false;
  for (size_t i = 0; i < c->n_values; i++) {
    if (c->values[i].type != a->type && c->values[i].type != DV_NULL) return false;
  }
  return true;
}

/* Code of a value that the column's are compared with for equality; 0: no row has it. */
static uint32_t filter_code(const dvx_column_array *a, const dv_value *v) {
  if (v->type == DV_NULL) return 0;
  if (a->type == DV_TEXT || a->type == DV_BLOB) return dvx_columns_code(a, v);
  filter_threshold h = filter_threshold_of(a, v);
  dv_value key = {.type = DV_INTEGER, .integer = h.below};
  return h.is_exact ? dvx_columns_code(a, &key) : 0;
}

/* `SELECT CAST(?1 AS TEXT) LIKE ?33, CAST(?2 AS TEXT) LIKE ?33, …`: a step costs more than what it computes. */
static int filter_prepare_batch(dvx_table *t, const dvx_condition *c, filter_slice s, int n_batch, sqlite3_stmt **out) {
  dvx_str sql = {0};
  for (int i = 0; i < n_batch; i++) {
    int parameter = n_batch + 1;
    char *left = dvx_format("CAST(?%d AS %s)", i + 1, filter_affinity(t, c->column));
    if (!left) {
      dvx_str_free(&sql);
      return SQLITE_NOMEM;
    }
    dvx_str_addf(&sql, i ? "," : "SELECT ");
    filter_expression(c, s, left, &parameter, &sql);
    sqlite3_free(left);
  }
  int parameter = n_batch + 1;
  int rc = filter_prepare(t, &sql, out);
  return rc == SQLITE_OK ? filter_bind(*out, c, s, &parameter) : rc;
}

static int filter_ask_batch(dvx_table *t, const dvx_column_array *a, sqlite3_stmt *stmt, uint32_t first, int n,
                            uint8_t *passes) {
  for (int i = 0; i < n; i++) {
    dv_value v = {0};
    if (first + (uint32_t)i) dvx_columns_distinct(a, first + (uint32_t)i, &v);
    /* Not copied, as dvx_bind_value() would: the statement is done with them before they can move. */
    int rc = v.type == DV_TEXT   ? sqlite3_bind_text(stmt, i + 1, (const char *)v.bytes, (int)v.n_bytes, SQLITE_STATIC)
             : v.type == DV_BLOB ? sqlite3_bind_blob(stmt, i + 1, v.bytes, (int)v.n_bytes, SQLITE_STATIC)
                                 : sqlite3_bind_null(stmt, i + 1);
    if (rc != SQLITE_OK) return rc;
  }
  if (sqlite3_step(stmt) == SQLITE_ROW) {
    for (int i = 0; i < n; i++) {
      if (sqlite3_column_int(stmt, i)) passes[first + (uint32_t)i] = 1;
    }
  }
  int rc = sqlite3_reset(stmt);
  return rc == SQLITE_OK ? SQLITE_OK : dvx_fail_sqlite(t->conn, t, rc);
}

/* SQLite's own word on the distinct values. */
static int filter_ask(dvx_table *t, const dvx_column_array *a, const dvx_condition *c, filter_slice s,
                      uint8_t *passes) {
  sqlite3_stmt *stmt = NULL;
  /* NULL is asked about only for the sake of a like() that somebody has made himself. */
  uint32_t code = filter_is_pattern(c) && t->columns.n ? 0 : 1;
  int n_batch = c->is_in || a->n_distinct < FILTER_BATCH ? 1 : FILTER_BATCH;
  int rc = filter_prepare_batch(t, c, s, n_batch, &stmt);
  for (; rc == SQLITE_OK && code < a->n_distinct; code += (uint32_t)n_batch) {
    uint32_t n_left = a->n_distinct - code;
    rc = filter_ask_batch(t, a, stmt, code, n_left < (uint32_t)n_batch ? (int)n_left : n_batch, passes);
  }
  sqlite3_finalize(stmt);
  return rc;
}

static int filter_ask_all(dvx_table *t, const dvx_column_array *a, const dvx_condition *c, uint8_t *passes) {
  int rc = SQLITE_OK;
  for (size_t first = 0; rc == SQLITE_OK && (first == 0 || (c->is_in && first < c->n_values));
       first += FILTER_IN_CHUNK) {
    filter_slice s = {first, c->n_values - first < FILTER_IN_CHUNK ? c->n_values - first : FILTER_IN_CHUNK};
    if (c->is_in && s.n == 0) break;
    rc = filter_ask(t, a, c, s, passes);
  }
  return rc;
}

/* Which codes pass, into an array of zeros. */
static int filter_codes(dvx_table *t, const dvx_column_array *a, const dvx_condition *c, uint8_t *passes) {
  if (!c->is_in) passes[0] = filter_passes_null(c);
  if (!c->is_in && filter_is_about_null(c) && !filter_is_pattern(c)) {
    memset(passes + 1, filter_passes_values(c), a->n_distinct - 1);
    return SQLITE_OK;
  }
  if (a->type == DV_INTEGER || a->type == DV_REAL) {
    dvx_number_test test;
    int rc = filter_number_test(a, c, &test);
    for (uint32_t code = 1; rc == SQLITE_OK && code < a->n_distinct; code++) {
      passes[code] = dvx_columns_passes(&test, a->distinct[code].place.key);
    }
    sqlite3_free(test.list);
    return rc;
  }
  if (!filter_is_identity(a, c)) return filter_ask_all(t, a, c, passes);
  bool is_other = c->op == SQLITE_INDEX_CONSTRAINT_NE || c->op == SQLITE_INDEX_CONSTRAINT_ISNOT;
  memset(passes + 1, is_other, a->n_distinct - 1);
  for (size_t i = 0; i < c->n_values; i++) {
    uint32_t code = filter_code(a, &c->values[i]);
    if (code) passes[code] = !is_other;
  }
  return SQLITE_OK;
}

static int filter_coded(dvx_table *t, const dvx_column_array *a, const dvx_condition *c, uint64_t *bits) {
  uint8_t *passes = sqlite3_malloc64(a->n_distinct);
  if (!passes) return SQLITE_NOMEM;
  memset(passes, 0, a->n_distinct);
  int rc = filter_codes(t, a, c, passes);
  if (rc == SQLITE_OK) dvx_columns_keep_codes(a, t->columns.n, passes, bits);
  sqlite3_free(passes);
  return rc;
}

/* ---- one filter -------------------------------------------------------------------------------------------------- */

/* The column's array, if the condition can be judged by it. */
static const dvx_column_array *filter_array(const dvx_table *t, const dvx_condition *c) {
  if (c->column < 0 || t->columns.arrays == NULL) return NULL;
  const dvx_column_array *a = &t->columns.arrays[c->column];
  if (a->state != DVX_COLUMN_READY) return NULL;
  if (a->type == DV_INTEGER || a->type == DV_REAL) return filter_is_numeric(a, c) ? a : NULL;
  /* One by one, nearly as many values as rows take longer than the rows. */
  return filter_is_identity(a, c) || a->n_distinct <= t->columns.n / 2 + 64 ? a : NULL;
}

/* What the condition says depends on the committed metadata alone. */
static bool filter_is_pure(const dvx_condition *c) {
  return c->column >= 0 && c->collation == NULL && !filter_is_pattern(c);
}

/* The conditions, written out; empty if the filter is not to be remembered. */
static void filter_key(const dvx_condition *conditions, int n, dv_buf *out) {
  dv_buf_init(out, &dvx_alloc);
  for (int i = 0; i < n; i++) {
    const dvx_condition *c = &conditions[i];
    int32_t head[3] = {c->column, c->op, c->is_in};
    uint64_t n_values = c->n_values;
    dv_buf_bytes(out, head, sizeof head);
    dv_buf_bytes(out, &n_values, sizeof n_values);
    for (size_t j = 0; j < c->n_values && out->n <= FILTER_MAX_KEY; j++) dv_value_write(out, &c->values[j]);
    if (!filter_is_pure(c) || out->n > FILTER_MAX_KEY || out->status != DV_OK) {
      dv_buf_free(out);
      return;
    }
  }
}

void dvx_filter_forget(dvx_table *t) {
  dvx_columns *columns = &t->columns;
  for (size_t i = 0; i < DVX_KNOWN_FILTERS; i++) sqlite3_free(columns->known[i].bits);
  memset(columns->known, 0, sizeof columns->known);
}

static const dvx_known_filter *filter_known(dvx_table *t, const dv_buf *key) {
  dvx_columns *columns = &t->columns;
  for (size_t i = 0; key->n && i < DVX_KNOWN_FILTERS; i++) {
    dvx_known_filter *known = &columns->known[i];
    if (known->bits == NULL || known->n_changes != columns->n_changes || known->n_key != key->n) continue;
    if (memcmp(known->key, key->data, key->n) != 0) continue;
    known->used = ++columns->clock;
    return known;
  }
  return NULL;
}

/* In the place of the one that was not used for longest. Without memory for it, it is not remembered. */
static void filter_remember(dvx_table *t, const dv_buf *key, const uint64_t *bits) {
  dvx_columns *columns = &t->columns;
  dvx_known_filter *at = &columns->known[0];
  for (size_t i = 1; i < DVX_KNOWN_FILTERS; i++) {
    if (columns->known[i].used < at->used) at = &columns->known[i];
  }
  size_t n_words = (columns->n + 63) / 64;
  uint64_t *copy = sqlite3_malloc64(n_words * sizeof *copy + key->n);
  if (!copy) return;
  sqlite3_free(at->bits);
  *at = (dvx_known_filter){(uint8_t *)(copy + n_words), key->n, copy, n_words, columns->n_changes, ++columns->clock};
  memcpy(copy, bits, n_words * sizeof *copy);
  memcpy(at->key, key->data, key->n);
}

/* The rows of some values of a partition key, if they are so few that going from one to the next is less work than
 * looking at every row. */
static bool filter_lists(dvx_table *t, const dvx_condition *c, uint64_t *bits) {
  const dvx_column_array *a = filter_array(t, c);
  bool is_equality = c->op == SQLITE_INDEX_CONSTRAINT_EQ || c->op == SQLITE_INDEX_CONSTRAINT_IS;
  if (a == NULL || !a->is_listed || !is_equality || filter_passes_null(c)) return false;
  if (a->type == DV_TEXT || a->type == DV_BLOB ? !filter_is_identity(a, c) : false) return false;
  uint64_t n_rows = 0;
  for (size_t i = 0; i < c->n_values; i++) {
    uint32_t code = filter_code(a, &c->values[i]);
    if (code) n_rows += a->distinct[code].n_rows;
  }
  if (n_rows > t->columns.n / 8) return false;
  for (size_t i = 0; i < c->n_values; i++) {
    uint32_t code = filter_code(a, &c->values[i]);
    if (code) dvx_columns_add_list(a, code, bits);
  }
  return true;
}

/* Sets the bits, which are zero, of the stored rows that pass the condition. */
static int filter_by_sql(dvx_table *t, const dvx_condition *c, size_t n_rows, uint64_t *bits) {
  int rc = SQLITE_OK;
  bool is_id = c->column == DVX_CONDITION_ID && c->collation == NULL;
  if (is_id && c->op == SQLITE_INDEX_CONSTRAINT_EQ) return filter_ids(t, c, bits);
  for (size_t first = 0; rc == SQLITE_OK && (first == 0 || (c->is_in && first < c->n_values));
       first += FILTER_IN_CHUNK) {
    filter_slice s = {first, c->n_values - first < FILTER_IN_CHUNK ? c->n_values - first : FILTER_IN_CHUNK};
    if (c->is_in && s.n == 0) break;
    rc = filter_stored(t, c, s, n_rows, bits);
  }
  return rc;
}

/* The conditions that arrays can judge: those of a partition first, since all others then look only at its rows. bits
 * are those of n_words; without such a condition they are left alone. */
static int filter_by_arrays(dvx_table *t, const dvx_condition *conditions, int n, size_t n_words, uint64_t *bits,
                            int *n_judged) {
  const dvx_columns *columns = &t->columns;
  int rc = SQLITE_OK, lists = -1;
  *n_judged = 0;
  for (int i = 0; i < n; i++) *n_judged += filter_array(t, &conditions[i]) != NULL;
  if (*n_judged == 0) return SQLITE_OK;
  memset(bits, 0, n_words * sizeof *bits);
  for (int i = 0; lists < 0 && i < n; i++) {
    if (filter_lists(t, &conditions[i], bits)) lists = i;
  }
  size_t n_there = (columns->n + 63) / 64;
  if (lists < 0) memcpy(bits, columns->has_line, n_there * sizeof *bits);
  for (int i = 0; rc == SQLITE_OK && i < n; i++) {
    const dvx_column_array *a = i == lists ? NULL : filter_array(t, &conditions[i]);
    if (a) rc = a->is_coded ? filter_coded(t, a, &conditions[i], bits) : filter_numbers(t, a, &conditions[i], bits);
  }
  return rc;
}

/* The stored rows that pass every condition. one: a second bitmap, to work in. */
static int filter_conditions(dvx_table *t, const dvx_condition *conditions, int n, size_t n_rows, uint64_t *bits,
                             uint64_t *one) {
  size_t n_words = n_rows / 64 + 1;
  int n_judged = 0;
  memset(bits, 0xff, n_words * sizeof *bits);
  dv_buf key;
  filter_key(conditions, n, &key);
  const dvx_known_filter *known = filter_known(t, &key);
  if (known) {
    memset(bits, 0, n_words * sizeof *bits);
    memcpy(bits, known->bits, known->n_words * sizeof *bits);
    dv_buf_free(&key);
    return SQLITE_OK;
  }
  int rc = filter_by_arrays(t, conditions, n, n_words, bits, &n_judged);
  for (int i = 0; rc == SQLITE_OK && n_judged < n && i < n; i++) {
    if (filter_array(t, &conditions[i])) continue;
    memset(one, 0, n_words * sizeof *one);
    rc = filter_by_sql(t, &conditions[i], n_rows, one);
    for (size_t w = 0; w < n_words; w++) bits[w] &= one[w];
  }
  if (rc == SQLITE_OK && n_judged == n && key.n) filter_remember(t, &key, bits);
  dv_buf_free(&key);
  return rc;
}

/* For `b LIKE 'abc%'` SQLite hands down `b >= 'ABC'` and `b < 'abd'` too, as if only texts could match. Blobs can, and
 * are behind all texts. Whoever wrote such a `<` himself gets it tested by SQLite afterwards. */
static bool filter_is_made_up(const dvx_table *t, const dvx_condition *conditions, int n, const dvx_condition *c) {
  if (c->column < 0 || t->config->columns[c->column].type != DVX_COLUMN_BLOB) return false;
  if (c->op != SQLITE_INDEX_CONSTRAINT_LT || c->values[0].type != DV_TEXT) return false;
  for (int i = 0; i < n; i++) {
    if (conditions[i].column == c->column && filter_is_pattern(&conditions[i])) return true;
  }
  return false;
}

int dvx_filter_rows(dvx_table *t, const dvx_condition *conditions, int n_conditions, bool has_as_of, int64_t as_of,
                    uint64_t **out) {
  dvx_condition kept[DVX_MAX_CONDITIONS];
  int n_kept = 0;
  for (int i = 0; i < n_conditions; i++) {
    if (!filter_is_made_up(t, conditions, n_conditions, &conditions[i])) kept[n_kept++] = conditions[i];
  }
  size_t n_rows = dvx_table_last_vid(t);
  size_t n_words = n_rows / 64 + 1;
  int wanted[DVX_MAX_COLUMNS], n_wanted = 0;
  for (int i = 0; i < n_kept && n_wanted < DVX_MAX_COLUMNS; i++) {
    if (kept[i].column >= 0) wanted[n_wanted++] = kept[i].column;
  }
  uint64_t *bits = sqlite3_malloc64(2 * n_words * sizeof *bits);
  if (!bits) return SQLITE_NOMEM;
  int rc = n_wanted ? dvx_columns_ready(t, wanted, n_wanted) : SQLITE_OK;
  if (rc == SQLITE_OK) rc = filter_conditions(t, kept, n_kept, n_rows, bits, bits + n_words);
  if (rc == SQLITE_OK)
    rc = has_as_of ? filter_past(t, kept, n_kept, as_of, bits) : filter_touched(t, kept, n_kept, bits);
  if (rc != SQLITE_OK) {
    sqlite3_free(bits);
    return rc;
  }
  *out = bits;
  return SQLITE_OK;
}
