"""A published figure beside ours: the difference, its interval, and a verdict.

A paper prints a mean, so means are compared here, though medians describe seeds better (``report.statistics``).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import atan, cos, inf, isfinite, nan, pi, sin, sqrt
from typing import Literal

from ..solved import LEVEL, share_interval
from .definition import Order, Paper, Row

Verdict = Literal["agrees", "differs", "cannot tell", "cannot be compared"]


@dataclass(frozen=True)
class Figure:
    """Ours. ``values``: one per seed; NaN of a seed that diverged, infinite where it did not solve its task.

    Args:
        candidate: the value of ``Paper.best_of`` that it was measured with; empty: there was no choice.
    """

    values: Sequence[float]
    candidate: str = ""

    @property
    def mean(self) -> float:
        return sum(self.values) / len(self.values) if self.values else nan

    @property
    def spread(self) -> float:
        """Standard deviation over seeds, with n - 1; NaN of one seed."""
        n, mean = len(self.values), self.mean
        return sqrt(sum((value - mean) ** 2 for value in self.values) / (n - 1)) if n > 1 else nan


@dataclass(frozen=True)
class Comparison:
    """One row of the table. The difference is ours minus the published figure; ``low`` to ``high`` is its interval, of
    95 % confidence, NaN where there is none. ``why``: of a verdict that says neither yes nor no.
    """

    row: Row
    ours: Figure
    difference: float
    low: float
    high: float
    verdict: Verdict
    why: str = ""


@dataclass(frozen=True)
class OrderComparison:
    """A published order beside ours. ``difference`` is by how much the first row does better, ``low`` to ``high`` its
    interval, of 95 % confidence, NaN where there is none.

    Args:
        solving: of both rows, where some seeds never solved the task: (how many solved it, seeds). The difference is
            that of these shares, then.
        why: of a verdict that says neither yes nor no.
    """

    order: Order
    difference: float
    low: float
    high: float
    verdict: Verdict
    why: str = ""
    solving: tuple[tuple[int, int], tuple[int, int]] | None = None


def best(figures: Sequence[Figure], *, lower: bool) -> Figure:
    """The one with the best mean, as papers choose a learning rate; a seed that diverged makes a mean the worst."""
    worst = inf if lower else -inf
    ranked = [worst if figure.mean != figure.mean else figure.mean for figure in figures]
    return figures[ranked.index(min(ranked) if lower else max(ranked))]


def compared(paper: Paper, row: Row, ours: Figure) -> Comparison:
    """Agreement needs the whole interval of the difference within the paper's margin and the rounding of the figure; a
    difference, an interval without zero that is not within it. Where a bound is published, the interval must lie on
    its side of it, or on the other. Anything else cannot be told with these seeds."""
    published = row.published
    if published is None or row.obstacle:
        why = row.obstacle or "no such figure is published"
        return Comparison(row, ours, nan, nan, nan, "cannot be compared", why)
    difference = ours.mean - published.value
    failed = [value for value in ours.values if not isfinite(value)]
    if failed:
        what = "did not solve the task" if paper.measure == "sequences" else "diverged"
        why = f"{len(failed)} of {len(ours.values)} seeds {what}"
        return Comparison(row, ours, difference, nan, nan, "cannot tell", why)
    if paper.measure == "solved":
        low, high = _difference_of_shares(ours.values, published.value, published.seeds)
    else:
        low, high = _difference_of_means(ours, published.value, published.spread, published.seeds)
    margin = paper.margin + published.rounding
    if published.bound and isfinite(low):
        # Signs turned so that above zero is on the bound's side.
        least, most = (low, high) if published.bound == ">" else (-high, -low)
        if least >= -published.rounding:
            return Comparison(row, ours, difference, low, high, "agrees")
        if most < -published.rounding:
            return Comparison(row, ours, difference, low, high, "differs")
        return Comparison(row, ours, difference, low, high, "cannot tell", "too few seeds for so much spread")
    if not isfinite(low):
        return Comparison(row, ours, difference, nan, nan, "cannot tell", "one seed has no spread")
    if -margin <= low and high <= margin:
        verdict: Verdict = "agrees"
    elif low > published.rounding or high < -published.rounding:
        verdict = "differs"
    else:
        return Comparison(row, ours, difference, low, high, "cannot tell", "too few seeds for so much spread")
    return Comparison(row, ours, difference, low, high, verdict)


def ordered(paper: Paper, order: Order, better: Figure, worse: Figure) -> OrderComparison:
    """The order agrees where the whole interval of the difference is beyond the paper's margin on the claimed side, and
    differs where it is on the other. Where seeds never solved the task, the shares of those that did are compared."""
    first, second = better.values, worse.values
    finite = all(map(isfinite, (*first, *second)))
    if not finite and (paper.measure != "sequences" or any(value != value for value in (*first, *second))):
        return OrderComparison(order, nan, nan, nan, "cannot tell", "seeds diverged")
    margin, solving = paper.margin, None
    if paper.measure == "solved" or not finite:
        if not finite:
            first, second = ([float(isfinite(value)) for value in values] for values in (first, second))
            margin, solving = 0.0, ((int(sum(first)), len(first)), (int(sum(second)), len(second)))
        share = sum(second) / len(second)
        difference = sum(first) / len(first) - share
        low, high = _difference_of_shares(first, share, len(second))
    elif min(len(first), len(second)) < 2:
        return OrderComparison(order, nan, nan, nan, "cannot tell", "one seed has no spread")
    else:
        sign = -1.0 if paper.lower_is_better else 1.0
        difference = sign * (better.mean - worse.mean)
        ends = _difference_of_means(better, worse.mean, worse.spread, len(second))
        low, high = sorted(sign * end for end in ends)
    verdict: Verdict = "agrees" if low > margin else "differs" if high < -margin else "cannot tell"
    why = ""
    if solving is not None and not any(solved for solved, _ in solving):
        why = "no seed of either solves the task"
    elif verdict == "cannot tell":
        close = -margin <= low and high <= margin
        why = "the difference is within the margin" if close else "too few seeds for so much spread"
    return OrderComparison(order, difference, low, high, verdict, why, solving)


def _difference_of_means(ours: Figure, value: float, spread: float | None, seeds: int | None) -> tuple[float, float]:
    """Welch's interval; a published mean without spread or number of seeds counts as exact."""
    n = len(ours.values)
    if n < 2:
        return nan, nan
    own = ours.spread**2 / n
    other = spread**2 / seeds if spread is not None and seeds is not None and seeds > 1 else 0.0
    total, difference = own + other, ours.mean - value
    if total == 0:
        return difference, difference
    free = total**2 / (own**2 / (n - 1) + (other**2 / (seeds - 1) if other and seeds else 0.0))
    half = student(int(free)) * sqrt(total)
    return difference - half, difference + half


