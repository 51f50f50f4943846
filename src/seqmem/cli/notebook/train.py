"""``seqmem.train``: the command line's run, from a notebook or a script."""

import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from rich import get_console
from rich.console import Console
from rich.text import Text

from ...printable import printable
from ..config.compose import compose_run, with_own_arguments
from ..config.own_code import forget_edited, imported_again
from ..launch.one_run import Stopped, execute
from ..terminal.live import Display, RunInfo, moving
from .errors import OneLine, front_door, print_one_line
from .progress import Progress
from .runs import DisplayedRun
from .settings import words_of

_one_at_a_time = threading.RLock()


class StoppedError(OneLine, Stopped):
    """A run was stopped, by the notebook's button or Ctrl-C, and has saved itself."""


@front_door
def train(*overrides: str, **settings: Any) -> DisplayedRun:
    """Train one run, or return it if it is finished, exactly as ``seqmem train`` with the same settings would.

    ``seqmem.train(cell="lstm", seq_len=50, optimizer={"lr": 1e-3})`` is
    ``seqmem train cell=lstm seq_len=50 optimizer.lr=1e-3``; strings are taken as on the command line:
    ``seqmem.train("optimizer.lr=1e-3")``. A choice with settings of its own has its ``name`` among them:
    ``cell={"name": "gru", "hidden_size": 32}``. Numbers and arrays of numpy and torch and ranges are values, too.
    Nothing else of Hydra happens: no working directory, no logging, no effect on a Hydra application this is called
    from.

    A class of your own is given itself, ``cell=Leaky``, ``task=MyTask`` or
    ``cell={"name": Leaky, "hidden_size": 32, "args": {"alpha": 0.9}}``, or by its name,
    ``cell="mycells.Leaky"``. It is the one of its file as it is now: if that was edited since it was imported, it is
    imported again. A class of a notebook is known by its code.

    In a notebook and on a terminal the training is displayed as it goes, and not where output goes to a file or a pipe.

    One run at a time is trained in a process, and another thread's call waits for it: torch's global generator, its
    number of threads and its default dtype are the process's. Run processes, or a sweep, side by side.

    Returns:
        The run's directory, which shows itself: ``run.path``, ``run.result()``, ``run.metrics()``, ``run.gradients()``,
        ``run.plot()``.

    Raises:
        ValueError: a setting cannot be; one line that says which, and what instead.
        seqmem.RunError: the run could not be done; one line that says why.
        KeyboardInterrupt: the run was stopped, and has saved itself.
    """
    try:
        with _one_at_a_time:
            return _train(overrides, settings)
    except Stopped as error:
        print_one_line()
        raise StoppedError(str(error), error.exit_code) from error


def _train(overrides: Sequence[str], settings: Mapping[str, Any]) -> DisplayedRun:
    given, console = with_own_arguments(words_of(overrides, settings)), get_console()
    edited = forget_edited()
    config = compose_run(given)
    if files := imported_again(config, edited):
        line = f"{', '.join(files)}: edited since it was imported, imported again"
        console.print(Text(printable(line)), soft_wrap=True)
    return DisplayedRun(execute(config, overrides=given, console=console, display=_display(console)).path)


def _display(console: Console) -> Callable[[RunInfo], Progress | Display]:
    """What shows the progress: a picture in a notebook or on a terminal, nothing in a file or a pipe."""
    if console.is_jupyter:
        return Progress
    return lambda run: Display(console, run if moving(console) else replace(run, quiet=True))
