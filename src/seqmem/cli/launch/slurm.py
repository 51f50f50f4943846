"""A Slurm array, by submitit: each job of the sweep is a task of the array.

submitit writes the batch file, sends the jobs there and requeues them. The waiting is our own: submitit asks the
accounting alone, and waits for ever for a job that died where there is none. Here squeue says which jobs are alive, and
the runs' directories what became of them. Which run is which job of Slurm is written down beside the logs, so that a
sweep that is started again watches what is still queued, and submits the rest.
"""

import io
import json
import os
import pickle
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
from ..config.errors import ConfigError, nearest
from .jobs import Job, Outcome, lost, skip, work
from .one_run import Stopped, StopSignals

if TYPE_CHECKING:
    from submitit.core.utils import DelayedSubmission

ENDED = frozenset(
    "BOOT_FAIL CANCELLED COMPLETED DEADLINE FAILED NODE_FAIL OUT_OF_MEMORY PREEMPTED REVOKED TIMEOUT".split()
)
"""Slurm's words for a job that does nothing any more. In every other state it may still run."""

USUAL = ("None", "Resources", "Priority", "JobArrayTaskLimit", "BeginTime", "Cleaning", "")
"""Slurm's reasons for a job that waits, which pass by themselves."""

GRACE = 20.0
"""Seconds until a job that Slurm ended counts as lost: a shared file system may show its last words late."""

RECORD = "jobs.jsonl"


