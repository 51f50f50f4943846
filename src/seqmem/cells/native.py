"""Shared by cells that native kernels can compute: which kernel computes a sequence, with how many threads.

Axes: T time, B batch, D input features, V vectors.
"""

from collections.abc import Iterable, Sequence

from torch import Tensor

from ..kernels import functions
from ..kernels.memory import Memory
from .base import Cell

_SYMBOLS_PER_TIMESTEP = 4
"""Use a table of products, one per symbol, up to this many symbols of the vocabulary per timestep."""


class NativeCell(Cell):
    """``kernel`` is one of ``KERNELS``. ``threads`` are the native kernels', and change no bit of what they compute."""

    def __init__(self) -> None:
        super().__init__()
        self.kernel = "auto"
        self.threads = 1
        self._memory = Memory()

    def use(self, kernel: str, threads: int = 1) -> None:
        self.kernel, self.threads = kernel, threads

    def prepare_for_compiler(self) -> None:
        if self.kernel == "native":
            raise ValueError("kernel=native: torch's compiler cannot see into it; with compile=true use kernel=auto")
        self.kernel = "torch" if self.kernel == "auto" else self.kernel

    def choice(self, xs: Tensor, start: Sequence[Tensor] = ()) -> str:
        """The kernel for a sequence like ``xs`` and a state like ``start``: ``native``, ``torch`` or ``step``.

        Raises:
            ValueError: ``kernel`` is ``native``, and there is no native kernel for this device and dtype.
        """
        native = self.kernel in ("auto", "native") and "native" in self.kernels
        if native and functions.supports(xs, *start, *self._read()):
            return "native"
        if self.kernel == "native":
            raise ValueError(
                f"kernel=native: there is no native kernel here for {xs.dtype} on {xs.device.type}: use kernel=auto"
            )
        return "torch" if "torch" in self.kernels and self.kernel != "step" else "step"

    def _read(self) -> Iterable[Tensor]:
        """What the native kernels read besides inputs and state."""
        return self.parameters()

    def _table_pays(self, tokens: Tensor, vectors: Tensor) -> bool:
        """True if each symbol occurs so often that a table of products, one per symbol, saves time."""
        return len(vectors) <= _SYMBOLS_PER_TIMESTEP * len(tokens)
