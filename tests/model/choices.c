/*
 * choices.c: what a program draws at random (vectors, ids, times, metadata, deltas, filters), and how each is written
 * as SQL. Each kind leans towards what is hard: ties, neighbours, zeros of both signs, NULLs, quotes, empty blobs.
 */
#include "operations.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* ---- random things ----------------------------------------------------------------------------------------------- */

static float random_float(program *p) {
  return (float)((int)(rng_next(&p->rng) & 0xffffff) - 0x800000) / (float)0x800000;
}

float random_eighth(program *p) { return (float)rng_between(&p->rng, -24, 24) / 8.0f; }

/* Vectors of several kinds: eighths make ties, neighbours of a row make small differences, and there are zeros of both
 * signs and denormals, because what is stored must come back bit for bit. */
void random_vector(program *p, const model_table *t, float *v) {
  int n = p->shape.dimensions, kind = rng_below(&p->rng, 10);
  const model_content *near = NULL;
  if (kind < 3 && t->n_rows) near = model_now(&t->rows[rng_below(&p->rng, t->n_rows)]);
  for (int i = 0; i < n; i++) {
    if (near)
      v[i] = near->vector[i] + (rng_chance(&p->rng, 20) ? random_float(p) * 0.1f : 0.0f);
    else if (kind < 6)
      v[i] = random_eighth(p);
    else if (kind < 7)
      v[i] = rng_chance(&p->rng, 20) ? random_float(p) : 0.0f;
    else
      v[i] = random_float(p);
  }
  if (rng_chance(&p->rng, 5)) v[rng_below(&p->rng, n)] = -0.0f;
  if (rng_chance(&p->rng, 5)) v[rng_below(&p->rng, n)] = 1e-40f;
  double norm = 0;
  for (int i = 0; i < n; i++) norm += (double)v[i] * (double)v[i];
  if (norm < 0.01 || !isfinite(norm)) v[0] = 1;
}

/* -0 has no agreed JSON form. */
bool random_json_form(program *p, const float *v, int n) {
  for (int i = 0; i < n; i++)
    if (v[i] == 0 && signbit(v[i])) return false;
  return rng_chance(&p->rng, 50);
}

static const model_row *random_row(program *p, const model_table *t, bool exists) {
  for (int tries = 0; tries < 30 && t->n_rows; tries++) {
    const model_row *row = &t->rows[rng_below(&p->rng, t->n_rows)];
    /* A row that waits for an id of SQLite's choice has none to be named by. */
    if (row->id.type != MODEL_NULL && (model_now(row) != NULL) == exists) return row;
  }
  return NULL;
}

/* An id of a row that exists (or not) if there is one; borrowed from p or t. */
const model_value *random_id(program *p, const model_table *t, bool exists) {
  const model_row *row = exists ? random_row(p, t, true) : NULL;
  if (row) return &row->id;
  const model_value *id = &p->ids[rng_below(&p->rng, p->n_ids)];
  for (int tries = 0; tries < 30 && (model_now(model_find(t, id)) != NULL) != exists; tries++)
    id = &p->ids[rng_below(&p->rng, p->n_ids)];
  return id;
}

/* The row has changed in this very statement: at a time that only the log will tell. */
bool is_pending(const model_row *row) { return row && row->n_versions && row->versions[row->n_versions - 1].seq == 0; }

/* A time to give with a change of a row whose last was at `last`, or MODEL_AUTO. */
int64_t random_time(program *p, int64_t last) {
  /* A row that has come to the present stays there: a literal of today's time could not be run again tomorrow. */
  if (!rng_chance(&p->rng, p->explicit_percent) || last > p->clock + 100000000) return MODEL_AUTO;
  p->clock += rng_below(&p->rng, 4) * 500;
  return p->clock > last ? p->clock : last;
}

static const char *const words[] = {"red", "Red", "green", "blue", "", "it's", "r\xc3\xa9", "grey"};
enum { N_WORDS = sizeof words / sizeof words[0] };

