"""Sweeps: every job is checked before the first one starts, and accounted for after the last."""

import sys
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

from ..runs import RunDirectory, RunError
from .config import RunConfig, from_mapping, with_own_arguments
from .errors import USAGE, explain
from .launch.jobs import Job, Outcome
from .launch.jobs import job as job_of


@dataclass
class Sweep:
    """The jobs of the sweep that this process started."""

    paths: list[Path] = field(default_factory=list)
    configs: list[RunConfig] = field(default_factory=list)
    finished_before: int = 0
    outcomes: list[Outcome] = field(default_factory=list)


current: Sweep | None = None


def job_prefix(number: int, title: str) -> str:
    """In front of every line of a job, so that jobs which run at once can be told apart."""
    total = f"/{len(current.paths)}" if current is not None else ""
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
        if not config.hydra.sweeper._target_.endswith("BasicSweeper"):
            return  # what other sweepers will try is not known before they do
        try:
            sweep, wrong = _checked(config)
        except Exception as error:  # which Hydra would make a mere warning of
            sweep, wrong = Sweep(), [one_line(error)]
        if wrong:
            print("seqmem train: " + "\n  ".join(wrong), file=sys.stderr)
            raise SystemExit(2)
        current = sweep
        already = f", {sweep.finished_before} of them finished already" if sweep.finished_before else ""
        print(f"sweep of {len(sweep.paths)} runs{already}", flush=True)


def _checked(config: DictConfig) -> tuple[Sweep, list[str]]:
    """(the sweep; what is wrong with it, in lines)"""
    from .build import check
    from .train import run_path

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
    if wrong:
        wrong.insert(0, f"{len(wrong)} of {len(jobs)} jobs cannot run, so none was started:")
    return sweep, wrong


def jobs(job_overrides: Sequence[Sequence[str]], first: int, loader: Any, config: DictConfig) -> list[Job]:
    """What a launcher is given, as jobs. Those of a grid were composed and checked when it started."""
    known = current.configs if current is not None else []
    total = len(known) or first + len(job_overrides)
    found = []
    for number, overrides in enumerate(job_overrides, start=first):
        if number < len(known):
            checked = known[number]
        else:
            checked = from_mapping(
                {k: v for k, v in loader.load_sweep_config(config, list(overrides)).items() if k != "hydra"}
            )
        found.append(job_of(number, total, list(overrides), checked))
    return found


def finished(outcomes: Sequence[Outcome]) -> None:
    """Of a launcher's jobs; whoever started the sweep asks for them in the end."""
    if current is not None:
        current.outcomes += outcomes


def summary() -> tuple[list[str], bool]:
    """(what became of the sweep, in lines; whether every run is finished)"""
    if current is None:
        return [], True
    states = [(path, _state(path)) for path in dict.fromkeys(current.paths)]
    finished = [path for path, (state, _) in states if state == "finished"]
    lines = [f"{len(finished)} of {len(states)} runs finished"]
    lines += [f"  {state}: {path}{': ' + why if why else ''}" for path, (state, why) in states if state != "finished"]
    return lines, len(finished) == len(states)


def _state(path: Path) -> tuple[str, str]:
    run = RunDirectory(path)
    if run.finished:
        return "finished", ""
    try:
        status = run.status()
    except RunError as error:
        return "unreadable", str(error)
    return (status.state, status.error or "") if status is not None else ("not started", "")
