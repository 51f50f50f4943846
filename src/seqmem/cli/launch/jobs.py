"""Jobs of a sweep as plain values that can be sent to any process, their outcomes, and the queue of waiting jobs.

A launcher is a function from jobs to outcomes: ``run_jobs(jobs, **options)`` in ``local``, ``slurm`` and ``ray``. Each
job is one call of ``work``, in any process. Results are in the run's directory, so they survive the process, and
starting a sweep again resumes it.
"""

import errno
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Literal, Protocol, runtime_checkable

from filelock import Timeout

from ...printable import as_written, printable, to_nowhere
from ...runs.directory import RunDirectory
from ...runs.files import RunError
from ..config.errors import ConfigError, one_line, print_error
from ..config.own_code import forget_elsewhere
from ..config.schema import RunConfig, everything, from_mapping
from ..terminal.console import Console
from ..terminal.live import RunInfo
from .one_run import Stopped, StopSignals, already_finished, execute, run_path, title

LOCK_WAIT = 3.0
"""Seconds to wait for a run that another process has locked. After a sweep was killed, its runs stay locked until its
jobs have noticed."""

State = Literal["finished", "failed", "stopped", "lost"]


@dataclass(frozen=True)
class Job:
    """Everything that another process needs to do one run of a sweep.

    Args:
        number: from 0. ``total``: number of jobs in the whole sweep; 0: not known yet.
        overrides: the settings of its command line, as Hydra writes them.
        settings: the whole configuration, as ``schema.everything`` returns it.
        folder: the working directory for relative paths and a user's own modules.
        path: the run's directory: relative to ``folder``, or absolute.
    """

    number: int
    total: int
    title: str
    overrides: tuple[str, ...]
    settings: Mapping[str, Any]
    folder: str
    path: str

    @property
    def prefix(self) -> str:
        return job_prefix(self.number, self.total, self.title)

    @property
    def run(self) -> RunDirectory:
        return RunDirectory(Path(self.folder) / self.path)

    @property
    def quiet(self) -> bool:
        return bool(self.settings.get("quiet"))

    @property
    def force(self) -> bool:
        return bool(self.settings.get("force"))


@dataclass(frozen=True)
class Outcome:
    """How a job ended.

    Args:
        state: ``lost``: its process ended without reporting.
        error: one line for people; ``usage``: the user can correct it.
        skipped: the run was finished before.
        exit_code: set if a signal asked the job to stop; if ``finished``, the signal came too late.
        held: another process has locked the run.
        full: the disk is full, so no other job could write either.
    """

    number: int
    state: State
    score: float = float("nan")
    error: str | None = None
    usage: bool = False
    skipped: bool = False
    exit_code: int | None = None
    held: bool = False
    full: bool = False


def job_prefix(number: int, total: int, title: str) -> str:
    """The prefix of every line that a job prints, to distinguish concurrent jobs."""
    return f"[{number + 1}{f'/{total}' if total else ''} {title}] "


def job_of(number: int, total: int, overrides: Sequence[str], config: RunConfig) -> Job:
    """The job that does this run, in the current directory."""
    return Job(
        number, total, title(config), tuple(overrides), everything(config), str(Path.cwd()), str(run_path(config))
    )


def skip(job: Job) -> Outcome | None:
    """The outcome of a job whose run is already finished; None: the job must be executed."""
    if job.force or not job.run.finished:
        return None
    outcome = finished_outcome(job)
    return None if outcome is None else Outcome(job.number, "finished", score=outcome.score, skipped=True)


def finished_outcome(job: Job) -> Outcome | None:
    """The outcome in the run's directory; None: unfinished, or unreadable, which executing the job will report."""
    try:
        return Outcome(job.number, "finished", score=job.run.selection_score())
    except (RunError, KeyError, TypeError, ValueError):
        return None


