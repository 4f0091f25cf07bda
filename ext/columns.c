/*
 * columns.c: metadata columns in memory, as arrays by row: what filters are evaluated on.
 *
 * Asking %_row reads every line of it for each search, which takes ten times as long as the search. So a column is read
 * once, when a condition on it is first met, and then kept current: a commit marks the rows whose metadata it sets, and
 * they are read again before the next use. Three forms:
 *
 *   numbers   INTEGER, BOOLEAN, REAL: an integer of eight bytes a row that sorts as the value does, and a bit that says
 *             whether there is one
 *   codes     TEXT, BLOB, and partition keys of any type: which of the column's distinct values the row has, four
 *             bytes. A condition is evaluated once for each distinct value (filter.c)
 *   lists     of a partition key: the rows that have a value, linked both ways through two arrays, so that a search of
 *             one partition does not look at the rows of others
 *
 * What is here is a function of the committed rows: but for rows with uncommitted metadata, when a transaction has
 * written those to %_row early, or a COMMIT was refused. Filters do not look for them here but at what is pending; and
 * whatever becomes of the transaction marks them (dvx_columns_row_changed in txn.c).
 *
 * A column is unfit, and conditions on it are put to SQL, when it is JSON, when its lines hold what its type does not
 * allow (a damaged file), or when its distinct values are more text than DVX_COLUMN_BYTES.
 */
#include "ext_int.h"

#define COLUMNS_MAX_PROBES 256u /* a value that collides with so many was made to: the column is unfit */
#define COLUMNS_RUN_GAP 16u /* marked rows so close are read as one run */

static inline bool columns_bit(const uint64_t *bits, size_t i) { return bits[i >> 6] >> (i & 63) & 1; }
static inline void columns_put_bit(uint64_t *bits, size_t i, bool value) {
  uint64_t bit = (uint64_t)1 << (i & 63);
  bits[i >> 6] = value ? bits[i >> 6] | bit : bits[i >> 6] & ~bit;
}

/* ---- numbers ----------------------------------------------------------------------------------------------------- */

/* Reals as integers of the same order. SQLite has no NaN, and no two zeros that differ. */
int64_t dvx_columns_real_key(double real) {
  int64_t bits;
  if (real == 0) real = 0; /* -0.0 too */
  memcpy(&bits, &real, sizeof bits);
  return bits < 0 ? (int64_t)((uint64_t)bits ^ (uint64_t)INT64_MAX) : bits;
}

static int64_t columns_key(const dv_value *v) {
  return v->type == DV_REAL ? dvx_columns_real_key(v->real) : v->integer;
}

/* ---- life -------------------------------------------------------------------------------------------------------- */

static void column_free(dvx_column_array *a, dvx_column_state state) {
  sqlite3_free(a->keys);
  sqlite3_free(a->is_there);
  sqlite3_free(a->codes);
  sqlite3_free(a->next);
  sqlite3_free(a->previous);
  sqlite3_free(a->distinct);
  sqlite3_free(a->slots);
  if (a->bytes.alloc) dv_buf_free(&a->bytes);
  memset(a, 0, sizeof *a);
  a->state = state;
}

void dvx_columns_free(dvx_table *t) {
  dvx_columns *c = &t->columns;
  for (int i = 0; c->arrays && i < t->config->n_columns; i++) column_free(&c->arrays[i], DVX_COLUMN_UNREAD);
  sqlite3_free(c->arrays);
  sqlite3_free(c->has_line);
  sqlite3_free(c->marked);
  dvx_filter_forget(t);
  memset(c, 0, sizeof *c);
}

size_t dvx_columns_memory(const dvx_table *t) {
  const dvx_columns *c = &t->columns;
  size_t n = c->capacity / 4;
  for (int i = 0; c->arrays && i < t->config->n_columns; i++) {
    const dvx_column_array *a = &c->arrays[i];
    n += sizeof *a + a->distinct_capacity * sizeof *a->distinct + a->n_slots * sizeof *a->slots + a->bytes.capacity;
    if (a->keys) n += c->capacity * sizeof *a->keys + c->capacity / 8;
    if (a->codes) n += c->capacity * sizeof *a->codes;
    if (a->next) n += c->capacity * 2 * sizeof *a->next;
  }
  for (size_t i = 0; i < DVX_KNOWN_FILTERS; i++) n += c->known[i].n_words * sizeof(uint64_t) + c->known[i].n_key;
  return n;
}

