"""Runs by the names on a command line. No torch, no Hydra."""

import os
import re
from collections.abc import Callable, Collection, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from ...runs.directory import RunDirectory, find_runs
from ...runs.files import BEFORE, CONFIG, PARTIAL, RunError
from ...runs.result import StoredResult
from ...runs.settings import IDENTITY, flat, later
from .commands import command
from .errors import ConfigError, notes_held, unreadable

OUTPUTS = Path("outputs")

T = TypeVar("T")

_LENGTH_SETTINGS = ("difficulty", "usual_seq_len", "lengths", "shortest")
"""Settings of a task that only determine the training lengths, or what others are by default."""


def _say_left_out(error: OSError) -> None:
    unreadable(f"left out: {error.filename} cannot be read: {error.strerror}")


def find(
    given: str, closed: Callable[[OSError], None] = _say_left_out, marks: Collection[str] = (CONFIG,)
) -> list[RunDirectory]:
    """The runs that one word of a command line names: a run, a folder of runs, or a part of a path in ``OUTPUTS``.

    Args:
        closed: is told of every folder that cannot be read, beside runs.
        marks: names of which a run's folder has one at least.

    Raises:
        FileNotFoundError: no run matches, or several runs in different folders do, or it cannot be read; the message is
            one line.
    """
    path = Path(given)
    errors: list[OSError] = []
    runs = find_runs(path, errors.append, marks) if path.is_dir() else []
    if errors and not runs:
        raise FileNotFoundError(f"{errors[0].filename} cannot be read: {errors[0].strerror}")
    for error in errors:
        closed(error)
    if runs:
        return ordered(runs)
    if os.path.realpath(path) == os.path.realpath(OUTPUTS):  # Path.resolve raises where links go in a circle
        raise FileNotFoundError(f"{given}: no run there yet; {command('train')} makes one")
    if path.is_dir():
        raise FileNotFoundError(f"{given}: no run there; a run's directory has a config.json")
    known = find_runs(OUTPUTS)
    part = path.as_posix()
    # `pronoun/rnn` is a folder inside outputs; `1a2b` is a part of one run's name.
    if within := [run for run in known if f"/{part}/" in f"/{run.path.relative_to(OUTPUTS).as_posix()}/"]:
        return ordered(within)
    alike = ordered([run for run in known if part in run.path.relative_to(OUTPUTS).as_posix()]) or _beginning(path)
    if len(alike) == 1:
        return alike
    if alike:
        names = ", ".join(str(run.path) for run in alike[:3])
        more = f" and {len(alike) - 3} more" if len(alike) > 3 else ""
        raise FileNotFoundError(f"{given} matches {len(alike)} runs: {names}{more}")
    where = f"{OUTPUTS} has {len(known)} others" if known else f"{OUTPUTS} has none yet; {command('train')} makes one"
    raise FileNotFoundError(f"{given}: no run there; {where}")


def _beginning(path: Path) -> list[RunDirectory]:
    """The runs in the path's folder whose names begin like its last part: ``playground/pronoun/rnn/len10-seed0``."""
    try:
        beside = [RunDirectory(each) for each in path.parent.iterdir() if each.name.startswith(path.name)]
    except OSError:  # there is no such folder, or it may not be read
        return []
    return ordered([run for run in beside if run.file(CONFIG).exists() and run.path.suffix != PARTIAL])


def ordered(runs: Iterable[RunDirectory]) -> list[RunDirectory]:
    """Runs by path, len50 before len100; of one length by their settings, the seeds of each together.

    The hash in a name orders nothing. Settings are read only where names differ in the hash alone.
    """
    runs = sorted(runs, key=_natural)
    alike: dict[Path, list[RunDirectory]] = {}
    for run in runs:
        alike.setdefault(run.path.with_name(re.sub(r"-[0-9a-f]{8}$", "", run.path.name)), []).append(run)
    if len(alike) == len(runs):
        return runs
    lengths: dict[Path, list[RunDirectory]] = {}
    for name, several in alike.items():
        lengths.setdefault(name.with_name(re.sub(r"-seed\d+$", "", name.name)), []).extend(several)
    return [run for several in lengths.values() for run in sorted(several, key=_settings)]


def _natural(run: RunDirectory) -> list[tuple[int, str]]:
    """A sort key: len50 before len100."""
    return [(int(part) if part.isdecimal() else 0, part) for part in re.split(r"(\d+)", run.path.as_posix())]


