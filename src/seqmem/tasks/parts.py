"""The data of a run in three parts: training, validation (evaluations during training), test (final scores).

Stored data have such parts themselves. Of generated data, a small space is split by the content of its sequences
(``spaces``); in a large one, draws from different streams hardly ever meet.

Axes: T time, B batch.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from math import ceil, sqrt
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool
from torch import Tensor

from ..signals import Batch
from ..spaces import LARGE, Space
from .base import Task


@runtime_checkable
class Data(Protocol):
    """What draws batches: a task, or a part of its sequences."""

    def sample(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Batch: ...

    def samples(self, batch_size: int, seq_len: int, rngs: Sequence[torch.Generator]) -> list[Batch]: ...


@dataclass(frozen=True)
class Parts:
    """``trained``: the lengths that training draws. At other lengths nothing was trained on, so nothing is left out."""

    task: Task
    trained: Collection[int] = ()

    @property
    def training(self) -> Data:
        return _Folds(self.task, self.trained, "training")

    @property
    def validation(self) -> Data:
        """For evaluations during training, and for whatever is chosen by them."""
        return _Folds(self.task.validation(), self.trained, "validation")

    @property
    def test(self) -> Data:
        """For the final scores alone."""
        return _Folds(self.task.held_out(), self.trained, "test")

    def about(self, draws: int) -> str | None:
        """What is held out of generated data, in words; None: the space is so large that it needs no word.

        Args:
            draws: sequences that training draws.
        """
        split: list[int] = []
        tiny: list[int] = []
        for length in self.trained:
            space = self.task.space(length)
            if space.size >= LARGE:
                break
            (split if space.split else tiny).append(length)
        sentences = []
        if split:
            space = self.task.space(split[-1])
            count = f"{space.size:,.0f} " if len(split) == 1 else ""
            sentences.append(f"1 in {space.folds} of the {count}sequences of {_range(split)} timesteps")
        if tiny:
            count = f"the {self.task.space(tiny[-1]).size:.0f} " if len(tiny) == 1 else "fewer than 100 "
            sentences.append(f"none of {count}sequences of {_range(tiny)} timesteps: training draws them all")
        if not sentences and self.trained:
            least = self.task.space(min(self.trained)).size
            if draws / least > 1e-3:
                sentences.append(f"nothing of {least:.2g} sequences, of which training draws {draws / least:.1%}")
        return "; ".join(sentences) or None


def _range(numbers: Sequence[int]) -> str:
    return f"{numbers[0]}" if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"


@dataclass(frozen=True)
class _Folds:
    """A part of a task: at lengths whose space is split, the sequences of some folds."""

    task: Task
    trained: Collection[int]
    part: str

    def sample(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Batch:
        if self._space(seq_len) is None:
            return self.task.sample(batch_size, seq_len, rng)
        return self.samples(batch_size, seq_len, [rng])[0]

    def samples(self, batch_size: int, seq_len: int, rngs: Sequence[torch.Generator]) -> list[Batch]:
        space = self._space(seq_len)
        if space is None:
            return self.task.samples(batch_size, seq_len, rngs)
        mine = self._mine(space)
        # Each batch draws from its own generator, alone or together with others, until it has its sequences. One round
        # is usually enough.
        share = int(mine.sum()) / len(mine)
        many = ceil(batch_size / share + 3 * sqrt(batch_size) / share)
        parts: list[list[Batch]] = [[] for _ in rngs]
        missing = [batch_size] * len(rngs)
        while any(missing):
            waiting = [place for place, count in enumerate(missing) if count]
            drawn = self.task.samples(many, seq_len, [rngs[place] for place in waiting])
            folds = self.task.fold(torch.cat([batch.inputs for batch in drawn], 1)).view(len(drawn), many)
            for place, batch, fold in zip(waiting, drawn, mine[folds], strict=True):
                chosen = fold.nonzero()[: missing[place], 0]
                parts[place].append(Batch(*(tensor[:, chosen] for tensor in vars(batch).values())))
                missing[place] -= len(chosen)
        return [_joined(some) for some in parts]

    def _space(self, seq_len: int) -> Space | None:
        """The space, if a part of it is left out at this length."""
        if seq_len not in self.trained:
            return None
        space = self.task.space(seq_len)
        return space if space.split else None

    def _mine(self, space: Space) -> Bool[Tensor, " folds"]:
        """The folds of this part."""
        fold = torch.arange(space.folds)
        if self.part == "training":
            return (fold != 0) & (fold != space.validation)
        return fold == (0 if self.part == "test" else space.validation)


def _joined(batches: Sequence[Batch]) -> Batch:
    if len(batches) == 1:
        return batches[0]
    return Batch(*(torch.cat(tensors, 1) for tensors in zip(*(vars(one).values() for one in batches), strict=True)))
