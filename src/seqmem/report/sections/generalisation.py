"""Scores at lengths that were not trained on."""

from ..figures.base import TaskRuns
from .base import Section


def figures(_: TaskRuns) -> Section:
    return Section("generalisation", "At lengths it was not trained on")
