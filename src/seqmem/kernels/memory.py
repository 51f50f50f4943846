"""A pool of large buffers: a layer's saved activations, reused from one training step to the next."""

import mmap
import weakref
from dataclasses import dataclass, field
from operator import itemgetter

import numpy as np
import torch
from torch import Tensor


class Memory:
    """A pool that lends flat, uninitialised CPU tensors. A buffer returns when its last tensor has been freed.

    Allocating 100 MB takes longer than filling it: a page fault and a cleared page every 4 KB. Training needs the same
    sizes at every step. The pool caches at most ``spare`` free buffers. A deep copy of a cell shares its pool; a pickle
    of a pool is empty.
    """

    def __init__(self, spare: int = 4) -> None:
        self.spare = spare
        self.free: dict[int, np.ndarray] = {}  # by id, in the order of their return
        self._lent: dict[int, tuple[weakref.ref[np.ndarray], np.ndarray]] = {}  # by the reference's id

    def take(self, numbers: int, dtype: torch.dtype) -> Tensor:
        """[numbers], float32 or float64, not initialised.

        Raises:
            ValueError: another dtype, or a negative number.
            MemoryError: the system has no memory of this size.
        """
        if numbers < 0 or dtype not in (torch.float32, torch.float64):
            raise ValueError(f"{numbers} numbers of {dtype}: must be at least 0, of torch.float32 or torch.float64")
        size = max(1, numbers) * dtype.itemsize
        buffer, largest = None, max(4 * size, 1 << 20)
        while buffer is None:
            fitting = [(len(free), key) for key, free in list(self.free.items()) if size <= len(free) <= largest]
            # Among equal sizes the one returned last, which may still be in the processor's cache.
            best = min(reversed(fitting), key=itemgetter(0), default=None)
            # pop gives None if another thread took the buffer in the meantime: then search again.
            buffer = fresh_pages(size) if best is None else self.free.pop(best[1], None)
        view = buffer[:size].view(np.float32 if dtype == torch.float32 else np.float64)
        # Only the tensor's storage references the view, so the view is freed with it, wherever the tensor went.
        reference = weakref.ref(view, self._take_back)
        self._lent[id(reference)] = reference, buffer
        return torch.from_numpy(view)[:numbers]

    def _take_back(self, reference: "weakref.ref[np.ndarray]") -> None:
        _, buffer = self._lent.pop(id(reference))
        self.free[id(buffer)] = buffer
        while len(self.free) > self.spare:
            self.free.pop(next(iter(self.free)), None)

    def __deepcopy__(self, _: object) -> "Memory":
        return self

    def __reduce__(self) -> tuple[type["Memory"], tuple[int]]:
        return Memory, (self.spare,)


@dataclass(frozen=True)
class How:
    """What changes no bit of a result: how many threads compute it, and the pool that lends its large arrays."""

    threads: int = 1
    memory: Memory = field(default_factory=Memory)


def fresh_pages(size: int) -> np.ndarray:
    """[size] bytes, in huge pages if the system has them and ``size`` is large enough.

    Raises:
        MemoryError: the system has no memory of this size.
    """
    try:
        pages = mmap.mmap(-1, size)
    except (OSError, OverflowError):
        raise MemoryError(f"no memory for {size / 1e9:.3g} GB of a layer's saved activations") from None
    if hasattr(mmap, "MADV_HUGEPAGE") and size >= 1 << 22:
        pages.madvise(mmap.MADV_HUGEPAGE)
    return np.frombuffer(pages, dtype=np.uint8)
