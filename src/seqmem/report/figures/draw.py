"""The report's figures, by matplotlib. Nothing is computed here: what is drawn are the numbers of ``series``.

A figure is drawn once and leaves as SVG for the page (its colours are the page's own, so that they change with a dark
page and on paper), as SVG for a file (light, nothing but plain colours) and as PNG.

Colours: Okabe & Ito (2008), "Color Universal Design": they can be told apart with every kind of colour vision. Markers
differ too, so that nothing depends on colour alone.
"""

import re
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import wraps
from io import BytesIO, StringIO
from math import isfinite, log10
from typing import Any, ParamSpec
from xml.etree import ElementTree as ET

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, NullLocator
from matplotlib.transforms import Transform, offset_copy
from PIL import Image

from ..series import Curves, Decays, Maps, Measure, Profiles, Steps, Strip

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#5a5a5a")
"""Of one label after another, and the same in every figure of a report."""

MARKERS = "osD^vPX"

INK, QUIET, RULE, PAPER = "#1c2127", "#5d6670", "#d9dde2", "#ffffff"

SHADES = ("#9ecae1", "#6baed6", "#3182bd", "#08519c", "#08306b")
"""From short to long sequences, where lengths share a panel."""

VARIABLES = {
    INK: "--ink", QUIET: "--quiet", RULE: "--rule", PAPER: "--paper",
    **{colour: f"--c{at}" for at, colour in enumerate(COLOURS)},
    **{colour: f"--s{at}" for at, colour in enumerate(SHADES)},
}  # fmt: skip
"""Colour -> the page's variable for it (style.css)."""

WIDTH = 500
"""Of a figure with one panel, in points; its letters have 10.5 of them, so they stay readable on a phone."""

WIDE = 700
"""Of one with several panels."""

AS_PIXELS = 120
"""Points of one label beyond which they are pixels in the SVG: thousands of runs must not make a page heavy."""

AT_MOST = len(COLOURS)
"""Labels in one figure: as many as have a colour of their own."""

TOP, BOTTOM = 0.0, -8.0
"""log10 of the norm relative to the norm at the answer: the ends of a heat map's colours, the same in every map."""

_STYLE: Any = {
    "axes.axisbelow": True,
    "axes.edgecolor": QUIET,
    "axes.facecolor": "none",
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 10.5,
    "axes.linewidth": 0.7,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlecolor": INK,
    "axes.titlelocation": "left",
    "axes.titlesize": 10.5,
    "axes.unicode_minus": True,
    "figure.dpi": 72,
    "figure.facecolor": PAPER,
    "font.family": ["DejaVu Sans"],
    "font.size": 10.5,
    "grid.color": RULE,
    "grid.linewidth": 0.7,
    "legend.fontsize": 10.5,
    "legend.frameon": False,
    "legend.labelcolor": INK,
    "path.simplify": False,
    "svg.fonttype": "none",
    "svg.hashsalt": "seqmem",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": QUIET,
    "xtick.labelcolor": INK,
    "xtick.labelsize": 9.5,
    "ytick.color": QUIET,
    "ytick.labelcolor": INK,
    "ytick.labelsize": 9.5,
}

Number = int | float

_Data = ParamSpec("_Data")

_SVG, _XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
_FONTS = "system-ui, 'Segoe UI', Roboto, 'Helvetica Neue', 'Liberation Sans', Arial, sans-serif"


@dataclass(frozen=True)
class Drawn:
    """A figure as it leaves, as two files."""

    svg: bytes
    png: bytes


def clean(text: str, at_most: int = 200) -> str:
    """``text`` without what XML cannot say, in one line, shortened in the middle."""
    shown = re.sub(r"\s+", " ", re.sub(r"[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]", "\ufffd", text))
    shown = re.sub(r"[\x7f-\x9f\ufdd0-\ufdef\u202a-\u202e\u2066-\u2069]", "\ufffd", shown)  # nor what turns a line over
    half = (at_most - 1) // 2
    return shown if len(shown) <= at_most else f"{shown[:half]}…{shown[-half:]}"


