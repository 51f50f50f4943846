"""How far back a task's information is: the distance that a memory must bridge, beside the length of a sequence.

This module does not import torch, so that ``seqmem show`` starts fast.
"""

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .tasks.base import Task

_SEQUENCES = 256
_MOST_DRAWN = 1 << 17
"""Timesteps, over all sequences."""


@dataclass(frozen=True)
class Lag:
    """Timesteps from the earliest input that an answer needs to its question, over the questions of a draw."""

    least: int
    mean: float
    most: int

    def fields(self) -> dict[str, int | float]:
        """As in ``environment.json``."""
        return asdict(self)

    @property
    def range(self) -> str:
        """``49``; ``6 to 20``"""
        return f"{self.most}" if self.least == self.most else f"{self.least} to {self.most}"

    def __str__(self) -> str:
        """``49 timesteps``; ``6 to 20 timesteps, 13.2 on average``"""
        if self.least == self.most:
            return f"{self.range} timestep{'s' * (self.most != 1)}"
        return f"{self.range} timesteps, {self.mean:.1f} on average"


def lag_of(task: "Task", seq_len: int) -> Lag | None:
    """The lags of the same sequences every time: 256, or less of more than 512 timesteps. None: the task's answers need
    no particular inputs.

    Raises:
        ValueError: ``seq_len`` is below ``task.min_seq_len``.
    """
    from .randomness import generator
    from .tasks.base import Task

    if type(task).lag is Task.lag:
        return None
    sequences = max(1, min(_SEQUENCES, _MOST_DRAWN // seq_len))
    batch = task.sample(sequences, seq_len, generator(0, "lag", seq_len))
    lags = task.lag(batch.inputs)
    if lags is None:
        return None
    asked = lags[batch.asked]
    return Lag(int(asked.min()), float(asked.double().mean()), int(asked.max()))


def read_lag(fields: object) -> Lag | None:
    """The inverse of ``Lag.fields``; None: there is none, or the file was altered."""
    try:
        least, mean, most = (fields[name] for name in ("least", "mean", "most"))  # pyright: ignore[reportIndexIssue]
        return Lag(int(least), float(mean), int(most))
    except (TypeError, ValueError, KeyError, OverflowError):
        return None
