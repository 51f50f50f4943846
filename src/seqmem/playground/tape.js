// Numbers, and operations on vectors that remember how to be differentiated.
//
// A node {at, n} is a vector: n numbers of the tape's `values` from `at` on, and as many of its `gradients` after a
// backward pass. All vectors of a reading stand in one array, because small ones of their own cost more than their sums.

export function bytes(base64) {
  const text = atob(base64);
  const result = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) result[i] = text.charCodeAt(i);
  return result;
}

export function floats(base64) {
  return Float64Array.from(new Float32Array(bytes(base64).buffer));
}

export function sigmoid(x) {
  return 1 / (1 + Math.exp(-x));
}

// log(1 + exp(x))
export function softplus(x) {
  return Math.max(x, 0) + Math.log1p(Math.exp(-Math.abs(x)));
}

// The error function to float64's precision: its series of positive terms, and beyond 2.5 the continued fraction of
// what is left to 1 (Abramowitz & Stegun 1964, 7.1.6 and 7.1.14).
export function erf(x) {
  const size = Math.abs(x);
  if (size > 6) return Math.sign(x);
  const bell = Math.exp(-x * x) / Math.sqrt(Math.PI);
  if (size > 2.5) {
    let rest = size;
    for (let k = 60; k > 0; k--) rest = size + k / 2 / rest;
    return Math.sign(x) * (1 - bell / rest);
  }
  let sum = 0;
  let term = 2 * x;
  for (let k = 1; Math.abs(term) > 1e-17 * Math.abs(sum); k++) {
    sum += term;
    term *= (2 * x * x) / (2 * k + 1);
  }
  return bell * sum;
}

