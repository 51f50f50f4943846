"""Loads the native kernels, if they are built, and chooses the instruction set. No torch here: listing stays fast."""

import ctypes
import functools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .build import HERE, LIBRARY, source_hash

_COMMAND = "python -m seqmem.kernels.build"


@dataclass(frozen=True)
class Unavailable:
    """There are no native kernels here; ``reason`` says why, and what to do about it."""

    reason: str


@dataclass(frozen=True)
class Library:
    """The native kernels, for one instruction set.

    Args:
        isa: the instruction set in use, e.g. ``avx2``.
        isas: those that are built and that this processor can run, best first.
    """

    path: Path
    isa: str
    isas: tuple[str, ...]
    native: ctypes.CDLL

    def function(self, name: str, dtype: str) -> Any:
        """The C function ``name`` for ``dtype``, ``f32`` or ``f64``. It runs without Python's global lock.

        The same object each time, so that its ``argtypes`` need be set only once.
        """
        return getattr(self.native, f"{name}_{dtype}_{self.isa}")


@functools.cache
def load(folder: Path = HERE) -> Library | Unavailable:
    """The library in ``folder``, where its sources stand too; looked for once in a process.

    $SEQMEM_ISA chooses another instruction set than the best.

    Raises:
        ValueError: there is no such instruction set here.
    """
    path = folder / LIBRARY
    if not path.exists():
        return Unavailable(f"not built, {_COMMAND} builds them")
    try:
        native = ctypes.CDLL(str(path))  # not PyDLL: other threads of Python go on while a kernel runs
        native.seqmem_isas.restype = native.seqmem_source_hash.restype = ctypes.c_char_p
        built_from, isas = native.seqmem_source_hash().decode(), tuple(native.seqmem_isas().decode().split())
    except (OSError, AttributeError) as error:
        return Unavailable(f"cannot be loaded: {' '.join(str(error).split())}; {_COMMAND} builds them anew")
    if built_from != source_hash(folder):
        return Unavailable(f"built from other sources than these, {_COMMAND} builds them anew")
    isa = os.environ.get("SEQMEM_ISA") or isas[0]
    if isa not in isas:
        raise ValueError(f"SEQMEM_ISA={isa}: this machine has native kernels for {', '.join(isas)}")
    return Library(path, isa, isas, native)


def describe() -> str:
    """What recurrences are computed with on the CPU where nothing else is said, e.g. ``native (avx2)``.

    Raises:
        ValueError: $SEQMEM_ISA names no instruction set of this machine.
    """
    found = load()
    if isinstance(found, Unavailable):
        return f"torch (no native kernels: {found.reason})"
    return f"native ({found.isa})"
