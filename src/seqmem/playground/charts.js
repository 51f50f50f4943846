// Charts over the words, a column for each, and scores over the lengths.

import { count, css, element, escaped, level, percent, power, raised, ramp, resolved, svg, whenSeen } from "./dom.js";
import { certainty, gradientShares, guessing, range } from "./story.js";
import { markOf } from "./views.js";

const FLOOR = -12; // log10 of the smallest gradient drawn
const OPEN = 0.9;
const CLOSED = 0.1;

// The tracks over the words of one sentence. Callbacks: onWord(t) for a clicked column, onResize() for a new width.
export function tracks(box, onWord, onResize) {
  let follow = [];
  let inner = null;
  let col = 0;
  let aside = 0; // width of the tracks' names, left of the words
  let scene = null;
  let pending = null; // arguments of the next make(), which is delayed until the current word is known
  let current = 0;
  let shown = 0; // the word that the drawn tracks stand at: not `current` while a make() is pending
  let scrolled = 0;
  const room = roomOf(box, onResize);
  const redraw = whenSeen(box, () => {
    make(...pending);
    pending = null;
    moveCursor();
  });
  let hovered = []; // called with the word under the pointer, and with the shown word when it leaves
  const under = ({ clientX }) => Math.floor((clientX - inner.getBoundingClientRect().left - aside) / col);
  const hover = (t) => hovered.forEach((update) => update(t));
  box.addEventListener("pointermove", (event) => {
    if (!inner || event.pointerType !== "mouse") return;
    const t = under(event);
    const inside = t >= 0 && t < scene.words.length && event.clientX - box.getBoundingClientRect().left > aside;
    hover(inside ? t : shown);
  });
  box.addEventListener("pointerleave", () => hover(shown));
  box.addEventListener("scroll", () => (scrolled = box.scrollLeft), { passive: true });
  box.addEventListener("click", (event) => {
    if (!inner) return;
    const t = under(event);
    if (t >= 0 && t < scene.words.length && event.clientX - box.getBoundingClientRect().left > aside) onWord(t);
  });

  // `next`: the scene {words, right, task, models: {a, b}}; `readings`: {a, b}, null if a model has none.
  function draw(...given) {
    pending = given;
  }

  function make(next, readings, gatesAs) {
    scene = next;
    follow = [];
    hovered = [];
    const T = scene.words.length;
    const root = getComputedStyle(document.documentElement);
    const rem = parseFloat(root.fontSize);
    aside = Math.round(rem * parseFloat(root.getPropertyValue("--gutter")));
    col = Math.floor(Math.max(0.95 * rem, Math.min(3.2 * rem, (room() - aside) / T)));
    const letters = Object.keys(readings).filter((letter) => readings[letter]);
    const at = { col, T, rem, width: T * col, scene, readings, letters, follow, hovered };
    const rows = [heads(at, null), confidences(at), gradients(at)];
    for (const letter of letters) {
      rows.push(heads(at, letter), beliefs(at, letter), ...looks(at, letter));
      rows.push(...gates(at, letter, gatesAs), ...states(at, letter));
    }
    inner = element(
      "div.tracks",
      { "--col": `${col}px`, "--gutter": `${aside}px` },
      element("div.veil"),
      element("div.cursor"),
      ...rows,
    );
    box.replaceChildren(inner);
    scrolled = Math.min(scrolled, Math.max(0, aside + at.width - room()));
  }

  function moveTo(t) {
    current = t;
    if (pending) redraw();
    else moveCursor();
  }

  function moveCursor() {
    const t = (shown = current);
    const [veil, cursor] = inner.children;
    cursor.style.left = `${aside + t * col}px`;
    cursor.style.width = `${col}px`;
    veil.style.left = `${aside + (t + 1) * col}px`;
    veil.hidden = t === scene.words.length - 1;
    follow.forEach((update) => update(t));
    // Scroll the box, never the page.
    if (aside + scene.words.length * col <= room()) return;
    const from = t * col - scrolled;
    const wide = room() - aside;
    if (from >= 0 && from + col <= wide) return;
    const most = aside + scene.words.length * col - room();
    scrolled = Math.max(0, Math.min(most, t * col - wide / 2));
    box.scrollLeft = scrolled;
  }

  return { draw, at: moveTo };
}

