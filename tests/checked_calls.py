"""Types and shapes that jaxtyping checks in the tests: the first calls of every function, in every test file.

Checking each call took a third of the suite's time; a training calls the same functions thousands of times.
"""

import sys
from collections import Counter
from collections.abc import Callable
from functools import wraps
from types import CodeType, FunctionType
from typing import Any

import jaxtyping

CALLS = 20
"""Calls of a function that are checked in one test file."""

NESTED = 5
"""Definitions of an inner function that are made checkable in one test file: each takes a millisecond."""

_checked: Counter[int] = Counter()
"""Identity of a function's code -> calls. A code's hash takes longer: it is computed anew from its constants."""

_prepared: Counter[CodeType] = Counter()


class _FirstCalls(type(jaxtyping.config)):
    """jaxtyping asks ``jaxtyping_disable`` at every call, in a frame where ``fn`` is the annotated function."""

    @property
    def jaxtyping_disable(self) -> bool:
        return _are_done(id(getattr(sys._getframe(1).f_locals.get("fn"), "__code__", None)))

    @jaxtyping_disable.setter
    def jaxtyping_disable(self, value: bool) -> None: ...


def _are_done(code: int) -> bool:
    if _checked[code] >= CALLS:
        return True
    _checked[code] += 1
    return False


def _unless_done(function: FunctionType, checked: Callable[..., Any]) -> Callable[..., Any]:
    """``checked``, and later ``function`` itself: asking ``jaxtyping_disable`` costs two microseconds a call."""
    code = id(function.__code__)

    @wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        return (function if _checked[code] >= CALLS else checked)(*args, **kwargs)

    return call


def _first_definitions(jaxtyped: Callable[..., Any]) -> Callable[..., Any]:
    def prepare(**options: Any) -> Callable[[Any], Any]:
        def prepared(kind: Any) -> Any:
            if not isinstance(kind, FunctionType):  # a class, a property: jaxtyping makes its functions checkable
                return jaxtyped(kind, **options)
            if "<locals>" in kind.__qualname__:
                _prepared[kind.__code__] += 1
                if _prepared[kind.__code__] > NESTED:
                    return kind
            return _unless_done(kind, jaxtyped(kind, **options))

        return prepared

    return prepare


def install() -> None:
    jaxtyping.config.__class__ = _FirstCalls
    jaxtyping.jaxtyped = _first_definitions(jaxtyping.jaxtyped)  # the import hook decorates with it


def start_again() -> None:
    """Check the next calls, too: at the start of a test file."""
    _checked.clear()
    _prepared.clear()
