"""Data that something else altered never goes into a result unnoticed; a finished result stands until the next does."""

import json
import random
import shutil
import signal
from collections.abc import Callable
from pathlib import Path
from shutil import copytree

import pytest
import torch

from commandline import LSTM, SIGNALLED, Completed, assert_same_numbers, composed, forked, only_run, train
from seqmem.record.recorder import Recorder
from seqmem.runs.checksums import verify
from seqmem.runs.directory import RunDirectory, find_runs
from seqmem.runs.files import RunError, written_atomically

Typed = Callable[..., Completed]
GROWN = ("metrics.jsonl", "events.out.tfevents.0.seqmem", "gradients.npz")


def flip(path: Path, at: int) -> None:
    content = bytearray(path.read_bytes())
    content[at] ^= 1 << at % 8
    path.write_bytes(content)


@pytest.mark.parametrize("name", GROWN)
def test_a_flipped_byte_in_a_stopped_run(name: str, run: Path, finished: Path) -> None:
    """The run is refused, or what the byte meant is not lost: a time in a zip archive, for example."""
    (run / "result.json").unlink()
    whole, refused = (run / name).read_bytes(), 0
    saved = torch.load(run / "checkpoint.pt", weights_only=True)
    size = {"metrics.jsonl": saved["metrics"], "gradients.npz": len(whole)}.get(name, saved["events"])
    places = random.Random(0).sample(range(size), 8)
    for at in places:
        (run / name).write_bytes(whole)
        flip(run / name, at)
        try:
            train(composed(*LSTM))
        except RunError as error:
            assert name.removesuffix(".npz") in str(error) or "traces.bin" in str(error)  # noqa: PT017
            refused += 1
            (run / "traces.bin").unlink(missing_ok=True)
        else:
            assert_same_numbers(run, finished)
            (run / "result.json").unlink()
    assert refused == len(places) if name != "gradients.npz" else refused >= len(places) - 3


def test_a_flipped_byte_in_the_traces_of_a_killed_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "signalled.py").write_text(SIGNALLED)
    (tmp_path / "signal").write_text(f"6 {signal.SIGKILL}")
    command = (*LSTM, "cell=custom", "cell.target=signalled.Signalled")
    assert forked("train", *command, cwd=tmp_path).code == -signal.SIGKILL
    flip(only_run(tmp_path) / "traces.bin", 200)
    (tmp_path / "signal").unlink()
    forked("train", *command, cwd=tmp_path).refuses("traces.bin was changed by something else up to byte", code=1)


