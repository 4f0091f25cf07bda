/*
 * compat.h: what differs between SQLite 3.40, newer ones, a static build and the stock sqlite-wasm package.
 *
 * Rule for all of ext/: call only sqlite3_* functions that the npm package @sqlite.org/sqlite-wasm exports; a build
 * check compares. The one exception is below.
 */
#ifndef DVX_COMPAT_H
#define DVX_COMPAT_H

#ifdef SQLITE_CORE
#include "sqlite3.h"
#define DVX_EXTENSION_INIT1
#else
#include "sqlite3ext.h"
#define DVX_EXTENSION_INIT1 SQLITE_EXTENSION_INIT1
#endif

/* sqlite3_vtab_config() is variadic, so the wasm package offers a fixed-arity twin under another name. */
#ifdef __EMSCRIPTEN__
int sqlite3__wasm_vtab_config(sqlite3 *db, int op, int arg);
#define dvx_vtab_config(db, op, arg) sqlite3__wasm_vtab_config(db, op, arg)
#else
#define dvx_vtab_config(db, op, arg) sqlite3_vtab_config(db, op, arg)
#endif

/* 3.41: lets an eponymous table read schemas other than the one it lives in; harmless and useless before. */
#ifndef SQLITE_VTAB_USES_ALL_SCHEMAS
#define SQLITE_VTAB_USES_ALL_SCHEMAS 4
#endif

/* 3.44: the xIntegrity method. Built against an older header, the module has no room for it: then only the
 * 'integrity-check' command remains. */
#define DVX_HAS_XINTEGRITY (SQLITE_VERSION_NUMBER >= 3044000)

/* 3.31 gave functions their risk flags; older headers are not supported. */
#if SQLITE_VERSION_NUMBER < 3040000
#error "delta_vectors needs the headers of SQLite 3.40 or newer"
#endif

#endif
