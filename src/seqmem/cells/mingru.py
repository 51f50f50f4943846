"""minGRU (Feng, Tung, Ahmed, Bengio & Hajimirsadegh 2024, arXiv 2410.01201): a GRU whose gate and candidate do not
see the state, so that a sequence is a parallel scan.

    z    = sigmoid(W_z x_t + b_z)          update gate: 1 overwrites
    n    = g(W_n x_t + b_n)                candidate, positive
    g(a) = a + 0.5 if a >= 0, else sigmoid(a)
    h_t  = (1 - z) * h_{t-1} + z * n

The rows of W and b are in the order z, n. The authors' layer has an output projection on top, which is the readout
here.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .gated_linear import GatedLinearCell, above_zero
from .initialisation import chrono_or_number, uniform
from .state import State


class MinGRU(GatedLinearCell):
    """State: ``hidden`` [B H].

    ``forget_bias`` lengthens the memory at the start, as in other cells: z's bias begins at its negative. A number;
    null: torch's default for linear layers, as in the authors' code; or ``chrono`` (Tallec & Ollivier 2018, arXiv
    1804.11188), -log U(1, seq_len - 1).
    """

    family: ClassVar[str] = "linear over time"
    source: ClassVar[str] = "Feng et al. 2024"
    keeps = ("keep",)
    compared = ("forget_bias",)
    equations = "mingru"
    kernels = ("native", "torch")
    scanned = "mingru"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        forget_bias: float | str | None = "chrono",
        seq_len: int | None = None,
    ) -> None:
        super().__init__(input_size, hidden_size)
        bound = input_size**-0.5
        self.weight_input = uniform(2 * hidden_size, input_size, bound=bound)
        self.bias = uniform(2 * hidden_size, bound=bound)
        if forget_bias is not None:
            with torch.no_grad():
                self.bias[:hidden_size] = -chrono_or_number(forget_bias, seq_len, hidden_size)

    def activations(self, x: Float[Tensor, "*N D"]) -> Float[Tensor, "*N GH"]:
        return F.linear(x, self.weight_input, self.bias)

    def parts(self, x: Float[Tensor, "*N D"]) -> tuple[Float[Tensor, "*N H"], Float[Tensor, "*N H"]]:
        z, n = self.activations(x).chunk(2, dim=-1)
        return (-z).sigmoid(), z.sigmoid() * above_zero(n)

    def weights(self) -> dict[str, Float[Tensor, "..."]]:
        return {name: getattr(self, name) for name in ("weight_input", "bias")}

    def gates(self, x: Float[Tensor, "B D"], state: State) -> dict[str, Float[Tensor, "B H"]]:
        """``keep`` is 1 - z."""
        return {"keep": self.parts(x)[0]}
