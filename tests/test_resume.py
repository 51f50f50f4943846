"""The same command resumes an interrupted run from its last checkpoint, to bitwise the same end."""

import json
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from commandline import (
    TINY,
    Completed,
    assert_same_numbers,
    end,
    environment,
    forked,
    only_run,
    rows,
    started,
    trained_to,
    until,
)

LONGER = (
    "train", "steps=400", "seq_len=10", "cell.hidden_size=16", "batch_size=16", "log_every=5", "checkpoint_every=25",
    "evaluate.every=100", "evaluate.sequences=64", "trace.every=100", "trace.sequences=4",
)  # fmt: skip


def test_resumed_after_a_kill_and_after_ctrl_c(tmp_path: Path) -> None:
    """kill -9, then Ctrl-C, then to the end."""
    outputs = tmp_path / "outputs"
    with started(*LONGER, cwd=tmp_path) as process:
        until(lambda: trained_to(outputs) >= 90, of=process)
        process.kill()
        assert end(process).code == -signal.SIGKILL
    assert not list(outputs.rglob("result.json"))
    assert json.loads((only_run(outputs) / "status.json").read_text())["state"] == "running"
    with started(*LONGER, cwd=tmp_path) as process:
        until(lambda: trained_to(outputs) >= 190, of=process)
        process.send_signal(signal.SIGINT)
        completed = end(process)
    run = only_run(outputs)
    status = json.loads((run / "status.json").read_text())
    assert status["state"] == "interrupted"
    assert 190 <= status["step"] < 400
    completed.refuses(
        f"stopped at step {status['step']} of 400, saved: the same command goes on from there",
        code=128 + signal.SIGINT,
    )
    started_first = (run / "events.out.tfevents.0.seqmem").stat().st_ino
    assert forked(*LONGER, cwd=tmp_path).code == 0
    assert (run / "events.out.tfevents.0.seqmem").stat().st_ino == started_first
    assert forked(*LONGER, "outputs=whole", cwd=tmp_path).code == 0
    assert_same_numbers(run, only_run(tmp_path / "whole"))


def test_two_processes_of_one_run(tmp_path: Path, typed: Callable[..., Completed]) -> None:
    """The second process names the one that holds the lock and changes nothing; SIGTERM stops the first."""
    command = [*(setting for setting in LONGER if not setting.startswith("steps=")), "steps=20000"]
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
import gc, io, json, os, signal, sys
from seqmem.cli.config.compose import own_hydra
from seqmem.cli.config.schema import from_mapping
from seqmem.cli.launch.one_run import execute
from hydra import compose
from rich import get_console


def run(outputs, killed_at):
    '''Train in a forked process and kill it at its nth file operation. (code, operations)'''
    reader, writer = os.pipe()
    child = os.fork()
    if child == 0:
        touches = []

        def touch(how, path):
            touches.append(f"{how} {os.path.basename(str(path))}")
            if len(touches) == killed_at:
                os.kill(os.getpid(), signal.SIGKILL)

        def hook(event, args):
            if event in ("os.rename", "os.remove") and outputs in str(args[0]):
                touch(event, args[0])

        def opened(path, *args, really=io.open, **more):
            file = really(path, *args, **more)
            if outputs in str(path):
                touch("opened", path)  # opening for writing also truncates
            return file

        def fsync(file, really=os.fsync):
            touch("written", os.readlink(f"/proc/self/fd/{file}") if os.path.exists("/proc/self/fd") else file)
            really(file)

        sys.addaudithook(hook)
        io.open, os.fsync = opened, fsync
        config.outputs = outputs
        execute(config, overrides=overrides, console=get_console())
        os.write(writer, json.dumps(touches).encode())
        os._exit(0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        touches = pipe.read()
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), json.loads(touches or "[]")


cases = json.loads(sys.argv[1])
with own_hydra():
    configs = {name: from_mapping(compose("train", overrides=overrides)) for name, (_, overrides) in cases.items()}
config = next(iter(configs.values()))
config.outputs = "warm-up"
execute(config, overrides=[], console=get_console())  # import once what every fork would import again
gc.freeze()

for name, (thoroughly, overrides) in cases.items():
    config = configs[name]
    code, touches = run(f"{name}/whole", -1)
    assert code == 0, code
    assert run(f"{name}/again", -1)[1] == touches
    moments = [len(touches) // 3, len(touches) // 2, 5 * len(touches) // 6]
    if thoroughly:  # every kind of operation, at the middle of its occurrences; one description file stands for all
        occurrences = {}
        for moment, touched in enumerate(touches, start=1):
            if "overrides" not in touched and "environment" not in touched:
                occurrences.setdefault("removed" if "remove" in touched else touched, []).append(moment)
        last = range(len(touches) - 4, len(touches) + 1)
        moments = sorted({*last, *(times[len(times) // 2] for times in occurrences.values())})
    for moment in moments:
        at = (name, moment, touches[moment - 1])
        code, _ = run(f"{name}/cut{moment}", moment)
        assert code == -signal.SIGKILL, (*at, code)
        if not thoroughly:  # kill it again after it has resumed
            code, _ = run(f"{name}/cut{moment}", 30)
            assert code in (0, -signal.SIGKILL), (*at, code)
        code, _ = run(f"{name}/cut{moment}", -1)
        assert code == 0, (*at, code)
"""

KINDS = {
    "lstm": ("cell.layers=2",),
    "carried": ("task=text", "task.chunks=3", "cell=gru"),  # a state carried from batch to batch
    "uniform": ("task.lengths=uniform", "optimizer=sgd", "optimizer.momentum=0.9", "cell=rnn"),
}


def test_killed_at_any_moment(tmp_path: Path) -> None:
    """Kill between any two file operations of a run, also when a file has just been opened and is still empty."""
    cases = {name: (name == "lstm", [*TINY, *settings, "quiet=true"]) for name, settings in KINDS.items()}
    completed = subprocess.run(
        [sys.executable, "-c", DRIVER, json.dumps(cases)],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=300, check=False,
    )  # fmt: skip
    assert (completed.returncode, completed.stdout, completed.stderr) == (0, "", "")
    for name in KINDS:
        whole = only_run(tmp_path / name / "whole")
        assert [row["step"] for row in rows(whole) if row["kind"] == "train"] == [2, 4, 6]
        others = [path for path in (tmp_path / name).iterdir() if path.name != "whole"]
        assert len(others) >= 4
        for other in others:
            assert_same_numbers(only_run(other), whole)
