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
def ambient(seed: int, stream: str, index: int = 0, *, device: torch.device | None = None) -> Iterator[None]:
    """Inside, torch's global generators (the CPU's, and that of ``device`` if it is CUDA) are a function of
    (seed, stream, index); outside, it is as if nothing happened.

    Modules draw their initial weights, and dropout its masks, from the global generator: torch offers a user's own
    ``nn.Linear`` or ``nn.Dropout`` no other way.
    """
    on_cuda = device is not None and device.type == "cuda"
    with torch.random.fork_rng(devices=[device] if on_cuda else [], device_type="cuda"):
        drawn = hashed_seed(seed, stream, index)
        torch.default_generator.manual_seed(drawn)
        if on_cuda:
            torch.cuda.manual_seed(drawn)
        yield
