"""Words about what a user's own class returned."""

from typing import Any

import torch
from torch import Tensor


def with_type(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}"


def name_of(dtype: torch.dtype) -> str:
    """``float32``"""
    return str(dtype).removeprefix("torch.")


def kind(value: Any) -> str:
    """``a tensor``, ``a dict``, ``nothing``"""
    if value is None:
        return "nothing"
    if isinstance(value, Tensor):
        return "a tensor"
    name = type(value).__name__
    return f"a{'n' if name[:1].lower() in 'aeiou' else ''} {name}"
