/*
 * dv_checksum.c: CRC-32C, three ways to the same number.
 *
 * The definition is the table version: slicing-by-8 (Intel, 2006), eight bytes a step. Where the CPU has a CRC
 * instruction it takes over; it has a latency of three cycles but starts one every cycle, so long inputs run as three
 * independent streams that a carry-less multiplication joins: shifting a CRC over n bytes is a multiplication by
 * x^(8n) mod P. Which way is taken is asked of the CPU on each call (one load and a test): no state, so no threads to
 * think of.
 */
#include "dv_checksum.h"

#include "dv_bytes.h"

#if defined(__x86_64__) && (defined(__GNUC__) || defined(__clang__))
#define CHECKSUM_HAS_SSE42 1
#include <nmmintrin.h>
#include <wmmintrin.h>
#elif defined(__ARM_FEATURE_CRC32)
#define CHECKSUM_HAS_ARMV8 1
#include <arm_acle.h>
#endif

#if defined(__wasm__)

/* Eight kilobytes that no compression makes smaller would have to be loaded before anything starts; making them takes some
 * microseconds. Modules of WebAssembly have one thread here, so a table may come to be. */
static uint32_t checksum_table[8][256];

static void checksum_make_table(void) {
  for (uint32_t i = 0; i < 256; i++) {
    uint32_t c = i;
    for (int bit = 0; bit < 8; bit++) c = c >> 1 ^ (c & 1u ? 0x82f63b78u : 0u);
    checksum_table[0][i] = c;
  }
  for (size_t j = 1; j < 8; j++) {
    for (size_t i = 0; i < 256; i++) {
      const uint32_t c = checksum_table[j - 1][i];
      checksum_table[j][i] = c >> 8 ^ checksum_table[0][c & 0xff];
    }
  }
}

static inline void checksum_need_table(void) {
  if (DV_UNLIKELY(checksum_table[7][1] == 0)) checksum_make_table();
}

#else

static inline void checksum_need_table(void) {}

/* A CRC is linear over GF(2): the table entry of a byte is the xor of the entries of its bits, so eight constants a
 * table say it all and the compiler writes out the 256. */
#define CHECKSUM_ENTRY(i, b0, b1, b2, b3, b4, b5, b6, b7)                                                              \
  (((i) & 1u ? (b0) : 0u) ^ ((i) & 2u ? (b1) : 0u) ^ ((i) & 4u ? (b2) : 0u) ^ ((i) & 8u ? (b3) : 0u) ^                 \
   ((i) & 16u ? (b4) : 0u) ^ ((i) & 32u ? (b5) : 0u) ^ ((i) & 64u ? (b6) : 0u) ^ ((i) & 128u ? (b7) : 0u))
#define CHECKSUM_ROW4(i, ...)                                                                                          \
  CHECKSUM_ENTRY((i), __VA_ARGS__), CHECKSUM_ENTRY((i) + 1u, __VA_ARGS__), CHECKSUM_ENTRY((i) + 2u, __VA_ARGS__),      \
      CHECKSUM_ENTRY((i) + 3u, __VA_ARGS__)
#define CHECKSUM_ROW16(i, ...)                                                                                         \
  CHECKSUM_ROW4((i), __VA_ARGS__), CHECKSUM_ROW4((i) + 4u, __VA_ARGS__), CHECKSUM_ROW4((i) + 8u, __VA_ARGS__),         \
      CHECKSUM_ROW4((i) + 12u, __VA_ARGS__)
#define CHECKSUM_ROW64(i, ...)                                                                                         \
  CHECKSUM_ROW16((i), __VA_ARGS__), CHECKSUM_ROW16((i) + 16u, __VA_ARGS__), CHECKSUM_ROW16((i) + 32u, __VA_ARGS__),    \
      CHECKSUM_ROW16((i) + 48u, __VA_ARGS__)
#define CHECKSUM_TABLE(...)                                                                                            \
  {CHECKSUM_ROW64(0u, __VA_ARGS__), CHECKSUM_ROW64(64u, __VA_ARGS__), CHECKSUM_ROW64(128u, __VA_ARGS__),               \
   CHECKSUM_ROW64(192u, __VA_ARGS__)}

/* checksum_table[j][byte]: the CRC of the byte followed by j zero bytes. */
static const uint32_t checksum_table[8][256] = {
    CHECKSUM_TABLE(0xf26b8303u, 0xe13b70f7u, 0xc79a971fu, 0x8ad958cfu, 0x105ec76fu, 0x20bd8edeu, 0x417b1dbcu,
                   0x82f63b78u),
    CHECKSUM_TABLE(0x13a29877u, 0x274530eeu, 0x4e8a61dcu, 0x9d14c3b8u, 0x3fc5f181u, 0x7f8be302u, 0xff17c604u,
                   0xfbc3faf9u),
    CHECKSUM_TABLE(0xa541927eu, 0x4f6f520du, 0x9edea41au, 0x38513ec5u, 0x70a27d8au, 0xe144fb14u, 0xc76580d9u,
                   0x8b277743u),
    CHECKSUM_TABLE(0xdd45aab8u, 0xbf672381u, 0x7b2231f3u, 0xf64463e6u, 0xe964b13du, 0xd725148bu, 0xaba65fe7u,
                   0x52a0c93fu),
    CHECKSUM_TABLE(0x38116facu, 0x7022df58u, 0xe045beb0u, 0xc5670b91u, 0x8f2261d3u, 0x1ba8b557u, 0x37516aaeu,
                   0x6ea2d55cu),
    CHECKSUM_TABLE(0xef306b19u, 0xdb8ca0c3u, 0xb2f53777u, 0x6006181fu, 0xc00c303eu, 0x85f4168du, 0x0e045bebu,
                   0x1c08b7d6u),
    CHECKSUM_TABLE(0x68032cc8u, 0xd0065990u, 0xa5e0c5d1u, 0x4e2dfd53u, 0x9c5bfaa6u, 0x3d5b83bdu, 0x7ab7077au,
                   0xf56e0ef4u),
    CHECKSUM_TABLE(0x493c7d27u, 0x9278fa4eu, 0x211d826du, 0x423b04dau, 0x847609b4u, 0x0d006599u, 0x1a00cb32u,
                   0x34019664u),
};

