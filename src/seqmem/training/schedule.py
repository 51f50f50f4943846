"""The learning rate of each update: a function of its number, so that a resumed run goes on as it would have."""

from math import cos, pi

import torch

SCHEDULES = ("constant", "linear", "cosine")


def factor(schedule: str, update: int, updates: int, warmup: int = 0) -> float:
    """What the learning rate is multiplied by at an update.

    During ``warmup`` updates it grows linearly, from 1 / ``warmup`` to 1. Then it is 1 (constant), or falls towards 0
    after the last update, in a line or along half a cosine (Loshchilov & Hutter 2017, without restarts).

    Args:
        update: counted from 0.
        updates: in all.
    """
    if update < warmup:
        return (update + 1) / warmup
    if schedule == "constant":
        return 1.0
    done = (update - warmup) / max(1, updates - warmup)
    return 1 - done if schedule == "linear" else (1 + cos(pi * done)) / 2


class LearningRates:
    """Sets the learning rate of an optimizer before each update. Make it before the optimizer's state is restored."""

    def __init__(self, optimizer: torch.optim.Optimizer, schedule: str, updates: int, warmup: int) -> None:
        self._optimizer, self._schedule, self._updates, self._warmup = optimizer, schedule, updates, warmup
        self._full = [group["lr"] for group in optimizer.param_groups]
        self._constant = schedule == "constant" and not warmup

    def set(self, update: int) -> None:
        """For the update of this number, counted from 0."""
        if self._constant:
            return
        share = factor(self._schedule, update, self._updates, self._warmup)
        for group, full in zip(self._optimizer.param_groups, self._full, strict=True):
            group["lr"] = full * share
