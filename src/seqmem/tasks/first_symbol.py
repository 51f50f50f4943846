"""Predict the last symbol, which is the first.

    2a   x a1 a2 a3 a4 a5 a6 a7 -> x
    2b   x a5 a1 a1 a7 a2 a5 a3 -> x
    2c   b x a9 a4 a4 a2 a7 a1 e -> x
    x or y, distractors; at the end x or y comes again, and is predicted

``variant=2a``, noise-free: there are only two sequences, x a1 a2 ... and y a1 a2 ..., equally likely. ``2b``: the
distractors are drawn uniformly from the same ``p`` - 1 symbols. In both the next symbol is predicted at every timestep,
and all predictions are in the loss; scored is the last, as the others need no memory. With ``p`` = ``seq_len`` = 4, 10
or 100 they are the published ones (a sequence of p + 1 symbols, of which the last is only predicted).

``2c``: b and then x or y; q distractors from ``p`` symbols, q = ``seq_len`` - 3; then e ends the sequence with
probability 1/10 before each further distractor, so the time to remember is not fixed. Only the symbol after e is
predicted, from two outputs. The paper has q = 50 to 1000 and p = 50 to 1000. By that rule a sequence has q + 13 symbols
on average (the paper says q + 14), the one that is predicted among them. Here the tail ends after 50 distractors at
the latest, with another draw of the whole tail; by the rule one in 194 would be longer. Sequences shorter than the
longest are padded with further e, and each is asked at its own first e.

Chance is 1/2: the first symbol is all there is to remember.

Hochreiter & Schmidhuber 1997, Long short-term memory, experiments 2a, 2b, 2c. A run is solved there when over 10,000
successive sequences no output is off by more than 0.25 (in 2c 0.2) at the end.
"""

from dataclasses import dataclass
from math import inf, log
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from ..signals import Batch, Tokens
from ..spaces import Space
from .base import Task, content_hash

TAIL = 50


