"""A run's directory: who it is, what it holds, how it survives being killed, and how it is read back.

    outputs/pronoun/lstm/len50-seed0-1a2b3c4d/
        config.json  overrides.json  environment.json    what was run, with what
        status.json         running, interrupted, failed or finished; by which process
        metrics.jsonl       every number, a line each; the same bytes for the same run
        traces.bin          every gradient trace in full, float64, while it trains
        gradients.npz       the same, as soon as it does not
        events.out.tfevents.0.seqmem                     the same for TensorBoard
        checkpoint.pt       the weights, and all that is needed to go on
        result.json         written last: its presence means finished
        evaluations.jsonl   what ``seqmem eval`` added later

Whatever is rewritten is written beside its place and renamed into it; whatever grows is cut back to where the last
checkpoint saw it end. So nothing half-written is ever read.

A trace takes 8 bytes for each timestep, sequence and series (every state, and the input): 38 kB for 50 timesteps,
32 sequences and an lstm, so 384 MB for 10,000 traces. Half of the sequences take half of it.

Axes: N traces, T timesteps, B sequences.
"""

import json
import os
import socket
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from math import isfinite
from pathlib import Path
from typing import Any, BinaryIO, Literal
from zipfile import BadZipFile

import numpy as np
from filelock import FileLock, Timeout

METRICS = "metrics.jsonl"
EVENTS = "events.out.tfevents.0.seqmem"
TRACES = "traces.bin"
GRADIENTS = "gradients.npz"
CHECKPOINT = "checkpoint.pt"
RESULT = "result.json"
STATUS = "status.json"
CONFIG = "config.json"
EVALUATIONS = "evaluations.jsonl"

RunState = Literal["running", "interrupted", "failed", "finished"]


class RunError(Exception):
    """A run's directory cannot be used. The message is one line for people: what, where, what instead."""


def plain_json(value: Any) -> Any:
    """``value`` with what JSON cannot say as strings that ``float`` understands: "inf", "-inf" and "nan"."""
    if isinstance(value, float):  # first what most of it is: to ask for a Mapping takes longest
        return value if isfinite(value) else str(value)
    if isinstance(value, dict | Mapping):
        return {key: plain_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(inner) for inner in value]
    return value


