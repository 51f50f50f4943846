"""Cells on top of each other, as one cell.

Axes: T time, S asked timesteps, B batch, D input features, H hidden (output) features, V vectors.
"""

from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any, cast

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from .base import Additive, Cell, Differentiated, Tapped, hooked
from .state import State, join, part


class Stack(Cell):
    """Each cell reads the outputs of the one below. Its number starts its states' and gates' names: ``0/hidden``.

    Raises:
        ValueError: the output size of a cell is not the input size of the one above.
    """

    def __init__(self, cells: Sequence[Cell]) -> None:
        super().__init__()
        for below, above in pairwise(cells):
            if below.output_size != above.input_size:
                raise ValueError(
                    f"a cell of output size {below.output_size} cannot feed one of input size {above.input_size}"
                )
        self.cells = cast(Sequence[Cell], nn.ModuleList(cells))
        self._names = [str(i) for i in range(len(cells))]
        self.input_size = cells[0].input_size
        self.output_size = cells[-1].output_size
        above = cells[-1].output_state
        self.output_state = None if above is None else f"{len(cells) - 1}/{above}"
        self.keeps = tuple(f"{i}/{name}" for i, cell in enumerate(cells) for name in cell.keeps)

    def initial_state(self, batch_size: int) -> State:
        return self._join([cell.initial_state(batch_size) for cell in self.cells])

    def step(self, x: Float[Tensor, "B D"], state: State) -> tuple[Float[Tensor, "B H"], State]:
        news = []
        for cell, old in zip(self.cells, self._split(state), strict=True):
            x, new = cell.step(x, old)
            news.append(new)
        return x, self._join(news)

    def gates(self, x: Float[Tensor, "B D"], state: State) -> dict[str, Float[Tensor, "B _"]]:
        return self._join([cell.gates(x, old) for cell, x, old in self._reading(x, state)])

    def looks(self, x: Float[Tensor, "B D"], state: State) -> dict[str, Float[Tensor, "B A N"]]:
        return self._join([cell.looks(x, old) for cell, x, old in self._reading(x, state)])

    def additive(self, x: Float[Tensor, "B D"], state: State) -> dict[str, Additive]:
        return self._join([cell.additive(x, old) for cell, x, old in self._reading(x, state)])

    def forward(self, xs: Float[Tensor, "T B D"], state: State | None = None) -> tuple[Float[Tensor, "T B H"], State]:
        olds = [None] * len(self.cells) if state is None else self._split(state)
        news = []
        for cell, old in zip(self.cells, olds, strict=True):
            xs, new = cell(xs, old)
            news.append(new)
        return xs, self._join(news)

    def forward_tokens(
        self, tokens: Int[Tensor, "T B"], vectors: Float[Tensor, "V D"], state: State | None = None
    ) -> tuple[Float[Tensor, "T B H"], State]:
        first, *above = self.cells
        olds = [None] * len(self.cells) if state is None else self._split(state)
        xs, new = first.forward_tokens(tokens, vectors, olds[0])
        news = [new]
        for cell, old in zip(above, olds[1:], strict=True):
            xs, new = cell(xs, old)
            news.append(new)
        return xs, self._join(news)

    def forward_at(
        self,
        inputs: Float[Tensor, "T B D"] | Int[Tensor, "T B"],
        state: State | None,
        at: slice,
        *,
        vectors: Float[Tensor, "V D"] | None = None,
    ) -> tuple[Float[Tensor, "S B H"], State]:
        *below, top = self.cells
        olds = [None] * len(self.cells) if state is None else self._split(state)
        news = []
        for cell, old in zip(below, olds, strict=False):
            inputs, new = cell(inputs, old) if vectors is None else cell.forward_tokens(inputs, vectors, old)
            vectors = None
            news.append(new)
        outputs, new = top.forward_at(inputs, olds[-1], at, vectors=vectors)
        return outputs, self._join([*news, new])

    def tapped(
        self,
        inputs: Float[Tensor, "T B D"] | Int[Tensor, "T B"],
        state: State,
        *,
        vectors: Float[Tensor, "V D"] | None = None,
    ) -> Tapped | None:
        layers: list[Tapped] = []
        for cell, old in zip(self.cells, self._split(state), strict=True):
            layer = cell.tapped(inputs, old, vectors=vectors)
            if layer is None:
                return None
            layers.append(layer)
            inputs, vectors = layer.outputs, None  # the cell above reads the array that this layer fills
        return _TappedStack(self._names, layers)

    def differentiated(
        self,
        inputs: Float[Tensor, "T B D"] | Int[Tensor, "T B"],
        state: State,
        *,
        vectors: Float[Tensor, "V D"] | None = None,
    ) -> Differentiated | None:
        if hooked(self):
            return None
        layers: list[Differentiated] = []
        for cell, old in zip(self.cells, self._split(state), strict=True):
            layer = cell.differentiated(inputs, old, vectors=vectors)
            if layer is None:
                return None
            layers.append(layer)
            inputs, vectors = layer.outputs, None
        return _DifferentiatedStack(self._names, layers)

    def saves_memory(self, like: Float[Tensor, "..."]) -> bool:
        return all(cell.saves_memory(like) for cell in self.cells)

    def layers(self) -> Sequence[Cell]:
        return [layer for cell in self.cells for layer in cell.layers()]

    def _reading(self, x: Float[Tensor, "B D"], state: State) -> Iterator[tuple[Cell, Tensor, State]]:
        """Each cell with the input and the old state of its step."""
        for cell, old in zip(self.cells, self._split(state), strict=True):
            yield cell, x, old
            x, _ = cell.step(x, old)

    def _join(self, states: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
        return join(dict(zip(self._names, states, strict=True)))

    def _split(self, state: Mapping[str, Any]) -> list[dict[str, Any]]:
        return [part(state, name) for name in self._names]


class _TappedStack:
    """Each layer reads the outputs of the one below, and passes the gradient by its inputs down to it."""

    def __init__(self, names: Sequence[str], layers: Sequence[Tapped]) -> None:
        self._names, self._layers = names, layers
        self._between = [torch.empty_like(layer.outputs) for layer in layers[:-1]]
        self.outputs = layers[-1].outputs
        self.final = join({name: layer.final for name, layer in zip(names, layers, strict=True)})

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
        norms: dict[str, dict[str, Tensor]] = {}
        by_input = self.outputs
        for name, layer, below in zip(
            reversed(self._names), reversed(self._layers), [*reversed(self._between), to_inputs], strict=True
        ):
            by_input, norms[name] = layer.backward(outputs, part(final, name), to_inputs=below)
            outputs = below
        return by_input, join({name: norms[name] for name in self._names})


class _DifferentiatedStack:
    """Each layer passes the gradient by its inputs down to the one below."""

    def __init__(self, names: Sequence[str], layers: Sequence[Differentiated]) -> None:
        self._names, self._layers = names, layers
        self.outputs = layers[-1].outputs
        self.final = join({name: layer.final for name, layer in zip(names, layers, strict=True)})

    def backward(
        self, outputs: Float[Tensor, "T B H"] | None, final: Mapping[str, Tensor | None], *, by_inputs: bool
    ) -> Tensor | None:
        first = self._layers[0]
        for name, layer in zip(reversed(self._names), reversed(self._layers), strict=True):
            outputs = layer.backward(outputs, part(final, name), by_inputs=by_inputs or layer is not first)
        return outputs