// An element's width, cached: reading it forces a layout of the whole page.
function roomOf(box, onResize) {
  let room = box.clientWidth;
  new ResizeObserver(([{ contentRect }]) => {
    if (contentRect.width === room) return;
    room = contentRect.width;
    requestAnimationFrame(onResize);
  }).observe(box);
  return () => room;
}

function row(kind, tag, plot) {
  return element(`div.row${kind}`, {}, tag, plot);
}

function tagged(title, ...more) {
  return element("div.tag", {}, title, ...more);
}

function ticked(...inside) {
  return element("div.tag.ticked", {}, ...inside);
}

// A line under a track's name with its value at the current word.
function following({ follow }, say) {
  const small = element("small");
  follow.push((t) => (small.textContent = say(t)));
  return small;
}

function plot(kind, { width }, height, child, label) {
  if (label) {
    child.removeAttribute("aria-hidden");
    child.setAttribute("role", "img");
    child.setAttribute("aria-label", label);
  }
  return element(`div.plot${kind}`, { style: `width: ${width}px; height: ${height}px` }, child);
}

// The words, vertical; those at which the model of `letter` changes its answer are bold.
function heads({ scene, readings, letters, follow, T }, letter) {
  const turned = (t) =>
    t > 0 && (letter ? [letter] : []).some((one) => readings[one].top[t] !== readings[one].top[t - 1]);
  const spans = scene.words.map((word, t) =>
    element(`span${turned(t) ? ".turn" : ""}`, {}, turned(t) ? `${word} ◂` : word),
  );
  let now = null;
  follow.push((t) => {
    now?.classList.remove("now");
    now = spans[t];
    now?.classList.add("now");
  });
  const name = letter
    ? [
        element(`span.letter.${letter}`, { "aria-hidden": "true" }, letter.toUpperCase()),
        element("span", {}, scene.models[letter].cell),
      ]
    : letters.map((one) => key(one, scene.models[one].cell));
  const tag = element("div.tag", {}, element("div", {}, ...name.flatMap((part) => [part, " "])));
  return row(
    ".heads",
    tag,
    element("div.plot", { "aria-hidden": "true", style: `width: calc(var(--col) * ${T})` }, ...spans),
  );
}

function key(letter, cell) {
  const line = svg(`<line class="line ${letter}" x1="0" y1="5" x2="26" y2="5"/>`, 26, 10);
  line.style.cssText = "width: 26px; height: 10px; display: inline-block; vertical-align: middle; margin-right: .3rem";
  const span = element("span", { style: "display: block; font-weight: 400; white-space: nowrap" });
  span.append(line, `${letter.toUpperCase()} ${cell}`);
  return span;
}

function ticks(list, y) {
  return element(
    "div.ticks",
    { "aria-hidden": "true" },
    ...list.map(([value, text]) => element("span", { style: `top: ${y(value)}px` }, text)),
  );
}

// Lines of both models over the words; `series`: letter -> [T] values.
function lines({ col, T, width, rem }, series, low, high, marks, extra = "") {
  const height = Math.round(8 * rem);
  const pad = 7;
  const y = (value) => pad + (height - 2 * pad) * (1 - (Math.max(low, Math.min(high, value)) - low) / (high - low));
  const x = (t) => (t + 0.5) * col;
  let inside = marks
    .map(([value]) => `<line class="grid" x1="0" x2="${width}" y1="${y(value)}" y2="${y(value)}"/>`)
    .join("");
  inside += extra && extra(y);
  for (const [letter, values] of Object.entries(series)) {
    const points = Array.from(values, (value, t) => (Number.isNaN(value) ? "" : `${x(t)},${y(value).toFixed(1)}`));
    inside += `<polyline class="line ${letter}" points="${points.filter(Boolean).join(" ")}"/>`;
    const every = col < 10 ? Math.ceil(10 / col) : 1;
    for (let t = 0; t < T; t += every) {
      if (!points[t]) continue;
      const [px, py] = points[t].split(",");
      // A triangle marks a value below the chart.
      inside +=
        values[t] < low
          ? `<path class="dot ${letter}" d="M${px - 3.5},${py - 3}h7l-3.5,6z"/>`
          : `<circle class="dot ${letter}" cx="${px}" cy="${py}" r="2.3"/>`;
    }
  }
  return { height, y, chart: svg(inside, width, height) };
}

