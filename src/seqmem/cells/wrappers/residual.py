"""A residual connection around a cell (He, Zhang, Ren & Sun 2016, arXiv 1512.03385), for stacks that learn:

    y_t = x_t + cell(x_t)

Where the cell's output has another size, W x_t with a learned W goes around it.
"""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from ..base import Cell
from .around import Around


class Residual(Around):
    """States and gates are those of the inner cell. W begins as torch's linear layers do."""

    does: ClassVar[str] = "adds the input to the output, through a matrix where their sizes differ"
    source: ClassVar[str] = "He et al. 2016"

    def __init__(self, inner: Cell) -> None:
        super().__init__(inner)
        same = self.input_size == self.output_size
        self.around: nn.Module = nn.Identity() if same else nn.Linear(self.input_size, self.output_size, bias=False)

    def enter(self, x: Float[Tensor, "*N D"]) -> Float[Tensor, "*N D"]:
        return x

    def leave(self, x: Float[Tensor, "*N D"], output: Float[Tensor, "*N H"]) -> Float[Tensor, "*N H"]:
        return torch.add(self.around(x), output)