static void random_object(program *p, text *out, bool has_nulls) {
  static const char *const keys[] = {"lang", "n", "x", "ok"};
  bool is_first = true;
  text_put(out, "{");
  for (int i = 0; i < 4; i++) {
    if (!rng_chance(&p->rng, 50)) continue;
    text_put(out, "%s\"%s\":", is_first ? "" : ",", keys[i]);
    is_first = false;
    if (has_nulls && rng_chance(&p->rng, 30))
      text_put(out, "null");
    else if (i == 0)
      text_put(out, "\"%s\"", words[rng_below(&p->rng, N_WORDS)]);
    else if (i == 1)
      text_put(out, "%d", rng_between(&p->rng, -3, 9));
    else if (i == 2)
      text_put(out, "%d.%d", rng_between(&p->rng, -9, 9), rng_below(&p->rng, 4) * 25 + 1);
    else
      text_put(out, rng_chance(&p->rng, 50) ? "true" : "false");
  }
  text_put(out, "}");
}

/* A value of the column's type; the surface does not say what becomes of others. */
model_value random_value(program *p, int column, bool may_be_null) {
  const model_column *col = &p->shape.columns[column];
  if (col->kind == MODEL_JSON) {
    text json = {0};
    random_object(p, &json, false);
    model_value v = model_text(json.s);
    text_free(&json);
    return v;
  }
  if (may_be_null && col->kind != MODEL_PARTITION && rng_chance(&p->rng, 20)) return model_null();
  if (col->kind == MODEL_PARTITION) return model_integer(rng_between(&p->rng, 1, 3));
  if (strcmp(col->type, "INTEGER") == 0)
    return model_integer(rng_chance(&p->rng, 10) ? INT64_C(1) << 40 : rng_between(&p->rng, -3, 9));
  if (strcmp(col->type, "REAL") == 0) return model_real(rng_between(&p->rng, -12, 40) / 4.0);
  if (strcmp(col->type, "BOOLEAN") == 0) return model_integer(rng_below(&p->rng, 2));
  if (strcmp(col->type, "BLOB") == 0) {
    unsigned char bytes[3] = {0, (unsigned char)rng_below(&p->rng, 3), 0xff};
    return model_bytes(MODEL_BLOB, bytes, (size_t)rng_below(&p->rng, 4));
  }
  return model_text(words[rng_below(&p->rng, N_WORDS)]);
}

/* New values for some columns. */
model_patch random_patch(program *p, int percent, bool has_partition) {
  model_patch patch = {0};
  for (int i = 0; i < p->shape.n_columns; i++) {
    if (p->shape.columns[i].kind == MODEL_PARTITION && !has_partition) continue;
    if (!rng_chance(&p->rng, percent)) continue;
    patch.is_set[i] = true;
    patch.values[i] = random_value(p, i, true);
  }
  return patch;
}

bool sets(const program *p, const model_patch *patch, model_column_kind kind) {
  for (int i = 0; i < p->shape.n_columns; i++)
    if (patch->is_set[i] && p->shape.columns[i].kind == kind) return true;
  return false;
}

model_operation random_kind(program *p) {
  static const model_operation kinds[] = {MODEL_SPARSE, MODEL_SPARSE, MODEL_SPARSE,
                                          MODEL_DENSE,  MODEL_SCALE,  MODEL_OFFSET};
  return kinds[rng_below(&p->rng, 6)];
}

void random_delta(program *p, const model_table *t, const model_content *old, model_operation kind, delta_space *out) {
  int dimensions = p->shape.dimensions;
  out->d = (model_delta){.operation = kind, .index = out->index, .values = out->values};
  switch (kind) {
  case MODEL_CREATE:
  case MODEL_DENSE:
    out->d.n = dimensions;
    random_vector(p, t, out->values);
    break;
  case MODEL_SPARSE: {
    /* Mostly few dimensions; each index once, ascending. */
    int percent = rng_chance(&p->rng, 80) ? 10 : 70;
    for (int i = 0; i < dimensions; i++) {
      if (!rng_chance(&p->rng, percent) && !(i == dimensions - 1 && out->d.n == 0)) continue;
      out->index[out->d.n] = i;
      out->values[out->d.n++] = MODEL_SPARSE_TAKES_BLOB && rng_chance(&p->rng, 5) ? -0.0f : random_eighth(p);
    }
    break;
  }
  case MODEL_SCALE: {
    /* Chains of scales must neither overflow nor vanish. */
    static const float shrink[] = {0.5f, 0.9f, -0.75f}, stretch[] = {1.1f, 2.0f, -1.0f, 1.25f};
    float largest = 0;
    for (int i = 0; old && i < dimensions; i++) largest = fmaxf(largest, fabsf(old->vector[i]));
    bool shrinks = largest > 100 || (largest > 0.1f && rng_chance(&p->rng, 50));
    out->d.amount = shrinks ? shrink[rng_below(&p->rng, 3)] : stretch[rng_below(&p->rng, 4)];
    break;
  }
  default: out->d.amount = rng_chance(&p->rng, 50) ? random_eighth(p) : random_float(p);
  }
}

