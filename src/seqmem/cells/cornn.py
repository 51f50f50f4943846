"""Coupled oscillatory RNN (Rusch & Mishra 2021, arXiv 2010.00951): driven, damped oscillators.

    f   = tanh(W x_t + V z_{t-1} + U y_{t-1} + b)       the driving force
    z_t = z_{t-1} + dt * (f - gamma * y_{t-1} - epsilon * z_{t-1})
    y_t = y_{t-1} + dt * z_t

y are positions, z velocities. As in the authors' code the damping is that of z_{t-1}.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .base import Cell
from .initialisation import positive, uniform
from .state import State


class CoRNN(Cell):
    """State: ``hidden`` [B H], the positions y, which are the output, and ``velocity`` [B H], z.

    ``dt`` is the size of a step, ``gamma`` the squared frequency, ``epsilon`` the damping; by default those of the
    authors for pixel-by-pixel digits. The columns of the weight are those of x, z, y; as in their code it and b begin
    at U(-k, k) with k = 1 / sqrt(D + 2 H).

    Raises:
        ValueError: with this ``dt * epsilon`` (2 or more) the velocity alone would explode.
    """

    family: ClassVar[str] = "against vanishing"
    source: ClassVar[str] = "Rusch & Mishra 2021"
    output_state = "hidden"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        dt: float = 0.042,
        gamma: float = 2.7,
        epsilon: float = 4.7,
    ) -> None:
        super().__init__()
        self.dt, self.gamma, self.epsilon = positive("dt", dt), positive("gamma", gamma), positive("epsilon", epsilon)
        if dt * epsilon >= 2:
            raise ValueError(f"dt={dt}, epsilon={epsilon}: their product must be less than 2, or velocities explode")
        self.input_size, self.output_size = input_size, hidden_size
        bound = (input_size + 2 * hidden_size) ** -0.5
        self.weight = uniform(hidden_size, input_size + 2 * hidden_size, bound=bound)
        self.bias = uniform(hidden_size, bound=bound)

    def initial_state(self, batch_size: int) -> State:
        return dict.fromkeys(("hidden", "velocity"), self.bias.new_zeros(batch_size, self.output_size))

    def step(self, x: Float[Tensor, "B D"], state: State) -> tuple[Float[Tensor, "B H"], State]:
        y, z = state["hidden"], state["velocity"]
        force = F.linear(torch.cat([x, z, y], dim=-1), self.weight, self.bias).tanh()
        velocity = z + self.dt * (force - self.gamma * y - self.epsilon * z)
        hidden = y + self.dt * velocity
        return hidden, {"hidden": hidden, "velocity": velocity}
