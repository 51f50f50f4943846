"""Sequences of real numbers, two of which are marked, as ``adding`` and ``multiplication`` have them.

Axes: T time, B batch. Feature 0 is the number, feature 1 the marker.
"""

from abc import abstractmethod

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ..signals import Batch, Reals
from .base import Task


class Marked(Task):
    """A task that asks for one number, made of the marked ones.

    ``variant``: hs97 and pascanu have sequences of several lengths; others have ``seq_len`` timesteps.
    """

    variant: str

    @property
    def inputs(self) -> Reals:
        return Reals(2)

    @property
    def targets(self) -> Reals:
        return Reals(1)

    @property
    def _padded(self) -> bool:
        return self.variant in ("hs97", "pascanu")

    def timesteps(self, seq_len: int) -> int:
        """A tenth more of hs97 and, without its last timestep, of pascanu."""
        return longest(self.variant, seq_len) if self._padded else seq_len

    @abstractmethod
    def answers(self, inputs: Float[Tensor, "T B 2"]) -> Float[Tensor, "B 1"]:
        """What a perfect memory answers at the end."""

    def solve(self, inputs: Float[Tensor, "T B 2"]) -> Float[Tensor, "T B 1"]:
        answers = self.answers(inputs)
        return answers.expand(len(inputs), *answers.shape)

    def asked(self, inputs: Float[Tensor, "T B 2"], asked: Bool[Tensor, "T B"]) -> Batch:
        """A batch with those questions."""
        return Batch(inputs, self.solve(inputs), asked.float(), asked)

    def lag(self, inputs: Float[Tensor, "T B 2"]) -> Int[Tensor, "T B"]:
        """To the first of the marked numbers that count."""
        steps = torch.arange(len(inputs))[:, None]
        return steps - (inputs[..., 1] == 1).int().argmax(0)

    def parse(self, text: str) -> Float[Tensor, "T 2"]:
        marks = {"*": 1.0, "|": -1.0}
        pairs = []
        for word in text.split():
            number, mark = (word[:-1], word[-1]) if word[-1] in marks else (word, "")
            try:
                pairs.append((0.0 if word == "-" else float(number), marks.get(mark, 0.0)))
            except ValueError:
                raise ValueError(
                    f"'{word}' is no number of task={self.name}: write 0.42, or 0.42* to mark it"
                ) from None
        if not pairs:
            raise ValueError("the text is empty")
        return torch.tensor(pairs)

    def unanswerable(self, inputs: Float[Tensor, "T 2"]) -> str | None:
        marked = int((inputs[:, 1] == 1).sum())
        if marked == 2 or (marked == 1 and self.variant == "hs97"):  # whose first mark may fall on the first pair
            return None
        return f"{marked} of its numbers are marked with *, task={self.name} needs two"

    def words(self, inputs: Float[Tensor, "T 2"]) -> list[str]:
        """``0.42``, marked ``0.42*``; in hs97 the first and the last pair are ``0.42|``; padding is ``-``."""
        marks = {0.0: "", 1.0: "*", -1.0: "|"}
        return [
            "-" if self._padded and number == marker == 0 else f"{number:.2f}{marks[marker]}"
            for number, marker in inputs.tolist()
        ]

    def answer(self, target: Float[Tensor, " 1"]) -> str:
        return f"{float(target):.2f}"


def longest(variant: str, seq_len: int) -> int:
    """The lengths of hs97 are drawn from U{L ... 1.1 L}, of pascanu 1.1 L itself is left out."""
    return seq_len + (seq_len // 10 if variant == "hs97" else max(1, seq_len // 10) - 1)


def sequences(
    variant: str, batch_size: int, seq_len: int, rng: torch.Generator, *, low: float = 0.0, instead: float = 0.0
) -> tuple[Float[Tensor, "T B 2"], Bool[Tensor, "T B"]]:
    """(inputs, where each sequence is asked, its own last timestep) of hs97 or pascanu.

    Args:
        low: of hs97 numbers are from U[low, 1].
        instead: of hs97 the first number where the first mark falls on it.
    """
    if variant == "hs97":
        return _hs97(batch_size, seq_len, rng, low, instead)
    rows, timesteps = torch.arange(batch_size), longest("pascanu", seq_len)
    length = torch.randint(seq_len, timesteps + 1, (batch_size,), generator=rng)
    draws = torch.rand(2, batch_size, generator=rng, dtype=torch.double)
    first = (draws[0] * (length // 10)).long()
    second = length // 10 + (draws[1] * (length * 2 // 5)).long()
    markers = torch.zeros(timesteps, batch_size)
    markers[first, rows] = markers[second, rows] = 1
    return _ended(torch.rand(timesteps, batch_size, generator=rng), markers, length - 1)


def _hs97(
    batch_size: int, seq_len: int, rng: torch.Generator, low: float, instead: float
) -> tuple[Float[Tensor, "T B 2"], Bool[Tensor, "T B"]]:
    rows, timesteps = torch.arange(batch_size), longest("hs97", seq_len)
    end = torch.randint(seq_len, timesteps + 1, (batch_size,), generator=rng) - 1
    numbers = (1 - low) * torch.rand(timesteps, batch_size, generator=rng) + low
    first = torch.randint(10, (batch_size,), generator=rng)
    # The second pair is one of 1 ... T/2 - 1 except the first: draw from a range one shorter and skip over it.
    excluded = (first >= 1) & (first < seq_len // 2)
    second = 1 + (torch.rand(batch_size, generator=rng) * (seq_len // 2 - 1 - excluded.long())).long()
    second += excluded & (second >= first)

    markers = torch.zeros(timesteps, batch_size)
    markers[first, rows] = markers[second, rows] = 1
    markers[0] = markers[end, rows] = -1
    numbers[0, first == 0] = instead
    return _ended(numbers, markers, end)


def _ended(
    numbers: Float[Tensor, "T B"], markers: Float[Tensor, "T B"], end: Int[Tensor, " B"]
) -> tuple[Float[Tensor, "T B 2"], Bool[Tensor, "T B"]]:
    inputs = torch.stack([numbers, markers], -1)
    steps = torch.arange(len(inputs))[:, None]
    inputs[steps > end] = 0
    return inputs, steps == end
