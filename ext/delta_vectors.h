/*
 * delta_vectors.h: the public header, for programs that link delta_vectors instead of loading it.
 *
 * Two parts. The ENTRY POINT of the extension is in every form of the library: the loadable, the single file, and the
 * native library. The C API (dvec_...) is in the native library only, libdelta_vectors_native: typed calls beside the
 * host's own libsqlite3, and streams, subscriptions and upkeep on libuv. docs/c-api.md has examples.
 *
 * What the C API promises
 *
 *   - One implementation of every rule. Each call is a statement of docs/sql.md, prepared once: what SQL refuses is
 *     refused here, with the same code and message, and what one writes the other reads.
 *   - A call that fails has changed nothing, or the whole transaction is gone and the message says so. Output arguments
 *     are written on DVEC_OK only.
 *   - Nothing is kept of what is handed in: the caller's memory may go when the call returns. What is handed out says in
 *     its comment how long it lives and who frees it.
 *   - A stream never loses a delta in silence. Each that was accepted gets a position, 1, 2, 3, …, and each position is
 *     told of once: applied, failed and why, dropped, or cancelled.
 *   - Deltas of one stream are applied in the order of their positions.
 *   - A subscription hands over each seq once, in order, whoever wrote it. It can go on from any seq.
 *   - Memory of streams and subscriptions is bounded, by numbers in their options.
 *   - Structures grow at their end only. A program built against this header runs with later libraries.
 *
 * Caveats
 *
 *   - A dvec_db is for one thread at a time, as is the sqlite3 below it. Functions of streams and subscriptions are for the
 *     thread of their loop, but those that say "any thread". All callbacks come on the loop, and none before the function
 *     that opens has returned.
 *   - A borrowed vector (dvec_borrow) goes with the next write to the table, the next search in it, and the end of the
 *     transaction, on the same connection. Copy it, or look at once.
 *   - A write on another connection waits while a stream's window is being committed, and the stream while another
 *     writes. Windows are short; give your own connections a busy_timeout.
 *   - Do not use DVEC_BLOCK from the thread of the stream's loop: it would wait for itself. The call returns
 *     DVEC_WOULD_BLOCK there when the queue is full.
 *   - An open stream or subscription keeps its loop alive. Close it, and run the loop until the callback has come; a loop
 *     that was stopped must be run again for that, as for every handle of libuv.
 *   - Streams want journal_mode=WAL, and set it. On a file system without shared memory (most network shares) neither
 *     works.
 *   - fork() with an open handle is not allowed, as with SQLite.
 *   - Call functions of one process through one libsqlite3. Two copies in one process break SQLite's file locks.
 *
 * Structures. Options begin with `size`: set it to sizeof the structure, all else to zero, and then what should differ
 * from the default; NULL for all options means all defaults. A later library knows by `size` what an older program does
 * not. An older library refuses (DVEC_MISUSE) fields that it does not know unless they are zero. Structures that are
 * handed out have no `size`: they may be longer in a later library, so use the pointer, and do not copy arrays of them.
 *
 * No macro and no inline function is needed, so that all of it can be called from any language that can call C. Text is
 * UTF-8. Lengths of text are int64_t, and -1 means that the text ends with a zero byte. Times are milliseconds since
 * 1970 UTC.
 */
#ifndef DELTA_VECTORS_H
#define DELTA_VECTORS_H

#include <stddef.h>
#include <stdint.h>

#include "sqlite3.h"

#ifndef DELTA_VECTORS_VERSION
#define DELTA_VECTORS_VERSION "0.1.0"
#endif

