/*
 * dv_delta.h: one change of one vector: its six operations, its encodings, and folding it into a vector.
 *
 * Payload grammar (n = dimensions of the table; all integers varint, all floats 4 little-endian bytes):
 *
 *   DV_ENC_NONE    (delete)              nothing
 *   DV_ENC_SCALAR  (scale, offset)       f32
 *   DV_ENC_SPARSE  (sparse, dense)       gap*, f32*: as many of each; their number is not stored, it follows from the
 *                                        length of the payload. The first gap is the first index, each further one is
 *                                        (index - previous index - 1), so indices strictly rise by construction. Gaps
 *                                        are minimal varints. Empty: nothing changed.
 *   DV_ENC_RUN     (sparse, dense)       start, f32*: dimensions start, start+1, ...; at least one
 *   DV_ENC_DENSE   (create, sparse, dense)  n f32
 *   DV_ENC_DIFF    (sparse, dense)       per block of 64 dimensions (m of them, the last one may be shorter): width u8
 *                                        (0..32), then ceil(m*width/8) bytes: the m low `width` bits, first value in
 *                                        the lowest bits, of zigzag(ordered(new) - ordered(old)) mod 2^32, where
 *                                        ordered() maps float bits to integers that rise with the value (see
 *                                        dv_delta.c).
 *   DV_ENC_PLANES  (create, dense)       compression=max, full vectors. Per block of 64: smallest exponent u8, width u8
 *                                        (0..8), ceil(m*width/8) bytes of (exponent - smallest), then three planes of m
 *                                        bytes: bits 0..7, 8..15 and 16..23 of sign<<23 | mantissa.
 *
 * DIFF and PLANES are lossless; their widths are the smallest that fit and the bits that pad a block to whole bytes are
 * zero, so a vector has one form in each encoding.
 *
 * The operation says what the writer meant (it is what chains and feeds show), the encoding how the new values are
 * written down. A dense update that touches three dimensions is stored sparse: folding gives the same bits.
 *
 * Folding order and rounding: scale and offset are one IEEE f32 multiplication or addition an element, in log order,
 * never contracted to FMA, so every reader on every platform gets the same bits.
 */
#ifndef DV_DELTA_H
#define DV_DELTA_H

#include "dv_bytes.h"

typedef enum dv_op {
  DV_OP_CREATE = 1,
  DV_OP_SPARSE = 2,
  DV_OP_DENSE = 3,
  DV_OP_SCALE = 4,
  DV_OP_OFFSET = 5,
  DV_OP_DELETE = 6
} dv_op;

typedef enum dv_encoding {
  DV_ENC_NONE = 0,
  DV_ENC_SPARSE = 1,
  DV_ENC_RUN = 2,
  DV_ENC_DENSE = 3,
  DV_ENC_DIFF = 4,
  DV_ENC_SCALAR = 5,
  DV_ENC_PLANES = 6
} dv_encoding;

/* A decoded-enough view of one delta: borrowed payload bytes, not yet validated. */
typedef struct dv_delta {
  dv_op op;
  dv_encoding encoding;
  const uint8_t *payload;
  size_t n_payload;
} dv_delta;

typedef enum dv_compression { DV_COMPRESSION_OFF = 0, DV_COMPRESSION_ON = 1, DV_COMPRESSION_MAX = 2 } dv_compression;

/* "create", "sparse", ...; "none", "sparse", "run", "dense", "diff", "scalar", "planes"; NULL for any other number. */
const char *dv_op_name(int op);
const char *dv_encoding_name(int encoding);

/* May a delta of this operation be written in this encoding? Any numbers are accepted. */
bool dv_delta_is_pair(unsigned op, unsigned encoding);

/* Does the payload give every dimension without needing the previous vector? (DENSE and PLANES) */
static inline bool dv_encoding_is_full(int encoding) { return encoding == DV_ENC_DENSE || encoding == DV_ENC_PLANES; }

/* Checks that the payload is well formed for a vector of n dimensions and is used up exactly, that op and encoding go
 * together, and that every stored value is finite (a DIFF needs the previous vector, so its values are not checked).
 * n = 0: dimensions unknown (a delta constructor): the count of a full payload is not checked.
 * DV_CORRUPT; DV_LENGTH with detail->at = dimensions found; DV_INDEX with detail->at = the index; DV_NOT_FINITE with
 * detail->at = index. detail may be NULL. */
dv_status dv_delta_check(const dv_delta *d, size_t n, dv_detail *detail);

/* Folds d into v (n floats, the previous vector; ignored by full encodings), in place. Validates as it goes, as
 * dv_delta_check does; on failure v may be partly changed, so fold into a copy when d is not checked.
 * DV_OP_DELETE leaves v unchanged. Returns DV_OVERFLOW with detail->at = index when a scale or offset or diff gives a
 * value that is not finite. */
dv_status dv_delta_apply(const dv_delta *d, float *v, size_t n, dv_detail *detail);

/* Encoders: append a payload to out and set *d to {op, encoding, NULL, length}: the caller points d->payload at the
 * bytes when out has stopped moving. */

/* indices: need not be sorted; n_dims = 0: range not checked. values finite. Picks SPARSE or RUN, whichever is smaller.
 * DV_INDEX, DV_DUPLICATE (detail->at = index), DV_NOT_FINITE (detail->at = index, value). count may be 0. */
dv_status dv_delta_encode_sparse(dv_buf *out, dv_delta *d, const uint32_t *indices, const float *values, size_t count,
                                 size_t n_dims, dv_detail *detail);

/* The smallest exact encoding of `to`, given `from` (NULL: no previous vector, so a full encoding): SPARSE, RUN, DIFF,
 * DENSE, or with DV_COMPRESSION_MAX also PLANES. compression OFF: always DENSE. Bits, not values, are compared:
 * -0.0 and 0.0 differ. Values must be finite (checked by the caller). op is DV_OP_CREATE or DV_OP_DENSE. */
void dv_delta_encode_dense(dv_buf *out, dv_delta *d, dv_op op, const float *from, const float *to, size_t n,
                           dv_compression compression);

/* op is DV_OP_SCALE or DV_OP_OFFSET. */
void dv_delta_encode_scalar(dv_buf *out, dv_delta *d, dv_op op, float value);

/* For a sparse-like payload (SPARSE, RUN): calls visit once per (index, value), in rising order; the payload must have
 * passed dv_delta_check. For printing. */
void dv_delta_each(const dv_delta *d, void (*visit)(void *ctx, uint32_t index, float value), void *ctx);

#endif
