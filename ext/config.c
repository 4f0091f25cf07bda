/*
 * config.c: what CREATE VIRTUAL TABLE said.
 *
 *   arguments := [argument (',' argument)*]             -- SQLite has split them at commas outside of parentheses
 *   argument  := option '=' value                       -- anywhere among the columns, each option once
 *              | name TEXT|INTEGER PRIMARY KEY          -- the id; without one the rowid is the id
 *              | name FLOAT '[' n ']' (metric|distance_metric '=' value | INDEXED BY index ['(' parameters ')'])*
 *              | name type [PARTITION KEY]              -- metadata: can be filtered on inside the search
 *              | '+' name type                          -- auxiliary: only stored
 *
 * A vector column makes it the long form. Without any column it is the short form, whose columns are id, vector and
 * metadata, and `dimensions` must be given.
 *
 * The text comes from the schema of a file that may be hostile, so every count and length is checked before anything of
 * that size is allocated, and every name goes into SQL through %w. Whatever does not follow the grammar is an error
 * that says what would: a misspelt option that were ignored would be found out months later, by a slow search.
 */
#include "ext_int.h"

#define CONFIG_MAX_COLUMNS 64
#define CONFIG_MAX_PARTITION_KEYS 4
#define CONFIG_MAX_ARGUMENTS 128
#define CONFIG_MAX_NAME 128     /* bytes */
#define CONFIG_MAX_VALUE 128    /* bytes of an option's value */
#define CONFIG_MAX_VECTORS 2147483647 /* DVX_MAX_VID */

typedef enum config_option {
  CONFIG_DIMENSIONS,
  CONFIG_METRIC,
  CONFIG_DISTANCE_METRIC,
  CONFIG_INDEX,
  CONFIG_HNSW_M,
  CONFIG_HNSW_EF_CONSTRUCTION,
  CONFIG_HNSW_EF_SEARCH,
  CONFIG_RECALL_TARGET,
  CONFIG_THREADS,
  CONFIG_MEMORY_LIMIT,
  CONFIG_MAX_VECTORS_OPTION,
  CONFIG_CHECKPOINT_INTERVAL,
  CONFIG_COMPRESSION,
  CONFIG_RETENTION,
  CONFIG_N_OPTIONS
} config_option;

static const struct {
  const char *name;
  const char *expected;
} config_options[CONFIG_N_OPTIONS] = {
    [CONFIG_DIMENSIONS] = {"dimensions", "an integer from 1 to 65536"},
    [CONFIG_METRIC] = {"metric", "l2, cosine, ip or l1"},
    [CONFIG_DISTANCE_METRIC] = {"distance_metric", "l2, cosine, ip or l1"},
    [CONFIG_INDEX] = {"index", "auto, flat or hnsw"},
    [CONFIG_HNSW_M] = {"hnsw_m", "an integer from 2 to 512"},
    [CONFIG_HNSW_EF_CONSTRUCTION] = {"hnsw_ef_construction", "an integer from 1 to 100000"},
    [CONFIG_HNSW_EF_SEARCH] = {"hnsw_ef_search", "an integer from 1 to 100000"},
    [CONFIG_RECALL_TARGET] = {"recall_target", "a number above 0, at most 1, such as 0.95"},
    [CONFIG_THREADS] = {"threads", "an integer from 0 (only the caller's) to 64"},
    [CONFIG_MEMORY_LIMIT] = {"memory_limit", "megabytes, an integer from 1 to 1048576"},
    [CONFIG_MAX_VECTORS_OPTION] = {"max_vectors", "an integer from 0 (no limit) to 2147483647"},
    [CONFIG_CHECKPOINT_INTERVAL] = {"checkpoint_interval", "an integer from 1 to 10000"},
    [CONFIG_COMPRESSION] = {"compression", "on, off or max"},
    [CONFIG_RETENTION] = {"retention", "'forever', 'none' or an extent such as '90 days' or '100 versions'"},
};

#define CONFIG_TYPES "INTEGER, REAL, TEXT, BOOLEAN, BLOB or, for the vector, FLOAT[n]"

/* One parse. After the first error (rc is set) every function is a no-op. */
typedef struct config_parser {
  int rc;
  char *message;
  const char *schema, *table;
  dvx_config *c;
  unsigned seen; /* options given: 1 << config_option */
  int n_partition_keys;
  dvx_str declared; /* the columns so far, as they stand in the declaration */
} config_parser;

