/*
 * sensors.c: many sensors, each of which knows a few dimensions of many things. What they report goes as sparse deltas
 * through a stream into a table, while another process searches it, and a subscription follows what changes.
 *
 *   sensors [deltas [rows [file]]]       default: 1000000, 10000, sensors.db in the directory for temporary files
 *
 * The times go to standard error; what goes to standard output is the same in every run.
 */
#include <delta_vectors.h>

#include <stdio.h>
#include <stdlib.h>
#include <sys/select.h>
#include <sys/wait.h>
#include <unistd.h>
#include <uv.h>

enum { DIMENSIONS = 64, READINGS = 4, SENSORS = 2 };

static uv_loop_t loop;
static dvec_stream *stream;
static dvec_subscription *subscription;
static uint64_t n_deltas = 1000000, n_rows = 10000;
static char file[400];
static uint64_t n_applied, n_failed, n_changes, worst_us;
static int64_t last_seq;

static void give_up(const char *what, const char *message) {
  (void)fprintf(stderr, "sensors: %s: %s\n", what, message ? message : "");
  exit(1);
}

/* ---- the table --------------------------------------------------------------------------------------------------- */

static void make_table(void) {
  dvec_db *db = NULL;
  dvec_open_options open = {.size = sizeof open, .sql = "PRAGMA journal_mode=WAL; BEGIN"};
  dvec_table_options table = {.size = sizeof table, .dimensions = DIMENSIONS, .metric = "l2"};
  table.columns = "id INTEGER PRIMARY KEY";
  if (dvec_open(file, &open, &db) != DVEC_OK) give_up("open", dvec_message(db));
  if (dvec_create_table(db, "things", &table) != DVEC_OK) give_up("create", dvec_message(db));
  for (uint64_t row = 0; row < n_rows; row++) {
    float zero[DIMENSIONS] = {0};
    dvec_delta d = {.size = sizeof d, .operation = DVEC_CREATE, .id = dvec_id_integer((int64_t)row)};
    d.values = zero, d.n = DIMENSIONS;
    if (dvec_apply(db, "things", &d, NULL) != DVEC_OK) give_up("create a row", dvec_message(db));
  }
  if (sqlite3_exec(dvec_sqlite(db), "COMMIT", NULL, NULL, NULL) != SQLITE_OK) give_up("commit", "");
  dvec_close(db);
}

/* ---- another process searches until it is told to stop ----------------------------------------------------------- */

static void search_until_stopped(int stop) {
  dvec_db *db = NULL;
  float query[DIMENSIONS];
  char byte;
  uint64_t n = 0;
  for (int i = 0; i < DIMENSIONS; i++) query[i] = (float)i;
  if (dvec_open(file, NULL, &db) != DVEC_OK) give_up("the searching process", dvec_message(db));
  fd_set set;
  struct timeval at_once = {0, 0};
  for (;;) {
    FD_ZERO(&set);
    FD_SET(stop, &set);
    at_once.tv_sec = at_once.tv_usec = 0;
    if (select(stop + 1, &set, NULL, NULL, &at_once) > 0 && read(stop, &byte, 1) >= 0) break;
    dvec_hits *hits = NULL;
    if (dvec_search(db, "things", query, DIMENSIONS, NULL, &hits) != DVEC_OK) give_up("search", dvec_message(db));
    if (dvec_hits_count(hits) != (n_rows < 10 ? n_rows : 10)) give_up("search", "rows are missing");
    dvec_hits_free(hits);
    n++;
  }
  dvec_close(db);
  (void)fprintf(stderr, "%llu searches by the other process\n", (unsigned long long)n);
}

/* ---- sensors: threads that push ---------------------------------------------------------------------------------- */

/* Reading number n, whoever takes it: four dimensions of a thing. Each sensor has things of its own, so that the order of
 * a thing's readings is that of its sensor. */
static void take_readings(void *which) {
  uint64_t sensor = *(uint64_t *)which;
  char message[200];
  for (uint64_t n = sensor; n < n_deltas; n += SENSORS) {
    uint64_t x = n * 0x9e3779b97f4a7c15u;
    uint32_t indices[READINGS];
    float values[READINGS];
    for (uint32_t i = 0; i < READINGS; i++) {
      indices[i] = i * (DIMENSIONS / READINGS) + (uint32_t)(x >> (8 * i)) % (DIMENSIONS / READINGS);
      values[i] = (float)((x >> (32 + 8 * i)) & 255) / 16.0f;
    }
    int64_t thing = (int64_t)((x >> 16) % (n_rows / SENSORS) * SENSORS + sensor);
    dvec_delta d = {.size = sizeof d, .operation = DVEC_SPARSE, .id = dvec_id_integer(thing)};
    d.indices = indices, d.values = values, d.n = READINGS;
    if (dvec_stream_push(stream, &d, NULL, message, sizeof message) != DVEC_OK) give_up("push", message);
  }
}

