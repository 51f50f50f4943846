"""CogScale: add the two marked numbers after a trigger.

    reads   2 3* 1 1* 2 ! .
    says                  4
    whole numbers from 1 to M (here 3), two of them marked, a trigger, and a
    silent timestep that asks for the sum

small: 10 numbers, M = 3, 12 timesteps; medium: 20, 8, 22; large: 50, 20, 52. The two places are any, every pair as
likely. Longer and shorter sequences have more and fewer numbers.

A classification of small whole numbers, of 2 M - 1 sums: not the adding problem of Hochreiter & Schmidhuber 1997
(``task=adding``). The sum of two uniform numbers is triangular, and the most frequent sum, M + 1, has 1 / M of
the pairs: that is chance, and what a constant scores. With one of the two numbers a model scores no more.

Bendi-Ouis, De Coudenhove & Hinaut 2026, CogScale (arXiv 2605.19758),
``adding_problem`` in version 0.2.0 of their package.
"""

from dataclasses import dataclass
from math import log
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...spaces import Space
from ..base import content_hash
from ..scattered import FOLDS, distinct_places, draw_symbols, equally_likely, places_of
from .base import MARK, TRIGGER, Symbolic, at_end, last, one_hot


@dataclass(frozen=True)
class AddingProblem(Symbolic):
    """``size``: small, medium or large, as published. Features: the numbers, the mark, the trigger."""

    name: ClassVar[str] = "cogscale_adding_problem"

    @property
    def features(self) -> list[str]:
        return [*map(str, range(1, self.given.symbols + 1)), MARK, TRIGGER]

    @property
    def answers(self) -> list[str]:
        return [*map(str, range(2, 2 * self.given.symbols + 1))]

    @property
    def chance(self) -> float:
        return 1 / self.given.symbols

    def baseline_loss(self, seq_len: int) -> float:
        """The entropy of the sum."""
        most = self.given.symbols
        shares = [min(total, 2 * most - total) / most**2 for total in range(1, 2 * most)]
        return -sum(share * log(share) for share in shares)

    @property
    def min_seq_len(self) -> int:
        """Both numbers are marked."""
        return 4

    def draw(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Float[Tensor, "T B D"]:
        numbers = draw_symbols(self.given.symbols, seq_len - 2, batch_size, rng)
        inputs = one_hot(numbers, seq_len, self.inputs.size)
        inputs[..., -2].scatter_(0, distinct_places(2, seq_len - 2, batch_size, rng), 1.0)
        inputs[-2, :, -1] = 1
        return inputs

    def asks(self, inputs: Float[Tensor, "T B D"]) -> Bool[Tensor, "T B"]:
        return last(1, inputs)

    def _places(self, inputs: Float[Tensor, "T B D"]) -> Int[Tensor, "2 B"]:
        return places_of(inputs[..., -2] > 0, 2)

    def solve(self, inputs: Float[Tensor, "T B D"]) -> Int[Tensor, "T B"]:
        total = inputs[..., :-2].argmax(-1).gather(0, self._places(inputs)).sum(0, keepdim=True)
        return at_end(total, len(inputs))

    def lag(self, inputs: Float[Tensor, "T B D"]) -> Int[Tensor, "T B"]:
        """To the first of the two."""
        return at_end(len(inputs) - 1 - self._places(inputs)[:1], len(inputs))

    def space(self, seq_len: int) -> Space:
        length = seq_len - 2
        return equally_likely(self.given.symbols**length * length * (length - 1) // 2 if length > 1 else 0)

    def fold(self, inputs: Float[Tensor, "T B D"]) -> Int[Tensor, " B"]:
        return content_hash(inputs[..., :-2].argmax(-1) + 100 * (inputs[..., -2] > 0)) % FOLDS

    def mistake(self, inputs: Float[Tensor, "T D"]) -> str | None:
        marked, triggers = inputs[..., -2] > 0, (inputs[..., -1] > 0).nonzero()[:, 0].tolist()
        numbers = inputs[..., :-2].sum(-1)
        if not bool((numbers[:-2] == 1).all()) or bool(numbers[-2:].any()) or triggers != [len(inputs) - 2]:
            return "it is not numbers, then ! and a silent timestep"
        count = int(marked.sum())
        return None if count == 2 and not marked[-2:].any() else f"{count} of its words are marked with *, not 2"
