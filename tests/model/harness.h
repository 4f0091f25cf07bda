/*
 * harness.h: what stands between the programs of differential.c and SQLite.
 *
 * It owns the random generator, the text of statements (kept twice: with literals for the trace, and with parameters
 * for programs that bind), the connections and what each of them must see, and the comparisons of the extension's
 * tables with the model's.
 */
#ifndef HARNESS_H
#define HARNESS_H

#include <sqlite3.h>

#include "model.h"

/* ---- random numbers: seeded, the same on every machine ----------------------------------------------------------- */

typedef struct rng {
  uint64_t state;
} rng;

uint64_t mix(uint64_t seed, uint64_t n); /* a seed for the n-th thing of a seed */
uint64_t rng_next(rng *r);
int rng_below(rng *r, int n);
int rng_between(rng *r, int low, int high);
bool rng_chance(rng *r, int percent);

/* ---- text and statements ----------------------------------------------------------------------------------------- */

typedef struct text {
  char *s;
  size_t n, capacity;
} text;

void text_put(text *t, const char *format, ...);
void text_free(text *t);

/* A statement being written: the same SQL with values as literals, and with values as parameters. */
typedef struct statement {
  text literal, bound;
  model_value *values;
  int n_values, capacity;
} statement;

void put(statement *s, const char *format, ...);
void put_value(statement *s, const model_value *v);
void put_text(statement *s, const char *value);
void put_integer(statement *s, int64_t value);
void put_float(statement *s, float value);
void put_name(statement *s, const char *name); /* quoted as an identifier */
void put_vector(statement *s, const float *v, int n, bool as_json);
void put_time(statement *s, int64_t time, bool as_text);
void put_statement(statement *s, statement *part); /* takes over the part */
void statement_free(statement *s);

typedef struct result {
  int rc; /* SQLITE_OK if the statement ran to its end */
  char message[400];
  int n_rows, n_columns;
  model_value *cells;
  int changes;
} result;

const model_value *cell(const result *r, int row, int column);
void result_free(result *r);

/* ---- programs and connections ------------------------------------------------------------------------------------ */

enum { MAX_SAVEPOINTS = 6, MAX_IDS = 40 };

typedef struct savepoint {
  char name[4];
  model_table *saved; /* NULL: the transaction had not looked at the file yet */
  bool was_dirty;
} savepoint;

/*
 * What a connection must see: outside a transaction what is committed; inside, what was committed when it first looked
 * (base), with its own changes (view).
 */
typedef struct connection {
  sqlite3 *db;
  int number;
  bool in_transaction;
  model_table *base, *view;
  uint64_t base_generation;
  bool is_dirty;
  savepoint savepoints[MAX_SAVEPOINTS];
  int n_savepoints;
  bool began_with_savepoint; /* then releasing the outermost one commits */
} connection;

typedef struct program {
  uint64_t seed;
  rng rng;
  int index; /* of the operation that runs, for messages */

  /* chosen once */
  model_shape shape;
  const char *vector_column;
  char options[200];
  bool is_short_form, is_hnsw, is_flat;
  bool graphs_are_small; /* index=auto makes a graph of as few rows as these tables have */
  char keep[24]; /* the retention option */
  int checkpoint_interval;
  bool in_memory, is_wal, binds;
  int page_size, cache_size, synchronous;
  int n_connections;
  model_value ids[MAX_IDS];
  int n_ids;
  int explicit_percent; /* how often a change gives its time */
  const char *extension;
  char path[400];

  /* state */
  connection connections[2];
  model_table *committed;
  uint64_t generation; /* of committed */
  int64_t clock; /* of the times that are given: far in the past */

  /* outcome */
  text trace;
  int traced_connection;
  bool has_failed;
  char failure[1200];
  long checks;
  long expected, present; /* recall of index=hnsw */
  long auto_expected, auto_present; /* of searches of other graphs that were told to look at a part of it */
  sqlite3_int64 memory_before;
} program;

void fail(program *p, const char *format, ...);
/* Counts a check; if it does not hold, fails and returns false. */
bool check(program *p, bool holds, const char *format, ...);

void open_connection(program *p, connection *c);
/* Does this extension, with index=auto, make a graph of a few dozen rows? With small thresholds it does. */
bool makes_small_graphs(const char *extension);
void close_connection(program *p, connection *c);
/* Runs one statement, frees it, and leaves it in the trace. */
result run(program *p, connection *c, statement *s);
/* A read that may only fail because of the other connection; false if there is nothing to look at. */
bool query(program *p, connection *c, statement *s, result *r);
bool may_be_busy(const program *p, const connection *c);
/* The statement failed because of the other connection, and is allowed to. */
bool is_busy(const program *p, const connection *c, const result *r);
/* For pragmas and the like: must succeed unless the file is busy, rows are ignored. */
void execute(program *p, connection *c, const char *format, ...);

/* The table as the connection must see it. */
const model_table *seen_by(const program *p, const connection *c);
/* Makes next (taken over) what the connection sees, and commits it outside a transaction. */
void adopt(program *p, connection *c, model_table *next, bool is_change);
/* After any operation: notes what the open transaction has now seen of the file. */
void pin(program *p, connection *c);
void forget_transaction(connection *c);
int64_t current_time(void);

/* ---- comparisons ------------------------------------------------------------------------------------------------- */

/* Does a value read from column i equal the model's? JSON is compared in canonical form. */
bool column_matches(const model_shape *shape, int i, const model_value *got, const model_value *should);
/* Completes next's pending versions from delta_log. */
void settle(program *p, connection *c, model_table *next);
/* All rows as of a time; name may be that of a copy of the table. */
void check_rows(program *p, connection *c, const char *name, const model_table *t, int64_t time);
/* "id, vector, metadata columns": what to select to compare a row. */
void put_columns(statement *s, const program *p);
bool check_vector(program *p, const model_value *got, const float *vector, const char *id);
void check_row(program *p, connection *c, const model_table *t, const model_value *id);
/* is_copy: the seqs are the copy's own. */
void check_chain(program *p, connection *c, const char *name, const model_row *row, bool is_copy);
void check_log(program *p, connection *c, const model_table *t);
void check_status(program *p, connection *c, const model_table *t);
/* Nothing was changed and nothing logged. */
void check_unchanged(program *p, connection *c);
/* A time worth asking about: at, just before or just after some version. */
int64_t interesting_time(program *p, const model_table *t);
void check_everything(program *p, connection *c, bool is_thorough);

#endif
