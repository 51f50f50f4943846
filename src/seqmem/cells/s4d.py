"""S4D (Gu, Gupta, Goel & Re 2022, arXiv 2206.11893): every unit is a continuous, linear system of its own, whose modes
turn and decay, sampled at its own rate. For each unit, with N/2 complex modes,

    u_t = W_in x_t                  or x_t itself where the sizes are equal
    a   = exp(dt A)                 zero-order hold
    b   = (a - 1) / A
    h_t = a h_{t-1} + b u_t
    y_t = 2 Re(sum of C h_t) + D u_t

and units are mixed as in the released block, z = W gelu(y_t) + b: its first half times the sigmoid of its second half.

Axes: T time, S asked timesteps, B batch, M = N/2 modes, D input features, H hidden, V vectors.
"""

from math import log, pi
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float, Int
from torch import Tensor, nn

from ..kernels.modes import turning
from .initialisation import normal
from .native import ScannedCell
from .state import State
from .taps import Written

CHUNK = 64
"""Timesteps whose convolution is one product: the work grows with it, the number of loops falls with it."""


class S4D(ScannedCell):
    """State: ``real`` and ``imaginary`` [B H M].

    At the start A = -1/2 + i pi m for mode m = 0, 1, ... (S4D-Lin), dt is log-uniform between ``shortest`` and
    ``longest``, C complex normal, D ~ N(0, 1); B is 1.

    Args:
        states: N, real numbers per unit.
        mixing: false: the output is gelu(y_t).

    Raises:
        ValueError: ``states`` is not an even number from 2 on, or not 0 < ``shortest`` < ``longest``.
    """

    family: ClassVar[str] = "linear over time"
    source: ClassVar[str] = "Gu et al. 2022"
    every_state = False

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        states: int = 64,
        mixing: bool = True,
        shortest: float = 0.001,
        longest: float = 0.1,
    ) -> None:
        super().__init__()
        if states < 2 or states % 2:
            raise ValueError(f"states={states}: must be an even number, at least 2")
        if not 0 < shortest < longest < float("inf"):
            raise ValueError(f"shortest={shortest}, longest={longest}: must be 0 < shortest < longest")
        self.input_size, self.output_size = input_size, hidden_size
        modes = states // 2
        self.enter = nn.Identity() if input_size == hidden_size else nn.Linear(input_size, hidden_size, bias=False)
        self.log_dt = nn.Parameter(torch.empty(hidden_size).uniform_(log(shortest), log(longest)))
        self.log_decay = nn.Parameter(torch.full((hidden_size, modes), log(0.5)))
        self.frequency = nn.Parameter((pi * torch.arange(modes)).repeat(hidden_size, 1))
        self.leave = normal(2, hidden_size, modes, deviation=0.5**0.5)  # C: real, imaginary
        self.past = normal(hidden_size, deviation=1.0)
        self.mix = nn.Linear(hidden_size, 2 * hidden_size) if mixing else None

    def initial_state(self, batch_size: int) -> State:
        return dict.fromkeys(("real", "imaginary"), self.log_decay.new_zeros(batch_size, *self.log_decay.shape))

    def step(self, x: Float[Tensor, "B D"], state: State) -> tuple[Float[Tensor, "B H"], State]:
        u = self.enter(x)
        log_a, b = self._sampled()
        cos, sin = (part[0] for part in _powers(log_a, 1, 2))
        real = cos * state["real"] - sin * state["imaginary"] + b.real * u[..., None]
        imaginary = sin * state["real"] + cos * state["imaginary"] + b.imag * u[..., None]
        of_real, of_imaginary = self.leave
        y = 2 * (of_real * real - of_imaginary * imaginary).sum(-1) + self.past * u
        return self._out(y), {"real": real, "imaginary": imaginary}

    def by_torch(self, xs: Float[Tensor, "T B D"], state: State) -> tuple[Float[Tensor, "T B H"], State]:
        """In chunks: a convolution with the unit's response, and what the state before the chunk adds."""
        u = self.enter(xs)
        log_a, b = self._sampled()
        size = min(CHUNK, len(u))
        cos, sin = _powers(log_a, 0, size + 1)  # [L H M]
        of_real, of_imaginary = self.leave
        c_real, c_imaginary = of_real * cos - of_imaginary * sin, of_real * sin + of_imaginary * cos  # C a^l
        b_real, b_imaginary = b.real * cos - b.imag * sin, b.real * sin + b.imag * cos  # b a^l
        response = 2 * (c_real * b.real - c_imaginary * b.imag).sum(-1)  # [L H]
        steps = torch.arange(size, device=u.device)
        apart = steps[:, None] - steps
        kernel = (response[apart.clamp(min=0)] * (apart >= 0)[..., None]).permute(2, 0, 1)  # [H L L]
        reading = 2 * torch.cat([c_real, -c_imaginary], -1)[1:].transpose(0, 1)  # [H L 2M]
        writing = torch.cat([b_real, b_imaginary], -1).transpose(0, 1)  # [H L 2M]
        hs = torch.cat([state["real"], state["imaginary"]], -1).transpose(0, 1)  # [H B 2M]
        ys = []
        for part in u.split(size):
            n, chunk = len(part), part.permute(2, 0, 1)  # [H L B]
            ys.append((kernel[:, :n, :n] @ chunk + reading[:, :n] @ hs.mT).permute(1, 2, 0))
            real, imaginary = hs.chunk(2, -1)
            of, turn = cos[n][:, None], sin[n][:, None]
            hs = torch.cat([of * real - turn * imaginary, turn * real + of * imaginary], -1)
            hs = hs + chunk.mT @ writing[:, :n].flip(1)
        real, imaginary = hs.transpose(0, 1).chunk(2, -1)
        return self._out(torch.cat(ys) + self.past * u), {"real": real, "imaginary": imaginary}

    def by_kernel(
        self,
        inputs: Float[Tensor, "T B D"] | Int[Tensor, "T B"],
        state: State,
        at: slice,
        vectors: Float[Tensor, "V D"] | None = None,
        *,
        ghosts: bool = False,
    ) -> tuple[Float[Tensor, "S B H"], State, Written]:
        u = self.enter(inputs) if vectors is None else F.embedding(inputs, self.enter(vectors))
        log_a, b = self._sampled()
        a = log_a.exp()
        rows = torch.stack([a.real, a.imag, b.real, b.imag, *(2 * self.leave)]).mT
        start = torch.stack([state["real"], state["imaginary"]], 1).mT
        y, last = turning(u, rows, start, self._how(), at.start)
        real, imaginary = last.mT.unbind(1)
        return self._out(y[: at.stop - at.start] + self.past * u[at]), {"real": real, "imaginary": imaginary}, {}

    def _sampled(self) -> tuple[Complex[Tensor, "H M"], Complex[Tensor, "H M"]]:
        """log a and b."""
        a = torch.complex(-self.log_decay.exp(), self.frequency)
        log_a = self.log_dt.exp()[:, None] * a
        return log_a, (log_a.exp() - 1) / a

    def _out(self, y: Float[Tensor, "*N H"]) -> Float[Tensor, "*N H"]:
        y = F.gelu(y)
        return y if self.mix is None else F.glu(self.mix(y), dim=-1)


def _powers(log_a: Complex[Tensor, "H M"], first: int, last: int) -> tuple[Tensor, Tensor]:
    """a^l for l = first ... last - 1, real and imaginary parts [L H M]."""
    exponents = torch.arange(first, last, dtype=log_a.real.dtype, device=log_a.device)[:, None, None]
    powers = (exponents * log_a).exp()
    return powers.real, powers.imag
