/*
 * operations.h: the operations that programs are made of, and what they share.
 *
 * choices.c draws random things and writes them as SQL; changes.c holds what changes rows, searches.c what only reads;
 * operations.c has history, transactions and the file, and chooses.
 */
#ifndef OPERATIONS_H
#define OPERATIONS_H

#include "harness.h"

enum { MAX_DIMENSIONS = 384 };

/* Runs operation number `index`. What it does depends on the program's seed, the index, and the state of the table: so
 * a program stays a program when operations are left out of it. Returns the operation's name. */
const char *run_operation(program *p, int index);

/* CREATE VIRTUAL TABLE as the program chose it, under any name. */
void create_table(program *p, connection *c, const char *name);

/* COMMIT or ROLLBACK of what is open; a COMMIT may find the file busy, then the transaction stays open. */
void end_transaction(program *p, connection *c, bool commits);

/* ---- choices.c --------------------------------------------------------------------------------------------------- */

float random_eighth(program *p);
/* Vectors of several kinds, sometimes near a row of t. */
void random_vector(program *p, const model_table *t, float *v);
/* JSON or blob, where the vector can be written as JSON. */
bool random_json_form(program *p, const float *v, int n);
/* An id of a row that exists (or not) if there is one; borrowed from p or t. */
const model_value *random_id(program *p, const model_table *t, bool exists);
/* The row has changed in this very statement: at a time that only the log will tell. */
bool is_pending(const model_row *row);
/* A time to give with a change of a row whose last was at `last`, or MODEL_AUTO. */
int64_t random_time(program *p, int64_t last);

/* A value of the column's type; the surface does not say what becomes of others. */
model_value random_value(program *p, int column, bool may_be_null);
/* New values for some columns. */
model_patch random_patch(program *p, int percent, bool has_partition);
bool sets(const program *p, const model_patch *patch, model_column_kind kind);
/* A patch for delta_apply: a merge patch of the JSON column, or an object of columns. */
model_patch random_merge(program *p);
void put_patch(program *p, statement *s, const model_patch *patch);

/* A delta with the space for what it points to. */
typedef struct delta_space {
  model_delta d;
  int index[MAX_DIMENSIONS + 2];
  float values[MAX_DIMENSIONS + 2];
} delta_space;

/* An operation that changes a vector: sparse, dense, scale or offset. */
model_operation random_kind(program *p);
void random_delta(program *p, const model_table *t, const model_content *old, model_operation kind, delta_space *out);
void put_delta(program *p, statement *s, const model_delta *d);

model_filter random_filter(program *p, const model_table *t, bool has_auxiliary);
/* is_hidden: written so that SQLite cannot hand it to the table. */
void put_filter(program *p, statement *s, const model_filter *f, bool is_hidden);

/* ---- changes.c --------------------------------------------------------------------------------------------------- */

typedef struct expectation {
  const char *refusal; /* why the statement must fail; NULL: it must succeed */
  model_value row; /* whose refusal it is; NULL: not of one row */
  bool is_either; /* without a refusal: the surface is silent, the statement may fail or succeed */
  bool is_nameless; /* the refusal comes from a function that knows no table */
  int code; /* the error code, if that matters */
  int changes; /* what sqlite3_changes() must say; -1: not looked at */
  bool is_change; /* a change of another kind than what the log shows */
} expectation;

/* Runs the statement; next is the table if it succeeds. Takes over both, and the expectation's row. True if it did
 * succeed; then *out, if wanted, is its result. */
bool change(program *p, connection *c, statement *s, model_table *next, expectation *e, result *out);
model_table *table_to_change(program *p, connection *c);

/* The rows that a WHERE selects. */
typedef struct selection {
  model_value *ids;
  int n;
  int64_t last_time; /* of all of them */
} selection;

selection select_rows(const model_table *t, const model_value *id, const model_filter *f);
void selection_free(selection *s);

void insert_one(program *p, connection *c);
void insert_many(program *p, connection *c);
void insert_bad(program *p, connection *c);
void insert_or_replace(program *p, connection *c);
void insert_or_ignore(program *p, connection *c);
void update_vector_or_delta(program *p, connection *c);
void update_metadata(program *p, connection *c);
void update_where(program *p, connection *c);
void delete_one(program *p, connection *c);
void delete_where(program *p, connection *c);
void delete_all(program *p, connection *c);
void apply_one(program *p, connection *c);
void apply_batch(program *p, connection *c);
void be_refused(program *p, connection *c);

/* ---- searches.c -------------------------------------------------------------------------------------------------- */

void search(program *p, connection *c);
void search_badly(program *p, connection *c);
void read_vector(program *p, connection *c);
void read_where(program *p, connection *c);
void read_history(program *p, connection *c);
void read_status(program *p, connection *c);
void call_functions(program *p, connection *c);
void compare_everything(program *p, connection *c);

#endif
