"""Shared by cells that are linear in their state: h_t = a_t * h_{t-1} + b_t, where a_t and b_t depend on x_t alone.

Axes: T time, B batch, D input features, H hidden.
"""

from abc import abstractmethod
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from ..kernels.functions import linear_recurrence
from ..kernels.scan import scan, scan_of_tokens
from .base import Additive, Tapped
from .native import NativeCell
from .state import State
from .taps import AutogradTaps, Written, haunted


class GatedLinearCell(NativeCell):
    """State: ``hidden`` [B H], which is the output.

    A whole sequence costs one product over all timesteps, and what is left is elementwise: nothing between two
    timesteps needs a product. Of tokens, the product is one over the vocabulary.

    A subclass with a native kernel sets ``kernels``, and ``scanned``, the kernel's name in ``kernels.scan``, in the
    class that has its ``parts``: they are what the kernel computes.
    """

    output_state = "hidden"
    parallel = True
    kernels = ("torch",)
    scanned: str = ""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_size, self.output_size = input_size, hidden_size

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        for name in ("activations", "parts", "constants"):
            if name in vars(cls) and "kernels" not in vars(cls):
                cls.kernels = GatedLinearCell.kernels

    @abstractmethod
    def activations(self, x: Float[Tensor, "*N D"]) -> Float[Tensor, "*N GH"]:
        """What a timestep's input contributes before the gates, G numbers per unit."""

    @abstractmethod
    def parts(self, x: Float[Tensor, "*N D"]) -> tuple[Float[Tensor, "*N H"], Float[Tensor, "*N H"]]:
        """a and b for any number of inputs."""

    def constants(self) -> Float[Tensor, "Q H"] | None:
        """What ``parts`` needs besides the activations: the kernel's parameters."""
        return None

    def initial_state(self, batch_size: int) -> State:
        return {"hidden": next(self.parameters()).new_zeros(batch_size, self.output_size)}

    def step(self, x: Float[Tensor, "B D"], state: State) -> tuple[Float[Tensor, "B H"], State]:
        a, b = self.parts(x)
        hidden = a * state["hidden"] + b
        return hidden, {"hidden": hidden}

    def additive(self, x: Float[Tensor, "B D"], state: State) -> dict[str, Additive]:
        return {"hidden": Additive(*self.parts(x))}

    def forward(self, xs: Float[Tensor, "T B D"], state: State | None = None) -> tuple[Float[Tensor, "T B H"], State]:
        state = self.initial_state(xs.shape[1]) if state is None else state
        kernel = self.choice(xs, [state["hidden"]])
        if kernel == "step":
            return super().forward(xs, state)
        if kernel == "native":
            outputs, last = scan(self.scanned, self.activations(xs), state["hidden"], self.constants(), self._how())
            return outputs, {"hidden": last}
        outputs = linear_recurrence(*self.parts(xs), state["hidden"])
        return outputs, {"hidden": outputs[-1]}

    def forward_tokens(
        self, tokens: Int[Tensor, "T B"], vectors: Float[Tensor, "V D"], state: State | None = None
    ) -> tuple[Float[Tensor, "T B H"], State]:
        before = self.initial_state(tokens.shape[1]) if state is None else state
        if not self._table_pays(tokens, vectors) or self.choice(vectors, [before["hidden"]]) != "native":
            return super().forward_tokens(tokens, vectors, state)
        table = self.activations(vectors)
        outputs, last = scan_of_tokens(self.scanned, tokens, table, before["hidden"], self.constants(), self._how())
        return outputs, {"hidden": last}

    def tapped(
        self,
        inputs: Float[Tensor, "T B D"] | Int[Tensor, "T B"],
        state: State,
        *,
        vectors: Float[Tensor, "V D"] | None = None,
    ) -> Tapped | None:
        if self.choice(inputs if vectors is None else vectors, [state["hidden"]]) != "native":
            return None

        def run(xs: Tensor, start: State) -> tuple[Tensor, State, Written]:
            written, ghost = haunted(xs, {"hidden": self.output_size}, on=True)
            rows, old = self.activations(xs), start["hidden"]
            outputs, last = scan(self.scanned, rows, old, self.constants(), self._how(), ghost)
            return outputs, {"hidden": last}, written

        return AutogradTaps(run, inputs, state, vectors)


def above_zero(a: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """a + 0.5 if a >= 0, else sigmoid(a): continuous, increasing, positive (Feng et al. 2024, appendix B)."""
    return torch.where(a >= 0, a + 0.5, a.sigmoid())
