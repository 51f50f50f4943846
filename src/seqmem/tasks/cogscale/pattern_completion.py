"""What CogScale's two tasks of pattern completion share: a pattern again and again, some of it hidden.

Axes: T time, B batch, D features of an input.
"""

from abc import abstractmethod
from dataclasses import dataclass
from math import comb

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..scattered import distinct_places
from .base import Drawn

HIDDEN = "?"
SHARE = 0.2


@dataclass(frozen=True)
class PatternCompletion(Drawn):
    """A fifth of the timesteps are hidden, at places drawn without replacement.

    Asked is what is hidden and has been read before, at the same place of an earlier repetition. In the published
    tasks hidden inputs of the first repetitions are asked for, too, which nothing tells yet.
    """

    @abstractmethod
    def hidden(self, inputs: Float[Tensor, "T B D"]) -> Bool[Tensor, "T B"]:
        """The timesteps that hide their input."""

    @property
    def min_seq_len(self) -> int:
        """The pattern, and one timestep more; a fifth of them is one."""
        return max(self.given.length + 1, 5)

    def draw_hidden(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Bool[Tensor, "T B"]:
        """The hidden timesteps; drawn again for a sequence in which nothing would be asked."""
        hidden = torch.zeros(seq_len, batch_size, dtype=torch.bool)
        while len(rest := (~(hidden & (self._latest(hidden) >= 0)).any(0)).nonzero()[:, 0]):
            places = distinct_places(_count(seq_len), seq_len, len(rest), rng)
            hidden[:, rest] = torch.zeros(seq_len, len(rest), dtype=torch.bool).scatter_(0, places, True)
        return hidden

    def _latest(self, hidden: Bool[Tensor, "T B"]) -> Int[Tensor, "T B"]:
        """The latest timestep so far that shows what stands at this place of the pattern; -1: none does."""
        steps = torch.where(hidden, -1, torch.arange(len(hidden))[:, None])
        before = torch.full((-len(steps) % self.given.length, steps.shape[1]), -1)  # to whole repetitions, at the end
        repetitions = torch.cat([steps, before]).unflatten(0, (-1, self.given.length))
        return repetitions.cummax(0).values.flatten(0, 1)[: len(hidden)]

    def asks(self, inputs: Float[Tensor, "T B D"]) -> Bool[Tensor, "T B"]:
        hidden = self.hidden(inputs)
        return hidden & (self._latest(hidden) >= 0)

    def shown(self, values: Float[Tensor, "T B D"] | Int[Tensor, "T B"], hidden: Bool[Tensor, "T B"]) -> Tensor:
        """What stands at each place of the pattern, where it has been read."""
        latest = self._latest(hidden).clamp(min=0)
        return values.gather(0, latest if values.ndim == 2 else latest[..., None].expand(values.shape))

    def lag(self, inputs: Float[Tensor, "T B D"]) -> Int[Tensor, "T B"]:
        """To the latest repetition that shows it."""
        since = torch.arange(len(inputs))[:, None] - self._latest(self.hidden(inputs))
        return torch.where(self.asks(inputs), since, 0)

    def unequal(self, inputs: Float[Tensor, "T D"]) -> str | None:
        """Why one sequence is no pattern again and again, or asks nothing; None if it is one."""
        hidden = self.hidden(inputs[:, None])
        repeated = (inputs == self.shown(inputs[:, None], hidden)[:, 0].roll(self.given.length, 0)).all(-1)
        known = (self._latest(hidden)[:, 0] >= 0).roll(self.given.length, 0)
        known[: self.given.length] = False
        other = (known & ~hidden[:, 0] & ~repeated).nonzero()[:, 0].tolist()
        if other:
            return f"word {other[0] + 1} is another than {self.given.length} before, in the pattern's last repetition"
        asks = bool(self.asks(inputs[:, None]).any())
        return None if asks else f"no {HIDDEN} stands where the pattern is known, which is {self.given.length} long"

    def masks(self, seq_len: int) -> int:
        """How many sets of hidden timesteps ask something."""
        asking_nothing = np.array([1.0])  # by their number: in each place of the pattern only the first are hidden
        for place in range(self.given.length):
            repetitions = len(range(place, seq_len, self.given.length))
            asking_nothing = np.convolve(asking_nothing, np.ones(repetitions + 1))
        return comb(seq_len, _count(seq_len)) - round(asking_nothing[_count(seq_len)])


def _count(seq_len: int) -> int:
    return int(SHARE * seq_len)
