// The cells of seqmem on top of each other, forward and backward, in float64. Nothing here touches the page. Only
// rounding differs from Python: far beyond its trained length a chaotic rnn magnifies float32's rounding from 1e-7 to
// more than 1e-4.
//
// Arrays are flat and time comes first: [T*H] holds the H units of timestep 0, then those of timestep 1.

import { CELLS } from "./cells.js";
import { F, Tape, bytes, floats, multiply, multiplyTransposed, softmax } from "./tape.js";

const FORMAT = 2;

// ---------------------------------------------------------------------------------------------------------------------
// Series over timesteps

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

// The effective attention of timestep t: the norm of what each timestep wrote times all that was kept of it since, over
// the sum of these norms; of a memory, of what the query of t reads of that, and the mean over heads. `paths`: for each
// timestep {keep, write} or {keep, key, value, query}. The state before the first is zero.
function effective(tape, paths, heads, t) {
  const numbers = (node) => node && tape.of(node);
  const query = numbers(paths[t].query);
  const wide = (paths[t].write ?? paths[t].key).n;
  const left = new Float64Array(wide).fill(1);
  const sizes = paths.map(() => new Float64Array(heads));
  const sums = new Float64Array(heads);
  for (let s = t; s >= 0; s--) {
    const { keep, write, key, value } = paths[s];
    const [written, kept, second] = [numbers(write ?? key), numbers(keep), numbers(value)];
    for (let h = 0; h < heads; h++) {
      let size = 0;
      let squares = 0;
      for (let i = (h * wide) / heads; i < ((h + 1) * wide) / heads; i++) {
        if (query) size += left[i] * written[i] * query[i];
        squares += (query ? second[i] : left[i] * written[i]) ** 2;
      }
      sums[h] += sizes[s][h] = (query ? Math.abs(size) : 1) * Math.sqrt(squares);
    }
    if (kept) for (let i = 0; i < wide; i++) left[i] *= kept[Math.floor((i * kept.length) / wide)];
  }
  return Float64Array.from(sizes, (each) => each.reduce((sum, size, h) => sum + size / sums[h] / heads, 0));
}

// Attention's weights from timestep t, the mean over heads.
function meanOver({ weights }, heads, t, T) {
  const count = weights.length / heads;
  const result = new Float64Array(T);
  weights.forEach((weight, i) => (result[t + 1 - count + (i % count)] += weight / heads));
  return result;
}

// What some steps looked back at, attention first and upper layers first: {name, effective, over}. `inside`: for each
// timestep what each layer's step tells.
function looksBack(tape, { layers, prefixes }, inside) {
  const T = inside.length;
  const series = (kind, name, over, effective) =>
    layers.flatMap(({ w }, l) => {
      const steps = inside.map((each) => each[l][kind]);
      return steps[0] ? [{ name: prefixes[l] + steps[0][name], effective, over: (t) => over(steps, w.heads?.[0] ?? 1, t) }] : [];
    });
  return [
    ...series("looks", "name", (steps, heads, t) => meanOver(steps[t], heads, t, T), false).reverse(),
    ...series("path", "state", (steps, heads, t) => effective(tape, steps, heads, t), true).reverse(),
  ];
}

// ---------------------------------------------------------------------------------------------------------------------
// Models

// Cells on top of each other.
class Stack {
  constructor(layers) {
    this.layers = layers.map(({ equations, hidden, input, ...weights }) => {
      return { cell: CELLS[equations], w: { ...decoded(weights), hidden, input } };
    });
    this.prefixes = layers.map((_, l) => (layers.length > 1 ? `${l}/` : ""));
    this.hidden = layers.map(({ hidden }) => hidden);
  }

  start(tape) {
    return this.layers.map(({ cell, w }) => cell.start(tape, w));
  }

