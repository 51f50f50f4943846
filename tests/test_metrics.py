"""Scores in words, and when one is better than another."""

from math import inf, nan, sqrt

import numpy as np
import pytest

from seqmem.metrics import ACCURACY, BITS, METRICS, SQUARED_ERROR, Metric, metric_called


def test_scores_in_words() -> None:
    assert [ACCURACY.text(score) for score in (0.0, 0.12345, 0.99999, 1.0)] == ["0.0 %", "12.3 %", "100.0 %", "100.0 %"]
    assert [BITS.text(score) for score in (0.0, 4.69512, 1e-7)] == ["0", "4.695", "1e-07"]
    assert {metric.text(score) for metric in METRICS.values() for score in (nan, inf, -inf)} == {"diverged"}


def test_better_is_the_metric_s_to_say() -> None:
    assert ACCURACY.better(0.5, 0.4)
    assert SQUARED_ERROR.better(0.4, 0.5)
    assert not ACCURACY.better(0.5, 0.5)
    assert ACCURACY.reached(0.99, 0.99)
    assert BITS.reached(2.0, 2.0)
    for metric in METRICS.values():
        assert not metric.reached(nan, 0.5)


@pytest.mark.parametrize("sequences", [16, 1000])
def test_chance_is_beaten_by_three_standard_errors(sequences: int) -> None:
    """So many right guesses are rare: the normal tail beyond three is 0.13 %."""
    rng, chance = np.random.default_rng(0), 0.25
    guesses = rng.binomial(sequences, chance, 20_000) / sequences
    assert np.mean([ACCURACY.beats(score, chance, sequences) for score in guesses.tolist()]) < 0.01
    assert ACCURACY.beats(chance + 3.1 * sqrt(chance * (1 - chance) / sequences), chance, sequences)


def test_chance_is_beaten_by_a_twentieth_of_any_other_score() -> None:
    assert SQUARED_ERROR.beats(0.94, 1.0, 10)
    assert not SQUARED_ERROR.beats(0.96, 1.0, 10)
    assert Metric("reward", higher_is_better=True).beats(1.06, 1.0, 10)


def test_metrics_by_name() -> None:
    assert metric_called("accuracy") is ACCURACY
    assert metric_called("reward") == Metric("reward", higher_is_better=True, unit="reward")
    assert not metric_called("regret", higher_is_better=False).higher_is_better
