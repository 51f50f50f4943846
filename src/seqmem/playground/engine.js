// The cells of seqmem, forward and backward, in float64. Nothing here touches the page. Only rounding differs from
// Python: far beyond its trained length a chaotic rnn magnifies float32's rounding from 1e-7 to more than 1e-4.
//
// Arrays are flat and time comes first: [T*H] holds the H units of timestep 0, then those of timestep 1. A layer's
// drive is W x_t + b. The rows of W, U and b have torch's order, i f g o and r z n.

const FORMAT = 1;

// ---------------------------------------------------------------------------------------------------------------------
// Numbers

function bytes(base64) {
  const text = atob(base64);
  const result = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) result[i] = text.charCodeAt(i);
  return result;
}

function floats(base64) {
  return Float64Array.from(new Float32Array(bytes(base64).buffer));
}

function sigmoid(x) {
  return 1 / (1 + Math.exp(-x));
}

// out[to + r] += sum over c of M[from + r, c] x[at + c], for r < rows; M has `columns` columns. Four rows at a
// time are twice as fast: a single sum is bound by the latency of additions.
function multiply(out, to, M, from, rows, columns, x, at) {
  const end = at + columns;
  let r = 0;
  let m = from * columns;
  for (; r + 3 < rows; r += 4, m += 3 * columns) {
    let s0 = 0;
    let s1 = 0;
    let s2 = 0;
    let s3 = 0;
    for (let c = at; c < end; c++, m++) {
      const by = x[c];
      s0 += M[m] * by;
      s1 += M[m + columns] * by;
      s2 += M[m + 2 * columns] * by;
      s3 += M[m + 3 * columns] * by;
    }
    out[to + r] += s0;
    out[to + r + 1] += s1;
    out[to + r + 2] += s2;
    out[to + r + 3] += s3;
  }
  for (; r < rows; r++) {
    let sum = 0;
    for (let c = at; c < end; c++) sum += M[m++] * x[c];
    out[to + r] += sum;
  }
}

// out[to + c] += sum over r of M[from + r, c] d[at + r], for r < rows: the same with M transposed.
function multiplyTransposed(out, to, M, from, rows, columns, d, at) {
  const end = to + columns;
  let r = 0;
  let m = from * columns;
  for (; r + 3 < rows; r += 4, m += 3 * columns) {
    const d0 = d[at + r];
    const d1 = d[at + r + 1];
    const d2 = d[at + r + 2];
    const d3 = d[at + r + 3];
    for (let c = to; c < end; c++, m++) {
      out[c] += M[m] * d0 + M[m + columns] * d1 + M[m + 2 * columns] * d2 + M[m + 3 * columns] * d3;
    }
  }
  for (; r < rows; r++) {
    const by = d[at + r];
    for (let c = to; c < end; c++) out[c] += M[m++] * by;
  }
}

// The L2 norm of every timestep's `size` numbers, over the whole range of float64: where squares would overflow or
// underflow, Math.hypot scales first.
function norms(values, size) {
  const result = new Float64Array(values.length / size);
  for (let t = 0; t < result.length; t++) {
    let squares = 0;
    for (let i = t * size; i < (t + 1) * size; i++) squares += values[i] * values[i];
    result[t] = Math.sqrt(squares);
    if (!(result[t] > 1e-140 && result[t] < 1e150)) result[t] = Math.hypot(...values.subarray(t * size, (t + 1) * size));
  }
  return result;
}

function means(values, size) {
  const result = new Float64Array(values.length / size);
  for (let t = 0; t < result.length; t++) {
    for (let i = t * size; i < (t + 1) * size; i++) result[t] += values[i];
    result[t] /= size;
  }
  return result;
}

// log10 of norms relative to one word back from the answer, or to the nearest word further back that has a gradient: a
// confident model has a small one everywhere. At the last word, which answers, it is that of the readout, and has crossed
// no word: NaN.
export function relative(norms) {
  const before = norms.slice(0, -1);
  const reference = before.findLast((norm) => norm > 0);
  const log = (norm) => (norm > 0 ? Math.log10(norm / reference) : -Infinity);
  return [...Array.from(before, log), NaN];
}

function softmax(logits, size) {
  const result = new Float64Array(logits.length);
  for (let at = 0; at < logits.length; at += size) {
    let largest = -Infinity;
    for (let k = 0; k < size; k++) largest = Math.max(largest, logits[at + k]);
    let sum = 0;
    for (let k = 0; k < size; k++) sum += result[at + k] = Math.exp(logits[at + k] - largest);
    for (let k = 0; k < size; k++) result[at + k] /= sum;
  }
  return result;
}

