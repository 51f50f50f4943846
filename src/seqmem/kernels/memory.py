"""Large arrays that are used again: what a layer keeps for its backward pass, from one training step to the next."""

import mmap
import weakref
from operator import itemgetter

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
        self._free: dict[int, np.ndarray] = {}  # by id; the one that came back last is the last
        self._lent: dict[int, tuple[weakref.ref[np.ndarray], np.ndarray]] = {}  # by the reference's id

    def take(self, numbers: int, dtype: torch.dtype) -> Tensor:
        """[numbers], float32 or float64, not initialised."""
        size = max(1, numbers) * dtype.itemsize
        array, most = None, max(4 * size, 1 << 20)
        while array is None:
            fitting = [(len(free), key) for key, free in list(self._free.items()) if size <= len(free) <= most]
            # Of equals the one that came back last, which may be in the cache; None if another thread has been quicker.
            best = min(reversed(fitting), key=itemgetter(0), default=None)
            array = _pages(size) if best is None else self._free.pop(best[1], None)
        lent = array[:size].view(np.float32 if dtype == torch.float32 else np.float64)
        # The tensor holds `lent`, which nothing else does: it ends with the tensor's memory, wherever that went.
        ended = weakref.ref(lent, self._take_back)
        self._lent[id(ended)] = ended, array
        return torch.from_numpy(lent)[:numbers]

    def _take_back(self, ended: "weakref.ref[np.ndarray]") -> None:
        _, array = self._lent.pop(id(ended))
        self._free[id(array)] = array
        while len(self._free) > self._spare:
            self._free.pop(next(iter(self._free)), None)

    def __deepcopy__(self, _: object) -> "Memory":
        return self

    def __reduce__(self) -> tuple[type["Memory"], tuple[int]]:
        return Memory, (self._spare,)


def _pages(size: int) -> np.ndarray:
    """[size] bytes, in large pages where the system has them and they fit."""
    pages = mmap.mmap(-1, size)
    if hasattr(mmap, "MADV_HUGEPAGE") and size >= 1 << 22:
        pages.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(pages, dtype=np.uint8)
