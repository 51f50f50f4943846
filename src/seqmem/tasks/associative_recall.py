"""Which value came with this key?

    c 9 k 8 j 3 f 1 . . . . . k -> 8
        ~~~                   ~
    pairs of a key and a value, blanks, and one of the keys again

``pairs`` different keys are drawn, each with a value that is drawn independently; the last timestep queries one of
them, each equally often. The key that is queried tells nothing of its value: chance is 1 / ``values``. A model that
remembers which values there were, but not with which keys, answers the most frequent of them: the plateau. To store
each pair and find it by its key takes more than to keep a symbol, as in ``copy``.

Ba et al. 2016, Using fast weights to attend to the recent past (arXiv 1610.06258): keys are letters, values digits, and
two ``?`` stand between pairs and query. Here ``seq_len`` - 2 ``pairs`` - 1 blanks do, and it is decided here that keys
differ and values are independent.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import comb, factorial, log, perm
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from ..metrics import Plateau
from ..signals import Batch, Tokens
from ..spaces import Space
from .base import Task
from .scattered import draw_symbols, equally_likely, fold_of

KEYS, VALUES = "abcdefghijklmnopqrstuvwxyz", "0123456789"


@dataclass(frozen=True)
class AssociativeRecall(Task):
    """``pairs``: from 1 to ``keys``; ``keys``: different keys, 1 to 26; ``values``: different values, 2 to 10.

    Tokens 0 ... ``values`` - 1 are the values, in inputs and targets alike; then the keys, then the blank.
    """

    pairs: int = 4
    keys: int = 26
    values: int = 10

    name: ClassVar[str] = "associative_recall"
    source: ClassVar[str] = "Ba et al. 2016"

    def __post_init__(self) -> None:
        if not 1 <= self.keys <= len(KEYS):
            raise ValueError(f"keys={self.keys}: must be from 1 to {len(KEYS)}")
        if not 2 <= self.values <= len(VALUES):
            raise ValueError(f"values={self.values}: must be from 2 to {len(VALUES)}")
        if not 1 <= self.pairs <= self.keys:
            raise ValueError(f"pairs={self.pairs}: must be from 1 to {self.keys}, the number of keys")

    @property
    def inputs(self) -> Tokens:
        return Tokens(self.values + self.keys + 1)

    @property
    def targets(self) -> Tokens:
        return Tokens(self.values)

    @property
    def chance(self) -> float:
        return 1 / self.values

    def plateaus(self, seq_len: int) -> Sequence[Plateau]:
        if self.pairs == 1:
            return []
        score = _most_frequent(self.pairs, self.values) / self.pairs
        loss = self.values * sum(
            comb(self.pairs, n) * (1 / self.values) ** n * (1 - 1 / self.values) ** (self.pairs - n)
            * n / self.pairs * log(self.pairs / n)
            for n in range(1, self.pairs + 1)
        )  # fmt: skip
        return [Plateau(score, loss, "the values alone")]

    @property
    def min_seq_len(self) -> int:
        """No blanks."""
        return 2 * self.pairs + 1

    def sample(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Batch:
        self.check(batch_size, seq_len)
        order = torch.rand(self.keys, batch_size, generator=rng).topk(self.pairs, 0).indices
        values = draw_symbols(self.values, self.pairs, batch_size, rng)
        queried = torch.randint(self.pairs, (1, batch_size), generator=rng)
        inputs = torch.full((seq_len, batch_size), self.values + self.keys)
        inputs[0 : 2 * self.pairs : 2] = self.values + order
        inputs[1 : 2 * self.pairs : 2] = values
        inputs[-1] = self.values + order.gather(0, queried)[0]
        return Batch.asked_at_end(inputs, values.gather(0, queried)[0])

    def space(self, seq_len: int) -> Space:
        return equally_likely(perm(self.keys, self.pairs) * self.values**self.pairs * self.pairs)

    def fold(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, " B"]:
        keys, values = self._pairs(inputs)
        weights = torch.arange(1, self.pairs + 1)[:, None]
        return fold_of(values, torch.cat([keys * weights, self._queried(inputs)]), self.values)

    def _pairs(self, inputs: Int[Tensor, "T B"]) -> tuple[Int[Tensor, "N B"], Int[Tensor, "N B"]]:
        return inputs[0 : 2 * self.pairs : 2], inputs[1 : 2 * self.pairs : 2]

    def _queried(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "1 B"]:
        """Which pair is queried."""
        return (self._pairs(inputs)[0] == inputs[-1]).int().argmax(0, keepdim=True)

    def solve(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "T B"]:
        keys, values = self._pairs(inputs)
        known = (keys == inputs[-1]).any(0)
        answer = values.gather(0, self._queried(inputs))[0]
        return torch.where(known, answer, self.inputs.size).expand(inputs.shape)

    def lag(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "T B"]:
        """To the key of the pair that is queried."""
        return torch.arange(len(inputs))[:, None] - 2 * self._queried(inputs)

    def unanswerable(self, inputs: Int[Tensor, " T"]) -> str | None:
        if len(inputs) < self.min_seq_len:
            return super().unanswerable(inputs)
        keys, values = inputs[0 : 2 * self.pairs : 2], inputs[1 : 2 * self.pairs : 2]
        is_key = (inputs >= self.values) & (inputs < self.values + self.keys)
        if not (is_key[0 : 2 * self.pairs : 2].all() and (values < self.values).all()):
            return f"its first {2 * self.pairs} timesteps are not {self.pairs} pairs of a key and a value"
        if len(set(keys.tolist())) < self.pairs:
            return "a key has two values"
        if not (inputs[2 * self.pairs : -1] == self.values + self.keys).all():
            return "nothing but blanks may stand between the pairs and the last key"
        return None if inputs[-1] in keys else f"it ends with '{self.words(inputs[-1:])[0]}', which is none of its keys"

    def words(self, inputs: Int[Tensor, " T"]) -> list[str]:
        vocabulary = VALUES[: self.values] + KEYS[: self.keys] + "."
        return [vocabulary[token] for token in inputs.tolist()]

    def answer(self, target: Int[Tensor, ""]) -> str:
        return VALUES[int(target)]


@lru_cache
def _most_frequent(draws: int, values: int) -> float:
    """The mean, over so many uniform draws of ``values``, of how often the most frequent value occurs."""
    total, below = 0.0, 0.0
    for most in range(1, draws + 1):
        ways = [1.0] + [0.0] * draws  # exponential generating function of draws in which no value occurs more often
        for _ in range(values):
            ways = [sum(ways[n - k] / factorial(k) for k in range(min(most, n) + 1)) for n in range(draws + 1)]
        upto = ways[draws] * factorial(draws) / values**draws
        total, below = total + most * (upto - below), upto
    return total