// ---------------------------------------------------------------------------------------------------------------------
// Cells. tape(T, H) allocates the buffers of T timesteps, with the states by name.
// path(tape): {state, keep, write} [T*H] of a state that changes by addition, s_t = keep_t s_{t-1} + write_t; or none.
// step(layer, drive, at, source, before, tape, t) writes timestep t of a tape, from the drive that begins at `at` and
// the state after timestep `before` of the tape `source`; before = -1 is the initial state, zero.
// backward(layer, T, tape, fromAbove) returns the gradients with respect to the drive and to every state. These are
// total derivatives: the gradient through an LSTM's h_t also counts at c_t. fromAbove [T*H] is the direct gradient at
// h_t, from the loss or the layer above.

//    h_t = phi(W x_t + U h_{t-1} + b)
function simple(phi, slope) {
  return {
    rows: 1,
    gates: {},
    keeps: [],
    tape(T, H) {
      const h = new Float64Array(T * H);
      return { h, states: { hidden: h } };
    },
    step({ hidden: H, U }, drive, at, source, before, { h }, t) {
      const a = drive.slice(at, at + H);
      if (before >= 0) multiply(a, 0, U, 0, H, H, source.h, before * H);
      for (let j = 0; j < H; j++) h[t * H + j] = phi(a[j]);
    },
    backward({ hidden: H, U }, T, { h }, fromAbove) {
      const dh = Float64Array.from(fromAbove);
      const drive = new Float64Array(T * H);
      for (let t = T - 1; t >= 0; t--) {
        const now = t * H;
        for (let j = now; j < now + H; j++) drive[j] = dh[j] * slope(h[j]);
        if (t > 0) multiplyTransposed(dh, now - H, U, 0, H, H, drive, now);
      }
      return { drive, states: { hidden: dh } };
    },
  };
}

//    i, f, o = sigmoid(W x_t + U h_{t-1} + b),  g = tanh(W x_t + U h_{t-1} + b)
//    c_t = f * c_{t-1} + i * g,  h_t = o * tanh(c_t)
const lstm = {
  rows: 4,
  gates: { forget: "f", input: "i", output: "o" },
  keeps: ["forget"],
  path: ({ f, i, g }) => ({ state: "cell", keep: f, write: i.map((open, n) => open * g[n]) }),
  tape(T, H) {
    const [i, f, g, o, c, h, tanhC] = Array.from({ length: 7 }, () => new Float64Array(T * H));
    return { i, f, g, o, h, c, tanhC, states: { hidden: h, cell: c } };
  },
  step({ hidden: H, U }, drive, at, source, before, { i, f, g, o, h, c, tanhC }, t) {
    const a = drive.slice(at, at + 4 * H);
    const old = before * H;
    if (before >= 0) multiply(a, 0, U, 0, 4 * H, H, source.h, old);
    for (let j = 0, n = t * H; j < H; j++, n++) {
      i[n] = sigmoid(a[j]);
      f[n] = sigmoid(a[H + j]);
      g[n] = Math.tanh(a[2 * H + j]);
      o[n] = sigmoid(a[3 * H + j]);
      c[n] = (before >= 0 ? f[n] * source.c[old + j] : 0) + i[n] * g[n];
      tanhC[n] = Math.tanh(c[n]);
      h[n] = o[n] * tanhC[n];
    }
  },
  backward({ hidden: H, U }, T, { i, f, g, o, c, tanhC }, fromAbove) {
    const dh = Float64Array.from(fromAbove);
    const dc = new Float64Array(T * H);
    const drive = new Float64Array(4 * T * H);
    for (let t = T - 1; t >= 0; t--) {
      const now = t * H;
      for (let j = 0, n = now, at = 4 * now; j < H; j++, n++, at++) {
        dc[n] += dh[n] * o[n] * (1 - tanhC[n] * tanhC[n]);
        const before = t > 0 ? c[n - H] : 0;
        drive[at] = dc[n] * g[n] * i[n] * (1 - i[n]);
        drive[at + H] = dc[n] * before * f[n] * (1 - f[n]);
        drive[at + 2 * H] = dc[n] * i[n] * (1 - g[n] * g[n]);
        drive[at + 3 * H] = dh[n] * tanhC[n] * o[n] * (1 - o[n]);
        if (t > 0) dc[n - H] = dc[n] * f[n];
      }
      if (t > 0) multiplyTransposed(dh, now - H, U, 0, 4 * H, H, drive, 4 * now);
    }
    return { drive, states: { hidden: dh, cell: dc } };
  },
};

