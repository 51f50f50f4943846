"""Runs that show themselves."""

from collections.abc import Iterator, Sequence
from functools import cached_property
from os import PathLike
from typing import TYPE_CHECKING, Any, overload

from rich.text import Text

from ...printable import printable
from ...runs.directory import RunDirectory
from ...runs.files import RunError
from ...runs.summary import Summary, read
from ..terminal.console import Console
from ..terminal.html import as_html, html_console
from ..terminal.pages import page, verdict
from ..terminal.words import here
from ..verbs.show import lines
from .errors import front_door
from .html import Displayed, as_text, text_console

if TYPE_CHECKING:
    from .plots import DisplayedPlot


class DisplayedRun(RunDirectory):
    """A run's directory that shows itself: a page in a notebook, at IPython's prompt and as ``str(run)``, a line among
    others and as ``repr(run)``; it is read anew each time. ``run.plot()`` draws it."""

    def __repr__(self) -> str:
        try:
            run = read(self)
        except RunError as error:
            return printable(f"<run {here(self.path)}: {error}>")
        score = [] if run.score is None else [f"{run.scale.metric.name} {run.scale.metric.text(run.score)}"]
        words = ", ".join(filter(None, [run.state, *score, verdict(run)]))
        return printable(f"<run {here(self.path)}: {run.cell} on {run.task}, {words}>")

    def __str__(self) -> str:
        return as_text(self._lines(text_console()))

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        alone = len(printer.stack) == 1  # not in a list or a dict
        printer.text(str(self) if alone else repr(self))

    def _repr_html_(self) -> str:
        return as_html(self._lines(html_console()))

    def _lines(self, console: Console) -> list[Text]:
        try:
            return page(read(self), console)
        except RunError as error:
            return [Text(str(error))]

    @front_door
    def plot(self) -> "DisplayedPlot":
        """Its scores while it trained, the gradient before and after, and its score by length; a plot shows itself.

        Raises:
            RunError: a file of the run cannot be read.
        """
        from .plots import of_runs  # matplotlib

        return of_runs([read(self)])


class DisplayedRuns(Displayed, Sequence[DisplayedRun]):
    """Runs side by side, as ``seqmem show`` has them; a sequence of runs that shows itself.

    Args:
        of: how many there are where only the first are shown.
    """

    def __init__(self, runs: Sequence[Summary], of: int) -> None:
        self._summaries, self._of = runs, of

    @cached_property
    def _runs(self) -> list[DisplayedRun]:
        return [DisplayedRun(run.run.path) for run in self._summaries]

    def __len__(self) -> int:
        return len(self._runs)

    @overload
    def __getitem__(self, at: int) -> DisplayedRun: ...
    @overload
    def __getitem__(self, at: slice) -> list[DisplayedRun]: ...
    def __getitem__(self, at: int | slice) -> DisplayedRun | list[DisplayedRun]:
        return self._runs[at]

    def __iter__(self) -> Iterator[DisplayedRun]:
        return iter(self._runs)

    def _lines(self, console: Console) -> list[Text]:
        if not self._summaries:
            return [Text("no run")]
        return lines(self._summaries, self._of, console, more="all=True shows the rest")

    @front_door
    def plot(self) -> "DisplayedPlot":
        """Scores while they trained, the gradient after, and scores by length, in one figure.

        Raises:
            ValueError: they are of several tasks, or too many to tell apart.
        """
        from .plots import of_runs  # matplotlib

        return of_runs(self._summaries)


Name = str | PathLike[str]
"""A run's directory, a folder of runs, or a part of a path below ``outputs/`` that no other run's path has."""