/* The arrays that the column's form has, from room for n_old rows to room for n. */
static int column_grow(dvx_column_array *a, size_t n_old, size_t n) {
  int rc = SQLITE_OK;
  if (!a->is_coded) rc = dvx_grow(&a->keys, n_old * sizeof *a->keys, n * sizeof *a->keys);
  if (rc == SQLITE_OK && !a->is_coded) rc = dvx_grow(&a->is_there, n_old / 8, n / 8);
  if (rc == SQLITE_OK && a->is_coded) rc = dvx_grow(&a->codes, n_old * sizeof *a->codes, n * sizeof *a->codes);
  if (rc == SQLITE_OK && a->is_listed) rc = dvx_grow(&a->next, n_old * sizeof *a->next, n * sizeof *a->next);
  if (rc == SQLITE_OK && a->is_listed)
    rc = dvx_grow(&a->previous, n_old * sizeof *a->previous, n * sizeof *a->previous);
  return rc;
}

/* Room for n rows in whole words of the bitmaps. */
static int columns_reserve(dvx_table *t, size_t n) {
  dvx_columns *c = &t->columns;
  if (n <= c->capacity) return SQLITE_OK;
  size_t capacity = c->capacity + c->capacity / 2;
  if (capacity < n) capacity = n;
  capacity = (capacity + 63) & ~(size_t)63;
  int rc = dvx_grow(&c->has_line, c->capacity / 8, capacity / 8);
  if (rc == SQLITE_OK) rc = dvx_grow(&c->marked, c->capacity / 8, capacity / 8);
  for (int i = 0; rc == SQLITE_OK && i < t->config->n_columns; i++) {
    if (c->arrays[i].state == DVX_COLUMN_READY) rc = column_grow(&c->arrays[i], c->capacity, capacity);
  }
  if (rc == SQLITE_OK) c->capacity = capacity;
  return rc;
}

/* ---- distinct values --------------------------------------------------------------------------------------------- */

static uint64_t columns_hash(const dv_value *v) {
  uint64_t h = 0x9e3779b97f4a7c15u;
  if (v->type == DV_INTEGER || v->type == DV_REAL) {
    h ^= (uint64_t)columns_key(v);
  } else {
    size_t n = v->n_bytes;
    const uint8_t *p = v->bytes;
    h ^= n * 0xff51afd7ed558ccdu;
    for (; n >= 8; n -= 8, p += 8) h = (h ^ dv_load_u64(p)) * 0x9fb21c651e98df25u ^ (h >> 29);
    uint64_t rest = 0;
    for (size_t i = 0; i < n; i++) rest |= (uint64_t)p[i] << (8 * i);
    h = (h ^ rest) * 0x9fb21c651e98df25u;
  }
  h ^= h >> 32;
  h *= 0xd6e8feb86659fd93u;
  return h ^ h >> 32;
}

static bool column_is_value(const dvx_column_array *a, const dvx_distinct *d, const dv_value *v) {
  if (v->type == DV_INTEGER || v->type == DV_REAL) return d->place.key == columns_key(v);
  return d->n_bytes == v->n_bytes &&
         (v->n_bytes == 0 || memcmp(a->bytes.data + d->place.offset, v->bytes, v->n_bytes) == 0);
}

/* The slot that has the value's code, or is free for it; n_slots if there were too many others in its place. */
static size_t column_slot(const dvx_column_array *a, uint64_t hash, const dv_value *v) {
  size_t mask = a->n_slots - 1, i = (size_t)hash & mask;
  for (unsigned n = 0; a->slots[i]; i = (i + 1) & mask, n++) {
    const dvx_distinct *d = &a->distinct[a->slots[i]];
    if (d->hash == hash && column_is_value(a, d, v)) return i;
    if (n == COLUMNS_MAX_PROBES) return a->n_slots;
  }
  return i;
}

uint32_t dvx_columns_code(const dvx_column_array *a, const dv_value *v) {
  if (a->n_slots == 0) return 0;
  size_t i = column_slot(a, columns_hash(v), v);
  return i < a->n_slots ? a->slots[i] : 0;
}