//    r, z = sigmoid(W x_t + U h_{t-1} + b),  h_t = (1 - z) * n + z * h_{t-1}
//    n = tanh(W x_t + b + r * (U h_{t-1}))      inside: r scales U h, as in torch
//    n = tanh(W x_t + b + U (r * h_{t-1}))      else:   r scales h, as in Cho et al. (2014)
// The tape's u is the factor of r: U h_{t-1}, or h_{t-1}.
function gru(inside) {
  return {
    rows: 3,
    gates: { update: "z", reset: "r" },
    keeps: ["update"],
    path: ({ z, n }) => ({ state: "hidden", keep: z, write: n.map((value, k) => (1 - z[k]) * value) }),
    tape(T, H) {
      const [r, z, n, u, h] = Array.from({ length: 5 }, () => new Float64Array(T * H));
      return { r, z, n, u, h, states: { hidden: h } };
    },
    step({ hidden: H, U }, drive, at, source, before, { r, z, n, u, h }, t) {
      const a = drive.slice(at, at + 3 * H);
      const reset = new Float64Array(H);
      const now = t * H;
      const old = before * H;
      if (before >= 0) {
        multiply(a, 0, U, 0, 2 * H, H, source.h, old);
        if (inside) multiply(u, now, U, 2 * H, H, H, source.h, old);
        else for (let j = 0; j < H; j++) u[now + j] = source.h[old + j];
      }
      for (let j = 0; j < H; j++) {
        r[now + j] = sigmoid(a[j]);
        z[now + j] = sigmoid(a[H + j]);
        reset[j] = r[now + j] * u[now + j];
      }
      if (inside) for (let j = 0; j < H; j++) a[2 * H + j] += reset[j];
      else if (before >= 0) multiply(a, 2 * H, U, 2 * H, H, H, reset, 0);
      for (let j = 0, k = now; j < H; j++, k++) {
        n[k] = Math.tanh(a[2 * H + j]);
        h[k] = (1 - z[k]) * n[k] + (before >= 0 ? z[k] * source.h[old + j] : 0);
      }
    },
    backward({ hidden: H, U }, T, { r, z, n, u, h }, fromAbove) {
      const dh = Float64Array.from(fromAbove);
      const drive = new Float64Array(3 * T * H);
      const dn = new Float64Array(H); // at the argument of tanh
      const through = new Float64Array(H); // at the input of U's last rows, or at their product
      for (let t = T - 1; t >= 0; t--) {
        const now = t * H;
        const at = 3 * now;
        for (let j = 0, k = now; j < H; j++, k++) {
          dn[j] = dh[k] * (1 - z[k]) * (1 - n[k] * n[k]);
          const before = t > 0 ? h[k - H] : 0;
          drive[at + H + j] = dh[k] * (before - n[k]) * z[k] * (1 - z[k]);
          drive[at + 2 * H + j] = dn[j];
          if (t > 0) dh[k - H] += dh[k] * z[k];
        }
        if (inside) through.set(dn);
        else {
          through.fill(0);
          multiplyTransposed(through, 0, U, 2 * H, H, H, dn, 0);
        }
        for (let j = 0, k = now; j < H; j++, k++) {
          drive[at + j] = through[j] * u[k] * r[k] * (1 - r[k]);
          through[j] *= r[k];
        }
        if (t > 0) {
          multiplyTransposed(dh, now - H, U, 0, 2 * H, H, drive, at);
          if (inside) multiplyTransposed(dh, now - H, U, 2 * H, H, H, through, 0);
          else for (let j = 0; j < H; j++) dh[now - H + j] += through[j];
        }
      }
      return { drive, states: { hidden: dh } };
    },
  };
}

