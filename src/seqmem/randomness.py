"""Randomness is an argument: every stream of numbers is a function of (seed, stream name, index)."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from hashlib import blake2b, shake_256

import numpy as np
import torch


def hashed_seed(seed: int, stream: str, index: int = 0) -> int:
    """128 bits; two different (seed, stream, index) share them only if a hash collides."""
    return int.from_bytes(blake2b(f"{seed}/{stream}/{index}".encode(), digest_size=16).digest())


def generator(seed: int, stream: str, index: int = 0) -> torch.Generator:
    """An independent CPU generator, e.g. ``generator(0, "train", 17)`` for training batch 17 of seed 0.

    Nothing about it needs saving to resume a run, and the training, evaluation and trace streams do not meet.
    """
    return _seeded(torch.Generator(), hashed_seed(seed, stream, index))


def _seeded(rng: torch.Generator, seed: int) -> torch.Generator:
    """``manual_seed`` listens to the lowest 32 bits alone, so some in 100,000 batches would be twins. Instead all 624
    words of the Mersenne twister are drawn (by SHAKE-256) and written where ``get_state`` shows them."""
    state = _fresh_state().clone()
    words = np.frombuffer(shake_256(seed.to_bytes(16)).digest(4 * 624), dtype="<u4").astype(np.uint64)
    words[0] |= 0x80000000  # of the first word the twister uses this bit alone, and all may not be zero
    state.numpy()[24 : 24 + 8 * 624].view(np.uint64)[:] = words
    rng.set_state(state)
    return rng


@cache
def _fresh_state() -> torch.Tensor:
    """Of a generator that was seeded and has drawn nothing yet."""
    return torch.Generator().manual_seed(0).get_state()


@contextmanager
def ambient(seed: int, stream: str, index: int = 0, *, device: torch.device | None = None) -> Iterator[None]:
    """Inside, torch's global generators (the CPU's, and that of ``device`` if it is CUDA) are a function of
    (seed, stream, index); outside, it is as if nothing happened.

    Modules draw their initial weights, and dropout its masks, from the global generator: torch offers a user's own
    ``nn.Linear`` or ``nn.Dropout`` no other way.
    """
    on_cuda = device is not None and device.type == "cuda"
    drawn = hashed_seed(seed, stream, index)
    with ExitStack() as stack:
        if on_cuda:
            stack.enter_context(torch.random.fork_rng(devices=[device], device_type="cuda"))
        stack.callback(torch.set_rng_state, torch.get_rng_state())
        _seeded(torch.default_generator, drawn)
        if on_cuda:
            stack.enter_context(torch.cuda.device(device))  # whose generator manual_seed means
            torch.cuda.manual_seed(drawn >> 65)
        yield
