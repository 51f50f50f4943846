// The state of the page and its event handlers. The address holds the whole view, so that it can be linked.

import { decode } from "./engine.js";
import { count, element, isDark } from "./dom.js";
import { panel, wordTable } from "./views.js";
import { writingPanel } from "./writing.js";
import { lengths, scales, tracks } from "./charts.js";
import { alternatives, guessing, legend, presets, shortName, whyImpossible } from "./story.js";

const $ = (id) => document.getElementById(id);
const LETTERS = ["a", "b"];

const raw = JSON.parse($("data").textContent);
const world = decode(raw);
const { task, sentences, models } = world;
const proposals = presets(world);

// index: into the sentences; number: which of that length; text: a typed sentence, or null; at: the current word.
const view = { a: null, b: null, index: 0, number: 0, text: null, at: 0, gatesAs: "units" };
let scene = null; // {words, tokens, right, mentions, query, task, models}
let readings = {};
let timer = null;
let announcement = null;
let ready = false;

const panels = Object.fromEntries(
  LETTERS.map((letter) => [
    letter,
    (task.writes ? writingPanel : panel)(letter, world, {
      onModel: (id) => change(() => (view[letter] = find(id))),
      onWord: goTo,
      onLength: (length) => {
        change(() => readAhead(letter, length));
        $(`model-${letter}`).focus();
      },
    }),
  ]),
);
const charts = tracks($("tracks"), goTo, () => draw());
const scores = lengths(
  $("lengths"),
  world,
  (length) => change(() => chooseLength(length)),
  () => drawScores(),
);

function find(id) {
  return models.find((model) => model.id === id) ?? null;
}

function nearest(length) {
  let best = 0;
  sentences.forEach(({ seq_len }, i) => {
    if (Math.abs(seq_len - length) < Math.abs(sentences[best].seq_len - length)) best = i;
  });
  return best;
}

function chooseLength(length) {
  view.text = null;
  view.index = nearest(length);
  view.number %= sentences[view.index].count;
}

function readAhead(letter, length) {
  view.text = null;
  [view.index, view.number] = view[letter].readable().find(([index]) => sentences[index].seq_len === length);
}

// ---------------------------------------------------------------------------------------------------------------------
// Reading

// Change the view, then read and draw it, up to the end of the sentence.
function change(update, { at = null, typing = false } = {}) {
  stop();
  update();
  if (read(typing)) view.at = at === null ? scene.words.length - 1 : Math.max(0, Math.min(at, scene.words.length - 1));
  markProposal();
  draw();
}

// Returns false if the typed text cannot be read; the scene then stays as it is.
function read(typing) {
  const some = sentences[view.index];
  let tokens = some.tokens(view.number);
  let right = some.right(view.number);
  if (view.text !== null) {
    const parsed = task.parse(view.text);
    showProblems(parsed);
    if (parsed.unknown.length > 0 || parsed.tokens.length === 0) {
      if (scene) return false;
      view.text = null; // a linked view that cannot be read: show the first sentence, and the problem above it
    } else {
      tokens = parsed.tokens;
      right = task.right(tokens);
      showImpossible(tokens);
    }
  } else $("problem").replaceChildren();
  const words = task.words(tokens);
  scene = { words, tokens, right, mentions: mentions(tokens), query: query(tokens), task };
  scene.models = { a: view.a, b: view.b };
  showWhetherTyping();
  readings = Object.fromEntries(LETTERS.map((letter) => [letter, view[letter].read(tokens)]));
  if (!typing) $("text").value = view.text ?? words.join(" ");
  return true;
}

// The word that asks, which models read after each of the words; null if the sentence has none.
function query(tokens) {
  const question = task.question(tokens);
  return question === null ? null : task.vocabulary[question];
}

// The answers that a sentence mentions.
function mentions(tokens) {
  const contains = (phrase) => tokens.some((_, t) => phrase.every((token, i) => tokens[t + i] === token));
  return (task.naming?.phrases ?? []).flatMap((phrase, answer) => (contains(phrase) ? [answer] : []));
}

