/*
 * fuzz_database.c: a database in which anything may stand in the shadow tables, and everything the extension does with
 * it.
 *
 * The input is a list of edits of a good database, each
 *
 *   u8 what: bits 0-2 the column (parts[] below), bits 3-5 how, bits 6-7 which number of bytes follows: 1, 2, 4 or 16
 *   u8 which row; u16 offset; the bytes
 *
 *   how: 0 overwrite bytes at the offset; 1 the whole value is these bytes; 2 an integer of them; 3 NULL; 4 delete the
 *   row;
 *        5 cut the value at the offset; 6 add them as a row of its own; 7 overwrite, and another key
 *
 * Then the log's checksums are put right, or every edit of it would end at them. The library is built with small
 * thresholds, so that a few rows have codes and are settled.
 *
 * Holds: nothing crashes, reads out of bounds, or runs without bound (memory: 64 MiB; steps of SQLite: a progress
 * handler; the rest: libFuzzer's -timeout), and no statement answers SQLITE_MISUSE or SQLITE_INTERNAL.
 */
#include <sqlite3.h>

#include "delta_vectors.h"
#include "dv_bytes.h"
#include "dv_checksum.h"
#include "dv_frame.h"
#include "fuzz.h"

enum { PACK_HEADER = 28 };

static const struct {
  const char *table, *key, *value;
} parts[8] = {{"log", "seq", "pack"},     {"graph", "block", "links"}, {"row", "vid", "id"},     {"row", "vid", "c1"},
              {"head", "block", "heads"}, {"code", "block", "codes"},  {"meta", "key", "value"}, {"row", "vid", "c2"}};

/* ---- the good database ------------------------------------------------------------------------------------------- */

static uint8_t *base;
static sqlite3_int64 n_base;

static const char *const making[] = {
    "PRAGMA page_size = 512",
    "CREATE VIRTUAL TABLE docs USING delta_vectors(id TEXT PRIMARY KEY, v FLOAT[5], n INTEGER, note TEXT,"
    " checkpoint_interval=4, compression=max, index=hnsw, hnsw_m=2)",
    "WITH RECURSIVE i(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM i WHERE i < 14) INSERT INTO docs(id, v, n, note, "
    "as_of)"
    " SELECT 'r' || i, json_array(i, -i, i * 0.5, 1.0 / i, 0), i, 'note ' || i, 1000 * i FROM i",
    "UPDATE docs SET delta = delta_sparse('[1]', '[7]'), as_of = 50000 WHERE n % 2",
    "UPDATE docs SET delta = delta_scale(0.5), note = 'other', as_of = 60000 WHERE n % 3 = 0",
    "UPDATE docs SET v = '[1,2,3,4,5]', as_of = 70000 WHERE n = 4",
    "UPDATE docs SET delta = delta_offset(0.25), as_of = 80000 WHERE n < 6",
    "DELETE FROM docs WHERE n = 13",
    "INSERT INTO docs(docs) VALUES('optimize')",
    "UPDATE docs SET delta = delta_offset(0.25), as_of = 90000 WHERE n = 2",
};

/* ---- edits ------------------------------------------------------------------------------------------------------ */

/* Runs `format`, with the table, column and key of the part and row; ?1 is the value. */
static void edit_run(sqlite3 *db, char *sql, sqlite3_value *key, const uint8_t *bytes, size_t n, bool is_integer) {
  sqlite3_stmt *stmt = NULL;
  REQUIRE(sql);
  if (sqlite3_prepare_v2(db, sql, -1, &stmt, NULL) == SQLITE_OK) {
    if (is_integer) {
      uint8_t wide[8] = {0};
      memcpy(wide, bytes, n < 8 ? n : 8);
      sqlite3_bind_int64(stmt, 1, (sqlite3_int64)dv_load_u64(wide));
    } else {
      sqlite3_bind_blob64(stmt, 1, bytes, n, SQLITE_TRANSIENT);
    }
    sqlite3_bind_value(stmt, 2, key);
    (void)sqlite3_step(stmt);
  }
  sqlite3_finalize(stmt);
  sqlite3_free(sql);
}

