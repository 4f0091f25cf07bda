/*
 * check_ledger.c: two processes that stream, four that subscribe, one file. Nothing is lost, nothing comes twice.
 *
 * Each writer counts each of its rows up by one, again and again, and notes in shared memory what was acknowledged: the
 * ledger. Each reader, from the first seq or from somewhere, must see every seq once, and each row's numbers rise by one;
 * now and then it closes its subscription and goes on from the last seq with another. When the writers are at their end,
 * the readers must reach the ledger's sum, and so must the file.
 *
 * DV_SECONDS=n: how long the writers write (default 2).
 */
#define _XOPEN_SOURCE 700
#include "vtab/support.h"

#include "delta_vectors.h"

#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>
#include <uv.h>

#define N_WRITERS 2
#define N_READERS 4
#define N_ROWS 8 /* a writer's */
#define MOST_AHEAD 50000

typedef struct ledger {
  _Atomic int64_t acknowledged; /* deltas, of all writers */
  _Atomic int n_writing;
  _Atomic int n_failed;
  _Atomic int64_t n_seen[N_READERS], n_resumed;
  char failure[512];
} ledger;

static ledger *shared;
static const char *file;
static uv_loop_t loop;

static void give_up(const char *format, ...) {
  if (atomic_fetch_add(&shared->n_failed, 1) == 0) {
    va_list args;
    va_start(args, format);
    vsnprintf(shared->failure, sizeof shared->failure, format, args);
    va_end(args);
  }
  _exit(1);
}

static double seconds_now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

/* ---- a writer ---------------------------------------------------------------------------------------------------- */

static int64_t told; /* positions */

static void on_ack(void *user, const dvec_ack *ack) {
  (void)user;
  if (ack->code != DVEC_OK || ack->n_failed)
    give_up("writer: %d %s", ack->code, ack->failures ? ack->failures->message : ack->message);
  if ((int64_t)ack->first_position != told + 1) give_up("writer: position %lld is not told of", (long long)told + 1);
  told = (int64_t)ack->last_position;
  atomic_fetch_add(&shared->acknowledged, (int64_t)ack->n_applied);
}

/* Has the slowest reader come near? Where all is slow, writers would leave it behind for longer than they write. */
static bool is_followed(void) {
  int64_t seen = INT64_MAX;
  for (int i = 0; i < N_READERS; i++) {
    int64_t n = atomic_load(&shared->n_seen[i]);
    if (n < seen) seen = n;
  }
  return atomic_load(&shared->acknowledged) - seen < MOST_AHEAD;
}

static void be_writer(int number, double end) {
  static const uint32_t zero = 0;
  dvec_stream *stream = NULL;
  char *message = NULL;
  int64_t n = 0;
  dvec_stream_options o = {.size = sizeof o, .when_full = DVEC_FAIL, .queue_bytes = 10000, .on_ack = on_ack};
  o.sql = "PRAGMA synchronous=OFF";
  uv_loop_init(&loop);
  if (dvec_stream_open(&loop, file, "docs", &o, &stream, &message) != DVEC_OK) give_up("writer: %s", message);
  while (seconds_now() < end) {
    if (!is_followed()) {
      usleep(1000);
      uv_run(&loop, UV_RUN_NOWAIT);
      continue;
    }
    char id[16];
    float value = (float)(n / N_ROWS + 1);
    snprintf(id, sizeof id, "w%d-%d", number, (int)(n % N_ROWS));
    dvec_delta d;
    memset(&d, 0, sizeof d);
    d.size = sizeof d, d.operation = DVEC_SPARSE, d.id = dvec_id_text(id);
    d.indices = &zero, d.values = &value, d.n = 1;
    int rc = dvec_stream_push(stream, &d, NULL, NULL, 0);
    n += rc == DVEC_OK;
    if (rc == DVEC_FULL_QUEUE || n % 50 == 0) uv_run(&loop, UV_RUN_ONCE); /* so that readers can follow */
  }
  dvec_stream_close(stream, DVEC_DRAIN, NULL);
  uv_run(&loop, UV_RUN_DEFAULT);
  if (dvec_stream_free(stream) != DVEC_OK || uv_loop_close(&loop) != 0) give_up("writer: not closed");
  if (told != n) give_up("writer: %lld were pushed, %lld told of", (long long)n, (long long)told);
  atomic_fetch_sub(&shared->n_writing, 1);
}

/* ---- a reader ---------------------------------------------------------------------------------------------------- */

static struct reader {
  int number;
  int64_t seq; /* the last one */
  float values[N_WRITERS][N_ROWS];
  bool is_from_start;
  dvec_subscription *subscription;
  dvec_db *patcher;
  int64_t close_at;
} me;

static void on_change(void *user, const dvec_change *c) {
  int writer = 0, row = 0;
  float v[2] = {0, 0};
  (void)user;
  if (c->seq != me.seq + 1) give_up("reader %d: seq %lld after %lld", me.number, (long long)c->seq, (long long)me.seq);
  me.seq = c->seq;
  atomic_store(&shared->n_seen[me.number], c->seq);
  if (sscanf(c->id.text, "w%d-%d", &writer, &row) != 2) give_up("reader: id %s", c->id.text);
  if (dvec_patch(me.patcher, c->delta, c->n_delta, v, 2) != DVEC_OK) give_up("%s", dvec_message(me.patcher));
  float *known = &me.values[writer][row];
  if (c->operation == DVEC_SPARSE && (me.is_from_start || *known > 0) && v[0] != *known + 1)
    give_up("reader %d: row %s is %g after %g", me.number, c->id.text, (double)v[0], (double)*known);
  if (c->operation == DVEC_SPARSE) *known = v[0];
  if (c->seq == me.close_at) dvec_subscription_close(me.subscription, NULL);
}

