// Cells that are linear in an elementwise state, over a whole sequence, forward and backward, on one instruction set.
//
// Compiled once per instruction set (see simd.hpp). A cell is a `Gates` structure: how a timestep of a few units follows
// from their pre-activations, and its derivative. Nothing but the units' own old state enters, so that
//   - tokens are looked up in a table of pre-activations: no array of the size T B G H exists, and the gradient of the
//     pre-activations is added to the token's row of the table as soon as it is known;
//   - gates are computed in registers, and again in the backward pass; only states are kept.
//
// A batch is cut into chunks of at most 16 sequences, independent of the number of threads; one thread runs a chunk
// through all timesteps. Sums (of the table's and the parameters' gradients) are accumulated from the last timestep to
// the first, in each of them from the first sequence of a chunk to the last, and then chunk by chunk: so the bits depend
// neither on the number of threads nor on where a sequence is cut.
//
// Names: T timesteps, B sequences, H units, G pre-activations, S states, Q parameters and O outputs per unit, L lanes of
// a vector, P vectors of units, M sequences of a chunk, W tokens. If H is at least L, the last vector ends at the last
// unit and overlaps the one before: both compute the same numbers for the same units.

#include "simd.hpp"

// One call: a layer over T timesteps. Pointers may be null only where noted. scan.py mirrors this structure.
struct SeqmemScan {
  int64_t kind;  // Kind
  int64_t T, B, H;
  int64_t threads;
  int64_t W;               // rows of the table; 0: there is none
  int64_t lookups;         // rows of the table whose sum is a timestep's pre-activations: 1 or 2
  const void* xs;          // pre-activations [T B G H]; with a table: its rows' numbers, [T B lookups], int64
  const void* table;       // from pack; without a table null
  const void* parameters;  // [Q H]
  const void* start;       // [B S H]
  void* states;            // [T B S H]
  void* outputs;           // [T B O H]; null if O is 0: the states are the outputs
  const void* grad_outputs;  // as the outputs; null: zero
  void* carry;               // [B S H], in and out: dL/ds of the final states, then of the initial ones
  void* grad_xs;             // [T B G H]; null with a table, or if it is not requested
  void* grad_table;          // [chunks W P G L], sums; null without a table, or if it is not requested
  void* grad_parameters;     // [chunks Q P L], sums; null: not requested
  void* grad_states;         // [T B S H]: dL/ds_t; null: not requested
};

