"""Associative memories over whole sequences, differentiable, computed by the native kernels.

Axes: T time, S asked timesteps, B batch, A heads, E numbers of a key, W numbers of a value, N rows: of a table, or with
every timestep and sequence for itself T B. Tensors are on the CPU, in float32 or float64, with any strides. The bits of
every result are independent of the number of threads and of where a sequence is cut.
"""

import ctypes
from collections.abc import Sequence
from functools import lru_cache
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .arrays import NO_SUCH_TOKEN, SUFFIX, address, allocate, dense, matching
from .loading import Library, load
from .memory import How, Memory

OPERATIONS_PER_CALL = 4e9
"""Longer sequences are cut into several calls of at most so many multiplications and additions, about 0.1 s each:
Python handles signals, such as Ctrl-C, between two calls."""
OPERATIONS_PER_THREAD = 1.5e7
"""Calls of fewer than twice as many run on one thread: starting a second one costs about 0.1 ms."""
BYTES_OF_STATES = 1 << 17
"""The states that the backward pass computes again between two saved ones: they stay in the L2 cache."""
LONGEST = 32
"""Most timesteps between two saved states."""


class Call(ctypes.Structure):
    """``SeqmemMemory`` in associative.cpp, with the same fields."""

    _fields_ = [
        *(
            (name, ctypes.c_int64)
            for name in (
                "T", "B", "A", "E", "W", "threads", "delta", "ones", "keeps", "table", "gates_by_step", "first", "stop",
                "every", "saved_from", "q_step", "k_step", "v_step",
            )
        ),
        *(
            (name, ctypes.c_void_p)
            for name in (
                "tokens", "q", "k", "v", "keep", "write", "start", "final", "outputs", "saved", "grad_outputs",
                "grad_state", "grad_q", "grad_k", "grad_v", "grad_keep", "grad_write", "sums", "norm_memory",
                "norm_ones",
            )
        ),
    ]  # fmt: skip


def associate(
    query: Float[Tensor, "*N A E"],
    key: Float[Tensor, "*N A E"],
    value: Float[Tensor, "*N A V"],
    start: Float[Tensor, "B A E W"],
    *,
    tokens: Int[Tensor, "T B"] | None = None,
    keep: Float[Tensor, "*G A"] | Float[Tensor, "*G A E"] | None = None,
    write: Float[Tensor, "*G A"] | None = None,
    gates_by_step: bool = False,
    delta: bool = False,
    asked: range | None = None,
    how: How | None = None,
    ghosts: tuple[Float[Tensor, "T B A"], Float[Tensor, "T B A"]] | None = None,
) -> tuple[Float[Tensor, "S B A W"], Float[Tensor, "B A E W"]]:
    """(S_t^T q_t at the asked timesteps, S_T) of S_t = S' + write_t k_t v_t^T, where S' = diag(keep_t) S_{t-1}.

    With ``delta``, by the delta rule: S_t = S' + write_t k_t (v_t - S'^T k_t)^T.

    Args:
        query, key, value: [T B A ...]; with tokens tables [N A ...] that are looked up. W is V, or V + 1: then every
            value ends with a 1 that is not in ``value``.
        keep, write: likewise; None: 1.
        gates_by_step: with tokens, ``keep`` and ``write`` are [T B A ...] none the less.
        asked: consecutive timesteps; None: all.
        ghosts: their "gradients" are the norms of the total derivatives by S_t, for each head: without the column of
            the last 1, and of that column.

    Raises:
        ValueError: sizes or dtypes do not match; a keep for each number of a key by the delta rule.
        IndexError: a token is not in [0, N).
        RuntimeError: in the backward pass, if second derivatives are requested.
    """
    how = how or How()
    library = load()
    assert isinstance(library, Library)  # see supports()
    arrays = tokens, query, key, value, keep, write, start
    about = tuple(None if array is None else (array.shape, array.dtype) for array in arrays)
    limits = OPERATIONS_PER_CALL, OPERATIONS_PER_THREAD, BYTES_OF_STATES, LONGEST
    between = None if asked is None else (asked.start, asked.stop, asked.step)
    plan = _plan(library, about, between, how.threads, limits, delta=delta, gates_by_step=gates_by_step)
    # Asked here: inside an autograd function, ctx.needs_input_grad is true under no_grad, too.
    if torch.is_grad_enabled() and (ghosts or any(array is not None and array.requires_grad for array in arrays)):
        return _Associative.apply(plan, how.memory, *arrays, *(ghosts or (None, None)))
    return _forward(plan, how.memory, *arrays, save=False, of_keep=False)[:2]


