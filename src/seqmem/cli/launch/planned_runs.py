"""Runs that are known before the first begins: ordinary runs, in ``outputs``; what is finished is not run again."""

from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from omegaconf import OmegaConf

from ...runs.directory import RunDirectory
from ...runs.files import RunError
from ..config.errors import ConfigError
from ..config.grouped import Compositions
from ..config.hydra_errors import explained
from ..config.own_hydra import own_hydra
from ..config.schema import RunConfig, from_mapping
from .jobs import Job, Outcome, job_of
from .one_run import Stopped, run_path


@dataclass(frozen=True)
class PlannedRun:
    """``kind``: runs of one kind differ in their seed alone."""

    kind: Hashable
    overrides: Sequence[str]
    config: RunConfig


def composed(runs: Iterable[tuple[Hashable, Sequence[str]]]) -> list[PlannedRun]:
    """Runs with their configurations. Must be called inside ``own_hydra()``.

    Args:
        runs: the kind and the settings of each.

    Raises:
        ConfigError: a setting is unknown, or has an invalid value.
    """
    compositions = Compositions("train")
    plans = []
    for kind, overrides in runs:
        with explained(overrides):
            plans.append(PlannedRun(kind, overrides, from_mapping(compositions.compose(overrides))))
    return plans


def run_all(plans: Sequence[PlannedRun], launcher: Sequence[str]) -> list[Job]:
    """Do the runs that are not finished, by this machine's processes or the chosen launcher; all their jobs.

    Args:
        launcher: settings that choose it, as of ``seqmem train -m``: ``hydra/launcher=slurm hydra.launcher.mem=2G``.

    Raises:
        ConfigError: a setting cannot be.
        RunError: a run failed, other than by a loss that is not finite.
        Stopped: a signal came; running jobs have saved themselves.
    """
    from ..config.build import check

    jobs = _jobs(plans)
    first = {job.path: at for at, job in reversed([*enumerate(jobs)])}
    missing = [at for at in sorted(first.values()) if not jobs[at].run.finished and not has_diverged(jobs[at].run)]
    for at in {plans[at].kind: at for at in missing}.values():
        check(plans[at].config)  # every mistake is told before the first run
    if missing:
        where, options = _launcher(launcher)
        outcomes = import_module(f"{__package__}.{where}").run_jobs([jobs[at] for at in missing], **options)
        for at, outcome in zip(missing, outcomes, strict=True):
            _refuse(jobs[at], outcome)
    return jobs


def _jobs(plans: Sequence[PlannedRun]) -> list[Job]:
    """One for each plan; plans of the same run, as of rows that measure it at two lengths, have the same number."""
    paths = [str(run_path(one.config)) for one in plans]
    numbers = {path: number for number, path in enumerate(dict.fromkeys(paths))}
    return [
        job_of(numbers[path], len(numbers), one.overrides, one.config) for path, one in zip(paths, plans, strict=True)
    ]


def _launcher(settings: Sequence[str]) -> tuple[str, Mapping[str, Any]]:
    """(the module that runs jobs, its options)"""
    from hydra_plugins.seqmem_launchers import LocalLauncher, RayLauncher, SlurmLauncher

    with own_hydra(), explained(settings):
        from hydra import compose

        chosen = compose("train", overrides=list(settings), return_hydra_config=True).hydra.launcher
    options = OmegaConf.to_container(chosen, resolve=True)
    assert isinstance(options, dict)
    target = str(options.pop("_target_")).rpartition(".")[2]
    for kind in (LocalLauncher, SlurmLauncher, RayLauncher):
        if kind.__name__ == target:
            return kind.where, {str(key): value for key, value in options.items()}
    raise ConfigError(f"hydra/launcher: {target} is none of seqmem's: local, slurm or ray")


def has_diverged(run: RunDirectory) -> bool:
    """It ended before its end, by a loss that is not finite: it has no score, and is not run again."""
    status = run.status()
    return status is not None and status.diverged


def _refuse(job: Job, outcome: Outcome) -> None:
    if outcome.state == "finished" or has_diverged(job.run):
        return
    if outcome.state == "stopped":
        raise Stopped("stopped: the same command goes on from there", outcome.exit_code or 130)
    raise RunError(
        f"{outcome.error or 'a run failed'} ({job.path}); what is finished is kept: the same command goes on"
    )
