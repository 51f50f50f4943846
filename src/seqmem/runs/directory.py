"""A run's directory: its files, how they survive a kill, and the state of the run.

    outputs/pronoun/lstm/len50-seed0-1a2b3c4d/
        config.json  overrides.json  environment.json    what was run, with what
        status.json         running, interrupted, failed or finished; by which process
        metrics.jsonl       every number, a line each; the same bytes for the same run
        traces.bin          every gradient trace in full, float64, while it trains
        gradients.npz       the same, as soon as it does not
        events.out.tfevents.0.seqmem                     the same for TensorBoard
        checkpoint.pt       the weights, and all that is needed to go on
        result.json         written last: its presence means finished
        checksums.json      of all other files
        evaluations.jsonl   what ``seqmem eval`` added later
        before/             the finished run that ``force=true`` replaces, until the new one is finished, too

Files that are rewritten are written beside their place and renamed into it. Files that grow are cut back to their size
at the last checkpoint. So a reader never sees a half-written file.
"""

import errno
import os
import shutil
import socket
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from filelock import FileLock, Timeout

from ..metrics import Metric
from ..printable import printable
from . import files
from .files import RunError, read_json, read_lines, write_json
from .lock import is_held, may_be_shared
from .result import StoredResult, measured_row, read_result, whole
from .traces import Gradients, read_growing, read_stored

State = Literal["finished", "running", "interrupted", "killed", "failed", "not started"]
"""What has become of a run. ``interrupted``: it was asked to stop and has saved itself. ``killed``: its process ended
without writing a last status. An interrupted or killed run goes on from its last checkpoint."""

Recorded = Literal["running", "interrupted", "failed", "finished"]
"""The states that a run writes down itself."""

_MATHEMATICS = (
    "Diverged", "ArithmeticError", "FloatingPointError", "OverflowError", "ZeroDivisionError", "LinAlgError",
    "_LinAlgError",
)  # fmt: skip
"""Errors by which a model itself fails: a result, unlike a full disk or a mistake in the code."""

_SILENCE = 600
"""Seconds without a write after which a process on another host is taken for gone, where its lock cannot be seen."""


