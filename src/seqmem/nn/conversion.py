"""Replaces torch's recurrent layers inside a model by seqmem's, in place, and back.

A layer stays the object that it is and only its class changes: parameters, optimizers, hooks, shared modules, and
references from anywhere keep working.
"""

from typing import TypeVar

import torch

from .layers import GRU, LSTM, RNN, forget_cached

OURS: dict[type[torch.nn.Module], type[torch.nn.Module]] = {
    torch.nn.RNN: RNN,
    torch.nn.LSTM: LSTM,
    torch.nn.GRU: GRU,
}
TORCHS = {ours: torchs for torchs, ours in OURS.items()}

M = TypeVar("M", bound=torch.nn.Module)


def convert(module: M) -> M:
    """``module`` itself, in which every layer of the class torch.nn.RNN, LSTM or GRU has become seqmem's.

    Layers of other classes, subclasses of these among them, stay as they are: ``computed_by`` says which, and why.
    """
    return _reclassed(module, OURS)


def restore(module: M) -> M:
    """``module`` itself, with torch's classes again where ``convert`` changed them, or seqmem's were written."""
    return _reclassed(module, TORCHS)


def computed_by(module: torch.nn.Module) -> dict[str, str]:
    """Name of each recurrent layer -> ``seqmem``, or why it is not: ``torch: ...``."""
    return {
        name: _described(part)
        for name, part in module.named_modules()
        if isinstance(part, torch.nn.RNNBase | torch.nn.RNNCellBase)
    }


def _reclassed(module: M, classes: dict[type[torch.nn.Module], type[torch.nn.Module]]) -> M:
    for part in module.modules():
        kind = classes.get(type(part))
        if kind is not None:
            forget_cached(part.__dict__)
            part.__class__ = kind
    return module


def _described(part: torch.nn.Module) -> str:
    kind = type(part)
    if kind in TORCHS:
        return "seqmem"
    if kind in OURS:
        return "torch: not converted"
    if isinstance(part, torch.nn.RNNCellBase):
        return f"torch: {kind.__name__} is one timestep, not a layer"
    return f"torch: {kind.__module__}.{kind.__qualname__} is a class of its own"
