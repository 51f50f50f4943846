"""Score a model on held-out data, at any sequence length.

Axes: T time, B batch, K outputs. Time comes first.
"""

from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor

from .decoding import decode
from .models.base import Model, loss_per_sequence, score_per_sequence
from .randomness import generator
from .signals import Batch
from .tasks.base import Task
from .tasks.parts import Data, Parts


@dataclass(frozen=True)
class Evaluation:
    """Means over ``sequences`` held-out sequences of ``seq_len`` timesteps.

    Where answers are fed back (``Task.feedback``), the score is of the model's own, the loss of the right ones.

    Args:
        distinct: how many different ones they are; None: not counted.
        exact: the share of sequences whose answers are all right; None: answers are not fed back.
        beam: how many beams found these answers; None: answers are not fed back.
    """

    seq_len: int
    score: float
    loss: float
    sequences: int
    distinct: int | None = None
    exact: float | None = None
    beam: int | None = None

    def row(self) -> dict[str, Any]:
        """All of it, as a run's files have it: what a task does not have is left out."""
        return {
            name: value for name, value in asdict(self).items() if name not in ("exact", "beam") or value is not None
        }


def held_out(
    task: Task, seq_len: int, *, seed: int, sequences: int, stream: str = "eval", trained: Collection[int] = ()
) -> Iterator[Batch]:
    """Yield ``sequences`` sequences of the test data in batches on the CPU: a function of (seed, stream, seq_len).

    Args:
        trained: the lengths that training draws. Where these have few sequences, only those it leaves out are drawn.
    """
    return drawn(Parts(task, trained).test, seq_len, seed=seed, sequences=sequences, stream=stream)


