"""The playground's own models: a few ordinary runs, trained if they are not finished yet."""

import errno
import os
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from math import nan
from pathlib import Path
from tempfile import TemporaryFile

from rich.console import Console
from rich.text import Text

from ...runs.directory import RunDirectory
from ...runs.files import RunError
from ...runs.summary import read
from ..config.compose import compose_settings
from ..config.schema import RunConfig, from_mapping
from ..terminal.live import moving
from ..terminal.strip import say
from ..terminal.words import here
from . import local
from .jobs import Job, Outcome, job_of
from .one_run import Stopped

SETTINGS: tuple[str, ...] = ("experiment=playground",)
MODELS: tuple[tuple[str, ...], ...] = (
    ("cell=rnn",),
    ("cell=lstm",),
    ("cell=gru",),
    ("cell=attention", "cell.wide=0"),
    ("cell=rnn", "seq_len=10", "task.shortest=null"),
)
"""Each model has ``SETTINGS`` and one of these, in ``SEEDS`` seeds."""

SEEDS = 5

EARLIER = Path("outputs/playground")
"""Where earlier versions kept the models. Finished ones are used there, not trained again."""


def train_models(console: Console, seeds: int, workers: int | str) -> list[RunDirectory]:
    """Train the playground's own models, unless they are finished, and return their runs.

    Raises:
        RunError: a model cannot be trained, or its run cannot be written.
        Stopped: a signal came; running jobs have saved themselves.
    """
    live = moving(console)
    configs = _configs(seeds, quiet=not live)
    jobs = [job_of(number, len(configs), overrides, config) for number, (overrides, config) in enumerate(configs)]
    folder = Path(configs[0][1].outputs)
    earlier = [RunDirectory(EARLIER / Path(job.path).relative_to(folder)) for job in jobs]
    runs = [old if old.finished and not job.run.finished else job.run for job, old in zip(jobs, earlier, strict=True)]
    missing = [job for job, run in zip(jobs, runs, strict=True) if not run.finished]
    if any(run in earlier for run in runs):
        _tell_of_earlier(console, folder)
    if not missing:
        where = " and ".join(dict.fromkeys(str(EARLIER if run in earlier else here(folder)) for run in runs))
        say(console, Text(f"{len(jobs)} models, trained before, in {where}", "dim"))
        return runs
    before = f", {len(jobs) - len(missing)} more are there" if len(missing) < len(jobs) else ""
    count = f"{len(missing)} models" if len(missing) > 1 else "one model"
    say(console, Text(f"training {count} in {here(folder)}{before}; this is done once"))
    check_writable(folder / "any")
    if workers == "auto" or int(workers) > 1:
        local.warm()
    with _line_per_run(missing, live=live):
        outcomes = local.run_jobs(missing, workers=workers)
    for job, outcome in zip(missing, outcomes, strict=True):
        if outcome.state != "finished":
            _fail(job, outcome)
    return runs


def _tell_of_earlier(console: Console, folder: Path) -> None:
    """Tell how to set the models of an earlier version apart from the user's runs."""
    line = f"{EARLIER} holds models that an earlier version trained; show, read and report take them for yours"
    groups = [path for path in sorted(EARLIER.iterdir()) if path.is_dir() and not (folder / path.name).exists()]
    if groups:
        line += f"; set them apart: mv {' '.join(str(here(path)) for path in groups)} {here(folder)}/"
    say(console, Text(line, "yellow"))


def check_writable(path: Path) -> None:
    """Create the file's folder, and check that a file can be written there.

    Raises:
        RunError: no file can be written there.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        TemporaryFile(dir=path.parent).close()
    except OSError as error:
        reason = os.strerror(errno.ENOTDIR) if isinstance(error, FileExistsError) else error.strerror
        raise RunError(f"cannot write to {path.parent}: {reason or error}") from error


def _configs(seeds: int, *, quiet: bool) -> list[tuple[list[str], RunConfig]]:
    """(command-line settings, configuration) of every run."""
    configs = []
    for model in MODELS:
        composed = compose_settings([*SETTINGS, *model])
        for seed in range(seeds):
            composed.seed = seed
            config = from_mapping({key: value for key, value in composed.items() if key != "hydra"})
            config.quiet = quiet
            configs.append(([*SETTINGS, *model, f"seed={seed}"], config))
    return configs


def _fail(job: Job, outcome: Outcome) -> None:
    if outcome.state == "stopped":
        raise Stopped("stopped: the same command goes on from there", outcome.exit_code or 130)
    raise RunError(f"{outcome.error or 'a model could not be trained'} ({job.path}); the same command goes on")


@contextmanager
def _line_per_run(jobs: Sequence[Job], *, live: bool) -> Iterator[None]:
    """Print a line for every run that ends; nothing if ``live``, as a live picture shows the runs."""
    if live:
        yield
        return
    over, waiting = threading.Event(), {job.path: job for job in jobs}

    def print_finished() -> None:
        for path, job in list(waiting.items()):
            if job.run.finished:
                del waiting[path]
                summary = read(job.run)
                score = summary.scale.metric.text(nan if summary.score is None else summary.score)
                print(f"[{len(jobs) - len(waiting)}/{len(jobs)}] {job.title}: {score}", flush=True)

    def watch() -> None:
        while not over.wait(0.2):
            print_finished()

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        over.set()
        watcher.join()
    print_finished()