// If neither model runs in the page, nothing that is typed could be read.
function oneRuns() {
  return LETTERS.some((letter) => view[letter].runs);
}

function showWhetherTyping() {
  $("text").readOnly = !oneRuns();
  $("ahead").hidden = oneRuns();
  $("text-label").textContent = oneRuns() ? "The sentence: change it, or write one" : "The sentence";
}

const STILL = "What is scene below is still the sentence before.";

function showProblems({ tokens, unknown }) {
  const problem = $("problem");
  if (tokens.length === 0 && unknown.length === 0) {
    problem.replaceChildren(element("p", {}, `The sentence is empty: write at least one word. ${scene ? STILL : ""}`));
    return;
  }
  const distinct = unknown.filter(({ word }, i) => unknown.findIndex((other) => other.word === word) === i);
  problem.replaceChildren(
    ...distinct.slice(0, 4).map(({ word, nearest: near }) =>
      element(
        "p",
        {},
        `The models do not know “${word}”. `,
        ...(near.length > 0
          ? [
              "Instead: ",
              ...near.map((known) =>
                element(
                  "button",
                  {
                    type: "button",
                    "aria-label": `Replace ${word} with ${known}`,
                    onclick: () => replace(word, known),
                  },
                  known,
                ),
              ),
            ]
          : ["No word they know is like it."]),
      ),
    ),
    ...(distinct.length > 4 ? [element("p", {}, `And ${count(distinct.length - 4, "more word")}.`)] : []),
    ...(scene && distinct.length > 0 ? [element("p", {}, STILL)] : []),
  );
}

// A sentence that the task does not have is read, but not judged: say at which word it is none, and what can be there.
function showImpossible(tokens) {
  const problem = task.problem(tokens);
  if (problem === null || task.candidates(tokens).length > 1) return;
  const put = (token) => [...tokens.slice(0, problem.at), token, ...tokens.slice(problem.at + 1)];
  const few = problem.latest === null && problem.expected.length <= 6;
  const unfinished = problem.at === tokens.length;
  $("problem").replaceChildren(
    element(
      "p",
      {},
      unfinished
        ? `The sentence is not finished. The next word can be ${alternatives(task.words(problem.expected))}.`
        : `The models read this, but it is none of the sentences they learned from, so no answer is right: ${whyImpossible(task, tokens, problem)}. `,
      ...(few
        ? problem.expected.map((token) =>
            element(
              "button",
              {
                type: "button",
                "aria-label": unfinished ? `Add ${task.vocabulary[token]}` : `Put ${task.vocabulary[token]} there`,
                onclick: () => write(task.words(put(token)).join(" ")),
              },
              task.vocabulary[token],
            ),
          )
        : []),
    ),
  );
}

function write(text) {
  $("text").value = text;
  change(() => (view.text = text), { typing: true });
  $("text").focus();
}

// The words of the task's sentences: those that answers are named by, those that ask, all others.
function showVocabulary() {
  const asks = Object.keys(task.naming?.asks ?? {}).map(Number);
  const named = new Set((task.naming?.phrases ?? []).flat());
  const others = task.known.filter(({ token }) => !named.has(token) && !asks.includes(token)).map(({ word }) => word);
  const rows = [
    ["Answers", task.answers.join(", ")],
    ["Last word", task.words(asks).join(", ")],
    [`${task.naming ? "Between" : "Words"}`, others.join(" ")],
  ];
  $("words-known").textContent = `${task.known.length} words they know`;
  $("vocabulary").append(
    element(
      "dl",
      {},
      ...rows.filter(([, text]) => text).flatMap(([name, text]) => [element("dt", {}, name), element("dd", {}, text)]),
    ),
    element("p", {}, "Other words they cannot read. A sentence that the task does not have they read, but are not judged on."),
  );
}

