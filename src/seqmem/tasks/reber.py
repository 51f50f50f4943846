"""Predict the next symbol of an embedded Reber string.

    reads   B P B T S X X T V V E P
    says    P B T S X X T V V E P E
                                ~
    B, then T or P, a string of Reber's grammar, the same T or P again, E;
    scored is that second T or P, all that needs a long memory

The grammar is a graph: B, then T S* X or P T* V, and so on to E; where two symbols may follow, each does with
probability 1/2. The loss is over the next symbol at every timestep, most of which cannot be known: a perfect model has
the grammar's entropy left. Scored is the symbol after the inner E, with a chance of 1/2. As few as five timesteps lie
between, so this is a test of short lags; longer strings have longer ones.

All strings of a batch have one length, ``seq_len`` symbols and the last E, which is only predicted: they are drawn by
the grammar, given that length. In the paper lengths are as the grammar has them, from 9 symbols on, 12 on average, 98 %
up to 21: ``lengths=uniform seq_len=20`` trains on lengths up to that, in equal shares.

Reber 1967; Smith & Zipser 1989, Fahlman 1991; Hochreiter & Schmidhuber 1997, Long short-term memory, experiment 1, with
256 strings to train on and 256 to test. A string is right there if at each timestep the most active outputs are the
symbols that may follow, and a run is solved if all strings are; of that the score has the long-lag part.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from math import inf
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from ..signals import Batch, Tokens
from ..spaces import Space
from .automaton import Automaton
from .base import Task, content_hash

WORDS = "BTPSXVE"
T, P, E = (WORDS.index(letter) for letter in "TPE")

INNER = ["B1", "T2 P3", "S2 X4", "T3 V5", "X3 S6", "P4 V6", "E7"]
"""From each state of Reber's grammar: a symbol and the state it leads to."""


