"""Linear attention (Katharopoulos, Vyas, Pappas & Fleuret 2020, arXiv 2006.16236): attention whose softmax is a product
of features, so that the past is one matrix.

    q, k, v = W x_t                          for each head
    S_t     = S_{t-1} + phi(k) v^T
    z_t     = z_{t-1} + phi(k)
    o_t     = S_t^T phi(q) / (z_t . phi(q) + 1e-6)
    phi(x)  = elu(x) + 1

The heads' o_t are joined by W_o.
"""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from .base import Additive
from .matrix_memory import Heads, MatrixMemoryCell, Reading, outer, positive_features, read
from .state import State


class LinearAttention(MatrixMemoryCell):
    """State: ``memory`` [B A E E], S, and ``total`` [B A E], z."""

    family: ClassVar[str] = "matrix memory"
    source: ClassVar[str] = "Katharopoulos et al. 2020"
    equations = "linear attention"

    def __init__(self, input_size: int, hidden_size: int, *, heads: int = 4) -> None:
        super().__init__(input_size, hidden_size, heads)

    def initial_state(self, batch_size: int) -> State:
        memory = self.empty(batch_size)
        return {"memory": memory, "total": memory[..., 0]}

    def step(self, x: Float[Tensor, "B D"], state: State) -> tuple[Float[Tensor, "B H"], State]:
        query, key, value = self._features(x)
        memory, total = state["memory"] + outer(key, value), state["total"] + key
        looked = read(memory, query) / ((total * query).sum(-1, keepdim=True) + 1e-6)
        return self.out(looked), {"memory": memory, "total": total}

    def additive(self, x: Float[Tensor, "B D"], state: State) -> dict[str, Additive]:
        query, key, value = self._features(x)
        return {"memory": Additive(torch.ones_like(key[..., None]), outer(key, value), query)}

    def remembered(
        self, x: Float[Tensor, "*N D"], state: State, reading: Reading
    ) -> tuple[Float[Tensor, "S B A E"], State]:
        # The total is the sum for a value of 1.
        start = torch.cat([state["memory"], state["total"][..., None]], -1)
        sums, end = reading.sums(self._features(x), start)
        return sums[..., :-1] / (sums[..., -1:] + 1e-6), {"memory": end[..., :-1], "total": end[..., -1]}

    def _features(self, x: Float[Tensor, "*N D"]) -> Heads:
        query, key, value = self.projected(x)
        return Heads(positive_features(query), positive_features(key), value)
