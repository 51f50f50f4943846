// A model's panel: its name, its verdict, the coloured sentence, and a bar for every answer.

import { css, element, inkOn, level, percent, ramp, svg, times } from "./dom.js";
import { certainty, gradientShares, lastChange, lastGradient, scoreAt, verdict } from "./story.js";

const MEANING = { "✓": "the right answer", "○": "named in the sentence too", "": "" };

// The mark of an answer: right, or mentioned in the sentence, or none.
export function markOf(answer, { right, mentions }) {
  return answer === right ? "✓" : mentions.includes(answer) ? "○" : "";
}

// The choice of a panel's model: {root, choose(model), facts(length)}; onModel(id) for another.
export function chooser(letter, { groups, task }, onModel) {
  const name = letter.toUpperCase();
  const select = element(
    "select",
    { "aria-label": `Model ${name}`, id: `model-${letter}`, onchange: () => onModel(sibling(select.value).id) },
    ...groups.map((group) => element("option", { value: group.name }, group.models[0].label)),
  );
  const seeds = element("fieldset.seeds", { id: `seeds-${letter}` });
  const heading = element("h3", {}, element("span.letter", { "aria-hidden": "true" }, name), select);
  let model = null;

  // The model of a group with the current model's seed, else the first.
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
            element("input", { type: "radio", name: `seed-${letter}`, value: one.id, onchange: () => onModel(one.id) }),
            `${one.seed}`,
          ),
        ),
      );
    }
    model = next;
    for (const radio of seeds.querySelectorAll("input")) radio.checked = radio.value === model.id;
  }

  // What is known of the model, and of it at a length.
  function facts(length) {
    const { seq_len } = model;
    const share = task.writes ? " of the words" : "";
    const trained =
      typeof model.score === "number" ? `right on ${percent(model.score)}${share} of new sentences of ${seq_len} words` : "";
    const score = length === seq_len ? null : scoreAt(model, length);
    const here = score === null ? "" : `on ${percent(score)} of ${length} words`;
    const size = `${model.parameters.toLocaleString("en")} parameters`;
    const search = model.beam > 1 ? `writes by beam search, ${model.beam} beams` : "";
    return [[trained, here].filter(Boolean).join(", "), search, size].filter(Boolean).join("; ");
  }

  return { root: element("div.which", {}, heading, seeds), choose, facts };
}

// A row of a list of answers: {mark, name, bar, number} are its `parts`.
export function beliefRow() {
  const parts = { mark: element("span.mark"), name: element("span.name"), bar: element("i"), number: element("span.num") };
  const bar = element("span.bar", { "aria-hidden": "true" }, parts.bar);
  return Object.assign(element("li", {}, parts.mark, parts.name, bar, parts.number), { parts });
}

// Say that a model reads only some sentences, and offer their lengths.
export function onlyAhead(says, readable, onLength) {
  const lengths = [...new Set(readable.map(({ seq_len }) => seq_len))];
  says.className = "verdict";
  says.replaceChildren(
    "This cell does not run in the page. It has read sentences ahead, of ",
    ...lengths.flatMap((length) => [element("button", { type: "button", onclick: () => onLength(length) }, `${length}`), " "]),
    "words.",
  );
}

// A verdict {state, mark, answer, rest} of story.js.
export function tellVerdict(says, { state, mark: sign, answer, rest }) {
  says.className = `verdict is-${state}`;
  says.replaceChildren(element("span.mark", { "aria-hidden": "true" }, sign), " ", element("b", {}, answer), ` ${rest}`);
}

