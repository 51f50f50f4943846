"""Which value belongs to this key, with noise between the pairs?

    reads   b D + 7 a F b D = = 0 4 a F b
    says    . . . . . . D . . . . . F . D
    pairs of a key and a value, and pairs of noise tokens between them; a key
    that was read before asks for its value; the last timestep is such a key

Slots of two timesteps hold a key and its value, or, with a probability of ``noise``, two noise tokens; one slot drawn
at random always holds a pair. Keys are drawn uniformly, with replacement; in one sequence a key has one value, drawn
uniformly and independently. The last key is one of those that were read, each equally likely. Where ``seq_len`` is
even, one noise token comes first. Nothing but values is asked or trained. A key tells nothing of its value: chance is
1 / ``values``. Unlike in ``mqar`` pairs come back as a whole, so the answer is read after its question.

Poli et al. 2024, Mechanistic design and scaling of hybrid architectures (MAD), noisy in-context recall. As in their
code: 8 keys, 8 values and 16 noise tokens, 127 timesteps before the last value, a noise of 0.2 (harder: up to 0.8) that
fills whole slots. There models are trained on every token. ``noise=0.0`` is their in-context recall.
"""

from dataclasses import dataclass
from string import ascii_lowercase, ascii_uppercase, digits
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from ..signals import Batch, Tokens
from ..spaces import Space
from .base import Task, content_hash
from .scattered import FOLDS, draw_symbols, named

NOISE = digits + "+-*/=%<>&#"
_MOST = 128


@dataclass(frozen=True)
class NoisyRecall(Task):
    """``keys``, ``values`` and ``noise_tokens``: how many there are, 2 to 128; ``noise``: from 0 to below 1.

    Tokens 0 ... ``values`` - 1 are the values, in inputs and targets alike; then the keys, then the noise.
    """

    keys: int = 8
    values: int = 8
    noise_tokens: int = 16
    noise: float = 0.2

    name: ClassVar[str] = "noisy_recall"
    source: ClassVar[str] = "Poli et al. 2024"

    def __post_init__(self) -> None:
        for name, count in (("keys", self.keys), ("values", self.values), ("noise_tokens", self.noise_tokens)):
            if not 2 <= count <= _MOST:
                raise ValueError(f"{name}={count}: must be from 2 to {_MOST}")
        if not 0 <= self.noise < 1:
            raise ValueError(f"noise={self.noise}: must be at least 0 and below 1")

    @property
    def inputs(self) -> Tokens:
        return Tokens(self.values + self.keys + self.noise_tokens)

    @property
    def targets(self) -> Tokens:
        return Tokens(self.values)

    @property
    def chance(self) -> float:
        return 1 / self.values

    @property
    def min_seq_len(self) -> int:
        """A pair, and its key."""
        return 3

    def sample(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Batch:
        self.check(batch_size, seq_len)
        slots = (seq_len - 1) // 2
        keys = draw_symbols(self.keys, slots, batch_size, rng)
        values = draw_symbols(self.values, self.keys, batch_size, rng).gather(0, keys)
        noisy = torch.rand(slots, batch_size, generator=rng) < self.noise
        noisy.scatter_(0, draw_symbols(slots, 1, batch_size, rng), False)
        seen = torch.zeros(self.keys + 1, batch_size, dtype=torch.bool)
        seen.scatter_(0, keys.masked_fill(noisy, self.keys), True)
        last = torch.where(seen[:-1], torch.rand(self.keys, batch_size, generator=rng), -1.0).argmax(0)
        inputs = self.values + self.keys + draw_symbols(self.noise_tokens, seq_len, batch_size, rng)
        places = inputs[(seq_len - 1) % 2 : -1].unflatten(0, (slots, 2))
        places.copy_(torch.where(noisy[:, None], places, torch.stack([self.values + keys, values], 1)))
        inputs[-1] = self.values + last
        return self._asked(inputs)

    def _asked(self, inputs: Int[Tensor, "T B"]) -> Batch:
        latest = self._latest(inputs)
        asked = latest >= 0
        return Batch(inputs, torch.where(asked, _after(inputs, latest), 0), asked.float(), asked)

    def _latest(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "T B"]:
        """The latest timestep at which this key was read before; -1: it was not, or this is no key."""
        keys = inputs - self.values
        keys = torch.where((keys >= 0) & (keys < self.keys), keys, self.keys)
        read = torch.full((self.keys + 1, inputs.shape[1]), -1)
        latest = []
        for t, key in enumerate(keys[:, None]):
            latest.append(read.gather(0, key))
            read.scatter_(0, key, t)
        return torch.where(keys < self.keys, torch.cat(latest), -1)

    def space(self, seq_len: int) -> Space:
        """About: as if no key came twice."""
        same = (1 - self.noise) ** 2 / (self.keys * self.values) + (self.noise / self.noise_tokens) ** 2
        slots = min((seq_len - 1) // 2, 40)
        return Space(same**-slots * self.noise_tokens ** ((seq_len - 1) % 2) if seq_len >= 3 else 0.0, FOLDS)

    def fold(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, " B"]:
        """To move all values equally far leaves it as it is, so each has every answer as often."""
        moved = torch.where(inputs < self.values, (inputs - self.solve(inputs)[-1]) % self.values, inputs)
        return content_hash(moved) % FOLDS

    def solve(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "T B"]:
        """Where a timestep reads a key again; elsewhere the number of tokens, which is no answer."""
        latest = self._latest(inputs)
        return torch.where(latest >= 0, _after(inputs, latest), self.inputs.size)

    def lag(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "T B"]:
        """To the latest pair with this key."""
        return torch.arange(len(inputs))[:, None] - self._latest(inputs)

    def question(self, inputs: Int[Tensor, " T"]) -> Batch:
        return self._asked(inputs[:, None])

    def unanswerable(self, inputs: Int[Tensor, " T"]) -> str | None:
        if len(inputs) < self.min_seq_len:
            return super().unanswerable(inputs)
        kinds = (inputs >= self.values).long() + (inputs >= self.values + self.keys).long()  # value, key, noise
        first = (len(inputs) - 1) % 2
        pairs = kinds[first:-1].unflatten(0, (-1, 2)).tolist()
        if bool((kinds[:first] != 2).any()) or any(pair not in ([1, 0], [2, 2]) for pair in pairs):
            begins = "a noise token, then " if first else ""
            return f"before its last key it is not {begins}pairs of a key and a value or of two noise tokens"
        again = (self._latest(inputs[:, None])[:-1, 0] >= 0).nonzero()[:, 0].tolist()
        answers = self.solve(inputs[:, None])[:, 0]
        if any(answers[t] != inputs[t + 1] for t in again):
            return "a key has two values"
        known = int(answers[-1]) < self.values
        return None if known else f"it ends with '{self.words(inputs[-1:])[0]}', which is none of its keys"

    def words(self, inputs: Int[Tensor, " T"]) -> list[str]:
        vocabulary = [
            *named(self.values, ascii_uppercase, "V"),
            *named(self.keys, ascii_lowercase, "k"),
            *named(self.noise_tokens, NOISE, "n"),
        ]
        return [vocabulary[token] for token in inputs.tolist()]

    def answer(self, target: Int[Tensor, ""]) -> str:
        return named(self.values, ascii_uppercase, "V")[int(target)]


def _after(inputs: Int[Tensor, "T B"], steps: Int[Tensor, "T B"]) -> Int[Tensor, "T B"]:
    """What is read after these timesteps."""
    return inputs.gather(0, (steps + 1).clamp(max=len(inputs) - 1))