#if defined(_WIN32)
#define DV_EXPORT __declspec(dllexport)
#elif defined(__GNUC__)
#define DV_EXPORT __attribute__((visibility("default")))
#else
#define DV_EXPORT
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ==== the entry point =============================================================================================
 *
 * Compile delta_vectors.c with -DSQLITE_CORE beside your own SQLite, or link the native library, then either register it
 * for every new connection:
 *
 *     sqlite3_auto_extension((void (*)(void))sqlite3_deltavectors_init);
 *
 * or for one: sqlite3_deltavectors_init(db, &message, NULL). dvec_open() and dvec_attach() do the latter.
 */
struct sqlite3_api_routines;

/* Registers the delta_vectors module, the table-valued functions and the SQL functions on db. On failure returns an
 * SQLite result code and, if message is not NULL, a text to be freed with sqlite3_free(). */
DV_EXPORT int sqlite3_deltavectors_init(sqlite3 *db, char **message, const struct sqlite3_api_routines *api);

/* ==== the C API: codes ============================================================================================
 *
 * A code below 1000 is SQLite's primary one, with the meaning that docs/sql.md gives it: DVEC_ERROR (1) is a value or a
 * delta that is not right, 5 is SQLITE_BUSY, 19 a create of an id that exists. Here are those that a program asks for.
 */
enum {
  DVEC_OK = 0,
  DVEC_ERROR = 1,
  DVEC_BUSY = 5,
  DVEC_NOMEM = 7,
  DVEC_INTERRUPT = 9,
  DVEC_NOTFOUND = 12, /* no such row; no message */
  DVEC_CONSTRAINT = 19,
  DVEC_MISUSE = 21, /* an argument that breaks the rules above */
  DVEC_FULL_QUEUE = 1001, /* DVEC_FAIL: the queue has no room */
  DVEC_WOULD_BLOCK = 1002, /* DVEC_BLOCK from the loop's own thread: the queue has no room */
  DVEC_CLOSED = 1003, /* the stream is closed or closing */
  DVEC_BEHIND = 1004, /* a subscription: a delete it has not seen was compacted away */
  DVEC_CANCELLED = 1005 /* of a stream's window: it was closed with DVEC_CANCEL */
};

/* "the queue is full", "there is no such row", …; SQLite's words for its codes. Static. */
DV_EXPORT const char *dvec_code_text(int code);
/* "0.1.0": that of the library, not of this header. Static. */
DV_EXPORT const char *dvec_version(void);
/* What the library allocated for the caller. NULL is allowed. */
DV_EXPORT void dvec_free(void *p);

/* ==== the C API: a connection ===================================================================================== */

typedef struct dvec_db dvec_db;

typedef struct dvec_open_options {
  uint32_t size;
  int32_t flags; /* for sqlite3_open_v2(); 0: read, write and create */
  int32_t busy_timeout_ms; /* 0: 5000; -1: none */
  const char *sql; /* run once, e.g. "PRAGMA journal_mode=WAL"; NULL: nothing */
} dvec_open_options;

/* Opens a database file of its own connection. *db is a handle also on failure (but NULL with DVEC_NOMEM): ask it for
 * the message and close it. */
DV_EXPORT int dvec_open(const char *path, const dvec_open_options *options, dvec_db **db);
/* The same on a connection that the caller has, keeps, and closes after the handle. The extension is registered on it
 * unless it is there already. */
DV_EXPORT int dvec_attach(sqlite3 *connection, dvec_db **db);
/* Closes the handle, and with dvec_open() the connection. Cursors must be closed before: else DVEC_BUSY, and it stays
 * open. NULL is allowed. */
DV_EXPORT int dvec_close(dvec_db *db);

/* Why the last call on this handle failed: a text that lives until the next call; "" after DVEC_OK. */
DV_EXPORT const char *dvec_message(const dvec_db *db);
/* The connection, for transactions and any other SQL: it belongs to the handle. */
DV_EXPORT sqlite3 *dvec_sqlite(dvec_db *db);

/* ==== the C API: tables and rows ==================================================================================
 *
 * A table is named as in SQL functions: "docs", or "schema.docs".
 */

