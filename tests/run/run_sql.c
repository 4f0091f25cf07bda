/*
 * run_sql.c: runs an SQL script and prints what comes out, so that the same script can be compared on any SQLite.
 *
 *   run_sql [--extension PATH] DATABASE < script
 *
 * It is a small sqlite3 shell, for SQLites that come without one, and prints what Debian's shell prints in list mode:
 * the values of a row with '|' between them, an error as "Error: message (code)", where the shell also tells the line.
 * The extension is loaded into every connection; compiled with -DSQLITE_CORE, for where it is linked in, it registers
 * itself.
 *
 * Dot commands:
 *   .open FILE   .print TEXT   .bail on|off   .headers on|off   .nullvalue TEXT   .separator TEXT   .echo on|off
 *   .parameter set NAME VALUE|unset NAME|clear   .load FILE (does nothing if it names the extension)   .quit
 *   .mode, .width and .timer are ignored: tests compare values, not their layout. Use quote() to see types.
 * Any other is an error and ends the program.
 *
 * REAL values print with 15 digits, whatever the version: SQLite prints 15 up to 3.52 and 17 later.
 *
 * Exit code: 0; 1 if a statement failed, as in the shell; 2 if the script or the command line is wrong; 3 if SQLite
 * still holds memory at the end.
 */
#define _POSIX_C_SOURCE 200809L

#include <ctype.h>
#include <sqlite3.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#ifdef SQLITE_CORE
#include "delta_vectors.h"
#endif

enum { MAX_ARGS = 64 };

static sqlite3 *db;
static const char *extension; /* NULL: linked in, or loaded by the script */
static bool is_echo, is_headers, is_bail, has_failed;
static char null_text[64], separator[64] = "|";

static void die(const char *what, const char *which) {
  printf("run_sql: %s %s\n", what, which);
  exit(2);
}

static void report(int rc) {
  printf("Error: %s", sqlite3_errmsg(db));
  if (rc > 1) printf(" (%d)", rc & 0xff);
  printf("\n");
  has_failed = true;
}

/* ---- connections ------------------------------------------------------------------------------------------------- */

static bool load(const char *path) {
  char *message = NULL;
  sqlite3_enable_load_extension(db, 1);
  int rc = sqlite3_load_extension(db, path, NULL, &message);
  sqlite3_enable_load_extension(db, 0);
  if (rc == SQLITE_OK) return true;
  printf("Error: %s\n", message);
  sqlite3_free(message);
  has_failed = true;
  return false;
}

static void open_database(const char *path) {
  if (sqlite3_close(db) != SQLITE_OK) die("cannot close:", sqlite3_errmsg(db));
  if (sqlite3_open(path, &db) != SQLITE_OK) die("cannot open:", sqlite3_errmsg(db));
  if (extension && !load(extension)) die("cannot load", extension);
}

static const char *file_name(const char *path) {
  const char *slash = strrchr(path, '/');
  return slash ? slash + 1 : path;
}

static bool is_extension(const char *path) {
#ifdef SQLITE_CORE
  return strcmp(file_name(path), "delta_vectors") == 0;
#else
  return extension && strcmp(file_name(path), file_name(extension)) == 0;
#endif
}

/* ---- parameters: kept where the shell keeps them, in temp.sqlite_parameters -------------------------------------- */

static bool run_quietly(const char *format, const char *name, const char *value) {
  char *sql = sqlite3_mprintf(format, name, value);
  int was_defensive = 0, was_writable = 0;
  sqlite3_db_config(db, SQLITE_DBCONFIG_DEFENSIVE, -1, &was_defensive);
  sqlite3_db_config(db, SQLITE_DBCONFIG_DEFENSIVE, 0, NULL);
  sqlite3_db_config(db, SQLITE_DBCONFIG_WRITABLE_SCHEMA, -1, &was_writable);
  sqlite3_db_config(db, SQLITE_DBCONFIG_WRITABLE_SCHEMA, 1, NULL); /* the name begins with sqlite_ */
  bool is_done = sqlite3_exec(db, sql, NULL, NULL, NULL) == SQLITE_OK;
  sqlite3_db_config(db, SQLITE_DBCONFIG_WRITABLE_SCHEMA, was_writable, NULL);
  sqlite3_db_config(db, SQLITE_DBCONFIG_DEFENSIVE, was_defensive, NULL);
  sqlite3_free(sql);
  return is_done;
}

