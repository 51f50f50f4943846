"""The local launcher: the same bits from any number of processes, faults that take nothing else with them, what a
person sees of it; and ``seqmem sweep status``, which reads what is left."""

import errno
import json
import os
import re
import socket
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from commandline import OWN_CELLS, TINY, Completed, assert_same_numbers, runs_below
from made_up import ended_process, run_directory, write_status
from seqmem.cli.launch import jobs as launch_jobs
from seqmem.cli.launch.jobs import Job, Outcome, Progress
from seqmem.cli.launch.overview import Overview, cost
from seqmem.cli.verbs import sweep as sweeps
from seqmem.record.recorder import Recorder
from seqmem.runs.directory import RunDirectory, State

FATAL = """
import os, signal
class Fatal(Leaky):
    def __init__(self, input_size, hidden_size, alpha: float = 0.5):
        super().__init__(input_size, hidden_size, alpha)
        self.forwards = 0
    def step(self, x, state):
        self.forwards += 1
        if self.forwards > 30 and self.alpha == 0.5:
            os.kill(os.getpid(), signal.SIGKILL)
        if self.forwards == 1:
            print(f"alpha is {self.alpha}")
        return super().step(x, state)
"""


def test_two_processes_and_one_give_the_same_bits(tmp_path: Path, typed: Callable[..., Completed]) -> None:
    command = ("train", "-m", *TINY, "cell=rnn,lstm", "seed=0,1")
    completed = typed(*command, "hydra.launcher.workers=2")
    assert (completed.code, completed.err) == (0, "")
    for line in completed.out.splitlines()[1:-1]:
        assert re.match(r"\[\d/4 (rnn|lstm) pronoun len8 seed[01]\] ", line), line
    assert typed(*command, "outputs=serial", "hydra.launcher.workers=1").code == 0
    runs = runs_below(tmp_path / "outputs")
    assert len(runs) == 4
    for run in runs:
        assert_same_numbers(run, tmp_path / "serial" / run.relative_to(tmp_path / "outputs"))
    environment = json.loads((runs[0] / "environment.json").read_text())
    assert environment["threads"] == 1
    pids = {json.loads((run / "status.json").read_text())["pid"] for run in runs}
    assert len(pids) == 4  # a process each
    assert os.getpid() not in pids


def test_a_job_that_is_killed_takes_no_other_with_it(tmp_path: Path, typed: Callable[..., Completed]) -> None:
    (tmp_path / "owncells.py").write_text(OWN_CELLS + FATAL)
    command = ("train", "-m", *TINY, "cell=custom", "cell.target=owncells.Fatal", "cell.args.alpha=0.4,0.5,0.6")
    completed = typed(*command, "hydra.launcher.workers=2", "cell.hidden_size=4")
    assert completed.code == 1
    killed = "killed by signal 9: out of memory?"
    assert f"[2/3 Fatal pronoun len8 seed0] FAILED: {killed}\n" in completed.err
    assert "[1/3 Fatal pronoun len8 seed0] alpha is 0.4\n" in completed.out  # what it says itself is told apart, too
    *_, count, last = completed.out.splitlines()
    assert count == "2 of 3 runs finished"
    (loser,) = (run for run in runs_below(tmp_path) if not (run / "result.json").exists())
    assert last == f"  failed: {loser.relative_to(tmp_path)}: {killed}"
    status = RunDirectory(loser).status()
    assert status is not None
    assert (status.state, status.error) == ("failed", killed)


