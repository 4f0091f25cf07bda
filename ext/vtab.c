/*
 * vtab.c: the delta_vectors module: connecting, planning, cursors.
 *
 * A query plan is one of:
 *
 *   search   `vector MATCH q` (or the table called as a function): rows in order of distance. With k (or a LIMIT that
 *            SQLite hands down) that many rows; without, a stream in batches of growing size, as long as SQLite asks.
 *   lookup   `id = x` or `rowid = n`
 *   scan     every row, in vid order
 *   refused  a condition on the distance, or an order by it, without a query: xFilter says so
 *
 * each with or without `as_of`. Conditions on metadata columns, and `id IN (…)`, are pushed into a search and a scan
 * (filter.c). idxStr lists the constraints that xFilter gets, one token each: a letter and, for a condition,
 * "column,operator,length of the name:collation".
 */
#include "ext_int.h"

typedef struct table_vtab {
  sqlite3_vtab base;
  dvx_table *t;
  bool is_begun; /* takes part in a transaction that SQLite has not ended yet */
} table_vtab;

/* Rows in a stream's first batch; each further one is four times as long. */
#define VTAB_FIRST_BATCH 64u

enum plan_kind { PLAN_SCAN = 0, PLAN_LOOKUP = 1, PLAN_SEARCH = 2, PLAN_REFUSED = 3 };

typedef struct table_cursor {
  sqlite3_vtab_cursor base;
  dvx_table *t;
  enum plan_kind kind;
  uint32_t vid; /* current row; 0: at the end */
  uint32_t last_vid;
  bool has_as_of;
  int64_t as_of;
  sqlite3_value *moment; /* as_of as it was given, if that was text: SQLite may compare the column with it once more */
  uint64_t past_seq; /* with as_of: the row's last record of that time */
  uint64_t *allowed; /* pushed-down conditions; NULL: none */
  size_t n_allowed;

  /* search */
  float *query;
  dvx_search_options options;
  dv_topk hits;
  size_t at;
  size_t n_given;
  size_t n_wanted; /* rows to give in all */
  bool has_k;
  bool is_k_option; /* it stands in the options */
  bool is_stream;
  uint64_t *given; /* the rows of a stream's batches before this one, by vid - 1 */
  size_t n_given_words;
  bool has_min; /* distance > or >= min_distance */
  bool is_min_inclusive;
  double min_distance;

  /* metadata of the current row, fetched once */
  uint32_t fields_vid;
  dv_buf hold;
  dv_value *fields;
} table_cursor;

/* ---- connecting -------------------------------------------------------------------------------------------------- */

static int table_connect_or_create(sqlite3 *db, void *aux, int argc, const char *const *argv, sqlite3_vtab **out,
                                   char **message, bool is_new) {
  dvx_conn *conn = aux;
  dvx_config *config = NULL;
  dvx_table *t = NULL;
  int rc = dvx_config_parse(argc, argv, &config, message);
  if (rc != SQLITE_OK) return rc;
  rc = dvx_declare(db, config->declaration);
  if (rc != SQLITE_OK) {
    *message = dvx_format("delta_vectors: %s", sqlite3_errmsg(db));
    dvx_config_free(config);
    return rc;
  }
  (void)dvx_vtab_config(db, SQLITE_VTAB_CONSTRAINT_SUPPORT, 1);
  table_vtab *v = sqlite3_malloc64(sizeof *v);
  if (v == NULL) {
    dvx_config_free(config);
    return SQLITE_NOMEM;
  }
  rc = dvx_table_acquire(conn, argv[1], argv[2], config, is_new, &t);
  if (rc != SQLITE_OK) {
    sqlite3_free(v);
    return rc;
  }
  if (is_new) rc = dvx_shadow_create(t);
  /* SQLite counts a table it has just created as taking part in the transaction, and never calls xBegin for it. From
   * here on nothing may fail: nobody would end that part. */
  if (is_new && rc == SQLITE_OK) rc = dvx_txn_begin(t);
  if (rc != SQLITE_OK) {
    sqlite3_free(v);
    sqlite3_free(*message);
    *message = conn->error;
    conn->error = NULL;
    dvx_table_unregister(t);
    dvx_table_drop_object(t);
    return rc;
  }
  memset(v, 0, sizeof *v);
  v->t = t;
  v->is_begun = is_new;
  *out = &v->base;
  return SQLITE_OK;
}

static int table_create(sqlite3 *db, void *aux, int argc, const char *const *argv, sqlite3_vtab **out, char **message) {
  return table_connect_or_create(db, aux, argc, argv, out, message, true);
}

static int table_connect_method(sqlite3 *db, void *aux, int argc, const char *const *argv, sqlite3_vtab **out,
                                char **message) {
  return table_connect_or_create(db, aux, argc, argv, out, message, false);
}

static void table_free_object(sqlite3_vtab *vtab) {
  dvx_table_drop_object(((table_vtab *)vtab)->t);
  sqlite3_free(vtab->zErrMsg); /* of an xDestroy that failed: SQLite does not fetch it */
  sqlite3_free(vtab);
}

static int table_disconnect(sqlite3_vtab *vtab) {
  /* SQLite keeps an object until it has ended its part, but for one it has just created, when memory runs out before it
   * is noted among those that take part: then nobody else ends it, and its statements would keep the connection open. */
  if (((table_vtab *)vtab)->is_begun) dvx_txn_rollback(((table_vtab *)vtab)->t);
  table_free_object(vtab);
  return SQLITE_OK;
}

static int table_destroy(sqlite3_vtab *vtab) {
  dvx_table *t = ((table_vtab *)vtab)->t;
  dvx_conn *conn = t->conn;
  if (dvx_txn_savepoint_needs_memory(t, 1)) {
    /* ROLLBACK TO would bring the table back, but SQLite calls no method of this object any more, so the deltas that
     * only memory holds would be lost. The innermost savepoint is that of DROP itself. */
    return dvx_give_vtab(
        conn, vtab,
        dvx_fail(conn, t, SQLITE_LOCKED,
                 "it cannot be dropped while a savepoint holds uncommitted changes: RELEASE it or COMMIT"));
  }
  int rc = dvx_shadow_drop(t);
  if (rc != SQLITE_OK) return dvx_give_vtab(conn, vtab, rc);
  dvx_table_unregister(t);
  dvx_txn_rollback(t); /* no other callback will end its part in the transaction */
  table_free_object(vtab);
  return SQLITE_OK;
}

