/*
 * database.c: the functions of wasm/wit/delta-vector.wit.
 *
 * Each is a call of the C API (ext/delta_vectors.h), which is a statement of docs/sql.md: here arguments are handed on and
 * results laid out, and no rule about deltas, vectors or searches is made. Only what the API has no call for is done with
 * SQLite itself: whole files out and in, and reading metadata.
 *
 * What goes wrong is the result's error, with the message that SQL gives; nothing traps (but see memory.c). A call that
 * has no result in the WIT gives nothing instead, and `last-error` tells why.
 */
#include "abi.h"

#include <stdarg.h>
#include <string.h>
#include <unistd.h>

#include "ext_int.h"

/* The resource. Its address is what the host's handle stands for. */
typedef struct database {
  dvec_db *dvec; /* NULL: it could not be opened, for ever; `error` says why */
  char *table;
  bool is_in_memory;
  size_t dimensions;
  dv_metric metric;
  int code; /* of the last call */
  char *error; /* its message; NULL with a code: there was no memory for one */
} database;

/* What stands for a database that there is no memory for. */
static database no_memory = {.code = SQLITE_NOMEM};

__attribute__((import_module("[export]ruvector:delta/delta-db@0.1.0"), import_name("[resource-new]database"))) uint32_t
abi_resource_new(database *db);

/* ---- errors ------------------------------------------------------------------------------------------------------ */

static int refuse(database *db, int code, const char *format, ...) {
  va_list args;
  va_start(args, format);
  char *error = sqlite3_vmprintf(format, args);
  va_end(args);
  sqlite3_free(db->error); /* now, as it may be an argument */
  db->error = error;
  return db->code = code;
}

static int no_memory_for(database *db) { return refuse(db, SQLITE_NOMEM, "out of memory"); }

/* The failure of a dvec_ call. */
static int failed(database *db, int code) {
  const char *message = dvec_message(db->dvec);
  if ((code & 0xff) == SQLITE_NOMEM) return no_memory_for(db);
  return refuse(db, code, "%s", message[0] ? message : dvec_code_text(code));
}

static abi_string error_of(const database *db) {
  const char *text = db->error ? db->error : "out of memory";
  return abi_text(text, strlen(text));
}

/* "Now" of the call, as SQLite has it; 0: not asked for yet. */
static sqlite3_int64 time_of_call;

/* Every call begins so. false: there is no database. */
static bool begin(database *db) {
  time_of_call = 0;
  if (!db->dvec) return false;
  sqlite3_free(db->error);
  db->error = NULL;
  db->code = SQLITE_OK;
  return true;
}

static abi_result *result_of(database *db) {
  static abi_result result; /* the host reads it before it calls again */
  memset(&result, 0, sizeof result);
  result.is_error = db->code != SQLITE_OK;
  if (result.is_error) result.error = error_of(db);
  return &result;
}

static abi_result64 *result64_of(database *db) {
  static abi_result64 result;
  memset(&result, 0, sizeof result);
  result.is_error = db->code != SQLITE_OK;
  if (result.is_error) result.error = error_of(db);
  return &result;
}

/* ---- arguments --------------------------------------------------------------------------------------------------- */

static dvec_id id_of(abi_string id) { return (dvec_id){id.n ? id.at : "", (int64_t)id.n, 0}; }

/* With a zero byte behind it, as C has texts. NULL if there is no memory, or such a byte within: then it is an error. */
static char *text_of(database *db, const char *what, abi_string s) {
  char *text = s.n && memchr(s.at, 0, s.n) ? NULL : abi_alloc(s.n + 1);
  if (!text) {
    if (s.n && memchr(s.at, 0, s.n))
      (void)refuse(db, SQLITE_ERROR, "delta_vectors: %s has a zero byte", what);
    else
      (void)no_memory_for(db);
    return NULL;
  }
  if (s.n) memcpy(text, s.at, s.n);
  text[s.n] = 0;
  return text;
}

static bool time_of(database *db, uint64_t time, int64_t *out) {
  if (time > INT64_MAX) {
    (void)refuse(db, SQLITE_ERROR, "delta_vectors: the time %llu is too large: expected milliseconds since 1970",
                 (unsigned long long)time);
    return false;
  }
  *out = (int64_t)time;
  return true;
}

static bool delta_of(database *db, const wit_vector_delta *in, const abi_option_string *metadata, dvec_delta *out) {
  const wit_delta_operation *o = &in->operation;
  *out = (dvec_delta){.size = sizeof *out, .operation = o->tag + DVEC_CREATE, .id = id_of(in->vector_id)};
  switch (o->tag) {
  case OP_CREATE:
  case OP_DENSE:
    out->values = o->vector.at;
    out->n = o->vector.n;
    break;
  case OP_SPARSE:
    if (o->sparse.indices.n != o->sparse.values.n) {
      (void)refuse(db, SQLITE_ERROR, "delta_vectors: row '%.*s': a sparse delta has %u indices and %u values",
                   (int)(in->vector_id.n < 50 ? in->vector_id.n : 50), in->vector_id.at, (unsigned)o->sparse.indices.n,
                   (unsigned)o->sparse.values.n);
      return false;
    }
    out->indices = o->sparse.indices.at;
    out->values = o->sparse.values.at;
    out->n = o->sparse.values.n;
    break;
  case OP_SCALE:
  case OP_OFFSET: out->amount = (double)o->number; break;
  default: break;
  }
  if (in->timestamp.is_some) {
    if (!time_of(db, in->timestamp.some, &out->time)) return false;
    out->has_time = 1;
  }
  if (metadata && metadata->is_some) {
    out->metadata = metadata->some.n ? metadata->some.at : "";
    out->n_metadata = (int64_t)metadata->some.n;
  }
  return true;
}

