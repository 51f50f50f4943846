"""Zoneout (Krueger et al. 2017, arXiv 1606.01305): units that keep their old state, drawn anew at every timestep.

    s_t = m_t * s_{t-1} + (1 - m_t) * cell(x_t, s_{t-1})    m_t = 1 with probability p, else 0

for every unit of every state. In evaluation, and where gradients are measured, p takes the place of m_t: the
expectation. Where the output is a state, it is the new one.
"""

from typing import ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from ...randomness import noise
from ..base import Additive, Cell, cells_in
from ..state import Slots, State


class Zoneout(Cell):
    """States and gates are those of the inner cell, which is computed step by step. Slots, to which a step appends, are
    as it leaves them.

    Masks come from ``randomness.noise``, which training seeds with (seed, step): a resumed run draws the same ones.

    Raises:
        ValueError: p is not a probability below 1, or the inner cell's states are slots alone, or none.
    """

    does: ClassVar[str] = "keeps each unit of each state as it was with probability p"
    source: ClassVar[str] = "Krueger et al. 2017"

    def __init__(self, inner: Cell, *, p: float) -> None:
        super().__init__()
        if not 0 <= p < 1:
            raise ValueError(f"wrap=zoneout:{p:g}: must be from 0, and less than 1")
        if all(isinstance(leaf, Slots) for leaf in inner.initial_state(1).values()):
            raise ValueError("wrap=zoneout: this cell has no state that a step overwrites, so none that it could keep")
        self.inner, self.p = inner, p
        self.input_size, self.output_size = inner.input_size, inner.output_size
        self.output_state, self.keeps = inner.output_state, inner.keeps
        for cell in cells_in(inner):
            cell.kernels = ()  # nothing but its steps computes what is inside

    def initial_state(self, batch_size: int) -> State:
        return self.inner.initial_state(batch_size)

    def step(self, x: Float[Tensor, "B D"], state: State) -> tuple[Float[Tensor, "B H"], State]:
        output, written = self.inner.step(x, state)
        new: State = {
            name: leaf if leaf is state[name] or isinstance(leaf, Slots) else self._kept(state[name], leaf)
            for name, leaf in written.items()
        }
        return output if self.output_state is None else new[self.output_state], new

    def gates(self, x: Float[Tensor, "B D"], state: State) -> dict[str, Float[Tensor, "B _"]]:
        return self.inner.gates(x, state)

    def looks(self, x: Float[Tensor, "B D"], state: State) -> dict[str, Float[Tensor, "B A N"]]:
        return self.inner.looks(x, state)

    def additive(self, x: Float[Tensor, "B D"], state: State) -> dict[str, Additive]:
        """That of the expectation; without memories that are read through a query, before their units are kept."""
        return {
            name: Additive(self.p + (1 - self.p) * keep, (1 - self.p) * write)
            for name, (keep, write, query) in self.inner.additive(x, state).items()
            if query is None
        }

    def _kept(self, old: Float[Tensor, "B ..."], new: Float[Tensor, "B ..."]) -> Float[Tensor, "B ..."]:
        if not new.is_floating_point():  # a counter
            return new
        if not self.training:
            return self.p * old + (1 - self.p) * new
        return torch.where(noise(new.shape, new.device, self) < self.p, old, new)
