"""Each run is a task on a Ray cluster, in a process of its own.

The cluster moves jobs and outcomes only. What a run is lies in its directory, which this machine and the cluster's
nodes must share; so do the lines that the jobs print, which are shown here as they come.
"""

import logging
import os
import socket
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ...runs.directory import RunError
from ..config.errors import ConfigError, one_line
from ..config.schema import usable_cores
from .jobs import Job, Outcome, lost, skip, work
from .one_run import StopSignals

_POLL = 0.3
"""Seconds between two looks at what the jobs have printed."""

_SAVING = 60.0
"""Seconds that running jobs have to save themselves after Ctrl-C."""

_APPEARS = 10.0
"""Seconds after which what one machine has written is there on another; network file systems remember for a while."""

_LINE = 300
"""The longest cause, in letters. Some of Ray's are pages."""

_DEATHS = {
    "WorkerCrashedError": "its process died",
    "NodeDiedError": "its node died",
    "OutOfMemoryError": "its node was out of memory",
}


def run_jobs(
    jobs: Sequence[Job],
    *,
    address: str | None = None,
    num_cpus: Any = 1,
    num_gpus: Any = 0,
    resources: Any = None,
    max_retries: Any = 3,
    autoscaling: bool = False,
    runtime_env: Any = None,
    log_to_driver: bool = False,
    **unknown: Any,
) -> list[Outcome]:
    """One outcome for each job, in their order. Ctrl-C and SIGTERM let running jobs save themselves.

    Args:
        address: of a cluster that exists, as Ray has it ("auto": the one on this machine); None: one of our own, on
            this machine, for as long as the sweep takes.
        num_cpus, num_gpus, resources: what each job takes of a node. A part of a GPU is possible.
        max_retries: starts after the first of a job whose worker or node dies; it goes on from its checkpoint.
        autoscaling: the cluster adds nodes by itself, so what a job takes may be found on none of them yet.
        runtime_env: Ray's, for the workers.
        log_to_driver: also show what Ray itself has to say, and what workers print besides the jobs' lines.

    Raises:
        ConfigError: Ray is not installed; no node has what a job takes; an option cannot be.
        RunError: there is no cluster at ``address``, or none can be started; the jobs' lines cannot be written.
    """
    if unknown:
        known = "address, num_cpus, num_gpus, resources, max_retries, autoscaling, runtime_env, log_to_driver"
        raise ConfigError(f"there is no setting 'hydra.launcher.{next(iter(unknown))}'. One of: {known}")
    needs = _checked(num_cpus, num_gpus, resources, max_retries)
    outcomes: dict[int, Outcome] = {}
    waiting: list[Job] = []
    for job in jobs:
        if (found := skip(job)) is None:
            waiting.append(job)
        else:
            outcomes[job.number] = found
            _say_skipped(job)
    if waiting:
        if address is None:
            # So that it listens on the loopback interface alone. Ray reads this when it is imported, and has no other
            # setting for it: an address of 127.0.0.1 becomes the machine's own.
            os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        ray = _ray()
        with _logs(waiting[0]) as logs, _cluster(ray, address, _environment(waiting[0], runtime_env), log_to_driver):
            at_once = _fitting(ray.nodes(), needs)
            if not at_once and not autoscaling:
                raise ConfigError(_nowhere(ray.nodes(), needs))
            if not waiting[0].settings.get("quiet"):
                where = f"the cluster at {address}" if address else "a cluster of its own on this machine"
                print(f"Ray: {where}, {at_once} {'job' if at_once == 1 else 'jobs'} at once", flush=True)
            task = ray.remote(
                num_cpus=needs.pop("CPU"),
                num_gpus=needs.pop("GPU"),
                resources=needs or None,
                max_calls=1,  # a process for each, so that no job sees what another has left
                max_retries=0,  # here, so that it can be said, and counted
            )(_task)
            outcomes |= _Sweep(ray, task, logs, max_retries).run(waiting)
    return [outcomes[job.number] for job in jobs]


def _task(job: Job, logs: str, wanted: str) -> Outcome:
    """In a worker."""
    host = socket.gethostname()
    if not _appears(Path(logs)):
        raise RunError(
            f"{logs} is not there on the node {host}: the nodes need the file system that the runs are written to"
        )
    if (found := version("seqmem")) != wanted:
        raise RunError(f"the node {host} has seqmem {found}, and this machine {wanted}: install the same")
    with (
        _log(logs, job).open("a", buffering=1, encoding="utf-8", errors="backslashreplace") as log,
        redirect_stdout(log),
        redirect_stderr(log),
    ):
        return work(job, silent=True)


