"""Shared by cells whose timesteps can only follow each other, and whose backward pass is written by hand.

Autograd records a dozen operations per timestep, and sums each weight's gradient up over all of them. By hand, a
timestep computes only what depends on the state; inputs, slopes and the weights' gradients are single operations over
the whole sequence. The results are those of ``step`` up to rounding.

Axes: T time, B batch, D input features, H hidden.
"""

from abc import abstractmethod
from collections.abc import Iterator

import torch
from jaxtyping import Float, Shaped
from torch import Tensor

from .base import Cell
from .native import NativeCell
from .state import State, leaves

PIECE = 64
"""Timesteps at a time, for what need not be kept for the whole sequence."""


class LoopedCell(NativeCell):
    """``kernel=torch`` is ``by_hand``, ``kernel=step`` the loop over ``step``."""

    kernels = ("torch",)

    @abstractmethod
    def by_hand(self, xs: Float[Tensor, "T B D"], state: State) -> tuple[Float[Tensor, "T B H"], State]:
        """``forward`` with a backward pass of its own, differentiable once."""

    def forward(self, xs: Float[Tensor, "T B D"], state: State | None = None) -> tuple[Float[Tensor, "T B H"], State]:
        state = self.initial_state(xs.shape[1]) if state is None else state
        if self.choice(xs, list(leaves(state))) == "step" or _by_others(xs):
            return Cell.forward(self, xs, state)
        if torch.is_grad_enabled():
            return self.by_hand(xs, state)
        outputs = []
        for piece in xs.split(PIECE):
            output, state = self.by_hand(piece, state)
            outputs.append(output)
        return torch.cat(outputs), state


def _by_others(xs: Tensor) -> bool:
    """torch's compiler writes a backward pass itself, and autocast chooses the precision of each operation."""
    kind = xs.device.type
    halved = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return halved or torch.compiler.is_compiling()


def pieces(steps: int) -> list[slice]:
    """``steps`` timesteps in pieces, from the first."""
    return [slice(start, min(start + PIECE, steps)) for start in range(0, steps, PIECE)]


def by_step(*sequences: Shaped[Tensor, "T ..."], backwards: bool = False) -> Iterator[tuple[Tensor, ...]]:
    """A view of each tensor at every timestep, the last one first if ``backwards``: all are made at once."""
    views = [sequence.unbind(0) for sequence in sequences]
    return zip(*(map(reversed, views) if backwards else views), strict=True)


def refuse_second_derivatives() -> None:
    """Called by a backward pass.

    Raises:
        RuntimeError: second derivatives are requested.
    """
    if torch.is_grad_enabled():
        raise RuntimeError("this cell's forward pass has no second derivatives: loop over its step, or use kernel=step")
