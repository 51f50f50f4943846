"""Shared by cells that native kernels can compute: which kernel computes a sequence, with how many threads.

Axes: T time, S asked timesteps, B batch, D input features, H hidden, V vectors.
"""

from abc import abstractmethod
from collections.abc import Iterable, Sequence
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ..kernels import functions
from ..kernels.memory import How, Memory
from .base import Cell, Tapped, is_last
from .state import State, leaves
from .taps import AutogradTaps, Written

_SYMBOLS_PER_TIMESTEP = 4
"""Use a table of products, one per symbol, up to this many symbols of the vocabulary per timestep."""


class NativeCell(Cell):
    """``kernel`` is one of ``KERNELS``. ``threads`` are the native kernels', and change no bit of what they compute."""

    every_state: ClassVar[bool] = True
    """Its native kernel has the state of every timestep, and the gradient there: traces need no loop over steps."""
    by_onednn: ClassVar[bool] = False
    """On the CPU torch computes its layer in half precision by oneDNN alone."""

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
            ValueError: ``kernel`` is ``native``, and there is no native kernel for this device and dtype; or it is
                ``torch``, whose layer cannot compute in half precision on this processor.
        """
        native = self.kernel in ("auto", "native") and "native" in self.kernels
        if native and functions.supports(xs, *start, *self._read()):
            return "native"
        if self.kernel == "native":
            raise ValueError(
                f"kernel=native: there is no native kernel here for {xs.dtype} on {xs.device.type}: use kernel=auto"
            )
        if "torch" not in self.kernels or self.kernel == "step":
            return "step"
        if not (self.by_onednn and _halved_without_onednn(xs)):
            return "torch"
        if self.kernel == "torch":
            raise ValueError(
                "kernel=torch: torch has no half precision for this layer on this processor: use kernel=auto"
            )
        return "step"

    def _read(self) -> Iterable[Tensor]:
        """What the native kernels read besides inputs and state."""
        return self.parameters()

    def _how(self) -> How:
        """How its kernels compute."""
        return How(self.threads, self._memory)

    def _table_pays(self, tokens: Tensor, vectors: Tensor) -> bool:
        """True if each symbol occurs so often that a table of products, one per symbol, saves time."""
        return len(vectors) <= _SYMBOLS_PER_TIMESTEP * len(tokens)


def _halved_without_onednn(xs: Tensor) -> bool:
    """In bfloat16 on a processor for which oneDNN has none: x86 without AVX-512, for example."""
    return (
        xs.is_cpu
        and torch.is_autocast_enabled("cpu")
        and torch.get_autocast_dtype("cpu") == torch.bfloat16
        and not torch.ops.mkldnn._is_mkldnn_bf16_supported()  # noqa: SLF001  (torch has no public question)
    )


class ScannedCell(NativeCell):
    """A cell whose native kernel computes states, from which the outputs are read timestep by timestep.

    A subclass writes ``by_torch``, its ``forward`` without kernels, and ``by_kernel``.
    """

    parallel = True
    kernels = ("native", "torch")

    @abstractmethod
    def by_torch(self, xs: Float[Tensor, "T B D"], state: State) -> tuple[Float[Tensor, "T B H"], State]:
        """``forward`` by torch's operators."""

    @abstractmethod
    def by_kernel(
        self,
        inputs: Float[Tensor, "T B D"] | Int[Tensor, "T B"],
        state: State,
        at: slice,
        vectors: Float[Tensor, "V D"] | None = None,
        *,
        ghosts: bool = False,
    ) -> tuple[Float[Tensor, "S B H"], State, Written]:
        """Outputs at the asked timesteps, the final state, and what each timestep wrote (without ``ghosts``: {}).

        ``at``: from a timestep before its stop, both counted from the first.
        """

    def forward(self, xs: Float[Tensor, "T B D"], state: State | None = None) -> tuple[Float[Tensor, "T B H"], State]:
        return self.forward_at(xs, state, slice(0, len(xs)))

    def forward_tokens(
        self, tokens: Int[Tensor, "T B"], vectors: Float[Tensor, "V D"], state: State | None = None
    ) -> tuple[Float[Tensor, "T B H"], State]:
        return self.forward_at(tokens, state, slice(0, len(tokens)), vectors=vectors)

    def forward_at(
        self,
        inputs: Float[Tensor, "T B D"] | Int[Tensor, "T B"],
        state: State | None,
        at: slice,
        *,
        vectors: Float[Tensor, "V D"] | None = None,
    ) -> tuple[Float[Tensor, "S B H"], State]:
        """Only the states of the timesteps that are not asked for."""
        state = self.initial_state(inputs.shape[1]) if state is None else state
        kernel = self.choice(inputs if vectors is None else vectors, list(leaves(state)))
        if vectors is not None and not (kernel == "native" and self._table_pays(inputs, vectors)):
            inputs, vectors = F.embedding(inputs, vectors), None
        if kernel == "native":
            asked = range(len(inputs))[at]
            if asked and asked.step == 1:
                return self.by_kernel(inputs, state, slice(asked.start, asked.stop), vectors)[:2]
            outputs, final, _ = self.by_kernel(inputs, state, slice(0, len(inputs)), vectors)
            return outputs[at], final
        outputs, final = self.by_torch(inputs, state) if kernel == "torch" else Cell.forward(self, inputs, state)
        return (outputs if at == slice(0, len(outputs)) else outputs[at]), final

    def tapped(
        self,
        inputs: Float[Tensor, "T B D"] | Int[Tensor, "T B"],
        state: State,
        *,
        vectors: Float[Tensor, "V D"] | None = None,
    ) -> Tapped | None:
        kernel = self.choice(inputs if vectors is None else vectors, list(leaves(state)))
        if kernel != "native" or not self.every_state:
            return None

        def run(xs: Tensor, start: State) -> tuple[Tensor, State, Written]:
            return self.by_kernel(xs, start, slice(0, len(xs)), ghosts=True)

        return AutogradTaps(run, inputs, state, vectors)


def asked(states: Float[Tensor, "T B N"], last: Float[Tensor, "B N"], at: slice) -> Float[Tensor, "S B N"]:
    """``states[at]``; the last ones as ``last``, for its gradient needs no zeros for all other timesteps."""
    return last[None] if is_last(at, states) else states[at]
