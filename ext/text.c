/*
 * text.c: strings, error messages, and values on their way between SQLite and core.
 *
 * Owns no table. Promises: a string whose memory ran out stays harmless until it is asked for; a message tells what is
 * wrong, with what, and what would be right; values of users are cut before they get into a message, so that one of a
 * gigabyte gives a line all the same.
 *
 * There is no printf here on purpose: sqlite3_mprintf() is not exported by the wasm package, and libc's is not there
 * either. The few formats that messages and SQL need are dvx_str_addf()'s.
 */
#include "ext_int.h"

#include <limits.h>
#include <stdarg.h>

/* A user's text in a message ends after so many characters. */
#define TEXT_SHOWN 40u

/* ---- memory ------------------------------------------------------------------------------------------------------ */

static void *text_resize(void *ctx, void *p, size_t n_bytes) {
  (void)ctx;
  if (n_bytes == 0) {
    sqlite3_free(p);
    return NULL;
  }
  return sqlite3_realloc64(p, n_bytes);
}

const dv_alloc dvx_alloc = {text_resize, NULL};

int dvx_grow(void *pointer, size_t n_old, size_t n_new) {
  uint8_t *p;
  memcpy(&p, pointer, sizeof p);
  p = sqlite3_realloc64(p, n_new);
  if (!p) return SQLITE_NOMEM;
  memset(p + n_old, 0, n_new - n_old);
  memcpy(pointer, &p, sizeof p);
  return SQLITE_OK;
}

/* A destructor of our own: the address of an imported function is not a thing every wasm loader can give. */
static void text_free(void *p) { sqlite3_free(p); }

/* ---- growing strings --------------------------------------------------------------------------------------------- */

void dvx_str_add(dvx_str *s, const char *z, size_t n) {
  if (s->is_oom) return;
  if (n >= s->capacity - s->n) {
    size_t need, capacity = s->capacity < 64 ? 64 : s->capacity;
    if (!dv_add_size(s->n, n, &need) || need > SIZE_MAX / 4) {
      s->is_oom = true;
      return;
    }
    while (capacity <= need) capacity *= 2;
    char *grown = sqlite3_realloc64(s->z, capacity);
    if (!grown) {
      s->is_oom = true;
      return;
    }
    s->z = grown;
    s->capacity = capacity;
  }
  if (n > 0) memcpy(s->z + s->n, z, n);
  s->n += n;
  s->z[s->n] = 0;
}

static void text_add_z(dvx_str *s, const char *z) {
  if (z) dvx_str_add(s, z, strlen(z));
}

static void text_add_unsigned(dvx_str *s, uint64_t u) {
  char digits[20];
  size_t i = sizeof digits;
  do {
    digits[--i] = (char)('0' + u % 10);
    u /= 10;
  } while (u > 0);
  dvx_str_add(s, digits + i, sizeof digits - i);
}

static void text_add_integer(dvx_str *s, int64_t i) {
  if (i < 0) dvx_str_add(s, "-", 1);
  text_add_unsigned(s, i < 0 ? 0 - (uint64_t)i : (uint64_t)i);
}

/* z with every `quote` doubled: for %q and %w. */
static void text_add_doubled(dvx_str *s, const char *z, char quote) {
  if (!z) return;
  for (const char *from = z;; z++) {
    if (*z == 0 || *z == quote) dvx_str_add(s, from, (size_t)(z - from));
    if (*z == 0) return;
    if (*z == quote) {
      dvx_str_add(s, z, 1);
      from = z;
    }
  }
}

/* At most TEXT_SHOWN characters of a user's text, control characters as spaces so that a message stays one line.
 * quote, if not 0, is doubled inside. */
static void text_add_cut(dvx_str *s, const char *z, size_t n, char quote) {
  size_t i = 0, n_shown = 0;
  for (; i < n && i < (size_t)4 * TEXT_SHOWN; i++) {
    unsigned char c = (unsigned char)z[i];
    bool is_first = (c & 0xc0) != 0x80; /* of a character's bytes */
    if (is_first && n_shown == TEXT_SHOWN) break;
    n_shown += is_first;
    if (c < ' ' || c == 0x7f) {
      dvx_str_add(s, " ", 1);
    } else {
      dvx_str_add(s, z + i, 1);
      if (quote && z[i] == quote) dvx_str_add(s, z + i, 1);
    }
  }
  if (i < n) text_add_z(s, "…");
}

/* ---- doubles ----------------------------------------------------------------------------------------------------- */

#define TEXT_DIGITS 17
#define TEXT_LEAST 10000000000000000u /* the least integer of 17 digits */
#define TEXT_LARGEST 99999999999999999u /* the largest */

