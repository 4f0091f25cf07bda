/*
 * model.c: the naive model (see model.h), written to be obviously right rather than fast.
 *
 * Vector arithmetic is plain f32, one rounding an operation: compile with -ffp-contract=off, or a compiler may fuse a
 * multiplication with an addition. Distances are computed in double.
 */
#include "model.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void *allocate(size_t n) {
  void *p = calloc(1, n ? n : 1);
  if (!p) {
    fputs("model: out of memory\n", stderr);
    abort();
  }
  return p;
}

static void *resize(void *old, size_t n) {
  void *p = realloc(old, n);
  if (!p) {
    fputs("model: out of memory\n", stderr);
    abort();
  }
  return p;
}

/* ---- values ------------------------------------------------------------------------------------------------------ */

model_value model_null(void) { return (model_value){.type = MODEL_NULL}; }
model_value model_integer(int64_t i) { return (model_value){.type = MODEL_INTEGER, .integer = i}; }
model_value model_real(double r) { return (model_value){.type = MODEL_REAL, .real = r}; }
model_value model_text(const char *text) { return model_bytes(MODEL_TEXT, text, strlen(text)); }

model_value model_bytes(model_type type, const void *bytes, size_t n) {
  model_value v = {.type = type, .n_bytes = n, .bytes = allocate(n + 1)};
  if (n) memcpy(v.bytes, bytes, n);
  return v;
}

model_value model_value_copy(const model_value *v) {
  if (v->type == MODEL_TEXT || v->type == MODEL_BLOB) return model_bytes(v->type, v->bytes, v->n_bytes);
  return *v;
}

void model_value_free(model_value *v) {
  free(v->bytes);
  *v = model_null();
}

bool model_value_equal(const model_value *a, const model_value *b) {
  if (a->type != b->type) return false;
  switch (a->type) {
  case MODEL_NULL: return true;
  case MODEL_INTEGER: return a->integer == b->integer;
  case MODEL_REAL: return memcmp(&a->real, &b->real, sizeof a->real) == 0;
  default: return a->n_bytes == b->n_bytes && memcmp(a->bytes, b->bytes, a->n_bytes) == 0;
  }
}

void model_value_print(const model_value *v, char *out, size_t size) {
  switch (v->type) {
  case MODEL_NULL: snprintf(out, size, "NULL"); break;
  case MODEL_INTEGER: snprintf(out, size, "%lld", (long long)v->integer); break;
  case MODEL_REAL: snprintf(out, size, "%.17g", v->real); break;
  case MODEL_TEXT: snprintf(out, size, "'%s'", v->bytes); break;
  default: {
    size_t at = (size_t)snprintf(out, size, "x'");
    for (size_t i = 0; i < v->n_bytes && at + 4 < size; i++)
      at += (size_t)snprintf(out + at, size - at, "%02x", (unsigned)(unsigned char)v->bytes[i]);
    if (at + 2 < size) snprintf(out + at, size - at, "'");
  }
  }
}

/* SQLite's order of values: NULL, numbers, text, blobs. */
static int compare_values(const model_value *a, const model_value *b) {
  bool a_number = a->type == MODEL_INTEGER || a->type == MODEL_REAL;
  bool b_number = b->type == MODEL_INTEGER || b->type == MODEL_REAL;
  if (a_number && b_number) {
    if (a->type == MODEL_INTEGER && b->type == MODEL_INTEGER)
      return (a->integer > b->integer) - (a->integer < b->integer);
    double x = a->type == MODEL_INTEGER ? (double)a->integer : a->real;
    double y = b->type == MODEL_INTEGER ? (double)b->integer : b->real;
    return (x > y) - (x < y);
  }
  if (a->type != b->type) return a->type < b->type ? -1 : 1;
  size_t n = a->n_bytes < b->n_bytes ? a->n_bytes : b->n_bytes;
  int order = n ? memcmp(a->bytes, b->bytes, n) : 0;
  if (order) return order;
  return (a->n_bytes > b->n_bytes) - (a->n_bytes < b->n_bytes);
}

/* ---- flat JSON objects ------------------------------------------------------------------------------------------- */

enum { MAX_MEMBERS = 32 };

typedef struct member {
  char key[64];
  char value[128]; /* a string with its quotes, a number in one spelling, true, false or null */
} member;

typedef struct object {
  member members[MAX_MEMBERS];
  int n;
} object;

static const char *skip_space(const char *s) {
  while (*s == ' ' || *s == '\t' || *s == '\n' || *s == '\r') s++;
  return s;
}

/* Copies a JSON string with its quotes; escapes stay as they are written (the test uses none). */
static const char *read_string(const char *s, char *out, size_t size) {
  size_t n = 0;
  if (*s != '"') return NULL;
  do {
    if (*s == '\\' || n + 3 > size) return NULL;
    out[n++] = *s++;
  } while (*s && *s != '"');
  if (*s != '"') return NULL;
  out[n++] = *s++;
  out[n] = 0;
  return s;
}

static const char *read_scalar(const char *s, char *out, size_t size) {
  static const char *const words[] = {"true", "false", "null"};
  if (*s == '"') return read_string(s, out, size);
  for (int i = 0; i < 3; i++) {
    size_t n = strlen(words[i]);
    if (strncmp(s, words[i], n) == 0) {
      snprintf(out, size, "%s", words[i]);
      return s + n;
    }
  }
  char *end;
  double number = strtod(s, &end);
  if (end == s) return NULL;
  /* An integer and a real of the same value are different values: json_extract tells them apart. */
  bool is_integer = strcspn(s, ".eE") >= (size_t)(end - s);
  snprintf(out, size, is_integer ? "%.0f" : "%.17g", number);
  if (!is_integer && !strpbrk(out, ".e")) snprintf(out, size, "%.1f", number);
  return end;
}

