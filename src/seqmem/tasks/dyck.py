"""Which bracket closes now?

    reads   ( [ ] { < > } ) {
    asks    . ] . . > } ) . }
    a balanced word of brackets; before each closing bracket its type is asked

Dyck-(k, m): words of k types of brackets that balance and are nested at most m deep. All words of a length are equally
likely. A word of 2 n brackets has n questions; its last bracket is only predicted, so ``seq_len`` = 2 n - 1. Where
``seq_len`` is even, a blank (.) comes first. (Among the answers above a dot is a timestep without a question.)

A question that follows an opening bracket is answered by that bracket; after a closing bracket only a memory of the
open ones helps, a stack of up to m entries. Without one chance is f + (1 - f) / k, where f is the share of the former:
0.71 in the limit for k = 4, m = 4, and more in the shortest words.

Hewitt, Hahn, Ganguli, Liang & Manning 2020 (arXiv 2010.07515), RNNs can generate bounded hierarchical languages with
optimal memory, judge by the closing brackets, too. They draw each word by coin flips until it ends; here all lengths
are equal, so words are drawn uniformly. Suzgun, Gehrmann, Belinkov & Shieber 2019 (arXiv 1911.03329), Memory-augmented
recurrent neural networks can learn generalized Dyck languages: the same without a bound.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import cos, inf, log, pi, sin
from string import ascii_lowercase
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ..signals import Batch, Tokens
from ..spaces import Space
from .base import Task, content_hash

OPENING = "([{<" + ascii_lowercase
CLOSING = ")]}>" + ascii_lowercase.upper()


@dataclass(frozen=True)
class Dyck(Task):
    """``types``: k, 2 to 30 types of brackets, the letters after ``<>`` (a A, b B ...); ``depth``: m, at least 2.

    Tokens: 0 ... k - 1 open, k ... 2 k - 1 close, 2 k is the blank. Targets are the types.
    """

    types: int = 4
    depth: int = 4

    name: ClassVar[str] = "dyck"
    source: ClassVar[str] = "Suzgun et al. 2019; Hewitt et al. 2020"

    def __post_init__(self) -> None:
        if not 2 <= self.types <= len(OPENING):
            raise ValueError(f"types={self.types}: must be from 2 to {len(OPENING)}")
        if self.depth < 2:
            raise ValueError(f"depth={self.depth}: must be at least 2")

    @property
    def inputs(self) -> Tokens:
        return Tokens(2 * self.types + 1)

    @property
    def targets(self) -> Tokens:
        return Tokens(self.types)

    @property
    def chance(self) -> float:
        """In long words depth d has probability v_d^2, v_d ~ sin(pi (d + 1) / (m + 2)), the eigenvector of a path."""
        angle = pi / (self.depth + 2)
        deepest = 2 / (self.depth + 2) * sin(angle * (self.depth + 1)) ** 2
        return self._known(2 * (1 - deepest) / (2 * cos(angle)) ** 2)

    def chance_at(self, seq_len: int) -> float:
        return self._known(self._share_after_opening(seq_len))

    def _known(self, share: float) -> float:
        return share + (1 - share) / self.types

    @property
    def constant(self) -> float:
        return 1 / self.types

    def baseline_loss(self, seq_len: int) -> float:
        return (1 - self._share_after_opening(seq_len)) * log(self.types)

    @property
    def min_seq_len(self) -> int:
        """In a word of two brackets the first tells the second."""
        return 3

    def sample(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Batch:
        self.check(batch_size, seq_len)
        opens = self._opens(batch_size, seq_len, rng)
        types = torch.randint(self.types, opens.shape, generator=rng)
        top = _top(opens, ~opens)
        closing = types.gather(0, torch.cat([top[:1], top[:-1]]).clamp(min=0)) + self.types
        first = torch.full((1 - seq_len % 2, batch_size), 2 * self.types)
        inputs = torch.cat([first, torch.where(opens, types, closing)[:-1]])
        asked = torch.cat([first < 0, ~opens[1:]])
        return Batch(inputs, self.solve(inputs), asked.float(), asked)

    def _opens(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Bool[Tensor, "N B"]:
        """Which brackets of each word open: by how many words of the rest are left after either."""
        table = _opening((seq_len + 1) // 2, self.depth)
        draws = torch.rand(len(table), batch_size, generator=rng).numpy()
        opens, depth = np.empty(draws.shape, bool), np.zeros(batch_size, int)
        for t, probability in enumerate(table):  # numpy's steps cost a few microseconds each
            np.less(draws[t], probability[depth], out=opens[t])
            depth += np.where(opens[t], 1, -1)
        return torch.from_numpy(opens)

    def _share_after_opening(self, seq_len: int) -> float:
        return _share_after_opening((seq_len + 1) // 2, self.depth)

    def space(self, seq_len: int) -> Space:
        count = (seq_len + 1) // 2
        words = _words(count, self.depth)
        exponent = count * log(self.types)
        return Space(words * self.types**count if exponent < 300 and words < inf else inf, 4)

    def fold(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, " B"]:
        """Types count from that of the first bracket, so each answer is in a fold as often as any other."""
        blank = inputs == 2 * self.types
        first = inputs[blank.sum(0).clamp(max=len(inputs) - 1)[0]]
        relative = (inputs % self.types - first) % self.types + self.types * (inputs >= self.types)
        return content_hash(torch.where(blank, -1, relative)) % 4

    def solve(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "T B"]:
        """The type of the innermost open bracket; 0 where none is open."""
        opens = inputs < self.types
        top = _top(opens, (inputs >= self.types) & (inputs < 2 * self.types))
        return torch.where(top >= 0, inputs.gather(0, top.clamp(min=0)) % self.types, 0)

    def lag(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "T B"]:
        """To the bracket that is closed."""
        top = _top(inputs < self.types, (inputs >= self.types) & (inputs < 2 * self.types))
        return torch.arange(len(inputs))[:, None] - top.clamp(min=0)

    def unanswerable(self, inputs: Int[Tensor, " T"]) -> str | None:
        stack: list[int] = []
        for t, token in enumerate(inputs.tolist()):
            word = f"word {t + 1} is '{self._word(token)}'"
            if token < self.types:
                stack.append(token)
                if len(stack) > self.depth:
                    return f"{word}: it is {len(stack)} deep, task={self.name} at most {self.depth}"
            elif token < 2 * self.types:
                if not stack:
                    return f"{word}: no bracket is open there"
                opened = stack.pop()
                if opened != token - self.types:
                    return f"{word}: it closes '{OPENING[opened]}'"
            elif t:
                return f"{word}: it stands at the beginning only"
        return super().unanswerable(inputs) if stack else "no bracket is open at its end"

    def words(self, inputs: Int[Tensor, " T"]) -> list[str]:
        return [self._word(token) for token in inputs.tolist()]

    def answer(self, target: Int[Tensor, ""]) -> str:
        return CLOSING[int(target)]

    def _word(self, token: int) -> str:
        return [*OPENING[: self.types], *CLOSING[: self.types], "."][token]


def _top(opens: Bool[Tensor, "T B"], closes: Bool[Tensor, "T B"]) -> Int[Tensor, "T B"]:
    """Where the innermost bracket stands that is open after each timestep; -1: none is.

    It is the last one that opened to the present depth.
    """
    depth = (opens.long() - closes.long()).cumsum(0)
    steps, top = torch.arange(len(opens))[:, None], torch.full(opens.shape, -1)
    for level in range(int(depth.min()), int(depth.max()) + 1):
        last = torch.where(opens & (depth == level), steps, -1).cummax(0).values
        top = torch.where(depth == level, last, top)
    return top


@lru_cache(64)
def _opening(count: int, most: int) -> np.ndarray:
    """[2n, m + 1]: the probability that a bracket opens, by its place and the depth before it.

    The number of ways to go on is that of paths to depth 0, scaled at each place: only ratios matter.
    """
    ways = np.zeros(most + 3)  # depths -1 ... m + 1
    ways[1] = 1
    table = []
    for _ in range(2 * count):
        up, down = ways[2:], ways[:-2]
        table.append(np.divide(up, up + down, out=np.zeros(most + 1), where=up + down > 0))
        ways[1:-1] = up + down
        ways /= ways.max()
    return np.array(table[::-1])


@lru_cache(1024)
def _share_after_opening(count: int, most: int) -> float:
    """The expected share of closing brackets that follow an opening one, in uniform words of ``2 count`` brackets."""
    depths = np.zeros(most + 1)
    depths[0] = 1
    opened = np.zeros(most + 1)  # and the last bracket opened
    share = 0.0
    for probability in _opening(count, most):
        share += float((opened * (1 - probability)).sum())
        up, down = depths * probability, depths * (1 - probability)
        opened = np.append(0.0, up[:-1])
        depths = opened + np.append(down[1:], 0.0)
    return share / count


@lru_cache(1024)
def _words(count: int, most: int) -> float:
    """How many balanced words of one type there are, nested at most ``most`` deep."""
    if count > 400:
        return inf
    ways = [1.0, *[0.0] * most]
    for _ in range(2 * count):
        ways = [(ways[d - 1] if d else 0.0) + (ways[d + 1] if d < most else 0.0) for d in range(most + 1)]
    return ways[0]
