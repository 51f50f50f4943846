"""Embed, run a cell, read out at every timestep.

Axes: T time, A timesteps that an answer is asked for, B batch, D input features, K outputs.
"""

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from ..cells.base import Cell, CellFactory, Stack, State
from ..cells.fused import FusedCell
from ..cells.recompute import recomputed
from ..signals import OneHot
from ..tasks.base import Task


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