function replace(word, known) {
  const before = $("text").value;
  const text = task.spelled
    ? before.replaceAll(word, known)
    : before
        .split(/(\s+)/)
        .map((part) => (part === word ? known : part))
        .join("");
  write(text);
}

// ---------------------------------------------------------------------------------------------------------------------
// Drawing

function draw() {
  for (const letter of LETTERS) {
    panels[letter].choose(view[letter]);
    const ahead = view[letter].readable();
    const readable = ahead ? ahead.map(([index]) => sentences[index]) : [];
    panels[letter].show({ ...scene, readable }, readings[letter]);
  }
  const T = scene.words.length;
  $("length").value = view.text === null ? view.index : nearest(T);
  $("length").setAttribute("aria-valuetext", count(T, "word"));
  $("length-says").textContent = count(T, "word");
  $("another").disabled = !oneRuns() || (view.text === null && sentences[view.index].count < 2);
  $("at").max = T - 1;
  $("legend").textContent = legend(scene);
  if (!task.writes) {
    charts.draw(scene, readings, view.gatesAs);
    scales($("scales"), LETTERS, view.gatesAs);
  }
  drawScores();
  drawTable();
  move();
}

function drawScores() {
  scores.draw({ a: view.a, b: view.b }, scene.words.length);
}

function drawTable() {
  const details = $("table");
  if (details.open) details.querySelector(".scroller").replaceChildren(wordTable(scene, readings));
}

// Update everything that depends on the current word.
function move() {
  const t = view.at;
  const T = scene.words.length;
  const says = LETTERS.map((letter) => panels[letter].at(t));
  if (!task.writes) charts.at(t);
  $("at").value = t;
  const word = task.writes ? "" : scene.words[t];
  $("at").setAttribute("aria-valuetext", [`word ${t + 1} of ${T}`, word].filter(Boolean).join(", "));
  $("at-says").textContent = [`${t + 1} of ${T}`, word].filter(Boolean).join(": ");
  $("back").disabled = t === 0;
  $("step").disabled = t === T - 1;
  if (timer === null) announce(says);
  remember();
}

// Debounced, so that a screen reader does not read out every word of a slider.
function announce(says) {
  clearTimeout(announcement);
  if (ready) announcement = setTimeout(() => ($("live").textContent = says.filter(Boolean).join(" ")), 400);
}

// ---------------------------------------------------------------------------------------------------------------------
// Going through the words

function goTo(t) {
  stop();
  view.at = Math.max(0, Math.min(t, scene.words.length - 1));
  move();
}

function play() {
  if (view.at >= scene.words.length - 1) view.at = 0;
  timer = 0;
  buttons();
  move();
  next();
}

function next() {
  timer = setTimeout(
    () => {
      view.at++;
      const ended = view.at >= scene.words.length - 1;
      if (ended) stop();
      move();
      if (!ended) next();
    },
    1000 / Number($("speed").value),
  );
}

function stop() {
  if (timer === null) return;
  clearTimeout(timer);
  timer = null;
  buttons();
}

function pause() {
  stop();
  move();
}

function buttons() {
  const playing = timer !== null;
  $("play")
    .querySelector("path")
    .setAttribute("d", playing ? "M4 3h3v10H4zM9 3h3v10H9z" : "M4 3v10l8-5z");
  $("play").querySelector("span").textContent = playing ? "Pause" : "Play";
}

// ---------------------------------------------------------------------------------------------------------------------
// The address

let lastHash = null;
let writeTimer = null;

// Debounced: browsers throttle changes of the address, and a slider makes many.
function remember() {
  clearTimeout(writeTimer);
  writeTimer = setTimeout(writeAddress, 150);
}

