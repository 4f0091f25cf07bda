/*
 * ext_int.h: the private header of the extension, one section a .c file, in order of dependency.
 *
 * Conventions: functions return an SQLite result code unless said otherwise, out-parameters come last and are written
 * only on SQLITE_OK. A function that fails with anything but SQLITE_NOMEM has left a message with dvx_fail(); the edge
 * that SQLite called hands it over (dvx_give_*). dvx_<file>_<verb>() are shared here, statics are bare words that are
 * unique across the library, since all files also compile as one.
 */
#ifndef DVX_INT_H
#define DVX_INT_H

#include "compat.h"
#include "thresholds.h"

#include "../core/dv_checksum.h"
#include "../core/dv_delta.h"
#include "../core/dv_flat.h"
#include "../core/dv_frame.h"
#include "../core/dv_hnsw.h"
#include "../core/dv_metric.h"
#include "../core/dv_quant.h"
#include "../core/dv_sketch.h"
#include "../core/dv_topk.h"
#include "../core/dv_vector.h"
#include "delta_vectors.h"

#ifndef SQLITE_CORE
extern const sqlite3_api_routines *sqlite3_api;
#endif

typedef struct dvx_conn dvx_conn;
typedef struct dvx_table dvx_table;
typedef struct dvx_config dvx_config;

/* ================================================================================================================
 * text.c: strings, messages, values
 */

/* A growing string; sticky: after a failed allocation every call is a no-op. */
typedef struct dvx_str {
  char *z;
  size_t n;
  size_t capacity;
  bool is_oom;
} dvx_str;

void dvx_str_add(dvx_str *s, const char *z, size_t n);

/* Formats: %s text (NULL prints nothing), %d int, %i int64_t, %u uint64_t, %g double (short form), %w identifier inside
 * double quotes ("" doubled; the quotes are yours), %q text inside single quotes (doubled; the quotes are yours),
 * %v sqlite3_value* as SQL text cut to 40 characters, %I dv_value* the same, %S a user's text (const char *, size_t)
 * cut to 40 characters, %% a percent sign. */
void dvx_str_addf(dvx_str *s, const char *format, ...);

/* The terminated string, to be freed with sqlite3_free(); NULL when memory ran out. *s is empty afterwards. */
char *dvx_str_take(dvx_str *s);
void dvx_str_free(dvx_str *s);

/* The same in one call. */
char *dvx_format(const char *format, ...);

/* SQLite's allocator as core wants it. */
extern const dv_alloc dvx_alloc;
/* Grows the array that the pointer at `pointer` points to from n_old to n_new bytes, not 0; what is new is zero. */
int dvx_grow(void *pointer, size_t n_old, size_t n_new);

/* Remembers the message as the connection's error and returns rc. The first message of a failure wins: one that is
 * already there (not yet given away) is kept. `t` may be NULL; otherwise "delta_vectors: table schema.name: " is put in
 * front, else "delta_vectors: ". */
int dvx_fail(dvx_conn *conn, const dvx_table *t, int rc, const char *format, ...);

/* The SQLite code and message for a dv_status about something the message names. */
int dvx_fail_status(dvx_conn *conn, const dvx_table *t, dv_status status, const char *what);

/* The error of the connection's last failed internal statement, with its message. */
int dvx_fail_sqlite(dvx_conn *conn, const dvx_table *t, int rc);

/* The same for the preparation of a statement that names a table-valued function: interrupted while it connects one,
 * SQLite says that it is broken (json_each; before 3.41 any). */
int dvx_fail_connecting(dvx_conn *conn, const dvx_table *t, int rc);

/* sqlite3_declare_vtab(), with the code of an interrupt that comes just then. */
int dvx_declare(sqlite3 *db, const char *declaration);

/* Hands the connection's error to SQLite; both clear it. dvx_give_vtab returns rc. */
int dvx_give_vtab(dvx_conn *conn, sqlite3_vtab *vtab, int rc);
void dvx_give_context(dvx_conn *conn, sqlite3_context *ctx, int rc);

/* A vector argument: JSON text or little-endian f32 blob, finite, n_expected floats (0: any number from 1 on).
 * Appended to *out as floats in host order (out->data is aligned: it comes from malloc); *n is its length. `what` names
 * it in messages ("row 'a'", "query"). */
int dvx_value_vector(dvx_conn *conn, const dvx_table *t, sqlite3_value *v, size_t n_expected, const char *what,
                     dv_buf *out, size_t *n);

/* sqlite3_value <-> dv_value; text and blob are borrowed from the sqlite3_value. */
int dvx_value_of(dvx_conn *conn, sqlite3_value *v, dv_value *out);
void dvx_result_value(sqlite3_context *ctx, const dv_value *v);
int dvx_bind_value(sqlite3_stmt *stmt, int i, const dv_value *v);
int dvx_bind_sqlite_value(sqlite3_stmt *stmt, int i, sqlite3_value *v);
void dvx_column_value(sqlite3_stmt *stmt, int i, dv_value *out);
void dvx_result_blob(sqlite3_context *ctx, const void *bytes, size_t n_bytes);
/* n floats, little-endian. */
void dvx_result_vector(dvx_conn *conn, sqlite3_context *ctx, const float *v, size_t n);
/* Takes b's bytes as the result without a copy (b is empty afterwards); NOMEM if b failed. */
void dvx_result_buf(sqlite3_context *ctx, dv_buf *b);
/* The same for a string. */
void dvx_result_text(sqlite3_context *ctx, dvx_str *s);

/* The first character that is no white space of JSON. */
const char *dvx_skip_spaces(const char *z);

/* A minimal reader of flat JSON objects for options: calls SQLite's JSON functions through one nested statement:
 * each (key, value) of the object text. Unknown keys are the callback's business (return a result code). */
int dvx_json_each(dvx_conn *conn, const dvx_table *t, const char *what, const char *json, int n_json,
                  int (*visit)(void *ctx, const char *key, sqlite3_value *value), void *ctx);
/* Checks that the text is a JSON object. *is_json5: or one in JSON5, which SQLite reads from 3.42 on. */
int dvx_json_check(dvx_conn *conn, const dvx_table *t, const char *what, const char *json, int n_json, bool *is_json5);
/* Puts into *out the JSON of a text that is JSON5. */
int dvx_json_of_json5(dvx_conn *conn, const dvx_table *t, const char *json, int n_json, dv_buf *out);

/* ================================================================================================================
 * time.c
 */

#define DVX_TIME_MAX ((int64_t)1 << 53)

/* Milliseconds since 1970 UTC from the VFS clock. */
int64_t dvx_time_now(dvx_conn *conn);

/* A time given by a user: INTEGER milliseconds, REAL without fraction, or text that SQLite's date functions read. row,
 * the id of the row it is given for, is for the message of an error; it may be NULL. */
int dvx_time_parse(dvx_conn *conn, const dvx_table *t, const dv_value *row, sqlite3_value *v, int64_t *out);

/* ================================================================================================================
 * host.c: threads, memory given back to the system, large pages
 */

/* Threads that work together, the caller one of them. NULL, where there can be no other, is a crew of one. */
typedef struct dvx_crew dvx_crew;
dvx_crew *dvx_crew_new(size_t n_workers);
void dvx_crew_free(dvx_crew *crew);
size_t dvx_crew_size(const dvx_crew *crew);
/* Calls task(arg, i, worker) for every i < n, and returns when all are done; worker < dvx_crew_size. ctx is the crew. */
void dvx_crew_run(void *ctx, size_t n, void (*task)(void *arg, size_t i, size_t worker), void *arg);
/* Cores that this process may use. */
size_t dvx_host_cores(void);

/* Unit in which memory can be given back; 0: it cannot. */
size_t dvx_host_page_bytes(void);
/* Whole pages: what they hold is lost, they read as zeros, and take no memory until they are written to again. */
void dvx_host_give_back(void *start, size_t n_bytes);
/* Memory that is looked at all over is quicker in pages of this size: the CPU remembers where few pages are. */
#define DVX_LARGE_PAGE ((size_t)2 << 20)
/* Are there any? Asks the system each time. */
bool dvx_host_has_large_pages(void);
/* Makes one of the small ones at start, a multiple of its size; what they hold stays. False if there is none to be had.
 * Takes most of a millisecond. */
bool dvx_host_join(void *start);

/* ================================================================================================================
 * pages.c: which rows of a large array are in memory
 */
