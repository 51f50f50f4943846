"""CogScale: are the brackets balanced?

    reads   ( ( ) ( ) ) ! .
    says                  balanced
    brackets of one type, a trigger, and a silent timestep that asks whether
    each bracket has its partner

small: 50 brackets, at most 5 deep, 52 timesteps; medium: 100, 10, 102; large: 300, 30, 302. Longer and shorter
sequences have more and fewer brackets; an odd ``seq_len`` has a silent timestep before the trigger.

First balanced brackets are drawn, each opened or closed by a coin where both are possible. Half of the sequences stay
so; in the others 35 % of the brackets, at places drawn without replacement, are drawn again by a coin. A few of these
are balanced again, or deeper than the size says, and are answered by what they are, so balanced ones are more frequent:
chance is their share, 0.518 in small sequences, 0.510 and 0.504 in medium and large ones. The last input is silent and
tells nothing.

Bendi-Ouis, De Coudenhove & Hinaut 2026, CogScale (arXiv 2605.19758),
``bracket_matching`` in version 0.2.0 of their package.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import log
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...spaces import Space
from ..base import content_hash
from ..scattered import FOLDS, distinct_places, draw_symbols
from .base import TRIGGER, Symbolic, at_end, last, one_hot

REDRAWN = 0.35


@dataclass(frozen=True)
class BracketMatching(Symbolic):
    """``size``: small, medium or large, as published. Features: opening, closing, the trigger."""

    name: ClassVar[str] = "cogscale_bracket_matching"

    @property
    def features(self) -> str:
        return "()" + TRIGGER

    @property
    def answers(self) -> list[str]:
        return ["unbalanced", "balanced"]

    @property
    def chance(self) -> float:
        """Redrawn brackets of a long sequence are never balanced."""
        return 0.5

    def chance_at(self, seq_len: int) -> float:
        return share_of_balanced(_length(seq_len), self.given.count)

    def constant_at(self, seq_len: int) -> float:
        return self.chance_at(seq_len)

    def baseline_loss(self, seq_len: int) -> float:
        share = self.chance_at(seq_len)
        return -share * log(share) - (1 - share) * log(1 - share)

    @property
    def min_seq_len(self) -> int:
        """Six brackets, of which two are drawn again."""
        return 8

    def draw(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Float[Tensor, "T B D"]:
        length = _length(seq_len)
        closing = self._balanced(batch_size, length, rng)
        places = distinct_places(int(REDRAWN * length), length, batch_size, rng)
        redrawn = closing.scatter(0, places, draw_symbols(2, len(places), batch_size, rng))
        closing = torch.where(draw_symbols(2, 1, batch_size, rng) == 0, closing, redrawn)
        inputs = one_hot(closing, seq_len, self.inputs.size)
        inputs[-2, :, -1] = 1
        return inputs

    def _balanced(self, batch_size: int, length: int, rng: torch.Generator) -> Int[Tensor, "N B"]:
        """Balanced brackets: 0 opens, 1 closes."""
        coins = draw_symbols(2, length, batch_size, rng) == 1
        depth, drawn = torch.zeros(batch_size, dtype=torch.long), []
        for left, coin in zip(range(length, 0, -1), coins, strict=True):
            opens = (depth == 0) | (coin & (left > depth) & (depth < self.given.count))
            depth = depth + torch.where(opens, 1, -1)
            drawn.append(torch.where(opens, 0, 1))
        return torch.stack(drawn)

    def asks(self, inputs: Float[Tensor, "T B D"]) -> Bool[Tensor, "T B"]:
        return last(1, inputs)

    def solve(self, inputs: Float[Tensor, "T B D"]) -> Int[Tensor, "T B"]:
        depth = (inputs[..., 0] - inputs[..., 1]).cumsum(0)
        balanced = (depth >= 0).all(0) & (depth[-1] == 0)
        return at_end(balanced.long()[None], len(inputs))

    def lag(self, inputs: Float[Tensor, "T B D"]) -> None:
        """Where brackets are unbalanced, many of them may say so."""
        return

    def space(self, seq_len: int) -> Space:
        """At most: by the sequences that are drawn once alone."""
        return Space(1 / _coincidence(_length(seq_len), self.given.count), FOLDS) if seq_len >= 4 else Space(0.0, FOLDS)

    def fold(self, inputs: Float[Tensor, "T B D"]) -> Int[Tensor, " B"]:
        return content_hash(inputs.argmax(-1)) % FOLDS

    def mistake(self, inputs: Float[Tensor, "T D"]) -> str | None:
        length = _length(len(inputs))
        expected = torch.zeros_like(inputs)
        expected[:length] = inputs[:length]
        expected[-2, -1] = 1
        if not bool((inputs[:length, :2].sum(-1) == 1).all()) or not torch.equal(inputs, expected):
            return f"it is not {length} brackets, then ! as the last but one and a silent timestep"
        return None


def _length(seq_len: int) -> int:
    """How many brackets there are."""
    return (seq_len - 2) // 2 * 2


def _opens(length: int, deepest: int) -> np.ndarray:
    """The probability that a bracket opens, by its place and by how deep it is."""
    depth, left = np.arange(deepest + 1), np.arange(length, 0, -1)[:, None]
    free = (left > depth) & (depth < deepest)
    return np.where(depth == 0, 1.0, np.where(free, 0.5, 0.0))


@lru_cache
def _coincidence(length: int, deepest: int) -> float:
    """The probability that two draws are the same and neither is drawn again."""
    opens = _opens(length, deepest)
    agree = np.zeros(deepest + 1)
    agree[0] = 0.25
    for place in range(length):
        up, down = agree * opens[place] ** 2, agree * (1 - opens[place]) ** 2
        agree = np.append(0.0, up[:-1]) + np.append(down[1:], 0.0)
    return float(agree[0])


@lru_cache
def share_of_balanced(length: int, deepest: int) -> float:
    """The probability that brackets are balanced, those included that are so after some were drawn again.

    By the depths, bracket after bracket, of what was drawn first and of what became of it, and by how many have been
    drawn again so far.
    """
    redrawn = int(REDRAWN * length)
    opens = _opens(length, deepest)
    shares = np.zeros((deepest + 1, length // 2 + 3, redrawn + 2))  # with rims: depth -1, too deep, too many drawn
    shares[0, 1, 0] = 1.0
    for place in range(length):
        again = np.append((redrawn - np.arange(redrawn + 1)) / (length - place), 0.0)
        deep = min(place, length - place) + 1  # what is deeper is never closed
        shares[:, 0] = shares[:, deep + 1 :] = 0
        after = np.zeros_like(shares)
        for drawn, change in ((opens[place], 1), (1 - opens[place], -1)):
            moved = np.roll(shares[:, : deep + 2] * drawn[:, None, None], change, 0)
            redone = np.roll(moved * again, 1, 2) / 2
            after[:, : deep + 2] += np.roll(moved * (1 - again), change, 1)
            after[:, : deep + 2] += np.roll(redone, 1, 1) + np.roll(redone, -1, 1)
        shares = after
    return 0.5 + 0.5 * float(shares[0, 1, redrawn])
