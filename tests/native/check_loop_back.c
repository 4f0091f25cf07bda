/*
 * check_loop_back.c: a stream into one database, a subscription to it, and what that hands over streamed into a second
 * one: both end with the same vectors, bit for bit, and the same history.
 */
#include "vtab/support.h"

#include "delta_vectors.h"

#include <uv.h>

#define N_ROWS 200
#define DIMENSIONS 16

static uv_loop_t loop;
static dvec_stream *first, *second;
static dvec_subscription *subscription;
static uint64_t n_first, n_second, n_failed; /* applied */
static dvec_change waiting; /* refused by the second stream: its queue is full */
static char *waiting_bytes;
static bool is_first_closed;

static int forward(const dvec_change *c) {
  dvec_delta d;
  memset(&d, 0, sizeof d);
  d.size = sizeof d;
  d.operation = DVEC_FRAME;
  d.id = c->id;
  d.time = c->time;
  d.blob = c->delta, d.n_blob = c->n_delta;
  /* The short form says null of a row that is created without any, which is what a create does. */
  if (c->metadata && strcmp(c->metadata, "null") != 0) d.metadata = c->metadata, d.n_metadata = c->n_metadata;
  d.or_replace = 1;
  return dvec_stream_push(second, &d, NULL, NULL, 0);
}

/* A full queue makes the consumer pause, with the change at hand, until the next acknowledgement. */
static void on_change(void *user, const dvec_change *c) {
  (void)user;
  int rc = forward(c);
  if (rc == DVEC_OK) return;
  ck_assert_int_eq(rc, DVEC_FULL_QUEUE);
  dvec_subscription_pause(subscription);
  size_t n_id = (size_t)c->id.n_text + 1, n_metadata = c->metadata ? (size_t)c->n_metadata + 1 : 0;
  waiting = *c;
  waiting_bytes = malloc(n_id + n_metadata + c->n_delta);
  ck_assert_ptr_nonnull(waiting_bytes);
  waiting.id.text = memcpy(waiting_bytes, c->id.text, n_id);
  if (c->metadata) waiting.metadata = memcpy(waiting_bytes + n_id, c->metadata, n_metadata);
  waiting.delta = memcpy(waiting_bytes + n_id + n_metadata, c->delta, c->n_delta);
}

static void finish_if_done(void) {
  if (is_first_closed && n_second == n_first) {
    dvec_subscription_close(subscription, NULL);
    ck_assert_int_eq(dvec_stream_close(second, DVEC_DRAIN, NULL), DVEC_OK);
    is_first_closed = false;
  }
}

static void on_second(void *user, const dvec_ack *ack) {
  (void)user;
  n_second += ack->n_applied;
  n_failed += ack->n_failed;
  ck_assert_msg(!ack->failures, "%s", ack->failures ? ack->failures->message : "");
  if (waiting_bytes && forward(&waiting) == DVEC_OK) {
    free(waiting_bytes);
    waiting_bytes = NULL;
    dvec_subscription_resume(subscription);
  }
  finish_if_done();
}

static void on_first(void *user, const dvec_ack *ack) {
  (void)user;
  n_first += ack->n_applied; /* of random deltas some fail */
}

static void on_first_closed(void *user, const dvec_stream_stats *stats) {
  (void)user, (void)stats;
  is_first_closed = true;
  finish_if_done();
}

static uint32_t random_state = 7;
static uint32_t random_below(uint32_t n) {
  random_state = random_state * 1664525u + 1013904223u;
  return (random_state >> 8) % n;
}

