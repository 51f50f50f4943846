"""Runs each job as a task on a Ray cluster, in a separate process.

The cluster moves jobs and outcomes only. Run directories and the lines that jobs print are files, which this machine
and the cluster's nodes must share; the lines are printed here as they appear.
"""

import logging
import os
import socket
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import chdir, contextmanager, nullcontext, redirect_stderr, redirect_stdout, suppress
from dataclasses import dataclass, field, replace
from importlib import import_module
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ...cores import usable_cores
from ...runs.files import RunError
from ..config.commands import install
from ..config.errors import ConfigError, one_line
from .jobs import Job, Lines, Outcome, Queue, View, lost, skip, work
from .one_run import UNREAD, StopSignals
from .sockets import short_directory

_POLL = 0.3
"""Seconds between two polls of the jobs' printed lines."""

_SAVING = 60.0
"""Seconds for running jobs to save their runs after Ctrl-C."""

_APPEARS = 10.0
"""Seconds after which a file that one machine has written is visible on another: network file systems cache."""

_LINE = 300
"""The longest cause to print, in characters. Some of Ray's messages fill pages."""

_SESSION = len("/ray/session_2026-12-31_23-59-59_123456_1234567/sockets/plasma_store.1")
"""The length of the paths of Ray's sockets below the directory of temporary files."""

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
        address: of an existing cluster, in Ray's form ("auto": the one on this machine); None: start one on this
            machine, for this sweep.
        num_cpus, num_gpus, resources: what each job takes of a node. A fraction of a GPU is possible.
        max_retries: restarts of a job whose worker or node dies; it goes on from its checkpoint.
        autoscaling: the cluster adds nodes by itself, so it may not have a node for a job yet.
        runtime_env: Ray's, for the workers.
        log_to_driver: also print Ray's own messages, and what workers print besides the jobs' lines.

    Raises:
        ConfigError: Ray is not installed; no node has what a job takes; an option cannot have its value.
        RunError: there is no cluster at ``address``, or none can be started; the jobs' lines cannot be written.
    """
    if unknown:
        known = "address, num_cpus, num_gpus, resources, max_retries, autoscaling, runtime_env, log_to_driver"
        raise ConfigError(f"there is no setting 'hydra.launcher.{next(iter(unknown))}'. One of: {known}")
    needs = _checked(num_cpus, num_gpus, resources, max_retries)
    view = Lines()
    outcomes: dict[int, Outcome] = {}
    waiting: list[Job] = []
    for job in jobs:
        if (outcome := skip(job)) is None:
            waiting.append(job)
        else:
            outcomes[job.number] = outcome
            view.skipped(job)
    if waiting:
        if address is None:
            # Listen on the loopback interface only. Ray reads this variable when it is imported and has no other
            # setting for it: it replaces an address of 127.0.0.1 by the machine's own.
            os.environ.setdefault("RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER", "0")
        ray = _ray()
        with (
            _logs(waiting[0]) as logs,
            _cluster(ray, address, worker_environment(runtime_env), log_to_driver),
        ):
            at_once = jobs_that_fit(ray.nodes(), needs)
            if not at_once and not autoscaling:
                raise ConfigError(_no_room(ray.nodes(), needs))
            if not waiting[0].quiet:
                where = f"the cluster at {address}" if address else "a cluster of its own on this machine"
                print(f"Ray: {where}, {at_once} {'job' if at_once == 1 else 'jobs'} at once", flush=True)
            task = ray.remote(
                num_cpus=needs.pop("CPU"),
                num_gpus=needs.pop("GPU"),
                resources=needs or None,
                max_calls=1,  # a process for each job, so that no job depends on an earlier one's state
                max_retries=0,  # we retry ourselves, to count and print it
            )(_task)
            outcomes |= _Sweep(ray, task, logs, max_retries, view).run(waiting)
    return [outcomes[job.number] for job in jobs]


def _task(job: Job, logs: str, driver_version: str) -> Outcome:
    """Do a job in a worker."""
    host = socket.gethostname()
    if not _appears(Path(logs)):
        raise RunError(
            f"{logs} is not there on the node {host}: the nodes need the file system that the runs are written to"
        )
    if (own := version("seqmem")) != driver_version:
        raise RunError(f"the node {host} has seqmem {own}, and this machine {driver_version}: install the same")
    with (
        _log(logs, job).open("a", buffering=1, encoding="utf-8", errors="backslashreplace") as log,
        redirect_stdout(log),
        redirect_stderr(log),
    ):
        return work(job, silent=True)


@dataclass
class _Sweep:
    """The jobs that are on the cluster."""

    ray: Any
    task: Any
    logs: Path
    max_retries: int
    view: View
    running: dict[Any, Job] = field(default_factory=dict)  # keys: Ray's references to the outcomes
    retries: dict[int, int] = field(default_factory=dict)
    read: dict[int, int] = field(default_factory=dict)  # job -> bytes of its log that were printed here
    stopping: bool = False

    def run(self, jobs: Sequence[Job]) -> dict[int, Outcome]:
        stop, queue = StopSignals(), Queue(jobs, self.view)
        with stop.caught():
            try:
                while (len(queue) or self.running) and not stop.requested() and not self.view.unread:
                    while (job := queue.next(list(self.running.values()))) is not None:
                        self.view.started(job)
                        self._submit(job)
                    self._wait(queue)
                if stop.requested():
                    print(f"stopping, {len(self.running)} jobs are left; once more ends them at once", file=sys.stderr)
                if stop.requested() or self.view.unread:
                    self._stop(queue)
            except KeyboardInterrupt:  # the second one: running jobs end with this process, at their last checkpoints
                if not stop.requested():
                    raise
        if self.view.unread and not stop.requested():
            raise SystemExit(UNREAD)
        outcomes = {outcome.number: outcome for outcome in [*queue.rest(stop), *queue.outcomes]}
        exit_code = stop.exit_code if stop.requested() else None
        for job in jobs:
            if job.number not in outcomes or outcomes[job.number].state == "stopped":
                outcomes[job.number] = Outcome(job.number, "stopped", error="stopped", exit_code=exit_code)
        return outcomes

    def _submit(self, job: Job) -> None:
        self.running[self.task.remote(job, str(self.logs), version("seqmem"))] = job

    def _cancel(self, reference: Any) -> None:
        """Send Ctrl-C to a running job; keep a waiting one from starting."""
        with suppress(self.ray.exceptions.RayError):
            self.ray.cancel(reference, force=False)

    def _stop(self, queue: Queue) -> None:
        self.stopping = True
        for reference in self.running:
            self._cancel(reference)
        deadline = time.monotonic() + _SAVING
        while self.running and time.monotonic() < deadline:
            self._wait(queue)

    def _wait(self, queue: Queue) -> None:
        """Wait briefly for outcomes, and record those that have arrived."""
        if not self.running:
            time.sleep(_POLL)  # until a run that another process has locked may be free
            return
        ready, _ = self.ray.wait(list(self.running), num_returns=1, timeout=_POLL)
        if ready:
            ready, _ = self.ray.wait(list(self.running), num_returns=len(self.running), timeout=0)
        for job in self.running.values():
            self._print_lines(job)
        for reference in ready:
            self._returned(self.running.pop(reference), reference, queue)

    def _returned(self, job: Job, reference: Any, queue: Queue) -> None:
        errors, outcome, why = self.ray.exceptions, None, ""
        try:
            outcome = self.ray.get(reference)
            if outcome.state == "stopped":
                why = "was told to stop on its node"
        except errors.TaskCancelledError:
            why = "was cancelled"
            outcome = Outcome(job.number, "stopped", error=why)
        except (errors.RayTaskError, errors.RuntimeEnvSetupError) as error:  # a retry would fail in the same way
            outcome = Outcome(job.number, "failed", error=_one_line(error))
        except errors.RayError as error:
            why = _one_line(error)
        self._print_lines(job)
        ending = self.stopping or queue.full is not None
        if ending and outcome is not None and outcome.state == "stopped":
            queue.put_back(job)
            return
        tries = self.retries.get(job.number, 0)
        if why and not ending and tries < self.max_retries:
            if job.run.finished and not job.force:  # its worker died after it had written its result
                self._account(job, lost(job, why), queue)
                return
            self.retries[job.number] = tries + 1
            if not job.quiet:
                self.view.say(job, f"{why}: started again, {tries + 1} of {self.max_retries}\n")
            # With force=true the first start has deleted the old run; a retry must go on with the new one.
            force = job.force and job.run.finished
            self._submit(replace(job, settings={**job.settings, "force": force}))
            return
        if outcome is None:
            outcome = lost(job, f"{why}, {tries + 1} times" if tries else why)
        if outcome.state == "finished" and not _appears(job.run.path / "result.json"):
            here = "it finished, but its result is not here: the nodes need the file system that runs are written to"
            outcome = Outcome(job.number, "failed", error=f"{job.run.path}: {here}")
        self._account(job, outcome, queue)

    def _account(self, job: Job, outcome: Outcome, queue: Queue) -> None:
        full_before = queue.full is not None
        queue.ended(job, outcome, cancellable=bool(self.running))
        with suppress(OSError):
            if outcome.state == "finished" or not _log(self.logs, job).stat().st_size:
                _log(self.logs, job).unlink(missing_ok=True)
        if queue.full is not None and not full_before:
            for reference, other in self.running.items():
                if not _log(self.logs, other).exists():  # it has not begun
                    self._cancel(reference)

    def _print_lines(self, job: Job) -> None:
        """Print the whole lines that the job has written since the last time."""
        start = self.read.get(job.number, 0)
        try:
            with _log(self.logs, job).open("rb") as log:
                log.seek(start)
                new = log.read()
        except OSError:  # it has not begun, or the file is not visible here, which is reported when it ends
            return
        end = new.rfind(b"\n") + 1
        self.read[job.number] = start + end
        if end:
            self.view.say(job, new[:end].decode(errors="backslashreplace"))


# Before the first job


def _checked(num_cpus: Any, num_gpus: Any, resources: Any, max_retries: Any) -> dict[str, Any]:
    """The resources that a job takes, in Ray's terms."""
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
        raise ConfigError(f"hydra/launcher=ray needs Ray: {install('ray')}") from None


