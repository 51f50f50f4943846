"""Symbols scattered among blanks, to be recalled in their order: what several tasks share.

Axes: T time, B batch, N symbols of a sequence.
"""

from collections.abc import Sequence
from string import ascii_lowercase

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ..spaces import Space


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
