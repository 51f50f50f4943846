"""The word problem of a group: multiply its elements.

    reads   24153 31524 54321 12345 13452
    says    24153 12345 54321 54321 53214
    random elements of a group (here S5, permutations in one-line notation);
    every timestep asks for the product of the elements so far

The product of a, b, c is a b c; of permutations the right one acts first: (a b)(i) = a(b(i)). Elements are drawn
uniformly, so the last one tells nothing about a product of two or more: chance is 1 / order. At the first timestep the
element is its own product.

``group``: Z60, the integers modulo 60 under addition, is abelian; A4xZ5 is solvable; A5 (even permutations of five) is
the smallest group that is not solvable: its word problem is complete for NC1, beyond what constant-depth threshold
circuits can do unless TC0 = NC1. All three have 60 elements, so they differ in nothing else. S5 has 120.

Barrington 1989; Merrill, Petty & Sabharwal 2024 (arXiv 2404.08819), The illusion of state in state-space models, with
sequences of 2 to 20 elements.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import permutations
from math import inf, log
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from ..signals import Batch, Tokens
from ..spaces import Space
from .base import Task, content_hash

ORDERS = {"Z60": 60, "A4xZ5": 60, "A5": 60, "S5": 120}


@dataclass(frozen=True)
class Group(Task):
    """``group``: Z60, A4xZ5, A5 or S5. One token for each element, in inputs and targets alike; 0 is the identity."""

    group: str = "A5"

    name: ClassVar[str] = "group"
    source: ClassVar[str] = "Merrill, Petty & Sabharwal 2024"

    def __post_init__(self) -> None:
        if self.group not in ORDERS:
            raise ValueError(f"group={self.group}: must be Z60, A4xZ5, A5 or S5")

    @property
    def inputs(self) -> Tokens:
        return Tokens(ORDERS[self.group])

    @property
    def targets(self) -> Tokens:
        return Tokens(ORDERS[self.group])

    @property
    def chance(self) -> float:
        return 1 / ORDERS[self.group]

    def chance_at(self, seq_len: int) -> float:
        """The first element is its own product."""
        return (1 + (seq_len - 1) * self.chance) / seq_len

    @property
    def constant(self) -> float:
        return self.chance

    def baseline_loss(self, seq_len: int) -> float:
        return (seq_len - 1) / seq_len * log(ORDERS[self.group])

    @property
    def min_seq_len(self) -> int:
        return 2

    def sample(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Batch:
        self.check(batch_size, seq_len)
        elements = torch.randint(ORDERS[self.group], (seq_len, batch_size), generator=rng)
        return Batch.asked_everywhere(elements, self.solve(elements))

    def space(self, seq_len: int) -> Space:
        return Space(float(ORDERS[self.group]) ** seq_len if seq_len < 100 else inf, 4)

    def fold(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, " B"]:
        return content_hash(inputs) % 4

    def solve(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "T B"]:
        """Prefix products in log2 T rounds, each of which multiplies twice as many elements (Hillis & Steele 1986)."""
        _, table = elements_of(self.group)
        products, reach = inputs, 1
        while reach < len(products):
            products = torch.cat([products[:reach], table[products[:-reach], products[reach:]]])
            reach *= 2
        return products.clone()

    def lag(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "T B"]:
        """To the first element."""
        return torch.arange(len(inputs))[:, None].expand(inputs.shape)

    def question(self, inputs: Int[Tensor, " T"]) -> Batch:
        return Batch.asked_everywhere(inputs[:, None], self.solve(inputs[:, None]))

    def words(self, inputs: Int[Tensor, " T"]) -> list[str]:
        """Permutations in one-line notation: ``21345`` exchanges 1 and 2. Of A4xZ5 ``2143:3`` is (2143, 3)."""
        names, _ = elements_of(self.group)
        return [names[element] for element in inputs.tolist()]

    def answer(self, target: Int[Tensor, ""]) -> str:
        return elements_of(self.group)[0][int(target)]


@lru_cache
def elements_of(group: str) -> tuple[list[str], Int[Tensor, "N N"]]:
    """(name of each element, the product of each two of them), the identity first."""
    if group == "Z60":
        return _cyclic(60)
    if group == "A4xZ5":
        (names, table), (others, added) = _permutations(4, even=True), _cyclic(5)
        size = len(others)
        pairs = torch.arange(len(names) * size)
        first, second = pairs // size, pairs % size
        products = table[first[:, None], first] * size + added[second[:, None], second]
        return [f"{name}:{other}" for name in names for other in others], products
    return _permutations(5, even=group == "A5")


def _cyclic(order: int) -> tuple[list[str], Int[Tensor, "N N"]]:
    numbers = torch.arange(order)
    return [str(number) for number in range(order)], (numbers[:, None] + numbers) % order


def _permutations(points: int, *, even: bool) -> tuple[list[str], Int[Tensor, "N N"]]:
    kept = [one for one in permutations(range(points)) if not even or _is_even(one)]
    place = {one: index for index, one in enumerate(kept)}
    products = [[place[tuple(a[i] for i in b)] for b in kept] for a in kept]
    return ["".join(str(i + 1) for i in one) for one in kept], torch.tensor(products)


def _is_even(one: Sequence[int]) -> bool:
    return sum(a > b for at, a in enumerate(one) for b in one[at + 1 :]) % 2 == 0