/* A row's id: a text if `text` is not NULL, else an integer. */
typedef struct dvec_id {
  const char *text;
  int64_t n_text; /* -1: ends with a zero byte */
  int64_t integer;
} dvec_id;

DV_EXPORT dvec_id dvec_id_text(const char *text); /* borrows */
DV_EXPORT dvec_id dvec_id_integer(int64_t integer);

typedef struct dvec_table_options {
  uint32_t size;
  uint32_t dimensions; /* required */
  const char *metric; /* "l2", "cosine", "ip", "l1"; NULL: "cosine" */
  const char *columns; /* NULL: id TEXT, vector, metadata (JSON). Else the columns of the long form but the vector, e.g.
                          "id INTEGER PRIMARY KEY, genre TEXT, price REAL"; the vector's is called "vector" */
  const char *arguments; /* further ones, e.g. "retention='90 days', index=hnsw"; NULL: none */
  int32_t if_not_exists;
} dvec_table_options;

DV_EXPORT int dvec_create_table(dvec_db *db, const char *table, const dvec_table_options *options);
DV_EXPORT int dvec_dimensions(dvec_db *db, const char *table, size_t *dimensions);

enum {
  DVEC_CREATE = 1, /* values: the vector of a new row */
  DVEC_SPARSE = 2, /* indices and values: sets those dimensions */
  DVEC_DENSE = 3, /* values: replaces the vector */
  DVEC_SCALE = 4, /* amount: multiplies */
  DVEC_OFFSET = 5, /* amount: adds */
  DVEC_DELETE = 6,
  DVEC_FRAME = 7 /* blob: a delta as SQL has it, such as dvec_change.delta */
};

/* One change of one row. */
typedef struct dvec_delta {
  uint32_t size;
  int32_t operation;
  dvec_id id;
  const float *values;
  const uint32_t *indices;
  size_t n; /* of values, and of indices */
  double amount;
  const void *blob;
  size_t n_blob;
  int64_t time; /* 0: now, unless has_time */
  const char *metadata; /* JSON object, a patch; NULL: none */
  int64_t n_metadata; /* -1: ends with a zero byte */
  int32_t or_replace; /* a create of a row that exists replaces its vector instead of failing */
  int32_t has_time; /* 1: `time` counts even if it is 0, the beginning of 1970 */
} dvec_delta;

/* Applies one. *seq (may be NULL) is its number. Outside of a transaction it is a commit of its own. */
DV_EXPORT int dvec_apply(dvec_db *db, const char *table, const dvec_delta *delta, int64_t *seq);
/* Applies n in order, or none: in one statement. deltas[i] are deltas->size bytes apart. *first_seq and *last_seq (may
 * be NULL) are 0 when n is. The message says which row, and *n_good (may be NULL, written on failure too) how many
 * before it could be encoded: it is n when the table refused. */
DV_EXPORT int dvec_apply_many(dvec_db *db, const char *table, const dvec_delta *deltas, size_t n, int64_t *first_seq,
                              int64_t *last_seq, size_t *n_good);

/* Copies the current vector to out, which has room for `dimensions`, the table's. DVEC_NOTFOUND: no such row. */
DV_EXPORT int dvec_get(dvec_db *db, const char *table, const dvec_id *id, float *out, size_t dimensions);
/* The same of the moment `time`. */
DV_EXPORT int dvec_get_at(dvec_db *db, const char *table, const dvec_id *id, int64_t time, float *out,
                          size_t dimensions);
/* The current vector without a copy, nor a statement: see Caveats for how long. If the extension on this connection is
 * one that was loaded, another copy of the code, it is a copy in the handle, valid until the next call on it. */
DV_EXPORT int dvec_borrow(dvec_db *db, const char *table, const dvec_id *id, const float **vector, size_t *dimensions);
/* Folds a delta (dvec_change.delta) into a vector, as the table does. On failure the vector is as it was. */
DV_EXPORT int dvec_patch(dvec_db *db, const void *delta, size_t n_delta, float *vector, size_t dimensions);

