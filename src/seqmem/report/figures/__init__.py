"""The report's figures, by matplotlib: one kind of figure a module (``base`` says what a module has).

``style``, ``axes``, ``marks`` and ``curves`` are what they share, ``output`` is how a figure leaves. ``across`` is of
all tasks together, the others of one.
"""

from collections.abc import Iterable

from . import decays, generalisation, maps, profiles, score, steps, strips, summary
from .base import FigureKind

SECTIONS: dict[str, tuple[FigureKind, ...]] = {
    "summary": (summary,),
    "scores": (score, steps),
    "generalisation": (generalisation,),
    "gradient": (profiles, decays, maps),
    "comparison": (strips,),
}
"""Section of a task (``report.sections``) -> the kinds of figures in it, in order."""

FIRST: tuple[FigureKind, ...] = (summary, profiles, maps, score, generalisation)
"""These are drawn before all others, so that a page that becomes full has them."""


def in_drawing_order() -> Iterable[FigureKind]:
    """Every kind of figure once: FIRST, then the others as their sections come."""
    return dict.fromkeys([*FIRST, *(kind for kinds in SECTIONS.values() for kind in kinds)])
