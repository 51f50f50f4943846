"""Statistics over seeds: medians with intervals, solved k of n, memory span, comparisons of two cells.

A network learns a memory or does not, so scores over seeds often fall into two groups. Medians and counts are used
instead of means, and nothing assumes a normal distribution. A score that is NaN (the run diverged) is worse than any.

Axes: n seeds.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations
from math import comb, inf, isinf, isnan, sqrt

import numpy as np

from ..metrics import Metric
from .collect import Collection, Group, Run

LEVEL = 0.95
"""Confidence level of every interval."""

ALPHA = 0.05
"""Significance level of every test, two-sided."""

DEFAULT_THRESHOLD = 0.99
"""The accuracy that counts as solved where the task has no rule of its own."""


# Medians


@dataclass(frozen=True)
class Interval:
    """The median of ``n`` numbers and its bootstrap interval. ``low`` and ``high`` are among the numbers, or halfway
    between two of them; ``level``: the confidence level, at most LEVEL. Without numbers, all are NaN."""

    median: float
    low: float
    high: float
    n: int
    level: float = LEVEL


def median_interval(values: Iterable[float | int], *, level: float = LEVEL) -> Interval:
    """The median with its percentile bootstrap interval (Efron & Tibshirani 1993, section 13.3).

    The distribution of a resample's median is known in closed form, so nothing is drawn: this is the limit of
    infinitely many resamples, the same at every call. With few numbers no interval of their median reaches ``level``:
    the range of n numbers holds the true median with a probability of 1 - 2^(1-n) (3: 75 %, 5: 94 %), which is then
    the interval's ``level``.

    Args:
        values: finite or infinite.

    Raises:
        ValueError: a value is NaN.
    """
    ordered = np.sort(np.fromiter(values, dtype=np.float64))
    n = len(ordered)
    if np.isnan(ordered).any():
        raise ValueError("a median of NaN: give it a place in the order first, as badly() does")
    if not n:
        return Interval(np.nan, np.nan, np.nan, 0, 0.0)
    median = _mean(ordered[(n - 1) // 2], ordered[n // 2])
    support, weights = _resampled_medians(ordered)
    order = np.argsort(support, kind="stable")
    support, weights = support[order], weights[order]
    tail = (1 - level) / 2 - 1e-12
    low = support[np.argmax(np.cumsum(weights) >= tail)]
    high = support[::-1][np.argmax(np.cumsum(weights[::-1]) >= tail)]
    return Interval(float(median), float(low), float(high), n, min(level, 1 - 2.0 ** (1 - n)))


def _mean(a: float, b: float) -> float:
    return a if a == b else a / 2 + b / 2  # equal values, infinite ones too, are returned unchanged


def _resampled_medians(ordered: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every value that the median of n draws from n ordered numbers can take, and its probability."""
    n = len(ordered)
    m = n // 2
    # Ten standard deviations of the median's rank: the probability beyond is negligible.
    near = np.arange(max(0, n // 2 - 5 * int(sqrt(n)) - 5), min(n, n // 2 + 5 * int(sqrt(n)) + 5))
    edges = np.append(near, near[-1] + 1) / n  # P(a draw is below the number with this rank)
    if n % 2:
        return ordered[near], np.diff(_at_least(n, edges, m + 1))
    # Of n = 2m draws, the m-th in order is number i and the next one is number j > i: some m draws are i or below
    # with one at i, and the other m are j or above with one at j.
    with np.errstate(divide="ignore"):
        lower = m * np.log(edges[1:]) + np.log1p(-((edges[:-1] / edges[1:]) ** m))
        left = 1 - edges
        upper = m * np.log(left[:-1]) + np.log1p(-((left[1:] / left[:-1]) ** m))
    joint = np.triu(np.exp(_log_binomials(n)[m] + lower[:, None] + upper[None, :]), 1)
    first = np.diff(_at_least(n, edges, m))  # P(the m-th is number i)
    joint[np.diag_indices(len(near))] = np.maximum(first - joint.sum(1), 0.0)
    i, j = np.triu_indices(len(near))
    a, b = ordered[near][i], ordered[near][j]
    return np.where(a == b, a, a / 2 + b / 2), joint[i, j]


def _at_least(n: int, chance: np.ndarray, k: int) -> np.ndarray:
    """P(at least k of n draws succeed), for each chance of a single draw."""
    many = np.arange(k, n + 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        logs = many * np.log(chance)[:, None] + (n - many) * np.log1p(-chance)[:, None]
    logs = np.where(chance[:, None] == 1, np.where(many == n, 0.0, -np.inf), logs)  # 0 * -inf would be NaN
    return np.exp(_log_binomials(n)[many] + logs).sum(1)


def _log_binomials(n: int) -> np.ndarray:
    """log of n choose k, for k from 0 to n."""
    factorials = np.concatenate([[0.0], np.cumsum(np.log(np.arange(1, n + 1)))])
    return factorials[n] - factorials - factorials[::-1]


def badly(scores: Iterable[float | int], *, higher_is_better: bool) -> np.ndarray:
    """Scores with NaN as the worst possible one: a run that diverged has not solved anything."""
    values = np.fromiter(scores, dtype=np.float64)
    return np.where(np.isnan(values), -inf if higher_is_better else inf, values)


def score_interval(runs: Sequence[Run], *, at: int | None = None) -> Interval:
    """The median score over runs of one group: at the trained length, or at a tested one."""
    if not runs:
        return median_interval([])
    scores = [run.score if at is None else run.by_length.get(at, np.nan) for run in runs]
    return median_interval(badly(scores, higher_is_better=runs[0].higher_is_better))


# Solved


def rule(run: Run, threshold: float | None = None) -> float | None:
    """The score at which a run counts as solved; None: there is no such score.

    ``threshold`` is an accuracy and applies to accuracies only; other metrics use the task's own rule. Without a
    threshold, the task's rule applies, or DEFAULT_THRESHOLD for an accuracy if the task has no rule.
    """
    if run.metric.percent:
        if threshold is not None:
            return threshold
        return run.solved_at if run.solved_at is not None else DEFAULT_THRESHOLD
    return run.solved_at


def rule_text(run: Run, threshold: float | None = None) -> str:
    """``at least 99.0 %``; empty where there is none."""
    goal = rule(run, threshold)
    if goal is None:
        return ""
    return f"at {'least' if run.higher_is_better else 'most'} {run.metric.text(goal)}"


def reaches(run: Run, score: float, threshold: float | None = None) -> bool:
    """True if ``score`` solves the run's task; NaN does not."""
    goal = rule(run, threshold)
    return goal is not None and run.metric.reached(score, goal)


def solved(run: Run, threshold: float | None = None) -> bool:
    """True if the run is solved at its trained length."""
    return reaches(run, run.score, threshold)


@dataclass(frozen=True)
class Solved:
    """``k`` of ``n`` seeds, and the Wilson interval (Wilson 1927) of the share."""

    k: int
    n: int

    @property
    def half(self) -> bool:
        """At least half of the seeds."""
        return self.n > 0 and 2 * self.k >= self.n

    def interval(self, z: float = 1.959963984540054) -> tuple[float, float]:
        if not self.n:
            return 0.0, 1.0
        share, n = self.k / self.n, self.n
        middle = (share + z * z / (2 * n)) / (1 + z * z / n)
        half = z * sqrt(share * (1 - share) / n + z * z / (4 * n * n)) / (1 + z * z / n)
        low = 0.0 if self.k == 0 else middle - half
        return low, 1.0 if self.k == n else middle + half

    def __str__(self) -> str:
        return f"{self.k}/{self.n}"


def solved_count(runs: Iterable[Run], threshold: float | None = None, *, at: int | None = None) -> Solved:
    """How many runs reach the goal at their trained length, or at a tested one (of those tested there)."""
    reached = [
        reaches(run, run.score if at is None else run.by_length[at], threshold)
        for run in runs
        if at is None or at in run.by_length
    ]
    return Solved(sum(reached), len(reached))


# Memory span


@dataclass(frozen=True)
class Span:
    """The longest length that at least half of the seeds solve, as they do every shorter length that was tried.

    Args:
        length: timesteps; None: not even the shortest one is solved, or there is no rule of success.
        open: the longest length that was tried is solved, so the span may be longer.
        counts: length -> solved seeds, ascending; empty without a rule of success.
        beyond: lengths that are solved although a shorter one is not.
    """

    length: int | None
    open: bool
    counts: Mapping[int, Solved]
    beyond: tuple[int, ...] = ()

    @property
    def known(self) -> bool:
        return bool(self.counts)

    @property
    def seeds(self) -> tuple[int, int]:
        """The fewest and the most seeds at any of the lengths."""
        many = [count.n for count in self.counts.values()] or [0]
        return min(many), max(many)

    def __str__(self) -> str:
        """``50``; ``>= 100`` if it may be longer; ``< 10`` if it is shorter than any length that was tried."""
        if not self.known:
            return "?"
        if self.length is None:
            return f"< {min(self.counts)}"
        return f">= {self.length}" if self.open else str(self.length)

    @property
    def failed(self) -> int | None:
        """The shortest length beyond the span that is not solved; None: there is none."""
        return next((length for length, count in self.counts.items() if not count.half), None)


def memory_span(group: Group, threshold: float | None = None) -> Span:
    """The span over the lengths that runs of the group were **trained** at, each by runs of its own."""
    if rule(group.first, threshold) is None:
        return Span(None, False, {})
    return _span({length: solved_count(group.at(length), threshold) for length in group.lengths})


def span_tested(group: Group, seq_len: int, threshold: float | None = None) -> Span:
    """The span over the lengths that runs trained at ``seq_len`` were **tested** at: how far a skill generalises.

    Only lengths from the trained one on count: a question earlier than any in training says little about memory.
    """
    if not group.at(seq_len) or rule(group.first, threshold) is None:
        return Span(None, False, {})
    tested = [length for length in group.tested_lengths(seq_len) if length >= seq_len]
    return _span({length: solved_count(group.at(seq_len), threshold, at=length) for length in tested})


def _span(counts: Mapping[int, Solved]) -> Span:
    length = None
    for tried, count in counts.items():
        if not count.half:
            break
        length = tried
    beyond = tuple(tried for tried, count in counts.items() if count.half and tried > (length or 0))
    return Span(length, bool(counts) and length == max(counts), counts, beyond)


# Steps to solve, and the numbers of probes


@dataclass(frozen=True)
class StepsToSolve:
    """``steps``: median over all seeds with its interval; a seed that never solved the task counts as infinite.

    ``budget``: the fewest and the most updates of the unsolved seeds; None: all solved.
    """

    solved: Solved
    steps: Interval
    budget: tuple[int, int] | None

    def __str__(self) -> str:
        if not self.solved.n:
            return "-"
        if isinf(self.steps.median):
            return f"> {self.budget[0]}" if self.budget is not None else "-"
        return f"{self.steps.median:g}"


def steps_to_solve(runs: Sequence[Run]) -> StepsToSolve:
    """Steps until the task's own rule was met during training, whatever the threshold of the report."""
    unsolved = [run.steps for run in runs if run.steps_to_solve is None]
    steps = median_interval([inf if run.steps_to_solve is None else run.steps_to_solve for run in runs])
    budget = (min(unsolved), max(unsolved)) if unsolved else None
    return StepsToSolve(Solved(len(runs) - len(unsolved), len(runs)), steps, budget)


def number_interval(runs: Iterable[Run], probe: str, name: str, when: str) -> Interval:
    """The median of a probe's number at the ``start`` or the ``end`` of training, over the runs that have one."""
    values = (run.number(probe, name, when) for run in runs)
    return median_interval(value for value in values if not isnan(value))


# Two groups of seeds


@dataclass(frozen=True)
class Bimodal:
    """Seeds in two groups: of ``n`` seeds ``high`` reach ``goal``, and ``low`` stay on the wrong side of ``line``."""

    high: int
    low: int
    n: int
    goal: float
    line: float
    metric: Metric

    def __str__(self) -> str:
        side = "below" if self.metric.higher_is_better else "above"
        return (
            f"{self.high} of {self.n} seeds reach {self.metric.text(self.goal)}, "
            f"{self.low} of {self.n} stay {side} {self.metric.text(self.line)}"
        )


WAY = 2 / 3
"""Share of the way from chance to the goal; a seed that stays below has not nearly solved the task."""

SHARE = 0.2
"""The smallest share of the seeds that makes a group; never fewer than two seeds."""


def bimodality(runs: Sequence[Run], threshold: float | None = None, *, at: int | None = None) -> Bimodal | None:
    """The two groups that the seeds fall into: at least two seeds and a fifth of them have solved the task, at least
    two and a fifth are not even two thirds of the way from chance to the goal, and fewer are between than in either.

    A descriptive criterion, not a test: neither a median nor a mean describes any of such seeds. None: they do not
    fall into two groups, or there is no chance level or no rule to tell.
    """
    runs = [run for run in runs if at is None or at in run.by_length]
    if not runs:
        return None
    first, goal = runs[0], rule(runs[0], threshold)
    if first.chance is None or goal is None or goal == first.chance:
        return None
    scores = badly(
        [run.score if at is None else run.by_length[at] for run in runs], higher_is_better=first.higher_is_better
    )
    way = (badly(scores, higher_is_better=first.higher_is_better) - first.chance) / (goal - first.chance)
    reached = sum(reaches(run, score, threshold) for run, score in zip(runs, scores.tolist(), strict=True))
    low, n = int((way < WAY).sum()), len(runs)
    least = max(2, SHARE * n)
    if reached < least or low < least or n - reached - low >= min(reached, low):
        return None
    line = first.chance + WAY * (goal - first.chance)
    return Bimodal(int(reached), low, n, goal, line, first.metric)


# Two cells


FEWEST = next(n for n in range(1, 99) if 2.0 ** (1 - n) <= ALPHA)
"""With fewer pairs of seeds no paired test can show a difference at ALPHA, even if one cell wins every time: 6."""


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two groups at one trained length, paired by seed: the same seed has the same data.

    Args:
        differences: a's score minus b's, by seed, turned so that positive is better for a; infinite where one of them
            diverged.
        difference: their median with its interval, in units of the metric (fractions for an accuracy).
        wins, ties, losses: of a.
        p: of the exact two-sided sign test, ties left out; ``adjusted``: with Holm's correction (Holm 1979) for all
            comparisons of the task in a report; equal to ``p`` for a single comparison.
    """

    a: Group
    b: Group
    seq_len: int
    differences: Mapping[int, float]
    difference: Interval
    wins: int
    ties: int
    losses: int
    p: float
    adjusted: float
    bimodal: tuple[Bimodal | None, Bimodal | None]
    solved: tuple[Solved, Solved]

    @property
    def n(self) -> int:
        return len(self.differences)

    @property
    def earned(self) -> bool:
        """True if there are enough seeds to show a difference at all."""
        return self.n >= FEWEST

    @property
    def shown(self) -> bool:
        """True if a difference is significant at ALPHA."""
        return self.earned and self.adjusted <= ALPHA

    @property
    def verdict(self) -> str:
        """The result in one sentence."""
        a, b, n = self.a.label, self.b.label, self.n
        if not n:
            return f"{a} and {b} have no seed in common at length {self.seq_len}, so they cannot be compared in pairs."
        if not self.earned:
            seeds = "1 common seed" if n == 1 else f"{n} common seeds"
            return f"{seeds} cannot show a difference at the {100 * ALPHA:.0f} % level; it takes {FEWEST}."
        better, worse, wins = (a, b, self.wins) if self.wins >= self.losses else (b, a, self.losses)
        if self.shown:
            return f"{better} is better than {worse} with {wins} of {n} seeds ({self.p_text})."
        if self.ties == n:
            return f"{a} and {b} score the same with each of {n} seeds."
        return (
            f"No difference is shown: {a} is better with {self.wins}, {b} with {self.losses} of {n} seeds "
            f"({self.p_text})."
        )

    @property
    def p_text(self) -> str:
        p = "p < 0.001" if self.adjusted < 0.001 else f"p = {self.adjusted:.2g}"
        return f"sign test, {p}"

    @property
    def difference_text(self) -> str:
        """``+75.0 points [74.1, 76.0]``, positive where a is better; with its level where it is not LEVEL."""
        scale, unit = (100, " points") if self.a.first.metric.percent else (1, "")
        interval = self.difference
        if not interval.n:
            return "-"
        digits = ".1f" if unit else ".3g"
        level = f" ({100 * interval.level:.0f} %)" if interval.level < LEVEL and interval.n > 1 else ""
        ends = f" [{scale * interval.low:+{digits}}, {scale * interval.high:+{digits}}]" if interval.n > 1 else ""
        return f"{scale * interval.median:+{digits}}{unit}{ends}{level}"


def comparison(a: Group, b: Group, seq_len: int, threshold: float | None = None) -> Comparison:
    """Compare two groups of one task at a length that both were trained at."""
    ours, theirs = a.runs.get(seq_len, {}), b.runs.get(seq_len, {})
    seeds = sorted(ours.keys() & theirs.keys())
    better = a.first.higher_is_better
    scores = [badly([runs[seed].score for seed in seeds], higher_is_better=better) for runs in (ours, theirs)]
    with np.errstate(invalid="ignore"):
        differences = np.where(scores[0] == scores[1], 0.0, scores[0] - scores[1]) * (1 if better else -1)
    wins, losses = int((differences > 0).sum()), int((differences < 0).sum())
    p = sign_test(wins, losses)
    return Comparison(
        a=a,
        b=b,
        seq_len=seq_len,
        differences=dict(zip(seeds, differences.tolist(), strict=True)),
        difference=median_interval(differences),
        wins=wins,
        ties=len(seeds) - wins - losses,
        losses=losses,
        p=p,
        adjusted=p,
        bimodal=(bimodality(a.at(seq_len), threshold), bimodality(b.at(seq_len), threshold)),
        solved=(solved_count(a.at(seq_len), threshold), solved_count(b.at(seq_len), threshold)),
    )


def sign_test(wins: int, losses: int) -> float:
    """p of the exact two-sided sign test: the probability of a count as uneven if each pair is a fair coin toss.

    1 for no pairs.
    """
    n = wins + losses
    tail = sum(comb(n, k) for k in range(max(wins, losses), n + 1))
    return min(1.0, 2 * tail / 2**n) if n else 1.0


def telling_length(a: Group, b: Group, threshold: float | None = None) -> int | None:
    """The length at which a comparison of the two says most: of the lengths trained at by both with the most common
    seeds, the longest that either solves, else the longest. None: they have no seed and length in common.

    It is symmetric in the two groups, so it favours neither.
    """
    common = {length: len(a.runs[length].keys() & b.runs[length].keys()) for length in a.lengths if length in b.runs}
    most = max(common.values(), default=0)
    shared = [length for length, count in common.items() if count == most and most]
    solved = [length for length in shared if any(solved_count(group.at(length), threshold).half for group in (a, b))]
    return max(solved or shared, default=None)


def comparisons(collection: Collection, threshold: float | None = None) -> list[Comparison]:
    """Every pair of groups of each task, at its telling length; p adjusted over the task's earned pairs."""
    by_task: dict[str, list[Group]] = {}
    for group in collection.groups:
        by_task.setdefault(group.task, []).append(group)
    adjusted = []
    for groups in by_task.values():
        pairs = [
            comparison(a, b, length, threshold)
            for a, b in combinations(groups, 2)
            if (length := telling_length(a, b, threshold)) is not None
        ]
        adjusted += _holm(pairs)
    return adjusted


def _holm(pairs: Sequence[Comparison]) -> list[Comparison]:
    """The same pairs in the same order, with ``adjusted``."""
    earned = sorted((pair for pair in pairs if pair.earned), key=lambda pair: pair.p)
    adjusted, so_far = {}, 0.0
    for i, pair in enumerate(earned):
        so_far = max(so_far, min(1.0, (len(earned) - i) * pair.p))
        adjusted[id(pair)] = so_far
    return [replace(pair, adjusted=adjusted.get(id(pair), pair.p)) for pair in pairs]


@dataclass(frozen=True, eq=False)
class TwoGroups:
    """Runs of ``group`` trained at ``seq_len`` and tested at ``at`` whose seeds fall into two groups."""

    group: Group
    seq_len: int
    at: int
    bimodal: Bimodal


def two_groups(collection: Collection, threshold: float | None = None) -> list[TwoGroups]:
    """Every group and trained length whose seeds fall into two groups at a tested length, from the trained one on.

    It is named at the tested length at which the smaller of its two groups is largest, the shortest of several.
    """
    splits = []
    for group in collection.groups:
        for length in group.lengths:
            runs = group.at(length)
            tested = [at for at in group.tested_lengths(length) if at >= length]
            both = [(at, split) for at in tested if (split := bimodality(runs, threshold, at=at)) is not None]
            if (own := bimodality(runs, threshold)) is not None and all(at != length for at, _ in both):
                both.insert(0, (length, own))
            if both:
                at, split = max(both, key=lambda pair: min(pair[1].high, pair[1].low))
                splits.append(TwoGroups(group, length, at, split))
    return splits
