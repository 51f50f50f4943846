"""Long short-term memory (Hochreiter & Schmidhuber 1997, Neural Computation 9:1735) with the forget gate of
Gers, Schmidhuber & Cummins (2000, Neural Computation 12:2451):

    i, f, o = sigmoid(W x_t + U h_{t-1} + b)   input, forget and output gate
    g       = tanh(W x_t + U h_{t-1} + b)      candidate
    c_t     = f * c_{t-1} + i * g              the additive path
    h_t     = o * tanh(c_t)

The rows of W, U and b are in torch's order: i, f, g, o. With ``peepholes`` (Gers, Schraudolph & Schmidhuber 2002, JMLR
3:115) the gates see the cell state, the output gate the new one:

    i, f    = sigmoid(... + p * c_{t-1})
    o       = sigmoid(... + p * c_t)

With ``coupled`` gates (Greff et al. 2015, arXiv 1503.04069: CIFG) i = 1 - f; the rows are f, g, o.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .base import Additive
from .fused import FusedCell, Rows
from .initialisation import chrono_or_number, uniform
from .state import State


class LSTM(FusedCell):
    """State: ``hidden`` [B H] and ``cell`` [B H].

    ``forget_bias`` initialises the bias of the forget gate: a number b (the gate starts near sigmoid(b)), or ``chrono``
    (Tallec & Ollivier 2018, arXiv 1804.11188): b_f = log U(1, seq_len - 1), b_i = -b_f, for memories of up to
    ``seq_len`` timesteps at initialisation. With b = 1 the cell forgets as 0.731^k: 1e-7 after 50 timesteps.

    ``peepholes`` adds the vector ``peephole``, p of the gates in the order of their rows, U(-1/sqrt(H), 1/sqrt(H)) at
    first; such an lstm is computed by its steps. A coupled one is a plain one whose rows of i are those of f times -1,
    for 1 - sigmoid(a) = sigmoid(-a): the native kernels compute it.
    """

    family: ClassVar[str] = "gated"
    source: ClassVar[str] = "Hochreiter & Schmidhuber 1997; Gers et al. 2000"
    keeps = ("forget",)
    compared = ("forget_bias", "init")
    by_onednn = True

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        forget_bias: float | str = "chrono",
        seq_len: int | None = None,
        init: str = "torch",
        peepholes: bool = False,
        coupled: bool = False,
    ) -> None:
        layer = Rows(input_size, hidden_size, 3) if coupled else nn.LSTM(input_size, hidden_size)
        super().__init__(layer, "lstm", ("hidden", "cell"), init)
        self.coupled = coupled
        initial = chrono_or_number(forget_bias, seq_len, hidden_size)
        with torch.no_grad():
            *bias_input, bias_forget, _, _ = self.bias.split(hidden_size)
            bias_forget.copy_(initial)
            if forget_bias == "chrono":
                for bias in bias_input:
                    bias.copy_(-initial)
        self.peephole = uniform((2 if coupled else 3) * hidden_size, bound=hidden_size**-0.5) if peepholes else None
        if peepholes:
            self.kernels, self.equations = (), None
        elif coupled:
            self.kernels = tuple(name for name in self.kernels if name != "torch")

    def step(self, x: Float[Tensor, "B D"], state: State) -> tuple[Float[Tensor, "B H"], State]:
        _, _, _, o, cell = self._opened(x, state)
        hidden = o * cell.tanh()
        return hidden, {"hidden": hidden, "cell": cell}

    def gates(self, x: Float[Tensor, "B D"], state: State) -> dict[str, Float[Tensor, "B H"]]:
        i, f, _, o, _ = self._opened(x, state)
        return {"forget": f, "input": i, "output": o}

    def additive(self, x: Float[Tensor, "B D"], state: State) -> dict[str, Additive]:
        i, f, g, _, _ = self._opened(x, state)
        return {"cell": Additive(f, i * g)}

    def weights(self) -> dict[str, Float[Tensor, "..."]]:
        """With four gates, as in ``equations``, where the gates are coupled, too."""
        own = super().weights()
        if not self.coupled:
            return own
        return {name: torch.cat([-weight[: self.output_size], weight]) for name, weight in own.items()}

    def _opened(self, x: Float[Tensor, "B D"], state: State) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """i, f, g, o and the new cell state, [B H] each."""
        old = state["cell"]
        stacked = F.linear(x, self.weight_input, self.bias) + F.linear(state["hidden"], self.weight_hidden)
        *own, f, g, o = stacked.split(self.output_size, dim=-1)
        if self.peephole is not None:
            *looks, look_f, _ = self.peephole.split(self.output_size)
            own = [i + look * old for i, look in zip(own, looks, strict=True)]
            f = f + look_f * old
        (i,) = own or [-f]  # 1 - sigmoid(f) is sigmoid(-f), which stays exact where f is large
        i, f, g = i.sigmoid(), f.sigmoid(), g.tanh()
        cell = f * old + i * g
        if self.peephole is not None:
            o = o + self.peephole[-self.output_size :] * cell
        return i, f, g, o.sigmoid(), cell
