"""Statistics over seeds, each against scipy, a closed form, or numbers counted by hand."""

from math import inf, isnan, nan

import numpy as np
import pytest
import scipy.stats

from made_up import collection, group_of, run
from seqmem.report import statistics
from seqmem.report.collect import Collection


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 7, 10, 19, 20, 41])
def test_the_interval_is_that_of_many_resamples(n: int) -> None:
    values = np.random.default_rng(n).normal(size=n)
    interval = statistics.median_interval(values)
    medians = np.median(np.random.default_rng(1).choice(values, (20_000, n)), axis=1)
    assert interval.median == pytest.approx(np.median(values), abs=1e-15)
    assert interval.n == n
    # Each end cuts off 2.5 % of the resampled medians: at most so many beyond it, at least so many with those at it.
    slack = 0.005
    assert (medians < interval.low - 1e-12).mean() <= 0.025 + slack
    assert (medians <= interval.low + 1e-12).mean() >= 0.025 - slack
    assert (medians > interval.high + 1e-12).mean() <= 0.025 + slack
    assert (medians >= interval.high - 1e-12).mean() >= 0.025 - slack
    mirrored = statistics.median_interval(-values)
    assert (mirrored.low, mirrored.high) == pytest.approx((-interval.high, -interval.low))


@pytest.mark.parametrize("n", [3, 5, 21, 1001])
def test_an_odd_median_resamples_as_binomials_say(n: int) -> None:
    """P(median of a resample is at most the k-th smallest) = P(Binomial(n, k/n) >= (n+1)/2)."""
    interval = statistics.median_interval(np.arange(1.0, n + 1))
    at_most = scipy.stats.binom.sf((n + 1) // 2 - 1, n, np.arange(1, n + 1) / n)
    assert interval.low == np.argmax(at_most >= 0.025) + 1
    assert interval.high == n + 1 - interval.low


def test_few_seeds_are_less_sure() -> None:
    for n in range(2, 9):  # the range of n draws misses the true median if all fall on one side of it
        sides = scipy.stats.binom.pmf([0, n], n, 0.5).sum()
        assert statistics.median_interval(range(n)).level == pytest.approx(min(0.95, 1 - sides))
    assert isnan(statistics.median_interval([]).median)
    censored = statistics.median_interval([100, 200, inf, inf, inf])
    assert (censored.median, censored.low, censored.high) == (inf, 100, inf)
    with pytest.raises(ValueError, match="NaN"):
        statistics.median_interval([nan])


@pytest.mark.parametrize(("k", "n"), [(0, 3), (3, 3), (12, 20), (1, 2), (5, 200)])
def test_shares_have_wilsons_interval(k: int, n: int) -> None:
    expected = scipy.stats.binomtest(k, n).proportion_ci(method="wilson")
    assert statistics.Solved(k, n).interval() == pytest.approx((expected.low, expected.high))


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (6, 0), (5, 5), (3, 9), (14, 6)])
def test_the_sign_test_is_exact(wins: int, losses: int) -> None:
    expected = scipy.stats.binomtest(wins, wins + losses).pvalue if wins + losses else 1.0
    assert statistics.sign_test(wins, losses) == pytest.approx(expected)
    assert statistics.FEWEST == 6
    assert statistics.sign_test(5, 0) > 0.05 >= statistics.sign_test(6, 0)


def test_memory_span() -> None:
    good, bad = [1.0, 1.0, 0.99], [1.0, 0.3, nan]
    runs = collection(
        {
            "all": {10: good, 20: good},
            "some": {10: good, 20: [1.0, 0.2], 40: bad},
            "none": {10: bad, 20: bad},
            "gap": {5: good, 10: bad, 20: good},
        }
    )
    spans = {group.label: statistics.memory_span(group) for group in runs.groups}
    assert {label: str(span) for label, span in spans.items()} == {
        "all": ">= 20",
        "some": "20",  # one of two seeds is half
        "none": "< 10",
        "gap": "5",
    }
    assert spans["gap"].beyond == (20,)
    assert spans["some"].failed == 40
    assert {length: str(count) for length, count in spans["some"].counts.items()} == {10: "3/3", 20: "1/2", 40: "1/3"}
    assert str(statistics.memory_span(group_of(runs, "some"), threshold=0.25)) == ">= 40"


def test_tasks_with_rules_of_their_own() -> None:
    errors = {"metric": "mean squared error", "higher_is_better": False, "chance": 1 / 6}
    low = group_of(collection({"lstm": {10: [0.004, 0.004, 0.006]}}, goal=0.005, **errors), "lstm")
    assert str(statistics.memory_span(low)) == ">= 10"
    assert statistics.solved_count(low.at(10), threshold=0.99).k == 2  # the threshold is an accuracy
    no_rule = group_of(collection({"lstm": {10: [0.1]}}, goal=None, **errors), "lstm")
    assert str(statistics.memory_span(no_rule)) == "?"
    accuracy = group_of(collection({"lstm": {10: [0.98, 0.995]}}, goal=None), "lstm")
    assert str(statistics.solved_count(accuracy.at(10))) == "1/2"  # at 99 %
    diverged = group_of(collection({"lstm": {9: [nan, 0.4]}}, **errors), "lstm")
    assert statistics.score_interval(diverged.at(9)).high == inf


