/*
 * model.h: the naive model that the differential test holds the extension against.
 *
 * The model keeps, for each id, a plain array of versions, and in each version the full vector and all metadata
 * values. There is no log, no encoding, no index: a change copies the last full vector and changes the copy, a read as
 * of T walks the array, a search measures the distance to every row. It knows nothing of SQLite and shares no line with
 * core/ or ext/, so a mistake there cannot be repeated here.
 *
 * Three things only the extension can say: the seq of a change, the time of a change for which none was given, and
 * the name of the operation it was stored as. A change is therefore entered as *pending*, and model_settle() completes
 * it from the entries of delta_log, checking that they are entries the model can agree with.
 *
 * Snapshots (transactions, savepoints, failed statements) are whole copies of the table. What makes that cheap is that
 * the content of a version never changes after it was made: copies share it, counted.
 */
#ifndef MODEL_H
#define MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- switches: one for each point where the SQL surface leaves room ---------------------------------------------- */

/* A read as of T shows the metadata of T (1), or the model does not look at metadata of the past (0). */
#define MODEL_AS_OF_METADATA 1
/* delta_rollback leaves metadata as it is (0), restores that of the version (1), or either (2). */
#define MODEL_ROLLBACK_METADATA 2
/* An UPDATE of metadata alone makes a version with a log entry of its own (1), or may also make none (0). */
#define MODEL_METADATA_MAKES_VERSION 1
/* INSERT OR REPLACE of an existing id may show as delete followed by create (1), or must be one entry (0). */
#define MODEL_REPLACE_MAY_BE_TWO 1
/* A search without "exact" over index=flat or auto returns exactly the nearest at these sizes (1), or is measured as
 * recall, as index=hnsw is (0). */
#define MODEL_FLAT_IS_EXACT 1
/* Recall that index=hnsw must reach over a whole run. */
#define MODEL_HNSW_RECALL 0.95
/* With small thresholds index=auto has a graph, too: recall that searches must reach over a whole run which were told to
 * look at fewer rows than there are. */
#define MODEL_AUTO_RECALL 0.99
/* delta_compact keeps exactly what "keep" says (1), or at least that (0). */
#define MODEL_COMPACT_IS_EXACT 0
/* delta_compact inside an open transaction may be refused (1), or must work (0). */
#define MODEL_COMPACT_MAY_REFUSE_TRANSACTION 1
/* delta_export and delta_import work inside an open transaction and see its changes (1), or may be refused there
 * (0). */
#define MODEL_EXPORT_IN_TRANSACTION 1
/* An error about a row names the table (1), and the row's id (1). */
#define MODEL_ERROR_NAMES_TABLE 1
#define MODEL_ERROR_NAMES_ROW 1
/* The `delta` that delta_log and delta_chain show, given to delta_patch with the version before, gives the version. */
#define MODEL_LOG_DELTA_PATCHES 1
/* The value list of delta_sparse may be an f32 blob as well as JSON. */
#define MODEL_SPARSE_TAKES_BLOB 1

/* How far a distance may be from the model's, which is computed in double: relative, and absolute below 1. */
#define MODEL_TOLERANCE 1e-5

/* ---- values ------------------------------------------------------------------------------------------------------ */

typedef enum model_type { MODEL_NULL, MODEL_INTEGER, MODEL_REAL, MODEL_TEXT, MODEL_BLOB } model_type;

/* A dynamically typed value; owns its bytes. Text carries a terminating zero that n_bytes does not count. */
typedef struct model_value {
  model_type type;
  int64_t integer;
  double real;
  char *bytes;
  size_t n_bytes;
} model_value;

model_value model_null(void);
model_value model_integer(int64_t i);
model_value model_real(double r);
model_value model_text(const char *text);
model_value model_bytes(model_type type, const void *bytes, size_t n);
model_value model_value_copy(const model_value *v);
void model_value_free(model_value *v);
bool model_value_equal(const model_value *a, const model_value *b); /* same type, same bits */
void model_value_print(const model_value *v, char *out, size_t size); /* for messages */

