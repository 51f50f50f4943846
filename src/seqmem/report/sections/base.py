"""The parts of a section; page.html renders them without knowing a section by name."""

from collections.abc import Sequence
from dataclasses import dataclass

from .tables import Table


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