/* ---- open and close ---------------------------------------------------------------------------------------------- */

/* SQLite's file system for WASI asks /dev/urandom, which is not there, and would then begin with the time: two instances
 * started in one second would give their tables the same identity. WASI has random numbers of its own. */
static int random_bytes(sqlite3_vfs *vfs, int n, char *out) {
  (void)vfs;
  for (int i = 0; i < n; i += 256) {
    if (getentropy(out + i, (size_t)(n - i < 256 ? n - i : 256)) != 0) return i;
  }
  return n;
}

static int (*wall_clock)(sqlite3_vfs *vfs, sqlite3_int64 *out);

/* One time for all deltas of a call, as a statement of SQL has one: asking the host for each takes longer than the delta. */
static int now(sqlite3_vfs *vfs, sqlite3_int64 *out) {
  int rc = time_of_call ? SQLITE_OK : wall_clock(vfs, &time_of_call);
  *out = time_of_call;
  return rc;
}

/* Locks by "unix-dotfile": a directory <file>.lock while a transaction runs, as WASI has no locks on files. */
static int start_sqlite(void) {
  static sqlite3_vfs vfs;
  time_of_call = 0;
  if (vfs.zName) return SQLITE_OK;
  int rc = sqlite3_initialize();
  if (rc != SQLITE_OK) return rc;
  sqlite3_vfs files = *sqlite3_vfs_find("unix-dotfile");
  wall_clock = files.xCurrentTimeInt64;
  files.xCurrentTimeInt64 = now;
  files.xRandomness = random_bytes;
  files.zName = "wasi";
  files.pNext = NULL;
  vfs = files;
  return sqlite3_vfs_register(&vfs, 1);
}

static void close_database(database *db) {
  (void)dvec_close(db->dvec);
  sqlite3_free(db->table);
  db->dvec = NULL;
  db->table = NULL;
}

/* What kind of table it is, on any connection. */
typedef struct table_kind {
  size_t dimensions;
  dv_metric metric;
  bool has_text_ids; /* in a column called id, as tables have it that are made here */
} table_kind;

static int read_table(sqlite3 *sqlite, const char *table, table_kind *out) {
  static const char sql[] = "SELECT s ->> 'dimensions', s ->> 'metric', s ->> 'id' IS 'id' AND "
                            "(SELECT type FROM pragma_table_xinfo(?1) WHERE name = 'id') IS 'TEXT' "
                            "FROM (SELECT delta_status(?1) AS s)";
  sqlite3_stmt *stmt = NULL;
  memset(out, 0, sizeof *out);
  int rc = sqlite3_prepare_v2(sqlite, sql, -1, &stmt, NULL);
  if (rc == SQLITE_OK) rc = sqlite3_bind_text(stmt, 1, table, -1, SQLITE_STATIC);
  if (rc == SQLITE_OK && sqlite3_step(stmt) == SQLITE_ROW) {
    const char *name = (const char *)sqlite3_column_text(stmt, 1);
    out->dimensions = (size_t)sqlite3_column_int64(stmt, 0);
    out->has_text_ids = sqlite3_column_int(stmt, 2) != 0;
    if (!name || !dv_metric_parse(name, strlen(name), &out->metric)) rc = SQLITE_NOMEM;
  }
  int end = sqlite3_finalize(stmt);
  return rc == SQLITE_OK ? end : rc;
}

/* Is it the kind that was asked for? */
static int compare_table(database *db, const char *where, const table_kind *there, size_t dimensions,
                         dv_metric metric) {
  if (there->dimensions != dimensions || there->metric != metric) {
    return refuse(db, SQLITE_ERROR,
                  "delta_vectors: %s: the table %s has %d dimensions and the metric %s, expected %d and %s", where,
                  db->table, (int)there->dimensions, dv_metric_name(there->metric), (int)dimensions,
                  dv_metric_name(metric));
  }
  if (there->has_text_ids) return SQLITE_OK;
  return refuse(db, SQLITE_ERROR, "delta_vectors: %s: the table %s has no column id of texts", where, db->table);
}

/* What is in files that others made is not trusted, and SQL does not write to shadow tables: docs/security.md. */
static void distrust(sqlite3 *sqlite) {
  (void)sqlite3_db_config(sqlite, SQLITE_DBCONFIG_DEFENSIVE, 1, NULL);
  (void)sqlite3_db_config(sqlite, SQLITE_DBCONFIG_TRUSTED_SCHEMA, 0, NULL);
}

static uint32_t or_else(abi_option_u32 given, uint32_t preset) { return given.is_some ? given.some : preset; }

static int open_table(database *db, const wit_options *o) {
  static const dv_metric metrics[] = {DV_COSINE, DV_L2, DV_IP, DV_L1}; /* in the order of the WIT */
  table_kind there;
  char arguments[240];
  db->dimensions = o->dimensions;
  db->metric = metrics[o->metric.is_some ? o->metric.some & 3 : 0];
  sqlite3_snprintf((int)sizeof arguments, arguments,
                   "max_vectors=%u, compression=%s, checkpoint_interval=%u, hnsw_m=%u, hnsw_ef_construction=%u, "
                   "hnsw_ef_search=%u",
                   or_else(o->max_vectors, 100000), o->compression.is_some && !o->compression.some ? "off" : "on",
                   or_else(o->checkpoint_interval, 100), or_else(o->hnsw_m, 16), or_else(o->hnsw_ef_construction, 100),
                   or_else(o->hnsw_ef_search, 50));
  const dvec_table_options table = {.size = sizeof table,
                                    .dimensions = o->dimensions,
                                    .metric = dv_metric_name(db->metric),
                                    .arguments = arguments,
                                    .if_not_exists = 1};
  int rc = dvec_create_table(db->dvec, db->table, &table);
  if (rc != SQLITE_OK) return failed(db, rc);
  sqlite3 *sqlite = dvec_sqlite(db->dvec);
  rc = read_table(sqlite, db->table, &there);
  if (rc == SQLITE_NOMEM) return no_memory_for(db);
  if (rc != SQLITE_OK) return refuse(db, rc, "%s", sqlite3_errmsg(sqlite));
  return compare_table(db, "open", &there, db->dimensions, db->metric);
}

