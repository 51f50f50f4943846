"""One training set, patience, and the schedule of the learning rate."""

from collections.abc import Iterator
from dataclasses import replace
from io import BytesIO
from math import cos, pi
from typing import Any

import pytest
import torch

from seqmem.metrics import ACCURACY, SQUARED_ERROR
from seqmem.randomness import generator
from seqmem.signals import Batch
from seqmem.tasks import Adding, Pronoun, Subject, Text
from seqmem.training.batches import TrainingSet
from seqmem.training.best import Best
from seqmem.training.loop import train
from seqmem.training.plan import Interrupted, Plan, Result
from seqmem.training.schedule import factor
from small_models import Memory, fresh, weights

SET = Plan(
    seq_len=12, steps=40, batch_size=8, sequences=20, evaluate_sequences=50, evaluate_lengths=(12,), trace_every=0
)


class Saved(Memory):
    """With a checkpoint as it would be in a file."""

    def save(self, checkpoint: dict[str, Any]) -> None:
        super().save(checkpoint)
        self.file = BytesIO()
        torch.save(checkpoint, self.file)

    def load(self) -> dict[str, Any] | None:
        if not self.saves:
            return None
        self.file.seek(0)
        return torch.load(self.file, weights_only=True)


def rows(batch: Batch) -> list[tuple[int, ...]]:
    return [tuple(column) for column in batch.inputs.T.tolist()]


def test_every_epoch_has_each_sequence_once_in_another_order() -> None:
    task = Pronoun()
    drawn = TrainingSet(SET.parts(task), SET)
    batches = drawn.batches(range(9))  # 20 sequences are batches of 8, 8 and 4
    assert [batch.inputs.shape[1] for batch in batches] == [8, 8, 4] * 3
    epochs = [[row for batch in batches[i : i + 3] for row in rows(batch)] for i in (0, 3, 6)]
    assert len({*epochs[0]}) == 20
    assert sorted(epochs[0]) == sorted(epochs[1]) == sorted(epochs[2])
    assert epochs[0] != epochs[1] != epochs[2] != epochs[0]
    for batch in batches:
        assert torch.equal(task.solve(batch.inputs)[-1], batch.targets[-1])  # answers moved with their sequences
    later = TrainingSet(SET.parts(task), SET).batches([7, 4])  # whatever was drawn before
    assert [rows(batch) for batch in later] == [rows(batches[7]), rows(batches[4])]


def test_a_training_set_holds_nothing_of_the_test_data() -> None:
    plan = replace(SET, seq_len=5, sequences=300)  # subject has 1,296 sequences of five words
    task = Subject()
    trained = {*rows(TrainingSet(plan.parts(task), plan)._sequences)}
    for part in (plan.parts(task).test, plan.parts(task).validation):
        assert not trained & {*rows(part.sample(500, 5, generator(0, "other")))}


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (replace(SET, sequences=0), "sequences=0: must be at least 1, or null for fresh ones in every batch"),
        (replace(SET, lengths="uniform"), "sequences=20: goes with lengths=fixed or mixed, not with lengths=uniform"),
        (replace(SET, patience=0), "patience=0: must be at least 1, or null"),
        (replace(SET, schedule="step"), "schedule=step: must be one of constant, linear, cosine"),
        (replace(SET, warmup=41), "warmup=41: must be from 0 to steps=40 updates"),
    ],
    ids=str,
)
def test_a_plan_that_cannot_be(plan: Plan, message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the whole message is compared)
        plan.check(Pronoun())
    assert str(error.value) == message


def test_passages_of_several_batches_are_no_training_set() -> None:
    with pytest.raises(ValueError, match=r"^sequences=20: task=text is read in passages of 10 batches; use null$"):
        SET.check(Text())


def test_the_best_weights_are_kept() -> None:
    model, *_ = fresh(Pronoun())
    best = Best()
    start = [0.5, 0.7, 0.7, float("nan"), 0.6]
    first = next(model.parameters())
    for step, score in enumerate(start):
        with torch.no_grad():
            first.fill_(step)
        best.add(step, score, ACCURACY, model)
    assert (best.step, best.score, best.since) == (1, 0.7, 3)  # of equal scores the first
    best.restore(model)
    assert first.eq(1).all()
    errors = Best()
    for step, score in enumerate([0.5, float("nan"), 0.4]):
        errors.add(step, score, SQUARED_ERROR, model)
    assert (errors.step, errors.since) == (2, 0)


def test_training_stops_when_the_score_gets_no_better() -> None:
    """Four sequences do not teach it to add; the weights are those of the best evaluation."""
    plan = replace(SET, steps=300, sequences=4, evaluate_every=5, patience=3, trace_every=50, log_every=10)
    model, task, optimizer = fresh(Adding())
    seen = Memory()
    result = train(model, task, optimizer, plan, [seen], checkpoints=seen)
    scores = {step: values["score"] for step, kind, values in seen.rows if kind == "eval"}
    last, best = max(scores), min(scores, key=lambda step: scores[step])
    assert last == best + 15 < 300
    assert result.best_step == best
    assert seen.saves[-1] == last
    # Up to the best evaluation it is the run without patience, and has its weights.
    other, _, rule = fresh(Adding())
    until = replace(plan, steps=best, patience=None)
    ended = train(other, task, rule, until)
    assert all(torch.equal(*pair) for pair in zip(weights(model), weights(other), strict=True))
    assert result.score == ended.score
    assert ended.best_step is None
    assert [step for step, _ in seen.traces] == [*range(0, last, 50), last]


