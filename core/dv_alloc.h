/*
 * dv_alloc.h: the caller's allocator. Core never calls malloc: in SQLite every byte must come from sqlite3_malloc64,
 * so that its memory limits, statistics and out-of-memory tests hold for us too.
 */
#ifndef DV_ALLOC_H
#define DV_ALLOC_H

#include "dv_base.h"

/* resize(ctx, NULL, n) allocates, resize(ctx, p, n) reallocates, resize(ctx, p, 0) frees and returns NULL.
 * On failure it returns NULL and p stays valid. */
typedef struct dv_alloc {
  void *(*resize)(void *ctx, void *p, size_t n_bytes);
  void *ctx;
} dv_alloc;

static inline void *dv_alloc_resize(const dv_alloc *a, void *p, size_t n_bytes) {
  return a->resize(a->ctx, p, n_bytes);
}

static inline void dv_alloc_free(const dv_alloc *a, void *p) {
  if (p) (void)a->resize(a->ctx, p, 0);
}

/* Room for n_items of item_bytes each; NULL on overflow as on lack of memory. */
static inline void *dv_alloc_array(const dv_alloc *a, void *p, size_t n_items, size_t item_bytes) {
  size_t n_bytes;
  if (!dv_mul_size(n_items, item_bytes, &n_bytes)) return NULL;
  return dv_alloc_resize(a, p, n_bytes ? n_bytes : 1);
}

#endif