function confidences(at) {
  const { scene, readings, letters } = at;
  const of = (letter) => scene.words.map((_, t) => certainty(readings[letter], t, scene).p);
  const series = Object.fromEntries(letters.map((letter) => [letter, of(letter)]));
  const title = scene.right === null ? "Its own answer" : "Right answer";
  const blind = 1 / scene.task.answers.length;
  const marks = [
    [1, "100 %"],
    [0.5, "50 %"],
    [0, "0"],
  ];
  const chance = (y) => `<line class="chance" x1="0" x2="${at.width}" y1="${y(blind)}" y2="${y(blind)}"/>`;
  const { height, y, chart } = lines(at, series, 0, 1, marks, chance);
  const ends = letters
    .map((letter) => `model ${letter.toUpperCase()} ends at ${percent(series[letter].at(-1))}`)
    .join(", ");
  const tag = ticked(
    title,
    ...letters.map((letter) => following(at, (t) => `${letter.toUpperCase()} ${percent(series[letter][t])}`)),
    ticks(marks, y),
  );
  return row("", tag, plot("", at, height, chart, `Confidence in: ${title.toLowerCase()}, over the words: ${ends}`));
}

function gradients(at) {
  const { scene, readings, letters } = at;
  const series = {};
  for (const letter of letters) {
    const shares = gradientShares(readings[letter], scene.right);
    if (shares) series[letter] = shares;
  }
  const top = Math.max(1, ...Object.values(series).flat().filter(Number.isFinite));
  const marks = [0, -3, -6, -9, -12].map((power) => [power, power === 0 ? "1" : `10${raised(power)}`]);
  const { height, y, chart } = lines(at, series, FLOOR, Math.min(top, 3), marks, () => "");
  const says = Object.entries(series).map(
    ([letter, values]) => `model ${letter.toUpperCase()}: ${power(values[0])} at the first word`,
  );
  const tag = ticked(
    "Gradient",
    ...Object.entries(series).map(([letter, values]) =>
      following(at, (t) => `${letter.toUpperCase()} ${power(values[t])}`),
    ),
    ticks(marks, y),
  );
  const words = "How much of the gradient one word back from the answer flows back to each word.";
  return row("", tag, plot("", at, height, chart, `${words} ${says.join(", ")}`));
}

// A strip of bars for every answer: the confidence in it at each word.
function beliefs(at, letter) {
  const { scene, readings, T, col, width, rem } = at;
  const reading = readings[letter];
  const { K } = reading;
  const each = Math.round(1.5 * rem);
  const { canvas, context } = sharp(width, K * each);
  const [strong, faint] = [resolved(`--${letter}`), resolved(`--${letter}-faint`)];
  const [rule, soft] = [resolved("--rule"), resolved("--soft")];
  for (let k = 0; k < K; k++) {
    const bottom = (k + 1) * each - 1;
    if (k === scene.right) {
      context.fillStyle = soft;
      context.fillRect(0, k * each, width, each);
    }
    context.fillStyle = rule;
    context.fillRect(0, bottom, width, 1);
    for (let t = 0; t < T; t++) {
      const high = reading.confidence[t * K + k] * (each - 4);
      context.fillStyle = reading.top[t] === k ? strong : faint;
      context.fillRect(t * col + 1, bottom - high, col - 2, high);
    }
  }
  const list = element(
    "ul",
    {},
    ...scene.task.answers.map((answer, k) => {
      const right = k === scene.right ? ".right" : "";
      return element(
        `li${right}`,
        { style: `height: ${each}px`, title: answer },
        `${markOf(k, scene)} ${answer}`.trim(),
      );
    }),
  );
  const label = `How sure model ${letter.toUpperCase()} is of every answer at every word; at the end it says ${scene.task.answers[reading.top[T - 1]]}`;
  return row("", element("div.tag", {}, list), plot("", at, K * each, canvas, label));
}

