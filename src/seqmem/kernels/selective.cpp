// Mamba's selective memory over a whole sequence, forward and backward, on one instruction set: the short convolution
//
//     u_t = silu(bias + sum over j < K of taps_j v_{t - K + 1 + j})
//
// and, from u and rows (l, B, C) of it that one product made, the recurrence of N numbers for each unit
//
//     dt_t = softplus(W l_t + b)
//     h_t  = exp(dt_t A) h_{t-1} + dt_t u_t B_t
//     y_t  = sum over N of C_t h_t + D u_t
//
// Compiled once per instruction set (see simd.hpp). States are never written for all timesteps: a block of a few of them
// goes through two numbers of L units after the other, which stay in registers meanwhile, while what the block reads and
// writes stays in the first-level cache. The states between blocks are kept; the backward pass computes a block's again,
// and everything that is a function of u at one timestep (dt, its slope). A lane is a unit.
//
// A batch is cut into chunks of at most 16 sequences, independent of the number of threads. Sums are accumulated in one
// order, so that the bits do not depend on the number of threads, nor on a cut between two blocks.
//
// Names: T timesteps, B sequences, H units, N numbers of a unit's memory, R numbers of l, S = R + 2 N of a row, L lanes of a
// vector, P vectors of units, M sequences of a chunk. If H is at least L, the last vector ends at the last unit and
// overlaps the one before: both compute the same numbers for the same units.

#include "simd.hpp"

// One call: T timesteps. Pointers may be null only where noted. selective.py mirrors these structures.
struct SeqmemSelective {
  int64_t T, B, H, N, R;
  int64_t threads;
  int64_t first;           // the first timestep whose y is asked for
  const void* u;           // [T B H]
  const void* rows;        // [T B S]: l, B, C
  const void* rate;        // [R + 1, H]: W, b
  const void* decay;       // [N H]: A, at most 0
  const void* past;        // [H]: D
  void* edges;             // [blocks + 1, B N H]: the states before each block, and the last ones. In: the first row
  void* y;                 // [T - first, B H]; likewise grad_y
  const void* grad_y;      // null: zero
  void* carry;             // [B N H], in and out: dL/dh of the final states, then of the initial ones
  void* grad_u;            // [T B H], without what comes by the rows
  void* grad_rows;         // [T B S]
  void* grad_parameters;   // [chunks, N + R + 2 rows, P L], sums: of decay, rate, past
};

struct SeqmemConvolution {
  int64_t T, B, H, K;
  int64_t threads;
  int64_t W;               // rows of the table; 0: no tokens
  const void* v;           // [T B H]; or with a table tokens [T B], int64
  const void* table;       // [V H]: v of each token
  const void* before;      // [K - 1, B H]: v of the timesteps before
  const void* taps;        // [K + 1, H]: the present timestep's is the last but one, then the bias
  void* u;                 // [T B H]
  const void* grad_u;      // [T B H]
  void* grad_v;            // [T B H]; null: not requested, or with a table
  void* grad_before;       // [K - 1, B H]
  void* grad_parameters;   // [chunks, K + 1 + W rows, P L], sums: of taps, table
};