/* On failure the database is there all the same, without a connection. */
static int open_database(database *db, const wit_options *o) {
  /* A file in WAL mode can be opened here only by one connection, and not be shared: WASI has no shared memory. */
  static const char modes[] = "PRAGMA locking_mode=exclusive; PRAGMA journal_mode=delete; PRAGMA locking_mode=normal";
  const char *path = o->path.is_some ? text_of(db, "the path", o->path.some) : ":memory:";
  const char *table = o->table.is_some ? text_of(db, "the table's name", o->table.some) : "vectors";
  if (!path || !table) return db->code;
  if (!path[0] || !table[0]) {
    return refuse(db, SQLITE_ERROR, "delta_vectors: the %s is empty", path[0] ? "table's name" : "path");
  }
  const dvec_open_options options = {.size = sizeof options,
                                     .flags = SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE,
                                     .busy_timeout_ms = 500,
                                     .sql = o->path.is_some ? modes : NULL};
  db->is_in_memory = strcmp(path, ":memory:") == 0;
  db->table = sqlite3_mprintf("%s", table);
  int rc = db->table ? start_sqlite() : SQLITE_NOMEM;
  if (rc == SQLITE_NOMEM) return no_memory_for(db);
  rc = dvec_open(path, &options, &db->dvec);
  if (rc != SQLITE_OK) {
    (void)failed(db, rc);
  } else {
    distrust(dvec_sqlite(db->dvec));
    rc = open_table(db, o);
  }
  if (rc != SQLITE_OK) close_database(db);
  return rc;
}

static database *new_database(const wit_options *o) {
  database *db = sqlite3_malloc64(sizeof *db);
  if (!db) return &no_memory;
  memset(db, 0, sizeof *db);
  (void)open_database(db, o);
  return db;
}

static void free_database(database *db) {
  if (db == &no_memory) return;
  close_database(db);
  sqlite3_free(db->error);
  sqlite3_free(db);
}

ABI_EXPORT("delta-db@0.1.0#[constructor]database", database_new)
uint32_t database_new(uint32_t dimensions) {
  return abi_resource_new(new_database(&(wit_options){.dimensions = dimensions}));
}

__attribute__((export_name("ruvector:delta/delta-db@0.1.0#[dtor]database"))) void database_drop(database *db) {
  free_database(db);
}

ABI_EXPORT("delta-db-ext@0.1.0#open", ext_open)
abi_result *ext_open(const wit_options *options) {
  database *db = new_database(options);
  abi_result *result = result_of(db);
  if (!result->is_error) {
    result->handle = abi_resource_new(db);
    return result;
  }
  char *message = abi_alloc(result->error.n); /* the database's goes with it */
  if (message) memcpy(message, result->error.at, result->error.n);
  result->error = message ? (abi_string){message, result->error.n} : error_of(&no_memory);
  free_database(db);
  return result;
}

/* ---- writing ----------------------------------------------------------------------------------------------------- */

/* Ids of deltas follow each other. Room for them is taken before anything is written: a call that fails has changed
 * nothing. */
enum { ID_DIGITS = 20 };

static abi_string *room_for_ids(database *db, size_t n) {
  abi_string *ids = n < SIZE_MAX / (sizeof *ids + ID_DIGITS) ? abi_alloc(n * (sizeof *ids + ID_DIGITS)) : NULL;
  if (!ids) (void)no_memory_for(db);
  return ids;
}

static void write_ids(abi_string *ids, int64_t first, size_t n) {
  char *text = (char *)(ids + n);
  for (size_t i = 0; i < n; i++, text += ID_DIGITS) {
    sqlite3_snprintf(ID_DIGITS, text, "%lld", (long long)(first + (int64_t)i));
    ids[i] = (abi_string){text, strlen(text)};
  }
}

/* deltas[i] are `stride` bytes apart, the metadata, if there are any, `metadata_at` bytes behind their beginning. */
static abi_result *apply(database *db, const void *deltas, size_t n, size_t stride, size_t metadata_at) {
  int64_t first = 0;
  if (!begin(db)) return result_of(db);
  abi_string *ids = room_for_ids(db, n);
  dvec_delta *d = ids && n < SIZE_MAX / sizeof *d ? abi_alloc(n * sizeof *d) : NULL;
  if (!d) (void)no_memory_for(db);
  const uint8_t *at = deltas;
  for (size_t i = 0; db->code == SQLITE_OK && i < n; i++, at += stride) {
    (void)delta_of(db, (const wit_vector_delta *)(const void *)at,
                   metadata_at ? (const abi_option_string *)(const void *)(at + metadata_at) : NULL, &d[i]);
  }
  if (db->code == SQLITE_OK) {
    int rc = dvec_apply_many(db->dvec, db->table, d, n, &first, NULL, NULL);
    if (rc != SQLITE_OK) (void)failed(db, rc);
  }
  abi_result *result = result_of(db);
  if (!result->is_error) {
    write_ids(ids, first, n);
    result->list = (abi_bytes){(const uint8_t *)ids, n};
  }
  return result;
}

