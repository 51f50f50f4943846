"""The central measurement: how much of the loss gradient reaches every timestep, and how fast it decays.

Axes: T time, B batch, K timesteps back from the answer.
"""

from collections.abc import Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy import ndarray
from torch import Tensor

from ..cells.base import Tapped, steps
from ..decay import INPUT, Trace
from ..models.base import loss_per_sequence
from ..models.recurrent import SequenceModel, answered, token_vectors
from ..signals import Batch
from ..tasks.base import Task

_AT_ONCE = 40_000
"""Timesteps, over all sequences, that are traced together: what they take, some 5 KB each at 64 units, stays small."""

_KEPT = 10_000
"""Timesteps, over all sequences, up to which what a trace is made in is kept for the next one. It takes a tenth of a
millisecond to have it anew: of longer ones, whose memory others may want, nobody would notice."""


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
        by: ``step`` is the definition. ``auto`` lets cells that can (``Cell.tapped``) hand out the same norms,
            equal to 1e-10, from their own float64 backward pass, which takes a fraction of the time.
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
        self._batch: Batch | None = None
        self._parts: list[_Part] = []
        self._taps: _Taps | None = None

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
            self._batch, self._parts, self._taps = batch, list(_parts(batch, self._loss)), None
        found = [self._part(model, part) for part in self._parts]
        return {name: torch.cat([part[name] for part in found], 1) for name in found[0]}

    def _part(self, model: SequenceModel, part: "_Part") -> dict[str, Float[Tensor, "T B"]]:
        taps = self._taps
        if taps is None and self._by == "auto":
            taps = _Taps.of(model, part)
            if self.knows and len(self._parts) == 1 and part.batch.asked.numel() <= _KEPT:
                self._taps = taps
        return _by_steps(model, self._task, part.batch) if taps is None else taps.norms(self._task)

    def _double(self, weights: Float[Tensor, " N"] | None) -> SequenceModel:
        """The model in float64 on the CPU, as it is now or with other weights."""
        twin = self._twin
        if twin is None or not self.knows:
            twin = self._twin = deepcopy(self._model).to("cpu").double().eval()
            if self.knows:
                twin.requires_grad_(False)  # of ours no state comes from the weights alone
                self._inside = _laid_end_to_end(_tensors(twin))
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


class _Taps:
    """A part of a batch before a cell that hands out norms by itself (``Cell.tapped``), as often as the model's weights
    change in place."""

    def __init__(self, model: SequenceModel, part: _Part, tapped: Tapped, read: Tensor | None) -> None:
        self._model, self._part, self._tapped, self._read = model, part, tapped, read

    @classmethod
    def of(cls, model: SequenceModel, part: _Part) -> "_Taps | None":
        """None: the cell has none."""
        inputs, vectors = part.batch.inputs, token_vectors(model.embed)
        if vectors is not None and len(vectors) > inputs.numel():
            vectors = None  # most of them are never read
        with torch.no_grad():
            start = model.cell.initial_state(inputs.shape[1])
            read = None
            if vectors is None:  # in memory of its own, which is filled anew where the embedding learns
                read = model.embed(inputs).clone(memory_format=torch.contiguous_format)
            tapped = model.cell.tapped(inputs if read is None else read, start, vectors=vectors)
        return None if tapped is None else cls(model, part, tapped, read)

    def norms(self, task: Task) -> dict[str, Float[Tensor, "T B"]]:
        model, part, tapped = self._model, self._part, self._tapped
        with torch.no_grad():
            if self._read is not None:
                self._read.copy_(model.embed(part.batch.inputs))
            tapped.forward()
        with torch.enable_grad():
            outputs = tapped.outputs.detach().requires_grad_()
            final = {name: value.detach().requires_grad_() for name, value in tapped.final.items()}
            predicted = model.readout(answered(model.cell, outputs, final, part.counted))
            total = loss_per_sequence(task, predicted, part.answers, part.total).sum()
            by_outputs, *by_final = torch.autograd.grad(total, [outputs, *final.values()], allow_unused=True)
        of_input, of_states = tapped.backward(by_outputs, dict(zip(final, by_final, strict=True)))
        return {INPUT: of_input, **of_states}


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
