"""How far back a task's information is: the distance that a memory must bridge, beside the length of a sequence."""

from dataclasses import dataclass

from .randomness import generator
from .tasks.base import Task

_SEQUENCES = 256


@dataclass(frozen=True)
class Lag:
    """Timesteps from the earliest input that an answer needs to its question, over the questions of a draw."""

    least: int
    mean: float
    most: int

    def __str__(self) -> str:
        """``49 timesteps``; ``6 to 20 timesteps, 13.2 on average``"""
        if self.least == self.most:
            return f"{self.most} timestep{'s' * (self.most != 1)}"
        return f"{self.least} to {self.most} timesteps, {self.mean:.1f} on average"


def lag_of(task: Task, seq_len: int) -> Lag | None:
    """The lags of the same 256 sequences every time; None: the task's answers need no particular inputs.

    Raises:
        ValueError: ``seq_len`` is below ``task.min_seq_len``.
    """
    batch = task.sample(_SEQUENCES, seq_len, generator(0, "lag", seq_len))
    lags = task.lag(batch.inputs)
    if lags is None:
        return None
    asked = lags[batch.asked]
    return Lag(int(asked.min()), float(asked.double().mean()), int(asked.max()))
