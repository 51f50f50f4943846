"""Sweeps: checked before they start, every job accounted for, restarted after a kill without loss or repetition."""

import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import replace
from io import StringIO
from pathlib import Path
from typing import Any

import pytest
from hydra._internal.config_loader_impl import ConfigLoaderImpl

from commandline import (
    LSTM,
    TINY,
    Completed,
    assert_same_numbers,
    composed,
    end,
    only_run,
    rows,
    runs_below,
    shadow,
    started,
    until,
)
from seqmem.cli.config import build
from seqmem.cli.config.errors import ConfigError
from seqmem.cli.config.schema import RunConfig
from seqmem.cli.launch import sweep
from seqmem.record.recorder import Recorder

SMALL = [setting for setting in TINY if not setting.startswith(("seq_len=", "steps=", "evaluate.lengths="))]
HELD = '''\
import time
from pathlib import Path
from seqmem.cells import LSTM

class Held(LSTM):
    """An lstm whose training on the shorter sequences stands still in its step 4 while there is a file `hold`."""
    def __init__(self, input_size, hidden_size, *, seq_len):
        super().__init__(input_size, hidden_size, seq_len=seq_len)
        self.short, self.steps = seq_len == 8, 0
    def forward(self, xs, state=None):
        self.steps += self.training
        while self.short and self.steps == 4 and Path(__file__).with_name("hold").exists():
            time.sleep(0.02)
        return super().forward(xs, state)
'''
FOUR = ("train", "-m", "cell=custom", "cell.target=held.Held", "seq_len=8,12", "steps=6", *SMALL)


def results(folder: Path) -> list[Path]:
    return sorted(folder.rglob("result.json"))


def contents(run: Path) -> dict[str, tuple[bytes, int]]:
    return {path.name: (path.read_bytes(), path.stat().st_mtime_ns) for path in run.iterdir() if path.is_file()}


def test_a_killed_sweep_is_resumed(
    tmp_path: Path, typed: Callable[..., Completed], monkeypatch: pytest.MonkeyPatch
) -> None:
    """2 x 2 jobs: four results in the end, none run twice, none lost; a third start has nothing to do or to build.

    Files beside the user's own cell have names of libraries, which changes nothing, in one process or in several.
    """
    shadow(tmp_path)
    (tmp_path / "held.py").write_text(HELD)
    (tmp_path / "hold").touch()
    with started(*FOUR, "seed=0,1", "hydra.launcher.workers=2", cwd=tmp_path) as process:  # the longer two come first
        until(lambda: len(results(tmp_path)) == 2 and len(list(tmp_path.rglob("checkpoint.pt"))) == 4, of=process)
        process.kill()
        (tmp_path / "hold").unlink()
        assert end(process).code == -signal.SIGKILL  # once its jobs, which notice, have closed its streams, too
    unfinished = [run for run in runs_below(tmp_path) if not (run / "result.json").exists()]
    states = [json.loads((run / "status.json").read_text())["state"] for run in unfinished]
    assert states == ["interrupted", "interrupted"]
    finished = [path.parent for path in results(tmp_path)]
    before = [contents(run) for run in finished]

    command = (*FOUR, "hydra.launcher.workers=1")
    completed = typed(*command, "seed=0,1")
    assert (completed.code, completed.err) == (0, "")
    lines = completed.out.splitlines()
    assert lines[0] == "sweep of 4 runs, 2 of them finished already"
    assert lines.pop().startswith("next  seqmem report outputs/pronoun   ")
    assert lines[-1] == "4 of 4 runs finished"
    assert len([line for line in lines if "already finished" in line]) == 2
    for line in lines[1:-1]:  # every line names its job
        assert re.match(r"\[\d/4 Held pronoun len(8|12) seed[01]\] ", line), line
    assert [contents(run) for run in finished] == before
    stored = [json.loads(path.read_text()) for path in results(tmp_path)]
    assert len(stored) == 4
    expected = {(seq_len, seed) for seq_len in (8, 12) for seed in (0, 1)}
    assert {(result["seq_len"], result["seed"]) for result in stored} == expected
    assert len({result["loss"] for result in stored}) == 4

    everything = {run: contents(run) for run in runs_below(tmp_path)}
    with monkeypatch.context() as patch:
        patch.setattr(build, "build", None)
        completed = typed(*command, "seed=0")
    assert (completed.code, completed.err) == (0, "")
    assert completed.out.splitlines()[0] == "sweep of 2 runs, 2 of them finished already"
    assert {run: contents(run) for run in runs_below(tmp_path)} == everything

    # A job of a sweep, killed and resumed, equals a single run with the same settings.
    single = [word for word in FOUR if word != "-m" and not word.startswith("seq_len")]
    assert typed(*single, "seq_len=8", "seed=1", "outputs=alone").code == 0
    alone = only_run(tmp_path / "alone")
    assert_same_numbers(tmp_path / "outputs" / alone.relative_to(tmp_path / "alone"), alone)


