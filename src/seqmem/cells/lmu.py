"""Legendre memory unit (Voelker, Kajic & Eliasmith 2019, NeurIPS 32): a linear memory that holds the last ``window``
timesteps of one signal as coefficients of Legendre polynomials.

    u_t = e_x . x_t + e_h . h_{t-1} + e_m . m_{t-1}    what to write
    m_t = A m_{t-1} + B u_t                            the memory
    h_t = tanh(W_x x_t + W_h h_{t-1} + W_m m_t)

A and B are fixed: with i, j = 0 ... order - 1, the exact discretisation (zero-order hold, timesteps of 1) of
dm/dt = a m + b u, a_ij = (2 i + 1) / window * (-1 if i < j else (-1)^(i - j + 1)), b_i = (2 i + 1) (-1)^i / window.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .base import Cell
from .initialisation import at_least, positive, uniform
from .state import State


def legendre_memory(order: int, window: float) -> tuple[Float[Tensor, "N N"], Float[Tensor, " N"]]:
    """The discretised A [order order] and B [order], in float64."""
    i = torch.arange(order, dtype=torch.float64)
    scale = (2 * i + 1) / window
    rows, columns = i[:, None], i[None, :]
    a = scale[:, None] * torch.where(rows < columns, -1.0, (-1.0) ** (rows - columns + 1))
    b = scale * (-1.0) ** i
    # exp of [[a, b], [0, 0]] is [[A, B], [0, 1]].
    joined = torch.zeros(order + 1, order + 1, dtype=torch.float64)
    joined[:order, :order], joined[:order, order] = a, b
    joined = torch.linalg.matrix_exp(joined)
    return joined[:order, :order], joined[:order, order]


class LMU(Cell):
    """State: ``hidden`` [B H], which is the output, and ``memory`` [B order].

    ``order`` is the size of the memory, ``window`` the timesteps that it holds; null: the sequence length. There are no
    biases. As in the authors' code e_x and e_h begin at U(-sqrt(3/n), sqrt(3/n)) of n inputs (LeCun), e_m at 0, the
    matrices Glorot-normal.
    """

    family: ClassVar[str] = "against vanishing"
    source: ClassVar[str] = "Voelker et al. 2019"
    output_state = "hidden"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        order: int = 16,
        window: float | None = None,
        seq_len: int | None = None,
    ) -> None:
        super().__init__()
        at_least("order", order, 1)
        if window is None and seq_len is None:
            raise ValueError("window=null needs seq_len, the number of timesteps to hold")
        self.input_size, self.output_size, self.order = input_size, hidden_size, order
        memory, write = legendre_memory(order, positive("window", float(seq_len or 0) if window is None else window))
        default = torch.get_default_dtype()
        self.memory = nn.Parameter(memory.to(default), requires_grad=False)
        self.write = nn.Parameter(write.to(default), requires_grad=False)
        self.encode_input = uniform(input_size, bound=(3 / input_size) ** 0.5)
        self.encode_hidden = uniform(hidden_size, bound=(3 / hidden_size) ** 0.5)
        self.encode_memory = nn.Parameter(torch.zeros(order))
        self.weight_input = nn.Parameter(torch.empty(hidden_size, input_size))
        self.weight_hidden = nn.Parameter(torch.empty(hidden_size, hidden_size))
        self.weight_memory = nn.Parameter(torch.empty(hidden_size, order))
        for weight in (self.weight_input, self.weight_hidden, self.weight_memory):
            nn.init.xavier_normal_(weight)

    def initial_state(self, batch_size: int) -> State:
        zeros = self.encode_memory.new_zeros
        return {"hidden": zeros(batch_size, self.output_size), "memory": zeros(batch_size, self.order)}

    def step(self, x: Float[Tensor, "B D"], state: State) -> tuple[Float[Tensor, "B H"], State]:
        h, m = state["hidden"], state["memory"]
        u = x @ self.encode_input + h @ self.encode_hidden + m @ self.encode_memory
        memory = F.linear(m, self.memory) + u[:, None] * self.write
        hidden = (
            F.linear(x, self.weight_input) + F.linear(h, self.weight_hidden) + F.linear(memory, self.weight_memory)
        ).tanh()
        return hidden, {"hidden": hidden, "memory": memory}
