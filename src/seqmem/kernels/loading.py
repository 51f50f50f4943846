"""Loads the native kernels, if they are built, and chooses the instruction set.

This module does not import torch, so that ``seqmem list`` starts fast.
"""

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
    """No native kernels can be loaded; ``reason`` tells why, and the remedy."""

    reason: str


@dataclass(frozen=True)
class Library:
    """The native kernels, for one instruction set.

    Args:
        isa: the instruction set in use, e.g. ``avx2``.
        isas: all that are built and that this processor supports, best first.
    """

    path: Path
    isa: str
    isas: tuple[str, ...]
    native: ctypes.CDLL

    def function(self, name: str, dtype: str) -> Any:
        """The C function ``name`` for ``dtype``, ``f32`` or ``f64``. It releases Python's global interpreter lock.

        ctypes caches it, so its ``argtypes`` need be set only once.
        """
        return getattr(self.native, f"{name}_{dtype}_{self.isa}")


@functools.cache
def load(folder: Path = HERE) -> Library | Unavailable:
    """The library in ``folder``, beside its sources. The result is cached for the process.

    $SEQMEM_ISA selects an instruction set; by default the best is used.

    Raises:
        ValueError: $SEQMEM_ISA is not an instruction set of this machine.
    """
    path = folder / LIBRARY
    if not path.exists():
        return Unavailable(f"not built, {_COMMAND} builds them")
    try:
        native = ctypes.CDLL(str(path))  # CDLL, unlike PyDLL, releases the global interpreter lock during calls
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
    """The default kernels of recurrences on the CPU, e.g. ``native (avx2)``.

    Raises:
        ValueError: $SEQMEM_ISA is not an instruction set of this machine.
    """
    library = load()
    if isinstance(library, Unavailable):
        return f"torch (no native kernels: {library.reason})"
    return f"native ({library.isa})"