def paint(at: int) -> tuple[str, str]:
    """Colour and marker of the label with this number."""
    return COLOURS[at % len(COLOURS)], MARKERS[at % len(MARKERS)]


def _styled(draw: Callable[_Data, Drawn]) -> Callable[_Data, Drawn]:
    """Matplotlib looks its style up at every call, not only where a figure begins."""

    @wraps(draw)
    def in_style(*data: _Data.args, **named: _Data.kwargs) -> Drawn:
        with mpl.rc_context(_STYLE), warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Glyph .* missing")  # the reader's own fonts may have it
            return draw(*data, **named)

    return in_style


# One figure each


@_styled
def score(curves: Curves) -> Drawn:
    """Score against trained length: seeds as faint lines, the median thick, its interval as a band."""
    rows = len(curves.lines) if any(point.of for line in curves.lines for point in line.points) else 0
    figure, ((axes,),) = _figure(WIDTH, 300 + 15 * rows)
    lengths = sorted({point.x for line in curves.lines for point in line.points})
    many = sum(len(line.seeds) for line in curves.lines) > 60
    for place, line in enumerate(curves.lines):
        colour, marker = paint(line.colour)
        beside = _beside(axes, place, len(curves.lines))
        xs = [point.x for point in line.points]
        low, high, median = (_finite([getattr(p, name) for p in line.points]) for name in ("low", "high", "median"))
        if len(xs) > 1:
            _faint(axes, line.seeds.values(), colour, alpha=0.12 if many else 0.35, transform=beside)
            axes.fill_between(xs, low, high, color=colour, alpha=0.15, lw=0, transform=beside)
        else:
            _dots(axes, [at for seed in line.seeds.values() for at in seed], colour, alpha=0.35, transform=beside)
            axes.plot(xs * 2, [*low, *high], color=colour, lw=5, alpha=0.2, transform=beside)
        axes.plot(xs, median, color=colour, marker=marker, ms=5.5, lw=2.2, clip_on=False, transform=beside)
    _lengths(axes, lengths)
    _scores(axes, curves.measure, [value for line in curves.lines for p in line.points for value in (p.low, p.high)])
    axes.set_ylabel(clean(curves.measure.name, 40))
    if rows:
        _counts(axes, curves, lengths)
        axes.set_xlabel("trained length (timesteps)", labelpad=15 * rows + 8)
    else:
        axes.set_xlabel("trained length (timesteps)")
    _legend(figure, [(line.label, line.colour) for line in curves.lines])
    return _leave(figure)


