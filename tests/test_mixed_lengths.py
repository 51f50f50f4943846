"""Batches whose sequences have lengths of their own: exact, reproducible, and without a weight on the padding."""

from collections import Counter
from dataclasses import replace
from io import BytesIO
from typing import Any

import pytest
import torch

from seqmem.cells import CELLS, GRU, LSTM, CellFactory, Stack
from seqmem.signals import Batch
from seqmem.tasks import TASKS, Copy, Pronoun, Reverse, Subject, Task, Text
from seqmem.training.batches import MixedLengths, TrainingSet
from seqmem.training.loop import train
from seqmem.training.plan import Interrupted, Plan
from small_models import ONE_OF_EACH_TASK, Memory, after_one_update, fresh, weights
from test_altered import Typed

PLAN = Plan(seq_len=16, lengths="mixed", batch_size=6, steps=100, evaluate_sequences=20, trace_every=0)


def drawn(task: Task, plan: Plan = PLAN) -> MixedLengths:
    return MixedLengths(plan.parts(task), plan)


def alone(batch: Batch, place: int) -> Batch:
    """One of the sequences, without its padding."""
    one = batch.sequences(place, place + 1)
    return one.part(0, one.counted.stop)


@pytest.mark.parametrize(
    "name", [name for name in ONE_OF_EACH_TASK if TASKS[name]().chunks == 1 and TASKS[name]().feedback() is None]
)
def test_each_sequence_is_one_of_the_tasks_at_its_own_length(name: str) -> None:
    task = TASKS[name]()
    plan = replace(PLAN, seq_len=task.min_seq_len + 6, batch_size=12)
    for batch in drawn(task, plan).batches(range(2)):
        for place in range(12):
            one = alone(batch, place)
            solution = task.solve(one.inputs)
            assert torch.equal(solution[one.asked], one.targets[one.asked])
            assert not batch.weights[len(one.weights) :, place].any()


def test_lengths_are_drawn_uniformly_and_a_batch_ends_with_its_longest() -> None:
    counts = Counter[int]()
    for batch in drawn(Pronoun(), replace(PLAN, shortest=9, batch_size=50)).batches(range(64)):
        lengths = (batch.answered_at + 1).tolist()
        assert len(batch.inputs) == max(lengths)
        assert batch.inputs.is_contiguous()
        counts.update(lengths)
    assert set(counts) == set(range(9, 17))
    assert sum((count - 400) ** 2 / 400 for count in counts.values()) < 24.3  # chi-square, 7 degrees: p = 0.001


@pytest.mark.parametrize(
    "cell",
    [
        lambda d: LSTM(d, 6, forget_bias=1.0),
        lambda d: CELLS["attention"](d, 6),
        lambda d: CELLS["tcn"](d, 6, levels=2),
        lambda d: CELLS["mamba"](d, 6),
        lambda d: Stack([CELLS["mlstm"](d, 6), GRU(6, 4, forget_bias=1.0)]),
    ],
    ids=["lstm", "attention", "tcn", "mamba", "stack"],
)
def test_no_sequence_depends_on_its_batch_mates(cell: CellFactory) -> None:
    """The gradient of the batch is the mean of the gradients of each sequence by itself."""
    task = Copy(length=3, symbols=4)
    batch = drawn(task).batches([3])[0].to("cpu", torch.float64)
    assert len(set(batch.answered_at.tolist())) > 2
    numbers, gradients, _ = after_one_update(cell, task, batch)
    each = [after_one_update(cell, task, alone(batch, place)) for place in range(6)]
    torch.testing.assert_close(numbers[0], torch.stack([one[0][0] for one in each]).mean(), rtol=1e-12, atol=0)
    for gradient, *others in zip(gradients, *(one[1] for one in each), strict=True):
        torch.testing.assert_close(gradient, torch.stack(others).mean(0), rtol=1e-9, atol=1e-14)


def test_a_batch_is_a_function_of_the_seed_and_its_number() -> None:
    task = Pronoun()
    whole = drawn(task).batches(range(40))
    for index in (0, 15, 16, 39):
        (again,) = drawn(task).batches([index])
        assert all(torch.equal(a, b) for a, b in zip(vars(again).values(), vars(whole[index]).values(), strict=True))
    (other,) = drawn(task, replace(PLAN, seed=1)).batches([0])
    assert other.inputs.shape != whole[0].inputs.shape or not torch.equal(other.inputs, whole[0].inputs)


def test_a_run_that_is_stopped_goes_on_bitwise() -> None:
    class Stopped(Memory):
        def save(self, checkpoint: dict[str, Any]) -> None:
            super().save(checkpoint)
            self.file = BytesIO()
            torch.save(checkpoint, self.file)
            if checkpoint["progress"]["step"] == 7:
                raise Interrupted(7)

        def load(self) -> dict[str, Any] | None:
            if not self.saves:
                return None
            self.file.seek(0)
            return torch.load(self.file, weights_only=True)

    plan = replace(PLAN, steps=20, checkpoint_every=7)
    expected = fresh(Pronoun())
    train(*expected, plan)
    stopped = Stopped()
    with pytest.raises(Interrupted):
        train(*fresh(Pronoun()), plan, checkpoints=stopped)
    resumed = fresh(Pronoun())
    train(*resumed, plan, checkpoints=stopped)
    assert all(torch.equal(a, b) for a, b in zip(weights(resumed[0]), weights(expected[0]), strict=True))


def test_a_training_set_has_mixed_lengths_too() -> None:
    plan = replace(PLAN, sequences=40, batch_size=8)
    batches = TrainingSet(plan.parts(Subject()), plan).batches(range(5))
    lengths = [length for batch in batches for length in (batch.answered_at + 1).tolist()]
    assert len(lengths) == 40
    assert len(set(lengths)) > 5
    assert [len(batch.inputs) for batch in batches] == [int(batch.answered_at.max()) + 1 for batch in batches]


@pytest.mark.parametrize(
    ("task", "message"),
    [
        (Text(), "lengths=mixed: task=text is read in passages; use lengths=uniform"),
        (
            Reverse(),
            "lengths=mixed: task=reverse has one mark at which a batch's sources end; use lengths=uniform",
        ),
    ],
)
def test_tasks_that_cannot_mix_lengths_are_refused(task: Task, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        PLAN.check(task)


def test_on_the_command_line(typed: Typed) -> None:
    words = ("train", "cell=gru", "task=subject", "seq_len=8", "task.lengths=mixed", "task.shortest=3", "steps=4")
    small = ("batch_size=4", "cell.hidden_size=4", "evaluate.sequences=8", "trace.every=2")
    done = typed(*words, *small)
    assert (done.code, done.err) == (0, "")
    shown = typed("show", "outputs").out
    assert "trained up to here" in shown
    assert "\nlag         7 timesteps, to what an answer needs\n" in shown
