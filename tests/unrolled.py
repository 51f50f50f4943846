"""torch.nn's recurrent layers once more, in plain equations and a Python loop, with every state within reach.

A second implementation for tests: states are tensors of autograd's graph, and a test may nudge one.
Axes: T time, B batch.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_padded_sequence, pad_packed_sequence

Nudge = Callable[[str, str, int, Tensor], Tensor]
"""(suffix of layer and direction, state name, timestep of the input, state [B H]) -> that state."""


class Unrolled(nn.Module):
    """Takes the place of a layer and computes the same. ``states``: (suffix, name, t) -> [B H], of the last call."""

    def __init__(self, layer: nn.RNNBase) -> None:
        super().__init__()
        self.layer, self.batch_first = layer, layer.batch_first
        self.states: dict[tuple[str, str, int], Tensor] = {}
        self.nudge: Nudge = lambda *given: given[-1]

    def forward(self, given: Any, hx: Any = None) -> Any:
        layer = self.layer
        xs, packed = given, type(given) is PackedSequence
        if packed:
            xs, lengths = pad_packed_sequence(given)
        else:
            xs = given.transpose(0, 1) if layer.batch_first else given
            lengths = torch.full((xs.shape[1],), len(xs))
        start = hx if isinstance(hx, tuple) else () if hx is None else (hx,)
        ways = ("", "_reverse") if layer.bidirectional else ("",)
        ends: list[tuple[Tensor, ...]] = []
        for number in range(layer.num_layers):
            sides = []
            for way in ways:
                place = len(ends)
                side, end = self._one(f"l{number}{way}", xs, lengths, [state[place] for state in start])
                sides.append(side)
                ends.append(end)
            xs = torch.cat(sides, -1)
        last = tuple(torch.stack(values) for values in zip(*ends, strict=True))
        outputs: Any = xs if packed or not layer.batch_first else xs.transpose(0, 1)
        if packed:
            outputs = pack_padded_sequence(outputs, lengths, enforce_sorted=False)
        return outputs, last if layer.mode == "LSTM" else last[0]

    def _one(self, suffix: str, xs: Tensor, lengths: Tensor, start: list[Tensor]) -> tuple[Tensor, tuple[Tensor, ...]]:
        w, u = (getattr(self.layer, f"weight_{kind}_{suffix}") for kind in ("ih", "hh"))
        b, d = (getattr(self.layer, f"bias_{kind}_{suffix}", xs.new_zeros(len(w))) for kind in ("ih", "hh"))
        size, mode = u.shape[1], self.layer.mode
        old = start or [xs.new_zeros(xs.shape[1], size), xs.new_zeros(xs.shape[1], self.layer.hidden_size)]
        h, c = old[0], old[1] if mode == "LSTM" else old[0]
        order = range(len(xs))
        outputs: dict[int, Tensor] = {}
        for t in reversed(order) if suffix.endswith("reverse") else order:
            there = (t < lengths)[:, None]
            x = self._kept(suffix, "input", t, xs[t].clone() if xs.requires_grad else xs[t].clone().requires_grad_())
            by_x, by_h = x @ w.T + b, h @ u.T + d
            new_c = c
            if mode == "LSTM":
                i, f, g, o = (by_x + by_h).chunk(4, -1)
                new_c = self._kept(suffix, "cell", t, f.sigmoid() * c + i.sigmoid() * g.tanh())
                new_h = o.sigmoid() * new_c.tanh()
                if self.layer.proj_size:
                    new_h = new_h @ getattr(self.layer, f"weight_hr_{suffix}").T
            elif mode == "GRU":
                (r, z, n), (s, y, m) = by_x.chunk(3, -1), by_h.chunk(3, -1)
                z = (z + y).sigmoid()
                new_h = (1 - z) * (n + (r + s).sigmoid() * m).tanh() + z * h
            else:
                new_h = (by_x + by_h).tanh() if mode == "RNN_TANH" else (by_x + by_h).relu()
            new_h = self._kept(suffix, "hidden", t, new_h)
            h, c = torch.where(there, new_h, h), torch.where(there, new_c, c)
            outputs[t] = torch.where(there, new_h, 0.0)
        return torch.stack([outputs[t] for t in order]), (h, c) if mode == "LSTM" else (h,)

    def _kept(self, suffix: str, name: str, t: int, state: Tensor) -> Tensor:
        state = self.nudge(suffix, name, t, state)
        self.states[suffix, name, t] = state
        return state


def unroll(model: nn.Module) -> dict[str, Unrolled]:
    """Put an ``Unrolled`` in the place of every fused layer inside a model; by path."""
    places: dict[str, Unrolled] = {}
    for path, module in list(model.named_modules()):
        for name, child in list(module.named_children()):
            if isinstance(child, nn.RNNBase):
                unrolled = places[f"{path}.{name}".lstrip(".")] = Unrolled(child)
                setattr(module, name, unrolled)
    return places


class PlainAttention(nn.Module):
    """Takes the place of an ``nn.MultiheadAttention``: its keys, values and outputs are within reach."""

    def __init__(self, layer: nn.MultiheadAttention) -> None:
        super().__init__()
        self.layer, self.batch_first, self._qkv_same_embed_dim = layer, layer.batch_first, False
        self.num_heads, self.in_proj_bias = layer.num_heads, layer.in_proj_bias
        self.nudge: Nudge = lambda *given: given[-1]

    def forward(self, query: Tensor, key: Tensor, value: Tensor, **options: Any) -> tuple[Tensor, None]:
        layer = self.layer
        weights, biases = layer.in_proj_weight.chunk(3), layer.in_proj_bias.chunk(3)
        given = [x if layer.batch_first else x.transpose(0, 1) for x in (query, key, value)]
        q, k, v = (x @ w.T + b for x, w, b in zip(given, weights, biases, strict=True))
        k, v = (
            torch.stack([self.nudge("", name, t, step) for t, step in enumerate(x.unbind(1))], 1)
            for name, x in (("key", k), ("value", v))
        )
        q, k, v = (x.unflatten(-1, (layer.num_heads, -1)).transpose(1, 2) for x in (q, k, v))
        scores = q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5
        for mask in (options.get("attn_mask"), options.get("key_padding_mask")):
            if mask is not None:
                there = (
                    mask[:, None, None] if mask.shape[0] == len(q) and mask is options.get("key_padding_mask") else mask
                )
                scores = scores.masked_fill(there, float("-inf")) if mask.dtype == torch.bool else scores + there
        mixed = (scores.softmax(-1) @ v).transpose(1, 2).flatten(2)
        out = layer.out_proj(mixed)
        out = torch.stack([self.nudge("", "output", t, step) for t, step in enumerate(out.unbind(1))], 1)
        return out if layer.batch_first else out.transpose(0, 1), None


class NudgedCell(nn.Module):
    """Takes the place of a cell in a loop, whose states are within reach; a call is a timestep."""

    def __init__(self, cell: nn.RNNCellBase) -> None:
        super().__init__()
        self.cell, self.calls = cell, 0
        self.nudge: Nudge = lambda *given: given[-1]

    def forward(self, x: Tensor, hx: Any = None) -> Any:
        t, self.calls = self.calls, self.calls + 1
        new = self.cell(self.nudge("", "input", t, x), hx)
        if not isinstance(new, tuple):
            return self.nudge("", "hidden", t, new)
        # h_t is made of c_t: nudge the cell state, and make the hidden one of it again.
        h, c = new
        nudged = self.nudge("", "cell", t, c)
        return self.nudge("", "hidden", t, h * nudged.tanh() / c.tanh()), nudged


def nudged(model: nn.Module) -> dict[str, Any]:
    """Put one of these in the place of everything that is traced; by path."""
    places: dict[str, Any] = {}
    kinds = {nn.RNNBase: Unrolled, nn.MultiheadAttention: PlainAttention, nn.RNNCellBase: NudgedCell}
    for path, module in list(model.named_modules()):
        for name, child in list(module.named_children()):
            kind = next((kind for base, kind in kinds.items() if isinstance(child, base)), None)
            if kind is not None:
                places[f"{path}.{name}".lstrip(".")] = kind(child)
                setattr(module, name, places[f"{path}.{name}".lstrip(".")])
    return places


def differences(model: nn.Module, loss_of: Callable[[nn.Module], Tensor], path: str, at: tuple[str, int, int]) -> float:
    """The norm of the gradient at a state of one sequence, by central differences in every direction.

    Args:
        path: as in a trace. ``at``: (state, timestep of the input, sequence).
        loss_of: each sequence's loss, [B].
    """
    places = nudged(model)
    place = places.get(path) or places[path.rpartition(".")[0]]
    suffix = (
        ""
        if path in places and not isinstance(place, Unrolled)
        else "l0"
        if path in places
        else path.rpartition(".")[2]
    )
    name, timestep, sequence = at
    size, slopes, step = 1, [], 1e-6
    while len(slopes) < size:
        losses = []
        for sign in (1, -1):

            def nudge(where: str, what: str, t: int, state: Tensor, sign: int = sign) -> Tensor:
                nonlocal size
                if (where, what, t) != (suffix, name, timestep):
                    return state
                size = state.shape[-1]
                change = torch.zeros_like(state)
                change[sequence, len(slopes)] = sign * step
                return state + change

            place.nudge = nudge
            for each in places.values():
                if isinstance(each, NudgedCell):
                    each.calls = 0
            losses.append(float(loss_of(model)[sequence]))
        slopes.append((losses[0] - losses[1]) / (2 * step))
    return sum(slope**2 for slope in slopes) ** 0.5