void dvx_columns_distinct(const dvx_column_array *a, uint32_t code, dv_value *out) {
  const dvx_distinct *d = &a->distinct[code];
  if (a->type == DV_TEXT || a->type == DV_BLOB) {
    const uint8_t *bytes = a->bytes.data ? a->bytes.data + d->place.offset : (const uint8_t *)"";
    *out = (dv_value){.type = a->type, .bytes = bytes, .n_bytes = d->n_bytes};
  } else {
    *out = (dv_value){.type = DV_INTEGER, .integer = d->place.key};
  }
}

static int column_grow_slots(dvx_column_array *a) {
  size_t n = a->n_slots ? 2 * a->n_slots : 64;
  uint32_t *slots = sqlite3_malloc64(n * sizeof *slots);
  if (!slots) return SQLITE_NOMEM;
  memset(slots, 0, n * sizeof *slots);
  for (uint32_t code = 1; code < a->n_distinct; code++) {
    size_t i = (size_t)a->distinct[code].hash & (n - 1);
    while (slots[i]) i = (i + 1) & (n - 1);
    slots[i] = code;
  }
  sqlite3_free(a->slots);
  a->slots = slots;
  a->n_slots = n;
  return SQLITE_OK;
}

/* The code of a value that is not NULL, made if there is none. SQLITE_CONSTRAINT, without a message: the column cannot
 * be held. */
static int column_encode(dvx_column_array *a, const dv_value *v, uint32_t *code) {
  if ((size_t)a->n_distinct * 4 >= a->n_slots * 3) {
    int rc = column_grow_slots(a);
    if (rc != SQLITE_OK) return rc;
  }
  uint64_t hash = columns_hash(v);
  size_t i = column_slot(a, hash, v);
  if (i == a->n_slots) return SQLITE_CONSTRAINT;
  *code = a->slots[i];
  if (*code) return SQLITE_OK;
  if (a->n_distinct == a->distinct_capacity) {
    size_t capacity = a->distinct_capacity ? 2 * a->distinct_capacity : 32;
    dvx_distinct *grown = sqlite3_realloc64(a->distinct, capacity * sizeof *grown);
    if (!grown) return SQLITE_NOMEM;
    a->distinct = grown;
    a->distinct_capacity = capacity;
  }
  dvx_distinct d = {.hash = hash};
  if (v->type == DV_TEXT || v->type == DV_BLOB) {
    if (a->bytes.n + v->n_bytes > DVX_COLUMN_BYTES) return SQLITE_CONSTRAINT;
    d.place.offset = a->bytes.n;
    d.n_bytes = (uint32_t)v->n_bytes;
    dv_buf_bytes(&a->bytes, v->bytes, v->n_bytes);
    if (a->bytes.status != DV_OK) {
      a->bytes.status = DV_OK;
      return SQLITE_NOMEM;
    }
  } else {
    d.place.key = columns_key(v);
  }
  *code = a->n_distinct++;
  a->distinct[*code] = d;
  a->slots[i] = *code;
  return SQLITE_OK;
}

/* ---- one row ----------------------------------------------------------------------------------------------------- */

static void column_unlink(dvx_column_array *a, size_t i) {
  dvx_distinct *d = &a->distinct[a->codes[i]];
  uint32_t next = a->next[i], previous = a->previous[i];
  if (previous) {
    a->next[previous - 1] = next;
  } else {
    d->first = next;
  }
  if (next) a->previous[next - 1] = previous;
  d->n_rows--;
}

static void column_link(dvx_column_array *a, size_t i) {
  dvx_distinct *d = &a->distinct[a->codes[i]];
  a->next[i] = d->first;
  a->previous[i] = 0;
  if (d->first) a->previous[d->first - 1] = (uint32_t)i + 1;
  d->first = (uint32_t)i + 1;
  d->n_rows++;
}

/* As column_encode(). */
static int column_set(dvx_column_array *a, size_t i, const dv_value *v) {
  if (v->type != DV_NULL && v->type != a->type) return SQLITE_CONSTRAINT;
  if (!a->is_coded) {
    a->keys[i] = v->type == DV_NULL ? 0 : columns_key(v);
    columns_put_bit(a->is_there, i, v->type != DV_NULL);
    return SQLITE_OK;
  }
  uint32_t code = 0;
  int rc = v->type == DV_NULL ? SQLITE_OK : column_encode(a, v, &code);
  if (rc != SQLITE_OK || code == a->codes[i]) return rc;
  if (a->is_listed && a->codes[i]) column_unlink(a, i);
  a->codes[i] = code;
  if (a->is_listed && code) column_link(a, i);
  return SQLITE_OK;
}