@pytest.mark.parametrize("name", ["metrics.jsonl", "events.out.tfevents.0.seqmem", "traces.bin"])
@pytest.mark.parametrize("how", ["deleted", "replaced", "changed"])
def test_a_file_that_is_altered_under_a_running_run(
    name: str, how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    original = Recorder.logged

    def logged(self: Recorder, step: int, kind: str, values: dict[str, float]) -> None:
        original(self, step, kind, values)  # pyright: ignore[reportArgumentType]
        path = self.run.file(name)
        if step == 4 and kind == "train":
            if how == "changed":
                flip(path, 3)
            else:
                content = path.read_bytes()
                path.unlink()
                if how == "replaced":
                    path.write_bytes(content)

    monkeypatch.setattr(Recorder, "logged", logged)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(RunError, match=f"{name} was {how} by something else while the run was writing it"):
        train(composed(*LSTM))
    run = RunDirectory(only_run(tmp_path))
    assert run.state == "failed"
    assert not run.finished


def test_verify_names_every_altered_file(run: Path, typed: Typed) -> None:
    assert typed("verify") == Completed(0, "1 run, 8 files: 1 the same\n", "")
    status = json.loads((run / "status.json").read_text())
    (run / "status.json").write_text(json.dumps({**status, "pid": 999_999_999}))  # it has ended, unlike this process
    names = json.loads((run / "checksums.json").read_text())
    assert set(names) == {path.name for path in run.iterdir()} - {"checksums.json", "status.json", "run.lock"}
    for name in names:
        whole = (run / name).read_bytes()
        flip(run / name, len(whole) // 2)
        done = typed("verify", str(run))
        assert (done.code, done.out.splitlines()[1:]) == (1, ["1 run, 8 files: 1 altered"])
        assert f"{name} is not what the run wrote" in done.out.splitlines()[0]
        (run / name).unlink()
        assert f"{name} is missing" in typed("verify", str(run)).out
        (run / name).write_bytes(whole)
    answer = json.loads(typed("verify", "--json").out)
    assert [one["verdict"] for one in answer["runs"]] == ["same"]


def test_verify_knows_later_evaluations_and_earlier_versions(run: Path, typed: Typed) -> None:
    assert typed("eval", str(run), "seq_len=8", "sequences=2").code == 0
    assert verify(RunDirectory(run)).verdict == "same"
    flip(run / "evaluations.jsonl", 3)
    assert verify(RunDirectory(run)).faults == ("evaluations.jsonl is not what the run wrote",)
    (run / "checksums.json").unlink()
    assert typed("verify") == Completed(0, "1 run, 0 files: 1 without checksums, of an earlier version\n", "")
    (run / "result.json").unlink()
    assert typed("verify") == Completed(0, "1 run, 0 files: 1 not finished\n", "")
    typed("verify", "nowhere").refuses("nowhere: no run there", code=2, verb="verify")


def test_verify_reads_nothing_outside_the_run(run: Path) -> None:
    (run / "checksums.json").write_text(json.dumps({"../../../secret": "0" * 32}))
    with pytest.raises(RunError, match="which is no file of the run"):
        verify(RunDirectory(run))


def test_settings_of_the_machine_are_refused_where_the_run_is_finished_already(run: Path, typed: Typed) -> None:
    assert run.exists()
    typed("train", *LSTM, "device=gpuu").refuses("device=gpuu: must be auto, cpu, cuda or cuda:N", code=2)
    typed("train", *LSTM, "threads=0").refuses("threads=0: must be at least 1, or auto", code=2)
    typed("train", *LSTM, "checkpoint_every=0").refuses("checkpoint_every=0: must be at least 1", code=2)


# A result that is replaced


def test_a_finished_run_stands_until_its_replacement_does(
    run: Path, finished: Path, typed: Typed, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed at any time, there is a finished run; going on without force=true ends with the same numbers."""
    original = Recorder.save

    def save(self: Recorder, checkpoint: dict[str, object]) -> None:
        original(self, checkpoint)
        assert verify(RunDirectory(run / "before")).verdict == "same"
        raise KeyboardInterrupt  # as a kill: nothing is tidied

    monkeypatch.setattr(Recorder, "save", save)
    with pytest.raises(KeyboardInterrupt):
        train(composed(*LSTM), force=True)
    assert [one.finished for one in find_runs(run)] == [True, False]
    assert_same_numbers(run / "before", finished)
    shown = typed("show", "outputs")
    assert shown.code == 0
    monkeypatch.setattr(Recorder, "save", original)
    train(composed(*LSTM))
    assert_same_numbers(run, finished)
    assert not (run / "before").exists()
    assert verify(RunDirectory(run)).verdict == "same"


def test_what_a_kill_between_the_two_results_leaves_is_tidied(run: Path) -> None:
    copytree(run, run.with_name("copy"))
    shutil.move(run.with_name("copy"), run / "before")
    train(composed(*LSTM))
    assert not (run / "before").exists()


# Links that wait for a writer


def test_no_link_is_followed_by_a_writer(tmp_path: Path) -> None:
    victim, path = tmp_path / "victim", tmp_path / "config.json"
    victim.write_text("mine")
    for name in ("config.json.partial", "config.json"):
        (tmp_path / name).symlink_to(victim)
    with written_atomically(path) as file:
        file.write(b"new")
    assert (path.read_text(), path.is_symlink()) == ("new", False)
    assert victim.read_text() == "mine"


@pytest.mark.parametrize("name", ["metrics.jsonl", "traces.bin", "error.txt", "status.json"])
def test_a_run_writes_through_no_link(name: str, run: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("mine")
    (run / "result.json").unlink()
    (run / name).unlink(missing_ok=True)
    (run / name).symlink_to(victim)
    try:
        train(composed(*LSTM))
    except RunError as error:
        assert str(run) in str(error) or "outputs" in str(error)  # noqa: PT017
    assert victim.read_text() == "mine"


@pytest.mark.parametrize("name", ["before", "before.partial", "probes", "probes.partial"])
def test_a_run_writes_into_no_linked_folder(name: str, run: Path, tmp_path: Path) -> None:
    precious = tmp_path / "precious"
    precious.mkdir()
    (precious / "mine.partial").write_text("mine")
    (run / name).symlink_to(precious)
    directory = RunDirectory(run)
    directory.keep_result()
    directory.restart()
    assert [path.name for path in precious.iterdir()] == ["mine.partial"]
    assert RunDirectory(run / "before").finished


def test_leftovers_of_killed_writers_are_deleted(run: Path) -> None:
    (run / "result.json").unlink()
    (run / "status.json.partial").write_text("{")
    (run / "before.partial").mkdir()
    train(composed(*LSTM))
    assert not list(run.glob("*.partial"))
