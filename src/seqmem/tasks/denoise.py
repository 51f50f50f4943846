"""Repeat the symbols that were scattered in noise, after a mark.

    reads   . c . . . a h . . . . ! . . .
    says    . . . . . . . . . . . . c a h
    ten symbols (here three) at random places in the noise, a mark, room to
    answer; the answer is blank until the mark, then the symbols in order

The layout is that of ``copy``: T + 2 * ``length`` timesteps, the mark ``length`` timesteps before the last. The symbols
stand at different places among the T + ``length`` - 1 timesteps before the mark, of which every set is equally likely.
The loss is the mean over all timesteps: a model without memory predicts blanks, then guesses, ``length`` ln ``symbols``
/ ``seq_len`` nats. Only the recalled symbols are scored, with chance 1 / ``symbols``. Unlike the cues of
``selective_copy``, what is read while answering is the noise that was to be forgotten, so place must be kept.

Jing et al. 2017, Gated orthogonal recurrent units: on learning to forget (arXiv 1706.02761). They describe it in words:
data at random places in a long noise, a marker, then the data. Noise is one token, which is also the blank. That the
timesteps are counted as in ``copy``, that places are different (a public re-implementation draws some twice, so that
symbols are lost), and ``symbols=8`` is decided here.
"""

from dataclasses import dataclass
from math import comb, log
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
class Denoise(Task):
    """``symbols``: size of the alphabet, 2 to 26; ``length``: how many symbols are recalled, at least 1.

    Tokens 0 ... ``symbols`` - 1 are the symbols and ``symbols`` is the blank, in inputs and targets alike; then the
    mark, in inputs only.
    """

    symbols: int = 8
    length: int = 10

    name: ClassVar[str] = "denoise"
    source: ClassVar[str] = "Jing et al. 2017"

    def __post_init__(self) -> None:
        check_alphabet(self.symbols, self.length)

    @property
    def inputs(self) -> Tokens:
        return Tokens(self.symbols + 2)

    @property
    def targets(self) -> Tokens:
        return Tokens(self.symbols + 1)

    @property
    def chance(self) -> float:
        return 1 / self.symbols

    @property
    def min_seq_len(self) -> int:
        """T = 1: no noise before the mark."""
        return 2 * self.length + 1

    def baseline_loss(self, seq_len: int) -> float:
        return self.length * log(self.symbols) / seq_len

    def sample(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Batch:
        self.check(batch_size, seq_len)
        places = distinct_places(self.length, seq_len - self.length - 1, batch_size, rng)
        data = draw_symbols(self.symbols, self.length, batch_size, rng)
        inputs = torch.full((seq_len, batch_size), self.symbols).scatter_(0, places, data)
        inputs[-self.length - 1] = self.symbols + 1
        return self._asking(inputs, data)

    def _asking(self, inputs: Int[Tensor, "T B"], data: Int[Tensor, "N B"]) -> Batch:
        targets = torch.full_like(inputs, self.symbols)
        targets[-self.length :] = data
        asked = torch.zeros(inputs.shape, dtype=torch.bool)
        asked[-self.length :] = True
        return Batch(inputs, targets, torch.ones(inputs.shape), asked)

    def space(self, seq_len: int) -> Space:
        return equally_likely(self.symbols**self.length * comb(max(0, seq_len - self.length - 1), self.length))

    def fold(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, " B"]:
        places = self._places(inputs)
        return fold_of(inputs.gather(0, places), places, self.symbols)

    def _places(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "N B"]:
        return places_of(inputs < self.symbols, self.length)

    def solve(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "T B"]:
        return self._asking(inputs, inputs.gather(0, self._places(inputs))).targets

    def lag(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "T B"]:
        """From each answer to its own symbol."""
        lags = torch.zeros_like(inputs)
        answers = torch.arange(len(inputs) - self.length, len(inputs))
        lags[-self.length :] = answers[:, None] - self._places(inputs)
        return lags

    def question(self, inputs: Int[Tensor, " T"]) -> Batch:
        return self._asking(inputs[:, None], self.solve(inputs[:, None])[-self.length :])

    def unanswerable(self, inputs: Int[Tensor, " T"]) -> str | None:
        if len(inputs) < self.min_seq_len:
            return super().unanswerable(inputs)
        marks, symbol = inputs == self.symbols + 1, inputs < self.symbols
        if not marks[-self.length - 1] or int(marks.sum()) != 1:
            return f"its one mark ! does not stand {self.length} timesteps before the end"
        if symbol[-self.length :].any():
            return "it has symbols after the mark !"
        count = int(symbol.sum())
        return None if count == self.length else f"it has {count} symbols, task={self.name} asks for {self.length}"

    def words(self, inputs: Int[Tensor, " T"]) -> list[str]:
        return letters(inputs.tolist(), self.symbols, ".!")

    def answer(self, target: Int[Tensor, ""]) -> str:
        return letters([int(target)], self.symbols, ".")[0]
