"""``seqmem.log``: traces of other people's models in TensorBoard, and beside seqmem's runs."""

from operator import index
from os import PathLike
from pathlib import Path
from typing import Any

from ...record.own_loops import OWN, log_trace
from ...tracing.model_trace import ModelTrace
from ..config.choose import OUTPUTS
from ..config.errors import ConfigError
from .errors import front_door
from .runs import DisplayedRun


@front_door
def log(
    writer: Any,
    step: int,
    trace: ModelTrace,
    *,
    run: str | PathLike[str] | None = None,
    task: str = OWN,
    seed: int = 0,
    loss: float | None = None,
) -> DisplayedRun | None:
    """Write a trace into TensorBoard as seqmem's own runs are written: the same numbers, curves and heat map, under the
    same tags; the layers after the first have their path in theirs.

    Args:
        writer: a ``SummaryWriter``, or anything with ``add_scalar`` and ``add_image``. None: only ``run`` is written.
            Curves over timesteps go into the folder ``gradient`` inside its ``log_dir``, for they are rewritten at
            each trace.
        step: of the training; it must grow.
        trace: of ``seqmem.trace``, or of a tap (``tap.trace``): of one fixed held-out batch.
        run: a name, for ``outputs/own/MODEL/NAME-seed0``, or a path: a run that ``seqmem show``, ``watch``
            and ``report`` read. The first call of a process begins it anew. It has the layers that read the same
            timesteps as the first one.
        task: what the run is filed and compared under.
        seed: runs that differ in it alone are repetitions of each other.
        loss: where the trace does not know it (a tap's). It is the run's score; a lower one is better.

    Returns:
        The run, which shows itself; None without ``run``.

    Raises:
        ValueError: the trace does not go with those before it, or the loss is not known.
        seqmem.RunError: the run cannot be written.
    """
    if writer is not None and not (hasattr(writer, "add_scalar") and hasattr(writer, "add_image")):
        raise ConfigError(f"writer is {type(writer).__name__}: give a SummaryWriter, or None with run=")
    if writer is None and run is None:
        raise ConfigError("there is nothing to write to: give a writer, or run=")
    if isinstance(trace, ModelTrace) is False:
        raise ConfigError(f"trace is {type(trace).__name__}: give what seqmem.trace returned, or a tap's trace")
    for name, value in (("step", step), ("seed", seed)):
        if not hasattr(value, "__index__") or index(value) < 0:
            raise ConfigError(f"{name}={value!r}: must be a whole number, at least 0")
    if run is not None and not Path(run).name:
        raise ConfigError(f"run={str(run)!r}: must be a name, or a path that ends in one")
    if Path(task).name != task or not task:
        raise ConfigError(f"task={task!r}: must be a name")
    path = None if run is None else _place(run, task, trace.model, seed)
    try:
        log_trace(writer, index(step), trace, run=path, task=task, seed=seed, loss=loss)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return None if path is None else DisplayedRun(path)


def _place(run: str | PathLike[str], task: str, model: str, seed: int) -> Path:
    path = Path(run)
    return OUTPUTS / task / model / f"{path}-seed{seed}" if len(path.parts) == 1 else path