typedef struct dvx_pages {
  uint64_t *has; /* bitmap of rows: in memory, to be looked at */
  uint64_t *asleep; /* ... in memory, but not to be looked at before dvx_pages_wake */
  uint64_t *held; /* bitmap of pages that take memory */
  size_t n_rows; /* of the bitmaps */
  size_t n_array_rows; /* of the array: its owner says it after dvx_pages_reserve */
  size_t row_bytes;
  unsigned n_parts;
  size_t page_bytes;
  size_t segment_rows; /* fill whole pages: what is given back at a time */
  size_t n_held;
  size_t hand; /* a row, the first of a segment */
  bool can_give_back;
  const void *joined_base; /* the array, when large pages of it ... */
  size_t n_joined; /* ... were made: so many, from its beginning */
} dvx_pages;

/* n_parts: in so many parts of equal size an entry lies, each beside those of 64 rows; the next parts are behind them. */
void dvx_pages_init(dvx_pages *p, size_t row_bytes, unsigned n_parts);
void dvx_pages_free(dvx_pages *p);
int dvx_pages_reserve(dvx_pages *p, size_t n_rows);
void dvx_pages_put(dvx_pages *p, size_t row); /* the row's entry is in memory now */
void dvx_pages_drop(dvx_pages *p, size_t row); /* ... is not right any more */
bool dvx_pages_wake(dvx_pages *p, size_t row); /* false: the entry is not in memory */
/* Gives back n_bytes of the array, which begins on a page, if it can: entries that nobody has asked for lately. */
void dvx_pages_give_back(dvx_pages *p, void *base, size_t n_bytes);
/* Makes the next large page of the array's first n_rows, once nearly all of them are in memory. False: there is no more to
 * do now. */
bool dvx_pages_join(dvx_pages *p, void *base, size_t n_rows);
static inline size_t dvx_pages_bytes(const dvx_pages *p) { return p->n_held * p->page_bytes; }
static inline bool dvx_pages_has(const dvx_pages *p, size_t row) { return p->has[row >> 6] >> (row & 63) & 1; }

/* ================================================================================================================
 * config.c: what CREATE VIRTUAL TABLE said
 */

typedef enum dvx_index { DVX_INDEX_AUTO, DVX_INDEX_FLAT, DVX_INDEX_HNSW } dvx_index;
typedef enum dvx_id_type {
  DVX_ID_TEXT,
  DVX_ID_INTEGER,
  DVX_ID_ROWID /* no id column: the rowid is the id */
} dvx_id_type;
typedef enum dvx_column_type {
  DVX_COLUMN_INTEGER,
  DVX_COLUMN_REAL,
  DVX_COLUMN_TEXT,
  DVX_COLUMN_BOOLEAN,
  DVX_COLUMN_BLOB,
  DVX_COLUMN_JSON /* metadata of the short form: a JSON object */
} dvx_column_type;

typedef struct dvx_column {
  char *name;
  dvx_column_type type;
  bool is_partition_key;
  bool is_auxiliary; /* stored, not filterable inside the search */
} dvx_column;

typedef enum dvx_keep_unit { DVX_KEEP_FOREVER, DVX_KEEP_MILLISECONDS, DVX_KEEP_VERSIONS, DVX_KEEP_NONE } dvx_keep_unit;

/* A retention: what compaction may not merge away. */
typedef struct dvx_keep {
  dvx_keep_unit unit;
  int64_t amount; /* milliseconds or versions */
} dvx_keep;

#define DVX_THREADS_ALL (-1)
#define DVX_MAX_THREADS 64
#define DVX_EF_SEARCH 50 /* default of hnsw_ef_search */
#define DVX_MAX_MEMORY_LIMIT 1048576

struct dvx_config {
  bool is_short_form;
  size_t dimensions;
  dv_metric metric;
  dvx_index index;
  int hnsw_m, hnsw_ef_construction, hnsw_ef_search;
  double recall_target; /* 0: none */
  int threads; /* that build a graph; DVX_THREADS_ALL: as many as there are cores; 0 and 1: the caller's alone */
  int64_t memory_limit; /* MB */
  int64_t max_vectors; /* 0: no limit */
  int checkpoint_interval;
  dv_compression compression;
  dvx_keep retention;
  dvx_id_type id_type;
  char *id_name; /* NULL for DVX_ID_ROWID */
  char *vector_name;
  dvx_column *columns; /* metadata and auxiliary, in declared order; field number of columns[i] is i + 1 */
  int n_columns;
  /* Column numbers of the declared table. -1: not there. Metadata column i is at column_base[i]. */
  int id_column, vector_column, command_column, k_column, distance_column, as_of_column, delta_column;
  int *meta_column;
  int n_declared;
  char *declaration; /* for sqlite3_declare_vtab */
};

/* argv as xCreate gets it. On failure *message is a sqlite3_malloc'ed text. */
int dvx_config_parse(int argc, const char *const *argv, dvx_config **out, char **message);
void dvx_config_free(dvx_config *c);
/* Is it the name of a column, of a hidden one or of one that may become one? The table cannot have it. */
bool dvx_config_has_column(const dvx_config *c, const char *name);

/* '90 days', '100 versions', 'forever', 'none'. */
bool dvx_keep_parse(const char *text, size_t n, dvx_keep *out);

/* ================================================================================================================
 * shadow.c: every SQL statement on the shadow tables but those on %_log
 */

typedef enum dvx_sql {
  DVX_SQL_PIN, /* opens a read transaction */
  DVX_SQL_STAMP, /* generation, key of the tail pack, tail pack: what decides whether memory is current */
  DVX_SQL_LOG_AT, /* seq, pack of the pack with the largest key <= ?1 */
  DVX_SQL_LOG_NEXT, /* seq, pack of the pack with the smallest key > ?1 */
  DVX_SQL_LOG_INSERT, /* ?1 key, ?2 pack */
  DVX_SQL_LOG_UPDATE, /* ?1 key, ?2 pack */
  DVX_SQL_LOG_DROP_OLD, /* deletes the packs with key > 0 (end of a rewrite) */
  DVX_SQL_LOG_FLIP, /* key = -key for every pack with key < 0 */
  DVX_SQL_LOG_SIZE, /* number of packs, their bytes */
  DVX_SQL_ROW_BY_ID, /* ?1 id: vid */
  DVX_SQL_ROW_BY_VID, /* ?1 vid: id, c1 .. cn */
  DVX_SQL_ROW_INSERT, /* ?1 vid, ?2 id, ?3 .. columns */
  DVX_SQL_ROW_UPDATE, /* ?1 vid, ?2 .. columns */
  DVX_SQL_ROW_DELETE, /* ?1 vid */
  DVX_SQL_ROW_MAX_ID, /* largest id (integer ids) */
  DVX_SQL_ROW_ALL, /* vid, id of every line, in vid order */
  DVX_SQL_HEAD_ALL, /* block, heads, in block order */
  DVX_SQL_HEAD_GET, /* ?1 block: heads */
  DVX_SQL_HEAD_PUT, /* ?1 block, ?2 heads */
  DVX_SQL_CODE_ALL,
  DVX_SQL_CODE_RANGE, /* ?1, ?2 first and last block: block, codes, in block order */
  DVX_SQL_CODE_GET,
  DVX_SQL_CODE_PUT,
  DVX_SQL_GRAPH_RANGE, /* ?1, ?2 first and last block: block, links, in block order */
  DVX_SQL_GRAPH_GET,
  DVX_SQL_GRAPH_PUT,
  DVX_SQL_META_GET, /* ?1 key: value */
  DVX_SQL_META_PUT, /* ?1 key, ?2 value */
  DVX_SQL_DROP_DERIVED_HEAD, /* empties %_head; likewise %_code, %_graph */
  DVX_SQL_DROP_DERIVED_CODE,
  DVX_SQL_DROP_DERIVED_GRAPH,
  DVX_SQL_CALL, /* INSERT INTO the virtual table itself, with a pointer: see dvx_table_write */
  DVX_SQL_N
} dvx_sql;

/* The prepared statement, reset and unbound, owned by the table. Reset it after use: an open one blocks DROP. */
int dvx_shadow_stmt(dvx_table *t, dvx_sql which, sqlite3_stmt **out);

/* Steps a statement that returns no row, and resets it. */
int dvx_shadow_run(dvx_table *t, sqlite3_stmt *stmt);

/* Creates the shadow tables of a new table and writes its %_meta. */
int dvx_shadow_create(dvx_table *t);
int dvx_shadow_drop(dvx_table *t);
int dvx_shadow_rename(dvx_table *t, const char *new_name);
bool dvx_shadow_is_suffix(const char *suffix);
/* Finalizes every prepared statement of the table (they come back by themselves). */
void dvx_shadow_finalize(dvx_table *t);

