/*
 * encode.c: from the structures of the public header to the bytes that SQL takes. No SQLite, no state: any thread.
 */
#include "native_int.h"

#include <stdlib.h>

static void *heap_resize(void *ctx, void *p, size_t n) {
  (void)ctx;
  if (n > 0) return realloc(p, n);
  free(p);
  return NULL;
}

const dv_alloc dvn_heap = {heap_resize, NULL};

bool dvn_options_read(void *out, size_t n_out, const void *in) {
  uint32_t size;
  memset(out, 0, n_out);
  if (!in) return true;
  memcpy(&size, in, sizeof size);
  if (size < sizeof size) return false;
  memcpy(out, in, size < n_out ? size : n_out);
  for (size_t i = n_out; i < size; i++) {
    if (((const uint8_t *)in)[i] != 0) return false;
  }
  return true;
}

int64_t dvn_json_integer(const char *json, const char *key) {
  char quoted[40];
  sqlite3_snprintf((int)sizeof quoted, quoted, "\"%s\":", key);
  const char *at = json ? strstr(json, quoted) : NULL;
  return at ? strtoll(at + strlen(quoted), NULL, 10) : 0;
}

/* The bytes of an id's text that a message shows: whole characters. */
static int shown(const dvec_id *id) {
  int n = id->n_text > 50 ? 50 : (int)id->n_text;
  while (n < id->n_text && n > 0 && ((uint8_t)id->text[n] & 0xc0) == 0x80) n--;
  return n;
}

static int refuse(char *message, const dvec_delta *d, const char *what, long long number) {
  char id[64], text[120];
  if (d->id.text)
    sqlite3_snprintf((int)sizeof id, id, "'%.*s'", shown(&d->id), d->id.text);
  else
    sqlite3_snprintf((int)sizeof id, id, "%lld", (long long)d->id.integer);
  sqlite3_snprintf((int)sizeof text, text, what, number);
  sqlite3_snprintf(DVN_MESSAGE, message, "delta_vectors: row %s: %s", id, text);
  return SQLITE_ERROR;
}

static int refuse_status(char *message, const dvec_delta *d, dv_status status, const dv_detail *detail) {
  long long at = (long long)detail->at;
  switch (status) {
  case DV_NOMEM: return SQLITE_NOMEM;
  case DV_INDEX: return refuse(message, d, "index %lld is out of range", at);
  case DV_DUPLICATE: return refuse(message, d, "index %lld is given twice", at);
  case DV_NOT_FINITE: return refuse(message, d, "the value of dimension %lld is not finite", at);
  default: return refuse(message, d, "the delta cannot be read", at);
  }
}

/* The payload of all operations but DVEC_FRAME. */
static int payload_encode(dv_buf *payload, dv_delta *out, const dvec_delta *d, char *message) {
  dv_detail detail = {0};
  dv_status status = DV_OK;
  switch (d->operation) {
  case DVEC_CREATE:
  case DVEC_DENSE:
    if (!d->values || d->n == 0) return refuse(message, d, "a create or dense delta needs values", 0);
    for (size_t i = 0; i < d->n; i++) {
      if (!dv_is_finite(d->values[i])) return refuse(message, d, "value %lld is not finite", (long long)i);
    }
    dv_delta_encode_dense(payload, out, (dv_op)d->operation, NULL, d->values, d->n, DV_COMPRESSION_OFF);
    break;
  case DVEC_SPARSE:
    if (d->n > 0 && (!d->values || !d->indices)) {
      return refuse(message, d, "a sparse delta needs indices and values", 0);
    }
    status = dv_delta_encode_sparse(payload, out, d->indices, d->values, d->n, 0, &detail);
    break;
  case DVEC_SCALE:
  case DVEC_OFFSET:
    if (!dv_is_finite((float)d->amount)) return refuse(message, d, "the amount is not a finite 32-bit float", 0);
    dv_delta_encode_scalar(payload, out, (dv_op)d->operation, (float)d->amount);
    break;
  case DVEC_DELETE: *out = (dv_delta){DV_OP_DELETE, DV_ENC_NONE, NULL, 0}; break;
  default: return refuse(message, d, "there is no operation %lld", d->operation);
  }
  if (status == DV_OK) status = payload->status;
  if (status != DV_OK) return refuse_status(message, d, status, &detail);
  out->payload = payload->data;
  return SQLITE_OK;
}

static int frame_of_blob(dv_delta *out, const dvec_delta *d, char *message) {
  dv_reader r = dv_reader_of(d->blob, d->blob ? d->n_blob : 0);
  dv_frame frame;
  if (dv_frame_read(&r, &frame, NULL) != DV_OK || dv_reader_left(&r) || (frame.flags & DV_FRAME_HEADER)) {
    return refuse(message, d, "the blob is not a delta", 0);
  }
  *out = frame.delta;
  return SQLITE_OK;
}

int dvn_delta_encode(dv_buf *out, const void *delta, char message[DVN_MESSAGE]) {
  dvec_delta d;
  dv_buf payload, fields;
  dv_frame frame;
  size_t n_before = out->n;
  message[0] = 0;
  if (!delta) {
    sqlite3_snprintf(DVN_MESSAGE, message, "delta_vectors: the delta must not be NULL");
    return SQLITE_MISUSE;
  }
  if (!dvn_options_read(&d, sizeof d, delta)) {
    sqlite3_snprintf(DVN_MESSAGE, message,
                     "delta_vectors: dvec_delta has a size or fields that this library (%s) does not know",
                     DELTA_VECTORS_VERSION);
    return SQLITE_MISUSE;
  }
  if (d.id.text && d.id.n_text < 0) d.id.n_text = (int64_t)strlen(d.id.text);
  if (d.metadata && d.n_metadata < 0) d.n_metadata = (int64_t)strlen(d.metadata);
  memset(&frame, 0, sizeof frame);
  frame.flags = DV_FRAME_ID | (d.time || d.has_time ? DV_FRAME_TIME : 0u) | (d.or_replace ? DV_FRAME_MERGED : 0u);
  frame.time = d.time;
  frame.id.type = d.id.text ? DV_TEXT : DV_INTEGER;
  frame.id.integer = d.id.integer;
  frame.id.bytes = (const uint8_t *)d.id.text;
  frame.id.n_bytes = d.id.text ? (size_t)d.id.n_text : 0;
  dv_buf_init(&payload, &dvn_heap);
  dv_buf_init(&fields, &dvn_heap);
  int rc = d.operation == DVEC_FRAME ? frame_of_blob(&frame.delta, &d, message)
                                     : payload_encode(&payload, &frame.delta, &d, message);
  if (rc == SQLITE_OK && d.metadata) { /* as delta_pack() has it: the field without a name */
    dv_value text = {.type = DV_TEXT, .bytes = (const uint8_t *)d.metadata, .n_bytes = (size_t)d.n_metadata};
    dv_field_write(&fields, "", 0, &text);
    frame.flags |= DV_FRAME_FIELDS;
    frame.fields = fields.data;
    frame.n_fields = fields.n;
  }
  if (rc == SQLITE_OK && fields.status != DV_OK) rc = SQLITE_NOMEM;
  if (rc == SQLITE_OK) dv_frame_write(out, &frame);
  if (rc == SQLITE_OK && out->status != DV_OK) rc = SQLITE_NOMEM;
  dv_buf_free(&payload);
  dv_buf_free(&fields);
  if (rc != SQLITE_OK) out->n = n_before;
  return rc;
}
