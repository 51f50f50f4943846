"""A model reads one sequence timestep by timestep: its beliefs, states, gates, gradient and attention at each.

A belief is what the model would answer if it were asked now. Where a task asks with a query word, as ``pronoun`` does
with *he* or *she*, a copy of the state after each timestep reads that word; the copy is then discarded. The readout at
the other words says little, because the loss never counted there.

Axes: T time, B batch, K answers (or output features), H units (of one gate or state).
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import cached_property
from itertools import takewhile
from math import nan

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, Shaped
from numpy import ndarray
from torch import Tensor

from .cells.base import Additive
from .cells.state import State, concatenate, newest
from .decoding import decode, fed_back
from .lookback import Additions, LookBack, Weights
from .models.base import Look, Model, Step
from .probes.gradient import Tracer
from .randomness import generator
from .signals import Batch
from .tasks.base import Task
from .tasks.parts import Parts


@dataclass(frozen=True, eq=False)
class Reading:
    """One sequence as a model reads it.

    Args:
        words: the sequence as text.
        outputs: the probability of every answer if the model were asked then (they sum to 1), or the numbers that it
            predicts.
        predicts: the timesteps at which the model predicts at all; not, for example, while an encoder reads.
        asked_with: the query word that was read after each other word; None: the readout at every timestep is used.
        answers: the answers' names; None: the model predicts real numbers.
        right: the right answer at every timestep, [T] ids or [T K] numbers; None: unknown.
        asked: the timesteps at which the sequence asks for an answer.
        gates: gate name -> how far each unit's gate is open, 0 to 1; empty for a cell without gates.
        keeps: the gates whose value is the share of the old state that remains.
        states: state name -> its values after each timestep.
        gradient: series name -> L2 norm of the gradient of the loss at the last answer, by each state after each
            timestep, by all states together (``state``), and by ``input``; empty if it was not measured.
        attention: name -> what it looks back at after each timestep: attention by the names of ``Step.looks``, then the
            effective attention of states that change by addition (``Step.additive``); upper layers come first.
        chosen: the model's answer after every timestep, [T] ids or [T K] numbers: the likeliest, or where answers are
            fed back those that it wrote, greedily or by beam search.
        beam: the number of beams that wrote them; 1: greedily.
        texts: ``right`` and ``chosen``, as text.
    """

    words: tuple[str, ...]
    outputs: Float[ndarray, "T K"]
    answers: tuple[str, ...] | None
    right: Shaped[ndarray, "T ..."] | None
    asked: Bool[ndarray, " T"]
    predicts: Bool[ndarray, " T"]
    asked_with: str | None
    gates: Mapping[str, Float[ndarray, "T _"]]
    keeps: tuple[str, ...]
    states: Mapping[str, Float[ndarray, "T _"]]
    gradient: Mapping[str, Float[ndarray, " T"]]
    attention: Mapping[str, LookBack]
    chosen: Shaped[ndarray, "T ..."]
    beam: int
    texts: tuple[tuple[str, ...] | None, tuple[str, ...]] = field(repr=False)

    def __len__(self) -> int:
        return len(self.words)

    @cached_property
    def top(self) -> Shaped[ndarray, " T"]:
        """``chosen``, of a model that answers by one of several: by default the likeliest answer after every timestep.

        Raises:
            ValueError: the model predicts numbers.
        """
        if self.answers is None:
            raise ValueError("numbers are predicted, not one of several answers")
        return self.chosen

    @cached_property
    def answered_at(self) -> int:
        """The last timestep at which the sequence asks."""
        return int(np.flatnonzero(self.asked)[-1])

    @cached_property
    def changes(self) -> tuple[int, ...]:
        """The timesteps up to the last answer at which the answer changes; empty for numbers."""
        if self.answers is None:
            return ()
        return tuple(np.flatnonzero(symbol_changes(self.top[: self.answered_at + 1])).tolist())

    @property
    def changed_at(self) -> int | None:
        """The last of ``changes``; None if there is none."""
        return self.changes[-1] if self.changes else None

    @cached_property
    def asks_once(self) -> bool:
        """True if the sequence asks at one timestep; False if at several, whose answers may differ."""
        return int(np.count_nonzero(self.asked)) == 1

    @property
    def is_right(self) -> bool | None:
        """True if the last answer is right; None if the right answer is unknown, or a real number."""
        if self.right is None or self.answers is None:
            return None
        return bool(self.top[self.answered_at] == self.right[self.answered_at])

    @cached_property
    def confidence(self) -> Float[ndarray, " T"] | None:
        """The probability of the right answer after every timestep; None if it is unknown, or a real number."""
        if self.right is None or self.answers is None:
            return None
        return probabilities_of(self.outputs, self.right)

    def answer_text(self, t: int) -> str:
        """The answer after timestep ``t``, or the numbers predicted there, as text."""
        return self.texts[1][t]

    def target_text(self, t: int) -> str | None:
        """The right answer at timestep ``t`` as text; None: unknown."""
        return self.texts[0][t] if self.texts[0] is not None else None


def symbol_changes(top: Shaped[ndarray, " T"]) -> Bool[ndarray, " T"]:
    """The timesteps whose answer is not the one before."""
    return np.concatenate([[False], top[1:] != top[:-1]])


def number_changes(predicted: Float[ndarray, "T K"], tolerance: float) -> Bool[ndarray, " T"]:
    """The timestep from which on every prediction is within ``tolerance`` (a mean squared error) of the last one;
    none if all are. No two real numbers are equal, so a change is what counts as another answer."""
    far = np.square(predicted - predicted[-1]).mean(-1) > tolerance
    changes = np.zeros(len(predicted), dtype=bool)
    changes[np.flatnonzero(far)[-1:] + 1] = True
    return changes


def probabilities_of(outputs: Float[ndarray, "T K"], answers: Int[ndarray, " T"]) -> Float[ndarray, " T"]:
    """How sure a model is of these answers."""
    return np.take_along_axis(outputs, answers[:, None], 1)[:, 0]


def sentence(task: Task, seq_len: int, *, seed: int = 0, number: int = 0, trained: Collection[int] = ()) -> Batch:
    """One sequence of the test data, a function of the arguments alone.

    Args:
        trained: the lengths that its readers were trained at. Where these have few sequences, it is one left out there.

    Raises:
        ValueError: the task has no sequences of that length.
    """
    return sentences(task, seq_len, [number], seed=seed, trained=trained)[0]


def sentences(
    task: Task, seq_len: int, numbers: Iterable[int], *, seed: int = 0, trained: Collection[int] = ()
) -> list[Batch]:
    """``sentence`` of each number, drawn together."""
    task.check(1, seq_len)
    if task.max_seq_len is not None and seq_len > task.max_seq_len:
        raise ValueError(f"seq_len={seq_len} is too long for task={task.choice}: at most {task.max_seq_len}")
    rngs = [generator(seed, f"read {seq_len}", number) for number in numbers]
    return Parts(task, trained).test.samples(1, seq_len, rngs)


def typed(task: Task, text: str) -> tuple[Batch, str | None]:
    """A sequence that a user typed, and why it has no right answer (None: it has one).

    Raises:
        ValueError: the text is empty, or contains a word outside the task's vocabulary, or a number that is not finite.
    """
    inputs = task.parse(text)
    if not inputs.isfinite().all():
        raise ValueError("a number in it is not finite")
    why = task.unanswerable(inputs)
    if why is None:
        return task.question(inputs), None
    feedback = task.feedback()
    if feedback is not None and len(source := feedback.typed(inputs)):
        return feedback.asking(source), why
    asked = torch.zeros(len(inputs), 1, dtype=torch.bool)
    asked[-1] = True
    like = task.sample(1, task.min_seq_len, generator(0, "like")).targets  # for its shape and dtype only
    return Batch(inputs[:, None], like[:1].expand(len(inputs), *like.shape[1:]), asked.float(), asked), why


@torch.no_grad()
def read(
    model: Model, task: Task, batch: Batch, *, gradient: bool = True, known: bool = True, beam: int = 1
) -> Reading:
    """Read one sequence step by step, as ``Model.walk`` defines it.

    A float64 copy of the model on the CPU does the reading, as in a trace. The model is unchanged, and the result does
    not depend on the machine: an rnn may be chaotic at untrained lengths, where float32 rounding decides its answers.
    Where answers are fed back, it reads its own.

    Args:
        batch: contains one sequence.
        gradient: measure the gradient too, which takes several times as long as the rest.
        known: the batch's targets are right answers. If not, the gradient is that of the model's own last answer.
        beam: as in ``decode``, where answers are fed back: the one by which the model is scored.

    Raises:
        ValueError: the batch contains several sequences.
    """
    if batch.asked.shape[1] != 1:
        raise ValueError(f"one sequence is read at a time, not {batch.asked.shape[1]}")
    model = deepcopy(model).to("cpu").double().eval()
    batch = batch.to("cpu", torch.float64)
    feedback, written = task.feedback(), None
    if feedback is not None:
        written = decode(model, feedback, batch.inputs, batch.counted, beam=beam)
        batch = fed_back(feedback, batch, written)
    inputs = batch.inputs
    beliefs, steps = _beliefs(model, task, inputs)
    predicted = beliefs[:, 0]
    symbols = task.targets.discrete
    chosen = task.targets.decode(predicted)
    if written is not None:
        chosen[batch.counted] = written[:, 0]
    if not known:
        batch = Batch(batch.inputs, chosen[:, None].to(batch.targets.dtype), batch.weights, batch.asked)
    right = batch.targets[:, 0]
    norms: dict[str, ndarray] = {}
    if gradient:
        with torch.enable_grad():
            norms = {name: by[:, 0] for name, by in Tracer(model, task).measure(batch).series().items()}
    words = tuple(task.words(batch.inputs[:, 0]))
    return Reading(
        words=words,
        outputs=(predicted.softmax(-1) if symbols else predicted).numpy(),
        answers=tuple(map(task.answer, torch.arange(task.targets.size))) if symbols else None,
        right=right.numpy() if known else None,
        asked=batch.asked[:, 0].numpy(),
        predicts=np.array([step.predicts for step in steps]),
        asked_with=words[-1] if task.last_is_query(batch.inputs) else None,
        gates=_series([step.gates() for step in steps]),
        keeps=model.keeps,
        states=_series([newest(step.state) for step in steps]),
        gradient=norms,
        attention=_looks_back(steps),
        chosen=chosen.numpy(),
        beam=1 if written is None else beam,
        texts=(tuple(map(task.answer, right)) if known else None, tuple(map(task.answer, chosen))),
    )


@torch.no_grad()
def beliefs(model: Model, task: Task, inputs: Shaped[Tensor, "T B ..."]) -> Float[Tensor, "T B K"]:
    """The predictions, before softmax, that the model would make after each timestep if it were asked then.

    They are computed on the model's device and in its dtype, without a copy.
    """
    return _beliefs(model, task, inputs)[0] if task.last_is_query(inputs) else model(inputs)[0]


def _beliefs(model: Model, task: Task, inputs: Shaped[Tensor, "T B ..."]) -> tuple[Float[Tensor, "T B K"], list[Step]]:
    """The predictions, and the steps of the walk behind them."""
    steps = list(model.walk(inputs))
    outputs = [step.output for step in steps]
    if len(steps) > 1 and task.last_is_query(inputs):
        # The last timestep is the query already.
        outputs[:-1] = _answers(model, [step.state for step in steps[:-1]], inputs[-1])
    return model.read_out(torch.stack(outputs)), steps


def _answers(model: Model, states: Sequence[State], query: Shaped[Tensor, "B ..."]) -> Sequence[Float[Tensor, "B H"]]:
    """The model's output in each of ``states`` if it read ``query`` next, in one large batch if the shapes agree."""
    joint_state = concatenate(states)
    if joint_state is None:
        return [_next(model, query, state) for state in states]
    queries = query.repeat(len(states), *(1,) * (query.ndim - 1))
    return _next(model, queries, joint_state).split(len(query))


