"""CogScale: the second half of a sequence repeats the first; what comes next?

    reads   c a b b c a b b
    says            a b b .
    every timestep of the second half asks for the next symbol, but for the
    last, after which there is none

small: 40 timesteps, 3 symbols; medium: 100, 8; large: 250, 20. Longer sequences have longer halves. Of an odd length
the first half is the longer one: sequences are as published where theirs exist.

The period is fixed, half a sequence, so a delay line of that length solves the task, too, without looking for the
symbol before: it is no test of induction alone. The symbols are drawn uniformly and independent, so the last one tells
nothing of the next: chance is 1 / symbols.

Bendi-Ouis, De Coudenhove & Hinaut 2026, CogScale (arXiv 2605.19758),
``induction_heads`` in version 0.2.0 of their package.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...spaces import Space
from ..base import content_hash
from ..scattered import FOLDS, draw_symbols, equally_likely
from .base import Symbolic, letters, one_hot


@dataclass(frozen=True)
class InductionHeads(Symbolic):
    """``size``: small, medium or large, as published. Features: the symbols."""

    name: ClassVar[str] = "cogscale_induction_heads"

    @property
    def features(self) -> str:
        return self.answers

    @property
    def answers(self) -> str:
        return letters(self.given.symbols)

    @property
    def chance(self) -> float:
        return 1 / self.given.symbols

    @property
    def min_seq_len(self) -> int:
        """One question."""
        return 4

    def draw(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Float[Tensor, "T B D"]:
        symbols = draw_symbols(self.given.symbols, _half(seq_len), batch_size, rng)
        return one_hot(torch.cat([symbols, symbols])[:seq_len], seq_len, self.inputs.size)

    def asks(self, inputs: Float[Tensor, "T B D"]) -> Bool[Tensor, "T B"]:
        asked = torch.zeros(inputs.shape[:2], dtype=torch.bool)
        asked[_half(len(inputs)) : -1] = True
        return asked

    def solve(self, inputs: Float[Tensor, "T B D"]) -> Int[Tensor, "T B"]:
        return torch.where(self.asks(inputs), inputs.argmax(-1).roll(_half(len(inputs)) - 1, 0), 0)

    def lag(self, inputs: Float[Tensor, "T B D"]) -> Int[Tensor, "T B"]:
        """The same everywhere, by the period."""
        return torch.where(self.asks(inputs), _half(len(inputs)) - 1, 0)

    def space(self, seq_len: int) -> Space:
        return equally_likely(self.given.symbols ** _half(seq_len) if seq_len >= self.min_seq_len else 0)

    def fold(self, inputs: Float[Tensor, "T B D"]) -> Int[Tensor, " B"]:
        return content_hash(inputs[: _half(len(inputs))].argmax(-1)) % FOLDS

    def mistake(self, inputs: Float[Tensor, "T D"]) -> str | None:
        half = _half(len(inputs))
        if not bool((inputs.sum(-1) == 1).all()):
            return "not every timestep has one symbol"
        return None if torch.equal(inputs[half:], inputs[: len(inputs) - half]) else "its second half is another"


def _half(seq_len: int) -> int:
    return (seq_len + 1) // 2