  // {output, states, inside}
  step(tape, x, states) {
    const inside = this.layers.map(({ cell, w }, l) => {
      const all = cell.step(tape, w, x, states[l]);
      x = all.output;
      return all;
    });
    return { output: x, states: inside.map(({ state }) => state), inside };
  }

  // Something of each layer, by names with the layer's number in front: of(layer, its step) gives name -> value.
  named(of, inside) {
    return Object.fromEntries(
      this.layers.flatMap(({ cell }, l) =>
        Object.entries(of(inside[l], cell)).map(([name, value]) => [this.prefixes[l] + name, value]),
      ),
    );
  }

  keeps(inside) {
    return this.layers.flatMap(({ cell: { keeps = [] } }, l) =>
      keeps.filter((name) => name in inside[l].gates).map((name) => this.prefixes[l] + name),
    );
  }
}

// The vectors of some tokens, in their order (null: of all tokens); without any, unit vectors.
class Embedding {
  constructor({ vocab, embed_size, embed, embedded }) {
    this.size = embed === null ? vocab : embed_size;
    this.vectors = embed === null ? null : floats(embed);
    this.rows = embedded && new Map(embedded.map((token, row) => [token, row]));
  }

  enter(tape, token) {
    const row = this.rows ? this.rows.get(token) : token;
    const { at, n } = tape.take(this.size);
    if (this.vectors) for (let i = 0; i < n; i++) tape.values[at + i] = this.vectors[row * n + i];
    else tape.values[at + token] = 1;
    return { at, n, token };
  }
}

// The weights of a bundle, by name.
function decoded(weights) {
  return Object.fromEntries(Object.entries(weights).map(([name, text]) => [name, floats(text)]));
}

// A stack of cells and a linear readout.
class Recurrent {
  constructor(data) {
    this.embedding = new Embedding(data);
    this.stack = new Stack(data.cells.cell);
    const { "readout.weight": weight, "readout.bias": bias } = decoded(data.weights);
    Object.assign(this, { weight, bias, K: bias.length });
  }

  // Probabilities of the answers [T*K] from the outputs of T timesteps.
  read(outputs) {
    const H = this.weight.length / this.K;
    const T = outputs.length / H;
    const logits = new Float64Array(T * this.K);
    for (let t = 0; t < T; t++) {
      logits.set(this.bias, t * this.K);
      multiply(logits, t * this.K, this.weight, 0, this.K, H, outputs, t * H);
    }
    return softmax(logits, this.K);
  }

  begin(tape, source) {
    let before = { states: this.stack.start(tape), inside: [] };
    for (const token of source) before = this.step(tape, token, before).after;
    return { state: before };
  }

  next(tape, token, state) {
    const { output, after } = this.step(tape, token, state);
    return { confidence: this.read(tape.of(output)), state: after };
  }

  step(tape, token, { states, inside }) {
    const step = this.stack.step(tape, this.embedding.enter(tape, token), states);
    return { output: step.output, after: { states: step.states, inside: [...inside, step.inside] } };
  }

  // For each of the timesteps `from`..T what it looked at [T]; null if that cannot be told.
  alignment(tape, { inside }, from) {
    const [looked] = looksBack(tape, this.stack, inside);
    return looked ? { ...looked, rows: inside.slice(from).map((_, i) => looked.over(from + i)) } : null;
  }
}

// One cell reads the source, another writes; between them stands a vector, or attention (models/encoder_decoder.py has
// the equations).
class EncoderDecoder {
  constructor(data) {
    this.embedding = new Embedding(data);
    const { encoder, decoder, backward_encoder: backward } = data.cells;
    this.encoder = new Stack(encoder);
    this.decoder = new Stack(decoder);
    this.backward = backward ? new Stack(backward) : null;
    this.w = decoded(data.weights);
    this.K = this.w["readout.bias"].length;
  }

  linear(tape, name, x) {
    return tape.affine(x, this.w[`${name}.weight`], this.w[`${name}.bias`]);
  }

