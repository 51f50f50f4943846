"""The heat strip: how much of the gradient reaches every timestep, as one line of blocks. And bars in the same style.

    first ▁▁▁▁▁▁▁▂▂▃▃▄▅▆▇█ answer        10⁻⁸ ▁▂▃▄▅▆▇█ 1

The first timestep is at the left, one step back from the answer at the right; 1 is the gradient there. The scale is the
same for every run, so strips can be compared. Colour repeats what the blocks show.

Axes: T time, B batch, K timesteps, the first one first and the one before the answer last.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from itertools import pairwise

import numpy as np
from rich.cells import cell_len
from rich.console import Console, RenderableType
from rich.text import Text

from ...decay import FAINTEST, STRONGEST

EXPLODED = 1.0
"""log10 from which a timestep is marked as exploded: a full block would look like a memory."""

# From indigo to yellow with rising lightness, like matplotlib's plasma but never as dark as a terminal's background.
_RAMP = ("#5a46b8", "#7d3fb5", "#a3389f", "#c73f83", "#e35765", "#f17c4b", "#f8a53a", "#f6d743")
_EXPLODED_STYLE = "bold #ff2d2d"


@dataclass(frozen=True)
class Marks:
    """The characters that a console can show."""

    blocks: str
    zero: str
    unknown: str
    exploded: str
    low: str
    full: str
    parts: str
    """Characters for the partly filled last cell of a bar, from little to much; may be empty."""
    goal: str
    line: str
    arrow: str
    ellipsis: str
    dot: str
    pointer: str


UNICODE = Marks(
    blocks="▁▂▃▄▅▆▇█",
    zero="·",
    unknown="?",
    exploded="▲",
    low="10⁻⁸",
    full="━",
    parts="╸",
    goal="│",
    line="─",
    arrow="→",
    ellipsis="…",
    dot="·",
    pointer="◂",
)
ASCII = Marks(
    blocks=".:-=+*#@",
    zero="0",
    unknown="?",
    exploded="^",
    low="10^-8",
    full="#",
    parts="",
    goal="|",
    line="-",
    arrow="->",
    ellipsis="~",
    dot="-",
    pointer="<",
)


def marks(console: Console) -> Marks:
    """Unicode if the console's encoding has it, else ASCII; the fonts of old Windows consoles lack the blocks."""
    if console.legacy_windows:
        return ASCII
    try:
        "".join(vars(UNICODE).values()).encode(console.encoding)
    except (UnicodeEncodeError, LookupError):
        return ASCII
    return UNICODE


def say(console: Console, *lines: RenderableType) -> None:
    """Print each line in one write. A file or a pipe gets every line whole; a terminal wraps long ones, but not those
    with the overflow ``ignore``: a broken command could not be pasted."""
    for line in lines:
        whole = not console.is_terminal or getattr(line, "overflow", None) == "ignore"
        console.print(line, soft_wrap=whole, highlight=False, markup=False, emoji=False)


def heat_strip(values: np.ndarray, signs: Marks, width: int, longest: int | None = None) -> Text:
    """``values`` (a ``profile``) in at most ``width`` characters, each the mean over its timesteps.

    Args:
        longest: timesteps that fill the whole width. A shorter sequence takes its share at the right, so that in
            strips below each other a column is the same number of timesteps from the answer.
    """
    longest = max(longest or 0, len(values))
    whole = max(1, min(width, longest))
    # Cut by distance from the answer, so that shorter sequences are cut at the same places.
    edges = np.arange(whole + 1) * longest // whole
    parts = [values[::-1][near:far] for near, far in pairwise(edges) if near < len(values)]
    text = Text(" " * (whole - len(parts)), no_wrap=True, end="")
    for part in reversed(parts):
        text.append(*_block(part, signs))
    return text


def _block(values: np.ndarray, signs: Marks) -> tuple[str, str]:
    """(character, style) of the mean of ``values``, without zeros unless there is nothing else."""
    if np.isnan(values).any():
        return signs.unknown, _EXPLODED_STYLE
    there = values[~np.isneginf(values)]
    if not len(there):
        return signs.zero, "dim"
    height = float(there.mean())
    if height >= EXPLODED:
        return signs.exploded, _EXPLODED_STYLE
    share = min(max((height - FAINTEST) / (STRONGEST - FAINTEST), 0.0), 1.0)
    return signs.blocks[min(int(share * len(signs.blocks)), len(signs.blocks) - 1)], _colour(round(share * 28))


