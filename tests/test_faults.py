"""Half-written, empty and foreign files in a run: each is named in one line, and no finished work is lost."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from shutil import copytree
from zipfile import ZipFile

import numpy as np
import pytest
import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

import seqmem
from commandline import LSTM, Completed, assert_same_numbers, composed, train
from seqmem.cli.config.choose import finished_runs, run_of_another_task
from seqmem.record.events import GrowingFile, whole_records
from seqmem.report.collect import collect
from seqmem.runs.directory import RunDirectory
from seqmem.runs.files import RunError, write_atomically
from seqmem.runs.traces import read_stored

Typed = Callable[..., Completed]


def half(content: bytes) -> bytes:
    return content[: len(content) // 2]


def binary(_: bytes) -> bytes:
    return bytes(range(256)) * 4


def empty(_: bytes) -> bytes:
    return b""


def another(_: bytes) -> bytes:
    return b"[1, 2]\n"


DAMAGES = [half, binary, empty, another]


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("name", ["config.json", "result.json", "status.json", "gradients.npz"])
def test_a_damaged_file_is_named(typed: Typed, run: Path, name: str, damage: Callable[[bytes], bytes]) -> None:
    """Every verb that needs the file names it in one line, without a stack trace."""
    path = run / name
    path.write_bytes(damage(path.read_bytes()))
    if name == "status.json":  # a finished run does not need it
        (run / "result.json").unlink()
    needed = {
        "config.json": ("show", "eval", "reproduce", "export"),
        "result.json": ("show",),
        "status.json": ("show", "eval", "reproduce", "export"),
        "gradients.npz": ("show",),
    }[name]
    commands = {
        "show": ("show", str(run)),
        "eval": ("eval", str(run), "seq_len=8", "sequences=2"),
        "reproduce": ("reproduce", str(run), "--out", str(run.parents[2])),
        "export": ("export", str(run), "--state-dict", "x.pt"),
    }
    for verb in needed:
        typed(*commands[verb]).refuses(name, code=1, verb=verb)


@pytest.mark.parametrize("damage", [half, another])
def test_damaged_descriptions_do_not_stop_a_resumed_run(run: Path, damage: Callable[[bytes], bytes]) -> None:
    """Resuming from the checkpoint rewrites settings, status and overrides."""
    whole = run.parent / "whole"
    copytree(run, whole)
    (run / "result.json").unlink()
    for name in ("config.json", "status.json", "overrides.json"):
        path = run / name
        path.write_bytes(damage(path.read_bytes()))
    train(composed(*LSTM))
    assert_same_numbers(run, whole)


def test_a_damaged_environment_is_named(typed: Typed, run: Path) -> None:
    """A resumed run never silently loses the environment that it started in."""
    path = run / "environment.json"
    path.write_bytes(half(path.read_bytes()))
    (run / "result.json").unlink()
    typed("train", *LSTM).refuses("environment.json cannot be read", code=1)


def test_an_event_file_cut_in_half(typed: Typed, run: Path) -> None:
    """Show, eval and TensorBoard still read a finished run, up to the cut."""
    path = run / "events.out.tfevents.0.seqmem"
    path.write_bytes(half(path.read_bytes()))
    stored = whole_records(path)
    assert stored is not None
    assert 0 < stored < path.stat().st_size  # inside a record
    board = EventAccumulator(str(path)).Reload()
    assert len(board.Scalars("train/loss")) >= 1
    assert typed("show", str(run)).code == 0
    assert typed("eval", str(run), "seq_len=8", "sequences=2").code == 0
    board = EventAccumulator(str(path)).Reload()
    assert [point.step for point in board.Scalars("eval/score_by_length (seqmem eval)")] == [8]


def test_an_unfinished_run_whose_event_file_was_cut(typed: Typed, run: Path) -> None:
    """The line names the remedy, and every other number of the run is still readable."""
    (run / "result.json").unlink()
    path = run / "events.out.tfevents.0.seqmem"
    whole = path.read_bytes()
    path.write_bytes(half(whole))
    typed("train", *LSTM).refuses("where its checkpoint left off: delete", code=1)
    assert typed("show", str(run)).code == 0
    assert len(RunDirectory(run).metrics()) > 5
    path.write_bytes(whole)  # restored, for example from a backup
    train(composed(*LSTM))


def test_watch_needs_no_file_to_be_whole(run: Path) -> None:
    """The search takes directories with a config.json, without reading it."""
    for name in ("config.json", "status.json", "result.json"):
        (run / name).write_bytes(b"\xff\x00")
    assert [directory.path for directory in seqmem.runs.directory.find_runs(run.parents[2])] == [run]


@pytest.mark.parametrize("content", [b"", b'{"a": 1', b"\xff\xfe", b"[]", b"null", b"3"])
def test_json_that_seqmem_did_not_write(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "config.json").write_bytes(content)
    with pytest.raises(RunError, match=r"config\.json cannot be read"):
        RunDirectory(tmp_path).config()


def test_a_checkpoint_of_another_version(typed: Typed, run: Path) -> None:
    (run / "result.json").unlink()
    saved = torch.load(run / "checkpoint.pt", weights_only=True)
    torch.save(saved | {"format": 99}, run / "checkpoint.pt")
    typed("train", *LSTM).refuses("was written by another version of seqmem: delete it, or use force=true", code=1)
    status = json.loads((run / "status.json").read_text())
    assert status["state"] == "failed"


def test_a_resumed_run_names_the_version_that_started_it(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (run / "result.json").unlink()
    environment = json.loads((run / "environment.json").read_text())
    (run / "environment.json").write_text(json.dumps(environment | {"seqmem": "0.0.9"}))
    train(composed(*LSTM), quiet=False)
    assert capsys.readouterr().out.count("begun by seqmem 0.0.9, going on with ") == 1
    (run / "result.json").unlink()
    train(composed(*LSTM), quiet=False)
    assert "begun by seqmem 0.0.9" in capsys.readouterr().out  # whichever version resumed it since


def fifo(path: Path) -> None:
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def folder(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.mkdir()


def loop(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.symlink_to(path.name)


def overflowing(path: Path) -> None:
    path.write_text('{"seq_len": 1e400, "score": 1.0, "loss": 0.0, "sequences": 8}\n')


PLANTED = [
    *((name, plant) for name in ("config.json", "result.json", "gradients.npz") for plant in (fifo, folder)),
    *(("evaluations.jsonl", plant) for plant in (fifo, folder, loop, overflowing)),
]


@pytest.mark.parametrize(("name", "plant"), PLANTED)
def test_a_damaged_run_hides_no_other(typed: Typed, run: Path, name: str, plant: Callable[[Path], None]) -> None:
    other = run.parent / "another"
    copytree(run, other)
    plant(run / name)
    shown = typed("show", "outputs", "--all")
    assert (shown.code, shown.err.count("\n")) == (1, 1)
    assert name in shown.err or str(run.name) in shown.err
    assert "lstm" in shown.out
    assert typed("sweep", "status").code in (0, 1)
    if name != "gradients.npz":
        collection = collect(["outputs"])
        assert [len(collection.runs), len(collection.left_out)] == [1, 1]
    if name in ("config.json", "result.json"):
        usable, _ = finished_runs(["outputs"])
        assert [each.path.name for each in usable] == ["another"]
        with pytest.raises(RunError, match="cannot be read"):
            finished_runs([str(run)])


def test_a_run_without_a_task_hides_no_other(run: Path) -> None:
    copytree(run, run.parent / "another")
    overflowing(run / "config.json")
    usable, _ = finished_runs(["outputs"])
    assert [each.path.name for each in usable] == ["another"]
    assert run_of_another_task(usable) is None


def test_a_run_with_an_unknown_setting_hides_no_other(typed: Typed, run: Path, tmp_path: Path) -> None:
    """As of another version, or of a flipped byte."""
    copytree(run, run.parent / "another")
    config = json.loads((run / "config.json").read_text())
    (run / "config.json").write_text(json.dumps({**config, "chip_norm": 1}))
    why = f"outputs/pronoun/lstm/{run.name}: there is no setting 'chip_norm'"
    read = typed("read", "outputs", "--json")
    assert (read.code, len(json.loads(read.out)["models"]), read.err.count("\n")) == (1, 1, 1)
    assert read.err.startswith(f"left out: {why}")
    page = typed("playground", "outputs", "--out", "page.html", "--no-open")
    assert (page.code, page.err) == (1, read.err)
    assert (tmp_path / "page.html").stat().st_size > 0
    typed("read", str(run)).refuses(why, code=2, verb="read")


def test_an_array_takes_no_more_memory_than_its_file(tmp_path: Path) -> None:
    """A header of 14 TiB over a file of some bytes."""
    path = tmp_path / "gradients.npz"
    with ZipFile(path, "w") as archive, archive.open("step.npy", "w") as member:
        np.lib.format.write_array_header_1_0(
            member, {"descr": "<f8", "fortran_order": False, "shape": (14 << 40 >> 3,)}
        )
    with pytest.raises(RunError, match="is said to have 15393162788864 bytes"):
        read_stored(path)


def test_a_planted_link_is_not_followed(tmp_path: Path) -> None:
    precious, path = tmp_path / "precious", tmp_path / "result.json"
    precious.write_text("untouched")
    (tmp_path / "result.json.partial").symlink_to(precious)
    write_atomically(path, b"new")
    assert (precious.read_text(), path.read_text()) == ("untouched", "new")
    assert not path.is_symlink()
    assert not (tmp_path / "result.json.partial").is_symlink()


@pytest.mark.parametrize("fault", [Path.unlink, lambda path: write_atomically(path, b"12345")])
def test_a_file_that_is_taken_away_while_it_is_written(tmp_path: Path, fault: Callable[[Path], None]) -> None:
    file = GrowingFile(tmp_path / "metrics.jsonl")
    file.write(b"12345")
    assert file.position() == 5
    fault(tmp_path / "metrics.jsonl")
    with pytest.raises(RunError, match=r"metrics.jsonl was (deleted|replaced|changed) by something else"):
        file.position()
    file.close()


def test_reproduce_reads_the_run_before_it_trains(typed: Typed, run: Path) -> None:
    (run / "metrics.jsonl").write_bytes(b"\xff\n")
    typed("reproduce", str(run), "--out", "again").refuses("metrics.jsonl cannot be read", code=1, verb="reproduce")
    assert not list(Path("again").rglob("checkpoint.pt"))


def test_an_unreadable_checkpoint_of_a_finished_run_is_not_told_to_be_deleted(typed: Typed, run: Path) -> None:
    (run / "checkpoint.pt").write_bytes(b"PK")
    done = typed("eval", str(run), "seq_len=8", "sequences=2")
    done.refuses("restore the file, or train it again with force=true", code=1, verb="eval")
    assert "delete" not in done.err
