"""Cells over many tasks at once, after Agarwal et al. 2021, "Deep RL at the edge of the statistical precipice".

Scores of different tasks are put on one scale first: 0 is ``chance``, the best score without a memory, and 1 is
perfect. On a task a seed has one score, the mean over the lengths that all cells were trained at. Each task has the
same weight, however many seeds it has. Intervals are by the stratified bootstrap: the seeds of each task are resampled
by themselves.

A resample is a row of weights of the same scores, so that nothing is sorted or drawn twice.

Axes: N scores of a cell, on all tasks; n seeds of one task; K thresholds; R resamples.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import combinations, pairwise
from math import nan

import numpy as np

from ..solved import FEWEST, LEVEL
from .collect import Collection, Group
from .levels import chance_at

RESAMPLES = 2000
"""Draws of the bootstrap; both ends of an interval then vary by some 6 % of the estimate's standard deviation."""

THRESHOLDS = np.linspace(0, 1, 101)
"""[K], at which performance profiles are computed."""


@dataclass(frozen=True)
class Estimate:
    """A number with its interval of ``LEVEL``; NaN where a task has one seed, which shows no spread."""

    value: float
    low: float
    high: float


@dataclass(frozen=True, eq=False)
class CellScores:
    """``by_task``: task -> the scores [n] of its seeds, from 0 (chance) to 1 (perfect)."""

    label: str
    by_task: Mapping[str, np.ndarray]

    @cached_property
    def scores(self) -> np.ndarray:
        """[N]"""
        return np.concatenate(list(self.by_task.values()))

    @cached_property
    def weights(self) -> np.ndarray:
        """[N], a sum of 1: the same for each task."""
        sizes = [len(scores) for scores in self.by_task.values()]
        return np.concatenate([np.full(n, 1 / (n * len(sizes))) for n in sizes])

    @cached_property
    def resamples(self) -> np.ndarray:
        """[R N]: the weights of each resample. They depend on the cell's name alone: another cell changes none."""
        rng = np.random.default_rng([*self.label.encode()])
        sizes = [len(scores) for scores in self.by_task.values()]
        drawn = [rng.multinomial(n, np.full(n, 1 / n), RESAMPLES) / (n * len(sizes)) for n in sizes]
        return np.concatenate(drawn, axis=1)

    @property
    def fewest(self) -> int:
        """Seeds of the task that has the fewest."""
        return min(len(scores) for scores in self.by_task.values())

    @cached_property
    def interquartile_mean(self) -> Estimate:
        of = interquartile_mean(self.scores, np.vstack([self.weights, self.resamples]))
        return self._estimate(of[0], of[1:])

    @cached_property
    def profile(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The share of task-and-seed pairs above each threshold, and both ends of its pointwise interval, each [K]."""
        above = (self.scores[:, None] > THRESHOLDS).astype(float)
        if self.fewest < 2:
            none = np.full(len(THRESHOLDS), nan)
            return self.weights @ above, none, none
        low, high = np.quantile(self.resamples @ above, _ENDS, axis=0)
        return self.weights @ above, low, high

    def share_above(self, threshold: float) -> float:
        return float(self.weights @ (self.scores > threshold))

    def _estimate(self, value: float, resampled: np.ndarray) -> Estimate:
        return _estimate(value, resampled, known=self.fewest > 1)


_ENDS = ((1 - LEVEL) / 2, (1 + LEVEL) / 2)


def _estimate(value: float, resampled: np.ndarray, *, known: bool) -> Estimate:
    low, high = np.quantile(resampled, _ENDS) if known else (nan, nan)
    return Estimate(float(value), float(low), float(high))


def interquartile_mean(scores: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """The mean of the middle half of the scores; a score at the border of that half counts with the part inside.

    Where the number of equal weights is a multiple of four, the mean without a quarter at either end.

    Args:
        scores: [N].
        weights: [... N], each row with a sum of 1.

    Returns:
        [...]
    """
    order = np.argsort(scores)
    up_to = np.cumsum(weights[..., order], axis=-1)
    inside = np.diff(np.clip(up_to, 0.25, 0.75), axis=-1, prepend=0.25)
    return 2 * inside @ scores[order]


@dataclass(frozen=True)
class Improvement:
    """The probability that a seed of ``a`` is better than one of ``b``, on a task drawn at random; a tie is half."""

    a: str
    b: str
    probability: Estimate


def improvement(a: CellScores, b: CellScores) -> Improvement:
    """Mann and Whitney's statistic of each task, as a share of the pairs of seeds, and the mean over the tasks.

    Both cells have the same tasks.
    """
    value, resampled, at, where = 0.0, np.zeros(RESAMPLES), 0, 0
    for task, ours in a.by_task.items():
        theirs = b.by_task[task]
        wins = (np.sign(ours[:, None] - theirs) + 1) / 2
        own, other = a.resamples[:, at : at + len(ours)], b.resamples[:, where : where + len(theirs)]
        at, where = at + len(ours), where + len(theirs)
        value += float(wins.mean())
        resampled += ((own @ wins) * other).sum(1) * len(a.by_task) ** 2
    tasks = len(a.by_task)
    return Improvement(a.label, b.label, _estimate(value / tasks, resampled / tasks, known=min(a.fewest, b.fewest) > 1))


@dataclass(frozen=True, eq=False)
class Across:
    """
    Args:
        tasks: name -> the lengths over which a seed's score is the mean.
        cells: by their interquartile mean, the best first.
        left_out: a sentence for what is not counted, and why.
    """

    tasks: Mapping[str, Sequence[int]]
    cells: Sequence[CellScores]
    left_out: Sequence[str]

    @cached_property
    def pairs(self) -> list[Improvement]:
        """Every two cells, the one with the better interquartile mean first."""
        return [improvement(a, b) for a, b in combinations(self.cells, 2)]

    @property
    def caution(self) -> str:
        """A sentence on what so few seeds cannot show; empty where there are enough."""
        fewest = min(cell.fewest for cell in self.cells)
        if fewest < 2:
            return "Some tasks have one seed of a cell, which shows no spread: there is no interval."
        if fewest < FEWEST:
            return f"Intervals resample the seeds that there are. With {fewest} seeds of a task they are too narrow."
        return ""

    @property
    def next_better(self) -> dict[str, Improvement]:
        """Label -> how probably it is better than the next cell in the order; the last one has none."""
        pairs = {(pair.a, pair.b): pair for pair in self.pairs}
        labels = [cell.label for cell in self.cells]
        return {a: pairs[a, b] for a, b in pairwise(labels)}


@lru_cache(maxsize=1)  # page, tables and summary of one report ask for the same
def across(collection: Collection) -> Across | None:
    """The cells of a report over its tasks; None: no cell was run on two of them.

    Cells are compared on the tasks that all of them have. Of the sets of tasks that a cell has, or that all have, the
    one counts that keeps the most pairs of a cell and a task.
    """
    groups: dict[str, dict[str, Group]] = {}  # label -> task -> group
    left_out, unknown = [], set[str]()
    for group in collection.groups:
        if reason := _no_scale(group):
            if group.task not in unknown:
                left_out.append(f"{group.task}: {reason}")
            unknown.add(group.task)
        else:
            groups.setdefault(group.label, {})[group.task] = group
    tasks = _common(groups)
    if len(tasks) < 2:
        return None
    labels = [label for label, own in groups.items() if tasks <= own.keys()]
    kept = {}
    for task in (task for task in collection.tasks if task in tasks):
        of_task = [groups[label][task] for label in labels]
        if lengths := _lengths(of_task):
            kept[task] = lengths
        else:
            left_out.append(f"{task}: no length at which a seed of every cell was trained")
    if len(kept) < 2:
        return None
    cells = [CellScores(label, {task: _scores(groups[label][task], kept[task]) for task in kept}) for label in labels]
    left_out += [
        f"{label}: not run on {', '.join(task for task in collection.tasks if task in tasks - groups[label].keys())}"
        for label in groups
        if label not in labels
    ]
    others = {task for own in groups.values() for task in own} - tasks
    left_out += [f"{task}: not every cell was run on it" for task in collection.tasks if task in others]
    return Across(kept, sorted(cells, key=lambda cell: -cell.interquartile_mean.value), left_out)


def _no_scale(group: Group) -> str:
    """Why scores of a group cannot be put on the scale; empty: they can."""
    perfect = group.first.metric.perfect
    if perfect is None:
        return f"no perfect score is known ({group.first.metric.name})"
    chances = [chance_at(group.at(length), length) for length in group.lengths]
    if any(chance is None for chance in chances):
        return "its chance is not known"
    return "without a memory its score is perfect" if perfect in chances else ""


def _common(groups: Mapping[str, Mapping[str, Group]]) -> set[str]:
    every = [set(own) for own in groups.values()]
    sets = [*every, set.intersection(*every)] if every else []
    kept = [(sum(tasks <= own for own in every) * len(tasks), len(tasks), tasks) for tasks in sets if len(tasks) > 1]
    return max(kept, key=lambda one: one[:2])[2] if kept else set()


def _lengths(groups: Sequence[Group]) -> list[int]:
    """The lengths that all groups were trained at, if each has a seed that was trained at all of them."""
    lengths = sorted(set.intersection(*(set(group.lengths) for group in groups)))
    return lengths if lengths and all(_seeds(group, lengths) for group in groups) else []


def _seeds(group: Group, lengths: Iterable[int]) -> list[int]:
    return sorted(set.intersection(*(set(group.runs[length]) for length in lengths)))


def _scores(group: Group, lengths: Sequence[int]) -> np.ndarray:
    """[n]: of each seed, the mean over the lengths. A run that diverged or is worse than chance has learned nothing."""
    metric = group.first.metric
    columns = []
    for length in lengths:
        chance = chance_at(group.at(length), length)
        assert chance is not None
        scores = [metric.share(group.runs[length][seed].score, chance) for seed in _seeds(group, lengths)]
        columns.append(scores)
    return np.mean(columns, axis=0)