// What the model looks back at from the word under the pointer, else from the current one: a bar for each word, as high
// as its share is of the largest. Of a stack the top layer alone.
function looks(at, letter) {
  const { scene, readings, rem, T, width, follow, hovered } = at;
  const [looked] = readings[letter].looks;
  if (!looked) return [];
  const from = element("small");
  const most = element("small");
  const height = Math.round(3 * rem);
  const { canvas, context } = sharp(width, height);
  const seen = (t) => ({ t, shares: looked.over(t) });
  const draw = (word) => {
    // In a long sentence that was read ahead only the last word's is known.
    const { t, shares } = [seen(word), seen(T - 1)].find((one) => one.shares);
    const largest = Math.max(...shares);
    from.textContent = `from “${scene.words[t]}”`;
    most.textContent = largest > 0 ? `most: ${percent(largest)} “${scene.words[shares.indexOf(largest)]}”` : "nothing";
    context.clearRect(0, 0, width, height);
    if (largest > 0) bars(context, at, letter, shares, largest, height);
  };
  follow.push(draw);
  hovered.push(draw);
  const last = looked.over(T - 1);
  const top = last.indexOf(Math.max(...last));
  const label = `What model ${letter.toUpperCase()} looks back at from the last word: most at word ${top + 1}, ${scene.words[top]}, ${percent(last[top])}`;
  const tag = tagged(looked.effective ? `${looked.name}: made of` : `${looked.name}: looks at`, from, most);
  return [row("", tag, plot(".looks", at, height, canvas, label))];
}

function sharp(width, height) {
  // Browsers refuse canvases beyond some 16,000 pixels.
  const scale = Math.min(devicePixelRatio || 1, 8000 / width);
  const canvas = element("canvas", { width: Math.round(width * scale), height: Math.round(height * scale) });
  const context = canvas.getContext("2d");
  context.scale(canvas.width / width, canvas.height / height);
  return { canvas, context };
}

// Units in order of the mean of the gate that keeps, largest first, if there is one.
function order(reading, name, units) {
  const prefix = name.includes("/") ? name.replace(/[^/]*$/, "") : "";
  const keeps = reading.keeps.find(
    (gate) => gate.startsWith(prefix) && reading.gates[gate]?.length === units * reading.T,
  );
  const all = Array.from({ length: units }, (_, unit) => unit);
  if (!keeps) return all;
  const sums = new Float64Array(units);
  for (let i = 0; i < reading.gates[keeps].length; i++) sums[i % units] += reading.gates[keeps][i];
  return all.sort((a, b) => sums[b] - sums[a]);
}

// A heat map with a column for each word and a row for each unit; shade(value) is an index into `colours`.
function heat(reading, values, name, colours, shade) {
  const { T } = reading;
  const units = values.length / T;
  const canvas = element("canvas", { width: T, height: units });
  const image = new ImageData(T, units);
  order(reading, name, units).forEach((unit, down) => {
    for (let t = 0; t < T; t++) {
      const [r, g, b] = colours[shade(values[t * units + unit])];
      image.data.set([r, g, b, 255], 4 * (down * T + t));
    }
  });
  canvas.getContext("2d").putImageData(image, 0, 0);
  return { canvas, units };
}

function heightOf(units, rem) {
  return Math.round(Math.max(2.6 * rem, Math.min(7 * rem, units * 2.5)));
}

function share(values, units, t, test) {
  let count = 0;
  for (let i = t * units; i < (t + 1) * units; i++) if (test(values[i])) count++;
  return count / units;
}

function gates(at, letter, gatesAs) {
  const { readings, rem, T, col, width } = at;
  const reading = readings[letter];
  return Object.entries(reading.gateMeans).map(([name, means]) => {
    const values = reading.gates[name];
    const keeps = reading.keeps.includes(name);
    const mean = (t) => (keeps ? `keeps ${percent(means[t])}` : `${percent(means[t])} on average`);
    const label = `${name} gate of model ${letter.toUpperCase()} over the words: ${percent(means.reduce((sum, one) => sum + one, 0) / T)} open on average`;
    const title = `${name} gate`;
    if (!values) {
      return row(
        "",
        tagged(title, following(at, mean)),
        plot("", at, Math.round(3 * rem), columns(at, letter, means, 1), label),
      );
    }
    const units = values.length / T;
    const shares = (t) => [
      share(values, units, t, (value) => value > OPEN),
      share(values, units, t, (value) => value < CLOSED),
    ];
    const tag = tagged(
      title,
      following(at, mean),
      following(at, (t) => `${percent(shares(t)[0])} open`),
      following(at, (t) => `${percent(shares(t)[1])} closed`),
    );
    if (gatesAs === "units") {
      const { canvas } = heat(reading, values, name, ramp(letter), level);
      return row("", tag, plot(".map", at, heightOf(units, rem), canvas, label));
    }
    const height = Math.round(4 * rem);
    const { canvas, context } = sharp(width, height);
    const colours = ramp(letter);
    for (let t = 0; t < T; t++) {
      const [open, closed] = shares(t);
      let from = height;
      [
        [open, 1],
        [1 - open - closed, 0.45],
        [closed, 0.04],
      ].forEach(([part, dark]) => {
        context.fillStyle = css(colours[level(dark)]);
        context.fillRect(t * col, from - part * height, col - 1, part * height);
        from -= part * height;
      });
    }
    return row("", tag, plot(".shares", at, height, canvas, label));
  });
}

