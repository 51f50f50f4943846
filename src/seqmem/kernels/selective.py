"""Mamba's selective memory and the short convolution before it, over whole sequences, differentiable, by the native
kernels.

Axes: T time, S timesteps from the first asked one on, B batch, H units, N numbers of a unit's memory, R rank of the
rates, Z = R + 2 N numbers of a row, K timesteps that the convolution reads, one less than Q, V rows of a table.
Tensors are on the CPU, in float32 or float64, with any strides. The bits do not depend on the number of threads.
"""

import ctypes
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .arrays import NO_SUCH_TOKEN, SUFFIX, address, allocate, dense, matching
from .loading import Library, load
from .memory import How

OPERATIONS_PER_CALL = 1e8
"""Longer sequences are cut into calls of about so many updates of a state, some 0.1 s each: Python handles signals,
such as Ctrl-C, between two calls."""


class Call(ctypes.Structure):
    """``SeqmemSelective`` in selective.cpp, with the same fields."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("T", "B", "H", "N", "R", "threads", "first")),
        *(
            (name, ctypes.c_void_p)
            for name in (
                "u", "rows", "rate", "decay", "past", "edges", "y", "grad_y", "carry", "grad_u", "grad_rows",
                "grad_parameters",
            )
        ),
    ]  # fmt: skip


class Convolution(ctypes.Structure):
    """``SeqmemConvolution`` in selective.cpp, with the same fields."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("T", "B", "H", "K", "threads", "W")),
        *(
            (name, ctypes.c_void_p)
            for name in (
                "v", "table", "before", "taps", "u", "grad_u", "grad_v", "grad_before", "grad_parameters",
            )
        ),
    ]  # fmt: skip


def convolve(
    v: Float[Tensor, "T B H"] | Int[Tensor, "T B"],
    before: Float[Tensor, "K1 B H"],
    taps: Float[Tensor, "Q H"],
    how: How,
    table: Float[Tensor, "V H"] | None = None,
) -> Float[Tensor, "T B H"]:
    """silu of bias + the sum of K timesteps' v, each times its tap.

    Args:
        v: with a ``table`` tokens, of which it has the v.
        before: v of the K - 1 timesteps before.
        taps: the present timestep's is the last but one, the bias the last.

    Raises:
        ValueError: sizes or dtypes do not match.
        IndexError: a token is not in [0, V).
        RuntimeError: in the backward pass, if second derivatives are requested.
    """
    dtype, reach = before.dtype, len(before)
    if dtype not in SUFFIX or before.ndim != 3 or reach < 1 or v.ndim < 2 or len(v) < 1:
        raise ValueError(
            f"before is {dtype} of the shape {tuple(before.shape)}: must be real, [K-1 B H], T, K - 1 >= 1"
        )
    sizes = (*v.shape[:2], before.shape[-1])
    arrays = {"before": (before, (reach, *sizes[1:])), "taps": (taps, (reach + 2, sizes[2]))}
    if table is None:
        matching(dtype, v=(v, sizes), **arrays)
    else:
        matching(torch.int64, tokens=(v, sizes[:2]))
        matching(dtype, table=(table, (len(table), sizes[2])), **arrays)
    return _Convolution.apply(how, v, before, taps, table)  # pyright: ignore[reportReturnType]