/* ==== the C API: search =========================================================================================== */

/* A value for a `?` of a filter. */
enum { DVEC_NULL = 0, DVEC_INTEGER = 1, DVEC_REAL = 2, DVEC_TEXT = 3, DVEC_BLOB = 4 };
typedef struct dvec_value {
  int32_t type;
  int64_t integer;
  double real;
  const void *bytes;
  int64_t n_bytes; /* of a text, -1: ends with a zero byte */
} dvec_value;

typedef struct dvec_search_options {
  uint32_t size;
  int32_t exact; /* 1: surely the nearest */
  int64_t k; /* 0: 10 */
  int32_t ef; /* 0: the table's */
  double recall_target; /* 0: the table's */
  int32_t has_max_distance; /* 1: only rows that are not farther than max_distance */
  double max_distance;
  int32_t has_as_of; /* 1: the state of the moment as_of */
  int64_t as_of;
  const char *filter; /* an SQL condition on the table's columns, with `?` for values: "genre = ? AND price < ?". Never
                         put values from outside into this text. NULL: none. k rows come while k pass */
  const dvec_value *values; /* of the filter's `?`, in order */
  size_t n_values;
} dvec_search_options;

typedef struct dvec_hit {
  dvec_id id;
  double distance;
} dvec_hit;

typedef struct dvec_hits dvec_hits;

/* The nearest rows, by distance. *hits is the caller's: dvec_hits_free(). */
DV_EXPORT int dvec_search(dvec_db *db, const char *table, const float *query, size_t dimensions,
                          const dvec_search_options *options, dvec_hits **hits);
DV_EXPORT size_t dvec_hits_count(const dvec_hits *hits);
/* Borrowed from hits; NULL from the count on. */
DV_EXPORT const dvec_hit *dvec_hits_at(const dvec_hits *hits, size_t i);
DV_EXPORT void dvec_hits_free(dvec_hits *hits);

/* ==== the C API: history, upkeep, exchange ======================================================================== */

/* A delta as it stands in the log. Borrowed: until the next row, or the end of the callback. */
typedef struct dvec_change {
  int64_t seq;
  int64_t time;
  int32_t operation; /* DVEC_CREATE … DVEC_DELETE */
  int32_t is_checkpoint; /* chains: a full vector is stored with it */
  dvec_id id; /* its text ends with a zero byte */
  const void *delta; /* for dvec_patch(), DVEC_FRAME */
  size_t n_delta;
  const char *metadata; /* what it set, a JSON object; NULL: nothing. Ends with a zero byte */
  int64_t n_metadata;
} dvec_change;

typedef struct dvec_cursor dvec_cursor;

/* The deltas of a row, oldest first; those of all rows behind a seq, in the order of commits. Close the cursor before
 * the handle. From the first dvec_cursor_next(), which also is what says that there is no such table, to the last one a
 * read transaction is open. */
DV_EXPORT int dvec_chain(dvec_db *db, const char *table, const dvec_id *id, dvec_cursor **cursor);
DV_EXPORT int dvec_log(dvec_db *db, const char *table, int64_t since_seq, dvec_cursor **cursor);
/* *change is NULL behind the last one. A cursor that has failed stays failed: close it, and open another. */
DV_EXPORT int dvec_cursor_next(dvec_cursor *cursor, const dvec_change **change);
DV_EXPORT void dvec_cursor_close(dvec_cursor *cursor);

/* Appends what brings the row back to its state after delta `seq`. */
DV_EXPORT int dvec_rollback(dvec_db *db, const char *table, const dvec_id *id, int64_t seq, int64_t *new_seq);

typedef struct dvec_compact_result {
  int64_t rows, deltas_before, deltas_after, bytes_before, bytes_after, merged, removed;
} dvec_compact_result;
/* keep: "90 days", "100 versions", "none", "forever"; NULL: the table's retention. *result may be NULL; it is the
 * caller's, of `size` bytes. */
