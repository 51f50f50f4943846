"""Write a bit, ignore others, read it again.

    w 1 i 0 i 1 r 1 i 0 w 0 i 1 i 1 r -> 0
    ~~~         ~       ~~~         ~
    pairs of an instruction and a bit; after each r (read) the bit is asked
    that was written last

The first instruction is w (write), the last is r; each of the others is i (ignore) with probability ``ignore``, else w
or r with equal probability. Bits of w and i are drawn uniformly, the bit after r is the stored one. The last bit is
only predicted, so a sequence has an odd number of timesteps; where ``seq_len`` is even, a blank (.) comes first.
Chance is 1/2. A read shows its bit, so the lag is the distance to the last w or r.

FFL(p_i) of Liu, Ash, Goel, Krishnamurthy & Zhang 2023 (arXiv 2306.00946), Exposing attention glitches with flip-flop
language modeling, trained with p_i = 0.8 and 512 timesteps. They train on all tokens and judge by the bits that are
read; here only those count. With continuous pulses: Sussillo & Barak 2013, Opening the black box.
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

WORDS = "01wri."
WRITE, READ, IGNORE, BLANK = range(2, len(WORDS))


@dataclass(frozen=True)
class FlipFlop(Task):
    """``ignore``: p_i, the probability of ignoring, at least 0 and below 1. Tokens: 0, 1, w, r, i and the blank."""

    ignore: float = 0.8

    name: ClassVar[str] = "flip_flop"
    source: ClassVar[str] = "Liu et al. 2023; Sussillo & Barak 2013"

    def __post_init__(self) -> None:
        if not 0 <= self.ignore < 1:
            raise ValueError(f"ignore={self.ignore}: must be at least 0 and below 1")

    @property
    def inputs(self) -> Tokens:
        return Tokens(len(WORDS))

    @property
    def targets(self) -> Tokens:
        return Tokens(2)

    @property
    def chance(self) -> float:
        return 0.5

    @property
    def min_seq_len(self) -> int:
        return 3

    def sample(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Batch:
        self.check(batch_size, seq_len)
        count = (seq_len + 1) // 2
        draws = torch.rand(count, batch_size, generator=rng)
        bits = torch.randint(2, (count, batch_size), generator=rng)
        instructions = torch.where(draws < self.ignore, IGNORE, WRITE)
        instructions[draws >= (1 + self.ignore) / 2] = READ
        instructions[0], instructions[-1] = WRITE, READ
        pairs = torch.arange(count)[:, None].expand_as(bits)
        written = torch.where(instructions == WRITE, pairs, 0).cummax(0).values
        bits = torch.where(instructions == READ, bits.gather(0, written), bits)
        words = torch.stack([instructions, bits], 1).flatten(0, 1)[:-1]
        words = torch.cat([torch.full((1 - seq_len % 2, batch_size), BLANK), words])
        asked = words == READ
        return Batch(words, self.solve(words), asked.float(), asked)

    def space(self, seq_len: int) -> Space:
        """Two draws agree in the first bit, in each instruction, and in the bit of each that is no read."""
        count, other = (seq_len + 1) // 2, (1 - self.ignore) / 2
        agree = (count - 2) * log(self.ignore**2 / 2 + other**2 / 2 + other**2)
        return Space(2 * 2.718281828459045**-agree if agree > -600 else inf, 4)

    def fold(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, " B"]:
        """Bits count from the first, so each answer is in a fold as often as the other."""
        is_bit = inputs < 2
        first = inputs[1 + (1 - len(inputs) % 2)]
        return content_hash(torch.where(is_bit, inputs ^ first, inputs)) % 4

    def solve(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "T B"]:
        """The bit of the last w or r."""
        return inputs.gather(0, self._stored(inputs)) % 2

    def _stored(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "T B"]:
        """Where the last bit after a w or r stands; 0 where there is none."""
        steps = torch.arange(len(inputs))[:, None]
        shown = (inputs[1:] < 2) & ((inputs[:-1] == WRITE) | (inputs[:-1] == READ))
        shown = torch.cat([torch.zeros_like(shown[:1]), shown])
        return torch.where(shown, steps, 0).cummax(0).values

    def lag(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "T B"]:
        """To the last bit after a w or r."""
        return torch.arange(len(inputs))[:, None] - self._stored(inputs)

    def question(self, inputs: Int[Tensor, " T"]) -> Batch:
        asked = inputs[:, None] == READ
        if not asked[-1]:
            return super().question(inputs)
        return Batch(inputs[:, None], self.solve(inputs[:, None]), asked.float(), asked)

    def unanswerable(self, inputs: Int[Tensor, " T"]) -> str | None:
        tokens = inputs.tolist()
        start = 1 if tokens[0] == BLANK else 0
        stored = None
        for t, token in enumerate(tokens[start:]):
            word = f"word {start + t + 1} is '{WORDS[token]}'"
            last = tokens[start + t - 1]
            if t % 2 == 0:
                expected = ("w",) if t == 0 else ("w", "i", "r")
            else:
                expected = (WORDS[stored],) if last == READ and stored is not None else ("0", "1")
            if WORDS[token] not in expected:
                return f"{word}: there task={self.name} has {' or '.join(expected)}"
            if t % 2 == 1 and last == WRITE:
                stored = token
        return super().unanswerable(inputs) if tokens[-1] == READ else "it does not end with a question: r"

    def words(self, inputs: Int[Tensor, " T"]) -> list[str]:
        return [WORDS[token] for token in inputs.tolist()]

    def answer(self, target: Int[Tensor, ""]) -> str:
        return str(int(target))
