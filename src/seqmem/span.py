"""The memory span of a cell: the longest sequence it can learn, found with few trainings.

After the digit-span test (Jacobs 1887, Experiments on "prehension"): read longer and longer lists to a person until
they fail. Here the question at each length is "do more than half of the seeds solve the task?", and each answer costs
trainings. So the length doubles until the answer is no, and the border is then bisected. Lengths are in timesteps. This
module trains nothing and reads or writes no files: it calls a function for each answer.

Bisection assumes that a cell that solves one length solves every shorter one. If that is false, the search still ends
with a solved length and a longer unsolved one within the resolution; but there may be solved lengths above and unsolved
ones below that were never tried.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

RESOLUTION = 0.05

Ended = Literal["found", "longest", "shortest", "budget"]


@dataclass(frozen=True)
class Span:
    """The result of a search.

    Args:
        solved: the longest solved length; None if there is none.
        failed: the shortest unsolved length above ``solved``; None if there is none.
        ended: why the search stopped. ``found``: the two are within the resolution; ``longest``: the longest allowed
            length is solved; ``shortest``: the shortest one is not; ``budget``: the next length exceeded the budget.
        asked: (length, solved) for each length tried, in order.
    """

    solved: int | None
    failed: int | None
    ended: Ended
    asked: tuple[tuple[int, bool], ...]


def search(
    ask: Callable[[int], bool | None], *, start: int, shortest: int, longest: int, resolution: float = RESOLUTION
) -> Span:
    """Double the length from ``start`` until it is unsolved, or halve it until it is solved; then bisect.

    No length is tried twice: about log2(longest / start) or log2(start / shortest) lengths at most, then
    log2(1 / resolution) more.

    Args:
        ask: returns True if a length is solved; None if the budget does not allow it, which ends the search.
        start: the first length to try.
        shortest, longest: bounds of the search.
        resolution: bisection ends when ``failed - solved <= resolution * solved``, or when they are neighbours.

    Raises:
        ValueError: not 1 <= shortest <= start <= longest, or a negative resolution.
    """
    if not 1 <= shortest <= start <= longest:
        raise ValueError(f"cannot start at {start}: lengths must be from {shortest} to {longest}")
    if not resolution >= 0:
        raise ValueError(f"resolution={resolution}: must not be negative")
    asked: list[tuple[int, bool]] = []
    solved: int | None = None
    failed: int | None = None

    def result(ended: Ended) -> Span:
        return Span(solved, failed, ended, tuple(asked))

    length = start
    while True:
        answer = ask(length)
        if answer is None:
            return result("budget")
        asked.append((length, answer))
        if answer:
            solved = length
        else:
            failed = length
        if failed is None:
            if length == longest:
                return result("longest")
            length = min(2 * length, longest)
        elif solved is None:
            if length == shortest:
                return result("shortest")
            length = max(length // 2, shortest)
        elif failed - solved <= max(1, resolution * solved):
            return result("found")
        else:
            length = (solved + failed) // 2