class _Plan(NamedTuple):
    """How to call the kernels for one shape. It holds no arrays, so it is cached and reused by every training step."""

    native: Library
    dtype: torch.dtype
    sizes: tuple[int, int, int, int, int]  # T B A E W
    numbers: dict[str, int]  # of a ``Call``
    asked: tuple[int, int]
    pieces: list[tuple[int, int]]
    table: int
    gates_in_table: bool

    def function(self, name: str) -> Any:
        return self.native.function(f"seqmem_memory_{name}", SUFFIX[self.dtype])

    def call(self, begin: int, end: int, **fields: int | None) -> Call:
        """For the timesteps from ``begin`` to ``end``."""
        _, *sizes = self.sizes
        first, stop = (min(max(at - begin, 0), end - begin) for at in self.asked)
        return Call(end - begin, *sizes, **self.numbers, first=first, stop=stop, **fields)

    def run(self, name: str, call: Call) -> None:
        failure = self.function(name)(ctypes.byref(call))
        if failure == NO_SUCH_TOKEN:
            raise IndexError(f"a token is not from 0 up to {self.table}, the number of the tables' rows")
        if failure:
            raise MemoryError(f"the native kernels found no memory for {self.sizes} (T, B, A, E, W)")


_Array = tuple[torch.Size, torch.dtype] | None


