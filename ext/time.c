/*
 * time.c: moments: INTEGER milliseconds since 1970-01-01T00:00:00 UTC everywhere behind this file.
 *
 * Text is read by SQLite's own date functions, so 'now', '2026-05-01', '2026-05-01T12:00:00+02:00' mean what they mean
 * in the rest of a user's SQL. julianday() is exact enough for that: between the years 0 and 9999 a double of days is
 * good to a tenth of a millisecond, and SQLite counts in whole milliseconds itself.
 */
#include "ext_int.h"

/* Milliseconds from the beginning of the Julian calendar's day count, noon of 24 November 4714 BC, to 1970. */
#define TIME_JULIAN_1970 210866760000000

int64_t dvx_time_now(dvx_conn *conn) {
  (void)conn;
  sqlite3_vfs *vfs = sqlite3_vfs_find(NULL);
  sqlite3_int64 ms = 0;
  double days = 0;
  if (vfs && vfs->iVersion >= 2 && vfs->xCurrentTimeInt64) {
    if (vfs->xCurrentTimeInt64(vfs, &ms) == SQLITE_OK) return (int64_t)ms - TIME_JULIAN_1970;
  } else if (vfs && vfs->xCurrentTime) {
    if (vfs->xCurrentTime(vfs, &days) == SQLITE_OK) return (int64_t)(days * 86400000.0 + 0.5) - TIME_JULIAN_1970;
  }
  return 0;
}

/* row may be NULL: the time is not given for a row. */
static int time_fail(dvx_conn *conn, const dvx_table *t, const dv_value *row, sqlite3_value *v, const char *what) {
  if (row) return dvx_fail(conn, t, SQLITE_ERROR, "row %I: time %v %s", row, v, what);
  return dvx_fail(conn, t, SQLITE_ERROR, "time %v %s", v, what);
}

#define TIME_NOT_READ                                                                                                  \
  "cannot be read: expected INTEGER milliseconds since 1970 UTC or text such as '2026-05-01T00:00:00Z'"
#define TIME_OUT_OF_RANGE "is out of range: expected milliseconds since 1970 UTC between -2^53 and 2^53"
#define TIME_FRACTION "has a fraction: expected whole milliseconds since 1970 UTC"

/* Digits only, more than a Julian day or a compact date has: milliseconds that came as text, as JavaScript's BigInt and
 * CSV files bring them. Shorter ones are SQLite's to read (as Julian day numbers). */
static bool time_read_digits(const char *text, size_t n, int64_t *out) {
  int64_t ms = 0;
  size_t first = n > 0 && text[0] == '-';
  if (n - first <= 8 || n - first > 18) return false;
  for (size_t i = first; i < n; i++) {
    if (text[i] < '0' || text[i] > '9') return false;
    ms = ms * 10 + (text[i] - '0');
  }
  *out = first ? -ms : ms;
  return true;
}

#define TIME_SQL "SELECT CAST(round((julianday(?1) - 2440587.5) * 86400000.0) AS INTEGER)"

/* *is_read is false when SQLite does not know what to make of the text. */
static int time_read_text(dvx_conn *conn, const dvx_table *t, sqlite3_value *v, bool *is_read, int64_t *out) {
  sqlite3_stmt *stmt = conn->time_stmt;
  int rc = SQLITE_OK;
  conn->time_stmt = NULL;
  if (!stmt) {
    rc = sqlite3_prepare_v3(conn->db, TIME_SQL, -1, SQLITE_PREPARE_PERSISTENT | SQLITE_PREPARE_NO_VTAB, &stmt, NULL);
  }
  if (rc == SQLITE_OK) rc = dvx_bind_sqlite_value(stmt, 1, v);
  if (rc == SQLITE_OK) rc = sqlite3_step(stmt);
  if (rc == SQLITE_ROW) {
    *is_read = sqlite3_column_type(stmt, 0) == SQLITE_INTEGER;
    if (*is_read) *out = sqlite3_column_int64(stmt, 0);
    rc = SQLITE_OK;
  } else {
    rc = dvx_fail_sqlite(conn, t, rc);
  }
  (void)sqlite3_reset(stmt);
  if (stmt) (void)sqlite3_clear_bindings(stmt); /* of NULL it crashes */
  dvx_conn_keep(conn, &conn->time_stmt, stmt);
  return rc;
}

int dvx_time_parse(dvx_conn *conn, const dvx_table *t, const dv_value *row, sqlite3_value *v, int64_t *out) {
  int64_t ms = 0;
  switch (sqlite3_value_type(v)) {
  case SQLITE_INTEGER: ms = sqlite3_value_int64(v); break;
  case SQLITE_FLOAT: {
    double d = sqlite3_value_double(v);
    if (!(d >= -(double)DVX_TIME_MAX && d <= (double)DVX_TIME_MAX))
      return time_fail(conn, t, row, v, TIME_OUT_OF_RANGE);
    ms = (int64_t)d;
    if ((double)ms != d) return time_fail(conn, t, row, v, TIME_FRACTION);
    break;
  }
  case SQLITE_TEXT: {
    const char *text = (const char *)sqlite3_value_text(v);
    bool is_read = false;
    if (!text) return SQLITE_NOMEM;
    if (!time_read_digits(text, (size_t)sqlite3_value_bytes(v), &ms)) {
      int rc = time_read_text(conn, t, v, &is_read, &ms);
      if (rc != SQLITE_OK) return rc;
      if (!is_read) return time_fail(conn, t, row, v, TIME_NOT_READ);
    }
    break;
  }
  default: return time_fail(conn, t, row, v, TIME_NOT_READ);
  }
  if (ms < -DVX_TIME_MAX || ms > DVX_TIME_MAX) return time_fail(conn, t, row, v, TIME_OUT_OF_RANGE);
  *out = ms;
  return SQLITE_OK;
}
