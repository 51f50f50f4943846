"""In which order did the capital letters come?

    c f d B e e d c f c c A f d e c c d f e -> BA
          ~               ~
    two (or three) letters A or B among random c, d, e, f; the last timestep
    asks for all of them in order

Positions count from 0 and are drawn uniformly: in L timesteps the first is in [.1 L, .2 L), the second in [.5 L, .6 L);
three symbols are in [.1 L, .2 L), [.3 L, .4 L) and [.6 L, .7 L). The last timestep is a random filler: chance is
1/4 (or 1/8). Each symbol that is not remembered halves the score and costs ln 2: the last of two alone gives 1/2.

``variant=hs97``, the original: E, random a, b, c, d, among them X or Y, then B, which asks. The length is drawn from
U{L ... 1.1 L} with L = ``seq_len``, the published 100 to 110 at 100; at that length the symbols are at positions 10 to
20 and 50 to 60 (three: 10 to 20, 33 to 43, 66 to 76), ends included, at others in the same proportion. The paper does
not say whether positions count from 0, as here, or 1. Sequences shorter than the longest are padded with further Bs,
and each is asked at its own first B.

Hochreiter & Schmidhuber 1997, Long short-term memory, experiments 6a and 6b (a sequence is right if each output is
within 0.3 of its target); Martens & Sutskever 2011; ``variant=pascanu`` as in the code of Pascanu, Mikolov & Bengio
2013, On the difficulty of training recurrent neural networks (whose text gives another first range than its code).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from .. import spaces
from ..metrics import Plateau
from ..signals import Batch, Tokens
from .base import Task, content_hash

LETTERS = {"pascanu": "ABcdef", "hs97": "XYabcdEB"}
START, END = 6, 7


@dataclass(frozen=True)
class TemporalOrder(Task):
    """``symbols``: 2 or 3; ``variant``: pascanu or hs97.

    Tokens: 0 A, 1 B (in hs97 X, Y), 2 to 5 fillers, in hs97 then E and B. If the k-th symbol is token 1, it adds 2^k to
    the class.
    """

    symbols: int = 2
    variant: str = "pascanu"

    name: ClassVar[str] = "temporal_order"
    source: ClassVar[str] = "Pascanu, Mikolov & Bengio 2013, after Hochreiter & Schmidhuber 1997"

    def __post_init__(self) -> None:
        if self.symbols not in (2, 3):
            raise ValueError(f"symbols={self.symbols}: must be 2 or 3")
        if self.variant not in LETTERS:
            raise ValueError(f"variant={self.variant}: must be pascanu or hs97")

    @property
    def inputs(self) -> Tokens:
        return Tokens(len(self._letters))

    @property
    def targets(self) -> Tokens:
        return Tokens(2**self.symbols)

    @property
    def chance(self) -> float:
        return 1 / 2**self.symbols

    def plateaus(self, seq_len: int) -> Sequence[Plateau]:
        names = {1: "the last letter", 2: "two letters"}
        return [
            Plateau(0.5**missing, missing * log(2), names[self.symbols - missing])
            for missing in range(self.symbols - 1, 0, -1)
        ]

    @property
    def min_seq_len(self) -> int:
        """A tenth of the length must be at least one timestep."""
        return 10

    @property
    def _letters(self) -> str:
        return LETTERS[self.variant]

    def _ranges(self, seq_len: int) -> list[tuple[int, int]]:
        return (spaces.hs97_ranges if self.variant == "hs97" else spaces.symbol_ranges)(seq_len, self.symbols)

    def timesteps(self, seq_len: int) -> int:
        return seq_len + seq_len // 10 if self.variant == "hs97" else seq_len

    def sample(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Batch:
        self.check(batch_size, seq_len)
        letters = torch.randint(2, START, (self.timesteps(seq_len), batch_size), generator=rng)
        answer = torch.zeros(batch_size, dtype=torch.long)
        for k, (first, end) in enumerate(self._ranges(seq_len)):
            position = first + torch.randint(end - first, (batch_size,), generator=rng)
            symbol = torch.randint(2, (batch_size,), generator=rng)
            letters[position, torch.arange(batch_size)] = symbol
            answer += symbol << k
        if self.variant == "pascanu":
            return Batch.asked_at_end(letters, answer)
        steps = torch.arange(len(letters))[:, None]
        end = torch.randint(seq_len, len(letters) + 1, (batch_size,), generator=rng) - 1
        letters[0] = START
        letters[steps >= end] = END
        asked = steps == end
        return Batch(letters, answer.expand(letters.shape), asked.float(), asked)

    def space(self, seq_len: int) -> spaces.Space:
        return spaces.temporal_order(seq_len, self.symbols, self.variant)

    def fold(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, " B"]:
        """By everything but which letters the symbols are: each answer is in a fold as often as any other."""
        return content_hash(inputs.clamp(min=1)) % self.space(len(inputs)).folds

    def solve(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "T B"]:
        is_symbol = inputs < 2
        k = (is_symbol.cumsum(0) - 1).clamp(min=0)
        return (is_symbol * inputs << k).sum(0).expand(inputs.shape)

    def lag(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "T B"]:
        """To the first letter."""
        return torch.arange(len(inputs))[:, None] - (inputs < 2).int().argmax(0)

    def unanswerable(self, inputs: Int[Tensor, " T"]) -> str | None:
        positions = (inputs < 2).nonzero()[:, 0].tolist()
        if len(positions) != self.symbols:
            names = " or ".join(self._letters[:2])
            return f"it has {len(positions)} letters {names}, task={self.name} asks for {self.symbols}"
        if len(inputs) < self.min_seq_len:
            return super().unanswerable(inputs)
        if self.variant == "hs97":  # whose ranges depend on the shortest length
            framed = int(inputs[0]) == START and int(inputs[-1]) == END
            return None if framed else "it does not begin with E and end with B"
        for position, (first, end) in zip(positions, self._ranges(len(inputs)), strict=True):
            if not first <= position < end:
                letter, place = self._letters[int(inputs[position])], position + 1
                where = f"at {first + 1}" if end - first == 1 else f"from {first + 1} to {end}"
                return f"letter {place} is {letter}: among {len(inputs)} letters there is an A or B {where}"
        return None

    def words(self, inputs: Int[Tensor, " T"]) -> list[str]:
        return [self._letters[i] for i in inputs.tolist()]

    def answer(self, target: Int[Tensor, ""]) -> str:
        return "".join(self._letters[int(target) >> k & 1] for k in range(self.symbols))
