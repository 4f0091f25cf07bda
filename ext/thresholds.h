/*
 * thresholds.h: the sizes at which the extension changes its behaviour, in one place.
 *
 * With DVX_SMALL_LIMITS they are so small that a test with a few rows crosses every one of them: the differential test
 * is built both ways.
 */
#ifndef DVX_THRESHOLDS_H
#define DVX_THRESHOLDS_H

#ifndef DVX_SMALL_LIMITS

/* Pending records are written to the log early, and their memory given back, when there are more bytes of them. */
#define DVX_SPILL_BYTES ((size_t)32 << 20)
/* A savepoint set over more unwritten bytes than this writes them first, so that they need not be kept for it. */
#define DVX_SAVEPOINT_FLUSH_BYTES ((size_t)1 << 20)
/* A sweep of settle.c begins when so many records are unsettled: DVX_UNSETTLED_PER_ROW for each row, but not fewer than
 * DVX_UNSETTLED_RECORDS nor more than DVX_UNSETTLED_MOST; or when there are DVX_UNSETTLED_RECORDS new rows. It goes on by
 * DVX_SETTLE_STRETCH rows at a time, by DVX_SETTLE_STEP or more where there is a graph. */
#define DVX_UNSETTLED_PER_ROW 4u
#define DVX_UNSETTLED_RECORDS 4096u
#define DVX_UNSETTLED_MOST 32768u
#define DVX_SETTLE_STRETCH 256u
#define DVX_SETTLE_STEP 1024u
/* While the log is shorter than this, codes are not stored: reading it through and coding all rows takes some
 * milliseconds, and a small table's file, commits and bulk loads are a quarter cheaper without them. In WebAssembly it
 * takes some five times as long, and comes with every reload of a page. */
#define DVX_CODES_FROM_BYTES ((uint64_t)(sizeof(void *) == 4 ? 4 : 24) << 20)
/* Default of memory_limit, and the bytes that one of it stands for. */
#define DVX_MEMORY_LIMIT (sizeof(void *) == 4 ? 512 : 2048)
#define DVX_MEMORY_UNIT ((size_t)1 << 20)
/* Past states kept for the next search of the same moment. */
#define DVX_PAST_BYTES ((size_t)256 << 20)
/* A column whose distinct values are more text than this is not held in memory for filters. */
#define DVX_COLUMN_BYTES ((size_t)64 << 20)
/* After this many look-ups that missed, all ids are loaded, if there are not too many. */
#define DVX_ID_MISSES 32u
/* index=auto: so many rows get a graph. Below, a scan is as fast and needs no upkeep. */
#define DVX_GRAPH_FROM_ROWS 20000u
/* Rows that a commit may link, when it settles. */
#define DVX_LINKS_A_COMMIT 512u
/* Rows wait for the graph until there are more than one in DVX_FRESH_PART of the table's, but not fewer than
 * DVX_FRESH_ROWS nor more than DVX_FRESH_MOST; if more are left, a commit settles early, from half of
 * DVX_LINKS_A_COMMIT records on. At 100,000 rows a settling writes nearly all of the graph, whether it links 200 rows
 * or 500; but a fresh row costs every search a distance. */
#define DVX_FRESH_ROWS 256u
#define DVX_FRESH_MOST 512u
#define DVX_FRESH_PART 64u
/* What a scan is taken to cost, as a factor: see search.c. A benchmark has it forced to nothing, or to very much. */
#ifndef DVX_SCAN_COST
#define DVX_SCAN_COST 1.0
#endif
/* Fewer rows than this are coded one by one rather than by reading the whole log. */
#define DVX_LOAD_ROWS 256u
/* Fewer chains than this are followed one by one rather than together; of their deltas, so many bytes are held. */
#define DVX_FOLD_TOGETHER 8u
#define DVX_FOLD_BYTES ((size_t)64 << 20)

#else

#define DVX_SPILL_BYTES ((size_t)600)
#define DVX_SAVEPOINT_FLUSH_BYTES ((size_t)300)
#define DVX_UNSETTLED_PER_ROW 1u
#define DVX_UNSETTLED_RECORDS 5u
#define DVX_UNSETTLED_MOST 12u
#define DVX_SETTLE_STRETCH 2u
#define DVX_SETTLE_STEP 3u
#define DVX_CODES_FROM_BYTES ((uint64_t)1000)
#define DVX_MEMORY_LIMIT 1 /* everything is given back at every chance */
#define DVX_MEMORY_UNIT ((size_t)1)
#define DVX_PAST_BYTES ((size_t)200)
#define DVX_COLUMN_BYTES ((size_t)24)
#define DVX_ID_MISSES 3u
#define DVX_LOAD_ROWS 2u
#define DVX_FOLD_TOGETHER 2u
#define DVX_FOLD_BYTES ((size_t)500)
#define DVX_GRAPH_FROM_ROWS 8u
#define DVX_LINKS_A_COMMIT 4u
#define DVX_FRESH_ROWS 3u
#define DVX_FRESH_MOST 3u
#define DVX_FRESH_PART 64u
#define DVX_SCAN_COST 1e6 /* the graph is always asked */

#endif
#endif
