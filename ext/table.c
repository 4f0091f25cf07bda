/*
 * table.c: the state of one table in one connection: finding it, and keeping what is in memory equal to the file.
 *
 * State belongs to (connection, schema, table), not to the sqlite3_vtab object: within one transaction SQLite makes and
 * drops such objects (a foreign CREATE TABLE, ROLLBACK TO over DDL), and all of them must see the same pending deltas.
 * So objects hold references to a dvx_table, and it is freed with the last.
 *
 * What is in memory is a function of the log up to `position`. When a read begins:
 *
 *   1. A read transaction is opened, if there is none. If SQLITE_FCNTL_DATA_VERSION, which then is that of our
 *      snapshot, has not moved since the last comparison, nothing has changed: unless SQLite has read the schema anew
 *      since, when it may be the data version of another file.
 *   2. Otherwise the stamp is read: generation, and where the log ends. Equal: nothing has changed for this table.
 *   3. The log has grown: the new records are applied (what other connections committed).
 *   4. Anything else (another generation, another history, an older snapshot): everything is forgotten and loaded anew.
 *
 * No order of stamps is assumed, so backup, restore, ATTACH of another file under the same name, snapshots and VACUUM
 * need no case of their own. A comparison made inside a write transaction is not trusted later, since a ROLLBACK takes
 * the file back without moving the data version.
 */
#include "ext_int.h"

static void table_free_memory(dvx_table *t) {
  dvx_search_forget(t);
  dvx_graph_free(t);
  dvx_mirror_free(t);
  dvx_columns_free(t);
  dvx_log_free(t);
  dvx_ids_clear(&t->ids);
  sqlite3_free(t->rows.words);
  sqlite3_free(t->rows.times);
  sqlite3_free(t->rows.has_time);
  sqlite3_free(t->rows.is_bare);
  memset(&t->rows, 0, sizeof t->rows);
  for (size_t i = 0; i < t->vectors.n_chunks; i++) sqlite3_free(t->vectors.chunks[i].at);
  sqlite3_free(t->vectors.chunks);
  sqlite3_free(t->vectors.regions);
  memset(&t->vectors, 0, sizeof t->vectors);
}

static void table_free(dvx_table *t) {
  dvx_shadow_finalize(t);
  dvx_txn_free(t);
  table_free_memory(t);
  sqlite3_free(t->known_options.json);
  sqlite3_free(t->fold_vector);
  sqlite3_free(t->next_vector);
  sqlite3_free(t->apply_vector);
  dv_buf_free(&t->fold_bytes);
  dv_buf_free(&t->field_bytes);
  dv_buf_free(&t->json_bytes);
  dvx_config_free(t->config);
  sqlite3_free(t->schema);
  sqlite3_free(t->name);
  sqlite3_free(t);
}

/* ---- registry ------------------------------------------------------------------------------------------------------
 *
 * conn->tables lists every dvx_table that is alive. One that is registered can be found by name, and the registry holds
 * a reference to it: a foreign CREATE TABLE makes SQLite drop and connect its objects again, and memory is to survive
 * that. When no object is left, its statements are finalized (an open connection to a detached or closed database must
 * not hang on them), unless it is being read: then when the read ends.
 */

static dvx_table *table_lookup(dvx_conn *conn, const char *schema, const char *name) {
  for (dvx_table *t = conn->tables; t; t = t->next) {
    if (t->is_registered && sqlite3_stricmp(t->name, name) == 0 && sqlite3_stricmp(t->schema, schema) == 0) return t;
  }
  return NULL;
}

void dvx_table_release(dvx_table *t) {
  if (--t->n_refs > 0) return;
  dvx_table **at = &t->conn->tables;
  while (*at != t) at = &(*at)->next;
  *at = t->next;
  table_free(t);
}

void dvx_table_unregister(dvx_table *t) {
  if (!t->is_registered) return;
  t->is_registered = false;
  dvx_table_release(t);
}

void dvx_table_register(dvx_table *t) {
  if (t->is_registered) return;
  dvx_table *other = table_lookup(t->conn, t->schema, t->name);
  if (other) dvx_table_unregister(other);
  t->is_registered = true;
  t->n_refs++;
}

/* A ROLLBACK gives the table the name back that a RENAME took from it. When the name went away and came back more than
 * once in the transaction, several dvx_tables have had it, and are told of the ROLLBACK: the oldest is the one that was
 * there. */
void dvx_table_register_again(dvx_table *t) {
  dvx_table *other = table_lookup(t->conn, t->schema, t->name);
  if (other == NULL || other->number >= t->number) dvx_table_register(t);
}

static void table_finalize_if_idle(dvx_table *t) {
  if (t->n_objects || t->n_reads || t->overlay.is_open) return;
  t->n_refs++;
  dvx_shadow_finalize(t);
  dvx_table_release(t);
}

void dvx_table_drop_object(dvx_table *t) {
  t->n_objects--;
  table_finalize_if_idle(t);
  dvx_table_release(t);
}

/* Lets go of tables that no object serves any more and whose schema was detached. */
static void table_sweep(dvx_conn *conn) {
  for (dvx_table *t = conn->tables, *next; t; t = next) {
    t->n_refs++;
    if (t->n_objects == 0 && !t->overlay.is_open && sqlite3_txn_state(conn->db, t->schema) < 0) dvx_table_unregister(t);
    next = t->next;
    dvx_table_release(t);
  }
}

static void table_pin(dvx_conn *conn, dvx_table *t) {
  dvx_table *before = conn->found;
  if (t) t->n_refs++;
  conn->found = t;
  if (before) dvx_table_release(before);
}

void dvx_conn_free_tables(dvx_conn *conn) {
  table_pin(conn, NULL);
  while (conn->tables) {
    dvx_table *t = conn->tables;
    t->is_registered = false;
    t->n_refs = 1;
    dvx_table_release(t);
  }
}

