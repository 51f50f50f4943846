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

An lstm's c_t enters h_t through m_t = o * tanh(c_t) (h_t = m_t, or V m_t where it is projected) and c_{t+1} through f:

    dL/dc_t = dL/dm_t * o_t * (1 - tanh(c_t)^2) + f_{t+1} * dL/dc_{t+1}

All gates follow in parallel from the outputs, which are the hidden states. What remains are elementwise recurrences
y_t = a_t * y_{t-1} + b_t, computed by ``scan``. The result is exact.

Axes: T time, B batch, D input features, H hidden features, P features of the output (H, unless it is projected).
"""

from collections.abc import Callable, Mapping
from math import isqrt

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from ..randomness import ambient
from .fused import FusedCell
from .state import State

_KINDS = {"LSTM": nn.LSTM, "GRU": nn.GRU, "RNN_TANH": nn.RNN, "RNN_RELU": nn.RNN}


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
    weights = {name.removesuffix("_l0"): value for name, value in cell.fused.named_parameters()}
    layer = GhostLayer(cell.fused.mode, weights, xs, initial)
    with torch.enable_grad():
        outputs, final = (layer.outputs.detach().requires_grad_(), layer.final)
        final = {name: value.detach().requires_grad_() for name, value in final.items()}
        direct, *ends = torch.autograd.grad(
            loss_of(outputs, final), [outputs, *final.values()], allow_unused=True, materialize_grads=True
        )
    return layer.backward(direct, dict(zip(final, ends, strict=True)))


class GhostLayer:
    """One direction of one of torch's fused layers over some sequences, with the gradient at all of its states.

    ``outputs`` [T B P] and ``final``, the state after each sequence's own end, are what the layer computes, without a
    graph. ``kept`` [T B H] is the gate that keeps the old state (an lstm's forget, a gru's update gate), known after
    ``backward``; None: it has none. It computes on the device and in the dtype of ``xs``; nothing that is given is
    modified.

    Args:
        mode: LSTM, GRU, RNN_TANH or RNN_RELU, as in torch.
        weights: ``weight_ih``, ``weight_hh``, and where the layer has them ``bias_ih``, ``bias_hh``, ``weight_hr``.
        initial: ``hidden`` [B P] and, of an lstm, ``cell`` [B H]; missing: zeros.
        lengths: of each sequence; what follows is padding, which the layer does not see. None: all have T timesteps.
    """

    def __init__(
        self,
        mode: str,
        weights: Mapping[str, Tensor],
        xs: Float[Tensor, "T B D"],
        initial: State,
        lengths: Int[Tensor, " B"] | None = None,
    ) -> None:
        self._mode, self._xs, self._lengths = mode, xs.detach(), lengths
        self._weights = weights = {name: value.detach().to(xs) for name, value in weights.items()}
        u = weights["weight_hh"]
        self._ghosts = ghosts = torch.eye(len(u), dtype=xs.dtype, device=xs.device) if mode == "GRU" else u
        layer = _layer(mode, {**weights, "weight_ih": torch.cat([weights["weight_ih"], ghosts], 1)})
        widths = {"hidden": u.shape[1]} | ({"cell": len(u) // 4} if mode == "LSTM" else {})
        self._initial = {
            name: initial[name].detach().to(xs) if name in initial else xs.new_zeros(xs.shape[1], width)
            for name, width in widths.items()
        }
        start = [value[None].contiguous() for value in self._initial.values()]
        with torch.enable_grad():
            empty = xs.new_zeros(*xs.shape[:2], ghosts.shape[1])
            self._inputs = torch.cat([self._xs, empty], -1).requires_grad_()
            given = self._inputs
            if lengths is not None:
                given = pack_padded_sequence(given, lengths.cpu(), enforce_sorted=False)
            outputs, last = layer(given, tuple(start) if mode == "LSTM" else start[0])
            if lengths is not None:
                outputs, _ = pad_packed_sequence(outputs, total_length=len(xs))
            self._outputs: Tensor = outputs
            self._ends: list[Tensor] = [end[0] for end in (last if mode == "LSTM" else (last,))]
        self.kept: Tensor | None = None
        self.outputs = self._outputs.detach()
        self.final: State = dict(zip(widths, (end.detach() for end in self._ends), strict=True))

    def backward(
        self, outputs: Float[Tensor, "T B P"] | None, final: Mapping[str, Tensor | None]
    ) -> tuple[Float[Tensor, "T B D"], dict[str, Float[Tensor, "T B _"]]]:
        """(dL/dx_t, state name -> dL/ds_t), the total derivatives, from those by ``outputs`` and by ``final``. Once.

        Args:
            outputs, final: gradients of L; None or missing: zero.
        """
        direct = torch.zeros_like(self.outputs) if outputs is None else outputs.detach().clone()
        ends = {name: final.get(name) for name in self.final}
        ends = {name: torch.zeros_like(self.final[name]) if end is None else end for name, end in ends.items()}
        # The sum of products, because torch imports a computer algebra for a gradient that is given: 35 MB.
        pairs = [(self._outputs, direct), *zip(self._ends, ends.values(), strict=True)]
        with torch.enable_grad():
            total = torch.stack([(value * gradient).sum() for value, gradient in pairs]).sum()
        (to_inputs,) = torch.autograd.grad(total, [self._inputs])
        w, u = self._weights["weight_ih"], self._weights["weight_hh"]
        to_x, from_ghosts = to_inputs.split([w.shape[1], self._ghosts.shape[1]], -1)
        steps, sequences = self._xs.shape[:2]
        last = torch.full((sequences,), steps - 1) if self._lengths is None else self._lengths - 1
        own_end = last.to(self._xs.device), torch.arange(sequences, device=self._xs.device)
        hidden = direct
        hidden[own_end] += ends["hidden"]
        if self._mode.startswith("RNN"):
            hidden[:-1] += from_ghosts[1:]
            return to_x, {"hidden": hidden}

        previous = torch.cat([self._initial["hidden"][None], self.outputs[:-1]])
        by_x = F.linear(self._xs, w, self._weights.get("bias_ih"))
        by_h = F.linear(previous, u, self._weights.get("bias_hh"))
        if self._mode == "GRU":
            r, z, _ = (by_x + by_h).chunk(3, -1)
            r, z = r.sigmoid(), z.sigmoid()
            to_r, to_z, to_n = from_ghosts.chunk(3, -1)
            hidden[:-1] += (torch.cat([to_r, to_z, to_n * r], -1) @ u)[1:]
            self.kept = z
            return to_x, {"hidden": scan_back(z, hidden)}

        hidden[:-1] += from_ghosts[1:]
        i, f, g, o = (by_x + by_h).chunk(4, -1)
        i, f, g, o = i.sigmoid(), f.sigmoid(), g.tanh(), o.sigmoid()
        self.kept = f
        cs = scan(f, i * g, self._initial["cell"])
        projected = hidden @ self._weights["weight_hr"] if "weight_hr" in self._weights else hidden
        cell_direct = projected * o * (1 - cs.tanh().square())
        cell_direct[own_end] += ends["cell"]
        return to_x, {"hidden": hidden, "cell": scan_back(f, cell_direct)}


def _layer(mode: str, weights: Mapping[str, Tensor]) -> nn.RNNBase:
    """A layer with these weights, which determine its sizes, dtype and device."""
    projection = weights.get("weight_hr")
    options = {} if mode in ("LSTM", "GRU") else {"nonlinearity": mode.removeprefix("RNN_").lower()}
    options |= {} if projection is None else {"proj_size": 1}
    with ambient(0, "weights that are replaced"):
        layer = _KINDS[mode](1, 2, bias="bias_ih" in weights, **options)
    gates = len(weights["weight_hh"])
    layer.input_size = weights["weight_ih"].shape[1]
    layer.hidden_size = gates // {"LSTM": 4, "GRU": 3}.get(mode, 1)
    layer.proj_size = 0 if projection is None else len(projection)
    for name, value in weights.items():
        setattr(layer, f"{name}_l0", nn.Parameter(value, requires_grad=False))
    layer.flatten_parameters()  # cuDNN needs all weights in one contiguous buffer
    return layer.train()  # cuDNN has a backward pass in training mode only


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