/* A variant's parts as the Canonical ABI hands them over when there are few: the union is four 32-bit words. */
ABI_EXPORT("delta-db@0.1.0#[method]database.apply-delta", database_apply_delta)
abi_result *database_apply_delta(database *db, const char *id, size_t n_id, uint32_t tag, uint32_t word0,
                                 uint32_t word1, uint32_t word2, uint32_t word3, uint32_t has_time, uint64_t time) {
  const uint32_t words[] = {word0, word1, word2, word3};
  wit_vector_delta delta = {.vector_id = {id, n_id}, .timestamp = {(uint8_t)has_time, time}};
  delta.operation.tag = (uint8_t)tag;
  memcpy(&delta.operation.sparse, words, sizeof words);
  abi_result *result = apply(db, &delta, 1, sizeof delta, 0);
  if (!result->is_error) result->text = *(const abi_string *)(const void *)result->list.at;
  return result;
}

ABI_EXPORT("delta-db@0.1.0#[method]database.apply-deltas", database_apply_deltas)
abi_result *database_apply_deltas(database *db, const wit_vector_delta *deltas, size_t n) {
  return apply(db, deltas, n, sizeof *deltas, 0);
}

ABI_EXPORT("delta-db-ext@0.1.0#apply-with-metadata", ext_apply_with_metadata)
abi_result *ext_apply_with_metadata(database *db, const wit_delta_with_metadata *deltas, size_t n) {
  return apply(db, deltas, n, sizeof *deltas, offsetof(wit_delta_with_metadata, metadata));
}

ABI_EXPORT("delta-db-ext@0.1.0#rollback", ext_rollback)
abi_result *ext_rollback(database *db, const char *id, size_t n_id, const char *to, size_t n_to) {
  const dvec_id row = id_of((abi_string){id, n_id});
  int64_t seq = 0, target = 0;
  if (!begin(db)) return result_of(db);
  bool is_number = n_to > 0 && n_to < 19;
  for (size_t i = 0; is_number && i < n_to; i++) {
    is_number = to[i] >= '0' && to[i] <= '9';
    target = target * 10 + (to[i] - '0');
  }
  if (!is_number) {
    (void)refuse(db, SQLITE_ERROR, "delta_vectors: rollback: '%.*s' is not the id of a delta",
                 (int)(n_to < 50 ? n_to : 50), to);
    return result_of(db);
  }
  abi_string *new_id = room_for_ids(db, 1);
  int rc = new_id ? dvec_rollback(db->dvec, db->table, &row, target, &seq) : SQLITE_OK;
  if (rc != SQLITE_OK) (void)failed(db, rc);
  abi_result *result = result_of(db);
  if (!result->is_error) {
    write_ids(new_id, seq, 1);
    result->text = *new_id;
  }
  return result;
}

ABI_EXPORT("delta-db-ext@0.1.0#compact", ext_compact)
abi_result64 *ext_compact(database *db, uint32_t has_keep, const char *keep, size_t n_keep) {
  dvec_compact_result r = {0};
  if (!begin(db)) return result64_of(db);
  const char *text = has_keep ? text_of(db, "keep", (abi_string){keep, n_keep}) : NULL;
  if (db->code == SQLITE_OK) {
    int rc = dvec_compact(db->dvec, db->table, text, &r, sizeof r);
    if (rc != SQLITE_OK) (void)failed(db, rc);
  }
  abi_result64 *result = result64_of(db);
  if (!result->is_error) {
    result->compaction = (wit_compaction_stats){
        (uint64_t)r.rows,        (uint64_t)r.deltas_before, (uint64_t)r.deltas_after, (uint64_t)r.bytes_before,
        (uint64_t)r.bytes_after, (uint64_t)r.merged,        (uint64_t)r.removed};
  }
  return result;
}

ABI_EXPORT("delta-db-ext@0.1.0#optimize", ext_optimize)
abi_result *ext_optimize(database *db) {
  if (!begin(db)) return result_of(db);
  int rc = dvec_optimize(db->dvec, db->table);
  if (rc != SQLITE_OK) (void)failed(db, rc);
  return result_of(db);
}

/* ---- reading ----------------------------------------------------------------------------------------------------- */

/* Copies the vector of now, or with a time that of then. */
static abi_option_floats get(database *db, abi_string id, const int64_t *time) {
  abi_option_floats none = {0};
  const dvec_id row = id_of(id);
  float *vector = abi_alloc(db->dimensions * sizeof *vector);
  if (!vector) {
    (void)no_memory_for(db);
    return none;
  }
  int rc = time ? dvec_get_at(db->dvec, db->table, &row, *time, vector, db->dimensions)
                : dvec_get(db->dvec, db->table, &row, vector, db->dimensions);
  if (rc == SQLITE_OK) return (abi_option_floats){1, {vector, db->dimensions}};
  if (rc != DVEC_NOTFOUND) (void)failed(db, rc);
  return none;
}

ABI_EXPORT("delta-db@0.1.0#[method]database.get-vector", database_get_vector)
abi_option_floats *database_get_vector(database *db, const char *id, size_t n_id) {
  static abi_option_floats result;
  result = begin(db) ? get(db, (abi_string){id, n_id}, NULL) : (abi_option_floats){0};
  return &result;
}

