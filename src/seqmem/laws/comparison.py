"""Comparing what must be equal: the largest difference, and the first place where it is too large."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

import torch
from jaxtyping import Shaped
from torch import Tensor

_FLOOR = 0.01
"""Share of the largest value of a tensor, or of 1, below which differences are no longer relative to the value."""


class Pair(NamedTuple):
    """Two tensors that must be equal.

    Args:
        what: e.g. ``output``.
        axes: what the first dimensions are, e.g. timestep, row; the others are units.
        at: what is the same for both of them, e.g. ``cut before timestep 3``.
    """

    what: str
    axes: tuple[str, ...]
    one: Shaped[Tensor, "..."]
    two: Shaped[Tensor, "..."]
    at: str = ""


@dataclass(frozen=True)
class CounterExample:
    """One number that breaks a law.

    Args:
        what: e.g. ``output``.
        place: e.g. ``timestep 4, row 0, unit 2``.
        index: the same, as an index of the tensor.
        ways: how the two values came about, e.g. (``forward``, ``its steps``).
        values: None: there are none, and ``place`` says it all.
        why: what is known about the cause.
    """

    what: str
    place: str
    index: tuple[int, ...] = ()
    ways: tuple[str, str] = ("", "")
    values: tuple[float, float] | None = None
    why: str = ""


@dataclass(frozen=True)
class Outcome:
    """
    Args:
        measured: the largest relative difference of all; None: the law has no number.
        counter: the first one that is too large; None: the law holds.
    """

    measured: float | None
    counter: CounterExample | None = None


def compare(pairs: Iterable[Pair], tolerance: float, ways: tuple[str, str]) -> Outcome:
    """Compare pair by pair. Where both values are infinite or no number, they are equal."""
    largest, counter = 0.0, None
    for pair in pairs:
        if pair.one.shape != pair.two.shape:
            shapes = f"shape {tuple(pair.one.shape)} by {ways[0]}, {tuple(pair.two.shape)} by {ways[1]}"
            return Outcome(torch.inf, counter or CounterExample(pair.what, ", ".join(filter(None, [pair.at, shapes]))))
        if torch.equal(pair.one, pair.two):  # most are, and this is much cheaper than their differences
            continue
        differences = deviation(pair.one.detach(), pair.two.detach())
        worst = float(differences.max())
        largest = max(largest, worst)
        if counter is None and worst > tolerance:
            index = tuple(int(i) for i in (differences > tolerance).nonzero()[0])
            values = float(pair.one.detach()[index]), float(pair.two.detach()[index])
            counter = CounterExample(pair.what, place(pair.axes, index, pair.at), index, ways, values)
    return Outcome(largest, counter)


def deviation(one: Shaped[Tensor, "*S"], two: Shaped[Tensor, "*S"]) -> Shaped[Tensor, "*S"]:
    """|one - two| relative to ``two``; where that is small, to a hundredth of its largest value, or of 1."""
    one, two = one.double(), two.double()
    size = two.abs()
    finite = size[size.isfinite()]
    floor = _FLOOR * max(1.0, float(finite.max()) if len(finite) else 1.0)
    differences = ((one - two).abs() / (size + floor)).nan_to_num(nan=torch.inf, posinf=torch.inf)
    return torch.where((one == two) | (one.isnan() & two.isnan()), 0.0, differences)


def place(axes: tuple[str, ...], index: tuple[int, ...], at: str = "") -> str:
    """``cut before timestep 3, timestep 4, row 0, unit 2``; the last dimensions together, ``unit 2, 5``."""
    named = [f"{axis} {i}" for axis, i in zip(axes, index, strict=False)]
    rest = index[len(axes) :]
    return ", ".join(filter(None, [at, *named, f"unit {', '.join(map(str, rest))}" if rest else ""]))
