"""``seqmem.trace``: the gradient at every timestep of any PyTorch model."""

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

import torch
from rich.text import Text
from torch import nn

from ...tracing.copied import trace_model
from ...tracing.losses import TraceError
from ...tracing.model_trace import ModelTrace
from ..config.errors import ConfigError
from ..terminal.console import Console
from ..terminal.traced import lines
from .errors import front_door
from .html import Displayed

if TYPE_CHECKING:
    from .plots import DisplayedPlot


class DisplayedTrace(ModelTrace, Displayed):
    """A trace that shows itself: a strip for each layer, in a terminal and in a notebook; ``trace.plot()`` draws it.

    ``trace.norms["encoder.lstm"]["cell"]`` is [T, B], float64; ``trace.decays()`` has half-life, horizon and what
    arrives at the first timestep; ``trace.untraced`` says what could not be traced, and why.
    """

    def _lines(self, console: Console) -> Sequence[Text]:
        return lines(self, console)

    @front_door
    def plot(self) -> "DisplayedPlot":
        """The gradient by timesteps back from the answer, a line for each layer; a plot shows itself."""
        from .plots import of_trace  # matplotlib

        return of_trace(self)


def displayed(trace: ModelTrace) -> DisplayedTrace:
    return DisplayedTrace(**vars(trace))


@front_door
def trace(
    model: nn.Module,
    loss_fn: Callable[[Any, Any], Any],
    batch: Any,
    *,
    of: str | int | tuple[Any, ...] | None = None,
    reduction: Literal["mean", "sum"] | None = None,
    modules: Sequence[str] | Mapping[str, str | None] = (),
    lengths: Any = None,
    loss_axes: Literal["TB", "BT"] | None = None,
    dtype: torch.dtype = torch.float64,
) -> DisplayedTrace:
    """``|| d loss_b / d s_t ||`` at everything that every recurrent layer of a model writes at timestep t: exact, in
    float64, on a copy in eval mode. Nothing in the model, its gradients, or the random generators changes.

    These are total derivatives: the effect of a state on the loss through the layer's output and through all its later
    timesteps, which ``.grad`` of a fused layer's output misses.

    Args:
        model: any ``torch.nn.Module``. Traced are its RNN, LSTM and GRU layers, torch's, torchrecurrent's and seqmem's
            cells, and attention: what each position's key, value and output received.
        loss_fn: a function of (model, batch), called once with the copy and with the batch in float64. It returns each
            sequence's loss, [B]; or the losses of all timesteps, [T, B] or [B, T]; or one number; or several of these
            by name or number.
        batch: whatever ``loss_fn`` takes, on the model's device.
        of: whose loss is propagated, where there are several. ``last`` (the default): each sequence's last timestep
            that has one; a timestep; ``all`` (fresh gradient then enters everywhere, and no decay can be seen). Of
            several losses the name of one, or (name, which).
        reduction: how one number was made of the sequences' losses, where its last operation does not say it. A mean
            is multiplied by the number of sequences: norms are of each sequence's own loss.
        modules: paths of submodules whose output is to be traced, too: ``["cell"]`` for one that returns [B, C] at each
            timestep; ``{"conv": "BCT"}`` for one that returns a whole sequence, with its axes.
        lengths: of a padded batch that is not packed: lengths, [B], or a mask, [B, T], True where a sequence has a
            timestep. Padding is then NaN, distances count from each sequence's own end, and ``last`` is its own last
            timestep. For one of several layers: ``{"encoder": lengths}``. A packed layer knows its lengths.
        loss_axes: of the losses of all timesteps, where there are as many timesteps as sequences: ``TB`` or ``BT``.
        dtype: ``torch.float32`` for a model that cannot compute in float64; gradients below 1e-45 are then zero.

    Returns:
        What every layer received, by its path in the model. It shows itself.

    Raises:
        ValueError: it cannot be traced; one line that says why, and what instead.
    """
    try:
        traced = trace_model(
            model, loss_fn, batch, of=of, reduction=reduction, modules=modules, lengths=lengths, loss_axes=loss_axes,
            dtype=dtype,
        )  # fmt: skip
        return displayed(traced)
    except TraceError as error:
        raise ConfigError(str(error)) from error