@_styled
def generalisation(panels: Sequence[tuple[str, Curves]]) -> Drawn:
    """Score against tested length: a panel for each label, a line for each trained length."""
    columns = 2 if len(panels) in (1, 2, 4) else 3
    rows = -(-len(panels) // columns)
    figure, grid = _figure(WIDE, 205 * rows + 30, rows=rows, columns=columns)
    flat = [axes for row in grid for axes in row]
    trained = sorted({line.trained for _, curves in panels for line in curves.lines if line.trained is not None})
    every = [value for _, curves in panels for line in curves.lines for p in line.points for value in (p.low, p.high)]
    for axes, (label, curves) in zip(flat, panels, strict=False):
        for line in curves.lines:
            shade = _shade(trained.index(line.trained), len(trained)) if line.trained in trained else INK
            xs = [point.x for point in line.points]
            low, high, median = (_finite([getattr(p, name) for p in line.points]) for name in ("low", "high", "median"))
            _faint(axes, line.seeds.values(), shade, alpha=0.25)
            axes.fill_between(xs, low, high, color=shade, alpha=0.15, lw=0)
            axes.plot(xs, median, color=shade, lw=1.8, marker=".", ms=5)
            here = [point for point in line.points if point.x == line.trained]
            if here:
                axes.plot(
                    [here[0].x], [here[0].median], "o", ms=8, mfc=PAPER, mec=shade, mew=2, clip_on=False, zorder=4
                )
        _lengths(axes, sorted({point.x for line in curves.lines for point in line.points}), room=0.16)
        _scores(axes, curves.measure, every)
        axes.set_title(clean(label, 40))
        axes.set_xlabel("tested length")
    for row in grid:
        row[0].set_ylabel(clean(panels[0][1].measure.name, 40))
    for axes in flat[len(panels) :]:
        axes.set_axis_off()
    _shade_legend(figure, trained, "trained at")
    return _leave(figure)


@_styled
def steps(data: Steps) -> Drawn:
    """Steps until solved against trained length, both logarithmic; the unsolved as open markers at the budget."""
    figure, ((axes,),) = _figure(WIDTH, 310)
    axes.set_yscale("log")
    lengths = sorted({x for line in data.lines for x, _, _ in line.points})
    for place, line in enumerate(data.lines):
        colour, marker = paint(line.colour)
        beside = _beside(axes, place, len(data.lines))
        solved = [(x, y) for x, y, ok in line.points if ok]
        unsolved = [(x, y) for x, y, ok in line.points if not ok]
        _dots(axes, solved, colour, alpha=0.55, marker=marker, transform=beside)
        _dots(axes, unsolved, colour, alpha=0.9, marker=marker, hollow=True, transform=beside)
        if line.median:
            xs, ys = zip(*line.median, strict=True)
            axes.plot(xs, ys, color=colour, lw=2.2, transform=beside)
    _lengths(axes, lengths)
    values = [y for line in data.lines for _, y, _ in line.points]
    _decades(axes, values)
    axes.set_ylabel("training steps until solved")
    axes.set_xlabel("trained length (timesteps)")
    _legend(figure, [(line.label, line.colour) for line in data.lines], unsolved=data.any_unsolved)
    return _leave(figure)


@_styled
def profiles(data: Profiles, reach: tuple[Number, Number]) -> Drawn:
    """log10 of the gradient norm against timesteps back from the answer: a panel for each stage of the training.

    Args:
        reach: the ends of the axis, in log10, the same for every cell of a task.
    """
    figure, grid = _figure(WIDE, 250, columns=len(data.stages), share=True)
    lengths = sorted({line.trained for stage in data.stages for line in stage.lines})
    for axes, stage in zip(grid[0], data.stages, strict=True):
        for line in stage.lines:
            shade = _shade(lengths.index(line.trained), len(lengths))
            _faint(axes, [list(enumerate(seed)) for seed in line.seeds], shade, alpha=0.35)
            axes.plot(np.arange(len(line.median)), line.median, color=shade, lw=2)
        axes.axhline(-3, color=QUIET, lw=0.8, ls=(0, (1, 2)))
        axes.set_title(stage.title)
        axes.set_xlabel("timesteps back")
        axes.set_xlim(left=0)
        axes.xaxis.get_major_locator().set_params(integer=True)
        axes.yaxis.set_major_formatter(FuncFormatter(_power))
        axes.yaxis.get_major_locator().set_params(integer=True)
        axes.set_ylim(*reach)
        axes.yaxis.set_tick_params(labelleft=True)
    grid[0][0].set_ylabel("gradient, relative to the answer")
    _shade_legend(figure, lengths, f"{clean(data.label, 40)}, length")
    return _leave(figure)


@_styled
def decays(data: Decays) -> Drawn:
    """Half-life and horizon of every seed, before the training and after it."""
    figure, grid = _figure(WIDE, 290, columns=2)
    lengths = sorted({x for line in data.lines for x, _, _, _ in line.half_life + line.horizon})
    for axes, title, name in zip(grid[0], ("half-life", "horizon"), ("half_life", "horizon"), strict=True):
        finite = [y for line in data.lines for _, _, _, y in getattr(line, name) if isfinite(y) and y > 0]
        ceiling = 2.2 * max(finite, default=1.0)
        axes.set_yscale("log")
        infinite = False
        for place, line in enumerate(data.lines):
            colour, marker = paint(line.colour)
            for when, hollow in (("start", True), ("end", False)):
                shift = (place - (len(data.lines) - 1) / 2) * 0.06 + (-0.012 if hollow else 0.012)
                points = [(x * (1 + shift), y) for x, stage, _, y in getattr(line, name) if stage == when]
                inf = [(x, ceiling) for x, y in points if y == float("inf")]
                infinite = infinite or bool(inf)
                finite_points = [(x, y) for x, y in points if isfinite(y) and y > 0]
                _dots(axes, finite_points + inf, colour, alpha=0.8, marker=marker, hollow=hollow, size=4.5)
        _lengths(axes, lengths, room=0.12)
        _decades(axes, [*finite, ceiling] if infinite else finite, infinite=ceiling if infinite else None)
        axes.set_title(title)
        axes.set_xlabel("trained length (timesteps)")
        axes.set_ylabel("timesteps")
    _legend(figure, [(line.label, line.colour) for line in data.lines], stages=True)
    return _leave(figure)


@_styled
def maps(data: Maps) -> Drawn:
    """The gradient at every timestep over the training, one panel for each length."""
    figure, grid = _figure(WIDE, 220, columns=max(2, len(data.panels)))
    picture = None
    for axes, panel in zip(grid[0], data.panels, strict=False):
        axes.grid(visible=False)
        rows, timesteps = panel.log10.shape
        picture = axes.imshow(
            np.ma.masked_invalid(panel.log10),
            aspect="auto",
            cmap=mpl.colormaps["inferno"].with_extremes(bad="#96a0ac"),
            vmin=BOTTOM,
            vmax=TOP,
            interpolation="nearest",
            extent=(-0.5, timesteps - 0.5, rows - 0.5, -0.5),
        )
        axes.set_title(f"length {panel.trained}, seed {panel.seed}", fontsize=9.5)
        axes.set_xlabel("timestep")
        axes.xaxis.get_major_locator().set_params(integer=True, nbins=4)
        some = np.unique(np.linspace(0, rows - 1, min(rows, 5)).round().astype(int))
        axes.set_yticks(some, [f"{panel.steps[at]:,}" for at in some])
    for axes in grid[0][len(data.panels) :]:
        axes.set_axis_off()
    grid[0][0].set_ylabel("training step")
    if picture is not None:
        bar = figure.colorbar(picture, ax=list(grid[0]), pad=0.01, aspect=25)
        bar.ax.yaxis.set_major_formatter(FuncFormatter(_power))
        bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    figure.suptitle(clean(data.label, 60), x=0.01, ha="left", fontsize=10.5)
    return _leave(figure)


@_styled
def strip(data: Strip) -> Drawn:
    """Every seed's score at one length, label by label, with the median."""
    figure, ((axes,),) = _figure(WIDTH, 70 + 34 * len(data.rows))
    for at, row in enumerate(data.rows):
        colour, marker = paint(row.colour)
        _dots(axes, list(zip(row.values, _stacked(row.values, at), strict=True)), colour, alpha=0.6, marker=marker)
        if isfinite(row.median):
            axes.plot([row.median] * 2, [at - 0.38, at + 0.38], color=INK, lw=1.6, zorder=4)
        if data.measure.goal is not None:
            axes.annotate(
                f"{row.solved}/{row.of}", (1, at), (8, 0), xycoords=("axes fraction", "data"),
                textcoords="offset points", ha="left", va="center", fontsize=9, color=colour,
            )  # fmt: skip
    axes.set_ylim(len(data.rows) - 0.5, -0.5)
    axes.yaxis.set_major_locator(FixedLocator(range(len(data.rows))))
    axes.set_yticklabels([clean(row.label, 28) for row in data.rows])
    axes.grid(visible=False, axis="y")
    _scores(axes, data.measure, [value for row in data.rows for value in row.values], upright=False)
    axes.set_xlabel(f"{clean(data.measure.name, 40)} at length {data.length}")
    return _leave(figure)


# Parts of figures


def _figure(
    width: Number, height: Number, *, rows: int = 1, columns: int = 1, share: bool = False
) -> tuple[Figure, Any]:
    figure = Figure(figsize=(width / 72, height / 72), layout="constrained")
    return figure, figure.subplots(rows, columns, squeeze=False, sharey=share)


def _beside(axes: Axes, place: int, of: int) -> Transform:
    """Where one of several lines is drawn: a little beside the others, or equal scores would hide each other."""
    aside = place - (of - 1) / 2
    return offset_copy(axes.transData, axes.figure, x=2.5 * aside, y=-1.4 * aside, units="points")  # pyright: ignore[reportArgumentType]


def _finite(values: Sequence[Number]) -> list[Number]:
    """What a run that diverged has is not drawn."""
    return [value if isfinite(value) else float("nan") for value in values]


def _faint(axes: Axes, seeds: Any, colour: str, *, alpha: Number, transform: Transform | None = None) -> None:
    """All in one path, which keeps a page with thousands of runs small."""
    xs: list[Number] = []
    ys: list[Number] = []
    for seed in seeds:
        xs += [*(x for x, _ in seed), float("nan")]
        ys += [*_finite([y for _, y in seed]), float("nan")]
    if xs:
        axes.plot(xs, ys, color=colour, lw=0.8, alpha=alpha, transform=transform or axes.transData)


def _dots(
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
    points = [point for point in points if isfinite(point[1])]
    if points:
        xs, ys = zip(*points, strict=True)
        face = PAPER if hollow else colour
        edge = 1.2 if hollow else 0
        axes.plot(
            xs, ys, marker, ms=size, mfc=face, mec=colour, mew=edge, alpha=alpha, clip_on=False, zorder=3,
            transform=transform or axes.transData, rasterized=len(points) > AS_PIXELS,
        )  # fmt: skip


def _stacked(values: Sequence[Number], centre: Number) -> list[Number]:
    """Where each point of a strip stands: points that would lie on each other stand above each other."""
    order = np.argsort(values, kind="stable")
    span = (max(values) - min(values)) / 60 or 1e-9
    places = np.zeros(len(values))
    bin_start, height = -np.inf, 0
    for at in order:
        if values[at] - bin_start > span:
            bin_start, height = values[at], 0
        places[at] = height
        height += 1
    most = max(places.max(), 5)
    return list(centre + 0.3 - 0.6 * places / most)


def _lengths(axes: Axes, lengths: Sequence[Number], *, room: Number = 0.07) -> None:
    """A logarithmic axis whose ticks are the lengths there are, as many as have room."""
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
    """Those that stand apart by at least ``room`` of a logarithmic axis; always the first and the last."""
    if len(lengths) < 2:
        return list(lengths)
    least = room * log10(lengths[-1] / lengths[0])
    kept = [lengths[0]]
    for length in lengths[1:-1]:
        if log10(length / kept[-1]) >= least and log10(lengths[-1] / length) >= least:
            kept.append(length)
    return [*kept, lengths[-1]]


def _scores(axes: Axes, measure: Measure, values: Sequence[Number], *, upright: bool = True) -> None:
    """The axis of a score: percent from 0 to 100, or what the metric needs, with chance and goal as lines."""
    line, axis = (axes.axhline, axes.yaxis) if upright else (axes.axvline, axes.xaxis)
    limits, scale = (axes.set_ylim, axes.set_yscale) if upright else (axes.set_xlim, axes.set_xscale)
    if measure.share:
        limits(-0.02, 1.02)
        axis.set_major_locator(FixedLocator([0, 0.25, 0.5, 0.75, 1]))
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{100 * value:g} %"))
    else:
        marks = [mark for mark in (measure.chance, measure.goal) if mark is not None and isfinite(mark)]
        finite = [value for value in (*values, *marks) if isfinite(value)]
        if finite and min(finite) > 0 and max(finite) > 20 * min(finite):
            scale("log")
            _decades(axes, finite, upright=upright)
        else:
            axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}".replace("-", "−")))
            low, high = min(finite, default=0.0), max(finite, default=1.0)
            aside = 0.06 * (high - low) or 0.1 * abs(high) or 1.0
            limits(low - aside, high + aside)
    for mark, name, dashes in ((measure.chance, "chance", (0, (4, 3))), (measure.goal, "solved", (0, (1, 2)))):
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


def _decades(axes: Axes, values: Sequence[Number], *, upright: bool = True, infinite: Number | None = None) -> None:
    """A logarithmic axis with plain numbers: at 1, 2 and 5 times a power of ten, or at fewer where it is long."""
    low, high = min(values, default=1.0), max(values, default=1.0)
    first, last = int(np.floor(log10(low))) - 1, int(np.ceil(log10(high))) + 1
    factors = (1, 2, 5) if log10(high / low) < 2.2 else (1, 3) if log10(high / low) < 3.2 else (1,)
    every = max(1, (last - first) // 8)
    ticks = [factor * 10.0**power for power in range(first, last, every) for factor in factors]
    below = infinite / 1.3 if infinite is not None else float("inf")
    ticks = [tick for tick in ticks if low / 1.35 <= tick <= high * 1.35 and tick < below]
    axis = axes.yaxis if upright else axes.xaxis
    axis.set_major_locator(FixedLocator([*ticks, infinite] if infinite is not None else ticks))
    axis.set_minor_locator(NullLocator())
    axis.set_major_formatter(FuncFormatter(lambda value, _: "∞" if value == infinite else _plain(value)))
    (axes.set_ylim if upright else axes.set_xlim)(low / 1.35, high * 1.35)


def _plain(value: Number) -> str:
    return f"{value:,.0f}" if value >= 10 else f"{value:g}" if value >= 1e-3 else f"10{_raised(round(log10(value)))}"


def _power(value: Number, _: object = None) -> str:
    return "1" if value == 0 else f"10{_raised(int(value))}" if value == int(value) else ""


def _raised(number: int) -> str:
    return str(number).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))


