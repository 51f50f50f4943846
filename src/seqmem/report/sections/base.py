"""What a section of the page is made of; page.html draws it, and knows none by name."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..wording import clean

MOST_ROWS = 200
"""Rows of one table on the page."""

Kind = Literal["left", "right", "words", "path", "span", "label"]
"""How a cell is set: to the left, to the right, folded words, a path, the headline's number, the label of its row."""


@dataclass(frozen=True)
class Column:
    """``heading``: how the column's title is set, if otherwise than its cells."""

    title: str
    kind: Kind = "right"
    heading: Literal["left", "right"] | None = None

    @property
    def to_the_left(self) -> bool:
        return (self.heading or ("right" if self.kind in ("right", "span") else "left")) == "left"


@dataclass(frozen=True)
class Row:
    """``colour``: the number of its label's colour; None: no swatch."""

    cells: Sequence[Any]
    colour: int | None = None


@dataclass(frozen=True)
class Table:
    columns: Sequence[Column]
    rows: Sequence[Row]
    headline: bool = False


@dataclass(frozen=True)
class Section:
    """One part of a task's section, or of what was run. A part without figures, table, items and commands is left out.

    Args:
        anchor: the end of its id, and the name under which ``figures.SECTIONS`` lists its figures.
        heading: empty: it goes on from the part before.
        text: the paragraph below the heading; ``quiet``: in a lighter colour.
        beside: figures stand in pairs where there is room.
        items: sentences of a list.
        commands: shown as they are.
        notes: for the end of the task.
    """

    anchor: str
    heading: str = ""
    text: str = ""
    quiet: bool = False
    beside: bool = False
    table: Table | None = None
    items: Sequence[str] = ()
    commands: Sequence[str] = ()
    notes: Sequence[str] = ()


def plain_table(columns: Sequence[Column], rows: Sequence[Sequence[Any]]) -> Table:
    """The first MOST_ROWS of ``rows``, every cell cleaned."""
    return Table(columns, [Row([clean(str(cell), 600) for cell in row]) for row in rows[:MOST_ROWS]])