@lru_cache(maxsize=256)
def _plan(
    library: Library,
    about: tuple[_Array, ...],
    between: tuple[int, int, int] | None,
    threads: int,
    limits: tuple[float, float, int, int],
    *,
    delta: bool,
    gates_by_step: bool,
) -> _Plan:
    """Raise ValueError unless all sizes and dtypes match: the kernels would read past the end of an array."""
    tokens, *reals = about
    query, _, value, keep, _, start = reals
    assert query is not None
    assert value is not None
    assert start is not None
    if not isinstance(threads, int) or isinstance(threads, bool) or not 1 <= threads < 1 << 63:
        raise ValueError(f"threads={threads!r}: must be a whole number from 1 on")
    dtype = start[1]
    if dtype not in SUFFIX:
        raise ValueError(f"start is {dtype}: must be torch.float32 or torch.float64")
    if len(start[0]) != 4:
        raise ValueError(f"start has the shape {tuple(start[0])}: must be [B A E W]")
    batch, heads, size, columns = start[0]
    if tokens is not None and (len(tokens[0]) != 2 or tokens[1] != torch.int64):
        raise ValueError(f"tokens are {tokens[1]} of the shape {tuple(tokens[0])}: must be torch.int64, [T B]")
    rows = query[0][:2] if tokens is None else query[0][:1]
    steps = (rows if tokens is None else tokens[0])[0]
    by_step = (steps, batch)
    own = value[0][-1] if len(value[0]) else 0
    if columns not in (own, own + 1) or not columns:
        raise ValueError(f"start has {columns} columns: values of {own} numbers need {own}, or one more, for ones")
    gate_rows = by_step if gates_by_step else tuple(rows)
    by_key = keep is not None and len(keep[0]) == len(gate_rows) + 2
    if delta and by_key:
        raise ValueError("keep has a number for each one of a key: the delta rule needs one for each head")
    expected = {
        "tokens": by_step, "query": (*rows, heads, size), "key": (*rows, heads, size), "value": (*rows, heads, own),
        "keep": (*gate_rows, heads, size) if by_key else (*gate_rows, heads), "write": (*gate_rows, heads),
        "start": (batch, heads, size, columns),
    }  # fmt: skip
    for (name, shape), given in zip(expected.items(), about, strict=True):
        if given is None:
            continue
        if tuple(given[0]) != shape:
            raise ValueError(f"{name} has the shape {tuple(given[0])}: must be {shape} here")
        if name != "tokens" and given[1] != dtype:
            raise ValueError(f"{name} is {given[1]}, start {dtype}: must be one real type")
    first, stop, stride = (0, steps, 1) if between is None else between
    if steps < 1 or not 0 <= first <= stop <= steps or stride != 1:
        raise ValueError(f"asked={first}:{stop}:{stride} of {steps} timesteps: must be consecutive ones among them")
    operations = 8.0 * batch * heads * size * columns  # per timestep, forward
    every = min(max(4, limits[2] // max(1, size * columns * dtype.itemsize)), limits[3])
    cut = max(1, int(limits[0] / max(1.0, operations)) // every) * every
    table = 0 if tokens is None else rows[0]
    numbers = {
        "threads": threads if operations * min(cut, steps) > 2 * limits[1] else 1,
        "delta": int(delta), "ones": columns - own, "keeps": 0 if keep is None else size if by_key else 1,
        "table": table, "gates_by_step": int(tokens is not None and gates_by_step), "every": every,
    }  # fmt: skip
    return _Plan(
        library, dtype, (steps, batch, heads, size, columns), numbers, (first, stop),
        [(begin, min(begin + cut, steps)) for begin in range(0, steps, cut)], table,
        tokens is not None and not gates_by_step,
    )  # fmt: skip


class _Arrays(NamedTuple):
    """What the backward pass needs of a forward pass."""

    tokens: Tensor | None
    query: Tensor
    key: Tensor
    value: Tensor
    keep: Tensor | None
    write: Tensor | None
    ends: Tensor  # [pieces B A E W]
    start: Tensor
    saved: Tensor | None


def _rows(array: Tensor) -> Tensor:
    """``array`` [*N A E], where rows may be apart: the parts of one product need no copies."""
    *_, width, last = array.stride()
    whole = last == 1 and width == array.shape[-1] and not array.is_neg()
    together = array.ndim == 3 or array.stride(0) == array.shape[1] * array.stride(1)
    return array if whole and together else dense(array)


def _forward(
    plan: _Plan,
    memory: Memory,
    tokens: Tensor | None,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    keep: Tensor | None,
    write: Tensor | None,
    start: Tensor,
    *,
    save: bool,
    of_keep: bool,
) -> tuple[Tensor, Tensor, _Arrays]:
    """What is read, the final state, and what the backward pass needs."""
    tokens, keep, write = (None if array is None else dense(array) for array in (tokens, keep, write))
    query, key, value, start = _rows(query), _rows(key), _rows(value), dense(start)
    _, *state = plan.sizes
    first, stop = plan.asked
    read = allocate(memory, start, stop - first, state[0], state[1], state[3])
    ends = allocate(memory, start, len(plan.pieces), *state)
    arrays = _Arrays(tokens, query, key, value, keep, write, ends, start, None)
    saved = None
    if save:
        saved = memory.take(sum(_sizes(plan, arrays, piece, of_keep=of_keep)[0] for piece in plan.pieces), plan.dtype)
        arrays = arrays._replace(saved=saved)
    offset = 0
    for i, piece in enumerate(plan.pieces):
        call = _call(plan, arrays, i, of_keep=of_keep)
        call.final, call.outputs = address(ends, i), address(read, max(0, piece[0] - first))
        call.saved = address(saved, offset)
        plan.run("forward", call)
        offset += _sizes(plan, arrays, piece, of_keep=of_keep)[0] if save else 0
    # A copy, because a view of the last state would keep all of them in memory.
    return read, ends[-1].clone(), arrays


def _call(plan: _Plan, arrays: _Arrays, i: int, *, of_keep: bool) -> Call:
    begin, end = plan.pieces[i]
    tokens, query, key, value, keep, write, ends, start, _ = arrays
    rows = 0 if plan.table else begin
    gates = 0 if plan.gates_in_table else begin
    return plan.call(
        begin,
        end,
        **_steps(arrays),
        saved_from=_saved_from(plan, begin, end, of_keep=of_keep),
        tokens=address(tokens, begin),
        q=address(query, rows),
        k=address(key, rows),
        v=address(value, rows),
        keep=address(keep, gates),
        write=address(write, gates),
        start=address(ends, i - 1) if i else address(start),
    )


def _steps(arrays: _Arrays) -> dict[str, int]:
    return {name: part.stride(-3) for name, part in zip(("q_step", "k_step", "v_step"), arrays[1:4], strict=True)}


def _saved_from(plan: _Plan, begin: int, end: int, *, of_keep: bool) -> int:
    """The timestep of a piece from which on the backward pass needs states."""
    if plan.numbers["delta"] or of_keep:
        return 0
    first, stop = plan.asked
    every = plan.numbers["every"]
    return (
        max(0, first - begin) // every * every if first < stop and first < end else -(-(end - begin) // every) * every
    )


def _sizes(plan: _Plan, arrays: _Arrays, piece: tuple[int, int], *, of_keep: bool) -> tuple[int, int]:
    """The sizes of the saved states and of the sums of gradients by tables."""
    results = ctypes.c_int64(), ctypes.c_int64()
    call = plan.call(*piece, **_steps(arrays), saved_from=_saved_from(plan, *piece, of_keep=of_keep))
    plan.function("sizes")(ctypes.byref(call), *map(ctypes.byref, results))
    return results[0].value, results[1].value


def _backward(
    plan: _Plan,
    memory: Memory,
    arrays: _Arrays,
    grads: Sequence[Tensor | None],
    needs: Sequence[bool],
    norms: Sequence[Tensor],
) -> tuple[Tensor | None, ...]:
    """The gradients by the query, key, value, keep, write and start."""
    by_read, by_final = grads
    by_read = None if by_read is None else dense(by_read)
    carry = (
        torch.zeros_like(arrays.start) if by_final is None else by_final.clone(memory_format=torch.contiguous_format)
    )
    *_, need_keep, need_write, need_start = needs
    of_keep = need_keep and arrays.keep is not None

    def empty(like: Tensor | None, *, needed: bool = True) -> Tensor | None:
        return allocate(memory, like, *like.shape) if needed and like is not None else None

    by_rows = [empty(part) for part in arrays[1:4]]
    by_keep, by_write = empty(arrays.keep, needed=need_keep), empty(arrays.write, needed=need_write)
    sums = (
        memory.take(_sizes(plan, arrays, plan.pieces[0], of_keep=of_keep)[1], plan.dtype).zero_()
        if plan.table
        else None
    )
    sizes = [_sizes(plan, arrays, piece, of_keep=of_keep)[0] for piece in plan.pieces]
    for i in reversed(range(len(plan.pieces))):
        begin, _ = plan.pieces[i]
        call = _call(plan, arrays, i, of_keep=of_keep)
        call.saved = address(arrays.saved, sum(sizes[:i]))
        call.grad_outputs = address(by_read, max(0, begin - plan.asked[0]))
        call.grad_state, call.sums = address(carry), address(sums)
        if not plan.table:
            call.grad_q, call.grad_k, call.grad_v = (address(by, begin) for by in by_rows)
        if not plan.gates_in_table:
            call.grad_keep, call.grad_write = address(by_keep, begin), address(by_write, begin)
        if norms:
            call.norm_memory, call.norm_ones = (address(norm, begin) for norm in norms)
        plan.run("backward", call)
    if sums is not None:
        gates = (by_keep, by_write) if plan.gates_in_table else (None, None)
        pointers = [ctypes.c_void_p(address(array)) for array in (*by_rows, *gates)]
        call = plan.call(*plan.pieces[0], sums=address(sums))
        plan.function("reduce")(ctypes.byref(call), *pointers)
    return *by_rows, by_keep, by_write, carry if need_start else None


class _Associative(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, plan: _Plan, memory: Memory, *given: Tensor | None) -> tuple[Tensor, Tensor]:
        *arrays, ghost, _ = given
        ctx.of_keep, ctx.haunted = ctx.needs_input_grad[6], ghost is not None
        read, final, kept = _forward(plan, memory, *arrays, save=True, of_keep=ctx.of_keep)  # pyright: ignore[reportArgumentType]
        ctx.plan, ctx.memory = plan, memory
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*kept)
        return read, final

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("the native kernels have no second derivatives: kernel=step has them")
        arrays, (_, *needs) = _Arrays(*ctx.saved_tensors), ctx.needs_input_grad[2:-2]
        norms = [arrays.start.new_zeros(ctx.plan.sizes[:3]) for _ in range(2 * ctx.haunted)]
        gradients = _backward(ctx.plan, ctx.memory, arrays, grads, needs, norms)
        return None, None, None, *gradients, *(norms or (None, None))


def largest(
    log_keep: Float[Tensor, "T *N"],
    log_enter: Float[Tensor, "T *N"],
    start: Float[Tensor, " *N"],
    ghost: Float[Tensor, "T *N"] | None = None,
) -> Float[Tensor, "T1 *N"]:
    """m_0 ... m_T of m_t = max(m_{t-1} + log_keep_t, log_enter_t).

    Args:
        ghost: zeros whose gradients are those by each m_t.

    Raises:
        ValueError: sizes or dtypes do not match.
        RuntimeError: in the backward pass, if second derivatives are requested.
    """
    if start.dtype not in SUFFIX:
        raise ValueError(f"start is {start.dtype}: must be torch.float32 or torch.float64")
    sizes = (len(log_keep), *start.shape)
    matching(start.dtype, log_keep=(log_keep, sizes), log_enter=(log_enter, sizes))
    return _Largest.apply(log_keep, log_enter, start, ghost)  # pyright: ignore[reportReturnType]


class _Largest(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, log_keep: Tensor, log_enter: Tensor, start: Tensor, _ghost: Tensor | None) -> Tensor:
        keep, enter = dense(log_keep), dense(log_enter)
        m = start.new_empty(len(keep) + 1, *start.shape)
        m[0] = start
        _largest("largest", keep, keep, enter, m)
        ctx.save_for_backward(keep, enter, m)
        return m

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("the native kernels have no second derivatives: kernel=step has them")
        keep, enter, m = ctx.saved_tensors
        grad = grads[0].clone(memory_format=torch.contiguous_format)
        by_keep, by_enter = torch.empty_like(keep), torch.empty_like(enter)
        _largest("largest_back", keep, keep, enter, m, grad, by_keep, by_enter)
        return by_keep, by_enter, grad[0], grad[1:] if ctx.needs_input_grad[3] else None


def _largest(name: str, like: Tensor, *arrays: Tensor) -> None:
    library = load()
    assert isinstance(library, Library)  # see supports()
    sizes = ctypes.c_int64(len(like)), ctypes.c_int64(like[:1].numel())
    pointers = (ctypes.c_void_p(address(array)) for array in arrays)
    library.function(f"seqmem_memory_{name}", SUFFIX[like.dtype])(*sizes, *pointers)
