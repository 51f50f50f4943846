"""RWKV-4's time mixing (Peng et al. 2023, arXiv 2305.13048): an average of all values so far, whose weights are
exponential in a key, and decay with the distance.

    k, v, r = W (mu * x_t + (1 - mu) * x_{t-1})    each with its mu
    m       = max(p_{t-1}, u + k)
    past, present = exp(p_{t-1} - m), exp(u + k - m)
    wkv     = (past a_{t-1} + present v) / (past b_{t-1} + present)
    out_t   = W_o (sigmoid(r) * wkv)
    p_t     = max(p_{t-1} - exp(d), k)         of which a and b are free
    a_t     = exp(p_{t-1} - exp(d) - p_t) a_{t-1} + exp(k - p_t) v
    b_t     = exp(p_{t-1} - exp(d) - p_t) b_{t-1} + exp(k - p_t)

The present timestep is weighted by exp(u + k), the one j before it by exp(k - (j - 1) exp(d)). The channel mixing, the
normalisation and the residual path of the block are not here.

Axes: T time, S asked timesteps, B batch, D input features, H hidden, V vectors.
"""

from math import log
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..kernels.functions import linear_recurrence
from ..kernels.scan import scan, scan_of_tokens
from .base import Additive
from .initialisation import uniform
from .matrix_memory import stabilisers
from .native import ScannedCell
from .state import State
from .taps import Written, haunted

_SUMS = ("numerator", "denominator", "exponent")


