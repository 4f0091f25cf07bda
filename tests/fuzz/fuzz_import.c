/*
 * fuzz_import.c: any bytes as an export and as a batch.
 *
 * The input is edits of what delta_export gives, each u16 offset, u8 what (0: overwrite, 1: cut, 2: repeat the frame,
 * 3: insert), u8 n, n bytes; then the frames' checksums are put right, or every edit would end at them. An input of no
 * edit is the export itself, one that begins with 0xff 0xff is taken as it is.
 *
 * Holds: nothing crashes; what is refused has changed nothing; what is taken leaves a table that passes the integrity
 * check, gives the same export again, and takes the same import once more without a change.
 */
#include <sqlite3.h>

#include "delta_vectors.h"
#include "dv_bytes.h"
#include "dv_checksum.h"
#include "fuzz.h"

enum { MAX_BYTES = 8192 };

static uint8_t base[MAX_BYTES];
static size_t n_base;

static sqlite3 *open_database(void) {
  sqlite3 *db = fuzz_open(NULL, 0);
  REQUIRE(sqlite3_exec(
              db,
              "CREATE VIRTUAL TABLE docs USING delta_vectors(id TEXT PRIMARY KEY, v FLOAT[5], n INTEGER, note TEXT,"
              " checkpoint_interval=3)",
              NULL, NULL, NULL) == SQLITE_OK);
  return db;
}

static void make_base(void) {
  sqlite3 *db = open_database();
  sqlite3_stmt *stmt = NULL;
  static const char *const sql[] = {
      "INSERT INTO docs(id, v, n, note, as_of) VALUES('a', '[1,2,3,4,5]', 1, 'one', 1000)",
      "INSERT INTO docs(id, v, n, note, as_of) VALUES('b', '[5,4,3,2,1]', NULL, NULL, 1000)",
      "UPDATE docs SET delta = delta_sparse('[1]', '[7]'), as_of = 2000 WHERE id = 'a'",
      "UPDATE docs SET delta = delta_scale(0.5), note = 'other', as_of = 3000",
      "UPDATE docs SET v = '[1,2,3,4,6]', as_of = 4000 WHERE id = 'a'",
      "DELETE FROM docs WHERE id = 'b'",
      "INSERT INTO docs(id, v) VALUES('b', '[0,0,0,0,1]')",
  };
  for (size_t i = 0; i < sizeof sql / sizeof sql[0]; i++)
    REQUIRE(sqlite3_exec(db, sql[i], NULL, NULL, NULL) == SQLITE_OK);
  REQUIRE(sqlite3_prepare_v2(db, "SELECT delta_export('docs')", -1, &stmt, NULL) == SQLITE_OK);
  REQUIRE(sqlite3_step(stmt) == SQLITE_ROW);
  n_base = (size_t)sqlite3_column_bytes(stmt, 0);
  REQUIRE(n_base < MAX_BYTES / 2);
  memcpy(base, sqlite3_column_blob(stmt, 0), n_base);
  sqlite3_finalize(stmt);
  REQUIRE(sqlite3_close(db) == SQLITE_OK);
}

/* The size of the frame at p, 0 if there is none; with its checksum put right. */
static size_t mend_frame(uint8_t *p, size_t n) {
  size_t at = 5;
  uint64_t body = 0;
  if (n < 10) return 0;
  for (unsigned shift = 0; shift < 35 && at < n; shift += 7) {
    body |= (uint64_t)(p[at] & 0x7f) << shift;
    if (p[at++] < 0x80) break;
  }
  if (body > n || at + body + 4 > n) return 0;
  dv_store_u32(p + at + body, dv_crc32c(0, p, at + (size_t)body));
  return at + (size_t)body + 4;
}

