"""Inputs and targets of a model: tokens or real vectors, and batches of them.

Axes: T time, B batch, K classes or output features, D input features. Time comes first.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from math import log
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, _log_softmax_backward_data, nn  # pyright: ignore[reportPrivateImportUsage]

from .metrics import ACCURACY, BITS, LABELS, SQUARED_ERROR, Metric


def _correct(predicted: Float[Tensor, "T B K"], targets: Shaped[Tensor, "T B"]) -> Float[Tensor, "T B"]:
    return (predicted.argmax(-1) == targets).to(predicted.dtype)


def _nats(predicted: Float[Tensor, "T B K"], targets: Shaped[Tensor, "T B"]) -> Float[Tensor, "T B"]:
    return F.cross_entropy(predicted.flatten(0, 1), targets.flatten(), reduction="none").view(targets.shape)


def _bits(predicted: Float[Tensor, "T B K"], targets: Shaped[Tensor, "T B"]) -> Float[Tensor, "T B"]:
    return _nats(predicted, targets) / log(2)


def _squared_error(predicted: Float[Tensor, "T B K"], targets: Float[Tensor, "T B K"]) -> Float[Tensor, "T B"]:
    return (predicted - targets).square().mean(-1)


_PER_STEP: Mapping[Metric, Callable[[Tensor, Tensor], Tensor]] = {ACCURACY: _correct, BITS: _bits}


@runtime_checkable
class Signal(Protocol):
    """The type of a sequence: how it is embedded, and how predictions of it are decoded and scored."""

    @property
    def size(self) -> int:
        """K, the width of a readout that predicts it: the number of symbols, or of real features."""
        ...

    @property
    def discrete(self) -> bool:
        """True for symbols, predicted by one logit per symbol; False for real numbers."""
        ...

    @property
    def metric(self) -> Metric:
        """How to read a score: the mean of ``score`` over the asked timesteps."""
        ...

    def embed(self, width: int) -> tuple[nn.Module, int]:
        """A module from ``[T B ...]`` to ``[T B D]``, and D."""
        ...

    def decode(self, predicted: Float[Tensor, "*N K"]) -> Shaped[Tensor, "..."]:
        """Predictions in a target's form: the most likely symbol, or the predicted numbers themselves."""
        ...

    def loss(self, predicted: Float[Tensor, "T B K"], targets: Shaped[Tensor, "T B ..."]) -> Float[Tensor, "T B"]:
        """The loss of each timestep.

        It may depend on that timestep's prediction and target only: training skips timesteps without a weight.
        """
        ...

    def score(self, predicted: Float[Tensor, "T B K"], targets: Shaped[Tensor, "T B ..."]) -> Float[Tensor, "T B"]:
        """The score of each timestep, in the unit of ``metric``."""
        ...