/* ---- planning ---------------------------------------------------------------------------------------------------- */

static int plan_meta_column(const dvx_config *c, int declared) {
  for (int i = 0; i < c->n_columns; i++) {
    if (c->meta_column[i] == declared) return i;
  }
  return -1;
}

static bool plan_is_condition(int op) {
  switch (op) {
  case SQLITE_INDEX_CONSTRAINT_EQ:
  case SQLITE_INDEX_CONSTRAINT_GT:
  case SQLITE_INDEX_CONSTRAINT_LE:
  case SQLITE_INDEX_CONSTRAINT_LT:
  case SQLITE_INDEX_CONSTRAINT_GE:
  case SQLITE_INDEX_CONSTRAINT_NE:
  case SQLITE_INDEX_CONSTRAINT_IS:
  case SQLITE_INDEX_CONSTRAINT_ISNOT:
  case SQLITE_INDEX_CONSTRAINT_ISNULL:
  case SQLITE_INDEX_CONSTRAINT_ISNOTNULL:
  case SQLITE_INDEX_CONSTRAINT_LIKE:
  case SQLITE_INDEX_CONSTRAINT_GLOB: return true;
  default: return false;
  }
}

static bool plan_is_order(int op) {
  return op == SQLITE_INDEX_CONSTRAINT_LT || op == SQLITE_INDEX_CONSTRAINT_LE || op == SQLITE_INDEX_CONSTRAINT_GT ||
         op == SQLITE_INDEX_CONSTRAINT_GE || op == SQLITE_INDEX_CONSTRAINT_NE;
}

typedef struct index_plan {
  sqlite3_index_info *info;
  dvx_str text;
  int n_args;
} index_plan;

static void plan_use(index_plan *p, int i, bool omit, const char *token) {
  p->info->aConstraintUsage[i].argvIndex = ++p->n_args;
  p->info->aConstraintUsage[i].omit = omit ? 1 : 0;
  dvx_str_addf(&p->text, "%s", token);
}

static void plan_condition(index_plan *p, int i, int column) {
  sqlite3_index_info *info = p->info;
  const char *collation = sqlite3_vtab_collation(info, i);
  if (!collation || sqlite3_stricmp(collation, "BINARY") == 0) collation = "";
  bool is_in = info->aConstraint[i].op == SQLITE_INDEX_CONSTRAINT_EQ && sqlite3_vtab_in(info, i, 1);
  p->info->aConstraintUsage[i].argvIndex = ++p->n_args;
  dvx_str_addf(&p->text, "%s%d,%d,%d:%s", is_in ? "J" : "F", column, (int)info->aConstraint[i].op,
               (int)strlen(collation), collation);
}

/* What a condition on this column is on: a metadata column or one of DVX_CONDITION_…; false: nothing that a search could
 * test. */
static bool plan_is_testable(const dvx_config *c, int declared, int *column) {
  int meta = plan_meta_column(c, declared);
  *column = meta >= 0 ? meta : declared < 0 && c->id_type == DVX_ID_TEXT ? DVX_CONDITION_ROWID : DVX_CONDITION_ID;
  return meta >= 0 ? !c->columns[meta].is_auxiliary : declared < 0 || declared == c->id_column;
}

/* Which constraint is which; -1: there is none. */
typedef struct plan_terms {
  int match, k, second_k, as_of, id, rowid, limit, offset;
  bool is_unusable; /* the query, k or time comes from a table that this plan puts behind us */
  bool is_k_ordered, is_as_of_ordered; /* k <= 10, as_of < :time, as_of IS :time */
  bool has_two_queries;
} plan_terms;

static bool plan_is_query(const dvx_config *c, int column, int op) {
  if (column == c->command_column) return op == SQLITE_INDEX_CONSTRAINT_MATCH || op == SQLITE_INDEX_CONSTRAINT_EQ;
  return column == c->vector_column && op == SQLITE_INDEX_CONSTRAINT_MATCH;
}

static plan_terms plan_find(const dvx_config *c, const sqlite3_index_info *info) {
  plan_terms f = {-1, -1, -1, -1, -1, -1, -1, -1, false, false, false, false};
  for (int i = 0; i < info->nConstraint; i++) {
    int column = info->aConstraint[i].iColumn, op = info->aConstraint[i].op;
    bool usable = info->aConstraint[i].usable != 0;
    bool is_eq = op == SQLITE_INDEX_CONSTRAINT_EQ;
    bool is_limit = op == SQLITE_INDEX_CONSTRAINT_LIMIT || op == SQLITE_INDEX_CONSTRAINT_OFFSET; /* of no column */
    bool is_k = !is_limit && column == c->k_column, is_as_of = !is_limit && column == c->as_of_column;
    bool is_other = plan_is_order(op) || op == SQLITE_INDEX_CONSTRAINT_IS;
    f.is_k_ordered = f.is_k_ordered || (is_k && is_other);
    f.is_as_of_ordered = f.is_as_of_ordered || (is_as_of && is_other);
    if (!usable) {
      f.is_unusable = f.is_unusable || (!is_limit && plan_is_query(c, column, op)) || (is_eq && (is_k || is_as_of));
    } else if (is_limit) {
      *(op == SQLITE_INDEX_CONSTRAINT_LIMIT ? &f.limit : &f.offset) = i;
    } else if (plan_is_query(c, column, op)) {
      f.has_two_queries = f.match >= 0;
      f.match = i;
    } else if (is_eq && is_k) {
      f.second_k = f.k; /* options as the table's argument, and k = 10 */
      f.k = i;
    } else if (is_eq && is_as_of) {
      f.as_of = i;
    } else if (is_eq && column >= 0 && column == c->id_column) {
      f.id = i;
    } else if (is_eq && column < 0) {
      f.rowid = i;
    }
  }
  return f;
}

/* The letter of a condition on the distance that the search looks at; NULL: none. */
static const char *plan_bound(int op) {
  switch (op) {
  case SQLITE_INDEX_CONSTRAINT_LT: return "<";
  case SQLITE_INDEX_CONSTRAINT_LE: return "[";
  case SQLITE_INDEX_CONSTRAINT_GT: return ">";
  case SQLITE_INDEX_CONSTRAINT_GE: return "]";
  case SQLITE_INDEX_CONSTRAINT_EQ: return "="; /* to be a number, no more: docs(:query, 2, '{"exact":true}') is one */
  default: return NULL;
  }
}

