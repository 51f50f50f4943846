"""Prints the final result of Hydra's Optuna sweeper, which itself only writes a file."""

from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig, OmegaConf

RESULTS = "optimization_results.yaml"


class BestCallback(Callback):
    """For ``hydra.callbacks`` of an experiment that searches."""

    def on_multirun_start(self, config: DictConfig, **kwargs: Any) -> None:
        Path(config.hydra.sweep.dir).mkdir(parents=True, exist_ok=True)  # the sweeper expects it to exist
        with suppress(ImportError):  # an extra; other sweepers do not need it
            optuna = import_module("optuna")
            optuna.logging.set_verbosity(optuna.logging.WARNING)  # its lines would come between those of the runs

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        path = Path(config.hydra.sweep.dir) / RESULTS
        if not path.exists():
            return
        results = OmegaConf.load(path)
        assert isinstance(results, DictConfig)
        best = " ".join(f"{name}={value:.6g}" for name, value in results.best_params.items())
        line = f"best of {config.hydra.sweeper.n_trials}: {best} with a score of {results.best_value:.4g}"
        print(f"{line} ({path})", flush=True)
