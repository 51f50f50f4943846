// What all native kernels share: vectors of one instruction set, nonlinearities, products, threads, exported names.
//
// Each kernel source is compiled once per instruction set (SEQMEM_ISA, see build.py). Everything here has internal
// linkage, and so must everything of a source except the functions that it exports by NAME: otherwise the linker would
// merge code for a newer processor with code for an older one. No global state; no C++ runtime.

#pragma once

#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__x86_64__)
#include <immintrin.h>
#endif

#ifndef SEQMEM_ISA
#define SEQMEM_ISA baseline
#endif

#if defined(__AVX512F__)
#define VECTOR_BYTES 64
#define TILE_ROWS 6  // x 4 vectors: 24 of 32 registers hold sums
#elif defined(__AVX2__)
#define VECTOR_BYTES 32
#define TILE_ROWS 3  // x 4 vectors: 12 of 16 registers
#elif defined(__aarch64__)
#define VECTOR_BYTES 16
#define TILE_ROWS 6
#else
#define VECTOR_BYTES 16
#define TILE_ROWS 3
#endif

#if defined(__clang__)
#define UNROLL _Pragma("clang loop unroll(full)")
#else
#define UNROLL _Pragma("GCC unroll 16")
#endif
#define INLINE static inline __attribute__((always_inline))
#define INLINE_MEMBER static inline __attribute__((always_inline))
#define NOINLINE static __attribute__((noinline))
#define API extern "C" __attribute__((visibility("default")))

// The symbol of an exported function: seqmem_NAME_TYPE_ISA, with the type f32 or f64.
#define NAME2(name, type, isa) seqmem_##name##_##type##_##isa
#define NAME1(name, type, isa) NAME2(name, type, isa)
#define NAME(name, type) NAME1(name, type, SEQMEM_ISA)

