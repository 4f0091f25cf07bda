/*
 * differential.c: drives the extension and the naive model with the same random programs and compares them.
 *
 *   differential [--programs N] [--ops M] [--seed S] [--extension PATH] [--verbose]
 *   differential --program-seed X [--ops M] [--minimize]       one program, as a failure report names it
 *   differential --programs N ... --traces FILE                 also writes the SQL of every program to the file
 *   differential --self-test                                    the model alone
 *
 * A program is a table of random form and 200 operations on it. Everything it does follows from its seed (times of now
 * apart), so a failure report is a seed; and the report carries the SQL itself, with all values as literals.
 */
#define _POSIX_C_SOURCE 200809L

#include "operations.h"

#include <ctype.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#ifndef DV_EXTENSION_PATH
#define DV_EXTENSION_PATH "./delta_vectors"
#endif

/* A program takes a fraction of a second; one that takes this long hangs. But the machine may be busy with other things:
 * one that has not had half of that time is given more, so many times. */
enum { SECONDS_PER_PROGRAM = 120, MAX_PATIENCE = 10 };

typedef struct arguments {
  int programs, operations;
  uint64_t seed, program_seed;
  bool has_program_seed, is_verbose, minimizes, tests_self;
  FILE *traces;
  const char *extension;
  bool graphs_are_small;
} arguments;

/* What several programs add up to. */
typedef struct totals {
  long programs, operations, checks, failures;
  long expected, present, auto_expected, auto_present;
} totals;

/* ---- choosing a program ------------------------------------------------------------------------------------------ */

static void add_column(program *p, const char *name, const char *type, model_column_kind kind) {
  model_column *col = &p->shape.columns[p->shape.n_columns++];
  snprintf(col->name, sizeof col->name, "%s", name);
  snprintf(col->type, sizeof col->type, "%s", type);
  col->kind = kind;
}

static void choose_columns(program *p) {
  static const struct {
    const char *name, *type;
    model_column_kind kind;
    int percent;
  } candidates[] = {
      {"tenant", "INTEGER", MODEL_PARTITION, 50}, {"n", "INTEGER", MODEL_METADATA, 60},
      {"price", "REAL", MODEL_METADATA, 60},      {"genre", "TEXT", MODEL_METADATA, 70},
      {"flag", "BOOLEAN", MODEL_METADATA, 40},    {"raw", "BLOB", MODEL_METADATA, 30},
      {"body", "TEXT", MODEL_AUXILIARY, 40},
  };
  p->vector_column = p->is_short_form ? "vector" : "embedding";
  if (p->is_short_form) {
    add_column(p, "metadata", "TEXT", MODEL_JSON);
    return;
  }
  p->shape.is_integer_id = rng_chance(&p->rng, 40);
  for (size_t i = 0; i < sizeof candidates / sizeof candidates[0]; i++)
    if (rng_chance(&p->rng, candidates[i].percent))
      add_column(p, candidates[i].name, candidates[i].type, candidates[i].kind);
}

