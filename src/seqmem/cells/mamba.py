"""Mamba's block (Gu & Dao 2023, arXiv 2312.00752): a linear recurrence whose rates the input selects (S6), behind a
short convolution.

    v, z   = W_in x_t                  I = expand H numbers each
    u      = silu(b + sum over j < kernel of w_j * v_{t-j})
    l, B, C = W_x u
    dt     = softplus(W_dt l + b_dt)
    h_t    = exp(dt A) * h_{t-1} + dt B u      N numbers for each of the I
    y_t    = C . h_t + D * u
    out_t  = W_out (y_t * silu(z))

With ``negative`` a timestep keeps 2 exp(dt A) - 1, between -1 and 1 (Grazzi et al. 2025, arXiv 2411.12537): a state can
change its sign, as counting modulo 2 needs. It has no native kernel and is computed by torch's operators.

The normalisation before the block and the residual path around it are not here.

Axes: T time, S asked timesteps, B batch, V vectors, D input features, I inner units, N numbers of each one's state, R
rank, H hidden.
"""

from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..kernels.functions import linear_recurrence
from ..kernels.selective import convolve, selective
from .base import Additive
from .initialisation import at_least, softplus_of_log_uniform, uniform
from .native import ScannedCell
from .state import Slots, State
from .taps import Written

CHUNK = 16
"""Timesteps whose states are kept at once; the backward pass computes those of a chunk again."""