//    h_t = keep * h_{t-1} + write,  both of `rows` numbers a of each unit: W x_t + b, and U h_{t-1} if `recurrent`
// open(a, layer) returns {keep, write, and the gates}; back(a, opened, dKeep, dWrite, layer) the gradient at each a.
function additive({ rows, recurrent, gates, keeps, open, back }) {
  const names = Object.values(gates);
  return {
    rows,
    gates,
    keeps,
    path: ({ keep, write }) => ({ state: "hidden", keep, write }),
    tape(T, H) {
      const [h, keep, write] = Array.from({ length: 3 }, () => new Float64Array(T * H));
      const opened = Object.fromEntries(names.map((name) => [name, new Float64Array(T * H)]));
      return { ...opened, h, keep, write, a: new Float64Array(rows * T * H), states: { hidden: h } };
    },
    step(layer, drive, at, source, before, tape, t) {
      const H = layer.hidden;
      const all = drive.slice(at, at + rows * H);
      if (recurrent && before >= 0) multiply(all, 0, layer.U, 0, rows * H, H, source.h, before * H);
      tape.a.set(all, t * rows * H);
      for (let j = 0, n = t * H; j < H; j++, n++) {
        const opened = open(unit(all, 0, j, H, rows), layer);
        tape.keep[n] = opened.keep;
        tape.write[n] = opened.write;
        for (const name of names) tape[name][n] = opened[name];
        tape.h[n] = (before >= 0 ? opened.keep * source.h[before * H + j] : 0) + opened.write;
      }
    },
    backward(layer, T, { a, keep, h }, fromAbove) {
      const H = layer.hidden;
      const dh = Float64Array.from(fromAbove);
      const drive = new Float64Array(rows * T * H);
      for (let t = T - 1; t >= 0; t--) {
        const now = t * H;
        for (let j = 0, n = now; j < H; j++, n++) {
          const mine = unit(a, rows * now, j, H, rows);
          const at = back(mine, open(mine, layer), t > 0 ? dh[n] * h[n - H] : 0, dh[n], layer);
          at.forEach((value, row) => (drive[rows * now + row * H + j] = value));
          if (t > 0) dh[n - H] += dh[n] * keep[n];
        }
        if (recurrent && t > 0) multiplyTransposed(dh, now - H, layer.U, 0, rows * H, H, drive, rows * now);
      }
      return { drive, states: { hidden: dh } };
    },
  };
}

function unit(a, from, j, H, rows) {
  return Array.from({ length: rows }, (_, row) => a[from + row * H + j]);
}

//    keep = sigmoid(a),  write = (1 - sigmoid(a - beta)) tanh(c)        beta = 0: the ugrnn
const janet = {
  rows: 2,
  recurrent: true,
  gates: { forget: "keep", input: "enter" },
  keeps: ["forget"],
  open([a, c], { beta }) {
    const enter = 1 - sigmoid(a - beta);
    return { keep: sigmoid(a), enter, write: enter * Math.tanh(c) };
  },
  back([, c], { keep, enter }, dKeep, dWrite) {
    const n = Math.tanh(c);
    return [dKeep * keep * (1 - keep) - dWrite * n * enter * (1 - enter), dWrite * enter * (1 - n * n)];
  },
};

// minGRU's and minLSTM's candidate, and its slope.
const aboveZero = (n) => (n >= 0 ? n + 0.5 : sigmoid(n));
const slopeAboveZero = (n) => (n >= 0 ? 1 : sigmoid(n) * (1 - sigmoid(n)));

//    keep = 1 - z,  write = z g(n),  z = sigmoid(W x_t + b)
const mingru = {
  rows: 2,
  recurrent: false,
  gates: { keep: "keep" },
  keeps: ["keep"],
  open([z, n]) {
    return { keep: sigmoid(-z), write: sigmoid(z) * aboveZero(n) };
  },
  back([z, n], { keep }, dKeep, dWrite) {
    const slope = keep * (1 - keep);
    return [(dWrite * aboveZero(n) - dKeep) * slope, dWrite * (1 - keep) * slopeAboveZero(n)];
  },
};

//    keep = f,  write = i g(n),  f, i = sigmoid(W x_t + b), in the normalised form over f + i
const minlstm = {
  rows: 3,
  recurrent: false,
  gates: { forget: "keep", input: "enter" },
  keeps: ["forget"],
  open([f, i, n]) {
    return { keep: sigmoid(f), enter: sigmoid(i), write: sigmoid(i) * aboveZero(n) };
  },
  back([, , n], { keep, enter }, dKeep, dWrite) {
    const dEnter = dWrite * aboveZero(n);
    return [dKeep * keep * (1 - keep), dEnter * enter * (1 - enter), dWrite * enter * slopeAboveZero(n)];
  },
};
const logSigmoid = (x) => -(Math.max(-x, 0) + Math.log1p(Math.exp(-Math.abs(x))));
const normalised = {
  ...minlstm,
  open([f, i, n]) {
    const share = logSigmoid(f) - logSigmoid(i); // f / (f + i) in logarithms, where both may underflow
    return { keep: sigmoid(share), enter: sigmoid(-share), write: sigmoid(-share) * aboveZero(n) };
  },
  back([f, i, n], { keep, enter }, dKeep, dWrite) {
    const dShare = (dKeep - dWrite * aboveZero(n)) * keep * enter;
    return [dShare * sigmoid(-f), -dShare * sigmoid(-i), dWrite * enter * slopeAboveZero(n)];
  },
};

