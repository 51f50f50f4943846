"""Every seed's score at one length, label by label, with the median.

Drawn at the lengths that tell most between two cells, and where a tested length splits the seeds into two groups.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import isfinite

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator

from ..collect import Group
from ..statistics import score_interval, solved_count, telling_length
from ..wording import clean, score_words
from .axes import Number, new_figure, score_axis
from .base import Plot, TaskRuns
from .curves import Measure, measure
from .marks import crosses, dots
from .style import INK, WIDTH, paint

MOST_ROWS = 12
"""Labels in one figure: each has a row and a name of its own, so colours may repeat."""

MOST_PLACES = 2
"""Trained lengths, and pairs of trained and tested length, that are drawn."""


@dataclass(frozen=True)
class StripRow:
    label: str
    colour: int
    values: list[float]
    median: float
    solved: int
    of: int
    diverged: int


@dataclass(frozen=True)
class Strip:
    measure: Measure
    length: int
    rows: list[StripRow]


def plots(task: TaskRuns) -> Iterator[Plot]:
    for trained, tested in _places(task):
        here = [group for group in task.groups if group.at(trained)]
        for some in task.coloured(here, MOST_ROWS)[:2]:
            strip = collect(some, trained, task.threshold, at=tested)
            if not strip.rows:
                continue
            where = f"trained at length {trained}" + (f", tested at {tested}" if tested is not None else "")
            caption = f"Every run {where}, a point each; the upright line is the median."
            if diverged := sum(row.diverged for row in strip.rows):
                caption += f" Crosses at the edge: {diverged} that diverged, worse than any score."
            if strip.measure.goal is not None:
                caption += " At the right: how many solve it."
            alt = f"Scores of every run {where}. " + " ".join(
                f"{clean(row.label, 40)}: {row.solved} of {row.of} solved, {row.diverged} diverged, median "
                f"{score_words(strip.measure.metric, row.median)}."
                for row in strip.rows
            )
            yield Plot(f"seeds {where}", partial(draw, strip), caption, alt)


def _places(task: TaskRuns) -> list[tuple[int, int | None]]:
    """Pairs of trained length and tested length; None: the trained one."""
    telling = Counter(
        length
        for i, a in enumerate(task.groups)
        for b in task.groups[i + 1 :]
        if (length := telling_length(a, b, task.threshold)) is not None
    )
    places: list[tuple[int, int | None]] = [(length, None) for length, _ in telling.most_common(MOST_PLACES)]
    splits = Counter((split.seq_len, split.at) for split in task.splits)
    for (trained, tested), _ in splits.most_common(MOST_PLACES):
        if (place := (trained, None if tested == trained else tested)) not in places:
            places.append(place)
    return places


def collect(
    groups: Sequence[tuple[int, Group]], trained: int, threshold: float | None, *, at: int | None = None
) -> Strip:
    """The scores of groups at one trained length, or at a tested one (``at``). ``groups``: with their colours."""
    rows = []
    for colour, group in groups:
        runs = group.at(trained)
        finite = [score for run in runs if (score := run.score_at(at)) is not None and isfinite(score)]
        count = solved_count(runs, threshold, at=at)
        if finite or count.diverged:
            median = score_interval(runs, at=at).median
            rows.append(StripRow(group.label, colour, finite, median, count.k, count.n, count.diverged))
    length = trained if at is None else at
    return Strip(measure([group for _, group in groups], threshold, [length]), length, rows)


def draw(strip: Strip) -> Figure:
    figure, ((axes,),) = new_figure(WIDTH, 70 + 34 * len(strip.rows))
    worst = 0.0 if strip.measure.metric.higher_is_better else 1.0
    for at, row in enumerate(strip.rows):
        colour, marker = paint(row.colour)
        dots(axes, list(zip(row.values, _stacked(row.values, at), strict=True)), colour, alpha=0.6, marker=marker)
        if row.diverged:
            # Beside each other, inwards from the worst end.
            places = [abs(worst - 0.014 * number) for number in range(row.diverged)]
            crosses(axes, places, [at] * row.diverged, colour, axes.get_yaxis_transform())
        if isfinite(row.median):
            axes.plot([row.median] * 2, [at - 0.38, at + 0.38], color=INK, lw=1.6, zorder=4)
        if strip.measure.goal is not None:
            axes.annotate(
                f"{row.solved}/{row.of}", (1, at), (8, 0), xycoords=("axes fraction", "data"),
                textcoords="offset points", ha="left", va="center", fontsize=9, color=colour,
            )  # fmt: skip
    axes.set_ylim(len(strip.rows) - 0.5, -0.5)
    axes.yaxis.set_major_locator(FixedLocator(range(len(strip.rows))))
    axes.set_yticklabels([clean(row.label, 28) for row in strip.rows])
    axes.grid(visible=False, axis="y")
    score_axis(axes, strip.measure, [value for row in strip.rows for value in row.values], upright=False)
    axes.set_xlabel(f"{clean(strip.measure.metric.name, 40)} at length {strip.length}")
    return figure


def _stacked(values: Sequence[Number], centre: Number) -> list[Number]:
    """The height of each point around ``centre``: points that would overlap stand above each other."""
    if not values:
        return []
    order = np.argsort(values, kind="stable")
    span = (max(values) - min(values)) / 60 or 1e-9
    places = np.zeros(len(values))
    bin_start, height = -np.inf, 0
    for at in order:
        if values[at] - bin_start > span:
            bin_start, height = values[at], 0
        places[at] = height
        height += 1
    most = max(places.max(), 5)
    return list(centre + 0.3 - 0.6 * places / most)
