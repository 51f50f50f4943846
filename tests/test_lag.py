"""Laws of ``Task.lag`` over all tasks that have one, and of observable twins."""

import re

import pytest
import torch
from torch import Tensor

from seqmem.lag import Lag, lag_of, read_lag
from seqmem.randomness import generator
from seqmem.signals import Batch
from seqmem.tasks import TASKS, Adding, Compression, Copy, Digits, Pronoun, Reverse, Subject, Task, TemporalOrder
from seqmem.tasks.cogscale.pattern_completion import PatternCompletion
from seqmem.tasks.observable import Observable

VARIANTS = [Adding("tcn"), Adding("hs97"), Pronoun(mentions=1), TemporalOrder(3)]
WITH_LAG = [task for task in [*(kind() for kind in TASKS.values()), *VARIANTS] if lag_of(task, task.min_seq_len)]


READ_AGAIN = ("noisy_recall", "fuzzy_recall")
"""Tasks whose answers may be read several times. One is enough: earlier ones are replaced by the last token."""


def draw(task: Task, batch_size: int, seq_len: int) -> Batch:
    return task.sample(batch_size, seq_len, generator(0, "test"))


def others(task: Task, inputs: Tensor) -> Tensor:
    """Every other input that may stand at one place, [N ...]: all tokens, or other numbers."""
    if task.inputs.discrete:
        return torch.arange(task.inputs.size)
    units = torch.eye(len(inputs))
    changed = [-inputs[None], inputs + 0.25 * units]
    if set(inputs.tolist()) <= {0, 1}:  # features that are there or not: another in the place of one, or one more
        moved = inputs - units[inputs == 1][:, None] + units
        changed += [moved.flatten(0, 1).clamp(0, 1), (inputs + units).clamp(0, 1)]
    return torch.cat(changed)


def lags_of(task: Task, inputs: Tensor) -> Tensor:
    lags = task.lag(inputs)
    assert lags is not None
    return lags


@pytest.mark.parametrize("task", WITH_LAG, ids=repr)
def test_an_answer_changes_with_the_input_at_its_lag(task: Task) -> None:
    batch = draw(task, 4, task.min_seq_len + 5)
    batch = batch.last_answer_only() if task.name in READ_AGAIN else batch
    lags = lags_of(task, batch.inputs)
    assert lags.shape == batch.asked.shape
    for t, b in (batch.asked & (batch.weights > 0)).nonzero().tolist():
        at = t - int(lags[t, b])
        assert 0 <= at <= t
        if task.name in READ_AGAIN:
            batch.inputs[:at, b] = task.inputs.size - 1
            assert torch.equal(task.solve(batch.inputs)[t, b], batch.targets[t, b])
        changed = others(task, batch.inputs[at, b])
        inputs = batch.inputs[:, b, None].repeat_interleave(len(changed), 1)
        inputs[at] = changed
        answers = task.solve(inputs)[t]
        assert any(not torch.equal(answer, batch.targets[t, b]) for answer in answers), (t, b, at)


@pytest.mark.parametrize("task", WITH_LAG, ids=repr)
def test_an_answer_does_not_change_with_what_comes_before_its_lag(task: Task) -> None:
    """Sequences whose information begins at the same timestep exchange everything before it."""
    batch = draw(task, 60, task.min_seq_len + 5)
    begins = torch.arange(len(batch.asked))[:, None] - lags_of(task, batch.inputs)
    compared = 0
    for t in batch.asked.any(1).nonzero()[:, 0].tolist()[-3:]:
        for begin in begins[t, batch.asked[t]].unique().tolist():
            same = (batch.asked[t] & (begins[t] == begin)).nonzero()[:, 0]
            if begin == 0 or len(same) < 2:
                continue
            inputs = batch.inputs[:, same].clone()
            inputs[:begin] = inputs[:begin].roll(1, 1)
            valid = torch.tensor(
                [
                    isinstance(task, PatternCompletion) or task.unanswerable(inputs[:, b]) is None
                    for b in range(len(same))
                ]
            )  # a pattern that begins as another one does is no pattern, but its answer is as clear
            assert torch.equal(task.solve(inputs)[t, valid], batch.targets[t, same[valid]])
            compared += int(valid.sum())
    assert compared > 5 or begins[batch.asked].max() == 0


