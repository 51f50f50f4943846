"""Scores over lengths, seed by seed: the numbers of every figure that shows scores."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from ...metrics import Metric
from ...solved import order_rank, percent
from ..collect import Group, Run
from ..levels import Level, levels
from ..statistics import rule, score_interval, solved_count


@dataclass(frozen=True)
class Measure:
    """How to read a score. ``goal``: the score that counts as solved; ``levels``: what else to compare it with."""

    metric: Metric
    goal: float | None
    levels: Sequence[Level] = ()


@dataclass(frozen=True)
class Point:
    """The seeds at one length: median score, its interval, and how many ``of`` the runs are ``solved``.

    ``diverged``: how many have no score. ``low``, ``median`` and ``high`` are infinite where they fall on such a run.
    """

    x: int
    median: float
    low: float
    high: float
    solved: int
    of: int
    seeds: int
    diverged: int


@dataclass(frozen=True)
class Line:
    """``seeds``: seed -> its (length, score). ``trained``: the length, where all were trained at one."""

    label: str
    colour: int
    points: list[Point]
    seeds: dict[int, list[tuple[int, float]]]
    trained: int | None = None


@dataclass(frozen=True)
class Curves:
    measure: Measure
    lines: list[Line]

    @property
    def points(self) -> list[Point]:
        return [point for line in self.lines for point in line.points]


def measure(groups: Sequence[Group], threshold: float | None, lengths: Iterable[int]) -> Measure:
    """How to read the scores of groups of one task, at the lengths of a figure."""
    first, runs = groups[0].first, [run for group in groups for length in group.lengths for run in group.at(length)]
    return Measure(first.metric, rule(first, threshold), levels(runs, set(lengths)))


def point(length: int, runs: Sequence[Run], threshold: float | None, *, at: int | None = None) -> Point:
    """The point of some runs at ``length``: at the length trained on, or at a tested one (``at``)."""
    interval = score_interval(runs, at=at)
    count = solved_count(runs, threshold, at=at)
    known = rule(runs[0], threshold) is not None
    solved, of = (count.k, count.n) if known else (0, 0)
    return Point(length, interval.median, interval.low, interval.high, solved, of, count.n, count.diverged)


def levels_text(curves: Curves) -> str:
    """The confidence of the intervals of all points: ``93.8 %``, or ``75 to 98.4 %``; empty: there are none."""
    seeds = {point.seeds for point in curves.points if point.seeds > 1}
    levels = [percent(level) for level in sorted(order_rank(n)[1] for n in seeds)]
    return " to ".join([levels[0].removesuffix(" %"), levels[-1]] if len(levels) > 1 else levels)


def diverged_text(curves: Curves) -> str:
    """What a caption says of runs without a score; empty: there are none."""
    counts = [[point.diverged for point in line.points] for line in curves.lines]
    # The points of one trained length are the same runs, tested at several.
    total = sum(
        sum(some) if line.trained is None else max(some) for line, some in zip(curves.lines, counts, strict=True)
    )
    return f" Crosses at the edge: {total} that diverged, worse than any score." if total else ""
