"""The report's page: one HTML file that needs nothing else, and its figures as files beside it.

The page is a loop over ``sections`` and ``figures``. Names of cells, tasks and folders are the user's: everything goes
through the template's escaping; figures alone are markup, and they are made here.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from markupsafe import Markup

from ..cores import usable_cores
from ..runs.files import RunError, write_atomically
from . import figures, sections
from .across import across
from .collect import Collection
from .figures import across as across_figures
from .figures.base import FigureKind, Plot, TaskRuns, Traces, colours
from .figures.output import for_page, render_all
from .sections import across as across_tasks
from .sections import origin, overview, scores
from .statistics import comparisons, two_groups
from .wording import clean, count, file_name

PAGE = "index.html"

MOST_FIGURES = 40
"""Figures on a page; the tables have the numbers of the others."""


def write(
    collection: Collection,
    folder: Path,
    *,
    threshold: float | None = None,
    pdf: bool = False,
    beside: Iterable[str] = (),
) -> Path:
    """Write ``index.html`` and ``figures/`` into ``folder``; an earlier report there is replaced.

    Args:
        threshold: the accuracy from which on a run counts as solved; None: the task's own rule.
        pdf: figures as PDF, too, which takes as long again.
        beside: other files of this report, relative to ``folder``, that the page links.

    Raises:
        RunError: it cannot be written.
    """
    try:
        (folder / "figures").mkdir(parents=True, exist_ok=True)
        beside = list(beside)
        page = _Page(collection, folder, threshold, pdf=pdf, beside=beside)
        text = page.render()
        before = _files_of(folder / PAGE)
        write_atomically(folder / PAGE, text.encode())
        for name in before - page.files - set(beside):
            (folder / name).unlink(missing_ok=True)
    except OSError as error:
        raise RunError(f"cannot write the report to {folder}: {error.strerror or error}") from error
    return folder / PAGE


def _files_of(page: Path) -> set[str]:
    """Figures and LaTeX tables that a page links: a later report removes only these."""
    try:
        return set(re.findall(r'href="((?:figures|tables)/[\w-]+\.(?:svg|png|pdf|tex))"', page.read_text()))
    except (OSError, ValueError):
        return set()


@dataclass
class _Figure:
    """A figure on the page; ``name``: its id, and its files' without ``endings``.

    ``markup``: None until it is drawn.
    """

    name: str
    plot: Plot
    endings: Sequence[str] = ()
    markup: Markup | None = None


@dataclass(frozen=True)
class _Planned:
    """A task of the page, ``figures`` by their kind."""

    name: str
    task: TaskRuns
    figures: Mapping[FigureKind, Sequence[_Figure]]
    notes: Sequence[str]
    undrawn: int


class _Page:
    """One page while it is made. ``written``: names of the figures that have files; ``undrawn``: how many have none.
    ``files``: those files, relative to ``folder``."""

    def __init__(
        self, collection: Collection, folder: Path, threshold: float | None, *, pdf: bool, beside: Sequence[str]
    ) -> None:
        self.collection, self.folder, self.threshold = collection, folder, threshold
        self.groups = collection.groups
        self.colours = colours(collection)
        self.traces = Traces(collection)
        self.comparisons = comparisons(collection, threshold)
        self.splits = two_groups(collection, threshold)
        self.across = across(collection)
        self.pdf, self.beside = pdf, beside
        self.written: set[str] = set()
        self.files: set[str] = set()
        self.undrawn = 0

    def render(self) -> str:
        here = Path(__file__)
        environment = Environment(autoescape=True, undefined=StrictUndefined, finalize=_shown)
        template = environment.from_string(here.with_name("page.html").read_text())
        over_tasks = [] if self.across is None else self.plan_plots("", across_figures.plots(self.across, self.colours))
        planned = [self.plan(name) for name in self.collection.tasks]
        of_tasks = [figure for plan in planned for figures in plan.figures.values() for figure in figures]
        self.write_figures([*over_tasks, *of_tasks])
        tasks = [self.task(number, plan) for number, plan in enumerate(planned, 1)]
        if self.across is not None:
            tasks.insert(0, across_tasks.part(self.across, self.colours, over_tasks))
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
            files=[
                *sorted(path.name for kind in ("csv", "parquet") for path in self.folder.glob(f"*.{kind}")),
                *self.beside,
            ],
        )

    def plan(self, name: str) -> "_Planned":
        """What will stand under a task; its figures are not drawn yet."""
        task = TaskRuns(
            [group for group in self.groups if group.task == name],
            self.colours,
            self.threshold,
            self.traces,
            [pair for pair in self.comparisons if pair.a.task == name],
            [split for split in self.splits if split.group.task == name],
        )
        figures_of = {kind: self.plan_figures(kind, task) for kind in figures.in_drawing_order()}
        undrawn, self.undrawn = self.undrawn, 0
        return _Planned(name, task, figures_of, [*task.notes, *self.unread_traces()], undrawn)

    def plan_figures(self, kind: FigureKind, task: TaskRuns) -> list["_Figure"]:
        return self.plan_plots(task.name, kind.plots(task))

    def plan_plots(self, of: str, plots: Iterable[Plot]) -> list["_Figure"]:
        """The figures of one kind, until the page has MOST_FIGURES; ``of``: what their names begin with."""
        planned = []
        for plot in plots:
            if len(self.written) >= MOST_FIGURES:
                self.undrawn += 1
            else:
                planned.append(_Figure(file_name(f"{of} {plot.name}", self.written), plot))
                self.written.add(planned[-1].name)
        return planned

    def write_figures(self, planned: Sequence["_Figure"]) -> None:
        """Draw them, and write their files."""
        drawn = render_all([figure.plot.draw for figure in planned], pdf=self.pdf, processes=usable_cores())
        for figure, pictures in zip(planned, drawn, strict=True):
            for ending, content in pictures.files.items():
                write_atomically(self.folder / "figures" / f"{figure.name}.{ending}", content)
                self.files.add(f"figures/{figure.name}.{ending}")
            figure.endings = list(pictures.files)
            figure.markup = Markup(for_page(pictures.svg, figure.name, clean(figure.plot.alt, 1500)))

    def task(self, number: int, plan: "_Planned") -> dict[str, Any]:
        """Template context of a task: its sections with their figures, and the notes below them."""
        notes, parts = list(plan.notes), []
        for build in sections.TASK:
            section = build(plan.task)
            shown = [figure for kind in figures.SECTIONS.get(section.anchor, ()) for figure in plan.figures[kind]]
            if shown or section.table or section.items:
                parts.append((section, shown))
            notes += section.notes
        if plan.undrawn:
            more = count(plan.undrawn, "figure")
            notes.append(f"Beyond {MOST_FIGURES} on a page, {more} not drawn; the numbers are in the tables.")
        return {
            "id": f"task{number}", "name": clean(plan.name, 80), "about": scores.about(plan.task),
            "sections": parts, "notes": notes,
        }  # fmt: skip

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
