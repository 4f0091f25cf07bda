/*
 * strings.c: the functions of <string.h> that the extension calls and sqlite-wasm does not export. (memcpy, memmove and
 * memset are single instructions of WebAssembly.) Compiled with -fno-builtin, or each would become a call of itself.
 */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

int memcmp(const void *a, const void *b, size_t n) {
  const uint8_t *x = a, *y = b;
  for (; n >= 8; n -= 8, x += 8, y += 8) {
    uint64_t p, q;
    __builtin_memcpy(&p, x, 8);
    __builtin_memcpy(&q, y, 8);
    if (p != q) {
      /* The first byte in memory decides, and it is the lowest of the word. */
      p = __builtin_bswap64(p);
      q = __builtin_bswap64(q);
      return p < q ? -1 : 1;
    }
  }
  for (; n > 0; n--, x++, y++) {
    if (*x != *y) return *x < *y ? -1 : 1;
  }
  return 0;
}

size_t strlen(const char *s) {
  const char *end = s;
  while (*end) end++;
  return (size_t)(end - s);
}

int strncmp(const char *a, const char *b, size_t n) {
  for (; n > 0; n--, a++, b++) {
    if (*a != *b) return (uint8_t)*a < (uint8_t)*b ? -1 : 1;
    if (*a == 0) break;
  }
  return 0;
}

int strcmp(const char *a, const char *b) { return strncmp(a, b, SIZE_MAX); }

char *strchr(const char *s, int c) {
  for (;; s++) {
    if (*s == (char)c) return (char *)(uintptr_t)s;
    if (*s == 0) return NULL;
  }
}
