"""The data of a run in three parts: what it trains on, what it looks at meanwhile, and what it is tested on.

Stored data have such parts themselves. Of generated data, a small space is split by the content of its sequences
(``spaces``); in a large one, draws from different streams hardly ever meet.

Axes: T time, B batch.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Int
from torch import Tensor

from ..signals import Batch
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
        """For the looks during training, and for whatever is chosen by them."""
        return _Folds(self.task.validation(), self.trained, "validation")

    @property
    def test(self) -> Data:
        """For the final scores alone."""
        return _Folds(self.task.held_out(), self.trained, "test")

    def about(self) -> str | None:
        """What is held out, in words; None: the space is so large that it needs no word."""
        return None


@dataclass(frozen=True)
class _Folds:
    """A part of a task: at lengths whose space is split, the sequences of some folds."""

    task: Task
    trained: Collection[int]
    part: str

    def sample(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Batch:
        space = self.task.space(seq_len) if seq_len in self.trained else None
        if space is None or not space.split:
            return self.task.sample(batch_size, seq_len, rng)
        drawn: list[Batch] = []
        missing = batch_size
        while missing > 0:  # each fold has its share of every draw, so this ends after about 1 / share of them
            batch = self.task.sample(batch_size, seq_len, rng)
            fold = self.task.fold(batch.inputs)
            of_training = (fold != 0) & (fold != space.validation)
            mine = {"training": of_training, "validation": fold == space.validation, "test": fold == 0}[self.part]
            drawn.append(_chosen(batch, mine.nonzero()[:missing, 0]))
            missing -= drawn[-1].asked.shape[1]
        return _joined(drawn)

    def samples(self, batch_size: int, seq_len: int, rngs: Sequence[torch.Generator]) -> list[Batch]:
        if seq_len in self.trained and self.task.space(seq_len).split:
            return [self.sample(batch_size, seq_len, rng) for rng in rngs]
        return self.task.samples(batch_size, seq_len, rngs)


def _chosen(batch: Batch, sequences: Int[Tensor, " n"]) -> Batch:
    return Batch(*(tensor[:, sequences] for tensor in vars(batch).values()))


def _joined(batches: Sequence[Batch]) -> Batch:
    return Batch(*(torch.cat(tensors, 1) for tensors in zip(*(vars(one).values() for one in batches), strict=True)))
