"""Models: they walk over a sequence and predict. Also the measures of every model: parameter count, loss and score.

Axes: T time, A asked timesteps, B batch, D features of what enters the first layer, H output
features, K predicted numbers (or classes), V symbols, N timesteps that are looked at.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from ..cells.base import Additive, Cell, cells_in
from ..cells.state import State
from ..randomness import ambient
from ..signals import Batch, OneHot, loss_with_gradient
from ..tasks.base import Task


class Look(NamedTuple):
    """The weights of attention, which sum to 1 for each head, over N timesteps of the sequence.

    ``first`` is the first of these, counted as the walk counts them from 0; before its start they are negative.
    """

    weights: Float[Tensor, "B heads N"]
    first: int


@dataclass(frozen=True, slots=True)
class Step:
    """One timestep of a walk.

    Args:
        x: the input of the first layer, [B D].
        output: the input of ``Model.read_out``, [B H].
        state: the state after this timestep.
        gates: returns gate name -> [B units], how far each was open in this step (0 to 1); computed on each call.
        looks: returns name -> what attention looked at in this step; computed on each call.
        additive: returns state name -> how this step made it of the old one, as in ``Cell.additive``; computed on each
            call.
        predicts: False: nothing is predicted yet, and ``output`` means nothing.
    """

    x: Float[Tensor, "B D"]
    output: Float[Tensor, "B H"]
    state: State
    gates: Callable[[], Mapping[str, Float[Tensor, "B _"]]] = dict
    looks: Callable[[], Mapping[str, Look]] = dict
    additive: Callable[[], Mapping[str, Additive]] = dict
    predicts: bool = True


class Model(nn.Module, ABC):
    """From a sequence to predictions. Write ``initial_state`` and ``walk``; the rest follows.

    ``keeps``: the gates whose value is the share of an old state that remains.
    """

    keeps: tuple[str, ...] = ()

    @abstractmethod
    def initial_state(self, batch_size: int) -> State:
        """The state before the first timestep, on the parameters' device and in their dtype. It may be empty."""

    @abstractmethod
    def walk(self, inputs: Shaped[Tensor, "T B ..."], state: State | None = None) -> Iterator[Step]:
        """Yield each timestep's ``Step``, from ``state`` (None: the initial one). This defines the model.

        While gradients are recorded, each ``Step.x`` must require grad, as ``entering`` ensures: the trace computes
        gradients by it. A leaf of the state that does not change must remain the same object.
        """

    def read_out(self, outputs: Float[Tensor, "*A B H"]) -> Float[Tensor, "*A B K"]:
        """Predictions from the outputs of one or more timesteps; by default, the outputs themselves."""
        return outputs

    def forward(
        self, inputs: Shaped[Tensor, "T B ..."], state: State | None = None, *, at: slice | None = None
    ) -> tuple[Float[Tensor, "A B K"], State]:
        """(predictions, final state), for training. Override only to go faster; a law holds it equal to ``walk``.

        Args:
            at: the timesteps to predict at; None: all.
        """
        state = self.initial_state(inputs.shape[1]) if state is None else state
        outputs = []
        for step in self.walk(inputs, state):
            outputs.append(step.output)
            state = step.state
        whole = torch.stack(outputs)
        return self.read_out(whole if at is None else whole[at]), state

    def predict(self, batch: Batch, *, at: slice | None = None) -> Float[Tensor, "A B K"]:
        """Predictions for evaluation. A model that feeds answers back uses its own here, the batch's in ``forward``.

        Args:
            at: as in ``forward``.
        """
        predicted, _ = self(batch.inputs, at=at)
        return predicted

    def tapped(self, inputs: Shaped[Tensor, "T B ..."], at: slice) -> "Tapped | None":
        """A fast walk over ``inputs`` with gradients by everything that it writes. None: ``walk`` is the only way.

        Args:
            at: the timesteps to predict at.
        """
        return None

    def differentiated(
        self, inputs: Shaped[Tensor, "T B ..."], state: State | None, at: slice
    ) -> "Differentiated | None":
        """``forward`` with its backward pass, without autograd's graph. None: autograd is the only way.

        It draws no random numbers, and ends in the same predictions, state and gradients, bit for bit.
        """
        return None

    def checkpoint(self, every: int | None) -> None:
        """Save only every Nth state for the backward pass, and recompute the rest there; None: save all.

        It changes the memory and time of training, and gradients by no more than rounding.
        """
        for cell in cells_in(self):
            cell.checkpoint(every)

    def layers(self) -> "Layers | None":
        """The model as published equations with their weights; None: its equations are others."""
        return None


