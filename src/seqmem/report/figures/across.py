"""Cells over many tasks: the interquartile mean of each with its interval, and the performance profiles."""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from math import isnan

from matplotlib.figure import Figure

from ..across import THRESHOLDS, Across, CellScores
from ..wording import clean, estimate_words
from .axes import new_figure
from .base import Plot
from .marks import legend
from .style import INK, LABELS_AT_MOST, WIDTH, paint

Coloured = Sequence[tuple[int, CellScores]]


def plots(across: Across, colours: Mapping[str, int]) -> Iterator[Plot]:
    """``colours``: label -> the number of its colour."""
    coloured = [(colours[cell.label], cell) for cell in across.cells]
    ends = " Bars: 95 % intervals by the stratified bootstrap." if all(cell.fewest > 1 for cell in across.cells) else ""
    yield Plot(
        "across tasks interquartile mean",
        partial(draw_means, coloured),
        f"The interquartile mean over {len(across.tasks)} tasks: the mean of the middle half of all task-and-seed "
        f"pairs, where 0 is chance and 1 is perfect.{ends}",
        "Interquartile mean by cell. "
        + " ".join(f"{clean(cell.label, 40)}: {estimate_words(cell.interquartile_mean)}." for cell in across.cells),
    )
    by_colour = sorted(coloured, key=lambda pair: pair[0])  # neighbours in it have different colours
    for at in range(0, len(coloured), LABELS_AT_MOST):
        some = by_colour[at : at + LABELS_AT_MOST]
        yield Plot(
            "across tasks profile",
            partial(draw_profiles, some),
            "Performance profiles: the share of task-and-seed pairs whose score is above the threshold. A curve that "
            "is higher everywhere belongs to a cell that is better; the area below it is the mean score."
            + (" Band: its pointwise 95 % interval." if ends else ""),
            "Share of task-and-seed pairs above a half and above 0.9. "
            + " ".join(
                f"{clean(cell.label, 40)}: {100 * cell.share_above(0.5):.0f} % and {100 * cell.share_above(0.9):.0f} %."
                for _, cell in some
            ),
        )


def draw_means(coloured: Coloured) -> Figure:
    figure, ((axes,),) = new_figure(WIDTH, 58 + 22 * len(coloured))
    for row, (number, cell) in enumerate(coloured):
        colour, marker = paint(number)
        mean = cell.interquartile_mean
        if not isnan(mean.low):
            axes.plot([mean.low, mean.high], [row, row], color=colour, lw=6, alpha=0.3, solid_capstyle="butt")
        axes.plot([mean.value], [row], marker, color=colour, ms=7, clip_on=False)
    axes.set_yticks(range(len(coloured)), [clean(cell.label, 34) for _, cell in coloured], color=INK)
    axes.set_ylim(len(coloured) - 0.4, -0.6)
    axes.set_xlim(-0.02, 1.02)
    axes.set_xlabel("interquartile mean (0: chance, 1: perfect)")
    return figure


def draw_profiles(coloured: Coloured) -> Figure:
    figure, ((axes,),) = new_figure(WIDTH, 300)
    for number, cell in coloured:
        colour, _ = paint(number)
        share, low, high = cell.profile
        if cell.fewest > 1:
            axes.fill_between(THRESHOLDS, low, high, color=colour, alpha=0.13, lw=0, step="post")
        axes.step(THRESHOLDS, share, color=colour, lw=2, where="post")
    axes.set_xlim(0, 1)
    axes.set_ylim(-0.02, 1.02)
    axes.set_xlabel("threshold τ (0: chance, 1: perfect)")
    axes.set_ylabel("share of pairs above τ")
    legend(figure, [(cell.label, number) for number, cell in coloured])
    return figure