@pytest.mark.parametrize(
    ("task", "seq_len", "expected"),
    [
        (Subject(), 50, Lag(49, 49.0, 49)),
        (Copy(), 50, Lag(40, 40.0, 40)),  # T + 10 of Arjovsky et al. with T = 30
        (Copy(length=1), 30, Lag(29, 29.0, 29)),
        (Reverse(), 10, Lag(1, 5.0, 9)),
        (Pronoun(mentions=1), 9, Lag(8, 8.0, 8)),
        (TemporalOrder(), 100, Lag(80, 84.5, 89)),  # the first letter is at 10 ... 19
    ],
    ids=str,
)
def test_lags_by_the_definitions(task: Task, seq_len: int, expected: Lag) -> None:
    measured = lag_of(task, seq_len)
    assert measured is not None
    assert (measured.least, measured.most) == (expected.least, expected.most)
    assert measured.mean == pytest.approx(expected.mean, abs=0.4)


@pytest.mark.parametrize("altered", [None, {}, [1, 2.0, 3], "lag", {"least": "x", "mean": 1.0, "most": 2}])
def test_a_lag_is_read_as_it_was_written(altered: object) -> None:
    lag = lag_of(Pronoun(), 20)
    assert lag is not None
    assert read_lag(lag.fields()) == lag
    assert read_lag(altered) is None


def test_a_lag_in_words() -> None:
    assert str(Lag(1, 1.0, 1)) == "1 timestep"
    assert str(Lag(49, 49.0, 49)) == "49 timesteps"
    assert str(Lag(6, 13.24, 20)) == "6 to 20 timesteps, 13.2 on average"
    assert lag_of(Digits(), 64) is None


# ---- Observable twins ------------------------------------------------------------------------------------------------

TWINS = [
    Observable(task)
    for task in [*(kind() for kind in TASKS.values()), *VARIANTS]
    if task.feedback() is None and task != Compression()
]
twins = pytest.mark.parametrize("twin", TWINS, ids=lambda twin: repr(twin.task))


@twins
def test_a_twins_answer_is_in_its_question(twin: Observable) -> None:
    """The last input alone, without its place, tells it; everything else is the task's."""
    seq_len = twin.min_seq_len + 5
    batch, hidden = draw(twin, 40, seq_len), draw(twin.task, 40, seq_len)
    assert torch.equal(batch.targets, hidden.targets)
    assert torch.equal(batch.asked, hidden.asked)
    assert torch.equal(batch.weights, hidden.weights)
    inputs, answers = batch.inputs[batch.asked], batch.targets[batch.asked]
    if twin.inputs.discrete:
        assert torch.equal(inputs - twin.task.inputs.size, answers)
        assert torch.equal(batch.inputs[~batch.asked], hidden.inputs[~batch.asked])
        assert int(batch.inputs.max()) < twin.inputs.size
    else:
        size = twin.task.inputs.size
        shown = inputs[:, size + 1 :]
        assert torch.equal(shown.argmax(-1) if twin.targets.discrete else shown, answers)
        assert torch.equal(batch.inputs[..., :size], hidden.inputs)
        assert torch.equal(batch.inputs[..., size] > 0, batch.asked)
        assert batch.inputs.shape[-1] == twin.inputs.size
    assert torch.equal(twin.solve(batch.inputs)[batch.asked], answers)
    assert twin.lag(batch.inputs)[batch.asked].eq(0).all()
    (again,) = twin.samples(40, seq_len, [generator(0, "test")])
    assert torch.equal(again.inputs, batch.inputs)


@twins
def test_a_twin_is_legible_and_may_be_typed(twin: Observable) -> None:
    batch = draw(twin, 1, twin.min_seq_len + 1)
    inputs, asked = batch.inputs[:, 0], batch.asked[:, 0]
    words = twin.words(inputs)
    for t in asked.nonzero()[:, 0].tolist():
        assert words[t].endswith(f"={twin.answer(batch.targets[t, 0])}")
    if twin.inputs.discrete and not any(" " in word for word in twin._vocabulary()):
        typed = twin.parse(" ".join(words))
        assert torch.equal(typed, inputs)
        question = twin.question(typed)
        assert torch.equal(question.asked[:, 0], asked)
        assert torch.equal(question.targets[asked, 0], batch.targets[asked, 0])
        assert twin.unanswerable(typed) is None


def test_answers_that_come_back_as_inputs_have_no_twin() -> None:
    with pytest.raises(
        ValueError, match=re.escape("observable=true: in task=reverse each answer is the next input; use false")
    ):
        Observable(Reverse())


def test_answers_that_are_several_symbols_have_no_twin() -> None:
    with pytest.raises(
        ValueError, match=re.escape("observable=true: in task=compression no symbol shows an answer; use false")
    ):
        Observable(Compression())