static void set_parameter(const char *name, const char *value) {
  run_quietly("CREATE TABLE IF NOT EXISTS temp.sqlite_parameters(key TEXT PRIMARY KEY, value) WITHOUT ROWID", NULL,
              NULL);
  /* VALUE is an SQL expression; what is none is taken as text. */
  if (run_quietly("REPLACE INTO temp.sqlite_parameters VALUES(%Q, %s)", name, value)) return;
  if (!run_quietly("REPLACE INTO temp.sqlite_parameters VALUES(%Q, %Q)", name, value)) report(sqlite3_errcode(db));
}

static void bind_parameters(sqlite3_stmt *statement) {
  sqlite3_stmt *lookup = NULL;
  int n = sqlite3_bind_parameter_count(statement);
  if (n == 0 || sqlite3_table_column_metadata(db, "temp", "sqlite_parameters", "key", NULL, NULL, NULL, NULL, NULL))
    return;
  sqlite3_prepare_v2(db, "SELECT value FROM temp.sqlite_parameters WHERE key = ?1", -1, &lookup, NULL);
  for (int i = 1; i <= n; i++) {
    char number[16];
    const char *name = sqlite3_bind_parameter_name(statement, i);
    snprintf(number, sizeof number, "?%d", i);
    sqlite3_bind_text(lookup, 1, name ? name : number, -1, SQLITE_TRANSIENT);
    if (sqlite3_step(lookup) == SQLITE_ROW) sqlite3_bind_value(statement, i, sqlite3_column_value(lookup, 0));
    sqlite3_reset(lookup);
  }
  sqlite3_finalize(lookup);
}

/* ---- statements -------------------------------------------------------------------------------------------------- */

static void print_value(sqlite3_stmt *statement, int column) {
  char number[64];
  switch (sqlite3_column_type(statement, column)) {
  case SQLITE_NULL: printf("%s", null_text); break;
  case SQLITE_FLOAT:
    printf("%s", sqlite3_snprintf(sizeof number, number, "%!.15g", sqlite3_column_double(statement, column)));
    break;
  default: printf("%s", (const char *)sqlite3_column_text(statement, column));
  }
}

static void print_row(sqlite3_stmt *statement, bool is_header) {
  int n = sqlite3_column_count(statement);
  for (int i = 0; i < n; i++) {
    if (i > 0) printf("%s", separator);
    if (is_header)
      printf("%s", sqlite3_column_name(statement, i));
    else
      print_value(statement, i);
  }
  printf("\n");
}

/* Runs the statements of sql up to the first that fails. */
static void run(const char *sql) {
  if (is_echo) printf("%s", sql);
  while (*sql) {
    sqlite3_stmt *statement = NULL;
    int rc = sqlite3_prepare_v2(db, sql, -1, &statement, &sql);
    if (rc != SQLITE_OK) {
      report(rc);
      return;
    }
    if (!statement) continue; /* white space or a comment */
    bind_parameters(statement);
    for (bool is_first = true; (rc = sqlite3_step(statement)) == SQLITE_ROW; is_first = false) {
      if (is_first && is_headers) print_row(statement, true);
      print_row(statement, false);
    }
    rc = sqlite3_finalize(statement);
    if (rc != SQLITE_OK) {
      report(rc);
      return;
    }
  }
}

/* ---- dot commands ------------------------------------------------------------------------------------------------ */

/* Splits line in place at white space. '…' is taken as it stands; in "…" a backslash escapes. */
static int split(char *line, char **args) {
  int n = 0;
  char *in = line, *out = line;
  for (;;) {
    while (isspace((unsigned char)*in)) in++;
    if (!*in) return n;
    if (n == MAX_ARGS) die("too many words:", in);
    char quote = *in == '\'' || *in == '"' ? *in++ : 0;
    args[n++] = out;
    while (*in && (quote ? *in != quote : !isspace((unsigned char)*in))) {
      if (quote == '"' && in[0] == '\\' && in[1]) {
        in++;
        *out++ = *in == 'n' ? '\n' : *in == 't' ? '\t' : *in;
        in++;
      } else {
        *out++ = *in++;
      }
    }
    if (*in) in++;
    *out++ = 0;
  }
}

static bool truth(const char *word) {
  if (strcmp(word, "on") == 0) return true;
  if (strcmp(word, "off") != 0) die("expected on or off, not", word);
  return false;
}

static void set_text(char *to, size_t size, const char *from) {
  if (strlen(from) >= size) die("too long:", from);
  memcpy(to, from, strlen(from) + 1);
}

