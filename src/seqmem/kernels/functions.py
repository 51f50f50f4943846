"""Recurrent layers and linear recurrences over whole sequences, differentiable, computed by the native kernels.

Axes: T time, B batch, D input features, H units, G gates, V vocabulary. Weights of all gates are stacked: [G*H ...].
Tensors are on the CPU, in float32 or float64, with any strides. The bits of every result are independent of the number
of threads and of where a sequence is cut.
"""

import ctypes
import math
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .arrays import NO_SUCH_TOKEN, PLAIN, SUFFIX, address, allocate, dense
from .loading import Library, load
from .memory import Memory

KINDS = ("rnn tanh", "rnn relu", "lstm", "gru torch", "gru cho")
"""The layers that ``recurrence`` computes, in the order of ``Kind`` in recurrence.cpp."""

OPERATIONS_PER_CALL = 4e9
"""Longer sequences are cut into several calls of at most so many multiplications and additions, about 0.1 s each.

Python handles signals, such as Ctrl-C, between two calls.
"""
SHORTEST_PIECE = 16
"""Timesteps of a call at least, however many operations they are."""
OPERATIONS_PER_THREAD = 1.5e7
"""Calls of fewer than twice as many (about 0.4 ms) run on one thread: starting a second one costs about 0.1 ms."""


class Call(ctypes.Structure):
    """``SeqmemCall`` in recurrence.cpp, with the same fields."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("cell", "T", "B", "D", "H", "threads", "lookup", "features")),
        ("candidate_bias", ctypes.c_int64),
        *(
            (name, ctypes.c_void_p)
            for name in (
                "xs", "start_hidden", "start_cell", "packed", "outputs", "final_cell", "saved", "grad_outputs",
                "grad_hidden", "grad_cell", "grad_xs", "grad_sums", "norm_input", "norm_hidden", "norm_cell",
                "cells", "grad_cells", "rows", "counts",
            )
        ),
    ]  # fmt: skip


def supports(*tensors: Tensor | None) -> bool:
    """True if the native kernels are built and accept these tensors: on the CPU, all float32 or all float64.

    Under CPU autocast they accept none, as it expects half precision.
    """
    dtype = None
    for tensor in tensors:
        if tensor is None:
            continue
        if type(tensor) not in PLAIN or not tensor.is_cpu or dtype not in (None, tensor.dtype):
            return False
        dtype = tensor.dtype
    return dtype in SUFFIX and not torch.is_autocast_enabled("cpu") and isinstance(load(), Library)


def recurrence(
    kind: str,
    xs: Float[Tensor, "T B D"],
    start: Sequence[Float[Tensor, "B H"]],
    weight_input: Float[Tensor, "GH D"],
    weight_hidden: Float[Tensor, "GH H"],
    bias: Float[Tensor, " GH"],
    *,
    threads: int = 1,
    checkpoint_every_t: int | None = None,
    memory: Memory | None = None,
) -> tuple[Tensor, ...]:
    """(outputs [T B H], final hidden state [B H]), and for lstm the final cell state [B H].

    Args:
        kind: one of ``KINDS``.
        start: the initial hidden state, and for lstm the initial cell state.
        weight_input, weight_hidden, bias: rows in torch's order (lstm i f g o, gru r z n).
        checkpoint_every_t: save states only at every so many timesteps, and recompute the activations in between in the
            backward pass (Chen et al. 2016, arXiv 1604.06174): less memory, the same bits.
        memory: pool for the buffers of saved activations, to reuse them in the next call.

    Raises:
        ValueError: sizes or dtypes do not match.
        RuntimeError: in the backward pass, if second derivatives are requested.
    """
    options = _options(kind, threads, checkpoint_every_t, memory)
    _check_arrays(kind, xs, None, start, weight_input, weight_hidden, bias)
    return _computed(options, xs, None, start, weight_input, weight_hidden, bias)


def recurrence_of_tokens(
    kind: str,
    tokens: Int[Tensor, "T B"],
    vectors: Float[Tensor, "V D"],
    start: Sequence[Float[Tensor, "B H"]],
    weight_input: Float[Tensor, "GH D"],
    weight_hidden: Float[Tensor, "GH H"],
    bias: Float[Tensor, " GH"],
    *,
    threads: int = 1,
    checkpoint_every_t: int | None = None,
    memory: Memory | None = None,
) -> tuple[Tensor, ...]:
    """``recurrence`` over ``vectors[tokens]``, without a product at every timestep.

    W x + bias is computed once for each of the V vectors, and looked up for each token.

    Raises:
        ValueError: sizes or dtypes do not match.
        IndexError: a token is not in [0, V).
    """
    options = _options(kind, threads, checkpoint_every_t, memory)
    _check_arrays(kind, tokens, vectors, start, weight_input, weight_hidden, bias)
    return _computed(options, tokens, vectors, start, weight_input, weight_hidden, bias)


class Order(NamedTuple):
    """How timesteps lie in the arrays of ``recurrence_of_layer``, whose rows [N ...] are of one sequence each."""

    rows: Int[Tensor, " T"]
    """The row at which a timestep begins: of the first sequence, followed by the others'."""
    counts: Int[Tensor, " T"] | None
    """The first so many sequences have this timestep, at most as many as have the one before. None: all."""
    final: Int[Tensor, " B"]
    """The row of each sequence's last timestep."""

    @classmethod
    def backwards(cls, steps: int, batch: int) -> "Order":
        """The order of arrays [T B ...] that are read from the last timestep to the first."""
        return cls(torch.arange((steps - 1) * batch, -1, -batch), None, torch.arange(batch))

    @classmethod
    def packed(cls, batch_sizes: Int[Tensor, " T"]) -> "Order":
        """The order of sequences of several lengths, packed as by ``torch.nn.utils.rnn.pack_padded_sequence``: longest
        first, timestep by timestep.

        Raises:
            ValueError: these are no sizes of a packed sequence.
        """
        sizes = batch_sizes.tolist() if batch_sizes.ndim == 1 else []
        if not sizes or sizes[-1] < 1 or sizes != sorted(sizes, reverse=True) or batch_sizes.dtype != torch.int64:
            raise ValueError(f"batch_sizes {batch_sizes}: must be whole numbers from 1 on, [T], that never grow")
        rows = torch.tensor([0, *accumulate(sizes[:-1])])
        each = torch.arange(sizes[0])
        lengths = len(sizes) - torch.searchsorted(batch_sizes.flip(0), each, right=True)
        return cls(rows, dense(batch_sizes), rows[lengths - 1] + each)

    def reversal(self) -> Int[Tensor, " N"]:
        """The rows with every sequence reversed. Applied twice, it changes nothing."""
        assert self.counts is not None
        steps = torch.repeat_interleave(torch.arange(len(self.rows)), self.counts)
        each = torch.arange(len(steps)) - self.rows[steps]
        lengths = len(self.rows) - torch.searchsorted(self.counts.flip(0), each, right=True)
        return self.rows[lengths - 1 - steps] + each


