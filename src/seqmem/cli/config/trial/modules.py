"""A few timesteps of a user's own cell or model.

Copies are tried, in eval mode: what is tried stays as it was, and dropout and batch normalisation are let be.

Axes: T time, B batch, D input features, H output features.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from jaxtyping import Shaped
from torch import Tensor, nn

from ....cells.base import Cell
from ....laws import NO_SHORTCUT, ROWS_APART
from ....laws.attributes import changed, kept_graph, plain_tensor, refuse_hidden_weights, refuse_late_weights
from ....laws.comparison import Pair, compare
from ....laws.promises import FROM_A_WEIGHT, Broken, Reading, read_cell, read_model
from ....laws.subject import SEQUENCES, pairs_of_readings
from ....laws.words import with_type
from ....models.base import Model
from ....randomness import ambient, generator
from ....tasks.base import Task
from ..errors import ConfigError

_TIMESTEPS = 3


def try_cell(
    cell: Cell, where: str, *, device: torch.device, dtype: torch.dtype, laws: bool = True, traced: bool = True
) -> None:
    """Read three timesteps with copies of a user's own cell.

    Args:
        where: begins each message, e.g. ``cell.target=mycells.Leaky``.
        device, dtype: of the run.
        laws: also see that a step depends on its arguments alone and keeps the sequences of a batch apart, that its
            weights are registered, and that a shortcut computes what its steps do. False: it was trained already.
        traced: it must do so in float64 on the CPU as well, where probes measure.

    Raises:
        ConfigError: it breaks what a cell promises.
    """
    size, rng = (_TIMESTEPS, SEQUENCES, cell.input_size), generator(0, "trial")
    xs = torch.rand(size, generator=rng, dtype=torch.float64) * 2 - 1
    other = torch.cat([xs[:, :1], -xs[:, 1:]], 1)
    trial = _Trial(where, "step", cell, read_cell, lambda cell, xs: None if cell.walks else cell(xs)[0])
    trial.run(xs, other, device=device, dtype=dtype, laws=laws, traced=traced)


def try_model(
    model: Model,
    task: Task,
    where: str,
    *,
    device: torch.device,
    dtype: torch.dtype,
    laws: bool = True,
    traced: bool = True,
) -> None:
    """Read the shortest sequences of ``task`` with copies of a user's own model; as ``try_cell``."""
    xs, ys = (task.sample(SEQUENCES, task.min_seq_len, generator(0, "trial", i)).inputs for i in range(2))
    read = partial(read_model, size=task.targets.size)
    trial = _Trial(where, "walk", model, read, lambda model, inputs: model(inputs)[0])
    trial.run(xs, torch.cat([xs[:, :1], ys[:, 1:]], 1), device=device, dtype=dtype, laws=laws, traced=traced)