def work(
    job: Job,
    *,
    report: Callable[[RunInfo], Any] | None = None,
    stop: StopSignals | None = None,
    silent: bool = False,
) -> Outcome:
    """Execute the job in this process without raising: errors are in the outcome and in the run's directory.

    Ctrl-C and SIGTERM let the run save itself, if this is the main thread: then the outcome is ``stopped``.

    Args:
        report: makes the observer that shows progress (see ``one_run.execute``); None: plain lines with the prefix.
        stop: shared by jobs that stop together; None: the job has its own.
        silent: leave it to the caller to print failures.
    """
    os.chdir(job.folder)
    forget_elsewhere()  # a worker may have done jobs of another folder
    skipped, stop = False, stop or StopSignals()
    try:
        config = from_mapping(job.settings)
        skipped = job.run.finished and not config.force
        run = execute(
            config,
            overrides=job.overrides,
            console=Console(soft_wrap=True),
            prefix=job.prefix,
            stop=stop,
            alone=False,
            display=report,
        )
        score = run.selection_score() if run.finished else float("nan")
    except Stopped as stopped:
        return Outcome(job.number, "stopped", error=str(stopped), exit_code=stopped.exit_code)
    except Exception as error:
        if report is None and not silent:
            say_failed(job.prefix, error)
        return Outcome(
            job.number,
            "failed",
            error=one_line(error),
            usage=isinstance(error, ConfigError),
            held=isinstance(error, RunError) and isinstance(error.__context__, Timeout),
            full=any(cause.errno in (errno.ENOSPC, errno.EDQUOT) for cause in _os_errors(error)),
        )
    too_late = stop.exit_code if stop.requested() else None
    return Outcome(job.number, "finished", score=score, skipped=skipped, exit_code=too_late)


def say_failed(prefix: str, error: BaseException) -> None:
    sys.stderr.write(f"{prefix}FAILED: {printable(one_line(error))}\n")
    sys.stderr.flush()


def _os_errors(error: BaseException) -> Iterator[OSError]:
    """The operating system's errors in the chain of causes of ``error``."""
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError):
            yield cause
        cause = cause.__cause__ or cause.__context__


def lost(job: Job, why: str) -> Outcome:
    """The outcome of a job whose process is gone; also recorded in the run's directory."""
    run = job.run
    try:
        if run.finished:  # the process ended after it had written its result
            return Outcome(job.number, "finished", score=run.selection_score())
        status = run.status()
        if run.path.exists() and (status is None or status.state == "running"):
            run.set_status("failed", step=status.step if status else 0, error=why)
    except (RunError, OSError, KeyError):
        pass  # the directory itself may be damaged; the outcome reports the loss anyway
    return Outcome(job.number, "lost", error=why)


# The queue


@dataclass(frozen=True)
class Progress:
    """A job's progress. ``first``: the step from which a run was resumed; ``rate``: steps per second."""

    step: int
    steps: int
    first: int = 0
    score: str = ""
    chance: str = ""
    rate: float | None = None


@runtime_checkable
class View(Protocol):
    """A context manager that shows a sweep while it runs."""

    live: bool
    """True if it draws the progress of running jobs."""

    unread: bool
    """True if the reader of the output is gone, as in ``seqmem train -m ... | head -1``."""

    def __enter__(self) -> "View": ...  # noqa: PYI034  the tests' type checker knows no Self in single methods

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...

    def skipped(self, job: Job) -> None: ...

    def started(self, job: Job) -> None: ...

    def progress(self, number: int, progress: Progress) -> None: ...

    def ended(self, job: Job, outcome: Outcome | None) -> None:
        """``outcome`` None: the job will be tried again."""

    def say(self, job: Job | None, text: str, *, error: bool = False) -> None:
        """Print whole lines, with the job's prefix if there is a job. ``error``: to stderr."""


