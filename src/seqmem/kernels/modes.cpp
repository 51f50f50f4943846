// Units with many states each, linear over time and independent of each other: S4D's modes and Mamba's selective memory,
// over a whole sequence, forward and backward, on one instruction set.
//
// Compiled once per instruction set (see simd.hpp). States are never written for all timesteps: a block of a few of them
// goes through one state of L units after the other, which stays in registers meanwhile, while what the block reads and
// writes stays in the first-level cache. The states between blocks are kept; the backward pass computes a block's again.
//
// A batch is cut into chunks of at most 16 sequences, independent of the number of threads. Sums are accumulated in one
// order, so that the bits do not depend on the number of threads, nor on a cut between two blocks.
//
// Names: T timesteps, B sequences, H units, N states (or modes, of two numbers) per unit, E numbers of a unit's state, Q
// parameters per state, L lanes of a vector, P vectors of units, M sequences of a chunk, K blocks. If H is at least L,
// the last vector ends at the last unit and overlaps the one before: both compute the same numbers for the same units.

#include "simd.hpp"

// One call: a layer over T timesteps. Pointers may be null only where noted. modes.py mirrors this structure.
struct SeqmemModes {
  int64_t kind;  // Kind
  int64_t T, B, H, N;
  int64_t threads;
  int64_t first;           // the first timestep whose y is asked for
  const void* u;           // [T B H]
  const void* rate;        // selective: dt [T B H]
  const void* write;       // selective: B [T B N]
  const void* read;        // selective: C [T B N]
  const void* parameters;  // [Q N H]. Turning: a, b and c, each its real and then its imaginary part; selective: A
  void* edges;             // [K + 1, B E H]: the states before each block, and the last ones. In: the first row
  void* y;                 // [T - first, B H]; likewise grad_y
  const void* grad_y;      // null: zero
  void* carry;             // [B E H], in and out: dL/ds of the final states, then of the initial ones
  void* grad_u;            // [T B H]
  void* grad_rate;         // selective: [T B H]
  void* grad_write;        // selective: [T B N]
  void* grad_read;         // selective: [T B N]
  void* grad_parameters;   // [chunks, Q N P L], sums
};

