"""A job of a sweep, as a plain value that any launcher can send anywhere, and what became of it.

A launcher is a function from jobs to outcomes: ``run_jobs(jobs, **options)`` in ``local``, ``slurm`` and ``ray``. Each
job is one call of ``work``, in whatever process; the run's own directory is what is left of it, so that nothing is
lost with the process, and a sweep is resumed by starting it again.
"""

import os
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ...runs import RunDirectory, RunError

State = Literal["finished", "failed", "stopped", "lost"]


@dataclass(frozen=True)
class Job:
    """Everything that another process needs to do one run of a sweep.

    Args:
        number: from 0; ``total``: of the whole sweep.
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
        """In front of every line of the job, so that jobs which run at once can be told apart."""
        return f"[{self.number + 1}/{self.total} {self.title}] "

    @property
    def run(self) -> RunDirectory:
        return RunDirectory(Path(self.folder) / self.path)


@dataclass(frozen=True)
class Outcome:
    """``lost``: its process ended without a word. ``error``: one line for people; ``usage``: the user can correct it.

    ``skipped``: it was finished before.
    """

    number: int
    state: State
    score: float = float("nan")
    error: str | None = None
    usage: bool = False
    skipped: bool = False
    exit_code: int | None = None


def job(number: int, total: int, overrides: Sequence[str], config: Any) -> Job:
    """Of a ``RunConfig`` in the current directory."""
    from ..config import everything
    from ..train import run_path, title

    return Job(
        number, total, title(config), tuple(overrides), everything(config), str(Path.cwd()), str(run_path(config))
    )


def work(job: Job, *, report: "Callable[..., Any] | None" = None) -> Outcome:
    """Do the job in this process, and raise nothing: what went wrong stands in the outcome, and in the run's directory.

    Ctrl-C and SIGTERM let the run save itself, if this is the main thread: then the outcome is ``stopped``.

    Args:
        report: an additional observer's factory for whoever shows progress: it is called with the display's arguments
            and stands in its place (see ``display.Display``); None: plain lines with the job's prefix.
    """
    from rich.console import Console

    from .. import train
    from ..config import from_mapping
    from ..errors import USAGE
    from ..sweep import one_line, say_failed

    os.chdir(job.folder)
    if job.folder not in sys.path:  # a cell of the user's own
        sys.path.insert(0, job.folder)
    skipped, stop = False, train.StopSignals()
    try:
        config = from_mapping(job.settings)
        skipped = job.run.finished and not config.force
        done = train.execute(
            config,
            overrides=job.overrides,
            console=Console(soft_wrap=True),
            prefix=job.prefix,
            stop=stop,
            alone=False,
            display=report,
        )
        result = done.result()
    except train.Stopped as stopped:
        return Outcome(job.number, "stopped", error=str(stopped), exit_code=stopped.exit_code)
    except Exception as error:
        if report is None:
            say_failed(job.prefix, error)
        return Outcome(job.number, "failed", error=one_line(error), usage=isinstance(error, USAGE))
    score = float("nan") if result is None else float(result["score"])
    return Outcome(job.number, "finished", score=score, skipped=skipped)


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
