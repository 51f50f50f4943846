// Sentences about a reading, and the list of things to try. Nothing here touches the page.

import { percent, power } from "./dom.js";
import { relative } from "./engine.js";

export function shortName(model) {
  return `${model.cell} trained at ${range(model)}`;
}

// The lengths that a model was trained at: "50", or "7 to 50".
export function range(model) {
  return model.shortest < model.seq_len ? `${model.shortest} to ${model.seq_len}` : `${model.seq_len}`;
}

// How often guessing is right at some lengths: "25 %", or "10 % to 50 %".
export function guessing(task, lengths) {
  const all = lengths.map((length) => task.chanceAt(length));
  return [...new Set([Math.min(...all), Math.max(...all)].map(percent))].join(" to ");
}

// The last word up to t at which the likeliest answer changed; null if there is none.
export function lastChange(reading, t) {
  for (let at = t; at > 0; at--) if (reading.top[at] !== reading.top[at - 1]) return at;
  return null;
}

export function changes(reading) {
  let times = 0;
  for (let t = 1; t < reading.T; t++) if (reading.top[t] !== reading.top[t - 1]) times++;
  return times;
}

function at(words, t) {
  return `word ${t + 1}, “${words[t]}”`;
}

function sure(reading, t, answer) {
  return percent(reading.confidence[t * reading.K + answer]);
}

// Confidence in the right answer after word t, {p, of}; in the model's own answer if the right one is unknown.
export function certainty(reading, t, { right, task }) {
  const answer = right ?? reading.top[t];
  return { p: reading.confidence[t * reading.K + answer], of: task.answers[answer] };
}

// What the colours of the words mean.
export function legend({ right, query, task }) {
  if (task.writes) return "The darker a word, and the longer the line under it, the surer the model was of it.";
  const of = right === null ? "its own answer, as the right one is not known" : "the right answer";
  const when = query === null ? "" : `, if the sentence ended there with “${query}”`;
  return `Words are shaded by confidence: the darker a word, and the longer the line under it, the surer the model is of ${of}${when}.`;
}

// True if the confidence in an answer is at least one half at all words from `from` to `to`.
function surely(reading, from, to, answer) {
  for (let t = from; t <= to; t++) if (reading.confidence[t * reading.K + answer] < 0.5) return false;
  return true;
}

// d(-log p[answer]) / d state_t of the right answer, or of the model's own if that is unknown; null if not available.
export function lastGradient(reading, right) {
  return reading.gradient(right ?? reading.top[reading.T - 1])?.state ?? null;
}

// log10 of that, relative to one word before the answer; NaN at the answer.
export function gradientShares(reading, right) {
  const norms = lastGradient(reading, right);
  return norms && relative(norms);
}

// A few words as alternatives: “brother” or “sister”.
export function alternatives(words, most = 6) {
  const some = words.slice(0, words.length > most ? most - 1 : most).map((word) => `“${word}”`);
  if (words.length > most) return `${some.join(", ")} or one of ${words.length - most + 1} others`;
  return some.length < 2 ? (some[0] ?? "nothing") : `${some.slice(0, -1).join(", ")} or ${some.at(-1)}`;
}

// Why the task has no such sentence, at the word where it stops being one.
export function whyImpossible(task, tokens, { at: t, expected, latest }) {
  const word = `word ${t + 1} is “${task.vocabulary[tokens[t]]}”`;
  if (latest !== null) return `${word}, which of ${tokens.length} words is number ${latest + 1} at the latest`;
  return `${word}, where there can be ${alternatives(task.words(expected))}`;
}