static void set_member(object *o, const char *key, const char *value) {
  int at = 0;
  while (at < o->n && strcmp(o->members[at].key, key) < 0) at++;
  if (at == o->n || strcmp(o->members[at].key, key) != 0) {
    if (o->n == MAX_MEMBERS) abort();
    memmove(&o->members[at + 1], &o->members[at], (size_t)(o->n - at) * sizeof o->members[0]);
    o->n++;
    snprintf(o->members[at].key, sizeof o->members[at].key, "%s", key);
  }
  snprintf(o->members[at].value, sizeof o->members[at].value, "%s", value);
}

static void drop_member(object *o, const char *key) {
  for (int i = 0; i < o->n; i++) {
    if (strcmp(o->members[i].key, key) != 0) continue;
    memmove(&o->members[i], &o->members[i + 1], (size_t)(o->n - i - 1) * sizeof o->members[0]);
    o->n--;
    return;
  }
}

static bool parse_object(const char *s, object *o) {
  o->n = 0;
  if (!s) return true;
  s = skip_space(s);
  if (*s++ != '{') return false;
  s = skip_space(s);
  if (*s == '}') return *skip_space(s + 1) == 0;
  for (;;) {
    char key[64], value[128];
    if (!(s = read_string(skip_space(s), key, sizeof key))) return false;
    s = skip_space(s);
    if (*s++ != ':') return false;
    if (!(s = read_scalar(skip_space(s), value, sizeof value)) || o->n == MAX_MEMBERS) return false;
    set_member(o, key, value);
    s = skip_space(s);
    if (*s == '}') return *skip_space(s + 1) == 0;
    if (*s++ != ',') return false;
  }
}

static char *write_object(const object *o) {
  char *out = allocate((size_t)o->n * sizeof(member) + 8);
  char *at = out;
  *at++ = '{';
  for (int i = 0; i < o->n; i++) at += sprintf(at, "%s%s:%s", i ? "," : "", o->members[i].key, o->members[i].value);
  *at++ = '}';
  return out;
}

char *model_json_canonical(const char *text) {
  object o;
  return parse_object(text, &o) ? write_object(&o) : NULL;
}

char *model_json_merge(const char *target, const char *patch) {
  object o, p;
  if (!parse_object(target, &o) || !parse_object(patch, &p)) return NULL;
  for (int i = 0; i < p.n; i++) {
    if (strcmp(p.members[i].value, "null") == 0)
      drop_member(&o, p.members[i].key);
    else
      set_member(&o, p.members[i].key, p.members[i].value);
  }
  return write_object(&o);
}

model_value model_json_get(const char *text, const char *key) {
  object o;
  char quoted[70];
  snprintf(quoted, sizeof quoted, "\"%s\"", key);
  if (!parse_object(text, &o)) return model_null();
  for (int i = 0; i < o.n; i++) {
    const char *value = o.members[i].value;
    if (strcmp(o.members[i].key, quoted) != 0) continue;
    if (value[0] == '"') return model_bytes(MODEL_TEXT, value + 1, strlen(value) - 2);
    if (strcmp(value, "null") == 0) return model_null();
    if (strcmp(value, "true") == 0) return model_integer(1);
    if (strcmp(value, "false") == 0) return model_integer(0);
    if (strpbrk(value, ".e")) return model_real(strtod(value, NULL));
    return model_integer(strtoll(value, NULL, 10));
  }
  return model_null();
}

/* ---- contents ---------------------------------------------------------------------------------------------------- */

static model_content *content_new(const model_shape *shape, bool exists) {
  model_content *c = allocate(sizeof *c);
  c->references = 1;
  c->exists = exists;
  if (exists) {
    c->vector = allocate((size_t)shape->dimensions * sizeof(float));
    c->n_values = shape->n_columns;
  }
  return c;
}

static void content_free(model_content *c) {
  if (--c->references > 0) return;
  for (int i = 0; i < c->n_values; i++) model_value_free(&c->values[i]);
  free(c->vector);
  free(c);
}

/* A copy to be changed: from NULL, a row that did not exist, of zeros and NULLs. */
static model_content *content_from(const model_shape *shape, const model_content *old) {
  model_content *c = content_new(shape, true);
  if (old && old->exists) {
    memcpy(c->vector, old->vector, (size_t)shape->dimensions * sizeof(float));
    for (int i = 0; i < shape->n_columns; i++) c->values[i] = model_value_copy(&old->values[i]);
  }
  return c;
}

/* ---- tables ------------------------------------------------------------------------------------------------------ */

model_table *model_new(const model_shape *shape, const char *name) {
  model_table *t = allocate(sizeof *t);
  t->shape = shape;
  snprintf(t->name, sizeof t->name, "%s", name);
  return t;
}

model_table *model_copy(const model_table *t) {
  model_table *copy = allocate(sizeof *copy);
  *copy = *t;
  copy->capacity = t->n_rows;
  copy->rows = allocate((size_t)t->n_rows * sizeof *t->rows);
  for (int i = 0; i < t->n_rows; i++) {
    const model_row *from = &t->rows[i];
    model_row *to = &copy->rows[i];
    *to = *from;
    to->id = model_value_copy(&from->id);
    to->capacity = from->n_versions;
    to->versions = allocate((size_t)from->n_versions * sizeof *from->versions);
    for (int j = 0; j < from->n_versions; j++) {
      to->versions[j] = from->versions[j];
      to->versions[j].content->references++;
    }
  }
  return copy;
}

void model_free(model_table *t) {
  if (!t) return;
  for (int i = 0; i < t->n_rows; i++) {
    model_row *row = &t->rows[i];
    for (int j = 0; j < row->n_versions; j++) content_free(row->versions[j].content);
    free(row->versions);
    model_value_free(&row->id);
  }
  free(t->rows);
  free(t);
}

model_row *model_find(const model_table *t, const model_value *id) {
  for (int i = 0; i < t->n_rows; i++)
    if (model_value_equal(&t->rows[i].id, id)) return &t->rows[i];
  return NULL;
}

