"""What the process of a command spares: looking for garbage among what it imports, and tidying up before it ends.

A process of a user's own, which only calls seqmem, keeps its collector, its exit handlers and its end.
"""

import atexit
import gc
import io
import os
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from weakref import ref

_of_a_command = False
_left_open: list[ref[Any]] = []


def begin() -> None:
    """From now on, this process is known to have been started for the command that it does."""
    global _of_a_command
    _of_a_command = True


@contextmanager
def importing(module: str) -> Iterator[None]:
    """Inside, where ``module`` is imported, no garbage is collected; what is there afterwards is never looked at again.

    A million objects are imported with torch, none of them garbage: looking at them takes 0.15 s meanwhile, and later
    each time. If the module has been imported already, nothing is different.
    """
    if not _of_a_command or not gc.isenabled() or module in sys.modules:
        yield
        return
    if gc.get_freeze_count():  # not the first time, so that a user's own code may have run
        _left_open.extend(map(ref, _open_files()))
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        gc.enable()


def end(code: int) -> None:
    """End this process with an exit code, as Python does but for the tidying up, which takes 0.1 to 0.4 s.

    Threads are waited for, exit handlers are called, and every stream is flushed. It returns where that is impossible,
    or more is asked of Python at its end: then it ends as ever.
    """
    flags = sys.flags
    if not _of_a_command or flags.inspect or flags.interactive or flags.dev_mode or os.environ.get("PYTHONINSPECT"):
        return
    try:
        vars(threading)["_shutdown"]()  # as Python calls it at its end
        atexit._run_exitfuncs()  # noqa: SLF001
        _flush()
    except Exception:  # Python says it in its own words
        return
    os._exit(code)


def _flush() -> None:
    """Write what waits in buffers: of Python's streams, of files that are still open, and of C's streams."""
    for stream in (sys.stdout, sys.stderr):
        stream.flush()
    for file in [*_open_files(), *(each() for each in _left_open)]:
        if file is not None and not file.closed:
            file.flush()
    if "ctypes" in sys.modules:  # C code comes with it, or with torch, which imports it
        sys.modules["ctypes"].CDLL(None).fflush(None)


def _open_files() -> list[Any]:
    """Open files outside of what was imported, for example those of a user's own class."""
    kinds = io.BufferedWriter, io.BufferedRandom, io.TextIOWrapper
    # isinstance would ask each object for its class, and some answer with a warning.
    return [thing for thing in gc.get_objects() if issubclass(type(thing), kinds) and not thing.closed]