def test_jobs_that_differ_by_seeds_are_built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is told of, and a user's own class, which may do with its seed what it likes, is tried with each."""
    checked: list[RunConfig] = []

    def check(config: RunConfig) -> None:
        checked.append(config)
        if config.seq_len == 6:
            raise ConfigError("too short")

    monkeypatch.setattr(build, "check", check)
    ours = {at: replace(composed(*TINY), seed=at, seq_len=6 + 2 * (at % 2)) for at in range(6)}
    assert sweep._refused(ours) == dict.fromkeys((0, 2, 4), "too short")
    assert len(checked) == 2
    own = replace(ours[1], cell={"name": "custom", "target": "mine.Cell"})
    assert sweep._refused({at: replace(own, seed=at) for at in range(3)}) == {}
    assert len(checked) == 5


def test_one_job_fails(tmp_path: Path, typed: Callable[..., Completed]) -> None:
    """The failure is named at once and in the summary, the other jobs continue, and the exit code is 1."""
    command = (
        "train", "-m", "task=adding", "cell=rnn", "cell.nonlinearity=relu", "optimizer=sgd", "clip_norm=null",
        "optimizer.lr=0.01,1e30,0.02", "seq_len=8", "steps=6", *SMALL, "hydra.launcher.workers=1",
    )  # fmt: skip
    both = StringIO()
    with redirect_stdout(both), redirect_stderr(both):
        completed = typed(*command)
    assert completed.code == 1
    lines = both.getvalue().splitlines()
    jobs = [line[:4] for line in lines if line.startswith("[")]
    assert jobs == sorted(jobs)
    (failure,) = (line for line in lines if "FAILED" in line)
    assert re.match(r"\[2/3 rnn adding len8 seed0\] FAILED: the loss became (nan|inf) at step \d", failure)
    assert lines.index(failure) < lines.index(next(line for line in lines if line.startswith("[3/3")))
    assert len([line for line in lines if re.match(r"\[[13]/3 .*\] finished  ", line)]) == 2
    assert lines.pop().startswith("next  seqmem sweep status outputs/adding   ")
    assert lines[-2] == "2 of 3 runs finished"
    (loser,) = (run for run in runs_below(tmp_path) if not (run / "result.json").exists())
    assert lines[-1].startswith(f"  failed: {loser.relative_to(tmp_path)}: ")
    assert "the loss became" in lines[-1]
    assert json.loads((loser / "config.json").read_text())["optimizer"]["lr"] == 1e30


def test_ctrl_c_ends_the_whole_sweep(tmp_path: Path, typed: Callable[..., Completed]) -> None:
    def interrupt() -> None:
        while not list(tmp_path.rglob("checkpoint.pt")):
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGINT)

    user = threading.Thread(target=interrupt, daemon=True)
    user.start()
    command = ("train", "-m", *TINY, "seed=0,1,2", "steps=4000", "evaluate.every=4000", "trace.every=0")
    completed = typed(*command, "hydra.launcher.workers=2")
    user.join()
    assert completed.code == 130
    assert completed.err.startswith("seqmem train: stopped, 0 of 3 runs finished, ")
    assert completed.err.endswith("saved: the same command goes on from there\n")
    assert completed.err.count("\n") == 1
    runs = runs_below(tmp_path)
    assert 1 <= len(runs) <= 2  # no other was started
    for run in runs:
        status = json.loads((run / "status.json").read_text())
        assert status["state"] == "interrupted"
        assert rows(run)[-1]["step"] <= status["step"] < 4000
        assert (run / "checkpoint.pt").exists()