@cache
def _colour(shade: int) -> str:
    """One of 29 colours of the ramp: few enough for rich to cache their terminal codes."""
    place = shade / 28 * (len(_RAMP) - 1)
    low = min(int(place), len(_RAMP) - 2)
    pairs = zip(*(bytes.fromhex(_RAMP[i][1:]) for i in (low, low + 1)), strict=True)
    return "#" + "".join(f"{round(a + (b - a) * (place - low)):02x}" for a, b in pairs)


def strip_line(signs: Marks, values: np.ndarray, width: int, note: str = "") -> Text:
    """``first ▁▂▄█ answer  note`` in at most ``width`` characters."""
    room = max(8, width - len("first  answer") - (len(note) + 2 if note else 0))
    line = Text.assemble(("first ", "dim"), heat_strip(values, signs, room), (" answer", "dim"), no_wrap=True)
    return line.append(f"  {note}", "dim") if note else line


def legend(signs: Marks, *shown: np.ndarray) -> Text:
    """What the blocks mean; zeros and explosions are explained where ``shown`` has any."""
    text = Text(end="", no_wrap=True)
    text.append(signs.low + " ", "dim")
    for level, block in enumerate(signs.blocks):
        text.append(block, _colour(round(level * 4)))
    text.append(" 1", "dim")
    if any(np.isneginf(values).any() for values in shown):
        text.append(f"  {signs.zero} zero", "dim")
    if any((values[np.isfinite(values)] >= EXPLODED).any() for values in shown):
        text.append(f"  {signs.exploded}", _EXPLODED_STYLE).append(" over 10", "dim")
    if any(np.isnan(values).any() for values in shown):
        text.append(f"  {signs.unknown}", _EXPLODED_STYLE).append(" not a number", "dim")
    return text


def bar(share: float, goal: float | None, signs: Marks, width: int, style: str) -> Text:
    """``share`` (0 to 1) of ``width`` filled, with a mark at ``goal``; exactly ``width`` characters."""
    fineness = len(signs.parts) + 1
    whole, part = divmod(round(min(max(share, 0.0), 1.0) * width * fineness) if np.isfinite(share) else 0, fineness)
    drawn = signs.full * whole + (signs.parts[part - 1] if part else "")
    text = Text(drawn.ljust(width), style, no_wrap=True, end="")
    if goal is not None:
        at = min(int(goal * width), width - 1)
        text = Text.assemble(text[:at], (signs.goal, "bold"), text[at + 1 :], end="", no_wrap=True)
    return text


def columns(rows: list[list[Text]], *, right: frozenset[int] | set[int] = frozenset(), gap: int = 2) -> list[Text]:
    """Rows of cells as lines, each column as wide as its widest cell; nothing is padded at the end of a line."""
    widths = [max(cell.cell_len for cell in column) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        line = Text(no_wrap=True)
        for place, (cell, width) in enumerate(zip(row, widths, strict=True)):
            room = " " * (width - cell.cell_len)
            line.append_text(Text.assemble(room, cell) if place in right else Text.assemble(cell, room))
            line.append(" " * gap)
        line.rstrip()
        lines.append(line)
    return lines


def packed(parts: Sequence[Text], width: int, gap: str = "  ") -> list[Text]:
    """``parts`` in as few lines as possible; one that is wider than a line continues on the next, at a word."""
    lines: list[Text] = []
    for part in parts:
        if lines and lines[-1].cell_len + len(gap) + part.cell_len <= width:
            lines[-1].append(gap).append_text(part)
        else:
            lines += _broken(part, width)
    return lines


def _broken(text: Text, width: int) -> list[Text]:
    lines = []
    while text.cell_len > width:
        spaces = [place for place, letter in enumerate(text.plain) if letter == " "]
        place = max((place for place in spaces if 0 < cell_len(text.plain[:place]) <= width), default=0)
        if not place:
            break  # a word that is wider than a line
        line, text = text.divide([place, place + 1])[::2]
        lines.append(Text.assemble(line, no_wrap=True))
    return [*lines, Text.assemble(text, no_wrap=True)]  # a new Text, so that the part's style does not spread


def fitted(text: str, width: int, signs: Marks) -> str:
    """``text``, cut to ``width`` cells."""
    if cell_len(text) <= width:
        return text
    while text and cell_len(text) > max(width - 1, 0):
        text = text[:-1]
    return text + signs.ellipsis
