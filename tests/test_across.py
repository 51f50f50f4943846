"""Cells over many tasks: against the rliable package, brute force, and numbers counted by hand."""

import csv
import re
from collections.abc import Mapping, Sequence
from math import isnan, lcm, nan
from pathlib import Path

import numpy as np
import pytest

from made_up import run
from seqmem.cli.verbs import report as reporting
from seqmem.metrics import ACCURACY, BITS, SQUARED_ERROR
from seqmem.report import latex, page, tables
from seqmem.report.across import Across, CellScores, across, improvement, interquartile_mean
from seqmem.report.collect import Collection

X = [[0.6, 0.2, 0.3, 1.0], [0.4, 1.0, 1.0, 0.4], [1.0, 1.0, 0.4, 0.6]]
Y = [
    [1.0, 0.9, 1.0, 0.9, 0.9, 1.0, 0.9, 1.0],
    [0.9, 1.0, 0.9, 0.9, 0.9, 0.0, 1.0, 0.3],
    [0.4, 1.0, 0.9, 1.0, 0.9, 0.9, 0.9, 1.0],
]
RLIABLE = {
    "X": (0.6666666666666666, (0.42083333, 0.93333333), [1.0, 11 / 12, 7 / 12, 5 / 12, 5 / 12], (1 / 3, 5 / 6)),
    "Y": (0.9249999999999999, (0.9, 0.96666667), [23 / 24, 23 / 24, 0.875, 0.875, 0.375], (0.75, 1.0)),
}
"""Interquartile mean, its interval, the profile at 0, 0.25, 0.5, 0.75 and 0.95, and its interval at 0.5.

By rliable 1.2.0 (arch 7.2.0, numpy 2.4.6): ``python scripts/rliable_figures.py``, 4 x 50,000 resamples.
"""

BETTER = (0.4010416666666667, (0.19791667, 0.609375))
"""The probability that X is better than Y, and its interval, from the same."""


def trimmed_mean(scores: np.ndarray) -> float:
    """The mean without a quarter at either end, of 4 n scores. (scipy.stats has it, and takes a second to import.)"""
    quarter = len(scores) // 4
    assert len(scores) == 4 * quarter
    return float(np.sort(scores)[quarter : 3 * quarter].mean())


def cell(label: str, by_task: Sequence[Sequence[float]]) -> CellScores:
    return CellScores(label, {f"task {at}": np.array(scores) for at, scores in enumerate(by_task)})


@pytest.mark.parametrize(("label", "by_task"), [("X", X), ("Y", Y)])
def test_means_and_profiles_are_those_of_rliable(label: str, by_task: Sequence[Sequence[float]]) -> None:
    mean, ends, profile, at_half = RLIABLE[label]
    ours = cell(label, by_task)
    assert ours.interquartile_mean.value == pytest.approx(mean, abs=1e-12)
    assert (ours.interquartile_mean.low, ours.interquartile_mean.high) == pytest.approx(ends, abs=0.02)
    share, low, high = ours.profile
    assert share[[0, 25, 50, 75, 95]] == pytest.approx(profile, abs=1e-12)
    assert (low[50], high[50]) == pytest.approx(at_half, abs=1 / 24)  # as many pairs as one resample counts
    assert ours.share_above(0.5) == pytest.approx(share[50])


def test_improvement_is_that_of_rliable() -> None:
    x, y = cell("X", X), cell("Y", Y)
    ours, turned = improvement(x, y).probability, improvement(y, x).probability
    assert ours.value == pytest.approx(BETTER[0], abs=1e-12)
    assert (ours.low, ours.high) == pytest.approx(BETTER[1], abs=0.02)
    assert (ours.value, ours.low, ours.high) == pytest.approx((1 - turned.value, 1 - turned.high, 1 - turned.low))
    assert improvement(x, cell("Z", X)).probability.value == 0.5


