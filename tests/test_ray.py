"""Sweeps on Ray, without Ray: a cluster in this process that runs real jobs, with worker deaths at chosen places.

scripts/check_ray checks Ray itself on real clusters.
"""

import json
import os
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from commandline import TINY, Completed, assert_same_numbers, runs_below
from seqmem.cli.config.errors import ConfigError
from seqmem.cli.launch import ray as launch
from seqmem.cli.launch.jobs import Job, Lines, Outcome, work
from seqmem.cli.launch.one_run import StopSignals

ADDING = (
    "task=adding", "cell=rnn", "cell.nonlinearity=relu", "optimizer=sgd", "clip_norm=null", "optimizer.lr=0.01", *TINY,
)  # fmt: skip
RAY = ("train", "-m", "hydra/launcher=ray")


class RayError(Exception):
    pass


class WorkerCrashedError(RayError):
    def __str__(self) -> str:
        return "The worker died unexpectedly.\n Check python-core-worker-*.log files for more."


class RayTaskError(RayError):
    cause: Exception


@dataclass
class Cluster:
    """Replaces the module ray. Tasks run one at a time, each when ``wait`` is called.

    Args:
        deaths: job number -> the number of starts that end with the worker's death, half way through.
    """

    deaths: Mapping[int, int] = field(default_factory=dict)
    cpus: float = 2
    reachable: bool = True  # whether there is a cluster at an address
    inits: list[dict[str, Any]] = field(default_factory=list)
    remote_options: list[dict[str, Any]] = field(default_factory=list)
    starts: list[Job] = field(default_factory=list)
    results: dict[int, Any] = field(default_factory=dict)
    shutdowns: int = 0

    exceptions = SimpleNamespace(
        RayError=RayError,
        RayTaskError=RayTaskError,
        RuntimeEnvSetupError=type("RuntimeEnvSetupError", (RayError,), {}),
        TaskCancelledError=type("TaskCancelledError", (RayError,), {}),
    )

    def init(self, **options: Any) -> None:
        self.inits.append(options)
        if not self.reachable:
            raise ConnectionError(f"Ray is not\nat {options['address']}.")

    def shutdown(self) -> None:
        self.shutdowns += 1

    def nodes(self) -> list[dict[str, Any]]:
        return [
            {"Alive": True, "Resources": {"CPU": self.cpus, "memory": 1e9}},
            {"Alive": False, "Resources": {"CPU": 64.0, "GPU": 8.0}},
        ]

    def remote(self, **options: Any) -> Callable[[Callable[..., Any]], Any]:
        self.remote_options.append(options)

        def decorator(function: Callable[..., Any]) -> Any:
            return SimpleNamespace(remote=lambda *args: self._submit(function, *args))

        return decorator

    def _submit(self, function: Callable[..., Any], job: Job, *args: Any) -> int:
        reference = len(self.starts)
        self.starts.append(job)
        self.results[reference] = lambda: self._execute(function, job, *args)
        return reference

    def _execute(self, function: Callable[..., Any], job: Job, *args: Any) -> Any:
        if sum(start.number == job.number for start in self.starts) <= self.deaths.get(job.number, 0):
            half_way = StopSignals()
            half_way.requested = lambda: (job.run.path / "checkpoint.pt").exists()  # type: ignore[method-assign]
            work(replace(job, settings={**job.settings, "quiet": True}), stop=half_way)
            job.run.set_status("running", step=0)  # the status that a killed run leaves
            return WorkerCrashedError()
        try:
            return function(job, *args)
        except Exception as error:
            task_error = RayTaskError("a long story")
            task_error.cause = error
            return task_error

    def wait(self, references: list[int], *, num_returns: int, timeout: float) -> tuple[list[int], list[int]]:
        for reference in references:
            if callable(self.results[reference]) and timeout:
                self.results[reference] = self.results[reference]()
                break
        ready = [reference for reference in references if not callable(self.results[reference])][:num_returns]
        return ready, [reference for reference in references if reference not in ready]

    def get(self, reference: int) -> Outcome:
        if isinstance(self.results[reference], Exception):
            raise self.results[reference]
        return self.results[reference]

    def cancel(self, reference: int, *, force: bool) -> None:
        assert not force
        self.results[reference] = self.exceptions.TaskCancelledError("cancelled")


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Cluster:
    stand_in = Cluster()
    monkeypatch.setitem(sys.modules, "ray", stand_in)  # type: ignore[arg-type]
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "")
    monkeypatch.setattr(launch, "_APPEARS", 0.0)
    return stand_in


