"""CogScale: repeat the number of a fixed number of timesteps ago.

    reads   0.31 -0.12  0.48  0.07 -0.73  0.25
    says       .     .     .  0.31 -0.12  0.48
    a delay line, here of 3 timesteps; every timestep asks, from the first on
    that has a number so long before

small: 50 timesteps, a delay of 5; medium: 100, 15; large: 300, 50. Longer and shorter sequences have the same delay.
Numbers are uniform in [-0.8, 0.8] and independent: without a memory there is no better answer than 0, with a mean
squared error of 0.8^2 / 3, the variance. ``task=delay`` is the same with other numbers.

Bendi-Ouis, De Coudenhove & Hinaut 2026, CogScale (arXiv 2605.19758),
``continuous_postcasting`` in version 0.2.0 of their package.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from .base import Numeric
from .postcasting import Postcasting

LARGEST = 0.8
VARIANCE = LARGEST**2 / 3


@dataclass(frozen=True)
class ContinuousPostcasting(Postcasting, Numeric):
    """``size``: small, medium or large, as published."""

    name: ClassVar[str] = "cogscale_continuous_postcasting"

    @property
    def chance(self) -> float:
        return VARIANCE

    @property
    def solved_at(self) -> float:
        """3 % of the variance."""
        return 0.03 * VARIANCE

    def draw(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Float[Tensor, "T B 1"]:
        return LARGEST * (2 * torch.rand(seq_len, batch_size, 1, generator=rng) - 1)

    def solve(self, inputs: Float[Tensor, "T B 1"]) -> Float[Tensor, "T B 1"]:
        return torch.where(self.asks(inputs)[..., None], inputs.roll(self.given.delay, 0), 0.0)

    def mistake(self, inputs: Float[Tensor, "T 1"]) -> str | None:
        return None if bool((inputs.abs() <= LARGEST).all()) else f"a number is not from -{LARGEST} to {LARGEST}"
