"""The definition of each task of recall, against plain Python written from its paper."""

from collections import Counter
from collections.abc import Sequence
from itertools import combinations
from math import log, sqrt

import pytest
import torch

from seqmem.randomness import generator
from seqmem.signals import Batch
from seqmem.tasks import Denoise, SelectiveCopy, Task, VariableCopy


def draw(task: Task, batch_size: int, seq_len: int, index: int = 0) -> Batch:
    return task.sample(batch_size, seq_len, generator(0, "recall", index))


def rows(batch: Batch) -> list[tuple[list[int], list[int], list[bool]]]:
    """(inputs, targets, asked) of each sequence."""
    return list(zip(batch.inputs.T.tolist(), batch.targets.T.tolist(), batch.asked.T.tolist(), strict=True))


def assert_uniform(counts: Counter, possible: int) -> None:
    """Chi-squared within five standard deviations."""
    expected = counts.total() / possible
    assert len(counts) <= possible
    squares = sum((n - expected) ** 2 / expected for n in counts.values()) + expected * (possible - len(counts))
    assert squares < possible - 1 + 5 * sqrt(2 * (possible - 1))


def assert_lags(task: Task, batch: Batch, at: Sequence[Sequence[int]]) -> None:
    """``at``: of each sequence, where the information of each question stands."""
    lags = task.lag(batch.inputs)
    assert lags is not None
    for lag, asked, places in zip(lags.T.tolist(), batch.asked.T.tolist(), at, strict=True):
        assert [t - lag[t] for t, yes in enumerate(asked) if yes] == list(places)


@pytest.mark.parametrize(
    ("task", "shortest", "bad", "message"),
    [
        (SelectiveCopy(), 32, {"symbols": 27}, "symbols=27: must be from 2 to 26"),
        (SelectiveCopy(length=1), 2, {"length": 0}, "length=0: must be at least 1"),
        (Denoise(), 21, {"symbols": 1}, "symbols=1: must be from 2 to 26"),
        (VariableCopy(), 21, {"length": 0}, "length=0: must be at least 1"),
    ],
    ids=str,
)
def test_shortest_sequences_and_invalid_options(task: Task, shortest: int, bad: dict, message: str) -> None:
    assert task.min_seq_len == shortest
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the whole message is compared)
        type(task)(**bad)
    assert str(error.value) == message


@pytest.mark.parametrize("symbols", [3, 14])
def test_selective_copy(symbols: int) -> None:
    task, many = SelectiveCopy(symbols, length=2), 600
    batch = draw(task, many, 8)
    places, data = [], Counter()
    for inputs, targets, asked in rows(batch):
        read, cues = inputs[:6], inputs[6:]
        assert cues == [symbols + 1] * 2
        at = [t for t, token in enumerate(read) if token != symbols]
        assert [read[t] for t in at] == targets[6:]
        assert asked == [False] * 6 + [True] * 2
        assert max(targets[6:]) < symbols
        places.append(tuple(at))
        data.update(targets[6:])
    assert set(places) == set(combinations(range(6), 2))  # a symbol directly before the cues, too, but not always
    assert_uniform(Counter(places), 15)
    assert_uniform(data, symbols)
    assert torch.equal(batch.weights > 0, batch.asked)
    assert_lags(task, batch, places)
    assert task.baseline_loss(8) == pytest.approx(log(symbols))


def test_denoise() -> None:
    task, many = Denoise(symbols=4, length=2), 600
    batch = draw(task, many, 9)
    places, data = [], Counter()
    for inputs, targets, asked in rows(batch):
        before, mark, after = inputs[:6], inputs[6], inputs[7:]
        assert mark == 5
        assert after == [4, 4]
        at = [t for t, token in enumerate(before) if token < 4]
        assert targets == [4] * 7 + [before[t] for t in at]
        assert asked == [False] * 7 + [True] * 2
        places.append(tuple(at))
        data.update(targets[7:])
    assert set(map(len, places)) == {2}  # no symbol is overwritten by another
    assert_uniform(Counter(places), 15)
    assert_uniform(data, 4)
    assert batch.weights.eq(1).all()
    assert_lags(task, batch, places)
    assert Denoise(symbols=9).baseline_loss(220) == pytest.approx(10 * log(9) / 220)


