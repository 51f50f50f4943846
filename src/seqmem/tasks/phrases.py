"""Translate English into a made-up language.

    reads   the big dog sees a cat > vidas veso grano lo koloi noi
    says    . . . . . . vidas veso grano lo kola na
    an English sentence, a mark that asks, then each answer is the next
    input

The language has as many words, in its own order: the verb, its subject, its object; an adjective follows its noun and
the article follows both. Nouns are of two classes. Articles and adjectives agree with their noun in class and number,
verbs with their subject in number. Clauses of four to eight words are joined by conjunctions until the sentence is
full.

Half of the timesteps are the source, half the answers: ``seq_len`` // 2 words. Where ``seq_len`` is odd, a blank comes
first. The best answer without a memory knows the answer before it and its place: it knows which words agree, and
guesses among these. In training the right answer is fed back (teacher forcing); scores are of what a model writes when
it reads its own.

Made for seqmem, after the translation of English phrases by Cho et al. 2014 (arXiv 1406.1078).
"""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import ClassVar

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .. import spaces, translation
from ..signals import Batch, Tokens
from ..translation import CONJUNCTIONS, KINDS, fitting
from .base import Task, content_hash
from .feedback import Feedback
from .shown import alternatives

_ENGLISH_ARTICLES: Sequence[str] = ("the", "a", "some")
_NUMBERS = (0, ""), (1, "s")  # of an English noun; of a verb it is the reverse


def _english(choices: int) -> list[str]:
    nouns = [form for noun in translation.NOUNS[:choices] for form in (noun, noun + "s")]
    verbs = [form for verb in translation.VERBS[:choices] for form in (verb + "s", verb)]
    return [*_ENGLISH_ARTICLES, *nouns, *translation.ADJECTIVES[:choices], *verbs, *CONJUNCTIONS]


def _language(choices: int) -> list[str]:
    def agreeing(stems: Sequence[str]) -> Iterator[str]:
        return (stem + ending for stem in stems for endings in translation.ENDINGS for ending in endings)

    nouns = [
        stem + ending
        for at, stem in enumerate(translation.NOUN_STEMS[:choices])
        for ending in translation.ENDINGS[at % 2]
    ]
    verbs = [stem + ending for stem in translation.VERB_STEMS[:choices] for ending in translation.VERB_ENDINGS]
    articles, adjectives = agreeing(translation.ARTICLE_STEMS), agreeing(translation.ADJECTIVE_STEMS[:choices])
    return [*articles, *nouns, *adjectives, *verbs, *translation.CONJUNCTION_WORDS]


@lru_cache
def _fitting(count: int) -> tuple[Int[Tensor, "room kinds"], Int[Tensor, " room"]]:
    """For each room up to ``count`` + 1: the kinds of clauses that fit, and how many they are."""
    options = [[KINDS.index(kind) for kind in fitting(room)] or [0] for room in range(count + 2)]
    table = torch.zeros(len(options), len(KINDS), dtype=torch.int64)
    for row, kinds in zip(table, options, strict=True):
        row[: len(kinds)] = torch.tensor(kinds)
    return table, torch.tensor([len(kinds) for kinds in options])


def _clauses(
    count: int, drawn: Float[Tensor, "B C"]
) -> tuple[Int[Tensor, "B C"], Bool[Tensor, "B C"], Bool[Tensor, "B C"]]:
    """The kind of each clause of sentences of ``count`` words; whether it is the last one; whether there is one."""
    table, counts = _fitting(count)
    sizes = torch.tensor([kind.size for kind in KINDS])
    kinds, last, there = torch.zeros_like(drawn, dtype=torch.int64), drawn < 0, drawn < 0
    room = torch.full((len(drawn),), count + 1)  # the last clause has no conjunction
    for at, number in enumerate(drawn.unbind(1)):
        kinds[:, at] = table[room, (number * counts[room]).long()]
        size = sizes[kinds[:, at]]
        there[:, at], last[:, at] = room > 0, room == size
        room = room - size * there[:, at]
    return kinds, last, there