const CELLS = {
  "rnn tanh": simple(Math.tanh, (h) => 1 - h * h),
  "rnn relu": simple((a) => (a > 0 ? a : 0), (h) => (h > 0 ? 1 : 0)),
  lstm,
  "gru torch": gru(true),
  "gru cho": gru(false),
  ugrnn: additive({ ...janet, gates: { update: "keep" }, keeps: ["update"] }),
  janet: additive(janet),
  mingru: additive(mingru),
  minlstm: additive(minlstm),
  "minlstm normalised": additive(normalised),
};

// The effective attention of timestep t on all T: the norm over units of what each wrote times all that was kept of it
// since, over the sum of these norms. The state before the first is zero.
function shares({ keep, write }, H, T, t) {
  const left = new Float64Array(H).fill(1);
  const result = new Float64Array(T);
  let sum = 0;
  for (let s = t; s >= 0; s--) {
    let squares = 0;
    for (let j = 0, n = s * H; j < H; j++, n++) {
      squares += (left[j] * write[n]) ** 2;
      left[j] *= keep[n];
    }
    sum += result[s] = Math.sqrt(squares);
  }
  return result.map((size) => size / sum);
}

// ---------------------------------------------------------------------------------------------------------------------
// Models

function lastChange(top) {
  for (let t = top.length - 1; t > 0; t--) if (top[t] !== top[t - 1]) return t;
  return null;
}

function argmax(values, size) {
  const top = new Int32Array(values.length / size);
  for (let t = 0; t < top.length; t++) {
    for (let k = 1; k < size; k++) if (values[t * size + k] > values[t * size + top[t]]) top[t] = k;
  }
  return top;
}

// One sequence read by a model that runs here: `confidence` [T*K] in every answer if the token `question` came next
// (null: of the readout as it is), `top` [T] the likeliest answer, `changedAt` the last timestep at which it changed (or
// null), `gates` and `states` by name [T*H], `keeps` the gates whose value is the share of the old state that stays,
// `looks` what it looks back at: over(t) is the share of every timestep [T], seen from timestep t.
class Reading {
  constructor(net, tokens, question) {
    this.T = tokens.length;
    this.K = net.K;
    this.hidden = net.layers.map((layer) => layer.hidden);
    this.tokens = tokens;
    this.net = net;
    this.tapes = net.forward(tokens);
    const h = question === null ? this.tapes.at(-1).h : net.probe(question, this.tapes, this.T);
    this.confidence = net.read(h, this.T);
    this.top = argmax(this.confidence, this.K);
    this.changedAt = lastChange(this.top);
    this.keeps = net.layers.flatMap((layer) => layer.kind.keeps.map((name) => layer.prefix + name));
    this.gates = {};
    this.states = {};
    this.sizes = {}; // units of every gate and state
    net.layers.forEach((layer, l) => {
      for (const [name, key] of Object.entries(layer.kind.gates)) {
        this.gates[layer.prefix + name] = this.tapes[l][key];
        this.sizes[layer.prefix + name] = layer.hidden;
      }
      for (const [name, values] of Object.entries(this.tapes[l].states)) {
        this.states[layer.prefix + name] = values;
        this.sizes[layer.prefix + name] = layer.hidden;
      }
    });
    this.gradients = new Map();
    // Upper layers first: {name, effective, over}.
    this.looks = net.layers
      .map((layer, l) => {
        const path = layer.kind.path?.(this.tapes[l]);
        return path && { name: layer.prefix + path.state, effective: true, over: (t) => shares(path, layer.hidden, this.T, t) };
      })
      .filter(Boolean)
      .reverse();
  }

  // Mean of each gate over its units, by name: [T].
  get gateMeans() {
    return (this.cachedMeans ??= this.each(this.gates, means));
  }

  // L2 norm of each state, by name: [T].
  get norms() {
    return (this.cachedNorms ??= this.each(this.states, norms));
  }

  // L2 norms of d(-log p[answer] at the last timestep) / d state_t, by name: [T]. "state" is all states together,
  // "input" what enters the first layer.
  gradient(answer) {
    if (!this.gradients.has(answer)) this.gradients.set(answer, this.net.backward(this, answer));
    return this.gradients.get(answer);
  }

