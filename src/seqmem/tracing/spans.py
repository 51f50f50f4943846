"""Where each sequence of a padded batch begins and ends, as a user says it: padding is not time.

Axes: T time, B batch.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from numpy import ndarray

from ..decay import INPUT
from .losses import TraceError
from .parts import Part


@dataclass(frozen=True)
class Spans:
    """
    Args:
        begins, ends: the first timestep of each sequence and the one after its last, [B].
        steps: T; None: lengths alone do not say how far the batch is padded.
    """

    begins: ndarray
    ends: ndarray
    steps: int | None

    def fit(self, steps: int, sequences: int) -> bool:
        """True for a layer of these sizes."""
        long_enough = steps >= int(self.ends.max()) if self.steps is None else steps == self.steps
        return sequences == len(self.ends) and long_enough


def spans_of(given: Any, where: str = "lengths") -> Spans:
    """
    Args:
        given: lengths [B], or a mask [B, T] that is True (or 1) where a sequence has a timestep.

    Raises:
        TraceError: it is neither.
    """
    wanted = f"{where}: must be lengths, [B], or a mask, [B, T], True where a sequence has a timestep"
    try:
        values = torch.as_tensor(given).detach().cpu().numpy()
    except (TypeError, ValueError, RuntimeError):
        raise TraceError(f"{wanted}, and is {type(given).__name__}") from None
    if values.size and values.ndim == 1 and values.dtype.kind in "iu":
        if values.min() < 1:
            raise TraceError(f"{where}: a sequence has {values.min()} timesteps: at least 1")
        return Spans(np.zeros_like(values), values, None)
    if not values.size or values.ndim != 2 or not np.isin(values, (0, 1)).all():
        raise TraceError(f"{wanted}, and has the shape {list(values.shape)}, of {values.dtype!s}")
    there = values == 1
    begins, counts = there.argmax(1), there.sum(1)
    ends = begins + counts
    steps = np.arange(there.shape[1])
    if not counts.all() or not np.array_equal(there, (steps >= begins[:, None]) & (steps < ends[:, None])):
        raise TraceError(
            f"{where}: a sequence of the mask is empty, or has a gap; padding is before or after it (of [T, B] the "
            "mask is mask.T)"
        )
    return Spans(begins, ends, len(steps))


def cut(parts: Mapping[str, Part], given: Any) -> tuple[dict[str, Part], list[str]]:
    """The parts without padding: NaN there, and distances that count from each sequence's own end. Layers that know
    their lengths, and those of other sizes, stay as they are. And a note where the loss reads padding.

    Args:
        given: of ``spans_of``, or path of a module -> that.

    Raises:
        TraceError: they fit no layer.
    """
    by_path = given if isinstance(given, Mapping) else {"": given}
    spans = {path: spans_of(one, f"lengths[{path!r}]" if path else "lengths") for path, one in by_path.items()}
    used: set[str] = set()
    beyond: list[str] = []
    shorter: dict[str, Part] = {}
    for path, part in parts.items():
        steps, sequences = next(iter(part.norms.values())).shape
        of = [name for name in spans if not name or path == name or path.startswith((f"{name}.", f"{name}#"))]
        fitting = [name for name in of if spans[name].fit(steps, sequences)]
        used.update(fitting)
        if fitting and (part.lengths == steps).all():
            span = spans[fitting[-1]]
            at = np.arange(steps)[:, None]
            ended = (at < span.begins) | (at >= span.ends)
            after = at < span.begins if part.reverse else at >= span.ends
            if any((values[after] > 0).any() for name, values in part.norms.items() if name != INPUT):
                beyond.append(path)
            norms = {name: np.where(ended, np.nan, values) for name, values in part.norms.items()}
            part = replace(part, norms=norms, lengths=span.ends, begins=span.begins)
        shorter[path] = part
    for name, span in spans.items():
        if name not in used:
            sizes = dict.fromkeys(
                " x ".join(map(str, next(iter(part.norms.values())).shape)) for part in parts.values()
            )
            most = span.steps or span.ends.max()
            raise TraceError(
                f"lengths{f'[{name!r}]' if name else ''}: {len(span.ends)} sequences of up to {most} timesteps fit no "
                f"layer: those traced have {', '.join(sizes)} (timesteps x sequences; of {', '.join(parts)})"
            )
    note = (
        f"the loss reads {', '.join(beyond)} after the ends of sequences, in the padding: pick each one's own last "
        "output (outputs[:, -1] is that of the longest alone), or pack the batch; attention takes a key_padding_mask"
    )
    return shorter, [note] if beyond else []
