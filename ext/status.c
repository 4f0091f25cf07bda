/*
 * status.c: delta_status, what a table holds, and delta_recall, how good its search is.
 *
 * Owns no table. delta_status walks the heads in memory and adds up blob lengths in the file (SQLite reads a page per
 * block for that, not the blocks); it decodes no record. delta_recall searches twice per sampled row, once as a search
 * runs by default and once exactly.
 */
#include "ext_int.h"

#define STATUS_MAX_SAMPLES 1000000
#define STATUS_SEED 0x64656c7461u

/* ---- delta_status ------------------------------------------------------------------------------------------------ */

typedef struct status_sizes {
  int64_t log, row, head, code, graph;
} status_sizes;

static int status_sum(dvx_table *t, dvx_str *sql, int64_t *out) {
  sqlite3_stmt *stmt = NULL;
  char *z = dvx_str_take(sql);
  if (!z) return SQLITE_NOMEM;
  int rc = sqlite3_prepare_v3(t->conn->db, z, -1, SQLITE_PREPARE_NO_VTAB, &stmt, NULL);
  sqlite3_free(z);
  if (rc != SQLITE_OK) return dvx_fail_sqlite(t->conn, t, rc);
  *out = sqlite3_step(stmt) == SQLITE_ROW ? sqlite3_column_int64(stmt, 0) : 0;
  rc = sqlite3_finalize(stmt);
  return rc == SQLITE_OK ? SQLITE_OK : dvx_fail_sqlite(t->conn, t, rc);
}

static int status_blob_bytes(dvx_table *t, const char *suffix, const char *column, int64_t *out) {
  dvx_str s = {0};
  dvx_str_addf(&s, "SELECT total(length(%s)) FROM \"%w\".\"%w_%s\"", column, t->schema, t->name, suffix);
  return status_sum(t, &s, out);
}

static int status_measure(dvx_table *t, status_sizes *sizes) {
  dvx_str s = {0};
  int rc = status_blob_bytes(t, "log", "pack", &sizes->log);
  if (rc == SQLITE_OK) rc = status_blob_bytes(t, "head", "heads", &sizes->head);
  if (rc == SQLITE_OK) rc = status_blob_bytes(t, "code", "codes", &sizes->code);
  if (rc == SQLITE_OK) rc = status_blob_bytes(t, "graph", "links", &sizes->graph);
  if (rc != SQLITE_OK) return rc;
  dvx_str_addf(&s, "SELECT total(length(CAST(id AS BLOB))");
  for (int i = 1; i <= t->config->n_columns; i++) dvx_str_addf(&s, "+ifnull(length(CAST(c%d AS BLOB)),0)", i);
  dvx_str_addf(&s, ") FROM \"%w\".\"%w_row\"", t->schema, t->name);
  return status_sum(t, &s, &sizes->row);
}

/* With which structure a plain search for ten rows runs. */
static const char *status_index(dvx_table *t) {
  if (t->graph.is_damaged) return "flat (the graph is damaged: run 'rebuild')";
  return dvx_search_uses_graph(t) ? "hnsw" : "flat";
}