/* The double nearest to m * 10^exponent. */
static double text_decimal(uint64_t m, int exponent) {
  char z[32];
  size_t n = 0;
  double d = 0;
  for (uint64_t p = 10 * (uint64_t)TEXT_LEAST; p > 0; p /= 10) {
    if (n > 0 || m >= p) z[n++] = (char)('0' + m / p % 10);
  }
  unsigned e = (unsigned)(exponent < 0 ? -exponent : exponent);
  z[n++] = 'e';
  if (exponent < 0) z[n++] = '-';
  z[n++] = (char)('0' + e / 100);
  z[n++] = (char)('0' + e / 10 % 10);
  z[n++] = (char)('0' + e % 10);
  (void)dv_double_parse(z, n, &d);
  return d;
}

/* The least m of 17 digits (or one more than the largest) whose value at this exponent is >= d; > d if is_above. */
static uint64_t text_bound(double d, int exponent, bool is_above) {
  uint64_t low = TEXT_LEAST, high = (uint64_t)TEXT_LARGEST + 1;
  while (low < high) {
    uint64_t middle = low + (high - low) / 2;
    double v = text_decimal(middle, exponent);
    if (is_above ? v > d : v >= d)
      high = middle;
    else
      low = middle + 1;
  }
  return low;
}

/* Shortest decimal that reads back as d > 0: digits without trailing zeros, the value is digits * 10^*exponent.
 * The parser rounds correctly, so the decimals of 17 digits that read back as d are an interval, found by bisection;
 * the answer is the roundest number in it. A hundred parses a number: for messages and reports, not for vectors. */
static uint64_t text_shortest(double d, int *exponent) {
  int low = -341, high = 292; /* the largest e with 10^(16+e) <= d lies here */
  while (low < high) {
    int middle = high - (high - low) / 2;
    if (text_decimal(TEXT_LEAST, middle) <= d)
      low = middle;
    else
      high = middle - 1;
  }
  uint64_t first = text_bound(d, low, false), last = text_bound(d, low, true) - 1;
  uint64_t digits = first, middle = first + (last - first) / 2;
  for (uint64_t p = TEXT_LEAST; p > 0; p /= 10) {
    uint64_t below = middle / p * p;
    uint64_t nearest = middle - below > p / 2 ? below + p : below;
    if (nearest < first) nearest += p;
    if (nearest > last && nearest >= p) nearest -= p;
    if (nearest >= first && nearest <= last) {
      digits = nearest;
      break;
    }
  }
  while (digits >= 10 && digits % 10 == 0) {
    digits /= 10;
    low++;
  }
  *exponent = low;
  return digits;
}

/* is_float: a value that is a float may be written with the digits that tell it from other floats: what came from a
 * vector then looks as the user wrote it. Else with those that tell it from other doubles, which often are the same. */
static void text_add_double(dvx_str *s, double d, bool is_float) {
  char z[24];
  if (d != d) {
    text_add_z(s, "NaN");
    return;
  }
  if (d < 0) {
    dvx_str_add(s, "-", 1);
    d = -d;
  }
  if (d - d != 0) {
    text_add_z(s, "Infinity");
    return;
  }
  if (d < 9007199254740992.0 && d == (double)(uint64_t)d) {
    text_add_unsigned(s, (uint64_t)d);
    return;
  }
  /* Only a value within the range of float is converted: beyond it the conversion is undefined in C. */
  if (d <= 3.0e38 && (double)(float)d == d) {
    size_t n_float = dv_float_print(z, (float)d);
    double back;
    if (is_float || (dv_double_parse(z, n_float, &back) == n_float && back == d)) {
      dvx_str_add(s, z, n_float);
      return;
    }
  }
  int exponent;
  uint64_t digits = text_shortest(d, &exponent);
  int n = 0;
  for (; digits > 0; digits /= 10) z[TEXT_DIGITS - ++n] = (char)('0' + digits % 10);
  const char *first = z + TEXT_DIGITS - n;
  int point = n + exponent; /* the decimal point stands behind so many digits */
  if (point > 0 && point <= 21) {
    int n_whole = point < n ? point : n;
    dvx_str_add(s, first, (size_t)n_whole);
    for (int i = n; i < point; i++) dvx_str_add(s, "0", 1);
    if (n_whole < n) {
      dvx_str_add(s, ".", 1);
      dvx_str_add(s, first + n_whole, (size_t)(n - n_whole));
    }
  } else if (point <= 0 && point > -6) {
    text_add_z(s, "0.");
    for (int i = point; i < 0; i++) dvx_str_add(s, "0", 1);
    dvx_str_add(s, first, (size_t)n);
  } else {
    dvx_str_add(s, first, 1);
    if (n > 1) {
      dvx_str_add(s, ".", 1);
      dvx_str_add(s, first + 1, (size_t)(n - 1));
    }
    text_add_z(s, point > 0 ? "e+" : "e");
    text_add_integer(s, point - 1);
  }
}