class Layer(NamedTuple):
    """What ``recurrence_of_layer`` computes; ``cell`` and ``cells`` are the lstm's, else None."""

    outputs: Float[Tensor, "*TB H"]
    hidden: Float[Tensor, "B H"]
    cell: Float[Tensor, "B H"] | None
    cells: Float[Tensor, "*TB H"] | None


Differentiably = Callable[..., Layer]
"""The results once more by torch's differentiable operations, from xs, h, c, w, u and bias: for second derivatives."""


def recurrence_of_layer(
    kind: str,
    xs: Float[Tensor, "*TB D"],
    start: Sequence[Float[Tensor, "B H"]],
    weight_input: Float[Tensor, "GH D"],
    weight_hidden: Float[Tensor, "GH H"],
    bias: Float[Tensor, " GHs"],
    *,
    order: Order | None = None,
    cells: bool = False,
    threads: int = 1,
    memory: Memory | None = None,
    differentiably: Differentiably | None = None,
) -> Layer:
    """``recurrence`` with what torch's layers have beside it.

    Args:
        xs: [T B D], or with ``order`` any [N ... D]; the outputs lie as they do.
        bias: with ``gru torch`` 4 H numbers, the last of them torch's b_hn, in r * (U_n h + b_hn).
        cells: with ``lstm`` every cell state is returned, too.
        differentiably: what a second derivative is computed by; None: it is an error.

    Raises:
        ValueError: sizes or dtypes do not match.
    """
    options = _options(kind, threads, None, memory)._replace(differentiably=differentiably)
    hidden = weight_hidden.shape[-1]
    steps, batch = (xs.shape[0], xs.shape[1]) if order is None else (len(order.rows), len(order.final))
    single = bias[: 3 * hidden] if kind == "gru torch" and len(bias) == 4 * hidden else bias
    shapes = [("weight_hidden", weight_hidden), ("weight_input", weight_input), ("bias", single)]
    shapes.extend(("start", state) for state in start)
    xs_as = ("xs", torch.Size((steps, batch, xs.shape[-1])), xs.dtype)
    _check(kind, len(start), xs_as, *[(name, array.shape, array.dtype) for name, array in shapes])
    numbers = steps * batch if order is None or order.counts is None else int(order.rows[-1] + order.counts[-1])
    if xs.numel() != numbers * xs.shape[-1]:
        raise ValueError(f"xs has the shape {tuple(xs.shape)}: must have {numbers} rows here")
    h, c = start[0], start[1] if len(start) > 1 else None
    arrays = xs, h, c, weight_input, weight_hidden, bias
    every = cells and c is not None
    if torch.is_grad_enabled() and any(array is not None and array.requires_grad for array in arrays):
        return Layer(*_LayerRecurrence.apply(options, order, every, *arrays))
    return _forward_layer(options, order, every, *arrays, save=False)[2]


def _forward_layer(
    options: "_Options",
    order: Order | None,
    every: bool,
    xs: Tensor,
    h: Tensor,
    c: Tensor | None,
    w: Tensor,
    u: Tensor,
    bias: Tensor,
    *,
    save: bool,
) -> tuple["CallPlan", "_Arrays", Layer]:
    plan, arrays = _prepare(options, xs, None, h, c, w, u, save=save, order=order, candidate_bias=len(bias) > len(w))
    outputs = arrays.outputs
    if every:
        arrays = arrays._replace(every_cell=torch.empty_like(outputs))
    _run_forward(plan, arrays, None, w, u, bias, save=save)
    hidden = outputs[-1].clone() if order is None else outputs.view(-1, u.shape[1]).index_select(0, order.final)
    cell = None if arrays.cells is None else arrays.cells[-1].clone()
    return plan, arrays, Layer(outputs, hidden, cell, arrays.every_cell)