#undef CHECKSUM_ENTRY
#undef CHECKSUM_ROW4
#undef CHECKSUM_ROW16
#undef CHECKSUM_ROW64
#undef CHECKSUM_TABLE

#endif

uint32_t dv_crc32c_scalar(uint32_t crc, const void *bytes, size_t n_bytes) {
  const uint8_t *p = bytes;
  uint32_t c = ~crc;
  checksum_need_table();
  for (; n_bytes >= 8; p += 8, n_bytes -= 8) {
    const uint32_t low = c ^ dv_load_u32(p), high = dv_load_u32(p + 4);
    c = checksum_table[7][low & 0xff] ^ checksum_table[6][low >> 8 & 0xff] ^ checksum_table[5][low >> 16 & 0xff] ^
        checksum_table[4][low >> 24] ^ checksum_table[3][high & 0xff] ^ checksum_table[2][high >> 8 & 0xff] ^
        checksum_table[1][high >> 16 & 0xff] ^ checksum_table[0][high >> 24];
  }
  for (; n_bytes > 0; p++, n_bytes--) c = checksum_table[0][(c ^ *p) & 0xff] ^ c >> 8;
  return ~c;
}

#if defined(CHECKSUM_HAS_SSE42)

__attribute__((target("sse4.2"))) static uint64_t checksum_stream_sse42(uint64_t c, const uint8_t *p, size_t n_bytes) {
  for (; n_bytes >= 8; p += 8, n_bytes -= 8) c = _mm_crc32_u64(c, dv_load_u64(p));
  if (n_bytes & 4) {
    c = _mm_crc32_u32((uint32_t)c, dv_load_u32(p));
    p += 4;
  }
  if (n_bytes & 2) {
    c = _mm_crc32_u16((uint32_t)c, dv_load_u16(p));
    p += 2;
  }
  if (n_bytes & 1) c = _mm_crc32_u8((uint32_t)c, *p);
  return c;
}

/* Three neighbouring stretches of n bytes each as one. `shift_1` and `shift_2` are x^(8n-33) and x^(16n-33) mod P, bits
 * reversed: the product of two reversed polynomials comes out one place low and the instruction multiplies by x^32. */
__attribute__((target("sse4.2,pclmul"))) static uint64_t checksum_triple_sse42(uint64_t c, const uint8_t *p, size_t n,
                                                                               uint32_t shift_1, uint32_t shift_2) {
  uint64_t c1 = 0, c2 = 0;
  for (size_t i = 0; i < n; i += 8) {
    c = _mm_crc32_u64(c, dv_load_u64(p + i));
    c1 = _mm_crc32_u64(c1, dv_load_u64(p + n + i));
    c2 = _mm_crc32_u64(c2, dv_load_u64(p + 2 * n + i));
  }
  const __m128i first = _mm_clmulepi64_si128(_mm_cvtsi64_si128((long long)c), _mm_cvtsi64_si128((long long)shift_2), 0);
  const __m128i second =
      _mm_clmulepi64_si128(_mm_cvtsi64_si128((long long)c1), _mm_cvtsi64_si128((long long)shift_1), 0);
  return c2 ^ _mm_crc32_u64(0, (uint64_t)_mm_cvtsi128_si64(_mm_xor_si128(first, second)));
}

static uint32_t checksum_sse42(uint32_t crc, const uint8_t *p, size_t n_bytes) {
  const size_t large = 256, small = 64; /* bytes a stream; what joins them depends on it */
  uint64_t c = ~crc;
  if (n_bytes >= 3 * small && __builtin_cpu_supports("pclmul")) {
    for (; n_bytes >= 3 * large; p += 3 * large, n_bytes -= 3 * large)
      c = checksum_triple_sse42(c, p, large, 0xb9e02b86u, 0xdd7e3b0cu);
    for (; n_bytes >= 3 * small; p += 3 * small, n_bytes -= 3 * small)
      c = checksum_triple_sse42(c, p, small, 0x9e4addf8u, 0x0d3b6092u);
  }
  return ~(uint32_t)checksum_stream_sse42(c, p, n_bytes);
}

#elif defined(CHECKSUM_HAS_ARMV8)

static uint32_t checksum_armv8(uint32_t crc, const uint8_t *p, size_t n_bytes) {
  uint32_t c = ~crc;
  for (; n_bytes >= 8; p += 8, n_bytes -= 8) c = __crc32cd(c, dv_load_u64(p));
  for (; n_bytes > 0; p++, n_bytes--) c = __crc32cb(c, *p);
  return ~c;
}

#endif

uint32_t dv_crc32c(uint32_t crc, const void *bytes, size_t n_bytes) {
#if defined(CHECKSUM_HAS_SSE42)
  if (DV_LIKELY(__builtin_cpu_supports("sse4.2"))) return checksum_sse42(crc, bytes, n_bytes);
#elif defined(CHECKSUM_HAS_ARMV8)
  return checksum_armv8(crc, bytes, n_bytes);
#endif
  return dv_crc32c_scalar(crc, bytes, n_bytes);
}