def _translation(words: Sequence[str], choices: int) -> tuple[list[str], str | None]:
    """An English sentence in the language, as a person would parse and say it; and why it is none (None: it is one)."""
    nouns = {
        noun + end: (at, number) for at, noun in enumerate(translation.NOUNS[:choices]) for number, end in _NUMBERS
    }
    verbs = {
        verb + end: (at, 1 - number) for at, verb in enumerate(translation.VERBS[:choices]) for number, end in _NUMBERS
    }
    adjectives = list[str](translation.ADJECTIVES[:choices])
    said, left = list[str](), list(words)

    def next_word(*expected: Collection[str]) -> str:
        allowed = [word for some in expected for word in some]
        if left and left[0] in allowed:
            return left.pop(0)
        where = f"word {len(words) - len(left) + 1} is '{left[0]}'" if left else "it stops too early"
        raise ValueError(f"{where}: there task=phrases has {alternatives(allowed)}")

    def noun_phrase() -> tuple[list[str], int]:
        article = next_word(_ENGLISH_ARTICLES)
        agreeing = [noun for noun, (_, number) in nouns.items() if article in ("the", ("a", "some")[number])]
        word = next_word(adjectives, agreeing)
        adjective = word if word in adjectives else None
        at, number = nouns[next_word(agreeing) if adjective else word]
        ending = translation.ENDINGS[at % 2][number]
        phrase = [translation.NOUN_STEMS[at] + ending]
        if adjective:
            phrase.append(translation.ADJECTIVE_STEMS[adjectives.index(adjective)] + ending)
        return [*phrase, translation.ARTICLE_STEMS[article != "the"] + ending], number

    try:
        while True:
            subject, number = noun_phrase()
            verb, _ = verbs[next_word([verb for verb, (_, form) in verbs.items() if form == number])]
            said += [translation.VERB_STEMS[verb] + translation.VERB_ENDINGS[number], *subject]
            if left and left[0] in _ENGLISH_ARTICLES:
                said += noun_phrase()[0]
            if not left:
                return said, None
            conjunction = next_word(CONJUNCTIONS)
            said.append(translation.CONJUNCTION_WORDS[list[str](CONJUNCTIONS).index(conjunction)])
    except ValueError as error:
        return said, str(error)