DV_EXPORT int dvec_compact(dvec_db *db, const char *table, const char *keep, dvec_compact_result *result, size_t size);
/* Links and writes all that is derived: after loading many rows. */
DV_EXPORT int dvec_optimize(dvec_db *db, const char *table);

/* *bytes is the caller's: dvec_free(). */
DV_EXPORT int dvec_export(dvec_db *db, const char *table, int64_t since_seq, void **bytes, size_t *n_bytes);
/* Any of the numbers may be NULL. */
DV_EXPORT int dvec_import(dvec_db *db, const char *table, const void *bytes, size_t n_bytes, int64_t *n_applied,
                          int64_t *n_skipped, int64_t *last_seq);

typedef struct dvec_status_result {
  int64_t rows, deltas, bytes, fresh, settled, memory, last_seq, purged_seq, pending, dimensions;
  double recall_estimate; /* -1: not measured */
} dvec_status_result;
/* *status is the caller's, of `size` bytes. */
DV_EXPORT int dvec_status(dvec_db *db, const char *table, dvec_status_result *status, size_t size);
/* All of delta_status(), as JSON: the caller's, dvec_free(). */
DV_EXPORT int dvec_status_json(dvec_db *db, const char *table, char **json);

/* ==== streams =====================================================================================================
 *
 * Deltas go from any thread into a bounded queue. A worker with a connection of its own takes them out in windows, each
 * one transaction, and each is acknowledged on the loop once it is committed. Three functions are the life of it:
 * dvec_stream_open(), dvec_stream_close(), whose callback says that all is over, and dvec_stream_free(). Between the
 * callback and free, pushing is still allowed, and refused (DVEC_CLOSED): so producers need no lock of their own, only
 * to be at their end before free.
 *
 * A window ends when it has max_count deltas or max_bytes, or when its first delta has waited long enough. How long that
 * is follows the rate: when hardly anything comes, it is committed at once; when a lot comes, as long as some hundred
 * deltas take to come, but no longer than max_delay_us.
 *
 * While the database is locked by another writer, the worker tries again, ever more slowly, up to 20 times a second: for
 * as long as it takes, or until DVEC_CANCEL.
 */

struct uv_loop_s; /* uv_loop_t of <uv.h> */

typedef struct dvec_stream dvec_stream;

enum { DVEC_BLOCK = 0, DVEC_FAIL = 1, DVEC_DROP_OLDEST = 2 };
enum { DVEC_DRAIN = 1, DVEC_CANCEL = 2 };

/* A delta that was not applied. Those around it were. */
typedef struct dvec_failure {
  const struct dvec_failure *next; /* of the same window, by position */
  uint64_t position;
  int32_t code;
  const char *message;
} dvec_failure;

/* What became of the positions first_position to last_position, and of the n_dropped before them. Acknowledgements come
 * in order, and one's positions begin where those of the last one ended. */
typedef struct dvec_ack {
  uint64_t first_position, last_position;
  uint64_t n_dropped; /* DVEC_DROP_OLDEST: first_position - n_dropped to first_position - 1 */
  int32_t code; /* DVEC_OK: committed. Else why nothing of this window is in the database */
  const char *message;
  int64_t first_seq, last_seq; /* of those that were applied, without a gap; 0: none */
  uint64_t n_applied, n_failed;
  const dvec_failure *failures; /* NULL if code is not DVEC_OK: then all failed by it */
  uint64_t n_bytes; /* of the window's deltas, encoded */
  uint64_t age_us; /* from the first one's push to the end of the commit */
} dvec_ack;

