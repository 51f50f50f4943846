"""The vanishing-gradient regulariser of Pascanu, Mikolov & Bengio (2013, arXiv 1211.5063, section 3.3):

    Omega = mean of (|g_t J_t|^2 / |g_t|^2 - 1)^2,    g_t = dL/ds_t,  J_t = ds_t/ds_{t-1}

over the timesteps t and the sequences of a batch. It is 0 where the gradient keeps its norm on its way back. The
squares inside, the mean and the least |g_t|^2 are those of the authors' code; equation 9 has norms, and a sum.

The state s_t is all that a step writes, of all layers together; an output that is no state belongs to the step that
makes it. Omega's gradient is the paper's "immediate" one: g_t, s_{t-1} and the inputs are constants, so that the
weights count only through the single step in J_t. In the paper s_t is the pre-activation, and the slope of its tanh a
constant, too; here the slope depends on the weights.

Axes: T time, A asked timesteps, B batch, D input features, K outputs, N sequences of a single step.
"""

from collections.abc import Mapping, Sequence

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from ..cells.base import Cell, add_gradients
from ..cells.state import Slots, State
from ..cells.wrappers import Dropout, Zoneout
from ..models.base import Model, entering, trainable
from ..models.recurrent import RecurrentModel

LEAST = 1e-20
"""Timesteps whose |g_t|^2 is less have no term: nothing arrives there, and a ratio would be noise."""


class Omega:
    """Omega of a model as a part of what it is trained for: loss + ``weight`` * Omega.

    Args:
        weight: positive, as ``Plan`` checks.

    Raises:
        ValueError: the model has no step whose gradient could be kept.
    """

    def __init__(self, model: Model, weight: float) -> None:
        if not isinstance(model, RecurrentModel) or type(model).walk is not RecurrentModel.walk:
            raise ValueError(
                f"omega={weight:g}: goes with model=recurrent, whose states are each made by a step of its cell"
            )
        if reason := _unfit(model.cell):
            raise ValueError(f"omega={weight:g}: {reason}")
        self.model, self.weight = model, weight

    def forward(self, inputs: Shaped[Tensor, "T B ..."], state: State | None, at: slice) -> "Penalised":
        """The model's forward pass from ``state``, predicting at the timesteps ``at``."""
        model = self.model
        states, outputs = [model.initial_state(inputs.shape[1]) if state is None else state], []
        with torch.enable_grad():
            xs = entering(model.embed(inputs))
            for x in xs:
                output, new = model.cell.step(x, states[-1])
                states.append(_cut(states[-1], new))
                outputs.append(output if model.cell.output_state is None else states[-1][model.cell.output_state])
            return Penalised(self, xs, states, model.read_out(torch.stack(outputs[at])))


class Penalised:
    """A forward pass whose backward pass adds the gradients of the loss and of Omega. See ``models.Differentiated``.

    ``omega``: Omega of these sequences, after ``backward``.
    """

    def __init__(
        self,
        owner: Omega,
        xs: Sequence[Float[Tensor, "B D"]],
        states: Sequence[State],
        predicted: Float[Tensor, "A B K"],
    ) -> None:
        self._owner, self._xs, self._states, self._graph = owner, xs, states, predicted
        self.predicted, self.final = predicted.detach(), states[-1]
        self.omega: Float[Tensor, ""] = predicted.new_zeros(())

    def backward(self, predicted: Float[Tensor, "A B K"]) -> None:
        model, before, after = self._owner.model, self._states[:-1], self._states[1:]
        parameters = trainable(model)
        names = [name for name, leaf in after[-1].items() if _overwritten(before[-1].get(name), leaf)]
        written = [state[name] for name in names for state in after]
        reached = [leaf for leaf in written if leaf.requires_grad]
        # The sum of products, because torch imports a computer algebra for a gradient that is given: 35 MB.
        loss = (self._graph * predicted).sum()
        by_each = torch.autograd.grad(loss, [*parameters, *reached], allow_unused=True)
        add_gradients(zip(parameters, by_each[: len(parameters)], strict=True))
        arrived = iter(by_each[len(parameters) :])
        gradients = []
        for leaf in written:
            gradient = next(arrived) if leaf.requires_grad else None
            gradients.append(torch.zeros_like(leaf) if gradient is None else gradient)
        value = omega(
            model.cell,
            torch.stack([x.detach() for x in self._xs]),
            {name: torch.stack([state[name].detach() for state in before]) for name in before[0]},
            {name: torch.stack(gradients[i * len(after) : (i + 1) * len(after)]) for i, name in enumerate(names)},
        )
        if value.requires_grad:  # not of linear attention and the like, whose J_t is no function of the weights
            weights = trainable(model.cell)
            by_weights = torch.autograd.grad(self._owner.weight * value, weights, allow_unused=True)
            add_gradients(zip(weights, by_weights, strict=True))
        self.omega = value.detach()


def omega(
    cell: Cell,
    xs: Float[Tensor, "T B D"],
    before: Mapping[str, Shaped[Tensor, "T B ..."]],
    gradients: Mapping[str, Float[Tensor, "T B ..."]],
) -> Float[Tensor, ""]:
    """Omega as a function of the cell's weights. All steps are one step of T * B sequences: none depends on another.

    Args:
        xs: what each step read.
        before: the state that each step began with.
        gradients: g_t, of every state that steps write.
    """
    with torch.enable_grad():
        old = {name: leaf.flatten(0, 1).clone() for name, leaf in before.items()}
        for name in gradients:
            old[name].requires_grad_()
        _, new = cell.step(xs.flatten(0, 1), old)
        flat = {name: gradient.flatten(0, 1) for name, gradient in gradients.items()}
        along = torch.stack([(new[name] * gradient).sum() for name, gradient in flat.items()]).sum()
        states = [old[name] for name in flat]
        back = torch.autograd.grad(along, states, create_graph=True, allow_unused=True, materialize_grads=True)
        size = _squares(list(flat.values()))
        counted = size >= LEAST
        ratio = torch.where(counted, _squares(back) / size.clamp(min=LEAST), 1.0)
        return (ratio - 1).square().sum() / counted.sum().clamp(min=1)


def _squares(gradients: Sequence[Float[Tensor, "N ..."]]) -> Float[Tensor, " N"]:
    return torch.stack([each.flatten(1).square().sum(1) for each in gradients]).sum(0)


def _cut(old: State, new: State) -> State:
    """What a step wrote, as seen from the next one: its gradient leaves out what the same step made of it besides."""
    return {name: leaf.view_as(leaf) if _overwritten(old.get(name), leaf) else leaf for name, leaf in new.items()}


def _overwritten(old: Tensor | None, new: Tensor) -> bool:
    """A step wrote ``new``, and gradients flow through it: it is no counter."""
    return new is not old and new.is_floating_point()


def _unfit(cell: Cell) -> str:
    """Why a cell has no Omega; empty: it has one."""
    state = cell.initial_state(1)
    if any(isinstance(leaf, Slots) for leaf in state.values()):
        return "this cell keeps past timesteps in its state, one by one; Omega is of states that a step overwrites"
    if not any(leaf.is_floating_point() for leaf in state.values()):
        return "this cell has no state whose gradient could be kept"
    for module in cell.modules():
        if isinstance(module, Dropout | Zoneout | nn.Dropout) and module.p > 0:
            return f"does not go with {type(module).__name__.lower()}, which draws anew where the step is repeated"
    return ""
