/*
 * changes.c: the operations that change rows.
 *
 * Each writes a statement and, beside it, enters the same change into a copy of the model; change() then runs the
 * statement and holds the two together.
 */
#include "operations.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- running a change -------------------------------------------------------------------------------------------- */

static void check_refusal(program *p, connection *c, const expectation *e, const result *r) {
  const char *table = seen_by(p, c)->name;
  check(p, r->message[0] != 0, "refused without a message (%s)", e->refusal);
  check(p, !e->code || r->rc == e->code, "refused with code %d, should be %d: %s", r->rc, e->code, r->message);
  if (e->is_nameless) return;
  if (MODEL_ERROR_NAMES_TABLE)
    check(p, strstr(r->message, table) != NULL, "the error does not name the table %s (%s): %s", table, e->refusal,
          r->message);
  char id[64] = "";
  if (e->row.type == MODEL_TEXT) snprintf(id, sizeof id, "%s", e->row.bytes);
  if (e->row.type == MODEL_INTEGER) model_value_print(&e->row, id, sizeof id);
  /* An id with a quote in it may be shown quoted; and a full table is not the row's fault. */
  if (MODEL_ERROR_NAMES_ROW && id[0] && !strchr(id, '\'') && !strstr(e->refusal, "max_vectors"))
    check(p, strstr(r->message, id) != NULL, "the error does not name the row %s (%s): %s", id, e->refusal, r->message);
}

static void check_touched(program *p, connection *c, const model_table *t, int64_t since) {
  int n_touched = 0;
  for (int i = 0; i < t->n_rows; i++) {
    const model_row *row = &t->rows[i];
    bool is_touched = row->n_versions > 0 && row->versions[row->n_versions - 1].seq > since;
    if (is_touched && n_touched++ < 3) check_row(p, c, t, &row->id);
  }
  if (n_touched > 3) check_rows(p, c, t->name, t, MODEL_NOW);
}

bool change(program *p, connection *c, statement *s, model_table *next, expectation *e, result *out) {
  result r = run(p, c, s);
  bool has_succeeded = false;
  if (p->has_failed) {
    model_free(next);
  } else if (r.rc == SQLITE_OK && e->refusal) {
    check(p, false, "succeeds, but must be refused: %s", e->refusal);
    model_free(next);
  } else if (r.rc == SQLITE_OK) {
    int64_t since = next->last_seq;
    settle(p, c, next);
    check(p, e->changes < 0 || e->is_either || r.changes == e->changes, "sqlite3_changes() is %d, should be %d",
          r.changes, e->changes);
    bool is_change = e->is_change || next->last_seq != since;
    adopt(p, c, next, is_change);
    check_touched(p, c, next, since);
    has_succeeded = !p->has_failed;
  } else {
    model_free(next);
    if (!is_busy(p, c, &r) && !e->is_either) {
      if (check(p, e->refusal != NULL, "fails with %d: %s", r.rc, r.message)) check_refusal(p, c, e, &r);
    }
    check_unchanged(p, c);
  }
  if (out && has_succeeded)
    *out = r;
  else
    result_free(&r);
  model_value_free(&e->row);
  return has_succeeded;
}

model_table *table_to_change(program *p, connection *c) { return model_copy(seen_by(p, c)); }

/* ---- INSERT ------------------------------------------------------------------------------------------------------ */

typedef enum conflict { ABORT_STATEMENT, REPLACE_ROW, IGNORE_ROW } conflict;

/* A vector that must be refused: of a wrong length, or with a value that is no number. */
static int spoil_vector(program *p, float *v) {
  int n = p->shape.dimensions;
  if (rng_chance(&p->rng, 50)) {
    v[n] = 1;
    return n > 1 && rng_chance(&p->rng, 50) ? n - 1 : n + 1;
  }
  v[rng_below(&p->rng, n)] = rng_chance(&p->rng, 50) ? (float)NAN : (float)INFINITY;
  return n;
}