def _shade(at: int, of: int) -> str:
    return SHADES[round(at * (len(SHADES) - 1) / (of - 1))] if of > 1 else SHADES[2]


def _counts(axes: Axes, curves: Curves, lengths: Sequence[Number]) -> None:
    """Solved k of n below the axis, a row for each label."""
    shown = set(spread(lengths, 0.09))
    for row, line in enumerate(curves.lines):
        down = -30 - 15 * row
        colour, _ = paint(line.colour)
        for point in line.points:
            if point.x in shown and point.of:
                axes.annotate(
                    f"{point.solved}/{point.of}", (point.x, 0), (0, down), xycoords=("data", "axes fraction"),
                    textcoords="offset points", ha="center", va="center", fontsize=9, color=colour,
                )  # fmt: skip
    axes.annotate(
        "solved", (0, 0), (-8, -30), xycoords="axes fraction", textcoords="offset points", ha="right", va="center",
        fontsize=9, color=QUIET,
    )  # fmt: skip


def _legend(figure: Figure, labels: Sequence[tuple[str, int]], *, unsolved: bool = False, stages: bool = False) -> None:
    handles, texts = [], []
    for label, at in labels:
        colour, marker = paint(at)
        handles.append(Line2D([], [], color=colour, marker=marker, ms=5.5, lw=0 if stages else 2.2))
        texts.append(clean(label, 34))
    extra = [(True, "not solved, at the budget")] if unsolved else []
    extra += [(True, "before training"), (False, "after")] if stages else []
    for hollow, text in extra:
        handles.append(Line2D([], [], color=QUIET, marker="o", ms=5.5, mfc=PAPER if hollow else QUIET, lw=0))
        texts.append(text)
    _put_legend(figure, handles, texts)


