/*
 * search.c: the nearest rows, now and at a past time, and the table-valued function vector_search.
 *
 * One search = a scan of codes with an exact re-rank over the committed rows that nothing is pending for
 *            ∪ an exact scan of the rows with uncommitted deltas (their vector inside the transaction)
 *            ∪ for a past time T, an exact scan of the rows that changed after T, with their vector of that time.
 *
 * A row is in exactly one of the three. So a search sees what a SELECT in the same transaction sees, and time travel
 * needs no second index: rows that did not change since T have today's codes.
 *
 * The vectors of past states are kept for the next search of the same moment, until the table changes.
 */
#include "ext_int.h"

#include <math.h>

#define SEARCH_APPROXIMATE_RECALL 0.999
/* What the usual ef is to find, where it was measured. */
#define SEARCH_LEAST_RECALL 0.9
#define SEARCH_PART_ROWS ((size_t)8192)
/* Where a scan costs so many times as much as a look at the graph, it is worth looking whether the graph will do. */
#define SEARCH_PROBE 4.0
/* index=hnsw means the graph, unless a recall_target makes it so many times as slow as a scan. */
#define SEARCH_FAR 16.0
/* How far what is found near a query may be from what was expected before a search of the graph is given up. */
#define SEARCH_PATIENCE 1.5

/* What the rows that changed after `as_of` were then. Right for every time in as_of .. until-1. */
struct dvx_past {
  int64_t as_of;
  int64_t until;
  size_t n;
  uint32_t *vids;   /* all that changed */
  bool *exists;     /* set if there are vectors */
  float *vectors;   /* n * dimensions; NULL: too many to keep */
};

static void past_free(dvx_past *p) {
  if (!p) return;
  sqlite3_free(p->vids);
  sqlite3_free(p->exists);
  sqlite3_free(p->vectors);
  sqlite3_free(p);
}

void dvx_search_forget(dvx_table *t) {
  past_free(t->past);
  t->past = NULL;
}

int dvx_search_changed(dvx_table *t, int64_t time, uint32_t **vids, size_t *n) {
  const dvx_rows *r = &t->rows;
  uint64_t first;
  size_t capacity = *n;
  if (r->n == 0) return SQLITE_OK;
  int rc = dvx_log_first_after(t, time, &first);
  if (rc != SQLITE_OK) return rc;
  uint64_t low = first << 16; /* heads below this are of records before */
  for (uint32_t vid = 1; vid <= r->n; vid++) {
    if (r->words[vid] < low || r->words[vid] == 0) continue;
    const dvx_touched *p = dvx_txn_touched(t, vid);
    if (p && p->last) continue;
    int64_t last = 0;
    rc = dvx_row_time(t, vid, &last);
    if (rc != SQLITE_OK) return rc;
    if (last <= time) continue;
    if (*n == capacity) {
      capacity = capacity ? capacity * 2 : 64;
      uint32_t *grown = sqlite3_realloc64(*vids, capacity * sizeof *grown);
      if (!grown) return SQLITE_NOMEM;
      *vids = grown;
    }
    (*vids)[(*n)++] = vid;
  }
  return SQLITE_OK;
}

/* The row's last record with time <= as_of (0: none), and the time of the one after it. */
static int past_walk(dvx_table *t, uint32_t vid, int64_t as_of, uint64_t *seq, int64_t *next_time) {
  uint64_t at = dvx_word_seq(dvx_row_word(t, vid));
  *seq = 0;
  *next_time = INT64_MAX;
  while (at) {
    dv_record rec;
    int rc = dvx_log_record(t, at, &rec);
    if (rc != SQLITE_OK) return rc;
    if (rec.time <= as_of) {
      *seq = at;
      return SQLITE_OK;
    }
    *next_time = rec.time;
    if (rec.link == 0 || rec.link >= at) return SQLITE_OK;
    at -= rec.link;
  }
  return SQLITE_OK;
}

static int past_vector(dvx_table *t, uint32_t vid, int64_t as_of, float *out, bool *exists, int64_t *next_time) {
  uint64_t seq;
  int rc = past_walk(t, vid, as_of, &seq, next_time);
  *exists = false;
  if (rc != SQLITE_OK || seq == 0) return rc;
  return dvx_row_vector_at(t, vid, seq, out, exists);
}

static int past_ready(dvx_table *t, int64_t as_of) {
  if (t->past && t->past->as_of <= as_of && as_of < t->past->until) return SQLITE_OK;
  dvx_search_forget(t);
  size_t n = t->config->dimensions;
  dvx_past *p = sqlite3_malloc64(sizeof *p);
  if (!p) return SQLITE_NOMEM;
  memset(p, 0, sizeof *p);
  p->as_of = as_of;
  p->until = INT64_MAX;
  int rc = dvx_search_changed(t, as_of, &p->vids, &p->n);
  if (rc == SQLITE_OK) {
    p->exists = sqlite3_malloc64(p->n + 1);
    if (!p->exists) rc = SQLITE_NOMEM;
  }
  if (rc == SQLITE_OK && p->n * n * sizeof(float) <= DVX_PAST_BYTES) {
    p->vectors = sqlite3_malloc64(p->n * n * sizeof(float) + 1);
    if (!p->vectors) rc = SQLITE_NOMEM;
  }
  for (size_t i = 0; rc == SQLITE_OK && i < p->n; i++) {
    int64_t next_time = INT64_MAX;
    rc = dvx_poll(t);
    if (rc != SQLITE_OK) break;
    if (p->vectors) {
      rc = past_vector(t, p->vids[i], as_of, p->vectors + i * n, &p->exists[i], &next_time);
    } else {
      uint64_t seq;
      rc = past_walk(t, p->vids[i], as_of, &seq, &next_time);
    }
    if (next_time < p->until) p->until = next_time;
  }
  if (rc != SQLITE_OK) {
    past_free(p);
    return rc;
  }
  t->past = p;
  return SQLITE_OK;
}

