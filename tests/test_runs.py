"""Every way of looking at a run says the same of it: `show`, `sweep status`, `report`, the launcher and the library."""

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from math import inf, log, log10
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from commandline import Completed
from made_up import decay_of, ended_process, run_directory, work_in, write, write_status
from seqmem import RunDirectory
from seqmem.cli.config.choose import find, finished_result
from seqmem.cli.launch import sweep
from seqmem.report.collect import collect
from seqmem.runs import directory
from seqmem.runs.compare import compare
from seqmem.runs.directory import State, find_runs
from seqmem.runs.files import RunError, plain_json, read_json, read_lines
from seqmem.runs.lock import is_held, may_be_shared
from seqmem.runs.result import StoredResult
from seqmem.runs.summary import read

Typed = Callable[..., Completed]


@dataclass(frozen=True)
class Case:
    """``state``: what has become of the run that ``make`` writes; None: its files are damaged."""

    state: State | None
    make: Callable[[Path], object]


def unfinished(path: Path, state: State, *, error: str | None = None, pid: int = 0) -> None:
    run_directory(path, None)
    write_status(path, state, error=error, pid=pid)


def finished_without_a_result(path: Path) -> None:
    """The process was killed between its last status and its result."""
    unfinished(path, "finished", pid=ended_process())


def on_another_host(path: Path, *, held: bool) -> None:
    unfinished(path, "running", pid=ended_process())
    status = json.loads((path / "status.json").read_text())
    write(path / "status.json", {**status, "host": "elsewhere"})
    if held:
        work_in(path)


def without_asking(path: Path, pid: int) -> None:
    """The lock cannot be asked: its file is none."""
    unfinished(path, "running", pid=pid)
    (path / "run.lock").symlink_to("run.lock")


def cut_off(path: Path, file: str) -> None:
    run_directory(path, None if file == "status.json" else 1.0)
    if file == "status.json":
        write_status(path, "running")
    (path / file).write_text((path / file).read_text()[:25])