static int status_text(dvx_table *t, dvx_str *s) {
  const dvx_config *c = t->config;
  status_sizes z;
  int64_t uuid, absent, purged, format;
  uint64_t n_live = 0, n_fresh = 0, chain_sum = 0, last = dvx_history_last_seq(t);
  unsigned chain_max = 0;
  dvx_settled settled;
  memset(&z, 0, sizeof z);
  int rc = status_measure(t, &z);
  if (rc == SQLITE_OK) rc = dvx_mirror_ready(t);
  if (rc == SQLITE_OK) rc = dvx_settled_read(t, &settled);
  if (rc == SQLITE_OK) rc = dvx_meta_get(t, "uuid", 0, &uuid);
  if (rc == SQLITE_OK) rc = dvx_meta_get(t, "absent", 0, &absent);
  if (rc == SQLITE_OK) rc = dvx_meta_get(t, "purged", 0, &purged);
  if (rc == SQLITE_OK) rc = dvx_meta_get(t, "format", 0, &format);
  if (rc != SQLITE_OK) return rc;
  uint32_t n = dvx_table_last_vid(t);
  for (uint32_t vid = 1; vid != 0 && vid <= n; vid++) {
    uint64_t word = dvx_row_word(t, vid);
    if (!dvx_word_exists(word)) continue;
    unsigned chain = dvx_word_chain(word);
    n_live++;
    chain_sum += chain;
    if (chain > chain_max) chain_max = chain;
    if (dvx_word_seq(word) > settled.position.seq) n_fresh++;
  }
  if (t->graph.is_there) n_fresh = t->graph.n_fresh; /* settled: the graph answers for it */
  /* Every seq was one delta, but for those that compaction has merged or removed. */
  uint64_t n_absent = absent > 0 ? (uint64_t)absent : 0;
  dvx_str_addf(s, "{\"rows\":%u,\"deltas\":%u,\"bytes\":%i", n_live, last > n_absent ? last - n_absent : 0,
               z.log + z.row + z.head + z.code + z.graph);
  dvx_str_addf(s, ",\"log_bytes\":%i,\"row_bytes\":%i,\"head_bytes\":%i,\"code_bytes\":%i,\"graph_bytes\":%i", z.log,
               z.row, z.head, z.code, z.graph);
  uint64_t mean_hundredths = n_live ? chain_sum * 100 / n_live : 0;
  dvx_str_addf(s, ",\"chain\":{\"mean\":%g,\"max\":%u}", (double)mean_hundredths / 100.0, (uint64_t)chain_max);
  dvx_str_addf(s, ",\"fresh\":%u,\"settled\":%u,\"memory\":%u,\"index\":\"%s\",\"recall_estimate\":", n_fresh,
               n_live > n_fresh ? n_live - n_fresh : 0, (uint64_t)dvx_table_memory(t), status_index(t));
  double recall = t->recall >= 0 ? t->recall : dvx_search_recall_estimate(t);
  if (recall >= 0) {
    dvx_str_addf(s, "%g", recall);
  } else {
    dvx_str_addf(s, "null");
  }
  dvx_str_addf(s, ",\"dimensions\":%u,\"metric\":\"%s\",\"id\":", (uint64_t)c->dimensions, dv_metric_name(c->metric));
  if (c->id_name) {
    dvx_history_json_text(s, (const uint8_t *)c->id_name, strlen(c->id_name));
  } else {
    dvx_str_addf(s, "null");
  }
  dvx_str_addf(s, ",\"last_seq\":%u,\"purged_seq\":%i,\"pending\":%u,\"uuid\":\"", last, purged,
               (uint64_t)t->overlay.n_pending);
  for (int shift = 60; shift >= 0; shift -= 4) dvx_str_add(s, &"0123456789abcdef"[(uint64_t)uuid >> shift & 15], 1);
  dvx_str_addf(s, "\",\"format\":%i,\"kernels\":\"%s\"}", format, t->conn->kernels->name);
  return SQLITE_OK;
}

/* delta_status(table) */
static void status_function(sqlite3_context *ctx, int argc, sqlite3_value **argv) {
  dvx_conn *conn = dvx_context_conn(ctx);
  dvx_table *t;
  dvx_str s = {0};
  (void)argc;
  int rc = dvx_table_find_argument(conn, "delta_status", argv[0], &t);
  if (rc == SQLITE_OK) {
    rc = dvx_table_begin_read(t);
    if (rc == SQLITE_OK) {
      rc = status_text(t, &s);
      dvx_table_end_read(t);
    }
  }
  if (rc == SQLITE_OK) {
    dvx_result_text(ctx, &s);
  } else {
    dvx_give_context(conn, ctx, rc);
  }
  dvx_str_free(&s);
}

/* ---- delta_recall ------------------------------------------------------------------------------------------------ */

static uint64_t status_mix(uint64_t x) { /* splitmix64 */
  x += 0x9e3779b97f4a7c15u;
  x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9u;
  x = (x ^ x >> 27) * 0x94d049bb133111ebu;
  return x ^ x >> 31;
}

/* Of `hits`, those that are as near as the exact answer's last: a row at the same distance is as good as another. */
static size_t status_count_found(const dv_topk *hits, const dv_topk *exact) {
  size_t n = 0;
  for (size_t i = 0; i < hits->n && n < exact->n; i++) {
    if (hits->hits[i].distance <= exact->hits[exact->n - 1].distance) n++;
  }
  return n;
}

static int status_search(dvx_table *t, const float *query, size_t k, bool is_exact, dv_topk *out) {
  dvx_search_options o;
  memset(&o, 0, sizeof o);
  o.k = k;
  o.is_exact = is_exact;
  dv_topk_init(out, k, &dvx_alloc);
  return dvx_search_run(t, query, &o, out);
}