def drawn(data: Data, seq_len: int, *, seed: int, sequences: int, stream: str) -> Iterator[Batch]:
    """Yield ``sequences`` sequences of a part of the data, likewise."""
    rng = generator(seed, stream, seq_len)
    batch_size = max(1, min(sequences, _MOST_DRAWN // seq_len))
    for start in range(0, sequences, batch_size):
        yield data.sample(min(batch_size, sequences - start), seq_len, rng)


_MOST_DRAWN = 250_000
"""Draw at most so many timesteps, over all sequences, in one batch: it bounds the memory that long sequences take."""


class CachedBatches:
    """An iterable of the batches that ``draw`` returns, drawn once and cached up to ``max_bytes``.

    Larger sets are drawn again at each iteration. So is a cached set once a model has written into one of its tensors.
    """

    def __init__(self, draw: Callable[[], Iterable[Batch]], max_bytes: int = 1 << 23) -> None:
        self._draw, self._max_bytes = draw, max_bytes
        self._cache: list[tuple[Batch, list[int]]] | None = None

    def __iter__(self) -> Iterator[Batch]:
        if self._cache is not None and all(_versions(batch) == versions for batch, versions in self._cache):
            yield from [batch for batch, _ in self._cache]
            return
        self._cache, batches, size = None, [], 0
        for batch in self._draw():
            size += sum(tensor.untyped_storage().nbytes() for tensor in vars(batch).values())
            if size <= self._max_bytes:
                batches.append((batch, _versions(batch)))
            else:
                batches.clear()
            yield batch
        if size <= self._max_bytes:
            self._cache = batches


def _versions(batch: Batch) -> list[int]:
    """torch's write counter of each tensor: it changes with every in-place operation."""
    return [tensor._version for tensor in vars(batch).values()]  # noqa: SLF001  torch has no public counter


def evaluate(
    model: Model,
    task: Task,
    seq_len: int,
    *,
    seed: int,
    sequences: int = 1000,
    stream: str = "eval",
    trained: Collection[int] = (),
    beam: int = 1,
) -> Evaluation:
    """Score on the test data, on the model's device and in its dtype.

    The sequences are a function of (seed, stream, seq_len), so all models of one seed are scored on the same ones.

    Args:
        trained: the lengths that training draws (``Plan.parts(task).trained``). Where these have few sequences, the
            model is scored on those that training leaves out.
        beam: as in ``decode``, where answers are fed back.
    """
    different: set[int] = set()

    def counted() -> Iterator[Batch]:
        for batch in held_out(task, seq_len, seed=seed, sequences=sequences, stream=stream, trained=trained):
            different.update(_fingerprints(batch).tolist())
            yield batch

    evaluation = score(model, task, seq_len, counted(), beam=beam)
    return replace(evaluation, distinct=len(different))


def _fingerprints(batch: Batch) -> Int[Tensor, " B"]:
    """A number of 64 bits for each sequence: a sum of its values with random weights, equal for equal sequences."""
    values = batch.inputs if batch.inputs.ndim > 2 else batch.inputs[..., None]
    if values.dtype == torch.float32:
        values = values.contiguous().view(torch.int32)  # equal bits
    steps, _, features = values.shape
    weights = torch.randint(-(2**62), 2**62, (steps, 1, features), generator=generator(0, "fingerprints"))
    return (values * weights).sum((0, 2))


_MOST_TIMESTEPS = 1 << 14
"""Predict for at most so many timesteps, over all sequences, at once: their outputs stay in the processor's cache."""


def _slices(seq_len: int, sequences: int) -> Iterator[tuple[int, int]]:
    """The first and the last + 1 of the sequences to predict for at once, about equally many each time."""
    parts = min(sequences, -(-seq_len * sequences // _MOST_TIMESTEPS))
    for part in range(parts):
        yield part * sequences // parts, (part + 1) * sequences // parts


# inference_mode would save 3 %, but a tensor that a cell creates and caches in it (a mask, positions) cannot take part
# in training afterwards.
@torch.no_grad()
def score(model: Model, task: Task, seq_len: int, batches: Iterable[Batch], *, beam: int = 1) -> Evaluation:
    """Score on ``batches`` of sequences of ``seq_len`` timesteps, in eval mode; the model's mode is restored."""
    first = next(model.parameters())
    was_training = model.training
    model.eval()
    feedback = task.feedback()
    losses, scores = [], []
    for drawn_batch in batches:
        counted = drawn_batch.counted  # the readout is computed only where a timestep counts
        batch = drawn_batch.to(first.device, first.dtype)
        for begin, end in _slices(*batch.weights.shape):
            few = batch.sequences(begin, end)
            predicted = model.predict(few, at=counted)
            part = few.part(counted.start, counted.stop)
            losses.append(loss_per_sequence(task, predicted, part))
            if feedback is not None:
                written = decode(model, feedback, few.inputs, counted, beam=beam)
                predicted = F.one_hot(written, task.targets.size).to(predicted.dtype)
            scores.append(score_per_sequence(task, predicted, part))
    model.train(was_training)
    sequences = sum(map(len, scores))
    # One copy to the host for both means: each is a sync point of the GPU.
    mean_score, mean_loss = torch.stack([torch.cat(values).double().mean() for values in (scores, losses)]).tolist()
    exact = None if feedback is None else float((torch.cat(scores) == 1).double().mean())
    return Evaluation(seq_len, mean_score, mean_loss, sequences, exact=exact, beam=None if feedback is None else beam)


def length_grid(task: Task, seq_len: int) -> list[int]:
    """Evaluation lengths from the shortest valid one to 4 * ``seq_len`` or the task's maximum, roughly doubling.

    ``seq_len`` is among them.
    """
    shortest = min(task.min_seq_len, seq_len)
    grid = {shortest, seq_len, 2 * seq_len, 4 * seq_len}
    length = seq_len // 2
    while length > 1.4 * shortest:
        grid.add(length)
        length //= 2
    longest = task.max_seq_len
    return sorted(length for length in grid if longest is None or length <= longest)


def evaluate_lengths(
    model: Model,
    task: Task,
    lengths: Iterable[int],
    *,
    seed: int,
    sequences: int = 1000,
    trained: Collection[int] = (),
    beam: int = 1,
) -> list[Evaluation]:
    """``evaluate`` at each of ``lengths``."""
    return [
        evaluate(model, task, length, seed=seed, sequences=sequences, trained=trained, beam=beam) for length in lengths
    ]
