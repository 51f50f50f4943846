"""Linear recurrent unit (Orvieto et al. 2023, arXiv 2303.06349): complex numbers that turn and decay, each at its own
rate.

    lambda = exp(-exp(nu) + i exp(theta))
    h_t    = lambda * h_{t-1} + exp(gamma) * (B x_t)
    y_t    = gelu(Re(C h_t) + D x_t)

gelu stands for the nonlinear rest of the paper's block, so that layers on top of each other are more than one. D is a
matrix, because the sizes may differ.

Axes: T time, S asked timesteps, B batch, N complex numbers of the state, D input features, H hidden, V vectors.
"""

from math import pi
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float, Int
from torch import Tensor, nn

from ..kernels.scan import scan, scan_of_tokens
from .initialisation import at_least, normal
from .native import ScannedCell, asked
from .state import State
from .taps import Written, haunted

_PARTS = ("real", "imaginary")

CHUNK = 64
"""Timesteps whose powers of lambda are made at once: their number grows with its square, the loops fall with it."""


class LRU(ScannedCell):
    """State: ``real`` and ``imaginary`` [B N].

    ``states`` is N; null: H. At the start |lambda| is between ``fastest`` and ``slowest``, uniform on that ring of the
    complex plane, its angle between 0 and ``phase``; gamma makes states as large as inputs; B ~ N(0, 1/(2 D)) and
    C ~ N(0, 1/N) in both of their parts, D ~ N(0, 1/D).

    Raises:
        ValueError: ``states`` is less than 1, or the ring is none within the unit circle.
    """

    family: ClassVar[str] = "linear over time"
    source: ClassVar[str] = "Orvieto et al. 2023"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        states: int | None = None,
        fastest: float = 0.9,
        slowest: float = 0.999,
        phase: float = 2 * pi,
    ) -> None:
        super().__init__()
        if not 0 < fastest < slowest < 1:
            raise ValueError(f"fastest={fastest}, slowest={slowest}: must be 0 < fastest < slowest < 1")
        if not 0 < phase <= 2 * pi:
            raise ValueError(f"phase={phase}: must be more than 0, and at most 2 pi")
        self.input_size, self.output_size = input_size, hidden_size
        count = at_least("states", hidden_size if states is None else states, 1)
        size = torch.empty(count).uniform_(fastest**2, slowest**2).sqrt()
        self.nu = nn.Parameter((-size.log()).log())
        self.theta = nn.Parameter(torch.empty(count).uniform_(1e-6, 1).mul_(phase).log())
        self.gamma = nn.Parameter((1 - size**2).sqrt().log())
        self.enter = normal(2 * count, input_size, deviation=(2 * input_size) ** -0.5)  # rows: real, imaginary
        self.leave = normal(2, hidden_size, count, deviation=count**-0.5)  # real, imaginary
        self.past = normal(hidden_size, input_size, deviation=input_size**-0.5)

    def initial_state(self, batch_size: int) -> State:
        return dict.fromkeys(_PARTS, self.nu.new_zeros(batch_size, len(self.nu)))

    def step(self, x: Float[Tensor, "B D"], state: State) -> tuple[Float[Tensor, "B H"], State]:
        cos, sin = self._rotation()
        to_real, to_imaginary = self._entering(x)
        real = cos * state["real"] - sin * state["imaginary"] + to_real
        imaginary = sin * state["real"] + cos * state["imaginary"] + to_imaginary
        return self._out(x, real, imaginary), {"real": real, "imaginary": imaginary}

    def by_torch(self, xs: Float[Tensor, "T B D"], state: State) -> tuple[Float[Tensor, "T B H"], State]:
        h = torch.complex(state["real"], state["imaginary"])
        log = torch.complex(-self.nu.exp(), self.theta.exp())
        chunks = []
        for inputs in torch.complex(*self._entering(xs)).split(CHUNK):
            steps = torch.arange(len(inputs), dtype=xs.dtype, device=xs.device)
            apart = steps[:, None] - steps
            powers = (apart.clamp(min=0)[..., None] * log).exp() * (apart >= 0)[..., None]
            chunk = torch.einsum("tsn,sbn->tbn", powers, inputs) + ((steps + 1)[:, None] * log).exp()[:, None] * h
            chunks.append(chunk)
            h = chunk[-1]
        hs: Complex[Tensor, "T B N"] = torch.cat(chunks)
        return self._out(xs, hs.real, hs.imag), {"real": h.real, "imaginary": h.imag}

    def by_kernel(
        self,
        inputs: Float[Tensor, "T B D"] | Int[Tensor, "T B"],
        state: State,
        at: slice,
        vectors: Float[Tensor, "V D"] | None = None,
        *,
        ghosts: bool = False,
    ) -> tuple[Float[Tensor, "S B H"], State, Written]:
        rows = torch.cat(self._entering(inputs if vectors is None else vectors), -1)
        start, constants = torch.cat([state[name] for name in _PARTS], -1), torch.stack(self._rotation())
        if vectors is None:
            written, ghost = haunted(inputs, dict.fromkeys(_PARTS, len(self.nu)), on=ghosts)
            states, last = scan("rotation", rows, start, constants, self._how(), ghost)
        else:
            written = {}
            states, last = scan_of_tokens("rotation", inputs, rows, start, constants, self._how())
        x = inputs[at] if vectors is None else F.embedding(inputs[at], vectors)
        final: State = dict(zip(_PARTS, last.chunk(2, -1), strict=True))
        return self._out(x, *asked(states, last, at).chunk(2, -1)), final, written

    def _rotation(self) -> tuple[Tensor, Tensor]:
        """lambda, its real and its imaginary part."""
        size, angle = (-self.nu.exp()).exp(), self.theta.exp()
        return size * angle.cos(), size * angle.sin()

    def _entering(self, x: Float[Tensor, "*N D"]) -> tuple[Tensor, Tensor]:
        """exp(gamma) * (B x), its real and its imaginary part."""
        real, imaginary = F.linear(x, self.enter).chunk(2, dim=-1)
        return self.gamma.exp() * real, self.gamma.exp() * imaginary

    def _out(
        self, x: Float[Tensor, "*N D"], real: Float[Tensor, "*N S"], imaginary: Float[Tensor, "*N S"]
    ) -> Float[Tensor, "*N H"]:
        of_real, of_imaginary = self.leave
        return F.gelu(F.linear(real, of_real) - F.linear(imaginary, of_imaginary) + F.linear(x, self.past))
