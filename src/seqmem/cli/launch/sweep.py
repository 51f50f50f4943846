"""Sweeps: every job is checked before the first one starts, and accounted for after the last."""

import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra import compose
from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, flag_override

from ...runs.directory import RunDirectory, RunError
from ..config.errors import USAGE, explain
from ..config.schema import RunConfig, from_mapping, with_own_arguments
from .jobs import Job, Outcome
from .jobs import job as job_of


@dataclass
class Sweep:
    """The jobs of the sweep that this process started.

    ``total``: how many there will be; 0: nobody knows. ``grid``: all of them were checked before the first one.
    """

    total: int = 0
    grid: bool = True
    paths: list[Path] = field(default_factory=list)
    configs: list[RunConfig] = field(default_factory=list)
    finished_before: int = 0
    jobs: dict[int, Job] = field(default_factory=dict)
    outcomes: dict[Path, Outcome] = field(default_factory=dict)

    @property
    def quiet(self) -> bool:
        return bool(self.configs) and all(config.quiet for config in self.configs)


current: Sweep | None = None


def job_prefix(number: int, title: str) -> str:
    """In front of every line of a job, so that jobs which run at once can be told apart."""
    total = f"/{current.total}" if current is not None and current.total else ""
    return f"[{number + 1}{total} {title}] "


def one_line(error: BaseException) -> str:
    if isinstance(error, USAGE):
        return explain(error)
    return " ".join((str(error) if isinstance(error, RunError) else f"{type(error).__name__}: {error}").split())


def say_failed(prefix: str, error: BaseException) -> None:
    sys.stderr.write(f"{prefix}FAILED: {one_line(error)}\n")
    sys.stderr.flush()


