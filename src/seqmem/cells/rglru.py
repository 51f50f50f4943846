"""Real-gated linear recurrent unit of Griffin (De et al. 2024, arXiv 2402.19427): a decay per unit, under a gate that
sees the input alone.

    v   = W_v x_t                                    the input in H units
    r   = sigmoid(W_a v + b_a)                       recurrence gate
    i   = sigmoid(W_x v + b_x)                       input gate
    a   = exp(-8 * r * softplus(decay))
    h_t = a * h_{t-1} + sqrt(1 - a^2) * i * v

In Griffin the layer before it makes v; the cell has W_v of its own, because D is rarely H.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .gated_linear import GatedLinearCell
from .initialisation import normal
from .state import State


class RGLRU(GatedLinearCell):
    """State: ``hidden`` [B H].

    With an open recurrence gate a unit keeps a = sigmoid(-decay)^8, and a^2 is uniform between the squares of
    ``fastest`` and ``slowest`` at the start: 0.9 and 0.999 in the paper. (The released code draws a^(1/8) there, so
    that a lies between 0.43 and 0.992.) Gate weights begin at N(0, 1/H), biases at 0, W_v at N(0, 1/D).
    """

    family: ClassVar[str] = "linear over time"
    source: ClassVar[str] = "De et al. 2024"
    keeps = ("keep",)
    kernels = ("native", "torch")
    scanned = "rglru"
    equations = "rglru"

    def __init__(self, input_size: int, hidden_size: int, *, fastest: float = 0.9, slowest: float = 0.999) -> None:
        super().__init__(input_size, hidden_size)
        if not 0 < fastest < slowest < 1:
            raise ValueError(f"fastest={fastest}, slowest={slowest}: must be 0 < fastest < slowest < 1")
        self.weight_input = normal(hidden_size, input_size, deviation=input_size**-0.5)
        self.weight_gates = normal(2 * hidden_size, hidden_size, deviation=hidden_size**-0.5)
        self.bias = nn.Parameter(torch.zeros(2 * hidden_size))
        # log a = -8 softplus(decay), so decay = log(exp(-log a / 8) - 1).
        log_a = torch.empty(hidden_size).uniform_(fastest**2, slowest**2).log() / 2
        self.decay = nn.Parameter(torch.expm1(-log_a / _SHARPNESS).log())

    def activations(self, x: Float[Tensor, "*N D"]) -> Float[Tensor, "*N GH"]:
        """What r and i are the sigmoids of, and v."""
        v = F.linear(x, self.weight_input)
        return torch.cat([F.linear(v, self.weight_gates, self.bias), v], dim=-1)

    def constants(self) -> Float[Tensor, "1 H"]:
        """log a of an open recurrence gate."""
        return -_SHARPNESS * F.softplus(self.decay)[None]

    def parts(self, x: Float[Tensor, "*N D"]) -> tuple[Float[Tensor, "*N H"], Float[Tensor, "*N H"]]:
        a, b, _ = self._gated(x)
        return a, b

    def weights(self) -> dict[str, Float[Tensor, "..."]]:
        return dict(self.named_parameters())

    def gates(self, x: Float[Tensor, "B D"], state: State) -> dict[str, Float[Tensor, "B H"]]:
        """``keep`` is a."""
        a, _, i = self._gated(x)
        return {"keep": a, "input": i}

    def _gated(self, x: Float[Tensor, "*N D"]) -> tuple[Tensor, Tensor, Tensor]:
        """a, b and i, [*N H] each."""
        r, i, v = self.activations(x).chunk(3, dim=-1)
        log_a, i = self.constants()[0] * r.sigmoid(), i.sigmoid()
        # expm1: 1 - a^2 loses all digits as a approaches 1.
        return log_a.exp(), (-torch.expm1(2 * log_a)).sqrt() * i * v, i


_SHARPNESS = 8.0
"""c of the paper."""