/* ---- metadata of the short form: flat JSON objects --------------------------------------------------------------- */

/* Members sorted by key, no white space, numbers in one spelling; NULL (to be freed otherwise) if the text is not a
 * flat object. A NULL text counts as an empty object: whether a row without metadata shows NULL or {} is left open. */
char *model_json_canonical(const char *text);
/* RFC 7396 on two flat objects, canonical. */
char *model_json_merge(const char *target, const char *patch);
/* The member as a value (true and false are 1 and 0, as json_extract gives them); NULL if it is not there. */
model_value model_json_get(const char *text, const char *key);

/* ---- tables ------------------------------------------------------------------------------------------------------ */

typedef enum model_metric { MODEL_L2, MODEL_COSINE, MODEL_IP, MODEL_L1 } model_metric;

enum { MODEL_MAX_COLUMNS = 8 };

typedef enum model_column_kind { MODEL_METADATA, MODEL_JSON, MODEL_PARTITION, MODEL_AUXILIARY } model_column_kind;

typedef struct model_column {
  char name[16];
  char type[16]; /* as declared */
  model_column_kind kind;
} model_column;

typedef struct model_shape {
  int dimensions;
  model_metric metric;
  bool is_integer_id;
  int max_rows; /* 0: no limit */
  int n_columns;
  model_column columns[MODEL_MAX_COLUMNS];
} model_shape;

/* The content of a version: immutable once made, shared by the copies of a table. A deleted row has neither vector
 * nor values. */
typedef struct model_content {
  int references;
  bool exists;
  float *vector;
  model_value values[MODEL_MAX_COLUMNS];
  int n_values;
} model_content;

typedef enum model_operation {
  MODEL_CREATE,
  MODEL_SPARSE,
  MODEL_DENSE,
  MODEL_SCALE,
  MODEL_OFFSET,
  MODEL_DELETE,
  MODEL_OTHER
} model_operation;

model_operation model_operation_named(const char *name);

/* A time that was not given. */
#define MODEL_AUTO INT64_MIN
/* "as of now": the last version whatever its time. */
#define MODEL_NOW INT64_MAX

typedef struct model_version {
  int64_t seq; /* 0 while pending */
  int64_t time; /* MODEL_AUTO while pending and not given */
  unsigned allowed; /* operations it may be stored as, bits by model_operation; for pending versions */
  bool may_delete_first; /* INSERT OR REPLACE of an existing row */
  bool is_optional; /* a pending version that may leave no trace in the log */
  model_operation operation;
  model_content *content;
} model_version;

typedef struct model_row {
  model_value id;
  model_version *versions;
  int n_versions, capacity;
  int64_t horizon; /* what the row was before this time was compacted away: nothing is known about it */
} model_row;

typedef struct model_table {
  const model_shape *shape;
  char name[32];
  int64_t last_seq;
  model_row *rows;
  int n_rows, capacity;
} model_table;

model_table *model_new(const model_shape *shape, const char *name);
model_table *model_copy(const model_table *t);
void model_free(model_table *t);

model_row *model_find(const model_table *t, const model_value *id);
int64_t model_last_time(const model_row *row); /* INT64_MIN if there is none */
/* The row's content, NULL if it does not exist. *is_unknown: it was compacted away. */
const model_content *model_now(const model_row *row);
const model_content *model_at(const model_row *row, int64_t time, bool *is_unknown);
int model_count(const model_table *t);

/* ---- changes --------------------------------------------------------------------------------------------------------
 * Each appends a pending version and returns NULL, or returns why the change must be refused; what it did to the table
 * until then is undefined (the caller works on a copy).
 */

typedef struct model_delta {
  model_operation operation;
  int n; /* sparse: number of indices; create, dense: number of values */
  const int *index; /* may be out of range or doubled: then it is refused */
  const float *values;
  float amount; /* scale, offset */
} model_delta;

/* Metadata that goes with a change: new values for some columns. NULL pointer: none. */
typedef struct model_patch {
  bool is_set[MODEL_MAX_COLUMNS];
  bool is_merge; /* JSON columns are merged (delta_apply), not replaced (UPDATE) */
  model_value values[MODEL_MAX_COLUMNS];
} model_patch;

