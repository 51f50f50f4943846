"""The numbers of a report as tables for a paper, in LaTeX with booktabs: two files for each task in ``tables/``.

    TASK-scores.tex     a row for each label and trained length: parameters, seeds, score, solved, steps until solved
    TASK-gradient.tex   and what the probes measured, before the training and after it
    across-tasks.tex    a row for each cell over all tasks, where cells share two

Each is a whole ``table``, to be read in with \\input. Medians are over seeds, their exact intervals in brackets.
"""

import re
from collections.abc import Iterable, Sequence
from itertools import zip_longest
from pathlib import Path

from ..metrics import Metric
from ..runs.files import write_atomically
from ..solved import LEVEL, percent
from .across import Across, across
from .collect import Collection, Group, ProbeNumber, probe_numbers
from .levels import Level, chance_of, level_words
from .statistics import (
    Interval,
    group_count,
    number_interval,
    parameters,
    rule_text,
    score_interval,
    steps_to_solve,
)
from .wording import clean, estimate_words, file_name, listing, number_words, score_words, with_signs

FOLDER = "tables"


def write(collection: Collection, folder: Path, *, threshold: float | None = None) -> list[str]:
    """Write the tables of every task, and return their names relative to ``folder``. Existing files are replaced.

    Raises:
        OSError: a file cannot be written.
    """
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    written: list[str] = []
    for task in collection.tasks:
        groups = [group for group in collection.groups if group.task == task]
        tables = {"scores": scores(groups, threshold), "gradient": measured(groups)}
        for what, text in tables.items():
            if text:
                name = file_name(f"{task} {what}", written)
                write_atomically(folder / FOLDER / f"{name}.tex", text.encode())
                written.append(name)
    if (over_tasks := across(collection)) is not None:
        written.append(file_name("across tasks", written))
        write_atomically(folder / FOLDER / f"{written[-1]}.tex", over_all_tasks(over_tasks).encode())
    return [f"{FOLDER}/{name}.tex" for name in written]


def over_all_tasks(over_tasks: Across) -> str:
    """The cells over all tasks, the best first."""
    better = over_tasks.next_better
    heads = [
        "Cell",
        "Pairs",
        "Interquartile mean",
        "Above 0.5",
        "Above 0.9",
        *(["Better than the next"] if better else []),
    ]
    rows = []
    for cell in over_tasks.cells:
        shares = [f"{100 * cell.share_above(threshold):.0f} %" for threshold in (0.5, 0.9)]
        row = [clean(cell.label, 60), str(len(cell.scores)), estimate_words(cell.interquartile_mean), *shares]
        if better:
            row.append(estimate_words(better[cell.label].probability) if cell.label in better else "")
        rows.append(row)
    caption = (
        f"{len(over_tasks.tasks)} tasks ({listing(list(over_tasks.tasks), 40)}): scores from chance (0) to perfect "
        "(1), of a seed the mean over the trained lengths. The interquartile mean over all pairs of a task and a seed, "
        f"with its {percent(LEVEL)} interval by the stratified bootstrap; the share of pairs above a threshold."
    )
    if better:
        caption += " Better than the next: the probability that a seed is better than one of the next cell."
    if over_tasks.caution:
        caption += f" {over_tasks.caution}"
    return _table("across tasks", caption, heads, rows)


def scores(groups: Sequence[Group], threshold: float | None = None) -> str:
    """The scores of the groups of one task."""
    metric, rule = groups[0].first.metric, rule_text(groups[0].first, threshold)
    unit = " (%)" if metric.percent else ""
    heads = ["Cell", "Length", "Parameters", "Seeds", f"{_capital(metric.name)}{unit}"]
    chance = chance_of([run for group in groups for length in group.lengths for run in group.at(length)])
    differs = chance is not None and not chance.flat
    heads += ["Chance"] if differs else []
    heads += ["Solved", "Steps"] if rule else []
    rows, levels = [], set[str]()
    for group in groups:
        for length in group.lengths:
            runs = group.at(length)
            size, score, count = parameters(runs), score_interval(runs), group_count(group, length, threshold)
            levels.add(score.level_text)
            words = _with_interval(score, [score_words(metric, end) for end in (score.median, score.low, score.high)])
            cells = [clean(group.label, 60), str(length), "–" if size is None else f"{size:,}", str(len(runs))]
            cells.append(words.replace(" %", ""))
            if chance is not None and differs:
                here = chance.at(length)
                cells.append("–" if here is None else score_words(metric, here).replace(" %", ""))
            rows.append([*cells, *([str(count), with_signs(str(steps_to_solve(runs, threshold)))] if rule else [])])
    caption = [f"{groups[0].task}: {metric.name} on held-out sequences after training, the median over seeds"]
    caption.append(_interval_words(levels))
    caption.append("." if chance is None else f". {_chance_words(chance, metric)}")
    if rule:
        caption.append(f" Solved: seeds with {rule}. Steps: until then, the median.")
    return _table(f"{groups[0].task} scores", "".join(caption), heads, rows)