/* ---- formats ----------------------------------------------------------------------------------------------------- */

/* A value as it would stand in SQL, cut. */
static void text_add_value(dvx_str *s, const dv_value *v) {
  switch (v->type) {
  case DV_NULL: text_add_z(s, "NULL"); break;
  case DV_INTEGER: text_add_integer(s, v->integer); break;
  case DV_REAL:
    text_add_double(s, v->real, false);
    if (v->real > -1e15 && v->real < 1e15 && v->real == (double)(int64_t)v->real) text_add_z(s, ".0");
    break;
  case DV_TEXT:
    dvx_str_add(s, "'", 1);
    text_add_cut(s, (const char *)v->bytes, v->n_bytes, '\'');
    dvx_str_add(s, "'", 1);
    break;
  case DV_BLOB:
    text_add_z(s, "BLOB of ");
    text_add_unsigned(s, v->n_bytes);
    text_add_z(s, v->n_bytes == 1 ? " byte" : " bytes");
    break;
  }
}

static void text_add_sqlite_value(dvx_str *s, sqlite3_value *v) {
  dv_value value;
  if (sqlite3_value_type(v) == SQLITE_BLOB) { /* its size is enough: asked for, the bytes of a zeroblob would be made */
    value = (dv_value){.type = DV_BLOB, .n_bytes = (size_t)sqlite3_value_bytes(v)};
    text_add_value(s, &value);
    return;
  }
  if (dvx_value_of(NULL, v, &value) != SQLITE_OK)
    s->is_oom = true;
  else
    text_add_value(s, &value);
}

static void text_add_formatted(dvx_str *s, const char *format, va_list args) {
  for (const char *from = format;; format++) {
    if (*format != 0 && *format != '%') continue;
    dvx_str_add(s, from, (size_t)(format - from));
    if (*format == 0 || format[1] == 0) return;
    format++;
    from = format + 1;
    switch (*format) {
    case 's': text_add_z(s, va_arg(args, const char *)); break;
    case 'S': {
      const char *z = va_arg(args, const char *);
      text_add_cut(s, z, va_arg(args, size_t), 0);
      break;
    }
    case 'd': text_add_integer(s, va_arg(args, int)); break;
    case 'i': text_add_integer(s, va_arg(args, int64_t)); break;
    case 'u': text_add_unsigned(s, va_arg(args, uint64_t)); break;
    case 'g': text_add_double(s, va_arg(args, double), true); break;
    case 'w': text_add_doubled(s, va_arg(args, const char *), '"'); break;
    case 'q': text_add_doubled(s, va_arg(args, const char *), '\''); break;
    case 'v': text_add_sqlite_value(s, va_arg(args, sqlite3_value *)); break;
    case 'I': text_add_value(s, va_arg(args, const dv_value *)); break;
    default: /* %%, and a letter that is no format */ dvx_str_add(s, format, 1); break;
    }
  }
}

void dvx_str_addf(dvx_str *s, const char *format, ...) {
  va_list args;
  va_start(args, format);
  text_add_formatted(s, format, args);
  va_end(args);
}

char *dvx_str_take(dvx_str *s) {
  dvx_str_add(s, "", 0); /* an empty string is a string too */
  char *z = s->z;
  if (s->is_oom) {
    sqlite3_free(z);
    z = NULL;
  }
  memset(s, 0, sizeof *s);
  return z;
}

void dvx_str_free(dvx_str *s) {
  sqlite3_free(s->z);
  memset(s, 0, sizeof *s);
}

char *dvx_format(const char *format, ...) {
  dvx_str s = {0};
  va_list args;
  va_start(args, format);
  text_add_formatted(&s, format, args);
  va_end(args);
  return dvx_str_take(&s);
}

/* ---- errors ------------------------------------------------------------------------------------------------------ */

#define TEXT_PREFIX "delta_vectors: "

int dvx_fail(dvx_conn *conn, const dvx_table *t, int rc, const char *format, ...) {
  if (conn->error || rc == SQLITE_NOMEM) return rc;
  dvx_str s = {0};
  va_list args;
  text_add_z(&s, TEXT_PREFIX);
  if (t) dvx_str_addf(&s, "table %s.%s: ", t->schema, t->name);
  va_start(args, format);
  text_add_formatted(&s, format, args);
  va_end(args);
  conn->error = dvx_str_take(&s);
  return conn->error ? rc : SQLITE_NOMEM; /* a message is owed */
}