/* Bounds and conditions that the search or scan tests itself; *n_left others are left to SQLite. */
static int plan_conditions(index_plan *p, const dvx_config *c, enum plan_kind kind, bool has_as_of, int *n_left) {
  const sqlite3_index_info *info = p->info;
  int n_filters = 0;
  *n_left = 0;
  for (int i = 0; i < info->nConstraint; i++) {
    int column = info->aConstraint[i].iColumn, op = info->aConstraint[i].op, tested = 0;
    bool usable = info->aConstraint[i].usable != 0;
    if (op == SQLITE_INDEX_CONSTRAINT_LIMIT || op == SQLITE_INDEX_CONSTRAINT_OFFSET) continue;
    if (info->aConstraintUsage[i].argvIndex) continue; /* used already */
    bool is_bound = kind == PLAN_SEARCH && column == c->distance_column && plan_bound(op);
    bool is_condition = (kind == PLAN_SEARCH || (kind == PLAN_SCAN && !has_as_of)) && plan_is_condition(op) &&
                        plan_is_testable(c, column, &tested);
    if (usable && is_bound) {
      plan_use(p, i, false, plan_bound(op));
      *n_left += op == SQLITE_INDEX_CONSTRAINT_EQ;
    } else if (usable && is_condition) {
      plan_condition(p, i, tested);
      n_filters++;
    } else {
      (*n_left)++;
    }
  }
  return n_filters;
}

static void plan_price(sqlite3_index_info *info, enum plan_kind kind, uint32_t n_rows, int n_filters) {
  double rows = (n_rows ? n_rows : 10000.0) + 100;
  switch (kind) {
  case PLAN_SEARCH:
    /* Below everything else: MATCH works in no other plan, and for `MATCH … AND (a = 1 OR b = 2)` SQLite compares it with
     * plans for the two halves of the OR, which do not tell us that there is a MATCH. */
    info->estimatedCost = 1;
    info->estimatedRows = 10;
    break;
  case PLAN_LOOKUP:
    info->estimatedCost = 20;
    info->estimatedRows = 1;
    info->idxFlags = SQLITE_INDEX_SCAN_UNIQUE;
    break;
  case PLAN_SCAN:
    info->estimatedCost = rows * (n_filters ? 2 : 4);
    info->estimatedRows = (sqlite3_int64)rows;
    break;
  case PLAN_REFUSED: info->estimatedCost = 1e30; break; /* if there is any other */
  }
}

/* Does the statement compare the distance, or order by it? Without a query that would compare NULL: no rows, or, behind a
 * LIMIT, any. Whether there is no query is not known here, since SQLite plans each half of an OR by itself: for
 * `MATCH … AND (distance < 1 OR distance > 2)` it asks for both, and takes the search. */
static bool plan_needs_distance(const dvx_config *c, sqlite3_index_info *info, int lookup) {
  for (int i = 0; i < info->nConstraint; i++) {
    int op = info->aConstraint[i].op;
    if (info->aConstraint[i].iColumn == c->distance_column && (plan_is_order(op) || op == SQLITE_INDEX_CONSTRAINT_EQ))
      return true;
  }
  bool is_one_row = lookup >= 0 && !sqlite3_vtab_in(info, lookup, -1); /* in any order */
  for (int i = 0; !is_one_row && i < info->nOrderBy; i++) {
    if (info->aOrderBy[i].iColumn == c->distance_column) return true;
  }
  return false;
}

static int table_best_index(sqlite3_vtab *vtab, sqlite3_index_info *info) {
  dvx_table *t = ((table_vtab *)vtab)->t;
  const dvx_config *c = t->config;
  index_plan p = {.info = info};
  plan_terms f = plan_find(c, info);
  if (f.is_k_ordered || f.is_as_of_ordered) { /* SQLite would compare it with NULL, and find no row */
    const char *what = f.is_k_ordered ? "k takes only =: k = 10" : "as_of takes only =: as_of = :time";
    return dvx_give_vtab(t->conn, vtab, dvx_fail(t->conn, t, SQLITE_ERROR, "%s", what));
  }
  if (f.is_unusable) return SQLITE_CONSTRAINT; /* another order of the join must serve */
  if (f.has_two_queries) { /* SQLite would say that it cannot use MATCH, or find no row */
    return dvx_give_vtab(t->conn, vtab,
                         dvx_fail(t->conn, t, SQLITE_ERROR,
                                  "a search has one query, and here are two: WHERE %s MATCH :query", c->vector_name));
  }

  int lookup = f.id >= 0 ? f.id : f.rowid;
  enum plan_kind kind = f.match >= 0 ? PLAN_SEARCH : lookup >= 0 ? PLAN_LOOKUP : PLAN_SCAN;
  /* Not refused here: of `(MATCH … AND k = 1) OR (MATCH … AND k = 1)` SQLite first asks what k = 1 is worth alone. */
  if (kind != PLAN_SEARCH && (f.k >= 0 || plan_needs_distance(c, info, lookup))) kind = PLAN_REFUSED;
  if (f.match >= 0) plan_use(&p, f.match, true, "M");
  if (f.k >= 0) plan_use(&p, f.k, true, "K");
  if (f.second_k >= 0) plan_use(&p, f.second_k, true, "K");
  if (f.as_of >= 0) plan_use(&p, f.as_of, true, "T");
  if (kind == PLAN_LOOKUP) plan_use(&p, lookup, false, f.id >= 0 ? "I" : "R");
  int n_left, n_filters = plan_conditions(&p, c, kind, f.as_of >= 0, &n_left);
  bool in_order = info->nOrderBy == 0 ||
                  (info->nOrderBy == 1 && info->aOrderBy[0].iColumn == c->distance_column && !info->aOrderBy[0].desc);
  if (kind == PLAN_SEARCH && in_order) {
    if (info->nOrderBy) info->orderByConsumed = 1;
    if (f.limit >= 0 && f.k < 0 && n_left == 0) { /* else SQLite drops rows that the limit has counted */
      plan_use(&p, f.limit, true, "L");
      if (f.offset >= 0) plan_use(&p, f.offset, false, "O");
    }
  }
  plan_price(info, kind, t->rows.n, n_filters);
  info->idxNum = (int)kind;
  info->idxStr = dvx_str_take(&p.text);
  if (p.n_args && !info->idxStr) return SQLITE_NOMEM;
  info->needToFreeIdxStr = 1;
  return SQLITE_OK;
}

