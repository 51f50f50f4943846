"""What stands on the report's page: ``overview`` is its head, TASK the parts of every task, ``origin`` its end."""

from collections.abc import Callable

from ..figures.base import TaskRuns
from . import comparison, generalisation, gradient, scores
from .base import Section

TASK: tuple[Callable[[TaskRuns], Section], ...] = (
    scores.figures,
    scores.table,
    generalisation.figures,
    gradient.figures,
    comparison.figures_and_verdicts,
)
"""The parts of a task, in order."""
