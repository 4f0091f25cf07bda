/*
 * dv_frame.c: deltas between machines and tables (frames) and inside the log (records).
 *
 * The grammar stands in dv_frame.h and, with examples, in docs/file-format.md. Readers here are where stored and
 * transported bytes enter: every length is compared with the bytes left before it is used, and nothing is returned that
 * points outside of them.
 *
 * Varints need not be minimal; otherwise a record or frame has one form: an empty extra byte, a gap of 1, a full vector
 * without its key bit, unknown flags are malformed. Numbers that callers compute with fit their types: a seq is below
 * 2^63, as SQLite's rowids are, a vid below 2^32. Links are not looked at: only who follows one knows where it must
 * lead.
 *
 * Times are subtracted and added mod 2^64, so there is no time that cannot be stored and none that overflows.
 */
#include "dv_frame.h"

#include "dv_checksum.h"

#define FRAME_LENGTH_MAX 0x80000000u
/* magic, version, op and encoding, flags, length */
#define FRAME_HEAD_MAX (5 + 10)

/* ---- values ------------------------------------------------------------------------------------------------------ */

static size_t frame_value_size(const dv_value *v) {
  switch (v->type) {
  case DV_NULL: return 1;
  case DV_INTEGER: return 1 + dv_varint_size(dv_zigzag(v->integer));
  case DV_REAL: return 1 + 8;
  case DV_TEXT:
  case DV_BLOB: return 1 + dv_varint_size(v->n_bytes) + v->n_bytes;
  }
  return 0;
}

void dv_value_write(dv_buf *out, const dv_value *v) {
  uint64_t bits;
  if (!dv_buf_reserve(out, 1 + 10)) return;
  dv_buf_u8(out, (uint8_t)v->type);
  switch (v->type) {
  case DV_NULL: break;
  case DV_INTEGER: dv_buf_varint(out, dv_zigzag(v->integer)); break;
  case DV_REAL:
    memcpy(&bits, &v->real, sizeof bits);
    dv_buf_u64(out, bits);
    break;
  case DV_TEXT:
  case DV_BLOB:
    dv_buf_varint(out, v->n_bytes);
    dv_buf_bytes(out, v->bytes, v->n_bytes);
    break;
  }
}

static void frame_read_value(dv_reader *r, dv_value *v) {
  uint64_t bits;
  const uint8_t type = dv_read_u8(r);
  switch (type) {
  case DV_NULL: break;
  case DV_INTEGER: v->integer = dv_unzigzag(dv_read_varint(r)); break;
  case DV_REAL:
    bits = dv_read_u64(r);
    memcpy(&v->real, &bits, sizeof bits);
    break;
  case DV_TEXT:
  case DV_BLOB:
    bits = dv_read_varint(r);
    v->bytes = dv_read_bytes(r, bits);
    v->n_bytes = v->bytes ? (size_t)bits : 0;
    break;
  default: r->is_bad = true; return;
  }
  v->type = (dv_value_type)type;
}

void dv_value_read(dv_reader *r, dv_value *v) {
  memset(v, 0, sizeof *v);
  frame_read_value(r, v);
  if (r->is_bad) {
    memset(v, 0, sizeof *v);
    r->p = r->end;
  }
}

void dv_field_write(dv_buf *out, const char *name, size_t n_name, const dv_value *v) {
  dv_buf_varint(out, n_name);
  dv_buf_bytes(out, name, n_name);
  dv_value_write(out, v);
}

bool dv_field_next(dv_reader *r, const uint8_t **name, size_t *n_name, dv_value *v) {
  if (r->is_bad || r->p == r->end) return false;
  const uint64_t length = dv_read_varint(r);
  *name = dv_read_bytes(r, length);
  *n_name = *name ? (size_t)length : 0;
  dv_value_read(r, v);
  return !r->is_bad;
}

void dv_numbered_write(dv_buf *out, uint32_t number, const dv_value *v) {
  dv_buf_varint(out, number);
  dv_value_write(out, v);
}

bool dv_numbered_next(dv_reader *r, uint32_t *number, dv_value *v) {
  if (r->is_bad || r->p == r->end) return false;
  const uint64_t n = dv_read_varint(r);
  if (n > UINT32_MAX) {
    r->is_bad = true;
    r->p = r->end;
  }
  *number = (uint32_t)n;
  dv_value_read(r, v);
  return !r->is_bad;
}

/* ---- frames ------------------------------------------------------------------------------------------------------ */

/* The flags that f will be written with: a field list that is there is not lost for want of its bit. */
static unsigned frame_flags(const dv_frame *f) { return (f->flags & 0xffu) | (f->n_fields ? DV_FRAME_FIELDS : 0u); }

