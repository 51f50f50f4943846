"""Long short-term memory (Hochreiter & Schmidhuber 1997, Neural Computation 9:1735) with the forget gate of
Gers, Schmidhuber & Cummins (2000, Neural Computation 12:2451):

    i, f, o = sigmoid(W x_t + U h_{t-1} + b)   input, forget and output gate
    g       = tanh(W x_t + U h_{t-1} + b)      candidate
    c_t     = f * c_{t-1} + i * g              the additive path
    h_t     = o * tanh(c_t)

The rows of W, U and b are in torch's order: i, f, g, o.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .fused import FusedCell
from .initialisation import chrono_or_number
from .state import State


class LSTM(FusedCell):
    """State: ``hidden`` [B H] and ``cell`` [B H].

    ``forget_bias`` initialises the bias of the forget gate: a number b (the gate starts near sigmoid(b)), or ``chrono``
    (Tallec & Ollivier 2018, arXiv 1804.11188): b_f = log U(1, seq_len - 1), b_i = -b_f, for memories of up to
    ``seq_len`` timesteps at initialisation. With b = 1 the cell forgets as 0.731^k: 1e-7 after 50 timesteps.
    """

    source: ClassVar[str] = "Hochreiter & Schmidhuber 1997; Gers et al. 2000"
    keeps = ("forget",)
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
        super().__init__(nn.LSTM(input_size, hidden_size), "lstm", ("hidden", "cell"), init)
        initial = chrono_or_number(forget_bias, seq_len, hidden_size)
        with torch.no_grad():
            bias_input, bias_forget, _, _ = self.bias.chunk(4)
            bias_forget.copy_(initial)
            if forget_bias == "chrono":
                bias_input.copy_(-initial)

    def step(self, x: Float[Tensor, "B D"], state: State) -> tuple[Float[Tensor, "B H"], State]:
        i, f, g, o = self._pre_activations(x, state)
        cell = f.sigmoid() * state["cell"] + i.sigmoid() * g.tanh()
        hidden = o.sigmoid() * cell.tanh()
        return hidden, {"hidden": hidden, "cell": cell}

    def gates(self, x: Float[Tensor, "B D"], state: State) -> dict[str, Float[Tensor, "B H"]]:
        i, f, _, o = self._pre_activations(x, state)
        return {"forget": f.sigmoid(), "input": i.sigmoid(), "output": o.sigmoid()}

    def _pre_activations(self, x: Float[Tensor, "B D"], state: State) -> tuple[Tensor, ...]:
        """i, f, g and o before their nonlinearities, [B H] each."""
        stacked = F.linear(x, self.weight_input, self.bias) + F.linear(state["hidden"], self.weight_hidden)
        return stacked.chunk(4, dim=-1)