/* ---- reading %_row ----------------------------------------------------------------------------------------------- */

/* What one statement reads: some columns of a run of rows. */
typedef struct columns_reader {
  dvx_table *t;
  sqlite3_stmt *stmt;
  int *columns;
  int n;
} columns_reader;

/* A column that cannot be held is unfit from then on, and the others are read all the same. */
static int columns_set(columns_reader *r, int j, size_t i, const dv_value *v) {
  dvx_column_array *a = &r->t->columns.arrays[r->columns[j]];
  if (a->state == DVX_COLUMN_UNFIT) return SQLITE_OK;
  int rc = column_set(a, i, v);
  if (rc != SQLITE_CONSTRAINT) return rc;
  column_free(a, DVX_COLUMN_UNFIT);
  return SQLITE_OK;
}

static int columns_set_row(columns_reader *r, size_t i, bool has_line) {
  static const dv_value null = {0};
  int rc = SQLITE_OK;
  columns_put_bit(r->t->columns.has_line, i, has_line);
  for (int j = 0; rc == SQLITE_OK && j < r->n; j++) {
    dv_value v;
    if (!has_line) {
      rc = columns_set(r, j, i, &null);
      continue;
    }
    dvx_column_value(r->stmt, j + 1, &v);
    if (v.type == DV_NULL && sqlite3_column_type(r->stmt, j + 1) != SQLITE_NULL) return SQLITE_NOMEM;
    rc = columns_set(r, j, i, &v);
  }
  return rc;
}

static int columns_prepare(columns_reader *r) {
  dvx_str sql = {0};
  dvx_str_addf(&sql, "SELECT vid");
  for (int j = 0; j < r->n; j++) dvx_str_addf(&sql, ",c%d", r->columns[j] + 1);
  dvx_str_addf(&sql, " FROM \"%w\".\"%w_row\" WHERE vid BETWEEN ?1 AND ?2 ORDER BY vid", r->t->schema, r->t->name);
  char *z = dvx_str_take(&sql);
  if (!z) return SQLITE_NOMEM;
  int rc = sqlite3_prepare_v3(r->t->conn->db, z, -1, SQLITE_PREPARE_NO_VTAB, &r->stmt, NULL);
  sqlite3_free(z);
  return rc == SQLITE_OK ? SQLITE_OK : dvx_fail_sqlite(r->t->conn, r->t, rc);
}

/* The lines of rows first .. end - 1; rows without a line have no values. */
static int columns_read(columns_reader *r, size_t first, size_t end) {
  size_t at = first;
  sqlite3_bind_int64(r->stmt, 1, (int64_t)first + 1);
  sqlite3_bind_int64(r->stmt, 2, (int64_t)end);
  int rc = SQLITE_OK;
  while (rc == SQLITE_OK && sqlite3_step(r->stmt) == SQLITE_ROW) {
    /* A damaged b-tree gives what was not asked for, and in any order. */
    int64_t vid = sqlite3_column_int64(r->stmt, 0);
    if (vid <= (int64_t)at || vid > (int64_t)end) {
      rc = dvx_fail(r->t->conn, r->t, SQLITE_CORRUPT_VTAB, "%s_row: line %i is not where it belongs", r->t->name, vid);
      break;
    }
    size_t i = (size_t)vid - 1;
    for (; rc == SQLITE_OK && at < i; at++) rc = columns_set_row(r, at, false);
    if (rc == SQLITE_OK) rc = columns_set_row(r, i, true);
    at = i + 1;
  }
  int reset = sqlite3_reset(r->stmt);
  if (rc == SQLITE_OK && reset != SQLITE_OK) rc = dvx_fail_sqlite(r->t->conn, r->t, reset);
  for (; rc == SQLITE_OK && at < end; at++) rc = columns_set_row(r, at, false);
  return rc;
}

/* ---- staying current --------------------------------------------------------------------------------------------- */

void dvx_columns_row_changed(dvx_table *t, uint32_t vid) {
  dvx_columns *c = &t->columns;
  dvx_row_set_bare(t, vid, false);
  if (vid == 0 || vid > c->n) return; /* a row that is not here will be read when it is */
  c->n_changes++;
  if (columns_bit(c->marked, vid - 1)) return;
  columns_put_bit(c->marked, vid - 1, true);
  c->n_marked++;
}