CASES = {
    "finished": Case("finished", run_directory),
    "not started": Case("not started", lambda path: run_directory(path, None)),
    "running": Case("running", lambda path: unfinished(path, "running")),
    "running elsewhere": Case("running", lambda path: on_another_host(path, held=True)),
    "running, if its id is believed": Case("running", lambda path: without_asking(path, os.getpid())),
    "killed": Case("killed", lambda path: unfinished(path, "running", pid=ended_process())),
    "killed, its id used again": Case("killed", lambda path: unfinished(path, "running", pid=os.getpid())),
    "killed under another host's name": Case("killed", lambda path: on_another_host(path, held=False)),
    "killed, if its id is believed": Case("killed", lambda path: without_asking(path, ended_process())),
    "killed at the end": Case("killed", finished_without_a_result),
    "interrupted": Case("interrupted", lambda path: unfinished(path, "interrupted", pid=ended_process())),
    "failed": Case("failed", lambda path: unfinished(path, "failed", error="OSError: no luck", pid=ended_process())),
    "diverged": Case("failed", lambda path: unfinished(path, "failed", error="Diverged: the loss became nan")),
    "damaged result": Case(None, lambda path: cut_off(path, "result.json")),
    "damaged status": Case(None, lambda path: cut_off(path, "status.json")),
    "damaged config": Case(None, lambda path: cut_off(path, "config.json")),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_every_view_says_the_same_of_a_state(case: Case, tmp_path: Path, typed: Typed) -> None:
    path = tmp_path / "outputs" / "pronoun" / "lstm" / "len10-seed0"
    case.make(path)
    run = RunDirectory(path)
    shown, status = typed("show", str(path)), json.loads(typed("sweep", "status", "--json").out)
    if case.state is None:
        damaged = next(name for name in ("result.json", "status.json", "config.json") if name in shown.err)
        assert (shown.code, shown.err.count("\n")) == (1, 1)
        assert status["runs"] == []
        assert damaged in next(iter(status["left_out"].values()))
        with pytest.raises(RunError, match=rf"{damaged} cannot be read"):
            collect([tmp_path])
        with pytest.raises(RunError, match=rf"{damaged} cannot be read"):
            read(run)
        return
    assert (shown.code, shown.err) == (0, "")
    assert f"  {case.state}" in shown.out.splitlines()[0]
    assert [entry["state"] for entry in status["runs"]] == [case.state]
    collection = collect([tmp_path])
    states = [entry.state for entry in [*collection.unfinished, *collection.runs]]
    assert states == [case.state]
    assert run.state == read(run).state == case.state
    assert sweep.state_of(path, None)[0] == case.state
    if case.state == "finished":
        assert finished_result(run)["score"] == 1.0
    else:
        with pytest.raises(RunError, match=rf"is not finished \({case.state}"):
            finished_result(run)


def test_a_failure_is_told_in_the_same_words(tmp_path: Path, typed: Typed) -> None:
    path = tmp_path / "outputs" / "pronoun" / "lstm" / "len10-seed0"
    CASES["diverged"].make(path)
    reason = "Diverged: the loss became nan"
    assert reason in typed("show", str(path)).out
    assert reason in typed("sweep", "status").out
    assert [entry.error for entry in collect([tmp_path]).diverged] == [reason]
    assert read(RunDirectory(path)).error == reason


@contextmanager
def locked(path: Path) -> Iterator[None]:
    run = RunDirectory(path)
    with run.locked():
        run.set_status("running", step=3)
        yield


def test_reading_needs_no_lock(tmp_path: Path, typed: Typed) -> None:
    path = run_directory(tmp_path / "outputs" / "run", None)
    with locked(path):
        assert "running at step 3 of 1000" in typed("show", str(path)).out
        assert "1 running" in typed("sweep", "status").out
        with pytest.raises(RunError, match=f"in use by another seqmem .process .* on {socket.gethostname()}"):
            RunDirectory(path).locked().__enter__()


@pytest.mark.parametrize(("idle", "state"), [(60, "running"), (3600, "killed")])
def test_a_lock_that_another_host_does_not_see(
    idle: float, state: State, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On a file system that both have mounted, what a run of another host writes tells that it is at work."""
    monkeypatch.setattr(directory, "may_be_shared", lambda _: True)
    on_another_host(tmp_path / "run", held=False)
    then = time.time() - idle
    os.utime(tmp_path / "run" / "status.json", (then, then))
    assert RunDirectory(tmp_path / "run").state == state


@pytest.mark.parametrize(
    ("kind", "shared"),
    [("nfs4", True), ("lustre", True), ("fuse.sshfs", True), ("ext4", False), ("overlay", False), ("tmpfs", False)],
)
def test_file_systems_that_several_machines_mount(kind: str, shared: bool, tmp_path: Path) -> None:
    device = tmp_path.stat().st_dev
    mounts = tmp_path / "mountinfo"
    mounts.write_text(
        f"22 27 0:4095 / /proc rw - nfs server rw\n"
        f"30 27 {os.major(device)}:{os.minor(device)} / /a\\040b rw,relatime shared:1 - {kind} /dev/x rw\n"
    )
    assert may_be_shared(tmp_path, mounts) == shared
    assert not may_be_shared(tmp_path, tmp_path / "none")


def test_asking_for_the_lock_keeps_no_writer_out(tmp_path: Path) -> None:
    run, stop = RunDirectory(run_directory(tmp_path / "run", None)), threading.Event()
    with run.locked():
        pass

    def ask() -> None:
        while not stop.is_set():
            is_held(run.path / "run.lock")

    asker = threading.Thread(target=ask)
    asker.start()
    try:
        for _ in range(50):
            with run.locked():
                assert is_held(run.path / "run.lock")
    finally:
        stop.set()
        asker.join()


# Where runs are


def test_runs_behind_links_are_runs_and_each_is_one(tmp_path: Path, typed: Typed) -> None:
    """Every view finds them where they were trained; a loop or a link that leads out adds none."""
    outputs, disk, other = tmp_path / "outputs", tmp_path / "disk", tmp_path / "other"
    for folder in (outputs, disk, other):
        folder.mkdir()
    (outputs / "pronoun").symlink_to(disk)  # a task on another disk, one of its cells on a third, one run elsewhere
    (disk / "lstm").symlink_to("../other")
    for cell, place in (("gru", disk / "gru" / "a"), ("lstm", other / "b"), ("rnn", tmp_path / "moved")):
        run_directory(place, changes={"cell.name": cell})
    (disk / "rnn").mkdir()
    (disk / "rnn" / "c").symlink_to(tmp_path / "moved")
    names = ["pronoun/gru/a", "pronoun/lstm/b", "pronoun/rnn/c"]
    for link, target in {
        "again": "pronoun", "up": "..", "root": "/", "self": ".", "loop": "loop", "nowhere": "missing",
        "twice": str(disk / "gru"), "pronoun/back": "../outputs", "pronoun/lstm/round": str(disk),
    }.items():  # fmt: skip
        (outputs / link).symlink_to(target)
    run_directory(tmp_path / "not below", changes={"seed": 3})

    assert [str(run.path.relative_to(outputs)) for run in find_runs(outputs)] == names
    assert "3 runs" in typed("show").out
    assert [entry["path"] for entry in json.loads(typed("sweep", "status", "--json").out)["runs"]] == [
        f"outputs/{name}" for name in names
    ]
    assert [entry["path"] for entry in json.loads(typed("verify", "--json").out)["runs"]] == [
        f"outputs/{name}" for name in names
    ]
    assert sorted(str(run.path.relative_to(outputs)) for run in collect([outputs]).runs) == names
    assert len(collect([outputs, disk, tmp_path / "moved"]).runs) == 3
    assert typed("show", "pronoun/lstm").out.startswith("lstm on pronoun")
    assert [str(run.path) for run in find("outputs/again")] == [
        "outputs/again/gru/a",
        "outputs/again/lstm/b",
        "outputs/again/rnn/c",
    ]


def test_a_folder_has_its_own_name_before_that_of_a_link(tmp_path: Path) -> None:
    run_directory(tmp_path / "outputs" / "z" / "run")
    (tmp_path / "outputs" / "a").symlink_to(tmp_path / "outputs" / "z")
    assert [run.path.parent.name for run in find_runs(tmp_path / "outputs")] == ["z"]


# What was measured


def test_results_of_earlier_versions_are_read_in_the_current_layout(tmp_path: Path) -> None:
    run = RunDirectory(run_directory(tmp_path / "run", half_lives=(2.0, 8.0)))
    stored = json.loads((run.path / "result.json").read_text())
    assert "probes" not in stored
    result = run.result()
    assert result is not None
    assert "gradient" not in result
    assert result["probes"]["gradient"]["end"]["state"]["half_life"] == 8.0
    assert (result["layers"], result["steps_per_second"]) == (1, pytest.approx(1000 / 1.5))
    row = {"kind": "trace", "step": 0, "gradient": {"state": {"half_life": "inf"}}}
    (run.path / "metrics.jsonl").write_text(json.dumps(row) + "\n")
    assert run.metrics() == [{"kind": "trace", "step": 0, "probes": {"gradient": {"state": {"half_life": np.inf}}}}]


def test_a_current_result_is_read_as_it_is(tmp_path: Path) -> None:
    run = RunDirectory(run_directory(tmp_path / "run"))
    result = run.result()
    assert result is not None
    write(run.path / "result.json", dict(result))
    assert run.result() == result


@pytest.mark.parametrize(
    ("field", "value", "reason"),
    [
        ("seconds", None, "result.json has no seconds: it was written by another version of seqmem"),
        ("seq_len", "ten", "result.json is not what seqmem writes: seq_len is 'ten', no whole number"),
        ("steps", True, "steps is True, no whole number"),
        ("by_length", 3, "result.json is not what seqmem writes"),
        ("seed", 7, "are of two runs: seed is 0 and 7"),
    ],
)
def test_a_result_that_cannot_be_is_named_in_one_line(field: str, value: object, reason: str, tmp_path: Path) -> None:
    path = run_directory(tmp_path / "run")
    stored = json.loads((path / "result.json").read_text())
    if value is None:
        del stored[field]
    else:
        stored[field] = value
    write(path / "result.json", stored)
    with pytest.raises(RunError, match=reason) as raised:
        read(RunDirectory(path))
    assert str(path) in str(raised.value)
    assert "\n" not in str(raised.value)


def test_an_unfinished_run_shows_its_latest_numbers(tmp_path: Path) -> None:
    path = run_directory(tmp_path / "run", None)
    scale = {"metric": "accuracy", "higher_is_better": True, "chance": 0.25, "baseline_loss": 1.4, "solved_at": 0.99}
    scale |= {"constant": 0.125, "plateaus": [{"score": 0.625, "loss": 0.7, "memory": "one name"}]}
    write(path / "environment.json", scale)
    rows = [
        {"kind": "trace", "step": 0, "gradient": {"state": decay_of(2.0)}, "other": {"number": 1.0}},
        {"kind": "eval", "step": 50, "score": 0.5, "loss": 1.0},
        {"kind": "trace", "step": 60, "gradient": {"state": decay_of(4.0)}},
        {"kind": "eval", "step": 100, "score": 0.75, "loss": 0.5},
    ]
    (path / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows) + '{"kind": "ev')
    write_status(path, "running", step=90)
    summary = read(RunDirectory(path))
    assert (summary.state, summary.step, summary.score, summary.loss) == ("running", 100, 0.75, 0.5)
    assert (summary.scale.metric.name, summary.scale.chance, summary.scale.fields()) == ("accuracy", 0.25, scale)
    assert summary.probes["gradient"] == {"start": {"state": decay_of(2.0)}, "end": {"state": decay_of(4.0)}}
    assert summary.probes["other"] == {"start": {"number": 1.0}, "end": {"number": 1.0}}
    assert (summary.solved, summary.by_length, summary.profiles) == (None, {}, {})


EARLIER = {"half_life": 2.5, "horizon": inf, "log10_first_over_last": -9.0, "points": 10, "r2": 0.2, "underflowed": 0}
"""The gradient's numbers relative to the answer, as up to 0.2.0."""


def earlier_run(folder: Path, numbers: Mapping[str, Any] = EARLIER) -> RunDirectory:
    """A run of an earlier version, with the traces of two states of which ``cell`` is twice as large."""
    stages = {when: {"state": numbers, "input": numbers} for when in ("start", "end")}
    run = RunDirectory(run_directory(folder, gradient=stages))
    back = np.arange(10)[::-1, None] * np.ones((1, 3))
    norms = np.stack([0.5**back, 0.8**back])
    traces: dict[str, Any] = {"norm/hidden": norms, "norm/cell": 2 * norms, "norm/input": norms}
    np.savez(run.file("gradients.npz"), step=[0, 1000], answered_at=np.full(3, 9), **traces)
    return run


@pytest.mark.parametrize(
    "stored",
    [EARLIER, {**decay_of(7.0), "points": "x"}, {**decay_of(7.0), "log10_least": None}, {"half_life": 7.0}],
    ids=["earlier version", "a word", "null", "cut"],
)
def test_the_gradients_numbers_are_made_of_the_traces(tmp_path: Path, stored: Mapping[str, Any]) -> None:
    """Results of an earlier version, and damaged ones."""
    run = earlier_run(tmp_path / "run", stored)
    gradient = read(run).probes["gradient"]
    assert set(gradient["end"]) == {"state", "hidden", "cell", "input"}
    for when, factor in (("start", 0.5), ("end", 0.8)):
        numbers = gradient[when]["state"]
        assert numbers["half_life"] == pytest.approx(log(2) / -log(factor))
        assert numbers["log10_arrives"] == pytest.approx(8 * log10(factor))
        assert "log10_first_over_last" not in numbers
    run.file("gradients.npz").write_bytes(b"PK")
    assert read(run).probes["gradient"] == {"start": {}, "end": {}}  # a dash is better than another definition
    run.file("gradients.npz").unlink()
    assert read(run).probes["gradient"] == {"start": {}, "end": {}}


def test_a_run_of_an_earlier_version_is_reproduced_by_its_traces(tmp_path: Path) -> None:
    run, again = (earlier_run(tmp_path / name) for name in ("run", "again"))
    stored = json.loads(again.file("result.json").read_text())
    write(again.path / "result.json", {**stored, "gradient": read(run).probes["gradient"]})
    for kept, other in ((run, again), (again, run)):
        assert compare(kept, other).same
    with np.load(again.file("gradients.npz")) as traces:
        np.savez(again.file("gradients.npz"), **{**traces, "norm/cell": 1.5 * traces["norm/cell"]})
    assert not compare(run, again).same
    stored["gradient"]["end"]["state"] = {**EARLIER, "half_life": 3.0}
    write(run.path / "result.json", stored)
    assert [one.name for one in [compare(earlier_run(tmp_path / "third"), run).files[-1].first] if one] == [
        "probes.gradient.end.state.half_life"
    ]


def test_runs_are_compared_without_their_weights(tmp_path: Path) -> None:
    runs = [RunDirectory(run_directory(tmp_path / name)) for name in ("a", "b")]
    assert compare(*runs).same
    stored = json.loads(runs[1].file("result.json").read_text())
    write(runs[1].path / "result.json", {**stored, "loss": 0.125, "seconds": 99})
    first = compare(*runs).first
    assert first is not None
    assert (first.file, first.name, first.was, first.now) == ("result.json", "loss", 0.1, 0.125)
    assert first.apart == pytest.approx(0.025)


# Files


def test_numbers_that_json_lacks_survive(tmp_path: Path) -> None:
    values = {"a": [np.inf, -np.inf, 1.5], "b": {"c": float("nan")}, "d": "text", "e": None}
    (tmp_path / "lines").write_text(json.dumps(plain_json(values)) + "\n")
    (row,) = read_lines(tmp_path / "lines")
    assert repr(row) == repr(values)


@pytest.mark.parametrize("text", ["[1]", "{", "nul", "[" * 100_000])
def test_what_is_no_object_is_an_error(text: str, tmp_path: Path) -> None:
    (tmp_path / "file").write_text(f"{text}\n")
    for reader in (read_json, read_lines):
        with pytest.raises(RunError, match="file cannot be read"):
            reader(tmp_path / "file")
    assert read_json(tmp_path / "nowhere") is None
    assert read_lines(tmp_path / "nowhere") == []


def test_a_result_is_what_the_recorder_writes(tmp_path: Path, typed: Typed) -> None:
    """Every field that the type requires, and no other: ``best_step`` is there with train.patience alone."""
    assert typed("train", "steps=2", "seq_len=8", "cell.hidden_size=4", "quiet=true", "evaluate.sequences=8").code == 0
    (run,) = find_runs(tmp_path)
    result = run.result()
    assert result is not None
    assert result.keys() == StoredResult.__required_keys__
    assert repr(read(run).result) == repr(result)  # nan is nan


def test_runs_of_a_folder_are_in_the_order_of_their_settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The seeds of one setting stand together, numbers by value; the hash in a name orders nothing."""
    wanted = [(10, 900, "2"), (50, 900, "2"), (50, 1000, "2"), (50, 900, "10"), (50, 900, "chrono"), (100, 900, "2")]
    names = []
    for place, (seq_len, steps, bias) in enumerate(wanted):
        for seed in (0, 1, 10):
            value = bias if bias == "chrono" else int(bias)
            changes = {"seq_len": seq_len, "seed": seed, "steps": steps, "cell.forget_bias": value}
            names.append(f"outputs/pronoun/lstm/len{seq_len}-seed{seed}-{(place * 7 + seed) % 10:08x}")
            run_directory(tmp_path / names[-1], 0.5, changes=changes)
    monkeypatch.chdir(tmp_path)
    assert [str(run.path) for run in find("outputs")] == names
    assert [str(run.path) for run in find("pronoun/lstm")] == names


@pytest.mark.parametrize("columns", [60, 80, 200])
def test_every_run_has_a_score_in_the_table_by_length(
    columns: int, tmp_path: Path, typed: Callable[..., Completed], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also a run that was tested at other lengths than most, where there is no room for all."""
    for seed, lengths in enumerate([(7, 12, 25, 50, 100, 200)] * 3 + [(10, 20, 30, 40)]):
        changes = {"seed": seed, "seq_len": 50 if seed < 3 else 10}
        run_directory(tmp_path / f"outputs/pronoun/lstm/{seed}", changes=changes, by_length=dict.fromkeys(lengths, 0.5))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", str(columns))
    (_, table) = typed("show").out.split("by length")
    assert [line.count("%") > 0 for line in table.splitlines()[2:]] == [True] * 4
    assert table.count("◂ trained") == 1
    assert "50.0 %◂" in table.splitlines()[-1]
