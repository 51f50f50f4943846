"""Gated recurrent unit (Cho et al. 2014, arXiv 1406.1078), in its two common forms:

    r, z = sigmoid(W x_t + U h_{t-1} + b)      reset and update gate
    n    = tanh(W x_t + b + r * (U h_{t-1}))   form "torch": the default
    n    = tanh(W x_t + b + U (r * h_{t-1}))   form "cho": as published
    h_t  = (1 - z) * n + z * h_{t-1}

The rows of W, U and b are in torch's order: r, z, n. torch's second bias b', in r * (U h + b'), is zero here.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .base import Additive
from .fused import FusedCell
from .initialisation import chrono_or_number
from .state import State


class GRU(FusedCell):
    """State: ``hidden`` [B H].

    ``forget_bias`` initialises the bias of the update gate z, the share of the old state: a number, or ``chrono``
    (Tallec & Ollivier 2018, arXiv 1804.11188), log U(1, seq_len - 1).
    """

    family: ClassVar[str] = "gated"
    source: ClassVar[str] = "Cho et al. 2014"
    keeps = ("update",)
    compared = ("forget_bias", "init")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        form: str = "torch",
        forget_bias: float | str = "chrono",
        seq_len: int | None = None,
        init: str = "torch",
    ) -> None:
        if form not in ("torch", "cho"):
            raise ValueError(f"form={form!r}: must be 'torch' or 'cho'")
        layer = nn.GRU(input_size, hidden_size)
        super().__init__(layer, f"gru {form}", ("hidden",), init)
        if form != "torch":  # torch has no fused layer for the published form
            self.kernels = tuple(name for name in self.kernels if name != "torch")
        self.form = form
        initial = chrono_or_number(forget_bias, seq_len, hidden_size)
        with torch.no_grad():
            _, bias_update, _ = self.bias.chunk(3)
            bias_update.copy_(initial)

    def step(self, x: Float[Tensor, "B D"], state: State) -> tuple[Float[Tensor, "B H"], State]:
        _, z, n = self._activations(x, state)
        hidden = (1 - z) * n + z * state["hidden"]
        return hidden, {"hidden": hidden}

    def gates(self, x: Float[Tensor, "B D"], state: State) -> dict[str, Float[Tensor, "B H"]]:
        r, z, _ = self._activations(x, state)
        return {"update": z, "reset": r}

    def additive(self, x: Float[Tensor, "B D"], state: State) -> dict[str, Additive]:
        _, z, n = self._activations(x, state)
        return {"hidden": Additive(z, (1 - z) * n)}

    def _activations(self, x: Float[Tensor, "B D"], state: State) -> tuple[Tensor, Tensor, Tensor]:
        """r, z and n, [B H] each."""
        h = state["hidden"]
        x_r, x_z, x_n = F.linear(x, self.weight_input, self.bias).chunk(3, dim=-1)
        if self.form == "torch":
            h_r, h_z, h_n = F.linear(h, self.weight_hidden).chunk(3, dim=-1)
            r = (x_r + h_r).sigmoid()
            n = (x_n + r * h_n).tanh()
        else:
            u_rz, u_n = self.weight_hidden.split([2 * self.output_size, self.output_size])
            h_r, h_z = F.linear(h, u_rz).chunk(2, dim=-1)
            r = (x_r + h_r).sigmoid()
            n = (x_n + F.linear(r * h, u_n)).tanh()
        return r, (x_z + h_z).sigmoid(), n
