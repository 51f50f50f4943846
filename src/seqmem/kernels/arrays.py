"""Arrays as the kernels read and fill them: one place for every pointer that reaches them."""

import math

import torch
from torch import Tensor

from .memory import Memory

SUFFIX = {torch.float32: "f32", torch.float64: "f64"}
"""Dtype -> how the kernels' functions for it end."""
NO_SUCH_TOKEN = 2
"""A kernel's failure: of ``Failure`` in simd.hpp."""


def dense(array: Tensor) -> Tensor:
    """``array`` as the kernels read it: contiguous, and negated in memory where torch only noted that it is negated."""
    return (array.resolve_neg() if array.is_neg() else array).contiguous()


def matching(dtype: torch.dtype, **arrays: tuple[Tensor, tuple[int, ...]]) -> None:
    """Raise ValueError unless each has its size and ``dtype``: the kernels would read past the end of an array."""
    for name, (array, expected) in arrays.items():
        if (tuple(array.shape), array.dtype) != (expected, dtype):
            raise ValueError(f"{name} is {array.dtype} of {tuple(array.shape)}: must be {dtype} of {expected} here")


def address(array: Tensor | None, index: int = 0) -> int | None:
    """The address of ``array[index]``, an array that ``dense`` returned. The caller must keep a reference to it.

    Raises:
        ValueError: it has none that a kernel may follow: a meta or fake tensor, another device, no memory.
    """
    if array is None:
        return None
    # One place for all pointers: what reaches it unchecked would be read past its end, or end the process.
    if array.__class__ not in PLAIN or not array.is_cpu:
        raise ValueError(f"native kernels compute dense tensors on the CPU: this is {_described(array)}")
    pointer = array.data_ptr()
    if not pointer and array.numel():
        raise ValueError(
            f"native kernels compute dense tensors on the CPU: this is {_described(array)}, without memory"
        )
    return pointer + (index * array.stride(0) * array.element_size() if index else 0)


PLAIN = (Tensor, torch.nn.Parameter)
"""Subclasses of these may have no memory of their own, or give other meanings to it."""


def _described(array: Tensor) -> str:
    return f"a {type(array).__name__} of the shape {tuple(array.shape)} on {array.device}"


_LARGE = 1 << 24
"""Bytes of outputs from which on they come from the pool. malloc returns such sizes to the system, which then clears
fresh pages at every call: half as long as the recurrence of an rnn."""


def allocate(memory: Memory, like: Tensor, *sizes: int) -> Tensor:
    """Not initialised, of ``like``'s dtype; a large one is lent by the pool."""
    numbers = math.prod(sizes)
    if numbers * like.element_size() < _LARGE:
        return like.new_empty(sizes)
    return memory.take(numbers, like.dtype).view(sizes)
