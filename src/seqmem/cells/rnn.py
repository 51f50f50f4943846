"""The simple recurrent network of Elman (1990, Cognitive Science 14:179), "vanilla RNN":

    h_t = phi(W x_t + U h_{t-1} + b),        phi = tanh or relu

With relu and ``init=identity`` it is the IRNN of Le, Jaitly & Hinton (2015, arXiv 1504.00941): U = I, b = 0.
"""

from typing import ClassVar

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .fused import FusedCell
from .state import State


class RNN(FusedCell):
    """State: ``hidden`` [B H]. ``nonlinearity`` is ``tanh`` or ``relu``."""

    family: ClassVar[str] = "plain"
    source: ClassVar[str] = "Elman 1990"
    compared = ("init",)

    def __init__(self, input_size: int, hidden_size: int, *, nonlinearity: str = "tanh", init: str = "torch") -> None:
        if nonlinearity not in ("tanh", "relu"):
            raise ValueError(f"nonlinearity={nonlinearity!r}: must be 'tanh' or 'relu'")
        layer = nn.RNN(input_size, hidden_size, nonlinearity=nonlinearity)
        super().__init__(layer, f"rnn {nonlinearity}", ("hidden",), init)
        self.nonlinearity = nonlinearity

    def step(self, x: Float[Tensor, "B D"], state: State) -> tuple[Float[Tensor, "B H"], State]:
        pre_activation = F.linear(x, self.weight_input, self.bias) + F.linear(state["hidden"], self.weight_hidden)
        hidden = pre_activation.tanh() if self.nonlinearity == "tanh" else pre_activation.relu()
        return hidden, {"hidden": hidden}
