"""Temporal convolutional network (Bai, Kolter & Koltun 2018, arXiv 1803.01271): causal convolutions over ever longer
distances. On level l, with dilation 2^l and kernel size k,

    a_t   = relu(b_1 + sum over j < k of W_1j x_{t - j 2^l})
    c_t   = relu(b_2 + sum over j < k of W_2j a_{t - j 2^l})
    out_t = relu(c_t + x_t)    or c_t + W_in x_t + b_in where the sizes differ

and out is the next level's x. It sees 1 + 2 (k - 1) (2^levels - 1) timesteps, and nothing before.

Axes: T time, S asked timesteps, B batch, D input features, H hidden (channels), C channels of a convolution's input, V
vectors.
"""

from collections.abc import Iterator
from typing import ClassVar, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from .base import Cell
from .initialisation import at_least
from .state import Slots, State


class Convolution(nn.Module):
    """A causal, dilated convolution whose weight is a direction and a length per channel (weight normalisation:
    Salimans & Kingma 2016). The weights begin as torch's convolutions do."""

    def __init__(self, channels: int, hidden_size: int, kernel: int, dilation: int) -> None:
        super().__init__()
        like = nn.Conv1d(channels, hidden_size, kernel)
        self.direction, self.bias = like.weight, cast(nn.Parameter, like.bias)  # [H C k], [H]
        self.length = nn.Parameter(like.weight.detach().norm(dim=(1, 2), keepdim=True))
        self.dilation = dilation
        self.reach = (kernel - 1) * dilation
        """Timesteps before the present one that it sees."""

    def weight(self) -> Float[Tensor, "H C k"]:
        return self.direction * (self.length / self.direction.norm(dim=(1, 2), keepdim=True))

    def step(self, x: Float[Tensor, "B C"], before: Slots) -> Float[Tensor, "B H"]:
        """``before``: the inputs within reach, [B C] each; zeros before the first."""
        inputs, weight, total = [*before, x], self.weight(), self.bias
        for back, tap in zip(range(0, len(inputs), self.dilation), reversed(weight.unbind(-1)), strict=False):
            total = total + F.linear(inputs[len(inputs) - 1 - back], tap)
        return total

    def forward(self, xs: Float[Tensor, "T B C"], before: Slots) -> Float[Tensor, "T B H"]:
        past = [before.stacked()] if len(before) else []
        padded = F.pad(torch.cat([*past, xs]).permute(1, 2, 0), (self.reach - len(before), 0))
        return F.conv1d(padded, self.weight(), self.bias, dilation=self.dilation).permute(2, 0, 1)


class TCN(Cell):
    """State: for level l ``firstl`` and ``secondl`` (``first0``), what its two convolutions read, [B C] per timestep
    within reach.

    Raises:
        ValueError: ``levels`` or ``kernel`` is below its least value.
    """

    family: ClassVar[str] = "looking back"
    source: ClassVar[str] = "Bai et al. 2018"
    parallel = True

    def __init__(self, input_size: int, hidden_size: int, *, levels: int = 4, kernel: int = 3) -> None:
        super().__init__()
        at_least("levels", levels, 1)
        at_least("kernel", kernel, 2)  # one timestep's would see no other
        self.input_size, self.output_size = input_size, hidden_size
        sizes = [input_size, *[hidden_size] * (levels - 1)]
        self.first = nn.ModuleList(Convolution(size, hidden_size, kernel, 2**i) for i, size in enumerate(sizes))
        self.second = nn.ModuleList(Convolution(hidden_size, hidden_size, kernel, 2**i) for i in range(levels))
        self.enter = nn.Identity() if input_size == hidden_size else nn.Linear(input_size, hidden_size)

    def initial_state(self, batch_size: int) -> State:
        return {name: Slots(window=part.reach) for level in self._levels() for name, part in level}

    def step(self, x: Float[Tensor, "B D"], state: State) -> tuple[Float[Tensor, "B H"], State]:
        new: State = {}
        around = self.enter(x)
        for level in self._levels():
            for name, part in level:
                new[name] = state[name].append(x)
                x = part.step(x, state[name]).relu()
            x = around = (x + around).relu()
        return x, new

    def forward(self, xs: Float[Tensor, "T B D"], state: State | None = None) -> tuple[Float[Tensor, "T B H"], State]:
        state = self.initial_state(xs.shape[1]) if state is None else state
        new: State = {}
        around = self.enter(xs)
        for level in self._levels():
            for name, part in level:
                new[name] = state[name].extend(xs.unbind(0))
                xs = part(xs, state[name]).relu()
            xs = around = (xs + around).relu()
        return xs, new

    def forward_at(
        self,
        inputs: Float[Tensor, "T B D"] | Int[Tensor, "T B"],
        state: State | None,
        at: slice,
        *,
        vectors: Float[Tensor, "V D"] | None = None,
    ) -> tuple[Float[Tensor, "S B H"], State]:
        """From the first timestep on that the asked ones, or the final state, can see."""
        asked = range(len(inputs))[at]
        unseen = (asked.start if asked else len(inputs) - 1) - self._reach()
        if unseen <= 0 or asked.step != 1:
            return super().forward_at(inputs, state, at, vectors=vectors)
        empty = self.initial_state(inputs.shape[1])
        seen = slice(asked.start - unseen, asked.stop - unseen)
        outputs, final = super().forward_at(inputs[unseen:], empty, seen, vectors=vectors)
        before = empty if state is None else state
        for name, slots in final.items():
            earlier = before[name].dropped + len(before[name]) + unseen
            final[name] = Slots(slots, window=slots.window, dropped=earlier + slots.dropped)
        return outputs, final

    def kept(self, steps: int) -> int:
        return min(steps, 1 + self._reach()) * self.output_size

    def _reach(self) -> int:
        """Timesteps before the present one that an output sees."""
        return sum(part.reach for level in self._levels() for _, part in level)

    def _levels(self) -> Iterator[tuple[tuple[str, Convolution], tuple[str, Convolution]]]:
        """Two named convolutions per level."""
        for level, (first, second) in enumerate(zip(self.first, self.second, strict=True)):
            yield (f"first{level}", cast(Convolution, first)), (f"second{level}", cast(Convolution, second))