static void on_error(void *user, int32_t code, const char *message) {
  (void)user;
  give_up("reader: %d %s", code, message);
}

static void on_timer(uv_timer_t *timer) { uv_stop(timer->loop); }

static void be_reader(int number) {
  uv_timer_t timer;
  char *message = NULL;
  memset(&me, 0, sizeof me);
  me.number = number;
  me.is_from_start = number % 2 == 0;
  me.seq = me.is_from_start ? 0 : N_WRITERS * N_ROWS;
  uv_loop_init(&loop);
  uv_timer_init(&loop, &timer);
  uv_timer_start(&timer, on_timer, 50, 50);
  uv_unref((uv_handle_t *)&timer);
  if (dvec_open(":memory:", NULL, &me.patcher) != DVEC_OK) give_up("reader: cannot open");
  for (bool is_over = false; !is_over;) {
    dvec_subscription_options o = {.size = sizeof o, .on_change = on_change, .on_error = on_error};
    o.batch_count = 1 + 97 * (uint32_t)number;
    o.poll_ms = 20;
    me.close_at = me.seq + 20000 + 777 * number;
    if (dvec_subscribe(&loop, file, "docs", me.seq, &o, &me.subscription, &message) != DVEC_OK)
      give_up("reader: %s", message);
    for (;;) {
      bool is_quiet = atomic_load(&shared->n_writing) == 0;
      int64_t end = atomic_load(&shared->acknowledged) + N_WRITERS * N_ROWS;
      is_over = is_quiet && me.seq == end;
      if (is_quiet && me.seq > end)
        give_up("reader %d: seq %lld, the ledger ends at %lld", number, (long long)me.seq, (long long)end);
      if (is_over || uv_run(&loop, UV_RUN_DEFAULT) == 0) break; /* 0: closed from the callback */
    }
    if (is_over) {
      if (me.seq != me.close_at) dvec_subscription_close(me.subscription, NULL);
      while (uv_run(&loop, UV_RUN_DEFAULT) != 0) continue;
    }
    atomic_fetch_add(&shared->n_resumed, 1);
  }
  uv_close((uv_handle_t *)&timer, NULL);
  uv_run(&loop, UV_RUN_DEFAULT);
  dvec_close(me.patcher);
  if (uv_loop_close(&loop) != 0) give_up("reader: the loop has handles");
}

/* ---- the parent -------------------------------------------------------------------------------------------------- */

START_TEST(nothing_is_lost_and_nothing_comes_twice) {
  double seconds = getenv("DV_SECONDS") ? atof(getenv("DV_SECONDS")) : 2;
  sql_profile_now = &sql_wal;
  sql_setup();
  file = sql_path("test.db");
  sqlite3 *db = sql_open(file);
  sql_run(db, "CREATE VIRTUAL TABLE docs USING delta_vectors(dimensions=2, metric=l2)");
  for (int i = 0; i < N_WRITERS * N_ROWS; i++)
    sql_run(db, "INSERT INTO docs(id, vector) VALUES('w%d-%d', '[0,0]')", i / N_ROWS, i % N_ROWS);
  sql_close(db);
  shared = mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  ck_assert(shared != MAP_FAILED);
  atomic_store(&shared->n_writing, N_WRITERS);
  pid_t pids[N_WRITERS + N_READERS];
  double end = seconds_now() + seconds;
  for (int i = 0; i < N_WRITERS + N_READERS; i++) {
    pids[i] = fork();
    ck_assert_int_ge(pids[i], 0);
    if (pids[i] == 0) {
      if (i < N_WRITERS)
        be_writer(i, end);
      else
        be_reader(i - N_WRITERS);
      _exit(0);
    }
  }
  int n_bad = 0;
  for (int i = 0; i < N_WRITERS + N_READERS; i++) {
    int status = 0;
    waitpid(pids[i], &status, 0);
    n_bad += status != 0;
    if (status != 0 && i < N_WRITERS) atomic_fetch_sub(&shared->n_writing, 1);
  }
  ck_assert_msg(n_bad == 0, "%d processes failed: %s", n_bad, shared->failure);
  long long n = atomic_load(&shared->acknowledged);
  printf("%lld deltas acknowledged, seen by %d readers with %lld subscriptions\n", n, N_READERS,
         (long long)shared->n_resumed);
  fflush(stdout);
  ck_assert_int_gt(n, 0);
  db = sql_open(file);
  ck_assert_int_eq(sql_integer(db, "SELECT max(seq) FROM delta_log('docs')"), n + N_WRITERS * N_ROWS);
  ck_assert_int_eq(sql_integer(db, "SELECT sum(vector_distance(vector, '[0,0]', 'l1')) FROM docs"), n);
  sql_sound(db);
  sql_close(db);
  munmap(shared, sizeof *shared);
  sql_teardown();
}
END_TEST

int main(int argc, char **argv) {
  Suite *suite = suite_create("ledger");
  TCase *t = tcase_create("ledger");
  tcase_set_timeout(t, 120 + 4 * (getenv("DV_SECONDS") ? atof(getenv("DV_SECONDS")) : 2));
  tcase_add_test(t, nothing_is_lost_and_nothing_comes_twice);
  suite_add_tcase(suite, t);
  return sql_main(suite, argc, argv);
}