static void choose_options(program *p) {
  static const int intervals[] = {1, 2, 3, 5, 10, 100};
  static const char *const compressions[] = {"on", "max", "off"};
  static const char *const retentions[] = {"5 versions", "90 days", "forever"};
  text t = {0};
  int roll = rng_below(&p->rng, 10);
  p->is_hnsw = roll < 3;
  if (p->is_hnsw) {
    text_put(&t, ", index=hnsw");
    if (rng_chance(&p->rng, 50)) text_put(&t, ", hnsw_m=%d", rng_between(&p->rng, 2, 16));
    if (rng_chance(&p->rng, 30)) text_put(&t, ", hnsw_ef_construction=%d", rng_between(&p->rng, 10, 200));
    if (rng_chance(&p->rng, 30)) text_put(&t, ", hnsw_ef_search=%d", rng_between(&p->rng, 1, 100));
    if (rng_chance(&p->rng, 20)) text_put(&t, ", recall_target=0.%d", rng_between(&p->rng, 80, 99));
  } else if (roll < 6) {
    p->is_flat = roll < 5;
    text_put(&t, ", index=%s", p->is_flat ? "flat" : "auto");
  }
  p->checkpoint_interval = 100;
  if (rng_chance(&p->rng, 75)) {
    p->checkpoint_interval = intervals[rng_below(&p->rng, 6)];
    text_put(&t, ", checkpoint_interval=%d", p->checkpoint_interval);
  }
  if (rng_chance(&p->rng, 60)) text_put(&t, ", compression=%s", compressions[rng_below(&p->rng, 3)]);
  if (rng_chance(&p->rng, 25)) {
    snprintf(p->keep, sizeof p->keep, "%s", retentions[rng_below(&p->rng, 3)]);
    text_put(&t, ", retention='%s'", p->keep);
  }
  if (rng_chance(&p->rng, 5)) {
    p->shape.max_rows = rng_between(&p->rng, 3, 20);
    text_put(&t, ", max_vectors=%d", p->shape.max_rows);
  }
  snprintf(p->options, sizeof p->options, "%s", t.s ? t.s : "");
  text_free(&t);
}

static void choose_ids(program *p) {
  p->n_ids = rng_between(&p->rng, 5, MAX_IDS);
  for (int i = 0; i < p->n_ids; i++) {
    char id[24];
    static const char *const forms[] = {"r%d", "r%d", "r%d", "it's %d", "\xc3\xa9%d", "%d"};
    snprintf(id, sizeof id, forms[i % 6], i);
    int64_t number = i % 5 == 3 ? -i : i % 5 == 4 ? (INT64_C(1) << 40) + i : i;
    p->ids[i] = p->shape.is_integer_id ? model_integer(number) : model_text(id);
  }
}

static void choose_program(program *p) {
  static const int page_sizes[] = {4096, 4096, 4096, 512, 1024, 8192};
  static const int percents[] = {0, 50, 90, 97};
  int roll = rng_below(&p->rng, 100);
  p->shape.dimensions = roll < 88 ? rng_between(&p->rng, 1, 40) : roll < 94 ? rng_between(&p->rng, 41, 128) : 384;
  p->shape.metric = (model_metric)rng_below(&p->rng, 4);
  p->is_short_form = rng_chance(&p->rng, 40);
  choose_columns(p);
  choose_options(p);
  choose_ids(p);
  p->in_memory = rng_chance(&p->rng, 20);
  p->is_wal = rng_chance(&p->rng, 45);
  p->n_connections = !p->in_memory && rng_chance(&p->rng, 40) ? 2 : 1;
  p->binds = rng_chance(&p->rng, 50);
  p->page_size = page_sizes[rng_below(&p->rng, 6)];
  p->cache_size = rng_chance(&p->rng, 25) ? rng_between(&p->rng, 2, 20) : 0;
  p->synchronous = rng_chance(&p->rng, 3);
  p->explicit_percent = percents[rng_below(&p->rng, 4)];
  p->clock = INT64_C(1500000000000);
}

/* ---- running one ------------------------------------------------------------------------------------------------- */

static void begin_program(program *p) {
  for (int i = 0; i < p->n_connections; i++) {
    connection *c = &p->connections[i];
    c->number = i;
    open_connection(p, c);
    if (i > 0) continue;
    execute(p, c, "PRAGMA page_size=%d", p->page_size);
    if (p->is_wal && !p->in_memory) execute(p, c, "PRAGMA journal_mode=WAL");
    create_table(p, c, "docs");
  }
  p->committed = model_new(&p->shape, "docs");
}

/* A COMMIT may find the file busy because of the other connection's transaction: then that one ends first. */
static void end_transactions(program *p) {
  for (int i = 0; i < 2 * p->n_connections; i++)
    end_transaction(p, &p->connections[i % p->n_connections], rng_chance(&p->rng, 70));
  for (int i = 0; i < p->n_connections; i++) end_transaction(p, &p->connections[i], false);
}

