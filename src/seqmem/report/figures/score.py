"""Score against trained length: seeds as faint lines, the median thick, its interval as a band."""

from collections.abc import Iterator, Sequence
from functools import partial

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from ..collect import Group
from ..statistics import rule_text
from ..wording import clean, score_words
from .axes import Number, length_axis, new_figure, score_axis, spread
from .base import Plot, TaskRuns
from .curves import Curves, Line, diverged_text, levels_text, measure, point
from .marks import band_ends, beside, crosses, dots, faint, finite, legend
from .style import LABELS_AT_MOST, QUIET, WIDTH, paint


def plots(task: TaskRuns) -> Iterator[Plot]:
    for some in task.coloured(task.groups, LABELS_AT_MOST):
        curves = collect(some, task.threshold)
        rule = rule_text(some[0][1].first, task.threshold)
        level = f" ({sure})" if (sure := levels_text(curves)) else ""
        several = any(len(group.lengths) > 1 for _, group in some)
        caption = (
            "Score against the length it was trained on. Thick: the median over seeds; faint: every seed; "
            f"band: the exact interval of the median{level}. Lines stand a hair apart, so that equal ones show."
            if several
            else f"Score at the one length trained on: every run, their median, and its exact interval{level}."
        )
        caption += diverged_text(curves)
        caption += f" Below the axis: how many seeds solve it ({rule})." if rule else ""
        alt = f"Median score by trained length on {clean(task.name, 60)}. " + " ".join(
            f"{clean(line.label, 40)}: "
            + ", ".join(
                f"{score_words(curves.measure.metric, p.median)} at {p.x}"
                + (f", where {p.diverged} of {p.seeds} diverged" if p.diverged else "")
                for p in line.points[:12]
            )
            + "."
            for line in curves.lines
        )
        yield Plot("score by length", partial(draw, curves), caption, alt)


def collect(groups: Sequence[tuple[int, Group]], threshold: float | None) -> Curves:
    """A line for each group. ``groups``: with the numbers of their colours."""
    lines = []
    for colour, group in groups:
        points = [point(length, group.at(length), threshold) for length in group.lengths]
        seeds: dict[int, list[tuple[int, float]]] = {}
        for length in group.lengths:
            for run in group.at(length):
                seeds.setdefault(run.seed, []).append((length, run.score))
        lines.append(Line(group.label, colour, points, seeds))
    lengths = [p.x for line in lines for p in line.points]
    return Curves(measure([group for _, group in groups], threshold, lengths), lines)


def draw(curves: Curves) -> Figure:
    rows = len(curves.lines) if any(p.of for p in curves.points) else 0
    figure, ((axes,),) = new_figure(WIDTH, 300 + 15 * rows)
    draw_panel(axes, curves)
    if rows:
        _solved_counts(axes, curves, sorted({p.x for p in curves.points}))
        axes.set_xlabel("trained length (timesteps)", labelpad=15 * rows + 8)
    else:
        axes.set_xlabel("trained length (timesteps)")
    legend(figure, [(line.label, line.colour) for line in curves.lines])
    return figure


def draw_panel(axes: Axes, curves: Curves, *, room: Number = 0.07) -> None:
    """The curves and both axes. ``room``: as for ``length_axis``."""
    many = sum(len(line.seeds) for line in curves.lines) > 60
    every = [value for p in curves.points for value in (p.low, p.high)]
    worst = 0.0 if curves.measure.metric.higher_is_better else 1.0
    for place, line in enumerate(curves.lines):
        colour, marker = paint(line.colour)
        shifted = beside(axes, place, len(curves.lines))
        xs = [p.x for p in line.points]
        low, high = (band_ends([getattr(p, name) for p in line.points], every) for name in ("low", "high"))
        median = finite([p.median for p in line.points])
        fallen = [p.x for p in line.points if p.diverged]
        edge = beside(axes, place, len(curves.lines), data=axes.get_xaxis_transform())
        crosses(axes, fallen, [worst] * len(fallen), colour, edge)
        if len(xs) > 1:
            faint(axes, line.seeds.values(), colour, alpha=0.12 if many else 0.35, transform=shifted)
            axes.fill_between(xs, low, high, color=colour, alpha=0.15, lw=0, transform=shifted)
        else:
            dots(axes, [at for seed in line.seeds.values() for at in seed], colour, alpha=0.35, transform=shifted)
            axes.plot(xs * 2, [*low, *high], color=colour, lw=5, alpha=0.2, transform=shifted)
        axes.plot(xs, median, color=colour, marker=marker, ms=5.5, lw=2.2, clip_on=False, transform=shifted)
    length_axis(axes, sorted({p.x for p in curves.points}), room=room)
    score_axis(axes, curves.measure, every)
    axes.set_ylabel(clean(curves.measure.metric.name, 40))


def _solved_counts(axes: Axes, curves: Curves, lengths: Sequence[Number]) -> None:
    """Solved k of n below the axis, a row for each label."""
    shown = set(spread(lengths, 0.09))
    for row, line in enumerate(curves.lines):
        down = -30 - 15 * row
        colour, _ = paint(line.colour)
        for p in line.points:
            if p.x in shown and p.of:
                axes.annotate(
                    f"{p.solved}/{p.of}", (p.x, 0), (0, down), xycoords=("data", "axes fraction"),
                    textcoords="offset points", ha="center", va="center", fontsize=9, color=colour,
                )  # fmt: skip
    axes.annotate(
        "solved", (0, 0), (-8, -30), xycoords="axes fraction", textcoords="offset points", ha="right", va="center",
        fontsize=9, color=QUIET,
    )  # fmt: skip
