// Sentences about a reading, and the list of things to try. Nothing here touches the page.

import { percent } from "./dom.js";

export function shortName(model) {
  return `${model.cell} trained at ${range(model)}`;
}

// The lengths that a model was trained at: "50", or "7 to 50".
export function range(model) {
  return model.shortest < model.seq_len ? `${model.shortest} to ${model.seq_len}` : `${model.seq_len}`;
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
export function legend({ right, query }) {
  const of = right === null ? "its own answer, as nobody knows the right one" : "the right answer";
  const when = query === null ? "" : `, if the sentence ended there with “${query}”`;
  return `Words are shaded by confidence: the darker a word, and the longer the line under it, the surer the model is of ${of}${when}.`;
}

// True if the confidence in an answer is at least one half at all words from `from` to `to`.
function surely(reading, from, to, answer) {
  for (let t = from; t <= to; t++) if (reading.confidence[t * reading.K + answer] < 0.5) return false;
  return true;
}

// Why a sentence has no right answer.
export function whyUnknown(task, tokens) {
  if (!task.naming) return "only the sentences made by the task have a known answer";
  if (!task.naming.asks[tokens.at(-1)]) {
    const asking = Object.keys(task.naming.asks).map((token) => `“${task.vocabulary[token]}”`);
    return `the last word does not ask: that would be ${asking.join(" or ")}`;
  }
  const candidates = task.candidates(tokens).length;
  if (candidates > 1) return `${candidates} of the answers that “${task.vocabulary[tokens.at(-1)]}” may mean are named`;
  if (candidates === 0) return `nobody whom “${task.vocabulary[tokens.at(-1)]}” may mean is named`;
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
      rest: `Nobody can know: ${whyUnknown(task, tokens)}.${since}`,
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

export function scoreAt(model, length) {
  return model.lengths.find(({ seq_len }) => seq_len === length)?.score ?? null;
}

function mean(values) {
  return values.reduce((sum, value) => sum + value, 0) / values.length;
}

function often(models, length) {
  const scores = models.map((model) => scoreAt(model, length)).filter((score) => score !== null);
  if (scores.length === 0) return "";
  const least = percent(Math.min(...scores));
  const most = percent(Math.max(...scores));
  if (scores.length === 1) return `right on ${least} of new sentences`;
  return `right on ${least === most ? least : `${least} to ${most}`} of new sentences, over ${scores.length} seeds`;
}

// Things to try, of which the first opens the page: {label, hint, a, b, length, flip}. They depend on the models: the
// best and the worst at the longest trained length, and one trained at a shorter length. All that solve the task are
// equal.
export function presets({ groups, models, sentences, task }) {
  const ranked = groups.map(({ models: some }) => ({
    some,
    first: some[0],
    score: mean(some.map(({ score }) => (typeof score !== "number" ? 0 : score >= task.solved_at ? 1 : score))),
  }));
  const longest = Math.max(...models.map(({ seq_len }) => seq_len));
  // Sorted from the best down: the sort is stable, so the first of equals comes first.
  const here = ranked.filter(({ first }) => first.seq_len === longest).sort((a, b) => b.score - a.score);
  const [best, worst] = [here[0], here.at(-1)];
  const chance = percent(task.chance);
  const end = sentences.at(-1).seq_len;
  const proposals = [];
  const add = (label, hint, a, b, length, more = {}) =>
    proposals.push({ label, hint, a: a.id, b: b.id, length, ...more });
  const other = best === worst ? (worst.some[1] ?? worst.first) : best.first;
  const short = ranked
    .filter(({ first }) => first.seq_len < longest)
    .sort((a, b) => a.first.seq_len - b.first.seq_len)[0];
  if (short) {
    const { cell, seq_len } = short.first;
    const far = Math.min(3 * seq_len, end);
    add(
      `${cell} trained at ${seq_len}, read at ${far}`,
      `The ${cell} was trained on sentences of ${range(short.first)} words, the ${best.first.cell} on ${range(best.first)}. Press play: at which word does the ${cell} lose the answer? Take another sentence: now and then it is right by luck.`,
      short.first,
      best.first,
      far,
    );
    add(
      `The same at ${seq_len}`,
      `${short.score === 1 ? "Where the gradient still arrives, it learns" : "At the length it was trained at"}: at ${seq_len} words the ${cell} is ${often(short.some, seq_len) || "at home"}.`,
      short.first,
      best.first,
      seq_len,
    );
  }
  add(
    best === worst
      ? `${worst.first.cell} at ${longest} words`
      : `${worst.first.cell} and ${best.first.cell} at ${longest} words`,
    best === worst
      ? `At ${longest} words it is ${often(worst.some, longest) || "at work"}.`
      : `${range(worst.first) === range(best.first) ? `Both trained on sentences of ${range(best.first)} words. ` : ""}At ${longest} the ${worst.first.cell} is ${often(worst.some, longest) || "the worse one"} (guessing: ${chance}), the ${best.first.cell} ${often(best.some, longest) || "the better one"}. Press play, and watch who still knows.`,
    worst.first,
    other,
    longest,
  );
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
