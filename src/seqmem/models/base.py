"""What every model is measured by: its parameters, and the loss and the score of a sequence.

Axes: T time, B batch, K outputs.
"""

from collections.abc import Callable

from jaxtyping import Float
from torch import Tensor, nn

from ..randomness import ambient
from ..signals import Batch
from ..tasks.base import Task


def trainable(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def parameter_count(model: nn.Module) -> int:
    """Numbers that training may change."""
    return sum(parameter.numel() for parameter in trainable(model))


def hidden_size_for(params: int, build: Callable[[int], nn.Module]) -> int:
    """The hidden size whose model, ``build(hidden_size)``, comes closest to ``params`` trainable parameters.

    Assumes that the count grows with the hidden size. Of weight matrices it is a polynomial of degree 2, so that the
    models of 1, 2 and 3 hidden units tell all others; the one that is found is built and counted too, and if it has
    another count, the size is searched for by building. No generator advances. (On torch's meta device nothing would
    be allocated, but to enter it imports torch's compiler, four seconds.)

    Raises:
        ValueError: even one hidden unit needs more than twice ``params``, or the count does not grow.
    """
    counted: dict[int, int] = {}

    def count(hidden_size: int) -> int:
        if hidden_size not in counted:
            with ambient(0, "count"):
                counted[hidden_size] = parameter_count(build(hidden_size))
        return counted[hidden_size]

    one, two, three = count(1), count(2), count(3)
    if one > 2 * params:
        raise ValueError(f"params={params} is too few: one hidden unit already makes {one} parameters")
    if three <= one:
        raise ValueError(f"params={params}: 1 hidden unit makes {one} parameters and 3 make {three}: set hidden_size")

    def polynomial(hidden_size: int) -> int:  # Newton's form, whole numbers throughout
        k = hidden_size - 1
        return one + k * (two - one) + k * (k - 1) // 2 * (three - 2 * two + one)

    curved_down = three - 2 * two + one < 0  # no polynomial that grows for ever
    found = 1 if curved_down else _closest(params, polynomial)
    return found if not curved_down and count(found) == polynomial(found) else _closest(params, count)


def _closest(params: int, count: Callable[[int], int]) -> int:
    """The hidden size with the count next to ``params``, of counts that grow."""
    high = 2
    while count(high) < params:
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) < params else (low, middle)
    return min((low, high), key=lambda size: abs(count(size) - params))


def loss_per_sequence(
    task: Task, predicted: Float[Tensor, "T B K"], batch: Batch, total: Float[Tensor, " B"] | None = None
) -> Float[Tensor, " B"]:
    """The mean loss (nats or squared error) over the timesteps of each sequence, by ``batch.weights``.

    ``total``: what their sum is divided by, where the batch is a part of a longer one; the losses of all parts then
    add up to that of the whole.
    """
    per_step = task.targets.loss(predicted, batch.targets)
    if len(per_step) == 1 and total is None:
        return per_step.squeeze(0)  # the mean of one, whatever its weight
    return (per_step * batch.weights).sum(0) / (batch.weights.sum(0) if total is None else total)


def score_per_sequence(task: Task, predicted: Float[Tensor, "T B K"], batch: Batch) -> Float[Tensor, " B"]:
    """The mean score, in the targets' metric, over the timesteps at which each sequence is asked."""
    per_step = task.targets.metric.per_step(predicted, batch.targets)
    asked = batch.asked.to(per_step.dtype)
    return (per_step * asked).sum(0) / asked.sum(0)