static model_row *find_or_add(model_table *t, const model_value *id) {
  /* A NULL id asks for a number of SQLite's choice: always a row of its own until settled. */
  model_row *row = id->type == MODEL_NULL ? NULL : model_find(t, id);
  if (row) return row;
  if (t->n_rows == t->capacity) {
    t->capacity = t->capacity * 2 + 8;
    t->rows = resize(t->rows, (size_t)t->capacity * sizeof *t->rows);
  }
  row = &t->rows[t->n_rows++];
  *row = (model_row){.id = model_value_copy(id), .horizon = INT64_MIN};
  return row;
}

int64_t model_last_time(const model_row *row) {
  if (!row || row->n_versions == 0) return row ? row->horizon : INT64_MIN;
  return row->versions[row->n_versions - 1].time;
}

const model_content *model_now(const model_row *row) {
  bool is_unknown;
  return model_at(row, MODEL_NOW, &is_unknown);
}

const model_content *model_at(const model_row *row, int64_t time, bool *is_unknown) {
  *is_unknown = false;
  if (!row) return NULL;
  if (time != MODEL_NOW && time < row->horizon) {
    *is_unknown = true;
    return NULL;
  }
  for (int i = row->n_versions - 1; i >= 0; i--) {
    const model_version *v = &row->versions[i];
    if (time == MODEL_NOW || v->time <= time) return v->content->exists ? v->content : NULL;
  }
  return NULL;
}

int model_count(const model_table *t) {
  int n = 0;
  for (int i = 0; i < t->n_rows; i++) n += model_now(&t->rows[i]) != NULL;
  return n;
}

/* ---- changes ----------------------------------------------------------------------------------------------------- */

#define BIT(operation) (1u << (operation))
/* What an UPDATE may be stored as: whatever is smallest, but the row was there and stays. */
#define ANY_CHANGE (BIT(MODEL_SPARSE) | BIT(MODEL_DENSE) | BIT(MODEL_SCALE) | BIT(MODEL_OFFSET) | BIT(MODEL_OTHER))

model_operation model_operation_named(const char *name) {
  static const char *const names[] = {"create", "sparse", "dense", "scale", "offset", "delete"};
  for (int i = 0; i < 6; i++)
    if (strcmp(name, names[i]) == 0) return (model_operation)i;
  return MODEL_OTHER;
}

void model_patch_free(model_patch *patch) {
  for (int i = 0; i < MODEL_MAX_COLUMNS; i++) model_value_free(&patch->values[i]);
}

static model_version *append(model_row *row, model_content *content, unsigned allowed, int64_t time) {
  if (row->n_versions == row->capacity) {
    row->capacity = row->capacity * 2 + 4;
    row->versions = resize(row->versions, (size_t)row->capacity * sizeof *row->versions);
  }
  model_version *v = &row->versions[row->n_versions++];
  *v = (model_version){.time = time, .allowed = allowed, .content = content};
  return v;
}

static const char *check_vector(const model_shape *shape, const float *vector, int n) {
  if (n != shape->dimensions) return "wrong length";
  for (int i = 0; i < n; i++)
    if (!isfinite(vector[i])) return "not a finite number";
  return NULL;
}

static const char *check_time(const model_row *row, int64_t time) {
  if (time == MODEL_AUTO) return NULL;
  return time < model_last_time(row) ? "older than the row's last change" : NULL;
}

static const char *apply_patch(const model_shape *shape, model_content *content, const model_patch *patch) {
  if (!patch) return NULL;
  for (int i = 0; i < shape->n_columns; i++) {
    if (!patch->is_set[i]) continue;
    model_value value = model_value_copy(&patch->values[i]);
    if (shape->columns[i].kind == MODEL_JSON) {
      const char *old = patch->is_merge ? content->values[i].bytes : NULL;
      char *json = patch->is_merge ? model_json_merge(old, value.bytes) : model_json_canonical(value.bytes);
      model_value_free(&value);
      if (!json) return "not a JSON object";
      value = model_text(json);
      free(json);
    }
    model_value_free(&content->values[i]);
    content->values[i] = value;
  }
  return NULL;
}

/* Finishes a change: the new content becomes the row's pending last version. */
static const char *finish(model_table *t, model_row *row, model_content *content, const model_patch *patch,
                          unsigned allowed, int64_t time) {
  const char *why = check_time(row, time);
  if (!why && content->exists) why = apply_patch(t->shape, content, patch);
  if (why) {
    content_free(content);
    return why;
  }
  append(row, content, allowed, time);
  return NULL;
}

const char *model_create(model_table *t, const model_value *id, const float *vector, int n, const model_patch *patch,
                         int64_t time) {
  const char *why = check_vector(t->shape, vector, n);
  if (why) return why;
  model_row *row = find_or_add(t, id);
  if (model_now(row)) return "the id exists";
  if (t->shape->max_rows && model_count(t) >= t->shape->max_rows) return "max_vectors reached";
  model_content *content = content_from(t->shape, NULL);
  memcpy(content->vector, vector, (size_t)n * sizeof(float));
  return finish(t, row, content, patch, BIT(MODEL_CREATE), time);
}

const char *model_replace(model_table *t, const model_value *id, const float *vector, int n, const model_patch *patch,
                          int64_t time) {
  model_row *row = id->type == MODEL_NULL ? NULL : model_find(t, id);
  if (!model_now(row)) return model_create(t, id, vector, n, patch, time);
  const char *why = check_vector(t->shape, vector, n);
  if (why) return why;
  /* A new row takes the place of the old one: columns that were not given are NULL. */
  model_content *content = content_from(t->shape, NULL);
  memcpy(content->vector, vector, (size_t)n * sizeof(float));
  why = finish(t, row, content, patch, ANY_CHANGE | BIT(MODEL_CREATE), time);
  if (!why) row->versions[row->n_versions - 1].may_delete_first = MODEL_REPLACE_MAY_BE_TWO;
  return why;
}

