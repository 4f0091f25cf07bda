/*
 * searches.c: the operations that only read: searches in all their forms, reads of vectors, filters and history, and
 * the pure functions.
 */
#include "operations.h"

#include <limits.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- searches ---------------------------------------------------------------------------------------------------- */

/* What a search looks for. */
typedef struct inquiry {
  float vector[MAX_DIMENSIONS];
  bool as_json;
  int64_t k;
  int64_t time; /* MODEL_NOW: none given */
  model_filter given; /* handed to the table */
  model_filter hidden; /* checked by SQLite afterwards */
  model_question question;
} inquiry;

static void put_conditions(program *p, statement *s, const inquiry *q) {
  if (q->time != MODEL_NOW) {
    put(s, " AND as_of = ");
    put_time(s, q->time, rng_chance(&p->rng, 30));
  }
  if (q->given.n_terms) {
    put(s, " AND ");
    put_filter(p, s, &q->given, false);
  }
  if (q->hidden.n_terms) {
    put(s, " AND ");
    put_filter(p, s, &q->hidden, true);
  }
}

static void put_match(statement *s, const program *p, const model_table *t, const inquiry *q) {
  put(s, "SELECT id, distance FROM ");
  put_name(s, t->name);
  put(s, " WHERE %s MATCH ", p->vector_column);
  put_vector(s, q->vector, p->shape.dimensions, q->as_json);
}

/* score is larger for better rows. */
static void check_scores(program *p, const result *r) {
  for (int i = 0; i < r->n_rows; i++) {
    double d = cell(r, i, 1)->real, score = cell(r, i, 2)->real;
    double should = p->shape.metric == MODEL_COSINE ? 1 - d : p->shape.metric == MODEL_IP ? -d : 1 / (1 + d);
    if (!check(p, fabs(score - should) <= 1e-6 * fmax(1, fabs(should)), "score %.9g for distance %.9g, should be %.9g",
               score, d, should))
      return;
  }
}

/* How hard to look, as an option in JSON, or nothing. Returns how many rows that may be: INT_MAX if it says nothing
 * about it, 0 if nobody can say. */
static int random_effort(program *p, bool is_exact, char *out, size_t n) {
  int roll = rng_below(&p->rng, 4), ef = INT_MAX;
  if (is_exact) {
    snprintf(out, n, "\"exact\":true");
  } else if (roll == 0) {
    ef = rng_between(&p->rng, 1, 120);
    snprintf(out, n, "\"ef\":%d", ef);
  } else if (roll == 1) {
    ef = 0;
    snprintf(out, n, "\"recall_target\":0.%d", rng_between(&p->rng, 80, 99));
  }
  return ef;
}