void put_delta(program *p, statement *s, const model_delta *d) {
  switch (d->operation) {
  case MODEL_CREATE:
  case MODEL_DENSE:
    put(s, d->operation == MODEL_CREATE ? "delta_create(" : "delta_dense(");
    put_vector(s, d->values, d->n, random_json_form(p, d->values, d->n));
    break;
  case MODEL_SPARSE: {
    text indices = {0};
    text_put(&indices, "[");
    for (int i = 0; i < d->n; i++) text_put(&indices, "%s%d", i ? "," : "", d->index[i]);
    text_put(&indices, "]");
    put(s, "delta_sparse(");
    put_text(s, indices.s);
    put(s, ", ");
    put_vector(s, d->values, d->n, !MODEL_SPARSE_TAKES_BLOB || random_json_form(p, d->values, d->n));
    text_free(&indices);
    break;
  }
  case MODEL_SCALE:
  case MODEL_OFFSET:
    put(s, d->operation == MODEL_SCALE ? "delta_scale(" : "delta_offset(");
    put_float(s, d->amount);
    break;
  default: put(s, "delta_delete(");
  }
  put(s, ")");
}

/* The fifth argument of delta_apply: a merge patch of the JSON column, or an object of columns. */
void put_patch(program *p, statement *s, const model_patch *patch) {
  if (p->is_short_form) {
    put_value(s, &patch->values[0]);
    return;
  }
  text json = {0};
  text_put(&json, "{");
  for (int i = 0; i < p->shape.n_columns; i++) {
    const model_value *v = &patch->values[i];
    if (!patch->is_set[i]) continue;
    text_put(&json, "%s\"%s\":", json.n > 1 ? "," : "", p->shape.columns[i].name);
    bool is_boolean = strcmp(p->shape.columns[i].type, "BOOLEAN") == 0 && v->type == MODEL_INTEGER;
    if (v->type == MODEL_NULL)
      text_put(&json, "null");
    else if (is_boolean && rng_chance(&p->rng, 50))
      text_put(&json, v->integer ? "true" : "false");
    else if (v->type == MODEL_INTEGER)
      text_put(&json, "%lld", (long long)v->integer);
    else if (v->type == MODEL_REAL)
      text_put(&json, "%.2f", v->real);
    else
      text_put(&json, "\"%s\"", v->bytes);
  }
  text_put(&json, "}");
  put_text(s, json.s);
  text_free(&json);
}

/* A patch that put_patch can write. */
model_patch random_merge(program *p) {
  model_patch patch = {.is_merge = true};
  if (p->is_short_form) {
    text json = {0};
    random_object(p, &json, true);
    patch.is_set[0] = true;
    patch.values[0] = model_text(json.s);
    text_free(&json);
    return patch;
  }
  patch = random_patch(p, 40, rng_chance(&p->rng, 10));
  patch.is_merge = true;
  for (int i = 0; i < p->shape.n_columns; i++)
    if (patch.values[i].type == MODEL_BLOB) model_value_free(&patch.values[i]); /* JSON has no blobs: NULL */
  return patch;
}

/* ---- filters ----------------------------------------------------------------------------------------------------- */

