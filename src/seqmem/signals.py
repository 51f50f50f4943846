"""What goes into a model and what is asked of it: tokens or real vectors, and a batch of them.

Axes: T time, B batch, K classes or output features, D input features. Time comes first.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import log
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor, nn


def _right(predicted: Float[Tensor, "T B K"], wanted: Shaped[Tensor, "T B"]) -> Float[Tensor, "T B"]:
    return (predicted.argmax(-1) == wanted).to(predicted.dtype)


def _nats(predicted: Float[Tensor, "T B K"], wanted: Shaped[Tensor, "T B"]) -> Float[Tensor, "T B"]:
    return F.cross_entropy(predicted.flatten(0, 1), wanted.flatten(), reduction="none").view(wanted.shape)


def _bits(predicted: Float[Tensor, "T B K"], wanted: Shaped[Tensor, "T B"]) -> Float[Tensor, "T B"]:
    return _nats(predicted, wanted) / log(2)


def _squared_error(predicted: Float[Tensor, "T B K"], wanted: Float[Tensor, "T B K"]) -> Float[Tensor, "T B"]:
    return (predicted - wanted).square().mean(-1)


@dataclass(frozen=True)
class Metric:
    """What a score is: how one answer is scored, and how to read the number.

    ``per_step(predicted [T B K], wanted [T B ...]) -> [T B]``; a score is its mean over the timesteps asked.
    """

    name: str
    higher_is_better: bool
    per_step: Callable[[Tensor, Tensor], Tensor]

    def better(self, a: float, b: float) -> bool:
        return a > b if self.higher_is_better else a < b

    def reached(self, score: float, goal: float) -> bool:
        return score >= goal if self.higher_is_better else score <= goal

    def text(self, score: float) -> str:
        """The score as people write it: ``99.2 %`` for an accuracy, four significant digits otherwise."""
        return f"{100 * score:.1f} %" if self.name == "accuracy" else f"{score:.4g}"


ACCURACY = Metric("accuracy", higher_is_better=True, per_step=_right)
BITS = Metric("bits per character", higher_is_better=False, per_step=_bits)
SQUARED_ERROR = Metric("mean squared error", higher_is_better=False, per_step=_squared_error)


@runtime_checkable
class Signal(Protocol):
    """A kind of sequence: how it enters a model, and how a prediction of it is judged."""

    @property
    def size(self) -> int:
        """Symbols for tokens, features for reals: the width of a readout that predicts it."""
        ...

    @property
    def metric(self) -> Metric: ...

    def embed(self, width: int) -> tuple[nn.Module, int]:
        """A module from ``[T B ...]`` to ``[T B D]``, and D."""
        ...

    def loss(self, predicted: Float[Tensor, "T B K"], wanted: Shaped[Tensor, "T B ..."]) -> Float[Tensor, "T B"]:
        """Each timestep's from its own prediction and target alone: training leaves out timesteps without a weight."""
        ...


