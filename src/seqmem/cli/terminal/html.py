"""What the terminal displays as HTML: the same lines, in colours for light and dark pages."""

from collections.abc import Iterable, Sequence
from html import escape
from io import StringIO

from rich.segment import Segment
from rich.style import Style
from rich.text import Text

from ...printable import printable
from .console import Console

WIDTH = 104
"""Characters in a line of HTML: as many as fit beside a notebook's margins."""

_COLOURS = {"green": "#1a9850", "yellow": "#b8860b", "red": "#d73027", "cyan": "#2b8cbe"}
"""Named colours that can be read on light and on dark; rich's own are for dark terminals."""

_FONT = "'DejaVu Sans Mono',Menlo,Consolas,'Liberation Mono',monospace"


class Written(StringIO):
    """As much of a stream as rich asks for."""

    @property
    def encoding(self) -> str:  # pyright: ignore[reportIncompatibleVariableOverride]
        return self._encoding

    def __init__(self, encoding: str) -> None:
        super().__init__()
        self._encoding = encoding


def html_console(width: int = WIDTH) -> Console:
    return Console(
        file=Written("utf-8"), width=width, force_terminal=True, color_system="truecolor", legacy_windows=False,
        force_jupyter=False,
    )  # fmt: skip


def as_html(lines: Sequence[Text], *, wrap: bool = False) -> str:
    console = html_console()
    return preformatted((part for line in lines for part in (*line.render(console), Segment("\n"))), wrap=wrap)


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
