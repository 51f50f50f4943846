"""What a module carries beside the weights that torch sees: the attributes of itself and of the modules inside."""

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from .promises import Broken


def refuse_hidden_weights(module: nn.Module) -> None:
    """
    Raises:
        Broken: an attribute has weights that torch does not see, so that no optimizer gets them.
    """
    known = {id(weight) for weight in module.parameters()}
    for name, value in attributes(module):
        for part in parts(value):
            if isinstance(part, nn.Module):
                weights, instead = [*part.parameters()], "nn.ModuleList"
            elif isinstance(part, Tensor) and part.requires_grad and part.is_leaf:
                weights, instead = [part], "nn.Parameter" if part is value else "nn.ParameterList"
            else:
                continue
            if any(id(weight) not in known for weight in weights):
                raise Broken(
                    f"self.{name} has weights that torch does not see, so that they would not be trained: use {instead}"
                )


def refuse_late_weights(module: nn.Module, before: set[str], verb: str) -> None:
    """
    Raises:
        Broken: ``module`` has read a sequence and has weights since that are not among the names ``before``.
    """
    if made := set(module.state_dict()) - before:
        raise Broken(f"{verb} makes the weight '{min(made)}', which no optimizer sees: make it in __init__")


def plain_tensor(module: nn.Module) -> str | None:
    """What to do about a tensor that does not move with its module, if there is one."""
    for name, value in attributes(module):
        if any(not tensor.requires_grad for tensor in tensors_in(value)):
            return f"self.{name} is a plain tensor, which stays as it is: self.register_buffer('{name}', ...)"
    return None


def kept_graph(module: nn.Module) -> str | None:
    """What to do about an attribute that keeps the graph of a step, for which a module cannot be copied."""
    kept = next((name for name, value in attributes(module) if has_graph(value)), None)
    return f"self.{kept} keeps the graph of a step: detach it" if kept else None


def changed(before: nn.Module, after: nn.Module) -> list[str]:
    """The attributes that two copies of one module, of which one has read, do not have in common."""
    former = dict(attributes(before))
    return [name for name, value in attributes(after) if name not in former or not _alike(former[name], value)]


def _alike(one: Any, two: Any) -> bool:
    if type(one) is not type(two):
        return False
    if isinstance(one, Tensor):
        return one.shape == two.shape and torch.equal(one.detach().cpu().double(), two.detach().cpu().double())
    if isinstance(one, bool | int | float | str):
        return one == two
    if isinstance(one, tuple | list | Mapping):
        first, second = parts(one), parts(two)
        return len(first) == len(second) and all(map(_alike, first, second))
    return True


_OF_TORCH = frozenset(vars(nn.Module()))


def attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """(``inner.h``, value) of all that a module and those inside carry, but for what torch keeps and sees itself."""
    for prefix, part in module.named_modules():
        for name, value in (*vars(part).items(), *part.named_buffers(recurse=False)):
            if name not in _OF_TORCH and not name.startswith("__"):
                yield f"{prefix}.{name}" if prefix else name, value


def parts(value: Any) -> list[Any]:
    return [*value.values()] if isinstance(value, Mapping) else [*value] if isinstance(value, tuple | list) else [value]


def tensors_in(value: Any) -> list[Tensor]:
    return [part for part in parts(value) if isinstance(part, Tensor)]


def has_graph(value: Any) -> bool:
    return any(tensor.grad_fn is not None for tensor in tensors_in(value))
