"""Runs collected for a report: read from their files, grouped by the settings in which they differ."""

import json
from math import inf, isnan
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from made_up import CONFIG, run_directory
from seqmem.metrics import ACCURACY
from seqmem.report.collect import collect
from seqmem.runs.directory import RunDirectory
from seqmem.runs.files import RunError, write_json


def test_everything_is_read(tmp_path: Path) -> None:
    path = run_directory(
        tmp_path / "a", 0.75, changes={"seed": 3}, solved_after=400, by_length={10: 0.75, 5: 1.0}, half_lives=(2.5, inf)
    )
    lines = [
        {"seq_len": 40, "score": 0.3, "loss": 1, "sequences": 10},
        {"seq_len": 5, "score": "nan", "loss": 1, "sequences": 10},
    ]
    (path / "evaluations.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    collection = collect([tmp_path])
    (run,) = collection.runs
    assert (run.path, run.task, run.cell, run.variant, run.label) == (path, "pronoun", "lstm", "", "lstm")
    assert (run.seq_len, run.seed, run.steps, run.score, run.loss) == (10, 3, 1000, 0.75, 0.1)
    assert (run.chance, run.metric, run.solved_at) == (0.25, ACCURACY, 0.99)
    assert (run.solved, run.steps_to_solve, run.hidden_size, run.parameters) == (False, 400, 8, 100)
    assert list(run.by_length) == [5, 10, 40]
    assert isnan(run.by_length[5])  # the later number of `seqmem eval`
    assert run.number("gradient", "half_life", "start") == 2.5
    assert run.number("gradient", "half_life", "end") == inf
    assert run.config == CONFIG | {"seed": 3}
    assert run.environment["torch"] == "2.13"
    assert (collection.unfinished, collection.left_out) == ([], [])


def test_settings_by_which_runs_differ_make_variants(tmp_path: Path) -> None:
    settings: list[dict[str, Any]] = [
        {"cell.forget_bias": 1, "optimizer.lr": 0.01},
        {"cell.forget_bias": 10, "optimizer.lr": 0.01},
        {"cell.forget_bias": 2, "optimizer.lr": 0.001, "threads": 7, "outputs": "elsewhere", "evaluate.every": 7},
        {"cell.name": "gru", "task.lengths": "uniform"},
        {"cell.name": "gru", "seed": 1},
    ]
    for i, changes in enumerate(settings):
        run_directory(tmp_path / str(i), changes=changes)
    labels = [group.label for group in collect([tmp_path]).groups]
    assert labels == [
        "gru lengths=fixed",
        "gru lengths=uniform",
        "lstm forget_bias=1 lr=0.01",
        "lstm forget_bias=2 lr=0.001",
        "lstm forget_bias=10 lr=0.01",  # 10 after 2
    ]


def test_a_setting_that_follows_the_length_makes_no_variant(tmp_path: Path) -> None:
    for length in (10, 20):
        run_directory(tmp_path / f"{length}", changes={"seq_len": length, "steps": 100 * length})
    (group,) = collect([tmp_path]).groups
    assert group.label == "lstm"
    assert group.lengths == [10, 20]
    run_directory(tmp_path / "more", changes={"seq_len": 20, "steps": 50})
    assert [group.label for group in collect([tmp_path]).groups] == [
        "lstm steps=50",
        "lstm steps=1000",
        "lstm steps=2000",
    ]


def test_tasks_with_other_settings_are_other_tasks(tmp_path: Path) -> None:
    run_directory(tmp_path / "a", changes={"task.people": 4}, chance=0.5)
    run_directory(tmp_path / "b")
    collection = collect([tmp_path])
    assert collection.tasks == ["pronoun people=4", "pronoun people=8"]
    assert [run.chance for run in collection.only("pronoun people=4").runs] == [0.5]
    assert len(collection.only("pronoun").runs) == 2
    assert collection.only("adding").runs == []


def test_the_same_training_counts_once(tmp_path: Path) -> None:
    run_directory(tmp_path / "a", 0.9)
    run_directory(tmp_path / "b", 0.8, changes={"device": "cpu", "evaluate.every": 10}, by_length={10: 0.8, 20: 0.5})
    old = run_directory(tmp_path / "c", 0.9)
    settings = json.loads((old / "config.json").read_text())
    del settings["tbptt"], settings["train"], settings["precision"], settings["compile"]
    write_json(old / "config.json", settings)  # as a version without these settings wrote it
    collection = collect([tmp_path, tmp_path / "a", tmp_path / "b" / ".."])
    assert [run.path for run in collection.runs] == [tmp_path / "b"]  # tested at more lengths
    assert [one.path for one in collection.left_out] == [tmp_path / "a", tmp_path / "c"]
    assert f"the same training as {tmp_path / 'b'}" in collection.left_out[0].reason
    assert "another score (0.9 there, 0.8 here)" in collection.left_out[0].reason


def test_folders_that_cannot_be_used_are_named_and_left_out(tmp_path: Path) -> None:
    good = run_directory(tmp_path / "good")
    broken: dict[str, str] = {}

    def damaged(name: str, file: str, text: str, reason: str) -> None:
        (run_directory(tmp_path / name, changes={"seed": len(broken) + 1}) / file).write_text(text)
        broken[name] = reason

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
    collection = collect([tmp_path])
    assert [run.path for run in collection.runs] == [good]
    reasons = {one.path.name: one.reason for one in collection.left_out}
    assert reasons.keys() == broken.keys()
    for name, reason in broken.items():
        assert reason in reasons[name]
        assert "\n" not in reasons[name]
    assert "two runs" in reasons["older"] or "chance" in reasons["older"]


def test_files_of_two_runs_are_an_error(tmp_path: Path) -> None:
    write_json(run_directory(tmp_path / "a") / "config.json", CONFIG | {"seq_len": 20})
    with pytest.raises(RunError, match=r"no runs below .*are of two runs: seq_len is 20 and 10"):
        collect([tmp_path])


def test_unfinished_runs_are_listed_apart(tmp_path: Path) -> None:
    RunDirectory(run_directory(tmp_path / "a", None)).set_status("failed", step=30, error="RuntimeError: no luck")
    run_directory(tmp_path / "b", None, changes={"seed": 1})
    collection = collect([tmp_path])
    assert collection.runs == []
    assert [(one.state, one.step, one.error) for one in collection.unfinished] == [
        ("failed", 30, "RuntimeError: no luck"),
        ("not started", 0, None),
    ]


def test_no_runs_are_an_error(tmp_path: Path) -> None:
    with pytest.raises(RunError, match="no runs below"):
        collect([tmp_path])


def test_profiles_are_means_over_sequences_by_distance(tmp_path: Path) -> None:
    path = run_directory(tmp_path / "a")
    rng = np.random.default_rng(0)
    answered = np.array([3, 5])
    norms = {name: rng.random((5, 6, 2)) for name in ("hidden", "cell", "input")}
    norms["hidden"][1], norms["cell"][1] = 0.0, 0.0
    steps = np.array([0, 40, 51, 90, 100])
    stored: dict[str, Any] = {f"norm/{name}": values for name, values in norms.items()}
    np.savez(path / "gradients.npz", step=steps, answered_at=answered, **stored)
    (run,) = collect([tmp_path]).runs
    profiles = run.profiles()
    assert profiles is not None
    assert profiles.step.tolist() == steps.tolist()
    assert profiles.log10.shape == (5, 6)
    for back in range(6):
        rows = [(b, answered[b] - back) for b in range(2) if answered[b] >= back]
        means = [
            np.mean([np.sqrt(norms["hidden"][n, t, b] ** 2 + norms["cell"][n, t, b] ** 2) for b, t in rows])
            for n in (0, 2, 3, 4)
        ]
        assert profiles.log10[[0, 2, 3, 4], back] == pytest.approx(np.log10(means))
    assert np.isneginf(profiles.log10[1]).all()
    assert profiles.relative.shape == (5, 5)  # from one step back on
    assert profiles.relative[0] == pytest.approx(profiles.log10[0, 1:] - profiles.log10[0, 1])
    assert np.isneginf(profiles.relative[1]).all()
    ends = run.profiles(ends=True)
    assert ends is not None
    assert ends.step.tolist() == [0, 51, 100]
    (path / "gradients.npz").write_bytes(b"PK")
    with pytest.raises(RunError, match=r"gradients\.npz cannot be read"):
        run.profiles()


def test_a_run_without_a_trace(tmp_path: Path) -> None:
    run_directory(tmp_path / "a", gradient={})
    (run,) = collect([tmp_path]).runs
    assert run.profiles() is None
    assert isnan(run.number("gradient", "half_life", "end"))
