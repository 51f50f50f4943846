"""Optimizers by name. ``OPTIMIZERS`` maps the name in ``conf/optimizer/NAME.yaml`` to a function of the parameters.

Each uses torch's fused implementation: one pass over all parameters instead of a Python loop.
"""

from collections.abc import Callable, Iterable

from torch import nn, optim

Parameters = Iterable[nn.Parameter]


def _positive(lr: float) -> float:
    if not lr > 0:
        raise ValueError(f"lr={lr}: must be positive")
    return lr


def adam(
    parameters: Parameters,
    *,
    lr: float = 3e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
) -> optim.Optimizer:
    """Kingma & Ba 2015 (arXiv 1412.6980)."""
    return optim.Adam(parameters, _positive(lr), betas, eps, weight_decay, fused=True)


def adamw(
    parameters: Parameters,
    *,
    lr: float = 3e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.01,
) -> optim.Optimizer:
    """Loshchilov & Hutter 2019 (arXiv 1711.05101)."""
    return optim.AdamW(parameters, _positive(lr), betas, eps, weight_decay, fused=True)


def sgd(
    parameters: Parameters,
    *,
    lr: float = 0.1,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
) -> optim.Optimizer:
    """Stochastic gradient descent, with momentum (Sutskever et al. 2013) if wanted."""
    return optim.SGD(parameters, _positive(lr), momentum, 0.0, weight_decay, nesterov, fused=True)


def rmsprop(
    parameters: Parameters,
    *,
    lr: float = 1e-3,
    alpha: float = 0.9,
    eps: float = 1e-8,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
) -> optim.Optimizer:
    """Tieleman & Hinton 2012. ``alpha`` is 0.9, as papers on memory tasks have it, not torch's 0.99."""
    return optim.RMSprop(parameters, _positive(lr), alpha, eps, weight_decay, momentum)


OPTIMIZERS: dict[str, Callable[..., optim.Optimizer]] = {
    "adam": adam,
    "adamw": adamw,
    "rmsprop": rmsprop,
    "sgd": sgd,
}
