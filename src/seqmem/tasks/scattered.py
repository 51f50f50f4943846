"""Symbols scattered among blanks, to be recalled in their order: what several tasks share.

Axes: T time, B batch, N symbols of a sequence.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from string import ascii_lowercase

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ..signals import Batch, Tokens
from ..spaces import Space
from .base import Task


@dataclass(frozen=True)
class Recall(Task):
    """``symbols``: size of the alphabet, 2 to 26; ``length``: how many symbols are recalled, at least 1.

    Tokens 0 ... ``symbols`` - 1 are the symbols, then the blank, then the mark that asks.
    """

    symbols: int = 8
    length: int = 10

    def __post_init__(self) -> None:
        check_alphabet(self.symbols, self.length)

    @property
    def inputs(self) -> Tokens:
        return Tokens(self.symbols + 2)

    @property
    def chance(self) -> float:
        return 1 / self.symbols

    def words(self, inputs: Int[Tensor, " T"]) -> list[str]:
        return letters(inputs.tolist(), self.symbols, ".!")

    def answer(self, target: Int[Tensor, ""]) -> str:
        return letters([int(target)], self.symbols, ".")[0]


@dataclass(frozen=True)
class Scattered(Recall):
    """The symbols stand at different places among blanks, every set of places as likely; the last ``length`` timesteps
    answer, in order."""

    @abstractmethod
    def room(self, seq_len: int) -> int:
        """The symbols stand at the first so many timesteps."""

    @abstractmethod
    def asking(self, inputs: Int[Tensor, "T B"], data: Int[Tensor, "N B"]) -> Batch:
        """Inputs with their symbols in order, as a batch."""

    def scatter(
        self, batch_size: int, seq_len: int, rng: torch.Generator
    ) -> tuple[Int[Tensor, "T B"], Int[Tensor, "N B"]]:
        """(inputs without a mark, their symbols in order)"""
        self.check(batch_size, seq_len)
        places = distinct_places(self.length, self.room(seq_len), batch_size, rng)
        data = draw_symbols(self.symbols, self.length, batch_size, rng)
        return torch.full((seq_len, batch_size), self.symbols).scatter_(0, places, data), data

    def sequences(self, seq_len: int) -> Space:
        """For ``space``."""
        return equally_likely(self.symbols**self.length * comb(max(0, self.room(seq_len)), self.length))

    def fold(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, " B"]:
        places = self._places(inputs)
        return fold_of(inputs.gather(0, places), places, self.symbols)

    def _places(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "N B"]:
        return places_of(inputs < self.symbols, self.length)

    def solve(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "T B"]:
        return self.asking(inputs, inputs.gather(0, self._places(inputs))).targets

    def lag(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "T B"]:
        """From each answer to its own symbol."""
        lags = torch.zeros_like(inputs)
        answers = torch.arange(len(inputs) - self.length, len(inputs))
        lags[-self.length :] = answers[:, None] - self._places(inputs)
        return lags

    def question(self, inputs: Int[Tensor, " T"]) -> Batch:
        return self.asking(inputs[:, None], self.solve(inputs[:, None])[-self.length :])

    def unanswerable(self, inputs: Int[Tensor, " T"]) -> str | None:
        if len(inputs) < self.min_seq_len:
            return super().unanswerable(inputs)
        if (mistake := self.mistake(inputs)) is not None:
            return mistake
        count = int((inputs < self.symbols).sum())
        return None if count == self.length else f"it has {count} symbols, task={self.name} asks for {self.length}"

    @abstractmethod
    def mistake(self, inputs: Int[Tensor, " T"]) -> str | None:
        """Why the marks of one sequence, long enough, are not where they should be; None if they are."""


def distinct_places(count: int, among: int, batch_size: int, rng: torch.Generator) -> Int[Tensor, "N B"]:
    """``count`` different timesteps of 0 ... ``among`` - 1 for each sequence, ascending. All sets are as likely."""
    return torch.rand(among, batch_size, generator=rng).topk(count, 0).indices.sort(0).values


def places_of(chosen: Bool[Tensor, "T B"], count: int) -> Int[Tensor, "N B"]:
    """The first ``count`` timesteps at which ``chosen`` is true, ascending; where there are fewer, others follow."""
    steps = torch.arange(len(chosen), 0, -1)[:, None]
    return (chosen * len(chosen) + steps).topk(count, 0).indices


def draw_symbols(symbols: int, count: int, batch_size: int, rng: torch.Generator) -> Int[Tensor, "N B"]:
    """Independent, uniform symbols 0 ... ``symbols`` - 1."""
    return torch.randint(symbols, (count, batch_size), generator=rng)


def check_alphabet(symbols: int, length: int = 1) -> None:
    """Raise ValueError if the options ``symbols`` and ``length`` cannot be."""
    if not 2 <= symbols <= len(ascii_lowercase):
        raise ValueError(f"symbols={symbols}: must be from 2 to {len(ascii_lowercase)}")
    if length < 1:
        raise ValueError(f"length={length}: must be at least 1")


def letters(tokens: Sequence[int], symbols: int, others: str) -> list[str]:
    """Symbols as letters from a on; the tokens after them are ``others``."""
    return [(ascii_lowercase[:symbols] + others)[token] for token in tokens]


def named(count: int, alphabet: str, prefix: str) -> Sequence[str]:
    """So many names: letters, or ``k0``, ``k1``, ... where there are more than ``alphabet`` has."""
    return alphabet[:count] if count <= len(alphabet) else [f"{prefix}{i}" for i in range(count)]


FOLDS = 4


def equally_likely(sequences: int) -> Space:
    """The space of so many sequences, in FOLDS folds. A float holds no more than 1e308."""
    return Space(float(min(sequences, 10**300)), FOLDS)


def fold_of(symbols: Int[Tensor, "N B"], places: Int[Tensor, "M B"], alphabet: int) -> Int[Tensor, " B"]:
    """A fold by the places, and by how far the symbols are from the first of them, modulo ``alphabet``.

    To move all symbols equally far leaves the fold as it is, so each answer is in a fold as often as any other.
    """
    distances = (symbols - symbols[:1]) % alphabet * torch.arange(len(symbols))[:, None]
    return (distances.sum(0) + places.sum(0)) % FOLDS