namespace {

enum Kind { TURNING, SELECTIVE };

constexpr long CHUNK = 16;  // most sequences in a chunk
constexpr long BLOCK = 32;  // timesteps

template <class T> struct Layout {
  long T_, B, H, N, P, n, b0, M, chunks, blocks;
  explicit Layout(const SeqmemModes& call) : T_(call.T), B(call.B), H(call.H), N(call.N) {
    P = (H + LANES - 1) / LANES;
    n = H < LANES ? H : LANES;
    chunks = (B + CHUNK - 1) / CHUNK;
    blocks = (T_ + BLOCK - 1) / BLOCK;
  }
  void choose(long chunk) { b0 = B * chunk / chunks, M = B * (chunk + 1) / chunks - b0; }
  long unit(long p) const { return H < LANES ? 0 : p * LANES < H - LANES ? p * LANES : H - LANES; }
  // 1 in the lanes of a vector that are units of no earlier one, else 0.
  V own(long p) const {
    T lanes[LANES];
    for (long i = 0; i < LANES; i++) lanes[i] = unit(p) + i >= p * LANES && unit(p) + i < H;
    return load<T>(lanes);
  }
};

// What a block of one sequence reads and writes, of L units.
template <class T> struct Block {
  V u[BLOCK], y[BLOCK], rate[BLOCK], entering[BLOCK];        // entering: rate * u
  V dy[BLOCK], du[BLOCK], d_rate[BLOCK], d_entering[BLOCK];  // gradients
  V first[BLOCK + 1], second[BLOCK + 1], keep[BLOCK];        // a state (its two parts) before each timestep
};

// One mode of L units: a, b and c of `q`, a number's parts real, imag.
template <class T> struct Turning {
  static constexpr long E = 2, Q = 6;  // numbers of a state, parameters
  template <int W, bool ASKED>
  INLINE_MEMBER void forward(const SeqmemModes&, Block<T>& k, long steps, long, long, const V (*q)[Q], V (*s)[E]) {
    for (long t = 0; t < steps; t++) {
      V y = k.y[t];
      UNROLL for (int w = 0; w < W; w++) {
        V real = q[w][0] * s[w][0] + (q[w][2] * k.u[t] - q[w][1] * s[w][1]);
        s[w][1] = q[w][1] * s[w][0] + (q[w][3] * k.u[t] + q[w][0] * s[w][1]);
        s[w][0] = real;
        if (ASKED) y += q[w][4] * real - q[w][5] * s[w][1];
      }
      if (ASKED) k.y[t] = y;
    }
  }
  template <bool ASKED>
  INLINE_MEMBER void backward(const SeqmemModes&, Block<T>& k, long steps, long, long, const V* q, const V* s, V* d, V* dq,
                              V*, V*) {
    k.first[0] = s[0], k.second[0] = s[1];
    for (long t = 0; t < steps; t++) {
      k.first[t + 1] = q[0] * k.first[t] + (q[2] * k.u[t] - q[1] * k.second[t]);
      k.second[t + 1] = q[1] * k.first[t] + (q[3] * k.u[t] + q[0] * k.second[t]);
    }
    V real = d[0], imag = d[1];
    for (long t = steps - 1; t >= 0; t--) {
      V dy = k.dy[t], u = k.u[t];
      if (ASKED) {
        dq[4] += dy * k.first[t + 1], dq[5] -= dy * k.second[t + 1];
        real += dy * q[4], imag -= dy * q[5];
      }
      dq[2] += real * u, dq[3] += imag * u;
      dq[0] += real * k.first[t] + imag * k.second[t];
      dq[1] += imag * k.first[t] - real * k.second[t];
      k.du[t] += real * q[2] + imag * q[3];
      V r = q[0] * real + q[1] * imag;
      imag = q[0] * imag - q[1] * real;
      real = r;
    }
    d[0] = real, d[1] = imag;
  }
};

// One number of the memory of L units. `row`: of the block's first timestep in the arrays [T B].
template <class T> struct Selective {
  static constexpr long E = 1, Q = 1;
  template <int W, bool ASKED>
  INLINE_MEMBER void forward(const SeqmemModes& call, Block<T>& k, long steps, long row, long n, const V (*q)[Q], V (*s)[E]) {
    const T *write = (const T*)call.write + row * call.N + n, *read = (const T*)call.read + row * call.N + n;
    for (long t = 0; t < steps; t++, write += call.B * call.N, read += call.B * call.N) {
      V y = k.y[t];
      UNROLL for (int w = 0; w < W; w++) {
        s[w][0] = exp_<T>(k.rate[t] * q[w][0]) * s[w][0] + k.entering[t] * write[w];
        if (ASKED) y += s[w][0] * read[w];
      }
      if (ASKED) k.y[t] = y;
    }
  }
  template <bool ASKED>
  INLINE_MEMBER void backward(const SeqmemModes& call, Block<T>& k, long steps, long row, long n, const V* q, const V* s,
                              V* d, V* dq, V* by_write, V* by_read) {
    const long step = call.B * call.N;
    const T *write = (const T*)call.write + row * call.N + n, *read = (const T*)call.read + row * call.N + n;
    k.first[0] = s[0];
    for (long t = 0; t < steps; t++) {
      k.keep[t] = exp_<T>(k.rate[t] * q[0]);
      k.first[t + 1] = k.keep[t] * k.first[t] + k.entering[t] * write[t * step];
    }
    V g = d[0];
    for (long t = steps - 1; t >= 0; t--) {
      if (ASKED) {
        by_read[t] += k.dy[t] * k.first[t + 1];
        g += k.dy[t] * read[t * step];
      }
      by_write[t] += g * k.entering[t];
      k.d_entering[t] += g * write[t * step];
      g *= k.keep[t];
      V log = g * k.first[t];
      k.d_rate[t] += log * q[0];
      dq[0] += log * k.rate[t];
    }
    d[0] = g;
  }
};

template <class T> INLINE void read_block(const SeqmemModes& call, const Layout<T>& l, Block<T>& k, long row, long steps, long unit) {
  for (long t = 0; t < steps; t++) {
    const long at = (row + t * l.B) * l.H + unit;
    k.u[t] = load_some<T>((const T*)call.u + at, l.n);
    if (call.rate) {
      k.rate[t] = load_some<T>((const T*)call.rate + at, l.n);
      k.entering[t] = k.rate[t] * k.u[t];
    }
  }
}

// The first timestep of a block whose y is asked for; if there is none, its number of timesteps.
INLINE long asked_from(const SeqmemModes& call, long begin, long steps) {
  const long first = call.first - begin;
  return first < 0 ? 0 : first < steps ? first : steps;
}

// W states, from one edge of a block to the next.
template <template <class> class Cell, class T, int W, bool ASKED>
INLINE void advance(const SeqmemModes& call, const Layout<T>& l, Block<T>& k, long steps, long row, long n, long unit,
                    const T* old, T* edge) {
  using C = Cell<T>;
  V q[W][C::Q], s[W][C::E];
  UNROLL for (int w = 0; w < W; w++) {
    UNROLL for (int i = 0; i < C::Q; i++)
      q[w][i] = load_some<T>((const T*)call.parameters + (i * l.N + n + w) * l.H + unit, l.n);
    UNROLL for (int i = 0; i < C::E; i++) s[w][i] = load_some<T>(old + (i * l.N + n + w) * l.H + unit, l.n);
  }
  C::template forward<W, ASKED>(call, k, steps, row, n, q, s);
  UNROLL for (int w = 0; w < W; w++)
    UNROLL for (int i = 0; i < C::E; i++) store_some<T>(edge + (i * l.N + n + w) * l.H + unit, s[w][i], l.n);
}

template <template <class> class Cell, class T> int forward_chunk(const SeqmemModes& call, long chunk) {
  using C = Cell<T>;
  Layout<T> l(call);
  l.choose(chunk);
  Block<T> k;
  const long wide = C::E * l.N * l.H;
  for (long block = 0; block < l.blocks; block++)
    for (long m = 0; m < l.M; m++) {
      const long begin = block * BLOCK, steps = l.T_ - begin < BLOCK ? l.T_ - begin : BLOCK;
      const long row = begin * l.B + l.b0 + m;
      T *old = (T*)call.edges + (block * l.B + l.b0 + m) * wide, *edge = old + l.B * wide;
      for (long p = 0; p < l.P; p++) {
        const long unit = l.unit(p);
        read_block(call, l, k, row, steps, unit);
        for (long t = 0; t < steps; t++) k.y[t] = V{};
        const long asked = asked_from(call, begin, steps);
        long n = 0;
        for (; n + 2 <= l.N; n += 2)
          asked < steps ? advance<Cell, T, 2, true>(call, l, k, steps, row, n, unit, old, edge)
                        : advance<Cell, T, 2, false>(call, l, k, steps, row, n, unit, old, edge);
        if (n < l.N)
          asked < steps ? advance<Cell, T, 1, true>(call, l, k, steps, row, n, unit, old, edge)
                        : advance<Cell, T, 1, false>(call, l, k, steps, row, n, unit, old, edge);
        for (long t = asked; t < steps; t++)
          store_some<T>((T*)call.y + (row + (t - call.first) * l.B) * l.H + unit, k.y[t], l.n);
      }
    }
  return NONE;
}

template <class T> INLINE T total(V v) {
  T lanes[LANES], sum = 0;
  store<T>(lanes, v);
  for (long i = 0; i < LANES; i++) sum += lanes[i];
  return sum;
}

template <template <class> class Cell, class T> int backward_chunk(const SeqmemModes& call, long chunk) {
  using C = Cell<T>;
  Layout<T> l(call);
  l.choose(chunk);
  Block<T> k;
  const long wide = C::E * l.N * l.H, each = C::E * l.N * LANES;
  // Carries [M P E N L]; gradients by what is written and read, summed over the units of all vectors: [2 N BLOCK L]
  T* memory = scratch<T>(l.M * l.P * each + 2 * l.N * BLOCK * LANES);
  if (!memory) return NO_MEMORY;
  V *carries = (V*)memory, *by_write = (V*)(memory + l.M * l.P * each), *by_read = by_write + l.N * BLOCK;
  for (long m = 0; m < l.M; m++)
    for (long p = 0; p < l.P; p++)
      for (long i = 0; i < C::E * l.N; i++)
        carries[(m * l.P + p) * C::E * l.N + i] =
            load_some<T>((const T*)call.carry + (l.b0 + m) * wide + i * l.H + l.unit(p), l.n);
  V* sums = (V*)((T*)call.grad_parameters + chunk * C::Q * l.N * l.P * LANES);
  for (long block = l.blocks - 1; block >= 0; block--)
    for (long m = 0; m < l.M; m++) {
      const long begin = block * BLOCK, steps = l.T_ - begin < BLOCK ? l.T_ - begin : BLOCK;
      const long row = begin * l.B + l.b0 + m;
      const T* old = (const T*)call.edges + (block * l.B + l.b0 + m) * wide;
      for (long i = 0; i < 2 * l.N * BLOCK; i++) by_write[i] = V{};
      for (long p = 0; p < l.P; p++) {
        const long unit = l.unit(p);
        const V own = l.own(p);
        const long asked = call.grad_y ? asked_from(call, begin, steps) : steps;
        read_block(call, l, k, row, steps, unit);
        for (long t = 0; t < steps; t++) {
          k.dy[t] = V{};
          if (t >= asked) k.dy[t] = load_some<T>((const T*)call.grad_y + (row + (t - call.first) * l.B) * l.H + unit, l.n);
          k.du[t] = k.d_rate[t] = k.d_entering[t] = V{};
        }
        for (long n = 0; n < l.N; n++) {
          V q[C::Q], s[C::E], d[C::E], dq[C::Q], of_write[BLOCK], of_read[BLOCK];
          UNROLL for (int i = 0; i < C::Q; i++) {
            q[i] = load_some<T>((const T*)call.parameters + (i * l.N + n) * l.H + unit, l.n);
            dq[i] = sums[(i * l.N + n) * l.P + p];
          }
          V* now = carries + (m * l.P + p) * C::E * l.N + n;
          UNROLL for (int i = 0; i < C::E; i++) {
            s[i] = load_some<T>(old + (i * l.N + n) * l.H + unit, l.n);
            d[i] = now[i * l.N];
          }
          if (call.rate)
            for (long t = 0; t < steps; t++) of_write[t] = of_read[t] = V{};
          if (asked < steps)
            C::template backward<true>(call, k, steps, row, n, q, s, d, dq, of_write, of_read);
          else
            C::template backward<false>(call, k, steps, row, n, q, s, d, dq, of_write, of_read);
          UNROLL for (int i = 0; i < C::Q; i++) sums[(i * l.N + n) * l.P + p] = dq[i];
          UNROLL for (int i = 0; i < C::E; i++) now[i * l.N] = d[i];
          if (call.rate)
            for (long t = 0; t < steps; t++) {
              by_write[n * BLOCK + t] += own * of_write[t];
              by_read[n * BLOCK + t] += own * of_read[t];
            }
        }
        for (long t = 0; t < steps; t++) {
          const long at = (row + t * l.B) * l.H + unit;
          store_some<T>((T*)call.grad_u + at, k.du[t] + (call.rate ? k.d_entering[t] * k.rate[t] : V{}), l.n);
          if (call.rate) store_some<T>((T*)call.grad_rate + at, k.d_rate[t] + k.d_entering[t] * k.u[t], l.n);
        }
      }
      if (call.rate)
        for (long t = 0; t < steps; t++)
          for (long n = 0; n < l.N; n++) {
            ((T*)call.grad_write)[(row + t * l.B) * l.N + n] = total<T>(by_write[n * BLOCK + t]);
            ((T*)call.grad_read)[(row + t * l.B) * l.N + n] = total<T>(by_read[n * BLOCK + t]);
          }
    }
  for (long m = 0; m < l.M; m++)
    for (long p = 0; p < l.P; p++)
      for (long i = 0; i < C::E * l.N; i++)
        store_some<T>((T*)call.carry + (l.b0 + m) * wide + i * l.H + l.unit(p),
                      carries[(m * l.P + p) * C::E * l.N + i], l.n);
  free(memory);
  return NONE;
}

// The chunks' sums, [chunks, rows P L], in one: [rows H].
template <class T> void reduce(const SeqmemModes& call, long rows, const T* sums, T* out) {
  Layout<T> l(call);
  for (long row = 0; row < rows; row++)
    for (long p = 0; p < l.P; p++, sums += LANES) {
      V sum = load<T>(sums);
      for (long c = 1; c < l.chunks; c++) sum += load<T>(sums + c * rows * l.P * LANES);
      store_some<T>(out + row * l.H + l.unit(p), sum, l.n);
    }
}

}  // namespace

