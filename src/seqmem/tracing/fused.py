"""torch.nn's RNN, LSTM and GRU: any number of layers, both directions, packed or not, by ghost inputs.

Axes: T time, B batch, D features.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pad_packed_sequence

from ..cells.ghost import GhostLayer
from ..nn.start import in_words
from .calls import Call, Keep, Reader, check_repeated, norms_of, padded
from .causes import gates_in_words, recurrence_in_words
from .parts import Part, Untraceable


class FusedReader(Reader):
    def reads(self, module: nn.Module) -> bool:
        return isinstance(module, nn.LSTM | nn.GRU | nn.RNN)

    def call(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any, keep: Keep
    ) -> Call:
        assert isinstance(module, nn.RNNBase)
        given = dict(zip(("input", "hx"), args, strict=False)) | dict(kwargs)
        return FusedCall(module, given["input"], given.get("hx"), output, keep)


class FusedCall(Call):
    """One call of a fused layer, or of several on top of each other."""

    def __init__(self, module: nn.RNNBase, given: Tensor | PackedSequence, hx: Any, output: Any, keep: Keep) -> None:
        if module.training and module.dropout and module.num_layers > 1:
            raise Untraceable(
                f"dropout={module.dropout:g} between its layers draws a mask that it hides: trace it in eval mode, as "
                "seqmem.trace does, or make each layer a module of its own"
            )
        outputs, ends = output
        views = type(module) not in (nn.LSTM, nn.GRU, nn.RNN)
        if views:
            # What a subclass returns may be made of each other, so that a hook would count gradient twice: the caller
            # gets views, and the views get the hooks.
            outputs, ends = _views(outputs), _views(ends)
        returned = outputs, ends
        ends = ends if isinstance(ends, tuple) else (ends,)
        states = hx if isinstance(hx, tuple) else () if hx is None else (hx,)
        data = outputs.data if isinstance(outputs, PackedSequence) else outputs
        sequences = ends[0].shape[1] if ends[0].dim() > 2 else 1
        super().__init__({"output": data, **dict(zip(("hidden", "cell"), ends, strict=False))}, states, sequences)
        self.returned = returned if views else None
        self._start = in_words(module)
        self._mode, self._layers, self._both = module.mode, module.num_layers, module.bidirectional
        self._time_first = not module.batch_first
        self._unbatched = not isinstance(given, PackedSequence) and given.dim() == 2
        self._packing = outputs if isinstance(outputs, PackedSequence) else None
        self._given = given
        self._initial = [state.detach() for state in states]
        self._weights = [
            {
                name: keep(getattr(module, f"{name}_{suffix}"))
                for name in _WEIGHTS
                if hasattr(module, f"{name}_{suffix}")
            }
            for suffix in self._suffixes()
        ]

    def _suffixes(self) -> list[str]:
        """Torch's own names of each layer and direction, in its order."""
        ways = ("", "_reverse") if self._both else ("",)
        return [f"l{layer}{way}" for layer in range(self._layers) for way in ways]

    def parts(self, calls: Sequence[Call]) -> dict[str, Part]:
        if len(calls) > 1 and self._both:
            raise Untraceable(
                "a layer that reads in both directions was called again with its own final state: call it once, on the "
                "whole sequence"
            )
        each = [call._parts(last=call is calls[-1]) for call in calls if isinstance(call, FusedCall)]  # noqa: SLF001
        return each[0] if len(each) == 1 else {name: _joined([parts[name] for parts in each]) for name in each[0]}

    def _batched(self, values: Tensor) -> Tensor:
        """[T B D] of what the module was given or returned."""
        if self._packing is not None:
            packing = self._packing
            packed = PackedSequence(values, packing.batch_sizes, packing.sorted_indices, packing.unsorted_indices)
            return pad_packed_sequence(packed)[0]
        if self._unbatched:
            return values[:, None]
        return values if self._time_first else values.transpose(0, 1)

    def _parts(self, *, last: bool) -> dict[str, Part]:
        """``last``: nothing continues this call, so all gradient at its final state enters from outside."""
        given = self._given.data if isinstance(self._given, PackedSequence) else self._given
        below = self._batched(given.detach())
        below = below if below.dtype in (torch.float32, torch.float64) else below.float()
        steps, sequences = below.shape[:2]
        lengths = None if self._packing is None else pad_packed_sequence(self._packing)[1]
        ways = 2 if self._both else 1
        layers: list[list[GhostLayer]] = []
        for layer in range(self._layers):
            inside = []
            for way in range(ways):
                place = layer * ways + way
                names = ("hidden", "cell")
                initial = {
                    name: (state[:, None] if self._unbatched else state)[place]
                    for name, state in zip(names, self._initial, strict=False)
                }
                xs = _flipped(below, lengths) if way else below
                inside.append(GhostLayer(self._mode, self._weights[place], xs, initial, lengths))
            layers.append(inside)
            outputs = [_flipped(one.outputs, lengths) if way else one.outputs for way, one in enumerate(inside)]
            below = torch.cat(outputs, -1)
        check_repeated(below, self._batched(self.watched["output"].detach()), "its output")

        gradient = self.gradients.get("output")
        above = torch.zeros_like(below) if gradient is None else self._batched(gradient).to(below)
        known = np.full(sequences, steps) if lengths is None else lengths.numpy()
        parts: dict[str, Part] = {}
        suffixes = self._suffixes()
        for layer in reversed(range(self._layers)):
            to_below: Tensor | None = None
            for way, (one, direct) in enumerate(zip(layers[layer], above.chunk(ways, -1), strict=True)):
                place = layer * ways + way
                final = {name: self._final(name, place) for name in one.final}
                direct = _flipped(direct, lengths) if way else direct
                to_x, states = one.backward(direct, final)
                enters = (direct != 0).any(-1)
                if last:
                    enters = enters | _at_end(final, known, enters)
                series = {**states, "input": to_x, "enters": enters}
                series = {name: _flipped(values, lengths) if way else values for name, values in series.items()}
                to_below = series["input"] if to_below is None else to_below + series["input"]
                entering = series.pop("enters").cpu().numpy()
                norms = {name: padded(norms_of(values), known) for name, values in series.items()}
                ended = np.arange(steps)[:, None] >= known  # the same for both ways: padding stays at the end
                if one.kept is not None:
                    why = gates_in_words(self._mode, one.kept, ended)
                else:
                    why = recurrence_in_words(self._mode, self._weights[place]["weight_hh"], one.outputs, ended)
                parts[suffixes[place]] = Part(
                    norms, known, reverse=bool(way), enters=entering, width=one.outputs.shape[-1], why=why,
                    start=self._start,
                )  # fmt: skip
            assert to_below is not None
            above = to_below
        return {"": parts["l0"]} if len(parts) == 1 else {f".{name}": parts[name] for name in suffixes}

    def _final(self, name: str, place: int) -> Tensor | None:
        gradient = self.gradients.get(name)
        if gradient is None:
            return None
        batched = gradient[:, None] if self._unbatched else gradient
        return batched[place]


