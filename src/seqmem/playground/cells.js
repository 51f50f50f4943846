// The cells of seqmem that run in the page, by the names of their equations: a definition each, as in cells/*.py, from
// which the tape derives the gradients.
//
// start(tape, w): the state before the first timestep, by name; what grows is an array with a node for each timestep.
// step(tape, w, x, state): {output, state, gates, and what the timestep looks back at, if that can be told}:
//   path   {state, keep, write}               of a state that changes by addition: keep * old + write
//          {state, keep, key, value, query}   of a memory: keep * old + key value^T, which the query reads
//   looks  {name, weights}                    attention's weights of the last timesteps, [heads * timesteps]
// `keeps`: the gates whose value is the share of the old state that stays; `output`: the state that is the output.
// w has the weights by their names, and the sizes `hidden` and `input`. Rows have torch's order, i f g o and r z n.

import { F, plus, times } from "./tape.js";

const hidden = { start: (t, w) => ({ hidden: t.zeros(w.hidden) }), output: "hidden" };

function parts(t, node, count) {
  const n = node.n / count;
  return Array.from({ length: count }, (_, i) => t.part(node, i * n, n));
}

//    h_t = phi(W x_t + U h_{t-1} + b)
function simple(phi) {
  return {
    ...hidden,
    step(t, w, x, { hidden: h }) {
      const output = t.map(t.add(t.affine(x, w.weight_input, w.bias), t.affine(h, w.weight_hidden)), phi);
      return { output, state: { hidden: output }, gates: {} };
    },
  };
}

//    i, f, o = sigmoid(W x_t + U h_{t-1} + b),  g = tanh(W x_t + U h_{t-1} + b)
//    c_t = f * c_{t-1} + i * g,  h_t = o * tanh(c_t)
const lstm = {
  keeps: ["forget"],
  output: "hidden",
  start: (t, w) => ({ hidden: t.zeros(w.hidden), cell: t.zeros(w.hidden) }),
  step(t, w, x, { hidden: h, cell: c }) {
    const all = t.add(t.affine(x, w.weight_input, w.bias), t.affine(h, w.weight_hidden));
    const [i, f, g, o] = parts(t, all, 4).map((part, row) => t.map(part, row === 2 ? F.tanh : F.sigmoid));
    const write = t.mul(i, g);
    const cell = t.add(t.mul(f, c), write);
    const output = t.mul(o, t.map(cell, F.tanh));
    return {
      output,
      state: { hidden: output, cell },
      gates: { forget: f, input: i, output: o },
      path: { state: "cell", keep: f, write },
    };
  },
};

//    h_t = keep * h_{t-1} + write;  `of` returns {keep, write, gates}
function keeping(keeps, of) {
  return {
    ...hidden,
    keeps,
    step(t, w, x, { hidden: h }) {
      const { keep, write, gates } = of(t, w, x, h);
      const output = t.add(t.mul(keep, h), write);
      return { output, state: { hidden: output }, gates, path: { state: "hidden", keep, write } };
    },
  };
}

//    r, z = sigmoid(W x_t + U h_{t-1} + b),  h_t = (1 - z) * n + z * h_{t-1}
//    n = tanh(W x_t + b + r * (U h_{t-1}))      inside: r scales U h, as in torch
//    n = tanh(W x_t + b + U (r * h_{t-1}))      else:   r scales h, as in Cho et al. (2014)
function gru(inside) {
  return keeping(["update"], (t, w, x, h) => {
    const H = w.hidden;
    const fromInput = t.affine(x, w.weight_input, w.bias);
    const fromHidden = t.affine(h, w.weight_hidden, null, 0, inside ? 3 * H : 2 * H);
    const both = t.map(t.add(t.part(fromInput, 0, 2 * H), t.part(fromHidden, 0, 2 * H)), F.sigmoid);
    const [r, z] = parts(t, both, 2);
    const reset = inside
      ? t.mul(t.part(fromHidden, 2 * H, H), r)
      : t.affine(t.mul(h, r), w.weight_hidden, null, 2 * H, H);
    const n = t.map(t.add(t.part(fromInput, 2 * H, H), reset), F.tanh);
    return { keep: z, write: t.mul(t.map(z, F.not), n), gates: { update: z, reset: r } };
  });
}

