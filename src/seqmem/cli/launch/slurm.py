"""A Slurm array, by submitit: each job of the sweep is a task of the array.

submitit writes the batch file, submits the jobs and requeues them. We wait for them ourselves: submitit polls Slurm's
accounting only, and where there is none it waits forever for a job that died. We ask squeue which jobs are alive, and
read their outcomes from the runs' directories. A record beside the logs maps runs to Slurm jobs, so a sweep that is
started again watches the jobs that are still queued and submits the others.
"""

import io
import json
import os
import pickle
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, redirect_stderr, suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING, Any

from filelock import FileLock

from ...runs.files import RunError
from ..config.commands import install
from ..config.errors import ConfigError, nearest
from ..config.home import expanded
from .jobs import Job, Outcome, finished_outcome, lost, skip, work
from .one_run import Stopped, StopSignals

if TYPE_CHECKING:
    from submitit.core.utils import DelayedSubmission

ENDED = frozenset(
    "BOOT_FAIL CANCELLED COMPLETED DEADLINE FAILED NODE_FAIL OUT_OF_MEMORY PREEMPTED REVOKED TIMEOUT".split()
)
"""Slurm's states of a job that has ended. In every other state it may still run."""

USUAL = ("None", "Resources", "Priority", "JobArrayTaskLimit", "BeginTime", "Cleaning", "")
"""Slurm's reasons for a pending job that need no attention."""

GRACE = 20.0
"""Seconds until a job that Slurm ended counts as lost: a shared file system may show its result late."""

RECORD = "jobs.jsonl"


