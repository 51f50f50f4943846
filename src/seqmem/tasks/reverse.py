"""Say the symbols again, backwards.

    reads   c a h > h a
    says    . . . h a c
    the symbols, a mark that asks, then each answer is the next input

Half of the timesteps are the source, half the answers: ``seq_len`` // 2 symbols. Where ``seq_len`` is odd, a blank
comes first. Symbols are drawn uniformly, and the answer before tells nothing about the next: chance is 1 / symbols.
The last answer is the first symbol, ``seq_len`` - 1 timesteps ago.

In training the right answer is fed back (teacher forcing); scores are of what a model writes when it reads its own.

After Sutskever, Vinyals & Le 2014 (arXiv 1409.3215), whose source is reversed, so that its first word is near.
"""

from dataclasses import dataclass
from string import ascii_lowercase
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from .. import spaces
from ..signals import Batch, Tokens
from .base import Task
from .feedback import Feedback

LETTERS = ascii_lowercase


@dataclass(frozen=True)
class Reverse(Task):
    """``symbols``: size of the alphabet, 2 to 26.

    Tokens 0 ... ``symbols`` - 1 are the symbols, in inputs and targets alike; then the mark and the blank, in inputs
    only.
    """

    symbols: int = 8

    name: ClassVar[str] = "reverse"
    source: ClassVar[str] = "seqmem, after Sutskever et al. 2014"

    def __post_init__(self) -> None:
        if not 2 <= self.symbols <= 26:
            raise ValueError(f"symbols={self.symbols}: must be from 2 to 26")

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
        return 2

    def feedback(self) -> Feedback:
        return Feedback(self.symbols, torch.arange(self.symbols), blank=self.symbols + 1)

    def sample(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Batch:
        self.check(batch_size, seq_len)
        source = torch.randint(self.symbols, (seq_len // 2, batch_size), generator=rng)
        return self.feedback().batch(source, source.flip(0), seq_len)

    def space(self, seq_len: int) -> spaces.Space:
        return spaces.reverse(seq_len, self.symbols)

    def fold(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, " B"]:
        """Each symbol equally often at every place: the sum of the others leaves one of them for it."""
        return self.feedback().source(inputs).sum(0) % self.symbols

    def solve(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "T B"]:
        answers = torch.zeros_like(inputs)
        source = self.feedback().source(inputs)
        answers[-len(source) :] = source.flip(0)
        return answers

    def lag(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "T B"]:
        """1 at the first answer, and two timesteps more at each later one."""
        steps = torch.arange(len(inputs))[:, None]
        return (2 * (steps - (len(inputs) - len(inputs) // 2)) + 1).clamp(min=0).expand(inputs.shape)

    def question(self, inputs: Int[Tensor, " T"]) -> Batch:
        source = self.feedback().typed(inputs)
        return self.feedback().asking(source, source.flip(0))

    def unanswerable(self, inputs: Int[Tensor, " T"]) -> str | None:
        source = self.feedback().typed(inputs).tolist()
        if not source:
            return "it has no symbols to reverse"
        stray = [at for at, token in enumerate(source, 1) if token >= self.symbols]
        return f"symbol {stray[0]} is a blank" if stray else None

    def words(self, inputs: Int[Tensor, " T"]) -> list[str]:
        return [(*LETTERS[: self.symbols], ">", ".")[i] for i in inputs.tolist()]

    def answer(self, target: Int[Tensor, ""]) -> str:
        return LETTERS[int(target)]
