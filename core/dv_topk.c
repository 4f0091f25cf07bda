/*
 * dv_topk.c: owns a binary heap with the worst hit on top: the one a better hit replaces. The order of dv_hit_less is
 * total, so neither the order of pushes nor the shape of the heap shows in the result.
 */
#include "dv_topk.h"

#include <math.h>

#define TOPK_INFINITY ((double)INFINITY)

void dv_topk_init(dv_topk *t, size_t k, const dv_alloc *alloc) {
  memset(t, 0, sizeof *t);
  t->k = k;
  t->alloc = alloc;
}

void dv_topk_free(dv_topk *t) {
  dv_alloc_free(t->alloc, t->hits);
  t->hits = NULL;
  t->n = t->capacity = 0;
}

double dv_topk_worst(const dv_topk *t) {
  if (t->n < t->k) return TOPK_INFINITY;
  return t->k == 0 ? -TOPK_INFINITY : t->hits[0].distance;
}

/* Puts hit where hits[at] was, below which the heap is in order, among n hits. */
static void topk_sift_down(dv_hit *hits, size_t n, size_t at, dv_hit hit) {
  for (;;) {
    size_t child = 2 * at + 1;
    if (child >= n) break;
    if (child + 1 < n && dv_hit_less(hits[child], hits[child + 1])) child++;
    if (!dv_hit_less(hit, hits[child])) break;
    hits[at] = hits[child];
    at = child;
  }
  hits[at] = hit;
}

static void topk_sift_up(dv_hit *hits, size_t at, dv_hit hit) {
  while (at > 0) {
    size_t parent = (at - 1) / 2;
    if (!dv_hit_less(hits[parent], hit)) break;
    hits[at] = hits[parent];
    at = parent;
  }
  hits[at] = hit;
}

static dv_status topk_grow(dv_topk *t) {
  size_t capacity = t->capacity < 16 ? 16 : t->capacity > SIZE_MAX / 2 ? SIZE_MAX : t->capacity * 2;
  if (capacity > t->k) capacity = t->k;
  dv_hit *hits = dv_alloc_array(t->alloc, t->hits, capacity, sizeof *hits);
  if (!hits) return DV_NOMEM;
  t->hits = hits;
  t->capacity = capacity;
  return DV_OK;
}

dv_status dv_topk_push(dv_topk *t, double distance, uint32_t vid) {
  dv_hit hit = {distance, vid};
  if (t->n == t->k) {
    if (t->k > 0 && dv_hit_less(hit, t->hits[0])) topk_sift_down(t->hits, t->n, 0, hit);
    return DV_OK;
  }
  if (t->n == t->capacity) {
    dv_status status = topk_grow(t);
    if (status != DV_OK) return status;
  }
  topk_sift_up(t->hits, t->n++, hit);
  return DV_OK;
}

/* Heap sort in place: the worst of the rest goes to its end. */
void dv_topk_sort(dv_topk *t) {
  for (size_t n = t->n; n > 1; n--) {
    dv_hit worst = t->hits[0];
    topk_sift_down(t->hits, n - 1, 0, t->hits[n - 1]);
    t->hits[n - 1] = worst;
  }
}
