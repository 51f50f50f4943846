"""What a memory task is. ``shown`` holds what people read and type.

Axes: T time, B batch. Time comes first.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from math import log
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Float, Int, Shaped
from torch import Tensor

from ..metrics import Plateau
from ..signals import Batch, Signal
from ..spaces import Space
from .automaton import Automaton, Problem
from .feedback import Feedback as Feedback
from .shown import Naming, alternatives, split_words, tokens_of


class Task(ABC):
    """Sequences to read, a question that needs memory, and the answer of a perfect memory.

    A subclass is a frozen dataclass whose fields are its options; an invalid option raises ValueError.
    ``seq_len`` always counts the timesteps that the model reads.
    """

    name: ClassVar[str]
    """The name of its runs' folder. On the command line ``task=NAME`` chooses it, unless it has a ``folder``."""

    folder: ClassVar[str] = ""
    """The folder of its file in ``conf/task``; its name begins so: ``task=FOLDER/REST`` chooses FOLDER_REST."""

    source: ClassVar[str]
    """Author and year of the definition."""

    def __init_subclass__(cls, **arguments: object) -> None:
        super().__init_subclass__(**arguments)
        if "sample" in vars(cls) and "samples" not in vars(cls):
            cls.samples = Task.samples  # an inherited ``samples`` would draw the parent's batches
        if "sample" in vars(cls) and "automaton" not in vars(cls):
            cls.automaton = Task.automaton  # the parent's has other sequences
        if "space" not in vars(cls):
            cls.space = Task.space  # the parent's is about the parent's sequences

    @property
    def choice(self) -> str:
        """What the command line writes after ``task=``."""
        return choice_of(self.name, self.folder)

    # ---- Data --------------------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def inputs(self) -> Signal: ...

    @property
    @abstractmethod
    def targets(self) -> Signal: ...

    @property
    @abstractmethod
    def min_seq_len(self) -> int:
        """The shortest valid ``seq_len``."""

    @property
    def max_seq_len(self) -> int | None:
        """The longest valid ``seq_len``, for training and for held-out data; None: unlimited."""
        return None

    def timesteps(self, seq_len: int) -> int:
        """The timesteps of a batch: more than ``seq_len`` where sequences are of that length or longer, and padded."""
        return seq_len

    @property
    def chunks(self) -> int:
        """How many consecutive batches form one passage, with the state carried from each to the next (1: none)."""
        return 1

    @abstractmethod
    def sample(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Batch:
        """Draw a batch on the CPU. It is a function of the arguments alone.

        Raises:
            ValueError: ``seq_len`` is below ``min_seq_len``, or a size is not positive.
        """

    def samples(self, batch_size: int, seq_len: int, rngs: Sequence[torch.Generator]) -> list[Batch]:
        """One batch per generator, bit for bit as ``sample`` draws it. Override only to go faster."""
        return [self.sample(batch_size, seq_len, rng) for rng in rngs]

    @abstractmethod
    def solve(self, inputs: Shaped[Tensor, "T B ..."]) -> Shaped[Tensor, "T B ..."]:
        """The answer of a perfect memory at every timestep, from the inputs alone; correct wherever a batch asks."""

    def lag(self, inputs: Shaped[Tensor, "T B ..."]) -> Int[Tensor, "T B"] | None:
        """How many timesteps before each question the earliest input stands that its answer needs.

        From the inputs alone and correct wherever a batch asks, like ``solve``. 0: the question itself tells the
        answer. None: an answer needs no particular inputs, as those about pictures and text.
        """
        return None

    def feedback(self) -> Feedback | None:
        """How answers come back as inputs; None: they do not."""
        return None

    def held_out(self) -> "Task":
        """This task over its test data, for final scores alone. Generated data: the task itself, split by ``space``."""
        return self

    def validation(self) -> "Task":
        """This task over data for evaluations during training; by default ``held_out``."""
        return self.held_out()

    def space(self, seq_len: int) -> Space:
        """How many sequences of this length there are. By default more than are ever drawn. A subclass has its own."""
        return Space()

    def fold(self, inputs: Shaped[Tensor, "T B ..."]) -> Int[Tensor, " B"]:
        """Which of the folds of ``space`` each sequence belongs to: a function of its content, on the CPU.

        By default the first: a space has one fold unless its task says otherwise.
        """
        return torch.zeros(inputs.shape[1], dtype=torch.long)

    def check(self, batch_size: int, seq_len: int) -> None:
        """Raise ValueError if ``sample`` cannot draw a batch of this size."""
        if batch_size < 1:
            raise ValueError(f"batch_size={batch_size}: must be at least 1")
        if seq_len < self.min_seq_len:
            raise ValueError(f"seq_len={seq_len} is too short for task={self.choice}: at least {self.min_seq_len}")

    def facts(self) -> Mapping[str, str]:
        """Name -> value of what else identifies the data, recorded with each run: scores compare only where it agrees.

        Generated data are defined by the options alone: empty.
        """
        return {}

    # ---- Scores ------------------------------------------------------------------------------------------------------

    @property
    @abstractmethod
    def chance(self) -> float:
        """Score (in the targets' metric) of the best answer without a memory: from the last input and its place alone.

        Where it depends on the length (``chance_at``), that of long sequences.
        """

    def chance_at(self, seq_len: int) -> float:
        """``chance`` at a length."""
        return self.chance

    @property
    def constant(self) -> float:
        """Score of the best constant answer, which sees nothing; by default the last input tells nothing, either."""
        return self.chance

    def constant_at(self, seq_len: int) -> float:
        """``constant`` at a length."""
        return self.constant

    def plateaus(self, seq_len: int) -> Sequence[Plateau]:
        """Scores of the best answers with a part of the memory that the task takes, the lowest first."""
        return ()

    @property
    def solved_at(self) -> float | None:
        """The score at which the task counts as solved; None if there is no such score."""
        return 0.99

    def baseline_loss(self, seq_len: int) -> float:
        """Loss (nats or squared error) of the best answer without a memory.

        By default -ln chance of symbols; of real numbers, whose score is their loss, chance itself.
        """
        chance = self.chance_at(seq_len)
        return -log(chance) if self.targets.discrete else chance

    # ---- For people --------------------------------------------------------------------------------------------------

    @abstractmethod
    def words(self, inputs: Shaped[Tensor, "T ..."]) -> list[str]:
        """One sequence in words or symbols, one per timestep."""

    @abstractmethod
    def answer(self, target: Shaped[Tensor, "..."]) -> str:
        """One target in words. A prediction can be passed too, in a target's form: see ``Signal.decode``."""

    def parse(self, text: str) -> Shaped[Tensor, "T ..."]:
        """The inputs of one typed sequence: the inverse of ``words``, joined by spaces.

        Raises:
            ValueError: the text is empty, contains a word that the task does not have, or the inputs cannot be typed.
        """
        if not self.inputs.discrete:
            raise ValueError(f"the inputs of task={self.choice} cannot be typed")
        return self._tokens(split_words(text, self._vocabulary()))

    def _tokens(self, words: Sequence[str]) -> Shaped[Tensor, " T"]:
        automaton = self.automaton()
        return tokens_of(words, self._vocabulary(), task=self.choice, occurring=automaton and automaton.tokens)

    def _vocabulary(self) -> list[str]:
        return self.words(torch.arange(self.inputs.size))

    def question(self, inputs: Shaped[Tensor, "T ..."]) -> Batch:
        """One typed sequence as a batch of one, with the question that this task asks about it."""
        return Batch.asked_at_end(inputs[:, None], self.solve(inputs[:, None])[-1])

    def naming(self) -> Naming | None:
        """How answers are named and queried; None if the task has another form."""
        return None

    def automaton(self) -> Automaton | None:
        """Which sequences of tokens the task has; None: it does not say."""
        return None

    def last_is_query(self, inputs: Shaped[Tensor, "T B ..."]) -> bool:
        """True if the last timestep is purely a query, so that feeding it at step t probes the state at t."""
        naming = self.naming()
        return naming is not None and all(token in naming.asks for token in inputs[-1].tolist())

    def unanswerable(self, inputs: Shaped[Tensor, "T ..."]) -> str | None:
        """Why one typed sequence has no correct answer from ``solve``, or is none of the task's; None if it has one.

        Sequences from ``sample`` always have one.
        """
        naming, automaton = self.naming(), self.automaton()
        tokens = inputs.tolist() if self.inputs.discrete else []
        candidates = naming.candidates(tokens) if naming is not None else []
        answers = [self.answer(torch.tensor(answer)) for answer in candidates]
        if len(answers) > 1:
            return f"it may mean {' or '.join(answers)}"
        problem = None if automaton is None else automaton.problem(tokens)
        if problem is not None and problem.at < len(tokens):
            return self._described(problem, tokens)
        if len(inputs) < self.min_seq_len:
            return f"it is {len(inputs)} long, task={self.choice} needs {self.min_seq_len} timesteps"
        if naming is None:
            return None if problem is None else "it stops too early"
        if tokens[-1] not in naming.asks:
            queries = " or ".join(self.words(torch.tensor(list(naming.asks))))
            return f"it does not end with a question: {queries}"
        return None if answers else "it names none who could be meant"

    def _described(self, problem: Problem, tokens: Sequence[int]) -> str:
        """Where a sequence is none of the task's, and what could stand there."""
        word = self.words(torch.tensor([tokens[problem.at]]))[0]
        at = f"word {problem.at + 1} is '{word}'"
        if problem.latest is not None:
            return f"{at}: of {len(tokens)} words it is number {problem.latest + 1} at the latest"
        expected = self.words(torch.tensor(problem.expected))
        return f"{at}: there task={self.choice} has {alternatives(expected)}"

    def picture(self, inputs: Shaped[Tensor, "T ..."]) -> Float[Tensor, "rows columns"] | None:
        """The part of a picture that ``inputs``, the start of one sequence, show; None if the task has no pictures.

        Values: 0 (blank) to 1; NaN for pixels not read yet.
        """
        return None


def choice_of(name: str, folder: str) -> str:
    """What the command line writes after ``task=`` for a task of this name and folder."""
    return f"{folder}/{name.removeprefix(f'{folder}_')}" if folder else name


def content_hash(inputs: Int[Tensor, "T B"]) -> Int[Tensor, " B"]:
    """A number of 31 bits for each sequence of tokens: the same on every machine, in every run and version."""
    values = inputs.numpy().astype(np.uint64)  # negative tokens wrap around
    place = _mixed(np.arange(1, len(values) + 1, dtype=np.uint64) * np.uint64(0x9E3779B97F4A7C15))
    mixed = _mixed(_mixed(values + place[:, None]).sum(0, dtype=np.uint64))
    return torch.from_numpy((mixed >> np.uint64(33)).astype(np.int64))


def _mixed(values: np.ndarray) -> np.ndarray:
    """The finalizer of SplitMix64 (Steele, Lea & Flood 2014), modulo 2^64."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))