const char *model_update(model_table *t, const model_value *id, const float *vector, int n, const model_patch *patch,
                         int64_t time) {
  model_row *row = model_find(t, id);
  const model_content *old = model_now(row);
  if (!old) return "the id does not exist";
  const char *why = vector ? check_vector(t->shape, vector, n) : NULL;
  if (why) return why;
  model_content *content = content_from(t->shape, old);
  if (vector) memcpy(content->vector, vector, (size_t)n * sizeof(float));
  why = finish(t, row, content, patch, ANY_CHANGE, time);
  if (!why && !vector) row->versions[row->n_versions - 1].is_optional = !MODEL_METADATA_MAKES_VERSION;
  return why;
}

/* Applies a delta of the kinds that need a vector before them. */
static const char *change_vector(int dimensions, float *vector, const model_delta *d) {
  switch (d->operation) {
  case MODEL_SPARSE:
    for (int i = 0; i < d->n; i++) {
      if (d->index[i] < 0 || d->index[i] >= dimensions) return "index out of range";
      for (int j = 0; j < i; j++)
        if (d->index[i] == d->index[j]) return "index given twice";
      vector[d->index[i]] = d->values[i];
    }
    break;
  case MODEL_DENSE:
    if (d->n != dimensions) return "wrong length";
    memcpy(vector, d->values, (size_t)dimensions * sizeof(float));
    break;
  case MODEL_SCALE:
    for (int i = 0; i < dimensions; i++) vector[i] = vector[i] * d->amount;
    break;
  case MODEL_OFFSET:
    for (int i = 0; i < dimensions; i++) vector[i] = vector[i] + d->amount;
    break;
  default: return "not a change of a vector";
  }
  return check_vector(&(model_shape){.dimensions = dimensions}, vector, dimensions);
}

const char *model_apply(model_table *t, const model_value *id, const model_delta *delta, const model_patch *patch,
                        int64_t time) {
  if (delta->operation == MODEL_CREATE) return model_create(t, id, delta->values, delta->n, patch, time);
  model_row *row = model_find(t, id);
  const model_content *old = model_now(row);
  if (!old) return "the id does not exist";
  if (delta->operation == MODEL_DELETE)
    return finish(t, row, content_new(t->shape, false), NULL, BIT(MODEL_DELETE), time);
  model_content *content = content_from(t->shape, old);
  const char *why = change_vector(t->shape->dimensions, content->vector, delta);
  if (why) {
    content_free(content);
    return why;
  }
  /* The writer picks the smallest exact form, so sparse and dense may stand for each other. */
  unsigned allowed = BIT(delta->operation);
  if (delta->operation == MODEL_SPARSE || delta->operation == MODEL_DENSE)
    allowed = BIT(MODEL_SPARSE) | BIT(MODEL_DENSE) | BIT(MODEL_OTHER);
  return finish(t, row, content, patch, allowed, time);
}

const char *model_rollback(model_table *t, const model_value *id, int64_t seq, bool has_metadata) {
  model_row *row = model_find(t, id);
  const model_content *old = model_now(row), *then = NULL;
  for (int i = 0; row && i < row->n_versions; i++)
    if (row->versions[i].seq == seq) then = row->versions[i].content;
  if (!then) return "no such version";
  if (!then->exists)
    return finish(t, row, content_new(t->shape, false), NULL, ANY_CHANGE | BIT(MODEL_DELETE), MODEL_AUTO);
  model_content *content = content_from(t->shape, has_metadata ? then : old);
  memcpy(content->vector, then->vector, (size_t)t->shape->dimensions * sizeof(float));
  return finish(t, row, content, NULL, old ? ANY_CHANGE : BIT(MODEL_CREATE), MODEL_AUTO);
}

/* ---- settling ---------------------------------------------------------------------------------------------------- */

static model_version *first_pending(model_row *row) {
  for (int i = 0; row && i < row->n_versions; i++)
    if (row->versions[i].seq == 0) return &row->versions[i];
  return NULL;
}

/* An entry for an id that no pending version has may be the id chosen for a row inserted with NULL. */
static model_row *adopt_automatic_id(model_table *t, const model_value *id) {
  model_row *unnamed = NULL;
  for (int i = 0; i < t->n_rows && !unnamed; i++)
    if (t->rows[i].id.type == MODEL_NULL) unnamed = &t->rows[i];
  model_row *row = model_find(t, id);
  if (!unnamed || model_now(row)) return NULL;
  if (!row) {
    unnamed->id = model_value_copy(id);
    return unnamed;
  }
  /* The number of a deleted row was given again: the row's chain goes on. If nothing was left of it, nobody can know
   * that it once changed at a later time. */
  if (row->n_versions == 0 && unnamed->versions[0].time != MODEL_AUTO && unnamed->versions[0].time < row->horizon)
    row->horizon = unnamed->versions[0].time;
  append(row, unnamed->versions[0].content, unnamed->versions[0].allowed, unnamed->versions[0].time);
  free(unnamed->versions);
  int at = (int)(unnamed - t->rows);
  bool is_behind = row > unnamed;
  memmove(unnamed, unnamed + 1, (size_t)(t->n_rows - at - 1) * sizeof *unnamed);
  t->n_rows--;
  return is_behind ? row - 1 : row;
}