def _chance_words(chance: Level, metric: Metric) -> str:
    if not chance.flat:
        return "Chance: without a memory, at that length."
    return f"Without a memory: {level_words(metric, chance)}."


def measured(groups: Sequence[Group]) -> str:
    """What the probes measured of the groups of one task; empty: nothing."""
    runs = [run for group in groups for length in group.lengths for run in group.at(length)]
    numbers = [
        one
        for one in probe_numbers(runs)
        if any(number_interval(runs, one.probe, one.name, when).n for when in ("start", "end"))
    ]
    heads = ["Cell", "Length", "Training", "Seeds", *(_capital(one.number.short) for one in numbers)]
    rows, levels = [], set[str]()
    for group in groups:
        for length in group.lengths:
            own = group.at(length)
            for when, training in (("start", "before"), ("end", "after")):
                intervals = [number_interval(own, one.probe, one.name, when) for one in numbers]
                levels |= {interval.level_text for interval in intervals}
                cells = [clean(group.label, 60), str(length), training, str(len(own))]
                rows.append([*cells, *(_measured(*pair, len(own)) for pair in zip(numbers, intervals, strict=True))])
    caption = (
        f"{groups[0].task}: measured before and after training, the median over seeds{_interval_words(levels)}."
        " What arrives of the gradient at the first timestep is relative to that one step back from the answer."
    )
    units: dict[str, list[str]] = {}
    for one in numbers:
        if one.number.unit:
            units.setdefault(one.number.unit, []).append(one.number.short)
    caption += "".join(f" {_capital(listing(titles))}: in {unit}." for unit, titles in units.items())
    return _table(f"{groups[0].task} gradient", caption, heads, rows) if numbers else ""


def _measured(one: ProbeNumber, interval: Interval, seeds: int) -> str:
    """A number that not every seed has says of how many it is."""
    words = [number_words(one.number, value) for value in (interval.median, interval.low, interval.high)]
    return _with_interval(interval, words) + (f", {interval.n} of {seeds}" if 0 < interval.n < seeds else "")


def _with_interval(interval: Interval, words: Sequence[str]) -> str:
    """``99.5 [60.0, 100.0]``, a unit that all share behind it; the median alone of a single seed."""
    unit = " %" if all(word.endswith(" %") for word in words) else ""
    median, low, high = (word.removesuffix(unit) for word in words)
    return (f"{median} [{low}, {high}]" if interval.n > 1 else median) + unit


def _capital(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}"


def _interval_words(levels: Iterable[str]) -> str:
    """The confidence of the intervals: of all, if they share it, else of the fewest and the most seeds."""
    known = sorted({level.removesuffix(" %") for level in levels if level}, key=float)
    return f" and its exact interval ({' to '.join(dict.fromkeys((known[0], known[-1])))} %)" if known else ""


def _table(name: str, caption: str, heads: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of cells in plain text: labels to the left, numbers to the right; a little space between labels."""
    kinds = "".join("l" if at == 0 or head == "Training" else "r" for at, head in enumerate(heads))
    several = len({row[0] for row in rows}) < len(rows)
    lines = [
        r"% \usepackage{booktabs}",
        r"\begin{table}",
        r"\centering\small\setlength{\tabcolsep}{4pt}",
        rf"\caption{{{escaped(caption)}}}",
        rf"\label{{tab:{file_name(name)}}}",
        rf"\begin{{tabular}}{{{kinds}}}",
        r"\toprule",
        " & ".join(map(escaped, heads)) + r" \\",
        r"\midrule",
    ]
    for at, row in enumerate(rows):
        if several and at and row[0] != rows[at - 1][0]:
            lines.append(r"\addlinespace")
        # A row that began with a bracket or a star would be an option of the line before it.
        lines.append(("{}" if row[0][:1] in ("[", "*") else "") + " & ".join(map(escaped, row)) + r" \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}", r"\end{table}", ""])


_ESCAPED = {
    **{sign: rf"\{sign}" for sign in "&%$#_{}"},
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}",
    "<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}", '"': "{''}", "`": "{`}",
    "−": "$-$", "≥": r"$\geq$", "∞": r"$\infty$", "–": "--", "…": r"\dots{}", "\ufffd": "?", "\x00": "{}",
}  # fmt: skip


def escaped(text: str) -> str:
    """``text`` as LaTeX prints it: what a cell or a task is called is no command and no ligature. Powers are raised."""
    parts = re.split(r"\b10\^([−-]?[\d.]+)", re.sub("-(?=-)", "-\x00", clean(text, 1000)))
    plain = ["".join(_ESCAPED.get(sign, sign) for sign in part) for part in parts[::2]]
    powers = [f"$10^{{{power.replace('−', '-')}}}$" for power in parts[1::2]]
    return "".join(part for pair in zip_longest(plain, powers, fillvalue="") for part in pair)
