"""What is measured while a model trains: scores, answers and traces, always on the same held-out sequences.

Measuring touches neither the model nor the global generators: training is bitwise the same without it.
Axes: N weights.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext

import torch
from jaxtyping import Float
from torch import Tensor

from ..decay import Decay, decays_of
from ..evaluate import CachedBatches, Evaluation, held_out, score
from ..models.base import Model
from ..probes.gradient import Tracer
from ..randomness import ambient, generator
from ..reading import beliefs
from ..signals import Batch
from ..tasks.base import Task
from .plan import Observer, Plan
from .update import flush_denormal

_MOST_QUEUED = 10
_MOST_BYTES = 1 << 24
"""Queue at most this many models for tracing, and at most this many bytes of their weights and of their traces."""


def seeded(model: Model, plan: Plan, step: int) -> AbstractContextManager[None]:
    """A cell that draws random numbers even in evaluation draws the same ones at the same step."""
    return ambient(plan.seed, "measure", step, device=next(model.parameters()).device)


class Validation:
    """Scores at the training length, on at most 256 sequences that stay on the model's device."""

    def __init__(self, model: Model, task: Task, plan: Plan) -> None:
        self._model, self._task, self._plan = model, task, plan
        self._batches = CachedBatches(self._draw)

    def _draw(self) -> Iterator[Batch]:
        like, plan = next(self._model.parameters()), self._plan
        sequences = min(256, plan.evaluate_sequences)  # a quarter of the default final evaluation's cost
        for batch in held_out(self._task, plan.seq_len, seed=plan.seed, sequences=sequences, stream="validate"):
            yield batch.to(like.device, like.dtype)

    def score(self, step: int) -> Evaluation:
        with seeded(self._model, self._plan, step):
            return score(self._model, self._task, self._plan.seq_len, self._batches)


@torch.no_grad()
def show_answers(model: Model, task: Task, plan: Plan, step: int, observer: Observer, sequences: int = 3) -> None:
    """Tell the observer what the model would answer after each timestep of a few held-out sequences."""
    first = next(model.parameters())
    batch = task.held_out().sample(sequences, plan.seq_len, generator(plan.seed, "show"))
    with seeded(model, plan, step):
        predicted = beliefs(model.eval(), task, batch.to(first.device, first.dtype).inputs)
    model.train()
    observer.answered(step, batch, predicted.cpu())


class TraceQueue:
    """Traces the gradient at chosen steps. Frequent traces wait, as copies of the weights, and are measured in a row.

    Measured in a row they take less time than between updates: the code and data that measure them stay in the
    processor's caches. Infrequent traces are measured at once.
    """

    def __init__(self, model: Model, task: Task, plan: Plan, observer: Observer) -> None:
        self._model, self._task, self._plan, self._observer = model, task, plan, observer
        self._tracer = Tracer(model, task, loss=plan.trace_loss)
        self._batches = CachedBatches(self._draw)
        weights = sum(tensor.nbytes for tensor in model.state_dict().values())
        traces = 32 * plan.trace_sequences * plan.seq_len
        frequent = self._tracer.knows and plan.trace_every < plan.log_every
        self._capacity = max(1, min(_MOST_QUEUED, _MOST_BYTES // max(weights, traces))) if frequent else 1
        self._queue: list[tuple[int, Float[Tensor, " N"] | None]] = []
        self.latest: Mapping[str, Decay] = {}
        """The decays of the last trace that was measured."""

    def _draw(self) -> list[Batch]:
        plan = self._plan
        return [self._task.held_out().sample(plan.trace_sequences, plan.seq_len, generator(plan.seed, "trace"))]

    def add(self, step: int, *, at_once: bool = False) -> None:
        """Trace the model as it is now; with ``at_once`` (or a full queue) the observer receives it before this
        returns."""
        self._queue.append((step, None if self._capacity == 1 else self._tracer.weights()))
        if at_once or len(self._queue) >= self._capacity:
            self.flush()

    def flush(self) -> None:
        """Measure everything in the queue, and tell the observer, in the order of the steps."""
        if not self._queue:
            return
        (batch,) = self._batches
        random = nullcontext() if self._tracer.knows else seeded(self._model, self._plan, self._queue[-1][0])
        with random, flush_denormal(on=False):  # float64 norms are measured down to the denormals
            traces = [self._tracer.measure(batch, weights) for _, weights in self._queue]
        decays = decays_of(traces)
        for (step, _), trace, of_trace in zip(self._queue, traces, decays, strict=True):
            self._observer.traced(step, trace, of_trace)
        self._queue.clear()
        self.latest = decays[-1]