  each(values, by) {
    return Object.fromEntries(Object.entries(values).map(([name, all]) => [name, by(all, this.sizes[name])]));
  }
}

// A stack of layers and a readout; `table` caches the first layer's drive for every token.
class Net {
  constructor({ vocab, embed_size, embed, layers, readout }) {
    this.layers = layers.map((layer, l) => ({
      kind: CELLS[layer.equations],
      prefix: layers.length > 1 ? `${l}/` : "",
      hidden: layer.hidden,
      input: layer.input,
      rows: CELLS[layer.equations].rows * layer.hidden,
      W: floats(layer.weight_input),
      U: layer.weight_hidden && floats(layer.weight_hidden),
      beta: layer.beta ? floats(layer.beta)[0] : 0,
      bias: floats(layer.bias),
    }));
    this.weight = floats(readout.weight);
    this.bias = floats(readout.bias);
    this.K = this.bias.length;
    const [{ W, bias, rows, input }] = this.layers;
    const vectors = embed === null ? null : floats(embed);
    this.table = new Float64Array(vocab * rows);
    for (let token = 0; token < vocab; token++) {
      this.table.set(bias, token * rows);
      if (vectors) multiply(this.table, token * rows, W, 0, rows, embed_size, vectors, token * embed_size);
      else for (let r = 0; r < rows; r++) this.table[token * rows + r] += W[r * input + token];
    }
  }

  // The tapes, one for each layer.
  forward(tokens) {
    const tapes = this.tapes(tokens.length);
    tokens.forEach((token, t) => this.step(token, tapes, t - 1, tapes, t));
    return tapes;
  }

  // The last layer's h after each timestep if the token `question` were read next; at the last timestep, h itself.
  probe(question, tapes, T) {
    const probes = this.tapes(T);
    for (let t = 0; t < T - 1; t++) this.step(question, tapes, t, probes, t);
    const { h } = probes.at(-1);
    const last = h.length - this.layers.at(-1).hidden;
    h.set(tapes.at(-1).h.subarray(last), last);
    return h;
  }

  tapes(T) {
    return this.layers.map((layer) => layer.kind.tape(T, layer.hidden));
  }

  // Write timestep t of the tapes `to`: read `token` from the state after timestep `before` of the tapes `from`.
  step(token, from, before, to, t) {
    this.layers.forEach((layer, l) => {
      if (l === 0) layer.kind.step(layer, this.table, token * layer.rows, from[0], before, to[0], t);
      else {
        const drive = layer.bias.slice();
        multiply(drive, 0, layer.W, 0, layer.rows, layer.input, to[l - 1].h, t * layer.input);
        layer.kind.step(layer, drive, 0, from[l], before, to[l], t);
      }
    });
  }

  read(h, T) {
    const H = this.layers.at(-1).hidden;
    const logits = new Float64Array(T * this.K);
    for (let t = 0; t < T; t++) {
      logits.set(this.bias, t * this.K);
      multiply(logits, t * this.K, this.weight, 0, this.K, H, h, t * H);
    }
    return softmax(logits, this.K);
  }

  backward({ T, K, confidence, tapes }, answer) {
    const H = this.layers.at(-1).hidden;
    const atLogits = Float64Array.from(confidence.subarray((T - 1) * K)); // p - 1[answer]
    atLogits[answer] -= 1;
    let fromAbove = new Float64Array(T * H);
    multiplyTransposed(fromAbove, (T - 1) * H, this.weight, 0, K, H, atLogits, 0);
    const byState = {};
    for (let l = this.layers.length - 1; l >= 0; l--) {
      const layer = this.layers[l];
      const { drive, states } = layer.kind.backward(layer, T, tapes[l], fromAbove);
      for (const [name, values] of Object.entries(states)) byState[layer.prefix + name] = norms(values, layer.hidden);
      fromAbove = new Float64Array(T * layer.input);
      for (let t = 0; t < T; t++) {
        multiplyTransposed(fromAbove, t * layer.input, layer.W, 0, layer.rows, layer.input, drive, t * layer.rows);
      }
    }
    const names = this.layers.flatMap((layer, l) => Object.keys(tapes[l].states).map((name) => layer.prefix + name));
    const state = Float64Array.from({ length: T }, (_, t) => Math.hypot(...names.map((name) => byState[name][t])));
    const states = Object.fromEntries(names.map((name) => [name, byState[name]]));
    return { state, ...states, input: norms(fromAbove, this.layers[0].input) };
  }
}

