"""What is trained on, looked at and tested on: three parts that never meet."""

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from commandline import TINY, Completed, only_run
from seqmem.cli.config.compose import configuration
from seqmem.cli.config.schema import identity
from seqmem.cli.config.trained import trained
from seqmem.cli.launch.one_run import former_path
from seqmem.evaluate import held_out
from seqmem.randomness import generator
from seqmem.runs.directory import RunDirectory
from seqmem.runs.files import ENVIRONMENT, write_json
from seqmem.signals import Batch
from seqmem.spaces import GENERATED, LARGE, data_revision
from seqmem.spaces import TINY as TOO_FEW
from seqmem.tasks import (
    TASKS,
    Adding,
    Anbn,
    AssociativeRecall,
    Copy,
    CycleNavigation,
    Delay,
    Denoise,
    Digits,
    Dyck,
    EvenPairs,
    FlipFlop,
    FuzzyRecall,
    Group,
    Induction,
    Modular,
    Mqar,
    NBack,
    NoisyRecall,
    Parity,
    Pronoun,
    SelectiveCopy,
    Sorting,
    Subject,
    Task,
    TemporalOrder,
    Text,
    VariableCopy,
)
from seqmem.tasks.parts import Parts
from seqmem.training.batches import training_batches
from seqmem.training.plan import Plan

SMALL = [
    (Pronoun(), 7),
    (Pronoun(), 10),
    (Pronoun(people=4), 8),
    (Pronoun(people=6, filler_words=1), 13),
    (Pronoun(mentions=1), 6),
    (Subject(), 4),
    (Subject(), 7),
    (Copy(length=3), 9),
    (Copy(symbols=2, length=7), 15),
    (TemporalOrder(), 10),
    (TemporalOrder(3), 12),
    (Parity(), 9),
    (EvenPairs(), 9),
    (NoisyRecall(keys=3, values=4, noise=0.0), 5),
    (FuzzyRecall(keys=3, values=3, key_size=2, value_size=1), 12),
    (Delay(4, xor=True), 8),
    (Dyck(types=2, depth=2), 9),
    (FlipFlop(0.5), 12),
    (SelectiveCopy(symbols=3, length=3), 9),
    (Denoise(symbols=2, length=4), 11),
    (VariableCopy(symbols=4, length=3), 11),
    (Induction(symbols=5), 5),
    (AssociativeRecall(pairs=2, keys=3, values=4), 6),
    (Mqar(pairs=2, keys=4, values=5), 9),
    (NBack(n=2, symbols=4), 4),
    (NBack(n=2, match=True, symbols=4), 7),
]
small = pytest.mark.parametrize(("task", "seq_len"), SMALL, ids=repr)


def sequences(batch: Batch) -> Iterator[bytes]:
    """A key of each sequence, of symbols or of small whole numbers."""
    rows = batch.inputs.transpose(0, 1).flatten(1).to(torch.int8).contiguous().numpy()
    return (row.tobytes() for row in rows)


def same(one: Batch, other: Batch) -> bool:
    return all(torch.equal(a, b) for a, b in zip(vars(one).values(), vars(other).values(), strict=True))


@pytest.mark.parametrize(
    ("task", "seq_len"),
    [
        (Pronoun(), 7), (Pronoun(), 9), (Pronoun(people=4, filler_words=1), 17), (Pronoun(filler_words=2), 11),
        (Pronoun(mentions=1), 7), (Pronoun(people=4, mentions=1, filler_words=1), 16), (Subject(), 4),
        (Copy(length=3), 9), (Copy(symbols=2, length=6), 20), (TemporalOrder(), 10),
        (Parity(), 8), (Modular(), 6), (Group("Z60"), 2), (Dyck(types=2, depth=3), 10),
        (EvenPairs(), 8), (CycleNavigation(), 6), (FlipFlop(), 14), (Anbn(), 31), (Anbn(3), 40),
        (SelectiveCopy(symbols=3, length=3), 9), (Denoise(symbols=2, length=4), 11),
        (VariableCopy(symbols=4, length=3), 11), (Induction(symbols=5), 5), (NBack(n=2, match=True, symbols=4), 5),
        (AssociativeRecall(pairs=2, keys=3, values=4), 6), (Sorting(symbols=6, length=4), 10),
    ],
    ids=repr,
)  # fmt: skip
def test_the_size_of_a_space_is_the_inverse_of_a_coincidence(task: Task, seq_len: int) -> None:
    """Counted over pairs of draws. Where all sequences are equally likely, it is their number."""
    many = 20000
    counts = Counter(sequences(task.sample(many, seq_len, generator(0, "t"))))
    pairs = sum(n * (n - 1) for n in counts.values())
    size = task.space(seq_len).size
    # Pairs of equal draws are nearly Poisson: within five standard deviations.
    assert pairs / 2 == pytest.approx(many**2 / 2 / size, abs=5 * (many**2 / 2 / size) ** 0.5 + 0.05 * pairs / 2)
    if size == int(size) and size < 500:
        assert len(counts) == size


