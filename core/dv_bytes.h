/*
 * dv_bytes.h: the bounded reader and the growing writer: the only code that touches untrusted bytes.
 *
 * Stored integers are little-endian or LEB128 varints, floats are the little-endian bytes of their IEEE bits; all of
 * it goes through memcpy or byte shifts, never through a cast, so alignment and byte order of the host do not matter.
 *
 * Both are sticky: after the first failure every further call is a no-op (reads give 0 or NULL), so a parser reads
 * a whole record and asks once, at the end, whether it was all there.
 */
#ifndef DV_BYTES_H
#define DV_BYTES_H

#include "dv_alloc.h"

typedef struct dv_reader {
  const uint8_t *p;
  const uint8_t *end;
  bool is_bad; /* something was read past the end, or a varint did not end */
} dv_reader;

/* bytes may be NULL if there are none: an empty list of fields is. C has no NULL + 0, so they are read from "". */
static inline dv_reader dv_reader_of(const void *bytes, size_t n_bytes) {
  const uint8_t *p = bytes ? bytes : (const void *)"";
  dv_reader r = {p, p + (bytes ? n_bytes : 0), false};
  return r;
}

static inline size_t dv_reader_left(const dv_reader *r) { return (size_t)(r->end - r->p); }

/* The next n bytes, or NULL (and bad) when fewer are left. */
static inline const uint8_t *dv_read_bytes(dv_reader *r, uint64_t n) {
  const uint8_t *p = r->p;
  if (DV_UNLIKELY(r->is_bad || n > dv_reader_left(r))) {
    r->is_bad = true;
    r->p = r->end;
    return NULL;
  }
  r->p += (size_t)n;
  return p;
}

static inline uint8_t dv_read_u8(dv_reader *r) {
  const uint8_t *p = dv_read_bytes(r, 1);
  return p ? p[0] : 0;
}

static inline uint16_t dv_load_u16(const uint8_t *p) { return (uint16_t)(p[0] | (unsigned)p[1] << 8); }

static inline uint32_t dv_load_u32(const uint8_t *p) {
  return (uint32_t)p[0] | (uint32_t)p[1] << 8 | (uint32_t)p[2] << 16 | (uint32_t)p[3] << 24;
}

static inline uint64_t dv_load_u64(const uint8_t *p) {
  return (uint64_t)dv_load_u32(p) | (uint64_t)dv_load_u32(p + 4) << 32;
}

static inline float dv_load_f32(const uint8_t *p) { return dv_bits_float(dv_load_u32(p)); }

static inline void dv_store_u16(uint8_t *p, uint16_t v) {
  p[0] = (uint8_t)v;
  p[1] = (uint8_t)(v >> 8);
}

static inline void dv_store_u32(uint8_t *p, uint32_t v) {
  p[0] = (uint8_t)v;
  p[1] = (uint8_t)(v >> 8);
  p[2] = (uint8_t)(v >> 16);
  p[3] = (uint8_t)(v >> 24);
}

static inline void dv_store_u64(uint8_t *p, uint64_t v) {
  dv_store_u32(p, (uint32_t)v);
  dv_store_u32(p + 4, (uint32_t)(v >> 32));
}

static inline void dv_store_f32(uint8_t *p, float f) { dv_store_u32(p, dv_float_bits(f)); }

static inline uint16_t dv_read_u16(dv_reader *r) {
  const uint8_t *p = dv_read_bytes(r, 2);
  return p ? dv_load_u16(p) : 0;
}

static inline uint32_t dv_read_u32(dv_reader *r) {
  const uint8_t *p = dv_read_bytes(r, 4);
  return p ? dv_load_u32(p) : 0;
}

static inline uint64_t dv_read_u64(dv_reader *r) {
  const uint8_t *p = dv_read_bytes(r, 8);
  return p ? dv_load_u64(p) : 0;
}

