"""Less memory for more time: of a long sequence only the states at every Nth timestep are kept for the backward pass,
and what lies between is computed again when its turn comes (Chen, Xu, Zhang & Guestrin 2016, arXiv 1604.06174).

torch.utils.checkpoint does the same, and imports torch's compiler for it: four seconds before the first step.

Axes: T time, B batch, D input features, H output features.
"""

from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks

from .base import Cell, State, steps


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
        found, state = _Piece(cell, piece, state).run(piece, state)
        outputs.extend(found)
    return (torch.stack if _walked(cell) else torch.cat)(outputs), state


def _walked(cell: Cell) -> bool:
    """Whether it is its steps: then nothing may come between them, or gradients would meet in another order."""
    return type(cell).forward is Cell.forward


def _read(cell: Cell, xs: Float[Tensor, "T B D"], state: State) -> tuple[list[Tensor], State]:
    """(outputs, one for each timestep where the cell is walked, else all in one; final state)"""
    if not _walked(cell):
        whole, state = cell(xs, state)
        return [whole], state
    outputs = []
    for output, new in steps(cell, xs.unbind(0), state):
        outputs.append(output)
        state = new
    return outputs, state


class _Piece:
    """A stretch of a sequence: what it takes to compute it again. It lives as long as its part of the graph does."""

    def __init__(self, cell: Cell, xs: Float[Tensor, "T B D"], state: State) -> None:
        self.cell, self.names = cell, list(state)
        given = [xs, *state.values()]
        # Detached: without the graph of what came before.
        self.given = [(value.detach(), value.requires_grad) for value in given]
        self.versions = [value._version for value in given]  # noqa: SLF001  the only way to see a change in place
        self.random, self.autocast = _Random(xs.device), _Autocast(xs.device)
        self.left_out = 0
        self.found: list[Tensor | None] = []

    def run(self, xs: Float[Tensor, "T B D"], state: State) -> tuple[list[Tensor], State]:
        with saved_tensors_hooks(self._leave_out, self._find):
            return _read(self.cell, xs, state)

    def _leave_out(self, _: Tensor) -> int:
        self.left_out += 1
        return self.left_out - 1

    def _find(self, number: int) -> Tensor:
        if torch.is_grad_enabled():  # what is found has no history to differentiate
            raise RuntimeError("checkpoint_every_t: gradients of gradients need every timestep, use null")
        found = self.found[number] if self.found else None
        if found is None:
            self._compute_again()
            found = self.found[number]
        assert found is not None  # _compute_again has just written them all
        self.found[number] = None  # the graph asks once
        return found

    def _compute_again(self) -> None:
        again: list[Tensor | None] = []

        def keep(tensor: Tensor) -> None:
            again.append(tensor.detach())

        if [value._version for value, _ in self.given] != self.versions:  # noqa: SLF001
            raise RuntimeError(
                "checkpoint_every_t: the cell changes its input or its state in place, so that it cannot be computed "
                "again: let step return new tensors"
            )
        with ExitStack() as stack:
            stack.enter_context(self.random.replayed())
            stack.enter_context(self.autocast.again())
            stack.enter_context(torch.enable_grad())
            stack.enter_context(saved_tensors_hooks(keep, _never))
            xs, *state = [value.detach().requires_grad_(needed) for value, needed in self.given]
            _read(self.cell, xs, dict(zip(self.names, state, strict=True)))
        if len(again) != self.left_out:
            raise RuntimeError(
                "checkpoint_every_t: the cell does something else when it is computed again: what step does must "
                "depend on its arguments alone"
            )
        self.found = again


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
        """Inside, what was drawn since is drawn again; afterwards the generators are where they were."""
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