static void config_fail(config_parser *p, char *text) {
  if (p->rc != SQLITE_OK) {
    sqlite3_free(text);
    return;
  }
  p->message = dvx_format("delta_vectors: table %s.%s: %s", p->schema, p->table, text);
  p->rc = text && p->message ? SQLITE_ERROR : SQLITE_NOMEM;
  sqlite3_free(text);
}

/* ---- tokens ------------------------------------------------------------------------------------------------------ */

typedef struct config_token {
  char kind; /* 0 end, 'w' word or number, 'q' quoted, else the character itself */
  const char *z;
  size_t n;
} config_token;

typedef struct config_lexer {
  const char *z;
} config_lexer;

static bool config_is_word(char c) {
  return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' || c == '$' ||
         c == '.' || (unsigned char)c >= 0x80;
}

static void config_skip_space(config_lexer *l) {
  for (;;) {
    if (*l->z == ' ' || (*l->z >= '\t' && *l->z <= '\r')) {
      l->z++;
    } else if (l->z[0] == '-' && l->z[1] == '-') {
      while (*l->z && *l->z != '\n') l->z++;
    } else if (l->z[0] == '/' && l->z[1] == '*') {
      l->z += 2;
      while (*l->z && !(l->z[0] == '*' && l->z[1] == '/')) l->z++;
      if (*l->z) l->z += 2;
    } else {
      return;
    }
  }
}

/* The next token. A '[' begins a quoted name where a name is expected, and the dimensions where a type was. */
static config_token config_next(config_lexer *l, bool brackets_quote) {
  config_token t;
  config_skip_space(l);
  t.kind = *l->z;
  t.z = l->z;
  if (t.kind == '\'' || t.kind == '"' || t.kind == '`' || (t.kind == '[' && brackets_quote)) {
    const char close = (char)(t.kind == '[' ? ']' : t.kind);
    l->z++;
    while (*l->z && (*l->z != close || (l->z[1] == close && close != ']'))) l->z += *l->z == close ? 2 : 1;
    if (*l->z) l->z++;
    t.kind = 'q';
  } else if (config_is_word(t.kind)) {
    while (config_is_word(*l->z)) l->z++;
    t.kind = 'w';
  } else if (t.kind) {
    l->z++;
  }
  t.n = (size_t)(l->z - t.z);
  return t;
}

static config_token config_peek(const config_lexer *l) {
  config_lexer copy = *l;
  return config_next(&copy, false);
}

static bool config_is(config_token t, const char *word) {
  return t.kind == 'w' && strlen(word) == t.n && sqlite3_strnicmp(t.z, word, (int)t.n) == 0;
}

/* The token's text without its quotes, terminated, in out[capacity]; false when it does not fit or is empty. */
static bool config_text(config_token t, char *out, size_t capacity) {
  size_t n = 0;
  if (t.kind == 'q') {
    const char close = (char)(t.z[0] == '[' ? ']' : t.z[0]);
    for (size_t i = 1; i + 1 < t.n; i++) {
      if (n + 1 >= capacity) return false;
      out[n++] = t.z[i];
      if (t.z[i] == close) i++; /* doubled inside */
    }
  } else {
    if (t.n + 1 > capacity) return false;
    memcpy(out, t.z, t.n);
    n = t.n;
  }
  out[n] = 0;
  return n > 0;
}

/* ---- values ------------------------------------------------------------------------------------------------------ */

static bool config_integer(const char *z, int64_t least, int64_t largest, int64_t *out) {
  int64_t v = 0;
  size_t n = strlen(z);
  if (n == 0 || n > 18) return false;
  for (; *z; z++) {
    if (*z < '0' || *z > '9') return false;
    v = v * 10 + (*z - '0');
  }
  if (v < least || v > largest) return false;
  *out = v;
  return true;
}

static bool config_int(const char *z, int least, int largest, int *out) {
  int64_t v = 0;
  if (!config_integer(z, least, largest, &v)) return false;
  *out = (int)v;
  return true;
}

static bool config_recall(const char *z, double *out) {
  char number[CONFIG_MAX_VALUE + 2];
  double d = 0;
  size_t n = strlen(z), at = z[0] == '.'; /* .95 is a number in SQL, not in JSON */
  number[0] = '0';
  if (n > CONFIG_MAX_VALUE) return false;
  memcpy(number + at, z, n + 1);
  if (n == 0 || dv_double_parse(number, n + at, &d) != n + at || !(d > 0 && d <= 1)) return false;
  *out = d;
  return true;
}

static bool config_one_of(const char *z, const char *const *words, const int *values, size_t n, int *out) {
  for (size_t i = 0; i < n; i++) {
    if (sqlite3_stricmp(z, words[i]) == 0) {
      *out = values[i];
      return true;
    }
  }
  return false;
}

