/*
 * dv_flat.c: owns no data; reads the caller's arrays in the order of memory and keeps what may still win.
 *
 * Why an exact search is exact. Let t be the k-th smallest high end of the intervals seen so far: k rows are surely not
 * farther than t, so a row whose low end is above t is not among the k best, whatever comes later. All other rows
 * become candidates. They are then re-ranked in order of (low end, vid); once the k-th best distance so far, with its
 * vid, is not behind the next candidate's (low end, vid), no later candidate can come before it, ties included.
 * Candidates that a cheap test throws out (flat_filter) have a low end above t as well, by the same inequalities with
 * more slack.
 */
#include "dv_flat.h"

#include <math.h>

DV_FP_STRICT_BEGIN

#define FLAT_INFINITY ((double)INFINITY)

/* Rows handled at a time: their sums stay in the first-level cache. */
enum { FLAT_CHUNK = 1024 };

/* Instead of a row's sum over bits: int8 has looked at it already. A row must not be considered twice, or its high end
 * would count for two rows. */
#define FLAT_SEEN UINT32_MAX

typedef struct dv_flat_candidate {
  double low;
  uint32_t row;
} dv_flat_candidate;

void dv_flat_scratch_init(dv_flat_scratch *s, const dv_alloc *alloc) {
  memset(s, 0, sizeof *s);
  s->alloc = alloc;
  dv_topk_init(&s->highs, 0, alloc);
}

void dv_flat_scratch_free(dv_flat_scratch *s) {
  dv_alloc_free(s->alloc, s->candidates);
  dv_alloc_free(s->alloc, s->words);
  dv_topk_free(&s->highs);
  dv_flat_scratch_init(s, s->alloc);
}

/* ---- masks ------------------------------------------------------------------------------------------------------- */

static inline unsigned flat_count_ones(uint64_t w) {
#if defined(__GNUC__) || defined(__clang__)
  return (unsigned)__builtin_popcountll(w);
#else
  unsigned n = 0;
  for (; w; w &= w - 1) n++;
  return n;
#endif
}

static inline unsigned flat_lowest_one(uint64_t w) {
#if defined(__GNUC__) || defined(__clang__)
  return (unsigned)__builtin_ctzll(w);
#else
  return flat_count_ones((w & (0 - w)) - 1);
#endif
}

/* Word i of the mask, without bits behind the last row. */
static inline uint64_t flat_mask_word(const dv_flat *f, size_t i) {
  uint64_t word = f->mask ? f->mask[i] : ~(uint64_t)0;
  size_t n_left = f->n_rows - 64 * i;
  return n_left < 64 ? word & (((uint64_t)1 << n_left) - 1) : word;
}

static size_t flat_count_allowed(const dv_flat *f) {
  if (f->list) return f->n_list;
  if (!f->mask) return f->n_rows;
  size_t n = 0;
  for (size_t i = 0; i < (f->n_rows + 63) / 64; i++) n += flat_count_ones(flat_mask_word(f, i));
  return n;
}

/* The allowed rows among first .. first + n - 1 (a multiple of 32, and so is n unless they are the last) into rows;
 * returns how many. */
static size_t flat_list_allowed(const dv_flat *f, size_t first, size_t n, uint32_t *rows) {
  size_t n_listed = 0;
  for (size_t at = first; at < first + n; at += 32)
    for (uint32_t half = (uint32_t)(flat_mask_word(f, at / 64) >> at % 64); half; half &= half - 1)
      rows[n_listed++] = (uint32_t)at + flat_lowest_one(half);
  return n_listed;
}

/* ---- one search -------------------------------------------------------------------------------------------------- */

typedef struct flat_search {
  const dv_flat *f;
  const dv_query *q;
  const dv_code_query *cq;
  dv_topk *out;
  dv_flat_scratch *scratch;
  double max_distance; /* only rows at less than this, or at it if is_inclusive */
  bool is_inclusive;
  bool keeps_highs; /* whether k high ends say something: not when every row is wanted */
} flat_search;

static inline uint32_t flat_vid(uint32_t row) { return row + 1; }

