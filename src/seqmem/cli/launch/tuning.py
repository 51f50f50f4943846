"""What Hydra's Optuna sweeper found, said in the end: by itself it writes a file and nothing else."""

from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

FOUND = "optimization_results.yaml"


class BestCallback(Callback):
    """``hydra.callbacks`` of an experiment that searches."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        Path(config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)  # which the sweeper takes to be there
        with suppress(ImportError):  # an extra, which another sweeper does without
            optuna = import_module("optuna")
            optuna.logging.set_verbosity(optuna.logging.WARNING)  # its own lines would stand between those of the runs

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        path = Path(config.hydra.sweep.dir) / FOUND
        if not path.exists():
            return
        found = OmegaConf.load(path)
        assert isinstance(found, DictConfig)
        best = " ".join(f"{name}={value:.6g}" for name, value in found.best_params.items())
        said = f"best of {config.hydra.sweeper.n_trials}: {best} with a score of {found.best_value:.4g}"
        print(f"{said} ({path})", flush=True)