@dataclass
class Options:
    """The settings of ``hydra.launcher``; the comments in conf/hydra/launcher/slurm.yaml explain them.

    Raises:
        ConfigError: a setting has an invalid value.
    """

    partition: Any = None  # all Any: values come from a command line, and __post_init__ checks them
    timeout_min: Any = 60
    mem_gb: Any = 2
    cpus_per_task: Any = 1
    gpus_per_node: Any = None
    array_parallelism: Any = 256
    account: Any = None
    qos: Any = None
    constraint: Any = None
    setup: Any = None
    sbatch: Any = None
    signal_delay_s: Any = 90
    max_num_timeout: Any = 10
    folder: Any = None
    poll_s: Any = 5

    def __post_init__(self) -> None:
        for name, least in (
            ("timeout_min", 1), ("cpus_per_task", 1), ("array_parallelism", 1), ("signal_delay_s", 1),
            ("max_num_timeout", 0),
        ):  # fmt: skip
            self._whole(name, least)
        if self.gpus_per_node is not None:
            self._whole("gpus_per_node", 0)
        for name in ("mem_gb", "poll_s"):
            value = getattr(self, name)
            if value is None and name == "mem_gb":
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
                raise ConfigError(f"hydra.launcher.{name}={value}: must be a number above 0")
        for name in ("partition", "account", "qos", "constraint", "folder"):
            value = getattr(self, name)
            setattr(self, name, None if value is None else str(value))  # a partition may be called 2024
        try:
            self.folder = None if self.folder is None else expanded(self.folder)
        except ValueError as error:
            raise ConfigError(f"hydra.launcher.folder={error}") from None
        self.setup = [] if self.setup is None else self.setup
        self.sbatch = {} if self.sbatch is None else self.sbatch  # with {} in the yaml file Hydra would allow no keys
        if not isinstance(self.setup, list) or not all(isinstance(line, str) for line in self.setup):
            raise ConfigError("hydra.launcher.setup: must be a list of shell commands, e.g. ['module load python']")
        if not isinstance(self.sbatch, dict) or any(isinstance(value, dict | list) for value in self.sbatch.values()):
            raise ConfigError("hydra.launcher.sbatch: must be options of sbatch, e.g. {nodelist:n1,exclusive:true}")
        if self.signal_delay_s >= 60 * self.timeout_min:
            raise ConfigError(
                f"hydra.launcher.signal_delay_s={self.signal_delay_s}: must be less than the whole time of a job, "
                f"timeout_min={self.timeout_min}"
            )

    def _whole(self, name: str, least: int) -> None:
        value = getattr(self, name)
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ConfigError(f"hydra.launcher.{name}={value}: must be a whole number, at least {least}")

    def parameters(self, name: str, arrays: int) -> dict[str, Any]:
        """Parameters for submitit.

        Args:
            arrays: the number of arrays, which share ``array_parallelism``.
        """
        extra = {key: value for key, value in self.sbatch.items() if value is not None and value is not False}
        parameters = {
            "job_name": name,
            "time": self.timeout_min,
            "mem": None if self.mem_gb is None else f"{round(self.mem_gb * 1024)}M",
            "cpus_per_task": self.cpus_per_task,
            "gpus_per_node": self.gpus_per_node or None,
            "array_parallelism": max(1, self.array_parallelism // arrays),
            "setup": self.setup or None,
            "signal_delay_s": self.signal_delay_s,
            "srun_args": [f"--cpus-per-task={self.cpus_per_task}"],  # srun does not inherit it from sbatch since 22.05
            "additional_parameters": {"requeue": True, **extra},
            **{key: getattr(self, key) for key in ("partition", "account", "qos", "constraint")},
        }
        return {"wckey": None, **{key: value for key, value in parameters.items() if value is not None}}


def run_jobs(jobs: Sequence[Job], **options: Any) -> list[Outcome]:
    """Submit the jobs that are neither finished nor queued, and wait for all of them.

    Raises:
        ConfigError: an option is unknown or has an invalid value, or submitit is missing.
        RunError: Slurm is not installed here, or refuses the jobs.
        Stopped: Ctrl-C; the jobs go on in Slurm.
    """
    checked = checked_options(options)
    outcomes = {job.number: outcome for job in jobs if (outcome := skip(job)) is not None}
    left = {}  # by the run's directory: a grid may name the same run twice
    for job in jobs:
        if job.number not in outcomes:
            left.setdefault(directory_of(job), job)
    if not left:
        print("nothing is left to do: nothing is submitted to Slurm", flush=True)
        return [outcomes[job.number] for job in jobs]
    _check_commands()
    folder = Path(jobs[0].folder, checked.folder or Path(jobs[0].settings["outputs"], ".sweeps", "slurm"))
    watched, ended = submit(left, checked, folder)
    try:
        ended |= _Watch(watched, folder, float(checked.poll_s)).wait()
    except KeyboardInterrupt:
        arrays = ",".join(dict.fromkeys(one.slurm_id.partition("_")[0] for one in watched))
        raise Stopped(
            f"stopped watching; the jobs go on in Slurm: squeue --jobs={arrays} shows them, "
            f"scancel {arrays.replace(',', ' ')} ends them, the same command watches them again",
            130,
        ) from None
    for job in jobs:
        if job.number not in outcomes:
            outcomes[job.number] = replace(ended[directory_of(job)], number=job.number)
    return [outcomes[job.number] for job in jobs]


def checked_options(given: Mapping[str, Any]) -> Options:
    known = [option.name for option in fields(Options)]
    for name in given:
        if name not in known:
            raise ConfigError(
                f"hydra.launcher has no '{name}'.{nearest(name, known)} hydra/launcher=slurm has {', '.join(known)}"
            )
    return Options(**given)


def _check_commands() -> None:
    try:
        import submitit  # noqa: F401
    except ImportError as error:
        raise ConfigError(f"hydra/launcher=slurm needs submitit: {install('slurm')} ({error})") from error
    for command in ("sbatch", "srun", "squeue", "scontrol"):
        if shutil.which(command) is None:
            raise RunError(
                f"hydra/launcher=slurm: there is no {command} here; start it where Slurm's commands are, "
                "or use hydra/launcher=local"
            )


def directory_of(job: Job) -> str:
    return os.path.abspath(job.run.path)  # noqa: PTH100 - Path.resolve follows links, which nodes may not share


# In a job of Slurm


class _SlurmSignals(StopSignals):
    """Slurm sends several signals (SIGUSR2 before the time limit, SIGTERM at it); each means: stop after the step."""

    def __init__(self) -> None:
        super().__init__()
        import submitit

        self.ahead = getattr(signal, f"SIG{submitit.JobEnvironment.USR_SIG}")
        self.requeue = signal.getsignal(self.ahead)  # submitit's
        for number in (signal.SIGTERM, self.ahead):
            signal.signal(number, self._note)

    def _note(self, number: int, _: FrameType | None) -> None:
        if self.received is None or number == self.ahead:
            self.received = number

    @contextmanager
    def caught(self) -> Iterator[None]:
        yield  # the handlers are installed until the process ends

    def wants_requeue(self) -> bool:
        """Slurm sends a plain SIGTERM before a pre-emption, but also on scancel: its state tells them apart."""
        return self.received == self.ahead or _state_inside() in ("RUNNING", "PREEMPTED")


def _state_inside() -> str:
    with suppress(SlurmError):
        return _details(os.environ.get("SLURM_JOB_ID", "")).get("JobState", "")
    return ""


@dataclass(frozen=True)
class ArrayTask:
    """A job as one task of the array: submitit pickles it, calls it in Slurm, and calls it again after a requeue."""

    job: Job
    max_num_timeout: int
    folder: str

    def __call__(self) -> Outcome:
        from submitit.core.utils import UncompletedJobError

        stop = _SlurmSignals()
        _pickle(Path(self.folder), _own_id()).unlink(missing_ok=True)  # left by an earlier attempt
        outcome = work(self._forced_once(), stop=stop, silent=True)
        if outcome.error:
            print(f"{self.job.prefix}{outcome.state}: {outcome.error}", flush=True)
        if outcome.state != "stopped":
            return outcome
        outcome = replace(outcome, exit_code=None)  # the signal was for this job, not for the sweep
        if not stop.wants_requeue():
            return replace(outcome, error=f"ended by Slurm; {outcome.error}")
        try:
            assert callable(stop.requeue)
            stop.requeue(stop.ahead, None)  # does not return if it succeeds
        except UncompletedJobError:
            return replace(
                outcome, error=f"out of time more than max_num_timeout={self.max_num_timeout} times; {outcome.error}"
            )
        except (subprocess.SubprocessError, OSError) as error:
            return replace(outcome, error=f"Slurm would not requeue it ({error}); {outcome.error}")
        return outcome

    def _forced_once(self) -> Job:
        """With ``force=true``, delete the old run at the job's first start, but not after a requeue."""
        if not self.job.force:
            return self.job
        marker = _marker(Path(self.folder), _own_id())
        if not marker.exists():
            with suppress(RunError), self.job.run.locked():  # work will raise the same error and report it
                self.job.run.restart()
                marker.touch()
        return replace(self.job, settings={**self.job.settings, "force": False}) if marker.exists() else self.job

    def checkpoint(self) -> "DelayedSubmission":
        from submitit.core.utils import DelayedSubmission

        return DelayedSubmission(self)


def _own_id() -> str:
    import submitit

    return submitit.JobEnvironment().job_id


def _pickle(folder: Path, slurm_id: str) -> Path:
    """The file to which submitit writes a task's return value or error."""
    return folder / f"{slurm_id}_0_result.pkl"


def _marker(folder: Path, slurm_id: str) -> Path:
    return folder / f"{slurm_id}_forced"


# Submitting


@dataclass
class _Watched:
    """A job in Slurm."""

    job: Job
    slurm_id: str
    folder: Path
    running: bool = False
    gone_since: float | None = None

    @property
    def pickle(self) -> Path:
        return _pickle(self.folder, self.slurm_id)

    @property
    def log(self) -> Path:
        return self.folder / f"{self.slurm_id}_0_log.out"


def submit(left: dict[str, Job], options: Options, folder: Path) -> tuple[list[_Watched], dict[str, Outcome]]:
    """(the jobs in Slurm, the run's directory -> outcome of each refused job)"""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "jobs.lock"):  # the same sweep, started twice at once, is submitted once
            queued = _still_queued(folder, _queue())
            watched = [_Watched(job, queued[place], folder) for place, job in left.items() if place in queued]
            new = {place: job for place, job in left.items() if place not in queued}
            if watched:
                print(f"{len(watched)} of {len(left)} jobs are in Slurm already, and not submitted again", flush=True)
            refused, why = {}, ""
            try:
                with _undisturbed():
                    for slurm_id, place in _submit_new(new, options, folder):
                        watched.append(_Watched(new[place], slurm_id, folder))
            except SlurmError as error:
                why = f"sbatch refused: {error}"
                taken = {directory_of(one.job) for one in watched}
                refused = {
                    place: Outcome(job.number, "failed", error=f"not started: {why}")
                    for place, job in new.items()
                    if place not in taken
                }
    except SlurmError as error:
        raise RunError(f"Slurm does not answer: {error}") from error
    except OSError as error:
        raise RunError(f"cannot write to {folder}: {error.strerror or error}") from error
    if refused and not watched:
        raise RunError(why)
    if refused:
        print(f"{len(refused)} of {len(left)} jobs are not submitted: {why}", file=sys.stderr, flush=True)
    return watched, refused