class _LayerRecurrence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, options: "_Options", order: Order | None, every: bool, *arrays: Any) -> Layer:
        plan, own, results = _forward_layer(options, order, every, *arrays, save=True)
        ctx.memory, ctx.plan, ctx.differentiably = options.memory, plan, options.differentiably
        ctx.set_materialize_grads(False)
        # The arguments themselves, too: their versions tell whether they were changed in place until the backward pass.
        ctx.save_for_backward(*own._replace(every_cell=None), *arrays)
        return results

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        saved, needs = ctx.saved_tensors, ctx.needs_input_grad[3:]
        own, arrays = _Arrays(*saved[:-6]), saved[-6:]
        if torch.is_grad_enabled():
            return None, None, None, *_differentiable_gradients(ctx.differentiably, arrays, needs, grads)
        needs = (needs[0], False, *needs[1:])
        by_xs, _, *others = _gradients(ctx.plan, ctx.memory, own, None, None, grads, needs)
        return None, None, None, by_xs, *others


def _differentiable_gradients(
    differentiably: Differentiably | None,
    arrays: Sequence[Tensor | None],
    needs: Sequence[bool],
    grads: Sequence[Tensor | None],
) -> list[Tensor | None]:
    if differentiably is None:
        raise RuntimeError("the native kernels have no second derivatives: kernel=step has them")
    # Views of their own: an argument that is given twice, or computed from another one, has a gradient for each place.
    own = [None if array is None else array.view_as(array) for array in arrays]
    results = [
        (result, grad)
        for result, grad in zip(differentiably(*own), grads, strict=True)
        if result is not None and grad is not None
    ]
    wanted = [array for array, need in zip(own, needs, strict=True) if array is not None and need]
    gradients = iter(
        torch.autograd.grad(
            [result for result, _ in results],
            wanted,
            [grad for _, grad in results],
            create_graph=True,
            allow_unused=True,
        )
    )
    return [next(gradients) if array is not None and need else None for array, need in zip(own, needs, strict=True)]


def _computed(
    options: "_Options",
    inputs: Tensor,
    vectors: Tensor | None,
    start: Sequence[Tensor],
    w: Tensor,
    u: Tensor,
    bias: Tensor,
) -> tuple[Tensor, ...]:
    """The results with a graph if a backward pass may follow, else without saved activations."""
    h, c = start[0], start[1] if len(start) > 1 else None
    arrays = inputs, vectors, h, c, w, u, bias
    # Asked here: inside an autograd function, ctx.needs_input_grad is true under no_grad, too.
    if torch.is_grad_enabled() and any(array is not None and array.requires_grad for array in arrays):
        outputs, h, c = _Recurrence.apply(options, *arrays)
    else:
        outputs, h, c = _forward(options, *arrays, save=False)[2]
    return (outputs, h) if c is None else (outputs, h, c)


def _check_arrays(
    kind: str,
    inputs: Tensor,
    vectors: Tensor | None,
    start: Sequence[Tensor],
    weight_input: Tensor,
    weight_hidden: Tensor,
    bias: Tensor,
) -> None:
    """Raise ValueError unless all sizes and dtypes match."""
    name, axes = ("xs", "T B D") if vectors is None else ("tokens", "T B")
    if inputs.ndim != len(axes.split()) or len(inputs) < 1:
        raise ValueError(f"inputs have the shape {tuple(inputs.shape)}: must be [{axes}], at least one timestep")
    named = [(name, inputs), ("weight_hidden", weight_hidden), ("weight_input", weight_input), ("bias", bias)]
    if vectors is not None:
        named.append(("vectors", vectors))
    named.extend(("start", state) for state in start)
    _check(kind, len(start), *[(name, array.shape, array.dtype) for name, array in named])


_Array = tuple[str, torch.Size, torch.dtype]
"""Name, shape, dtype."""


@lru_cache(maxsize=1024)  # training passes the same sizes at every step
def _check(
    kind: str, starts: int, inputs: _Array, weight_hidden: _Array, weight_input: _Array, *others: _Array
) -> None:
    """Raise ValueError unless all sizes and dtypes match: the kernels would read past the end of an array."""
    for name, shape, _ in (weight_hidden, weight_input):
        if len(shape) != 2:
            raise ValueError(f"{name} has the shape {tuple(shape)}: must have two axes")
    hidden, features = weight_hidden[1][-1], weight_input[1][-1]
    rows = {"lstm": 4, "gru torch": 3, "gru cho": 3}.get(kind, 1) * hidden
    states = 2 if kind == "lstm" else 1
    if starts != states:
        raise ValueError(f"start has {starts} states: {kind} has {states}")
    steps, batch = inputs[1][:2]
    shapes = {
        "xs": (steps, batch, features), "tokens": (steps, batch), "weight_hidden": (rows, hidden),
        "weight_input": (rows, features), "bias": (rows,), "start": (batch, hidden),
    }  # fmt: skip
    for name, shape, dtype in (weight_hidden, *others, inputs, weight_input):
        expected = (*shape[:1], features) if name == "vectors" else shapes[name]
        if shape != expected:
            raise ValueError(f"{name} has the shape {tuple(shape)}: must be {tuple(expected)} here")
        if name == "tokens":
            if dtype != torch.int64:
                raise ValueError(f"tokens are {dtype}: must be torch.int64")
        elif dtype != weight_hidden[2] or dtype not in SUFFIX:
            raise ValueError(f"{name} is {dtype}, weight_hidden {weight_hidden[2]}: must be one real type")