export function softmax(logits, size) {
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

// out[to + r] += sum over c of M[from + r, c] x[at + c], for r < rows; M has `columns` columns. Four rows at a
// time are twice as fast: a single sum is bound by the latency of additions.
export function multiply(out, to, M, from, rows, columns, x, at) {
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
export function multiplyTransposed(out, to, M, from, rows, columns, d, at) {
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

// ---------------------------------------------------------------------------------------------------------------------
// f and its slope, as a function of x and of y = f(x), for Tape.map

export const F = {
  sigmoid: [sigmoid, (x, y) => y * (1 - y)],
  not: [(x) => 1 - x, () => -1],
  tanh: [Math.tanh, (x, y) => 1 - y * y],
  relu: [(x) => (x > 0 ? x : 0), (x, y) => (y > 0 ? 1 : 0)],
  exp: [Math.exp, (x, y) => y],
  abs: [Math.abs, Math.sign],
  negative: [(x) => -x, () => -1],
  silu: [(x) => x * sigmoid(x), (x) => sigmoid(x) * (1 + x * sigmoid(-x))],
  logSigmoid: [(x) => -softplus(-x), (x) => sigmoid(-x)],
  softplus: [softplus, sigmoid],
  gelu: [
    (x) => (x / 2) * (1 + erf(x * Math.SQRT1_2)),
    (x) => (1 + erf(x * Math.SQRT1_2)) / 2 + (x * Math.exp((-x * x) / 2)) / Math.sqrt(2 * Math.PI),
  ],
};

export function times(factor) {
  return [(x) => factor * x, () => factor];
}

export function plus(term) {
  return [(x) => x + term, () => 1];
}

// W's products with the tokens' vectors: token -> W x + b. A layer has one b for each W, and reads whole matrices.
const products = new WeakMap();

function cached(W) {
  if (!products.has(W)) products.set(W, new Map());
  return products.get(W);
}

const NONE = { push() {} };

export class Tape {
  // `room`: how many numbers to expect. More is made when it is full, which copies them all.
  constructor({ differentiable = true, room = 1 << 13 } = {}) {
    this.values = new Float64Array(room);
    this.gradients = null;
    this.size = 0;
    this.moves = differentiable ? [] : NONE; // for each operation, what adds its gradient to those of its operands
  }

  take(n) {
    const at = this.size;
    this.size += n;
    if (this.size > this.values.length) {
      const more = new Float64Array(2 * this.size);
      more.set(this.values);
      this.values = more;
    }
    return { at, n };
  }

  // What `work` returns, a copy of a node's numbers. Its operations are forgotten.
  aside(work) {
    const { size, moves } = this;
    this.moves = NONE;
    const result = this.of(work()).slice();
    this.moves = moves;
    this.values.fill(0, size, this.size);
    this.size = size;
    return result;
  }

  // The numbers of a node; of several, of each after the other.
  of(node) {
    if (!Array.isArray(node)) return this.values.subarray(node.at, node.at + node.n);
    const all = new Float64Array(node.reduce((sum, { n }) => sum + n, 0));
    let to = 0;
    for (const { at, n } of node) {
      all.set(this.values.subarray(at, at + n), to);
      to += n;
    }
    return all;
  }

  leaf(numbers) {
    const out = this.take(numbers.length);
    this.values.set(numbers, out.at);
    return out;
  }

  zeros(n) {
    return this.take(n);
  }

  // Gradients of sum(seed * node) by every node.
  backward(node, seed) {
    const g = (this.gradients = new Float64Array(this.size));
    g.set(seed, node.at);
    for (let i = this.moves.length - 1; i >= 0; i--) this.moves[i](g, this.values);
  }

  gradient({ at, n }) {
    return this.gradients.subarray(at, at + n);
  }

  // A view: the numbers from..from+n of a node.
  part({ at }, from, n) {
    return { at: at + from, n };
  }

  // W x + b, with `rows` rows from `from` on; b may be missing. Products with the vector of a token (x.token) are cached.
  affine(x, W, b = null, from = 0, rows = W.length / x.n) {
    const out = this.take(rows);
    const v = this.values;
    const cache = x.token === undefined ? null : cached(W);
    const known = cache?.get(x.token);
    if (known) v.set(known, out.at);
    else {
      if (b) for (let r = 0; r < rows; r++) v[out.at + r] = b[from + r];
      multiply(v, out.at, W, from, rows, x.n, v, x.at);
      cache?.set(x.token, v.slice(out.at, out.at + rows));
    }
    this.moves.push((g) => multiplyTransposed(g, x.at, W, from, rows, x.n, g, out.at));
    return out;
  }

  map(x, [f, slope]) {
    const out = this.take(x.n);
    const v = this.values;
    for (let i = 0; i < x.n; i++) v[out.at + i] = f(v[x.at + i]);
    this.moves.push((g, v) => {
      for (let i = 0; i < x.n; i++) g[x.at + i] += g[out.at + i] * slope(v[x.at + i], v[out.at + i]);
    });
    return out;
  }

  add(a, b) {
    const out = this.take(a.n);
    const v = this.values;
    for (let i = 0; i < a.n; i++) v[out.at + i] = v[a.at + i] + v[b.at + i];
    this.moves.push((g) => {
      for (let i = 0; i < a.n; i++) {
        g[a.at + i] += g[out.at + i];
        g[b.at + i] += g[out.at + i];
      }
    });
    return out;
  }

  // a * b; each number of a shorter b goes with as many neighbours of a: one number per head.
  mul(a, b) {
    const out = this.take(a.n);
    const v = this.values;
    const each = a.n / b.n;
    if (each === 1) for (let i = 0; i < a.n; i++) v[out.at + i] = v[a.at + i] * v[b.at + i];
    else for (let i = 0; i < a.n; i++) v[out.at + i] = v[a.at + i] * v[b.at + Math.floor(i / each)];
    this.moves.push((g, v) => {
      for (let j = 0, i = 0; j < b.n; j++) {
        for (let k = 0; k < each; k++, i++) {
          g[a.at + i] += g[out.at + i] * v[b.at + j];
          g[b.at + j] += g[out.at + i] * v[a.at + i];
        }
      }
    });
    return out;
  }

  // The larger of two; of equals both have half of the gradient.
  max(a, b) {
    const out = this.take(a.n);
    const v = this.values;
    for (let i = 0; i < a.n; i++) v[out.at + i] = Math.max(v[a.at + i], v[b.at + i]);
    this.moves.push((g, v) => {
      for (let i = 0; i < a.n; i++) {
        const share = (1 + Math.sign(v[a.at + i] - v[b.at + i])) / 2;
        g[a.at + i] += share * g[out.at + i];
        g[b.at + i] += (1 - share) * g[out.at + i];
      }
    });
    return out;
  }

  // a . b of each of some heads.
  dots(a, b, heads) {
    const out = this.take(heads);
    const v = this.values;
    const each = a.n / heads;
    for (let h = 0, i = 0; h < heads; h++) for (let k = 0; k < each; k++, i++) v[out.at + h] += v[a.at + i] * v[b.at + i];
    this.moves.push((g, v) => {
      for (let h = 0, i = 0; h < heads; h++) {
        for (let k = 0; k < each; k++, i++) {
          g[a.at + i] += g[out.at + h] * v[b.at + i];
          g[b.at + i] += g[out.at + h] * v[a.at + i];
        }
      }
    });
    return out;
  }

  // (x - mean) / sqrt(variance + 1e-5) * weight + bias (Ba et al. 2016)
  norm(x, weight, bias) {
    const out = this.take(x.n);
    const v = this.values;
    let mean = 0;
    let square = 0;
    for (let i = 0; i < x.n; i++) mean += v[x.at + i] / x.n;
    for (let i = 0; i < x.n; i++) square += (v[x.at + i] - mean) ** 2 / x.n;
    const scale = 1 / Math.sqrt(square + 1e-5);
    for (let i = 0; i < x.n; i++) v[out.at + i] = (v[x.at + i] - mean) * scale * weight[i] + bias[i];
    this.moves.push((g, v) => {
      let level = 0;
      let along = 0;
      for (let i = 0; i < x.n; i++) {
        const by = g[out.at + i] * weight[i];
        level += by / x.n;
        along += (by * (v[x.at + i] - mean) * scale) / x.n;
      }
      for (let i = 0; i < x.n; i++) {
        g[x.at + i] += scale * (g[out.at + i] * weight[i] - level - along * (v[x.at + i] - mean) * scale);
      }
    });
    return out;
  }

  // Numbers 2 j and 2 j + 1 of each head turned by the angle place * 10000^(-2 j / E) (Su et al. 2021).
  turned(x, heads, place) {
    const out = this.take(x.n);
    const E = x.n / heads;
    const turn = (from, x, to, y, way) => {
      for (let i = 0; i < E * heads; i += 2) {
        const angle = place * 10000 ** (-(i % E) / E);
        const [cos, sin] = [Math.cos(angle), way * Math.sin(angle)];
        to[y + i] += from[x + i] * cos - from[x + i + 1] * sin;
        to[y + i + 1] += from[x + i] * sin + from[x + i + 1] * cos;
      }
    };
    turn(this.values, x.at, this.values, out.at, 1);
    this.moves.push((g) => turn(g, out.at, g, x.at, -1));
    return out;
  }

  // {seen: for each head the mean of the values by softmax(q . k / sqrt(E)), weights [heads * keys]}
  attend(query, keys, values, heads) {
    const out = this.take(query.n);
    const v = this.values;
    const [E, N] = [query.n / heads, keys.length];
    const scale = 1 / Math.sqrt(E);
    const logits = new Float64Array(heads * N);
    for (let h = 0; h < heads; h++) {
      for (let s = 0; s < N; s++) {
        for (let e = h * E; e < (h + 1) * E; e++) logits[h * N + s] += scale * v[query.at + e] * v[keys[s].at + e];
      }
    }
    const weights = softmax(logits, N);
    for (let h = 0; h < heads; h++) {
      for (let s = 0; s < N; s++) {
        for (let e = h * E; e < (h + 1) * E; e++) v[out.at + e] += weights[h * N + s] * v[values[s].at + e];
      }
    }
    this.moves.push((g, v) => {
      for (let h = 0; h < heads; h++) {
        const by = new Float64Array(N); // the gradient at each weight
        let mean = 0;
        for (let s = 0; s < N; s++) {
          const weight = weights[h * N + s];
          for (let e = h * E; e < (h + 1) * E; e++) {
            by[s] += g[out.at + e] * v[values[s].at + e];
            g[values[s].at + e] += weight * g[out.at + e];
          }
          mean += weight * by[s];
        }
        for (let s = 0; s < N; s++) {
          const atLogit = scale * weights[h * N + s] * (by[s] - mean);
          for (let e = h * E; e < (h + 1) * E; e++) {
            g[query.at + e] += atLogit * v[keys[s].at + e];
            g[keys[s].at + e] += atLogit * v[query.at + e];
          }
        }
      }
    });
    return { seen: out, weights };
  }

  // S^T q of each head, for a memory S [heads, E, E].
  recall(S, query, heads) {
    const out = this.take(query.n);
    const v = this.values;
    const E = query.n / heads;
    for (let i = 0; i < query.n; i++) {
      const from = i - (i % E);
      for (let e = 0; e < E; e++) v[out.at + from + e] += v[S.at + i * E + e] * v[query.at + i];
    }
    this.moves.push((g, v) => {
      for (let i = 0; i < query.n; i++) {
        const from = i - (i % E);
        for (let e = 0; e < E; e++) {
          g[S.at + i * E + e] += v[query.at + i] * g[out.at + from + e];
          g[query.at + i] += v[S.at + i * E + e] * g[out.at + from + e];
        }
      }
    });
    return out;
  }

  // keep S + k v^T of each head. `keep` has a number for each head, or for each number of the keys; null: 1.
  store(S, keep, key, value, heads) {
    const out = this.take(S.n);
    const v = this.values;
    const E = key.n / heads;
    const each = keep && key.n / keep.n;
    const kept = (v, i) => (keep ? v[keep.at + Math.floor(i / each)] : 1);
    for (let i = 0; i < key.n; i++) {
      const from = i - (i % E);
      const by = kept(v, i);
      for (let e = 0; e < E; e++) v[out.at + i * E + e] = by * v[S.at + i * E + e] + v[key.at + i] * v[value.at + from + e];
    }
    this.moves.push((g, v) => {
      for (let i = 0; i < key.n; i++) {
        const from = i - (i % E);
        const by = kept(v, i);
        let atKeep = 0;
        for (let e = 0; e < E; e++) {
          const at = g[out.at + i * E + e];
          g[S.at + i * E + e] += by * at;
          g[key.at + i] += at * v[value.at + from + e];
          g[value.at + from + e] += at * v[key.at + i];
          atKeep += at * v[S.at + i * E + e];
        }
        if (keep) g[keep.at + Math.floor(i / each)] += atKeep;
      }
    });
    return out;
  }

  // Some nodes as one.
  join(nodes) {
    const out = this.leaf(this.of(nodes));
    this.moves.push((g) => {
      let from = out.at;
      for (const { at, n } of nodes) for (let i = 0; i < n; i++) g[at + i] += g[from++];
    });
    return out;
  }
}