/* Integers of %_meta. A missing key gives `fallback`. */
int dvx_meta_get(dvx_table *t, const char *key, int64_t fallback, int64_t *out);
int dvx_meta_put(dvx_table *t, const char *key, int64_t value);
/* Blobs of %_meta: reads exactly n bytes; *is_there is false if the key is missing or has another size. */
int dvx_meta_get_blob(dvx_table *t, const char *key, void *out, size_t n, bool *is_there);
int dvx_meta_put_blob(dvx_table *t, const char *key, const void *bytes, size_t n);

/* Largest blob that fills n_pages pages of this size exactly, as the only cell of a table leaf. */
size_t dvx_shadow_blob_size(size_t page_size, size_t n_pages);

/* Geometry of the stored form, chosen at creation from page size and dimensions and kept in %_meta, so that a later
 * VACUUM with another page size changes nothing. */
typedef struct dvx_geometry {
  size_t page_bytes;
  size_t pack_bytes; /* an ordinary pack of the log */
  size_t head_rows; /* rows a block of %_head, 8 bytes each */
  size_t head_bytes; /* blob size of a block */
  size_t code_rows; /* rows a block of %_code, 4 + dimensions bytes each */
  size_t code_bytes;
  size_t graph_rows; /* rows a block of %_graph, see graph.c */
  size_t graph_bytes;
} dvx_geometry;

/* What a new table gets. */
void dvx_shadow_geometry(dvx_geometry *g, size_t page_bytes, size_t dimensions, size_t hnsw_m);

/* ================================================================================================================
 * log.c: owner of %_log: packs, positions, appending and reading records
 */

/* Where a log ends (or how far something has read it). */
typedef struct dvx_position {
  int64_t pack; /* key of the pack; 0: the log is empty */
  uint32_t end; /* offset behind the last seal in that pack */
  uint32_t crc; /* that seal's CRC */
  uint64_t seq; /* last seq */
  int64_t time; /* of that record */
  int64_t max_time; /* of all records so far */
} dvx_position;

typedef struct dvx_pack_entry {
  uint64_t seq;
  int64_t time; /* of the first n_timed of its pack */
  uint32_t offset;
} dvx_pack_entry;

typedef struct dvx_pack {
  int64_t key; /* 0: slot unused */
  uint8_t *bytes;
  size_t n_bytes;
  size_t capacity;
  dvx_pack_entry *entries; /* of the records that begin here, rising, as far as somebody has looked for one */
  size_t n_entries;
  size_t n_timed;
  size_t entry_capacity;
  size_t listed; /* so far, in bytes */
  uint64_t used; /* for least recently used */
} dvx_pack;

#define DVX_PACK_SLOTS 16

typedef struct dvx_log {
  dvx_pack slots[DVX_PACK_SLOTS];
  uint64_t clock;
  uint8_t *assembled; /* a record that straddles packs, put together */
  size_t assembled_capacity;
} dvx_log;

/* The record with this seq, committed or pending. *rec borrows memory valid until the next dvx_log_ call on this table.
 * SQLITE_CORRUPT_VTAB when it is not there. */
int dvx_log_record(dvx_table *t, uint64_t seq, dv_record *rec);

/* The same without its time, which is 0: times are told from record to record, so finding one means reading every record
 * before it in its pack. For who follows a chain. */
int dvx_log_change(dvx_table *t, uint64_t seq, dv_record *rec);

/* Reads forward: calls visit for every record behind `from` up to the stored end (not the pending ones), in order,
 * checking every seal; ends early at the first seal behind max_records records. *from advances to behind the last seal
 * reached. visit may stop the scan with SQLITE_DONE (gives OK). SQLITE_NOTFOUND, without a message: the stored log does
 * not have `from` in its history. A zeroed position is the beginning. */
int dvx_log_scan(dvx_table *t, dvx_position *from, size_t max_records, int (*visit)(void *ctx, const dv_record *rec),
                 void *ctx);

/* The same to the end, for who looks at each record's row: `soon` is called for most rows some records before `visit`, with
 * a number that may be anything, to ask for the row's memory. */
int dvx_log_follow(dvx_table *t, dvx_position *from, int (*visit)(void *ctx, const dv_record *rec),
                   void (*soon)(void *ctx, uint32_t vid), void *ctx);

/* Is `position` in the history of the stored log? */
int dvx_log_is_at(dvx_table *t, const dvx_position *position, bool *is_at);

/* Seq of the first record whose time, or that of any record before it, exceeds `time`: rows whose head is older did not
 * change after `time`. */
int dvx_log_first_after(dvx_table *t, int64_t time, uint64_t *seq);

/* Appends bytes of whole records to the stored log and seals them; *position advances. sizes[i] are the records' sizes,
 * seqs/times as they will be after each. */
int dvx_log_append(dvx_table *t, dvx_position *position, const uint8_t *bytes, const size_t *sizes,
                   const uint64_t *seqs, const int64_t *times, size_t n_records, bool is_rewrite);

void dvx_log_forget(dvx_table *t); /* drops cached packs */
void dvx_log_free(dvx_table *t);

/* ================================================================================================================
 * ids.c: ids to vids and back, in memory, filled by use
 */

typedef struct dvx_id_entry {
  uint64_t hash;
  uint32_t vid; /* 0: free */
  uint32_t n_text;
  union {
    int64_t integer;
    size_t text; /* offset in the arena */
  } key;
} dvx_id_entry;

typedef struct dvx_ids {
  dvx_id_entry *slots; /* open addressing, power of two */
  size_t n_slots;
  size_t n_used;
  uint32_t *by_vid; /* slot + 1 of a vid, 0 if not cached */
  size_t n_by_vid;
  dv_buf texts;
  bool is_complete; /* every id of the table is here: a miss needs no look-up in %_row */
  unsigned n_misses;
} dvx_ids;

uint32_t dvx_ids_find(const dvx_ids *ids, const dv_value *id);
bool dvx_ids_value(const dvx_ids *ids, uint32_t vid, dv_value *id);
/* ... whose ids will be asked for: each is in two places of memory. */
void dvx_ids_prefetch(const dvx_ids *ids, const dv_hit *hits, size_t n);
/* SQLITE_OK or SQLITE_NOMEM; the id must not be there. */
int dvx_ids_add(dvx_ids *ids, const dv_value *id, uint32_t vid);
void dvx_ids_remove(dvx_ids *ids, uint32_t vid);
void dvx_ids_clear(dvx_ids *ids);

/* ================================================================================================================
 * columns.c: metadata columns as arrays by row, for filters
 */

#define DVX_MAX_COLUMNS 64 /* as config.c allows */

typedef enum dvx_column_state {
  DVX_COLUMN_UNREAD,
  DVX_COLUMN_READY,
  DVX_COLUMN_UNFIT /* cannot be held: conditions on it are put to SQL */
} dvx_column_state;

/* One of a column's distinct values. */
typedef struct dvx_distinct {
  uint64_t hash;
  union {
    int64_t key; /* of a number */
    size_t offset; /* of a text or blob, in the column's bytes */
  } place;
  uint32_t n_bytes;
  uint32_t n_rows; /* partition keys: that have it, ... */
  uint32_t first; /* ... and 1 + the first of them; 0: none */
} dvx_distinct;

/* Row index = vid - 1. */
typedef struct dvx_column_array {
  dvx_column_state state;
  dv_value_type type; /* of every value but NULL */
  bool is_coded; /* codes instead of numbers */
  bool is_listed; /* a partition key: its rows are linked */
  int64_t *keys; /* numbers, as integers of the same order: see dvx_columns_real_key */
  uint64_t *is_there; /* bitmap: the number is not NULL */
  uint32_t *codes; /* index of distinct; 0: NULL */
  uint32_t *next; /* 1 + row; 0: none */
  uint32_t *previous;
  dvx_distinct *distinct; /* from 1 on */
  uint32_t n_distinct;
  size_t distinct_capacity;
  uint32_t *slots; /* hash of codes: open addressing, power of two; 0: free */
  size_t n_slots;
  dv_buf bytes;
} dvx_column_array;

/* Rows that pass some conditions, for who asks with the same ones again. */
typedef struct dvx_known_filter {
  uint8_t *key; /* the conditions, written out; NULL: free */
  size_t n_key;
  uint64_t *bits; /* behind the key, in the same memory */
  size_t n_words;
  uint64_t n_changes; /* of the columns when they were found */
  uint64_t used;
} dvx_known_filter;

#define DVX_KNOWN_FILTERS 4u

typedef struct dvx_columns {
  dvx_column_array *arrays; /* of all columns; NULL before the first filter */
  size_t n; /* rows covered: rows behind are read when the columns are next used */
  size_t capacity;
  uint64_t *has_line; /* bitmap: %_row has a line for the row */
  uint64_t *marked; /* bitmap: to be read again before use */
  size_t n_marked;
  uint64_t n_changes; /* how often anything here became another */
  dvx_known_filter known[DVX_KNOWN_FILTERS];
  uint64_t clock; /* for the least recently used of them */
} dvx_columns;