static void end_program(program *p) {
  p->rng = (rng){mix(p->seed, 2)};
  end_transactions(p);
  for (int i = 0; i < p->n_connections; i++) check_everything(p, &p->connections[i], true);
  connection *c = &p->connections[0];
  if (!p->in_memory && !p->has_failed) {
    for (int i = 0; i < p->n_connections; i++) close_connection(p, &p->connections[i]);
    open_connection(p, c);
    check_everything(p, c, true);
  }
  execute(p, c, "DROP TABLE \"%s\"", p->committed->name);
  statement s = {0};
  result r;
  put(&s, "SELECT count(*) FROM sqlite_schema");
  if (query(p, c, &s, &r)) check(p, cell(&r, 0, 0)->integer == 0, "DROP TABLE leaves tables behind");
  result_free(&r);
}

static void free_program(program *p) {
  for (int i = 0; i < p->n_connections; i++) close_connection(p, &p->connections[i]);
  long long left = (long long)(sqlite3_memory_used() - p->memory_before);
  if (!p->has_failed) check(p, left == 0, "%lld bytes of SQLite's memory are not freed", left);
  model_free(p->committed);
  for (int i = 0; i < p->n_ids; i++) model_value_free(&p->ids[i]);
  static const char *const suffixes[] = {"", "-journal", "-wal", "-shm"};
  for (int i = 0; i < 4 && !p->in_memory; i++) {
    char path[420];
    snprintf(path, sizeof path, "%s%s", p->path, suffixes[i]);
    remove(path);
  }
}

/* The program that runs, for the handler of signals. */
static program *current;

static void write_all(const char *s, size_t n) {
  while (n > 0) {
    ssize_t written = write(STDOUT_FILENO, s, n);
    if (written <= 0) return;
    s += written;
    n -= (size_t)written;
  }
}

static time_t seconds_of_cpu(void) {
  struct timespec t = {0};
  clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
  return t.tv_sec;
}

static time_t began_at; /* in seconds of CPU */
static int n_alarms;

static void begin_watch(void) {
  began_at = seconds_of_cpu();
  n_alarms = 0;
  alarm(SECONDS_PER_PROGRAM);
}

/* A crash or a hang is a difference too. Only what is safe in a handler: the trace is in memory already. */
static void report_signal(int number) {
  if (number == SIGALRM && ++n_alarms < MAX_PATIENCE && seconds_of_cpu() - began_at < SECONDS_PER_PROGRAM / 2) {
    alarm(SECONDS_PER_PROGRAM);
    return;
  }
  char line[100];
  int n = snprintf(line, sizeof line, "\n-- ^^^ signal %d%s\nprogram seed %llu\n", number,
                   number == SIGALRM ? " (hang)" : "", current ? (unsigned long long)current->seed : 0ull);
  if (current && current->trace.s) write_all(current->trace.s, current->trace.n);
  write_all(line, (size_t)n);
  signal(number, SIG_DFL);
  raise(number);
}

static char directory[300];

/* How much a failure says. */
typedef enum report { NOTHING, ONE_LINE, WHOLE_TRACE } report;

