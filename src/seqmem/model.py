"""Embed, run a cell, read out at every timestep.

Axes: T time, A timesteps that an answer is asked for, B batch, D input features, K outputs.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from .cells.base import Cell, CellFactory, Stack, State
from .cells.fused import FusedCell
from .randomness import ambient
from .recompute import recomputed
from .signals import Batch, OneHot
from .tasks.base import Task


class SequenceModel(nn.Module):
    """``checkpoint_every_t``: of the cell's states keep those at every Nth timestep alone for the backward pass, and
    compute the rest again there; None: keep all. Nothing else changes; see ``checkpoint``."""

    def __init__(self, embed: nn.Module, cell: Cell, readout: nn.Module) -> None:
        super().__init__()
        self.embed, self.cell, self.readout = embed, cell, readout
        self.checkpoint_every_t: int | None = None

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
        self, inputs: Shaped[Tensor, "T B ..."], state: State | None = None, *, at: slice | None = None
    ) -> tuple[Float[Tensor, "A B K"], State]:
        """(predictions, final state). ``at``: the timesteps to predict at, where not all are asked for."""
        vectors, every = token_vectors(self.embed), self.checkpoint_every_t
        if every is not None and torch.is_grad_enabled() and not _saves_memory_itself(self.cell, self.readout):
            outputs, final = recomputed(self.cell, self.embed(inputs), state, every)
        elif vectors is not None:
            outputs, final = self.cell.forward_tokens(inputs, vectors, state)
        else:
            outputs, final = self.cell(self.embed(inputs), state)
        return self.readout(outputs if at is None else answered(self.cell, outputs, final, at)), final

    def checkpoint(self, every: int | None) -> None:
        """Set ``checkpoint_every_t``, here and in the cells whose own kernels know how to compute again."""
        self.checkpoint_every_t = every
        for part in self.modules():
            if isinstance(part, FusedCell):
                part.checkpoint_every_t = every


def answered(cell: Cell, outputs: Float[Tensor, "T B H"], final: State, at: slice) -> Float[Tensor, "A B H"]:
    """``outputs[at]``; the last one alone as a state, or the backward pass would begin with zeros for all others."""
    last = at == slice(len(outputs) - 1, len(outputs)) and cell.output_state
    return final[last][None] if last else outputs[at]


def token_vectors(embed: nn.Module) -> Tensor | None:
    """What the tokens stand for, [V D], where that is all that ``embed`` does."""
    if type(embed) is nn.Embedding and (embed.padding_idx, embed.max_norm, embed.sparse) == (None, None, False):
        return embed.weight
    return embed.get_buffer("units") if type(embed) is OneHot else None


def _saves_memory_itself(cell: Cell, beside: nn.Module) -> bool:
    """Whether every cell inside is run by a native kernel, which keeps few states without help."""
    inner = [part for part in cell.modules() if isinstance(part, Cell) and not _holds_cells(part)]
    like = next(beside.parameters())
    return all(isinstance(part, FusedCell) and part.choice(like) == "native" for part in inner)


def _holds_cells(cell: Cell) -> bool:
    return any(isinstance(part, Cell) for part in cell.modules() if part is not cell)


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
