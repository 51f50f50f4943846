"""CogScale: say the hidden numbers of a pattern that is repeated again and again.

    reads   0.71 0.20 0.55 0.71    ? 0.55 0.71 0.20 ?
    says                        0.20                0.55
    a pattern (here of 3 numbers), repeated to the end; a fifth of the
    timesteps are hidden, read as -1, and ask for what is hidden

small: a pattern of 4 numbers, 60 timesteps; medium: 10, 150; large: 20, 500. Longer and shorter sequences have more and
fewer repetitions, and a fifth of their timesteps is hidden.

Asked is what an earlier repetition shows. Published, what is hidden before its place of the pattern has been read is
asked for, too, where nothing tells the number: in one question of 12, so the least published error is 0.007 (large:
one of 20, 0.004). Numbers are uniform in [0, 1] and independent: the best answer without a memory is 1/2, with a mean
squared error of 1/12.

Bendi-Ouis, De Coudenhove & Hinaut 2026, CogScale (arXiv 2605.19758),
``continuous_pattern_completion`` in version 0.2.0 of their package.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ..shown import numbers_of
from .base import Numeric
from .pattern_completion import HIDDEN, PatternCompletion


@dataclass(frozen=True)
class ContinuousPatternCompletion(PatternCompletion, Numeric):
    """``size``: small, medium or large, as published."""

    name: ClassVar[str] = "cogscale_continuous_pattern_completion"

    @property
    def chance(self) -> float:
        return 1 / 12

    @property
    def solved_at(self) -> float:
        """3 % of the variance."""
        return 0.03 / 12

    def draw(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Float[Tensor, "T B 1"]:
        pattern = torch.rand(self.given.length, batch_size, generator=rng)
        numbers = pattern.repeat(-(-seq_len // len(pattern)), 1)[:seq_len]
        return numbers.masked_fill(self.draw_hidden(batch_size, seq_len, rng), -1.0)[..., None]

    def hidden(self, inputs: Float[Tensor, "T B 1"]) -> Bool[Tensor, "T B"]:
        return inputs[..., 0] == -1

    def solve(self, inputs: Float[Tensor, "T B 1"]) -> Float[Tensor, "T B 1"]:
        return torch.where(self.asks(inputs)[..., None], self.shown(inputs, self.hidden(inputs)), 0.0)

    def mistake(self, inputs: Float[Tensor, "T 1"]) -> str | None:
        shown = inputs[inputs != -1]
        if bool(((shown < 0) | (shown > 1)).any()):
            return "a number is not from 0 to 1"
        return self.unequal(inputs)

    def words(self, inputs: Float[Tensor, "T 1"]) -> list[str]:
        """``0.42``; ``?`` is hidden."""
        return [HIDDEN if number == -1 else f"{number:.2f}" for (number,) in inputs.tolist()]

    def parse(self, text: str) -> Float[Tensor, "T 1"]:
        return torch.tensor(numbers_of(text, self.choice, {HIDDEN: -1.0}))[:, None]
