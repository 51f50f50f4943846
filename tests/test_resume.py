"""The same command resumes an interrupted run from its last checkpoint, to bitwise the same end."""

import json
import signal
from collections.abc import Callable
from pathlib import Path

from hydra import compose

from commandline import (
    SIGNALLED,
    TINY,
    Completed,
    assert_same_numbers,
    end,
    forked,
    forked_module,
    only_run,
    rows,
    started,
    trained_to,
    until,
)
from seqmem.cli.config.own_hydra import own_hydra
from seqmem.cli.config.schema import everything, from_mapping


def test_resumed_after_a_kill_and_after_ctrl_c(tmp_path: Path, typed: Callable[..., Completed]) -> None:
    """kill -9, then Ctrl-C, then to the end."""
    command = ("train", *TINY, "steps=12", "checkpoint_every=3", "cell=custom", "cell.target=signalled.Signalled")
    (tmp_path / "signalled.py").write_text(SIGNALLED)
    signalled = tmp_path / "signal"
    signalled.write_text(f"5 {int(signal.SIGKILL)}")
    assert forked(*command, cwd=tmp_path).code == -signal.SIGKILL
    run = only_run(tmp_path / "outputs")
    assert not (run / "result.json").exists()
    assert json.loads((run / "status.json").read_text())["state"] == "running"
    signalled.write_text(f"5 {int(signal.SIGINT)}")
    completed = forked(*command, cwd=tmp_path)
    status = json.loads((run / "status.json").read_text())
    assert (status["state"], status["step"]) == ("interrupted", 3 + 5)
    completed.refuses("stopped at step 8 of 12, saved: the same command goes on from there", code=128 + signal.SIGINT)
    signalled.unlink()
    started_first = (run / "events.out.tfevents.0.seqmem").stat().st_ino
    assert typed(*command).code == 0
    assert (run / "events.out.tfevents.0.seqmem").stat().st_ino == started_first
    assert typed(*command, "outputs=whole").code == 0
    assert_same_numbers(run, only_run(tmp_path / "whole"))


def test_two_processes_of_one_run(tmp_path: Path, typed: Callable[..., Completed]) -> None:
    """The second process names the one that holds the lock and changes nothing; SIGTERM stops the first."""
    command = ("train", *TINY, "steps=20000", "evaluate.every=20000", "trace.every=0", "log_every=10")
    with started(*command, cwd=tmp_path) as first:
        until(lambda: trained_to(tmp_path) >= 50, of=first)
        for also in ((), ("force=true",)):
            completed = typed(*command, *also)
            completed.refuses(f"is in use by another seqmem (process {first.pid} on ", code=1)
        assert first.poll() is None
        before = trained_to(tmp_path)
        until(lambda: trained_to(tmp_path) > before, of=first)
        first.terminate()
        completed = end(first)
    completed.refuses("saved: the same command goes on from there", code=128 + signal.SIGTERM)
    assert json.loads((only_run(tmp_path) / "status.json").read_text())["state"] == "interrupted"


