"""Writes docs/performance.md, its picture and the outputs in docs/measurements.md. Run it with scripts/bench report.

It computes ratios and means of the times in outputs/.bench, where `scripts/bench all` keeps what each benchmark
measured and printed.
"""

import json
import math
import re
import sys
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path
from typing import Any

from bench_kernels import (
    GATES,
    INPUT_SIZE,
    LONG,
    MEMORY_LIMIT,
    RESULTS,
    ROOT,
    VOCABULARY,
    Configuration,
    Measured,
    Summary,
    geometric,
    summaries,
)

DOCS = ROOT / "docs"
PAGE, PICTURE = DOCS / "performance.md", DOCS / "performance.svg"
MEASUREMENTS = DOCS / "measurements.md"
OLDER = "### An older processor"
DENSE = "### Real numbers for inputs"
"""Headings of figures that stay on the page as they are, unless they are measured anew."""

# Okabe & Ito's colours, which colour-blind readers can tell apart; each side has a shape of its own as well.
SIDES = {
    "loop": ("#CC79A7", "triangle", "Python loop over step"),
    "jax": ("#009E73", "diamond", "JAX, jitted lax.scan"),
    "nn": ("#D55E00", "square", "torch.nn"),
    "native": ("#0072B2", "circle", "seqmem, native"),
}
NAMES = {"rnn": "rnn", "lstm": "lstm", "gru": "gru"}


def table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def number(value: float | None, digits: int = 2) -> str:
    return "" if value is None else f"{value:.{digits}f}"


def milliseconds(seconds: float | None) -> str:
    """Three significant digits."""
    if seconds is None:
        return ""
    value = 1000 * seconds
    return f"{value:.{max(0, 2 - math.floor(math.log10(value)))}f}" if value > 0 else "0"


# The picture


def marker(shape: str, x: float, y: float, colour: str, size: float = 4.6) -> str:
    style = f'fill="{colour}" stroke="#fff" stroke-width="0.8"'
    if shape == "circle":
        return f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{size:.1f}" {style}/>'
    corners = {
        "square": [(-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)],
        "diamond": [(0, -1.25), (1.25, 0), (0, 1.25), (-1.25, 0)],
        "triangle": [(0, -1.15), (1.1, 0.85), (-1.1, 0.85)],
    }[shape]
    points = " ".join(f"{x + size * dx:.1f},{y + size * dy:.1f}" for dx, dy in corners)
    return f'<polygon points="{points}" {style}/>'


