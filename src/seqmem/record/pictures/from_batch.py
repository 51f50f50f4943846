"""The sequences of a batch as a model read them, ready to be drawn.

Axes: T time, B batch, K answers (or output features).
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ...reading import number_changes, probabilities_of, symbol_changes
from ...signals import Batch
from ...tasks.base import Task
from .sentences import Sentence


def sentences(task: Task, batch: Batch, predicted: Float[Tensor, "T B K"]) -> list[Sentence]:
    """Each sequence of a batch as a model read it, up to its last answer.

    Args:
        predicted: what the model would answer if it were asked after each timestep.
    """
    return [_sentence(task, batch, predicted, b) for b in range(predicted.shape[1])]


def _sentence(task: Task, batch: Batch, predicted: Float[Tensor, "T B K"], b: int) -> Sentence:
    metric, goal = task.targets.metric, task.solved_at
    symbols = batch.targets.ndim < predicted.ndim
    upto = slice(int(batch.answered_at[b]) + 1)
    targets, outputs = batch.targets[upto, b], predicted[upto, b].detach().double()
    asked, words = batch.asked[upto, b], task.words(batch.inputs[upto, b])
    if asked.sum() == 1:  # the confidence in the one answer is shown at every timestep
        targets = targets[-1:].expand_as(targets)
    scores = task.targets.score(outputs[:, None], targets[:, None])[:, 0]
    if symbols:
        shares, top = outputs.softmax(-1).numpy(), outputs.argmax(-1)
        right, sure = probabilities_of(shares, targets.numpy()), shares.max(-1)
        changed = symbol_changes(top.numpy())
        names = {symbol: task.answer(torch.tensor(symbol)) for symbol in {*top.tolist(), *targets.tolist()}}
        answers, expected = ([names[symbol] for symbol in series.tolist()] for series in (top, targets))
    else:
        decoded, sure = task.targets.decode(outputs), None
        if metric.percent:  # labels, or several symbols: the share that is right
            right, changed = scores.numpy(), symbol_changes(decoded.unique(dim=0, return_inverse=True)[1].numpy())
        else:  # 1: no error; 0: the error without a memory, or more
            right = (1 - (scores / task.chance).sqrt().clamp(max=1)).numpy()
            changed = number_changes(outputs.numpy(), goal or 0.0)
        answers, expected = ([""] * len(words) for _ in range(2))
        for t in sorted({0, *np.flatnonzero(asked.numpy() | changed).tolist()}):
            answers[t], expected[t] = task.answer(decoded[t]), task.answer(targets[t])
    # By the score if the task says from which score on it is solved (two real numbers are never equal), else by name.
    correct = [
        bool(at) and (metric.reached(score, goal) if goal is not None else answer == other)
        for at, score, answer, other in zip(asked.tolist(), scores.tolist(), answers, expected, strict=True)
    ]
    return Sentence(words, asked.numpy(), right, answers, expected, np.array(correct), changed, sure=sure)
