"""Minimal gated unit (Zhou, Wu, Zhang & Zhou 2016, arXiv 1603.09420): a GRU whose two gates are one.

    f   = sigmoid(W x_t + U h_{t-1} + b)       the gate: 1 overwrites
    n   = tanh(W x_t + U (f * h_{t-1}) + b)    candidate
    h_t = (1 - f) * h_{t-1} + f * n

The rows of W, U and b are in the order f, n.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .dense import KeepingCell
from .initialisation import chrono_or_number
from .state import State


class MGU(KeepingCell):
    """State: ``hidden`` [B H].

    The paper calls f the forget gate, though it is the share of the new. So ``forget_bias`` means here what it means
    in other cells: the more, the longer the memory. f's bias begins at its negative: a number, or with ``chrono``
    (Tallec & Ollivier 2018, arXiv 1804.11188) -log U(1, seq_len - 1).
    """

    family: ClassVar[str] = "gated"
    source: ClassVar[str] = "Zhou et al. 2016"
    keeps = ("keep",)
    equations = "mgu"
    compared = ("forget_bias", "init")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        forget_bias: float | str = "chrono",
        seq_len: int | None = None,
        init: str = "torch",
    ) -> None:
        super().__init__(input_size, hidden_size, 2, init)
        with torch.no_grad():
            self.bias[:hidden_size] = -chrono_or_number(forget_bias, seq_len, hidden_size)

    def gates(self, x: Float[Tensor, "B D"], state: State) -> dict[str, Float[Tensor, "B H"]]:
        """``keep`` is 1 - f."""
        return {"keep": 1 - self._gate(x, state)[0]}

    def _gate(self, x: Float[Tensor, "B D"], state: State) -> tuple[Tensor, Tensor]:
        """f, and what x gives to n before its nonlinearity, [B H] each."""
        x_f, x_n = self.from_input(x).chunk(2, dim=-1)
        return (x_f + F.linear(state["hidden"], self.weight_hidden[: self.output_size])).sigmoid(), x_n

    def parts(self, x: Float[Tensor, "B D"], state: State) -> tuple[Tensor, Tensor]:
        f, x_n = self._gate(x, state)
        n = (x_n + F.linear(f * state["hidden"], self.weight_hidden[self.output_size :])).tanh()
        return 1 - f, f * n
