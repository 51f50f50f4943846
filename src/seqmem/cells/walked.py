"""The gradient at everything that the steps of a walk wrote, as autograd has it: the definition of every faster way.

Axes: T time, B batch.
"""

from collections.abc import Mapping
from math import nan
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from .norms import row_norms
from .state import tensors, written


class Walked:
    """What each timestep wrote, by name; ``entered`` is the name of what entered it.

    Raises:
        ValueError: in ``norms``, a state was changed in place.
    """

    def __init__(self, state: Mapping[str, Any], sequences: int, entered: str) -> None:
        # For each name and each timestep the tensors that were written: none, one, or several slots.
        self._series: dict[str, list[tuple[Tensor, ...]]] = {entered: []}
        self._sequences, self._entered, self._steps = sequences, entered, 0
        # No other way to see a change in place than the version of each tensor.
        self._versions = [(name, leaf, leaf._version) for name in state for leaf in tensors(state[name])]  # noqa: SLF001

    def add(self, x: Float[Tensor, "B D"], old: Mapping[str, Any], new: Mapping[str, Any]) -> None:
        """A timestep that read ``x``."""
        self._series[self._entered].append((x,))
        for name, values in written(old, new).items():
            self._series.setdefault(name, [()] * self._steps).append(values)
            self._versions += [(name, value, value._version) for value in values]  # noqa: SLF001
        self._steps += 1
        for values in self._series.values():
            if len(values) < self._steps:  # a leaf that is gone
                values.append(())

    def norms(self, total: Float[Tensor, ""]) -> dict[str, Float[Tensor, "T B"]]:
        """L2 norms, per sequence, of the gradients of ``total``; NaN where a timestep wrote nothing."""
        for name, value, version in self._versions:
            if value._version != version:  # noqa: SLF001
                raise ValueError(
                    f"the state '{name}' is changed in place, so what it was at earlier timesteps cannot be measured: "
                    "let step return a new tensor"
                )
        # A state may come from nothing that is differentiated (a clock, a mask): its gradient is zero.
        able = [value for steps in self._series.values() for values in steps for value in values if value.requires_grad]
        gradients = iter(torch.autograd.grad(total, able, materialize_grads=True))
        zero = total.new_zeros(self._sequences, dtype=torch.float64)
        unwritten = torch.full_like(zero, nan)

        def norm(values: tuple[Tensor, ...]) -> Float[Tensor, " B"]:
            rows = [_flat(next(gradients)) for value in values if value.requires_grad]
            if not rows:
                return zero if values else unwritten
            return row_norms(rows[0] if len(rows) == 1 else torch.cat(rows, 1))

        return {name: torch.stack([norm(values) for values in steps]) for name, steps in self._series.items()}


def _flat(gradient: Float[Tensor, "B ..."]) -> Float[Tensor, "B _"]:
    return gradient.flatten(1) if gradient.ndim > 1 else gradient[:, None]
