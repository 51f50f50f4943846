"""IRNN (Le, Jaitly & Hinton 2015, arXiv 1504.00941): a simple recurrent network of rectified linear units that begins
by keeping everything.

    h_t = relu(W x_t + U h_{t-1} + b)

Before training U = I, b = 0 and W ~ N(0, input_deviation^2).
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .fused import FusedCell
from .initialisation import positive
from .state import State


class IRNN(FusedCell):
    """State: ``hidden`` [B H]. ``input_deviation`` is the standard deviation of the initial W: 0.001 in the paper."""

    family: ClassVar[str] = "against vanishing"
    source: ClassVar[str] = "Le, Jaitly & Hinton 2015"

    def __init__(self, input_size: int, hidden_size: int, *, input_deviation: float = 0.001) -> None:
        super().__init__(nn.RNN(input_size, hidden_size, nonlinearity="relu"), "rnn relu", ("hidden",), "identity")
        with torch.no_grad():
            nn.init.normal_(self.weight_input, std=positive("input_deviation", input_deviation))

    def step(self, x: Float[Tensor, "B D"], state: State) -> tuple[Float[Tensor, "B H"], State]:
        hidden = (F.linear(x, self.weight_input, self.bias) + F.linear(state["hidden"], self.weight_hidden)).relu()
        return hidden, {"hidden": hidden}