static model_term random_term(program *p, const model_table *t, bool has_auxiliary) {
  model_term term = {.column = MODEL_ID_COLUMN};
  const char *type = p->shape.is_integer_id ? "INTEGER" : "TEXT";
  if (!rng_chance(&p->rng, 25) && p->shape.n_columns) {
    int column = rng_below(&p->rng, p->shape.n_columns);
    if (has_auxiliary || p->shape.columns[column].kind != MODEL_AUXILIARY) {
      term.column = column;
      type = p->shape.columns[column].type;
    }
  }
  bool is_json = term.column >= 0 && p->shape.columns[term.column].kind == MODEL_JSON;
  if (is_json) {
    snprintf(term.key, sizeof term.key, "%s", rng_chance(&p->rng, 50) ? "lang" : "n");
    type = term.key[0] == 'l' ? "TEXT" : "INTEGER";
  }
  int roll = rng_below(&p->rng, 12);
  if (roll == 0 && term.column >= 0) {
    term.comparison = MODEL_IS_NULL;
  } else if (roll == 1 && term.column >= 0) {
    term.comparison = MODEL_NOT_NULL;
  } else if (roll < 4 && strcmp(type, "TEXT") == 0) {
    term.comparison = roll == 2 ? MODEL_LIKE : MODEL_GLOB;
  } else if (roll < 6) {
    term.comparison = MODEL_IN;
  } else if (roll < 7) {
    term.comparison = MODEL_BETWEEN;
  } else {
    term.comparison = (model_comparison)rng_between(&p->rng, MODEL_EQ, MODEL_GE);
  }
  bool is_prefix = term.comparison == MODEL_LIKE || term.comparison == MODEL_GLOB;
  if (term.comparison != MODEL_IS_NULL && term.comparison != MODEL_NOT_NULL)
    term.n_operands = term.comparison == MODEL_IN        ? rng_between(&p->rng, 1, 5)
                      : term.comparison == MODEL_BETWEEN ? 2
                                                         : 1;
  for (int i = 0; i < term.n_operands; i++) {
    if (is_prefix)
      term.operands[i] = model_text(rng_chance(&p->rng, 50) ? "r" : "gre");
    else if (term.column == MODEL_ID_COLUMN)
      term.operands[i] = model_value_copy(random_id(p, t, rng_chance(&p->rng, 80)));
    else if (is_json && type[0] == 'T')
      term.operands[i] = model_text(words[rng_below(&p->rng, N_WORDS)]);
    else if (is_json)
      term.operands[i] = model_integer(rng_between(&p->rng, -3, 9));
    else
      term.operands[i] = random_value(p, term.column, false);
  }
  return term;
}

/* Often one of a few that belong to the program, since a filter that was asked before may be remembered. */
model_filter random_filter(program *p, const model_table *t, bool has_auxiliary) {
  bool is_usual = rng_chance(&p->rng, 40);
  rng saved = p->rng;
  if (is_usual) p->rng = (rng){mix(p->seed, 1000 + (uint64_t)rng_below(&saved, 3))};
  model_filter f = {.n_terms = rng_chance(&p->rng, 70) ? 1 : 2};
  for (int i = 0; i < f.n_terms; i++) f.terms[i] = random_term(p, t, has_auxiliary);
  if (is_usual) p->rng = saved;
  return f;
}

/* is_hidden: written so that SQLite cannot hand it to the table ("+column" is an expression, not a column). */
static void put_term(program *p, statement *s, const model_term *term, bool is_hidden) {
  static const char *const operators[] = {"=", "<>", "<", "<=", ">", ">="};
  const char *name = term->column == MODEL_ID_COLUMN ? "id" : p->shape.columns[term->column].name;
  if (term->key[0])
    put(s, "json_extract(%s, '$.%s')", name, term->key);
  else
    put(s, "%s%s", is_hidden ? "+" : "", name);
  switch (term->comparison) {
  case MODEL_IS_NULL: put(s, " IS NULL"); break;
  case MODEL_NOT_NULL: put(s, " IS NOT NULL"); break;
  case MODEL_BETWEEN:
    put(s, " BETWEEN ");
    put_value(s, &term->operands[0]);
    put(s, " AND ");
    put_value(s, &term->operands[1]);
    break;
  case MODEL_IN: {
    bool is_select = rng_chance(&p->rng, 30);
    put(s, is_select ? " IN (SELECT column1 FROM (VALUES" : " IN (");
    for (int i = 0; i < term->n_operands; i++) {
      put(s, i ? ", " : "");
      if (is_select) put(s, "(");
      put_value(s, &term->operands[i]);
      if (is_select) put(s, ")");
    }
    put(s, is_select ? "))" : ")");
    break;
  }
  case MODEL_LIKE:
  case MODEL_GLOB: {
    char pattern[16];
    bool is_like = term->comparison == MODEL_LIKE;
    snprintf(pattern, sizeof pattern, "%s%c", term->operands[0].bytes, is_like ? '%' : '*');
    put(s, is_like ? " LIKE " : " GLOB ");
    put_text(s, pattern);
    break;
  }
  default: put(s, " %s ", operators[term->comparison]); put_value(s, &term->operands[0]);
  }
}

void put_filter(program *p, statement *s, const model_filter *f, bool is_hidden) {
  if (f->is_or) put(s, "(");
  for (int i = 0; i < f->n_terms; i++) {
    if (i) put(s, f->is_or ? " OR " : " AND ");
    put_term(p, s, &f->terms[i], is_hidden);
  }
  if (f->is_or) put(s, ")");
}
