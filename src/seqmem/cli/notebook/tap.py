"""``seqmem.tap``: the gradient at every timestep, in a training loop of the user's own."""

from collections.abc import Mapping, Sequence
from typing import Literal

from numpy import ndarray
from torch import nn

from ...tracing.copied import tapped_trace
from ...tracing.losses import Reduction, TraceError
from ...tracing.recorder import Tap
from ..config.errors import ConfigError
from .errors import front_door
from .trace import DisplayedTrace, displayed


class ModelTap:
    """What ``seqmem.tap`` returns: enter it with ``with``, call backward inside, and read ``norms`` or ``trace``.

    They are those of the latest backward pass, and stay readable after the block and after an optimizer's step.
    """

    def __init__(self, tap: Tap, reduction: Reduction | None) -> None:
        self._tap = tap
        self._reduction: Reduction | None = reduction

    def __enter__(self) -> "ModelTap":  # noqa: PYI034  (beartype cannot check Self in a method)
        self._enter()
        return self

    def __exit__(self, *_: object) -> None:
        self._tap.__exit__()

    @front_door
    def _enter(self) -> None:
        try:
            self._tap.__enter__()
        except TraceError as error:
            raise ConfigError(str(error)) from error

    @front_door
    def _read(self) -> DisplayedTrace:
        try:
            return displayed(tapped_trace(self._tap, self._reduction))
        except TraceError as error:
            raise ConfigError(str(error)) from error

    @property
    def trace(self) -> DisplayedTrace:
        """Everything that the latest backward pass brought, as ``seqmem.trace`` returns it; it shows itself.

        Raises:
            ValueError: there was no backward pass, there were two through one forward pass, or nothing could be traced.
        """
        return self._read()

    @property
    def norms(self) -> dict[str, dict[str, ndarray]]:
        """Path -> state name -> [T, B]: ``tap.norms["encoder.lstm"]["cell"]``. Errors as for ``trace``."""
        return self._read().norms

    def __repr__(self) -> str:
        return f"<tap on {', '.join(self._tap.paths)}: its trace after loss.backward()>"


@front_door
def tap(
    model: nn.Module,
    *,
    modules: Sequence[str] | Mapping[str, str | None] = (),
    reduction: Literal["mean", "sum"] | None = None,
) -> ModelTap:
    """Read the gradient at every timestep of a model while it trains, at its own precision and on its own device:

        with seqmem.tap(model) as tap:
            loss = criterion(model(x), y)
            loss.backward()
        tap.norms["encoder.lstm"]["cell"]  # [T, B]

    Hooks that read and change nothing are added inside the block; the training computes the same numbers, bit for bit.
    The gradient at the states that a fused layer hides is computed when it is read, from what reached its output.

    Norms are of the loss that ``backward`` was called on: of its mean over the batch, if it is one. ``seqmem.trace``
    has them of each sequence's own loss, and in float64: below 1e-45, float32 has zeros.

    Args:
        model, modules: as for ``seqmem.trace``.
        reduction: ``mean``: the loss is a mean over sequences; norms are multiplied by their number.

    Raises:
        ValueError: the model has nothing to trace.
    """
    if reduction not in (None, "mean", "sum"):
        raise ConfigError(f"reduction={reduction!r}: must be 'mean' or 'sum'")
    try:
        return ModelTap(Tap(model, modules), reduction)
    except TraceError as error:
        raise ConfigError(str(error)) from error
