"""Recurrent layers and linear recurrences over whole sequences, differentiable, computed by the native kernels.

Axes: T time, B batch, D input features, H units, G gates stacked on top of each other in the weights. Everything here
is for CPU tensors in float32 or float64; the bits do not depend on the number of threads, nor on how a sequence is cut.
"""

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .loading import Library, load
from .memory import Memory

KINDS = ("rnn tanh", "rnn relu", "lstm", "gru torch", "gru cho")
"""What ``recurrence`` computes, in the order of the kernels' own numbering."""

_SUFFIX = {torch.float32: "f32", torch.float64: "f64"}
_NO_SUCH_TOKEN = 2  # as recurrence.cpp numbers its failures
_OPERATIONS_PER_CALL = 4e9
"""Multiplications and additions between two looks for Ctrl-C: about a tenth of a second."""
_OPERATIONS_PER_THREAD = 2e7
"""Below this, starting a second thread costs more than it saves."""


class _Call(ctypes.Structure):
    """``SeqmemCall`` in recurrence.cpp, field by field."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("cell", "T", "B", "D", "H", "threads", "lookup")),
        *(
            (name, ctypes.c_void_p)
            for name in (
                "xs", "start_hidden", "start_cell", "packed", "outputs", "final_cell", "saved", "grad_outputs",
                "grad_hidden", "grad_cell", "grad_xs", "grad_sums", "tap_hidden", "tap_cell",
            )
        ),
    ]  # fmt: skip


def supports(*tensors: Tensor | None) -> bool:
    """Whether the native kernels are here and take these: real tensors on the CPU, all float32 or all float64.

    Where autocast would have them in half precision, they do not.
    """
    given = [tensor for tensor in tensors if tensor is not None]
    return (
        not torch.is_autocast_enabled("cpu")
        and all(type(tensor) in (Tensor, torch.nn.Parameter) and tensor.device.type == "cpu" for tensor in given)
        and {tensor.dtype for tensor in given} in ({torch.float32}, {torch.float64})
        and isinstance(load(), Library)
    )


def recurrence(
    kind: str,
    xs: Float[Tensor, "T B D"],
    start: Sequence[Float[Tensor, "B H"]],
    weight_input: Float[Tensor, "GH D"],
    weight_hidden: Float[Tensor, "GH H"],
    bias: Float[Tensor, " GH"],
    *,
    taps: Sequence[Float[Tensor, "T B H"] | None] = (),
    threads: int = 1,
    checkpoint_every_t: int | None = None,
    memory: Memory | None = None,
) -> tuple[Tensor, ...]:
    """(outputs [T B H], final hidden state [B H]), and for lstm the final cell state [B H].

    Args:
        kind: one of ``KINDS``.
        start: the initial hidden state, and for lstm the initial cell state.
        weight_input, weight_hidden, bias: rows in torch's order (lstm i f g o, gru r z n).
        taps: for each state a tensor whose values do not matter: its gradient becomes dL/d state_t, the total
            derivative of the loss by the state after timestep t, as if the tap (a zero) had been added to it there.
        checkpoint_every_t: keep states only every so many timesteps and compute what lies between once more in the
            backward pass (Chen et al. 2016, arXiv 1604.06174): less memory, the same bits.
        memory: where to keep what the backward pass needs, and to find it again at the next call.

    Raises:
        ValueError: sizes that do not belong together.
        RuntimeError: a second derivative is asked for.
    """
    _check_inputs(xs, "T B D")
    features = weight_input.shape[-1]
    others = {"xs": (xs, features), "weight_input": (weight_input, features), "bias": (bias, 0)}
    _check(kind, start, weight_hidden, xs.shape[1], **others)
    h, c = (*start, None)[:2]
    tap_hidden, tap_cell = (*taps, None, None)[:2]
    how = (KINDS.index(kind), threads, checkpoint_every_t, memory or Memory())
    found = _Recurrence.apply(how, xs, h, c, weight_input, weight_hidden, bias, tap_hidden, tap_cell)
    return found if c is not None else found[:2]


def recurrence_of_tokens(
    kind: str,
    tokens: Int[Tensor, "T B"],
    start: Sequence[Float[Tensor, "B H"]],
    table: Float[Tensor, "V GH"],
    weight_hidden: Float[Tensor, "GH H"],
    *,
    threads: int = 1,
    checkpoint_every_t: int | None = None,
    memory: Memory | None = None,
) -> tuple[Tensor, ...]:
    """``recurrence`` over inputs that are one of V vectors each: row v of ``table`` is what weights and bias make of
    vector v. What would be a product at every timestep is looked up.

    Raises:
        ValueError: sizes that do not belong together.
        IndexError: a token is not from 0 up to V.
    """
    _check_inputs(tokens, "T B")
    _check(kind, start, weight_hidden, tokens.shape[1], table=(table, 0))
    if tokens.dtype != torch.int64:
        raise ValueError(f"tokens are {tokens.dtype}: must be torch.int64")
    h, c = (*start, None)[:2]
    how = (KINDS.index(kind), threads, checkpoint_every_t, memory or Memory())
    found = _Recurrence.apply(how, tokens, h, c, table, weight_hidden, None, None, None)
    return found if c is not None else found[:2]


def _check(kind: str, start: Sequence[Tensor], weight_hidden: Tensor, batch: int, **others: tuple[Tensor, int]) -> None:
    """The kernels follow pointers: a wrong size would be no error there, but another array's numbers.

    ``others``: name -> (array, numbers of its last axis); weights among them have a row for each gate's units.
    """
    hidden = weight_hidden.shape[-1]
    rows = {"lstm": 4, "gru torch": 3, "gru cho": 3}.get(kind, 1) * hidden
    states = 2 if kind == "lstm" else 1
    if len(start) != states:
        raise ValueError(f"start has {len(start)} states: {kind} has {states}")
    wanted = [("weight_hidden", weight_hidden, (rows, hidden)), *(("start", state, (batch, hidden)) for state in start)]
    for name, (array, last) in others.items():
        first = {"xs": array.shape[:-1], "bias": (), "table": array.shape[:1]}.get(name, (rows,))
        wanted.append((name, array, (*first, rows if name in ("bias", "table") else last)))
    for name, array, shape in wanted:
        if array.shape != shape:
            raise ValueError(f"{name} has the shape {tuple(array.shape)}: must be {tuple(shape)} here")
        if array.dtype != weight_hidden.dtype or array.dtype not in _SUFFIX:
            raise ValueError(f"{name} is {array.dtype}, weight_hidden {weight_hidden.dtype}: must be one real type")


def _check_inputs(inputs: Tensor, axes: str) -> None:
    if inputs.ndim != len(axes.split()) or len(inputs) < 1:
        raise ValueError(f"inputs have the shape {tuple(inputs.shape)}: must be [{axes}], at least one timestep")


@dataclass
class _Job:
    """A call of the kernels, cut into pieces of ``cut`` timesteps each."""

    kind: int
    sizes: tuple[int, int, int, int]  # T B D H
    threads: int
    lookup: bool
    cut: int
    dtype: torch.dtype
    loaded: Library

    def call(self, steps: int, **arrays: Tensor | int | None) -> _Call:
        _, *rest = self.sizes
        pointers = {name: _pointer(array) for name, array in arrays.items()}
        return _Call(self.kind, steps, *rest, self.threads, self.lookup, **pointers)

    def function(self, name: str) -> Any:
        return self.loaded.function(f"seqmem_{name}", _SUFFIX[self.dtype])

    def numbers(self, steps: int) -> tuple[int, int, int]:
        """How many numbers (packed weights, what is saved for the backward pass, sums of gradients) take."""
        _, *rest = self.sizes
        return _numbers(self.loaded, _SUFFIX[self.dtype], self.kind, self.lookup, steps, *rest)

    def pieces(self) -> list[tuple[int, int]]:
        steps = self.sizes[0]
        return [(begin, min(begin + self.cut, steps)) for begin in range(0, steps, self.cut)]

    def run(self, name: str, call: _Call) -> None:
        failure = self.function(name)(ctypes.byref(call))
        if failure == _NO_SUCH_TOKEN:
            raise IndexError(f"a token is not from 0 up to {self.sizes[2]}, the size of its vocabulary")
        if failure:
            raise MemoryError(f"the native kernels found no memory for {self.sizes} (T, B, D, H)")


@lru_cache(maxsize=1024)
def _numbers(library: Library, suffix: str, kind: int, lookup: bool, *sizes: int) -> tuple[int, int, int]:
    counts = ctypes.c_int64(), ctypes.c_int64(), ctypes.c_int64()
    call = _Call(kind, *sizes, 1, lookup)
    library.function("seqmem_sizes", suffix)(ctypes.byref(call), *(ctypes.byref(count) for count in counts))
    packed, saved, sums = (count.value for count in counts)
    return packed, saved, sums


def _pointer(array: Tensor | int | None) -> int | None:
    return array.data_ptr() if isinstance(array, Tensor) else array


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        how: tuple[int, int, int | None, Memory],
        xs: Tensor,
        h: Tensor,
        c: Tensor | None,
        w: Tensor,
        u: Tensor,
        bias: Tensor | None,
        *_: Tensor | None,  # taps have gradients alone
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """``xs`` may be tokens [T B], ``w`` their table [V G*H] and ``bias`` None."""
        kind, threads, every, memory = how
        xs, h, c = xs.contiguous(), h.contiguous(), c.contiguous() if c is not None else None
        lookup = bias is None
        steps, batch = xs.shape[:2]
        features, hidden = len(w) if lookup else w.shape[1], u.shape[1]
        operations = 2.0 * batch * u.shape[0] * (hidden + (0 if lookup else features))  # of a timestep, one way
        cut = max(16, int(_OPERATIONS_PER_CALL / max(1.0, operations)))
        library = load()
        assert isinstance(library, Library)  # supports() said so
        job = _Job(
            kind,
            (steps, batch, features, hidden),
            threads if operations * min(cut, steps) > 2 * _OPERATIONS_PER_THREAD else 1,
            lookup,
            min(cut, every or cut, steps),
            u.dtype,
            library,
        )
        training = any(ctx.needs_input_grad)
        packed = memory.take(job.numbers(steps)[0], u.dtype)
        whole = [w.contiguous(), u.contiguous(), bias if bias is None else bias.contiguous()]
        arrays = [ctypes.c_void_p(_pointer(array)) for array in (*whole, packed)]
        job.function("pack")(ctypes.byref(job.call(steps)), *arrays, ctypes.c_int64(training))
        outputs = h.new_empty(steps, batch, hidden)
        pieces = job.pieces()
        cells = c.new_empty(len(pieces), batch, hidden) if c is not None else None  # after each piece
        saved = None
        if training and every is None:
            saved = memory.take(sum(job.numbers(end - begin)[1] for begin, end in pieces), job.dtype)
        ctx.memory, ctx.job, ctx.rows = memory, job, u.shape[0]
        at = 0
        for i, (begin, end) in enumerate(pieces):
            _forward(job, begin, end, i, xs, h, c, packed, outputs, cells, saved[at:] if saved is not None else None)
            at += job.numbers(end - begin)[1] if saved is not None else 0
        ctx.set_materialize_grads(False)
        if training:
            ctx.save_for_backward(xs, h, c, packed, outputs, cells, saved)
        # Copies, so that nothing ties the small final state to the long outputs.
        return outputs, outputs[-1].clone(), cells[-1].clone() if cells is not None else None

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("the native kernels have no second derivatives: kernel=step has them")
        job: _Job = ctx.job
        steps, _, features, hidden = job.sizes
        xs, h, c, packed, outputs, cells, saved = ctx.saved_tensors
        _, need_xs, need_h, need_c, *need_weights, need_tap_hidden, need_tap_cell = ctx.needs_input_grad
        grad_outputs, grad_h, grad_c = grads
        if grad_outputs is not None:
            grad_outputs = grad_outputs.contiguous()
        carry_h = grad_h.clone(memory_format=torch.contiguous_format) if grad_h is not None else torch.zeros_like(h)
        carry_c = None
        if c is not None:
            carry_c = grad_c.clone(memory_format=torch.contiguous_format) if grad_c is not None else torch.zeros_like(c)
        grad_xs = torch.empty_like(xs) if need_xs else None
        sums = ctx.memory.take(job.numbers(steps)[2], job.dtype).zero_() if any(need_weights) else None
        tap_hidden = torch.empty_like(outputs) if need_tap_hidden else None
        tap_cell = torch.empty_like(outputs) if need_tap_cell else None

        pieces = job.pieces()
        ends, at = [], 0
        for begin, end in pieces:
            ends.append(at)
            at += job.numbers(end - begin)[1]
        again = scratch = None
        if saved is None:
            again = ctx.memory.take(max(job.numbers(end - begin)[1] for begin, end in pieces), job.dtype)
            scratch = torch.empty_like(outputs[: job.cut])  # of the outputs, which are known, for nobody
        for i, (begin, end) in reversed(list(enumerate(pieces))):
            if saved is None:
                _forward(job, begin, end, i, xs, h, c, packed, outputs, cells, again, into=scratch)
            kept = again if saved is None else saved[ends[i] :]
            call = job.call(
                end - begin,
                xs=xs[begin:],
                start_hidden=outputs[begin - 1] if begin else h,
                packed=packed,
                outputs=outputs[begin:],
                saved=kept,
                grad_outputs=None if grad_outputs is None else grad_outputs[begin:],
                grad_hidden=carry_h,
                grad_cell=carry_c,
                grad_xs=None if grad_xs is None else grad_xs[begin:],
                grad_sums=sums,
                tap_hidden=None if tap_hidden is None else tap_hidden[begin:],
                tap_cell=None if tap_cell is None else tap_cell[begin:],
            )
            job.run("backward", call)
        weights: tuple[Tensor | None, ...] = (None, None, None)
        if sums is not None:
            rows: int = ctx.rows
            of_input = h.new_empty((features, rows) if job.lookup else (rows, features))
            weights = (of_input, h.new_empty(rows, hidden), None if job.lookup else h.new_empty(rows))
            job.function("reduce")(
                ctypes.byref(job.call(steps, grad_sums=sums)), *(ctypes.c_void_p(_pointer(found)) for found in weights)
            )
        return (
            None, grad_xs, carry_h if need_h else None, carry_c if need_c else None, *weights, tap_hidden, tap_cell,
        )  # fmt: skip


def _forward(
    job: _Job,
    begin: int,
    end: int,
    index: int,
    xs: Tensor,
    h: Tensor,
    c: Tensor | None,
    packed: Tensor,
    outputs: Tensor,
    cells: Tensor | None,
    saved: Tensor | None,
    into: Tensor | None = None,
) -> None:
    """Timesteps ``begin`` to ``end``; ``index`` of the piece says where its start and its end are kept."""
    call = job.call(
        end - begin,
        xs=xs[begin:],
        start_hidden=outputs[begin - 1] if begin else h,
        start_cell=None if cells is None else (cells[index - 1] if begin else c),
        packed=packed,
        outputs=outputs[begin:] if into is None else into,
        final_cell=None if cells is None or into is not None else cells[index],
        saved=saved,
    )
    job.run("forward", call)


def linear_recurrence(
    a: Float[Tensor, "T *N"], b: Float[Tensor, "T *N"], start: Float[Tensor, " *N"]
) -> Float[Tensor, "T *N"]:
    """``h_t = a_t * h_{t-1} + b_t``, elementwise, for every t: what gated cells without a product in their recurrence
    come down to (minGRU and minLSTM: Feng et al. 2024, arXiv 2410.01201; LRU: Orvieto et al. 2023, arXiv 2303.06349).

    Differentiable; by native kernels where ``supports`` says so, else by torch, a timestep at a time.
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
        a, b, start = a.contiguous(), b.contiguous(), start.contiguous()
        outputs = torch.empty_like(a)
        for begin, end in _linear_pieces(a):
            before = outputs[begin - 1] if begin else start
            _linear_call("linear", a, end - begin, a[begin:], b[begin:], before, outputs[begin:])
        ctx.save_for_backward(a, start, outputs)
        return outputs

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("the native kernels have no second derivatives")
        a, start, outputs = ctx.saved_tensors
        grad = grads[0].contiguous()
        grad_a, grad_b, carry = torch.empty_like(a), torch.empty_like(a), torch.zeros_like(start)
        for begin, end in reversed(_linear_pieces(a)):
            before = outputs[begin - 1] if begin else start
            arrays = (a[begin:], before, outputs[begin:], grad[begin:], grad_a[begin:], grad_b[begin:], carry)
            _linear_call("linear_back", a, end - begin, *arrays)
        return grad_a, grad_b, carry


def _linear_pieces(a: Tensor) -> list[tuple[int, int]]:
    cut = max(1, int(_OPERATIONS_PER_CALL / 100 / max(1, a[0].numel())))  # bound by memory, not by arithmetic
    return [(begin, min(begin + cut, len(a))) for begin in range(0, len(a), cut)]


def _linear_call(name: str, like: Tensor, steps: int, *arrays: Tensor) -> None:
    library = load()
    assert isinstance(library, Library)  # supports() said so
    numbers = ctypes.c_int64(steps), ctypes.c_int64(like[0].numel())
    pointers = [ctypes.c_void_p(array.data_ptr()) for array in arrays]
    library.function(f"seqmem_{name}", _SUFFIX[like.dtype])(*numbers, *pointers)
