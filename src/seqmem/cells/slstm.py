"""sLSTM of xLSTM (Beck et al. 2024, arXiv 2405.04517): an LSTM with an exponential input gate, and a normaliser that
counts what was let in.

    i', f', z', o' = W x_t + R h_{t-1} + b
    m_t = max(log sigmoid(f') + m_{t-1}, i')       the stabiliser
    i   = exp(i' - m_t)
    f   = exp(log sigmoid(f') + m_{t-1} - m_t)
    c_t = f * c_{t-1} + i * tanh(z')
    n_t = f * n_{t-1} + i
    h_t = sigmoid(o') * c_t / n_t

h does not depend on m, which keeps exp within the numbers. The paper's other forget gate is exp(f'), f' in place of
log sigmoid(f'). The rows of W and b are in the order i, f, z, o; R is
block-diagonal: a matrix for each gate and head.

Axes: B batch, A heads, E numbers per head, D input features, H = A E hidden.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .base import Additive, Cell
from .initialisation import at_least, log_forget, uniform
from .state import State


class SLSTM(Cell):
    """State: ``hidden``, ``cell``, ``normaliser`` and ``stabiliser``, [B H] each.

    As in the authors' code R begins at 0, and f's bias, in a head of E units, at 5 - 12 (k / (E - 1))^0.3 for unit k;
    the other biases at 0, W at U(-1/sqrt(D), 1/sqrt(D)).

    Raises:
        ValueError: ``heads`` is less than 1, or does not divide H; ``forget`` is neither ``sigmoid`` nor ``exp``.
    """

    family: ClassVar[str] = "gated"
    source: ClassVar[str] = "Beck et al. 2024"
    output_state = "hidden"
    keeps = ("forget",)

    def __init__(self, input_size: int, hidden_size: int, *, heads: int = 1, forget: str = "sigmoid") -> None:
        super().__init__()
        self.log_forget = log_forget(forget)
        if forget == "exp":
            self.keeps = ()
        if hidden_size % at_least("heads", heads, 1):
            raise ValueError(f"heads={heads}: must divide hidden_size={hidden_size}")
        self.input_size, self.output_size, self.heads = input_size, hidden_size, heads
        width = hidden_size // heads
        self.weight_input = uniform(4 * hidden_size, input_size, bound=input_size**-0.5)
        self.weight_hidden = nn.Parameter(torch.zeros(4, heads, width, width))
        self.bias = nn.Parameter(torch.zeros(4 * hidden_size))
        with torch.no_grad():
            share = torch.arange(width) / max(1, width - 1)
            self.bias[hidden_size : 2 * hidden_size] = (5 - 12 * share**0.3).repeat(heads)

    def initial_state(self, batch_size: int) -> State:
        names = ("hidden", "cell", "normaliser", "stabiliser")
        return dict.fromkeys(names, self.bias.new_zeros(batch_size, self.output_size))

    def step(self, x: Float[Tensor, "B D"], state: State) -> tuple[Float[Tensor, "B H"], State]:
        i, f, z, o = self._pre_activations(x, state)
        forget, enter, stabiliser = self._stabilised(i, f, state["stabiliser"])
        cell = forget * state["cell"] + enter * z.tanh()
        normaliser = forget * state["normaliser"] + enter
        hidden = o.sigmoid() * cell / normaliser
        return hidden, {"hidden": hidden, "cell": cell, "normaliser": normaliser, "stabiliser": stabiliser}

    def gates(self, x: Float[Tensor, "B D"], state: State) -> dict[str, Float[Tensor, "B H"]]:
        """Exponential gates may be of any size, so they are not shown."""
        _, f, _, o = self._pre_activations(x, state)
        return {**{name: f.sigmoid() for name in self.keeps}, "output": o.sigmoid()}

    def additive(self, x: Float[Tensor, "B D"], state: State) -> dict[str, Additive]:
        i, f, z, _ = self._pre_activations(x, state)
        forget, enter, _ = self._stabilised(i, f, state["stabiliser"])
        return {"cell": Additive(forget, enter * z.tanh())}

    def _pre_activations(self, x: Float[Tensor, "B D"], state: State) -> tuple[Tensor, ...]:
        """i', f', z' and o', [B H] each."""
        heads = state["hidden"].unflatten(-1, (self.heads, -1))
        from_hidden = torch.einsum("gaij,baj->bgai", self.weight_hidden, heads).flatten(1)
        return (F.linear(x, self.weight_input, self.bias) + from_hidden).chunk(4, dim=-1)

    def _stabilised(self, i: Tensor, f: Tensor, stabiliser: Float[Tensor, "B H"]) -> tuple[Tensor, Tensor, Tensor]:
        """f, i and the new m of i', f' and the old m."""
        kept = self.log_forget(f) + stabiliser
        new = torch.maximum(kept, i)
        return (kept - new).exp(), (i - new).exp(), new
