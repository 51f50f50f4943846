"""Randomness is an argument: every stream of numbers is a function of (seed, stream name, index)."""

import pickle
import random
from collections.abc import Hashable, Iterator
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
    """Seed torch's global generators, and ``noise``, with (seed, stream, index) inside the context, and restore them
    afterwards.

    These are the CPU's generator, and that of ``device`` if it is CUDA. Modules draw their initial weights from the
    global generator, and dropout its masks: torch's ``nn.Linear`` and ``nn.Dropout`` accept no other.
    """
    on_cuda = device is not None and device.type == "cuda"
    hashed = hashed_seed(seed, stream, index)
    with ExitStack() as stack:
        stack.enter_context(Noise(hashed).current())
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


class Noise:
    """What modules draw while they are trained: each has a generator of its own, numbered by its first draw. So what
    one draws does not depend on how often others have drawn by then."""

    def __init__(self, seed: int) -> None:
        self._seed = seed
        self._generators: dict[Hashable, torch.Generator] = {}

    def draw(self, shape: torch.Size, device: torch.device, owner: Hashable) -> torch.Tensor:
        rng = self._generators.get(owner)
        if rng is None:
            rng = self._generators[owner] = self._fresh(len(self._generators), device)
        return torch.rand(shape, generator=rng, dtype=torch.float32, device=device)

    def _fresh(self, number: int, device: torch.device) -> torch.Generator:
        seed = hashed_seed(self._seed, "noise", number)
        if device.type == "cpu":
            return seeded(torch.Generator(), seed)
        return torch.Generator(device).manual_seed(seed >> 65)

    def copy(self) -> "Noise":
        """The same, with the generators as they are now."""
        other = Noise(self._seed)
        other._generators = {owner: rng.clone_state() for owner, rng in self._generators.items()}
        return other

    @contextmanager
    def current(self) -> Iterator[None]:
        """``noise`` draws from it inside the context."""
        global _current
        before, _current = _current, self
        try:
            yield
        finally:
            _current = before


_current: Noise | None = None
"""One for the process, as torch's global generators are: a backward pass on a GPU runs in a thread of its own."""


def current_noise() -> Noise | None:
    """What ``noise`` draws from: the innermost ``ambient``'s; None: torch's global generators."""
    return _current


def noise(shape: torch.Size, device: torch.device, owner: Hashable) -> torch.Tensor:
    """U(0, 1) for a module that draws while it is trained, from its generator, which ``ambient`` has seeded.

    float32, whatever the module computes in: the same numbers in each precision. On a CPU a sequence of shape [T, ...]
    has the numbers of T draws of shape [...].

    Args:
        owner: the module. Outside of ``ambient``, and in code that torch compiles, all draw from the global generator.
    """
    if _current is None or torch.compiler.is_compiling():
        return torch.rand(shape, dtype=torch.float32, device=device)
    return _current.draw(shape, device, owner)


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