/* ---- one search -------------------------------------------------------------------------------------------------- */

typedef struct search_run {
  dvx_table *t;
  const dvx_search_options *o;
  dv_query query;
  dv_topk *out;
} search_run;

static bool search_allows(const dvx_search_options *o, uint32_t vid) {
  size_t i = vid - 1;
  return o->allowed == NULL || (i < o->n_allowed && (o->allowed[i >> 6] >> (i & 63) & 1));
}

static int search_offer(search_run *s, uint32_t vid, const float *v) {
  double d = dv_query_distance(&s->query, v);
  const dvx_search_options *o = s->o;
  if (o->has_max_distance && !(o->is_max_inclusive ? d <= o->max_distance : d < o->max_distance)) return SQLITE_OK;
  return dv_topk_push(s->out, d, vid) == DV_OK ? SQLITE_OK : SQLITE_NOMEM;
}

/* Rows with pending deltas: their vector inside the transaction, or of the time asked for. */
static int search_touched(search_run *s) {
  dvx_table *t = s->t;
  const dvx_overlay *o = &t->overlay;
  for (size_t i = 0; o->n_touched && i < o->n_touched_slots; i++) {
    uint32_t vid = o->touched[i].vid;
    if (vid == 0 || o->touched[i].last == 0 || !search_allows(s->o, vid)) continue;
    const float *v = t->next_vector;
    bool exists;
    int rc = SQLITE_OK;
    if (s->o->has_as_of) {
      int64_t next_time;
      rc = past_vector(t, vid, s->o->as_of, t->next_vector, &exists, &next_time);
    } else {
      exists = dvx_word_exists(dvx_row_word(t, vid));
      if (exists) rc = dvx_row_vector(t, vid, &v);
    }
    if (rc == SQLITE_OK && exists) rc = search_offer(s, vid, v);
    if (rc != SQLITE_OK) return rc;
  }
  return SQLITE_OK;
}

static int search_past(search_run *s) {
  dvx_table *t = s->t;
  const dvx_past *p = t->past;
  size_t n = t->config->dimensions;
  for (size_t i = 0; i < p->n; i++) {
    const dvx_touched *touched = dvx_txn_touched(t, p->vids[i]);
    if ((touched && touched->last) || !search_allows(s->o, p->vids[i])) continue;
    const float *v = p->vectors ? p->vectors + i * n : t->next_vector;
    bool exists = p->vectors && p->exists[i];
    int rc = SQLITE_OK;
    if (!p->vectors) {
      int64_t next_time;
      rc = past_vector(t, p->vids[i], s->o->as_of, t->next_vector, &exists, &next_time);
    }
    if (rc == SQLITE_OK && exists) rc = search_offer(s, p->vids[i], v);
    if (rc != SQLITE_OK) return rc;
  }
  return SQLITE_OK;
}

/* The committed rows that the scan of codes answers for: live, allowed, untouched, not changed since as_of. Points to
 * the mirror's own bitmap when nothing is to be taken away. */
static int search_mask(search_run *s, const uint64_t **mask, uint64_t **owned) {
  dvx_table *t = s->t;
  const dvx_search_options *o = s->o;
  const dvx_mirror *m = &t->mirror;
  *owned = NULL;
  *mask = m->live;
  if (o->allowed == NULL && t->overlay.n_touched == 0 && !(o->has_as_of && t->past->n)) {
    /* No row was ever deleted: nothing to test row by row. */
    if (t->rows.n_live == m->n) *mask = NULL;
    return SQLITE_OK;
  }
  size_t n_words = (m->n + 63) / 64;
  uint64_t *bits = sqlite3_malloc64((n_words + 1) * sizeof *bits);
  if (!bits) return SQLITE_NOMEM;
  memcpy(bits, m->live, n_words * sizeof *bits);
  if (o->allowed) {
    size_t n_allowed = (o->n_allowed + 63) / 64;
    for (size_t w = 0; w < n_words; w++) bits[w] &= w < n_allowed ? o->allowed[w] : 0;
  }
  const dvx_overlay *v = &t->overlay;
  for (size_t i = 0; v->n_touched && i < v->n_touched_slots; i++) {
    if (v->touched[i].vid && v->touched[i].last && v->touched[i].vid <= m->n) {
      bits[(v->touched[i].vid - 1) >> 6] &= ~((uint64_t)1 << ((v->touched[i].vid - 1) & 63));
    }
  }
  for (size_t i = 0; o->has_as_of && i < t->past->n; i++) {
    bits[(t->past->vids[i] - 1) >> 6] &= ~((uint64_t)1 << ((t->past->vids[i] - 1) & 63));
  }
  *mask = *owned = bits;
  return SQLITE_OK;
}

typedef struct search_vectors {
  dvx_table *t;
  int rc;
} search_vectors;

static const float *search_vector(void *ctx, uint32_t row, dv_status *status) {
  search_vectors *s = ctx;
  const float *v = NULL;
  s->rc = dvx_poll(s->t);
  if (s->rc == SQLITE_OK) s->rc = dvx_row_committed_vector(s->t, row + 1, &v);
  *status = s->rc == SQLITE_OK ? DV_OK : DV_CORRUPT;
  return v;
}

static dv_status search_poll(void *ctx) {
  search_vectors *s = ctx;
  s->rc = dvx_poll(s->t);
  return s->rc == SQLITE_OK ? DV_OK : DV_CORRUPT;
}

static int search_status(dvx_table *t, dv_status status, int rc) {
  if (status == DV_OK) return SQLITE_OK;
  if (rc != SQLITE_OK) return rc;
  return status == DV_NOMEM ? SQLITE_NOMEM : dvx_fail_status(t->conn, t, status, "the search");
}

#define SEARCH_PREFETCHED 64u /* ids of so many hits */
#define SEARCH_FINE_ROWS 256u /* a query is coded finely where more are looked at */

