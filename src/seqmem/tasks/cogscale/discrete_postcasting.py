"""CogScale: repeat the symbol of a fixed number of timesteps ago.

    reads   c a b b c a
    says    . . . c a b
    a delay line, here of 3 timesteps; every timestep asks, from the first on
    that has a symbol so long before

small: 50 timesteps, a delay of 5, 3 symbols; medium: 100, 15, 8; large: 300, 50, 8. Longer and shorter sequences have
the same delay. Symbols are uniform and independent: chance is 1 / symbols.

Bendi-Ouis, De Coudenhove & Hinaut 2026, CogScale (arXiv 2605.19758),
``discrete_postcasting`` in version 0.2.0 of their package.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ...spaces import Space
from ..base import content_hash
from ..scattered import FOLDS, draw_symbols, equally_likely
from .base import Symbolic, letters, one_hot
from .postcasting import Postcasting


@dataclass(frozen=True)
class DiscretePostcasting(Postcasting, Symbolic):
    """``size``: small, medium or large, as published. Features: the symbols."""

    name: ClassVar[str] = "cogscale_discrete_postcasting"

    @property
    def features(self) -> str:
        return self.answers

    @property
    def answers(self) -> str:
        return letters(self.given.symbols)

    @property
    def chance(self) -> float:
        return 1 / self.given.symbols

    def draw(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Float[Tensor, "T B D"]:
        return one_hot(draw_symbols(self.given.symbols, seq_len, batch_size, rng), seq_len, self.inputs.size)

    def solve(self, inputs: Float[Tensor, "T B D"]) -> Int[Tensor, "T B"]:
        return torch.where(self.asks(inputs), inputs.argmax(-1).roll(self.given.delay, 0), 0)

    def space(self, seq_len: int) -> Space:
        return equally_likely(self.given.symbols**seq_len if seq_len >= self.min_seq_len else 0)

    def fold(self, inputs: Float[Tensor, "T B D"]) -> Int[Tensor, " B"]:
        return content_hash(inputs.argmax(-1)) % FOLDS

    def mistake(self, inputs: Float[Tensor, "T D"]) -> str | None:
        return None if bool((inputs.sum(-1) == 1).all()) else "not every timestep has one symbol"