class OneHot(nn.Module):
    """Tokens as unit vectors, for replicating published experiments."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("units", torch.eye(size), persistent=False)

    def forward(self, tokens: Int[Tensor, "T B"]) -> Float[Tensor, "T B D"]:
        return F.embedding(tokens, self.get_buffer("units"))


@dataclass(frozen=True)
class Tokens:
    """One of ``size`` symbols per timestep, stored as int64 ids in [0, size). ``metric``: ACCURACY or BITS."""

    size: int
    metric: Metric = ACCURACY

    @property
    def discrete(self) -> bool:
        return True

    def embed(self, width: int) -> tuple[nn.Module, int]:
        """A learned vector of ``width`` features per symbol; ``width=0`` is one-hot."""
        return (nn.Embedding(self.size, width), width) if width else (OneHot(self.size), self.size)

    def decode(self, predicted: Float[Tensor, "*N K"]) -> Int[Tensor, " *N"]:
        return predicted.argmax(-1)

    def loss(self, predicted: Float[Tensor, "T B K"], targets: Shaped[Tensor, "T B"]) -> Float[Tensor, "T B"]:
        """Cross-entropy in nats."""
        return _nats(predicted, targets)

    def score(self, predicted: Float[Tensor, "T B K"], targets: Shaped[Tensor, "T B"]) -> Float[Tensor, "T B"]:
        return _PER_STEP[self.metric](predicted, targets)


@dataclass(frozen=True)
class Reals:
    """A vector of ``size`` real numbers per timestep."""

    size: int
    metric: Metric = SQUARED_ERROR

    @property
    def discrete(self) -> bool:
        return False

    def embed(self, width: int) -> tuple[nn.Module, int]:
        """The identity: real numbers enter the cell directly, and ``width`` is ignored."""
        return nn.Identity(), self.size

    def decode(self, predicted: Float[Tensor, "*N K"]) -> Float[Tensor, "*N K"]:
        return predicted

    def loss(self, predicted: Float[Tensor, "T B K"], targets: Float[Tensor, "T B K"]) -> Float[Tensor, "T B"]:
        """Squared error, averaged over features."""
        return _squared_error(predicted, targets)

    def score(self, predicted: Float[Tensor, "T B K"], targets: Float[Tensor, "T B K"]) -> Float[Tensor, "T B"]:
        return self.loss(predicted, targets)


@dataclass(frozen=True)
class Labels:
    """Any of ``size`` labels per timestep: a vector of 1 for each that holds and 0 for the others."""

    size: int
    metric: Metric = LABELS

    @property
    def discrete(self) -> bool:
        """A vector of numbers, as real ones are."""
        return False

    def embed(self, width: int) -> tuple[nn.Module, int]:
        """The identity, as of real numbers."""
        return nn.Identity(), self.size

    def decode(self, predicted: Float[Tensor, "*N K"]) -> Float[Tensor, "*N K"]:
        """Each label that is more likely than not."""
        return (predicted > 0).to(predicted.dtype)

    def loss(self, predicted: Float[Tensor, "T B K"], targets: Float[Tensor, "T B K"]) -> Float[Tensor, "T B"]:
        """Binary cross-entropy in nats of the logits ``predicted``, averaged over labels."""
        return F.binary_cross_entropy_with_logits(predicted, targets, reduction="none").mean(-1)

    def score(self, predicted: Float[Tensor, "T B K"], targets: Float[Tensor, "T B K"]) -> Float[Tensor, "T B"]:
        """The share of labels that are right."""
        return (self.decode(predicted) == targets).to(predicted.dtype).mean(-1)


@dataclass(frozen=True)
class Several:
    """``count`` answers at once, each one of ``symbols``: as many unit vectors beside each other."""

    count: int
    symbols: int
    metric: Metric = ACCURACY

    @property
    def size(self) -> int:
        return self.count * self.symbols

    @property
    def discrete(self) -> bool:
        """A vector of numbers, as real ones are."""
        return False

    @property
    def uniform_loss(self) -> float:
        """The loss where all symbols are as likely."""
        return log(self.symbols)

    def embed(self, width: int) -> tuple[nn.Module, int]:
        """The identity, as of real numbers."""
        return nn.Identity(), self.size

    def _each(self, values: Float[Tensor, "*N K"]) -> Float[Tensor, "*N count symbols"]:
        return values.unflatten(-1, (self.count, self.symbols))

    def decode(self, predicted: Float[Tensor, "*N K"]) -> Float[Tensor, "*N K"]:
        """The likeliest symbol of each."""
        return F.one_hot(self._each(predicted).argmax(-1), self.symbols).flatten(-2).to(predicted.dtype)

    def loss(self, predicted: Float[Tensor, "T B K"], targets: Float[Tensor, "T B K"]) -> Float[Tensor, "T B"]:
        """Cross-entropy in nats, averaged over the answers."""
        return -(self._each(predicted).log_softmax(-1) * self._each(targets)).sum(-1).mean(-1)

    def score(self, predicted: Float[Tensor, "T B K"], targets: Float[Tensor, "T B K"]) -> Float[Tensor, "T B"]:
        """The share of answers that are right."""
        right = self._each(predicted).argmax(-1) == self._each(targets).argmax(-1)
        return right.to(predicted.dtype).mean(-1)


Gradient = Callable[[Tensor], Tensor]
"""From the weight of each timestep's loss, [T B], to the gradient of the weighted sum by the predictions, [T B K]."""


def loss_with_gradient(signal: Signal) -> Callable[[Tensor, Tensor], tuple[Tensor, Gradient]] | None:
    """``signal.loss`` together with its gradient in closed form, bit for bit autograd's. None: autograd is the way."""
    return _WITH_GRADIENT.get(type(signal))  # the exact class: a subclass may have another loss


def _nats_with_gradient(
    predicted: Float[Tensor, "T B K"], targets: Int[Tensor, "T B"]
) -> tuple[Float[Tensor, "T B"], Gradient]:
    logs, chosen = torch.log_softmax(predicted.flatten(0, 1), -1), targets.flatten()

    def gradient(weights: Float[Tensor, "T B"]) -> Float[Tensor, "T B K"]:
        # The functions that autograd calls. Targets of -100 are ignored, as in torch's cross-entropy.
        total = logs.new_zeros(())  # counts only for a mean
        by_logs = torch.ops.aten.nll_loss_backward.default(weights.flatten(), logs, chosen, None, 0, -100, total)
        return _log_softmax_backward_data(by_logs, logs, -1, logs.dtype).view_as(predicted)

    return F.nll_loss(logs, chosen, reduction="none").view(targets.shape), gradient


def _squared_error_with_gradient(
    predicted: Float[Tensor, "T B K"], targets: Float[Tensor, "T B K"]
) -> tuple[Float[Tensor, "T B"], Gradient]:
    error = predicted - targets
    return error.square().mean(-1), lambda weights: (weights / error.shape[-1]).unsqueeze(-1) * (2 * error)


_WITH_GRADIENT: Mapping[type, Callable[[Tensor, Tensor], tuple[Tensor, Gradient]]] = {
    Tokens: _nats_with_gradient, Reals: _squared_error_with_gradient,
}  # fmt: skip