// Why a sentence has no right answer.
export function whyUnknown(task, tokens) {
  if (!task.naming) return "only the sentences made by the task have a known answer";
  const several = task.candidates(tokens).length > 1;
  const problem = several ? null : task.problem(tokens);
  if (problem && problem.at < tokens.length) return whyImpossible(task, tokens, problem);
  if (!task.naming.asks[tokens.at(-1)]) {
    const asking = Object.keys(task.naming.asks).map((token) => `“${task.vocabulary[token]}”`);
    return `the last word does not ask: that would be ${asking.join(" or ")}`;
  }
  const candidates = task.candidates(tokens).length;
  if (candidates > 1) return `${candidates} of the answers that “${task.vocabulary[tokens.at(-1)]}” may mean are named`;
  if (candidates === 0) return `none of those whom “${task.vocabulary[tokens.at(-1)]}” may mean is named`;
  return `it is shorter than ${task.min_seq_len} words`;
}

// A model's answer after word t: {state: right, wrong, unknown or reading; mark; answer; rest}.
export function verdict(reading, t, { task, words, tokens, right, query }) {
  const top = reading.top[t];
  const answer = `${task.answers[top]}, ${sure(reading, t, top)}`;
  if (t < reading.T - 1) {
    const other =
      right !== null && right !== top ? ` The right one, ${task.answers[right]}: ${sure(reading, t, right)}.` : "";
    return {
      state: "reading",
      mark: "…",
      answer: `${query === null ? "So far" : "If asked now"}: ${answer}.`,
      rest: `After ${at(words, t)}.${other}`,
    };
  }
  const last = lastChange(reading, t);
  if (right === null) {
    const since = last === null ? "" : ` It changes its mind at ${at(words, last)}.`;
    return {
      state: "unknown",
      mark: "?",
      answer: `Says: ${answer}.`,
      rest: `Not judged: ${whyUnknown(task, tokens)}.${since}`,
    };
  }
  if (top === right) {
    const since =
      last === null
        ? "It says so from the first word on."
        : last === t
          ? `Decided by the last word, “${words[t]}”.`
          : `${surely(reading, last, t, right) ? "Sure" : "It says so"} since ${at(words, last)}.`;
    return { state: "right", mark: "✓", answer: `Right: ${answer}.`, rest: since };
  }
  const times = changes(reading);
  const how =
    last === null
      ? "It says so from the first word on."
      : `It changes its mind ${times === 1 ? "once," : `${times} times, last`} at ${at(words, last)}.`;
  return {
    state: "wrong",
    mark: "✗",
    answer: `Wrong: ${answer}.`,
    rest: `Right is ${task.answers[right]}, ${sure(reading, t, right)}. ${how}`,
  };
}

// The verdict of what a model has written up to word t.
export function told(writing, t, { task, right }) {
  const { N, answers, confidence, K } = writing;
  const name = (i) => `“${task.answers[answers[i]]}”`;
  if (t < N - 1) {
    const own = `Writes ${name(t)}, ${percent(confidence[t * K + answers[t]])}.`;
    const other = right === null || right[t] === answers[t] ? "" : ` Right is “${task.answers[right[t]]}”.`;
    return { state: "reading", mark: "…", answer: own, rest: `Word ${t + 1} of ${N}.${other}` };
  }
  if (right === null) {
    const rest = "Not judged: the page knows the right words of drawn sentences only.";
    return { state: "unknown", mark: "?", answer: `${N === 1 ? "One word" : `${N} words`}.`, rest };
  }
  const wrong = answers.flatMap((answer, i) => (answer === right[i] ? [] : [i]));
  if (wrong.length === 0) return { state: "right", mark: "✓", answer: `Right: all ${N} words.`, rest: "" };
  const [first] = wrong;
  return {
    state: "wrong",
    mark: "✗",
    answer: `Wrong: ${wrong.length} of ${N} words.`,
    rest: `The first is word ${first + 1}, ${name(first)}; right is “${task.answers[right[first]]}”.`,
  };
}

