"""Antisymmetric RNN (Chang, Chen, Haber & Chi 2019, arXiv 1902.09689): a step of an ordinary differential equation
whose Jacobian has imaginary eigenvalues, so that it neither grows nor decays.

    M   = A - A^T - gamma I
    z   = sigmoid(M h_{t-1} + W_z x_t + b_z)    when gated, else 1
    h_t = h_{t-1} + epsilon * z * tanh(M h_{t-1} + W x_t + b)

Euler's step makes the imaginary eigenvalues grow a little; the diffusion gamma offsets that.
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .base import Cell
from .initialisation import normal, positive
from .state import State


class Antisymmetric(Cell):
    """State: ``hidden`` [B H].

    ``epsilon`` is the size of a step, ``gamma`` the diffusion. A ~ N(0, 1/H), W ~ N(0, 1/D), b = 0. When ``gated``, the
    rows of W and b are in the order z, h.
    """

    family: ClassVar[str] = "against vanishing"
    source: ClassVar[str] = "Chang et al. 2019"
    output_state = "hidden"

    def __init__(
        self, input_size: int, hidden_size: int, *, epsilon: float = 0.01, gamma: float = 0.01, gated: bool = False
    ) -> None:
        super().__init__()
        if not 0 <= gamma < float("inf"):
            raise ValueError(f"gamma={gamma}: must be 0 or more, and finite")
        self.input_size, self.output_size = input_size, hidden_size
        self.epsilon, self.gamma, self.gated = positive("epsilon", epsilon), float(gamma), gated
        rows = hidden_size * (2 if gated else 1)
        self.weight_input = normal(rows, input_size, deviation=input_size**-0.5)
        self.weight_hidden = normal(hidden_size, hidden_size, deviation=hidden_size**-0.5)
        self.bias = nn.Parameter(torch.zeros(rows))

    def initial_state(self, batch_size: int) -> State:
        return {"hidden": self.bias.new_zeros(batch_size, self.output_size)}

    def step(self, x: Float[Tensor, "B D"], state: State) -> tuple[Float[Tensor, "B H"], State]:
        h = state["hidden"]
        *gate, candidate = self._pre_activations(x, h)
        change = candidate.tanh() if not gate else gate[0].sigmoid() * candidate.tanh()
        hidden = h + self.epsilon * change
        return hidden, {"hidden": hidden}

    def gates(self, x: Float[Tensor, "B D"], state: State) -> dict[str, Float[Tensor, "B H"]]:
        """``update`` is the share of the change, when ``gated``."""
        *gate, _ = self._pre_activations(x, state["hidden"])
        return {"update": gate[0].sigmoid()} if gate else {}

    def _pre_activations(self, x: Float[Tensor, "B D"], h: Float[Tensor, "B H"]) -> tuple[Tensor, ...]:
        from_hidden = F.linear(h, self.weight_hidden - self.weight_hidden.T) - self.gamma * h
        from_input = F.linear(x, self.weight_input, self.bias)
        return tuple(part + from_hidden for part in from_input.split(self.output_size, dim=-1))
