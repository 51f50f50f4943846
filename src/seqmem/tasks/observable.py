"""The observable twin of a task: the same sequences, but every question shows its answer.

    task         Bob and the walked to store WHO? -> Bob
    observable   Bob and the walked to store =Bob -> Bob

A model that fails on the task and not on its twin cannot remember; one that fails on both cannot decide, read its
inputs or be trained. The idea is that of control conditions in bsuite (Osband et al. 2020).

Axes: T time, B batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Int, Shaped
from torch import Tensor

from ..metrics import Plateau
from ..signals import Batch, Reals, Signal, Tokens
from .base import Task


@dataclass(frozen=True)
class Observable(Task):
    """``task`` with its answers shown where it asks.

    Of symbols, a question's token is replaced by one that stands for the answer: token ``task.inputs.size`` + k shows
    answer k. Real inputs have further features: 1 where it asks, then the answer (one-hot, or the numbers), else 0.

    ``chance``, ``plateaus`` and ``solved_at`` are the task's, so that scores of the two compare: a model without a
    memory should solve the twin.

    Raises:
        ValueError: the task's answers are its next inputs, which show them anyway; or its inputs are symbols and its
            answers are none, so that no symbol shows them.
    """

    task: Task

    name: ClassVar[str] = "observable"
    source: ClassVar[str] = "seqmem, after Osband et al. 2020"

    def __post_init__(self) -> None:
        if self.task.feedback() is not None:
            raise ValueError(f"observable=true: in task={self.task.choice} each answer is the next input; use false")
        if self.task.inputs.discrete and not self.task.targets.discrete:
            raise ValueError(f"observable=true: in task={self.task.choice} no symbol shows an answer; use false")
        object.__setattr__(self, "name", self.task.name)  # for messages
        object.__setattr__(self, "folder", self.task.folder)

    @property
    def inputs(self) -> Signal:
        if self.task.inputs.discrete:
            return Tokens(self.task.inputs.size + self.task.targets.size)
        return Reals(self.task.inputs.size + 1 + self.task.targets.size)

    @property
    def targets(self) -> Signal:
        return self.task.targets

    @property
    def min_seq_len(self) -> int:
        return self.task.min_seq_len

    @property
    def max_seq_len(self) -> int | None:
        return self.task.max_seq_len

    @property
    def chunks(self) -> int:
        return self.task.chunks

    def sample(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Batch:
        return self.shown(self.task.sample(batch_size, seq_len, rng))

    def samples(self, batch_size: int, seq_len: int, rngs: Sequence[torch.Generator]) -> list[Batch]:
        return [self.shown(batch) for batch in self.task.samples(batch_size, seq_len, rngs)]

    def shown(self, batch: Batch) -> Batch:
        """A batch of the task with its answers among the inputs."""
        if self.task.inputs.discrete:
            return replace(batch, inputs=torch.where(batch.asked, batch.targets + self.task.inputs.size, batch.inputs))
        asked = batch.asked[..., None].to(batch.inputs.dtype)
        answers = F.one_hot(batch.targets, self.task.targets.size) if self.task.targets.discrete else batch.targets
        return replace(batch, inputs=torch.cat([batch.inputs, asked, asked * answers], -1))

    def hidden(self, inputs: Shaped[Tensor, "T B ..."]) -> Shaped[Tensor, "T B ..."]:
        """The task's inputs. Of symbols those of the questions are lost: the first stands there."""
        size = self.task.inputs.size
        return inputs.masked_fill(inputs >= size, 0) if self.task.inputs.discrete else inputs[..., :size]

    def solve(self, inputs: Shaped[Tensor, "T B ..."]) -> Shaped[Tensor, "T B ..."]:
        size = self.task.inputs.size
        hidden = self.task.solve(self.hidden(inputs))
        if self.task.inputs.discrete:
            return torch.where(inputs >= size, inputs - size, hidden)
        shown = inputs[..., size + 1 :]
        answers = shown.argmax(-1) if self.task.targets.discrete else shown
        asked = inputs[..., size] > 0
        return torch.where(asked if self.task.targets.discrete else asked[..., None], answers, hidden)

    def lag(self, inputs: Shaped[Tensor, "T B ..."]) -> Int[Tensor, "T B"]:
        return torch.zeros(inputs.shape[:2], dtype=torch.long)

    def held_out(self) -> Task:
        return self._with(self.task.held_out())

    def validation(self) -> Task:
        return self._with(self.task.validation())

    def _with(self, task: Task) -> Task:
        return self if task is self.task else Observable(task)

    def facts(self) -> Mapping[str, str]:
        return self.task.facts()

    @property
    def chance(self) -> float:
        return self.task.chance

    def chance_at(self, seq_len: int) -> float:
        return self.task.chance_at(seq_len)

    @property
    def constant(self) -> float:
        return self.task.constant

    def constant_at(self, seq_len: int) -> float:
        return self.task.constant_at(seq_len)

    def plateaus(self, seq_len: int) -> Sequence[Plateau]:
        return self.task.plateaus(seq_len)

    @property
    def solved_at(self) -> float | None:
        return self.task.solved_at

    def baseline_loss(self, seq_len: int) -> float:
        return self.task.baseline_loss(seq_len)

    def words(self, inputs: Shaped[Tensor, "T ..."]) -> list[str]:
        """``=answer`` where it is shown."""
        size = self.task.inputs.size
        if self.task.inputs.discrete:
            words = self.task.words(inputs.clamp(max=size - 1))
            return [
                word if token < size else f"={self.task.answer(torch.tensor(token - size))}"
                for word, token in zip(words, inputs.tolist(), strict=True)
            ]
        answers = inputs[..., size + 1 :]
        targets = answers.argmax(-1) if self.task.targets.discrete else answers
        return [
            f"{word}={self.task.answer(target)}" if asked else word
            for word, asked, target in zip(
                self.task.words(inputs[..., :size]), inputs[..., size].tolist(), targets, strict=True
            )
        ]

    def answer(self, target: Shaped[Tensor, "..."]) -> str:
        return self.task.answer(target)

    def question(self, inputs: Shaped[Tensor, "T ..."]) -> Batch:
        size = self.task.inputs.size
        shown = inputs >= size if self.task.inputs.discrete else inputs[:, size] > 0
        asked = shown[:, None] if bool(shown.any()) else F.one_hot(torch.tensor([len(inputs) - 1]), len(inputs)).T > 0
        return Batch(inputs[:, None], self.solve(inputs[:, None]), asked.float(), asked)

    def unanswerable(self, inputs: Shaped[Tensor, "T ..."]) -> str | None:
        size = self.task.inputs.size
        shown = inputs >= size if self.task.inputs.discrete else inputs[:, size] > 0
        return None if bool(shown.any()) else "its last timestep does not show the answer: write =ANSWER"
