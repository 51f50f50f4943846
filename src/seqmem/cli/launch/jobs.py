"""A job of a sweep, as a plain value that any launcher can send anywhere, and what became of it.

A launcher is a function from jobs to outcomes: ``run_jobs(jobs, **options)`` in ``local``, ``slurm`` and ``ray``. Each
job is one call of ``work``, in whatever process; the run's own directory is what is left of it, so that nothing is
lost with the process, and a sweep is resumed by starting it again.
"""

import errno
import os
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import Timeout
from rich.console import Console

from ...runs.directory import RunDirectory, RunError
from ..config.errors import ConfigError, one_line
from ..config.schema import RunConfig, everything, from_mapping
from .one_run import Stopped, StopSignals, execute, run_path, title

State = Literal["finished", "failed", "stopped", "lost"]


@dataclass(frozen=True)
class Job:
    """Everything that another process needs to do one run of a sweep.

    Args:
        number: from 0; ``total``: of the whole sweep; 0: nobody knows yet.
        overrides: what the user said of it, as Hydra writes it.
        settings: the whole configuration, as ``config.everything`` has it.
        folder: the working directory that relative paths and a user's own modules are looked up from.
        path: the run's directory, as the configuration says it: relative to ``folder``, or absolute.
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


@dataclass(frozen=True)
class Outcome:
    """``lost``: its process ended without a word. ``error``: one line for people; ``usage``: the user can correct it.

    ``skipped``: it was finished before. ``exit_code``: a signal asked for an end; of a ``finished`` one it came too
    late. ``held``: another process has the run. ``full``: the disk is, so that no other job can write either.
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
    """In front of every line of a job, so that the lines of concurrent jobs can be told apart."""
    return f"[{number + 1}{f'/{total}' if total else ''} {title}] "


def say_failed(prefix: str, error: BaseException) -> None:
    sys.stderr.write(f"{prefix}FAILED: {one_line(error)}\n")
    sys.stderr.flush()


def job_of(number: int, total: int, overrides: Sequence[str], config: RunConfig) -> Job:
    """Of a ``RunConfig`` in the current directory."""
    return Job(
        number, total, title(config), tuple(overrides), everything(config), str(Path.cwd()), str(run_path(config))
    )


def skip(job: Job) -> Outcome | None:
    """Of a job that is finished already, without any work; None: it is to be done."""
    run = job.run
    if job.settings.get("force") or not run.finished:
        return None
    try:
        return Outcome(job.number, "finished", score=float((run.result() or {})["score"]), skipped=True)
    except (RunError, KeyError, TypeError, ValueError):
        return None  # whoever does the work says what is wrong with it


def work(
    job: Job,
    *,
    report: Callable[..., Any] | None = None,
    stop: StopSignals | None = None,
    silent: bool = False,
) -> Outcome:
    """Do the job in this process, and raise nothing: what went wrong stands in the outcome, and in the run's directory.

    Ctrl-C and SIGTERM let the run save itself, if this is the main thread: then the outcome is ``stopped``.

    Args:
        report: an additional observer's factory for whoever shows progress: it is called with the display's arguments
            and stands in its place (see ``display.Display``); None: plain lines with the job's prefix.
        stop: of whoever asks several jobs to stop; None: the job has its own.
        silent: a failure is said by whoever gets the outcome.
    """
    os.chdir(job.folder)
    if job.folder not in sys.path:  # a cell of the user's own
        sys.path.insert(0, job.folder)
    skipped, stop = False, stop or StopSignals()
    try:
        config = from_mapping(job.settings)
        skipped = job.run.finished and not config.force
        done = execute(
            config,
            overrides=job.overrides,
            console=Console(soft_wrap=True),
            prefix=job.prefix,
            stop=stop,
            alone=False,
            display=report,
        )
        result = done.result()
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
            full=any(cause.errno in (errno.ENOSPC, errno.EDQUOT) for cause in _causes(error)),
        )
    score = float("nan") if result is None else float(result["score"])
    too_late = stop.exit_code if stop.requested() else None
    return Outcome(job.number, "finished", score=score, skipped=skipped, exit_code=too_late)


def _causes(error: BaseException) -> Iterator[OSError]:
    """What the operating system said, on the way to ``error``."""
    seen: BaseException | None = error
    while seen is not None:
        if isinstance(seen, OSError):
            yield seen
        seen = seen.__cause__ or seen.__context__


def lost(job: Job, why: str) -> Outcome:
    """Of a job whose process is gone; its directory is told, so that whoever looks there later knows too."""
    run = job.run
    try:
        if run.finished:  # it was killed after its last word
            return Outcome(job.number, "finished", score=float((run.result() or {})["score"]))
        status = run.status()
        if run.path.exists() and (status is None or status.state == "running"):
            run.set_status("failed", step=status.step if status else 0, error=why)
    except (RunError, OSError, KeyError):
        pass  # the directory may be what is wrong; the outcome says it all the same
    return Outcome(job.number, "lost", error=why)
