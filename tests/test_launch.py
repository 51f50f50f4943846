"""The local launcher: the same bits from any number of processes, isolated faults, the overview; and
``seqmem sweep status``."""

import errno
import json
import multiprocessing
import os
import re
import socket
import tempfile
from collections.abc import Callable
from dataclasses import replace
from io import StringIO
from multiprocessing.connection import Listener
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from commandline import OWN_CELLS, TINY, Completed, assert_same_numbers, runs_below, sweep_jobs
from made_up import ended_process, run_directory, write_status
from seqmem.cli.config.errors import ConfigError
from seqmem.cli.launch import jobs as launch_jobs
from seqmem.cli.launch import local, sockets, sweep
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


@pytest.fixture
def here(no_cuda: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Jobs run in this directory."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def test_two_processes_and_one_give_the_same_bits(
    tmp_path: Path, typed: Callable[..., Completed], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "usable_cores", lambda: 2)  # as many processes at once as there are
    cells = ("rnn", "lstm", "gru")
    completed = typed("train", "-m", *TINY, f"cell={','.join(cells)}")
    assert (completed.code, completed.err) == (0, "")
    for line in completed.out.splitlines()[1:-2]:
        assert re.match(r"\[\d/3 (rnn|lstm|gru) pronoun len8 seed0\] ", line), line
    serial = [job for cell in cells for job in sweep_jobs(*TINY, f"cell={cell}", seeds=(0,), outputs="serial")]
    assert [outcome.state for outcome in local.run_jobs(serial, workers=1)] == ["finished"] * 3
    runs = runs_below(tmp_path / "outputs")
    assert len(runs) == 3
    for run in runs:
        assert_same_numbers(run, tmp_path / "serial" / run.relative_to(tmp_path / "outputs"))
    environment = json.loads((runs[0] / "environment.json").read_text())
    assert environment["threads"] == 1
    assert len(pids(runs)) == 2  # one of the two went on with the third
    assert os.getpid() not in pids(runs)


def pids(runs: list[Path]) -> set[int]:
    return {json.loads((run / "status.json").read_text())["pid"] for run in runs}


def test_a_killed_job_does_not_stop_the_others(tmp_path: Path, typed: Callable[..., Completed]) -> None:
    """Its cell is the user's own, so each job has a process of its own."""
    (tmp_path / "owncells.py").write_text(OWN_CELLS + FATAL)
    command = ("train", "-m", *TINY, "cell=custom", "cell.target=owncells.Fatal", "cell.args.alpha=0.4,0.5,0.6")
    completed = typed(*command, "hydra.launcher.workers=2", "cell.hidden_size=4")
    assert completed.code == 1
    cause = "killed by signal 9: out of memory?"
    assert f"[2/3 Fatal pronoun len8 seed0] FAILED: {cause}\n" in completed.err
    assert "[1/3 Fatal pronoun len8 seed0] alpha is 0.4\n" in completed.out  # the job's own output is prefixed too
    *_, count, last, _ = completed.out.splitlines()
    assert count == "2 of 3 runs finished"
    assert len(pids(runs_below(tmp_path))) == 3
    (failed_run,) = (run for run in runs_below(tmp_path) if not (run / "result.json").exists())
    assert last == f"  failed: {failed_run.relative_to(tmp_path)}: {cause}"
    status = RunDirectory(failed_run).status()
    assert status is not None
    assert (status.state, status.error) == ("failed", cause)
    arguments = [json.loads((run / "config.json").read_text())["cell"]["args"] for run in runs_below(tmp_path)]
    assert sorted(args["alpha"] for args in arguments) == [0.4, 0.5, 0.6]


