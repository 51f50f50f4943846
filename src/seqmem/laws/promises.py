"""What cells and models promise to return: the state, the outputs and the walk, seen while a sequence is read.

Axes: T time, B batch, D input features, H output features.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from ..cells.base import Cell
from ..cells.state import Slots, State, tensors
from ..models.base import Model, Step
from .words import kind, name_of


class Broken(Exception):
    """A promise that is broken. The message is one line: what, and what instead."""


FROM_A_WEIGHT = "take dtype and device of a new tensor from a weight, e.g. weight.new_zeros(...)"


@dataclass(frozen=True)
class Reading:
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


# Cells


def read_cell(cell: Cell, xs: Float[Tensor, "T B D"], like: Tensor) -> Reading:
    batch_size = xs.shape[1]
    state = _checked_state(cell.initial_state(batch_size), batch_size, "initial_state", cell, like)
    outputs, states = [], [dict(state)]
    for x in xs.unbind(0):
        given = dict(state)
        versions = [(name, tensor, tensor._version) for name in state for tensor in tensors(state[name])]  # noqa: SLF001
        versions.append(("", x, x._version))  # noqa: SLF001
        result = cell.step(x, given)
        if not (isinstance(result, tuple) and len(result) == 2):
            raise Broken(f"step returns {kind(result)}: it must return (output, state)")
        output, new = result
        if not isinstance(output, Tensor):
            order = ": (output, state), in this order" if isinstance(output, Mapping) else ": a tensor [B, output_size]"
            raise Broken(f"step's output is {kind(output)}{order}")
        _checked_state(new, batch_size, "step", cell, like)
        if new is given or given.keys() != state.keys() or any(given[name] is not state[name] for name in state):
            raise Broken("step changes the dictionary that it is given: return a new one")
        for name, tensor, version in versions:
            if tensor._version != version:  # noqa: SLF001
                what = f"the state '{name}'" if name else "its input"
                raise Broken(f"step changes {what} in place: make new tensors, h + x and not h.add_(x)")
        if not new:
            raise Broken("its state is empty: a cell that carries nothing has no memory to measure")
        if not state.keys() <= new.keys():
            raise Broken(f"step makes a state of {[*new]} out of {[*state]}: names must stay")
        if tuple(output.shape) != (batch_size, cell.output_size):
            shapes = f"{tuple(output.shape)}, not {(batch_size, cell.output_size)}"
            raise Broken(f"step's output has shape {shapes}")
        _check_output(output, "step's output", like)
        for name, leaf in state.items():
            if isinstance(leaf, Slots) != isinstance(new[name], Slots):
                raise Broken(f"step makes '{name}' {kind(new[name])} out of {kind(leaf)}")
            if isinstance(leaf, Tensor) and leaf.dtype != new[name].dtype and not leaf.is_floating_point():
                kinds = f"{name_of(leaf.dtype)}, and step makes it {name_of(new[name].dtype)}"
                raise Broken(f"its state '{name}' begins as {kinds}: {FROM_A_WEIGHT}")
        outputs.append(output)
        states.append(dict(new))
        state = new
    read = cell.output_state
    if read is not None and (read not in state or state[read].shape != outputs[-1].shape):
        raise Broken(f"output_state='{read}' is no state that is equal to its output")
    return Reading(outputs, states)


# Models


def read_model(model: Model, inputs: Shaped[Tensor, "T B ..."], like: Tensor, size: int) -> Reading:
    batch_size, seq_len = inputs.shape[1], len(inputs)
    state = _checked_state(model.initial_state(batch_size), batch_size, "initial_state", model, like)
    states, outputs, walked = [dict(state)], [], []
    versions = [(name, tensor, tensor._version) for name in state for tensor in tensors(state[name])]  # noqa: SLF001
    for step in model.walk(inputs, state):
        if not isinstance(step, Step):
            raise Broken(f"walk yields {kind(step)}: it must yield seqmem.models.Step(x, output, state)")
        if not (isinstance(step.x, Tensor) and step.x.requires_grad):
            raise Broken("walk yields an x without a gradient: take it from seqmem.models.entering")
        new = _checked_state(step.state, batch_size, "walk", model, like)
        versions += [(name, tensor, tensor._version) for name in new for tensor in tensors(new[name])]  # noqa: SLF001
        walked.append(new)
        states.append(dict(new))
        outputs.append(step.output)
    if len(walked) != seq_len:
        raise Broken(f"walk yields {len(walked)} steps over {seq_len} timesteps: one each")
    for now, then in zip((state, *walked), states, strict=True):
        if now.keys() != then.keys() or any(now[name] is not then[name] for name in now):
            raise Broken("walk changes a dictionary that it has yielded: make a new one each time")
    for name, tensor, version in versions:
        if tensor._version != version:  # noqa: SLF001
            raise Broken(f"walk changes the state '{name}' in place: make new tensors")
    if not any(states):
        raise Broken("its state is empty: a model that carries nothing has no memory to measure")
    predicted = model.read_out(torch.stack(outputs))
    if tuple(predicted.shape) != (seq_len, batch_size, size):
        expected = (seq_len, batch_size, size)
        raise Broken(f"its predictions have shape {tuple(predicted.shape)}, not {expected}")
    _check_output(predicted, "what it predicts", like)
    return Reading(predicted.unbind(0), states)


# States


def _checked_state(state: Any, batch_size: int, method: str, module: nn.Module, like: Tensor) -> Any:
    """``state``, as ``method`` has returned it."""
    made = f"{method} makes" if method == "walk" else f"{method} returns"
    if not isinstance(state, Mapping):
        raise Broken(f"{made} {kind(state)} as state: it must be a dictionary of tensors, {_as_dict(state)}")
    for name, leaf in state.items():
        if not isinstance(name, str):
            raise Broken(f"{made} a state called {name!r}: names must be strings")
        if not isinstance(leaf, Tensor | Slots):
            names = "give each tensor a name of its own" if isinstance(leaf, tuple | list | Mapping) else (
                "it must be a tensor [B, ...], or Slots of such"
            )  # fmt: skip
            raise Broken(f"{made} {kind(leaf)} as state '{name}': {names}")
    shapes = {name: tuple(tensor.shape) for name, leaf in state.items() for tensor in tensors(leaf)}
    if any(shape[:1] != (batch_size,) for shape in shapes.values()):
        raise Broken(f"its state has shapes {shapes} for a batch of {batch_size}: the batch comes first")
    if "input" in state or ("state" in state and len(state) > 1):
        raise Broken("no state can be called 'input', nor 'state' beside others: traces are")
    for name, leaf in state.items():
        for tensor in tensors(leaf):
            is_lower = tensor.is_floating_point() and torch.promote_types(tensor.dtype, like.dtype) != tensor.dtype
            if tensor.device != like.device or (like.dtype == torch.float64 and is_lower):
                if tensor.device == like.device:
                    what, weights = f"in {name_of(tensor.dtype)}", "in float64 (gradients are measured in it)"
                else:
                    what, weights = f"on {tensor.device}", f"on {like.device}"
                line = f"{made} the state '{name}' {what} where the weights are {weights}"
                raise Broken(f"{line}: {_new(module)}")
    return state


def _check_output(output: Tensor, what: str, like: Tensor) -> None:
    if output.dtype != like.dtype:
        kinds = f"{name_of(output.dtype)} where the weights are {name_of(like.dtype)}"
        raise Broken(f"{what} is {kinds}: {FROM_A_WEIGHT}")
    if not output.isfinite().all():
        raise Broken(f"{what} is not finite after a few timesteps from its initial state")


def _new(module: nn.Module) -> str:
    """How to make a tensor like the weights of ``module``."""
    name = next((name for name, _ in module.named_parameters() if not any(map(str.isdigit, name.split(".")))), None)
    return f"make it by self.{name}.new_zeros(...)" if name else FROM_A_WEIGHT


def _as_dict(state: Any) -> str:
    many = len(state) if isinstance(state, tuple | list) else 1
    return "{'h': h, 'c': c}" if many > 1 else "{'h': h}"