@small
def test_training_validation_and_test_never_meet(task: Task, seq_len: int) -> None:
    parts = Parts(task, (seq_len,))
    seen = {
        name: set(sequences(getattr(parts, name).sample(6000, seq_len, generator(0, name))))
        for name in ("training", "validation", "test")
    }
    assert not seen["training"] & seen["test"]
    assert not seen["training"] & seen["validation"]
    if task.space(seq_len).folds >= 4:
        assert not seen["validation"] & seen["test"]
    if task.space(seq_len).size in (216, 288, 384, 512, 576):  # all equally likely: together they are the whole space
        assert len(set.union(*seen.values())) == task.space(seq_len).size


@small
def test_every_answer_has_its_share_of_a_fold(task: Task, seq_len: int) -> None:
    """So chance is what it is in the whole space, and nothing but the people (or the symbols) tells an answer."""
    batch = task.sample(30000, seq_len, generator(0, "t"))
    fold = task.fold(batch.inputs)
    last = batch.targets.gather(0, batch.answered_at[None])[0]
    space = task.space(seq_len)
    assert set(fold.tolist()) == set(range(space.folds))
    if space.size < 600:
        answers = dict(zip(sequences(batch), last.tolist(), strict=True))
        folds = dict(zip(sequences(batch), fold.tolist(), strict=True))
        counts = Counter((folds[one], answer) for one, answer in answers.items())
        for number in range(space.folds):
            assert len({counts[number, k] for _, k in counts}) == 1, number
    else:
        counts = Counter(zip(fold.tolist(), last.tolist(), strict=True))
        classes = {k for _, k in counts}
        for number in range(space.folds):
            shares = [counts[number, k] for k in classes]
            expected = sum(shares) / len(classes)
            assert sum((n - expected) ** 2 / expected for n in shares) < len(classes) + 5 * (2 * len(classes)) ** 0.5


@pytest.mark.parametrize(
    ("task", "seq_len"),
    [(Pronoun(), 50), (Pronoun(), 15), (Copy(), 50), (Copy(length=1), 9), (Subject(), 3), (Subject(), 20),
     (TemporalOrder(), 50), (Adding(), 7), (Digits("row"), 8), (Text(1), 20)],
    ids=repr,
)  # fmt: skip
def test_large_and_tiny_spaces_are_drawn_as_ever(task: Task, seq_len: int) -> None:
    assert not task.space(seq_len).split
    plan = Plan(seq_len, batch_size=6)
    for index, batch in enumerate(training_batches(plan.parts(task), plan, range(3))):
        assert same(batch, task.sample(6, seq_len, generator(0, "train", index)))
    (test,) = held_out(task, seq_len, seed=3, sequences=9, trained=(seq_len,))
    assert same(test, task.held_out().sample(9, seq_len, generator(3, "eval", seq_len)))


@small
def test_lengths_that_were_not_trained_are_tested_whole(task: Task, seq_len: int) -> None:
    (test,) = held_out(task, seq_len, seed=3, sequences=9, trained=(seq_len + 1,))
    assert same(test, task.sample(9, seq_len, generator(3, "eval", seq_len)))


def test_a_batch_of_a_part_is_a_function_of_its_arguments() -> None:
    parts = Parts(Subject(), range(4, 8))
    for part in (parts.training, parts.validation, parts.test):
        one, again, other = (part.sample(9, 5, generator(0, "t", index)) for index in (0, 0, 1))
        assert same(one, again)
        assert not same(one, other)
        assert one.asked.shape == (5, 9)
        assert torch.equal(Subject().solve(one.inputs)[-1], one.targets[-1])
    rngs = [generator(0, "t", index) for index in (0, 1)]
    together = parts.training.samples(9, 5, rngs)
    assert same(together[0], parts.training.sample(9, 5, generator(0, "t", 0)))
    assert same(together[1], parts.training.sample(9, 5, generator(0, "t", 1)))


