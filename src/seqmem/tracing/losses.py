"""Whose loss is propagated: from what a user's function returns to one number, whose gradient is each sequence's own.

Axes: T time, B batch.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any, Literal

import torch
from numpy import ndarray
from torch import Tensor

Reduction = Literal["mean", "sum"]
Scale = Literal["batch", "one", "unknown"]
Of = str | int | tuple[Any, ...] | None


class TraceError(ValueError):
    """A mistake that the user can correct: one line, what, where, what instead."""


@dataclass(frozen=True)
class Propagated:
    """
    Args:
        total: its gradient at a sequence's state, times ``scale``, is that of the sequence's own loss.
        scale: ``batch``: the number of sequences, as ``total`` is a mean over them; ``one``: 1; ``unknown``: 1, as it
            is not known how ``total`` was made of the sequences' losses.
        of: in words.
        losses: [B]; None: only their mean or sum is known.
    """

    total: Tensor
    scale: Scale
    of: str
    losses: Tensor | None = None


def propagated(
    returned: Any,
    of: Of,
    sequences: Collection[int],
    reduction: Reduction | None,
    *,
    axes: str | None = None,
    lasts: ndarray | None = None,
) -> Propagated:
    """
    Args:
        returned: a loss, or several by name or number; each one number, [B], [T B] or [B T].
        sequences: B of the layers: several, where one reads sentences and another documents.
        of: ``last`` (the default): each sequence's last timestep that has a loss; ``all``: the sum over timesteps; a
            timestep. Of several losses the name or number of one, or (that, which timestep).
        reduction: how one number was made of the sequences' losses; None: read it off autograd's graph.
        axes: ``TB`` or ``BT``, of losses of all timesteps; None: told by the number of sequences.
        lasts: the last timestep of each sequence, [B]; None: that of the last loss that is not exactly 0.

    Raises:
        TraceError: it is no loss, or ``of`` does not fit it.
    """
    loss, which, name = _chosen(returned, of)
    if not isinstance(loss, Tensor):
        raise TraceError(
            f"loss_fn returned {type(loss).__name__}, no loss: return a tensor, one number or one a sequence, [B]"
        )
    if not loss.is_floating_point():
        raise TraceError(f"loss_fn returned {loss.dtype}, which has no gradient: return the loss, not a prediction")
    if not loss.requires_grad:
        raise TraceError(
            "the loss that loss_fn returned does not depend on the model by anything that has a gradient: no .item(), "
            ".detach(), .data or torch.no_grad() on the way, and compute it with the model that loss_fn is given"
        )
    whose = f" of '{name}'" if name is not None else ""
    if loss.numel() == 1 and (loss.dim() < 2 and (loss.dim() == 0 or 1 not in sequences)):
        if which is not None:
            raise TraceError(
                f"of={which!r}: loss_fn returned one number, whose parts cannot be told apart: return the losses of "
                "all timesteps, [T, B] or [B, T] (reduction='none')"
            )
        how = "sum" if {*sequences} == {1} else reduction or _reduction(loss)
        if how == "mean" and len(sequences) > 1:
            if reduction is not None:
                raise TraceError(
                    f"reduction='mean': the layers have {_numbers(sequences)} sequences, so it is not known over how "
                    "many it is a mean: return each sequence's loss, [B]"
                )
            how = None
        scale = _SCALES[how]
        words = {"mean": "the mean loss, times the batch size", "sum": "the summed loss", None: "the loss as returned"}
        return Propagated(loss.reshape(()), scale, words[how] + whose)
    if loss.dim() == 1:
        if len(loss) not in sequences:
            raise TraceError(
                f"loss_fn returned {len(loss)} losses, and the batch has {_numbers(sequences)} sequences: return [B], "
                "or [T, B] or [B, T] where timesteps have losses (losses.view(...))"
            )
        if which is not None:
            raise TraceError(
                f"of={which!r}: loss_fn returned one loss for each sequence, [B]: there is nothing to choose"
            )
        return Propagated(loss.sum(), "one", f"each sequence's loss{whose}", loss.detach())
    if loss.dim() == 2:
        steps = _time_first(loss, sequences, axes)
        if lasts is not None and len(lasts) == steps.shape[1] and which in (None, "last"):
            own = _at_each(steps, lasts)
            return Propagated(own.sum(), "one", f"the loss of each last timestep{whose}", own.detach())
        if which == "all":
            own = steps.sum(0)
            return Propagated(own.sum(), "one", f"the loss of all timesteps{whose}", own.detach())
        own = _at(steps, "last" if which is None else which)
        last = which in (None, "last")
        words = f"the loss of {'each last timestep' if last else f'timestep {which}'}{whose}"
        return Propagated(own.sum(), "one", words, own.detach())
    raise TraceError(
        f"loss_fn returned a loss of shape {list(loss.shape)}: it must be one number, [B], or [T, B] or [B, T]; sum or "
        "average it over what is left"
    )


_SCALES: dict[Reduction | None, Scale] = {"mean": "batch", "sum": "one", None: "unknown"}


def _chosen(returned: Any, of: Of) -> tuple[Any, str | int | None, str | int | None]:
    """(the loss, which timestep, its name)"""
    if isinstance(returned, Tensor) or not isinstance(returned, Mapping | tuple | list):
        return returned, _which(of), None
    losses: dict[Any, Any] = dict(returned) if isinstance(returned, Mapping) else dict(enumerate(returned))
    name: Any
    name, which = (of[0], of[1] if len(of) > 1 else None) if isinstance(of, tuple) and of else (of, None)
    if name not in losses:
        if "loss" in losses and not isinstance(of, tuple):  # as Lightning's training_step returns it
            return losses["loss"], _which(of), None
        names = ", ".join(repr(key) for key in losses)
        raise TraceError(f"loss_fn returned several losses: choose with of= one of {names}, or of=(name, 'last')")
    return losses[name], _which(which), name


def _which(which: Any) -> str | int | None:
    if which is None or which in ("last", "all") or (isinstance(which, int) and not isinstance(which, bool)):
        return which
    raise TraceError(f"of={which!r}: must be 'last', 'all' or the number of a timestep")


def _time_first(losses: Tensor, sequences: Collection[int], axes: str | None) -> Tensor:
    """[T B] of losses [T B] or [B T]."""
    first, second = losses.shape
    if axes is not None:
        told = losses if axes == "TB" else losses.T
        if told.shape[1] not in sequences:
            raise TraceError(
                f"loss_axes={axes!r}: these losses are {list(losses.shape)}, and the batch has {_numbers(sequences)} "
                "sequences"
            )
        return told
    if first not in sequences and second not in sequences:
        raise TraceError(
            f"loss_fn returned losses of shape {list(losses.shape)}, and the batch has {_numbers(sequences)} "
            "sequences: return [T, B] or [B, T]"
        )
    if first not in sequences or second not in sequences:
        return losses if second in sequences else losses.T
    raise TraceError(
        f"loss_fn returned losses of shape {list(losses.shape)}, of which either may be time: say which, as "
        "loss_axes='TB' or 'BT', or return the losses to propagate, [B]"
    )


def _at_each(steps: Tensor, lasts: ndarray) -> Tensor:
    """[B] of [T B], each sequence's own timestep."""
    if lasts.max() >= len(steps):
        raise TraceError(
            f"lengths: a sequence has {lasts.max() + 1} timesteps, and the losses have {len(steps)}: return those to "
            "propagate, [B], or say which with of="
        )
    return steps[torch.as_tensor(lasts, device=steps.device), torch.arange(len(lasts), device=steps.device)]