void dv_frame_write(dv_buf *out, const dv_frame *f) {
  const unsigned flags = frame_flags(f);
  const uint64_t time = dv_zigzag(f->time);
  size_t length = f->delta.n_payload;
  if (flags & DV_FRAME_SEQ) length += dv_varint_size(f->seq);
  if (flags & DV_FRAME_ID) length += frame_value_size(&f->id);
  if (flags & DV_FRAME_TIME) length += dv_varint_size(time);
  if (flags & DV_FRAME_FIELDS) length += dv_varint_size(f->n_fields) + f->n_fields;
  if (!dv_buf_reserve(out, FRAME_HEAD_MAX + length + 4)) return;
  const size_t begin = out->n;
  dv_buf_u16(out, DV_FRAME_MAGIC);
  dv_buf_u8(out, DV_FRAME_VERSION);
  dv_buf_u8(out, (uint8_t)((unsigned)f->delta.op << 4 | (unsigned)f->delta.encoding));
  dv_buf_u8(out, (uint8_t)flags);
  dv_buf_varint(out, length);
  if (flags & DV_FRAME_SEQ) dv_buf_varint(out, f->seq);
  if (flags & DV_FRAME_ID) dv_value_write(out, &f->id);
  if (flags & DV_FRAME_TIME) dv_buf_varint(out, time);
  if (flags & DV_FRAME_FIELDS) {
    dv_buf_varint(out, f->n_fields);
    dv_buf_bytes(out, f->fields, f->n_fields);
  }
  dv_buf_bytes(out, f->delta.payload, f->delta.n_payload);
  dv_buf_u32(out, dv_crc32c(0, out->data + begin, out->n - begin));
}

/* The optional fields and the payload, of a body whose checksum is right. */
static bool frame_read_body(dv_reader *r, dv_frame *f) {
  if (f->flags & DV_FRAME_SEQ) {
    f->seq = dv_read_varint(r);
    if (f->seq > INT64_MAX) return false;
  }
  if (f->flags & DV_FRAME_ID) {
    dv_value_read(r, &f->id);
    if (f->id.type != DV_INTEGER && f->id.type != DV_TEXT) return false;
  }
  if (f->flags & DV_FRAME_TIME) f->time = dv_unzigzag(dv_read_varint(r));
  if (f->flags & DV_FRAME_FIELDS) {
    const uint64_t n_fields = dv_read_varint(r);
    f->fields = dv_read_bytes(r, n_fields);
    f->n_fields = f->fields ? (size_t)n_fields : 0;
  }
  f->delta.n_payload = dv_reader_left(r);
  f->delta.payload = dv_read_bytes(r, f->delta.n_payload);
  return !r->is_bad;
}

static dv_status frame_fail(dv_detail *detail, dv_status status, const dv_reader *from, const uint8_t *at) {
  if (detail) {
    detail->at = (uint64_t)(at - from->p);
    detail->value = 0;
  }
  return status;
}

static dv_status frame_read(dv_reader *r, dv_frame *f, bool is_sealed, dv_detail *detail) {
  dv_frame frame;
  dv_reader head = *r;
  memset(&frame, 0, sizeof frame);
  if (r->is_bad) return frame_fail(detail, DV_CORRUPT, r, r->p);

  if (dv_read_u16(&head) != DV_FRAME_MAGIC) return frame_fail(detail, DV_CORRUPT, r, r->p);
  const uint8_t version = dv_read_u8(&head);
  if (version > DV_FRAME_VERSION) return frame_fail(detail, DV_VERSION, r, r->p + 2);
  if (version == 0) return frame_fail(detail, DV_CORRUPT, r, r->p + 2);
  const uint8_t *const kind = head.p;
  const unsigned op_encoding = dv_read_u8(&head);
  frame.flags = dv_read_u8(&head);
  const uint64_t length = dv_read_varint(&head);
  if (head.is_bad || length > FRAME_LENGTH_MAX) return frame_fail(detail, DV_CORRUPT, r, kind);
  const uint8_t *const body_bytes = dv_read_bytes(&head, length);
  const uint32_t crc = dv_read_u32(&head);
  if (head.is_bad) return frame_fail(detail, DV_CORRUPT, r, r->end); /* the frame goes on behind the bytes */
  dv_reader body = dv_reader_of(body_bytes, (size_t)length);
  if (is_sealed && dv_crc32c(0, r->p, (size_t)(body.end - r->p)) != crc)
    return frame_fail(detail, DV_CORRUPT, r, body.end);

  /* What follows is as its writer wrote it, which is not to say that the writer was one of us. */
  const bool is_header = (frame.flags & DV_FRAME_HEADER) != 0;
  const unsigned known = is_header ? DV_FRAME_SEQ | DV_FRAME_TIME | DV_FRAME_FIELDS | DV_FRAME_HEADER
                                   : DV_FRAME_SEQ | DV_FRAME_ID | DV_FRAME_TIME | DV_FRAME_FIELDS | DV_FRAME_MERGED;
  const unsigned op = op_encoding >> 4, encoding = op_encoding & 15;
  const bool is_sound = is_header ? op_encoding == 0 : op != 0 && dv_delta_is_pair(op, encoding);
  if ((frame.flags & ~known) != 0 || !is_sound) return frame_fail(detail, DV_CORRUPT, r, kind);
  if (op != 0) {
    frame.delta.op = (dv_op)op;
    frame.delta.encoding = (dv_encoding)encoding;
  }
  if (!frame_read_body(&body, &frame) || (is_header && frame.delta.n_payload != 0))
    return frame_fail(detail, DV_CORRUPT, r, body.p);
  *r = head;
  *f = frame;
  return DV_OK;
}

