"""Shared by rnn, lstm and gru: weights in one of torch's fused layers, their initialisation, and the kernels.

Axes: T time, B batch, H hidden, D input features, V vectors, G gates stacked on top of each other in the weights.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..kernels import functions
from .base import Differentiated, Tapped, add_gradients, hooked
from .initialisation import start_hidden, uniform
from .native import NativeCell
from .state import State


class Rows(nn.Module):
    """Weights by the names of torch's fused layers, drawn as there, for a form of a cell that none of them computes."""

    def __init__(self, input_size: int, hidden_size: int, gates: int) -> None:
        super().__init__()
        self.input_size, self.hidden_size = input_size, hidden_size
        bound, rows = hidden_size**-0.5, gates * hidden_size
        self.weight_ih_l0 = uniform(rows, input_size, bound=bound)
        self.weight_hh_l0 = uniform(rows, hidden_size, bound=bound)
        self.bias_ih_l0 = uniform(rows, bound=bound)
        self.bias_hh_l0 = nn.Parameter(torch.zeros(rows))


class FusedCell(NativeCell):
    """A cell whose weights live in an ``nn.RNNBase`` of one layer, so that ``forward`` can call its fused kernel.

    torch (and cuDNN) have two bias vectors, which are always added. Here the second one is zero and never trained, so a
    forget bias of 1 opens the gate to sigmoid(1) = 0.731, not sigmoid(2) = 0.881.

    ``kernel`` is one of ``KERNELS``. ``threads`` and ``checkpoint_every_t`` are the native kernels' (see
    ``kernels.functions.recurrence``); neither changes a bit of what they compute.
    """

    output_state = "hidden"
    kernels = ("native", "torch")

    def __init__(self, layer: nn.RNNBase | Rows, kind: str, states: tuple[str, ...], init: str) -> None:
        """``kind``: the cell's name in the native kernels. A subclass whose ``layer`` has other rows than these makes
        theirs in ``weights``.

        Raises:
            ValueError: ``init`` is unknown.
        """
        super().__init__()
        self.fused = layer
        self.checkpoint_every_t: int | None = None
        self._kind, self._states = kind, states
        if self.kernels:
            self.equations = kind
        self._idle: list[functions.Pass] = _Unshared()
        self.input_size, self.output_size = layer.input_size, layer.hidden_size
        start_hidden(self.weight_hidden, self.bias, init)
        with torch.no_grad():
            self._zero_bias.requires_grad_(False).zero_()

    @property
    def weight_input(self) -> Tensor:
        """[G*H, D]"""
        return cast(Tensor, self.fused.weight_ih_l0)

    @property
    def weight_hidden(self) -> Tensor:
        """[G*H, H]"""
        return cast(Tensor, self.fused.weight_hh_l0)

    @property
    def bias(self) -> Tensor:
        """[G*H]"""
        return cast(Tensor, self.fused.bias_ih_l0)

    @property
    def _zero_bias(self) -> Tensor:
        return cast(Tensor, self.fused.bias_hh_l0)

    def initial_state(self, batch_size: int) -> State:
        zeros = self.bias.new_zeros(batch_size, self.output_size)
        return dict.fromkeys(self._states, zeros)

    def forward(self, xs: Float[Tensor, "T B D"], state: State | None = None) -> tuple[Float[Tensor, "T B H"], State]:
        state = self.initial_state(xs.shape[1]) if state is None else state
        start = [state[name] for name in self._states]
        kernel = self.choice(xs, start)
        if kernel == "step":
            return super().forward(xs, state)
        if kernel == "native":
            outputs, *final = self._native(xs, start)
        else:
            first = [value[None] for value in start]
            outputs, last = self.fused(xs, first[0] if len(first) == 1 else tuple(first))
            final = [value[0] for value in ([last] if len(first) == 1 else last)]
        return outputs, dict(zip(self._states, final, strict=True))

    def forward_tokens(
        self, tokens: Int[Tensor, "T B"], vectors: Float[Tensor, "V D"], state: State | None = None
    ) -> tuple[Float[Tensor, "T B H"], State]:
        before = self.initial_state(tokens.shape[1]) if state is None else state
        start = [before[name] for name in self._states]
        if not self._table_pays(tokens, vectors) or self.choice(vectors, start) != "native":
            return super().forward_tokens(tokens, vectors, state)
        outputs, *final = self._native(tokens, start, vectors)
        return outputs, dict(zip(self._states, final, strict=True))

    def tapped(
        self,
        inputs: Float[Tensor, "T B D"] | Int[Tensor, "T B"],
        state: State,
        *,
        vectors: Float[Tensor, "V D"] | None = None,
    ) -> Tapped | None:
        start = {name: state[name] for name in self._states}
        real = inputs if vectors is None else vectors
        if self.choice(real, [*start.values()]) != "native":
            return None
        weights = [weight.detach() for weight in self.weights().values()]
        taps = functions.Tapped(self._kind, inputs, start, *weights, vectors=vectors, **self._with())
        return _Remade(self, weights, taps) if self._makes_weights else taps

    def differentiated(
        self,
        inputs: Float[Tensor, "T B D"] | Int[Tensor, "T B"],
        state: State,
        *,
        vectors: Float[Tensor, "V D"] | None = None,
    ) -> Differentiated | None:
        start = [state[name] for name in self._states]
        if hooked(self) or hooked(self.fused) or self._makes_weights or any(value.requires_grad for value in start):
            return None  # a state that requires grad is learned: autograd goes on into it, as into what makes weights
        looked_up = None
        if vectors is not None and not self._table_pays(inputs, vectors):
            looked_up, vectors, inputs = (inputs, len(vectors)), None, F.embedding(inputs, vectors.detach())
        weights = self.weight_input, self.weight_hidden, self.bias
        # A pass is in use from here to its backward pass. One that was made for something else is discarded.
        passed = self._idle.pop() if self._idle else None
        if passed is None or passed.made_for != self._wanted(inputs, weights, vectors):
            passed = None
            real = inputs if vectors is None else vectors
            # A weight that is no leaf is parametrized: autograd goes on into what it comes from.
            if self.choice(real, start) != "native" or not all(weight.is_leaf for weight in weights):
                return None
            passed = functions.Pass(self._kind, inputs, *weights, vectors=vectors, **self._with())
            passed.made_for = self._wanted(inputs, weights, vectors)
        outputs, *final = passed.forward(inputs, start)
        ends = dict(zip(self._states, final, strict=True))
        return _Differentiated(outputs, ends, weights, passed, self._idle, looked_up)

    def checkpoint(self, every: int | None) -> None:
        self.checkpoint_every_t = every

    def saves_memory(self, like: Float[Tensor, "..."]) -> bool:
        return self.choice(like) == "native"

    def weights(self) -> dict[str, Float[Tensor, "..."]]:
        return {"weight_input": self.weight_input, "weight_hidden": self.weight_hidden, "bias": self.bias}

    @property
    def _makes_weights(self) -> bool:
        """The weights of the equations are made from the parameters, anew after each change."""
        return self.weights()["weight_input"] is not self.weight_input

    def _read(self) -> Iterable[Tensor]:
        return self.weight_input, self.weight_hidden, self.bias

    def _native(self, inputs: Tensor, start: list[Tensor], vectors: Tensor | None = None) -> tuple[Tensor, ...]:
        weights = self.weights().values()
        if vectors is None:
            return functions.recurrence(self._kind, inputs, start, *weights, **self._with())
        return functions.recurrence_of_tokens(self._kind, inputs, vectors, start, *weights, **self._with())

    def _wanted(self, inputs: Tensor, weights: Sequence[Tensor], vectors: Tensor | None) -> tuple[Any, ...]:
        how = self.kernel, self.threads, self.checkpoint_every_t, torch.is_autocast_enabled("cpu")
        return functions.Pass.settings(self._kind, inputs, *weights, vectors, *how)

    def _with(self) -> dict[str, Any]:
        return {"threads": self.threads, "checkpoint_every_t": self.checkpoint_every_t, "memory": self._memory}