def _shade_legend(figure: Figure, lengths: Sequence[int], title: str) -> None:
    shown = [
        lengths[at] for at in np.unique(np.linspace(0, len(lengths) - 1, min(7, len(lengths))).round().astype(int))
    ]
    handles: list[Line2D] = [Line2D([], [], lw=0)]
    handles += [Line2D([], [], color=_shade(lengths.index(length), len(lengths)), lw=2.5) for length in shown]
    _put_legend(figure, handles, [title, *map(str, shown)])


def _put_legend(figure: Figure, handles: list[Line2D], texts: Sequence[str]) -> None:
    """Above the figure. A label that begins with "_" would be left out, so the words are set afterwards."""
    widest = max(map(len, texts), default=1)
    columns = max(1, min(len(handles), int(figure.get_figwidth() * 72 / (6.2 * widest + 34))))
    if widest > 12 and all(len(text) < 7 for text in texts[1:]):  # a title and short numbers
        columns = len(handles)
    legend = figure.legend(
        handles, ["-"] * len(handles), loc="outside upper left", ncols=columns, handlelength=1.6, columnspacing=1.2,
        handletextpad=0.5, borderaxespad=0,
    )  # fmt: skip
    for text, said in zip(legend.get_texts(), texts, strict=True):
        text.set_text(said)


