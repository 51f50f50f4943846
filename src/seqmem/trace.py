"""The central measurement: how much of the loss gradient reaches every timestep, and how fast it decays.

Axes: T time, B batch, K timesteps back from the answer.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from functools import cached_property, reduce
from math import inf, log, log10

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from .cells.base import steps
from .model import SequenceModel, answered, loss_per_sequence
from .signals import Batch
from .tasks.base import Task

INPUT = "input"
"""Name of the trace of what enters the first layer; every other trace is of a state that the cell carries."""

_AT_ONCE = 40_000
"""Timesteps, over all sequences, that are traced together: what they take, some 5 KB each at 64 units, stays small."""

FLOOR = 1e-300
"""Norms at or below this are not told from zero: float64 holds nothing under 1e-308 at full precision."""


def gradient_trace(
    model: SequenceModel, task: Task, batch: Batch, *, loss: str = "last", by: str = "auto"
) -> dict[str, Float[Tensor, "T B"]]:
    """``|| d loss_b / d s_t ||`` (L2, float64) for every state s that the cell carries past timestep t, and for
    ``input``, what enters the first layer at t.

    Measured step by step on a float64 copy on the CPU: the model is untouched, a fused cell is traced like any other,
    and norms that float32 would round to zero survive. Each sequence has its own loss, so the batch size cancels.
    These are total derivatives: an LSTM's h_t is made of c_t, so what flows through h_t counts at c_t too.

    Args:
        loss: ``last`` propagates the last answered timestep's loss alone. ``all`` takes the whole loss; where every
            timestep is answered, fresh gradient then enters at each, and no decay can be seen.
        by: ``step`` is the definition. ``auto`` lets cells that can (``Cell.forward_tapped``) hand out the same
            gradients, equal to 1e-10, from their own float64 backward pass, which takes a fraction of the time.
    """
    return Tracer(model, task, loss=loss, by=by).norms(batch)


class Tracer:
    """``gradient_trace`` of one model, again and again while it is trained: what stays the same is made once."""

    def __init__(self, model: SequenceModel, task: Task, *, loss: str = "last", by: str = "auto") -> None:
        if loss not in ("last", "all"):
            raise ValueError(f"trace.loss={loss!r}: must be 'last' or 'all'")
        if by not in ("auto", "step"):
            raise ValueError(f"by={by!r}: must be 'auto' or 'step'")
        self._model, self._task, self._loss, self._by = model, task, loss, by
        self.knows = all(type(part).__module__.startswith(_OUR_MODULES) for part in model.modules())
        """All of the model is ours: it draws nothing, and its weights are all that it remembers or writes into."""
        self._twin: SequenceModel | None = None
        self._inside: Tensor | None = None
        self._now = _tensors(model)
        self._trainable: list[Tensor] = []
        self._batch: Batch | None = None
        self._parts: list[_Part] = []

    def weights(self) -> Float[Tensor, " N"]:
        """A copy of all weights, to be measured later, of a model that it ``knows``."""
        return torch.cat([tensor.detach().flatten() for tensor in self._now])

    def measure(self, batch: Batch, weights: Float[Tensor, " N"] | None = None) -> "Trace":
        """``weights``: those of the model at another time."""
        norms = self.norms(batch, weights)
        answered_at = np.concatenate([part.answered_at for part in self._parts])
        return Trace({name: values.numpy() for name, values in norms.items()}, answered_at)

    def norms(self, batch: Batch, weights: Float[Tensor, " N"] | None = None) -> dict[str, Float[Tensor, "T B"]]:
        """As ``gradient_trace``. Of the batch that was traced last, what was made of it is used again."""
        model = self._double(weights)
        if batch is not self._batch or not self.knows:
            self._batch, self._parts = batch, list(_parts(batch, self._loss))
        found = [self._part(model, part) for part in self._parts]
        return {name: torch.cat([part[name] for part in found], 1) for name in found[0]}

    def _part(self, model: SequenceModel, part: "_Part") -> dict[str, Float[Tensor, "T B"]]:
        found = None
        if self._by == "auto":
            with _frozen(self._trainable):  # or the backward pass would compute the weights' gradients too
                found = _by_taps(model, self._task, part)
        return _by_steps(model, self._task, part.batch) if found is None else found

    def _double(self, weights: Float[Tensor, " N"] | None) -> SequenceModel:
        """The model in float64 on the CPU, as it is now or with other weights."""
        twin = self._twin
        if twin is None or not self.knows:
            twin = self._twin = deepcopy(self._model).to("cpu").double().eval()
            if self.knows:
                twin.requires_grad_(False)  # of ours no state comes from the weights alone
                self._inside = _laid_end_to_end(_tensors(twin))
            self._trainable = [parameter for parameter in twin.parameters() if parameter.requires_grad]
        if self._inside is not None:
            self._inside.copy_(self.weights() if weights is None else weights)
        return twin


_OUR_MODULES = (f"{__package__}.", "torch.nn.modules.")


def _tensors(model: SequenceModel) -> list[Tensor]:
    return [*model.parameters(), *model.buffers()]


def _laid_end_to_end(tensors: Sequence[Tensor]) -> Float[Tensor, " N"]:
    """One piece of memory that holds all of them from now on, so that one copy fills them."""
    whole = torch.cat([tensor.flatten() for tensor in tensors])
    for tensor, part in zip(tensors, whole.split([tensor.numel() for tensor in tensors]), strict=True):
        tensor.data = part.view(tensor.shape)
    return whole


@dataclass(frozen=True)
class _Part:
    """Sequences that are traced together, in float64 on the CPU.

    ``counted``: the timesteps outside of which nothing counts in the loss; ``answers``: the batch between them;
    ``total``: see ``loss_per_sequence``.
    """

    batch: Batch
    counted: slice
    answers: Batch
    total: Float[Tensor, " B"] | None
    answered_at: Int[ndarray, " B"]


def _parts(batch: Batch, loss: str) -> Iterator[_Part]:
    batch = batch.to("cpu", torch.float64)
    if loss == "last":
        batch = batch.last_answer_only()
    timesteps, sequences = batch.asked.shape
    at_once = max(1, _AT_ONCE // timesteps)
    for start in range(0, sequences, at_once):
        part = batch.sequences(start, start + at_once)
        counted = part.weighted
        answers = part.part(counted.start, counted.stop)
        total = None if len(answers.weights) == 1 else part.weights.sum(0)
        yield _Part(part, counted, answers, total, part.answered_at.numpy())


def _by_taps(model: SequenceModel, task: Task, part: _Part) -> dict[str, Float[Tensor, "T B"]] | None:
    """None: the cell has no taps."""
    timesteps, sequences = part.batch.asked.shape
    start = model.cell.initial_state(sequences)
    with torch.enable_grad():
        xs = model.embed(part.batch.inputs).detach().requires_grad_()
        # Zeros of any size in the memory of one.
        taps = {name: xs.new_zeros(()).expand(timesteps, *s.shape).requires_grad_() for name, s in start.items()}
        found = model.cell.forward_tapped(xs, start, taps)
        if found is None:
            return None
        outputs = answered(model.cell, *found, part.counted)
        total = loss_per_sequence(task, model.readout(outputs), part.answers, part.total).sum()
        gradients = torch.autograd.grad(total, [xs, *taps.values()], materialize_grads=True)
    return {
        name: _norm(gradient.flatten(0, 1)).unflatten(0, (timesteps, sequences))
        for name, gradient in zip((INPUT, *taps), gradients, strict=True)
    }


@contextmanager
def _frozen(parameters: Sequence[Tensor]) -> Iterator[None]:
    for parameter in parameters:
        parameter.requires_grad_(False)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_()


def _by_steps(model: SequenceModel, task: Task, batch: Batch) -> dict[str, Float[Tensor, "T B"]]:
    with torch.enable_grad():
        xs = list(model.embed(batch.inputs).detach().requires_grad_().unbind(0))
        tapped: dict[str, list[Tensor]] = {INPUT: xs}
        versions: list[tuple[str, Tensor, int]] = []
        outputs = []
        for output, state in steps(model.cell, xs, model.cell.initial_state(batch.asked.shape[1])):
            outputs.append(output)
            for name, value in state.items():
                tapped.setdefault(name, []).append(value)
                versions.append((name, value, value._version))  # noqa: SLF001  the only way to see a change in place
        for name, value, version in versions:
            if value._version != version:  # noqa: SLF001
                raise ValueError(
                    f"the state '{name}' is changed in place, so what it was at earlier timesteps cannot be measured: "
                    "let step return a new tensor"
                )
        total = loss_per_sequence(task, model.readout(torch.stack(outputs)), batch).sum()
        wanted = [tensor for series in tapped.values() for tensor in series]
        # A state may come from nothing that is differentiated (a clock, a mask): its gradient is zero.
        able = [tensor for tensor in wanted if tensor.requires_grad]
        found = iter(torch.autograd.grad(total, able, materialize_grads=True))
    none = torch.zeros(batch.asked.shape[1], dtype=torch.float64)
    return {
        name: torch.stack([_norm(next(found)) if tensor.requires_grad else none for tensor in series])
        for name, series in tapped.items()
    }


def _norm(gradient: Float[Tensor, "B ..."]) -> Float[Tensor, " B"]:
    """L2, over all of float64's range."""
    flat = gradient.flatten(1) if gradient.ndim > 1 else gradient[:, None]
    norms = torch.linalg.vector_norm(flat, dim=1)
    # Squares underflow, and overflow, at the root of the range: there, all is scaled by the largest entry first.
    least, most = norms.aminmax()
    if not (least > 1e-140 and most < 1e150):
        extreme = ~((norms > 1e-140) & (norms < 1e150))
        rows = flat[extreme]
        largest = rows.abs().amax(1, keepdim=True)
        scale = torch.where((largest > 0) & largest.isfinite(), largest, 1.0)
        norms[extreme] = torch.linalg.vector_norm(rows / scale, dim=1) * scale[:, 0]
    return norms


