"""Cells that are linear in an elementwise state over whole sequences, differentiable, computed by the native kernels.

Axes: T time, B batch, H units, G pre-activations, S states, Q parameters and O outputs per unit, W rows of a table.
Tensors are on the CPU, in float32 or float64, with any strides. The bits of every result are independent of the number
of threads and of where a sequence is cut.
"""

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .arrays import NO_SUCH_TOKEN, SUFFIX, address, allocate, dense
from .loading import Library, load
from .memory import How

KINDS = ("mingru", "minlstm", "minlstm normalised", "rglru", "rotation", "wkv")
"""The cells that ``scan`` computes, in the order of ``Kind`` in scan.cpp.

``rotation``: complex numbers (their parts are the states) that are multiplied by one of their own at every timestep
(its parts are the parameters), and to which the pre-activations are added. ``wkv``: RWKV-4's stabilised average of
values.
"""

NUMBERS_PER_CALL = 1e7
"""Longer sequences are cut into several calls of at most so many pre-activations, about 0.1 s each: Python handles
signals, such as Ctrl-C, between two calls."""
NUMBERS_PER_THREAD = 1e5
"""Calls of fewer than twice as many run on one thread: starting a second one costs about 0.1 ms."""


class Call(ctypes.Structure):
    """``SeqmemScan`` in scan.cpp, with the same fields."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("kind", "T", "B", "H", "threads", "W", "lookups")),
        *(
            (name, ctypes.c_void_p)
            for name in (
                "xs", "table", "parameters", "start", "states", "outputs", "grad_outputs", "carry", "grad_xs",
                "grad_table", "grad_parameters", "grad_states",
            )
        ),
    ]  # fmt: skip


class Scanned(NamedTuple):
    """What a scan returns.

    Args:
        outputs: [T B O*H]; of a kind without outputs the states [T B S*H], which are its outputs.
        final: the last states [B S*H].
    """

    outputs: Tensor
    final: Tensor


def scan(
    kind: str,
    xs: Float[Tensor, "T B GH"],
    start: Float[Tensor, "B SH"],
    parameters: Float[Tensor, "Q H"] | None = None,
    how: How | None = None,
    ghost: Float[Tensor, "T B SH"] | None = None,
) -> Scanned:
    """The cell ``kind`` over pre-activations ``xs``, with G pre-activations per unit one after the other.

    Args:
        ghost: zeros whose gradient is the total derivative by the states of each timestep, as if they were added there.

    Raises:
        ValueError: ``kind`` is unknown; sizes or dtypes do not match.
        RuntimeError: in the backward pass, if second derivatives are requested.
    """
    return _computed(kind, xs, None, start, parameters, how, ghost)


def scan_of_tokens(
    kind: str,
    tokens: Int[Tensor, "T B"] | Int[Tensor, "T B 2"],
    table: Float[Tensor, "W GH"],
    start: Float[Tensor, "B SH"],
    parameters: Float[Tensor, "Q H"] | None = None,
    how: How | None = None,
) -> Scanned:
    """``scan`` over ``table[tokens]``, or with two tokens each over the sums of their rows, which are never stored.

    Raises:
        ValueError: ``kind`` is unknown; sizes or dtypes do not match.
        IndexError: a token is not in [0, W).
    """
    return _computed(kind, tokens, table, start, parameters, how)


class _Plan(NamedTuple):
    """How to call the kernels for one shape. It holds no arrays, so it is cached and reused by every training step."""

    kind: int
    sizes: tuple[int, int, int]  # T B H
    table: tuple[int, int]  # W, lookups; without a table 0, 1
    dtype: torch.dtype
    gates: int
    states: int
    parameters: int
    outputs: int
    padded: int  # units in whole vectors
    chunks: int
    pieces: list[tuple[int, int]]
    threads: int
    native: Library

    def function(self, name: str) -> Any:
        return self.native.function(f"seqmem_scan_{name}", SUFFIX[self.dtype])

    def call(self, steps: int, **pointers: int | None) -> Call:
        _, batch, hidden = self.sizes
        return Call(self.kind, steps, batch, hidden, self.threads, *self.table, **pointers)

    def run(self, name: str, call: Call) -> None:
        failure = self.function(name)(ctypes.byref(call))
        if failure == NO_SUCH_TOKEN:
            raise IndexError(f"a token is not from 0 up to {self.table[0]}, the number of the table's rows")
        if failure:
            raise MemoryError(f"the native kernels found no memory for {self.sizes} (T, B, H)")


@lru_cache(maxsize=256)
def _plan(
    kind: str,
    inputs: tuple[tuple[int, ...], torch.dtype],
    table: tuple[tuple[int, ...], torch.dtype] | None,
    start: tuple[tuple[int, ...], torch.dtype],
    parameters: tuple[tuple[int, ...], torch.dtype] | None,
    threads: int,
    limits: tuple[float, float],
    library: Library,
) -> _Plan:
    """Raise ValueError unless all sizes and dtypes match: the kernels would read past the end of an array."""
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r}: must be one of {', '.join(KINDS)}")
    if not isinstance(threads, int) or isinstance(threads, bool) or not 1 <= threads < 1 << 63:
        raise ValueError(f"threads={threads!r}: must be a whole number from 1 on")
    shape, dtype = inputs
    axes = "T B G*H" if table is None else "T B] or [T B 2"
    if len(shape) not in ((3,) if table is None else (2, 3)) or shape[0] < 1 or (table and shape[2:] not in ((), (2,))):
        raise ValueError(f"inputs have the shape {tuple(shape)}: must be [{axes}], at least one timestep")
    index, dtype = KINDS.index(kind), start[1]
    suffix = SUFFIX.get(dtype)
    if suffix is None:
        raise ValueError(f"start is {dtype}: must be torch.float32 or torch.float64")
    steps, batch = shape[:2]
    results = (ctypes.c_int64 * 6)()

    def ask(hidden: int) -> list[int]:
        library.function("seqmem_scan_sizes", suffix)(ctypes.byref(Call(index, steps, batch, hidden)), results)
        return list(results)

    gates, states, count, outputs, _, _ = ask(1)
    rows = shape if table is None else table[0]
    hidden = rows[-1] // gates
    expected = {
        "xs": (steps, batch, gates * hidden), "table": (*rows[:1], gates * hidden), "start": (batch, states * hidden),
        "parameters": (count, hidden),
    }  # fmt: skip
    given = {"xs": inputs} if table is None else {"table": table}
    given["start"] = start
    if parameters is not None or count:
        given["parameters"] = parameters or ((), dtype)
    for name, (is_shape, is_dtype) in given.items():
        if tuple(is_shape) != expected[name]:
            raise ValueError(f"{name} has the shape {tuple(is_shape)}: must be {expected[name]} here")
        if is_dtype != dtype:
            raise ValueError(f"{name} is {is_dtype}, start {dtype}: must be one real type")
    if table is not None and inputs[1] != torch.int64:
        raise ValueError(f"tokens are {inputs[1]}: must be torch.int64")
    numbers = max(1, batch * gates * hidden)
    cut = min(steps, max(16, int(limits[0] / numbers)))
    pieces = [(begin, min(begin + cut, steps)) for begin in range(0, steps, cut)]
    *_, padded, chunks = ask(hidden)
    return _Plan(
        index, (steps, batch, hidden), (0, 1) if table is None else (rows[0], 2 if len(shape) == 3 else 1), dtype,
        gates, states, count, outputs, padded, chunks, pieces, threads if numbers * cut > 2 * limits[1] else 1, library,
    )  # fmt: skip


def _computed(
    kind: str,
    inputs: Tensor,
    table: Tensor | None,
    start: Tensor,
    parameters: Tensor | None,
    how: How | None,
    ghost: Tensor | None = None,
) -> Scanned:
    how = how or How()
    library = load()
    assert isinstance(library, Library)  # see supports()
    about = [None if array is None else (array.shape, array.dtype) for array in (inputs, table, start, parameters)]
    inputs_, table_, start_, parameters_ = about
    assert inputs_ is not None
    assert start_ is not None
    limits = NUMBERS_PER_CALL, NUMBERS_PER_THREAD
    plan = _plan(kind, inputs_, table_, start_, parameters_, how.threads, limits, library)
    arrays = inputs, table, start, parameters
    # Asked here: inside an autograd function, ctx.needs_input_grad is true under no_grad, too.
    if torch.is_grad_enabled() and any(array is not None and array.requires_grad for array in (*arrays, ghost)):
        return Scanned(*_Scan.apply(plan, how, *arrays, ghost))
    outputs, final, _ = _forward(plan, how, *arrays)
    return Scanned(outputs, final)


class _Arrays(NamedTuple):
    """The arrays of one forward pass, contiguous."""

    inputs: Tensor
    packed: Tensor | None
    start: Tensor
    parameters: Tensor | None
    states: Tensor


def _forward(
    plan: _Plan, how: How, inputs: Tensor, table: Tensor | None, start: Tensor, parameters: Tensor | None
) -> tuple[Tensor, Tensor, _Arrays]:
    """Outputs, the last states, and the arrays that the backward pass needs."""
    steps, batch, hidden = plan.sizes
    packed = None
    if table is not None:
        packed = how.memory.take(plan.table[0] * plan.gates * plan.padded, plan.dtype)
        rows = dense(table)
        pointers = ctypes.c_int64(plan.gates), ctypes.c_void_p(address(rows)), ctypes.c_void_p(address(packed))
        plan.function("pack")(ctypes.byref(plan.call(steps)), *pointers)
    parameters = None if parameters is None else dense(parameters)
    states = allocate(how.memory, start, steps, batch, plan.states * hidden)
    arrays = _Arrays(dense(inputs), packed, dense(start), parameters, states)
    outputs = allocate(how.memory, start, steps, batch, plan.outputs * hidden) if plan.outputs else None
    for begin, end in plan.pieces:
        call = plan.call(
            end - begin, **_common(arrays, begin), states=address(states, begin), outputs=address(outputs, begin)
        )
        plan.run("forward", call)
    # A copy, because a view of the last states would keep all of them in memory.
    return states if outputs is None else outputs, states[-1].clone(), arrays


def _common(arrays: _Arrays, begin: int) -> dict[str, int | None]:
    return {
        "xs": address(arrays.inputs, begin),
        "table": address(arrays.packed),
        "parameters": address(arrays.parameters),
        "start": address(arrays.states, begin - 1) if begin else address(arrays.start),
    }


def _backward(
    plan: _Plan,
    how: How,
    arrays: _Arrays,
    grads: Sequence[Tensor | None],
    needs: Sequence[bool],
    grad_states: Tensor | None = None,
) -> tuple[Tensor | None, ...]:
    """The gradients by the inputs, the table, the start and the parameters, those that ``needs`` names.

    Args:
        grads: those by the outputs and by the last states; None: zero.
        grad_states: filled with the total derivatives by the states of each timestep.
    """
    hidden = plan.sizes[-1]
    need_xs, need_table, _, need_parameters = needs
    by_outputs, by_final = grads
    by_outputs = None if by_outputs is None else dense(by_outputs)
    carry = (
        torch.zeros_like(arrays.start) if by_final is None else by_final.clone(memory_format=torch.contiguous_format)
    )
    by_xs = allocate(how.memory, arrays.start, *arrays.inputs.shape) if need_xs else None
    width = plan.gates * plan.padded
    sums = of_parameters = None
    if need_table:
        sums = how.memory.take(plan.chunks * plan.table[0] * width, plan.dtype).zero_()
    if need_parameters:
        of_parameters = how.memory.take(plan.chunks * plan.parameters * plan.padded, plan.dtype).zero_()
    for begin, end in reversed(plan.pieces):
        call = plan.call(
            end - begin,
            **_common(arrays, begin),
            states=address(arrays.states, begin),
            grad_outputs=address(by_outputs, begin),
            carry=address(carry),
            grad_xs=address(by_xs, begin),
            grad_table=address(sums),
            grad_parameters=address(of_parameters),
            grad_states=address(grad_states, begin),
        )
        plan.run("backward", call)
    like = arrays.start
    by_table = by_parameters = None
    if sums is not None:
        by_table = _reduced(plan, sums, plan.gates, like.new_empty(plan.table[0], plan.gates * hidden))
    if of_parameters is not None:
        by_parameters = _reduced(plan, of_parameters, 1, like.new_empty(plan.parameters, hidden))
    return by_xs, by_table, carry, by_parameters


def _reduced(plan: _Plan, sums: Tensor, gates: int, to: Tensor) -> Tensor:
    numbers = ctypes.c_int64(len(to)), ctypes.c_int64(gates)
    pointers = ctypes.c_void_p(address(sums)), ctypes.c_void_p(address(to))
    plan.function("reduce")(ctypes.byref(plan.call(plan.sizes[0])), *numbers, *pointers)
    return to


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        plan: _Plan,
        how: How,
        inputs: Tensor,
        table: Tensor | None,
        start: Tensor,
        parameters: Tensor | None,
        _ghost: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        outputs, final, arrays = _forward(plan, how, inputs, table, start, parameters)
        ctx.plan, ctx.how = plan, how
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*arrays)
        return outputs, final

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("the native kernels have no second derivatives: kernel=step has them")
        arrays, (*needs, haunted) = _Arrays(*ctx.saved_tensors), ctx.needs_input_grad[2:]
        by_states = torch.empty_like(arrays.states) if haunted else None
        return None, None, *_backward(ctx.plan, ctx.how, arrays, grads, needs, by_states), by_states
