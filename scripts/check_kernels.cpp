// The native kernels without Python: scripts/check_kernels runs this under ThreadSanitizer, and on an emulated processor.
// The forward pass against a direct implementation of the equations; the backward pass against its finite differences;
// float against double; and one thread against four, bit for bit.

#include "recurrence.cpp"

#include <math.h>
#include <stdio.h>

namespace {

struct Random {
  uint64_t state = 1;
  double operator()() {  // uniform, -1 to 1
    state = state * 6364136223846793005u + 1442695040888963407u;
    return (double)(state >> 11) / (double)(1ull << 52) - 1;
  }
};

long failures = 0;

void expect(bool holds, const char* what, const SeqmemCall& call, double value, double expected) {
  if (holds) return;
  failures++;
  fprintf(stderr, "%s, kind %ld, T %ld B %ld D %ld H %ld threads %ld: %.17g, expected %.17g\n", what, (long)call.cell,
          (long)call.T, (long)call.B, (long)call.D, (long)call.H, (long)call.threads, value, expected);
}

// An array allocated with its exact size, so that a sanitizer detects an overrun.
template <class T> struct Array {
  long size;
  T* data;
  explicit Array(long n) : size(n), data((T*)malloc((n ? n : 1) * sizeof(T))) {
    for (long i = 0; i < n; i++) data[i] = (T)NAN;
  }
  Array(const Array&) = delete;
  ~Array() { free(data); }
  void fill(Random& random, double scale) {
    for (long i = 0; i < size; i++) data[i] = (T)(scale * random());
  }
  void zero() { memset(data, 0, size * sizeof(T)); }
};

constexpr int PARTS = 6;  // xs, h0, c0, W, U, bias
const char* const NAMES[PARTS] = {"gradient of xs", "gradient of h0", "gradient of c0",
                                  "gradient of W",  "gradient of U",  "gradient of the bias"};

long gates(long kind) { return kind == LSTM ? 4 : kind == GRU || kind == GRU_CHO ? 3 : 1; }

void part_sizes(const SeqmemCall& call, long* sizes) {
  long G = gates(call.cell), state = call.B * call.H;
  long values[PARTS] = {call.T * call.B * call.D, state,           call.cell == LSTM ? state : 0,
                       G * call.H * call.D,      G * call.H * call.H, G * call.H};
  memcpy(sizes, values, sizeof values);
}

double squash(double x) { return 1 / (1 + exp(-x)); }

// Outputs [T B H] and the last cell state [B H], from the equations.
void plain(const SeqmemCall& call, double* const* given, double* outputs, double* last_cell) {
  const long T = call.T, B = call.B, D = call.D, H = call.H, G = gates(call.cell);
  const double *xs = given[0], *W = given[3], *U = given[4], *bias = given[5];
  double *from_x = (double*)malloc((G * H + 1) * sizeof(double)), *from_h = (double*)malloc((G * H + 1) * sizeof(double));
  for (long b = 0; b < B; b++) {
    if (call.cell == LSTM) memcpy(last_cell + b * H, given[2] + b * H, H * sizeof(double));
    for (long t = 0; t < T; t++) {
      const double *x = xs + (t * B + b) * D, *h = t ? outputs + ((t - 1) * B + b) * H : given[1] + b * H;
      double *out = outputs + (t * B + b) * H, *c = last_cell + b * H;
      for (long row = 0; row < G * H; row++) {
        from_x[row] = bias[row], from_h[row] = 0;
        for (long d = 0; d < D; d++) from_x[row] += W[row * D + d] * x[d];
        for (long j = 0; j < H; j++) from_h[row] += U[row * H + j] * h[j];
      }
      for (long j = 0; j < H; j++) {
        double a[4] = {};
        for (long g = 0; g < G; g++) a[g] = from_x[g * H + j] + from_h[g * H + j];
        if (call.cell == RNN_TANH) out[j] = tanh(a[0]);
        if (call.cell == RNN_RELU) out[j] = a[0] > 0 ? a[0] : 0;
        if (call.cell == LSTM) {
          c[j] = squash(a[1]) * c[j] + squash(a[0]) * tanh(a[2]);
          out[j] = squash(a[3]) * tanh(c[j]);
        }
        if (call.cell == GRU || call.cell == GRU_CHO) {
          double mixed = squash(a[0]) * from_h[2 * H + j];
          if (call.cell == GRU_CHO) {
            mixed = 0;
            for (long i = 0; i < H; i++) {
              double r = squash(from_x[i] + from_h[i]);
              mixed += U[(2 * H + j) * H + i] * r * h[i];
            }
          }
          double n = tanh(from_x[2 * H + j] + mixed), z = squash(a[1]);
          out[j] = (1 - z) * n + z * h[j];
        }
      }
    }
  }
  free(from_x), free(from_h);
}

template <class T> struct Kernel;
template <> struct Kernel<float> {
  static constexpr double TOLERANCE = 1e-4;
  static void sizes(const SeqmemCall* c, int64_t* a, int64_t* b, int64_t* d) { NAME(sizes, f32)(c, a, b, d); }
  static void pack(const SeqmemCall* c, const float* w, const float* u, const float* bias, float* out) {
    NAME(pack, f32)(c, w, u, bias, w, out, 1);
  }
  static int64_t forward(const SeqmemCall* c) { return NAME(forward, f32)(c); }
  static int64_t backward(const SeqmemCall* c) { return NAME(backward, f32)(c); }
  static void reduce(const SeqmemCall* c, float* w, float* u, float* bias) { NAME(reduce, f32)(c, w, u, bias); }
};
template <> struct Kernel<double> {
  static constexpr double TOLERANCE = 1e-12;
  static void sizes(const SeqmemCall* c, int64_t* a, int64_t* b, int64_t* d) { NAME(sizes, f64)(c, a, b, d); }
  static void pack(const SeqmemCall* c, const double* w, const double* u, const double* bias, double* out) {
    NAME(pack, f64)(c, w, u, bias, w, out, 1);
  }
  static int64_t forward(const SeqmemCall* c) { return NAME(forward, f64)(c); }
  static int64_t backward(const SeqmemCall* c) { return NAME(backward, f64)(c); }
  static void reduce(const SeqmemCall* c, double* w, double* u, double* bias) { NAME(reduce, f64)(c, w, u, bias); }
};

// Run the kernels on the inputs and weights `given`: outputs, the last cell state, and gradients of the loss
// sum(weigh_outputs * outputs) + sum(weigh_cell * last cell state). A forward pass that saves nothing must agree.
template <class T>
void kernels(SeqmemCall call, double* const* given, const double* weigh_outputs, const double* weigh_cell, T* outputs,
             T* last_cell, T* const* gradients) {
  using K = Kernel<T>;
  long sizes[PARTS];
  part_sizes(call, sizes);
  const long state = call.B * call.H;
  int64_t packed_size, saved_size, sums_size;
  K::sizes(&call, &packed_size, &saved_size, &sums_size);
  Array<T> xs(sizes[0]), h0(state), c0(sizes[2]), W(sizes[3]), U(sizes[4]), bias(sizes[5]);
  Array<T>* all[PARTS] = {&xs, &h0, &c0, &W, &U, &bias};
  for (int part = 0; part < PARTS; part++)
    for (long i = 0; i < sizes[part]; i++) all[part]->data[i] = (T)given[part][i];
  Array<T> packed(packed_size), saved(saved_size), sums(sums_size), again(call.T * state), grad_outputs(call.T * state);
  Array<T> norm_input(call.T * call.B), norm_hidden(call.T * call.B), norm_cell(call.T * call.B);
  for (long i = 0; i < call.T * state; i++) grad_outputs.data[i] = (T)weigh_outputs[i];
  K::pack(&call, W.data, U.data, bias.data, packed.data);
  call.xs = xs.data, call.start_hidden = h0.data, call.packed = packed.data;
  if (call.cell == LSTM) call.start_cell = c0.data, call.final_cell = last_cell;
  call.outputs = again.data;
  if (K::forward(&call)) failures++;
  call.outputs = outputs, call.saved = saved.data;
  if (K::forward(&call)) failures++;
  expect(!memcmp(outputs, again.data, call.T * state * sizeof(T)), "outputs of a forward pass that saves nothing", call, 0, 0);
  sums.zero();
  memset(gradients[1], 0, state * sizeof(T));
  for (long i = 0; i < sizes[2]; i++) gradients[2][i] = (T)weigh_cell[i];
  call.grad_outputs = grad_outputs.data, call.grad_hidden = gradients[1], call.grad_xs = gradients[0];
  call.grad_sums = sums.data, call.norm_hidden = norm_hidden.data;
  call.norm_input = norm_input.data;
  if (call.cell == LSTM) call.grad_cell = gradients[2], call.norm_cell = norm_cell.data;
  if (K::backward(&call)) failures++;
  K::reduce(&call, gradients[3], gradients[4], gradients[5]);
  const long last = (call.T - 1) * call.B;
  for (long b = 0; b < call.B; b++) {  // no later timestep: the last state's gradient is its output's
    double squares = 0;
    for (long j = 0; j < call.H; j++) squares += pow(grad_outputs.data[(last + b) * call.H + j], 2);
    double norm = norm_hidden.data[last + b], expected = sqrt(squares);
    expect(fabs(norm - expected) <= K::TOLERANCE * expected, "norm of dL/dh_T", call, norm, expected);
  }
  for (long i = 0; i < call.T * call.B; i++) {
    double squares = 0;
    for (long j = 0; j < call.D; j++) squares += pow(gradients[0][i * call.D + j], 2);
    double norm = norm_input.data[i], expected = sqrt(squares);
    expect(fabs(norm - expected) <= K::TOLERANCE * expected, "norm of dL/dx_t", call, norm, expected);
  }
}

void close(const char* what, const SeqmemCall& call, double value, double expected, double tolerance) {
  expect(fabs(value - expected) <= tolerance * (1 + fabs(expected)), what, call, value, expected);
}

void check(long kind, long T, long B, long D, long H) {
  SeqmemCall call = {};
  call.cell = kind, call.T = T, call.B = B, call.D = D, call.H = H, call.threads = 1;
  const long state = B * H, steps = T * state;
  long sizes[PARTS];
  part_sizes(call, sizes);
  Random random;
  double* given[PARTS];
  for (int part = 0; part < PARTS; part++) {
    given[part] = (double*)malloc((sizes[part] + 1) * sizeof(double));
    double scale = part == 3 || part == 4 ? 1 / sqrt((double)(D + H)) : 1;
    for (long i = 0; i < sizes[part]; i++) given[part][i] = scale * random();
  }
  Array<double> weigh_outputs(steps), weigh_cell(state), outputs(steps), last_cell(state), ahead(steps), cell_ahead(state);
  weigh_outputs.fill(random, 1), weigh_cell.fill(random, 1), last_cell.zero(), cell_ahead.zero();
  plain(call, given, outputs.data, last_cell.data);

  Array<double> d_outputs(steps), d_cell(state), d0(sizes[0]), d1(sizes[1]), d2(sizes[2]), d3(sizes[3]), d4(sizes[4]), d5(sizes[5]);
  Array<double> e_outputs(steps), e_cell(state), e0(sizes[0]), e1(sizes[1]), e2(sizes[2]), e3(sizes[3]), e4(sizes[4]), e5(sizes[5]);
  Array<float> f_outputs(steps), f_cell(state), f0(sizes[0]), f1(sizes[1]), f2(sizes[2]), f3(sizes[3]), f4(sizes[4]), f5(sizes[5]);
  double *double_gradients[PARTS] = {d0.data, d1.data, d2.data, d3.data, d4.data, d5.data};
  double *thread_gradients[PARTS] = {e0.data, e1.data, e2.data, e3.data, e4.data, e5.data};
  float *float_gradients[PARTS] = {f0.data, f1.data, f2.data, f3.data, f4.data, f5.data};
  kernels<double>(call, given, weigh_outputs.data, weigh_cell.data, d_outputs.data, d_cell.data, double_gradients);
  call.threads = 4;
  kernels<double>(call, given, weigh_outputs.data, weigh_cell.data, e_outputs.data, e_cell.data, thread_gradients);
  kernels<float>(call, given, weigh_outputs.data, weigh_cell.data, f_outputs.data, f_cell.data, float_gradients);

  for (long i = 0; i < steps; i++) {
    close("output", call, d_outputs.data[i], outputs.data[i], Kernel<double>::TOLERANCE);
    close("float output", call, f_outputs.data[i], outputs.data[i], Kernel<float>::TOLERANCE);
  }
  if (kind == LSTM)
    for (long i = 0; i < state; i++) {
      close("last cell state", call, d_cell.data[i], last_cell.data[i], Kernel<double>::TOLERANCE);
      close("float last cell state", call, f_cell.data[i], last_cell.data[i], Kernel<float>::TOLERANCE);
    }
  expect(!memcmp(d_outputs.data, e_outputs.data, steps * sizeof(double)), "outputs on four threads", call, 0, 0);
  for (int part = 0; part < PARTS; part++) {
    expect(!memcmp(double_gradients[part], thread_gradients[part], sizes[part] * sizeof(double)), NAMES[part], call, 0, 0);
    for (long i = 0; i < sizes[part]; i++)
      close(NAMES[part], call, float_gradients[part][i], double_gradients[part][i], 20 * Kernel<float>::TOLERANCE);
    // The slope of the loss along a random direction, by central differences of the equations.
    const double step = 1e-6;
    double slope = 0, dot = 0;
    double* before = given[part];
    double* moved = (double*)malloc((sizes[part] + 1) * sizeof(double));
    double* direction = (double*)malloc((sizes[part] + 1) * sizeof(double));
    for (long i = 0; i < sizes[part]; i++) direction[i] = random();
    for (int sign = 1; sign >= -1; sign -= 2) {
      for (long i = 0; i < sizes[part]; i++) moved[i] = before[i] + sign * step * direction[i];
      given[part] = moved;
      plain(call, given, ahead.data, cell_ahead.data);
      for (long i = 0; i < steps; i++) slope += sign * weigh_outputs.data[i] * ahead.data[i];
      if (kind == LSTM)
        for (long i = 0; i < state; i++) slope += sign * weigh_cell.data[i] * cell_ahead.data[i];
    }
    given[part] = before;
    slope /= 2 * step;
    for (long i = 0; i < sizes[part]; i++) dot += double_gradients[part][i] * direction[i];
    close(NAMES[part], call, dot, slope, 1e-5);
    free(moved), free(direction);
  }
  for (double* array : given) free(array);
}

}  // namespace

int main() {
  // T B D H: below, at and above the sizes of vectors, tiles and chunks; blocks of several timesteps; long rows.
  const long shapes[][4] = {{1, 1, 1, 1}, {7, 3, 5, 4}, {20, 33, 9, 21}, {9, 20, 32, 64},
                            {5, 16, 17, 129}, {40, 50, 1, 16}, {3, 2, 0, 7}, {70, 1, 3, 33}};
  long count = 0;
  for (long kind = RNN_TANH; kind <= GRU_CHO; kind++)
    for (const long* s : shapes) check(kind, s[0], s[1], s[2], s[3]), count++;
  if (!failures) printf("%ld kinds and shapes\n", count);
  return failures != 0;
}