@dataclass
class _Sweep:
    """The jobs that are on the cluster, and what became of those that were."""

    ray: Any
    task: Any
    logs: Path
    max_retries: int
    running: dict[Any, Job] = field(default_factory=dict)  # by the reference to what it will return
    retries: dict[int, int] = field(default_factory=dict)
    shown: dict[int, int] = field(default_factory=dict)  # bytes of a job's lines that were printed here
    twins: dict[str, list[Job]] = field(default_factory=dict)  # jobs for a directory that another one is writing to
    outcomes: dict[int, Outcome] = field(default_factory=dict)
    full: bool = False  # the disk
    stopping: bool = False

    def run(self, jobs: Sequence[Job]) -> dict[int, Outcome]:
        stop = StopSignals()
        with stop.caught():
            try:
                for job in jobs:
                    if job.path in self.twins:
                        self.twins[job.path].append(job)
                    else:
                        self.twins[job.path] = []
                        self._submit(job)
                while self.running and not stop.requested():
                    self._wait()
                if stop.requested():
                    print(f"stopping, {len(self.running)} jobs are left; once more ends them at once", file=sys.stderr)
                    self._stop()
            except KeyboardInterrupt:  # the second one: what runs ends with this process, where it last saved itself
                if not stop.requested():
                    raise
            except OSError:  # nobody reads any more what is printed
                self._stop()
                raise
        for job in jobs:
            if job.number not in self.outcomes and self.full:
                self.outcomes[job.number] = Outcome(
                    job.number, "failed", error="not started: the disk is full", full=True
                )
            elif job.number not in self.outcomes or self.outcomes[job.number].state == "stopped":
                self.outcomes[job.number] = Outcome(
                    job.number, "stopped", error="stopped", exit_code=stop.exit_code if stop.requested() else None
                )
        return self.outcomes

    def _submit(self, job: Job) -> None:
        self.running[self.task.remote(job, str(self.logs), version("seqmem"))] = job

    def _cancel(self, reference: Any) -> None:
        """Ctrl-C to a job that runs, and the end of one that does not."""
        with suppress(self.ray.exceptions.RayError):
            self.ray.cancel(reference, force=False)

    def _stop(self) -> None:
        self.stopping = True
        for reference in self.running:
            self._cancel(reference)
        deadline = time.monotonic() + _SAVING
        while self.running and time.monotonic() < deadline:
            self._wait()

    def _wait(self) -> None:
        """Take what has come back, for a moment."""
        ready, _ = self.ray.wait(list(self.running), num_returns=1, timeout=_POLL)
        if ready:
            ready, _ = self.ray.wait(list(self.running), num_returns=len(self.running), timeout=0)
        for job in self.running.values():
            self._show(job)
        for reference in ready:
            self._back(self.running.pop(reference), reference)

    def _back(self, job: Job, reference: Any) -> None:
        errors, outcome, why = self.ray.exceptions, None, ""
        try:
            outcome = self.ray.get(reference)
            if outcome.state == "stopped":
                why = "was told to stop on its node"
        except errors.TaskCancelledError:
            why = "was cancelled"
            outcome = Outcome(job.number, "stopped", error=why)
        except (errors.RayTaskError, errors.RuntimeEnvSetupError) as error:  # it would be so another time
            outcome = Outcome(job.number, "failed", error=_one_line(error))
        except errors.RayError as error:
            why = _one_line(error)
        self._show(job)
        if (self.stopping or self.full) and outcome is not None and outcome.state == "stopped":
            return  # as it was told
        tried = self.retries.get(job.number, 0)
        if why and not self.stopping and not self.full and tried < self.max_retries:
            if job.run.finished and not job.settings.get("force"):  # it died after its last word
                self._account(job, lost(job, why))
                return
            self.retries[job.number] = tried + 1
            if not job.settings.get("quiet"):
                print(f"{job.prefix}{why}: started again, {tried + 1} of {self.max_retries}", flush=True)
            # What has been begun with force=true must not begin a second time.
            force = bool(job.settings.get("force")) and job.run.finished
            self._submit(replace(job, settings={**job.settings, "force": force}))
            return
        if outcome is None:
            outcome = lost(job, f"{why}, {tried + 1} times" if tried else why)
        if outcome.state == "finished" and not _appears(job.run.path / "result.json"):
            here = "it finished, but its result is not here: the nodes need the file system that runs are written to"
            outcome = Outcome(job.number, "failed", error=f"{job.run.path}: {here}")
        self._account(job, outcome)

    def _account(self, job: Job, outcome: Outcome) -> None:
        self.outcomes[job.number] = outcome
        if outcome.state in ("failed", "lost") and not (outcome.full and self.full):
            sys.stderr.write(f"{job.prefix}FAILED: {outcome.error}\n")
            sys.stderr.flush()
        with suppress(OSError):
            if outcome.state == "finished" or not _log(self.logs, job).stat().st_size:
                _log(self.logs, job).unlink(missing_ok=True)
        if outcome.full and not self.full:
            self.full = True
            sys.stderr.write("no other run is started, as the disk is full\n")
            for reference, other in self.running.items():
                if not _log(self.logs, other).exists():
                    self._cancel(reference)
        others = self.twins[job.path]
        while others and not self.stopping and not self.full:
            twin = others.pop(0)
            if (found := skip(twin)) is None:
                self._submit(twin)
                return
            self.outcomes[twin.number] = found
            _say_skipped(twin)

    def _show(self, job: Job) -> None:
        """Whole lines that the job has printed since."""
        seen = self.shown.get(job.number, 0)
        try:
            with _log(self.logs, job).open("rb") as log:
                log.seek(seen)
                new = log.read()
        except OSError:  # it has not begun; or it is not to be seen from here, which is said when it ends
            return
        end = new.rfind(b"\n") + 1
        self.shown[job.number] = seen + end
        for line in new[:end].decode(errors="backslashreplace").splitlines(keepends=True):
            sys.stdout.write(line)
            sys.stdout.flush()