void search(program *p, connection *c) {
  const model_table *t = seen_by(p, c);
  inquiry q = {.time = MODEL_NOW, .question = {.k = -1, .is_ordered = true}};
  statement s = {0};
  typedef enum { BY_K, BY_LIMIT, RANGE, FUNCTION, TABLE_FUNCTION, STREAM } search_form;
  static const search_form forms[] = {BY_K,  BY_K,     BY_K,     BY_LIMIT,       BY_LIMIT,
                                      RANGE, FUNCTION, FUNCTION, TABLE_FUNCTION, STREAM};
  search_form form = forms[rng_below(&p->rng, 10)];
  random_vector(p, t, q.vector);
  q.as_json = random_json_form(p, q.vector, p->shape.dimensions);
  int roll = rng_below(&p->rng, 20);
  q.k = roll == 0 ? 0 : roll < 4 ? 1000 : rng_between(&p->rng, 1, model_count(t) + 3);
  bool is_exact = rng_chance(&p->rng, 50);
  char effort[32] = "";
  int ef = random_effort(p, is_exact, effort, sizeof effort);
  bool may_filter = form != FUNCTION && form != TABLE_FUNCTION;
  if (form != TABLE_FUNCTION && rng_chance(&p->rng, 25)) q.time = interesting_time(p, t);
  if (may_filter && rng_chance(&p->rng, 45)) q.given = random_filter(p, t, false);
  if (may_filter && rng_chance(&p->rng, 15)) {
    q.hidden = random_filter(p, t, true);
    q.hidden.is_or = rng_chance(&p->rng, 50);
  }
  /* Conditions inside a JSON column are hidden by nature. */
  bool is_hidden_by_nature = false;
  for (int i = 0; i < q.given.n_terms; i++) is_hidden_by_nature = is_hidden_by_nature || q.given.terms[i].key[0];
  if (is_hidden_by_nature) {
    model_filter_free(&q.hidden);
    q.hidden = q.given;
    q.given = (model_filter){0};
  }

  model_hits all;
  model_search(t, q.time, q.vector, &q.given, &all);
  if (q.time != MODEL_NOW && q.hidden.n_terms && !MODEL_AS_OF_METADATA) all.is_undecided = true;
  if (q.hidden.n_terms && form != BY_K) {
    /* Without k the table streams until enough rows have passed. */
    int n = 0;
    for (int i = 0; i < all.n; i++)
      if (model_passes(&q.hidden, all.hits[i].id, all.hits[i].content)) all.hits[n++] = all.hits[i];
    all.n = n;
  }
  switch (form) {
  case BY_K:
    put_match(&s, p, t, &q);
    put(&s, " AND k = ");
    put_integer(&s, q.k);
    put_conditions(p, &s, &q);
    if (rng_chance(&p->rng, 40)) put(&s, " ORDER BY distance");
    q.question.k = q.k;
    if (q.hidden.n_terms) q.question.then = &q.hidden;
    break;
  case BY_LIMIT:
    put_match(&s, p, t, &q);
    put_conditions(p, &s, &q);
    put(&s, " ORDER BY distance LIMIT ");
    put_integer(&s, q.k);
    q.question.k = q.k;
    break;
  case RANGE:
    q.question.has_bound = true;
    q.question.bound = all.n ? all.hits[rng_below(&p->rng, all.n)].distance + random_eighth(p) / 8.0 : 0.5;
    q.question.is_ordered = rng_chance(&p->rng, 50);
    put_match(&s, p, t, &q);
    put(&s, " AND distance < ");
    put_value(&s, &(model_value){.type = MODEL_REAL, .real = q.question.bound});
    put_conditions(p, &s, &q);
    put(&s, q.question.is_ordered ? " ORDER BY distance" : "");
    break;
  case FUNCTION: {
    char name[40];
    snprintf(name, sizeof name, "%s%s", rng_chance(&p->rng, 20) ? "main." : "", t->name);
    put(&s, "SELECT id, distance, score FROM vector_search(");
    put_text(&s, name);
    put(&s, ", ");
    put_vector(&s, q.vector, p->shape.dimensions, q.as_json);
    put(&s, ", ");
    put_integer(&s, q.k);
    if (effort[0] || q.time != MODEL_NOW) {
      text json = {0};
      text_put(&json, "{%s%s", effort, effort[0] && q.time != MODEL_NOW ? "," : "");
      if (q.time != MODEL_NOW) text_put(&json, "\"as_of\":%lld", (long long)q.time);
      text_put(&json, "}");
      put(&s, ", ");
      put_text(&s, json.s);
      text_free(&json);
    }
    put(&s, ")");
    q.question.k = q.k;
    break;
  }
  case TABLE_FUNCTION: {
    char json[80];
    snprintf(json, sizeof json, "{\"k\":%lld%s%s}", (long long)q.k, effort[0] ? "," : "", effort);
    put(&s, "SELECT id, distance FROM ");
    put_name(&s, t->name);
    put(&s, "(");
    put_vector(&s, q.vector, p->shape.dimensions, q.as_json);
    put(&s, ", ");
    put_text(&s, json);
    put(&s, ")");
    q.question.k = q.k;
    break;
  }
  case STREAM:
    put_match(&s, p, t, &q);
    put_conditions(p, &s, &q);
    put(&s, " ORDER BY distance");
    break;
  }
  bool says_exact = is_exact && (form == FUNCTION || form == TABLE_FUNCTION);
  /* With small thresholds index=auto has a graph of these few rows too. It finds them all, but by l2, if they are to be
   * near by l1; and if the search does not say that fewer rows be looked at than there are: then it may miss some. */
  bool may_miss = p->is_hnsw || p->shape.metric == MODEL_L1 || !MODEL_FLAT_IS_EXACT;
  bool has_effort = form == FUNCTION || form == TABLE_FUNCTION;
  bool is_part = p->graphs_are_small && !p->is_flat && !may_miss && has_effort && ef < model_count(t);
  q.question.is_approximate = !says_exact && (may_miss || is_part);

  result r;
  if (query(p, c, &s, &r) && !all.is_undecided) {
    model_found *found = calloc((size_t)r.n_rows + 1, sizeof *found);
    char why[200];
    if (!found) abort();
    for (int i = 0; i < r.n_rows; i++) {
      const model_value *distance = cell(&r, i, 1);
      check(p, distance->type == MODEL_REAL, "a distance has type %d", (int)distance->type);
      found[i] = (model_found){.id = *cell(&r, i, 0), .distance = distance->real}; /* the id is borrowed */
    }
    bool is_right = model_judge(&all, &q.question, found, r.n_rows, why, sizeof why);
    check(p, is_right, "%s", why);
    if (is_right && form == FUNCTION) check_scores(p, &r);
    if (q.question.is_approximate) {
      *(is_part ? &p->auto_expected : &p->expected) += q.question.expected;
      *(is_part ? &p->auto_present : &p->present) += q.question.present;
    }
    free(found);
  }
  result_free(&r);
  model_hits_free(&all);
  model_filter_free(&q.given);
  model_filter_free(&q.hidden);
}