// Callbacks for the choice of a model, a word, and a length: onModel(id), onWord(t), onLength(length).
export function panel(letter, world, { onModel, onWord, onLength }) {
  const { task } = world;
  const name = letter.toUpperCase();
  const choice = chooser(letter, world, onModel);
  const facts = element("p.facts");
  const says = element("p.verdict", { id: `verdict-${letter}` });
  const strip = element("div.strip");
  const arrives = element("p.arrives", { id: `arrives-${letter}` });
  const sentence = element("p.words", {
    id: `words-${letter}`,
    onclick: ({ target }) => {
      if (target.dataset.t) onWord(Number(target.dataset.t));
    },
  });
  const bars = element(
    "ul.bars",
    { id: `bars-${letter}`, "aria-label": `How sure model ${name} is of each answer` },
    ...task.answers.map((answer) => {
      const row = beliefRow();
      row.parts.name.textContent = row.parts.name.title = answer;
      return row;
    }),
  );
  const root = element(
    `section.panel.${letter}`,
    { "aria-label": `Model ${name}` },
    choice.root,
    says,
    strip,
    arrives,
    sentence,
    bars,
    facts,
  );
  const flag = element("span.flag");
  let scene = null;
  let reading = null;
  let spans = [];
  let problemAt = null; // the word at which the sentence stops being one of the task's

  // `next`: {words, tokens, right, mentions, query, task}; `its`: the model's reading of it, null if it has none.
  function show(next, its) {
    scene = { ...next, task };
    reading = its;
    facts.textContent = choice.facts(scene.words.length);
    bars.hidden = sentence.hidden = strip.hidden = arrives.hidden = reading === null;
    if (reading === null) {
      onlyAhead(says, next.readable, onLength);
      return;
    }
    const shares = gradientShares(reading, scene.right);
    strip.replaceChildren(...(shares ? [gradientStrip(shares)] : []));
    arrives.textContent = shares
      ? `Gradient at the first word: ${times(shares[0])} what it is one word before the answer.`
      : "The gradient of this answer is not known.";
    const colours = ramp(letter);
    problemAt = task.problem(scene.tokens)?.at ?? null;
    spans = scene.words.map((word, t) => {
      const { p, of } = certainty(reading, t, scene);
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

  // The sentence as read up to word t.
  function at(t) {
    if (reading === null) return "";
    const turn = lastChange(reading, t);
    spans.forEach((span, i) => {
      const changed = i > 0 && i <= t && reading.top[i] !== reading.top[i - 1];
      span.className = `w${i === problemAt ? " odd" : ""}${i > t ? " ahead" : ""}${i === t ? " now" : ""}${changed ? " turn" : ""}`;
    });
    if (turn === null) flag.remove();
    else {
      // The last change, if it leads to the right answer, is a decision.
      const settled = turn === lastChange(reading, reading.T - 1) && reading.top[turn] === scene.right;
      flag.textContent = settled ? "makes up its mind" : "changes its mind";
      spans[turn].after(flag);
    }
    const told = verdict(reading, t, scene);
    tellVerdict(says, told);
    task.answers.forEach((_, k) => {
      const p = reading.confidence[t * reading.K + k];
      const row = bars.children[k];
      const isRight = k === scene.right;
      row.className = `${k === reading.top[t] ? "top" : ""}${isRight ? " right" : ""}`.trim();
      const mark = markOf(k, scene);
      row.parts.mark.textContent = mark;
      row.parts.mark.title = MEANING[mark];
      row.parts.bar.style.setProperty("--p", p.toFixed(4));
      row.parts.number.textContent = percent(p);
    });
    return `Model ${name}: ${told.answer} ${told.rest}`;
  }

  return { root, choose: choice.choose, show, at };
}

// The data of the charts over the words, as a table.
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
      ...reading.looks.slice(0, 1).map(({ name, over }) => ({
        name: `${on} ${name} from the last word`,
        of: (t) => percent(over(reading.T - 1)[t]),
      })),
      ...(gradients[letter] ? [{ name: `${on} log10 gradient`, of: (t) => logText(gradients[letter][t]) }] : []),
    ];
  });
  const head = [element("th", { scope: "col" }, "#"), element("th.left.first", { scope: "col" }, "word")];
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

// A bar for each word, as high as the logarithm of its gradient: full at 1, nothing from 10⁻⁸ down.
function gradientStrip(shares) {
  const bars = shares
    .map((log, t) => [t, Math.max(0, Math.min(1, 1 + log / 8))])
    .filter(([, high]) => high > 0)
    .map(([t, high]) => `<rect x="${t}" y="${1 - high}" width="0.9" height="${high}"/>`);
  return svg(bars.join(""), shares.length, 1, 'preserveAspectRatio="none"');
}

function logText(value) {
  return value > 0 ? Math.log10(value).toFixed(2).replace("-", "−") : "−∞";
}
