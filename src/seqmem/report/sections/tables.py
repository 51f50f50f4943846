"""The tables on the page: rows, columns and how their cells are set."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

from ..wording import clean

MOST_ROWS = 200
"""Rows of one table on the page."""

Kind = Literal["left", "right", "folded", "words", "path", "span", "label"]
"""How a cell is set: to the left, to the right, there but folded, folded words, a path, the headline's number, the
label of its row."""


@dataclass(frozen=True)
class Column:
    """``heading``: the alignment of the column's title, if it differs from its cells'."""

    title: str
    kind: Kind = "right"
    heading: Literal["left", "right"] | None = None

    @property
    def to_the_left(self) -> bool:
        return (self.heading or ("right" if self.kind in ("right", "folded", "span") else "left")) == "left"


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


def plain_table(columns: Sequence[Column], rows: Sequence[Sequence[Any]]) -> Table:
    """The first MOST_ROWS of ``rows``, every cell cleaned."""
    return Table(columns, [Row([clean(str(cell), 600) for cell in row]) for row in rows[:MOST_ROWS]])