@contextmanager
def _undisturbed() -> Iterator[None]:
    """Delay Ctrl-C until sbatch's answer is written to the record."""
    former = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


def _submit_new(new: dict[str, Job], options: Options, folder: Path) -> Iterator[tuple[str, str]]:
    """Submit jobs. Yields (Slurm's id, the run's directory) of each when it is in Slurm and in the record.

    Raises:
        SlurmError: sbatch refuses.
    """
    from submitit import SlurmExecutor
    from submitit.core.utils import FailedSubmissionError, UncompletedJobError

    places = list(new)
    most = _longest_array() if len(places) > 1 else 1
    parts = [places[first : first + most] for first in range(0, len(places), most)]
    for part in parts:
        name = f"seqmem-{os.urandom(3).hex()}"
        # -P: `python -m` would take a user's file in the working directory for the library of that name.
        python = f"{shlex.quote(sys.executable)} -P"
        executor = SlurmExecutor(folder, max_num_timeout=options.max_num_timeout, python=python)
        executor.update_parameters(**options.parameters(name, len(parts)))
        try:
            with redirect_stderr(io.StringIO()):  # submitit prints what it raises
                sent = executor.submit_array(
                    [ArrayTask(new[place], options.max_num_timeout, str(folder)) for place in part]
                )
        except (FailedSubmissionError, UncompletedJobError) as error:
            raise SlurmError(_messages(str(error))) from error
        with (folder / RECORD).open("a") as file:
            for place, one in zip(part, sent, strict=True):
                file.write(json.dumps({"run": place, "job": one.job_id, "name": name}) + "\n")
        print(
            f"{len(part)} job{'s' * (len(part) > 1)} submitted: Slurm job {sent[0].job_id.partition('_')[0]} "
            f"({name}), logs in {_short(folder)}",
            flush=True,
        )
        yield from ((one.job_id, place) for place, one in zip(part, sent, strict=True))


