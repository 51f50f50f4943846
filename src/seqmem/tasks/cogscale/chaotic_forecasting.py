"""CogScale: say in advance how the Lorenz system goes on.

    reads   x0,y0,z0  x1,y1,z1  x2,y2,z2  x3,y3,z3
    says           .         .  x4,y4,z4  x5,y5,z5
    the three numbers of its state; each timestep, but for the first few
    (here two), asks for those some timesteps later

small: a signal of 200 timesteps, 5 in advance, of which the first 90 are trained on; medium: 2000, 15, 900; large:
20000, 50, 9000. The state begins at (0, 1, 1.05) and takes Euler's steps of 0.01 with sigma 10, rho 28 and beta 2.667;
each number is shown less its mean over the signal, divided by three standard deviations. It is one signal: the first
45 % are for training, 10 % for evaluations during training, 45 % for the final score. ``seq_len`` timesteps of a part
are read, beginning anywhere; at the published length that is all of the training part, the same sequence again and
again. In the published test all that comes before is read, too.

An input is the whole state, so an answer needs no memory (a lag of 0), but a function that is not linear: the same few
steps. As chance counts the best affine answer from the last input: a mean squared error of 0.001 in small sequences,
0.046 in medium and 0.107 in large ones, where a constant has 0.053, 0.101 and 0.112.

Bendi-Ouis, De Coudenhove & Hinaut 2026, CogScale (arXiv 2605.19758),
``chaotic_forecasting`` in version 0.2.0 of their package; the system is that of Lorenz 1963.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from .forecasting import Forecasting

SIGMA, RHO, BETA = 10.0, 28.0, 2.667
TIMESTEP = 0.01
START = (0.0, 1.0, 1.05)


@dataclass(frozen=True)
class ChaoticForecasting(Forecasting):
    """``size``: small, medium or large, as published."""

    name: ClassVar[str] = "cogscale_chaotic_forecasting"
    dimensions: ClassVar[int] = 3

    def with_part(self, part: int) -> "ChaoticForecasting":
        return (ChaoticForecasting, _Validation, _Test)[part](self.size)

    def signal(self) -> Float[np.ndarray, "N 3"]:
        states, mean, scale = _states(self.given.length + self.given.delay)
        return (states - mean) / scale

    def solve(self, inputs: Float[Tensor, "T B 3"]) -> Float[Tensor, "T B 3"]:
        """The state after as many of Euler's steps."""
        _, mean, scale = (torch.from_numpy(one) for one in _states(self.given.length + self.given.delay))
        x, y, z = (inputs.double() * scale + mean).unbind(-1)
        for _ in range(self.given.delay):
            x, y, z = (
                x + TIMESTEP * SIGMA * (y - x),
                y + TIMESTEP * (RHO * x - y - x * z),
                z + TIMESTEP * (x * y - BETA * z),
            )
        return ((torch.stack([x, y, z], -1) - mean) / scale).to(inputs.dtype)

    def lag(self, inputs: Float[Tensor, "T B 3"]) -> Int[Tensor, "T B"]:
        """The question's own input is the whole state."""
        return torch.zeros(inputs.shape[:2], dtype=torch.long)


@lru_cache
def _states(steps: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(states, their mean, three standard deviations)"""
    x, y, z = START
    states = [START]
    for _ in range(steps - 1):
        x, y, z = (
            x + SIGMA * (y - x) * TIMESTEP,
            y + (RHO * x - y - x * z) * TIMESTEP,
            z + (x * y - BETA * z) * TIMESTEP,
        )
        states.append((x, y, z))
    whole = np.array(states)
    return whole, whole.mean(0), 3 * whole.std(0)


@dataclass(frozen=True)
class _Validation(ChaoticForecasting):
    part: ClassVar[int] = 1


@dataclass(frozen=True)
class _Test(ChaoticForecasting):
    part: ClassVar[int] = 2
