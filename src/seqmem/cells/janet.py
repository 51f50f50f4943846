"""JANET, "just another network" (van der Westhuizen & Lasenby 2018, arXiv 1804.04849): an LSTM with its forget gate
alone.

    a   = W x_t + U h_{t-1} + b
    c   = tanh(W x_t + U h_{t-1} + b)                                candidate
    h_t = sigmoid(a) * h_{t-1} + (1 - sigmoid(a - beta)) * c

The rows of W, U and b are in the order a, c. With beta = 0 it is the UGRNN.
"""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from .dense import KeepingCell
from .initialisation import chrono_or_number
from .state import State


class JANET(KeepingCell):
    """State: ``hidden`` [B H].

    ``beta`` lets more of the candidate in than the forget gate lets go: 1 in the authors' code. ``forget_bias``
    initialises the bias of a: a number, or ``chrono`` (Tallec & Ollivier 2018, arXiv 1804.11188), log U(1, seq_len -
    1).
    """

    family: ClassVar[str] = "gated"
    source: ClassVar[str] = "van der Westhuizen & Lasenby 2018"
    keeps = ("forget",)
    equations = "janet"
    compared = ("forget_bias", "init")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        beta: float = 1.0,
        forget_bias: float | str = "chrono",
        seq_len: int | None = None,
        init: str = "torch",
    ) -> None:
        super().__init__(input_size, hidden_size, 2, init)
        self.beta = float(beta)
        with torch.no_grad():
            self.bias[:hidden_size] = chrono_or_number(forget_bias, seq_len, hidden_size)

    def gates(self, x: Float[Tensor, "B D"], state: State) -> dict[str, Float[Tensor, "B H"]]:
        """``input`` is the share of the candidate: 1 - sigmoid(a - beta)."""
        a, _ = (self.from_input(x) + self.from_hidden(state)).chunk(2, dim=-1)
        return {"forget": a.sigmoid(), "input": 1 - (a - self.beta).sigmoid()}

    def weights(self) -> dict[str, Float[Tensor, "..."]]:
        return {**super().weights(), "beta": self.bias.new_tensor([self.beta])}

    def parts(self, x: Float[Tensor, "B D"], state: State) -> tuple[Tensor, Tensor]:
        a, c = (self.from_input(x) + self.from_hidden(state)).chunk(2, dim=-1)
        return a.sigmoid(), (1 - (a - self.beta).sigmoid()) * c.tanh()