# How a figure leaves


def _leave(figure: Figure) -> Drawn:
    """``Figure.savefig`` would draw everything twice for each format."""
    canvas, picture, markup = FigureCanvasAgg(figure), BytesIO(), StringIO()
    figure.set_dpi(144)
    canvas.draw()
    Image.fromarray(np.asarray(canvas.buffer_rgba())[..., :3]).save(picture, "png")
    figure.set_layout_engine("none")  # what was laid out is
    FigureCanvasSVG(figure).print_svg(markup, metadata={"Date": None, "Creator": None, "Format": None, "Type": None})
    return Drawn(markup.getvalue().encode(), picture.getvalue())


def for_page(svg: bytes, name: str, alt: str) -> str:
    """The same figure as a part of a page: with the page's colours and letters, and with names that no other has."""
    ET.register_namespace("", _SVG)
    root = ET.fromstring(svg)
    for parent in root.iter():
        for child in [child for child in parent if child.tag == f"{{{_SVG}}}metadata"]:
            parent.remove(child)
    used = {
        found
        for element in root.iter()
        for value in element.attrib.values()
        for found in re.findall(r"#([\w-]+)\)?", value)
    }
    for element in root.iter():
        element.tail = None if element.tail is None or not element.tail.strip() else element.tail
        known = element.attrib.pop("id", None)
        if known is not None and known in used:
            element.set("id", f"{name}-{known}")
        link = element.attrib.pop(f"{{{_XLINK}}}href", None)
        if link is not None:
            element.set("href", f"#{name}-{link[1:]}" if link.startswith("#") else link)
        if clip := element.get("clip-path"):
            element.set("clip-path", clip.replace("url(#", f"url(#{name}-"))
        if style := element.get("style"):
            style = re.sub(r"#[0-9a-f]{6}", lambda hit: _variable(hit[0]), style)
            element.set("style", re.sub(r"'DejaVu Sans'(, [^;]*)?", "var(--sans)", style))
    root.attrib = {"viewBox": root.get("viewBox", ""), "role": "img", "aria-label": alt}
    return ET.tostring(root, encoding="unicode")


def _variable(colour: str) -> str:
    return f"var({VARIABLES[colour]})" if colour in VARIABLES else colour
