"""A training in a notebook: the terminal's live picture, as HTML that is updated in place."""

import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal

from rich.text import Text

from ..terminal.html import as_html, html_console, preformatted
from ..terminal.live import Display, RunInfo

if TYPE_CHECKING:
    import seqmem.measurement
    import seqmem.probes.base
    import seqmem.training.plan

_EVERY = 0.5
"""Seconds between two pictures."""


Bundle = dict[str, str]
"""MIME type -> content."""


class Progress:
    """An observer of ``seqmem.training.loop.train``, to be used in a ``with``. One line is left where it finishes."""

    unread = False  # a notebook reads on

    def __init__(
        self,
        run: RunInfo,
        *,
        show: Callable[[Bundle], Callable[[Bundle], Any]] | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._console, self._clock, self._run = html_console(), clock, run
        self._display = Display(self._console, replace(run, quiet=True), clock=clock)
        self._show = show or _shown
        self._update: Callable[[Bundle], Any] | None = None
        self._drawn_at = clock()
        self._end: str | None = None

    def __enter__(self) -> "Progress":  # noqa: PYI034  the tests' type checker knows no Self in single methods
        if not self._run.quiet:
            self._update = self._show(self._picture())
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._draw(at_once=True)

    def logged(self, step: int, kind: Literal["train", "eval"], values: Mapping[str, float]) -> None:
        self._display.logged(step, kind, values)
        self._draw()

    def measured(
        self, step: int, probe: "seqmem.probes.base.Probe", measurement: "seqmem.measurement.Measurement"
    ) -> None:
        self._display.measured(step, probe, measurement)
        self._draw()

    def answered(self, step: int, batch: object, predicted: object) -> None:
        """Answers to single questions are shown in TensorBoard."""

    def finished(self, step: int, result: "seqmem.training.plan.Result") -> None:
        self._display.finished(step, result)
        self._end = f"{self._run.title}: {self._display.outcome(result)}"

    def _draw(self, *, at_once: bool = False) -> None:
        if self._update is not None and (at_once or self._clock() - self._drawn_at >= _EVERY):
            self._drawn_at = self._clock()
            self._update(self._picture())

    def _picture(self) -> Bundle:
        text = self._end or self._run.title
        if self._end is not None:
            return {"text/html": as_html([Text(text)], wrap=True), "text/plain": text}
        picture = self._console.render(self._display.picture(), self._console.options)
        return {"text/html": preformatted(picture), "text/plain": text}


def _shown(picture: Bundle) -> Callable[[Bundle], Any]:
    """Display it in the notebook; returns what replaces it."""
    from IPython.display import display  # pyright: ignore[reportMissingImports]

    handle = display(picture, raw=True, display_id=True)
    return lambda new: handle.update(new, raw=True)
