"""Who does *he* or *she* refer to?

    my brother told his aunt that the old cat slept but he -> my brother
    ~~~~~~~~~~      ~~~~~~~~                            ~~
    one person opens the sentence, one of the other gender is named within its
    first third, in either order; clauses of filler words follow; the last
    word asks

The last word alone tells he or she and leaves a guess among the people of that gender: chance is 2 / people, of a
constant answer 1 / people. Remembering one of the two names answers half of the questions, and the others are guessed:
1/2 + 1 / people, and half the loss. With ``mentions=1`` one person is named and the last word is a neutral *who*:
chance is 1 / people, of a constant answer, too.

Made for seqmem, after the six-subject recall of rnilav's perceptrons-to-transformers (see ``subject``).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import accumulate
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from .. import spaces
from ..grammar import CLAUSES, HE, LONGEST, OPEN, PHRASES, SHE, SHORTEST, phrases
from ..metrics import Plateau
from ..signals import Batch, Tokens
from .automaton import Automaton, Builder
from .base import Task, content_hash
from .shown import Naming


def _people(count: int) -> Sequence[str]:
    """``count`` people: first those called *he*, then those called *she*."""
    return HE[: count // 2] + SHE[: count // 2]


class _Grammar(NamedTuple):
    """All templates, concatenated on one tape of slots.

    A sentence is a sequence of templates, whose slots are read from the tape. This way a whole batch is generated
    without a Python loop over sentences.
    """

    words: list[str]
    options: Int[Tensor, " options"]  # the tokens of every slot's words, slot after slot
    options_at: Int[Tensor, " tape"]  # where in ``options`` the words of the tape's slot begin,
    sizes: Float[Tensor, " tape"]  # and how many there are
    begins: Int[Tensor, " templates"]  # where on the tape a template begins,
    lengths: Int[Tensor, " templates"]  # and how many slots it has
    first: dict[str, int]  # kind -> index of its first template; the others of that kind follow


@lru_cache
def _grammar(people: int, mentions: int, filler_words: int, repeats: int) -> _Grammar:
    """``repeats``: how many copies of the longest phrase end the tape."""
    slots = {name: options[:filler_words] for name, options in OPEN.items()}
    for template in (*CLAUSES, *PHRASES, "that who he she"):
        for name in template.split():
            slots.setdefault(name, [name])
    for person in (*HE, *SHE):
        for word in person.split():
            slots.setdefault(word, [word])
    words = sorted({word for options in slots.values() for word in options})
    token = {word: i for i, word in enumerate(words)}
    names = list(slots)
    number = {name: i for i, name in enumerate(names)}
    slot_sizes = torch.tensor([len(slots[name]) for name in names])
    slot_at = slot_sizes.cumsum(0) - slot_sizes

    said = "that" if mentions == 2 else "SAID that"
    kinds = {
        "nothing": [""],
        "person": _people(people),
        "told": [f"{phrases(count)} TOLD" for count in range(len(PHRASES))],
        "said": [f"{said} {phrases(count)}" for count in range(LONGEST)],
        "clause": CLAUSES,
        "last": ["he", "she"] if mentions == 2 else ["who"],
        "longest phrases": [" ".join([PHRASES[-1]] * repeats)],
    }
    templates = [template.split() for kind in kinds.values() for template in kind]
    lengths = torch.tensor(list(map(len, templates)))
    tape = torch.tensor([number[name] for template in templates for name in template])
    # ``firsts`` has one more element than ``kinds``: the end of the last.
    firsts = accumulate(map(len, kinds.values()), initial=0)
    return _Grammar(
        words,
        torch.tensor([token[word] for name in names for word in slots[name]]),
        slot_at[tape],
        slot_sizes[tape].float(),
        lengths.cumsum(0) - lengths,
        lengths,
        dict(zip(kinds, firsts, strict=False)),
    )


@lru_cache
def _draw_ranges(half: int, latest: int) -> Float[Tensor, "5 1"]:
    """Number of outcomes of a sentence's draws: he or she first, which he, which she, who is asked for, the gap."""
    return torch.tensor([2.0, half, half, 2.0, latest - 2])[:, None]