/* The same CREATE statement? Another process may have dropped the table and made another one under the same name. */
static bool table_same_config(const dvx_config *a, const dvx_config *b) {
  return a->dimensions == b->dimensions && a->metric == b->metric && a->id_type == b->id_type &&
         a->n_columns == b->n_columns && a->checkpoint_interval == b->checkpoint_interval &&
         a->max_vectors == b->max_vectors && a->compression == b->compression && a->index == b->index &&
         a->retention.unit == b->retention.unit && a->retention.amount == b->retention.amount &&
         a->hnsw_m == b->hnsw_m && a->hnsw_ef_construction == b->hnsw_ef_construction &&
         a->hnsw_ef_search == b->hnsw_ef_search && a->recall_target >= b->recall_target &&
         a->recall_target <= b->recall_target && a->threads == b->threads && a->memory_limit == b->memory_limit &&
         strcmp(a->declaration, b->declaration) == 0;
}

static char *table_strdup(const char *z) {
  size_t n = strlen(z) + 1;
  char *p = sqlite3_malloc64(n);
  if (p) memcpy(p, z, n);
  return p;
}

int dvx_table_acquire(dvx_conn *conn, const char *schema, const char *name, dvx_config *config, bool is_new,
                      dvx_table **out) {
  table_sweep(conn);
  dvx_table *t = table_lookup(conn, schema, name);
  if (t && (is_new || !table_same_config(t->config, config))) {
    dvx_table_unregister(t); /* objects that still hold it keep it alive */
    t = NULL;
  }
  if (t) {
    if (!t->overlay.is_open) {
      /* The schema was read anew, perhaps out of another file: behind DETACH and ATTACH, or sqlite3_deserialize(), data
       * versions are counted from the beginning again. */
      t->is_version_known = false;
    } else if (t->overlay.n_pending == 0) {
      /* What memory holds may be of a table that a ROLLBACK TO has unmade and a RENAME made again. */
      dvx_table_forget(t);
    }
    dvx_config_free(config);
    t->n_refs++;
    t->n_objects++;
    *out = t;
    return SQLITE_OK;
  }
  t = sqlite3_malloc64(sizeof *t);
  if (!t) {
    dvx_config_free(config);
    return SQLITE_NOMEM;
  }
  memset(t, 0, sizeof *t);
  t->conn = conn;
  t->number = ++conn->n_tables_made;
  t->is_attached = sqlite3_stricmp(schema, "main") != 0 && sqlite3_stricmp(schema, "temp") != 0;
  t->config = config;
  t->n_refs = 1;
  t->n_objects = 1;
  t->recall = -1;
  t->hnsw_ef_search = config->hnsw_ef_search;
  t->threads = config->threads;
  t->memory_limit = config->memory_limit;
  t->chunk_shift = dvx_vectors_chunk_shift(config->dimensions);
  dv_buf_init(&t->fold_bytes, &dvx_alloc);
  dv_buf_init(&t->field_bytes, &dvx_alloc);
  dv_buf_init(&t->json_bytes, &dvx_alloc);
  dvx_txn_init(t);
  t->schema = table_strdup(schema);
  t->name = table_strdup(name);
  t->fold_vector = sqlite3_malloc64(config->dimensions * sizeof(float));
  t->next_vector = sqlite3_malloc64(config->dimensions * sizeof(float));
  t->apply_vector = sqlite3_malloc64(config->dimensions * sizeof(float));
  if (!t->schema || !t->name || !t->fold_vector || !t->next_vector || !t->apply_vector) {
    table_free(t);
    return SQLITE_NOMEM;
  }
  t->next = conn->tables;
  conn->tables = t;
  dvx_table_register(t);
  *out = t;
  return SQLITE_OK;
}

/* ---- finding by name --------------------------------------------------------------------------------------------- */

static dvx_table *table_lookup_dotted(dvx_conn *conn, const char *name) {
  dvx_table *in_main = NULL, *other = NULL;
  for (dvx_table *t = conn->tables; t; t = t->next) {
    if (t->is_registered && sqlite3_stricmp(t->name, name) == 0) {
      /* SQLite resolves an unqualified name in temp, main, then the attached ones. */
      if (sqlite3_stricmp(t->schema, "temp") == 0) return t;
      if (sqlite3_stricmp(t->schema, "main") == 0) {
        in_main = t;
      } else {
        other = t;
      }
    }
  }
  return in_main ? in_main : other;
}

static dvx_table *table_lookup_qualified(dvx_conn *conn, const char *name) {
  const char *dot = strchr(name, '.');
  if (!dot) return NULL;
  size_t n = (size_t)(dot - name);
  for (dvx_table *t = conn->tables; t; t = t->next) {
    if (t->is_registered && strlen(t->schema) == n && sqlite3_strnicmp(t->schema, name, (int)n) == 0 &&
        sqlite3_stricmp(t->name, dot + 1) == 0) {
      return t;
    }
  }
  return NULL;
}

/* The one table of this name that is connected already. With two of them SQLite must say which it is; and if the name has
 * that of a schema, whether it is not all the name of a table. That it has said before is enough: whoever creates another
 * table connects it, or changes the schema. */
static dvx_table *table_lookup_only(dvx_conn *conn, const char *name) {
  dvx_table *found = NULL;
  for (dvx_table *t = conn->tables; t; t = t->next) {
    if (!t->is_registered || sqlite3_stricmp(t->name, name) != 0) continue;
    if (found) return NULL;
    found = t;
  }
  if (found) return found;
  found = table_lookup_qualified(conn, name);
  return found && found->is_found_by_schema ? found : NULL;
}

