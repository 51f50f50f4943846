"""The axes of a figure: panels, scales, ticks, and the numbers at them."""

from collections.abc import Sequence
from functools import partial
from math import isfinite, log10, nan
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from matplotlib.transforms import Affine2D, Transform

from ..levels import Level
from .curves import Measure
from .style import QUIET

Number = int | float


def new_figure(
    width: Number, height: Number, *, rows: int = 1, columns: int = 1, share: bool = False
) -> tuple[Figure, Any]:
    """A figure of ``width`` x ``height`` points and its axes as [rows columns]; ``share``: one vertical axis a row."""
    figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, sharey=share)


def length_axis(axes: Axes, lengths: Sequence[Number], *, room: Number = 0.07) -> None:
    """A logarithmic horizontal axis with a tick at every length for which there is room."""
    low, high = (lengths[0], lengths[-1]) if lengths else (1, 1)
    axes.set_xscale("log")
    if high > low:
        reach = (high / low) ** 0.06
        axes.set_xlim(low / reach, high * reach)
    else:
        axes.set_xlim(low / 2, high * 2)
    axes.xaxis.set_major_locator(FixedLocator(spread(lengths, room)))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))


def spread(lengths: Sequence[Number], room: Number) -> list[Number]:
    """The lengths at least ``room`` of a logarithmic axis apart; always the first and the last."""
    if len(lengths) < 2:
        return list(lengths)
    least = room * log10(lengths[-1] / lengths[0])
    ticks = [lengths[0]]
    for length in lengths[1:-1]:
        if log10(length / ticks[-1]) >= least and log10(lengths[-1] / length) >= least:
            ticks.append(length)
    return [*ticks, lengths[-1]]


def score_axis(axes: Axes, measure: Measure, values: Sequence[Number], *, upright: bool = True) -> None:
    """The axis of a score, with its levels as lines: 0 to 100 % for a fraction, else what ``values`` span."""
    axis = axes.yaxis if upright else axes.xaxis
    limits, scale = (axes.set_ylim, axes.set_yscale) if upright else (axes.set_xlim, axes.set_xscale)
    if measure.metric.percent:
        limits(-0.02, 1.02)
        axis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    else:
        marks = [score for level in measure.levels for score in level.scores.values()]
        goal = [] if measure.goal is None else [measure.goal]
        finite = [value for value in (*values, *marks, *goal) if isfinite(value)]
        if finite and min(finite) > 0 and max(finite) > 20 * min(finite):
            scale("log")
            decades(axes, finite, upright=upright)
        else:
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−")))
            low, high = min(finite, default=0.0), max(finite, default=1.0)
            aside = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
            limits(low - aside, high + aside)
    _levels(axes, measure, upright=upright)


_DASHES = {"chance": (0, (4, 3)), "solved": (0, (1, 2))}


def _levels(axes: Axes, measure: Measure, *, upright: bool) -> None:
    """A line through each level's score at every length, straight where all are the same, and its name at the end."""
    goal = [] if measure.goal is None else [Level("solved", {0: measure.goal})]
    names, ends = [], []
    for level in (*measure.levels, *goal):
        lengths, scores = zip(*[pair for pair in level.scores.items() if isfinite(pair[1])] or [(0, nan)], strict=True)
        if not isfinite(scores[-1]):
            continue
        drawn: Any = {"color": QUIET, "lw": 1, "ls": _DASHES.get(level.name, (0, (1, 5))), "zorder": 1.5}
        if not level.flat and upright:
            axes.plot(lengths, scores, **drawn)
        else:
            (axes.axhline if upright else axes.axvline)(scores[-1], **drawn)
        names.append(level.name)
        ends.append(scores[-1])
    place = partial(_beside, axes, ends) if upright else partial(_above, axes, ends, names)
    for at, (name, end) in enumerate(zip(names, ends, strict=True)):
        axes.annotate(
            name, (1, end) if upright else (end, 1), (0, 0),
            xycoords=("axes fraction", "data") if upright else ("data", "axes fraction"),
            textcoords=partial(place, at), ha="left" if upright else "center",
            va="center" if upright else "bottom", fontsize=LETTERS, color=QUIET,
        )  # fmt: skip