//    f = sigmoid(W x_t + U h_{t-1} + b),  keep = 1 - f,  write = f * tanh(W x_t + U (f * h_{t-1}) + b)
const mgu = keeping(["keep"], (t, w, x, h) => {
  const H = w.hidden;
  const [a, c] = parts(t, t.affine(x, w.weight_input, w.bias), 2);
  const f = t.map(t.add(a, t.affine(h, w.weight_hidden, null, 0, H)), F.sigmoid);
  const keep = t.map(f, F.not);
  const n = t.map(t.add(c, t.affine(t.mul(h, f), w.weight_hidden, null, H, H)), F.tanh);
  return { keep, write: t.mul(f, n), gates: { keep } };
});

//    keep = sigmoid(a),  write = (1 - sigmoid(a - beta)) tanh(c)        without beta: the ugrnn
function janet(keeps, gatesOf) {
  return keeping(keeps, (t, w, x, h) => {
    const [a, c] = parts(t, t.add(t.affine(x, w.weight_input, w.bias), t.affine(h, w.weight_hidden)), 2);
    const keep = t.map(a, F.sigmoid);
    const enter = t.map(t.map(t.map(a, plus(-(w.beta?.[0] ?? 0))), F.sigmoid), F.not);
    return { keep, write: t.mul(enter, t.map(c, F.tanh)), gates: gatesOf(keep, enter) };
  });
}

// minGRU's and minLSTM's candidate.
const ABOVE_ZERO = [
  (n) => (n >= 0 ? n + 0.5 : F.sigmoid[0](n)),
  (n, y) => (n >= 0 ? 1 : y * (1 - y)),
];

//    keep = 1 - z,  write = z g(n),  z = sigmoid(W x_t + b)
const mingru = keeping(["keep"], (t, w, x) => {
  const [z, n] = parts(t, t.affine(x, w.weight_input, w.bias), 2);
  const keep = t.map(t.map(z, F.negative), F.sigmoid);
  return { keep, write: t.mul(t.map(z, F.sigmoid), t.map(n, ABOVE_ZERO)), gates: { keep } };
});

//    keep = f,  write = i g(n),  f, i = sigmoid(W x_t + b), in the normalised form over f + i
const minlstm = keeping(["forget"], (t, w, x) => {
  let [f, i, n] = parts(t, t.affine(x, w.weight_input, w.bias), 3);
  if (w.normalised[0]) {
    // f / (f + i) in logarithms, where both may underflow.
    f = t.add(t.map(f, F.logSigmoid), t.map(t.map(i, F.logSigmoid), F.negative));
    i = t.map(f, F.negative);
  }
  [f, i] = [t.map(f, F.sigmoid), t.map(i, F.sigmoid)];
  return { keep: f, write: t.mul(i, t.map(n, ABOVE_ZERO)), gates: { forget: f, input: i } };
});

//    v = W_v x_t,  r, i = sigmoid(W v + b),  keep = exp(-8 r softplus(decay)),  write = sqrt(1 - keep^2) i v
const rglru = keeping(["keep"], (t, w, x) => {
  const v = t.affine(x, w.weight_input);
  const [r, i] = parts(t, t.map(t.affine(v, w.weight_gates, w.bias), F.sigmoid), 2);
  const log = t.mul(r, t.leaf(w.decay.map((decay) => -8 * F.softplus[0](decay))));
  const keep = t.map(log, F.exp);
  const rest = t.map(log, [(a) => Math.sqrt(-Math.expm1(2 * a)), (a, y) => -Math.exp(2 * a) / y]);
  return { keep, write: t.mul(rest, t.mul(i, v)), gates: { keep, input: i } };
});

