"""Initial values of weights and biases that several cells share.

Axes: H hidden, G gates stacked on top of each other.
"""

from collections.abc import Callable
from math import log

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def uniform(*sizes: int, bound: float) -> nn.Parameter:
    """U(-bound, bound). torch's recurrent layers take bound = 1 / sqrt(H)."""
    return nn.Parameter(torch.empty(*sizes).uniform_(-bound, bound))


def normal(*sizes: int, deviation: float) -> nn.Parameter:
    """N(0, deviation^2)"""
    return nn.Parameter(torch.empty(*sizes).normal_(0.0, deviation))


@torch.no_grad()
def start_hidden(weight_hidden: Float[Tensor, "GH H"], bias: Float[Tensor, " GH"], init: str) -> None:
    """Set the square blocks to orthogonal matrices or to the identity, and the bias to zero; ``torch``: leave them.

    Raises:
        ValueError: ``init`` is unknown.
    """
    if init not in ("torch", "orthogonal", "identity"):
        raise ValueError(f"init={init!r}: must be 'torch', 'orthogonal' or 'identity'")
    if init != "torch":
        start = nn.init.orthogonal_ if init == "orthogonal" else nn.init.eye_
        for block in weight_hidden.split(weight_hidden.shape[1]):
            start(block)
        bias.zero_()


def log_uniform_timescales(size: int, seq_len: int) -> Tensor:
    """log U(1, seq_len - 1): the chrono initialisation of a gate bias (Tallec & Ollivier 2018, section 3).

    A gate with bias b retains its content for about e^b timesteps, so the units start with memories between one
    timestep and the whole sequence.
    """
    return torch.empty(size).uniform_(1.0, max(1.0, float(seq_len - 1))).log_()


def softplus_of_log_uniform(size: int, least: float, most: float) -> Tensor:
    """Numbers whose softplus is log-uniform in [least, most]: the authors' start of Mamba's and DeltaNet's rates."""
    softly = torch.empty(size).uniform_(log(least), log(most)).exp()
    return softly + torch.log(-torch.expm1(-softly))  # the inverse of softplus


def chrono_or_number(forget_bias: float | str, seq_len: int | None, size: int) -> Tensor:
    """The bias of a forget gate [H]: the number itself, or for ``chrono`` ``log_uniform_timescales``.

    Raises:
        ValueError: ``forget_bias`` is another word, or is ``chrono`` without a ``seq_len``.
    """
    if isinstance(forget_bias, str):
        if forget_bias != "chrono":
            raise ValueError(f"forget_bias={forget_bias!r}: must be a number or 'chrono'")
        if seq_len is None:
            raise ValueError("forget_bias='chrono' needs seq_len, the number of timesteps to remember")
        return log_uniform_timescales(size, seq_len)
    return torch.full((size,), float(forget_bias))


def log_forget(name: str) -> Callable[[Tensor], Tensor]:
    """From f' to log f of xLSTM's forget gate: f = sigmoid(f') or exp(f') (Beck et al. 2024).

    Raises:
        ValueError: ``name`` is another word.
    """
    if name not in ("sigmoid", "exp"):
        raise ValueError(f"forget={name!r}: must be 'sigmoid' or 'exp'")
    return F.logsigmoid if name == "sigmoid" else torch.clone


def positive(name: str, value: float) -> float:
    """The value itself.

    Raises:
        ValueError: it is zero, negative, infinite or NaN.
    """
    if not 0 < value < float("inf"):
        raise ValueError(f"{name}={value}: must be more than 0, and finite")
    return float(value)


def at_least(name: str, value: int, least: int) -> int:
    """The value itself.

    Raises:
        ValueError: it is less than ``least``.
    """
    if value < least:
        raise ValueError(f"{name}={value}: must be at least {least}")
    return value
