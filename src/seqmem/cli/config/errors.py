"""Errors of the command line, and how each becomes one line and an exit code.

Exit codes: 2 for a mistake in the command line, 1 for every other error. No torch and no Hydra here: ``hydra_errors``
turns Hydra's errors into a ``ConfigError``.
"""

import argparse
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from functools import partial
from typing import Any, NoReturn

from ...runs.files import RunError
from .commands import command
from .help_text import HelpFormatter
from .home import expanded
from .odd_values import repeated


class ConfigError(Exception):
    """A setting that the user can correct. The message is one line: what, where, what instead."""


class Parser(argparse.ArgumentParser):
    """Reports a mistake in one line with exit code 2; argparse would print the whole usage above it.

    An argument whose metavar is one of ``PATHS`` may begin with ``~``.
    """

    PATHS = ("RUN", "DIR", "FILE")

    def __init__(self, verb: str, **options: Any) -> None:
        super().__init__(prog=command(verb), formatter_class=HelpFormatter, **options)
        self.verb = verb

    def add_argument(self, *names: str, **options: Any) -> argparse.Action:
        if options.get("metavar") in self.PATHS:
            options["type"] = partial(_path, options.get("type", str))
        return super().add_argument(*names, **options)

    def error(self, message: str) -> NoReturn:
        self.exit(2, f"{joined(f'seqmem {self.verb}: {message}; see {self.prog} --help')}\n")


def _path(kind: Callable[[str], Any], given: str) -> Any:
    try:
        return kind(expanded(given))
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def one_line(error: BaseException) -> str:
    """The message to print for an error. Errors other than ``ConfigError`` and ``RunError`` show their type."""
    if isinstance(error, ConfigError | RunError):
        text = str(error)
    elif is_out_of_memory(error):
        text = f"out of memory ({error})" if str(error) else "out of memory"
    elif isinstance(error, OSError) and error.filename is not None and error.strerror:
        text = f"{error.filename}: {error.strerror}"
    else:
        text = f"{type(error).__name__}: {error}"
    return joined(text)


def joined(text: str) -> str:
    """``text`` in one readable line, also where a name in it has several."""
    line = " ".join(line.strip() for line in repeated(text).splitlines() if line.strip())
    return line if len(line) <= _LONGEST else f"{line[: _LONGEST // 2]} ... {line[-_LONGEST // 4 :]}"


_LONGEST = 2000
"""Characters of the longest line: the cause stands at its start or at its end."""


def print_error(text: str) -> None:
    """Print one line on stderr, if it can be written to."""
    with suppress(OSError):
        print(joined(text), file=sys.stderr, flush=True)


_incomplete: ContextVar[bool] = ContextVar("_incomplete", default=False)


def unreadable(text: str) -> None:
    """``note`` of a run or a folder that cannot be read, and is left out: the exit code will be 1."""
    _incomplete.set(True)
    note(text)


@contextmanager
def counted() -> Iterator[Callable[[], bool]]:
    """What is called tells whether ``unreadable`` was, inside."""
    token = _incomplete.set(False)
    try:
        yield _incomplete.get
    finally:
        _incomplete.reset(token)


_held: ContextVar[list[str] | None] = ContextVar("_held", default=None)


def note(text: str) -> None:
    """Print one line about what is left out of a result; inside ``notes_held``, only once there is a result."""
    held = _held.get()
    if held is None:
        print_error(text)
    else:
        held.append(text)


@contextmanager
def notes_held() -> Iterator[None]:
    """Print notes at the end, and none before an error, which is then the only line."""
    if _held.get() is not None:  # the outer one prints them
        yield
        return
    held: list[str] = []
    token = _held.set(held)
    try:
        yield
    finally:
        _held.reset(token)
    for text in held:
        print_error(text)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: Python's, numpy's, or torch's on the CPU, which has no type of its own, or on a GPU."""
    words = ("not enough memory", "out of memory", "can't allocate memory", "Storage size calculation overflowed")
    return isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and any(word in str(error) for word in words)
    )


def exit_code(error: BaseException) -> int:
    return 2 if isinstance(error, ConfigError) else 1


def full_errors() -> bool:
    """True if the user asks for tracebacks with ``HYDRA_FULL_ERROR=1``, as for any Hydra application."""
    return os.environ.get("HYDRA_FULL_ERROR") == "1"


def nearest(word: str, names: Sequence[str], prefix: str = "") -> str:
    """`` Did you mean 'lstm'?``, or nothing.

    Args:
        prefix: is put in front of the name in the answer; it is not compared.
    """
    matches = [name for name in names if name.rpartition(".")[2] == word][:1]  # `lr` for `optimizer.lr`
    import difflib  # late: only a mistake needs it

    matches = matches or difflib.get_close_matches(word, names, 1, 0.6)
    return f" Did you mean '{prefix}{matches[0]}'?" if matches else ""