class SweepCallback(Callback):
    """Composes and checks every job of a grid, so that a mistake in job 17 is said before job 1 has run."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        global current
        sweeper, launcher = config.hydra.sweeper, config.hydra.launcher
        try:
            if launcher._target_.endswith("LocalLauncher"):
                from . import local

                if local.worker_count(launcher.get("workers", "auto")) > 1:
                    local.warm()
            if not sweeper._target_.endswith("BasicSweeper"):  # what it will try is not known before it does
                current = Sweep(total=int(sweeper.get("n_trials") or 0), grid=False)
                return
            sweep, wrong = _checked(config)
        except Exception as error:  # which Hydra would make a mere warning of
            sweep, wrong = Sweep(), [one_line(error)]
        if wrong:
            print("seqmem train: " + "\n  ".join(wrong), file=sys.stderr)
            raise SystemExit(2)
        current = sweep
        already = f", {sweep.finished_before} of them finished already" if sweep.finished_before else ""
        if not sweep.quiet:
            print(f"sweep of {len(sweep.paths)} runs{already}", flush=True)


def _checked(config: DictConfig) -> tuple[Sweep, list[str]]:
    """(the sweep; what is wrong with it, in lines)"""
    from ..config.build import check
    from .one_run import run_path

    params = config.hydra.sweeper.get("params") or {}
    with flag_override(config, ["struct", "readonly"], [False, False]):
        config.hydra.sweeper.params = {with_own_arguments([str(key)])[0]: value for key, value in params.items()}
    swept = [f"{key}={value}" for key, value in config.hydra.sweeper.params.items()]
    parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
    overrides = parser.parse_overrides([*swept, *config.hydra.overrides.task])
    jobs = BasicSweeper.split_arguments(overrides, None)[0]
    common = set.intersection(*map(set, jobs)) if len(jobs) > 1 else set()
    sources = config.hydra.runtime.config_sources
    config_dir = next((source.path for source in sources if source.provider == "command-line"), None)
    sweep, wrong = Sweep(), []
    for number, job in enumerate(jobs, start=1):
        try:
            checked = from_mapping(compose(config.hydra.job.config_name, overrides=list(job)))
            check(checked)
        except Exception as error:  # a class of the user's own may raise anything
            said = explain(error, job, config_dir) if isinstance(error, USAGE) else one_line(error)
            wrong.append(f"job {number} ({' '.join(word for word in job if word not in common)}): {said}")
            continue
        path = run_path(checked)
        sweep.paths.append(path)
        sweep.configs.append(checked)
        sweep.finished_before += RunDirectory(path).finished and not checked.force
    sweep.total = len(sweep.paths)
    if wrong:
        wrong.insert(0, f"{len(wrong)} of {len(jobs)} jobs cannot run, so none was started:")
    return sweep, wrong


def jobs(job_overrides: Sequence[Sequence[str]], first: int, loader: Any, config: DictConfig) -> list[Job]:
    """What a launcher is given, as jobs. Those of a grid were composed and checked when it started."""
    sweep = current if current is not None else Sweep()
    found = []
    for number, overrides in enumerate(job_overrides, start=first):
        if sweep.grid and number < len(sweep.configs):
            checked = sweep.configs[number]
        else:
            checked = from_mapping(
                {k: v for k, v in loader.load_sweep_config(config, list(overrides)).items() if k != "hydra"}
            )
        found.append(job_of(number, sweep.total, list(overrides), checked))
        sweep.jobs[number] = found[-1]
        if not sweep.grid:
            sweep.configs.append(checked)
            sweep.paths.append(Path(found[-1].path))
    return found


def finished(outcomes: Sequence[Outcome]) -> None:
    """Of a launcher's jobs; whoever started the sweep asks for them in the end.

    Raises:
        Stopped: a signal asked for it, and there is something left to do. What runs was saved.
    """
    from .one_run import Stopped

    if current is None:
        return
    jobs = [current.jobs[outcome.number] for outcome in outcomes]
    current.outcomes |= {Path(job.path): outcome for job, outcome in zip(jobs, outcomes, strict=True)}
    stopped = [outcome for outcome in outcomes if outcome.exit_code is not None]
    left = any(outcome.state == "stopped" for outcome in stopped)
    if not stopped or not (left or not current.grid):
        return
    command = "the same command"
    if any(job.settings.get("force") for job in jobs):
        command += " without force=true"
    saved = sum(job.run.path.exists() and not job.run.finished for job in jobs)
    if left and saved:
        done = sum(outcome.state == "finished" for outcome in outcomes)
        line = f"stopped, {done} of {len(jobs)} runs finished, {saved} begun and saved: {command} goes on from there"
    else:
        line = f"stopped between two runs: {command} goes on from there"
    raise Stopped(line, next(outcome.exit_code for outcome in stopped if outcome.exit_code is not None))


def summary() -> tuple[list[str], int]:
    """(what became of the sweep, in lines; the exit code that says so)"""
    if current is None:
        return [], 0
    states = {path: _state(path, current.outcomes.get(path)) for path in dict.fromkeys(current.paths)}
    finished = sum(state == "finished" for state, _ in states.values())
    lines = [f"{finished} of {len(states)} runs finished"]
    waiting = Counter(why for state, why in states.values() if state == "not started")
    for path, (state, why) in states.items():
        if state == "not started":
            if (many := waiting.pop(why, 0)) > 1:
                lines.append(f"  not started: {many} runs{': ' + why if why else ''}")
            elif many:
                lines.append(f"  not started: {path}{': ' + why if why else ''}")
        elif state != "finished":
            lines.append(f"  {state}: {path}{': ' + why if why else ''}")
    if finished == len(states):
        return [] if current.quiet else lines, 0
    return lines, 2 if any(outcome.usage for outcome in current.outcomes.values()) else 1


def _state(path: Path, outcome: Outcome | None) -> tuple[str, str]:
    """(finished, failed, ...; why, in one line)"""
    run = RunDirectory(path)
    if outcome is not None and outcome.state in ("failed", "lost"):
        why = outcome.error or ""
        if why.startswith("not started: "):
            return "not started", why.removeprefix("not started: ")
        return ("in use" if outcome.held else "failed"), why
    if run.finished:
        return "finished", ""
    try:
        status = run.status()
    except RunError as error:
        return "unreadable", str(error)
    return (status.state, status.error or "") if status is not None else ("not started", "")