static bool config_index(const char *z, dvx_index *out) {
  static const char *const words[] = {"auto", "flat", "hnsw"};
  static const int values[] = {DVX_INDEX_AUTO, DVX_INDEX_FLAT, DVX_INDEX_HNSW};
  int v;
  if (!config_one_of(z, words, values, 3, &v)) return false;
  *out = (dvx_index)v;
  return true;
}

static bool config_compression(const char *z, dv_compression *out) {
  static const char *const words[] = {"on", "1", "true", "yes", "off", "0", "false", "no", "max"};
  static const int values[] = {DV_COMPRESSION_ON,  DV_COMPRESSION_ON,  DV_COMPRESSION_ON,
                               DV_COMPRESSION_ON,  DV_COMPRESSION_OFF, DV_COMPRESSION_OFF,
                               DV_COMPRESSION_OFF, DV_COMPRESSION_OFF, DV_COMPRESSION_MAX};
  int v;
  if (!config_one_of(z, words, values, 9, &v)) return false;
  *out = (dv_compression)v;
  return true;
}

bool dvx_keep_parse(const char *text, size_t n, dvx_keep *out) {
  static const struct {
    const char *name;
    int64_t milliseconds; /* 0: versions */
  } units[] = {
      {"version", 0},    {"millisecond", 1},  {"second", 1000},      {"minute", 60000},     {"hour", 3600000},
      {"day", 86400000}, {"week", 604800000}, {"month", 2592000000}, {"year", 31536000000},
  };
  while (n > 0 && (text[0] == ' ' || text[0] == '\t')) text++, n--;
  while (n > 0 && (text[n - 1] == ' ' || text[n - 1] == '\t')) n--;
  if (n == 7 && sqlite3_strnicmp(text, "forever", 7) == 0) {
    *out = (dvx_keep){DVX_KEEP_FOREVER, 0};
    return true;
  }
  if (n == 4 && sqlite3_strnicmp(text, "none", 4) == 0) {
    *out = (dvx_keep){DVX_KEEP_NONE, 0};
    return true;
  }
  int64_t amount = 0;
  size_t i = 0;
  for (; i < n && text[i] >= '0' && text[i] <= '9'; i++) {
    amount = amount * 10 + (text[i] - '0');
    if (amount > DVX_TIME_MAX) return false;
  }
  if (i == 0) return false;
  while (i < n && (text[i] == ' ' || text[i] == '\t')) i++;
  for (size_t u = 0; u < sizeof units / sizeof units[0]; u++) {
    size_t n_name = strlen(units[u].name);
    if (n - i < n_name || sqlite3_strnicmp(text + i, units[u].name, (int)n_name) != 0) continue;
    if (n - i != n_name && !(n - i == n_name + 1 && (text[n - 1] == 's' || text[n - 1] == 'S'))) continue;
    if (units[u].milliseconds == 0) {
      *out = (dvx_keep){DVX_KEEP_VERSIONS, amount};
      return true;
    }
    if (amount > DVX_TIME_MAX / units[u].milliseconds) return false;
    *out = (dvx_keep){DVX_KEEP_MILLISECONDS, amount * units[u].milliseconds};
    return true;
  }
  return false;
}

/* ---- options ----------------------------------------------------------------------------------------------------- */

/* Number of insertions, removals and replacements that make one word the other. Both are shorter than 32 bytes. */
static size_t config_edits(const char *a, size_t n_a, const char *b, size_t n_b) {
  size_t row[33];
  for (size_t j = 0; j <= n_b; j++) row[j] = j;
  for (size_t i = 1; i <= n_a; i++) {
    size_t diagonal = row[0];
    row[0] = i;
    for (size_t j = 1; j <= n_b; j++) {
      size_t replaced = diagonal + (sqlite3_strnicmp(a + i - 1, b + j - 1, 1) != 0);
      size_t least = row[j] < row[j - 1] ? row[j] + 1 : row[j - 1] + 1;
      diagonal = row[j];
      row[j] = replaced < least ? replaced : least;
    }
  }
  return row[n_b];
}