static bool is_all_finite(const float *v, int n) {
  for (int i = 0; i < n; i++)
    if (!isfinite(v[i])) return false;
  return true;
}

static void insert_rows(program *p, connection *c, int n_rows, conflict on_conflict, bool has_bad_row) {
  model_table *next = table_to_change(p, c);
  statement s = {0};
  expectation e = {.changes = 0};
  model_patch columns = random_patch(p, 70, true); /* only which: each row has values of its own */
  bool has_time = rng_chance(&p->rng, 80), is_select = n_rows > 1 && rng_chance(&p->rng, 20);
  int bad_row = has_bad_row ? rng_below(&p->rng, n_rows) : -1;
  static const char *const clauses[] = {"", " OR REPLACE", " OR IGNORE"};
  put(&s, "INSERT%s INTO ", clauses[on_conflict]);
  put_name(&s, next->name);
  put(&s, "(id, %s", p->vector_column);
  for (int i = 0; i < p->shape.n_columns; i++)
    if (columns.is_set[i]) put(&s, ", %s", p->shape.columns[i].name);
  put(&s, has_time ? ", as_of) " : ") ");
  put(&s, is_select ? "SELECT * FROM (VALUES" : "VALUES");
  for (int i = 0; i < n_rows; i++) {
    float v[MAX_DIMENSIONS + 1];
    int n = p->shape.dimensions;
    /* Where a conflict is not an error, an id of SQLite's choice might meet one that the statement names. */
    bool has_no_id = p->shape.is_integer_id && (n_rows == 1 || on_conflict == ABORT_STATEMENT) && next->n_rows < 60 &&
                     rng_chance(&p->rng, 10);
    bool wants_missing = i == bad_row || (on_conflict == ABORT_STATEMENT && rng_chance(&p->rng, 95));
    model_value id =
        has_no_id ? model_null() : model_value_copy(random_id(p, next, !wants_missing && rng_chance(&p->rng, 60)));
    const model_row *row = has_no_id ? NULL : model_find(next, &id);
    int64_t time = has_time && !is_pending(row) ? random_time(p, model_last_time(row)) : MODEL_AUTO;
    random_vector(p, next, v);
    if (i == bad_row) n = spoil_vector(p, v);
    model_patch patch = {0};
    for (int j = 0; j < p->shape.n_columns; j++) {
      patch.is_set[j] = columns.is_set[j];
      if (columns.is_set[j]) patch.values[j] = random_value(p, j, true);
    }
    put(&s, i ? ", (" : " (");
    put_value(&s, &id);
    put(&s, ", ");
    put_vector(&s, v, n, is_all_finite(v, n) && random_json_form(p, v, n));
    for (int j = 0; j < p->shape.n_columns; j++) {
      if (!columns.is_set[j]) continue;
      put(&s, ", ");
      put_value(&s, &patch.values[j]);
    }
    if (has_time) {
      put(&s, ", ");
      put_time(&s, time, rng_chance(&p->rng, 30));
    }
    put(&s, ")");
    if (has_no_id) e.is_either = true;
    if (!e.refusal && !(on_conflict == IGNORE_ROW && model_now(row))) {
      const char *why = on_conflict == REPLACE_ROW ? model_replace(next, &id, v, n, &patch, time)
                                                   : model_create(next, &id, v, n, &patch, time);
      if (why && on_conflict == IGNORE_ROW && strstr(why, "max_vectors")) {
        e.is_either = true; /* a limit may count as a conflict to ignore */
      } else if (why) {
        e.refusal = why;
        e.row = model_value_copy(&id);
        if (strcmp(why, "the id exists") == 0) e.code = SQLITE_CONSTRAINT;
      } else {
        e.changes++;
      }
    }
    model_value_free(&id);
    model_patch_free(&patch);
  }
  if (is_select) put(&s, ")");
  if (on_conflict == REPLACE_ROW) e.changes = -1;
  change(p, c, &s, next, &e, NULL);
  model_patch_free(&columns);
}

