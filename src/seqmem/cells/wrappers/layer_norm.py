"""Layer normalisation of what a cell reads (Ba, Kiros & Hinton 2016, arXiv 1607.06450), before the cell, as in pre-norm
blocks (Xiong et al. 2020, arXiv 2002.04745):

    y_t = cell(scale * (x_t - mean(x_t)) / std(x_t) + bias)

Mean and deviation are over the features of one timestep. The recurrence inside the cell is not normalised.
"""

from typing import ClassVar

from jaxtyping import Float
from torch import Tensor, nn

from ..base import Cell
from .around import Around


class LayerNorm(Around):
    """States and gates are those of the inner cell.

    Raises:
        ValueError: the input has one feature, which would always be normalised to zero.
    """

    does: ClassVar[str] = "normalises each input over its features"
    source: ClassVar[str] = "Ba et al. 2016"

    def __init__(self, inner: Cell) -> None:
        super().__init__(inner)
        if self.input_size < 2:
            raise ValueError("wrap=layer_norm: an input of one number is always 0 when normalised: it needs at least 2")
        self.output_state = inner.output_state
        self.norm = nn.LayerNorm(self.input_size)

    def enter(self, x: Float[Tensor, "*N D"]) -> Float[Tensor, "*N D"]:
        return self.norm(x)

    def leave(self, x: Float[Tensor, "*N D"], output: Float[Tensor, "*N H"]) -> Float[Tensor, "*N H"]:
        return output
