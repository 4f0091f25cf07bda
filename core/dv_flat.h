/*
 * dv_flat.h: search without a graph: scans of codes, tier by tier, and an exact re-rank of the few rows that remain.
 *
 *   bits     1 bit a component: an estimate, and what is known of its error          (not in an exact search)
 *   int8     1 byte a component: an interval that surely contains the row's distance (dv_code_bounds)
 *   f32      the row's vector, from the caller: its distance, dv_query_distance
 *
 * A row goes to the next tier unless this one says that it is farther than k others. int8 is never wrong about that; so
 * an exact search, which has no bits, finds the k best in the order and with the distances of a full f32 scan, ties by
 * vid included. Bits are wrong about one row in thousands, for whatever data: their error is measured at the start of a
 * search, against int8, and where bits say little, little is left out. A few vectors more than k are fetched.
 *
 * Row r is vid r + 1. Nothing here changes a row, and two searches may run at once on two scratches.
 */
#ifndef DV_FLAT_H
#define DV_FLAT_H

#include "dv_quant.h"
#include "dv_topk.h"

typedef struct dv_flat {
  size_t n_rows;
  size_t n; /* dimensions */
  const uint8_t *codes; /* packed; NULL only for l1 */
  const dv_code_row *code_rows;
  const uint64_t *bits; /* dv_bit_blocks(n_rows) blocks, see dv_bits_set; NULL: there is no such tier */
  const dv_bit_row *bit_rows;
  const float *center; /* ... which the bits were set with */
  const uint64_t
      *mask; /* bit r % 64 of word r / 64: row r may be in the result; NULL: all may. Of (n_rows + 63) / 64 words */
  const uint32_t
      *list; /* if not NULL: only these n_list rows, each once, may be in the result; mask is not looked at */
  size_t n_list;

  /* The f32 vector of a row, valid until the next call; or NULL with a reason in *status, which ends the search. */
  const float *(*vector)(void *ctx, uint32_t row, dv_status *status);
  void *ctx;
  dv_status (*poll)(void *ctx); /* called now and then; a status other than DV_OK ends the search. NULL: it is not */
} dv_flat;

/* Buffers a search needs, kept from one to the next. */
typedef struct dv_flat_scratch {
  const dv_alloc *alloc;
  struct dv_flat_candidate *candidates;
  size_t n_candidates;
  size_t candidate_capacity;
  uint32_t *words; /* of the bits: the query's table, and a sum a row */
  size_t word_capacity;
  dv_topk highs; /* the k smallest high ends */
  /* What the last search did, for statistics and tests. */
  size_t n_scanned;  /* rows whose int8 codes were looked at */
  size_t n_reranked; /* vectors fetched */
} dv_flat_scratch;

void dv_flat_scratch_init(dv_flat_scratch *s, const dv_alloc *alloc);
void dv_flat_scratch_free(dv_flat_scratch *s);

/*
 * Pushes the k nearest allowed rows into out, whose k this is. out may hold hits of other rows already: then the result
 * is the k best of all of them. q and cq code the same vector for the same metric; fewer rows are fetched if cq is
 * refined, which pays unless few are looked at; cq may be NULL for l1, which has no
 * codes and reads every allowed row. A status other than DV_OK is the callback's or DV_NOMEM, and leaves part of the
 * result in out.
 */
dv_status dv_flat_search(const dv_flat *f, const dv_query *q, const dv_code_query *cq, size_t k, bool is_exact,
                         dv_topk *out, dv_flat_scratch *scratch);

/* Pushes all allowed rows with distance < max_distance (or <=) into out: all of them if its k is SIZE_MAX, else the k
 * nearest of them. Always exact. */
dv_status dv_flat_range(const dv_flat *f, const dv_query *q, const dv_code_query *cq, double max_distance,
                        bool is_inclusive, dv_topk *out, dv_flat_scratch *scratch);

/* The definition: dv_query_distance of every allowed row. */
dv_status dv_flat_brute(const dv_flat *f, const dv_query *q, dv_topk *out);

#endif