class OneHot(nn.Module):
    """Tokens as unit vectors, for tasks repeated as they were published."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("units", torch.eye(size), persistent=False)

    def forward(self, tokens: Int[Tensor, "T B"]) -> Float[Tensor, "T B D"]:
        return F.embedding(tokens, self.get_buffer("units"))


@dataclass(frozen=True)
class Tokens:
    """One of ``size`` symbols per timestep, stored as int64 ids in [0, size)."""

    size: int
    metric: Metric = ACCURACY

    def embed(self, width: int) -> tuple[nn.Module, int]:
        """A learned vector of ``width`` features per symbol; ``width=0`` is one-hot."""
        return (nn.Embedding(self.size, width), width) if width else (OneHot(self.size), self.size)

    def loss(self, predicted: Float[Tensor, "T B K"], wanted: Shaped[Tensor, "T B"]) -> Float[Tensor, "T B"]:
        """Cross-entropy in nats."""
        return _nats(predicted, wanted)


@dataclass(frozen=True)
class Reals:
    """A vector of ``size`` real numbers per timestep."""

    size: int
    metric: Metric = SQUARED_ERROR

    def embed(self, width: int) -> tuple[nn.Module, int]:
        """Real numbers enter the cell as they are, whatever ``width`` says."""
        return nn.Identity(), self.size

    def loss(self, predicted: Float[Tensor, "T B K"], wanted: Float[Tensor, "T B K"]) -> Float[Tensor, "T B"]:
        """Squared error, averaged over features."""
        return _squared_error(predicted, wanted)


@dataclass(frozen=True)
class Batch:
    """Sequences and what is asked of them.

    ``weights`` says how much each timestep counts in the loss, ``asked`` which timesteps are scored. They differ
    where a task trains on every step but measures memory at some (copy). Every sequence is asked at least once.
    """

    inputs: Shaped[Tensor, "T B ..."]
    targets: Shaped[Tensor, "T B ..."]
    weights: Float[Tensor, "T B"]
    asked: Bool[Tensor, "T B"]

    @classmethod
    def asked_at_end(cls, inputs: Shaped[Tensor, "T B ..."], answer: Shaped[Tensor, "B ..."]) -> "Batch":
        """One question a sequence, at its last timestep."""
        return cls.all_asked_at_end(inputs[None], answer[None])[0]

    @classmethod
    def all_asked_at_end(cls, inputs: Shaped[Tensor, "N T B ..."], answers: Shaped[Tensor, "N B ..."]) -> "list[Batch]":
        """The same for N batches of one size. When they are asked is written down once for all."""
        asked = torch.zeros(inputs.shape[1:3], dtype=torch.bool)
        asked[-1] = True
        weights = asked.float()
        spread = answers[:, None].expand(-1, len(asked), *answers.shape[1:])
        return [cls(*both, weights, asked) for both in zip(inputs, spread, strict=True)]

    @property
    def answered_at(self) -> Int[Tensor, " B"]:
        """The last timestep at which each sequence is asked."""
        steps = torch.arange(len(self.asked), device=self.asked.device)[:, None]
        return (self.asked * steps).amax(0)

    def last_answer_only(self) -> "Batch":
        """The same sequences with a loss at the last asked timestep alone."""
        last = F.one_hot(self.answered_at, len(self.asked)).T
        return replace(self, weights=last.to(self.weights.dtype))

    @property
    def weighted(self) -> slice:
        """From the first timestep that counts in the loss to the last; all of them where none does.

        Every timestep outside can be left out of the loss. Ask a batch on the CPU: on a GPU this waits for it.
        """
        return _span(self.weights.ne(0))

    @property
    def counted(self) -> slice:
        """The same for what counts in the loss or in the score."""
        return _span(self.weights.ne(0) | self.asked)

    def to(self, device: torch.device | str, dtype: torch.dtype | None = None) -> "Batch":
        """The batch on ``device``, itself where it is there already; real numbers become ``dtype``, token ids stay
        integers. From the CPU to a GPU it goes by page-locked memory, so that nobody waits for the copy."""
        goal = torch.device(device).type
        if goal == "cpu" and all(
            tensor.is_cpu and (dtype in (None, tensor.dtype) or not tensor.is_floating_point())
            for tensor in (self.inputs, self.targets, self.weights, self.asked)
        ):
            return self

        def move(tensor: Tensor) -> Tensor:
            kind = dtype if tensor.is_floating_point() else None
            if tensor.device.type == "cpu" and goal not in ("cpu", "meta"):
                # contiguous: of a tensor that is expanded over time torch cannot make a page-locked copy.
                return tensor.to(kind or tensor.dtype).contiguous().pin_memory().to(device, non_blocking=True)
            # Never without waiting to the CPU: it would read the copy before a GPU has written it.
            return tensor.to(device, kind, non_blocking=goal != "cpu")

        return Batch(move(self.inputs), move(self.targets), move(self.weights), move(self.asked))

    @property
    def nbytes(self) -> int:
        """Of memory; more than it takes where an answer is expanded over time."""
        return sum(tensor.nbytes for tensor in (self.inputs, self.targets, self.weights, self.asked))

    def part(self, start: int, stop: int) -> "Batch":
        """Timesteps ``start`` up to ``stop``, as views."""
        part = slice(start, stop)
        return Batch(self.inputs[part], self.targets[part], self.weights[part], self.asked[part])

    def sequences(self, start: int, stop: int) -> "Batch":
        """Sequences ``start`` up to ``stop``, as views."""
        part = slice(start, stop)
        return Batch(self.inputs[:, part], self.targets[:, part], self.weights[:, part], self.asked[:, part])

    def chunk(self, index: int, length: int) -> "Batch":
        """Timesteps ``index * length`` up to ``(index + 1) * length``."""
        return self.part(index * length, (index + 1) * length)


def _span(counting: Bool[Tensor, "T B"]) -> slice:
    """From the first timestep at which anything is true to the last; all of them where nothing is."""
    steps = counting.any(1).nonzero()[:, 0].tolist()
    return slice(steps[0], steps[-1] + 1) if steps else slice(0, len(counting))