@dataclass(frozen=True)
class Phrases(Task):
    """``choices``: nouns, adjectives and verbs to choose from, an even number of each from 2 to 12.

    English tokens come first, then those of the language, the mark and the blank. A target is a word of the language.
    """

    choices: int = 12

    name: ClassVar[str] = "phrases"
    source: ClassVar[str] = "seqmem, after Cho et al. 2014"

    def __post_init__(self) -> None:
        if self.choices % 2 or not 2 <= self.choices <= len(translation.NOUNS):
            raise ValueError(f"choices={self.choices}: must be an even number from 2 to {len(translation.NOUNS)}")

    @cached_property
    def _english(self) -> Sequence[str]:
        return _english(self.choices)

    @cached_property
    def _language(self) -> Sequence[str]:
        return _language(self.choices)

    @property
    def inputs(self) -> Tokens:
        return Tokens(len(self._english) + len(self._language) + 2)

    @property
    def targets(self) -> Tokens:
        return Tokens(len(self._language))

    def feedback(self) -> Feedback:
        first, count = len(self._english), len(self._language)
        return Feedback(first + count, torch.arange(first, first + count), blank=first + count + 1)

    @property
    def chance(self) -> float:
        return self.chance_at(100)

    def chance_at(self, seq_len: int) -> float:
        return translation.chance(seq_len // 2, self.choices)

    @property
    def constant(self) -> float:
        return translation.constant(50, self.choices)

    def baseline_loss(self, seq_len: int) -> float:
        return translation.loss(seq_len // 2, self.choices)

    @property
    def min_seq_len(self) -> int:
        return 2 * (translation.SHORTEST - 1)

    def sample(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Batch:
        self.check(batch_size, seq_len)
        count, c = seq_len // 2, self.choices
        most = (count + 1) // translation.SHORTEST
        # What is drawn for every clause: its kind, then a word of each of these ranges.
        ranges = torch.tensor([2, 2, c, c, c, 2, 2, c, c, len(CONJUNCTIONS)], dtype=torch.float32)
        drawn = torch.rand(1 + len(ranges), batch_size, most, generator=rng)
        kinds, last, there = _clauses(count, drawn[0])
        draws = (drawn[1:] * ranges[:, None, None]).long()
        s_number, s_indefinite, s_noun, s_adjective, verb, o_number, o_indefinite, o_noun, o_adjective, conjunction = (
            draws
        )
        # English: article, adjective, noun, verb, article, adjective, noun, conjunction.
        nouns, adjectives = 3, 3 + 2 * c
        verbs, conjunctions = 3 + 3 * c, 3 + 5 * c
        english = [
            s_indefinite * (1 + s_number), adjectives + s_adjective, nouns + 2 * s_noun + s_number,
            verbs + 2 * verb + s_number,
            o_indefinite * (1 + o_number), adjectives + o_adjective, nouns + 2 * o_noun + o_number,
            conjunctions + conjunction,
        ]  # fmt: skip
        # The language: verb, noun, adjective, article, noun, adjective, article, conjunction.
        s_form, o_form = 2 * (s_noun % 2) + s_number, 2 * (o_noun % 2) + o_number
        nouns, adjectives = 8, 8 + 2 * c
        verbs, conjunctions = 8 + 6 * c, 8 + 8 * c
        language = [
            verbs + 2 * verb + s_number,
            nouns + 2 * s_noun + s_number, adjectives + 4 * s_adjective + s_form, 4 * s_indefinite + s_form,
            nouns + 2 * o_noun + o_number, adjectives + 4 * o_adjective + o_form, 4 * o_indefinite + o_form,
            conjunctions + conjunction,
        ]  # fmt: skip
        has_s, has_o, has_oa = (there & torch.tensor([kind[part] for kind in KINDS])[kinds] for part in range(3))
        goes_on = there & ~last
        in_english = torch.stack([there, has_s, there, there, has_o, has_oa, has_o, goes_on], -1)
        in_language = torch.stack([there, there, has_s, there, has_o, has_oa, has_o, goes_on], -1)
        source = torch.stack(english, -1)[in_english].view(batch_size, count).T
        target = torch.stack(language, -1)[in_language].view(batch_size, count).T
        return self.feedback().batch(source, target, seq_len)

    def space(self, seq_len: int) -> spaces.Space:
        return spaces.phrases_of(seq_len, self.choices)

    def fold(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, " B"]:
        return content_hash(self.feedback().source(inputs)) % self.space(6).folds

    def solve(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "T B"]:
        answers = torch.zeros_like(inputs)
        source = self.feedback().source(inputs)
        for b, tokens in enumerate(source.T.tolist()):
            target, _ = self._translated(tokens)
            answers[len(inputs) - len(source) :, b] = torch.tensor(target)[: len(source)]
        return answers

    def _translated(self, tokens: Sequence[int]) -> tuple[list[int], str | None]:
        """The target of English tokens, and why they are no sentence; None: they are one."""
        vocabulary = self.words(torch.arange(self.inputs.size))
        words, problem = _translation([vocabulary[token] for token in tokens], self.choices)
        return [self._language.index(word) for word in words], problem

    def question(self, inputs: Int[Tensor, " T"]) -> Batch:
        source = self.feedback().typed(inputs)
        return self.feedback().asking(source, torch.tensor(self._translated(source.tolist())[0]))

    def unanswerable(self, inputs: Int[Tensor, " T"]) -> str | None:
        source = self.feedback().typed(inputs).tolist()
        return self._translated(source)[1]

    def words(self, inputs: Int[Tensor, " T"]) -> list[str]:
        vocabulary = (*self._english, *self._language, ">", ".")
        return [vocabulary[i] for i in inputs.tolist()]

    def answer(self, target: Int[Tensor, ""]) -> str:
        return self._language[int(target)]
