"""seqmem's own cells and models inside any other: computed again step by step, which is their definition.

Axes: T time, B batch, D features.
"""

from collections.abc import Mapping, Sequence
from copy import deepcopy
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..cells.base import Cell, steps
from ..cells.state import map_leaves, tensors
from ..cells.walked import Walked
from ..decay import INPUT
from ..models.base import Model
from .calls import Call, Keep, Reader, check_repeated
from .parts import OUTPUT, Part


class OurReader(Reader):
    """A cell, a stack of cells or a model: what is inside is traced with it."""

    def reads(self, module: nn.Module) -> bool:
        return isinstance(module, Cell | Model)

    def call(
        self, module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any], output: Any, keep: Keep
    ) -> Call:
        assert isinstance(module, Cell | Model)
        given = [*args, *(kwargs[name] for name in ("xs", "inputs") if name in kwargs)]
        state = given[1] if len(given) > 1 else kwargs.get("state")
        twin = module if keep is torch.Tensor.detach else deepcopy(module)
        return WalkCall(twin, given[0], state, output, kwargs.get("at"))


class WalkCall(Call):
    """A whole sequence of a cell or a model."""

    chained = False

    def __init__(self, module: Cell | Model, given: Tensor, state: Any, output: Any, at: slice | None) -> None:
        outputs, final = output
        # The final state may be an earlier tensor of the outputs' graph, so that a hook would count what comes through
        # the outputs, too: the caller gets a view of it, and the view gets the hook.
        final = map_leaves(lambda leaf: leaf.view_as(leaf), final)
        self._ends = {f"{name}/{i}": (name, i) for name in final for i in range(len(tensors(final[name])))}
        ends = {key: tensors(final[name])[i] for key, (name, i) in self._ends.items()}
        super().__init__({OUTPUT: outputs, **ends}, (), given.shape[1])
        self.returned = outputs, final
        self._module, self._given, self._at = module, given.detach(), at
        self._state = None if state is None else map_leaves(Tensor.detach, state)

    def parts(self, calls: Sequence[Call]) -> dict[str, Part]:
        module, sequences = self._module, self.sequences
        # Flags of the module's own, which is a copy: the user's is as it was.
        with torch.enable_grad():
            state = module.initial_state(sequences) if self._state is None else self._state
            walked = Walked(state, sequences, INPUT)
            outputs = []
            if isinstance(module, Model):
                for step in module.walk(self._given, state):
                    walked.add(step.x, state, step.state)
                    outputs.append(step.output)
                    state = step.state
                stacked = torch.stack(outputs)
                computed = module.read_out(stacked if self._at is None else stacked[self._at])
            else:
                xs = [x.requires_grad_() for x in self._given.clone().unbind(0)]
                for x, (output, new) in zip(xs, steps(module, xs, state), strict=True):
                    walked.add(x, state, new)
                    outputs.append(output)
                    state = new
                computed = torch.stack(outputs)
            check_repeated(computed.detach(), self.watched[OUTPUT], "its output")
            pairs = [(computed, self.gradients[OUTPUT])] if OUTPUT in self.gradients else []
            for key, (name, i) in self._ends.items():
                if key in self.gradients:
                    pairs.append((tensors(state[name])[i], self.gradients[key]))
            total = torch.stack([(value * gradient).sum() for value, gradient in pairs]).sum()
            norms = {name: values.cpu().numpy() for name, values in walked.norms(total).items()}
        return {"": Part(norms, np.full(sequences, len(outputs)), width=outputs[0].shape[-1])}
