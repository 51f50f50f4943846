// Which instruction sets this library contains and this processor supports. This file is compiled for the processor
// family's baseline: it runs before the processor's capabilities are known.

#define SEQMEM_EXPORT extern "C" __attribute__((visibility("default")))

// The instruction sets that build.py compiles the kernels for and that both this processor and the operating system
// (which must save the wide registers) support: the best first, separated by spaces.
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

// The hash of the sources: loading.py refuses a library that was not built from the sources beside it.
SEQMEM_EXPORT const char* seqmem_source_hash(void) { return SEQMEM_SOURCE_HASH; }
