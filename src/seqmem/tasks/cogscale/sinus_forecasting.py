"""CogScale: say in advance how an oscillation goes on.

    reads   0.00 0.61 0.97 0.92 0.51 ...
    says       .    .    . 0.33 0.74
    sin(20 pi t + sin(pi t)); each timestep, but for the first few, asks for
    the value some timesteps later

small: a signal of 200 timesteps, 5 in advance, of which the first 90 are trained on; medium: 2000, 15, 900; large:
20000, 50, 9000. Timesteps are 0.01 apart. It is one signal, without noise: the first 45 % are for training, 10 % for
evaluations during training, 45 % for the final score. ``seq_len`` timesteps of a part are read, beginning anywhere; at
the published length that is all of the training part, the same sequence again and again. In the published test all
that comes before is read, too.

The oscillation takes ten timesteps, and 5, 15 or 50 of them are half of one, one and a half, and five, but for the slow
shift of its phase. So in small sequences the last input alone tells nearly all, with its sign turned: chance is the
mean squared error of the best affine answer from it, 0.006 in small sequences, 0.052 in medium and 0.345 in large ones,
where the variance is 0.5. What takes a memory is the phase: two inputs tell it but for its shift, more the shift, too.

Bendi-Ouis, De Coudenhove & Hinaut 2026, CogScale (arXiv 2605.19758),
``sinus_forecasting`` in version 0.2.0 of their package.
"""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from .forecasting import Forecasting, nearest


@dataclass(frozen=True)
class SinusForecasting(Forecasting):
    """``size``: small, medium or large, as published."""

    name: ClassVar[str] = "cogscale_sinus_forecasting"
    dimensions: ClassVar[int] = 1

    def with_part(self, part: int) -> "SinusForecasting":
        return (SinusForecasting, _Validation, _Test)[part](self.size)

    def signal(self) -> Float[np.ndarray, "N 1"]:
        steps = self.given.length + self.given.delay
        t = np.linspace(0, steps / 100, steps)
        return np.sin(20 * np.pi * t + np.sin(np.pi * t))[:, None]

    def solve(self, inputs: Float[Tensor, "T B 1"]) -> Float[Tensor, "T B 1"]:
        """What the signal has, at the place that is found by the first inputs."""
        signal = self.signal()
        starts = nearest(inputs, signal[: self.given.length], first=8)
        steps = torch.arange(len(inputs))[:, None] + starts + self.given.delay
        return torch.from_numpy(signal).to(inputs.dtype)[steps]


@dataclass(frozen=True)
class _Validation(SinusForecasting):
    part: ClassVar[int] = 1


@dataclass(frozen=True)
class _Test(SinusForecasting):
    part: ClassVar[int] = 2