@pytest.mark.parametrize("stop_after", [7, 12, 31])
def test_patience_is_resumed(stop_after: int) -> None:
    plan = replace(SET, steps=60, sequences=4, evaluate_every=5, patience=3, schedule="cosine", warmup=4)
    whole, cut = Saved(), Saved()
    model, task, optimizer = fresh(Adding())
    result = train(model, task, optimizer, plan, [whole], checkpoints=whole)
    answers: Iterator[bool] = iter([*[False] * (stop_after - 1), True])
    again = fresh(Adding())
    try:
        train(*again, plan, [cut], checkpoints=cut, stop_requested=lambda: next(answers, True))
    except Interrupted:
        again = fresh(Adding())
        resumed = train(*again, plan, [cut], checkpoints=cut)
        assert resumed == result
    else:
        raise AssertionError("it was not stopped")
    assert all(torch.equal(*pair) for pair in zip(weights(model), weights(again[0]), strict=True))
    assert whole.rows == cut.rows


def test_a_run_that_ran_out_of_patience_is_not_trained_on() -> None:
    plan = replace(SET, steps=300, sequences=4, evaluate_every=5, patience=2)
    seen, again = Saved(), fresh(Adding())
    result = train(*again, plan, [seen], checkpoints=seen)
    rows_before = len(seen.rows)
    resumed = train(*fresh(Adding()), plan, [seen], checkpoints=seen)  # killed during the closing measurements
    assert resumed == result
    assert len(seen.rows) == rows_before


@pytest.mark.parametrize("stop_after", [None, 7, 23])
def test_training_stops_where_the_task_is_solved(stop_after: int | None) -> None:
    """At the first evaluation that solves it, as the run that goes on has it; stopped and resumed, too."""
    plan = replace(SET, seq_len=5, steps=90, evaluate_every=5, sequences=None, evaluate_lengths=(5,), log_every=5)
    task = Pronoun(people=4, mentions=1, filler_words=1)

    def rows_of(plan: Plan, stop_after: int | None = None) -> tuple[Result, list[Any], Saved]:
        seen = Saved()
        answers: Iterator[bool] = iter([*[False] * ((stop_after or 99) - 1), True])
        try:
            result = train(*fresh(task), plan, [seen], checkpoints=seen, stop_requested=lambda: next(answers, True))
        except Interrupted:
            result = train(*fresh(task), plan, [seen], checkpoints=seen)
        return result, [row for row in seen.rows if row[1] != "length"], seen

    whole, rows, _ = rows_of(plan)
    first = next(step for step, kind, values in rows if kind == "eval" and values["score"] >= task.solved_at)
    assert whole.steps_to_solve == first
    assert 23 < first < 90, "the test must have something to stop"
    until, until_rows, seen = rows_of(replace(plan, until_solved=True), stop_after)
    assert until.steps_to_solve == first
    assert seen.saves[-1] == first
    assert until_rows == [row for row in rows if row[0] <= first]
    ended = train(*fresh(task), replace(plan, steps=first))
    assert (until.score, until.loss) == (ended.score, ended.loss)


def test_a_task_that_is_never_solved_cannot_be_trained_until_then() -> None:
    with pytest.raises(ValueError, match=r"^until_solved=true: task=text has no score at which it counts as solved$"):
        replace(SET, sequences=None, until_solved=True).check(Text())


@pytest.mark.parametrize("warmup", [0, 10])
def test_learning_rates_by_the_closed_form(warmup: int) -> None:
    """What the optimizer is given at every update, against the formulas."""
    plan = Plan(seq_len=12, steps=30, batch_size=2, log_every=1, evaluate_every=30, trace_every=0, warmup=warmup)
    expected = {
        "constant": lambda _: 1.0,
        "linear": lambda i: 1 - (i - warmup) / (30 - warmup),
        "cosine": lambda i: 0.5 + 0.5 * cos(pi * (i - warmup) / (30 - warmup)),
    }
    for schedule, formula in expected.items():
        seen = Memory()
        train(*fresh(Pronoun()), replace(plan, schedule=schedule), [seen])
        rates = [values["learning_rate"] for _, kind, values in seen.rows if kind == "train"]
        full = [(i + 1) / warmup if i < warmup else formula(i) for i in range(30)]
        assert rates == pytest.approx([3e-3 * share for share in full], rel=1e-12)
    assert factor("linear", 4, 4, 4) == factor("cosine", 4, 4, 4) == 1.0  # nothing but warm-up
