"""log10 of the gradient norm against timesteps back from the answer: a panel for each stage of the training.

Axes: K timesteps back from the answer.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from ...decay import DESCRIPTION, in_words, states
from ...measurement import share_in_words
from ..collect import Group, Run
from ..collect import Profiles as Traced
from ..statistics import median_interval
from ..wording import clean, listing
from . import maps
from .axes import Number, new_figure, power_of_ten
from .base import Plot, TaskRuns, Traces, evenly
from .marks import faint, shade_legend
from .style import QUIET, WIDE, shade

MOST_LABELS, MOST_LENGTHS = 7, 7
"""Labels of a task whose profiles are drawn, and lengths of one label."""

MOST_SHAPES = 6
"""Shapes that a caption describes."""

LOWEST, HIGHEST = -12.0, 4.0
"""log10 of the norm relative to one step back: the axis ends here at the latest."""


@dataclass(frozen=True, eq=False)
class ProfileLine:
    """``median`` [K] over the seeds, and each of ``seeds`` [K], from one step back from the answer on and relative to
    that; log10, -inf and NaN as NaN."""

    trained: int
    median: np.ndarray
    seeds: list[np.ndarray]


@dataclass(frozen=True, eq=False)
class Stage:
    title: str
    lines: list[ProfileLine]


@dataclass(frozen=True, eq=False)
class Profiles:
    """``read``: runs whose traces these are, of ``of`` runs that there are, without ``diverged`` others. ``states``:
    what arrives at each state, a sentence that begins with a space; empty where there is one state. ``shapes``: how the
    gradient of every seed changes on its way back, likewise."""

    label: str
    stages: list[Stage]
    read: int
    of: int
    diverged: int
    states: str = ""
    shapes: str = ""


def plots(task: TaskRuns) -> Iterator[Plot]:
    every = [
        profiles
        for group in task.groups[:MOST_LABELS]
        if (profiles := collect(task.traces, group, evenly(group.lengths, MOST_LENGTHS))) is not None
    ]
    ends = reach(every)
    if len(task.groups) > MOST_LABELS:
        task.notes.append(
            f"Gradients are drawn for {MOST_LABELS} of {len(task.groups)} cells, and maps for {maps.MOST_LABELS}; "
            "--task and fewer folders show the others."
        )
    for profiles in every:
        label = clean(profiles.label, 60)
        which = "" if profiles.read == profiles.of else f" Of {profiles.read} of {profiles.of} runs, the lowest seeds."
        which += f" Without {profiles.diverged} that diverged." if profiles.diverged else ""
        caption = (
            f"{label}: gradient by timesteps back from the answer, relative to one step back; "
            f"the median over seeds thick, every seed faint. What ends early has vanished below what float64 "
            f"holds; one that leaves the panel goes on below.{which}{profiles.states}{profiles.shapes}"
        )
        last = profiles.stages[-1]
        alt = f"{label}, {last.title}: " + ", ".join(
            f"10 to the power of {line.median[-1]:.1f} arrives {len(line.median)} timesteps back"
            for line in last.lines
            if len(line.median) and not np.isnan(line.median[-1])
        )
        yield Plot(f"gradient {label}", partial(draw, profiles, ends), caption, alt, wide=True)


def collect(traces: Traces, group: Group, lengths: Sequence[int]) -> Profiles | None:
    """At the start, in the middle and at the end of the training; None: no run of the group was traced."""
    by_length: dict[int, list[Traced]] = {}
    count = 0
    for length in lengths:
        for run in group.scored(length)[: traces.per_cell]:
            traced = traces.read(run, ends=True)
            if traced is not None and len(traced.step) and traced.relative.shape[1]:
                by_length.setdefault(length, []).append(traced)
                count += 1
    if not by_length:
        return None
    whole = any(len(traced.step) > 2 for same in by_length.values() for traced in same)
    titles = ["before training", "halfway", "after training"] if whole else ["before training", "after training"]
    stages = []
    for title in titles:
        lines = []
        for length, same in by_length.items():
            rows = [row for traced in same if (row := _row(traced, title)) is not None]
            if rows:
                seeds = _together(rows)
                lines.append(ProfileLine(length, _median(seeds), list(seeds)))
        if lines:
            stages.append(Stage(title, lines))
    scored = sum(len(group.scored(length)) for length in lengths)
    diverged = sum(len(group.at(length)) for length in lengths) - scored
    longest = group.scored(max(by_length))
    words = states_in_words(longest), shapes_in_words(longest)
    return Profiles(group.label, stages, count, scored, diverged, *words)


def states_in_words(runs: Sequence[Run]) -> str:
    """`` Of each state arrives, at length 50 (median): cell 92 %, hidden 1.4 %.``"""
    shares: dict[str, list[float]] = {}
    for run in runs:
        parts = run.probes.get("gradient", {}).get("end", {})
        for name in states(parts):
            share = parts[name].get("log10_arrives", np.nan)
            if not np.isnan(share):
                shares.setdefault(name, []).append(share)
    if not shares:
        return ""
    words = [f"{clean(name, 40)} {share_in_words(median_interval(some).median)}" for name, some in shares.items()]
    return f" Of each state, what arrives at the first of {runs[0].seq_len} timesteps (median): {listing(words, 6)}."


def shapes_in_words(runs: Sequence[Run]) -> str:
    """`` After training, at 50 timesteps: keeps its size (seeds 0 and 2); grows x1.02 a timestep (seed 1).``"""
    seeds: dict[str, list[str]] = {}
    for run in runs:
        words = in_words(run.probes.get("gradient", {}).get("end", {}).get(DESCRIPTION.main, {}))
        if words:
            seeds.setdefault(words, []).append(str(run.seed))
    if not seeds:
        return ""
    shapes = [f"{words} (seed{'s' * (len(some) > 1)} {listing(some)})" for words, some in seeds.items()]
    more = f"; and {len(shapes) - MOST_SHAPES} other shapes" if len(shapes) > MOST_SHAPES + 1 else ""
    shapes = shapes[: MOST_SHAPES if more else None]
    return f" After training, at {runs[0].seq_len} timesteps: {'; '.join(shapes)}{more}."


def _row(traced: Traced, title: str) -> np.ndarray | None:
    count = len(traced.step)
    if title == "halfway":
        return traced.relative[1] if count > 2 else None
    if title == "after training":
        return traced.relative[-1] if count > 1 else None
    return traced.relative[0]


def _together(rows: Sequence[np.ndarray]) -> np.ndarray:
    """[seeds K]; NaN after the end of a shorter row, and for what has no finite logarithm."""
    filled = np.full((len(rows), max(map(len, rows))), np.nan)
    for row, into in zip(rows, filled, strict=True):
        into[: len(row)] = np.where(np.isfinite(row), row, np.nan)
    return filled


def _median(seeds: np.ndarray) -> np.ndarray:
    """[K]; over the seeds that have a number, where more than half of them have one: the rest vanished."""
    enough = 2 * np.isfinite(seeds).sum(0) > len(seeds)
    median = np.full(seeds.shape[1], np.nan)
    if enough.any():
        median[enough] = np.nanmedian(seeds[:, enough], axis=0)
    return median


def reach(every: Iterable[Profiles]) -> tuple[float, float]:
    """The ends of an axis on which all profiles can be compared: from 1e-4, or less, to 1, or more.

    The medians decide, so that one seed whose gradient explodes squeezes no other.
    """
    return ends_of(line.median for profiles in every for stage in profiles.stages for line in stage.lines)


def ends_of(medians: Iterable[np.ndarray]) -> tuple[float, float]:
    """The same of some medians."""
    finite = np.concatenate([np.zeros(0), *(line[np.isfinite(line)] for line in medians)])
    low, high = (finite.min(), finite.max()) if len(finite) else (0.0, 0.0)
    return float(max(LOWEST, min(-4.0, low))) - 0.3, float(min(HIGHEST, max(0.0, high))) + 0.3


def draw(profiles: Profiles, ends: tuple[Number, Number]) -> Figure:
    """``ends`` of the vertical axis, in log10, the same for every cell of a task."""
    figure, grid = new_figure(WIDE, 250, columns=len(profiles.stages), share=True)
    lengths = sorted({line.trained for stage in profiles.stages for line in stage.lines})
    for axes, stage in zip(grid[0], profiles.stages, strict=True):
        draw_panel(axes, [(line, shade(lengths.index(line.trained), len(lengths))) for line in stage.lines], ends)
        axes.set_title(stage.title)
        axes.yaxis.set_tick_params(labelleft=True)
    grid[0][0].set_ylabel("gradient, relative to one step back")
    shade_legend(figure, lengths, f"{clean(profiles.label, 40)}, length")
    return figure


def draw_panel(axes: Axes, lines: Iterable[tuple[ProfileLine, str]], ends: tuple[Number, Number]) -> None:
    """Lines in their colours, every seed faint. ``ends`` of the vertical axis, in log10."""
    for line, colour in lines:
        faint(axes, [list(enumerate(seed, 1)) for seed in line.seeds], colour, alpha=0.35)
        axes.plot(np.arange(1, len(line.median) + 1), line.median, color=colour, lw=2)
    axes.axhline(-3, color=QUIET, lw=0.8, ls=(0, (1, 2)))
    axes.set_xlabel("timesteps back")
    axes.set_xlim(left=0)
    axes.xaxis.get_major_locator().set_params(integer=True)  # pyright: ignore[reportCallIssue]
    axes.yaxis.set_major_formatter(FuncFormatter(power_of_ten))
    axes.yaxis.get_major_locator().set_params(integer=True)  # pyright: ignore[reportCallIssue]
    axes.set_ylim(*ends)
