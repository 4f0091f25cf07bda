/*
 * abi.h: the component's interface, wasm/wit/delta-vector.wit, as C sees it.
 *
 * The Canonical ABI lays out records, variants, options and results as a C compiler lays out structures for wasm32: fields
 * in order, each aligned to its own size; a variant is its tag and then a union. So the types below ARE the interface, and
 * no code packs or unpacks. What holds them together:
 *
 *   - the host, not we, checks what comes in (UTF-8, tags, bounds) and writes it into memory that it asks of
 *     cabi_export_realloc(), so pointers and lengths here are right by the time we are called;
 *   - signatures are compared with the WIT when the component is made (componentize.mjs): a function too many, too few, or
 *     with other parameters fails the build;
 *   - sizes are asserted at the end of this file, and the tests send every field through and back.
 *
 * Written by hand, as the C generator of wit-bindgen is in no registry that a bare Debian 12 can build it from; it would
 * write the same structures.
 */
#ifndef DELTA_VECTOR_ABI_H
#define DELTA_VECTOR_ABI_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- memory.c: memory of a call ---------------------------------------------------------------------------------- */

/* Memory that lives until the call's result has been read: the host's arguments are there too. NULL: there is none. */
void *abi_alloc(size_t n);
/* Memory of sqlite3_malloc() that is to be freed then. */
void abi_adopt(void *sqlite_memory);
/* The call is over. */
void abi_call_end(void);

/* ---- types ------------------------------------------------------------------------------------------------------- */

/* list<T> and string */
typedef struct abi_bytes {
  const uint8_t *at;
  size_t n;
} abi_bytes;

typedef struct abi_string {
  const char *at;
  size_t n;
} abi_string;

/* memory.c: the text as a string for the host, to which strings are UTF-8 or a trap. What is not, in a file of somebody
 * else's, becomes U+FFFD. Borrows the text. */
abi_string abi_text(const char *text, size_t n);

typedef struct abi_floats {
  const float *at;
  size_t n;
} abi_floats;

typedef struct abi_option_string {
  uint8_t is_some;
  abi_string some;
} abi_option_string;

typedef struct abi_option_floats {
  uint8_t is_some;
  abi_floats some;
} abi_option_floats;

typedef struct abi_option_u64 {
  uint8_t is_some;
  uint64_t some;
} abi_option_u64;

typedef struct abi_option_f64 {
  uint8_t is_some;
  double some;
} abi_option_f64;

typedef struct abi_option_u32 {
  uint8_t is_some;
  uint32_t some;
} abi_option_u32;

typedef struct abi_option_u8 {
  uint8_t is_some;
  uint8_t some; /* bool, enum */
} abi_option_u8;

enum { OP_CREATE, OP_SPARSE, OP_DENSE, OP_SCALE, OP_OFFSET, OP_DELETE };

typedef struct wit_delta_operation {
  uint8_t tag;
  union {
    abi_floats vector; /* create, dense */
    struct {
      struct {
        const uint32_t *at;
        size_t n;
      } indices;
      abi_floats values;
    } sparse;
    float number; /* scale, offset */
  };
} wit_delta_operation;

typedef struct wit_vector_delta {
  abi_string vector_id;
  wit_delta_operation operation;
  abi_option_u64 timestamp;
} wit_vector_delta;

typedef struct wit_delta_with_metadata {
  wit_vector_delta delta;
  abi_option_string metadata;
} wit_delta_with_metadata;

typedef struct wit_search_result {
  abi_string id;
  float score;
} wit_search_result;

typedef struct wit_options {
  uint32_t dimensions;
  abi_option_string path, table;
  abi_option_u8 metric;
  abi_option_u32 max_vectors;
  abi_option_u8 compression;
  abi_option_u32 checkpoint_interval, hnsw_m, hnsw_ef_construction, hnsw_ef_search;
} wit_options;

typedef struct wit_filter_value {
  uint8_t tag; /* null, integer, real, text */
  union {
    int64_t integer;
    double real;
    abi_string text;
  };
} wit_filter_value;

typedef struct wit_search_options {
  abi_option_u8 exact;
  abi_option_u32 ef;
  abi_option_f64 recall_target, max_distance;
  abi_option_u64 as_of;
  abi_option_string filter;
  struct {
    const wit_filter_value *at;
    size_t n;
  } values;
} wit_search_options;

typedef struct wit_search_hit {
  abi_string id;
  float score;
  double distance;
} wit_search_hit;

typedef struct wit_committed_delta {
  uint64_t seq;
  abi_string vector_id;
  wit_delta_operation operation;
  uint64_t timestamp;
  abi_option_string metadata;
  uint8_t checkpoint;
} wit_committed_delta;

typedef struct wit_compaction_stats {
  uint64_t rows, deltas_before, deltas_after, bytes_before, bytes_after, merged, removed;
} wit_compaction_stats;

typedef struct wit_import_stats {
  uint64_t applied, skipped;
} wit_import_stats;

/* ---- results ----------------------------------------------------------------------------------------------------- */

/* result<T, string>, for every T. The host reads it by its own layout, in which the value begins at the alignment of the
 * larger of T and string: 4, or 8 where there are 64-bit numbers in T. */
typedef struct abi_result {
  uint8_t is_error;
  union {
    abi_string error, text;
    abi_bytes list;
    abi_option_string option_text;
    abi_option_floats option_vector;
    uint32_t handle;
  };
} abi_result;

typedef struct abi_result64 {
  uint8_t is_error;
  union {
    abi_string error;
    wit_compaction_stats compaction;
    wit_import_stats import;
  };
} abi_result64;

/* ---- search-with: more than sixteen parameters when flattened, so they come as one structure ------------------------ */

typedef struct abi_search_with {
  struct database *db;
  abi_floats query;
  uint32_t k;
  wit_search_options options;
} abi_search_with;

/* ---- exports ----------------------------------------------------------------------------------------------------- */

/* The function behind the WIT name, and the one that the host calls when it has read the result. */
#define ABI_EXPORT(name, function)                                                                                     \
  __attribute__((export_name("cabi_post_ruvector:delta/" name))) void function##_end(const void *result) {             \
    (void)result;                                                                                                      \
    abi_call_end();                                                                                                    \
  }                                                                                                                    \
  __attribute__((export_name("ruvector:delta/" name)))

#define ABI_SIZE(type, size, alignment)                                                                                \
  _Static_assert(sizeof(type) == (size) && _Alignof(type) == (alignment), #type " is not as the Canonical ABI has it")

ABI_SIZE(abi_string, 8, 4);
ABI_SIZE(abi_option_u8, 2, 1);
ABI_SIZE(abi_option_u32, 8, 4);
ABI_SIZE(abi_option_u64, 16, 8);
ABI_SIZE(abi_option_string, 12, 4);
ABI_SIZE(wit_delta_operation, 20, 4);
ABI_SIZE(wit_vector_delta, 48, 8);
ABI_SIZE(wit_delta_with_metadata, 64, 8);
ABI_SIZE(wit_search_result, 12, 4);
ABI_SIZE(wit_options, 76, 4);
ABI_SIZE(wit_filter_value, 16, 8);
ABI_SIZE(wit_search_options, 88, 8);
ABI_SIZE(wit_search_hit, 24, 8);
ABI_SIZE(wit_committed_delta, 64, 8);
ABI_SIZE(wit_compaction_stats, 56, 8);
ABI_SIZE(abi_result, 16, 4);
ABI_SIZE(abi_result64, 64, 8);
ABI_SIZE(abi_search_with, 104, 8);

#endif