def _at(steps: Tensor, which: str | int) -> Tensor:
    """[B] of [T B]. A loss of exactly 0 at the end is padding's (``ignore_index``)."""
    count = len(steps)
    if isinstance(which, int):
        if not -count <= which < count:
            raise TraceError(f"of={which}: the losses have the timesteps 0 to {count - 1}")
        return steps[which]
    there = (steps.detach() != 0).to(torch.int64) * torch.arange(1, count + 1, device=steps.device)[:, None]
    return _at_each(steps, there.amax(0).sub(1).clamp(min=0).cpu().numpy())


def _numbers(sequences: Collection[int]) -> str:
    return " or ".join(map(str, sequences))


def _reduction(loss: Tensor) -> Reduction | None:
    """What the last operation of a loss was, by autograd's graph; None: neither a mean nor a sum."""
    node = loss.grad_fn
    for _ in range(8):
        if node is None:
            return None
        name = type(node).__name__
        if name.startswith("MeanBackward"):
            return "mean"
        if name.startswith("SumBackward"):
            return "sum"
        stated = getattr(node, "_saved_reduction", None)
        if stated is not None:
            return "mean" if stated == 1 else "sum" if stated == 2 else None
        if not name.startswith(("View", "Reshape", "Squeeze", "Unsqueeze", "Alias", "ToCopy", "UnsafeView")):
            return None
        node = node.next_functions[0][0]
    return None
