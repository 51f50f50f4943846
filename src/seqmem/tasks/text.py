"""Which character comes next?

    The "while" statement is used for repeated execution as lon -> g
    every timestep reads a character of English prose and is asked for the
    following one

The text is Python's documentation of its own language, ``pydoc_data.topics``, part of every Python: some 400,000
characters, which **differ between versions of Python** (compare ``corpus_sha256()``). The topics are joined in the
order of their names. Typographic quotes and dashes become ASCII, any other character a question mark. Topics quote each
other at length, so repeated paragraphs are dropped. Training reads the first 80 %; the next 10 % is for evaluations
during training, the last 10 % for the final scores alone. The parts share no passage of 100 characters.

Text is no pure test of memory: the last few characters predict most of the next one. It shows what memory is worth on
real sequences. ``chance`` is the best score from the last input alone: bits per character of the test part by the
training part's frequencies of pairs (a bigram). ``constant`` is that by its frequencies of single characters.

Next-character prediction after Sutskever, Martens & Hinton 2011, Generating text with recurrent neural networks.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from functools import lru_cache
from hashlib import sha256
from math import log
from typing import ClassVar

import torch
from jaxtyping import Int
from torch import Tensor

from ..signals import BITS, Batch, Tokens
from .base import Task

# Fixed, so that a model trained under one version of Python fits the text of another.
ALPHABET = "\n" + "".join(map(chr, range(ord(" "), ord("~") + 1)))
_ASCII = str.maketrans({"‘": "'", "’": "'", "“": '"', "”": '"', "–": "-", "—": "-", "…": "..."})


@lru_cache
def corpus() -> str:
    """The whole text, in characters of ``ALPHABET``."""
    from pydoc_data.topics import topics  # imported here: half a megabyte, and only this task needs it

    raw = "\n\n".join(topics[name] for name in sorted(topics)).translate(_ASCII)
    text = "".join(c if c in ALPHABET else "?" for c in raw)
    # Compare paragraphs without white space: quotations differ at most in indentation and line breaks.
    unique: dict[str, str] = {}
    for paragraph in text.split("\n\n"):
        unique.setdefault(" ".join(paragraph.split()), paragraph.strip("\n"))
    unique.pop("", None)
    return "\n\n".join(unique.values())


def corpus_sha256() -> str:
    """The hash of this Python's text: scores compare only where it agrees."""
    return sha256(corpus().encode()).hexdigest()


@lru_cache
def _parts() -> tuple[str, str, str]:
    """Training, validation and test part, without the paragraphs of one that share a passage with a later one."""
    first, second = len(corpus()) * 8 // 10, len(corpus()) * 9 // 10
    training, validation, test = corpus()[:first], corpus()[first:second], corpus()[second:]
    validation = without_shared(validation, test)
    return without_shared(training, f"{validation}\n\n{test}"), validation, test


SHARED = 100
"""Characters of a passage that two parts must not share."""


def without_shared(text: str, other: str) -> str:
    """``text`` without its paragraphs that share a passage of SHARED characters with ``other``."""
    half = SHARED // 2
    # Every passage of SHARED characters contains a piece of half as many that begins at a multiple of half.
    pieces: dict[str, list[int]] = {}
    for start in range(0, len(text) - half + 1, half):
        pieces.setdefault(text[start : start + half], []).append(start)
    shared = {
        start
        for at in range(len(other) - half + 1)
        for start in pieces.get(other[at : at + half], ())
        if _shared_around(text, start, other, at) >= SHARED
    }
    if not shared:
        return text
    kept, begin = [], 0
    for paragraph in text.split("\n\n"):
        end = begin + len(paragraph)
        if not any(begin - half < start < end for start in shared):
            kept.append(paragraph)
        begin = end + 2
    return "\n\n".join(kept)


def _shared_around(text: str, start: int, other: str, at: int) -> int:
    """The length of what the texts share around ``text[start]`` and ``other[at]``."""
    before = after = 0
    while before < min(start, at) and text[start - before - 1] == other[at - before - 1]:
        before += 1
    while after < min(len(text) - start, len(other) - at) and text[start + after] == other[at + after]:
        after += 1
    return before + after


@lru_cache
def _encoded(text: str) -> Int[Tensor, " N"]:
    token = {character: i for i, character in enumerate(ALPHABET)}
    return torch.tensor([token[character] for character in text])


@lru_cache
def _without_memory() -> tuple[float, float]:
    """Nats per character of the test part, predicted by the training part's frequencies of characters and of pairs.

    Every pair counts a tenth more than it occurs, which suits the validation part best.
    """
    size = len(ALPHABET)
    counts, tested = (
        torch.bincount(text[:-1] * size + text[1:], minlength=size**2).double().view(size, size)
        for text in (_encoded(_parts()[0]), _encoded(_parts()[2]))
    )
    pairs, single = ((some + 0.1).log() - (some + 0.1).sum(-1, keepdim=True).log() for some in (counts, counts.sum(0)))
    return -float((tested * single).sum() / tested.sum()), -float((tested * pairs).sum() / tested.sum())