@dataclass
class Options:
    """``hydra.launcher``; the comments in conf/hydra/launcher/slurm.yaml say what each means.

    Raises:
        ConfigError: one of them cannot be what it is.
    """

    partition: Any = None  # no other types here: they come from a command line, and __post_init__ says what is wrong
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
        self.setup = [] if self.setup is None else self.setup
        self.sbatch = {} if self.sbatch is None else self.sbatch  # {} in the file would take no other keys
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
        """For submitit; ``arrays`` share what may run at once."""
        extra = {key: value for key, value in self.sbatch.items() if value is not None and value is not False}
        wanted = {
            "job_name": name,
            "time": self.timeout_min,
            "mem": None if self.mem_gb is None else f"{round(self.mem_gb * 1024)}M",
            "cpus_per_task": self.cpus_per_task,
            "gpus_per_node": self.gpus_per_node or None,
            "array_parallelism": max(1, self.array_parallelism // arrays),
            "setup": self.setup or None,
            "signal_delay_s": self.signal_delay_s,
            "srun_args": [f"--cpus-per-task={self.cpus_per_task}"],  # which srun does not take from sbatch since 22.05
            "additional_parameters": {"requeue": True, **extra},
            **{key: getattr(self, key) for key in ("partition", "account", "qos", "constraint")},
        }
        return {"wckey": None, **{key: value for key, value in wanted.items() if value is not None}}


def run_jobs(jobs: Sequence[Job], **options: Any) -> list[Outcome]:
    """Submit what is neither finished nor queued already, and wait for all of it.

    Raises:
        ConfigError: an option that there is not, or that cannot be; submitit is missing.
        RunError: there is no Slurm here, or it refuses.
        Stopped: Ctrl-C; the jobs go on in Slurm.
    """
    wanted = _options(options)
    outcomes = {job.number: found for job in jobs if (found := skip(job)) is not None}
    left = {}  # by place: a grid may name the same run twice
    for job in jobs:
        if job.number not in outcomes:
            left.setdefault(_place(job), job)
    if not left:
        print("nothing is left to do: nothing is submitted to Slurm", flush=True)
        return [outcomes[job.number] for job in jobs]
    _check_commands()
    folder = Path(jobs[0].folder, wanted.folder or Path(jobs[0].settings["outputs"], ".sweeps", "slurm"))
    watched, ended = _submit(left, wanted, folder)
    try:
        ended |= _Watch(watched, folder, float(wanted.poll_s)).wait()
    except KeyboardInterrupt:
        arrays = ",".join(dict.fromkeys(one.slurm_id.partition("_")[0] for one in watched))
        raise Stopped(
            f"stopped watching; the jobs go on in Slurm: squeue --jobs={arrays} shows them, "
            f"scancel {arrays.replace(',', ' ')} ends them, the same command watches them again",
            130,
        ) from None
    for job in jobs:
        if job.number not in outcomes:
            outcomes[job.number] = replace(ended[_place(job)], number=job.number)
    return [outcomes[job.number] for job in jobs]


def _options(given: Mapping[str, Any]) -> Options:
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
        raise ConfigError(f"hydra/launcher=slurm needs submitit: pip install seqmem[slurm] ({error})") from error
    for command in ("sbatch", "srun", "squeue", "scontrol"):
        if shutil.which(command) is None:
            raise RunError(
                f"hydra/launcher=slurm: there is no {command} here; start it where Slurm's commands are, "
                "or use hydra/launcher=local"
            )


def _place(job: Job) -> str:
    return os.path.abspath(job.run.path)  # noqa: PTH100 - Path.resolve follows links, which nodes may not share


# In a job of Slurm


class _SlurmSignals(StopSignals):
    """Slurm repeats itself (SIGUSR2 before the time is over, SIGTERM when it is): the run stops after its step."""

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
        yield  # from the first moment on, and to the last

    def wants_requeue(self) -> bool:
        """A plain SIGTERM comes before a pre-emption, but also from scancel."""
        return self.received == self.ahead or _state_inside() in ("RUNNING", "PREEMPTED")


def _state_inside() -> str:
    with suppress(SlurmError):
        return _details(os.environ.get("SLURM_JOB_ID", "")).get("JobState", "")
    return ""


@dataclass(frozen=True)
class Task:
    """One job in one task of the array: what submitit pickles, calls there, and calls again after a requeue."""

    job: Job
    max_num_timeout: int
    folder: str

    def __call__(self) -> Outcome:
        from submitit.core.utils import UncompletedJobError

        stop = _SlurmSignals()
        _pickle(Path(self.folder), _own_id()).unlink(missing_ok=True)  # of an attempt that was stopped
        outcome = work(self._forced_once(), stop=stop, silent=True)
        if outcome.error:
            print(f"{self.job.prefix}{outcome.state}: {outcome.error}", flush=True)
        if outcome.state != "stopped":
            return outcome
        outcome = replace(outcome, exit_code=None)  # a signal for this job is none for the sweep
        if not stop.wants_requeue():
            return replace(outcome, error=f"ended by Slurm; {outcome.error}")
        try:
            assert callable(stop.requeue)
            stop.requeue(stop.ahead, None)  # does not return where it could
        except UncompletedJobError:
            return replace(
                outcome, error=f"out of time more than max_num_timeout={self.max_num_timeout} times; {outcome.error}"
            )
        except (subprocess.SubprocessError, OSError) as error:
            return replace(outcome, error=f"Slurm would not requeue it ({error}); {outcome.error}")
        return outcome

    def _forced_once(self) -> Job:
        """``force=true`` forgets what there was when the job starts first, and not again after each requeue."""
        if not self.job.settings.get("force"):
            return self.job
        marker = _marker(Path(self.folder), _own_id())
        if not marker.exists():
            with suppress(RunError), self.job.run.locked():  # work finds the same, and says it
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
    """Where submitit writes what a task returned or raised."""
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


def _submit(left: dict[str, Job], wanted: Options, folder: Path) -> tuple[list[_Watched], dict[str, Outcome]]:
    """(what is in Slurm now; by place, what Slurm would not take)"""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with FileLock(folder / "jobs.lock"):  # two who start the same sweep at once submit it once
            queued = _still_queued(folder, _queue())
            watched = [_Watched(job, queued[place], folder) for place, job in left.items() if place in queued]
            new = {place: job for place, job in left.items() if place not in queued}
            if watched:
                print(f"{len(watched)} of {len(left)} jobs are in Slurm already, and not submitted again", flush=True)
            refused, why = {}, ""
            try:
                with _undisturbed():
                    for slurm_id, place in _submitted(new, wanted, folder):
                        watched.append(_Watched(new[place], slurm_id, folder))
            except SlurmError as error:
                why = f"sbatch refused: {error}"
                taken = {_place(one.job) for one in watched}
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
    """Between sbatch's answer and our writing it down, Ctrl-C waits."""
    former = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, former)