/* Brings those that are in memory, and the wanted ones, up to the committed rows. Inside begin_read. */
int dvx_columns_ready(dvx_table *t, const int *wanted, int n_wanted);
/* A commit set metadata of the row, or its uncommitted ones are gone. Cannot fail. */
void dvx_columns_row_changed(dvx_table *t, uint32_t vid);
void dvx_columns_free(dvx_table *t);
size_t dvx_columns_memory(const dvx_table *t);

int64_t dvx_columns_real_key(double real);
/* Code of a text or blob, of the column's type, or of a number's key, as an integer; 0: no row has it. */
uint32_t dvx_columns_code(const dvx_column_array *a, const dv_value *v);
/* The value of a code, in the same terms. Borrowed. */
void dvx_columns_distinct(const dvx_column_array *a, uint32_t code, dv_value *out);

/* Which numbers, by key, and whether NULL, pass. */
typedef struct dvx_number_test {
  bool is_none; /* no number does; NULL may */
  bool keeps_null;
  bool is_outside; /* those that are not in ... */
  int64_t low; /* ... low .. low + span; or, with a list, those in it */
  uint64_t span;
  int64_t *list; /* rising; NULL: none */
  size_t n_list;
} dvx_number_test;
bool dvx_columns_passes(const dvx_number_test *test, int64_t key);

/* Each takes from the bitmap of n rows those that do not pass. Words of it that are zero cost nothing. */
void dvx_columns_keep_numbers(const dvx_column_array *a, size_t n, const dvx_number_test *test, uint64_t *bits);
void dvx_columns_keep_codes(const dvx_column_array *a, size_t n, const uint8_t *passes, uint64_t *bits); /* by code */
/* Adds the rows of a value of a partition key. */
void dvx_columns_add_list(const dvx_column_array *a, uint32_t code, uint64_t *bits);

/* ================================================================================================================
 * table.c: state per (connection, schema, table): rows, pending deltas, folding
 */

/* One uncommitted delta. Its record's bytes are arena[offset - arena_base ..]; its seq is first_seq + its index. */
typedef struct dvx_pending {
  uint64_t word; /* the row's head word after it */
  int64_t time;
  int64_t max_time; /* of the log up to and with it */
  size_t offset; /* in the stream of pending record bytes */
  uint32_t n_bytes;
  uint32_t vid;
  uint32_t previous; /* 1 + index of the row's pending delta before it; 0: its state before the transaction */
  bool is_new_row;
  bool has_fields;
  bool is_bare; /* the row has no metadata after it */
} dvx_pending;

/* A row with pending deltas. */
typedef struct dvx_touched {
  uint32_t vid; /* 0: free slot */
  uint32_t last; /* 1 + index of its last pending delta; 0: none any more (cut away) */
  uint32_t vector_for; /* `last` for which vector is right; 0: none */
  float *vector;
} dvx_touched;

/* What a savepoint must bring back. */
typedef struct dvx_level {
  size_t n_pending;
  size_t n_written;
  dvx_position written; /* end of the stored log */
  uint32_t stored_vid;
  unsigned rewrites;
  bool is_poisoned;
} dvx_level;

/* The open transaction's changes: an ordered list, cut back by savepoints. See txn.c for the essay. */
typedef struct dvx_overlay {
  dvx_pending *pending;
  size_t n_pending;
  size_t pending_capacity;
  dv_buf arena; /* record bytes of pending[n_released ..] */
  size_t arena_base; /* stream offset of arena.data[0] */
  size_t n_released; /* pendings whose bytes were given back after they were written (large transactions) */
  size_t n_written; /* pendings that are in the file (in this open transaction) */
  dvx_position written; /* end of the stored log, pendings included */
  dvx_position joined; /* ... when the table joined the transaction */
  uint32_t joined_vid;
  uint64_t first_seq;
  dvx_touched *touched; /* hash by vid, power of two */
  size_t n_touched_slots;
  size_t n_touched;
  dvx_level *levels;
  size_t n_levels;
  size_t level_capacity;
  uint32_t last_vid;
  size_t n_synced; /* what the last xSync saw: all that xCommit may fold */
  int64_t live_change; /* rows more (or less) than committed */
  uint32_t stored_vid; /* rows up to here have their line in %_row */
  unsigned rewrites; /* of the stored log in this transaction */
  unsigned n_calls; /* dvx_table_write in progress */
  bool is_flushing; /* pendings are being written */
  bool is_settled_touched;
  bool is_renamed; /* away, in this transaction, ... */
  size_t renamed_level; /* ... under this many savepoints */
  bool is_poisoned; /* the commit is vetoed, with the text in poison */
  bool is_open; /* between xBegin and xCommit/xRollback */
  bool is_one_statement; /* the transaction is a statement's own: there are no savepoints in it */
  char *poison;
} dvx_overlay;

/* Committed rows in memory: arrays by vid (index 0 unused). A pure function of the log up to `position`. */
typedef struct dvx_rows {
  uint32_t limit; /* no vid in the log may exceed this: the largest in %_row when last looked at */
  uint64_t *words;
  int64_t *times; /* of those rows of which ... */
  uint64_t *has_time; /* ... a bit is set: of the others nobody has asked for it yet */
  uint64_t *is_bare; /* a bit is set: %_row is known to have no metadata for the row, and need not be asked */
  uint32_t n; /* largest committed vid */
  size_t capacity;
  uint64_t n_live;
} dvx_rows;

/* Vectors of a few rows, one behind the other. */
typedef struct dvx_chunk {
  float *at; /* NULL: not there */
  uint64_t valid; /* a bit a row: it has its vector */
} dvx_chunk;

/* Cache of current committed vectors, filled as they are asked for. */
typedef struct dvx_vectors {
  dvx_chunk *chunks;
  size_t n_chunks;
  size_t n_bytes;
  size_t hand; /* next chunk to give back */
  size_t *regions; /* large pages that are nearly full of chunks, by number: yet to be joined */
  size_t n_regions;
  size_t region_capacity;
  size_t region; /* ... where the last chunk came from, */
  size_t region_bytes; /* and how much of it chunks take */
  uint64_t n_walked; /* records that dvx_vectors_need() has read, but in one go */
} dvx_vectors;

/* Search state over committed rows; see mirror.c. Row index = vid - 1. */
typedef struct dvx_mirror {
  bool is_loaded;
  bool was_stored; /* %_code had codes when the mirror was made */
  bool is_whole; /* every code is in memory, but of deleted rows that nothing leads to */
  size_t n; /* rows covered */
  size_t capacity;
  uint8_t *code_memory; /* what codes, aligned, lies in */
  uint8_t *codes; /* packed (core/dv_quant.h) */
  int8_t *code; /* one row's, not packed, padded with zeros */
  dv_code_row *code_rows;
  dvx_pages pages; /* of codes: which are in memory */
  uint64_t *bits; /* made at the second scan: the first answer must not wait for them */
  dv_bit_row *bit_rows;
  float *center; /* the bits are signs around it: the mean of the rows when there were center_rows of them */
  size_t center_rows;
  bool has_bits;
  unsigned n_scans;
  uint64_t n_searches;
  bool has_asked; /* whether there are large pages, */
  bool can_join; /* and so it is */
  size_t n_made; /* codes that were made row by row because none are stored */
  uint64_t *live; /* bitmap: committed row exists */
  uint64_t *stale; /* bitmap: the row changed since its codes were made */
  size_t n_stale;
  dv_flat_scratch scratch;
} dvx_mirror;

#define DVX_CURVE_POINTS 10u