/* ---- cursors ----------------------------------------------------------------------------------------------------- */

static int table_open(sqlite3_vtab *vtab, sqlite3_vtab_cursor **out) {
  dvx_table *t = ((table_vtab *)vtab)->t;
  table_cursor *c = sqlite3_malloc64(sizeof *c);
  if (!c) return SQLITE_NOMEM;
  memset(c, 0, sizeof *c);
  c->t = t;
  t->n_refs++; /* rows may be asked for after a ROLLBACK has dropped the object this cursor belongs to */
  c->hits.alloc = &dvx_alloc;
  dv_buf_init(&c->hold, &dvx_alloc);
  *out = &c->base;
  return SQLITE_OK;
}

static void cursor_reset(table_cursor *c) {
  sqlite3_free(c->allowed);
  sqlite3_free(c->query);
  sqlite3_free(c->given);
  sqlite3_value_free(c->moment);
  dv_topk_free(&c->hits);
  c->moment = NULL;
  c->allowed = NULL;
  c->query = NULL;
  c->given = NULL;
  c->n_given_words = c->n_given = c->at = 0;
  c->vid = c->fields_vid = 0;
  c->has_as_of = c->has_k = c->is_k_option = c->is_stream = c->has_min = false;
  memset(&c->options, 0, sizeof c->options);
}

static int table_close(sqlite3_vtab_cursor *cursor) {
  table_cursor *c = (table_cursor *)cursor;
  cursor_reset(c);
  dv_buf_free(&c->hold);
  sqlite3_free(c->fields);
  dvx_table_release(c->t);
  sqlite3_free(c);
  return SQLITE_OK;
}

static bool cursor_allows(const table_cursor *c, uint32_t vid) {
  size_t i = vid - 1;
  return c->allowed == NULL || (i < c->n_allowed && (c->allowed[i >> 6] >> (i & 63) & 1));
}

/* Is the row there (now, or as of the cursor's time)? */
static int cursor_sees(table_cursor *c, uint32_t vid, bool *sees) {
  dvx_table *t = c->t;
  *sees = false;
  if (!c->has_as_of) {
    *sees = dvx_word_exists(dvx_row_word(t, vid));
    return SQLITE_OK;
  }
  if (dvx_row_word(t, vid) == 0) return SQLITE_OK;
  int rc = dvx_row_seq_at(t, vid, c->as_of, &c->past_seq);
  if (rc != SQLITE_OK || c->past_seq == 0) return rc;
  dv_record rec;
  rc = dvx_log_change(t, c->past_seq, &rec);
  if (rc == SQLITE_OK) *sees = rec.delta.op != DV_OP_DELETE;
  return rc;
}

/* The next row of a scan behind c->vid. */
static int cursor_scan(table_cursor *c) {
  for (uint32_t vid = c->vid + 1; vid <= c->last_vid; vid++) {
    bool sees = cursor_allows(c, vid);
    int rc = sees ? cursor_sees(c, vid, &sees) : SQLITE_OK;
    if (rc != SQLITE_OK) return rc;
    if (sees) {
      c->vid = vid;
      return SQLITE_OK;
    }
  }
  c->vid = 0;
  return SQLITE_OK;
}

/* A stream has given all of this batch. */
static int cursor_mark_given(table_cursor *c) {
  if (!c->given) {
    size_t n = dvx_table_last_vid(c->t) / 64 + 1;
    c->given = sqlite3_malloc64(n * sizeof *c->given);
    if (!c->given) return SQLITE_NOMEM;
    memset(c->given, 0, n * sizeof *c->given);
    c->n_given_words = n;
  }
  for (size_t h = 0; h < c->hits.n; h++) {
    size_t i = c->hits.hits[h].vid - 1;
    if ((i >> 6) < c->n_given_words) c->given[i >> 6] |= (uint64_t)1 << (i & 63);
  }
  return SQLITE_OK;
}

/* Puts the cursor on the next hit. A stream fetches a longer batch when it has used up one: batches are exact, so the
 * longer one begins with the rows of the shorter, which are skipped by their bits. */
static int cursor_search(table_cursor *c) {
  dvx_table *t = c->t;
  c->vid = 0;
  while (c->n_given < c->n_wanted) {
    while (c->at < c->hits.n) {
      const dv_hit *hit = &c->hits.hits[c->at++];
      size_t i = hit->vid - 1;
      if (dvx_row_word(t, hit->vid) == 0) continue; /* a ROLLBACK took the row away under the cursor */
      if (c->has_min && !(c->is_min_inclusive ? hit->distance >= c->min_distance : hit->distance > c->min_distance))
        continue;
      if ((i >> 6) < c->n_given_words && (c->given[i >> 6] >> (i & 63) & 1)) continue;
      c->n_given++;
      c->vid = hit->vid;
      return SQLITE_OK;
    }
    if (!c->is_stream || c->hits.n < c->options.k) return SQLITE_OK; /* that was every row there is */
    int rc = cursor_mark_given(c);
    if (rc != SQLITE_OK) return rc;
    c->options.is_exact = true;
    c->options.k = c->options.k < SIZE_MAX / 4 ? c->options.k * 4 : SIZE_MAX;
    c->at = 0;
    dv_topk_free(&c->hits);
    rc = dvx_table_begin_read(t);
    if (rc != SQLITE_OK) return rc;
    rc = dvx_search_run(t, c->query, &c->options, &c->hits);
    dvx_table_end_read(t);
    if (rc != SQLITE_OK) return rc;
  }
  return SQLITE_OK;
}

/* ---- xFilter ----------------------------------------------------------------------------------------------------- */

/* A condition that xFilter was given, with what it points to. */
typedef struct filter_arg {
  dvx_condition condition;
  dv_value single;
  char *collation; /* NULL: binary */
} filter_arg;

#define FILTER_MAX_ARGS DVX_MAX_CONDITIONS

typedef struct filter_args {
  filter_arg *args; /* FILTER_MAX_ARGS, allocated with the first */
  int n;
} filter_args;

static void filter_args_free(filter_args *a) {
  for (int i = 0; i < a->n; i++) {
    if (a->args[i].condition.values != &a->args[i].single) sqlite3_free(a->args[i].condition.values);
    sqlite3_free(a->args[i].collation);
  }
  sqlite3_free(a->args);
}