void insert_one(program *p, connection *c) { insert_rows(p, c, 1, ABORT_STATEMENT, false); }
void insert_many(program *p, connection *c) { insert_rows(p, c, rng_between(&p->rng, 2, 7), ABORT_STATEMENT, false); }
void insert_bad(program *p, connection *c) { insert_rows(p, c, rng_between(&p->rng, 1, 4), ABORT_STATEMENT, true); }
void insert_or_replace(program *p, connection *c) {
  insert_rows(p, c, rng_chance(&p->rng, 60) ? 1 : rng_between(&p->rng, 2, 5), REPLACE_ROW, rng_chance(&p->rng, 8));
}
void insert_or_ignore(program *p, connection *c) {
  insert_rows(p, c, rng_chance(&p->rng, 50) ? 1 : rng_between(&p->rng, 2, 5), IGNORE_ROW, false);
}

/* ---- UPDATE and DELETE ------------------------------------------------------------------------------------------- */

selection select_rows(const model_table *t, const model_value *id, const model_filter *f) {
  selection found = {.last_time = INT64_MIN};
  found.ids = calloc((size_t)t->n_rows + 1, sizeof *found.ids);
  if (!found.ids) abort();
  for (int i = 0; i < t->n_rows; i++) {
    const model_row *row = &t->rows[i];
    const model_content *content = model_now(row);
    if (!content || (id && !model_value_equal(&row->id, id)) || !model_passes(f, &row->id, content)) continue;
    found.ids[found.n++] = model_value_copy(&row->id);
    if (model_last_time(row) > found.last_time) found.last_time = model_last_time(row);
  }
  return found;
}

void selection_free(selection *s) {
  for (int i = 0; i < s->n; i++) model_value_free(&s->ids[i]);
  free(s->ids);
}

static void put_where(program *p, statement *s, const model_value *id, const model_filter *f) {
  if (id) {
    put(s, " WHERE id = ");
    put_value(s, id);
  } else if (f && f->n_terms) {
    put(s, " WHERE ");
    put_filter(p, s, f, rng_chance(&p->rng, 20));
  }
}

static void update_rows(program *p, connection *c, const model_value *id, const model_filter *f, bool only_metadata) {
  model_table *next = table_to_change(p, c);
  selection rows = select_rows(next, id, f);
  enum {
    VECTOR,
    DELTA,
    METADATA
  } kind = only_metadata && p->shape.n_columns ? METADATA
           : rng_chance(&p->rng, 50)           ? VECTOR
                                               : DELTA;
  bool has_partition = rng_chance(&p->rng, 10);
  model_patch patch = random_patch(p, kind == METADATA ? 60 : 20, has_partition);
  if (kind == METADATA) {
    bool is_empty = true;
    for (int i = 0; i < p->shape.n_columns; i++) is_empty = is_empty && !patch.is_set[i];
    if (is_empty) {
      patch.is_set[0] = true;
      patch.values[0] = random_value(p, 0, true);
    }
  }
  float v[MAX_DIMENSIONS + 1];
  int n = p->shape.dimensions;
  random_vector(p, next, v);
  bool is_bad = kind == VECTOR && rng_chance(&p->rng, 5);
  if (is_bad) n = spoil_vector(p, v);
  delta_space delta;
  random_delta(p, next, rows.n ? model_now(model_find(next, &rows.ids[0])) : NULL, random_kind(p), &delta);
  int64_t time = random_time(p, rows.last_time);

  statement s = {0};
  expectation e = {.changes = rows.n};
  const char *comma = "";
  put(&s, "UPDATE ");
  put_name(&s, next->name);
  put(&s, " SET ");
  if (kind == VECTOR) {
    put(&s, "%s = ", p->vector_column);
    put_vector(&s, v, n, is_all_finite(v, n) && random_json_form(p, v, n));
    comma = ", ";
  } else if (kind == DELTA) {
    put(&s, "delta = ");
    put_delta(p, &s, &delta.d);
    comma = ", ";
  }
  for (int i = 0; i < p->shape.n_columns; i++) {
    if (!patch.is_set[i]) continue;
    put(&s, "%s%s = ", comma, p->shape.columns[i].name);
    put_value(&s, &patch.values[i]);
    comma = ", ";
  }
  if (time != MODEL_AUTO) {
    put(&s, "%sas_of = ", comma);
    put_time(&s, time, rng_chance(&p->rng, 30));
  }
  put_where(p, &s, id, f);
  /* vec0 refuses to move a row to another partition; the surface does not say. */
  e.is_either = sets(p, &patch, MODEL_PARTITION);
  for (int i = 0; i < rows.n && !e.refusal; i++) {
    const char *why = kind == DELTA ? model_apply(next, &rows.ids[i], &delta.d, &patch, time)
                                    : model_update(next, &rows.ids[i], kind == VECTOR ? v : NULL, n, &patch, time);
    if (why) {
      e.refusal = why;
      if (rows.n == 1) e.row = model_value_copy(&rows.ids[0]);
    }
  }
  change(p, c, &s, next, &e, NULL);
  selection_free(&rows);
  model_patch_free(&patch);
}