int dvx_fail_status(dvx_conn *conn, const dvx_table *t, dv_status status, const char *what) {
  switch (status) {
  case DV_OK: return SQLITE_OK;
  case DV_NOMEM: return SQLITE_NOMEM;
  case DV_CORRUPT: return dvx_fail(conn, t, SQLITE_CORRUPT_VTAB, "%s is damaged", what);
  case DV_LENGTH: return dvx_fail(conn, t, SQLITE_ERROR, "%s has another number of dimensions than expected", what);
  case DV_INDEX: return dvx_fail(conn, t, SQLITE_ERROR, "%s: an index lies outside the vector", what);
  case DV_DUPLICATE: return dvx_fail(conn, t, SQLITE_ERROR, "%s: an index is given twice", what);
  case DV_NOT_FINITE: return dvx_fail(conn, t, SQLITE_ERROR, "%s: a value is NaN or infinite", what);
  case DV_OVERFLOW: return dvx_fail(conn, t, SQLITE_ERROR, "%s: the result does not fit a 32-bit float", what);
  case DV_SYNTAX: return dvx_fail(conn, t, SQLITE_ERROR, "%s is not what was expected", what);
  case DV_LIMIT: return dvx_fail(conn, t, SQLITE_ERROR, "%s exceeds a limit", what);
  case DV_VERSION:
    return dvx_fail(conn, t, SQLITE_ERROR,
                    "%s comes from a newer version of delta_vectors than this one, " DELTA_VECTORS_VERSION, what);
  }
  return dvx_fail(conn, t, SQLITE_ERROR, "%s failed", what);
}

int dvx_fail_sqlite(dvx_conn *conn, const dvx_table *t, int rc) {
  if (rc == SQLITE_OK || rc == SQLITE_NOMEM) return rc;
  const char *message = sqlite3_errmsg(conn->db);
  /* The statement may have failed in one of our own tables, which has said already which one. */
  if (!conn->error && message && strncmp(message, TEXT_PREFIX, sizeof TEXT_PREFIX - 1) == 0) {
    conn->error = dvx_format("%s", message);
    return conn->error ? rc : SQLITE_NOMEM;
  }
  return dvx_fail(conn, t, rc, "%s", message ? message : "an internal statement failed");
}

int dvx_fail_connecting(dvx_conn *conn, const dvx_table *t, int rc) {
  rc = dvx_fail_sqlite(conn, t, rc);
  if (rc != SQLITE_ERROR || !dvx_is_interrupted(conn)) return rc;
  sqlite3_free(conn->error);
  conn->error = NULL;
  return dvx_fail(conn, t, SQLITE_INTERRUPT, "it was interrupted");
}

int dvx_declare(sqlite3 *db, const char *declaration) {
  int rc = sqlite3_declare_vtab(db, declaration);
  /* It has this one code for all that a declaration may fail of. The caller of sqlite3_interrupt() would be told of a
   * broken table, or, by whoever looks for the table, that there is none. */
  if (rc == SQLITE_ERROR && strcmp(sqlite3_errmsg(db), sqlite3_errstr(SQLITE_INTERRUPT)) == 0) rc = SQLITE_INTERRUPT;
  return rc;
}

int dvx_give_vtab(dvx_conn *conn, sqlite3_vtab *vtab, int rc) {
  if (rc != SQLITE_OK && rc != SQLITE_NOMEM && conn->error && vtab) {
    sqlite3_free(vtab->zErrMsg);
    vtab->zErrMsg = conn->error;
  } else {
    sqlite3_free(conn->error);
  }
  conn->error = NULL;
  return rc;
}

void dvx_give_context(dvx_conn *conn, sqlite3_context *ctx, int rc) {
  if (rc == SQLITE_NOMEM) {
    sqlite3_result_error_nomem(ctx);
  } else if (rc == SQLITE_TOOBIG && !conn->error) {
    sqlite3_result_error_toobig(ctx);
  } else if (rc != SQLITE_OK) {
    /* In this order: a text sets the code to SQLITE_ERROR, and a code without a text sets its own. */
    if (conn->error) sqlite3_result_error(ctx, conn->error, -1);
    sqlite3_result_error_code(ctx, rc);
  }
  sqlite3_free(conn->error);
  conn->error = NULL;
}

/* ---- vectors ----------------------------------------------------------------------------------------------------- */