/* The values of an IN list. Their bytes are copied behind them, since sqlite3_vtab_in_next gives one at a time. */
static int filter_in_values(dvx_table *t, sqlite3_value *list, dvx_condition *c) {
  size_t capacity = 0, n = 0;
  dv_value *values = NULL;
  dv_buf bytes;
  sqlite3_value *v = NULL;
  dv_buf_init(&bytes, &dvx_alloc);
  int rc = sqlite3_vtab_in_first(list, &v);
  for (; rc == SQLITE_OK && v; rc = sqlite3_vtab_in_next(list, &v)) {
    if (n == capacity) {
      capacity = capacity ? capacity * 2 : 16;
      dv_value *grown = sqlite3_realloc64(values, capacity * sizeof *grown);
      if (!grown) {
        rc = SQLITE_NOMEM;
        break;
      }
      values = grown;
    }
    int rc2 = dvx_value_of(t->conn, v, &values[n]);
    if (rc2 != SQLITE_OK) {
      rc = rc2;
      break;
    }
    if (values[n].type == DV_TEXT || values[n].type == DV_BLOB) {
      size_t at = bytes.n;
      dv_buf_bytes(&bytes, values[n].bytes, values[n].n_bytes);
      values[n].bytes = (const uint8_t *)(uintptr_t)at;
    }
    n++;
  }
  if (rc == SQLITE_DONE) rc = SQLITE_OK;
  if (rc == SQLITE_OK && bytes.status != DV_OK) rc = SQLITE_NOMEM;
  dv_value *whole = NULL;
  if (rc == SQLITE_OK) {
    whole = sqlite3_malloc64(n * sizeof *whole + bytes.n + 1);
    if (!whole) rc = SQLITE_NOMEM;
  }
  if (rc == SQLITE_OK) {
    uint8_t *copy = (uint8_t *)(whole + n);
    if (n) memcpy(whole, values, n * sizeof *whole);
    if (bytes.n) memcpy(copy, bytes.data, bytes.n);
    for (size_t i = 0; i < n; i++) {
      if (whole[i].type == DV_TEXT || whole[i].type == DV_BLOB) whole[i].bytes = copy + (uintptr_t)whole[i].bytes;
    }
    c->values = whole;
    c->n_values = n;
  }
  sqlite3_free(values);
  dv_buf_free(&bytes);
  return rc;
}

static int parse_int(const char **p) {
  int sign = 1, n = 0;
  if (**p == '-') {
    sign = -1;
    (*p)++;
  }
  while (**p >= '0' && **p <= '9') n = n * 10 + (*(*p)++ - '0');
  return sign * n;
}

/* "column,operator,length:collation" behind a J or F. */
static int filter_args_condition(dvx_table *t, filter_args *a, const char **text, bool is_in, sqlite3_value *v) {
  if (a->n >= FILTER_MAX_ARGS) {
    return dvx_fail(t->conn, t, SQLITE_ERROR, "more than %d conditions on columns of one search", FILTER_MAX_ARGS);
  }
  if (a->args == NULL) {
    a->args = sqlite3_malloc64(FILTER_MAX_ARGS * sizeof *a->args);
    if (!a->args) return SQLITE_NOMEM;
  }
  filter_arg *arg = &a->args[a->n];
  dvx_condition *c = &arg->condition;
  memset(arg, 0, sizeof *arg);
  c->column = parse_int(text);
  (*text)++;
  c->op = parse_int(text);
  (*text)++;
  int n = parse_int(text);
  (*text)++;
  if (n) {
    dvx_str collation = {0};
    dvx_str_add(&collation, *text, (size_t)n);
    arg->collation = dvx_str_take(&collation);
    if (!arg->collation) return SQLITE_NOMEM;
  }
  *text += n;
  c->collation = arg->collation;
  c->is_in = is_in;
  int rc;
  if (is_in) {
    rc = filter_in_values(t, v, c);
  } else {
    rc = dvx_value_of(t->conn, v, &arg->single);
    c->values = &arg->single;
    c->n_values = 1;
  }
  if (rc == SQLITE_OK) {
    a->n++;
  } else {
    sqlite3_free(arg->collation);
  }
  return rc;
}

static int cursor_set_range(table_cursor *c, char op, sqlite3_value *v) {
  int type = sqlite3_value_numeric_type(v);
  if (type == SQLITE_NULL) {
    c->options.k = 0; /* a comparison with NULL is never true */
    c->has_k = true;
    return SQLITE_OK;
  }
  if (type != SQLITE_INTEGER && type != SQLITE_FLOAT) {
    return dvx_fail(c->t->conn, c->t, SQLITE_ERROR, "distance is compared with %v: expected a number", v);
  }
  double d = sqlite3_value_double(v);
  if (op == '<' || op == '[') {
    bool inclusive = op == '[';
    if (!c->options.has_max_distance || d < c->options.max_distance || (d == c->options.max_distance && !inclusive)) {
      c->options.has_max_distance = true;
      c->options.max_distance = d;
      c->options.is_max_inclusive = inclusive;
    }
  } else if (op != '=' && (!c->has_min || d > c->min_distance || (d == c->min_distance && op == '>'))) {
    c->has_min = true;
    c->min_distance = d;
    c->is_min_inclusive = op == ']';
  }
  return SQLITE_OK;
}

static int cursor_set_options(table_cursor *c, const char *json, int n_json) {
  size_t before = c->options.k;
  c->options.k = SIZE_MAX;
  int rc = dvx_search_options_parse(c->t, json, n_json, &c->options);
  c->is_k_option = c->options.k != SIZE_MAX;
  if (!c->is_k_option) c->options.k = before;
  c->has_k = c->has_k || c->is_k_option;
  if (c->options.has_as_of) {
    c->has_as_of = true;
    c->as_of = c->options.as_of;
  }
  return rc;
}

/* k = 10, or as the table's second argument an object of options, or both: then the k of the options, if they have one.
 * Of two different numbers none is k. */
static int cursor_set_k(table_cursor *c, sqlite3_value *v) {
  size_t before = c->options.k, k = 0;
  if (sqlite3_value_type(v) == SQLITE_TEXT) {
    const char *z = (const char *)sqlite3_value_text(v);
    if (!z) return SQLITE_NOMEM;
    if (*dvx_skip_spaces(z) == '{') return cursor_set_options(c, z, sqlite3_value_bytes(v));
  }
  int rc = dvx_search_k(c->t, v, &k);
  if (!c->is_k_option) c->options.k = c->has_k && k != before ? 0 : k;
  c->has_k = true;
  return rc;
}

