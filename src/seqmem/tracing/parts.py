"""What one layer, in one direction, received at every timestep. numpy only.

Axes: T time, B batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
from numpy import ndarray

from ..decay import INPUT, Decay, Trace, profile

OUTPUT = "output"
"""Name of what a position hands on, beside what it stores (attention's keys and values)."""


class Untraceable(Exception):
    """A module's calls cannot be traced: one line with the reason and the way out."""


@dataclass(frozen=True, eq=False)
class Part:
    """One layer in one direction.

    Args:
        norms: state name -> [T B], the L2 norm of the gradient at what timestep t wrote to that state (``input``: at
            what entered this layer, through this layer), in the order of the input; NaN where a sequence has ended.
        lengths: of each sequence, [B].
        reverse: the layer reads each sequence from its end.
        width: units, of its output.
        enters: [T B], True where gradient enters a state other than from the layer's own next timestep; None: unknown.
    """

    norms: Mapping[str, ndarray]
    lengths: ndarray
    reverse: bool = False
    enters: ndarray | None = None
    width: int = 0

    @cached_property
    def trace(self) -> Trace:
        """In the order in which the layer reads, up to the last timestep that has a gradient: there the answer is, or
        what stands for it, and from there distances are counted."""
        stored = [name for name in self.norms if name not in (INPUT, OUTPUT)]
        names = [*stored, INPUT] if stored else [OUTPUT]
        read = {name: self._as_read(self.norms[name]) for name in names if name in self.norms}
        steps = np.arange(len(next(iter(read.values()))))[:, None]
        reached = np.any([values > 0 for name, values in read.items() if name != INPUT], axis=0)
        last = np.where(reached, steps, -1).max(0)
        return Trace(read, np.where(last >= 0, last, self.lengths - 1))

    def _as_read(self, values: ndarray) -> ndarray:
        if not self.reverse:
            return values
        steps = np.arange(len(values))[:, None]
        at = np.where(steps < self.lengths, self.lengths - 1 - steps, steps)
        return np.take_along_axis(values, at, axis=0)

    @property
    def entered(self) -> float:
        """The share of the timesteps up to the answer, itself left out, at which gradient enters from outside."""
        if self.enters is None:
            return 0.0
        enters, at = self._as_read(self.enters), self.trace.answered_at
        before = np.arange(len(enters))[:, None] < at
        return float((enters & before).sum() / max(before.sum(), 1))

    def ended(self) -> ndarray:
        """[T B], True after each sequence's end."""
        return np.arange(len(next(iter(self.norms.values()))))[:, None] >= self.lengths


@dataclass(frozen=True, eq=False, repr=False)
class ModelTrace:
    """What every layer of a model received, by its path in the model.

    A path is the module's; with several layers or directions, torch's own names follow, ``lstm.l0``,
    ``lstm.l1_reverse``; of a module that read several sequences apart, the second is ``lstm#2``.

    Args:
        parts: path -> Part. ``untraced``: path -> why it could not be traced, and what to do instead.
        of: what was propagated, in words. ``notes``: what to know before reading the numbers.
        losses: of each sequence, [B]; None: the loss was one number, or it is not known.
        dtype: what it was computed in.
        model: the class of the model. ``parameters``: trainable ones. ``device``: where it computed.
        loss: a mean over sequences; None: not known.
    """

    parts: Mapping[str, Part]
    untraced: Mapping[str, str] = field(default_factory=dict)
    of: str = "the loss"
    notes: Sequence[str] = ()
    losses: ndarray | None = None
    dtype: str = "float64"
    model: str = "model"
    parameters: int = 0
    device: str = "cpu"
    loss: float | None = None

    @property
    def norms(self) -> dict[str, dict[str, ndarray]]:
        """Path -> state name -> [T B]: ``trace.norms["encoder.lstm"]["cell"]``. The states are ``hidden``, ``cell``
        and ``input``; of attention ``key``, ``value`` and ``output``."""
        return {path: dict(part.norms) for path, part in self.parts.items()}

    def profiles(self) -> dict[str, ndarray]:
        """Path -> ``decay.profile`` of all its states together: log10, from the first timestep to one step back."""
        return {path: profile(part.trace.state, part.trace.answered_at) for path, part in self.parts.items()}

    def decays(self) -> dict[str, dict[str, Decay]]:
        """Path -> ``state`` (all states together) and each state -> how its gradient decays on its way back."""
        return {path: part.trace.decays() for path, part in self.parts.items()}
