"""Update gate RNN (Collins, Sohl-Dickstein & Sussillo 2017, arXiv 1611.09913): one gate, one state.

    g   = sigmoid(W x_t + U h_{t-1} + b)   update gate
    c   = tanh(W x_t + U h_{t-1} + b)      candidate
    h_t = g * h_{t-1} + (1 - g) * c

The rows of W, U and b are in the order g, c.
"""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from .dense import KeepingCell
from .initialisation import chrono_or_number
from .state import State


class UGRNN(KeepingCell):
    """State: ``hidden`` [B H].

    ``forget_bias`` initialises the bias of the update gate g, the share of the old state: a number, 1 in the paper's
    code, or ``chrono`` (Tallec & Ollivier 2018, arXiv 1804.11188), log U(1, seq_len - 1).
    """

    family: ClassVar[str] = "gated"
    source: ClassVar[str] = "Collins et al. 2017"
    keeps = ("update",)
    equations = "ugrnn"
    compared = ("forget_bias", "init")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        forget_bias: float | str = 1.0,
        seq_len: int | None = None,
        init: str = "torch",
    ) -> None:
        super().__init__(input_size, hidden_size, 2, init)
        with torch.no_grad():
            self.bias[:hidden_size] = chrono_or_number(forget_bias, seq_len, hidden_size)

    def gates(self, x: Float[Tensor, "B D"], state: State) -> dict[str, Float[Tensor, "B H"]]:
        g, _ = (self.from_input(x) + self.from_hidden(state)).chunk(2, dim=-1)
        return {"update": g.sigmoid()}

    def parts(self, x: Float[Tensor, "B D"], state: State) -> tuple[Tensor, Tensor]:
        g, c = (self.from_input(x) + self.from_hidden(state)).chunk(2, dim=-1)
        g = g.sigmoid()
        return g, (1 - g) * c.tanh()