/* ---- the loop ---------------------------------------------------------------------------------------------------- */

static void close_when_done(void) {
  if (n_applied + n_failed < n_deltas || n_changes < n_deltas || !subscription) return;
  dvec_stream_close(stream, DVEC_DRAIN, NULL);
  dvec_subscription_close(subscription, NULL);
  subscription = NULL;
}

static void on_ack(void *user, const dvec_ack *ack) {
  (void)user;
  n_applied += ack->n_applied;
  n_failed += ack->n_failed;
  if (ack->age_us > worst_us) worst_us = ack->age_us;
  close_when_done();
}

static void on_change(void *user, const dvec_change *change) {
  (void)user;
  if (change->seq != last_seq + 1) give_up("subscription", "a seq is missing");
  last_seq = change->seq;
  n_changes++;
  close_when_done();
}

int main(int argc, char **argv) {
  const char *directory = getenv("TMPDIR");
  char *message = NULL;
  int stop[2];
  if (argc > 1) n_deltas = strtoull(argv[1], NULL, 10);
  if (argc > 2) n_rows = strtoull(argv[2], NULL, 10);
  if (argc <= 3 && !directory) directory = "/tmp";
  int n =
      argc > 3 ? snprintf(file, sizeof file, "%s", argv[3]) : snprintf(file, sizeof file, "%s/sensors.db", directory);
  if (n < 0 || n >= (int)sizeof file) give_up("the name of the file", "too long");
  unlink(file);
  make_table();

  if (pipe(stop) != 0) give_up("pipe", "");
  pid_t child = fork(); /* while no connection is open */
  if (child == 0) {
    close(stop[1]);
    search_until_stopped(stop[0]);
    _exit(0);
  }
  close(stop[0]);

  uv_loop_init(&loop);
  dvec_stream_options so = {.size = sizeof so, .when_full = DVEC_BLOCK, .on_ack = on_ack};
  dvec_subscription_options fo = {.size = sizeof fo, .on_change = on_change};
  last_seq = (int64_t)n_rows;
  if (dvec_stream_open(&loop, file, "things", &so, &stream, &message) != DVEC_OK) give_up("stream", message);
  if (dvec_subscribe(&loop, file, "things", last_seq, &fo, &subscription, &message) != DVEC_OK)
    give_up("subscribe", message);
  uint64_t begin = uv_hrtime();
  uv_thread_t threads[SENSORS];
  uint64_t numbers[SENSORS];
  for (uint64_t i = 0; i < SENSORS; i++) {
    numbers[i] = i;
    uv_thread_create(&threads[i], take_readings, &numbers[i]);
  }
  uv_run(&loop, UV_RUN_DEFAULT);
  double seconds = (double)(uv_hrtime() - begin) * 1e-9;
  for (int i = 0; i < SENSORS; i++) uv_thread_join(&threads[i]);
  dvec_stream_stats stats;
  dvec_stream_get_stats(stream, &stats, sizeof stats);
  dvec_stream_free(stream);
  uv_loop_close(&loop);
  if (write(stop[1], "x", 1) != 1) give_up("pipe", "");
  int status = 0;
  waitpid(child, &status, 0);

  dvec_db *db = NULL;
  dvec_hits *hits = NULL;
  float query[DIMENSIONS];
  for (int i = 0; i < DIMENSIONS; i++) query[i] = 8;
  if (dvec_open(file, NULL, &db) != DVEC_OK) give_up("open", dvec_message(db));
  if (dvec_search(db, "things", query, DIMENSIONS, &(dvec_search_options){.size = sizeof(dvec_search_options), .k = 3},
                  &hits) != DVEC_OK)
    give_up("search", dvec_message(db));
  printf("%llu deltas applied, %llu failed, %llu changes seen\n", (unsigned long long)n_applied,
         (unsigned long long)n_failed, (unsigned long long)n_changes);
  for (size_t i = 0; i < dvec_hits_count(hits); i++)
    printf("%lld at %.3f\n", (long long)dvec_hits_at(hits, i)->id.integer, dvec_hits_at(hits, i)->distance);
  dvec_hits_free(hits);
  dvec_close(db);
  (void)fprintf(stderr,
                "%.0f deltas/s in %llu windows, seen by the subscription; oldest delta of a window at most %.1f ms\n",
                (double)n_deltas / seconds, (unsigned long long)stats.n_windows, (double)worst_us / 1000);
  return status != 0;
}
