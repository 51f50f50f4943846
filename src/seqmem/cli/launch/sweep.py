"""Sweeps: every job is checked before the first one starts, and accounted for after the last."""

import json
import os
import re
import sys
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.global_hydra import GlobalHydra
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf, flag_override

from ...printable import OutputError, as_written, to_nowhere
from ...runs.directory import RunDirectory
from ...runs.files import RunError
from ..config import own_code, process
from ..config.commands import command
from ..config.compose import command_line_config_dir, with_own_arguments
from ..config.errors import ConfigError, joined, one_line, print_error
from ..config.grouped import Compositions
from ..config.home import expanded
from ..config.hydra_errors import explained
from ..config.schema import RunConfig, everything, from_mapping
from ..terminal.words import here
from . import local
from .jobs import Job, Outcome, job_of
from .one_run import Stopped, run_path


@dataclass
class Sweep:
    """The jobs of the sweep that this process started.

    ``total``: their number; 0: unknown. ``grid``: all jobs were checked before the first one started.
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


@dataclass
class Session:
    """One ``seqmem train``, in the process that the user started.

    Hydra calls the task function, the callback and the launcher by name, so what they share cannot be an argument.

    ``failures``: of the jobs that ran in this process. ``sweep``: None for a single run.
    """

    failures: list[Exception] = field(default_factory=list)
    sweep: Sweep | None = None


_session: Session | None = None


def begin() -> Session:
    """Start the session of this process, in place of an earlier one."""
    global _session
    _session = Session()
    return _session


def session() -> Session | None:
    """The session of this process; None if it is a worker of a sweep."""
    return _session


class SweepCallback(Callback):
    """Composes and checks every job of a grid, so that a mistake in job 17 is reported before job 1 has run."""

    def on_run_start(self, config: DictConfig, **kwargs: Any) -> None:
        try:
            _expand_home(config.hydra.run)
        except ConfigError as error:  # Hydra would only print a warning
            print(f"seqmem train: hydra.run.dir={error}", file=sys.stderr)
            raise SystemExit(2) from None

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        sweeper, launcher = config.hydra.sweeper, config.hydra.launcher
        current = session() or begin()
        try:
            _interpolate_per_job(config)
            _expand_home(config.hydra.sweep)
            here = launcher._target_.endswith("LocalLauncher")
            processes = local.worker_count(launcher.get("workers", "auto")) if here else 0
            if not launcher._target_.startswith("hydra_plugins.seqmem_launchers."):
                os.environ[own_code.SAFE_PATH] = "1"  # of workers that another launcher starts; train.main resets it
            if not sweeper._target_.endswith("BasicSweeper"):  # other sweepers choose each job only when they start it
                current.sweep = Sweep(total=int(sweeper.get("n_trials") or 0), grid=False)
                return
            sweep, mistakes = _checked(config, processes)
        except Exception as error:  # Hydra would only print a warning
            sweep, mistakes = Sweep(), [one_line(error)]
        if mistakes:
            print("seqmem train: " + "\n  ".join(map(joined, mistakes)), file=sys.stderr)
            raise SystemExit(2)
        current.sweep = sweep
        sweeper._target_ = "hydra_plugins.seqmem_launchers.CheckedSweeper"
        several, before = len(sweep.paths) != 1, sweep.finished_before
        already = f", {f'{before} of them ' * several}finished already" if before else ""
        if not sweep.quiet:
            try:
                print(f"sweep of {len(sweep.paths)} run{'s' * several}{already}", flush=True)
            except OSError as error:  # Hydra would only print a warning
                to_nowhere(sys.stdout)
                if isinstance(error, OutputError):
                    print_error(f"seqmem train: {one_line(error)}")
                raise SystemExit(141 if isinstance(error, BrokenPipeError) else 1) from None


def _expand_home(place: DictConfig) -> None:
    """Hydra itself makes the directory of a run and of a sweep, by default one in ``outputs``.

    Raises:
        ConfigError: it begins with a ``~`` that no home is known for.
    """
    given = str(place.dir)
    if given.startswith("~"):
        try:
            folder = expanded(given)
        except ValueError as error:
            raise ConfigError(str(error)) from None
        with flag_override(place, ["struct", "readonly"], [False, False]):
            place.dir = folder


def _interpolate_per_job(config: DictConfig) -> None:
    """Move settings of ``hydra.sweeper.params`` to those of the command line, which Hydra keeps unresolved.

    It makes the sweeper with resolved params: ``cell.hidden_size: ${seq_len}`` would be one value for all jobs. Of
    other sweepers than Hydra's own, which may give params a meaning, only interpolations are moved.
    """
    params = OmegaConf.to_container(config.hydra.sweeper.get("params") or OmegaConf.create({}), resolve=False)
    given = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
    assert isinstance(params, dict)
    assert isinstance(given, list)
    own = config.hydra.sweeper._target_.endswith("BasicSweeper")
    moved = {key: value for key, value in params.items() if own or "${" in f"{value}"}
    if moved:
        with flag_override(config, ["struct", "readonly"], [False, False]):
            config.hydra.overrides.task = [*with_own_arguments([f"{key}={moved[key]}" for key in moved]), *given]
            config.hydra.sweeper.params = {key: value for key, value in params.items() if key not in moved}


def _checked(config: DictConfig, processes: int) -> tuple[Sweep, list[str]]:
    """(the sweep, lines about mistakes in its settings)

    Args:
        processes: of this machine that will do the jobs; they are started as soon as it is known that they are needed.
    """
    given = OmegaConf.to_container(config.hydra.overrides.task, resolve=False)
    assert isinstance(given, list)
    config_dir = command_line_config_dir(config.hydra)
    with explained(given, config_dir):
        parser = OverridesParser.create(config_loader=GlobalHydra.instance().config_loader())
        overrides = parser.parse_overrides(given)
        jobs = BasicSweeper.split_arguments(overrides, None)[0]
    if not jobs:
        empty = [str(one.input_line) for one in overrides if one.is_sweep_override() and not [*one.sweep_iterator()]]
        raise ConfigError(f"{' and '.join(empty)}: has no value, so the sweep would have no run")
    sweep, mistakes, unfinished = Sweep(), dict[int, str](), dict[int, RunConfig]()
    compositions, composed = Compositions(config.hydra.job.config_name), dict[int, RunConfig]()
    for number, job in enumerate(jobs, start=1):
        try:
            with explained(job, config_dir):
                composed[number] = from_mapping(compositions.compose(job))
        except Exception as error:
            mistakes[number] = one_line(error)
    if _is_ours(config):
        for group in own_code.PARTS:
            if any(_takes_arguments(getattr(one, group)) for one in composed.values()):
                _leave_arguments_to_own_classes(group, composed.values())
    for number, checked in composed.items():
        path = run_path(checked)
        sweep.paths.append(path)
        sweep.configs.append(checked)
        if RunDirectory(path).finished and not checked.force:
            sweep.finished_before += 1
            continue
        unfinished[number] = checked
        if len(unfinished) == 2 and processes > 1:
            local.warm()
    mistakes |= _refused(unfinished)
    _tell_what_to_do(mistakes, jobs)
    sweep.total = len(sweep.paths)
    common = set.intersection(*map(set, jobs)) if len(jobs) > 1 else set()
    lines = []
    for number in sorted(mistakes):
        settings = " ".join(word for word in jobs[number - 1] if word not in common)
        lines.append(f"job {number} ({settings}): {mistakes[number]}")
    if lines:
        lines.insert(0, f"{len(lines)} of {len(jobs)} jobs cannot run, so none was started:")
    return sweep, lines


def _is_ours(config: DictConfig) -> bool:
    """Whether the launcher takes the settings that are checked here; others compose them anew."""
    return config.hydra.launcher._target_.startswith("hydra_plugins.seqmem_launchers.")


def _takes_arguments(part: Mapping[str, Any]) -> bool:
    """It is a class of the user's own, or one of another package."""
    return part.get("name") == "custom" or "kind" in part


