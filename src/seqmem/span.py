"""The memory span of a cell: the longest sequence it can learn, found with few questions.

After the digit-span test (Jacobs 1887, Experiments on "prehension"): read longer and longer lists to a person until
they fail. Here a question is "is the task solved at this length, by at least half of the seeds?", and costs trainings,
so lengths are doubled until the answer is no, and the border is then bisected. Lengths are in timesteps. Nothing is
trained here and nothing is read or written: the questions go to a function.

Bisection takes for granted that what is solved at one length is solved at every shorter one. Where it is not, the
search still ends at a length that was solved and a longer one, next to it within the resolution, that was not; but
there may be solved lengths beyond, and unsolved ones below, that it never asked about.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

RESOLUTION = 0.05

Ended = Literal["found", "longest", "shortest", "budget"]


@dataclass(frozen=True)
class Span:
    """What a search has found.

    Args:
        solved: the longest length that was solved; None: none was.
        failed: the shortest length beyond ``solved`` that was not; None: none was.
        ended: ``found``: between the two there is nothing left to ask at the resolution wanted; ``longest``: the
            longest length allowed is solved; ``shortest``: the shortest one is not; ``budget``: the next question was
            too dear.
        asked: the lengths asked, in order, and whether each was solved.
    """

    solved: int | None
    failed: int | None
    ended: Ended
    asked: tuple[tuple[int, bool], ...]


def search(
    ask: Callable[[int], bool | None], *, start: int, shortest: int, longest: int, resolution: float = RESOLUTION
) -> Span:
    """Double the length from ``start`` until it is not solved, halve it if ``start`` is not; bisect what is between.

    No length is asked twice, so there are at most about log2(longest / start), or log2(start / shortest), and then
    log2(1 / resolution) questions.

    Args:
        ask: whether a length is solved; None: the budget does not allow the question, and the search ends.
        start: the first length to ask.
        shortest, longest: no length outside them is asked.
        resolution: bisection ends when solved and failed lengths are this share of the solved one apart, or neighbours.

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


def still_needed(seeds: int, solved: int, failed: int) -> int:
    """How many more seeds must be run before the question "solved by at least half?" can be decided; 0: it is.

    So many can be run at once without one of them being for nothing.

    Args:
        seeds: of the whole question.
        solved, failed: of those that were run.
    """
    to_solve = (seeds + 1) // 2 - solved
    to_fail = seeds - (seeds + 1) // 2 + 1 - failed
    return max(0, min(to_solve, to_fail))