static bool settle_one(model_table *t, const model_entry *e, int64_t now, char *why, size_t size) {
  char id[64];
  model_value_print(&e->id, id, sizeof id);
  if (e->seq <= t->last_seq)
    return snprintf(why, size, "log: seq %lld after %lld", (long long)e->seq, (long long)t->last_seq), false;
  model_row *row = model_find(t, &e->id);
  model_version *v = first_pending(row);
  if (!v && (row = adopt_automatic_id(t, &e->id))) v = first_pending(row);
  if (!v)
    return snprintf(why, size, "log: seq %lld changes id %s, which nothing changed", (long long)e->seq, id), false;
  int64_t before = v == row->versions ? row->horizon : v[-1].time;
  bool is_extra_delete = v->may_delete_first && e->operation == MODEL_DELETE;
  if (e->operation == MODEL_DELETE && !is_extra_delete && !(v->allowed & BIT(MODEL_DELETE)))
    return snprintf(why, size, "log: seq %lld of id %s is a delete", (long long)e->seq, id), false;
  if (!is_extra_delete && !(v->allowed & BIT(e->operation)))
    return snprintf(why, size, "log: seq %lld of id %s has operation %d, not one of 0x%x", (long long)e->seq, id,
                    (int)e->operation, v->allowed),
           false;
  if (e->time < before)
    return snprintf(why, size, "log: seq %lld of id %s has time %lld, the row had %lld before", (long long)e->seq, id,
                    (long long)e->time, (long long)before),
           false;
  if (v->time != MODEL_AUTO ? e->time != v->time && !is_extra_delete
                            : e->time != before && (e->time < now - 3600000 || e->time > now + 10000))
    return snprintf(why, size, "log: seq %lld of id %s has time %lld, expected %lld", (long long)e->seq, id,
                    (long long)e->time, (long long)(v->time != MODEL_AUTO ? v->time : now)),
           false;
  t->last_seq = e->seq;
  if (is_extra_delete) {
    v->may_delete_first = false;
    v->allowed = BIT(MODEL_CREATE);
    int at = (int)(v - row->versions);
    append(row, content_new(t->shape, false), 0, e->time);
    model_version deleted = row->versions[row->n_versions - 1];
    memmove(&row->versions[at + 1], &row->versions[at], (size_t)(row->n_versions - at - 1) * sizeof deleted);
    row->versions[at] = deleted;
    v = &row->versions[at];
  }
  v->seq = e->seq;
  v->time = e->time;
  v->operation = e->operation;
  return true;
}

bool model_settle(model_table *t, const model_entry *entries, int n, int64_t now, char *why, size_t size) {
  for (int i = 0; i < n; i++)
    if (!settle_one(t, &entries[i], now, why, size)) return false;
  for (int i = 0; i < t->n_rows; i++) {
    model_row *row = &t->rows[i];
    model_version *v;
    while ((v = first_pending(row)) != NULL) {
      int at = (int)(v - row->versions);
      if (!v->is_optional || at == 0) {
        char id[64];
        model_value_print(&row->id, id, sizeof id);
        return snprintf(why, size, "log: the change of id %s is missing", id), false;
      }
      /* No version was made of it: the new metadata belongs to the version before. */
      content_free(v[-1].content);
      v[-1].content = v->content;
      memmove(v, v + 1, (size_t)(row->n_versions - at - 1) * sizeof *v);
      row->n_versions--;
    }
  }
  return true;
}

void model_forget(model_row *row, int n) {
  int dropped = row->n_versions - n;
  if (dropped <= 0) return;
  int64_t last_dropped = row->versions[dropped - 1].time;
  for (int i = 0; i < dropped; i++) content_free(row->versions[i].content);
  memmove(row->versions, row->versions + dropped, (size_t)n * sizeof *row->versions);
  row->n_versions = n;
  row->horizon = n ? row->versions[0].time : last_dropped;
}

/* ---- filters ----------------------------------------------------------------------------------------------------- */

static bool has_prefix(const model_value *v, const model_value *prefix, bool any_case) {
  if (v->type != MODEL_TEXT || v->n_bytes < prefix->n_bytes) return false;
  for (size_t i = 0; i < prefix->n_bytes; i++) {
    int a = (unsigned char)v->bytes[i], b = (unsigned char)prefix->bytes[i];
    if (any_case && a >= 'A' && a <= 'Z') a += 'a' - 'A';
    if (any_case && b >= 'A' && b <= 'Z') b += 'a' - 'A';
    if (a != b) return false;
  }
  return true;
}

static bool passes_term(const model_term *t, const model_value *v) {
  if (t->comparison == MODEL_IS_NULL) return v->type == MODEL_NULL;
  if (v->type == MODEL_NULL) return false;
  const model_value *a = t->operands;
  switch (t->comparison) {
  case MODEL_EQ: return compare_values(v, a) == 0;
  case MODEL_NE: return compare_values(v, a) != 0;
  case MODEL_LT: return compare_values(v, a) < 0;
  case MODEL_LE: return compare_values(v, a) <= 0;
  case MODEL_GT: return compare_values(v, a) > 0;
  case MODEL_GE: return compare_values(v, a) >= 0;
  case MODEL_BETWEEN: return compare_values(v, a) >= 0 && compare_values(v, a + 1) <= 0;
  case MODEL_IN:
    for (int i = 0; i < t->n_operands; i++)
      if (compare_values(v, &a[i]) == 0) return true;
    return false;
  case MODEL_LIKE: return has_prefix(v, a, true);
  case MODEL_GLOB: return has_prefix(v, a, false);
  default: return true;
  }
}

bool model_passes(const model_filter *f, const model_value *id, const model_content *content) {
  if (!f || f->n_terms == 0) return true;
  for (int i = 0; i < f->n_terms; i++) {
    const model_term *t = &f->terms[i];
    const model_value *v = t->column == MODEL_ID_COLUMN ? id : &content->values[t->column];
    model_value inside = t->key[0] ? model_json_get(v->bytes, t->key) : model_null();
    bool passes = passes_term(t, t->key[0] ? &inside : v);
    model_value_free(&inside);
    if (passes == f->is_or) return passes;
  }
  return !f->is_or;
}

void model_filter_free(model_filter *f) {
  for (int i = 0; i < f->n_terms; i++)
    for (int j = 0; j < f->terms[i].n_operands; j++) model_value_free(&f->terms[i].operands[j]);
  f->n_terms = 0;
}

/* ---- search ------------------------------------------------------------------------------------------------------ */

/* Outside these an f32 kernel may overflow, or divide by nothing: no value is agreed on. */
#define LARGEST_COMPONENT 1e8
#define SMALLEST_NORM 1e-6

static bool is_ordinary(const model_shape *shape, const float *v) {
  double norm = 0;
  for (int i = 0; i < shape->dimensions; i++) {
    if (fabs((double)v[i]) > LARGEST_COMPONENT) return false;
    norm += (double)v[i] * (double)v[i];
  }
  return shape->metric != MODEL_COSINE || sqrt(norm) > SMALLEST_NORM;
}

