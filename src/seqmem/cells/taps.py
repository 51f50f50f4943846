"""Gradients at what every timestep writes, for cells whose ``forward`` has it all in one tensor.

Axes: T time, B batch, D input features, H hidden, V vectors.
"""

from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from .norms import row_norms
from .state import State, leaves, map_leaves, select, tensors

Written = dict[str, Tensor]
"""State name -> what each timestep wrote to it, [T B ...]."""


def haunted(
    xs: Float[Tensor, "T B D"], sizes: Mapping[str, int], *, on: bool
) -> tuple[Written, Float[Tensor, "T B N"] | None]:
    """For the states of ``kernels.scan``, by name and numbers per sequence: a ghost for each, and all of them for the
    kernel. A ghost is zero, and stands for what each timestep writes, as far as gradients go. Not ``on``: none."""
    if not on:
        return {}, None
    zero = xs.new_zeros(1)
    written = {name: zero.expand(*xs.shape[:2], size).requires_grad_() for name, size in sizes.items()}
    return written, torch.cat([*written.values()], -1)


_AT_ONCE = 8_000
"""Differentiate up to this many timesteps x sequences together: at 64 units attention takes some 20 KB for each."""


class AutogradTaps:
    """A ``Tapped`` by autograd, some sequences at a time.

    Args:
        run: from inputs [T B D] and the initial state to outputs, final state, and what each timestep wrote: tensors of
            the graph, through which everything flows that depends on it.
    """

    def __init__(
        self,
        run: Callable[[Tensor, State], tuple[Tensor, State, Written]],
        inputs: Float[Tensor, "T B D"] | Int[Tensor, "T B"],
        state: State,
        vectors: Float[Tensor, "V D"] | None,
    ) -> None:
        self._run, self._inputs, self._vectors = run, inputs, vectors
        self._start = map_leaves(Tensor.detach, state)
        with torch.no_grad():
            outputs, self.final, _ = self._run(self._embedded(slice(None)), self._start)
        self.outputs = outputs.contiguous()

    def _embedded(self, rows: slice) -> Float[Tensor, "T B D"]:
        inputs = self._inputs[:, rows].detach()
        return inputs if self._vectors is None else F.embedding(inputs, self._vectors.detach())

    def forward(self) -> None:
        with torch.no_grad():
            outputs, final, _ = self._run(self._embedded(slice(None)), self._start)
            for old, new in zip((self.outputs, *leaves(self.final)), (outputs, *leaves(final)), strict=True):
                old.copy_(new)

    def backward(
        self,
        outputs: Float[Tensor, "T B H"] | None,
        final: Mapping[str, Tensor | None],
        *,
        to_inputs: Float[Tensor, "T B D"] | None = None,
    ) -> tuple[Float[Tensor, "T B"], dict[str, Float[Tensor, "T B"]]]:
        steps, sequences = self._inputs.shape[:2]
        most = max(1, _AT_ONCE // steps)
        parts: list[dict[str | None, Tensor]] = []
        for start in range(0, sequences, most):
            rows = slice(start, start + most)
            by = {name: grad[rows] for name, grad in final.items() if grad is not None}
            parts.append(self._norms(rows, None if outputs is None else outputs[:, rows], by, to_inputs))
        by_input, *by_states = ((name, torch.cat([part[name] for part in parts], 1)) for name in parts[0])
        return by_input[1], {name: norms for name, norms in by_states if name is not None}

    def _norms(
        self,
        rows: slice,
        outputs: Float[Tensor, "T R H"] | None,
        final: Mapping[str, Tensor],
        to_inputs: Float[Tensor, "T B D"] | None,
    ) -> dict[str | None, Float[Tensor, "T R"]]:
        """For some sequences; None: by the inputs."""
        with torch.enable_grad():
            xs = self._embedded(rows).requires_grad_()
            ys, end, written = self._run(xs, select(self._start, rows))
            pairs = [] if outputs is None else [(ys, outputs)]
            for name, grad in final.items():
                (leaf,) = tensors(end[name])
                pairs.append((leaf, grad))
            # The sum of products, because torch imports a computer algebra for a gradient that is given: 35 MB.
            total = torch.stack([(value * grad).sum() for value, grad in pairs]).sum()
            by = torch.autograd.grad(total, [xs, *written.values()], materialize_grads=True)
        if to_inputs is not None:
            to_inputs[:, rows] = by[0]
        return {
            name: row_norms(grad.flatten(2).flatten(0, 1)).unflatten(0, grad.shape[:2])
            for name, grad in zip((None, *written), by, strict=True)
        }