def _next(model: Model, query: Shaped[Tensor, "B ..."], state: State) -> Float[Tensor, "B H"]:
    return next(iter(model.walk(query[None], state))).output


def _series(rows: Sequence[Mapping[str, Shaped[Tensor, "1 _"]]]) -> dict[str, Float[ndarray, "T _"]]:
    """Name -> one row per timestep; NaN where a timestep has no values of that name."""
    series: dict[str, list[Tensor | None]] = {}
    for t, row in enumerate(rows):
        for name, units in row.items():
            series.setdefault(name, [None] * len(rows))[t] = units
    return {name: _filled(units).numpy() for name, units in series.items()}


def _filled(rows: Sequence[Shaped[Tensor, "1 units"] | None]) -> Float[Tensor, "T _"]:
    like = next(row for row in rows if row is not None)
    blank = torch.full(like.shape, nan, dtype=torch.float64)
    return torch.cat([blank if row is None else row.double() for row in rows])


# What it looks back at


def _looks_back(steps: Sequence[Step]) -> dict[str, LookBack]:
    looks = [step.looks() for step in steps]
    adds = [step.additive() for step in steps]
    series: dict[str, LookBack] = {}
    for name in _from_the_top(looks):
        series[name] = _weights([row.get(name) for row in looks])
    for name in _from_the_top(adds):
        series[name] = _additions(name, [row.get(name) for row in adds], steps)
    return series