typedef struct dvec_stream_stats {
  uint64_t n_pushed; /* the last position */
  uint64_t n_applied, n_failed, n_dropped, n_cancelled; /* the rest waits, or is in the window at hand */
  uint64_t n_windows;
  uint64_t n_busy; /* times that the worker waited for another writer's lock */
  uint64_t queue_count, queue_bytes, queue_bytes_peak;
} dvec_stream_stats;

typedef struct dvec_stream_options {
  uint32_t size;
  int32_t when_full; /* DVEC_BLOCK: the pushing thread waits. DVEC_FAIL: DVEC_FULL_QUEUE. DVEC_DROP_OLDEST: deltas that
                        have waited longest make room, are counted and acknowledged as dropped */
  uint64_t
      queue_bytes; /* of encoded deltas; 0: 16 MiB. The stream takes this, and max_bytes, and what callbacks wait for:
                           acknowledgements of at most 4,096 windows and failures */
  uint32_t max_count; /* of a window; 0: 8192 */
  uint32_t max_delay_us; /* 0: 5000 */
  uint64_t max_bytes; /* of a window, and of a delta; 0: 1 MiB */
  const char *sql; /* run on the worker's connection behind "PRAGMA journal_mode=WAL; PRAGMA synchronous=NORMAL" */
  void (*on_ack)(void *user, const dvec_ack *ack); /* NULL: not asked for. The ack goes when the callback returns */
  void *user; /* for both callbacks */
} dvec_stream_options;

/* Opens a stream into a table that exists. On failure *stream is NULL, and *message (may be NULL) a text for
 * dvec_free(). */
DV_EXPORT int dvec_stream_open(struct uv_loop_s *loop, const char *path, const char *table,
                               const dvec_stream_options *options, dvec_stream **stream, char **message);
/* Any thread. DVEC_OK: the delta has *position (may be NULL) and will be told of. Else it is not in the queue, and
 * message (may be NULL; n_message bytes) says why: DVEC_ERROR for what can be seen to be wrong without the table. */
DV_EXPORT int dvec_stream_push(dvec_stream *stream, const dvec_delta *delta, uint64_t *position, char *message,
                               size_t n_message);
/* Any thread. What has been pushed is committed without waiting for more. */
DV_EXPORT void dvec_stream_flush(dvec_stream *stream);
/* Any thread. *stats is the caller's, of `size` bytes. */
DV_EXPORT void dvec_stream_get_stats(dvec_stream *stream, dvec_stream_stats *stats, size_t size);
/* Any thread. Nothing more is taken in. DVEC_DRAIN: what is in the queue is applied. DVEC_CANCEL: it is not, the window at hand is
 * rolled back unless it was committed already, and all of it is acknowledged as DVEC_CANCELLED. Then on_closed (may be
 * NULL) is called from the loop, behind the last acknowledgement. Draining may still be cancelled, by another call, whose
 * on_closed is ignored. */
DV_EXPORT int dvec_stream_close(dvec_stream *stream, int32_t how,
                                void (*on_closed)(void *user, const dvec_stream_stats *stats));
/* Behind on_closed; it may be called from it. DVEC_MISUSE before: nothing is freed. NULL is allowed. */
DV_EXPORT int dvec_stream_free(dvec_stream *stream);

/* ==== subscriptions ===============================================================================================
 *
 * Every change of a table behind a seq, as it is committed: by this process, by another connection, by another process.
 * A thread with a connection of its own reads delta_log(), the truth; that something may be there it hears from the
 * file system (uv_fs_event), or finds out by looking (PRAGMA data_version, every poll_ms).
 *
 * Changes come in the order of their seqs, each once. Who keeps the last seq it has handled, in the same transaction as
 * what it made of it, can go on from there after any end, and has handled each once. What a compaction has merged comes
 * as a create of a row that may be known already: take it for a replacement (dvec_delta.or_replace). If a delete was
 * compacted away before it was seen, the subscription ends with DVEC_BEHIND: read the table anew, and subscribe from
 * dvec_status_result.last_seq of that read.
 *
 * Memory: two batches of at most batch_count changes, or of one that is larger than batch_bytes. When the consumer is slow
 * or paused, the reader waits; it holds no read transaction meanwhile.
 */