def test_a_run_locked_by_another_process(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The sweep waits briefly for the lock, reports the run in one line, and continues with the others."""
    monkeypatch.setattr(launch_jobs, "LOCK_WAIT", 0.1)
    jobs = sweep_jobs(*TINY, seeds=(0, 1))
    run = jobs[0].run
    with run.locked():
        run.set_status("running", step=3)
        outcomes = local.run_jobs(jobs, workers=1)
        assert [(outcome.state, outcome.held) for outcome in outcomes] == [("failed", True), ("finished", False)]
        (line,) = capsys.readouterr().err.splitlines()
        holder = f"is in use by another seqmem (process {os.getpid()} on {socket.gethostname()})"
        assert line.startswith("[1/2 lstm pronoun len8 seed0] FAILED: ")
        assert holder in line
        (count, last), code = summary(jobs, outcomes)
        assert code == 1
        assert count == "1 of 2 runs finished"
        assert last.startswith("  in use: ")
        status = run.status()
        assert status is not None
        assert status.state == "running"  # no other process changed it
    outcomes = local.run_jobs(jobs, workers=1)
    assert [(outcome.state, outcome.skipped) for outcome in outcomes] == [("finished", False), ("finished", True)]
    assert run.finished


def summary(jobs: list[Job], outcomes: list[Outcome]) -> tuple[list[str], int]:
    paths = [Path(job.path) for job in jobs]
    return sweep.summary(sweep.Sweep(paths=paths, outcomes=dict(zip(paths, outcomes, strict=True))))


def test_a_full_disk_is_reported_once(
    here: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    finished, full = Recorder.finished, OSError(errno.ENOSPC, "No space left on device")

    def write(recorder: Recorder, step: int, result: Any) -> None:
        if len(list(here.rglob("result.json"))) == 1:
            raise full
        finished(recorder, step, result)

    monkeypatch.setattr(Recorder, "finished", write)
    jobs = sweep_jobs(*TINY, seeds=(0, 1, 2, 3))
    outcomes = local.run_jobs(jobs, workers=1)
    first, second = capsys.readouterr().err.splitlines()
    assert re.match(r"\[2/4 .*\] FAILED: cannot write to .*: No space left on device", first)
    assert second == "no other run is started, as the disk is full"
    lines, code = summary(jobs, outcomes)
    assert code == 1
    assert lines[0] == "1 of 4 runs finished"
    assert lines[-1] == "  not started: 2 runs: the disk is full"
    assert len(lines) == 3
    assert len(runs_below(here)) == 2


def test_invalid_numbers_of_workers_are_refused(typed: Callable[..., Completed]) -> None:
    for value in (0, "x", 1.5, True):
        with pytest.raises(ConfigError, match=f"hydra.launcher.workers={value}: must be auto, or a whole"):
            local.worker_count(value)
    completed = typed("train", "-m", *TINY, "seed=0,1", "hydra.launcher.workers=true")
    completed.refuses("hydra.launcher.workers=True: must be auto, or a whole", code=2)


def test_quiet_sweeps_print_nothing(tmp_path: Path, typed: Callable[..., Completed]) -> None:
    command = ("train", "-m", *TINY, "seed=1", "quiet=true", "hydra.launcher.workers=1")
    assert typed(*command) == Completed(0, "", "")
    assert typed(*command) == Completed(0, "", "")  # it has finished already
    assert len(runs_below(tmp_path)) == 1


# The overview


def job(number: int, cell: str = "lstm", seq_len: int = 50, steps: int = 100) -> Job:
    settings = {"cell": {"name": cell}, "task": {"name": "pronoun"}, "seq_len": seq_len, "steps": steps}
    title = f"{cell} pronoun len{seq_len} seed{number}"
    return Job(number, 4, title, (), settings, "/nowhere", f"outputs/{number}")


def lines_of(overview: Overview, width: int) -> list[str]:
    out = StringIO()
    Console(file=out, width=width, height=24).print(overview.picture())
    return out.getvalue().splitlines()


@pytest.mark.parametrize("width", [40, 80, 200])
def test_the_overview(width: int) -> None:
    now = [0.0]
    jobs = [job(number) for number in range(5)]
    console = Console(file=StringIO(), force_terminal=True, width=width, height=24, color_system=None)
    overview = Overview(console, jobs, [Outcome(4, "finished", skipped=True)], 2, clock=lambda: now[0])
    assert overview.seconds_left() is None
    overview.started(jobs[0])
    overview.started(jobs[1])
    overview.progress(0, Progress(0, 100))
    now[0] = 10.0
    overview.progress(0, Progress(50, 100, score="31.2 %", chance="25.0 %", rate=5.0))
    # Half a job took 10 s: its second half and three whole jobs are left, for two processes.
    assert overview.seconds_left() == pytest.approx((10 + 3 * 20) / 2)
    head, first, second = lines_of(overview, width)
    assert all(len(line) <= width for line in (head, first, second))
    assert head.startswith("1 of 5 done  2 running")
    assert "50/100" in first
    if width >= 80:
        assert "1 of them before  2 waiting  0:35 left" in head
        assert first.startswith("lstm pronoun len50 seed0  ")
        assert "31.2 % (chance 25.0 %)" in first
        assert second == "lstm pronoun len50 seed1  starting"
    now[0] = 20.0
    overview.ended(jobs[0], Outcome(0, "finished"))
    overview.ended(jobs[1], Outcome(1, "lost", error="killed"))
    assert lines_of(overview, width)[0].startswith("2 of 5 done  0 running  1 failed")
    # One job took 20 s, and the two that are left run in parallel.
    assert overview.seconds_left() == pytest.approx(20)


def test_the_time_left_is_estimated_per_cell() -> None:
    now = [0.0]
    jobs = [job(0, "rnn"), job(1, "lstm"), job(2, "rnn"), job(3, "lstm")]
    overview = Overview(Console(file=StringIO()), jobs, [], 1, clock=lambda: now[0])
    for number, seconds in ((0, 10.0), (1, 40.0)):
        overview.started(jobs[number])
        now[0] += seconds
        overview.ended(jobs[number], Outcome(number, "finished"))
    assert overview.seconds_left() == pytest.approx(50)
    assert cost(replace(jobs[0], settings={**jobs[0].settings, "steps": 200})) == 2 * cost(jobs[0])


def test_more_jobs_than_lines_on_the_screen() -> None:
    jobs = [job(number) for number in range(40)]
    overview = Overview(Console(file=StringIO(), width=80, height=12), jobs, [], 40)
    for each in jobs:
        overview.started(each)
    lines = lines_of(overview, 80)
    assert len(lines) == 10
    assert lines[-1].endswith("and 32 more")


# seqmem sweep status


def make_run(
    folder: Path, cell: str, seq_len: int, seed: int, state: State, *, score: float = 0.0, pid: int = 0, bias: int = 0
) -> Path:
    """Write a run's directory by hand."""
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
        make_run(folder, "rnn", 10, seed, "finished", score=score)
    make_run(folder, "rnn", 20, 0, "running")
    killed = make_run(folder, "rnn", 20, 1, "running", pid=ended_process())
    failed = make_run(folder, "lstm", 10, 0, "failed")
    make_run(folder, "lstm", 20, 2, "interrupted")
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
    status = json.loads(typed("sweep", "status", "--json", "outputs/pronoun").out)
    assert [run["state"] for run in status["runs"]] == [
        "failed", "interrupted", "finished", "finished", "finished", "running", "killed"
    ]  # fmt: skip
    assert status["runs"][0]["score"] == "nan"
    assert status["left_out"] == {}


@pytest.mark.parametrize("width", [1, 40, 80, 200])
def test_rows_of_a_sweep_are_told_apart(width: int, tmp_path: Path) -> None:
    for number in range(6):
        changes = {"optimizer.lr": 0.001 + number // 2, "clip_norm": 0.25 + number % 2 + number // 4, "batch_size": 64}
        changes |= {"cell.init": ("orthogonal", "identity")[number % 2], "seq_len": 10 + 10 * (number % 3)}
        run_directory(tmp_path / f"run{number}", 0.5, changes=changes)
    runs, *_ = sweeps.survey([tmp_path])
    console = Console(file=StringIO(), width=width, force_terminal=True)
    text = " ".join(" ".join(line.plain for line in sweeps.table(runs, console)).split())
    assert len({run.row for run in runs}) == 6
    if width > 1:  # whatever the row is folded at
        assert not [run.row for run in runs if run.row not in text]
    assert text.count("50.0 %") == 6


def test_status_says_nothing_of_reports_and_spans(tmp_path: Path, typed: Callable[..., Completed]) -> None:
    make_run(tmp_path / "outputs", "lstm", 10, 0, "finished", score=1.0)
    for name in ("report/index.html", "report/runs.csv", "report/figures/scores.svg", "spans/pronoun-lstm-1a.json"):
        (tmp_path / "outputs" / name).parent.mkdir(exist_ok=True, parents=True)
        (tmp_path / "outputs" / name).write_text("ours")
    assert "left out" not in typed("sweep", "status").out
    (tmp_path / "outputs").rename(tmp_path / "spans")  # a folder of runs may have that name
    assert typed("sweep", "status", "spans").out.endswith("1 run: ✓ 1 finished\n")


def test_status_leaves_out_directories_that_are_not_runs(tmp_path: Path, typed: Callable[..., Completed]) -> None:
    folder = tmp_path / "outputs"
    for bias in (0, 1):
        make_run(folder, "lstm", 10, 0, "finished", score=1.0, bias=bias)
    truncated = make_run(folder, "lstm", 20, 0, "finished")
    (truncated / "result.json").write_text('{"score": 0.')
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
    assert (completed.code, completed.err) == (1, "")
    table, left_out = completed.out.split("\n\n")[0], completed.out.split("\n\n")[-1].splitlines()
    assert table.splitlines() == [
        "pronoun             10", "lstm forget_bias=0  ✓ 100.0 %", "lstm forget_bias=1  ✓ 100.0 %"
    ]  # fmt: skip
    assert len(left_out) == 4
    assert "left out: outputs/alien is not what this seqmem writes: it has no 'task'" in left_out
    assert "left out outputs/begun: ended before it began" in left_out
    assert "left out outputs/foreign: is not a run: it has no config.json" in left_out
    assert left_out[3].startswith(f"left out: {truncated.relative_to(tmp_path) / 'result.json'} cannot be read: ")
    typed("sweep", "status", "nowhere").refuses("there is no directory nowhere", code=2, verb="sweep status")
    (tmp_path / "empty").mkdir()
    typed("sweep", "status", "empty").refuses("no runs in empty", code=2, verb="sweep status")
    typed("sweep").refuses("required: status", code=2, verb="sweep")


def test_a_directory_for_temporary_files_with_a_long_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A socket, whose path is limited to some hundred bytes, is elsewhere; other files are where the user wants."""
    long = tmp_path / ("x" * 120)
    long.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(long))
    monkeypatch.delitem(multiprocessing.current_process()._config, "tempdir", raising=False)  # type: ignore[attr-defined]
    with local._server_environment(), Listener(family="AF_UNIX") as listener:
        assert not str(listener.address).startswith(str(long))
    assert tempfile.gettempdir() == str(long)
    monkeypatch.setattr(os, "access", lambda place, _: place == str(long))
    with pytest.raises(ConfigError, match=rf"^TMPDIR={long}: too long for a socket below it: at most 70 bytes$"):
        sockets.short_directory(33)


def test_jobs_are_spread_over_gpus(monkeypatch: pytest.MonkeyPatch, here: Path) -> None:
    """With device=auto each sees one, the least used; with another device all. CUDA_VISIBLE_DEVICES is respected."""
    seen: list[tuple[int, str | None]] = []

    class Worker(local._Worker):
        def __init__(self, job: Job, *, live: bool, gpu: str | None = None) -> None:
            self.job, self.gpu, self.idle = job, gpu, False
            self.link, theirs = multiprocessing.Pipe()
            theirs.close()  # it ends at once
            seen.append((job.number, gpu))

        def listen(self, shown: Any) -> bool:
            return False

        def outcome(self) -> Outcome:
            return Outcome(self.job.number, "finished")

    monkeypatch.setattr(local, "_Worker", Worker)
    auto = sweep_jobs(*TINY, seeds=range(5), device="auto")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3, GPU-5f")
    jobs = [*auto, replace(auto[0], number=5, path="x", settings={**auto[0].settings, "device": "cpu"})]
    local.run_jobs(jobs, workers=3)
    assert dict(seen) == {0: "3", 1: "GPU-5f", 2: "3", 3: "3", 4: "GPU-5f", 5: None}
    for count, visible, spread in (
        (4, None, ["0", "1", "2", "3"]),
        (1, None, []),
        (0, "", []),
        (2, "7,6,-1,5", ["7", "6"]),
    ):
        monkeypatch.setattr(torch.cuda, "device_count", lambda count=count: count)
        monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
        if visible is not None:
            monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert local._gpus(auto) == spread
    assert local._gpus(jobs[5:]) == []
