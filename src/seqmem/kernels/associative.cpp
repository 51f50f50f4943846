// Associative memories over a whole sequence, forward and backward, on one instruction set: a matrix S for each sequence
// and head, to which every timestep writes a value under a key, and which it may read with a query.
//
//     S' = diag(keep_t) S_{t-1}                     keep: one number for each key's number, one for all, or 1
//     u_t = write_t (v_t - S'^T k_t)   by the delta rule, else write_t v_t
//     S_t = S' + k_t u_t^T
//     o_t = S_t^T q_t                               at the asked timesteps
//
// Why it is fast
//   - S has a few KB: it stays in the L1 cache through the whole time loop, so a step costs an addition and a
//     multiplication for each of its numbers, without the quadratic products, triangular solves and large arrays of a
//     form in chunks.
//   - Columns of S do not depend on each other. Blocks of up to 4 vectors of columns go through time one after the other,
//     so that what is read or written (one number for each column) stays in registers.
//   - The forward pass saves S at every few timesteps. The backward pass computes those in between again, into the L2
//     cache.
//   - Tokens: queries, keys and values are looked up in tables of one row for each token, and their gradients added up
//     there.
//
// A work item is one head of a chunk of at most 16 sequences, whatever the number of threads. Gradients of table rows
// are summed in each item from the last segment of timesteps to the first, then over the items in one order: neither
// threads nor cuts between segments change a bit.
//
// Names: T timesteps, B sequences, A heads, E numbers of a key, W numbers of a value (columns of S), N rows of a table,
// L lanes of a vector, NV vectors of a block of columns.

#include "simd.hpp"

// One call: T timesteps. Pointers may be null only where noted. associative.py mirrors this structure.
struct SeqmemMemory {
  int64_t T, B, A, E, W;
  int64_t threads;
  int64_t delta;             // 1: write by the delta rule
  int64_t ones;              // 1: the last number of every value is 1, and is not in v
  int64_t keeps;             // numbers of keep for each head: 0 (nothing is lost), 1 or E
  int64_t table;             // N; 0: no tokens, a row of q, k and v for each timestep and sequence
  int64_t gates_by_step;     // with a table, 1: keep and write have a row for each timestep and sequence none the less
  int64_t first, stop;       // the asked timesteps
  int64_t every;             // timesteps between two saved states
  int64_t saved_from;        // a multiple of `every`: the backward pass needs no state before
  int64_t q_step, k_step, v_step;  // numbers between two rows
  const void* tokens;        // [T B], int64; null without a table
  const void *q, *k, *v;     // rows of [A E], v of [A W - ones]
  const void* keep;          // [rows A keeps]; null if keeps is 0
  const void* write;         // [rows A]; null: 1
  const void* start;         // [B A E W]
  void* final;               // [B A E W]
  void* outputs;             // [stop - first B A W]
  void* saved;               // see Shape::saved; null in the forward pass: not saved
  const void* grad_outputs;  // [stop - first B A W]; null: zero
  void* grad_state;          // [B A E W], in and out: the gradient by the final state, then by the initial one
  void *grad_q, *grad_k, *grad_v;  // [T B A E], [T B A W - ones]; null with a table
  void *grad_keep, *grad_write;    // [T B A keeps], [T B A]; null: not requested, or with gates in the table
  void* sums;                // with a table: see Shape::sums
  void *norm_memory, *norm_ones;  // [T B A]: the norms of dL/dS_t, without and of the column of ones; null: not requested
};

