"""The runs that are named on a command line. No torch, no Hydra."""

import re
from pathlib import Path

from ...runs.directory import RunDirectory, find_runs
from ...runs.files import RunError
from ...runs.result import StoredResult

OUTPUTS = Path("outputs")


def find(given: str) -> list[RunDirectory]:
    """The runs that a word of a command line names.

    Raises:
        FileNotFoundError: there are none, or several that are no folder's; the message is one line.
    """
    path = Path(given)
    if path.is_dir() and (runs := find_runs(path)):
        return sorted(runs, key=_natural)
    if path.resolve() == OUTPUTS.resolve():
        raise FileNotFoundError(f"{given}: no run there yet; seqmem train makes one")
    if path.is_dir():
        raise FileNotFoundError(f"{given}: no run there; a run's directory has a config.json")
    known = sorted(find_runs(OUTPUTS), key=_natural)
    part = path.as_posix()
    # `pronoun/rnn` is a folder inside outputs; `1a2b` a part of one run's name.
    if within := [run for run in known if f"/{part}/" in f"/{run.path.relative_to(OUTPUTS).as_posix()}/"]:
        return within
    alike = [run for run in known if part in run.path.relative_to(OUTPUTS).as_posix()]
    if len(alike) == 1:
        return alike
    if alike:
        names = ", ".join(str(run.path) for run in alike[:3])
        more = f" and {len(alike) - 3} more" if len(alike) > 3 else ""
        raise FileNotFoundError(f"{given}: {len(alike)} runs are called like that: {names}{more}")
    where = f"{OUTPUTS} has {len(known)} others" if known else f"{OUTPUTS} has none yet; seqmem train makes one"
    raise FileNotFoundError(f"{given}: no run there; {where}")


def _natural(run: RunDirectory) -> list[tuple[int, str]]:
    """A sort key: len50 before len100."""
    return [(int(part) if part.isdecimal() else 0, part) for part in re.split(r"(\d+)", run.path.as_posix())]


def one_run(given: str, command: str) -> RunDirectory:
    """The one run that a word of a command line names.

    Raises:
        RunError: there is none, or more than one.
    """
    if Path(given).exists():
        return RunDirectory(given)
    try:
        runs = find(given)
    except FileNotFoundError as error:
        raise RunError(str(error)) from None
    if len(runs) > 1:
        raise RunError(f"{given}: {len(runs)} runs are called like that, {command} takes one: {runs[0].path}, ...")
    return runs[0]


def finished_result(run: RunDirectory) -> StoredResult:
    """The result of a run that must be finished.

    Raises:
        RunError: it has not been trained to its end, or its files cannot be read.
    """
    result = run.result()
    if result is None:
        status = run.status()
        step = f" at step {status.step}" if status else ""
        raise RunError(f"{run.path} is not finished ({run.state}{step}): train it to the end first")
    return result