namespace {

enum Kind { MINGRU, MINLSTM, MINLSTM_NORMALISED, RGLRU, ROTATION, WKV };

constexpr long CHUNK = 16;  // most sequences in a chunk

// ---- cells ----------------------------------------------------------------------------------------------------------
// step: from the pre-activations x [G], the parameters q [Q] and the old states s [S] to the new states, in place, and
// the outputs y [O]. back: from dL/ds of the new states (and dL/dy) to that of the old ones, in place; dx [G] and
// dq [Q] are set. There s are the old states. Of three states the last one is the exponent that the other two are free of:
// a timestep computes it first and them by it, so dL/ds_t of the exponent includes the way through them.

#define STEP INLINE_MEMBER void step(const V* x, const V* q, V* s, V* y)
#define BACK INLINE_MEMBER void back(const V* x, const V* q, const V* s, V* d, const V* dy, V* dx, V* dq)

// x + 0.5 from 0 on, else sigmoid(x): Feng et al. 2024, appendix B. `slope` is the derivative.
template <class T> INLINE V above_zero(V x, V& slope) {
  V low = sigmoid<T>(x);
  slope = pick<T>(x >= T(0), splat<T>(T(1)), low * (T(1) - low));
  return pick<T>(x >= T(0), x + T(0.5), low);
}

// sigmoid(x) and sigmoid(-x), neither by a difference.
template <class T> INLINE void sigmoids(V x, V& yes, V& no) {
  V e = exp_<T>(clamp<T>(-x, Exp<T>::LARGEST));
  yes = reciprocal(e + T(1));
  no = e * yes;
}

template <class T> struct MinGRU {
  static constexpr int G = 2, S = 1, Q = 0, O = 0;
  STEP {
    V z, keep, slope;
    sigmoids<T>(x[0], z, keep);
    s[0] = keep * s[0] + z * above_zero<T>(x[1], slope);
  }
  BACK {
    V z, keep, slope;
    sigmoids<T>(x[0], z, keep);
    V n = above_zero<T>(x[1], slope), to = d[0] * z;
    dx[0] = to * keep * (n - s[0]);
    dx[1] = to * slope;
    d[0] = d[0] * keep;
  }
};

template <class T> struct MinLSTM {
  static constexpr int G = 3, S = 1, Q = 0, O = 0;
  STEP {
    V slope;
    s[0] = sigmoid<T>(x[0]) * s[0] + sigmoid<T>(x[1]) * above_zero<T>(x[2], slope);
  }
  BACK {
    V forget, not_forget, in, not_in, slope;
    sigmoids<T>(x[0], forget, not_forget), sigmoids<T>(x[1], in, not_in);
    V n = above_zero<T>(x[2], slope), keep = d[0] * forget, to = d[0] * in;
    dx[0] = keep * not_forget * s[0];
    dx[1] = to * not_in * n;
    dx[2] = to * slope;
    d[0] = keep;
  }
};

// The gates divided by their sum, sigmoid(f) / (sigmoid(f) + sigmoid(i)), also where both of them underflow.
template <class T> struct MinLSTMNormalised {
  static constexpr int G = 3, S = 1, Q = 0, O = 0;
  // The shares, and the sigmoids of -f and -i.
  INLINE_MEMBER void shares(const V* x, V& forget, V& in, V& not_f, V& not_i) {
    V f = x[0], i = x[1], zero{};
    V ef = exp_<T>(pick<T>(f >= T(0), -f, f)), ei = exp_<T>(pick<T>(i >= T(0), -i, i));  // of -|f| and -|i|
    V low_f = pick<T>(f >= T(0), zero, f), low_i = pick<T>(i >= T(0), zero, i);
    V ratio = exp_<T>(low_f - low_i), for_f = ratio * (T(1) + ei), for_i = T(1) + ef;
    V whole = reciprocal(for_f + for_i);
    forget = for_f * whole, in = for_i * whole;
    V one = splat<T>(T(1));
    not_f = pick<T>(f >= T(0), ef, one) * reciprocal(T(1) + ef);
    not_i = pick<T>(i >= T(0), ei, one) * reciprocal(T(1) + ei);
  }
  STEP {
    V forget, in, not_f, not_i, slope;
    shares(x, forget, in, not_f, not_i);
    s[0] = forget * s[0] + in * above_zero<T>(x[2], slope);
  }
  BACK {
    V forget, in, not_f, not_i, slope;
    shares(x, forget, in, not_f, not_i);
    V n = above_zero<T>(x[2], slope), share = d[0] * forget * in * (s[0] - n);
    dx[0] = share * not_f;
    dx[1] = -(share * not_i);
    dx[2] = d[0] * in * slope;
    d[0] = d[0] * forget;
  }
};

// r, i, v; the parameter is log a of an open gate, which is negative.
template <class T> struct RealGated {
  static constexpr int G = 3, S = 1, Q = 1, O = 0;
  // a = e^log, and sqrt(1 - a^2).
  INLINE_MEMBER void parts(V log, V& a, V& other) {
    V power, expm1;
    split_exp<T>(clamp<T>(log + log, Exp<T>::LARGEST), power, expm1);
    V squared = -(power * expm1 + (power - T(1)));
    a = exp_<T>(log);
    for (long l = 0; l < LANES; l++) other[l] = sizeof(T) == 4 ? T(__builtin_sqrtf(squared[l])) : T(__builtin_sqrt(squared[l]));
  }
  STEP {
    V a, other;
    parts(q[0] * sigmoid<T>(x[0]), a, other);
    s[0] = a * s[0] + other * sigmoid<T>(x[1]) * x[2];
  }
  BACK {
    V r, not_r, i, not_i, a, other;
    sigmoids<T>(x[0], r, not_r), sigmoids<T>(x[1], i, not_i);
    parts(q[0] * r, a, other);
    V to = d[0] * other, entering = i * x[2];
    V log = d[0] * a * (s[0] - a * entering / other);
    dq[0] = log * r;
    dx[0] = log * q[0] * (r * not_r);
    dx[1] = to * entering * not_i;
    dx[2] = to * i;
    d[0] = d[0] * a;
  }
};

// A complex number that turns and decays: both of its parts are states, and cos and sin times its size the parameters.
template <class T> struct Rotation {
  static constexpr int G = 2, S = 2, Q = 2, O = 0;
  STEP {
    V real = q[0] * s[0] - q[1] * s[1] + x[0];
    s[1] = q[1] * s[0] + q[0] * s[1] + x[1];
    s[0] = real;
  }
  BACK {
    dx[0] = d[0], dx[1] = d[1];
    dq[0] = d[0] * s[0] + d[1] * s[1];
    dq[1] = d[1] * s[0] - d[0] * s[1];
    V real = q[0] * d[0] + q[1] * d[1];
    d[1] = q[0] * d[1] - q[1] * d[0];
    d[0] = real;
  }
};

// RWKV's average of values v, weighted by keys k, under a gate r: numerator, denominator and the exponent that both are
// free of. The parameters are the decay and the present timestep's part of a key.
template <class T> struct Average {
  static constexpr int G = 3, S = 3, Q = 2, O = 1;
  INLINE_MEMBER V larger(V a, V b) { return pick<T>(a > b, a, b); }
  STEP {
    V k = x[0], v = x[1], now = q[1] + k, most = larger(s[2], now);
    V past = exp_<T>(s[2] - most), present = exp_<T>(now - most);
    y[0] = sigmoid<T>(x[2]) * ((past * s[0] + present * v) / (past * s[1] + present));
    V left = s[2] - q[0], exponent = larger(left, k);
    V keep = exp_<T>(left - exponent), enter = exp_<T>(k - exponent);
    s[0] = keep * s[0] + enter * v;
    s[1] = keep * s[1] + enter;
    s[2] = exponent;
  }
  BACK {
    V k = x[0], v = x[1], now = q[1] + k, most = larger(s[2], now);
    V past = exp_<T>(s[2] - most), present = exp_<T>(now - most);
    V whole = past * s[1] + present, average = (past * s[0] + present * v) / whole;
    V r, not_r;
    sigmoids<T>(x[2], r, not_r);
    V left = s[2] - q[0], exponent = larger(left, k);
    V keep = exp_<T>(left - exponent), enter = exp_<T>(k - exponent);
    // Through the output. `most` cancels, so that nothing flows through it.
    V by_sum = dy[0] * r / whole, by_whole = -(by_sum * average);
    dx[2] = dy[0] * average * (r * not_r);
    V by_present = present * (by_sum * v + by_whole), by_past = past * (by_sum * s[0] + by_whole * s[1]);
    dx[1] = by_sum * present + d[0] * enter;
    // Through the new states; the exponent's share goes to the larger of its two sources, and by halves where they tie.
    V by_keep = keep * (d[0] * s[0] + d[1] * s[1]), by_enter = enter * (d[0] * v + d[1]);
    V by_exponent = d[2] - (by_keep + by_enter), zero{};
    V half = T(0.5) * by_exponent;
    V to_left = pick<T>(left > k, by_exponent, pick<T>(left == k, half, zero));
    V to_k = pick<T>(k > left, by_exponent, pick<T>(left == k, half, zero));
    V by_left = by_keep + to_left;
    dx[0] = by_present + by_enter + to_k;
    dq[0] = -by_left;
    dq[1] = by_present;
    d[0] = by_sum * past + d[0] * keep;
    d[1] = by_whole * past + d[1] * keep;
    d[2] = by_past + by_left;
  }
};

// ---- a chunk --------------------------------------------------------------------------------------------------------

template <class T> struct Layout {
  long T_, B, H, P, n, b0, M, chunks, lookups;
  explicit Layout(const SeqmemScan& call) : T_(call.T), B(call.B), H(call.H), lookups(call.lookups) {
    P = (H + LANES - 1) / LANES;
    n = H < LANES ? H : LANES;
    chunks = (B + CHUNK - 1) / CHUNK;
  }
  void choose(long chunk) { b0 = B * chunk / chunks, M = B * (chunk + 1) / chunks - b0; }
  long unit(long p) const { return H < LANES ? 0 : p * LANES < H - LANES ? p * LANES : H - LANES; }
};

// Where the pre-activations of a timestep and a sequence are.
template <class T, int G> struct Rows {
  const T *first, *second;
  INLINE_MEMBER Rows at(const SeqmemScan& call, const Layout<T>& l, long row) {
    if (!call.W) return {(const T*)call.xs + row * G * l.H, nullptr};
    const int64_t* tokens = (const int64_t*)call.xs + row * l.lookups;
    const T* table = (const T*)call.table;
    const long wide = l.P * G * LANES;
    return {table + tokens[0] * wide, l.lookups > 1 ? table + tokens[1] * wide : nullptr};
  }
  INLINE_MEMBER void read(const Rows& rows, const SeqmemScan& call, const Layout<T>& l, long p, V* x) {
    if (!call.W) {
      UNROLL for (int g = 0; g < G; g++) x[g] = load_some<T>(rows.first + g * l.H + l.unit(p), l.n);
      return;
    }
    UNROLL for (int g = 0; g < G; g++) x[g] = load<T>(rows.first + (p * G + g) * LANES);
    if (rows.second) UNROLL for (int g = 0; g < G; g++) x[g] += load<T>(rows.second + (p * G + g) * LANES);
  }
};

template <class T> bool known(const SeqmemScan& call, const Layout<T>& l) {
  if (call.W)
    for (long t = 0; t < l.T_; t++)
      for (long i = 0; i < l.M * l.lookups; i++) {
        int64_t token = ((const int64_t*)call.xs)[(t * l.B + l.b0) * l.lookups + i];
        if (token < 0 || token >= call.W) return false;
      }
  return true;
}

template <template <class> class Gates, class T> int forward_chunk(const SeqmemScan& call, long chunk) {
  using C = Gates<T>;
  Layout<T> l(call);
  l.choose(chunk);
  if (!known(call, l)) return NO_SUCH_TOKEN;
  const T* parameters = (const T*)call.parameters;
  const long wide = C::S * l.H;
  for (long t = 0; t < l.T_; t++)
    for (long m = 0; m < l.M; m++) {
      const long row = t * l.B + l.b0 + m;
      const auto rows = Rows<T, C::G>::at(call, l, row);
      const T* old = t ? (const T*)call.states + (row - l.B) * wide : (const T*)call.start + (l.b0 + m) * wide;
      T* states = (T*)call.states + row * wide;
      for (long p = 0; p < l.P; p++) {
        const long unit = l.unit(p);
        V x[C::G], q[C::Q + 1], s[C::S], y[C::O + 1];
        Rows<T, C::G>::read(rows, call, l, p, x);
        UNROLL for (int i = 0; i < C::Q; i++) q[i] = load_some<T>(parameters + i * l.H + unit, l.n);
        UNROLL for (int i = 0; i < C::S; i++) s[i] = load_some<T>(old + i * l.H + unit, l.n);
        C::step(x, q, s, y);
        UNROLL for (int i = 0; i < C::S; i++) store_some<T>(states + i * l.H + unit, s[i], l.n);
        UNROLL for (int i = 0; i < C::O; i++)
          store_some<T>((T*)call.outputs + (row * C::O + i) * l.H + unit, y[i], l.n);
      }
    }
  return NONE;
}

template <template <class> class Gates, class T> int backward_chunk(const SeqmemScan& call, long chunk) {
  using C = Gates<T>;
  Layout<T> l(call);
  l.choose(chunk);
  const T *parameters = (const T*)call.parameters, *grad = (const T*)call.grad_outputs;
  const long wide = C::S * l.H, width = l.P * C::G * LANES;
  T* sums = call.grad_table ? (T*)call.grad_table + chunk * call.W * width : nullptr;
  T* of_parameters = C::Q && call.grad_parameters ? (T*)call.grad_parameters + chunk * C::Q * l.P * LANES : nullptr;
  T* carry = scratch<T>(l.M * l.P * C::S * LANES);
  if (!carry) return NO_MEMORY;
  for (long m = 0; m < l.M; m++)
    for (long p = 0; p < l.P; p++)
      UNROLL for (int i = 0; i < C::S; i++)
        store<T>(carry + ((m * l.P + p) * C::S + i) * LANES,
                 load_some<T>((const T*)call.carry + (l.b0 + m) * wide + i * l.H + l.unit(p), l.n));
  for (long t = l.T_ - 1; t >= 0; t--)
    for (long m = 0; m < l.M; m++) {
      const long row = t * l.B + l.b0 + m;
      const auto rows = Rows<T, C::G>::at(call, l, row);
      const int64_t* tokens = (const int64_t*)call.xs + row * l.lookups;
      const T* old = t ? (const T*)call.states + (row - l.B) * wide : (const T*)call.start + (l.b0 + m) * wide;
      for (long p = 0; p < l.P; p++) {
        const long unit = l.unit(p);
        V x[C::G], q[C::Q + 1], s[C::S], d[C::S], dy[C::O + 1], dx[C::G], dq[C::Q + 1];
        Rows<T, C::G>::read(rows, call, l, p, x);
        UNROLL for (int i = 0; i < C::Q; i++) q[i] = load_some<T>(parameters + i * l.H + unit, l.n);
        UNROLL for (int i = 0; i < C::S; i++) s[i] = load_some<T>(old + i * l.H + unit, l.n);
        T* now = carry + (m * l.P + p) * C::S * LANES;
        UNROLL for (int i = 0; i < C::S; i++) d[i] = load<T>(now + i * LANES);
        if (C::O) {
          UNROLL for (int i = 0; i < C::O; i++)
            dy[i] = grad ? load_some<T>(grad + (row * C::O + i) * l.H + unit, l.n) : V{};
        } else if (grad)
          UNROLL for (int i = 0; i < C::S; i++) d[i] += load_some<T>(grad + row * wide + i * l.H + unit, l.n);
        if (call.grad_states) {
          V whole[C::S], after[C::S];
          UNROLL for (int i = 0; i < C::S; i++) {
            whole[i] = d[i];
            after[i] = load_some<T>((const T*)call.states + row * wide + i * l.H + unit, l.n);
          }
          if (C::S == 3) whole[C::S - 1] -= d[0] * after[0] + d[C::S / 2] * after[C::S / 2];
          UNROLL for (int i = 0; i < C::S; i++) store_some<T>((T*)call.grad_states + row * wide + i * l.H + unit, whole[i], l.n);
        }
        C::back(x, q, s, d, dy, dx, dq);
        UNROLL for (int i = 0; i < C::S; i++) store<T>(now + i * LANES, d[i]);
        if (call.grad_xs)
          UNROLL for (int g = 0; g < C::G; g++)
            store_some<T>((T*)call.grad_xs + (row * C::G + g) * l.H + unit, dx[g], l.n);
        if (sums)
          for (long k = 0; k < l.lookups; k++) {
            T* sum = sums + tokens[k] * width + p * C::G * LANES;
            UNROLL for (int g = 0; g < C::G; g++) store<T>(sum + g * LANES, load<T>(sum + g * LANES) + dx[g]);
          }
        if (of_parameters)
          UNROLL for (int i = 0; i < C::Q; i++) {
            T* sum = of_parameters + (i * l.P + p) * LANES;
            store<T>(sum, load<T>(sum) + dq[i]);
          }
      }
    }
  for (long m = 0; m < l.M; m++)
    for (long p = 0; p < l.P; p++)
      UNROLL for (int i = 0; i < C::S; i++)
        store_some<T>((T*)call.carry + (l.b0 + m) * wide + i * l.H + l.unit(p),
                      load<T>(carry + ((m * l.P + p) * C::S + i) * LANES), l.n);
  free(carry);
  return NONE;
}

// ---- the functions --------------------------------------------------------------------------------------------------

// The table of W rows [G H], each of its vectors beside those of the same units.
template <class T> void pack(const SeqmemScan& call, long G, const T* table, T* out) {
  Layout<T> l(call);
  for (long w = 0; w < call.W; w++)
    for (long p = 0; p < l.P; p++)
      for (long g = 0; g < G; g++, out += LANES) store<T>(out, load_some<T>(table + (w * G + g) * l.H + l.unit(p), l.n));
}

// The chunks' sums, [chunks][rows][P][G][L], in one: [rows G H].
template <class T> void reduce(const SeqmemScan& call, long rows, long G, const T* sums, T* out) {
  Layout<T> l(call);
  const long each = rows * l.P * G * LANES;
  for (long row = 0; row < rows; row++)
    for (long p = 0; p < l.P; p++)
      for (long g = 0; g < G; g++, sums += LANES) {
        V total = load<T>(sums);
        for (long c = 1; c < l.chunks; c++) total += load<T>(sums + c * each);
        store_some<T>(out + (row * G + g) * l.H + l.unit(p), total, l.n);
      }
}

// The function of a kind, or its constants.
#define EACH(kind, WHAT)                                     \
  switch (kind) {                                            \
    case MINGRU: WHAT(MinGRU) break;                         \
    case MINLSTM: WHAT(MinLSTM) break;                       \
    case MINLSTM_NORMALISED: WHAT(MinLSTMNormalised) break;  \
    case RGLRU: WHAT(RealGated) break;                       \
    case ROTATION: WHAT(Rotation) break;                     \
    default: WHAT(Average) break;                            \
  }

template <class T> int forward(const SeqmemScan* call) {
  int failed = NONE;
#define RUN(Gates) failed = run(call, forward_chunk<Gates, T>, Layout<T>(*call).chunks);
  EACH(call->kind, RUN)
#undef RUN
  return failed;
}

template <class T> int backward(const SeqmemScan* call) {
  int failed = NONE;
#define RUN(Gates) failed = run(call, backward_chunk<Gates, T>, Layout<T>(*call).chunks);
  EACH(call->kind, RUN)
#undef RUN
  return failed;
}

}  // namespace