/* Reads marked rows again, in runs. */
static int columns_read_marked(columns_reader *r) {
  dvx_columns *c = &r->t->columns;
  for (size_t i = 0; c->n_marked && i < c->n;) {
    if (c->marked[i >> 6] == 0) {
      i = (i | 63) + 1;
      continue;
    }
    if (!columns_bit(c->marked, i)) {
      i++;
      continue;
    }
    size_t end = i + 1;
    for (size_t ahead = end; ahead < c->n && ahead < end + COLUMNS_RUN_GAP; ahead++) {
      if (columns_bit(c->marked, ahead)) end = ahead + 1;
    }
    int rc = columns_read(r, i, end);
    if (rc != SQLITE_OK) return rc;
    for (; i < end; i++) {
      if (!columns_bit(c->marked, i)) continue;
      columns_put_bit(c->marked, i, false);
      c->n_marked--;
    }
  }
  return SQLITE_OK;
}

/* The columns that are here up to the committed rows. */
static int columns_refresh(dvx_table *t, columns_reader *r) {
  dvx_columns *c = &t->columns;
  size_t n = t->rows.n;
  for (int i = 0; i < t->config->n_columns; i++) {
    if (c->arrays[i].state == DVX_COLUMN_READY) r->columns[r->n++] = i;
  }
  if (r->n == 0) { /* nothing is here: what is read next covers all rows */
    if (c->n_marked) memset(c->marked, 0, c->capacity / 8);
    c->n_marked = c->n = 0;
    return SQLITE_OK;
  }
  if (c->n == n && c->n_marked == 0) return SQLITE_OK;
  int rc = columns_reserve(t, n);
  if (rc == SQLITE_OK) rc = columns_prepare(r);
  if (rc == SQLITE_OK) rc = columns_read_marked(r);
  if (rc == SQLITE_OK && c->n < n) {
    rc = columns_read(r, c->n, n);
    if (rc == SQLITE_OK) c->n = n;
    c->n_changes++;
  }
  return rc;
}

static void column_begin(const dvx_config *config, int column, dvx_column_array *a) {
  static const dv_value_type types[] = {
      [DVX_COLUMN_INTEGER] = DV_INTEGER, [DVX_COLUMN_REAL] = DV_REAL, [DVX_COLUMN_TEXT] = DV_TEXT,
      [DVX_COLUMN_BOOLEAN] = DV_INTEGER, [DVX_COLUMN_BLOB] = DV_BLOB, [DVX_COLUMN_JSON] = DV_NULL};
  const dvx_column *declared = &config->columns[column];
  a->type = types[declared->type];
  a->is_listed = declared->is_partition_key;
  a->is_coded = a->is_listed || a->type == DV_TEXT || a->type == DV_BLOB;
  a->n_distinct = 1; /* code 0 is NULL */
  dv_buf_init(&a->bytes, &dvx_alloc);
  a->state = declared->type == DVX_COLUMN_JSON ? DVX_COLUMN_UNFIT : DVX_COLUMN_READY;
}

/* Reads the columns of the list, which are not here, whole. */
static int columns_load(dvx_table *t, columns_reader *r) {
  dvx_columns *c = &t->columns;
  size_t n = t->rows.n;
  int rc = columns_reserve(t, n ? n : 1);
  for (int j = 0; rc == SQLITE_OK && j < r->n; j++) {
    dvx_column_array *a = &c->arrays[r->columns[j]];
    column_begin(t->config, r->columns[j], a);
    if (a->state == DVX_COLUMN_READY) rc = column_grow(a, 0, c->capacity);
    if (rc == SQLITE_OK && a->is_coded) {
      a->distinct = sqlite3_malloc64(32 * sizeof *a->distinct);
      a->distinct_capacity = 32;
      if (!a->distinct) rc = SQLITE_NOMEM;
    }
  }
  if (rc == SQLITE_OK) rc = columns_prepare(r);
  if (rc == SQLITE_OK) rc = columns_read(r, 0, n);
  if (rc == SQLITE_OK) {
    c->n = n;
    c->n_changes++;
    return SQLITE_OK;
  }
  for (int j = 0; j < r->n; j++) column_free(&c->arrays[r->columns[j]], DVX_COLUMN_UNREAD);
  return rc;
}

