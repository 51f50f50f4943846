// A model's panel: which one it is, its verdict, the sentence in colours, and a bar for every answer.

import { css, element, inkOn, level, percent, ramp } from "./dom.js";
import { certainty, lastChange, scoreAt, verdict } from "./story.js";

const MEANING = { "✓": "the right answer", "○": "named in the sentence too", "": "" };

// Of an answer: whether it is the right one, or another that the sentence names.
export function markOf(answer, { right, named }) {
  return answer === right ? "✓" : named.includes(answer) ? "○" : "";
}

// `chosen(id)` is called when somebody chooses a model, `picked(t)` for a word, `wanted(length)` for a length.
export function panel(letter, { groups, task }, { chosen, picked, wanted }) {
  const name = letter.toUpperCase();
  const select = element(
    "select",
    { "aria-label": `Model ${name}`, id: `model-${letter}`, onchange: () => chosen(sibling(select.value).id) },
    ...groups.map((group) => element("option", { value: group.name }, group.models[0].label)),
  );
  const seeds = element("fieldset.seeds", { id: `seeds-${letter}` });
  const facts = element("p.facts");
  const says = element("p.verdict", { id: `verdict-${letter}` });
  const sentence = element("p.words", {
    id: `words-${letter}`,
    onclick: ({ target }) => {
      if (target.dataset.t) picked(Number(target.dataset.t));
    },
  });
  const bars = element(
    "ul.bars",
    { id: `bars-${letter}`, "aria-label": `How sure model ${name} is of each answer` },
    ...task.answers.map((answer) => {
      const mark = element("span.mark");
      const bar = element("i");
      const number = element("span.num");
      const row = element(
        "li",
        {},
        mark,
        element("span.name", { title: answer }, answer),
        element("span.bar", { "aria-hidden": "true" }, bar),
        number,
      );
      return Object.assign(row, { parts: { mark, bar, number } });
    }),
  );
  const root = element(
    `section.panel.${letter}`,
    { "aria-label": `Model ${name}` },
    element("div.which", {}, element("h3", {}, element("span.letter", { "aria-hidden": "true" }, name), select), seeds),
    says,
    sentence,
    bars,
    facts,
  );
  const flag = element("span.flag");
  let model = null;
  let shown = null;
  let reading = null;
  let spans = [];

  // The model of a group that has the seed of the one that is shown, or else the first.
  function sibling(group) {
    const { models } = groups.find((some) => some.name === group);
    return models.find(({ seed }) => seed === model?.seed) ?? models[0];
  }

  function choose(next) {
    if (model?.group !== next.group) {
      select.value = next.group;
      const { models } = groups.find((some) => some.name === next.group);
      seeds.replaceChildren(
        element("legend", {}, "Seed", element("span.unseen", {}, ` of model ${name}`)),
        ...models.map((one) =>
          element(
            "label",
            {},
            element("input", { type: "radio", name: `seed-${letter}`, value: one.id, onchange: () => chosen(one.id) }),
            `${one.seed}`,
          ),
        ),
      );
    }
    model = next;
    for (const radio of seeds.querySelectorAll("input")) radio.checked = radio.value === model.id;
  }

  function tell() {
    const { seq_len } = model;
    const trained =
      typeof model.score === "number" ? `right on ${percent(model.score)} of new sentences of ${seq_len} words` : "";
    const length = shown.words.length;
    const score = length === seq_len ? null : scoreAt(model, length);
    const here = score === null ? "" : `on ${percent(score)} of ${length} words`;
    const size = `${model.parameters.toLocaleString("en")} parameters`;
    facts.textContent = [[trained, here].filter(Boolean).join(", "), size].filter(Boolean).join("; ");
  }

  // `next`: {words, tokens, right, named, asking, task}, read as `found`; null: this model cannot read it here.
  function show(next, found) {
    shown = { ...next, task };
    reading = found;
    tell();
    bars.hidden = sentence.hidden = reading === null;
    if (reading === null) {
      says.className = "verdict";
      const lengths = [...new Set(next.readable.map(({ seq_len }) => seq_len))];
      says.replaceChildren(
        "This cell does not run in the page. It has read sentences ahead, of ",
        ...lengths.flatMap((length) => [
          element("button", { type: "button", onclick: () => wanted(length) }, `${length}`),
          " ",
        ]),
        "words.",
      );
      return;
    }
    const colours = ramp(letter);
    spans = shown.words.map((word, t) => {
      const { p, of } = certainty(reading, t, shown);
      const colour = colours[level(p)];
      const title = `word ${t + 1}: ${of} ${percent(p)}`;
      return element(
        "span.w",
        { "data-t": t, title, "--p": p.toFixed(4), "--fill": css(colour), "--on": inkOn(colour) },
        word,
      );
    });
    sentence.replaceChildren(...spans.flatMap((span) => [span, " "]));
  }

  // The sentence as it has been read up to word t.
  function at(t) {
    if (reading === null) return "";
    const turn = lastChange(reading, t);
    spans.forEach((span, i) => {
      const changed = i > 0 && i <= t && reading.top[i] !== reading.top[i - 1];
      span.className = `w${i > t ? " ahead" : ""}${i === t ? " now" : ""}${changed ? " turn" : ""}`;
    });
    if (turn === null) flag.remove();
    else {
      // From nothing to the right answer, to stay there, is no change of mind.
      const settled = turn === lastChange(reading, reading.T - 1) && reading.top[turn] === shown.right;
      flag.textContent = settled ? "makes up its mind" : "changes its mind";
      spans[turn].after(flag);
    }
    const found = verdict(reading, t, shown);
    says.className = `verdict is-${found.state}`;
    says.replaceChildren(
      element("span.mark", { "aria-hidden": "true" }, found.mark),
      " ",
      element("b", {}, found.said),
      ` ${found.rest}`,
    );
    task.answers.forEach((_, k) => {
      const p = reading.confidence[t * reading.K + k];
      const row = bars.children[k];
      const isRight = k === shown.right;
      row.className = `${k === reading.top[t] ? "top" : ""}${isRight ? " right" : ""}`.trim();
      const mark = markOf(k, shown);
      row.parts.mark.textContent = mark;
      row.parts.mark.title = MEANING[mark];
      row.parts.bar.style.setProperty("--p", p.toFixed(4));
      row.parts.number.textContent = percent(p);
    });
    return `Model ${name}: ${found.said} ${found.rest}`;
  }

  return { root, choose, show, at };
}

