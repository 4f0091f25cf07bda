/*
 * delta_vectors.h: for programs that link the extension instead of loading it.
 *
 * Compile delta_vectors.c with -DSQLITE_CORE beside your own SQLite, then either register it for every new connection:
 *
 *     sqlite3_auto_extension((void (*)(void))sqlite3_deltavectors_init);
 *
 * or for one: sqlite3_deltavectors_init(db, &message, NULL).
 */
#ifndef DELTA_VECTORS_H
#define DELTA_VECTORS_H

#ifdef SQLITE_CORE
#include "sqlite3.h"
#else
#include "sqlite3ext.h"
#endif

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

/* Registers the delta_vectors module, the table-valued functions and the SQL functions on db. On failure returns an
 * SQLite result code and, if message is not NULL, a text to be freed with sqlite3_free(). */
DV_EXPORT int sqlite3_deltavectors_init(sqlite3 *db, char **message, const struct sqlite3_api_routines *api);

#ifdef __cplusplus
}
#endif
#endif
