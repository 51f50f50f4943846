"""RNN, LSTM and GRU with torch.nn's constructors, attributes, state dicts and results, over seqmem's kernels.

They are subclasses of torch's: ``isinstance`` holds, and whatever the kernels do not fit is computed by torch itself.

Axes: T time, B batch, N rows of a packed sequence, D input features, H units, P outputs, L layers times directions.
"""

import warnings
from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.utils.rnn import PackedSequence

from ..kernels import functions
from ..kernels.functions import Layer, Order
from ..kernels.loading import Library, Unavailable, load
from ..kernels.memory import Memory
from .choice import pays
from .steps import by_steps

KINDS = {"RNN_TANH": "rnn tanh", "RNN_RELU": "rnn relu", "LSTM": "lstm", "GRU": "gru torch"}
"""torch's mode -> the kernels' kind."""


class FallbackWarning(UserWarning):
    """torch computes a layer on the CPU that the kernels could have been expected to compute; once for each reason."""


class States(NamedTuple):
    """The state after every timestep, of every layer and direction.

    The layers' axis comes first, in the order of h_n; the other axes are those of ``output``: [L T B H], with
    ``batch_first`` [L B T H], unbatched [L T H], and for a packed sequence [L N H], as its ``data``. Where a
    direction reads backwards, the state at t has read t and all after it.
    """

    hidden: Tensor
    cell: Tensor | None
    """None for RNN and GRU."""


class _Given(NamedTuple):
    """What a layer is called with, brought to one form."""

    xs: Tensor  # [T B D], packed [N D]
    start: tuple[Tensor, ...]  # [L B P], for LSTM also [L B H]
    packed: Tensor | None  # the batch sizes of a packed sequence
    begun: bool  # False: ``start`` is zero


class _Computed(NamedTuple):
    output: Tensor
    final: tuple[Tensor, ...]
    layers: list[Layer]