/* Makes SQLite connect the virtual table by preparing a statement on it. */
static int table_connect(dvx_conn *conn, const char *schema, int n_schema, const char *name) {
  dvx_str s = {0};
  dvx_str_addf(&s, "SELECT 1 FROM ");
  if (schema) {
    dvx_str q = {0};
    dvx_str_add(&q, schema, (size_t)n_schema);
    char *z = dvx_str_take(&q);
    if (z) dvx_str_addf(&s, "\"%w\".", z);
    sqlite3_free(z);
  }
  dvx_str_addf(&s, "\"%w\" LIMIT 0", name);
  char *sql = dvx_str_take(&s);
  if (!sql) return SQLITE_NOMEM;
  sqlite3_stmt *stmt = NULL;
  int rc = sqlite3_prepare_v2(conn->db, sql, -1, &stmt, NULL);
  sqlite3_finalize(stmt);
  sqlite3_free(sql);
  return rc;
}

static uint32_t table_data_version(dvx_table *t) {
  unsigned int v = 0;
  (void)sqlite3_file_control(t->conn->db, t->schema, SQLITE_FCNTL_DATA_VERSION, &v);
  return v;
}

/* How often SQLite had to prepare a statement anew: it does so when the schema is not that of the last time. -1: there is
 * none. */
static int table_schema_count(const dvx_table *t, dvx_sql which) {
  sqlite3_stmt *stmt = t->stmts[which];
  return stmt ? sqlite3_stmt_status(stmt, SQLITE_STMTSTATUS_REPREPARE, 0) : -1;
}

/* Opens a read transaction, until the statement is reset. */
static int table_step_pin(dvx_table *t) {
  sqlite3_stmt *stmt = NULL;
  int count = table_schema_count(t, DVX_SQL_PIN);
  int rc = dvx_shadow_stmt(t, DVX_SQL_PIN, &stmt);
  if (rc != SQLITE_OK) return rc;
  sqlite3_reset(stmt); /* a ROLLBACK may have ended what it held */
  rc = sqlite3_step(stmt);
  /* While a statement of the application holds our object, SQLite does not tell us of a DETACH. Our own statements tell. */
  if (table_schema_count(t, DVX_SQL_PIN) != count) t->is_version_known = false;
  if (rc == SQLITE_ROW || rc == SQLITE_DONE) return SQLITE_OK;
  return dvx_fail_sqlite(t->conn, t, sqlite3_reset(stmt));
}

/* Begins a read if the table can be used as it is known; else *is_current is false. Somebody may have changed the
 * schema since: preparing a statement does not notice that, reading does. */
static int table_begin_current(dvx_table *t, bool *is_current) {
  *is_current = true;
  if (t->overlay.is_open || t->n_reads) return dvx_table_begin_read(t);
  *is_current = false;
  if (!t->is_loaded || !t->is_version_known || t->n_objects == 0) return SQLITE_OK;
  int count = table_schema_count(t, DVX_SQL_STAMP);
  t->n_refs++;
  int rc = SQLITE_OK;
  if (t->is_attached && sqlite3_txn_state(t->conn->db, t->schema) != SQLITE_TXN_NONE) {
    rc = table_step_pin(t); /* the transaction may be one on a file that was attached a moment ago */
    if (rc == SQLITE_OK) sqlite3_reset(t->stmts[DVX_SQL_PIN]);
  }
  if (rc == SQLITE_OK) rc = dvx_table_begin_read(t);
  if (rc != SQLITE_OK) {
    sqlite3_free(t->conn->error);
    t->conn->error = NULL;
  } else if (t->is_registered && table_schema_count(t, DVX_SQL_STAMP) == count) {
    *is_current = true; /* others wrote rows, perhaps: most do; what the name means has not changed */
  } else {
    dvx_table_end_read(t);
  }
  dvx_table_release(t);
  return SQLITE_OK;
}

/* Makes SQLite connect the table, by the rules it has for names; a dot may be in the name or end that of the schema. */
static int table_find_by_connecting(dvx_conn *conn, const char *name, dvx_table **out) {
  int rc = table_connect(conn, NULL, 0, name);
  dvx_table *t = rc == SQLITE_OK ? table_lookup_dotted(conn, name) : NULL;
  const char *dot = strchr(name, '.');
  if (t == NULL && dot) {
    int rc2 = table_connect(conn, name, (int)(dot - name), dot + 1);
    t = rc2 == SQLITE_OK ? table_lookup_qualified(conn, name) : NULL;
    if (t) t->is_found_by_schema = true;
    if (rc != SQLITE_OK) rc = rc2;
  }
  *out = t;
  if (t) return SQLITE_OK;
  if (rc == SQLITE_NOMEM) return rc;
  if (rc != SQLITE_OK && rc != SQLITE_ERROR) return dvx_fail_sqlite(conn, NULL, rc);
  return dvx_fail(conn, NULL, SQLITE_ERROR, rc == SQLITE_OK ? "%S is not a delta_vectors table" : "no such table: %S",
                  name, strlen(name));
}

static int table_find(dvx_conn *conn, const char *name, bool to_read, dvx_table **out) {
  if (name == NULL) return dvx_fail(conn, NULL, SQLITE_ERROR, "the table name is NULL");
  bool is_current = false;
  int rc = SQLITE_OK;
  dvx_table *t = table_lookup_only(conn, name);
  if (t) rc = table_begin_current(t, &is_current);
  if (rc == SQLITE_OK && !is_current) {
    rc = table_find_by_connecting(conn, name, &t);
    if (t == NULL) return rc;
    if (to_read) rc = dvx_table_begin_read(t);
  } else if (rc == SQLITE_OK && !to_read) {
    dvx_table_end_read(t);
  }
  if (rc != SQLITE_OK) return rc;
  table_pin(conn, t);
  *out = t;
  return SQLITE_OK;
}