/* The option that an unknown word was probably meant to be, or NULL: one that contains it, or is a slip or two away. */
static const char *config_guess(const char *z, size_t n) {
  const char *best = NULL;
  size_t best_edits = 3;
  if (n < 3 || n >= 32) return NULL;
  if (n == 4 && sqlite3_strnicmp(z, "dims", 4) == 0) return config_options[CONFIG_DIMENSIONS].name;
  for (size_t i = 0; i < CONFIG_N_OPTIONS; i++) {
    const char *name = config_options[i].name;
    size_t n_name = strlen(name);
    for (size_t at = 0; at + n <= n_name; at++) {
      if (sqlite3_strnicmp(z, name + at, (int)n) == 0) return name;
    }
    size_t edits = config_edits(z, n, name, n_name);
    if (edits < best_edits && edits < n / 2) {
      best = name;
      best_edits = edits;
    }
  }
  return best;
}

static void config_fail_unknown(config_parser *p, config_token name) {
  dvx_str s = {0};
  const char *guess = config_guess(name.z, name.n);
  dvx_str_addf(&s, "unknown option %S", name.z, name.n);
  if (guess)
    dvx_str_addf(&s, ", did you mean %s? The options are ", guess);
  else
    dvx_str_addf(&s, ": the options are ");
  for (size_t i = 0; i < CONFIG_N_OPTIONS; i++) {
    dvx_str_addf(&s, "%s%s", i == 0 ? "" : i + 1 < CONFIG_N_OPTIONS ? ", " : " and ", config_options[i].name);
  }
  config_fail(p, dvx_str_take(&s));
}

static void config_fail_dimensions(config_parser *p, int64_t option, size_t declared) {
  config_fail(p, dvx_format("option dimensions is %i, but the vector column has %u", option, (uint64_t)declared));
}

static void config_set(config_parser *p, config_option option, const char *value) {
  dvx_config *c = p->c;
  int64_t integer = 0;
  bool is_good = false;
  if (p->rc != SQLITE_OK) return;
  config_option recorded = option == CONFIG_DISTANCE_METRIC ? CONFIG_METRIC : option;
  if (p->seen & 1u << recorded) {
    config_fail(p, dvx_format("option %s is given twice", config_options[option].name));
    return;
  }
  p->seen |= 1u << recorded;
  switch (option) {
  case CONFIG_DIMENSIONS:
    is_good = config_integer(value, 1, DV_MAX_DIMENSIONS, &integer);
    if (is_good && c->vector_name && c->dimensions != (size_t)integer)
      config_fail_dimensions(p, integer, c->dimensions);
    c->dimensions = (size_t)integer;
    break;
  case CONFIG_METRIC:
  case CONFIG_DISTANCE_METRIC: is_good = dv_metric_parse(value, strlen(value), &c->metric); break;
  case CONFIG_INDEX: is_good = config_index(value, &c->index); break;
  case CONFIG_HNSW_M: is_good = config_int(value, 2, 512, &c->hnsw_m); break;
  case CONFIG_HNSW_EF_CONSTRUCTION: is_good = config_int(value, 1, 100000, &c->hnsw_ef_construction); break;
  case CONFIG_HNSW_EF_SEARCH: is_good = config_int(value, 1, 100000, &c->hnsw_ef_search); break;
  case CONFIG_RECALL_TARGET: is_good = config_recall(value, &c->recall_target); break;
  case CONFIG_THREADS: is_good = config_int(value, 0, DVX_MAX_THREADS, &c->threads); break;
  case CONFIG_MEMORY_LIMIT: is_good = config_integer(value, 1, DVX_MAX_MEMORY_LIMIT, &c->memory_limit); break;
  case CONFIG_MAX_VECTORS_OPTION: is_good = config_integer(value, 0, CONFIG_MAX_VECTORS, &c->max_vectors); break;
  case CONFIG_CHECKPOINT_INTERVAL: is_good = config_int(value, 1, 10000, &c->checkpoint_interval); break;
  case CONFIG_COMPRESSION: is_good = config_compression(value, &c->compression); break;
  case CONFIG_RETENTION: is_good = dvx_keep_parse(value, strlen(value), &c->retention); break;
  case CONFIG_N_OPTIONS: break;
  }
  if (!is_good) {
    config_fail(p, dvx_format("option %s is '%S': expected %s", config_options[option].name, value, strlen(value),
                              config_options[option].expected));
  }
}

/* A value behind '=': one quoted token, or everything up to `end` as it stands (90 days needs no quotes there). */
static void config_set_token(config_parser *p, config_option option, config_token value) {
  char text[CONFIG_MAX_VALUE];
  if (p->rc != SQLITE_OK) return;
  if (value.n == 0 || !config_text(value, text, sizeof text)) {
    config_fail(p, dvx_format("option %s is '%S': expected %s", config_options[option].name, value.z, value.n,
                              config_options[option].expected));
    return;
  }
  config_set(p, option, text);
}

