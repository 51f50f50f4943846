"""A finished run's model, with its trained weights."""

from collections.abc import Collection
from dataclasses import dataclass
from textwrap import shorten
from typing import TYPE_CHECKING

from ...runs.directory import RunDirectory
from ...runs.files import CHECKPOINT, RunError
from ...runs.result import StoredResult
from ...runs.settings import drew_other_data
from . import process
from . import schema as settings
from .choose import finished_result
from .compose import configuration

if TYPE_CHECKING:
    from ...models.base import Model
    from ...tasks import Task
    from .build import Backend


@dataclass(frozen=True)
class Trained:
    """A finished run and its model."""

    run: RunDirectory
    config: settings.RunConfig
    model: "Model"
    task: "Task"
    backend: "Backend"
    result: StoredResult
    lengths: Collection[int]
    """The lengths that training drew, of which a part is held out; empty where an earlier version held out none."""


def trained(run: RunDirectory, device: str = "cpu", *, trusted: bool = False) -> Trained:
    """The model on ``device``, in eval mode, computed by the best kernels available here.

    Raises:
        RunError: the run does not exist or is not finished; or its checkpoint is missing, unreadable or does not fit.
        ConfigError: the device does not exist, or the classes that the run names are not trusted.
    """
    config = configuration(run, trusted=trusted)
    result = finished_result(run)
    if not run.file(CHECKPOINT).exists():
        raise RunError(f"{run.path} lacks its {CHECKPOINT}: train it again with force=true")

    with process.importing("seqmem.cli.config.build"):
        from ...record.recorder import load_checkpoint
        from .build import build

    config.device, config.kernel = device, settings.Kernel.auto  # the run's own may not exist on this machine
    experiment = build(config)
    try:
        experiment.model.load_state_dict(load_checkpoint(run.file(CHECKPOINT))["model"])
    except (RuntimeError, KeyError) as error:
        reason = shorten(str(error), 200, placeholder=" ...")
        raise RunError(f"{run.file(CHECKPOINT)} does not fit the run's configuration: {reason}") from error
    model, task = experiment.model.eval(), experiment.task
    other_data = drew_other_data(settings.everything(config), run.environment())
    lengths = () if other_data else experiment.plan.parts(task).trained
    return Trained(run, config, model, task, experiment.backend, result, lengths)