def worker_environment(runtime_env: Any) -> dict[str, Any]:
    """Ray's runtime environment: the user's, with PYTHONPATH to this seqmem.

    The user's folder is not in it: its files may be named like libraries. Each job looks for the user's own code there.
    """
    env_vars = runtime_env.get("env_vars") if isinstance(runtime_env, Mapping) else None
    for name, part in (("runtime_env", runtime_env), ("runtime_env.env_vars", env_vars)):
        if part is not None and not isinstance(part, Mapping):
            raise ConfigError(f"hydra.launcher.{name}={part}: must be several settings, e.g. {{a:1,b:2}}")
    given = dict(runtime_env or {})
    variables = {str(name): str(value) for name, value in dict(given.get("env_vars") or {}).items()}
    source = Path(__file__).resolve().parents[3]
    places = [variables.get("PYTHONPATH", ""), os.environ.get("PYTHONPATH", "")]
    if source.name not in ("site-packages", "dist-packages"):
        places.insert(0, str(source))
    paths = [path for place in places for path in place.split(os.pathsep) if path]
    return {**given, "env_vars": {**variables, "PYTHONPATH": os.pathsep.join(dict.fromkeys(paths))}}


@contextmanager
def _cluster(ray: Any, address: str | None, runtime_env: dict[str, Any], log_to_driver: bool) -> Iterator[None]:
    """Connect this process as a driver. A cluster that is started here ends here."""
    common = {"runtime_env": runtime_env, "log_to_driver": log_to_driver, "logging_level": logging.ERROR}
    own: dict[str, Any] = {}
    if address is None:
        # Jobs and outcomes are small; by default Ray reserves a third of the memory.
        own = {"num_cpus": usable_cores(), "object_store_memory": 100 * 2**20, "include_dashboard": False}
        if "RAY_TMPDIR" not in os.environ and (place := short_directory(_SESSION)) != tempfile.gettempdir():
            own["_temp_dir"] = f"{place}/ray"
    _answers(address)
    try:
        # Workers put the driver's directory before their libraries. A user's runtime_env may have paths relative to it.
        with chdir(Path(__file__).parent) if set(runtime_env) <= {"env_vars"} else nullcontext():
            ray.init(address=address or "local", **own, **common)
    except Exception as error:  # Ray raises a dozen kinds
        with suppress(Exception):
            ray.shutdown()
        what = f"no Ray cluster at {address}" if address else "Ray could not start a cluster on this machine"
        raise RunError(f"{what}: {_one_line(error)}") from error
    if not log_to_driver:
        # We print one line when a worker dies; Ray prints many, and has no setting for it.
        with suppress(ImportError):
            vars(import_module("ray._private.worker"))["_worker_logs_enabled"] = False
    try:
        yield
    finally:
        ray.shutdown()