/* A limit is what SQLite expects to ask for, and where it stops if it does: of a comparison of rows, (a, b) > (1, 2), it
 * tells us only a >= 1, and drops rows that the limit has counted here. So what is limited goes on as a stream. */
static int cursor_start_search(table_cursor *c, bool is_limited, size_t limit) {
  dvx_search_options *o = &c->options;
  c->n_wanted = c->has_k ? o->k : SIZE_MAX;
  /* k rows beyond a distance are found by streaming past the nearer ones. */
  c->is_stream = c->n_wanted == SIZE_MAX || (c->has_min && c->n_wanted > 0);
  o->k = c->n_wanted;
  if (c->is_stream && is_limited && !c->has_min) {
    o->k = limit ? limit : 1;
  } else if (c->is_stream) {
    size_t first = is_limited ? limit : c->n_wanted;
    o->is_exact = true;
    o->k = first < SIZE_MAX && first > VTAB_FIRST_BATCH ? first : VTAB_FIRST_BATCH;
  }
  o->allowed = c->allowed;
  o->n_allowed = c->n_allowed;
  o->has_as_of = c->has_as_of;
  o->as_of = c->as_of;
  return dvx_search_run(c->t, c->query, o, &c->hits);
}

static int cursor_lookup_id(table_cursor *c, sqlite3_value *v, bool is_rowid) {
  dvx_table *t = c->t;
  dv_value id;
  uint32_t vid = 0;
  int rc = dvx_value_of(t->conn, v, &id);
  if (rc != SQLITE_OK) return rc;
  bool is_integer = t->config->id_type != DVX_ID_TEXT;
  if (is_rowid && !is_integer) { /* the rowid of a TEXT id is the vid */
    double n = sqlite3_value_double(v); /* exact, as far as there are rows */
    int type = sqlite3_value_numeric_type(v);
    bool is_number = type == SQLITE_INTEGER || type == SQLITE_FLOAT;
    if (is_number && n >= 1 && n <= dvx_table_last_vid(t) && n == (double)(uint32_t)n) vid = (uint32_t)n;
  } else if (is_integer) {
    int type = sqlite3_value_numeric_type(v);
    if (type == SQLITE_FLOAT && sqlite3_value_double(v) == (double)sqlite3_value_int64(v)) type = SQLITE_INTEGER;
    if (type != SQLITE_INTEGER) return SQLITE_OK;
    id = (dv_value){.type = DV_INTEGER, .integer = sqlite3_value_int64(v)};
    rc = dvx_row_find(t, &id, &vid);
  } else {
    if (id.type == DV_NULL || id.type == DV_BLOB) return SQLITE_OK;
    if (id.type != DV_TEXT) { /* TEXT affinity: 5 finds '5' */
      const unsigned char *z = sqlite3_value_text(v);
      if (!z) return SQLITE_NOMEM;
      id = (dv_value){.type = DV_TEXT, .bytes = z, .n_bytes = (size_t)sqlite3_value_bytes(v)};
    }
    rc = dvx_row_find(t, &id, &vid);
  }
  if (rc != SQLITE_OK || vid == 0) return rc;
  bool sees;
  rc = cursor_sees(c, vid, &sees);
  if (rc == SQLITE_OK && sees) c->vid = vid;
  return rc;
}

static int cursor_filter(table_cursor *c, const char *text, sqlite3_value **argv, filter_args *a) {
  dvx_table *t = c->t;
  int rc = SQLITE_OK, arg = 0;
  sqlite3_value *lookup = NULL;
  bool is_rowid = false, is_limited = false;
  size_t limit = 0, offset = 0;
  dv_buf query;
  size_t n;
  dv_buf_init(&query, &dvx_alloc);
  while (rc == SQLITE_OK && text && *text) {
    char token = *text++;
    sqlite3_value *v = argv[arg++];
    switch (token) {
    case 'M': rc = dvx_value_vector(t->conn, t, v, t->config->dimensions, "the query", &query, &n); break;
    case 'K': rc = cursor_set_k(c, v); break;
    case 'T':
      c->has_as_of = true;
      rc = dvx_time_parse(t->conn, t, NULL, v, &c->as_of);
      if (rc == SQLITE_OK && sqlite3_value_type(v) == SQLITE_TEXT) {
        c->moment = sqlite3_value_dup(v);
        if (!c->moment) rc = SQLITE_NOMEM;
      }
      break;
    case 'I':
    case 'R':
      lookup = v;
      is_rowid = token == 'R';
      break;
    case 'L': {
      sqlite3_int64 l = sqlite3_value_int64(v);
      is_limited = l >= 0;
      limit = l > 0 ? (size_t)l : 0;
      break;
    }
    case 'O': {
      sqlite3_int64 l = sqlite3_value_int64(v);
      offset = l > 0 ? (size_t)l : 0;
      break;
    }
    case 'J':
    case 'F': rc = filter_args_condition(t, a, &text, token == 'J', v); break;
    default: rc = cursor_set_range(c, token, v); break;
    }
  }
  if (rc == SQLITE_OK && a->n) {
    dvx_condition conditions[FILTER_MAX_ARGS];
    for (int i = 0; i < a->n; i++) conditions[i] = a->args[i].condition;
    c->n_allowed = dvx_table_last_vid(t);
    rc = dvx_filter_rows(t, conditions, a->n, c->has_as_of, c->as_of, &c->allowed);
  }
  c->last_vid = dvx_table_last_vid(t);
  if (rc == SQLITE_OK && c->kind == PLAN_LOOKUP) rc = cursor_lookup_id(c, lookup, is_rowid);
  if (rc == SQLITE_OK && c->kind == PLAN_SCAN) rc = cursor_scan(c);
  if (rc == SQLITE_OK && c->kind == PLAN_SEARCH) {
    c->query = (float *)(void *)query.data; /* from sqlite3_malloc, by dvx_alloc: the cursor keeps it */
    query.data = NULL;
    rc = cursor_start_search(c, is_limited, limit + offset);
    if (rc == SQLITE_OK) rc = cursor_search(c);
  }
  dv_buf_free(&query);
  return rc;
}

