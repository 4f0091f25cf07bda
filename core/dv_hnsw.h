/*
 * dv_hnsw.h: a navigable graph over codes (Malkov & Yashunin 2016, "Efficient and robust approximate nearest neighbor
 * search using hierarchical navigable small world graphs"), undirected.
 *
 * A node is a row of the caller's arrays; the graph has nothing of a row but ids of neighbours. Distances are always
 * those of the codes as they are now, so a row that moved a little is found where it is. Where the high halves of codes
 * tell nearly as much as all of them, searches walk by those, and measure what they have found by all.
 *
 * All links go both ways, as in Redis' vector sets: a node that is taken out leaves nothing behind that points to it.
 * Linking keeps every node within reach; taking out does so wherever lists have room, and dv_hnsw_unreachable() tells where
 * it did not.
 *
 * The graph is a function of the calls that made it and of the codes: levels come from a hash of row and seed, ties
 * are broken by row, and distances are the same bits on every machine. The number of threads changes nothing.
 */
#ifndef DV_HNSW_H
#define DV_HNSW_H

#include "dv_quant.h"

#define DV_HNSW_NONE UINT32_MAX
#define DV_HNSW_MAX_LEVEL 15
#define DV_HNSW_PAGE ((size_t)16384) /* as large as pages are on any system that this is for */
#define DV_HNSW_MAX_M 512u
/* Rows are below this: the top bit of an id is used in searches. */
#define DV_HNSW_MAX_ROWS ((uint32_t)1 << 31)

/* For a graph of which only a part is in memory: what must be there before it is looked at. A call brings more than was
 * asked for if it likes; what it has brought stays. */
typedef struct dv_hnsw_pager {
  const uint64_t *has_code; /* bitmap of rows */
  const uint64_t *has_list; /* ... whose list on the ground is there */
  dv_status (*need_code)(void *ctx, uint32_t row);
  dv_status (*need_list)(void *ctx, uint32_t row);
  void *ctx;
} dv_hnsw_pager;

/* For a metric that codes know nothing of: the graph is one by another metric (l2 for l1), and what it finds is judged
 * by the true one. */
typedef struct dv_hnsw_judge {
  /* The distances of n rows, all in the graph, from another row. */
  dv_status (*measure)(void *ctx, uint32_t from, const uint32_t *rows, size_t n, float *out);
  void *ctx;
} dv_hnsw_judge;

/* What distances are computed from. Borrowed. */
typedef struct dv_hnsw_space {
  const dv_kernels *kernels;
  dv_metric metric; /* not l1 */
  size_t n; /* dimensions */
  const uint8_t *codes; /* packed */
  const dv_code_row *rows;
  const dv_hnsw_judge *judge; /* of dv_hnsw_recall; NULL: what codes say */
  const dv_hnsw_pager *pager; /* NULL: everything is in memory */
} dv_hnsw_space;

typedef struct dv_hnsw {
  const dv_alloc *alloc;
  uint32_t m; /* links of a node on a level above the ground; twice as many on it */
  uint64_t seed;
  uint32_t n; /* rows there is room for: ids are below */
  uint32_t n_linked; /* nodes in the graph */
  uint32_t entry; /* where a search begins; DV_HNSW_NONE: the graph is empty */
  uint32_t top; /* the entry's level */
  uint32_t *ground; /* n lists of 2m, filled from the front, the rest DV_HNSW_NONE; begins on a page of memory ... */
  uint8_t *ground_memory; /* ... in here */
  uint32_t *upper_at; /* of n: number of the row's first list above the ground; DV_HNSW_NONE: it has none */
  uint32_t *upper; /* lists of m; a row of level l has l, in order of levels */
  uint32_t *upper_row; /* row of each of these lists */
  uint32_t n_upper;
  uint32_t upper_capacity;
  uint32_t capacity;
  uint64_t *changed; /* bitmap of rows whose ground list changed since dv_hnsw_forget_changes */
  uint64_t *upper_changed; /* ... of lists above */
  int8_t *code; /* a row's, unpacked, for who changes links */
  size_t code_capacity;
  dv_status (*poll)(
      void *ctx); /* called now and then in what takes long; another status than DV_OK ends it. NULL: not */
  void *poll_ctx;
} dv_hnsw;