@dataclass(frozen=True)
class _Trial:
    """
    Args:
        verb: the method that defines the module: ``step`` or ``walk``.
        read: reads a sequence by that method: (module, inputs, a tensor of the weights' dtype and device).
        forward: the shortcut's outputs [T B _], to compare; None: it has no shortcut.
    """

    where: str
    verb: str
    module: nn.Module
    read: Callable[[Any, Tensor, Tensor], Reading]
    forward: Callable[[Any, Tensor], Tensor | None]

    def run(
        self,
        xs: Shaped[Tensor, "T B ..."],
        other: Shaped[Tensor, "T B ..."],
        *,
        device: torch.device,
        dtype: torch.dtype,
        laws: bool,
        traced: bool,
    ) -> None:
        """``other``: the same first sequence, beside others."""
        if not laws:
            self._read(self.module, xs, torch.empty(0))
            return
        self._kept(refuse_hidden_weights, self.module)
        copy, like = self._copy(device, dtype)
        before = set(copy.state_dict())
        reading = self._read(copy, xs, like)
        self._kept(refuse_late_weights, copy, before, self.verb)
        self._again(copy, xs, like, reading)
        self._update(copy, xs, like, reading)
        if traced:
            self._copied(copy)
            if (device.type, dtype) != ("cpu", torch.float64):
                copy, like = self._copy(torch.device("cpu"), torch.float64)
                try:
                    reading = self._read(copy, xs, like)
                except _Failed as error:
                    line = f"{self.where}: it fails in float64, in which gradients are measured: {error.reason}"
                    raise ConfigError(f"{line}: {plain_tensor(self.module) or FROM_A_WEIGHT}") from error
        self._rows(copy, xs, other, like, reading)

    def _kept(self, promise: Callable[..., None], *of: Any) -> None:
        try:
            promise(*of)
        except Broken as error:
            raise ConfigError(f"{self.where}: {error}") from error

    def _copy(self, device: torch.device, dtype: torch.dtype) -> tuple[nn.Module, Tensor]:
        """A copy in eval mode, and an empty tensor of its device and dtype."""
        return self._copied(self.module).to(device, dtype).eval(), torch.empty(0, device=device, dtype=dtype)

    def _copied(self, module: nn.Module) -> nn.Module:
        try:
            return deepcopy(module)
        except Exception as error:
            repair = kept_graph(module) or with_type(error)
            raise ConfigError(f"{self.where}: it cannot be copied, as measuring does: {repair}") from error

    def _read(self, module: nn.Module, xs: Shaped[Tensor, "T B ..."], like: Tensor, seed: int = 0) -> Reading:
        try:
            with ambient(seed, "trial"):
                return self.read(module, _like(xs, like), like)
        except Broken as error:
            raise ConfigError(f"{self.where}: {error}") from error
        except Exception as error:
            hint = f": {plain_tensor(self.module) or FROM_A_WEIGHT}" if _is_mixed(error) else ""
            first = "its first steps fail" if self.verb == "step" else "its first sequence fails"
            raise _Failed(f"{self.where}: {first}", with_type(error), hint) from error

    # What a module promises

    def _again(self, copy: nn.Module, xs: Tensor, like: Tensor, reading: Reading) -> None:
        """``copy`` has read ``xs`` once and reads it again: nothing may have stayed in it."""
        kept = changed(self.module, copy)
        repair = (
            f"self.{kept[0]} is changed by the first: what is carried on belongs into the state"
            if kept
            else "it must depend on its arguments alone, and draw from torch's global generator"
        )
        try:
            again = self._read(copy, xs, like)
        except ConfigError as error:
            line = f"{self.where}: {self.verb} fails on a second sequence: {repair}"
            raise ConfigError(f"{line} ({error.reason if isinstance(error, _Failed) else error})") from error
        if what := _difference(reading, again):
            raise ConfigError(f"{self.where}: {self.verb} gives another {what} for the same sequence again: {repair}")

    def _rows(self, copy: nn.Module, xs: Tensor, other: Tensor, like: Tensor, reading: Reading) -> None:
        """The same sequences in other batches."""
        if what := _difference(reading, self._read(copy, other, like), slice(1)):
            raise ConfigError(
                f"{self.where}: the {what} of a sequence depends on the others of its batch: {ROWS_APART}"
            )
        for size in range(SEQUENCES - 1, 0, -1):
            try:
                fewer = self._read(copy, xs[:, :size], like)
            except _Failed as error:
                line = f"{self.where}: {self.verb} works with a batch of {SEQUENCES} sequences and fails with {size}"
                raise ConfigError(f"{line}: {error.reason}: take the size from x.shape[0]") from error
            what = _difference(reading, fewer, slice(size))
            # Noise, of which a smaller batch draws other numbers, is no fault.
            if what and not _difference(reading, self._read(copy, xs, like, seed=1)):
                raise ConfigError(
                    f"{self.where}: the {what} of a sequence is another in a batch of {size} than of {SEQUENCES}: let "
                    "it not depend on the batch size"
                )

    def _update(self, copy: nn.Module, xs: Tensor, like: Tensor, reading: Reading) -> None:
        """The gradient as an update takes it, and that a shortcut computes what it stands for."""
        expected = torch.stack([*reading.outputs])
        try:
            with ambient(0, "trial"):
                outputs = self.forward(copy, _like(xs, like))
            whole = expected if outputs is None else outputs
            if whole.requires_grad:
                whole.sum().backward()
        except Exception as error:
            raise ConfigError(f"{self.where}: its first update fails: {with_type(error)}") from error
        if outputs is None:
            return
        if outputs.shape != expected.shape:
            shapes = f"{tuple(outputs.shape)}, not {tuple(expected.shape)}"
            raise ConfigError(f"{self.where}: forward's outputs have shape {shapes} as those of {self.verb}")
        if compare([Pair("output", (), outputs, expected)], _ALIKE, ("", "")).counter:
            what = f"forward computes something else than {self.verb}, which defines it"
            raise ConfigError(f"{self.where}: {what}: {NO_SHORTCUT}")


class _Failed(ConfigError):
    """The user's own code raised an error, whose type and text are the ``reason``."""

    def __init__(self, what: str, reason: str, hint: str) -> None:
        super().__init__(f"{what}: {reason}{hint}")
        self.reason = reason


_ALIKE = 1e-2
"""Relative difference of a shortcut from its steps, in the precision of a run, above which it is another function."""


def _like(xs: Shaped[Tensor, "T B ..."], like: Tensor) -> Shaped[Tensor, "T B ..."]:
    """Inputs as a model of such weights gets them: real numbers in its dtype, tokens as they are."""
    return (xs.to(like.dtype) if xs.is_floating_point() else xs).to(like.device)


def _difference(one: Reading, two: Reading, rows: slice = slice(None)) -> str | None:
    """What differs in these rows beyond rounding: ``output`` or ``state 'h'``; None: nothing."""
    tolerance = 1e-7 if one.outputs[0].dtype == torch.float64 else 1e-3
    counter = compare(pairs_of_readings(one, two, rows), tolerance, ("", "")).counter
    return None if counter is None else counter.what


def _is_mixed(error: Exception) -> bool:
    """Whether tensors of two dtypes or devices came together, or a device that is not there was asked for."""
    words = ("dtype", "data type", "same device", "CUDA", "NVIDIA", "Expected object of scalar type")
    return isinstance(error, RuntimeError | AssertionError | ValueError) and any(word in str(error) for word in words)