static int config_find(config_token name) {
  char text[32];
  if (!config_text(name, text, sizeof text)) return -1;
  for (int i = 0; i < CONFIG_N_OPTIONS; i++) {
    if (sqlite3_stricmp(text, config_options[i].name) == 0) return i;
  }
  return -1;
}

/* option '=' value, the whole argument; l stands behind the '='. */
static void config_argument_option(config_parser *p, config_lexer *l, config_token name) {
  int option = config_find(name);
  config_token value = config_next(l, true);
  if (option < 0) {
    config_fail_unknown(p, name);
    return;
  }
  if (config_peek(l).kind != 0) { /* more than one token: take them as they stand */
    config_token last = value;
    while (config_peek(l).kind != 0) last = config_next(l, false);
    value.n = (size_t)(last.z + last.n - value.z);
    value.kind = 'w';
  }
  if (value.kind != 0 && value.kind != 'q') value.kind = 'w';
  config_set_token(p, (config_option)option, value);
}

/* ---- columns ----------------------------------------------------------------------------------------------------- */

static bool config_is_reserved(const char *name) {
  static const char *const reserved[] = {"distance", "k", "as_of", "delta", "score", "rowid", "_rowid_", "oid"};
  for (size_t i = 0; i < sizeof reserved / sizeof reserved[0]; i++) {
    if (sqlite3_stricmp(name, reserved[i]) == 0) return true;
  }
  return false;
}

static bool config_is_declared(const dvx_config *c, const char *name) {
  bool is_declared = (c->id_name && sqlite3_stricmp(name, c->id_name) == 0) ||
                     (c->vector_name && sqlite3_stricmp(name, c->vector_name) == 0);
  for (int i = 0; i < c->n_columns; i++) is_declared = is_declared || sqlite3_stricmp(name, c->columns[i].name) == 0;
  return is_declared;
}

bool dvx_config_has_column(const dvx_config *c, const char *name) {
  return config_is_reserved(name) || config_is_declared(c, name);
}

/* Checks a column's name against those that are taken. */
static void config_check_name(config_parser *p, const char *name) {
  if (config_is_declared(p->c, name)) {
    config_fail(p, dvx_format("column %s is declared twice", name));
  } else if (config_is_reserved(name)) {
    config_fail(p, dvx_format("column %s: this name is reserved, choose another one", name));
  } else if (sqlite3_stricmp(name, p->table) == 0) {
    config_fail(
        p,
        dvx_format("column %s has the name of the table, which is that of the column for commands: rename one", name));
  }
}

static char *config_copy(config_parser *p, const char *z) {
  char *copy = p->rc == SQLITE_OK ? dvx_format("%s", z) : NULL;
  if (!copy && p->rc == SQLITE_OK) p->rc = SQLITE_NOMEM;
  return copy;
}

/* Adds a column to the declared table; its number is the result. */
static int config_declare(config_parser *p, const char *name, const char *type) {
  dvx_str_addf(&p->declared, "\"%w\" %s, ", name, type);
  return p->c->n_declared++;
}

static void config_add_column(config_parser *p, const char *name, dvx_column_type type, bool is_partition_key,
                              bool is_auxiliary) {
  static const char *const types[] = {
      [DVX_COLUMN_INTEGER] = "INTEGER", [DVX_COLUMN_REAL] = "REAL", [DVX_COLUMN_TEXT] = "TEXT",
      [DVX_COLUMN_BOOLEAN] = "BOOLEAN", [DVX_COLUMN_BLOB] = "BLOB", [DVX_COLUMN_JSON] = "TEXT",
  };
  dvx_config *c = p->c;
  if (p->rc != SQLITE_OK) return;
  if (c->n_columns >= CONFIG_MAX_COLUMNS) {
    config_fail(
        p, dvx_format("column %s: at most %d metadata and auxiliary columns are allowed", name, CONFIG_MAX_COLUMNS));
    return;
  }
  if (is_partition_key && ++p->n_partition_keys > CONFIG_MAX_PARTITION_KEYS) {
    config_fail(p, dvx_format("column %s: at most %d partition keys are allowed", name, CONFIG_MAX_PARTITION_KEYS));
    return;
  }
  dvx_column *column = &c->columns[c->n_columns];
  column->name = config_copy(p, name);
  if (!column->name) return;
  column->type = type;
  column->is_partition_key = is_partition_key;
  column->is_auxiliary = is_auxiliary;
  c->meta_column[c->n_columns++] = config_declare(p, name, types[type]);
}

