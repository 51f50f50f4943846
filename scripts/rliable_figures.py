"""Prints the figures of the rliable package that tests/test_across.py holds ours equal to.

    python -m venv rl && rl/bin/pip install rliable==1.2.0 'pandas<3' && rl/bin/python scripts/rliable_figures.py

rliable (Agarwal et al. 2021) brings arch, statsmodels and pandas, so it is no dependency of the tests. Scores are
rounded, so that some are tied. The intervals are the mean of several, each of 50,000 resamples, with what they vary by.
"""

import numpy as np
from rliable import library, metrics

TASKS = 3


def scores(seed: int, runs: int, skill: float) -> np.ndarray:
    """[runs TASKS]: half of the tasks' seeds succeed, as memory tasks have it."""
    rng = np.random.default_rng(seed)
    learned = rng.random((runs, TASKS)) < skill
    return np.round(np.where(learned, 1 - 0.1 * rng.random((runs, TASKS)), 0.6 * rng.random((runs, TASKS))), 1)


def interval(bootstrap: type, of: object, *data: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of the two ends over repetitions."""
    ends = []
    for seed in range(4):
        drawn = bootstrap(*data, random_state=np.random.RandomState(seed))
        ends.append(drawn.conf_int(of, method="percentile", reps=50_000, size=0.95))
    return np.mean(ends, axis=0), np.std(ends, axis=0)


def main() -> None:
    x, y = scores(1, 4, 0.5), scores(2, 8, 0.8)
    print("X =", x.T.tolist())
    print("Y =", y.T.tolist())
    for name, each in (("X", x), ("Y", y)):
        print(f"{name} IQM", metrics.aggregate_iqm(each))
        print(f"{name} IQM interval", *interval(library.StratifiedBootstrap, metrics.aggregate_iqm, each))
        thresholds = np.array([0.0, 0.25, 0.5, 0.75, 0.95])
        print(f"{name} profile", library.score_distributions(each, thresholds).tolist())

        def at_half(some: np.ndarray) -> np.ndarray:
            return library.score_distributions(some, np.array([0.5]))

        print(f"{name} profile interval at 0.5", *interval(library.StratifiedBootstrap, at_half, each))
    print("P(X > Y)", metrics.probability_of_improvement(x, y))
    both = library.StratifiedIndependentBootstrap
    print("P(X > Y) interval", *interval(both, _improvement, x, y))


def _improvement(x: np.ndarray, y: np.ndarray) -> float:
    """As rliable's, by counting: scipy's test takes a minute for as many resamples."""
    wins = (x[:, None] > y[None]) + 0.5 * (x[:, None] == y[None])
    return float(wins.mean(axis=(0, 1)).mean())


main()