void model_patch_free(model_patch *patch);

const char *model_create(model_table *t, const model_value *id, const float *vector, int n, const model_patch *patch,
                         int64_t time);
const char *model_replace(model_table *t, const model_value *id, const float *vector, int n, const model_patch *patch,
                          int64_t time);
/* A vector of the right length, or NULL for a change of metadata alone. */
const char *model_update(model_table *t, const model_value *id, const float *vector, int n, const model_patch *patch,
                         int64_t time);
const char *model_apply(model_table *t, const model_value *id, const model_delta *delta, const model_patch *patch,
                        int64_t time);
/* has_metadata: restores metadata as well. */
const char *model_rollback(model_table *t, const model_value *id, int64_t seq, bool has_metadata);

/* One row of delta_log. */
typedef struct model_entry {
  int64_t seq, time;
  model_value id;
  model_operation operation;
} model_entry;

/* Completes the pending versions from the entries behind t->last_seq; now is the clock of this machine. On
 * disagreement returns false and says why. */
bool model_settle(model_table *t, const model_entry *entries, int n, int64_t now, char *why, size_t size);

/* The row keeps its last n versions; 0 leaves nothing of it but the horizon. */
void model_forget(model_row *row, int n);

/* ---- filters ----------------------------------------------------------------------------------------------------- */

typedef enum model_comparison {
  MODEL_EQ,
  MODEL_NE,
  MODEL_LT,
  MODEL_LE,
  MODEL_GT,
  MODEL_GE,
  MODEL_BETWEEN,
  MODEL_IN,
  MODEL_IS_NULL,
  MODEL_NOT_NULL,
  MODEL_LIKE, /* operand 0 is a prefix, ASCII letters of either case */
  MODEL_GLOB /* operand 0 is a prefix */
} model_comparison;

enum { MODEL_ID_COLUMN = -1, MODEL_MAX_OPERANDS = 6 };

typedef struct model_term {
  int column; /* MODEL_ID_COLUMN or an index into the shape's columns */
  char key[8]; /* member of a JSON column */
  model_comparison comparison;
  int n_operands;
  model_value operands[MODEL_MAX_OPERANDS];
} model_term;

typedef struct model_filter {
  int n_terms;
  bool is_or;
  model_term terms[3];
} model_filter;

bool model_passes(const model_filter *f, const model_value *id, const model_content *content);
void model_filter_free(model_filter *f);

/* ---- search ------------------------------------------------------------------------------------------------------ */

typedef struct model_hit {
  const model_value *id;
  const model_content *content;
  double distance;
  double tolerance;
} model_hit;

typedef struct model_hits {
  model_hit *hits; /* ascending by distance */
  int n;
  bool
      is_undecided; /* a row is compacted away at that time, or a distance has no agreed value (cosine of a zero vector,
                        values whose squares leave f32) */
} model_hits;

/* The distance of all rows that exist at the time and pass the filter (NULL: all). */
void model_search(const model_table *t, int64_t time, const float *query, const model_filter *f, model_hits *out);
void model_hits_free(model_hits *h);

typedef struct model_found {
  model_value id;
  double distance;
} model_found;

/* What was asked: the k nearest (-1: all), those nearer than a bound, and of those the ones that pass a filter that was
 * applied afterwards. */
typedef struct model_question {
  int64_t k;
  bool has_bound;
  double bound;
  const model_filter *then;
  bool is_ordered;
  bool is_approximate; /* which rows are found is counted, not demanded */
  long expected, present; /* out: of the rows that surely belong, how many there are and how many were found */
} model_question;

/* Do the rows found answer the question? A row nearer or farther than the limit by less than the tolerance may be in or
 * out. On disagreement returns false and says why. */
bool model_judge(const model_hits *h, model_question *q, const model_found *found, int n, char *why, size_t size);

/* Checks the model itself on cases worked out by hand; prints what failed and returns the number of failures. */
int model_self_test(void);

#endif
