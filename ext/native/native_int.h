/*
 * native_int.h: the private header of the native library, one section a .c file, in order of dependency.
 *
 * All of it stands on the SQL surface, with two exceptions: deltas are encoded by core (as delta_sparse() and delta_pack()
 * do), and dvec_borrow() goes by ext/direct.c. dvn_<file>_<verb>() are shared here, statics are bare words.
 */
#ifndef DVN_INT_H
#define DVN_INT_H

#include "../ext_int.h"

/* ================================================================================================================
 * encode.c: options, and a dvec_delta as a frame
 */

/* Room for any message that is made here. */
#define DVN_MESSAGE 240

/* Copies the caller's structure, which begins with its size, over zeroes. NULL is all zeroes. false: it has fields that
 * this library does not know. */
bool dvn_options_read(void *out, size_t n_out, const void *in);

/* malloc and its like: for what threads do that have no connection. */
extern const dv_alloc dvn_heap;

/* Appends the frame that delta_apply_batch() takes. Of what the table says (dimensions, does the row exist) nothing is
 * checked. On failure `out` is as it was and the message says why. */
int dvn_delta_encode(dv_buf *out, const void *delta, char message[DVN_MESSAGE]);

/* The integer behind "key": in a flat JSON object of our own SQL functions; 0 if there is none. */
int64_t dvn_json_integer(const char *json, const char *key);

/* ================================================================================================================
 * api.c: what workers share with it
 */

/* The change feed, in the order that dvn_change_read() reads: seq, timestamp, operation, checkpoint, delta, metadata, id. */
#define DVN_LOG_SQL "SELECT seq, timestamp, operation, 0, delta, metadata, id FROM delta_log(?1, ?2)"
/* The row at hand; borrowed from the statement. */
int dvn_change_read(sqlite3_stmt *stmt, dvec_change *change);
/* "docs" or "schema.docs" as SQL writes it; sqlite3_free(). NULL: no memory. */
char *dvn_table_quoted(sqlite3 *sqlite, const char *table);
/* INSERT INTO docs(docs) VALUES('command'). */
int dvn_table_command(sqlite3 *sqlite, const char *table, const char *command);

/* ================================================================================================================
 * worker.c: a connection for a thread of its own
 */

/* A worker's cache is its own, also where the program shares caches: it waits for locks of the file only. */
#define DVN_OPEN_FLAGS (SQLITE_OPEN_READWRITE | SQLITE_OPEN_URI | SQLITE_OPEN_PRIVATECACHE)

/* Opens path with the extension on it, in WAL mode, and runs `sql` (NULL: nothing). On failure *sqlite is NULL and *message
 * (if asked for) a text for sqlite3_free(). */
int dvn_worker_open(const char *path, const char *sql, sqlite3 **sqlite, char **message);
/* What a function that opens returns for a NULL among its `arguments`, with a message (if asked for). */
int dvn_fail_null(const char *function, const char *arguments, char **message);
/* rc, with a message (if asked for, and if there is none yet) that says what the code means. */
int dvn_explain(int rc, char **message);
/* Is it one of the failures that a delta itself can be blamed for? */
bool dvn_code_is_of_delta(int rc);

/* ================================================================================================================
 * checkpoint.c: SQLite's checkpoints, out of a writer's commits
 */

typedef struct dvn_checkpointer dvn_checkpointer;
/* From now on a thread does the checkpoints of `writer`, a connection to path, by its PRAGMA wal_autocheckpoint. NULL: it
 * cannot, or they are turned off; then all is as before. */
dvn_checkpointer *dvn_checkpointer_start(sqlite3 *writer, const char *path);
/* Before the writer is closed, by its thread. NULL: nothing. */
void dvn_checkpointer_stop(dvn_checkpointer *c);

#endif