def test_the_span_over_tested_lengths() -> None:
    runs = []
    for seed, reach in enumerate((40, 40, 20)):
        tested = {length: 1.0 if length <= reach else 0.3 for length in (5, 10, 20, 40, 80)}
        runs.append(run("lstm", 10, seed, 1.0, by_length={**tested, 5: 0.2, 100 + seed: 1.0}))
    group = group_of(Collection([], runs), "lstm")
    assert group.tested_lengths(10) == [5, 10, 20, 40, 80]  # where all of them were tested
    span = statistics.span_tested(group, 10)
    assert (str(span), list(span.counts)) == ("40", [10, 20, 40, 80])  # from the trained length on
    assert str(statistics.span_tested(group, 99)) == "?"


def test_steps_to_solve_are_censored() -> None:
    runs = [run("lstm", 10, seed, 1.0, steps_to_solve=n) for seed, n in enumerate((100, 200, 300, None, None))]
    steps = statistics.steps_to_solve(runs)
    assert (str(steps.solved), steps.steps.median, steps.steps.high, steps.budget) == ("3/5", 300, inf, (400, 400))
    assert str(steps) == "300"
    assert str(statistics.steps_to_solve(runs[2:])) == "> 400"
    assert statistics.steps_to_solve(runs[:2]).budget is None
    assert statistics.number_interval(runs, "gradient", "half_life", "end").median == 2.0
    assert statistics.number_interval(runs, "gradient", "horizon", "end").median == inf
    assert statistics.number_interval(runs, "gradient", "half_life", "middle").n == 0


def test_two_groups_of_seeds() -> None:
    """The published finding: 12 of 20 at 99 % or more, 5 below 70 %, at chance 1/6."""
    both = [1.0] * 10 + [0.995, 0.99] + [0.9, 0.8, 0.95] + [0.2, 0.3, 0.5, 0.6, 0.69]
    spread = np.linspace(1 / 6, 1.0, 20).tolist()
    runs = collection(
        {"both": {10: both}, "spread": {10: spread}, "all": {10: [1.0] * 20}, "odd": {10: [1.0, 1.0, 0.2]}},
        chance=1 / 6,
    )
    groups = statistics.bimodality(group_of(runs, "both").at(10))
    assert groups is not None
    assert (groups.high, groups.low, groups.n) == (12, 5, 20)
    assert str(groups) == "12 of 20 seeds reach 99.0 %, 5 of 20 stay below 71.6 %"
    for label in ("spread", "all", "odd"):
        assert statistics.bimodality(group_of(runs, label).at(10)) is None
    splits = statistics.two_groups(runs)
    assert [(split.group.label, split.seq_len, split.at) for split in splits] == [("both", 10, 10)]


def test_comparisons_are_paired_and_need_enough_seeds() -> None:
    seeds = np.random.default_rng(0).random(8)
    a, b = (0.7 + 0.3 * seeds).tolist(), (0.5 * seeds + 0.2).tolist()
    b[7] = a[7]
    runs = collection({"a": {10: a, 20: a}, "b": {10: b, 20: b[:3]}, "c": {20: [*a[:5], nan, *a[6:]]}})
    group_a, group_b, group_c = runs.groups
    pair = statistics.comparison(group_a, group_b, 10)
    assert (pair.wins, pair.ties, pair.losses) == (7, 1, 0)
    assert pair.difference.median == pytest.approx(np.median(np.subtract(a, b)))
    assert pair.p == pytest.approx(scipy.stats.binomtest(7, 7).pvalue)
    assert pair.shown
    assert pair.verdict == "a is better than b with 7 of 8 seeds (sign test, p = 0.016)."
    swapped = statistics.comparison(group_b, group_a, 10)
    assert (swapped.wins, swapped.losses, swapped.p) == (0, 7, pair.p)
    assert swapped.difference.median == -pair.difference.median
    few = statistics.comparison(group_a, group_b, 20)
    assert not few.earned
    assert few.verdict == "3 common seeds cannot show a difference at the 5 % level; it takes 6."
    diverged = statistics.comparison(group_a, group_c, 20)
    assert (diverged.wins, diverged.ties, diverged.losses) == (1, 7, 0)
    assert diverged.differences[5] == inf
    assert "No difference is shown" in diverged.verdict


def test_a_positive_difference_is_better_for_an_error_too() -> None:
    errors = {"metric": "mean squared error", "higher_is_better": False, "goal": 0.005}
    runs = collection({"good": {10: [0.01] * 6}, "poor": {10: [0.1] * 6}}, **errors)
    good, poor = runs.groups
    pair = statistics.comparison(good, poor, 10)
    assert pair.wins == 6
    assert pair.difference.median == pytest.approx(0.09)


def test_many_comparisons_are_corrected() -> None:
    """Holm by hand: 6 of 6 (p = 1/32) is significant alone, and not among six pairs."""
    scores = {cell: {10: [0.1 * i + 0.001 * seed for seed in range(6)]} for i, cell in enumerate("abcd", 3)}
    pairs = statistics.comparisons(collection(scores))
    assert len(pairs) == 6
    assert {pair.p for pair in pairs} == {1 / 32}
    assert {pair.adjusted for pair in pairs} == {6 / 32}
    assert not any(pair.shown for pair in pairs)


def test_the_telling_length_of_a_comparison() -> None:
    good, bad = [1.0] * 3, [0.25] * 3
    runs = collection({"a": {10: good, 20: good, 40: bad, 80: [1.0]}, "b": {10: good, 20: bad, 40: bad, 80: [1.0]}})
    a, b = runs.groups
    assert statistics.telling_length(a, b) == statistics.telling_length(b, a) == 20