def words(x: float, y: float, text: str, *, size: int = 12, anchor: str = "middle", more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" {more}>{escape(text)}</text>'


def picture(measurements: list[Measured]) -> str:
    """An SVG: each side's seconds over those of the matrix products alone; panels are cells, columns configurations."""
    one = [measured for measured in measurements if measured.threads == 1]
    sides = [side for side in SIDES if any(measured.ratio(side, "floor") is not None for measured in one)]
    ratios = [r for m in one for side in sides if (r := m.ratio(side, "floor")) is not None]
    low, high = min(0.9, min(ratios) / 1.05), max(ratios) * 1.12
    width, height, left, top, bottom, between = 1240, 540, 74, 104, 446, 20
    panel = (width - left - 20 - 2 * between) / 3
    fonts = "system-ui, -apple-system, Segoe UI, Helvetica, Arial, sans-serif"
    size = f'width="{width}" height="{height}" viewBox="0 0 {width} {height}"'
    out = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} font-family="{fonts}" fill="#222">',
        "<title>Time of a forward and backward pass, in multiples of its matrix products alone</title>",
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        words(left, 30, "One forward and backward pass on one thread, in multiples of its matrix products alone",
              size=18, anchor="start", more='font-weight="600"'),
    ]  # fmt: skip

    def up(ratio: float) -> float:
        return bottom - (bottom - top) * math.log(ratio / low) / math.log(high / low)

    x = float(left)
    for side in reversed(sides):
        colour, shape, label = SIDES[side]
        out += [marker(shape, x + 6, 54, colour, 5.5), words(x + 18, 58.5, label, size=13, anchor="start")]
        x += 44 + 7.2 * len(label)
    out.append(f'<line x1="{x}" x2="{x + 22}" y1="54" y2="54" stroke="#222" stroke-width="1.6"/>')
    out.append(words(x + 30, 58.5, "matrix products alone", size=13, anchor="start"))

    ticks = [tick for tick in (0.5, 1, 2, 3, 5, 10, 20, 30, 50, 100) if low <= tick <= high]
    for place, cell in enumerate(GATES):
        columns = sorted((m for m in one if m.configuration.cell == cell), key=lambda m: m.configuration)
        begin = left + place * (panel + between)
        out.append(f'<rect x="{begin:.1f}" y="{top}" width="{panel:.1f}" height="{bottom - top}" fill="#fafafa"/>')
        out.append(words(begin + panel / 2, top - 12, NAMES[cell], size=16, more='font-weight="600"'))
        for tick in ticks:
            bold = '#222" stroke-width="1.6' if tick == 1 else '#dddddd" stroke-width="1'
            y = up(tick)
            out.append(f'<line x1="{begin:.1f}" x2="{begin + panel:.1f}" y1="{y:.1f}" y2="{y:.1f}" stroke="{bold}"/>')
            if not place:
                out.append(words(begin - 8, y + 4, f"{tick:g}×", anchor="end"))
        step = panel / max(1, len(columns))
        for i, measured in enumerate(columns):
            c, at = measured.configuration, begin + (i + 0.5) * step
            before = columns[i - 1].configuration if i else None
            new_length = before is None or before.seq_len != c.seq_len
            if before is not None and (new_length or before.batch_size != c.batch_size):
                style = '#999999" stroke-width="1' if new_length else '#cccccc" stroke-width="1" stroke-dasharray="3 3'
                edge = f"{begin + i * step:.1f}"
                out.append(f'<line x1="{edge}" x2="{edge}" y1="{top}" y2="{bottom}" stroke="{style}"/>')
            upright = f'transform="rotate(-90 {at + 4:.1f} {bottom + 8})" fill="#555"'
            out.append(words(at + 4, bottom + 8, str(c.hidden_size), size=10, anchor="end", more=upright))
            same = [j for j, m in enumerate(columns) if m.configuration.seq_len == c.seq_len]
            batch = [j for j in same if columns[j].configuration.batch_size == c.batch_size]
            if batch[0] == i:
                middle = begin + step * (sum(batch) / len(batch) + 0.5)
                out.append(words(middle, bottom + 46, f"B={c.batch_size}", size=11, more='fill="#555"'))
            if same[0] == i:
                middle = begin + step * (sum(same) / len(same) + 0.5)
                out.append(words(middle, bottom + 64, f"T={c.seq_len}", size=12))
            for side in sides:
                ratio = measured.ratio(side, "floor")
                if ratio is not None:
                    out.append(marker(SIDES[side][1], at, up(ratio), SIDES[side][0]))
    middle = (top + bottom) / 2
    out.append(words(22, middle, "time / time of the products", size=13, more=f'transform="rotate(-90 22 {middle})"'))
    below = "hidden units (64, 128, 256), batch B, timesteps T"
    out.append(words(left + (width - left) / 2, height - 8, below, size=13))
    return "\n".join([*out, "</svg>", ""])


# The page


def described(about: dict[str, Any]) -> str:
    jax = f", JAX {about['jax']}" if "jax" in about else ""
    return (
        f"{about['processor']}, {about['cores']} cores, caches {about['caches']}, {about['instruction set']}; "
        f"{about['system']}, Python {about['python']}, torch {about['torch']}{jax}. "
        f"Kernels: {about['kernels']}. Load of the machine before: {about['load before']:g}."
    )