@runtime_checkable
class Differentiated(Protocol):
    """A forward pass whose gradients ``backward`` computes, once. ``predicted`` and ``final`` have no graph."""

    predicted: Float[Tensor, "A B K"]
    final: State

    def backward(self, predicted: Float[Tensor, "A B K"]) -> None:
        """Add the loss's gradient by each trainable parameter to its ``grad``, from the one by the predictions."""
        ...


@runtime_checkable
class Tapped(Protocol):
    """A model with fixed inputs, for repeated traces while its weights change in place."""

    def norms(
        self, gradient: Callable[[Float[Tensor, "A B K"]], Float[Tensor, "A B K"]]
    ) -> tuple[Float[Tensor, "T B"], dict[str, Float[Tensor, "T B"]]]:
        """L2 norms, per sequence, of the gradients of a loss: by the first layer's inputs x_t, and state name -> by
        what each timestep wrote to that state (NaN where it wrote nothing).

        Args:
            gradient: from the predictions to the gradient of the loss by them.
        """
        ...


@dataclass(frozen=True, eq=False)
class Layers:
    """A model that is an embedding, cells with published equations on top of each other, and some more weights.

    Args:
        equations: the name of the model's own, for other implementations of them.
        vocabulary, width: V and D.
        vectors: [V D]; None: tokens are embedded as unit vectors.
        cells: part of the model -> its cells from the bottom up; each has ``equations`` and ``weights``.
        weights: all others, by their names in ``equations``.
    """

    equations: str
    vocabulary: int
    width: int
    vectors: Float[Tensor, "V D"] | None
    cells: Mapping[str, Sequence[Cell]]
    weights: Mapping[str, Float[Tensor, "..."]]

    @classmethod
    def of(
        cls, equations: str, embed: nn.Module, cells: Mapping[str, Cell], weights: Mapping[str, Tensor]
    ) -> "Layers | None":
        """None: a cell has no published equations, or tokens are embedded in another way."""
        layers = {name: cell.layers() for name, cell in cells.items()}
        if any(cell.equations is None for stack in layers.values() for cell in stack):
            return None
        if type(embed) is nn.Embedding:
            return cls(equations, embed.num_embeddings, embed.embedding_dim, embed.weight, layers, weights)
        if type(embed) is OneHot:
            return cls(equations, embed.size, embed.size, None, layers, weights)
        return None


def backwards(weights: Mapping[str, Float[Tensor, "B heads N"]], t: int) -> dict[str, Look]:
    """What a cell's attention (``Cell.looks``) looked at in timestep ``t``: the last N timesteps."""
    return {name: Look(each, t + 1 - each.shape[-1]) for name, each in weights.items()}


def entering(xs: Float[Tensor, "T B D"]) -> Sequence[Float[Tensor, "B D"]]:
    """The first layer's input at each timestep; while gradients are recorded, each requires grad by itself."""
    if torch.is_grad_enabled() and not xs.requires_grad:
        xs = xs.detach().requires_grad_()
    # unbind, not xs[t]: indexing a tensor that requires grad costs O(T) per step in the backward pass.
    return xs.unbind(0)


