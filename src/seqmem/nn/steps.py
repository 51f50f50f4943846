"""One direction of one layer, timestep by timestep in torch's operations: the definition of what the kernels compute.

It runs on every device and dtype, and its derivatives of any order are torch's.

Axes: T time, B batch, N rows (timesteps of one sequence), D input features, H units, P outputs, G gates stacked in the
weights.
"""

from collections.abc import Callable, Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from ..kernels.functions import Layer, Order

Step = Callable[[Tensor, Tensor, Tensor | None], tuple[Tensor, Tensor | None]]
"""From W x + b and U h with its bias, and c, to the next h and c."""


def _rnn_tanh(from_x: Tensor, from_h: Tensor, _: Tensor | None) -> tuple[Tensor, None]:
    return (from_x + from_h).tanh(), None


def _rnn_relu(from_x: Tensor, from_h: Tensor, _: Tensor | None) -> tuple[Tensor, None]:
    return (from_x + from_h).relu(), None


def _lstm(from_x: Tensor, from_h: Tensor, c: Tensor | None) -> tuple[Tensor, Tensor]:
    assert c is not None
    i, f, g, o = (from_x + from_h).chunk(4, dim=-1)
    c = f.sigmoid() * c + i.sigmoid() * g.tanh()
    return o.sigmoid() * c.tanh(), c


STEPS: dict[str, Step] = {"rnn tanh": _rnn_tanh, "rnn relu": _rnn_relu, "lstm": _lstm}


def by_steps(
    kind: str,
    order: Order | None,
    xs: Float[Tensor, "*TB D"],
    h: Float[Tensor, "B P"],
    c: Float[Tensor, "B H"] | None,
    w: Float[Tensor, "GH D"],
    u: Float[Tensor, "GH P"],
    bias: Float[Tensor, " GHs"],
    projection: Float[Tensor, "P H"] | None = None,
) -> Layer:
    """What ``kernels.functions.recurrence_of_layer`` computes, with every cell state; ``bias`` is as there.

    Args:
        projection: torch's weight_hr: h_t is its product with what the step computes.
    """
    rows = xs.reshape(-1, xs.shape[-1])
    begins, counts, steps = _places(order, xs, len(h))
    extra = bias[len(w) :] if len(bias) > len(w) else None
    from_x = F.linear(rows, w, bias[: len(w)])
    outputs: list[Tensor] = []
    cells: list[Tensor] = []
    for t in range(steps):
        x, n = from_x[begins[t] : begins[t] + counts[t]], counts[t]
        old_h, old_c = h[:n], None if c is None else c[:n]
        from_h = F.linear(old_h, u)
        if kind == "gru torch":
            new_h, new_c = _gru(x, from_h, old_h, extra), None
        else:
            new_h, new_c = STEPS[kind](x, from_h, old_c)
        if projection is not None:
            new_h = F.linear(new_h, projection)
        outputs.append(new_h)
        h = torch.cat([new_h, h[n:]]) if n < len(h) else new_h
        if c is not None and new_c is not None:
            cells.append(new_c)
            c = torch.cat([new_c, c[n:]]) if n < len(c) else new_c
    backwards = steps > 1 and begins[0] > begins[-1]
    return Layer(_laid_out(outputs, xs, backwards), h, c, _laid_out(cells, xs, backwards) if cells else None)


def _gru(from_x: Tensor, from_h: Tensor, h: Tensor, candidate_bias: Tensor | None) -> Tensor:
    x_r, x_z, x_n = from_x.chunk(3, dim=-1)
    h_r, h_z, h_n = from_h.chunk(3, dim=-1)
    if candidate_bias is not None:
        h_n = h_n + candidate_bias
    n = (x_n + (x_r + h_r).sigmoid() * h_n).tanh()
    z = (x_z + h_z).sigmoid()
    return n + z * (h - n)


def _places(order: Order | None, xs: Tensor, batch: int) -> tuple[list[int], list[int], int]:
    """The row at which each timestep begins, how many sequences have it, and T."""
    if order is None:
        steps = xs.shape[0]
        return list(range(0, steps * batch, batch)) if batch else [0] * steps, [batch] * steps, steps
    begins = order.rows.tolist()
    return begins, [batch] * len(begins) if order.counts is None else order.counts.tolist(), len(begins)


def _laid_out(each: Sequence[Tensor], xs: Tensor, backwards: bool) -> Tensor:
    """The values of all timesteps as ``xs`` lies."""
    values = torch.cat(list(reversed(each)) if backwards else list(each))
    return values.view(*xs.shape[:-1], values.shape[-1])