// Everything that is drawn over the words, as a table.
export function wordTable({ words, right, task }, readings) {
  const letters = Object.keys(readings).filter((letter) => readings[letter]);
  const gradients = Object.fromEntries(letters.map((letter) => [letter, lastGradient(readings[letter], right)]));
  const columns = letters.flatMap((letter) => {
    const reading = readings[letter];
    const on = letter.toUpperCase();
    const p = (t, k) => percent(reading.confidence[t * reading.K + k]);
    return [
      { name: `${on} says`, left: true, of: (t) => task.answers[reading.top[t]] },
      { name: `${on} sure`, of: (t) => p(t, reading.top[t]) },
      ...(right === null ? [] : [{ name: `${on} right answer`, of: (t) => p(t, right) }]),
      ...Object.entries(reading.gateMeans).map(([gate, values]) => ({
        name: `${on} ${gate} gate`,
        of: (t) => values[t].toFixed(2),
      })),
      ...Object.entries(reading.norms).map(([state, values]) => ({
        name: `${on} ${state} norm`,
        of: (t) => values[t].toFixed(2),
      })),
      ...(gradients[letter] ? [{ name: `${on} log10 gradient`, of: (t) => logText(gradients[letter][t]) }] : []),
    ];
  });
  const head = [element("th", { scope: "col" }, "#"), element("th.left", { scope: "col" }, "word")];
  const side = ({ left }) => (left ? ".left" : "");
  return element(
    "table",
    {},
    element(
      "thead",
      {},
      element(
        "tr",
        {},
        ...head,
        ...columns.map((column) => element(`th${side(column)}`, { scope: "col" }, column.name)),
      ),
    ),
    element(
      "tbody",
      {},
      ...words.map((word, t) =>
        element(
          "tr",
          {},
          element("td", {}, `${t + 1}`),
          element("th.left", { scope: "row" }, word),
          ...columns.map((column) => element(`td${side(column)}`, {}, column.of(t))),
        ),
      ),
    ),
  );
}

// d(-log p[right]) / d state_t, or of the answer it gives where nobody knows the right one; null: not known here.
export function lastGradient(reading, right) {
  return reading.gradient(right ?? reading.top[reading.T - 1])?.state ?? null;
}

function logText(value) {
  return value > 0 ? Math.log10(value).toFixed(2).replace("-", "−") : "−∞";
}