// Things to try where models write, as `presets`.
function writingPresets({ groups, models, sentences, task }) {
  const longest = Math.max(...models.map(({ seq_len }) => seq_len));
  const here = groups
    .map(({ models: some }) => ({ some, score: mean(some.map(({ score }) => (typeof score === "number" ? score : 0))) }))
    .filter(({ some }) => some[0].seq_len === longest)
    .sort((a, b) => b.score - a.score);
  const [best, worst] = [here[0], here.at(-1)];
  const other = worst === best ? (best.some[1] ?? best.some[0]) : worst.some[0];
  const chosen = { a: other.id, b: best.some[0].id };
  const told = (length) =>
    (worst === best ? [best] : [worst, best])
      .filter(({ some }) => scores(some, length))
      .map(({ some }) => `the ${some[0].label.split(",")[0]} ${scores(some, length)}`)
      .join(", ");
  const hint = (length) => (told(length) ? ` Of the words of new sentences of ${length} words are right: ${told(length)}.` : "");
  const at = (length) => sentences.reduce((near, { seq_len }) => (Math.abs(seq_len - length) < Math.abs(near - length) ? seq_len : near), sentences[0].seq_len);
  const [short, middle, end] = [at(longest / 5), at(longest / 2), sentences.at(-1).seq_len];
  // The first of a few sentences where the one is wrong and the other is right, else the first.
  const isRight = (model, some, number) => {
    const right = some.right(number);
    return model.read(some.tokens(number))?.answers.every((answer, i) => answer === right[i]) ?? null;
  };
  const telling = (length) => {
    const some = sentences.find(({ seq_len }) => seq_len === length);
    const numbers = Array.from({ length: Math.min(TRIED, some.count) }, (_, number) => number);
    return numbers.find((number) => isRight(other, some, number) === false && isRight(best.some[0], some, number)) ?? 0;
  };
  const proposals = [
    [longest, "", `As long as the longest sentences that they were trained on. Press play: each word that they write is their next input.`],
    [middle, "", "Half as long as the longest that they were trained on."],
    [short, "", "A short sentence."],
    ...(end > longest ? [[end, ", never trained", "Longer than any that they have seen."]] : []),
  ].map(([length, what, says]) => ({ label: `${length} words${what}`, hint: `${says}${hint(length)}`, ...chosen, length, number: telling(length) }));
  const reads = (id, length) => {
    const model = models.find((one) => one.id === id);
    return model.runs || model.readable().some(([index]) => sentences[index].seq_len === length);
  };
  const some = proposals.filter(({ a, b, length }) => reads(a, length) || reads(b, length));
  return some.filter(({ length }, i) => some.findIndex((one) => one.length === length) === i);
}

export function scoreAt(model, length) {
  return model.lengths.find(({ seq_len }) => seq_len === length)?.score ?? null;
}

