"""The numbers of the report's figures, from the runs: what is here is computed, and drawn in ``figures``.

Axes: N traces, R of them in a map, T timesteps, K timesteps back from the answer.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import inf, isfinite, isnan

import numpy as np

from ..runs.directory import RunError
from .collect import Collection, Group, Run
from .collect import Profiles as Traces
from .statistics import reaches, rule, score_interval, solved_count, steps_to_solve

MOST_TRACES = 240
"""Runs of a report whose traces are read for the figures, shared out evenly: more would take longer, not show more."""

MOST_ROWS = 60
"""Traces in one map of the gradient over the training: evenly spaced ones, the first and the last among them."""


@dataclass(frozen=True)
class Measure:
    """What a score is. ``share``: between 0 and 1, shown in percent. ``goal``: from where on it counts as solved."""

    name: str
    share: bool
    higher_is_better: bool
    chance: float | None
    goal: float | None


@dataclass(frozen=True)
class Point:
    """Seeds at one length: median score, its bootstrap interval, and how many ``of`` the runs are ``solved``."""

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


@dataclass(frozen=True)
class StepsLine:
    """``points``: (length, steps, solved) of every run, the unsolved at their budget. ``median``: (length, steps),
    where more than half of the seeds solved it."""

    label: str
    colour: int
    points: list[tuple[int, int, bool]]
    median: list[tuple[int, float]]


@dataclass(frozen=True)
class Steps:
    lines: list[StepsLine]

    @property
    def any_unsolved(self) -> bool:
        return any(not ok for line in self.lines for _, _, ok in line.points)


@dataclass(frozen=True, eq=False)
class ProfileLine:
    """``median`` [K] over the seeds, and each of ``seeds`` [K]; log10 relative to the answer, -inf and NaN as NaN."""

    trained: int
    median: np.ndarray
    seeds: list[np.ndarray]


@dataclass(frozen=True, eq=False)
class Stage:
    title: str
    lines: list[ProfileLine]


@dataclass(frozen=True, eq=False)
class Profiles:
    """``read``: runs whose traces these are, of ``of`` runs that there are."""

    label: str
    stages: list[Stage]
    read: int
    of: int


@dataclass(frozen=True)
class DecayLine:
    """``half_life`` and ``horizon``: (length, "start" or "end", seed, timesteps); inf where it does not decay."""

    label: str
    colour: int
    half_life: list[tuple[int, str, int, float]]
    horizon: list[tuple[int, str, int, float]]


@dataclass(frozen=True)
class Decays:
    lines: list[DecayLine]


@dataclass(frozen=True, eq=False)
class Panel:
    """``log10`` [R T] relative to the answer, timesteps in reading order; ``steps`` of its rows."""

    trained: int
    seed: int
    log10: np.ndarray
    steps: list[int]


@dataclass(frozen=True, eq=False)
class Maps:
    label: str
    panels: list[Panel]


@dataclass(frozen=True)
class StripRow:
    label: str
    colour: int
    values: list[float]
    median: float
    solved: int
    of: int


@dataclass(frozen=True)
class Strip:
    measure: Measure
    length: int
    rows: list[StripRow]


def measure(group: Group, threshold: float | None) -> Measure:
    run = group.first
    return Measure(run.metric, run.metric == "accuracy", run.higher_is_better, run.chance, rule(run, threshold))


def by_length(groups: Sequence[tuple[int, Group]], threshold: float | None) -> Curves:
    """Score against trained length. ``groups``: with the number of their colour."""
    lines = []
    for colour, group in groups:
        points = [_point(length, group.at(length), threshold) for length in group.lengths]
        seeds: dict[int, list[tuple[int, float]]] = {}
        for length in group.lengths:
            for run in group.at(length):
                seeds.setdefault(run.seed, []).append((length, run.score))
        lines.append(Line(group.label, colour, points, seeds))
    return Curves(measure(groups[0][1], threshold), lines)


def by_tested_length(group: Group, threshold: float | None) -> Curves:
    """Score against tested length, a line for each trained length, at the lengths that every seed was tested at."""
    lines = []
    for trained in group.lengths:
        runs = group.at(trained)
        tested = group.tested_lengths(trained)
        seeds = {run.seed: [(length, run.by_length[length]) for length in tested] for run in runs}
        points = [_point(length, runs, threshold, at=length) for length in tested]
        lines.append(Line(str(trained), 0, points, seeds, trained))
    return Curves(measure(group, threshold), [line for line in lines if line.points])


def _point(length: int, runs: Sequence[Run], threshold: float | None, *, at: int | None = None) -> Point:
    found = score_interval(runs, at=at)
    count = solved_count(runs, threshold, at=at)
    known = rule(runs[0], threshold) is not None
    return Point(length, found.median, found.low, found.high, count.k if known else 0, count.n if known else 0)


def to_solve(groups: Sequence[tuple[int, Group]]) -> Steps:
    """Updates until the task's own rule was first met, of every run."""
    lines = []
    for colour, group in groups:
        points, medians = [], []
        for length in group.lengths:
            runs = group.at(length)
            for run in runs:
                steps = run.steps if run.steps_to_solve is None else run.steps_to_solve
                points.append((length, max(1, steps), run.steps_to_solve is not None))  # 0 has no logarithm
            median = steps_to_solve(runs).steps.median
            if isfinite(median):
                medians.append((length, max(1.0, median)))
        lines.append(StepsLine(group.label, colour, points, medians))
    return Steps(lines)