def selective(
    u: Float[Tensor, "T B H"],
    select: Float[Tensor, "Z H"],
    rate: Float[Tensor, "R1 H"],
    decay: Float[Tensor, "N H"],
    past: Float[Tensor, " H"],
    start: Float[Tensor, "B N H"],
    how: How,
    first: int = 0,
) -> tuple[Float[Tensor, "S B H"], Float[Tensor, "B N H"]]:
    """h_t = exp(dt decay) h_{t-1} + dt u_t B_t, N numbers per unit: (the sums of C_t h_t, plus past u_t; the last h).

    l_t, B_t and C_t are the rows ``select`` u_t, and dt the softplus of l_t's product with ``rate``, whose last row is
    the bias.

    Args:
        decay: at most 0.
        first: the sums are those from this timestep on, less than T.

    Raises:
        ValueError: sizes or dtypes do not match.
        RuntimeError: in the backward pass, if second derivatives are requested.
    """
    n, rank, dtype = len(decay), len(rate) - 1, start.dtype
    if u.ndim != 3 or len(u) < 1 or n < 1 or rank < 1 or dtype not in SUFFIX:
        raise ValueError(
            f"u is {dtype} of the shape {tuple(u.shape)}, with {n} states: must be real, [T B H], T, N >= 1"
        )
    steps, batch, hidden = u.shape
    if not 0 <= first < steps:
        raise ValueError(f"first={first} of {steps} timesteps: must be one of them")
    matching(
        dtype,
        u=(u, (steps, batch, hidden)),
        select=(select, (rank + 2 * n, hidden)),
        rate=(rate, (rank + 1, hidden)),
        decay=(decay, (n, hidden)),
        past=(past, (hidden,)),
        start=(start, (batch, n, hidden)),
    )
    return _Selective.apply(how, first, u, select, rate, decay, past, start)  # pyright: ignore[reportReturnType]


class _Convolution(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, how: How, v: Tensor, before: Tensor, taps: Tensor, table: Tensor | None) -> Tensor:
        arrays = [None if array is None else dense(array) for array in (v, before, taps, table)]
        ctx.how = how
        u = allocate(how.memory, before, *v.shape[:2], before.shape[-1])
        call = _convolution(how, arrays)
        call.u = address(u)
        _convolve("forward", before.dtype, call)
        ctx.save_for_backward(*arrays)
        return u

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("the native kernels have no second derivatives: kernel=step has them")
        arrays = list(ctx.saved_tensors)
        v, before, taps, table = arrays
        how, dtype, by_u = ctx.how, before.dtype, dense(grads[0])
        by_v = allocate(how.memory, before, *v.shape) if table is None else None
        by_before = torch.empty_like(before, memory_format=torch.contiguous_format)
        rows = len(taps) + (0 if table is None else len(table))
        call = _convolution(how, arrays)
        sizes = call.T, call.B, call.H, 1, 1
        _, padded, chunks = _sizes(sizes, dtype)
        sums = allocate(how.memory, before, chunks * rows * padded).zero_()
        call.grad_u, call.grad_v, call.grad_before, call.grad_parameters = map(address, (by_u, by_v, by_before, sums))
        _convolve("backward", dtype, call)
        by_taps, by_table = _reduced(sizes, sums, taps.new_empty(rows, call.H)).split([len(taps), rows - len(taps)])
        return None, by_v, by_before, by_taps, None if table is None else by_table


def _convolution(how: How, arrays: list[Tensor | None]) -> Convolution:
    v, before, taps, table = arrays
    assert v is not None
    assert before is not None
    call = Convolution(*v.shape[:2], before.shape[-1], len(before) + 1, how.threads, 0 if table is None else len(table))
    call.v, call.before, call.taps, call.table = address(v), address(before), address(taps), address(table)
    return call


def _convolve(name: str, dtype: torch.dtype, call: Convolution) -> None:
    failure = _function(f"convolution_{name}", dtype)(ctypes.byref(call))
    if failure == NO_SUCH_TOKEN:
        raise IndexError(f"a token is not from 0 up to {call.W}, the number of the table's rows")
    if failure:
        raise MemoryError(f"the native kernels found no memory for {(call.T, call.B, call.H, call.K)} (T, B, H, K)")