  begin(tape, source) {
    const xs = source.map((token) => this.embedding.enter(tape, token));
    const run = (stack, inputs) => {
      let states = stack.start(tape);
      const outputs = inputs.map((x) => {
        const step = stack.step(tape, x, states);
        states = step.states;
        return step.output;
      });
      return { outputs, states };
    };
    const { outputs, states } = run(this.encoder, xs);
    let [memory, last, seen] = [outputs, outputs.at(-1), null];
    if (this.backward) {
      const back = run(this.backward, [...xs].reverse()).outputs;
      last = back.at(-1);
      memory = outputs.map((output, j) => tape.join([output, back[back.length - 1 - j]]));
    }
    if (this.w["summary.weight"]) last = seen = tape.map(this.linear(tape, "summary", last), F.tanh);
    const keys = this.w["key.weight"] ? memory.map((each) => this.linear(tape, "key", each)) : null;
    let [first, output] = [states, last];
    if (!this.w.handover_state) {
      first = this.decoder.start(tape);
      if (this.w["start.weight"]) {
        output = tape.map(this.linear(tape, "start", last), F.tanh);
        const { cell } = this.decoder.layers.at(-1);
        if (cell.output) first = [...first.slice(0, -1), { ...first.at(-1), [cell.output]: output }];
      }
    }
    const looks = this.w["query.weight"] || this.w["join.weight"];
    const vector = seen ?? (looks ? null : last);
    const fed = this.w.input_feeding ? tape.zeros(this.w["readout.weight"].length / this.K) : null;
    return { state: { states: first, output, seen, fed, memory, keys, rows: [] }, vector: vector && tape.of(vector).slice() };
  }

  next(tape, token, state) {
    const { keys, memory, rows } = state;
    let weights = null;
    const x = this.embedding.enter(tape, token);
    const attended = (energies) => {
      weights = softmax(Float64Array.from(energies), energies.length);
      const mean = tape.zeros(memory[0].n);
      memory.forEach(({ at, n }, j) => {
        for (let i = 0; i < n; i++) tape.values[mean.at + i] += weights[j] * tape.values[at + i];
      });
      return mean;
    };
    const number = (node) => tape.of(node)[0];
    const sums = (output) => {
      const query = this.linear(tape, "query", output);
      return keys.map((key) => number(this.linear(tape, "energy", tape.map(tape.add(query, key), F.tanh))));
    };
    const products = (output) => (keys ?? memory).map((key) => number(tape.dots(output, key, 1)));
    const luong = this.w["join.weight"];
    let { seen, fed } = state;
    if (this.w["query.weight"] && !luong) seen = attended(sums(state.output));
    const entering = fed ?? seen;
    const { output, states } = this.decoder.step(tape, entering ? tape.join([x, entering]) : x, state.states);
    let read = output;
    if (luong) {
      const mean = attended(this.w["query.weight"] ? sums(output) : products(output));
      read = tape.map(this.linear(tape, "join", tape.join([mean, output])), F.tanh);
    } else if (this.w["maxout.weight"]) {
      const pairs = tape.of(this.linear(tape, "maxout", tape.join([output, x, ...(seen ? [seen] : [])])));
      read = tape.leaf(Float64Array.from({ length: pairs.length / 2 }, (_, i) => Math.max(pairs[2 * i], pairs[2 * i + 1])));
    }
    const confidence = softmax(tape.of(this.linear(tape, "readout", read)), this.K);
    return { confidence, state: { ...state, states, output, fed: fed && read, rows: weights ? [...rows, weights] : rows } };
  }

  alignment(tape, { rows }) {
    return rows.length > 0 ? { name: "alignment", effective: false, rows } : null;
  }
}

const MODELS = { recurrent: Recurrent, "encoder decoder": EncoderDecoder };

