/*
 * view.c: what JavaScript calls of the extension past SQL, for getVectorView: a statement costs a microsecond or two, this
 * a tenth. Compiled behind the extension in one unit, see build.sh.
 */
/* The extension's object on the connection, or 0. */
dvx_conn *dv_view_open(sqlite3 *db) { return dvx_direct_conn(db); }

/* Address of the current vector of the row with this id (UTF-8), 0 if there is none, 1 if it could not be read: then a
 * statement says why. `table` ends in a zero byte. */
uintptr_t dv_view_vector(dvx_conn *conn, const char *table, const uint8_t *id, size_t n_id,
                                              int is_alone) {
  const float *vector = NULL;
  dv_value text = {.type = DV_TEXT, .bytes = id, .n_bytes = n_id};
  if (dvx_direct_vector(conn, table, &text, is_alone != 0, &vector) == SQLITE_OK) return (uintptr_t)vector;
  sqlite3_free(conn->error);
  conn->error = NULL;
  return 1;
}
