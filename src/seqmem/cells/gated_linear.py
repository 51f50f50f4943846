"""Shared by cells that are linear in their state: h_t = a_t * h_{t-1} + b_t, where a_t and b_t depend on x_t alone.

Axes: T time, B batch, D input features, H hidden.
"""

from abc import abstractmethod

import torch
from jaxtyping import Float
from torch import Tensor

from ..kernels.functions import linear_recurrence
from .base import Additive, Cell
from .state import State


class GatedLinearCell(Cell):
    """State: ``hidden`` [B H], which is the output.

    A whole sequence costs one product over all timesteps and ``linear_recurrence``: nothing between two timesteps needs
    a product.
    """

    output_state = "hidden"
    parallel = True

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_size, self.output_size = input_size, hidden_size

    @abstractmethod
    def parts(self, x: Float[Tensor, "*N D"]) -> tuple[Float[Tensor, "*N H"], Float[Tensor, "*N H"]]:
        """a and b for any number of inputs."""

    def initial_state(self, batch_size: int) -> State:
        return {"hidden": next(self.parameters()).new_zeros(batch_size, self.output_size)}

    def step(self, x: Float[Tensor, "B D"], state: State) -> tuple[Float[Tensor, "B H"], State]:
        a, b = self.parts(x)
        hidden = a * state["hidden"] + b
        return hidden, {"hidden": hidden}

    def additive(self, x: Float[Tensor, "B D"], state: State) -> dict[str, Additive]:
        return {"hidden": Additive(*self.parts(x))}

    def forward(self, xs: Float[Tensor, "T B D"], state: State | None = None) -> tuple[Float[Tensor, "T B H"], State]:
        state = self.initial_state(xs.shape[1]) if state is None else state
        outputs = linear_recurrence(*self.parts(xs), state["hidden"])
        return outputs, {"hidden": outputs[-1]}


def above_zero(a: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """a + 0.5 if a >= 0, else sigmoid(a): continuous, increasing, positive (Feng et al. 2024, appendix B)."""
    return torch.where(a >= 0, a + 0.5, a.sigmoid())
