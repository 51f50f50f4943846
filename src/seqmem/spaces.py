"""How many sequences a generated task has at a length, and what of them is held out. No torch: an identity needs it.

In a small space training would draw every sequence sooner or later, those that it is tested on among them. So where a
task has fewer than LARGE sequences of a length that is trained on, they are split into ``folds`` by their content: one
is for tests, one for evaluations during training (where there are at least four), the others are trained on. Fewer than
TINY sequences are too few to split. In a space of LARGE or more the same sequence is hardly drawn twice.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from math import exp, inf, log
from typing import Any

from . import translation
from .grammar import CLAUSES, LONGEST, OPEN, phrases

TINY, LARGE = 100, 1e9


@dataclass(frozen=True)
class Space:
    """The sequences of one length.

    Args:
        size: the inverse of the probability that two draws are the same sequence: the number of sequences where all
            are equally likely. inf: real numbers, or a task that does not say.
        folds: parts of (nearly) one size into which the content splits them, each with all answers in equal shares.
    """

    size: float = inf
    folds: int = 1

    @property
    def split(self) -> bool:
        """Training leaves a fold out."""
        return self.folds > 1 and TINY <= self.size < LARGE

    @property
    def tiny(self) -> bool:
        """Too small to be split: training draws every sequence."""
        return self.size < TINY

    @property
    def validation(self) -> int:
        """The fold for evaluations during training; the one for tests is 0. With two or three folds they share it."""
        return 1 if self.folds >= 4 else 0


@lru_cache(1024)
def subject(seq_len: int) -> Space:
    """Six subjects, six fillers at every timestep between the first and the last."""
    return Space(_power(6, seq_len - 1) if seq_len >= 2 else 0.0, 6)


@lru_cache(1024)
def copy(seq_len: int, symbols: int = 8, length: int = 10) -> Space:
    """Only the symbols vary, so the number does not depend on the length."""
    return Space(_power(symbols, length) if seq_len > 2 * length else 0.0, symbols)


@lru_cache(1024)
def temporal_order(seq_len: int, symbols: int = 2, variant: str = "pascanu") -> Space:
    """Each symbol has a range of positions and two values, every other timestep four fillers."""
    if variant == "hs97":
        # Lengths are equally likely; the first and the last timestep are the same in all sequences.
        lengths = range(seq_len, seq_len + seq_len // 10 + 1) if seq_len >= 10 else range(0)
        agree = sum(1 / _power(4, length - 2 - symbols) for length in lengths) / max(1, len(lengths)) ** 2
        for first, end in hs97_ranges(seq_len, symbols):
            agree /= 2 * (end - first)
        return Space(_inverse(agree, possible=seq_len >= 10), 8)
    size = _power(4, seq_len - symbols) * 2**symbols if seq_len >= 10 else 0.0
    for first, end in symbol_ranges(seq_len, symbols):
        size *= end - first
    return Space(size, 8)


@lru_cache(1024)
def reverse(seq_len: int, symbols: int = 8) -> Space:
    """Half of the timesteps are symbols."""
    return Space(_power(symbols, seq_len // 2) if seq_len >= 2 else 0.0, symbols)


@lru_cache(1024)
def phrases_of(seq_len: int, choices: int = 12) -> Space:
    """Half of the timesteps are words. Two draws are the same if their clauses agree in kind and in every word."""
    if seq_len > 400:
        return Space(inf, 1)
    agree = [1.0]  # by the words to fill, each clause with the conjunction after it
    for room in range(1, seq_len // 2 + 2):
        fitting = translation.fitting(room)
        same = (
            translation.same_clause(kind, choices, last=kind.size == room) * agree[room - kind.size] for kind in fitting
        )
        agree.append(sum(same) / len(fitting) ** 2 if fitting else 0.0)
    return Space(_inverse(agree[-1], possible=seq_len >= 6), 4)


def symbol_ranges(seq_len: int, symbols: int) -> list[tuple[int, int]]:
    """(first, end): the positions t of each symbol of temporal_order, ``start L / 10 <= t < (start + 1) L / 10``."""
    starts = {2: (1, 5), 3: (1, 3, 6)}[symbols]
    return [(-(-start * seq_len // 10), -(-(start + 1) * seq_len // 10)) for start in starts]


def hs97_ranges(seq_len: int, symbols: int) -> list[tuple[int, int]]:
    """(first, end): the positions of each symbol in variant hs97, those of the paper at ``seq_len`` 100."""
    published = {2: ((10, 20), (50, 60)), 3: ((10, 20), (33, 43), (66, 76))}[symbols]
    return [(first * seq_len // 100, last * seq_len // 100 + 1) for first, last in published]


@lru_cache(1024)
def pronoun(seq_len: int, people: int = 8, mentions: int = 2, filler_words: int = 12) -> Space:
    """Two draws are the same sentence if they agree in the people, the lengths of all parts and the word in each slot.

    No two derivations give the same words, so the probabilities of these agreements are multiplied.
    """
    if seq_len > 400:
        return Space(inf, 1)  # beyond LARGE whatever the options are
    half, same = people // 2, _same_clauses(filler_words)
    if mentions == 1:
        room = seq_len - 5
        agree = _same(["SAID"], filler_words) * same(room) / people if room >= 0 else 0.0
        return Space(_inverse(agree, possible=room >= 0), 4)
    gaps = max(3, seq_len // 3) - 2
    told = [_same([*phrases(gap).split(), "TOLD"], filler_words) * same(seq_len - 7 - gap) for gap in range(gaps)]
    agree = sum(told) / gaps**2 / (4 * half * half)  # who comes first, which he, which she, who is asked for
    return Space(_inverse(agree, possible=seq_len >= 7), half)


def _inverse(probability: float, *, possible: bool) -> float:
    """inf where the probability underflows; 0 where the length is too short for a sentence."""
    return 1 / probability if probability else inf if possible else 0.0


def _power(base: int, exponent: int) -> float:
    if exponent * log(base) > 700:  # beyond float64
        return inf
    return exp(exponent * log(base)) if exponent * log(base) > 40 else float(base**exponent)


def _same(slots: Iterable[str], filler_words: int) -> float:
    """The probability that two draws have the same word in every slot."""
    probability = 1.0
    for slot in slots:
        probability /= len(OPEN.get(slot, [""])[:filler_words])
    return probability


@lru_cache
def _same_clauses(filler_words: int) -> Any:
    """A function from the words to fill to the probability that two draws fill them with the same clauses and phrases.

    Clauses are drawn uniformly until one does not fit; a phrase fills the rest.
    """
    clauses = [(len(clause.split()), _same(clause.split(), filler_words)) for clause in CLAUSES]
    known: list[float] = []

    def same(room: int) -> float:
        while len(known) <= room:
            left = len(known)
            ends = sum(length > left for length, _ in clauses) / len(clauses)
            rest = _same(phrases(left).split(), filler_words) if left < LONGEST else 0.0
            goes_on = sum(one * known[left - length] for length, one in clauses if length <= left)
            known.append(ends**2 * rest + goes_on / len(clauses) ** 2)
        return known[room] if room >= 0 else 0.0

    return same


GENERATED = {
    "subject": subject, "copy": copy, "temporal_order": temporal_order, "pronoun": pronoun, "reverse": reverse,
    "phrases": phrases_of,
}  # fmt: skip
"""Task -> its space, by ``seq_len`` and its options. Tasks of real numbers have no such number."""

STORED = ("digits", "text")
"""Tasks whose data are stored, in three parts: training, validation, test."""

TASK_SETTINGS = ("name", "difficulty", "usual_seq_len", "lengths", "shortest", "observable")
"""Settings in the group ``task`` that are those of a run, and no options of the task."""


def data_revision(task: Mapping[str, Any], seq_len: int) -> int:
    """Which data a run of these settings draws: 1: those of all versions so far. 2: a part of a small space is held
    out, stored data have a validation part, or the symbols of temporal_order are at other positions.

    Args:
        task: the settings in the group ``task``; where they are invalid the answer is 1.
    """
    name = task.get("name")
    if name in STORED:
        return 2
    if name not in GENERATED:
        return 1
    options = {key: value for key, value in task.items() if key not in TASK_SETTINGS}
    try:
        for length in trained_lengths(seq_len, task.get("lengths", "fixed"), task.get("shortest")):
            space = GENERATED[name](length, **options)
            if space.split or (name == "temporal_order" and length % 10 and length >= 10):
                return 2
            if space.size >= 1e3 * LARGE:  # it grows with the length
                break
    except (TypeError, ValueError, KeyError, ArithmeticError):
        return 1  # building the task names the invalid setting
    return 1


def trained_lengths(seq_len: int, lengths: str, shortest: int | None, least: int = 1) -> range:
    """The lengths that training draws. ``least``: the shortest valid one."""
    if lengths not in ("uniform", "mixed"):
        return range(seq_len, seq_len + 1)
    return range(least if shortest is None else shortest, seq_len + 1)