// One sequence read by a model that runs here: `confidence` [T*K] in every answer if the token `question` came next
// (null: of the readout as it is), `top` [T] the likeliest answer, `changedAt` the last timestep at which it changed (or
// null), `gates` and `states` by name [T*H] (of what grows, what each timestep added), `keeps` the gates whose value is
// the share of the old state that stays, `looks` what it looks back at: over(t) is the share of every timestep [T], seen
// from timestep t.
class Reading {
  constructor(net, tokens, question) {
    const tape = (this.tape = new Tape({ room: net.room && Math.ceil(1.2 * net.room * tokens.length) }));
    const { stack, embedding } = net;
    this.net = net;
    this.T = tokens.length;
    this.K = net.K;
    this.hidden = stack.hidden;
    this.inputs = [];
    const H = stack.hidden.at(-1);
    const outputs = new Float64Array(this.T * H);
    let states = stack.start(tape);
    this.steps = tokens.map((token, t) => {
      const x = embedding.enter(tape, token);
      this.inputs.push(x);
      const step = stack.step(tape, x, states);
      states = step.states;
      const asked = question !== null && t < this.T - 1; // the last timestep is the question
      const ask = () => stack.step(tape, embedding.enter(tape, question), states).output;
      outputs.set(asked ? tape.aside(ask) : tape.of(step.output), t * H);
      return step;
    });
    net.room = tape.size / this.T; // numbers per timestep, for the next reading
    const inside = this.steps.map((step) => step.inside);
    this.confidence = net.read(outputs);
    this.top = argmax(this.confidence, this.K);
    this.changedAt = lastChange(this.top);
    this.keeps = stack.keeps(inside[0]);
    const newest = (leaf) => (Array.isArray(leaf) ? leaf.at(-1) : leaf);
    const series = (of) => {
      const rows = inside.map((each) => stack.named(of, each));
      return each(rows[0], (_, name) => rows.map((row) => row[name]));
    };
    this.nodes = series(({ state }) => each(state, newest)); // of the states
    const values = (nodes) => each(nodes, (some) => tape.of(some));
    this.states = values(this.nodes);
    this.gates = values(series(({ gates }) => gates));
    this.looks = looksBack(tape, stack, inside);
    this.gradients = new Map();
  }

  // Mean of each gate over its units, by name: [T].
  get gateMeans() {
    return (this.cachedMeans ??= each(this.gates, (all) => means(all, all.length / this.T)));
  }

  // L2 norm of each state, by name: [T].
  get norms() {
    return (this.cachedNorms ??= each(this.states, (all) => norms(all, all.length / this.T)));
  }

  // L2 norms of d(-log p[answer] at the last timestep) / d state_t, by name: [T]. "state" is all states together,
  // "input" what enters the first layer.
  gradient(answer) {
    if (!this.gradients.has(answer)) this.gradients.set(answer, this.backward(answer));
    return this.gradients.get(answer);
  }

  backward(answer) {
    const { tape, net, K, T } = this;
    const atLogits = Float64Array.from(this.confidence.subarray((T - 1) * K)); // p - 1[answer]
    atLogits[answer] -= 1;
    const { output } = this.steps.at(-1);
    const seed = new Float64Array(output.n);
    multiplyTransposed(seed, 0, net.weight, 0, K, output.n, atLogits, 0);
    tape.backward(output, seed);
    const of = (nodes) => Float64Array.from(nodes, (node) => norms(tape.gradient(node), node.n)[0]);
    const states = each(this.nodes, of);
    const all = Object.values(states);
    const state = Float64Array.from({ length: T }, (_, t) => Math.hypot(...all.map((one) => one[t])));
    return { state, ...states, input: of(this.inputs) };
  }
}

function each(values, by) {
  return Object.fromEntries(Object.entries(values).map(([name, value]) => [name, by(value, name)]));
}

