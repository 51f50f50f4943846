"""The report's page: one HTML file that needs nothing else, and its figures as files beside it.

The page is a loop over ``sections`` and ``figures``. Names of cells, tasks and folders are the user's: everything goes
through the template's escaping; figures alone are markup, and they are made here.
"""

import re
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from ..runs.files import RunError, write_atomically
from . import figures, sections
from .collect import Collection
from .figures.base import FigureKind, Plot, TaskRuns, Traces, colours
from .figures.output import for_page, render
from .sections import origin, overview, scores
from .statistics import comparisons, two_groups
from .wording import clean, count

PAGE = "index.html"

MOST_FIGURES = 40
"""Figures on a page; the tables have the numbers of the others."""


def write(collection: Collection, folder: Path, *, threshold: float | None = None) -> Path:
    """Write ``index.html`` and ``figures/`` into ``folder``; an earlier report there is replaced.

    Args:
        threshold: the accuracy from which on a run counts as solved; None: the task's own rule.

    Raises:
        RunError: it cannot be written.
    """
    try:
        (folder / "figures").mkdir(parents=True, exist_ok=True)
        page = _Page(collection, folder, threshold)
        text = page.render()
        before = _figures_of(folder / PAGE)
        write_atomically(folder / PAGE, text.encode())
        for name in before - page.written:
            for kind in ("svg", "png"):
                (folder / "figures" / f"{name}.{kind}").unlink(missing_ok=True)
    except OSError as error:
        raise RunError(f"cannot write the report to {folder}: {error.strerror or error}") from error
    return folder / PAGE


def _figures_of(page: Path) -> set[str]:
    """The names of the figures on a page: a later report removes only these."""
    try:
        return set(re.findall(r'href="figures/([\w-]+)\.svg"', page.read_text()))
    except (OSError, ValueError):
        return set()


@dataclass(frozen=True)
class _Figure:
    """A figure on the page; ``name``: of its files, and its id."""

    name: str
    markup: Markup
    caption: str
    wide: bool


class _Page:
    """One page while it is made. ``written``: names of the figures that have files; ``undrawn``: how many have none."""

    def __init__(self, collection: Collection, folder: Path, threshold: float | None) -> None:
        self.collection, self.folder, self.threshold = collection, folder, threshold
        self.groups = collection.groups
        self.colours = colours(collection)
        self.traces = Traces(collection)
        self.comparisons = comparisons(collection, threshold)
        self.splits = two_groups(collection, threshold)
        self.written: set[str] = set()
        self.undrawn = 0

    def render(self) -> str:
        here = Path(__file__)
        environment = Environment(autoescape=True, undefined=StrictUndefined, finalize=_shown)
        template = environment.from_string(here.with_name("page.html").read_text())
        tasks = [self.task(number, task) for number, task in enumerate(self.collection.tasks, 1)]
        return template.render(
            title=overview.title(self.groups),
            counted=overview.counted(self.collection),
            style=Markup(here.with_name("style.css").read_text()),
            spans=overview.spans(self.groups, self.colours, self.threshold),
            span_notes=overview.span_notes(self.collection, self.threshold),
            tasks=tasks,
            origin=list(origin.sections(self.collection)),
            glossary=overview.glossary(self.collection, self.threshold),
            version=_version(),
            files=sorted(path.name for kind in ("csv", "parquet") for path in self.folder.glob(f"*.{kind}")),
        )

    def task(self, number: int, name: str) -> dict[str, Any]:
        """Template context of a task: its sections with their figures, and the notes below them."""
        anchor = f"task{number}"
        task = TaskRuns(
            [group for group in self.groups if group.task == name],
            self.colours,
            self.threshold,
            self.traces,
            [pair for pair in self.comparisons if pair.a.task == name],
            [split for split in self.splits if split.group.task == name],
        )
        drawn = {kind: self.draw(anchor, kind, task) for kind in figures.in_drawing_order()}
        notes = [*task.notes, *self.unread_traces()]
        parts = []
        for build in sections.TASK:
            section = build(task)
            shown = [figure for kind in figures.SECTIONS.get(section.anchor, ()) for figure in drawn[kind]]
            if shown or section.table or section.items:
                parts.append((section, shown))
            notes += section.notes
        if self.undrawn:
            more = count(self.undrawn, "figure")
            notes.append(f"Beyond {MOST_FIGURES} on a page, {more} not drawn; the numbers are in the tables.")
            self.undrawn = 0
        return {
            "id": anchor, "name": clean(name, 80), "about": scores.about(task), "sections": parts, "notes": notes,
        }  # fmt: skip

    def draw(self, anchor: str, kind: FigureKind, task: TaskRuns) -> list[_Figure]:
        """The figures of one kind, written into their files, until the page has MOST_FIGURES."""
        made = []
        for plot in kind.plots(task):
            if len(self.written) >= MOST_FIGURES:
                self.undrawn += 1
            else:
                made.append(self.write(f"{anchor}-{plot.name}", plot))
        return made

    def write(self, name: str, plot: Plot) -> _Figure:
        files = render(plot.draw)
        write_atomically(self.folder / "figures" / f"{name}.svg", files.svg)
        write_atomically(self.folder / "figures" / f"{name}.png", files.png)
        self.written.add(name)
        return _Figure(name, Markup(for_page(files.svg, name, clean(plot.alt, 1500))), plot.caption, plot.wide)

    def unread_traces(self) -> list[str]:
        """Notes on the traces that could not be read since the last call, at most three."""
        notes = [f"No gradients of {clean(path)}: {clean(reason)}." for path, reason in self.traces.unread[:3]]
        self.traces.unread.clear()
        return notes


def _shown(value: Any) -> Any:
    """What the template prints, without characters that HTML forbids; a no-break space joins a number to its unit."""
    if isinstance(value, Markup) or not isinstance(value, str):
        return value
    return re.sub(r"(?<=\d) %", "\u00a0%", clean(value, 4000))


def _version() -> str:
    try:
        return version("seqmem")
    except PackageNotFoundError:
        return "from source"
