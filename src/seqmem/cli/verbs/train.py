"""``seqmem train``: one run, or one job of a sweep. No torch at import: help and completion stay fast."""

from typing import TYPE_CHECKING

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from ..config import schema as settings
from ..launch.one_run import Stopped, StopSignals, execute, title

if TYPE_CHECKING:
    pass

settings.register()

failures: list[Exception] | None = None
"""In the process that the user started: what went wrong in its jobs. None in the workers of a sweep."""


def run(cfg: DictConfig) -> float:
    """Hydra's task function; importable by name, so that launchers can send it elsewhere. Returns the score."""
    from rich import get_console

    from ..launch import sweep

    job, console, stop = HydraConfig.get(), get_console(), StopSignals()
    in_sweep, prefix = job.mode == RunMode.MULTIRUN, ""
    try:
        config = settings.from_mapping(cfg)
        if in_sweep:
            prefix = sweep.job_prefix(job.job.num, title(config))
        done = execute(
            config, overrides=list(job.overrides.task), console=console, prefix=prefix, stop=stop, alone=not in_sweep
        )
    except Exception as error:
        if in_sweep:  # Hydra says nothing until the whole sweep has ended
            sweep.say_failed(prefix, error)
        if failures is None:
            raise  # a worker's launcher must see that the job failed
        failures.append(error)  # our own main says it better than Hydra would
        return float("nan")
    if in_sweep and stop.requested():  # too late for this run, which is finished, but not for the sweep
        raise Stopped("stopped between two runs: the same command goes on from there", stop.exit_code)
    if not in_sweep and not config.quiet:
        from ..terminal.live import print_summary

        print_summary(console, done)
    result = done.result()
    return float("nan") if result is None else float(result["score"])


main = hydra.main(version_base="1.3", config_path=str(settings.conf_dir()), config_name="train")(run)
