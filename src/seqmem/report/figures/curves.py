"""Scores over lengths, seed by seed: the numbers of every figure that shows scores."""

from collections.abc import Sequence
from dataclasses import dataclass

from ...metrics import Metric, Plateau
from ...solved import order_rank, percent
from ..collect import Group, Run
from ..statistics import rule, score_interval, solved_count


@dataclass(frozen=True)
class Measure:
    """How to read a score. ``goal``: the score that counts as solved; ``constant``: that of a constant answer."""

    metric: Metric
    chance: float | None
    goal: float | None
    constant: float | None = None
    plateaus: Sequence[Plateau] = ()

    @property
    def levels(self) -> list[tuple[str, float]]:
        """Names and scores to draw beside chance and goal."""
        constant = [] if self.constant in (None, self.chance) else [("constant", self.constant)]
        return [*constant, *((plateau.memory, plateau.score) for plateau in self.plateaus)]


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


def measure(group: Group, threshold: float | None) -> Measure:
    run = group.first
    return Measure(run.metric, run.chance, rule(run, threshold), run.constant, run.plateaus)


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
