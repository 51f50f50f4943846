"""``init_from=RUN``: the final weights of a finished run, to start another from.

Only weights are read, and none of the classes that the run names: its author may be a stranger.
"""

from collections.abc import Mapping
from hashlib import blake2b
from typing import TYPE_CHECKING

from ...runs.files import CHECKPOINT, RunError
from .choose import finished_result, one_run
from .errors import ConfigError

if TYPE_CHECKING:
    from torch import Tensor

    from ...models.base import Model


def weights_of(given: str) -> tuple[Mapping[str, "Tensor"], str]:
    """The weights of the run that ``init_from`` names, and a hash of their names, types, shapes and values.

    Raises:
        ConfigError: there is no such run, it is not finished, or its weights cannot be read.
    """
    import torch

    from ...record.recorder import load_checkpoint

    try:
        run = one_run(given, "init_from")
        finished_result(run)
        weights = load_checkpoint(run.file(CHECKPOINT))["model"]
    except (RunError, KeyError) as error:
        raise ConfigError(f"init_from={given}: {str(error).removeprefix(given).lstrip(': ')}") from error
    digest = blake2b(digest_size=8)
    for name, values in sorted(weights.items()):
        digest.update(f"{name} {values.dtype} {tuple(values.shape)}\n".encode())
        digest.update(values.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
    return weights, digest.hexdigest()


def initialise(model: "Model", given: str, expected: str | None) -> None:
    """Give ``model`` the weights of a run.

    Raises:
        ConfigError: it has other weights than those ``expected``, or of other names or shapes than ``model``; one line.
    """
    weights, theirs = weights_of(given)
    if expected is not None and theirs != expected:
        raise ConfigError(f"init_from={given}: its weights are {theirs}, and the run is to start from {expected}")
    own = model.state_dict()
    for name in sorted({*own, *weights}):
        there, here = (tuple(one[name].shape) if name in one else None for one in (weights, own))
        if there != here:
            words = (f"is {list(shape)}" if shape is not None else "does not exist" for shape in (there, here))
            raise ConfigError(
                f"init_from={given}: {name} {' there and '.join(words)} here: it takes the same cell, sizes and task"
            )
    model.load_state_dict(dict(weights))
