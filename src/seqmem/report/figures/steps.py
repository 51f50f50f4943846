"""Steps until solved against trained length, both logarithmic; the unsolved as open markers at their budget."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from math import isfinite

from matplotlib.figure import Figure

from ..collect import Group
from ..statistics import rule, run_solved_after, steps_to_solve
from ..wording import clean
from .axes import decades, length_axis, new_figure
from .base import Plot, TaskRuns
from .marks import beside, dots, legend
from .style import LABELS_AT_MOST, WIDTH, paint


@dataclass(frozen=True)
class StepsLine:
    """``points``: (length, steps, solved) of every run, the unsolved at their budget, also those that diverged.
    ``median``: (length, steps), where more than half of the seeds solved it."""

    label: str
    colour: int
    points: list[tuple[int, int, bool]]
    median: list[tuple[int, float]]


@dataclass(frozen=True)
class Steps:
    lines: list[StepsLine]

    @property
    def any_unsolved(self) -> bool:
        return any(not solved for line in self.lines for _, _, solved in line.points)


def plots(task: TaskRuns) -> Iterator[Plot]:
    """None where there is no rule."""
    if rule(task.first, task.threshold) is None:
        return
    for some in task.coloured(task.groups, LABELS_AT_MOST):
        steps = collect(some, task.threshold)
        caption = (
            "Training steps until the rule was first met by a run that meets it at the end, by trained length, both "
            "logarithmic: every seed, and the median as a line wherever more than half of the seeds got there."
            + (" Open: not solved or diverged, drawn at the steps it was given." if steps.any_unsolved else "")
        )
        alt = "Steps until solved by trained length. " + " ".join(
            f"{clean(line.label, 40)}: "
            + (", ".join(f"{median:g} at {length}" for length, median in line.median[:12]) or "not solved by half")
            + "."
            for line in steps.lines
        )
        yield Plot("steps to solve", partial(draw, steps), caption, alt)


def collect(groups: Sequence[tuple[int, Group]], threshold: float | None = None) -> Steps:
    """Updates until the rule was first met, of every run that meets it at the end."""
    lines = []
    for colour, group in groups:
        points, medians = [], []
        for length in group.lengths:
            runs = group.at(length)
            for run in runs:
                after = run_solved_after(run, threshold)
                points.append((length, max(1, run.steps if after is None else after), after is not None))  # 0: no log
            median = steps_to_solve(runs, threshold).steps.median
            if isfinite(median):
                medians.append((length, max(1.0, median)))
        lines.append(StepsLine(group.label, colour, points, medians))
    return Steps(lines)


def draw(steps: Steps) -> Figure:
    figure, ((axes,),) = new_figure(WIDTH, 310)
    axes.set_yscale("log")
    for place, line in enumerate(steps.lines):
        colour, marker = paint(line.colour)
        shifted = beside(axes, place, len(steps.lines))
        solved = [(x, y) for x, y, ok in line.points if ok]
        unsolved = [(x, y) for x, y, ok in line.points if not ok]
        dots(axes, solved, colour, alpha=0.55, marker=marker, transform=shifted)
        dots(axes, unsolved, colour, alpha=0.9, marker=marker, hollow=True, transform=shifted)
        if line.median:
            xs, ys = zip(*line.median, strict=True)
            axes.plot(xs, ys, color=colour, lw=2.2, transform=shifted)
    length_axis(axes, sorted({x for line in steps.lines for x, _, _ in line.points}))
    decades(axes, [y for line in steps.lines for _, y, _ in line.points])
    axes.set_ylabel("training steps until solved")
    axes.set_xlabel("trained length (timesteps)")
    legend(figure, [(line.label, line.colour) for line in steps.lines], unsolved=steps.any_unsolved)
    return figure
