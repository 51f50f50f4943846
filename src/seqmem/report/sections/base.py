"""The parts of a section; page.html renders them without knowing a section by name."""

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
    """``heading``: the alignment of the column's title, if it differs from its cells'."""

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
    """One section of a task or of the page's end. It is omitted without figures, table, items and commands.

    Args:
        anchor: the end of its id, and the name under which ``figures.SECTIONS`` lists its figures.
        heading: empty: it continues the section before.
        text: the paragraph below the heading; ``quiet``: in a lighter colour.
        beside: figures are placed in pairs on wide screens.
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