void update_vector_or_delta(program *p, connection *c) {
  model_value id = model_value_copy(random_id(p, seen_by(p, c), rng_chance(&p->rng, 92)));
  update_rows(p, c, &id, NULL, false);
  model_value_free(&id);
}

void update_metadata(program *p, connection *c) {
  model_value id = model_value_copy(random_id(p, seen_by(p, c), rng_chance(&p->rng, 95)));
  update_rows(p, c, &id, NULL, true);
  model_value_free(&id);
}

void update_where(program *p, connection *c) {
  model_filter f = random_filter(p, seen_by(p, c), true);
  update_rows(p, c, NULL, &f, rng_chance(&p->rng, 50));
  model_filter_free(&f);
}

static void delete_rows(program *p, connection *c, const model_value *id, const model_filter *f) {
  model_table *next = table_to_change(p, c);
  selection rows = select_rows(next, id, f);
  statement s = {0};
  expectation e = {.changes = rows.n};
  put(&s, "DELETE FROM ");
  put_name(&s, next->name);
  put_where(p, &s, id, f);
  for (int i = 0; i < rows.n; i++)
    model_apply(next, &rows.ids[i], &(model_delta){.operation = MODEL_DELETE}, NULL, MODEL_AUTO);
  change(p, c, &s, next, &e, NULL);
  selection_free(&rows);
}

void delete_one(program *p, connection *c) {
  model_value id = model_value_copy(random_id(p, seen_by(p, c), rng_chance(&p->rng, 90)));
  delete_rows(p, c, &id, NULL);
  model_value_free(&id);
}

void delete_where(program *p, connection *c) {
  model_filter f = random_filter(p, seen_by(p, c), true);
  delete_rows(p, c, NULL, &f);
  model_filter_free(&f);
}

void delete_all(program *p, connection *c) { delete_rows(p, c, NULL, NULL); }

/* ---- delta_apply and delta_apply_batch --------------------------------------------------------------------------- */

static void apply_delta(program *p, connection *c, const model_value *id, const model_delta *d,
                        const model_patch *patch, int64_t time) {
  model_table *next = table_to_change(p, c);
  statement s = {0};
  expectation e = {.changes = -1};
  result r;
  put(&s, "SELECT delta_apply(");
  put_text(&s, next->name);
  put(&s, ", ");
  put_value(&s, id);
  put(&s, ", ");
  put_delta(p, &s, d);
  if (time != MODEL_AUTO || patch) {
    put(&s, ", ");
    put_time(&s, time, rng_chance(&p->rng, 30));
  }
  if (patch) {
    put(&s, ", ");
    put_patch(p, &s, patch);
    e.is_either = sets(p, patch, MODEL_PARTITION) || sets(p, patch, MODEL_AUXILIARY);
  }
  put(&s, ")");
  e.refusal = model_apply(next, id, d, patch, time);
  if (e.refusal) e.row = model_value_copy(id);
  if (change(p, c, &s, next, &e, &r)) {
    const model_row *row = model_find(seen_by(p, c), id);
    check(p, r.n_rows == 1 && cell(&r, 0, 0)->integer == row->versions[row->n_versions - 1].seq,
          "delta_apply returns %lld, the log has seq %lld", (long long)cell(&r, 0, 0)->integer,
          (long long)row->versions[row->n_versions - 1].seq);
    result_free(&r);
  }
}