ABI_EXPORT("delta-db-ext@0.1.0#get-vector-at", ext_get_vector_at)
abi_result *ext_get_vector_at(database *db, const char *id, size_t n_id, uint64_t time) {
  abi_option_floats vector = {0};
  int64_t t;
  if (begin(db) && time_of(db, time, &t)) vector = get(db, (abi_string){id, n_id}, &t);
  abi_result *result = result_of(db);
  if (!result->is_error) result->option_vector = vector;
  return result;
}

ABI_EXPORT("delta-db-ext@0.1.0#get-metadata", ext_get_metadata)
abi_result *ext_get_metadata(database *db, const char *id, size_t n_id) {
  abi_option_string metadata = {0};
  if (!begin(db)) return result_of(db);
  sqlite3 *sqlite = dvec_sqlite(db->dvec);
  sqlite3_stmt *stmt = NULL;
  char *sql = sqlite3_mprintf("SELECT metadata FROM \"%w\" WHERE id = ?1", db->table);
  int rc = sql ? sqlite3_prepare_v2(sqlite, sql, -1, &stmt, NULL) : SQLITE_NOMEM;
  sqlite3_free(sql);
  if (rc == SQLITE_OK) rc = sqlite3_bind_text64(stmt, 1, n_id ? id : "", n_id, SQLITE_STATIC, SQLITE_UTF8);
  if (rc == SQLITE_OK) rc = sqlite3_step(stmt);
  if (rc == SQLITE_ROW && sqlite3_column_type(stmt, 0) != SQLITE_NULL) {
    const void *text = sqlite3_column_text(stmt, 0);
    size_t n = (size_t)sqlite3_column_bytes(stmt, 0);
    char *copy = text ? abi_alloc(n) : NULL;
    if (copy) memcpy(copy, text, n);
    rc = copy ? SQLITE_ROW : SQLITE_NOMEM;
    if (copy) metadata = (abi_option_string){1, abi_text(copy, n)};
  }
  if (rc == SQLITE_NOMEM)
    (void)no_memory_for(db);
  else if (rc != SQLITE_ROW && rc != SQLITE_DONE)
    (void)refuse(db, rc, "%s", sqlite3_errmsg(sqlite));
  (void)sqlite3_finalize(stmt);
  abi_result *result = result_of(db);
  if (!result->is_error) result->option_text = metadata;
  return result;
}

/* ---- search ------------------------------------------------------------------------------------------------------ */

static void fill_results(const database *db, const dvec_hit *hit, abi_string id, void *out) {
  *(wit_search_result *)out = (wit_search_result){id, (float)dv_score(db->metric, hit->distance)};
}

static void fill_hits(const database *db, const dvec_hit *hit, abi_string id, void *out) {
  *(wit_search_hit *)out = (wit_search_hit){id, (float)dv_score(db->metric, hit->distance), hit->distance};
}

/* Searches, and lays out the hits as list<T>, T of `size` bytes. */
static abi_bytes search(database *db, abi_floats query, uint32_t k, const dvec_search_options *given, size_t size,
                        void (*fill)(const database *db, const dvec_hit *hit, abi_string id, void *out)) {
  abi_bytes list = {(const uint8_t *)8, 0};
  dvec_search_options options = given ? *given : (dvec_search_options){0};
  dvec_hits *hits = NULL;
  options.size = sizeof options;
  options.k = k > 0 ? k : 1; /* 0 would be the default; the query is looked at all the same */
  int rc =
      dvec_search(db->dvec, db->table, query.n ? query.at : (const float *)(const void *)"", query.n, &options, &hits);
  if (rc != SQLITE_OK) {
    (void)failed(db, rc);
    return list;
  }
  size_t n = k == 0 ? 0 : dvec_hits_count(hits), n_text = 0;
  for (size_t i = 0; i < n; i++) n_text += (size_t)dvec_hits_at(hits, i)->id.n_text;
  uint8_t *out = abi_alloc(n * size + n_text);
  if (!out) {
    (void)no_memory_for(db);
  } else {
    char *text = (char *)(out + n * size);
    for (size_t i = 0; i < n; i++) {
      const dvec_hit *hit = dvec_hits_at(hits, i);
      abi_string id = {text, (size_t)hit->id.n_text};
      if (id.n) memcpy(text, hit->id.text, id.n);
      text += id.n;
      fill(db, hit, abi_text(id.at, id.n), out + i * size);
    }
    list = (abi_bytes){out, n};
  }
  dvec_hits_free(hits);
  return list;
}

ABI_EXPORT("delta-db@0.1.0#[method]database.search", database_search)
abi_bytes *database_search(database *db, const float *query, size_t n_query, uint32_t k) {
  static abi_bytes result;
  result = begin(db) ? search(db, (abi_floats){query, n_query}, k, NULL, sizeof(wit_search_result), fill_results)
                     : (abi_bytes){(const uint8_t *)8, 0};
  return &result;
}

/* The values of a filter's question marks. */
static dvec_value *values_of(database *db, const wit_filter_value *in, size_t n) {
  dvec_value *values = n < SIZE_MAX / sizeof *values ? abi_alloc(n * sizeof *values) : NULL;
  if (!values) (void)no_memory_for(db);
  for (size_t i = 0; values && i < n; i++) {
    values[i] = (dvec_value){.type = DVEC_NULL + in[i].tag};
    if (in[i].tag == 1) values[i].integer = in[i].integer;
    if (in[i].tag == 2) values[i].real = in[i].real;
    if (in[i].tag == 3) {
      values[i].bytes = in[i].text.n ? in[i].text.at : "";
      values[i].n_bytes = (int64_t)in[i].text.n;
    }
  }
  return values;
}

