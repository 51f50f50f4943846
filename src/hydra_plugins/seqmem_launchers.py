"""Hydra looks for launchers in this namespace alone. They are thin: seqmem.cli.launch does the work.

Hydra imports this module whenever it starts: nothing heavy here.
"""

from collections.abc import Sequence
from math import isnan
from typing import Any

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
        # Always completed: Hydra would raise a failure's exception, and seqmem has said it better.
        found = JobReturn(overrides=overrides, status=JobStatus.COMPLETED)
        found.return_value = None if isnan(score) else score  # Optuna takes no NaN
        return found


class LocalLauncher(_Launcher):
    where = "local"


class SlurmLauncher(_Launcher):
    where = "slurm"


class RayLauncher(_Launcher):
    where = "ray"