function states(at, letter) {
  const { readings, rem } = at;
  const reading = readings[letter];
  return Object.entries(reading.norms).map(([name, norms]) => {
    const values = reading.states[name];
    const norm = following(at, (t) => `norm ${norms[t].toFixed(2)}`);
    const label = `${name} state of model ${letter.toUpperCase()} over the words; its norm ends at ${norms.at(-1).toFixed(2)}`;
    const title = `${name} state`;
    if (!values) {
      const most = Math.max(...norms, 1e-12);
      return row("", tagged(title, norm), plot("", at, Math.round(3 * rem), columns(at, letter, norms, most), label));
    }
    const most = reach(values);
    const { canvas, units } = heat(reading, values, name, ramp("sign"), (value) => level(0.5 + value / most / 2));
    const tag = tagged(title, norm, element("small", {}, `colours: ±${short(most)}`));
    return row("", tag, plot(".map", at, heightOf(units, rem), canvas, label));
  });
}

// The value of the strongest colour: the 95th percentile, so that one large unit does not bleach all others.
function reach(values) {
  const sizes = values.map(Math.abs).sort();
  return Math.max(1, sizes[Math.floor(0.95 * (sizes.length - 1))]);
}

function short(number) {
  return number < 10 ? number.toFixed(1).replace(".0", "") : number.toFixed(0);
}

// A bar for each word, as high as its value.
function columns(at, letter, values, most) {
  const height = Math.round(3 * at.rem);
  const { canvas, context } = sharp(at.width, height);
  bars(context, at, letter, values, most, height);
  return canvas;
}

function bars(context, { T, col }, letter, values, most, height) {
  context.fillStyle = resolved(`--${letter}`);
  for (let t = 0; t < T; t++) {
    const high = (values[t] / most) * (height - 2);
    context.fillRect(t * col + 1, height - high, col - 2, high);
  }
}

// What the heat maps' colours mean.
export function scales(box, letters, gatesAs) {
  const strip = (name) => {
    const colours = ramp(name);
    const stops = [0, 51, 102, 153, 204, 255].map((i) => css(colours[i])).join(", ");
    return element("i", { style: `background: linear-gradient(to right, ${stops})`, "aria-hidden": "true" });
  };
  const [low, high] = gatesAs === "units" ? ["gates: 0", "1"] : ["units closed", "open"];
  box.replaceChildren(
    ...letters.map((letter) => element("span", {}, `${letter.toUpperCase()} ${low}`, strip(letter), high)),
    element("span", {}, "states: negative", strip("sign"), "positive"),
  );
}

// ---------------------------------------------------------------------------------------------------------------------
// Scores over lengths

const ROUND = [2, 3, 5, 7, 10, 15, 20, 30, 50, 70, 100, 150, 200, 300, 500, 700, 1000];

