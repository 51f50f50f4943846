"""The words and clauses of task=phrases, in English and in a made-up language. No torch: ``spaces`` counts them."""

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import product
from math import log
from typing import NamedTuple

NOUNS = "girl boy dog cat king queen horse bird farmer singer friend teacher".split()
ADJECTIVES = "big small quiet red young bright cold strange green happy tall kind".split()
VERBS = "see hear call follow draw help paint read sing hunt lead eat".split()
CONJUNCTIONS = "and but while because".split()
DEFINITE, INDEFINITE = ("the", "the"), ("a", "some")
"""An article before a singular and before a plural."""

# Of the made-up language: stems in the order of the English words, and endings by class and number. A noun is of class
# a or o in turn. Adjectives and articles agree with their noun, verbs with the number of their subject.
NOUN_STEMS = "lum tar ves kol mir dan fel sor bri nog pel zan".split()
ADJECTIVE_STEMS = "gran pik sil rud jun lut fri mok ver gaj alt bon".split()
VERB_STEMS = "vid aud vok sek lin jut pent lek kant kap duk edd".split()
CONJUNCTION_WORDS = "e sed dum kar".split()
ARTICLE_STEMS = "l", "n"
ENDINGS = ("a", "ai"), ("o", "oi")
VERB_ENDINGS = "as", "an"


class Kind(NamedTuple):
    """A clause and the conjunction after it: the big dog sees a cat and. Whether it has an object, and adjectives."""

    subject_adjective: bool
    has_object: bool
    object_adjective: bool

    @property
    def size(self) -> int:
        """Words, in either language: four with an article, a noun, a verb and the conjunction."""
        return 4 + self.subject_adjective + 2 * self.has_object + self.object_adjective


KINDS = [Kind(*parts) for parts in product((False, True), repeat=3) if parts[1] >= parts[2]]
SHORTEST = min(kind.size for kind in KINDS)


@lru_cache(1024)
def fitting(room: int) -> Sequence[Kind]:
    """The kinds of which one is drawn, all equally likely, with ``room`` words left, the last conjunction counted: the
    clause fills it, or leaves room for another."""
    return [kind for kind in KINDS if kind.size == room or kind.size <= room - SHORTEST]


def same_clause(kind: Kind, choices: int, *, last: bool) -> float:
    """The probability that two clauses of this kind have the same words. The last one has no conjunction."""
    phrase = 1 / (2 * 2 * choices)  # article, number, noun
    nouns = phrase ** (1 + kind.has_object)
    others = choices ** -(1 + kind.subject_adjective + kind.object_adjective)
    return nouns * others * (1.0 if last else 1 / len(CONJUNCTIONS))


# ---- The best answers without a memory: from the answer before, and its place ----------------------------------------


def _slots(kind: Kind, *, last: bool) -> Iterator[str]:
    """The made-up language's order: verb, subject, object. An adjective follows its noun, the article follows both."""
    yield "verb"
    for adjective in (kind.subject_adjective, kind.object_adjective)[: 1 + kind.has_object]:
        yield "noun"
        if adjective:
            yield "adjective"
        yield "article"
    if not last:
        yield "conjunction"


def _forms(before: str, slot: str, choices: int) -> int:
    """How many words are equally likely in a slot for who knows the word before, with which it may agree."""
    return {
        "verb": 2 * choices,
        "noun": choices if before == "verb" else 2 * choices,  # the verb tells the number of its subject
        "adjective": choices,
        "article": 2,
        "conjunction": len(CONJUNCTIONS),
    }[slot]


@lru_cache(256)
def _pairs(words: int) -> Mapping[tuple[int, str], Mapping[str, float]]:
    """(place, the slot before) -> slot -> the probability of both; over a place they add up to 1."""
    begins = {0: 1.0}  # place -> probability that a clause begins there
    pairs: dict[tuple[int, str], dict[str, float]] = defaultdict(lambda: defaultdict(float))
    for place in range(words):
        probability = begins.pop(place, 0.0)
        kinds = fitting(words + 1 - place)
        for kind in kinds:
            share, last, before = probability / len(kinds), kind.size == words + 1 - place, "conjunction"
            for at, slot in enumerate(_slots(kind, last=last), place):
                pairs[at, before][slot] += share
                before = slot
            if not last:
                begins[place + kind.size] = begins.get(place + kind.size, 0.0) + share
    return pairs


def chance(words: int, choices: int) -> float:
    """The accuracy of the best answer from the answer before it and its place, over ``words`` words."""
    return (
        sum(
            max(probability / _forms(before, slot, choices) for slot, probability in after.items())
            for (_, before), after in _pairs(words).items()
        )
        / words
    )


def loss(words: int, choices: int) -> float:
    """Its cross-entropy in nats."""
    return (
        sum(
            probability * log(_forms(before, slot, choices) * sum(after.values()) / probability)
            for (_, before), after in _pairs(words).items()
            for slot, probability in after.items()
            if probability
        )
        / words
    )


def constant(words: int, choices: int) -> float:
    """The accuracy of the best constant answer."""
    forms = {
        "verb": 2 * choices,
        "noun": 2 * choices,
        "adjective": 4 * choices,
        "article": 8,
        "conjunction": len(CONJUNCTIONS),
    }
    total: dict[str, float] = defaultdict(float)
    for after in _pairs(words).values():
        for slot, probability in after.items():
            total[slot] += probability
    return max(probability / forms[slot] for slot, probability in total.items()) / words
