"""The central measurement: how much of the loss gradient reaches every timestep, and how fast it decays.

Axes: T time, B batch, K timesteps back from the answer.
"""

from collections.abc import Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from ..cells.state import leaves
from ..cells.walked import Walked
from ..decay import DESCRIPTION, INPUT, NUMBERS, Trace, decays_of, in_words, together
from ..denormals import flush_denormal
from ..measurement import Measurement
from ..models.base import Model, Tapped, loss_and_gradient, loss_per_sequence
from ..signals import Batch
from ..tasks.base import Task
from .base import Curves, Probe

_AT_ONCE = 40_000
"""Trace up to this many timesteps x sequences together: at 64 units each takes some 5 KB."""

_LARGE_STATE = 512
"""Numbers of a state from whose double on fewer sequences are traced together: a matrix memory's."""

_REUSED = 10_000
"""Reuse a trace's buffers up to this many timesteps x sequences: allocating costs 0.1 ms, little in a longer trace."""


def gradient_trace(
    model: Model, task: Task, batch: Batch, *, loss: str = "last", by: str = "auto"
) -> dict[str, Float[Tensor, "T B"]]:
    """``|| d loss_b / d s_t ||`` (L2, float64) for every state s that the model writes at timestep t, and for
    ``input``, what enters the first layer at t.

    Measured step by step on a float64 copy on the CPU: the model is untouched, a fused cell is traced like any other,
    and norms that float32 would round to zero survive. Each sequence has its own loss, so the batch size cancels.
    These are total derivatives: an LSTM's h_t is made of c_t, so what flows through h_t counts at c_t too.

    What is written at t is the tensor that was not there before: the whole state of an LSTM; for slots (attention's
    keys) the ones appended at t. NaN: a state that timestep t left as it was, or that it does not have.

    Args:
        loss: ``last`` propagates the last answered timestep's loss alone. ``all`` takes the whole loss; where every
            timestep is answered, fresh gradient then enters at each, and no decay can be seen.
        by: ``step`` is the definition. ``auto`` lets models that can (``Model.tapped``) compute the same norms,
            equal to 1e-10, with their own float64 backward pass, which takes a fraction of the time.

    Raises:
        ValueError: another ``loss`` or ``by``; a state is changed in place; the model's walk hides its input.
    """
    return Tracer(model, task, loss=loss, by=by).norms(batch)


class Tracer:
    """``gradient_trace`` of one model, again and again while it is trained: what stays the same is made once."""

    def __init__(self, model: Model, task: Task, *, loss: str = "last", by: str = "auto") -> None:
        if loss not in ("last", "all"):
            raise ValueError(f"trace.loss={loss!r}: must be 'last' or 'all'")
        if by not in ("auto", "step"):
            raise ValueError(f"by={by!r}: must be 'auto' or 'step'")
        self._model, self._task, self._loss, self._by = model, task, loss, by
        self.knows = all(type(part).__module__.startswith(_OUR_MODULES) for part in model.modules())
        """All modules are seqmem's or torch's: the model draws no random numbers, and keeps nothing but its weights."""
        self._twin: Model | None = None
        self._inside: Tensor | None = None
        self._now = _tensors(model)
        self._batch: Batch | None = None
        self._parts: list[_Part] = []
        self._taps: Tapped | None = None

    def weights(self) -> Float[Tensor, " N"]:
        """A copy of all weights, to be measured later. For a model that the tracer ``knows``."""
        return torch.cat([tensor.detach().flatten() for tensor in self._now])

    def measure(self, batch: Batch, weights: Float[Tensor, " N"] | None = None) -> "Trace":
        """``weights``: those of the model at another time."""
        norms = self.norms(batch, weights)
        answered_at = np.concatenate([part.answered_at for part in self._parts])
        return Trace({name: values.numpy() for name, values in norms.items()}, answered_at)

    def norms(self, batch: Batch, weights: Float[Tensor, " N"] | None = None) -> dict[str, Float[Tensor, "T B"]]:
        """As ``gradient_trace``. Buffers and copies of the batch are reused if it is the one of the last call."""
        model = self._double(weights)
        if batch is not self._batch or not self.knows:
            numbers = sum(leaf.numel() for leaf in leaves(model.initial_state(1)))
            self._batch, self._parts, self._taps = batch, list(_parts(batch, self._loss, numbers)), None
        norms = [self._part(model, part) for part in self._parts]
        return {name: torch.cat([part[name] for part in norms], 1) for name in norms[0]}

    def _part(self, model: Model, part: "_Part") -> dict[str, Float[Tensor, "T B"]]:
        taps = self._taps
        if taps is None and self._by == "auto":
            taps = model.tapped(part.batch.inputs, part.counted)
            if self.knows and len(self._parts) == 1 and part.batch.asked.numel() <= _REUSED:
                self._taps = taps
        if taps is None:
            return _by_steps(model, self._task, part.batch)

        def gradient(predicted: Float[Tensor, "A B K"]) -> Float[Tensor, "A B K"]:
            return loss_and_gradient(self._task, predicted, part.answers, part.total, mean=False)[1]

        by_input, by_states = taps.norms(gradient)
        return {INPUT: by_input, **by_states}

    def _double(self, weights: Float[Tensor, " N"] | None) -> Model:
        """The model in float64 on the CPU, as it is now or with other weights."""
        twin = self._twin
        if twin is None or not self.knows:
            twin = self._twin = deepcopy(self._model).to("cpu").double().eval()
            if self.knows:
                twin.requires_grad_(False)  # no state of seqmem's cells comes from the weights alone
                self._inside = _laid_end_to_end(_tensors(twin))
        if self._inside is not None:
            self._inside.copy_(self.weights() if weights is None else weights)
        return twin


