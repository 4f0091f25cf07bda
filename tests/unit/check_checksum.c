/*
 * check_checksum.c: CRC-32C gives the published values, and the same ones whichever way it is computed.
 */
#include "dv_checksum.h"

#include <check.h>
#include <stdlib.h>

/* ck_assert reports its place to the runner each time it is passed: in loops of millions that is all the time there
 * is. */
#define REQUIRE(x)                                                                                                     \
  do {                                                                                                                 \
    if (!(x)) ck_abort_msg("%s", "not so: " #x);                                                                       \
  } while (0)

START_TEST(published_values) {
  uint8_t bytes[32];
  uint32_t (*const crcs[])(uint32_t, const void *, size_t) = {dv_crc32c, dv_crc32c_scalar};
  for (size_t i = 0; i < 2; i++) {
    ck_assert_uint_eq(crcs[i](0, "123456789", 9), 0xE3069283u);
    memset(bytes, 0, sizeof bytes); /* the rest: RFC 3720, B.4 */
    ck_assert_uint_eq(crcs[i](0, bytes, sizeof bytes), 0x8A9136AAu);
    memset(bytes, 0xff, sizeof bytes);
    ck_assert_uint_eq(crcs[i](0, bytes, sizeof bytes), 0x62A8AB43u);
    for (size_t j = 0; j < sizeof bytes; j++) bytes[j] = (uint8_t)j;
    ck_assert_uint_eq(crcs[i](0, bytes, sizeof bytes), 0x46DD794Eu);
    for (size_t j = 0; j < sizeof bytes; j++) bytes[j] = (uint8_t)(31 - j);
    ck_assert_uint_eq(crcs[i](0, bytes, sizeof bytes), 0x113FDB5Cu);
  }
}
END_TEST

START_TEST(nothing_changes_nothing) {
  ck_assert_uint_eq(dv_crc32c(0, NULL, 0), 0);
  ck_assert_uint_eq(dv_crc32c(0x12345678u, "x", 0), 0x12345678u);
  ck_assert_uint_eq(dv_crc32c_scalar(0x12345678u, "x", 0), 0x12345678u);
}
END_TEST

/* Lengths around each step of the fast versions (8, 192, 768), at every alignment, in blocks that end where they
 * say. */
START_TEST(every_length_and_alignment_as_by_tables) {
  uint64_t seed = 1;
  for (size_t n = 0; n < 2400; n++) {
    const size_t offset = n % 9;
    uint8_t *block = malloc(offset + n + 1); /* the byte more goes in front, so that the end is exact */
    REQUIRE(block != NULL);
    uint8_t *bytes = block + 1 + offset;
    for (size_t i = 0; i < n; i++) {
      seed = seed * 6364136223846793005u + 1442695040888963407u;
      bytes[i] = (uint8_t)(seed >> 56);
    }
    const uint32_t start = (uint32_t)(seed >> 20);
    REQUIRE(dv_crc32c(start, bytes, n) == dv_crc32c_scalar(start, bytes, n));
    const size_t cut = n ? (size_t)(seed >> 33) % n : 0;
    REQUIRE(dv_crc32c(dv_crc32c(start, bytes, cut), bytes + cut, n - cut) == dv_crc32c_scalar(start, bytes, n));
    free(block);
  }
}
END_TEST

/* What a checksum is for: it finds every burst of up to 32 bits; here every flip of one bit and every changed byte. */
START_TEST(every_changed_byte_is_noticed) {
  uint8_t bytes[200];
  for (size_t i = 0; i < sizeof bytes; i++) bytes[i] = (uint8_t)(i * 37);
  const uint32_t crc = dv_crc32c(0, bytes, sizeof bytes);
  for (size_t i = 0; i < sizeof bytes; i++) {
    for (unsigned x = 1; x < 256; x++) {
      bytes[i] ^= (uint8_t)x;
      REQUIRE(dv_crc32c(0, bytes, sizeof bytes) != crc);
      bytes[i] ^= (uint8_t)x;
    }
  }
}
END_TEST

int main(void) {
  Suite *suite = suite_create("checksum");
  TCase *tc = tcase_create("crc32c");
  tcase_add_test(tc, published_values);
  tcase_add_test(tc, nothing_changes_nothing);
  tcase_add_test(tc, every_length_and_alignment_as_by_tables);
  tcase_add_test(tc, every_changed_byte_is_noticed);
  suite_add_tcase(suite, tc);
  SRunner *runner = srunner_create(suite);
  srunner_run_all(runner, CK_NORMAL);
  const int n_failed = srunner_ntests_failed(runner);
  srunner_free(runner);
  return n_failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
