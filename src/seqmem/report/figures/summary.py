"""A task in one figure: the gradient that arrives, the score over trained lengths, and over tested ones."""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial

from matplotlib.figure import Figure

from ..collect import Group
from ..statistics import group_count
from ..wording import clean, score_words
from . import generalisation, profiles, score
from .axes import new_figure
from .base import Plot, TaskRuns
from .curves import Curves, diverged_text, levels_text, measure
from .marks import legend
from .profiles import ProfileLine
from .style import LABELS_AT_MOST, QUIET, WIDE, paint


@dataclass(frozen=True, eq=False)
class Summary:
    """``length``: trained at, in the panels of one length. ``gradient``: the number of a colour and a line after
    training, empty without traces. ``trained`` and ``tested``: scores by trained and by tested length, the latter
    without lines where no other length was tested."""

    length: int
    labels: list[tuple[str, int]]
    gradient: list[tuple[int, ProfileLine]]
    trained: Curves
    tested: Curves


def plots(task: TaskRuns) -> Iterator[Plot]:
    """None where there is but one panel: the figures of scores show the same."""
    for some in task.coloured(task.groups, LABELS_AT_MOST):
        summary = collect(task, some)
        if not summary.gradient and not summary.tested.lines:
            continue
        parts = []
        if summary.gradient:
            parts.append(
                "the gradient after training by timesteps back from the answer, relative to one step back "
                f"(trained at {summary.length})"
            )
        parts.append("the score by trained length")
        if summary.tested.lines:
            parts.append(f"the score by tested length (trained at {summary.length}, the upright line)")
        level = f" ({sure})" if (sure := levels_text(summary.trained)) else ""
        caption = (
            f"{clean(task.name, 60)}, from left to right: {'; '.join(parts)}. Thick: the median over seeds; faint: "
            f"every seed; band: the exact interval of the median{level}."
        )
        caption += diverged_text(summary.trained)
        alt = f"Gradient and scores on {clean(task.name, 60)}. " + " ".join(
            f"{clean(line.label, 40)}: "
            + ", ".join(f"{score_words(summary.trained.measure.metric, p.median)} at {p.x}" for p in line.points[:12])
            + "."
            for line in summary.trained.lines
        )
        yield Plot("summary", partial(draw, summary), caption, alt, wide=True)


def collect(task: TaskRuns, some: Sequence[tuple[int, Group]]) -> Summary:
    """``some``: groups with the numbers of their colours."""
    length = telling_length([group for _, group in some], task.threshold)
    gradient, lines = [], []
    for colour, group in some:
        if length not in group.runs:
            continue
        traced = profiles.collect(task.traces, group, [length])
        if traced is not None and traced.stages[-1].title == "after training":
            gradient.append((colour, traced.stages[-1].lines[0]))
        tested = generalisation.line(group, length, task.threshold)
        if len(tested.points) > 1:
            lines.append(replace(tested, label=group.label, colour=colour))
    trained = score.collect(some, task.threshold)
    lengths = [p.x for line in lines for p in line.points]
    tests = Curves(measure([group for _, group in some], task.threshold, lengths), lines)
    return Summary(length, [(group.label, colour) for colour, group in some], gradient, trained, tests)


def telling_length(groups: Sequence[Group], threshold: float | None) -> int:
    """The longest length that one group solves, else the longest: among those that the most groups were trained at."""
    trained = Counter(length for group in groups for length in group.lengths)
    most = max(trained.values())
    shared = [length for length, count in trained.items() if count == most]
    solved = [
        length
        for length in shared
        if any(group_count(group, length, threshold).most for group in groups if length in group.runs)
    ]
    return max(solved or shared)


def draw(summary: Summary) -> Figure:
    panels = 1 + bool(summary.gradient) + bool(summary.tested.lines)
    figure, (grid,) = new_figure(WIDE, 265, columns=panels)
    free = iter(grid)
    if summary.gradient:
        axes = next(free)
        ends = profiles.ends_of(line.median for _, line in summary.gradient)
        profiles.draw_panel(axes, [(line, paint(colour)[0]) for colour, line in summary.gradient], ends)
        axes.set_title(f"gradient, trained at {summary.length}")
        axes.set_ylabel("relative to one step back")
    axes = next(free)
    score.draw_panel(axes, summary.trained, room=0.16)
    axes.set_title("score, by trained length")
    axes.set_xlabel("trained length")
    if summary.tested.lines:
        axes = next(free)
        score.draw_panel(axes, summary.tested, room=0.16)
        axes.axvline(summary.length, color=QUIET, lw=1, ls=(0, (1, 2)), zorder=1.5)
        axes.set_title(f"score, trained at {summary.length}")
        axes.set_xlabel("tested length")
    legend(figure, summary.labels)
    return figure
