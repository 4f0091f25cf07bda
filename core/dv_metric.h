/*
 * dv_metric.h: distances as users see them: smaller is nearer, for every metric.
 *
 *   l2      sqrt(sum (a-b)^2)
 *   cosine  1 - a.b / (|a| |b|), between 0 and 2; a zero vector is at distance 1 from everything
 *   ip      -(a.b)
 *   l1      sum |a-b|
 *
 * The sums are the f32 kernels'; everything after them is IEEE double. When a sum overflowed f32 or is too small for it
 * (DV_METRIC_TINY), the distance is computed again in double, so 1e30 or 1e-30 in a vector is not an error. One
 * function serves vector_distance(), re-ranking and the exact scan, so they agree bit for bit, and on every CPU.
 *
 * How far a distance can be from the real number it stands for, with g = dv_metric_error(n) and u.v, |v| in real
 * numbers:
 *   l2, l1  g * distance          cosine  2.01 * g        ip  g * |a| |b|
 */
#ifndef DV_METRIC_H
#define DV_METRIC_H

#include "simd/dv_simd.h"

typedef enum dv_metric { DV_L2 = 0, DV_COSINE = 1, DV_IP = 2, DV_L1 = 3 } dv_metric;

const char *dv_metric_name(dv_metric m);
/* "l2", "cosine", "ip", "l1" in any case; also the aliases "euclidean", "cos", "dot", "inner_product", "manhattan".
 * false if unknown. */
bool dv_metric_parse(const char *name, size_t n, dv_metric *out);

double dv_distance(const dv_kernels *k, dv_metric m, const float *a, const float *b, size_t n);

/* Larger is better: cosine: cos; ip: dot; l2 and l1: 1/(1+distance). */
double dv_score(dv_metric m, double distance);

/* Sums of f32 below this are computed again in double: 2^-80, so that what underflow (n * 2^-150, or n * 2^-126 in a
 * host that flushes denormals) adds to the error stays far below that of rounding. */
#define DV_METRIC_TINY 8.271806125530277e-25f

/*
 * The relative rounding error of a sum over lanes: a term passes at most three roundings of its own (subtract, square,
 * none for the first sum), then ceil(n/32) - 1 additions in its lane and 5 across lanes. Standard analysis (Higham,
 * Accuracy and Stability, 3.1) bounds the relative error of m roundings by m*u / (1 - m*u), u = 2^-24. Three more
 * roundings are counted than happen, which covers underflow above DV_METRIC_TINY and the roundings in double that
 * follow.
 */
static inline double dv_metric_error(size_t n) {
  size_t n_lane = (n + 31) / 32;
  double mu = ((double)n_lane + 10.0) * 0x1p-24;
  return mu / (1.0 - mu);
}

/* A query with what does not change from row to row. v is borrowed. */
typedef struct dv_query {
  const dv_kernels *kernels;
  dv_metric metric;
  const float *v;
  size_t n;
  float self; /* cosine: dot(v, v) */
} dv_query;

void dv_query_init(dv_query *q, const dv_kernels *k, dv_metric m, const float *v, size_t n);

/* == dv_distance(k, m, q->v, row, n), bit for bit. */
double dv_query_distance(const dv_query *q, const float *row);

#endif
