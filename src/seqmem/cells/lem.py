"""Long expressive memory (Rusch, Mishra, Erichson & Mahoney 2022, arXiv 2110.04744): two states, each with a timescale
that it learns.

    p   = dt * sigmoid(W_1 x_t + U_1 y_{t-1} + b_1)
    q   = dt * sigmoid(W_2 x_t + U_2 y_{t-1} + b_2)
    z_t = (1 - q) * z_{t-1} + q * tanh(W_z x_t + U_z y_{t-1} + b_z)
    y_t = (1 - p) * y_{t-1} + p * tanh(W_y x_t + U_y z_t + b_y)

The rows of W, U and b are in the order 1, 2, z, y.
"""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from .base import Additive
from .initialisation import uniform
from .looped import LoopedCell, by_step, pieces, refuse_second_derivatives
from .state import State


class LEM(LoopedCell):
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

    def by_hand(self, xs: Float[Tensor, "T B D"], state: State) -> tuple[Float[Tensor, "T B H"], State]:
        entering = F.linear(xs, self.weight_input, self.bias)
        outputs, memory = _Loop.apply(entering, state["hidden"], state["memory"], self.weight_hidden, self.dt)
        return outputs, {"hidden": outputs[-1], "memory": memory}

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


class _Loop(torch.autograd.Function):
    """(every y_t, the last z_t) of what the inputs contribute [T B 4H], the first y and z, U and dt."""

    @staticmethod
    def forward(
        ctx: Any, entering: Tensor, first_y: Tensor, first_z: Tensor, weight: Tensor, dt: float
    ) -> tuple[Tensor, Tensor]:
        (steps, batch), size = entering.shape[:2], first_y.shape[1]
        to_gates, to_y = weight[: 3 * size].t(), weight[3 * size :].t()
        gates = entering.new_empty(steps, batch, 3 * size)  # dt * sigmoid of 1 and of 2, tanh of z
        candidates = entering.new_empty(steps, batch, size)  # tanh of y
        ys, zs = (entering.new_empty(steps + 1, batch, size) for _ in range(2))
        ys[0], zs[0] = first_y, first_z
        y, z = ys[0], zs[0]
        for of_gates, of_y, gate, both, p, q, for_z, for_y, next_y, next_z in by_step(
            entering[..., : 3 * size], entering[..., 3 * size :], gates, gates[..., : 2 * size], gates[..., :size],
            gates[..., size : 2 * size], gates[..., 2 * size :], candidates, ys[1:], zs[1:],
        ):  # fmt: skip
            torch.addmm(of_gates, y, to_gates, out=gate)
            both.sigmoid_().mul_(dt)
            torch.lerp(z, for_z.tanh_(), q, out=next_z)
            torch.addmm(of_y, next_z, to_y, out=for_y)
            torch.lerp(y, for_y.tanh_(), p, out=next_y)
            y, z = next_y, next_z
        ctx.save_for_backward(gates, candidates, ys, zs, weight)
        ctx.dt = dt
        return ys[1:], zs[-1].clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        refuse_second_derivatives()
        gates, candidates, ys, zs, weight = ctx.saved_tensors
        dt, size = ctx.dt, ys.shape[2]
        from_1, from_2_z, from_y = weight[:size], weight[size : 3 * size], weight[3 * size :]
        by_entering = gates.new_empty(*gates.shape[:2], 4, size)  # of 1, 2, z, y
        dz = grads[1].clone()
        dy = torch.zeros_like(dz)
        dy_twice, dz_twice = dy.unsqueeze(1), dz.unsqueeze(1)  # views
        for piece in reversed(pieces(len(gates))):
            p, q, for_z = gates[piece].chunk(3, dim=-1)
            y, z, for_y, into = ys[piece], zs[piece], candidates[piece], by_entering[piece]
            # What a gradient by y_t or z_t is multiplied by, on its way to the pre-activations of 1 and y, or 2 and z.
            slopes_y = torch.stack([(for_y - y) * p * (1 - p / dt), p * (1 - for_y.square())], dim=2)
            slopes_z = torch.stack([(for_z - z) * q * (1 - q / dt), q * (1 - for_z.square())], dim=2)
            for from_output, slope_y, slope_z, into_y, into_1, into_for_y, into_z, both, keep_y, keep_z in by_step(
                grads[0][piece], slopes_y, slopes_z, into[:, :, ::3], into[:, :, 0], into[:, :, 3], into[:, :, 1:3],
                into[:, :, 1:3].flatten(2), 1 - p, 1 - q, backwards=True,
            ):  # fmt: skip
                dy.add_(from_output)
                torch.mul(slope_y, dy_twice, out=into_y)
                dz.addmm_(into_for_y, from_y)
                torch.mul(slope_z, dz_twice, out=into_z)
                dy.mul_(keep_y).addmm_(into_1, from_1).addmm_(both, from_2_z)
                dz.mul_(keep_z)
        flat = by_entering.flatten(2).flatten(0, 1)
        by_weight = torch.cat(
            [
                flat[:, : 3 * size].t() @ ys[:-1].flatten(0, 1),
                flat[:, 3 * size :].t() @ zs[1:].flatten(0, 1),
            ]
        )
        return by_entering.flatten(2), dy, dz, by_weight, None
