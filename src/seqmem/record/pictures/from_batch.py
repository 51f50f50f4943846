"""The sequences of a batch as a model read them, ready to be drawn.

Axes: T time, B batch, K answers (or output features).
"""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from ...signals import Batch
from ...tasks.base import Task
from .sentences import Sentence


def sentences(task: Task, batch: Batch, predicted: Float[Tensor, "T B K"]) -> list[Sentence]:
    """Each sequence of a batch as a model read it, up to its last answer.

    Args:
        predicted: what the model would answer if it were asked after each timestep.
    """
    metric, goal = task.targets.metric, task.solved_at
    symbols = batch.targets.ndim < predicted.ndim
    found = []
    for b, last in enumerate(batch.answered_at.tolist()):
        upto = slice(last + 1)
        targets, outputs = batch.targets[upto, b], predicted[upto, b].detach().double()
        asked, words = batch.asked[upto, b], task.words(batch.inputs[upto, b])
        if asked.sum() == 1:  # the one answer is what there is to be sure of, all the way
            targets = targets[-1:].expand_as(targets)
        scores = task.targets.score(outputs[:, None], targets[:, None])[:, 0]
        if symbols:
            chosen = outputs.argmax(-1)
            names = {symbol: task.answer(torch.tensor(symbol)) for symbol in {*chosen.tolist(), *targets.tolist()}}
            said, wanted = ([names[symbol] for symbol in of.tolist()] for of in (chosen, targets))
            shares = outputs.softmax(-1)
            right, sure = shares.gather(-1, targets[:, None])[:, 0], shares.amax(-1).numpy()
            another = torch.cat([torch.zeros(1, dtype=torch.bool), chosen[1:] != chosen[:-1]])
        else:
            # No two real numbers are equal: another is one that is further from the last than counts as right.
            far = (outputs - outputs[-1]).square().mean(-1) > (goal or 0.0)
            another = torch.zeros_like(asked)
            another[far.nonzero()[-1:, 0] + 1] = True
            said, wanted = ([""] * len(words) for _ in range(2))
            for t in sorted({0, *(asked | another).nonzero()[:, 0].tolist()}):
                said[t], wanted[t] = task.answer(outputs[t]), task.answer(targets[t])
            # 1 for no error, 0 for that of somebody without a memory, or more.
            right, sure = 1 - (scores / task.chance).sqrt().clamp(max=1), None
        # By the score where it says when a task is solved (two real numbers are never equal), else by sight.
        good = [
            bool(ask) and (metric.reached(score, goal) if goal is not None else a == z)
            for ask, score, a, z in zip(asked.tolist(), scores.tolist(), said, wanted, strict=True)
        ]
        found.append(
            Sentence(words, asked.numpy(), right.numpy(), said, wanted, np.array(good), another.numpy(), sure=sure)
        )
    return found
