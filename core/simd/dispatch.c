/*
 * dispatch.c: which kernels this CPU can run. The only file that asks the CPU.
 *
 * The compiler's runtime reads CPUID (and XGETBV: whether the operating system saves the wide registers) once, before
 * main; the answer here is a pure function of that, so there is nothing to cache and nothing to race for. AArch64
 * always has NEON, and a wasm module either contains SIMD128 or does not load.
 */
#include "dv_simd.h"

typedef struct dv_kernels_choice {
  const dv_kernels *kernels;
  bool (*is_supported)(void);
} dv_kernels_choice;

static bool is_always_supported(void) { return true; }

#if defined(DV_SIMD_X86)
/* The arguments must be literals; on anything but the CPU at hand these are a load and a test. */
static bool is_avx2_supported(void) { return __builtin_cpu_supports("avx2") != 0; }

static bool is_avx512_supported(void) {
  return __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl");
}

static bool is_avx512vnni_supported(void) { return is_avx512_supported() && __builtin_cpu_supports("avx512vnni"); }
#endif

/* Slowest first. */
static const dv_kernels_choice kernel_choices[] = {
    {&dv_kernels_scalar, is_always_supported},
#if defined(DV_SIMD_X86)
    {&dv_kernels_avx2, is_avx2_supported},
    {&dv_kernels_avx512, is_avx512_supported},
    {&dv_kernels_avx512vnni, is_avx512vnni_supported},
#elif defined(DV_SIMD_NEON)
    {&dv_kernels_neon, is_always_supported},
#elif defined(DV_SIMD_WASM128)
    {&dv_kernels_wasm128, is_always_supported},
#endif
};

#define N_KERNEL_CHOICES (sizeof kernel_choices / sizeof kernel_choices[0])

const dv_kernels *dv_kernels_get(void) {
  size_t i = N_KERNEL_CHOICES - 1;
  while (!kernel_choices[i].is_supported()) i--;
  return kernel_choices[i].kernels;
}

const dv_kernels *dv_kernels_named(const char *name) {
  for (size_t i = 0; i < N_KERNEL_CHOICES; i++)
    if (strcmp(name, kernel_choices[i].kernels->name) == 0)
      return kernel_choices[i].is_supported() ? kernel_choices[i].kernels : NULL;
  return NULL;
}

const char *dv_kernels_name_at(size_t i) {
  for (size_t c = 0; c < N_KERNEL_CHOICES; c++)
    if (kernel_choices[c].is_supported() && i-- == 0) return kernel_choices[c].kernels->name;
  return NULL;
}