def _clauses(
    grammar: _Grammar, room: Int[Tensor, "N B"], rngs: Sequence[torch.Generator]
) -> tuple[Int[Tensor, "N*B clauses"], Int[Tensor, " N*B"]]:
    """Clauses for all sentences of all N batches, and the number of words they leave unfilled in each.

    Args:
        room: words to fill in each sentence.
    """
    clause = grammar.first["clause"]
    lengths = grammar.lengths[clause : clause + len(CLAUSES)]
    batch_size, counts = room.shape[1], [max(1, int(largest) // SHORTEST + 1) for largest in room.amax(1).tolist()]
    # A batch is a function of its own generator, so each draws one clause more than fit into its own largest room. What
    # pads it up to the other batches never fits, so it changes nothing.
    drawn = torch.zeros(len(rngs), batch_size, max(counts), dtype=torch.int64)
    for batch, rng, count in zip(drawn, rngs, counts, strict=True):
        batch[:, :count] = torch.randint(len(CLAUSES), (batch_size, count), generator=rng)
    drawn, room = drawn.flatten(0, 1), room.flatten()
    ends = lengths[drawn].cumsum(1)
    fits = ends <= room[:, None]
    return torch.where(fits, drawn + clause, grammar.first["nothing"]), room - (ends * fits).amax(1)


@dataclass(frozen=True)
class Pronoun(Task):
    """``people``: 4 to 16, half of them *he*. ``mentions``: 2, or 1 for *who*. ``filler_words``: the number of words
    to choose from in each slot of the grammar, 1 to 12."""

    people: int = 8
    mentions: int = 2
    filler_words: int = 12

    name: ClassVar[str] = "pronoun"
    source: ClassVar[str] = "seqmem, after rnilav's subject recall"

    def __post_init__(self) -> None:
        if self.people % 2 or not 4 <= self.people <= len(HE) + len(SHE):
            raise ValueError(f"people={self.people}: must be an even number from 4 to {len(HE) + len(SHE)}")
        if self.mentions not in (1, 2):
            raise ValueError(f"mentions={self.mentions}: must be 1 or 2")
        if not 1 <= self.filler_words <= 12:
            raise ValueError(f"filler_words={self.filler_words}: must be from 1 to 12")

    @cached_property
    def _people(self) -> Sequence[str]:
        return _people(self.people)

    @cached_property
    def _grammar(self) -> _Grammar:
        return _grammar(self.people, self.mentions, self.filler_words, 1)

    @cached_property
    def _names(self) -> Int[Tensor, "people 2"]:
        token = {word: i for i, word in enumerate(self._grammar.words)}
        return torch.tensor([[token[word] for word in person.split()] for person in self._people])

    @cached_property
    def _is_name(self) -> Bool[Tensor, " tokens"]:
        is_name = torch.zeros(self.inputs.size, dtype=torch.bool)
        is_name[self._names.flatten()] = True
        return is_name

    @property
    def inputs(self) -> Tokens:
        return Tokens(len(self._grammar.words))

    @property
    def targets(self) -> Tokens:
        return Tokens(self.people)

    @property
    def chance(self) -> float:
        return self.mentions / self.people

    @property
    def constant(self) -> float:
        return 1 / self.people

    def plateaus(self, seq_len: int) -> Sequence[Plateau]:
        if self.mentions == 1:
            return ()
        return [Plateau(0.5 + self.chance / 2, self.baseline_loss(seq_len) / 2, "one name")]

    @property
    def min_seq_len(self) -> int:
        return 7 if self.mentions == 2 else 5

    def sample(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Batch:
        return self._generate(batch_size, seq_len, [rng])[0]

    def samples(self, batch_size: int, seq_len: int, rngs: Sequence[torch.Generator]) -> list[Batch]:
        return self._generate(batch_size, seq_len, rngs)

    def _generate(self, batch_size: int, seq_len: int, rngs: Sequence[torch.Generator]) -> list[Batch]:
        """All batches in one pass: for a few thousand words, torch's overhead per call exceeds the work."""
        self.check(batch_size, seq_len)
        half, latest = self.people // 2, max(3, seq_len // 3)  # the second person's two words begin at 3 ... latest
        # Rounded up to a power of two, so that few grammars are built and cached when batch lengths vary.
        repeats = 1 << (latest // len(PHRASES)).bit_length()
        grammar = _grammar(self.people, self.mentions, self.filler_words, repeats)
        first_of = grammar.first
        draws = 3 + self.mentions
        drawn = torch.cat([torch.rand(draws, batch_size, generator=rng) for rng in rngs], 1)
        # Uniform integers from 0 up to each range, one per sentence of all batches.
        he_first, first, second, asks_first, *more = (drawn * _draw_ranges(half, latest)[:draws]).long().unbind()
        first, second = first + half * (1 - he_first), second + half * he_first

        # A sentence's templates: the opening, the clauses, and the last word.
        opening, phrases_length = [first + first_of["person"]], None
        if self.mentions == 2:
            (gap,) = more  # number of phrase words between the first person and TOLD
            rest = gap % len(PHRASES)
            opening += [torch.full_like(rest, first_of["longest phrases"]), rest + first_of["told"]]
            opening += [second + first_of["person"]]
            phrases_length, room = gap - rest, seq_len - 7 - gap
            answer = torch.where(asks_first.bool(), first, second)
            last = first_of["last"] + (answer >= half)
        else:
            room = torch.full_like(first, seq_len - 5)
            answer, last = first, torch.full_like(first, first_of["last"])
        clauses, left = _clauses(grammar, room.view(len(rngs), batch_size), rngs)
        opening += [left + first_of["said"]]
        templates = torch.cat([torch.stack(opening, 1), clauses, last[:, None]], 1)
        lengths = grammar.lengths[templates]
        if phrases_length is not None:
            lengths[:, 1] = phrases_length  # only so many slots of the template "longest phrases"

        # Each timestep's slot on the tape: its template's beginning plus its offset within the template.
        shift = grammar.begins[templates] - (lengths.cumsum(1) - lengths)
        timesteps = len(first) * seq_len
        slot = torch.repeat_interleave(shift.flatten(), lengths.flatten(), output_size=timesteps)
        slot.view(-1, seq_len).add_(torch.arange(seq_len))
        drawn = torch.cat([torch.rand(batch_size * seq_len, generator=rng) for rng in rngs])
        choice = (drawn * grammar.sizes.index_select(0, slot)).long()
        choice += grammar.options_at.index_select(0, slot)
        words = grammar.options.index_select(0, choice).view(len(rngs), batch_size, seq_len)
        return Batch.all_asked_at_end(words.transpose(1, 2).contiguous(), answer.view(len(rngs), batch_size))

    def space(self, seq_len: int) -> spaces.Space:
        return spaces.pronoun(seq_len, self.people, self.mentions, self.filler_words)

    def fold(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, " B"]:
        """By the other words, and of two people by their sum: each is in a fold as often as any other."""
        others, folds = content_hash(inputs.masked_fill(self._is_name[inputs], -1)), self.space(7).folds
        if self.mentions == 1:
            return others % folds
        people = (self._present(inputs) * torch.arange(self.people)).sum(1)
        return (people + others % folds) % folds

    def _present(self, inputs: Int[Tensor, "T B"]) -> Bool[Tensor, "B people"]:
        """Who is named in each sentence."""
        named = (inputs[:-1, :, None] == self._names[:, 0]) & (inputs[1:, :, None] == self._names[:, 1])
        return named.any(0)

    def solve(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "T B"]:
        present = self._present(inputs)
        if self.mentions == 2:
            he = inputs[-1] == self._grammar.words.index("he")
            people = torch.arange(self.people)
            present &= (people < self.people // 2) == he[:, None]
        return present.int().argmax(-1).expand(inputs.shape)

    def lag(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "T B"]:
        """To the first of the two words that name the person."""
        names = self._names[self.solve(inputs)[-1]]
        named = (inputs[:-1] == names[:, 0]) & (inputs[1:] == names[:, 1])
        return torch.arange(len(inputs))[:, None] - named.int().argmax(0)

    def naming(self) -> Naming:
        words, half, people = self._grammar.words, self.people // 2, range(self.people)
        if self.mentions == 1:
            return Naming(self._names.tolist(), {words.index("who"): people})
        return Naming(self._names.tolist(), {words.index("he"): people[:half], words.index("she"): people[half:]})

    def automaton(self) -> Automaton:
        return self._automaton

    @cached_property
    def _automaton(self) -> Automaton:
        token = {word: i for i, word in enumerate(self._grammar.words)}
        builder = Builder({name: options[: self.filler_words] for name, options in OPEN.items()}, token)
        named, begun, filled, end = (builder.state() for _ in range(4))
        latest: dict[int, tuple[int, int]] = {}
        if self.mentions == 1:
            for person in self._people:
                builder.path(0, person, named)
            builder.path(named, "SAID that", begun)
            asking = "who"
        else:
            half = self.people // 2
            for first, second in (
                (self._people[:half], self._people[half:]),
                (self._people[half:], self._people[:half]),
            ):
                one, phrased, told = (builder.state() for _ in range(3))
                for person in first:
                    builder.path(0, person, one)
                builder.path(one, PHRASES[-1], one)
                for phrase in PHRASES[:-1]:
                    builder.path(one, phrase, phrased)
                for state in (one, phrased):
                    builder.path(state, "TOLD", told)
                for person in second:
                    word, name = person.split()
                    between = builder.state()
                    builder.path(told, word, between)
                    builder.path(between, name, named)
                    latest[between] = (3, 3)  # it begins at timestep 3 or within the first third
            builder.path(named, "that", begun)
            asking = "he she"
        for count in range(1, LONGEST):
            builder.path(begun, phrases(count), filled)
        for state in (begun, filled):
            for clause in CLAUSES:
                builder.path(state, clause, filled)
            for word in asking.split():
                builder.path(state, word, end)
        return builder.build({end}, latest)

    def words(self, inputs: Int[Tensor, " T"]) -> list[str]:
        return [self._grammar.words[i] for i in inputs.tolist()]

    def answer(self, target: Int[Tensor, ""]) -> str:
        return self._people[int(target)]