def test_a_run_that_another_has(
    tmp_path: Path, typed: Callable[..., Completed], monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is waited for, a little; then it is said in one line, and the others are done."""
    monkeypatch.setattr(launch_jobs, "LOCK_WAIT", 0.1)
    command = ("train", "-m", *TINY, "seed=0,1", "hydra.launcher.workers=1")
    assert typed("train", *TINY, "seed=0", "outputs=elsewhere").code == 0
    (elsewhere,) = runs_below(tmp_path / "elsewhere")
    run = RunDirectory(tmp_path / "outputs" / elsewhere.relative_to(tmp_path / "elsewhere"))
    with run.locked():
        run.set_status("running", step=3)
        completed = typed(*command)
        assert completed.code == 1
        (line,) = completed.err.splitlines()
        who = f"is in use by another seqmem (process {os.getpid()} on {socket.gethostname()})"
        assert line.startswith("[1/2 lstm pronoun len8 seed0] FAILED: ")
        assert who in line
        *_, count, last = completed.out.splitlines()
        assert count == "1 of 2 runs finished"
        assert last.startswith("  in use: ")
        status = run.status()
        assert status is not None
        assert status.state == "running"  # no other process changed it
    assert typed(*command).code == 0
    assert run.finished


def test_a_full_disk_is_said_once(
    tmp_path: Path, typed: Callable[..., Completed], monkeypatch: pytest.MonkeyPatch
) -> None:
    finished, full = Recorder.finished, OSError(errno.ENOSPC, "No space left on device")

    def write(recorder: Recorder, step: int, result: Any) -> None:
        if len(list(tmp_path.rglob("result.json"))) == 1:
            raise full
        finished(recorder, step, result)

    monkeypatch.setattr(Recorder, "finished", write)
    completed = typed("train", "-m", *TINY, "seed=0,1,2,3", "hydra.launcher.workers=1")
    assert completed.code == 1
    first, second = completed.err.splitlines()
    assert re.match(r"\[2/4 .*\] FAILED: cannot write to .*: No space left on device", first)
    assert second == "no other run is started, as the disk is full"
    assert completed.out.splitlines()[-3] == "1 of 4 runs finished"
    assert completed.out.splitlines()[-1] == "  not started: 2 runs: the disk is full"
    assert len(runs_below(tmp_path)) == 2


def test_workers_that_cannot_be(typed: Callable[..., Completed]) -> None:
    for wrong in ("0", "x", "1.5", "true"):
        completed = typed("train", "-m", *TINY, "seed=0,1", f"hydra.launcher.workers={wrong}")
        completed.refuses(
            f"hydra.launcher.workers={'True' if wrong == 'true' else wrong}: must be auto, or a whole", code=2
        )


def test_silence_is_kept(tmp_path: Path, typed: Callable[..., Completed]) -> None:
    command = ("train", "-m", *TINY, "seed=0,1", "quiet=true", "hydra.launcher.workers=1")
    assert typed(*command) == Completed(0, "", "")
    assert typed(*command) == Completed(0, "", "")
    assert len(runs_below(tmp_path)) == 2


# What a person sees


def job(number: int, cell: str = "lstm", seq_len: int = 50, steps: int = 100) -> Job:
    settings = {"cell": {"name": cell}, "task": {"name": "pronoun"}, "seq_len": seq_len, "steps": steps}
    title = f"{cell} pronoun len{seq_len} seed{number}"
    return Job(number, 4, title, (), settings, "/nowhere", f"outputs/{number}")


def lines_of(shown: Overview, width: int) -> list[str]:
    out = StringIO()
    Console(file=out, width=width, height=24).print(shown.picture())
    return out.getvalue().splitlines()


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_overview(width: int) -> None:
    now = [0.0]
    jobs = [job(number) for number in range(5)]
    console = Console(file=StringIO(), force_terminal=True, width=width, height=24, color_system=None)
    shown = Overview(console, jobs, [Outcome(4, "finished", skipped=True)], 2, clock=lambda: now[0])
    assert shown.seconds_left() is None
    shown.started(jobs[0])
    shown.started(jobs[1])
    shown.progress(0, Progress(0, 100))
    now[0] = 10.0
    shown.progress(0, Progress(50, 100, score="31.2 %", chance="25.0 %", rate=5.0))
    # Half a job in 10 s: half of it is left, and three whole ones, on two processes.
    assert shown.seconds_left() == pytest.approx((10 + 3 * 20) / 2)
    head, first, second = lines_of(shown, width)
    assert all(len(line) <= width for line in (head, first, second))
    assert head.startswith("1 of 5 done  2 running")
    assert "50/100" in first
    if width >= 80:
        assert "1 of them before  2 waiting  0:35 left" in head
        assert first.startswith("lstm pronoun len50 seed0  ")
        assert "31.2 % (chance 25.0 %)" in first
        assert second == "lstm pronoun len50 seed1  starting"
    now[0] = 20.0
    shown.ended(jobs[0], Outcome(0, "finished"))
    shown.ended(jobs[1], Outcome(1, "lost", error="killed"))
    assert lines_of(shown, width)[0].startswith("2 of 5 done  0 running  1 failed")
    # One job in 20 s, two to go at once.
    assert shown.seconds_left() == pytest.approx(20)


def test_the_time_left_knows_cells_apart() -> None:
    now = [0.0]
    jobs = [job(0, "rnn"), job(1, "lstm"), job(2, "rnn"), job(3, "lstm")]
    shown = Overview(Console(file=StringIO()), jobs, [], 1, clock=lambda: now[0])
    for number, seconds in ((0, 10.0), (1, 40.0)):
        shown.started(jobs[number])
        now[0] += seconds
        shown.ended(jobs[number], Outcome(number, "finished"))
    assert shown.seconds_left() == pytest.approx(50)
    assert cost(replace(jobs[0], settings={**jobs[0].settings, "steps": 200})) == 2 * cost(jobs[0])


def test_more_jobs_than_lines() -> None:
    jobs = [job(number) for number in range(40)]
    shown = Overview(Console(file=StringIO(), width=80, height=12), jobs, [], 40)
    for each in jobs:
        shown.started(each)
    lines = lines_of(shown, 80)
    assert len(lines) == 10
    assert lines[-1].endswith("and 32 more")


# seqmem sweep status


def made(
    folder: Path, cell: str, seq_len: int, seed: int, state: State, *, score: float = 0.0, pid: int = 0, bias: int = 0
) -> Path:
    """A run's directory by hand."""
    path = folder / "pronoun" / cell / f"len{seq_len}-seed{seed}-{bias}"
    changes = {"cell.name": cell, "cell.forget_bias": bias, "seq_len": seq_len, "seed": seed}
    run_directory(path, score if state == "finished" else None, changes=changes)
    if state == "failed":
        (path / "error.txt").write_text("Traceback")
    write_status(path, state, error="OSError: no luck" if state == "failed" else None, pid=pid)
    return path


def test_status_of_a_sweep(tmp_path: Path, typed: Callable[..., Completed]) -> None:
    folder = tmp_path / "outputs"
    for seed, score in enumerate((0.25, 0.5, 0.75)):
        made(folder, "rnn", 10, seed, "finished", score=score)
    made(folder, "rnn", 20, 0, "running")
    killed = made(folder, "rnn", 20, 1, "running", pid=ended_process())
    failed = made(folder, "lstm", 10, 0, "failed")
    made(folder, "lstm", 20, 2, "interrupted")
    completed = typed("sweep", "status")
    assert (completed.code, completed.err) == (0, "")
    assert completed.out.splitlines() == [
        "pronoun  10          20",
        "lstm     ✗··         ··‖",
        "rnn      ✓✓✓ 50.0 %  ▸†·",
        "",
        "7 runs: ✓ 3 finished  ▸ 1 running  ‖ 1 interrupted  ✗ 1 failed  † 1 killed",
        "",
        f"failed {failed.relative_to(tmp_path)}: OSError: no luck ({(failed / 'error.txt').relative_to(tmp_path)})",
        f"killed {killed.relative_to(tmp_path)}: "
        + next(run.error or "" for run in sweeps.survey([folder])[0] if run.state == "killed"),
    ]
    actual = json.loads(typed("sweep", "status", "--json", "outputs/pronoun").out)
    assert [run["state"] for run in actual["runs"]] == [
        "failed", "interrupted", "finished", "finished", "finished", "running", "killed"
    ]  # fmt: skip
    assert actual["runs"][0]["score"] == "nan"
    assert actual["left_out"] == {}


def test_status_leaves_out_what_is_no_run(tmp_path: Path, typed: Callable[..., Completed]) -> None:
    folder = tmp_path / "outputs"
    for bias in (0, 1):
        made(folder, "lstm", 10, 0, "finished", score=1.0, bias=bias)
    half = made(folder, "lstm", 20, 0, "finished")
    (half / "result.json").write_text('{"score": 0.')
    for name, files in {
        "foreign": {"notes.txt": "hello"},
        "begun": {"run.lock": ""},
        ".sweeps": {"x.yaml": ""},
    }.items():
        (folder / name).mkdir()
        for file, text in files.items():
            (folder / name / file).write_text(text)
    (folder / "alien").mkdir()
    (folder / "alien" / "config.json").write_text('{"no": "run"}')
    completed = typed("sweep", "status", "outputs")
    assert (completed.code, completed.err) == (0, "")
    table, left_out = completed.out.split("\n\n")[0], completed.out.split("\n\n")[-1].splitlines()
    assert table.splitlines() == [
        "pronoun             10", "lstm forget_bias=0  ✓ 100.0 %", "lstm forget_bias=1  ✓ 100.0 %"
    ]  # fmt: skip
    assert len(left_out) == 4
    assert "left out: outputs/alien is not what this seqmem writes: it has no 'task'" in left_out
    assert "left out outputs/begun: ended before it began" in left_out
    assert "left out outputs/foreign: is not a run: it has no config.json" in left_out
    assert left_out[3].startswith(f"left out: {half.relative_to(tmp_path) / 'result.json'} cannot be read: ")
    typed("sweep", "status", "nowhere").refuses("there is no directory nowhere", code=2, verb="sweep status")
    (tmp_path / "empty").mkdir()
    typed("sweep", "status", "empty").refuses("no runs in empty", code=2, verb="sweep status")
    typed("sweep").refuses("required: status", code=2, verb="sweep")
