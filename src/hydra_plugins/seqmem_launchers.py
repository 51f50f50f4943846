"""Hydra's plugins, which it looks for in this namespace only. ``seqmem.cli.launch`` does the work.

Hydra imports this module whenever it starts, so nothing slow is imported here.
"""

from collections.abc import Sequence
from math import isnan
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper
from hydra.core.utils import JobReturn, JobStatus
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig, OmegaConf


class _Launcher(Launcher):
    """``hydra.launcher``'s settings are the options of ``run_jobs`` in ``seqmem.cli.launch.<where>``."""

    where = ""

    def __init__(self, **options: Any) -> None:
        self._options = {
            name: OmegaConf.to_container(value) if OmegaConf.is_config(value) else value
            for name, value in options.items()
        }

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        self._loader, self._config = hydra_context.config_loader, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        from importlib import import_module

        from seqmem.cli.launch import sweep

        jobs = sweep.jobs(job_overrides, initial_job_idx, self._loader, self._config)
        outcomes = import_module(f"seqmem.cli.launch.{self.where}").run_jobs(jobs, **self._options)
        sweep.account(outcomes)
        return [self._returned(job.overrides, outcome.score) for job, outcome in zip(jobs, outcomes, strict=True)]

    @staticmethod
    def _returned(overrides: Sequence[str], score: float) -> JobReturn:
        # Always COMPLETED: Hydra would raise the exception of a failed job, which we have printed in one line.
        returned = JobReturn(overrides=overrides, status=JobStatus.COMPLETED)
        returned.return_value = None if isnan(score) else score  # Optuna accepts no NaN
        return returned


class CheckedSweeper(BasicSweeper):
    """Hydra's own sweeper, for jobs that ``seqmem.cli.launch.sweep`` has composed and checked already."""

    def validate_batch_is_legal(self, batch: Sequence[Sequence[str]]) -> None:
        """Hydra composes each job here to see whether it can."""


class LocalLauncher(_Launcher):
    where = "local"


class SlurmLauncher(_Launcher):
    where = "slurm"


class RayLauncher(_Launcher):
    where = "ray"
