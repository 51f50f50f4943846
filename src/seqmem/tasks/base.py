"""What a memory task is.

Axes: T time, B batch. Time comes first.
"""

from abc import ABC, abstractmethod
from math import log
from typing import ClassVar

import torch
from jaxtyping import Shaped
from torch import Tensor

from ..signals import Batch, Signal


class Task(ABC):
    """Sequences to read, a question that needs memory, and a perfect memory's answer.

    A subclass is a frozen dataclass whose fields are its options; a bad option raises ValueError.
    ``seq_len`` always counts timesteps that the model reads.
    """

    name: ClassVar[str]
    """As on the command line: ``task=NAME``."""

    source: ClassVar[str]
    """Author and year of the definition."""

    @property
    @abstractmethod
    def inputs(self) -> Signal: ...

    @property
    @abstractmethod
    def targets(self) -> Signal: ...

    @property
    @abstractmethod
    def chance(self) -> float:
        """Score (in the targets' metric) of the best answer by somebody without a memory."""

    @property
    @abstractmethod
    def min_seq_len(self) -> int:
        """The shortest valid ``seq_len``."""

    @property
    def max_seq_len(self) -> int | None:
        """The longest valid ``seq_len``, in training and on held-out data; None: there is none."""
        return None

    @property
    def solved_at(self) -> float | None:
        """The score from which on the task counts as solved; None where there is no such point."""
        return 0.99

    @property
    def chunks(self) -> int:
        """How many consecutive batches are one passage, with the state carried from each to the next (1: none)."""
        return 1

    def baseline_loss(self, seq_len: int) -> float:
        """Loss (nats or squared error) of the best answer by somebody without a memory; by default -ln chance."""
        return -log(self.chance)

    @abstractmethod
    def sample(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Batch:
        """A batch that is a function of the arguments alone, on the CPU.

        Raises:
            ValueError: ``seq_len`` is below ``min_seq_len``, or a size is not positive.
        """

    @abstractmethod
    def solve(self, inputs: Shaped[Tensor, "T B ..."]) -> Shaped[Tensor, "T B ..."]:
        """A perfect memory's answer at every timestep, from the inputs alone; right wherever a batch asks."""

    @abstractmethod
    def words(self, inputs: Shaped[Tensor, "T ..."]) -> list[str]:
        """One sequence in words or symbols, one for each timestep, for people to read."""

    @abstractmethod
    def answer(self, target: Shaped[Tensor, "..."]) -> str:
        """One target, or one prediction brought into a target's form, for people to read."""

    def held_out(self) -> "Task":
        """The task over data that training never sees; for data that are generated afresh, the task itself."""
        return self

    def check(self, batch_size: int, seq_len: int) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: must be at least 1")
        if seq_len < self.min_seq_len:
            raise ValueError(f"seq_len={seq_len} is too short for task={self.name}: at least {self.min_seq_len}")