//    x_t = W_in input_t + p_t,  q, k, v = W norm(x_t),  y_t = x_t + W_o (sum over s of softmax(q . k_s / sqrt(E)) v_s)
//    out_t = y_t + W_2 gelu(W_1 norm(y_t) + b_1) + b_2
const attention = {
  start: () => ({ keys: [], values: [] }),
  step(t, w, input, { keys, values }) {
    const heads = w.heads[0];
    const most = w.window ? w.window[0] : Infinity;
    const place = keys.length === 0 ? 0 : keys.at(-1).place + 1;
    let x = w["enter.weight"] ? t.affine(input, w["enter.weight"]) : input;
    if (w.places) {
      const from = Math.min(place, w.places.length / w.hidden - 1) * w.hidden;
      x = t.add(x, t.leaf(w.places.subarray(from, from + w.hidden)));
    }
    const [q, k, v] = parts(t, t.affine(t.norm(x, w["norm.weight"], w["norm.bias"]), w["project.weight"]), 3);
    const turn = (vector) => (w.rotary[0] ? t.turned(vector, heads, place) : vector);
    const key = { ...k, place, turned: turn(k) };
    keys = [...keys, key].slice(-most);
    values = [...values, v].slice(-most);
    const { seen, weights } = t.attend(turn(q), keys.map(({ turned }) => turned), values, heads);
    let output = t.add(x, t.affine(seen, w["leave.weight"]));
    if (w["second.1.weight"]) {
      const inner = t.affine(t.norm(output, w["second.0.weight"], w["second.0.bias"]), w["second.1.weight"], w["second.1.bias"]);
      output = t.add(output, t.affine(t.map(inner, F.gelu), w["second.3.weight"], w["second.3.bias"]));
    }
    return { output, state: { keys, values }, gates: {}, looks: { name: "attention", weights } };
  },
};

// ---------------------------------------------------------------------------------------------------------------------
// Memories S [heads, E, E], rows are a key's numbers: what was stored under a key is read with a query.

function empty(t, w, what = "memory") {
  const width = w["leave.weight"].length / w.hidden;
  const heads = w.heads[0];
  return t.zeros(what === "memory" ? (width * width) / heads : width);
}

const memory = { start: (t, w) => ({ memory: empty(t, w) }) };

function projected(t, w, x) {
  return parts(t, t.affine(x, w["project.weight"]), 3);
}

// silu of q, k and v; q and k divided by their lengths.
function directed(t, w, x) {
  const [q, k, v] = projected(t, w, x).map((part) => t.map(part, F.silu));
  const rsqrt = [(s) => 1 / Math.sqrt(s + 1e-6), (s, y) => (-y * y * y) / 2];
  const unit = (a) => t.mul(a, t.map(t.dots(a, a, w.heads[0]), rsqrt));
  return [unit(q), unit(k), v];
}

// What the queries read of the memory, joined by W_o.
function out(t, w, S, query, scale) {
  const heads = w.heads[0];
  const read = t.recall(S, query, heads);
  return t.affine(t.map(read, times(scale ?? 1 / Math.sqrt(query.n / heads))), w["leave.weight"]);
}

//    S_t = S_{t-1} + phi(k) v^T,  z_t = z_{t-1} + phi(k),  o_t = S_t^T phi(q) / (z_t . phi(q) + 1e-6),  phi = elu + 1
const linearAttention = {
  start: (t, w) => ({ memory: empty(t, w), total: empty(t, w, "total") }),
  step(t, w, x, { memory: S, total: z }) {
    const heads = w.heads[0];
    const phi = [(a) => (a > 0 ? a + 1 : Math.exp(a)), (a, y) => (a > 0 ? 1 : y)];
    const [q, k, value] = projected(t, w, x);
    const [query, key] = [t.map(q, phi), t.map(k, phi)];
    const memory = t.store(S, null, key, value, heads);
    const total = t.add(z, key);
    const over = t.map(t.dots(total, query, heads), [(a) => 1 / (a + 1e-6), (a, y) => -y * y]);
    const output = t.affine(t.mul(t.recall(memory, query, heads), over), w["leave.weight"]);
    return { output, state: { memory, total }, gates: {}, path: { state: "memory", keep: null, key, value, query } };
  },
};

//    S_t = keep S_{t-1} + k v^T,  o_t = S_t^T q / sqrt(E);  keepOf(tape, w, x): a number for each head or for each of a key's
function decaying(keepOf, gatesOf, keeps = []) {
  return {
    ...memory,
    keeps,
    step(t, w, x, { memory: S }) {
      const [query, key, value] = projected(t, w, x);
      const keep = keepOf(t, w, x);
      const memory = t.store(S, keep, key, value, w.heads[0]);
      const path = { state: "memory", keep, key, value, query };
      return { output: out(t, w, memory, query), state: { memory }, gates: gatesOf(keep), path };
    },
  };
}

//    keep = sigmoid(W_2 W_1 x_t + b)^(1/16)
function glaKeep(t, w, x) {
  const inner = w["keep.0.weight"] ? t.affine(x, w["keep.0.weight"]) : x;
  const number = w["keep.0.weight"] ? "1." : "";
  const log = t.map(t.affine(inner, w[`keep.${number}weight`], w[`keep.${number}bias`]), F.logSigmoid);
  return t.map(t.map(log, times(1 / 16)), F.exp);
}

