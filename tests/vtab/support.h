/*
 * support.h: what the test programs on the extension share: opening, running SQL with an expected outcome, comparing
 * what two connections see. Every function ends the running test with a message that shows the SQL when the
 * outcome is another one.
 *
 * The programs load the extension from DV_EXTENSION_PATH, or, compiled with -DSQLITE_CORE, have it linked in.
 * tests/concurrent and tests/crash use the same file: they include support.c.
 */
#ifndef DV_TEST_SUPPORT_H
#define DV_TEST_SUPPORT_H

#include <check.h>
#include <sqlite3.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What every database that sql_open() opens gets: a test case runs once for each. */
typedef struct sql_profile {
  const char *name;
  const char *pragmas; /* for each connection */
} sql_profile;
extern const sql_profile sql_default, sql_wal, sql_tiny; /* tiny: 512-byte pages, a cache of two */
extern const sql_profile *sql_profile_now;

/* ---- files: one empty directory a test --------------------------------------------------------------------------- */

void sql_setup(void); /* makes the directory; initializes the extension */
void sql_teardown(void); /* removes it; every byte of SQLite's memory must have been given back */
/* Path of a file in the test's directory; valid until the test ends. */
const char *sql_path(const char *name);
void sql_copy_file(const char *from, const char *to);
bool sql_file_exists(const char *path);

/* ---- connections ------------------------------------------------------------------------------------------------- */

sqlite3 *sql_open(const char *path);
sqlite3 *sql_open_flags(const char *path, int flags); /* without the profile's pragmas */
/* Must succeed: SQLITE_BUSY here means that the extension holds a statement. */
void sql_close(sqlite3 *db);

/* ---- SQL with an expected outcome: printf formats of sqlite3_mprintf (%q, %Q, %w) -------------------------------- */

#define sql_run(...) sql_run_at(__LINE__, __VA_ARGS__)
#define sql_fails(...) sql_fails_at(__LINE__, __VA_ARGS__)
#define sql_is(...) sql_is_at(__LINE__, __VA_ARGS__)
/* Runs to the end; must succeed. */
void sql_run_at(int line, sqlite3 *db, const char *format, ...);
/* Must fail with this code (primary or extended) and a message that contains `part`; returns the message. */
const char *sql_fails_at(int line, sqlite3 *db, int rc, const char *part, const char *format, ...);
/* The rows, columns joined by '|' and rows by ' ', must be `expected`. */
void sql_is_at(int line, sqlite3 *db, const char *expected, const char *format, ...);
/* The code alone; *message (may be NULL) to be freed with sqlite3_free. */
int sql_try(sqlite3 *db, char **message, const char *format, ...);
/* The rows as sql_is compares them; one of a few buffers that are used in turn. */
const char *sql_rows(sqlite3 *db, const char *format, ...);
int64_t sql_integer(sqlite3 *db, const char *format, ...);
/* Prepared, for tests that step by themselves. */
sqlite3_stmt *sql_prepare(sqlite3 *db, const char *format, ...);

/* ---- state ------------------------------------------------------------------------------------------------------- */

/* Everything a table tells: rows, vectors, metadata, order of a search, the log. Of `schema`.`table`; to be freed with
 * free(). A scan, a search and a look-up by id must agree in it. */
char *sql_state(sqlite3 *db, const char *schema, const char *table);
/* The same and the bytes of every shadow table. */
char *sql_dump(sqlite3 *db, const char *schema, const char *table);
#define sql_sound(db) sql_sound_at(__LINE__, db, "main", "docs")
/* 'integrity-check' and PRAGMA integrity_check find nothing. */
void sql_sound_at(int line, sqlite3 *db, const char *schema, const char *table);
#define sql_agrees(db) sql_agrees_at(__LINE__, db, "main", "docs")
/* A new connection on the same file sees what this one sees (outside of a transaction), and all is sound. */
void sql_agrees_at(int line, sqlite3 *db, const char *schema, const char *table);

/* CREATE VIRTUAL TABLE docs, short form, l2, so many dimensions. */
void sql_create_docs(sqlite3 *db, int dimensions);
/* Inserts rows 'r<first>' .. 'r<last>' with vectors made from their number. In one statement each. */
void sql_insert_many(sqlite3 *db, const char *table, int first, int last);

/* Runs a suite as a main() does; `--tap` and CK_ variables work as in any Check program. */
int sql_main(Suite *suite, int argc, char **argv);

#endif
