"""The axes of a figure: panels, scales, ticks, and the numbers at them."""

from collections.abc import Sequence
from math import isfinite, log10
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator

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
    line, axis = (axes.axhline, axes.yaxis) if upright else (axes.axvline, axes.xaxis)
    limits, scale = (axes.set_ylim, axes.set_yscale) if upright else (axes.set_xlim, axes.set_xscale)
    if measure.metric.percent:
        limits(-0.02, 1.02)
        axis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    else:
        levels = [score for _, score in measure.levels]
        marks = [mark for mark in (measure.chance, measure.goal, *levels) if mark is not None and isfinite(mark)]
        finite = [value for value in (*values, *marks) if isfinite(value)]
        if finite and min(finite) > 0 and max(finite) > 20 * min(finite):
            scale("log")
            decades(axes, finite, upright=upright)
        else:
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−")))
            low, high = min(finite, default=0.0), max(finite, default=1.0)
            aside = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
            limits(low - aside, high + aside)
    faint = [(score, name, (0, (1, 5))) for name, score in measure.levels]
    for mark, name, dashes in ((measure.chance, "chance", (0, (4, 3))), (measure.goal, "solved", (0, (1, 2))), *faint):
        if mark is None or not isfinite(mark):
            continue
        line(mark, color=QUIET, lw=1, ls=dashes, zorder=1.5)
        if upright:
            axes.annotate(
                name, (1, mark), (4, 0), xycoords=("axes fraction", "data"), textcoords="offset points",
                ha="left", va="center", fontsize=8.5, color=QUIET,
            )  # fmt: skip
        else:
            axes.annotate(
                name, (mark, 1), (0, 2), xycoords=("data", "axes fraction"), textcoords="offset points",
                ha="center", va="bottom", fontsize=8.5, color=QUIET,
            )  # fmt: skip


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
