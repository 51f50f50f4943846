"""Which sequences a task has, as a finite automaton over its tokens: typed text is judged only if it is one of them.

Axes: T time.
"""

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property


@dataclass(frozen=True)
class Problem:
    """Where a sequence leaves the automaton.

    Args:
        at: the timestep, from 0 on; T: it stops too early.
        expected: the tokens that may stand there.
        latest: the last timestep at which its token could stand; None: time is not what is wrong.
    """

    at: int
    expected: Sequence[int]
    latest: int | None = None


@dataclass(frozen=True)
class Automaton:
    """A nondeterministic finite automaton that begins in state 0.

    Args:
        slots: lists of tokens, any of which takes an edge.
        edges: for each state (slot, next state).
        ends: the states in which a sequence may end.
        latest: state -> (least, divisor): a sequence of T timesteps enters it at timestep max(least, T // divisor) at
            the latest.
    """

    slots: Sequence[Sequence[int]]
    edges: Sequence[Sequence[tuple[int, int]]]
    ends: Collection[int]
    latest: Mapping[int, tuple[int, int]] = field(default_factory=dict)

    @cached_property
    def tokens(self) -> frozenset[int]:
        """All tokens that occur in a sequence."""
        return frozenset(token for slot in self.slots for token in slot)

    def problem(self, tokens: Sequence[int]) -> Problem | None:
        """The first timestep at which ``tokens`` is no sequence of the task; None: it is one."""
        states = {0}
        for t, token in enumerate(tokens):
            reached = {state for slot, state in self._edges(states) if token in self.slots[slot]}
            last = {state: max(least, len(tokens) // divisor) for state, (least, divisor) in self.latest.items()}
            entered = {state for state in reached if t <= last.get(state, t)}
            if not entered:
                late = max((last[state] for state in reached), default=None)
                return Problem(t, self._expected(states), late)
            states = entered
        return None if states & set(self.ends) else Problem(len(tokens), self._expected(states))

    def _edges(self, states: Collection[int]) -> Iterator[tuple[int, int]]:
        for state in states:
            yield from self.edges[state]

    def _expected(self, states: Collection[int]) -> list[int]:
        return sorted({token for slot, _ in self._edges(states) for token in self.slots[slot]})


class Builder:
    """Builds an automaton of templates, which are slot names separated by spaces.

    Args:
        slots: name -> its words; any other name stands for the word itself.
        vocabulary: word -> token.
    """

    def __init__(self, slots: Mapping[str, Sequence[str]], vocabulary: Mapping[str, int]) -> None:
        self._words = slots
        self._vocabulary = vocabulary
        self._slots: dict[str, int] = {}
        self._edges: list[list[tuple[int, int]]] = [[]]

    def state(self) -> int:
        """A new state."""
        self._edges.append([])
        return len(self._edges) - 1

    def path(self, start: int, template: str, end: int) -> None:
        """Lead from ``start`` to ``end`` along the template."""
        names = template.split()
        for place, name in enumerate(names):
            into = end if place == len(names) - 1 else self.state()
            self._edges[start].append((self._slots.setdefault(name, len(self._slots)), into))
            start = into

    def build(self, ends: Collection[int], latest: Mapping[int, tuple[int, int]]) -> Automaton:
        slots = [[self._vocabulary[word] for word in self._words.get(name, (name,))] for name in self._slots]
        return Automaton(slots, self._edges, ends, latest)
