"""Recurrent layers and linear recurrences over whole sequences, differentiable, computed by the native kernels.

Axes: T time, B batch, D input features, H units, G gates stacked on top of each other in the weights. Everything here
is for CPU tensors in float32 or float64; the bits do not depend on the number of threads, nor on how a sequence is cut.
"""

import ctypes
import math
from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import accumulate
from typing import Any, NamedTuple

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
_OPERATIONS_PER_THREAD = 6e7
"""Below this, half a millisecond of work, starting a second thread costs more than it saves."""


class _Call(ctypes.Structure):
    """``SeqmemCall`` in recurrence.cpp, field by field."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in ("cell", "T", "B", "D", "H", "threads", "lookup", "features")),
        *(
            (name, ctypes.c_void_p)
            for name in (
                "xs", "start_hidden", "start_cell", "packed", "outputs", "final_cell", "saved", "grad_outputs",
                "grad_hidden", "grad_cell", "grad_xs", "grad_sums", "norm_input", "norm_hidden", "norm_cell",
            )
        ),
    ]  # fmt: skip


def supports(*tensors: Tensor | None) -> bool:
    """Whether the native kernels are here and take these: real tensors on the CPU, all float32 or all float64.

    Where autocast would have them in half precision, they do not.
    """
    dtype = None
    for tensor in tensors:
        if tensor is None:
            continue
        if type(tensor) not in (Tensor, torch.nn.Parameter) or not tensor.is_cpu or dtype not in (None, tensor.dtype):
            return False
        dtype = tensor.dtype
    return dtype in _SUFFIX and not torch.is_autocast_enabled("cpu") and isinstance(load(), Library)


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
        checkpoint_every_t: keep states only every so many timesteps and compute what lies between once more in the
            backward pass (Chen et al. 2016, arXiv 1604.06174): less memory, the same bits.
        memory: where to keep what the backward pass needs, and to find it again at the next call.

    Raises:
        ValueError: sizes that do not belong together.
        RuntimeError: a second derivative is asked for.
    """
    _check_inputs(xs, "T B D")
    _check(
        kind,
        len(start),
        ("xs", xs.shape, xs.dtype),
        ("weight_hidden", weight_hidden.shape, weight_hidden.dtype),
        ("weight_input", weight_input.shape, weight_input.dtype),
        ("bias", bias.shape, bias.dtype),
        *(("start", state.shape, state.dtype) for state in start),
    )
    h, c = (*start, None)[:2]
    how = (KINDS.index(kind), threads, checkpoint_every_t, memory or Memory())
    found = _Recurrence.apply(how, xs, None, h, c, weight_input, weight_hidden, bias)
    return found if c is not None else found[:2]


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
    """``recurrence`` over inputs that are one of V vectors each. What weights and bias make of every vector is computed
    once, and what would be a product at every timestep is looked up.

    Raises:
        ValueError: sizes that do not belong together.
        IndexError: a token is not from 0 up to V.
    """
    _check_inputs(tokens, "T B")
    _check(
        kind,
        len(start),
        ("tokens", tokens.shape, tokens.dtype),
        ("weight_hidden", weight_hidden.shape, weight_hidden.dtype),
        ("weight_input", weight_input.shape, weight_input.dtype),
        ("bias", bias.shape, bias.dtype),
        ("vectors", vectors.shape, vectors.dtype),
        *(("start", state.shape, state.dtype) for state in start),
    )
    h, c = (*start, None)[:2]
    how = (KINDS.index(kind), threads, checkpoint_every_t, memory or Memory())
    found = _Recurrence.apply(how, tokens, vectors, h, c, weight_input, weight_hidden, bias)
    return found if c is not None else found[:2]


_Array = tuple[str, torch.Size, torch.dtype]