/* The graph over rows that are settled; see graph.c. Row index = vid - 1. */
typedef struct dvx_graph {
  bool is_loaded; /* what is stored has been looked at */
  bool is_there; /* there is a graph, and it can be searched */
  bool is_damaged; /* what is stored does not hold together ... */
  const char *damage; /* ... because of this, a format for ... */
  int64_t damage_at; /* ... this number */
  bool is_whole; /* every list is in memory */
  int64_t stamp; /* of what is stored, when it was looked at */
  uint64_t checked_at; /* n_looks of the table then */
  dv_hnsw hnsw;
  dv_hnsw_scratch scratch;
  dvx_pages pages; /* of lists on the ground: which are in memory */
  uint64_t *fresh; /* bitmap: rows that the graph does not answer for */
  uint64_t *fresh_stored; /* ... in the file, by the last settling */
  size_t n_fresh;
  uint16_t curve[DVX_CURVE_POINTS]; /* recall by ef, in ten-thousandths, when it was measured; 0: it was not */
  uint16_t curve_stored[DVX_CURVE_POINTS]; /* ... by the last 'optimize' or 'rebuild' */
  uint8_t growth[DV_HNSW_OCTAVES]; /* dv_hnsw_growth, less 1, in 1/512, measured then; all 0: it was not */
  size_t n_unwalked; /* rows linked or unlinked since it was known that links lead to all */
  bool is_changed; /* ... or since 'optimize' measured recall */
  uint32_t links_change; /* of the sum of checksums of blocks, while they are written */
  uint32_t *block_checks; /* of blocks of rows that were written: what they contribute to it; 0: look */
  size_t n_block_checks;
  size_t capacity;
  uint8_t *sketches; /* of n_sketches rows, made when one is asked for */
  uint64_t *has_sketch; /* bitmap: it is in memory */
  size_t n_sketches;
  uint32_t *list; /* scratch of a search */
  size_t list_capacity;
  dvx_crew *crew; /* while everything is linked; NULL: the caller works alone */
  int rc; /* why a callback failed */
  bool is_written; /* by the saving in progress */
} dvx_graph;

/* What %_meta 'settled' says: how far %_head and %_code are right. */
typedef struct dvx_settled {
  dvx_position position;
  dvx_position sweep; /* where `position` will be when the sweep in progress has arrived; see settle.c */
  uint32_t next; /* ... and the row it goes on with; 0: there is none */
  bool is_coding; /* it writes the code of every row, so that there will be codes */
  uint64_t linked_seq; /* the log's end when rows were linked last, or could have been */
  uint32_t n_rows; /* rows in %_head */
  bool has_graph; /* there is one, and new rows are to be linked soon */
  bool is_graph_due; /* so many rows are fresh that the next settling comes early */
  bool has_codes; /* %_code is kept: the log is long enough that making codes anew from it would take a while */
  uint64_t checksum; /* of their words: finds a missing or changed block */
  uint64_t log_bytes; /* of the records up to position, about */
  bool is_wrong; /* what is stored does not have its checksum, and is not believed */
  uint32_t codes_change; /* of the sum of the checksums of blocks of codes, until it is written */
} dvx_settled;

/* What %_meta 'checks' says of derived data: checksums of two values in %_meta, and sums of those of all blocks. For the
 * integrity check; but that of `settled` is looked at whenever it is read. */
typedef struct dvx_checks {
  uint32_t settled; /* CRC-32C of it; 0: there is none */
  uint32_t graph; /* ... of `graph` and `graph_stamp` */
  uint32_t codes; /* sum of dvx_block_check */
  uint32_t links;
} dvx_checks;

/* Vectors of the past, kept for the next search of the same time; see search.c. */
typedef struct dvx_past dvx_past;

typedef struct dvx_search_options {
  size_t k; /* rows wanted */
  bool has_max_distance;
  bool is_max_inclusive;
  double max_distance;
  bool has_as_of;
  int64_t as_of;
  bool is_exact;
  int ef; /* 0: the table's */
  double recall_target; /* 0: the table's */
  const uint64_t *allowed; /* bitmap by vid - 1 of n_allowed rows that may be returned; NULL: all */
  size_t n_allowed;
} dvx_search_options;

/* The last options given as JSON, and what they say. */
typedef struct dvx_known_options {
  char *json; /* NULL: none */
  size_t n_json;
  size_t before_k; /* k without them */
  dvx_search_options options;
} dvx_known_options;

struct dvx_table {
  dvx_conn *conn;
  dvx_table *next;
  uint64_t number; /* of the connection's tables, in the order in which they were made */
  int n_refs;
  int n_objects; /* sqlite3_vtab objects among them */
  bool is_registered; /* can be found by name */
  bool is_found_by_schema; /* 'schema.name' is this one: no table has a dot in its name and is called so */
  bool is_attached; /* the schema may be detached, and be another file next time */
  char *schema;
  char *name;
  dvx_config *config;
  dvx_geometry geometry;
  int hnsw_ef_search; /* these three: option, or what the command set */
  int threads;
  int64_t memory_limit; /* MB */
  sqlite3_stmt *stmts[DVX_SQL_N];

  /* What memory reflects. */
  bool is_loaded;
  int64_t generation;
  dvx_position position; /* committed log folded into rows */
  uint64_t floor_seq; /* seqs up to here were used before a rewrite of the log */
  uint32_t data_version; /* SQLITE_FCNTL_DATA_VERSION when position was last compared with the file */
  bool is_version_known; /* ... and that was outside of a write transaction, so the comparison can be trusted */
  uint64_t n_looks; /* how often the file was compared with memory, or memory changed by others' commits */
  unsigned n_reads; /* nesting of begin_read */
  bool is_pinned; /* DVX_SQL_PIN is left open, to hold the snapshot */
  dvx_settled settled; /* as stored, or as this transaction will store it */
  bool is_settled_known;
  bool is_settle_wrong; /* %_head did not fit the log: settle anew from the beginning */

  dvx_log log;
  dvx_ids ids;
  dvx_rows rows;
  dvx_vectors vectors;
  unsigned chunk_shift; /* a chunk of vectors has 1 << chunk_shift rows */
  dvx_overlay overlay;
  dvx_mirror mirror;
  dvx_graph graph;
  dvx_columns columns;
  dvx_past *past;
  float *fold_vector; /* scratch: dimensions floats each */
  float *next_vector;
  float *apply_vector;
  dv_buf fold_bytes; /* scratch: deltas of a chain */
  dv_buf field_bytes; /* scratch: metadata values */
  dv_buf json_bytes; /* scratch: metadata that were given as JSON5 */
  dvx_known_options known_options;
  double recall; /* last measured; NaN before */
};

/* A row's head: seq<<16 | deleted<<15 | records since the last key. 0: no such row. */
#define DVX_WORD_DELETED 0x8000u
#define DVX_WORD_CHAIN 0x7fffu
static inline uint64_t dvx_word_seq(uint64_t w) { return w >> 16; }
static inline bool dvx_word_exists(uint64_t w) { return w != 0 && (w & DVX_WORD_DELETED) == 0; }
static inline unsigned dvx_word_chain(uint64_t w) { return (unsigned)(w & DVX_WORD_CHAIN); }

/* Options that a command can change later: INSERT INTO docs(docs) VALUES('threads=4'). Kept in %_meta. */
typedef enum dvx_setting {
  DVX_SETTING_EF_SEARCH,
  DVX_SETTING_THREADS,
  DVX_SETTING_MEMORY_LIMIT,
  DVX_SETTING_N
} dvx_setting;
typedef struct dvx_setting_range {
  const char *name;
  int64_t low;
  int64_t high;
} dvx_setting_range;
extern const dvx_setting_range dvx_settings[DVX_SETTING_N];
/* The value is in its range. */
int dvx_table_set(dvx_table *t, dvx_setting which, int64_t value);

/* For xCreate and xConnect: the state of this table, with a reference taken; takes config (frees it on failure too). */
int dvx_table_acquire(dvx_conn *conn, const char *schema, const char *name, dvx_config *config, bool is_new,
                      dvx_table **out);
void dvx_table_release(dvx_table *t);
/* For xDisconnect and xDestroy: gives back what dvx_table_acquire gave. */
void dvx_table_drop_object(dvx_table *t);
void dvx_conn_free_tables(dvx_conn *conn);
/* No longer found by name: dropped, renamed or replaced; and found again. */
void dvx_table_unregister(dvx_table *t);
void dvx_table_register(dvx_table *t);
void dvx_table_register_again(dvx_table *t); /* after a ROLLBACK; unless an older one has the name */

#define DVX_MAX_VID 0x7fffffff
#define DVX_MAX_SEQ ((int64_t)1 << 47)