class _OnKernels(torch.nn.RNNBase):
    """What RNN, LSTM and GRU have in common; torch's own class comes next in the order of resolution."""

    def forward(self, input: Any, hx: Any = None) -> Any:  # noqa: A002  (torch's name)
        """torch's results, for torch's arguments."""
        if not _is_compiling() and self._pays(input) and not _watched():
            self._update_flat_weights()
            given = self._given(input, hx)
            if given is not None and self._fits(given):
                return self._returned(self._compute(given, native=True), input)
        return super().forward(input, hx)  # which has the errors, too

    def states(self, input: Any, hx: Any = None) -> tuple[Any, Any, States]:  # noqa: A002
        """``forward``'s output and final state, and the state after every timestep of every layer and direction.

        All can be differentiated. Where the kernels do not fit, it is a loop over torch's operations.

        Raises:
            What torch raises for the same arguments.
        """
        self._update_flat_weights()
        given = self._given(input, hx)
        if given is None:
            raise self._refusal(input, hx)
        computed = self._compute(given, native=self._fits(given), cells=True)
        unbatched = not isinstance(input, PackedSequence) and input.dim() == 2

        def stacked(values: list[Tensor]) -> Tensor:
            together = _stacked(values)
            if unbatched:
                return together.squeeze(2)
            return together.transpose(1, 2) if given.packed is None and self.batch_first else together

        cells = [layer.cells for layer in computed.layers if layer.cells is not None]
        states = States(stacked([layer.outputs for layer in computed.layers]), stacked(cells) if cells else None)
        return *self._returned(computed, input), states

    def _refusal(self, input: Any, hx: Any) -> Exception:  # noqa: A002
        """torch's error for these arguments."""
        try:
            super().forward(input, hx)
        except (ValueError, RuntimeError, TypeError, AttributeError) as error:
            return error
        return ValueError(f"{type(self).__name__}.states has no states for {type(input).__name__}: use forward")

    def _given(self, input: Any, hx: Any) -> _Given | None:  # noqa: A002
        """None where torch would raise an error, or has a meaning of its own."""
        packed, unbatched, sorted_indices = None, False, None
        if isinstance(input, PackedSequence):
            data, packed, sorted_indices, _ = input
            if not isinstance(data, Tensor) or data.dim() != 2 or not len(data) or packed.numel() == 0:
                return None
            batch = int(packed[0])
        elif isinstance(input, Tensor) and input.dim() in (2, 3):
            unbatched = input.dim() == 2
            data = input.unsqueeze(1) if unbatched else input.transpose(0, 1) if self.batch_first else input
            batch = data.shape[1]
            if not len(data) or not batch:
                return None
        else:
            return None
        weight: Any = self._flat_weights[0]
        if data.shape[-1] != self.input_size:
            return None
        if data.dtype != weight.dtype and not torch.is_autocast_enabled(data.device.type):
            return None
        both = self.mode == "LSTM"
        widths = (self.proj_size or self.hidden_size, self.hidden_size)[: 1 + both]
        count = self.num_layers * (2 if self.bidirectional else 1)
        if hx is None:
            zeros = [data.new_zeros(count, batch, width) for width in widths]
            return _Given(data, tuple(zeros), packed, begun=False)
        start = tuple(hx) if both and isinstance(hx, tuple | list) else (hx,)
        if len(start) != len(widths) or not all(isinstance(value, Tensor) for value in start):
            return None
        if unbatched:
            start = tuple(value.unsqueeze(1) if value.dim() == 2 else value for value in start)
        if any(value.shape != (count, batch, width) for value, width in zip(start, widths, strict=True)):
            return None
        if sorted_indices is not None:
            start = tuple(value.index_select(1, sorted_indices) for value in start)
        return _Given(data, start, packed, begun=True)

    def _fits(self, given: _Given) -> bool:
        """True if the kernels compute this; a warning tells, once for each reason, where it may surprise that not."""
        weights: Any = self._flat_weights
        arrays = (given.xs, *given.start, *weights)
        if not all(array.is_cpu for array in arrays) or _watched():
            return False
        if functions.supports(*arrays):
            return True
        dtypes = {array.dtype for array in arrays}
        if len(dtypes) == 1:  # else torch has an error for it
            self._tell(_reason(dtypes.pop()))
        return False

    def _pays(self, input: Any) -> bool:  # noqa: A002
        """True if the kernels are the faster ones for inputs of this size. Asked first: small ones take no time.

        The last answer is cached: beside a short sequence, which torch computes, choosing anew is slow.
        """
        own = self.__dict__
        if type(input) is Tensor:
            key = input.shape, _trains(input, own["_flat_weights"]), torch.get_num_threads()
            cached = own.get("_seqmem_choice")
            if cached is None or cached[0] != key:
                cached = own["_seqmem_choice"] = key, self._choose(*key, packed=False)
            return cached[1]
        if isinstance(input, PackedSequence):
            data, sizes = input.data, (len(input.batch_sizes), int(input.batch_sizes[0]))
        elif isinstance(input, Tensor):
            data, sizes = input, input.shape
        else:
            return False
        training = _trains(data, own["_flat_weights"])
        return self._choose(sizes, training, torch.get_num_threads(), packed=isinstance(input, PackedSequence))

    def _choose(self, sizes: Sequence[int], training: bool, threads: int, *, packed: bool) -> bool:
        """``pays`` for an input [T B D], [B T D] or [T D]; of a packed sequence ``sizes`` are T and B."""
        if len(sizes) not in (2, 3):
            return False
        steps, batch = (sizes[0], 1) if len(sizes) == 2 and not packed else sizes[:2]
        if self.batch_first and len(sizes) == 3:
            steps, batch = batch, steps
        library = load()
        return pays(
            KINDS[self.mode],
            steps,
            batch,
            self.hidden_size,
            training=training,
            packed=packed,
            threads=threads,
            isa=library.isa if isinstance(library, Library) else "",
            projection=self.proj_size,
        )

    def _tell(self, reason: str) -> None:
        key = type(self).__name__, reason
        if key not in _told:
            _told.add(key)
            warnings.warn(f"seqmem.nn.{key[0]}: torch computes it, not seqmem's kernels: {reason}", FallbackWarning, 4)

    def _compute(self, given: _Given, *, native: bool, cells: bool = False) -> _Computed:
        kind, directions = KINDS[self.mode], 2 if self.bidirectional else 1
        xs, packed = given.xs, given.packed
        hs, cs = given.start[0], given.start[1] if len(given.start) > 1 else None
        weights: list[Any] = self._flat_weights  # pyright: ignore[reportAssignmentType]
        each = len(weights) // (self.num_layers * directions)
        how: dict[str, Any] = {"cells": cells, "threads": torch.get_num_threads(), "memory": self._memory}
        forwards = None if packed is None else Order.packed(packed)
        reversal = None if forwards is None or directions == 1 else forwards.reversal()
        backwards = forwards if packed is not None else Order.backwards(xs.shape[0], xs.shape[1])
        layers: list[Layer] = []
        for at in range(self.num_layers):
            if at and self.dropout and self.training:
                xs = F.dropout(xs, self.dropout, training=True)
            for direction in range(directions):
                index = at * directions + direction
                w, u, *others = weights[index * each : (index + 1) * each]
                projection = others.pop() if self.proj_size else None
                bias = _bias(kind, w, others)
                order = backwards if direction else forwards
                inputs = _Reversed.apply(xs, reversal) if direction and reversal is not None else xs
                h, c = hs[index], None if cs is None else cs[index]
                if native and projection is not None:
                    # h_t = V m_t is computed of all m_t together: of a step U h_{t-1} = (U V) m_{t-1} is left, a plain
                    # lstm's. Its m_{-1} is zero, and U h_{-1} comes in with the first input.
                    if given.begun:
                        inputs = torch.cat([inputs, _at_first(h, inputs, order if packed is None else None)], -1)
                        w = torch.cat([w, u], 1)
                    h, u = h.new_zeros(len(h), self.hidden_size), u @ projection
                if native:
                    layer = functions.recurrence_of_layer(
                        kind, inputs, (h,) if c is None else (h, c), w, u, bias,
                        order=order, differentiably=partial(by_steps, kind, order), **how,
                    )  # fmt: skip
                    if projection is not None:
                        projected = [F.linear(values, projection) for values in (layer.outputs, layer.hidden)]
                        layer = layer._replace(outputs=projected[0], hidden=projected[1])
                else:
                    layer = by_steps(kind, order, inputs, h, c, w, u, bias, projection)
                if direction and reversal is not None:
                    back = None if layer.cells is None else _Reversed.apply(layer.cells, reversal)
                    layer = layer._replace(outputs=_Reversed.apply(layer.outputs, reversal), cells=back)
                layers.append(layer)
            both = [layer.outputs for layer in layers[-directions:]]
            xs = both[0] if directions == 1 else torch.cat(both, -1)
        if directions == 1 and xs.requires_grad and (packed is not None or kind != "lstm"):
            xs = xs.clone()  # torch's may be changed in place, while the kernels need theirs for the backward pass
        ends = [[layer.hidden for layer in layers], [layer.cell for layer in layers if layer.cell is not None]]
        return _Computed(xs, tuple(map(_stacked, ends[: len(given.start)])), layers)

    def _returned(self, computed: _Computed, input: Any) -> tuple[Any, Any]:  # noqa: A002
        output, final, _ = computed
        if isinstance(input, PackedSequence):
            _, batch_sizes, sorted_indices, unsorted_indices = input
            output = PackedSequence(output, batch_sizes, sorted_indices, unsorted_indices)
            if unsorted_indices is not None:
                final = tuple(value.index_select(1, unsorted_indices) for value in final)
        elif input.dim() == 2:
            output, final = output.squeeze(1), tuple(value.squeeze(1) for value in final)
        elif self.batch_first:
            output = output.transpose(0, 1)
        return output, final if self.mode == "LSTM" else final[0]

    @property
    def _memory(self) -> Memory:
        return self.__dict__.setdefault("_seqmem_memory", Memory())

    def __getstate__(self) -> dict[str, Any]:
        state = super().__getstate__()
        forget_cached(state)
        return state

    def __prepare_scriptable__(self) -> torch.nn.Module:
        """torch.jit.script compiles torch's own layer, with these parameters."""
        kind = next(kind for kind in type(self).__mro__ if kind in (torch.nn.RNN, torch.nn.LSTM, torch.nn.GRU))
        twin = kind.__new__(kind)
        twin.__dict__.update(self.__dict__)
        forget_cached(twin.__dict__)
        return twin


