"""CogScale: say the hidden symbols of a pattern that is repeated again and again.

    reads   c a b b c ? b b c a ? b
    says              a         b
    a pattern (here c a b b), repeated to the end; a fifth of the timesteps
    are hidden, and ask for what is hidden

small: a pattern of 4, of 3 symbols, 60 timesteps; medium: 10, 8, 150; large: 25, 20, 500. Longer and shorter sequences
have more and fewer repetitions, and a fifth of their timesteps is hidden.

Asked is what an earlier repetition shows. Published, what is hidden before its place of the pattern has been read is
asked for, too: in one question of 12 (large: 16), where nothing tells the symbol. So the least error there is 0.054 on
average (medium 0.072, large 0.059). The input of a question is the same for all: chance is 1 / symbols.

Bendi-Ouis, De Coudenhove & Hinaut 2026, CogScale (arXiv 2605.19758),
``discrete_pattern_completion`` in version 0.2.0 of their package.
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
from .pattern_completion import HIDDEN, PatternCompletion


@dataclass(frozen=True)
class DiscretePatternCompletion(PatternCompletion, Symbolic):
    """``size``: small, medium or large, as published. Features: the symbols, and that one is hidden."""

    name: ClassVar[str] = "cogscale_discrete_pattern_completion"

    @property
    def features(self) -> str:
        return self.answers + HIDDEN

    @property
    def answers(self) -> str:
        return letters(self.given.symbols)

    @property
    def chance(self) -> float:
        return 1 / self.given.symbols

    def draw(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Float[Tensor, "T B D"]:
        pattern = draw_symbols(self.given.symbols, self.given.length, batch_size, rng)
        symbols = pattern.repeat(-(-seq_len // len(pattern)), 1)[:seq_len]
        hidden = self.draw_hidden(batch_size, seq_len, rng)
        return one_hot(symbols.masked_fill(hidden, self.given.symbols), seq_len, self.inputs.size)

    def hidden(self, inputs: Float[Tensor, "T B D"]) -> Bool[Tensor, "T B"]:
        return inputs[..., -1] > 0

    def solve(self, inputs: Float[Tensor, "T B D"]) -> Int[Tensor, "T B"]:
        symbols = self.shown(inputs[..., :-1].argmax(-1), self.hidden(inputs))
        return torch.where(self.asks(inputs), symbols, 0)

    def space(self, seq_len: int) -> Space:
        few = seq_len < self.min_seq_len
        return equally_likely(0 if few else self.given.symbols**self.given.length * self.masks(seq_len))

    def fold(self, inputs: Float[Tensor, "T B D"]) -> Int[Tensor, " B"]:
        return content_hash(inputs.argmax(-1)) % FOLDS

    def mistake(self, inputs: Float[Tensor, "T D"]) -> str | None:
        single = bool((inputs.sum(-1) == 1).all())
        return self.unequal(inputs) if single else "not every timestep has one symbol or ?"
