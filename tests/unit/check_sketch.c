/*
 * check_sketch.c: what sketches say of a distance, against the distance.
 */
#include "../../core/dv_sketch.h"

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

static float random_normal(void) {
  double s = 0;
  for (int i = 0; i < 6; i++) s += (double)(next_random() >> 11) * 0x1p-52 - 1.0;
  return (float)(s * 0.70710678);
}

enum { MAX_N = 1536 };

typedef struct coded {
  int8_t code[MAX_N];
  dv_code_row row;
  uint8_t sketch[DV_SKETCH_BYTES];
} coded;

static void encode(coded *c, dv_metric m, const float *v, size_t n) {
  c->row = dv_code_row_of(dv_code_encode(m, v, n, c->code), c->code, n);
  dv_sketch_make(&c->row, c->code, n, c->sketch);
}

/* Mean and deviation of sketched to true distance of n_trials pairs, the second moved by `part` of the first's length in
 * n_changed components. */
static void measure(size_t n, double length, double part, size_t n_changed, double *mean, double *deviation) {
  const int n_trials = 400;
  static float x[MAX_N], y[MAX_N];
  double sum = 0, sum_sq = 0;
  for (int trial = 0; trial < n_trials; trial++) {
    coded a, b;
    double norm_sq = 0, moved_sq = 0;
    for (size_t i = 0; i < n; i++) {
      x[i] = random_normal();
      norm_sq += (double)x[i] * (double)x[i];
    }
    for (size_t i = 0; i < n; i++) x[i] = (float)((double)x[i] * length / sqrt(norm_sq));
    memcpy(y, x, n * sizeof *y);
    for (size_t i = 0; i < n_changed; i++)
      y[next_random() % n] += (float)(length * part / sqrt((double)n_changed)) * random_normal();
    for (size_t i = 0; i < n; i++) moved_sq += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
    encode(&a, DV_L2, x, n);
    encode(&b, DV_L2, y, n);
    double ratio = sqrt((double)dv_sketch_distance_sq(a.sketch, b.sketch) / moved_sq);
    sum += ratio;
    sum_sq += ratio * ratio;
  }
  *mean = sum / n_trials;
  *deviation = sqrt(sum_sq / n_trials - *mean * *mean);
}

START_TEST(tells_how_far_a_row_has_moved) {
  static const size_t sizes[] = {64, 384, 1536};
  static const double lengths[] = {1.0, 37.0, 1e-12, 1e12};
  for (size_t s = 0; s < 3; s++)
    for (size_t l = 0; l < 4; l++)
      for (int tenths = 1; tenths <= 10; tenths++) {
        double mean, deviation;
        measure(sizes[s], lengths[l], tenths / 10.0, sizes[s] / 4, &mean, &deviation);
        ck_assert_msg(fabs(mean - 1.0) < 0.12 && deviation < 0.3,
                      "%zu dimensions, length %g, moved %d/10: %.3f +- %.3f", sizes[s], lengths[l], tenths, mean,
                      deviation);
      }
}
END_TEST

START_TEST(a_change_of_one_component_is_seen) {
  double mean, deviation;
  measure(384, 1.0, 0.5, 1, &mean, &deviation);
  ck_assert_msg(fabs(mean - 1.0) < 0.12, "%.3f +- %.3f", mean, deviation);
}
END_TEST

START_TEST(the_same_row_has_not_moved) {
  for (int trial = 0; trial < 200; trial++) {
    float x[100];
    coded a, b;
    for (size_t i = 0; i < 100; i++) x[i] = random_normal();
    encode(&a, DV_COSINE, x, 100);
    for (size_t i = 0; i < 100; i++) x[i] *= 4.0f; /* to cosine that is the same */
    encode(&b, DV_COSINE, x, 100);
    ck_assert_mem_eq(a.sketch, b.sketch, DV_SKETCH_BYTES);
    ck_assert(dv_sketch_distance_sq(a.sketch, b.sketch) == 0.0f);
  }
}
END_TEST

START_TEST(zero_is_as_far_as_the_row_is_long) {
  float x[384] = {0};
  coded zero, a;
  encode(&zero, DV_L2, x, 384);
  for (size_t i = 0; i < DV_SKETCH_BYTES; i++) ck_assert_uint_eq(zero.sketch[i], 0);
  for (size_t i = 0; i < 384; i++) x[i] = random_normal();
  encode(&a, DV_L2, x, 384);
  double ratio = (double)dv_sketch_distance_sq(a.sketch, zero.sketch) / (double)a.row.norm_sq;
  ck_assert_msg(ratio > 0.2 && ratio < 3.0, "%.3f", ratio);
}
END_TEST

START_TEST(any_bytes_will_do) {
  uint8_t bytes[2][DV_SKETCH_BYTES];
  for (int trial = 0; trial < 100000; trial++) {
    for (size_t i = 0; i < sizeof bytes; i++) (&bytes[0][0])[i] = (uint8_t)(next_random() >> 32);
    float d = dv_sketch_distance_sq(bytes[0], bytes[1]);
    ck_assert(d >= 0.0f && d == d);
  }
}
END_TEST

int main(void) {
  Suite *suite = suite_create("sketch");
  TCase *tc = tcase_create("sketch");
  tcase_set_timeout(tc, 0);
  tcase_add_test(tc, tells_how_far_a_row_has_moved);
  tcase_add_test(tc, a_change_of_one_component_is_seen);
  tcase_add_test(tc, the_same_row_has_not_moved);
  tcase_add_test(tc, zero_is_as_far_as_the_row_is_long);
  tcase_add_test(tc, any_bytes_will_do);
  suite_add_tcase(suite, tc);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  int failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return failed;
}
