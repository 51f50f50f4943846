"""Lines and points inside a figure's axes, and its legend."""

from collections.abc import Iterable, Sequence
from math import isfinite
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.transforms import Transform, offset_copy

from ..wording import clean
from .style import PAPER, QUIET, paint, shade

Number = int | float

PIXELS_ABOVE = 120
"""Rasterize the points of a label above this number in the SVG: thousands of runs must not make a page heavy."""


def finite(values: Sequence[Number]) -> list[Number]:
    """``values`` with NaN for what is not finite: matplotlib leaves a gap for a run that diverged."""
    return [value if isfinite(value) else float("nan") for value in values]


def band_ends(values: Sequence[Number], every: Iterable[Number]) -> list[Number]:
    """``values`` with a number outside the axes for infinity: the band of an interval then ends at their edge.

    Args:
        every: all numbers of the axes.
    """
    known = [value for value in every if isfinite(value)] or [0.0]
    reach = 10 * (max(known) - min(known)) + abs(max(known)) + 1
    ends = {float("inf"): max(known) + reach, float("-inf"): min(known) - reach}
    return [ends.get(value, value) for value in values]


def beside(axes: Axes, place: int, count: int, *, data: Transform | None = None) -> Transform:
    """A transform, the data's by default, shifted a little for each of ``count`` lines: equal scores would hide each
    other."""
    aside = place - (count - 1) / 2
    return offset_copy(data or axes.transData, axes.figure, x=2.5 * aside, y=-1.4 * aside, units="points")  # pyright: ignore[reportArgumentType]


def crosses(axes: Axes, xs: Sequence[Number], ys: Sequence[Number], colour: str, transform: Transform) -> None:
    """A cross for each place where runs diverged."""
    if len(xs):
        axes.plot(xs, ys, "x", ms=7, mec=colour, mew=1.8, clip_on=False, zorder=3, transform=transform)


def faint(axes: Axes, seeds: Any, colour: str, *, alpha: Number, transform: Transform | None = None) -> None:
    """A thin line for each seed's (x, y) pairs; one path for all, which keeps a page with thousands of runs small."""
    xs: list[Number] = []
    ys: list[Number] = []
    for seed in seeds:
        xs += [*(x for x, _ in seed), float("nan")]
        ys += [*finite([y for _, y in seed]), float("nan")]
    if xs:
        axes.plot(xs, ys, color=colour, lw=0.8, alpha=alpha, transform=transform or axes.transData)


def dots(
    axes: Axes,
    points: Sequence[tuple[Number, Number]],
    colour: str,
    *,
    alpha: Number,
    marker: str = "o",
    hollow: bool = False,
    size: Number = 5,
    transform: Transform | None = None,
) -> None:
    """Markers at the points whose y is finite."""
    points = [point for point in points if isfinite(point[1])]
    if points:
        xs, ys = zip(*points, strict=True)
        face = PAPER if hollow else colour
        edge = 1.2 if hollow else 0
        axes.plot(
            xs, ys, marker, ms=size, mfc=face, mec=colour, mew=edge, alpha=alpha, clip_on=False, zorder=3,
            transform=transform or axes.transData, rasterized=len(points) > PIXELS_ABOVE,
        )  # fmt: skip


def legend(figure: Figure, labels: Sequence[tuple[str, int]], *, unsolved: bool = False, stages: bool = False) -> None:
    """A legend of labels and their colours' numbers.

    Args:
        unsolved: with the open marker of a run that has not solved its task.
        stages: with the markers before and after training.
    """
    handles, texts = [], []
    for label, number in labels:
        colour, marker = paint(number)
        handles.append(Line2D([], [], color=colour, marker=marker, ms=5.5, lw=0 if stages else 2.2))
        texts.append(clean(label, 34))
    extra = [(True, "not solved, at the budget")] if unsolved else []
    extra += [(True, "before training"), (False, "after training")] if stages else []
    for hollow, text in extra:
        handles.append(Line2D([], [], color=QUIET, marker="o", ms=5.5, mfc=PAPER if hollow else QUIET, lw=0))
        texts.append(text)
    _put_legend(figure, handles, texts)


def shade_legend(figure: Figure, lengths: Sequence[int], title: str) -> None:
    """A legend of lengths and their shades, at most seven of them."""
    places = np.unique(np.linspace(0, len(lengths) - 1, min(7, len(lengths))).round().astype(int)).tolist()
    handles: list[Line2D] = [Line2D([], [], lw=0)]
    handles += [Line2D([], [], color=shade(place, len(lengths)), lw=2.5) for place in places]
    _put_legend(figure, handles, [title, *(str(lengths[place]) for place in places)])


def _put_legend(figure: Figure, handles: list[Line2D], texts: Sequence[str]) -> None:
    """Above the figure. matplotlib leaves out a label that begins with "_", so the texts are set afterwards."""
    widest = max(map(len, texts), default=1)
    columns = max(1, min(len(handles), int(figure.get_figwidth() * 72 / (6.2 * widest + 34))))
    if widest > 12 and all(len(text) < 7 for text in texts[1:]):  # a title and short numbers
        columns = len(handles)
    drawn = figure.legend(
        handles, ["-"] * len(handles), loc="outside upper left", ncols=columns, handlelength=1.6, columnspacing=1.2,
        handletextpad=0.5, borderaxespad=0,
    )  # fmt: skip
    for entry, text in zip(drawn.get_texts(), texts, strict=True):
        entry.set_text(text)