static int table_filter(sqlite3_vtab_cursor *cursor, int kind, const char *text, int argc, sqlite3_value **argv) {
  table_cursor *c = (table_cursor *)cursor;
  dvx_table *t = c->t;
  (void)argc;
  cursor_reset(c);
  c->kind = (enum plan_kind)kind;
  if (c->kind == PLAN_REFUSED) {
    bool has_k = text && *text == 'K';
    return dvx_give_vtab(t->conn, cursor->pVtab,
                         dvx_fail(t->conn, t, SQLITE_ERROR, "%s needs a query: WHERE %s MATCH :query%s",
                                  has_k ? "k" : "distance", t->config->vector_name, has_k ? " AND k = 10" : ""));
  }
  int rc = dvx_table_begin_read(t);
  if (rc == SQLITE_OK) {
    filter_args a = {NULL, 0};
    rc = cursor_filter(c, text, argv, &a);
    filter_args_free(&a);
    dvx_table_end_read(t);
  }
  return rc == SQLITE_OK ? SQLITE_OK : dvx_give_vtab(t->conn, cursor->pVtab, rc);
}

static int table_next(sqlite3_vtab_cursor *cursor) {
  table_cursor *c = (table_cursor *)cursor;
  dvx_table *t = c->t;
  int rc = SQLITE_OK;
  if (c->kind == PLAN_LOOKUP) {
    c->vid = 0;
  } else if (c->kind == PLAN_SCAN) {
    rc = dvx_table_begin_read(t);
    if (rc == SQLITE_OK) {
      rc = cursor_scan(c);
      dvx_table_end_read(t);
    }
  } else {
    rc = cursor_search(c);
  }
  return rc == SQLITE_OK ? SQLITE_OK : dvx_give_vtab(t->conn, cursor->pVtab, rc);
}

static int table_eof(sqlite3_vtab_cursor *cursor) { return ((table_cursor *)cursor)->vid == 0; }

static int table_rowid(sqlite3_vtab_cursor *cursor, sqlite3_int64 *rowid) {
  table_cursor *c = (table_cursor *)cursor;
  if (c->t->config->id_type == DVX_ID_TEXT) {
    *rowid = c->vid;
    return SQLITE_OK;
  }
  dv_value id;
  int rc = dvx_row_id(c->t, c->vid, &id);
  if (rc != SQLITE_OK) return dvx_give_vtab(c->t->conn, cursor->pVtab, rc);
  *rowid = id.integer;
  return SQLITE_OK;
}

/* ---- xColumn ----------------------------------------------------------------------------------------------------- */

static int cursor_fields(table_cursor *c) {
  dvx_table *t = c->t;
  int n = t->config->n_columns;
  if (c->fields_vid == c->vid) return SQLITE_OK;
  if (c->fields == NULL) {
    c->fields = sqlite3_malloc64((size_t)(n ? n : 1) * sizeof *c->fields);
    if (!c->fields) return SQLITE_NOMEM;
  }
  dv_buf_free(&c->hold);
  int rc;
  if (c->has_as_of) {
    uint64_t seq;
    rc = dvx_row_seq_at(t, c->vid, c->as_of, &seq);
    if (rc == SQLITE_OK) rc = dvx_row_fields_at(t, c->vid, seq, &c->hold, c->fields);
  } else {
    rc = dvx_row_fields(t, c->vid, c->fields);
    if (rc == SQLITE_OK) {
      /* The values live in the table's scratch: keep them for the row's other columns. */
      size_t total = 0;
      for (int i = 0; i < n; i++) total += c->fields[i].n_bytes;
      uint8_t *to = dv_buf_extend(&c->hold, total + 1);
      if (!to) return SQLITE_NOMEM;
      for (int i = 0; i < n; i++) {
        if (c->fields[i].n_bytes == 0) continue;
        memcpy(to, c->fields[i].bytes, c->fields[i].n_bytes);
        c->fields[i].bytes = to;
        to += c->fields[i].n_bytes;
      }
    }
  }
  if (rc == SQLITE_OK) c->fields_vid = c->vid;
  return rc;
}

static int cursor_vector(table_cursor *c, sqlite3_context *ctx) {
  dvx_table *t = c->t;
  const float *v = t->next_vector;
  bool exists = true;
  int rc = SQLITE_OK;
  if (c->has_as_of) {
    uint64_t seq;
    rc = dvx_row_seq_at(t, c->vid, c->as_of, &seq);
    exists = false;
    if (rc == SQLITE_OK && seq) rc = dvx_row_vector_at(t, c->vid, seq, t->next_vector, &exists);
  } else {
    exists = dvx_word_exists(dvx_row_word(t, c->vid)); /* gone when a ROLLBACK took it away under the cursor */
    if (exists) rc = dvx_row_vector(t, c->vid, &v);
  }
  if (rc == SQLITE_OK && exists) dvx_result_vector(t->conn, ctx, v, t->config->dimensions);
  return rc;
}

/* For `as_of = '2026-05-01' AND (id = 'a' OR rowid = 2)` SQLite looks up each half of the OR, and then tests for each row
 * that as_of is '2026-05-01': with milliseconds it would find no row. */
static int cursor_moment(const table_cursor *c, sqlite3_context *ctx) {
  dv_value value;
  if (!c->moment) {
    sqlite3_result_int64(ctx, c->as_of);
    return SQLITE_OK;
  }
  int rc = dvx_value_of(c->t->conn, c->moment, &value);
  if (rc == SQLITE_OK) dvx_result_value(ctx, &value);
  return rc;
}

static int cursor_column(table_cursor *c, sqlite3_context *ctx, int column) {
  dvx_table *t = c->t;
  const dvx_config *config = t->config;
  int rc = SQLITE_OK;
  if (column == config->id_column) {
    dv_value id;
    rc = dvx_row_id(t, c->vid, &id);
    if (rc == SQLITE_OK) dvx_result_value(ctx, &id);
  } else if (column == config->vector_column) {
    if (!sqlite3_vtab_nochange(ctx)) rc = cursor_vector(c, ctx);
  } else if (column == config->distance_column) {
    if (c->kind == PLAN_SEARCH && !sqlite3_vtab_nochange(ctx))
      sqlite3_result_double(ctx, c->hits.hits[c->at - 1].distance);
  } else if (column == config->as_of_column) {
    if (c->has_as_of && !sqlite3_vtab_nochange(ctx)) rc = cursor_moment(c, ctx);
  } else if (column == config->k_column || column == config->command_column || column == config->delta_column) {
    /* inputs only */
  } else if (!sqlite3_vtab_nochange(ctx)) {
    int i = plan_meta_column(config, column);
    rc = cursor_fields(c);
    if (rc == SQLITE_OK && i >= 0) dvx_result_value(ctx, &c->fields[i]);
  }
  return rc;
}