/* Scans the codes of the rows of the mask; or, with a list, of those. */
static int search_scan(search_run *s, dv_code_query *cq, const uint64_t *mask, const uint32_t *list, size_t n_list) {
  dvx_table *t = s->t;
  dvx_mirror *m = &t->mirror;
  const dvx_search_options *o = s->o;
  search_vectors vectors = {t, SQLITE_OK};
  dv_flat f = {.n_rows = m->n,
               .n = t->config->dimensions,
               .codes = m->codes,
               .code_rows = m->code_rows,
               .bits = m->has_bits ? m->bits : NULL,
               .bit_rows = m->bit_rows,
               .center = m->center,
               .mask = mask,
               .list = list,
               .n_list = n_list,
               .vector = search_vector,
               .poll = search_poll,
               .ctx = &vectors};
  if (!list || n_list > SEARCH_FINE_ROWS) dv_code_query_refine(cq, s->query.v);
  dv_status status = o->has_max_distance
                         ? dv_flat_range(&f, &s->query, cq, o->max_distance, o->is_max_inclusive, s->out, &m->scratch)
                         : dv_flat_search(&f, &s->query, cq, s->out->k, o->is_exact, s->out, &m->scratch);
  return search_status(t, status, vectors.rc);
}

static inline bool search_bit(const uint64_t *bits, size_t i) {
  return bits[i >> 6] >> (i & 63) & 1; /* NOLINT(clang-analyzer-core.NullDereference): who has rows has their bits */
}

/* Would the codes of all rows be within memory_limit? */
static bool search_all_fit(const dvx_table *t) {
  const dvx_mirror *m = &t->mirror;
  size_t all = m->n * m->pages.row_bytes, limit = dvx_table_memory_limit(t);
  size_t others = dvx_table_memory(t) - dvx_pages_bytes(&m->pages) - t->vectors.n_bytes;
  return all <= limit && others + limit / 8 <= limit - all;
}

/* Scans rows whose codes are not all in memory: some thousands at a time, and of those only the ones of the mask, if
 * they are few. What is read is given back when it has become too much. */
static int search_scan_in_parts(search_run *s, dv_code_query *cq, const uint64_t *mask) {
  dvx_table *t = s->t;
  const size_t n_rows = t->mirror.n;
  int rc = SQLITE_OK;
  uint32_t *list = sqlite3_malloc64(SEARCH_PART_ROWS * sizeof *list);
  if (!list) return SQLITE_NOMEM;
  for (size_t first = 0; rc == SQLITE_OK && first < n_rows; first += SEARCH_PART_ROWS) {
    size_t end = first + SEARCH_PART_ROWS < n_rows ? first + SEARCH_PART_ROWS : n_rows, n = 0;
    for (size_t row = first; row < end; row++)
      if (search_bit(mask ? mask : t->mirror.live, row)) list[n++] = (uint32_t)row;
    if (n > (end - first) / 8) rc = dvx_mirror_need_range(t, first, end);
    for (size_t i = 0; rc == SQLITE_OK && i < n; i++) rc = dvx_mirror_need_code(t, list[i]);
    if (rc == SQLITE_OK && n > 0) rc = search_scan(s, cq, NULL, list, n);
    dvx_mirror_trim(t);
  }
  sqlite3_free(list);
  return rc;
}

/* ---- the graph --------------------------------------------------------------------------------------------------- */

/* What a search costs, in distances of codes read in their order; measured by bench_filter. Codes of scattered rows
 * take twice as long as those in order, half of which is waiting for memory. */
static double search_cost_of_scan(const dvx_table *t, size_t n_passing, bool is_exact) {
  if (t->config->metric == DV_L1) return DVX_SCAN_COST * 8.0 * (double)n_passing; /* of vectors */
  bool has_bits = !is_exact && n_passing >= t->mirror.n / 8;
  return DVX_SCAN_COST * (has_bits ? 0.25 * (double)t->mirror.n : 2.0 * (double)n_passing);
}

/* A hit finds its place among ef others by moving them: for a large ef that is most of the work. */
static double search_cost_of_graph(const dvx_table *t, size_t ef, size_t n_fresh) {
  double n = (double)ef, vectors = t->config->metric == DV_L1 ? 16.0 * n : 0.0;
  return 5.0 * (200.0 + 12.0 * n) + 0.015 * n * n + 2.0 * (double)n_fresh + vectors;
}

/* ... for rows that pass a filter: more are kept, counted and let go than are found. */
static double search_cost_of_filtered(const dvx_table *t, size_t ef, size_t n_fresh) {
  return 1.6 * search_cost_of_graph(t, ef, n_fresh);
}

static size_t search_count(const uint64_t *bits, size_t n_words) {
  size_t n = 0;
  for (size_t w = 0; w < n_words; w++) {
    uint64_t x = bits[w];
    x -= x >> 1 & 0x5555555555555555u;
    x = (x & 0x3333333333333333u) + (x >> 2 & 0x3333333333333333u);
    n += (size_t)(((x + (x >> 4)) & 0x0f0f0f0f0f0f0f0fu) * 0x0101010101010101u >> 56);
  }
  return n;
}

/* The recall that is asked for. An ef that is given with the search comes before the table's target. Where neither is given
 * and the usual ef is known to miss much, as where rows are spread evenly or directions have two dimensions, it is not for the
 * user to find that out; but who has set a smaller ef wants that one. */
static double search_target(const dvx_table *t, const dvx_search_options *o) {
  if (o->recall_target > 0) return o->recall_target;
  if (o->ef > 0) return 0;
  if (t->config->recall_target > 0 || t->hnsw_ef_search < DVX_EF_SEARCH) return t->config->recall_target;
  const double recall = dvx_graph_recall_at(t, (size_t)t->hnsw_ef_search);
  return recall >= 0 && recall < SEARCH_LEAST_RECALL ? SEARCH_LEAST_RECALL : 0;
}