dvx_table *dvx_table_unless_changed(dvx_conn *conn, const char *name) {
  dvx_table *t = table_lookup_only(conn, name);
  if (t == NULL || !t->is_loaded || t->n_objects == 0) return NULL;
  if (t->overlay.is_open || t->n_reads) return t;
  return t->is_version_known && table_data_version(t) == t->data_version ? t : NULL;
}

int dvx_table_find(dvx_conn *conn, const char *name, dvx_table **out) { return table_find(conn, name, false, out); }

int dvx_table_find_to_read(dvx_conn *conn, const char *name, dvx_table **out) {
  return table_find(conn, name, true, out);
}

static int table_find_argument(dvx_conn *conn, const char *function, sqlite3_value *name, bool to_read,
                               dvx_table **out) {
  const char *z = (const char *)sqlite3_value_text(name);
  if (z == NULL) return dvx_fail(conn, NULL, SQLITE_ERROR, "%s: the name of the table is NULL", function);
  return table_find(conn, z, to_read, out);
}

int dvx_table_find_argument(dvx_conn *conn, const char *function, sqlite3_value *name, dvx_table **out) {
  return table_find_argument(conn, function, name, false, out);
}

int dvx_table_find_argument_to_read(dvx_conn *conn, const char *function, sqlite3_value *name, dvx_table **out) {
  return table_find_argument(conn, function, name, true, out);
}

/* ---- committed rows ---------------------------------------------------------------------------------------------- */

int dvx_rows_reserve(dvx_table *t, uint32_t n) {
  dvx_rows *r = &t->rows;
  if (n < r->capacity) return SQLITE_OK;
  size_t capacity = r->capacity ? r->capacity : 256;
  while (capacity <= n) capacity *= 2;
  uint64_t *words = sqlite3_realloc64(r->words, capacity * sizeof *words);
  if (!words) return SQLITE_NOMEM;
  r->words = words;
  int64_t *times = sqlite3_realloc64(r->times, capacity * sizeof *times);
  if (!times) return SQLITE_NOMEM;
  r->times = times;
  uint64_t *has_time = sqlite3_realloc64(r->has_time, capacity / 8);
  if (!has_time) return SQLITE_NOMEM;
  r->has_time = has_time;
  uint64_t *is_bare = sqlite3_realloc64(r->is_bare, capacity / 8);
  if (!is_bare) return SQLITE_NOMEM;
  r->is_bare = is_bare;
  memset(words + r->capacity, 0, (capacity - r->capacity) * sizeof *words);
  memset((uint8_t *)has_time + r->capacity / 8, 0, (capacity - r->capacity) / 8);
  memset((uint8_t *)is_bare + r->capacity / 8, 0, (capacity - r->capacity) / 8);
  r->capacity = capacity;
  return SQLITE_OK;
}

/* Room was made by dvx_rows_reserve. */
void dvx_rows_set(dvx_table *t, uint32_t vid, uint64_t word, int64_t time) {
  dvx_rows *r = &t->rows;
  bool existed = vid <= r->n && dvx_word_exists(r->words[vid]);
  bool exists = dvx_word_exists(word);
  if (exists && !existed) r->n_live++;
  if (!exists && existed) r->n_live--;
  if (vid > r->n) r->n = vid;
  r->words[vid] = word;
  r->times[vid] = time;
  r->has_time[vid >> 6] |= (uint64_t)1 << (vid & 63);
  dvx_mirror_row_changed(t, vid);
}

/* The largest vid in %_row: a bound for what a (hostile) log may make us allocate. */
static int table_row_limit(dvx_table *t) {
  char *sql = dvx_format("SELECT max(vid) FROM \"%w\".\"%w_row\"", t->schema, t->name);
  if (!sql) return SQLITE_NOMEM;
  sqlite3_stmt *stmt = NULL;
  int rc = sqlite3_prepare_v3(t->conn->db, sql, -1, SQLITE_PREPARE_NO_VTAB, &stmt, NULL);
  sqlite3_free(sql);
  if (rc != SQLITE_OK) return dvx_fail_sqlite(t->conn, t, rc);
  int64_t n = sqlite3_step(stmt) == SQLITE_ROW ? sqlite3_column_int64(stmt, 0) : 0;
  rc = sqlite3_finalize(stmt);
  if (rc != SQLITE_OK) return dvx_fail_sqlite(t->conn, t, rc);
  t->rows.limit = n < 0 ? 0 : n > DVX_MAX_VID ? DVX_MAX_VID : (uint32_t)n;
  return SQLITE_OK;
}

static int table_apply(void *ctx, const dv_record *rec) {
  dvx_table *t = ctx;
  dvx_rows *r = &t->rows;
  if (rec->vid > r->limit) {
    int rc = table_row_limit(t);
    if (rc != SQLITE_OK) return rc;
    if (rec->vid > r->limit) {
      return dvx_fail(t->conn, t, SQLITE_CORRUPT_VTAB,
                      "the log is damaged: record %u is of row number %u, there are %u", rec->seq, (uint64_t)rec->vid,
                      (uint64_t)r->limit);
    }
  }
  int rc = dvx_rows_reserve(t, rec->vid);
  if (rc == SQLITE_OK) rc = dvx_mirror_reserve(t, rec->vid);
  if (rc != SQLITE_OK) return rc;
  uint64_t before = rec->vid <= r->n ? r->words[rec->vid] : 0;
  if (dvx_word_seq(before) >= rec->seq) return SQLITE_OK; /* %_head was ahead of `settled` for this row */
  unsigned chain = rec->is_key ? 0 : dvx_word_chain(before) + 1;
  if (chain > DVX_WORD_CHAIN) chain = DVX_WORD_CHAIN;
  bool is_deleted = rec->delta.op == DV_OP_DELETE;
  dvx_vectors_apply(t, rec->vid, before, rec);
  dvx_rows_set(t, rec->vid, rec->seq << 16 | (is_deleted ? DVX_WORD_DELETED : 0) | chain, rec->time);
  if (rec->extra & DV_RECORD_FIELDS) dvx_columns_row_changed(t, rec->vid);
  if (before == 0 && t->ids.is_complete) {
    /* A create carries the id: the map of all ids stays complete. */
    dv_reader fields = dv_reader_of(rec->fields, rec->n_fields);
    uint32_t number;
    dv_value id;
    bool has_id = dv_numbered_next(&fields, &number, &id) && number == 0;
    if (!has_id || dvx_ids_add(&t->ids, &id, rec->vid) != SQLITE_OK) t->ids.is_complete = false;
  }
  return SQLITE_OK;
}

