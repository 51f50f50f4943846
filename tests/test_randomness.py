"""Random streams: a function of seed, purpose and index; the global generators stay as they are."""

import numpy as np
import pytest
import torch

from seqmem.randomness import generator, seeded
from seqmem.tasks import Pronoun
from seqmem.training.loop import train
from small_models import PLAN, fresh, weights


def test_global_randomness_is_neither_used_nor_touched():
    """Python's own ``random`` is left out: the type checker of these tests draws from it."""
    first = fresh(Pronoun())
    train(*first, PLAN)
    torch.manual_seed(123)
    np.random.seed(1)
    before = torch.get_rng_state(), np.random.random_sample(3)
    np.random.seed(1)
    second = fresh(Pronoun())
    train(*second, PLAN)
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.random_sample(3)).all()
    assert all(torch.equal(a, b) for a, b in zip(weights(first[0]), weights(second[0]), strict=True))


def test_another_seed_is_another_run():
    first, second = fresh(Pronoun(), 0), fresh(Pronoun(), 1)
    assert not torch.equal(weights(first[0])[0], weights(second[0])[0])


def test_streams_of_one_seed_never_meet():
    drawn = {
        tuple(torch.rand(4, generator=generator(seed, stream, index)).tolist())
        for seed in range(3)
        for stream in ("train", "eval", "validate", "trace", "show", "weights")
        for index in range(5)
    }
    assert len(drawn) == 3 * 6 * 5


def test_all_128_bits_of_a_seed_count():
    """manual_seed heeds 32 of them: streams would meet after some ten thousand batches."""
    first, second = torch.Generator(), torch.Generator()
    seeds = (5, 5 + 2**40)
    assert torch.equal(
        torch.rand(3, generator=first.manual_seed(5)), torch.rand(3, generator=second.manual_seed(seeds[1]))
    )
    drawn = [torch.rand(3, generator=seeded(torch.Generator(), seed)) for seed in (*seeds, 5 + 2**100)]
    assert len({tuple(values.tolist()) for values in drawn}) == 3
    many = torch.rand(100_000, generator=seeded(torch.Generator(), 7))
    assert many.mean().item() == pytest.approx(0.5, abs=0.005)
    assert many.std().item() == pytest.approx(12**-0.5, abs=0.005)
