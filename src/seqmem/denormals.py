"""Denormal numbers: float32 below 1e-38, float64 below 2e-308. A CPU computes ten times as long on them."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def flush_denormal(*, on: bool) -> Iterator[None]:
    """Inside, denormal numbers count as zero (or not) on this thread and on those torch starts later.

    Weights, losses and scores are far above denormals; vanishing gradients are among them.
    """
    tiny = torch.tensor(1e-310, dtype=torch.float64)
    was_on = bool((tiny * 1.0 == 0).item())
    torch.set_flush_denormal(on)
    try:
        yield
    finally:
        torch.set_flush_denormal(was_on)
