"""Which symbol came n timesteps ago?

    reads   c a h f a b d d
    says    . . c a h f a b
    here n = 2; every timestep asks, from the first on that has a symbol n
    timesteps before

    reads   c a h a f a b a
    says    . . n y n y n y
    match=true: whether the present symbol is the same as n timesteps ago

The memory is a queue that moves on with every timestep, so each answer needs the whole of it: to keep is not enough.
The lag is n whatever ``seq_len`` is.

Symbols are uniform and independent, and chance is 1 / ``symbols``. With ``match=true`` a symbol repeats the one n
timesteps ago with a probability of 1/2 and is else one of the others, all equally likely: chance is 1/2.

Kirchner 1958, Age differences in short-term retention of rapidly changing information. To ask whether it is the same is
the form of most later studies (Kane, Conway, Miura & Colflesh 2007, Working memory, attention control, and the n-back
task), where it is the same more or less often; 1/2 is chosen here.
"""

from dataclasses import dataclass
from math import exp, inf, log
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from ..signals import Batch, Tokens
from ..spaces import Space
from .base import Task
from .scattered import check_alphabet, draw_symbols, letters


@dataclass(frozen=True)
class NBack(Task):
    """``n``: how many timesteps back, at least 1; ``symbols``: size of the alphabet, 2 to 26; ``match``: say only
    whether they are the same, 0 no and 1 yes."""

    n: int = 3
    symbols: int = 8
    match: bool = False

    name: ClassVar[str] = "nback"
    source: ClassVar[str] = "Kirchner 1958"

    def __post_init__(self) -> None:
        check_alphabet(self.symbols)
        if self.n < 1:
            raise ValueError(f"n={self.n}: must be at least 1")

    @property
    def inputs(self) -> Tokens:
        return Tokens(self.symbols)

    @property
    def targets(self) -> Tokens:
        return Tokens(2 if self.match else self.symbols)

    @property
    def chance(self) -> float:
        return 1 / self.targets.size

    @property
    def min_seq_len(self) -> int:
        return self.n + 1

    def sample(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Batch:
        self.check(batch_size, seq_len)
        inputs = draw_symbols(self.symbols, seq_len, batch_size, rng)
        if self.match:
            inputs = self._with_matches(inputs, rng)
        return self._asking(inputs)

    def _with_matches(self, drawn: Int[Tensor, "T B"], rng: torch.Generator) -> Int[Tensor, "T B"]:
        """Each symbol as its distance from the one n timesteps before, modulo ``symbols``, which is 0 in one half."""
        later = drawn[self.n :]
        changes = torch.randint(1, self.symbols, later.shape, generator=rng)
        drawn[self.n :] = changes * torch.randint(2, later.shape, generator=rng)
        rows = -(-len(drawn) // self.n)
        padded = torch.cat([drawn, drawn.new_zeros(rows * self.n - len(drawn), drawn.shape[1])])
        return padded.view(rows, self.n, -1).cumsum(0).flatten(0, 1)[: len(drawn)] % self.symbols

    def _asking(self, inputs: Int[Tensor, "T B"]) -> Batch:
        asked = torch.zeros(inputs.shape, dtype=torch.bool)
        asked[self.n :] = True
        return Batch(inputs, self.solve(inputs), asked.float(), asked)

    def space(self, seq_len: int) -> Space:
        """With matches, the probability that two draws agree is 1/4 + 1/4 / (``symbols`` - 1) at each later symbol."""
        first = min(seq_len, self.n) if self.match else seq_len
        same = 0.25 + 0.25 / (self.symbols - 1)
        size = max(0, first) * log(self.symbols) - max(0, seq_len - first) * log(same)
        return Space(exp(size) if size < 690 else inf, 4 if self.match else self.symbols)

    def fold(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, " B"]:
        """By all symbols, whose sum leaves one of them for each answer; with matches, all but the last."""
        return inputs[:-1].sum(0) % 4 if self.match else inputs.sum(0) % self.symbols

    def solve(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "T B"]:
        answers = torch.zeros_like(inputs)
        before = inputs[: -self.n]
        answers[self.n :] = (inputs[self.n :] == before).long() if self.match else before
        return answers

    def lag(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "T B"]:
        return torch.full_like(inputs, self.n)

    def question(self, inputs: Int[Tensor, " T"]) -> Batch:
        return self._asking(inputs[:, None])

    def words(self, inputs: Int[Tensor, " T"]) -> list[str]:
        return letters(inputs.tolist(), self.symbols, "")

    def answer(self, target: Int[Tensor, ""]) -> str:
        return ("no", "yes")[int(target)] if self.match else letters([int(target)], self.symbols, "")[0]
