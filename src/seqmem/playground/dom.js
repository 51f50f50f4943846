// Elements, colours, and numbers as text.

// element("p.quiet#note", {title: "x"}, "text", child). Names with on... are listeners, with --... CSS variables; true is
// an attribute without a value, false and null leave it out.
export function element(kind, attributes = {}, ...children) {
  const [, tag, rest] = /^([a-z0-9]+)(.*)$/.exec(kind);
  const node = document.createElement(tag);
  for (const [part] of rest.matchAll(/[.#][\w-]+/g)) {
    if (part[0] === "#") node.id = part.slice(1);
    else node.classList.add(part.slice(1));
  }
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (name.startsWith("--")) node.style.setProperty(name, value);
    else if (value !== false && value !== null) node.setAttribute(name, value === true ? "" : value);
  }
  node.append(...children);
  return node;
}

export function svg(content, width, height, attributes = "") {
  const holder = element("div");
  holder.innerHTML = `<svg viewBox="0 0 ${width} ${height}" aria-hidden="true" ${attributes}>${content}</svg>`;
  return holder.firstElementChild;
}

const ENTITIES = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;" };

export function escaped(text) {
  return String(text).replace(/[&<>"]/g, (letter) => ENTITIES[letter]);
}

// A share as a whole percentage, but never rounded up to 100 % or down to 0 %.
export function percent(share) {
  const whole = Math.round(100 * share);
  if (whole === 100 && share < 0.9995) return `${(Math.floor(1000 * share) / 10).toFixed(1)}\u00a0%`;
  if (whole === 0 && share > 0) return "<\u00a01\u00a0%";
  return `${whole}\u00a0%`;
}

// A power of ten: 10⁻¹⁵.
export function raised(number) {
  return String(number).replace(/./g, (letter) => (letter === "-" ? "⁻" : "⁰¹²³⁴⁵⁶⁷⁸⁹"[letter]));
}

// 10 to the power of `log`, shortly: 0.93, 10⁻¹⁵.
export function power(log) {
  if (Number.isNaN(log)) return "–";
  if (!Number.isFinite(log)) return "0";
  if (log > -2) return (10 ** log).toFixed(2);
  return `10${raised(Math.round(log))}`;
}

// 10 to the power of `log` as a multiple: 0.93 of, 231 times.
export function times(log) {
  return log >= 1 ? `${Math.round(10 ** log).toLocaleString("en")} times` : `${power(log)} of`;
}

export function count(number, word) {
  return `${number.toLocaleString("en")} ${word}${number === 1 ? "" : "s"}`;
}

export function isDark() {
  const theme = document.documentElement.dataset.theme;
  return theme ? theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

// A function that calls `work` to draw `box`: at once while the box is visible, else once it becomes visible, before
// printing, or after `rest` milliseconds without a further call (debounce). So hidden charts delay nothing.
export function whenSeen(box, work, rest = 200) {
  let seen = true;
  let due = null;
  function now() {
    clearTimeout(due);
    due = null;
    box.removeAttribute("aria-busy");
    work();
  }
  new IntersectionObserver(
    (entries) => {
      seen = entries.at(-1).isIntersecting;
      if (seen && due !== null) now();
    },
    { rootMargin: "100px" },
  ).observe(box);
  addEventListener("beforeprint", () => due !== null && now());
  return () => {
    if (seen) return now();
    clearTimeout(due);
    due = setTimeout(now, rest);
    box.setAttribute("aria-busy", "true");
  };
}

// One hue for each model; lightness alone encodes the value, so that hues need not be told apart.
const STOPS = {
  a: { light: "f1f6fb c3dbf0 7eb2dc 2f7cba 0a4678", dark: "1b2129 1f3b56 286291 4496d2 b5dffd" },
  b: { light: "fdf5ef f9d6c0 f0a377 d16028 86320a", dark: "221d1a 4d2d1c 8a4520 d97a3c ffd3ad" },
  // Negative and positive: purple and green, distinguishable for the colour-blind, with more contrast than zero.
  sign: {
    light: "5b2a86 9a73bd d9c8e8 f7f7f7 c4e5c2 5fae6a 1b6b33",
    dark: "d9b8f5 8f62b8 463058 1d2126 24482d 4d9a5c b5ecbc",
  },
};

const ramps = new Map();

// 256 colours [r g b] from low to high.
export function ramp(name) {
  const key = `${name} ${isDark() ? "dark" : "light"}`;
  if (!ramps.has(key)) {
    const stops = STOPS[name][isDark() ? "dark" : "light"].split(" ");
    const rgb = stops.map((stop) => [0, 2, 4].map((at) => parseInt(stop.slice(at, at + 2), 16)));
    const colours = Array.from({ length: 256 }, (_, i) => {
      const along = (i / 255) * (rgb.length - 1);
      const below = Math.min(Math.floor(along), rgb.length - 2);
      return rgb[below].map((low, c) => Math.round(low + (along - below) * (rgb[below + 1][c] - low)));
    });
    ramps.set(key, colours);
  }
  return ramps.get(key);
}

export function level(share) {
  return Math.max(0, Math.min(255, Math.round(255 * share)));
}

export function css([r, g, b]) {
  return `rgb(${r},${g},${b})`;
}

// Black or white, whichever has the higher contrast (WCAG 2's relative luminance): at least 4.5 to 1 on every colour.
export function inkOn(colour) {
  const [r, g, b] = colour.map((value) => {
    const c = value / 255;
    return c <= 0.04045 ? c / 12.92 : ((c + 0.055) / 1.055) ** 2.4;
  });
  return 0.2126 * r + 0.7152 * g + 0.0722 * b > 0.179 ? "#000" : "#fff";
}

const colours = new Map();

// The current value of a CSS colour variable, for canvases.
export function resolved(variable) {
  const key = `${variable} ${isDark() ? "dark" : "light"}`;
  if (!colours.has(key)) {
    const probe = element("i", { style: `color: var(${variable}); forced-color-adjust: none; display: none` });
    document.body.append(probe);
    colours.set(key, getComputedStyle(probe).color);
    probe.remove();
  }
  return colours.get(key);
}