/* Values that no row has any more stay among the distinct ones. When they are the most, the column is read anew. */
static void columns_drop_worn(dvx_table *t) {
  for (int i = 0; i < t->config->n_columns; i++) {
    dvx_column_array *a = &t->columns.arrays[i];
    if (a->state == DVX_COLUMN_READY && a->n_distinct > 2 * (size_t)t->rows.n + 64) column_free(a, DVX_COLUMN_UNREAD);
  }
}

int dvx_columns_ready(dvx_table *t, const int *wanted, int n_wanted) {
  dvx_columns *c = &t->columns;
  int columns[DVX_MAX_COLUMNS];
  if (c->arrays == NULL) {
    size_t n_bytes = (size_t)t->config->n_columns * sizeof *c->arrays;
    c->arrays = sqlite3_malloc64(n_bytes);
    if (!c->arrays) return SQLITE_NOMEM;
    memset(c->arrays, 0, n_bytes);
  }
  columns_drop_worn(t);
  columns_reader r = {.t = t, .columns = columns};
  int rc = columns_refresh(t, &r);
  sqlite3_finalize(r.stmt);
  if (rc != SQLITE_OK) return rc;
  r = (columns_reader){.t = t, .columns = columns};
  for (int j = 0; j < n_wanted; j++) {
    bool is_listed = false;
    for (int i = 0; i < r.n; i++) is_listed = is_listed || columns[i] == wanted[j];
    if (!is_listed && c->arrays[wanted[j]].state == DVX_COLUMN_UNREAD) columns[r.n++] = wanted[j];
  }
  if (r.n == 0) return SQLITE_OK;
  rc = columns_load(t, &r);
  sqlite3_finalize(r.stmt);
  return rc;
}

/* ---- passes over the rows: each takes bits away ------------------------------------------------------------------- */

bool dvx_columns_passes(const dvx_number_test *test, int64_t key) {
  if (test->is_none) return false;
  if (test->list == NULL) return ((uint64_t)key - (uint64_t)test->low <= test->span) != test->is_outside;
  size_t low = 0, high = test->n_list;
  while (low < high) {
    size_t middle = low + (high - low) / 2;
    if (test->list[middle] < key) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low < test->n_list && test->list[low] == key;
}

/* Rows of a word one by one: for what takes long. */
static uint64_t columns_test_word(const dvx_number_test *test, const int64_t *keys, uint64_t word) {
  uint64_t passing = 0;
  for (unsigned j = 0; word; word >>= 1, j++) {
    if (word & 1) passing |= (uint64_t)dvx_columns_passes(test, keys[j]) << j;
  }
  return passing;
}

void dvx_columns_keep_numbers(const dvx_column_array *a, size_t n, const dvx_number_test *test, uint64_t *bits) {
  uint64_t low = (uint64_t)test->low, span = test->span, flip = test->is_outside ? ~(uint64_t)0 : 0;
  for (size_t w = 0; w < (n + 63) / 64; w++) {
    const int64_t *keys = a->keys + 64 * w;
    uint64_t there = a->is_there[w], word = 0;
    if (bits[w] == 0) continue;
    if (test->list) {
      word = columns_test_word(test, keys, bits[w] & there);
    } else if (!test->is_none) {
      for (unsigned j = 0; j < 64; j++) word |= (uint64_t)((uint64_t)keys[j] - low <= span) << j;
      word ^= flip;
    }
    bits[w] &= (word & there) | (test->keeps_null ? ~there : 0);
  }
}

void dvx_columns_keep_codes(const dvx_column_array *a, size_t n, const uint8_t *passes, uint64_t *bits) {
  for (size_t w = 0; w < (n + 63) / 64; w++) {
    const uint32_t *codes = a->codes + 64 * w;
    uint64_t word = 0;
    if (bits[w] == 0) continue;
    for (unsigned j = 0; j < 64; j++) word |= (uint64_t)passes[codes[j]] << j;
    bits[w] &= word;
  }
}

void dvx_columns_add_list(const dvx_column_array *a, uint32_t code, uint64_t *bits) {
  for (uint32_t at = a->distinct[code].first; at; at = a->next[at - 1]) {
    bits[(at - 1) >> 6] |= (uint64_t)1 << ((at - 1) & 63);
  }
}