/* table.c, row.c and txn.c among themselves */
int dvx_rows_reserve(dvx_table *t, uint32_t n);
void dvx_rows_set(dvx_table *t, uint32_t vid, uint64_t word, int64_t time);
uint64_t dvx_word_mix(uint32_t vid, uint64_t word);
/* `settled` as it is stored, whether it is right or not; *n: its length, 0 if it is not there. */
#define DVX_SETTLED_BYTES 120u
int dvx_settled_blob(dvx_table *t, uint8_t b[DVX_SETTLED_BYTES], size_t *n);
int dvx_settled_read(dvx_table *t, dvx_settled *s);
int dvx_settled_see(dvx_table *t); /* t->settled is what is stored: read if it may have changed */
int dvx_settled_write(dvx_table *t, const dvx_settled *s);
/* Tables made before there were checks have none until 'rebuild'. */
int dvx_checks_read(dvx_table *t, dvx_checks *c, bool *is_there);
int dvx_checks_write(dvx_table *t, const dvx_checks *c);
int dvx_checks_forget_codes(dvx_table *t); /* %_code was emptied, and `settled` */
uint32_t dvx_block_check(int64_t block, const void *bytes, size_t n);
int dvx_table_refresh_for_write(dvx_table *t);
void dvx_table_committed(dvx_table *t);
/* Applies a committed record to the row's cached vector, if there is one. */
void dvx_vectors_apply(dvx_table *t, uint32_t vid, uint64_t before, const dv_record *rec);
void dvx_vectors_store(dvx_table *t, uint32_t vid, const float *v);
unsigned dvx_vectors_chunk_shift(size_t n_dimensions);
void dvx_vectors_trim(dvx_table *t); /* gives back what memory_limit has no room for */
void dvx_vectors_join(dvx_vectors *v); /* puts some of them into a large page */
bool dvx_vectors_has(const dvx_table *t, uint32_t vid);
/* Fills the cache of current vectors from the log, if most are not there and all fit. */
int dvx_vectors_load_if_cold(dvx_table *t);
/* The vectors of many rows are about to be asked for: folds those that are not in the cache, in one walk back through the
 * log, which reads each pack once; or of all rows, if walks without end would cost more. What has no room is left to
 * dvx_row_committed_vector. */
int dvx_vectors_need(dvx_table *t, const uint32_t *vids, size_t n);
/* What a row was before the delete that `word`, its head word, is of. *exists is false if nobody knows that any more. */
int dvx_row_last_vector(dvx_table *t, uint32_t vid, uint64_t word, float *out, bool *exists);
/* The committed vector of a row, whatever the open transaction did to it. */
int dvx_row_committed_vector(dvx_table *t, uint32_t vid, const float **out);
dvx_touched *dvx_txn_touched(const dvx_table *t, uint32_t vid);
void dvx_txn_init(dvx_table *t);
void dvx_txn_free(dvx_table *t);
void dvx_txn_rebase(dvx_table *t);
/* The table now goes by another name, and another dvx_table. */
void dvx_txn_renamed(dvx_table *t);
/* The stored log was rewritten: nothing is pending any more. */
void dvx_txn_rewritten(dvx_table *t);
/* Would ROLLBACK TO some savepoint need deltas that are not in the file? Then DROP and rewrites must be refused. The
 * n_own innermost savepoints, those of the statement itself, do not count. */
bool dvx_txn_savepoint_needs_memory(const dvx_table *t, size_t n_own);
int dvx_txn_run_call(dvx_table *t, sqlite3_value *command, bool *is_call);
/* What a commit does for derived data: see settle.c. */
int dvx_settle_some(dvx_table *t);

/* Finds the table, connecting it if need be; it stays alive until the next call. `name` is 'table' or 'schema.table'
 * (an exact table name wins). The second one also begins a read of it, at little more cost. */
int dvx_table_find(dvx_conn *conn, const char *name, dvx_table **out);
int dvx_table_find_to_read(dvx_conn *conn, const char *name, dvx_table **out);

/* The same for an argument; if that is NULL, the message begins with the name of the function. */
int dvx_table_find_argument(dvx_conn *conn, const char *function, sqlite3_value *name, dvx_table **out);
int dvx_table_find_argument_to_read(dvx_conn *conn, const char *function, sqlite3_value *name, dvx_table **out);
/* The table, without beginning a read, if it is in memory and nothing is known to have changed it since; else NULL. What
 * another connection has committed since this one last read is not known. */
dvx_table *dvx_table_unless_changed(dvx_conn *conn, const char *name);

/* Opens a read of the table as of the current snapshot: brings memory up to date with the file. Must be paired with
 * dvx_table_end_read, which lets go of the snapshot if this call had to open it. Nests. */
int dvx_table_begin_read(dvx_table *t);
void dvx_table_end_read(dvx_table *t);

/* Runs fn(t, arg) inside a write on the table, as SQLite does for an INSERT: transaction opened, xBegin called, memory
 * current. Everything that changes a table from a scalar function goes through here. */
int dvx_table_write(dvx_table *t, int (*fn)(dvx_table *t, void *arg), void *arg);

/* Everything below is called between begin_read and end_read, or inside a write. Uncommitted changes are seen. */

/* Largest vid in use. */
uint32_t dvx_table_last_vid(const dvx_table *t);
/* Head word of a row, pending ones first. */
uint64_t dvx_row_word(const dvx_table *t, uint32_t vid);
/* Time of the row's last delta. */
int dvx_row_time(dvx_table *t, uint32_t vid, int64_t *out);
/* vid of an id, 0 if there never was such a row (it may be deleted: see dvx_row_word). */
int dvx_row_find(dvx_table *t, const dv_value *id, uint32_t *vid);
/* Brings what is in memory of the row, which need not exist, near the CPU, while something else is done. */
void dvx_row_prefetch(const dvx_table *t, uint32_t vid);
void dvx_vectors_prefetch(const dvx_table *t, uint32_t vid);
void dvx_row_prefetch_hit(const dvx_table *t, uint32_t vid); /* a committed row that may be in an answer */
/* The row's id; borrowed until the next dvx_row_ call. */
int dvx_row_id(dvx_table *t, uint32_t vid, dv_value *id);
/* Current vector, config->dimensions floats, borrowed until the next dvx_row_vector or write; the row must exist. */
int dvx_row_vector(dvx_table *t, uint32_t vid, const float **out);
/* Current metadata: n_columns values, borrowed until the next dvx_row_ call or step of a shadow statement. */
int dvx_row_fields(dvx_table *t, uint32_t vid, dv_value *values);
/* Notes whether %_row is known to have no metadata for the row: then dvx_row_fields does not ask for it. To be taken back
 * whenever the row's line, or which metadata is committed, changes. */
void dvx_row_set_bare(dvx_table *t, uint32_t vid, bool is_bare);

/* Seq of the row's last record with time <= `time`; 0 if there is none. */
int dvx_row_seq_at(dvx_table *t, uint32_t vid, int64_t time, uint64_t *seq);
/* The state the record `seq` of this row left: *exists and, if it does, the vector into out (dimensions floats). */
int dvx_row_vector_at(dvx_table *t, uint32_t vid, uint64_t seq, float *out, bool *exists);
/* Its metadata; values' bytes live in *hold, which the caller frees with dv_buf_free. */
int dvx_row_fields_at(dvx_table *t, uint32_t vid, uint64_t seq, dv_buf *hold, dv_value *values);

/* One change to append. */
typedef struct dvx_change {
  uint32_t vid; /* 0: a new row with this id */
  dv_value id; /* when vid is 0 */
  dv_delta delta; /* checked by dvx_append: payload, dimensions, finiteness of the result */
  const float
      *result; /* what the delta makes of the vector, all finite, if it is known: folding is spared. Else NULL */
  bool has_time;
  int64_t time; /* else now, or the row's last time if that is later */
  const dv_value *fields; /* NULL: metadata unchanged; else n_columns values ... */
  const bool *is_set; /* ... of which these are set; NULL: all (a full replacement) */
  bool is_merged; /* state of a compacted row */
} dvx_change;

/* Validates and appends to the open transaction's pending deltas: the one door through which every write goes. Names
 * the row in errors. Nothing is changed on failure. */
int dvx_append(dvx_table *t, const dvx_change *change, uint64_t *seq);

/* Writes the pending deltas that are not in the file yet. */
int dvx_table_flush(dvx_table *t);

/* Settles everything: brings %_head, %_code and the graph up to the log, of which all must be written. */
int dvx_table_settle(dvx_table *t);

/* Forget everything read from the file: the next read loads it anew (after a rewrite of the stored state). */
void dvx_table_forget(dvx_table *t);

/* A step after the first write of a multi-step rewrite failed: the commit will be refused with this text. */
void dvx_table_poison(dvx_table *t, const char *message);

/* Bytes of memory this table holds, and those it may hold. */
size_t dvx_table_memory(const dvx_table *t);
size_t dvx_table_memory_limit(const dvx_table *t);

/* Rewriting the log (compaction). begin; then one append per record, in rising seq (rec->link and seq say what the
 * record shall be; times may be anything); then finish, which replaces the old packs, gives the log a new generation,
 * empties the derived tables and forgets memory. Between begin and finish the old log stays readable through
 * dvx_log_record and dvx_row_*. Inside a write, after dvx_table_flush. */
typedef struct dvx_rewrite {
  dvx_table *t;
  dvx_position position;
  dv_buf bytes; /* records not yet appended */
  size_t sizes[64];
  uint64_t seqs[64];
  int64_t times[64];
  size_t n;
  dv_log_state state;
} dvx_rewrite;
int dvx_log_rewrite_begin(dvx_table *t, dvx_rewrite *w);
int dvx_log_rewrite_append(dvx_rewrite *w, const dv_record *rec);
int dvx_log_rewrite_finish(dvx_rewrite *w);
void dvx_log_rewrite_free(dvx_rewrite *w); /* after finish or failure */