/* How the graph is asked. */
typedef struct search_plan {
  size_t n_wanted; /* so many of the rows found must pass; 0: a scan is better */
  size_t ef; /* what finds that many, if those that pass are spread evenly */
  double cost_of_scan;
} search_plan;

/* ef for n_wanted rows of which `share` pass, within what there is. */
static size_t search_widened(const dvx_table *t, size_t n_wanted, double share) {
  double n_linked = (double)t->graph.hnsw.n_linked, ef = (double)n_wanted / share;
  return ef < n_linked ? (size_t)ef : t->graph.hnsw.n_linked;
}

static search_plan search_plan_of(const dvx_table *t, const dvx_search_options *o, size_t ef_for_target,
                                  size_t n_passing) {
  const dvx_graph *gr = &t->graph;
  size_t n_live = (size_t)t->rows.n_live, k = o->k;
  search_plan none = {0}, p = {0};
  if (!gr->is_there || gr->hnsw.n_linked == 0 || o->is_exact || o->has_max_distance) return none;
  if (n_passing == 0 || k >= n_live) return none;
  p.n_wanted = ef_for_target ? ef_for_target : (size_t)(o->ef > 0 ? o->ef : t->hnsw_ef_search);
  if (n_passing < n_live)
    p.n_wanted += p.n_wanted / 4; /* those that pass are found a little less surely than all are */
  /* By l2 the k nearest are others than by l1, though not far away. */
  size_t n_least = t->config->metric == DV_L1 ? 4 * k : k;
  if (p.n_wanted < n_least) p.n_wanted = n_least;
  p.ef = p.n_wanted;
  p.cost_of_scan = search_cost_of_scan(t, n_passing, false);
  /* Rows that are linked still, but deleted, take places too. */
  double n_linked = (double)gr->hnsw.n_linked;
  if (n_passing < n_live || n_linked > (double)n_live)
    p.ef = search_widened(t, p.n_wanted, (double)n_passing / n_linked);
  if (p.ef < k) p.ef = k;
  bool is_asked_for = t->config->index == DVX_INDEX_HNSW && n_passing == n_live && gr->n_fresh <= n_live / 8;
  double cost =
      n_passing < n_live ? search_cost_of_filtered(t, p.ef, gr->n_fresh) : search_cost_of_graph(t, p.ef, gr->n_fresh);
  /* ... but a target of recall is, not the graph: where it takes so much of it, a scan finds more, and sooner. */
  if (ef_for_target && cost > SEARCH_FAR * p.cost_of_scan) is_asked_for = false;
  if (is_asked_for || cost < p.cost_of_scan) return p;
  /* Rows that pass may lie where the query does: finding that out must cost little beside the scan. */
  if (n_passing == n_live || SEARCH_PROBE * search_cost_of_filtered(t, p.n_wanted, gr->n_fresh) > p.cost_of_scan)
    return none;
  p.ef = 4 * p.n_wanted;
  return p;
}

/* Does a search that says nothing of ef look at the graph at all? *wider is the ef that it takes if the usual one is known to
 * miss much, or else 0. A target of the table's is not looked into: that might have to be measured. */
static bool search_may_use_graph(dvx_table *t, const dvx_search_options *plain, size_t *wider) {
  const double target = t->config->recall_target > 0 ? 0 : search_target(t, plain);
  *wider = 0;
  return target <= 0 || (dvx_graph_ef_for(t, target, plain->k, wider) == SQLITE_OK && *wider > 0);
}

bool dvx_search_uses_graph(dvx_table *t) {
  const dvx_search_options plain = {.k = 10};
  size_t wider;
  return search_may_use_graph(t, &plain, &wider) &&
         search_plan_of(t, &plain, wider, (size_t)t->rows.n_live).n_wanted > 0;
}

double dvx_search_recall_estimate(dvx_table *t) {
  const dvx_search_options plain = {.k = 10};
  size_t wider;
  if (!search_may_use_graph(t, &plain, &wider)) return 1.0;
  return dvx_graph_recall_at(t, wider ? wider : (size_t)t->hnsw_ef_search);
}

/* The rows to be looked at, as far as the mask has them: first *n_found that the graph finds, then all that are fresh. */
static int search_list(search_run *s, const dv_code_query *cq, const uint64_t *mask, size_t *n_found, size_t *n) {
  dvx_table *t = s->t;
  dvx_graph *gr = &t->graph;
  const dvx_mirror *m = &t->mirror;
  const dv_hnsw_scratch *found = &gr->scratch;
  if (found->n_pool + gr->n_fresh > gr->list_capacity) {
    size_t capacity = found->n_pool + 2 * gr->n_fresh + 64;
    uint32_t *p = sqlite3_realloc64(gr->list, capacity * sizeof *p);
    if (!p) return SQLITE_NOMEM;
    gr->list = p;
    gr->list_capacity = capacity;
  }
  /* In order of what codes say of their distance, and that is nearly the true order: of many more than k none is
   * needed, and none that is farther than the k-th by more than both are in doubt. */
  const size_t k = s->out->k;
  size_t n_enough = k <= SIZE_MAX / 2 ? k + k / 2 + 8 : SIZE_MAX;
  float limit = INFINITY;
  if (dvx_graph_needs_vectors(t->config)) n_enough = SIZE_MAX;
  *n = 0;
  for (size_t i = 0; i < found->n_pool && *n < n_enough; i++) {
    uint32_t row = found->pool[i].row;
    if (mask ? !search_bit(mask, row) : !search_bit(m->live, row)) continue;
    if (search_bit(gr->fresh, row)) continue;
    if (*n >= k && found->pool[i].distance - dv_code_doubt(cq, &m->code_rows[row]) > limit) break;
    dvx_row_prefetch_hit(t, row + 1);
    gr->list[(*n)++] = row;
    if (*n == k && n_enough != SIZE_MAX) limit = found->pool[i].distance + dv_code_doubt(cq, &m->code_rows[row]);
  }
  *n_found = *n;
  for (size_t w = 0; gr->n_fresh && w < (m->n + 63) / 64; w++) {
    uint64_t bits = gr->fresh[w] & (mask ? mask[w] : m->live[w]);
    for (uint32_t row = (uint32_t)(64 * w); bits; row++, bits >>= 1) {
      if ((bits & 1) == 0) continue;
      int rc = dvx_mirror_need_code(t, row);
      if (rc != SQLITE_OK) return rc;
      gr->list[(*n)++] = row;
    }
  }
  return SQLITE_OK;
}

