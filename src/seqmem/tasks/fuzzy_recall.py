"""Which value, of one or more tokens, belongs to this key of one or more tokens?

    reads   . c a B b F D A c a B b e C b F D
    says    . . . . . . . . . B . . . . F D A
    keys (here c a; b; c a; b e; b) and their values (B; F D A; B; C; F D A);
    a key that was read before asks for each token of its value

The length of a key, from 1 to ``key_size`` tokens, is drawn uniformly, then the key, from all of so many different
tokens; values alike, by ``value_size``. In one sequence a key has one value. The last key is that of an earlier pair,
drawn uniformly, and the last timestep asks for the last token of its value. What is left at the beginning is blank.
Nothing but the values of keys that come again is asked or trained.

Tokens of keys and of values differ, but a key may be the beginning of another: its end is told by its value. The last
token of a key tells nothing of its value, and a token of a value tells that the next is another one. So chance is
between 1 / ``values`` and 1 / (``values`` - 1): 0.134 where half of what is asked are first tokens, as in the long run.
In shorter sequences their share is larger, and is counted.

Poli et al. 2024, Mechanistic design and scaling of hybrid architectures (MAD), fuzzy in-context recall. As in their
code: 7 tokens for keys, 8 for values, and a blank; at most 3 tokens for a key and for a value; 128 timesteps. There
models are trained on every token, and tested with the longest keys alone.
"""

from dataclasses import dataclass
from functools import lru_cache
from math import log, perm
from string import ascii_lowercase, ascii_uppercase
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from ..signals import Batch, Tokens
from ..spaces import Space
from .base import Task, content_hash
from .scattered import FOLDS, named

_MOST = 128


class _Parsed(NamedTuple):
    """[T B] each: what is asked, and where the pair that tells it begins (-1: none does), where the present key begins
    and ends, and whether a timestep is of a key."""

    answers: Int[Tensor, "T B"]
    told_at: Int[Tensor, "T B"]
    begins: Int[Tensor, "T B"]
    ends: Int[Tensor, "T B"]
    is_key: Bool[Tensor, "T B"]


