/*
 * operations.c: the operations on history (rollback, compaction, export), on transactions and on the file; and which
 * operation comes next. An operation draws all it needs from p->rng, which run_operation() seeds for it.
 */
#include "operations.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- history: rollback, compaction, export ----------------------------------------------------------------------- */

static bool has_values(program *p, connection *c, const model_table *t, const model_value *id) {
  const model_content *content = model_now(model_find(t, id));
  statement s = {0};
  result r;
  bool has = true;
  put(&s, "SELECT ");
  put_columns(&s, p);
  put(&s, " FROM ");
  put_name(&s, t->name);
  put(&s, " WHERE id = ");
  put_value(&s, id);
  if (query(p, c, &s, &r) && r.n_rows == 1 && content)
    for (int i = 0; i < p->shape.n_columns; i++)
      has = has && column_matches(&p->shape, i, cell(&r, 0, 2 + i), &content->values[i]);
  result_free(&r);
  return has;
}

static void roll_back_row(program *p, connection *c) {
  const model_table *t = seen_by(p, c);
  const model_row *row = t->n_rows ? &t->rows[rng_below(&p->rng, t->n_rows)] : NULL;
  if (!row || row->n_versions == 0) return;
  const model_version *v = &row->versions[rng_below(&p->rng, row->n_versions)];
  /* From nothing to nothing: an error, a further delete, or no change at all? And does what returns count as an insert
   * where rows are limited? The surface is silent; these two are left out. */
  if (!model_now(row) && (!v->content->exists || p->shape.max_rows)) return;
  model_value id = model_value_copy(&row->id);
  model_table *next = table_to_change(p, c), *other = NULL;
  model_rollback(next, &id, v->seq, MODEL_ROLLBACK_METADATA == 1);
  if (MODEL_ROLLBACK_METADATA == 2) {
    other = table_to_change(p, c);
    model_rollback(other, &id, v->seq, true);
  }
  statement s = {0};
  put(&s, "SELECT delta_rollback(");
  put_text(&s, t->name);
  put(&s, ", ");
  put_value(&s, &id);
  put(&s, ", ");
  put_integer(&s, v->seq);
  put(&s, ")");
  result r = run(p, c, &s);
  if (!p->has_failed && r.rc == SQLITE_OK) {
    settle(p, c, next);
    if (other) settle(p, c, other);
    if (other && !p->has_failed && !has_values(p, c, next, &id)) {
      model_table *kept = next;
      next = other;
      other = kept;
    }
    const model_row *rolled = model_find(next, &id);
    int64_t seq = rolled->versions[rolled->n_versions - 1].seq;
    check(p, r.n_rows == 1 && cell(&r, 0, 0)->integer == seq, "delta_rollback does not return the seq %lld of the log",
          (long long)seq);
    check_row(p, c, next, &id);
    adopt(p, c, next, true);
  } else {
    model_free(next);
    check(p, p->has_failed || is_busy(p, c, &r), "delta_rollback fails with %d: %s", r.rc, r.message);
    check_unchanged(p, c);
  }
  model_free(other);
  result_free(&r);
  model_value_free(&id);
}

/* How many versions of the row "keep" demands. */
static int versions_to_keep(const model_row *row, const char *keep) {
  if (strcmp(keep, "none") == 0) return row->n_versions ? 1 : 0;
  if (keep[0] == 0 || strcmp(keep, "forever") == 0) return row->n_versions;
  int n = atoi(keep), kept = 0;
  if (strstr(keep, "versions")) return n < row->n_versions ? n : row->n_versions;
  int64_t oldest = current_time() - (int64_t)n * 86400000;
  for (int i = 0; i < row->n_versions; i++) kept += row->versions[i].time >= oldest;
  return kept < row->n_versions ? kept + 1 : kept; /* and the one that held when the period began */
}

/* Compaction may keep more than was asked for, so what it kept is read from the log; it must be the end of each chain,
 * and long enough. That a row was deleted need not be kept where nothing comes before. True if anything is gone. */