class _Unshared(list[functions.Pass]):
    """A list that copies and pickles as an empty one: buffers for one cell's weights are of no use to another."""

    def __deepcopy__(self, _: object) -> "_Unshared":
        return _Unshared()

    def __reduce__(self) -> tuple[type["_Unshared"], tuple[()]]:
        return _Unshared, ()


class _Remade:
    """Taps of a cell that makes the kernels' weights from its own: each pass begins by making them."""

    def __init__(self, cell: FusedCell, weights: Sequence[Tensor], taps: functions.Tapped) -> None:
        self._cell, self._weights, self._taps = cell, weights, taps
        self.outputs, self.final, self.backward = taps.outputs, taps.final, taps.backward

    def forward(self) -> None:
        with torch.no_grad():
            for weight, now in zip(self._weights, self._cell.weights().values(), strict=True):
                weight.copy_(now)
        self._taps.forward()


class _Differentiated:
    """A pass of a fused cell through the native kernels, which becomes idle again after ``backward``."""

    def __init__(
        self,
        outputs: Float[Tensor, "T B H"],
        final: State,
        weights: Sequence[Tensor],
        passed: functions.Pass,
        idle: list[functions.Pass],
        looked_up: tuple[Int[Tensor, "T B"], int] | None,
    ) -> None:
        """``looked_up``: the tokens and V, if the vectors were looked up to be the inputs of ``passed``."""
        self.outputs, self.final = outputs, final
        self._weights, self._passed, self._idle, self._looked_up = weights, passed, idle, looked_up

    def backward(
        self, outputs: Float[Tensor, "T B H"] | None, final: Mapping[str, Tensor | None], *, by_inputs: bool
    ) -> Tensor | None:
        by_final = [final.get(name) for name in self.final]
        first, *gradients = self._passed.backward(outputs, by_final, by_inputs=by_inputs)
        add_gradients(zip(self._weights, gradients, strict=True))
        self._idle.append(self._passed)
        if first is None or self._looked_up is None:
            return first
        tokens, vocabulary = self._looked_up
        return torch.ops.aten.embedding_dense_backward.default(first, tokens, vocabulary, -1, False)