def trainable(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def parameter_count(model: nn.Module) -> int:
    """The number of trainable parameters."""
    return sum(parameter.numel() for parameter in trainable(model))


def hidden_size_for(params: int, build: Callable[[int], nn.Module]) -> int:
    """The hidden size whose model, ``build(hidden_size)``, comes closest to ``params`` trainable parameters.

    The count must grow with the hidden size. For weight matrices it is a polynomial of degree 2, which the models of
    1, 2 and 3 hidden units determine. The resulting model is built too; if its count differs from the polynomial, a
    search builds more models. No generator advances. (torch's meta device would allocate nothing, but importing it
    takes four seconds, as it brings torch's compiler.)

    Raises:
        ValueError: even one hidden unit needs more than twice ``params``, or the count does not grow.
    """
    counted: dict[int, int] = {}

    def count(hidden_size: int) -> int:
        if hidden_size not in counted:
            with ambient(0, "count"):
                counted[hidden_size] = parameter_count(build(hidden_size))
        return counted[hidden_size]

    one, two, three = count(1), count(2), count(3)
    if one > 2 * params:
        raise ValueError(f"params={params} is too few: one hidden unit already makes {one} parameters")
    if three <= one:
        raise ValueError(f"params={params}: 1 hidden unit makes {one} parameters and 3 make {three}: set hidden_size")

    def polynomial(hidden_size: int) -> int:  # Newton's form, whole numbers throughout
        k = hidden_size - 1
        return one + k * (two - one) + k * (k - 1) // 2 * (three - 2 * two + one)

    curved_down = three - 2 * two + one < 0  # such a polynomial does not grow for ever
    size = 1 if curved_down else _closest(params, polynomial)
    return size if not curved_down and count(size) == polynomial(size) else _closest(params, count)


def _closest(params: int, count: Callable[[int], int]) -> int:
    """The hidden size whose count is nearest to ``params``; counts grow with the size."""
    high = 2
    while count(high) < params:
        high *= 2
    low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(middle) < params else (low, middle)
    return min((low, high), key=lambda size: abs(count(size) - params))


def loss_per_sequence(
    task: Task, predicted: Float[Tensor, "T B K"], batch: Batch, total: Float[Tensor, " B"] | None = None
) -> Float[Tensor, " B"]:
    """The mean loss (nats or squared error) over the timesteps of each sequence, by ``batch.weights``.

    ``total``: the divisor if the batch is a part of a longer one, so that the losses of all parts add up to the loss of
    the whole.
    """
    per_step = task.targets.loss(predicted, batch.targets)
    if len(per_step) == 1 and total is None:
        return per_step.squeeze(0)  # the mean of a single timestep
    return (per_step * batch.weights).sum(0) / (batch.weights.sum(0) if total is None else total)


def loss_and_gradient(
    task: Task,
    predicted: Float[Tensor, "T B K"],
    batch: Batch,
    total: Float[Tensor, " B"] | None = None,
    *,
    mean: bool = True,
) -> tuple[Float[Tensor, ""], Float[Tensor, "T B K"]]:
    """The mean (else the sum) of ``loss_per_sequence``, and its gradient by ``predicted``, bit for bit autograd's."""
    closed_form = loss_with_gradient(task.targets)
    if closed_form is None:
        with torch.enable_grad():
            leaf = predicted.detach().requires_grad_()
            losses = loss_per_sequence(task, leaf, batch, total)
            loss = losses.mean() if mean else losses.sum()
            return loss.detach(), torch.autograd.grad(loss, leaf)[0]
    with torch.no_grad():
        per_step, gradient = closed_form(predicted, batch.targets)
        share = 1 / predicted.shape[1] if mean else 1.0
        if len(predicted) == 1 and total is None:
            losses, weights = per_step.squeeze(0), torch.full_like(per_step, share)
        else:
            total = batch.weights.sum(0) if total is None else total
            losses = (per_step * batch.weights).sum(0) / total
            weights = torch.full_like(total, share) / total * batch.weights
        return losses.mean() if mean else losses.sum(), gradient(weights)


def score_per_sequence(task: Task, predicted: Float[Tensor, "T B K"], batch: Batch) -> Float[Tensor, " B"]:
    """The mean score, in the targets' metric, over the asked timesteps of each sequence."""
    per_step = task.targets.score(predicted, batch.targets)
    asked = batch.asked.to(per_step.dtype)
    return (per_step * asked).sum(0) / asked.sum(0)