// modes_sizes: the timesteps of a block, the units in whole vectors, the chunks.
#define EXPORT(T, type)                                                                                          \
  API void NAME(modes_sizes, type)(const SeqmemModes* call, int64_t* out) {                                      \
    Layout<T> l(*call);                                                                                          \
    out[0] = BLOCK, out[1] = l.P * Simd<T>::L, out[2] = l.chunks;                                                \
  }                                                                                                              \
  API int64_t NAME(modes_forward, type)(const SeqmemModes* call) {                                               \
    auto work = call->kind == TURNING ? forward_chunk<Turning, T> : forward_chunk<Selective, T>;                 \
    return run(call, work, Layout<T>(*call).chunks);                                                             \
  }                                                                                                              \
  API int64_t NAME(modes_backward, type)(const SeqmemModes* call) {                                              \
    auto work = call->kind == TURNING ? backward_chunk<Turning, T> : backward_chunk<Selective, T>;               \
    return run(call, work, Layout<T>(*call).chunks);                                                             \
  }                                                                                                              \
  API void NAME(modes_reduce, type)(const SeqmemModes* call, int64_t rows, const T* sums, T* out) {              \
    reduce<T>(*call, rows, sums, out);                                                                           \
  }

EXPORT(float, f32)
EXPORT(double, f64)
