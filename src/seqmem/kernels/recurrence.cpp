// Recurrent layers over a whole sequence, forward and backward, on one instruction set.
//
// Compiled once per instruction set (see simd.hpp); dispatch.cpp reports which ones the processor supports.
//
// Why it is fast
//   - A batch is cut into chunks of at most 16 sequences, independent of the number of threads. One thread runs a chunk
//     through the whole time loop, without synchronisation between timesteps. Sums over the batch are reduced chunk by
//     chunk in a fixed order, so the bits do not depend on the number of threads.
//   - Weights are packed once, so that the inner loop reads them sequentially. A tile of pre-activations (up to 6
//     sequences x 4 vectors) stays in registers from the bias through x W and h U to the nonlinearities; in gated cells
//     its four vectors are the gates of the same units.
//   - Tokens are looked up in a table of W x + bias for each token: inputs need no product at all.
//   - Activations are saved for the backward pass. The gradient of the pre-activations exists only for a block of a few
//     timesteps, until it has been added to the weights' gradients, so it stays in the cache.
//
// Sums over time in the weights' gradients are accumulated in one order, from the last timestep to the first. So a
// sequence can be cut anywhere (to handle Ctrl-C, or to recompute segments) without changing a bit.
//
// Names: T timesteps, B sequences, D input features (or tokens, of F features each), H units, L lanes of a vector,
// P unit vectors (H / L, rounded up), M sequences of a chunk, S numbers per sequence in a row of saved activations or of
// gradients. Time comes first in all arrays.

#include "simd.hpp"

// One call: a layer over T timesteps. Pointers may be null only where noted. functions.py mirrors this structure.
struct SeqmemCall {
  int64_t cell;     // Kind
  int64_t T, B, D, H;
  int64_t threads;
  int64_t lookup;            // 1: inputs are tokens, D is the size of their vocabulary
  int64_t features;          // F, the size of the tokens' vectors, if norm_input is requested; else 0
  int64_t candidate_bias;    // 1: gru's bias has H more numbers, b' in r * (U_n h + b')
  const void* xs;            // [T B D]; tokens: [T B], int64
  const void* start_hidden;  // [B H]
  const void* start_cell;    // [B H]; lstm only
  const void* packed;        // from pack
  void* outputs;             // [T B H]
  void* final_cell;          // [B H]; lstm only; null: not requested
  void* saved;               // activations for the backward pass, see Shape::saved; null in the forward pass: not saved
  const void* grad_outputs;  // [T B H]; null: zero
  void* grad_hidden;         // [B H], in and out: dL/dh of the final state, then of the initial one
  void* grad_cell;           // [B H], likewise; lstm only
  void* grad_xs;             // [T B D]; null: not requested
  void* grad_sums;           // weights' gradients, see Shape::sums; null: not requested
  void* norm_input;          // [T B]: the norm of dL/dx_t; null: not requested
  void* norm_hidden;         // [T B]: the norm of dL/dh_t; null: not requested
  void* norm_cell;           // [T B]: the norm of dL/dc_t; null: not requested
  // For torch's layers, without tokens:
  void* cells;               // like outputs: every c_t; lstm only; null: not requested
  const void* grad_cells;    // like outputs: the gradient by every c_t; lstm only; null: zero
  const int64_t* rows;       // [T]: the row of xs, outputs, cells and their gradients where timestep t begins; null: t * B
  const int64_t* counts;     // [T]: the first so many sequences have a timestep t, at most as many as t - 1; null: all
};