//    S' = keep S_{t-1},  S_t = S' + beta k (v - S'^T k)^T,  o_t = S_t^T q / sqrt(E)
//    beta = most sigmoid(w . x_t);  without w_a keep is 1, else exp(-exp(a) softplus(w_a . x_t + b))
const deltanet = {
  ...memory,
  step(t, w, x, { memory: S }) {
    const heads = w.heads[0];
    const [query, key, value] = directed(t, w, x);
    const write = t.map(t.affine(x, w["write.weight"]), F.sigmoid);
    const most = w.most ? w.most[0] : 1;
    let keep = null;
    let known = t.recall(S, key, heads);
    if (w.rate) {
      const rate = t.leaf(w.rate.map((a) => -Math.exp(a)));
      keep = t.map(t.mul(t.map(t.affine(x, w["forget.weight"], w["forget.bias"]), F.softplus), rate), F.exp);
      known = t.mul(known, keep);
    }
    const news = t.add(value, t.map(known, F.negative));
    const memory = t.store(S, keep, t.mul(key, t.map(write, times(most))), news, heads);
    return { output: out(t, w, memory, query), state: { memory }, gates: keep ? { keep, write } : { write } };
  },
};

//    m_t = max(log f' + m_{t-1}, i'),  i = exp(i' - m_t),  f = exp(log f' + m_{t-1} - m_t)
//    C_t = f C_{t-1} + i k v^T,  n_t = f n_{t-1} + i k,  h_t = sigmoid(W_o x_t) * W_h [C_t^T q / max(|n_t . q|, exp(-m_t))]
const mlstm = {
  start: (t, w) => ({ memory: empty(t, w), normaliser: empty(t, w, "normaliser"), stabiliser: t.zeros(w.heads[0]) }),
  step(t, w, x, { memory: C, normaliser: n, stabiliser: m }) {
    const heads = w.heads[0];
    const minus = (a, b) => t.add(a, t.map(b, F.negative));
    const [query, k, value] = projected(t, w, x);
    const [i, f] = parts(t, t.affine(x, w.weight_gates, w.bias_gates), 2);
    const kept = t.add(w.sigmoid[0] ? t.map(f, F.logSigmoid) : f, m);
    const stabiliser = t.max(kept, i);
    const keep = t.map(minus(kept, stabiliser), F.exp);
    const enter = t.map(minus(i, stabiliser), F.exp);
    const key = t.mul(t.map(k, times(1 / Math.sqrt(k.n / heads))), enter);
    const memory = t.store(C, keep, key, value, heads);
    const normaliser = t.add(t.mul(n, keep), key);
    const least = t.map(t.map(stabiliser, F.negative), F.exp);
    const size = t.max(t.map(t.dots(normaliser, query, heads), F.abs), least);
    const read = t.mul(t.recall(memory, query, heads), t.map(size, [(a) => 1 / a, (a, y) => -y * y]));
    const gate = t.map(t.affine(x, w["output_gate.weight"], w["output_gate.bias"]), F.sigmoid);
    return {
      output: t.mul(gate, t.affine(read, w["leave.weight"])),
      state: { memory, normaliser, stabiliser },
      gates: { ...(w.sigmoid[0] ? { forget: t.map(f, F.sigmoid) } : {}), output: gate },
      path: { state: "memory", keep, key, value, query },
    };
  },
  keeps: ["forget"],
};

export const CELLS = {
  "rnn tanh": simple(F.tanh),
  "rnn relu": simple(F.relu),
  lstm,
  "gru torch": gru(true),
  "gru cho": gru(false),
  mgu,
  ugrnn: janet(["update"], (keep) => ({ update: keep })),
  janet: janet(["forget"], (keep, enter) => ({ forget: keep, input: enter })),
  mingru,
  minlstm,
  rglru,
  attention,
  "linear attention": linearAttention,
  retention: decaying((t, w) => t.leaf(w.decay), () => ({})),
  gla: decaying(glaKeep, (keep) => ({ keep }), ["keep"]),
  deltanet,
  "gated deltanet": { ...deltanet, keeps: ["keep"] },
  mlstm,
};
