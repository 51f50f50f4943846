"""Is the number of ones even or odd?

    0 1 1 0 1 0 0 1 1 0 1 -> even
    random bits; the last timestep asks for their sum modulo 2

With ``every_step`` each timestep asks for the parity of the bits so far. Bits are drawn uniformly. Every bit counts:
one that is forgotten leaves 1/2, so nothing is gained by a part of the memory. The last bit alone tells nothing, but
for the first timestep of ``every_step``.

Minsky & Papert 1969 for perceptrons; as in Delétang et al. 2023 (arXiv 2207.02098), Neural networks and the Chomsky
hierarchy, task parity check, which is trained on lengths from U{1 ... 40} and tested at up to 500: ``lengths=uniform``,
then ``seqmem eval RUN seq_len=500``.
"""

from dataclasses import dataclass
from math import log
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from ..signals import Batch, Tokens
from ..spaces import Space
from .base import Task, content_hash


@dataclass(frozen=True)
class Parity(Task):
    """``every_step``: ask for the parity of each prefix instead of that of the whole. Token 0 is 0, token 1 is 1."""

    every_step: bool = False

    name: ClassVar[str] = "parity"
    source: ClassVar[str] = "Minsky & Papert 1969; Delétang et al. 2023"

    @property
    def inputs(self) -> Tokens:
        return Tokens(2)

    @property
    def targets(self) -> Tokens:
        return Tokens(2)

    @property
    def chance(self) -> float:
        return 0.5

    def chance_at(self, seq_len: int) -> float:
        """The parity of the first bit is the bit itself."""
        return 0.5 + 0.5 / seq_len if self.every_step else 0.5

    def baseline_loss(self, seq_len: int) -> float:
        return log(2) * (seq_len - 1) / seq_len if self.every_step else log(2)

    @property
    def min_seq_len(self) -> int:
        """One bit is its own parity."""
        return 2

    def sample(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Batch:
        self.check(batch_size, seq_len)
        return self._asked(torch.randint(2, (seq_len, batch_size), generator=rng))

    def _asked(self, bits: Int[Tensor, "T B"]) -> Batch:
        answers = self.solve(bits)
        return Batch.asked_everywhere(bits, answers) if self.every_step else Batch.asked_at_end(bits, answers[-1])

    def space(self, seq_len: int) -> Space:
        return Space(2.0**seq_len if seq_len < 100 else float("inf"), 4)

    def fold(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, " B"]:
        """By all bits but the last, which makes half of the answers even."""
        return content_hash(inputs[:-1]) % 4

    def solve(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "T B"]:
        return inputs.cumsum(0) % 2

    def lag(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "T B"]:
        """To the first bit."""
        return torch.arange(len(inputs))[:, None].expand(inputs.shape)

    def question(self, inputs: Int[Tensor, " T"]) -> Batch:
        return self._asked(inputs[:, None])

    def words(self, inputs: Int[Tensor, " T"]) -> list[str]:
        return [str(bit) for bit in inputs.tolist()]

    def answer(self, target: Int[Tensor, ""]) -> str:
        return ("even", "odd")[int(target)]
