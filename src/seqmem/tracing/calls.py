"""One call of a module that is traced: what is remembered of it, so that it can be computed again.

A reader knows one kind of module. When the module is called it makes a ``Call``, whose ``watched`` tensors get a hook:
after the backward pass ``gradients`` has what reached each of them. That is the direct gradient, which misses what
passes through a fused layer's recurrence; ``parts`` computes the call again, by a way that has a tensor for each state,
with these gradients at its end. The model itself computes as ever.

Axes: T time, B batch.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch
from numpy import ndarray
from torch import Tensor, nn

from ..cells.norms import row_norms
from .parts import Part, Untraceable

Keep = Callable[[Tensor], Tensor]
"""A weight as it is now, also after an optimizer's step."""


class Call(ABC):
    """One call of one module.

    Args:
        watched: name -> a tensor that the call returned; gradients are collected by these names.
        begins: the states that the call was given, which may be those of an earlier one.
        sequences: B.
    """

    chained: ClassVar[bool] = True
    """Its ``begins`` may be an earlier call's ``watched``, whose next timesteps it then computes."""

    def __init__(self, watched: Mapping[str, Tensor], begins: Sequence[Tensor], sequences: int) -> None:
        self.sequences = sequences
        self.returned: Any = None
        """What the module's caller gets instead; None: what the module returned."""
        self.gradients: dict[str, Tensor] = {}
        self.watched = dict(watched)
        self.begins = list(begins)
        self._versions = {name: value._version for name, value in watched.items()}  # noqa: SLF001  the only way to see a change in place

    def check_unchanged(self, t: int) -> None:
        """A change in place takes the hook of a view away, and leaves nothing to compare a repetition with.

        Raises:
            Untraceable: a tensor was changed in place after it was returned, by call ``t``.
        """
        for name, value in self.watched.items():
            if value._version != self._versions[name]:  # noqa: SLF001
                raise Untraceable(
                    f"its '{name}' is changed in place after call {t}, and the gradient at what it was is lost: make a "
                    "new tensor (h = h * m, not h *= m; nn.ReLU(), not nn.ReLU(inplace=True))"
                )

    def gradient(self, name: str) -> Tensor:
        """What reached a tensor that the call returned; zero if nothing did."""
        return self.gradients[name] if name in self.gradients else torch.zeros_like(self.watched[name])

    @abstractmethod
    def parts(self, calls: Sequence["Call"]) -> dict[str, Part]:
        """Layer and direction, as a suffix of the module's path -> what it received, of calls that continue each other.

        Raises:
            Untraceable: they cannot be computed again.
        """


class Reader(ABC):
    """Knows one kind of module."""

    within: ClassVar[bool] = False
    """Modules inside such a one are traced, too."""

    @abstractmethod
    def reads(self, module: nn.Module) -> bool: ...

    @abstractmethod
    def call(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any, keep: Keep
    ) -> Call:
        """What happened in a forward pass.

        Raises:
            Untraceable: this call cannot be traced.
        """


def norms_of(gradient: Tensor) -> ndarray:
    """[T B ...] -> [T B], float64, also where squares would underflow."""
    rows = (
        gradient.detach().to(torch.float64).flatten(2) if gradient.ndim > 2 else gradient.detach().double()[..., None]
    )
    return row_norms(rows.flatten(0, 1)).unflatten(0, rows.shape[:2]).cpu().numpy()


def padded(norms: ndarray, lengths: ndarray) -> ndarray:
    """``norms`` with NaN after each sequence's end."""
    return np.where(np.arange(len(norms))[:, None] < lengths, norms, np.nan)


_TOLERANCE = {torch.float64: 1e-8, torch.float32: 5e-3}
"""By how much a repetition may differ, relative to the largest number: kernels round differently, and cuDNN may use
TensorFloat-32."""


def check_repeated(computed: Tensor, was: Tensor, what: str) -> None:
    """
    Raises:
        Untraceable: the call computed something else than its repetition.
    """
    was = was.detach()
    if not bool(was.isfinite().all()):
        raise Untraceable(f"{what} has NaN or infinity in it: look at its weights and its input")
    largest = max(float(was.abs().max()), 1e-30) if was.numel() else 1.0
    off = float((computed.to(was.dtype) - was).abs().max()) / largest if was.numel() else 0.0
    if not off <= _TOLERANCE.get(was.dtype, 5e-2):  # NaN is no repetition, either
        raise Untraceable(
            f"{what} is not what the module's weights make of its input (off by {off:.1e}): a forward of its own, "
            "hooks, or a change in place; name a submodule with modules=[...] instead"
        )
