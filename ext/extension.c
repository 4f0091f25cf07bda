/*
 * extension.c: the entry point, and the one object a connection has: dvx_conn.
 *
 * Life of a dvx_conn. Every function and module registered on the connection holds a reference, given back by the
 * xDestroy that SQLite calls when it forgets the function: when the connection is closed, or when another registration
 * of the same name takes its place. The last one frees the object, so it outlives every table and every running
 * function.
 *
 * The sentinel. sqlite3_close() refuses with SQLITE_BUSY while a statement is open, internal ones of an extension
 * included, and xDestroy comes only after that check. What comes before it is the disconnect of every virtual table,
 * those of the schemas first and then the eponymous ones. A table's own statements end with its xDisconnect, but not
 * the one that writes to the table itself (that statement keeps the table connected), nor those that belong to no table
 * (reading times and JSON). Hence vector_each (functions.c) doubles as a sentinel: it is connected before the first
 * such statement is kept, stays so for the life of the connection, and its xDisconnect finalizes them all.
 */
#include "ext_int.h"

DVX_EXTENSION_INIT1

#define EXTENSION_LEAST_SQLITE 3040000

void dvx_conn_ref(dvx_conn *conn) { conn->n_refs++; }

void dvx_conn_unref(void *conn) {
  dvx_conn *c = conn;
  if (--c->n_refs > 0) return;
  dvx_conn_free_tables(c);
  sqlite3_free(c->error);
  sqlite3_free(c->spare_result);
  sqlite3_free(c);
}

int dvx_conn_function(dvx_conn *conn, const char *name, int n_args, int flags,
                      void (*fn)(sqlite3_context *, int, sqlite3_value **)) {
  dvx_conn_ref(conn); /* SQLite calls the destructor also when it refuses the function */
  return sqlite3_create_function_v2(conn->db, name, n_args, flags, conn, fn, NULL, NULL, dvx_conn_unref);
}

int dvx_conn_module(dvx_conn *conn, const char *name, const sqlite3_module *module) {
  dvx_conn_ref(conn);
  return sqlite3_create_module_v2(conn->db, name, module, conn, dvx_conn_unref);
}

int dvx_conn_watch_close(dvx_conn *conn) {
  if (conn->has_sentinel) return SQLITE_OK;
  sqlite3_stmt *stmt = NULL;
  int rc = sqlite3_prepare_v3(conn->db, "SELECT 1 FROM vector_each", -1, 0, &stmt, NULL); /* this connects it */
  if (rc != SQLITE_OK) return dvx_fail_connecting(conn, NULL, rc);
  (void)sqlite3_finalize(stmt);
  if (conn->has_sentinel) return SQLITE_OK;
  return dvx_fail(conn, NULL, SQLITE_ERROR, "the table or view vector_each hides the function of that name: rename it");
}

void dvx_conn_keep(dvx_conn *conn, sqlite3_stmt **slot, sqlite3_stmt *stmt) {
  if (stmt && !*slot && !conn->has_sentinel) {
    /* Not being able to watch is no error here: without it every use prepares its statement. */
    char *error = conn->error;
    conn->error = NULL;
    (void)dvx_conn_watch_close(conn);
    sqlite3_free(conn->error);
    conn->error = error;
  }
  if (*slot || !conn->has_sentinel)
    (void)sqlite3_finalize(stmt);
  else
    *slot = stmt;
}

void dvx_conn_finalize(dvx_conn *conn) {
  conn->has_sentinel = false;
  (void)sqlite3_finalize(conn->time_stmt);
  (void)sqlite3_finalize(conn->json_stmt);
  conn->time_stmt = NULL;
  conn->json_stmt = NULL;
  (void)sqlite3_finalize(conn->probe_stmt);
  conn->probe_stmt = NULL;
  for (dvx_table *t = conn->tables, *next; t; t = next) {
    t->n_refs++; /* the end of a statement on the table may be the end of the table */
    dvx_shadow_finalize(t);
    next = t->next;
    dvx_table_release(t);
  }
}

static void extension_version(sqlite3_context *ctx, int argc, sqlite3_value **argv) {
  (void)argc;
  (void)argv;
  sqlite3_result_text(ctx, DELTA_VECTORS_VERSION, -1, SQLITE_STATIC);
}

