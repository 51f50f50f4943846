// A model's panel where it writes: its verdict, the words that it writes, what it looks at in the source as it writes each
// of them, and how sure it is of the current one.

import { css, element, inkOn, level, percent, ramp } from "./dom.js";
import { told } from "./story.js";
import { beliefRow, chooser, onlyAhead, tellVerdict } from "./views.js";

const SHOWN = 5; // answers of the current word

// The same callbacks as for `panel`.
export function writingPanel(letter, world, { onModel, onWord, onLength }) {
  const { task } = world;
  const name = letter.toUpperCase();
  const choice = chooser(letter, world, onModel);
  const facts = element("p.facts");
  const says = element("p.verdict", { id: `verdict-${letter}` });
  const written = element("p.words", {
    id: `words-${letter}`,
    onclick: ({ target }) => {
      const word = target.closest("[data-t]");
      if (word) onWord(Number(word.dataset.t));
    },
  });
  const passes = element("div.passes", { id: `passes-${letter}` });
  const bars = element(
    "ul.bars",
    { id: `bars-${letter}`, "aria-label": `How sure model ${name} is of the answers to this word` },
    ...Array.from({ length: Math.min(SHOWN, task.answers.length) }, beliefRow),
  );
  const current = element("p.current");
  const root = element(
    `section.panel.${letter}`,
    { "aria-label": `Model ${name}` },
    choice.root,
    says,
    written,
    passes,
    current,
    bars,
    facts,
  );
  let scene = null;
  let writing = null;
  let spans = [];
  let follow = () => {};

  // `next`: {words, tokens, right, task}, the source and the right answers; `its`: what the model writes, or null.
  function show(next, its) {
    scene = next;
    writing = its;
    facts.textContent = choice.facts(scene.words.length);
    bars.hidden = written.hidden = passes.hidden = current.hidden = writing === null;
    if (writing === null) {
      onlyAhead(says, next.readable, onLength);
      return;
    }
    const colours = ramp(letter);
    spans = writing.answers.map((answer, i) => {
      const p = writing.confidence[i * writing.K + answer];
      const right = scene.right?.[i] ?? null;
      const wrong = right !== null && right !== answer;
      const title = `word ${i + 1}: ${task.answers[answer]} ${percent(p)}${wrong ? `; right is ${task.answers[right]}` : ""}`;
      const fill = { "--p": p.toFixed(4), "--fill": css(colours[level(p)]), "--on": inkOn(colours[level(p)]) };
      const word = element("span.w", { "data-t": i, title, ...fill }, task.answers[answer]);
      return wrong ? element("span.slip", { "data-t": i }, word, element("small", {}, ` ✗ ${task.answers[right]}`)) : word;
    });
    written.replaceChildren(...spans.flatMap((span) => [span, " "]));
    const { alignment, vector } = writing;
    const shown = alignment ? map(letter, scene, writing, onWord) : { nodes: vector ? bottleneck(vector) : [], at() {} };
    passes.replaceChildren(...shown.nodes);
    follow = shown.at;
  }

  // What is written up to word t.
  function at(t) {
    if (writing === null) return "";
    spans.forEach((span, i) => {
      const word = span.querySelector(".w") ?? span;
      span.classList.toggle("unwritten", i > t);
      word.classList.toggle("now", i === t);
    });
    follow(t);
    const verdict = told(writing, t, scene);
    tellVerdict(says, verdict);
    const { K, confidence } = writing;
    const p = (k) => confidence[t * K + k];
    const right = scene.right?.[t] ?? null;
    const ranked = Array.from({ length: K }, (_, k) => k).sort((a, b) => p(b) - p(a));
    const some = ranked.slice(0, bars.children.length);
    if (right !== null && !some.includes(right)) some[some.length - 1] = right;
    current.textContent = `Word ${t + 1} of ${writing.N}: how sure it is of the likeliest answers`;
    some.forEach((k, at) => {
      const row = bars.children[at];
      row.className = `${k === ranked[0] ? "top" : ""}${k === right ? " right" : ""}`.trim();
      row.parts.mark.textContent = k === right ? "✓" : "";
      row.parts.name.textContent = row.parts.name.title = task.answers[k];
      row.parts.bar.style.setProperty("--p", p(k).toFixed(4));
      row.parts.number.textContent = percent(p(k));
    });
    return `Model ${name}: ${verdict.answer} ${verdict.rest}`;
  }

  return { root, choose: choice.choose, show, at };
}

// The alignment: a row for each written word, a column for each word of the source.
function map(letter, { words, task }, { N, answers, alignment }, onWord) {
  const canvas = element("canvas", { width: N, height: N, role: "img" });
  const image = new ImageData(N, N);
  const colours = ramp(letter);
  alignment.rows.forEach((row, i) =>
    row.forEach((weight, j) => image.data.set([...colours[level(weight)], 255], 4 * (i * N + j))),
  );
  canvas.getContext("2d").putImageData(image, 0, 0);
  const tops = alignment.rows.map((row) => row.indexOf(Math.max(...row)));
  const looks = alignment.effective ? "is made of" : "looks at";
  const label = answers.map((answer, i) => `${task.answers[answer]} ${looks} ${words[tops[i]]}`).join(", ");
  canvas.setAttribute("aria-label", `Alignment: ${label}`);
  const says = element("p.current");
  const grid = element(
    "div.alignment",
    { "--n": N },
    element("span.corner"),
    element("div.source", { "aria-hidden": "true" }, ...words.map((word) => element("span", {}, word))),
    element("div.target", { "aria-hidden": "true" }, ...answers.map((answer) => element("span", {}, task.answers[answer]))),
    element("div.cells", {}, canvas, element("i.rest"), element("i.row-now")),
  );
  const place = ({ clientX, clientY }) => {
    const { left, top, width, height } = canvas.getBoundingClientRect();
    const inside = (share) => Math.max(0, Math.min(N - 1, Math.floor(share * N)));
    return { i: inside((clientY - top) / height), j: inside((clientX - left) / width) };
  };
  let now = 0;
  const tell = (i, j) => {
    const share = alignment.rows[i][j];
    says.textContent = `“${task.answers[answers[i]]}” ${looks} “${words[j]}”: ${Number.isNaN(share) ? "–" : percent(share)}`;
  };
  const cells = grid.querySelector(".cells");
  cells.addEventListener("click", (event) => onWord(place(event).i));
  cells.addEventListener("pointermove", (event) => {
    const { i, j } = place(event);
    if (event.pointerType === "mouse" && i <= now) tell(i, j);
  });
  cells.addEventListener("pointerleave", () => tell(now, tops[now]));
  const box = element("div.alignment-box", { tabindex: 0, role: "region", "aria-label": "The alignment" }, grid);
  const at = (t) => {
    now = t;
    grid.style.setProperty("--t", t);
    [...grid.querySelector(".target").children].forEach((span, i) => span.classList.toggle("unwritten", i > t));
    tell(t, tops[t]);
  };
  return { nodes: [says, box], at };
}

// All that passes from the encoder to the decoder.
function bottleneck(vector) {
  const most = Math.max(...vector.map(Math.abs), 1e-12);
  const canvas = element("canvas", { width: vector.length, height: 1, role: "img", "aria-label": "The vector's numbers" });
  const image = new ImageData(vector.length, 1);
  vector.forEach((value, n) => image.data.set([...ramp("sign")[level(0.5 + value / most / 2)], 255], 4 * n));
  canvas.getContext("2d").putImageData(image, 0, 0);
  return [
    element("p.current", {}, `All that its decoder gets of the source: ${vector.length} numbers`),
    element("div.vector", {}, canvas),
  ];
}
