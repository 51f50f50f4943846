"""Dropout of what a cell puts out (Zaremba, Sutskever & Vinyals 2014, arXiv 1409.2329): between layers and before the
readout, never on the way from one timestep to the next.

    y_t = m_t * cell(x_t) / (1 - p)    m_t = 0 with probability p, else 1; drawn anew for every unit and timestep

In evaluation, and where gradients are measured, y_t = cell(x_t).
"""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ...randomness import noise
from ..base import Cell
from .around import Around


class Dropout(Around):
    """States and gates are those of the inner cell.

    Masks come from ``randomness.noise``, which training seeds with (seed, step): a resumed run draws the same ones. A
    sequence has those of its steps, on a CPU, in a stack or in pieces (``recompute``), too.

    Raises:
        ValueError: p is not a probability below 1.
    """

    does: ClassVar[str] = "sets each number of the output to 0 with probability p"
    source: ClassVar[str] = "Zaremba et al. 2014"
    draws: ClassVar[bool] = True

    def __init__(self, inner: Cell, *, p: float) -> None:
        super().__init__(inner)
        if not 0 <= p < 1:
            raise ValueError(f"wrap=dropout:{p:g}: must be from 0, and less than 1")
        self.p = p

    def enter(self, x: Float[Tensor, "*N D"]) -> Float[Tensor, "*N D"]:
        return x

    def leave(self, x: Float[Tensor, "*N D"], output: Float[Tensor, "*N H"]) -> Float[Tensor, "*N H"]:
        if not self.training:
            return output
        return torch.where(noise(output.shape, output.device, self) < self.p, 0.0, output / (1 - self.p))
