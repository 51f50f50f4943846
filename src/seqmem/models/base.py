"""What a model is: it walks over a sequence and predicts. And what every model is measured by: its parameters, the loss
and the score of a sequence.

Axes: T time, A timesteps that an answer is asked for, B batch, D features of what enters the first layer, H output
features, K predicted numbers (or classes), V symbols.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from ..cells.base import Cell, cells_in
from ..cells.state import State
from ..randomness import ambient
from ..signals import Batch
from ..tasks.base import Task


@dataclass(frozen=True, slots=True)
class Step:
    """One timestep of a walk.

    Args:
        x: what entered the first layer, [B D].
        output: what ``Model.read_out`` makes predictions of, [B H].
        state: what is carried past this timestep.
        gates: how far each gate was open in this step, gate name -> [B units], 0 to 1; computed on each call.
    """

    x: Float[Tensor, "B D"]
    output: Float[Tensor, "B H"]
    state: State
    gates: Callable[[], Mapping[str, Float[Tensor, "B _"]]] = dict


class Model(nn.Module, ABC):
    """From a sequence to predictions. Write ``initial_state`` and ``walk``; the rest follows.

    ``keeps``: the gates whose value is the share of an old state that is kept.
    """

    keeps: tuple[str, ...] = ()

    @abstractmethod
    def initial_state(self, batch_size: int) -> State:
        """The state before the first timestep, on the parameters' device and in their dtype. It may be empty."""

    @abstractmethod
    def walk(self, inputs: Shaped[Tensor, "T B ..."], state: State | None = None) -> Iterator[Step]:
        """Yield what happens at each timestep, from ``state`` (None: the initial one). This defines the model.

        While gradients are recorded, each ``Step.x`` requires grad, as ``entering`` makes it: the trace asks for the
        gradient by it. A leaf of the state that stays as it was is handed on as the same object.
        """

    def read_out(self, outputs: Float[Tensor, "*A B H"]) -> Float[Tensor, "*A B K"]:
        """Predictions from the outputs of one timestep, or of several; by default the outputs are the predictions."""
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
        """Answers for evaluation. A model that feeds answers back reads its own here, and the batch's in ``forward``.

        Args:
            at: as in ``forward``.
        """
        predicted, _ = self(batch.inputs, at=at)
        return predicted

    def tapped(self, inputs: Shaped[Tensor, "T B ..."], at: slice) -> "Tapped | None":
        """The walk over ``inputs`` from the initial state, and the gradients by everything that it writes. None: there
        is no faster way than to walk.

        Args:
            at: the timesteps to predict at.
        """
        return None

    def checkpoint(self, every: int | None) -> None:
        """Keep the states at every Nth timestep alone for the backward pass, and compute the rest again there; None:
        keep all. It changes how much memory and time training takes, and gradients by no more than rounding."""
        for cell in cells_in(self):
            cell.checkpoint(every)

    def layers(self) -> "Layers | None":
        """The model as published equations with their weights; None: it has others."""
        return None


@runtime_checkable
class Tapped(Protocol):
    """A model over fixed inputs, to be traced again and again while its weights change in place."""

    def norms(
        self, loss: Callable[[Float[Tensor, "A B K"]], Float[Tensor, ""]]
    ) -> tuple[Float[Tensor, "T B"], dict[str, Float[Tensor, "T B"]]]:
        """The L2 norms, for each sequence by itself, of the gradients of ``loss(predictions)``: by what enters the
        first layer at each timestep, and by name by what each timestep wrote to the state (NaN: nothing)."""
        ...


@dataclass(frozen=True, eq=False)
class Layers:
    """A model that is an embedding, cells with published equations on top of each other, and a linear readout.

    Args:
        vocabulary, width: V and D.
        vectors: [V D]; None: tokens enter as unit vectors.
        cells: each has ``equations`` and ``weights``, from the bottom up.
    """

    vocabulary: int
    width: int
    vectors: Float[Tensor, "V D"] | None
    cells: Sequence[Cell]
    weight: Float[Tensor, "K H"]
    bias: Float[Tensor, " K"]


def entering(xs: Float[Tensor, "T B D"]) -> Sequence[Float[Tensor, "B D"]]:
    """What enters the first layer, timestep by timestep; while gradients are recorded, with one of its own each."""
    if torch.is_grad_enabled() and not xs.requires_grad:
        xs = xs.detach().requires_grad_()
    # unbind, not xs[t]: indexing a tensor that requires grad costs O(T) per step in the backward pass.
    return xs.unbind(0)


def trainable(model: nn.Module) -> list[nn.Parameter]:
    return [parameter for parameter in model.parameters() if parameter.requires_grad]


def parameter_count(model: nn.Module) -> int:
    """Numbers that training may change."""
    return sum(parameter.numel() for parameter in trainable(model))


def hidden_size_for(params: int, build: Callable[[int], nn.Module]) -> int:
    """The hidden size whose model, ``build(hidden_size)``, comes closest to ``params`` trainable parameters.

    Assumes that the count grows with the hidden size. For weight matrices it is a polynomial of degree 2, so the
    models of 1, 2 and 3 hidden units determine all others. The result is built and counted too; if it has another
    count, the size is searched for by building. No generator advances. (On torch's meta device nothing would be
    allocated, but entering it imports torch's compiler, four seconds.)

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

    curved_down = three - 2 * two + one < 0  # no polynomial that grows for ever
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

    ``total``: the divisor where the batch is a part of a longer one; the losses of all parts then add up to that of the
    whole.
    """
    per_step = task.targets.loss(predicted, batch.targets)
    if len(per_step) == 1 and total is None:
        return per_step.squeeze(0)  # the mean of one, whatever its weight
    return (per_step * batch.weights).sum(0) / (batch.weights.sum(0) if total is None else total)


def score_per_sequence(task: Task, predicted: Float[Tensor, "T B K"], batch: Batch) -> Float[Tensor, " B"]:
    """The mean score, in the targets' metric, over the timesteps at which each sequence is asked."""
    per_step = task.targets.score(predicted, batch.targets)
    asked = batch.asked.to(per_step.dtype)
    return (per_step * asked).sum(0) / asked.sum(0)
