"""Randomness is an argument: every stream of numbers is a function of (seed, stream name, index)."""

import pickle
import random
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import cache
from hashlib import blake2b, shake_256

import numpy as np
import torch


def hashed_seed(seed: int, stream: str, index: int = 0) -> int:
    """A 128-bit seed. Different (seed, stream, index) have different ones unless the hash collides."""
    return int.from_bytes(blake2b(f"{seed}/{stream}/{index}".encode(), digest_size=16).digest())


def generator(seed: int, stream: str, index: int = 0) -> torch.Generator:
    """An independent CPU generator, e.g. ``generator(0, "train", 17)`` for training batch 17 of seed 0.

    It is a function of the arguments: resuming a run needs no saved generator state, and the training, evaluation and
    trace streams never overlap.
    """
    return seeded(torch.Generator(), hashed_seed(seed, stream, index))


def seeded(rng: torch.Generator, seed: int) -> torch.Generator:
    """Set all 624 words of the Mersenne twister's state from SHAKE-256 of ``seed``, and return ``rng``.

    ``manual_seed`` uses the lowest 32 bits only: among 100,000 batches some would be identical.
    """
    state = _fresh_state().clone()
    words = np.frombuffer(shake_256(seed.to_bytes(16)).digest(4 * 624), dtype="<u4").astype(np.uint64)
    words[0] |= 0x80000000  # the twister uses only this bit of the first word; the state must not be all zero
    state.numpy()[24 : 24 + 8 * 624].view(np.uint64)[:] = words
    rng.set_state(state)
    return rng


@cache
def _fresh_state() -> torch.Tensor:
    """The state of a seeded generator before its first draw."""
    return torch.Generator().manual_seed(0).get_state()


@contextmanager
def ambient(seed: int, stream: str, index: int = 0, *, device: torch.device | None = None) -> Iterator[None]:
    """Seed torch's global generators with (seed, stream, index) inside the context, and restore them afterwards.

    These are the CPU's generator, and that of ``device`` if it is CUDA. Modules draw their initial weights from the
    global generator, and dropout its masks: torch's ``nn.Linear`` and ``nn.Dropout`` accept no other.
    """
    on_cuda = device is not None and device.type == "cuda"
    hashed = hashed_seed(seed, stream, index)
    with ExitStack() as stack:
        if on_cuda:
            stack.enter_context(torch.random.fork_rng(devices=[device], device_type="cuda"))
        stack.callback(torch.set_rng_state, torch.get_rng_state())
        seeded(torch.default_generator, hashed)
        if on_cuda:
            stack.enter_context(torch.cuda.device(device))  # manual_seed seeds the current device's generator
            torch.cuda.manual_seed(hashed >> 65)
        yield


@contextmanager
def undisturbed() -> Iterator[None]:
    """Restore the global generators of torch, on all devices, numpy and Python afterwards, whatever draws from them."""
    before = np.random.get_state(), random.getstate()
    with torch.random.fork_rng():
        try:
            yield
        finally:
            np.random.set_state(before[0])
            random.setstate(before[1])


def noise(shape: torch.Size, device: torch.device) -> torch.Tensor:
    """U(0, 1) from the generators that ``ambient`` has seeded, for modules that draw while they are trained.

    float32, whatever the module computes in: the same numbers in each precision. On a CPU a sequence of shape [T, ...]
    has the numbers of T draws of shape [...].
    """
    return torch.rand(shape, dtype=torch.float32, device=device)


@contextmanager
def disturbed(seed: int) -> Iterator[list[str]]:
    """Seed the global generators of torch, numpy and Python inside, to see whether anything depends on them.

    Afterwards they are as before, and the list has the names of those that were drawn from or seeded.
    """
    touched: list[str] = []
    before = torch.get_rng_state(), np.random.get_state(), random.getstate()
    seeded(torch.default_generator, seed)
    np.random.seed(seed)
    random.seed(seed)
    given = _fingerprints()
    try:
        yield touched
        names = zip(("torch", "numpy", "Python"), given, _fingerprints(), strict=True)
        touched += [name for name, one, two in names if one != two]
    finally:
        torch.set_rng_state(before[0])
        np.random.set_state(before[1])
        random.setstate(before[2])


def _fingerprints() -> tuple[bytes, bytes, bytes]:
    """The states of the global generators of torch, numpy and Python."""
    return torch.get_rng_state().numpy().tobytes(), pickle.dumps(np.random.get_state()), pickle.dumps(random.getstate())
