/*
 * dv_base.h: the words every core file uses: status codes, checked size arithmetic, asserts.
 *
 * core/ is plain C11: no SQLite, no I/O, no threads, no globals but the kernel table, and nothing of libc
 * beyond mem*, str* and math. It compiles unchanged to native code and to WebAssembly, and a build check proves it.
 */
#ifndef DV_BASE_H
#define DV_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

/* Why a core function did not do its work. On any status but DV_OK the outputs and inputs are unchanged. */
typedef enum dv_status {
  DV_OK = 0,
  DV_NOMEM,     /* the allocator returned NULL */
  DV_CORRUPT,   /* bytes do not follow the grammar, or a checksum differs */
  DV_VERSION,   /* bytes come from a newer format than this library reads */
  DV_LENGTH,    /* a vector or list has another length than expected */
  DV_INDEX,     /* an index lies outside 0 .. dimensions-1 */
  DV_DUPLICATE, /* an index is given twice */
  DV_NOT_FINITE, /* a value is NaN or infinite */
  DV_OVERFLOW,  /* an operation on finite values would give an infinite one */
  DV_SYNTAX,    /* text is not what was expected, at a given position */
  DV_LIMIT      /* a documented limit is exceeded */
} dv_status;

/* Where and what an error was about; filled only when a function fails and documents it. */
typedef struct dv_detail {
  uint64_t at;   /* index of the element, or byte offset in a text */
  double value;  /* the offending value, where there is one */
} dv_detail;

#define DV_MAX_DIMENSIONS 65536u

#if defined(__GNUC__) || defined(__clang__)
#define DV_LIKELY(x) __builtin_expect(!!(x), 1)
#define DV_UNLIKELY(x) __builtin_expect(!!(x), 0)
#else
#define DV_LIKELY(x) (x)
#define DV_UNLIKELY(x) (x)
#endif

/*
 * Asks for the line of memory at p: into all caches, into the second level (more lines can be on their way to it at a
 * time), or to be written. To GCC a function that does nothing but prefetch does nothing, and it drops calls of it; the
 * empty asm is something that it does. Without it a search waits for each vector that it measures.
 */
#if defined(__GNUC__) || defined(__clang__)
#define DV_PREFETCH_AS(p, is_write, locality)                                                                          \
  do {                                                                                                                 \
    __builtin_prefetch(p, is_write, locality);                                                                         \
    __asm__ __volatile__("");                                                                                          \
  } while (0)
#else
#define DV_PREFETCH_AS(p, is_write, locality) ((void)(p))
#endif
#define DV_PREFETCH(p) DV_PREFETCH_AS(p, 0, 3)
#define DV_PREFETCH_FAR(p) DV_PREFETCH_AS(p, 0, 2)
#define DV_PREFETCH_WRITE(p) DV_PREFETCH_AS(p, 1, 2)

/* core/ may not call abort() or print; a failed assert stops at the faulting instruction instead. */
#if defined(DV_DEBUG)
#define DV_ASSERT(x) ((x) ? (void)0 : __builtin_trap())
#else
#define DV_ASSERT(x) ((void)0)
#endif

/* *out = a + b, a * b; false (and *out unchanged) when the result does not fit. */
static inline bool dv_add_size(size_t a, size_t b, size_t *out) {
  if (a > SIZE_MAX - b) return false;
  *out = a + b;
  return true;
}

static inline bool dv_mul_size(size_t a, size_t b, size_t *out) {
  if (b != 0 && a > SIZE_MAX / b) return false;
  *out = a * b;
  return true;
}

/* A value is finite when its exponent is not all ones. Done on the bits, so that -ffast-math hosts cannot break it. */
static inline uint32_t dv_float_bits(float f) {
  uint32_t u;
  memcpy(&u, &f, sizeof u);
  return u;
}

static inline float dv_bits_float(uint32_t u) {
  float f;
  memcpy(&f, &u, sizeof f);
  return f;
}

static inline bool dv_is_finite(float f) { return (dv_float_bits(f) & 0x7f800000u) != 0x7f800000u; }

_Static_assert(sizeof(float) == 4, "vectors are stored as IEEE 754 binary32");
_Static_assert(sizeof(double) == 8, "distances are IEEE 754 binary64");

#endif
