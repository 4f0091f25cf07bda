/*
 * check_metric.c: distances against long double, within the error that dv_metric.h states; and the promises a user can
 * see: zero to itself, symmetric, no -0, no overflow and no underflow for any finite vectors, the same on every kernel
 * table.
 */
#include "../../core/dv_metric.h"

#include <check.h>
#include <math.h>
#include <stdio.h>

static uint64_t seed = 88172645463325252u;

static uint64_t next_random(void) {
  seed ^= seed << 13;
  seed ^= seed >> 7;
  seed ^= seed << 17;
  return seed * 2685821657736338717u;
}

static uint32_t random_below(uint32_t n) { return (uint32_t)((next_random() >> 32) * n >> 32); }
static float random_unit(void) { return (float)((double)(next_random() >> 11) * 0x1p-52 - 1.0); }

static void fill(float *v, size_t n, unsigned kind) {
  static const float sizes[] = {1.0f, 1e30f, 3e38f, 1e-30f, 1e-42f, 1e19f, 1e-19f, 1e-12f};
  for (size_t i = 0; i < n; i++) {
    v[i] = random_unit();
    if (kind < 8) v[i] *= sizes[kind];
    if (kind == 8) v[i] *= sizes[random_below(8)];
    if (kind == 9 && random_below(20)) v[i] = 0.0f;
    if (kind == 10) v[i] = 0.0f;
  }
  if (kind == 11) v[random_below((uint32_t)n)] = 1e35f;
}
enum { N_KINDS = 12 };

static const dv_metric metrics[] = {DV_L2, DV_COSINE, DV_IP, DV_L1};

/* The real distance, and how far the computed one may be from it. */
static long double true_distance(dv_metric m, const float *a, const float *b, size_t n, long double *error) {
  long double aa = 0, bb = 0, ab = 0, l2 = 0, l1 = 0, g = (long double)dv_metric_error(n);
  for (size_t i = 0; i < n; i++) {
    long double x = (long double)a[i], y = (long double)b[i];
    aa += x * x;
    bb += y * y;
    ab += x * y;
    l2 += (x - y) * (x - y);
    l1 += fabsl(x - y);
  }
  switch (m) {
  case DV_L2: *error = g * sqrtl(l2); return sqrtl(l2);
  case DV_L1: *error = g * l1; return l1;
  case DV_IP: *error = g * sqrtl(aa) * sqrtl(bb); return -ab;
  case DV_COSINE: break;
  }
  *error = 2.01L * g;
  if (aa == 0 || bb == 0) {
    *error = 0;
    return 1;
  }
  return 1 - ab / (sqrtl(aa) * sqrtl(bb));
}

START_TEST(distances_are_within_their_stated_error) {
  enum { MAX_N = 2000 };
  static float a[MAX_N], b[MAX_N];
  for (unsigned round = 0; round < 40000; round++) {
    size_t n = round % 100 == 0 ? 1 + random_below(MAX_N) : 1 + random_below(130);
    fill(a, n, random_below(N_KINDS));
    fill(b, n, random_below(N_KINDS));
    if (round % 3 == 0)
      for (size_t i = 0; i < n; i++) b[i] = a[i] * (1.0f + 1e-3f * random_unit() * (float)(round % 2));
    for (size_t m = 0; m < 4; m++) {
      long double error, known = true_distance(metrics[m], a, b, n, &error);
      double d = dv_distance(dv_kernels_get(), metrics[m], a, b, n);
      ck_assert_msg(fabsl((long double)d - known) <= error, "%s n=%zu: %.17g, not %.17Lg +- %Lg",
                    dv_metric_name(metrics[m]), n, d, known, error);
      ck_assert(d == dv_distance(&dv_kernels_scalar, metrics[m], b, a, n));
      ck_assert(d != 0.0 || !signbit(d));
      dv_query q;
      dv_query_init(&q, dv_kernels_get(), metrics[m], a, n);
      ck_assert(dv_query_distance(&q, b) == d);
      for (size_t t = 0; dv_kernels_name_at(t); t++)
        ck_assert(dv_distance(dv_kernels_named(dv_kernels_name_at(t)), metrics[m], a, b, n) == d);
    }
  }
}
END_TEST

