/*
 * dv_frame.h: the two binary forms a delta travels in, and the fields that ride with it.
 *
 * FRAME: stands alone: in delta BLOBs, batches and exports.
 *
 *   7A DE            magic 0xDE7A, little-endian
 *   01               format version
 *   op<<4 | encoding
 *   flags u8         which optional fields follow: 1 seq, 2 id, 4 time, 8 fields, 16 merged, 32 header
 *   length varint    bytes of body
 *   body             [seq varint] [id value] [time zigzag varint] [fields: length varint, field*] payload (the rest)
 *   CRC-32C u32      of everything before it, magic included
 *
 *   A frame with flag 32 (op 0) heads an export: its fields describe the table the frames came from; it carries no
 *   delta.
 *
 * RECORD: the same delta inside a pack of the log, without what the pack already says (see docs/file-format.md):
 *
 *   tag u8           op | encoding<<3 | key<<6 | extra<<7; op 7 is a seal, a 0 byte ends the pack's contents
 *   [extra u8]       if extra: 1 seq gap, 2 fields, 4 all fields, 8 merged
 *   length varint    bytes that follow
 *   vid varint
 *   link varint      seq - seq of the row's previous record; 0: this is its first
 *   time             zigzag varint: milliseconds since the previous record of the pack (or the pack's base time)
 *   [gap varint]     if seq gap: seq - seq of the previous record (1 when absent)
 *   [fields]         length varint, field*: metadata set by this delta; with "all fields" every field not listed is
 *                    NULL
 *   payload          the delta's payload; but if key and the encoding is not full: length varint, the delta's payload,
 *                    u8 encoding (DENSE or PLANES), and the full vector after this delta in that encoding (the rest)
 *
 * field := number varint, value;  value := 0 (NULL) | 1 zigzag varint (INTEGER) | 2 f64 bits (REAL)
 *          | 3 length bytes (TEXT, UTF-8) | 4 length bytes (BLOB).  Field 0 is the row's id; in a frame the fields
 *          are named instead of numbered: field := name-length name value.
 */
#ifndef DV_FRAME_H
#define DV_FRAME_H

#include "dv_delta.h"

/* ---- values ------------------------------------------------------------------------------------------------------ */

typedef enum dv_value_type { DV_NULL = 0, DV_INTEGER = 1, DV_REAL = 2, DV_TEXT = 3, DV_BLOB = 4 } dv_value_type;

/* A dynamically typed value; text and blob are borrowed. */
typedef struct dv_value {
  dv_value_type type;
  int64_t integer;
  double real;
  const uint8_t *bytes;
  size_t n_bytes;
} dv_value;

void dv_value_write(dv_buf *out, const dv_value *v);
/* On malformed input sets r->is_bad and *v to NULL. */
void dv_value_read(dv_reader *r, dv_value *v);

/* ---- frames ------------------------------------------------------------------------------------------------------ */

#define DV_FRAME_MAGIC 0xDE7Au
#define DV_FRAME_VERSION 1u
enum {
  DV_FRAME_SEQ = 1,
  DV_FRAME_ID = 2,
  DV_FRAME_TIME = 4,
  DV_FRAME_FIELDS = 8,
  DV_FRAME_MERGED = 16, /* a compacted row's state: a create that an existing row accepts too */
  DV_FRAME_HEADER = 32
};

typedef struct dv_frame {
  unsigned flags;
  uint64_t seq;
  dv_value id; /* INTEGER or TEXT */
  int64_t time; /* milliseconds since 1970 UTC */
  const uint8_t *fields; /* named fields */
  size_t n_fields;
  dv_delta delta;
} dv_frame;

/* Appends f. */
void dv_frame_write(dv_buf *out, const dv_frame *f);

/* Parses one frame at r and moves r behind it. Checks magic, version, bounds, CRC; not the delta's payload (use
 * dv_delta_check). f borrows from the bytes. DV_CORRUPT or DV_VERSION; detail->at = offset of the failure from r->p. */