@dataclass(frozen=True)
class FuzzyRecall(Task):
    """``keys`` and ``values``: how many tokens they are made of, 2 to 128; ``key_size`` and ``value_size``: how many
    they have at most, 1 to 8 and no more than there are.

    Tokens 0 ... ``values`` - 1 are those of values, in inputs and targets alike; then those of keys, then the blank.
    """

    keys: int = 7
    values: int = 8
    key_size: int = 3
    value_size: int = 3

    name: ClassVar[str] = "fuzzy_recall"
    source: ClassVar[str] = "Poli et al. 2024"

    def __post_init__(self) -> None:
        for name, count in (("keys", self.keys), ("values", self.values)):
            if not 2 <= count <= _MOST:
                raise ValueError(f"{name}={count}: must be from 2 to {_MOST}")
        for name, size, count in (
            ("key_size", self.key_size, self.keys), ("value_size", self.value_size, self.values)
        ):  # fmt: skip
            if not 1 <= size <= min(count, 8):
                raise ValueError(f"{name}={size}: must be from 1 to {min(count, 8)}")

    @property
    def inputs(self) -> Tokens:
        return Tokens(self.values + self.keys + 1)

    @property
    def targets(self) -> Tokens:
        return Tokens(self.values)

    @property
    def _first(self) -> float:
        """The share of first tokens among those that are asked for, in the long run."""
        return 2 / (1 + self.value_size)

    @property
    def chance(self) -> float:
        return self._score(self._first)

    def chance_at(self, seq_len: int) -> float:
        return self._score(_first_at(self, seq_len))

    def _score(self, first: float) -> float:
        return first / self.values + (1 - first) / (self.values - 1)

    @property
    def constant(self) -> float:
        return 1 / self.values

    def baseline_loss(self, seq_len: int) -> float:
        first = _first_at(self, seq_len)
        return first * log(self.values) + (1 - first) * log(self.values - 1)

    @property
    def min_seq_len(self) -> int:
        """The longest pair, twice, without its last token."""
        return 2 * (self.key_size + self.value_size) - 1

    def sample(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Batch:
        self.check(batch_size, seq_len)
        pairs, end = (seq_len + 1) // 2 + 1, seq_len + 1  # the last token of the last value is not read
        key_sizes, keys = _motifs(self.keys, self.key_size, pairs, batch_size, rng)
        sizes, values = _motifs(self.values, self.value_size, pairs, batch_size, rng)
        # Pairs are counted from the end. One key has one value: that of its first pair, so counted.
        code = _code(keys, key_sizes, self.keys)
        first = (code[:, None] == code).int().argmax(1)
        sizes, values = sizes.gather(0, first), values.gather(0, first[:, None].expand(values.shape))
        # The last pair has a place before, too, where it fits with what is after it.
        until = (key_sizes + sizes).cumsum(0)
        fitting = (until[:-1] + until[0] <= end).sum(0)
        place = 1 + (torch.rand(batch_size, generator=rng, dtype=torch.double) * fitting).long()
        order = torch.arange(pairs)[:, None].repeat(1, batch_size).scatter(0, place[None], 0)
        key_sizes, sizes, code = (one.gather(0, order) for one in (key_sizes, sizes, code))
        keys, values = (one.gather(0, order[:, None].expand(one.shape)) for one in (keys, values))
        starts = end - (key_sizes + sizes).cumsum(0)
        fits = starts >= 0
        earlier = torch.arange(pairs)[:, None] > torch.arange(pairs)[:, None, None]
        known = ((code[:, None] == code) & fits & earlier).any(1) & fits

        inputs = torch.full((end + 1, batch_size), self.values + self.keys)  # the last row: of what does not fit
        targets, asked = torch.zeros_like(inputs), torch.zeros(inputs.shape, dtype=torch.bool)
        for i in range(self.key_size):
            inputs.scatter_(0, torch.where(fits & (i < key_sizes), starts + i, end), self.values + keys[:, i])
        for i in range(self.value_size):
            at = torch.where(fits & (i < sizes), starts + key_sizes + i, end)
            inputs.scatter_(0, at, values[:, i])
            at = torch.where(known & (i < sizes), at - 1, end)
            targets.scatter_(0, at, values[:, i])
            asked.scatter_(0, at, True)
        asked = asked[:seq_len]
        return Batch(inputs[:seq_len], torch.where(asked, targets[:seq_len], 0), asked.float(), asked)

    def _parsed(self, inputs: Int[Tensor, "T B"]) -> _Parsed:
        steps = torch.arange(len(inputs))[:, None]
        is_value = inputs < self.values
        is_key = ~is_value & (inputs < self.values + self.keys)
        before, after = (one.roll(shift, 0) for one, shift in ((is_key, 1), (is_value, -1)))
        before[0], after[-1] = False, False
        begins = torch.where(is_key & ~before, steps, -1).cummax(0).values
        ends = torch.where(is_key, steps, -1).cummax(0).values
        code = torch.zeros_like(inputs)
        for i in range(self.key_size):
            token = inputs.gather(0, (begins + i).clamp(0, len(inputs) - 1)) - self.values + 1
            code += torch.where((begins >= 0) & (begins + i <= ends), token, 0) * (self.keys + 1) ** i
        same = (code[:, None] == code) & (is_key & after) & (torch.arange(len(inputs))[:, None] < begins[:, None])
        pair = torch.where(same, torch.arange(len(inputs))[:, None], -1).amax(1)
        at = (pair + 1 + steps - ends).clamp(max=len(inputs) - 1)
        told = (pair >= 0) & is_value.gather(0, at) & (ends.gather(0, at) == pair) & (at <= steps)
        answers = torch.where(told, inputs.gather(0, at), self.inputs.size)
        return _Parsed(answers, torch.where(pair >= 0, begins.gather(0, pair.clamp(min=0)), -1), begins, ends, is_key)

    def solve(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "T B"]:
        """The next token of the value, if the key that has been read so far is known; else the number of tokens."""
        return self._parsed(inputs).answers

    def lag(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "T B"]:
        """To the first token of the latest pair with this key."""
        return torch.arange(len(inputs))[:, None] - self._parsed(inputs).told_at

    def space(self, seq_len: int) -> Space:
        """At least: as if all pairs were of the longest."""
        same = 1.0
        for tokens, most in ((self.keys, self.key_size), (self.values, self.value_size)):
            same *= sum(1 / perm(tokens, size) for size in range(1, most + 1)) / most**2
        pairs = min(40, (seq_len + 1) // (self.key_size + self.value_size) - 1)
        return Space(same**-pairs if seq_len >= self.min_seq_len else 0.0, FOLDS)

    def fold(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, " B"]:
        """To move all values equally far leaves it as it is, so each has every answer as often."""
        moved = torch.where(inputs < self.values, (inputs - self.solve(inputs)[-1]) % self.values, inputs)
        return content_hash(moved) % FOLDS

    def question(self, inputs: Int[Tensor, " T"]) -> Batch:
        """It asks where a value follows, and at its end."""
        answers = self.solve(inputs[:, None])
        follows = (inputs < self.values).roll(-1, 0)
        follows[-1] = True
        asked = follows[:, None] & (answers < self.values)
        return Batch(inputs[:, None], torch.where(asked, answers, 0), asked.float(), asked)

    def unanswerable(self, inputs: Int[Tensor, " T"]) -> str | None:
        if len(inputs) < self.min_seq_len:
            return super().unanswerable(inputs)
        blank = inputs == self.values + self.keys
        first = int((~blank).int().argmax())
        parsed = self._parsed(inputs[:, None])
        if blank[first:].any() or not parsed.is_key[first, 0]:
            return "it is not blanks, then keys and values by turns"
        read = torch.arange(len(inputs)) - parsed.ends[:, 0]
        longest = int((parsed.ends - parsed.begins)[first:].max()) + 1
        if longest > self.key_size or int(read[first:].max()) > self.value_size:
            return f"a key is longer than {self.key_size} or a value than {self.value_size}"
        answers, known = parsed.answers[:-1, 0], parsed.told_at[:-1, 0] >= 0
        value = inputs[1:] < self.values
        ended = known & ~value & (read[:-1] > 0) & (answers < self.values)
        if bool((known & value & (answers != inputs[1:])).any()) or bool(ended.any()):
            return "a key has two values"
        return None if int(parsed.answers[-1, 0]) < self.values else "at its end nothing is asked that is known"

    def words(self, inputs: Int[Tensor, " T"]) -> list[str]:
        vocabulary = [*named(self.values, ascii_uppercase, "V"), *named(self.keys, ascii_lowercase, "k"), "."]
        return [vocabulary[token] for token in inputs.tolist()]

    def answer(self, target: Int[Tensor, ""]) -> str:
        return named(self.values, ascii_uppercase, "V")[int(target)]


@lru_cache
def _first_at(task: FuzzyRecall, seq_len: int) -> float:
    """The share of first tokens among those that are asked for, counted in draws."""
    batch = task.sample(max(100, 2_000_000 // seq_len**2), seq_len, torch.Generator().manual_seed(0))
    first = batch.asked & (batch.inputs >= task.values)
    return float((first.sum(0) / batch.asked.sum(0)).mean())


def _motifs(
    tokens: int, longest: int, pairs: int, batch_size: int, rng: torch.Generator
) -> tuple[Int[Tensor, "P B"], Int[Tensor, "P L B"]]:
    """(sizes, different tokens of which so many count)"""
    sizes = torch.randint(1, longest + 1, (pairs, batch_size), generator=rng)
    return sizes, torch.rand(pairs, tokens, batch_size, generator=rng).topk(longest, 1).indices


def _code(keys: Int[Tensor, "P L B"], sizes: Int[Tensor, "P B"], tokens: int) -> Int[Tensor, "P B"]:
    """A number for each key."""
    weights = (tokens + 1) ** torch.arange(keys.shape[1])[:, None]
    return ((keys + 1) * weights * (torch.arange(keys.shape[1])[:, None] < sizes[:, None])).sum(1)
