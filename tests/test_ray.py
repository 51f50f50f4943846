"""Sweeps on Ray, without Ray: a cluster in this process that runs real jobs, with worker deaths at chosen places.

scripts/check_ray checks Ray itself on real clusters.
"""

import os
import socket
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from commandline import TINY, Completed, assert_same_numbers, runs_below, sweep_jobs
from seqmem.cli.config.errors import ConfigError
from seqmem.cli.launch import ray as launch
from seqmem.cli.launch.jobs import Job, Lines, Outcome, work
from seqmem.cli.launch.one_run import StopSignals
from seqmem.runs.files import RunError

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
        self.inits.append({**options, "from": Path.cwd()})
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
def cluster(no_cuda: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Cluster:
    stand_in = Cluster()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, "ray", stand_in)  # type: ignore[arg-type]
    monkeypatch.setenv("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "")
    monkeypatch.setattr(launch, "_APPEARS", 0.0)
    return stand_in


def test_a_sweep_with_a_failure_and_a_death(tmp_path: Path, typed: Callable[..., Completed], cluster: Cluster) -> None:
    """What died half way goes on from there, on its second start, to the same numbers; a failure stops no other job."""
    cluster.deaths = {0: 1}
    completed = typed(*RAY, *ADDING, "optimizer.lr=0.01,1e30,0.02")
    assert completed.code == 1
    lines = completed.out.splitlines()
    assert lines[:2] == ["sweep of 3 runs", "Ray: a cluster of its own on this machine, 2 jobs at once"]
    death_line = (
        "[1/3 rnn adding len8 seed0] its process died (Ray: The worker died unexpectedly): started again, 1 of 3"
    )
    assert lines.count(death_line) == 1
    assert "2 of 3 runs finished" in lines
    (failure,) = completed.err.splitlines()
    assert failure.startswith("[2/3 rnn adding len8 seed0] FAILED: the loss became ")
    assert [job.number for job in cluster.starts] == [0, 1, 2, 0]
    assert cluster.remote_options == [
        {"num_cpus": 1, "num_gpus": 0, "resources": None, "max_calls": 1, "max_retries": 0}
    ]
    assert cluster.inits[0]["address"] == "local"
    assert not cluster.inits[0]["from"].samefile(tmp_path)  # workers look for libraries in the driver's folder first
    assert cluster.shutdowns == 1
    (log,) = (tmp_path / "outputs" / ".sweeps").rglob("*.log")  # kept for the unfinished job only
    assert log.name == "2.log"

    finished = [job for job in cluster.starts[:3] if job.run.finished]
    assert [job.settings["optimizer"]["lr"] for job in finished] == [0.01, 0.02]
    for job in finished:
        here = replace(job, settings={**job.settings, "outputs": "here", "quiet": True})
        assert work(here).state == "finished"
        assert_same_numbers(job.run.path, tmp_path / "here" / Path(job.path).relative_to("outputs"))

    assert [outcome.skipped for outcome in launch.run_jobs(finished)] == [True, True]
    assert len(cluster.inits) == 1  # no job is left, so no other cluster is started


def test_more_deaths_than_retries(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    cluster.deaths = {0: 9}
    dying, other = jobs = sweep_jobs(*ADDING, seeds=(5, 6))
    outcomes = launch.run_jobs(jobs, max_retries=2)
    error = "its process died (Ray: The worker died unexpectedly), 3 times"
    assert [(outcome.state, outcome.error) for outcome in outcomes] == [("lost", error), ("finished", None)]
    assert capsys.readouterr().err == f"[1/2 rnn adding len8 seed5] FAILED: {error}\n"
    assert [job.number for job in cluster.starts] == [0, 1, 0, 0]
    status, finished = dying.run.status(), other.run.status()
    assert status is not None
    assert finished is not None
    assert (status.state, status.error) == ("failed", error)
    assert finished.state == "finished"


def test_a_retry_with_force_resumes(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    (job,) = sweep_jobs(*ADDING, seeds=(0,))
    assert work(job).state == "finished"
    cluster.deaths = {0: 1}
    capsys.readouterr()
    (outcome,) = launch.run_jobs(sweep_jobs(*ADDING, seeds=(0,), force=True))
    assert outcome.state == "finished"
    assert [job.settings["force"] for job in cluster.starts] == [True, False]
    assert "step 0/6" not in capsys.readouterr().out  # the second start resumes


def test_one_run_twice_in_a_sweep(cluster: Cluster, capsys: pytest.CaptureFixture[str]) -> None:
    """Duplicates never write to the directory at the same time: the second is skipped after the first has finished."""
    outcomes = launch.run_jobs(sweep_jobs(*ADDING, seeds=(7, 7, 8)))
    assert [(outcome.state, outcome.skipped) for outcome in outcomes] == [
        ("finished", False), ("finished", True), ("finished", False)
    ]  # fmt: skip
    assert [job.number for job in cluster.starts] == [0, 2]
    captured = capsys.readouterr()
    assert (captured.out.count("already finished"), captured.err) == (1, "")


def test_ctrl_c(cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    """No other job is started, finished jobs count, and the exit code is 130."""
    wait = Cluster.wait

    def interrupt(self: Cluster, references: list[int], *, num_returns: int, timeout: float) -> Any:
        result = wait(self, references, num_returns=num_returns, timeout=timeout)
        if len(self.starts) - len(references) == 0 and timeout:
            os.kill(os.getpid(), 2)
        return result

    monkeypatch.setattr(Cluster, "wait", interrupt)
    outcomes = launch.run_jobs(sweep_jobs(*ADDING, seeds=(1, 2, 3)))
    assert [(outcome.state, outcome.exit_code) for outcome in outcomes] == [
        ("finished", None), ("stopped", 130), ("stopped", 130)
    ]  # fmt: skip
    assert capsys.readouterr().err == "stopping, 2 jobs are left; once more ends them at once\n"
    assert cluster.shutdowns == 1


def test_without_a_shared_file_system(
    tmp_path: Path, cluster: Cluster, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The launcher notices before a job runs, and afterwards."""
    exists = Path.exists
    monkeypatch.setattr(Path, "exists", lambda self: exists(self) and not self.name.startswith("ray-"))
    outcomes = launch.run_jobs(sweep_jobs(*ADDING, seeds=(1, 2)))
    assert [outcome.state for outcome in outcomes] == ["failed", "failed"]
    lines = capsys.readouterr().err
    assert lines.count(" is not there on the node ") == lines.count("\n") == 2
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
    jobs = sweep_jobs(*ADDING, seeds=(0,))

    def refused(line: str, *, error: type[Exception] = ConfigError, **options: Any) -> None:
        with pytest.raises(error) as caught:
            launch.run_jobs(jobs, **options)
        assert line in str(caught.value)
        assert "\n" not in str(caught.value)

    def typed_option(option: str) -> Completed:
        completed = typed(*RAY, f"hydra.launcher.{option}")
        return Completed(completed.code, "", completed.err)

    no_room = "no node of the cluster has what a job takes (3 CPU; the most that one has: 2 CPU)"
    typed_option("num_cpus=3").refuses(no_room, code=2)  # the node with GPUs is not alive
    typed_option("cpus=3").refuses("cpus", code=2)
    refused("the most that one has: 2 CPU, 0 GPU", num_gpus=0.5)
    refused("1 a100", resources={"a100": 1})
    refused("hydra.launcher.num_cpus=1.5: ", num_cpus=1.5)
    refused("hydra.launcher.num_gpus=-1: ", num_gpus=-1)
    refused("hydra.launcher.max_retries=many: ", max_retries="many")
    refused("hydra.launcher.runtime_env", runtime_env=3)
    cluster.reachable = False
    typed_option("address=auto").refuses("no Ray cluster at auto: ConnectionError: Ray is not at auto", code=1)
    with socket.create_server(("127.0.0.1", 0)) as other:  # a server, but not Ray
        address = f"127.0.0.1:{other.getsockname()[1]}"
        refused(f"no Ray cluster at {address}: ConnectionError: Ray is not at", error=RunError, address=address)
    address = f"ray://{address}"
    refused(f"no Ray cluster at {address}: Connection refused", error=RunError, address=address)
    monkeypatch.setitem(sys.modules, "ray", None)
    refused("hydra/launcher=ray needs Ray: ", num_cpus=1)
    assert not cluster.starts


def test_jobs_at_once() -> None:
    """Expected counts by hand: Ray fills each node separately, in units of 1/10,000."""
    nodes = [
        {"Alive": True, "Resources": {"CPU": 8.0, "GPU": 1.0}},
        {"Alive": True, "Resources": {"CPU": 3.0}},
        {"Alive": False, "Resources": {"CPU": 100.0, "GPU": 100.0}},
    ]
    assert launch.jobs_that_fit(nodes, {"CPU": 2, "GPU": 0}) == 4 + 1
    assert launch.jobs_that_fit(nodes, {"CPU": 1, "GPU": 0.3}) == 3
    assert launch.jobs_that_fit(nodes, {"CPU": 0.1, "GPU": 0.1}) == 10
    assert launch.jobs_that_fit(nodes, {"CPU": 9, "GPU": 0}) == 0


def test_the_python_path_of_workers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """This seqmem unless it is installed, then the user's own PYTHONPATH; not the user's folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", "/theirs")
    runtime_env = {"env_vars": {"PYTHONPATH": "/said", "N": 3}, "pip": ["einops"]}
    merged = launch.worker_environment(runtime_env)
    source = str(Path(launch.__file__).resolve().parents[3])
    installed = source.endswith("-packages")
    paths = [*([] if installed else [source]), "/said", "/theirs"]
    assert merged == {"env_vars": {"PYTHONPATH": os.pathsep.join(paths), "N": "3"}, "pip": ["einops"]}
    assert runtime_env["env_vars"]["N"] == 3
    with pytest.raises(ConfigError, match="runtime_env"):
        launch.worker_environment({"env_vars": 3})


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
    (alone,) = sweep_jobs(*ADDING, seeds=(0,), outputs="alone", quiet=True)
    assert work(alone).state == "finished"
    assert_same_numbers(run, tmp_path / "alone" / run.relative_to(tmp_path / "outputs"))