class RNN(_OnKernels, torch.nn.RNN):
    """torch.nn.RNN; see ``LSTM``."""


class LSTM(_OnKernels, torch.nn.LSTM):
    """torch.nn.LSTM, computed by seqmem's kernels on the CPU in float32 and float64, with ``states``.

    Elsewhere, and where docs/nn.md says so, torch itself computes it.
    """


class GRU(_OnKernels, torch.nn.GRU):
    """torch.nn.GRU; see ``LSTM``."""


def forget_cached(state: dict[str, Any]) -> None:
    """Removes a layer's pool of buffers and its last choice from its attributes: they are nothing to store."""
    for cached in ("_seqmem_memory", "_seqmem_choice"):
        state.pop(cached, None)


_told: set[tuple[str, str]] = set()
_is_compiling = torch.compiler.is_compiling


def _trains(data: Tensor, weights: Sequence[Tensor | None]) -> bool:
    """True if a backward pass may follow."""
    if not torch.is_grad_enabled():
        return False
    return data.requires_grad or any(weight is not None and weight.requires_grad for weight in weights)


def _reason(dtype: torch.dtype) -> str:
    library = load()
    if isinstance(library, Unavailable):
        return library.reason
    if torch.is_autocast_enabled("cpu"):
        return "autocast expects half precision"
    if dtype not in (torch.float32, torch.float64):
        return f"there is no kernel for {dtype}"
    return "there is no kernel for subclasses of Tensor"


