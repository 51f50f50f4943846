"""What one layer, in one direction, received at every timestep. numpy only.

Axes: T time, B batch.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy import ndarray

from ..decay import INPUT, Trace

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
        lengths: the timestep after each sequence's last, [B]. ``begins``: its first one, [B]; None: 0.
        reverse: the layer reads each sequence from its end.
        width: units, of its output.
        enters: [T B], True where gradient enters a state other than from the layer's own next timestep; None: unknown.
        why: what makes its gradient fall or grow, in words; empty: unknown.
        start: what ``seqmem.nn.remember_`` does to the module, in words; empty: it cannot.
        module: the path of the module in the model; empty: the model itself.
    """

    norms: Mapping[str, ndarray]
    lengths: ndarray
    reverse: bool = False
    enters: ndarray | None = None
    width: int = 0
    why: str = ""
    start: str = ""
    module: str = ""
    begins: ndarray | None = None

    @cached_property
    def trace(self) -> Trace:
        """In the order in which the layer reads, from each sequence's first timestep up to the last one that has a
        gradient: there the answer is, or what stands for it, and from there distances are counted."""
        stored = [name for name in self.norms if name not in (INPUT, OUTPUT)]
        names = [*stored, INPUT] if stored else [OUTPUT]
        read = {name: self._as_read(self.norms[name]) for name in names if name in self.norms}
        steps = np.arange(len(next(iter(read.values()))))[:, None]
        reached = np.any([values > 0 for name, values in read.items() if name != INPUT], axis=0)
        last = np.where(reached, steps, -1).max(0)
        return Trace(read, np.where(last >= 0, last, self.lengths - 1 - self._begins))

    def _as_read(self, values: ndarray) -> ndarray:
        if not self.reverse and self.begins is None:
            return values
        steps = np.arange(len(values))[:, None]
        inside = steps < self.lengths - self._begins
        at = self.lengths - 1 - steps if self.reverse else self._begins + steps
        padding = False if values.dtype == bool else np.nan
        return np.where(inside, np.take_along_axis(values, np.where(inside, at, 0), axis=0), padding)

    @property
    def _begins(self) -> ndarray:
        return np.zeros_like(self.lengths) if self.begins is None else self.begins

    @property
    def entered(self) -> float:
        """The share of the timesteps up to the answer, itself left out, at which gradient enters from outside."""
        if self.enters is None:
            return 0.0
        enters, at = self._as_read(self.enters), self.trace.answered_at
        before = np.arange(len(enters))[:, None] < at
        return float((enters & before).sum() / max(before.sum(), 1))

    def ended(self) -> ndarray:
        """[T B], True where there is padding."""
        steps = np.arange(len(next(iter(self.norms.values()))))[:, None]
        return (steps < self._begins) | (steps >= self.lengths)