static model_operation random_operation(program *p) {
  int roll = rng_below(&p->rng, 100);
  return roll < 10 ? MODEL_CREATE : roll < 18 ? MODEL_DELETE : random_kind(p);
}

void apply_one(program *p, connection *c) {
  const model_table *t = seen_by(p, c);
  delta_space delta;
  model_operation kind = random_operation(p);
  model_value id = model_value_copy(random_id(p, t, (kind != MODEL_CREATE) == rng_chance(&p->rng, 92)));
  const model_row *row = model_find(t, &id);
  random_delta(p, t, model_now(row), kind, &delta);
  int64_t time = random_time(p, model_last_time(row));
  bool has_patch = kind != MODEL_DELETE && p->shape.n_columns && rng_chance(&p->rng, 30);
  model_patch patch = has_patch ? random_merge(p) : (model_patch){0};
  apply_delta(p, c, &id, &delta.d, has_patch ? &patch : NULL, time);
  model_patch_free(&patch);
  model_value_free(&id);
}

/* A number from delta_apply_batch's answer. */
static int64_t member(const model_value *json, const char *key) {
  const char *at = json->type == MODEL_TEXT ? strstr(json->bytes, key) : NULL;
  return at ? strtoll(at + strlen(key) + 2, NULL, 10) : -1; /* behind "key": */
}

/* Asks delta_pack for the frames; false if it could not be asked. */
static bool pack_frames(program *p, connection *c, statement *s, result *r) {
  if (!query(p, c, s, r)) return false;
  return check(p, r->n_rows == 1 && cell(r, 0, 0)->type == MODEL_BLOB, "delta_pack returns no blob");
}