// What a model writes after a source, each answer being its next input, by beam search (decoding.py; 1 beam: greedily):
// `answers` [N], `confidence` [N*K], and what it looked at for each of them: `alignment` {name, effective, rows}, rows [N]
// of the source's words; null if that cannot be told. `vector`: all that passes from the encoder to the decoder, if it is
// one vector.
class Writing {
  constructor(net, source, { go, tokens }, beam) {
    const tape = new Tape({ differentiable: false });
    this.K = net.K;
    this.N = source.length;
    this.confidence = new Float64Array(this.N * this.K);
    const { state, vector = null } = net.begin(tape, source);
    this.vector = vector;
    // From the likeliest down: {state, token, score, path}; a path is [answer, confidence, the path before].
    let beams = [{ state, token: go, score: 0, path: null }];
    for (let i = 0; i < this.N; i++) {
      const longer = beams.flatMap(({ state, token, score, path }) => {
        const next = net.next(tape, token, state);
        const extended = (p, k) => ({ state: next.state, token: tokens[k], score: score + Math.log(p), path: [k, next.confidence, path] });
        return Array.from(next.confidence, extended);
      });
      beams = longer.sort((a, b) => (b.score > a.score) - (b.score < a.score)).slice(0, beam);
    }
    const [best] = beams;
    this.answers = [];
    for (let [path, i] = [best.path, this.N - 1]; path; path = path[2], i--) {
      this.answers.unshift(path[0]);
      this.confidence.set(path[1], i * this.K);
    }
    const looked = net.alignment(tape, best.state, this.N);
    this.alignment = looked && { ...looked, rows: looked.rows.map((row) => row.slice(0, this.N)) };
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

// The same computed in Python.
class PrecomputedWriting {
  constructor({ answers, confidence, alignment, vector }, K) {
    Object.assign(this, { answers, K, N: answers.length });
    this.confidence = floats(confidence);
    this.vector = vector && floats(vector);
    const numbers = alignment && Float64Array.from(new Uint16Array(bytes(alignment.over).buffer), (value) => value / 65535);
    const rows = answers.map((_, i) => numbers?.slice(i * this.N, (i + 1) * this.N));
    this.alignment = alignment && { name: alignment.name, effective: alignment.effective, rows };
  }
}

class Model {
  constructor(data, sentences, task) {
    this.data = data;
    this.sentences = sentences;
    this.task = task;
    for (const key of ["id", "label", "cell", "seq_len", "shortest", "seed", "group", "parameters", "score", "beam"]) {
      this[key] = data[key];
    }
    this.lengths = data.lengths;
  }

  // True if the model reads any sentence; false if only those of readable().
  get runs() {
    return this.data.cells !== null;
  }

  read(tokens) {
    if (this.runs) {
      if (tokens.length === 0) return null;
      this.net ??= new MODELS[this.data.equations]({ ...this.data, embedded: this.task.embedded });
      if (this.task.writes) return new Writing(this.net, tokens, this.task.writes, this.data.beam);
      return new Reading(this.net, tokens, this.task.question(tokens));
    }
    const same = (at) => at.length === tokens.length && at.every((token, t) => token === tokens[t]);
    const reading = this.data.readings.find(({ sentence: [at, number] }) => same(this.sentences[at].tokens(number)));
    const Ahead = this.task.writes ? PrecomputedWriting : Precomputed;
    return reading ? new Ahead(reading, this.task.answers.length) : null;
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
    // name, title, vocabulary, answers, chance, chances, min_seq_len, metric, solved_at, naming, automaton, writes
    Object.assign(this, data);
    const occurring = this.writes ? new Set(this.writes.known) : this.automaton && new Set(this.automaton.slots.flat());
    // The words of the task's sentences. No model was trained on another.
    this.known = this.vocabulary
      .map((word, token) => ({ word, token }))
      .filter(({ token }) => !occurring || occurring.has(token));
    // The tokens that models have vectors of; null: of all.
    this.embedded = this.automaton && this.known.map(({ token }) => token);
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