static int status_measure_recall(dvx_table *t, size_t n_samples, size_t k, bool *is_measured, double *recall) {
  size_t n = t->config->dimensions, n_found = 0, n_expected = 0;
  uint32_t last = dvx_table_last_vid(t);
  dv_topk sample;
  int rc = SQLITE_OK;
  *is_measured = false;
  float *query = sqlite3_malloc64(n * sizeof *query);
  if (!query) return SQLITE_NOMEM;
  /* The rows whose hash is smallest: the same ones in every run, spread over the table. */
  dv_topk_init(&sample, n_samples, &dvx_alloc);
  for (uint32_t vid = 1; rc == SQLITE_OK && vid != 0 && vid <= last; vid++) {
    if (!dvx_word_exists(dvx_row_word(t, vid))) continue;
    double hash = (double)(status_mix(STATUS_SEED ^ (uint64_t)vid) >> 11);
    if (dv_topk_push(&sample, hash, vid) != DV_OK) rc = SQLITE_NOMEM;
  }
  for (size_t i = 0; rc == SQLITE_OK && i < sample.n; i++) {
    const float *v = NULL;
    dv_topk hits, exact;
    rc = dvx_row_vector(t, sample.hits[i].vid, &v);
    if (rc != SQLITE_OK) break;
    memcpy(query, v, n * sizeof *query);
    rc = status_search(t, query, k, true, &exact);
    if (rc == SQLITE_OK) {
      rc = status_search(t, query, k, false, &hits);
      if (rc == SQLITE_OK && exact.n > 0) {
        n_found += status_count_found(&hits, &exact);
        n_expected += exact.n;
      }
      dv_topk_free(&hits);
    }
    dv_topk_free(&exact);
    if (rc == SQLITE_OK && dvx_is_interrupted(t->conn)) {
      rc = dvx_fail(t->conn, t, SQLITE_INTERRUPT, "delta_recall was interrupted");
    }
  }
  dv_topk_free(&sample);
  sqlite3_free(query);
  if (rc == SQLITE_OK && n_expected > 0) {
    *is_measured = true;
    *recall = (double)n_found / (double)n_expected;
  }
  return rc;
}

static int status_count_argument(dvx_conn *conn, const dvx_table *t, const char *what, sqlite3_value *v, size_t *out) {
  if (sqlite3_value_type(v) == SQLITE_NULL) return SQLITE_OK; /* the default */
  int64_t n = sqlite3_value_numeric_type(v) == SQLITE_INTEGER ? sqlite3_value_int64(v) : 0;
  if (n < 1 || n > STATUS_MAX_SAMPLES) {
    return dvx_fail(conn, t, SQLITE_ERROR, "delta_recall: %s is %v: expected an integer from 1 to %d", what, v,
                    STATUS_MAX_SAMPLES);
  }
  *out = (size_t)n;
  return SQLITE_OK;
}

/* delta_recall(table [, n_samples [, k]]): NULL for a table without rows. */
static void status_recall(sqlite3_context *ctx, int argc, sqlite3_value **argv) {
  dvx_conn *conn = dvx_context_conn(ctx);
  dvx_table *t;
  size_t n_samples = 100, k = 10;
  bool is_measured = false;
  double recall = 0;
  int rc = dvx_table_find_argument(conn, "delta_recall", argv[0], &t);
  if (rc == SQLITE_OK && argc > 1) rc = status_count_argument(conn, t, "the number of samples", argv[1], &n_samples);
  if (rc == SQLITE_OK && argc > 2) rc = status_count_argument(conn, t, "k", argv[2], &k);
  if (rc == SQLITE_OK) {
    rc = dvx_table_begin_read(t);
    if (rc == SQLITE_OK) {
      rc = status_measure_recall(t, n_samples, k, &is_measured, &recall);
      if (rc == SQLITE_OK && is_measured) t->recall = recall;
      dvx_table_end_read(t);
    }
  }
  if (rc != SQLITE_OK) {
    dvx_give_context(conn, ctx, rc);
  } else if (is_measured) {
    sqlite3_result_double(ctx, recall);
  }
}

int dvx_status_register(dvx_conn *conn) {
  int rc = dvx_conn_function(conn, "delta_status", 1, SQLITE_UTF8, status_function);
  for (int n_args = 1; rc == SQLITE_OK && n_args <= 3; n_args++) {
    rc = dvx_conn_function(conn, "delta_recall", n_args, SQLITE_UTF8, status_recall);
  }
  return rc;
}
