/*
 * host.c: what is asked of the operating system itself: threads for building a graph, taking back memory that is not
 * used, and putting much-used memory into large pages. The only file that knows which system this is. A host that has
 * none of it (WebAssembly) builds on the caller's thread and keeps its memory.
 *
 * Threads are those of POSIX, which are part of the C library: the loadable must need nothing else, and the single-file
 * build nothing at all. A crew lives as long as one 'optimize'. Its threads compute; they never call SQLite, allocate,
 * or see a signal of the host's.
 */
#include "ext_int.h"

#if (defined(__unix__) || defined(__APPLE__)) && !defined(__EMSCRIPTEN__) && !defined(DVX_NO_THREADS)
#define HOST_IS_POSIX 1
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <unistd.h>
#if defined(__linux__)
#include <sys/syscall.h>
#endif
#else
#define HOST_IS_POSIX 0
#endif

#if HOST_IS_POSIX

/* ---- threads ----------------------------------------------------------------------------------------------------- */

/* One round of work: what dvx_crew_run was called with. */
typedef struct crew_round {
  void (*task)(void *arg, size_t i, size_t worker);
  void *arg;
  size_t n;
} crew_round;

typedef struct crew_member {
  struct dvx_crew *crew;
  size_t worker;
  pthread_t thread;
} crew_member;

struct dvx_crew {
  size_t n_workers; /* the caller among them: worker 0 */
  crew_member members[DVX_MAX_THREADS]; /* members[0] is not used */
  pthread_mutex_t mutex; /* guards what follows, but for `next` */
  pthread_cond_t begun, ended;
  crew_round round;
  uint64_t n_rounds;
  size_t n_busy;
  bool is_over;
  atomic_size_t next; /* task of the round that nobody has taken */
};

static void crew_work(dvx_crew *crew, const crew_round *round, size_t worker) {
  for (;;) {
    size_t i = atomic_fetch_add_explicit(&crew->next, 1, memory_order_relaxed);
    if (i >= round->n) return;
    round->task(round->arg, i, worker);
  }
}

static void *crew_main(void *arg) {
  crew_member *m = arg;
  dvx_crew *crew = m->crew;
  uint64_t n_seen = 0;
  pthread_mutex_lock(&crew->mutex);
  for (;;) {
    while (crew->n_rounds == n_seen && !crew->is_over) pthread_cond_wait(&crew->begun, &crew->mutex);
    if (crew->is_over) break;
    n_seen = crew->n_rounds;
    crew_round round = crew->round;
    pthread_mutex_unlock(&crew->mutex);
    crew_work(crew, &round, m->worker);
    pthread_mutex_lock(&crew->mutex);
    if (--crew->n_busy == 0) pthread_cond_signal(&crew->ended);
  }
  pthread_mutex_unlock(&crew->mutex);
  return NULL;
}

void dvx_crew_run(void *ctx, size_t n, void (*task)(void *arg, size_t i, size_t worker), void *arg) {
  dvx_crew *crew = ctx;
  crew_round round = {task, arg, n};
  atomic_store_explicit(&crew->next, 0, memory_order_relaxed);
  pthread_mutex_lock(&crew->mutex); /* what the caller has written is seen by who takes the mutex after this */
  crew->round = round;
  crew->n_rounds++;
  crew->n_busy = crew->n_workers - 1;
  pthread_cond_broadcast(&crew->begun);
  pthread_mutex_unlock(&crew->mutex);
  crew_work(crew, &round, 0);
  pthread_mutex_lock(&crew->mutex);
  while (crew->n_busy > 0) pthread_cond_wait(&crew->ended, &crew->mutex);
  pthread_mutex_unlock(&crew->mutex);
}

dvx_crew *dvx_crew_new(size_t n_workers) {
  if (n_workers > DVX_MAX_THREADS) n_workers = DVX_MAX_THREADS;
  dvx_crew *crew = n_workers > 1 ? sqlite3_malloc64(sizeof *crew) : NULL;
  if (!crew) return NULL;
  memset(crew, 0, sizeof *crew);
  if (pthread_mutex_init(&crew->mutex, NULL) != 0) {
    sqlite3_free(crew);
    return NULL;
  }
  pthread_cond_init(&crew->begun, NULL);
  pthread_cond_init(&crew->ended, NULL);
  atomic_init(&crew->next, 0);
  sigset_t all, before;
  sigfillset(&all);
  pthread_sigmask(SIG_SETMASK, &all, &before); /* new threads take it over: the host's handlers run on its own */
  for (crew->n_workers = 1; crew->n_workers < n_workers; crew->n_workers++) {
    crew_member *m = &crew->members[crew->n_workers];
    m->crew = crew;
    m->worker = crew->n_workers;
    if (pthread_create(&m->thread, NULL, crew_main, m) != 0) break; /* fewer, then */
  }
  pthread_sigmask(SIG_SETMASK, &before, NULL);
  return crew;
}

