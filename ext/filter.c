/*
 * filter.c: conditions on declared columns, turned into a bitmap of the rows that pass.
 *
 * SQLite evaluates them, on %_row: `c2 < ?1 AND c1 LIKE ?2`. So affinity, collation, NULL and LIKE mean inside the
 * search exactly what they mean in SQLite, because they are SQLite's. Rows whose metadata is not in %_row (uncommitted
 * changes, past states) are put to the same expression as values: `CAST(?1 AS REAL) < ?2`.
 */
#include "ext_int.h"

#define FILTER_MAX_COLUMNS 64
#define FILTER_IN_CHUNK 400 /* values of an IN list in one statement; longer lists are asked in pieces */

static const char *filter_affinity(const dvx_table *t, int column) {
  if (column < 0) return t->config->id_type == DVX_ID_TEXT ? "TEXT" : "INTEGER";
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

static void filter_expression(const dvx_table *t, const dvx_condition *c, filter_slice s, const char *left,
                              int *parameter, dvx_str *sql) {
  (void)t;
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
  char left[16];
  char *name = c->column < 0 ? dvx_format("id") : dvx_format("c%d", c->column + 1);
  if (!name) return SQLITE_NOMEM;
  size_t n = strlen(name);
  memcpy(left, name, n + 1);
  sqlite3_free(name);
  dvx_str_addf(&sql, "SELECT vid FROM \"%w\".\"%w_row\" WHERE ", t->schema, t->name);
  filter_expression(t, c, s, left, &parameter, &sql);
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
    filter_expression(t, c, s, left, &parameter, &sql);
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
    if (conditions[i].column < 0) {
      dv_value id;
      int rc = dvx_row_id(t, vid, &id);
      if (rc == SQLITE_OK) rc = filter_value(t, &conditions[i], &id, &passes);
      if (rc != SQLITE_OK) return rc;
    } else {
      int rc = filter_value(t, &conditions[i], &fields[conditions[i].column], &passes);
      if (rc != SQLITE_OK) return rc;
    }
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
    dv_value fields[FILTER_MAX_COLUMNS];
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
  dv_value fields[FILTER_MAX_COLUMNS];
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
    if (id.type == DV_REAL && t->config->id_type != DVX_ID_TEXT && id.real == (double)(int64_t)id.real) {
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

int dvx_filter_rows(dvx_table *t, const dvx_condition *conditions, int n_conditions, bool has_as_of, int64_t as_of,
                    uint64_t **out) {
  size_t n_rows = dvx_table_last_vid(t);
  size_t n_words = n_rows / 64 + 1;
  uint64_t *bits = sqlite3_malloc64(2 * n_words * sizeof *bits);
  if (!bits) return SQLITE_NOMEM;
  uint64_t *one = bits + n_words;
  memset(bits, 0xff, n_words * sizeof *bits);
  int rc = SQLITE_OK;
  for (int i = 0; rc == SQLITE_OK && i < n_conditions; i++) {
    const dvx_condition *c = &conditions[i];
    memset(one, 0, n_words * sizeof *one);
    if (c->column < 0 && c->op == SQLITE_INDEX_CONSTRAINT_EQ && c->collation == NULL) {
      rc = filter_ids(t, c, one);
    } else {
      for (size_t first = 0; rc == SQLITE_OK && (first == 0 || (c->is_in && first < c->n_values));
           first += FILTER_IN_CHUNK) {
        filter_slice s = {first, c->n_values - first < FILTER_IN_CHUNK ? c->n_values - first : FILTER_IN_CHUNK};
        if (c->is_in && s.n == 0) break;
        rc = filter_stored(t, c, s, n_rows, one);
      }
    }
    for (size_t w = 0; w < n_words; w++) bits[w] &= one[w];
  }
  if (rc == SQLITE_OK)
    rc = has_as_of ? filter_past(t, conditions, n_conditions, as_of, bits)
                   : filter_touched(t, conditions, n_conditions, bits);
  if (rc != SQLITE_OK) {
    sqlite3_free(bits);
    return rc;
  }
  *out = bits;
  return SQLITE_OK;
}