def test_tasks_with_other_numbers_of_seeds_have_the_same_weight() -> None:
    """As if each seed were there as often as makes all tasks equally large; then whole scores are cut."""
    rng = np.random.default_rng(0)
    by_task = [rng.random(n).round(2).tolist() for n in (3, 5, 2, 4)]
    whole = lcm(*map(len, by_task)) * 4
    repeated = np.concatenate([np.repeat(scores, whole // len(scores)) for scores in by_task])
    ours = cell("lstm", by_task)
    assert ours.interquartile_mean.value == pytest.approx(trimmed_mean(repeated), abs=1e-12)
    assert ours.share_above(0.5) == pytest.approx((repeated > 0.5).mean(), abs=1e-12)


def test_a_resample_is_what_drawing_seeds_gives() -> None:
    """Each row of weights counts every seed a whole number of times, as many as the task has; and all are as likely."""
    ours = cell("gru", [[0.1, 0.2, 0.9], [0.5, 0.7]])
    counts = ours.resamples * 2 * np.array([3, 3, 3, 2, 2])
    assert np.allclose(counts, counts.round())
    assert np.allclose(counts[:, :3].sum(1), 3)
    assert np.allclose(counts[:, 3:].sum(1), 2)
    assert counts.mean(0) == pytest.approx(np.ones(5), abs=0.1)
    drawn = [np.repeat(ours.scores, row.round().astype(int) * [2, 2, 2, 3, 3]) for row in counts[:20]]
    of = interquartile_mean(ours.scores, ours.resamples[:20])
    assert of == pytest.approx([trimmed_mean(np.repeat(each, 4)) for each in drawn], abs=1e-12)


def test_intervals_cover_nearly_as_often_as_they_say() -> None:
    """With 10 seeds on each of 6 tasks, whose scores are uniform: their interquartile mean is 1/2."""
    rng, inside = np.random.default_rng(1), 0
    for number in range(40):
        mean = cell(f"cell {number}", rng.random((6, 10)).tolist()).interquartile_mean
        inside += mean.low <= 0.5 <= mean.high
    assert inside >= 33  # fewer of 40 have a probability of 0.1 %, at 95 % each


def test_one_seed_has_no_interval() -> None:
    ours = cell("lstm", [[0.5], [0.7, 0.9]])
    assert isnan(ours.interquartile_mean.low)
    assert np.isnan(ours.profile[1]).all()
    assert isnan(improvement(ours, cell("gru", [[0.1, 0.2], [0.3, 0.4]])).probability.high)


@pytest.mark.parametrize(
    ("score", "chance", "share"),
    [(1.0, 0.25, 1.0), (0.625, 0.25, 0.5), (0.25, 0.25, 0.0), (0.1, 0.25, 0.0), (nan, 0.25, 0.0)],
)
def test_a_score_is_a_share_of_the_way_from_chance_to_perfect(score: float, chance: float, share: float) -> None:
    assert ACCURACY.share(score, chance) == share
    assert SQUARED_ERROR.share(0.04, 0.16) == pytest.approx(0.75)
    assert SQUARED_ERROR.share(0.3, 0.16) == 0
    for metric, level in ((ACCURACY, 1.0), (BITS, 3.4)):
        with pytest.raises(ValueError, match="no scale"):
            metric.share(0.5, level)


Scores = Mapping[str, Mapping[str, Mapping[int, Sequence[float]]]]
"""Cell -> task -> length -> a score for each seed."""


def made(scores: Scores, **chances: float | None) -> Across | None:
    return across(collected(scores, **chances))


def collected(scores: Scores, **chances: float | None) -> Collection:
    """``chances``: of a task, else a quarter."""
    runs = [
        run(label, length, seed, score, task=task, chance=chances.get(task, 0.25))
        for label, tasks in scores.items()
        for task, lengths in tasks.items()
        for length, seeds in lengths.items()
        for seed, score in enumerate(seeds)
    ]
    return Collection([], sorted(runs, key=lambda one: one.task))


def test_a_seed_has_the_mean_over_the_lengths_of_all_cells() -> None:
    one = made(
        {
            "lstm": {"copy": {10: [1.0, 1.0, 0.25], 20: [1.0, nan]}, "recall": {10: [0.625, 0.625]}},
            "rnn": {"copy": {10: [1.0, 0.0], 20: [0.25, 0.25], 40: [1.0]}, "recall": {10: [0.625], 20: [1.0]}},
        }
    )
    assert one is not None
    assert one.tasks == {"copy": [10, 20], "recall": [10]}
    assert {each.label: {task: scores.tolist() for task, scores in each.by_task.items()} for each in one.cells} == {
        "lstm": {"copy": [1.0, 0.5], "recall": [0.5, 0.5]},
        "rnn": {"copy": [0.5, 0.0], "recall": [0.5]},
    }
    assert [(pair.a, pair.b, pair.probability.value) for pair in one.pairs] == [("lstm", "rnn", (7 / 8 + 1 / 2) / 2)]
    assert one.next_better == {"lstm": one.pairs[0]}


def test_cells_are_compared_on_the_tasks_that_all_have() -> None:
    every = {task: {10: [1.0, 0.5]} for task in ("copy", "nback", "recall")}
    one = made({"lstm": every, "gru": every, "rnn": {"copy": {10: [1.0]}}, "lem": {**every, "copy": {20: [1.0]}}})
    assert one is not None
    assert {each.label for each in one.cells} == {"lstm", "gru", "lem"}
    assert list(one.tasks) == ["nback", "recall"]
    assert sorted(one.left_out) == [
        "copy: no length at which a seed of every cell was trained",
        "rnn: not run on nback, recall",
    ]


def test_tasks_without_a_scale_are_named() -> None:
    runs = collected({"lstm": {"copy": {10: [1.0]}, "nback": {10: [1.0]}, "recall": {10: [1.0]}}}, recall=None).runs
    runs += [run("lstm", 10, 0, 2.5, task="text", metric=BITS.name, higher_is_better=False, chance=3.4)]
    runs += [run("lstm", 10, 0, 1.0, task="trivial", chance=1.0)]
    one = across(Collection([], runs))
    assert one is not None
    assert list(one.tasks) == ["copy", "nback"]
    assert list(one.left_out) == [
        "recall: its chance is not known",
        "text: no perfect score is known (bits per character)",
        "trivial: without a memory its score is perfect",
    ]


def test_there_is_nothing_across_fewer_than_two_tasks() -> None:
    assert made({"lstm": {"copy": {10: [1.0]}}, "gru": {"copy": {10: [1.0]}}}) is None
    assert made({"lstm": {"copy": {10: [1.0]}}, "gru": {"nback": {10: [1.0]}}}) is None
    assert made({"lstm": {"copy": {10: [1.0]}, "nback": {10: [1.0]}}}, copy=None) is None
    assert made({}) is None
    alone = made({"lstm": {"copy": {10: [1.0]}, "nback": {10: [1.0]}}})
    assert alone is not None
    assert (len(alone.cells), alone.pairs, alone.next_better) == (1, [], {})


TWO_TASKS: Scores = {
    "lstm": {"copy": {10: [1.0, 0.625]}, "recall": {10: [1.0, 1.0]}},
    "rnn": {"copy": {10: [0.625, 0.25]}, "recall": {10: [0.25, nan]}},
    "lem": {"copy": {10: [0.25, 0.25]}, "recall": {10: [0.25, 0.25]}},
}
"""Shares of the way: lstm 1, 1/2, 1, 1; rnn 1/2, 0, 0, 0; lem 0. lstm beats rnn by 7/8 on copy, always on recall."""


@pytest.mark.usefixtures("unrendered")
def test_every_form_of_a_report_has_it(tmp_path: Path) -> None:
    runs = collected(TWO_TASKS)
    text = re.sub(r"<[^>]*>", " ", page.write(runs, tmp_path).read_text())
    assert re.search(r"lstm\s+2\s+1\.00\s+\[0\.75, 1\.00\]\s+75\s%\s+75\s%\s+0\.94\s+\[0\.75, 1\.00\]", text)
    assert re.search(r"rnn\s+0\.06\*\s+0\.62", text)  # the matrix: than lstm, than itself, than lem
    printed = "\n".join(str(line) for line in reporting.lines(runs, None, None, 80))
    assert "across 2 tasks: copy, recall" in printed
    assert re.search(r"lstm +1\.00 \[0\.75, 1\.00\] +75 % +75 % +0\.94 \[0\.75, 1\.00\]", printed)
    stored = reporting.numbers(runs, None, None)["across"]
    assert stored["cells"][0]["scores"] == {"copy": [1.0, 0.5], "recall": [1.0, 1.0]}
    assert [one["probability"]["value"] for one in stored["improvements"]] == [15 / 16, 1.0, 5 / 8]
    names = latex.write(runs, tmp_path)
    assert names[-1] == "tables/across-tasks.tex"
    table = (tmp_path / names[-1]).read_text()
    assert r"lstm & 4 & 1.00 [0.75, 1.00] & 75 \% & 75 \% & 0.94 [0.75, 1.00]" in table
    for form in (text, printed, table):
        assert "With 2 seeds of a task they are too narrow" in " ".join(form.split())
    tables.write(runs, tmp_path)
    rows = list(csv.DictReader((tmp_path / "improved.csv").read_text().splitlines()))
    assert [(row["a"], row["b"], row["value"]) for row in rows] == [
        ("lstm", "rnn", "0.9375"),
        ("lstm", "lem", "1.0"),
        ("rnn", "lem", "0.625"),
    ]


@pytest.mark.usefixtures("unrendered")
def test_a_report_of_one_task_has_none_of_it(tmp_path: Path) -> None:
    """Nor what an earlier report left in its folder."""
    tables.write(collected(TWO_TASKS), tmp_path)
    assert {f"{name}.csv" for name in tables.ACROSS} <= {path.name for path in tmp_path.iterdir()}
    runs = collected({label: {"copy": tasks["copy"]} for label, tasks in TWO_TASKS.items()})
    tables.write(runs, tmp_path)
    assert {path.stem for path in tmp_path.glob("*.*")} == set(tables.NAMES)
    assert "Across tasks" not in page.write(runs, tmp_path).read_text()
    assert latex.write(runs, tmp_path) == ["tables/copy-scores.tex", "tables/copy-gradient.tex"]
    assert reporting.numbers(runs, None, None)["across"] is None
