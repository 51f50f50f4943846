"""Independently recurrent network (Li, Li, Cook, Zhu & Gao 2018, arXiv 1803.04831): every unit sees its own past alone.

    h_t = relu(W x_t + b + u * h_{t-1}),    |u| <= most^(1 / seq_len)

Over a sequence a unit's gradient is multiplied by at most ``most``, so that it cannot explode.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .base import Cell
from .initialisation import positive
from .state import State


class IndRNN(Cell):
    """State: ``hidden`` [B H].

    ``most`` bounds u: 2 in the authors' language models, 5 in their pixel-by-pixel digits; null: no bound. The bound
    holds for the u that the step uses. The gradient goes past it, as if u were projected after every update, which is
    what the authors do.

    W is Kaiming-uniform with a = 8, b = 0, u ~ U(0, bound), as in the authors' code; without a bound u ~ U(0, 1).
    """

    family: ClassVar[str] = "against vanishing"
    source: ClassVar[str] = "Li et al. 2018"
    output_state = "hidden"

    def __init__(
        self, input_size: int, hidden_size: int, *, most: float | None = 2.0, seq_len: int | None = None
    ) -> None:
        super().__init__()
        if most is not None and seq_len is None:
            raise ValueError(f"most={most} needs seq_len, the number of timesteps over which it holds")
        self.input_size, self.output_size = input_size, hidden_size
        self.bound = None if most is None or seq_len is None else positive("most", most) ** (1 / seq_len)
        self.weight_input = nn.Parameter(torch.empty(hidden_size, input_size))
        nn.init.kaiming_uniform_(self.weight_input, a=8)
        self.weight_hidden = nn.Parameter(torch.empty(hidden_size).uniform_(0, self.bound or 1.0))
        self.bias = nn.Parameter(torch.zeros(hidden_size))

    def initial_state(self, batch_size: int) -> State:
        return {"hidden": self.bias.new_zeros(batch_size, self.output_size)}

    def step(self, x: Float[Tensor, "B D"], state: State) -> tuple[Float[Tensor, "B H"], State]:
        u = self.weight_hidden
        if self.bound is not None:
            u = u + (u.clamp(-self.bound, self.bound) - u).detach()
        hidden = (F.linear(x, self.weight_input, self.bias) + u * state["hidden"]).relu()
        return hidden, {"hidden": hidden}
