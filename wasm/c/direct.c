/*
 * direct.c: what JavaScript calls of the extension past SQL: a statement costs some microseconds for binding, stepping and
 * reading its result, and a frame two checksums. Compiled behind the extension in one unit, see build.sh.
 */

/* The extension's object on the connection, or 0. */
dvx_conn *dv_direct_open(sqlite3 *db) { return dvx_direct_conn(db); }

/* The message of what failed last, which the caller frees with sqlite3_free(); NULL if there is none. */
char *dv_direct_error(dvx_conn *conn) {
  char *error = conn->error;
  conn->error = NULL;
  return error;
}

/* Address of the current vector of the row with this id (UTF-8), 0 if there is none, 1 if it could not be read: then a
 * statement says why. `table` ends in a zero byte. */
uintptr_t dv_direct_vector(dvx_conn *conn, const char *table, const uint8_t *id, size_t n_id, int is_alone) {
  const float *vector = NULL;
  dv_value text = {.type = DV_TEXT, .bytes = id, .n_bytes = n_id};
  if (dvx_direct_vector(conn, table, &text, is_alone != 0, &vector) == SQLITE_OK) return (uintptr_t)vector;
  sqlite3_free(conn->error);
  conn->error = NULL;
  return 1;
}

/* Applies a delta: `kind` and payload as in a frame. Its seq, below 2^53, or an SQLite code as a negative number: then
 * dv_direct_error() has the message. */
double dv_direct_apply(dvx_conn *conn, const char *table, const uint8_t *id, size_t n_id, unsigned kind,
                       const uint8_t *payload, size_t n_payload, int is_alone) {
  uint64_t seq = 0;
  dv_value text = {.type = DV_TEXT, .bytes = id, .n_bytes = n_id};
  dv_delta delta = {(dv_op)(kind >> 4), (dv_encoding)(kind & 15u), payload, n_payload};
  int rc = dvx_direct_apply(conn, table, &text, &delta, is_alone != 0, &seq);
  return rc == SQLITE_OK ? (double)seq : -(double)rc;
}

/* Applies frames one behind the other, made by the caller and without CRCs: all or none. The seq of the first, 0 if there is
 * none; an SQLite code as a negative number. */
double dv_direct_apply_frames(dvx_conn *conn, const char *table, const uint8_t *bytes, size_t n_bytes, int is_alone) {
  dvx_applied applied = {0, 0, 0};
  int rc = dvx_direct_apply_frames(conn, table, bytes, n_bytes, is_alone != 0, &applied);
  return rc == SQLITE_OK ? (double)applied.first_seq : -(double)rc;
}

/* Writes what the table is to *out; an SQLite code. */
int dv_direct_describe(dvx_conn *conn, const char *table, dvx_direct_facts *out) {
  return dvx_direct_describe(conn, table, out);
}
