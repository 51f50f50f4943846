"""What a memory task is.

Axes: T time, B batch. Time comes first.
"""

import difflib
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import log
from typing import ClassVar

import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from ..signals import Batch, Signal, Tokens


@dataclass(frozen=True)
class Naming:
    """Of a task whose answer is one of several that are named in the sequence, and that its last token asks for.

    Args:
        phrases: of every answer, the tokens that name it when they come in a row.
        asks: last token -> the answers it may mean.
    """

    phrases: Sequence[Sequence[int]]
    asks: Mapping[int, Sequence[int]]

    def meant(self, tokens: Sequence[int]) -> list[int]:
        """The answers that are named in the sequence, and that its last token may mean: one, if it is a good one."""
        *before, last = tokens
        return [answer for answer in self.asks.get(last, ()) if _occurs(self.phrases[answer], before)]


def _occurs(phrase: Sequence[int], tokens: Sequence[int]) -> bool:
    size = len(phrase)
    return any(list(phrase) == list(tokens[at : at + size]) for at in range(len(tokens) - size + 1))


class Task(ABC):
    """Sequences to read, a question that needs memory, and a perfect memory's answer.

    A subclass is a frozen dataclass whose fields are its options; a bad option raises ValueError.
    ``seq_len`` always counts timesteps that the model reads.
    """

    name: ClassVar[str]
    """As on the command line: ``task=NAME``."""

    source: ClassVar[str]
    """Author and year of the definition."""

    def __init_subclass__(cls, **arguments: object) -> None:
        super().__init_subclass__(**arguments)
        if "sample" in vars(cls) and "samples" not in vars(cls):
            cls.samples = Task.samples  # what it inherits would draw as another class does

    @property
    @abstractmethod
    def inputs(self) -> Signal: ...

    @property
    @abstractmethod
    def targets(self) -> Signal: ...

    @property
    @abstractmethod
    def chance(self) -> float:
        """Score (in the targets' metric) of the best answer by somebody without a memory."""

    @property
    @abstractmethod
    def min_seq_len(self) -> int:
        """The shortest valid ``seq_len``."""

    @property
    def max_seq_len(self) -> int | None:
        """The longest valid ``seq_len``, in training and on held-out data; None: there is none."""
        return None

    @property
    def solved_at(self) -> float | None:
        """The score from which on the task counts as solved; None where there is no such point."""
        return 0.99

    @property
    def chunks(self) -> int:
        """How many consecutive batches are one passage, with the state carried from each to the next (1: none)."""
        return 1

    def baseline_loss(self, seq_len: int) -> float:
        """Loss (nats or squared error) of the best answer by somebody without a memory; by default -ln chance."""
        return -log(self.chance)

    @abstractmethod
    def sample(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Batch:
        """A batch that is a function of the arguments alone, on the CPU.

        Raises:
            ValueError: ``seq_len`` is below ``min_seq_len``, or a size is not positive.
        """

    def samples(self, batch_size: int, seq_len: int, rngs: Sequence[torch.Generator]) -> list[Batch]:
        """What ``sample`` makes of each generator, bit for bit. Override only to go faster."""
        return [self.sample(batch_size, seq_len, rng) for rng in rngs]

    @abstractmethod
    def solve(self, inputs: Shaped[Tensor, "T B ..."]) -> Shaped[Tensor, "T B ..."]:
        """A perfect memory's answer at every timestep, from the inputs alone; right wherever a batch asks."""

    @abstractmethod
    def words(self, inputs: Shaped[Tensor, "T ..."]) -> list[str]:
        """One sequence in words or symbols, one for each timestep, for people to read."""

    @abstractmethod
    def answer(self, target: Shaped[Tensor, "..."]) -> str:
        """One target, or one prediction brought into a target's form, for people to read."""

    def parse(self, text: str) -> Shaped[Tensor, "T ..."]:
        """The inputs that people write so: what ``words`` makes of them, with spaces in between.

        Raises:
            ValueError: there is nothing in it, or something that the task has no word for.
        """
        if isinstance(self.inputs, Tokens):
            vocabulary = self.words(torch.arange(self.inputs.size))
            spelled = max(map(len, vocabulary)) == 1  # letters need no spaces between them
            return self._tokens([letter for letter in text if not letter.isspace()] if spelled else text.split())
        raise ValueError(f"the inputs of task={self.name} cannot be typed")

    def _tokens(self, written: Sequence[str]) -> Int[Tensor, " T"]:
        place = {word: token for token, word in enumerate(self.words(torch.arange(self.inputs.size)))}
        lower = {word.lower(): token for word, token in place.items()}
        found, unknown = [], {}
        for said in written:
            for word in (said, said.strip(",.;:!?\"'")):  # as it is first: ! and . are words of some tasks
                token = place.get(word, lower.get(word.lower()))
                if token is not None:
                    found.append(token)
                    break
            else:
                unknown[said] = difflib.get_close_matches(said.lower(), list(lower), 3, 0.5)
        if unknown:
            named = [f"'{word}'" + (f" (near: {', '.join(near)})" if near else "") for word, near in unknown.items()]
            raise ValueError(f"task={self.name} has no word {', '.join(named)}")
        if not found:
            raise ValueError("the text is empty")
        return torch.tensor(found)

    def question(self, inputs: Shaped[Tensor, "T ..."]) -> Batch:
        """One sequence that somebody made up, as a batch of one, with what this task asks about it."""
        return Batch.asked_at_end(inputs[:, None], self.solve(inputs[:, None])[-1])

    def naming(self) -> Naming | None:
        """How answers are named and asked for, where that is all there is to the task."""
        return None

    def asks_with_its_last(self, inputs: Shaped[Tensor, "T B ..."]) -> bool:
        """Whether the last timestep is the question and nothing else, so that to read it earlier is to ask earlier."""
        naming = self.naming()
        return naming is not None and all(token in naming.asks for token in inputs[-1].tolist())

    def unanswerable(self, inputs: Shaped[Tensor, "T ..."]) -> str | None:
        """Why ``solve`` has no right answer to one sequence that somebody made up; None: it has.

        Of a sequence from ``sample`` it always has.
        """
        naming = self.naming()
        if len(inputs) < self.min_seq_len:
            return f"it is {len(inputs)} long, task={self.name} needs {self.min_seq_len} timesteps"
        if naming is None:
            return None
        tokens = inputs.tolist()
        meant = [self.answer(torch.tensor(answer)) for answer in naming.meant(tokens)]
        if tokens[-1] not in naming.asks:
            asking = " or ".join(self.words(torch.tensor(list(naming.asks))))
            return f"it does not end with a question: {asking}"
        if len(meant) != 1:
            return f"it may mean {' or '.join(meant)}" if meant else "it names nobody who could be meant"
        return None

    def picture(self, inputs: Shaped[Tensor, "T ..."]) -> Float[Tensor, "rows columns"] | None:
        """What has been read so far, where it is a picture: 0 (blank) to 1, NaN where it has not been read yet.

        ``inputs``: of one sequence, as far as it has been read. None: the task has no pictures.
        """
        return None

    def held_out(self) -> "Task":
        """The task over data that training never sees; for data that are generated afresh, the task itself."""
        return self

    def check(self, batch_size: int, seq_len: int) -> None:
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: must be at least 1")
        if seq_len < self.min_seq_len:
            raise ValueError(f"seq_len={seq_len} is too short for task={self.name}: at least {self.min_seq_len}")