def promise(summary: Summary) -> tuple[str, ...]:
    """A row: what, cell, mean (worst), limit, and "yes" if the limit is kept."""
    second_thread = summary.what.startswith("2 threads")
    what = summary.what
    mean, worst, limit, limit_worst = summary.mean, summary.worst, summary.limit, summary.limit_worst
    if second_thread or what.startswith("native/loop"):  # print these as speed-ups
        what = "second thread, times as fast, batch 128" if second_thread else "loop/native, 1 thread"
        mean, worst = 1 / mean, 1 / worst
        limit = 1 / limit if limit is not None else None
    sign = ("≥ " if second_thread else "< " if "jax" in what else "≤ ") if limit is not None else ""
    limits = f"{sign}{number(limit)}" + (f" ({number(limit_worst)})" if limit_worst is not None else "")
    kept = "" if limit is None else "yes" if summary.within() else "**no**"
    where = " ".join(str(summary.where).split()[1:])
    return what, summary.cell, f"{number(mean)} ({number(worst)} at {where})", limits, kept


def detail(measurements: list[Measured], cell: str) -> str:
    """The table of every configuration of a cell."""
    two = {m.configuration: m for m in measurements if m.threads == 2}
    rows = []
    for measured in measurements:
        c = measured.configuration
        if measured.threads != 1 or c.cell != cell:
            continue
        seconds = {side: measured.sides[side]["cpu"] if side in measured.sides else None for side in
                   ("floor", "native", "nn", "loop", "jax")}  # fmt: skip
        other = two.get(c)
        # Three products of 2 T B G H H operations each; those with the vectors of the vocabulary are negligible.
        operations = 6e-9 * c.seq_len * c.batch_size * GATES[cell] * c.hidden_size * c.hidden_size
        speed = operations / seconds["native"] if seconds["native"] is not None else None
        rows.append(
            [
                str(c.seq_len), str(c.batch_size), str(c.hidden_size), *map(milliseconds, seconds.values()),
                number(measured.ratio("native", "nn")), number(measured.ratio("native", "floor")), number(speed, 0),
                number(other.ratio("native", "nn") if other else None),
                number(other.ratio("native, 1 thread", "native") if other else None),
            ]
        )  # fmt: skip
    head = [
        "T", "B", "H", "products", "native", "nn", "loop", "jax", "native/nn", "native/products",
        "native, GFLOP/s",
        "native/nn, 2 threads", "second thread",
    ]  # fmt: skip
    return f"### {NAMES[cell]}\n\n" + table(head, rows)


def memory_table(memory: list[dict[str, Any]]) -> str:
    rows = []
    for key in dict.fromkeys(json.dumps(case["configuration"]) for case in memory):
        of = {case["side"]: case for case in memory if json.dumps(case["configuration"]) == key}
        named = str(Configuration(**json.loads(key)))
        peaks = [number(of[side]["peak"]) if side in of else "" for side in ("native", "nn", "loop")]
        rows.append([" ".join(named.split()), *peaks])
    return table(["", "native", "nn", "loop"], rows)


