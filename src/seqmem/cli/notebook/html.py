"""What shows itself: as the terminal's lines, and as the same in HTML in a notebook."""

import sys
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any

import rich
from rich.text import Text

from ...printable import printable
from ..terminal.console import Console
from ..terminal.html import Written, as_html, html_console
from ..terminal.pages import WIDEST


def text_console() -> Console:
    """As wide as the terminal, with the characters that standard output has; nothing is printed on it."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return Console(file=Written(encoding), width=min(rich.get_console().width, WIDEST), force_jupyter=False)


def as_text(lines: Sequence[Text]) -> str:
    return printable("\n".join(line.plain.rstrip() for line in lines))


class Displayed(ABC):
    """Shows itself: as text in a terminal and in IPython, as HTML in a notebook."""

    @abstractmethod
    def _lines(self, console: Console) -> Sequence[Text]: ...

    def __repr__(self) -> str:
        return as_text(self._lines(text_console()))

    def _repr_html_(self) -> str:
        return as_html(self._lines(html_console()))

    def _repr_pretty_(self, printer: Any, cycle: bool) -> None:
        printer.text(repr(self))
