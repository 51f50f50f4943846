"""Checksums of a run's files: a byte that changed on a disk or in a copy is noticed.

A checkpoint holds those of what it counts on, ``checksums.json`` those of all files of a finished run. They tell of
accidents. They are no signature: an attacker who rewrites a file can rewrite its checksum.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from hashlib import blake2b
from pathlib import Path
from typing import Literal

from .directory import RunDirectory
from .files import CHECKSUMS, LOCK, PARTIAL, PROBES, RESULT, STATUS, RunError, open_regular, read_json, write_json

Checksum = partial(blake2b, digest_size=16)

_CHUNK = 1 << 20
"""Bytes to hold in memory at a time."""

_NOT_COVERED = (CHECKSUMS, LOCK, STATUS)
"""Files that are no part of what a run measured."""

Verdict = Literal["same", "altered", "no checksums", "not finished"]


@dataclass(frozen=True)
class Verified:
    """What a comparison of a run's files with their checksums says.

    Args:
        faults: a line each: a file, and what is wrong with it.
        files: the number of files that were compared.
    """

    run: RunDirectory
    verdict: Verdict
    faults: tuple[str, ...] = ()
    files: int = 0


def checksum_of(path: Path, size: int | None = None) -> blake2b:
    """BLAKE2b, 128 bits, of the first ``size`` bytes of a file, or of all.

    Raises:
        OSError: it cannot be read.
    """
    checksum, left = Checksum(), size
    with open_regular(path) as file:
        while chunk := file.read(_CHUNK if left is None else min(_CHUNK, left)):
            checksum.update(chunk)
            left = None if left is None else left - len(chunk)
    return checksum


def write_checksums(run: RunDirectory, coming: Mapping[str, bytes]) -> None:
    """Write ``checksums.json`` for every file of the run.

    Args:
        coming: files that are written only after this one, with their content: ``result.json``, which is the last.
    """
    paths = (*run.path.iterdir(), *run.file(PROBES).glob("*"))
    names = sorted(
        path.relative_to(run.path).as_posix() for path in paths if path.is_file() and not path.name.endswith(PARTIAL)
    )
    sums = {name: checksum_of(run.file(name)).hexdigest() for name in names if name not in (*_NOT_COVERED, *coming)}
    write_json(run.file(CHECKSUMS), sums | {name: Checksum(content).hexdigest() for name, content in coming.items()})


def uncover(run: RunDirectory, *names: str) -> None:
    """Take files out of ``checksums.json`` before they are added to; a process that is killed leaves them so."""
    sums = read_json(run.file(CHECKSUMS))
    if sums is not None:
        write_json(run.file(CHECKSUMS), {name: value for name, value in sums.items() if name not in names})


def cover(run: RunDirectory, *names: str) -> None:
    """Put the files back, as they are now. A run of an earlier version has no checksums, and gets none."""
    sums = read_json(run.file(CHECKSUMS))
    if sums is not None:
        now = {name: checksum_of(run.file(name)).hexdigest() for name in names}
        write_json(run.file(CHECKSUMS), dict(sorted((sums | now).items())))


def verify(run: RunDirectory) -> Verified:
    """Compare a finished run's files with their checksums.

    Raises:
        RunError: ``checksums.json`` or ``status.json`` cannot be read.
    """
    sums = read_json(run.file(CHECKSUMS))
    if not run.finished:
        status = run.status() if sums else None
        if status is None or status.state != "finished" or run.in_use(status):
            return Verified(run, "not finished")
        return Verified(run, "altered", (f"{RESULT} is missing, although the run has finished",))
    if sums is None:
        return Verified(run, "no checksums")
    faults = []
    for name, expected in sums.items():
        path = run.file(name)
        if Path(name).is_absolute() or ".." in Path(name).parts:
            raise RunError(f"{run.file(CHECKSUMS)} names {name}, which is no file of the run")
        try:
            if checksum_of(path).hexdigest() != expected:
                faults.append(f"{name} is not what the run wrote")
        except FileNotFoundError:
            faults.append(f"{name} is missing")
        except OSError as error:
            faults.append(f"{name} cannot be read: {error.strerror or error}")
    return Verified(run, "altered" if faults else "same", tuple(faults), len(sums))
