"""CogScale: two sentences describe two things; what, of which colour, and where?

    reads   . . . . . . . this is a glass and on the left is the blue orange
    says    this:glass/left:orange:blue
    two sentences, joined by "and", silence before them; the last timestep
    asks which labels hold in the first and in the second situation

A situation has an object, perhaps a colour, and one of: this, that, a position, or none of these, which is labelled
"is" (a glass is blue). The other words tell nothing. Words come in six kinds of sentences, as ``the glass on the left
is blue`` or ``there is a glass on the left``; every pair of sentences is as likely. One word, orange, is an object and
a colour, in its sentence's place; of two words, center and middle, the label is one.

small: 2 objects, 2 colours and 2 positions, 144 sentences; medium: 4, 4 and 3, 880; large: 6, 6 and 5, 2688. 17
timesteps hold the longest pair; longer sequences have more silence before it.

Each label is answered by itself, from its logit: the score is the share of labels that are right, and their error is 1
less it. The published threshold is chosen on validation data, here it is one half. Pairs of sentences are few, so a
part of them is held out, where their sets share some. Most labels do not hold: chance, from the last word alone, is
0.748 in small sequences, 0.831 in medium and 0.880 in large ones.

Bendi-Ouis, De Coudenhove & Hinaut 2026, CogScale (arXiv 2605.19758),
``cross_situation`` in version 0.2.0 of their package.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import ClassVar

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from ...signals import Labels, Reals
from ...spaces import Space
from ..base import content_hash
from ..scattered import FOLDS, draw_symbols, equally_likely
from .base import SILENCE, Drawn, at_end, last

OBJECTS = ("glass", "orange", "cup", "bowl", "plate", "spoon")
COLORS = ("blue", "orange", "green", "red", "yellow", "purple")
POSITIONS = (("left",), ("right",), ("center", "middle"), ("top",), ("bottom",))
AND = "and"
OTHERS = ("this", "that", "is")
LONGEST = 8
"""Words of a sentence."""


@dataclass(frozen=True)
class CrossSituation(Drawn):
    """``size``: small, medium or large, as published. Features: the words."""

    name: ClassVar[str] = "cogscale_cross_situation"

    @property
    def inputs(self) -> Reals:
        return Reals(len(self.language.words))

    @property
    def targets(self) -> Labels:
        return Labels(2 * len(self.language.labels))

    @property
    def language(self) -> "Language":
        """What there is to say."""
        return _language(self.given.symbols, self.given.count)

    @property
    def chance(self) -> float:
        return self.language.levels[0]

    @property
    def constant(self) -> float:
        return self.language.levels[2]

    def baseline_loss(self, seq_len: int) -> float:
        return self.language.levels[1]

    @property
    def min_seq_len(self) -> int:
        """The longest pair."""
        return 2 * LONGEST + 1

    def draw(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Float[Tensor, "T B D"]:
        spoken = self.language.spoken
        first, second = draw_symbols(len(spoken), 2, batch_size, rng)
        lengths = (spoken[second] > 0).sum(1)
        tokens = torch.zeros(seq_len, batch_size, dtype=torch.long)
        tokens[-LONGEST:] = spoken[second].T
        at = seq_len - 1 - lengths
        tokens[at, torch.arange(batch_size)] = self.language.token(AND)
        before = at - LONGEST + torch.arange(LONGEST)[:, None]
        tokens.scatter_(0, before, spoken[first].T)
        return torch.eye(1 + self.inputs.size)[tokens][..., 1:]

    def asks(self, inputs: Float[Tensor, "T B D"]) -> Bool[Tensor, "T B"]:
        return last(1, inputs)

    def _sentences(self, inputs: Float[Tensor, "T B D"]) -> tuple[Int[Tensor, "2 B"], Int[Tensor, " B"]]:
        """(which sentences they are, where the second begins); of what is no sentence the number of sentences."""
        tokens = _tokens(inputs)
        joined = tokens == self.language.token(AND)
        begins = torch.where(joined.any(0), joined.int().argmax(0) + 1, 0)
        ends = torch.stack([begins - 1, torch.full_like(begins, len(tokens))])
        steps, starts = torch.arange(len(tokens))[:, None, None], torch.stack([torch.zeros_like(begins), begins])
        inside = (steps >= starts) & (steps < ends)
        places = (ends - 1 - steps).clamp(min=0)
        near = inside & (places < LONGEST)
        keys = torch.where(near, tokens[:, None] * self.language.base ** places.clamp(max=LONGEST), 0).sum(0)
        overlong = (inside & ~near & (tokens[:, None] > 0)).any(0)
        return torch.where(overlong, len(self.language.spoken), self.language.found(keys)), begins

    def solve(self, inputs: Float[Tensor, "T B D"]) -> Float[Tensor, "T B K"]:
        (first, second), _ = self._sentences(inputs)
        meant = self.language.meant.to(inputs.dtype)
        return at_end(torch.cat([meant[first], meant[second]], -1)[None], len(inputs))

    def lag(self, inputs: Float[Tensor, "T B D"]) -> Int[Tensor, "T B"]:
        """To the first word that a label is about."""
        (first, _), begins = self._sentences(inputs)
        return at_end((len(inputs) - begins + self.language.since[first])[None], len(inputs))

    def space(self, seq_len: int) -> Space:
        return equally_likely(len(self.language.spoken) ** 2 if seq_len >= self.min_seq_len else 0)

    def fold(self, inputs: Float[Tensor, "T B D"]) -> Int[Tensor, " B"]:
        return content_hash(_tokens(inputs)[-self.min_seq_len :]) % FOLDS

    def mistake(self, inputs: Float[Tensor, "T D"]) -> str | None:
        words = " ".join(self.words(inputs)).lstrip(f"{SILENCE} ")
        halves = words.split(f" {AND} ")
        if len(halves) != 2:
            return f"it is not two sentences, joined by {AND!r}"
        sentences, _ = self._sentences(inputs[:, None])
        for half, sentence in zip(halves, sentences[:, 0].tolist(), strict=True):
            if sentence == len(self.language.spoken):
                return f"task={self.choice} has no sentence {half!r}"
        return None

    def words(self, inputs: Float[Tensor, "T D"]) -> list[str]:
        """``.`` is silence."""
        return [(SILENCE, *self.language.words)[token] for token in _tokens(inputs).tolist()]

    def parse(self, text: str) -> Float[Tensor, "T D"]:
        """Silence before the sentences may be left out."""
        words = text.lower().split()
        if not words:
            raise ValueError("the text is empty")
        for word in words:
            if word not in (SILENCE, *self.language.words):
                raise ValueError(f"'{word}' is no word of task={self.choice}: it has {' '.join(self.language.words)}")
        words = [SILENCE] * (self.min_seq_len - len(words)) + words
        tokens = torch.tensor([0 if word == SILENCE else self.language.token(word) for word in words])
        return torch.eye(1 + self.inputs.size)[tokens][:, 1:]

    def answer(self, target: Float[Tensor, " K"]) -> str:
        """``this:glass/left:orange:blue``: the first situation and the second; ``-``: no label."""
        return "/".join(self.language.described(half) or "-" for half in target.chunk(2))


def _tokens(inputs: Float[Tensor, "T *B D"]) -> Int[Tensor, "T *B"]:
    """0 for silence, then the words."""
    return torch.where(inputs.amax(-1) > 0.5, inputs.argmax(-1) + 1, 0)


@dataclass(frozen=True)
class Language:
    """The sentences of one situation, and what they mean.

    Args:
        words: in alphabetical order; the first is token 1.
        labels: objects, colours, positions, then this, that and is, as in the published targets.
        things: how many of them are objects and colours.
        spoken: [N, LONGEST] tokens of each sentence, zeros before it.
        meant: [N + 1, K] 1 for each label that holds; the last row is of no sentence.
        since: [N + 1] how many timesteps before the sentence's end the first word stands that has a label.
        keys: [N] each sentence as a number, in ascending order.
        levels: score and loss of the best answer from the last word alone, score of the best constant.
    """

    words: list[str]
    labels: list[str]
    things: int
    spoken: Int[Tensor, "N L"]
    meant: Float[Tensor, "N1 K"]
    since: Int[Tensor, " N1"]
    keys: Int[Tensor, " N"]
    levels: tuple[float, float, float]

    def token(self, word: str) -> int:
        return self.words.index(word) + 1

    @property
    def base(self) -> int:
        return len(self.words) + 1

    def found(self, keys: Int[Tensor, "*B"]) -> Int[Tensor, "*B"]:
        """Which sentences they are; N: none."""
        at = torch.searchsorted(self.keys, keys.contiguous()).clamp(max=len(self.keys) - 1)
        return torch.where(self.keys[at] == keys, at, len(self.keys))

    def described(self, labels: Float[Tensor, " K"]) -> str:
        """The labels that hold: where, what, of which colour."""
        held = (labels > 0.5).nonzero()[:, 0].tolist()
        return ":".join(self.labels[label] for label in sorted(held, key=lambda one: (one < self.things, one)))


def situations(objects: Sequence[str], colors: Sequence[str], positions: Mapping[str, str]) -> list[tuple[str, ...]]:
    """(sentence, label of the place or of the verb, object, colour) of every sentence; the colour may be empty.

    Args:
        positions: word -> label.
    """
    made = []
    for det, thing in product(("a", "the"), objects):
        for color in ("", *colors):
            named = f"{det} {color} {thing}" if color else f"{det} {thing}"
            made += [(f"{word} is {named}", word, thing, color) for word in ("this", "that")]
            for word, place in positions.items():
                forms = ("{0} is on the {1}", "there is {0} on the {1}", "on the {1} is {0}", "on the {1} there is {0}")
                made += [(form.format(named, word), place, thing, color) for form in forms]
        for color in colors:
            made.append((f"{det} {thing} is {color}", "is", thing, color))
            made += [
                (f"{det} {thing} on the {word} is {color}", place, thing, color) for word, place in positions.items()
            ]
    return made


@lru_cache
def _language(things: int, places: int) -> Language:
    objects, colors = OBJECTS[:things], COLORS[:things]
    positions = {word: names[0] for names in POSITIONS[:places] for word in names}
    made = situations(objects, colors, positions)
    words = sorted({word for sentence, *_ in made for word in sentence.split()} | {AND})
    others = [*dict.fromkeys(positions.values()), *OTHERS]
    labels = [*objects, *colors, *others]
    base = len(words) + 1
    rows = []
    for sentence, verb, thing, color in made:
        tokens = [words.index(word) + 1 for word in sentence.split()]
        held = [objects.index(thing), things * 2 + others.index(verb)]
        held += [things + colors.index(color)] if color else []
        about = {thing, color, *(word for word, place in positions.items() if place == verb)}
        about |= {verb} & {"this", "that"}  # "is" stands after the object
        spoken = sentence.split()
        since = len(tokens) - next(place for place, word in enumerate(spoken) if word in about)
        key = sum(token * base**place for place, token in enumerate(reversed(tokens)))
        rows.append((key, [0] * (LONGEST - len(tokens)) + tokens, held, since))
    rows.sort()
    meant = np.zeros((len(rows) + 1, len(labels)))
    for row, (_, _, held, _) in zip(meant, rows, strict=False):
        row[held] = 1
    ends = np.array([tokens[-1] for _, tokens, _, _ in rows])
    return Language(
        words,
        labels,
        2 * things,
        torch.tensor([tokens for _, tokens, _, _ in rows]),
        torch.from_numpy(meant),
        torch.tensor([since for *_, since in rows] + [0]),
        torch.tensor([key for key, *_ in rows]),
        _levels(meant[:-1], ends),
    )


def _levels(meant: np.ndarray, ends: np.ndarray) -> tuple[float, float, float]:
    """(score, loss) of the best answer from the last word, score of the best constant, by counting sentences."""
    every = meant.mean(0)
    right, loss = 0.0, 0.0
    for end in np.unique(ends):
        known = meant[ends == end].mean(0)
        share = float((ends == end).mean())
        right += share * float(np.maximum(known, 1 - known).mean())
        loss += share * float(_entropy(known).mean())
    constant = float(np.maximum(every, 1 - every).mean())
    return (constant + right) / 2, (float(_entropy(every).mean()) + loss) / 2, constant


def _entropy(shares: np.ndarray) -> np.ndarray:
    """In nats, of each by itself."""
    inside = np.clip(shares, 1e-300, 1 - 1e-16)
    return -shares * np.log(inside) - (1 - shares) * np.log(1 - inside)