@lru_cache(maxsize=1024)  # the same sizes come at every step
def _check(
    kind: str, starts: int, inputs: _Array, weight_hidden: _Array, weight_input: _Array, *others: _Array
) -> None:
    """The kernels follow pointers: a wrong size would be no error there, but another array's numbers."""
    hidden, features = weight_hidden[1][-1], weight_input[1][-1]
    rows = {"lstm": 4, "gru torch": 3, "gru cho": 3}.get(kind, 1) * hidden
    states = 2 if kind == "lstm" else 1
    if starts != states:
        raise ValueError(f"start has {starts} states: {kind} has {states}")
    steps, batch = inputs[1][:2]
    wanted = {
        "xs": (steps, batch, features), "tokens": (steps, batch), "weight_hidden": (rows, hidden),
        "weight_input": (rows, features), "bias": (rows,), "start": (batch, hidden),
    }  # fmt: skip
    for name, found, dtype in (weight_hidden, *others, inputs, weight_input):
        shape = (found[0], features) if name == "vectors" else wanted[name]
        if found != shape:
            raise ValueError(f"{name} has the shape {tuple(found)}: must be {tuple(shape)} here")
        if name == "tokens":
            if dtype != torch.int64:
                raise ValueError(f"tokens are {dtype}: must be torch.int64")
        elif dtype != weight_hidden[2] or dtype not in _SUFFIX:
            raise ValueError(f"{name} is {dtype}, weight_hidden {weight_hidden[2]}: must be one real type")


def _check_inputs(inputs: Tensor, axes: str) -> None:
    if inputs.ndim != len(axes.split()) or len(inputs) < 1:
        raise ValueError(f"inputs have the shape {tuple(inputs.shape)}: must be [{axes}], at least one timestep")


class _Job:
    """Calls of the kernels for one shape, cut into pieces of timesteps. It holds no arrays, and serves every step."""

    def __init__(
        self,
        library: Library,
        kind: int,
        sizes: tuple[int, int, int, int],  # T B D H
        gates: int,
        threads: int,
        every: int | None,
        dtype: torch.dtype,
        limits: tuple[float, float],  # _OPERATIONS_PER_CALL, _OPERATIONS_PER_THREAD
        *,
        lookup: bool,
        norm_features: int,  # of tokens: the features of one, where the norms of their gradients are wanted; else 0
    ) -> None:
        steps, batch, features, hidden = sizes
        self.norm_features = norm_features
        operations = 2.0 * batch * gates * (hidden + (0 if lookup else features))  # of a timestep, one way
        self.cut = min(max(16, int(limits[0] / max(1.0, operations))), every or steps, steps)
        self.kind, self.sizes, self.gates, self.dtype, self.lookup = kind, sizes, gates, dtype, lookup
        self.pieces = [(begin, min(begin + self.cut, steps)) for begin in range(0, steps, self.cut)]
        self.functions = {
            name: library.function(f"seqmem_{name}", _SUFFIX[dtype])
            for name in ("pack", "forward", "backward", "reduce")
        }
        most = operations * self.cut / (2 * limits[1]) if limits[1] else math.inf
        self.threads = {"forward": threads if most > 1 else 1, "backward": threads if 2 * most > 1 else 1}
        count = library.function("seqmem_sizes", _SUFFIX[dtype])
        numbers = []
        for length in (steps, *(end - begin for begin, end in self.pieces)):
            found = ctypes.c_int64(), ctypes.c_int64(), ctypes.c_int64()
            count(ctypes.byref(self.call("forward", length)), *map(ctypes.byref, found))
            numbers.append([number.value for number in found])
        # How many numbers the packed weights take, what is saved for the backward pass, and the sums of gradients.
        (self.packed, _, self.sums), *each = numbers
        saved = [number for _, number, _ in each]
        self.saved, self.most_saved = sum(saved), max(saved)
        self.saved_from = list(accumulate(saved, initial=0))

    def call(self, name: str, steps: int, **pointers: int | None) -> _Call:
        _, batch, features, hidden = self.sizes
        numbers = self.kind, steps, batch, features, hidden, self.threads[name], self.lookup, self.norm_features
        return _Call(*numbers, **pointers)

    def run(self, name: str, call: _Call) -> None:
        failure = self.functions[name](ctypes.byref(call))
        if failure == _NO_SUCH_TOKEN:
            raise IndexError(f"a token is not from 0 up to {self.sizes[2]}, the size of its vocabulary")
        if failure:
            raise MemoryError(f"the native kernels found no memory for {self.sizes} (T, B, D, H)")


_job = lru_cache(maxsize=256)(_Job)


def _from(array: Tensor | None, index: int = 0) -> int | None:
    """Where ``array[index]`` lies. Whoever asks keeps the array."""
    if array is None:
        return None
    return array.data_ptr() + (index * array.stride(0) * array.element_size() if index else 0)


