"""Randomness is an argument: every stream of numbers is a function of (seed, stream name, index)."""

from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import blake2b

import torch


def hashed_seed(seed: int, stream: str, index: int = 0) -> int:
    """A 63-bit seed; different (seed, stream, index) meet only if a 64-bit hash collides."""
    digest = blake2b(f"{seed}/{stream}/{index}".encode(), digest_size=8).digest()
    return int.from_bytes(digest) >> 1


def generator(seed: int, stream: str, index: int = 0) -> torch.Generator:
    """An independent CPU generator, e.g. ``generator(0, "train", 17)`` for training batch 17 of seed 0.

    Nothing about it needs saving to resume a run, and the training, evaluation and trace streams cannot meet.
    """
    return torch.Generator().manual_seed(hashed_seed(seed, stream, index))


@contextmanager
def ambient(seed: int, stream: str) -> Iterator[None]:
    """Inside, torch's global CPU generator is a function of (seed, stream); outside, it is as if nothing happened.

    Modules draw their initial weights from the global generator (torch offers no other way for a user's own
    ``nn.Linear``), so building a model is the one place that needs this.
    """
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(hashed_seed(seed, stream))
        yield