namespace {

enum Kind { RNN_TANH, RNN_RELU, LSTM, GRU, GRU_CHO };

constexpr long CHUNK = 16;              // most sequences in a chunk
constexpr long LARGE_SUMS = 1 << 19;    // bytes: from here on, gradient sums do not fit into the cache beside the rest
constexpr long TURNED = 16;             // rows that become columns, or columns rows, before the next ones do
constexpr long BLOCK_STEPS = 32;        // most timesteps between two updates of the weights' gradients
constexpr long BLOCK_ROWS = 128;        // gradient rows between two updates of the weights' gradients

// The columns of a gradient row that a product reads: `runs` runs of `length` numbers, `stride` apart.
struct Columns {
  long offset, runs, length, stride;
};

// The layout of rows, for each kind.
//   Saved row, per unit vector: lstm i f g o; gru q r z n with q = U_n h; cho r z n (and r * h in a separate array);
//   the rnn needs its outputs only. Gradient rows have the same layout.
template <class T> struct Shape {
  long kind, T_, B, D, F, H, P, Hp, slots, S, gates;
  bool lookup, candidate_bias;
  const int64_t *rows, *counts;
  Shape(const SeqmemCall& call)
      : kind(call.cell), T_(call.T), B(call.B), D(call.D), H(call.H), lookup(call.lookup),
        candidate_bias(call.candidate_bias), rows(call.rows), counts(call.counts) {
    F = lookup ? call.features : D;
    P = (H + LANES - 1) / LANES;
    Hp = P * LANES;
    slots = kind == LSTM || kind == GRU ? 4 : kind == GRU_CHO ? 3 : 1;
    gates = kind == LSTM ? 4 : kind == GRU || kind == GRU_CHO ? 3 : 1;
    S = slots * Hp;
  }
  long chunks() const { return (B + CHUNK - 1) / CHUNK; }
  long first(long chunk) const { return B * chunk / chunks(); }
  long row(long t) const { return rows ? rows[t] : t * B; }
  // How many of the sequences [b0, b0 + M) have a timestep t.
  long count(long t, long b0, long M) const {
    if (!counts) return M;
    long n = counts[t] - b0;
    return n < 0 ? 0 : n > M ? M : n;
  }
  // The gate of a row's slot, in torch's order. gru's n has two slots: from x in slot n, from h in slot q.
  long gate(long slot) const { return kind == GRU ? (slot == 0 || slot == 3 ? 2 : slot - 1) : slot; }
  Columns from_input() const { return kind == GRU ? Columns{LANES, P, 3 * LANES, 4 * LANES} : Columns{0, 1, S, S}; }
  Columns from_hidden() const {
    if (kind == GRU) return {0, P, 3 * LANES, 4 * LANES};
    if (kind == GRU_CHO) return {0, P, 2 * LANES, 3 * LANES};
    return {0, 1, S, S};
  }
  Columns from_candidate() const { return {2 * LANES, P, LANES, 3 * LANES}; }  // cho: r * h enters n only
  // Offsets of the packed weights: bias, forward W (or the table of D rows like the bias) and U, backward U and W.
  long bias() const { return 0; }
  long input() const { return gates * Hp; }
  long hidden() const { return input() + D * gates * Hp; }
  long hidden_back() const { return hidden() + H * gates * Hp; }
  long input_back() const { return hidden_back() + gates * Hp * Hp; }
  long candidate() const { return input_back() + gates * Hp * ((F + LANES - 1) / LANES * LANES); }  // gru: b'
  long packed() const { return candidate() + (kind == GRU ? Hp : 0); }
  // Activations saved for the backward pass: the offset of the cell states (or r * h), and the size.
  long cells() const { return kind == RNN_TANH || kind == RNN_RELU ? 0 : T_ * B * S; }
  long saved() const { return cells() + (kind == LSTM ? (T_ + 1) * B * Hp : kind == GRU_CHO ? T_ * B * Hp : 0); }
  // Size of a chunk's sums of the weights' gradients: rows for D inputs (or tokens), H units and the bias; gru's b'.
  long sums() const { return (D + H + 1) * gates * Hp + (kind == GRU ? Hp : 0); }
  bool large() const { return sums() * (long)sizeof(T) > LARGE_SUMS; }
};

template <class T> INLINE long group(const Shape<T>& s, long p) {  // number of unit vectors in an rnn's tile
  return s.P - p < 4 ? s.P - p : 4;
}

// ---- packing --------------------------------------------------------------------------------------------------------

// Gates of the units of vector p, for the forward pass: [K][gates][L], gates in the order of the tile's registers.
template <class T> T* pack_gates(const Shape<T>& s, const T* w, long K, long p, const long* gates, long n, T* out) {
  if (K == 1) {  // a bias, or a token's row: the units of a gate lie side by side
    for (long g = 0; g < n; g++)
      store<T>(out + g * LANES, load_some<T>(w + gates[g] * s.H + p * LANES, s.H - p * LANES));
    return out + n * LANES;
  }
  // In blocks of a cache line of w: the lines that they fill stay in the first-level cache until they are full.
  for (long from = 0; from < K; from += TURNED) {
    const long to = from + TURNED < K ? from + TURNED : K;
    for (long g = 0; g < n; g++)
      for (long l = 0; l < LANES; l++) {
        long unit = p * LANES + l;
        const T* row = w + (gates[g] * s.H + unit) * K;
        T* at = out + g * LANES + l;
        if (unit < s.H)
          for (long k = from; k < to; k++) at[k * n * LANES] = row[k];
        else
          for (long k = from; k < to; k++) at[k * n * LANES] = 0;
      }
  }
  return out + K * n * LANES;
}

template <class T> void pack_forward(const Shape<T>& s, const T* w, long K, bool input, T* out) {
  static const long all[] = {0, 1, 2, 3}, qrz[] = {2, 0, 1}, n[] = {2};
  if (s.kind == LSTM)
    for (long p = 0; p < s.P; p++) out = pack_gates(s, w, K, p, all, 4, out);
  else if (s.kind == GRU)  // for x: r z n, for h: q r z
    for (long p = 0; p < s.P; p++) out = pack_gates(s, w, K, p, input ? all : qrz, 3, out);
  else if (s.kind == GRU_CHO) {
    for (long p = 0; p < s.P; p++) out = pack_gates(s, w, K, p, all, 2, out);
    for (long p = 0; p < s.P; p++) out = pack_gates(s, w, K, p, n, 1, out);
  } else
    for (long p = 0, size; p < s.P; p += size) {
      size = group(s, p);
      for (long k = 0; k < K; k++)
        for (long u = p * LANES; u < (p + size) * LANES; u++) *out++ = u < s.H ? w[u * K + k] : T(0);
    }
}

// For the backward pass: [vectors of N in groups of four][columns of a gradient row][group], with N = H or F.
template <class T> T* pack_backward(const Shape<T>& s, const T* w, long N, const Columns& columns, T* out) {
  long vectors = (N + LANES - 1) / LANES;
  for (long v = 0; v < vectors; v += 4) {
    long from = v * LANES, to = (v + 4 < vectors ? v + 4 : vectors) * LANES;
    for (long r = 0; r < columns.runs; r++)
      for (long c = 0; c < columns.length; c++) {
        long at = columns.offset + r * columns.stride + c, p = at / (s.slots * LANES), in = at % (s.slots * LANES);
        long unit = p * LANES + in % LANES;
        if (s.slots == 1) unit = at;
        const T* row = w + (s.gate(in / LANES) * s.H + unit) * N;
        for (long n = from; n < to; n += LANES, out += LANES) store<T>(out, unit < s.H ? load_some<T>(row + n, N - n) : V{});
      }
  }
  return out;
}

// ---- forward --------------------------------------------------------------------------------------------------------

template <class T> struct Forward {
  Shape<T> s;
  const T *bias, *input, *hidden, *candidate;
  const T* base[CHUNK];     // the initial value of each sequence's pre-activations: the bias, or its token's row
  long features;            // of x; 0 for tokens, whose product is looked up
  long M;                   // sequences of this chunk
  const T *x = 0, *h = 0;   // rows at this timestep: [M D], [M H]
  T *out = 0, *saved = 0;   // [M H]; [M S] or null
  const T* c = 0;           // lstm: [M Hp]
  T* new_c = 0;
  T* every_c = 0;           // lstm: [M H] or null
  T *gated = 0, *kept = 0;  // cho: r * h [M Hp]; a buffer for the gates [M S] if nothing is saved
  long b0;
  explicit Forward(const SeqmemCall& call, long chunk) : s(call) {
    const T* packed = (const T*)call.packed;
    bias = packed + s.bias(), input = packed + s.input(), hidden = packed + s.hidden();
    candidate = packed + s.candidate();
    b0 = s.first(chunk), M = s.first(chunk + 1) - b0, features = s.lookup ? 0 : s.D;
    for (long m = 0; m < M; m++) base[m] = bias;
  }
};

template <class T, int MR, int NV> INLINE void rnn_tile(const Forward<T>& f, long row, long p) {
  const Shape<T>& s = f.s;
  V sums[MR][NV];
  UNROLL for (int m = 0; m < MR; m++) UNROLL for (int j = 0; j < NV; j++)
    sums[m][j] = load<T>(f.base[row + m] + (p + j) * LANES);
  multiply<T, MR, NV, NV, 0>(sums, f.x + row * f.features, f.features, f.features, f.input + p * LANES * s.D);
  multiply<T, MR, NV, NV, 0>(sums, f.h + row * s.H, s.H, s.H, f.hidden + p * LANES * s.H);
  UNROLL for (int m = 0; m < MR; m++) UNROLL for (int j = 0; j < NV; j++) {
    V x = sums[m][j];
    V h = s.kind == RNN_TANH ? tanh_<T>(x) : (x < T(0) ? V{} : x);
    store_some<T>(f.out + (row + m) * s.H + (p + j) * LANES, h, s.H - (p + j) * LANES);
  }
}
template <class T, int MR> NOINLINE void rnn(const Forward<T>& f, long row, long p) {
  switch (group(f.s, p)) {
    case 1: return rnn_tile<T, MR, 1>(f, row, p);
    case 2: return rnn_tile<T, MR, 2>(f, row, p);
    case 3: return rnn_tile<T, MR, 3>(f, row, p);
    default: return rnn_tile<T, MR, 4>(f, row, p);
  }
}

template <class T, int MR> NOINLINE void lstm(const Forward<T>& f, long row, long p) {
  const Shape<T>& s = f.s;
  V sums[MR][4];
  UNROLL for (int m = 0; m < MR; m++) UNROLL for (int j = 0; j < 4; j++)
    sums[m][j] = load<T>(f.base[row + m] + (p * 4 + j) * LANES);
  multiply<T, MR, 4, 4, 0>(sums, f.x + row * f.features, f.features, f.features, f.input + p * 4 * LANES * s.D);
  multiply<T, MR, 4, 4, 0>(sums, f.h + row * s.H, s.H, s.H, f.hidden + p * 4 * LANES * s.H);
  long n = s.H - p * LANES;
  UNROLL for (int m = 0; m < MR; m++) {
    V i = sigmoid<T>(sums[m][0]), forget = sigmoid<T>(sums[m][1]), g = tanh_<T>(sums[m][2]), o = sigmoid<T>(sums[m][3]);
    V c = forget * load<T>(f.c + (row + m) * s.Hp + p * LANES) + i * g;
    store<T>(f.new_c + (row + m) * s.Hp + p * LANES, c);
    if (f.every_c) store_some<T>(f.every_c + (row + m) * s.H + p * LANES, c, n);
    store_some<T>(f.out + (row + m) * s.H + p * LANES, o * tanh_<T>(c), n);
    if (f.saved) {
      T* keep = f.saved + (row + m) * s.S + p * 4 * LANES;
      store<T>(keep, i), store<T>(keep + LANES, forget), store<T>(keep + 2 * LANES, g), store<T>(keep + 3 * LANES, o);
    }
  }
}

template <class T, int MR> NOINLINE void gru(const Forward<T>& f, long row, long p) {
  const Shape<T>& s = f.s;
  V sums[MR][4];  // q r z n
  UNROLL for (int m = 0; m < MR; m++) UNROLL for (int j = 0; j < 4; j++)
    sums[m][j] = j ? load<T>(f.base[row + m] + (p * 3 + j - 1) * LANES) : load<T>(f.candidate + p * LANES);
  multiply<T, MR, 4, 3, 1>(sums, f.x + row * f.features, f.features, f.features, f.input + p * 3 * LANES * s.D);
  multiply<T, MR, 4, 3, 0>(sums, f.h + row * s.H, s.H, s.H, f.hidden + p * 3 * LANES * s.H);
  long units = s.H - p * LANES;
  UNROLL for (int m = 0; m < MR; m++) {
    V q = sums[m][0], r = sigmoid<T>(sums[m][1]), z = sigmoid<T>(sums[m][2]);
    V n = tanh_<T>(sums[m][3] + r * q);
    V h = load_some<T>(f.h + (row + m) * s.H + p * LANES, units);
    store_some<T>(f.out + (row + m) * s.H + p * LANES, n + z * (h - n), units);
    if (f.saved) {
      T* keep = f.saved + (row + m) * s.S + p * 4 * LANES;
      store<T>(keep, q), store<T>(keep + LANES, r), store<T>(keep + 2 * LANES, z), store<T>(keep + 3 * LANES, n);
    }
  }
}

// Cho's form needs r * h of all units before n, so it takes two passes over the units.
template <class T, int MR> NOINLINE void cho_gates(const Forward<T>& f, long row, long p) {
  const Shape<T>& s = f.s;
  V sums[MR][2];
  UNROLL for (int m = 0; m < MR; m++) UNROLL for (int j = 0; j < 2; j++)
    sums[m][j] = load<T>(f.base[row + m] + (p * 2 + j) * LANES);
  multiply<T, MR, 2, 2, 0>(sums, f.x + row * f.features, f.features, f.features, f.input + p * 2 * LANES * s.D);
  multiply<T, MR, 2, 2, 0>(sums, f.h + row * s.H, s.H, s.H, f.hidden + p * 2 * LANES * s.H);
  UNROLL for (int m = 0; m < MR; m++) {
    V r = sigmoid<T>(sums[m][0]), z = sigmoid<T>(sums[m][1]);
    V h = load_some<T>(f.h + (row + m) * s.H + p * LANES, s.H - p * LANES);
    T* keep = f.saved ? f.saved + (row + m) * s.S + p * 3 * LANES : f.kept + (row + m) * s.S + p * 3 * LANES;
    store<T>(keep, r), store<T>(keep + LANES, z);
    store<T>(f.gated + (row + m) * s.Hp + p * LANES, r * h);
  }
}
template <class T, int MR> NOINLINE void cho_candidate(const Forward<T>& f, long row, long p) {
  const Shape<T>& s = f.s;
  long before = 2 * s.P + p;  // vectors of bias, W and U that precede: those of the gates and of earlier units
  V sums[MR][1];
  UNROLL for (int m = 0; m < MR; m++) sums[m][0] = load<T>(f.base[row + m] + before * LANES);
  multiply<T, MR, 1, 1, 0>(sums, f.x + row * f.features, f.features, f.features, f.input + before * LANES * s.D);
  multiply<T, MR, 1, 1, 0>(sums, f.gated + row * s.Hp, s.Hp, s.H, f.hidden + before * LANES * s.H);
  long units = s.H - p * LANES;
  UNROLL for (int m = 0; m < MR; m++) {
    T* keep = f.saved ? f.saved + (row + m) * s.S + p * 3 * LANES : f.kept + (row + m) * s.S + p * 3 * LANES;
    V n = tanh_<T>(sums[m][0]), z = load<T>(keep + LANES);
    V h = load_some<T>(f.h + (row + m) * s.H + p * LANES, units);
    store<T>(keep + 2 * LANES, n);
    store_some<T>(f.out + (row + m) * s.H + p * LANES, n + z * (h - n), units);
  }
}

template <class T> int forward_chunk(const SeqmemCall& call, long chunk) {
  Forward<T> f(call, chunk);
  const Shape<T>& s = f.s;
  const long b0 = f.b0;
  T *saved = (T*)call.saved, *own = nullptr, *cells = nullptr, *gated = nullptr;
  long cell_step = 0;  // distance between the c (or r * h) of consecutive timesteps
  if (s.kind == LSTM || s.kind == GRU_CHO) {
    if (saved) {
      cells = saved + s.cells() + b0 * (s.kind == LSTM ? s.T_ + 1 : s.T_) * s.Hp;
      cell_step = f.M * s.Hp;
    } else {
      cells = own = scratch<T>(f.M * (s.Hp + s.S));
      if (!own) return NO_MEMORY;
    }
    if (s.kind == GRU_CHO) gated = cells, f.kept = saved ? nullptr : own + f.M * s.Hp;
  }
  if (s.kind == LSTM)
    for (long m = 0; m < f.M; m++)
      for (long p = 0; p < s.P; p++)
        store<T>(cells + m * s.Hp + p * LANES,
                 load_some<T>((const T*)call.start_cell + (b0 + m) * s.H + p * LANES, s.H - p * LANES));
  for (long t = 0; t < s.T_; t++) {
    const long M = s.count(t, b0, f.M), at = s.row(t) + b0;
    if (s.lookup) {
      const int64_t* tokens = (const int64_t*)call.xs + t * s.B + b0;
      for (long m = 0; m < f.M; m++) {
        if (tokens[m] < 0 || tokens[m] >= s.D) {
          free(own);
          return NO_SUCH_TOKEN;
        }
        f.base[m] = f.input + tokens[m] * s.gates * s.Hp;
      }
    } else
      f.x = (const T*)call.xs + at * s.D;
    f.h = t ? (const T*)call.outputs + (s.row(t - 1) + b0) * s.H : (const T*)call.start_hidden + b0 * s.H;
    f.out = (T*)call.outputs + at * s.H;
    f.every_c = call.cells ? (T*)call.cells + at * s.H : nullptr;
    f.saved = saved && s.cells() ? saved + (b0 * s.T_ + t * f.M) * s.S : nullptr;
    if (s.kind == LSTM) f.c = cells + t * cell_step, f.new_c = cells + (t + 1) * cell_step;
    if (s.kind == GRU_CHO) f.gated = gated + t * cell_step;
    switch (s.kind) {
      case LSTM:
        for (long p = 0; p < s.P; p++) FOR_TILES(M, row, rows) TILES(lstm, rows, f, row, p)
        break;
      case GRU:
        for (long p = 0; p < s.P; p++) FOR_TILES(M, row, rows) TILES(gru, rows, f, row, p)
        break;
      case GRU_CHO:
        for (long p = 0; p < s.P; p++) FOR_TILES(M, row, rows) TILES(cho_gates, rows, f, row, p)
        for (long p = 0; p < s.P; p++) FOR_TILES(M, row, rows) TILES(cho_candidate, rows, f, row, p)
        break;
      default:
        for (long p = 0; p < s.P; p += 4) FOR_TILES(M, row, rows) TILES(rnn, rows, f, row, p)
    }
  }
  if (s.kind == LSTM && call.final_cell)
    for (long m = 0, end = s.T_; m < f.M; m++) {
      while (end && s.count(end - 1, b0, f.M) <= m) end--;  // the sequence's own end; later ones end no later
      memcpy((T*)call.final_cell + (b0 + m) * s.H, cells + end * cell_step + m * s.Hp, s.H * sizeof(T));
    }
  free(own);
  return 0;
}

// ---- backward -------------------------------------------------------------------------------------------------------

template <class T> struct Backward {
  Shape<T> s;
  const T *hidden, *input;                      // packed for the backward pass
  long b0, M;                                   // sequences of this chunk
  T *dh = 0, *dc = 0;                           // [M Hp]: dL/dh_t and dL/dc_t, accumulated
  T* dgated = 0;                                // cho: dL/d(r * h) [M Hp]
  const T *h = 0, *new_h = 0;                   // rows h_{t-1}, h_t: [M H]
  const T *c = 0, *new_c = 0, *saved = 0;       // [M Hp], [M Hp], [M S]
  const T *grad_out = 0, *grad_cell = 0;        // [M H] or null
  T* row = 0;                                   // gradient of the pre-activations at this timestep: [M S]
  T* grad_x = 0;                                // [M F] or null
  T *at_hidden = 0, *at_cell = 0;               // dL/dh_t and dL/dc_t of the current sequence: [H], or null
  explicit Backward(const SeqmemCall& call, long chunk) : s(call) {
    hidden = (const T*)call.packed + s.hidden_back(), input = (const T*)call.packed + s.input_back();
    b0 = s.first(chunk), M = s.first(chunk + 1) - b0;
  }
};

// From dL/dh_t (completed here by the gradient of the output) to the gradient of the pre-activations, for L units.
template <class T> INLINE void unroll_gates(const Backward<T>& b, long m, long p) {
  const Shape<T>& s = b.s;
  long units = s.H - p * LANES, at = m * s.Hp + p * LANES, there = m * s.H + p * LANES;
  V d = load<T>(b.dh + at);
  if (b.grad_out) d += load_some<T>(b.grad_out + there, units);
  if (b.at_hidden) store_some<T>(b.at_hidden + p * LANES, d, units);
  T* row = b.row + m * s.S + p * s.slots * LANES;
  const T* saved = s.cells() ? b.saved + m * s.S + p * s.slots * LANES : nullptr;
  if (s.kind == LSTM) {
    V i = load<T>(saved), f = load<T>(saved + LANES), g = load<T>(saved + 2 * LANES), o = load<T>(saved + 3 * LANES);
    V tanh_c = tanh_<T>(load<T>(b.new_c + at));
    V dc = load<T>(b.dc + at) + d * (o * (T(1) - tanh_c * tanh_c));
    if (b.grad_cell) dc += load_some<T>(b.grad_cell + there, units);
    if (b.at_cell) store_some<T>(b.at_cell + p * LANES, dc, units);
    store<T>(row, dc * (g * (i * (T(1) - i))));
    store<T>(row + LANES, dc * (load<T>(b.c + at) * (f * (T(1) - f))));
    store<T>(row + 2 * LANES, dc * (i * (T(1) - g * g)));
    store<T>(row + 3 * LANES, d * (tanh_c * (o * (T(1) - o))));
    store<T>(b.dc + at, dc * f);
    return;
  }
  if (s.kind == GRU) {
    V q = load<T>(saved), r = load<T>(saved + LANES), z = load<T>(saved + 2 * LANES), n = load<T>(saved + 3 * LANES);
    V h = load_some<T>(b.h + there, units);
    V dn = d * ((T(1) - z) * (T(1) - n * n));
    store<T>(row, dn * r);
    store<T>(row + LANES, dn * (q * (r * (T(1) - r))));
    store<T>(row + 2 * LANES, d * ((h - n) * (z * (T(1) - z))));
    store<T>(row + 3 * LANES, dn);
    store<T>(b.dh + at, d * z);  // the direct path to h_{t-1}; the products are added later
    return;
  }
  if (s.kind == GRU_CHO) {
    V z = load<T>(saved + LANES), n = load<T>(saved + 2 * LANES), h = load_some<T>(b.h + there, units);
    store<T>(row + LANES, d * ((h - n) * (z * (T(1) - z))));
    store<T>(row + 2 * LANES, d * ((T(1) - z) * (T(1) - n * n)));
    store<T>(b.dh + at, d * z);
    return;
  }
  V h = load_some<T>(b.new_h + there, units);
  store<T>(row, s.kind == RNN_TANH ? d * (T(1) - h * h) : (h > T(0) ? d : V{}));
}

// Gradient rows times packed weights, for one group of result vectors.
template <class T, int MR, int NV>
INLINE void product(V (&sums)[MR][NV], const T* rows, long S, const Columns& columns, const T* weights) {
  for (long r = 0; r < columns.runs; r++) {
    multiply<T, MR, NV, NV, 0>(sums, rows + columns.offset + r * columns.stride, S, columns.length, weights);
    weights += columns.length * NV * LANES;
  }
}

template <class T, int MR, int NV>
INLINE void to_units(const Backward<T>& b, long row, long p, const Columns& columns, const T* weights, T* to, bool add) {
  const Shape<T>& s = b.s;
  V sums[MR][NV];
  UNROLL for (int m = 0; m < MR; m++) UNROLL for (int j = 0; j < NV; j++)
    sums[m][j] = add ? load<T>(to + (row + m) * s.Hp + (p + j) * LANES) : V{};
  product<T, MR, NV>(sums, b.row + row * s.S, s.S, columns, weights + p * LANES * columns.runs * columns.length);
  UNROLL for (int m = 0; m < MR; m++) UNROLL for (int j = 0; j < NV; j++)
    store<T>(to + (row + m) * s.Hp + (p + j) * LANES, sums[m][j]);
}
template <class T, int MR>
NOINLINE void units(const Backward<T>& b, long row, long p, const Columns& columns, const T* weights, T* to, bool add) {
  switch (group(b.s, p)) {
    case 1: return to_units<T, MR, 1>(b, row, p, columns, weights, to, add);
    case 2: return to_units<T, MR, 2>(b, row, p, columns, weights, to, add);
    case 3: return to_units<T, MR, 3>(b, row, p, columns, weights, to, add);
    default: return to_units<T, MR, 4>(b, row, p, columns, weights, to, add);
  }
}

template <class T, int MR, int NV> INLINE void to_inputs(const Backward<T>& b, long row, long v, const Columns& columns) {
  const Shape<T>& s = b.s;
  V sums[MR][NV] = {};
  product<T, MR, NV>(sums, b.row + row * s.S, s.S, columns, b.input + v * LANES * columns.runs * columns.length);
  UNROLL for (int m = 0; m < MR; m++) UNROLL for (int j = 0; j < NV; j++)
    store_some<T>(b.grad_x + (row + m) * s.F + (v + j) * LANES, sums[m][j], s.F - (v + j) * LANES);
}
template <class T, int MR> NOINLINE void inputs(const Backward<T>& b, long row, long v, const Columns& columns) {
  long vectors = (b.s.F + LANES - 1) / LANES - v;
  switch (vectors < 4 ? vectors : 4) {
    case 1: return to_inputs<T, MR, 1>(b, row, v, columns);
    case 2: return to_inputs<T, MR, 2>(b, row, v, columns);
    case 3: return to_inputs<T, MR, 3>(b, row, v, columns);
    default: return to_inputs<T, MR, 4>(b, row, v, columns);
  }
}

// ---- gradients of the weights ---------------------------------------------------------------------------------------

// The left factor of a weight gradient over a block of timesteps: rows [M][width] of inputs or states.
template <class T> struct Left {
  const T* at[BLOCK_STEPS];  // of each timestep
  long width;
};

// The right factor: some columns of all gradient rows of a block, [steps][M] rows `stride` numbers apart.
template <class T> struct Strip {
  long steps, M, stride;
  const T* rows;
  const long* counts;  // [steps]: the first so many of the M rows are there
};

template <class T, int MR, int NV>
INLINE void weigh_tile(const Strip<T>& k, const Left<T>& left, long u, long column, T* sums, long stride) {
  V total[MR][NV];
  UNROLL for (int m = 0; m < MR; m++) UNROLL for (int j = 0; j < NV; j++)
    total[m][j] = load<T>(sums + (u + m) * stride + j * LANES);
  for (long t = k.steps - 1; t >= 0; t--) {
    const T* a = left.at[t] + u;
    const T* g = k.rows + t * k.M * k.stride + column * LANES;
    for (long b = 0, n = k.counts[t]; b < n; b++, a += left.width, g += k.stride)
      add_products<T, MR, NV, NV, 0>(total, [&](int m) { return a[m]; }, g);
  }
  UNROLL for (int m = 0; m < MR; m++) UNROLL for (int j = 0; j < NV; j++)
    store<T>(sums + (u + m) * stride + j * LANES, total[m][j]);
}
template <class T, int MR>
NOINLINE void weigh(const Strip<T>& k, const Left<T>& left, long u, long column, long n, T* sums, long stride) {
  switch (n) {
    case 1: return weigh_tile<T, MR, 1>(k, left, u, column, sums, stride);
    case 2: return weigh_tile<T, MR, 2>(k, left, u, column, sums, stride);
    case 3: return weigh_tile<T, MR, 3>(k, left, u, column, sums, stride);
    default: return weigh_tile<T, MR, 4>(k, left, u, column, sums, stride);
  }
}

// For all units u: sums[u][0 .. n) += sum over the block of left[u] * strip[column .. column + n), n in vectors.
template <class T>
void weigh_all(const Strip<T>& k, const Left<T>& left, long units, long column, long n, T* sums, long stride) {
  FOR_TILES(units, u, rows) TILES(weigh, rows, k, left, u, column, n, sums, stride)
}

template <class T> void weigh_bias(const Strip<T>& k, long column, long n, T* sums) {
  for (long j = 0; j < n; j++) {
    V total = load<T>(sums + j * LANES);
    for (long t = k.steps - 1; t >= 0; t--)
      for (long b = 0; b < k.counts[t]; b++) total += load<T>(k.rows + (t * k.M + b) * k.stride + (column + j) * LANES);
    store<T>(sums + j * LANES, total);
  }
}

// Add each gradient row to the sum of its token's row of the table. tokens: [steps], B apart.
template <class T>
void weigh_tokens(const Shape<T>& s, long steps, long M, const T* rows, const int64_t* tokens, T* sums) {
  const long from = s.kind == GRU ? 1 : 0;
  for (long t = steps - 1; t >= 0; t--)
    for (long b = 0; b < M; b++) {
      const T* row = rows + (t * M + b) * s.S + from * LANES;
      T* sum = sums + tokens[t * s.B + b] * s.gates * s.Hp;
      for (long p = 0; p < s.P; p++, row += s.slots * LANES)
        for (long g = 0; g < s.gates; g++, sum += LANES) store<T>(sum, load<T>(sum) + load<T>(row + g * LANES));
    }
}

// Add a block's gradient rows [steps][M][S] to the sums of all weights. Tokens have no x: see weigh_tokens.
template <class T>
void weigh_block(const Shape<T>& s, long steps, long M, const long* counts, const T* rows, T* strip, const Left<T>& x,
                 const Left<T>& h, const Left<T>& gated, T* sums) {
  const long wide = s.gates * s.Hp;
  T *of_x = sums, *of_h = sums + s.D * wide, *of_bias = of_h + s.H * wide;
  const bool gates = s.gates > 1;
  for (long p = 0, size; p < s.P; p += size) {
    size = gates ? 1 : group(s, p);
    const long columns = size * s.slots * LANES;
    Strip<T> k{steps, M, s.S, rows + p * s.slots * LANES, counts};
    if (s.large()) {  // copy: rows a power of two apart would conflict in the few sets of the first-level cache
      for (long i = 0; i < steps * M; i++) memcpy(strip + i * columns, k.rows + i * s.S, columns * sizeof(T));
      k.rows = strip, k.stride = columns;
    }
    long from = s.kind == GRU ? 1 : 0, n = gates ? s.gates : size, at = p * s.gates * LANES;
    if (!s.lookup) {
      weigh_all(k, x, s.D, from, n, of_x + at, wide);
      weigh_bias(k, from, n, of_bias + at);
      if (s.candidate_bias) weigh_bias(k, 0, 1, of_bias + wide + p * LANES);
    }
    if (s.kind == GRU_CHO) {
      weigh_all(k, h, s.H, 0, 2, of_h + p * 2 * LANES, wide);
      weigh_all(k, gated, s.H, 2, 1, of_h + 2 * s.Hp + p * LANES, wide);
    } else
      weigh_all(k, h, s.H, 0, n, of_h + at, wide);
  }
}

template <class T> int backward_chunk(const SeqmemCall& call, long chunk) {
  Backward<T> b(call, chunk);
  const Shape<T>& s = b.s;
  const long b0 = b.b0, M = b.M;
  // Timesteps per block. Large sums fill the cache, so larger blocks visit them half as often.
  long size = BLOCK_ROWS * (s.large() ? 2 : 1) / M;
  size = size > BLOCK_STEPS ? BLOCK_STEPS : size;
  T* memory = scratch<T>(M * (3 * s.Hp + size * (s.S + 4 * LANES) + s.F) + 2 * s.H);
  if (!memory) return NO_MEMORY;
  b.dh = memory, b.dc = memory + M * s.Hp, b.dgated = b.dc + M * s.Hp;
  T *rows = b.dgated + M * s.Hp, *strip = rows + M * size * s.S, *inputs_at = strip + M * size * 4 * LANES;
  T *norm_input = (T*)call.norm_input, *norm_hidden = (T*)call.norm_hidden, *norm_cell = (T*)call.norm_cell;
  if (norm_hidden) b.at_hidden = inputs_at + M * s.F;
  if (norm_cell) b.at_cell = inputs_at + M * s.F + s.H;
  const T* saved = (const T*)call.saved;
  // lstm: c; cho: r * h
  const T* states = s.cells() ? saved + s.cells() + b0 * (s.kind == LSTM ? s.T_ + 1 : s.T_) * s.Hp : nullptr;
  for (long m = 0; m < M; m++)
    for (long p = 0; p < s.P; p++) {
      long there = (b0 + m) * s.H + p * LANES, n = s.H - p * LANES;
      store<T>(b.dh + m * s.Hp + p * LANES, load_some<T>((const T*)call.grad_hidden + there, n));
      if (s.kind == LSTM)
        store<T>(b.dc + m * s.Hp + p * LANES, load_some<T>((const T*)call.grad_cell + there, n));
    }
  T* sums = call.grad_sums ? (T*)call.grad_sums + chunk * s.sums() : nullptr;
  const T *xs = s.lookup ? nullptr : (const T*)call.xs, *outputs = (const T*)call.outputs, *start = (const T*)call.start_hidden + b0 * s.H;
  const bool gru_like = s.kind == GRU || s.kind == GRU_CHO;
  const long inputs_wide = (s.F + LANES - 1) / LANES;

  for (long end = s.T_; end > 0;) {
    long begin = end > size ? end - size : 0, counts[BLOCK_STEPS];
    for (long t = end - 1; t >= begin; t--) {
      const long n = counts[t - begin] = s.count(t, b0, M), at = s.row(t) + b0;
      b.h = t ? outputs + (s.row(t - 1) + b0) * s.H : start;
      b.new_h = outputs + at * s.H;
      if (s.cells()) b.saved = saved + (b0 * s.T_ + t * M) * s.S;
      if (s.kind == LSTM) b.c = states + t * M * s.Hp, b.new_c = states + (t + 1) * M * s.Hp;
      b.grad_out = call.grad_outputs ? (const T*)call.grad_outputs + at * s.H : nullptr;
      b.grad_cell = call.grad_cells ? (const T*)call.grad_cells + at * s.H : nullptr;
      b.row = rows + (t - begin) * M * s.S;
      b.grad_x = call.grad_xs ? (T*)call.grad_xs + at * s.F : norm_input ? inputs_at : nullptr;
      for (long m = 0; m < n; m++) {
        for (long p = 0; p < s.P; p++) unroll_gates<T>(b, m, p);
        if (norm_hidden) norm_hidden[t * s.B + b0 + m] = norm<T>(b.at_hidden, s.H);
        if (norm_cell) norm_cell[t * s.B + b0 + m] = norm<T>(b.at_cell, s.H);
      }
      if (s.kind == GRU_CHO) {
        const T* candidate = b.hidden + 2 * s.Hp * s.Hp;
        for (long p = 0; p < s.P; p += 4)
          FOR_TILES(n, row, rows) TILES(units, rows, b, row, p, s.from_candidate(), candidate, b.dgated, false)
        for (long m = 0; m < n; m++)
          for (long p = 0; p < s.P; p++) {
            long at = m * s.Hp + p * LANES;
            V d = load<T>(b.dgated + at), r = load<T>(b.saved + m * s.S + p * 3 * LANES);
            V h = load_some<T>(b.h + m * s.H + p * LANES, s.H - p * LANES);
            store<T>(b.row + m * s.S + p * 3 * LANES, d * (h * (r * (T(1) - r))));
            store<T>(b.dh + at, load<T>(b.dh + at) + d * r);
          }
      }
      for (long p = 0; p < s.P; p += 4)
        FOR_TILES(n, row, rows) TILES(units, rows, b, row, p, s.from_hidden(), b.hidden, b.dh, gru_like)
      if (b.grad_x)
        for (long v = 0; v < inputs_wide; v += 4) FOR_TILES(n, row, rows) TILES(inputs, rows, b, row, v, s.from_input())
      if (norm_input)
        for (long m = 0; m < n; m++) norm_input[t * s.B + b0 + m] = norm<T>(b.grad_x + m * s.F, s.F);
    }
    if (sums) {
      Left<T> x, h, gated;
      x.width = s.D, h.width = s.H, gated.width = s.Hp;
      for (long t = begin; t < end; t++) {
        h.at[t - begin] = t ? outputs + (s.row(t - 1) + b0) * s.H : start;
        if (!s.lookup) x.at[t - begin] = xs + (s.row(t) + b0) * s.D;
        if (s.kind == GRU_CHO) gated.at[t - begin] = states + t * M * s.Hp;
      }
      if (s.lookup) weigh_tokens(s, end - begin, M, rows, (const int64_t*)call.xs + begin * s.B + b0, sums);
      weigh_block(s, end - begin, M, counts, rows, strip, x, h, gated, sums);
    }
    end = begin;
  }
  for (long m = 0; m < M; m++) {
    memcpy((T*)call.grad_hidden + (b0 + m) * s.H, b.dh + m * s.Hp, s.H * sizeof(T));
    if (s.kind == LSTM) memcpy((T*)call.grad_cell + (b0 + m) * s.H, b.dc + m * s.Hp, s.H * sizeof(T));
  }
  free(memory);
  return 0;
}

// ---- the functions --------------------------------------------------------------------------------------------------

// `w`: W, or the table of the tokens. `w_back`: W, for dL/dx; unused if F is 0.
template <class T>
void pack(const SeqmemCall& call, const T* w, const T* u, const T* bias, const T* w_back, T* out, bool back) {
  Shape<T> s(call);
  if (s.lookup) {
    for (long token = 0; token < s.D; token++)
      pack_forward(s, w + token * s.gates * s.H, 1, true, out + s.input() + token * s.gates * s.Hp);
  } else {
    pack_forward(s, bias, 1, true, out + s.bias());
    pack_forward(s, w, s.D, true, out + s.input());
  }
  pack_forward(s, u, s.H, false, out + s.hidden());
  if (s.kind == GRU)
    for (long p = 0; p < s.P; p++) {
      long n = s.H - p * LANES;
      store<T>(out + s.candidate() + p * LANES, s.candidate_bias ? load_some<T>(bias + 3 * s.H + p * LANES, n) : V{});
    }
  if (!back) return;
  T* end = pack_backward(s, u, s.H, s.from_hidden(), out + s.hidden_back());
  if (s.kind == GRU_CHO) pack_backward(s, u, s.H, s.from_candidate(), end);
  if (s.F) pack_backward(s, w_back, s.F, s.from_input(), out + s.input_back());
}

// Vector v of a row of the sums: that of `gate` of the units from p on, but for cho's rows of U.
template <class T>
INLINE void reduce_one(const Shape<T>& s, const T* sums, long each, long row, long v, long p, long gate, T* w, T* u,
                       T* bias) {
  V total = load<T>(sums);
  for (long c = 1; c < s.chunks(); c++) total += load<T>(sums + c * each);
  bool hidden = row >= s.D && row < s.D + s.H;
  if (s.kind == GRU) gate = hidden ? s.gate(gate) : s.gate(gate + 1);
  if (s.kind == GRU_CHO && hidden) {  // r and z of all units, then n of all units
    p = v < 2 * s.P ? v / 2 : v - 2 * s.P;
    gate = v < 2 * s.P ? v % 2 : 2;
  }
  long n = s.H - p * LANES < LANES ? s.H - p * LANES : LANES, first = gate * s.H + p * LANES;
  if (row < s.D && s.lookup) return store_some<T>(w + row * s.gates * s.H + first, total, n);
  T lanes[LANES];
  store<T>(lanes, total);
  if (row < s.D)
    for (long l = 0; l < n; l++) w[(first + l) * s.D + row] = lanes[l];
  else if (hidden)
    for (long l = 0; l < n; l++) u[(first + l) * s.H + row - s.D] = lanes[l];
  else if (!s.lookup)
    for (long l = 0; l < n; l++) bias[first + l] = lanes[l];
}

// Reduce the chunks' sums, [D + H + 1][columns], to gradients in torch's layout: W [G*H D], U [G*H H], bias [G*H], and
// b' behind it. With
// tokens, the gradient of the table [D G*H] takes W's place, and there is no bias.
template <class T> void reduce(const SeqmemCall& call, T* w, T* u, T* bias) {
  Shape<T> s(call);
  const T* sums = (const T*)call.grad_sums;
  const long wide = s.gates * s.Hp, chunks = s.chunks(), each = s.sums();
  const long all = s.D + s.H + 1;
  for (long from = 0; from < all; from += TURNED)
    for (long v = 0, p = 0, gate = 0; v < s.gates * s.P; v++) {  // v = p * gates + gate
      for (long row = from; row < all && row < from + TURNED; row++)
        reduce_one(s, sums + row * wide + v * LANES, each, row, v, p, gate, w, u, bias);
      if (++gate == s.gates) gate = 0, p++;
    }
  if (!s.candidate_bias) return;
  sums += (s.D + s.H + 1) * wide;
  for (long p = 0; p < s.P; p++) {
    V total = load<T>(sums + p * LANES);
    for (long c = 1; c < chunks; c++) total += load<T>(sums + c * each + p * LANES);
    store_some<T>(bias + 3 * s.H + p * LANES, total, s.H - p * LANES);
  }
}

// h_t = a_t h_{t-1} + b_t over N independent numbers; outputs [T N].
template <class T> void linear(long T_, long N, const T* a, const T* b, const T* start, T* outputs) {
  for (long t = 0; t < T_; t++) {
    const T *h = t ? outputs + (t - 1) * N : start, *at = a + t * N, *bt = b + t * N;
    T* out = outputs + t * N;
    for (long n = 0; n < N; n++) out[n] = at[n] * h[n] + bt[n];
  }
}

// carry [N], in and out: dL/dh of the final state, then of the initial one. grad_b_t equals dL/dh_t.
template <class T>
void linear_back(long T_, long N, const T* a, const T* start, const T* outputs, const T* grad, T* grad_a, T* grad_b, T* carry) {
  for (long t = T_ - 1; t >= 0; t--) {
    const T *h = t ? outputs + (t - 1) * N : start, *at = a + t * N, *gt = grad + t * N;
    T *ga = grad_a + t * N, *gb = grad_b + t * N;
    for (long n = 0; n < N; n++) {
      T d = carry[n] + gt[n];
      gb[n] = d;
      ga[n] = d * h[n];
      carry[n] = d * at[n];
    }
  }
}

template <class T> void nonlinearity(long which, long n, const T* x, T* y) {
  for (long i = 0; i < n; i += LANES) {
    V v = load_some<T>(x + i, n - i);
    store_some<T>(y + i, which ? tanh_<T>(v) : sigmoid<T>(v), n - i);
  }
}

}  // namespace