static int search_measure(search_run *s, const uint32_t *rows, size_t n) {
  for (size_t i = 0; i < n && i < SEARCH_PREFETCHED; i++) dvx_vectors_prefetch(s->t, rows[i] + 1);
  for (size_t i = 0; i < n; i++) {
    const float *v;
    int rc = dvx_poll(s->t);
    if (rc == SQLITE_OK) rc = dvx_row_committed_vector(s->t, rows[i] + 1, &v);
    if (rc == SQLITE_OK) rc = search_offer(s, rows[i] + 1, v);
    if (rc != SQLITE_OK) return rc;
  }
  return SQLITE_OK;
}

/* A search of the graph for rows that pass a mask. They may lie where the query is, or far from it: what is found near
 * it tells. */
typedef struct search_watch {
  const uint64_t *mask;
  size_t n_wanted;
  size_t ef_limit; /* if it would take more, a scan is better */
  bool is_enough;
  bool is_hopeless;
} search_watch;

static size_t search_count_hits(const uint64_t *mask, const dv_hnsw_hit *pool, size_t n) {
  size_t n_passing = 0;
  for (size_t i = 0; i < n; i++) n_passing += search_bit(mask, pool[i].row & (DV_HNSW_MAX_ROWS - 1));
  return n_passing;
}

static bool search_goes_on(void *ctx, const dv_hnsw_hit *pool, size_t n) {
  search_watch *w = ctx;
  size_t n_found = search_count_hits(w->mask, pool, n);
  w->is_enough = n_found >= w->n_wanted;
  w->is_hopeless = !w->is_enough && (double)w->n_wanted * (double)n > (double)w->ef_limit * (double)n_found;
  return !w->is_enough && !w->is_hopeless;
}

/* The ef up to which the graph is cheaper than this. */
static size_t search_ef_limit(const dvx_table *t, double cost, size_t n_fresh) {
  size_t ef = 0;
  for (size_t step = (size_t)1 << 20; step > 0; step /= 2) {
    if (search_cost_of_filtered(t, ef + step, n_fresh) < cost) ef += step;
  }
  return ef < t->graph.hnsw.n_linked ? ef : t->graph.hnsw.n_linked;
}

/* One search for rows that pass. *n_found of those in the pool do. */
static int search_pool_watched(search_run *s, const dv_code_query *cq, const dv_hnsw_space *space, size_t ef,
                               search_watch *w, size_t *n_found) {
  dvx_graph *gr = &s->t->graph;
  dv_hnsw_watch watch = {w->n_wanted, search_goes_on, w};
  dv_status status = dv_hnsw_search_watched(&gr->hnsw, space, cq, ef, &watch, &gr->scratch);
  *n_found = 0;
  w->is_hopeless = w->is_hopeless || (status != DV_OK && gr->is_damaged);
  if (w->is_hopeless) return SQLITE_OK;
  if (status == DV_OK) *n_found = search_count_hits(w->mask, gr->scratch.pool, gr->scratch.n_pool);
  return search_status(s->t, status, gr->rc);
}

/* ... and once more with the ef that it showed to be needed, if that is still cheaper than a scan. */
static int search_pool_passing(search_run *s, const dv_code_query *cq, const uint64_t *mask, const search_plan *p,
                               const dv_hnsw_space *space, bool *is_found) {
  dvx_table *t = s->t;
  dvx_graph *gr = &t->graph;
  search_watch w = {.mask = mask, .n_wanted = p->n_wanted};
  size_t ef = p->ef + p->ef / 4, n_found; /* an even spread is not quite even */
  /* The last of the k must not be among the last of all that were found, where some are missed. */
  size_t n_enough = s->out->k < p->n_wanted / 3 ? 3 * s->out->k : p->n_wanted;
  w.ef_limit = search_ef_limit(t, SEARCH_PATIENCE * p->cost_of_scan, gr->n_fresh);
  if (w.ef_limit < ef) w.ef_limit = ef;
  for (int attempt = 0; attempt < 2; attempt++) {
    int rc = search_pool_watched(s, cq, space, ef, &w, &n_found);
    if (rc != SQLITE_OK) return rc;
    if (w.is_hopeless) return SQLITE_OK;
    *is_found = w.is_enough || n_found >= n_enough;
    if (*is_found || n_found == 0) return SQLITE_OK;
    size_t wider = search_widened(t, p->n_wanted, (double)n_found / (double)gr->scratch.n_pool);
    wider += wider / 4;
    if (wider <= ef || search_cost_of_filtered(t, wider, gr->n_fresh) > p->cost_of_scan) return SQLITE_OK;
    ef = wider;
  }
  return SQLITE_OK;
}

/* Fills the pool. *is_found is false when the graph cannot tell, or not sooner than a scan. */
static int search_pool(search_run *s, const dv_code_query *cq, const uint64_t *mask, size_t n_passing,
                       const search_plan *p, bool *is_found) {
  dvx_table *t = s->t;
  dvx_graph *gr = &t->graph;
  dv_hnsw_space space;
  dv_hnsw_pager pager;
  *is_found = false;
  dvx_graph_space(t, &space, &pager);
  if (mask && n_passing < (size_t)t->rows.n_live) return search_pool_passing(s, cq, mask, p, &space, is_found);
  /* Of the nearest that are found some may be deleted. */
  double share = (double)p->n_wanted / (double)p->ef;
  size_t k = share < 1.0 ? (size_t)((double)s->out->k / share) + 1 : s->out->k;
  double growth[DV_HNSW_OCTAVES];
  dv_status status = dv_hnsw_search_nearest(&gr->hnsw, &space, cq, k, p->ef, dvx_graph_growth(t, growth), &gr->scratch);
  *is_found = status == DV_OK;
  if (status != DV_OK && gr->is_damaged) return SQLITE_OK;
  return search_status(t, status, gr->rc);
}

