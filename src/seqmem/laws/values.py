"""Laws on the values of a sequence: a shortcut equals its steps; time, rows and cuts.

Axes: T time, B batch, H output features.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

from ..cells.state import State, leaves, map_leaves
from .comparison import CounterExample, Outcome, Pair, compare, place
from .subject import Subject, pairs_of_states

EXACT = 1e-10
"""Tolerance of what is the same sum in another order, in float64."""

SINGLE = 1e-4
"""The same in float32."""

LONG = 1e-6
"""The same over four times the length, in which rounding grows."""

STEPS = ("forward", "its steps")


def forward_equals_steps(subject: Subject) -> Outcome:
    """Outputs, final state, and the gradients of a random sum of both, from a state that is not the initial one."""
    module = subject.fresh()
    start = map_leaves(_differentiable, subject.start(module))
    xs = _differentiable(subject.xs)
    weights = [parameter for parameter in module.parameters() if parameter.requires_grad]
    by = [tensor for tensor in (xs, *leaves(start), *weights) if tensor.requires_grad]

    def everything(outputs: Tensor, state: State) -> tuple[Tensor, State, list[Tensor]]:
        return outputs, state, _gradients([outputs, *leaves(state)], by)

    outputs, state, gradients = everything(*subject.forward(module, xs, start))
    reading = subject.read(module, xs, start)
    expected, final, right = everything(torch.stack([*reading.outputs]), reading.states[-1])

    def pairs() -> Iterator[Pair]:
        yield Pair("output", ("timestep", "row"), outputs, expected)
        yield from pairs_of_states(state, final)
        names = {id(weight): name for name, weight in module.named_parameters()}
        of_states = {id(leaf): name for name, whole in start.items() for leaf in leaves({name: whole})}
        for tensor, one, two in zip(by, gradients, right, strict=True):
            if tensor is xs:
                yield Pair("gradient by the input", ("timestep", "row"), one, two)
            elif id(tensor) in of_states:
                yield Pair(f"gradient by the state '{of_states[id(tensor)]}'", ("row",), one, two)
            else:
                yield Pair(f"gradient by {names[id(tensor)]}", (), one, two)

    return compare(pairs(), EXACT, STEPS)


def forward_equals_steps_in_float32(subject: Subject) -> Outcome:
    """Outputs and final state in the precision in which runs train."""
    module = subject.fresh(torch.float32)
    with torch.no_grad():
        outputs, state = subject.forward(module, subject.xs)
        reading = subject.read(module, subject.xs)
    whole = Pair("output", ("timestep", "row"), outputs, torch.stack([*reading.outputs]))
    return compare([whole, *pairs_of_states(state, reading.states[-1])], SINGLE, STEPS)


def no_output_sees_the_future(subject: Subject) -> Outcome:
    """Whatever follows a timestep, the outputs up to it are the same."""
    module, xs = subject.fresh(), subject.xs
    with torch.no_grad():
        before, _ = subject.forward(module, xs)

        def pairs() -> Iterator[Pair]:
            for at in range(1, len(xs)):
                after, _ = subject.forward(module, torch.cat([xs[:at], subject.other[at:]]))
                where = f"inputs changed from timestep {at} on"
                yield Pair("output", ("timestep", "row"), after[:at], before[:at], where)

        return compare(pairs(), EXACT, ("with other inputs later", "before"))


def rows_are_independent(subject: Subject) -> Outcome:
    """A sequence gives the same alone as in a batch, by forward and by steps."""
    module, xs = subject.fresh(), subject.xs
    with torch.no_grad():
        whole, final = subject.forward(module, xs)
        by_steps = torch.stack([*subject.read(module, xs).outputs])

        def pairs() -> Iterator[Pair]:
            for row in range(xs.shape[1]):
                rows = slice(row, row + 1)
                alone, state = subject.forward(module, xs[:, rows])
                yield _of_row("output", row, whole, alone)
                for pair in pairs_of_states(map_leaves(lambda leaf, rows=rows: leaf[rows], final), state):
                    if pair.axes:
                        pair = pair._replace(axes=(), one=pair.one[0], two=pair.two[0], at=_row(pair, row))
                    yield pair
                if subject.has_shortcut:
                    reading = subject.read(module, xs[:, rows])
                    yield _of_row(f"output of {subject.verb}", row, by_steps, torch.stack([*reading.outputs]))

        return compare(pairs(), EXACT, (f"in a batch of {xs.shape[1]}", "alone"))


def state_carries_over_any_cut(subject: Subject) -> Outcome:
    """Two parts of a sequence, the second from the final state of the first, give what the whole gives."""
    module, xs = subject.fresh(), subject.xs
    with torch.no_grad():
        whole, final = subject.forward(module, xs)

        def pairs() -> Iterator[Pair]:
            for at in range(1, len(xs)):
                head, state = subject.forward(module, xs[:at])
                tail, state = subject.forward(module, xs[at:], state)
                where = f"cut before timestep {at}"
                yield Pair("output", ("timestep", "row"), torch.cat([head, tail]), whole, where)
                yield from pairs_of_states(state, final, at=where)

        return compare(pairs(), EXACT, ("in two parts", "in one"))


def four_times_the_length(subject: Subject) -> Outcome:
    """Forward and steps over four times the length: finite, and the same."""
    module, xs = subject.fresh(), subject.longer
    with torch.no_grad():
        outputs, _ = subject.forward(module, xs)
        expected = torch.stack([*subject.read(module, xs).outputs])
    for name, value in (("forward", outputs), (subject.verb, expected)):
        if tuple(value.shape) != subject.shapes(len(xs)):
            shapes = f"shape {tuple(value.shape)}, not {subject.shapes(len(xs))}"
            return Outcome(torch.inf, CounterExample(f"output of {name}", shapes))
        if not value.isfinite().all():
            index = tuple(int(i) for i in (~value.isfinite()).nonzero()[0])
            where = f"{place(('timestep', 'row'), index)}: it is {float(value[index])}"
            return Outcome(torch.inf, CounterExample(f"output of {name}", where, index))
    return compare([Pair("output", ("timestep", "row"), outputs, expected)], LONG, STEPS)


def _differentiable(tensor: Tensor) -> Tensor:
    return tensor.detach().clone().requires_grad_() if tensor.is_floating_point() else tensor


def _gradients(values: list[Tensor], by: list[Tensor]) -> list[Tensor]:
    """Gradients of a random sum of ``values``; zero by what they do not depend on."""
    rng = torch.Generator().manual_seed(0)
    values = [value for value in values if value.requires_grad]
    weights = [torch.randn(value.shape, dtype=value.dtype, generator=rng) for value in values]
    return [*torch.autograd.grad(values, by, weights, allow_unused=True, materialize_grads=True)] if values else []


def _of_row(what: str, row: int, whole: Tensor, alone: Tensor) -> Pair:
    return Pair(what, ("timestep",), whole[:, row], alone[:, 0], f"row {row}")


def _row(pair: Pair, row: int) -> str:
    return ", ".join(filter(None, [pair.at, f"row {row}"]))