void apply_batch(program *p, connection *c) {
  model_table *next = table_to_change(p, c);
  int n = rng_chance(&p->rng, 80) ? rng_between(&p->rng, 1, 8) : rng_between(&p->rng, 10, 40);
  bool has_times = rng_chance(&p->rng, p->explicit_percent);
  /* Packed inside the statement; or packed before, in two parts, and perhaps damaged. */
  enum { INSIDE, JOINED, DAMAGED } form = rng_chance(&p->rng, 60) ? INSIDE : rng_chance(&p->rng, 80) ? JOINED : DAMAGED;
  statement parts[2];
  memset(parts, 0, sizeof parts);
  int in_part[2] = {0, 0};
  expectation e = {.changes = -1};
  int64_t before = next->last_seq;
  for (int i = 0; i < n; i++) {
    delta_space delta;
    model_operation kind = random_operation(p);
    model_value id = model_value_copy(random_id(p, next, (kind != MODEL_CREATE) == rng_chance(&p->rng, 99)));
    const model_row *row = model_find(next, &id);
    random_delta(p, next, model_now(row), kind, &delta);
    int part = form == INSIDE || i < n / 2 ? 0 : 1;
    statement *s = &parts[part];
    if (in_part[part]++ == 0)
      put(s, "SELECT delta_pack(column1, column2%s) FROM (VALUES", has_times ? ", column3" : "");
    put(s, in_part[part] > 1 ? ", (" : "(");
    put_value(s, &id);
    put(s, ", ");
    put_delta(p, s, &delta.d);
    int64_t time = MODEL_AUTO;
    if (has_times) {
      /* Once a row has changed at a time that only the log will tell, it must not change at a given one. */
      bool is_in_past = !(is_pending(row) && model_last_time(row) == MODEL_AUTO);
      if (is_in_past) time = random_time(p, model_last_time(row));
      put(s, ", ");
      put_time(s, time, rng_chance(&p->rng, 20));
    }
    put(s, ")");
    if (!e.refusal) {
      e.refusal = model_apply(next, &id, &delta.d, NULL, time);
      if (e.refusal) e.row = model_value_copy(&id);
    }
    model_value_free(&id);
  }
  statement s = {0};
  result r, packed;
  put(&s, "SELECT delta_apply_batch(");
  put_text(&s, next->name);
  put(&s, ", ");
  if (form == INSIDE) {
    put(&s, "(");
    put_statement(&s, &parts[0]);
    put(&s, ")))");
  } else {
    model_value frames = model_bytes(MODEL_BLOB, "", 0);
    for (int i = 0; i < 2; i++) {
      if (in_part[i] == 0) continue;
      put(&parts[i], ")");
      if (pack_frames(p, c, &parts[i], &packed)) {
        const model_value *more = cell(&packed, 0, 0);
        model_value both = {.type = MODEL_BLOB, .n_bytes = frames.n_bytes + more->n_bytes};
        both.bytes = malloc(both.n_bytes + 1);
        if (!both.bytes) abort();
        memcpy(both.bytes, frames.bytes, frames.n_bytes);
        memcpy(both.bytes + frames.n_bytes, more->bytes, more->n_bytes);
        model_value_free(&frames);
        frames = both;
      }
      result_free(&packed);
    }
    if (form == DAMAGED && frames.n_bytes) {
      size_t at = (size_t)rng_below(&p->rng, (int)frames.n_bytes);
      /* Cut where no frame can end, or one bit turned, which no CRC misses. */
      if (rng_chance(&p->rng, 50))
        frames.n_bytes -= (size_t)rng_between(&p->rng, 1, 3);
      else
        frames.bytes[at] = (char)(frames.bytes[at] ^ (1 << rng_below(&p->rng, 8)));
      model_value_free(&e.row);
      e.refusal = "damaged frames";
      e.is_nameless = true;
    }
    put_value(&s, &frames);
    put(&s, ")");
    model_value_free(&frames);
  }
  if (change(p, c, &s, next, &e, &r)) {
    const model_value *answer = cell(&r, 0, 0);
    int64_t last = seen_by(p, c)->last_seq;
    check(p, member(answer, "count") == n && member(answer, "lastSeq") == last && member(answer, "firstSeq") > before,
          "delta_apply_batch returns %s; %d deltas, seqs %lld to %lld", answer->bytes ? answer->bytes : "NULL", n,
          (long long)before + 1, (long long)last);
    result_free(&r);
  }
}

/* ---- what must be refused ---------------------------------------------------------------------------------------- */

/* The model refuses what delta_apply does here; overflow needs a value that two large scales push out of f32. */
static void apply_overflow(program *p, connection *c, const model_value *id) {
  const float factors[] = {1e38f, 1e38f, 1e-38f};
  model_value copy = model_value_copy(id);
  for (int i = 0; i < 3 && !p->has_failed; i++)
    apply_delta(p, c, &copy, &(model_delta){.operation = MODEL_SCALE, .amount = factors[i]}, NULL, MODEL_AUTO);
  model_value_free(&copy);
}

static void apply_too_old(program *p, connection *c, const model_value *id) {
  const model_row *row = model_find(seen_by(p, c), id);
  if (!row || row->n_versions == 0) return;
  int64_t time = model_last_time(row) - rng_between(&p->rng, 1, 100000);
  model_value copy = model_value_copy(id);
  delta_space delta;
  random_delta(p, seen_by(p, c), model_now(row), model_now(row) ? random_kind(p) : MODEL_CREATE, &delta);
  apply_delta(p, c, &copy, &delta.d, NULL, time);
  model_value_free(&copy);
}

