"""Statistics over seeds: medians with intervals, solved k of n, memory span, comparisons of two cells.

A network learns a memory or does not, so scores over seeds often fall into two groups. Medians and counts are used
instead of means, and nothing assumes a normal distribution. A run that diverged has no score: it counts in every
number, as one that has not solved its task, and is worse than any score.

Axes: n seeds.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, count, takewhile
from math import comb, inf, isinf, isnan

import numpy as np

from ..metrics import Metric
from ..solved import FEWEST, LEVEL, Bounds, Solved, order_rank, percent, solved_after, span_bounds
from .collect import Collection, Group, Run
from .levels import chance_at

ALPHA = 0.05
"""Significance level of every test, two-sided."""

DEFAULT_THRESHOLD = 0.99
"""The accuracy that counts as solved where the task has no rule of its own."""


# Medians


@dataclass(frozen=True)
class Interval:
    """The median of ``n`` numbers and its interval. ``low`` and ``high`` are among the numbers; ``level``: with how
    much confidence they enclose the median of all seeds. Without numbers, all are NaN."""

    median: float
    low: float
    high: float
    n: int
    level: float = LEVEL

    @property
    def level_text(self) -> str:
        """``93.8 %``; empty for a single number, which has no interval."""
        return percent(self.level) if self.n > 1 else ""


def median_interval(values: Iterable[float | int], *, level: float = LEVEL) -> Interval:
    """The median with its exact interval by order statistics, see ``solved.order_rank``.

    Nothing is assumed of the numbers but that they are independent. Their order alone counts, so they may be infinite.

    Args:
        values: finite or infinite.
        level: the least confidence; the interval says its own, which is less where there are too few numbers.

    Raises:
        ValueError: a value is NaN.
    """
    ordered = np.sort(np.fromiter(values, dtype=np.float64))
    n = len(ordered)
    if np.isnan(ordered).any():
        raise ValueError("a median of NaN: give it a place in the order first, as badly() does")
    if not n:
        return Interval(np.nan, np.nan, np.nan, 0, 0.0)
    rank, confidence = order_rank(n, level)
    median = _mean(float(ordered[(n - 1) // 2]), float(ordered[n // 2]))
    return Interval(median, float(ordered[rank - 1]), float(ordered[n - rank]), n, confidence)


def _mean(a: float, b: float) -> float:
    if a == b:  # infinite ones too
        return a
    return 0.0 if isinf(a) and isinf(b) else a / 2 + b / 2


def badly(scores: Iterable[float | int], *, higher_is_better: bool) -> np.ndarray:
    """Scores with NaN as the worst possible one: a run that diverged has not solved anything."""
    values = np.fromiter(scores, dtype=np.float64)
    return np.where(np.isnan(values), -inf if higher_is_better else inf, values)


def score_interval(runs: Sequence[Run], *, at: int | None = None) -> Interval:
    """The median score over runs of one group: at the trained length, or at a tested one."""
    if not runs:
        return median_interval([])
    scores = [score for run in runs if (score := run.score_at(at)) is not None]
    return median_interval(badly(scores, higher_is_better=runs[0].higher_is_better))


def parameters(runs: Iterable[Run]) -> int | None:
    """How many the models of one label and length have: the seed changes none. None: no run has finished."""
    return next((run.parameters for run in runs if run.parameters is not None), None)


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


def is_solved(run: Run, threshold: float | None = None) -> bool:
    """True if the run is solved at its trained length."""
    return reaches(run, run.score, threshold)


def solved_count(
    runs: Iterable[Run], threshold: float | None = None, *, at: int | None = None, needed: int = 0
) -> Solved:
    """How many runs reach the goal at their trained length, or at a tested one (of those tested there).

    Args:
        needed: the fewest seeds by which it is judged, see ``Solved``.
    """
    scores = [(run, score) for run in runs if (score := run.score_at(at)) is not None]
    reached = sum(reaches(run, score, threshold) for run, score in scores)
    return Solved(reached, len(scores), sum(run.diverged for run, _ in scores), needed=needed)


def group_count(group: Group, seq_len: int, threshold: float | None = None) -> Solved:
    """How many seeds of a group solve the length they were trained at, with those that are not there."""
    count = solved_count(group.at(seq_len), threshold, needed=_needed(group))
    unfinished = len(group.unfinished.get(seq_len, ()))
    return replace(count, unfinished=unfinished, missing=max(0, group.most_seeds - count.n - unfinished))


def _needed(group: Group) -> int:
    return min(FEWEST, group.most_seeds)


# Memory span


@dataclass(frozen=True)
class Span:
    """The longest length that more than half of the seeds solve, as they do every shorter length that was tried.

    Args:
        length: timesteps; None: not even the shortest one is known to be solved, or there is no rule of success.
        open: no longer length was tried, or the next one has too few seeds to tell: the span may be longer.
        counts: length -> solved seeds, ascending; empty without a rule of success.
        beyond: lengths that are solved although a shorter one is not.
        undecided: lengths with too few seeds to tell.
    """

    length: int | None
    open: bool
    counts: Mapping[int, Solved]
    beyond: tuple[int, ...] = ()
    undecided: tuple[int, ...] = ()

    @property
    def known(self) -> bool:
        return bool(self.counts)

    @property
    def bounds(self) -> Bounds:
        """The interval of the span over all seeds, of which these are a sample."""
        return span_bounds(self.counts)

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
            return "undecided" if self.open else f"< {min(self.counts)}"
        return f">= {self.length}" if self.open else str(self.length)

    @property
    def failed(self) -> int | None:
        """The shortest length that is not solved; None: there is none."""
        return next((length for length, count in self.counts.items() if count.verdict is False), None)


def memory_span(group: Group, threshold: float | None = None) -> Span:
    """The span over the lengths that runs of the group were **trained** at, each by runs of its own."""
    if rule(group.first, threshold) is None:
        return Span(None, False, {})
    lengths = sorted({*group.lengths, *group.unfinished})
    return _span({length: group_count(group, length, threshold) for length in lengths})


def span_tested(group: Group, seq_len: int, threshold: float | None = None) -> Span:
    """The span over the lengths that runs trained at ``seq_len`` were **tested** at: how far a skill generalises.

    Only lengths from the trained one on count: a question earlier than any in training says little about memory.
    """
    runs, needed = group.at(seq_len), _needed(group)
    if not runs or rule(group.first, threshold) is None:
        return Span(None, False, {})
    # The trained length first: runs that diverged, all of them perhaps, were tested nowhere, and have failed there.
    tested = sorted({seq_len, *(length for length in group.tested_lengths(seq_len) if length > seq_len)})
    at = {length: length if length in group.tested_lengths(seq_len) else None for length in tested}
    return _span({length: solved_count(runs, threshold, at=at[length], needed=needed) for length in tested})


def _span(counts: Mapping[int, Solved]) -> Span:
    solved = list(takewhile(lambda tried: counts[tried].most, counts))
    length = solved[-1] if solved else None
    following = list(counts)[len(solved) : len(solved) + 1]
    return Span(
        length,
        open=bool(counts) and all(counts[tried].verdict is None for tried in following),
        counts=counts,
        beyond=tuple(tried for tried, count in counts.items() if count.most and tried > (length or 0)),
        undecided=tuple(tried for tried, count in counts.items() if count.verdict is None),
    )


# Steps to solve, and the numbers of probes


@dataclass(frozen=True)
class StepsToSolve:
    """``steps``: median over all seeds with its interval; a seed that has not solved the task counts as infinite.

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


