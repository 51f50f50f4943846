"""The sections of the report's page: ``overview`` first, ``across``, TASK for every task, ``origin`` last."""

from collections.abc import Callable

from ..figures.base import TaskRuns
from . import comparison, generalisation, gradient, scores, summary
from .base import Section

TASK: tuple[Callable[[TaskRuns], Section], ...] = (
    summary.figures,
    scores.figures,
    scores.table,
    generalisation.figures,
    gradient.figures,
    comparison.figures_and_verdicts,
)
"""The parts of a task, in order."""
