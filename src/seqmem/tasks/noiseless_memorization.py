"""Repeat a pattern when the cue comes.

    reads   1 0 0 1 1 . . . . . . ! . . . .
    says    . . . . . . . . . . . 1 0 0 1 1
    a pattern of ``length`` symbols, blanks, a cue; the answer is blank until
    the cue, which asks for the first symbol; the others follow

The 5-bit memory has two values and five symbols, the 20-bit memory (more than 20 bits) five values and ten symbols.
With T blanks between pattern and cue a sequence has T + 2 * ``length`` timesteps. ``copy`` is another form of it: there
the cue comes one timestep before the first answer. The loss is the mean over all timesteps. A model without memory
predicts blanks, then guesses: ``length`` ln ``values`` / ``seq_len`` nats. Only the recalled symbols are scored.

Hochreiter & Schmidhuber 1997; Martens & Sutskever 2011; as in the code of Pascanu, Mikolov & Bengio 2013, On the
difficulty of training recurrent neural networks. A pattern is right there if all its symbols are, and a run is solved
where fewer than 1 % of 10,000 patterns are wrong: here the score at which that is so if each has one mistake.
"""

from dataclasses import dataclass
from math import log
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from .. import spaces
from ..signals import Batch, Tokens
from ..spaces import Space
from .base import Task


@dataclass(frozen=True)
class NoiselessMemorization(Task):
    """``values``: of a symbol, 2 to 10; ``length``: symbols of a pattern, at least 1.

    Tokens and targets 0 ... ``values`` - 1 are the symbols, ``values`` is the blank; ``values`` + 1 is the cue, which
    occurs in inputs only.
    """

    values: int = 2
    length: int = 5

    name: ClassVar[str] = "noiseless_memorization"
    source: ClassVar[str] = "Martens & Sutskever 2011; Pascanu, Mikolov & Bengio 2013"

    def __post_init__(self) -> None:
        if not 2 <= self.values <= 10:
            raise ValueError(f"values={self.values}: must be from 2 to 10")
        if self.length < 1:
            raise ValueError(f"length={self.length}: must be at least 1")

    @property
    def inputs(self) -> Tokens:
        return Tokens(self.values + 2)

    @property
    def targets(self) -> Tokens:
        return Tokens(self.values + 1)

    @property
    def chance(self) -> float:
        return 1 / self.values

    @property
    def solved_at(self) -> float:
        return 1 - 0.01 / self.length

    @property
    def min_seq_len(self) -> int:
        """The cue follows the pattern at once."""
        return 2 * self.length

    def baseline_loss(self, seq_len: int) -> float:
        return self.length * log(self.values) / seq_len

    def sample(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Batch:
        self.check(batch_size, seq_len)
        inputs = torch.full((seq_len, batch_size), self.values)
        inputs[: self.length] = torch.randint(self.values, (self.length, batch_size), generator=rng)
        inputs[-self.length] = self.values + 1
        return self.question_of(inputs)

    def question_of(self, inputs: Int[Tensor, "T B"]) -> Batch:
        """The batch that asks for the patterns of these sequences."""
        asked = torch.zeros(inputs.shape, dtype=torch.bool)
        asked[-self.length :] = True
        return Batch(inputs, self.solve(inputs), torch.ones(inputs.shape), asked)

    def space(self, seq_len: int) -> Space:
        return spaces.copy(2 * self.length + 1, self.values, self.length)

    def fold(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, " B"]:
        """Each symbol equally often at every place: the sum of the others leaves one of them for it."""
        return inputs[: self.length].sum(0) % self.values

    def solve(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "T B"]:
        answers = torch.full_like(inputs, self.values)
        answers[-self.length :] = inputs[: self.length]
        return answers.clamp(max=self.values)

    def lag(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "T B"]:
        """The same for every symbol."""
        return torch.full_like(inputs, len(inputs) - self.length)

    def question(self, inputs: Int[Tensor, " T"]) -> Batch:
        return self.question_of(inputs[:, None])

    def unanswerable(self, inputs: Int[Tensor, " T"]) -> str | None:
        if len(inputs) < self.min_seq_len:
            return super().unanswerable(inputs)
        if not (inputs[: self.length] < self.values).all():
            return f"its first {self.length} timesteps are not all symbols"
        cue = int(inputs[-self.length]) == self.values + 1
        return None if cue else f"timestep {len(inputs) - self.length + 1} is not the cue !"

    def words(self, inputs: Int[Tensor, " T"]) -> list[str]:
        return [self._word(token) for token in inputs.tolist()]

    def answer(self, target: Int[Tensor, ""]) -> str:
        return self._word(int(target))

    def _word(self, token: int) -> str:
        return str(token) if token < self.values else ".!"[token - self.values]