def test_variable_copy() -> None:
    task, many, room = VariableCopy(symbols=4, length=2), 600, 5
    batch = draw(task, many, room + 4)
    delays, data = [], Counter()
    for inputs, targets, asked in rows(batch):
        symbols, delay = inputs[:2], inputs.index(5) - 1
        assert inputs == symbols + [4] * (delay - 1) + [5] + [4] * (room - delay + 2)
        assert targets == [4] * (2 + delay) + symbols + [4] * (room - delay)
        assert [t for t, yes in enumerate(asked) if yes] == [2 + delay, 3 + delay]
        delays.append(delay)
        data.update(symbols)
    assert set(delays) == set(range(1, room + 1))
    assert_uniform(Counter(delays), room)
    assert_uniform(data, 4)
    assert batch.weights.eq(1).all()
    assert_lags(task, batch, [(0, 1)] * many)


def test_variable_copy_costs_a_model_without_memory_more_than_copy() -> None:
    """By enumerating the delays: at each timestep, what stands there and what is answered."""
    task, seq_len = VariableCopy(symbols=4, length=3), 14
    delays, total = range(1, seq_len - 5), 0.0
    for t in range(seq_len):
        blanks = [delay for delay in delays if t >= 3 and t != 2 + delay]
        answers = [delay for delay in blanks if 2 + delay < t <= 5 + delay]
        for count, guesses in ((len(answers), 4), (len(blanks) - len(answers), 1)):
            if count:
                total -= count / len(delays) * log(count / len(blanks) / guesses)
    assert task.baseline_loss(seq_len) == pytest.approx(total / seq_len)
    (plateau,) = task.plateaus(seq_len)
    assert plateau.loss == pytest.approx(3 * log(4) / seq_len)
    assert plateau.loss < task.baseline_loss(seq_len)


@pytest.mark.parametrize(
    ("task", "text", "answer", "why"),
    [
        (SelectiveCopy(length=2), "..a.b!!", "ab", None),
        (SelectiveCopy(length=2), "..a..!!", None, "it has 1 symbols, task=selective_copy asks for 2"),
        (SelectiveCopy(length=2), "..a.b!.", None, "its cues ! are not the last 2 timesteps, and these alone"),
        (SelectiveCopy(length=2), "a!!", None, "it is 3 long, task=selective_copy needs 4 timesteps"),
        (Denoise(length=2), "b..a!..", "ba", None),
        (Denoise(length=2), "b..a..!", None, "its one mark ! does not stand 2 timesteps before the end"),
        (Denoise(length=2), "b...!.a", None, "it has symbols after the mark !"),
        (Denoise(length=2), "b...!..", None, "it has 1 symbols, task=denoise asks for 2"),
        (VariableCopy(length=2), "ab..!...", "ab", None),
        (VariableCopy(length=2), "a...!...", None, "its first 2 timesteps, and these alone, must be symbols"),
        (VariableCopy(length=2), "ab.....", None, "it has 0 cues !, task=variable_copy has one"),
        (VariableCopy(length=2), "ab...!.", None, "fewer than 2 timesteps follow the cue !"),
    ],
    ids=str,
)
def test_typed_text(task: Task, text: str, answer: str | None, why: str | None) -> None:
    inputs = task.parse(text)
    assert "".join(task.words(inputs)) == text
    assert task.unanswerable(inputs) == why
    if answer is not None:
        batch = task.question(inputs)
        assert "".join(map(task.answer, batch.targets[batch.asked])) == answer