ABI_EXPORT("delta-db-ext@0.1.0#search-with", ext_search_with)
abi_result *ext_search_with(const abi_search_with *a) {
  database *db = a->db;
  const wit_search_options *o = &a->options;
  abi_bytes hits = {0};
  if (!begin(db)) return result_of(db);
  dvec_search_options options = {.exact = o->exact.is_some && o->exact.some,
                                 .has_max_distance = o->max_distance.is_some,
                                 .max_distance = o->max_distance.some,
                                 .has_as_of = o->as_of.is_some,
                                 .n_values = o->values.n};
  /* For the C API 0 is the table's own; here it is a value like others, and wrong. */
  if (o->ef.is_some && (o->ef.some == 0 || o->ef.some > INT32_MAX))
    (void)refuse(db, SQLITE_ERROR, "delta_vectors: ef is %u: expected 1 to 100000", o->ef.some);
  else if (o->ef.is_some)
    options.ef = (int32_t)o->ef.some;
  if (o->recall_target.is_some && !(o->recall_target.some > 0 && o->recall_target.some <= 1))
    (void)refuse(db, SQLITE_ERROR, "delta_vectors: recall-target is %g: expected a number above 0, at most 1",
                 o->recall_target.some);
  else if (o->recall_target.is_some)
    options.recall_target = o->recall_target.some;
  if (db->code == SQLITE_OK && o->as_of.is_some) (void)time_of(db, o->as_of.some, &options.as_of);
  if (db->code == SQLITE_OK && o->filter.is_some) options.filter = text_of(db, "the filter", o->filter.some);
  if (db->code == SQLITE_OK && o->filter.is_some) options.values = values_of(db, o->values.at, o->values.n);
  if (db->code == SQLITE_OK) hits = search(db, a->query, a->k, &options, sizeof(wit_search_hit), fill_hits);
  abi_result *result = result_of(db);
  if (!result->is_error) result->list = hits;
  return result;
}

/* ---- history ----------------------------------------------------------------------------------------------------- */

typedef struct pairs {
  uint32_t *indices;
  float *values;
  size_t n;
} pairs;

static void count_pair(void *ctx, uint32_t index, float value) {
  (void)index, (void)value;
  ((pairs *)ctx)->n++;
}

static void add_pair(void *ctx, uint32_t index, float value) {
  pairs *p = ctx;
  p->indices[p->n] = index;
  p->values[p->n++] = value;
}

/* A stored delta as the WIT has it. A full vector is what the delta makes of any other. */
static int operation_of(const database *db, const void *bytes, size_t n_bytes, wit_delta_operation *out) {
  dv_reader r = dv_reader_of(bytes, n_bytes);
  dv_frame frame;
  if (dv_frame_read(&r, &frame, NULL) != DV_OK || dv_delta_check(&frame.delta, db->dimensions, NULL) != DV_OK) {
    return SQLITE_CORRUPT;
  }
  const dv_delta *d = &frame.delta;
  switch (d->encoding) {
  case DV_ENC_NONE: out->tag = OP_DELETE; return SQLITE_OK;
  case DV_ENC_SCALAR:
    out->tag = d->op == DV_OP_SCALE ? OP_SCALE : OP_OFFSET;
    out->number = dv_load_f32(d->payload);
    return SQLITE_OK;
  case DV_ENC_SPARSE:
  case DV_ENC_RUN: {
    pairs p = {NULL, NULL, 0};
    dv_delta_each(d, count_pair, &p);
    p.indices = abi_alloc(p.n * sizeof *p.indices);
    p.values = abi_alloc(p.n * sizeof *p.values);
    if (!p.indices || !p.values) return SQLITE_NOMEM;
    p.n = 0;
    dv_delta_each(d, add_pair, &p);
    out->tag = OP_SPARSE;
    out->sparse.indices.at = p.indices;
    out->sparse.indices.n = p.n;
    out->sparse.values = (abi_floats){p.values, p.n};
    return SQLITE_OK;
  }
  default: {
    float *vector = abi_alloc(db->dimensions * sizeof *vector);
    if (!vector) return SQLITE_NOMEM;
    memset(vector, 0, db->dimensions * sizeof *vector);
    if (!dv_encoding_is_full((int)d->encoding) || dv_delta_apply(d, vector, db->dimensions, NULL) != DV_OK) {
      return SQLITE_CORRUPT;
    }
    out->tag = d->op == DV_OP_CREATE ? OP_CREATE : OP_DENSE;
    out->vector = (abi_floats){vector, db->dimensions};
    return SQLITE_OK;
  }
  }
}

static int copy_string(abi_string *out, const char *text, size_t n) {
  char *copy = abi_alloc(n);
  if (!copy) return SQLITE_NOMEM;
  if (n) memcpy(copy, text, n);
  *out = abi_text(copy, n);
  return SQLITE_OK;
}

static int entry_of(const database *db, const dvec_change *c, wit_committed_delta *out) {
  memset(out, 0, sizeof *out);
  out->seq = (uint64_t)c->seq;
  out->timestamp = (uint64_t)c->time;
  out->checkpoint = c->is_checkpoint != 0;
  int rc = copy_string(&out->vector_id, c->id.text, (size_t)c->id.n_text);
  if (rc == SQLITE_OK && c->metadata) {
    out->metadata.is_some = 1;
    rc = copy_string(&out->metadata.some, c->metadata, (size_t)c->n_metadata);
  }
  return rc == SQLITE_OK ? operation_of(db, c->delta, c->n_delta, &out->operation) : rc;
}

