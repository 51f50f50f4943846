"""Units with many complex modes each, of the same multipliers at every timestep, over whole sequences, differentiable,
by the native kernels.

Axes: T time, S timesteps from the first asked one on, B batch, H units, N modes per unit.
Tensors are on the CPU, in float32 or float64, with any strides. The bits do not depend on the number of threads.
"""

import ctypes
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .arrays import SUFFIX, address, allocate, dense, matching
from .loading import Library, load
from .memory import How

OPERATIONS_PER_CALL = 3e8
"""Longer sequences are cut into calls of about so many updates of a state, some 0.1 s each: Python handles signals,
such as Ctrl-C, between two calls."""


class Call(ctypes.Structure):
    """``SeqmemModes`` in modes.cpp, with the same fields."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("T", "B", "H", "N", "threads", "first")),
        *(
            (name, ctypes.c_void_p)
            for name in (
                "u", "parameters", "tables", "edges", "y", "grad_y", "carry", "grad_u", "grad_tables",
                "grad_parameters",
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
    n, dtype = parameters.shape[1], start.dtype
    if u.ndim != 3 or len(u) < 1 or n < 1 or dtype not in SUFFIX:
        raise ValueError(
            f"u is {dtype} of the shape {tuple(u.shape)}, with {n} modes: must be real, [T B H], T, N >= 1"
        )
    steps, batch, hidden = u.shape
    if not 0 <= first < steps:
        raise ValueError(f"first={first} of {steps} timesteps: must be one of them")
    matching(
        dtype,
        u=(u, (steps, batch, hidden)),
        parameters=(parameters, (6, n, hidden)),
        start=(start, (batch, 2, n, hidden)),
    )
    return _Modes.apply(how, first, u, parameters, start)  # pyright: ignore[reportReturnType]


class _Modes(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, how: How, first: int, u: Tensor, parameters: Tensor, start: Tensor) -> tuple[Tensor, Tensor]:
        u, parameters = dense(u), dense(parameters)
        ctx.how, ctx.first, ctx.sizes = how, first, (*u.shape, start.shape[2])
        block, size, _ = _sizes(ctx.sizes, u.dtype)
        tables = allocate(how.memory, u, size)
        call = Call(*ctx.sizes, parameters=address(parameters), tables=address(tables))
        _function("tables", u.dtype)(ctypes.byref(call))
        edges = allocate(how.memory, u, -(-len(u) // block) + 1, *start.shape)
        edges[0] = start
        y = allocate(how.memory, u, len(u) - first, *u.shape[1:])
        for begin, call in _calls(ctx, block, u, tables, edges):
            call.y = address(y, max(0, begin - first))
            _run(ctx, "forward", u.dtype, call)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(u, parameters, tables, edges)
        return y, edges[-1].clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("the native kernels have no second derivatives: kernel=step has them")
        u, parameters, tables, edges = ctx.saved_tensors
        how, dtype = ctx.how, u.dtype
        by_y = None if grads[0] is None else dense(grads[0])
        carry = (
            torch.zeros_like(edges[-1]) if grads[1] is None else grads[1].clone(memory_format=torch.contiguous_format)
        )
        block, size, chunks = _sizes(ctx.sizes, dtype)
        sums, by_u = allocate(how.memory, u, chunks * size).zero_(), allocate(how.memory, u, *u.shape)
        for begin, call in reversed(_calls(ctx, block, u, tables, edges)):
            call.grad_y = address(by_y, max(0, begin - ctx.first))
            call.carry, call.grad_u, call.grad_tables = address(carry), address(by_u, begin), address(sums)
            _run(ctx, "backward", dtype, call)
        by_parameters = torch.empty_like(parameters)
        call = Call(*ctx.sizes, parameters=address(parameters), grad_tables=address(sums))
        call.grad_parameters = address(by_parameters)
        _function("parameters", dtype)(ctypes.byref(call))
        return None, None, by_u, by_parameters, carry


def _function(name: str, dtype: torch.dtype) -> Any:
    library = load()
    assert isinstance(library, Library)  # see supports()
    return library.function(f"seqmem_modes_{name}", SUFFIX[dtype])


def _sizes(sizes: tuple[int, ...], dtype: torch.dtype) -> tuple[int, int, int]:
    """Timesteps of a block, the tables' numbers, chunks of the batch."""
    results = (ctypes.c_int64 * 3)()
    _function("sizes", dtype)(ctypes.byref(Call(*sizes, 1)), results)
    return results[0], results[1], results[2]


def _calls(ctx: Any, block: int, u: Tensor, tables: Tensor, edges: Tensor) -> list[tuple[int, Call]]:
    """(first timestep, call), of whole blocks each but for the last."""
    steps, batch, hidden, states = ctx.sizes
    cut = max(1, int(OPERATIONS_PER_CALL / max(1, batch * hidden * states * block))) * block
    calls = []
    for begin in range(0, steps, cut):
        call = Call(min(cut, steps - begin), batch, hidden, states, ctx.how.threads, max(0, ctx.first - begin))
        call.u, call.tables, call.edges = address(u, begin), address(tables), address(edges, begin // block)
        calls.append((begin, call))
    return calls


def _run(ctx: Any, name: str, dtype: torch.dtype, call: Call) -> None:
    if _function(name, dtype)(ctypes.byref(call)):
        raise MemoryError(f"the native kernels found no memory for {ctx.sizes} (T, B, H, N)")
