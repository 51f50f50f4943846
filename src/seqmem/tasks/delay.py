"""Repeat a number from a fixed number of timesteps ago.

    reads   0.31 -0.12  0.48  0.07 -0.33  0.25
    says       .     .     .  0.31 -0.12  0.48
    a delay line, here of 3 timesteps; every timestep asks, from the first on
    that has a number ``delay`` timesteps before

Numbers are drawn uniformly from U[-1/2, 1/2] and independent, so without a memory there is no better answer than 0,
with a mean squared error of 1/12, the variance. 1 - 12 MSE is the share of the variance that is recalled: summed over
all delays it is the memory capacity of Jaeger 2001, which no network of N linear units can have above N.

``xor``: bits instead, and the answer is the exclusive or of the present bit and the one ``delay`` timesteps ago, so a
memory is not all it takes. Chance is 1/2.

Jaeger 2001, Short term memory in echo state networks (GMD report 152).
"""

from dataclasses import dataclass
from math import inf
from typing import ClassVar

import torch
from jaxtyping import Int, Shaped
from torch import Tensor

from ..signals import Batch, Reals, Signal, Tokens
from ..spaces import Space
from .base import Task, content_hash
from .shown import numbers_of, split_words


@dataclass(frozen=True)
class Delay(Task):
    """``delay``: how many timesteps, at least 1; ``xor``: bits, and their exclusive or."""

    delay: int = 10
    xor: bool = False

    name: ClassVar[str] = "delay"
    source: ClassVar[str] = "Jaeger 2001"

    def __post_init__(self) -> None:
        if self.delay < 1:
            raise ValueError(f"delay={self.delay}: must be at least 1")

    @property
    def inputs(self) -> Signal:
        return Tokens(2) if self.xor else Reals(1)

    @property
    def targets(self) -> Signal:
        return Tokens(2) if self.xor else Reals(1)

    @property
    def chance(self) -> float:
        return 0.5 if self.xor else 1 / 12

    @property
    def solved_at(self) -> float:
        """For numbers 3 % of the variance."""
        return 0.99 if self.xor else 0.03 / 12

    @property
    def min_seq_len(self) -> int:
        return self.delay + 1

    def sample(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Batch:
        self.check(batch_size, seq_len)
        if self.xor:
            return self._asked(torch.randint(2, (seq_len, batch_size), generator=rng))
        return self._asked(torch.rand(seq_len, batch_size, 1, generator=rng) - 0.5)

    def _asked(self, inputs: Shaped[Tensor, "T B ..."]) -> Batch:
        asked = torch.zeros(inputs.shape[:2], dtype=torch.bool)
        asked[self.delay :] = True
        return Batch(inputs, self.solve(inputs), asked.float(), asked)

    def space(self, seq_len: int) -> Space:
        return Space(2.0**seq_len if seq_len < 100 else inf, 4) if self.xor else Space()

    def fold(self, inputs: Shaped[Tensor, "T B ..."]) -> Int[Tensor, " B"]:
        """By all bits but the last, on which the last answer depends."""
        return content_hash(inputs[:-1]) % 4 if self.xor else super().fold(inputs)

    def solve(self, inputs: Shaped[Tensor, "T B ..."]) -> Shaped[Tensor, "T B ..."]:
        before = torch.cat([torch.zeros_like(inputs[: self.delay]), inputs[: -self.delay]])[: len(inputs)]
        return inputs ^ before if self.xor else before

    def lag(self, inputs: Shaped[Tensor, "T B ..."]) -> Int[Tensor, "T B"]:
        """The same everywhere."""
        return torch.full(inputs.shape[:2], self.delay)

    def question(self, inputs: Shaped[Tensor, "T ..."]) -> Batch:
        return self._asked(inputs[:, None])

    def parse(self, text: str) -> Shaped[Tensor, "T ..."]:
        if self.xor:
            return self._tokens(split_words(text, ["0", "1"]))
        return torch.tensor(numbers_of(text, self.name))[:, None]

    def _vocabulary(self) -> list[str]:
        return ["0", "1"]

    def words(self, inputs: Shaped[Tensor, "T ..."]) -> list[str]:
        return [str(bit) for bit in inputs.tolist()] if self.xor else [f"{number:.2f}" for (number,) in inputs.tolist()]

    def answer(self, target: Shaped[Tensor, "..."]) -> str:
        return str(int(target)) if self.xor else f"{float(target):.2f}"