# Before the first job


def _checked(num_cpus: Any, num_gpus: Any, resources: Any, max_retries: Any) -> dict[str, Any]:
    """What a job takes, as Ray counts it."""
    if resources is not None and not isinstance(resources, Mapping):
        raise ConfigError(f"hydra.launcher.resources={resources}: must be several settings, e.g. {{a100:1}}")
    needs: dict[str, Any] = {"CPU": num_cpus, "GPU": num_gpus, **(resources or {})}
    for name, amount in needs.items():
        key = {"CPU": "num_cpus", "GPU": "num_gpus"}.get(name, f"resources.{name}")
        if isinstance(amount, bool) or not isinstance(amount, int | float) or not 0 <= amount < float("inf"):
            raise ConfigError(f"hydra.launcher.{key}={amount}: a number, not below 0")
        if amount > 1 and amount != int(amount):
            raise ConfigError(f"hydra.launcher.{key}={amount}: Ray knows parts below 1, and whole numbers above")
    if isinstance(max_retries, bool) or not isinstance(max_retries, int) or max_retries < 0:
        raise ConfigError(f"hydra.launcher.max_retries={max_retries}: a whole number, not below 0")
    return needs


def _ray() -> Any:
    try:
        return import_module("ray")
    except ModuleNotFoundError as error:
        if error.name != "ray":
            raise
        raise ConfigError("hydra/launcher=ray needs Ray: pip install seqmem[ray]") from None


def _environment(job: Job, runtime_env: Any) -> dict[str, Any]:
    """Ray's runtime environment: the user's, in which the user's modules and this seqmem are found."""
    said = runtime_env.get("env_vars") if isinstance(runtime_env, Mapping) else None
    for name, part in (("runtime_env", runtime_env), ("runtime_env.env_vars", said)):
        if part is not None and not isinstance(part, Mapping):
            raise ConfigError(f"hydra.launcher.{name}={part}: must be several settings, e.g. {{a:1,b:2}}")
    given = dict(runtime_env or {})
    variables = {str(name): str(value) for name, value in dict(given.get("env_vars") or {}).items()}
    source = Path(__file__).resolve().parents[3]
    places = [job.folder, variables.get("PYTHONPATH", ""), os.environ.get("PYTHONPATH", "")]
    if source.name not in ("site-packages", "dist-packages"):
        places.insert(1, str(source))
    paths = [path for place in places for path in place.split(os.pathsep) if path]
    return {**given, "env_vars": {**variables, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}}