#define EXPORT(T, type)                                                                                              \
  API void NAME(sizes, type)(const SeqmemCall* call, int64_t* packed, int64_t* saved, int64_t* sums) {               \
    Shape<T> s(*call);                                                                                               \
    *packed = s.packed(), *saved = s.saved(), *sums = s.sums() * s.chunks();                                         \
  }                                                                                                                  \
  API void NAME(pack, type)(const SeqmemCall* call, const T* w, const T* u, const T* bias, const T* w_back, T* out,  \
                            int64_t back) {                                                                          \
    pack<T>(*call, w, u, bias, w_back, out, back);                                                                   \
  }                                                                                                                  \
  API int64_t NAME(forward, type)(const SeqmemCall* call) {                                                          \
    return run(call, forward_chunk<T>, Shape<T>(*call).chunks());                                                    \
  }                                                                                                                  \
  API int64_t NAME(backward, type)(const SeqmemCall* call) {                                                         \
    return run(call, backward_chunk<T>, Shape<T>(*call).chunks());                                                   \
  }                                                                                                                  \
  API void NAME(reduce, type)(const SeqmemCall* call, T* w, T* u, T* bias) { reduce<T>(*call, w, u, bias); }         \
  API void NAME(linear, type)(int64_t steps, int64_t n, const T* a, const T* b, const T* start, T* outputs) {        \
    linear<T>(steps, n, a, b, start, outputs);                                                                       \
  }                                                                                                                  \
  API void NAME(linear_back, type)(int64_t steps, int64_t n, const T* a, const T* start, const T* outputs,           \
                                   const T* grad, T* grad_a, T* grad_b, T* carry) {                                  \
    linear_back<T>(steps, n, a, start, outputs, grad, grad_a, grad_b, carry);                                        \
  }                                                                                                                  \
  API void NAME(nonlinearity, type)(int64_t which, int64_t n, const T* x, T* y) { nonlinearity<T>(which, n, x, y); }

EXPORT(float, f32)
EXPORT(double, f64)