class RWKV(ScannedCell):
    """State: ``previous`` [B D], x_{t-1}; ``numerator`` a, ``denominator`` b and ``exponent`` p, [B H] each.

    For unit h and feature i, as in the authors' first layer: d = -5 + 8 (h / (H - 1))^0.7, u = log 0.3 and 1/2 more or
    less, mu = i / D for k and v, its root for r. Their W are 0 at the start but for v's, which a block without its
    residual path cannot be; here all are torch's.
    """

    family: ClassVar[str] = "linear over time"
    source: ClassVar[str] = "Peng et al. 2023"

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_size, self.output_size = input_size, hidden_size
        share = torch.arange(input_size) / input_size
        self.mix = nn.Parameter(torch.stack([share, share, share**0.5]))  # rows: k, v, r
        self.weight_input = uniform(3, hidden_size, input_size, bound=input_size**-0.5)
        self.log_decay = nn.Parameter(-5 + 8 * (torch.arange(hidden_size) / max(1, hidden_size - 1)) ** 0.7)
        self.present = nn.Parameter(log(0.3) + ((torch.arange(hidden_size) + 1) % 3 - 1) / 2)
        self.leave = nn.Linear(hidden_size, hidden_size, bias=False)

    def initial_state(self, batch_size: int) -> State:
        empty = self.log_decay.new_zeros(batch_size, self.output_size)
        before = self.log_decay.new_zeros(batch_size, self.input_size)
        exponent = torch.full_like(empty, EMPTY)
        return {"previous": before, "numerator": empty, "denominator": empty, "exponent": exponent}

    def step(self, x: Float[Tensor, "B D"], state: State) -> tuple[Float[Tensor, "B H"], State]:
        k, v, r = self._mixed(x, state["previous"])
        keep, enter, exponent = self._kept(k, state["exponent"])
        a, b = state["numerator"], state["denominator"]
        new = {"numerator": keep * a + enter * v, "denominator": keep * b + enter, "exponent": exponent}
        return self._out(k, v, r, a, b, state["exponent"]), {"previous": x, **new}

    def by_torch(self, xs: Float[Tensor, "T B D"], state: State) -> tuple[Float[Tensor, "T B H"], State]:
        k, v, r = self._mixed(xs, torch.cat([state["previous"][None], xs[:-1]]))
        exponents = stabilisers(-self.log_decay.exp().expand_as(k), k, state["exponent"])
        old, new = exponents[:-1], exponents[1:]
        keep, enter = (old - self.log_decay.exp() - new).exp(), (k - new).exp()
        a = linear_recurrence(keep, enter * v, state["numerator"])
        b = linear_recurrence(keep, enter, state["denominator"])
        before_a, before_b = (
            torch.cat([state[name][None], sums[:-1]]) for name, sums in (("numerator", a), ("denominator", b))
        )
        final = {"previous": xs[-1], "numerator": a[-1], "denominator": b[-1], "exponent": new[-1]}
        return self._out(k, v, r, before_a, before_b, old), final

    def by_kernel(
        self,
        inputs: Float[Tensor, "T B D"] | Int[Tensor, "T B"],
        state: State,
        at: slice,
        vectors: Float[Tensor, "V D"] | None = None,
        *,
        ghosts: bool = False,
    ) -> tuple[Float[Tensor, "S B H"], State, Written]:
        """W (mu * x_t) and W ((1 - mu) * x_{t-1}) are looked up, for tokens; they share one table, which ends with the
        rows of what was read before the first timestep."""
        mix = self.mix[:, None]
        now, past = ((share * self.weight_input).flatten(0, 1) for share in (mix, 1 - mix))
        start, constants = (
            torch.cat([state[name] for name in _SUMS], -1),
            torch.stack([self.log_decay.exp(), self.present]),
        )
        previous = state["previous"]
        written: Written = {}
        if vectors is None:
            rows = F.linear(inputs, now) + F.linear(torch.cat([previous[None], inputs[:-1]]), past)
            written, ghost = haunted(inputs, dict.fromkeys(_SUMS, self.output_size), on=ghosts)
            averages, last = scan("wkv", rows, start, constants, self._how(), ghost)
            written = {"previous": inputs, **written} if ghosts else {}
            newest = inputs[-1]
        else:
            table = torch.cat([F.linear(vectors, now), F.linear(vectors, past), F.linear(previous, past)])
            first = 2 * len(vectors) + torch.arange(len(previous))[None]
            tokens = torch.stack([inputs, torch.cat([first, inputs[:-1] + len(vectors)])], -1)
            averages, last = scan_of_tokens("wkv", tokens, table, start, constants, self._how())
            newest = F.embedding(inputs[-1], vectors)
        final = {"previous": newest, **dict(zip(_SUMS, last.chunk(3, -1), strict=True))}
        return self.leave(averages[at]), final, written

    def gates(self, x: Float[Tensor, "B D"], state: State) -> dict[str, Float[Tensor, "B H"]]:
        """``receptance`` is sigmoid(r)."""
        return {"receptance": self._mixed(x, state["previous"])[2].sigmoid()}

    def additive(self, x: Float[Tensor, "B D"], state: State) -> dict[str, Additive]:
        k, v, _ = self._mixed(x, state["previous"])
        keep, enter, _ = self._kept(k, state["exponent"])
        return {"numerator": Additive(keep, enter * v), "denominator": Additive(keep, enter)}

    def _mixed(self, x: Float[Tensor, "*N D"], previous: Float[Tensor, "*N D"]) -> tuple[Tensor, ...]:
        """k, v and r."""
        rows = zip(self.mix, self.weight_input, strict=True)
        return tuple(F.linear(torch.lerp(previous, x, mu), weight) for mu, weight in rows)

    def _kept(self, k: Float[Tensor, "B H"], exponent: Float[Tensor, "B H"]) -> tuple[Tensor, Tensor, Tensor]:
        """What remains of a and b, with how much a new value enters, the new exponent."""
        left = exponent - self.log_decay.exp()
        new = torch.maximum(left, k)
        return (left - new).exp(), (k - new).exp(), new

    def _out(
        self,
        k: Float[Tensor, "*N H"],
        v: Float[Tensor, "*N H"],
        r: Float[Tensor, "*N H"],
        a: Float[Tensor, "*N H"],
        b: Float[Tensor, "*N H"],
        exponent: Float[Tensor, "*N H"],
    ) -> Float[Tensor, "*N H"]:
        largest = torch.maximum(exponent, self.present + k)
        past, present = (exponent - largest).exp(), (self.present + k - largest).exp()
        return self.leave(r.sigmoid() * (past * a + present * v) / (past * b + present))


EMPTY = -1e38
"""The exponent before the first timestep: less than any key, and finite in float32."""