/* txn.c */
int dvx_txn_begin(dvx_table *t);
int dvx_txn_sync(dvx_table *t);
void dvx_txn_commit(dvx_table *t);
void dvx_txn_rollback(dvx_table *t);
void dvx_txn_savepoint(dvx_table *t, int level, int *rc);
void dvx_txn_release(dvx_table *t, int level);
int dvx_txn_rollback_to(dvx_table *t, int level);

/* mirror.c: codes of the committed rows. All inside begin_read. */
/* Brings the mirror (which rows there are, the codes of those that changed) and the graph up to the committed rows. */
int dvx_mirror_ready(dvx_table *t);
/* ... and then everything that a scan needs into memory. */
int dvx_mirror_ready_to_scan(dvx_table *t);
int dvx_mirror_need_code(dvx_table *t, size_t i); /* the code of row i into memory */
int dvx_mirror_need_range(dvx_table *t, size_t first, size_t end); /* ... of rows first .. end-1 */
int dvx_mirror_need_all(dvx_table *t);
/* The code of row i, which is in memory; valid until the next call. */
const int8_t *dvx_mirror_code(dvx_table *t, size_t i);
/* The code of a pending vector in the place of the committed one's. The mirror must be freed if the transaction ends
 * without a commit. Room was made by dvx_mirror_reserve. */
void dvx_mirror_set_pending(dvx_table *t, uint32_t vid, const float *v);
void dvx_mirror_stale_since(dvx_table *t, uint64_t seq); /* rows with a later head count as changed */
void dvx_mirror_row_changed(dvx_table *t, uint32_t vid); /* cannot fail: room is made by dvx_mirror_reserve */
void dvx_mirror_code_changed(dvx_table *t, uint32_t vid); /* the row's vector changed before it was deleted */
int dvx_mirror_reserve(dvx_table *t, size_t n_rows);
void dvx_mirror_free(dvx_table *t);
/* At the beginning of a search: gives memory back if the table holds more than its memory_limit. */
void dvx_mirror_trim(dvx_table *t);
size_t dvx_mirror_target(const dvx_table *t);
size_t dvx_mirror_missing(const dvx_table *t);
/* With each search: puts what searches look at into large pages, bit by bit. */
void dvx_mirror_join(dvx_table *t);
/* ... all of it now, before a long piece of work. */
void dvx_mirror_join_all(dvx_table *t);

/* graph.c: owner of %_graph */
/* Looks at what is stored, if it may have changed since. Afterwards t->graph.is_there tells whether it can be used. */
int dvx_graph_ready(dvx_table *t);
/* Can the graph answer for the row, whose code is current? If not, it is fresh. */
int dvx_graph_judge(dvx_table *t, uint32_t row);
/* Before a settling: what comes after the settled place is looked at while %_meta still says where that is. */
int dvx_graph_prepare(dvx_table *t);
/* Is it in memory that the row has links? Deleted rows may have. */
bool dvx_graph_leads_to(const dvx_table *t, size_t row);
/* Brings the graph, in memory and in the file, up to the n rows (rising vids, pending or not), and links rows that wait:
 * all, or if there are many some. *is_due_again: many are left. The same log gives the same graph, whoever searched when. */
int dvx_graph_settle(dvx_table *t, const uint32_t *vids, size_t n, bool is_all, bool *is_due_again);
/* For dv_hnsw_search_nearest, in growth[0 .. DV_HNSW_OCTAVES); NULL: it is not known. */
const double *dvx_graph_growth(const dvx_table *t, double *growth);
/* The ef with which searches for k rows have this recall; 0: none is known. The first time it may have to be measured. */
int dvx_graph_ef_for(dvx_table *t, double recall, size_t k, size_t *ef);
/* About the recall of searches for ten rows with this ef; negative: not known. */
double dvx_graph_recall_at(const dvx_table *t, size_t ef);
/* Empties %_graph, for it to be made anew. */
int dvx_graph_drop(dvx_table *t);
/* By which metric the graph of a table is one. For l1, of which codes know nothing, by l2: what it finds is measured by
 * l1 then, all of it. */
static inline dv_metric dvx_graph_metric(dv_metric m) { return m == DV_L1 ? DV_L2 : m; }
/* Do only vectors tell who is near? For l1; and with few dimensions, where the codes of many rows may be the same. */
static inline bool dvx_graph_needs_vectors(const dvx_config *c) {
  enum { FEW_DIMENSIONS = 8 };
  return c->metric == DV_L1 || c->dimensions <= FEW_DIMENSIONS;
}
/* What the search looks at. */
void dvx_graph_space(dvx_table *t, dv_hnsw_space *space, dv_hnsw_pager *pager);
int dvx_graph_reserve(dvx_table *t, size_t n_rows);
void dvx_graph_free(dvx_table *t);
size_t dvx_graph_memory(const dvx_table *t);
/* Adds to the report of the integrity check what is wrong with what is stored: line(ctx, text) for each. */
int dvx_graph_check(dvx_table *t, int (*line)(void *ctx, const char *text), void *ctx);

/* integrity.c: *report is NULL if all is well, else lines of text to be freed with sqlite3_free. */
int dvx_integrity_check(dvx_table *t, bool is_quick, char **report);

/* salvage.c: of a table whose log is damaged, line(ctx, text) for each row that lost something, or one that says that
 * nothing is lost. Needs the table's config, but not that it can be loaded. */
int dvx_salvage_report(dvx_table *t, int (*line)(void *ctx, const char *text), void *ctx);

/* The first record with a seq > `seq`, committed or pending; SQLITE_DONE behind the last one. *rec lives as long as
 * dvx_log_record's. The feed, exports and compaction walk with it, because between two of its calls anything may
 * happen: the transaction ends, a row is folded through dvx_row_vector_at, the statement is kept open for hours. */
int dvx_log_next(dvx_table *t, uint64_t seq, dv_record *rec);

/* history.c: what feeds and exports share */

/* Makes deltas self-contained: a DIFF becomes a DENSE of the vector after it. Remembers vectors of the rows it met,
 * within a few MiB, so that a walk in seq order folds each record once instead of each chain from its key. */
typedef struct dvx_expander {
  dvx_table *t;
  float *vectors; /* n_slots * dimensions; NULL until the first DIFF */
  uint64_t *seqs; /* what a slot's vector is the state after; 0: free */
  uint32_t *vids;
  size_t n_slots;
  int64_t generation; /* of the log the vectors come from */
  dv_value *values; /* scratch, n_columns each */
  bool *is_set;
  dv_buf names; /* scratch: a frame's fields, its payload */
  dv_buf payload;
} dvx_expander;
void dvx_expander_init(dvx_expander *x, dvx_table *t);
void dvx_expander_free(dvx_expander *x);
/* Appends a frame to out for the record: a self-contained delta, and what of SEQ, ID, TIME, FIELDS and MERGED `flags`
 * asks for. May read the log: rec is invalid afterwards. */
int dvx_expander_frame(dvx_expander *x, const dv_record *rec, unsigned flags, dv_buf *out);

/* The fields a record set, by column: is_set and value of n_columns columns, borrowed from rec. With ALL_FIELDS every
 * column is set, unlisted ones to NULL. SQLITE_CORRUPT_VTAB. */
int dvx_history_fields(dvx_table *t, const dv_record *rec, dv_value *values, bool *is_set);

/* Appends text as a JSON string, quotes included. */
void dvx_history_json_text(dvx_str *s, const uint8_t *z, size_t n);

/* Last seq given out: of a record, committed or pending, or of one that compaction has removed. */
uint64_t dvx_history_last_seq(const dvx_table *t);

/* An id given by a user, in the type the table's ids have. *is_id is false when no row can have it (NULL, a BLOB, text
 * that is no number for integer ids). Borrowed from v. */
int dvx_history_id(dvx_table *t, sqlite3_value *v, dv_value *id, bool *is_id);

/* exchange.c: walking the frames of a batch or export, for delta_import and delta_apply_batch */

/* A frame's named fields, by column; is_set false where a column is not named. Fails naming an unknown column or a
 * value of an impossible type. */
int dvx_exchange_fields(dvx_table *t, const dv_frame *f, dv_value *values, bool *is_set);

/* compact.c: has sqlite3_interrupt() been called? */
bool dvx_is_interrupted(dvx_conn *conn);
/* SQLITE_OK; or, when it has been called, SQLITE_INTERRUPT with a message. For the inside of loops: it looks only once in
 * many calls. */