/* *is_done is false when a scan has to answer. */
static int search_graph(search_run *s, dv_code_query *cq, const uint64_t *mask, size_t n_passing, const search_plan *p,
                        bool *is_done) {
  dvx_graph *gr = &s->t->graph;
  size_t n_found = 0, n = 0;
  bool is_found;
  *is_done = false;
  int rc = search_pool(s, cq, mask, n_passing, p, &is_found);
  if (rc != SQLITE_OK || !is_found) return rc;
  rc = search_list(s, cq, mask, &n_found, &n);
  if (rc != SQLITE_OK) return rc;
  size_t n_wanted = s->out->k < n_passing ? s->out->k : n_passing;
  if (n < n_wanted) return SQLITE_OK; /* those that pass lie where the graph did not look */
  *is_done = true;
  /* What is found is few and near: it is measured at once. Then codes can tell which of the fresh rows are farther. */
  rc = search_measure(s, gr->list, n_found);
  return rc == SQLITE_OK && n > n_found ? search_scan(s, cq, NULL, gr->list + n_found, n - n_found) : rc;
}

static int search_settled(search_run *s) {
  dvx_table *t = s->t;
  const uint64_t *mask;
  uint64_t *owned;
  dv_code_query cq;
  bool is_done = false;
  if (t->mirror.n == 0 || t->rows.n_live == 0) return SQLITE_OK;
  int rc = search_mask(s, &mask, &owned);
  if (rc != SQLITE_OK) return rc;
  dv_status status =
      dv_code_query_init(&cq, dvx_graph_metric(t->config->metric), s->query.v, t->config->dimensions, &dvx_alloc);
  if (status != DV_OK) {
    sqlite3_free(owned);
    return SQLITE_NOMEM;
  }
  size_t n_passing = owned ? search_count(owned, (t->mirror.n + 63) / 64) : (size_t)t->rows.n_live;
  size_t ef_for_target = 0;
  search_plan plan = {0};
  double target = search_target(t, s->o);
  if (target > 0 && !s->o->is_exact) rc = dvx_graph_ef_for(t, target, s->o->k, &ef_for_target);
  /* A target that no search is known to reach: a scan does. */
  if (target <= 0 || ef_for_target > 0) plan = search_plan_of(t, s->o, ef_for_target, n_passing);
  if (rc == SQLITE_OK && plan.n_wanted > 0) rc = search_graph(s, &cq, mask, n_passing, &plan, &is_done);
  bool is_of_codes = t->config->metric != DV_L1; /* which has none that would help */
  bool is_in_parts = is_of_codes && !t->mirror.is_whole && (n_passing < t->mirror.n / 8 || !search_all_fit(t));
  if (rc == SQLITE_OK && !is_done && is_in_parts) {
    rc = search_scan_in_parts(s, &cq, mask);
  } else if (rc == SQLITE_OK && !is_done) {
    if (is_of_codes) rc = dvx_mirror_ready_to_scan(t);
    if (rc == SQLITE_OK) rc = search_scan(s, &cq, mask, NULL, 0);
  }
  dv_code_query_free(&cq);
  sqlite3_free(owned);
  return rc;
}

int dvx_search_run(dvx_table *t, const float *query, const dvx_search_options *o, dv_topk *out) {
  search_run s = {.t = t, .o = o, .out = out};
  dv_query_init(&s.query, t->conn->kernels, t->config->metric, query, t->config->dimensions);
  dv_topk_init(out, o->k, &dvx_alloc);
  if (o->k == 0) return SQLITE_OK;
  /* What the scan's one-bit tier may miss is below a thousandth; who asks for more gets all of it. */
  dvx_search_options adapted = *o;
  double target = o->recall_target > 0 ? o->recall_target : t->config->recall_target;
  if (target > SEARCH_APPROXIMATE_RECALL) adapted.is_exact = true;
  s.o = &adapted;
  dvx_mirror_trim(t);
  dvx_mirror_join(t);
  int rc = dvx_mirror_ready(t);
  if (rc == SQLITE_OK && o->has_as_of) rc = past_ready(t, o->as_of);
  if (rc == SQLITE_OK) rc = search_settled(&s);
  if (rc == SQLITE_OK) rc = search_touched(&s);
  if (rc == SQLITE_OK && o->has_as_of) rc = search_past(&s);
  if (rc != SQLITE_OK) {
    dv_topk_free(out);
    return rc;
  }
  dv_topk_sort(out);
  dvx_ids_prefetch(&t->ids, out->hits, out->n < SEARCH_PREFETCHED ? out->n : SEARCH_PREFETCHED);
  return SQLITE_OK;
}

/* ---- options ----------------------------------------------------------------------------------------------------- */

int dvx_search_k(dvx_table *t, sqlite3_value *v, size_t *k) {
  sqlite3_int64 n = -1;
  int type = sqlite3_value_type(v);
  bool is_whole = type == SQLITE_INTEGER;
  if (type == SQLITE_FLOAT) {
    double d = sqlite3_value_double(v);
    is_whole = d >= 0 && d < 9e15 && d == (double)(sqlite3_int64)d;
  }
  if (is_whole) n = sqlite3_value_int64(v);
  if (n < 0) return dvx_fail(t->conn, t, SQLITE_ERROR, "k is %v: expected a whole number, 0 or more", v);
  *k = (size_t)n;
  return SQLITE_OK;
}

