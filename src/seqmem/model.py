"""Embed, run a cell, read out at every timestep.

Axes: T time, B batch, K outputs.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from .cells.base import Cell, CellFactory, Stack, State
from .signals import Batch
from .tasks.base import Task


class SequenceModel(nn.Module):
    def __init__(self, embed: nn.Module, cell: Cell, readout: nn.Module) -> None:
        super().__init__()
        self.embed, self.cell, self.readout = embed, cell, readout

    @classmethod
    def for_task(cls, task: Task, cell: CellFactory, *, embed_size: int = 32, layers: int = 1) -> "SequenceModel":
        """``layers`` cells on top of each other between the task's inputs and its targets.

        Tokens enter as learned vectors of ``embed_size`` features (0: one-hot), real numbers as they are.
        """
        if layers < 1:
            raise ValueError(f"layers={layers}: must be at least 1")
        if embed_size < 0:
            raise ValueError(f"embed_size={embed_size}: must be at least 0")
        embed, width = task.inputs.embed(embed_size)
        cells = [cell(width)]
        while len(cells) < layers:
            cells.append(cell(cells[-1].output_size))
        whole = cells[0] if layers == 1 else Stack(cells)
        return cls(embed, whole, nn.Linear(whole.output_size, task.targets.size))

    def forward(
        self, inputs: Shaped[Tensor, "T B ..."], state: State | None = None
    ) -> tuple[Float[Tensor, "T B K"], State]:
        """(predictions at every timestep, final state)."""
        outputs, final = self.cell(self.embed(inputs), state)
        return self.readout(outputs), final


def trainable(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def parameter_count(model: nn.Module) -> int:
    """Numbers that training may change."""
    return sum(parameter.numel() for parameter in trainable(model))


def hidden_size_for(params: int, build: Callable[[int], nn.Module]) -> int:
    """The hidden size whose model, ``build(hidden_size)``, comes closest to ``params`` trainable parameters.

    Assumes that the count grows with the hidden size. Nothing is allocated.

    Raises:
        ValueError: even one hidden unit needs more than twice ``params``.
    """

    def count(hidden_size: int) -> int:
        with torch.device("meta"):
            return parameter_count(build(hidden_size))

    smallest = count(1)
    if smallest > 2 * params:
        raise ValueError(f"params={params} is too few: one hidden unit already makes {smallest} parameters")
    high = 2
    while count(high) < params:
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) < params else (low, middle)
    return min((low, high), key=lambda size: abs(count(size) - params))


def loss_per_sequence(task: Task, predicted: Float[Tensor, "T B K"], batch: Batch) -> Float[Tensor, " B"]:
    """The mean loss (nats or squared error) over the timesteps of each sequence, by ``batch.weights``."""
    per_step = task.targets.loss(predicted, batch.targets)
    return (per_step * batch.weights).sum(0) / batch.weights.sum(0)


def score_per_sequence(task: Task, predicted: Float[Tensor, "T B K"], batch: Batch) -> Float[Tensor, " B"]:
    """The mean score, in the targets' metric, over the timesteps at which each sequence is asked."""
    per_step = task.targets.metric.per_step(predicted, batch.targets)
    asked = batch.asked.to(per_step.dtype)
    return (per_step * asked).sum(0) / asked.sum(0)
