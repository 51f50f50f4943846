"""Recurrent models: embed the inputs, run a cell, read out at every timestep.

Axes: T time, A asked timesteps, B batch, D input features, H hidden, K outputs, V vocabulary.
"""

from collections.abc import Callable, Iterator
from functools import partial

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn
from torch.nn.modules.module import _has_any_global_hook  # pyright: ignore[reportPrivateUsage]

from ..cells import base as cells
from ..cells.base import Cell, CellFactory, add_gradients, hooked, is_last, outputs_at
from ..cells.recompute import recomputed
from ..cells.stack import Stack
from ..cells.state import State
from ..signals import OneHot
from ..tasks.base import Task
from .base import Differentiated, Layers, Look, Model, Step, Tapped, backwards, entering


class RecurrentModel(Model):
    """One cell, or a ``Stack`` of them, that reads the sequence from its first timestep to its last.

    ``checkpoint_every_t``: save only every Nth state for the backward pass, and recompute the rest there; None: save
    all. See ``checkpoint``.
    """

    def __init__(self, embed: nn.Module, cell: Cell, readout: nn.Module) -> None:
        super().__init__()
        self.embed, self.cell, self.readout = embed, cell, readout
        self.keeps = cell.keeps
        self.checkpoint_every_t: int | None = None

    @classmethod
    def for_task(cls, task: Task, cell: CellFactory, *, embed_size: int = 32, layers: int = 1) -> "RecurrentModel":
        """``layers`` cells on top of each other between the task's inputs and its targets.

        Tokens are embedded as learned vectors of ``embed_size`` features (0: one-hot); real numbers enter unchanged.

        Raises:
            ValueError: ``layers`` is below 1, or ``embed_size`` below 0.
        """
        if layers < 1:
            raise ValueError(f"layers={layers}: must be at least 1")
        if embed_size < 0:
            raise ValueError(f"embed_size={embed_size}: must be at least 0")
        embed, width = task.inputs.embed(embed_size)
        whole = stacked(cell, layers)(width)
        return cls(embed, whole, nn.Linear(whole.output_size, task.targets.size))

    def initial_state(self, batch_size: int) -> State:
        return self.cell.initial_state(batch_size)

    def walk(self, inputs: Shaped[Tensor, "T B ..."], state: State | None = None) -> Iterator[Step]:
        old = self.cell.initial_state(inputs.shape[1]) if state is None else state
        for t, x in enumerate(entering(self.embed(inputs))):
            output, new = self.cell.step(x, old)
            yield Step(
                x,
                output,
                new,
                gates=partial(self.cell.gates, x, old),
                looks=partial(_looks, self.cell, x, old, t),
                additive=partial(self.cell.additive, x, old),
            )
            old = new

    def read_out(self, outputs: Float[Tensor, "*A B H"]) -> Float[Tensor, "*A B K"]:
        return self.readout(outputs)

    def forward(
        self, inputs: Shaped[Tensor, "T B ..."], state: State | None = None, *, at: slice | None = None
    ) -> tuple[Float[Tensor, "A B K"], State]:
        vectors, every = _token_vectors(self.embed), self.checkpoint_every_t
        if every is not None and torch.is_grad_enabled() and not self._saves_memory():
            outputs, final = recomputed(self.cell, self.embed(inputs), state, every)
            outputs = outputs if at is None else outputs_at(self.cell, outputs, final, at)
        elif at is not None:
            entering = self.embed(inputs) if vectors is None else inputs
            outputs, final = self.cell.forward_at(entering, state, at, vectors=vectors)
        elif vectors is not None:
            outputs, final = self.cell.forward_tokens(inputs, vectors, state)
        else:
            outputs, final = self.cell(self.embed(inputs), state)
        return self.read_out(outputs), final

    def tapped(self, inputs: Shaped[Tensor, "T B ..."], at: slice) -> Tapped | None:
        vectors = _token_vectors(self.embed)
        if vectors is not None and len(vectors) > inputs.numel():
            vectors = None  # most vectors would never be used
        with torch.no_grad():
            start = self.cell.initial_state(inputs.shape[1])
            embedded = None
            if vectors is None:  # a separate buffer, refilled if the embedding learns
                embedded = self.embed(inputs).clone(memory_format=torch.contiguous_format)
            taps = self.cell.tapped(inputs if embedded is None else embedded, start, vectors=vectors)
        return None if taps is None else _Taps(self, inputs, embedded, taps, at)

    def differentiated(
        self, inputs: Shaped[Tensor, "T B ..."], state: State | None, at: slice
    ) -> Differentiated | None:
        embed, readout = self.embed, self.readout
        vectors = _token_vectors(embed)
        if (
            type(self) is not RecurrentModel
            or type(readout) is not nn.Linear
            or readout.bias is None
            or (vectors is None and type(embed) is not nn.Identity)
            or any(map(hooked, (self, embed, readout)))
            or _has_any_global_hook()
        ):
            return None
        cell = self.cell
        before = cell.initial_state(inputs.shape[1]) if state is None else state
        passed = cell.differentiated(inputs, before, vectors=vectors)
        return None if passed is None else _Differentiated(cell, readout, vectors, passed, at)

    def checkpoint(self, every: int | None) -> None:
        self.checkpoint_every_t = every
        super().checkpoint(every)

    def layers(self) -> Layers | None:
        readout = self.readout
        if type(readout) is not nn.Linear or readout.bias is None:
            return None
        weights = {"readout.weight": readout.weight, "readout.bias": readout.bias}
        return Layers.of("recurrent", self.embed, {"cell": self.cell}, weights)

    def _saves_memory(self) -> bool:
        return self.cell.saves_memory(next(self.readout.parameters()))