static double measure(const model_shape *shape, const float *a, const float *b, double *tolerance) {
  double dot = 0, absolute = 0, aa = 0, bb = 0, squares = 0, differences = 0, distance = 0, scale = 0;
  for (int i = 0; i < shape->dimensions; i++) {
    double x = (double)a[i], y = (double)b[i];
    dot += x * y;
    absolute += fabs(x * y);
    aa += x * x;
    bb += y * y;
    squares += (x - y) * (x - y);
    differences += fabs(x - y);
  }
  switch (shape->metric) {
  case MODEL_L2: distance = scale = sqrt(squares); break;
  case MODEL_L1: distance = scale = differences; break;
  case MODEL_IP: distance = -dot, scale = absolute; break; /* sums of both signs cancel: what matters is their size */
  case MODEL_COSINE: distance = aa > 0 && bb > 0 ? 1 - dot / (sqrt(aa) * sqrt(bb)) : 1; break;
  }
  *tolerance = MODEL_TOLERANCE * (scale > 1 ? scale : 1);
  return distance;
}

static int by_distance(const void *a, const void *b) {
  double x = ((const model_hit *)a)->distance, y = ((const model_hit *)b)->distance;
  return (x > y) - (x < y);
}

void model_search(const model_table *t, int64_t time, const float *query, const model_filter *f, model_hits *out) {
  *out = (model_hits){.hits = allocate((size_t)t->n_rows * sizeof(model_hit)),
                      .is_undecided = !is_ordinary(t->shape, query)};
  if (time != MODEL_NOW && f && f->n_terms && !MODEL_AS_OF_METADATA) out->is_undecided = true;
  for (int i = 0; i < t->n_rows; i++) {
    const model_row *row = &t->rows[i];
    bool is_unknown;
    const model_content *content = model_at(row, time, &is_unknown);
    if (is_unknown) out->is_undecided = true;
    if (!content || !model_passes(f, &row->id, content)) continue;
    if (!is_ordinary(t->shape, content->vector)) out->is_undecided = true;
    model_hit *hit = &out->hits[out->n++];
    *hit = (model_hit){.id = &row->id, .content = content};
    hit->distance = measure(t->shape, query, content->vector, &hit->tolerance);
  }
  qsort(out->hits, (size_t)out->n, sizeof *out->hits, by_distance);
}

void model_hits_free(model_hits *h) { free(h->hits); }

/* Whether a hit belongs to the answer: surely, surely not, or within the tolerance of the limit. */
typedef enum belonging { SURELY, PERHAPS, NEVER } belonging;

static belonging against(double distance, double limit, double tolerance) {
  if (distance < limit - tolerance) return SURELY;
  return distance > limit + tolerance ? NEVER : PERHAPS;
}

static belonging belongs(const model_hits *h, const model_question *q, const model_hit *hit) {
  belonging by_rank = SURELY, by_bound = SURELY;
  if (q->then && !model_passes(q->then, hit->id, hit->content)) return NEVER;
  if (q->k == 0) return NEVER;
  if (q->k > 0 && q->k < h->n) {
    const model_hit *last = &h->hits[q->k - 1];
    by_rank = against(hit->distance, last->distance, hit->tolerance + last->tolerance);
  }
  if (q->has_bound) by_bound = against(hit->distance, q->bound, hit->tolerance);
  return by_rank > by_bound ? by_rank : by_bound;
}

bool model_judge(const model_hits *h, model_question *q, const model_found *found, int n, char *why, size_t size) {
  bool *is_found = allocate((size_t)h->n * sizeof *is_found);
  bool is_right = false;
  char id[64];
  for (int i = 0; i < n; i++) {
    int at = 0;
    model_value_print(&found[i].id, id, sizeof id);
    while (at < h->n && !model_value_equal(h->hits[at].id, &found[i].id)) at++;
    if (at == h->n) {
      snprintf(why, size, "search: row %s should not be found", id);
      goto done;
    }
    const model_hit *hit = &h->hits[at];
    if (is_found[at]) {
      snprintf(why, size, "search: row %s is found twice", id);
      goto done;
    }
    is_found[at] = true;
    if (!(fabs(found[i].distance - hit->distance) <= hit->tolerance)) {
      snprintf(why, size, "search: row %s at distance %.9g, should be %.9g", id, found[i].distance, hit->distance);
      goto done;
    }
    if (q->is_ordered && i > 0 && found[i].distance < found[i - 1].distance) {
      snprintf(why, size, "search: row %s at %.9g comes after %.9g", id, found[i].distance, found[i - 1].distance);
      goto done;
    }
    /* An approximate search may take one row for another, but never one that fails a filter or a bound. */
    model_question rankless = *q;
    rankless.k = q->k == 0 ? 0 : -1;
    if (belongs(h, q->is_approximate ? &rankless : q, hit) == NEVER) {
      snprintf(why, size, "search: row %s at distance %.9g does not belong to the answer", id, hit->distance);
      goto done;
    }
  }
  q->expected = q->present = 0;
  for (int i = 0; i < h->n; i++) {
    if (belongs(h, q, &h->hits[i]) != SURELY) continue;
    q->expected++;
    q->present += is_found[i];
    if (is_found[i] || q->is_approximate) continue;
    model_value_print(h->hits[i].id, id, sizeof id);
    snprintf(why, size, "search: row %s at distance %.9g is missing (%d rows found)", id, h->hits[i].distance, n);
    goto done;
  }
  if (!q->has_bound && !q->then) {
    int64_t expected = q->k >= 0 && q->k < h->n ? q->k : h->n;
    if (n != expected) {
      snprintf(why, size, "search: %d rows found, should be %lld", n, (long long)expected);
      goto done;
    }
  }
  if (q->k >= 0 && n > q->k) {
    snprintf(why, size, "search: %d rows found, k is %lld", n, (long long)q->k);
    goto done;
  }
  is_right = true;
done:
  free(is_found);
  return is_right;
}

