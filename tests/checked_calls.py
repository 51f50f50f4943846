"""Types and shapes that jaxtyping checks in the tests: the first calls of every function, in every test file.

Checking each call took a third of the suite's time; a training calls the same functions thousands of times.
"""

import sys
from collections import Counter

import jaxtyping

CALLS = 50
"""Calls of a function that are checked in one test file."""

_checked: Counter[int] = Counter()


class _FirstCalls(type(jaxtyping.config)):
    """jaxtyping asks ``jaxtyping_disable`` at every call, in a frame where ``fn`` is the annotated function."""

    @property
    def jaxtyping_disable(self) -> bool:
        return _are_done(id(sys._getframe(1).f_locals.get("fn")))

    @jaxtyping_disable.setter
    def jaxtyping_disable(self, value: bool) -> None: ...


def _are_done(function: int) -> bool:
    if _checked[function] >= CALLS:
        return True
    _checked[function] += 1
    return False


def install() -> None:
    jaxtyping.config.__class__ = _FirstCalls


def start_again() -> None:
    """Check the next calls, too: at the start of a test file."""
    _checked.clear()
