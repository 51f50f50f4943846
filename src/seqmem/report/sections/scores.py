"""How well each cell does: scores and steps until solved, as figures and as a table."""

from collections.abc import Sequence

from ..collect import Run
from ..figures.base import TaskRuns
from ..statistics import (
    decay_interval,
    rule_text,
    score_interval,
    solved_count,
    steps_to_solve,
)
from ..wording import clean, extremes, number_range, score_words, timesteps, with_signs
from .base import MOST_ROWS, Column, Row, Section, Table


def about(task: TaskRuns) -> str:
    """Chance, the rule of success, and how long was trained."""
    first = task.first
    sentences = []
    if first.chance is not None:
        sentences.append(f"Without a memory the {clean(first.metric.name, 40)} is {first.metric.text(first.chance)}.")
    if goal := rule_text(first, task.threshold):
        sentences.append(f"A run has solved it with {goal}.")
    steps = extremes(run.steps for group in task.groups for length in group.lengths for run in group.at(length))
    sentences.append(f"Trained for {number_range(*steps, 'step')}.")
    return " ".join(sentences)


def figures(_: TaskRuns) -> Section:
    return Section("scores", "Score, and steps until solved", beside=True)


def table(task: TaskRuns) -> Section:
    metric = clean(task.first.metric.name, 40) + ("" if task.first.higher_is_better else ", where lower is better")
    text = (
        f"Scores are {metric}: the median over seeds and its bootstrap interval in brackets. Half-life and horizon, "
        "medians in timesteps, are read off the gradient after training (before it, in brackets)."
    )
    columns = [
        Column("cell", "label"),
        Column("length"),
        Column("seeds"),
        Column("score"),
        Column("interval", "left"),
        *map(Column, ("solved", "steps to solve", "half-life", "horizon")),
    ]
    rows = []
    for group in task.groups:
        for length in group.lengths:
            runs = group.at(length)
            scores = score_interval(runs)
            metric = group.first.metric
            low, high = score_words(metric, scores.low), score_words(metric, scores.high)
            known = bool(rule_text(group.first, task.threshold))
            cells = [
                clean(group.label, 60),
                length,
                len(runs),
                score_words(metric, scores.median),
                f"[{low}, {high}]" if scores.n > 1 else "",
                str(solved_count(runs, task.threshold)) if known else "–",
                with_signs(str(steps_to_solve(runs))),
                _decay(runs, "half_life"),
                _decay(runs, "horizon"),
            ]
            rows.append(Row(cells, task.colours[group.label]))
    notes = []
    if len(rows) > MOST_ROWS:
        notes.append(f"The first {MOST_ROWS} of {len(rows)} rows; the table in the folder has all.")
    return Section("table", text=text, quiet=True, table=Table(columns, rows[:MOST_ROWS]), notes=notes)


def _decay(runs: Sequence[Run], what: str) -> str:
    after, before = (decay_interval(runs, when, what) for when in ("end", "start"))
    if not after.n and not before.n:
        return "–"
    return f"{timesteps(after.median)} ({timesteps(before.median)})"
