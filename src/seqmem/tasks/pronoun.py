"""Who does *he* or *she* refer to?

    my brother late at night told his aunt that the old bridge was quiet while our cat slept again but he -> my brother
    ~~~~~~~~~~                    ~~~~~~~~                                                             ~~
    one person opens the sentence, one of the other gender is named within its first third, in either order;
    clauses of filler words follow; the last word asks

Whoever sees only the last word knows he or she and must guess among the people of that gender: chance is 2 / people.
With ``mentions=1`` one person is named and the last word is a neutral *who*: chance is 1 / people.

Made for seqmem, after the six-subject recall of rnilav's perceptrons-to-transformers (see ``subject``).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Int
from torch import Tensor

from ..signals import Batch, Tokens
from .base import Task

HE = "my brother|her uncle|our father|your nephew|my grandfather|her husband|our son|your grandson".split("|")
SHE = "my sister|his aunt|our mother|your niece|my grandmother|his wife|our daughter|your granddaughter".split("|")

# A slot is a list of words, one of which is drawn. A template is a list of slots.
_OPEN = {
    "NOUN": "house garden river dog cat train bridge city window letter market island".split(),
    "NOUN2": "table door lamp clock road field tower kitchen station boat forest hill".split(),
    "ADJ": "old small quiet red broken heavy bright empty narrow strange cold green".split(),
    "IS": "was seemed looked became felt stayed".split(),
    "DID": "slept waited moved stopped sang burned shook vanished fell returned".split(),
    "NEAR": "near behind beside under above beyond".split(),
    "THE": "the our every another".split(),
    "THEN": "and but so because while until although when".split(),
    "TOLD": "told warned reminded promised assured convinced".split(),
    "SAID": "said thought knew hoped feared dreamed".split(),
    "TIME": "yesterday again today tonight once sometimes".split(),
    "LAST": "last this one every".split(),
    "WEEK": "week summer morning night evening winter".split(),
}
# Clauses end with the conjunction that joins them to what follows; any number of them reads as English.
_CLAUSES = (
    "the NOUN DID THEN",
    "the NOUN IS ADJ THEN",
    "THE ADJ NOUN DID THEN",
    "the NOUN DID TIME THEN",
    "the ADJ NOUN IS ADJ THEN",
    "THE NOUN DID LAST WEEK THEN",
    "the NOUN NEAR the NOUN2 DID THEN",
    "the NOUN NEAR THE NOUN2 IS ADJ THEN",
)
# Adverbial phrases of every length, to fill exactly the room that whole clauses leave.
_PHRASES = (
    "TIME",
    "LAST WEEK",
    "NEAR the NOUN2",
    "NEAR THE ADJ NOUN2",
    "NEAR the NOUN2 LAST WEEK",
    "NEAR the ADJ NOUN2 LAST WEEK",
    "TIME NEAR the ADJ NOUN2 LAST WEEK",
)


class _Grammar(NamedTuple):
    """Templates as tables, so that a whole batch is written without a Python loop over sentences."""

    words: list[str]
    slot_words: Int[Tensor, "slots most"]
    slot_sizes: Int[Tensor, " slots"]
    clauses: Int[Tensor, "clauses longest"]  # slot ids, 0 beyond the end
    clause_lengths: Int[Tensor, " clauses"]
    phrases: Int[Tensor, "phrases longest"]  # row n - 1 has n slots
    slot: dict[str, int]


def _grammar(filler_words: int) -> _Grammar:
    slots = {name: options[:filler_words] for name, options in _OPEN.items()}
    for template in (*_CLAUSES, *_PHRASES, "that who he she"):
        for name in template.split():
            slots.setdefault(name, [name])
    for person in (*HE, *SHE):
        for word in person.split():
            slots.setdefault(word, [word])
    index = {name: i for i, name in enumerate(slots)}
    words = sorted({word for options in slots.values() for word in options})
    place = {word: i for i, word in enumerate(words)}
    most = max(map(len, slots.values()))
    slot_words = torch.tensor([[place[w] for w in options] + [0] * (most - len(options)) for options in slots.values()])

    def table(templates: tuple[str, ...]) -> Tensor:
        rows = [[index[name] for name in template.split()] for template in templates]
        longest = max(map(len, rows))
        return torch.tensor([row + [0] * (longest - len(row)) for row in rows])

    lengths = torch.tensor([len(clause.split()) for clause in _CLAUSES])
    sizes = torch.tensor([len(options) for options in slots.values()])
    return _Grammar(words, slot_words, sizes, table(_CLAUSES), lengths, table(_PHRASES), index)


@dataclass(frozen=True)
class Pronoun(Task):
    """``people``: 4 to 16, half of them *he*. ``mentions``: 2, or 1 for *who*. ``filler_words``: the largest number of
    different words in one place of the grammar, 1 to 12."""

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
    def _grammar(self) -> _Grammar:
        return _grammar(self.filler_words)

    @cached_property
    def _people(self) -> Sequence[str]:
        """First all of *he*, then all of *she*."""
        return HE[: self.people // 2] + SHE[: self.people // 2]

    @cached_property
    def _names(self) -> Int[Tensor, "people 2"]:
        place = {word: i for i, word in enumerate(self._grammar.words)}
        return torch.tensor([[place[word] for word in person.split()] for person in self._people])

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
    def min_seq_len(self) -> int:
        return 7 if self.mentions == 2 else 5

    def sample(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Batch:
        self.check(batch_size, seq_len)
        grammar, rows, half = self._grammar, torch.arange(batch_size), self.people // 2

        def draw(below: int | Tensor) -> Tensor:
            """Whole numbers from 0 up to ``below``, one a sentence."""
            return (torch.rand(batch_size, generator=rng) * below).long()

        he_first = draw(2)
        first, second = draw(half) + half * (1 - he_first), draw(half) + half * he_first
        asks_first = draw(2)

        # Slots of everything between the opening person and the last word.
        slots = torch.full((batch_size, seq_len), grammar.slot["that"])
        if self.mentions == 2:
            latest = max(3, seq_len // 3)
            second_at = 3 + draw(latest - 2)  # where the second person's two words begin: 3 ... latest
            self._fill_phrases(slots, torch.full_like(second_at, 2), second_at - 3)
            slots[rows, second_at - 1] = grammar.slot["TOLD"]
            body_at = second_at + 3
        else:
            second_at = None
            slots[:, 2] = grammar.slot["SAID"]
            body_at = torch.full((batch_size,), 4)
        self._fill_body(slots, body_at, seq_len - 1, rng)

        choice = torch.rand(batch_size, seq_len, generator=rng) * grammar.slot_sizes[slots]
        words = grammar.slot_words[slots, choice.long()]
        words[:, :2] = self._names[first]
        if second_at is None:
            answer, last = first, torch.full((batch_size,), grammar.slot["who"])
        else:
            words.scatter_(1, torch.stack([second_at, second_at + 1], 1), self._names[second])
            answer = torch.where(asks_first.bool(), first, second)
            last = torch.where(answer < half, grammar.slot["he"], grammar.slot["she"])
        words[:, -1] = grammar.slot_words[last, 0]
        return Batch.asked_at_end(words.T.contiguous(), answer)

    def _fill_phrases(self, slots: Tensor, start: Tensor, count: Tensor) -> None:
        """Write ``count[b]`` words of adverbial phrases into row b, from ``start[b]``: longest phrases first."""
        longest = len(_PHRASES)
        offset = torch.arange(slots.shape[1]) - start[:, None]
        whole = count // longest * longest
        row = torch.where(offset < whole[:, None], longest, (count - whole)[:, None]) - 1
        column = torch.where(offset < whole[:, None], offset % longest, offset - whole[:, None])
        inside = (offset >= 0) & (offset < count[:, None])
        found = self._grammar.phrases[row.clamp(min=0), column.clamp(0, longest - 1)]
        slots[inside] = found[inside]

    def _fill_body(self, slots: Tensor, start: Tensor, end: int, rng: torch.Generator) -> None:
        """Write clauses into row b from ``start[b]`` up to ``end``; a phrase in front takes what they leave over."""
        grammar = self._grammar
        room = end - start
        most = max(1, int(room.max()) // int(grammar.clause_lengths.min()) + 1)
        drawn = torch.randint(len(_CLAUSES), (len(slots), most), generator=rng)
        ends = grammar.clause_lengths[drawn].cumsum(1)
        left = room - torch.where(ends <= room[:, None], ends, 0).amax(1)
        self._fill_phrases(slots, start, left)
        offset = (torch.arange(slots.shape[1]) - (start + left)[:, None]).contiguous()
        number = torch.searchsorted(ends, offset, right=True).clamp(max=most - 1)
        clause = drawn.gather(1, number)
        column = offset - (ends.gather(1, number) - grammar.clause_lengths[clause])
        inside = (offset >= 0) & (torch.arange(slots.shape[1]) < end)
        found = grammar.clauses[clause, column.clamp(0, grammar.clauses.shape[1] - 1)]
        slots[inside] = found[inside]

    def solve(self, inputs: Int[Tensor, "T B"]) -> Int[Tensor, "T B"]:
        named = (inputs[:-1, :, None] == self._names[:, 0]) & (inputs[1:, :, None] == self._names[:, 1])
        present = named.any(0)  # [B people]
        if self.mentions == 2:
            he = inputs[-1] == self._grammar.words.index("he")
            people = torch.arange(self.people)
            present &= (people < self.people // 2) == he[:, None]
        return present.int().argmax(-1).expand(inputs.shape)

    def words(self, inputs: Int[Tensor, " T"]) -> list[str]:
        return [self._grammar.words[i] for i in inputs.tolist()]

    def answer(self, target: Int[Tensor, ""]) -> str:
        return self._people[int(target)]
