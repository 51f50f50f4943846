"""Put the letters in order.

    reads   h c a . . . . ! . . .
    says    . . . . . . . . a c h
    letters (here three), blanks, a cue, room to answer; the answer is the
    letters in the order of the alphabet

``length`` different letters of ``symbols`` are drawn, every choice and order equally likely. The layout is that of
``copy``, with T + 2 * ``length`` timesteps, but only the answers are trained. Nearly every answer needs all letters:
only where no other letter could be before it (or after it) are those after it (or before it) of no use.

The first answer is likely an early letter, the last a late one: at answer i of N = ``length``, letter k of S =
``symbols`` is right with probability C(k, i) C(S - 1 - k, N - 1 - i) / C(S, N), counted from 0. The best letter at each
place, on average over the places, is chance; the mean entropy is the loss without a memory.

After the priority sort of Graves, Wayne & Danihelka 2014, Neural Turing machines (arXiv 1410.5401), section 4.5, whose
vectors have real priorities, and the bucket sort of Deletang et al. 2023, Neural networks and the Chomsky hierarchy
(arXiv 2207.02098). There symbols repeat, and their number grows with the length, so that the best answer without a
memory approaches a perfect score; that letters are different and their number is fixed is decided here.
"""

from dataclasses import dataclass
from math import comb, log, perm
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from ..signals import Batch, Tokens
from ..spaces import Space
from .base import Task
from .scattered import FOLDS, check_alphabet, equally_likely, letters


@dataclass(frozen=True)
class Sorting(Task):
    """``symbols``: size of the alphabet, 2 to 26; ``length``: how many letters are sorted, from 2 to ``symbols`` - 1.

    Tokens 0 ... ``symbols`` - 1 are the letters, in inputs and targets alike; then the blank and the cue.
    """

    symbols: int = 26
    length: int = 6

    name: ClassVar[str] = "sorting"
    source: ClassVar[str] = "seqmem, after Graves, Wayne & Danihelka 2014"

    def __post_init__(self) -> None:
        check_alphabet(self.symbols)
        if not 2 <= self.length < self.symbols:
            raise ValueError(f"length={self.length}: must be at least 2 and less than symbols={self.symbols}")

    @property
    def inputs(self) -> Tokens:
        return Tokens(self.symbols + 2)

    @property
    def targets(self) -> Tokens:
        return Tokens(self.symbols)

    def _shares(self) -> list[list[float]]:
        """The probability of each letter at each answer."""
        s, n = self.symbols, self.length
        return [[comb(k, i) * comb(s - 1 - k, n - 1 - i) / comb(s, n) for k in range(s)] for i in range(n)]

    @property
    def chance(self) -> float:
        return sum(map(max, self._shares())) / self.length

    @property
    def constant(self) -> float:
        """Every letter is among the answers equally often."""
        return 1 / self.symbols

    def baseline_loss(self, seq_len: int) -> float:
        return -sum(p * log(p) for shares in self._shares() for p in shares if p) / self.length

    @property
    def min_seq_len(self) -> int:
        """T = 1: the cue follows the last letter at once."""
        return 2 * self.length + 1

    def sample(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Batch:
        self.check(batch_size, seq_len)
        inputs = torch.full((seq_len, batch_size), self.symbols)
        inputs[: self.length] = torch.rand(self.symbols, batch_size, generator=rng).topk(self.length, 0).indices
        inputs[-self.length - 1] = self.symbols + 1
        return self._asking(inputs)

    def _asking(self, inputs: Int[Tensor, "T B"]) -> Batch:
        asked = torch.zeros(inputs.shape, dtype=torch.bool)
        asked[-self.length :] = True
        return Batch(inputs, self.solve(inputs), asked.float(), asked)

    def space(self, seq_len: int) -> Space:
        return Space(equally_likely(perm(self.symbols, self.length)).size, FOLDS if self.length >= FOLDS else 1)

    def fold(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, " B"]:
        """By the order alone, so a fold has all choices of letters: the number of pairs in the wrong order, modulo 4.

        Of four letters or more, equally many orders have each (the generating function of inversions is zero at i).
        """
        drawn = inputs[: self.length]
        wrong = (drawn[:, None] > drawn[None]).long()
        return (wrong * torch.ones(self.length, self.length).triu(1)[..., None].long()).sum((0, 1)) % FOLDS

    def solve(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "T B"]:
        answers = torch.zeros_like(inputs)
        answers[-self.length :] = inputs[: self.length].sort(0).values
        return answers

    def lag(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "T B"]:
        """To the first letter that could change the answer, the others being as they are.

        That is its own; any before it in the alphabet, where a letter after it is left to be drawn instead; and any
        after it, where one before it is.
        """
        drawn = inputs[: self.length]
        answer, drawn = drawn.sort(0).values[:, None], drawn[None]
        place = torch.arange(self.length)[:, None, None]
        before, after = answer > place, self.symbols - 1 - answer > self.length - 1 - place
        needed = (drawn == answer) | ((drawn < answer) & after) | ((drawn > answer) & before)
        lags = torch.zeros_like(inputs)
        answers = torch.arange(len(inputs) - self.length, len(inputs))
        lags[-self.length :] = answers[:, None] - needed.int().argmax(1)
        return lags

    def question(self, inputs: Int[Tensor, " T"]) -> Batch:
        return self._asking(inputs[:, None])

    def unanswerable(self, inputs: Int[Tensor, " T"]) -> str | None:
        if len(inputs) < self.min_seq_len:
            return super().unanswerable(inputs)
        first, rest = inputs[: self.length], inputs[self.length :]
        if not (first < self.symbols).all() or (rest < self.symbols).any():
            return f"its first {self.length} timesteps, and these alone, must be letters"
        if len(set(first.tolist())) < self.length:
            return "it has a letter twice"
        cues = (inputs == self.symbols + 1).nonzero()[:, 0].tolist()
        if cues != [len(inputs) - self.length - 1]:
            return f"its one cue ! does not stand {self.length} timesteps before the end"
        return None

    def words(self, inputs: Int[Tensor, " T"]) -> list[str]:
        return letters(inputs.tolist(), self.symbols, ".!")

    def answer(self, target: Int[Tensor, ""]) -> str:
        return letters([int(target)], self.symbols, "")[0]