/* The character at byte `at` was not understood. */
static int text_fail_syntax(dvx_conn *conn, const dvx_table *t, const char *what, const char *text, size_t n,
                            size_t at) {
  uint64_t character = 1;
  size_t n_bytes = 1;
  for (size_t i = 0; i < at && i < n; i++) character += ((unsigned char)text[i] & 0xc0) != 0x80;
  if (at >= n) {
    return dvx_fail(conn, t, SQLITE_ERROR, "%s: vector is not a JSON array of numbers: it ends at character %u", what,
                    character);
  }
  while (at + n_bytes < n && ((unsigned char)text[at + n_bytes] & 0xc0) == 0x80) n_bytes++;
  return dvx_fail(conn, t, SQLITE_ERROR, "%s: vector is not a JSON array of numbers: unexpected '%S' at character %u",
                  what, text + at, n_bytes, character);
}

static int text_fail_expected(dvx_conn *conn, const dvx_table *t, sqlite3_value *v, size_t n_expected,
                              const char *what) {
  const char *type = sqlite3_value_type(v) == SQLITE_INTEGER ? "the INTEGER "
                     : sqlite3_value_type(v) == SQLITE_FLOAT ? "the REAL "
                                                             : "";
  if (n_expected == 0) {
    return dvx_fail(conn, t, SQLITE_ERROR,
                    "%s: vector is %s%v: expected a JSON array of numbers or a BLOB of little-endian 32-bit floats",
                    what, type, v);
  }
  return dvx_fail(conn, t, SQLITE_ERROR,
                  "%s: vector is %s%v: expected a JSON array of %u numbers or a BLOB of %u bytes", what, type, v,
                  (uint64_t)n_expected, (uint64_t)n_expected * 4);
}

static int text_fail_length(dvx_conn *conn, const dvx_table *t, size_t n, size_t n_expected, const char *what) {
  const char *noun = n == 1 ? "dimension" : "dimensions";
  if (n_expected > 0) {
    return dvx_fail(conn, t, SQLITE_ERROR, "%s: vector has %u %s, expected %u", what, (uint64_t)n, noun,
                    (uint64_t)n_expected);
  }
  return dvx_fail(conn, t, SQLITE_ERROR, "%s: vector has %u %s, expected 1 to %u", what, (uint64_t)n, noun,
                  (uint64_t)DV_MAX_DIMENSIONS);
}

/* JSON text: appends little-endian floats. */
static int text_vector_parse(dvx_conn *conn, const dvx_table *t, sqlite3_value *v, size_t n_expected, const char *what,
                             dv_buf *out, size_t *n) {
  dv_detail detail = {0, 0};
  const char *text = (const char *)sqlite3_value_text(v);
  if (!text) return SQLITE_NOMEM;
  size_t n_bytes = (size_t)sqlite3_value_bytes(v);
  switch (dv_vector_parse(out, n, text, n_bytes, &detail)) {
  case DV_OK: return SQLITE_OK;
  case DV_NOMEM: return SQLITE_NOMEM;
  case DV_NOT_FINITE:
    return dvx_fail(conn, t, SQLITE_ERROR, "%s: vector: value %u is %g, too large for a 32-bit float", what, detail.at,
                    detail.value);
  case DV_LIMIT:
    return dvx_fail(conn, t, SQLITE_ERROR, "%s: vector has more than %u dimensions, expected %s%u", what,
                    (uint64_t)DV_MAX_DIMENSIONS, n_expected ? "" : "1 to ",
                    (uint64_t)(n_expected ? n_expected : DV_MAX_DIMENSIONS));
  default: return text_fail_syntax(conn, t, what, text, n_bytes, detail.at < n_bytes ? (size_t)detail.at : n_bytes);
  }
}