static int table_column(sqlite3_vtab_cursor *cursor, sqlite3_context *ctx, int column) {
  table_cursor *c = (table_cursor *)cursor;
  dvx_table *t = c->t;
  int rc = SQLITE_OK;
  if (!t->is_loaded) { /* memory was dropped since the row was reached */
    rc = dvx_table_begin_read(t);
    if (rc == SQLITE_OK) dvx_table_end_read(t);
  }
  if (rc == SQLITE_OK) rc = cursor_column(c, ctx, column);
  return rc == SQLITE_OK ? SQLITE_OK : dvx_give_vtab(t->conn, cursor->pVtab, rc);
}

/* ---- writing and transactions ------------------------------------------------------------------------------------ */

static int table_update(sqlite3_vtab *vtab, int argc, sqlite3_value **argv, sqlite3_int64 *rowid) {
  dvx_table *t = ((table_vtab *)vtab)->t;
  int rc = dvx_write_update(t, argc, argv, rowid);
  return rc == SQLITE_OK ? SQLITE_OK : dvx_give_vtab(t->conn, vtab, rc);
}

static int table_begin(sqlite3_vtab *vtab) {
  dvx_table *t = ((table_vtab *)vtab)->t;
  int rc = dvx_txn_begin(t);
  ((table_vtab *)vtab)->is_begun = rc == SQLITE_OK;
  if ((rc & 0xff) == SQLITE_CORRUPT) {
    /* It cannot take part. dvx_write_update will say so, to all but the integrity check, which is not to end here. */
    sqlite3_free(t->conn->error);
    t->conn->error = NULL;
    return SQLITE_OK;
  }
  return rc == SQLITE_OK ? SQLITE_OK : dvx_give_vtab(t->conn, vtab, rc);
}

static int table_sync(sqlite3_vtab *vtab) {
  dvx_table *t = ((table_vtab *)vtab)->t;
  int rc = dvx_txn_sync(t);
  return rc == SQLITE_OK ? SQLITE_OK : dvx_give_vtab(t->conn, vtab, rc);
}

static int table_commit(sqlite3_vtab *vtab) {
  dvx_txn_commit(((table_vtab *)vtab)->t);
  ((table_vtab *)vtab)->is_begun = false;
  return SQLITE_OK;
}

static int table_rollback(sqlite3_vtab *vtab) {
  dvx_txn_rollback(((table_vtab *)vtab)->t);
  ((table_vtab *)vtab)->is_begun = false;
  return SQLITE_OK;
}

static int table_savepoint(sqlite3_vtab *vtab, int level) {
  dvx_table *t = ((table_vtab *)vtab)->t;
  int rc;
  dvx_txn_savepoint(t, level, &rc);
  return rc == SQLITE_OK ? SQLITE_OK : dvx_give_vtab(t->conn, vtab, rc);
}

static int table_release(sqlite3_vtab *vtab, int level) {
  dvx_txn_release(((table_vtab *)vtab)->t, level);
  return SQLITE_OK;
}

static int table_rollback_to(sqlite3_vtab *vtab, int level) {
  dvx_table *t = ((table_vtab *)vtab)->t;
  int rc = dvx_txn_rollback_to(t, level);
  return rc == SQLITE_OK ? SQLITE_OK : dvx_give_vtab(t->conn, vtab, rc);
}

static int table_rename(sqlite3_vtab *vtab, const char *new_name) {
  dvx_table *t = ((table_vtab *)vtab)->t;
  if (dvx_config_has_column(t->config, new_name)) {
    return dvx_give_vtab(
        t->conn, vtab,
        dvx_fail(t->conn, t, SQLITE_ERROR, "it cannot be renamed to %s, the name of a column", new_name));
  }
  /* From now on another object, under the new name, serves the table; it reads the file. So the file must have it
   * all. */
  int rc = t->overlay.is_open ? dvx_table_flush(t) : SQLITE_OK;
  if (rc == SQLITE_OK) rc = dvx_shadow_rename(t, new_name);
  if (rc == SQLITE_OK) dvx_txn_renamed(t);
  return rc == SQLITE_OK ? SQLITE_OK : dvx_give_vtab(t->conn, vtab, rc);
}

static int table_shadow_name(const char *name) { return dvx_shadow_is_suffix(name); }

#if DVX_HAS_XINTEGRITY
static int table_integrity(sqlite3_vtab *vtab, const char *schema, const char *name, int flags, char **report) {
  dvx_table *t = ((table_vtab *)vtab)->t;
  (void)schema, (void)name;
  int rc = dvx_table_begin_read(t);
  if (rc == SQLITE_OK) {
    rc = dvx_integrity_check(t, (flags & 1) != 0, report);
    dvx_table_end_read(t);
  }
  if (rc == SQLITE_NOMEM) return rc;
  if (rc != SQLITE_OK) {
    /* The table cannot even be read: that is a finding, not a failure of the check. */
    sqlite3_free(*report);
    *report = t->conn->error ? t->conn->error : dvx_format("table %s cannot be read", name);
    t->conn->error = NULL;
  }
  return SQLITE_OK;
}
#endif

static const sqlite3_module table_module = {
#if DVX_HAS_XINTEGRITY
    .iVersion = 4,
    .xIntegrity = table_integrity,
#else
    .iVersion = 3,
#endif
    .xCreate = table_create,
    .xConnect = table_connect_method,
    .xBestIndex = table_best_index,
    .xDisconnect = table_disconnect,
    .xDestroy = table_destroy,
    .xOpen = table_open,
    .xClose = table_close,
    .xFilter = table_filter,
    .xNext = table_next,
    .xEof = table_eof,
    .xColumn = table_column,
    .xRowid = table_rowid,
    .xUpdate = table_update,
    .xBegin = table_begin,
    .xSync = table_sync,
    .xCommit = table_commit,
    .xRollback = table_rollback,
    .xRename = table_rename,
    .xSavepoint = table_savepoint,
    .xRelease = table_release,
    .xRollbackTo = table_rollback_to,
    .xShadowName = table_shadow_name,
};

int dvx_vtab_register(dvx_conn *conn) { return dvx_conn_module(conn, "delta_vectors", &table_module); }