namespace {

constexpr long CHUNK = 16;  // most sequences of a work item
constexpr long WIDEST = 4;  // most vectors of a block of columns

template <class T> struct Shape {
  const SeqmemMemory& c;
  long vectors, blocks, padded, keys, chunks, cells;
  explicit Shape(const SeqmemMemory& call) : c(call) {
    vectors = (c.W + LANES - 1) / LANES;
    blocks = (vectors + WIDEST - 1) / WIDEST;
    padded = vectors * LANES;                        // columns
    keys = (c.E + LANES - 1) / LANES * LANES;        // numbers of a key, padded
    chunks = (c.B + CHUNK - 1) / CHUNK;
    cells = c.E * padded;                            // numbers of a memory
  }
  long items() const { return chunks * c.A; }
  long first(long chunk) const { return c.B * chunk / chunks; }
  bool gates_in_table() const { return c.table && !c.gates_by_step; }
  // States saved for the backward pass: [segments B A][blocks of columns][E][columns of the block].
  long saved() const { return c.T <= c.saved_from ? 0 : (c.T - c.saved_from + c.every - 1) / c.every * c.B * c.A * cells; }
  // Gradient of a table's row for one head: q, k, v, keep, write.
  long at_v() const { return 2 * keys; }
  long at_keep() const { return at_v() + padded; }
  long at_write() const { return at_keep() + keys; }
  long wide() const { return at_write() + LANES; }
  long sums() const { return items() * c.table * wide(); }  // [items N wide]
};

// ---- vectors --------------------------------------------------------------------------------------------------------

// The first n lanes, zeros in the others; n may be 0 or less, or more than all.
template <class T> INLINE V load_first(const T* p, long n) {
  if (n >= LANES) return load<T>(p);
  if (n <= 0) return V{};
#if defined(__AVX2__) && !defined(__AVX512F__)
  static const int32_t mask[16] = {-1, -1, -1, -1, -1, -1, -1, -1};
  __m256i lanes = _mm256_loadu_si256((const __m256i*)(mask + 8 - n * (long)(sizeof(T) / 4)));
  if constexpr (sizeof(T) == 4)
    return (V)_mm256_maskload_ps((const float*)p, lanes);
  else
    return (V)_mm256_maskload_pd((const double*)p, lanes);
#else
  return load_some<T>(p, n);
#endif
}

template <class T> INLINE void add_first(T* p, V v, long n, bool fresh) {
  if (n <= 0) return;
  store_some<T>(p, fresh ? v : v + load_first<T>(p, n), n);
}

template <int... I> struct Indices {};
template <int N> struct Upto;
template <> struct Upto<2> { typedef Indices<0, 1> Of; };
template <> struct Upto<4> { typedef Indices<0, 1, 2, 3> Of; };
template <> struct Upto<8> { typedef Indices<0, 1, 2, 3, 4, 5, 6, 7> Of; };
template <> struct Upto<16> { typedef Indices<0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15> Of; };

template <class T> struct Word;
template <> struct Word<float> { typedef uint32_t Of; };
template <> struct Word<double> { typedef uint64_t Of; };

// Lane l: a_l + a_{l ^ D} where l has not the bit D, else b_l + b_{l ^ D}.
template <class T, int D, int... I> INLINE V fold(V a, V b, Indices<I...>) {
  typedef typename Simd<T>::I Mask;
  typedef typename Word<T>::Of Lane;
  const Mask second = {(I & D ? ~Lane(0) : Lane(0))...};
  V straight = second ? b : a, crossed = second ? a : b;
#if defined(__clang__)
  return straight + __builtin_shufflevector(crossed, crossed, (I ^ D)...);
#else
  return straight + __builtin_shuffle(crossed, Mask{Lane(I ^ D)...});
#endif
}

// The sums over the lanes of L vectors that lie one after another: lane l is the sum of vector l. `rows` is changed.
template <class T> INLINE V sums_of_lanes(T* rows) {
  typedef typename Upto<LANES>::Of All;
  UNROLL for (long i = 0; i < LANES / 2; i++)
    store<T>(rows + i * LANES, fold<T, 1>(load<T>(rows + 2 * i * LANES), load<T>(rows + (2 * i + 1) * LANES), All{}));
  if constexpr (LANES >= 4)
    UNROLL for (long i = 0; i < LANES / 4; i++)
      store<T>(rows + i * LANES, fold<T, 2>(load<T>(rows + 2 * i * LANES), load<T>(rows + (2 * i + 1) * LANES), All{}));
  if constexpr (LANES >= 8)
    UNROLL for (long i = 0; i < LANES / 8; i++)
      store<T>(rows + i * LANES, fold<T, 4>(load<T>(rows + 2 * i * LANES), load<T>(rows + (2 * i + 1) * LANES), All{}));
  if constexpr (LANES >= 16)
    store<T>(rows, fold<T, 8>(load<T>(rows), load<T>(rows + LANES), All{}));
  return load<T>(rows);
}

// Add to n numbers the sums over the lanes of as many vectors.
template <class T> NOINLINE void add_sums(T* to, T* rows, long n, bool fresh) {
  for (long i = 0; i < n; i += LANES) add_first<T>(to + i, sums_of_lanes<T>(rows + i * LANES), n - i, fresh);
}

template <class T> INLINE T sum_of_lanes(V v) {
  T total = v[0];
  for (long l = 1; l < LANES; l++) total += v[l];
  return total;
}

// ---- one timestep ---------------------------------------------------------------------------------------------------

enum Keep { ALL, BY_HEAD, BY_KEY };

// What one head reads at one timestep of one sequence, and where its gradients go.
template <class T> struct At {
  const T *q, *k, *v, *keep;
  T write;
  long row;    // t B + b
  long token;  // of the table, else the row
};

// Where the arrays have what belongs to a head.
template <class T> INLINE At<T> at(const SeqmemMemory& c, long head, long t, long b) {
  At<T> x;
  x.row = t * c.B + b;
  x.token = c.table ? (long)((const int64_t*)c.tokens)[x.row] : x.row;
  const long gate = (c.table && !c.gates_by_step ? x.token : x.row) * c.A + head;
  x.q = (const T*)c.q + x.token * c.q_step + head * c.E;
  x.k = (const T*)c.k + x.token * c.k_step + head * c.E;
  x.v = (const T*)c.v + x.token * c.v_step + head * (c.W - c.ones);
  x.keep = c.keeps ? (const T*)c.keep + gate * c.keeps : nullptr;
  x.write = c.write ? ((const T*)c.write)[gate] : T(1);
  return x;
}

// A block of NV vectors of columns: how many numbers of each vector the values have, and a memory has.
template <class T, int NV> struct Columns {
  long first, own[NV], all[NV];
  V one[NV];  // 1 in the column of ones
  Columns(const SeqmemMemory& c, long first_vector) : first(first_vector * LANES) {
    for (int j = 0; j < NV; j++) {
      long left = c.W - first - j * LANES;
      all[j] = left < LANES ? left : LANES;
      own[j] = left - c.ones < LANES ? left - c.ones : LANES;
      T lanes[LANES] = {};
      if (c.ones && left <= LANES) lanes[left - 1] = T(1);
      one[j] = load<T>(lanes);
    }
  }
};

template <class T, int NV> INLINE void values(const Columns<T, NV>& columns, const T* v, V (&out)[NV]) {
  UNROLL for (int j = 0; j < NV; j++)
    out[j] = load_first<T>(v + columns.first + j * LANES, columns.own[j]) + columns.one[j];
}

// v - S'^T k, in place of v.
template <class T, int NV, int KEEP> INLINE void difference(const T* memory, long E, const At<T>& x, V (&v)[NV]) {
  V even[NV] = {}, odd[NV] = {};  // two sums, because an addition waits for the one before it
  long i = 0;
  for (; i + 1 < E; i += 2) {
    V first = splat<T>(x.k[i]), second = splat<T>(x.k[i + 1]);
    UNROLL for (int j = 0; j < NV; j++) {
      even[j] += first * load<T>(memory + (i * NV + j) * LANES);
      odd[j] += second * load<T>(memory + ((i + 1) * NV + j) * LANES);
    }
  }
  if (i < E) {
    V last = splat<T>(x.k[i]);
    UNROLL for (int j = 0; j < NV; j++) even[j] += last * load<T>(memory + (i * NV + j) * LANES);
  }
  const T kept = KEEP == BY_HEAD ? *x.keep : T(1);
  UNROLL for (int j = 0; j < NV; j++) v[j] = v[j] - kept * (even[j] + odd[j]);
}

// S_t of S_{t-1}, and with READ S_t^T q. `old` and `now` may be the same.
template <class T, int NV, int KEEP, bool READ>
INLINE void advance(const T* old, T* now, long E, const At<T>& x, const V (&u)[NV], V (&o)[NV]) {
  const V by_head = splat<T>(KEEP == BY_HEAD ? *x.keep : T(1));
  if (READ) UNROLL for (int j = 0; j < NV; j++) o[j] = V{};
  for (long i = 0; i < E; i++) {
    V key = splat<T>(x.k[i]), kept = KEEP == BY_KEY ? splat<T>(x.keep[i]) : by_head;
    V query = READ ? splat<T>(x.q[i]) : V{};
    UNROLL for (int j = 0; j < NV; j++) {
      V s = load<T>(old + (i * NV + j) * LANES);
      s = KEEP == ALL ? s + key * u[j] : kept * s + key * u[j];
      store<T>(now + (i * NV + j) * LANES, s);
      if (READ) o[j] += query * s;
    }
  }
}

// ---- memories as the caller has them, [E W], and as blocks, [E][NV vectors] -------------------------------------------

template <class T, int NV> void enter(const Columns<T, NV>& columns, long E, long W, const T* from, T* block) {
  for (long i = 0; i < E; i++)
    UNROLL for (int j = 0; j < NV; j++)
      store<T>(block + (i * NV + j) * LANES, load_first<T>(from + i * W + columns.first + j * LANES, columns.all[j]));
}

template <class T, int NV> void leave(const Columns<T, NV>& columns, long E, long W, const T* block, T* to) {
  for (long i = 0; i < E; i++)
    UNROLL for (int j = 0; j < NV; j++)
      store_some<T>(to + i * W + columns.first + j * LANES, load<T>(block + (i * NV + j) * LANES), columns.all[j]);
}

// ---- forward --------------------------------------------------------------------------------------------------------

// One block of columns of a work item. `memories`: [sequences of the chunk][E][NV vectors].
template <class T, int NV, bool DELTA, int KEEP>
int forward_block(const Shape<T>& s, long chunk, long head, long first_vector, T* memories) {
  const SeqmemMemory& c = s.c;
  const Columns<T, NV> columns(c, first_vector);
  const long b0 = s.first(chunk), M = s.first(chunk + 1) - b0, E = c.E, size = E * NV * LANES;
  T *final = (T*)c.final, *saved = (T*)c.saved;
  for (long m = 0; m < M; m++)
    enter<T, NV>(columns, E, c.W, (const T*)c.start + ((b0 + m) * c.A + head) * E * c.W, memories + m * size);
  for (long begin = 0; begin < c.T; begin += c.every) {
    const long end = begin + c.every < c.T ? begin + c.every : c.T;
    for (long m = 0; m < M; m++) {
      T* memory = memories + m * size;
      if (saved && begin >= c.saved_from) {
        long at = (((begin - c.saved_from) / c.every * c.B + b0 + m) * c.A + head) * s.cells + E * columns.first;
        memcpy(saved + at, memory, size * sizeof(T));
      }
      for (long t = begin; t < end; t++) {
        // Before `at`, which reads the gates of the token.
        if (c.table && (uint64_t)((const int64_t*)c.tokens)[t * c.B + b0 + m] >= (uint64_t)c.table) return NO_SUCH_TOKEN;
        const At<T> x = at<T>(c, head, t, b0 + m);
        V u[NV], o[NV];
        values<T, NV>(columns, x.v, u);
        if (DELTA) difference<T, NV, KEEP>(memory, E, x, u);
        if (c.write) UNROLL for (int j = 0; j < NV; j++) u[j] = x.write * u[j];
        if (t >= c.first && t < c.stop) {
          advance<T, NV, KEEP, true>(memory, memory, E, x, u, o);
          T* out = (T*)c.outputs + (((t - c.first) * c.B + b0 + m) * c.A + head) * c.W + columns.first;
          UNROLL for (int j = 0; j < NV; j++) store_some<T>(out + j * LANES, o[j], columns.all[j]);
        } else
          advance<T, NV, KEEP, false>(memory, memory, E, x, u, o);
      }
    }
  }
  for (long m = 0; m < M; m++)
    leave<T, NV>(columns, E, c.W, memories + m * size, final + ((b0 + m) * c.A + head) * E * c.W);
  return NONE;
}

// ---- backward -------------------------------------------------------------------------------------------------------

// Scratch of a work item.
template <class T> struct Backward {
  T* gradients;  // dL/dS, [sequences of the chunk][E][NV vectors]
  T* states;     // [every + 1][E][NV vectors]: before the segment, and after each of its timesteps
  T* writing;    // [every][NV vectors]: v, less what was there already by the delta rule
  T *of_q, *of_k, *of_keep;  // [E, padded][L]: what is summed over the lanes
  T* at_state;               // [E][NV vectors], and [E]: dL/dS_t, for its norms
};

// One timestep: dL/dS_t in `grad` becomes dL/dS_{t-1}. du = dL/du_t, and the gradients by q, k and keep, before they are
// summed over the lanes.
template <class T, int NV, bool DELTA, int KEEP, bool READ, bool OF_KEEP>
NOINLINE void retreat(
    const T* before, const T* after, T* grad, long E, const At<T>& x, const V (&u)[NV], const V (&by_output)[NV],
    V (&du)[NV], const Backward<T>& b, V& by_keep) {
  const V by_head = splat<T>(KEEP == BY_HEAD ? *x.keep : T(1));
  UNROLL for (int j = 0; j < NV; j++) du[j] = V{};
  by_keep = V{};
  for (long i = 0; i < E; i++) {
    V key = splat<T>(x.k[i]), kept = KEEP == BY_KEY ? splat<T>(x.keep[i]) : by_head, query = READ ? splat<T>(x.q[i]) : V{};
    V of_q{}, of_k{}, of_keep{};
    UNROLL for (int j = 0; j < NV; j++) {
      const long at = (i * NV + j) * LANES;
      V d = load<T>(grad + at);
      if (READ) {
        of_q += load<T>(after + at) * by_output[j];
        d += query * by_output[j];
      }
      du[j] += key * d;
      if (!DELTA) {
        of_k += d * u[j];
        if (OF_KEEP) of_keep += d * load<T>(before + at);
        if (KEEP != ALL) d = kept * d;
      }
      if (READ || (!DELTA && KEEP != ALL)) store<T>(grad + at, d);
    }
    if (READ) store<T>(b.of_q + i * LANES, of_q);
    if (!DELTA) store<T>(b.of_k + i * LANES, of_k);
    if (!DELTA && OF_KEEP && KEEP == BY_KEY) store<T>(b.of_keep + i * LANES, of_keep);
    if (!DELTA && OF_KEEP && KEEP == BY_HEAD) by_keep += of_keep;
  }
  if (!DELTA) return;
  V back[NV];  // dL/d (S'^T k)
  UNROLL for (int j = 0; j < NV; j++) back[j] = -x.write * du[j];
  for (long i = 0; i < E; i++) {
    V key = splat<T>(x.k[i]);
    V of_k{}, of_keep{}, through{};
    UNROLL for (int j = 0; j < NV; j++) {
      const long at = (i * NV + j) * LANES;
      V d = load<T>(grad + at), old = load<T>(before + at);
      of_k += d * u[j];
      through += old * back[j];
      d += key * back[j];
      if (OF_KEEP) of_keep += d * old;
      store<T>(grad + at, KEEP == ALL ? d : by_head * d);
    }
    if (OF_KEEP) by_keep += of_keep;
    store<T>(b.of_k + i * LANES, of_k + (KEEP == ALL ? through : by_head * through));
  }
}

// The norms of dL/dS_t, which is `grad` and what reading adds; several blocks of columns are taken together.
template <class T, int NV>
NOINLINE void tap(
    const SeqmemMemory& c, const Columns<T, NV>& columns, const T* grad, const At<T>& x, const V* by_output, long head,
    const Backward<T>& b) {
  const long wide = NV * LANES, column = c.W - 1 - columns.first;
  const bool ones = c.ones && column < wide;
  T* of_ones = b.at_state + c.E * wide;
  for (long i = 0; i < c.E; i++) {
    T* row = b.at_state + i * wide;
    UNROLL for (int j = 0; j < NV; j++) {
      V d = load<T>(grad + i * wide + j * LANES);
      store<T>(row + j * LANES, by_output ? d + splat<T>(x.q[i]) * by_output[j] : d);
    }
    if (ones) of_ones[i] = row[column], row[column] = T(0);
  }
  T* to = (T*)c.norm_memory + x.row * c.A + head;
  T both[2] = {columns.first ? *to : T(0), norm<T>(b.at_state, c.E * wide)};
  *to = norm<T>(both, 2);
  if (ones && c.norm_ones) ((T*)c.norm_ones)[x.row * c.A + head] = norm<T>(of_ones, c.E);
}

// Where the gradients of a timestep are added.
template <class T> struct Into {
  T *q, *k, *v, *keep, *write;  // null: not requested
  bool fresh;                   // the first block of columns of a row: nothing is there yet
  bool fresh_gates;
};

template <class T> INLINE Into<T> into(const Shape<T>& s, long item, long head, const At<T>& x, bool first_block) {
  const SeqmemMemory& c = s.c;
  Into<T> to;
  T* sums = c.table ? (T*)c.sums + (item * c.table + x.token) * s.wide() : nullptr;
  to.q = c.table ? sums : (T*)c.grad_q + (x.row * c.A + head) * c.E;
  to.k = c.table ? sums + s.keys : (T*)c.grad_k + (x.row * c.A + head) * c.E;
  to.v = c.table ? sums + s.at_v() : (T*)c.grad_v + (x.row * c.A + head) * (c.W - c.ones);
  to.keep = s.gates_in_table() ? sums + s.at_keep() : c.grad_keep ? (T*)c.grad_keep + (x.row * c.A + head) * c.keeps : nullptr;
  to.write = s.gates_in_table() ? sums + s.at_write() : c.grad_write ? (T*)c.grad_write + x.row * c.A + head : nullptr;
  to.fresh = first_block && !c.table, to.fresh_gates = first_block && !s.gates_in_table();
  return to;
}

template <class T, int NV, bool DELTA, int KEEP>
int backward_block(const Shape<T>& s, long chunk, long head, long first_vector, const Backward<T>& b) {
  const SeqmemMemory& c = s.c;
  const Columns<T, NV> columns(c, first_vector);
  const long b0 = s.first(chunk), M = s.first(chunk + 1) - b0, E = c.E, size = E * NV * LANES;
  const long item = chunk * c.A + head;
  const T *saved = (const T*)c.saved, *grad_outputs = (const T*)c.grad_outputs;
  T* grad_state = (T*)c.grad_state;
  const bool of_keep = KEEP != ALL && (s.gates_in_table() || c.grad_keep);
  for (long m = 0; m < M; m++)
    enter<T, NV>(columns, E, c.W, grad_state + ((b0 + m) * c.A + head) * E * c.W, b.gradients + m * size);
  for (long begin = (c.T - 1) / c.every * c.every; begin >= 0; begin -= c.every) {
    const long end = begin + c.every < c.T ? begin + c.every : c.T;
    const bool states = begin >= c.saved_from;
    for (long m = 0; m < M; m++) {
      T* grad = b.gradients + m * size;
      if (states) {
        long from = (((begin - c.saved_from) / c.every * c.B + b0 + m) * c.A + head) * s.cells + E * columns.first;
        memcpy(b.states, saved + from, size * sizeof(T));
        for (long t = begin; t < end; t++) {
          const At<T> x = at<T>(c, head, t, b0 + m);
          const T* old = b.states + (t - begin) * size;
          V u[NV], unread[NV];
          values<T, NV>(columns, x.v, u);
          if (DELTA) {
            difference<T, NV, KEEP>(old, E, x, u);
            UNROLL for (int j = 0; j < NV; j++) store<T>(b.writing + ((t - begin) * NV + j) * LANES, u[j]);
          }
          if (c.write) UNROLL for (int j = 0; j < NV; j++) u[j] = x.write * u[j];
          advance<T, NV, KEEP, false>(old, b.states + (t - begin + 1) * size, E, x, u, unread);
        }
      }
      for (long t = end - 1; t >= begin; t--) {
        const At<T> x = at<T>(c, head, t, b0 + m);
        const Into<T> to = into<T>(s, item, head, x, first_vector == 0);
        const T *before = b.states + (t - begin) * size, *after = before + size;
        const bool read = grad_outputs && t >= c.first && t < c.stop;
        V written[NV], u[NV], du[NV], by_output[NV], by_keep;
        if (DELTA)
          UNROLL for (int j = 0; j < NV; j++) written[j] = load<T>(b.writing + ((t - begin) * NV + j) * LANES);
        else
          values<T, NV>(columns, x.v, written);
        UNROLL for (int j = 0; j < NV; j++) u[j] = c.write ? x.write * written[j] : written[j];
        if (c.norm_memory && !read) tap<T, NV>(c, columns, grad, x, nullptr, head, b);
        if (read) {
          const T* from = grad_outputs + (((t - c.first) * c.B + b0 + m) * c.A + head) * c.W + columns.first;
          UNROLL for (int j = 0; j < NV; j++) by_output[j] = load_first<T>(from + j * LANES, columns.all[j]);
          if (c.norm_memory) tap<T, NV>(c, columns, grad, x, by_output, head, b);
          if (of_keep)
            retreat<T, NV, DELTA, KEEP, true, KEEP != ALL>(before, after, grad, E, x, u, by_output, du, b, by_keep);
          else
            retreat<T, NV, DELTA, KEEP, true, false>(before, after, grad, E, x, u, by_output, du, b, by_keep);
        } else if (of_keep)
          retreat<T, NV, DELTA, KEEP, false, KEEP != ALL>(before, after, grad, E, x, u, by_output, du, b, by_keep);
        else
          retreat<T, NV, DELTA, KEEP, false, false>(before, after, grad, E, x, u, by_output, du, b, by_keep);
        if (read)
          add_sums<T>(to.q, b.of_q, E, to.fresh);
        else if (to.fresh)
          memset(to.q, 0, E * sizeof(T));
        add_sums<T>(to.k, b.of_k, E, to.fresh);
        if (of_keep && KEEP == BY_KEY) add_sums<T>(to.keep, b.of_keep, E, to.fresh_gates);
        if (of_keep && KEEP == BY_HEAD) *to.keep = (to.fresh_gates ? T(0) : *to.keep) + sum_of_lanes<T>(by_keep);
        if (c.write && to.write) {
          V by_write{};
          UNROLL for (int j = 0; j < NV; j++) by_write += du[j] * written[j];
          *to.write = (to.fresh_gates ? T(0) : *to.write) + sum_of_lanes<T>(by_write);
        }
        UNROLL for (int j = 0; j < NV; j++)
          add_first<T>(to.v + columns.first + j * LANES, c.write ? x.write * du[j] : du[j], columns.own[j], !c.table);
      }
    }
  }
  for (long m = 0; m < M; m++)
    leave<T, NV>(columns, E, c.W, b.gradients + m * size, grad_state + ((b0 + m) * c.A + head) * E * c.W);
  return NONE;
}

// ---- work items -----------------------------------------------------------------------------------------------------

// `function` with the template arguments that the call asks for; the delta rule has no keep by key.
#define BY_KIND(function, NV, ...)                                                                          \
  c.delta ? (c.keeps ? function<T, NV, true, BY_HEAD>(__VA_ARGS__) : function<T, NV, true, ALL>(__VA_ARGS__)) \
          : (c.keeps == 0   ? function<T, NV, false, ALL>(__VA_ARGS__)                                      \
             : c.keeps == 1 ? function<T, NV, false, BY_HEAD>(__VA_ARGS__)                                  \
                            : function<T, NV, false, BY_KEY>(__VA_ARGS__))
#define BY_WIDTH(function, vectors, ...)                          \
  vectors == 1   ? (BY_KIND(function, 1, __VA_ARGS__))            \
  : vectors == 2 ? (BY_KIND(function, 2, __VA_ARGS__))            \
  : vectors == 3 ? (BY_KIND(function, 3, __VA_ARGS__))            \
                 : (BY_KIND(function, 4, __VA_ARGS__))

// Blocks of nearly equal width.
template <class T> INLINE long block_begin(const Shape<T>& s, long block) { return s.vectors * block / s.blocks; }

template <class T> int forward_item(const SeqmemMemory& c, long item) {
  const Shape<T> s(c);
  const long chunk = item / c.A, head = item % c.A;
  T* memories = scratch<T>(CHUNK * c.E * WIDEST * LANES);
  if (!memories) return NO_MEMORY;
  int failure = NONE;
  for (long block = 0; block < s.blocks && !failure; block++) {
    const long from = block_begin(s, block), wide = block_begin(s, block + 1) - from;
    failure = BY_WIDTH(forward_block, wide, s, chunk, head, from, memories);
  }
  free(memories);
  return failure;
}

template <class T> int backward_item(const SeqmemMemory& c, long item) {
  const Shape<T> s(c);
  const long chunk = item / c.A, head = item % c.A, most = WIDEST * LANES, states = (c.every + 1) * c.E * most;
  T* memory = scratch<T>(CHUNK * c.E * most + states + c.every * most + 3 * s.keys * LANES + c.E * (most + 1));
  if (!memory) return NO_MEMORY;
  Backward<T> b;
  b.gradients = memory, b.states = b.gradients + CHUNK * c.E * most, b.writing = b.states + states;
  b.of_q = b.writing + c.every * most, b.of_k = b.of_q + s.keys * LANES, b.of_keep = b.of_k + s.keys * LANES;
  b.at_state = b.of_keep + s.keys * LANES;
  memset(b.of_q, 0, 3 * s.keys * LANES * sizeof(T));
  int failure = NONE;
  for (long block = 0; block < s.blocks && !failure; block++) {
    const long from = block_begin(s, block), wide = block_begin(s, block + 1) - from;
    failure = BY_WIDTH(backward_block, wide, s, chunk, head, from, b);
  }
  free(memory);
  return failure;
}

// Add up what the work items summed for each row of a table: q, k [N A E], v [N A W - ones], keep [N A keeps], write
// [N A]; null: not requested.
template <class T> void reduce(const SeqmemMemory& c, T* q, T* k, T* v, T* keep, T* write) {
  const Shape<T> s(c);
  struct Part { T* to; long at, n; };
  const Part parts[] = {{q, 0, c.E}, {k, s.keys, c.E}, {v, s.at_v(), c.W - c.ones}, {keep, s.at_keep(), c.keeps},
                        {write, s.at_write(), 1}};
  for (long token = 0; token < c.table; token++)
    for (long head = 0; head < c.A; head++)
      for (const Part& part : parts) {
        if (!part.to) continue;
        T* to = part.to + (token * c.A + head) * part.n;
        for (long i = 0; i < part.n; i++) {
          T total = 0;
          for (long chunk = 0; chunk < s.chunks; chunk++)
            total += ((const T*)c.sums)[((chunk * c.A + head) * c.table + token) * s.wide() + part.at + i];
          to[i] = total;
        }
      }
}

// ---- stabilisers ----------------------------------------------------------------------------------------------------

// m_t = max(m_{t-1} + keep_t, enter_t), N numbers each; m [T + 1, N] begins with the first one. NaN stays NaN.
template <class T> void largest(long steps, long N, const T* keep, const T* enter, T* m) {
  for (long i = 0; i < steps * N; i++) {
    T kept = m[i] + keep[i];
    m[i + N] = kept > enter[i] || kept != kept ? kept : enter[i];
  }
}

// grad [T + 1, N], in and out: dL/dm_t directly, then in all. What ties is shared by halves.
template <class T>
void largest_back(long steps, long N, const T* keep, const T* enter, const T* m, T* grad, T* grad_keep, T* grad_enter) {
  for (long i = steps * N - 1; i >= 0; i--) {
    T kept = m[i] + keep[i], g = grad[i + N], half = kept == enter[i] ? g / 2 : g;
    grad_keep[i] = kept < enter[i] ? T(0) : half;
    grad_enter[i] = kept > enter[i] ? T(0) : half;
    grad[i] += grad_keep[i];
  }
}

}  // namespace