DRIVER = """\
import gc, io, json, os, shutil, signal, sys
from pathlib import Path
from seqmem.cli.config.schema import from_mapping
from seqmem.cli.launch.one_run import execute
from rich import get_console

touches, killed_at, copied_at = [], None, ()


def finish(outputs):
    touches.clear()
    config.outputs = outputs
    execute(config, overrides=[], console=get_console())


def touch(how, path):
    touches.append(f"{how} {os.path.basename(str(path))}")
    if len(touches) == killed_at:
        os.write(writer, json.dumps(touches).encode())
        os.kill(os.getpid(), signal.SIGKILL)
    if len(touches) in copied_at:
        shutil.copytree(config.outputs, f"{name}/cut{len(touches)}")


def hook(event, args):
    if event in ("os.rename", "os.remove") and config.outputs in str(args[0]):
        touch(event, args[0])


def opened(path, *args, really=io.open, **more):
    file = really(path, *args, **more)
    if config.outputs in str(path):
        touch("opened", path)  # opening for writing also truncates
    return file


def fsync(file, really=os.fsync):
    touch("written", os.readlink(f"/proc/self/fd/{file}"))
    really(file)


def kill(outputs, moment):
    '''Train in a forked process and kill it at its nth file operation. The operations'''
    global killed_at, writer
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        killed_at = moment
        finish(outputs)
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        said = pipe.read()
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    assert code == -signal.SIGKILL, (outputs, moment, code)
    return json.loads(said)


def left(outputs):
    '''The files that a kill has left, with their content where it is the same in every run.'''
    files = [path for path in Path(outputs).rglob("*") if path.is_file()]
    timeless = ("metrics.jsonl", "traces.bin", "evaluations.jsonl")
    return {path.name: path.read_bytes() if path.name in timeless else None for path in files}


cases = {name: from_mapping(settings) for name, settings in json.loads(sys.argv[1]).items()}
config = next(iter(cases.values()))
sys.addaudithook(hook)
io.open, os.fsync = opened, fsync
for name, config in cases.items():
    finish(f"{name}/whole")
    whole = list(touches)
    gc.freeze()
    if name == "lstm":  # every kind of operation, at the middle of its occurrences; one description file stands for all
        occurrences = {}
        for moment, touched in enumerate(whole, start=1):
            if "overrides" not in touched and "environment" not in touched:
                occurrences.setdefault("removed" if "remove" in touched else touched, []).append(moment)
        last = range(len(whole) - 4, len(whole) + 1)
        moments = {*last, *(times[len(times) // 2] for times in occurrences.values())}
        for moment in list(moments):
            how, file = whole[moment - 1].split()
            if how == "os.rename" and whole[moment - 2] == f"written {file}":
                moments.remove(moment)  # a kill before the one leaves the same files as a kill before the other
        copied_at = moments  # what the kernel has been given at each of them is what a kill there leaves
        finish(f"{name}/again")
        copied_at = ()
        assert touches == whole
        real = occurrences["written checkpoint.pt.partial"][-1]
        assert kill(f"{name}/killed", real) == whole[:real]
        assert left(f"{name}/killed") == left(f"{name}/cut{real}")
        for moment in moments:
            finish(f"{name}/cut{moment}")
        finish(f"{name}/killed")
    else:  # before it has saved, after that, and again after it has resumed
        moment = len(whole) // 3
        assert kill(f"{name}/cut", moment) == whole[:moment]
        kill(f"{name}/cut", len(whole) // 2)
        kill(f"{name}/cut", 30)
        finish(f"{name}/cut")
"""

KINDS = {
    "lstm": ("cell.layers=2",),
    # a state carried from batch to batch, and noise in every step
    "carried": ("task=text", "task.chunks=3", "cell=gru", "cell.wrap=zoneout:0.1+dropout:0.2+residual"),
    "uniform": ("task.lengths=uniform", "optimizer=sgd", "optimizer.momentum=0.9", "cell=rnn"),
}


def test_killed_at_any_moment(tmp_path: Path) -> None:
    """Kill between any two file operations of a run, also when a file has just been opened and is still empty."""
    with own_hydra():
        cases = {
            name: everything(from_mapping(compose("train", overrides=[*TINY, "steps=4", *settings, "quiet=true"])))
            for name, settings in KINDS.items()
        }
    (tmp_path / "driver.py").write_text(DRIVER)
    assert forked_module("driver", json.dumps(cases), cwd=tmp_path) == Completed(0, "", "")
    for name in KINDS:
        whole = only_run(tmp_path / name / "whole")
        assert [row["step"] for row in rows(whole) if row["kind"] == "train"] == [2, 4]
        others = [path for path in (tmp_path / name).iterdir() if path.name != "whole"]
        assert len(others) >= (15 if name == "lstm" else 1)
        for other in others:
            assert_same_numbers(only_run(other), whole)