def kernels_part(stored: dict[str, Any]) -> tuple[str, list[str]]:
    """The page's part about the kernels, and the limits that are missed. Writes PICTURE."""
    measurements = [
        Measured(Configuration(**case["configuration"]), case["threads"], case["sides"]) for case in stored["measured"]
    ]
    every = summaries(measurements)
    missed = [f"{s.what}, {s.cell}: {number(s.mean)} (worst {number(s.worst)})" for s in every if not s.within()]
    PICTURE.write_text(picture(measurements))
    long = [case for case in stored["memory"] if case["configuration"]["seq_len"] == LONG and case["side"] == "native"]
    if long and long[0]["peak"] > MEMORY_LIMIT:
        missed.append(f"memory of an lstm over {LONG:,} timesteps: {long[0]['peak']:.2f} GB")
    spread = geometric(max(1e-3, m.sides["native"]["spread"]) for m in measurements if "native" in m.sides)
    jax = "" if "jax" in stored["machine"] else " JAX was not installed when this was measured."
    text = f"""## A layer, forward and backward

`scripts/bench kernels` on: {described(stored["machine"])}

One layer of `rnn`, `lstm` and `gru`, float32; T timesteps, B sequences, H hidden units. The inputs are tokens, as in
most tasks, of a vocabulary of {VOCABULARY}, each a learned vector of {INPUT_SIZE} numbers. A step is the forward and
the backward pass, from a given gradient of the outputs to the gradients of all weights and of the vectors: what a loss
is made of is no part of a layer. Lower is better. Geometric means over all sizes, and the worst of them in brackets:

{table(["ratio of seconds", "cell", "mean (worst)", "limit", "kept"], map(promise, every))}

![time of a pass, in multiples of its matrix products alone](performance.svg)

- **native** is `kernel=native`, **nn** torch.nn's layer as it comes, **loop** a Python loop over the cell's `step` that
  keeps the gradient of every hidden state, **jax** a jitted `lax.scan` with its `vjp`, compiled beforehand, its
  input product taken out of the scan.{jax}
- **products** (*floor*) are the matrix products that no implementation can avoid, into memory that is there already:
  over the vocabulary X W, dX and dW, over the whole sequence dU, and timestep by timestep h U and the gradient that
  goes back through it.
  They are torch's, by its BLAS, one call after another, Python's part of the calls subtracted. A kernel that multiplies
  and goes on while the numbers are still in the cache can be faster: then a ratio is below 1. GFLOP/s counts the
  operations of these products alone.
- The sides take turns, pinned to the same cores, with denormals flushed; each figure is a median of 5 to 15 turns
  (loop and jax 3, where slow). On one thread it is CPU time, on two wall time. Between its quartiles the native
  kernels' time varied by {100 * spread:.1f} %. Before anything is timed, all sides must agree in the outputs and in
  every gradient's norm.

{chr(10).join(detail(measurements, cell) + chr(10) for cell in GATES)}
Milliseconds a step on one thread (CPU time). *Second thread*: how many times as fast the native kernel is with it.

{dense_part()}### Memory

GB that a process takes at most, Python and torch included, for one step:

{memory_table(stored["memory"])}
"""
    return text, missed


def kept(heading: str) -> str:
    """The section of the present page under this heading; empty without one."""
    page = PAGE.read_text() if PAGE.exists() else ""
    found = re.search(rf"^{heading}\n.*?\n(?=##)", page, re.DOTALL | re.MULTILINE)
    return found[0] if found else ""


def dense_part() -> str:
    """A summary of `scripts/bench kernels --dense`; what the page has of it, if it has not been run here."""
    path = RESULTS / "kernels-dense.json"
    if not path.exists():
        return kept(DENSE)
    stored = json.loads(path.read_text())
    measurements = [
        Measured(Configuration(**case["configuration"]), case["threads"], case["sides"])
        for case in stored["measured"]
        if case["threads"] == 1
    ]
    rows = [row[:3] for row in map(promise, summaries(measurements))]
    return f"""### Real numbers for inputs

`scripts/bench kernels --dense`: {INPUT_SIZE} real numbers at each timestep instead of tokens, with their gradient, on
one thread. Three more products over the whole sequence, for every side, leave less to gain:

{table(["ratio of seconds", "cell", "mean (worst)"], rows)}

"""


