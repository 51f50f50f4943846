"""Errors of the library. A user's mistake is one line: in a notebook, at a prompt, and at the end of a script.

IPython asks an exception how to print it (``_render_traceback_``). Plain Python asks ``sys.excepthook``: it is replaced
when the first such error is raised, and only where it is Python's own; every other error is printed as ever.
``HYDRA_FULL_ERROR=1`` prints tracebacks, as on the command line.
"""

import functools
import inspect
import re
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import ParamSpec, TypeVar

from ...printable import printable
from ...runs.files import RunError
from ..config.errors import ConfigError, full_errors, is_out_of_memory, joined, nearest, one_line
from ..config.odd_values import remember_all

P = ParamSpec("P")
R = TypeVar("R")

_OPTIONS = ("length", "out", "sentence", "task", "text", "threshold", "until", "view")
"""Options of the command line, which are arguments of the same name here."""

_HERE = str(Path(__file__).parents[2])


class OneLine(BaseException):
    """Printed as one line. The chain of causes is kept, for debuggers and for ``HYDRA_FULL_ERROR=1``."""

    def _render_traceback_(self) -> list[str]:
        """The lines that IPython prints."""
        if full_errors():
            return "".join(traceback.format_exception(self)).splitlines()
        return [printable(f"{type(self).__name__}: {self}")]


class SettingError(OneLine, ValueError):
    """A setting, a value or a name that the user can correct: what, where, what instead."""


class CallError(OneLine, TypeError):
    """An argument that the function does not have."""


class FailedError(OneLine, RunError):
    """A run could not be done, or cannot be read."""


def front_door(function: Callable[P, R]) -> Callable[P, R]:
    """Raise every mistake of the user as a ``OneLine``; errors in the code of seqmem or of the user pass unchanged."""
    names = [name for name in inspect.signature(function).parameters if name != "self"]

    @functools.wraps(function)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        try:
            inspect.signature(function).bind(*args, **kwargs)
        except TypeError as error:
            print_one_line()
            wrong = next((name for name in kwargs if name not in names), "")
            hint = nearest(wrong, names) or f" It has {', '.join(names)}."
            raise CallError(f"seqmem.{function.__qualname__}: {error}.{hint}") from None
        remember_all([*args, kwargs])
        try:
            return function(*args, **kwargs)
        except OneLine:
            raise
        except ConfigError as error:
            print_one_line()
            raise SettingError(_in_python(one_line(error))) from error
        except Exception as error:
            known = isinstance(error, RunError) or (isinstance(error, OSError) and error.filename is not None)
            if not (known or is_out_of_memory(error)):
                raise
            print_one_line()
            raise FailedError(_in_python(one_line(error))) from error

    return call


def _in_python(text: str) -> str:
    """A message in which options of the command line are arguments."""
    text = re.sub(r"(?<![\w-])--trust\b", "trust=True", text)
    text = re.sub(r"(?<![\w-])--config-dir ", "config_dir=", text)
    return re.sub(rf"(?<![\w-])--({'|'.join(_OPTIONS)})\b", r"\1", text)


def print_one_line() -> None:
    """From now on plain Python prints every ``OneLine`` as one line."""
    if sys.excepthook is sys.__excepthook__:  # a debugger's or another tool's own is left alone
        sys.excepthook = _hook


def _hook(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    if not isinstance(error, OneLine) or full_errors():
        sys.__excepthook__(kind, error, trace)
        return
    calls = [frame for frame in traceback.extract_tb(trace) if not frame.filename.startswith(_HERE)]
    where = f"{Path(calls[-1].filename).name}:{calls[-1].lineno}" if calls else "seqmem"
    line = joined(f"{where if '<' not in where else 'seqmem'}: {error}")
    print(printable(line), file=sys.stderr, flush=True)
