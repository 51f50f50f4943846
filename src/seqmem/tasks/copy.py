"""Repeat the symbols seen long ago.

    reads   c a h . . . . . . . ! . . .
    says    . . . . . . . . . . . c a h
    ten symbols (here three), blanks, a cue, room to answer; the answer is
    blank until the cue, then the symbols in order

With T steps from the last symbol to the cue a sequence has T + 2 * ``length`` timesteps, T + 20 as published. The loss
is the mean over all of them. A model without memory predicts blanks, then guesses: ``length`` ln ``symbols`` /
``seq_len`` nats, 10 ln 8 / (T + 20) as published. Only the recalled symbols are scored, with chance 1 / symbols: over
all timesteps even a model without memory would be nearly always right.

Arjovsky, Shah & Bengio 2016, Unitary evolution recurrent neural networks, with the token ids of their code.
"""

from dataclasses import dataclass
from math import log
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from .. import spaces
from ..signals import Batch, Tokens
from .base import Task

BLANK = 0


@dataclass(frozen=True)
class Copy(Task):
    """``symbols``: size of the alphabet, 2 to 26; ``length``: how many symbols are copied, at least 1.

    Token 0 is the blank and 1 ... ``symbols`` are the symbols, in inputs and targets alike; ``symbols + 1`` is the cue,
    which occurs in inputs only.
    """

    symbols: int = 8
    length: int = 10

    name: ClassVar[str] = "copy"
    source: ClassVar[str] = "Arjovsky, Shah & Bengio 2016"

    def __post_init__(self) -> None:
        if not 2 <= self.symbols <= 26:
            raise ValueError(f"symbols={self.symbols}: must be from 2 to 26")
        if self.length < 1:
            raise ValueError(f"length={self.length}: must be at least 1")

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
        """T = 1: the cue follows the last symbol at once."""
        return 2 * self.length + 1

    def baseline_loss(self, seq_len: int) -> float:
        return self.length * log(self.symbols) / seq_len

    def sample(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Batch:
        self.check(batch_size, seq_len)
        data = torch.randint(1, self.symbols + 1, (self.length, batch_size), generator=rng)
        inputs = torch.full((seq_len, batch_size), BLANK)
        inputs[: self.length] = data
        inputs[-self.length - 1] = self.symbols + 1
        asked = torch.zeros(seq_len, batch_size, dtype=torch.bool)
        asked[-self.length :] = True
        return Batch(inputs, self.solve(inputs), torch.ones(seq_len, batch_size), asked)

    def space(self, seq_len: int) -> spaces.Space:
        return spaces.copy(seq_len, self.symbols, self.length)

    def fold(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, " B"]:
        """Each symbol equally often at every place: the sum of the others leaves one of them for it."""
        return inputs[: self.length].sum(0) % self.symbols

    def solve(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "T B"]:
        answers = torch.full_like(inputs, BLANK)
        answers[-self.length :] = inputs[: self.length]
        return answers

    def lag(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "T B"]:
        """The same for every symbol."""
        return torch.full_like(inputs, len(inputs) - self.length)

    def question(self, inputs: Int[Tensor, " T"]) -> Batch:
        asked = torch.zeros(len(inputs), 1, dtype=torch.bool)
        asked[-self.length :] = True
        return Batch(inputs[:, None], self.solve(inputs[:, None]), torch.ones(len(inputs), 1), asked)

    def unanswerable(self, inputs: Int[Tensor, " T"]) -> str | None:
        if len(inputs) < self.min_seq_len:
            return super().unanswerable(inputs)
        symbol, cue = (inputs >= 1) & (inputs <= self.symbols), inputs == self.symbols + 1
        if not symbol[: self.length].all():
            return f"its first {self.length} timesteps are not all symbols"
        return None if cue[-self.length - 1] else f"the cue ! does not stand {self.length} timesteps before the end"

    def words(self, inputs: Int[Tensor, " T"]) -> list[str]:
        return [self._word(i) for i in inputs.tolist()]

    def answer(self, target: Int[Tensor, ""]) -> str:
        return self._word(int(target))

    def _word(self, token: int) -> str:
        return "." if token == BLANK else "!" if token > self.symbols else chr(ord("a") + token - 1)
