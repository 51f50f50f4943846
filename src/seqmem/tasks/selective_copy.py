"""Repeat the symbols, and forget the blanks between them.

    reads   . . c . . . a . h . . . ! ! !
    says    . . . . . . . . . . . . c a h
    symbols (here three) at random places among blanks, then as many cues:
    each asks for the next symbol

L = ``seq_len`` - ``length`` timesteps hold ``length`` symbols, drawn uniformly, at different places, of which every set
is equally likely: from the last place, directly before the cues, to the first. Nothing is asked or trained before the
cues. They tell nothing of the symbols: chance is 1 / ``symbols``. How far back a symbol is varies with the gaps, so a
memory that counts timesteps does not help; that is what separates this task from ``copy``.

Gu & Dao 2023, Mamba (arXiv 2312.00752), section 4.1.1, with L = 4096, 16 symbols to copy, and a vocabulary of 16. Their
code of the task is not public, and the paper leaves open where symbols may stand and how many tokens are not data; so
the rest is as in the code of Feng et al. 2024, Were RNNs all we needed? (arXiv 2410.01201): 14 different symbols, a
blank and a cue.
"""

from dataclasses import dataclass
from math import comb
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from ..signals import Batch, Tokens
from ..spaces import Space
from .base import Task
from .scattered import (
    check_alphabet,
    distinct_places,
    draw_symbols,
    equally_likely,
    fold_of,
    letters,
    places_of,
)


@dataclass(frozen=True)
class SelectiveCopy(Task):
    """``symbols``: size of the alphabet, 2 to 26; ``length``: how many symbols are copied, at least 1.

    Tokens 0 ... ``symbols`` - 1 are the symbols, in inputs and targets alike; then the blank and the cue.
    """

    symbols: int = 14
    length: int = 16

    name: ClassVar[str] = "selective_copy"
    source: ClassVar[str] = "Gu & Dao 2023; Feng et al. 2024"

    def __post_init__(self) -> None:
        check_alphabet(self.symbols, self.length)

    @property
    def inputs(self) -> Tokens:
        return Tokens(self.symbols + 2)

    @property
    def targets(self) -> Tokens:
        return Tokens(self.symbols)

    @property
    def chance(self) -> float:
        return 1 / self.symbols

    @property
    def min_seq_len(self) -> int:
        """No blanks."""
        return 2 * self.length

    def sample(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Batch:
        self.check(batch_size, seq_len)
        places = distinct_places(self.length, seq_len - self.length, batch_size, rng)
        data = draw_symbols(self.symbols, self.length, batch_size, rng)
        inputs = torch.full((seq_len, batch_size), self.symbols).scatter_(0, places, data)
        inputs[-self.length :] = self.symbols + 1
        return self._asking(inputs, data)

    def _asking(self, inputs: Int[Tensor, "T B"], data: Int[Tensor, "N B"]) -> Batch:
        targets, asked = torch.zeros_like(inputs), torch.zeros(inputs.shape, dtype=torch.bool)
        targets[-self.length :] = data
        asked[-self.length :] = True
        return Batch(inputs, targets, asked.float(), asked)

    def space(self, seq_len: int) -> Space:
        return equally_likely(self.symbols**self.length * comb(max(0, seq_len - self.length), self.length))

    def fold(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, " B"]:
        places = self._places(inputs)
        return fold_of(inputs.gather(0, places), places, self.symbols)

    def _places(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "N B"]:
        return places_of(inputs < self.symbols, self.length)

    def solve(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "T B"]:
        return self._asking(inputs, inputs.gather(0, self._places(inputs))).targets

    def lag(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "T B"]:
        """From each cue to its own symbol."""
        lags = torch.zeros_like(inputs)
        cues = torch.arange(len(inputs) - self.length, len(inputs))
        lags[-self.length :] = cues[:, None] - self._places(inputs)
        return lags

    def question(self, inputs: Int[Tensor, " T"]) -> Batch:
        return self._asking(inputs[:, None], self.solve(inputs[:, None])[-self.length :])

    def unanswerable(self, inputs: Int[Tensor, " T"]) -> str | None:
        if len(inputs) < self.min_seq_len:
            return super().unanswerable(inputs)
        cues = inputs == self.symbols + 1
        if not cues[-self.length :].all() or cues[: -self.length].any():
            return f"its cues ! are not the last {self.length} timesteps, and these alone"
        count = int((inputs < self.symbols).sum())
        return None if count == self.length else f"it has {count} symbols, task={self.name} asks for {self.length}"

    def words(self, inputs: Int[Tensor, " T"]) -> list[str]:
        return letters(inputs.tolist(), self.symbols, ".!")

    def answer(self, target: Int[Tensor, ""]) -> str:
        return letters([int(target)], self.symbols, "")[0]
