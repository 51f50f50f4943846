"""DeltaNet (Schlag, Irie & Schmidhuber 2021, arXiv 2102.11174; Yang et al. 2024, arXiv 2406.06484): a matrix memory
that writes what is new about a value, by the delta rule.

    q, k, v = silu(W x_t), q and k divided by their lengths    for each head
    beta    = sigmoid(w . x_t)
    S_t     = S_{t-1} + beta k (v - S_{t-1}^T k)^T
    o_t     = S_t^T q / sqrt(E)

The transition I - beta k k^T has the eigenvalue 1 - beta. With ``negative`` beta is twice as large, so that it lies
between -1 and 1 (Grazzi et al. 2025, arXiv 2411.12537). The heads' o_t are joined by W_o; the normalisation before it
is not here.
"""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from .matrix_memory import MatrixMemoryCell, Reading, outer, read
from .state import State


class DeltaNet(MatrixMemoryCell):
    """State: ``memory`` [B A E E]."""

    family: ClassVar[str] = "matrix memory"
    source: ClassVar[str] = "Schlag et al. 2021; Yang et al. 2024"
    equations = "deltanet"

    def __init__(self, input_size: int, hidden_size: int, *, heads: int = 4, negative: bool = False) -> None:
        super().__init__(input_size, hidden_size, heads)
        self.write = nn.Linear(input_size, heads, bias=False)
        self.most = 2.0 if negative else 1.0

    def initial_state(self, batch_size: int) -> State:
        return {"memory": self.empty(batch_size)}

    def step(self, x: Float[Tensor, "B D"], state: State) -> tuple[Float[Tensor, "B H"], State]:
        query, key, value = self.directed(x)
        beta = self.most * self.write(x).sigmoid()[..., None]
        memory = state["memory"] + outer(beta * key, value - read(state["memory"], key))
        return self.out(read(memory, query) / self.width**0.5), {"memory": memory}

    def remembered(
        self, x: Float[Tensor, "*N D"], state: State, reading: Reading
    ) -> tuple[Float[Tensor, "S B A E"], State]:
        write = self.most * self.write(x).sigmoid()
        looked, memory = reading.sums(self.directed(x), state["memory"], write=write, delta=True)
        return looked / self.width**0.5, {"memory": memory}

    def weights(self) -> dict[str, Float[Tensor, "..."]]:
        return {**super().weights(), "most": torch.tensor([self.most])}

    def gates(self, x: Float[Tensor, "B D"], state: State) -> dict[str, Float[Tensor, "B A"]]:
        """``write`` is sigmoid(w . x), one number per head."""
        return {"write": self.write(x).sigmoid()}