class CallPlan:
    """How to call the kernels for one shape: the pieces of timesteps, threads and buffer sizes.

    It holds no arrays, so it is cached and reused by every training step.
    """

    def __init__(
        self,
        library: Library,
        kind: int,
        sizes: tuple[int, int, int, int],  # T B D H
        gates: int,
        threads: int,
        every: int | None,
        dtype: torch.dtype,
        limits: tuple[float, float],  # OPERATIONS_PER_CALL, OPERATIONS_PER_THREAD
        *,
        lookup: bool,
        norm_features: int,  # size of the tokens' vectors, if the norms of their gradients are requested; else 0
        candidate_bias: bool = False,
    ) -> None:
        steps, batch, features, hidden = sizes
        self.norm_features, self.candidate_bias = norm_features, candidate_bias
        operations = 2.0 * batch * gates * (hidden + (0 if lookup else features))  # per timestep, forward
        self.cut = min(max(SHORTEST_PIECE, int(limits[0] / max(1.0, operations))), every or steps, steps)
        self.kind, self.sizes, self.gates, self.dtype, self.lookup = kind, sizes, gates, dtype, lookup
        self.pieces = [(begin, min(begin + self.cut, steps)) for begin in range(0, steps, self.cut)]
        self.functions = {
            name: library.function(f"seqmem_{name}", SUFFIX[dtype])
            for name in ("pack", "forward", "backward", "reduce")
        }
        work = operations * self.cut / (2 * limits[1]) if limits[1] else math.inf
        self.threads = {"forward": threads if work > 1 else 1, "backward": threads if 2 * work > 1 else 1}
        sizes_of = library.function("seqmem_sizes", SUFFIX[dtype])
        numbers = []
        for length in (steps, *(end - begin for begin, end in self.pieces)):
            results = ctypes.c_int64(), ctypes.c_int64(), ctypes.c_int64()
            sizes_of(ctypes.byref(self.call("forward", length)), *map(ctypes.byref, results))
            numbers.append([result.value for result in results])
        # Sizes of the buffers for packed weights, saved activations and the weights' gradient sums.
        (self.packed, _, self.sums), *each = numbers
        saved = [number for _, number, _ in each]
        self.saved, self.largest_saved = sum(saved), max(saved)
        self.saved_offsets = list(accumulate(saved, initial=0))

    def call(self, name: str, steps: int, **pointers: int | None) -> Call:
        _, batch, features, hidden = self.sizes
        numbers = self.kind, steps, batch, features, hidden, self.threads[name], self.lookup, self.norm_features
        return Call(*numbers, self.candidate_bias, **pointers)

    def run(self, name: str, call: Call) -> None:
        failure = self.functions[name](ctypes.byref(call))
        if failure == NO_SUCH_TOKEN:
            raise IndexError(f"a token is not from 0 up to {self.sizes[2]}, the size of its vocabulary")
        if failure:
            raise MemoryError(f"the native kernels found no memory for {self.sizes} (T, B, D, H)")


_cached_plan = lru_cache(maxsize=256)(CallPlan)


class _Options(NamedTuple):
    kind: int
    threads: int
    checkpoint_every_t: int | None
    memory: Memory
    differentiably: "Differentiably | None" = None


def _options(kind: str, threads: int, checkpoint_every_t: int | None, memory: Memory | None) -> _Options:
    """Raises ValueError where one of them is none that the kernels know."""
    if kind not in KINDS:
        raise ValueError(f"kind={kind!r}: must be one of {', '.join(KINDS)}")
    for name, value in (
        ("threads", threads),
        ("checkpoint_every_t", 1 if checkpoint_every_t is None else checkpoint_every_t),
    ):
        if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value < 1 << 63:
            raise ValueError(f"{name}={value!r}: must be a whole number from 1 on")
    return _Options(KINDS.index(kind), threads, checkpoint_every_t, memory or Memory())


class _Arrays(NamedTuple):
    """The arrays of one forward pass, contiguous."""

    xs: Tensor
    h: Tensor
    c: Tensor | None
    packed: Tensor
    outputs: Tensor
    cells: Tensor | None  # the lstm's c after each piece
    saved: Tensor | None
    every_cell: Tensor | None = None  # the lstm's c after each timestep
    rows: Tensor | None = None  # of ``Order``
    counts: Tensor | None = None

    def pointers(self, begin: int, **like_outputs: Tensor | None) -> dict[str, int | None]:
        """For a call that starts with timestep ``begin``: the addresses of arrays that lie as the outputs do."""
        if self.rows is None:
            return {name: address(array, begin) for name, array in like_outputs.items()}
        return {name: address(array) for name, array in like_outputs.items()} | {
            "rows": address(self.rows, begin),
            "counts": address(self.counts, begin),
        }

    def state_before(self, begin: int) -> int | None:
        """The address of the hidden state before timestep ``begin``."""
        if not begin:
            return address(self.h)
        if self.rows is None:
            return address(self.outputs, begin - 1)
        row = int(self.rows[begin - 1]) * self.h.shape[1] * self.h.element_size()
        return (address(self.outputs) or 0) + row


