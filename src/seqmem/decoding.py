"""What a model writes when each of its answers is its next input, for tasks with ``Task.feedback``.

Axes: T time, N answers, B batch, K classes, W beams. Time comes first.
"""

from dataclasses import replace

import torch
from jaxtyping import Int
from torch import Tensor

from .cells.state import select
from .models.base import Model
from .signals import Batch
from .tasks.base import Feedback, Task


@torch.no_grad()
def decode(
    model: Model, feedback: Feedback, inputs: Int[Tensor, "T B"], answered: slice, *, beam: int = 1
) -> Int[Tensor, "N B"]:
    """The answers at the timesteps ``answered``, on the model's device.

    Only ``inputs`` up to the first of these are read: the source and the mark.

    Args:
        beam: keep this many of the likeliest beginnings (beam search: Graves 2012, arXiv 1211.3711). With 1 each answer
            is the likeliest (greedy). The result is the likeliest that remains, by the sum of its log-probabilities.
    """
    first, count, batch_size = answered.start, answered.stop - answered.start, inputs.shape[1]
    tokens = feedback.tokens.to(inputs.device)
    predicted, state = model(inputs[: first + 1], at=slice(first, first + 1))
    rows = torch.arange(batch_size, device=inputs.device)
    scores, written = predicted.new_zeros(1, batch_size), inputs.new_empty(0, 1, batch_size)  # [W B], [N W B]
    while True:
        width, classes = len(scores), predicted.shape[-1]
        logs = predicted[-1].log_softmax(-1).view(width, batch_size, classes)
        totals = (scores[..., None] + logs).transpose(0, 1).flatten(1)  # [B W*K]
        scores, chosen = (part.T for part in totals.topk(min(beam, totals.shape[1]), 1))
        parent, answer = chosen // classes, chosen % classes  # [W B]
        written = torch.cat([written.gather(1, parent.expand(len(written), *parent.shape)), answer[None]])
        if len(written) == count:
            return written[:, 0]  # the beams are in the order of their scores
        if beam > 1:
            state = select(state, (parent * batch_size + rows).flatten())
        predicted, state = model(tokens[answer].flatten()[None], state)


def self_fed(model: Model, task: Task, batch: Batch) -> Batch:
    """The batch as the model reads it by itself: with its own answers (greedy) as inputs, not the right ones.

    The batch itself if the task's answers are not fed back.
    """
    feedback = task.feedback()
    if feedback is None:
        return batch
    return fed_back(feedback, batch, decode(model, feedback, batch.inputs, batch.counted))


def fed_back(feedback: Feedback, batch: Batch, written: Int[Tensor, "N B"]) -> Batch:
    """The batch with these answers as inputs, not the right ones."""
    inputs, answered = batch.inputs.clone(), batch.counted
    inputs[answered.start + 1 : answered.stop] = feedback.tokens.to(written.device)[written[:-1]]
    return replace(batch, inputs=inputs)
