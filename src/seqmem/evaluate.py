"""Scores of a model at any lengths."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch

from .models.base import loss_per_sequence, score_per_sequence
from .models.recurrent import SequenceModel
from .randomness import generator
from .signals import Batch
from .tasks.base import Task


@dataclass(frozen=True)
class Evaluation:
    """Means over ``sequences`` held-out sequences of ``seq_len`` timesteps."""

    seq_len: int
    score: float
    loss: float
    sequences: int


def held_out(task: Task, seq_len: int, *, seed: int, sequences: int, stream: str = "eval") -> Iterator[Batch]:
    """``sequences`` held-out sequences, which are a function of (seed, stream, seq_len), in batches on the CPU."""
    rng = generator(seed, stream, seq_len)
    # At most about a quarter of a million timesteps at once, so that long sequences stay small in memory.
    at_once = max(1, min(sequences, 250_000 // seq_len))
    for start in range(0, sequences, at_once):
        yield task.held_out().sample(min(at_once, sequences - start), seq_len, rng)


class Kept:
    """The batches that ``draw`` makes, the same ones each time they are gone through.

    Up to ``most`` bytes of them are drawn once. More are drawn every time anew, as are those that a model wrote into.
    """

    def __init__(self, draw: Callable[[], Iterable[Batch]], most: int = 1 << 23) -> None:
        self._draw, self._most = draw, most
        self._kept: list[tuple[Batch, list[int]]] | None = None

    def __iter__(self) -> Iterator[Batch]:
        if self._kept is not None and all(_versions(batch) == versions for batch, versions in self._kept):
            yield from [batch for batch, _ in self._kept]
            return
        self._kept, kept, size = None, [], 0
        for batch in self._draw():
            size += sum(tensor.untyped_storage().nbytes() for tensor in vars(batch).values())
            if size <= self._most:
                kept.append((batch, _versions(batch)))
            else:
                kept.clear()
            yield batch
        if size <= self._most:
            self._kept = kept


def _versions(batch: Batch) -> list[int]:
    """Of each tensor, how often it has been written into."""
    return [tensor._version for tensor in vars(batch).values()]  # noqa: SLF001  the only way to see a change in place


def evaluate(
    model: SequenceModel, task: Task, seq_len: int, *, seed: int, sequences: int = 1000, stream: str = "eval"
) -> Evaluation:
    """Score on held-out data, in float32 or float64 as the model is, wherever the model is.

    The sequences are a function of (seed, stream, seq_len): every model of one seed answers the same questions.
    """
    return score(model, task, seq_len, held_out(task, seq_len, seed=seed, sequences=sequences, stream=stream))


# Not inference mode, which saves three in a hundred of this: a tensor that a cell makes in its first forward pass and
# keeps (a mask, a position) could then not be trained with.
@torch.no_grad()
def score(model: SequenceModel, task: Task, seq_len: int, batches: Iterable[Batch]) -> Evaluation:
    """As ``evaluate``, on ``batches`` of sequences of ``seq_len`` timesteps."""
    first = next(model.parameters())
    was_training = model.training
    model.eval()
    losses, scores = [], []
    for drawn in batches:
        batch = drawn.to(first.device, first.dtype)
        counted = batch.counted  # where nobody asks, nothing need be read out
        predicted, _ = model(batch.inputs, at=counted)
        part = batch.part(counted.start, counted.stop)
        losses.append(loss_per_sequence(task, predicted, part))
        scores.append(score_per_sequence(task, predicted, part))
    model.train(was_training)
    sequences = sum(map(len, scores))
    found, loss = torch.stack([torch.cat(scores).double().mean(), torch.cat(losses).double().mean()]).tolist()
    return Evaluation(seq_len, found, loss, sequences)


def length_grid(task: Task, seq_len: int) -> list[int]:
    """From the shortest valid length to four times ``seq_len`` (or as far as the task goes), roughly doubling,
    ``seq_len`` among them."""
    shortest = min(task.min_seq_len, seq_len)
    grid = {shortest, seq_len, 2 * seq_len, 4 * seq_len}
    length = seq_len // 2
    while length > 1.4 * shortest:
        grid.add(length)
        length //= 2
    most = task.max_seq_len
    return sorted(length for length in grid if most is None or length <= most)


def evaluate_lengths(
    model: SequenceModel, task: Task, lengths: Iterable[int], *, seed: int, sequences: int = 1000
) -> list[Evaluation]:
    return [evaluate(model, task, length, seed=seed, sequences=sequences) for length in lengths]