def _prepare(
    options: _Options,
    xs: Tensor,
    vocabulary: int | None,
    h: Tensor,
    c: Tensor | None,
    w: Tensor,
    u: Tensor,
    *,
    save: bool,
    norm_features: int = 0,
    order: Order | None = None,
    candidate_bias: bool = False,
) -> tuple[CallPlan, _Arrays]:
    """The plan and the arrays of a pass.

    Args:
        vocabulary: its size if ``xs`` are tokens, else None.
        save: reserve memory for the activations that a backward pass needs.
    """
    kind, threads, every, memory, _ = options
    gates, hidden = u.shape
    steps, batch = (xs.shape[0], xs.shape[1]) if order is None else (len(order.rows), len(order.final))
    sizes = (steps, batch, w.shape[1] if vocabulary is None else vocabulary, hidden)
    library = load()
    assert isinstance(library, Library)  # see supports()
    limits, lookup = (OPERATIONS_PER_CALL, OPERATIONS_PER_THREAD), vocabulary is not None
    plan = _cached_plan(
        library, kind, sizes, gates, threads, every, u.dtype, limits, lookup=lookup, norm_features=norm_features,
        candidate_bias=candidate_bias,
    )  # fmt: skip
    return plan, _Arrays(
        dense(xs),
        dense(h),
        dense(c) if c is not None else None,
        memory.take(plan.packed, plan.dtype),
        allocate(memory, h, *xs.shape[: 2 if vocabulary is not None or order is None else -1], hidden),
        c.new_empty(len(plan.pieces), batch, hidden) if c is not None else None,
        memory.take(plan.saved, plan.dtype) if save and every is None else None,
        rows=None if order is None else order.rows,
        counts=None if order is None else order.counts,
    )


def _run_forward(
    plan: CallPlan, arrays: _Arrays, table: Tensor | None, w: Tensor, u: Tensor, bias: Tensor, *, save: bool
) -> None:
    """Pack the weights, for the backward pass too if ``save``, and run all pieces."""
    w, u = dense(w), dense(u)
    weights = (w, u, dense(bias)) if table is None else (table, u, None)
    pointers = [ctypes.c_void_p(address(array)) for array in (*weights, w, arrays.packed)]
    plan.functions["pack"](ctypes.byref(plan.call("forward", plan.sizes[0])), *pointers, ctypes.c_int64(save))
    for i in range(len(plan.pieces)):
        _forward_piece(plan, i, arrays, arrays.saved, plan.saved_offsets[i])


def _run_backward(
    plan: CallPlan,
    memory: Memory,
    arrays: _Arrays,
    grad_outputs: Tensor | None,
    carry_h: Tensor,
    carry_c: Tensor | None,
    *,
    grad_xs: Tensor | None,
    sums: Tensor | None = None,
    norms: tuple[Tensor | None, Tensor | None, Tensor | None] = (None, None, None),
    grad_cells: Tensor | None = None,
) -> None:
    """Run all pieces from last to first; without saved activations, recompute each piece before.

    ``carry_h`` and ``carry_c`` are updated in place, from the gradient at the final state to that at the initial state.
    """
    xs, _, _, packed, outputs, _, saved, *_ = arrays
    norm_input, norm_hidden, norm_cell = norms
    recomputed = discarded = None
    if saved is None:
        recomputed = memory.take(plan.largest_saved, plan.dtype)
        discarded = torch.empty_like(outputs[: plan.cut])  # recomputed outputs are discarded
    for i in reversed(range(len(plan.pieces))):
        begin, end = plan.pieces[i]
        if saved is None:
            _forward_piece(plan, i, arrays, recomputed, 0, into=discarded)
        call = plan.call(
            "backward",
            end - begin,
            start_hidden=arrays.state_before(begin),
            packed=address(packed),
            saved=address(recomputed) if saved is None else address(saved, plan.saved_offsets[i]),
            grad_hidden=address(carry_h),
            grad_cell=address(carry_c),
            **arrays.pointers(
                begin, xs=xs, outputs=outputs, grad_outputs=grad_outputs, grad_xs=grad_xs, grad_cells=grad_cells
            ),
            grad_sums=address(sums),
            norm_input=address(norm_input, begin),
            norm_hidden=address(norm_hidden, begin),
            norm_cell=address(norm_cell, begin),
        )
        plan.run("backward", call)


def _forward(
    options: _Options,
    xs: Tensor,
    vectors: Tensor | None,
    h: Tensor,
    c: Tensor | None,
    w: Tensor,
    u: Tensor,
    bias: Tensor,
    *,
    save: bool,
) -> tuple[CallPlan, _Arrays, tuple[Tensor, Tensor, Tensor | None]]:
    """The plan, the arrays, and (outputs, final hidden state, final cell state). With ``vectors``, xs are tokens [T B].

    Args:
        save: keep what a backward pass needs.
    """
    table, vocabulary = None, None
    if vectors is not None:
        table, vocabulary = torch.addmm(bias, vectors, w.t()), vectors.shape[0]
    plan, arrays = _prepare(options, xs, vocabulary, h, c, w, u, save=save)
    _run_forward(plan, arrays, table, w, u, bias, save=save)
    outputs, cells = arrays.outputs, arrays.cells
    # Copies, because a view of the final state would keep the whole outputs in memory.
    return plan, arrays, (outputs, outputs[-1].clone(), cells[-1].clone() if cells is not None else None)


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        options: _Options,
        xs: Tensor,
        vectors: Tensor | None,
        h: Tensor,
        c: Tensor | None,
        w: Tensor,
        u: Tensor,
        bias: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        plan, arrays, results = _forward(options, xs, vectors, h, c, w, u, bias, save=True)
        ctx.memory, ctx.plan = options.memory, plan
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*arrays, vectors, w if vectors is not None else None)
        return results

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("the native kernels have no second derivatives: kernel=step has them")
        *saved, vectors, w = ctx.saved_tensors
        return None, *_gradients(ctx.plan, ctx.memory, _Arrays(*saved), vectors, w, grads, ctx.needs_input_grad[1:])


