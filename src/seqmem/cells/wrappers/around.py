"""Shared by the wrappers that leave the recurrence alone: they change what enters the inner cell and what leaves it.

Axes: T time, S asked timesteps, B batch, D input features, H output features, V vectors. ``*N`` is one timestep, many,
or vectors.
"""

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from ..base import Additive, Cell, Tapped
from ..norms import row_norms
from ..state import State


class Around(Cell):
    """y_t = leave(x_t, inner(enter(x_t))), at each timestep for itself.

    So the inner cell computes whole sequences as it does alone, by its kernels and its taps. It keeps its states, their
    names and its gates.

    ``does`` says in one line what it changes, for ``seqmem list``.
    """

    does: ClassVar[str]
    source: ClassVar[str]
    draws: ClassVar[bool] = False
    """``leave`` draws random numbers, for every timestep of a sequence."""

    def __init__(self, inner: Cell) -> None:
        super().__init__()
        self.inner = inner
        self.input_size, self.output_size = inner.input_size, inner.output_size
        self.keeps, self.kernels = inner.keeps, inner.kernels

    @abstractmethod
    def enter(self, x: Float[Tensor, "*N D"]) -> Float[Tensor, "*N D"]:
        """What the inner cell reads. It draws no random numbers: a symbol's vector enters alike wherever it stands."""

    @abstractmethod
    def leave(self, x: Float[Tensor, "*N D"], output: Float[Tensor, "*N H"]) -> Float[Tensor, "*N H"]:
        """The output, from the input and the inner cell's output."""

    def initial_state(self, batch_size: int) -> State:
        return self.inner.initial_state(batch_size)

    def step(self, x: Float[Tensor, "B D"], state: State) -> tuple[Float[Tensor, "B H"], State]:
        output, new = self.inner.step(self.enter(x), state)
        return self.leave(x, output), new

    def gates(self, x: Float[Tensor, "B D"], state: State) -> dict[str, Float[Tensor, "B _"]]:
        return self.inner.gates(self.enter(x), state)

    def looks(self, x: Float[Tensor, "B D"], state: State) -> dict[str, Float[Tensor, "B A N"]]:
        return self.inner.looks(self.enter(x), state)

    def additive(self, x: Float[Tensor, "B D"], state: State) -> dict[str, Additive]:
        return self.inner.additive(self.enter(x), state)

    def forward(self, xs: Float[Tensor, "T B D"], state: State | None = None) -> tuple[Float[Tensor, "T B H"], State]:
        outputs, final = self.inner(self.enter(xs), state)
        return self.leave(xs, outputs), final

    def forward_tokens(
        self, tokens: Int[Tensor, "T B"], vectors: Float[Tensor, "V D"], state: State | None = None
    ) -> tuple[Float[Tensor, "T B H"], State]:
        outputs, final = self.inner.forward_tokens(tokens, self.enter(vectors), state)
        return self.leave(F.embedding(tokens, vectors), outputs), final

    def forward_at(
        self,
        inputs: Float[Tensor, "T B D"] | Int[Tensor, "T B"],
        state: State | None,
        at: slice,
        *,
        vectors: Float[Tensor, "V D"] | None = None,
    ) -> tuple[Float[Tensor, "S B H"], State]:
        if self.draws:
            return super().forward_at(inputs, state, at, vectors=vectors)
        entering = self.enter(inputs if vectors is None else vectors)
        entering, entered = (entering, None) if vectors is None else (inputs, entering)
        outputs, final = self.inner.forward_at(entering, state, at, vectors=entered)
        asked = inputs[at]
        return self.leave(asked if vectors is None else F.embedding(asked, vectors), outputs), final

    def tapped(
        self,
        inputs: Float[Tensor, "T B D"] | Int[Tensor, "T B"],
        state: State,
        *,
        vectors: Float[Tensor, "V D"] | None = None,
    ) -> Tapped | None:
        with torch.no_grad():
            entering = self.enter(inputs if vectors is None else F.embedding(inputs, vectors))
        entering = entering.clone(memory_format=torch.contiguous_format)
        taps = self.inner.tapped(entering, state)
        return None if taps is None else _TappedAround(self, inputs, vectors, entering, taps)

    def saves_memory(self, like: Float[Tensor, "..."]) -> bool:
        return self.inner.saves_memory(like)


class _TappedAround:
    """The inner cell's taps; autograd differentiates what is around it, one timestep like all."""

    def __init__(
        self, cell: Around, inputs: Tensor, vectors: Tensor | None, entering: Float[Tensor, "T B D"], taps: Tapped
    ) -> None:
        """``entering``: the array that ``taps`` reads."""
        self._cell, self._inputs, self._vectors, self._entering, self._taps = cell, inputs, vectors, entering, taps
        self._by_entering = torch.empty_like(entering)
        self.outputs, self.final = torch.empty_like(taps.outputs), taps.final

    def forward(self) -> None:
        xs = self._inputs if self._vectors is None else F.embedding(self._inputs, self._vectors)
        with torch.enable_grad():
            self._xs = xs.detach().requires_grad_()
            self._entered = self._cell.enter(self._xs)
            self._entering.copy_(self._entered.detach())
            self._taps.forward()
            self._inside = self._taps.outputs.detach().requires_grad_()
            self._left = self._cell.leave(self._xs, self._inside)
        self.outputs.copy_(self._left.detach())

    def backward(
        self,
        outputs: Float[Tensor, "T B H"] | None,
        final: Mapping[str, Tensor | None],
        *,
        to_inputs: Float[Tensor, "T B D"] | None = None,
    ) -> tuple[Float[Tensor, "T B"], dict[str, Float[Tensor, "T B"]]]:
        by_inside = beside = None
        if outputs is not None:
            by_inside, beside = _gradients(self._left, outputs, self._inside, self._xs)
        _, by_states = self._taps.backward(by_inside, final, to_inputs=self._by_entering)
        (by_input,) = _gradients(self._entered, self._by_entering, self._xs)
        by_input = by_input if beside is None else by_input + beside
        if to_inputs is not None:
            to_inputs.copy_(by_input)
        return row_norms(by_input.flatten(0, 1)).view(by_input.shape[:2]), by_states


def _gradients(of: Tensor, gradient: Tensor, *by: Tensor) -> tuple[Tensor, ...]:
    with torch.enable_grad():  # the sum of products: torch imports a computer algebra for a gradient that is given
        total = (of * gradient).sum()
    return torch.autograd.grad(total, by, retain_graph=True, allow_unused=True, materialize_grads=True)
