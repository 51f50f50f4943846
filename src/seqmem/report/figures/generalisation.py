"""Score against tested length, without further training: a panel for each label, a line for each trained length."""

from collections.abc import Iterator, Sequence
from functools import partial

from matplotlib.figure import Figure

from ..collect import Group
from ..statistics import span_tested
from ..wording import clean, score_words, span_words
from .axes import length_axis, new_figure, score_axis
from .base import Plot, TaskRuns
from .curves import Curves, Line, diverged_text, levels_text, measure, point
from .marks import band_ends, crosses, faint, finite, shade_legend
from .style import INK, PAPER, WIDE, shade

MOST_PANELS = 6
"""Panels in one figure."""


def plots(task: TaskRuns) -> Iterator[Plot]:
    panels = [(group, collect(group, task.threshold)) for group in task.groups]
    panels = [(group, curves) for group, curves in panels if any(len(line.points) > 1 for line in curves.lines)]
    for at in range(0, len(panels), MOST_PANELS):
        some = panels[at : at + MOST_PANELS]
        spans = []
        for group, _ in some:
            for length in group.lengths[-1:]:
                span = span_tested(group, length, task.threshold)
                if span.known:
                    spans.append(f"{clean(group.label, 40)} trained at {length}: {span_words(span)}")
        shown = Curves(some[0][1].measure, [line for _, curves in some for line in curves.lines])
        level = f" ({sure})" if (sure := levels_text(shown)) else ""
        caption = (
            f"Score at lengths it was tested at, without further training: the median over seeds, its interval{level}, "
            "and every seed (faint). The open circle marks the length it was trained on."
            + diverged_text(shown)
            + (f" Solved by more than half of the seeds up to: {'; '.join(spans)}." if spans else "")
        )
        alt = "Median score by tested length. " + " ".join(
            f"{clean(group.label, 40)} trained at {line.trained}: "
            + ", ".join(f"{score_words(curves.measure.metric, p.median)} at {p.x}" for p in line.points[:8])
            + "."
            for group, curves in some
            for line in curves.lines[:4]
        )
        drawing = [(group.label, curves) for group, curves in some]
        yield Plot("generalisation", partial(draw, drawing), caption, alt, wide=True)


def collect(group: Group, threshold: float | None) -> Curves:
    """A line for each trained length, at the lengths that every seed was tested at."""
    lines = [line(group, trained, threshold) for trained in group.lengths]
    lengths = [p.x for line in lines for p in line.points]
    return Curves(measure([group], threshold, lengths), [one for one in lines if one.points])


def line(group: Group, trained: int, threshold: float | None) -> Line:
    """The runs trained at a length, at the lengths that every seed was tested at; without points if there are none."""
    tested = group.tested_lengths(trained)
    seeds = {run.seed: [(length, run.by_length[length]) for length in tested] for run in group.scored(trained)}
    points = [point(length, group.at(trained), threshold, at=length) for length in tested]
    return Line(str(trained), 0, points, seeds, trained)


def draw(panels: Sequence[tuple[str, Curves]]) -> Figure:
    """``panels``: label -> its curves."""
    columns = 2 if len(panels) in (1, 2, 4) else 3
    rows = -(-len(panels) // columns)
    figure, grid = new_figure(WIDE, 205 * rows + 30, rows=rows, columns=columns)
    flat = [axes for row in grid for axes in row]
    trained = sorted({line.trained for _, curves in panels for line in curves.lines if line.trained is not None})
    worst = 0.0 if panels[0][1].measure.metric.higher_is_better else 1.0
    every = [value for _, curves in panels for line in curves.lines for p in line.points for value in (p.low, p.high)]
    for axes, (label, curves) in zip(flat, panels, strict=False):
        for line in curves.lines:
            colour = shade(trained.index(line.trained), len(trained)) if line.trained in trained else INK
            xs = [point.x for point in line.points]
            low, high = (band_ends([getattr(p, name) for p in line.points], every) for name in ("low", "high"))
            median = finite([p.median for p in line.points])
            fallen = [p.x for p in line.points if p.diverged]
            crosses(axes, fallen, [worst] * len(fallen), colour, axes.get_xaxis_transform())
            faint(axes, line.seeds.values(), colour, alpha=0.25)
            axes.fill_between(xs, low, high, color=colour, alpha=0.15, lw=0)
            axes.plot(xs, median, color=colour, lw=1.8, marker=".", ms=5)
            here = [point for point in line.points if point.x == line.trained]
            if here:
                axes.plot(
                    [here[0].x], [here[0].median], "o", ms=8, mfc=PAPER, mec=colour, mew=2, clip_on=False, zorder=4
                )
        length_axis(axes, sorted({point.x for line in curves.lines for point in line.points}), room=0.16)
        score_axis(axes, curves.measure, every)
        axes.set_title(clean(label, 40))
        axes.set_xlabel("tested length")
    for row in grid:
        row[0].set_ylabel(clean(panels[0][1].measure.metric.name, 40))
    for axes in flat[len(panels) :]:
        axes.set_axis_off()
    shade_legend(figure, trained, "trained at")
    return figure
