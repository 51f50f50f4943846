"""The trace of a whole model: what all its layers received. numpy only."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from numpy import ndarray

from ..decay import Decay, profile
from .advice import sentence
from .parts import Part


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
        tried: path -> the decay of all states together on a copy that followed ``advice``; empty: not measured.
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
    tried: Mapping[str, Decay] = field(default_factory=dict)

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

    @property
    def advice(self) -> str:
        """What to do about a gradient that vanishes or explodes, in a sentence; empty: nothing."""
        return sentence(self.parts, {path: decays["state"] for path, decays in self.decays().items()}, self.tried)
