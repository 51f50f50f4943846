"""What scores are compared with, length by length: chance, a constant answer, and what a part of the memory gives."""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import isclose
from typing import Protocol, runtime_checkable

from ..metrics import Metric
from ..runs.result import Scale

CHANCE, CONSTANT = "chance", "constant"


@dataclass(frozen=True)
class Level:
    """One score to compare with. ``scores``: length -> that score, ascending by length; at least one."""

    name: str
    scores: Mapping[int, float]

    @property
    def flat(self) -> bool:
        """True if it is the same at every length that is known."""
        first, *others = self.scores.values()
        return all(isclose(first, other, rel_tol=1e-9) for other in others)

    @property
    def ends(self) -> list[int]:
        """The lengths of its lowest and of its highest score, ascending; one length where it is flat."""
        if self.flat:
            return [next(iter(self.scores))]
        return sorted([min(self.scores, key=self.scores.__getitem__), max(self.scores, key=self.scores.__getitem__)])

    def at(self, length: int) -> float | None:
        """The score at a length; where that is not known, the one that all known lengths share; None: none is."""
        own = self.scores.get(length)
        return next(iter(self.scores.values())) if own is None and self.flat else own


@runtime_checkable
class Measured(Protocol):
    """A run. ``scales``: length -> how to read a score there, where the run says it."""

    @property
    def seq_len(self) -> int: ...

    @property
    def scales(self) -> Mapping[int, Scale]: ...


def levels(runs: Iterable[Measured], lengths: Collection[int]) -> list[Level]:
    """What scores of one task are compared with at ``lengths``, chance first.

    Runs of earlier versions say it of the length they were trained at alone: at another length a level has the score
    that all known lengths share, or none. A constant answer is left out where it scores chance everywhere.
    """
    scales: dict[int, Scale] = {}
    for run in runs:
        for length, scale in run.scales.items():
            scales.setdefault(length, scale)
    by_name: dict[str, dict[int, float]] = {}
    for length, scale in sorted(scales.items()):
        plateaus = [(plateau.memory, plateau.score) for plateau in scale.plateaus]
        for name, score in [(CHANCE, scale.chance), (CONSTANT, scale.constant), *plateaus]:
            if score is not None:
                by_name.setdefault(name, {})[length] = score
    if by_name.get(CONSTANT) == by_name.get(CHANCE):
        by_name.pop(CONSTANT, None)
    every = [Level(name, scores) for name, scores in by_name.items()]
    wanted = [Level(one.name, _at(one, lengths)) for one in every]
    return [one for one in wanted if one.scores]


def _at(level: Level, lengths: Collection[int]) -> dict[int, float]:
    return {length: score for length in sorted(lengths) if (score := level.at(length)) is not None}


def by_length(some: Iterable[Level]) -> list[Level]:
    """The same for axes without lengths: a level that depends on the length becomes one for each, ``chance at 20``."""
    apart: list[Level] = []
    for level in some:
        each = [Level(f"{level.name} at {length}", {length: score}) for length, score in level.scores.items()]
        apart += [level] if level.flat else each
    return apart


def chance_of(runs: Sequence[Measured]) -> Level | None:
    """Chance at the lengths that runs were trained at; None: not known."""
    return next((one for one in levels(runs, {run.seq_len for run in runs}) if one.name == CHANCE), None)


def chance_at(runs: Iterable[Measured], length: int) -> float | None:
    """Chance at a length; None: not known."""
    return next((level.at(length) for level in levels(runs, [length]) if level.name == CHANCE), None)


def level_words(metric: Metric, level: Level, *, where: str = "length ") -> str:
    """``25.0 %``, or ``0.125 at length 4 to 0.1583 at length 20``."""
    if level.flat:
        return metric.text(level.scores[level.ends[0]])
    return " to ".join(f"{metric.text(level.scores[length])} at {where}{length}" for length in level.ends)