namespace {

constexpr long CHUNK = 16;  // most sequences in a chunk
constexpr long BLOCK = 32;  // timesteps

template <class T> struct Layout {
  long T_, B, H, P, n, b0, M, chunks, blocks;
  template <class Call> explicit Layout(const Call& call) : T_(call.T), B(call.B), H(call.H) {
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

// ---- nonlinearities -------------------------------------------------------------------------------------------------

template <class T> struct Powers;
template <> struct Powers<float> {
  // 2^f = 1 + f q(f) for |f| <= 1/2; q interpolates at Chebyshev nodes. Relative error 5e-9 and 1e-19.
  static constexpr float Q[] = {0.693147188026228781f, 0.240226507605681269f, 0.0555035711421907782f,
                                0.00961808255727785149f, 0.00133908633646712344f, 0.000154531629451206902f};
  static constexpr float BIAS = 127.0f;
  static constexpr int SERIES = 8;  // terms of log1p
};
template <> struct Powers<double> {
  static constexpr double Q[] = {0.693147180559945309, 0.240226506959100712, 0.055504108664821627,
                                 0.00961812910762847949, 0.00133335581464064707, 0.000154035303933707334,
                                 0.0000152527338415567726, 1.32154868087055628e-6, 1.01780570877339411e-7,
                                 7.05489730415549928e-9, 4.45581790833606449e-10, 2.57293241773623042e-11};
  static constexpr double BIAS = 1023.0;
  static constexpr int SERIES = 17;
};

// 2^x for x <= 0; 0 below the normal numbers. Half the work of exp_: no upper limit, and the exponent needs no rounding
// of products. NaN stays NaN.
template <class T> INLINE V exp2_below_zero(V x) {
  typedef typename Simd<T>::I I;
  x = at_least(x, -Powers<T>::BIAS);
  constexpr T magic = Exp<T>::MAGIC + Powers<T>::BIAS;  // the low bits are then the exponent as a number has it
  V shifted = x + magic;
  V f = x - (shifted - magic);
  constexpr int degree = sizeof(Powers<T>::Q) / sizeof(T) - 1;
  V q = splat<T>(Powers<T>::Q[degree]);
  UNROLL for (int i = degree - 1; i >= 0; i--) q = q * f + Powers<T>::Q[i];
  V power = (V)((I)shifted << Exp<T>::MANTISSA);
  return power * (q * f + T(1));
}

// log(1 + e^x) and its slope 1 / (1 + e^-x), without overflow or cancellation: log1p(e) = 2 artanh(e / (2 + e)).
template <class T> INLINE void softplus(V x, V& value, V& slope) {
  V e = exp_<T>(x < T(0) ? x : -x);
  V s = e / (e + T(2)), squared = s * s;
  V series = splat<T>(T(1) / (2 * Powers<T>::SERIES - 1));
  UNROLL for (int i = Powers<T>::SERIES - 2; i >= 0; i--) series = series * squared + T(1) / (2 * i + 1);
  value = (x > T(0) ? x : V{}) + T(2) * s * series;
  value = x == x ? value : x;
  V one = splat<T>(T(1));
  slope = (x < T(0) ? e : one) * reciprocal(e + T(1));
}

template <class T> INLINE T total(V v) {
  T lanes[LANES], sum = 0;
  store<T>(lanes, v);
  for (long i = 0; i < LANES; i++) sum += lanes[i];
  return sum;
}

// ---- the recurrence -------------------------------------------------------------------------------------------------

// What a block of one sequence reads and writes, of L units.
template <class T> struct Block {
  V u[BLOCK], y[BLOCK], rate[BLOCK], slope[BLOCK], entering[BLOCK];  // entering: rate * u
  V dy[BLOCK], own_dy[BLOCK], own_entering[BLOCK], d_rate[BLOCK], d_entering[BLOCK];  // own: of units of no other vector
  V before[2][BLOCK + 1], keep[2][BLOCK];  // two numbers of the memory before each timestep
};

template <class T> struct Part {
  long begin, steps, asked, row;
  Part(const SeqmemSelective& call, const Layout<T>& l, long block, long m) {
    begin = block * BLOCK, steps = l.T_ - begin < BLOCK ? l.T_ - begin : BLOCK;
    asked = call.first < begin ? 0 : call.first - begin < steps ? call.first - begin : steps;
    row = begin * l.B + l.b0 + m;
  }
};

// The rows of a block of one sequence, one after the other.
template <class T> INLINE void read_rows(const SeqmemSelective& call, const Layout<T>& l, const Part<T>& k, T* to) {
  const long S = call.R + 2 * call.N;
  for (long t = 0; t < k.steps; t++) memcpy(to + t * S, (const T*)call.rows + (k.row + t * l.B) * S, S * sizeof(T));
}

template <class T>
INLINE void read_block(const SeqmemSelective& call, const Layout<T>& l, const Part<T>& k, Block<T>& x, const T* rows, long unit) {
  const long S = call.R + 2 * call.N;
  const T* rate = (const T*)call.rate + unit;
  V bias = load_some<T>(rate + call.R * l.H, l.n);
  for (long t = 0; t < k.steps; t++) x.rate[t] = bias;
  for (long r = 0; r < call.R; r++) {
    V weight = load_some<T>(rate + r * l.H, l.n);
    for (long t = 0; t < k.steps; t++) x.rate[t] += weight * rows[t * S + r];
  }
  for (long t = 0; t < k.steps; t++) {
    x.u[t] = load_some<T>((const T*)call.u + (k.row + t * l.B) * l.H + unit, l.n);
    softplus<T>(x.rate[t], x.rate[t], x.slope[t]);
    x.entering[t] = x.rate[t] * x.u[t];
  }
}

// The decay of number n, to the base 2.
template <class T> INLINE V decay(const SeqmemSelective& call, const Layout<T>& l, long n, long unit) {
  return load_some<T>((const T*)call.decay + n * l.H + unit, l.n) * Exp<T>::LOG2E;
}

// WIDE numbers of the memory, from one edge of a block to the next. `rows`: of the block.
template <class T, int WIDE, bool ASKED>
INLINE void advance(const SeqmemSelective& call, const Layout<T>& l, Block<T>& x, long steps, const T* rows, long n, long unit,
                    const T* old, T* edge) {
  const long S = call.R + 2 * call.N;
  const T *write = rows + call.R + n, *read = write + call.N;
  V q[WIDE], h[WIDE];
  UNROLL for (int w = 0; w < WIDE; w++) {
    q[w] = decay<T>(call, l, n + w, unit);
    h[w] = load_some<T>(old + (n + w) * l.H + unit, l.n);
  }
  for (long t = 0; t < steps; t++, write += S, read += S) {
    V rate = x.rate[t], entering = x.entering[t], y = ASKED ? x.y[t] : V{};
    UNROLL for (int w = 0; w < WIDE; w++) {
      h[w] = exp2_below_zero<T>(rate * q[w]) * h[w] + entering * write[w];
      if (ASKED) y += h[w] * read[w];
    }
    if (ASKED) x.y[t] = y;
  }
  UNROLL for (int w = 0; w < WIDE; w++) store_some<T>(edge + (n + w) * l.H + unit, h[w], l.n);
}

template <class T> int forward_chunk(const SeqmemSelective& call, long chunk) {
  Layout<T> l(call);
  l.choose(chunk);
  T* rows = scratch<T>(BLOCK * (call.R + 2 * call.N));
  if (!rows) return NO_MEMORY;
  Block<T> x;
  const long N = call.N, wide = N * l.H;
  for (long block = 0; block < l.blocks; block++)
    for (long m = 0; m < l.M; m++) {
      const Part<T> k(call, l, block, m);
      T *old = (T*)call.edges + (block * l.B + l.b0 + m) * wide, *edge = old + l.B * wide;
      read_rows<T>(call, l, k, rows);
      for (long p = 0; p < l.P; p++) {
        const long unit = l.unit(p);
        read_block<T>(call, l, k, x, rows, unit);
        V past = load_some<T>((const T*)call.past + unit, l.n);
        for (long t = 0; t < k.steps; t++) x.y[t] = past * x.u[t];
        long n = 0;
        for (; n + 2 <= N; n += 2)
          k.asked < k.steps ? advance<T, 2, true>(call, l, x, k.steps, rows, n, unit, old, edge)
                            : advance<T, 2, false>(call, l, x, k.steps, rows, n, unit, old, edge);
        if (n < N)
          k.asked < k.steps ? advance<T, 1, true>(call, l, x, k.steps, rows, n, unit, old, edge)
                            : advance<T, 1, false>(call, l, x, k.steps, rows, n, unit, old, edge);
        for (long t = k.asked; t < k.steps; t++)
          store_some<T>((T*)call.y + (k.row + (t - call.first) * l.B) * l.H + unit, x.y[t], l.n);
      }
    }
  free(rows);
  return NONE;
}

// WIDE numbers of the memory backwards. `by_write` and `by_read` of the first of them, [BLOCK] each and the next ones'
// after it: gradients by what is written and read, for each lane.
template <class T, int WIDE, bool ASKED>
INLINE void back(const SeqmemSelective& call, const Layout<T>& l, Block<T>& x, long steps, const T* rows, long n, long unit,
                 const T* old, V* carry, V* sums, V* by_write, V* by_read) {
  const long S = call.R + 2 * call.N;
  const T *write = rows + call.R + n, *read = write + call.N;
  V q[WIDE], g[WIDE], dq[WIDE];
  UNROLL for (int w = 0; w < WIDE; w++) {
    q[w] = decay<T>(call, l, n + w, unit);
    g[w] = carry[n + w], dq[w] = sums[(n + w) * l.P];
    x.before[w][0] = load_some<T>(old + (n + w) * l.H + unit, l.n);
  }
  for (long t = 0; t < steps; t++) {
    V rate = x.rate[t], entering = x.entering[t];
    UNROLL for (int w = 0; w < WIDE; w++) {
      V keep = exp2_below_zero<T>(rate * q[w]);
      x.keep[w][t] = keep;
      x.before[w][t + 1] = keep * x.before[w][t] + entering * write[t * S + w];
    }
  }
  for (long t = steps - 1; t >= 0; t--) {
    V rate = x.rate[t], entering = x.own_entering[t], d_entering = x.d_entering[t], d_rate = x.d_rate[t];
    V dy = x.dy[t], own_dy = x.own_dy[t];
    UNROLL for (int w = 0; w < WIDE; w++) {
      if (ASKED) {
        by_read[w * BLOCK + t] += own_dy * x.before[w][t + 1];
        g[w] += dy * read[t * S + w];
      }
      by_write[w * BLOCK + t] += g[w] * entering;
      d_entering += g[w] * write[t * S + w];
      g[w] *= x.keep[w][t];
      V log = g[w] * x.before[w][t];
      d_rate += log * q[w];
      dq[w] += log * rate;
    }
    x.d_entering[t] = d_entering, x.d_rate[t] = d_rate;
  }
  UNROLL for (int w = 0; w < WIDE; w++) carry[n + w] = g[w], sums[(n + w) * l.P] = dq[w];
}

template <class T> int backward_chunk(const SeqmemSelective& call, long chunk) {
  Layout<T> l(call);
  l.choose(chunk);
  const long N = call.N, R = call.R, S = R + 2 * N, wide = N * l.H;
  // Carries [M P N] vectors; gradients by the rows, for each lane summed over the vectors of units, [S BLOCK]; the rows.
  T* memory = scratch<T>((l.M * l.P * N + S * BLOCK) * LANES + BLOCK * S);
  if (!memory) return NO_MEMORY;
  V *carries = (V*)memory, *by_rows = carries + l.M * l.P * N;
  V *by_write = by_rows + R * BLOCK, *by_read = by_write + N * BLOCK;
  T* rows = (T*)(by_rows + S * BLOCK);
  for (long m = 0; m < l.M; m++)
    for (long p = 0; p < l.P; p++)
      for (long n = 0; n < N; n++)
        carries[(m * l.P + p) * N + n] = load_some<T>((const T*)call.carry + (l.b0 + m) * wide + n * l.H + l.unit(p), l.n);
  T* own_sums = (T*)call.grad_parameters + chunk * (N + R + 2) * l.P * LANES;
  for (long block = l.blocks - 1; block >= 0; block--)
    for (long m = 0; m < l.M; m++) {
      const Part<T> k(call, l, block, m);
      const T* old = (const T*)call.edges + (block * l.B + l.b0 + m) * wide;
      const long asked = call.grad_y ? k.asked : k.steps;
      Block<T> x;
      read_rows<T>(call, l, k, rows);
      for (long i = 0; i < S * BLOCK; i++) by_rows[i] = V{};
      for (long p = 0; p < l.P; p++) {
        const long unit = l.unit(p);
        const V own = l.own(p), past = load_some<T>((const T*)call.past + unit, l.n);
        read_block<T>(call, l, k, x, rows, unit);
        for (long t = 0; t < k.steps; t++) {
          x.dy[t] = t < asked ? V{} : load_some<T>((const T*)call.grad_y + (k.row + (t - call.first) * l.B) * l.H + unit, l.n);
          x.own_dy[t] = own * x.dy[t], x.own_entering[t] = own * x.entering[t];
          x.d_rate[t] = x.d_entering[t] = V{};
        }
        V *carry = carries + (m * l.P + p) * N, *sums = (V*)own_sums + p;
        long n = 0;
        for (; n + 2 <= N; n += 2)
          asked < k.steps ? back<T, 2, true>(call, l, x, k.steps, rows, n, unit, old, carry, sums, by_write + n * BLOCK, by_read + n * BLOCK)
                          : back<T, 2, false>(call, l, x, k.steps, rows, n, unit, old, carry, sums, by_write + n * BLOCK, by_read + n * BLOCK);
        if (n < N)
          asked < k.steps ? back<T, 1, true>(call, l, x, k.steps, rows, n, unit, old, carry, sums, by_write + n * BLOCK, by_read + n * BLOCK)
                          : back<T, 1, false>(call, l, x, k.steps, rows, n, unit, old, carry, sums, by_write + n * BLOCK, by_read + n * BLOCK);
        V by_bias = sums[(N + R) * l.P], by_past = sums[(N + R + 1) * l.P];
        for (long t = 0; t < k.steps; t++) {
          V d_u = x.d_entering[t] * x.rate[t] + x.dy[t] * past;
          store_some<T>((T*)call.grad_u + (k.row + t * l.B) * l.H + unit, d_u, l.n);
          x.d_rate[t] = (x.d_rate[t] * (T(1) / Exp<T>::LOG2E) + x.d_entering[t] * x.u[t]) * x.slope[t];
          by_bias += x.d_rate[t], by_past += x.dy[t] * x.u[t];
        }
        sums[(N + R) * l.P] = by_bias, sums[(N + R + 1) * l.P] = by_past;
        for (long r = 0; r < R; r++) {
          V weight = own * load_some<T>((const T*)call.rate + r * l.H + unit, l.n), by = sums[(N + r) * l.P];
          for (long t = 0; t < k.steps; t++) {
            by += x.d_rate[t] * rows[t * S + r];
            by_rows[r * BLOCK + t] += x.d_rate[t] * weight;
          }
          sums[(N + r) * l.P] = by;
        }
      }
      for (long t = 0; t < k.steps; t++)
        for (long i = 0; i < S; i++)
          ((T*)call.grad_rows)[(k.row + t * l.B) * S + i] = i < R + N || t >= asked ? total<T>(by_rows[i * BLOCK + t]) : T(0);
    }
  for (long m = 0; m < l.M; m++)
    for (long p = 0; p < l.P; p++)
      for (long n = 0; n < N; n++)
        store_some<T>((T*)call.carry + (l.b0 + m) * wide + n * l.H + l.unit(p), carries[(m * l.P + p) * N + n], l.n);
  free(memory);
  return NONE;
}

// ---- the convolution ------------------------------------------------------------------------------------------------

// v of L units of one sequence from K - 1 timesteps before a block to its end.
template <class T>
INLINE void read_past(const SeqmemConvolution& call, const Layout<T>& l, long begin, long steps, long b, long unit, V* to) {
  for (long t = begin - call.K + 1; t < begin + steps; t++, to++) {
    const T* row = t < 0     ? (const T*)call.before + ((t + call.K - 1) * l.B + b) * l.H
                   : call.W  ? (const T*)call.table + ((const int64_t*)call.v)[t * l.B + b] * l.H
                             : (const T*)call.v + (t * l.B + b) * l.H;
    *to = load_some<T>(row + unit, l.n);
  }
}

// The sum before silu. `v`: of the first of the timesteps that it reads.
template <class T> INLINE V filtered(const V* v, const V* taps, long K) {
  V sum = taps[K];
  for (long j = 0; j < K; j++) sum += taps[j] * v[j];
  return sum;
}

template <class T> INLINE void read_taps(const SeqmemConvolution& call, const Layout<T>& l, long unit, V* taps) {
  for (long j = 0; j <= call.K; j++) taps[j] = load_some<T>((const T*)call.taps + j * l.H + unit, l.n);
}

template <class T> int convolve_chunk(const SeqmemConvolution& call, long chunk) {
  Layout<T> l(call);
  l.choose(chunk);
  const long K = call.K;
  if (call.W)
    for (long t = 0; t < l.T_; t++)
      for (long m = 0; m < l.M; m++)
        if ((uint64_t)((const int64_t*)call.v)[t * l.B + l.b0 + m] >= (uint64_t)call.W) return NO_SUCH_TOKEN;
  V* v = (V*)scratch<T>((2 * K + BLOCK) * LANES);
  if (!v) return NO_MEMORY;
  V* taps = v + K + BLOCK - 1;
  for (long begin = 0; begin < l.T_; begin += BLOCK) {
    const long steps = l.T_ - begin < BLOCK ? l.T_ - begin : BLOCK;
    for (long b = l.b0; b < l.b0 + l.M; b++)
      for (long p = 0; p < l.P; p++) {
        const long unit = l.unit(p);
        read_taps<T>(call, l, unit, taps);
        read_past<T>(call, l, begin, steps, b, unit, v);
        for (long t = 0; t < steps; t++) {
          V x = filtered<T>(v + t, taps, K);
          store_some<T>((T*)call.u + ((begin + t) * l.B + b) * l.H + unit, x * sigmoid<T>(x), l.n);
        }
      }
  }
  free(v);
  return NONE;
}

template <class T> int convolve_back_chunk(const SeqmemConvolution& call, long chunk) {
  Layout<T> l(call);
  l.choose(chunk);
  const long K = call.K;
  // v and its gradients of a block and K - 1 timesteps before; the latter of the next block's first, [M P K - 1]; taps.
  V* v = (V*)scratch<T>((2 * (K - 1 + BLOCK) + l.M * l.P * (K - 1) + K + 1) * LANES);
  if (!v) return NO_MEMORY;
  V *dv = v + K - 1 + BLOCK, *later = dv + K - 1 + BLOCK, *taps = later + l.M * l.P * (K - 1);
  for (long i = 0; i < l.M * l.P * (K - 1); i++) later[i] = V{};
  T* own_sums = (T*)call.grad_parameters + chunk * (K + 1 + call.W) * l.P * LANES;
  for (long begin = (l.T_ - 1) / BLOCK * BLOCK; begin >= 0; begin -= BLOCK) {
    const long steps = l.T_ - begin < BLOCK ? l.T_ - begin : BLOCK;
    for (long m = 0; m < l.M; m++)
      for (long p = 0; p < l.P; p++) {
        const long unit = l.unit(p), b = l.b0 + m;
        V *sums = (V*)own_sums + p, *overhang = later + (m * l.P + p) * (K - 1);
        read_taps<T>(call, l, unit, taps);
        read_past<T>(call, l, begin, steps, b, unit, v);
        // dv[i]: of the timestep begin - (K - 1) + i. Those of the last K - 1 have a share from the block after.
        for (long i = 0; i < steps; i++) dv[i] = V{};
        for (long i = 0; i < K - 1; i++) dv[steps + i] = overhang[i];
        V by_bias = sums[K * l.P], dx[BLOCK];
        for (long t = 0; t < steps; t++) {
          V x = filtered<T>(v + t, taps, K), gate = sigmoid<T>(x);
          dx[t] = load_some<T>((const T*)call.grad_u + ((begin + t) * l.B + b) * l.H + unit, l.n);
          dx[t] *= gate * (T(1) + x * (T(1) - gate));
          by_bias += dx[t];
        }
        sums[K * l.P] = by_bias;
        for (long j = 0; j < K; j++) {
          V by_tap = sums[j * l.P];
          for (long t = 0; t < steps; t++) {
            dv[t + j] += dx[t] * taps[j];
            by_tap += dx[t] * v[t + j];
          }
          sums[j * l.P] = by_tap;
        }
        for (long i = 0; i < K - 1; i++) overhang[i] = dv[i];
        for (long t = 0; t < steps; t++) {
          const long at = (begin + t) * l.B + b;
          if (call.W)
            sums[(K + 1 + ((const int64_t*)call.v)[at]) * l.P] += dv[K - 1 + t];
          else if (call.grad_v)
            store_some<T>((T*)call.grad_v + at * l.H + unit, dv[K - 1 + t], l.n);
        }
      }
  }
  for (long m = 0; m < l.M; m++)
    for (long p = 0; p < l.P; p++)
      for (long i = 0; i < K - 1; i++)
        store_some<T>((T*)call.grad_before + (i * l.B + l.b0 + m) * l.H + l.unit(p), later[(m * l.P + p) * (K - 1) + i], l.n);
  free(v);
  return NONE;
}

// The chunks' sums, [chunks, rows P L], in one: [rows H].
template <class T> void reduce(const SeqmemSelective& call, long rows, const T* sums, T* out) {
  Layout<T> l(call);
  for (long row = 0; row < rows; row++)
    for (long p = 0; p < l.P; p++, sums += LANES) {
      V sum = load<T>(sums);
      for (long c = 1; c < l.chunks; c++) sum += load<T>(sums + c * rows * l.P * LANES);
      store_some<T>(out + row * l.H + l.unit(p), sum, l.n);
    }
}

}  // namespace

// selective_sizes: the timesteps of a block, the units in whole vectors, the chunks.
#define EXPORT(T, type)                                                                                          \
  API void NAME(selective_sizes, type)(const SeqmemSelective* call, int64_t* out) {                              \
    Layout<T> l(*call);                                                                                          \
    out[0] = BLOCK, out[1] = l.P * Simd<T>::L, out[2] = l.chunks;                                                \
  }                                                                                                              \
  API int64_t NAME(selective_forward, type)(const SeqmemSelective* call) {                                       \
    return run(call, forward_chunk<T>, Layout<T>(*call).chunks);                                                 \
  }                                                                                                              \
  API int64_t NAME(selective_backward, type)(const SeqmemSelective* call) {                                      \
    return run(call, backward_chunk<T>, Layout<T>(*call).chunks);                                                \
  }                                                                                                              \
  API int64_t NAME(convolution_forward, type)(const SeqmemConvolution* call) {                                   \
    return run(call, convolve_chunk<T>, Layout<T>(*call).chunks);                                                \
  }                                                                                                              \
  API int64_t NAME(convolution_backward, type)(const SeqmemConvolution* call) {                                  \
    return run(call, convolve_back_chunk<T>, Layout<T>(*call).chunks);                                           \
  }                                                                                                              \
  API void NAME(selective_reduce, type)(const SeqmemSelective* call, int64_t rows, const T* sums, T* out) {      \
    reduce<T>(*call, rows, sums, out);                                                                           \
  }

EXPORT(float, f32)
EXPORT(double, f64)