def training_part(stored: dict[str, Any]) -> tuple[str, list[str]]:
    """The page's part about training, and the limits that are missed."""
    rows, missed = [], []
    for row in stored["rows"]:
        ratio = row["speed"]["seqmem"] / row["speed"]["plain"]
        within = ratio >= row["limit"]
        if not within:
            missed.append(f"training, {row['cell']} at {row['seq_len']} words: {ratio:.2f} times as fast")
        speeds = [f"{row['speed'][side]:.1f}" for side in ("seqmem", "plain")]
        scores = [f"{100 * row['accuracy'][side]:.1f} %" for side in ("seqmem", "plain")]
        against_limit = [f"{ratio:.2f}", f"{row['cpu']:.2f}", f"≥ {row['limit']:g}", "yes" if within else "**no**"]
        jax = []
        if "jax" in row:
            fast = row["jax"] >= row["jax limit"]
            if not fast:
                missed.append(f"training, {row['cell']} at {row['seq_len']} words: {row['jax']:.2f} times JAX's speed")
            jax = [f"{row['speed']['jax']:.1f}", f"{row['jax']:.2f}" if fast else f"**{row['jax']:.2f}**"]
        rows.append([row["cell"], str(row["seq_len"]), *speeds, *against_limit, *scores, *jax])
    most = stored["traced limit"]
    missed += [
        f"a trace at every step, {cell}: {ratio:.2f} times as long as a run without traces (limit {most:g})"
        for cell, ratio in stored["traced"].items()
        if ratio > most
    ]
    traced = ", ".join(f"{cell} {ratio:.2f}" for cell, ratio in stored["traced"].items())
    head = [
        "cell",
        "words",
        "seqmem",
        "plain",
        "times as fast",
        "by CPU time",
        "limit",
        "kept",
        "accuracy, seqmem",
        "accuracy, plain",
    ]
    beside = ""
    if any("jax" in row for row in stored["rows"]):
        head += ["JAX's step", "times JAX"]
        beside = (
            "\n**JAX's step** is a jitted update of the same model on the same batches (forward, gradients, clipping, "
            "Adam), with\nnothing else: the batches are drawn beforehand, and nothing is logged, traced, evaluated or "
            "stored.\n"
        )
    profiles = list(stored["profiles"].values())
    labels = list(dict.fromkeys(label for profile in profiles for label in profile["shares"]))
    labels.sort(key=lambda label: -max(profile["shares"].get(label, 0) for profile in profiles))
    shares = [[label, *(f"{100 * profile['shares'].get(label, 0):.1f} %" for profile in profiles)] for label in labels]
    alone = [f"{100 * profile['products']:.1f} %" for profile in profiles]
    shares.append(["*the recurrence's matrix products, alone*", *alone])
    with_denormals = [(row["seq_len"], row["denormals kept"]) for row in stored["rows"] if "denormals kept" in row]
    denormals = " and ".join(f"{speed:.1f} at {seq_len} words" for seq_len, speed in with_denormals)
    threads = f"{stored['threads']} thread" + "s" * (stored["threads"] > 1)
    steps = " and ".join(f"{count:,} steps at {seq_len} words" for seq_len, count in stored["steps"].items())
    text = f"""## Training

`scripts/bench training` on: {described(stored["machine"])}

Whole training steps a second, from data to optimizer, {threads}: `seqmem train cell=CELL task=pronoun seq_len=WORDS` as
it comes, with its traces, evaluations, log and checkpoints, against `scripts/plain.py`, a torch script for the same
task that has only the evaluations. In turns, medians of {stored["rounds"]}, {steps}.

{table(head, rows)}
{beside}
The plain script treats denormals as zero, as seqmem does. One that does not takes, with the rnn, {denormals} steps a
second.

A run that measures the gradient at every step (`trace.every=1`) takes so many times as long as one that never does, at
50 words: {traced} (limit {most:g}). A trace is 2.5 products
per timestep (forward, backward, and half of one to the inputs) of 32 sequences in float64, which costs twice as much as
float32; an update is 3 of 64. So its arithmetic alone is 0.83 of an update's.
{second_thread(stored)}{long_sequences(stored)}

Where the time of the default run at 50 words goes, from its first look to its last file:

{table(["", *stored["profiles"]], shares)}
"""
    return text, missed


