"""Modules by what they return: those that a user names, Transformer layers, and torchrecurrent's cells in their loops.

A hook at a tensor that a module returns sees all gradient that reaches it, if what comes later uses that very tensor.

Axes: T time, B batch, C features.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from torch import Tensor, nn

from .calls import Call, Keep, Reader, norms_of
from .parts import OUTPUT, Part, Untraceable


class NamedReader(Reader):
    """Submodules that the user names.

    Args:
        axes: module -> its path and its output's axes, as ``BTC``; None: [B, C], one timestep a call.
    """

    within = True

    def __init__(self, axes: Mapping[nn.Module, tuple[str, str | None]]) -> None:
        self._axes = dict(axes)

    def reads(self, module: nn.Module) -> bool:
        return module in self._axes

    def call(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any, keep: Keep
    ) -> Call:
        path, axes = self._axes[module]
        returned = _tensors(output)
        if not returned:
            raise Untraceable(f"it returned {type(output).__name__}, which has no tensor")
        if axes is None and returned[0].dim() == 2:
            names = [OUTPUT] if len(returned) == 1 else [f"{OUTPUT}.{i}" for i in range(len(returned))]
            return StepCall(
                dict(zip(names, returned, strict=True)), [*_tensors(args), *_tensors(list(kwargs.values()))]
            )
        if axes is None or len(axes) != returned[0].dim():
            shape = list(returned[0].shape)
            example = {3: "BTC", 4: "BCCT"}.get(len(shape), "T" + "C" * (len(shape) - 1))
            raise Untraceable(
                f"its output has the shape {shape}: say which axis is which, as modules={{'{path}': '{example}'}} "
                "(T time, B batch)"
            )
        return SequenceCall(returned[0], axes)


class TransformerReader(Reader):
    """What each position's output of a Transformer layer received; the attention inside is traced by itself."""

    within = True

    def reads(self, module: nn.Module) -> bool:
        return isinstance(module, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer)

    def call(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any, keep: Keep
    ) -> Call:
        assert isinstance(module, nn.TransformerEncoderLayer | nn.TransformerDecoderLayer)
        if output.dim() == 2:
            return SequenceCall(output, "TC")
        return SequenceCall(output, "BTC" if module.self_attn.batch_first else "TBC")


class TorchrecurrentReader(Reader):
    """Cells of the package torchrecurrent, also in its own layers, which call them at every timestep."""

    def reads(self, module: nn.Module) -> bool:
        return any(base.__name__ == "RecurrentCellBase" for base in _of_torchrecurrent(module))

    def call(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any, keep: Keep
    ) -> Call:
        apart = any(base.__name__.startswith("Decoupled") for base in _of_torchrecurrent(module))
        states = _tensors(output[1] if apart else output)
        watched: dict[str, Tensor] = dict(zip(("hidden", "cell"), states, strict=False))
        return StepCall(watched, [*_tensors(args[1:]), *_tensors(list(kwargs.values()))])


def _of_torchrecurrent(module: nn.Module) -> list[type]:
    return [base for base in type(module).__mro__ if base.__module__ == "torchrecurrent.base"]


class StepCall(Call):
    """One timestep: tensors [B C] by name."""

    def __init__(self, watched: Mapping[str, Tensor], begins: Sequence[Tensor]) -> None:
        first = next(iter(watched.values()))
        super().__init__(watched, begins, len(first) if first.dim() > 1 else 1)

    def parts(self, calls: Sequence[Call]) -> dict[str, Part]:
        if len({call.sequences for call in calls}) > 1:
            raise Untraceable(
                "its loop goes on with fewer sequences than before, so rows cannot be followed: keep the batch whole "
                "and mask what has ended"
            )
        norms = {
            name: np.concatenate([norms_of(_batched(call.gradient(name))) for call in calls]) for name in self.watched
        }
        width = next(iter(self.watched.values())).shape[-1]
        return {"": Part(norms, np.full(self.sequences, len(calls)), width=width)}


class SequenceCall(Call):
    """A whole sequence in one tensor."""

    chained = False

    def __init__(self, output: Tensor, axes: str) -> None:
        super().__init__({OUTPUT: output}, (), output.shape[axes.index("B")] if "B" in axes else 1)
        self._axes = axes

    def parts(self, calls: Sequence[Call]) -> dict[str, Part]:
        gradient = self.gradient(OUTPUT)
        if "B" in self._axes:
            first = [self._axes.index("T"), self._axes.index("B")]
        else:
            gradient, first = gradient[None], [1 + self._axes.index("T"), 0]
        rest = [axis for axis in range(gradient.dim()) if axis not in first]
        norms = norms_of(gradient.permute(*first, *rest))
        return {
            "": Part({OUTPUT: norms}, np.full(norms.shape[1], len(norms)), width=gradient.shape[rest[0]] if rest else 1)
        }


def _batched(values: Tensor) -> Tensor:
    """[1 B C]"""
    return values[None, None] if values.dim() == 1 else values[None]


def _tensors(value: Any) -> list[Tensor]:
    """Those with real numbers, also inside tuples, lists and dictionaries."""
    if isinstance(value, Tensor):
        return [value] if value.is_floating_point() else []
    if isinstance(value, Mapping):
        return [tensor for inner in value.values() for tensor in _tensors(inner)]
    if isinstance(value, tuple | list):
        return [tensor for inner in value for tensor in _tensors(inner)]
    return []