class Mamba(ScannedCell):
    """State: ``memory`` [B I N], and ``window``, what the convolution sees of the past, [B I] per timestep.

    As in the authors' code A = -1, -2 ... -N for every unit, D is 1, softplus(b_dt) is log-uniform in [0.001, 0.1],
    W_dt ~ U(-R^-0.5, R^-0.5) and R = D / 16, rounded up, of the layer's size, here H.

    Args:
        expand: I / H.
        states: N.
        kernel: timesteps that the convolution reads, the present one among them.
        rank: R; null: H / 16, rounded up.
        negative: whether what is kept lies between -1 and 1, not between 0 and 1.

    Raises:
        ValueError: an option is below its least value.
    """

    family: ClassVar[str] = "linear over time"
    source: ClassVar[str] = "Gu & Dao 2023"
    keeps = ("keep",)
    every_state = False

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        expand: int = 2,
        states: int = 16,
        kernel: int = 4,
        rank: int | None = None,
        negative: bool = False,
    ) -> None:
        super().__init__()
        self.negative = negative
        if negative:
            self.kernels = ("torch",)
        self.input_size, self.output_size = input_size, hidden_size
        self.states = at_least("states", states, 1)
        self.reach = at_least("kernel", kernel, 2) - 1
        inner = at_least("expand", expand, 1) * hidden_size
        self.rank = -(-hidden_size // 16) if rank is None else at_least("rank", rank, 1)
        self.enter = nn.Linear(input_size, 2 * inner, bias=False)  # rows: v, z
        self.taps = uniform(kernel, inner, bound=kernel**-0.5)  # the present timestep's last
        self.bias = uniform(inner, bound=kernel**-0.5)
        self.select = nn.Linear(inner, self.rank + 2 * states, bias=False)  # rows: l, B, C
        self.rate = nn.Linear(self.rank, inner)
        with torch.no_grad():
            self.rate.weight.uniform_(-(self.rank**-0.5), self.rank**-0.5)
            self.rate.bias.copy_(softplus_of_log_uniform(inner, 0.001, 0.1))
        self.log_decay = nn.Parameter(torch.arange(1.0, states + 1).log().repeat(inner, 1))
        self.past = nn.Parameter(torch.ones(inner))
        self.leave = nn.Linear(inner, hidden_size, bias=False)

    def initial_state(self, batch_size: int) -> State:
        return {
            "memory": self.past.new_zeros(batch_size, len(self.past), self.states),
            "window": Slots(window=self.reach),
        }

    def step(self, x: Float[Tensor, "B D"], state: State) -> tuple[Float[Tensor, "B H"], State]:
        v, z = self.enter(x).chunk(2, dim=-1)
        u = self._convolved([*state["window"], v])
        dt, b, c = self._selected(u)
        keep, write = self._parts(u, dt, b)
        memory = keep * state["memory"] + write
        y = (memory * c[..., None, :]).sum(-1) + self.past * u
        return self.leave(y * F.silu(z)), {"memory": memory, "window": state["window"].append(v)}

    def by_torch(self, xs: Float[Tensor, "T B D"], state: State) -> tuple[Float[Tensor, "T B H"], State]:
        v, z = self.enter(xs).chunk(2, dim=-1)
        u = self._filtered(v, state["window"])
        memory, ys = state["memory"], []
        for part in zip(*(array.split(CHUNK) for array in (u, *self._selected(u))), strict=True):
            y, memory = _Scan.apply(*part, self.log_decay.exp(), memory, self.negative)
            ys.append(y)
        final = {"memory": memory, "window": state["window"].extend(v.unbind(0))}
        return self.leave((torch.cat(ys) + self.past * u) * F.silu(z)), final

    def by_kernel(
        self,
        inputs: Float[Tensor, "T B D"] | Int[Tensor, "T B"],
        state: State,
        at: slice,
        vectors: Float[Tensor, "V D"] | None = None,
        *,
        ghosts: bool = False,
    ) -> tuple[Float[Tensor, "S B H"], State, Written]:
        of_v, of_z = self.enter.weight.chunk(2)
        table = None if vectors is None else F.linear(vectors, of_v)
        v = F.linear(inputs, of_v) if table is None else inputs
        newest = v[-self.reach :] if table is None else F.embedding(inputs[-self.reach :], table)
        window = state["window"]
        missing = self.past.new_zeros(self.reach - len(window), *inputs.shape[1:2], len(self.past))
        before = torch.cat([missing, *([window.stacked()] if len(window) else [])])
        u = convolve(v, before, torch.cat([self.taps, self.bias[None]]), self._how(), table)
        rate = torch.cat([self.rate.weight.mT, self.rate.bias[None]])
        start, decay = state["memory"].mT, -self.log_decay.exp().mT
        y, last = selective(u, self.select.weight, rate, decay, self.past, start, self._how(), at.start)
        asked = inputs[at] if vectors is None else F.embedding(inputs[at], vectors)
        window = Slots(
            [*window, *newest.unbind(0)], window=self.reach, dropped=window.dropped + len(inputs) - len(newest)
        )
        return (
            self.leave(y[: at.stop - at.start] * F.silu(F.linear(asked, of_z))),
            {"memory": last.mT, "window": window},
            {},
        )

    def kept(self, steps: int) -> int:
        return steps * (self.output_size + 2 * len(self.past) + self.rank + 2 * self.states)  # v, u, and l, B and C

    def gates(self, x: Float[Tensor, "B D"], state: State) -> dict[str, Float[Tensor, "B _"]]:
        """``keep`` is exp(dt A), or with ``negative`` |2 exp(dt A) - 1|, I N numbers."""
        return {"keep": self._parts(*self._reading(x, state)[:3])[0].abs().flatten(1)}

    def additive(self, x: Float[Tensor, "B D"], state: State) -> dict[str, Additive]:
        u, dt, b, c = self._reading(x, state)
        keep, write = self._parts(u, dt, b)
        return {"memory": Additive(keep, write, c[:, None].expand_as(keep))}

    def _reading(self, x: Float[Tensor, "B D"], state: State) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        u = self._convolved([*state["window"], self.enter(x).chunk(2, dim=-1)[0]])
        return (u, *self._selected(u))

    def _filtered(self, v: Float[Tensor, "T B I"], window: Slots) -> Float[Tensor, "T B I"]:
        """u of all timesteps, after those that wrote ``window``."""
        seen = torch.cat([*([window.stacked()] if len(window) else []), v])
        padded = F.pad(seen, (0, 0, 0, 0, self.reach - len(window), 0))
        return self._convolved([padded[at : at + len(v)] for at in range(self.reach + 1)])

    def _convolved(self, inputs: list[Tensor]) -> Float[Tensor, "*N I"]:
        """The causal convolution over the last timesteps' v, the present one's last; what is missing is zero."""
        total = self.bias
        for tap, v in zip(self.taps[-len(inputs) :].unbind(0), inputs, strict=True):
            total = total + tap * v
        return F.silu(total)

    def _selected(self, u: Float[Tensor, "*N I"]) -> tuple[Tensor, Tensor, Tensor]:
        """dt [*N I]; B and C [*N N]."""
        low, b, c = self.select(u).split([self.rank, self.states, self.states], dim=-1)
        return F.softplus(self.rate(low)), b, c

    def _parts(
        self, u: Float[Tensor, "B I"], dt: Float[Tensor, "B I"], b: Float[Tensor, "B S"]
    ) -> tuple[Tensor, Tensor]:
        return _parts(u, dt, b, self.log_decay.exp(), negative=self.negative)


def _parts(
    u: Float[Tensor, "*N I"],
    dt: Float[Tensor, "*N I"],
    b: Float[Tensor, "*N S"],
    decay: Float[Tensor, "I S"],
    *,
    negative: bool,
) -> tuple[Float[Tensor, "*N I S"], Float[Tensor, "*N I S"]]:
    """What a timestep keeps, and what it writes."""
    keep = (dt[..., None] * -decay).exp()
    return 2 * keep - 1 if negative else keep, (dt * u)[..., None] * b[..., None, :]


class _Scan(torch.autograd.Function):
    """From u, dt, B and C of some timesteps, the decays and the memory before them: (C . h_t for each, the last h).

    It saves its arguments alone: the states, N times as many numbers, are computed again in the backward pass.
    """

    @staticmethod
    def forward(
        ctx: Any, u: Tensor, dt: Tensor, b: Tensor, c: Tensor, decay: Tensor, memory: Tensor, negative: bool
    ) -> tuple[Tensor, Tensor]:
        ctx.save_for_backward(u, dt, b, c, decay, memory)
        ctx.negative = negative
        memories = linear_recurrence(*_parts(u, dt, b, decay, negative=negative), memory)
        return (memories * c[..., None, :]).sum(-1), memories[-1].clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("mamba's forward has no second derivatives: use its steps")
        u, dt, b, c, decay, memory = ctx.saved_tensors
        keep, write = _parts(u, dt, b, decay, negative=ctx.negative)
        memories = linear_recurrence(keep, write, memory)
        # g_t, the gradient by h_t, is c_t dy_t + keep_{t+1} g_{t+1}: the same recurrence, backwards.
        direct = grads[0][..., None] * c[..., None, :]
        later = torch.cat([torch.ones_like(keep[:1]), keep[1:].flip(0)])
        g = linear_recurrence(later, direct.flip(0), grads[1]).flip(0)
        slope = keep + 1 if ctx.negative else keep  # of what is kept, by dt A: 2 exp(dt A), or exp(dt A)
        by_dt_a = g * torch.cat([memory[None], memories[:-1]]) * slope
        by_dt_u = (g * b[..., None, :]).sum(-1)
        return (
            by_dt_u * dt,
            by_dt_u * u - (by_dt_a * decay).sum(-1),
            (g * (dt * u)[..., None]).sum(-2),
            (grads[0][..., None] * memories).sum(-2),
            -(by_dt_a * dt[..., None]).sum((0, 1)),
            keep[0] * g[0],
            None,
        )