@dataclass(frozen=True, eq=False)
class Trace:
    """One ``gradient_trace``, and where its sequences were answered.

    ``norms``: name -> [T B], float64. ``answered_at``: [B], the timestep whose loss was propagated.
    """

    norms: Mapping[str, Float[ndarray, "T B"]]
    answered_at: Int[ndarray, " B"]

    @staticmethod
    def measure(model: SequenceModel, task: Task, batch: Batch, *, loss: str = "last", by: str = "auto") -> "Trace":
        return Tracer(model, task, loss=loss, by=by).measure(batch)

    @cached_property
    def state(self) -> Float[ndarray, "T B"]:
        """The gradient at everything the cell carries past t: the root of the sum of the squared norms."""
        # Squares would underflow at the root of the floor.
        return reduce(np.hypot, [values for name, values in self.norms.items() if name != INPUT])

    def series(self) -> dict[str, Float[ndarray, "T B"]]:
        """All traces, ``state`` (all carried states together) first."""
        return {"state": self.state, **self.norms}

    def decays(self) -> dict[str, "Decay"]:
        """How each series fades, its mean over sequences."""
        found: dict[int, Decay] = {}  # of one state alone ``state`` is the same numbers
        series = self.series()
        for norms in series.values():
            if id(norms) not in found:
                found[id(norms)] = decay(self.mean_back(norms))
        return {name: found[id(norms)] for name, norms in series.items()}

    def back(self, norms: Float[ndarray, "T B"]) -> Float[ndarray, "K B"]:
        """The same norms by timesteps back from each sequence's own answer; NaN before its first timestep."""
        first, last = int(self.answered_at.min()), int(self.answered_at.max())
        if first == last:
            return norms[last::-1]
        at = self.answered_at[None, :] - np.arange(last + 1)[:, None]
        return np.where(at >= 0, np.take_along_axis(norms, np.maximum(at, 0), axis=0), np.nan)

    def mean_back(self, norms: Float[ndarray, "T B"]) -> Float[ndarray, " K"]:
        """Mean over sequences by timesteps back from the answer; NaN where no sequence is that long."""
        back = self.back(norms)
        absent = np.isnan(back)
        if not absent.any():
            return back.mean(1)
        counts = back.shape[1] - absent.sum(1)
        return np.where(counts > 0, np.where(absent, 0, back).sum(1) / np.maximum(counts, 1), np.nan)


