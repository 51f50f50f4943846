"""Which value belongs to this key, always and everywhere?

    reads   k2 ? k7 ? k2 ? k0 ?
    says     . 5  . 3  . 5  . 1
    keys, each followed by a query that asks for its value; the values are the
    same in all sequences, and are never read

Keys are drawn uniformly and independently. Each has a value of its own, by a table that is a function of ``keys`` and
``table`` alone. Where ``seq_len`` is odd, a query that asks nothing comes first. The query tells nothing: chance is
1 / ``keys``.

What is remembered here is in the weights: the state holds one key for one timestep. So it is no test of how far back a
model remembers, but of how many facts it stores. Every key is trained on, and new sequences of them are tested.

Poli et al. 2024, Mechanistic design and scaling of hybrid architectures (MAD), memorization: 256 tokens, half of the
others beside the query are keys, so 127 (in harder settings up to 8192 tokens), 32 timesteps, 256 training sequences
(``train.sequences=256``). Which value a key has is decided here.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from ..signals import Batch, Tokens
from .base import Task, content_hash
from .scattered import draw_symbols


@dataclass(frozen=True)
class Memorization(Task):
    """``keys``: how many there are, 2 to 8192; ``table``: which of the tables of values, a whole number.

    Tokens 0 ... ``keys`` - 1 are the keys, then the query. Answers are 0 ... ``keys`` - 1.
    """

    keys: int = 127
    table: int = 0

    name: ClassVar[str] = "memorization"
    source: ClassVar[str] = "Poli et al. 2024"

    def __post_init__(self) -> None:
        if not 2 <= self.keys <= 8192:
            raise ValueError(f"keys={self.keys}: must be from 2 to 8192")

    @property
    def inputs(self) -> Tokens:
        return Tokens(self.keys + 1)

    @property
    def targets(self) -> Tokens:
        return Tokens(self.keys)

    @property
    def chance(self) -> float:
        return 1 / self.keys

    @property
    def min_seq_len(self) -> int:
        """A key and its query."""
        return 2

    def sample(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Batch:
        self.check(batch_size, seq_len)
        inputs = torch.full((seq_len, batch_size), self.keys)
        inputs[seq_len % 2 :: 2] = draw_symbols(self.keys, seq_len // 2, batch_size, rng)
        return self._asked(inputs)

    def _asked(self, inputs: Int[Tensor, "T B"]) -> Batch:
        asked = inputs == self.keys
        asked[: len(inputs) % 2] = False
        return Batch(inputs, self.solve(inputs), asked.float(), asked)

    def solve(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "T B"]:
        """The value of the key before."""
        before = inputs.roll(1, 0).clamp(max=self.keys - 1)
        return torch.where(inputs == self.keys, _values(self.keys, self.table)[before], 0)

    def lag(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "T B"]:
        """The key stands directly before its query."""
        return torch.ones_like(inputs)

    def question(self, inputs: Int[Tensor, " T"]) -> Batch:
        return self._asked(inputs[:, None])

    def unanswerable(self, inputs: Int[Tensor, " T"]) -> str | None:
        if len(inputs) < self.min_seq_len:
            return super().unanswerable(inputs)
        queries = inputs == self.keys
        expected = (torch.arange(len(inputs)) - len(inputs)) % 2 == 1
        wrong = (queries != expected).nonzero()[:, 0].tolist()
        return f"word {wrong[0] + 1} is not {'?' if expected[wrong[0]] else 'a key'}" if wrong else None

    def words(self, inputs: Int[Tensor, " T"]) -> list[str]:
        return ["?" if token == self.keys else f"k{token}" for token in inputs.tolist()]

    def answer(self, target: Int[Tensor, ""]) -> str:
        return str(int(target))


@lru_cache
def _values(keys: int, table: int) -> Int[Tensor, " N"]:
    """The value of each key: the same on every machine."""
    return content_hash(torch.stack([torch.full((keys,), table), torch.arange(keys)])).argsort(stable=True)
