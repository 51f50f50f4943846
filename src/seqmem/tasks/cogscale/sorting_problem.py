"""CogScale: read symbols with their places, and repeat them in the order of these after a trigger.

    reads   c2 a3 b1 ! . . .
    says               b c a
    symbols (here three), each with its place, a trigger, silence in which
    they are asked by their places

small: 10 symbols of 3, 21 timesteps; medium: 20 of 8, 41; large: 50 of 20, 101. Every order is as likely. Inputs have a
feature for each place, so there are never more symbols: longer sequences have a delay before the trigger, shorter ones
fewer symbols. Where it asks the input is silent: chance is 1 / symbols.

Bendi-Ouis, De Coudenhove & Hinaut 2026, CogScale (arXiv 2605.19758),
``sorting_problem`` in version 0.2.0 of their package.
"""

from dataclasses import dataclass
from math import factorial
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...spaces import Space
from ..base import content_hash
from ..scattered import FOLDS, draw_symbols, equally_likely
from .base import TRIGGER, Symbolic, at_end, last, letters, one_hot


@dataclass(frozen=True)
class SortingProblem(Symbolic):
    """``size``: small, medium or large, as published. Features: the symbols, the places, the trigger."""

    name: ClassVar[str] = "cogscale_sorting_problem"

    @property
    def features(self) -> list[str]:
        return [*self.answers, *map(str, range(1, self.given.length + 1)), TRIGGER]

    @property
    def answers(self) -> str:
        return letters(self.given.symbols)

    @property
    def chance(self) -> float:
        return 1 / self.given.symbols

    @property
    def min_seq_len(self) -> int:
        """Two symbols."""
        return 5

    def _count(self, seq_len: int) -> int:
        """How many symbols there are."""
        return min(self.given.length, (seq_len - 1) // 2)

    def draw(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Float[Tensor, "T B D"]:
        count = self._count(seq_len)
        inputs = one_hot(draw_symbols(self.given.symbols, count, batch_size, rng), seq_len, self.inputs.size)
        places = torch.rand(count, batch_size, generator=rng).argsort(0)
        inputs[:count].scatter_(2, self.given.symbols + places[..., None], 1.0)
        inputs[-count - 1, :, -1] = 1
        return inputs

    def asks(self, inputs: Float[Tensor, "T B D"]) -> Bool[Tensor, "T B"]:
        return last(self._count(len(inputs)), inputs)

    def _read(self, inputs: Float[Tensor, "T B D"]) -> tuple[Int[Tensor, "N B"], Int[Tensor, "N B"]]:
        """The symbols, and when the symbol of each place is read."""
        told = inputs[: self._count(len(inputs))]
        places = told[..., self.given.symbols : self.given.symbols + len(told)]
        return told[..., : self.given.symbols].argmax(-1), places.argmax(0).T

    def solve(self, inputs: Float[Tensor, "T B D"]) -> Int[Tensor, "T B"]:
        symbols, read_at = self._read(inputs)
        return at_end(symbols.gather(0, read_at), len(inputs))

    def lag(self, inputs: Float[Tensor, "T B D"]) -> Int[Tensor, "T B"]:
        """From each question to its own symbol."""
        _, read_at = self._read(inputs)
        return at_end(torch.arange(len(inputs) - len(read_at), len(inputs))[:, None] - read_at, len(inputs))

    def space(self, seq_len: int) -> Space:
        count = self._count(seq_len)
        return equally_likely(self.given.symbols**count * factorial(count) if seq_len >= self.min_seq_len else 0)

    def fold(self, inputs: Float[Tensor, "T B D"]) -> Int[Tensor, " B"]:
        symbols, read_at = self._read(inputs)
        return content_hash(torch.cat([symbols, read_at])) % FOLDS

    def mistake(self, inputs: Float[Tensor, "T D"]) -> str | None:
        count, symbols = self._count(len(inputs)), self.given.symbols
        told, places = inputs[:count, :symbols], inputs[:count, symbols : symbols + count]
        if not bool((told.sum(-1) == 1).all() and (places.sum(0) == 1).all() and (places.sum(1) == 1).all()):
            return f"it does not begin with {count} symbols, each with another place of 1 ... {count}"
        expected = torch.zeros_like(inputs)
        expected[:count, : symbols + count] = inputs[:count, : symbols + count]
        expected[-count - 1, -1] = 1
        return None if torch.equal(inputs, expected) else f"after its symbols only word {len(inputs) - count} is !"
