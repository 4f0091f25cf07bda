/*
 * memory.c: the memory of a call.
 *
 * The host asks for room for its arguments (cabi_export_realloc), the call adds room for its result, and when the host has
 * read that it says so (cabi_post_...), and all of it is freed at once. A component is called by one thread and never from
 * within a call, so there is one list.
 *
 * When memory is exhausted, the Canonical ABI has no way to say so: a host that gets no room for its arguments must trap, and
 * a trap is the end of the instance. So a part of memory is kept back for that case. With it a call of ordinary size still
 * arrives, fails with "out of memory" as its result, and databases can be dropped. Only arguments larger than what is kept
 * back end in a trap then.
 */
#include "abi.h"

#include <stdlib.h>
#include <string.h>

#include "sqlite3.h"

enum { KEPT_BACK = 512 << 10, HEADER = 16 /* keeps the alignment of malloc() */ };

typedef struct block {
  struct block *next;
} block;

static block *blocks;
static void *adopted;
static _Alignas(16) uint8_t kept_back[KEPT_BACK];
static size_t n_kept_back_used;

void *abi_alloc(size_t n) {
  if (n > SIZE_MAX - 2 * HEADER) return NULL;
  block *b = malloc(HEADER + n);
  if (b) {
    b->next = blocks;
    blocks = b;
    return (uint8_t *)b + HEADER;
  }
  size_t rounded = (n + 15) & ~(size_t)15;
  if (rounded > KEPT_BACK - n_kept_back_used) return NULL;
  void *p = kept_back + n_kept_back_used;
  n_kept_back_used += rounded;
  return p;
}

void abi_adopt(void *sqlite_memory) {
  sqlite3_free(adopted);
  adopted = sqlite_memory;
}

void abi_call_end(void) {
  while (blocks) {
    block *next = blocks->next;
    free(blocks);
    blocks = next;
  }
  n_kept_back_used = 0;
  abi_adopt(NULL);
}

/* Bytes of the character at p, 0 if there is none. */
static size_t character(const uint8_t *p, size_t n) {
  uint8_t c = p[0], least = 0x80, most = 0xbf;
  size_t size = c < 0x80 ? 1 : c < 0xc2 ? 0 : c < 0xe0 ? 2 : c < 0xf0 ? 3 : c < 0xf5 ? 4 : 0;
  if (size > n) return 0;
  if (c == 0xe0) least = 0xa0; /* longer than need be */
  if (c == 0xed) most = 0x9f; /* half of a surrogate pair */
  if (c == 0xf0) least = 0x90;
  if (c == 0xf4) most = 0x8f; /* beyond the last one */
  for (size_t i = 1; i < size; i++) {
    if (p[i] < (i == 1 ? least : 0x80) || p[i] > (i == 1 ? most : 0xbf)) return 0;
  }
  return size;
}

abi_string abi_text(const char *text, size_t n) {
  static const char replacement[] = "\xef\xbf\xbd";
  const uint8_t *p = (const uint8_t *)text;
  size_t i = 0, at = 0, size;
  while (i < n && (size = character(p + i, n - i)) > 0) i += size;
  if (i == n) return (abi_string){text, n};
  char *repaired = n < SIZE_MAX / 3 ? abi_alloc(3 * n) : NULL;
  if (!repaired) return (abi_string){text, i};
  for (i = 0; i < n;) {
    size = character(p + i, n - i);
    memcpy(repaired + at, size ? text + i : replacement, size ? size : 3);
    at += size ? size : 3;
    i += size ? size : 1;
  }
  return (abi_string){repaired, at};
}

/* For arguments. Grows what it gave (strings, when the host counts their bytes as it goes): the old place is freed with the
 * rest. */
__attribute__((export_name("cabi_export_realloc"))) void *cabi_export_realloc(void *old, size_t n_old, size_t alignment,
                                                                              size_t n) {
  if (n == 0) return (void *)alignment; /* not NULL */
  void *p = abi_alloc(n);
  if (!p) __builtin_trap();
  if (n_old > 0) memcpy(p, old, n_old < n ? n_old : n);
  return p;
}

/* For what WASI keeps for the life of the instance. */
__attribute__((export_name("cabi_realloc_adapter"))) void *cabi_realloc_adapter(void *old, size_t n_old,
                                                                                size_t alignment, size_t n) {
  (void)n_old;
  if (n == 0) return (void *)alignment;
  void *p = alignment <= 16 ? realloc(old, n) : aligned_alloc(alignment, n);
  if (!p) __builtin_trap();
  return p;
}
