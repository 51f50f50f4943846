"""Why the gradient of one of torch's recurrent layers falls or grows: its gates, or its recurrent matrix; in words.

Axes: T time, B batch, H units.
"""

from math import exp, isfinite, log

import numpy as np
import torch
from torch import Tensor

from ..randomness import generator

_ROUNDS = 100
"""Products with the recurrent matrix, in the second half of which its spectral radius is read off."""


def gates_in_words(mode: str, kept: Tensor, ended: np.ndarray) -> str:
    """
    Args:
        mode: LSTM or GRU.
        kept: [T B H], the share of the old state that each unit keeps.
        ended: [T B], True where there is padding.
    """
    share = float(kept[torch.as_tensor(~ended, device=kept.device)].double().mean())
    gates, state = ("forget", "cell state") if mode == "LSTM" else ("update", "state")
    return f"its {gates} gates keep {share:.2g} of the {state} at each step" if isfinite(share) else ""


def recurrence_in_words(mode: str, weight: Tensor, hidden: Tensor, ended: np.ndarray) -> str:
    """
    Args:
        mode: RNN_TANH or RNN_RELU.
        weight: the recurrent matrix [H H].
        hidden: [T B H].
    """
    there = hidden[torch.as_tensor(~ended, device=hidden.device)].double()
    if mode == "RNN_TANH":
        slope, what = float((1 - there.square()).mean()), "tanh has a slope of"
    else:
        slope, what = float((there > 0).double().mean()), "relu is open for"
    radius = spectral_radius(weight)
    if not (isfinite(radius) and isfinite(slope)):
        return ""
    return f"its recurrent matrix has a spectral radius of {radius:.2g}, its {what} {slope:.2g} on average"


def spectral_radius(weight: Tensor) -> float:
    """About (to some per cent): by how much a product with the matrix [H H] multiplies a vector, after many."""
    weight = weight.detach().double().cpu()
    vector = torch.randn(len(weight), dtype=torch.float64, generator=generator(0, "spectral radius"))
    grown = 0.0
    for done in range(_ROUNDS):
        vector = weight @ vector
        size = float(vector.norm())
        if not size or not isfinite(size):
            return size
        vector /= size
        grown += log(size) if done >= _ROUNDS // 2 else 0.0
    return exp(grown / (_ROUNDS - _ROUNDS // 2))