/* Returns false at .quit. */
static bool run_dot_command(const char *line) {
  char copy[4096], *args[MAX_ARGS];
  set_text(copy, sizeof copy, line + 1);
  int n = split(copy, args);
  const char *name = n > 0 ? args[0] : "", *arg = n > 1 ? args[1] : "";

  if (!strcmp(name, "mode") || !strcmp(name, "width") || !strcmp(name, "timer")) return true;
  if (is_echo) printf("%s\n", line);

  if (!strcmp(name, "quit") || !strcmp(name, "exit")) return false;
  if (!strcmp(name, "open")) {
    open_database(n > 1 ? arg : ":memory:");
  } else if (!strcmp(name, "load")) {
    if (!is_extension(arg)) load(arg);
  } else if (!strcmp(name, "print")) {
    for (int i = 1; i < n; i++) printf("%s%s", i > 1 ? " " : "", args[i]);
    printf("\n");
  } else if (!strcmp(name, "bail")) {
    is_bail = truth(arg);
  } else if (!strcmp(name, "headers") || !strcmp(name, "header")) {
    is_headers = truth(arg);
  } else if (!strcmp(name, "echo")) {
    is_echo = truth(arg);
  } else if (!strcmp(name, "nullvalue")) {
    set_text(null_text, sizeof null_text, arg);
  } else if (!strcmp(name, "separator")) {
    set_text(separator, sizeof separator, arg);
  } else if (!strcmp(name, "parameter") && n == 4 && !strcmp(arg, "set")) {
    set_parameter(args[2], args[3]);
  } else if (!strcmp(name, "parameter") && n == 3 && !strcmp(arg, "unset")) {
    run_quietly("DELETE FROM temp.sqlite_parameters WHERE key = %Q", args[2], NULL);
  } else if (!strcmp(name, "parameter") && n == 2 && !strcmp(arg, "clear")) {
    run_quietly("DROP TABLE IF EXISTS temp.sqlite_parameters", NULL, NULL);
  } else {
    die("does not know", line);
  }
  return true;
}

/* ---- the script -------------------------------------------------------------------------------------------------- */

static bool is_blank(const char *line) {
  while (isspace((unsigned char)*line)) line++;
  return !*line || strncmp(line, "--", 2) == 0;
}

static void run_script(FILE *in) {
  char *line = NULL, *sql = NULL;
  size_t line_capacity = 0, sql_capacity = 0, sql_length = 0;
  ssize_t length;
  while ((length = getline(&line, &line_capacity, in)) >= 0 && !(is_bail && has_failed)) {
    if (length > 0 && line[length - 1] == '\n') line[--length] = 0;
    if (sql_length == 0 && is_blank(line)) {
      if (is_echo) printf("%s\n", line);
      continue;
    }
    if (sql_length == 0 && line[0] == '.') {
      if (!run_dot_command(line)) break;
      continue;
    }
    size_t needed = sql_length + (size_t)length + 2;
    if (needed > sql_capacity) {
      sql_capacity = 2 * needed;
      char *larger = realloc(sql, sql_capacity);
      if (!larger) die("out of", "memory");
      sql = larger;
    }
    memcpy(sql + sql_length, line, (size_t)length);
    sql_length += (size_t)length;
    sql[sql_length++] = '\n';
    sql[sql_length] = 0;
    if (sqlite3_complete(sql)) {
      sql_length = 0;
      run(sql);
    }
  }
  if (sql_length > 0 && !(is_bail && has_failed)) run(sql);
  free(line);
  free(sql);
}

int main(int argc, char **argv) {
  setvbuf(stdout, NULL, _IOLBF, 0);
  if (argc == 4 && strcmp(argv[1], "--extension") == 0)
    extension = argv[2];
  else if (argc != 2)
    die("usage: run_sql [--extension PATH] DATABASE", "< script");
#ifdef SQLITE_CORE
  sqlite3_auto_extension((void (*)(void))sqlite3_deltavectors_init);
#endif
  open_database(argv[argc - 1]);
  run_script(stdin);

  if (sqlite3_close(db) != SQLITE_OK) die("cannot close:", sqlite3_errmsg(db));
  sqlite3_reset_auto_extension();
  sqlite3_shutdown();
  if (sqlite3_memory_used() != 0) {
    printf("run_sql: SQLite still holds %lld bytes\n", (long long)sqlite3_memory_used());
    return 3;
  }
  return has_failed ? 1 : 0;
}