function mean(values) {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

// The lowest and the highest score of some models: “24 to 26 %”; empty if none is known.
function scores(models, length) {
  const known = models.map((model) => scoreAt(model, length)).filter((score) => score !== null);
  const ends = known.length > 0 ? [Math.min(...known), Math.max(...known)].map(percent) : [];
  return ends[0] === ends[1] ? (ends[0] ?? "") : `${ends[0].replace("\u00a0%", "")} to ${ends[1]}`;
}

function often(models, length) {
  const share = scores(models, length);
  if (share === "") return "";
  return `right on ${share} of new sentences${models.length > 1 ? `, over ${models.length} seeds` : ""}`;
}

const ARRIVES = -1; // log10 of the share of the gradient from which on it arrives at the first word,
const VANISHES = -3; // and up to which it has vanished
const TRIED = 3; // sentences, and seeds of each group, among which the opening is chosen

// The sentence and the seeds that show best how one group forgets and the other remembers, of one length: {a, b, number,
// shown}. In `shown` the models' readings of it. The first of those is taken where the one is wrong and its gradient
// vanishes, the other is right and its gradient arrives; without such a one, where the one is wrong and the other is
// right; else the first sentence.
export function contrast({ sentences, task }, losing, keeping, length) {
  const some = sentences.find(({ seq_len }) => seq_len === length);
  const known = new Map();
  const look = (model, number) => {
    const name = `${model.id} ${number}`;
    if (!known.has(name)) {
      const right = some.right(number);
      const reading = model.read(some.tokens(number));
      const shares = reading && gradientShares(reading, right);
      known.set(name, reading && { right: reading.top[reading.T - 1] === right, log: shares ? shares[0] : NaN });
    }
    return known.get(name);
  };
  let best = null;
  for (let number = 0; number < Math.min(TRIED, some.count); number++) {
    for (const a of losing.slice(0, TRIED)) {
      for (const b of keeping.slice(0, TRIED)) {
        const [one, other] = [look(a, number), look(b, number)];
        const differ = a !== b && one && other && !one.right && other.right;
        const tells = differ && one.log <= VANISHES && other.log >= ARRIVES;
        const level = tells ? 2 : differ ? 1 : 0;
        if (best === null || level > best.level) best = { a, b, number, level, shown: { a: one, b: other } };
        if (tells) return best;
      }
    }
  }
  return best;
}

// What a contrast shows: the gradient that arrives at the first word, of each model.
function arrives({ a, b, level, shown }) {
  if (!shown.a || !shown.b || Number.isNaN(shown.a.log) || Number.isNaN(shown.b.log)) return "";
  const moral = level === 2 ? ": what does not arrive cannot be learned" : "";
  return ` Of the gradient ${power(shown.a.log)} arrives at the ${a.cell}'s first word, ${power(shown.b.log)} at the ${b.cell}'s${moral}.`;
}

// Things to try, of which the first opens the page: {label, hint, a, b, length, number, flip}. They depend on the models:
// the best and the worst at the longest trained length, and one trained at a shorter length. All that solve the task are
// equal.
export function presets(world) {
  if (world.task.writes) return writingPresets(world);
  const { groups, models, sentences, task } = world;
  const ranked = groups.map(({ models: some }) => ({
    some,
    first: some[0],
    score: mean(some.map(({ score }) => (typeof score !== "number" ? 0 : score >= task.solved_at ? 1 : score))),
  }));
  const longest = Math.max(...models.map(({ seq_len }) => seq_len));
  // Sorted from the best down: the sort is stable, so the first of equals comes first.
  const here = ranked.filter(({ first }) => first.seq_len === longest).sort((a, b) => b.score - a.score);
  const [best, worst] = [here[0], here.at(-1)];
  const chance = guessing(task, [longest]);
  const end = sentences.at(-1).seq_len;
  const proposals = [];
  // What neither model can read is not proposed.
  const reads = (model, length, flip) =>
    model.runs || (!flip && model.readable().some(([index, number]) => sentences[index].seq_len === length && number === 0));
  const add = (label, hint, a, b, length, more = {}) => {
    if ([a, b].some((model) => reads(model, length, more.flip))) {
      proposals.push({ label, hint, a: a.id, b: b.id, length, ...more });
    }
  };
  const short = ranked
    .filter(({ first }) => first.seq_len < longest)
    .sort((a, b) => a.first.seq_len - b.first.seq_len)[0];
  if (best !== worst) {
    const opening = contrast(world, worst.some, best.some, longest);
    const same = range(worst.first) === range(best.first) ? `Trained on ${range(best.first)} words, at ` : "At ";
    const [low, high] = [worst, best].map(({ some }) => scores(some, longest));
    const seeds = worst.some.length > 1 ? `${worst.some.length} seeds; ` : "";
    const facts = low && high ? `is right on ${low} (${seeds}guessing: ${chance}), the ${best.first.cell} on ${high}` : `is worse (guessing: ${chance}) than the ${best.first.cell}`;
    add(
      `${worst.first.cell} and ${best.first.cell} at ${longest} words`,
      `${same}${longest} the ${worst.first.cell} ${facts}.${arrives(opening)}`,
      opening.a,
      opening.b,
      longest,
      { number: opening.number },
    );
  } else if (!short) {
    add(
      `${worst.first.cell} at ${longest} words`,
      `At ${longest} words it is ${often(worst.some, longest) || "at work"}.`,
      worst.first,
      worst.some[1] ?? worst.first,
      longest,
    );
  }
  if (short) {
    const { cell, seq_len } = short.first;
    const far = Math.min(3 * seq_len, end);
    const { a, b, number } = contrast(world, short.some, best.some, far);
    add(
      `${cell} trained at ${seq_len}, read at ${far}`,
      `The ${cell} was trained on sentences of ${range(short.first)} words, the ${best.first.cell} on ${range(best.first)}. Press play: at which word does the ${cell} lose the answer? Take another sentence: now and then it is right by luck.`,
      a,
      b,
      far,
      { number },
    );
    add(
      `The same at ${seq_len}`,
      `${short.score === 1 ? "Where the gradient still arrives, it learns" : "At the length it was trained at"}: at ${seq_len} words the ${cell} is ${often(short.some, seq_len) || "at home"}.`,
      short.first,
      best.first,
      seq_len,
    );
  }
  const second = here[1];
  if (second && second !== worst) {
    add(
      `${second.first.cell} and ${best.first.cell} at ${longest}`,
      `The two best at ${longest} words: the ${second.first.cell} is ${often(second.some, longest) || "the second"}. Further down the gates show what each lets through, and keeps.`,
      second.first,
      best.first,
      longest,
    );
  }
  if (end >= 2 * longest) {
    add(
      `${best.first.cell} at ${2 * longest}, twice its training`,
      `It has never seen a sentence this long. At ${2 * longest} words it is ${often(best.some, 2 * longest) || "away from home"}.`,
      worst.first,
      best.first,
      2 * longest,
    );
  }
  // Of those that solve the longest trained length, the two that differ most far beyond it.
  const far = here
    .filter(({ some, score }) => score === best.score && scoreAt(some[0], end) !== null)
    .map((group) => ({ ...group, there: mean(group.some.map((model) => scoreAt(model, end))) }))
    .sort((a, b) => a.there - b.there);
  if (far.length > 1 && far.at(-1).there - far[0].there > 0.2) {
    const [falls, keeps] = [far[0], far.at(-1)];
    const looked = falls.first.read(sentences.find(({ seq_len }) => seq_len === longest).tokens(0))?.looks[0];
    const looks = looked?.effective === false ? "It keeps nothing, but looks back at any word: the charts further down show at which. It has never met such distances. " : "";
    add(
      `${falls.first.cell} and ${keeps.first.cell} at ${end}`,
      `At ${longest} words the ${falls.first.cell} is right on ${scores(falls.some, longest)} of new sentences. ${looks}At ${end} words it is ${often(falls.some, end)}; the ${keeps.first.cell}, on ${scores(keeps.some, end)}.`,
      falls.first,
      keeps.first,
      end,
    );
  }
  const several = [short, worst, ...ranked].find((group) => group && group.some.length > 1);
  if (several) {
    const { cell, seq_len } = several.first;
    const length = several === short ? Math.min(3 * seq_len, end) : seq_len;
    add(
      `Two seeds of the ${cell}`,
      `The same cell, the same training, another random initialisation. At ${length} words it is ${often(several.some, length) || "not the same"}: luck with one sentence or one seed says nothing yet.`,
      several.some[0],
      several.some[1],
      length,
    );
  }
  if (task.naming && Object.keys(task.naming.asks).length > 1) {
    const asking = Object.keys(task.naming.asks).map((token) => task.vocabulary[token]);
    add(
      `Change the last word`,
      `The same sentence, but asked for the other one: ${asking.join(" or ")}. Who holds both names can answer both.`,
      worst.first,
      best.first,
      longest,
      { flip: true },
    );
  }
  return proposals;
}