def decays(groups: Sequence[tuple[int, Group]]) -> Decays:
    lines = []
    for colour, group in groups:
        found: dict[str, list[tuple[int, str, int, float]]] = {"half_life": [], "horizon": []}
        for length in group.lengths:
            for run in group.at(length):
                for when in ("start", "end"):
                    state = run.decays.get(when, {}).get("state", {})
                    for name, kept in found.items():
                        if not isnan(value := state.get(name, float("nan"))):
                            kept.append((length, when, run.seed, value))
        if found["half_life"] or found["horizon"]:
            lines.append(DecayLine(group.label, colour, found["half_life"], found["horizon"]))
    return Decays(lines)


def strip(
    groups: Sequence[tuple[int, Group]], trained: int, threshold: float | None, *, at: int | None = None
) -> Strip:
    """Every seed's score of some groups at one trained length, or at a tested one."""
    rows = []
    for colour, group in groups:
        runs = group.at(trained)
        scores = [run.score if at is None else run.by_length.get(at, float("nan")) for run in runs]
        if finite := [score for score in scores if isfinite(score)]:
            won = [reaches(runs[0], score, threshold) for score in finite]
            rows.append(
                StripRow(group.label, colour, finite, score_interval(runs, at=at).median, sum(won), len(scores))
            )
    return Strip(measure(groups[0][1], threshold), trained if at is None else at, rows)


LOWEST, HIGHEST = -12.0, 4.0
"""log10 of the norm relative to the answer: where the axis of the profiles ends at the latest."""


def reach(all_profiles: Iterable[Profiles]) -> tuple[float, float]:
    """The ends of an axis on which all of them can be compared: from a ten-thousandth, or less, to the answer, or more.

    The medians decide, so that one seed whose gradient explodes squeezes no other.
    """
    lines = [line.median for one in all_profiles for stage in one.stages for line in stage.lines]
    finite = np.concatenate([line[np.isfinite(line)] for line in lines] or [np.zeros(1)])
    low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 0.0)
    return float(max(LOWEST, min(-4.0, low))) - 0.3, float(min(HIGHEST, max(0.0, high))) + 0.3