def _leave_arguments_to_own_classes(group: str, configs: Iterable[RunConfig]) -> None:
    """``cell=lstm,mine.Peephole cell.args.width=3``: no cell of ours has ``args``, so they are the other's alone."""
    for config in configs:
        if not _takes_arguments(part := getattr(config, group)):
            part.pop("args", None)


def _tell_what_to_do(mistakes: dict[int, str], jobs: Sequence[Sequence[str]]) -> None:
    """Say it of a setting that some of a sweep's choices have, and others have not."""
    for number, line in mistakes.items():
        match = re.match(r"there is no setting '(cell|task|model|optimizer)\.", line)
        group = match[1] if match and "Did you mean" not in line else "-"
        chosen = [next((word for word in job if word.startswith(f"{group}=")), "") for job in jobs]
        if len({*chosen}) > 1 and len(mistakes) < len(jobs):
            named = line.replace(f". {group} has ", f". {chosen[number - 1]} has ")
            mistakes[number] = (
                f"{named}; a sweep sets it for every {group}: set it for some in a file of your own, "
                f"DIR/{group}/NAME.yaml, chosen by -cd DIR {group}=NAME"
            )


def _refused(jobs: Mapping[int, RunConfig]) -> dict[int, str]:
    """Why jobs cannot run, by their numbers. Jobs of our own classes that differ by their seeds are built once."""
    if not jobs:
        return {}
    with process.importing("torch"):
        from ..config.build import check

    mistakes, known = dict[int, str](), dict[str, str | None]()
    for number, config in jobs.items():
        own = any(own_code.targets(config))  # it may do with its seed what it likes
        alike = json.dumps({**everything(config), "seed": config.seed if own else 0, "outputs": ""})
        if alike not in known:
            known[alike] = None
            try:
                with as_written():  # the user's own classes print here
                    check(config)
            except Exception as error:  # a user's own class may raise any error
                known[alike] = one_line(error)
        if (line := known[alike]) is not None:
            mistakes[number] = line
    return mistakes


