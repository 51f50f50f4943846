"""Where on the cycle does the walk end?

    + + . - + + . + + -> 0
    random steps on a cycle of five places, forward, back or none, from place
    0; the last timestep asks for the place

Steps are drawn uniformly. Every step counts, as in ``parity``, with five states instead of two. The last step alone
tells little, and less in longer walks: in the limit nothing, and chance is 1/5.

Delétang et al. 2023 (arXiv 2207.02098), Neural networks and the Chomsky hierarchy, task cycle navigation, which is
trained on lengths from U{1 ... 40} and tested at up to 500: ``lengths=uniform``, then ``seqmem eval RUN seq_len=500``.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import log
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..signals import Batch, Tokens
from ..spaces import Space
from .base import Task, content_hash
from .scattered import FOLDS, draw_symbols

PLACES = 5
STEPS = ".+-"
CHANGES = torch.tensor([0, 1, -1])


@dataclass(frozen=True)
class CycleNavigation(Task):
    """Tokens: 0 stays, 1 is a step forward, 2 a step back. No options."""

    name: ClassVar[str] = "cycle_navigation"
    source: ClassVar[str] = "Delétang et al. 2023"

    @property
    def inputs(self) -> Tokens:
        return Tokens(len(STEPS))

    @property
    def targets(self) -> Tokens:
        return Tokens(PLACES)

    @property
    def chance(self) -> float:
        return 1 / PLACES

    def chance_at(self, seq_len: int) -> float:
        """By the most likely place before the last step."""
        return float(_shares(seq_len - 1).max())

    def constant_at(self, seq_len: int) -> float:
        return float(_shares(seq_len).max())

    def baseline_loss(self, seq_len: int) -> float:
        return -sum(share * log(share) for share in _shares(seq_len - 1).tolist() if share > 0)

    @property
    def min_seq_len(self) -> int:
        """One step is its own answer."""
        return 2

    def sample(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Batch:
        self.check(batch_size, seq_len)
        inputs = draw_symbols(len(STEPS), seq_len, batch_size, rng)
        return Batch.asked_at_end(inputs, self.solve(inputs)[-1])

    def space(self, seq_len: int) -> Space:
        return Space(3.0 ** min(seq_len, 600), FOLDS)

    def fold(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, " B"]:
        return content_hash(inputs) % FOLDS

    def solve(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "T B"]:
        """At every timestep, of the steps so far."""
        return CHANGES[inputs].cumsum(0) % PLACES

    def lag(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "T B"]:
        """To the first step."""
        return torch.arange(len(inputs))[:, None].expand(inputs.shape)

    def words(self, inputs: Int[Tensor, " T"]) -> list[str]:
        return [STEPS[token] for token in inputs.tolist()]

    def answer(self, target: Int[Tensor, ""]) -> str:
        return str(int(target))


@lru_cache
def _shares(steps: int) -> Float[np.ndarray, " P"]:
    """How likely each place is after so many steps: by the discrete Fourier transform of one step."""
    frequencies = (1 + 2 * np.cos(2 * np.pi * np.arange(PLACES) / PLACES)) / len(STEPS)
    return np.fft.ifft(frequencies**steps).real.clip(0)
