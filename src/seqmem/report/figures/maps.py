"""The gradient at every timestep over the training, one panel for each length.

Axes: T timesteps, R rows: traces in one map.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter

from ...decay import FAINTEST, STRONGEST
from ..collect import Group, Run
from ..statistics import badly
from ..wording import clean, listing
from .axes import new_figure, power_of_ten
from .base import Plot, TaskRuns, Traces, evenly
from .style import WIDE

MOST_LABELS, MOST_LENGTHS = 4, 4
"""Labels of a task whose maps are drawn, and lengths of one label."""

MOST_ROWS = 60
"""Traces in one map: evenly spaced ones, the first and the last among them."""


@dataclass(frozen=True, eq=False)
class Panel:
    """``log10`` [R T-1] up to one step back from the answer and relative to that, timesteps in reading order; ``steps``
    [R]. ``diverged``: so the training ended."""

    trained: int
    seed: int
    diverged: bool
    log10: np.ndarray
    steps: list[int]


def plots(task: TaskRuns) -> Iterator[Plot]:
    for group in task.groups[:MOST_LABELS]:
        panels = collect(task.traces, group, evenly(group.lengths, MOST_LENGTHS))
        if not panels:
            continue
        label = clean(group.label, 60)
        caption = (
            f"{label}: the gradient at every timestep (left to right) over the training (top to "
            "bottom), of the seed with the median score; one step back from the answer is at the right. Bright: as "
            "much as there. Dark: a hundred-millionth, or less. Grey: too little for float64."
        )
        alt = f"Heat maps of {label} at length {listing([str(panel.trained) for panel in panels])}."
        yield Plot(f"gradient over training {label}", partial(draw, group.label, panels), caption, alt, wide=True)


def collect(traces: Traces, group: Group, lengths: Sequence[int]) -> list[Panel]:
    """A panel for each length whose median run (``median_run``) has three traces or more."""
    panels = []
    for length in lengths:
        run = median_run(group.at(length))
        traced = traces.read(run, ends=False)
        if traced is None or len(traced.step) < 3 or not traced.relative.shape[1]:
            continue
        count = len(traced.step)
        rows = np.unique(np.linspace(0, count - 1, min(MOST_ROWS, count)).round().astype(int))
        steps = [int(step) for step in traced.step[rows]]
        panels.append(Panel(length, run.seed, run.diverged, traced.relative[rows][:, ::-1], steps))
    return panels


def median_run(runs: Sequence[Run]) -> Run:
    """The run whose score is the median, of an even number the lower one; one that diverged is worst, ties go by
    seed."""
    scores = badly([run.score for run in runs], higher_is_better=runs[0].higher_is_better)
    ordered = [run for _, run in sorted(zip(scores, runs, strict=True), key=lambda pair: (pair[0], pair[1].seed))]
    return ordered[(len(ordered) - 1) // 2]


def draw(label: str, panels: Sequence[Panel]) -> Figure:
    figure, grid = new_figure(WIDE, 220, columns=max(2, len(panels)))
    picture = None
    for axes, panel in zip(grid[0], panels, strict=False):
        axes.grid(visible=False)
        rows, timesteps = panel.log10.shape
        picture = axes.imshow(
            np.ma.masked_invalid(panel.log10),
            aspect="auto",
            cmap=mpl.colormaps["inferno"].with_extremes(bad="#96a0ac"),
            vmin=FAINTEST,
            vmax=STRONGEST,
            interpolation="nearest",
            extent=(-0.5, timesteps - 0.5, rows - 0.5, -0.5),
        )
        ended = ", diverged" if panel.diverged else ""
        axes.set_title(f"length {panel.trained}, seed {panel.seed}{ended}", fontsize=9.5)
        axes.set_xlabel("timestep")
        axes.xaxis.get_major_locator().set_params(integer=True, nbins=4)
        some = np.unique(np.linspace(0, rows - 1, min(rows, 5)).round().astype(int))
        axes.set_yticks(some, [f"{panel.steps[at]:,}" for at in some])
    for axes in grid[0][len(panels) :]:
        axes.set_axis_off()
    grid[0][0].set_ylabel("training step")
    if picture is not None:
        bar = figure.colorbar(picture, ax=list(grid[0]), pad=0.01, aspect=25)
        bar.ax.yaxis.set_major_formatter(FuncFormatter(power_of_ten))
        bar.outline.set_visible(False)  # pyright: ignore[reportCallIssue]
    figure.suptitle(clean(label, 60), x=0.01, ha="left", fontsize=10.5)
    return figure
