/*
 * dv_topk.h: the k best of a stream: a bounded max-heap of (distance, vid), ties by the smaller vid, so a search has
 * one answer on every machine.
 */
#ifndef DV_TOPK_H
#define DV_TOPK_H

#include "dv_alloc.h"

typedef struct dv_hit {
  double distance;
  uint32_t vid;
} dv_hit;

typedef struct dv_topk {
  dv_hit *hits; /* heap, worst first, until dv_topk_sort */
  size_t n;
  size_t k;
  size_t capacity;
  const dv_alloc *alloc;
} dv_topk;

/* Grows as it fills, so a huge k costs nothing until there are that many rows. */
void dv_topk_init(dv_topk *t, size_t k, const dv_alloc *alloc);
void dv_topk_free(dv_topk *t);

/* a is a better hit than b. A total order: a NaN distance is worse than any other. */
static inline bool dv_hit_less(dv_hit a, dv_hit b) {
  if (a.distance < b.distance) return true;
  if (a.distance > b.distance) return false;
  bool is_a_nan = a.distance != a.distance, is_b_nan = b.distance != b.distance;
  if (DV_UNLIKELY(is_a_nan != is_b_nan)) return is_b_nan;
  return a.vid < b.vid;
}

/* The distance to beat; +infinity until k hits are there; -infinity if k is 0. */
double dv_topk_worst(const dv_topk *t);

/* Keeps the hit if it is among the k best so far. DV_NOMEM. NaN distances sort last (callers do not produce them). */
dv_status dv_topk_push(dv_topk *t, double distance, uint32_t vid);

/* Orders hits ascending; the heap is then closed to pushes. */
void dv_topk_sort(dv_topk *t);

#endif