static bool learn_compaction(program *p, connection *c, model_table *next, const char *keep, const model_value *only) {
  statement s = {0};
  result r;
  put(&s, "SELECT seq, id FROM delta_log(");
  put_text(&s, next->name);
  put(&s, ", 0)");
  bool has_forgotten = false;
  if (!query(p, c, &s, &r)) fail(p, "the log cannot be read after delta_compact");
  for (int i = 0; i < next->n_rows && !p->has_failed; i++) {
    model_row *row = &next->rows[i];
    char id[64];
    int kept = 0;
    bool is_meant = !only || model_value_equal(only, &row->id);
    int least = is_meant ? versions_to_keep(row, keep) : row->n_versions;
    int most = MODEL_COMPACT_IS_EXACT ? least : row->n_versions;
    while (least > 0 && least < row->n_versions && !row->versions[row->n_versions - least].content->exists) least--;
    if (is_meant && row->n_versions == 1 && !model_now(row)) least = 0;
    for (int j = 0; j < r.n_rows; j++) kept += model_value_equal(cell(&r, j, 1), &row->id);
    model_value_print(&row->id, id, sizeof id);
    check(p, kept >= least && kept <= most, "delta_compact keeps %d of %d versions of row %s, should keep %d", kept,
          row->n_versions, id, least);
    if (kept > row->n_versions) break;
    has_forgotten = has_forgotten || kept < row->n_versions;
    model_forget(row, kept); /* that it is these versions, check_log finds out */
  }
  result_free(&r);
  return has_forgotten;
}

static void compact_once(program *p, connection *c) {
  model_table *next = table_to_change(p, c);
  statement s = {0};
  char keep[24] = "";
  const model_value *only = NULL;
  int roll = rng_below(&p->rng, 10);
  if (roll < 3)
    snprintf(keep, sizeof keep, "none");
  else if (roll < 7)
    snprintf(keep, sizeof keep, "%d versions", rng_between(&p->rng, 1, 12));
  else if (roll < 8)
    snprintf(keep, sizeof keep, "%d days", rng_between(&p->rng, 1, 400));
  bool has_keep = keep[0] != 0;
  if (!has_keep) snprintf(keep, sizeof keep, "%s", p->keep);
  if (has_keep && next->n_rows && rng_chance(&p->rng, 30)) {
    const model_row *row = &next->rows[rng_below(&p->rng, next->n_rows)];
    /* Often the row that changed last: if it was deleted, the end of the log goes away. */
    for (int i = 0; i < next->n_rows && rng_chance(&p->rng, 95); i++)
      if (next->rows[i].n_versions && next->rows[i].versions[next->rows[i].n_versions - 1].seq == next->last_seq)
        row = &next->rows[i];
    if (row->n_versions) only = &row->id; /* of a row with none, the table does not know any more */
  }
  put(&s, "SELECT delta_compact(");
  put_text(&s, next->name);
  if (has_keep) {
    text json = {0};
    text_put(&json, "{");
    if (only && only->type == MODEL_TEXT) text_put(&json, "\"id\":\"%s\",", only->bytes);
    if (only && only->type == MODEL_INTEGER) text_put(&json, "\"id\":%lld,", (long long)only->integer);
    text_put(&json, "\"keep\":\"%s\"}", keep);
    put(&s, ", ");
    put_text(&s, json.s);
    text_free(&json);
  }
  put(&s, ")");
  result r = run(p, c, &s);
  if (p->has_failed) {
    model_free(next);
  } else if (r.rc == SQLITE_OK) {
    bool is_change = learn_compaction(p, c, next, keep, only);
    adopt(p, c, next, is_change);
    check_everything(p, c, rng_chance(&p->rng, 20));
  } else {
    bool may_refuse = c->in_transaction && MODEL_COMPACT_MAY_REFUSE_TRANSACTION;
    model_free(next);
    check(p, may_refuse || is_busy(p, c, &r), "delta_compact fails with %d: %s", r.rc, r.message);
    check_unchanged(p, c);
  }
  result_free(&r);
}

static void compact(program *p, connection *c) {
  compact_once(p, c);
  if (rng_chance(&p->rng, 40)) compact_once(p, c); /* what a compaction left must compact again */
}

