"""How many seeds solve a length, what that shows, and when they did: the rule of ``span`` and ``report``. No torch.

A seed that diverged has not solved its task, and counts. A seed that was interrupted or killed, or that never ran, says
nothing: it is named beside the count.

Axes: n seeds.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import takewhile
from math import comb, exp, lgamma, log, log1p

LEVEL = 0.95
"""The confidence level of every interval, where there are seeds enough for it."""


# A majority


def decided(seeds: int, solved: int, failed: int) -> bool | None:
    """True: more than half of ``seeds`` solve it; False: that can no longer be; None: the other seeds decide.

    Args:
        seeds: number of seeds in total.
        solved, failed: numbers of finished seeds.
    """
    if 2 * solved > seeds:
        return True
    return False if seeds and 2 * failed >= seeds else None


def still_needed(seeds: int, solved: int, failed: int) -> int:
    """The least number of further seeds that can decide; 0 if decided. That many can run in parallel without waste."""
    to_solve = seeds // 2 + 1 - solved
    to_fail = (seeds + 1) // 2 - failed
    return max(0, min(to_solve, to_fail))


# Intervals


@lru_cache(maxsize=4096)
def order_rank(n: int, level: float = LEVEL) -> tuple[int, float]:
    """(r, confidence) of the exact interval of a median: from the r-th smallest to the r-th largest of n numbers.

    It misses the median of a continuous distribution if fewer than r numbers are below it, or above it, so its
    confidence is 1 - 2 P(Binomial(n, 1/2) < r) (Thompson 1936; David & Nagaraja 2003, Order Statistics, 7.1), and more
    where values are tied. r is the largest for which that is at least ``level``. Where none is, with fewer than FEWEST
    numbers, r is 1: the widest interval there is, with a confidence of 1 - 2^(1-n). (0, 0) without numbers.
    """
    if not n:
        return 0, 0.0
    rank, below, ways = 1, 1, 1  # P(fewer than rank) is below / 2^n
    while True:
        ways = ways * (n - rank + 1) // rank
        if 2 * (below + ways) / 2**n > 1 - level + 1e-12:
            return rank, 1 - 2 * below / 2**n
        below += ways
        rank += 1


FEWEST = next(n for n in range(1, 99) if order_rank(n)[1] >= LEVEL)
"""With fewer seeds nothing about most of the seeds can be shown at LEVEL, even if all of them agree: 6."""


@lru_cache(maxsize=65536)
def share_interval(k: int, n: int, level: float = LEVEL) -> tuple[float, float]:
    """The interval of a share of which k of n were seen (Clopper & Pearson 1934): at least ``level``, for any share.

    (0, 1) for n = 0.
    """
    if not n:
        return 0.0, 1.0
    low = 0.0 if k == 0 else _least_share(k, n, (1 - level) / 2)
    return low, 1.0 if k == n else 1 - _least_share(n - k, n, (1 - level) / 2)


def _least_share(k: int, n: int, tail: float) -> float:
    """The share with which at least k of n succeed with probability ``tail``."""
    logs = [lgamma(n + 1) - lgamma(i + 1) - lgamma(n - i + 1) for i in range(k, n + 1)]
    low, high = 0.0, 1.0
    for _ in range(52):
        share = (low + high) / 2
        hit, miss = log(share), log1p(-share)
        reached = sum(exp(ways + i * hit + (n - i) * miss) for i, ways in enumerate(logs, k))
        low, high = (share, high) if reached < tail else (low, share)
    return (low + high) / 2


def percent(level: float) -> str:
    """A confidence level: ``93.8 %``."""
    return f"{100 * level:.3g} %"


def bounds_text(low: int | None, high: int | None) -> str:
    """Bounds of a span: ``>= 10, < 50``; ``any length`` without either."""
    return ", ".join([f">= {low}"] * (low is not None) + [f"< {high}"] * (high is not None)) or "any length"


# Counts


@dataclass(frozen=True)
class Solved:
    """``k`` of ``n`` seeds solve it; ``diverged`` of the n have no score.

    Args:
        unfinished: further seeds that are running, or stopped before the end.
        missing: further seeds that were run at other lengths, and not at this one.
        needed: the fewest seeds by which it is judged, those of the other lengths.
    """

    k: int
    n: int
    diverged: int = 0
    unfinished: int = 0
    missing: int = 0
    needed: int = 0

    @property
    def verdict(self) -> bool | None:
        """True: most seeds solve it; False: they do not; None: too few are finished."""
        return decided(max(self.n, self.needed), self.k, self.n - self.k)

    @property
    def most(self) -> bool:
        return self.verdict is True

    @property
    def enough(self) -> bool:
        """As many seeds as the other lengths have, or as an interval needs."""
        return self.n >= max(1, self.needed)

    @property
    def sure(self) -> bool | None:
        """True: the interval of ``order_rank`` shows that most seeds solve it; False: that most do not."""
        rank, _ = order_rank(self.n)
        if not self.enough:
            return None
        return True if self.n - self.k < rank else False if self.k < rank else None

    def interval(self) -> tuple[float, float]:
        """Interval of the share of all seeds that would solve it."""
        return share_interval(self.k, self.n)

    @property
    def share_text(self) -> str:
        """``48-100 %``"""
        low, high = self.interval()
        return f"{100 * low:.0f}-{100 * high:.0f} %"

    @property
    def remarks(self) -> str:
        """``5 diverged, + 2 unfinished, + 1 missing``; empty where all seeds have a score."""
        parts = [f"{self.diverged} diverged"] * bool(self.diverged)
        parts += [f"+ {self.unfinished} unfinished"] * bool(self.unfinished)
        parts += [f"+ {self.missing} missing"] * bool(self.missing)
        return ", ".join(parts)

    def __str__(self) -> str:
        return f"{self.k}/{self.n}"


@dataclass(frozen=True)
class Bounds:
    """Bounds of a memory span in timesteps: at least ``low``, below ``high``; None: no such bound."""

    low: int | None
    high: int | None
    level: float

    def __str__(self) -> str:
        return f"{bounds_text(self.low, self.high)} ({percent(self.level)})" if self.level else "one seed"


def span_bounds(counts: Mapping[int, Solved]) -> Bounds:
    """The interval of a span: from the last of the lengths, ascending, that are surely solved, to the first of those
    that surely are not.

    It takes for granted that a cell that learns one length learns every shorter one. Lengths are tested in a fixed
    order, upwards for ``low`` and downwards for ``high``, up to the first that shows nothing, so that several tests
    are no less sure than one (Maurer, Hothorn & Lehmacher 1995). Lengths with fewer seeds than the others are left out.

    Args:
        counts: length -> seeds, ascending.
    """
    judged = {length: count for length, count in counts.items() if count.enough and count.n}
    low = high = None
    for length, count in judged.items():
        if count.sure is not True:
            break
        low = length
    for length, count in reversed(judged.items()):
        if count.sure is not False:
            break
        high = length
    return Bounds(low, high, min((order_rank(count.n)[1] for count in judged.values()), default=0.0))


def search_bounds(tried: Mapping[int, Solved], seeds: int) -> Bounds:
    """The interval of a span that was searched for: from the longest length that is surely solved to the shortest that
    surely is not.

    At a length seeds are drawn until a majority of ``seeds`` agree. Sure is a length where so few disagreed that
    ``luck`` has no more than its share of 1 - LEVEL, for each length tried is an occasion for it (Bonferroni); where
    there are too few seeds for that, none may disagree. The confidence is what the sum leaves, 0 where that is nothing.
    How many lengths are tried depends on the outcome, so this holds on average over searches. It takes for granted
    that what is solved at one length is solved at every shorter one.

    Args:
        tried: length -> the seeds that were needed to decide it, of ``seeds``.
    """
    to_solve, to_fail = seeds // 2 + 1, (seeds + 1) // 2
    few = [_most_others(majority, len(tried)) for majority in (to_solve, to_fail)]
    sure = [length for length, count in tried.items() if count.k >= to_solve and count.n - count.k <= few[0]]
    surely_not = [length for length, count in tried.items() if count.n - count.k >= to_fail and count.k <= few[1]]
    low, high = max(sure, default=None), min(surely_not, default=None)
    if low is not None and high is not None and low >= high:
        low = high = None
    return Bounds(low, high, max(0.0, 1 - len(tried) * max(luck(to_solve, few[0]), luck(to_fail, few[1]))))


def luck(majority: int, others: int) -> float:
    """The probability that, of seeds that a fair coin decides, ``majority`` agree on one side before more than
    ``others`` are on the other; it is less where the coin favours the other side."""
    return sum(comb(majority - 1 + i, i) / 2 ** (majority + i) for i in range(others + 1))


def _most_others(majority: int, lengths: int) -> int:
    some = takewhile(lambda others: lengths * luck(majority, others) <= 1 - LEVEL + 1e-12, range(majority))
    return max(some, default=0)


# When


def solved_after(first: int | None, steps: int, *, solved: bool) -> int | None:
    """Updates until a run had solved its task; None where it has not at its end, whatever was seen on the way.

    Args:
        first: the first evaluation during training that reached the goal; None: none did.
        steps: of the whole run: a run that only its last evaluation finds solved takes all of them.
    """
    return None if not solved else steps if first is None else first


def solved_words(first: int | None, *, solved: bool | None) -> str:
    """``solved at step 250``; empty where there is nothing to say. Arguments as for ``solved_after``."""
    if first is None:
        return "solved" if solved else ""
    return f"solved at step {first}" + (", but not at the end" if solved is False else "")