def test_a_sweep_with_a_failure_and_a_death(tmp_path: Path, typed: Callable[..., Completed], cluster: Cluster) -> None:
    """What died half way goes on from there, on its second start, to the same numbers; a failure stops no other job."""
    cluster.deaths = {1: 1}
    rates = "optimizer.lr=0.01,0.02,1e30,0.03"
    completed = typed(*RAY, *ADDING, rates)
    assert completed.code == 1
    lines = completed.out.splitlines()
    assert lines[:2] == ["sweep of 4 runs", "Ray: a cluster of its own on this machine, 2 jobs at once"]
    death_line = (
        "[2/4 rnn adding len8 seed0] its process died (Ray: The worker died unexpectedly): started again, 1 of 3"
    )
    assert lines.count(death_line) == 1
    assert "3 of 4 runs finished" in lines
    (failure,) = completed.err.splitlines()
    assert failure.startswith("[3/4 rnn adding len8 seed0] FAILED: the loss became ")
    assert [job.number for job in cluster.starts] == [0, 1, 2, 3, 1]
    assert cluster.remote_options == [
        {"num_cpus": 1, "num_gpus": 0, "resources": None, "max_calls": 1, "max_retries": 0}
    ]
    assert cluster.inits[0]["address"] == "local"
    assert cluster.shutdowns == 1
    (log,) = (tmp_path / "outputs" / ".sweeps").rglob("*.log")  # kept for the unfinished job only
    assert log.name == "3.log"

    assert typed("train", "-m", "hydra.launcher.workers=1", *ADDING, rates, "outputs=local", "quiet=true").code == 1
    for run in runs_below(tmp_path / "local"):
        if (run / "result.json").exists():
            assert_same_numbers(tmp_path / "outputs" / run.relative_to(tmp_path / "local"), run)

    completed = typed(*RAY, *ADDING, "optimizer.lr=0.01,0.02,0.03")  # no job is left, so no cluster is started
    assert (completed.code, completed.err) == (0, "")
    assert [line.partition("] ")[2].partition(":")[0] for line in completed.out.splitlines()[1:-1]] == 3 * [
        "already finished"
    ]
    assert len(cluster.inits) == 1


def test_more_deaths_than_retries(tmp_path: Path, typed: Callable[..., Completed], cluster: Cluster) -> None:
    cluster.deaths = {0: 9}
    completed = typed(*RAY, "hydra.launcher.max_retries=2", *ADDING, "seed=5,6")
    assert completed.code == 1
    assert completed.err.splitlines() == [
        "[1/2 rnn adding len8 seed5] FAILED: its process died (Ray: The worker died unexpectedly), 3 times"
    ]
    assert [job.number for job in cluster.starts] == [0, 1, 0, 0]
    assert "1 of 2 runs finished" in completed.out
    states = {path.parent.name[:10]: json.loads(path.read_text()) for path in tmp_path.rglob("status.json")}
    assert states["len8-seed5"]["state"] == "failed"
    assert "its process died" in states["len8-seed5"]["error"]
    assert states["len8-seed6"]["state"] == "finished"


def test_a_retry_with_force_resumes(typed: Callable[..., Completed], cluster: Cluster) -> None:
    assert typed("train", *ADDING, "quiet=true").code == 0
    cluster.deaths = {0: 1}
    completed = typed(*RAY, *ADDING, "force=true")
    assert completed.code == 0
    assert [job.settings["force"] for job in cluster.starts] == [True, False]
    assert "step 0/6" not in completed.out  # the second start resumes


def test_one_run_twice_in_a_sweep(typed: Callable[..., Completed], cluster: Cluster) -> None:
    """Duplicates never write to the directory at the same time: the second is skipped after the first has finished."""
    completed = typed(*RAY, *ADDING, "seed=7,7,8")
    assert (completed.code, completed.err) == (0, "")
    assert [job.number for job in cluster.starts] == [0, 2]
    assert completed.out.count("already finished") == 1


def test_ctrl_c(typed: Callable[..., Completed], cluster: Cluster, monkeypatch: pytest.MonkeyPatch) -> None:
    """No other job is started, finished jobs count, and the exit code is 130."""
    wait = Cluster.wait

    def interrupt(self: Cluster, references: list[int], *, num_returns: int, timeout: float) -> Any:
        result = wait(self, references, num_returns=num_returns, timeout=timeout)
        if len(self.starts) - len(references) == 0 and timeout:
            os.kill(os.getpid(), 2)
        return result

    monkeypatch.setattr(Cluster, "wait", interrupt)
    completed = typed(*RAY, *ADDING, "seed=1,2,3")
    assert completed.code == 130
    assert completed.err.splitlines()[0].startswith("stopping, 2 jobs are left")
    assert completed.err.splitlines()[1].startswith("seqmem train: stopped")
    assert completed.err.count("\n") == 2
    assert cluster.shutdowns == 1


