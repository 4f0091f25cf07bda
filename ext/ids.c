/*
 * ids.c: the map from ids to vids and back, in memory, filled by what is asked for.
 *
 * A hash with open addressing; slots of removed ids are closed up by moving later ones back, so there are no
 * tombstones. Nothing here is needed to read a committed row: a miss is looked up in %_row, unless is_complete says
 * that every id of the table is here (small tables, or after enough misses have shown that a load pays).
 */
#include "ext_int.h"

static uint64_t ids_hash(const dv_value *id) {
  uint64_t h = 0x9e3779b97f4a7c15u;
  if (id->type == DV_INTEGER) {
    h ^= (uint64_t)id->integer;
  } else {
    /* FNV-1a in 8-byte steps, then mixed: ids are short and often differ only at their end. */
    size_t n = id->n_bytes;
    const uint8_t *p = id->bytes;
    h ^= n * 0xff51afd7ed558ccdu;
    for (; n >= 8; n -= 8, p += 8) h = (h ^ dv_load_u64(p)) * 0x9fb21c651e98df25u ^ (h >> 29);
    uint64_t rest = 0;
    for (size_t i = 0; i < n; i++) rest |= (uint64_t)p[i] << (8 * i);
    h = (h ^ rest) * 0x9fb21c651e98df25u;
  }
  h ^= h >> 32;
  h *= 0xd6e8feb86659fd93u;
  h ^= h >> 32;
  return h;
}

static bool ids_equal(const dvx_ids *ids, const dvx_id_entry *e, uint64_t hash, const dv_value *id) {
  if (e->hash != hash) return false;
  if (id->type == DV_INTEGER) return e->n_text == UINT32_MAX && e->key.integer == id->integer;
  return e->n_text == id->n_bytes &&
         (id->n_bytes == 0 || memcmp(ids->texts.data + e->key.text, id->bytes, id->n_bytes) == 0);
}

uint32_t dvx_ids_find(const dvx_ids *ids, const dv_value *id) {
  if (ids->n_slots == 0) return 0;
  uint64_t hash = ids_hash(id);
  for (size_t i = (size_t)hash & (ids->n_slots - 1); ids->slots[i].vid; i = (i + 1) & (ids->n_slots - 1)) {
    if (ids_equal(ids, &ids->slots[i], hash, id)) return ids->slots[i].vid;
  }
  return 0;
}

static const dvx_id_entry *ids_entry(const dvx_ids *ids, uint32_t vid) {
  return vid < ids->n_by_vid && ids->by_vid[vid] ? &ids->slots[ids->by_vid[vid] - 1] : NULL;
}

bool dvx_ids_value(const dvx_ids *ids, uint32_t vid, dv_value *id) {
  const dvx_id_entry *e = ids_entry(ids, vid);
  if (!e) return false;
  memset(id, 0, sizeof *id);
  if (e->n_text == UINT32_MAX) {
    id->type = DV_INTEGER;
    id->integer = e->key.integer;
  } else {
    id->type = DV_TEXT;
    /* Where all texts are empty there are no bytes to point at. */
    id->bytes = e->n_text ? ids->texts.data + e->key.text : (const uint8_t *)"";
    id->n_bytes = e->n_text;
  }
  return true;
}

void dvx_ids_prefetch(const dvx_ids *ids, const dv_hit *hits, size_t n) {
  for (size_t i = 0; i < n; i++) {
    const dvx_id_entry *e = ids_entry(ids, hits[i].vid);
    if (e) DV_PREFETCH(e);
  }
  for (size_t i = 0; i < n; i++) {
    const dvx_id_entry *e = ids_entry(ids, hits[i].vid);
    if (e && e->n_text != UINT32_MAX && e->n_text != 0) DV_PREFETCH(ids->texts.data + e->key.text);
  }
}

static int ids_grow(dvx_ids *ids) {
  size_t n_slots = ids->n_slots ? ids->n_slots * 2 : 256;
  dvx_id_entry *slots = sqlite3_malloc64(n_slots * sizeof *slots);
  if (!slots) return SQLITE_NOMEM;
  memset(slots, 0, n_slots * sizeof *slots);
  for (size_t i = 0; i < ids->n_slots; i++) {
    const dvx_id_entry *e = &ids->slots[i];
    if (e->vid == 0) continue;
    size_t at = (size_t)e->hash & (n_slots - 1);
    while (slots[at].vid) at = (at + 1) & (n_slots - 1);
    slots[at] = *e;
    ids->by_vid[e->vid] = (uint32_t)at + 1;
  }
  sqlite3_free(ids->slots);
  ids->slots = slots;
  ids->n_slots = n_slots;
  return SQLITE_OK;
}

int dvx_ids_add(dvx_ids *ids, const dv_value *id, uint32_t vid) {
  if (ids->texts.alloc == NULL) dv_buf_init(&ids->texts, &dvx_alloc);
  if (vid >= ids->n_by_vid) {
    size_t n = ids->n_by_vid ? ids->n_by_vid : 256;
    while (n <= vid) n *= 2;
    uint32_t *grown = sqlite3_realloc64(ids->by_vid, n * sizeof *grown);
    if (!grown) return SQLITE_NOMEM;
    memset(grown + ids->n_by_vid, 0, (n - ids->n_by_vid) * sizeof *grown);
    ids->by_vid = grown;
    ids->n_by_vid = n;
  }
  if ((ids->n_used + 1) * 4 > ids->n_slots * 3) {
    int rc = ids_grow(ids);
    if (rc != SQLITE_OK) return rc;
  }
  dvx_id_entry e = {ids_hash(id), vid, UINT32_MAX, {0}};
  if (id->type == DV_INTEGER) {
    e.key.integer = id->integer;
  } else {
    e.n_text = (uint32_t)id->n_bytes;
    e.key.text = ids->texts.n;
    dv_buf_bytes(&ids->texts, id->bytes, id->n_bytes);
    if (ids->texts.status != DV_OK) {
      ids->texts.status = DV_OK;
      return SQLITE_NOMEM;
    }
  }
  size_t at = (size_t)e.hash & (ids->n_slots - 1);
  while (ids->slots[at].vid) at = (at + 1) & (ids->n_slots - 1);
  ids->slots[at] = e;
  ids->by_vid[vid] = (uint32_t)at + 1;
  ids->n_used++;
  return SQLITE_OK;
}

void dvx_ids_remove(dvx_ids *ids, uint32_t vid) {
  if (vid >= ids->n_by_vid || ids->by_vid[vid] == 0) return;
  size_t mask = ids->n_slots - 1;
  size_t hole = ids->by_vid[vid] - 1;
  ids->by_vid[vid] = 0;
  ids->n_used--;
  /* Move back every later entry of the run that may not stand behind a free slot. */
  for (size_t i = (hole + 1) & mask; ids->slots[i].vid; i = (i + 1) & mask) {
    size_t home = (size_t)ids->slots[i].hash & mask;
    if (((i - home) & mask) >= ((i - hole) & mask)) {
      ids->slots[hole] = ids->slots[i];
      ids->by_vid[ids->slots[hole].vid] = (uint32_t)hole + 1;
      hole = i;
    }
  }
  ids->slots[hole].vid = 0;
}

void dvx_ids_clear(dvx_ids *ids) {
  sqlite3_free(ids->slots);
  sqlite3_free(ids->by_vid);
  if (ids->texts.alloc) dv_buf_free(&ids->texts);
  memset(ids, 0, sizeof *ids);
}
