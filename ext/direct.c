/*
 * direct.c: what compiled callers on the same connection (wasm/c/direct.c) get past SQL: the connection's object, the
 * current vector of a row as a pointer, a delta applied without a statement around it, and what a table is.
 *
 * They find the object as users of FTS5 find its API: a function writes it where a pointer that was bound to it points.
 * The pointer has a type that SQL cannot make, so the function gives SQL nothing but NULL.
 */
#include "ext_int.h"

#define DIRECT_TYPE "delta_vectors_conn"

/* delta_vectors_handle(pointer) */
static void direct_handle(sqlite3_context *ctx, int argc, sqlite3_value **argv) {
  dvx_conn **out = sqlite3_value_pointer(argv[0], DIRECT_TYPE);
  (void)argc;
  if (out) *out = dvx_context_conn(ctx);
}

dvx_conn *dvx_direct_conn(sqlite3 *db) {
  dvx_conn *conn = NULL;
  sqlite3_stmt *stmt = NULL;
  if (sqlite3_prepare_v3(db, "SELECT delta_vectors_handle(?1)", -1, 0, &stmt, NULL) == SQLITE_OK &&
      sqlite3_bind_pointer(stmt, 1, &conn, DIRECT_TYPE, NULL) == SQLITE_OK) {
    (void)sqlite3_step(stmt);
  }
  (void)sqlite3_finalize(stmt);
  return conn;
}

int dvx_direct_vector(dvx_conn *conn, const char *table, const dv_value *id, bool is_alone, const float **out) {
  uint32_t vid = 0;
  int rc = SQLITE_OK;
  *out = NULL;
  dvx_table *t = is_alone ? dvx_table_unless_changed(conn, table) : NULL;
  bool is_reading = t == NULL;
  if (is_reading) rc = dvx_table_find_to_read(conn, table, &t);
  if (rc != SQLITE_OK) return rc;
  bool is_text = t->config->id_type == DVX_ID_TEXT;
  if ((id->type == DV_TEXT) == is_text) rc = dvx_row_find(t, id, &vid);
  if (rc == SQLITE_OK && vid != 0 && dvx_word_exists(dvx_row_word(t, vid))) rc = dvx_row_vector(t, vid, out);
  if (is_reading) dvx_table_end_read(t);
  return rc;
}

static int direct_table_to_write(dvx_conn *conn, const char *table, bool is_alone, dvx_table **out) {
  *out = is_alone ? dvx_table_unless_changed(conn, table) : NULL;
  return *out ? SQLITE_OK : dvx_table_find(conn, table, out);
}

int dvx_direct_apply(dvx_conn *conn, const char *table, const dv_value *id, const dv_delta *delta, bool is_alone,
                     uint64_t *seq) {
  dvx_table *t = NULL;
  int rc = direct_table_to_write(conn, table, is_alone, &t);
  if (rc != SQLITE_OK) return rc;
  bool is_text = t->config->id_type == DVX_ID_TEXT;
  if ((id->type == DV_TEXT) == is_text) return dvx_apply_delta(t, id, delta, seq);
  return dvx_fail(conn, t, SQLITE_ERROR, "%I is not an id: expected %s", id, is_text ? "a text" : "an integer");
}

int dvx_direct_apply_frames(dvx_conn *conn, const char *table, const uint8_t *bytes, size_t n_bytes, bool is_alone,
                            dvx_applied *out) {
  dvx_table *t = NULL;
  int rc = direct_table_to_write(conn, table, is_alone, &t);
  return rc == SQLITE_OK ? dvx_apply_frames(t, bytes, n_bytes, false, out) : rc;
}

int dvx_direct_describe(dvx_conn *conn, const char *table, dvx_direct_facts *out) {
  dvx_table *t = NULL;
  int rc = dvx_table_find_to_read(conn, table, &t);
  if (rc != SQLITE_OK) return rc;
  *out = (dvx_direct_facts){(double)t->config->dimensions, (double)dvx_history_last_seq(t),
                            dv_metric_name(t->config->metric)};
  dvx_table_end_read(t);
  return SQLITE_OK;
}

int dvx_direct_register(dvx_conn *conn) {
  return dvx_conn_function(conn, "delta_vectors_handle", 1, SQLITE_UTF8 | SQLITE_DIRECTONLY, direct_handle);
}