dv_status dv_frame_read(dv_reader *r, dv_frame *f, dv_detail *detail);

/* The same for a frame that the caller has made a moment ago, and that has no CRC: its last four bytes are anything. */
dv_status dv_frame_read_unsealed(dv_reader *r, dv_frame *f);

/* Next named field of a field list; false at the end (check r->is_bad afterwards). */
bool dv_field_next(dv_reader *r, const uint8_t **name, size_t *n_name, dv_value *v);
void dv_field_write(dv_buf *out, const char *name, size_t n_name, const dv_value *v);

/* ---- records ----------------------------------------------------------------------------------------------------- */

#define DV_RECORD_SEAL 7u
enum { DV_RECORD_GAP = 1, DV_RECORD_FIELDS = 2, DV_RECORD_ALL_FIELDS = 4, DV_RECORD_MERGED = 8 };

/* Bytes of a seal: tag, CRC-32C of the records since the previous seal (continued from that seal's CRC), and the tag
 * again, so that the end of the log is never a zero byte and is found from behind. */
#define DV_SEAL_BYTES 6u

typedef struct dv_record {
  uint64_t seq; /* read: last seq + gap */
  uint64_t link; /* 0 or distance to the row's previous record; who follows it checks where it leads */
  int64_t time;
  uint32_t vid;
  bool is_key; /* a full vector is in this record */
  unsigned extra; /* DV_RECORD_... without GAP, which the writer derives */
  const uint8_t *fields; /* numbered fields */
  size_t n_fields;
  dv_delta delta; /* what was asked for */
  const uint8_t *full; /* is_key and delta not full: the full vector's payload ... */
  size_t n_full;
  dv_encoding full_encoding; /* ... DENSE or PLANES */
} dv_record;

/* Where a reader or writer stands in a log: what the next record's differences refer to. */
typedef struct dv_log_state {
  uint64_t seq; /* of the previous record */
  int64_t time; /* of the previous record, or the pack's base time */
  uint32_t crc; /* running CRC since the last seal, which started it */
} dv_log_state;

/* Appends r as it follows `state`, and updates state->seq and time (not crc). r->seq > state->seq. */
void dv_record_write(dv_buf *out, const dv_record *r, dv_log_state *state);

/* Looks at the head of a record, whose body may go on in the next pack. Returns the number of bytes of the whole
 * record, 0 at the end of contents (a 0 byte or no bytes left), or SIZE_MAX when malformed or its head is cut off. A
 * seal gives DV_SEAL_BYTES and *tag = DV_RECORD_SEAL. */
size_t dv_record_span(const uint8_t *bytes, size_t n_bytes, uint8_t *tag);

/* Parses just a record's head (tag to time and gap, at most DV_RECORD_HEAD_BYTES) and updates state->seq and time: what
 * indexing a pack needs. The body may lie beyond n_bytes. Not for seals. DV_CORRUPT. */
#define DV_RECORD_HEAD_BYTES 48u
dv_status dv_record_head(const uint8_t *bytes, size_t n_bytes, dv_log_state *state);

/* Which row is the record of that begins here? A guess, of which only the bounds are checked: for fetching a row's memory
 * before its record is read. False: a seal, or no bytes for it. */
bool dv_record_row(const uint8_t *bytes, size_t n_bytes, uint32_t *vid);

/* Parses a whole record of exactly n_bytes (as dv_record_span gave) that follows `state`, and updates state->seq and
 * time. rec borrows from the bytes. Not for seals. DV_CORRUPT. */
dv_status dv_record_read(const uint8_t *bytes, size_t n_bytes, dv_record *rec, dv_log_state *state);

/* Next numbered field; false at the end (check r->is_bad afterwards). */
bool dv_numbered_next(dv_reader *r, uint32_t *number, dv_value *v);
void dv_numbered_write(dv_buf *out, uint32_t number, const dv_value *v);

#endif