/* Fetches a row, measures its distance and keeps it if it is wanted. */
static dv_status flat_rerank_row(flat_search *s, uint32_t row) {
  dv_status status = DV_OK;
  const float *v = s->f->vector(s->f->ctx, row, &status);
  if (!v) return status == DV_OK ? DV_CORRUPT : status;
  s->scratch->n_reranked++;
  double distance = dv_query_distance(s->q, v);
  bool is_in_range = distance < s->max_distance || (distance == s->max_distance && s->is_inclusive);
  return is_in_range ? dv_topk_push(s->out, distance, flat_vid(row)) : DV_OK;
}

/* ---- f32: candidates in order of their low ends ------------------------------------------------------------------ */

static inline bool flat_is_before(dv_flat_candidate a, dv_flat_candidate b) {
  return a.low < b.low || (a.low == b.low && a.row < b.row);
}

/* A heap with the first candidate on top: most are never looked at, so sorting them all would be a waste. */
static void flat_sift_down(dv_flat_candidate *c, size_t n, size_t at) {
  dv_flat_candidate moved = c[at];
  for (;;) {
    size_t child = 2 * at + 1;
    if (child >= n) break;
    if (child + 1 < n && flat_is_before(c[child + 1], c[child])) child++;
    if (!flat_is_before(c[child], moved)) break;
    c[at] = c[child];
    at = child;
  }
  c[at] = moved;
}

static dv_status flat_rerank(flat_search *s) {
  dv_flat_candidate *c = s->scratch->candidates;
  size_t n = s->scratch->n_candidates;
  for (size_t at = n / 2; at-- > 0;) flat_sift_down(c, n, at);
  while (n > 0) {
    dv_flat_candidate first = c[0];
    dv_hit best_case = {first.low, flat_vid(first.row)};
    if (s->out->n == s->out->k && !dv_hit_less(best_case, s->out->hits[0])) break;
    if (first.low > s->max_distance) break;
    dv_status status = flat_rerank_row(s, first.row);
    if (status != DV_OK) return status;
    c[0] = c[--n];
    flat_sift_down(c, n, 0);
  }
  return DV_OK;
}

/* ---- int8: which rows become candidates -------------------------------------------------------------------------- */

/* No row farther than this is wanted. */
static double flat_limit(const flat_search *s) {
  double limit = s->max_distance, worst = dv_topk_worst(s->out);
  if (worst < limit) limit = worst;
  if (s->keeps_highs && dv_topk_worst(&s->scratch->highs) < limit) limit = dv_topk_worst(&s->scratch->highs);
  return limit;
}

static dv_status flat_add_candidate(flat_search *s, uint32_t row, double low, double high) {
  dv_flat_scratch *scratch = s->scratch;
  if (scratch->n_candidates == scratch->candidate_capacity) {
    double limit = flat_limit(s); /* it has come down since most of them were added */
    size_t n = 0;
    for (size_t i = 0; i < scratch->n_candidates; i++)
      if (scratch->candidates[i].low <= limit) scratch->candidates[n++] = scratch->candidates[i];
    scratch->n_candidates = n;
    if (n > scratch->candidate_capacity / 2 || n == 0) {
      size_t capacity = scratch->candidate_capacity ? 2 * scratch->candidate_capacity : 256;
      void *p = dv_alloc_array(scratch->alloc, scratch->candidates, capacity, sizeof *scratch->candidates);
      if (!p) return DV_NOMEM;
      scratch->candidates = p;
      scratch->candidate_capacity = capacity;
    }
  }
  dv_flat_candidate *c = &scratch->candidates[scratch->n_candidates++];
  c->low = low;
  c->row = row;
  return s->keeps_highs ? dv_topk_push(&scratch->highs, high, flat_vid(row)) : DV_OK;
}

/*
 * Positions in rows[0..n) whose row may be within limit, as far as a few operations tell: for l2 and cosine whether
 * |a-b| <= reach + r, where reach is the limit as a Euclidean distance plus the query's residual; for ip whether
 * a.b + |a| s + r |q| >= -limit. All in double, with 2^-20 of slack where their own rounding is 2^-50 and norm_sq's
 * 2^-24.
 */