namespace {

enum Failure { NONE, NO_MEMORY, NO_SUCH_TOKEN };

// V: a vector in registers or aligned on the stack. Anywhere: a vector at any address of an array, unaligned.
template <class T> struct Simd;
template <> struct Simd<float> {
  typedef float V __attribute__((vector_size(VECTOR_BYTES)));
  typedef uint32_t I __attribute__((vector_size(VECTOR_BYTES)));
  typedef float Anywhere __attribute__((vector_size(VECTOR_BYTES), aligned(4), may_alias));
  static constexpr long L = VECTOR_BYTES / 4;
};
template <> struct Simd<double> {
  typedef double V __attribute__((vector_size(VECTOR_BYTES)));
  typedef uint64_t I __attribute__((vector_size(VECTOR_BYTES)));
  typedef double Anywhere __attribute__((vector_size(VECTOR_BYTES), aligned(8), may_alias));
  static constexpr long L = VECTOR_BYTES / 8;
};
INLINE Simd<double>::V reciprocal(Simd<double>::V d) { return 1.0 / d; }
INLINE Simd<float>::V reciprocal(Simd<float>::V d) {
#if defined(__AVX512F__)
  // A 14-bit estimate and one Newton step: 1 ulp, at a fifth of the cost of a division. d is normal and finite, or NaN.
  Simd<float>::V guess = (Simd<float>::V)_mm512_maskz_rcp14_ps((__mmask16)-1, (__m512)d);
  return guess * (2.0f - d * guess);
#else
  return 1.0f / d;
#endif
}

// The larger of both in one instruction, which compilers do not make of a comparison. x may be NaN, and stays NaN.
INLINE Simd<float>::V at_least(Simd<float>::V x, float limit) {
#if defined(__AVX512F__)
  return (Simd<float>::V)_mm512_max_ps(_mm512_set1_ps(limit), (__m512)x);
#elif defined(__AVX2__)
  return (Simd<float>::V)_mm256_max_ps(_mm256_set1_ps(limit), (__m256)x);
#else
  return x < limit ? limit - Simd<float>::V{} : x;
#endif
}
INLINE Simd<double>::V at_least(Simd<double>::V x, double limit) {
#if defined(__AVX512F__)
  return (Simd<double>::V)_mm512_max_pd(_mm512_set1_pd(limit), (__m512d)x);
#elif defined(__AVX2__)
  return (Simd<double>::V)_mm256_max_pd(_mm256_set1_pd(limit), (__m256d)x);
#else
  return x < limit ? limit - Simd<double>::V{} : x;
#endif
}

#define V typename Simd<T>::V
#define LANES Simd<T>::L

template <class T> INLINE V load(const T* p) { return *(const typename Simd<T>::Anywhere*)p; }
template <class T> INLINE void store(T* p, V v) { *(typename Simd<T>::Anywhere*)p = v; }
// Spelled out, so that it compiles to one broadcast load; `V{} + value` would cost an addition.
template <int N> struct Splat;
template <> struct Splat<2> { template <class W, class T> INLINE_MEMBER W of(T v) { return W{v, v}; } };
template <> struct Splat<4> { template <class W, class T> INLINE_MEMBER W of(T v) { return W{v, v, v, v}; } };
template <> struct Splat<8> {
  template <class W, class T> INLINE_MEMBER W of(T v) { return W{v, v, v, v, v, v, v, v}; }
};
template <> struct Splat<16> {
  template <class W, class T> INLINE_MEMBER W of(T v) { return W{v, v, v, v, v, v, v, v, v, v, v, v, v, v, v, v}; }
};
template <class T> INLINE V splat(T value) { return Splat<LANES>::template of<V, T>(value); }

// The last vector of a row may extend beyond the row: n is the number of lanes within it.
template <class T> INLINE V load_some(const T* p, long n) {
  if (__builtin_expect(n >= LANES, 1)) return load<T>(p);
  T lanes[LANES] = {};
  for (long i = 0; i < n; i++) lanes[i] = p[i];
  return load<T>(lanes);
}
template <class T> INLINE void store_some(T* p, V v, long n) {
  if (__builtin_expect(n >= LANES, 1)) return store<T>(p, v);
  T lanes[LANES];
  store<T>(lanes, v);
  for (long i = 0; i < n; i++) p[i] = lanes[i];
}

// ---- nonlinearities -------------------------------------------------------------------------------------------------
// expm1(r) = r + r^2 q(r) for |r| <= ln 2 / 2; q interpolates at Chebyshev nodes. Relative error 1e-8 and 2e-17.

template <class T> struct Exp;
template <> struct Exp<float> {
  static constexpr float Q[] = {0.5f, 0.166665763055606383f, 0.0416665537625676384f, 0.00836329275303060231f,
                                0.00139263256181334621f};
  static constexpr float LOG2E = 1.44269504088896341f, LN2_HIGH = 0.693145751953125f, LN2_LOW = 1.42860677e-6f;
  static constexpr float MAGIC = 12582912.0f;  // 1.5 * 2^23: adding it rounds to an integer, in the low bits
  static constexpr int MANTISSA = 23;
  static constexpr float LARGEST = 87.0f;      // beyond it e^x leaves the normal numbers
  static constexpr float FLAT = 20.0f;         // beyond it tanh(x / 2) rounds to 1
};
template <> struct Exp<double> {
  static constexpr double Q[] = {0.500000000000000104, 0.166666666666666675, 0.0416666666666234768,
                                 0.00833333333333001176, 0.00138888889175382958, 0.000198412698633032233,
                                 0.0000248015207925726928, 2.75572680728900983e-6, 2.76203274282682382e-7,
                                 2.51005692758136826e-8};
  static constexpr double LOG2E = 1.44269504088896341, LN2_HIGH = 0.693147180369123816490,
                          LN2_LOW = 1.90821492927058770002e-10;
  static constexpr double MAGIC = 6755399441055744.0;  // 1.5 * 2^52
  static constexpr int MANTISSA = 52;
  static constexpr double LARGEST = 708.0;
  static constexpr double FLAT = 40.0;
};

template <class T, class A, class B> INLINE V pick(A condition, B yes, V no) { return condition ? (V)yes : no; }

// Comparisons with NaN are false, so NaN stays NaN.
template <class T> INLINE V clamp(V x, T limit) {
  x = x > limit ? splat<T>(limit) : x;
  return x < -limit ? splat<T>(-limit) : x;
}

// With x = n ln 2 + r: power = 2^n and expm1 = e^r - 1.
template <class T> INLINE void split_exp(V x, V& power, V& expm1) {
  using E = Exp<T>;
  typedef typename Simd<T>::I I;
  V shifted = x * E::LOG2E + E::MAGIC;
  V n = shifted - E::MAGIC;
  V r = x - n * E::LN2_HIGH;
  r = r - n * E::LN2_LOW;
  constexpr int degree = sizeof(E::Q) / sizeof(T) - 1;
  V q = splat<T>(E::Q[degree]);
  UNROLL for (int i = degree - 1; i >= 0; i--) q = q * r + E::Q[i];
  expm1 = q * (r * r) + r;
  power = (V)(((I)shifted << E::MANTISSA) + (I)splat<T>(T(1)));
}

// e^x; 0 below the normal numbers, e^LARGEST above them.
template <class T> INLINE V exp_(V x) {
  V power, expm1;
  split_exp<T>(clamp<T>(x, Exp<T>::LARGEST), power, expm1);
  return pick<T>(x < -Exp<T>::LARGEST, V{}, power * expm1 + power);
}

template <class T> INLINE V sigmoid(V x) {
  V power, expm1;
  split_exp<T>(clamp<T>(-x, Exp<T>::LARGEST), power, expm1);
  return reciprocal(T(1) + (power * expm1 + power));
}

// (e^2x - 1) / (e^2x + 1), without cancellation near 0.
template <class T> INLINE V tanh_(V x) {
  V power, expm1;
  split_exp<T>(clamp<T>(x + x, Exp<T>::FLAT * 2), power, expm1);
  V e = power * expm1 + (power - T(1));
  return e * reciprocal(e + T(2));
}

// ---- products -------------------------------------------------------------------------------------------------------

// sums[m][OFFSET + j] += left(m) * right[j], j < N.
template <class T, int MR, int NV, int N, int OFFSET, class Left>
INLINE void add_products(V (&sums)[MR][NV], const Left& left, const T* right) {
#if TILE_ROWS == 3
  // 12 sums leave four of 16 registers: three for the left factors, and one for each vector of the right in turn.
  V factors[MR];
  UNROLL for (int m = 0; m < MR; m++) factors[m] = splat<T>(left(m));
  UNROLL for (int j = 0; j < N; j++) {
    V row = load<T>(right + j * LANES);
    UNROLL for (int m = 0; m < MR; m++) sums[m][OFFSET + j] += factors[m] * row;
  }
#else
  V row[N];
  UNROLL for (int j = 0; j < N; j++) row[j] = load<T>(right + j * LANES);
  UNROLL for (int m = 0; m < MR; m++) {
    V factor = splat<T>(left(m));
    UNROLL for (int j = 0; j < N; j++) sums[m][OFFSET + j] += factor * row[j];
  }
#endif
}

// sums[m][OFFSET + j] += sum over k of a[m][k] * b[k][j], j < N. b is packed, so it is read sequentially.
template <class T, int MR, int NV, int N, int OFFSET>
INLINE void multiply(V (&sums)[MR][NV], const T* a, long stride, long K, const T* b) {
  const T* a3 = a + 3 * stride;  // two base pointers and one stride address six rows without further arithmetic
  for (long k = 0; k < K; k++, b += N * LANES)
    add_products<T, MR, NV, N, OFFSET>(sums, [&](int m) { return m < 3 ? a[m * stride + k] : a3[(m - 3) * stride + k]; }, b);
}

// The rows of a product are cut into tiles; a tile's height is a template argument, so that its sums stay in registers.
#define TILES(function, rows, ...)                    \
  switch (rows) {                                     \
    case 1: function<T, 1>(__VA_ARGS__); break;       \
    case 2: function<T, 2>(__VA_ARGS__); break;       \
    case 3: function<T, 3>(__VA_ARGS__); break;       \
    TILES_WIDE(function, __VA_ARGS__)                 \
  }
#if TILE_ROWS == 6
#define TILES_WIDE(function, ...)                     \
    case 4: function<T, 4>(__VA_ARGS__); break;       \
    case 5: function<T, 5>(__VA_ARGS__); break;       \
    default: function<T, 6>(__VA_ARGS__); break;
#else
#define TILES_WIDE(function, ...)
#endif

// Loop over the rows of a chunk in tiles of nearly equal height, at most TILE_ROWS each.
#define FOR_TILES(M, row, rows)                                                              \
  for (long tiles_ = ((M) + TILE_ROWS - 1) / TILE_ROWS, tile_ = 0, row, rows;                \
       tile_ < tiles_ && (row = (M) * tile_ / tiles_, rows = (M) * (tile_ + 1) / tiles_ - row, true); tile_++)

// ---- memory, norms --------------------------------------------------------------------------------------------------

template <class T> T* scratch(long numbers) {
  void* memory = nullptr;
  return posix_memalign(&memory, 64, (numbers ? numbers : 1) * sizeof(T)) ? nullptr : (T*)memory;
}

// L2 norm. If squares would overflow or underflow, values are scaled by the largest one first.
template <class T> T norm(const T* values, long n) {
  constexpr T low = sizeof(T) == 8 ? T(1e-280) : T(1e-28), high = sizeof(T) == 8 ? T(1e300) : T(1e36);
  V sums{};
  for (long i = 0; i < n; i += LANES) {
    V v = load_some<T>(values + i, n - i);
    sums += v * v;
  }
  T total = 0;
  for (long l = 0; l < LANES; l++) total += sums[l];
  if (__builtin_expect(total > low && total < high, 1)) return T(__builtin_sqrt(total));
  T largest = 0;
  for (long i = 0; i < n; i++) {
    T size = values[i] < 0 ? -values[i] : values[i];
    largest = size > largest ? size : largest;
  }
  if (!(largest > 0 && largest * T(0) == 0)) return T(__builtin_sqrt(total));  // zero, infinite or NaN
  total = 0;
  for (long i = 0; i < n; i++) total += (values[i] / largest) * (values[i] / largest);
  return T(__builtin_sqrt(total)) * largest;
}

// ---- threads --------------------------------------------------------------------------------------------------------

template <class Call> struct Team {
  const Call* call;
  int (*work)(const Call&, long);
  long chunks;
  long next;    // the next chunk of the queue
  int failed;
#if defined(__x86_64__)
  unsigned control;  // the caller's rounding mode, and whether it flushes denormals to zero
#elif defined(__aarch64__)
  uint64_t control;
#endif
};

template <class Call> void take_chunks(Team<Call>* team) {
  for (;;) {
    long chunk = __atomic_fetch_add(&team->next, 1, __ATOMIC_RELAXED);
    if (chunk >= team->chunks) return;
    if (int failure = team->work(*team->call, chunk)) __atomic_store_n(&team->failed, failure, __ATOMIC_RELAXED);
  }
}

template <class Call> void* helper(void* given) {
  Team<Call>* team = (Team<Call>*)given;
#if defined(__x86_64__)
  _mm_setcsr(team->control);
#elif defined(__aarch64__)
  __asm__ volatile("msr fpcr, %0" ::"r"(team->control));
#endif
  take_chunks(team);
  return nullptr;
}

// Run all chunks on call->threads threads and return a Failure. If a thread cannot start, the others do its work.
template <class Call> int run(const Call* call, int (*work)(const Call&, long), long chunks) {
  constexpr long MOST = 64;
  Team<Call> team{call, work, chunks, 0, 0, 0};
#if defined(__x86_64__)
  team.control = _mm_getcsr();
#elif defined(__aarch64__)
  __asm__ volatile("mrs %0, fpcr" : "=r"(team.control));
#endif
  long helpers = (call->threads < chunks ? call->threads : chunks) - 1;
  helpers = helpers < 0 ? 0 : helpers > MOST ? MOST : helpers;
  pthread_t threads[MOST];
  long started = 0;
  if (helpers) {
    sigset_t all, before;  // helpers block all signals: Python handles them in its main thread
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &before);
    while (started < helpers && !pthread_create(&threads[started], nullptr, helper<Call>, &team)) started++;
    pthread_sigmask(SIG_SETMASK, &before, nullptr);
  }
  take_chunks(&team);
  for (long i = 0; i < started; i++) pthread_join(threads[i], nullptr);
  return team.failed;
}

}  // namespace
