"""torch.nn's RNNCell, LSTMCell and GRUCell in a loop of the user's.

A hook at the state that a cell returns sees all gradient that reaches it. (Where one kernel computes an lstm's cell,
what flows from h_t into c_t is inside, and is computed apart.) For the input, and to tell what comes from the next
timestep, all timesteps are computed once more, in parallel: each from the state that it was given.

Axes: T time, B batch.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..nn.start import in_words, mode
from .calls import Call, Keep, Reader, check_repeated, norms_of
from .causes import gates_in_words, recurrence_in_words
from .parts import Part, Untraceable


class CellReader(Reader):
    def reads(self, module: nn.Module) -> bool:
        return isinstance(module, nn.LSTMCell | nn.GRUCell | nn.RNNCell)

    def call(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any, keep: Keep
    ) -> Call:
        assert isinstance(module, nn.RNNCellBase)
        given = dict(zip(("input", "hx"), args, strict=False)) | dict(kwargs)
        states = given.get("hx")
        states = states if isinstance(states, tuple | list) else () if states is None else (states,)
        return CellCall(module, given["input"], states, output if isinstance(output, tuple) else (output,), keep)


class CellCall(Call):
    """One timestep."""

    def __init__(
        self, module: nn.RNNCellBase, x: Tensor, states: Sequence[Tensor], new: Sequence[Tensor], keep: Keep
    ) -> None:
        super().__init__(dict(zip(("hidden", "cell"), new, strict=False)), states, len(x) if x.dim() > 1 else 1)
        self._mode, self._start = mode(module), in_words(module)
        self._x = x.detach()
        self._old = [state.detach() for state in states] or [torch.zeros_like(value) for value in new]
        self._hides = len(new) > 1 and new[0].grad_fn is new[1].grad_fn
        """One operation makes both states, as on CUDA: what flows from h_t into c_t is inside, hidden from hooks."""
        self._weights = [
            None if (weight := getattr(module, name)) is None else keep(weight)
            for name in ("weight_ih", "weight_hh", "bias_ih", "bias_hh")
        ]

    def parts(self, calls: Sequence[Call]) -> dict[str, Part]:
        every = [call for call in calls if isinstance(call, CellCall)]
        if len({call._x.shape for call in every}) > 1:  # noqa: SLF001
            raise Untraceable(
                "its loop goes on with fewer sequences than before, so rows cannot be followed: keep the batch whole "
                "and mask what has ended"
            )
        xs = _stacked([call._x for call in every]).requires_grad_()  # noqa: SLF001
        old = [_stacked([call._old[i] for call in every]).requires_grad_() for i in range(len(self._old))]  # noqa: SLF001
        names = list(self.watched)
        reached = {name: _stacked([call.gradient(name) for call in every]) for name in names}
        with torch.enable_grad():
            new, leaf, kept = self._step(xs, old)
            inside: dict[str, Tensor] = {}  # what reaches a state from others of its own timestep
            if "cell" in reached:
                (inside["cell"],) = torch.autograd.grad((new[0] * reached["hidden"]).sum(), [leaf], retain_graph=True)
                if self._hides:
                    reached["cell"] = reached["cell"] + inside["cell"]
            total = torch.stack([(value * reached[name]).sum() for name, value in zip(names, new, strict=True)]).sum()
            to_x, *to_old = torch.autograd.grad(total, [xs, *old])
        for name, value in zip(names, new, strict=True):
            check_repeated(value.detach(), _stacked([call.watched[name].detach() for call in every]), f"its '{name}'")
        norms = {name: norms_of(values) for name, values in {**reached, "input": to_x}.items()}
        enters = torch.zeros(xs.shape[:2], dtype=torch.bool)
        rounding = 1e-9 if xs.dtype == torch.float64 else 1e-3
        for name, back in zip(names, to_old, strict=True):
            known = inside.get(name, torch.zeros_like(back))
            known[:-1] += back[1:]
            largest = torch.maximum(reached[name].abs(), known.abs()).amax(-1, keepdim=True)
            enters |= ((reached[name] - known).abs() > rounding * largest).any(-1).cpu()
        lengths = np.full(xs.shape[1], len(xs))
        none = np.zeros(xs.shape[:2], dtype=bool)
        if kept is not None:
            why = gates_in_words(self._mode, kept.detach(), none)
        else:
            assert self._weights[1] is not None
            why = recurrence_in_words(self._mode, self._weights[1], new[0].detach(), none)
        return {"": Part(norms, lengths, enters=enters.numpy(), width=new[0].shape[-1], why=why, start=self._start)}

    def _step(self, xs: Tensor, old: Sequence[Tensor]) -> tuple[list[Tensor], Tensor, Tensor | None]:
        """All timesteps [T B ...] at once, each from its own old state: the new states, the hidden one as a function of
        the last, which is a leaf of autograd's graph; that leaf; and the gate that keeps the old state."""
        w, u, b, bias_hidden = self._weights
        assert w is not None
        assert u is not None
        if self._mode == "LSTM":
            gates = F.linear(xs, w, b) + F.linear(old[0], u, bias_hidden)
            i, f, g, o = gates.chunk(4, -1)
            f = f.sigmoid()
            c = f * old[1] + i.sigmoid() * g.tanh()
            leaf = c.detach().requires_grad_()
            return [o.sigmoid() * leaf.tanh(), c], leaf, f
        if self._mode == "GRU":
            r, z, n = F.linear(xs, w, b).chunk(3, -1)
            by_r, by_z, by_n = F.linear(old[0], u, bias_hidden).chunk(3, -1)
            z, n = (z + by_z).sigmoid(), (n + (r + by_r).sigmoid() * by_n).tanh()
            h = n + z * (old[0] - n)
            return [h], h, z
        h = F.linear(xs, w, b) + F.linear(old[0], u, bias_hidden)
        h = h.tanh() if self._mode == "RNN_TANH" else h.relu()
        return [h], h, None


def _stacked(values: Sequence[Tensor]) -> Tensor:
    """[T B ...]; of single sequences without a batch, B is 1."""
    stacked = torch.stack([value.detach() for value in values])
    return stacked[:, None] if stacked.dim() == 2 else stacked
