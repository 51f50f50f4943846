"""A few timesteps of a user's own cell or model.

Copies are tried, in eval mode: what is tried stays as it was, and dropout and batch normalisation are let be.

Axes: T time, B batch, D input features, H output features.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from ....cells.base import Cell
from ....cells.state import Slots, State, tensors
from ....models.base import Model, Step
from ....randomness import ambient, generator
from ....tasks.base import Task
from ..errors import ConfigError
from .words import kind, name_of, with_type

_BATCH = 3
"""Sequences in a trial. Others have fewer: what depends on the size of the batch shows."""

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
    xs = torch.rand(_TIMESTEPS, _BATCH, cell.input_size, generator=generator(0, "trial"), dtype=torch.float64) * 2 - 1
    other = torch.cat([xs[:, :1], -xs[:, 1:]], 1)
    trial = _Trial(where, "step", cell, _read_cell, _cell_forward)
    trial.run(xs, other, device=device, dtype=dtype, laws=laws, traced=traced)


def materialize(cell: Cell, seed: int) -> None:
    """Give torch's lazy modules in a user's own cell their shapes and weights, for which they wait for an input."""
    if any(map(is_lazy, cell.parameters())):
        with ambient(seed, "trial"), torch.no_grad():
            cell.step(torch.zeros(_BATCH, cell.input_size), cell.initial_state(_BATCH))


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
    xs, ys = (task.sample(_BATCH, task.min_seq_len, generator(0, "trial", i)).inputs for i in range(2))
    size = task.targets.size

    def read(model: Any, inputs: Tensor, where: str, like: Tensor) -> "_Reading":
        return _read_model(model, inputs, where, like, size)

    trial = _Trial(where, "walk", model, read, _model_forward)
    trial.run(xs, torch.cat([xs[:, :1], ys[:, 1:]], 1), device=device, dtype=dtype, laws=laws, traced=traced)


@dataclass(frozen=True)
class _Reading:
    """What reading a sequence gave: one output [B _] per timestep; the states before the first and after each."""

    outputs: Sequence[Float[Tensor, "B _"]]
    states: Sequence[State]

    def values(self, rows: slice = slice(None)) -> Iterator[tuple[str, Tensor]]:
        """(what it is, some rows) of every output and every part of a state."""
        for output in self.outputs:
            yield "output", output[rows]
        for state in self.states:
            for name, leaf in state.items():
                for tensor in tensors(leaf):
                    yield f"state '{name}'", tensor[rows]


@dataclass(frozen=True)
class _Trial:
    """
    Args:
        verb: the method that defines the module: ``step`` or ``walk``.
        read: reads a sequence by that method: (module, inputs, where, a tensor of the weights' dtype and device).
        forward: the shortcut's outputs [T B _], to compare; None: it has no shortcut.
    """

    where: str
    verb: str
    module: nn.Module
    read: Callable[[Any, Tensor, str, Tensor], _Reading]
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
        self._refuse_hidden_weights()
        copy, like = self._copy(device, dtype)
        before = set(copy.state_dict())
        reading = self._read(copy, xs, like)
        if made := set(copy.state_dict()) - before:
            line = f"{self.where}: {self.verb} makes the weight '{min(made)}', which no optimizer sees"
            raise ConfigError(f"{line}: make it in __init__")
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
                    raise ConfigError(f"{line}: {self._plain_tensor() or _FROM_A_WEIGHT}") from error
        self._rows(copy, xs, other, like, reading)

    def _copy(self, device: torch.device, dtype: torch.dtype) -> tuple[nn.Module, Tensor]:
        """A copy in eval mode, and an empty tensor of its device and dtype."""
        return self._copied(self.module).to(device, dtype).eval(), torch.empty(0, device=device, dtype=dtype)

    def _copied(self, module: nn.Module) -> nn.Module:
        try:
            return deepcopy(module)
        except Exception as error:
            kept = next((name for name, value in _attributes(module) if _has_graph(value)), None)
            repair = f"self.{kept} keeps the graph of a step: detach it" if kept else with_type(error)
            raise ConfigError(f"{self.where}: it cannot be copied, as measuring does: {repair}") from error

    def _read(self, module: nn.Module, xs: Shaped[Tensor, "T B ..."], like: Tensor, seed: int = 0) -> _Reading:
        try:
            with ambient(seed, "trial"):
                return self.read(module, _like(xs, like), self.where, like)
        except ConfigError:
            raise
        except Exception as error:
            hint = f": {self._plain_tensor() or _FROM_A_WEIGHT}" if _is_mixed(error) else ""
            first = "its first steps fail" if self.verb == "step" else "its first sequence fails"
            raise _Failed(f"{self.where}: {first}", with_type(error), hint) from error

    # What a module promises

    def _again(self, copy: nn.Module, xs: Tensor, like: Tensor, reading: _Reading) -> None:
        """``copy`` has read ``xs`` once and reads it again: nothing may have stayed in it."""
        changed = _changed(self.module, copy)
        repair = (
            f"self.{changed[0]} is changed by the first: what is carried on belongs into the state"
            if changed
            else "it must depend on its arguments alone, and draw from torch's global generator"
        )
        try:
            again = self._read(copy, xs, like)
        except ConfigError as error:
            line = f"{self.where}: {self.verb} fails on a second sequence: {repair}"
            raise ConfigError(f"{line} ({error.reason if isinstance(error, _Failed) else error})") from error
        if what := _difference(reading, again):
            raise ConfigError(f"{self.where}: {self.verb} gives another {what} for the same sequence again: {repair}")

    def _rows(self, copy: nn.Module, xs: Tensor, other: Tensor, like: Tensor, reading: _Reading) -> None:
        """The same sequences in other batches."""
        if what := _difference(reading, self._read(copy, other, like), slice(1)):
            raise ConfigError(
                f"{self.where}: the {what} of a sequence depends on the others of its batch: keep the rows of "
                "dimension 0 apart, e.g. take no mean over it"
            )
        for size in range(_BATCH - 1, 0, -1):
            try:
                fewer = self._read(copy, xs[:, :size], like)
            except _Failed as error:
                line = f"{self.where}: {self.verb} works with a batch of {_BATCH} sequences and fails with {size}"
                raise ConfigError(f"{line}: {error.reason}: take the size from x.shape[0]") from error
            what = _difference(reading, fewer, slice(size))
            # Noise, of which a smaller batch draws other numbers, is no fault.
            if what and not _difference(reading, self._read(copy, xs, like, seed=1)):
                raise ConfigError(
                    f"{self.where}: the {what} of a sequence is another in a batch of {size} than of {_BATCH}: let it "
                    "not depend on the batch size"
                )

    def _update(self, copy: nn.Module, xs: Tensor, like: Tensor, reading: _Reading) -> None:
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
        if not torch.allclose(outputs.double(), expected.double(), rtol=1e-2, atol=1e-3, equal_nan=True):
            raise ConfigError(
                f"{self.where}: forward computes something else than {self.verb}, which defines it: mend it, or leave "
                "it out"
            )

    def _refuse_hidden_weights(self) -> None:
        known = {id(weight) for weight in self.module.parameters()}
        for name, value in _attributes(self.module):
            for part in _parts(value):
                if isinstance(part, nn.Module):
                    weights, instead = [*part.parameters()], "nn.ModuleList"
                elif isinstance(part, Tensor) and part.requires_grad and part.is_leaf:
                    weights, instead = [part], "nn.Parameter" if part is value else "nn.ParameterList"
                else:
                    continue
                if any(id(weight) not in known for weight in weights):
                    raise ConfigError(
                        f"{self.where}: self.{name} has weights that torch does not see, so that they would not be "
                        f"trained: use {instead}"
                    )

    def _plain_tensor(self) -> str | None:
        """What to do about a tensor that does not move with its module, if there is one."""
        for name, value in _attributes(self.module):
            if any(not tensor.requires_grad for tensor in _tensors_in(value)):
                return f"self.{name} is a plain tensor, which stays as it is: self.register_buffer('{name}', ...)"
        return None


class _Failed(ConfigError):
    """The user's own code raised an error, whose type and text are the ``reason``."""

    def __init__(self, what: str, reason: str, hint: str) -> None:
        super().__init__(f"{what}: {reason}{hint}")
        self.reason = reason


_FROM_A_WEIGHT = "take dtype and device of a new tensor from a weight, e.g. weight.new_zeros(...)"


# Cells


def _read_cell(cell: Cell, xs: Float[Tensor, "T B D"], where: str, like: Tensor) -> _Reading:
    batch_size = xs.shape[1]
    state = _checked_state(cell.initial_state(batch_size), batch_size, where, "initial_state", cell, like)
    outputs, states = [], [dict(state)]
    for x in xs.unbind(0):
        given = dict(state)
        versions = [(name, tensor, tensor._version) for name in state for tensor in tensors(state[name])]  # noqa: SLF001
        versions.append(("", x, x._version))  # noqa: SLF001
        result = cell.step(x, given)
        if not (isinstance(result, tuple) and len(result) == 2):
            raise ConfigError(f"{where}: step returns {kind(result)}: it must return (output, state)")
        output, new = result
        if not isinstance(output, Tensor):
            order = ": (output, state), in this order" if isinstance(output, Mapping) else ": a tensor [B, output_size]"
            raise ConfigError(f"{where}: step's output is {kind(output)}{order}")
        _checked_state(new, batch_size, where, "step", cell, like)
        if new is given or given.keys() != state.keys() or any(given[name] is not state[name] for name in state):
            raise ConfigError(f"{where}: step changes the dictionary that it is given: return a new one")
        for name, tensor, version in versions:
            if tensor._version != version:  # noqa: SLF001
                what = f"the state '{name}'" if name else "its input"
                raise ConfigError(f"{where}: step changes {what} in place: make new tensors, h + x and not h.add_(x)")
        if not new:
            raise ConfigError(f"{where}: its state is empty: a cell that carries nothing has no memory to measure")
        if not state.keys() <= new.keys():
            raise ConfigError(f"{where}: step makes a state of {[*new]} out of {[*state]}: names must stay")
        if tuple(output.shape) != (batch_size, cell.output_size):
            shapes = f"{tuple(output.shape)}, not {(batch_size, cell.output_size)}"
            raise ConfigError(f"{where}: step's output has shape {shapes}")
        _check_output(output, where, "step's output", like)
        for name, leaf in state.items():
            if isinstance(leaf, Slots) != isinstance(new[name], Slots):
                raise ConfigError(f"{where}: step makes '{name}' {kind(new[name])} out of {kind(leaf)}")
            if isinstance(leaf, Tensor) and leaf.dtype != new[name].dtype and not leaf.is_floating_point():
                kinds = f"{name_of(leaf.dtype)}, and step makes it {name_of(new[name].dtype)}"
                raise ConfigError(f"{where}: its state '{name}' begins as {kinds}: {_FROM_A_WEIGHT}")
        outputs.append(output)
        states.append(dict(new))
        state = new
    read = cell.output_state
    if read is not None and (read not in state or state[read].shape != outputs[-1].shape):
        raise ConfigError(f"{where}: output_state='{read}' is no state that is equal to its output")
    return _Reading(outputs, states)


def _cell_forward(cell: Cell, xs: Float[Tensor, "T B D"]) -> Tensor | None:
    return None if cell.walks else cell(xs)[0]


# Models


def _read_model(model: Model, inputs: Shaped[Tensor, "T B ..."], where: str, like: Tensor, size: int) -> _Reading:
    batch_size, seq_len = inputs.shape[1], len(inputs)
    state = _checked_state(model.initial_state(batch_size), batch_size, where, "initial_state", model, like)
    states, outputs, walked = [dict(state)], [], []
    versions = [(name, tensor, tensor._version) for name in state for tensor in tensors(state[name])]  # noqa: SLF001
    for step in model.walk(inputs, state):
        if not isinstance(step, Step):
            raise ConfigError(f"{where}: walk yields {kind(step)}: it must yield seqmem.models.Step(x, output, state)")
        if not (isinstance(step.x, Tensor) and step.x.requires_grad):
            raise ConfigError(f"{where}: walk yields an x without a gradient: take it from seqmem.models.entering")
        new = _checked_state(step.state, batch_size, where, "walk", model, like)
        versions += [(name, tensor, tensor._version) for name in new for tensor in tensors(new[name])]  # noqa: SLF001
        walked.append(new)
        states.append(dict(new))
        outputs.append(step.output)
    if len(walked) != seq_len:
        raise ConfigError(f"{where}: walk yields {len(walked)} steps over {seq_len} timesteps: one each")
    for now, then in zip((state, *walked), states, strict=True):
        if now.keys() != then.keys() or any(now[name] is not then[name] for name in now):
            raise ConfigError(f"{where}: walk changes a dictionary that it has yielded: make a new one each time")
    for name, tensor, version in versions:
        if tensor._version != version:  # noqa: SLF001
            raise ConfigError(f"{where}: walk changes the state '{name}' in place: make new tensors")
    if not any(states):
        raise ConfigError(f"{where}: its state is empty: a model that carries nothing has no memory to measure")
    predicted = model.read_out(torch.stack(outputs))
    if tuple(predicted.shape) != (seq_len, batch_size, size):
        expected = (seq_len, batch_size, size)
        raise ConfigError(f"{where}: its predictions have shape {tuple(predicted.shape)}, not {expected}")
    _check_output(predicted, where, "what it predicts", like)
    return _Reading(predicted.unbind(0), states)


def _model_forward(model: Model, inputs: Shaped[Tensor, "T B ..."]) -> Tensor:
    return model(inputs)[0]


# States


def _checked_state(state: Any, batch_size: int, where: str, method: str, module: nn.Module, like: Tensor) -> Any:
    """``state``, as ``method`` has returned it."""
    made = f"{where}: {method} makes" if method == "walk" else f"{where}: {method} returns"
    if not isinstance(state, Mapping):
        raise ConfigError(f"{made} {kind(state)} as state: it must be a dictionary of tensors, {_as_dict(state)}")
    for name, leaf in state.items():
        if not isinstance(name, str):
            raise ConfigError(f"{made} a state called {name!r}: names must be strings")
        if not isinstance(leaf, Tensor | Slots):
            names = "give each tensor a name of its own" if isinstance(leaf, tuple | list | Mapping) else (
                "it must be a tensor [B, ...], or Slots of such"
            )  # fmt: skip
            raise ConfigError(f"{made} {kind(leaf)} as state '{name}': {names}")
    shapes = {name: tuple(tensor.shape) for name, leaf in state.items() for tensor in tensors(leaf)}
    if any(shape[:1] != (batch_size,) for shape in shapes.values()):
        raise ConfigError(f"{where}: its state has shapes {shapes} for a batch of {batch_size}: the batch comes first")
    if "input" in state or ("state" in state and len(state) > 1):
        raise ConfigError(f"{where}: no state can be called 'input', nor 'state' beside others: traces are")
    for name, leaf in state.items():
        for tensor in tensors(leaf):
            is_lower = tensor.is_floating_point() and torch.promote_types(tensor.dtype, like.dtype) != tensor.dtype
            if tensor.device != like.device or (like.dtype == torch.float64 and is_lower):
                if tensor.device == like.device:
                    what, weights = f"in {name_of(tensor.dtype)}", "in float64 (gradients are measured in it)"
                else:
                    what, weights = f"on {tensor.device}", f"on {like.device}"
                line = f"{made} the state '{name}' {what} where the weights are {weights}"
                raise ConfigError(f"{line}: {_new(module)}")
    return state


def _check_output(output: Tensor, where: str, what: str, like: Tensor) -> None:
    if output.dtype != like.dtype:
        kinds = f"{name_of(output.dtype)} where the weights are {name_of(like.dtype)}"
        raise ConfigError(f"{where}: {what} is {kinds}: {_FROM_A_WEIGHT}")
    if not output.isfinite().all():
        raise ConfigError(f"{where}: {what} is not finite after a few timesteps from its initial state")


def _new(module: nn.Module) -> str:
    """How to make a tensor like the weights of ``module``."""
    name = next((name for name, _ in module.named_parameters() if not any(map(str.isdigit, name.split(".")))), None)
    return f"make it by self.{name}.new_zeros(...)" if name else _FROM_A_WEIGHT


def _as_dict(state: Any) -> str:
    many = len(state) if isinstance(state, tuple | list) else 1
    return "{'h': h, 'c': c}" if many > 1 else "{'h': h}"


# Comparisons


def _like(xs: Shaped[Tensor, "T B ..."], like: Tensor) -> Shaped[Tensor, "T B ..."]:
    """Inputs as a model of such weights gets them: real numbers in its dtype, tokens as they are."""
    return (xs.to(like.dtype) if xs.is_floating_point() else xs).to(like.device)


def _difference(one: _Reading, two: _Reading, rows: slice = slice(None)) -> str | None:
    """What differs in these rows beyond rounding: ``output`` or ``state 'h'``; None: nothing."""
    for (what, a), (_, b) in zip(one.values(rows), two.values(rows), strict=False):
        if a.shape != b.shape or a.dtype != b.dtype:
            return what
        double = a.dtype == torch.float64
        if not torch.allclose(a, b, rtol=1e-7 if double else 1e-3, atol=1e-9 if double else 1e-4, equal_nan=True):
            return what
    return None


def _changed(before: nn.Module, after: nn.Module) -> list[str]:
    """The attributes that two copies of one module, of which one has read, do not have in common."""
    former = dict(_attributes(before))
    return [name for name, value in _attributes(after) if name not in former or not _alike(former[name], value)]


def _alike(one: Any, two: Any) -> bool:
    if type(one) is not type(two):
        return False
    if isinstance(one, Tensor):
        return one.shape == two.shape and torch.equal(one.detach().cpu().double(), two.detach().cpu().double())
    if isinstance(one, bool | int | float | str):
        return one == two
    if isinstance(one, tuple | list | Mapping):
        first, second = _parts(one), _parts(two)
        return len(first) == len(second) and all(map(_alike, first, second))
    return True


_OF_TORCH = frozenset(vars(nn.Module()))


def _attributes(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """(``inner.h``, value) of all that a module and those inside carry, but for what torch keeps and sees itself."""
    for prefix, part in module.named_modules():
        for name, value in (*vars(part).items(), *part.named_buffers(recurse=False)):
            if name not in _OF_TORCH and not name.startswith("__"):
                yield f"{prefix}.{name}" if prefix else name, value


def _parts(value: Any) -> list[Any]:
    return [*value.values()] if isinstance(value, Mapping) else [*value] if isinstance(value, tuple | list) else [value]


def _tensors_in(value: Any) -> list[Tensor]:
    return [part for part in _parts(value) if isinstance(part, Tensor)]


def _has_graph(value: Any) -> bool:
    return any(tensor.grad_fn is not None for tensor in _tensors_in(value))


# Words


def _is_mixed(error: Exception) -> bool:
    """Whether tensors of two dtypes or devices came together, or a device that is not there was asked for."""
    words = ("dtype", "data type", "same device", "CUDA", "NVIDIA", "Expected object of scalar type")
    return isinstance(error, RuntimeError | AssertionError | ValueError) and any(word in str(error) for word in words)