/* Runs the program of that seed; operations that `leaves_out` names are not run. */
static bool run_program(const arguments *a, uint64_t seed, const bool *leaves_out, report how, totals *sum) {
  program *p = calloc(1, sizeof *p);
  if (!p) abort();
  p->seed = seed;
  p->rng = (rng){mix(seed, 1)};
  p->extension = a->extension;
  p->graphs_are_small = a->graphs_are_small;
  p->traced_connection = -1;
  p->index = -1;
  p->memory_before = sqlite3_memory_used();
  current = how == WHOLE_TRACE ? p : NULL;
  choose_program(p);
  if (p->in_memory)
    snprintf(p->path, sizeof p->path, ":memory:");
  else
    snprintf(p->path, sizeof p->path, "%s/%llx.db", directory, (unsigned long long)seed);
  begin_watch();
  begin_program(p);
  for (int i = 0; i < a->operations && !p->has_failed; i++) {
    if (leaves_out && leaves_out[i]) continue;
    const char *name = run_operation(p, i);
    if (a->is_verbose) fprintf(stderr, "program %llu operation %d: %s\n", (unsigned long long)seed, i, name);
    sum->operations++;
  }
  p->index = a->operations;
  end_program(p);
  free_program(p);
  alarm(0);
  bool has_failed = p->has_failed;
  if (a->traces) {
    fprintf(a->traces, "-- program %llu\n", (unsigned long long)seed);
    fwrite(p->trace.s, 1, p->trace.n, a->traces);
  }
  if (has_failed && how == WHOLE_TRACE) {
    printf("\n---- program seed %llu%s: the SQL of the program ----\n", (unsigned long long)seed,
           p->binds ? " (values were bound as parameters)" : "");
    fwrite(p->trace.s, 1, p->trace.n, stdout);
  }
  if (has_failed && how >= ONE_LINE) {
    printf("---- program seed %llu failed: %s\n", (unsigned long long)seed, p->failure);
    printf("---- again: differential --ops %d --program-seed %llu --minimize\n", a->operations,
           (unsigned long long)seed);
    fflush(stdout);
  }
  sum->programs++;
  sum->checks += p->checks;
  sum->failures += has_failed;
  sum->expected += p->expected;
  sum->present += p->present;
  sum->auto_expected += p->auto_expected;
  sum->auto_present += p->auto_present;
  text_free(&p->trace);
  free(p);
  current = NULL;
  return !has_failed;
}

/* ---- making a failure small -------------------------------------------------------------------------------------- */

/* In a process of its own, because the failure may be a crash. */
static bool fails_without(const arguments *a, const bool *leaves_out) {
  fflush(stdout);
  pid_t child = fork();
  if (child == 0) {
    totals sum = {0};
    arguments quiet = *a;
    quiet.is_verbose = false;
    _exit(run_program(&quiet, a->program_seed, leaves_out, NOTHING, &sum) ? 0 : 1);
  }
  int status = 0;
  if (child < 0 || waitpid(child, &status, 0) < 0) return false;
  return !WIFEXITED(status) || WEXITSTATUS(status) == 1;
}

/* Leaves out ever smaller stretches of operations, as long as the rest still fails in some way. */
static void minimize(const arguments *a, totals *sum) {
  bool *leaves_out = calloc((size_t)a->operations + 1, sizeof *leaves_out);
  bool *attempt = calloc((size_t)a->operations + 1, sizeof *attempt);
  if (!leaves_out || !attempt) abort();
  if (!fails_without(a, leaves_out)) {
    printf("program seed %llu does not fail\n", (unsigned long long)a->program_seed);
  } else {
    for (int stretch = a->operations / 2; stretch > 0; stretch /= 2) {
      for (int from = 0; from < a->operations; from += stretch) {
        bool is_new = false;
        memcpy(attempt, leaves_out, (size_t)a->operations);
        for (int i = from; i < from + stretch && i < a->operations; i++) {
          is_new = is_new || !attempt[i];
          attempt[i] = true;
        }
        if (is_new && fails_without(a, attempt)) memcpy(leaves_out, attempt, (size_t)a->operations);
      }
    }
  }
  run_program(a, a->program_seed, leaves_out, WHOLE_TRACE, sum);
  free(leaves_out);
  free(attempt);
}

/* ---- the command line -------------------------------------------------------------------------------------------- */

static void usage(void) {
  fputs("usage: differential [--programs N] [--ops M] [--seed S] [--extension PATH] [--verbose]\n"
        "                    [--program-seed X [--minimize]] [--traces FILE] [--self-test]\n",
        stderr);
  exit(2);
}