def _submitted(new: dict[str, Job], wanted: Options, folder: Path) -> Iterator[tuple[str, str]]:
    """(Slurm's id, the run's place), as soon as it is in Slurm and written down.

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
        executor = SlurmExecutor(folder, max_num_timeout=wanted.max_num_timeout)
        executor.update_parameters(**wanted.parameters(name, len(parts)))
        try:
            with redirect_stderr(io.StringIO()):  # submitit prints what it raises
                sent = executor.submit_array([Task(new[place], wanted.max_num_timeout, str(folder)) for place in part])
        except (FailedSubmissionError, UncompletedJobError) as error:
            raise SlurmError(_last_words(str(error))) from error
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
    """Place -> Slurm's id, of the runs that an earlier start submitted and that Slurm has not ended.

    Slurm may count from 1 again some day: a job is ours if its name is the one that we gave it.
    """
    found: dict[str, str] = {}
    with suppress(FileNotFoundError):
        for line in (folder / RECORD).read_text().splitlines():
            with suppress(ValueError, KeyError, TypeError):  # a line that a full disk cut
                said = json.loads(line)
                seen = queue.get(said["job"])
                if seen is not None and seen.alive and seen.name == said["name"]:
                    found[said["run"]] = said["job"]
    return found


def _short(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


# Waiting


class _Watch:
    """Says what happens to jobs until nothing more can."""

    def __init__(self, watched: Sequence[_Watched], folder: Path, poll_s: float) -> None:
        self._left = {_place(one.job): one for one in watched}
        self._folder, self._poll_s = folder, poll_s
        self._before = {place: _status(one.job) for place, one in self._left.items()}
        self._silent_since: float | None = None
        self._reasons: set[str] = set()
        self._outcomes: dict[str, Outcome] = {}

    def wait(self) -> dict[str, Outcome]:
        """By place."""
        while self._left:
            self.look(time.monotonic())
            if self._left:
                time.sleep(self._poll_s)
        return self._outcomes

    def look(self, now: float) -> None:
        """Once; ``now`` in seconds."""
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
            list(self._folder.iterdir())  # makes a network file system look again
        for place, one in list(self._left.items()):
            outcome, seen = self._returned(one), queue.get(one.slurm_id) if queue is not None else None
            if outcome is not None and outcome.state == "stopped" and (queue is None or (seen and seen.alive)):
                outcome = None  # whoever stopped it may have requeued it
            if outcome is None and queue is not None:
                outcome = self._seen(one, seen, now)
            if outcome is not None:
                del self._left[place]
                self._outcomes[place] = outcome
                _say(one.job, outcome)
        if queue is not None:
            self._tell_reasons(queue)

    def _returned(self, one: _Watched) -> Outcome | None:
        """What the job's process said in the end, if it agrees with the run's directory."""
        try:
            kind, said = pickle.loads(one.pickle.read_bytes())
        except FileNotFoundError:
            return None
        except Exception:  # of another version, or half written: its directory says more
            return None
        if kind == "error":
            last = next((line for line in reversed(str(said).splitlines()) if line.strip()), "it says nothing")
            return Outcome(one.job.number, "failed", error=f"{last}; its log: {_short(one.log)}")
        if not isinstance(said, Outcome):
            return None
        if said.state == "finished":
            return _finished(one.job)  # None: not yet to be seen from here
        return replace(said, number=one.job.number)

    def _seen(self, one: _Watched, seen: "Seen | None", now: float) -> Outcome | None:
        """Tell what is new of a job; its outcome, if it has ended without one of its own."""
        if seen is not None and seen.alive:
            one.gone_since = None
            self._tell(one, seen)
            return None
        if one.gone_since is None:
            one.gone_since = now
        if now - one.gone_since < GRACE:
            return None
        forgotten = not one.job.settings.get("force") or _marker(self._folder, one.slurm_id).exists()
        if forgotten and (outcome := _finished(one.job)) is not None:
            return outcome
        status = _status(one.job)
        if status is not None and status != self._before[_place(one.job)] and status.state == "failed":
            return Outcome(one.job.number, "failed", error=status.error)
        why = f"Slurm job {one.slurm_id} {_cause(one.slurm_id, seen)}"
        if one.log.exists():
            why += f"; its log: {_short(one.log)}"
        return lost(one.job, why) if forgotten else Outcome(one.job.number, "lost", error=why)

    def _tell(self, one: _Watched, seen: "Seen") -> None:
        quiet = one.job.settings.get("quiet")
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

    def _tell_reasons(self, queue: Mapping[str, "Seen"]) -> None:
        """Of jobs that wait for something which may never come: once for each reason."""
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


def _finished(job: Job) -> Outcome | None:
    """What its directory says, if it says that it is finished."""
    try:
        result = job.run.result()
        return None if result is None else Outcome(job.number, "finished", score=float(result["score"]))
    except (RunError, KeyError, TypeError, ValueError):
        return None


def _status(job: Job) -> Any:
    with suppress(RunError):
        return job.run.status()
    return None


def _say(job: Job, outcome: Outcome) -> None:
    if outcome.state == "finished":
        if not job.settings.get("quiet"):
            print(f"{job.prefix}finished: score {outcome.score:.4g}", flush=True)
    else:
        word = "stopped" if outcome.state == "stopped" else outcome.state.upper()
        print(f"{job.prefix}{word}: {outcome.error}", file=sys.stderr, flush=True)


# Slurm's commands


class SlurmError(Exception):
    """A command of Slurm failed; the message is what it said, in one line."""


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
        raise SlurmError(_last_words(done.stderr or done.stdout) or f"{command[0]} exits with {done.returncode}")
    return done.stdout


def _last_words(said: str) -> str:
    """``sbatch: error: invalid partition specified: x``, then ``sbatch: error: Batch job submission failed: ...``"""
    lines = [line.strip() for line in said.splitlines() if line.strip()]
    told = [line.partition("error: ")[2] or line.partition("fatal: ")[2] for line in lines]
    return "; ".join(line for line in told if line) or " ".join(lines)


def _queue() -> dict[str, Seen]:
    """Every job of this user that Slurm knows, by its id (12, or 12_3 in an array); for some minutes ended ones too.

    Raises:
        SlurmError: squeue gets no answer.
    """
    said = _slurm("squeue", "--noheader", "--array", "--states=all", f"--user={os.getuid()}", "--format=%i|%T|%j|%N|%r")
    found = {}
    for line in said.splitlines():
        slurm_id, _, rest = line.strip().partition("|")
        words = rest.split("|", 3)
        if len(words) == 4:
            found[slurm_id] = Seen(*words)
    return found


def _details(slurm_id: str) -> dict[str, str]:
    said = _slurm("scontrol", "--oneliner", "show", "job", slurm_id)
    return dict(word.split("=", 1) for word in said.split() if "=" in word)


def _cause(slurm_id: str, seen: Seen | None) -> str:
    """Why a job ended, in Slurm's words: OUT_OF_MEMORY, exit code 0:125, on n1."""
    with suppress(SlurmError):
        found = _details(slurm_id)
        if found.get("JobState") in ENDED:
            node = found.get("NodeList", "").replace("(null)", "")
            return _caused(found["JobState"], found.get("ExitCode", ""), node, found.get("Reason", ""))
    if shutil.which("sacct"):  # which fails where nothing is accounted
        with suppress(SlurmError, IndexError, ValueError):
            said = _slurm(
                "sacct", "--noheader", "--parsable2", "--allocations", f"--jobs={slurm_id}",
                "--format=State,ExitCode,NodeList",
            )  # fmt: skip
            state, exit_code, node = said.splitlines()[-1].split("|", 2)
            return _caused(state.split()[0], exit_code, node, "")
    if seen is not None:
        return _caused(seen.state, "", seen.node, seen.reason)
    return "is gone: Slurm no longer knows it"


def _caused(state: str, exit_code: str, node: str, reason: str) -> str:
    parts = [state]
    if reason not in USUAL and reason != "NonZeroExitCode":  # the code itself follows
        parts.append(reason)
    if exit_code and exit_code != "0:0":
        status, _, number = exit_code.partition(":")
        if number in ("", "0") and status.isdecimal() and int(status) > 128:
            number = str(int(status) - 128)  # as shells say it
        parts.append(f"signal {number}" if number not in ("", "0") else f"exit code {status}")
    if node and node != "None assigned":
        parts.append(f"on {node}")
    return ", ".join(parts)


def _longest_array() -> int:
    """Tasks in one array; Slurm's own limit is 1000 unless it is configured."""
    with suppress(SlurmError, ValueError):
        for line in _slurm("scontrol", "show", "config").splitlines():
            key, _, value = line.partition("=")
            if key.strip() == "MaxArraySize":
                return max(1, int(value) - 1)
    return 1000