/* m=16, ef_construction=100, ef_search=50 between the parentheses behind INDEXED BY hnsw. */
static void config_index_parameters(config_parser *p, config_lexer *l, bool is_hnsw) {
  static const struct {
    const char *name;
    config_option option;
  } parameters[] = {
      {"m", CONFIG_HNSW_M},
      {"ef_construction", CONFIG_HNSW_EF_CONSTRUCTION},
      {"ef_search", CONFIG_HNSW_EF_SEARCH},
  };
  config_token t = config_next(l, false);
  while (p->rc == SQLITE_OK && t.kind != ')') {
    size_t i = 0;
    if (t.kind == ',') t = config_next(l, false);
    while (i < 3 && !config_is(t, parameters[i].name)) i++;
    if (i == 3 || !is_hnsw || config_peek(l).kind != '=') {
      config_fail(p, dvx_format("INDEXED BY: unexpected '%S', %s", t.z, t.n,
                                is_hnsw ? "the parameters of hnsw are m=, ef_construction= and ef_search="
                                        : "flat has no parameters"));
      return;
    }
    (void)config_next(l, false);
    config_set_token(p, parameters[i].option, config_next(l, false));
    t = config_next(l, false);
    if (p->rc == SQLITE_OK && t.kind != ',' && t.kind != ')') {
      config_fail(p, dvx_format("INDEXED BY: unexpected '%S', expected , or )", t.z, t.n));
    }
  }
}

/* name FLOAT '[' n ']' ...; l stands behind the '['. */
static void config_argument_vector(config_parser *p, config_lexer *l, const char *name, config_token type) {
  dvx_config *c = p->c;
  int64_t n = 0;
  char text[32];
  config_token size = config_next(l, false);
  if (!config_is(type, "float") && !config_is(type, "float32") && !config_is(type, "f32")) {
    config_fail(p, dvx_format("column %s: %S[n] is not supported, only FLOAT[n]; searches compress vectors to "
                              "8 bits and to 1 bit by themselves",
                              name, type.z, type.n, name));
    return;
  }
  if (size.kind != 'w' || !config_text(size, text, sizeof text) || !config_integer(text, 1, DV_MAX_DIMENSIONS, &n) ||
      config_next(l, false).kind != ']') {
    config_fail(p, dvx_format("column %s: the dimensions in FLOAT[%S] are not %s", name, size.kind == ']' ? "" : size.z,
                              size.kind == ']' ? (size_t)0 : size.n, config_options[CONFIG_DIMENSIONS].expected));
    return;
  }
  if (c->vector_name) {
    config_fail(p, dvx_format("columns %s and %s are both vectors, a table has exactly one", c->vector_name, name));
    return;
  }
  config_check_name(p, name);
  c->vector_name = config_copy(p, name);
  if (!c->vector_name) return;
  c->vector_column = config_declare(p, name, "BLOB");
  if (p->seen & 1u << CONFIG_DIMENSIONS && c->dimensions != (size_t)n) {
    config_fail_dimensions(p, (int64_t)c->dimensions, (size_t)n);
  }
  c->dimensions = (size_t)n;
  while (p->rc == SQLITE_OK) {
    config_token t = config_next(l, false);
    if (t.kind == 0) return;
    if ((config_is(t, "metric") || config_is(t, "distance_metric")) && config_peek(l).kind == '=') {
      (void)config_next(l, false);
      config_set_token(p, config_is(t, "metric") ? CONFIG_METRIC : CONFIG_DISTANCE_METRIC, config_next(l, false));
    } else if (config_is(t, "indexed") && config_is(config_peek(l), "by")) {
      (void)config_next(l, false);
      t = config_next(l, false);
      config_set_token(p, CONFIG_INDEX, t);
      if (config_peek(l).kind == '(') {
        (void)config_next(l, false);
        config_index_parameters(p, l, config_is(t, "hnsw"));
      }
    } else {
      config_fail(
          p, dvx_format("column %s: unexpected '%S', expected distance_metric=... or INDEXED BY ...", name, t.z, t.n));
    }
  }
}

static bool config_type(config_token t, dvx_column_type *out) {
  static const struct {
    const char *word;
    dvx_column_type type;
  } types[] = {
      {"integer", DVX_COLUMN_INTEGER}, {"int", DVX_COLUMN_INTEGER},     {"bigint", DVX_COLUMN_INTEGER},
      {"real", DVX_COLUMN_REAL},       {"float", DVX_COLUMN_REAL},      {"double", DVX_COLUMN_REAL},
      {"text", DVX_COLUMN_TEXT},       {"boolean", DVX_COLUMN_BOOLEAN}, {"bool", DVX_COLUMN_BOOLEAN},
      {"blob", DVX_COLUMN_BLOB},
  };
  for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
    if (config_is(t, types[i].word)) {
      *out = types[i].type;
      return true;
    }
  }
  return false;
}

