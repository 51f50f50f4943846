"""Gated DeltaNet (Yang, Kautz & Hatamizadeh 2024, arXiv 2412.06464): the delta rule on a memory that can be let go of.

    q, k, v = silu(W x_t), q and k divided by their lengths    for each head
    beta    = sigmoid(w . x_t)
    alpha   = exp(-exp(a) softplus(w_a . x_t + b))
    S'      = alpha S_{t-1}
    S_t     = S' + beta k (v - S'^T k)^T
    o_t     = S_t^T q / sqrt(E)

The heads' o_t are joined by W_o; the convolutions, the gate and the normalisation around it are not here.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .initialisation import softplus_of_log_uniform
from .matrix_memory import MatrixMemoryCell, Reading, outer, read
from .state import State


class GatedDeltaNet(MatrixMemoryCell):
    """State: ``memory`` [B A E E].

    As in the authors' code exp(a) ~ U(0, 16), and softplus(b) is log-uniform in [0.001, 0.1].
    """

    family: ClassVar[str] = "matrix memory"
    source: ClassVar[str] = "Yang, Kautz & Hatamizadeh 2024"
    keeps = ("keep",)
    equations = "gated deltanet"

    def __init__(self, input_size: int, hidden_size: int, *, heads: int = 4) -> None:
        super().__init__(input_size, hidden_size, heads)
        self.write = nn.Linear(input_size, heads, bias=False)
        self.forget = nn.Linear(input_size, heads)
        self.rate = nn.Parameter(torch.empty(heads).uniform_(1e-4, 16).log())
        with torch.no_grad():
            self.forget.bias.copy_(softplus_of_log_uniform(heads, 0.001, 0.1))

    def initial_state(self, batch_size: int) -> State:
        return {"memory": self.empty(batch_size)}

    def step(self, x: Float[Tensor, "B D"], state: State) -> tuple[Float[Tensor, "B H"], State]:
        query, key, value = self.directed(x)
        gates = self.gates(x, state)
        kept = gates["keep"][..., None, None] * state["memory"]
        memory = kept + outer(gates["write"][..., None] * key, value - read(kept, key))
        return self.out(read(memory, query) / self.width**0.5), {"memory": memory}

    def remembered(
        self, x: Float[Tensor, "*N D"], state: State, reading: Reading
    ) -> tuple[Float[Tensor, "S B A E"], State]:
        log_keep, write = self._log_keep(x), self.write(x).sigmoid()
        looked, memory = reading.sums(self.directed(x), state["memory"], log_keep, write, delta=True)
        return looked / self.width**0.5, {"memory": memory}

    def gates(self, x: Float[Tensor, "B D"], state: State) -> dict[str, Float[Tensor, "B A"]]:
        """``keep`` is alpha, ``write`` beta: one number per head."""
        return {"keep": self._log_keep(x).exp(), "write": self.write(x).sigmoid()}

    def _log_keep(self, x: Float[Tensor, "*N D"]) -> Float[Tensor, "*N A"]:
        return -self.rate.exp() * F.softplus(self.forget(x))