def second_thread(stored: dict[str, Any]) -> str:
    if not stored.get("second"):
        return ""
    speeds = ", ".join(f"{cell} {ratio:.2f}" for cell, ratio in stored["second"].items())
    return f"\nWith a second thread (`threads=2`) the default run at 50 words is so many times as fast: {speeds}.\n"


def long_sequences(stored: dict[str, Any]) -> str:
    if not stored.get("peaks"):
        return ""
    lengths = list(next(iter(stored["peaks"].values())))
    rows = [[cell, *(f"{100 * of[length]:.0f} %" for length in lengths)] for cell, of in stored["peaks"].items()]
    return f"""
A training pass's share of the processor's peak (operations of its three products of B x G H x H per timestep, over
those of torch's product of two 768 x 768 matrices), 64 sequences and units, by timesteps:

{table(["", *(f"{int(length):,}" for length in lengths)], rows)}
"""


def outputs() -> dict[str, str]:
    """Name of a benchmark -> what it printed last."""
    return {path.stem: path.read_text().strip("\n") for path in sorted(RESULTS.glob("*.txt"))}


def limits(printed: dict[str, str]) -> str:
    """The table of every limit, from the lines that begin with ok or OVER."""
    rows = []
    for name, text in printed.items():
        command = "scripts/check_report" if name == "reports" else f"scripts/bench {name}"
        topic = ""
        for line in text.replace("scripts/bench runner", "scripts/bench").splitlines():
            found = re.match(r"  (ok|OVER) +(.*?) *(\((?:limit|at least).*?\))(.*)$", line)
            if found:
                mark, what, limit, rest = found.groups()
                spread = rest.strip(":; ").replace("|", "/")
                kept = "yes" if mark == "ok" else "**no**"
                figure = " ".join(f"{topic}: {what}".split()) if topic else " ".join(what.split())
                rows.append([f"`{command}`", figure, re.sub("^limit:? ", "", limit[1:-1]), spread, kept])
            elif name == "training" and line and not line.startswith(" "):
                topic = line.split(",")[0]  # what the lines below are of
    return table(["command", "figure", "limit", "of each turn, and more", "kept"], rows)


def show_outputs(page: str, printed: dict[str, str]) -> str:
    """``page`` with the block after each <!-- scripts/bench NAME --> replaced by what that printed."""

    def block(found: re.Match[str]) -> str:
        name = found[1]
        return f"<!-- scripts/bench {name} -->\n```\n{printed[name]}\n```" if name in printed else found[0]

    return re.sub(r"<!-- scripts/bench (\w+) -->\n```\n.*?\n```", block, page, flags=re.DOTALL)


def main() -> int:
    parts, missed = [], []
    for name, part in (("kernels", kernels_part), ("training", training_part)):
        path: Path = RESULTS / f"{name}.json"
        if not path.exists():
            print(f"scripts/bench report: nothing is measured yet: run scripts/bench {name} first", file=sys.stderr)
            return 2
        text, misses = part(json.loads(path.read_text()))
        parts.append(text)
        missed += misses
    printed = outputs()
    parts[0] = f"{parts[0]}\n{kept(OLDER)}".rstrip() + "\n"
    verdict = "Every limit of layers and training is kept."
    if missed:
        verdict = "Not every limit of layers and training is kept:\n\n" + "\n".join(f"- {miss}" for miss in missed)
    head = """# How fast seqmem is

Written by `scripts/bench all`, which runs all benchmarks one after another on one quiet machine. What seqmem's own
measuring costs, its start and its sweeps are in [measurements.md](measurements.md); every limit stands in a table at
the end."""
    end = f"## Every limit\n\n{limits(printed)}\n"
    PAGE.write_text("\n\n".join([head, verdict, *parts, end]))
    MEASUREMENTS.write_text(show_outputs(MEASUREMENTS.read_text(), printed))
    print("wrote", *(str(path.relative_to(ROOT)) for path in (PAGE, PICTURE, MEASUREMENTS)))
    return 0


if __name__ == "__main__":
    sys.exit(main())