// `models`: all of them; `chosen`: {a, b}. Callbacks: onLength(length) for a click, onResize() for a new width.
export function lengths(figure, { models, task }, onLength, onResize) {
  let place = null;
  let pending = null;
  const room = roomOf(figure, onResize);
  const redraw = whenSeen(figure, () => make(...pending));
  figure.addEventListener("click", ({ target, clientX }) => {
    const chart = target.closest("svg");
    if (!chart || !place) return;
    const box = chart.getBoundingClientRect();
    onLength(Math.round(place(((clientX - box.left) / box.width) * chart.viewBox.baseVal.width)));
  });

  function draw(...given) {
    pending = given;
    redraw();
  }

  function make(chosen, length) {
    const width = Math.max(280, room());
    const rem = parseFloat(getComputedStyle(document.documentElement).fontSize);
    const height = Math.round(Math.min(24 * rem, 0.62 * width + 4 * rem));
    const [left, right, top, bottom] = [3 * rem, 1.2 * rem, 1.6 * rem, 2.6 * rem];
    const all = models.flatMap((model) => [
      ...model.lengths.map(({ seq_len }) => seq_len),
      model.seq_len,
      model.shortest,
    ]);
    const [low, high] = [Math.min(...all, length), Math.max(...all, length)];
    const span = Math.log(high / low) || 1;
    const x = (value) => left + ((width - left - right) * Math.log(value / low)) / span;
    const y = (value) => height - bottom - (height - top - bottom) * value;
    place = (px) => low * Math.exp((span * (px - left)) / (width - left - right));
    let inside = "";
    for (const value of [0, 0.25, 0.5, 0.75, 1]) {
      inside += `<line class="grid" x1="${left}" x2="${width - right}" y1="${y(value)}" y2="${y(value)}"/>`;
      inside += `<text x="${left - 8}" y="${y(value)}" text-anchor="end" dominant-baseline="middle">${100 * value} %</text>`;
    }
    let free = -Infinity;
    for (const value of ROUND.filter((one) => one >= low && one <= high)) {
      if (x(value) < free) continue;
      free = x(value) + 2.2 * rem;
      inside += `<text x="${x(value)}" y="${height - bottom + 1.2 * rem}" text-anchor="middle">${value}</text>`;
    }
    inside += `<text x="${(left + width - right) / 2}" y="${height - 0.3 * rem}" text-anchor="middle">words in the sentence</text>`;
    const letters = Object.keys(chosen);
    const same = range(chosen.a) === range(chosen.b);
    letters.forEach((letter, i) => {
      if (same && i > 0) return;
      const from = x(chosen[letter].shortest);
      const to = x(chosen[letter].seq_len);
      const wide = Math.max(to - from, 10);
      const start = (from + to) / 2 - wide / 2;
      inside += `<rect class="range ${letter}" x="${start}" width="${wide}" y="${y(1)}" height="${y(0) - y(1)}"/>`;
      const says = same ? "both trained here" : `${letter.toUpperCase()} trained here`;
      const anchor = start + wide / 2 > width * 0.7 ? "end" : start < width * 0.3 ? "start" : "middle";
      const px = anchor === "end" ? start + wide : anchor === "start" ? start : start + wide / 2;
      inside += `<text x="${px}" y="${y(0) - 0.5 * rem - (i > 0 && Math.abs(x(chosen.a.seq_len) - x(chosen.b.seq_len)) < 11 * rem ? 1.2 * rem : 0)}" text-anchor="${anchor}">${says}</text>`;
    });
    const tested = [...new Set(all)].sort((a, b) => a - b);
    const guesses = tested.map((one) => `${x(one).toFixed(1)},${y(task.chanceAt(one)).toFixed(1)}`);
    const end = y(task.chanceAt(tested.at(-1)));
    inside += `<polyline class="chance" points="${left},${guesses[0].split(",")[1]} ${guesses.join(" ")} ${width - right},${end.toFixed(1)}"/>`;
    const guessed = guessing(task, tested);
    if (width > 34 * rem) {
      inside += `<text class="name" x="${width - right}" y="${end + 1.4 * rem}" text-anchor="end">guessing, ${guessed}</text>`;
    }
    const path = (model) =>
      known(model)
        .map(({ seq_len, score }) => `${x(seq_len).toFixed(1)},${y(score).toFixed(1)}`)
        .join(" ");
    const groupOf = (model) => letters.find((letter) => chosen[letter].group === model.group);
    for (const model of [...models].sort((a, b) => (groupOf(a) ? 1 : 0) - (groupOf(b) ? 1 : 0))) {
      inside += `<polyline class="seed ${groupOf(model) ?? "other"}" points="${path(model)}"><title>${escaped(model.label)}, seed ${model.seed}</title></polyline>`;
    }
    for (const letter of letters) {
      const model = chosen[letter];
      inside += `<polyline class="line ${letter}" points="${path(model)}"/>`;
      for (const { seq_len, score } of known(model))
        inside += `<circle class="dot ${letter}" cx="${x(seq_len)}" cy="${y(score)}" r="3.2"><title>${percent(score)} at ${seq_len} words</title></circle>`;
    }
    inside += names(letters, chosen, x, y, rem);
    const turn = x(length) > width * 0.75 ? "end" : "start";
    inside += `<line class="here" x1="${x(length)}" x2="${x(length)}" y1="${y(1) - 0.9 * rem}" y2="${y(0)}"/>`;
    inside += `<text class="here-says" x="${x(length) + (turn === "end" ? -6 : 6)}" y="${y(1) - 0.5 * rem}" text-anchor="${turn}">${count(length, "word")}</text>`;
    const says = letters.map(
      (letter) =>
        `Model ${letter.toUpperCase()}, ${chosen[letter].label}, seed ${chosen[letter].seed}: ${known(chosen[letter])
          .map(({ seq_len, score }) => `${percent(score)} at ${seq_len}`)
          .join(", ")}.`,
    );
    const chart = svg(inside, width, height, `class="lengths" role="img"`);
    chart.removeAttribute("aria-hidden");
    chart.setAttribute(
      "aria-label",
      `Share of right answers by length. ${says.join(" ")} Guessing: ${guessed}.`,
    );
    const caption = element("figcaption", {}, captionText(chosen, guessed));
    const open = figure.querySelector("details")?.open ?? false;
    const table = element(
      "details",
      { open },
      element("summary", {}, "All seeds as a table"),
      element(
        "div.scroller",
        { tabindex: 0, role: "region", "aria-label": "Share of right answers of every seed" },
        scoreTable(models),
      ),
    );
    figure.replaceChildren(chart, caption, table);
  }

  return { draw };
}

