"""Statistics over seeds, each against scipy, a closed form, or numbers counted by hand."""

from itertools import product
from math import comb, inf, isnan, nan, prod
from pathlib import Path

import numpy as np
import pytest
from scipy.special import bdtr, betaincinv  # scipy.stats takes a second to import

from made_up import collection, group_of, run
from seqmem.report import statistics
from seqmem.report.collect import Collection, Unfinished
from seqmem.solved import FEWEST, Solved, solved_after, solved_words, span_bounds


def probability(k: int, n: int, p: float) -> float:
    """The probability of k successes in n."""
    return comb(n, k) * p**k * (1 - p) ** (n - k)


@pytest.mark.parametrize("n", [*range(1, 30), 200, 1001])
def test_the_interval_of_a_median_is_the_narrowest_of_its_kind(n: int) -> None:
    """From the r-th smallest to the r-th largest it misses the median if fewer than r of n fall on one side of it."""
    values = np.random.default_rng(n).permutation(np.arange(1.0, n + 1))
    interval = statistics.median_interval(values)
    rank = int(interval.low)
    sure = [1 - 2 * float(bdtr(r - 1, n, 0.5)) for r in (rank, rank + 1)]
    assert (interval.median, interval.high, interval.n) == ((n + 1) / 2, n + 1 - rank, n)
    assert interval.level == pytest.approx(sure[0], abs=1e-12)
    assert (interval.level >= 0.95 > sure[1]) if n >= 6 else (rank == 1 and interval.level < 0.95)


@pytest.mark.parametrize("n", [3, 5, 7, 13, 23])
def test_intervals_of_medians_cover_as_often_as_they_say(n: int) -> None:
    """Over 4,000 samples; and at least as often where scores fall into two groups, as accuracies do."""
    rng, samples = np.random.default_rng(n), 4000
    level = statistics.median_interval(range(n)).level
    slack = 3.5 * np.sqrt(level * (1 - level) / samples)
    for values, median in (
        (rng.exponential(size=(samples, n)), np.log(2)),
        (np.where(rng.random((samples, n)) < 0.6, 1.0, 0.25), 1.0),
    ):
        ordered = np.sort(values, axis=1)
        ends = statistics.median_interval(range(n))
        low, high = ordered[:, int(ends.low)], ordered[:, int(ends.high)]
        covered = ((low <= median) & (median <= high)).mean()
        assert covered > level - slack
        assert median == 1.0 or covered < level + slack


def test_few_seeds_are_less_sure() -> None:
    levels = [statistics.median_interval(range(n)).level_text for n in range(1, 9)]
    assert levels == ["", "50 %", "75 %", "87.5 %", "93.8 %", "96.9 %", "98.4 %", "99.2 %"]
    assert isnan(statistics.median_interval([]).median)
    censored = statistics.median_interval([100, 200, inf, inf, inf])
    assert (censored.median, censored.low, censored.high) == (inf, 100, inf)
    assert statistics.median_interval([-inf, inf]).median == 0
    with pytest.raises(ValueError, match="NaN"):
        statistics.median_interval([nan])