SequenceModel = RecurrentModel
"""The name by which ``seqmem`` exports it."""


def stacked(cell: CellFactory, layers: int) -> CellFactory:
    """A factory of ``layers`` cells on top of each other; a single cell is not wrapped in a stack."""

    def make(input_size: int) -> Cell:
        made = [cell(input_size)]
        while len(made) < layers:
            made.append(cell(made[-1].output_size))
        return made[0] if layers == 1 else Stack(made)

    return make


def _looks(cell: Cell, x: Float[Tensor, "B D"], state: State, t: int) -> dict[str, Look]:
    return backwards(cell.looks(x, state), t)


def _token_vectors(embed: nn.Module) -> Float[Tensor, "V D"] | None:
    """The tokens' vectors, if ``embed`` is a mere look-up."""
    if type(embed) is nn.Embedding and (embed.padding_idx, embed.max_norm, embed.sparse) == (None, None, False):
        return embed.weight
    return embed.get_buffer("units") if type(embed) is OneHot else None


class _Differentiated:
    """A pass of a recurrent model whose cell computes the gradients itself (``Cell.differentiated``)."""

    def __init__(
        self,
        cell: Cell,
        readout: nn.Linear,
        vectors: Float[Tensor, "V D"] | None,
        passed: cells.Differentiated,
        at: slice,
    ) -> None:
        self._weight, self._bias = readout.weight, readout.bias
        self._vectors, self._passed, self._at = vectors, passed, at
        self.final = passed.final
        self._read = cell.output_state if is_last(at, passed.outputs) else None
        with torch.no_grad():
            self._outputs = outputs_at(cell, passed.outputs, passed.final, at)
            self.predicted = F.linear(self._outputs, self._weight, self._bias)

    def backward(self, predicted: Float[Tensor, "A B K"]) -> None:
        weight, bias, passed, vectors = self._weight, self._bias, self._passed, self._vectors
        with torch.no_grad():
            flat = predicted.flatten(0, 1)
            by_weight = flat.t() @ self._outputs.flatten(0, 1) if weight.requires_grad else None
            by_outputs = flat @ weight
            if self._read is not None:
                by_vectors = passed.backward(None, {self._read: by_outputs}, by_inputs=_learns(vectors))
            else:
                whole = torch.zeros_like(passed.outputs)
                whole[self._at] = by_outputs.view_as(self._outputs)
                by_vectors = passed.backward(whole, {}, by_inputs=_learns(vectors))
            if (
                vectors is weight and by_weight is not None and by_vectors is not None
            ):  # tied: their sum is added, as autograd does
                by_weight, by_vectors = by_weight + by_vectors, None
            add_gradients([(weight, by_weight), (bias, flat.sum(0) if bias.requires_grad else None)])
            if vectors is not None:
                add_gradients([(vectors, by_vectors)])


def _learns(vectors: Tensor | None) -> bool:
    return vectors is not None and vectors.requires_grad


class _Taps:
    """A traced recurrent model whose cell computes the gradient norms itself (``Cell.tapped``)."""

    def __init__(
        self,
        model: RecurrentModel,
        inputs: Shaped[Tensor, "T B ..."],
        embedded: Float[Tensor, "T B D"] | None,
        taps: cells.Tapped,
        at: slice,
    ) -> None:
        self._model, self._inputs, self._embedded, self._taps, self._at = model, inputs, embedded, taps, at

    def norms(
        self, gradient: Callable[[Float[Tensor, "A B K"]], Float[Tensor, "A B K"]]
    ) -> tuple[Float[Tensor, "T B"], dict[str, Float[Tensor, "T B"]]]:
        model, taps = self._model, self._taps
        with torch.no_grad():
            if self._embedded is not None:
                self._embedded.copy_(model.embed(self._inputs))
            taps.forward()
        read = model.cell.output_state if is_last(self._at, taps.outputs) else None
        whole = taps.outputs if read is None else taps.final[read][None]
        at = self._at if read is None else slice(None)
        with torch.enable_grad():
            outputs = whole.detach().requires_grad_()
            predicted = model.read_out(outputs[at])
            # The sum of products, because torch imports a computer algebra for a gradient that is given: 35 MB.
            (by_outputs,) = torch.autograd.grad((predicted * gradient(predicted.detach())).sum(), outputs)
        return taps.backward(by_outputs, {}) if read is None else taps.backward(None, {read: by_outputs[0]})