// A reading computed in Python, for a model that cannot run here: means of gates and norms of states, no units. What it
// looks back at is known from `first` on: from every timestep, or in long sentences from the last alone.
class Precomputed {
  constructor({ confidence, gates, norms: sizes, gradient, answer, keeps, looks }, K) {
    const all = (values) => Object.fromEntries(Object.entries(values).map(([name, text]) => [name, floats(text)]));
    this.confidence = floats(confidence);
    this.K = K;
    this.T = this.confidence.length / K;
    this.top = argmax(this.confidence, K);
    this.changedAt = lastChange(this.top);
    this.keeps = keeps;
    this.hidden = [];
    this.gates = {};
    this.states = {};
    this.gateMeans = all(gates);
    this.norms = all(sizes);
    this.answer = answer;
    this.logs = gradient;
    this.looks = looks.map(({ name, effective, first, over }) => {
      const values = new Uint16Array(bytes(over).buffer);
      const start = (t) => (t * (t + 1) - first * (first + 1)) / 2;
      const row = (t) => Float64Array.from({ length: this.T }, (_, s) => (s > t ? 0 : values[start(t) + s] / 65535));
      return { name, effective, over: (t) => (t < first ? null : row(t)) };
    });
  }

  // Known for the right answer only; null for another.
  gradient(answer) {
    if (answer !== this.answer) return null;
    return Object.fromEntries(
      Object.entries(this.logs).map(([name, text]) => [name, floats(text).map((log) => 10 ** log)]),
    );
  }
}

class Model {
  constructor(data, sentences, task) {
    this.data = data;
    this.sentences = sentences;
    this.task = task;
    for (const key of ["id", "label", "cell", "seq_len", "shortest", "seed", "group", "parameters", "score"]) {
      this[key] = data[key];
    }
    this.lengths = data.lengths;
  }

  // True if the model reads any sentence; false if only those of readable().
  get runs() {
    return this.data.layers !== null;
  }

  read(tokens) {
    if (this.runs) {
      if (tokens.length === 0) return null;
      return new Reading((this.net ??= new Net(this.data)), tokens, this.task.question(tokens));
    }
    const same = (at) => at.length === tokens.length && at.every((token, t) => token === tokens[t]);
    const reading = this.data.readings.find(({ sentence: [at, number] }) => same(this.sentences[at].tokens(number)));
    return reading ? new Precomputed(reading, this.task.answers.length) : null;
  }

  // [index into the sentences, number] of the sentences read ahead; null if the model reads any.
  readable() {
    return this.runs ? null : this.data.readings.map(({ sentence }) => sentence);
  }
}

// ---------------------------------------------------------------------------------------------------------------------
// Sentences and words

// Sentences of one length.
class Sentences {
  constructor({ seq_len, tokens, right }, vocabulary) {
    this.seq_len = seq_len;
    this.count = right.length;
    this.answers = right;
    this.text = tokens;
    this.wide = vocabulary > 256;
  }

  tokens(number) {
    if (!this.all) {
      const raw = bytes(this.text);
      this.all = this.wide ? new Uint16Array(raw.buffer) : raw;
    }
    return Array.from(this.all.subarray(number * this.seq_len, (number + 1) * this.seq_len));
  }

  right(number) {
    return this.answers[number];
  }
}

// Levenshtein distance (1966): the fewest insertions, deletions and replacements of letters.
function editDistance(a, b) {
  let above = Array.from({ length: b.length + 1 }, (_, j) => j);
  for (let i = 0; i < a.length; i++) {
    const row = [i + 1];
    for (let j = 0; j < b.length; j++) {
      row.push(Math.min(row[j] + 1, above[j + 1] + 1, above[j] + (a[i] === b[j] ? 0 : 1)));
    }
    above = row;
  }
  return above[b.length];
}