class Lines:
    """A view that prints lines as they arrive: for pipes, files, and simple terminals."""

    live = False

    def __init__(self) -> None:
        self.unread = False

    def __enter__(self) -> "Lines":  # noqa: PYI034  the tests' type checker knows no Self in single methods
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """There is nothing to close."""

    def skipped(self, job: Job) -> None:
        if not job.quiet:
            self.say(job, f"{already_finished(job.path)}\n")

    def started(self, job: Job) -> None:
        """The run prints that itself."""

    def progress(self, number: int, progress: Progress) -> None:
        """The run prints lines of its own."""

    def ended(self, job: Job, outcome: Outcome | None) -> None:
        """The run prints that itself."""

    def say(self, job: Job | None, text: str, *, error: bool = False) -> None:
        if self.unread:
            return
        with as_written():  # the job has made it printable, but for what the user's own classes print
            stream = sys.stderr if error else sys.stdout
        try:
            stream.write(prefixed(job, text))
            stream.flush()
        except OSError as why:
            self.unread = True
            if not isinstance(why, BrokenPipeError):
                print_error(f"the output: {why.strerror}")
            to_nowhere(stream)


def prefixed(job: Job | None, text: str) -> str:
    """``text`` with the job's prefix in front of each line that lacks it."""
    prefix = job.prefix if job is not None else ""
    return "".join(
        line if line.startswith(prefix) or not line.strip() else f"{prefix}{line}"
        for line in text.splitlines(keepends=True)
    )


class Queue:
    """The waiting jobs, and the outcomes of the others. Two jobs of one run's directory never run at once.

    A job whose run another process has locked is retried for ``LOCK_WAIT`` seconds. Once the disk is full, no further
    job starts.
    """

    def __init__(self, jobs: Sequence[Job], view: View) -> None:
        self._waiting = [(job, 0.0) for job in jobs]  # (job, the earliest time to start it)
        self._held_since: dict[int, float] = {}
        self._view = view
        self.full: str | None = None
        self.outcomes: list[Outcome] = []

    def __len__(self) -> int:
        """The number of jobs that may still start."""
        return len(self._waiting) if self.full is None else 0

    def next(self, running: Sequence[Job] = ()) -> Job | None:
        """The next job to start; None if there is none now. Runs that were finished meanwhile are skipped."""
        if self.full is not None:
            return None
        busy, now = {job.path for job in running}, time.monotonic()
        for place, (job, earliest) in enumerate(self._waiting):
            if job.path not in busy and now >= earliest:
                del self._waiting[place]
                if (outcome := skip(job)) is None:
                    return job
                self._view.skipped(job)
                self.outcomes.append(outcome)
                return self.next(running)
        return None

    def put_back(self, job: Job) -> None:
        """Return a job that was started but did nothing."""
        self._waiting.append((job, 0.0))

    def ended(self, job: Job, outcome: Outcome, *, cancellable: bool = False) -> None:
        """Record the outcome of a job, or retry it if its run is locked.

        Args:
            cancellable: other jobs were submitted, but can still be cancelled before they run.
        """
        if outcome.held:
            now = time.monotonic()
            if now - self._held_since.setdefault(job.number, now) < LOCK_WAIT:
                self._waiting.append((job, now + LOCK_WAIT / 10))
                self._view.ended(job, None)
                return
        self._view.ended(job, outcome)
        self.outcomes.append(outcome)
        if outcome.state in ("failed", "lost") and not (outcome.full and self.full):
            self._view.say(job, f"FAILED: {printable(str(outcome.error))}\n", error=True)
        if outcome.full and self.full is None:
            self.full = outcome.error
            if self._waiting or cancellable:
                self._view.say(None, "no other run is started, as the disk is full\n", error=True)

    def rest(self, stop: StopSignals) -> Iterator[Outcome]:
        """The outcomes of the jobs that were not started."""
        for job, _ in self._waiting:
            if self.full is not None:
                yield Outcome(job.number, "failed", error="not started: the disk is full", full=True)
            else:
                exit_code = stop.exit_code if stop.requested() else None
                yield Outcome(job.number, "stopped", error="not started", exit_code=exit_code)
