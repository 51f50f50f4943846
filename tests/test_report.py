"""``seqmem report``: reading runs, what is said over seeds, tables, and the summary in the terminal."""

import csv
import json
from collections.abc import Mapping, Sequence
from math import inf, isnan, nan
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
import scipy.stats

from seqmem.cli.main import main
from seqmem.cli.verbs import report as reporting
from seqmem.report import statistics, tables
from seqmem.report.collect import Collection, Group, Run, collect
from seqmem.runs.directory import RunDirectory, RunError, plain_json, write_json

CONFIG: dict[str, Any] = {
    "cell": {"name": "lstm", "hidden_size": 8, "layers": 1, "params": None, "forget_bias": "chrono", "init": "torch"},
    "task": {"name": "pronoun", "usual_seq_len": 50, "lengths": "fixed", "shortest": None, "people": 8},
    "optimizer": {"name": "adam", "lr": 0.003, "weight_decay": 0.0},
    "seq_len": 10, "seed": 0, "steps": 1000, "batch_size": 64, "embed_size": 32, "clip_norm": 1.0, "tbptt": None,
    "dtype": "float32", "precision": "float32", "compile": False, "train": {"checkpoint_every_t": None},
    "on_nan": "stop", "log_every": 10,
    "evaluate": {"every": 50, "sequences": 1000, "lengths": None},
    "trace": {"every": 100, "sequences": 32, "loss": "last"},
    "device": "auto", "kernel": "auto", "threads": 1, "deterministic": False, "checkpoint_every": 100,
    "outputs": "outputs", "force": False, "quiet": False,
}  # fmt: skip


def put(path: Path, value: Mapping[str, Any]) -> None:
    """As ``write_json``, which waits for the disk."""
    path.write_text(json.dumps(plain_json(value)))


def run_at(
    folder: Path,
    score: float | None = 1.0,
    *,
    changes: Mapping[str, Any] | None = None,
    solved_after: int | None = None,
    by_length: Mapping[int, float] | None = None,
    half_lives: tuple[float, float] = (5.0, 50.0),
    **facts: Any,
) -> Path:
    """A run's directory by hand; ``changes``: settings by their whole names; no score: not finished."""
    settings = json.loads(json.dumps(CONFIG))
    for key, value in (changes or {}).items():
        place = settings
        *path, last = key.split(".")
        for part in path:
            place = place[part]
        place[last] = value
    folder.mkdir(parents=True)
    put(folder / "config.json", settings)
    put(folder / "environment.json", {"seqmem": "0.1.0", "torch": "2.13", "command": ["seqmem", "train"]})
    if score is None:
        return folder
    tested = {settings["seq_len"]: score} if by_length is None else by_length
    result = {
        "task": settings["task"]["name"], "cell": settings["cell"]["name"], "seq_len": settings["seq_len"],
        "seed": settings["seed"], "hidden_size": 8, "layers": 1, "parameters": 100, "steps": settings["steps"],
        "device": "cpu", "baseline_loss": 1.4, "metric": "accuracy", "higher_is_better": True, "score": score,
        "chance": 0.25, "loss": 0.1, "solved_at": 0.99, "solved": score >= 0.99, "steps_to_solve": solved_after,
        "by_length": [{"seq_len": k, "score": v, "loss": 0.1, "sequences": 1000} for k, v in tested.items()],
        "gradient": {
            when: {"state": {"half_life": value, "horizon": inf, "r2": 1.0}}
            for when, value in zip(("start", "end"), half_lives, strict=True)
        },
        "seconds": 1.5, "versions": {"seqmem": "0.1.0"},
    }  # fmt: skip
    put(folder / "result.json", {**result, **facts})
    return folder


def sweep(folder: Path, scores: Mapping[str, Mapping[int, Sequence[float]]], **facts: Any) -> Path:
    """cell -> trained length -> a score for each seed."""
    for cell, by_length in scores.items():
        for length, seeds in by_length.items():
            for seed, score in enumerate(seeds):
                changes = {"cell.name": cell, "seq_len": length, "seed": seed}
                run_at(folder / cell / f"len{length}-seed{seed}", score, changes=changes, **facts)
    return folder


