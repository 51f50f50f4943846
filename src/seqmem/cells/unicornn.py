"""UnICORNN, undamped independent controlled oscillatory RNN (Rusch & Mishra 2021, arXiv 2103.05487): a discretised
Hamiltonian system, which loses nothing: every step can be undone.

    d   = dt * sigmoid(c)                               a unit's own step
    z_t = z_{t-1} - d * (tanh(w * y_{t-1} + V x_t + b) + alpha * y_{t-1})
    y_t = y_{t-1} + d * z_t

y are positions, z velocities; every unit sees its own past alone.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .base import Cell
from .initialisation import positive, uniform
from .state import State


class UnICORNN(Cell):
    """State: ``hidden`` [B H], the positions y, which are the output, and ``velocity`` [B H], z.

    ``dt`` is the largest step, ``alpha`` the restoring force; by default those of the authors for permuted digits, on
    which three layers of 256 units train at ``optimizer.lr=0.0025``. As in their code w ~ U(0, 1), c ~ U(-0.1, 0.1),
    b = 0, and V is Kaiming-uniform with a = 8.
    """

    family: ClassVar[str] = "against vanishing"
    source: ClassVar[str] = "Rusch & Mishra 2021"
    output_state = "hidden"

    def __init__(self, input_size: int, hidden_size: int, *, dt: float = 0.19, alpha: float = 30.65) -> None:
        super().__init__()
        if not 0 <= alpha < float("inf"):
            raise ValueError(f"alpha={alpha}: must be 0 or more, and finite")
        self.dt, self.alpha = positive("dt", dt), float(alpha)
        self.input_size, self.output_size = input_size, hidden_size
        self.weight_input = nn.Parameter(torch.empty(hidden_size, input_size))
        nn.init.kaiming_uniform_(self.weight_input, a=8)
        self.weight_hidden = nn.Parameter(torch.empty(hidden_size).uniform_(0, 1))
        self.timescale = uniform(hidden_size, bound=0.1)
        self.bias = nn.Parameter(torch.zeros(hidden_size))

    def initial_state(self, batch_size: int) -> State:
        return dict.fromkeys(("hidden", "velocity"), self.bias.new_zeros(batch_size, self.output_size))

    def step(self, x: Float[Tensor, "B D"], state: State) -> tuple[Float[Tensor, "B H"], State]:
        y, z = state["hidden"], state["velocity"]
        dt = self.dt * self.timescale.sigmoid()
        force = (self.weight_hidden * y + F.linear(x, self.weight_input, self.bias)).tanh()
        velocity = z - dt * (force + self.alpha * y)
        hidden = y + dt * velocity
        return hidden, {"hidden": hidden, "velocity": velocity}
