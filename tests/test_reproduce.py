"""A finished run once more: the same bits are called so, and one bit that is another is found."""

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


def trained(typed: Typed, *settings: str) -> Path:
    assert typed("train", *TINY, *settings, "quiet=true").code == 0
    return only_run(Path("outputs"))


@pytest.fixture(scope="module")
def one(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A finished run of an rnn."""
    return seqmem.train(*TINY, "cell=rnn", "device=cpu", "quiet=true", outputs=tmp_path_factory.mktemp("one")).path


def copied(run: Path, outputs: str) -> Path:
    """A run of the same configuration in other outputs."""
    place = Path(outputs, *run.parts[-3:])
    copytree(run, place)
    return place


def again(typed: Typed, run: Path, *args: str) -> tuple[int, dict[str, Any]]:
    completed = typed("reproduce", str(run), "--json", *args)
    assert completed.err == ""
    return completed.code, json.loads(completed.out)


def test_the_same_numbers_elsewhere(typed: Typed) -> None:
    """Also of a run that was begun with force=true; and every time anew, with what is there left alone."""
    run = trained(typed, "cell=lstm", "force=true")
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    completed = typed("reproduce", "lstm")
    assert (completed.code, completed.out.split("\n")[0]) == (0, "bitwise the same"), completed
    assert "step 6/6" in completed.err
    second = only_run(Path("outputs-reproduced/1"))
    assert second.relative_to("outputs-reproduced/1") == run.relative_to("outputs")
    assert_same_numbers(run, second)
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    evaluated = sum(len(row) - 2 for row in rows if row["kind"] != "trace")
    code, actual = again(typed, run)
    assert (code, actual["same"], actual["first"]) == (0, True, None)
    assert actual["reproduction"].startswith("outputs-reproduced/2/")
    numbers = {file["file"]: file["numbers"] for file in actual["files"]}
    assert numbers["metrics.jsonl"] > evaluated
    with np.load(run / "gradients.npz") as stored:
        assert numbers["gradients.npz"] == sum(stored[name].size for name in stored.files)
    assert numbers["checkpoint.pt"] > 100
    assert {path.name: path.read_bytes() for path in run.iterdir()} == before


def test_a_stopped_one_is_gone_on_with(typed: Typed, one: Path) -> None:
    run, second = copied(one, "outputs"), copied(one, "there")
    (second / "result.json").unlink()
    (second / "metrics.jsonl").write_bytes((second / "metrics.jsonl").read_bytes() + b"beyond its last checkpoint")
    completed = typed("reproduce", str(run), "--out", "there")
    assert completed.code == 0
    assert "step 0/" not in completed.err
    assert_same_numbers(run, second)
    code, actual = again(typed, run, "--out", "there")
    assert code == 0
    assert "is compared as it is" in actual["notes"][0]


def change_a_metric(run: Path) -> None:
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    place = next(i for i, line in enumerate(lines) if json.loads(line)["kind"] == "train" and '"step": 4' in line)
    row = json.loads(lines[place])
    lines[place] = json.dumps(row | {"loss": float(np.nextafter(row["loss"], 9))}) + "\n"
    (run / "metrics.jsonl").write_text("".join(lines))


def change_a_trace(run: Path) -> None:
    with np.load(run / "gradients.npz") as stored:
        arrays = {name: stored[name].copy() for name in stored.files}
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
def test_where_they_first_differ(
    typed: Typed, one: Path, change: Callable[[Path], None], file: str, step: int | None, name: str
) -> None:
    run, second = copied(one, "outputs"), copied(one, "second")
    change(second)
    facts = json.loads((second / "environment.json").read_text())
    (second / "environment.json").write_text(json.dumps(facts | {"torch": "9.9"}))
    code, actual = again(typed, run, "--out", "second")
    first = actual["first"]
    assert (code, actual["same"]) == (1, False)
    assert (first["file"], first["step"], first["name"]) == (file, step, name)
    assert [(each["file"], each["differ"]) for each in actual["files"] if each["differ"]] == [(file, 1)]
    if change is change_a_metric:  # the smallest difference there is
        assert first["now"] == np.nextafter(first["was"], 9)
        assert 0 < first["relatively"] < 3e-16
    if change is change_a_trace:
        assert first["apart"] == pytest.approx(0.5 * first["was"])
        assert first["relatively"] == pytest.approx(1 / 3)
    assert actual["environment"] == {"torch": [facts["torch"], "9.9"]}
    text = typed("reproduce", str(run), "--out", "second")
    assert text.code == 1
    assert "not the same" in text.out
    assert f"{file}, {name}: " in text.out
    assert f"torch            {facts['torch']}, 9.9" in text.out


def test_another_kernel_is_told_apart_from_the_same(typed: Typed, one: Path) -> None:
    """Other bits, truly computed: the same formula in another order."""
    run = copied(one, "outputs")
    code, actual = again(typed, run, "kernel=step")
    then, now = actual["environment"]["kernel"]
    assert (then, now) == (json.loads((run / "environment.json").read_text())["kernel"], "step")
    assert code == (0 if actual["same"] else 1)
    assert all(file["most"] < 1e-3 for file in actual["files"])


def test_nan_and_minus_zero(tmp_path: Path, one: Path) -> None:
    """NaN is itself, and -0.0 is not 0.0."""
    run, other = copied(one, str(tmp_path / "outputs")), copied(one, str(tmp_path / "second"))
    for place, value in ((run, "nan"), (other, "nan"), (run, 0.0), (other, -0.0)):
        with (place / "metrics.jsonl").open("a") as file:
            file.write(json.dumps({"kind": "train", "step": 7 + (value != "nan"), "loss": value}) + "\n")
    first = compare(RunDirectory(run), RunDirectory(other)).first
    assert first is not None
    assert (first.step, first.name, first.apart) == (8, "train.loss", 0.0)


def test_what_cannot_be_reproduced(typed: Typed, tmp_path: Path) -> None:
    def refused(line: str, *args: str, code: int = 1) -> None:
        typed("reproduce", *args).refuses(line, code=code, verb="reproduce")

    refused("nothing: no run there", "nothing")
    (tmp_path / "mycells.py").write_text(OWN_CELLS)
    run = trained(typed, "cell=custom", "cell.target=mycells.Leaky")
    refused("that is where the run itself is", str(run), "--out", "outputs", code=2)
    refused("'seed=1' is not a setting: device=, kernel=, threads= are", str(run), "seed=1", code=2)
    refused("device=tpu: must be auto", str(run), "device=tpu", code=2)
    (tmp_path / "mycells.py").write_text(OWN_CELLS + "\n# changed")
    refused("the code of mycells.Leaky is not what it was", str(run))
    (tmp_path / "mycells.py").write_text(OWN_CELLS)
    assert typed("reproduce", str(run)).code == 0
    (run / "gradients.npz").write_bytes(b"garbage")
    refused("gradients.npz cannot be read", str(run), "--out", "outputs-reproduced/1")
    (run / "result.json").unlink()
    refused("is not finished (running at step 6): train it to the end first", str(run))
    assert run.exists()