def _gradients(
    plan: CallPlan,
    memory: Memory,
    arrays: _Arrays,
    vectors: Tensor | None,
    w: Tensor | None,
    grads: Sequence[Tensor | None],
    needs: Sequence[bool],
    buffer: Tensor | None = None,
) -> tuple[Tensor | None, ...]:
    """The gradients by xs, vectors, h, c, w, u and bias, those that ``needs`` names, from those by the results.

    Results are outputs, final hidden state, final cell state, and if it was asked for, every cell state.

    ``buffer``: for the weights' gradient sums; None: one from ``memory``.
    """
    steps, _, features, hidden = plan.sizes
    h, c = arrays.h, arrays.c
    need_xs, need_vectors, need_h, need_c, need_w, need_u, need_bias = needs
    grad_outputs, grad_h, grad_c, *rest = grads
    grad_outputs, grad_cells = (None if grad is None else dense(grad) for grad in (grad_outputs, *(rest or (None,))))
    carry_h = grad_h.clone(memory_format=torch.contiguous_format) if grad_h is not None else torch.zeros_like(h)
    carry_c = None
    if c is not None:
        carry_c = grad_c.clone(memory_format=torch.contiguous_format) if grad_c is not None else torch.zeros_like(c)
    grad_xs = torch.empty_like(arrays.xs) if need_xs else None
    need_weights = need_vectors or need_w or need_u or need_bias
    sums = (memory.take(plan.sums, plan.dtype) if buffer is None else buffer).zero_() if need_weights else None
    _run_backward(
        plan, memory, arrays, grad_outputs, carry_h, carry_c, grad_xs=grad_xs, sums=sums, grad_cells=grad_cells
    )
    grad_vectors = grad_w = grad_u = grad_bias = None
    if sums is not None:
        gates = plan.gates
        grad_w = h.new_empty((features, gates) if plan.lookup else (gates, features))
        grad_u = h.new_empty(gates, hidden)
        grad_bias = None if plan.lookup else h.new_empty(gates + hidden * plan.candidate_bias)
        pointers = (ctypes.c_void_p(address(array)) for array in (grad_w, grad_u, grad_bias))
        call = plan.call("backward", steps, grad_sums=address(sums))
        plan.functions["reduce"](ctypes.byref(call), *pointers)
        if vectors is not None:
            assert w is not None
            grad_table, grad_w = grad_w, None
            grad_vectors = grad_table @ w if need_vectors else None
            grad_w = grad_table.t() @ vectors if need_w else None
            grad_bias = grad_table.sum(0) if need_bias else None
    return (
        grad_xs, grad_vectors, carry_h if need_h else None, carry_c if need_c else None, grad_w, grad_u, grad_bias,
    )  # fmt: skip


class Pass:
    """Forward and backward passes of ``recurrence`` (with vectors: ``recurrence_of_tokens``) in turn, for training.

    The same results and gradients, bit for bit, without autograd's graph: recording and running it takes as long as a
    small recurrence. All sizes are fixed and all buffers allocated once, in the constructor. The weights may change in
    place.

    Args:
        like: inputs of the shape to come, [T B D], or with vectors tokens [T B].

    Raises:
        ValueError: sizes or dtypes do not match.
    """

    made_for: tuple[Any, ...] = ()
    """A note of the owner's: the ``settings`` that the pass serves."""

    def __init__(
        self,
        kind: str,
        like: Tensor,
        weight_input: Float[Tensor, "GH D"],
        weight_hidden: Float[Tensor, "GH H"],
        bias: Float[Tensor, " GH"],
        *,
        vectors: Float[Tensor, "V D"] | None = None,
        threads: int = 1,
        checkpoint_every_t: int | None = None,
        memory: Memory | None = None,
    ) -> None:
        options = _options(kind, threads, checkpoint_every_t, memory)
        self._memory, self._vectors = options.memory, vectors
        self._weights = weight_input, weight_hidden, bias
        states = [weight_hidden.new_empty(like.shape[1], weight_hidden.shape[1])] * (2 if kind == "lstm" else 1)
        _check_arrays(kind, like, vectors, states, *self._weights)
        self._like = [(array.shape, array.dtype) for array in (like, *states)]
        vocabulary, h, c = None if vectors is None else len(vectors), states[0], states[1] if kind == "lstm" else None
        with torch.no_grad():
            self._plan, self._arrays = _prepare(options, like, vocabulary, h, c, weight_input, weight_hidden, save=True)
        self._table = weight_input.new_empty(vocabulary or 0, len(weight_input))
        self._sums = self._memory.take(self._plan.sums, self._plan.dtype)

    @staticmethod
    def settings(kind: str, like: Tensor, *arrays_and_more: Any) -> tuple[Any, ...]:
        """What identifies the calls that one pass can serve: equal sizes, the same arrays, equal other settings."""
        return (
            kind, like.shape, like.dtype, OPERATIONS_PER_CALL, OPERATIONS_PER_THREAD,
            *[(id(value), value.data_ptr()) if isinstance(value, Tensor) else value for value in arrays_and_more],
        )  # fmt: skip

    def forward(self, inputs: Tensor, start: Sequence[Float[Tensor, "B H"]]) -> tuple[Tensor, ...]:
        """``recurrence``'s results. The outputs are overwritten by the next call.

        Raises:
            ValueError: inputs or the initial state have another shape, dtype or device.
        """
        for array, expected in zip((inputs, *start), self._like, strict=True):
            if (array.shape, array.dtype) != expected:
                raise ValueError(f"an array of {array.shape}, {array.dtype}: must be of {expected[0]}, {expected[1]}")
        w, u, bias = self._weights
        h, c = start[0], start[1] if len(start) > 1 else None
        with torch.no_grad():
            table = None
            if self._vectors is not None:
                table = torch.addmm(bias, self._vectors, w.t(), out=self._table)
            arrays = self._arrays._replace(xs=dense(inputs), h=dense(h), c=None if c is None else dense(c))
            self._arrays = arrays
            _run_forward(self._plan, arrays, table, w, u, bias, save=True)
            results = arrays.outputs, arrays.outputs[-1].clone()
            return results if arrays.cells is None else (*results, arrays.cells[-1].clone())

    def backward(
        self, outputs: Float[Tensor, "T B H"] | None, final: Sequence[Tensor | None], *, by_inputs: bool
    ) -> tuple[Tensor | None, ...]:
        """For the last ``forward``: the gradients by the vectors (without them: the inputs) and by the three weights.

        Args:
            outputs, final: gradients of the loss by ``forward``'s results; None: zero.
            by_inputs: False: the first one is None.
        """
        w, u, bias = self._weights
        tokens = self._vectors is not None
        needs = (
            by_inputs and not tokens, by_inputs and tokens, False, False, w.requires_grad, u.requires_grad,
            bias.requires_grad,
        )  # fmt: skip
        grads = outputs, *final, *([None] * (2 - len(final)))
        with torch.no_grad():
            by_xs, by_vectors, _, _, *by_weights = _gradients(
                self._plan, self._memory, self._arrays, self._vectors, w, grads, needs, self._sums
            )
        return by_vectors if tokens else by_xs, *by_weights


