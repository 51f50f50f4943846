"""How well each cell does: scores and steps until solved, as figures and as a table."""

from collections.abc import Sequence
from itertools import groupby

from ...lag import read_lag
from ...measurement import Number
from ...metrics import Metric
from ..collect import ProbeNumber, Run, probe_numbers
from ..figures.base import TaskRuns
from ..levels import CHANCE, CONSTANT, Level, chance_of, level_words, levels
from ..statistics import (
    group_count,
    number_interval,
    parameters,
    rule_text,
    score_interval,
    steps_to_solve,
)
from ..wording import clean, extremes, listing, number_range, number_words, score_words, with_signs
from .base import Section
from .tables import MOST_ROWS, Column, Row, Table


def about(task: TaskRuns) -> str:
    """Chance, the rule of success, and how long was trained."""
    first = task.first
    runs = [run for group in task.groups for length in group.lengths for run in group.at(length)]
    sentences = _levels(levels(runs, {run.seq_len for run in runs}), first.metric)
    notes = dict.fromkeys(run.environment.get("held_out") for run in runs)
    sentences += [f"Held out: {clean(note, 120)}." for note in notes if note is not None]
    if goal := rule_text(first, task.threshold):
        sentences.append(f"A run has solved it with {goal}.")
    steps = extremes(run.steps for group in task.groups for length in group.lengths for run in group.at(length))
    sentences.append(f"Trained for {number_range(*steps, 'step')}.")
    return " ".join(sentences)


def _levels(known: Sequence[Level], metric: Metric) -> list[str]:
    """What a score is compared with, at the lengths that were trained."""
    words = {level.name: level_words(metric, level) for level in known}
    constant = f" ({words[CONSTANT]} for a constant answer)" if CONSTANT in words else ""
    sentences = []
    if CHANCE in words:
        sentences.append(f"Without a memory the {clean(metric.name, 40)} is {words[CHANCE]}{constant}.")
    parts = [name for name in words if name not in (CHANCE, CONSTANT)]
    return sentences + [f"With {clean(name, 40)} it is {words[name]}." for name in parts]


def figures(_: TaskRuns) -> Section:
    return Section("scores", "Score, and steps until solved", beside=True)


def table(task: TaskRuns) -> Section:
    metric = clean(task.first.metric.name, 40) + ("" if task.first.higher_is_better else ", where lower is better")
    numbers = probe_numbers(run for group in task.groups for length in group.lengths for run in group.at(length))
    chance = chance_of([run for group in task.groups for length in group.lengths for run in group.at(length)])
    differs = chance is not None and not chance.flat
    text = f"Scores are {metric}: the median over seeds and its interval in brackets, with its confidence."
    if any(run.diverged for group in task.groups for length in group.lengths for run in group.at(length)):
        text += " A seed that diverged counts: it is not solved, and worse than any score."
    for probe, own in groupby(numbers, lambda number: number.probe):
        text += f" {_introduced(probe, [one.number for one in own])}"
    lags = {length: _lag(group.at(length)) for group in task.groups for length in group.lengths}
    if any(lags.values()):
        text += " The lag is how far back the earliest input is that an answer needs, in timesteps."
    columns = [
        Column("cell", "label"),
        Column("length"),
        *([Column("lag")] if any(lags.values()) else []),
        Column("parameters"),
        Column("seeds"),
        Column("score"),
        Column("interval", "left"),
        *([Column("chance")] if differs else []),
        Column("solved", "folded"),
        *map(Column, ("steps to solve", *(clean(one.number.title, 40) for one in numbers))),
    ]
    rows = []
    for group in task.groups:
        for length in group.lengths:
            runs = group.at(length)
            scores = score_interval(runs)
            metric = group.first.metric
            low, high = (score_words(metric, end).removesuffix(" %") for end in (scores.low, scores.high))
            known = bool(rule_text(group.first, task.threshold))
            count = group_count(group, length, task.threshold)
            beside = f", {count.remarks}" if count.remarks else ""
            cells = [
                clean(group.label, 60),
                length,
                *([lags[length] or "–"] if any(lags.values()) else []),
                "–" if (size := parameters(runs)) is None else f"{size:,}",
                len(runs),
                score_words(metric, scores.median),
                f"[{low}, {high}] ({scores.level_text})" if scores.n > 1 else "",
                *([_chance(chance, length, metric)] if chance is not None and differs else []),
                (str(count) if known else "–") + beside,
                with_signs(str(steps_to_solve(runs, task.threshold))) if known else "–",
                *(_medians(runs, number) for number in numbers),
            ]
            rows.append(Row(cells, task.colours[group.label]))
    notes = []
    if len(rows) > MOST_ROWS:
        notes.append(f"The first {MOST_ROWS} of {len(rows)} rows; the table in the folder has all.")
    return Section("table", text=text, quiet=True, table=Table(columns, rows[:MOST_ROWS]), notes=notes)


def _lag(runs: Sequence[Run]) -> str:
    """``33 to 49``; empty where no run says it."""
    lags = (read_lag(run.environment.get("lag")) for run in runs)
    return next((lag.range for lag in lags if lag is not None), "")


def _chance(chance: Level, length: int, metric: Metric) -> str:
    here = chance.at(length)
    return "–" if here is None else metric.text(here)


def _introduced(probe: str, numbers: Sequence[Number]) -> str:
    """A sentence on the columns of a probe."""
    units = list(dict.fromkeys(number.unit for number in numbers))
    shared = units[0] if len(units) == 1 else ""
    titles = [number.title if shared or not number.unit else f"{number.title} ({number.unit})" for number in numbers]
    names = listing([clean(title, 40) for title in titles])
    medians, verb = ("medians", "are") if len(numbers) > 1 else ("a median", "is")
    return (
        f"{names[:1].upper()}{names[1:]}, {medians}{f' in {clean(shared, 40)}' if shared else ''}, {verb} read off the "
        f"{clean(probe, 40)} after training (before it, in brackets)."
    )


def _medians(runs: Sequence[Run], one: ProbeNumber) -> str:
    after, before = (number_interval(runs, one.probe, one.name, when) for when in ("end", "start"))
    if not after.n and not before.n:
        return "–"
    texts = []
    for interval in (after, before):
        # A curve that no straight line describes has no half-life: say of how many seeds the median is.
        of = f", {interval.n} of {len(runs)}" if 0 < interval.n < len(runs) else ""
        texts.append(f"{number_words(one.number, interval.median)}{of}")
    return f"{texts[0]} ({texts[1]})"
