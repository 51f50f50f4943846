"""The runs that repeat a paper: ordinary runs, in ``outputs``; what is finished is not run again."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from math import inf, nan
from typing import Any, Literal

from omegaconf import OmegaConf

from ...papers import Paper, Row
from ...papers.comparison import Comparison, Figure, best, compared
from ...runs.directory import RunDirectory
from ...runs.files import RunError
from ...runs.result import diverged
from ..config.compose import with_own_arguments
from ..config.errors import ConfigError
from ..config.grouped import Compositions
from ..config.hydra_errors import explained
from ..config.own_hydra import own_hydra
from ..config.schema import RunConfig, from_mapping
from .jobs import Job, Outcome, job_of
from .one_run import Stopped


@dataclass(frozen=True)
class Planned:
    """A run, and which figure it belongs to."""

    row: Row
    candidate: str
    seed: int
    overrides: Sequence[str]
    config: RunConfig


def planned(paper: Paper, more: Sequence[str], *, quick: bool) -> list[Planned]:
    """Every run of a paper, row by row.

    Args:
        more: further settings of every run, from the command line.

    Raises:
        ConfigError: a setting is unknown, or has an invalid value; a length that is measured is not tested.
    """
    runs: list[Planned] = []
    with own_hydra():
        compositions = Compositions("train")
        for row in paper.rows:
            for candidate in paper.candidates():
                given = with_own_arguments([*paper.settings_of(row, candidate, quick=quick), *more])
                for seed in range(paper.seeds_of(quick=quick)):
                    overrides = [*given, f"seed={seed}"]
                    with explained(overrides):
                        config = from_mapping(compositions.compose(overrides))
                    _check_lengths(paper, row, config)
                    runs.append(Planned(row, candidate, seed, overrides, config))
    return runs


def _check_lengths(paper: Paper, row: Row, config: RunConfig) -> None:
    """Before the first run, so that no result is missing after the last."""
    tested = {config.seq_len, *(config.evaluate.lengths or ())}
    for length in paper.lengths_of(row):
        if length not in tested:
            raise ConfigError(f"paper={paper.name}: row '{row.name}' measures length {length}: not in evaluate.lengths")


def run(plans: Sequence[Planned], launcher: Sequence[str]) -> list[Job]:
    """Do the runs that are not finished, by this machine's processes or the chosen launcher; all their jobs.

    Args:
        launcher: settings that choose it, as of ``seqmem train -m``: ``hydra/launcher=slurm hydra.launcher.mem=2G``.

    Raises:
        ConfigError: a setting cannot be.
        RunError: a run failed, other than by a loss that is not finite.
        Stopped: a signal came; running jobs have saved themselves.
    """
    from ..config.build import check

    jobs = [job_of(number, len(plans), one.overrides, one.config) for number, one in enumerate(plans)]
    missing = [at for at, job in enumerate(jobs) if not job.run.finished and not _diverged(job.run)]
    for at in {(plans[at].row.name, plans[at].candidate): at for at in missing}.values():
        check(plans[at].config)  # every mistake is told before the first run
    if missing:
        where, options = _launcher(launcher)
        outcomes = import_module(f"{__package__}.{where}").run_jobs([jobs[at] for at in missing], **options)
        for at, outcome in zip(missing, outcomes, strict=True):
            _refuse(jobs[at], outcome)
    return jobs


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


def _diverged(run: RunDirectory) -> bool:
    status = run.status()
    return status is not None and status.diverged


def _refuse(job: Job, outcome: Outcome) -> None:
    if outcome.state == "finished" or _diverged(job.run):
        return
    if outcome.state == "stopped":
        raise Stopped("stopped: the same command goes on from there", outcome.exit_code or 130)
    raise RunError(
        f"{outcome.error or 'a run failed'} ({job.path}); what is finished is kept: the same command goes on"
    )


def comparisons(paper: Paper, plans: Sequence[Planned], jobs: Sequence[Job]) -> list[Comparison]:
    """The table: for each row the figure of its best candidate beside the published one."""
    values: dict[tuple[str, str], list[float]] = {}
    for plan, job in zip(plans, jobs, strict=True):
        values.setdefault((plan.row.name, plan.candidate), []).append(_value(paper, plan, job.run))
    table = []
    for row in paper.rows:
        figures = [Figure(values[row.name, candidate], candidate) for candidate in paper.candidates()]
        table.append(compared(paper, row, best(figures, lower=paper.lower_is_better)))
    return table


def _value(paper: Paper, plan: Planned, run: RunDirectory) -> float:
    """What ``paper.measure`` is of one run."""
    result = run.result()
    if result is None or diverged(result):
        return 0.0 if paper.measure == "solved" else inf if paper.measure == "sequences" else nan
    if paper.measure == "solved":
        return float(bool(result["solved"]))
    if paper.measure == "sequences":
        steps = result["steps_to_solve"]
        return inf if steps is None else float(steps * plan.config.batch_size)
    which: Literal["loss", "score"] = "loss" if paper.measure == "loss" else "score"
    tested = {row["seq_len"]: row[which] for row in result["by_length"]}
    lengths = paper.lengths_of(plan.row) or [plan.config.seq_len]
    mean = sum(float(tested[length]) for length in lengths) / len(lengths)
    return 1 - mean if paper.measure == "error" else mean