def _settings(run: RunDirectory) -> list[tuple[str, bool, float, str]]:
    """A sort key: numbers by value and before words, the seed last."""
    try:
        configuration = run.config()
        settings = later(configuration) | flat(configuration, *IDENTITY)
    except RunError:  # the reader of the run says why
        return []
    seed = settings.pop("seed", None)
    values = [*sorted(settings.items()), ("seed", seed)]
    number = {name: isinstance(value, int | float) and abs(value) < 1e300 for name, value in values}
    return [(name, not number[name], float(value) if number[name] else 0.0, str(value)) for name, value in values]


@notes_held()
def one_run(given: str, verb: str) -> RunDirectory:
    """The only run that one word of a command line names.

    Raises:
        RunError: no run matches, or several do.
    """
    if Path(given).exists():
        return RunDirectory(given)
    try:
        runs = find(given)
    except FileNotFoundError as error:
        raise RunError(str(error)) from None
    if len(runs) > 1:
        raise RunError(f"{given} matches {len(runs)} runs, {command(verb)} takes one: {runs[0].path}, ...")
    return runs[0]


def finished_result(run: RunDirectory) -> StoredResult:
    """The result of a finished run.

    Raises:
        RunError: the run is not finished, or its files cannot be read.
    """
    result = run.result()
    if result is None:
        status = run.status()
        step = f" at step {status.step}" if status else ""
        before = f"; what it replaces is in {run.file(BEFORE)}" if run.file(BEFORE).exists() else ""
        repair = "train it to the end first" if status is None or not status.diverged else "it diverged"
        raise RunError(f"{run.path} is not finished ({run.state}{step}): {repair}{before}")
    return result


@dataclass(frozen=True)
class LeftOut:
    """Unfinished runs of a folder: ``count`` of the ``total`` runs that ``name`` matches."""

    name: str
    count: int
    total: int


@notes_held()
def finished_runs(names: Sequence[str]) -> tuple[list[RunDirectory], list[LeftOut]]:
    """The finished runs that words of a command line name, each once, and the unfinished ones of folders.

    Raises:
        ConfigError: a word names no run.
        RunError: a word names a single run, which is not finished or unreadable, or a folder without a usable run.
    """
    by_path: dict[Path, RunDirectory] = {}
    left_out: list[LeftOut] = []
    for name in names:
        try:
            runs = find(name)
        except FileNotFoundError as error:
            raise ConfigError(str(error)) from None
        if len(runs) == 1:
            finished_result(runs[0])
            runs[0].config()
        finished = [run for run in runs if run.finished]
        if not finished:
            raise RunError(f"{name}: none of its {len(runs)} runs is finished; {command('train')} goes on with them")
        if len(finished) < len(runs):
            left_out.append(LeftOut(name, len(runs) - len(finished), len(runs)))
        usable = readable(finished, lambda run: (task_settings(run), run.result()))
        by_path |= {run.path.resolve(): run for run, _ in usable}
    return list(by_path.values()), left_out


@notes_held()
def readable(
    runs: Sequence[RunDirectory], read: Callable[[RunDirectory], T], names: Sequence[str] = ()
) -> list[tuple[RunDirectory, T]]:
    """What ``read`` makes of each run; a damaged run of a folder is named on stderr, and hides no other.

    Args:
        names: the words of the command line; a run that one of them names by itself must be readable.

    Raises:
        RunError: such a run is damaged, or all are; the line is that of the first.
        ConfigError: as RunError, of a configuration that this version does not take or trust.
    """
    named = [find(name) for name in names]
    alone = {found[0].path.resolve() for found in named if len(found) == 1}
    usable: list[tuple[RunDirectory, T]] = []
    errors: list[RunError | ConfigError] = []
    for run in runs:
        try:
            usable.append((run, read(run)))
        except (RunError, ConfigError) as error:
            named_error = error if isinstance(error, RunError) else ConfigError(f"{run.path}: {error}")
            if run.path.resolve() in alone:
                raise named_error from error
            errors.append(named_error)
    if errors and not usable:
        raise errors[0]
    for error in errors:
        unreadable(f"left out: {error}")
    return usable


def run_of_another_task(runs: Sequence[RunDirectory]) -> RunDirectory | None:
    """The first run that was trained on another task than ``runs[0]``; None if all were trained on one task.

    Raises:
        RunError: a configuration cannot be read.
    """
    task = task_settings(runs[0])
    return next((run for run in runs[1:] if task_settings(run) != task), None)


def task_settings(run: RunDirectory) -> dict[str, Any]:
    """The settings of the run's task, without those that only determine the training lengths.

    Raises:
        RunError: the configuration cannot be read, or has no task.
    """
    task = run.config().get("task")
    if not isinstance(task, dict):
        raise RunError(f"{run.path} cannot be read: its config has no task")
    return {key: value for key, value in task.items() if key not in _LENGTH_SETTINGS}