/* A k that is no number of rows. */
void search_badly(program *p, connection *c) {
  static const char *const ks[] = {"-1", "1.5", "'many'"};
  const model_table *t = seen_by(p, c);
  statement s = {0};
  inquiry q = {.time = MODEL_NOW};
  random_vector(p, t, q.vector);
  int roll = rng_below(&p->rng, 4);
  put(&s, "SELECT id FROM ");
  put_name(&s, t->name);
  put(&s, " WHERE %s MATCH ", p->vector_column);
  put_vector(&s, q.vector, roll < 3 ? p->shape.dimensions : p->shape.dimensions - 1, false);
  put(&s, " AND k = %s", roll < 3 ? ks[roll] : "3");
  result r = run(p, c, &s);
  check(p, p->has_failed || r.rc != SQLITE_OK, "a search for k = %s with a vector of length %d succeeds",
        roll < 3 ? ks[roll] : "3", roll < 3 ? p->shape.dimensions : p->shape.dimensions - 1);
  result_free(&r);
}

/* ---- reads ------------------------------------------------------------------------------------------------------- */

void read_vector(program *p, connection *c) {
  const model_table *t = seen_by(p, c);
  model_value id = model_value_copy(random_id(p, t, rng_chance(&p->rng, 80)));
  int64_t time = rng_chance(&p->rng, 60) ? interesting_time(p, t) : MODEL_NOW;
  bool is_unknown, is_function = rng_chance(&p->rng, 50);
  const model_content *content = model_at(model_find(t, &id), time, &is_unknown);
  statement s = {0};
  result r;
  char printed[64];
  model_value_print(&id, printed, sizeof printed);
  if (is_function) {
    put(&s, "SELECT vector_at(");
    put_text(&s, t->name);
    put(&s, ", ");
    put_value(&s, &id);
    if (time != MODEL_NOW) {
      put(&s, ", ");
      put_time(&s, time, rng_chance(&p->rng, 30));
    }
    put(&s, ")");
  } else {
    put(&s, "SELECT %s FROM ", p->vector_column);
    put_name(&s, t->name);
    put(&s, " WHERE id = ");
    put_value(&s, &id);
    if (time != MODEL_NOW) {
      put(&s, " AND as_of = ");
      put_time(&s, time, rng_chance(&p->rng, 30));
    }
  }
  if (query(p, c, &s, &r) && !is_unknown) {
    bool is_there = r.n_rows == 1 && cell(&r, 0, 0)->type != MODEL_NULL;
    if (check(p, is_there == (content != NULL), "row %s is %s at that time", printed, content ? "missing" : "there") &&
        content)
      check_vector(p, cell(&r, 0, 0), content->vector, printed);
  }
  result_free(&r);
  model_value_free(&id);
}

void read_where(program *p, connection *c) {
  const model_table *t = seen_by(p, c);
  model_filter f = random_filter(p, t, true);
  selection rows = select_rows(t, NULL, &f);
  statement s = {0};
  result r;
  put(&s, "SELECT id FROM ");
  put_name(&s, t->name);
  put(&s, " WHERE ");
  put_filter(p, &s, &f, rng_chance(&p->rng, 20));
  if (query(p, c, &s, &r)) {
    check(p, r.n_rows == rows.n, "%d rows pass the filter, should be %d", r.n_rows, rows.n);
    for (int i = 0; i < r.n_rows && !p->has_failed; i++) {
      bool is_found = false;
      for (int j = 0; j < rows.n; j++) is_found = is_found || model_value_equal(&rows.ids[j], cell(&r, i, 0));
      check(p, is_found, "a row passes a filter that it should not");
    }
  }
  result_free(&r);
  selection_free(&rows);
  model_filter_free(&f);
}