_How = tuple[int, int, int | None, Memory]
"""Kind, threads, checkpoint_every_t, memory."""


class _Arrays(NamedTuple):
    """Of one pass, as SeqmemCall has them."""

    xs: Tensor
    h: Tensor
    c: Tensor | None
    packed: Tensor
    outputs: Tensor
    cells: Tensor | None  # after each piece
    saved: Tensor | None


def _prepared(
    how: _How,
    xs: Tensor,
    vocabulary: int | None,
    h: Tensor,
    c: Tensor | None,
    w: Tensor,
    u: Tensor,
    *,
    keep: bool,
    norm_features: int = 0,
) -> tuple[_Job, _Arrays]:
    """``vocabulary``: None where ``xs`` are no tokens. ``keep``: what a backward pass needs."""
    kind, threads, every, memory = how
    (steps, batch), (gates, hidden) = xs.shape[:2], u.shape
    sizes = (steps, batch, w.shape[1] if vocabulary is None else vocabulary, hidden)
    library = load()
    assert isinstance(library, Library)  # supports() said so
    limits, lookup = (_OPERATIONS_PER_CALL, _OPERATIONS_PER_THREAD), vocabulary is not None
    job = _job(library, kind, sizes, gates, threads, every, u.dtype, limits, lookup=lookup, norm_features=norm_features)
    return job, _Arrays(
        xs.contiguous(),
        h.contiguous(),
        c.contiguous() if c is not None else None,
        memory.take(job.packed, job.dtype),
        h.new_empty(steps, batch, hidden),
        c.new_empty(len(job.pieces), batch, hidden) if c is not None else None,
        memory.take(job.saved, job.dtype) if keep and every is None else None,
    )


def _run_forward(
    job: _Job, arrays: _Arrays, table: Tensor | None, w: Tensor, u: Tensor, bias: Tensor, *, keep: bool
) -> None:
    w, u = w.contiguous(), u.contiguous()
    weights = (w, u, bias.contiguous()) if table is None else (table, u, None)
    pointers = [ctypes.c_void_p(_from(array)) for array in (*weights, w, arrays.packed)]
    job.functions["pack"](ctypes.byref(job.call("forward", job.sizes[0])), *pointers, ctypes.c_int64(keep))
    for i in range(len(job.pieces)):
        _forward(job, i, arrays, arrays.saved, job.saved_from[i])


def _run_backward(
    job: _Job,
    memory: Memory,
    arrays: _Arrays,
    grad_outputs: Tensor | None,
    carry_h: Tensor,
    carry_c: Tensor | None,
    *,
    grad_xs: Tensor | None,
    sums: Tensor | None = None,
    norms: tuple[Tensor | None, Tensor | None, Tensor | None] = (None, None, None),
) -> None:
    """``carry_h``, ``carry_c``: in, the gradient by the last states; out, by the first ones."""
    xs, h, _, packed, outputs, _, saved = arrays
    norm_input, norm_hidden, norm_cell = norms
    again = scratch = None
    if saved is None:
        again = memory.take(job.most_saved, job.dtype)
        scratch = torch.empty_like(outputs[: job.cut])  # of the outputs, which are known, for nobody
    for i in reversed(range(len(job.pieces))):
        begin, end = job.pieces[i]
        if saved is None:
            _forward(job, i, arrays, again, 0, into=scratch)
        call = job.call(
            "backward",
            end - begin,
            xs=_from(xs, begin),
            start_hidden=_from(outputs, begin - 1) if begin else _from(h),
            packed=_from(packed),
            outputs=_from(outputs, begin),
            saved=_from(again) if saved is None else _from(saved, job.saved_from[i]),
            grad_outputs=_from(grad_outputs, begin),
            grad_hidden=_from(carry_h),
            grad_cell=_from(carry_c),
            grad_xs=_from(grad_xs, begin),
            grad_sums=_from(sums),
            norm_input=_from(norm_input, begin),
            norm_hidden=_from(norm_hidden, begin),
            norm_cell=_from(norm_cell, begin),
        )
        job.run("backward", call)


