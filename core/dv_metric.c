/*
 * dv_metric.c: distances from kernel sums. Every path to a distance ends in one of the metric_..._of functions below,
 * which is what makes dv_distance and dv_query_distance equal.
 */
#include "dv_metric.h"

#include <math.h>

DV_FP_STRICT_BEGIN

static const struct {
  const char *name;
  dv_metric metric;
} metric_names[] = {
    {"l2", DV_L2},        {"cosine", DV_COSINE}, {"ip", DV_IP},  {"l1", DV_L1}, /* in the order of the enum */
    {"euclidean", DV_L2}, {"cos", DV_COSINE},    {"dot", DV_IP}, {"inner_product", DV_IP},
    {"manhattan", DV_L1},
};

const char *dv_metric_name(dv_metric m) { return metric_names[m].name; }

bool dv_metric_parse(const char *name, size_t n, dv_metric *out) {
  for (size_t i = 0; i < sizeof metric_names / sizeof metric_names[0]; i++) {
    const char *known = metric_names[i].name;
    size_t at = 0;
    while (at < n && known[at] && (name[at] >= 'A' && name[at] <= 'Z' ? name[at] + ('a' - 'A') : name[at]) == known[at])
      at++;
    if (at == n && !known[at]) {
      *out = metric_names[i].metric;
      return true;
    }
  }
  return false;
}

/* ---- sums in double, when f32 does not do ------------------------------------------------------------------------ */

/* Neither overflows nor underflows for any finite vectors: 2^-149 and 2^128, squared and 65536 times. The order of
 * additions is fixed: four lanes. */
static double metric_sum(int term, const float *a, const float *b, size_t n) {
  double lane[4] = {0};
  for (size_t i = 0; i < n; i++) {
    double x = (double)a[i], y = (double)b[i];
    lane[i % 4] += term == DV_TERM_DOT ? x * y : term == DV_TERM_L2SQ ? (x - y) * (x - y) : fabs(x - y);
  }
  return (lane[0] + lane[2]) + (lane[1] + lane[3]);
}

/* A sum that f32 holds well. False for NaN. */
static inline bool metric_is_good(float sum) { return sum >= DV_METRIC_TINY && sum <= 3.402823466e+38f; }

/* ---- from sums to distances -------------------------------------------------------------------------------------- */

static double metric_l2_of(const dv_kernels *k, const float *a, const float *b, size_t n) {
  float sum = k->l2sq_f32(a, b, n);
  return sqrt(DV_LIKELY(metric_is_good(sum)) ? (double)sum : metric_sum(DV_TERM_L2SQ, a, b, n));
}

static double metric_l1_of(const dv_kernels *k, const float *a, const float *b, size_t n) {
  float sum = k->l1_f32(a, b, n);
  return DV_LIKELY(metric_is_good(sum)) ? (double)sum : metric_sum(DV_TERM_L1, a, b, n);
}

/* 0.0 - x, not -x: vectors at right angles are at distance 0, not -0. */
static double metric_ip_of(const dv_kernels *k, const float *a, const float *b, size_t n) {
  float sum = k->dot_f32(a, b, n);
  bool is_good = metric_is_good(dv_bits_float(dv_float_bits(sum) & 0x7fffffffu));
  return 0.0 - (DV_LIKELY(is_good) ? (double)sum : metric_sum(DV_TERM_DOT, a, b, n));
}

/* The product of two f32 is exact in double and sqrt is correctly rounded, so a vector is at distance 0 from itself. */
static double metric_cosine_of(const float *a, const float *b, size_t n, float aa, float bb, float ab) {
  double dot = (double)ab, norms = (double)aa * (double)bb;
  if (DV_UNLIKELY(!metric_is_good(aa) || !metric_is_good(bb) || !dv_is_finite(ab))) {
    dot = metric_sum(DV_TERM_DOT, a, b, n);
    norms = metric_sum(DV_TERM_DOT, a, a, n) * metric_sum(DV_TERM_DOT, b, b, n);
    if (norms == 0.0) return 1.0; /* only for a zero vector: no square of an f32 underflows here */
  }
  double distance = 1.0 - dot / sqrt(norms);
  return distance < 0.0 ? 0.0 : distance > 2.0 ? 2.0 : distance;
}

double dv_distance(const dv_kernels *k, dv_metric m, const float *a, const float *b, size_t n) {
  dv_query q;
  dv_query_init(&q, k, m, a, n);
  return dv_query_distance(&q, b);
}

double dv_score(dv_metric m, double distance) {
  switch (m) {
  case DV_COSINE: return 1.0 - distance;
  case DV_IP: return 0.0 - distance;
  case DV_L2:
  case DV_L1: break;
  }
  return 1.0 / (1.0 + distance);
}

void dv_query_init(dv_query *q, const dv_kernels *k, dv_metric m, const float *v, size_t n) {
  q->kernels = k;
  q->metric = m;
  q->v = v;
  q->n = n;
  q->self = m == DV_COSINE ? k->dot_f32(v, v, n) : 0.0f;
}

double dv_query_distance(const dv_query *q, const float *row) {
  switch (q->metric) {
  case DV_L2: return metric_l2_of(q->kernels, q->v, row, q->n);
  case DV_IP: return metric_ip_of(q->kernels, q->v, row, q->n);
  case DV_L1: return metric_l1_of(q->kernels, q->v, row, q->n);
  case DV_COSINE: break;
  }
  float sums[2];
  q->kernels->dot_norm_f32(q->v, row, q->n, sums);
  return metric_cosine_of(q->v, row, q->n, q->self, sums[1], sums[0]);
}

DV_FP_STRICT_END