void read_history(program *p, connection *c) {
  const model_table *t = seen_by(p, c);
  if (rng_chance(&p->rng, 30) && t->n_rows) {
    check_chain(p, c, t->name, &t->rows[rng_below(&p->rng, t->n_rows)], false);
  } else if (rng_chance(&p->rng, 40)) {
    int64_t since = t->last_seq > 0 ? (int64_t)(rng_next(&p->rng) % (uint64_t)(t->last_seq + 1)) : 0;
    int n = 0;
    statement s = {0};
    result r;
    put(&s, "SELECT count(*) FROM delta_log(");
    put_text(&s, t->name);
    put(&s, ", ");
    put_integer(&s, since);
    put(&s, ")");
    for (int i = 0; i < t->n_rows; i++)
      for (int j = 0; j < t->rows[i].n_versions; j++) n += t->rows[i].versions[j].seq > since;
    if (query(p, c, &s, &r))
      check(p, cell(&r, 0, 0)->integer == n, "the log since %lld has %lld entries, should have %d", (long long)since,
            (long long)cell(&r, 0, 0)->integer, n);
    result_free(&r);
  } else {
    check_rows(p, c, t->name, t, interesting_time(p, t));
  }
}

void read_status(program *p, connection *c) {
  const model_table *t = seen_by(p, c);
  statement s = {0};
  result r;
  check_status(p, c, t);
  put(&s, "SELECT count(*) FROM ");
  put_name(&s, t->name);
  if (query(p, c, &s, &r))
    check(p, cell(&r, 0, 0)->integer == model_count(t), "count(*) is %lld, should be %d",
          (long long)cell(&r, 0, 0)->integer, model_count(t));
  result_free(&r);
  if (p->has_failed || model_count(t) == 0) return;
  put(&s, "SELECT delta_recall(");
  put_text(&s, t->name);
  put(&s, ", 20, 5)");
  if (query(p, c, &s, &r))
    check(p, cell(&r, 0, 0)->type == MODEL_REAL && cell(&r, 0, 0)->real >= 0 && cell(&r, 0, 0)->real <= 1,
          "delta_recall is not in 0..1");
  result_free(&r);
}

/* The pure functions, on vectors that no table holds. */
void call_functions(program *p, connection *c) {
  float a[MAX_DIMENSIONS], b[MAX_DIMENSIONS];
  int n = p->shape.dimensions;
  model_shape shape = {.dimensions = n};
  model_table *t = model_new(&shape, "");
  delta_space delta;
  statement s = {0};
  result r;
  random_vector(p, seen_by(p, c), a);
  random_vector(p, seen_by(p, c), b);
  if (rng_chance(&p->rng, 50)) {
    put(&s, "SELECT delta_patch(");
    put_vector(&s, a, n, false);
    put(&s, ", delta_diff(");
    put_vector(&s, a, n, false);
    put(&s, ", ");
    put_vector(&s, b, n, false);
    put(&s, "))");
    if (query(p, c, &s, &r)) check_vector(p, cell(&r, 0, 0), b, "of delta_patch(a, delta_diff(a, b))");
  } else {
    model_value id = model_integer(1);
    model_create(t, &id, a, n, NULL, 0);
    random_delta(p, seen_by(p, c), model_now(model_find(t, &id)), random_kind(p), &delta);
    const char *why = model_apply(t, &id, &delta.d, NULL, 0);
    put(&s, "SELECT delta_patch(");
    put_vector(&s, a, n, false);
    put(&s, ", ");
    put_delta(p, &s, &delta.d);
    put(&s, ")");
    r = run(p, c, &s);
    /* A new connection cannot even read the schema while the other one has the file to itself. */
    bool is_known = p->has_failed || is_busy(p, c, &r) || (r.rc != SQLITE_OK) == (why != NULL);
    check(p, is_known, "delta_patch: code %d (%s)", r.rc, why ? why : "should succeed");
    if (!p->has_failed && r.rc == SQLITE_OK)
      check_vector(p, cell(&r, 0, 0), model_now(model_find(t, &id))->vector, "of delta_patch");
  }
  result_free(&r);
  model_free(t);
}

void compare_everything(program *p, connection *c) { check_everything(p, c, rng_chance(&p->rng, 15)); }
