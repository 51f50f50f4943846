// Units with many complex modes each, whose multipliers are the same at every timestep (S4D's): a whole sequence, forward
// and backward, on one instruction set.
//
// Compiled once per instruction set (see simd.hpp). Fixed multipliers have tables of their powers, so a block
// of timesteps is a product of small matrices for each unit, without a chain of dependent multiplications:
//
//     new state = turn * old state + sum over t of write[t] u_t
//     y_t       = sum over i of read[t][i] state[i]  +  sum over s <= t of response[t - s] u_s
//
// That is two multiplications for each mode and timestep instead of six, at asked timesteps four instead of eight. A lane
// is a unit. States are kept between blocks only. A last block of fewer timesteps ends where `write` ends.
//
// A batch is cut into chunks of at most 16 sequences, independent of the number of threads. Sums are accumulated in one
// order, so that the bits do not depend on the number of threads, nor on a cut between two blocks.
//
// Names: T timesteps, B sequences, H units, N modes per unit, L lanes of a vector, P vectors of units, M sequences of a
// chunk, K blocks, I numbers of a unit's state (real parts, imaginary parts), padded to groups of 4.

#include "simd.hpp"

// One call: a layer over T timesteps. Pointers may be null only where noted. modes.py mirrors this structure.
struct SeqmemModes {
  int64_t T, B, H, N;
  int64_t threads;
  int64_t first;           // the first timestep whose y is asked for
  const void* u;           // [T B H]
  const void* parameters;  // [6 N H]: a, b and c, each its real and then its imaginary part
  void* tables;            // see Tables: made by modes_tables of the parameters, for all T timesteps
  void* edges;             // [K + 1, B 2 N H]: the states before each block, and the last ones. In: the first row
  void* y;                 // [T - first, B H]; likewise grad_y
  const void* grad_y;      // null: zero
  void* carry;             // [B 2 N H], in and out: dL/ds of the final states, then of the initial ones
  void* grad_u;            // [T B H]
  void* grad_tables;       // [chunks], the tables' sizes: sums
  void* grad_parameters;   // [6 N H]: made by modes_parameters of grad_tables
};

#define A typename Simd<T>::Anywhere  // of the caller's tables