LETTERS = 8.5
"""Points; the size of the names of levels."""


def _beside(axes: Axes, ends: Sequence[Number], at: int, _: object) -> Transform:
    """Where a name stands at the right of the axes: at the height of its level, or pushed aside by its neighbours.

    Computed when it is drawn, for only then the size of the axes is known.
    """
    point = axes.figure.dpi / 72
    heights = axes.transData.transform([(1, end) for end in ends])[:, 1]
    return Affine2D().translate(axes.bbox.x1 + 4 * point, apart(heights.tolist(), 1.2 * LETTERS * point)[at])


def _above(axes: Axes, ends: Sequence[Number], names: Sequence[str], at: int, _: object) -> Transform:
    """The same above the axes, in a row of its own for a name that would overlap one in a lower row."""
    point = axes.figure.dpi / 72
    centres = axes.transData.transform([(end, 1) for end in ends])[:, 0].tolist()
    rows: list[float] = []  # where each is full
    row_of = [0] * len(names)
    for number in sorted(range(len(names)), key=centres.__getitem__):
        half = 0.32 * LETTERS * len(names[number]) * point
        row_of[number] = next((row for row, full in enumerate(rows) if full < centres[number] - half), len(rows))
        rows[row_of[number] : row_of[number] + 1] = [centres[number] + half]
    up = (2 + 1.2 * LETTERS * row_of[at]) * point
    return Affine2D().translate(centres[at], axes.bbox.y1 + up)


def apart(places: Sequence[float], least: float) -> list[float]:
    """Places at least ``least`` apart, in the same order, as near to the given ones as possible (least squares).

    Isotonic regression by pooling adjacent violators (Ayer et al. 1955) of what each is ahead of an even spacing.
    """
    order = sorted(range(len(places)), key=places.__getitem__)
    pools: list[tuple[float, int]] = []  # mean, size
    for rank, place in enumerate(order):
        pools.append((places[place] - rank * least, 1))
        while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
            (a, n), (b, m) = pools[-2:]
            pools[-2:] = [((a * n + b * m) / (n + m), n + m)]
    spread_out = [mean for mean, size in pools for _ in range(size)]
    moved = [0.0] * len(places)
    for rank, place in enumerate(order):
        moved[place] = spread_out[rank] + rank * least
    return moved


def decades(axes: Axes, values: Sequence[Number], *, upright: bool = True, infinite: Number | None = None) -> None:
    """A logarithmic axis with plain numbers: at 1, 2 and 5 times a power of ten, or at fewer where it is long.

    Args:
        infinite: where infinity is drawn; None: nowhere.
    """
    low, high = min(values, default=1.0), max(values, default=1.0)
    first, last = int(np.floor(log10(low))) - 1, int(np.ceil(log10(high))) + 1
    factors = (1, 2, 5) if log10(high / low) < 2.2 else (1, 3) if log10(high / low) < 3.2 else (1,)
    every = max(1, (last - first) // 8)
    ticks = [factor * 10.0**power for power in range(first, last, every) for factor in factors]
    below = infinite / 1.3 if infinite is not None else float("inf")
    ticks = [tick for tick in ticks if low / 1.35 <= tick <= high * 1.35 and tick < below]
    ticks = ticks or [float(f"{low:.2g}")]  # none of these is near a single value
    axis = axes.yaxis if upright else axes.xaxis
    axis.set_major_locator(FixedLocator([*ticks, infinite] if infinite is not None else ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: "∞" if value == infinite else _plain(value)))
    (axes.set_ylim if upright else axes.set_xlim)(low / 1.35, high * 1.35)


def power_of_ten(exponent: Number, _: object = None) -> str:
    """``10⁻³`` for -3, 1 for 0, nothing between whole exponents. The second argument is matplotlib's tick position."""
    return "1" if exponent == 0 else f"10{_raised(int(exponent))}" if exponent == int(exponent) else ""


def _plain(value: Number) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:g}" if value >= 1e-3 else f"10{_raised(round(log10(value)))}"


def _raised(number: int) -> str:
    return str(number).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
