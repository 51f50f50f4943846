"""Optimizers by name. ``OPTIMIZERS`` maps the NAME of ``conf/optimizer/NAME.yaml`` to a function of the parameters.

Each uses torch's fused implementation if there is one: one pass over all parameters instead of a Python loop.
"""

import inspect
from collections.abc import Callable, Iterable
from functools import wraps
from typing import Any, TypeVar, cast

import torch
from torch import _foreach_add_, _fused_adam_, _fused_adamw_, nn, optim  # pyright: ignore[reportPrivateImportUsage]
from torch.optim.optimizer import _global_optimizer_post_hooks, _global_optimizer_pre_hooks

Parameters = Iterable[nn.Parameter]
Kind = TypeVar("Kind", bound=optim.Optimizer)


def _uncompiled(kind: type[Kind]) -> type[Kind]:
    """A subclass of ``kind`` without the decorators that exclude its methods from torch.compile.

    ``draws``: false, as its steps draw no random numbers.

    The decorators import torch's compiler when an optimizer is created: four seconds before the first step of a run
    that compiles nothing. The methods themselves are unchanged, and still run under ``no_grad``.
    """

    def undecorated(name: str) -> Callable[..., Any]:
        inner = inspect.unwrap(getattr(kind, name))

        @wraps(inner)
        def method(*args: Any, **kwargs: Any) -> Any:
            with torch.no_grad():
                return inner(*args, **kwargs)

        del method.__wrapped__  # torch's hooks would unwrap it again
        return method

    names = ("add_param_group", "zero_grad", "step", "state_dict", "load_state_dict")
    methods = {name: undecorated(name) for name in names}
    return cast(type[Kind], type(kind.__name__, (kind,), {**methods, "draws": False}))


def _single_call(kind: type[optim.Adam], kernel: Callable[..., None]) -> type[optim.Adam]:
    """A subclass of ``kind`` whose step calls torch's fused kernel once for all parameters of a group.

    torch's own step first groups the parameters by dtype and device and informs a profiler, at every step, which takes
    several times as long as a small model's update. The updates are bitwise the same. Where a closure, hooks or a
    profiler wait for torch's own step, it runs.
    """
    hooked_step = optim.Optimizer.profile_hook_step(kind.step)

    def step(self: optim.Adam, closure: Callable[[], Any] | None = None) -> Any:
        uniform = all(len({(p.device, p.dtype) for p in group["params"]}) == 1 for group in self.param_groups)
        if closure is not None or not uniform or _watched(self):
            return hooked_step(self, closure)
        for group in self.param_groups:
            parameters, gradients, means, squares, largest, steps = lists = [[] for _ in range(6)]
            self._init_group(group, *lists)
            if not parameters:
                continue
            beta1, beta2 = group["betas"]
            with torch.no_grad():
                _foreach_add_(steps, 1)
                kernel(
                    parameters, gradients, means, squares, largest, steps, lr=group["lr"], beta1=beta1, beta2=beta2,
                    weight_decay=group["weight_decay"], eps=group["eps"], amsgrad=False, maximize=False,
                )  # fmt: skip
        return None

    step.hooked = True  # pyright: ignore[reportFunctionMemberAccess]  else torch wraps it in profile_hook_step, too
    return cast(type[optim.Adam], type(kind.__name__, (kind,), {"step": step}))


def _watched(optimizer: optim.Optimizer) -> bool:
    """True if a hook or a profiler waits for the optimizer's steps."""
    return bool(
        optimizer._optimizer_step_pre_hooks  # noqa: SLF001  torch has no public question for hooks
        or optimizer._optimizer_step_post_hooks  # noqa: SLF001
        or _global_optimizer_pre_hooks
        or _global_optimizer_post_hooks
        or torch.autograd._profiler_enabled()  # noqa: SLF001  # pyright: ignore[reportPrivateImportUsage]
    )


_Adam = _single_call(_uncompiled(optim.Adam), _fused_adam_)
_AdamW = _single_call(_uncompiled(optim.AdamW), _fused_adamw_)
_RMSprop = _uncompiled(optim.RMSprop)
_SGD = _uncompiled(optim.SGD)


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
    return _Adam(parameters, lr=_positive(lr), betas=betas, eps=eps, weight_decay=weight_decay, fused=True)


def adamw(
    parameters: Parameters,
    *,
    lr: float = 3e-3,
    betas: tuple[float, float] = (0.9, 0.999),
    eps: float = 1e-8,
    weight_decay: float = 0.01,
) -> optim.Optimizer:
    """Loshchilov & Hutter 2019 (arXiv 1711.05101)."""
    return _AdamW(parameters, lr=_positive(lr), betas=betas, eps=eps, weight_decay=weight_decay, fused=True)


def sgd(
    parameters: Parameters,
    *,
    lr: float = 0.1,
    momentum: float = 0.0,
    nesterov: bool = False,
    weight_decay: float = 0.0,
) -> optim.Optimizer:
    """Stochastic gradient descent, optionally with momentum (Sutskever et al. 2013)."""
    return _SGD(
        parameters,
        lr=_positive(lr),
        momentum=momentum,
        nesterov=nesterov,
        weight_decay=weight_decay,
        fused=True,
    )


def rmsprop(
    parameters: Parameters,
    *,
    lr: float = 1e-3,
    alpha: float = 0.9,
    eps: float = 1e-8,
    momentum: float = 0.0,
    weight_decay: float = 0.0,
) -> optim.Optimizer:
    """Tieleman & Hinton 2012. ``alpha`` is 0.9, as in papers on memory tasks; torch's default is 0.99."""
    return _RMSprop(parameters, lr=_positive(lr), alpha=alpha, eps=eps, weight_decay=weight_decay, momentum=momentum)


OPTIMIZERS: dict[str, Callable[..., optim.Optimizer]] = {
    "adam": adam,
    "adamw": adamw,
    "rmsprop": rmsprop,
    "sgd": sgd,
}