static int64_t digest(sqlite3 *db) {
  sqlite3_stmt *stmt = NULL;
  uint32_t crc = 0;
  REQUIRE(sqlite3_prepare_v2(db,
                             "SELECT seq, id, timestamp, operation, delta, metadata FROM delta_log('docs', 0)"
                             " UNION ALL SELECT 0, id, n, note, v, 0 FROM docs",
                             -1, &stmt, NULL) == SQLITE_OK);
  while (sqlite3_step(stmt) == SQLITE_ROW) {
    for (int i = 0; i < 6; i++) {
      const void *bytes = sqlite3_column_blob(stmt, i);
      crc = dv_crc32c(crc + 1, bytes ? bytes : "", bytes ? (size_t)sqlite3_column_bytes(stmt, i) : 0);
    }
  }
  REQUIRE(sqlite3_finalize(stmt) == SQLITE_OK);
  return crc;
}

/* Whether it was taken. */
static bool take(sqlite3 *db, const char *sql, const uint8_t *bytes, size_t n) {
  sqlite3_stmt *stmt = NULL;
  REQUIRE(sqlite3_prepare_v2(db, sql, -1, &stmt, NULL) == SQLITE_OK);
  sqlite3_bind_blob(stmt, 1, bytes, (int)n, SQLITE_STATIC);
  (void)sqlite3_step(stmt);
  int rc = sqlite3_finalize(stmt) & 0xff;
  REQUIRE(rc != SQLITE_MISUSE && rc != SQLITE_INTERNAL);
  return rc == SQLITE_OK;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  static uint8_t blob[MAX_BYTES];
  size_t n = n_base;
  if (n_base == 0) {
    make_base();
    n = n_base;
    sqlite3_hard_heap_limit64((sqlite3_int64)64 << 20);
  }
  memcpy(blob, base, n);
  dv_reader r = dv_reader_of(data, size);
  if (size >= 2 && data[0] == 0xff && data[1] == 0xff) {
    n = size - 2 < MAX_BYTES ? size - 2 : MAX_BYTES;
    memcpy(blob, data + 2, n);
  } else {
    while (dv_reader_left(&r) >= 4) {
      size_t at = dv_read_u16(&r) % (n + 1);
      unsigned what = dv_read_u8(&r) % 4;
      size_t length = dv_read_u8(&r);
      if (length > dv_reader_left(&r)) length = dv_reader_left(&r);
      const uint8_t *bytes = dv_read_bytes(&r, length);
      if (what == 0) {
        for (size_t i = 0; i < length && at + i < n; i++) blob[at + i] = bytes[i];
      } else if (what == 1) {
        n = at;
      } else if (what == 2 && n - at <= MAX_BYTES - n) {
        memmove(blob + n, blob + at, n - at);
        n += n - at;
      } else if (what == 3 && length <= MAX_BYTES - n) {
        memmove(blob + at + length, blob + at, n - at);
        memcpy(blob + at, bytes, length);
        n += length;
      }
    }
    for (size_t at = 0, step; at < n && (step = mend_frame(blob + at, n - at)) > 0; at += step) {
    }
  }

  sqlite3 *db = open_database();
  int64_t before = digest(db);
  bool is_taken = take(db, "SELECT delta_import('docs', ?1)", blob, n);
  int64_t after = digest(db);
  if (size == 0) REQUIRE(is_taken);
  if (!is_taken) REQUIRE(before == after);
  if (is_taken) {
    REQUIRE(take(db, "SELECT delta_import('docs', ?1)", blob, n));
    REQUIRE(digest(db) == after);
  }
  before = after;
  is_taken = take(db, "SELECT delta_apply_batch('docs', ?1)", blob, n);
  if (!is_taken) REQUIRE(digest(db) == before);
  (void)take(db, "SELECT delta_json(?1), delta_patch('[1,2,3,4,5]', ?1)", blob, n);
  REQUIRE(take(db, "INSERT INTO docs(docs) VALUES('integrity-check')", NULL, 0));
  REQUIRE(take(db, "INSERT INTO docs(docs) VALUES('optimize')", NULL, 0));
  REQUIRE(take(db, "INSERT INTO docs(docs) VALUES('integrity-check')", NULL, 0));
  REQUIRE(sqlite3_close(db) == SQLITE_OK);
  return 0;
}
