"""The command line's consoles: what they display cannot write to the terminal's controls."""

from collections.abc import Iterable
from typing import IO, Any

import rich.console
from rich.console import ConsoleDimensions, ConsoleOptions, RenderableType
from rich.segment import Segment

from ...printable import printable


class Console(rich.console.Console):
    """rich's console. The text of all that it renders is ``printable``; only rich's own controls reach the terminal."""

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            safe = segment.text if segment.control else printable(segment.text)
            yield segment if safe == segment.text else Segment(safe, segment.style)

    @property
    def size(self) -> ConsoleDimensions:
        """At least one character in one line: ``COLUMNS`` may be 0."""
        return ConsoleDimensions(*(max(1, number) for number in super().size))

    @size.setter
    def size(self, new_size: tuple[int, int]) -> None:
        self._width, self._height = new_size

    @property
    def file(self) -> Any:
        """Where it writes: past streams that make text printable, for rich draws with control characters."""
        file = super().file
        while (inner := getattr(file, "rich_proxied_file", None)) is not None:
            file = inner
        return file

    @file.setter
    def file(self, new_file: IO[str]) -> None:
        self._file = new_file
