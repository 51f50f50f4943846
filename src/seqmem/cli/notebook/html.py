"""What the terminal displays, as text and as HTML for a notebook: the same lines, in the notebook's own colours."""

import sys
from abc import ABC, abstractmethod
from collections.abc import Iterable, Sequence
from html import escape
from io import StringIO
from typing import Any

import rich
from rich.segment import Segment
from rich.style import Style
from rich.text import Text

from ...printable import printable
from ..terminal.console import Console
from ..terminal.pages import WIDEST

WIDTH = 104
"""Characters in a line of HTML: as many as fit beside a notebook's margins."""

_COLOURS = {"green": "#1a9850", "yellow": "#b8860b", "red": "#d73027", "cyan": "#2b8cbe"}
"""Named colours that can be read on light and on dark; rich's own are for dark terminals."""

_FONT = "'DejaVu Sans Mono',Menlo,Consolas,'Liberation Mono',monospace"


class _Written(StringIO):
    """As much of a stream as rich asks for."""

    @property
    def encoding(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._encoding

    def __init__(self, encoding: str) -> None:
        super().__init__()
        self._encoding = encoding


def text_console() -> Console:
    """As wide as the terminal, with the characters that standard output has; nothing is printed on it."""
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return Console(file=_Written(encoding), width=min(rich.get_console().width, WIDEST), force_jupyter=False)


def html_console(width: int = WIDTH) -> Console:
    return Console(
        file=_Written("utf-8"), width=width, force_terminal=True, color_system="truecolor", legacy_windows=False,
        force_jupyter=False,
    )  # fmt: skip


def as_text(lines: Sequence[Text]) -> str:
    return printable("\n".join(line.plain.rstrip() for line in lines))


def as_html(lines: Sequence[Text], *, wrap: bool = False) -> str:
    console = html_console()
    return preformatted((part for line in lines for part in (*line.render(console), Segment("\n"))), wrap=wrap)


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


def preformatted(segments: Iterable[Segment], *, wrap: bool = False) -> str:
    """Rendered text as a block of HTML; a line that is too long is scrolled, or wrapped."""
    parts = []
    for segment in segments:
        if segment.control or not segment.text:
            continue
        text, css = escape(printable(segment.text)), _css(segment.style)
        parts.append(f'<span style="{css}">{text}</span>' if css and text.strip() else text)
    space = "pre-wrap;word-break:normal;overflow-wrap:anywhere" if wrap else "pre"  # not within words, as notebooks do
    style = f"margin:0;padding:.3em 0;font:13px/1.25 {_FONT};white-space:{space};overflow-x:auto;background:none"
    return f'<pre style="{style}">{"".join(parts).rstrip()}</pre>'


def _css(style: Style | None) -> str:
    if style is None:
        return ""
    css = []
    if style.color is not None and not style.color.is_default:
        known = _COLOURS.get(style.color.name)
        css.append(f"color:{known or style.color.get_truecolor().hex}")
    css += ["font-weight:bold"] if style.bold else []
    css += ["font-style:italic"] if style.italic else []
    css += ["opacity:.65"] if style.dim else []
    css += ["background:rgba(127,127,127,.3)"] if style.reverse else []
    return ";".join(css)