static void table_apply_soon(void *ctx, uint32_t vid) {
  const dvx_table *t = ctx;
  dvx_row_prefetch(t, vid);
}

/* ---- loading ----------------------------------------------------------------------------------------------------- */

uint64_t dvx_word_mix(uint32_t vid, uint64_t word) {
  if (word == 0) return 0;
  uint64_t h = word ^ (uint64_t)vid * 0x9e3779b97f4a7c15u;
  h = (h ^ h >> 30) * 0xbf58476d1ce4e5b9u;
  h = (h ^ h >> 27) * 0x94d049bb133111ebu;
  return h ^ h >> 31;
}

#define SETTLED_OLD_BYTES 64u /* without a sweep */

static void table_load_position(const uint8_t *b, dvx_position *p) {
  p->pack = (int64_t)dv_load_u64(b);
  p->end = dv_load_u32(b + 8);
  p->crc = dv_load_u32(b + 12);
  p->seq = dv_load_u64(b + 16);
  p->time = (int64_t)dv_load_u64(b + 24);
  p->max_time = (int64_t)dv_load_u64(b + 32);
}

static void table_store_position(uint8_t *b, const dvx_position *p) {
  dv_store_u64(b, (uint64_t)p->pack);
  dv_store_u32(b + 8, p->end);
  dv_store_u32(b + 12, p->crc);
  dv_store_u64(b + 16, p->seq);
  dv_store_u64(b + 24, (uint64_t)p->time);
  dv_store_u64(b + 32, (uint64_t)p->max_time);
}

#define CHECKS_BYTES 16u

uint32_t dvx_block_check(int64_t block, const void *bytes, size_t n) {
  uint8_t number[8];
  dv_store_u64(number, (uint64_t)block);
  return dv_crc32c(dv_crc32c(0, number, sizeof number), bytes, n);
}

int dvx_checks_read(dvx_table *t, dvx_checks *c, bool *is_there) {
  uint8_t b[CHECKS_BYTES] = {0};
  int rc = dvx_meta_get_blob(t, "checks", b, sizeof b, is_there);
  *c = (dvx_checks){dv_load_u32(b), dv_load_u32(b + 4), dv_load_u32(b + 8), dv_load_u32(b + 12)};
  return rc;
}

int dvx_checks_write(dvx_table *t, const dvx_checks *c) {
  uint8_t b[CHECKS_BYTES];
  dv_store_u32(b, c->settled);
  dv_store_u32(b + 4, c->graph);
  dv_store_u32(b + 8, c->codes);
  dv_store_u32(b + 12, c->links);
  return dvx_meta_put_blob(t, "checks", b, sizeof b);
}

int dvx_checks_forget_codes(dvx_table *t) {
  dvx_checks c;
  bool is_there;
  int rc = dvx_checks_read(t, &c, &is_there);
  if (rc != SQLITE_OK || !is_there) return rc;
  c.settled = c.codes = 0;
  return dvx_checks_write(t, &c);
}

int dvx_settled_blob(dvx_table *t, uint8_t b[DVX_SETTLED_BYTES], size_t *n) {
  bool is_there = false;
  memset(b, 0, DVX_SETTLED_BYTES);
  *n = DVX_SETTLED_BYTES;
  int rc = dvx_meta_get_blob(t, "settled", b, *n, &is_there);
  if (rc == SQLITE_OK && !is_there) rc = dvx_meta_get_blob(t, "settled", b, *n = SETTLED_OLD_BYTES, &is_there);
  if (!is_there) *n = 0;
  return rc;
}

int dvx_settled_read(dvx_table *t, dvx_settled *s) {
  uint8_t b[DVX_SETTLED_BYTES];
  size_t n;
  bool has_checks;
  dvx_checks checks;
  memset(s, 0, sizeof *s);
  s->position.max_time = INT64_MIN;
  int rc = dvx_settled_blob(t, b, &n);
  if (rc != SQLITE_OK || n == 0) return rc;
  /* Not only that it can be found out: a sweep that went on at another row would leave rows out. */
  rc = dvx_checks_read(t, &checks, &has_checks);
  s->is_wrong = rc == SQLITE_OK && has_checks && checks.settled != dv_crc32c(0, b, n);
  if (rc != SQLITE_OK || s->is_wrong) return rc;
  table_load_position(b, &s->position);
  s->n_rows = dv_load_u32(b + 40);
  s->has_codes = b[44] != 0;
  s->is_graph_due = b[45] != 0;
  s->has_graph = b[46] != 0;
  s->checksum = dv_load_u64(b + 48);
  s->log_bytes = dv_load_u64(b + 56);
  table_load_position(b + 64, &s->sweep);
  s->next = dv_load_u32(b + 104);
  s->is_coding = b[108] != 0;
  s->linked_seq = dv_load_u64(b + 112);
  return SQLITE_OK;
}

int dvx_settled_see(dvx_table *t) {
  if (t->is_settled_known) return SQLITE_OK;
  int rc = dvx_settled_read(t, &t->settled);
  if (rc != SQLITE_OK) return rc;
  t->is_settled_known = true;
  if (t->settled.is_wrong) t->is_settle_wrong = true;
  return SQLITE_OK;
}