def _watched() -> bool:
    """True while torch records, transforms or replaces its operations, which it cannot do with a kernel's."""
    internal: Any = torch._C  # noqa: SLF001  (torch has no other way to ask)
    return (
        _is_compiling()
        or torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
        or internal._are_functorch_transforms_active()  # noqa: SLF001
        or internal._len_torch_dispatch_stack() > 0  # noqa: SLF001
        or torch.autograd.forward_ad._current_level >= 0  # noqa: SLF001
    )


def _at_first(start: Tensor, inputs: Tensor, order: Order | None) -> Tensor:
    """[... P], zeros but for the first timestep that is read, which has ``start`` [B P]: the last one if there is an
    order, backwards, else the first."""
    if inputs.dim() == 2:
        return F.pad(start, (0, 0, 0, len(inputs) - len(start)))
    rest = len(inputs) - 1
    return F.pad(start[None], (0, 0, 0, 0, *((rest, 0) if order is not None else (0, rest))))


def _stacked(values: list[Tensor]) -> Tensor:
    return torch.stack(values) if len(values) > 1 else values[0][None]


def _bias(kind: str, w: Tensor, both: Sequence[Tensor]) -> Tensor:
    """The kernels' bias from torch's two."""
    if not both:
        return w.new_zeros(len(w))
    b_ih, b_hh = both
    if kind != "gru torch":
        return b_ih + b_hh
    gates = len(w) // 3 * 2
    return torch.cat([b_ih[:gates] + b_hh[:gates], b_ih[gates:], b_hh[gates:]])


class _Reversed(torch.autograd.Function):
    """``x[rows]``, where the rows applied twice change nothing: so the gradient is selected, not added up."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, rows: Tensor) -> Tensor:
        ctx.save_for_backward(rows)
        return x.index_select(0, rows)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return _Reversed.apply(grads[0], *ctx.saved_tensors), None