def _forward_piece(
    plan: CallPlan, index: int, arrays: _Arrays, saved: Tensor | None, offset: int, into: Tensor | None = None
) -> None:
    """Run piece ``index``, from the state that the previous piece has written.

    Args:
        saved, offset: where to save activations; None: nowhere.
        into: outputs of a recomputed piece; None: ``arrays.outputs``.
    """
    xs, _, c, packed, outputs, cells, *_ = arrays
    begin, end = plan.pieces[index]
    pointers = arrays.pointers(begin, xs=xs, outputs=outputs, cells=arrays.every_cell)
    if into is not None:
        pointers["outputs"] = address(into)
    call = plan.call(
        "forward",
        end - begin,
        start_hidden=arrays.state_before(begin),
        start_cell=None if cells is None else (address(cells, index - 1) if begin else address(c)),
        packed=address(packed),
        final_cell=None if cells is None or into is not None else address(cells, index),
        saved=address(saved, offset),
        **pointers,
    )
    plan.run("forward", call)


class Tapped:
    """Repeated passes over the same inputs and initial state while the weights change in place.

    ``forward`` computes ``recurrence``, or ``recurrence_of_tokens`` if there are ``vectors``. ``backward`` computes the
    norms of the gradients at every input and state, and no gradients of the weights. All buffers are allocated once, in
    the constructor. Weights that are not contiguous are copied there, so later changes to them have no effect.

    Args:
        inputs: tokens [T B] with ``vectors``, else [T B D].
        start: the initial hidden state, and for lstm the initial cell state, under any names.

    Raises:
        ValueError: sizes or dtypes do not match.
    """

    def __init__(
        self,
        kind: str,
        inputs: Tensor,
        start: Mapping[str, Float[Tensor, "B H"]],
        weight_input: Float[Tensor, "GH D"],
        weight_hidden: Float[Tensor, "GH H"],
        bias: Float[Tensor, " GH"],
        *,
        vectors: Float[Tensor, "V D"] | None = None,
        threads: int = 1,
        checkpoint_every_t: int | None = None,
        memory: Memory | None = None,
    ) -> None:
        self._memory = memory or Memory()
        options = _options(kind, threads, checkpoint_every_t, self._memory)
        states = [value.detach() for value in start.values()]
        _check_arrays(kind, inputs, vectors, states, weight_input, weight_hidden, bias)
        self._names = tuple(start)
        self._weights = [dense(array.detach()) for array in (weight_input, weight_hidden, bias)]
        self._vectors = None if vectors is None else vectors.detach()
        w, u, _ = self._weights
        vocabulary, features = (None, 0) if vectors is None else vectors.shape
        self._table = w.new_empty(vocabulary or 0, len(w))
        h, c = states[0], (states[1] if len(states) > 1 else None)
        self._plan, self._arrays = _prepare(
            options, inputs.detach(), vocabulary, h, c, w, u, save=True, norm_features=features
        )
        self._carries = [torch.empty_like(state, memory_format=torch.contiguous_format) for state in states]
        self.outputs = self._arrays.outputs
        ends = (self.outputs, self._arrays.cells)
        self.final = {name: end[-1] for name, end in zip(self._names, ends, strict=False) if end is not None}

    def forward(self) -> None:
        """Fill ``outputs`` [T B H] and ``final``, the final states [B H]."""
        w, u, bias = self._weights
        table = None
        if self._vectors is not None:
            table = torch.addmm(bias, self._vectors, w.t(), out=self._table)
        _run_forward(self._plan, self._arrays, table, w, u, bias, save=True)

    def backward(
        self,
        outputs: Float[Tensor, "T B H"] | None,
        final: Mapping[str, Float[Tensor, "B H"] | None],
        *,
        to_inputs: Float[Tensor, "T B D"] | None = None,
    ) -> tuple[Float[Tensor, "T B"], dict[str, Float[Tensor, "T B"]]]:
        """L2 norms per timestep and sequence, for the last ``forward``: of dL/dx_t, and state name -> of dL/d state_t.

        dL/d state_t is the total derivative by the state after timestep t. Norms stay accurate where squares would
        underflow or overflow.

        Args:
            outputs, final: gradients of the loss by ``self.outputs`` and ``self.final``; None or missing: zero.
            to_inputs: contiguous, filled with dL/dx_t; must be None with tokens.

        Raises:
            ValueError: a gradient differs in size or dtype from the array it is the gradient of, or is not on the CPU.
        """
        states = ((name, final.get(name), carry) for name, carry in zip(self._names, self._carries, strict=True))
        for name, array, like in (
            ("outputs", outputs, self.outputs), ("to_inputs", to_inputs, self._arrays.xs), *states
        ):  # fmt: skip
            if array is not None and (array.shape, array.dtype) != (like.shape, like.dtype):
                actual, expected = (
                    f"{array.dtype} of the shape {tuple(array.shape)}",
                    f"{like.dtype} of {tuple(like.shape)}",
                )
                raise ValueError(f"{name} is {actual}: must be {expected}, as what it is the gradient of")
            if array is not None and not array.is_cpu:
                raise ValueError(f"{name} is on {array.device}: native kernels compute on the CPU")
        if to_inputs is not None and not (
            to_inputs.is_contiguous() and not to_inputs.is_neg() and self._vectors is None
        ):
            raise ValueError("to_inputs must be contiguous, and is for inputs of real numbers alone")
        for name, carry in zip(self._names, self._carries, strict=True):
            gradient = final.get(name)
            carry.zero_() if gradient is None else carry.copy_(gradient)
        norms = self._carries[0].new_empty(1 + len(self._names), *self._plan.sizes[:2])
        norm_input, norm_hidden, *norm_cell = norms.unbind(0)
        carry_h, *carry_c = self._carries
        _run_backward(
            self._plan,
            self._memory,
            self._arrays,
            None if outputs is None else dense(outputs),
            carry_h,
            carry_c[0] if carry_c else None,
            grad_xs=to_inputs,
            norms=(norm_input, norm_hidden, norm_cell[0] if norm_cell else None),
        )
        return norm_input, dict(zip(self._names, [norm_hidden, *norm_cell], strict=True))