/* One candidate: ordered by (distance, row). */
typedef struct dv_hnsw_hit {
  float distance;
  uint32_t row;
} dv_hnsw_hit;

/* What one search needs; one for each thread. */
typedef struct dv_hnsw_scratch {
  const dv_alloc *alloc;
  uint64_t *visited;
  size_t n_visited_words;
  dv_hnsw_hit *pool; /* the ef nearest so far, sorted; the top bit of row: not yet expanded */
  uint64_t *keys; /* the same while a level is searched */
  size_t n_pool;
  size_t pool_capacity;
  uint32_t *rows; /* what is measured at a time, ... */
  float *distances;
  int32_t *dots;
  size_t row_capacity;
  int8_t *codes; /* two rows' codes, unpacked */
  size_t code_capacity;
  /* What the last search did. */
  size_t n_distances;
  size_t n_hops;
} dv_hnsw_scratch;

void dv_hnsw_init(dv_hnsw *g, uint32_t m, uint64_t seed, const dv_alloc *alloc);
void dv_hnsw_free(dv_hnsw *g);
/* Room for rows 0 .. n-1; what is there stays. */
dv_status dv_hnsw_reserve(dv_hnsw *g, uint32_t n);
/* The same, but the lists on the ground of new rows below n_unread are not emptied: the caller will write them, all of
 * them before anything looks at one. (Emptying those of a large graph takes as long as many a search.) */
dv_status dv_hnsw_reserve_unread(dv_hnsw *g, uint32_t n, uint32_t n_unread);
/* Room for n lists above the ground, for who reads them from somewhere. */
dv_status dv_hnsw_reserve_upper(dv_hnsw *g, size_t n);

void dv_hnsw_scratch_init(dv_hnsw_scratch *s, const dv_alloc *alloc);
void dv_hnsw_scratch_free(dv_hnsw_scratch *s);

uint32_t dv_hnsw_level(const dv_hnsw *g, uint32_t row);
bool dv_hnsw_is_linked(const dv_hnsw *g, uint32_t row);

/*
 * The (at most) ef rows nearest to the query that a search finds, in s->pool[0 .. s->n_pool), sorted, distances as
 * dv_code_estimate gives them, but for the sign of zero, which is +.
 */
dv_status dv_hnsw_search(const dv_hnsw *g, const dv_hnsw_space *space, const dv_code_query *q, size_t ef,
                         dv_hnsw_scratch *s);

/*
 * How distances grow: growth[i] is how many times as far as the (10 * 2^i)-th nearest the (20 * 2^i)-th is, at the mean of
 * n_rows linked rows, as a search finds them. All 1 where the metric is not one (ip). Everything must be in memory.
 */
#define DV_HNSW_OCTAVES 4
dv_status dv_hnsw_growth(const dv_hnsw *g, const dv_hnsw_space *space, const uint32_t *rows, size_t n_rows,
                         double *growth);

/* As dv_hnsw_search, for the k nearest of a graph of which this is known: as much work at the mean, but more of it for queries
 * that need it, and so more is found. k rows at least are in the pool, if so many are found. NULL: as dv_hnsw_search. */
dv_status dv_hnsw_search_nearest(const dv_hnsw *g, const dv_hnsw_space *space, const dv_code_query *q, size_t k,
                                 size_t ef, const double *growth, dv_hnsw_scratch *s);

/* Looks on at a search whose result is only partly wanted: goes_on(ctx, pool, n) is called now and then, from
 * n = `first` on, when links have led to nothing nearer than the n nearest so far. false ends the search, with those n
 * in the pool. The top bit of a row means nothing to it. */
