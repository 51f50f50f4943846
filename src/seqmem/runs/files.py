"""The files of a run: their names, how they are written atomically, how JSON is read back."""

import errno
import io
import json
import os
import shutil
import stat
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from math import isfinite
from pathlib import Path
from typing import Any, BinaryIO

CONFIG = "config.json"
OVERRIDES = "overrides.json"
ENVIRONMENT = "environment.json"
STATUS = "status.json"
METRICS = "metrics.jsonl"
TRACES = "traces.bin"
GRADIENTS = "gradients.npz"
PROBES = "probes"  # a folder
EVENTS = "events.out.tfevents.0.seqmem"
CHECKPOINT = "checkpoint.pt"
RESULT = "result.json"
EVALUATIONS = "evaluations.jsonl"
CHECKSUMS = "checksums.json"
ERROR = "error.txt"
LOCK = "run.lock"
SPANS = "spans"  # a folder beside the runs: what `seqmem span` counted
BEFORE = "before"  # a folder: the finished run that force=true is replacing


def series_files(probe: str) -> tuple[str, str]:
    """Where the series of a probe are: (while the run trains, afterwards)."""
    if probe == "gradient":  # stored at the top level, as before there were other probes
        return TRACES, GRADIENTS
    return f"{PROBES}/{probe}.bin", f"{PROBES}/{probe}.npz"


class RunError(Exception):
    """A run's directory cannot be used. The message is one line for people: what, where, what instead."""


PARTIAL = ".partial"
"""How names of files end that are being written; those of a killed process are deleted when its run goes on."""

_PLAIN = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_CLOEXEC", 0)


def not_followed(path: str, flags: int) -> int:
    """For ``open(..., opener=not_followed)``: OSError if the path is a link."""
    return os.open(path, flags | _PLAIN, 0o666)


def plain_json(value: Any) -> Any:
    """``value`` with numbers that JSON lacks as strings that ``float`` understands: "inf", "-inf" and "nan"."""
    if isinstance(value, float):  # the most frequent type first; a test for Mapping takes longest
        return value if isfinite(value) else str(value)
    if isinstance(value, dict | Mapping):
        return {key: plain_json(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [plain_json(inner) for inner in value]
    return value


def with_numbers(value: Any) -> Any:
    """The inverse of ``plain_json``."""
    if isinstance(value, dict):
        return {key: with_numbers(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [with_numbers(inner) for inner in value]
    return float(value) if value in ("inf", "-inf", "nan") else value


def remove(path: Path) -> None:
    """Delete a file, a folder or a link, and not what the link leads to, if it is there. Best effort for folders."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)


@contextmanager
def written_atomically(path: Path) -> Iterator[BinaryIO]:
    """Write beside ``path`` and rename into it, so that a reader sees the old content or the new, never a part.

    The file beside it is a new one: what a killed process left there, or a link that waits there, is not opened.
    """
    beside = path.with_name(path.name + PARTIAL)
    try:
        beside.unlink(missing_ok=True)
        with beside.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        beside.replace(path)
    except OSError:
        beside.unlink(missing_ok=True)
        raise


def open_regular(path: Path) -> BinaryIO:
    """Open a file for reading; a FIFO or a device, which may never end, is an OSError at once, like a folder."""
    file = io.open(path, "rb", opener=_at_once)  # noqa: SIM115, UP020  (as Path.open does)
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is no regular file", str(path))
    return file


def _at_once(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))


def read_bytes(path: Path) -> bytes:
    with open_regular(path) as file:
        return file.read()


def write_atomically(path: Path, content: bytes) -> None:
    with written_atomically(path) as file:
        file.write(content)


def json_bytes(value: Any) -> bytes:
    return (json.dumps(plain_json(value), indent=1, allow_nan=False) + "\n").encode()


def write_json(path: Path, value: Any) -> None:
    write_atomically(path, json_bytes(value))


def read_json(path: Path) -> dict[str, Any] | None:
    """A JSON object; None if there is no such file. Numbers that JSON lacks stay strings, see ``with_numbers``.

    Raises:
        RunError: it cannot be read, or is no object.
    """
    try:
        value = json.loads(read_bytes(path))
    except (FileNotFoundError, NotADirectoryError):
        return None
    except (OSError, ValueError, RecursionError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error
    if not isinstance(value, dict):
        raise RunError(f"{path} cannot be read: it is not what seqmem writes")
    return value


def read_lines(path: Path) -> list[dict[str, Any]]:
    """JSON objects, one a line; none if there is no such file. A last line without its end is still being written.

    Raises:
        RunError: a line cannot be read, or is no object.
    """
    try:
        lines = read_bytes(path).decode().split("\n")
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error
    try:
        values = [with_numbers(json.loads(line)) for line in lines[:-1]]
    except (ValueError, RecursionError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error
    if not all(isinstance(value, dict) for value in values):
        raise RunError(f"{path} cannot be read: it is not what seqmem writes")
    return values
