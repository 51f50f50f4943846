"""Shared by cells of dense weights and one state: their initialisation, and a step that keeps a share of the old state.

Axes: B batch, D input features, H hidden, G gates stacked on top of each other in the weights.
"""

from abc import abstractmethod

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .base import Additive, Cell
from .initialisation import start_hidden, uniform
from .state import State


class DenseCell(Cell):
    """W [G*H D], U [G*H H] and b [G*H], all U(-1/sqrt(H), 1/sqrt(H)) at first, as in torch's recurrent layers.

    State: ``hidden`` [B H], which is the output.
    """

    output_state = "hidden"

    def __init__(self, input_size: int, hidden_size: int, gates: int, init: str) -> None:
        """
        Raises:
            ValueError: ``init`` is unknown.
        """
        super().__init__()
        self.input_size, self.output_size = input_size, hidden_size
        bound = hidden_size**-0.5
        self.weight_input = uniform(gates * hidden_size, input_size, bound=bound)
        self.weight_hidden = uniform(gates * hidden_size, hidden_size, bound=bound)
        self.bias = uniform(gates * hidden_size, bound=bound)
        start_hidden(self.weight_hidden, self.bias, init)

    def initial_state(self, batch_size: int) -> State:
        return {"hidden": self.bias.new_zeros(batch_size, self.output_size)}

    def weights(self) -> dict[str, Float[Tensor, "..."]]:
        names = () if self.equations is None else ("weight_input", "weight_hidden", "bias")
        return {name: getattr(self, name) for name in names}

    def from_input(self, x: Float[Tensor, "B D"]) -> Float[Tensor, "B GH"]:
        """W x + b"""
        return F.linear(x, self.weight_input, self.bias)

    def from_hidden(self, state: State) -> Float[Tensor, "B GH"]:
        """U h"""
        return F.linear(state["hidden"], self.weight_hidden)


class KeepingCell(DenseCell):
    """h_t = keep * h_{t-1} + write."""

    @abstractmethod
    def parts(self, x: Float[Tensor, "B D"], state: State) -> tuple[Float[Tensor, "B H"], Float[Tensor, "B H"]]:
        """keep and write."""

    def step(self, x: Float[Tensor, "B D"], state: State) -> tuple[Float[Tensor, "B H"], State]:
        keep, write = self.parts(x, state)
        hidden = keep * state["hidden"] + write
        return hidden, {"hidden": hidden}

    def additive(self, x: Float[Tensor, "B D"], state: State) -> dict[str, Additive]:
        return {"hidden": Additive(*self.parts(x, state))}
