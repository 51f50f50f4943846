"""Half-life and horizon of every seed, before the training and after it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import isfinite, isnan

from matplotlib.figure import Figure
from matplotlib.transforms import offset_copy

from ..collect import Group
from .axes import decades, length_axis, new_figure
from .base import Plot, TaskRuns
from .marks import dots, legend
from .style import LABELS_AT_MOST, WIDE, paint


@dataclass(frozen=True)
class DecayLine:
    """``half_life`` and ``horizon``: (length, "start" or "end", seed, timesteps); inf where it keeps its size or grows,
    or nowhere falls to a thousandth. A seed whose curve no straight line describes has no half-life."""

    label: str
    colour: int
    half_life: list[tuple[int, str, int, float]]
    horizon: list[tuple[int, str, int, float]]


def plots(task: TaskRuns) -> Iterator[Plot]:
    for some in task.coloured(task.groups, LABELS_AT_MOST):
        lines = collect(some)
        if not lines:
            continue
        caption = (
            "Half-life and horizon of the gradient by trained length, every seed: open before training, filled "
            "after. ∞: it keeps its size or grows, or falls nowhere in the sequence to a thousandth. A seed whose "
            "gradient no straight line describes has no half-life."
        )
        alt = "Half-life and horizon by trained length; the medians are in the table above."
        yield Plot("half-life and horizon", partial(draw, lines), caption, alt, wide=True)


def collect(groups: Sequence[tuple[int, Group]]) -> list[DecayLine]:
    """A line for each group that was traced."""
    lines = []
    for colour, group in groups:
        points: dict[str, list[tuple[int, str, int, float]]] = {"half_life": [], "horizon": []}
        for length in group.lengths:
            for run in group.at(length):
                for when in ("start", "end"):
                    for name, own in points.items():
                        if not isnan(value := run.number("gradient", name, when)):
                            own.append((length, when, run.seed, value))
        if points["half_life"] or points["horizon"]:
            lines.append(DecayLine(group.label, colour, points["half_life"], points["horizon"]))
    return lines


def draw(lines: Sequence[DecayLine]) -> Figure:
    figure, grid = new_figure(WIDE, 290, columns=2)
    lengths = sorted({x for line in lines for x, _, _, _ in line.half_life + line.horizon})
    for axes, title, name in zip(grid[0], ("half-life", "horizon"), ("half_life", "horizon"), strict=True):
        finite = [y for line in lines for _, _, _, y in getattr(line, name) if isfinite(y) and y > 0]
        ceiling = 2.2 * max(finite, default=1.0)
        axes.set_yscale("log")
        any_infinite = False
        for place, line in enumerate(lines):
            colour, marker = paint(line.colour)
            for when, hollow in (("start", True), ("end", False)):
                # In points: a share of the length would reach other lengths where those are close together.
                aside = 5 * (place - (len(lines) - 1) / 2) + (-1.2 if hollow else 1.2)
                shifted = offset_copy(axes.transData, figure, x=aside, units="points")
                points = [(x, y) for x, stage, _, y in getattr(line, name) if stage == when]
                infinite = [(x, ceiling) for x, y in points if y == float("inf")]
                any_infinite = any_infinite or bool(infinite)
                finite_points = [(x, y) for x, y in points if isfinite(y) and y > 0]
                every = finite_points + infinite
                dots(axes, every, colour, alpha=0.8, marker=marker, hollow=hollow, size=4.5, transform=shifted)
        length_axis(axes, lengths, room=0.12)
        decades(axes, [*finite, ceiling] if any_infinite else finite, infinite=ceiling if any_infinite else None)
        axes.set_title(title)
        axes.set_xlabel("trained length (timesteps)")
        axes.set_ylabel("timesteps")
    legend(figure, [(line.label, line.colour) for line in lines], stages=True)
    return figure