@contextmanager
def _cluster(ray: Any, address: str | None, runtime_env: dict[str, Any], log_to_driver: bool) -> Iterator[None]:
    """This process as a driver; a cluster that was started for it ends with it."""
    common = {"runtime_env": runtime_env, "log_to_driver": log_to_driver, "logging_level": logging.ERROR}
    own: dict[str, Any] = {}
    if address is None:
        # Jobs and outcomes are small; Ray would set a third of the memory aside.
        own = {"num_cpus": usable_cores(), "object_store_memory": 100 * 2**20, "include_dashboard": False}
    _answers(address)
    try:
        ray.init(address=address or "local", **own, **common)
    except Exception as error:  # whatever Ray raises: it has a dozen kinds
        with suppress(Exception):
            ray.shutdown()
        what = f"no Ray cluster at {address}" if address else "Ray could not start a cluster on this machine"
        raise RunError(f"{what}: {_one_line(error)}") from error
    if not log_to_driver:
        # Ray says at length when a worker dies, and so do we, in a line. There is no setting for it.
        with suppress(ImportError):
            vars(import_module("ray._private.worker"))["_worker_logs_enabled"] = False
    try:
        yield
    finally:
        ray.shutdown()


def _answers(address: str | None) -> None:
    """Ray tries for minutes to reach a cluster that is not there.

    Raises:
        RunError: nobody listens at ``address``, where it names a machine and a port.
    """
    host, _, port = (address or "").rpartition("://")[2].partition("/")[0].rpartition(":")
    if not host or not port.isdecimal():
        return  # "auto", and whatever else Ray knows how to find
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise RunError(f"no Ray cluster at {address}: {getattr(error, 'strerror', None) or error}") from error


def _fitting(nodes: Sequence[Mapping[str, Any]], needs: Mapping[str, int | float]) -> int:
    """Jobs that run at once on the nodes as they are, were nothing else on them."""
    total = 0
    for node in nodes:
        have = node["Resources"] if node["Alive"] else {}
        # Ray counts in ten-thousandths.
        fit = [round(have.get(name, 0) * 1e4) // round(amount * 1e4) for name, amount in needs.items() if amount > 0]
        total += int(min(fit, default=1))
    return total


def _nowhere(nodes: Sequence[Mapping[str, Any]], needs: Mapping[str, int | float]) -> str:
    wanted = ", ".join(f"{amount:g} {name}" for name, amount in needs.items() if amount > 0)
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    most = {name: max((have.get(name, 0) for have in alive), default=0) for name, amount in needs.items() if amount > 0}
    found = ", ".join(f"{amount:g} {name}" for name, amount in most.items())
    return (
        f"no node of the cluster has what a job takes ({wanted}; the most that one has: {found}), so it would wait for "
        "ever: change hydra.launcher.num_cpus, num_gpus or resources, or say autoscaling=true if nodes are yet to come"
    )


@contextmanager
def _logs(job: Job) -> Iterator[Path]:
    """The folder of what the jobs print; afterwards, of what those printed that did not finish."""
    name = f"ray-{time.strftime('%Y%m%d-%H%M%S')}-{os.getpid()}"
    folder = Path(job.folder) / str(job.settings["outputs"]) / ".sweeps" / name
    try:
        folder.mkdir(parents=True)
    except OSError as error:
        raise RunError(f"cannot write to {folder}: {error.strerror or error}") from error
    try:
        yield folder
    finally:
        for empty in (folder, folder.parent):
            with suppress(OSError):  # there is something in it
                empty.rmdir()


def _log(logs: Path | str, job: Job) -> Path:
    return Path(logs) / f"{job.number + 1}.log"


def _say_skipped(job: Job) -> None:
    if not job.settings.get("quiet"):
        print(f"{job.prefix}already finished: {job.path} (force=true runs it again)", flush=True)


def _appears(path: Path) -> bool:
    deadline = time.monotonic() + _APPEARS
    while not path.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def _one_line(error: BaseException) -> str:
    """Of what Ray raised, or of what it carried here."""
    carried = getattr(error, "cause", None)
    if isinstance(carried, BaseException):
        return one_line(carried)
    text = " ".join(str(error).split())
    for advice in (" Check python-core-worker-*.log files", " To troubleshoot", " To resolve this"):
        text = text.partition(advice)[0]
    text = text.rstrip(".") if len(text) <= _LINE else text[:_LINE] + "..."
    what = _DEATHS.get(type(error).__name__)
    return f"{what} (Ray: {text})" if what else f"{type(error).__name__}: {text}"
