"""``seqmem.train``: the command line's run, from a notebook or a script."""

import re
import threading
from collections.abc import Iterator, Mapping, Sequence
from os import PathLike, fspath
from typing import Any

from rich import get_console
from rich.text import Text

from ..printable import printable
from ..runs.directory import RunDirectory
from .config.compose import compose_run, with_own_arguments
from .config.errors import ConfigError, one_line
from .config.own_code import forget_edited, imported_again
from .launch.one_run import execute

_one_at_a_time = threading.RLock()


def train(*overrides: str, **settings: Any) -> RunDirectory:
    """Train one run, or return it if it is finished, exactly as ``seqmem train`` with the same settings would.

    ``seqmem.train(cell="lstm", seq_len=50, optimizer={"lr": 1e-3})`` is
    ``seqmem train cell=lstm seq_len=50 optimizer.lr=1e-3``; strings are taken as on the command line:
    ``seqmem.train("optimizer.lr=1e-3")``. A choice with settings of its own has its ``name`` among them:
    ``cell={"name": "gru", "hidden_size": 32}``. Nothing else of Hydra happens: no working directory, no logging,
    no effect on a Hydra application this is called from.

    A class of your own (``cell={"name": "custom", "target": "mycells.Leaky"}``) is the one of the file as it is now: if
    it was edited since it was imported, it is imported again. A class of a notebook is ``"__main__.Leaky"``.

    One run at a time is trained in a process, and another thread's call waits for it: torch's global generator, its
    number of threads and its default dtype are the process's. Run processes, or a sweep, side by side.

    Returns:
        The run's directory: ``run.path``, ``run.result()``, ``run.metrics()``, ``run.gradients()``.

    Raises:
        ValueError: a setting cannot be; one line that says which, and what instead.
        seqmem.runs.directory.RunError: the run could not be done; one line that says why.
    """
    with _one_at_a_time:
        return _train(overrides, settings)


def _train(overrides: Sequence[str], settings: Mapping[str, Any]) -> RunDirectory:
    given, console = with_own_arguments([*overrides, *overrides_of(settings)]), get_console()
    try:
        edited = forget_edited()
        config = compose_run(given)
        if files := imported_again(config, edited):
            line = f"{', '.join(files)}: edited since it was imported, imported again"
            console.print(Text(printable(line)), soft_wrap=True)
        return execute(config, overrides=given, console=console)
    except ConfigError as error:
        raise ValueError(one_line(error)) from error


def overrides_of(settings: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name, value in settings.items():
        if isinstance(value, Mapping) and not prefix:
            if "name" in value:
                yield f"{name}={value['name']}"
            yield from overrides_of({key: inner for key, inner in value.items() if key != "name"}, f"{name}.")
        else:
            yield f"{prefix}{name}={_text(value)}"


def _text(value: Any) -> str:
    """A value in Hydra's grammar."""
    if isinstance(value, str | PathLike):
        text = fspath(value)
        if re.fullmatch(r"\w+", text, re.ASCII):
            return text
        # Double a backslash only before a quote: Hydra reads it so.
        return "'" + re.sub(r"(\\*)('|$)", lambda match: match[1] * 2 + ("\\'" if match[2] else ""), text) + "'"
    if value is None or isinstance(value, bool):
        return {None: "null", True: "true", False: "false"}[value]
    if isinstance(value, list | tuple):
        return "[" + ",".join(_text(item) for item in value) + "]"
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{key}:{_text(item)}" for key, item in value.items()) + "}"
    return str(value)