/* Everything that is not an option; l stands behind the name. */
static void config_argument_column(config_parser *p, config_lexer *l, config_token name_token, bool is_auxiliary) {
  dvx_config *c = p->c;
  char name[CONFIG_MAX_NAME + 1];
  dvx_column_type type = DVX_COLUMN_TEXT;
  if ((name_token.kind != 'w' && name_token.kind != 'q') || !config_text(name_token, name, sizeof name)) {
    config_fail(p,
                dvx_format("'%S' is not a column name (1 to %d bytes)", name_token.z, name_token.n, CONFIG_MAX_NAME));
    return;
  }
  config_token t = config_next(l, false);
  if (t.kind == 'w' && config_peek(l).kind == '[' && !is_auxiliary) {
    (void)config_next(l, false);
    config_argument_vector(p, l, name, t);
    return;
  }
  if (!config_type(t, &type)) {
    config_fail(p, t.kind == 0
                       ? dvx_format("column %s has no type: expected " CONFIG_TYPES, name)
                       : dvx_format("column %s: type '%S' is not supported: expected " CONFIG_TYPES, name, t.z, t.n));
    return;
  }
  if (config_is(t, "double") && config_is(config_peek(l), "precision")) (void)config_next(l, false);
  config_check_name(p, name);
  t = config_next(l, false);
  bool is_key = config_is(config_peek(l), "key") && !is_auxiliary;
  if (t.kind == 0) {
    config_add_column(p, name, type, false, is_auxiliary);
    return;
  }
  if (is_key && config_is(t, "partition")) {
    config_add_column(p, name, type, true, false);
  } else if (is_key && config_is(t, "primary")) {
    if (c->id_name) {
      config_fail(p, dvx_format("columns %s and %s are both PRIMARY KEY, a table has at most one", c->id_name, name));
    } else if (type != DVX_COLUMN_TEXT && type != DVX_COLUMN_INTEGER) {
      config_fail(p, dvx_format("column %s: the PRIMARY KEY is TEXT or INTEGER", name));
    }
    char *copy = config_copy(p, name);
    if (!copy) return;
    c->id_name = copy;
    c->id_type = type == DVX_COLUMN_TEXT ? DVX_ID_TEXT : DVX_ID_INTEGER;
    c->id_column = config_declare(p, name, type == DVX_COLUMN_TEXT ? "TEXT" : "INTEGER");
  } else {
    config_fail(p, dvx_format("column %s: unexpected '%S', expected %s", name, t.z, t.n,
                              is_auxiliary    ? "nothing behind the type"
                              : t.kind == '(' ? "FLOAT[n] for a vector, nothing for a number"
                                              : "PRIMARY KEY, PARTITION KEY or nothing"));
    return;
  }
  (void)config_next(l, false); /* KEY */
  t = config_next(l, false);
  if (t.kind != 0) config_fail(p, dvx_format("column %s: unexpected '%S' behind KEY", name, t.z, t.n));
}

static void config_argument(config_parser *p, const char *argument) {
  config_lexer l = {argument};
  config_token t = config_next(&l, true);
  bool is_auxiliary = t.kind == '+';
  if (is_auxiliary) t = config_next(&l, true);
  if (t.kind == 0 && !is_auxiliary) {
    config_fail(p, dvx_format("an argument is empty: is there a comma too many?"));
  } else if (!is_auxiliary && (t.kind == 'w' || t.kind == 'q') && config_peek(&l).kind == '=') {
    (void)config_next(&l, false);
    config_argument_option(p, &l, t);
  } else {
    config_argument_column(p, &l, t, is_auxiliary);
  }
}

/* ---- the whole --------------------------------------------------------------------------------------------------- */