void create_table(program *p, connection *c, const char *name) {
  static const char *const metrics[] = {"l2", "cosine", "ip", "l1"};
  const model_shape *shape = &p->shape;
  text t = {0};
  text_put(&t, "CREATE VIRTUAL TABLE \"%s\" USING delta_vectors(", name);
  if (p->is_short_form) {
    text_put(&t, "dimensions=%d, metric=%s", shape->dimensions, metrics[shape->metric]);
  } else {
    text_put(&t, "id %s PRIMARY KEY, embedding FLOAT[%d] distance_metric=%s", shape->is_integer_id ? "INTEGER" : "TEXT",
             shape->dimensions, metrics[shape->metric]);
    for (int i = 0; i < shape->n_columns; i++) {
      const model_column *col = &shape->columns[i];
      text_put(&t, ", %s%s %s%s", col->kind == MODEL_AUXILIARY ? "+" : "", col->name, col->type,
               col->kind == MODEL_PARTITION ? " PARTITION KEY" : "");
    }
  }
  execute(p, c, "%s%s)", t.s, p->options);
  text_free(&t);
}

/* The log of the copy: how long it is, and its last seq. */
static bool copy_log(program *p, connection *c, const char *copy, int64_t *n, int64_t *last) {
  statement s = {0};
  result r;
  put(&s, "SELECT count(*), coalesce(max(seq), 0) FROM delta_log(");
  put_text(&s, copy);
  put(&s, ", 0)");
  bool has = query(p, c, &s, &r);
  *n = has ? cell(&r, 0, 0)->integer : 0;
  *last = has ? cell(&r, 0, 1)->integer : 0;
  result_free(&r);
  return has;
}

/* The deltas with since < seq <= until. */
static void import_once(program *p, connection *c, const char *copy, int64_t since, int64_t until) {
  statement s = {0};
  put(&s, "SELECT delta_import(");
  put_text(&s, copy);
  put(&s, ", delta_export(");
  put_text(&s, seen_by(p, c)->name);
  put(&s, ", ");
  put_integer(&s, since);
  put(&s, ", ");
  put_integer(&s, until);
  put(&s, "))");
  result r = run(p, c, &s);
  check(p, p->has_failed || r.rc == SQLITE_OK, "import of an export fails with %d: %s", r.rc, r.message);
  result_free(&r);
}

/* Into a second table of the same shape: at once or in two parts, and again, which must change nothing. */
static void export_and_import(program *p, connection *c) {
  static const char copy[] = "copy of it";
  if (c->in_transaction && (!MODEL_EXPORT_IN_TRANSACTION || p->n_connections > 1)) return;
  if (may_be_busy(p, c)) return; /* the copy could be created and then not dropped */
  const model_table *t = seen_by(p, c);
  int64_t n, last, n_again, last_again;
  create_table(p, c, copy);
  int64_t part = t->last_seq > 0 && rng_chance(&p->rng, 50) ? rng_below(&p->rng, (int)t->last_seq) : 0;
  if (part > 0) import_once(p, c, copy, 0, part);
  if (!p->has_failed) import_once(p, c, copy, part, INT64_MAX);
  if (!p->has_failed && copy_log(p, c, copy, &n, &last)) {
    check_rows(p, c, copy, t, MODEL_NOW);
    check_rows(p, c, copy, t, interesting_time(p, t));
    for (int i = 0; i < t->n_rows && !p->has_failed; i++)
      if (rng_chance(&p->rng, 30)) check_chain(p, c, copy, &t->rows[i], true);
    import_once(p, c, copy, rng_chance(&p->rng, 50) ? 0 : t->last_seq / 2, INT64_MAX);
    if (!p->has_failed && copy_log(p, c, copy, &n_again, &last_again))
      check(p, n == n_again && last == last_again,
            "a second import of the same changes the copy: %lld versions, then %lld", (long long)n, (long long)n_again);
    check_rows(p, c, copy, t, MODEL_NOW);
  }
  execute(p, c, "DROP TABLE \"%s\"", copy);
  check_unchanged(p, c);
}

/* ---- transactions ------------------------------------------------------------------------------------------------ */

/* Runs a statement of transaction control; false if the file is busy. */
static bool control(program *p, connection *c, const char *format, const char *name) {
  statement s = {0};
  put(&s, format, name);
  result r = run(p, c, &s);
  if (!p->has_failed) check(p, r.rc == SQLITE_OK || is_busy(p, c, &r), "fails with %d: %s", r.rc, r.message);
  result_free(&r);
  return r.rc == SQLITE_OK && !p->has_failed;
}

