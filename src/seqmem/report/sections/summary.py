"""The task in one figure, below what is said about it."""

from ..figures.base import TaskRuns
from .base import Section


def figures(_: TaskRuns) -> Section:
    return Section("summary")