class Renamed(Subject):
    """Draws what it likes, so nothing is known of its space."""

    def sample(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Batch:
        return super().sample(batch_size, seq_len, rng)


def test_a_subclass_does_not_inherit_a_space() -> None:
    assert not Renamed().space(4).split
    assert same(
        Parts(Renamed(), (4,)).training.sample(3, 4, generator(0, "t")), Subject().sample(3, 4, generator(0, "t"))
    )


# ---- Identity --------------------------------------------------------------------------------------------------------


def settings_of(task: Task, **more: object) -> dict:
    return {"name": task.name, "usual_seq_len": 50, "lengths": "fixed", "shortest": None, **asdict(task), **more}  # pyright: ignore[reportArgumentType]


@pytest.mark.parametrize("name", sorted(GENERATED))
def test_the_data_have_a_revision_exactly_where_a_space_is_split(name: str) -> None:
    for task in {TASKS[name](), *(task for task, _ in SMALL if task.name == name)}:
        for seq_len in range(1, 60):
            known = seq_len >= task.min_seq_len
            moved = name == "temporal_order" and known and seq_len % 10 != 0
            expected = 2 if moved or (known and TOO_FEW <= task.space(seq_len).size < LARGE) else 1
            assert data_revision(settings_of(task), seq_len) == expected, seq_len


@pytest.mark.parametrize(
    ("task", "seq_len", "more", "revision"),
    [
        (Pronoun(), 50, {}, 1),
        (Pronoun(), 14, {}, 2),
        (Pronoun(), 15, {}, 1),
        (Pronoun(), 50, {"lengths": "uniform", "shortest": 15}, 1),  # the playground's
        (Pronoun(), 50, {"lengths": "uniform", "shortest": 14}, 2),
        (Pronoun(), 50, {"lengths": "uniform"}, 2),
        (Subject(), 7, {"lengths": "uniform", "shortest": 4}, 2),
        (Subject(), 100, {}, 1),
        (Copy(), 50, {}, 1),
        (Adding(), 5, {}, 1),
        (Digits(), 64, {}, 2),
        (Text(), 50, {}, 2),
        (Pronoun(), 7, {"people": "many"}, 1),  # what is invalid is refused elsewhere
        (Pronoun(), 7, {"name": "custom"}, 1),
        (Subject(), 10**9, {}, 1),
        (Pronoun(), 10**9, {"lengths": "uniform", "shortest": 100}, 1),
    ],
    ids=repr,
)
def test_the_revision_of_a_runs_data(task: Task, seq_len: int, more: dict, revision: int) -> None:
    assert data_revision(settings_of(task, **more), seq_len) == revision


def test_runs_of_earlier_versions_stay_apart(tmp_path: Path, typed: Callable[..., Completed]) -> None:
    """A run whose data an earlier version drew otherwise: begun anew, tested as it was, and never reproduced."""
    line = ("train", *TINY, "task=subject", "task.lengths=fixed", "task.shortest=null")
    begun = typed(*line)
    assert begun.code == 0, begun
    assert "begun anew" not in begun.out
    run = RunDirectory(only_run(tmp_path / "outputs"))
    config = configuration(run)
    assert identity(config)["data_revision"] == run.environment()["data_revision"] == 2
    assert set(trained(run).lengths) == {8}
    scores = [row["score"] for row in run.metrics() if row["kind"] == "eval"]
    assert run.selection_score() == scores[-1]  # and not the final score

    former = former_path(config)
    assert former is not None
    run.path.rename(former)  # as an earlier version would have made it
    earlier = RunDirectory(former)
    environment = earlier.environment()
    del environment["data_revision"]
    write_json(earlier.file(ENVIRONMENT), environment)
    assert set(trained(earlier).lengths) == set()
    typed("reproduce", str(former)).refuses("drew other data at these settings", code=1, verb="reproduce")
    again = typed(*line)
    assert f"begun anew: {former} is of an earlier version" in again.out
    assert run.finished
    assert "begun anew" not in typed(*line).out


@pytest.mark.parametrize("task", [Subject(), Copy(length=400), TemporalOrder(), TemporalOrder(symbols=3), Pronoun()])
def test_spaces_beyond_float64_are_large(task: Task) -> None:
    for seq_len in (400, 600, 1000, 10_000):
        if seq_len >= task.min_seq_len:
            assert task.space(seq_len).size >= LARGE
            assert not task.space(seq_len).split