static void table_store_settled(uint8_t b[DVX_SETTLED_BYTES], const dvx_settled *s, bool has_checks) {
  memset(b, 0, DVX_SETTLED_BYTES);
  table_store_position(b, &s->position);
  dv_store_u32(b + 40, s->n_rows);
  b[44] = s->has_codes;
  b[45] = s->is_graph_due;
  b[46] = s->has_graph;
  b[47] = has_checks;
  dv_store_u64(b + 48, s->checksum);
  dv_store_u64(b + 56, s->log_bytes);
  table_store_position(b + 64, &s->sweep);
  dv_store_u32(b + 104, s->next);
  b[108] = s->is_coding;
  dv_store_u64(b + 112, s->linked_seq);
}

int dvx_settled_write(dvx_table *t, const dvx_settled *s) {
  uint8_t b[DVX_SETTLED_BYTES], stored[DVX_SETTLED_BYTES];
  dvx_checks checks;
  bool has_checks;
  int rc = dvx_checks_read(t, &checks, &has_checks);
  if (rc != SQLITE_OK) return rc;
  table_store_settled(b, s, has_checks);
  table_store_settled(stored, &t->settled, has_checks);
  bool is_known = t->is_settled_known && !t->settled.is_wrong;
  uint32_t check = dv_crc32c(0, b, sizeof b);
  if (has_checks && checks.settled != check) is_known = false; /* settling anew has forgotten it */
  if (is_known && s->codes_change == 0 && memcmp(b, stored, sizeof b) == 0) return SQLITE_OK;
  checks.settled = check;
  checks.codes += s->codes_change;
  if (has_checks) rc = dvx_checks_write(t, &checks);
  return rc == SQLITE_OK ? dvx_meta_put_blob(t, "settled", b, sizeof b) : rc;
}

static int table_load_size(dvx_table *t, const char *key, size_t low, size_t high, size_t *out) {
  int64_t v = 0;
  int rc = dvx_meta_get(t, key, -1, &v);
  if (rc != SQLITE_OK) return rc;
  if (v < (int64_t)low || v > (int64_t)high) {
    return dvx_fail(t->conn, t, SQLITE_CORRUPT_VTAB, "%s_meta: %s is %i; expected %u to %u", t->name, key, v,
                    (uint64_t)low, (uint64_t)high);
  }
  *out = (size_t)v;
  return SQLITE_OK;
}

/* ---- settings ---------------------------------------------------------------------------------------------------- */

const dvx_setting_range dvx_settings[DVX_SETTING_N] = {
    [DVX_SETTING_EF_SEARCH] = {"hnsw_ef_search", 1, 100000},
    [DVX_SETTING_THREADS] = {"threads", 0, DVX_MAX_THREADS},
    [DVX_SETTING_MEMORY_LIMIT] = {"memory_limit", 1, DVX_MAX_MEMORY_LIMIT},
};

static void table_setting_apply(dvx_table *t, dvx_setting which, int64_t value) {
  switch (which) {
  case DVX_SETTING_EF_SEARCH: t->hnsw_ef_search = (int)value; break;
  case DVX_SETTING_THREADS: t->threads = (int)value; break;
  case DVX_SETTING_MEMORY_LIMIT: t->memory_limit = value; break;
  case DVX_SETTING_N: break;
  }
}

int dvx_table_set(dvx_table *t, dvx_setting which, int64_t value) {
  int rc = dvx_meta_put(t, dvx_settings[which].name, value);
  if (rc == SQLITE_OK) table_setting_apply(t, which, value);
  return rc;
}

/* What the commands have set; else what CREATE VIRTUAL TABLE said. */
static int table_load_settings(dvx_table *t) {
  const dvx_config *c = t->config;
  const int64_t declared[DVX_SETTING_N] = {c->hnsw_ef_search, c->threads, c->memory_limit};
  int rc = SQLITE_OK;
  for (int i = 0; rc == SQLITE_OK && i < DVX_SETTING_N; i++) {
    const dvx_setting_range *range = &dvx_settings[i];
    int64_t v = 0;
    rc = dvx_meta_get(t, range->name, declared[i], &v);
    if (rc == SQLITE_OK) table_setting_apply(t, (dvx_setting)i, v >= range->low && v <= range->high ? v : declared[i]);
  }
  return rc;
}

static int table_load_meta(dvx_table *t) {
  const dvx_config *c = t->config;
  dvx_geometry *g = &t->geometry;
  int64_t format = 0, dimensions = 0;
  int rc = dvx_meta_get(t, "format", -1, &format);
  if (rc == SQLITE_OK && format != 1) {
    return dvx_fail(t->conn, t, SQLITE_CORRUPT_VTAB,
                    format > 1 ? "it has format %i, written by a newer delta_vectors; this one (" DELTA_VECTORS_VERSION
                                 ") reads format 1"
                               : "it has no valid format number (%i)",
                    format);
  }
  if (rc == SQLITE_OK) rc = dvx_meta_get(t, "dimensions", -1, &dimensions);
  if (rc == SQLITE_OK && dimensions != (int64_t)c->dimensions) {
    return dvx_fail(t->conn, t, SQLITE_CORRUPT_VTAB, "it was made for %i dimensions but is declared with %u",
                    dimensions, (uint64_t)c->dimensions);
  }
  size_t row = 4 + c->dimensions;
  if (rc == SQLITE_OK) rc = table_load_size(t, "page_bytes", 512, 65536, &g->page_bytes);
  if (rc == SQLITE_OK) rc = table_load_size(t, "pack_bytes", 256, 1 << 20, &g->pack_bytes);
  if (rc == SQLITE_OK) rc = table_load_size(t, "head_bytes", 64, 1 << 20, &g->head_bytes);
  if (rc == SQLITE_OK) rc = table_load_size(t, "head_rows", 1, g->head_bytes / 8, &g->head_rows);
  if (rc == SQLITE_OK) rc = table_load_size(t, "code_bytes", row, 1 << 24, &g->code_bytes);
  if (rc == SQLITE_OK) rc = table_load_size(t, "code_rows", 1, g->code_bytes / row, &g->code_rows);
  size_t node = 2 * (size_t)c->hnsw_m * sizeof(uint32_t) + DV_SKETCH_BYTES;
  if (rc == SQLITE_OK) rc = table_load_size(t, "graph_bytes", node, 1 << 24, &g->graph_bytes);
  if (rc == SQLITE_OK) rc = table_load_size(t, "graph_rows", 1, g->graph_bytes / node, &g->graph_rows);
  return rc == SQLITE_OK ? table_load_settings(t) : rc;
}

