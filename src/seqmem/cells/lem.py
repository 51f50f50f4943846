"""Long expressive memory (Rusch, Mishra, Erichson & Mahoney 2022, arXiv 2110.04744): two states, each with a timescale
that it learns.

    p   = dt * sigmoid(W_1 x_t + U_1 y_{t-1} + b_1)
    q   = dt * sigmoid(W_2 x_t + U_2 y_{t-1} + b_2)
    z_t = (1 - q) * z_{t-1} + q * tanh(W_z x_t + U_z y_{t-1} + b_z)
    y_t = (1 - p) * y_{t-1} + p * tanh(W_y x_t + U_y z_t + b_y)

The rows of W, U and b are in the order 1, 2, z, y.
"""

from typing import ClassVar

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .base import Additive, Cell
from .initialisation import uniform
from .state import State


class LEM(Cell):
    """State: ``hidden`` [B H], y, which is the output, and ``memory`` [B H], z.

    ``dt`` is the largest step: 1 in most of the paper's experiments. All weights begin at U(-1/sqrt(H), 1/sqrt(H)).

    Raises:
        ValueError: ``dt`` is not in (0, 1]: beyond it a share of the old state would be negative.
    """

    family: ClassVar[str] = "against vanishing"
    source: ClassVar[str] = "Rusch et al. 2022"
    output_state = "hidden"
    keeps = ("keep",)

    def __init__(self, input_size: int, hidden_size: int, *, dt: float = 1.0) -> None:
        super().__init__()
        if not 0 < dt <= 1:
            raise ValueError(f"dt={dt}: must be more than 0, and at most 1")
        self.dt = float(dt)
        self.input_size, self.output_size = input_size, hidden_size
        bound = hidden_size**-0.5
        self.weight_input = uniform(4 * hidden_size, input_size, bound=bound)
        self.weight_hidden = uniform(4 * hidden_size, hidden_size, bound=bound)
        self.bias = uniform(4 * hidden_size, bound=bound)

    def initial_state(self, batch_size: int) -> State:
        return dict.fromkeys(("hidden", "memory"), self.bias.new_zeros(batch_size, self.output_size))

    def step(self, x: Float[Tensor, "B D"], state: State) -> tuple[Float[Tensor, "B H"], State]:
        y = state["hidden"]
        p, q, for_memory, x_y = self._parts(x, y)
        memory = (1 - q) * state["memory"] + q * for_memory.tanh()
        u_y = self.weight_hidden[3 * self.output_size :]
        hidden = (1 - p) * y + p * (x_y + F.linear(memory, u_y)).tanh()
        return hidden, {"hidden": hidden, "memory": memory}

    def gates(self, x: Float[Tensor, "B D"], state: State) -> dict[str, Float[Tensor, "B H"]]:
        """``keep`` is 1 - q, the share of the old memory; ``output`` is p, how fast the output follows it."""
        p, q, _, _ = self._parts(x, state["hidden"])
        return {"keep": 1 - q, "output": p}

    def additive(self, x: Float[Tensor, "B D"], state: State) -> dict[str, Additive]:
        y = state["hidden"]
        _, q, for_memory, _ = self._parts(x, y)
        return {"memory": Additive(1 - q, q * for_memory.tanh())}

    def _parts(self, x: Float[Tensor, "B D"], y: Float[Tensor, "B H"]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """p, q, and before their nonlinearities all of z's candidate and what x gives to y's, [B H] each."""
        x_1, x_2, x_z, x_y = F.linear(x, self.weight_input, self.bias).chunk(4, dim=-1)
        y_1, y_2, y_z = F.linear(y, self.weight_hidden[: 3 * self.output_size]).chunk(3, dim=-1)
        return self.dt * (x_1 + y_1).sigmoid(), self.dt * (x_2 + y_2).sigmoid(), x_z + y_z, x_y
