"""Large arrays that are used again: what a layer keeps for its backward pass, from one training step to the next."""

import mmap
import weakref

import numpy as np
import torch
from torch import Tensor


class Memory:
    """Lends flat, uninitialised CPU tensors and takes their memory back when the last tensor on it is gone.

    A fresh array of 100 MB costs the operating system more time than filling it: a fault and a cleared page every
    4 KB. Training asks for the same sizes at every step. At most ``spare`` arrays are kept while nobody uses them.
    A deep copy of a cell shares it; a pickle of it is empty.
    """

    def __init__(self, spare: int = 4) -> None:
        self._spare = spare
        self._free: list[np.ndarray] = []

    def take(self, numbers: int, dtype: torch.dtype) -> Tensor:
        """[numbers], not initialised."""
        size = max(1, numbers) * dtype.itemsize
        fitting = [free for free in self._free if size <= len(free) <= max(4 * size, 1 << 20)]
        array = min(fitting, key=len, default=None)
        if array is None:
            array = _pages(size)
        else:
            self._free = [free for free in self._free if free is not array]
        lent = array[:size]
        # The tensor holds `lent`, which nothing else does: it ends with the tensor's memory, wherever that went.
        weakref.finalize(lent, _give_back, weakref.ref(self), array).atexit = False
        return torch.from_numpy(lent).view(dtype)[:numbers]

    def __deepcopy__(self, _: object) -> "Memory":
        return self

    def __reduce__(self) -> tuple[type["Memory"], tuple[int]]:
        return Memory, (self._spare,)


def _give_back(owner: "weakref.ref[Memory]", array: np.ndarray) -> None:
    memory = owner()
    if memory is not None:
        memory._free = [array, *memory._free][: memory._spare]  # noqa: SLF001  a part of the class


def _pages(size: int) -> np.ndarray:
    """[size] bytes, in large pages where the system has them and they fit."""
    pages = mmap.mmap(-1, size)
    if hasattr(mmap, "MADV_HUGEPAGE") and size >= 1 << 22:
        pages.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(pages, dtype=np.uint8)
