"""CogScale: read all symbols, wait, and repeat them after a trigger.

    reads   c a b . . . ! . . .
    says                  c a b
    symbols (here three), silence, a trigger, silence in which they are asked
    in their order

small: 22 symbols of 3, a delay of 5 timesteps, 50 in all; medium: 50 of 8, 10, 111; large: 150 of 20, 30, 331. In
longer and shorter sequences the delay is longer and shorter, and the symbols are as many.

Nothing is asked or trained before the trigger, and where it asks the input is silent, so a model without a memory
guesses: chance is 1 / symbols, .333, .125 and .05. The published error is 1 - accuracy, so theirs is .667, .875, .95.

Bendi-Ouis, De Coudenhove & Hinaut 2026, CogScale (arXiv 2605.19758),
``simple_copy`` in version 0.2.0 of their package.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...spaces import Space
from ..scattered import draw_symbols, equally_likely, fold_of
from .base import TRIGGER, Symbolic, at_end, last, letters, one_hot


@dataclass(frozen=True)
class SimpleCopy(Symbolic):
    """``size``: small, medium or large, as published. Features: the symbols, then the trigger."""

    name: ClassVar[str] = "cogscale_simple_copy"

    @property
    def features(self) -> str:
        return self.answers + TRIGGER

    @property
    def answers(self) -> str:
        return letters(self.given.symbols)

    @property
    def chance(self) -> float:
        return 1 / self.given.symbols

    @property
    def min_seq_len(self) -> int:
        """No delay."""
        return 2 * self.given.length + 1

    def draw(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Float[Tensor, "T B D"]:
        symbols = draw_symbols(self.given.symbols, self.given.length, batch_size, rng)
        inputs = one_hot(symbols, seq_len, self.inputs.size)
        inputs[-self.given.length - 1, :, -1] = 1
        return inputs

    def asks(self, inputs: Float[Tensor, "T B D"]) -> Bool[Tensor, "T B"]:
        return last(self.given.length, inputs)

    def _symbols(self, inputs: Float[Tensor, "T B D"]) -> Int[Tensor, "N B"]:
        return inputs[: self.given.length, :, :-1].argmax(-1)

    def solve(self, inputs: Float[Tensor, "T B D"]) -> Int[Tensor, "T B"]:
        return at_end(self._symbols(inputs), len(inputs))

    def lag(self, inputs: Float[Tensor, "T B D"]) -> Int[Tensor, "T B"]:
        """Every symbol comes back after the same time."""
        return torch.where(self.asks(inputs), len(inputs) - self.given.length, 0)

    def space(self, seq_len: int) -> Space:
        return equally_likely(self.given.symbols**self.given.length if seq_len >= self.min_seq_len else 0)

    def fold(self, inputs: Float[Tensor, "T B D"]) -> Int[Tensor, " B"]:
        symbols = self._symbols(inputs)
        return fold_of(symbols, symbols[:0], self.given.symbols)

    def mistake(self, inputs: Float[Tensor, "T D"]) -> str | None:
        length = self.given.length
        expected = torch.zeros_like(inputs)
        expected[:length] = inputs[:length]
        expected[-length - 1, -1] = 1
        whole = bool((inputs[:length, :-1].sum(-1) == 1).all() and (inputs[:length, -1] == 0).all())
        if not whole:
            return f"it does not begin with {length} symbols"
        return None if torch.equal(inputs, expected) else f"after its symbols only word {len(inputs) - length} is !"