static size_t flat_filter(const flat_search *s, double limit, const uint32_t *rows, size_t first, const int32_t *dots,
                          size_t n, uint32_t *out) {
  const dv_code_query *cq = s->cq;
  const dv_code_row *code_rows = s->f->code_rows;
  double t = (double)cq->scale, residual = (double)cq->residual;
  size_t n_out = 0;
  if (cq->metric == DV_IP) {
    double per_norm = residual + 2.0 * cq->rounding * cq->norm + 0x1p-20 * cq->norm;
    double per_residual = cq->norm * (1.0 + 2.0 * cq->rounding + 0x1p-20);
    for (size_t i = 0; i < n; i++) {
      const dv_code_row *row = &code_rows[rows ? rows[i] : first + i];
      double product = t * (double)row->scale * (double)dots[i];
      double best = product + sqrt((double)row->norm_sq + 0x1p-148) * per_norm + (double)row->residual * per_residual;
      out[n_out] = (uint32_t)i;
      n_out += !(best < -limit);
    }
    return n_out;
  }
  double reach = cq->metric == DV_L2 ? limit * (1.0 + 2.0 * cq->rounding) : sqrt(2.0 * (limit + 4.0 * cq->rounding));
  reach = (reach + residual) * (1.0 + 0x1p-20);
  double base = cq->code_sq * (1.0 - 0x1p-20) - 0x1p-140;
  for (size_t i = 0; i < n; i++) {
    const dv_code_row *row = &code_rows[rows ? rows[i] : first + i];
    double norm_sq = (double)row->norm_sq, to = reach + (double)row->residual * (1.0 + 0x1p-20);
    double between = norm_sq * (1.0 - 0x1p-20) + base - 2.0 * t * (double)row->scale * (double)dots[i];
    out[n_out] = (uint32_t)i;
    n_out += !(between > to * to) | !(norm_sq < FLAT_INFINITY);
  }
  return n_out;
}

/* Candidates among n rows, listed or consecutive from first, from their dots. seen, if not NULL, tells by FLAT_SEEN at
 * [row - first] which of them were considered before. */
static dv_status flat_consider(flat_search *s, const uint32_t *rows, size_t first, const int32_t *dots, size_t n,
                               const uint32_t *seen) {
  uint32_t survivors[FLAT_CHUNK];
  size_t stride = dv_code_stride(s->f->n);
  size_t n_survivors = flat_filter(s, flat_limit(s), rows, first, dots, n, survivors);
  s->scratch->n_scanned += n;
  for (size_t i = 0; i < n_survivors; i++) {
    /* The analyzer takes the 0 or 1 that flat_filter() counts for any number. */
    uint32_t at = survivors[i]; /* NOLINT(clang-analyzer-core.uninitialized.Assign) */
    uint32_t row = rows ? rows[at] : (uint32_t)(first + at);
    if (seen && seen[row - first] == FLAT_SEEN) continue;
    double low, high;
    if (s->cq->is_fine) {
      int32_t dot_low;
      s->q->kernels->gather_code(s->f->codes, stride, &row, 1, s->cq->code_low, s->cq->sum_low, &dot_low);
      dv_code_bounds_fine(s->cq, &s->f->code_rows[row], dots[at], dot_low, &low, &high);
    } else {
      dv_code_bounds(s->cq, &s->f->code_rows[row], dots[at], &low, &high);
    }
    if (low > flat_limit(s)) continue; /* of the true interval; and the limit has come down since the filter */
    dv_status status = flat_add_candidate(s, row, low, high);
    if (status != DV_OK) return status;
  }
  return DV_OK;
}

/* Candidates among a list of at most FLAT_CHUNK rows. */
static dv_status flat_consider_list(flat_search *s, const uint32_t *rows, size_t n, size_t first,
                                    const uint32_t *seen) {
  int32_t dots[FLAT_CHUNK];
  size_t stride = dv_code_stride(s->f->n);
  s->q->kernels->gather_code(s->f->codes, stride, rows, n, s->cq->code, s->cq->sum, dots);
  return flat_consider(s, rows, first, dots, n, seen);
}

/* Candidates among the allowed rows from first, a multiple of 32, to first + n - 1, n <= FLAT_CHUNK. */
static dv_status flat_consider_range(flat_search *s, size_t first, size_t n, const uint32_t *seen) {
  const dv_flat *f = s->f;
  size_t stride = dv_code_stride(f->n);
  if (f->mask) {
    uint32_t rows[FLAT_CHUNK];
    size_t n_allowed = flat_list_allowed(f, first, n, rows);
    if (n_allowed < n) return flat_consider_list(s, rows, n_allowed, first, seen);
  }
  int32_t dots[FLAT_CHUNK];
  s->q->kernels->scan_code(f->codes, stride, first, n, s->cq->code, s->cq->sum, dots);
  return flat_consider(s, NULL, first, dots, n, seen);
}