@dataclass(frozen=True)
class Text(Task):
    """``chunks``: how many batches of ``seq_len`` timesteps form one passage.

    Training reads a passage in order, with the state carried from chunk to chunk.
    """

    chunks: int = 10  # pyright: ignore[reportIncompatibleMethodOverride]  (a frozen field reads as a property does)

    name: ClassVar[str] = "text"
    source: ClassVar[str] = "Python's documentation (pydoc_data.topics), as next-character prediction"

    def __post_init__(self) -> None:
        if self.chunks < 1:
            raise ValueError(f"chunks={self.chunks}: must be at least 1")

    @property
    def inputs(self) -> Tokens:
        return Tokens(len(ALPHABET), BITS)

    @property
    def targets(self) -> Tokens:
        return Tokens(len(ALPHABET), BITS)

    @property
    def chance(self) -> float:
        return _without_memory()[1] / log(2)

    @property
    def constant(self) -> float:
        return _without_memory()[0] / log(2)

    @property
    def solved_at(self) -> None:
        return None

    @property
    def min_seq_len(self) -> int:
        return 1

    @property
    def max_seq_len(self) -> int:
        training, validation, test = _parts()
        return min((len(training) - 1) // self.chunks, len(validation) - 1, len(test) - 1)

    def baseline_loss(self, seq_len: int) -> float:
        return _without_memory()[1]

    def facts(self) -> Mapping[str, str]:
        """Python's versions carry different texts."""
        return {"corpus_sha256": corpus_sha256()}

    @property
    def _part(self) -> str:
        return _parts()[0]

    def validation(self) -> "Text":
        return _Validation(**{field.name: getattr(self, field.name) for field in fields(self)})

    def held_out(self) -> "Text":
        return _Test(**{field.name: getattr(self, field.name) for field in fields(self)})

    def sample(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Batch:
        """``seq_len`` consecutive characters from random places, each asked for the one that follows it.

        Raises:
            ValueError: as in every task, or the text is shorter than such a passage.
        """
        self.check(batch_size, seq_len)
        text = _encoded(self._part)
        if seq_len >= len(text):
            raise ValueError(
                f"a passage of {seq_len} timesteps is too long for task={self.name}: at most {len(text) - 1}"
                f" (training reads seq_len * chunks, with chunks={self.chunks})"
            )
        start = torch.randint(len(text) - seq_len, (batch_size,), generator=rng)
        passage = text[torch.arange(seq_len + 1)[:, None] + start]
        asked = torch.ones(seq_len, batch_size, dtype=torch.bool)
        return Batch(passage[:-1], passage[1:], asked.float(), asked)

    def solve(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "T B"]:
        """The next input; after the last one, the character that follows the passage in the text.

        A passage that occurs more than once may continue differently than at its first occurrence, which is used here;
        fewer than one in a thousand passages of 300 characters does. After a passage that does not occur: a space.
        """
        text = self._part
        last = []
        for column in inputs.T.tolist():
            passage = "".join(ALPHABET[i] for i in column)
            start = text.find(passage, 0, len(text) - 1)  # -1: a character must follow
            last.append(ALPHABET.index(text[start + len(passage)] if start >= 0 else " "))
        return torch.cat([inputs[1:], torch.tensor([last]).to(inputs)])

    def parse(self, text: str) -> Int[Tensor, " T"]:
        return self._tokens(["\\n" if c == "\n" else c for c in text])

    def question(self, inputs: Int[Tensor, " T"]) -> Batch:
        """Each character but the last is asked for the one that follows it."""
        asked = torch.ones(len(inputs), 1, dtype=torch.bool)
        asked[-1] = False
        return Batch(inputs[:, None], self.solve(inputs[:, None]), asked.float(), asked)

    def unanswerable(self, inputs: Int[Tensor, " T"]) -> str | None:
        return "a character needs one that follows it" if len(inputs) < 2 else None

    def words(self, inputs: Int[Tensor, " T"]) -> list[str]:
        return [_visible(i) for i in inputs.tolist()]

    def answer(self, target: Int[Tensor, ""]) -> str:
        return _visible(int(target))


def _visible(token: int) -> str:
    """A character, with a line break as backslash n."""
    return ALPHABET[token].replace("\n", "\\n")


@dataclass(frozen=True)
class _Validation(Text):
    @property
    def _part(self) -> str:
        return _parts()[1]


@dataclass(frozen=True)
class _Test(Text):
    @property
    def _part(self) -> str:
        return _parts()[2]