static void push_random(void *unused) {
  (void)unused;
  for (int i = 0; i < 20000; i++) {
    float values[DIMENSIONS];
    uint32_t indices[3] = {random_below(5), 5 + random_below(5), 10 + random_below(6)};
    char id[16], metadata[32];
    snprintf(id, sizeof id, "r%u", random_below(N_ROWS));
    snprintf(metadata, sizeof metadata, "{\"n\":%d}", i);
    for (int j = 0; j < DIMENSIONS; j++) values[j] = (float)random_below(1000000) / 77777.0f;
    static const int operations[] = {DVEC_CREATE, DVEC_CREATE, DVEC_SPARSE, DVEC_SPARSE, DVEC_SPARSE,
                                     DVEC_SPARSE, DVEC_DENSE,  DVEC_SCALE,  DVEC_OFFSET, DVEC_DELETE};
    dvec_delta d;
    memset(&d, 0, sizeof d);
    d.size = sizeof d;
    d.operation = operations[random_below(10)];
    d.id = dvec_id_text(id);
    d.values = values;
    d.indices = indices;
    d.n = d.operation == DVEC_SPARSE ? 3 : DIMENSIONS;
    d.amount = d.operation == DVEC_SCALE ? 0.93 : 0.37;
    d.or_replace = (int32_t)random_below(2);
    if (random_below(10) == 0 && d.operation != DVEC_DELETE) d.metadata = metadata, d.n_metadata = -1;
    int rc = dvec_stream_push(first, &d, NULL, NULL, 0);
    if (rc != DVEC_OK) abort();
  }
}

static void make_table(const char *path) {
  sqlite3 *db = sql_open(path);
  sql_run(db, "CREATE VIRTUAL TABLE docs USING delta_vectors(dimensions=%d, metric=l2)", DIMENSIONS);
  sql_close(db);
}

START_TEST(two_databases_end_the_same) {
  sql_profile_now = &sql_wal;
  sql_setup();
  const char *a = sql_path("a.db"), *b = sql_path("b.db");
  make_table(a);
  make_table(b);
  ck_assert_int_eq(uv_loop_init(&loop), 0);
  dvec_stream_options o = {.size = sizeof o, .on_ack = on_first, .queue_bytes = 20000};
  o.sql = "PRAGMA synchronous=OFF";
  dvec_subscription_options so = {.size = sizeof so, .on_change = on_change, .batch_count = 100};
  ck_assert_int_eq(dvec_stream_open(&loop, a, "docs", &o, &first, NULL), DVEC_OK);
  o.on_ack = on_second, o.when_full = DVEC_FAIL, o.queue_bytes = 3000;
  ck_assert_int_eq(dvec_stream_open(&loop, b, "docs", &o, &second, NULL), DVEC_OK);
  ck_assert_int_eq(dvec_subscribe(&loop, a, "docs", 0, &so, &subscription, NULL), DVEC_OK);
  uv_thread_t producer;
  ck_assert_int_eq(uv_thread_create(&producer, push_random, NULL), 0);
  dvec_stream_stats stats = {0};
  while (stats.n_pushed < 20000) {
    uv_run(&loop, UV_RUN_NOWAIT);
    dvec_stream_get_stats(first, &stats, sizeof stats);
  }
  uv_thread_join(&producer);
  ck_assert_int_eq(dvec_stream_close(first, DVEC_DRAIN, on_first_closed), DVEC_OK);
  ck_assert_int_eq(uv_run(&loop, UV_RUN_DEFAULT), 0);
  ck_assert_int_eq(dvec_stream_free(first), DVEC_OK);
  ck_assert_int_eq(dvec_stream_free(second), DVEC_OK);
  ck_assert_int_eq(uv_loop_close(&loop), 0);
  ck_assert(n_first > 10000 && n_first == n_second && n_failed == 0);

  sqlite3 *db = sql_open(a);
  sql_run(db, "ATTACH %Q AS b", b);
  sql_is(db, "1", "SELECT count(*) > 100 FROM docs");
  sql_is(
      db, "0|0",
      "SELECT (SELECT count(*) FROM (SELECT id, hex(vector), metadata FROM main.docs EXCEPT SELECT id, hex(vector), "
      "metadata FROM b.docs)), (SELECT count(*) FROM (SELECT id, hex(vector), metadata FROM b.docs EXCEPT SELECT id, "
      "hex(vector), metadata FROM main.docs))");
  sql_is(db, "0",
         "SELECT count(*) FROM (SELECT seq, id, timestamp, hex(delta) FROM delta_log('main.docs') EXCEPT "
         "SELECT seq, id, timestamp, hex(delta) FROM delta_log('b.docs') WHERE 1)");
  sql_sound(db);
  sql_close(db);
  sql_teardown();
}
END_TEST

int main(int argc, char **argv) {
  Suite *suite = suite_create("loop_back");
  TCase *t = tcase_create("loop_back");
  tcase_add_test(t, two_databases_end_the_same);
  suite_add_tcase(suite, t);
  return sql_main(suite, argc, argv);
}