/* Whether to go on behind a chunk. */
static inline dv_status flat_poll(const flat_search *s) { return s->f->poll ? s->f->poll(s->f->ctx) : DV_OK; }

/* Chunks are short at first, to have a limit soon. */
static inline size_t flat_next_chunk(size_t n_chunk) { return n_chunk < FLAT_CHUNK ? 2 * n_chunk : n_chunk; }

static dv_status flat_consider_listed(flat_search *s) {
  const dv_flat *f = s->f;
  dv_status status = DV_OK;
  for (size_t at = 0, n_chunk = 64; at < f->n_list && status == DV_OK;
       at += n_chunk, n_chunk = flat_next_chunk(n_chunk)) {
    status = flat_consider_list(s, f->list + at, f->n_list - at < n_chunk ? f->n_list - at : n_chunk, 0, NULL);
    if (status == DV_OK) status = flat_poll(s);
  }
  return status;
}

static dv_status flat_consider_all(flat_search *s) {
  size_t n_rows = s->f->n_rows, n_chunk = 64;
  dv_status status = DV_OK;
  for (size_t first = 0; first < n_rows && status == DV_OK; first += n_chunk, n_chunk = flat_next_chunk(n_chunk)) {
    status = flat_consider_range(s, first, n_rows - first < n_chunk ? n_rows - first : n_chunk, NULL);
    if (status == DV_OK) status = flat_poll(s);
  }
  return status;
}

/* ---- bits: which rows are looked at ------------------------------------------------------------------------------ */

/*
 * The error of an estimate is taken to be the row's factor times a number that depends on the query alone, normally
 * distributed: the form it has for random signs. Its deviation is measured on sample blocks, spread over the table (and
 * taken for larger where its tails are heavy, as for sparse vectors). A row is left out when its estimate is
 * FLAT_DEVIATIONS of that beyond the limit. No constant number of candidates would fit all data: of 10,000 embeddings
 * this looks at the int8 codes of 350, of uniform random vectors at 2,000, and where signs say nothing at all of them.
 */
#define FLAT_DEVIATIONS 3.5f
enum { FLAT_BITS_MIN_ROWS = 1000, FLAT_SAMPLES = 4, FLAT_SAMPLE_ROWS = DV_BITS_ROWS };

typedef struct flat_bits {
  dv_bit_query query;
  uint32_t *sums; /* of all rows */
  size_t samples[FLAT_SAMPLES]; /* first rows of the sample blocks */
  float margin; /* of an estimate, a unit of factor */
} flat_bits;

static dv_status flat_bits_init(flat_bits *b, flat_search *s) {
  dv_flat_scratch *scratch = s->scratch;
  size_t n_table = 64 * dv_bit_words(s->f->n), n_sums = dv_bit_blocks(s->f->n_rows) * DV_BITS_ROWS;
  if (scratch->word_capacity < n_table + n_sums) {
    uint32_t *p = dv_alloc_array(scratch->alloc, scratch->words, n_table + n_sums, sizeof *p);
    if (!p) return DV_NOMEM;
    scratch->words = p;
    scratch->word_capacity = n_table + n_sums;
  }
  b->sums = scratch->words + n_table;
  dv_bit_query_init(&b->query, s->cq, s->f->center, (uint8_t *)scratch->words);
  return DV_OK;
}

static void flat_bits_sums(const flat_bits *b, const flat_search *s, size_t first, size_t n, uint32_t *sums) {
  size_t n_words = dv_bit_words(s->f->n);
  s->q->kernels->scan_bits(s->f->bits + first * n_words, dv_bit_blocks(n), n_words, b->query.table, sums);
}