@contextmanager
def written_atomically(path: Path) -> Iterator[BinaryIO]:
    """Write beside ``path`` and rename into it, so that a reader sees the old content or the new, never a part."""
    beside = path.with_name(path.name + ".partial")
    try:
        with beside.open("wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


def write_atomically(path: Path, content: bytes) -> None:
    with written_atomically(path) as file:
        file.write(content)


def write_json(path: Path, value: Any) -> None:
    write_atomically(path, (json.dumps(plain_json(value), indent=1, allow_nan=False) + "\n").encode())


class RunDirectory:
    """One run's place on disk. Reading needs no lock; writing is for the one process inside ``locked()``."""

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)

    def __fspath__(self) -> str:
        return str(self.path)

    def file(self, name: str) -> Path:
        return self.path / name

    @property
    def finished(self) -> bool:
        return self.file(RESULT).exists()

    @contextmanager
    def locked(self) -> Iterator[None]:
        """Hold the directory for this process; the system lets go of it however the process ends.

        Raises:
            RunError: another process holds it, or it cannot be made or written.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            lock = FileLock(self.file("run.lock"))
            lock.acquire(timeout=0)
        except Timeout:
            status = self.status()
            who = f" (process {status.pid} on {status.host})" if status else ""
            raise RunError(f"{self.path} is in use by another seqmem{who}: wait for it, or stop it first") from None
        except OSError as error:
            raise RunError(f"cannot write to {self.path}: {error.strerror or error}") from error
        try:
            yield
        finally:
            lock.release()

    def set_status(self, state: RunState, *, step: int, error: str | None = None) -> None:
        status = {"state": state, "step": step, "error": error, "pid": os.getpid(), "host": socket.gethostname()}
        write_json(self.file(STATUS), status)

    def status(self) -> "Status | None":
        found = read_json(self.file(STATUS))
        if found is not None and found.get("state") == "finished" and not self.finished:
            found["state"] = "running"  # it was about to write its result
        try:
            return Status(**found) if found is not None else None
        except TypeError as error:
            raise RunError(f"{self.file(STATUS)} is not a status that this seqmem knows: {error}") from error

    def restart(self) -> None:
        """Forget everything a former start left behind."""
        for name in (RESULT, CHECKPOINT, METRICS, EVENTS, TRACES, GRADIENTS, EVALUATIONS, STATUS):
            self.file(name).unlink(missing_ok=True)

    # Reading

    def config(self) -> dict[str, Any]:
        """What was run: the resolved configuration.

        Raises:
            RunError: this is not a run's directory.
        """
        found = read_json(self.file(CONFIG))
        if found is None:
            raise RunError(f"{self.path} is not a run: it has no {CONFIG}")
        return found

    def result(self) -> dict[str, Any] | None:
        """``result.json``, with its numbers as numbers; None if the run is not finished."""
        found = read_json(self.file(RESULT))
        return None if found is None else _numbers(found)

    def metrics(self) -> list[dict[str, Any]]:
        return _read_lines(self.file(METRICS))

    def evaluations(self) -> list[dict[str, Any]]:
        return _read_lines(self.file(EVALUATIONS))

    def gradients(self, *, ends: bool = False) -> "Gradients | None":
        """Every trace so far; None if there is none.

        Args:
            ends: the first and the latest alone, which take little memory however many there are.

        Raises:
            RunError: they cannot be read.
        """
        found = self.growing_gradients(ends=ends)
        return found if found is not None else self.stored_gradients(ends=ends)

    def growing_gradients(self, *, ends: bool = False) -> "Gradients | None":
        """What ``traces.bin`` has: every whole trace of a run that trains, or was killed."""
        path = self.file(TRACES)
        try:
            with path.open("rb") as file:
                layout = TraceLayout.read(file)
                count = layout.whole(path.stat().st_size) if layout is not None else 0
                if layout is None or not count:
                    return None
                parts = []
                for first, many in dict.fromkeys([(0, 1), (count - 1, 1)] if ends else [(0, count)]):
                    file.seek(layout.end(first))
                    parts.append(np.fromfile(file, layout.dtype, many))
                traces = np.concatenate(parts)
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise RunError(f"{path} cannot be read: {error}") from error
        return Gradients(traces["step"], layout.answered_at, {name: traces[f"norm/{name}"] for name in layout.names})

    def stored_gradients(self, *, ends: bool = False) -> "Gradients | None":
        """What ``gradients.npz`` has."""
        try:
            with self.file(GRADIENTS).open("rb") as file, np.load(file) as stored:  # np.load leaks what it cannot read
                names = [name.removeprefix("norm/") for name in stored.files if name.startswith("norm/")]
                steps = stored["step"]
                kept = np.unique([0, len(steps) - 1]) if ends and len(steps) else slice(None)
                return Gradients(
                    steps[kept], stored["answered_at"], {name: stored[f"norm/{name}"][kept] for name in names}
                )
        except FileNotFoundError:
            return None
        except (OSError, EOFError, ValueError, KeyError, IndexError, BadZipFile) as error:
            raise RunError(f"{self.file(GRADIENTS)} cannot be read: {error}") from error


@dataclass(frozen=True, eq=False)
class TraceLayout:
    """How traces lie in ``traces.bin``: after a line of JSON that says this, one after another, all of one size."""

    names: tuple[str, ...]
    timesteps: int
    answered_at: np.ndarray

    @cached_property
    def dtype(self) -> np.dtype:
        """Of one trace: its step, then the norms [T B] of each series."""
        shape = (self.timesteps, len(self.answered_at))
        return np.dtype([("step", "<i8"), *((f"norm/{name}", "<f8", shape) for name in self.names)])

    @cached_property
    def header(self) -> bytes:
        said = {"names": self.names, "timesteps": self.timesteps, "answered_at": self.answered_at.tolist()}
        return (json.dumps(said) + "\n").encode()

    def end(self, count: int) -> int:
        """Where ``count`` traces end, in bytes."""
        return len(self.header) + count * self.dtype.itemsize

    def whole(self, size: int) -> int:
        """Whole traces in a file of ``size`` bytes."""
        return max(0, size - len(self.header)) // self.dtype.itemsize

    @classmethod
    def read(cls, file: BinaryIO) -> "TraceLayout | None":
        """From the beginning of the file, up to the first trace; None if that much is not written yet."""
        line = file.readline()
        if not line.endswith(b"\n"):
            return None
        said = json.loads(line)
        found = cls(tuple(said["names"]), int(said["timesteps"]), np.array(said["answered_at"], dtype=np.int64))
        if found.header != line:
            raise ValueError("its first line is not one that this seqmem writes")
        return found


@dataclass(frozen=True)
class Status:
    state: RunState
    step: int
    error: str | None
    pid: int
    host: str


@dataclass(frozen=True, eq=False)
class Gradients:
    """All traces of a run. ``step`` [N]; ``answered_at`` [B]; ``norms``: name -> [N T B], float64."""

    step: np.ndarray
    answered_at: np.ndarray
    norms: dict[str, np.ndarray] = field(default_factory=dict)


def find_runs(folder: Path | str) -> list[RunDirectory]:
    """All runs at or below ``folder``, by path."""
    return [RunDirectory(found.parent) for found in sorted(Path(folder).rglob(CONFIG))]


def read_json(path: Path) -> dict[str, Any] | None:
    """None if there is no such file.

    Raises:
        RunError: it cannot be read.
    """
    try:
        found = json.loads(path.read_text())
    except FileNotFoundError:
        return None
    except NotADirectoryError:
        return None
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error
    if not isinstance(found, dict):
        raise RunError(f"{path} cannot be read: it is not what seqmem writes")
    return found


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """Lines of JSON; a last line without its end is still being written, and is left out."""
    try:
        lines = path.read_text().splitlines(keepends=True)
    except FileNotFoundError:
        return []
    try:
        return [_numbers(json.loads(line)) for line in lines if line.endswith("\n")]
    except ValueError as error:
        raise RunError(f"{path} cannot be read: {error}") from error


def _numbers(value: Any) -> Any:
    """The inverse of ``plain_json``."""
    if isinstance(value, dict):
        return {key: _numbers(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_numbers(inner) for inner in value]
    return float(value) if value in ("inf", "-inf", "nan") else value