int dvx_poll(dvx_table *t);

/* filter.c: conditions on metadata columns and ids, pushed into the search */
enum { DVX_CONDITION_ID = -1, DVX_CONDITION_ROWID = -2 /* where that is not the id */ };
typedef struct dvx_condition {
  int column; /* metadata column, or one of these */
  int op; /* SQLITE_INDEX_CONSTRAINT_... ; EQ with is_in: one of values */
  bool is_in;
  const char *collation; /* NULL: binary */
  dv_value *values; /* borrowed bytes; one, or those of the IN list, or none (IS NULL) */
  size_t n_values;
} dvx_condition;

#define DVX_MAX_CONDITIONS 64

/* Bitmap by vid - 1 of the rows (dvx_table_last_vid many) that pass every condition; deleted rows may be among them.
 * With has_as_of the rows' metadata of that time count. *out is to be freed with sqlite3_free. */
int dvx_filter_rows(dvx_table *t, const dvx_condition *conditions, int n_conditions, bool has_as_of, int64_t as_of,
                    uint64_t **out);
void dvx_filter_forget(dvx_table *t); /* drops known filters */

/* search.c */
/* Rows whose last change is later than `time`: only these can differ from their state at that time. Appended to *vids
 * (an array from sqlite3_malloc that grows). Committed rows only; those with pending deltas are the caller's. */
int dvx_search_changed(dvx_table *t, int64_t time, uint32_t **vids, size_t *n);

/* Appends the nearest rows to *out, sorted (dv_topk_sort is done). query has config->dimensions floats. Inside
 * begin_read. */
int dvx_search_run(dvx_table *t, const float *query, const dvx_search_options *o, dv_topk *out);
void dvx_search_forget(dvx_table *t); /* drops cached past states */
/* Does a search for ten rows, without a filter, ask the graph? The mirror must be ready. */
bool dvx_search_uses_graph(dvx_table *t);
/* What such a search finds, if that was measured, or else -1. */
double dvx_search_recall_estimate(dvx_table *t);

/* Options given as a JSON object: k, as_of, ef, exact, recall_target, max_distance. Unknown ones are an error. *o has
 * nothing but k set. */
int dvx_search_options_parse(dvx_table *t, const char *json, int n_json, dvx_search_options *o);
/* k given as a value: a non-negative integer. */
int dvx_search_k(dvx_table *t, sqlite3_value *v, size_t *k);

/* write.c: xUpdate's body, and the commands of the hidden column */
int dvx_write_update(dvx_table *t, int argc, sqlite3_value **argv, sqlite3_int64 *rowid);
/* A user's value in a metadata column's type, borrowed from v or until the next one; the error names row and column. */
int dvx_write_column(dvx_table *t, int column, sqlite3_value *v, const dv_value *id, dv_value *out);
/* The short form's metadata must be the text of a JSON object, since the feed gives it out as one. v is a TEXT. JSON5 is
 * not JSON to those who read the feed, nor to an SQLite before 3.42. */
int dvx_write_check_metadata(dvx_table *t, const dv_value *id, const dv_value *v, bool *is_json5);

/* apply.c: appends a delta, in the open transaction or in one of its own */
int dvx_apply_delta(dvx_table *t, const dv_value *id, const dv_delta *delta, uint64_t *seq);

/* What a batch came to; all 0 if there was nothing in it. */
typedef struct dvx_applied {
  uint64_t count;
  uint64_t first_seq;
  uint64_t last_seq;
} dvx_applied;

/* Applies frames one behind the other, all or none, in the open transaction or in one of its own. Frames that are not sealed
 * are the caller's own, see dv_frame_read_unsealed(). */
int dvx_apply_frames(dvx_table *t, const uint8_t *bytes, size_t n_bytes, bool is_sealed, dvx_applied *out);

/* ================================================================================================================
 * direct.c: past SQL, for compiled callers on the same connection
 */

/* The object of a connection that the extension is registered on; NULL if it is not. Lives as long as that is so. */
dvx_conn *dvx_direct_conn(sqlite3 *db);
/* The current vector of a row, as a SELECT would see it: `dimensions` floats; NULL if there is no such row. Borrowed
 * until the next statement that writes to the table or searches in it, or the end of the transaction. is_alone: the
 * caller knows that no other connection writes to the database, so memory need not be compared with the file. */
int dvx_direct_vector(dvx_conn *conn, const char *table, const dv_value *id, bool is_alone, const float **out);
/* delta_apply(table, id, delta). */
int dvx_direct_apply(dvx_conn *conn, const char *table, const dv_value *id, const dv_delta *delta, bool is_alone,
                     uint64_t *seq);
/* Frames that the caller has made, without CRCs. */
int dvx_direct_apply_frames(dvx_conn *conn, const char *table, const uint8_t *bytes, size_t n_bytes, bool is_alone,
                            dvx_applied *out);
typedef struct dvx_direct_facts {
  double dimensions;
  double last_seq; /* as delta_status has it, which measures the whole file besides */
  const char *metric;
} dvx_direct_facts;
int dvx_direct_describe(dvx_conn *conn, const char *table, dvx_direct_facts *out);
int dvx_direct_register(dvx_conn *conn);

/* ================================================================================================================
 * functions.c ... each of these registers its SQL functions or modules on conn->db
 */
int dvx_functions_register(dvx_conn *conn); /* functions.c: vector and delta constructors, pure */
/* A delta BLOB argument: exactly one frame without id, time or seq, its payload well formed (but not yet known to fit
 * the table's dimensions). Borrowed from v. */
int dvx_value_delta(dvx_conn *conn, const dvx_table *t, sqlite3_value *v, const char *what, dv_delta *out);
int dvx_vtab_register(dvx_conn *conn); /* vtab.c: the delta_vectors module */
int dvx_search_register(dvx_conn *conn); /* search.c: vector_search */
int dvx_history_register(dvx_conn *conn); /* history.c: delta_chain, delta_log, vector_at, delta_rollback */
int dvx_apply_register(dvx_conn *conn); /* apply.c: delta_apply, delta_apply_batch */
int dvx_compact_register(dvx_conn *conn); /* compact.c: delta_compact */
int dvx_settle_register(dvx_conn *conn); /* settle.c: delta_settle */
int dvx_exchange_register(dvx_conn *conn); /* exchange.c: delta_export, delta_import */
int dvx_salvage_register(dvx_conn *conn); /* salvage.c: delta_salvage */
int dvx_status_register(dvx_conn *conn); /* status.c: delta_status, delta_recall */

/* One per connection; owned by the module's client data and by every function registered with it. */
struct dvx_conn {
  sqlite3 *db;
  int n_refs;
  dvx_table *tables; /* all that are alive */
  uint64_t n_tables_made;
  dvx_table *found; /* what dvx_table_find gave last, kept alive until the next call of it */
  char *error; /* message of the failure in progress */
  const dv_kernels *kernels;
  sqlite3_stmt *time_stmt;
  sqlite3_stmt *json_stmt;
  sqlite3_stmt *probe_stmt; /* of dvx_is_interrupted */
  unsigned n_polls;
  struct dvx_result *spare_result; /* memory of the next vector handed to SQLite, or NULL */
  bool has_sentinel; /* see dvx_conn_watch_close */
};

/* To be called before the first statement is cached on the connection, or on the virtual table itself: sqlite3_close()
 * refuses to close while there is an unfinalized statement, and nothing tells an extension that a close begins, except
 * that SQLite disconnects eponymous virtual tables first. So one of ours is instantiated, and finalizes them when it
 * goes. */
int dvx_conn_watch_close(dvx_conn *conn);
/* What the sentinel's xDisconnect calls: finalizes the statements of the connection and of all its tables. */
void dvx_conn_finalize(dvx_conn *conn);
void dvx_conn_ref(dvx_conn *conn);
void dvx_conn_unref(void *conn); /* the xDestroy of everything registered */

/* sqlite3_create_function_v2 with the connection as user data and a reference taken. */
int dvx_conn_function(dvx_conn *conn, const char *name, int n_args, int flags,
                      void (*fn)(sqlite3_context *, int, sqlite3_value **));
int dvx_conn_module(dvx_conn *conn, const char *name, const sqlite3_module *module);
/* Keeps a statement of the connection for the next use: puts it into *slot, or finalizes it when the slot is taken or
 * the close of the connection cannot be watched. */
void dvx_conn_keep(dvx_conn *conn, sqlite3_stmt **slot, sqlite3_stmt *stmt);
static inline dvx_conn *dvx_context_conn(sqlite3_context *ctx) { return (dvx_conn *)sqlite3_user_data(ctx); }

#endif
