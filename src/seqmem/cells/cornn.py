"""Coupled oscillatory RNN (Rusch & Mishra 2021, arXiv 2010.00951): driven, damped oscillators.

    f   = tanh(W x_t + V z_{t-1} + U y_{t-1} + b)       the driving force
    z_t = z_{t-1} + dt * (f - gamma * y_{t-1} - epsilon * z_{t-1})
    y_t = y_{t-1} + dt * z_t

y are positions, z velocities. As in the authors' code the damping is that of z_{t-1}.
"""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .initialisation import positive, uniform
from .looped import LoopedCell, by_step, pieces, refuse_second_derivatives
from .state import State


class CoRNN(LoopedCell):
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

    def by_hand(self, xs: Float[Tensor, "T B D"], state: State) -> tuple[Float[Tensor, "T B H"], State]:
        entering = F.linear(xs, self.weight[:, : self.input_size], self.bias)
        outputs, velocity = _Loop.apply(
            entering, state["velocity"], state["hidden"], self.weight[:, self.input_size :],
            (self.dt, self.gamma, self.epsilon),
        )  # fmt: skip
        return outputs, {"hidden": outputs[-1], "velocity": velocity}


class _Loop(torch.autograd.Function):
    """(every y_t, the last z_t) of what the inputs contribute [T B H], the first z and y, V and U side by side, and dt,
    gamma, epsilon."""

    @staticmethod
    def forward(
        ctx: Any, entering: Tensor, first_z: Tensor, first_y: Tensor, weight: Tensor, constants: tuple[float, ...]
    ) -> tuple[Tensor, Tensor]:
        dt, gamma, epsilon = constants
        steps, batch, size = entering.shape
        forces, across = torch.empty_like(entering), weight.t()
        states = entering.new_empty(steps + 1, batch, 2 * size)  # z and y side by side
        zs, ys = states[..., :size], states[..., size:]
        zs[0], ys[0] = first_z, first_y
        for into, force, state, z, y, next_z, next_y in by_step(
            entering, forces, states[:-1], zs[:-1], ys[:-1], zs[1:], ys[1:]
        ):
            torch.addmm(into, state, across, out=force)
            torch.mul(z, 1 - dt * epsilon, out=next_z)
            next_z.add_(y, alpha=-dt * gamma).add_(force.tanh_(), alpha=dt)
            torch.add(y, next_z, alpha=dt, out=next_y)
        ctx.save_for_backward(forces, states, weight)
        ctx.constants = constants
        return ys[1:].contiguous(), zs[-1].clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivatives()
        forces, states, weight = ctx.saved_tensors
        dt, gamma, epsilon = ctx.constants
        by_entering, dz = torch.empty_like(forces), grads[1].clone()
        dy, across = torch.zeros_like(dz), torch.cat([torch.zeros_like(dz)] * 2, dim=-1)
        by_z, by_y = across.chunk(2, dim=-1)  # views
        for piece in reversed(pieces(len(forces))):
            slopes = dt * (1 - forces[piece].square())
            for from_output, slope, into in by_step(grads[0][piece], slopes, by_entering[piece], backwards=True):
                dz.add_(dy.add_(from_output), alpha=dt)
                torch.mul(slope, dz, out=into)
                torch.mm(into, weight, out=across)
                dy.add_(dz, alpha=-dt * gamma).add_(by_y)
                dz.mul_(1 - dt * epsilon).add_(by_z)
        by_weight = by_entering.flatten(0, 1).t() @ states[:-1].flatten(0, 1)
        return by_entering, dz, dy, by_weight, None
