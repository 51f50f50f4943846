"""``seqmem.report``: many runs together."""

from collections.abc import Iterable, Mapping
from functools import cached_property
from os import fspath
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.text import Text

from ...report.collect import Collection
from ..config.choose import OUTPUTS
from ..terminal.console import Console
from ..verbs.report import check_place, chosen_formats, collected, lines, numbers, written
from .errors import front_door
from .html import Displayed
from .runs import Name

if TYPE_CHECKING:
    from .plots import DisplayedPlot


class DisplayedReport(Displayed):
    """A report that shows itself: its summary, as ``seqmem report`` prints it.

    ``report.write("folder")`` writes the page, its figures and the tables; ``report.numbers`` is what ``--json``
    prints; ``report.plot()`` draws the scores, and ``report.plots()`` has every figure of the page by name.
    """

    def __init__(self, collection: Collection, threshold: float | None) -> None:
        self.collection, self.threshold = collection, threshold

    def _lines(self, console: Console) -> list[Text]:
        return lines(self.collection, self.threshold, None, console.width)

    @cached_property
    def numbers(self) -> Mapping[str, Any]:
        """The summary's numbers, as ``seqmem report --json`` prints them."""
        return numbers(self.collection, self.threshold, None)

    @front_door
    def write(self, folder: Name, *, formats: Iterable[str] = ()) -> Path:
        """Write the page, its figures and the tables into ``folder``; returns the page.

        Args:
            formats: ``pdf``: figures as PDF, too; ``tex``: tables in LaTeX.

        Raises:
            ValueError: there is a run, or a file; or a format is not known.
            seqmem.RunError: it cannot be written.
        """
        check_place(Path(folder))
        return written(self.collection, Path(folder), self.threshold, chosen_formats(formats))

    @front_door
    def plot(self, task: str | None = None) -> "DisplayedPlot":
        """The scores by trained length, with every seed.

        Args:
            task: None: the first one.

        Raises:
            ValueError: there is no such task.
        """
        from .plots import scores_of_report  # matplotlib

        return scores_of_report(self.collection, self.threshold, task)

    @front_door
    def plots(self) -> "dict[str, DisplayedPlot]":
        """Every figure of the page, by the name of its file: ``pronoun-summary``. Drawn when looked at."""
        from .plots import of_report  # matplotlib

        return of_report(self.collection, self.threshold)


@front_door
def report(
    *folders: Name, out: Name | None = None, threshold: float | None = None, task: str | None = None
) -> DisplayedReport:
    """Put any set of runs together: memory spans, scores over seeds with intervals, comparisons.

    Args:
        folders: folders of runs, or runs themselves. None: ``outputs/``.
        out: a folder into which the page and the tables are written; None: nothing is written.
        threshold: the accuracy from which on a run counts as solved; None: the task's own rule.
        task: this task alone.

    Returns:
        A report that shows itself, and writes or draws itself when asked to.

    Raises:
        ValueError: there is no such folder or task, or no accuracy is ``threshold``.
        seqmem.RunError: it cannot be written.
    """
    if out is not None:
        check_place(Path(out))
    made = DisplayedReport(collected([Path(fspath(one)) for one in folders or [OUTPUTS]], threshold, task), threshold)
    if out is not None:
        made.write(out)
    return made