class _Recurrence(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        how: _How,
        xs: Tensor,
        vectors: Tensor | None,
        h: Tensor,
        c: Tensor | None,
        w: Tensor,
        u: Tensor,
        bias: Tensor,
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """With ``vectors``, ``xs`` are tokens [T B]."""
        training = any(ctx.needs_input_grad)
        table, vocabulary = None, None
        if vectors is not None:
            table, vocabulary = torch.addmm(bias, vectors, w.t()), vectors.shape[0]
        job, arrays = _prepared(how, xs, vocabulary, h, c, w, u, keep=training)
        _run_forward(job, arrays, table, w, u, bias, keep=training)
        ctx.memory, ctx.job = how[-1], job
        ctx.set_materialize_grads(False)
        if training:
            ctx.save_for_backward(*arrays, vectors, w if table is not None else None)
        outputs, cells = arrays.outputs, arrays.cells
        # Copies, so that nothing ties the small final state to the long outputs.
        return outputs, outputs[-1].clone(), cells[-1].clone() if cells is not None else None

    @staticmethod
    def backward(ctx: Any, *grads: Tensor | None) -> tuple[Tensor | None, ...]:
        if torch.is_grad_enabled():
            raise RuntimeError("the native kernels have no second derivatives: kernel=step has them")
        job: _Job = ctx.job
        steps, _, features, hidden = job.sizes
        *saved, vectors, w = ctx.saved_tensors
        arrays = _Arrays(*saved)
        h, c = arrays.h, arrays.c
        _, need_xs, need_vectors, need_h, need_c, need_w, need_u, need_bias = ctx.needs_input_grad
        grad_outputs, grad_h, grad_c = grads
        if grad_outputs is not None:
            grad_outputs = grad_outputs.contiguous()
        carry_h = grad_h.clone(memory_format=torch.contiguous_format) if grad_h is not None else torch.zeros_like(h)
        carry_c = None
        if c is not None:
            carry_c = grad_c.clone(memory_format=torch.contiguous_format) if grad_c is not None else torch.zeros_like(c)
        grad_xs = torch.empty_like(arrays.xs) if need_xs else None
        summing = need_vectors or need_w or need_u or need_bias
        sums = ctx.memory.take(job.sums, job.dtype).zero_() if summing else None
        _run_backward(job, ctx.memory, arrays, grad_outputs, carry_h, carry_c, grad_xs=grad_xs, sums=sums)
        of_vectors = of_w = of_u = of_bias = None
        if sums is not None:
            gates = job.gates
            of_w = h.new_empty((features, gates) if job.lookup else (gates, features))
            of_u = h.new_empty(gates, hidden)
            of_bias = None if job.lookup else h.new_empty(gates)
            pointers = (ctypes.c_void_p(_from(found)) for found in (of_w, of_u, of_bias))
            job.functions["reduce"](ctypes.byref(job.call("backward", steps, grad_sums=_from(sums))), *pointers)
            if vectors is not None:
                of_table, of_w = of_w, None
                of_vectors = of_table @ w if need_vectors else None
                of_w = of_table.t() @ vectors if need_w else None
                of_bias = of_table.sum(0) if need_bias else None
        return (
            None, grad_xs, of_vectors, carry_h if need_h else None, carry_c if need_c else None, of_w, of_u, of_bias,
        )  # fmt: skip


def _forward(
    job: _Job, index: int, arrays: _Arrays, saved: Tensor | None, saved_from: int, into: Tensor | None = None
) -> None:
    """The timesteps of piece ``index``, which also says where its start and its end are kept."""
    xs, h, c, packed, outputs, cells, _ = arrays
    begin, end = job.pieces[index]
    call = job.call(
        "forward",
        end - begin,
        xs=_from(xs, begin),
        start_hidden=_from(outputs, begin - 1) if begin else _from(h),
        start_cell=None if cells is None else (_from(cells, index - 1) if begin else _from(c)),
        packed=_from(packed),
        outputs=_from(outputs, begin) if into is None else _from(into),
        final_cell=None if cells is None or into is not None else _from(cells, index),
        saved=_from(saved, saved_from),
    )
    job.run("forward", call)


class Tapped:
    """``recurrence``, or with ``vectors`` ``recurrence_of_tokens``, of inputs and a start that stay, as often as the
    weights change in place; and back, not to the weights but to the norms of the gradients by every input and state.

    All that it takes for this is made once, and kept. Of what is not contiguous it keeps a copy, as it is now.

    Args:
        inputs: tokens [T B] with ``vectors``, else [T B D].
        start: the initial hidden state, and for lstm the initial cell state, under any names.

    Raises:
        ValueError: sizes that do not belong together.
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
        named = {"xs" if vectors is None else "tokens": inputs, "weight_hidden": weight_hidden}
        named |= {"weight_input": weight_input, "bias": bias} | ({} if vectors is None else {"vectors": vectors})
        states = [value.detach() for value in start.values()]
        arrays = [*named.items(), *(("start", state) for state in states)]
        _check_inputs(inputs, "T B D" if vectors is None else "T B")
        _check(kind, len(start), *((name, array.shape, array.dtype) for name, array in arrays))
        self._names = tuple(start)
        self._weights = [array.detach().contiguous() for array in (weight_input, weight_hidden, bias)]
        self._vectors = None if vectors is None else vectors.detach()
        w, u, _ = self._weights
        self._memory = memory or Memory()
        how = (KINDS.index(kind), threads, checkpoint_every_t, self._memory)
        vocabulary, features = (None, 0) if vectors is None else vectors.shape
        self._table = w.new_empty(vocabulary or 0, len(w))
        h, c = states[0], (states[1] if len(states) > 1 else None)
        self._job, self._arrays = _prepared(
            how, inputs.detach(), vocabulary, h, c, w, u, keep=True, norm_features=features
        )
        self._carries = [torch.empty_like(state) for state in states]
        self.outputs = self._arrays.outputs
        ends = (self.outputs, self._arrays.cells)
        self.final = {name: end[-1] for name, end in zip(self._names, ends, strict=False) if end is not None}

    def forward(self) -> None:
        """Fill ``outputs`` [T B H] and ``final``, the last states [B H]."""
        w, u, bias = self._weights
        table = None
        if self._vectors is not None:
            table = torch.addmm(bias, self._vectors, w.t(), out=self._table)
        _run_forward(self._job, self._arrays, table, w, u, bias, keep=True)

    def backward(
        self,
        outputs: Float[Tensor, "T B H"] | None,
        final: Mapping[str, Float[Tensor, "B H"] | None],
        *,
        to_inputs: Float[Tensor, "T B D"] | None = None,
    ) -> tuple[Float[Tensor, "T B"], dict[str, Float[Tensor, "T B"]]]:
        """Of the last ``forward``: the L2 norms, for each sequence by itself, of dL/dx_t, and of dL/d state_t by the
        state's name: the total derivative of the loss by the state after timestep t. They are as exact where squares
        would underflow.

        Args:
            outputs, final: the gradients of the loss by what ``forward`` filled; None or left out: zero.
            to_inputs: contiguous, is filled with dL/dx_t itself; tokens have none.

        Raises:
            ValueError: ``outputs`` or ``to_inputs`` has another size or type than what it is the gradient of.
        """
        for name, found, like in (("outputs", outputs, self.outputs), ("to_inputs", to_inputs, self._arrays.xs)):
            if found is not None and (found.shape, found.dtype) != (like.shape, like.dtype):
                shapes = f"{found.dtype} of the shape {tuple(found.shape)}", f"{like.dtype} of {tuple(like.shape)}"
                raise ValueError(f"{name} is {shapes[0]}: must be {shapes[1]}, as what it is the gradient of")
        if to_inputs is not None and not (to_inputs.is_contiguous() and self._vectors is None):
            raise ValueError("to_inputs must be contiguous, and is for inputs of real numbers alone")
        for name, carry in zip(self._names, self._carries, strict=True):
            given = final.get(name)
            carry.zero_() if given is None else carry.copy_(given)
        of_input, of_hidden, *of_cell = self._carries[0].new_empty(1 + len(self._names), *self._job.sizes[:2]).unbind(0)
        carry_h, *carry_c = self._carries
        _run_backward(
            self._job,
            self._memory,
            self._arrays,
            None if outputs is None else outputs.contiguous(),
            carry_h,
            carry_c[0] if carry_c else None,
            grad_xs=to_inputs,
            norms=(of_input, of_hidden, of_cell[0] if of_cell else None),
        )
        return of_input, dict(zip(self._names, [of_hidden, *of_cell], strict=True))


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