def _difference_of_shares(values: Sequence[float], value: float, seeds: int | None) -> tuple[float, float]:
    """From the exact intervals of the two shares, whose distances are squared and added (Newcombe 1998).

    A published share of an unknown number of seeds counts as exact.
    """
    solved, n = round(sum(values)), len(values)
    share = solved / n
    low, high = share_interval(solved, n)
    least, most = (value, value) if seeds is None else share_interval(round(value * seeds), seeds)
    difference = share - value
    return difference - sqrt((share - low) ** 2 + (most - value) ** 2), difference + sqrt(
        (high - share) ** 2 + (value - least) ** 2
    )


def student(free: int, level: float = LEVEL) -> float:
    """The two-sided quantile of Student's t: with probability ``level`` |t| is at most this.

    Args:
        free: degrees of freedom, at least 1.
    """
    low, high = 0.0, 1e4
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, free) < level else (low, middle)
    return high


def _within(t: float, free: int) -> float:
    """The probability of |T| <= t, in closed form (Abramowitz & Stegun 1964, 26.7.3 and 26.7.4)."""
    angle = atan(t / sqrt(free))
    c, s = cos(angle), sin(angle)
    if free == 1:
        return 2 * angle / pi
    term = total = c if free % 2 else 1.0
    for k in range(3 if free % 2 else 2, free - 1, 2):
        term *= c * c * (k - 1) / k
        total += term
    return 2 / pi * (angle + s * total) if free % 2 else s * total