typedef struct search_option_parser {
  dvx_table *t;
  dvx_search_options *o;
} search_option_parser;

static int search_option(void *ctx, const char *key, sqlite3_value *v) {
  search_option_parser *p = ctx;
  dvx_table *t = p->t;
  dvx_search_options *o = p->o;
  if (strcmp(key, "k") == 0) return dvx_search_k(t, v, &o->k);
  if (strcmp(key, "as_of") == 0) {
    o->has_as_of = true;
    return dvx_time_parse(t->conn, t, NULL, v, &o->as_of);
  }
  if (strcmp(key, "exact") == 0) {
    if (sqlite3_value_type(v) != SQLITE_INTEGER) {
      return dvx_fail(t->conn, t, SQLITE_ERROR, "search option exact is %v: expected true or false", v);
    }
    o->is_exact = sqlite3_value_int(v) != 0;
    return SQLITE_OK;
  }
  if (strcmp(key, "ef") == 0) {
    sqlite3_int64 ef = sqlite3_value_int64(v);
    if (sqlite3_value_type(v) != SQLITE_INTEGER || ef < 1 || ef > 100000) {
      return dvx_fail(t->conn, t, SQLITE_ERROR, "search option ef is %v: expected 1 to 100000", v);
    }
    o->ef = (int)ef;
    return SQLITE_OK;
  }
  if (strcmp(key, "recall_target") == 0) {
    double r = sqlite3_value_double(v);
    if (sqlite3_value_numeric_type(v) == SQLITE_TEXT || !(r > 0 && r <= 1)) {
      return dvx_fail(t->conn, t, SQLITE_ERROR,
                      "search option recall_target is %v: expected a number above 0, at most 1", v);
    }
    o->recall_target = r;
    return SQLITE_OK;
  }
  if (strcmp(key, "max_distance") == 0) {
    int type = sqlite3_value_type(v);
    if (type != SQLITE_INTEGER && type != SQLITE_FLOAT) {
      return dvx_fail(t->conn, t, SQLITE_ERROR, "search option max_distance is %v: expected a number", v);
    }
    o->has_max_distance = o->is_max_inclusive = true;
    o->max_distance = sqlite3_value_double(v);
    return SQLITE_OK;
  }
  return dvx_fail(t->conn, t, SQLITE_ERROR,
                  "unknown search option %S: expected k, as_of, ef, exact, recall_target or max_distance", key,
                  strlen(key));
}

static bool search_options_are_plain(const dvx_search_options *o) {
  return !o->has_max_distance && !o->has_as_of && !o->is_exact && o->ef == 0 && o->recall_target == 0 && !o->allowed;
}

/* A program gives the same options again and again, and reading JSON takes a nested statement. */
static bool search_options_known(const dvx_table *t, const char *json, size_t n_json, const dvx_search_options *o) {
  const dvx_known_options *known = &t->known_options;
  return search_options_are_plain(o) && known->json && known->n_json == n_json &&
         memcmp(known->json, json, n_json) == 0 && known->before_k == o->k;
}

/* What they say is remembered; not a time, which can be relative to now. */
static void search_options_keep(dvx_table *t, const char *json, size_t n_json, size_t before_k,
                                const dvx_search_options *o) {
  dvx_known_options *known = &t->known_options;
  sqlite3_free(known->json);
  known->json = o->has_as_of ? NULL : sqlite3_malloc64(n_json + 1);
  if (!known->json) return;
  memcpy(known->json, json, n_json);
  known->n_json = n_json;
  known->before_k = before_k;
  known->options = *o;
}

int dvx_search_options_parse(dvx_table *t, const char *json, int n_json, dvx_search_options *o) {
  search_option_parser p = {t, o};
  size_t k = o->k;
  bool is_plain = search_options_are_plain(o);
  if (search_options_known(t, json, (size_t)n_json, o)) {
    *o = t->known_options.options;
    return SQLITE_OK;
  }
  int rc = dvx_json_each(t->conn, t, "the argument options", json, n_json, search_option, &p);
  if (rc == SQLITE_OK && is_plain) search_options_keep(t, json, (size_t)n_json, k, o);
  return rc;
}

/* ---- vector_search(table, query, k, options) --------------------------------------------------------------------- */

enum { TVF_ID, TVF_DISTANCE, TVF_SCORE, TVF_TABLE, TVF_QUERY, TVF_K, TVF_OPTIONS };

typedef struct search_vtab {
  sqlite3_vtab base;
  dvx_conn *conn;
} search_vtab;

typedef struct search_cursor {
  sqlite3_vtab_cursor base;
  dvx_table *t; /* being read, NULL before xFilter */
  dv_topk hits;
  size_t at;
} search_cursor;

static int search_connect(sqlite3 *db, void *aux, int argc, const char *const *argv, sqlite3_vtab **out,
                          char **message) {
  (void)argc, (void)argv, (void)message;
  int rc = dvx_declare(db, "CREATE TABLE x(id, distance REAL, score REAL, table_name HIDDEN, query HIDDEN, k HIDDEN,"
                           " options HIDDEN)");
  if (rc != SQLITE_OK) return rc;
  (void)dvx_vtab_config(db, SQLITE_VTAB_USES_ALL_SCHEMAS, 1);
  search_vtab *v = sqlite3_malloc64(sizeof *v);
  if (!v) return SQLITE_NOMEM;
  memset(v, 0, sizeof *v);
  v->conn = aux;
  *out = &v->base;
  return SQLITE_OK;
}

static int search_disconnect(sqlite3_vtab *vtab) {
  sqlite3_free(vtab);
  return SQLITE_OK;
}