def _weights(looks: Sequence[Look | None]) -> Weights:
    return Weights([None if look is None else (look.weights[0].numpy(), look.first) for look in looks])


def _additions(name: str, adds: Sequence[Additive | None], steps: Sequence[Step]) -> Additions:
    """From the first timestep at which the state changes by addition, as long as it does."""
    first = next(t for t, each in enumerate(adds) if each is not None)
    some = list(takewhile(lambda each: each is not None, adds[first:]))
    parts = [(each.keep, each.write[0], each.query) for each in some if each is not None]
    after = steps[first].state[name][0]
    queries = [query[0] for _, _, query in parts if query is not None]
    return Additions(
        length=len(steps),
        first=first,
        rest=(after - parts[0][1]).numpy(),
        keep=torch.stack([keep.expand(1, *after.shape)[0] for keep, _, _ in parts]).numpy(),
        write=torch.stack([write for _, write, _ in parts]).numpy(),
        query=torch.stack(queries).numpy() if queries else None,
    )


def _from_the_top(rows: Sequence[Mapping[str, object]]) -> list[str]:
    """All names, those of the upper layers first; within a layer as they are."""
    layers: dict[str, dict[str, None]] = {}
    for row in rows:
        for name in row:
            layers.setdefault(name.rpartition("/")[0], {})[name] = None
    return [name for names in reversed(layers.values()) for name in names]
