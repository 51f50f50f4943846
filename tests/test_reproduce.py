"""``seqmem reproduce``: equal runs are reported as bitwise the same, and a single different bit is located."""

import json
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from typing import Any

import numpy as np
import pytest

import seqmem
from commandline import OWN_CELLS, TINY, Completed, assert_same_numbers, only_run
from seqmem.runs.compare import compare
from seqmem.runs.directory import RunDirectory

Typed = Callable[..., Completed]


def train(typed: Typed, *settings: str) -> Path:
    assert typed("train", *TINY, *settings, "quiet=true").code == 0
    return only_run(Path("outputs"))


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of an rnn."""
    return seqmem.train(*TINY, "cell=rnn", "device=cpu", "quiet=true", outputs=tmp_path_factory.mktemp("one")).path


def copy(run: Path, outputs: str) -> Path:
    """Copy a run to other outputs."""
    place = Path(outputs, *run.parts[-3:])
    copytree(run, place)
    return place


def reproduce(typed: Typed, run: Path, *args: str) -> tuple[int, dict[str, Any]]:
    completed = typed("reproduce", str(run), "--json", *args)
    assert completed.err == ""
    return completed.code, json.loads(completed.out)


def test_a_reproduction_has_the_same_numbers(typed: Typed) -> None:
    """Each reproduction, also of a run started with force=true, goes into a new directory and changes no other."""
    run = train(typed, "cell=lstm", "force=true")
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    completed = typed("reproduce", "lstm")
    assert (completed.code, completed.out.split("\n")[0]) == (0, "bitwise the same"), completed
    assert "step 6/6" in completed.err
    second = only_run(Path("outputs-reproduced/1"))
    assert second.relative_to("outputs-reproduced/1") == run.relative_to("outputs")
    assert_same_numbers(run, second)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    count = sum(len(row) - 2 for row in rows if row["kind"] != "trace")
    code, comparison = reproduce(typed, run)
    assert (code, comparison["same"], comparison["first"]) == (0, True, None)
    assert comparison["reproduction"].startswith("outputs-reproduced/2/")
    numbers = {file["file"]: file["numbers"] for file in comparison["files"]}
    assert numbers["metrics.jsonl"] > count
    with np.load(run / "gradients.npz") as archive:
        assert numbers["gradients.npz"] == sum(archive[name].size for name in archive.files)
    assert numbers["checkpoint.pt"] > 100
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_a_stopped_reproduction_is_resumed(typed: Typed, one: Path) -> None:
    run, second = copy(one, "outputs"), copy(one, "there")
    (second / "result.json").unlink()
    (second / "metrics.jsonl").write_bytes((second / "metrics.jsonl").read_bytes() + b"beyond its last checkpoint")
    completed = typed("reproduce", str(run), "--out", "there")
    assert completed.code == 0
    assert "step 0/" not in completed.err
    assert_same_numbers(run, second)
    code, comparison = reproduce(typed, run, "--out", "there")
    assert code == 0
    assert "is compared as it is" in comparison["notes"][0]


def change_a_metric(run: Path) -> None:
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    place = next(i for i, line in enumerate(lines) if json.loads(line)["kind"] == "train" and '"step": 4' in line)
    row = json.loads(lines[place])
    lines[place] = json.dumps(row | {"loss": float(np.nextafter(row["loss"], 9))}) + "\n"
    (run / "metrics.jsonl").write_text("".join(lines))


def change_a_trace(run: Path) -> None:
    with np.load(run / "gradients.npz") as archive:
        arrays = {name: archive[name].copy() for name in archive.files}
    arrays["norm/hidden"][1, 5, 1] *= 1.5
    np.savez(run / "gradients.npz", **arrays)  # pyright: ignore[reportArgumentType]


def change_the_result(run: Path) -> None:
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps(result | {"score": 0.5, "seconds": 99.0}))


def lose_a_line(run: Path) -> None:
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:-1]))


@pytest.mark.parametrize(
    ("change", "file", "step", "name"),
    [
        (change_a_metric, "metrics.jsonl", 4, "train.loss"),
        (change_a_trace, "gradients.npz", 4, "norm/hidden[5, 1]"),
        (change_the_result, "result.json", None, "score"),
        (lose_a_line, "metrics.jsonl", 6, "lines"),
    ],
)
def test_the_first_difference_is_located(
    typed: Typed, one: Path, change: Callable[[Path], None], file: str, step: int | None, name: str
) -> None:
    run, second = copy(one, "outputs"), copy(one, "second")
    change(second)
    facts = json.loads((second / "environment.json").read_text())
    (second / "environment.json").write_text(json.dumps(facts | {"torch": "9.9"}))
    code, comparison = reproduce(typed, run, "--out", "second")
    first = comparison["first"]
    assert (code, comparison["same"]) == (1, False)
    assert (first["file"], first["step"], first["name"]) == (file, step, name)
    assert [(each["file"], each["differ"]) for each in comparison["files"] if each["differ"]] == [(file, 1)]
    if change is change_a_metric:  # the smallest possible difference
        assert first["now"] == np.nextafter(first["was"], 9)
        assert 0 < first["relatively"] < 3e-16
    if change is change_a_trace:
        assert first["apart"] == pytest.approx(0.5 * first["was"])
        assert first["relatively"] == pytest.approx(1 / 3)
    assert comparison["environment"] == {"torch": [facts["torch"], "9.9"]}
    completed = typed("reproduce", str(run), "--out", "second")
    assert completed.code == 1
    assert "not the same" in completed.out
    assert f"{file}, {name}: " in completed.out
    assert f"torch            {facts['torch']}, 9.9" in completed.out


def test_another_kernel_is_named_and_stays_close(typed: Typed, one: Path) -> None:
    """The same formula in another order of operations may give other bits."""
    run = copy(one, "outputs")
    code, comparison = reproduce(typed, run, "kernel=step")
    before, after = comparison["environment"]["kernel"]
    assert (before, after) == (json.loads((run / "environment.json").read_text())["kernel"], "step")
    assert code == (0 if comparison["same"] else 1)
    assert all(file["most"] < 1e-3 for file in comparison["files"])


def test_nan_and_minus_zero(tmp_path: Path, one: Path) -> None:
    """NaN equals NaN, and -0.0 differs from 0.0."""
    run, other = copy(one, str(tmp_path / "outputs")), copy(one, str(tmp_path / "second"))
    for place, value in ((run, "nan"), (other, "nan"), (run, 0.0), (other, -0.0)):
        with (place / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"kind": "train", "step": 7 + (value != "nan"), "loss": value}) + "\n")
    first = compare(RunDirectory(run), RunDirectory(other)).first
    assert first is not None
    assert (first.step, first.name, first.apart) == (8, "train.loss", 0.0)


def change_results(run: Path, **facts: Any) -> None:
    result = json.loads((run / "result.json").read_text())
    (run / "result.json").write_text(json.dumps(result | facts))


def test_two_runs_that_diverged_have_no_score_in_common(typed: Typed, one: Path) -> None:
    """With on_nan=continue they are finished; without, there is nothing to compare with."""
    run, second = copy(one, "outputs"), copy(one, "second")
    change_results(run, score=float("nan"), loss=float("nan"))
    completed = typed("reproduce", str(run), "--out", "second")
    assert completed.out.splitlines()[1:3] == ["not the same", "  it diverged then, and now it did not"]
    change_results(second, score=float("nan"), loss=float("nan"))
    completed = typed("reproduce", str(run), "--out", "second")
    assert completed.out.splitlines()[1:3] == ["bitwise the same", "  both diverged: neither has a score"]
    assert reproduce(typed, run, "--out", "second")[1]["diverged"] == [True, True]
    change_results(run, score=0.5, loss=float("inf"))
    assert "both diverged" in typed("reproduce", str(run), "--out", "second").out
    (run / "result.json").unlink()
    RunDirectory(run).set_status("failed", step=3, error="Diverged: the loss became nan at step 3")
    typed("reproduce", str(run)).refuses("is not finished (failed at step 3): it diverged", code=1, verb="reproduce")


def test_refusals_to_reproduce(typed: Typed, tmp_path: Path) -> None:
    def check(line: str, *args: str, code: int = 1) -> None:
        typed("reproduce", *args).refuses(line, code=code, verb="reproduce")

    check("nothing: no run there", "nothing")
    (tmp_path / "mycells.py").write_text(OWN_CELLS)
    run = train(typed, "cell=custom", "cell.target=mycells.Leaky")
    check("that is where the run itself is", str(run), "--out", "outputs", code=2)
    check("'seed=1' is not a setting: device=, kernel=, threads= are", str(run), "seed=1", code=2)
    check("device=tpu: must be auto", str(run), "device=tpu", code=2)
    (tmp_path / "mycells.py").write_text(OWN_CELLS + "\n# changed")
    check("mycells.Leaky: its code (mycells.py) is not what it was when the run was made", str(run))
    (tmp_path / "mycells.py").write_text(OWN_CELLS)
    assert typed("reproduce", str(run)).code == 0
    (run / "gradients.npz").write_bytes(b"garbage")
    check("gradients.npz cannot be read", str(run), "--out", "outputs-reproduced/1")
    (run / "result.json").unlink()
    check("is not finished (killed at step 6): train it to the end first", str(run))
    assert run.exists()