def _answers(address: str | None) -> None:
    """Check that the address answers: Ray tries for minutes to reach a cluster that does not exist.

    Raises:
        RunError: ``address`` names a machine and a port, and no connection to it is possible.
    """
    host, _, port = (address or "").rpartition("://")[2].partition("/")[0].rpartition(":")
    if not host or not port.isdecimal():
        return  # "auto", or another form that only Ray can resolve
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=10).close()
    except (OSError, OverflowError) as error:
        raise RunError(f"no Ray cluster at {address}: {getattr(error, 'strerror', None) or error}") from error


def jobs_that_fit(nodes: Sequence[Mapping[str, Any]], needs: Mapping[str, int | float]) -> int:
    """Concurrent jobs that the cluster's nodes have room for, if they run nothing else."""
    total = 0
    for node in nodes:
        free = node["Resources"] if node["Alive"] else {}
        # Ray counts in ten-thousandths.
        fit = [round(free.get(name, 0) * 1e4) // round(amount * 1e4) for name, amount in needs.items() if amount > 0]
        total += int(min(fit, default=1))
    return total


def _no_room(nodes: Sequence[Mapping[str, Any]], needs: Mapping[str, int | float]) -> str:
    job = ", ".join(f"{amount:g} {name}" for name, amount in needs.items() if amount > 0)
    alive = [node["Resources"] for node in nodes if node["Alive"]]
    most = {name: max((node.get(name, 0) for node in alive), default=0) for name, amount in needs.items() if amount > 0}
    largest = ", ".join(f"{amount:g} {name}" for name, amount in most.items())
    return (
        f"no node of the cluster has what a job takes ({job}; the most that one has: {largest}), so it would wait for "
        "ever: change hydra.launcher.num_cpus, num_gpus or resources, or say autoscaling=true if nodes are yet to come"
    )


@contextmanager
def _logs(job: Job) -> Iterator[Path]:
    """The folder of the jobs' logs. Logs of jobs that did not finish remain there."""
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
            with suppress(OSError):  # it is not empty
                empty.rmdir()


def _log(logs: Path | str, job: Job) -> Path:
    return Path(logs) / f"{job.number + 1}.log"


def _appears(path: Path) -> bool:
    deadline = time.monotonic() + _APPEARS
    while not path.exists():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.2)
    return True


def _one_line(error: BaseException) -> str:
    """Ray's error, or the worker's error inside it, in one line."""
    cause = getattr(error, "cause", None)
    if isinstance(cause, BaseException):
        return one_line(cause)
    text = " ".join(str(error).split())
    for advice in (" Check python-core-worker-*.log files", " To troubleshoot", " To resolve this"):
        text = text.partition(advice)[0]
    text = text.rstrip(".") if len(text) <= _LINE else text[:_LINE] + "..."
    what = _DEATHS.get(type(error).__name__)
    return f"{what} (Ray: {text})" if what else f"{type(error).__name__}: {text}"
