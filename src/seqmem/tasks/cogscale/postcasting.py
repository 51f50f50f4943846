"""What CogScale's two postcasting tasks share: every timestep asks for what was read a fixed time ago.

Axes: T time, B batch, D features of an input.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .base import Drawn


@dataclass(frozen=True)
class Postcasting(Drawn):
    """Every timestep asks, from the first on that has an input so long before."""

    @property
    def min_seq_len(self) -> int:
        """One question."""
        return self.given.delay + 1

    def asks(self, inputs: Float[Tensor, "T B D"]) -> Bool[Tensor, "T B"]:
        return (torch.arange(len(inputs)) >= self.given.delay)[:, None].repeat(1, inputs.shape[1])

    def lag(self, inputs: Float[Tensor, "T B D"]) -> Int[Tensor, "T B"]:
        """The same everywhere."""
        return torch.where(self.asks(inputs), self.given.delay, 0)