START_TEST(a_vector_is_at_zero_from_itself) {
  float a[100];
  for (unsigned round = 0; round < 3000; round++) {
    size_t n = 1 + random_below(100);
    fill(a, n, round % N_KINDS);
    bool is_zero = true;
    for (size_t i = 0; i < n; i++) is_zero &= a[i] == 0.0f;
    ck_assert(dv_distance(dv_kernels_get(), DV_L2, a, a, n) == 0.0);
    ck_assert(dv_distance(dv_kernels_get(), DV_L1, a, a, n) == 0.0);
    ck_assert(dv_distance(dv_kernels_get(), DV_COSINE, a, a, n) == (is_zero ? 1.0 : 0.0));
  }
}
END_TEST

START_TEST(cosine_stays_between_0_and_2_and_ignores_length) {
  float a[50], b[50];
  for (unsigned round = 0; round < 3000; round++) {
    fill(a, 50, 0);
    for (size_t i = 0; i < 50; i++) b[i] = -a[i] * 0x1p-70f;
    ck_assert(dv_distance(dv_kernels_get(), DV_COSINE, a, b, 50) == 2.0);
    for (size_t i = 0; i < 50; i++) b[i] = a[i] * 3e37f;
    ck_assert_double_lt(dv_distance(dv_kernels_get(), DV_COSINE, a, b, 50), 1e-6);
    ck_assert_double_ge(dv_distance(dv_kernels_get(), DV_COSINE, a, b, 50), 0.0);
  }
}
END_TEST

START_TEST(a_zero_vector_is_at_1_by_cosine) {
  float zero[3] = {0.0f, -0.0f, 0.0f}, v[3] = {1e-40f, 3e38f, 1.0f};
  ck_assert(dv_distance(dv_kernels_get(), DV_COSINE, zero, v, 3) == 1.0);
  ck_assert(dv_distance(dv_kernels_get(), DV_COSINE, v, zero, 3) == 1.0);
  ck_assert(dv_distance(dv_kernels_get(), DV_COSINE, zero, zero, 3) == 1.0);
  ck_assert(!signbit(dv_distance(dv_kernels_get(), DV_IP, zero, v, 3)));
}
END_TEST

START_TEST(names_parse_in_any_case) {
  static const struct {
    const char *name;
    int metric; /* -1: unknown */
  } cases[] = {{"l2", DV_L2},
               {"L2", DV_L2},
               {"Cosine", DV_COSINE},
               {"COS", DV_COSINE},
               {"ip", DV_IP},
               {"dot", DV_IP},
               {"Inner_Product", DV_IP},
               {"L1", DV_L1},
               {"manhattan", DV_L1},
               {"EUCLIDEAN", DV_L2},
               {"", -1},
               {"l", -1},
               {"l22", -1},
               {"cosin", -1},
               {"hamming", -1}};
  for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
    dv_metric m = DV_L1;
    bool is_known = dv_metric_parse(cases[i].name, strlen(cases[i].name), &m);
    ck_assert_int_eq(is_known, cases[i].metric >= 0);
    if (is_known) ck_assert_int_eq((int)m, cases[i].metric);
  }
  dv_metric m;
  ck_assert(dv_metric_parse("l2 squared", 2, &m) && m == DV_L2); /* the length counts, not a terminator */
  for (size_t i = 0; i < 4; i++)
    ck_assert(dv_metric_parse(dv_metric_name(metrics[i]), strlen(dv_metric_name(metrics[i])), &m) && m == metrics[i]);
}
END_TEST

START_TEST(scores_are_larger_for_nearer) {
  ck_assert_double_eq(dv_score(DV_COSINE, 0.25), 0.75);
  ck_assert_double_eq(dv_score(DV_IP, -3.0), 3.0);
  ck_assert_double_eq(dv_score(DV_L2, 1.0), 0.5);
  ck_assert_double_eq(dv_score(DV_L1, 0.0), 1.0);
  ck_assert(!signbit(dv_score(DV_IP, 0.0)));
}
END_TEST

int main(void) {
  Suite *suite = suite_create("metric");
  TCase *tc = tcase_create("distances");
  tcase_set_timeout(tc, 0);
  tcase_add_test(tc, distances_are_within_their_stated_error);
  tcase_add_test(tc, a_vector_is_at_zero_from_itself);
  tcase_add_test(tc, cosine_stays_between_0_and_2_and_ignores_length);
  tcase_add_test(tc, a_zero_vector_is_at_1_by_cosine);
  tcase_add_test(tc, names_parse_in_any_case);
  tcase_add_test(tc, scores_are_larger_for_nearer);
  suite_add_tcase(suite, tc);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed;
}
