/*
 * check_topk.c: the bounded heap against a sort of everything.
 */
#include "../../core/dv_topk.h"

#include <check.h>
#include <math.h>
#include <stdlib.h>

static uint64_t seed = 88172645463325252u;

static uint32_t random_below(uint32_t n) {
  seed ^= seed << 13;
  seed ^= seed >> 7;
  seed ^= seed << 17;
  return (uint32_t)((seed * 2685821657736338717u >> 32) * n >> 32);
}

/* An allocator that counts what is out and fails when told to. */
static size_t n_blocks, n_calls, fail_at = SIZE_MAX;

static void *resize(void *ctx, void *p, size_t n) {
  (void)ctx;
  if (n == 0) {
    n_blocks--;
    free(p);
    return NULL;
  }
  if (n_calls++ == fail_at) return NULL;
  void *moved = realloc(p, n);
  n_blocks += p == NULL && moved != NULL;
  return moved;
}
static const dv_alloc alloc = {resize, NULL};

static int by_hit(const void *a, const void *b) {
  const dv_hit *x = a, *y = b;
  return dv_hit_less(*x, *y) ? -1 : dv_hit_less(*y, *x);
}

static double random_distance(unsigned kind) {
  switch (kind) {
  case 0: return (double)random_below(1000000);
  case 1: return (double)random_below(5); /* mostly ties */
  case 2: return -(double)random_below(1000);
  default: break;
  }
  uint32_t r = random_below(20);
  return r == 0 ? (double)NAN : r == 1 ? (double)INFINITY : r == 2 ? -(double)INFINITY : (double)r;
}

START_TEST(keeps_the_k_best_in_order) {
  for (unsigned round = 0; round < 1000; round++) {
    enum { MAX_N = 300 };
    dv_hit all[MAX_N];
    size_t n = random_below(MAX_N + 1), k = random_below(round % 2 ? 20 : MAX_N + 50);
    dv_topk t;
    dv_topk_init(&t, k, &alloc);
    for (size_t i = 0; i < n; i++) {
      all[i].distance = random_distance(round % 4);
      all[i].vid = random_below(round % 3 ? 10 : 1000000);
      ck_assert(dv_topk_push(&t, all[i].distance, all[i].vid) == DV_OK);
    }
    qsort(all, n, sizeof *all, by_hit);
    size_t n_kept = n < k ? n : k;
    ck_assert_uint_eq(t.n, n_kept);
    if (k == 0)
      ck_assert(dv_topk_worst(&t) == -(double)INFINITY);
    else if (n < k)
      ck_assert(dv_topk_worst(&t) == (double)INFINITY);
    else
      ck_assert(dv_topk_worst(&t) == all[k - 1].distance || all[k - 1].distance != all[k - 1].distance);
    dv_topk_sort(&t);
    for (size_t i = 0; i < n_kept; i++) ck_assert_int_eq(by_hit(&t.hits[i], &all[i]), 0);
    dv_topk_free(&t);
    ck_assert_uint_eq(n_blocks, 0);
  }
}
END_TEST

START_TEST(a_huge_k_costs_nothing_until_it_fills) {
  dv_topk t;
  dv_topk_init(&t, SIZE_MAX, &alloc);
  ck_assert_uint_eq(n_blocks, 0);
  for (uint32_t i = 0; i < 1000; i++) ck_assert(dv_topk_push(&t, -(double)i, i) == DV_OK);
  ck_assert_uint_le(t.capacity, 2048);
  dv_topk_sort(&t);
  for (uint32_t i = 0; i < 1000; i++) ck_assert_uint_eq(t.hits[i].vid, 999 - i);
  dv_topk_free(&t);
}
END_TEST

START_TEST(no_memory_changes_nothing) {
  dv_topk t;
  dv_topk_init(&t, 100, &alloc);
  for (uint32_t i = 0; i < 16; i++) ck_assert(dv_topk_push(&t, (double)i, i) == DV_OK);
  n_calls = 0;
  fail_at = 0;
  ck_assert(dv_topk_push(&t, -1.0, 99) == DV_NOMEM);
  fail_at = SIZE_MAX;
  ck_assert_uint_eq(t.n, 16);
  ck_assert(dv_topk_push(&t, -1.0, 99) == DV_OK);
  dv_topk_sort(&t);
  ck_assert_uint_eq(t.hits[0].vid, 99);
  dv_topk_free(&t);
  ck_assert_uint_eq(n_blocks, 0);
}
END_TEST

START_TEST(k_of_zero_wants_nothing) {
  dv_topk t;
  dv_topk_init(&t, 0, &alloc);
  ck_assert(dv_topk_worst(&t) == -(double)INFINITY);
  ck_assert(dv_topk_push(&t, 0.0, 1) == DV_OK);
  ck_assert_uint_eq(t.n, 0);
  dv_topk_sort(&t);
  dv_topk_free(&t);
}
END_TEST

int main(void) {
  Suite *suite = suite_create("topk");
  TCase *tc = tcase_create("heap");
  tcase_set_timeout(tc, 0);
  tcase_add_test(tc, keeps_the_k_best_in_order);
  tcase_add_test(tc, a_huge_k_costs_nothing_until_it_fills);
  tcase_add_test(tc, no_memory_changes_nothing);
  tcase_add_test(tc, k_of_zero_wants_nothing);
  suite_add_tcase(suite, tc);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed;
}