/* ---- self-test --------------------------------------------------------------------------------------------------- */

static int n_failed;

static void expect(bool condition, const char *what) {
  if (condition) return;
  printf("self-test: %s\n", what);
  n_failed++;
}

static model_entry entry(int64_t seq, int64_t time, model_value *id, model_operation operation) {
  return (model_entry){.seq = seq, .time = time, .id = *id, .operation = operation};
}

static void test_versions(void) {
  model_shape shape = {.dimensions = 3, .metric = MODEL_L2};
  model_table *t = model_new(&shape, "t");
  model_value a = model_text("a"), b = model_text("b");
  float v[3] = {1, 2, 3}, big[3] = {3e38f, 0, 0};
  int two[2] = {0, 2}, twice[2] = {1, 1}, far[1] = {3};
  float values[2] = {5, -0.0f};
  char why[200];

  expect(!model_create(t, &a, v, 3, NULL, 100), "create");
  model_entry first = entry(4, 100, &a, MODEL_CREATE);
  expect(model_settle(t, &first, 1, 0, why, sizeof why), "settle a create");
  model_table *before = model_copy(t);

  expect(model_create(t, &a, v, 3, NULL, 100) != NULL, "create of an id that exists is refused");
  expect(model_create(t, &b, v, 2, NULL, 100) != NULL, "a wrong length is refused");
  expect(model_update(t, &b, v, 3, NULL, 100) != NULL, "update of a missing id is refused");
  expect(model_update(t, &a, v, 3, NULL, 99) != NULL, "a time before the row's last is refused");
  expect(
      !model_apply(t, &a, &(model_delta){.operation = MODEL_SPARSE, .n = 2, .index = two, .values = values}, NULL, 100),
      "sparse at the same time");
  expect(!model_apply(t, &a, &(model_delta){.operation = MODEL_SCALE, .amount = 0.1f}, NULL, 200), "scale");
  expect(!model_apply(t, &a, &(model_delta){.operation = MODEL_OFFSET, .amount = 1}, NULL, 300), "offset");
  expect(!model_apply(t, &a, &(model_delta){.operation = MODEL_DELETE}, NULL, MODEL_AUTO), "delete");
  expect(model_apply(t, &a, &(model_delta){.operation = MODEL_DELETE}, NULL, 900) != NULL, "delete twice");
  model_entry rest[4] = {entry(5, 100, &a, MODEL_DENSE), entry(6, 200, &a, MODEL_SCALE),
                         entry(9, 300, &a, MODEL_OFFSET), entry(10, 5000000, &a, MODEL_DELETE)};
  model_table *other = model_copy(t);
  expect(!model_settle(other, rest, 3, 5000000, why, sizeof why), "a change that is not logged is noticed");
  model_free(other);
  other = model_copy(t);
  rest[1].time = 201;
  expect(!model_settle(other, rest, 4, 5000000, why, sizeof why), "a time that was not asked for is noticed");
  rest[1].time = 200;
  model_free(other);
  expect(model_settle(t, rest, 4, 5000000, why, sizeof why), "settle four");

  model_row *row = model_find(t, &a);
  bool unknown;
  expect(row->n_versions == 5 && !model_now(row) && model_count(t) == 0, "deleted rows keep their versions");
  expect(!model_at(row, 99, &unknown) && !unknown, "before its first version a row is not there");
  const model_content *at100 = model_at(row, 100, &unknown), *at299 = model_at(row, 299, &unknown);
  expect(at100 && at100->vector[0] == 5 && at100->vector[1] == 2 && signbit(at100->vector[2]),
         "the last of equal times");
  expect(at299 && at299->vector[1] == 2 * 0.1f && at299->vector[0] == 5 * 0.1f, "scale in f32");
  expect(model_count(before) == 1 && model_now(model_find(before, &a))->vector[0] == 1, "a copy is not changed");
  expect(!model_create(t, &a, v, 3, NULL, MODEL_AUTO), "create after delete continues the chain");
  expect(!model_rollback(t, &a, 6, false), "rollback");
  expect(memcmp(model_now(row = model_find(t, &a))->vector, at299->vector, sizeof v) == 0, "rollback restores");
  model_forget(row, 2);
  expect(row->horizon == row->versions[0].time && row->n_versions == 2, "forgetting leaves a horizon");
  model_at(row, 299, &unknown);
  expect(row->versions[0].time == MODEL_AUTO || unknown, "before the horizon nothing is known");

  model_table *u = model_new(&shape, "u");
  expect(!model_create(u, &a, big, 3, NULL, 1), "large values are values");
  expect(model_apply(u, &a, &(model_delta){.operation = MODEL_SCALE, .amount = 2}, NULL, 1) != NULL, "overflow");
  expect(model_apply(u, &a, &(model_delta){.operation = MODEL_SPARSE, .n = 2, .index = twice, .values = values}, NULL,
                     1) != NULL,
         "an index given twice");
  expect(model_apply(u, &a, &(model_delta){.operation = MODEL_SPARSE, .n = 1, .index = far, .values = values}, NULL,
                     1) != NULL,
         "an index out of range");
  expect(!model_replace(u, &a, v, 3, NULL, 2), "replace");
  model_entry replaced[3] = {entry(1, 1, &a, MODEL_CREATE), entry(2, 2, &a, MODEL_DELETE),
                             entry(3, 2, &a, MODEL_CREATE)};
  expect(model_settle(u, replaced, 3, 0, why, sizeof why) && model_find(u, &a)->n_versions == 3,
         "replace as two entries");
  model_free(u);
  model_free(before);
  model_free(t);
  model_value_free(&a);
  model_value_free(&b);
}

