"""What is measured while a model trains: scores, answers and probes, always on the same held-out sequences.

Measuring touches neither the model nor the global generators: training is bitwise the same without it.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from copy import deepcopy
from dataclasses import replace

import torch

from ..decoding import self_fed
from ..denormals import flush_denormal
from ..evaluate import CachedBatches, Evaluation, drawn, score
from ..measurement import Measurement, Scalars, plain
from ..models.base import Model
from ..probes.base import Scheduled
from ..randomness import ambient, generator
from ..reading import beliefs
from ..signals import Batch
from ..tasks.base import Task
from .plan import Observer, Plan

_MOST_QUEUED = 10
_MOST_BYTES = 1 << 24
"""Queue at most this many models for a probe, and at most this many bytes of their weights and of their series."""


def seeded(model: Model, plan: Plan, step: int) -> AbstractContextManager[None]:
    """A cell that draws random numbers even in evaluation draws the same ones at the same step."""
    return ambient(plan.seed, "measure", step, device=next(model.parameters()).device)


class Validation:
    """Scores at the training length, on the same sequences every time, which stay on the model's device."""

    def __init__(self, model: Model, task: Task, plan: Plan) -> None:
        self._model, self._task, self._plan = model, task, plan
        self._batches = CachedBatches(self._draw)

    def _draw(self) -> Iterator[Batch]:
        like, plan = next(self._model.parameters()), self._plan
        data = plan.parts(self._task).validation
        for batch in drawn(data, plan.seq_len, seed=plan.seed, sequences=plan.validated, stream="validate"):
            yield batch.to(like.device, like.dtype)

    def score(self, step: int) -> Evaluation:
        with seeded(self._model, self._plan, step):
            return score(self._model, self._task, self._plan.seq_len, self._batches, beam=self._plan.evaluate_beam)


@torch.no_grad()
def show_answers(model: Model, task: Task, plan: Plan, step: int, observer: Observer, sequences: int = 3) -> None:
    """Tell the observer what the model would answer after each timestep of a few held-out sequences."""
    first = next(model.parameters())
    batch = plan.parts(task).validation.sample(sequences, plan.seq_len, generator(plan.seed, "show"))
    with seeded(model, plan, step):
        model.eval()
        moved = batch.to(first.device, first.dtype)
        read = self_fed(model, task, moved)
        predicted = beliefs(model, task, read.inputs)
    model.train()
    observer.answered(step, batch if read is moved else read.to("cpu"), predicted.cpu())


class ProbeQueue:
    """One probe of a run. Frequent measurements wait, as snapshots of the model, and are made in a row.

    In a row they take less time than between updates: the code and data that measure stay in the processor's caches.
    Infrequent measurements, and those of a probe without snapshots, are made at once.
    """

    def __init__(self, scheduled: Scheduled, model: Model, task: Task, plan: Plan, observer: Observer) -> None:
        self._probe, self._every, self._sequences = scheduled.probe, scheduled.every, scheduled.sequences
        self._model, self._task, self._plan, self._observer = model, task, plan, observer
        self._batches = CachedBatches(self._draw)
        self._snapshots = self._probe.snapshots(model, task) if self._every else None
        self._capacity = 1
        if self._snapshots is not None and self._every < plan.log_every:
            series = 32 * self._sequences * plan.seq_len
            self._capacity = max(1, min(_MOST_QUEUED, _MOST_BYTES // max(self._snapshots.nbytes, series)))
        self._queue: list[tuple[int, object]] = []
        self.latest: Scalars = {}
        """The scalars of the last measurement."""

    @property
    def name(self) -> str:
        return self._probe.name

    @property
    def waits(self) -> bool:
        """Measurements wait in the queue."""
        return self._capacity > 1

    def due(self, step: int, *, last: bool = False) -> bool:
        return self._every > 0 and (last or step % self._every == 0)

    def add(self, step: int, *, at_once: bool = False) -> None:
        """Measure the model as it is now; with ``at_once`` (or a full queue) the observer receives it before this
        returns."""
        if self._snapshots is None:
            with seeded(self._model, self._plan, step):
                self._tell([step], [self._measure()])
            return
        self._queue.append((step, self._snapshots.take()))
        if at_once or len(self._queue) >= self._capacity:
            self.flush()

    def flush(self) -> None:
        """Measure everything in the queue, and tell the observer, in the order of the steps."""
        if not self._queue or self._snapshots is None:
            return
        steps, snapshots = zip(*self._queue, strict=True)
        self._queue.clear()
        with flush_denormal(on=False):
            self._tell(steps, self._snapshots.measure(self._batch(), snapshots))

    def _measure(self) -> Measurement:
        """A copy is measured, so that a probe cannot change what is trained."""
        copy, batch = deepcopy(self._model).to("cpu").double().eval(), self._batch().to("cpu", torch.float64)
        with flush_denormal(on=False):  # float64 is measured down to the denormals
            measurement = self._probe.measure(copy, self._task, batch)
        try:
            return replace(measurement, scalars=plain(measurement.scalars, self._probe.numbers))
        except ValueError as error:
            raise ValueError(f"probe.{self.name}: {error}") from None

    def _batch(self) -> Batch:
        (batch,) = self._batches
        return batch

    def _draw(self) -> list[Batch]:
        plan = self._plan
        return [plan.parts(self._task).validation.sample(self._sequences, plan.seq_len, generator(plan.seed, "trace"))]

    def _tell(self, steps: Sequence[int], measurements: Sequence[Measurement]) -> None:
        for step, measurement in zip(steps, measurements, strict=True):
            self._observer.measured(step, self._probe, measurement)
            self.latest = measurement.scalars
