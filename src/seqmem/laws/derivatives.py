"""Laws on derivatives: gradients are those of the function; it is computed in float64; the trace follows the state.

A derivative along a random direction is cheap and tells that something is wrong; halving the direction tells where.

Axes: T time, B batch.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from ..cells.state import Slots, State, leaves, map_leaves, written
from .comparison import CounterExample, Outcome, Pair, compare, place
from .promises import Reading
from .subject import Subject
from .words import name_of

CLOSE = 1e-5
"""Tolerance of a gradient beside central differences, relative to the root mean square of the gradient."""

SMOOTH = 1e-4
"""Tolerance of the slopes over a near and a farther distance."""

_NEAR = 1e-6
"""The distance of central differences: rounding costs 1e-10, curvature 1e-12."""

_TIMESTEPS = 4


@dataclass(frozen=True)
class _Input:
    """A tensor by which gradients are computed; ``value`` with ``set`` into its place is read by the function."""

    name: str
    axes: tuple[str, ...]
    value: Tensor
    at: str = ""


def gradients_equal_differences(subject: Subject) -> Outcome:
    """The gradient by inputs, by each state and by each weight of a random sum of outputs and final state, by steps."""
    module, xs = subject.fresh(), subject.xs if subject.noun == "model" else subject.xs[:_TIMESTEPS]
    xs = xs.detach().clone()
    start = map_leaves(lambda leaf: leaf.detach().clone(), subject.start(module))
    inputs = _inputs(module, xs, start)
    weights: list[Tensor] = []

    def total() -> Tensor:
        reading = subject.read(module, xs, start)
        values = [value for value in (*reading.outputs, *leaves(reading.states[-1])) if value.is_floating_point()]
        if not weights:
            rng = torch.Generator().manual_seed(1)
            weights.extend(torch.randn(value.shape, dtype=torch.float64, generator=rng) for value in values)
        return sum((value.double() * weight).sum() for value, weight in zip(values, weights, strict=True))  # pyright: ignore[reportReturnType]

    for each in inputs:
        each.value.requires_grad_()
    value = total()
    gradients = _gradients(value, [each.value for each in inputs])
    outcome = Outcome(0.0)
    with torch.no_grad():
        for each, gradient in zip(inputs, gradients, strict=True):
            outcome = _worse(outcome, _differences(each, gradient, lambda: float(total()), abs(float(value))))
    return outcome


_DIRECTIONS = 5


def computes_in_float64(subject: Subject) -> Outcome:
    """Outputs and states are in float64, and smooth in it: their slopes over 1e-8 and over 1e-6 are the same.

    What is computed in less has steps of 1e-7 times its size, in any direction. A bend (relu, a maximum of two) may lie
    within reach in some, so the smoothest of several directions counts.
    """
    module, xs = subject.fresh(), subject.xs[:_TIMESTEPS] if subject.noun == "cell" else subject.xs
    xs = xs.detach().clone()
    start = map_leaves(lambda leaf: leaf.detach().clone(), subject.start(module))
    inputs = _inputs(module, xs, start)
    rng = torch.Generator().manual_seed(2)
    with torch.no_grad():
        reading = subject.read(module, xs, start)
        for what, value in reading.values():
            if value.is_floating_point() and value.dtype != torch.float64:
                where = f"it is in {name_of(value.dtype)}{_first_lower(subject)}"
                return Outcome(torch.inf, CounterExample(what, where))

        def at(distance: float, directions: Sequence[Tensor]) -> Tensor:
            before = [each.value.clone() for each in inputs]
            for each, direction in zip(inputs, directions, strict=True):
                each.value.add_(direction, alpha=distance)
            moved = subject.read(module, xs, start)
            for each, value in zip(inputs, before, strict=True):
                each.value.copy_(value)
            values = (*moved.outputs, *leaves(moved.states[-1]))
            return torch.cat([value.flatten() for value in values if value.is_floating_point()])

        measured = torch.inf
        for _ in range(_DIRECTIONS):
            ways = [torch.randn(each.value.shape, dtype=torch.float64, generator=rng) for each in inputs]
            near, far = ((at(distance, ways) - at(-distance, ways)) / (2 * distance) for distance in (1e-8, 1e-6))
            size = float(far.norm())
            measured = min(measured, float((near - far).norm()) / size if size else float(bool(inputs)))
            if measured <= SMOOTH:
                break
    if measured <= SMOOTH:
        return Outcome(measured)
    where = f"steps of more than rounding in float64{_first_lower(subject)}"
    return Outcome(measured, CounterExample("slope of outputs and state", where))


def trace_follows_what_was_written(subject: Subject) -> Outcome:
    """The last output depends on what a step wrote by way of the state after it alone, and as central differences say,
    when the sequence goes on from there; and what a step leaves as it was is the same object."""
    module, xs = subject.fresh(), subject.xs if subject.noun == "model" else subject.xs[:_TIMESTEPS]
    if xs.is_floating_point():
        xs = xs.detach().clone().requires_grad_()
    reading = subject.read(module, xs)
    states = [dict(state) for state in reading.states]
    if (again := _rewritten(states)) is not None:
        return Outcome(None, again)
    rng = torch.Generator().manual_seed(3)
    weight = torch.randn(reading.outputs[-1].shape, dtype=torch.float64, generator=rng)

    def end(reading: Reading) -> Tensor:
        return (reading.outputs[-1].double() * weight).sum()

    last, outcome = end(reading), Outcome(0.0)
    for t in range(1, len(states) - 1):
        moved = map_leaves(lambda leaf: leaf.detach().clone(), states[t])
        again = [leaf.requires_grad_() if leaf.is_floating_point() else leaf for leaf in leaves(moved)]
        partial = _gradients(end(subject.read(module, xs[t:], moved)), again)
        new = {id(tensor) for tensors in written(states[t - 1], states[t]).values() for tensor in tensors}
        at = f"written at timestep {t - 1}"
        through, named = [*leaves(states[t])], [name for name in moved for _ in leaves({name: moved[name]})]
        parts = [i for i, tensor in enumerate(through) if id(tensor) in new and tensor.is_floating_point()]
        traced = _gradients(last, [through[i] for i in parts])
        passed = _passed(through, partial, [through[i] for i in parts])
        pairs = [
            Pair(f"gradient by the state '{named[i]}'", ("row",), one, two, at)
            for i, one, two in zip(parts, traced, passed, strict=True)
        ]
        outcome = _worse(outcome, compare(pairs, CLOSE, ("as traced", "by the state that goes on")))
        with torch.no_grad():
            for i in parts:
                each = _Input(f"the state '{named[i]}'", ("row",), again[i], at)

                def total(t: int = t, moved: State = moved) -> float:
                    return float(end(subject.read(module, xs[t:], moved)))

                outcome = _worse(outcome, _differences(each, partial[i], total, abs(float(last.detach()))))
    return outcome


def _passed(through: Sequence[Tensor], partial: Sequence[Tensor], by: Sequence[Tensor]) -> list[Tensor]:
    """Gradients by some of the tensors of one state, of which others may depend on them, from those by each alone."""
    pairs = [(tensor, gradient) for tensor, gradient in zip(through, partial, strict=True) if tensor.requires_grad]
    known = [tensor for tensor in by if tensor.requires_grad]
    if not known:
        return [torch.zeros_like(tensor) for tensor in by]
    tensors, gradients = [tensor for tensor, _ in pairs], [gradient for _, gradient in pairs]
    passed = iter(
        torch.autograd.grad(tensors, known, gradients, retain_graph=True, allow_unused=True, materialize_grads=True)
    )
    return [next(passed) if tensor.requires_grad else torch.zeros_like(tensor) for tensor in by]


def _inputs(module: torch.nn.Module, xs: Tensor, start: State) -> list[_Input]:
    inputs = [_Input("the input", ("timestep", "row"), xs)]
    for name, leaf in start.items():
        for slot, tensor in enumerate(leaves({name: leaf})):
            at = f"slot {slot}" if isinstance(leaf, Slots) else ""
            inputs.append(_Input(f"the state '{name}'", ("row",), tensor, at))
    inputs += [_Input(name, (), weight) for name, weight in module.named_parameters() if weight.requires_grad]
    return [each for each in inputs if each.value.is_floating_point() and each.value.numel()]


def _gradients(value: Tensor, by: Sequence[Tensor]) -> list[Tensor]:
    """Zero by what ``value`` does not depend on, as far as autograd knows."""
    known = [tensor for tensor in by if tensor.requires_grad]
    if not (known and value.requires_grad):
        return [torch.zeros_like(tensor) for tensor in by]
    gradients = torch.autograd.grad(value, known, retain_graph=True, allow_unused=True, materialize_grads=True)
    given = iter(gradients)
    return [next(given) if tensor.requires_grad else torch.zeros_like(tensor) for tensor in by]


def _differences(each: _Input, gradient: Tensor, total: Callable[[], float], size: float) -> Outcome:
    """``gradient`` beside central differences of ``total``, a function of ``each.value``, which is changed in place."""
    value, before = each.value.detach(), each.value.detach().clone()
    gradient = gradient.detach().double()
    rng = torch.Generator().manual_seed(4)
    direction = torch.randn(value.shape, dtype=torch.float64, generator=rng)
    floor = max(float(gradient.square().mean().sqrt()), 1e-3 * max(1.0, size))

    def both(direction: Tensor) -> tuple[float, float, float]:
        """(by autograd, by differences, how far apart)"""
        ends = []
        for sign in (1, -1):
            value.copy_(before + sign * _NEAR * direction)
            ends.append(total())
        value.copy_(before)
        slope, known = (ends[0] - ends[1]) / (2 * _NEAR), float((gradient * direction).sum())
        apart = abs(slope - known) / max(abs(slope), abs(known), floor)
        return known, slope, torch.inf if apart != apart else apart

    known, slope, measured = both(direction)
    if measured <= CLOSE:
        return Outcome(measured)
    inside = direction.flatten().nonzero().flatten()
    while len(inside) > 1:  # the half that is wrong, and so on
        halves = inside.tensor_split(2)
        tried = [both(_only(direction, half)) for half in halves]
        inside = halves[0] if tried[0][2] >= tried[1][2] else halves[1]
    index = tuple(int(i) for i in torch.unravel_index(inside[0], value.shape))
    one = torch.zeros_like(direction)
    one[index] = 1.0
    ways = ("by autograd", "by central differences")
    known_there, slope_there, there = both(one)
    if there <= CLOSE:  # not one number alone: each evaluation differs, for example
        return Outcome(
            measured, CounterExample(f"gradient by {each.name}", "along all of it", (), ways, (known, slope))
        )
    where = place(each.axes, index, each.at) if each.axes else f"[{', '.join(map(str, index))}]"
    values = known_there, slope_there
    return Outcome(measured, CounterExample(f"gradient by {each.name}", where, index, ways, values))


def _only(direction: Tensor, inside: Tensor) -> Tensor:
    kept = torch.zeros(direction.numel(), dtype=direction.dtype)
    kept[inside] = direction.flatten()[inside]
    return kept.view(direction.shape)


def _worse(one: Outcome, two: Outcome) -> Outcome:
    measured = max(one.measured or 0.0, two.measured or 0.0)
    return Outcome(measured, one.counter or two.counter)


def _rewritten(states: Sequence[State]) -> CounterExample | None:
    """A state that every step returns as a new tensor with the old values: the trace would take each as written."""
    for name, leaf in states[0].items():
        pairs = [(old.get(name), new.get(name)) for old, new in pairwise(states)]
        same = [
            isinstance(old, Tensor) and isinstance(new, Tensor) and new is not old and torch.equal(old, new)
            for old, new in pairs
        ]
        if isinstance(leaf, Tensor) and all(same):
            return CounterExample(f"state '{name}'", "each step returns a new tensor with the values of the old one")
    return None


class _Watch(TorchFunctionMode):
    """Remembers the first operation that makes a tensor of real numbers in less than float64."""

    first: str = ""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        real = isinstance(result, Tensor) and result.is_floating_point()
        if not self.first and real and result.dtype != torch.float64:
            self.first = f"{func.__name__} makes {name_of(result.dtype)}"
        return result


def _first_lower(subject: Subject) -> str:
    with torch.no_grad(), _Watch() as watch:
        subject.read(subject.fresh(), subject.xs)
    return f": torch's {watch.first}" if watch.first else ""