def test_ctrl_c_in_the_closing_measurements(
    tmp_path: Path, typed: Callable[..., Completed], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The current run finishes as usual; the runs after it are not started."""
    finished = Recorder.finished

    def interrupt(*args: Any) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        finished(*args)

    monkeypatch.setattr(Recorder, "finished", interrupt)
    completed = typed("train", "-m", *TINY, "seed=range(2)", "quiet=true", "hydra.launcher.workers=1")
    completed.refuses("stopped between two runs: the same command goes on from there", code=130)
    assert len(results(tmp_path)) == len(runs_below(tmp_path)) == 1
    assert typed("train", *TINY, "seed=1", "quiet=true") == Completed(
        0, "", ""
    )  # a single run has nothing left to stop
    assert len(results(tmp_path)) == 2


@pytest.mark.parametrize(("where", "launcher"), [("typed", "local"), ("file", "basic")])
def test_an_interpolation_is_resolved_for_each_job(
    where: str, launcher: str, tmp_path: Path, typed: Callable[..., Completed]
) -> None:
    """Each job has its own value, and the summary counts the runs that were made."""
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    settings = {"seq_len": "8,10", "cell.hidden_size": "${seq_len}", "seed": "${batch_size}"}
    params = json.dumps(settings if where == "file" else {})
    (tmp_path / "mine" / "experiment" / "mine.yaml").write_text(
        f"# @package _global_\nhydra: {{sweeper: {{params: {params}}}}}\n"
    )
    given = [f"{name}={value}" for name, value in settings.items()] if where == "typed" else ["experiment=mine"]
    small = [setting for setting in SMALL if not setting.startswith(("cell.hidden_size=", "batch_size="))]
    completed = typed(
        "train", "-m", "-cd", "mine", *given, *small, "batch_size=5", "steps=2", "evaluate.lengths=[8]",
        f"hydra/launcher={launcher}", *["hydra.launcher.workers=1"][launcher == "basic" :],
    )  # fmt: skip
    assert (completed.code, completed.err) == (0, "")
    assert completed.out.splitlines()[-2] == "2 of 2 runs finished"
    configs = [json.loads((run / "config.json").read_text()) for run in runs_below(tmp_path)]
    assert sorted((one["seq_len"], one["cell"]["hidden_size"], one["seed"]) for one in configs) == [
        (length, length, 5) for length in (8, 10)
    ]


def test_a_sweep_in_a_file(tmp_path: Path, typed: Callable[..., Completed]) -> None:
    """A user's experiment file may define the sweep; the command line overrides it."""
    (tmp_path / "mine" / "experiment").mkdir(parents=True)
    sweeper = "hydra: {sweeper: {params: {seed: '3,4'}}}"
    (tmp_path / "mine" / "experiment" / "seeds.yaml").write_text(
        f"# @package _global_\nsteps: 3\nseq_len: 8\n{sweeper}\n"
    )
    command = ("train", "-m", "-cd", "mine", "experiment=seeds", *SMALL, "hydra.launcher.workers=1")

    def seeds() -> set[str]:
        return {run.name.split("-")[1] for run in runs_below(tmp_path)}

    completed = typed(*command)
    assert (completed.code, completed.err) == (0, "")
    assert completed.out.splitlines()[0] == "sweep of 2 runs"
    assert seeds() == {"seed3", "seed4"}
    completed = typed(*command, "seed=7,7")
    assert completed.code == 0
    assert completed.out.splitlines()[0] == "sweep of 2 runs"
    assert seeds() == {"seed3", "seed4", "seed7"}
    assert completed.out.count("already finished") == 1  # a duplicate runs once
    typed(*command, "sed=7").refuses("Did you mean 'seed'?", code=2)

    # A file may also say that it is one.
    path = tmp_path / "mine" / "experiment" / "seeds.yaml"
    path.write_text(path.read_text().replace("{sweeper", "{mode: MULTIRUN, sweeper"))
    completed = typed(*(word for word in command if word != "-m"))
    assert completed.out.splitlines()[0] == "sweep of 2 runs, 2 of them finished already"


def test_settings_are_composed_once(
    run: Path, typed: Callable[..., Completed], monkeypatch: pytest.MonkeyPatch
) -> None:
    composed = []

    def load(*args: Any, **options: Any) -> Any:
        composed.append(options)
        return original(*args, **options)

    original = ConfigLoaderImpl.load_configuration
    monkeypatch.setattr(ConfigLoaderImpl, "load_configuration", load)
    assert typed("train", *LSTM).code == 0
    assert len(composed) == 1
    assert typed("train", "-m", *LSTM).code == 0
    assert len(composed) == 3  # the sweep's, and one for its jobs