int dvx_value_vector(dvx_conn *conn, const dvx_table *t, sqlite3_value *v, size_t n_expected, const char *what,
                     dv_buf *out, size_t *n) {
  size_t start = out->n, count = 0;
  int rc = SQLITE_OK;
  if (sqlite3_value_type(v) == SQLITE_BLOB) {
    size_t n_bytes = (size_t)sqlite3_value_bytes(v);
    count = n_bytes / 4;
    if (n_bytes % 4 != 0) {
      if (n_expected == 0) {
        return dvx_fail(conn, t, SQLITE_ERROR,
                        "%s: vector is %v: a little-endian f32 blob has 4 bytes a dimension, so a multiple of 4", what,
                        v);
      }
      return dvx_fail(conn, t, SQLITE_ERROR,
                      "%s: vector is %v: a little-endian f32 blob has 4 bytes a dimension, expected %u", what, v,
                      (uint64_t)n_expected * 4);
    }
    if (n_expected && count == 2 * n_expected) { /* numpy's, and JavaScript's, own numbers */
      return dvx_fail(conn, t, SQLITE_ERROR,
                      "%s: vector has %u dimensions, expected %u (if these are 64-bit floats: 32-bit ones are needed)",
                      what, (uint64_t)count, (uint64_t)n_expected);
    }
    /* Compared before the bytes are asked for: a wrong zeroblob of a gigabyte costs nothing. */
    if (n_expected ? count != n_expected : count == 0 || count > DV_MAX_DIMENSIONS) {
      return text_fail_length(conn, t, count, n_expected, what);
    }
    const uint8_t *blob = sqlite3_value_blob(v);
    if (!blob) return SQLITE_NOMEM;
    dv_buf_bytes(out, blob, n_bytes);
    if (out->status != DV_OK) return SQLITE_NOMEM;
  } else if (sqlite3_value_type(v) == SQLITE_TEXT) {
    rc = text_vector_parse(conn, t, v, n_expected, what, out, &count);
    if (rc == SQLITE_OK && (n_expected ? count != n_expected : count == 0)) {
      rc = text_fail_length(conn, t, count, n_expected, what);
    }
  } else {
    rc = text_fail_expected(conn, t, v, n_expected, what);
  }
  for (size_t i = 0; rc == SQLITE_OK && i < count; i += 64) {
    const size_t m = count - i < 64 ? count - i : 64;
    float block[64];
    dv_detail detail;
    dv_vector_load(block, out->data + start + 4 * i, m);
    memcpy(out->data + start + 4 * i, block, 4 * m); /* from stored to host order */
    if (dv_vector_check(block, m, &detail) != DV_OK) {
      rc = dvx_fail(conn, t, SQLITE_ERROR, "%s: vector: value %u is %g, expected a finite number", what,
                    (uint64_t)i + detail.at, detail.value);
    }
  }
  if (rc != SQLITE_OK) {
    if (out->n > start) out->n = start;
    return rc;
  }
  *n = count;
  return SQLITE_OK;
}

/* ---- values ------------------------------------------------------------------------------------------------------ */

int dvx_value_of(dvx_conn *conn, sqlite3_value *v, dv_value *out) {
  dv_value value;
  (void)conn;
  memset(&value, 0, sizeof value);
  switch (sqlite3_value_type(v)) {
  case SQLITE_INTEGER:
    value.type = DV_INTEGER;
    value.integer = sqlite3_value_int64(v);
    break;
  case SQLITE_FLOAT:
    value.type = DV_REAL;
    value.real = sqlite3_value_double(v);
    break;
  case SQLITE_TEXT:
    value.type = DV_TEXT;
    value.bytes = sqlite3_value_text(v);
    if (!value.bytes) return SQLITE_NOMEM;
    value.n_bytes = (size_t)sqlite3_value_bytes(v);
    break;
  case SQLITE_BLOB:
    value.type = DV_BLOB;
    value.bytes = sqlite3_value_blob(v);
    value.n_bytes = (size_t)sqlite3_value_bytes(v);
    if (!value.bytes && value.n_bytes > 0) return SQLITE_NOMEM;
    break;
  default: break;
  }
  *out = value;
  return SQLITE_OK;
}

void dvx_result_blob(sqlite3_context *ctx, const void *bytes, size_t n_bytes) {
  if (n_bytes > INT_MAX)
    sqlite3_result_error_toobig(ctx);
  else
    sqlite3_result_blob(ctx, n_bytes ? bytes : "", (int)n_bytes, SQLITE_TRANSIENT);
}

/* A vector handed to SQLite. The memory of the last one that SQLite gave back is kept for the next: allocating some 1.5
 * KB anew each time is a tenth of what reading a vector costs. */
typedef struct dvx_result {
  dvx_conn *conn; /* with a reference */
  size_t n_bytes;
  uint8_t bytes[];
} dvx_result;

static void result_release(void *bytes) {
  dvx_result *r = (dvx_result *)(void *)((uint8_t *)bytes - offsetof(dvx_result, bytes));
  dvx_conn *conn = r->conn;
  if (conn->spare_result == NULL) {
    conn->spare_result = r;
  } else {
    sqlite3_free(r);
  }
  dvx_conn_unref(conn);
}

void dvx_result_vector(dvx_conn *conn, sqlite3_context *ctx, const float *v, size_t n) {
  dvx_result *r = conn->spare_result;
  size_t n_bytes = n * sizeof *v;
  if (r && r->n_bytes == n_bytes) {
    conn->spare_result = NULL;
  } else {
    r = sqlite3_malloc64(sizeof *r + n_bytes);
    if (r == NULL) {
      sqlite3_result_error_nomem(ctx);
      return;
    }
    r->conn = conn;
    r->n_bytes = n_bytes;
    sqlite3_free(conn->spare_result);
    conn->spare_result = NULL;
  }
  dvx_conn_ref(conn);
  dv_vector_store(r->bytes, v, n);
  sqlite3_result_blob(ctx, r->bytes, (int)n_bytes, result_release); /* at most 4 * DV_MAX_DIMENSIONS bytes */
}

