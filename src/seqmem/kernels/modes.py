"""Units with many states each, linear over time, over whole sequences, differentiable, by the native kernels.

Axes: T time, S timesteps from the first asked one on, B batch, H units, N states per unit.
Tensors are on the CPU, in float32 or float64, with any strides. The bits do not depend on the number of threads.
"""

import ctypes
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .arrays import SUFFIX, address, allocate, dense
from .loading import Library, load
from .memory import How

OPERATIONS_PER_CALL = 1e8
"""Longer sequences are cut into calls of about so many updates of a state, some 0.1 s each: Python handles signals,
such as Ctrl-C, between two calls."""


class Call(ctypes.Structure):
    """``SeqmemModes`` in modes.cpp, with the same fields."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("kind", "T", "B", "H", "N", "threads", "first")),
        *(
            (name, ctypes.c_void_p)
            for name in (
                "u", "rate", "write", "read", "parameters", "edges", "y", "grad_y", "carry", "grad_u", "grad_rate",
                "grad_write", "grad_read", "grad_parameters",
            )
        ),
    ]  # fmt: skip


def turning(
    u: Float[Tensor, "T B H"],
    parameters: Float[Tensor, "6 N H"],
    start: Float[Tensor, "B 2 N H"],
    how: How,
    first: int = 0,
) -> tuple[Float[Tensor, "S B H"], Float[Tensor, "B 2 N H"]]:
    """Complex modes h_t = a h_{t-1} + b u_t of each unit: (the sums of Re(c h_t) over N modes, the last h).

    Args:
        parameters: a, b and c, each its real and then its imaginary part.
        first: the sums are those from this timestep on, less than T.

    Raises:
        ValueError: sizes or dtypes do not match.
        RuntimeError: in the backward pass, if second derivatives are requested.
    """
    arrays = {"parameters": parameters, "start": start, "u": u}
    _check(u.shape, start.dtype, arrays, 2, 6, parameters.shape[1], first)
    return _Modes.apply(0, how, first, u, None, None, None, parameters, start)  # pyright: ignore[reportReturnType]


def selective(
    u: Float[Tensor, "T B H"],
    rate: Float[Tensor, "T B H"],
    write: Float[Tensor, "T B N"],
    read: Float[Tensor, "T B N"],
    decay: Float[Tensor, "N H"],
    start: Float[Tensor, "B N H"],
    how: How,
    first: int = 0,
) -> tuple[Float[Tensor, "S B H"], Float[Tensor, "B N H"]]:
    """h_t = exp(rate * decay) h_{t-1} + rate * u * write, N numbers per unit: (the sums of read * h_t, the last h).

    Raises:
        ValueError: sizes or dtypes do not match.
        RuntimeError: in the backward pass, if second derivatives are requested.
    """
    arrays = {"u": u, "rate": rate, "write": write, "read": read, "parameters": decay[None], "start": start[:, None]}
    _check(u.shape, start.dtype, arrays, 1, 1, len(decay), first)
    y, last = _Modes.apply(1, how, first, u, rate, write, read, decay[None], start[:, None])  # pyright: ignore
    return y, last[:, 0]


def _check(
    sizes: torch.Size, dtype: torch.dtype, arrays: dict[str, Tensor], parts: int, count: int, n: int, first: int
) -> None:
    """Raise ValueError unless all sizes and dtypes match: the kernels would read past the end of an array."""
    if len(sizes) != 3 or sizes[0] < 1 or n < 1 or dtype not in SUFFIX:
        raise ValueError(f"u is {dtype} of the shape {tuple(sizes)}, with {n} states: must be real, [T B H], T, N >= 1")
    steps, batch, hidden = sizes
    if not 0 <= first < steps:
        raise ValueError(f"first={first} of {steps} timesteps: must be one of them")
    expected = {"parameters": (count, n, hidden), "start": (batch, parts, n, hidden)}
    expected |= dict.fromkeys(("u", "rate"), (steps, batch, hidden)) | dict.fromkeys(
        ("write", "read"), (steps, batch, n)
    )
    for name, array in arrays.items():
        if (tuple(array.shape), array.dtype) != (expected[name], dtype):
            raise ValueError(
                f"{name} is {array.dtype} of {tuple(array.shape)}: must be {dtype} of {expected[name]} here"
            )


class _Modes(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        kind: int,
        how: How,
        first: int,
        u: Tensor,
        rate: Tensor | None,
        write: Tensor | None,
        read: Tensor | None,
        parameters: Tensor,
        start: Tensor,
    ) -> tuple[Tensor, Tensor]:
        inputs = [None if array is None else dense(array) for array in (u, rate, write, read, parameters)]
        ctx.kind, ctx.how, ctx.first, ctx.sizes = kind, how, first, (*u.shape, parameters.shape[1])
        block, _, _ = _sizes(ctx, u.dtype)
        edges = allocate(how.memory, u, -(-len(u) // block) + 1, *start.shape)
        edges[0] = start
        y = allocate(how.memory, u, len(u) - first, *u.shape[1:])
        for begin, call in _calls(ctx, block, inputs, edges):
            call.y = address(y, max(0, begin - first))
            _run(ctx, "forward", u.dtype, call)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs, edges)
        return y, edges[-1].clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("the native kernels have no second derivatives: kernel=step has them")
        *inputs, edges = ctx.saved_tensors
        u, rate, write, read, parameters = inputs
        how, dtype = ctx.how, u.dtype
        by_y = None if grads[0] is None else dense(grads[0])
        carry = (
            torch.zeros_like(edges[-1]) if grads[1] is None else grads[1].clone(memory_format=torch.contiguous_format)
        )
        block, padded, chunks = _sizes(ctx, dtype)
        rows = parameters.shape[0] * parameters.shape[1]
        sums = how.memory.take(chunks * rows * padded, dtype).zero_()
        by = [None if array is None else allocate(how.memory, u, *array.shape) for array in (u, rate, write, read)]
        for begin, call in reversed(_calls(ctx, block, inputs, edges)):
            call.grad_y = address(by_y, max(0, begin - ctx.first))
            call.carry, call.grad_parameters = address(carry), address(sums)
            call.grad_u, call.grad_rate, call.grad_write, call.grad_read = (address(array, begin) for array in by)
            _run(ctx, "backward", dtype, call)
        by_parameters = parameters.new_empty(parameters.shape)
        pointers = ctypes.c_void_p(address(sums)), ctypes.c_void_p(address(by_parameters))
        call = Call(ctx.kind, *ctx.sizes, 1)
        _function("reduce", dtype)(ctypes.byref(call), ctypes.c_int64(rows), *pointers)
        return None, None, None, *by, by_parameters, carry


def _function(name: str, dtype: torch.dtype) -> Any:
    library = load()
    assert isinstance(library, Library)  # see supports()
    return library.function(f"seqmem_modes_{name}", SUFFIX[dtype])


def _sizes(ctx: Any, dtype: torch.dtype) -> tuple[int, int, int]:
    results = (ctypes.c_int64 * 3)()
    _function("sizes", dtype)(ctypes.byref(Call(ctx.kind, *ctx.sizes, 1)), results)
    return results[0], results[1], results[2]


def _calls(ctx: Any, block: int, inputs: list[Tensor | None], edges: Tensor) -> list[tuple[int, Call]]:
    """(first timestep, call), of whole blocks each but for the last."""
    steps, batch, hidden, states = ctx.sizes
    cut = max(1, int(OPERATIONS_PER_CALL / max(1, batch * hidden * states * block))) * block
    *series, parameters = inputs
    calls = []
    for begin in range(0, steps, cut):
        call = Call(
            ctx.kind, min(cut, steps - begin), batch, hidden, states, ctx.how.threads, max(0, ctx.first - begin)
        )
        call.u, call.rate, call.write, call.read = (address(array, begin) for array in series)
        call.parameters, call.edges = address(parameters), address(edges, begin // block)
        calls.append((begin, call))
    return calls


def _run(ctx: Any, name: str, dtype: torch.dtype, call: Call) -> None:
    if _function(name, dtype)(ctypes.byref(call)):
        raise MemoryError(f"the native kernels found no memory for {ctx.sizes} (T, B, H, N)")