static void edit(sqlite3 *db, dv_reader *r) {
  static const size_t lengths[4] = {1, 2, 4, 16};
  unsigned what = dv_read_u8(r), which = dv_read_u8(r), how = what >> 3 & 7;
  size_t offset = dv_read_u16(r), n = lengths[what >> 6];
  if (n > dv_reader_left(r)) n = dv_reader_left(r);
  const uint8_t *bytes = dv_read_bytes(r, n);
  if (!bytes) return;
  const char *table = parts[what & 7].table, *key_column = parts[what & 7].key, *column = parts[what & 7].value;
  char *sql = sqlite3_mprintf("SELECT %s, %s FROM docs_%s LIMIT 1 OFFSET %u %% (SELECT max(count(*), 1) FROM docs_%s)",
                              key_column, column, table, which, table);
  sqlite3_stmt *stmt = NULL;
  REQUIRE(sql);
  int rc = sqlite3_prepare_v2(db, sql, -1, &stmt, NULL);
  sqlite3_free(sql);
  if (rc != SQLITE_OK || sqlite3_step(stmt) != SQLITE_ROW) {
    sqlite3_finalize(stmt);
    return;
  }
  sqlite3_value *key = sqlite3_value_dup(sqlite3_column_value(stmt, 0));
  const uint8_t *old = sqlite3_column_blob(stmt, 1);
  size_t n_old = (size_t)sqlite3_column_bytes(stmt, 1);
  uint8_t *value = malloc(n_old + 1);
  REQUIRE(key && value);
  if (n_old) memcpy(value, old, n_old);
  sqlite3_finalize(stmt);
  if (offset > n_old) offset = n_old ? offset % n_old : 0;
  char *update = sqlite3_mprintf("UPDATE docs_%s SET %s = ?1 WHERE %s = ?2", table, column, key_column);
  switch (how) {
  case 0:
  case 7:
    memcpy(value + offset, bytes, n < n_old - offset ? n : n_old - offset);
    edit_run(db, update, key, value, n_old, false);
    if (how == 7) {
      edit_run(db, sqlite3_mprintf("UPDATE OR IGNORE docs_%s SET %s = ?1 WHERE %s = ?2", table, key_column, key_column),
               key, bytes, n, true);
    }
    break;
  case 1: edit_run(db, update, key, bytes, n, false); break;
  case 2: edit_run(db, update, key, bytes, n, true); break;
  case 5: edit_run(db, update, key, value, offset, false); break;
  default:
    sqlite3_free(update);
    if (how == 3) {
      edit_run(db, sqlite3_mprintf("UPDATE docs_%s SET %s = NULL WHERE %s = ?2", table, column, key_column), key, bytes,
               n, false);
    } else if (how == 4) {
      edit_run(db, sqlite3_mprintf("DELETE FROM docs_%s WHERE %s = ?2", table, key_column), key, bytes, n, false);
    } else {
      edit_run(db,
               sqlite3_mprintf("INSERT OR IGNORE INTO docs_%s(%s, %s) SELECT ?1, %s FROM docs_%s WHERE %s = ?2", table,
                               key_column, column, column, table, key_column),
               key, bytes, n, true);
    }
  }
  free(value);
  sqlite3_value_free(key);
}

/* Puts right what the reader checks first: packs' headers and seals, as far as the records can be followed. */
static void mend_checksums(sqlite3 *db) {
  sqlite3_stmt *stmt = NULL, *put = NULL;
  uint32_t crc = 0;
  bool can_follow = true;
  if (sqlite3_prepare_v2(db, "SELECT seq, pack FROM docs_log ORDER BY seq", -1, &stmt, NULL) != SQLITE_OK ||
      sqlite3_prepare_v2(db, "UPDATE docs_log SET pack = ?1 WHERE seq = ?2", -1, &put, NULL) != SQLITE_OK) {
    sqlite3_finalize(stmt);
    sqlite3_finalize(put);
    return;
  }
  while (sqlite3_step(stmt) == SQLITE_ROW) {
    size_t n = (size_t)sqlite3_column_bytes(stmt, 1);
    const uint8_t *old = sqlite3_column_blob(stmt, 1);
    if (n < PACK_HEADER) continue;
    uint8_t *pack = malloc(n);
    REQUIRE(pack);
    memcpy(pack, old, n);
    dv_store_u32(pack + 24, dv_crc32c(0, pack, 24));
    size_t at = dv_load_u32(pack + 4);
    if (at >= PACK_HEADER && at <= n) crc = dv_crc32c(crc, pack + PACK_HEADER, at - PACK_HEADER);
    while (can_follow && at < n) {
      uint8_t tag = 0;
      size_t span = dv_record_span(pack + at, n - at, &tag);
      if (span == 0) break;
      if (span == SIZE_MAX) {
        can_follow = false;
        break;
      }
      if ((tag & 7u) == DV_RECORD_SEAL && span <= n - at) {
        dv_store_u32(pack + at + 1, crc);
      } else {
        crc = dv_crc32c(crc, pack + at, span < n - at ? span : n - at);
      }
      if (span >= n - at) break;
      at += span;
    }
    sqlite3_bind_blob64(put, 1, pack, n, free);
    sqlite3_bind_int64(put, 2, sqlite3_column_int64(stmt, 0));
    (void)sqlite3_step(put);
    sqlite3_reset(put);
  }
  sqlite3_finalize(stmt);
  sqlite3_finalize(put);
}

