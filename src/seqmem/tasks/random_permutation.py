"""What was the first symbol?

    1 17 64 98 17 5 33 80 -> 1
    ~
    0 or 1, then random symbols from 2 to 99; after the last timestep the
    first symbol comes again, and is asked

Nothing marks the question: which timestep asks is a matter of its place. All 100 symbols are possible answers, so even
that it is 0 or 1 must be learned; then chance is 1/2. The next symbols before the end are random and do not count.

Hochreiter & Schmidhuber 1997, experiment 2b; Martens & Sutskever 2011; as in the code of Pascanu, Mikolov & Bengio
2013, On the difficulty of training recurrent neural networks. A run is solved there where fewer than 1 % of 10,000
sequences are wrong.
"""

from dataclasses import dataclass
from math import inf, log
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from ..signals import Batch, Tokens
from ..spaces import Space
from .base import Task, content_hash

SYMBOLS = 100


@dataclass(frozen=True)
class RandomPermutation(Task):
    """Tokens and targets: 0 to 99. No options."""

    name: ClassVar[str] = "random_permutation"
    source: ClassVar[str] = "Pascanu, Mikolov & Bengio 2013, after Hochreiter & Schmidhuber 1997"

    @property
    def inputs(self) -> Tokens:
        return Tokens(SYMBOLS)

    @property
    def targets(self) -> Tokens:
        return Tokens(SYMBOLS)

    @property
    def chance(self) -> float:
        return 0.5

    @property
    def min_seq_len(self) -> int:
        return 2

    def sample(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Batch:
        self.check(batch_size, seq_len)
        symbols = torch.randint(2, SYMBOLS, (seq_len, batch_size), generator=rng)
        symbols[0] = torch.randint(2, (batch_size,), generator=rng)
        return Batch.asked_at_end(symbols, symbols[0].clone())

    def space(self, seq_len: int) -> Space:
        exponent = log(2) + (seq_len - 1) * log(SYMBOLS - 2)
        return Space(2.0 * (SYMBOLS - 2.0) ** (seq_len - 1) if exponent < 600 else inf, 4)

    def fold(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, " B"]:
        """By all symbols but the first."""
        return content_hash(inputs[1:]) % 4

    def solve(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "T B"]:
        return inputs[0].expand(inputs.shape)

    def lag(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "T B"]:
        return torch.arange(len(inputs))[:, None].expand(inputs.shape)

    def unanswerable(self, inputs: Int[Tensor, " T"]) -> str | None:
        for place, symbol in enumerate(inputs.tolist(), 1):
            if (symbol < 2) != (place == 1):
                return f"symbol {place} is {symbol}: there task={self.name} has {'0 or 1' if place == 1 else '2 to 99'}"
        return super().unanswerable(inputs)

    def words(self, inputs: Int[Tensor, " T"]) -> list[str]:
        return [str(symbol) for symbol in inputs.tolist()]

    def answer(self, target: Int[Tensor, ""]) -> str:
        return str(int(target))