/* Reads %_head into rows. *is_right is false when it does not agree with what `settled` says of it: then the heads are
 * found again by scanning the whole log. */
static int table_load_heads(dvx_table *t, const dvx_settled *s, bool *is_right) {
  const dvx_geometry *g = &t->geometry;
  sqlite3_stmt *stmt = NULL;
  int rc = table_row_limit(t);
  *is_right = false;
  if (rc != SQLITE_OK || s->n_rows > t->rows.limit) return rc;
  rc = dvx_rows_reserve(t, s->n_rows);
  if (rc == SQLITE_OK) rc = dvx_shadow_stmt(t, DVX_SQL_HEAD_ALL, &stmt);
  if (rc != SQLITE_OK) return rc;
  uint64_t sum = 0;
  while (sqlite3_step(stmt) == SQLITE_ROW) {
    int64_t block = sqlite3_column_int64(stmt, 0);
    const uint8_t *bytes = sqlite3_column_blob(stmt, 1);
    size_t n = (size_t)sqlite3_column_bytes(stmt, 1);
    if (!bytes || n != g->head_bytes || block < 0 || (uint64_t)block > s->n_rows / g->head_rows) continue;
    uint32_t first = (uint32_t)((uint64_t)block * g->head_rows) + 1;
    for (uint32_t i = 0; i < g->head_rows && first + i <= s->n_rows; i++) {
      uint64_t word = dv_load_u64(bytes + 8 * (size_t)i);
      if (word == 0) continue;
      sum += dvx_word_mix(first + i, word);
      t->rows.n_live += dvx_word_exists(word);
      t->rows.words[first + i] = word;
      t->rows.n = first + i;
    }
  }
  rc = sqlite3_reset(stmt);
  if (rc != SQLITE_OK) return dvx_fail_sqlite(t->conn, t, rc);
  if (t->rows.n < s->n_rows) t->rows.n = s->n_rows;
  *is_right = sum == s->checksum;
  return SQLITE_OK;
}

static int table_load(dvx_table *t) {
  dvx_settled s;
  bool is_right = false;
  int rc = table_load_meta(t);
  if (rc == SQLITE_OK) rc = dvx_settled_read(t, &s);
  if (rc == SQLITE_OK && s.position.pack) rc = table_load_heads(t, &s, &is_right);
  if (rc != SQLITE_OK) return rc;
  dvx_position from = s.position;
  if (is_right) rc = dvx_log_follow(t, &from, table_apply, table_apply_soon, t);
  if (rc == SQLITE_NOTFOUND) is_right = false;
  if (!is_right) {
    /* Derived data is missing or does not fit the log: the log alone tells. */
    t->is_settle_wrong = s.position.pack != 0 || s.is_wrong;
    if (rc != SQLITE_OK && rc != SQLITE_NOTFOUND) return rc;
    if (t->rows.words) {
      memset(t->rows.words, 0, t->rows.capacity * sizeof *t->rows.words);
      memset(t->rows.has_time, 0, t->rows.capacity / 8);
      memset(t->rows.is_bare, 0, t->rows.capacity / 8);
    }
    t->rows.n = 0;
    t->rows.n_live = 0;
    memset(&from, 0, sizeof from);
    from.max_time = INT64_MIN;
    memset(&s, 0, sizeof s);
    s.position.max_time = INT64_MIN;
    rc = dvx_log_follow(t, &from, table_apply, table_apply_soon, t);
  }
  if (rc != SQLITE_OK) return rc;
  if (t->rows.limit == 0) rc = table_row_limit(t);
  int64_t last = 0, last_vid = 0;
  if (rc == SQLITE_OK) rc = dvx_meta_get(t, "last_seq", 0, &last);
  if (rc == SQLITE_OK) rc = dvx_meta_get(t, "last_vid", 0, &last_vid);
  if (rc != SQLITE_OK) return rc;
  t->floor_seq = last > 0 && last < DVX_MAX_SEQ ? (uint64_t)last : 0;
  /* Row numbers that compaction took away are not used again: the graph, and who else keeps a number, may know them. */
  if (last_vid > (int64_t)t->rows.limit && last_vid <= DVX_MAX_VID) t->rows.limit = (uint32_t)last_vid;
  if (t->rows.limit > (from.seq > t->floor_seq ? from.seq : t->floor_seq)) {
    /* Each row took a seq when it was made. Room for what a damaged line asks for would be gigabytes. */
    return dvx_fail(t->conn, t, SQLITE_CORRUPT_VTAB, "%s_row has a row number %u; the log ends at record %u", t->name,
                    (uint64_t)t->rows.limit, from.seq);
  }
  if (t->rows.limit > t->rows.n) {
    /* Rows known to %_row but not to the log: their numbers are not used again. */
    rc = dvx_rows_reserve(t, t->rows.limit);
    if (rc != SQLITE_OK) return rc;
    t->rows.n = t->rows.limit;
  }
  t->ids.is_complete = t->rows.limit == 0;
  t->settled = s;
  t->is_settled_known = true;
  t->position = from;
  t->is_loaded = true;
  if (t->overlay.is_open) dvx_txn_rebase(t);
  return SQLITE_OK;
}