def jobs(job_overrides: Sequence[Sequence[str]], first: int, loader: Any, config: DictConfig) -> list[Job]:
    """The jobs that Hydra gives a launcher. Those of a grid were composed and checked when it started."""
    current = session()
    sweep = current.sweep if current is not None and current.sweep is not None else Sweep()
    jobs = []
    for number, overrides in enumerate(job_overrides, start=first):
        if sweep.grid and number < len(sweep.configs):
            checked = sweep.configs[number]
        else:
            with explained(list(overrides)):
                checked = from_mapping(
                    {k: v for k, v in loader.load_sweep_config(config, list(overrides)).items() if k != "hydra"}
                )
        foreign = tuple(f"++{group}.args" for group in own_code.PARTS if not _takes_arguments(getattr(checked, group)))
        job = job_of(number, sweep.total, [word for word in overrides if not word.startswith(foreign)], checked)
        jobs.append(job)
        sweep.jobs[number] = job
        if not sweep.grid:
            sweep.configs.append(checked)
            sweep.paths.append(Path(job.path))
    return jobs


def account(outcomes: Sequence[Outcome]) -> None:
    """Add a launcher's outcomes to the sweep's; ``summary`` describes them at the end.

    Raises:
        Stopped: a signal came while runs were left. The runs that had started are saved.
    """
    current = session()
    if current is None or current.sweep is None:
        return
    sweep = current.sweep
    jobs = [sweep.jobs[outcome.number] for outcome in outcomes]
    sweep.outcomes |= {Path(job.path): outcome for job, outcome in zip(jobs, outcomes, strict=True)}
    stopped = [outcome for outcome in outcomes if outcome.exit_code is not None]
    left = any(outcome.state == "stopped" for outcome in stopped)
    if not stopped or not (left or not sweep.grid):
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


def summary(sweep: Sweep) -> tuple[list[str], int]:
    """(lines about the states of the sweep's runs, the exit code)"""
    states = {path: state_of(path, sweep.outcomes.get(path)) for path in dict.fromkeys(sweep.paths)}
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
        return [] if sweep.quiet else lines, 0
    return lines, 2 if any(outcome.usage for outcome in sweep.outcomes.values()) else 1


def next_command(sweep: Sweep, exit_code: int) -> str:
    """The line that ends a sweep: a command for the folder of its task, or for ``outputs`` if it has several tasks."""
    if sweep.quiet or not sweep.paths:
        return ""
    tasks = {path.parent.parent for path in sweep.paths}
    folder = here(tasks.pop() if len(tasks) == 1 else sweep.paths[0].parents[2])
    if exit_code:
        return f"next  {command('sweep', 'status', folder)}   every run, and what became of it"
    return f"next  {command('report', folder)}   medians over seeds, and figures"


def state_of(path: Path, outcome: Outcome | None) -> tuple[str, str]:
    """(state, e.g. finished or failed; reason in one line)"""
    run = RunDirectory(path)
    if outcome is not None and outcome.state in ("failed", "lost"):
        why = outcome.error or ""
        if why.startswith("not started: "):
            return "not started", why.removeprefix("not started: ")
        return ("in use" if outcome.held else "failed"), why
    if run.finished:
        return "finished", ""
    try:
        state, status = run.state, run.status()
    except RunError as error:
        return "unreadable", str(error)
    return state, (status.error or "") if status is not None else ""
