"""CogScale: which value stood after this key?

    reads   a c b b c a b b ? b
    says                      b
    pairs of a key and a value (here three), distractors, a separator, a key;
    its value is asked at once

small: 3 pairs, 16 timesteps, 3 symbols; medium: 7, 32, 14; large: 15, 64, 30. The keys of a sequence differ, values may
be any. Longer and shorter sequences have more and fewer distractors.

Distractors are symbols like all others, at the same places in every sequence: they may hold the key again, with another
value after it, so only the place tells pairs from distractors. Two features more count as in the published inputs: the
separator, and a padding that never occurs; both are classes of the answer, too. The key tells nothing of its value:
chance is 1 / symbols, .333, .071 and .033.

Bendi-Ouis, De Coudenhove & Hinaut 2026, CogScale (arXiv 2605.19758),
``associative_recall`` in version 0.2.0 of their package.
"""

from dataclasses import dataclass
from math import perm
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...spaces import Space
from ..base import content_hash
from ..scattered import FOLDS, draw_symbols, equally_likely
from .base import Symbolic, at_end, last, letters, one_hot


@dataclass(frozen=True)
class AssociativeRecall(Symbolic):
    """``size``: small, medium or large, as published. Features: the symbols, the padding, the separator."""

    name: ClassVar[str] = "cogscale_associative_recall"

    @property
    def features(self) -> str:
        return letters(self.given.symbols) + "-?"

    @property
    def answers(self) -> str:
        return self.features

    @property
    def chance(self) -> float:
        return 1 / self.given.symbols

    @property
    def min_seq_len(self) -> int:
        """No distractors."""
        return 2 * self.given.count + 2

    def draw(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Float[Tensor, "T B D"]:
        symbols, pairs = self.given.symbols, self.given.count
        tokens = draw_symbols(symbols, seq_len, batch_size, rng)
        tokens[: 2 * pairs : 2] = torch.rand(symbols, batch_size, generator=rng).topk(pairs, 0).indices
        tokens[-2] = symbols + 1
        tokens[-1:] = tokens.gather(0, 2 * torch.randint(pairs, (1, batch_size), generator=rng))
        return one_hot(tokens, seq_len, self.inputs.size)

    def asks(self, inputs: Float[Tensor, "T B D"]) -> Bool[Tensor, "T B"]:
        return last(1, inputs)

    def _asked_for(self, tokens: Int[Tensor, "T B"]) -> Bool[Tensor, "N B"]:
        """The pairs with the last key."""
        return tokens[: 2 * self.given.count : 2] == tokens[-1]

    def solve(self, inputs: Float[Tensor, "T B D"]) -> Int[Tensor, "T B"]:
        tokens = inputs.argmax(-1)
        asked = self._asked_for(tokens)
        value = tokens[1 : 2 * self.given.count : 2].gather(0, asked.int().argmax(0, keepdim=True))
        return at_end(torch.where(asked.any(0), value, self.given.symbols), len(inputs))

    def lag(self, inputs: Float[Tensor, "T B D"]) -> Int[Tensor, "T B"]:
        """To the pair's key."""
        pair = self._asked_for(inputs.argmax(-1)).int().argmax(0, keepdim=True)
        return at_end(len(inputs) - 1 - 2 * pair, len(inputs))

    def space(self, seq_len: int) -> Space:
        symbols, pairs = self.given.symbols, self.given.count
        free = seq_len - pairs - 2
        return equally_likely(perm(symbols, pairs) * symbols**free * pairs if seq_len >= self.min_seq_len else 0)

    def fold(self, inputs: Float[Tensor, "T B D"]) -> Int[Tensor, " B"]:
        return content_hash(inputs.argmax(-1)) % FOLDS

    def mistake(self, inputs: Float[Tensor, "T D"]) -> str | None:
        tokens, pairs = inputs.argmax(-1).tolist(), self.given.count
        if not bool((inputs.sum(-1) == 1).all()):
            return "not every timestep has one symbol"
        if [t for t, token in enumerate(tokens) if token >= self.given.symbols] != [len(tokens) - 2]:
            return "it is not symbols, then ? and a symbol"
        keys = tokens[: 2 * pairs : 2]
        if len({*keys}) < pairs:
            return f"its {pairs} keys are not different"
        return None if tokens[-1] in keys else f"it asks for {self.features[tokens[-1]]}, which is no key of it"