/* Up to `limit` rows of the cursor, which is closed. */
static abi_bytes list_changes(database *db, dvec_cursor *cursor, size_t limit) {
  wit_committed_delta *entries = NULL;
  size_t n = 0, capacity = 0;
  int rc = SQLITE_OK;
  while (rc == SQLITE_OK && n < limit) {
    const dvec_change *change = NULL;
    rc = dvec_cursor_next(cursor, &change);
    if (rc != SQLITE_OK || !change) break;
    if (n == capacity) {
      capacity = capacity ? 2 * capacity : 16;
      wit_committed_delta *larger = capacity < SIZE_MAX / sizeof *larger ? abi_alloc(capacity * sizeof *larger) : NULL;
      if (!larger) {
        rc = SQLITE_NOMEM;
        break;
      }
      if (n) memcpy(larger, entries, n * sizeof *larger);
      entries = larger;
    }
    rc = entry_of(db, change, &entries[n++]);
  }
  if (rc != SQLITE_OK) (void)failed(db, rc);
  dvec_cursor_close(cursor);
  return (abi_bytes){entries ? (const uint8_t *)entries : (const uint8_t *)8, n};
}

ABI_EXPORT("delta-db-ext@0.1.0#delta-chain", ext_delta_chain)
abi_result *ext_delta_chain(database *db, const char *id, size_t n_id) {
  const dvec_id row = id_of((abi_string){id, n_id});
  dvec_cursor *cursor = NULL;
  abi_bytes list = {0};
  if (!begin(db)) return result_of(db);
  int rc = dvec_chain(db->dvec, db->table, &row, &cursor);
  if (rc != SQLITE_OK)
    (void)failed(db, rc);
  else
    list = list_changes(db, cursor, SIZE_MAX);
  abi_result *result = result_of(db);
  if (!result->is_error) result->list = list;
  return result;
}

ABI_EXPORT("delta-db-ext@0.1.0#log", ext_log)
abi_result *ext_log(database *db, uint64_t since, uint32_t limit) {
  dvec_cursor *cursor = NULL;
  abi_bytes list = {0};
  if (!begin(db)) return result_of(db);
  int rc = dvec_log(db->dvec, db->table, since > INT64_MAX ? INT64_MAX : (int64_t)since, &cursor);
  if (rc != SQLITE_OK)
    (void)failed(db, rc);
  else
    list = list_changes(db, cursor, limit);
  abi_result *result = result_of(db);
  if (!result->is_error) result->list = list;
  return result;
}

/* ---- whole files ------------------------------------------------------------------------------------------------- */

/* Where an SQLite header says which journal its file is written with; 1: a rollback journal. */
enum { HEADER_BYTES = 100, MODE_AT = 18, ROLLBACK_JOURNAL = 1 };

ABI_EXPORT("delta-db@0.1.0#[method]database.export", database_export)
abi_bytes *database_export(database *db) {
  static abi_bytes result;
  sqlite3_int64 n = 0;
  result = (abi_bytes){(const uint8_t *)8, 0};
  if (!begin(db)) return &result;
  sqlite3 *sqlite = dvec_sqlite(db->dvec);
  uint8_t *bytes = sqlite3_serialize(sqlite, "main", &n, 0);
  if (!bytes || n < HEADER_BYTES) {
    int rc = sqlite3_errcode(sqlite);
    sqlite3_free(bytes);
    if (rc == SQLITE_OK || rc == SQLITE_ROW || rc == SQLITE_DONE || rc == SQLITE_NOMEM)
      (void)no_memory_for(db);
    else
      (void)refuse(db, rc, "delta_vectors: export: %s", sqlite3_errmsg(sqlite));
    return &result;
  }
  bytes[MODE_AT] = bytes[MODE_AT + 1] = ROLLBACK_JOURNAL; /* they are complete, without a WAL */
  abi_adopt(bytes);
  result = (abi_bytes){bytes, (size_t)n};
  return &result;
}

/* A connection to the bytes, which is checked before anything is done with it. NULL: refused. */
static sqlite3 *open_bytes(database *db, const uint8_t *bytes, size_t n) {
  sqlite3 *source = NULL;
  table_kind there;
  uint8_t *copy = sqlite3_malloc64(n);
  if (!copy) {
    (void)no_memory_for(db);
    return NULL;
  }
  memcpy(copy, bytes, n);
  copy[MODE_AT] = copy[MODE_AT + 1] = ROLLBACK_JOURNAL; /* a database in WAL mode cannot be opened without its WAL */
  int rc = sqlite3_open_v2(":memory:", &source, SQLITE_OPEN_READWRITE, NULL);
  if (rc == SQLITE_OK) {
    rc = sqlite3_deserialize(source, "main", copy, (sqlite3_int64)n, (sqlite3_int64)n,
                             SQLITE_DESERIALIZE_FREEONCLOSE | SQLITE_DESERIALIZE_RESIZEABLE);
    copy = NULL; /* freed on failure too */
  }
  sqlite3_free(copy);
  if (rc == SQLITE_OK) rc = sqlite3_deltavectors_init(source, NULL, NULL);
  sqlite3_stmt *check = NULL;
  const char *report = NULL;
  if (rc == SQLITE_OK) {
    distrust(source);
    rc = sqlite3_prepare_v2(source, "PRAGMA integrity_check(1)", -1, &check, NULL);
  }
  if (rc == SQLITE_OK && sqlite3_step(check) == SQLITE_ROW) report = (const char *)sqlite3_column_text(check, 0);
  if (rc == SQLITE_OK && report && strcmp(report, "ok") != 0)
    rc = refuse(db, SQLITE_CORRUPT, "delta_vectors: import: the file cannot be used: %s", report);
  int end = sqlite3_finalize(check);
  if (rc == SQLITE_OK) rc = end;
  if (rc == SQLITE_OK) rc = read_table(source, db->table, &there);
  if (rc == SQLITE_OK) rc = compare_table(db, "import", &there, db->dimensions, db->metric);
  if (rc == SQLITE_OK) return source;
  if ((rc & 0xff) == SQLITE_NOMEM)
    (void)no_memory_for(db);
  else if (db->code == SQLITE_OK)
    (void)refuse(db, rc, "delta_vectors: import: the file cannot be used: %s", sqlite3_errmsg(source));
  (void)sqlite3_close(source);
  return NULL;
}

