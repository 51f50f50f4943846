"""Gradient traces on disk: ``traces.bin`` while a run trains, ``gradients.npz`` afterwards.

A trace takes 8 bytes for each timestep, sequence and series (every state, and the input): 38 kB for 50 timesteps,
32 sequences and an lstm, so 384 MB for 10,000 traces. Half of the sequences take half of it.

Axes: N traces, T timesteps, B sequences.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import BinaryIO
from zipfile import ZipFile

import numpy as np
from numpy import ndarray

from ..decay import INPUT, together
from .files import RunError, open_regular


@dataclass(frozen=True, eq=False)
class Gradients:
    """Traces of a run. ``step`` [N]; ``answered_at`` [B]; ``norms``: series -> [N T B], float64.

    Raises:
        ValueError: there is no series of a state, or one of another shape.
    """

    step: ndarray
    answered_at: ndarray
    norms: Mapping[str, ndarray]

    def __post_init__(self) -> None:
        states = [values for name, values in self.norms.items() if name != INPUT]
        if not states or any(values.ndim != 3 or len(values) != len(self.step) for values in states):
            raise ValueError("its gradients are not those of a cell with a state")

    def state(self, place: int) -> ndarray:
        """The norm of everything that the cell carries, [T B], of the trace at a place."""
        return together({name: values[place] for name, values in self.norms.items()})


@dataclass(frozen=True, eq=False)
class TraceLayout:
    """The layout of ``traces.bin``: a line of JSON with these fields, then the traces, all of one size."""

    names: tuple[str, ...]
    timesteps: int
    answered_at: ndarray

    @cached_property
    def dtype(self) -> np.dtype:
        """One trace: its step, then the norms [T B] of each series."""
        shape = (self.timesteps, len(self.answered_at))
        return np.dtype([("step", "<i8"), *((f"norm/{name}", "<f8", shape) for name in self.names)])

    @cached_property
    def header(self) -> bytes:
        fields = {"names": self.names, "timesteps": self.timesteps, "answered_at": self.answered_at.tolist()}
        return (json.dumps(fields) + "\n").encode()

    def end(self, count: int) -> int:
        """The end of the first ``count`` traces, in bytes from the start of the file."""
        return len(self.header) + count * self.dtype.itemsize

    def whole(self, size: int) -> int:
        """The number of whole traces in a file of ``size`` bytes."""
        return max(0, size - len(self.header)) // self.dtype.itemsize

    @classmethod
    def read(cls, file: BinaryIO) -> "TraceLayout | None":
        """Read the layout, up to the first trace; None if the line is not written to its end yet.

        Raises:
            ValueError, KeyError, TypeError: the line is not one that this seqmem writes.
        """
        line = file.readline()
        if not line.endswith(b"\n"):
            return None
        fields = json.loads(line)
        layout = cls(tuple(fields["names"]), int(fields["timesteps"]), np.array(fields["answered_at"], dtype=np.int64))
        if layout.header != line:
            raise ValueError("its first line is not one that this seqmem writes")
        return layout


def read_growing(path: Path, *, ends: bool = False) -> Gradients | None:
    """Every whole trace of a ``traces.bin``; None if there is no file, or no whole trace in it.

    Args:
        ends: read the first and the latest trace only.

    Raises:
        RunError: the file cannot be read.
    """
    try:
        with open_regular(path) as file:
            layout = TraceLayout.read(file)
            count = layout.whole(path.stat().st_size) if layout is not None else 0
            if layout is None or not count:
                return None
            parts = []
            for first, many in dict.fromkeys([(0, 1), (count - 1, 1)] if ends else [(0, count)]):
                file.seek(layout.end(first))
                parts.append(np.fromfile(file, layout.dtype, many))
            traces = np.concatenate(parts)
            norms = {name: traces[f"norm/{name}"] for name in layout.names}
            return Gradients(traces["step"], layout.answered_at, norms)
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, OverflowError, MemoryError, RecursionError) as error:
        raise RunError(f"{path} cannot be read: {error}") from error


def read_stored(path: Path, *, ends: bool = False) -> Gradients | None:
    """The traces of a ``gradients.npz``; None if there is no file.

    Args:
        ends: return the first and the latest trace only.

    Raises:
        RunError: the file cannot be read.
    """
    try:
        with open_regular(path) as file, ZipFile(file) as archive:
            prefix, suffix = "norm/", ".npy"
            names = [name[len(prefix) : -len(suffix)] for name in archive.namelist() if name.startswith(prefix)]
            steps = read_array(archive, "step")
            # Not np.unique: it imports numpy.ma, a fifth of the time that `seqmem show` takes.
            chosen = sorted({0, len(steps) - 1}) if ends and len(steps) else slice(None)
            norms = {name: read_array(archive, f"norm/{name}")[chosen] for name in names}
            return Gradients(steps[chosen], read_array(archive, "answered_at"), norms)
    except FileNotFoundError:
        return None
    except Exception as error:  # whatever zipfile and numpy make of damaged bytes
        raise RunError(f"{path} cannot be read: {' '.join(str(error).split()) or type(error).__name__}") from error


def read_array(archive: ZipFile, name: str) -> ndarray:
    """An array of an .npz, which takes no more memory than the file has bytes for it.

    Raises:
        ValueError: its header promises another size than the archive holds.
        KeyError: there is none of that name.
    """
    inside = archive.getinfo(f"{name}.npy")
    with archive.open(inside) as member:
        version = np.lib.format.read_magic(member)
        header = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, fortran, dtype = header(member)
        if dtype.hasobject:
            raise ValueError(f"{name} has Python objects")
        size = math.prod(shape) * dtype.itemsize
        if size != inside.file_size - member.tell():
            raise ValueError(f"{name} is said to have {size} bytes, and the file has {inside.file_size}")
        values = np.frombuffer(member.read(), dtype)
        return values.reshape(shape, order="F" if fortran else "C")