/* A sparse delta with one index that must not be there. */
static void apply_bad_index(program *p, connection *c, const model_value *id) {
  model_value copy = model_value_copy(id);
  delta_space delta;
  random_delta(p, seen_by(p, c), NULL, MODEL_SPARSE, &delta);
  delta.index[delta.d.n] = p->shape.dimensions + rng_below(&p->rng, 3);
  delta.values[delta.d.n++] = 0.5f;
  apply_delta(p, c, &copy, &delta.d, NULL, MODEL_AUTO);
  model_value_free(&copy);
}

/* Statements that are wrong whatever the table holds. %s is the table, quoted as text; the id follows, then the
 * rest. */
static void run_nonsense(program *p, connection *c, const model_value *id) {
  static const char *const deltas[] = {
      "delta_sparse('[0,0]', '[1,2]')",
      "delta_sparse('[-1]', '[1]')",
      "delta_sparse('[0]', '[1,2]')",
      "delta_sparse('[0', '[1]')",
      "delta_scale('much')",
      "x'00'",
      "delta_dense(x'0000c07f')",
      "delta_dense('[1,2')",
      "delta_dense(x'0102')",
      "delta_offset(1e39)",
      "delta_create('nonsense')",
      "delta_scale(9e999)",
      "delta_dense('[1e39]')",
      "delta_sparse('[0]', x'0000c07f')",
  };
  enum { N_DELTAS = sizeof deltas / sizeof deltas[0] };
  model_table *next = table_to_change(p, c);
  statement s = {0};
  expectation e = {.refusal = "nonsense", .is_nameless = true};
  int roll = rng_below(&p->rng, N_DELTAS + 4);
  if (roll < N_DELTAS) {
    put(&s, "SELECT delta_apply(");
    put_text(&s, next->name);
    put(&s, ", ");
    put_value(&s, id);
    put(&s, ", %s)", deltas[roll]);
  } else if (roll == N_DELTAS) {
    put(&s, "SELECT delta_apply('no such table', 'a', delta_scale(0.5))");
  } else if (roll == N_DELTAS + 1) {
    put(&s, "SELECT delta_apply(");
    put_text(&s, next->name);
    put(&s, ", ");
    put_value(&s, id);
    put(&s, ", delta_scale(0.5), NULL, '{\"nosuchcolumn\":')");
  } else if (roll == N_DELTAS + 2) {
    put(&s, "UPDATE ");
    put_name(&s, next->name);
    put(&s, " SET %s = '[1, 2' WHERE id = ", p->vector_column);
    put_value(&s, id);
  } else {
    put(&s, "SELECT delta_rollback(");
    put_text(&s, next->name);
    put(&s, ", 'no such row', 1)");
  }
  /* An UPDATE of no row sees no nonsense. */
  if (roll == N_DELTAS + 2 && !model_now(model_find(next, id))) e.refusal = NULL, e.changes = -1;
  change(p, c, &s, next, &e, NULL);
}

void be_refused(program *p, connection *c) {
  const model_table *t = seen_by(p, c);
  const model_value *id = random_id(p, t, true);
  model_value copy;
  delta_space delta;
  switch (rng_below(&p->rng, 7)) {
  case 0: apply_overflow(p, c, id); break;
  case 1: apply_too_old(p, c, id); break;
  case 2: apply_bad_index(p, c, id); break;
  case 3: /* create of what exists, or a change of what does not */
    copy = model_value_copy(random_id(p, t, rng_chance(&p->rng, 50)));
    random_delta(p, t, NULL, model_now(model_find(t, &copy)) ? MODEL_CREATE : random_kind(p), &delta);
    apply_delta(p, c, &copy, &delta.d, NULL, MODEL_AUTO);
    model_value_free(&copy);
    break;
  case 4: /* a vector of the wrong length in a delta */
    copy = model_value_copy(id);
    random_delta(p, t, NULL, MODEL_DENSE, &delta);
    delta.values[delta.d.n++] = 1;
    apply_delta(p, c, &copy, &delta.d, NULL, MODEL_AUTO);
    model_value_free(&copy);
    break;
  default:
    copy = model_value_copy(id);
    run_nonsense(p, c, &copy);
    model_value_free(&copy);
  }
}
