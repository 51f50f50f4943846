"""Scores over lengths, seed by seed: the numbers of every figure that shows scores."""

from collections.abc import Sequence
from dataclasses import dataclass

from ...metrics import Metric
from ..collect import Group, Run
from ..statistics import rule, score_interval, solved_count


@dataclass(frozen=True)
class Measure:
    """How to read a score. ``goal``: the score that counts as solved."""

    metric: Metric
    chance: float | None
    goal: float | None


@dataclass(frozen=True)
class Point:
    """The seeds at one length: median score, its bootstrap interval, and how many ``of`` the runs are ``solved``."""

    x: int
    median: float
    low: float
    high: float
    solved: int
    of: int


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


def measure(group: Group, threshold: float | None) -> Measure:
    run = group.first
    return Measure(run.metric, run.chance, rule(run, threshold))


def point(length: int, runs: Sequence[Run], threshold: float | None, *, at: int | None = None) -> Point:
    """The point of some runs at ``length``: at the length trained on, or at a tested one (``at``)."""
    interval = score_interval(runs, at=at)
    count = solved_count(runs, threshold, at=at)
    known = rule(runs[0], threshold) is not None
    return Point(length, interval.median, interval.low, interval.high, count.k if known else 0, count.n if known else 0)