static void committed(program *p, connection *c) {
  if (c->is_dirty) {
    check(p, c->base_generation == p->generation, "COMMIT succeeds, but another connection has committed in between");
    model_free(p->committed);
    p->committed = c->view;
    c->view = NULL;
    p->generation++;
  }
  forget_transaction(c);
}

void end_transaction(program *p, connection *c, bool commits) {
  if (!c->in_transaction) return;
  if (commits) {
    if (control(p, c, "COMMIT", "")) committed(p, c);
  } else if (control(p, c, "ROLLBACK", "")) {
    forget_transaction(c);
  }
}

static void begin(program *p, connection *c) {
  int roll = rng_below(&p->rng, 20);
  if (c->in_transaction) {
    if (roll < 10) end_transaction(p, c, true);
    return;
  }
  if (control(p, c, "BEGIN%s", roll < 5 ? " IMMEDIATE" : roll < 6 ? " EXCLUSIVE" : "")) c->in_transaction = true;
}

static void commit(program *p, connection *c) { end_transaction(p, c, true); }
static void rollback(program *p, connection *c) { end_transaction(p, c, false); }

static void open_savepoint(program *p, connection *c) {
  if (c->n_savepoints == MAX_SAVEPOINTS) return;
  savepoint *s = &c->savepoints[c->n_savepoints];
  snprintf(s->name, sizeof s->name, "s%d", rng_below(&p->rng, 4)); /* names may repeat: the innermost counts */
  if (!control(p, c, "SAVEPOINT %s", s->name)) return;
  if (!c->in_transaction) c->in_transaction = c->began_with_savepoint = true;
  s->saved = c->view ? model_copy(c->view) : NULL;
  s->was_dirty = c->is_dirty;
  c->n_savepoints++;
}

/* The innermost savepoint of the name that a random one has. */
static int random_savepoint(program *p, const connection *c) {
  int at = c->n_savepoints - 1;
  const char *name = c->savepoints[rng_below(&p->rng, c->n_savepoints)].name;
  while (strcmp(c->savepoints[at].name, name) != 0) at--;
  return at;
}

static void drop_savepoints(connection *c, int n) {
  while (c->n_savepoints > n) {
    model_free(c->savepoints[--c->n_savepoints].saved);
    c->savepoints[c->n_savepoints].saved = NULL;
  }
}

static void release(program *p, connection *c) {
  if (c->n_savepoints == 0) return;
  int at = random_savepoint(p, c);
  if (!control(p, c, "RELEASE %s", c->savepoints[at].name)) return;
  if (at == 0 && c->began_with_savepoint)
    committed(p, c);
  else
    drop_savepoints(c, at);
}

static void rollback_to(program *p, connection *c) {
  if (c->n_savepoints == 0) return;
  int at = random_savepoint(p, c);
  const savepoint *s = &c->savepoints[at];
  if (!control(p, c, "ROLLBACK TO %s", s->name)) return;
  drop_savepoints(c, at + 1);
  if (c->view) {
    model_table *back = model_copy(s->saved ? s->saved : c->base);
    model_free(c->view);
    c->view = back;
    c->is_dirty = s->was_dirty;
  }
  check_unchanged(p, c);
}

/* ---- the file ---------------------------------------------------------------------------------------------------- */

static void reopen(program *p, connection *c) {
  if (p->in_memory) return;
  for (int i = 0; i < p->n_connections; i++) {
    connection *each = &p->connections[i];
    if (each != c && rng_chance(&p->rng, 50)) continue;
    close_connection(p, each); /* an open transaction is rolled back */
    open_connection(p, each);
  }
  check_everything(p, c, rng_chance(&p->rng, 30));
}

static void vacuum(program *p, connection *c) {
  if (c->in_transaction) return;
  if (control(p, c, "VACUUM", "")) check_everything(p, c, false);
}