@dataclass(frozen=True)
class Batch:
    """Sequences, their targets, and the timesteps that count.

    ``weights`` is each timestep's weight in the loss; ``asked`` marks the timesteps that are scored. They differ where
    a task trains on every timestep but measures memory at some (copy). Every sequence has an asked timestep.
    """

    inputs: Shaped[Tensor, "T B ..."]
    targets: Shaped[Tensor, "T B ..."]
    weights: Float[Tensor, "T B"]
    asked: Bool[Tensor, "T B"]

    @classmethod
    def asked_at_end(cls, inputs: Shaped[Tensor, "T B ..."], answer: Shaped[Tensor, "B ..."]) -> "Batch":
        """A batch with one question per sequence, at the last timestep."""
        return cls.all_asked_at_end(inputs[None], answer[None])[0]

    @classmethod
    def all_asked_at_end(cls, inputs: Shaped[Tensor, "N T B ..."], answers: Shaped[Tensor, "N B ..."]) -> "list[Batch]":
        """``asked_at_end`` for N batches of one size, which share one ``asked`` and one ``weights`` tensor."""
        asked = torch.zeros(inputs.shape[1:3], dtype=torch.bool)
        asked[-1] = True
        weights = asked.float()
        targets = answers[:, None].expand(-1, len(asked), *answers.shape[1:])
        return [cls(*pair, weights, asked) for pair in zip(inputs, targets, strict=True)]

    @classmethod
    def asked_everywhere(cls, inputs: Shaped[Tensor, "T B ..."], answers: Shaped[Tensor, "T B ..."]) -> "Batch":
        """A batch with a question at every timestep."""
        asked = torch.ones(inputs.shape[:2], dtype=torch.bool)
        return cls(inputs, answers, asked.float(), asked)

    @property
    def answered_at(self) -> Int[Tensor, " B"]:
        """The last asked timestep of each sequence."""
        steps = torch.arange(len(self.asked), device=self.asked.device)[:, None]
        return (self.asked * steps).amax(0)

    def last_answer_only(self) -> "Batch":
        """The same sequences with the whole loss at the last asked timestep."""
        last = F.one_hot(self.answered_at, len(self.asked)).T
        return replace(self, weights=last.to(self.weights.dtype))

    @property
    def weighted(self) -> slice:
        """The range from the first to the last timestep with a weight in the loss; all timesteps if none has one.

        Training skips the readout outside it. On a GPU this is a sync point, so call it on a CPU batch.
        """
        return _span(self.weights.ne(0))

    @property
    def counted(self) -> slice:
        """``weighted``, for timesteps that count in the loss or in the score. A sync point on a GPU, too."""
        return _span(self.weights.ne(0) | self.asked)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> "Batch":
        """The batch on ``device``, with real numbers in ``dtype``; itself if nothing changes. Token ids stay integers.

        Copies to a GPU go through page-locked (pinned) memory, so they are asynchronous.
        """
        destination = torch.device(device).type
        if destination == "cpu" and all(
            tensor.is_cpu and (dtype in (None, tensor.dtype) or not tensor.is_floating_point())
            for tensor in (self.inputs, self.targets, self.weights, self.asked)
        ):
            return self

        def move(tensor: Tensor) -> Tensor:
            new_dtype = dtype if tensor.is_floating_point() else None
            if tensor.device.type == "cpu" and destination not in ("cpu", "meta"):
                # contiguous: torch cannot pin a tensor that is expanded over time.
                return tensor.to(new_dtype or tensor.dtype).contiguous().pin_memory().to(device, non_blocking=True)
            # Copies to the CPU must block: the CPU would read memory that the GPU has not written yet.
            return tensor.to(device, new_dtype, non_blocking=destination != "cpu")

        return Batch(move(self.inputs), move(self.targets), move(self.weights), move(self.asked))

    @property
    def nbytes(self) -> int:
        """Size of the tensors in bytes. Targets expanded over time count in full, though they share memory."""
        return sum(tensor.nbytes for tensor in (self.inputs, self.targets, self.weights, self.asked))

    def part(self, start: int, stop: int) -> "Batch":
        """Timesteps ``start`` up to ``stop``, as views."""
        part = slice(start, stop)
        return Batch(self.inputs[part], self.targets[part], self.weights[part], self.asked[part])

    def sequences(self, start: int, stop: int) -> "Batch":
        """Sequences ``start`` up to ``stop``, as views."""
        part = slice(start, stop)
        return Batch(self.inputs[:, part], self.targets[:, part], self.weights[:, part], self.asked[:, part])

    def chosen(self, indices: Int[Tensor, " N"]) -> "Batch":
        """The sequences at these places, in this order, as copies."""
        return Batch(*(tensor[:, indices] for tensor in (self.inputs, self.targets, self.weights, self.asked)))

    def chunk(self, index: int, length: int) -> "Batch":
        """Timesteps ``index * length`` up to ``(index + 1) * length``."""
        return self.part(index * length, (index + 1) * length)


def _span(counting: Bool[Tensor, "T B"]) -> slice:
    """The range from the first to the last timestep with a true value; all timesteps if there is none."""
    steps = counting.any(1).nonzero()[:, 0].tolist()
    return slice(steps[0], steps[-1] + 1) if steps else slice(0, len(counting))
