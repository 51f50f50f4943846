"""The finished run that a longer one goes on from: the same settings, but fewer steps. No torch."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path

from ...runs.checksums import verify
from ...runs.directory import RunDirectory
from ...runs.files import CHECKPOINT, RunError
from ..config.schema import RunConfig


@dataclass(frozen=True)
class Shorter:
    """A finished run of fewer steps. ``obstacle``: why a longer one cannot go on from it; empty: it can."""

    run: RunDirectory
    steps: int
    obstacle: str

    def __str__(self) -> str:
        if self.obstacle:
            return f"begun anew, not on from step {self.steps} of {self.run.path}: {self.obstacle}"
        return f"on from step {self.steps} of {self.run.path}, which is finished"


def shorter(config: RunConfig, run_path: Callable[[RunConfig], Path]) -> Shorter | None:
    """The longest finished run in the folder of ``config``'s run that differs from it in ``steps`` alone.

    Its directory is called as the same settings with its steps would be: the code of a user's own classes, the data and
    the initial weights are the same.

    Args:
        run_path: from settings to the directory of their run.
    """
    place = run_path(config)
    candidates: list[tuple[int, RunDirectory]] = []
    for path in place.parent.glob(f"len{config.seq_len}-seed{config.seed}-*"):
        run = RunDirectory(path)
        try:
            steps = run.config().get("steps") if run.finished else None
        except RunError:
            continue
        if isinstance(steps, int) and 0 < steps < config.steps and run_path(replace(config, steps=steps)) == path:
            candidates.append((steps, run))
    if not candidates:
        return None
    steps, run = max(candidates, key=lambda one: one[0])
    try:
        return Shorter(run, steps, _obstacle(run, steps, config))
    except RunError as error:
        return Shorter(run, steps, str(error))


def _is_installed(torch: str) -> bool:
    """Whether ``torch``, a ``torch.__version__``, is that of this environment, without importing it.

    PyPI's builds for CUDA call themselves 2.13.0+cu130, and are installed as 2.13.0.
    """
    installed = version("torch")
    return torch == installed or ("+" not in installed and torch.partition("+")[0] == installed)


def _obstacle(run: RunDirectory, steps: int, config: RunConfig) -> str:
    """Why a longer run cannot go on from a finished one.

    Raises:
        RunError: a file of the run cannot be read.
    """
    if steps % config.log_every:
        return f"log_every={config.log_every} does not divide its steps: a longer run has no line of log there"
    if config.train.patience is not None:
        return "with train.patience it has the weights of its best evaluation"
    if config.train.until_solved:
        return "with train.until_solved it ends where it solved its task"
    if config.train.schedule != "constant":
        return f"train.schedule={config.train.schedule} has other learning rates in a longer run"
    if not run.file(CHECKPOINT).exists():
        return f"it lacks its {CHECKPOINT}"
    environment = run.environment()
    if (made_by := environment.get("seqmem")) != version("seqmem"):
        return f"seqmem {made_by} made it"
    if not _is_installed(torch := str(environment.get("torch"))):
        return f"it was made with torch {torch}"
    if verify(run).verdict == "altered":
        return "it is not what it wrote, as seqmem verify says"
    return ""