const PUNCTUATION = /^[,.;:!?"']+|[,.;:!?"']+$/g;

class Task {
  constructor(data) {
    // name, title, vocabulary, answers, chance, chances, min_seq_len, metric, solved_at, naming, automaton
    Object.assign(this, data);
    const occurring = this.automaton && new Set(this.automaton.slots.flat());
    // The words of the task's sentences. No model was trained on another.
    this.known = this.vocabulary
      .map((word, token) => ({ word, token }))
      .filter(({ token }) => !occurring || occurring.has(token));
    this.place = new Map(this.known.map(({ word, token }) => [word, token]));
    this.lower = new Map(this.known.map(({ word, token }) => [word.toLowerCase(), token]));
    this.spelled = this.vocabulary.every((word) => word.length === 1); // letters need no spaces between them
  }

  chanceAt(length) {
    return this.chances[length] ?? this.chance;
  }

  words(tokens) {
    return Array.from(tokens, (token) => this.vocabulary[token]);
  }

  // Tokens of a typed text, and its unknown words, each with the nearest known words.
  parse(text) {
    const written = text.split(/\s+/).filter((word) => word !== "");
    const tokens = [];
    const unknown = [];
    (this.spelled ? written.flatMap((word) => [...word]) : written).forEach((word, at) => {
      const token = this.token(word);
      if (token !== undefined) tokens.push(token);
      else unknown.push({ word, at, nearest: this.nearest(word) });
    });
    return { tokens, words: this.words(tokens), unknown };
  }

  // Try the word unchanged first: "!" and "." are words of some tasks.
  token(word) {
    for (const form of [word, word.replace(PUNCTUATION, "")]) {
      const token = this.place.get(form) ?? this.lower.get(form.toLowerCase());
      if (token !== undefined) return token;
    }
    return undefined;
  }

  // Up to `most` known words, nearest first by edit distance, which is at most half of the longer word.
  nearest(word, most = 3) {
    const plain = word.replace(/^[^\p{L}\p{N}]+|[^\p{L}\p{N}]+$/gu, "").toLowerCase();
    return this.known
      .map(({ word: known, token }) => ({ known, token, far: editDistance(plain, known.toLowerCase()) }))
      .filter(({ known, far }) => far <= Math.max(known.length, plain.length) / 2)
      .sort((a, b) => a.far - b.far || a.token - b.token)
      .slice(0, most)
      .map(({ known }) => known);
  }

  // The last token if it is a query, else null.
  question(tokens) {
    const last = tokens.at(-1);
    return this.naming && last in this.naming.asks ? last : null;
  }

  // The answer that the sentence mentions and its last word asks for; null if there is none or more than one, or if the
  // task has no such sentence.
  right(tokens) {
    const candidates = this.candidates(tokens);
    const whole = tokens.length >= this.min_seq_len && this.problem(tokens) === null;
    return whole && candidates.length === 1 ? candidates[0] : null;
  }

  // Where a sentence stops being one of the task's: {at, expected, latest}, with the tokens that may stand there; `latest`
  // is the last place where its token could stand, else null. At the end, if it stops too early. null if it is one.
  problem(tokens) {
    if (!this.automaton) return null;
    const { slots, edges, ends, latest } = this.automaton;
    let states = new Set([0]);
    const expected = () =>
      [...new Set([...states].flatMap((state) => edges[state].flatMap(([slot]) => slots[slot])))].sort((a, b) => a - b);
    const last = (state) => {
      const [least, divisor] = latest[state] ?? [Infinity, 1];
      return Math.max(least, Math.floor(tokens.length / divisor));
    };
    for (let t = 0; t < tokens.length; t++) {
      const reached = [...states].flatMap((state) =>
        edges[state].filter(([slot]) => slots[slot].includes(tokens[t])).map(([, into]) => into),
      );
      const entered = reached.filter((state) => t <= last(state));
      if (entered.length === 0) {
        return { at: t, expected: expected(), latest: reached.length > 0 ? Math.max(...reached.map(last)) : null };
      }
      states = new Set(entered);
    }
    return ends.some((state) => states.has(state)) ? null : { at: tokens.length, expected: expected(), latest: null };
  }

  candidates(tokens) {
    if (!this.naming || tokens.length === 0) return [];
    const before = Array.from(tokens).slice(0, -1);
    const contains = (phrase) => before.some((_, at) => phrase.every((token, i) => before[at + i] === token));
    return (this.naming.asks[tokens.at(-1)] ?? []).filter((answer) => contains(this.naming.phrases[answer]));
  }
}

// Decode the page's data: {task, sentences: one entry for each length, models, groups: models that differ only in their
// seed}. Weights and sentences are decoded on first use.
export function decode(data) {
  if (data.format !== FORMAT) throw new Error(`the data have format ${data.format}, this page reads format ${FORMAT}`);
  const task = new Task(data.task);
  const sentences = data.sentences.map((some) => new Sentences(some, task.vocabulary.length));
  const models = data.models.map((model) => new Model(model, sentences, task));
  const groups = [...new Set(models.map(({ group }) => group))].map((name) => ({
    name,
    models: models.filter(({ group }) => group === name),
  }));
  return { task, sentences, models, groups };
}