/* The square of the error of a row's estimate against int8, a unit of factor. */
static double flat_bits_error_sq(const flat_bits *b, const flat_search *s, uint32_t row, uint32_t sum, int32_t dot) {
  const dv_bit_row *bit_row = &s->f->bit_rows[row];
  const dv_code_row *code_row = &s->f->code_rows[row];
  double known = -(double)code_row->scale * (double)s->cq->scale * (double)dot;
  if (s->cq->metric == DV_L2) known = 2.0 * known + (double)code_row->norm_sq + s->cq->code_sq;
  double error = ((double)dv_bits_estimate(&b->query, bit_row, sum) - known) / (double)bit_row->factor;
  return error * error;
}

/* Candidates among the sample rows, and from their errors the margin. */
static dv_status flat_bits_sample(flat_bits *b, flat_search *s) {
  const dv_flat *f = s->f;
  size_t stride = dv_code_stride(f->n), n_sampled = 0;
  double sum_sq = 0.0, sum_fourth = 0.0;
  for (size_t i = 0; i < FLAT_SAMPLES; i++) {
    uint32_t sums[FLAT_SAMPLE_ROWS], rows[FLAT_SAMPLE_ROWS];
    int32_t dots[FLAT_SAMPLE_ROWS];
    size_t first = f->n_rows / FLAT_SAMPLE_ROWS * (2 * i + 1) / ((size_t)2 * FLAT_SAMPLES) * FLAT_SAMPLE_ROWS;
    size_t n = flat_list_allowed(f, first, FLAT_SAMPLE_ROWS, rows);
    b->samples[i] = first;
    flat_bits_sums(b, s, first, FLAT_SAMPLE_ROWS, sums);
    s->q->kernels->gather_code(f->codes, stride, rows, n, s->cq->code, s->cq->sum, dots);
    for (size_t j = 0; j < n; j++)
      if (f->bit_rows[rows[j]].factor > 0.0f) {
        double error_sq = flat_bits_error_sq(b, s, rows[j], sums[rows[j] - first], dots[j]);
        sum_sq += error_sq;
        sum_fourth += error_sq * error_sq;
        n_sampled++;
      }
    dv_status status = flat_consider(s, rows, first, dots, n, NULL);
    if (status != DV_OK) return status;
  }
  double tails = sum_fourth * (double)n_sampled / (3.0 * sum_sq * sum_sq); /* 1 for a normal distribution */
  b->margin = FLAT_DEVIATIONS * (float)sqrt(sum_sq / (double)n_sampled * (tails > 1.0 ? tails : 1.0));
  /* Too few samples, or values beyond f32: then no estimate is trusted (NaN is not above the limit either). */
  if (n_sampled < FLAT_SAMPLE_ROWS / 2 || !dv_is_finite(b->margin)) b->margin = INFINITY;
  return DV_OK;
}

/* The limit of distances as one of estimates. */
static float flat_bits_limit(const flat_bits *b, const flat_search *s) {
  double limit = flat_limit(s);
  if (s->cq->metric == DV_L2) limit *= limit;
  if (s->cq->metric == DV_COSINE) limit -= 1.0;
  return (float)limit - b->query.constant;
}

/* Candidates among the rows first .. first + n - 1 whose estimate less the margin is within the limit. */
static dv_status flat_bits_consider(flat_bits *b, flat_search *s, size_t first, size_t n, float margin,
                                    size_t n_enough) {
  const uint64_t *mask = s->f->mask;
  uint32_t *sums = b->sums + first, at[FLAT_CHUNK];
  size_t n_listed = 0, n_picked = s->q->kernels->pick_bits(sums, s->f->bit_rows + first, n, b->query.per_sum,
                                                           b->query.base - margin, flat_bits_limit(b, s), at);
  if (n_picked > n_enough) return flat_consider_range(s, first, n, sums);
  for (size_t i = 0; i < n_picked; i++) {
    size_t row = first + at[i];
    if (sums[at[i]] == FLAT_SEEN || (mask && !((mask[row / 64] >> row % 64) & 1))) continue;
    sums[at[i]] = FLAT_SEEN;
    at[n_listed++] = (uint32_t)row;
  }
  return flat_consider_list(s, at, n_listed, first, NULL);
}

/*
 * Two passes, so that the margin is applied to a limit that is nearly final: the first takes estimates at their word,
 * which finds most of the result among few rows; the second looks at what the first may have missed. If that is a third
 * of a chunk, it looks at all of the chunk: reading memory in order costs no more, and misses nothing.
 */