function writeAddress() {
  if (timer !== null || location.hash !== lastHash) return; // the user has just changed it: restore() is next
  const parts = new URLSearchParams();
  parts.set("a", view.a.id);
  parts.set("b", view.b.id);
  if (view.text === null) {
    parts.set("n", sentences[view.index].seq_len);
    if (view.number > 0) parts.set("s", view.number);
  } else parts.set("text", scene.words.join(" "));
  if (view.at < scene.words.length - 1) parts.set("at", view.at + 1);
  if (view.gatesAs !== "units") parts.set("gates", view.gatesAs);
  const hash = `#${parts}`;
  if (hash !== lastHash) history.replaceState(null, "", hash);
  lastHash = location.hash;
}

function restore() {
  lastHash = location.hash;
  scene = null;
  const parts = new URLSearchParams(lastHash.slice(1));
  const first = proposals[0];
  change(
    () => {
      view.a = find(parts.get("a")) ?? find(first.a);
      view.b = find(parts.get("b")) ?? find(first.b);
      view.index = nearest(Number(parts.get("n")) || first.length);
      const number = Number(parts.get("s")) || 0;
      view.number = Number.isInteger(number) && number > 0 ? number % sentences[view.index].count : 0;
      view.text = parts.get("text");
      view.gatesAs = parts.get("gates") === "shares" ? "shares" : "units";
    },
    { at: parts.get("at") ? Number(parts.get("at")) - 1 || 0 : null },
  );
  showChoices();
}

function showChoices() {
  for (const radio of document.getElementsByName("gates-as")) radio.checked = radio.value === view.gatesAs;
}

// ---------------------------------------------------------------------------------------------------------------------
// Things to try

function propose() {
  $("presets").append(
    ...proposals.map((proposal) =>
      element("button", { type: "button", "aria-pressed": "false", onclick: () => take(proposal) }, proposal.label),
    ),
  );
}

function take(proposal) {
  change(() => {
    view.a = find(proposal.a);
    view.b = find(proposal.b);
    chooseLength(proposal.length);
    view.number = (proposal.number ?? view.number) % sentences[view.index].count;
    if (proposal.flip) view.text = otherQuery();
  });
  markProposal(proposal);
}

// The sentence with another query at its end, one that has an answer.
function otherQuery() {
  for (let number = view.number; number < view.number + sentences[view.index].count; number++) {
    const tokens = sentences[view.index].tokens(number % sentences[view.index].count);
    for (const asking of Object.keys(task.naming.asks).map(Number)) {
      const other = [...tokens.slice(0, -1), asking];
      if (asking !== tokens.at(-1) && task.right(other) !== null) return task.words(other).join(" ");
    }
  }
  return null;
}

// Mark the current proposal; the first change of the view removes the mark.
function markProposal(current = null) {
  [...$("presets").children].forEach((button, i) =>
    button.setAttribute("aria-pressed", String(proposals[i] === current)),
  );
  $("hint").textContent =
    current?.hint ?? "Type a sentence, choose a length, a seed or another model: everything follows at once.";
}

// ---------------------------------------------------------------------------------------------------------------------
// Light and dark

function theme(name) {
  if (name) document.documentElement.dataset.theme = name;
  const other = isDark() ? "light" : "dark";
  $("theme").textContent = other === "dark" ? "Dark" : "Light";
  $("theme").setAttribute("aria-label", `Switch to ${other} colours`);
  if (scene) draw();
}

// A page opened from a file may have no localStorage.
function storedTheme(value) {
  try {
    if (value) localStorage.setItem("seqmem-theme", value);
    return localStorage.getItem("seqmem-theme");
  } catch {
    return null;
  }
}

// ---------------------------------------------------------------------------------------------------------------------