void dvx_result_buf(sqlite3_context *ctx, dv_buf *b) {
  if (b->status != DV_OK) {
    sqlite3_result_error_nomem(ctx);
  } else if (b->n > INT_MAX) {
    sqlite3_result_error_toobig(ctx);
  } else if (b->n == 0) {
    sqlite3_result_blob(ctx, "", 0, SQLITE_STATIC);
  } else {
    sqlite3_result_blob(ctx, b->data, (int)b->n, text_free);
    b->data = NULL;
  }
  dv_buf_free(b);
}

void dvx_result_text(sqlite3_context *ctx, dvx_str *s) {
  size_t n = s->n;
  char *z = dvx_str_take(s);
  if (!z) {
    sqlite3_result_error_nomem(ctx);
  } else if (n > INT_MAX) {
    sqlite3_free(z);
    sqlite3_result_error_toobig(ctx);
  } else {
    sqlite3_result_text(ctx, z, (int)n, text_free);
  }
}

void dvx_result_value(sqlite3_context *ctx, const dv_value *v) {
  switch (v->type) {
  case DV_NULL: sqlite3_result_null(ctx); break;
  case DV_INTEGER: sqlite3_result_int64(ctx, v->integer); break;
  case DV_REAL: sqlite3_result_double(ctx, v->real); break;
  case DV_TEXT:
    if (v->n_bytes > INT_MAX)
      sqlite3_result_error_toobig(ctx);
    else
      sqlite3_result_text(ctx, v->n_bytes ? (const char *)v->bytes : "", (int)v->n_bytes, SQLITE_TRANSIENT);
    break;
  case DV_BLOB: dvx_result_blob(ctx, v->bytes, v->n_bytes); break;
  }
}

int dvx_bind_value(sqlite3_stmt *stmt, int i, const dv_value *v) {
  if ((v->type == DV_TEXT || v->type == DV_BLOB) && v->n_bytes > INT_MAX) return SQLITE_TOOBIG;
  switch (v->type) {
  case DV_NULL: break;
  case DV_INTEGER: return sqlite3_bind_int64(stmt, i, v->integer);
  case DV_REAL: return sqlite3_bind_double(stmt, i, v->real);
  case DV_TEXT:
    return sqlite3_bind_text(stmt, i, v->n_bytes ? (const char *)v->bytes : "", (int)v->n_bytes, SQLITE_TRANSIENT);
  case DV_BLOB:
    return sqlite3_bind_blob(stmt, i, v->n_bytes ? (const void *)v->bytes : "", (int)v->n_bytes, SQLITE_TRANSIENT);
  }
  return sqlite3_bind_null(stmt, i);
}

int dvx_bind_sqlite_value(sqlite3_stmt *stmt, int i, sqlite3_value *v) {
  dv_value value;
  int rc = dvx_value_of(NULL, v, &value);
  return rc == SQLITE_OK ? dvx_bind_value(stmt, i, &value) : rc;
}

/* A text or blob that SQLite has no memory to hand out reads as NULL here; the statement's next step or reset then
 * returns SQLITE_NOMEM. */
void dvx_column_value(sqlite3_stmt *stmt, int i, dv_value *out) {
  memset(out, 0, sizeof *out);
  switch (sqlite3_column_type(stmt, i)) {
  case SQLITE_INTEGER:
    out->type = DV_INTEGER;
    out->integer = sqlite3_column_int64(stmt, i);
    break;
  case SQLITE_FLOAT:
    out->type = DV_REAL;
    out->real = sqlite3_column_double(stmt, i);
    break;
  case SQLITE_TEXT:
    out->bytes = sqlite3_column_text(stmt, i);
    out->n_bytes = (size_t)sqlite3_column_bytes(stmt, i);
    out->type = out->bytes ? DV_TEXT : DV_NULL;
    break;
  case SQLITE_BLOB:
    out->bytes = sqlite3_column_blob(stmt, i);
    out->n_bytes = (size_t)sqlite3_column_bytes(stmt, i);
    out->type = out->bytes || out->n_bytes == 0 ? DV_BLOB : DV_NULL;
    break;
  default: break;
  }
}

const char *dvx_skip_spaces(const char *z) {
  while (*z == ' ' || *z == '\t' || *z == '\r' || *z == '\n') z++;
  return z;
}

/* ---- JSON objects ------------------------------------------------------------------------------------------------ */