static dv_status flat_consider_by_bits(flat_search *s, flat_bits *b) {
  size_t n_rows = s->f->n_rows, n_chunk = (size_t)4 * DV_BITS_ROWS;
  dv_status status = DV_OK;
  for (size_t first = 0; first < n_rows && status == DV_OK; first += n_chunk, n_chunk = flat_next_chunk(n_chunk)) {
    size_t n = n_rows - first < n_chunk ? n_rows - first : n_chunk;
    flat_bits_sums(b, s, first, n, b->sums + first);
    for (size_t i = 0; i < FLAT_SAMPLES; i++)
      if (b->samples[i] - first < n)
        for (size_t r = 0; r < FLAT_SAMPLE_ROWS; r++) b->sums[b->samples[i] + r] = FLAT_SEEN;
    status = flat_bits_consider(b, s, first, n, 0.0f, n);
    if (status == DV_OK) status = flat_poll(s);
  }
  for (size_t first = 0; first < n_rows && status == DV_OK; first += FLAT_CHUNK) {
    size_t n = n_rows - first < FLAT_CHUNK ? n_rows - first : FLAT_CHUNK;
    status = flat_bits_consider(b, s, first, n, b->margin, n / 3);
    if (status == DV_OK) status = flat_poll(s);
  }
  return status;
}

/* ---- entry points ------------------------------------------------------------------------------------------------ */

static dv_status flat_brute(flat_search *s) {
  for (size_t i = 0; s->f->list && i < s->f->n_list; i++) {
    dv_status status = flat_rerank_row(s, s->f->list[i]);
    if (status != DV_OK) return status;
  }
  if (s->f->list) return DV_OK;
  for (size_t i = 0; i < (s->f->n_rows + 63) / 64; i++)
    for (uint64_t word = flat_mask_word(s->f, i); word; word &= word - 1) {
      dv_status status = flat_rerank_row(s, (uint32_t)(64 * i + flat_lowest_one(word)));
      if (status != DV_OK) return status;
    }
  return DV_OK;
}

static dv_status flat_run(flat_search *s, bool is_exact) {
  dv_flat_scratch *scratch = s->scratch;
  size_t k = s->out->k;
  scratch->n_candidates = 0;
  scratch->n_scanned = scratch->n_reranked = 0;
  if (k == 0) return DV_OK;
  if (s->q->metric == DV_L1) return flat_brute(s);

  size_t n_allowed = flat_count_allowed(s->f);
  s->keeps_highs = k < n_allowed;
  scratch->highs.n = 0;
  scratch->highs.k = k;
  dv_status status;
  if (s->f->list) {
    status = flat_consider_listed(s);
  } else if (!is_exact && s->f->bits && n_allowed >= FLAT_BITS_MIN_ROWS && n_allowed >= s->f->n_rows / 8) {
    flat_bits bits;
    status = flat_bits_init(&bits, s);
    if (status == DV_OK) status = flat_bits_sample(&bits, s);
    if (status == DV_OK) status = flat_consider_by_bits(s, &bits);
  } else {
    status = flat_consider_all(s);
  }
  return status == DV_OK ? flat_rerank(s) : status;
}

dv_status dv_flat_search(const dv_flat *f, const dv_query *q, const dv_code_query *cq, size_t k, bool is_exact,
                         dv_topk *out, dv_flat_scratch *scratch) {
  flat_search s = {f, q, cq, out, scratch, FLAT_INFINITY, true, false};
  DV_ASSERT(out->k == k);
  (void)k;
  return flat_run(&s, is_exact);
}

dv_status dv_flat_range(const dv_flat *f, const dv_query *q, const dv_code_query *cq, double max_distance,
                        bool is_inclusive, dv_topk *out, dv_flat_scratch *scratch) {
  flat_search s = {f, q, cq, out, scratch, max_distance, is_inclusive, false};
  return flat_run(&s, true);
}

dv_status dv_flat_brute(const dv_flat *f, const dv_query *q, dv_topk *out) {
  dv_flat_scratch none;
  dv_flat_scratch_init(&none, out->alloc);
  flat_search s = {f, q, NULL, out, &none, FLAT_INFINITY, true, false};
  return out->k == 0 ? DV_OK : flat_brute(&s);
}

DV_FP_STRICT_END