static int search_best_index(sqlite3_vtab *vtab, sqlite3_index_info *info) {
  int given[4] = {-1, -1, -1, -1};
  int mask = 0, n = 0;
  (void)vtab;
  for (int i = 0; i < info->nConstraint; i++) {
    int column = info->aConstraint[i].iColumn;
    if (column < TVF_TABLE || info->aConstraint[i].op != SQLITE_INDEX_CONSTRAINT_EQ) continue;
    if (!info->aConstraint[i].usable)
      return SQLITE_CONSTRAINT; /* an argument that comes from a later table of the join */
    given[column - TVF_TABLE] = i;
  }
  for (int a = 0; a < 4; a++) {
    if (given[a] < 0) continue;
    info->aConstraintUsage[given[a]].argvIndex = ++n;
    info->aConstraintUsage[given[a]].omit = 1;
    mask |= 1 << a;
  }
  info->idxNum = mask;
  /* Without its arguments a search is refused, but not here: SQLite also asks for the halves of an OR behind it, and
   * does not tell them what the arguments are. */
  info->estimatedCost = (mask & 3) == 3 ? 1000 : 1e30;
  info->estimatedRows = 10;
  if (info->nOrderBy == 1 && info->aOrderBy[0].iColumn == TVF_DISTANCE && !info->aOrderBy[0].desc)
    info->orderByConsumed = 1;
  return SQLITE_OK;
}

static int search_open(sqlite3_vtab *vtab, sqlite3_vtab_cursor **out) {
  (void)vtab;
  search_cursor *c = sqlite3_malloc64(sizeof *c);
  if (!c) return SQLITE_NOMEM;
  memset(c, 0, sizeof *c);
  c->hits.alloc = &dvx_alloc;
  *out = &c->base;
  return SQLITE_OK;
}

static void search_reset(search_cursor *c) {
  dv_topk_free(&c->hits);
  c->at = 0;
  if (c->t) dvx_table_end_read(c->t);
  c->t = NULL;
}

static int search_close(sqlite3_vtab_cursor *cursor) {
  search_reset((search_cursor *)cursor);
  sqlite3_free(cursor);
  return SQLITE_OK;
}

static int search_filter(sqlite3_vtab_cursor *cursor, int mask, const char *plan, int argc, sqlite3_value **argv) {
  search_cursor *c = (search_cursor *)cursor;
  dvx_conn *conn = ((search_vtab *)cursor->pVtab)->conn;
  (void)plan, (void)argc;
  search_reset(c);
  if ((mask & 3) != 3) {
    return dvx_give_vtab(conn, cursor->pVtab,
                         dvx_fail(conn, NULL, SQLITE_ERROR,
                                  "vector_search needs a table and a query: vector_search('docs', :query, 10)"));
  }
  dvx_table *t;
  int rc = dvx_table_find_to_read(conn, (const char *)sqlite3_value_text(argv[0]), &t);
  if (rc != SQLITE_OK) return dvx_give_vtab(conn, cursor->pVtab, rc);
  c->t = t;
  dvx_search_options o = {.k = 10};
  dv_buf query;
  size_t n;
  dv_buf_init(&query, &dvx_alloc);
  rc = dvx_value_vector(conn, t, argv[1], t->config->dimensions, "the query", &query, &n);
  int next = 2;
  bool has_k = (mask & 4) != 0;
  if (rc == SQLITE_OK && has_k) rc = dvx_search_k(t, argv[next++], &o.k);
  if (rc == SQLITE_OK && (mask & 8) && sqlite3_value_type(argv[next]) != SQLITE_NULL) {
    const char *json = (const char *)sqlite3_value_text(argv[next]);
    rc = json ? dvx_search_options_parse(t, json, sqlite3_value_bytes(argv[next]), &o) : SQLITE_NOMEM;
  }
  if (rc == SQLITE_OK) rc = dvx_search_run(t, (const float *)(const void *)query.data, &o, &c->hits);
  dv_buf_free(&query);
  return rc == SQLITE_OK ? SQLITE_OK : dvx_give_vtab(conn, cursor->pVtab, rc);
}

static int search_next(sqlite3_vtab_cursor *cursor) {
  search_cursor *c = (search_cursor *)cursor;
  c->at++;
  while (c->at < c->hits.n && dvx_row_word(c->t, c->hits.hits[c->at].vid) == 0) c->at++; /* taken away by a ROLLBACK */
  return SQLITE_OK;
}

static int search_eof(sqlite3_vtab_cursor *cursor) {
  search_cursor *c = (search_cursor *)cursor;
  return c->at >= c->hits.n;
}

static int search_column(sqlite3_vtab_cursor *cursor, sqlite3_context *ctx, int column) {
  search_cursor *c = (search_cursor *)cursor;
  const dv_hit *hit = &c->hits.hits[c->at];
  if (column == TVF_ID) {
    dv_value id;
    int rc = dvx_row_id(c->t, hit->vid, &id);
    if (rc != SQLITE_OK) return dvx_give_vtab(c->t->conn, cursor->pVtab, rc);
    dvx_result_value(ctx, &id);
  } else if (column == TVF_DISTANCE) {
    sqlite3_result_double(ctx, hit->distance);
  } else if (column == TVF_SCORE) {
    sqlite3_result_double(ctx, dv_score(c->t->config->metric, hit->distance));
  }
  return SQLITE_OK;
}

static int search_rowid(sqlite3_vtab_cursor *cursor, sqlite3_int64 *rowid) {
  *rowid = (sqlite3_int64)((search_cursor *)cursor)->at + 1;
  return SQLITE_OK;
}

static const sqlite3_module search_module = {
    .iVersion = 0,
    .xConnect = search_connect,
    .xBestIndex = search_best_index,
    .xDisconnect = search_disconnect,
    .xOpen = search_open,
    .xClose = search_close,
    .xFilter = search_filter,
    .xNext = search_next,
    .xEof = search_eof,
    .xColumn = search_column,
    .xRowid = search_rowid,
};

int dvx_search_register(dvx_conn *conn) { return dvx_conn_module(conn, "vector_search", &search_module); }
