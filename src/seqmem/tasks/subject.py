"""Who was the sentence about?

    Bob and the walked to store WHO? -> Bob
    ~~~                         ~~~~
    one of six subjects opens, any number of the six filler words follow, a
    trigger asks for the subject

Subject and fillers are drawn uniformly and the trigger is always the same: chance is 1/6, ln 6 = 1.7918 nats.
With n fillers a sentence has n + 2 timesteps. The published demo trains on 2 to 5 fillers (``lengths=uniform
shortest=4 seq_len=7``) with one-hot tokens, and asks at up to 22.

After chapter 08-rnn of rnilav's perceptrons-to-transformers, whose words and token ids these are.
"""

from dataclasses import dataclass
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from .. import spaces
from ..signals import Batch, Tokens
from .automaton import Automaton
from .base import Task
from .shown import Naming

SUBJECTS = "Alice Bob Carol David Emma Frank".split()
FILLERS = "walked to the store and bought".split()
WORDS = [*SUBJECTS, *FILLERS, "WHO?"]


@dataclass(frozen=True)
class Subject(Task):
    """13 tokens: 0 to 5 subjects, 6 to 11 fillers, 12 the trigger. No options."""

    name: ClassVar[str] = "subject"
    source: ClassVar[str] = "rnilav, perceptrons-to-transformers, 08-rnn"

    @property
    def inputs(self) -> Tokens:
        return Tokens(len(WORDS))

    @property
    def targets(self) -> Tokens:
        return Tokens(len(SUBJECTS))

    @property
    def chance(self) -> float:
        return 1 / len(SUBJECTS)

    @property
    def min_seq_len(self) -> int:
        return 2

    def sample(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Batch:
        self.check(batch_size, seq_len)
        fillers = (len(SUBJECTS), len(SUBJECTS) + len(FILLERS))
        words = torch.randint(*fillers, (seq_len, batch_size), generator=rng)
        words[0] = torch.randint(len(SUBJECTS), (batch_size,), generator=rng)
        words[-1] = WORDS.index("WHO?")
        return Batch.asked_at_end(words, words[0].clone())

    def space(self, seq_len: int) -> spaces.Space:
        return spaces.subject(seq_len)

    def fold(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, " B"]:
        """Each subject once in six: whatever the fillers are, one of the subjects completes a sum to the fold."""
        return inputs[:-1].sum(0) % len(SUBJECTS)

    def solve(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "T B"]:
        return inputs[0].expand(inputs.shape)

    def lag(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "T B"]:
        return torch.arange(len(inputs))[:, None].expand(inputs.shape)

    def naming(self) -> Naming:
        """Any one subject in the sentence. ``solve`` takes the first token; in a valid sentence they agree."""
        subjects = range(len(SUBJECTS))
        return Naming([[subject] for subject in subjects], {WORDS.index("WHO?"): subjects})

    def automaton(self) -> Automaton:
        subjects, fillers = range(len(SUBJECTS)), range(len(SUBJECTS), len(SUBJECTS) + len(FILLERS))
        return Automaton([subjects, fillers, [WORDS.index("WHO?")]], [[(0, 1)], [(1, 1), (2, 2)], []], {2})

    def words(self, inputs: Int[Tensor, " T"]) -> list[str]:
        return [WORDS[i] for i in inputs.tolist()]

    def answer(self, target: Int[Tensor, ""]) -> str:
        return SUBJECTS[int(target)]