dv_status dv_frame_read(dv_reader *r, dv_frame *f, dv_detail *detail) { return frame_read(r, f, true, detail); }

dv_status dv_frame_read_unsealed(dv_reader *r, dv_frame *f) { return frame_read(r, f, false, NULL); }

/* ---- records ----------------------------------------------------------------------------------------------------- */

#define FRAME_RECORD_EXTRAS (DV_RECORD_GAP | DV_RECORD_FIELDS | DV_RECORD_ALL_FIELDS | DV_RECORD_MERGED)
/* vid, link and time */
#define FRAME_RECORD_LENGTH_MIN 3u

void dv_record_write(dv_buf *out, const dv_record *r, dv_log_state *state) {
  const bool is_full = dv_encoding_is_full((int)r->delta.encoding);
  const bool is_key = is_full || (r->is_key && r->delta.op != DV_OP_DELETE);
  const uint64_t gap = r->seq - state->seq, time = dv_zigzag((int64_t)((uint64_t)r->time - (uint64_t)state->time));
  const unsigned extra = (r->extra & (FRAME_RECORD_EXTRAS & ~DV_RECORD_GAP)) | (gap != 1 ? DV_RECORD_GAP : 0u) |
                         (r->n_fields ? DV_RECORD_FIELDS : 0u);
  DV_ASSERT(r->seq > state->seq);

  size_t length = dv_varint_size(r->vid) + dv_varint_size(r->link) + dv_varint_size(time) + r->delta.n_payload;
  if (extra & DV_RECORD_GAP) length += dv_varint_size(gap);
  if (extra & DV_RECORD_FIELDS) length += dv_varint_size(r->n_fields) + r->n_fields;
  if (is_key && !is_full) length += dv_varint_size(r->delta.n_payload) + 1 + r->n_full;
  if (!dv_buf_reserve(out, 2 + 10 + length)) return;

  uint8_t *p = out->data + out->n;
  *p++ = (uint8_t)((unsigned)r->delta.op | (unsigned)r->delta.encoding << 3 | (unsigned)is_key << 6 |
                   (unsigned)(extra != 0) << 7);
  if (extra) *p++ = (uint8_t)extra;
  p += dv_put_varint(p, length);
  p += dv_put_varint(p, r->vid);
  p += dv_put_varint(p, r->link);
  p += dv_put_varint(p, time);
  if (extra & DV_RECORD_GAP) p += dv_put_varint(p, gap);
  if (extra & DV_RECORD_FIELDS) {
    p += dv_put_varint(p, r->n_fields);
    if (r->n_fields) memcpy(p, r->fields, r->n_fields);
    p += r->n_fields;
  }
  if (is_key && !is_full) p += dv_put_varint(p, r->delta.n_payload);
  if (r->delta.n_payload) memcpy(p, r->delta.payload, r->delta.n_payload);
  p += r->delta.n_payload;
  if (is_key && !is_full) {
    *p++ = (uint8_t)r->full_encoding;
    if (r->n_full) memcpy(p, r->full, r->n_full);
    p += r->n_full;
  }
  out->n = (size_t)(p - out->data);
  state->seq = r->seq;
  state->time = r->time;
}

size_t dv_record_span(const uint8_t *bytes, size_t n_bytes, uint8_t *tag) {
  if (n_bytes == 0 || bytes[0] == 0) return 0;
  const uint8_t t = bytes[0], op = t & 7;
  *tag = t;
  if (op == DV_RECORD_SEAL) return t == DV_RECORD_SEAL ? DV_SEAL_BYTES : SIZE_MAX;
  size_t at = 1u + (t >> 7);
  if (op == 0 || at >= n_bytes) return SIZE_MAX;
  size_t length = bytes[at++];
  if (DV_UNLIKELY(length >= 0x80)) {
    dv_reader r = dv_reader_of(bytes + at - 1, n_bytes - (at - 1));
    const uint64_t long_length = dv_read_varint(&r);
    if (r.is_bad || long_length > FRAME_LENGTH_MAX) return SIZE_MAX;
    length = (size_t)long_length;
    at = (size_t)(r.p - bytes);
  }
  return length < FRAME_RECORD_LENGTH_MIN ? SIZE_MAX : at + length;
}

