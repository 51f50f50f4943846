"""The batches of a training run: batch i is a function of the seed and of i."""

from collections import deque
from collections.abc import Sequence

import torch
from torch import Tensor

from ..randomness import generator
from ..signals import Batch
from ..spaces import trained_lengths
from ..tasks.base import Task
from ..tasks.parts import Data, Parts
from .plan import Plan

_MOST_AT_ONCE = 8
_BLOCK = 16
"""Batches of mixed lengths that are drawn together."""
_MOST_BYTES = 1 << 22
"""Draw at most this many batches in a row, and if it is more than one, at most this many bytes of them."""


class BatchQueue:
    """The training batches from ``step`` on, on the model's device, several drawn in a row.

    Drawing them in a row is faster than one by one between updates: the code and data that draw them stay in the
    processor's caches.
    """

    def __init__(self, task: Task, plan: Plan, step: int, device: torch.device, dtype: torch.dtype) -> None:
        self._parts, self._plan, self._device, self._dtype = plan.parts(task), plan, device, dtype
        self._next = step
        self._at_once = 1  # until the size of a batch is known
        self._ready: deque[tuple[Batch, slice]] = deque()
        self._stored: TrainingSet | MixedLengths | None = None
        if plan.sequences is not None:
            self._stored = TrainingSet(self._parts, plan)
        elif plan.lengths == "mixed":
            self._stored = MixedLengths(self._parts, plan)

    def refill(self) -> None:
        """If the queue is empty, draw the next few batches of the run, if any are left."""
        indices = range(self._next, min(self._next + self._at_once, self._plan.steps))
        if self._ready or not indices:
            return
        self._next = indices.stop
        stored = self._stored
        drawn = training_batches(self._parts, self._plan, indices) if stored is None else stored.batches(indices)
        weights, weighted = None, slice(0)
        for batch in drawn:
            if batch.weights is not weights:  # batches may share them
                weights, weighted = batch.weights, batch.weighted  # read while on the CPU: no GPU sync point
            self._ready.append((batch.to(self._device, self._dtype), weighted))
        self._at_once = max(1, min(_MOST_AT_ONCE, _MOST_BYTES // max(batch.nbytes for batch in drawn)))

    def pop(self) -> tuple[Batch, slice]:
        """The next batch and its ``weighted`` timesteps, after a ``refill``."""
        return self._ready.popleft()


class TrainingSet:
    """The sequences of a run that trains on the same ones again and again."""

    def __init__(self, parts: Parts, plan: Plan) -> None:
        assert plan.sequences is not None
        self._plan = plan
        rng = generator(plan.seed, "training set")
        if plan.lengths == "mixed":
            self._sequences = _mixed(parts.training, plan.sequences, _lengths(parts.task, plan), rng)
        else:
            self._sequences = parts.training.sample(plan.sequences, plan.seq_len, rng)
        self._epoch, self._order = -1, torch.empty(0, dtype=torch.long)

    def batches(self, indices: Sequence[int]) -> list[Batch]:
        """Batches ``indices`` of the run: every epoch is a random order of all sequences, by (seed, epoch)."""
        return [self._batch(index) for index in indices]

    def _batch(self, index: int) -> Batch:
        size, count = self._plan.batch_size, self._sequences.asked.shape[1]
        epoch, place = divmod(index, -(-count // size))
        if epoch != self._epoch:
            self._epoch, self._order = (
                epoch,
                torch.randperm(count, generator=generator(self._plan.seed, "order", epoch)),
            )
        batch = self._sequences.chosen(self._order[place * size : (place + 1) * size])
        return batch if self._plan.lengths == "fixed" else _cut(batch)


class MixedLengths:
    """The batches of a run in which every sequence has a length of its own.

    A few batches are drawn together: a task draws sequences of one length in a row, and takes as long for one of them
    as for several.
    """

    def __init__(self, parts: Parts, plan: Plan) -> None:
        self._training, self._plan, self._lengths = parts.training, plan, _lengths(parts.task, plan)
        self._block: tuple[int, Batch] | None = None

    def batches(self, indices: Sequence[int]) -> list[Batch]:
        """Batches ``indices`` of the run."""
        return [self._batch(index) for index in indices]

    def _batch(self, index: int) -> Batch:
        size = self._plan.batch_size
        number, place = divmod(index, _BLOCK)
        if self._block is None or self._block[0] != number:
            rng = generator(self._plan.seed, "train", number)
            self._block = number, _mixed(self._training, _BLOCK * size, self._lengths, rng)
        return _cut(self._block[1].chosen(torch.arange(place * size, (place + 1) * size)))


def _mixed(data: Data, count: int, lengths: range, rng: torch.Generator) -> Batch:
    """Sequences whose lengths are drawn one by one, uniformly from ``lengths``.

    All begin at the first timestep. A shorter one is followed by zeros without a weight: cells are causal, so what
    follows its end changes neither its answers nor its gradients.
    """
    drawn = torch.randint(lengths.start, lengths.stop, (count,), generator=rng)
    places = [(int(length), (drawn == length).nonzero()[:, 0]) for length in drawn.unique()]
    parts = [(where, data.sample(len(where), length, rng)) for length, where in places]
    longest = max(len(batch.asked) for _, batch in parts)
    whole: list[Tensor] = []
    for name in ("inputs", "targets", "weights", "asked"):
        tensors: list[tuple[Tensor, Tensor]] = [(where, getattr(batch, name)) for where, batch in parts]
        joined = tensors[0][1].new_zeros(longest, count, *tensors[0][1].shape[2:])
        for where, values in tensors:
            joined[: len(values), where] = values
        whole.append(joined)
    return Batch(*whole)


def _cut(batch: Batch) -> Batch:
    """The batch up to the end of its longest sequence."""
    return batch.part(0, batch.counted.stop)


def training_batches(parts: Parts, plan: Plan, indices: Sequence[int]) -> list[Batch]:
    """Batches ``indices`` of the run, on the CPU."""
    if parts.task.chunks == 1 and plan.lengths == "fixed":
        return parts.training.samples(
            plan.batch_size, plan.seq_len, [generator(plan.seed, "train", index) for index in indices]
        )
    return [_training_batch(parts, plan, index) for index in indices]


def _training_batch(parts: Parts, plan: Plan, index: int) -> Batch:
    """Chunk ``index % chunks`` of passage ``index // chunks``, whose length may be random."""
    task, data = parts.task, parts.training
    passage, chunk = divmod(index, task.chunks)
    rng = generator(plan.seed, "train", passage)
    seq_len = plan.seq_len
    if plan.lengths == "uniform":
        possible = _lengths(task, plan)
        seq_len = int(torch.randint(possible.start, possible.stop, (), generator=rng))
    if task.chunks == 1:
        return data.sample(plan.batch_size, seq_len, rng)
    return data.sample(plan.batch_size, seq_len * task.chunks, rng).chunk(chunk, seq_len)


def _lengths(task: Task, plan: Plan) -> range:
    return trained_lengths(plan.seq_len, plan.lengths, plan.shortest, task.min_seq_len)