static void rename_table(program *p, connection *c) {
  static const char *const names[] = {"docs", "items", "odd name", "docs2", "v"};
  model_table *next = table_to_change(p, c);
  statement s = {0};
  expectation e = {.changes = -1, .is_change = true};
  const char *name = names[rng_below(&p->rng, 5)];
  if (strcmp(name, next->name) == 0) name = "another";
  put(&s, "ALTER TABLE ");
  put_name(&s, next->name);
  put(&s, " RENAME TO ");
  put_name(&s, name);
  snprintf(next->name, sizeof next->name, "%s", name);
  change(p, c, &s, next, &e, NULL);
  check_unchanged(p, c);
}

static void command(program *p, connection *c) {
  static const char *const commands[] = {"optimize", "optimize", "rebuild", "integrity-check", "hnsw_ef_search=200"};
  model_table *next = table_to_change(p, c);
  statement s = {0};
  expectation e = {.changes = -1};
  put(&s, "INSERT INTO ");
  put_name(&s, next->name);
  put(&s, "(");
  put_name(&s, next->name);
  put(&s, ") VALUES(");
  put_text(&s, commands[rng_below(&p->rng, 5)]);
  put(&s, ")");
  change(p, c, &s, next, &e, NULL);
  check_unchanged(p, c);
}

/* ---- choosing ---------------------------------------------------------------------------------------------------- */

typedef struct operation {
  const char *name;
  void (*run)(program *p, connection *c);
  int weight;
} operation;

static const operation operations[] = {
    {"INSERT", insert_one, 80},
    {"INSERT of several rows", insert_many, 35},
    {"INSERT of a bad vector", insert_bad, 12},
    {"INSERT OR REPLACE", insert_or_replace, 35},
    {"INSERT OR IGNORE", insert_or_ignore, 20},
    {"UPDATE by id", update_vector_or_delta, 100},
    {"UPDATE of metadata", update_metadata, 40},
    {"UPDATE by WHERE", update_where, 30},
    {"DELETE by id", delete_one, 25},
    {"DELETE by WHERE", delete_where, 6},
    {"DELETE of all", delete_all, 2},
    {"delta_apply", apply_one, 150},
    {"delta_apply_batch", apply_batch, 40},
    {"what must be refused", be_refused, 40},
    {"delta_rollback", roll_back_row, 20},
    {"delta_compact", compact, 14},
    {"export and import", export_and_import, 5},
    {"BEGIN", begin, 45},
    {"COMMIT", commit, 30},
    {"ROLLBACK", rollback, 12},
    {"SAVEPOINT", open_savepoint, 35},
    {"RELEASE", release, 15},
    {"ROLLBACK TO", rollback_to, 20},
    {"reopen", reopen, 8},
    {"VACUUM", vacuum, 4},
    {"RENAME", rename_table, 5},
    {"command", command, 12},
    {"search", search, 120},
    {"search of nonsense", search_badly, 5},
    {"read of a vector", read_vector, 50},
    {"read by WHERE", read_where, 20},
    {"read of history", read_history, 30},
    {"delta_status", read_status, 10},
    {"pure functions", call_functions, 8},
    {"compare everything", compare_everything, 20},
};
enum { N_OPERATIONS = sizeof operations / sizeof operations[0] };

/* Programs have characters: in each, some operations are frequent and some never happen. */
static int weight_in(const program *p, int i) {
  static const int factors[] = {0, 1, 1, 2, 2, 2, 5};
  rng r = {mix(p->seed, 0x77656967687473u + (uint64_t)i)};
  if (operations[i].run == compact && rng_chance(&r, 50)) return 0; /* what is compacted away cannot be compared */
  return operations[i].weight * factors[rng_below(&r, 7)];
}

const char *run_operation(program *p, int index) {
  int total = 0, i = 0;
  p->index = index;
  p->rng = (rng){mix(p->seed, 1000 + (uint64_t)index)};
  connection *c = &p->connections[p->n_connections > 1 && rng_chance(&p->rng, 35)];
  for (int j = 0; j < N_OPERATIONS; j++) total += weight_in(p, j);
  int roll = rng_below(&p->rng, total);
  while (roll >= weight_in(p, i)) roll -= weight_in(p, i++);
  text_put(&p->trace, "-- operation %d: %s\n", index, operations[i].name);
  operations[i].run(p, c);
  for (int j = 0; j < p->n_connections; j++) pin(p, &p->connections[j]);
  return operations[i].name;
}