namespace {

constexpr long CHUNK = 16;  // most sequences in a chunk
constexpr long BLOCK = 32;  // timesteps
constexpr long GROUP = 4;   // vectors of a tile of a product, beside TILE_ROWS rows: its sums stay in registers

template <class T> struct Layout {
  long T_, B, H, N, I, P, b0, M, chunks, blocks;
  explicit Layout(const SeqmemModes& call) : T_(call.T), B(call.B), H(call.H), N(call.N) {
    I = (2 * N + GROUP - 1) / GROUP * GROUP;
    P = (H + LANES - 1) / LANES;
    chunks = (B + CHUNK - 1) / CHUNK;
    blocks = (T_ + BLOCK - 1) / BLOCK;
  }
  void choose(long chunk) { b0 = B * chunk / chunks, M = B * (chunk + 1) / chunks - b0; }
  long units(long p) const { return H - p * LANES < LANES ? H - p * LANES : LANES; }
  long tables() const { return (2 * I + 1) * BLOCK + 4 * N; }  // vectors of all tables for L units
  long scratch() const { return M * (2 * BLOCK + I + (I < BLOCK ? BLOCK : I)); }
};

// The tables of L units. a^l is a product of two powers, so that rounding errors grow with the logarithm of l.
template <class T> struct Tables {
  A *write, *read;  // [I / 4, BLOCK, 4]: b a^(BLOCK - 1 - t); c a^(t + 1), conjugated
  A* response;      // [BLOCK]: the real part of the sum over modes of c b a^l
  A* turn;          // [2, 2 (real, imaginary), N]: a^BLOCK; a^(timesteps of a shorter last block)
  Tables(const Layout<T>& l, const void* tables, long p) {
    write = (A*)((T*)tables + p * l.tables() * LANES);
    read = write + l.I * BLOCK, response = read + l.I * BLOCK, turn = response + BLOCK;
  }
};

// What a block reads and writes, for L units of all sequences of a chunk.
template <class T> struct Tile {
  V *u, *y;         // [M BLOCK]; y: or its gradient, or u's
  V *state, *next;  // [M I]; next: or [M BLOCK], the gradient of y
  Tile(const Layout<T>& l, V* memory) {
    u = memory, y = u + l.M * BLOCK, state = y + l.M * BLOCK, next = state + l.M * l.I;
  }
};

// ---- products: x [M BLOCK] over timesteps, s [M I] over the numbers of a state, a table [I / 4, BLOCK, 4] of both --------

// s[m][i] += sum over t of x[m][t] * table[t + shift][i], for MR sequences.
template <class T, int MR> NOINLINE void into_state(const V* x, const A* table, V* s, long I, long from, long steps) {
  for (long i = 0; i < I; i += GROUP, table += BLOCK * GROUP) {
    V sums[MR][GROUP];
    UNROLL for (int m = 0; m < MR; m++) UNROLL for (int j = 0; j < GROUP; j++) sums[m][j] = s[m * I + i + j];
    for (long t = from; t < steps; t++) {
      V factor[MR];
      UNROLL for (int m = 0; m < MR; m++) factor[m] = x[m * BLOCK + t];
      UNROLL for (int j = 0; j < GROUP; j++) {
        V row = table[t * GROUP + j];
        UNROLL for (int m = 0; m < MR; m++) sums[m][j] += factor[m] * row;
      }
    }
    UNROLL for (int m = 0; m < MR; m++) UNROLL for (int j = 0; j < GROUP; j++) s[m * I + i + j] = sums[m][j];
  }
}

// x[m][t + j] = sum over i of s[m][i] * table[t + j][i], for MR sequences and WIDE timesteps.
template <class T, int MR, int WIDE> INLINE void some_timesteps(const V* s, const A* table, V* x, long I, long t) {
  V sums[MR][WIDE] = {};
  for (long i = 0; i < I; i += GROUP)
    UNROLL for (int k = 0; k < GROUP; k++) {
      V factor[MR];
      UNROLL for (int m = 0; m < MR; m++) factor[m] = s[m * I + i + k];
      UNROLL for (int j = 0; j < WIDE; j++) {
        V row = table[(i / GROUP * BLOCK + t + j) * GROUP + k];
        UNROLL for (int m = 0; m < MR; m++) sums[m][j] += factor[m] * row;
      }
    }
  UNROLL for (int m = 0; m < MR; m++) UNROLL for (int j = 0; j < WIDE; j++) x[m * BLOCK + t + j] = sums[m][j];
}
template <class T, int MR> NOINLINE void into_time(const V* s, const A* table, V* x, long I, long from, long steps) {
  long t = from;
  for (; t + GROUP <= steps; t += GROUP) some_timesteps<T, MR, GROUP>(s, table, x, I, t);
  for (; t < steps; t++) some_timesteps<T, MR, 1>(s, table, x, I, t);
}

// table[t][i] += sum over m of x[m][t] * s[m][i], for MR timesteps from t on.
template <class T, int MR> NOINLINE void into_table(const V* x, const V* s, A* table, long I, long M, long t) {
  for (long i = 0; i < I; i += GROUP, table += BLOCK * GROUP) {
    V sums[MR][GROUP];
    UNROLL for (int k = 0; k < MR; k++) UNROLL for (int j = 0; j < GROUP; j++) sums[k][j] = table[(t + k) * GROUP + j];
    for (long m = 0; m < M; m++) {
      V factor[MR];
      UNROLL for (int k = 0; k < MR; k++) factor[k] = x[m * BLOCK + t + k];
      UNROLL for (int j = 0; j < GROUP; j++) {
        V row = s[m * I + i + j];
        UNROLL for (int k = 0; k < MR; k++) sums[k][j] += factor[k] * row;
      }
    }
    UNROLL for (int k = 0; k < MR; k++) UNROLL for (int j = 0; j < GROUP; j++) table[(t + k) * GROUP + j] = sums[k][j];
  }
}

template <class T> void states_of(const Layout<T>& l, const V* x, const A* table, V* s, long from, long steps) {
  FOR_TILES(l.M, m, rows) TILES(into_state, rows, x + m * BLOCK, table, s + m * l.I, l.I, from, steps)
}
template <class T> void times_of(const Layout<T>& l, const V* s, const A* table, V* x, long from, long steps) {
  FOR_TILES(l.M, m, rows) TILES(into_time, rows, s + m * l.I, table, x + m * BLOCK, l.I, from, steps)
}
template <class T> void tables_of(const Layout<T>& l, const V* x, const V* s, A* table, long from, long steps) {
  FOR_TILES(steps - from, t, rows) TILES(into_table, rows, x, s, table, l.I, l.M, from + t)
}

// ---- a block --------------------------------------------------------------------------------------------------------

template <class T> struct Part {
  long begin, steps, asked, row, p, n, shift;
  bool last;
  Part(const SeqmemModes& c, const Layout<T>& l, long block, long vector) {
    begin = block * BLOCK, steps = l.T_ - begin < BLOCK ? l.T_ - begin : BLOCK;
    asked = c.first < begin ? 0 : c.first - begin < steps ? c.first - begin : steps;
    row = begin * l.B + l.b0, p = vector, n = l.units(p), shift = BLOCK - steps;
    last = steps < BLOCK;
  }
};

template <class T> void read_rows(const Layout<T>& l, const Part<T>& k, const T* from, V* to, long first) {
  for (long m = 0; m < l.M; m++)
    for (long t = first; t < k.steps; t++)
      to[m * BLOCK + t] = load_some<T>(from + (t * l.B + m) * l.H + k.p * LANES, k.n);
}
template <class T> void write_rows(const Layout<T>& l, const Part<T>& k, const V* from, T* to, long first) {
  for (long m = 0; m < l.M; m++)
    for (long t = first; t < k.steps; t++)
      store_some<T>(to + (t * l.B + m) * l.H + k.p * LANES, from[m * BLOCK + t], k.n);
}
// States as the caller has them, [B 2 N H]; `at`: of the chunk's first sequence.
template <class T> void read_states(const Layout<T>& l, long p, const T* at, V* to) {
  for (long m = 0; m < l.M; m++)
    for (long i = 0; i < l.I; i++)
      to[m * l.I + i] = i < 2 * l.N ? load_some<T>(at + (m * 2 * l.N + i) * l.H + p * LANES, l.units(p)) : V{};
}
template <class T> void write_states(const Layout<T>& l, long p, const V* from, T* at) {
  for (long m = 0; m < l.M; m++)
    for (long i = 0; i < 2 * l.N; i++)
      store_some<T>(at + (m * 2 * l.N + i) * l.H + p * LANES, from[m * l.I + i], l.units(p));
}

template <class T> int forward_chunk(const SeqmemModes& call, long chunk) {
  Layout<T> l(call);
  l.choose(chunk);
  V* memory = (V*)scratch<T>(l.scratch() * LANES);
  if (!memory) return NO_MEMORY;
  const Tile<T> x(l, memory);
  const long wide = 2 * l.N * l.H;
  for (long block = 0; block < l.blocks; block++)
    for (long p = 0; p < l.P; p++) {
      const Part<T> k(call, l, block, p);
      const Tables<T> of(l, call.tables, p);
      T *old = (T*)call.edges + (block * l.B + l.b0) * wide, *edge = old + l.B * wide;
      read_rows(l, k, (const T*)call.u + k.row * l.H, x.u, 0);
      read_states(l, p, old, x.state);
      if (k.asked < k.steps) {
        times_of<T>(l, x.state, of.read, x.y, k.asked, k.steps);
        for (long m = 0; m < l.M; m++)
          for (long t = k.asked; t < k.steps; t++) {
            V sum = x.y[m * BLOCK + t];
            for (long s = 0; s <= t; s++) sum += of.response[t - s] * x.u[m * BLOCK + s];
            x.y[m * BLOCK + t] = sum;
          }
        write_rows(l, k, x.y, (T*)call.y + (k.row - call.first * l.B) * l.H, k.asked);
      }
      const A* turn = of.turn + k.last * 2 * l.N;
      for (long m = 0; m < l.M; m++) {
        const V* s = x.state + m * l.I;
        V* to = x.next + m * l.I;
        for (long i = 0; i < l.I; i++) to[i] = V{};
        for (long n = 0; n < l.N; n++) {
          to[n] = turn[n] * s[n] - turn[l.N + n] * s[l.N + n];
          to[l.N + n] = turn[l.N + n] * s[n] + turn[n] * s[l.N + n];
        }
      }
      states_of<T>(l, x.u, of.write + k.shift * GROUP, x.next, 0, k.steps);
      write_states(l, p, x.next, edge);
    }
  free(memory);
  return NONE;
}

template <class T> int backward_chunk(const SeqmemModes& call, long chunk) {
  Layout<T> l(call);
  l.choose(chunk);
  V* memory = (V*)scratch<T>((l.scratch() + l.M * l.P * l.I) * LANES);
  if (!memory) return NO_MEMORY;
  const Tile<T> x(l, memory);
  V* carries = memory + l.scratch();  // [P M I]
  const long wide = 2 * l.N * l.H;
  for (long p = 0; p < l.P; p++) read_states(l, p, (const T*)call.carry + l.b0 * wide, carries + p * l.M * l.I);
  for (long block = l.blocks - 1; block >= 0; block--)
    for (long p = 0; p < l.P; p++) {
      const Part<T> k(call, l, block, p);
      const Tables<T> of(l, call.tables, p), by(l, call.grad_tables, chunk * l.P + p);
      const long asked = call.grad_y ? k.asked : k.steps;
      V* g = carries + p * l.M * l.I;
      read_rows(l, k, (const T*)call.u + k.row * l.H, x.u, 0);
      read_states(l, p, (const T*)call.edges + (block * l.B + l.b0) * wide, x.state);

      // Through the next state.
      times_of<T>(l, g, of.write + k.shift * GROUP, x.y, 0, k.steps);
      tables_of<T>(l, x.u, g, by.write + k.shift * GROUP, 0, k.steps);
      const A* turn = of.turn + k.last * 2 * l.N;
      A* by_turn = by.turn + k.last * 2 * l.N;
      for (long n = 0; n < l.N; n++) {
        V real = by_turn[n], imag = by_turn[l.N + n];
        for (long m = 0; m < l.M; m++) {
          const V *s = x.state + m * l.I, *old = g + m * l.I;
          real += old[n] * s[n] + old[l.N + n] * s[l.N + n];
          imag += old[l.N + n] * s[n] - old[n] * s[l.N + n];
        }
        by_turn[n] = real, by_turn[l.N + n] = imag;
      }
      for (long m = 0; m < l.M; m++)
        for (long n = 0; n < l.N; n++) {
          V real = g[m * l.I + n], imag = g[m * l.I + l.N + n];
          g[m * l.I + n] = turn[n] * real + turn[l.N + n] * imag;
          g[m * l.I + l.N + n] = turn[n] * imag - turn[l.N + n] * real;
        }

      // Through y, whose gradients take the place of the next states, which a backward pass does not have.
      if (asked < k.steps) {
        V* dy = x.next;
        read_rows(l, k, (const T*)call.grad_y + (k.row - call.first * l.B) * l.H, dy, asked);
        for (long m = 0; m < l.M; m++)
          for (long t = asked; t < k.steps; t++)
            for (long s = 0; s <= t; s++) {
              x.y[m * BLOCK + s] += of.response[t - s] * dy[m * BLOCK + t];
              by.response[t - s] += x.u[m * BLOCK + s] * dy[m * BLOCK + t];
            }
        states_of<T>(l, dy, of.read, g, asked, k.steps);
        tables_of<T>(l, dy, x.state, by.read, asked, k.steps);
      }
      write_rows(l, k, x.y, (T*)call.grad_u + k.row * l.H, 0);
    }
  for (long p = 0; p < l.P; p++) write_states(l, p, carries + p * l.M * l.I, (T*)call.carry + l.b0 * wide);
  free(memory);
  return NONE;
}

// ---- tables ---------------------------------------------------------------------------------------------------------

// A complex number of each lane.
template <class T> struct Complex {
  V real, imag;
};
template <class T> INLINE Complex<T> times(Complex<T> a, Complex<T> b) {
  return {a.real * b.real - a.imag * b.imag, a.real * b.imag + a.imag * b.real};
}
// += conj(a) b: the gradient by a factor of what the other one is multiplied with.
template <class T> INLINE void add_conjugate(Complex<T>& to, Complex<T> a, Complex<T> b) {
  to.real += a.real * b.real + a.imag * b.imag;
  to.imag += a.real * b.imag - a.imag * b.real;
}

// The modes n of vector p: a, b, c; and a's powers.
template <class T> struct Mode {
  Complex<T> a, b, c, power[BLOCK + 1];
  Mode(const SeqmemModes& call, const Layout<T>& l, long p, long n) {
    Complex<T>* parts[] = {&a, &b, &c};
    for (long i = 0; i < 3; i++) {
      const T* from = (const T*)call.parameters + (2 * i * l.N + n) * l.H + p * LANES;
      *parts[i] = {load_some<T>(from, l.units(p)), load_some<T>(from + l.N * l.H, l.units(p))};
    }
    power[0] = {splat<T>(T(1)), V{}};
    power[1] = a;
    for (long i = 2; i <= BLOCK; i++) power[i] = times<T>(power[i / 2], power[i - i / 2]);
  }
};

// Where a table has number i of the state at timestep t.
INLINE long entry(long i, long t) { return (i / GROUP * BLOCK + t) * GROUP + i % GROUP; }

template <class T> void make_tables(const SeqmemModes& call) {
  Layout<T> l(call);
  const long rest = l.T_ % BLOCK;
  for (long p = 0; p < l.P; p++) {
    const Tables<T> to(l, call.tables, p);
    for (long i = 0; i < 2 * l.I * BLOCK; i++) to.write[i] = V{};  // also what pads both
    for (long t = 0; t < BLOCK; t++) to.response[t] = V{};
    for (long n = 0; n < l.N; n++) {
      const Mode<T> mode(call, l, p, n);
      for (long t = 0; t < BLOCK; t++) {
        const Complex<T> written = times<T>(mode.b, mode.power[t]), read = times<T>(mode.c, mode.power[t + 1]);
        to.write[entry(n, BLOCK - 1 - t)] = written.real, to.write[entry(l.N + n, BLOCK - 1 - t)] = written.imag;
        to.read[entry(n, t)] = read.real, to.read[entry(l.N + n, t)] = -read.imag;
        to.response[t] += mode.c.real * written.real - mode.c.imag * written.imag;
      }
      to.turn[n] = mode.power[BLOCK].real, to.turn[l.N + n] = mode.power[BLOCK].imag;
      to.turn[2 * l.N + n] = mode.power[rest].real, to.turn[3 * l.N + n] = mode.power[rest].imag;
    }
  }
}

template <class T> void by_parameters(const SeqmemModes& call) {
  Layout<T> l(call);
  const long rest = l.T_ % BLOCK;
  A* sums = (A*)call.grad_tables;
  for (long chunk = 1; chunk < l.chunks; chunk++)
    for (long i = 0; i < l.P * l.tables(); i++) sums[i] += sums[chunk * l.P * l.tables() + i];
  for (long p = 0; p < l.P; p++) {
    const Tables<T> by(l, sums, p);
    for (long n = 0; n < l.N; n++) {
      const Mode<T> mode(call, l, p, n);
      Complex<T> d_a = {}, d_b = {}, d_c = {}, d_power[BLOCK + 1] = {};
      for (long t = 0; t < BLOCK; t++) {
        const Complex<T> written = times<T>(mode.b, mode.power[t]);
        Complex<T> d_written = {by.write[entry(n, BLOCK - 1 - t)], by.write[entry(l.N + n, BLOCK - 1 - t)]};
        d_written.real += by.response[t] * mode.c.real, d_written.imag -= by.response[t] * mode.c.imag;
        d_c.real += by.response[t] * written.real, d_c.imag -= by.response[t] * written.imag;
        add_conjugate<T>(d_b, mode.power[t], d_written), add_conjugate<T>(d_power[t], mode.b, d_written);
        const Complex<T> d_read = {by.read[entry(n, t)], -by.read[entry(l.N + n, t)]};
        add_conjugate<T>(d_c, mode.power[t + 1], d_read), add_conjugate<T>(d_power[t + 1], mode.c, d_read);
      }
      d_power[BLOCK].real += by.turn[n], d_power[BLOCK].imag += by.turn[l.N + n];
      d_power[rest].real += by.turn[2 * l.N + n], d_power[rest].imag += by.turn[3 * l.N + n];
      for (long t = 1; t <= BLOCK; t++)
        add_conjugate<T>(d_a, mode.power[t - 1], {d_power[t].real * T(t), d_power[t].imag * T(t)});
      const Complex<T>* parts[] = {&d_a, &d_b, &d_c};
      for (long i = 0; i < 3; i++) {
        T* to = (T*)call.grad_parameters + (2 * i * l.N + n) * l.H + p * LANES;
        store_some<T>(to, parts[i]->real, l.units(p)), store_some<T>(to + l.N * l.H, parts[i]->imag, l.units(p));
      }
    }
  }
}

}  // namespace

// modes_sizes: the timesteps of a block, the tables' numbers, the chunks.
#define EXPORT(T, type)                                                                       \
  API void NAME(modes_sizes, type)(const SeqmemModes* call, int64_t* out) {                   \
    Layout<T> l(*call);                                                                       \
    out[0] = BLOCK, out[1] = l.P * l.tables() * Simd<T>::L, out[2] = l.chunks;                \
  }                                                                                           \
  API void NAME(modes_tables, type)(const SeqmemModes* call) { make_tables<T>(*call); }       \
  API void NAME(modes_parameters, type)(const SeqmemModes* call) { by_parameters<T>(*call); } \
  API int64_t NAME(modes_forward, type)(const SeqmemModes* call) {                            \
    return run(call, forward_chunk<T>, Layout<T>(*call).chunks);                              \
  }                                                                                           \
  API int64_t NAME(modes_backward, type)(const SeqmemModes* call) {                           \
    return run(call, backward_chunk<T>, Layout<T>(*call).chunks);                             \
  }

EXPORT(float, f32)
EXPORT(double, f64)