function known(model) {
  return model.lengths.filter(({ score }) => typeof score === "number").sort((a, b) => a.seq_len - b.seq_len);
}

// A name at each line, where it is furthest from the other line.
function names(letters, chosen, x, y, rem) {
  const value = (points, at) => {
    const after = points.findIndex((point) => x(point.seq_len) >= at);
    if (after < 0) return null;
    if (after === 0) return points[0].score;
    const [one, other] = [points[after - 1], points[after]];
    return one.score + ((other.score - one.score) * (at - x(one.seq_len))) / (x(other.seq_len) - x(one.seq_len));
  };
  return letters
    .map((letter, i) => {
      const [own, other] = [known(chosen[letter]), known(chosen[letters[1 - i]])];
      if (own.length === 0) return "";
      const apart = (point) => point.score - (value(other, x(point.seq_len)) ?? 0.5);
      const inner = own.length > 2 ? own.slice(1, -1) : own; // the ends are crowded
      const best = inner.reduce((one, point) => (Math.abs(apart(point)) > Math.abs(apart(one)) ? point : one));
      const below = apart(best) === 0 ? i === 1 : apart(best) < 0;
      const py = Math.min(Math.max(y(best.score) + (below ? 1.3 : -0.7) * rem, y(1) + 1.3 * rem), y(0) - 0.4 * rem);
      return `<text class="name ${letter}" x="${x(best.seq_len)}" y="${py}" text-anchor="middle">${letter.toUpperCase()} ${escaped(chosen[letter].cell)}</text>`;
    })
    .join("");
}

function captionText(chosen, guessed) {
  const say = (letter) =>
    `${letter.toUpperCase()} (${letter === "a" ? "solid" : "dashed"}) is the ${chosen[letter].label}, seed ${chosen[letter].seed}`;
  return `${say("a")}; ${say("b")}. Coloured thin lines are their other seeds, grey ones the other models; the dotted line is guessing, ${guessed}.`;
}

function scoreTable(models) {
  const columns = [...new Set(models.flatMap((model) => model.lengths.map(({ seq_len }) => seq_len)))].sort(
    (a, b) => a - b,
  );
  return element(
    "table",
    {},
    element(
      "thead",
      {},
      element(
        "tr",
        {},
        element("th.left.first", { scope: "col" }, "model"),
        ...columns.map((length) => element("th", { scope: "col" }, `${length} words`)),
      ),
    ),
    element(
      "tbody",
      {},
      ...models.map((model) =>
        element(
          "tr",
          {},
          element("th.left", { scope: "row" }, `${model.label}, seed ${model.seed}`),
          ...columns.map((length) => {
            const score = model.lengths.find(({ seq_len }) => seq_len === length)?.score;
            return element("td", {}, typeof score === "number" ? `${(100 * score).toFixed(1)} %` : "–");
          }),
        ),
      ),
    ),
  );
}