def test_without_a_shared_file_system(
    tmp_path: Path, typed: Callable[..., Completed], cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The launcher notices before a job runs, and afterwards."""
    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda self: exists(self) and not self.name.startswith("ray-"))
    completed = typed(*RAY, *ADDING, "seed=1,2")
    assert completed.code == 1
    assert completed.err.count(" is not there on the node ") == completed.err.count("\n") == 2
    assert runs_below(tmp_path) == []

    monkeypatch.setattr(Path, "exists", exists)
    job = Job(0, 1, "x", (), {"outputs": "outputs"}, str(tmp_path), "outputs/x")
    cluster.results[0] = Outcome(0, "finished", score=1.0)
    sweep = launch._Sweep(cluster, SimpleNamespace(remote=lambda *_: 0), tmp_path, 0, Lines())
    (outcome,) = sweep.run([job]).values()
    assert outcome.state == "failed"
    assert "its result is not here" in (outcome.error or "")


def test_invalid_options_are_refused(
    typed: Callable[..., Completed], cluster: Cluster, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refusal(option: str) -> Completed:
        completed = typed(*RAY, f"hydra.launcher.{option}")
        return Completed(completed.code, "", completed.err)

    refusal("num_cpus=3").refuses("no node of the cluster has what a job takes (3 CPU; ", code=2)
    refusal("num_gpus=0.5").refuses("the most that one has: 2 CPU, 0 GPU", code=2)  # the node with GPUs is not alive
    refusal("resources={a100: 1}").refuses("1 a100", code=2)
    refusal("num_cpus=1.5").refuses("hydra.launcher.num_cpus=1.5: ", code=2)
    refusal("num_gpus=-1").refuses("hydra.launcher.num_gpus=-1: ", code=2)
    refusal("max_retries=many").refuses("hydra.launcher.max_retries=many: ", code=2)
    refusal("runtime_env=3").refuses("hydra.launcher.runtime_env", code=2)
    refusal("cpus=3").refuses("cpus", code=2)
    cluster.reachable = False
    refusal("address=auto").refuses("no Ray cluster at auto: ConnectionError: Ray is not at auto", code=1)
    with socket.create_server(("127.0.0.1", 0)) as other:  # a server, but not Ray
        address = f"127.0.0.1:{other.getsockname()[1]}"
        refusal(f"address={address}").refuses(f"no Ray cluster at {address}: ConnectionError: Ray is not at", code=1)
    refusal(f"address=ray://{address}").refuses(f"no Ray cluster at ray://{address}: Connection refused", code=1)
    monkeypatch.setitem(sys.modules, "ray", None)
    refusal("num_cpus=1").refuses("hydra/launcher=ray needs Ray: pip install seqmem[ray]", code=2)
    assert not cluster.starts


def test_jobs_at_once() -> None:
    """Expected counts by hand: Ray fills each node separately, in units of 1/10,000."""
    nodes = [
        {"Alive": True, "Resources": {"CPU": 8.0, "GPU": 1.0}},
        {"Alive": True, "Resources": {"CPU": 3.0}},
        {"Alive": False, "Resources": {"CPU": 100.0, "GPU": 100.0}},
    ]
    assert launch._fitting(nodes, {"CPU": 2, "GPU": 0}) == 4 + 1
    assert launch._fitting(nodes, {"CPU": 1, "GPU": 0.3}) == 3
    assert launch._fitting(nodes, {"CPU": 0.1, "GPU": 0.1}) == 10
    assert launch._fitting(nodes, {"CPU": 9, "GPU": 0}) == 0


def test_the_python_path_of_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The user's folder comes first, then this seqmem unless it is installed, then the user's own PYTHONPATH."""
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path), "/theirs"]))
    job = Job(0, 1, "x", (), {}, str(tmp_path), "x")
    runtime_env = {"env_vars": {"PYTHONPATH": "/said", "N": 3}, "pip": ["einops"]}
    merged = launch._environment(job, runtime_env)
    source = str(Path(launch.__file__).resolve().parents[3])
    installed = source.endswith("-packages")
    paths = [str(tmp_path), *([] if installed else [source]), "/said", "/theirs"]
    assert merged == {"env_vars": {"PYTHONPATH": os.pathsep.join(paths), "N": "3"}, "pip": ["einops"]}
    assert runtime_env["env_vars"]["N"] == 3
    with pytest.raises(ConfigError, match="runtime_env"):
        launch._environment(job, {"env_vars": 3})


def test_joblib(tmp_path: Path, typed: Callable[..., Completed]) -> None:
    """Hydra's own launcher, sequential here; scripts/check_ray runs it with processes."""
    completed = typed(
        "train", "-m", "hydra/launcher=joblib", "hydra.launcher.n_jobs=1", *ADDING, "optimizer.lr=0.01,1e30"
    )
    assert completed.code == 1
    assert "1 of 2 runs finished" in completed.out
    assert "[1/2 rnn adding len8 seed0] finished" in completed.out
    assert "[2/2 rnn adding len8 seed0] FAILED: the loss became " in completed.err
    (run,) = (run for run in runs_below(tmp_path) if (run / "result.json").exists())
    assert typed("train", *ADDING, "outputs=alone", "quiet=true").code == 0
    assert_same_numbers(run, tmp_path / "alone" / run.relative_to(tmp_path / "outputs"))
