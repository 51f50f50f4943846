"""The gradient at every state of a sequence, from torch's fused layers, which hide their states.

A fused layer returns its outputs only, and the gradient at its output sequence misses what passes through the
recurrence. Therefore each state gets an additional input, a ghost, which is zero and whose gradient the layer does
compute. In an rnn and an lstm, h_{t-1} enters timestep t through U h_{t-1} only:

    W x_t + U h_{t-1}  =  [W, U] [x_t, 0] + U h_{t-1}        and        dL/d(ghost_t) = U' dL/d(W x_t + U h_{t-1})

is exactly the gradient that flows from timestep t into h_{t-1}. With the direct gradient, through the output at t:

    dL/dh_t = (dL/dh_t)_direct + dL/d(ghost_{t+1})

A gru (torch's form) has three ghosts per unit, one per gate, with identity weights. Their gradients d_r, d_z, d_n are
the gradients at the gates' pre-activations, and

    dL/dh_{t-1} = direct + U_r' d_r + U_z' d_z + U_n' (r * d_n) + z_t * dL/dh_t

An lstm's c_t enters h_t through o * tanh(c_t) and c_{t+1} through f:

    dL/dc_t = dL/dh_t * o_t * (1 - tanh(c_t)^2) + f_{t+1} * dL/dc_{t+1}

All gates follow in parallel from the outputs, which are the hidden states. What remains are elementwise recurrences
y_t = a_t * y_{t-1} + b_t, computed by ``scan``. The result is exact.

Axes: T time, B batch, D input features, H hidden features, G gates.
"""

from collections.abc import Callable
from copy import deepcopy
from math import isqrt

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from .fused import FusedCell
from .state import State


def state_gradients(
    cell: FusedCell,
    xs: Float[Tensor, "T B D"],
    initial: State,
    loss_of: Callable[[Float[Tensor, "T B H"], State], Float[Tensor, ""]],
) -> tuple[Float[Tensor, "T B D"], dict[str, Float[Tensor, "T B H"]]]:
    """(dL/dx_t, state name -> dL/ds_t) for every timestep t, of L = ``loss_of(outputs, final state)``.

    These are total derivatives, as in ``gradient_trace``: the effect of s_t on L through the output and through all
    later timesteps. The cell, its gradients, ``xs`` and ``initial`` are not modified, and no graph reaches them. It
    runs one forward and one backward pass of the fused layer, on the device and in the dtype of ``xs``.

    Raises:
        ValueError: torch has no fused layer for this form of the cell, such as a gru as published (form="cho").
    """
    if not isinstance(cell.fused, nn.RNNBase) or "torch" not in cell.kernels:
        raise ValueError("torch has no fused layer for this form of the cell, so it must be traced by its steps")
    kind = cell.fused.mode
    initial = {name: value.detach().to(xs) for name, value in initial.items()}
    weights = {name: value.detach().to(xs) for name, value in cell.fused.named_parameters()}
    w, u, bias, bias_hidden = (weights[f"{name}_l0"] for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh"))
    ghosts = torch.eye(len(u), dtype=xs.dtype, device=xs.device) if kind == "GRU" else u
    with_ghosts = _with_weights(cell.fused, {**weights, "weight_ih_l0": torch.cat([w, ghosts], 1)})

    with torch.enable_grad():
        empty = xs.new_zeros(*xs.shape[:2], ghosts.shape[1])
        inputs = torch.cat([xs.detach(), empty], -1).requires_grad_()
        start = [initial[name][None] for name in ("hidden", "cell") if name in initial]
        outputs, last = with_ghosts(inputs, tuple(start) if kind == "LSTM" else start[0])
        ends = last if kind == "LSTM" else (last,)
        final: State = dict(zip(("hidden", "cell"), [end[0] for end in ends], strict=False))
        loss = loss_of(outputs, final)
        # The gradients at the output sequence and at the final state lack the recurrence: only the direct parts.
        to_inputs, direct, *direct_last = torch.autograd.grad(
            loss, [inputs, outputs, *ends], allow_unused=True, materialize_grads=True
        )
    to_x, from_ghosts = to_inputs.split([xs.shape[-1], ghosts.shape[1]], -1)
    hidden = direct.clone()
    hidden[-1] += direct_last[0][0]
    if kind.startswith("RNN"):
        hidden[:-1] += from_ghosts[1:]
        return to_x, {"hidden": hidden}

    hs = outputs.detach()
    previous = torch.cat([initial["hidden"][None], hs[:-1]])
    by_x, by_h = F.linear(xs.detach(), w, bias), F.linear(previous, u, bias_hidden)
    if kind == "GRU":
        r, z, _ = (by_x + by_h).chunk(3, -1)
        r, z = r.sigmoid(), z.sigmoid()
        to_r, to_z, to_n = from_ghosts.chunk(3, -1)
        hidden[:-1] += (torch.cat([to_r, to_z, to_n * r], -1) @ u)[1:]
        return to_x, {"hidden": scan_back(z, hidden)}

    hidden[:-1] += from_ghosts[1:]
    i, f, g, o = (by_x + by_h).chunk(4, -1)
    i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
    cs = scan(f, i * g, initial["cell"])
    cell_direct = hidden * o * (1 - cs.tanh().square())
    cell_direct[-1] += direct_last[1][0]
    return to_x, {"hidden": hidden, "cell": scan_back(f, cell_direct)}


def _with_weights(layer: nn.RNNBase, weights: dict[str, Tensor]) -> nn.RNNBase:
    """A layer of the same kind with these weights, which determine its input size, dtype and device."""
    twin = deepcopy(layer)
    twin.input_size = weights["weight_ih_l0"].shape[1]
    for name, value in weights.items():
        setattr(twin, name, nn.Parameter(value, requires_grad=False))
    twin.flatten_parameters()  # cuDNN needs all weights in one contiguous buffer
    return twin.train()  # cuDNN has a backward pass in training mode only


def scan_back(keep: Float[Tensor, "T B H"], add: Float[Tensor, "T B H"]) -> Float[Tensor, "T B H"]:
    """y_t = add_t + keep_{t+1} * y_{t+1}, backwards from y_{T-1} = add_{T-1}."""
    keep_after = torch.cat([keep[1:], torch.ones_like(keep[:1])])
    return scan(keep_after.flip(0), add.flip(0), torch.zeros_like(add[0])).flip(0)


def scan(keep: Float[Tensor, "T B H"], add: Float[Tensor, "T B H"], start: Float[Tensor, "B H"]) -> Tensor:
    """y_t = keep_t * y_{t-1} + add_t, with y_{-1} = ``start``.

    The sequence is cut into about sqrt(T) blocks of sqrt(T) timesteps, which are scanned in parallel, then connected in
    order: 3 sqrt(T) sequential operations instead of T, each of them a kernel launch on a GPU.
    """
    seq_len = len(keep)
    length = isqrt(seq_len - 1) + 1
    blocks = -(-seq_len // length)
    padding = blocks * length - seq_len
    keep, add = (F.pad(values, (0, 0, 0, 0, 0, padding)).unflatten(0, (blocks, length)) for values in (keep, add))
    ys, products = add.clone(), keep.clone()  # y if the block started from zero; the block's cumulative product of keep
    for t in range(1, length):
        ys[:, t].addcmul_(keep[:, t], ys[:, t - 1])
        products[:, t].mul_(products[:, t - 1])
    for block in range(blocks):
        ys[block].addcmul_(products[block], start)
        start = ys[block, -1]
    return ys.flatten(0, 1)[:seq_len]
