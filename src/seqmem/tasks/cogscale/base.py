"""What the tasks of CogScale share: three sizes, and questions at some timesteps, which alone count in loss and score.

Of ``Symbolic`` tasks an input is a vector with a 1 for each of its features; silence is a zero vector, and nothing is
embedded. Answers are symbols. ``Numeric`` tasks read a number and ask for one.

Bendi-Ouis, De Coudenhove & Hinaut 2026, CogScale (arXiv 2605.19758), as in version 0.2.0 of their package.

Axes: T time, B batch, D features of an input.
"""

import re
from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from string import ascii_letters
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int, Shaped
from torch import Tensor

from ...cogscale import PUBLISHED, SIZES, Given
from ...signals import Batch, Reals, Signal, Tokens
from ..base import Task
from ..shown import numbers_of

TRIGGER = "!"
MARK = "*"
SILENCE = "."


@dataclass(frozen=True)
class CogScale(Task):
    """``size``: small, medium or large, as published; it fixes everything but the length."""

    size: str = "small"

    folder: ClassVar[str] = "cogscale"
    source: ClassVar[str] = "Bendi-Ouis et al. 2026"

    def __post_init__(self) -> None:
        if self.size not in SIZES:
            raise ValueError(f"size={self.size}: must be small, medium or large")

    @property
    def given(self) -> Given:
        """What the size fixes."""
        return PUBLISHED[self.name.removeprefix(f"{self.folder}_")][self.size]


@dataclass(frozen=True)
class Drawn(CogScale):
    """Subclasses draw inputs, say which timesteps ask, and answer these; the batch follows."""

    @abstractmethod
    def draw(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Float[Tensor, "T B D"]:
        """Inputs of a valid size."""

    @abstractmethod
    def asks(self, inputs: Float[Tensor, "T B D"]) -> Bool[Tensor, "T B"]:
        """The timesteps that ask."""

    def sample(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Batch:
        self.check(batch_size, seq_len)
        return self._asked(self.draw(batch_size, seq_len, rng))

    def _asked(self, inputs: Float[Tensor, "T B D"]) -> Batch:
        asked = self.asks(inputs)
        return Batch(inputs, self.solve(inputs), asked.float(), asked)

    def question(self, inputs: Float[Tensor, "T D"]) -> Batch:
        return self._asked(inputs[:, None])

    def unanswerable(self, inputs: Float[Tensor, "T D"]) -> str | None:
        if len(inputs) < self.min_seq_len:
            return super().unanswerable(inputs)
        return self.mistake(inputs)

    @abstractmethod
    def mistake(self, inputs: Float[Tensor, "T D"]) -> str | None:
        """Why one sequence, long enough, is none of the task's; None if it is one."""


@dataclass(frozen=True)
class Symbolic(Drawn):
    """Features that are there or not, and symbols as answers."""

    @property
    @abstractmethod
    def features(self) -> Sequence[str]:
        """The name of each input feature, in the order of the published inputs: letters, numbers or one other sign."""

    @property
    @abstractmethod
    def answers(self) -> Sequence[str]:
        """The name of each answer."""

    @property
    def inputs(self) -> Reals:
        return Reals(len(self.features))

    @property
    def targets(self) -> Signal:
        return Tokens(len(self.answers))

    def words(self, inputs: Float[Tensor, "T D"]) -> list[str]:
        """The names of a timestep's features in one word; ``.`` is silence."""
        words = ["" for _ in inputs]
        for t, feature in (inputs > 0.5).nonzero().tolist():
            words[t] += self.features[feature]
        return [word or SILENCE for word in words]

    def parse(self, text: str) -> Float[Tensor, "T D"]:
        words = text.split()
        if not words:
            raise ValueError("the text is empty")
        inputs = torch.zeros(len(words), len(self.features))
        places = {name: feature for feature, name in enumerate(self.features)}
        for row, word in zip(inputs, words, strict=True):
            for name in re.findall(r"\d+|\D", word) if word != SILENCE else ():
                if name not in places:
                    raise ValueError(f"'{word}' is no input of task={self.choice}: write {self._examples()}")
                row[places[name]] = 1
        return inputs

    def _examples(self) -> str:
        names = [name for name in self.features if name.isalnum()]
        signs = [name for name in self.features if not name.isalnum()]
        return ", ".join([f"{names[0]} ... {names[-1]}"] * bool(names) + [*signs, SILENCE])

    def answer(self, target: Int[Tensor, ""]) -> str:
        return self.answers[int(target)]


@dataclass(frozen=True)
class Numeric(Drawn):
    """Numbers, each asked for by itself."""

    @property
    def inputs(self) -> Reals:
        return Reals(1)

    @property
    def targets(self) -> Reals:
        return Reals(1)

    def words(self, inputs: Float[Tensor, "T 1"]) -> list[str]:
        return [f"{number:.2f}" for (number,) in inputs.tolist()]

    def parse(self, text: str) -> Float[Tensor, "T 1"]:
        return torch.tensor(numbers_of(text, self.choice))[:, None]

    def answer(self, target: Float[Tensor, " 1"]) -> str:
        return f"{float(target):.2f}"


def letters(symbols: int) -> str:
    """The names of so many symbols."""
    return ascii_letters[:symbols]


def one_hot(symbols: Int[Tensor, "N B"], seq_len: int, width: int) -> Float[Tensor, "T B D"]:
    """Symbols at the first N timesteps, each as a unit vector; then silence."""
    inputs = torch.zeros(seq_len, symbols.shape[1], width)
    inputs[: len(symbols)].scatter_(2, symbols[..., None], 1.0)
    return inputs


def last(count: int, inputs: Shaped[Tensor, "T B ..."]) -> Bool[Tensor, "T B"]:
    """True at the last ``count`` timesteps."""
    chosen = torch.zeros(inputs.shape[:2], dtype=torch.bool, device=inputs.device)
    chosen[len(inputs) - count :] = True
    return chosen


def at_end(answers: Shaped[Tensor, "N B ..."], seq_len: int) -> Shaped[Tensor, "T B ..."]:
    """Answers at the last N timesteps, zeros before."""
    targets = answers.new_zeros(seq_len, *answers.shape[1:])
    targets[seq_len - len(answers) :] = answers
    return targets
