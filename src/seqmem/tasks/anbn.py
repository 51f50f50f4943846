"""Count: when does a^n b^n end?

    reads   . . S a a a a b b b b . .
    says                  b b b T
    a start symbol, n letters a, as many b; what comes next is predicted:
    another b, or T, the end

With ``letters=3`` the strings are a^n b^n c^n: no context-free grammar has them, and the last b and the last c are both
told by counting. n is drawn uniformly from 2 ... N, the largest that fits in; blanks (.) before and after the string
fill up ``seq_len``, uniformly, so that the place tells little. What follows an a cannot be known and does not count.
The loss is over the prediction at every later letter. Scored are the two that only counting tells apart: at the last
of a block, and at the one before. Nearly always the former needs another answer than the latter, and without a count
one of two is right: chance is 1/2, a little more in short sequences, where some places have one string only.

Gers & Schmidhuber 2001, LSTM recurrent networks learn simple context-free and context-sensitive languages. They train
on n <= 10, one string at a time and without blanks, and accept a string if every prediction is right: the equivalent
of a score of 1. Longer sequences ask for a larger n: ``seq_len=21``, then ``seqmem eval RUN seq_len=101``. n = 1 is
left out here: it has no letter before the last.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from ..signals import Batch, Tokens
from ..spaces import Space
from .base import Task, content_hash

WORDS = ".Sabc"
BLANK, START, FIRST = 0, 1, 2


@dataclass(frozen=True)
class Anbn(Task):
    """``letters``: 2 (a^n b^n) or 3 (a^n b^n c^n). Tokens: blank, S, a, b, c. Targets: b, c (of three letters), T."""

    letters: int = 2

    name: ClassVar[str] = "anbn"
    source: ClassVar[str] = "Gers & Schmidhuber 2001"

    def __post_init__(self) -> None:
        if self.letters not in (2, 3):
            raise ValueError(f"letters={self.letters}: must be 2 or 3")

    @property
    def inputs(self) -> Tokens:
        return Tokens(2 + self.letters)

    @property
    def targets(self) -> Tokens:
        return Tokens(self.letters)

    @property
    def chance(self) -> float:
        return 0.5

    def chance_at(self, seq_len: int) -> float:
        return _without_memory(seq_len, self.letters)[0]

    def baseline_loss(self, seq_len: int) -> float:
        return _without_memory(seq_len, self.letters)[1]

    @property
    def min_seq_len(self) -> int:
        """Two different n fit in."""
        return 3 * self.letters + 1

    def sample(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Batch:
        self.check(batch_size, seq_len)
        n = torch.randint(2, (seq_len - 1) // self.letters + 1, (batch_size,), generator=rng)
        room = seq_len - self.letters * n
        start = (torch.rand(batch_size, generator=rng, dtype=torch.double) * room).long()
        place = torch.arange(seq_len)[:, None] - start - 1  # among the letters
        block = place.div(n, rounding_mode="floor")
        inputs = torch.where((place >= 0) & (block < self.letters), block + FIRST, BLANK)
        inputs[start, torch.arange(batch_size)] = START
        return self._asked(inputs)

    def _asked(self, inputs: Int[Tensor, "T B"]) -> Batch:
        left = self._left(inputs)
        counted = inputs > FIRST
        return Batch(inputs, self.solve(inputs), counted.float(), counted & (left <= 1))

    def _left(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "T B"]:
        """How many letters of its block follow each letter."""
        n = (inputs == FIRST).sum(0)
        same = torch.zeros_like(inputs)
        for letter in range(FIRST, FIRST + self.letters):
            same = torch.where(inputs == letter, (inputs == letter).cumsum(0), same)
        return n - same

    def space(self, seq_len: int) -> Space:
        n = np.arange(2, (seq_len - 1) // self.letters + 1)
        return Space(float(len(n) ** 2 / (1 / (seq_len - self.letters * n)).sum()), 4)

    def fold(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, " B"]:
        """Each sequence asks for all answers equally often."""
        return content_hash(inputs) % 4

    def solve(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "T B"]:
        """The present letter again, or the next one (after the last, T) where the block is as long as that of a."""
        return (inputs - FIRST - 1 + (self._left(inputs) == 0).long()).clamp(0, self.letters - 1)

    def lag(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "T B"]:
        """To the first a."""
        return torch.arange(len(inputs))[:, None] - (inputs == FIRST).int().argmax(0)

    def unanswerable(self, inputs: Int[Tensor, " T"]) -> str | None:
        tokens = inputs.tolist()
        counts = [0] * self.letters
        start = next((t for t, token in enumerate(tokens) if token != BLANK), len(tokens))
        for t, token in enumerate(tokens[start:], start):
            if token == START and t == start:
                continue
            block = max((k for k in range(self.letters) if counts[k]), default=0)
            full = counts[block] == counts[0]
            if t == start:
                expected = [START]
            elif block == 0:
                expected = [FIRST, FIRST + 1][: 1 + bool(counts[0])]
            else:
                expected = list(range(FIRST + block + full, FIRST + self.letters))[:1]
            if token not in expected:
                names = " or ".join(WORDS[one] for one in expected) or "no more letters"
                return f"word {t + 1} is '{WORDS[token]}': there task={self.name} has {names}"
            counts[token - FIRST] += 1
        return None if counts[1] else "what follows cannot be known: it has no b"

    def words(self, inputs: Int[Tensor, " T"]) -> list[str]:
        return [WORDS[token] for token in inputs.tolist()]

    def answer(self, target: Int[Tensor, ""]) -> str:
        return [*WORDS[FIRST + 1 : FIRST + self.letters], "T"][int(target)]


@lru_cache(256)
def _without_memory(seq_len: int, letters: int) -> tuple[float, float]:
    """(accuracy at the scored timesteps, loss in nats) of the best answer from the letter and its place."""
    score = loss = 0.0
    lengths = range(2, (seq_len - 1) // letters + 1)
    for block in range(1, letters):
        ends, before, ending, going_on = np.zeros((4, seq_len))  # the latter two as they weigh in the loss
        for n in lengths:
            first, room = block * n + 1, seq_len - letters * n
            each = 1 / (room * len(lengths) * (letters - 1))  # a string's probability times the block's share
            ends[first + n - 1 :][:room] += each
            before[first + n - 2 :][:room] += each
            ending[first + n - 1 :][:room] += each / n
            going_on[first:][: room + n - 2] += np.convolve(np.full(room, each / n), np.ones(n - 1))
        score += float(np.maximum(ends, before).sum()) / 2
        total = ending + going_on
        for part in (ending, going_on):
            some = part > 0
            loss -= float((part[some] * np.log(part[some] / total[some])).sum())
    return score, loss