@dataclass(frozen=True)
class Decay:
    """How a gradient fades on its way back: a straight line ``log norm = a + s k`` over k timesteps back.

    ``half_life``: ln 2 / -s in timesteps; ``inf`` when it does not decay. ``horizon``: the fewest timesteps back at
    which the norm is below 1/1000 of its value at the answer; ``inf`` when that does not happen within the sequence.
    ``log10_first_over_last``: log10 of the norm at the first timestep over the norm at the answer; ``-inf`` when the
    first is below what float64 can hold. ``points`` and ``r2``: how many timesteps the line was fitted to, and how
    well it fits (1: exactly geometric; NaN with fewer than 3 points). ``underflowed``: timesteps below the floor.
    """

    half_life: float
    horizon: float
    log10_first_over_last: float
    points: int
    r2: float
    underflowed: int

    def numbers(self) -> dict[str, float]:
        return dict(vars(self))


def decay_from(numbers: Mapping[str, float]) -> Decay:
    """The inverse of ``Decay.numbers``."""
    counts = {name: int(numbers[name]) for name in ("points", "underflowed")}
    return Decay(**{name: float(value) for name, value in numbers.items() if name not in counts}, **counts)


def decay(back: Float[ndarray, " K"]) -> Decay:
    """Read the decay off norms by timesteps back from the answer (``back[0]`` is at the answer).

    A cell that answers before it updates its state has no gradient at the state of the answer itself; what is below
    the floor there is passed over, and the first norm above it is the one that the others are held against.
    """
    back = np.asarray(back, dtype=np.float64)  # and Python's numbers come out: numpy's are no part of a checkpoint
    usable = (back > FLOOR) & (back < inf)  # NaN is neither
    lost = int(np.count_nonzero(back <= FLOOR))
    steps_back = np.flatnonzero(usable)
    if not len(steps_back):
        return Decay(float("nan"), float("nan"), float("nan"), 0, float("nan"), lost)
    logs = np.log(back[steps_back])
    half_life, r2 = float("nan"), float("nan")
    if len(logs) >= 3:
        across, up = steps_back - steps_back.mean(), logs - logs.mean()  # least squares in closed form
        slope, spread = float(across @ up) / float(across @ across), float(up @ up)
        rest = up - slope * across
        # A flat line is fitted exactly, though it explains nothing: 1, not 0/0. Slopes under 1e-12 are rounding.
        r2 = 1.0 - float(rest @ rest) / spread if spread > 1e-20 else 1.0
        half_life = log(2) / -slope if slope < -1e-12 else inf
    start = int(steps_back[0])
    below = np.flatnonzero(back[start:] < back[start] / 1000)  # which NaN is not
    horizon = float(start + below[0]) if len(below) else inf
    first = float(back[np.flatnonzero(~np.isnan(back))[-1]])
    ratio = log10(first) - log10(back[start]) if FLOOR < first < inf else (inf if first > FLOOR else -inf)
    return Decay(half_life, horizon, ratio, len(logs), r2, lost)
