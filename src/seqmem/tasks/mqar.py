"""Multi-query associative recall: which value came with each of these keys?

    reads   a D c B f A b H . . c . a . . . b . . . f .
    says    . . . . . . . . . . B . D . . . H . . . A .
    pairs of a key and a value; then every key is queried once, after a gap

``pairs`` different keys come with ``pairs`` different values. Of the slots of two timesteps that follow, each key gets
one to itself: they are drawn in the keys' order, without replacement, slot n = 1, 2, ... with a weight of
n^(``power`` - 1), so small gaps are the most frequent, as in language. A query stands at the first timestep of its slot
and is answered there. The rest is blank, or random (``filler=random``): any key or value, which is not answered.

A key tells nothing of its value: chance is 1 / ``values``. A model that remembers which values there were, but not with
which keys, is right once in ``pairs``: the plateau. Length is not lag here: the slots that are drawn are mostly the
first; ``lag`` is counted per question.

Arora et al. 2023, Zoology (arXiv 2312.04927), with 8192 tokens, 4 to 64 pairs, 64 to 512 timesteps and power 0.01, and
as in their code, whose fillers come from a generator that no seed determines. Here all of it is a function of the
arguments, and ``filler=blank`` is an addition.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log, perm
from string import ascii_lowercase, ascii_uppercase
from typing import ClassVar

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ..metrics import Plateau
from ..signals import Batch, Tokens
from ..spaces import Space
from .base import Task
from .scattered import equally_likely, fold_of, named

_MOST = 4096


@dataclass(frozen=True)
class Mqar(Task):
    """``pairs``: from 1 to the number of keys or values; ``keys`` and ``values``: how many there are, 2 to 4096.

    ``power``: of the gaps, from 0 (short) on; 1: every slot is equally likely. ``filler``: blank or random.

    Tokens 0 ... ``values`` - 1 are the values, in inputs and targets alike; then the keys, then the blank.
    """

    pairs: int = 4
    keys: int = 8
    values: int = 8
    power: float = 0.01
    filler: str = "blank"

    name: ClassVar[str] = "mqar"
    source: ClassVar[str] = "Arora et al. 2023"

    def __post_init__(self) -> None:
        for name, count in (("keys", self.keys), ("values", self.values)):
            if not 2 <= count <= _MOST:
                raise ValueError(f"{name}={count}: must be from 2 to {_MOST}")
        if not 1 <= self.pairs <= min(self.keys, self.values):
            raise ValueError(
                f"pairs={self.pairs}: must be from 1 to {min(self.keys, self.values)}, the number of keys or values"
            )
        if not 0 <= self.power <= 1:
            raise ValueError(f"power={self.power}: must be from 0 to 1")
        if self.filler not in ("blank", "random"):
            raise ValueError(f"filler={self.filler}: must be blank or random")

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
        known = self.pairs > 1 and self.pairs < self.values
        return [Plateau(1 / self.pairs, log(self.pairs), "the values alone")] if known else []

    @property
    def min_seq_len(self) -> int:
        """A slot of two timesteps for each pair."""
        return 4 * self.pairs

    def sample(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Batch:
        self.check(batch_size, seq_len)
        keys = self.values + torch.rand(self.keys, batch_size, generator=rng).topk(self.pairs, 0).indices
        values = torch.rand(self.values, batch_size, generator=rng).topk(self.pairs, 0).indices
        slots = self._draw_slots(batch_size, (seq_len - 2 * self.pairs) // 2, rng)
        if self.filler == "random":
            inputs = torch.randint(self.values + self.keys, (seq_len, batch_size), generator=rng)
        else:
            inputs = torch.full((seq_len, batch_size), self.values + self.keys)
        inputs[0 : 2 * self.pairs : 2] = keys
        inputs[1 : 2 * self.pairs : 2] = values
        queries = 2 * self.pairs + 2 * slots
        inputs.scatter_(0, queries, keys)
        asked = torch.zeros(inputs.shape, dtype=torch.bool).scatter_(0, queries, True)
        return Batch(inputs, torch.zeros_like(inputs).scatter_(0, queries, values), asked.float(), asked)

    def _draw_slots(self, batch_size: int, slots: int, rng: torch.Generator) -> Int[Tensor, "N B"]:
        """Different slots for the keys, drawn one after the other by their weights.

        The first of exponential waiting times whose rates are the weights is a slot drawn so, the next the next.
        """
        waiting = torch.empty(slots, batch_size, dtype=torch.double).exponential_(generator=rng)
        rates = torch.arange(1, slots + 1, dtype=torch.double) ** (self.power - 1)
        return (waiting / rates[:, None]).topk(self.pairs, 0, largest=False).indices

    def space(self, seq_len: int) -> Space:
        """At least: by the pairs alone, which is also what is held out."""
        return equally_likely(perm(self.keys, self.pairs) * perm(self.values, self.pairs))

    def fold(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, " B"]:
        keys, values = self._pairs(inputs)
        return fold_of(values, keys * torch.arange(1, self.pairs + 1)[:, None], self.values)

    def _pairs(self, inputs: Int[Tensor, "T B"]) -> tuple[Int[Tensor, "N B"], Int[Tensor, "N B"]]:
        return inputs[0 : 2 * self.pairs : 2], inputs[1 : 2 * self.pairs : 2]

    def _matches(self, inputs: Int[Tensor, "T B"]) -> Bool[Tensor, "T N B"]:
        """Whether a timestep reads the key of a pair."""
        return inputs[:, None] == self._pairs(inputs)[0]

    def solve(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "T B"]:
        """Where a timestep reads a key that has a value; elsewhere the number of tokens, which is no answer."""
        matches = self._matches(inputs)
        values = self._pairs(inputs)[1].expand(matches.shape)
        answers = values.gather(1, matches.int().argmax(1, keepdim=True))[:, 0]
        return torch.where(matches.any(1), answers, self.inputs.size)

    def lag(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "T B"]:
        """To the key in its pair."""
        return torch.arange(len(inputs))[:, None] - 2 * self._matches(inputs).int().argmax(1)

    def question(self, inputs: Int[Tensor, " T"]) -> Batch:
        """It asks wherever a key of a pair stands after the pairs, at the first timestep of a slot."""
        asked = self._matches(inputs[:, None]).any(1) & self._slots(inputs)
        return Batch(inputs[:, None], torch.where(asked, self.solve(inputs[:, None]), 0), asked.float(), asked)

    def _slots(self, inputs: Int[Tensor, " T"]) -> Bool[Tensor, "T 1"]:
        steps = torch.arange(len(inputs))[:, None]
        return (steps >= 2 * self.pairs) & (steps % 2 == 0)

    def unanswerable(self, inputs: Int[Tensor, " T"]) -> str | None:
        if len(inputs) < self.min_seq_len:
            return super().unanswerable(inputs)
        keys, values = inputs[0 : 2 * self.pairs : 2], inputs[1 : 2 * self.pairs : 2]
        is_key = (keys >= self.values) & (keys < self.values + self.keys)
        if not (is_key.all() and (values < self.values).all()):
            return f"its first {2 * self.pairs} timesteps are not {self.pairs} pairs of a key and a value"
        if len(set(keys.tolist())) < self.pairs:
            return "a key has two values"
        asks = self._matches(inputs[:, None]).any(1) & self._slots(inputs)
        return None if asks.any() else f"none of its keys stands at word {2 * self.pairs + 1}, or two or more after it"

    def words(self, inputs: Int[Tensor, " T"]) -> list[str]:
        vocabulary = [*named(self.values, ascii_uppercase, "V"), *named(self.keys, ascii_lowercase, "k"), "."]
        return [vocabulary[token] for token in inputs.tolist()]

    def answer(self, target: Int[Tensor, ""]) -> str:
        return named(self.values, ascii_uppercase, "V")[int(target)]