#define EXPORT(T, type)                                                                                               \
  API void NAME(memory_sizes, type)(const SeqmemMemory* call, int64_t* saved, int64_t* sums) {                        \
    const Shape<T> s(*call);                                                                                          \
    *saved = s.saved(), *sums = s.sums();                                                                             \
  }                                                                                                                   \
  API int64_t NAME(memory_forward, type)(const SeqmemMemory* call) {                                                  \
    return run(call, forward_item<T>, Shape<T>(*call).items());                                                       \
  }                                                                                                                   \
  API int64_t NAME(memory_backward, type)(const SeqmemMemory* call) {                                                 \
    return run(call, backward_item<T>, Shape<T>(*call).items());                                                      \
  }                                                                                                                   \
  API void NAME(memory_reduce, type)(const SeqmemMemory* call, T* q, T* k, T* v, T* keep, T* write) {                 \
    reduce<T>(*call, q, k, v, keep, write);                                                                           \
  }                                                                                                                   \
  API void NAME(memory_largest, type)(int64_t steps, int64_t N, const T* keep, const T* enter, T* m) {                \
    largest<T>(steps, N, keep, enter, m);                                                                             \
  }                                                                                                                   \
  API void NAME(memory_largest_back, type)(int64_t steps, int64_t N, const T* keep, const T* enter, const T* m,       \
                                           T* grad, T* grad_keep, T* grad_enter) {                                    \
    largest_back<T>(steps, N, keep, enter, m, grad, grad_keep, grad_enter);                                           \
  }

EXPORT(float, f32)
EXPORT(double, f64)
