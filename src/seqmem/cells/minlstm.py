"""minLSTM (Feng, Tung, Ahmed, Bengio & Hajimirsadegh 2024, arXiv 2410.01201): an LSTM whose gates do not see the
state, so that a sequence is a parallel scan.

    f, i = sigmoid(W x_t + b)               forget and input gate
    n    = g(W x_t + b)                     candidate: g as in minGRU
    h_t  = (f * h_{t-1} + i * n) / (f + i)  normalised
    h_t  = f * h_{t-1} + i * n              else

The rows of W and b are in the order f, i, n.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .gated_linear import GatedLinearCell, above_zero
from .initialisation import chrono_or_number, uniform
from .state import State


class MinLSTM(GatedLinearCell):
    """State: ``hidden`` [B H].

    ``forget_bias`` initialises f's bias: a number; null: torch's default for linear layers, as in the authors' code; or
    ``chrono`` (Tallec & Ollivier 2018, arXiv 1804.11188): log U(1, seq_len - 1), and i's bias its negative.
    ``normalised``: divide both gates by their sum.
    """

    family: ClassVar[str] = "linear over time"
    source: ClassVar[str] = "Feng et al. 2024"
    keeps = ("forget",)
    equations = "minlstm"
    compared = ("forget_bias",)
    kernels = ("native", "torch")

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        normalised: bool = True,
        forget_bias: float | str | None = "chrono",
        seq_len: int | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size)
        self.normalised = normalised
        self.scanned = "minlstm normalised" if normalised else "minlstm"
        bound = input_size**-0.5
        self.weight_input = uniform(3 * hidden_size, input_size, bound=bound)
        self.bias = uniform(3 * hidden_size, bound=bound)
        if forget_bias is not None:
            initial = chrono_or_number(forget_bias, seq_len, hidden_size)
            with torch.no_grad():
                self.bias[:hidden_size] = initial
                if forget_bias == "chrono":
                    self.bias[hidden_size : 2 * hidden_size] = -initial

    def activations(self, x: Float[Tensor, "*N D"]) -> Float[Tensor, "*N GH"]:
        return F.linear(x, self.weight_input, self.bias)

    def parts(self, x: Float[Tensor, "*N D"]) -> tuple[Float[Tensor, "*N H"], Float[Tensor, "*N H"]]:
        f, i, n = self._gates(x)
        return f, i * above_zero(n)

    def weights(self) -> dict[str, Float[Tensor, "..."]]:
        own = {name: getattr(self, name) for name in ("weight_input", "bias")}
        return {**own, "normalised": self.bias.new_tensor([float(self.normalised)])}

    def gates(self, x: Float[Tensor, "B D"], state: State) -> dict[str, Float[Tensor, "B H"]]:
        """As they are used: when ``normalised``, after the division."""
        f, i, _ = self._gates(x)
        return {"forget": f, "input": i}

    def _gates(self, x: Float[Tensor, "*N D"]) -> tuple[Tensor, Tensor, Tensor]:
        """f, i and the candidate before g, [*N H] each."""
        f, i, n = self.activations(x).chunk(3, dim=-1)
        if not self.normalised:
            return f.sigmoid(), i.sigmoid(), n
        # f / (f + i) in logarithms, where both sigmoids may underflow.
        share = F.logsigmoid(f) - F.logsigmoid(i)
        return share.sigmoid(), (-share).sigmoid(), n