/* LEB128, at most ten bytes; a value past 64 bits is bad. Not required to be minimal. */
static inline uint64_t dv_read_varint(dv_reader *r) {
  uint64_t v = 0;
  for (unsigned shift = 0; shift < 64; shift += 7) {
    const uint8_t *p = dv_read_bytes(r, 1);
    if (!p) return 0;
    if (shift == 63 && *p > 1) break;
    v |= (uint64_t)(*p & 0x7f) << shift;
    if (*p < 0x80) return v;
  }
  r->is_bad = true;
  r->p = r->end;
  return 0;
}

/* Signed integers ride as zigzag varints: small ones of either sign stay small. */
static inline uint64_t dv_zigzag(int64_t v) { return ((uint64_t)v << 1) ^ (uint64_t)(v < 0 ? -1 : 0); }
static inline int64_t dv_unzigzag(uint64_t u) { return (int64_t)(u >> 1) ^ -(int64_t)(u & 1); }

static inline size_t dv_varint_size(uint64_t v) {
  size_t n = 1;
  while (v >= 0x80) {
    v >>= 7;
    n++;
  }
  return n;
}

/* Writes v at p, which has room for ten bytes; returns the number written. */
static inline size_t dv_put_varint(uint8_t *p, uint64_t v) {
  size_t n = 0;
  while (v >= 0x80) {
    p[n++] = (uint8_t)(v | 0x80);
    v >>= 7;
  }
  p[n++] = (uint8_t)v;
  return n;
}

/* A growing byte array. Free with dv_buf_free. `status` is sticky: DV_NOMEM after a failed growth. */
typedef struct dv_buf {
  uint8_t *data;
  size_t n;
  size_t capacity;
  dv_status status;
  const dv_alloc *alloc;
} dv_buf;

static inline void dv_buf_init(dv_buf *b, const dv_alloc *alloc) {
  memset(b, 0, sizeof *b);
  b->alloc = alloc;
}

static inline void dv_buf_free(dv_buf *b) {
  dv_alloc_free(b->alloc, b->data);
  b->data = NULL;
  b->n = b->capacity = 0;
  b->status = DV_OK;
}

/* Makes room for n more bytes without adding them; false (and sticky) when there is no memory. */
static inline bool dv_buf_reserve(dv_buf *b, size_t n) {
  size_t need;
  if (b->status != DV_OK) return false;
  if (!dv_add_size(b->n, n, &need)) {
    b->status = DV_NOMEM;
    return false;
  }
  if (need > b->capacity) {
    size_t capacity = b->capacity < 64 ? 64 : b->capacity;
    while (capacity < need) capacity = capacity > SIZE_MAX / 2 ? need : capacity * 2;
    uint8_t *p = dv_alloc_resize(b->alloc, b->data, capacity);
    if (!p) {
      b->status = DV_NOMEM;
      return false;
    }
    b->data = p;
    b->capacity = capacity;
  }
  return true;
}

/* Room for n bytes, counted as written; NULL when there is no memory. */
static inline uint8_t *dv_buf_extend(dv_buf *b, size_t n) {
  if (!dv_buf_reserve(b, n)) return NULL;
  uint8_t *p = b->data + b->n;
  b->n += n;
  return p;
}

static inline void dv_buf_bytes(dv_buf *b, const void *src, size_t n) {
  if (n == 0) return;
  uint8_t *p = dv_buf_extend(b, n);
  if (p) memcpy(p, src, n);
}

static inline void dv_buf_u8(dv_buf *b, uint8_t v) {
  uint8_t *p = dv_buf_extend(b, 1);
  if (p) *p = v;
}

static inline void dv_buf_u16(dv_buf *b, uint16_t v) {
  uint8_t *p = dv_buf_extend(b, 2);
  if (p) dv_store_u16(p, v);
}

static inline void dv_buf_u32(dv_buf *b, uint32_t v) {
  uint8_t *p = dv_buf_extend(b, 4);
  if (p) dv_store_u32(p, v);
}

static inline void dv_buf_u64(dv_buf *b, uint64_t v) {
  uint8_t *p = dv_buf_extend(b, 8);
  if (p) dv_store_u64(p, v);
}

static inline void dv_buf_varint(dv_buf *b, uint64_t v) {
  if (!dv_buf_reserve(b, 10)) return;
  b->n += dv_put_varint(b->data + b->n, v);
}

#endif
