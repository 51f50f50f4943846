"""What is the value of the expression, modulo 5?

    3 * 4 - 2 + 1 * 1 * 4 - 0 + 2 -> 1
    random digits from 0 to 4, between them +, - or *, without brackets;
    products come before sums; the last timestep asks for the value

Digits and operators are drawn uniformly. An expression has an odd number of timesteps; where ``seq_len`` is even, a
blank (.) comes first. (The code of Delétang et al. shortens it by one instead.)

A running value is not enough: a memory must hold the sum of the finished terms and the product that is not finished, 25
states. The last digit alone tells little, and less in longer expressions: a zero after * makes its term zero. In the
limit it tells nothing, and chance is 1/5.

Delétang et al. 2023 (arXiv 2207.02098), Neural networks and the Chomsky hierarchy, task modular arithmetic (simple),
which is trained on lengths from U{1 ... 40} and tested at up to 500.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from ..signals import Batch, Tokens
from ..spaces import Space
from .base import Task, content_hash

MODULUS = 5
WORDS = "01234+-*."
PLUS, MINUS, TIMES, BLANK = range(MODULUS, len(WORDS))
POWERS = torch.tensor([1, 2, 4, 3])  # of 2, which generates all non-zero residues
LOGARITHMS = torch.tensor([0, 0, 1, 3, 2])  # of 0: not used


@dataclass(frozen=True)
class Modular(Task):
    """Tokens: 0 to 4 digits, then +, -, * and the blank. No options."""

    name: ClassVar[str] = "modular"
    source: ClassVar[str] = "Delétang et al. 2023"

    @property
    def inputs(self) -> Tokens:
        return Tokens(len(WORDS))

    @property
    def targets(self) -> Tokens:
        return Tokens(MODULUS)

    @property
    def chance(self) -> float:
        return 1 / MODULUS

    def chance_at(self, seq_len: int) -> float:
        return _by_last_digit((seq_len + 1) // 2)[0]

    def baseline_loss(self, seq_len: int) -> float:
        return _by_last_digit((seq_len + 1) // 2)[1]

    @property
    def min_seq_len(self) -> int:
        """Two digits and an operator."""
        return 3

    def sample(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Batch:
        self.check(batch_size, seq_len)
        words = torch.full((seq_len, batch_size), BLANK)
        count = (seq_len + 1) // 2
        expression = words[-(2 * count - 1) :]
        expression[::2] = torch.randint(MODULUS, (count, batch_size), generator=rng)
        expression[1::2] = torch.randint(PLUS, TIMES + 1, (count - 1, batch_size), generator=rng)
        return Batch.asked_at_end(words, self.solve(words)[-1])

    def space(self, seq_len: int) -> Space:
        count = (seq_len + 1) // 2
        return Space(5.0**count * 3.0 ** (count - 1) if count < 100 else float("inf"), 4)

    def fold(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, " B"]:
        return content_hash(inputs) % 4

    def solve(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "T B"]:
        """The value at the end. Each term is a product, whose factors are added as powers of 2 if none is zero."""
        digit, ends = inputs < MODULUS, (inputs == PLUS) | (inputs == MINUS)
        term = ends.cumsum(0)

        def each_term(values: Tensor) -> Int[Tensor, "T B"]:
            return torch.zeros_like(inputs).scatter_add_(0, term, values.long())

        value = POWERS[each_term(LOGARITHMS[inputs.clamp(max=MODULUS - 1)] * digit) % 4]
        value[each_term(digit & (inputs == 0)) > 0] = 0
        value[each_term(digit) == 0] = 0
        sign = 1 - 2 * each_term(inputs == MINUS)  # the operator before a term belongs to it
        return ((sign * value).sum(0) % MODULUS).expand(inputs.shape)

    def lag(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "T B"]:
        """To the first digit or operator that counts.

        A digit counts if no other one of its term is zero. An operator counts unless there are zeros on both sides of
        it: among the factors to its left and among those to its right, whatever else stands there instead.
        """
        zero = (inputs == 0).long()
        term = ((inputs == PLUS) | (inputs == MINUS)).cumsum(0)
        of_term = torch.zeros_like(inputs).scatter_add_(0, term, zero)
        so_far = zero.cumsum(0) - (of_term.cumsum(0) - of_term).gather(0, term)  # in the same term
        of_term = of_term.gather(0, term)
        left = torch.cat([torch.zeros_like(so_far[:1]), so_far[:-1]])
        counts = torch.where(inputs < MODULUS, of_term == zero, (left == 0) | (of_term == so_far)) & (inputs != BLANK)
        return torch.arange(len(inputs))[:, None] - counts.int().argmax(0)

    def unanswerable(self, inputs: Int[Tensor, " T"]) -> str | None:
        tokens = inputs.tolist()
        start = next((t for t, token in enumerate(tokens) if token != BLANK), len(tokens))
        for t, token in enumerate(tokens[start:]):
            expected = "a digit" if t % 2 == 0 else "+, - or *"
            if (token < MODULUS) != (t % 2 == 0) or token == BLANK:
                return f"word {start + t + 1} is '{WORDS[token]}': there task={self.name} has {expected}"
        if (len(tokens) - start) % 2 == 0:
            return "it does not end with a digit"
        return super().unanswerable(inputs)

    def words(self, inputs: Int[Tensor, " T"]) -> list[str]:
        return [WORDS[token] for token in inputs.tolist()]

    def answer(self, target: Int[Tensor, ""]) -> str:
        return str(int(target))


@lru_cache(1024)
def _by_last_digit(count: int) -> tuple[float, float]:
    """(accuracy, loss in nats) of the best answer from the last of ``count`` digits.

    The probabilities of (sum of the finished terms, current term), after all digits but the last.
    """
    residues = np.arange(MODULUS)
    state = np.zeros((MODULUS, MODULUS))
    state[0] = 1 / MODULUS

    def after(digit: int) -> np.ndarray:
        """The probabilities after an operator and that digit, whose own is 1 / 5."""
        new = np.zeros_like(state)
        finished = np.array([state[(total - residues) % MODULUS, residues].sum() for total in residues])
        new[:, digit] += finished
        new[:, -digit % MODULUS] += finished
        for term in range(MODULUS):
            new[:, term * digit % MODULUS] += state[:, term]
        return new / (3 * MODULUS)

    for _ in range(count - 2):
        state = np.sum([after(digit) for digit in range(MODULUS)], 0)
    ends = [after(digit) for digit in range(MODULUS)]
    joint = np.array([[end[(value - residues) % MODULUS, residues].sum() for value in residues] for end in ends])
    given = joint / joint.sum(1, keepdims=True)
    return float(joint.max(1).sum()), float(-(joint * np.log(given)).sum())