_OUR_MODULES = (f"{__name__.partition('.')[0]}.", "torch.nn.modules.")


def _tensors(model: Model) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def _laid_end_to_end(tensors: Sequence[Tensor]) -> Float[Tensor, " N"]:
    """Move all tensors into one piece of memory, so that a single copy fills them; that memory."""
    whole = torch.cat([tensor.flatten() for tensor in tensors])
    for tensor, part in zip(tensors, whole.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.data = part.view(tensor.shape)
    return whole


@dataclass(frozen=True)
class _Part:
    """Sequences that are traced together, in float64 on the CPU.

    ``counted``: the timesteps that count in the loss; ``answers``: the batch at those; ``total``: see
    ``loss_per_sequence``.
    """

    batch: Batch
    counted: slice
    answers: Batch
    total: Float[Tensor, " B"] | None
    answered_at: Int[ndarray, " B"]


def _parts(batch: Batch, loss: str, numbers: int) -> Iterator[_Part]:
    """``numbers``: of the state. A walk keeps those of every timestep: few sequences at once where they are many."""
    batch = batch.to("cpu", torch.float64)
    if loss == "last":
        batch = batch.last_answer_only()
    timesteps, sequences = batch.asked.shape
    at_once = max(1, _AT_ONCE // timesteps // max(1, numbers // _LARGE_STATE))
    for start in range(0, sequences, at_once):
        part = batch.sequences(start, start + at_once)
        counted = part.weighted
        answers = part.part(counted.start, counted.stop)
        total = None if len(answers.weights) == 1 else part.weights.sum(0)
        yield _Part(part, counted, answers, total, part.answered_at.numpy())


def _by_steps(model: Model, task: Task, batch: Batch) -> dict[str, Float[Tensor, "T B"]]:
    """The definition: the gradient by what every step wrote, as autograd has it."""
    sequences = batch.asked.shape[1]
    outputs = []
    with torch.enable_grad():
        state = model.initial_state(sequences)
        walked = Walked(state, sequences, INPUT)
        for step in model.walk(batch.inputs, state):
            if not step.x.requires_grad:
                raise ValueError(
                    "the model's walk yields an x without a gradient: let it come from models.base.entering"
                )
            outputs.append(step.output)
            walked.add(step.x, state, step.state)
            state = step.state
        total = loss_per_sequence(task, model.read_out(torch.stack(outputs)), batch).sum()
        return walked.norms(total)


class GradientProbe(Probe):
    """``gradient_trace`` of the training length, and how each of its series decays.

    Args:
        loss: as in ``gradient_trace``.
    """

    name = "gradient"
    numbers = NUMBERS
    main = DESCRIPTION.main
    in_words = staticmethod(in_words)
    curves = Curves(
        "the loss gradient's norm",
        {"state": "everything the cell carries past a timestep", INPUT: "what enters the first layer"},
        log=True,
        heatmap="Gradient norm at the carried state",
    )

    def __init__(self, *, loss: str = "last") -> None:
        self._loss = loss

    def measure(self, model: Model, task: Task, batch: Batch) -> Measurement:
        (measurement,) = measurements([Tracer(model, task, loss=self._loss).measure(batch)])
        return measurement

    def combined(self, series: Mapping[str, Float[ndarray, "T B"]]) -> Mapping[str, Float[ndarray, "T B"]]:
        return {self.main: together(series)}

    def snapshots(self, model: Model, task: Task) -> "_Snapshots | None":
        tracer = Tracer(model, task, loss=self._loss)
        return _Snapshots(tracer) if tracer.knows else None


class _Snapshots:
    """Copies of a model's weights, traced in a row."""

    def __init__(self, tracer: Tracer) -> None:
        self._tracer = tracer
        weights = tracer.weights()
        self.nbytes = weights.nbytes

    def take(self) -> Float[Tensor, " N"]:
        return self._tracer.weights()

    def measure(self, batch: Batch, snapshots: Sequence[Float[Tensor, " N"]]) -> list[Measurement]:
        return measurements([self._tracer.measure(batch, weights) for weights in snapshots])


def measurements(traces: Sequence[Trace]) -> list[Measurement]:
    """The decays of all traces are computed at once, which takes less time than one by one."""
    with flush_denormal(on=True):  # far below decay.FLOOR, and so that they do not depend on where they are computed
        decays = decays_of(traces)
    return [
        Measurement({name: decay.numbers() for name, decay in of_trace.items()}, trace.norms, trace.answered_at)
        for trace, of_trace in zip(traces, decays, strict=True)
    ]
