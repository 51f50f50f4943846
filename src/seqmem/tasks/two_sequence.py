"""Which class was it that began long ago?

    1.00 0.12 -0.51 0.38 -0.07 0.44 -0.62 0.21 -> 1.00
    ~~~~
    the first ``informative`` numbers are 1 or -1 by the class, noise follows;
    the last timestep asks for 1 or 0

Noise is from N(0, 0.2), a variance; lengths are from U{T ... 1.1 T} with T = ``seq_len``. Shorter sequences are padded
with zeros, and each is asked at its own last timestep. Without a memory the best answer is 1/2, with a mean squared
error of 1/4.

``variant=3a``: the informative numbers are exact. ``variant=3b``: they have noise from N(0, 0.2), too. With one of them
the noise would turn the class around in one sequence of 79 (with three in one of 18,000): there its sign is changed, so
that every sequence has an answer. ``variant=3c``: sequences as in 3a, but the answers are 0.2 for 1 and 0.8 for -1, and
training sees them with noise from N(0, 0.1), which is as large as their distance from 1/2: what is learned is their
mean, given the inputs. Held-out answers have no noise; without a memory their squared error is 0.09, while that of
training has 0.1 more.

Hochreiter & Schmidhuber 1997, Long short-term memory, experiment 3, with T = 100 or 1000 (3c: 100) and 1 or 3
informative numbers; after Bengio, Simard & Frasconi 1994. A run is solved there when none of 256 sequences (3b: fewer
than 6) is off by 0.2 or more, and by its second rule if the mean absolute error is below 0.01 (3b: 0.04), too. In 3c
none of the differences from the answer without noise may exceed 0.1, and their mean has to be below 0.015.
``solved_at`` is the squared error of normal errors of that mean size. The paper itself says that random weight guessing
solves 3a faster than any gradient, so that it is no good test of long time lags; and that this does not hold for 3c.
"""

from dataclasses import dataclass
from math import pi, sqrt
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..signals import Batch, Reals
from .base import Task
from .shown import numbers_of

VARIANCE = 0.2
OF_TARGETS = 0.1
"""The variance of the noise on 3c's targets."""


@dataclass(frozen=True)
class TwoSequence(Task):
    """``variant``: 3a, 3b or 3c; ``informative``: how many numbers tell the class, at least 1."""

    variant: str = "3a"
    informative: int = 1

    noisy: ClassVar[bool] = True
    """Whether the targets of 3c have their noise."""

    name: ClassVar[str] = "two_sequence"
    source: ClassVar[str] = "Hochreiter & Schmidhuber 1997, experiment 3; Bengio et al. 1994"

    def __post_init__(self) -> None:
        if self.variant not in ("3a", "3b", "3c"):
            raise ValueError(f"variant={self.variant}: must be 3a, 3b or 3c")
        if self.informative < 1:
            raise ValueError(f"informative={self.informative}: must be at least 1")

    @property
    def inputs(self) -> Reals:
        return Reals(1)

    @property
    def targets(self) -> Reals:
        return Reals(1)

    @property
    def chance(self) -> float:
        return (self._answers[1] - self._answers[0]) ** 2 / 4

    @property
    def _answers(self) -> tuple[float, float]:
        """Those of negative and of positive informative numbers."""
        return (0.8, 0.2) if self.variant == "3c" else (0.0, 1.0)

    @property
    def solved_at(self) -> float:
        return pi / 2 * {"3a": 0.01, "3b": 0.04, "3c": 0.015}[self.variant] ** 2

    @property
    def min_seq_len(self) -> int:
        return self.informative + 1

    def timesteps(self, seq_len: int) -> int:
        return seq_len + seq_len // 10

    def sample(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Batch:
        self.check(batch_size, seq_len)
        timesteps = self.timesteps(seq_len)
        end = torch.randint(seq_len, timesteps + 1, (batch_size,), generator=rng) - 1
        sign = torch.randint(2, (batch_size,), generator=rng) * 2.0 - 1
        numbers = sqrt(VARIANCE) * torch.randn(timesteps, batch_size, generator=rng)
        if self.variant != "3b":
            numbers[: self.informative] = sign
        else:
            noise = numbers[: self.informative]
            turned = (noise.mean(0) + sign) * sign <= 0
            numbers[: self.informative] = torch.where(turned, -noise, noise) + sign
        steps = torch.arange(timesteps)[:, None]
        numbers[steps > end] = 0
        asked, inputs = steps == end, numbers[..., None]
        targets = self.solve(inputs)
        if self.variant == "3c" and self.noisy:
            targets = targets + sqrt(OF_TARGETS) * torch.randn(batch_size, 1, generator=rng)
        return Batch(inputs, targets, asked.float(), asked)

    def held_out(self) -> "TwoSequence":
        return _NoiseFree(self.variant, self.informative) if self.variant == "3c" else self

    def solve(self, inputs: Float[Tensor, "T B 1"]) -> Float[Tensor, "T B 1"]:
        """By whether the informative numbers are positive on average (but for 3b they are equal: the last tells it)."""
        first = 0 if self.variant == "3b" else self.informative - 1
        positive = inputs[first : self.informative].sum(0) > 0
        negative_answer, positive_answer = self._answers
        return torch.where(positive, positive_answer, negative_answer).to(inputs.dtype).expand(inputs.shape)

    def lag(self, inputs: Float[Tensor, "T B 1"]) -> Int[Tensor, "T B"]:
        """To the last of the informative numbers, which are equal; in 3b to the first."""
        needed = 0 if self.variant == "3b" else self.informative - 1
        return (torch.arange(len(inputs))[:, None] - needed).expand(inputs.shape[:2])

    def parse(self, text: str) -> Float[Tensor, "T 1"]:
        return torch.tensor(numbers_of(text, self.name, {"-": 0.0}))[:, None]

    def words(self, inputs: Float[Tensor, "T 1"]) -> list[str]:
        """``0.42``; padding is ``-``."""
        return ["-" if number == 0 else f"{number:.2f}" for (number,) in inputs.tolist()]

    def answer(self, target: Float[Tensor, " 1"]) -> str:
        return f"{float(target):.2f}"


@dataclass(frozen=True)
class _NoiseFree(TwoSequence):
    """3c as it is tested."""

    noisy: ClassVar[bool] = False