def _views(value: Any) -> Any:
    if isinstance(value, PackedSequence):
        return value._replace(data=value.data.view_as(value.data))
    return tuple(map(_views, value)) if isinstance(value, tuple) else value.view_as(value)


_WEIGHTS = ("weight_ih", "weight_hh", "bias_ih", "bias_hh", "weight_hr")


def _flipped(values: Tensor, lengths: Tensor | None) -> Tensor:
    """Each sequence [T B ...] in reverse, its padding left at the end."""
    if lengths is None:
        return values.flip(0)
    steps = torch.arange(len(values))[:, None]
    at = torch.where(steps < lengths, lengths - 1 - steps, steps).to(values.device)
    return values[at, torch.arange(values.shape[1], device=values.device)]


def _at_end(final: Mapping[str, Tensor | None], lengths: np.ndarray, like: Tensor) -> Tensor:
    """[T B], True at the own end of each sequence whose final state has a gradient."""
    reached = torch.zeros_like(like)
    for gradient in final.values():
        if gradient is not None:
            rows = (gradient != 0).any(-1)
            reached[torch.as_tensor(lengths - 1, device=like.device), torch.arange(len(rows), device=like.device)] |= (
                rows
            )
    return reached


def _joined(parts: Sequence[Part]) -> Part:
    """Calls that continue each other, as one sequence."""
    if len({len(part.lengths) for part in parts}) > 1 or any(part.ended().any() for part in parts[:-1]):
        raise Untraceable(
            "its calls continue each other with fewer sequences than before, so rows cannot be followed: keep the "
            "batch whole and mask what has ended, or pack it (torch.nn.utils.rnn)"
        )
    norms = {name: np.concatenate([part.norms[name] for part in parts]) for name in parts[0].norms}
    before = sum(len(part.enters) for part in parts[:-1] if part.enters is not None)
    enters = [part.enters for part in parts if part.enters is not None]
    return replace(parts[-1], norms=norms, lengths=parts[-1].lengths + before, enters=np.concatenate(enters))