size_t dvx_crew_size(const dvx_crew *crew) { return crew ? crew->n_workers : 1; }

void dvx_crew_free(dvx_crew *crew) {
  if (!crew) return;
  pthread_mutex_lock(&crew->mutex);
  crew->is_over = true;
  pthread_cond_broadcast(&crew->begun);
  pthread_mutex_unlock(&crew->mutex);
  for (size_t i = 1; i < crew->n_workers; i++) pthread_join(crew->members[i].thread, NULL);
  pthread_cond_destroy(&crew->ended);
  pthread_cond_destroy(&crew->begun);
  pthread_mutex_destroy(&crew->mutex);
  sqlite3_free(crew);
}

/* Cores that this process may run on, which can be fewer than the machine has. */
size_t dvx_host_cores(void) {
#if defined(__linux__) && defined(SYS_sched_getaffinity)
  unsigned long mask[128] = {0};
  long n_bytes = syscall(SYS_sched_getaffinity, 0, sizeof mask, mask);
  size_t n = 0;
  for (size_t i = 0; n_bytes > 0 && i < (size_t)n_bytes / sizeof mask[0]; i++)
    for (unsigned long bits = mask[i]; bits; bits &= bits - 1) n++;
#else
  long online = sysconf(_SC_NPROCESSORS_ONLN);
  size_t n = online > 0 ? (size_t)online : 1;
#endif
  return n < 1 ? 1 : n < DVX_MAX_THREADS ? n : DVX_MAX_THREADS;
}

/* ---- memory ------------------------------------------------------------------------------------------------------ */

size_t dvx_host_page_bytes(void) {
#if defined(MADV_DONTNEED)
  static const size_t most = (size_t)1 << 16;
  long n = sysconf(_SC_PAGESIZE);
  return n > 0 && (size_t)n <= most ? (size_t)n : 0;
#else
  return 0;
#endif
}

void dvx_host_give_back(void *start, size_t n_bytes) {
#if defined(MADV_DONTNEED)
  (void)madvise(start, n_bytes, MADV_DONTNEED);
#else
  (void)start, (void)n_bytes;
#endif
}

/* Since Linux 6.1; older headers do not know it, older kernels refuse it. */
#if defined(__linux__) && !defined(MADV_COLLAPSE)
#define MADV_COLLAPSE 25
#endif

/* Large pages are of 2 MB where others are of 4 KB. Whoever runs the machine may not want any: the kernel itself does not
 * look at this setting when it is asked to make one. */
bool dvx_host_has_large_pages(void) {
  bool has = false;
#if defined(__linux__) && (defined(__x86_64__) || defined(__aarch64__))
  char setting[64] = "";
  int f =
      dvx_host_page_bytes() == 4096 ? open("/sys/kernel/mm/transparent_hugepage/enabled", O_RDONLY | O_CLOEXEC) : -1;
  if (f >= 0) {
    ssize_t n = read(f, setting, sizeof setting - 1);
    has = n > 0 && !strstr(setting, "[never]");
    close(f);
  }
#endif
  return has;
}

bool dvx_host_join(void *start) {
#if defined(MADV_COLLAPSE)
  return madvise(start, DVX_LARGE_PAGE, MADV_COLLAPSE) == 0;
#else
  (void)start;
  return false;
#endif
}

#else

dvx_crew *dvx_crew_new(size_t n_workers) {
  (void)n_workers;
  return NULL;
}
size_t dvx_crew_size(const dvx_crew *crew) {
  (void)crew;
  return 1;
}
void dvx_crew_free(dvx_crew *crew) { (void)crew; }
void dvx_crew_run(void *ctx, size_t n, void (*task)(void *arg, size_t i, size_t worker), void *arg) {
  (void)ctx;
  for (size_t i = 0; i < n; i++) task(arg, i, 0);
}
size_t dvx_host_cores(void) { return 1; }
size_t dvx_host_page_bytes(void) { return 0; }
void dvx_host_give_back(void *start, size_t n_bytes) { (void)start, (void)n_bytes; }
bool dvx_host_has_large_pages(void) { return false; }
bool dvx_host_join(void *start) {
  (void)start;
  return false;
}

#endif
