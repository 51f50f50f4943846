"""CogScale: read symbols, some of them marked, wait, and repeat the marked ones after a trigger.

    reads   c a* b c* b . . ! . .
    says                      a c
    symbols (here five, two marked), silence, a trigger, silence in which the
    marked ones are asked in their order

small: 40 symbols of 3, 5 marked, a delay of 5 timesteps, 51 in all; medium: 80 of 8, 10, 10, 101; large: 240 of 20, 30,
30, 301. Every set of places is as likely. Longer sequences have more symbols that are not marked, shorter ones fewer.

Nothing is asked or trained before the trigger, and where it asks the input is silent: chance is 1 / symbols.

Bendi-Ouis, De Coudenhove & Hinaut 2026, CogScale (arXiv 2605.19758),
``selective_copy`` in version 0.2.0 of their package.
"""

from dataclasses import dataclass
from math import comb
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...spaces import Space
from ..base import content_hash
from ..scattered import FOLDS, distinct_places, draw_symbols, equally_likely, places_of
from .base import MARK, TRIGGER, Symbolic, at_end, last, letters, one_hot


@dataclass(frozen=True)
class SelectiveCopy(Symbolic):
    """``size``: small, medium or large, as published. Features: the symbols, the mark, the trigger."""

    name: ClassVar[str] = "cogscale_selective_copy"

    @property
    def features(self) -> str:
        return self.answers + MARK + TRIGGER

    @property
    def answers(self) -> str:
        return letters(self.given.symbols)

    @property
    def chance(self) -> float:
        return 1 / self.given.symbols

    @property
    def min_seq_len(self) -> int:
        """Every symbol is marked."""
        return 2 * self.given.count + self.given.delay + 1

    def _length(self, seq_len: int) -> int:
        """How many symbols there are."""
        return seq_len - self.given.count - self.given.delay - 1

    def draw(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Float[Tensor, "T B D"]:
        length = self._length(seq_len)
        symbols = draw_symbols(self.given.symbols, length, batch_size, rng)
        inputs = one_hot(symbols, seq_len, self.inputs.size)
        inputs[..., -2].scatter_(0, distinct_places(self.given.count, length, batch_size, rng), 1.0)
        inputs[-self.given.count - 1, :, -1] = 1
        return inputs

    def asks(self, inputs: Float[Tensor, "T B D"]) -> Bool[Tensor, "T B"]:
        return last(self.given.count, inputs)

    def _places(self, inputs: Float[Tensor, "T B D"]) -> Int[Tensor, "N B"]:
        return places_of(inputs[..., -2] > 0, self.given.count)

    def solve(self, inputs: Float[Tensor, "T B D"]) -> Int[Tensor, "T B"]:
        return at_end(inputs[..., :-2].argmax(-1).gather(0, self._places(inputs)), len(inputs))

    def lag(self, inputs: Float[Tensor, "T B D"]) -> Int[Tensor, "T B"]:
        """From each question to its own symbol."""
        asked = torch.arange(len(inputs) - self.given.count, len(inputs))[:, None]
        return at_end(asked - self._places(inputs), len(inputs))

    def space(self, seq_len: int) -> Space:
        length = self._length(seq_len)
        return equally_likely(self.given.symbols**length * comb(length, self.given.count) if length > 0 else 0)

    def fold(self, inputs: Float[Tensor, "T B D"]) -> Int[Tensor, " B"]:
        return content_hash(inputs[..., :-1].argmax(-1) + 100 * (inputs[..., -2] > 0)) % FOLDS

    def mistake(self, inputs: Float[Tensor, "T D"]) -> str | None:
        length, count = self._length(len(inputs)), self.given.count
        marked, triggers = inputs[..., -2] > 0, (inputs[..., -1] > 0).nonzero()[:, 0].tolist()
        symbols = inputs[..., :-2].sum(-1)
        if not bool((symbols[:length] == 1).all()):
            return f"it does not begin with {length} symbols"
        if int(marked.sum()) != count or bool(marked[length:].any()):
            return f"{int(marked[:length].sum())} of its symbols are marked with *, task={self.choice} asks for {count}"
        if triggers != [len(inputs) - count - 1] or bool(symbols[length:].any()):
            return f"after its symbols only word {len(inputs) - count} is !"
        return None