def run_solved_after(run: Run, threshold: float | None = None) -> int | None:
    """Updates until a run first met the rule by which it is solved at its end; None: it is not."""
    goal = rule(run, threshold)
    if goal is None or not is_solved(run, threshold):
        return None
    return solved_after(run.first_reached(goal), run.steps, solved=True)


def steps_to_solve(runs: Sequence[Run], threshold: float | None = None) -> StepsToSolve:
    """Steps until a run met the rule, of the runs that meet it at the end: ``solved`` is that of ``solved_count``."""
    after = [run_solved_after(run, threshold) for run in runs]
    unsolved = [run.steps for run, steps in zip(runs, after, strict=True) if steps is None]
    steps = median_interval([inf if steps is None else steps for steps in after])
    budget = (min(unsolved), max(unsolved)) if unsolved else None
    return StepsToSolve(Solved(len(runs) - len(unsolved), len(runs)), steps, budget)


def number_interval(runs: Iterable[Run], probe: str, name: str, when: str) -> Interval:
    """The median of a probe's number at the ``start`` or the ``end`` of training, over the runs that have one."""
    values = (run.number(probe, name, when) for run in runs)
    return median_interval(value for value in values if not isnan(value))


# Two groups of seeds


@dataclass(frozen=True)
class Bimodal:
    """Seeds in two groups: of ``n`` seeds ``high`` reach ``goal``, and ``low`` stay on the wrong side of ``line``, of
    which ``diverged`` have no score."""

    high: int
    low: int
    diverged: int
    n: int
    goal: float
    line: float
    metric: Metric

    def __str__(self) -> str:
        side = "below" if self.metric.higher_is_better else "above"
        fallen = f" ({self.diverged} of them diverged)" if self.diverged else ""
        return (
            f"{self.high} of {self.n} seeds reach {self.metric.text(self.goal)}, "
            f"{self.low} of {self.n} stay {side} {self.metric.text(self.line)}{fallen}"
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
    tested = [(run, score) for run in runs if (score := run.score_at(at)) is not None]
    runs = [run for run, _ in tested]
    if not runs:
        return None
    first, goal = runs[0], rule(runs[0], threshold)
    length = first.seq_len if at is None else at
    chance = chance_at(runs[:1], length)
    if chance is None or goal is None or goal == chance:
        return None
    scores = badly([score for _, score in tested], higher_is_better=first.higher_is_better)
    way = (badly(scores, higher_is_better=first.higher_is_better) - chance) / (goal - chance)
    reached = sum(reaches(run, score, threshold) for run, score in zip(runs, scores.tolist(), strict=True))
    low, n = int((way < WAY).sum()), len(runs)
    least = max(2, SHARE * n)
    if reached < least or low < least or n - reached - low >= min(reached, low):
        return None
    line = chance + WAY * (goal - chance)
    return Bimodal(int(reached), low, sum(run.diverged for run in runs), n, goal, line, first.metric)


# Two cells


@dataclass(frozen=True, eq=False)
class Comparison:
    """Two groups at one trained length, paired by seed: the same seed has the same data.

    Args:
        differences: a's score minus b's, by seed, turned so that positive is better for a; infinite where one of them
            diverged, NaN where both did.
        difference: their median with its interval, in units of the metric (fractions for an accuracy), without the
            pairs of which both diverged.
        wins, ties, losses: of a; ``both_diverged``: pairs without a score, which are no tie.
        p: of the exact two-sided sign test, ties left out; ``adjusted``: with Holm's correction (Holm 1979) for all
            comparisons of the task in a report; equal to ``p`` for a single comparison.
        least: what ``adjusted`` is if every seed of every comparison had decided alike: no result is below. ``needed``:
            seeds of each with which that is ALPHA or less.
    """

    a: Group
    b: Group
    seq_len: int
    differences: Mapping[int, float]
    difference: Interval
    wins: int
    ties: int
    losses: int
    both_diverged: int
    p: float
    adjusted: float
    least: float
    needed: int
    bimodal: tuple[Bimodal | None, Bimodal | None]
    solved: tuple[Solved, Solved]

    @property
    def n(self) -> int:
        return len(self.differences)

    @property
    def earned(self) -> bool:
        """True if there are enough seeds to show a difference at all: FEWEST."""
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
            return f"{better} is better than {worse} with {wins} of {n} seeds{self._diverged_text} ({self.p_text})."
        if self.both_diverged == n:
            return f"{a} and {b} both diverged with each of {n} seeds: there is no score to compare."
        if self.ties == n:
            return f"{a} and {b} score the same with each of {n} seeds."
        return (
            f"No difference is shown: {a} is better with {self.wins}, {b} with {self.losses} of {n} seeds"
            f"{self._diverged_text} ({self.p_text}{self._least_text})."
        )

    @property
    def _least_text(self) -> str:
        if self.least <= ALPHA:
            return ""
        return f"; with so many pairs of cells {self.n} seeds give {self.least:.2g} at best, it takes {self.needed}"

    @property
    def _diverged_text(self) -> str:
        return f", both diverged with {self.both_diverged}" if self.both_diverged else ""

    @property
    def record(self) -> str:
        """``7-1-0``: won, tied, lost; with the pairs of which both diverged."""
        both = f" ({self.both_diverged} both diverged)" if self.both_diverged else ""
        return f"{self.wins}-{self.ties}-{self.losses}{both}"

    @property
    def p_text(self) -> str:
        p = "p < 0.001" if self.adjusted < 0.001 else f"p = {self.adjusted:.2g}"
        return f"sign test, {p}"

    @property
    def difference_text(self) -> str:
        """``+75.0 points [74.1, 76.0] (98.4 %)``, positive where a is better."""
        scale, unit = (100, " points") if self.a.first.metric.percent else (1, "")
        interval = self.difference
        if not interval.n:
            return "-"
        digits = ".1f" if unit else ".3g"
        level = f" ({interval.level_text})" if interval.level_text else ""
        ends = f" [{scale * interval.low:+{digits}}, {scale * interval.high:+{digits}}]" if interval.n > 1 else ""
        return f"{scale * interval.median:+{digits}}{unit}{ends}{level}"


def comparison(a: Group, b: Group, seq_len: int, threshold: float | None = None) -> Comparison:
    """Compare two groups of one task at a length that both were trained at."""
    ours, theirs = a.runs.get(seq_len, {}), b.runs.get(seq_len, {})
    seeds = sorted(ours.keys() & theirs.keys())
    better = a.first.higher_is_better
    scores = [badly([runs[seed].score for seed in seeds], higher_is_better=better) for runs in (ours, theirs)]
    diverged = [ours[seed].diverged and theirs[seed].diverged for seed in seeds]
    with np.errstate(invalid="ignore"):
        differences = np.where(scores[0] == scores[1], 0.0, scores[0] - scores[1]) * (1 if better else -1)
    differences = np.where(diverged, np.nan, differences)
    wins, losses = int((differences > 0).sum()), int((differences < 0).sum())
    p = sign_test(wins, losses)
    return Comparison(
        a=a,
        b=b,
        seq_len=seq_len,
        differences=dict(zip(seeds, differences.tolist(), strict=True)),
        difference=median_interval(differences[~np.isnan(differences)]),
        wins=wins,
        ties=len(seeds) - wins - losses - sum(diverged),
        losses=losses,
        both_diverged=sum(diverged),
        p=p,
        adjusted=p,
        least=sign_test(len(seeds), 0),
        needed=seeds_needed(1),
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


def seeds_needed(pairs: int) -> int:
    """The fewest seeds with which one of so many comparisons can be significant at ALPHA with Holm's correction."""
    return next(n for n in count(1) if pairs * sign_test(n, 0) <= ALPHA)


def telling_length(a: Group, b: Group, threshold: float | None = None) -> int | None:
    """The length at which a comparison of the two says most: of the lengths trained at by both with the most common
    seeds, the longest that either solves, else the longest. None: they have no seed and length in common.

    It is symmetric in the two groups, so it favours neither.
    """
    common = {length: len(a.runs[length].keys() & b.runs[length].keys()) for length in a.lengths if length in b.runs}
    most = max(common.values(), default=0)
    shared = [length for length, count in common.items() if count == most and most]
    solved = [length for length in shared if any(group_count(group, length, threshold).most for group in (a, b))]
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
    earned = [pair for pair in pairs if pair.earned]
    adjusted = _step_down({id(pair): pair.p for pair in earned})
    least = _step_down({id(pair): pair.least for pair in earned})
    needed = seeds_needed(max(1, len(earned)))
    return [
        replace(
            pair,
            adjusted=adjusted.get(id(pair), pair.p),
            least=least.get(id(pair), pair.least),
            needed=needed,
        )
        for pair in pairs
    ]


def _step_down(values: Mapping[int, float]) -> dict[int, float]:
    """Holm's adjusted p of each."""
    adjusted, so_far = {}, 0.0
    for i, (key, p) in enumerate(sorted(values.items(), key=lambda pair: pair[1])):
        so_far = max(so_far, min(1.0, (len(values) - i) * p))
        adjusted[key] = so_far
    return adjusted


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