class Gradients:
    """The traces of some runs of a collection, read once, a limited number of them. ``unread``: (path, why)."""

    def __init__(self, collection: Collection) -> None:
        cells = sum(len(group.lengths) for group in collection.groups)
        self.each = max(1, MOST_TRACES // max(1, cells))
        self.left = MOST_TRACES
        self.unread: list[tuple[str, str]] = []

    def read(self, run: Run, *, ends: bool) -> Traces | None:
        if self.left <= 0:
            return None
        self.left -= 1
        try:
            return run.profiles(ends=ends)
        except (RunError, ValueError) as error:
            self.unread.append((str(run.path), str(error)))
            return None

    def profiles(self, group: Group, lengths: Sequence[int]) -> Profiles | None:
        """At the start, in the middle and at the end of the training."""
        found: dict[int, list[Traces]] = {}
        count = 0
        for length in lengths:
            for run in group.at(length)[: self.each]:
                traces = self.read(run, ends=True)
                if traces is not None and len(traces.step):
                    found.setdefault(length, []).append(traces)
                    count += 1
        if not found:
            return None
        whole = any(len(traces.step) > 2 for many in found.values() for traces in many)
        titles = ["before training", "halfway", "after training"] if whole else ["before training", "after training"]
        stages = []
        for title in titles:
            lines = []
            for length, many in found.items():
                rows = [_row(traces, title) for traces in many]
                rows = [row for row in rows if row is not None]
                if rows:
                    seeds = _together(rows)
                    lines.append(ProfileLine(length, _median(seeds), list(seeds)))
            if lines:
                stages.append(Stage(title, lines))
        return Profiles(group.label, stages, count, sum(len(group.at(length)) for length in lengths))

    def maps(self, group: Group, lengths: Sequence[int]) -> Maps | None:
        """Of the seed whose score is the median (the lower of two) at each length."""
        panels = []
        for length in lengths:
            run = median_run(group.at(length))
            traces = self.read(run, ends=False)
            if traces is None or len(traces.step) < 3:
                continue
            kept = np.unique(np.linspace(0, len(traces.step) - 1, min(MOST_ROWS, len(traces.step))).round().astype(int))
            panels.append(Panel(length, run.seed, traces.relative[kept][:, ::-1], [int(s) for s in traces.step[kept]]))
        return Maps(group.label, panels) if panels else None


def median_run(runs: Sequence[Run]) -> Run:
    """The run whose score is the median, of an even number the lower one; NaN counts as lowest, ties go by seed."""
    ordered = sorted(runs, key=lambda run: (-inf if isnan(run.score) else run.score, run.seed))
    return ordered[(len(ordered) - 1) // 2]


def _row(traces: Traces, title: str) -> np.ndarray | None:
    count = len(traces.step)
    if title == "halfway":
        return traces.relative[1] if count > 2 else None
    if title == "after training":
        return traces.relative[-1] if count > 1 else None
    return traces.relative[0]


def _together(rows: Sequence[np.ndarray]) -> np.ndarray:
    """[seeds K], shorter ones filled up with NaN; what has no finite logarithm is NaN."""
    filled = np.full((len(rows), max(map(len, rows))), np.nan)
    for row, into in zip(rows, filled, strict=True):
        into[: len(row)] = np.where(np.isfinite(row), row, np.nan)
    return filled


def _median(seeds: np.ndarray) -> np.ndarray:
    """[K]; over the seeds that have a number, where more than half of them have one: the rest vanished."""
    enough = 2 * np.isfinite(seeds).sum(0) > len(seeds)
    median = np.full(seeds.shape[1], np.nan)
    if enough.any():
        median[enough] = np.nanmedian(seeds[:, enough], axis=0)
    return median


def colours(collection: Collection) -> dict[str, int]:
    """A number for every label, the same in every figure."""
    return {label: at for at, label in enumerate(dict.fromkeys(group.label for group in collection.groups))}


def chunks(groups: Iterable[Group], numbers: Mapping[str, int], size: int) -> list[list[tuple[int, Group]]]:
    """Groups with their colours, as many at once as one figure can tell apart."""
    flat = [(numbers[group.label], group) for group in groups]
    return [flat[at : at + size] for at in range(0, len(flat), size)]
