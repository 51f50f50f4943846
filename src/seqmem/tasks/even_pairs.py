"""Is the number of changes between a and b even?

    a a b a b b b a a b -> odd
    random letters; the last timestep asks whether as many pairs of neighbours
    that differ, ab and ba, were read as an even number

Letters are drawn uniformly. The number is even exactly if the last letter is the first one, so one bit kept from the
first timestep on is enough, and what lies between tells nothing. Without it chance is 1/2.

Delétang et al. 2023 (arXiv 2207.02098), Neural networks and the Chomsky hierarchy, task even pairs, which is trained on
lengths from U{1 ... 40} and tested at up to 500: ``lengths=uniform``, then ``seqmem eval RUN seq_len=500``.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from ..signals import Batch, Tokens
from ..spaces import Space
from .base import Task, content_hash
from .scattered import FOLDS, draw_symbols, letters


@dataclass(frozen=True)
class EvenPairs(Task):
    """Tokens: 0 is a, 1 is b. No options."""

    name: ClassVar[str] = "even_pairs"
    source: ClassVar[str] = "Delétang et al. 2023"

    @property
    def inputs(self) -> Tokens:
        return Tokens(2)

    @property
    def targets(self) -> Tokens:
        return Tokens(2)

    @property
    def chance(self) -> float:
        return 0.5

    @property
    def min_seq_len(self) -> int:
        """One pair: a single letter has always an even number, none."""
        return 2

    def sample(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Batch:
        self.check(batch_size, seq_len)
        inputs = draw_symbols(2, seq_len, batch_size, rng)
        return Batch.asked_at_end(inputs, self.solve(inputs)[-1])

    def space(self, seq_len: int) -> Space:
        return Space(2.0**seq_len if seq_len < 100 else float("inf"), FOLDS)

    def fold(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, " B"]:
        """By all letters but the last, which makes half of the answers even."""
        return content_hash(inputs[:-1]) % FOLDS

    def solve(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "T B"]:
        """At every timestep, of what has been read so far."""
        return inputs ^ inputs[0]

    def lag(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "T B"]:
        """To the first letter."""
        return torch.arange(len(inputs))[:, None].expand(inputs.shape)

    def words(self, inputs: Int[Tensor, " T"]) -> list[str]:
        return letters(inputs.tolist(), 2, "")

    def answer(self, target: Int[Tensor, ""]) -> str:
        return ("even", "odd")[int(target)]
