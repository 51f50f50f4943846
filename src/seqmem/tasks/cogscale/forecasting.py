"""What CogScale's two forecasting tasks share: one signal in three parts, of which passages are read.

Axes: T time, B batch, D numbers of an input.
"""

from abc import abstractmethod
from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...signals import Batch, Reals
from .base import CogScale

ENDS = (0.45, 0.45 + 0.1, 1.0)
"""Where the parts end: training, validation, test."""


@dataclass(frozen=True)
class Forecasting(CogScale):
    """Each timestep but the first ``delay`` asks for the input that follows so much later.

    A passage lies in its part. Where it is longer, it ends with the part, and what lies before that is read but not
    asked.
    """

    part: ClassVar[int] = 0
    dimensions: ClassVar[int]

    @abstractmethod
    def signal(self) -> Float[np.ndarray, "N D"]:
        """The whole signal, and ``delay`` timesteps more."""

    @abstractmethod
    def with_part(self, part: int) -> "Forecasting":
        """This task over another part."""

    @property
    def inputs(self) -> Reals:
        return Reals(self.dimensions)

    @property
    def targets(self) -> Reals:
        return Reals(self.dimensions)

    def validation(self) -> "Forecasting":
        return self.with_part(1)

    def held_out(self) -> "Forecasting":
        return self.with_part(2)

    @property
    def min_seq_len(self) -> int:
        """One question."""
        return self.given.delay + 1

    @property
    def max_seq_len(self) -> int:
        """The training part."""
        return int(ENDS[0] * self.given.length)

    def range_of(self, part: int) -> tuple[int, int]:
        """(first, end) of its timesteps."""
        ends = [0, *(int(end * self.given.length) for end in ENDS)]
        return ends[part], ends[part + 1]

    def sample(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Batch:
        """Passages that begin anywhere.

        Raises:
            ValueError: as in every task, or a passage is longer than the signal up to the end of the part.
        """
        self.check(batch_size, seq_len)
        first, end = self.range_of(self.part)
        if seq_len > end:
            raise ValueError(f"a passage of {seq_len} timesteps is too long for task={self.choice}: at most {end}")
        spare = max(0, end - first - seq_len)
        starts = min(first, end - seq_len) + torch.randint(spare + 1, (batch_size,), generator=rng)
        steps = torch.arange(seq_len)[:, None] + starts
        asked = (steps >= first) & (torch.arange(seq_len) >= self.given.delay)[:, None]
        inputs, targets = _whole(self.with_part(0))
        return Batch(inputs[steps], targets[steps], asked.float(), asked)

    @property
    def chance(self) -> float:
        """At the published length."""
        return self.chance_at(self.given.seq_len)

    def chance_at(self, seq_len: int) -> float:
        """The best affine function of the last input, over the questions of the test part."""
        return _errors(self.with_part(2), seq_len)[0]

    @property
    def constant(self) -> float:
        return self.constant_at(self.given.seq_len)

    def constant_at(self, seq_len: int) -> float:
        return _errors(self.with_part(2), seq_len)[1]

    @property
    def solved_at(self) -> float:
        """A tenth of chance."""
        return 0.1 * self.chance

    def words(self, inputs: Float[Tensor, "T D"]) -> list[str]:
        return [self.answer(numbers) for numbers in inputs]

    def answer(self, target: Float[Tensor, " D"]) -> str:
        return ",".join(f"{number:.2f}" for number in target.tolist())


@lru_cache
def _whole(task: Forecasting) -> tuple[Float[Tensor, "N D"], Float[Tensor, "N D"]]:
    """Every input, and what it is asked."""
    inputs = torch.from_numpy(task.signal()).float()[: task.given.length]
    return inputs, task.solve(inputs[:, None])[:, 0]


@lru_cache
def _errors(task: Forecasting, seq_len: int) -> tuple[float, float]:
    """Mean squared errors, over all passages of a part: of the best affine answer, and of the best constant one."""
    inputs, targets = (values.double().numpy() for values in _whole(task.with_part(0)))
    first, end = task.range_of(task.part)
    begins = range(first, end - seq_len + 1) if seq_len <= end - first else range(end - seq_len, end - seq_len + 1)
    counts = np.zeros(len(inputs))
    asked = np.arange(len(inputs))
    for begin in begins:
        counts += (asked >= max(first, begin + task.given.delay)) & (asked < begin + seq_len)
    affine = np.column_stack([np.ones(len(inputs)), inputs])
    return _residual(affine, targets, counts), _residual(affine[:, :1], targets, counts)


def _residual(known: np.ndarray, targets: np.ndarray, counts: np.ndarray) -> float:
    weights = np.sqrt(counts / counts.sum())[:, None]
    best = np.linalg.lstsq(known * weights, targets * weights, rcond=None)[0]
    return float(np.square((known @ best - targets) * weights).sum() / targets.shape[1])


def nearest(passages: Float[Tensor, "T B D"], signal: Float[np.ndarray, "N D"], first: int) -> Int[Tensor, " B"]:
    """Where in the signal each passage begins, by its ``first`` timesteps."""
    heads = passages[:first].transpose(0, 1).flatten(1).double()
    windows = torch.from_numpy(signal).float().double().unfold(0, len(passages[:first]), 1)
    windows = windows[: max(1, len(signal) - len(passages) + 1)].transpose(1, 2).flatten(1)
    return torch.cdist(heads, windows, compute_mode="donot_use_mm_for_euclid_dist").argmin(1)
