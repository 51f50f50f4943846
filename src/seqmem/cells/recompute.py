"""Gradient checkpointing: save only every Nth state for the backward pass, and recompute the rest there.

This trades time for memory (Chen, Xu, Zhang & Guestrin 2016, arXiv 1604.06174). torch.utils.checkpoint does the same,
but imports torch's compiler, which takes four seconds.

Axes: T time, B batch, D input features, H output features.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from ..randomness import current_noise
from .base import Cell, steps
from .state import State, leaves, map_leaves


def recomputed(
    cell: Cell, xs: Float[Tensor, "T B D"], state: State | None, every: int
) -> tuple[Float[Tensor, "T B H"], State]:
    """``cell(xs, state)``, in pieces of ``every`` timesteps, each of which is recomputed in the backward pass.

    The graph is unchanged; only its saved tensors are dropped and recomputed. Therefore the gradients of a cell that
    loops over ``step`` are bitwise the same. A cell with its own ``forward`` is called once per piece, which sums the
    gradients in another order: they differ by rounding.

    Random numbers are drawn again alike; other side effects of ``step`` happen twice. On a CPU the wrappers' noise is
    that of a run without pieces, bit for bit, for each wrapper has a stream of its own (``randomness.noise``). Cells of
    a stack that draw from torch's global generators by themselves each draw for a whole piece before the next does:
    where several do, their noise is another than without pieces.

    Raises:
        RuntimeError: in the backward pass, if the cell behaves differently the second time, if it has changed its
            input or state in place, or if second derivatives are requested.
    """
    state = cell.initial_state(xs.shape[1]) if state is None else state
    outputs: list[Tensor] = []
    for piece in xs.split(every):
        parts, state = _Piece(cell, piece, state).run(piece, state)
        outputs.extend(parts)
    return (torch.stack if cell.walks else torch.cat)(outputs), state


def _read(cell: Cell, xs: Float[Tensor, "T B D"], state: State) -> tuple[list[Tensor], State]:
    """(outputs, final state): one output per timestep if the cell loops over ``step``, else all in one tensor.

    No operation may come between the steps of a loop: it would change the order in which gradients are summed.
    """
    if not cell.walks:
        whole, state = cell(xs, state)
        return [whole], state
    outputs = []
    for output, new in steps(cell, xs.unbind(0), state):
        outputs.append(output)
        state = new
    return outputs, state


class _Piece:
    """The arguments, random states and autocast settings needed to recompute a piece of a sequence.

    The piece's part of the graph owns it.
    """

    def __init__(self, cell: Cell, xs: Float[Tensor, "T B D"], state: State) -> None:
        self.cell = cell
        # Detach from the graph of the earlier pieces.
        self.xs, self.state = xs.detach(), map_leaves(Tensor.detach, state)
        self.differentiated = [value.requires_grad for value in _tensors(xs, state)]
        self.versions = [value._version for value in _tensors(xs, state)]  # noqa: SLF001  torch has no public counter
        self.random, self.autocast = _Random(xs.device), _Autocast(xs.device)
        self.dropped = 0
        self.recomputed: list[Tensor | None] = []

    def run(self, xs: Float[Tensor, "T B D"], state: State) -> tuple[list[Tensor], State]:
        with saved_tensors_hooks(self._drop, self._restore):
            return _read(self.cell, xs, state)

    def _drop(self, _: Tensor) -> int:
        self.dropped += 1
        return self.dropped - 1

    def _restore(self, number: int) -> Tensor:
        if torch.is_grad_enabled():  # a recomputed tensor has no history to differentiate
            raise RuntimeError("checkpoint_every_t: gradients of gradients need every timestep, use null")
        tensor = self.recomputed[number] if self.recomputed else None
        if tensor is None:
            self._recompute()
            tensor = self.recomputed[number]
        assert tensor is not None  # _recompute has just written all of them
        self.recomputed[number] = None  # free it: the graph requests each tensor once
        return tensor

    def _recompute(self) -> None:
        recomputed: list[Tensor | None] = []

        def save(tensor: Tensor) -> None:
            recomputed.append(tensor.detach())

        if [value._version for value in _tensors(self.xs, self.state)] != self.versions:  # noqa: SLF001
            raise RuntimeError(
                "checkpoint_every_t: the cell changes its input or its state in place, so that it cannot be computed "
                "again: let step return new tensors"
            )
        with ExitStack() as stack:
            stack.enter_context(self.random.replayed())
            stack.enter_context(self.autocast.again())
            stack.enter_context(torch.enable_grad())
            stack.enter_context(saved_tensors_hooks(save, _never))
            differentiated = iter(self.differentiated)

            def fresh(value: Tensor) -> Tensor:
                return value.detach().requires_grad_(next(differentiated))

            _read(self.cell, fresh(self.xs), map_leaves(fresh, self.state))
        if len(recomputed) != self.dropped:
            raise RuntimeError(
                "checkpoint_every_t: the cell does something else when it is computed again: what step does must "
                "depend on its arguments alone"
            )
        self.recomputed = recomputed


def _tensors(xs: Tensor, state: Mapping[str, Any]) -> list[Tensor]:
    return [xs, *leaves(state)]


def _never(_: None) -> Tensor:
    raise AssertionError("nothing is differentiated through a second computation")


class _Random:
    """The current states of torch's global generators, the CPU's and the device's, and of the modules' own."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        module = None if device.type in ("cpu", "meta") else torch.get_device_module(device)
        self.module = module if hasattr(module, "get_rng_state") else None
        self.states = self._read()
        noise = current_noise()
        self.noise = None if noise is None else noise.copy()

    def _read(self) -> list[Tensor]:
        own = [] if self.module is None else [self.module.get_rng_state(self.device)]
        return [torch.get_rng_state(), *own]

    def _write(self, states: list[Tensor]) -> None:
        torch.set_rng_state(states[0])
        if self.module is not None:
            self.module.set_rng_state(states[1], self.device)

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Set the generators back inside the context, and restore them afterwards."""
        now = self._read()
        self._write(self.states)
        try:
            with nullcontext() if self.noise is None else self.noise.copy().current():
                yield
        finally:
            self._write(now)


class _Autocast:
    """The current settings of torch.autocast: the backward pass runs outside of it."""

    def __init__(self, device: torch.device) -> None:
        self.kind = device.type
        self.available = torch.amp.is_autocast_available(self.kind)
        self.on = self.available and torch.is_autocast_enabled(self.kind)
        self.dtype = torch.get_autocast_dtype(self.kind) if self.on else None
        self.cached = torch.is_autocast_cache_enabled()

    def again(self) -> AbstractContextManager[object]:
        if not self.available or not (self.on or torch.is_autocast_enabled(self.kind)):
            return nullcontext()
        return torch.autocast(self.kind, dtype=self.dtype, enabled=self.on, cache_enabled=self.cached)