static void test_automatic_id(void) {
  model_shape shape = {.dimensions = 1, .is_integer_id = true};
  model_table *t = model_new(&shape, "t");
  model_value none = model_null(), seven = model_integer(7);
  float v[1] = {1};
  char why[200];
  expect(!model_create(t, &none, v, 1, NULL, 5), "create without an id");
  model_entry e = entry(1, 5, &seven, MODEL_CREATE);
  expect(model_settle(t, &e, 1, 0, why, sizeof why) && model_now(model_find(t, &seven)), "the id is learned");
  expect(!model_apply(t, &seven, &(model_delta){.operation = MODEL_DELETE}, NULL, 6), "delete");
  expect(!model_create(t, &none, v, 1, NULL, 7), "create again");
  model_entry two[2] = {entry(2, 6, &seven, MODEL_DELETE), entry(3, 7, &seven, MODEL_CREATE)};
  expect(model_settle(t, two, 2, 0, why, sizeof why) && t->n_rows == 1 && model_find(t, &seven)->n_versions == 3,
         "a number given again continues the chain");
  model_free(t);
}

static void expect_json(char *got, const char *should) {
  expect(got && strcmp(got, should) == 0, should);
  free(got);
}

static void test_json(void) {
  expect_json(model_json_canonical(" { \"b\" : 1.50, \"a\":\"x\" ,\"c\":null}"), "{\"a\":\"x\",\"b\":1.5,\"c\":null}");
  expect_json(model_json_canonical("{\"a\":2.0,\"b\":2}"), "{\"a\":2.0,\"b\":2}");
  expect_json(model_json_canonical(NULL), "{}");
  expect(!model_json_canonical("{") && !model_json_canonical("[1]") && !model_json_canonical("{\"a\"}"), "not objects");
  expect_json(model_json_merge("{\"a\":1,\"b\":2}", "{\"b\":null,\"c\":true,\"d\":null}"), "{\"a\":1,\"c\":true}");
  expect_json(model_json_merge(NULL, "{\"a\":\"y\"}"), "{\"a\":\"y\"}");
  model_value v = model_json_get("{\"n\":2.5}", "n");
  expect(v.type == MODEL_REAL && v.real == 2.5, "a member");
}

static void test_filters(void) {
  model_content content = {.exists = true, .n_values = 2};
  content.values[0] = model_integer(4);
  content.values[1] = model_text("Red");
  model_value id = model_integer(1);
  model_filter f = {.n_terms = 2};
  f.terms[0] = (model_term){
      .column = 0, .comparison = MODEL_BETWEEN, .n_operands = 2, .operands = {model_real(3.5), model_integer(4)}};
  f.terms[1] = (model_term){.column = 1, .comparison = MODEL_LIKE, .n_operands = 1, .operands = {model_text("re")}};
  expect(model_passes(&f, &id, &content), "between and like");
  f.terms[1].comparison = MODEL_GLOB;
  expect(!model_passes(&f, &id, &content), "glob knows upper case");
  f.is_or = true;
  expect(model_passes(&f, &id, &content), "or");
  model_value_free(&content.values[0]);
  content.values[0] = model_null();
  expect(!model_passes(&f, &id, &content), "NULL passes no comparison");
  model_filter_free(&f);
  model_value_free(&content.values[1]);
}

static void test_search(void) {
  model_shape shape = {.dimensions = 2, .metric = MODEL_L2};
  model_table *t = model_new(&shape, "t");
  for (int i = 0; i < 5; i++) {
    model_value id = model_integer(i);
    float v[2] = {(float)(i == 3 ? 2 : i), 0}; /* rows 2 and 3 tie */
    model_create(t, &id, v, 2, NULL, 10 + i);
  }
  float query[2] = {0, 0};
  char why[200];
  model_hits all, old;
  model_search(t, MODEL_NOW, query, NULL, &all);
  model_search(t, 11, query, NULL, &old);
  expect(all.n == 5 && old.n == 2 && !all.is_undecided, "rows as of a time");
  model_found found[5] = {{model_integer(0), 0},
                          {model_integer(1), 1},
                          {model_integer(3), 2},
                          {model_integer(2), 2},
                          {model_integer(4), 4}};
  expect(model_judge(&all, &(model_question){.k = 3, .is_ordered = true}, found, 3, why, sizeof why),
         "either of a tie");
  expect(!model_judge(&all, &(model_question){.k = 3}, found, 2, why, sizeof why), "too few");
  expect(!model_judge(&all, &(model_question){.k = 2}, found, 3, why, sizeof why), "too many");
  expect(!model_judge(&all, &(model_question){.k = 2}, found + 1, 2, why, sizeof why), "not the nearest");
  expect(model_judge(&all, &(model_question){.k = 2, .is_approximate = true}, found + 1, 2, why, sizeof why),
         "approximately");
  expect(model_judge(&all, &(model_question){.k = -1, .has_bound = true, .bound = 1.5}, found, 2, why, sizeof why),
         "range");
  expect(!model_judge(&all, &(model_question){.k = -1, .has_bound = true, .bound = 1.5}, found, 3, why, sizeof why),
         "out of range");
  expect(model_judge(&old, &(model_question){.k = 9}, found, 2, why, sizeof why), "k beyond the rows");
  found[1].distance = 1.001;
  expect(!model_judge(&all, &(model_question){.k = 2}, found, 2, why, sizeof why), "a wrong distance");
  model_hits_free(&all);
  model_hits_free(&old);
  double tolerance;
  float a[2] = {3, 4}, b[2] = {4, -3};
  shape.metric = MODEL_COSINE;
  expect(fabs(measure(&shape, a, b, &tolerance) - 1) < 1e-12, "cosine");
  shape.metric = MODEL_IP;
  expect(measure(&shape, a, a, &tolerance) == -25, "inner product");
  shape.metric = MODEL_L1;
  expect(measure(&shape, a, b, &tolerance) == 8, "l1");
  shape.metric = MODEL_L2;
  expect(fabs(measure(&shape, a, b, &tolerance) - sqrt(50)) < 1e-12, "l2");
  model_free(t);
}

int model_self_test(void) {
  n_failed = 0;
  test_versions();
  test_automatic_id();
  test_json();
  test_filters();
  test_search();
  return n_failed;
}
