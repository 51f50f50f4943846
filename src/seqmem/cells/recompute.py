"""Less memory for more time: only the states at every Nth timestep are kept for the backward pass, and what lies
between is computed again when its turn comes (Chen, Xu, Zhang & Guestrin 2016, arXiv 1604.06174).

torch.utils.checkpoint does the same, and imports torch's compiler for it: four seconds before the first step.

Axes: T time, B batch, D input features, H output features.
"""

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from .base import Cell, steps
from .state import State, leaves, map_leaves


def recomputed(
    cell: Cell, xs: Float[Tensor, "T B D"], state: State | None, every: int
) -> tuple[Float[Tensor, "T B H"], State]:
    """``cell(xs, state)``, in pieces of ``every`` timesteps, each of which is computed once more in the backward pass.

    The graph of the backward pass stays the one it was; only the tensors saved for it are left out and made again. A
    cell without a ``forward`` of its own therefore gets bitwise the same gradients. Another one is called once a piece
    instead of once, which adds up gradients in another order: they are the same but for rounding. What the cell draws
    from torch's global generators, dropout say, is drawn again; other side effects of ``step`` happen twice.

    Raises:
        RuntimeError: in the backward pass, where the cell does something else the second time, has changed its input
            or state in place, or gradients of gradients are asked for.
    """
    state = cell.initial_state(xs.shape[1]) if state is None else state
    outputs: list[Tensor] = []
    for piece in xs.split(every):
        parts, state = _Piece(cell, piece, state).run(piece, state)
        outputs.extend(parts)
    return (torch.stack if cell.walks else torch.cat)(outputs), state


def _read(cell: Cell, xs: Float[Tensor, "T B D"], state: State) -> tuple[list[Tensor], State]:
    """(outputs, final state). A cell that walks has one output for each timestep: nothing may come between its steps,
    or gradients would meet in another order. Another cell has all outputs in one tensor."""
    if not cell.walks:
        whole, state = cell(xs, state)
        return [whole], state
    outputs = []
    for output, new in steps(cell, xs.unbind(0), state):
        outputs.append(output)
        state = new
    return outputs, state


class _Piece:
    """What it takes to compute a stretch of a sequence again. It lives as long as its part of the graph does."""

    def __init__(self, cell: Cell, xs: Float[Tensor, "T B D"], state: State) -> None:
        self.cell = cell
        # Detached: without the graph of what came before.
        self.xs, self.state = xs.detach(), map_leaves(Tensor.detach, state)
        self.differentiated = [value.requires_grad for value in _tensors(xs, state)]
        self.versions = [value._version for value in _tensors(xs, state)]  # noqa: SLF001  no other way to see changes
        self.random, self.autocast = _Random(xs.device), _Autocast(xs.device)
        self.left_out = 0
        self.recomputed: list[Tensor | None] = []

    def run(self, xs: Float[Tensor, "T B D"], state: State) -> tuple[list[Tensor], State]:
        with saved_tensors_hooks(self._leave_out, self._restore):
            return _read(self.cell, xs, state)

    def _leave_out(self, _: Tensor) -> int:
        self.left_out += 1
        return self.left_out - 1

    def _restore(self, number: int) -> Tensor:
        if torch.is_grad_enabled():  # a recomputed tensor has no history to differentiate
            raise RuntimeError("checkpoint_every_t: gradients of gradients need every timestep, use null")
        tensor = self.recomputed[number] if self.recomputed else None
        if tensor is None:
            self._compute_again()
            tensor = self.recomputed[number]
        assert tensor is not None  # _compute_again has just written them all
        self.recomputed[number] = None  # the graph asks once
        return tensor

    def _compute_again(self) -> None:
        again: list[Tensor | None] = []

        def save(tensor: Tensor) -> None:
            again.append(tensor.detach())

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
        if len(again) != self.left_out:
            raise RuntimeError(
                "checkpoint_every_t: the cell does something else when it is computed again: what step does must "
                "depend on its arguments alone"
            )
        self.recomputed = again


def _tensors(xs: Tensor, state: Mapping[str, Any]) -> list[Tensor]:
    return [xs, *leaves(state)]


def _never(_: None) -> Tensor:
    raise AssertionError("nothing is differentiated through a second computation")


class _Random:
    """torch's global generators, the CPU's and the device's, as they are now."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        module = None if device.type in ("cpu", "meta") else torch.get_device_module(device)
        self.module = module if hasattr(module, "get_rng_state") else None
        self.states = self._read()

    def _read(self) -> list[Tensor]:
        own = [] if self.module is None else [self.module.get_rng_state(self.device)]
        return [torch.get_rng_state(), *own]

    def _write(self, states: list[Tensor]) -> None:
        torch.set_rng_state(states[0])
        if self.module is not None:
            self.module.set_rng_state(states[1], self.device)

    @contextmanager
    def replayed(self) -> Iterator[None]:
        """Inside, the same numbers are drawn once more; afterwards the generators are where they were."""
        now = self._read()
        self._write(self.states)
        try:
            yield
        finally:
            self._write(now)


class _Autocast:
    """torch.autocast as it is now: the backward pass runs outside of it."""

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
