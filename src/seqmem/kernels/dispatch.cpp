// What this library holds, and what of it this processor can run. No instructions here but the processor family's
// common ones: this file is asked before anything is known about the processor.

#define SEQMEM_EXPORT extern "C" __attribute__((visibility("default")))

// The instruction sets that build.py compiles recurrence.cpp for and this processor (and its operating system, which
// must save the wide registers) can run: the best first, with spaces between.
SEQMEM_EXPORT const char* seqmem_isas(void) {
#if defined(__x86_64__)
  __builtin_cpu_init();
  const bool avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma");
  const bool avx512 = avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") &&
                      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512bw");
  return avx512 ? "avx512 avx2 baseline" : avx2 ? "avx2 baseline" : "baseline";
#elif defined(__aarch64__)
  return "neon";
#else
  return "baseline";
#endif
}

// Of the sources: a library that was built from others than those beside it is refused.
SEQMEM_EXPORT const char* seqmem_source_hash(void) { return SEQMEM_SOURCE_HASH; }
