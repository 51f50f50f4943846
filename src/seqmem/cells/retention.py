"""Retention (Sun et al. 2023, arXiv 2307.08621): a matrix memory that decays, at another rate in each head.

    q, k, v = W x_t                       for each head a = 0, 1 ...
    S_t     = gamma S_{t-1} + k v^T       gamma = 1 - 2^(-5 - a)
    o_t     = S_t^T q / sqrt(E)

The heads' o_t are joined by W_o. The paper's rotation, group norm and gate around it are not here.
"""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .base import Additive
from .matrix_memory import MatrixMemoryCell, Reading, outer, read
from .state import State


class Retention(MatrixMemoryCell):
    """State: ``memory`` [B A E E]."""

    family: ClassVar[str] = "matrix memory"
    source: ClassVar[str] = "Sun et al. 2023"
    equations = "retention"

    def __init__(self, input_size: int, hidden_size: int, *, heads: int = 4) -> None:
        super().__init__(input_size, hidden_size, heads)
        decay = 1 - 2.0 ** (-5 - torch.arange(heads, dtype=torch.float64))
        self.decay = nn.Parameter(decay.to(torch.get_default_dtype()), requires_grad=False)

    def initial_state(self, batch_size: int) -> State:
        return {"memory": self.empty(batch_size)}

    def step(self, x: Float[Tensor, "B D"], state: State) -> tuple[Float[Tensor, "B H"], State]:
        query, key, value = self.projected(x)
        memory = self.decay[:, None, None] * state["memory"] + outer(key, value)
        return self.out(read(memory, query) / self.width**0.5), {"memory": memory}

    def additive(self, x: Float[Tensor, "B D"], state: State) -> dict[str, Additive]:
        query, key, value = self.projected(x)
        return {"memory": Additive(self.decay[:, None, None], outer(key, value), query)}

    def remembered(
        self, x: Float[Tensor, "*N D"], state: State, reading: Reading
    ) -> tuple[Float[Tensor, "S B A E"], State]:
        log_keep = self.decay.log().expand(*x.shape[:-1], self.heads)
        looked, memory = reading.sums(self.projected(x), state["memory"], log_keep)
        return looked / self.width**0.5, {"memory": memory}