/* One row with a NULL key for an empty object (and for a scalar), so that the type of what was given is always seen.
 * Not prepared with NO_VTAB as all other internal statements are: json_each is a virtual table itself. A hostile schema
 * can put a table of its own under that name, which then fails for want of these columns, or gives options of its own
 * choice to a query of its own choice. */
#define TEXT_JSON_SQL                                                                                                  \
  "SELECT json_type(?1), key, value, json_valid(?1) FROM (SELECT 1)"                                                   \
  " LEFT JOIN json_each(CASE json_type(?1) WHEN 'object' THEN ?1 END)"

static int json_each(dvx_conn *conn, const dvx_table *t, const char *what, const char *json, int n_json,
                     int (*visit)(void *ctx, const char *key, sqlite3_value *value), void *ctx, bool *is_json5) {
  /* Taken out of the connection while in use: a nested call finds none there and prepares its own. */
  sqlite3_stmt *stmt = conn->json_stmt;
  int rc = SQLITE_OK, visited = SQLITE_OK;
  conn->json_stmt = NULL;
  if (!stmt) rc = sqlite3_prepare_v3(conn->db, TEXT_JSON_SQL, -1, SQLITE_PREPARE_PERSISTENT, &stmt, NULL);
  if (rc != SQLITE_OK) return dvx_fail_connecting(conn, t, rc);
  rc = sqlite3_bind_text(stmt, 1, json ? json : "", n_json, SQLITE_STATIC);
  while (rc == SQLITE_OK && (rc = sqlite3_step(stmt)) == SQLITE_ROW) {
    const char *type = (const char *)sqlite3_column_text(stmt, 0);
    if (!type || strcmp(type, "object") != 0) {
      visited = dvx_fail(conn, t, SQLITE_ERROR, "%s is a JSON %s, expected a JSON object", what, type ? type : "null");
      break;
    }
    *is_json5 = !sqlite3_column_int(stmt, 3);
    if (sqlite3_column_type(stmt, 1) == SQLITE_NULL) break; /* {} */
    const char *key = (const char *)sqlite3_column_text(stmt, 1);
    visited = key == NULL ? SQLITE_NOMEM : visit ? visit(ctx, key, sqlite3_column_value(stmt, 2)) : SQLITE_OK;
    if (visited != SQLITE_OK) break;
    rc = SQLITE_OK;
  }
  if (rc == SQLITE_ERROR) {
    rc = dvx_fail(conn, t, rc, "%s is not a JSON object: %s", what, sqlite3_errmsg(conn->db));
  } else if (rc == SQLITE_ROW || rc == SQLITE_DONE) {
    rc = visited;
  } else if (rc != SQLITE_OK) {
    rc = dvx_fail_sqlite(conn, t, rc);
  }
  (void)sqlite3_reset(stmt);
  if (stmt) (void)sqlite3_clear_bindings(stmt); /* of NULL it crashes */
  dvx_conn_keep(conn, &conn->json_stmt, stmt);
  return rc;
}

int dvx_json_each(dvx_conn *conn, const dvx_table *t, const char *what, const char *json, int n_json,
                  int (*visit)(void *ctx, const char *key, sqlite3_value *value), void *ctx) {
  bool is_json5;
  return json_each(conn, t, what, json, n_json, visit, ctx, &is_json5);
}

int dvx_json_check(dvx_conn *conn, const dvx_table *t, const char *what, const char *json, int n_json, bool *is_json5) {
  *is_json5 = false;
  return json_each(conn, t, what, json, n_json, NULL, NULL, is_json5);
}

int dvx_json_of_json5(dvx_conn *conn, const dvx_table *t, const char *json, int n_json, dv_buf *out) {
  sqlite3_stmt *stmt = NULL;
  int rc = sqlite3_prepare_v3(conn->db, "SELECT json(?1)", -1, SQLITE_PREPARE_NO_VTAB, &stmt, NULL);
  if (rc == SQLITE_OK) rc = sqlite3_bind_text(stmt, 1, json, n_json, SQLITE_STATIC);
  if (rc == SQLITE_OK && sqlite3_step(stmt) == SQLITE_ROW) {
    dv_value v;
    dvx_column_value(stmt, 0, &v);
    dv_buf_free(out);
    dv_buf_bytes(out, v.bytes, v.n_bytes);
    if (out->status != DV_OK) rc = SQLITE_NOMEM;
  }
  int final = sqlite3_finalize(stmt);
  return rc == SQLITE_OK && final == SQLITE_OK ? SQLITE_OK : dvx_fail_sqlite(conn, t, rc != SQLITE_OK ? rc : final);
}