def _still_queued(folder: Path, queue: Mapping[str, "Seen"]) -> dict[str, str]:
    """Run's directory -> Slurm's id of its job, for jobs of earlier starts that Slurm has not ended.

    Slurm may number jobs from 1 again some day, so the name that we gave the job must match too.
    """
    queued: dict[str, str] = {}
    with suppress(FileNotFoundError):
        for line in (folder / RECORD).read_text().splitlines():
            with suppress(ValueError, KeyError, TypeError):  # a line that a full disk cut
                entry = json.loads(line)
                seen = queue.get(entry["job"])
                if seen is not None and seen.alive and seen.name == entry["name"]:
                    queued[entry["run"]] = entry["job"]
    return queued


def _short(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


# Waiting


class _Watch:
    """Waits for jobs in Slurm, and prints what happens to them."""

    def __init__(self, watched: Sequence[_Watched], folder: Path, poll_s: float) -> None:
        self._left = {directory_of(one.job): one for one in watched}
        self._folder, self._poll_s = folder, poll_s
        self._before = {place: _status(one.job) for place, one in self._left.items()}
        self._silent_since: float | None = None
        self._reasons: set[str] = set()
        self._outcomes: dict[str, Outcome] = {}

    def wait(self) -> dict[str, Outcome]:
        """Run's directory -> outcome of its job."""
        while self._left:
            self.look(time.monotonic())
            if self._left:
                time.sleep(self._poll_s)
        return self._outcomes

    def look(self, now: float) -> None:
        """Poll once. ``now``: seconds of a monotonic clock."""
        try:
            queue = _queue()
        except SlurmError as error:
            queue = None
            if self._silent_since is None:
                self._silent_since = now
                print(f"Slurm does not answer ({error}): waiting on", file=sys.stderr, flush=True)
        else:
            if self._silent_since is not None:
                print(f"Slurm answers again, after {now - self._silent_since:.0f} s", flush=True)
            self._silent_since = None
        with suppress(OSError):
            list(self._folder.iterdir())  # refreshes the cache of a network file system
        for place, one in list(self._left.items()):
            outcome, seen = self._returned(one), queue.get(one.slurm_id) if queue is not None else None
            if outcome is not None and outcome.state == "stopped" and (queue is None or (seen and seen.alive)):
                outcome = None  # it may have been requeued
            if outcome is None and queue is not None:
                outcome = self._follow(one, seen, now)
            if outcome is not None:
                del self._left[place]
                self._outcomes[place] = outcome
                _print_outcome(one.job, outcome)
        if queue is not None:
            self._print_reasons(queue)

    def _returned(self, one: _Watched) -> Outcome | None:
        """The outcome that the job's process returned, if the run's directory agrees."""
        try:
            kind, returned = pickle.loads(one.pickle.read_bytes())
        except FileNotFoundError:
            return None
        except Exception:  # written by another version, or half written: rely on the run's directory
            return None
        if kind == "error":
            last = next((line for line in reversed(str(returned).splitlines()) if line.strip()), "it says nothing")
            return Outcome(one.job.number, "failed", error=f"{last}; its log: {_short(one.log)}")
        if not isinstance(returned, Outcome):
            return None
        if returned.state == "finished":
            return finished_outcome(one.job)  # None: the result is not visible here yet
        return replace(returned, number=one.job.number)

    def _follow(self, one: _Watched, seen: "Seen | None", now: float) -> Outcome | None:
        """Print a job's change of state; return its outcome if it ended without returning one."""
        if seen is not None and seen.alive:
            one.gone_since = None
            self._print_state(one, seen)
            return None
        if one.gone_since is None:
            one.gone_since = now
        if now - one.gone_since < GRACE:
            return None
        own_result = not one.job.force or _marker(self._folder, one.slurm_id).exists()  # not that of an earlier run
        if own_result and (outcome := finished_outcome(one.job)) is not None:
            return outcome
        status = _status(one.job)
        if status is not None and status != self._before[directory_of(one.job)] and status.state == "failed":
            return Outcome(one.job.number, "failed", error=status.error)
        why = f"Slurm job {one.slurm_id} {_cause(one.slurm_id, seen)}"
        if one.log.exists():
            why += f"; its log: {_short(one.log)}"
        return lost(one.job, why) if own_result else Outcome(one.job.number, "lost", error=why)

    def _print_state(self, one: _Watched, seen: "Seen") -> None:
        quiet = one.job.quiet
        if seen.state == "RUNNING" and not one.running:
            one.running = True
            if not quiet:
                print(f"{one.job.prefix}started: Slurm job {one.slurm_id} on {seen.node or 'a node'}", flush=True)
        elif one.running and seen.state in ("PENDING", "REQUEUED"):
            one.running = False
            if not quiet:
                status = _status(one.job)
                at = f", saved at step {status.step}" if status is not None and status.state == "interrupted" else ""
                print(f"{one.job.prefix}requeued{at}: goes on when Slurm starts it again", flush=True)

    def _print_reasons(self, queue: Mapping[str, "Seen"]) -> None:
        """Print each reason once for which jobs may stay pending for ever."""
        waiting: dict[str, list[str]] = {}
        for one in self._left.values():
            seen = queue.get(one.slurm_id)
            if seen is not None and seen.state in ("PENDING", "REQUEUE_HOLD") and seen.reason not in USUAL:
                waiting.setdefault(seen.reason, []).append(one.slurm_id)
        for reason, ids in waiting.items():
            if reason not in self._reasons:
                self._reasons.add(reason)
                which = f"{ids[0]} waits" if len(ids) == 1 else f"{ids[0]} and {len(ids) - 1} more wait"
                print(f"Slurm job {which}: {reason}", flush=True)


def _status(job: Job) -> Any:
    with suppress(RunError):
        return job.run.status()
    return None


def _print_outcome(job: Job, outcome: Outcome) -> None:
    if outcome.state == "finished":
        if not job.quiet:
            print(f"{job.prefix}finished: score {outcome.score:.4g}", flush=True)
    else:
        word = "stopped" if outcome.state == "stopped" else outcome.state.upper()
        print(f"{job.prefix}{word}: {outcome.error}", file=sys.stderr, flush=True)


# Slurm's commands


class SlurmError(Exception):
    """A command of Slurm failed; the message is its own, in one line."""


@dataclass(frozen=True)
class Seen:
    """A job as squeue shows it."""

    state: str
    name: str
    node: str
    reason: str

    @property
    def alive(self) -> bool:
        return self.state not in ENDED


def _slurm(*command: str) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise SlurmError(f"{command[0]}: {error}") from error
    if done.returncode:
        raise SlurmError(_messages(done.stderr or done.stdout) or f"{command[0]} exits with {done.returncode}")
    return done.stdout


def _messages(output: str) -> str:
    """``sbatch: error: invalid partition specified: x``, then ``sbatch: error: Batch job submission failed: ...``"""
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    messages = [line.partition("error: ")[2] or line.partition("fatal: ")[2] for line in lines]
    return "; ".join(line for line in messages if line) or " ".join(lines)


def _queue() -> dict[str, Seen]:
    """Slurm's id (12, or 12_3 in an array) -> job, for every job of this user. Slurm lists ended ones for some minutes.

    Raises:
        SlurmError: squeue gets no answer.
    """
    output = _slurm(
        "squeue", "--noheader", "--array", "--states=all", f"--user={os.getuid()}", "--format=%i|%T|%j|%N|%r"
    )
    queue = {}
    for line in output.splitlines():
        slurm_id, _, rest = line.strip().partition("|")
        words = rest.split("|", 3)
        if len(words) == 4:
            queue[slurm_id] = Seen(*words)
    return queue


def _details(slurm_id: str) -> dict[str, str]:
    output = _slurm("scontrol", "--oneliner", "show", "job", slurm_id)
    return dict(word.split("=", 1) for word in output.split() if "=" in word)


def _cause(slurm_id: str, seen: Seen | None) -> str:
    """Why a job ended, in Slurm's terms: ``OUT_OF_MEMORY, signal 9, on n1``."""
    with suppress(SlurmError):
        details = _details(slurm_id)
        if details.get("JobState") in ENDED:
            node = details.get("NodeList", "").replace("(null)", "")
            return _cause_text(details["JobState"], details.get("ExitCode", ""), node, details.get("Reason", ""))
    if shutil.which("sacct"):  # it fails where there is no accounting
        with suppress(SlurmError, IndexError, ValueError):
            output = _slurm(
                "sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={slurm_id}",
                "--format=State,ExitCode,NodeList",
            )  # fmt: skip
            state, exit_code, node = output.splitlines()[-1].split("|", 2)
            return _cause_text(state.split()[0], exit_code, node, "")
    if seen is not None:
        return _cause_text(seen.state, "", seen.node, seen.reason)
    return "is gone: Slurm no longer knows it"


def _cause_text(state: str, exit_code: str, node: str, reason: str) -> str:
    parts = [state]
    if reason not in USUAL and reason != "NonZeroExitCode":  # the code itself follows
        parts.append(reason)
    if exit_code and exit_code != "0:0":
        status, _, number = exit_code.partition(":")
        if number in ("", "0") and status.isdecimal() and int(status) > 128:
            number = str(int(status) - 128)  # shells report a signal so
        parts.append(f"signal {number}" if number not in ("", "0") else f"exit code {status}")
    if node and node != "None assigned":
        parts.append(f"on {node}")
    return ", ".join(parts)


def _longest_array() -> int:
    """The most tasks in one array; 1000 is Slurm's default."""
    with suppress(SlurmError, ValueError):
        for line in _slurm("scontrol", "show", "config").splitlines():
            key, _, value = line.partition("=")
            if key.strip() == "MaxArraySize":
                return max(1, int(value) - 1)
    return 1000