typedef struct dv_hnsw_watch {
  size_t first;
  bool (*goes_on)(void *ctx, const dv_hnsw_hit *pool, size_t n);
  void *ctx;
} dv_hnsw_watch;

/* As dv_hnsw_search, watched; NULL: not. */
dv_status dv_hnsw_search_watched(const dv_hnsw *g, const dv_hnsw_space *space, const dv_code_query *q, size_t ef,
                                 const dv_hnsw_watch *watch, dv_hnsw_scratch *s);

/* Threads for dv_hnsw_link: run() calls task(arg, i, worker) for every i < n and returns when all are done; worker is
 * below n_workers, and no two tasks at a time have the same. */
typedef struct dv_hnsw_runner {
  void (*run)(void *ctx, size_t n, void (*task)(void *arg, size_t i, size_t worker), void *arg);
  void *ctx;
  size_t n_workers;
} dv_hnsw_runner;

/*
 * Links n_rows different rows that are not in the graph, choosing from the ef nearest that a search finds. Rows are
 * taken in batches: all of a batch search the graph as it was before the batch, and each other. So the searches of a
 * batch can run at the same time, on the runner's threads; NULL: one after the other. A pager is only for one thread.
 *
 * On failure the rows before *n_done are linked, the others are not, and the graph is whole.
 */
dv_status dv_hnsw_link(dv_hnsw *g, const dv_hnsw_space *space, const uint32_t *rows, size_t n_rows, size_t ef,
                       const dv_hnsw_runner *runner, size_t *n_done);

/* Takes a linked row out. Its neighbours are linked with each other where they can take it: at most one new link for
 * each that is lost. On failure nothing has changed. */
dv_status dv_hnsw_unlink(dv_hnsw *g, const dv_hnsw_space *space, uint32_t row);

void dv_hnsw_forget_changes(dv_hnsw *g);

/*
 * How much searches find: for each of n_rows linked rows (not many) its k nearest among all linked rows, itself not
 * counted, by looking at every one; and the share of them that searches with each of the efs, which rise, find that do
 * not come by the row itself. recall[i] belongs to efs[i]; once it is all but 1, larger efs get the same. Everything
 * must be in memory. With a judge, near is what it says, and a search finds what it has among its ef candidates.
 */
dv_status dv_hnsw_recall(const dv_hnsw *g, const dv_hnsw_space *space, const uint32_t *rows, size_t n_rows, size_t k,
                         const double *growth, const uint32_t *efs, size_t n_efs, double *recall);

/* What is wrong with a graph that came from elsewhere. */
typedef enum dv_hnsw_fault {
  DV_HNSW_SOUND = 0,
  DV_HNSW_RANGE, /* a link to a row that does not exist */
  DV_HNSW_SELF, /* ... to itself */
  DV_HNSW_TWICE, /* ... to the same row twice */
  DV_HNSW_ONE_WAY, /* ... that does not go back */
  DV_HNSW_GAP, /* a link behind the end of a list */
  DV_HNSW_LEVEL, /* lists on levels that are not the row's */
  DV_HNSW_ENTRY, /* the entry is not the highest node, or not one */
  DV_HNSW_COUNT, /* n_linked is wrong */
  DV_HNSW_UNREACHABLE /* no path from the entry leads to the row */
} dv_hnsw_fault;

/* The first thing that is wrong, and with which row (and link). Everything must be in memory. DV_NOMEM or DV_OK. */
dv_status dv_hnsw_check(const dv_hnsw *g, dv_hnsw_fault *fault, uint32_t *row, uint32_t *other);

/* The linked rows that no path from the entry leads to, into out (room for n_linked); returns how many in *n. */
dv_status dv_hnsw_unreachable(const dv_hnsw *g, uint32_t *out, size_t *n);

#endif