/* And of what %_meta says of derived data, as far as it is of a right length. */
static void mend_checks(sqlite3 *db) {
  uint8_t settled[64], graph[64], stamp[8] = {0}, checks[16];
  bool has_settled = false, has_graph = false, has_checks = false;
  sqlite3_stmt *stmt = NULL;
  if (sqlite3_prepare_v2(db, "SELECT key, value FROM docs_meta", -1, &stmt, NULL) == SQLITE_OK) {
    while (sqlite3_step(stmt) == SQLITE_ROW) {
      const char *key = (const char *)sqlite3_column_text(stmt, 0);
      const void *value = sqlite3_column_blob(stmt, 1);
      int n = sqlite3_column_bytes(stmt, 1);
      if (!key) continue;
      if (strcmp(key, "graph_stamp") == 0) dv_store_u64(stamp, (uint64_t)sqlite3_column_int64(stmt, 1));
      if (strcmp(key, "settled") == 0 && n == 64 && (has_settled = true)) memcpy(settled, value, 64);
      if (strcmp(key, "graph") == 0 && n == 64 && (has_graph = true)) memcpy(graph, value, 64);
      if (strcmp(key, "checks") == 0 && n == 16 && (has_checks = true)) memcpy(checks, value, 16);
    }
  }
  sqlite3_finalize(stmt);
  if (!has_checks) return;
  if (has_settled) dv_store_u32(checks, dv_crc32c(0, settled, 64));
  if (has_graph) dv_store_u32(checks + 4, dv_crc32c(dv_crc32c(0, stamp, 8), graph, 64));
  if (sqlite3_prepare_v2(db, "UPDATE docs_meta SET value = ?1 WHERE key = 'checks'", -1, &stmt, NULL) == SQLITE_OK) {
    sqlite3_bind_blob(stmt, 1, checks, 16, SQLITE_TRANSIENT);
    (void)sqlite3_step(stmt);
  }
  sqlite3_finalize(stmt);
}

/* ---- everything the extension does ------------------------------------------------------------------------------ */

static const char *const statements[] = {
    "SELECT * FROM docs",
    "SELECT id, distance FROM docs WHERE v MATCH '[1,2,3,4,5]' AND k = 4",
    "SELECT id FROM docs WHERE v MATCH '[1,0,0,0,0]' AND n > 2 ORDER BY distance LIMIT 3",
    "SELECT * FROM vector_search('docs', '[1,2,3,4,5]', 5, '{\"exact\":true}')",
    "SELECT id, v FROM docs WHERE v MATCH '[1,2,3,4,5]' AND k = 20 AND as_of = 55000",
    "SELECT *, delta_json(delta) FROM delta_chain('docs', 'r1')",
    "SELECT *, delta_json(delta) FROM delta_log('docs', 3)",
    "SELECT vector_at('docs', id), vector_at('docs', id, 65000) FROM docs",
    "SELECT delta_status('docs'), delta_recall('docs', 3, 2), length(delta_export('docs'))",
    "INSERT INTO docs(docs) VALUES('integrity-check')",
    "PRAGMA integrity_check",
    "CREATE VIRTUAL TABLE saved USING delta_vectors(id TEXT PRIMARY KEY, v FLOAT[5], n INTEGER, note TEXT)",
    "SELECT delta_salvage('saved', 'docs')",
    "INSERT INTO saved(saved) VALUES('integrity-check')",
    "SELECT count(*), sum(length(v)) FROM saved",
    "BEGIN",
    "UPDATE docs SET delta = delta_sparse('[0]', '[1]') WHERE n < 5",
    "SAVEPOINT s",
    "DELETE FROM docs WHERE id = 'r2'",
    "ROLLBACK TO s",
    "INSERT INTO docs(id, v) VALUES('new', '[1,1,1,1,1]')",
    "SELECT delta_apply('docs', 'r5', delta_scale(3))",
    "COMMIT",
    "SELECT delta_rollback('docs', 'r1', 1)",
    "INSERT INTO docs(docs) VALUES('optimize')",
    "SELECT delta_compact('docs', '{\"keep\":\"2 versions\"}')",
    "SELECT * FROM docs",
    "INSERT INTO docs(docs) VALUES('rebuild')",
    "SELECT id, v FROM docs WHERE v MATCH '[1,2,3,4,5]' AND k = 3",
    "ALTER TABLE docs RENAME TO others",
    "DROP TABLE others",
};

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (base == NULL) base = fuzz_make_base(making, sizeof making / sizeof making[0], &n_base);
  sqlite3 *db = fuzz_open(base, n_base);
  dv_reader r = dv_reader_of(data, size);
  for (int i = 0; i < 64 && dv_reader_left(&r) >= 5; i++) edit(db, &r);
  mend_checksums(db);
  mend_checks(db);
  fuzz_run(db, statements, sizeof statements / sizeof statements[0], size >= 5);
  REQUIRE(sqlite3_close(db) == SQLITE_OK);
  return 0;
}