class RunDirectory:
    """One run's place on disk. Reading needs no lock; writing is for the one process inside ``locked()``."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def __repr__(self) -> str:
        return printable(f"{type(self).__name__}({str(self.path)!r})")

    def __fspath__(self) -> str:
        return str(self.path)

    def file(self, name: str) -> Path:
        return self.path / name

    @property
    def finished(self) -> bool:
        return self.file(files.RESULT).exists()

    @property
    def state(self) -> State:
        """The state of the run.

        Raises:
            RunError: the status cannot be read.
        """
        if self.finished:
            return "finished"
        status = self.status()
        if status is None:
            return "not started"
        # "finished" is written just before result.json: without a result the process is alive or was killed.
        state = "running" if status.state == "finished" else status.state
        return "killed" if state == "running" and not self.in_use(status) else state

    def in_use(self, status: "Status") -> bool:
        """A process is at work in the directory: it holds the lock. Another may have its id by now, or its host another
        name, as containers do.

        The locks of a file system that several machines mount may be each machine's own: there, a run of another host
        is believed as long as it writes something now and then.
        """
        held, elsewhere = is_held(self.file(files.LOCK)), status.host != socket.gethostname()
        if held is None:
            return elsewhere or _exists(status.pid)
        return held or (elsewhere and may_be_shared(self.path) and self._written_lately())

    def _written_lately(self) -> bool:
        latest = 0.0
        for name in (files.STATUS, files.METRICS, files.EVENTS, files.CHECKPOINT):
            with suppress(OSError):
                latest = max(latest, self.file(name).stat().st_mtime)
        return time.time() - latest < _SILENCE

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the directory for this process; the system releases the lock however the process ends.

        Raises:
            RunError: another process holds it, it cannot be made or written, or its file system has no locks.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise RunError(f"cannot write to {self.path}: {error.strerror or error}") from error
        lock, no_locks = FileLock(self.file(files.LOCK)), f"{self.path}: its file system has no locks"
        try:
            lock.acquire(timeout=0.5, poll_interval=0.02)  # a reader that asks who holds it has it for an instant
        except NotImplementedError as error:
            raise RunError(f"{no_locks}: choose outputs= on another") from error
        except Timeout:
            if is_held(self.file(files.LOCK)) is None:  # a file that stands for a lock there, of any age
                alone = f"if no other seqmem is at work there, delete {files.LOCK}"
                raise RunError(f"{no_locks}: {alone}, or choose outputs= on another") from None
            status = self.status()
            who = f" (process {status.pid} on {status.host})" if status else ""
            raise RunError(f"{self.path} is in use by another seqmem{who}: wait for it, or stop it first") from None
        except OSError as error:
            if error.errno in (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP):
                raise RunError(f"{no_locks} ({error.strerror}): choose outputs= on another") from error
            raise RunError(f"cannot write to {self.path}: {error.strerror or error}") from error
        try:
            yield
        finally:
            lock.release()

    def set_status(self, state: Recorded, *, step: int, error: str | None = None) -> None:
        status = {"state": state, "step": step, "error": error, "pid": os.getpid(), "host": socket.gethostname()}
        write_json(self.file(files.STATUS), status)

    def status(self) -> "Status | None":
        """The last status that the run's process wrote; None before the first. ``state`` also sees a killed process.

        Raises:
            RunError: the file cannot be read.
        """
        values = read_json(self.file(files.STATUS))
        if values is None:
            return None
        try:
            return Status(**values)
        except (TypeError, ValueError) as error:
            where = self.file(files.STATUS)
            raise RunError(f"{where} is not a status that this seqmem knows: {error}") from error

    def restart(self) -> None:
        """Delete all files of earlier starts, but not ``before``."""
        for name in (
            files.RESULT, files.CHECKPOINT, files.METRICS, files.EVENTS, files.TRACES, files.GRADIENTS,
            files.EVALUATIONS, files.STATUS, files.CHECKSUMS,
        ):  # fmt: skip
            self.file(name).unlink(missing_ok=True)
        files.remove(self.file(files.PROBES))
        self.tidy()

    def tidy(self) -> None:
        """Delete what killed processes were writing, and a link in place of a folder; the caller holds the lock."""
        probes = self.file(files.PROBES)
        if probes.is_symlink():
            probes.unlink()
        for folder in (self.path, probes):
            for path in folder.glob(f"*{files.PARTIAL}"):
                files.remove(path)

    def keep_result(self) -> None:
        """Link the files of a finished run into ``before``, where they are a finished run until ``forget_before``.

        Either all of them are there or none, whenever the process is killed.
        """
        new = self.file(f"{files.BEFORE}{files.PARTIAL}")
        for folder in (new, self.file(files.BEFORE)):
            files.remove(folder)
        for path in (*self.path.iterdir(), *self.file(files.PROBES).glob("*")):
            if path.is_file() and path.name != files.LOCK and not path.name.endswith(files.PARTIAL):
                place = new / path.relative_to(self.path)
                place.parent.mkdir(parents=True, exist_ok=True)
                try:
                    os.link(path, place, follow_symlinks=False)
                except OSError:  # a file system without links
                    shutil.copy2(path, place)
        new.rename(self.file(files.BEFORE))

    def forget_before(self) -> None:
        """Delete ``before``: the run that replaces it is finished."""
        files.remove(self.file(files.BEFORE))

    # Reading

    def config(self) -> dict[str, Any]:
        """What was run: the resolved configuration.

        Raises:
            RunError: this is not a run's directory.
        """
        config = read_json(self.file(files.CONFIG))
        if config is None:
            raise RunError(f"{self.path} is not a run: it has no {files.CONFIG}")
        return config

    def environment(self) -> dict[str, Any]:
        """Versions and machine, the command, and how to read the run's numbers; empty where that is not recorded.

        Raises:
            RunError: the file cannot be read.
        """
        return read_json(self.file(files.ENVIRONMENT)) or {}

    def result(self) -> StoredResult | None:
        """What the run measured, as in ``result.json``; None if it is not finished.

        Raises:
            RunError: the file cannot be read, or another version of seqmem wrote it.
        """
        path = self.file(files.RESULT)
        values = read_json(path)
        if values is None:
            return None
        try:
            return read_result(values)
        except KeyError as error:
            name = error.args[0]
            raise RunError(f"{path} has no {name}: it was written by another version of seqmem") from error
        except (TypeError, ValueError, AttributeError, OverflowError) as error:
            raise RunError(f"{path} is not what seqmem writes: {' '.join(str(error).split())}") from error

    def metrics(self) -> list[dict[str, Any]]:
        """Every number of the training, in the order in which it was written."""
        return [measured_row(row) for row in read_lines(self.file(files.METRICS))]

    def selection_score(self) -> float:
        """The score of the last evaluation during training, on validation data: what a search over settings goes by.

        Raises:
            RunError: a file of the run cannot be read, or it is not finished.
        """
        scores = [row["score"] for row in self.metrics() if row.get("kind") == "eval"]
        result = self.result()
        if result is None:
            raise RunError(f"{self.path} is not finished")
        return float(scores[-1]) if scores else result["score"]

    def first_reached(self, metric: Metric, goal: float) -> int | None:
        """The first evaluation during training whose score reached ``goal``, in updates; None: none did.

        Raises:
            RunError: the metrics cannot be read.
        """
        rows = [row for row in self.metrics() if row.get("kind") == "eval"]
        try:
            reached = (row for row in rows if metric.reached(float(row["score"]), goal))
            return next((whole(row["step"], "step") for row in reached), None)
        except (KeyError, TypeError, ValueError) as error:
            raise RunError(f"{self.file(files.METRICS)} is not what seqmem writes: {error}") from error

    def evaluations(self) -> list[dict[str, Any]]:
        """What ``seqmem eval`` added: the fields of a ``result.Length`` each."""
        return read_lines(self.file(files.EVALUATIONS))

    def gradients(self, *, ends: bool = False) -> Gradients | None:
        """Every trace so far; None if there is none. Arguments and errors as for ``series``."""
        return self.series("gradient", ends=ends)

    def series(self, probe: str, *, ends: bool = False) -> Gradients | None:
        """The series of a probe, of every measurement so far; None if there is none.

        ``answered_at`` is -1 if the probe does not measure by distance from an answer.

        Args:
            ends: the first and the latest measurement only, which take little memory however many there are.

        Raises:
            RunError: they cannot be read.
        """
        growing, stored = (self.file(name) for name in files.series_files(probe))
        series = read_growing(growing, ends=ends)  # while the run trains, or if it was killed
        return series if series is not None else read_stored(stored, ends=ends)


@dataclass(frozen=True)
class Status:
    """What a run's process wrote last.

    Raises:
        ValueError: an unknown state, or a step or process id that is no whole number.
    """

    state: Recorded
    step: int
    error: str | None
    pid: int
    host: str

    def __post_init__(self) -> None:
        if self.state not in get_args(Recorded):
            raise ValueError(f"its state is {self.state!r}")
        whole(self.step, "its step")
        whole(self.pid, "its pid")

    @property
    def diverged(self) -> bool:
        """True if the model's mathematics ended the run: the loss became NaN or infinite, or a computation failed.

        Such a run has not solved its task, and counts; a run that failed otherwise says nothing about its model.
        """
        return self.state == "failed" and (self.error or "").partition(":")[0] in _MATHEMATICS


def _exists(pid: int) -> bool:
    """A process of this machine has the id."""
    if os.name != "posix":  # on Windows, os.kill(pid, 0) kills the process
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except (OSError, OverflowError):  # another user's process
        return True
    return True


def find_runs(
    folder: Path | str, unreadable: Callable[[OSError], None] | None = None, marks: Collection[str] = (files.CONFIG,)
) -> list[RunDirectory]:
    """All runs at or below ``folder``, also behind links, each once, by path.

    Args:
        unreadable: as in ``walk``.
        marks: names of which a run's folder has one at least.
    """
    holding = (where for where, below, names in walk(Path(folder), unreadable) if {*marks} & {*below, *names})
    holding = sorted(holding, key=lambda where: where / files.CONFIG)
    return [RunDirectory(where) for where in holding if not where.name.endswith(files.PARTIAL)]


def walk(
    top: Path, unreadable: Callable[[OSError], None] | None = None
) -> Iterator[tuple[Path, list[str], Collection[str]]]:
    """``os.walk`` from the top down, and then behind links to folders; each folder once.

    It goes by its own path if it is below ``top``, else by the link that leads there from below ``top``, and not by a
    link to that link. A link to a folder that contains it leads out of what was asked for, and is not followed.

    Args:
        unreadable: is told of every folder that cannot be read.
    """
    seen: set[str] = set()
    start, given = os.path.realpath(top), os.path.abspath(top)  # noqa: PTH100
    links, aliases = [str(top)], []
    while links or aliases:
        begin = (links or aliases).pop(0)
        real_begin = os.path.realpath(begin)
        for where, below, names in os.walk(begin, onerror=unreadable):
            real = real_begin + where[len(begin) :]
            if real in seen:
                below.clear()
                continue
            seen.add(real)
            yield Path(where), below, names
            for link in sorted(str(Path(where, name)) for name in below if Path(where, name).is_symlink()):
                if not _contains(os.path.realpath(link), real, start):
                    target = os.path.abspath(Path(where, os.readlink(link)))  # noqa: PTH100, PTH115
                    (aliases if _contains(given, target) else links).append(link)


def _contains(folder: str, *others: str) -> bool:
    return any(os.path.commonpath((folder, other)) == folder for other in others)