/* All pages in one transaction of the target's. */
static int copy_database(sqlite3 *target, sqlite3 *source) {
  sqlite3_backup *backup = sqlite3_backup_init(target, "main", source, "main");
  if (!backup) return sqlite3_errcode(target);
  int rc = sqlite3_backup_step(backup, -1);
  int end = sqlite3_backup_finish(backup);
  return rc == SQLITE_DONE ? end : rc;
}

/* A database in memory cannot change the size of its pages once there are some, so there a new one takes the place of the
 * old. */
static int copy_to_memory(sqlite3 *source, dvec_db **out) {
  int rc = dvec_open(":memory:", NULL, out);
  if (rc != SQLITE_OK) return rc;
  distrust(dvec_sqlite(*out));
  return copy_database(dvec_sqlite(*out), source);
}

static void replace_by(database *db, sqlite3 *source) {
  dvec_db *copy = NULL;
  int rc = db->is_in_memory ? copy_to_memory(source, &copy) : copy_database(dvec_sqlite(db->dvec), source);
  if (copy && rc == SQLITE_OK) {
    (void)dvec_close(db->dvec);
    db->dvec = copy;
    return;
  }
  (void)dvec_close(copy);
  if ((rc & 0xff) == SQLITE_NOMEM)
    (void)no_memory_for(db);
  else if (rc != SQLITE_OK)
    (void)refuse(db, rc, "delta_vectors: import: %s", sqlite3_errstr(rc));
}

ABI_EXPORT("delta-db@0.1.0#[method]database.import", database_import)
abi_result *database_import(database *db, const uint8_t *bytes, size_t n) {
  if (!begin(db)) return result_of(db);
  if (n < HEADER_BYTES || memcmp(bytes, "SQLite format 3", 16) != 0) {
    (void)refuse(db, SQLITE_NOTADB, "delta_vectors: import: the bytes are not an SQLite database");
    return result_of(db);
  }
  sqlite3 *source = open_bytes(db, bytes, n);
  if (source) {
    replace_by(db, source);
    (void)sqlite3_close(source);
  }
  return result_of(db);
}

/* ---- parts of the log ---------------------------------------------------------------------------------------------- */

ABI_EXPORT("delta-db-ext@0.1.0#export-deltas", ext_export_deltas)
abi_result *ext_export_deltas(database *db, uint64_t since) {
  void *bytes = NULL;
  size_t n = 0;
  if (!begin(db)) return result_of(db);
  int rc = dvec_export(db->dvec, db->table, since > INT64_MAX ? INT64_MAX : (int64_t)since, &bytes, &n);
  if (rc != SQLITE_OK) (void)failed(db, rc);
  abi_result *result = result_of(db);
  if (!result->is_error) {
    abi_adopt(bytes);
    result->list = (abi_bytes){bytes, n};
  }
  return result;
}

ABI_EXPORT("delta-db-ext@0.1.0#import-deltas", ext_import_deltas)
abi_result64 *ext_import_deltas(database *db, const uint8_t *bytes, size_t n) {
  int64_t applied = 0, skipped = 0;
  if (!begin(db)) return result64_of(db);
  int rc = dvec_import(db->dvec, db->table, bytes, n, &applied, &skipped, NULL);
  if (rc != SQLITE_OK) (void)failed(db, rc);
  abi_result64 *result = result64_of(db);
  if (!result->is_error) result->import = (wit_import_stats){(uint64_t)applied, (uint64_t)skipped};
  return result;
}

/* ---- state ------------------------------------------------------------------------------------------------------- */

ABI_EXPORT("delta-db-ext@0.1.0#status", ext_status)
abi_result *ext_status(database *db) {
  char *json = NULL;
  if (!begin(db)) return result_of(db);
  int rc = dvec_status_json(db->dvec, db->table, &json);
  if (rc != SQLITE_OK) (void)failed(db, rc);
  abi_result *result = result_of(db);
  if (!result->is_error) {
    abi_adopt(json);
    result->text = abi_text(json, strlen(json));
  }
  return result;
}

ABI_EXPORT("delta-db-ext@0.1.0#last-error", ext_last_error)
abi_option_string *ext_last_error(database *db) {
  static abi_option_string result;
  result = db->code == SQLITE_OK ? (abi_option_string){0} : (abi_option_string){1, error_of(db)};
  return &result;
}

/* All of the extension's memory is SQLite's. */
__attribute__((export_name("ruvector:delta/delta-db-ext@0.1.0#limit-memory"))) uint64_t
ext_limit_memory(uint64_t bytes) {
  if (start_sqlite() != SQLITE_OK) return 0;
  return (uint64_t)sqlite3_hard_heap_limit64(bytes > INT64_MAX ? INT64_MAX : (sqlite3_int64)bytes);
}