/* SQLITE_DONE when this version is on the connection already: loading twice changes nothing, where registering twice
 * would leave the tables that are in use with one dvx_conn and the functions with another. */
static int extension_find_loaded(sqlite3 *db, char **message) {
  sqlite3_stmt *stmt = NULL;
  int rc = sqlite3_prepare_v3(db, "SELECT delta_vectors_version()", -1, 0, &stmt, NULL);
  if (rc == SQLITE_NOMEM) return rc;
  rc = SQLITE_OK; /* no such function: the usual case */
  if (stmt && sqlite3_step(stmt) == SQLITE_ROW) {
    const char *version = (const char *)sqlite3_column_text(stmt, 0);
    rc = SQLITE_DONE;
    if (version && strcmp(version, DELTA_VECTORS_VERSION) != 0) {
      rc = SQLITE_ERROR;
      if (message) {
        *message = dvx_format("delta_vectors: version %s is loaded already, so version %s cannot be", version,
                              DELTA_VECTORS_VERSION);
      }
    }
  }
  (void)sqlite3_finalize(stmt);
  /* sqlite3_open() asks for the connection's error code after automatic extensions: the look-up must not leave one. */
  if (rc == SQLITE_OK) (void)sqlite3_exec(db, "", NULL, NULL, NULL);
  return rc;
}

static int extension_register(dvx_conn *conn) {
  static int (*const registrations[])(dvx_conn *) = {
      dvx_functions_register, dvx_vtab_register,    dvx_search_register,   dvx_history_register,
      dvx_apply_register,     dvx_compact_register, dvx_exchange_register, dvx_status_register,
      dvx_direct_register,    dvx_settle_register,  dvx_salvage_register,
  };
  int rc = SQLITE_OK;
  for (size_t i = 0; rc == SQLITE_OK && i < sizeof registrations / sizeof registrations[0]; i++)
    rc = registrations[i](conn);
  /* The last, since it is the mark that all is there: after a failure half-way the next attempt registers all again. */
  if (rc == SQLITE_OK) {
    rc = dvx_conn_function(conn, "delta_vectors_version", 0, SQLITE_UTF8 | SQLITE_DETERMINISTIC | SQLITE_INNOCUOUS,
                           extension_version);
  }
  return rc;
}

/* SQLITE_EXTENSION_INIT2 would store the pointer at every load, while other threads call SQLite through it: a race,
 * though the value is the same. Here it is stored when it is another one: first of all, or in a process with two
 * SQLites. */
static void extension_use_api(const struct sqlite3_api_routines *api) {
#if defined(SQLITE_CORE)
  (void)api;
#elif defined(__GNUC__) || defined(__clang__)
  const sqlite3_api_routines *now = __atomic_load_n(&sqlite3_api, __ATOMIC_ACQUIRE);
  while (now != api &&
         !__atomic_compare_exchange_n(&sqlite3_api, &now, api, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE)) {
  }
#else
  SQLITE_EXTENSION_INIT2(api)
#endif
}

int sqlite3_deltavectors_init(sqlite3 *db, char **message, const struct sqlite3_api_routines *api) {
  extension_use_api(api);
  if (message) *message = NULL;
  if (sqlite3_libversion_number() < EXTENSION_LEAST_SQLITE) {
    if (message) *message = dvx_format("delta_vectors needs SQLite 3.40 or newer, this is %s", sqlite3_libversion());
    return SQLITE_ERROR;
  }
  int rc = extension_find_loaded(db, message);
  if (rc != SQLITE_OK) return rc == SQLITE_DONE ? SQLITE_OK : rc;
  dvx_conn *conn = sqlite3_malloc64(sizeof *conn);
  if (!conn) return SQLITE_NOMEM;
  memset(conn, 0, sizeof *conn);
  conn->db = db;
  conn->n_refs = 1; /* this function's, until it returns */
  conn->kernels = dv_kernels_get();
  rc = extension_register(conn);
  if (rc != SQLITE_OK && rc != SQLITE_NOMEM && message) {
    *message = dvx_format("delta_vectors: cannot register on this connection: %s",
                          conn->error ? conn->error : sqlite3_errmsg(db));
  }
  dvx_conn_unref(conn);
  return rc;
}