def group_of(folder: Path, label: str) -> Group:
    (found,) = (group for group in collect([folder]).groups if group.label == label)
    return found


# Reading


def test_everything_is_read(tmp_path: Path) -> None:
    path = run_at(
        tmp_path / "a", 0.75, changes={"seed": 3}, solved_after=400, by_length={10: 0.75, 5: 1.0}, half_lives=(2.5, inf)
    )
    lines = [{"seq_len": 40, "score": 0.3, "loss": 1, "sequences": 10}, {"seq_len": 5, "score": "nan"}]
    (path / "evaluations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    found = collect([tmp_path])
    (run,) = found.runs
    assert (run.path, run.task, run.cell, run.variant, run.label) == (path, "pronoun", "lstm", "", "lstm")
    assert (run.seq_len, run.seed, run.steps, run.score, run.loss) == (10, 3, 1000, 0.75, 0.1)
    assert (run.chance, run.metric, run.higher_is_better, run.solved_at) == (0.25, "accuracy", True, 0.99)
    assert (run.solved, run.steps_to_solve, run.hidden_size, run.parameters) == (False, 400, 8, 100)
    assert list(run.by_length) == [5, 10, 40]
    assert isnan(run.by_length[5])  # what `seqmem eval` said later
    assert run.decays["start"]["state"]["half_life"] == 2.5
    assert run.decays["end"]["state"]["half_life"] == inf
    assert run.config == CONFIG | {"seed": 3}
    assert run.environment["torch"] == "2.13"
    assert (found.unfinished, found.left_out) == ([], [])


def test_settings_by_which_runs_differ_make_variants(tmp_path: Path) -> None:
    settings: list[dict[str, Any]] = [
        {"cell.forget_bias": 1, "optimizer.lr": 0.01},
        {"cell.forget_bias": 10, "optimizer.lr": 0.01},
        {"cell.forget_bias": 2, "optimizer.lr": 0.001, "threads": 7, "outputs": "elsewhere", "evaluate.every": 7},
        {"cell.name": "gru", "task.lengths": "uniform"},
        {"cell.name": "gru", "seed": 1},
    ]
    for i, changes in enumerate(settings):
        run_at(tmp_path / str(i), changes=changes)
    labels = [group.label for group in collect([tmp_path]).groups]
    assert labels == [
        "gru lengths=fixed",
        "gru lengths=uniform",
        "lstm forget_bias=1 lr=0.01",
        "lstm forget_bias=2 lr=0.001",
        "lstm forget_bias=10 lr=0.01",  # 10 after 2
    ]


def test_what_depends_on_the_length_alone_makes_no_variant(tmp_path: Path) -> None:
    for length in (10, 20):
        run_at(tmp_path / f"{length}", changes={"seq_len": length, "steps": 100 * length})
    (group,) = collect([tmp_path]).groups
    assert group.label == "lstm"
    assert group.lengths == [10, 20]
    run_at(tmp_path / "more", changes={"seq_len": 20, "steps": 50})
    assert [group.label for group in collect([tmp_path]).groups] == [
        "lstm steps=50",
        "lstm steps=1000",
        "lstm steps=2000",
    ]


def test_tasks_that_ask_otherwise_are_other_tasks(tmp_path: Path) -> None:
    run_at(tmp_path / "a", changes={"task.people": 4}, chance=0.5)
    run_at(tmp_path / "b")
    found = collect([tmp_path])
    assert found.tasks == ["pronoun people=4", "pronoun people=8"]
    assert [run.chance for run in found.only("pronoun people=4").runs] == [0.5]
    assert len(found.only("pronoun").runs) == 2
    assert found.only("adding").runs == []


def test_the_same_training_counts_once(tmp_path: Path) -> None:
    run_at(tmp_path / "a", 0.9)
    run_at(tmp_path / "b", 0.8, changes={"device": "cpu", "evaluate.every": 10}, by_length={10: 0.8, 20: 0.5})
    old = run_at(tmp_path / "c", 0.9)
    settings = json.loads((old / "config.json").read_text())
    del settings["tbptt"], settings["train"], settings["precision"], settings["compile"]
    write_json(old / "config.json", settings)  # of a seqmem that had none of these
    found = collect([tmp_path, tmp_path / "a", tmp_path / "b" / ".."])
    assert [run.path for run in found.runs] == [tmp_path / "b"]  # tested at more lengths
    assert [one.path for one in found.left_out] == [tmp_path / "a", tmp_path / "c"]
    assert f"the same training as {tmp_path / 'b'}" in found.left_out[0].reason
    assert "another score (0.9 there, 0.8 here)" in found.left_out[0].reason


def test_what_cannot_be_used_is_named_and_left_out(tmp_path: Path) -> None:
    good = run_at(tmp_path / "good")
    broken: dict[str, str] = {}

    def damaged(name: str, file: str, text: str, said: str) -> None:
        (run_at(tmp_path / name, changes={"seed": len(broken) + 1}) / file).write_text(text)
        broken[name] = said

    whole = json.loads((good / "result.json").read_text())
    damaged("half", "result.json", json.dumps(whole)[:100], "result.json cannot be read")
    damaged("empty", "config.json", "", "config.json cannot be read")
    damaged("list", "config.json", "[1]", "not what seqmem writes")
    damaged("foreign", "config.json", '{"model_type": "bert"}', "it has no 'task'")
    damaged("older", "result.json", json.dumps({k: v for k, v in whole.items() if k != "chance"}), "")
    damaged("words", "config.json", json.dumps(CONFIG | {"seq_len": "ten"}), "seq_len is 'ten', no whole number")
    damaged("binary", "config.json", "", "cannot be read")
    (tmp_path / "binary" / "config.json").write_bytes(b"\xff\x00{")
    damaged("lengths", "evaluations.jsonl", '{"seq_len": 1}\n', "it has no 'score'")
    damaged("deep", "config.json", "[" * 100_000, "")
    (tmp_path / "result only").mkdir()
    write_json(tmp_path / "result only" / "result.json", whole)
    broken["result only"] = "it has no config.json"
    found = collect([tmp_path])
    assert [run.path for run in found.runs] == [good]
    reasons = {one.path.name: one.reason for one in found.left_out}
    assert reasons.keys() == broken.keys()
    for name, said in broken.items():
        assert said in reasons[name]
        assert "\n" not in reasons[name]
    assert "two runs" in reasons["older"] or "chance" in reasons["older"]


def test_files_of_two_runs_are_no_run(tmp_path: Path) -> None:
    write_json(run_at(tmp_path / "a") / "config.json", CONFIG | {"seq_len": 20})
    with pytest.raises(RunError, match=r"no runs below .*are of two runs: seq_len is 20 and 10"):
        collect([tmp_path])


def test_unfinished_runs_are_kept_apart(tmp_path: Path) -> None:
    RunDirectory(run_at(tmp_path / "a", None)).set_status("failed", step=30, error="RuntimeError: no luck")
    run_at(tmp_path / "b", None)
    found = collect([tmp_path])
    assert found.runs == []
    assert [(one.state, one.step, one.error) for one in found.unfinished] == [
        ("failed", 30, "RuntimeError: no luck"),
        ("not started", 0, None),
    ]


def test_no_runs_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no runs below"):
        collect([tmp_path])


def test_profiles_are_means_over_sequences_by_distance(tmp_path: Path) -> None:
    path = run_at(tmp_path / "a")
    rng = np.random.default_rng(0)
    answered = np.array([3, 5])
    norms = {name: rng.random((5, 6, 2)) for name in ("hidden", "cell", "input")}
    norms["hidden"][1], norms["cell"][1] = 0.0, 0.0
    steps = np.array([0, 40, 51, 90, 100])
    stored: dict[str, Any] = {f"norm/{name}": values for name, values in norms.items()}
    np.savez(path / "gradients.npz", step=steps, answered_at=answered, **stored)
    (run,) = collect([tmp_path]).runs
    found = run.profiles()
    assert found is not None
    assert found.step.tolist() == steps.tolist()
    assert found.log10.shape == (5, 6)
    for back in range(6):  # the long way
        rows = [(b, answered[b] - back) for b in range(2) if answered[b] >= back]
        means = [
            np.mean([np.sqrt(norms["hidden"][n, t, b] ** 2 + norms["cell"][n, t, b] ** 2) for b, t in rows])
            for n in (0, 2, 3, 4)
        ]
        assert found.log10[[0, 2, 3, 4], back] == pytest.approx(np.log10(means))
    assert np.isneginf(found.log10[1]).all()
    assert found.relative[0] == pytest.approx(found.log10[0] - found.log10[0, 0])
    assert np.isneginf(found.relative[1]).all()
    ends = run.profiles(ends=True)
    assert ends is not None
    assert ends.step.tolist() == [0, 51, 100]
    (path / "gradients.npz").write_bytes(b"PK")
    with pytest.raises(RunError, match=r"gradients\.npz cannot be read"):
        run.profiles()


# Statistics


@pytest.mark.parametrize("n", [1, 2, 3, 4, 5, 6, 7, 10, 19, 20, 41])
def test_the_interval_is_that_of_many_resamples(n: int) -> None:
    values = np.random.default_rng(n).normal(size=n)
    found = statistics.median_interval(values)
    drawn = np.median(np.random.default_rng(1).choice(values, (20_000, n)), axis=1)
    assert found.median == pytest.approx(np.median(values), abs=1e-15)
    assert found.n == n
    # The interval's ends cut off 2.5 % of the resamples: at most outside, at least from the ends on.
    slack = 0.005
    assert (drawn < found.low - 1e-12).mean() <= 0.025 + slack
    assert (drawn <= found.low + 1e-12).mean() >= 0.025 - slack
    assert (drawn > found.high + 1e-12).mean() <= 0.025 + slack
    assert (drawn >= found.high - 1e-12).mean() >= 0.025 - slack
    mirrored = statistics.median_interval(-values)
    assert (mirrored.low, mirrored.high) == pytest.approx((-found.high, -found.low))


@pytest.mark.parametrize("n", [3, 5, 21, 1001])
def test_an_odd_median_resamples_as_binomials_say(n: int) -> None:
    """P(median of a resample is at most the k-th smallest) = P(Binomial(n, k/n) >= (n+1)/2)."""
    found = statistics.median_interval(np.arange(1.0, n + 1))
    at_most = scipy.stats.binom.sf((n + 1) // 2 - 1, n, np.arange(1, n + 1) / n)
    assert found.low == np.argmax(at_most >= 0.025) + 1
    assert found.high == n + 1 - found.low


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


def test_memory_span(tmp_path: Path) -> None:
    good, bad = [1.0, 1.0, 0.99], [1.0, 0.3, nan]
    sweep(
        tmp_path,
        {
            "all": {10: good, 20: good},
            "some": {10: good, 20: [1.0, 0.2], 40: bad},
            "none": {10: bad, 20: bad},
            "gap": {5: good, 10: bad, 20: good},
        },
    )
    spans = {group.label: statistics.memory_span(group) for group in collect([tmp_path]).groups}
    assert {label: str(span) for label, span in spans.items()} == {
        "all": ">= 20",
        "some": "20",  # one of two seeds is half
        "none": "< 10",
        "gap": "5",
    }
    assert spans["gap"].beyond == (20,)
    assert spans["some"].failed == 40
    assert {length: str(count) for length, count in spans["some"].counts.items()} == {10: "3/3", 20: "1/2", 40: "1/3"}
    # An easier rule on request.
    assert str(statistics.memory_span(group_of(tmp_path, "some"), 0.25)) == ">= 40"


def test_tasks_with_rules_of_their_own(tmp_path: Path) -> None:
    errors = {"metric": "mean squared error", "higher_is_better": False, "chance": 1 / 6}
    low = sweep(tmp_path / "low", {"lstm": {10: [0.004, 0.004, 0.006]}}, solved_at=0.005, **errors)
    assert str(statistics.memory_span(group_of(low, "lstm"))) == ">= 10"
    assert statistics.solved_count(group_of(low, "lstm").at(10), 0.99).k == 2  # an accuracy says nothing of errors
    assert (
        str(statistics.memory_span(group_of(sweep(tmp_path / "x", {"a": {10: [0.1]}}, solved_at=None, **errors), "a")))
        == "?"
    )
    plain = sweep(tmp_path / "plain", {"lstm": {10: [0.98, 0.995]}}, solved_at=None)
    assert str(statistics.solved_count(group_of(plain, "lstm").at(10))) == "1/2"  # at 99 %
    assert (
        statistics.score_interval(group_of(sweep(tmp_path / "nan", {"a": {9: [nan, 0.4]}}, **errors), "a").at(9)).high
        == inf
    )


def test_how_far_what_was_learned_reaches(tmp_path: Path) -> None:
    for seed, reach in enumerate((40, 40, 20)):
        tested = {length: 1.0 if length <= reach else 0.3 for length in (5, 10, 20, 40, 80)}
        run_at(tmp_path / str(seed), changes={"seed": seed}, by_length={**tested, 5: 0.2, 100 + seed: 1.0})
    group = group_of(tmp_path, "lstm")
    assert group.tested_lengths(10) == [5, 10, 20, 40, 80]  # where all of them were tested
    span = statistics.span_tested(group, 10)
    assert (str(span), list(span.counts)) == ("40", [10, 20, 40, 80])  # from the trained length on
    assert str(statistics.span_tested(group, 99)) == "?"


def test_steps_to_solve_are_censored(tmp_path: Path) -> None:
    for seed, steps in enumerate((100, 200, 300, None, None)):
        run_at(tmp_path / str(seed), changes={"seed": seed}, solved_after=steps)
    runs = group_of(tmp_path, "lstm").at(10)
    found = statistics.steps_to_solve(runs)
    assert (str(found.solved), found.steps.median, found.steps.high, found.budget) == ("3/5", 300, inf, (1000, 1000))
    assert str(found) == "300"
    assert str(statistics.steps_to_solve(runs[2:])) == "> 1000"
    assert statistics.steps_to_solve(runs[:2]).budget is None
    assert statistics.decay_interval(runs, "end").median == 50.0
    assert statistics.decay_interval(runs, "end", "horizon").median == inf
    assert statistics.decay_interval(runs, "middle").n == 0


def test_two_groups_of_seeds(tmp_path: Path) -> None:
    """The published finding: 12 of 20 at 99 % or more, 5 below 70 %, at chance 1/6."""
    both = [1.0] * 10 + [0.995, 0.99] + [0.9, 0.8, 0.95] + [0.2, 0.3, 0.5, 0.6, 0.69]
    spread = np.linspace(1 / 6, 1.0, 20).tolist()
    facts = {"chance": 1 / 6}
    sweep(
        tmp_path,
        {"both": {10: both}, "spread": {10: spread}, "all": {10: [1.0] * 20}, "odd": {10: [1, 1, 0.2]}},
        **facts,
    )
    found = statistics.bimodality(group_of(tmp_path, "both").at(10))
    assert found is not None
    assert (found.high, found.low, found.n) == (12, 5, 20)
    assert str(found) == "12 of 20 seeds reach 99.0 %, 5 of 20 stay below 71.6 %"
    for label in ("spread", "all", "odd"):
        assert statistics.bimodality(group_of(tmp_path, label).at(10)) is None
    told = statistics.two_groups(collect([tmp_path]))
    assert [(one.group.label, one.seq_len, one.at) for one in told] == [("both", 10, 10)]


def test_comparisons_are_paired_and_must_be_earned(tmp_path: Path) -> None:
    seeds = np.random.default_rng(0).random(8)
    a, b = (0.7 + 0.3 * seeds).tolist(), (0.5 * seeds + 0.2).tolist()
    b[7] = a[7]
    sweep(tmp_path, {"a": {10: a, 20: a}, "b": {10: b, 20: b[:3]}, "c": {20: [*a[:5], nan, *a[6:]]}})
    pair = statistics.comparison(group_of(tmp_path, "a"), group_of(tmp_path, "b"), 10)
    assert (pair.wins, pair.ties, pair.losses) == (7, 1, 0)
    assert pair.difference.median == pytest.approx(np.median(np.subtract(a, b)))
    assert pair.p == pytest.approx(scipy.stats.binomtest(7, 7).pvalue)
    assert pair.shown
    assert pair.verdict == "a is better than b with 7 of 8 seeds (sign test, p = 0.016)."
    turned = statistics.comparison(group_of(tmp_path, "b"), group_of(tmp_path, "a"), 10)
    assert (turned.wins, turned.losses, turned.p) == (0, 7, pair.p)
    assert turned.difference.median == -pair.difference.median
    few = statistics.comparison(group_of(tmp_path, "a"), group_of(tmp_path, "b"), 20)
    assert not few.earned
    assert few.verdict == "3 common seeds cannot show a difference at the 5 % level; it takes 6."
    crashed = statistics.comparison(group_of(tmp_path, "a"), group_of(tmp_path, "c"), 20)
    assert (crashed.wins, crashed.ties, crashed.losses) == (1, 7, 0)
    assert crashed.differences[5] == inf
    assert "No difference is shown" in crashed.verdict
    errors = {"metric": "mean squared error", "higher_is_better": False, "solved_at": 0.005}
    low = sweep(tmp_path / "low", {"good": {10: [0.01] * 6}, "poor": {10: [0.1] * 6}}, **errors)
    pair = statistics.comparison(group_of(low, "good"), group_of(low, "poor"), 10)
    assert pair.wins == 6
    assert pair.difference.median == pytest.approx(0.09)  # positive is better for the first


def test_many_comparisons_are_corrected(tmp_path: Path) -> None:
    """Holm by hand: 6 of 6 (p = 1/32) is something alone, and nothing among six pairs."""
    scores = {cell: {10: [0.1 * i + 0.001 * seed for seed in range(6)]} for i, cell in enumerate("abcd", 3)}
    found = statistics.comparisons(collect([sweep(tmp_path, scores)]))
    assert len(found) == 6
    assert {pair.p for pair in found} == {1 / 32}
    assert {pair.adjusted for pair in found} == {6 / 32}
    assert not any(pair.shown for pair in found)


def test_where_a_comparison_says_most(tmp_path: Path) -> None:
    good, bad = [1.0] * 3, [0.25] * 3
    sweep(tmp_path, {"a": {10: good, 20: good, 40: bad, 80: [1.0]}, "b": {10: good, 20: bad, 40: bad, 80: [1.0]}})
    a, b = group_of(tmp_path, "a"), group_of(tmp_path, "b")
    assert statistics.telling_length(a, b) == statistics.telling_length(b, a) == 20


# Tables


def test_tables_hold_what_was_read(tmp_path: Path) -> None:
    runs = sweep(tmp_path / "runs", {"lstm": {10: [1.0, 0.5, nan], 20: [0.3]}, '=x,"y': {10: [1.0]}})
    found = collect([runs])
    paths = tables.write(found, tmp_path / "out", threshold=0.4)
    assert {path.name for path in paths} == {f"{name}.{end}" for name in tables.NAMES for end in ("csv", "parquet")}
    assert {path.name for path in (tmp_path / "out").iterdir()} == {path.name for path in paths}
    table = pl.read_parquet(tmp_path / "out" / "runs.parquet")
    assert table.height == 5
    for row, run in zip(table.to_dicts(), found.runs, strict=True):
        assert (row["label"], row["seq_len"], row["seed"], row["path"]) == (
            run.label,
            run.seq_len,
            run.seed,
            str(run.path),
        )
        assert row["score"] == run.score or (isnan(row["score"]) and isnan(run.score))
        assert row["solved"] == (run.score >= 0.4)
        assert (row["half_life_start"], row["horizon_end"], row["solved_at"]) == (5.0, inf, 0.4)
    with (tmp_path / "out" / "groups.csv").open(newline="") as file:
        rows = {(row["label"], row["seq_len"]): row for row in csv.DictReader(file)}
    assert rows.keys() == {("lstm", "10"), ("lstm", "20"), ('=x,"y', "10")}
    row = rows["lstm", "10"]
    assert (row["seeds"], row["score"], row["solved"], row["memory_span"]) == ("3", "0.5", "2", "10")
    assert (float(row["score_low"]), row["score_max"], row["steps_to_solve"]) == (-inf, "1.0", "inf")
    assert pl.read_parquet(tmp_path / "out" / "tested.parquet").height == 5
    assert all(table.height == 0 for table in tables.tables(Collection([], [])).values())


# The command line


@pytest.fixture
def typed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> Any:
    """``seqmem report ARGS`` in this process; the page is another test's."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("HYDRA_FULL_ERROR", raising=False)

    def write(collection: Collection, folder: Path, *, threshold: float | None = None) -> Path:
        return folder / "index.html"

    monkeypatch.setattr("seqmem.report.page.write", write)

    def type_in(*args: str, width: int = 80) -> tuple[int, str, str]:
        monkeypatch.setenv("COLUMNS", str(width))
        monkeypatch.setattr("sys.argv", ["seqmem", "report", *args])
        try:
            code = main()
        except SystemExit as stopped:
            code = int(str(stopped.code))
        said = capsys.readouterr()
        return code, said.out, said.err

    return type_in


def example(folder: Path) -> Path:
    sweep(
        folder,
        {
            "rnn": {10: [1.0] * 7, 50: [0.25, 0.26, 0.24, 0.25, 0.25, 0.24, 0.26]},
            "lstm": {10: [1.0] * 7, 50: [1.0, 0.999, 1.0, 1.0, 1.0, 0.998, 1.0]},
        },
    )
    RunDirectory(run_at(folder / "f", None)).set_status("failed", step=30, error="Diverged: the loss became nan")
    (folder / "half").mkdir()
    (folder / "half" / "config.json").write_text("{")
    return folder


@pytest.mark.parametrize("width", [80, 200])
def test_the_summary(typed: Any, tmp_path: Path, width: int) -> None:
    before = {path: path.read_bytes() for path in example(tmp_path / "outputs").rglob("*") if path.is_file()}
    code, out, err = typed(width=width)
    assert (code, err) == (0, "")
    lines = out.splitlines()
    assert lines[0] == "runs: 28 finished, 1 unfinished, 1 left out"
    assert "  lstm    >= 50   10: 7/7  50: 7/7" in lines
    assert "  rnn        10   10: 7/7  50: 0/7" in lines
    assert "pronoun  accuracy, chance 25.0 %, solved at least 99.0 %" in lines
    (row,) = (line for line in lines if line.split()[1:3] == ["25.0", "%"])
    assert row.split() == "50 25.0 % 24.0-26.0 0/7 > 1000 5 to 50 < 50".split()  # the second and the sixth of seven
    (pair,) = (line for line in lines if line.startswith("lstm - rnn"))
    assert pair.split()[3:] == "50 +75.0 points [+74.0, +75.8] 7-0-0 0.016".split()  # likewise
    assert f"{Path('outputs/f')}: Diverged: the loss became nan" in out
    assert f"{Path('outputs/half')}: config.json cannot be read" in out
    assert lines[-1] == "report  outputs/report/index.html"
    assert max(len(line) for line in lines if "cannot be read" not in line) <= width
    after = {
        path: path.read_bytes()
        for path in (tmp_path / "outputs").rglob("*")
        if "report" not in path.parts and path.is_file()
    }
    assert after == before
    assert typed()[:2] == (code, typed()[1])  # over its own report, which is no run


def test_the_summary_for_programs(typed: Any, tmp_path: Path) -> None:
    code, out, _ = typed(str(example(tmp_path / "runs")), "--json", "--threshold", "0.2")
    found = json.loads(out)
    assert code == 0
    assert [group["memory_span_text"] for group in found["groups"]] == [">= 50", ">= 50"]
    assert found["groups"][1]["lengths"][1]["score"]["median"] == 0.25
    (pair,) = found["comparisons"]
    assert (pair["wins"], pair["seq_len"]) == (7, 50)
    assert found["unfinished"][0]["error"] == "Diverged: the loss became nan"
    assert found == plain_json(found)


def test_few_seeds_and_hard_names(typed: Any, tmp_path: Path) -> None:
    label = "[bold]a cell with a name that is much too long for any column[/]"
    folder = sweep(tmp_path / "runs", {label: {10: [1.0, 0.2]}, "b": {10: [0.3, 0.3]}})
    code, out, _ = typed(str(folder), "--out", str(tmp_path / "there"))
    assert code == 0
    assert label in out  # as it is, on a line of its own
    assert "2 common seeds cannot show a difference at the 5 % level; it takes 6" in " ".join(out.split())
    assert (tmp_path / "there" / "runs.csv").exists()
    assert not (folder / "report").exists()


@pytest.mark.parametrize(
    ("args", "said", "code"),
    [
        (["nowhere"], "nowhere is not a folder", 2),
        (["empty"], "no runs below empty", 1),
        (["runs", "--threshold", "99"], "--threshold 99: must be an accuracy", 2),
        (["runs", "--threshold", "nan"], "--threshold nan: must be an accuracy", 2),
        (["runs", "--threshold", "x"], "invalid float value: 'x'", 2),
        (["runs", "--task", "adding"], "--task adding: no finished run of it; there are pronoun", 2),
        (["runs/lstm/len10-seed0"], "is a single run: say where the report goes with --out", 2),
        (["runs", "--out", "runs/lstm/len10-seed0"], "a run is there", 2),
        (["runs", "--out", "file"], "it is a file", 2),
        (["runs", "--out", "file/deeper"], "cannot write to file/deeper", 1),
        (["runs", "--wat"], "unrecognized arguments: --wat", 2),
    ],
)
def test_mistakes_are_one_line(typed: Any, tmp_path: Path, args: list[str], said: str, code: int) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("")
    sweep(tmp_path / "runs", {"lstm": {10: [1.0]}})
    found, out, err = typed(*args)
    assert found == code
    assert out == ""
    assert err.startswith("seqmem report: ")
    assert said in err
    assert err.count("\n") == 1


def test_nothing_finished_is_a_report_all_the_same(typed: Any, tmp_path: Path) -> None:
    run_at(tmp_path / "runs" / "a", None)
    code, out, _ = typed("runs")
    assert code == 0
    assert out.startswith("runs: 0 finished, 1 unfinished\n")


def test_text_of_numbers() -> None:
    interval = statistics.median_interval
    assert reporting.interval_text("accuracy", interval([1.0])) == "one seed"
    assert reporting.interval_text("accuracy", interval([1.0, 0.5])) == "50.0-100.0"
    assert reporting.interval_text("mean squared error", interval([0.25, 0.5])) == "0.25 to 0.5"
    assert reporting.interval_text("accuracy", interval([])) == "-"


def test_a_run_without_a_trace(tmp_path: Path) -> None:
    run_at(tmp_path / "a", gradient={})
    (run,) = collect([tmp_path]).runs
    assert isinstance(run, Run)
    assert run.profiles() is None
    assert run.decays == {}