void dvx_table_forget(dvx_table *t) {
  table_free_memory(t);
  t->is_loaded = false;
  t->is_version_known = false;
  t->is_settled_known = false;
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

/* Where the stored log ends according to the stamp's row: enough of a position to compare. */
static bool table_stamp_equals(const dvx_table *t, sqlite3_stmt *stmt) {
  if (sqlite3_column_int64(stmt, 0) != t->generation) return false;
  if (sqlite3_column_type(stmt, 1) == SQLITE_NULL) return t->position.pack == 0;
  const uint8_t *pack = sqlite3_column_blob(stmt, 2);
  size_t n = (size_t)sqlite3_column_bytes(stmt, 2);
  size_t end = t->position.end;
  if (!pack || sqlite3_column_int64(stmt, 1) != t->position.pack || n < end || end < 6) return false;
  if (dv_load_u32(pack + end - 5) != t->position.crc) return false;
  return end == n || pack[end] == 0;
}

/* Opens a read transaction, and holds it until end_read. */
static int table_pin_snapshot(dvx_table *t) {
  int rc = table_step_pin(t);
  t->is_pinned = rc == SQLITE_OK;
  return rc;
}

/* Makes memory equal to the file as this connection sees it. */
static int table_refresh(dvx_table *t) {
  if (t->overlay.is_open && t->is_loaded) return SQLITE_OK; /* the write lock is ours: nobody else changes anything */
  int rc = sqlite3_txn_state(t->conn->db, t->schema) == SQLITE_TXN_NONE ? table_pin_snapshot(t) : SQLITE_OK;
  if (rc != SQLITE_OK) return rc;
  if (t->is_loaded && t->is_version_known && table_data_version(t) == t->data_version) return SQLITE_OK;
  t->n_looks++;
  t->is_settled_known = false; /* another connection may have settled, which does not move the log's end */
  sqlite3_stmt *stmt = NULL;
  rc = dvx_shadow_stmt(t, DVX_SQL_STAMP, &stmt);
  if (rc != SQLITE_OK) return rc;
  rc = sqlite3_step(stmt);
  if (rc != SQLITE_ROW) {
    int reset = sqlite3_reset(stmt);
    if (reset != SQLITE_OK) return dvx_fail_sqlite(t->conn, t, reset);
    return dvx_fail(t->conn, t, SQLITE_CORRUPT_VTAB, "%s_meta has no generation: the table is not complete", t->name);
  }
  bool is_equal = t->is_loaded && table_stamp_equals(t, stmt);
  int64_t generation = sqlite3_column_int64(stmt, 0);
  sqlite3_reset(stmt);
  rc = SQLITE_OK;
  if (!is_equal) {
    bool is_grown = false;
    if (t->is_loaded && generation == t->generation && t->position.pack != 0) {
      dvx_log_forget(t);
      rc = dvx_log_follow(t, &t->position, table_apply, table_apply_soon, t);
      is_grown = rc == SQLITE_OK;
      dvx_search_forget(t);
    }
    if (rc == SQLITE_OK || rc == SQLITE_NOTFOUND) rc = SQLITE_OK;
    if (rc == SQLITE_OK && !is_grown) {
      dvx_table_forget(t);
      t->generation = generation;
      rc = table_load(t);
    }
    if (rc != SQLITE_OK) dvx_table_forget(t);
  }
  if (rc == SQLITE_OK) {
    t->data_version = table_data_version(t);
    t->is_version_known = sqlite3_txn_state(t->conn->db, t->schema) != SQLITE_TXN_WRITE;
  }
  return rc;
}

int dvx_table_begin_read(dvx_table *t) {
  t->n_refs++;
  t->n_reads++;
  if (t->n_reads > 1 && t->is_loaded) return SQLITE_OK;
  int rc = table_refresh(t);
  if (rc != SQLITE_OK) dvx_table_end_read(t);
  return rc;
}

void dvx_table_end_read(dvx_table *t) {
  if (--t->n_reads == 0 && t->is_pinned) {
    t->is_pinned = false;
    if (t->stmts[DVX_SQL_PIN]) sqlite3_reset(t->stmts[DVX_SQL_PIN]);
  }
  if (t->n_objects == 0) table_finalize_if_idle(t);
  dvx_table_release(t);
}

int dvx_table_refresh_for_write(dvx_table *t) { return table_refresh(t); }

/* After a commit of our own: memory and file are equal by construction. */
void dvx_table_committed(dvx_table *t) {
  t->data_version = table_data_version(t);
  t->is_version_known = true;
}

size_t dvx_table_memory_limit(const dvx_table *t) {
  uint64_t most = (uint64_t)SIZE_MAX / DVX_MEMORY_UNIT; /* on 32 bits, 4 GB */
  return (uint64_t)t->memory_limit < most ? (size_t)t->memory_limit * DVX_MEMORY_UNIT : SIZE_MAX;
}

size_t dvx_table_memory(const dvx_table *t) {
  const dvx_mirror *m = &t->mirror;
  size_t bits = 8 * dv_bit_words(t->config->dimensions) + sizeof(dv_bit_row);
  size_t row = sizeof(dv_code_row) + (m->bits ? bits : 0);
  size_t n = sizeof *t + t->vectors.n_bytes + t->rows.capacity * 16 + t->ids.n_slots * sizeof(dvx_id_entry) +
             t->ids.n_by_vid * 4 + t->ids.texts.capacity + m->capacity * row + dvx_pages_bytes(&m->pages) +
             dvx_graph_memory(t) + dvx_columns_memory(t) + t->overlay.arena.capacity +
             t->overlay.pending_capacity * sizeof(dvx_pending);
  for (size_t i = 0; i < DVX_PACK_SLOTS; i++) n += t->log.slots[i].capacity;
  return n;
}