typedef struct dvec_subscription dvec_subscription;

typedef struct dvec_subscription_options {
  uint32_t size;
  uint32_t batch_count; /* 0: 256 */
  uint64_t batch_bytes; /* 0: 1 MiB */
  uint32_t poll_ms; /* 0: 100 */
  const char *sql; /* run on its connection; NULL: nothing */
  void (*on_change)(void *user, const dvec_change *change); /* required. The change goes when the callback returns */
  void (*on_error)(void *user, int32_t code, const char *message); /* nothing comes behind it. Close it then. NULL: not
                                                                      asked for */
  void *user; /* for all callbacks */
} dvec_subscription_options;

/* On failure *subscription is NULL, and *message (may be NULL) a text for dvec_free(). */
DV_EXPORT int dvec_subscribe(struct uv_loop_s *loop, const char *path, const char *table, int64_t from_seq,
                             const dvec_subscription_options *options, dvec_subscription **subscription,
                             char **message);
/* No change comes between pause, which may be called from the callback, and resume. */
DV_EXPORT void dvec_subscription_pause(dvec_subscription *subscription);
DV_EXPORT void dvec_subscription_resume(dvec_subscription *subscription);
/* The last seq that was handed over; at first, from_seq. */
DV_EXPORT int64_t dvec_subscription_seq(const dvec_subscription *subscription);
/* No change comes any more; on_closed (may be NULL) is called from the loop, and the subscription is freed behind it. */
DV_EXPORT void dvec_subscription_close(dvec_subscription *subscription, void (*on_closed)(void *user));

/* ==== upkeep ======================================================================================================
 *
 * A thread that does, while nobody writes, what commits would otherwise do in passing, or leave: it settles what has
 * been written since, so that searches scan less and the next connection opens fast; and, if asked to, compacts by the
 * table's retention. Settling goes in steps of some milliseconds, each a transaction of its own; before each it looks
 * whether somebody has written, and then waits again until nobody has for idle_ms. So a writer waits for one step at
 * most. A compaction is one transaction, as long as the log; it is interrupted by dvec_upkeep_stop(), and a writer with
 * a busy timeout waits for it: use compact_every_ms for tables with a retention, and times of little traffic.
 */

typedef struct dvec_upkeep dvec_upkeep;

typedef struct dvec_upkeep_options {
  uint32_t size;
  uint32_t idle_ms; /* 0: 200 */
  uint32_t compact_every_ms; /* 0: never */
  const char *sql; /* run on its connection; NULL: nothing */
} dvec_upkeep_options;

typedef struct dvec_upkeep_stats {
  uint64_t n_steps; /* of settling */
  uint64_t n_yields; /* times that it gave way to a writer */
  uint64_t n_compactions;
  uint64_t longest_step_us;
  int32_t is_idle; /* nothing is left to do */
  int32_t code; /* of the last failure but SQLITE_BUSY; it goes on all the same */
} dvec_upkeep_stats;

/* On failure *upkeep is NULL, and *message (may be NULL) a text for dvec_free(). */
DV_EXPORT int dvec_upkeep_start(const char *path, const char *table, const dvec_upkeep_options *options,
                                dvec_upkeep **upkeep, char **message);
/* Any thread. *stats is the caller's, of `size` bytes. */
DV_EXPORT void dvec_upkeep_get_stats(dvec_upkeep *upkeep, dvec_upkeep_stats *stats, size_t size);
/* Ends what it is at, waits for the thread, and frees it. Nothing is lost: a step that was not committed has not been.
 * NULL is allowed. */
DV_EXPORT void dvec_upkeep_stop(dvec_upkeep *upkeep);

#ifdef __cplusplus
}
#endif
#endif