@dataclass(frozen=True)
class Reber(Task):
    """Tokens and targets: B, T, P, S, X, V, E. No options."""

    name: ClassVar[str] = "reber"
    source: ClassVar[str] = "Reber 1967; Hochreiter & Schmidhuber 1997, experiment 1"

    @property
    def inputs(self) -> Tokens:
        return Tokens(len(WORDS))

    @property
    def targets(self) -> Tokens:
        return Tokens(len(WORDS))

    @property
    def chance(self) -> float:
        return 0.5

    def baseline_loss(self, seq_len: int) -> float:
        return _from_last_symbol(seq_len)

    @property
    def min_seq_len(self) -> int:
        """BTBTXSET, and E."""
        return 8

    def sample(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Batch:
        self.check(batch_size, seq_len)
        symbols, following, _ = _graph()
        draws = torch.rand(seq_len, batch_size, generator=rng).numpy()
        inputs, state = np.empty(draws.shape, np.int64), np.zeros(batch_size, np.int64)
        for t, first in enumerate(_first(seq_len)):
            edge = (draws[t] >= first[state]).astype(np.int64)
            inputs[t] = symbols[state, edge]
            state = following[state, edge]
        return self._asked(torch.from_numpy(inputs))

    def _asked(self, inputs: Int[Tensor, "T B"]) -> Batch:
        return Batch(inputs, self.solve(inputs), torch.ones(inputs.shape), inputs == E)

    def space(self, seq_len: int) -> Space:
        """By the probability that two walks take the same edges."""
        _, following, many = _graph()
        same = np.ones(len(many))
        for first in _first(seq_len)[::-1]:
            same = first**2 * same[following[:, 0]] + (1 - first) ** 2 * same[following[:, 1]]
        return Space(float(1 / same[0]) if same[0] > 1e-300 else inf, 4)

    def fold(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, " B"]:
        """By the inner string: each answer is in a fold as often as the other."""
        return content_hash(inputs[2:-1]) % 4

    def solve(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "T B"]:
        """The next input; after the inner E the second one again; at the end E."""
        following = torch.cat([inputs[1:], torch.full_like(inputs[:1], E)])
        return torch.where(inputs == E, inputs[min(1, len(inputs) - 1)], following)

    def lag(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "T B"]:
        """To the first T or P; correct after the inner E."""
        return (torch.arange(len(inputs))[:, None] - 1).clamp(min=0).expand(inputs.shape)

    def question(self, inputs: Int[Tensor, " T"]) -> Batch:
        ends = inputs[:, None] == E
        return self._asked(inputs[:, None]) if bool(ends.any()) else super().question(inputs)

    def automaton(self) -> Automaton:
        """It ends where one symbol alone may follow: after the inner E, or after the symbol that follows it."""
        symbols, following, many = _graph()
        edges = [
            [(int(symbols[state, edge]), int(following[state, edge])) for edge in range(many[state])]
            for state in range(len(many))
        ]
        inner_end = [state for state, some in enumerate(edges) if [symbol for symbol, _ in some] in ([T], [P])]
        last = [state for state, some in enumerate(edges) if some == [(E, len(edges) - 1)]]
        return Automaton([[token] for token in range(len(WORDS))], edges, {*inner_end, *last})

    def unanswerable(self, inputs: Int[Tensor, " T"]) -> str | None:
        tokens = inputs.tolist()
        problem = self.automaton().problem(tokens)
        if problem is None:
            return None
        if problem.at < len(tokens):
            return self._described(problem, tokens)
        return "it stops too early" if problem.expected else "nothing follows its last E"

    def words(self, inputs: Int[Tensor, " T"]) -> list[str]:
        return [WORDS[token] for token in inputs.tolist()]

    def answer(self, target: Int[Tensor, ""]) -> str:
        return WORDS[int(target)]


@lru_cache
def _graph() -> tuple[np.ndarray, np.ndarray, Sequence[int]]:
    """(symbol, next state, number) of the edges from each state, [S, 2] twice and [S]; a single edge stands twice.

    States: 0, 1, then the inner grammar after T, and after P, with a state before the last T or P; before E; the end.
    """
    size = len(INNER) + 1
    before_last, end = 2 + 2 * size, 3 + 2 * size
    edges = [[(WORDS.index("B"), 1)], [(T, 2), (P, 2 + size)]]
    for branch, symbol in ((0, T), (1, P)):
        offset = 2 + branch * size
        edges += [[(WORDS.index(to[0]), offset + int(to[1])) for to in one.split()] for one in INNER]
        edges.append([(symbol, before_last)])
    edges += [[(E, end)], [(E, end)]]
    assert len(edges) == end + 1
    both = np.array([[some[0], some[-1]] for some in edges])
    return both[..., 0], both[..., 1], [*(len(some) for some in edges[:-1]), 0]


@lru_cache(256)
def _first(seq_len: int) -> np.ndarray:
    """[T, S]: the probability of the first edge from each state, given that E follows ``seq_len`` symbols."""
    _, following, many = _graph()
    chance = np.where(np.array(many) == 1, 1.0, 0.5)
    ways = np.zeros(len(many))
    ways[len(many) - 2] = 1  # before the last E
    table = []
    for _ in range(seq_len):
        one, other = chance * ways[following[:, 0]], (1 - chance) * ways[following[:, 1]]
        one[-1] = other[-1] = 0
        table.append(np.divide(one, one + other, out=np.ones(len(many)), where=one + other > 0))
        ways = one + other
        ways /= ways.max()
    return np.array(table[::-1])


@lru_cache(256)
def _from_last_symbol(seq_len: int) -> float:
    """The entropy of the next symbol given the last one and its place, in nats, on average over the timesteps."""
    symbols, following, many = _graph()
    table = [*_first(seq_len)[1:], np.ones(len(many))]  # at the end E is certain
    reached = np.zeros((len(WORDS), len(many)))  # last symbol, state
    reached[0, 1] = 1  # B
    loss = 0.0
    for first in table:
        joint, new = np.zeros((len(WORDS), len(WORDS))), np.zeros_like(reached)
        for edge, share in ((0, first), (1, 1 - first)):
            taken = reached * share
            for state in range(len(many)):
                joint[:, symbols[state, edge]] += taken[:, state]
                new[symbols[state, edge], following[state, edge]] += taken[:, state].sum()
        given = joint / joint.sum(1, keepdims=True).clip(1e-300)
        loss -= float((joint * np.log(np.where(joint > 0, given, 1))).sum())
        reached = new
    return loss / seq_len
