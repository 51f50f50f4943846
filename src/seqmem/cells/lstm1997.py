"""The first long short-term memory (Hochreiter & Schmidhuber 1997, Neural Computation 9:1735): memory blocks without a
forget gate. The cells of a block share their gates:

    u_t   = (in_t, out_t, h_t)                what every unit sees of the past
    in_t  = sigmoid(W x_t + R u_{t-1} + b)    input gate, one per block
    out_t = sigmoid(W x_t + R u_{t-1} + b)    output gate, one per block
    c_t   = c_{t-1} + in_t * g(W x_t + R u_{t-1} + b)
    h_t   = out_t * h(c_t)

with g(v) = 4 sigmoid(v) - 2 and h(v) = 2 sigmoid(v) - 1. The rows of W, R and b are those of the input gates, of the
output gates and of the cells, and so are R's columns.
"""

from collections.abc import Iterator
from typing import Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .base import Additive, Cell
from .initialisation import at_least, uniform
from .state import State


class LSTM1997(Cell):
    """State: ``hidden`` [B H], ``cell`` [B H], and ``gates`` [B 2G], the outputs of G input and G output gates.

    ``block`` cells share two gates; if it does not divide H, the last block is smaller. ``biases`` are those of ``all``
    units, of the ``gates`` alone, or ``none``: the paper has each, in one experiment or another. ``gate_bias`` is the
    initial one of the gates, from -1 to -6 in the paper; the other biases and the weights begin at U(-0.1, 0.1).

    ``truncated`` is the paper's own training: a gradient goes back in time through c alone, and ends where it reaches a
    unit's input. The forward pass is the same, the training rule is another.

    Raises:
        ValueError: ``block`` is less than 1, or ``biases`` is another word.
    """

    family: ClassVar[str] = "gated"
    source: ClassVar[str] = "Hochreiter & Schmidhuber 1997"
    output_state = "hidden"

    def __init__(
        self,
        input_size: int,
        hidden_size: int,
        *,
        block: int = 1,
        truncated: bool = False,
        biases: str = "all",
        gate_bias: float = -1.0,
    ) -> None:
        super().__init__()
        if biases not in ("all", "gates", "none"):
            raise ValueError(f"biases={biases!r}: must be 'all', 'gates' or 'none'")
        self.input_size, self.output_size = input_size, hidden_size
        self.block, self.truncated = at_least("block", block, 1), truncated
        self.blocks = -(-hidden_size // block)
        gates, units = 2 * self.blocks, 2 * self.blocks + hidden_size
        self.weight_input = uniform(units, input_size, bound=0.1)
        self.weight_hidden = uniform(units, units, bound=0.1)
        self.bias = None
        if biases != "none":
            self.bias = uniform(units if biases == "all" else gates, bound=0.1)
            nn.init.constant_(self.bias[:gates], gate_bias)

    def initial_state(self, batch_size: int) -> State:
        zeros = self.weight_input.new_zeros(batch_size, self.output_size)
        return {"hidden": zeros, "cell": zeros, "gates": zeros.new_zeros(batch_size, 2 * self.blocks)}

    def step(self, x: Float[Tensor, "B D"], state: State) -> tuple[Float[Tensor, "B H"], State]:
        gates, candidate = self._activations(x, state)
        enter, leave = self._per_cell(gates)
        cell = state["cell"] + enter * (4 * candidate.sigmoid() - 2)
        hidden = leave * (2 * cell.sigmoid() - 1)
        return hidden, {"hidden": hidden, "cell": cell, "gates": gates}

    def forward(self, xs: Float[Tensor, "T B D"], state: State | None = None) -> tuple[Float[Tensor, "T B H"], State]:
        """Truncated, in two passes: what the units see of the past is a constant for the gradient, so a first pass
        without gradient finds it, and in the second all timesteps are computed at once."""
        start = self.initial_state(xs.shape[1]) if state is None else state
        if not self.truncated or not _in_numpy(xs, self.weight_input):
            return super().forward(xs, start)
        units = F.linear(xs, self.weight_input, self._bias())
        past = torch.cat([start["gates"], start["hidden"]], -1).detach()
        pasts = self._pasts(units.detach(), past, start["cell"].detach())
        gates, candidate = self._split(units + F.linear(pasts, self.weight_hidden))
        enter, leave = self._per_cell(gates)
        cells = start["cell"] + (enter * (4 * candidate.sigmoid() - 2)).cumsum(0)
        hidden = leave * (2 * cells.sigmoid() - 1)
        return hidden, {"hidden": hidden[-1], "cell": cells[-1], "gates": gates[-1]}

    def _pasts(
        self, units: Float[Tensor, "T B U"], past: Float[Tensor, "B U"], cell: Float[Tensor, "B H"]
    ) -> Float[Tensor, "T B U"]:
        """What each timestep sees of the past, ``past`` first. ``units``: what enters them without it.

        In numpy, whose small operations cost a fifth of torch's.
        """
        count, gates = self.output_size, 2 * self.blocks
        pasts = np.empty(units.shape, units.numpy().dtype)
        pasts[0] = past.numpy()
        c = cell.numpy().copy()
        # tanh(v / 2) = 2 sigmoid(v) - 1 is one operation instead of three, and needs no care for large v.
        entering, weight = units.numpy() / 2, self.weight_hidden.detach().numpy().T / 2
        of_block = np.arange(count) // self.block
        of_cell = np.concatenate([of_block, self.blocks + of_block, gates + np.arange(count)])
        for before, now, enters in zip(pasts, pasts[1:], entering, strict=False):
            active = np.tanh(before.dot(weight) + enters)
            wide = active.take(of_cell, 1)
            c += (wide[:, :count] + 1) * wide[:, 2 * count :]
            now[:, :gates] = (active[:, :gates] + 1) / 2
            now[:, gates:] = (wide[:, count : 2 * count] + 1) / 2 * np.tanh(c / 2)
        return torch.from_numpy(pasts)

    def additive(self, x: Float[Tensor, "B D"], state: State) -> dict[str, Additive]:
        gates, candidate = self._activations(x, state)
        enter, _ = self._per_cell(gates)
        return {"cell": Additive(torch.ones_like(enter), enter * (4 * candidate.sigmoid() - 2))}

    def gates(self, x: Float[Tensor, "B D"], state: State) -> dict[str, Float[Tensor, "B _"]]:
        """One value per block."""
        enter, leave = self._activations(x, state)[0].chunk(2, -1)
        return {"input": enter, "output": leave}

    def _per_cell(self, gates: Float[Tensor, "*T B G2"]) -> Iterator[Float[Tensor, "B H"]]:
        """The input and the output gate of each cell: those of its block."""
        for gate in gates.chunk(2, -1):
            yield gate if self.block == 1 else gate.repeat_interleave(self.block, -1)[..., : self.output_size]

    def _activations(self, x: Float[Tensor, "B D"], state: State) -> tuple[Tensor, Tensor]:
        """The gates [B 2G], and what enters g [B H]."""
        past = torch.cat([state["gates"], state["hidden"]], -1)
        if self.truncated:
            past = past.detach()
        return self._split(F.linear(x, self.weight_input, self._bias()) + F.linear(past, self.weight_hidden))

    def _bias(self) -> Tensor | None:
        """Every unit's bias; zero where it has none."""
        bias = self.bias
        if bias is not None and len(bias) < len(self.weight_input):
            bias = F.pad(bias, (0, self.output_size))
        return bias

    def _split(self, units: Float[Tensor, "*T B U"]) -> tuple[Tensor, Tensor]:
        gates, candidate = units.split([2 * self.blocks, self.output_size], -1)
        return gates.sigmoid(), candidate


def _in_numpy(xs: Tensor, weight: Tensor) -> bool:
    """True for plain numbers in memory: torch's compiler and its transforms of functions cannot follow numpy."""
    internal: Any = torch._C  # noqa: SLF001  (torch has no other way to ask)
    return (
        xs.device.type == "cpu"
        and xs.dtype == weight.dtype
        and xs.dtype in (torch.float32, torch.float64)
        and not torch.is_autocast_enabled("cpu")
        and not torch.compiler.is_compiling()
        and not torch.jit.is_tracing()  # pyright: ignore[reportPrivateImportUsage]
        and not internal._are_functorch_transforms_active()  # noqa: SLF001
        and torch.autograd.forward_ad._current_level < 0  # noqa: SLF001
    )
