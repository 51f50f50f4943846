"""A cell maps one timestep; everything else about sequences is derived from that.

Axes: T time, B batch, D input features, H hidden (output) features. Time comes first.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, Protocol, cast, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

State = dict[str, Tensor]
"""Name -> [B, ...]: what a cell carries past a timestep. The names become TensorBoard tags."""

CellFactory = Callable[[int], "Cell"]
"""From an input size to a fresh cell of that input size."""


class Cell(nn.Module, ABC):
    """One timestep of a recurrent network. Write ``initial_state`` and ``step``; the rest follows.

    A subclass sets ``input_size`` and ``output_size``, and where they apply:

    ``output_state``: its output is one of its states, the one of this name.
    ``keeps``: its gates whose value is the share of an old state that is kept (an LSTM's forget gate).
    ``equations``: the published equations that its step computes, for a reader that knows them too; None: its own.
    """

    input_size: int
    output_size: int
    output_state: str | None = None
    keeps: tuple[str, ...] = ()
    equations: str | None = None

    @abstractmethod
    def initial_state(self, batch_size: int) -> State:
        """The state before the first timestep, on the parameters' device and in their dtype."""

    @abstractmethod
    def step(self, x: Float[Tensor, "B D"], state: State) -> tuple[Float[Tensor, "B H"], State]:
        """One timestep: (output, new state). This is the definition of the cell."""

    def gates(self, x: Float[Tensor, "B D"], state: State) -> State:
        """Gate name -> [B H], how far each is open (0 to 1) in the step that reads ``x``. Many cells have none."""
        return {}

    def forward(self, xs: Float[Tensor, "T B D"], state: State | None = None) -> tuple[Float[Tensor, "T B H"], State]:
        """A whole sequence: (outputs, final state). Override only to go faster; the laws hold it equal to ``steps``."""
        state = self.initial_state(xs.shape[1]) if state is None else state
        outputs = []
        # unbind, not xs[t]: indexing a tensor that requires grad costs O(T) per step in the backward pass.
        for output, new in steps(self, xs.unbind(0), state):
            outputs.append(output)
            state = new
        return torch.stack(outputs), state

    def forward_tokens(
        self, tokens: Int[Tensor, "T B"], vectors: Float[Tensor, "V D"], state: State | None = None
    ) -> tuple[Float[Tensor, "T B H"], State]:
        """``forward`` over ``vectors[tokens]``. Override only to go faster."""
        return self(F.embedding(tokens, vectors), state)

    def tapped(
        self,
        inputs: Float[Tensor, "T B D"] | Int[Tensor, "T B"],
        state: State,
        *,
        vectors: Float[Tensor, "V D"] | None = None,
    ) -> "Tapped | None":
        """``forward``, or with ``vectors`` ``forward_tokens``, and back to every state at every timestep; None where
        the cell has no fast way to do it."""
        return None


@runtime_checkable
class Tapped(Protocol):
    """A cell over inputs and from a state that stay, to be run again and again while its weights change in place.

    ``forward`` fills ``outputs`` [T B H] and ``final``, the last state: the same tensors every time.
    """

    outputs: Tensor
    final: State

    def forward(self) -> None: ...

    def backward(
        self,
        outputs: Float[Tensor, "T B H"] | None,
        final: Mapping[str, Tensor | None],
        *,
        to_inputs: Float[Tensor, "T B D"] | None = None,
    ) -> tuple[Float[Tensor, "T B"], dict[str, Float[Tensor, "T B"]]]:
        """Of the last ``forward``: the L2 norms, for each sequence by itself, of dL/dx_t, and of dL/d state_t by the
        state's name: the total derivative of the loss by the state after timestep t.

        Args:
            outputs, final: the gradients of the loss by what ``forward`` filled; None or left out: zero.
            to_inputs: is filled with dL/dx_t itself.
        """
        ...


def steps(cell: Cell, xs: Iterable[Float[Tensor, "B D"]], state: State) -> Iterator[tuple[Tensor, State]]:
    """Yield (output, state) after each timestep: what a cell does to a sequence, and what ``forward`` must equal."""
    for x in xs:
        output, state = cell.step(x, state)
        yield output, state


class Stack(Cell):
    """Cells on top of each other, as one cell. Names of states and gates say which: ``0/hidden``, ``1/forget``."""

    def __init__(self, cells: Sequence[Cell]) -> None:
        super().__init__()
        for below, above in pairwise(cells):
            if below.output_size != above.input_size:
                raise ValueError(
                    f"a cell of output size {below.output_size} cannot feed one of input size {above.input_size}"
                )
        self.cells = cast(Sequence[Cell], nn.ModuleList(cells))
        self.input_size = cells[0].input_size
        self.output_size = cells[-1].output_size
        above = cells[-1].output_state
        self.output_state = None if above is None else f"{len(cells) - 1}/{above}"
        self.keeps = tuple(f"{i}/{name}" for i, cell in enumerate(cells) for name in cell.keeps)

    def initial_state(self, batch_size: int) -> State:
        return _join([cell.initial_state(batch_size) for cell in self.cells])

    def step(self, x: Float[Tensor, "B D"], state: State) -> tuple[Float[Tensor, "B H"], State]:
        news = []
        for cell, old in zip(self.cells, _split(state, len(self.cells)), strict=True):
            x, new = cell.step(x, old)
            news.append(new)
        return x, _join(news)

    def gates(self, x: Float[Tensor, "B D"], state: State) -> State:
        found = []
        for cell, old in zip(self.cells, _split(state, len(self.cells)), strict=True):
            found.append(cell.gates(x, old))
            x, _ = cell.step(x, old)
        return _join(found)

    def forward(self, xs: Float[Tensor, "T B D"], state: State | None = None) -> tuple[Float[Tensor, "T B H"], State]:
        olds = [None] * len(self.cells) if state is None else _split(state, len(self.cells))
        news = []
        for cell, old in zip(self.cells, olds, strict=True):
            xs, new = cell(xs, old)
            news.append(new)
        return xs, _join(news)

    def forward_tokens(
        self, tokens: Int[Tensor, "T B"], vectors: Float[Tensor, "V D"], state: State | None = None
    ) -> tuple[Float[Tensor, "T B H"], State]:
        first, *above = self.cells
        olds = [None] * len(self.cells) if state is None else _split(state, len(self.cells))
        xs, new = first.forward_tokens(tokens, vectors, olds[0])
        news = [new]
        for cell, old in zip(above, olds[1:], strict=True):
            xs, new = cell(xs, old)
            news.append(new)
        return xs, _join(news)

    def tapped(
        self,
        inputs: Float[Tensor, "T B D"] | Int[Tensor, "T B"],
        state: State,
        *,
        vectors: Float[Tensor, "V D"] | None = None,
    ) -> Tapped | None:
        layers: list[Tapped] = []
        for cell, old in zip(self.cells, _split(state, len(self.cells)), strict=True):
            layer = cell.tapped(inputs, old, vectors=vectors)
            if layer is None:
                return None
            layers.append(layer)
            inputs, vectors = layer.outputs, None  # what enters the cell above is what this one will have written there
        return _TappedStack(layers)


class _TappedStack:
    """Each layer reads what the one below has written, and hands its inputs' gradient down to it."""

    def __init__(self, layers: Sequence[Tapped]) -> None:
        self._layers = layers
        self._between = [torch.empty_like(layer.outputs) for layer in layers[:-1]]
        self.outputs = layers[-1].outputs
        self.final = _join([layer.final for layer in layers])

    def forward(self) -> None:
        for layer in self._layers:
            layer.forward()

    def backward(
        self,
        outputs: Float[Tensor, "T B H"] | None,
        final: Mapping[str, Tensor | None],
        *,
        to_inputs: Float[Tensor, "T B D"] | None = None,
    ) -> tuple[Float[Tensor, "T B"], dict[str, Float[Tensor, "T B"]]]:
        of_input, found = self.outputs, []
        for layer, ends, below in zip(
            reversed(self._layers),
            reversed(_split(final, len(self._layers))),
            [*reversed(self._between), to_inputs],
            strict=True,
        ):
            of_input, norms = layer.backward(outputs, ends, to_inputs=below)
            found.append(norms)
            outputs = below
        return of_input, _join(found[::-1])


def _join(states: list[State]) -> State:
    return {f"{i}/{name}": value for i, state in enumerate(states) for name, value in state.items()}


def _split(state: Mapping[str, Any], layers: int) -> list[dict[str, Any]]:
    parts: list[dict[str, Any]] = [{} for _ in range(layers)]
    for key, value in state.items():
        layer, name = key.split("/", 1)
        parts[int(layer)][name] = value
    return parts