function listen() {
  $("length").max = sentences.length - 1;
  let due = false;
  $("length").addEventListener("input", () => {
    if (due) return;
    due = true;
    requestAnimationFrame(() => {
      due = false;
      change(() => {
        view.text = null;
        view.index = Number($("length").value);
        view.number %= sentences[view.index].count;
      });
    });
  });
  $("another").addEventListener("click", () =>
    change(() => {
      if (view.text === null) view.number = (view.number + 1) % sentences[view.index].count;
      else chooseLength(scene.words.length);
    }),
  );
  $("words-known").addEventListener("click", () => {
    $("vocabulary").hidden = !$("vocabulary").hidden;
    $("words-known").setAttribute("aria-expanded", String(!$("vocabulary").hidden));
  });
  $("text").addEventListener("input", () => change(() => (view.text = $("text").value), { typing: true }));
  // A sentence is one line, without line breaks.
  $("text").addEventListener("keydown", (event) => {
    if (event.key === "Enter") event.preventDefault();
  });
  $("sentence").addEventListener("submit", (event) => event.preventDefault());
  $("at").addEventListener("input", () => goTo(Number($("at").value)));
  $("back").addEventListener("click", () => goTo(view.at - 1));
  $("step").addEventListener("click", () => goTo(view.at + 1));
  $("play").addEventListener("click", () => (timer === null ? play() : pause()));
  for (const radio of document.getElementsByName("gates-as"))
    radio.addEventListener("change", () => redraw(() => (view.gatesAs = radio.value)));
  $("table").addEventListener("toggle", drawTable);
  $("theme").addEventListener("click", () =>
    theme(storedTheme(isDark() ? "light" : "dark") ?? (isDark() ? "light" : "dark")),
  );
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => theme());
  addEventListener("hashchange", () => {
    if (location.hash !== lastHash) restore();
  });
  document.addEventListener("keydown", keyboard);
}

// Draw the same reading in another way, at the same word.
function redraw(update) {
  update();
  draw();
}

// Space and arrow keys, where the focused element does not use them.
function keyboard(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || event.shiftKey || event.defaultPrevented) return;
  const slider = event.target.type === "range";
  if (event.target.closest("input, select, textarea, .scroller") && !(slider && event.key === " ")) return;
  if (event.key === " " && !event.target.closest("button, summary, a")) timer === null ? play() : pause();
  else if (event.key === "ArrowRight") goTo(view.at + 1);
  else if (event.key === "ArrowLeft") goTo(view.at - 1);
  else return;
  event.preventDefault();
}

function about() {
  document.body.classList.toggle("writes", Boolean(task.writes));
  if (task.writes) {
    $("title").textContent = "Reading one sentence, writing another";
    document.title = `${$("title").textContent} · seqmem playground`;
    $("lede").textContent = `${task.title} Two networks read the sentence and then write, one word after the other: each word that they write is their next input. Beside a wrong word stands the right one.`;
    $("scores-about").textContent = `How many of the words each trained model writes rightly, in a thousand new sentences of a length. A thin line is one seed: the same cell, the same training, another random initialisation. Click on a length to read a sentence of it.`;
  } else if (Object.keys(task.naming?.asks ?? {}).length !== 2) {
    $("lede").textContent =
      "Two networks read the same sentence, one word at a time. After every word you see what each would answer if it were asked now.";
    $("task-story").textContent =
      `${task.title} Whoever remembers nothing is right on ${guessing(task, world.sentences.map(({ seq_len }) => seq_len))} of these sentences. What stands between the beginning and the end tells nothing about the answer; it only passes the time, and a slider makes it as long as you like.`;
  }
  const { seqmem, torch } = raw.made_with;
  const groups = world.groups.map(({ models: some }) => `${some.length} × ${shortName(some[0])}`).join(", ");
  $("foot").textContent =
    `Made by seqmem ${seqmem} with torch ${torch}: ${groups}. Task: ${task.name}. ${running()} It asks no server for anything.`;
}

function running() {
  const ahead = [...new Set(models.filter((model) => !model.runs).map(({ cell }) => cell))];
  if (ahead.length === 0) return "Everything runs in this page.";
  return `All runs in this page but ${ahead.join(", ")}: what these show was computed before.`;
}

const hasAddress = location.hash.length >= 2;
about();
showVocabulary();
propose();
buttons();
theme(storedTheme());
$("panels").append(...LETTERS.map((letter) => panels[letter].root));
listen();
restore();
if (!hasAddress) take(proposals[0]);
ready = true;
