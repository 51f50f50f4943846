"""Gated linear attention (Yang, Wang, Shen, Panda & Kim 2023, arXiv 2312.06635): a matrix memory that forgets each
number of a key at its own rate, which the input decides.

    q, k, v = W x_t                               for each head
    a       = sigmoid(W_2 W_1 x_t + b)^(1/16)     E numbers for each head
    S_t     = diag(a) S_{t-1} + k v^T
    o_t     = S_t^T q / sqrt(E)

The heads' o_t are joined by W_o; the normalisation and the gate around it are not here.
"""

from typing import ClassVar

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .base import Additive
from .initialisation import at_least
from .matrix_memory import MatrixMemoryCell, Reading, outer, read
from .state import State


class GLA(MatrixMemoryCell):
    """State: ``memory`` [B A E E].

    ``rank``: rows of W_1; null: one full matrix in place of W_2 W_1.

    Raises:
        ValueError: ``rank`` is less than 1.
    """

    family: ClassVar[str] = "matrix memory"
    source: ClassVar[str] = "Yang et al. 2023"
    keeps = ("keep",)
    equations = "gla"

    def __init__(self, input_size: int, hidden_size: int, *, heads: int = 4, rank: int | None = 16) -> None:
        super().__init__(input_size, hidden_size, heads)
        keys = heads * self.width
        if rank is None:
            self.keep: nn.Module = nn.Linear(input_size, keys)
        else:
            self.keep = nn.Sequential(
                nn.Linear(input_size, at_least("rank", rank, 1), bias=False), nn.Linear(rank, keys)
            )

    def initial_state(self, batch_size: int) -> State:
        return {"memory": self.empty(batch_size)}

    def step(self, x: Float[Tensor, "B D"], state: State) -> tuple[Float[Tensor, "B H"], State]:
        query, key, value = self.projected(x)
        memory = self._log_keep(x).exp()[..., None] * state["memory"] + outer(key, value)
        return self.out(read(memory, query) / self.width**0.5), {"memory": memory}

    def remembered(
        self, x: Float[Tensor, "*N D"], state: State, reading: Reading
    ) -> tuple[Float[Tensor, "S B A E"], State]:
        looked, memory = reading.sums(self.projected(x), state["memory"], self._log_keep(x))
        return looked / self.width**0.5, {"memory": memory}

    def gates(self, x: Float[Tensor, "B D"], state: State) -> dict[str, Float[Tensor, "B _"]]:
        """``keep`` is a, E numbers per head."""
        return {"keep": self._log_keep(x).exp().flatten(1)}

    def additive(self, x: Float[Tensor, "B D"], state: State) -> dict[str, Additive]:
        query, key, value = self.projected(x)
        return {"memory": Additive(self._log_keep(x).exp()[..., None], outer(key, value), query)}

    def _log_keep(self, x: Float[Tensor, "*N D"]) -> Float[Tensor, "*N A E"]:
        return F.logsigmoid(self.keep(x)).unflatten(-1, (self.heads, self.width)) / SLOWNESS


SLOWNESS = 16
"""The power 1/16 brings a close to 1, so that a new cell forgets slowly."""
