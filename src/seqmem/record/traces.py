"""The series of one probe on disk: a file that grows while a run trains, and the compressed one it ends in.

For the gradient these are ``traces.bin`` and ``gradients.npz``.
Axes: T time, B batch.
"""

from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from zipfile import ZipFile

import numpy as np
from jaxtyping import Float
from numpy import ndarray

from ..measurement import Measurement
from ..runs.directory import RunDirectory
from ..runs.files import RunError, series_files, written_atomically
from ..runs.traces import TraceLayout, read_growing, read_stored
from .events import GrowingFile

_CHUNK = 1 << 20
"""Bytes to hold in memory at a time while a file is copied."""

UNANSWERED = -1
"""``answered_at`` in the file, of series that are not measured by distance from an answer."""


class TraceFile:
    """Series [T B] of a probe, one trace a measurement; in memory are the steps only."""

    def __init__(self, run: RunDirectory, probe: str) -> None:
        self._growing, self._stored = (run.file(name) for name in series_files(probe))
        self._file: GrowingFile | None = None
        self._layout: TraceLayout | None = None
        self.steps = array("q")

    def cut_back(self, count: int, checkpoint: Path, checksum: str | None = None) -> None:
        """Continue after the first ``count`` traces, which are in the growing file or, if the run had stopped, in the
        stored one.

        Args:
            checksum: of the growing file up to there; None: not known.

        Raises:
            RunError: neither file has that many, or one cannot be read or was changed.
        """
        if not count:
            self._growing.unlink(missing_ok=True)
            return
        grown = read_growing(self._growing, ends=True)
        if grown is None or self._read_layout().whole(self._growing.stat().st_size) < count:
            self._restore(count, checkpoint)
        layout = self._read_layout()
        self.steps = array("q", [step for chunk in self._chunks(count) for step in chunk["step"].tolist()])
        try:
            self._file = GrowingFile(self._growing, layout.end(count), checksum)
        except ValueError as error:
            raise RunError(f"{error}: delete {checkpoint} to start this run over") from error

    def append(self, step: int, measurement: Measurement) -> None:
        """Add the series of a measurement.

        Raises:
            RunError: the file was begun with other series.
        """
        series = {name: values.reshape(len(values), -1) for name, values in measurement.series.items()}
        if self._file is None or self._layout is None:
            first = next(iter(series.values()))
            answered_at = measurement.answered_at
            if answered_at is None:
                answered_at = np.full(first.shape[1], UNANSWERED)
            self._layout = TraceLayout(tuple(series), len(first), answered_at)
            self._growing.parent.mkdir(exist_ok=True)
            self._file = GrowingFile(self._growing)
            self._file.write(self._layout.header)
        if series.keys() != set(self._layout.names):
            before, now = (", ".join(sorted(names)) for names in (self._layout.names, series))
            raise RunError(
                f"{self._growing} has traces of {before}; a cell that has {now} cannot go on: use force=true"
            )
        self._file.write(_trace_bytes(step, [series[name] for name in self._layout.names]))
        self.steps.append(step)

    def read(self, places: Iterable[int]) -> Iterator[Measurement]:
        """The series of some traces, counted from 0, without scalars."""
        layout = self._read_layout()
        answered_at = None if (layout.answered_at == UNANSWERED).any() else layout.answered_at
        self.flush()
        if self._file is not None:
            self._file.check()
        with self._growing.open("rb") as file:
            for place in places:
                file.seek(layout.end(place))
                (trace,) = np.fromfile(file, layout.dtype, 1)
                yield Measurement({}, {name: trace[f"norm/{name}"] for name in layout.names}, answered_at)

    @property
    def waiting(self) -> int:
        """Bytes that only this process has."""
        return self._file.waiting if self._file is not None else 0

    def flush(self) -> None:
        if self._file is not None:
            self._file.flush()

    def sync(self) -> None:
        """Flush, and wait until everything is on the disk."""
        if self._file is not None:
            self._file.position()

    @property
    def checksum(self) -> str | None:
        """Checksum of the growing file, after ``sync``; None: there is none."""
        return self._file.checksum if self._file is not None else None

    def verify(self) -> None:
        """Raise RunError if something else has changed the growing file."""
        if self._file is not None:
            self._file.verify()

    def store(self) -> None:
        """Turn the growing file into the stored one, as ``np.savez`` writes it. Nothing can be appended after this."""
        if self._file is None:
            return
        self.close()
        layout, count = self._read_layout(), len(self.steps)
        small = {"step": np.array(self.steps), "answered_at": layout.answered_at}
        shape = (count, layout.timesteps, len(layout.answered_at))
        header = {"descr": "<f8", "fortran_order": False, "shape": shape}
        with written_atomically(self._stored) as file, ZipFile(file, "w") as archive:
            for name, values in small.items():
                with archive.open(f"{name}.npy", "w") as member:
                    np.lib.format.write_array(member, values)
            for name in layout.names:
                with archive.open(f"norm/{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array_header_1_0(member, header)
                    for chunk in self._chunks(count):
                        member.write(chunk[f"norm/{name}"].tobytes())
        self._growing.unlink()

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()

    def _read_layout(self) -> TraceLayout:
        if self._layout is None:
            with self._growing.open("rb") as file:
                self._layout = TraceLayout.read(file)
        assert self._layout is not None
        return self._layout

    def _chunks(self, count: int) -> Iterator[ndarray]:
        """The first ``count`` traces in the growing file, about a megabyte at a time."""
        layout = self._read_layout()
        at_once = max(1, _CHUNK // layout.dtype.itemsize)
        with self._growing.open("rb") as file:
            file.seek(layout.end(0))
            for start in range(0, count, at_once):
                yield np.fromfile(file, layout.dtype, min(at_once, count - start))

    def _restore(self, count: int, checkpoint: Path) -> None:
        """Write the growing file anew from the stored one."""
        stored = read_stored(self._stored)
        if stored is None or len(stored.step) < count:
            lacking = self._growing if stored is None else self._stored
            raise RunError(f"{lacking} lacks traces: delete {checkpoint} to start this run over")
        timesteps = next(iter(stored.norms.values())).shape[1]
        self._layout = TraceLayout(tuple(stored.norms), timesteps, stored.answered_at)
        with written_atomically(self._growing) as file:
            file.write(self._layout.header)
            for i in range(count):
                file.write(_trace_bytes(int(stored.step[i]), [values[i] for values in stored.norms.values()]))


def _trace_bytes(step: int, series: Sequence[Float[ndarray, "T B"]]) -> bytes:
    """One trace, as ``TraceLayout.dtype`` describes it."""
    return b"".join([step.to_bytes(8, "little"), *(norms.astype("<f8", copy=False).tobytes() for norms in series)])


def counts(files: Mapping[str, TraceFile]) -> dict[str, int]:
    """Probe -> the number of its traces."""
    return {probe: len(file.steps) for probe, file in files.items()}
