"""Laws on what is beside the values: what is returned, what takes part, and what may not stay or be drawn.

Axes: T time, B batch.
"""

from collections.abc import Iterator
from dataclasses import replace

import torch

from ..cells.state import leaves
from ..randomness import disturbed
from .attributes import changed, refuse_hidden_weights, refuse_late_weights
from .comparison import CounterExample, Outcome, Pair, compare
from .subject import Subject, pairs_of_readings, pairs_of_states
from .values import EXACT


def returns_what_it_must(subject: Subject) -> Outcome:
    """States are dictionaries of tensors [B, ...], outputs have their shape and type, nothing is changed in place, and
    torch sees every weight.

    Raises:
        Broken: one of these is not so.
    """
    refuse_hidden_weights(subject.module)
    for dtype in (torch.float64, torch.float32):
        module = subject.fresh(dtype)
        names = set(module.state_dict())
        subject.looked_at(module, subject.like(module, subject.xs), torch.empty(0, dtype=dtype))
        refuse_late_weights(module, names, subject.verb)
    return Outcome(None)


def everything_takes_part(subject: Subject) -> Outcome:
    """No weight, no input and no state is without effect on outputs and final state. A state outside of the graph, such
    as a counter, and one that is gone in the end, as an encoder's, are let be."""
    module, xs = subject.fresh(), subject.xs
    start = subject.start(module)
    if xs.is_floating_point():
        xs = xs.detach().clone().requires_grad_()
    for leaf in leaves(start):
        if leaf.is_floating_point():
            leaf.requires_grad_()
    outputs, state = subject.forward(module, xs, start)
    rng = torch.Generator().manual_seed(0)
    values = [value for value in (outputs, *leaves(state)) if value.requires_grad]
    terms = [(value * torch.randn(value.shape, dtype=value.dtype, generator=rng)).sum() for value in values]
    by = [("the input", xs)]
    for name in start:
        if name in state and any(leaf.requires_grad for leaf in leaves({name: state[name]})):
            by += [(f"the state '{name}'", leaf) for leaf in leaves({name: start[name]})]
    by = [(name, tensor) for name, tensor in [*by, *module.named_parameters()] if tensor.requires_grad]
    if not (by and terms):
        return Outcome(None)
    gradients = torch.autograd.grad(torch.stack(terms).sum(), [tensor for _, tensor in by], allow_unused=True)
    for (name, _), gradient in zip(by, gradients, strict=True):
        if gradient is None or not gradient.any():
            return Outcome(None, CounterExample(f"gradient by {name}", "it is zero everywhere"))
    return Outcome(None)


def same_bits_again(subject: Subject) -> Outcome:
    """The same weights, inputs and state give the same bits: again, after other sequences, in another copy, and
    whatever the global generators of torch, numpy and Python are at. Step by step from the last to the first they give
    the same but for rounding.

    In training mode torch's may be drawn from, which a run seeds at every update; numpy's and Python's may not.
    """
    module, xs, other = subject.fresh(), subject.xs, subject.other
    with torch.no_grad():
        with disturbed(0):
            first, final = subject.forward(module, xs)
            reading = subject.read(module, xs)
        with disturbed(1) as touched:
            subject.forward(module, other)
            again, state = subject.forward(module, xs)
            read_again = subject.read(module, xs)
        copy, _ = subject.forward(subject.fresh(), xs)

        def pairs() -> Iterator[Pair]:
            yield Pair("output", ("timestep", "row"), again, first)
            yield from pairs_of_states(state, final)
            yield Pair("output of another copy", ("timestep", "row"), copy, first)
            yield from pairs_of_readings(read_again, reading)

        def pairs_of_steps() -> Iterator[Pair]:
            for t in range(len(xs) - 1, -1, -1):
                alone = subject.read(module, xs[t : t + 1], reading.states[t])
                where = f"timestep {t} again, from the state before it"
                yield Pair("output", ("row",), alone.outputs[0], reading.outputs[t], where)
                yield from pairs_of_states(alone.states[1], reading.states[t + 1], "state", where)

        outcome = compare(pairs(), 0.0, ("again", "first"))
        if outcome.counter is None:
            # A model may compute something of all timesteps in one product, so that one alone is rounded otherwise.
            outcome = compare(pairs_of_steps(), EXACT, ("again", "first"))
    drawn = f"{_listed(touched)} drawn from in eval mode" if touched else ""
    if outcome.counter is not None:
        kept = changed(subject.fresh(), module)
        why = f"self.{kept[0]} is changed by reading: what is carried on belongs into the state" if kept else ""
        return Outcome(outcome.measured, replace(outcome.counter, why=why or drawn))
    counter = CounterExample("global generators", drawn) if drawn else _in_training(subject)
    return Outcome(outcome.measured, counter)


def _in_training(subject: Subject) -> CounterExample | None:
    """What is drawn in training mode comes from torch's global generator, and from no other."""
    module = subject.fresh().train()
    before = {name: value.clone() for name, value in module.state_dict().items()}
    outputs = []
    for _ in range(2):
        with disturbed(0) as touched:
            outputs.append(subject.forward(module, subject.xs)[0])
        if others := [name for name in touched if name != "torch"]:
            return CounterExample("global generators", f"in training {_listed(others)} drawn from")
    unchanged = all(torch.equal(before[name], value) for name, value in module.state_dict().items())
    if unchanged and not torch.equal(*outputs):  # what is in the state dict may change, as in batch normalisation
        return CounterExample("output in training", "another one each time, with torch's global generator at the same")
    return None


def _listed(names: list[str]) -> str:
    return f"{' and '.join(names)}'s {'is' if len(names) == 1 else 'are'}"