/* Tag to gap, from the start of a record; moves r behind them. What r has beyond the record is cut off. *is_exact tells
 * whether the record ends where r did. False when malformed. */
static bool frame_read_record_head(dv_reader *r, dv_record *rec, const dv_log_state *state, bool *is_exact) {
  const unsigned tag = dv_read_u8(r), op = tag & 7, encoding = tag >> 3 & 7;
  const bool is_full = dv_encoding_is_full((int)encoding);
  if (op == 0 || !dv_delta_is_pair(op, encoding)) return false;
  rec->delta.op = (dv_op)op;
  rec->delta.encoding = (dv_encoding)encoding;
  rec->is_key = (tag >> 6 & 1) != 0;
  if ((is_full && !rec->is_key) || (op == DV_OP_DELETE && rec->is_key)) return false;
  if (tag >> 7) {
    rec->extra = dv_read_u8(r);
    if (rec->extra == 0 || (rec->extra & ~(unsigned)FRAME_RECORD_EXTRAS) != 0) return false;
  }
  const uint64_t length = dv_read_varint(r);
  *is_exact = length == dv_reader_left(r);
  if (length < dv_reader_left(r)) r->end = r->p + (size_t)length;

  const uint64_t vid = dv_read_varint(r);
  rec->link = dv_read_varint(r);
  rec->time = (int64_t)((uint64_t)state->time + (uint64_t)dv_unzigzag(dv_read_varint(r)));
  uint64_t gap = 1;
  if (rec->extra & DV_RECORD_GAP) {
    gap = dv_read_varint(r);
    if (gap < 2) return false;
  }
  if (r->is_bad || vid > UINT32_MAX || state->seq > INT64_MAX || gap > INT64_MAX - state->seq) return false;
  rec->vid = (uint32_t)vid;
  rec->seq = state->seq + gap;
  rec->extra &= ~(unsigned)DV_RECORD_GAP;
  return true;
}

bool dv_record_row(const uint8_t *bytes, size_t n_bytes, uint32_t *vid) {
  dv_reader r = dv_reader_of(bytes, n_bytes);
  const unsigned tag = dv_read_u8(&r);
  if ((tag & 7) == DV_RECORD_SEAL) return false;
  if (tag >> 7) (void)dv_read_u8(&r);
  (void)dv_read_varint(&r); /* length */
  *vid = (uint32_t)dv_read_varint(&r);
  return !r.is_bad;
}

dv_status dv_record_head(const uint8_t *bytes, size_t n_bytes, dv_log_state *state) {
  dv_reader r = dv_reader_of(bytes, n_bytes);
  dv_record record = {0};
  bool is_exact;
  if (!frame_read_record_head(&r, &record, state, &is_exact)) return DV_CORRUPT;
  state->seq = record.seq;
  state->time = record.time;
  return DV_OK;
}

dv_status dv_record_read(const uint8_t *bytes, size_t n_bytes, dv_record *rec, dv_log_state *state) {
  dv_reader r = dv_reader_of(bytes, n_bytes);
  dv_record record = {0};
  bool is_exact;
  if (!frame_read_record_head(&r, &record, state, &is_exact) || !is_exact) return DV_CORRUPT;
  if (record.extra & DV_RECORD_FIELDS) {
    const uint64_t n_fields = dv_read_varint(&r);
    record.fields = dv_read_bytes(&r, n_fields);
    record.n_fields = record.fields ? (size_t)n_fields : 0;
  }
  if (record.is_key && !dv_encoding_is_full((int)record.delta.encoding)) {
    const uint64_t n_payload = dv_read_varint(&r);
    record.delta.payload = dv_read_bytes(&r, n_payload);
    record.delta.n_payload = record.delta.payload ? (size_t)n_payload : 0;
    record.full_encoding = (dv_encoding)dv_read_u8(&r);
    if (!dv_encoding_is_full((int)record.full_encoding)) return DV_CORRUPT;
    record.n_full = dv_reader_left(&r);
    record.full = dv_read_bytes(&r, record.n_full);
  } else {
    record.delta.n_payload = dv_reader_left(&r);
    record.delta.payload = dv_read_bytes(&r, record.delta.n_payload);
  }
  if (r.is_bad) return DV_CORRUPT;
  *rec = record;
  state->seq = record.seq;
  state->time = record.time;
  return DV_OK;
}