static arguments parse(int argc, char **argv) {
  arguments a = {.programs = 100, .operations = 200, .seed = 1, .extension = DV_EXTENSION_PATH};
  for (int i = 1; i < argc; i++) {
    const char *name = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
    if (strcmp(name, "--verbose") == 0)
      a.is_verbose = true;
    else if (strcmp(name, "--minimize") == 0)
      a.minimizes = true;
    else if (strcmp(name, "--self-test") == 0)
      a.tests_self = true;
    else if (!value)
      usage();
    else {
      i++;
      if (strcmp(name, "--programs") == 0)
        a.programs = atoi(value);
      else if (strcmp(name, "--ops") == 0)
        a.operations = atoi(value);
      else if (strcmp(name, "--seed") == 0)
        a.seed = strtoull(value, NULL, 10);
      else if (strcmp(name, "--program-seed") == 0)
        a.program_seed = strtoull(value, NULL, 10), a.has_program_seed = true;
      else if (strcmp(name, "--extension") == 0)
        a.extension = value;
      else if (strcmp(name, "--traces") == 0 && (a.traces = fopen(value, "w")) != NULL)
        continue;
      else
        usage();
    }
  }
  if (a.programs < 1 || a.operations < 0 || (a.minimizes && !a.has_program_seed)) usage();
  return a;
}

/* At least n_enough rows were looked for, and too few of them found. */
static bool misses_too_much(const char *what, long expected, long present, long n_enough, double recall_wanted) {
  if (expected < n_enough) return false;
  double recall = (double)present / (double)expected;
  printf("differential: recall of %s %.4f (%ld of %ld rows)\n", what, recall, present, expected);
  return recall < recall_wanted;
}

static void run_programs(const arguments *a, totals *sum) {
  int step = a->programs / 10 > 0 ? a->programs / 10 : 1;
  for (int i = 0; i < a->programs; i++) {
    /* The traces of the first few tell enough. */
    run_program(a, mix(a->seed, (uint64_t)i), NULL, sum->failures < 3 ? WHOLE_TRACE : ONE_LINE, sum);
    if ((i + 1) % step == 0 && i + 1 < a->programs) {
      printf("differential: %d of %d programs, %ld failures\n", i + 1, a->programs, sum->failures);
      fflush(stdout);
    }
  }
}

int main(int argc, char **argv) {
  arguments a = parse(argc, argv);
  totals sum = {0};
  if (a.tests_self) {
    int n_failed = model_self_test();
    printf("%d passed, %d failed\n", n_failed == 0, n_failed);
    return n_failed > 0;
  }
  a.graphs_are_small = makes_small_graphs(a.extension);
  const char *temporary = getenv("TMPDIR");
  snprintf(directory, sizeof directory, "%s/differential-XXXXXX", temporary ? temporary : "/tmp");
  if (!mkdtemp(directory)) {
    perror("differential: mkdtemp");
    return 2;
  }
  static const int signals[] = {SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGABRT, SIGALRM};
  for (size_t i = 0; i < sizeof signals / sizeof signals[0]; i++) signal(signals[i], report_signal);
  if (a.minimizes)
    minimize(&a, &sum);
  else if (a.has_program_seed)
    run_program(&a, a.program_seed, NULL, WHOLE_TRACE, &sum);
  else
    run_programs(&a, &sum);
  rmdir(directory);
  sum.failures += misses_too_much("index=hnsw", sum.expected, sum.present, 1000, MODEL_HNSW_RECALL);
  sum.failures += misses_too_much("index=auto by a part", sum.auto_expected, sum.auto_present, 100, MODEL_AUTO_RECALL);
  printf("differential: %ld programs, %ld operations, %ld checks, %ld failures (seed %llu)\n", sum.programs,
         sum.operations, sum.checks, sum.failures, (unsigned long long)a.seed);
  printf("%ld passed, %ld failed\n", sum.programs - sum.failures, sum.failures);
  return sum.failures > 0;
}