@dataclass(frozen=True)
class FirstSymbol(Task):
    """``variant``: 2a, 2b or 2c; ``p``: at least 3; 2a and 2b have p - 1 distractors, 2c has p.

    Tokens: 0 x, 1 y, then the distractors, in 2c then b and e. Targets: the same of 2a and 2b; x and y of 2c.
    """

    variant: str = "2a"
    p: int = 100

    name: ClassVar[str] = "first_symbol"
    source: ClassVar[str] = "Hochreiter & Schmidhuber 1997, experiment 2"

    def __post_init__(self) -> None:
        if self.variant not in ("2a", "2b", "2c"):
            raise ValueError(f"variant={self.variant}: must be 2a, 2b or 2c")
        if self.p < 3:
            raise ValueError(f"p={self.p}: must be at least 3")

    @property
    def inputs(self) -> Tokens:
        return Tokens(self.p + 4 if self.variant == "2c" else self.p + 1)

    @property
    def targets(self) -> Tokens:
        return Tokens(2 if self.variant == "2c" else self.p + 1)

    @property
    def chance(self) -> float:
        return 0.5

    def baseline_loss(self, seq_len: int) -> float:
        """The distractors of 2a are known by their place, those of 2b not at all."""
        if self.variant == "2c":
            return log(2)
        others = log(self.p - 1) if self.variant == "2b" else 0.0
        return (log(2) + (seq_len - 1) * others) / seq_len

    @property
    def min_seq_len(self) -> int:
        """A distractor at least."""
        return 4 if self.variant == "2c" else 2

    @property
    def max_seq_len(self) -> int | None:
        """In 2a no symbol comes twice."""
        return self.p if self.variant == "2a" else None

    def check(self, batch_size: int, seq_len: int) -> None:
        super().check(batch_size, seq_len)
        if self.variant == "2a" and seq_len > self.p:
            raise ValueError(f"seq_len={seq_len} is too long for task={self.name} of variant=2a: at most p={self.p}")

    def timesteps(self, seq_len: int) -> int:
        return seq_len + TAIL if self.variant == "2c" else seq_len

    def sample(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Batch:
        self.check(batch_size, seq_len)
        first = torch.randint(2, (batch_size,), generator=rng)
        if self.variant == "2c":
            return self._noisy(first, seq_len, rng)
        if self.variant == "2a":
            symbols = torch.arange(1, seq_len + 1)[:, None].repeat(1, batch_size)
        else:
            symbols = torch.randint(2, self.p + 1, (seq_len, batch_size), generator=rng)
        symbols[0] = first
        asked = torch.zeros(symbols.shape, dtype=torch.bool)
        asked[-1] = True
        return Batch(symbols, self.solve(symbols), torch.ones(symbols.shape), asked)

    def _noisy(self, first: Int[Tensor, " B"], seq_len: int, rng: torch.Generator) -> Batch:
        """The length of the tail by the inverse of its distribution function, cut off after TAIL."""
        draws = torch.rand(len(first), generator=rng, dtype=torch.double)
        tail = (torch.log1p(-draws * (1 - 0.9 ** (TAIL + 1))) / log(0.9)).long().clamp(max=TAIL)
        symbols = torch.randint(2, self.p + 2, (self.timesteps(seq_len), len(first)), generator=rng)
        symbols[0], symbols[1] = self.p + 2, first
        steps, end = torch.arange(len(symbols))[:, None], seq_len - 1 + tail
        symbols[steps >= end] = self.p + 3
        asked = steps == end
        return Batch(symbols, self.solve(symbols), asked.float(), asked)

    def space(self, seq_len: int) -> Space:
        """Two draws of 2c agree in x or y, in the length of the tail and in all distractors."""
        if self.variant == "2a":
            return Space(2.0)
        count, several = (seq_len - 1, self.p - 1) if self.variant == "2b" else (seq_len - 3, self.p)
        if count * log(several) > 600:
            return Space(inf, 4)
        size = 2.0 * several**count
        if self.variant == "2c":
            shares = [0.1 * 0.9**k / (1 - 0.9 ** (TAIL + 1)) for k in range(TAIL + 1)]
            size /= sum(share**2 / several**k for k, share in enumerate(shares))
        return Space(size, 4)

    def fold(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, " B"]:
        """By everything but x or y: each answer is in a fold as often as the other."""
        if self.variant == "2a":
            return super().fold(inputs)
        return content_hash(inputs.clamp(min=1)) % 4

    def solve(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "T B"]:
        if self.variant == "2c":
            return inputs[min(1, len(inputs) - 1)].clamp(max=1).expand(inputs.shape)
        return torch.cat([inputs[1:], inputs[:1]])

    def lag(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "T B"]:
        """To x or y."""
        begins = 1 if self.variant == "2c" else 0
        return (torch.arange(len(inputs))[:, None] - begins).clamp(min=0).expand(inputs.shape)

    def unanswerable(self, inputs: Int[Tensor, " T"]) -> str | None:
        start = ["b"] if self.variant == "2c" else []
        for t, word in enumerate(words := self.words(inputs)):
            if t < len(start):
                expected, right = "b", word == "b"
            elif t == len(start):
                expected, right = "x or y", word in ("x", "y")
            elif self.variant == "2c" and t == len(words) - 1:
                expected, right = "e", word == "e"
            elif self.variant == "2a":
                expected, right = f"a{t}", word == f"a{t}"
            else:
                expected, right = "a distractor", word.startswith("a")
            if not right:
                return f"word {t + 1} is '{word}': there task={self.name} has {expected}"
        return super().unanswerable(inputs)

    def words(self, inputs: Int[Tensor, " T"]) -> list[str]:
        return [self._word(token) for token in inputs.tolist()]

    def answer(self, target: Int[Tensor, ""]) -> str:
        return self._word(int(target))

    def _word(self, token: int) -> str:
        if token < 2:
            return "xy"[token]
        distractors = self.p if self.variant == "2c" else self.p - 1
        return f"a{token - 1}" if token < 2 + distractors else "be"[token - 2 - distractors]