// scan_sizes: G, S, Q, O, the vectors' numbers P L, and the chunks.
#define EXPORT(T, type)                                                                                              \
  API void NAME(scan_sizes, type)(const SeqmemScan* call, int64_t* out) {                                            \
    Layout<T> l(*call);                                                                                              \
    EACH(call->kind, SIZES)                                                                                          \
    out[4] = l.P * Simd<T>::L, out[5] = l.chunks;                                                                    \
  }                                                                                                                  \
  API void NAME(scan_pack, type)(const SeqmemScan* call, int64_t G, const T* table, T* out) {                        \
    pack<T>(*call, G, table, out);                                                                                   \
  }                                                                                                                  \
  API void NAME(scan_reduce, type)(const SeqmemScan* call, int64_t rows, int64_t G, const T* sums, T* out) {         \
    reduce<T>(*call, rows, G, sums, out);                                                                            \
  }                                                                                                                  \
  API int64_t NAME(scan_forward, type)(const SeqmemScan* call) { return forward<T>(call); }                          \
  API int64_t NAME(scan_backward, type)(const SeqmemScan* call) { return backward<T>(call); }

#define SIZES(Gates) out[0] = Gates<float>::G, out[1] = Gates<float>::S, out[2] = Gates<float>::Q, out[3] = Gates<float>::O;
EXPORT(float, f32)
EXPORT(double, f64)
