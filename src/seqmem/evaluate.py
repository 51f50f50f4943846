"""Scores of a model at any lengths."""

from collections.abc import Iterable
from dataclasses import dataclass

import torch

from .model import SequenceModel, loss_per_sequence, score_per_sequence
from .randomness import generator
from .tasks.base import Task


@dataclass(frozen=True)
class Evaluation:
    """Means over ``sequences`` held-out sequences of ``seq_len`` timesteps."""

    seq_len: int
    score: float
    loss: float
    sequences: int


@torch.no_grad()  # not inference mode: what a cell caches in its first forward pass must train later
def evaluate(
    model: SequenceModel, task: Task, seq_len: int, *, seed: int, sequences: int = 1000, stream: str = "eval"
) -> Evaluation:
    """Score on held-out data, in float32 or float64 as the model is, wherever the model is.

    The sequences are a function of (seed, stream, seq_len): every model of one seed answers the same questions.
    """
    first = next(model.parameters())
    was_training = model.training
    model.eval()
    rng = generator(seed, stream, seq_len)
    losses, scores = [], []
    # At most about a quarter of a million timesteps at once, so that long sequences stay small in memory.
    at_once = max(1, min(sequences, 250_000 // seq_len))
    for start in range(0, sequences, at_once):
        batch = task.held_out().sample(min(at_once, sequences - start), seq_len, rng).to(first.device, first.dtype)
        predicted, _ = model(batch.inputs)
        losses.append(loss_per_sequence(task, predicted, batch))
        scores.append(score_per_sequence(task, predicted, batch))
    model.train(was_training)
    score, loss = torch.stack([torch.cat(scores).double().mean(), torch.cat(losses).double().mean()]).tolist()
    return Evaluation(seq_len, score, loss, sequences)


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