/* Without a vector column: the short form, if its conditions hold. */
static void config_complete_short(config_parser *p) {
  dvx_config *c = p->c;
  if (p->rc != SQLITE_OK) return;
  if (c->n_declared > 0) {
    config_fail(p, dvx_format("no vector column: declare one such as embedding FLOAT[%u], or no columns at all, only "
                              "dimensions=%u, to get the columns id, vector and metadata",
                              (uint64_t)(c->dimensions ? c->dimensions : 384),
                              (uint64_t)(c->dimensions ? c->dimensions : 384)));
    return;
  }
  if (c->dimensions == 0) {
    config_fail(
        p, dvx_format("dimensions is missing: write USING delta_vectors(dimensions=384) or declare a vector column "
                      "such as embedding FLOAT[384]"));
    return;
  }
  c->is_short_form = true;
  if (!(p->seen & 1u << CONFIG_METRIC)) c->metric = DV_COSINE;
  c->id_type = DVX_ID_TEXT;
  config_check_name(p, "id");
  c->id_name = config_copy(p, "id");
  c->id_column = config_declare(p, "id", "TEXT");
  config_check_name(p, "vector");
  c->vector_name = config_copy(p, "vector");
  c->vector_column = config_declare(p, "vector", "BLOB");
  config_check_name(p, "metadata");
  config_add_column(p, "metadata", DVX_COLUMN_JSON, false, false);
}

/* The hidden columns, behind all others. `distance` has a type so that tools show one; the rest take any value. */
static void config_complete(config_parser *p) {
  dvx_config *c = p->c;
  if (!c->vector_name) config_complete_short(p);
  if (p->rc != SQLITE_OK) return;
  c->command_column = config_declare(p, p->table, "HIDDEN");
  c->k_column = config_declare(p, "k", "HIDDEN");
  c->distance_column = config_declare(p, "distance", "REAL HIDDEN");
  c->as_of_column = config_declare(p, "as_of", "HIDDEN");
  c->delta_column = config_declare(p, "delta", "HIDDEN");
  char *columns = dvx_str_take(&p->declared);
  if (columns) {
    columns[strlen(columns) - 2] = 0; /* the last comma */
    c->declaration = dvx_format("CREATE TABLE x(%s)", columns);
  }
  sqlite3_free(columns);
  if (!c->declaration) p->rc = SQLITE_NOMEM;
}

static dvx_config *config_new(void) {
  dvx_config *c = sqlite3_malloc64(sizeof *c);
  if (!c) return NULL;
  memset(c, 0, sizeof *c);
  c->columns = sqlite3_malloc64(CONFIG_MAX_COLUMNS * sizeof *c->columns);
  c->meta_column = sqlite3_malloc64(CONFIG_MAX_COLUMNS * sizeof *c->meta_column);
  if (!c->columns || !c->meta_column) {
    dvx_config_free(c);
    return NULL;
  }
  memset(c->columns, 0, CONFIG_MAX_COLUMNS * sizeof *c->columns);
  for (int i = 0; i < CONFIG_MAX_COLUMNS; i++) c->meta_column[i] = -1;
  c->metric = DV_L2;
  c->index = DVX_INDEX_AUTO;
  c->hnsw_m = 16;
  c->hnsw_ef_construction = 100;
  c->hnsw_ef_search = DVX_EF_SEARCH;
  c->threads = DVX_THREADS_ALL;
  c->memory_limit = DVX_MEMORY_LIMIT;
  c->checkpoint_interval = 100;
  c->compression = DV_COMPRESSION_ON;
  c->retention.unit = DVX_KEEP_FOREVER;
  c->id_type = DVX_ID_ROWID;
  c->id_column = c->vector_column = -1;
  return c;
}

void dvx_config_free(dvx_config *c) {
  if (!c) return;
  for (int i = 0; c->columns && i < c->n_columns; i++) sqlite3_free(c->columns[i].name);
  sqlite3_free(c->columns);
  sqlite3_free(c->meta_column);
  sqlite3_free(c->id_name);
  sqlite3_free(c->vector_name);
  sqlite3_free(c->declaration);
  sqlite3_free(c);
}

int dvx_config_parse(int argc, const char *const *argv, dvx_config **out, char **message) {
  config_parser p;
  memset(&p, 0, sizeof p);
  *message = NULL;
  p.schema = argv[1];
  p.table = argv[2];
  p.c = config_new();
  if (!p.c) return SQLITE_NOMEM;
  if (config_is_reserved(p.table)) {
    config_fail(&p, dvx_format("this name is also that of a column, choose another one for the table"));
  }
  if (argc - 3 > CONFIG_MAX_ARGUMENTS) {
    config_fail(&p, dvx_format("%d arguments are given, at most %d are allowed", argc - 3, CONFIG_MAX_ARGUMENTS));
  }
  for (int i = 3; i < argc && p.rc == SQLITE_OK; i++) {
    config_argument(&p, argv[i]);
  }
  config_complete(&p);
  dvx_str_free(&p.declared);
  if (p.rc != SQLITE_OK) {
    dvx_config_free(p.c);
    *message = p.message;
    return p.rc;
  }
  *out = p.c;
  return SQLITE_OK;
}