def linear_recurrence(
    a: Float[Tensor, "T *N"], b: Float[Tensor, "T *N"], start: Float[Tensor, " *N"]
) -> Float[Tensor, "T *N"]:
    """``h_t = a_t * h_{t-1} + b_t``, elementwise, for every t.

    This is the recurrence of gated cells without a matrix product in it (minGRU and minLSTM: Feng et al. 2024, arXiv
    2410.01201; LRU: Orvieto et al. 2023, arXiv 2303.06349). Differentiable once. Native kernels compute it if
    ``supports`` the tensors, else torch, one timestep at a time.

    Raises:
        ValueError: shapes do not match.
        RuntimeError: in the native backward pass, if second derivatives are requested.
    """
    if a.shape != b.shape or a.shape[1:] != start.shape or len(a) < 1:
        shapes = [tuple(array.shape) for array in (a, b, start)]
        raise ValueError(f"a, b and start have the shapes {shapes}: must be [T ...], the same, and [...]")
    if supports(a, b, start):
        return _Linear.apply(a, b, start)
    h, hs = start, []
    for a_t, b_t in zip(a.unbind(0), b.unbind(0), strict=True):
        h = a_t * h + b_t
        hs.append(h)
    return torch.stack(hs)


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, a: Tensor, b: Tensor, start: Tensor) -> Tensor:
        a, b, start = dense(a), dense(b), dense(start)
        outputs = torch.empty_like(a)
        for begin, end in _linear_pieces(a):
            previous = outputs[begin - 1] if begin else start
            _linear_call("linear", a, end - begin, a[begin:], b[begin:], previous, outputs[begin:])
        ctx.save_for_backward(a, start, outputs)
        return outputs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("the native kernels have no second derivatives")
        a, start, outputs = ctx.saved_tensors
        grad = dense(grads[0])
        grad_a, grad_b, carry = torch.empty_like(a), torch.empty_like(a), torch.zeros_like(start)
        for begin, end in reversed(_linear_pieces(a)):
            previous = outputs[begin - 1] if begin else start
            arrays = (a[begin:], previous, outputs[begin:], grad[begin:], grad_a[begin:], grad_b[begin:], carry)
            _linear_call("linear_back", a, end - begin, *arrays)
        return grad_a, grad_b, carry


def _linear_pieces(a: Tensor) -> list[tuple[int, int]]:
    # A hundredth of the operations of a product, as memory bandwidth is the bottleneck.
    cut = max(1, int(OPERATIONS_PER_CALL / 100 / max(1, a[0].numel())))
    return [(begin, min(begin + cut, len(a))) for begin in range(0, len(a), cut)]


def _linear_call(name: str, like: Tensor, steps: int, *arrays: Tensor) -> None:
    library = load()
    assert isinstance(library, Library)  # see supports()
    numbers = ctypes.c_int64(steps), ctypes.c_int64(like[0].numel())
    pointers = [ctypes.c_void_p(address(array)) for array in arrays]
    library.function(f"seqmem_{name}", SUFFIX[like.dtype])(*numbers, *pointers)
