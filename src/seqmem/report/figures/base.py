"""What a figure of the report is: the runs it is made of, what draws it, and the words beside it.

A module of this folder is one kind of figure: what it computes, how it is drawn, and its caption. ``plots(task)`` gives
every figure of that kind for the runs of one task. Its section (``report.sections``) names the module.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol, runtime_checkable

from matplotlib.figure import Figure

from ...runs.files import RunError
from ..collect import Collection, Group, Profiles, Run
from ..statistics import Comparison, TwoGroups

MOST_TRACES = 240
"""Runs of a report whose traces are read for the figures, shared out evenly: more would take longer, not show more."""


@dataclass(frozen=True)
class Plot:
    """One figure that can be drawn. ``name``: what it shows, for names of files, e.g. ``gradient lstm``; several may
    share one. ``wide``: several panels."""

    name: str
    draw: Callable[[], Figure]
    caption: str
    alt: str
    wide: bool = False


@runtime_checkable
class FigureKind(Protocol):
    """A module of this folder."""

    def plots(self, task: "TaskRuns") -> Iterable[Plot]: ...


class Traces:
    """Reads the traces of a collection's runs, a limited number of them. ``unread``: (path, why)."""

    def __init__(self, collection: Collection) -> None:
        cells = sum(len(group.lengths) for group in collection.groups)
        self.per_cell = max(1, MOST_TRACES // max(1, cells))
        self.left = MOST_TRACES
        self.unread: list[tuple[str, str]] = []
        self._ends: dict[Run, Profiles | None] = {}  # two kinds of figures draw them

    def read(self, run: Run, *, ends: bool) -> Profiles | None:
        """``run.profiles``; None: it was not traced, cannot be read, or the limit is reached."""
        if ends and run in self._ends:
            return self._ends[run]
        profiles = self._read(run, ends=ends)
        if ends:
            self._ends[run] = profiles
        return profiles

    def _read(self, run: Run, *, ends: bool) -> Profiles | None:
        if self.left <= 0:
            return None
        self.left -= 1
        try:
            return run.profiles(ends=ends)
        except (RunError, ValueError) as error:
            self.unread.append((str(run.path), str(error)))
            return None


@dataclass(frozen=True, eq=False)
class TaskRuns:
    """The runs of one task, and what sections and figures need to know of the report.

    Args:
        groups: all of one task; at least one.
        colours: label -> the number of its colour, the same in every figure of the report.
        threshold: the accuracy from which on a run counts as solved; None: the task's own rule.
        traces: reads the runs' traces.
        comparisons: pairs of groups of this task.
        splits: groups of this task whose seeds fall into two groups.
        notes: what the page says below the task's sections; a figure adds what it leaves out.
    """

    groups: Sequence[Group]
    colours: Mapping[str, int]
    threshold: float | None
    traces: Traces
    comparisons: Sequence[Comparison] = ()
    splits: Sequence[TwoGroups] = ()
    notes: list[str] = field(default_factory=list)

    @property
    def name(self) -> str:
        return self.groups[0].task

    @property
    def first(self) -> Run:
        """Any run: metric and the rule of success are the task's."""
        return self.groups[0].first

    def coloured(self, groups: Iterable[Group], at_most: int) -> list[list[tuple[int, Group]]]:
        """Groups with the numbers of their colours, in lists of ``at_most``: as many as one figure can tell apart."""
        pairs = [(self.colours[group.label], group) for group in groups]
        return [pairs[at : at + at_most] for at in range(0, len(pairs), at_most)]


def colours(collection: Collection) -> dict[str, int]:
    """A number for every label, the same in every figure."""
    return {label: at for at, label in enumerate(dict.fromkeys(group.label for group in collection.groups))}


def evenly(numbers: Sequence[int], at_most: int) -> list[int]:
    """At most ``at_most`` of the numbers, evenly spaced, with the first and the last."""
    if len(numbers) <= at_most:
        return list(numbers)
    return [numbers[round(at * (len(numbers) - 1) / (at_most - 1))] for at in range(at_most)]