class _Selective(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        how: How,
        first: int,
        u: Tensor,
        select: Tensor,
        rate: Tensor,
        decay: Tensor,
        past: Tensor,
        start: Tensor,
    ) -> tuple[Tensor, Tensor]:
        u, select, rate, decay, past = map(dense, (u, select, rate, decay, past))
        ctx.how, ctx.first, ctx.sizes = how, first, (*u.shape, len(decay), len(rate) - 1)
        rows = allocate(how.memory, u, *u.shape[:2], len(select))
        torch.mm(u.flatten(0, 1), select.mT, out=rows.flatten(0, 1))
        block, _, _ = _sizes(ctx.sizes, u.dtype)
        edges = allocate(how.memory, u, -(-len(u) // block) + 1, *start.shape)
        edges[0] = start
        y = allocate(how.memory, u, len(u) - first, *u.shape[1:])
        arrays = [u, rows, rate, decay, past]
        for begin, call in _calls(ctx, block, arrays, edges):
            call.y = address(y, max(0, begin - first))
            _run(ctx, "forward", u.dtype, call)
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(select, *arrays, edges)
        return y, edges[-1].clone()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("the native kernels have no second derivatives: kernel=step has them")
        select, *arrays, edges = ctx.saved_tensors
        u, rows, rate, decay, _ = arrays
        how, dtype = ctx.how, u.dtype
        by_y = None if grads[0] is None else dense(grads[0])
        carry = (
            torch.zeros_like(edges[-1]) if grads[1] is None else grads[1].clone(memory_format=torch.contiguous_format)
        )
        block, padded, chunks = _sizes(ctx.sizes, dtype)
        each = [len(decay), len(rate), 1]
        sums = allocate(how.memory, u, chunks * sum(each) * padded).zero_()
        by_u, by_rows = allocate(how.memory, u, *u.shape), allocate(how.memory, u, *rows.shape)
        for begin, call in reversed(_calls(ctx, block, arrays, edges)):
            call.grad_y = address(by_y, max(0, begin - ctx.first))
            call.carry, call.grad_parameters = address(carry), address(sums)
            call.grad_u, call.grad_rows = address(by_u, begin), address(by_rows, begin)
            _run(ctx, "backward", dtype, call)
        by_decay, by_rate, by_past = _reduced(ctx.sizes, sums, u.new_empty(sum(each), u.shape[-1])).split(each)
        flat = by_rows.flatten(0, 1)
        by_u.flatten(0, 1).addmm_(flat, select)  # u is in the sums by itself and by the rows
        return None, None, by_u, flat.mT @ u.flatten(0, 1), by_rate, by_decay, by_past[0], carry


def _function(name: str, dtype: torch.dtype) -> Any:
    library = load()
    assert isinstance(library, Library)  # see supports()
    return library.function(f"seqmem_{name}", SUFFIX[dtype])


def _sizes(sizes: tuple[int, ...], dtype: torch.dtype) -> tuple[int, int, int]:
    """Timesteps of a block, units in whole vectors, chunks of the batch."""
    results = (ctypes.c_int64 * 3)()
    _function("selective_sizes", dtype)(ctypes.byref(Call(*sizes, 1)), results)
    return results[0], results[1], results[2]


def _reduced(sizes: tuple[int, ...], sums: Tensor, to: Tensor) -> Tensor:
    pointers = ctypes.c_void_p(address(sums)), ctypes.c_void_p(address(to))
    _function("selective_reduce", to.dtype)(ctypes.byref(Call(*sizes, 1)), ctypes.c_int64(len(to)), *pointers)
    return to


def _calls(ctx: Any, block: int, arrays: list[Tensor], edges: Tensor) -> list[tuple[int, Call]]:
    """(first timestep, call), of whole blocks each but for the last."""
    steps, batch, hidden, states, rank = ctx.sizes
    cut = max(1, int(OPERATIONS_PER_CALL / max(1, batch * hidden * states * block))) * block
    u, rows, rate, decay, past = arrays
    calls = []
    for begin in range(0, steps, cut):
        call = Call(min(cut, steps - begin), batch, hidden, states, rank, ctx.how.threads, max(0, ctx.first - begin))
        call.u, call.rows, call.edges = address(u, begin), address(rows, begin), address(edges, begin // block)
        call.rate, call.decay, call.past = address(rate), address(decay), address(past)
        calls.append((begin, call))
    return calls


def _run(ctx: Any, name: str, dtype: torch.dtype, call: Call) -> None:
    if _function(f"selective_{name}", dtype)(ctypes.byref(call)):
        raise MemoryError(f"the native kernels found no memory for {ctx.sizes} (T, B, H, N, R)")
