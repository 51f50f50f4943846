"""Cells over many tasks at once: on one scale, with the probability that one is better than another."""

from collections.abc import Mapping, Sequence
from typing import Any

from ..across import Across, Estimate
from ..wording import clean, estimate_words, listing, number_range
from .base import Section
from .tables import MOST_ROWS, Column, Row, Table

MOST_LEFT_OUT = 8
"""Sentences on what is left out."""

MOST_IN_A_MATRIX = 20
"""Cells of which each pair is shown."""


def part(across: Across, colours: Mapping[str, int], figures: Sequence[Any]) -> dict[str, Any]:
    """The template's context: as that of a task, with these figures."""
    sections = [(Section("figures", beside=True), list(figures)), (_cells(across, colours), [])]
    if len(across.cells) > 2:
        sections.append((_pairs(across), []))
    return {
        "id": "across", "name": "Across tasks", "about": about(across), "sections": sections, "notes": notes(across),
    }  # fmt: skip


def about(across: Across) -> str:
    """How scores of different tasks are made comparable."""
    tasks = [f"{clean(task, 60)} ({', '.join(map(str, lengths))})" for task, lengths in across.tasks.items()]
    return (
        "Scores of all tasks on one scale: (score − chance) / (perfect − chance). Chance is the best score without a "
        "memory at that length, 0 here; perfect is an accuracy of 100 % or an error of 0, and 1 here. A run that "
        "diverged, or is worse than chance, counts as 0. A seed has one score on each task: the mean over the lengths "
        f"that all these cells were trained at. Each task has the same weight. Tasks (lengths): {listing(tasks, 40)}."
    )


def _cells(across: Across, colours: Mapping[str, int]) -> Section:
    better = across.next_better
    columns = [
        Column("cell", "label"), Column("seeds of a task"), Column("interquartile mean"), Column("interval", "left"),
        Column("pairs above 0.5"), Column("above 0.9"),
        *([Column("better than the next"), Column("interval", "left")] if better else []),
    ]  # fmt: skip
    rows = []
    for cell in across.cells:
        sizes = [len(scores) for scores in cell.by_task.values()]
        shares = [f"{100 * cell.share_above(threshold):.0f} %" for threshold in (0.5, 0.9)]
        cells = [clean(cell.label, 60), number_range(min(sizes), max(sizes)), *_apart(cell.interquartile_mean), *shares]
        if better:
            cells += _apart(better[cell.label].probability) if cell.label in better else ["", ""]
        rows.append(Row(cells, colours[cell.label]))
    text = "The interquartile mean is that of the middle half of all task-and-seed pairs (Agarwal et al. 2021)."
    if better:
        text += f" Better than the next: {PROBABILITY}, of this cell and the one below."
    return Section("cells", text=text, quiet=True, table=Table(columns, rows[:MOST_ROWS]))


PROBABILITY = (
    "the probability that a seed has a better score than one of the other cell, on a task drawn at random, where equal "
    "scores count half (Mann & Whitney's statistic, the mean over tasks)"
)


def _apart(estimate: Estimate) -> list[str]:
    """The number, and its interval."""
    value, _, ends = estimate_words(estimate).partition(" ")
    return [value, ends]


def _pairs(across: Across) -> Section:
    """A row and a column for each cell; of two cells there is nothing that the table of cells does not say."""
    by_pair = {(pair.a, pair.b): pair.probability for pair in across.pairs}
    shown = [cell.label for cell in across.cells[:MOST_IN_A_MATRIX]]
    columns = [Column("better than", "label"), *(Column(clean(label, 30)) for label in shown)]
    rows = [Row([clean(a, 60), *("" if a == b else _in_matrix(by_pair, a, b) for b in shown)], None) for a in shown]
    more = f" The best {MOST_IN_A_MATRIX} cells." if len(shown) < len(across.cells) else ""
    return Section(
        "improvement",
        "Which cell is better",
        f"Row better than column: {PROBABILITY}. A star: the 95 % interval leaves out 0.5. It is one pair's interval: "
        f"among many pairs a few do so by chance; improved.csv has them all.{more}",
        quiet=True,
        table=Table(columns, rows),
    )


def _in_matrix(by_pair: Mapping[tuple[str, str], Estimate], a: str, b: str) -> str:
    turned = (a, b) not in by_pair
    of = by_pair[(b, a) if turned else (a, b)]
    star = "*" if of.low > 0.5 or of.high < 0.5 else ""
    return f"{1 - of.value if turned else of.value:.2f}{star}"


def notes(across: Across) -> list[str]:
    sentences = [across.caution] if across.caution else []
    if across.left_out:
        sentences.append(f"Left out: {'; '.join(clean(one, 200) for one in across.left_out[:MOST_LEFT_OUT])}.")
        if len(across.left_out) > MOST_LEFT_OUT:
            sentences[-1] = f"{sentences[-1][:-1]}; and {len(across.left_out) - MOST_LEFT_OUT} more."
    return sentences