@pytest.mark.parametrize("n", [1, 2, 5, 8, 20, 200])
def test_shares_have_clopper_and_pearsons_interval(n: int) -> None:
    for k in {0, 1, n // 3, n // 2, n - 1, n}:
        low = betaincinv(k, n - k + 1, 0.025) if k else 0.0
        high = betaincinv(k + 1, n - k, 0.975) if k < n else 1.0
        assert Solved(k, n).interval() == pytest.approx((low, high), abs=1e-9)
    for share in (0.02, 0.3, 0.5, 0.9, 0.99) if n < 100 else ():
        covering = [k for k in range(n + 1) if Solved(k, n).interval()[0] <= share <= Solved(k, n).interval()[1]]
        assert sum(probability(k, n, share) for k in covering) >= 0.95
    assert Solved(0, 0).interval() == (0, 1)


@pytest.mark.parametrize("seeds", [(6, 6, 6), (7, 5, 7), (3, 3, 1), (9, 9, 9), (10, 6, 4)])
@pytest.mark.parametrize(
    "shares", [(0.5, 0.5, 0.5), (1.0, 0.5, 0.5), (1.0, 1.0, 0.5), (0.51, 0.51, 0.0), (0.9, 0.6, 0.4)]
)
def test_the_interval_of_a_span_is_wrong_as_rarely_as_it_says(
    seeds: tuple[int, ...], shares: tuple[float, ...]
) -> None:
    """Over every outcome of three lengths, each with its probability; the true span is the last share above a half."""
    lengths, wrong = (10, 20, 30), {"low": 0.0, "high": 0.0}
    truth = max((length for length, share in zip(lengths, shares, strict=True) if share > 0.5), default=0)
    most = min(FEWEST, max(seeds))
    level = 1.0
    for solved in product(*(range(n + 1) for n in seeds)):
        chance = prod(probability(k, n, p) for k, n, p in zip(solved, seeds, shares, strict=True))
        counts = {at: Solved(k, n, needed=most) for at, k, n in zip(lengths, solved, seeds, strict=True)}
        bounds = span_bounds(counts)
        level = bounds.level
        wrong["low"] += chance * (bounds.low is not None and bounds.low > truth)
        wrong["high"] += chance * (bounds.high is not None and bounds.high <= truth)
    assert max(wrong.values()) <= (1 - level) / 2 + 1e-12
    assert level >= 0.95 or max(seeds) < 6


@pytest.mark.parametrize(("wins", "losses"), [(0, 0), (6, 0), (5, 5), (3, 9), (14, 6)])
def test_the_sign_test_is_exact(wins: int, losses: int) -> None:
    expected = min(1, 2 * float(bdtr(min(wins, losses), wins + losses, 0.5)))  # as far from a half, on either side
    assert statistics.sign_test(wins, losses) == pytest.approx(expected)
    assert statistics.FEWEST == 6
    assert statistics.sign_test(5, 0) > 0.05 >= statistics.sign_test(6, 0)


def test_memory_span() -> None:
    good, bad = [1.0, 1.0, 0.99], [1.0, 0.3, nan]
    runs = collection(
        {
            "all": {10: good, 20: good},
            "some": {10: good, 20: [1.0, 0.2, 1.0], 40: bad},
            "none": {10: bad, 20: bad},
            "gap": {5: good, 10: bad, 20: good},
        }
    )
    spans = {group.label: statistics.memory_span(group) for group in runs.groups}
    assert {label: str(span) for label, span in spans.items()} == {
        "all": ">= 20",
        "some": "20",
        "none": "< 10",
        "gap": "5",
    }
    assert spans["gap"].beyond == (20,)
    assert spans["some"].failed == 40
    assert {length: str(count) for length, count in spans["some"].counts.items()} == {10: "3/3", 20: "2/3", 40: "1/3"}
    assert str(statistics.memory_span(group_of(runs, "some"), threshold=0.25)) == ">= 40"


def test_half_of_the_seeds_is_no_majority() -> None:
    runs = collection(
        {"half": {10: [1.0, 0.2]}, "four": {10: [1.0, 1.0, 0.2, 0.2]}, "five": {10: [1.0] * 3 + [0.2] * 2}}
    )
    assert [str(statistics.memory_span(group)) for group in runs.groups] == ["< 10", "< 10", ">= 10"]


def test_a_length_with_fewer_seeds_than_the_others_decides_nothing() -> None:
    five, no = [1.0] * 5, [0.25] * 5
    runs = collection(
        {
            "one": {10: five, 50: five, 100: [1.0]},
            "failed one": {10: five, 50: five, 100: [0.25]},
            "enough": {10: five, 50: five, 100: [1.0] * 3},  # three of five, whatever the others do
            "gap": {10: five, 50: [1.0], 100: no},
            "many": {10: five, 50: [1.0] * 20},  # six are enough
            "first": {10: [1.0], 50: five},
            "single": {10: [1.0], 50: [1.0]},
        }
    )
    spans = {group.label: statistics.memory_span(group) for group in runs.groups}
    assert {label: (str(span), span.undecided) for label, span in spans.items()} == {
        "one": (">= 50", (100,)),
        "failed one": (">= 50", (100,)),
        "enough": (">= 100", ()),
        "gap": (">= 10", (50,)),
        "many": (">= 50", ()),
        "first": ("undecided", (10,)),
        "single": (">= 50", ()),
    }
    assert {label: str(span.bounds) for label, span in spans.items()} == {
        "one": ">= 50 (93.8 %)",  # all of five
        "failed one": ">= 50 (93.8 %)",
        "enough": ">= 50 (93.8 %)",
        "gap": ">= 10, < 100 (93.8 %)",
        "many": ">= 50 (95.9 %)",
        "first": ">= 50 (93.8 %)",
        "single": "one seed",
    }
    assert spans["one"].counts[100].remarks == "+ 4 missing"


def test_seeds_that_diverged_count_and_unfinished_ones_do_not() -> None:
    """The published case: 5 of 8 seeds diverge, 2 of the other 3 solve it."""
    made = collection({"rnn": {7: [1.0, 1.0, 0.671, *[nan] * 5], 9: [1.0] * 6}})
    waiting = [
        Unfinished(Path("a"), "killed", 3, None, "pronoun", "rnn", 9, 6),
        Unfinished(Path("b"), "running", 3, None, "pronoun", "rnn", 20, 0),
        Unfinished(Path("c"), "running", 3, None, "copy", "rnn", 7, 0),
    ]
    (group,) = Collection([], made.runs, waiting).groups
    count, span = statistics.group_count(group, 7), statistics.memory_span(group)
    assert (str(count), count.remarks, str(span)) == ("2/8", "5 diverged", "< 7")
    assert statistics.group_count(group, 9).remarks == "+ 1 unfinished, + 1 missing"
    assert span.counts[20].remarks == "+ 1 unfinished, + 7 missing"
    score = statistics.score_interval(group.at(7))
    assert (score.median, score.low, score.high, score.n) == (-inf, -inf, 1.0, 8)
    assert str(statistics.span_tested(group, 7)) == "< 7"
    assert str(statistics.steps_to_solve(group.at(7))) == "> 400"
    split = "2 of 8 seeds reach 99.0 %, 6 of 8 stay below 74.3 % (5 of them diverged)"
    assert str(statistics.bimodality(group.at(7))) == split


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
    first = (100, 200, 300, None, None)
    runs = [run("lstm", 10, seed, 1.0 if n else 0.5, steps_to_solve=n) for seed, n in enumerate(first)]
    steps = statistics.steps_to_solve(runs)
    assert (str(steps.solved), steps.steps.median, steps.steps.high, steps.budget) == ("3/5", 300, inf, (400, 400))
    assert str(steps) == "300"
    assert str(statistics.steps_to_solve(runs[2:])) == "> 400"
    assert statistics.steps_to_solve(runs[:2]).budget is None
    assert statistics.number_interval(runs, "gradient", "half_life", "end").median == 2.0
    assert statistics.number_interval(runs, "gradient", "horizon", "end").median == inf
    assert statistics.number_interval(runs, "gradient", "half_life", "middle").n == 0


def test_steps_and_solved_never_contradict_each_other() -> None:
    """The rule may be met once and lost again, or at the last evaluation alone."""
    lost = [run("lstm", 10, seed, 0.5, steps_to_solve=100) for seed in range(3)]
    late = [run("lstm", 10, seed, 1.0, steps_to_solve=None) for seed in range(3)]
    for runs, steps in ((lost, "> 400"), (late, "400"), (lost + late, "> 400")):
        assert statistics.steps_to_solve(runs).solved.k == statistics.solved_count(runs).k
        assert str(statistics.steps_to_solve(runs)) == steps
    assert statistics.steps_to_solve(lost, threshold=0.4).solved.k == 3
    assert [solved_after(100, 400, solved=solved) for solved in (True, False)] == [100, None]
    assert [solved_words(first, solved=solved) for first in (9, None) for solved in (True, False, None)] == [
        "solved at step 9", "solved at step 9, but not at the end", "solved at step 9", "solved", "", "",
    ]  # fmt: skip


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
    assert pair.p == pytest.approx(2 / 2**7)
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


def test_two_runs_that_diverged_have_no_score_in_common() -> None:
    a, some, none = collection({"a": {9: [0.5] * 6}, "b": {9: [*[nan] * 5, 0.4]}, "c": {9: [nan] * 6}}).groups
    pair = statistics.comparison(some, none, 9)
    assert (pair.wins, pair.ties, pair.losses, pair.both_diverged, pair.difference.n) == (1, 0, 0, 5, 1)
    assert pair.verdict == (
        "No difference is shown: b is better with 1, c with 0 of 6 seeds, both diverged with 5 (sign test, p = 1)."
    )
    assert pair.record == "1-0-0 (5 both diverged)"
    both = statistics.comparison(none, none, 9)
    assert both.verdict == "c and c both diverged with each of 6 seeds: there is no score to compare."
    assert both.difference_text == "-"
    same = statistics.comparison(a, a, 9)
    assert (same.ties, same.both_diverged) == (6, 0)
    assert same.verdict == "a and a score the same with each of 6 seeds."


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
    assert {pair.least for pair in pairs} == {6 / 32}  # nothing that six seeds could say would be significant
    assert {pair.needed for pair in pairs} == {8}  # 6 * 2 / 2**8 = 0.047
    line = "6 seeds give 0.19 at best, it takes 8)."
    assert all(pair.verdict.endswith(line) for pair in pairs)
    with_eight = {cell: {10: [0.1 * i + 0.001 * seed for seed in range(8)]} for i, cell in enumerate("abcd", 3)}
    assert all(pair.shown and "it takes" not in pair.verdict for pair in statistics.comparisons(collection(with_eight)))


@pytest.mark.parametrize("drawn", range(8))
def test_no_result_of_these_seeds_is_below_the_least_p(drawn: int) -> None:
    """Against drawn results of cells with different numbers of seeds; where all seeds agree it is reached."""
    rng = np.random.default_rng(drawn)
    seeds = rng.integers(6, 12, 4).tolist()
    mixed = {f"c{i}": {10: rng.choice((0.3, 0.7), n).tolist()} for i, n in enumerate(seeds)}
    assert all(pair.least <= pair.adjusted + 1e-12 for pair in statistics.comparisons(collection(mixed)))
    unanimous = {f"c{i}": {10: [0.6 + i / 100] * n} for i, n in enumerate(seeds)}
    for pair in statistics.comparisons(collection(unanimous)):
        assert pair.adjusted == pytest.approx(pair.least)


@pytest.mark.parametrize(("pairs", "seeds"), [(1, 6), (2, 7), (3, 7), (4, 8), (6, 8), (10, 9), (15, 10)])
def test_the_seeds_that_it_takes(pairs: int, seeds: int) -> None:
    assert statistics.seeds_needed(pairs) == seeds
    assert pairs * 2 / 2**seeds <= 0.05 < pairs * 2 / 2 ** (seeds - 1)


def test_the_telling_length_of_a_comparison() -> None:
    good, bad = [1.0] * 3, [0.25] * 3
    runs = collection({"a": {10: good, 20: good, 40: bad, 80: [1.0]}, "b": {10: good, 20: bad, 40: bad, 80: [1.0]}})
    a, b = runs.groups
    assert statistics.telling_length(a, b) == statistics.telling_length(b, a) == 20
