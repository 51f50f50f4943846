"""Laws over all tasks, then the definition of each.

The laws run over the yaml files in conf/task, and over VARIANTS with other options than the defaults.
"""

import random
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import fields
from hashlib import sha256
from importlib.util import find_spec
from itertools import pairwise
from math import log, log2, sqrt
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from torch import Tensor
from torch.nn.functional import one_hot

from seqmem.cli.config.schema import register
from seqmem.evaluate import CachedBatches, held_out
from seqmem.randomness import generator
from seqmem.signals import Batch, Labels, Several
from seqmem.spaces import TASK_SETTINGS
from seqmem.tasks import (
    TASKS,
    Adding,
    Copy,
    Digits,
    FirstSymbol,
    Multiplication,
    Phrases,
    Pronoun,
    Reverse,
    Subject,
    Task,
    TemporalOrder,
    Text,
    TwoSequence,
)
from seqmem.tasks.cogscale import CogScale
from seqmem.tasks.digits import pictures_of_digits
from seqmem.tasks.pronoun import HE, SHE
from seqmem.tasks.text import ALPHABET, SHARED, corpus, corpus_sha256, without_shared

CONF = Path(__file__).parents[1] / "conf" / "task"
YAMLS = sorted(yaml for yaml in CONF.rglob("*.yaml") if yaml.stem != "custom")  # custom is for a user's class


def name_of(yaml: Path) -> str:
    """The name of the task in a file: ``FOLDER_STEM`` in a subfolder."""
    return "_".join(yaml.relative_to(CONF).with_suffix("").parts)


def options(yaml: Path) -> dict:
    register()  # what interpolations call
    loaded = OmegaConf.to_container(OmegaConf.load(yaml), resolve=True)
    assert isinstance(loaded, dict)
    return {str(key): value for key, value in loaded.items()}


def built(yaml: Path) -> Task:
    settings = options(yaml)
    return TASKS[settings["name"]](**{key: value for key, value in settings.items() if key not in TASK_SETTINGS})


VARIANTS = [
    Adding("tcn"),
    Adding("hs97"),
    Adding("pascanu"),
    Copy(symbols=2, length=1),
    Copy(symbols=26, length=3),
    Digits("row"),
    Digits("pixel", permute=True),
    Digits("row", permute=True),
    Phrases(choices=2),
    Pronoun(mentions=1),
    Pronoun(people=4, filler_words=1),
    Pronoun(people=16),
    FirstSymbol("2b", p=10),
    FirstSymbol("2c", p=4),
    Multiplication("pascanu"),
    TemporalOrder(symbols=3),
    TemporalOrder(variant="hs97"),
    TwoSequence("3b", 3),
    TwoSequence("3c"),
    Text(chunks=1),
]


def longer(task: Task) -> int:
    """A length above the minimum, odd."""
    return task.min_seq_len + 13


UNIQUE = {"text": 301}
"""Task -> a length at which its sequences have one answer: no passage of text so long occurs twice."""

FORECASTS = ("cogscale_chaotic_forecasting", "cogscale_sinus_forecasting")
"""Tasks of one signal."""

NOISY = TwoSequence("3c")
"""Whose training answers have noise."""

STORED = ("digits", "text", *FORECASTS)
"""Tasks of stored data, with parts of their own."""


def draw(task: Task, batch_size: int, seq_len: int, index: int = 0) -> Batch:
    return task.sample(batch_size, seq_len, generator(0, "test", index))


@pytest.fixture(scope="module", params=[*map(built, YAMLS), *VARIANTS], ids=repr)
def task(request: pytest.FixtureRequest) -> Task:
    """All laws of one task follow each other, so that ``many`` is drawn once for them."""
    return request.param


@pytest.fixture(scope="module")
def many(task: Task) -> tuple[Batch, Batch]:
    """Training and test data of the longer length, for statistics and whatever else looks at sequences."""
    answers = int(draw(task, 1, longer(task)).asked.sum())
    answers *= task.targets.count if isinstance(task.targets, Several) else 1
    # As many as the intervals need; several answers to a sequence make its score as much surer.
    # The passages of a signal differ little.
    count = 4000 if task.name in FORECASTS else max(4000, min(40000, round(2500 / task.chance / sqrt(answers))))
    few = draw(task, 500, longer(task))
    if count < 40000 and task.inputs.discrete:  # and as the answers to each question need
        questions = len(context(task, few)[few.asked].unique())
        count = max(count, min(66000, round(110 * log(1 / task.chance) / task.chance * questions / answers)))
    if task.feedback() is not None:  # and as the answers before need
        count = max(count, 150 * task.inputs.size)
    return draw(task, count, longer(task), 0), draw(task.held_out(), count, longer(task), 1)


def same(a: Batch, b: Batch) -> bool:
    return all(torch.equal(getattr(a, field.name), getattr(b, field.name)) for field in fields(Batch))


# ---- Laws of the configuration ---------------------------------------------------------------------------------------


def test_every_task_has_a_yaml() -> None:
    assert {name_of(yaml) for yaml in YAMLS} == set(TASKS)


@pytest.mark.parametrize("yaml", YAMLS, ids=name_of)
def test_a_yaml_lists_the_tasks_options_with_their_defaults(yaml: Path) -> None:
    settings = options(yaml)
    task = built(yaml)
    assert settings["name"] == task.name == name_of(yaml)
    assert task.choice == yaml.relative_to(CONF).with_suffix("").as_posix()
    common = [name for name in TASK_SETTINGS if name != "difficulty" or not isinstance(task, CogScale)]  # it has sizes
    assert [*settings][: len(common)] == common
    assert {field.name for field in fields(type(task))} == set(settings) - set(TASK_SETTINGS)  # pyright: ignore[reportArgumentType]
    assert task == type(task)()
    assert settings["lengths"] in ("fixed", "uniform")
    assert task.min_seq_len <= (settings["shortest"] or task.min_seq_len) <= settings["usual_seq_len"]


@pytest.mark.parametrize(
    ("task", "bad", "message"),
    [
        (Adding, {"variant": "HS97"}, "variant=HS97: must be le2015, tcn, hs97 or pascanu"),
        (Copy, {"symbols": 1}, "symbols=1: must be from 2 to 26"),
        (Copy, {"symbols": 27}, "symbols=27: must be from 2 to 26"),
        (Copy, {"length": 0}, "length=0: must be at least 1"),
        (Digits, {"scan": "column"}, "scan=column: must be pixel or row"),
        (Phrases, {"choices": 3}, "choices=3: must be an even number from 2 to 12"),
        (Phrases, {"choices": 14}, "choices=14: must be an even number from 2 to 12"),
        (Reverse, {"symbols": 1}, "symbols=1: must be from 2 to 26"),
        (Reverse, {"symbols": 27}, "symbols=27: must be from 2 to 26"),
        (Pronoun, {"people": 5}, "people=5: must be an even number from 4 to 16"),
        (Pronoun, {"people": 2}, "people=2: must be an even number from 4 to 16"),
        (Pronoun, {"people": 18}, "people=18: must be an even number from 4 to 16"),
        (Pronoun, {"mentions": 3}, "mentions=3: must be 1 or 2"),
        (Pronoun, {"filler_words": 0}, "filler_words=0: must be from 1 to 12"),
        (Pronoun, {"filler_words": 13}, "filler_words=13: must be from 1 to 12"),
        (TemporalOrder, {"symbols": 1}, "symbols=1: must be 2 or 3"),
        (TemporalOrder, {"symbols": 4}, "symbols=4: must be 2 or 3"),
        (Text, {"chunks": 0}, "chunks=0: must be at least 1"),
    ],
    ids=str,
)
def test_an_invalid_option_is_an_error(task: type[Task], bad: dict, message: str) -> None:
    with pytest.raises(ValueError) as error:  # noqa: PT011 (the whole message is compared)
        task(**bad)
    assert str(error.value) == message


# ---- Laws of the data ------------------------------------------------------------------------------------------------


def test_solve_is_perfect(task: Task, many: tuple[Batch, Batch]) -> None:
    length = UNIQUE.get(task.name)
    for part, batch in list(zip((task, task.held_out()), many, strict=True))[task == NOISY :]:
        few = [draw(part, 60, length)] if length else [batch.sequences(0, 200), draw(part, 200, task.min_seq_len)]
        for one in few:
            counts = one.weights > 0
            assert torch.equal(part.solve(one.inputs)[counts], one.targets[counts])


def _place_and_token(task: Task, inputs: Tensor) -> Tensor:
    return torch.arange(len(inputs))[:, None] * task.inputs.size + inputs


def _nothing(task: Task, inputs: Tensor) -> Tensor:
    return torch.zeros(inputs.shape[:2], dtype=torch.int64)


CONTEXTS: dict[str, Callable[[Task, Tensor], Tensor]] = {
    "text": lambda _, inputs: inputs,  # a passage may begin anywhere, so its timestep tells nothing
    "adding": lambda _, inputs: (inputs[..., -1] > 0).long(),  # ``known`` has the rest
    "memorization": lambda _, inputs: inputs,  # a place is that of a key or of a query
    "fuzzy_recall": lambda _, inputs: inputs,
    "cogscale_cross_situation": lambda _, inputs: inputs.argmax(-1),
}
"""The information of a model without memory, [T B], as one number. By default the timestep and its token; of real
numbers nothing. The last pixels or rows of a picture are tested below."""


def context(task: Task, batch: Batch) -> Tensor:
    default = _place_and_token if task.inputs.discrete else _nothing
    return CONTEXTS.get(task.name, default)(task, batch.inputs)


def known(task: Task, batch: Batch) -> Tensor:
    """What the last input adds to an answer that is a number, [T B 1]: the number itself, where it is marked.

    Of a signal the best linear function of it, [T B K].
    """
    if task.name in FORECASTS:
        inputs, targets = (values.double() for values in (batch.inputs, batch.targets))
        x, y = ((values[batch.asked] - values[batch.asked].mean(0)) for values in (inputs, targets))
        return inputs @ torch.linalg.solve(x.T @ x, x.T @ y)
    if task.name != "adding" or task == Adding("hs97"):  # whose last number is never marked
        return torch.zeros(batch.asked.shape).unsqueeze(-1)
    return batch.inputs[..., :1] * (batch.inputs[..., 1:] > 0)


def best_symbols(task: Task, fitted: Batch, batch: Batch) -> tuple[Tensor, Tensor]:
    """(scores, losses), [T B], of the most likely symbols for each context, fitted to the batch ``fitted``: the best
    score where it asks, the best loss where it trains.

    Computed once for each pair of a context and a target that occurs, as there are few.
    """
    k = task.targets.size
    first, second = (context(task, one) * k + one.targets for one in (fitted, batch))
    size = (int(max(first.max(), second.max())) // k + 1) * k
    pairs = torch.bincount(second.flatten(), minlength=size).nonzero()[:, 0]
    tables = torch.zeros(2, size, dtype=torch.double)
    for table, measure, fits in (
        (tables[0], task.targets.score, fitted.asked), (tables[1], task.targets.loss, fitted.weights > 0)
    ):  # fmt: skip
        counts = torch.bincount(first[fits], minlength=size).view(-1, k).double() + 1e-3
        guess = (counts / counts.sum(-1, keepdim=True)).log()[pairs // k][None]
        table[pairs] = measure(guess, (pairs % k)[None])[0]
    scores, losses = tables[:, second]
    return scores, losses


def best_numbers(task: Task, fitted: Batch, batch: Batch) -> tuple[Tensor, Tensor]:
    """The same of real numbers: the mean for each context."""
    first, second, counted = context(task, fitted), context(task, batch), fitted.weights > 0
    size = int(max(first.max(), second.max())) + 1
    total = torch.zeros(size, task.targets.size, dtype=torch.double)
    total.index_add_(0, first[counted], (fitted.targets - known(task, fitted))[counted].double())
    means = total / torch.bincount(first[counted], minlength=size).clamp(min=1)[:, None]
    guess = means[second] + known(task, batch)
    guess = as_logits(task, guess)
    return task.targets.score(guess, batch.targets.double()), task.targets.loss(guess, batch.targets.double())


def as_logits(task: Task, means: Tensor) -> Tensor:
    """What predicts these means; of real numbers they themselves."""
    if isinstance(task.targets, Labels):
        return means.logit(1e-9)
    return (means + 1e-9).log() if isinstance(task.targets, Several) else means


def levels_of(task: Task, many: tuple[Batch, Batch]) -> tuple[Batch, Batch]:
    """What levels are about: training and test data, or the latter alone."""
    return (many[1], many[1]) if task.name in FORECASTS or task == NOISY else many


def per_sequence(values: Tensor, weights: Tensor) -> Tensor:
    return (values * weights).sum(0) / weights.sum(0)


def test_the_best_answer_without_a_memory_scores_chance_and_costs_baseline_loss(
    task: Task, many: tuple[Batch, Batch]
) -> None:
    parts = levels_of(task, many)
    fitted, fresh = (batch.part(batch.counted.start, batch.counted.stop) for batch in parts)
    best, seq_len = best_symbols if task.targets.discrete else best_numbers, longer(task)
    measured = [best(task, fitted, batch) for batch in (fitted, fresh)]
    scores = [per_sequence(score, batch.asked) for (score, _), batch in zip(measured, (fitted, fresh), strict=True)]
    losses = [per_sequence(loss, batch.weights) for (_, loss), batch in zip(measured, (fitted, fresh), strict=True)]
    # A fit scores too well on its own data and too badly on fresh data. The true value lies between, up to the sampling
    # error.
    for values, claimed in ((scores, task.chance_at(seq_len)), (losses, task.baseline_loss(seq_len))):
        means = [float(one.mean()) for one in values]
        error = 4 * max(float(one.std()) for one in values) / sqrt(len(values[0])) + 1e-5
        assert min(means) - error <= claimed <= max(means) + error
        assert max(means) - min(means) + 2 * error < 0.25 * claimed  # the interval above must be narrow


def test_the_best_constant_answer(task: Task, many: tuple[Batch, Batch]) -> None:
    """Seeing nothing; of text on the test part, by the frequencies of the training part."""
    parts = levels_of(task, many)
    targets, wanted = (batch.targets[batch.asked] for batch in parts)
    if task.targets.discrete:
        share, there = (torch.bincount(some, minlength=task.targets.size).double() for some in (targets, wanted))
        guess = (share / len(targets) + 1e-9).log().expand(1, task.targets.size, -1)
        score = float(task.targets.score(guess, torch.arange(task.targets.size)[None])[0] @ there) / len(wanted)
    else:
        guess = targets.double().mean(0).expand(wanted.shape)
        guess = as_logits(task, guess)
        score = float(task.targets.score(guess[None], wanted.double()[None]).mean())
    assert score == pytest.approx(task.constant_at(longer(task)), rel=0.04, abs=0.012)


@pytest.mark.parametrize("seq_len", [4, 5, 10, 11])
@pytest.mark.parametrize("variant", ["le2015", "tcn"])
def test_the_last_number_of_a_short_sum_may_be_marked(variant: Literal["le2015", "tcn"], seq_len: int) -> None:
    task = Adding(variant)
    batch = draw(task, 60_000, seq_len)
    numbers, markers = batch.inputs[..., 0].double(), batch.inputs[..., 1] > 0
    last = torch.where(markers[-1], numbers[-1], 0.5)
    first = numbers.gather(0, markers.int().argmax(0, keepdim=True))[0]
    wanted = batch.targets[-1, :, 0].double()
    assert float((wanted - last - 0.5).square().mean()) == pytest.approx(task.chance_at(seq_len), abs=0.003)
    (plateau,) = task.plateaus(seq_len)
    assert float((wanted - last - first).square().mean()) == pytest.approx(plateau.score, abs=0.002)
    assert task.chance_at(10_000) == pytest.approx(task.chance, abs=1e-4)


def best_share(keys: Iterable[Any], answers: Sequence[int]) -> tuple[float, float]:
    """(accuracy, loss in nats) of the best answers for each key, fitted to one half and scored on the other."""
    pairs, half = list(zip(keys, answers, strict=True)), len(answers) // 2
    counts: dict[Any, Counter[int]] = defaultdict(Counter)
    for key, answer in pairs[:half]:
        counts[key][answer] += 1
    right = [counts[key].most_common(1)[0][0] == answer for key, answer in pairs[half:]]
    loss = [-log((counts[key][answer] + 1e-3) / (counts[key].total() + 1e-3)) for key, answer in pairs[half:]]
    return sum(right) / half, sum(loss) / half


@pytest.mark.parametrize(
    ("task", "remembered"),
    [
        (Pronoun(), [lambda words: (*words[:2].tolist(), int(words[-1]))]),
        (TemporalOrder(), [lambda words: int(words[words < 2][-1])]),
        (TemporalOrder(symbols=3), [
            lambda words: int(words[words < 2][-1]), lambda words: tuple(words[words < 2][1:].tolist())
        ]),
    ],
)  # fmt: skip
def test_plateaus_are_what_a_part_of_the_memory_scores(task: Task, remembered: list[Callable[..., Any]]) -> None:
    seq_len = 10
    batch = draw(task, 12_000, seq_len)
    answers = batch.targets[-1].tolist()
    plateaus = task.plateaus(seq_len)
    assert len(plateaus) == len(remembered)
    for plateau, memory in zip(plateaus, remembered, strict=True):
        score, loss = best_share([memory(words) for words in batch.inputs.T.numpy()], answers)
        assert score == pytest.approx(plateau.score, abs=0.02), plateau
        assert loss == pytest.approx(plateau.loss, abs=0.03), plateau
        assert task.targets.metric.better(plateau.score, task.chance_at(seq_len))


@pytest.mark.parametrize(("scan", "permute"), [("pixel", False), ("pixel", True), ("row", False), ("row", True)])
def test_the_last_part_of_a_picture_tells_something(scan: Literal["pixel", "row"], permute: bool) -> None:
    """Against other classifiers, of the last input in the training part: nearest neighbours, and a table."""
    task = Digits(scan=scan, permute=permute)
    length = task.min_seq_len
    fitted, tested = draw(task, 6000, length), draw(task.held_out(), 2000, length)
    known, label = fitted.inputs[-1].double(), fitted.targets[-1]
    if scan == "pixel":  # one of 17 grey levels: the most frequent digit of each
        votes = torch.stack([one_hot(label[known[:, 0] == grey], 10).sum(0) for grey in known.unique()])
        votes = votes[torch.searchsorted(known.unique(), tested.inputs[-1, :, 0].double())]
    else:
        rows, which = tested.inputs[-1].double().unique(dim=0, return_inverse=True)  # 360 pictures, drawn 2,000 times
        near = torch.cdist(rows, known).topk(120, largest=False).indices
        votes = one_hot(label[near], 10).sum(1)[which]
    right = float((votes.argmax(1) == tested.targets[-1]).double().mean())
    assert right == pytest.approx(task.chance_at(length), abs=0.06)
    assert task.chance_at(length + 1) == 0.1


def test_a_batch_is_a_function_of_its_arguments(task: Task) -> None:
    def scramble(seed: int) -> None:
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)

    def state() -> tuple:  # without that of ``random``, from which the tests' type checker draws
        return str(np.random.get_state()), torch.random.get_rng_state().tolist()

    for part in (task, task.held_out()):
        scramble(1)
        before = state()
        one = draw(part, 7, longer(task))
        assert state() == before
        scramble(2)
        assert same(one, draw(part, 7, longer(task)))
        other = draw(part, 7, longer(task), index=1)
        assert not torch.equal(one.inputs, other.inputs)
        assert not torch.equal(one.targets, other.targets)


def test_shapes_and_types(task: Task) -> None:
    for part in (task, task.held_out()):
        for seq_len in (task.min_seq_len, longer(task)):
            for batch_size in (1, 5):
                batch = draw(part, batch_size, seq_len)
                steps = (task.timesteps(seq_len), batch_size)
                for signal, values in ((task.inputs, batch.inputs), (task.targets, batch.targets)):
                    if signal.discrete:
                        assert values.shape == steps
                        assert values.dtype == torch.int64
                        assert 0 <= int(values.min()) <= int(values.max()) < signal.size
                    else:
                        assert values.shape == (*steps, signal.size)
                        assert values.dtype == torch.float32
                        assert values.abs().max() <= 2
                assert batch.weights.shape == batch.asked.shape == steps
                assert batch.weights.dtype == torch.float32
                assert batch.asked.dtype == torch.bool
                assert {values.device.type for values in vars(batch).values()} == {"cpu"}
                assert task.solve(batch.inputs).shape == batch.targets.shape
                assert task.solve(batch.inputs).dtype == batch.targets.dtype


def test_every_sequence_asks_and_asked_timesteps_have_a_weight(task: Task, many: tuple[Batch, Batch]) -> None:
    for batch in (draw(task, 100, task.min_seq_len), *many):
        assert batch.asked.any(0).all()
        assert (batch.weights >= 0).all()
        assert (batch.weights[batch.asked] > 0).all()


def test_an_invalid_size_is_an_error_that_names_a_valid_one(task: Task) -> None:
    shortest = task.min_seq_len
    for part in (task, task.held_out()):
        for seq_len in (shortest - 1, 0, -1):
            with pytest.raises(
                ValueError, match=rf"^seq_len={seq_len} is too short for task={task.choice}: at least {shortest}$"
            ):
                draw(part, 2, seq_len)
        for batch_size in (0, -1):
            with pytest.raises(ValueError, match=rf"^batch_size={batch_size}: must be at least 1$"):
                draw(part, batch_size, shortest)


@pytest.mark.parametrize(
    ("task", "shortest"),
    [
        (Adding(), 4),  # two timesteps in each half
        (Adding("tcn"), 4),
        (Adding("hs97"), 11),  # ten pairs before the last
        (Copy(), 21),  # data, cue, data
        (Copy(length=1), 3),
        (Digits(), 64),
        (Digits("row"), 8),
        (Pronoun(), 7),  # my brother told his aunt that he
        (Pronoun(mentions=1), 5),  # my brother said that who
        (Phrases(), 6),  # the dog sees, and three answers
        (Reverse(), 2),
        (Subject(), 2),
        (TemporalOrder(), 10),  # a tenth is one timestep
        (TemporalOrder(3), 10),
        (Text(), 1),
    ],
    ids=repr,
)
def test_the_shortest_sequence(task: Task, shortest: int) -> None:
    assert task.min_seq_len == shortest


def test_words_and_answers_are_legible_and_unique(task: Task, many: tuple[Batch, Batch]) -> None:
    batch = many[0]
    for b in range(3):
        words = task.words(batch.inputs[:, b])
        assert len(words) == len(batch.inputs)
        assert all(word and "\n" not in word for word in words)
        assert task.answer(batch.targets[-1, b]).strip() or task.name == "text"
    if task.inputs.discrete:
        assert len(set(task.words(torch.arange(task.inputs.size)))) == task.inputs.size
    if task.targets.discrete:
        assert len({task.answer(torch.tensor(k)) for k in range(task.targets.size)}) == task.targets.size


def test_only_stored_data_have_parts_of_their_own(task: Task) -> None:
    validation, test = task.validation(), task.held_out()
    for part in (validation, test):
        assert (part == task) == (task.name not in STORED and task != NOISY)
        assert part.held_out() == test
        assert part.validation() == validation
        for name in ("name", "chance", "solved_at", "min_seq_len", "chunks", "inputs", "targets"):
            assert getattr(part, name) == getattr(task, name)
    assert (validation == test) == (test == task or task == NOISY)


def test_held_out_batches_repeat_whether_cached_or_drawn_again(task: Task, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(held_out.__globals__, "_MOST_DRAWN", 9 * longer(task) + 1)
    draws = []

    def draw_two() -> Iterator[Batch]:
        draws.append(len(draws))
        yield from held_out(task, longer(task), seed=3, sequences=9 + 5)

    first, last = draw_two()
    assert (first.inputs.shape[1], last.inputs.shape[1]) == (9, 5)
    assert not torch.equal(first.inputs[:, :5], last.inputs)
    for max_bytes, times in ((1 << 30, 1), (1 << 10, 3)):
        draws.clear()
        cached = CachedBatches(draw_two, max_bytes)
        for _ in range(3):
            one, two = cached
            assert same(one, first)
            assert same(two, last)
        assert len(draws) == times


def test_more_than_250_000_timesteps_are_drawn_in_several_batches() -> None:
    drawn = held_out(Subject(), 1001, seed=3, sequences=2 * 249 + 5)
    assert [len(batch.asked.T) for batch in drawn] == [249, 249, 5]


def test_a_cached_batch_is_drawn_again_after_an_in_place_write() -> None:
    cached = CachedBatches(lambda: [draw(Adding(), 8, 20)])
    (before,) = cached
    assert next(iter(cached)) is before
    before.inputs[3].mul_(2)  # a cell can do this, as real numbers enter it without an embedding
    (after,) = cached
    assert same(after, draw(Adding(), 8, 20))
    assert next(iter(cached)) is after


def test_the_solved_score_is_better_than_chance(task: Task) -> None:
    if task.solved_at is None:
        assert task.name == "text"
    else:
        assert task.targets.metric.better(task.solved_at, task.chance)
        assert not task.targets.metric.reached(task.chance, task.solved_at)


def test_a_certain_prediction_decodes_to_its_target(task: Task, many: tuple[Batch, Batch]) -> None:
    targets = many[0].targets[:, :5]
    certain = one_hot(targets, task.targets.size).float() if task.targets.discrete else targets
    assert torch.equal(task.targets.decode(certain), targets)


def test_only_text_depends_on_more_than_its_options() -> None:
    assert {name: dict(task().facts()) for name, task in TASKS.items() if task().facts()} == {
        "text": {"corpus_sha256": corpus_sha256()}
    }


# ---- Definitions -----------------------------------------------------------------------------------------------------


def test_subject() -> None:
    task = Subject()
    for seq_len in (2, 3, 9):
        batch = draw(task, 500, seq_len)
        subject, fillers, last = batch.inputs[0], batch.inputs[1:-1], batch.inputs[-1]
        assert set(subject.tolist()) == set(range(6))
        assert set(fillers.flatten().tolist()) == (set(range(6, 12)) if seq_len > 2 else set())
        assert set(last.tolist()) == {12}
        assert torch.equal(batch.targets[-1], subject)
        assert batch.asked.sum(0).tolist() == [1] * 500
        assert batch.asked[-1].all()
    assert task.baseline_loss(7) == pytest.approx(1.7918, abs=1e-4)
    assert task.words(torch.tensor([0, 6, 12])) == ["Alice", "walked", "WHO?"]
    assert task.answer(torch.tensor(5)) == "Frank"


@pytest.mark.parametrize("variant", ["le2015", "tcn"])
@pytest.mark.parametrize("seq_len", [4, 8, 11])
def test_adding(variant: str, seq_len: int) -> None:
    many = 1000
    batch = draw(Adding(variant), many, seq_len)
    numbers, markers = batch.inputs.unbind(-1)
    assert set(markers.flatten().tolist()) == {0, 1}
    assert numbers.min() >= 0
    assert numbers.max() <= 1
    assert numbers.std() == pytest.approx(1 / sqrt(12), rel=0.05)
    rows, places = np.nonzero(markers.T.numpy() == 1)
    assert rows.tolist() == np.arange(many).repeat(2).tolist()
    pairs = places.reshape(many, 2).tolist()
    first, second = np.asarray(pairs).T
    total = numbers.numpy()[first, range(many)] + numbers.numpy()[second, range(many)]
    np.testing.assert_allclose(batch.targets[-1, :, 0].numpy(), total, rtol=1e-6)
    half = seq_len // 2
    possible = {(i, j) for j in range(seq_len) for i in range(j) if variant == "tcn" or (i < half and j >= half)}
    counts = Counter(map(tuple, pairs))
    assert set(counts) == possible  # in particular, every distance from the question occurs
    # Uniform over the pairs: chi-squared within five standard deviations.
    expected = many / len(possible)
    degrees = len(possible) - 1
    assert sum((n - expected) ** 2 / expected for n in counts.values()) < degrees + 5 * sqrt(2 * degrees)
    assert torch.equal(batch.weights.bool(), batch.asked)
    assert batch.asked[-1].all()
    assert not batch.asked[:-1].any()


def test_adding_from_one_of_the_two_numbers_scores_a_twelfth() -> None:
    batch = draw(Adding(), 20000, 20)
    numbers, markers = batch.inputs[10:].unbind(-1)
    answer = (numbers * markers).sum(0) + 0.5
    assert float((answer - batch.targets[-1, :, 0]).square().mean()) == pytest.approx(1 / 12, rel=0.04)


@pytest.mark.parametrize("seq_len", [11, 20, 57])
def test_adding_hs97(seq_len: int) -> None:
    many, longest = 500, seq_len + seq_len // 10
    batch = draw(Adding("hs97"), many, seq_len)
    inputs, targets, weights, asked = (tensor.numpy() for tensor in vars(batch).values())
    numbers, markers = inputs[..., 0], inputs[..., 1]
    assert len(inputs) == longest == int(1.1 * seq_len)
    lengths, places = set(), set()
    for b, length in enumerate((batch.answered_at + 1).tolist()):
        lengths.add(length)
        assert asked[:, b].sum() == 1
        assert weights[:, b].tolist() == [0] * (length - 1) + [1] + [0] * (longest - length)
        assert not inputs[length:, b].any()
        assert np.flatnonzero(markers[:, b] == -1).tolist() == [0, length - 1]
        marked = np.flatnonzero(markers[:, b] == 1).tolist()
        assert set(markers[1 : length - 1, b].tolist()) <= {0, 1}
        if len(marked) == 1:  # the first draw was the first pair
            assert numbers[0, b] == 0
            assert 1 <= marked[0] < seq_len // 2
        else:
            assert len(marked) == 2
            assert numbers[0, b] != 0
            assert any(m < 10 and 1 <= other < seq_len // 2 for m, other in (marked, marked[::-1]))
        places.update(marked)
        answer = 0.5 + sum(float(numbers[m, b]) for m in marked) / 4
        assert abs(float(targets[length - 1, b, 0]) - answer) <= 1e-6
    assert lengths == set(range(seq_len, longest + 1))
    assert places == set(range(1, max(10, seq_len // 2)))
    single = float(((markers == 1).sum(0) == 1).mean())  # share of sequences with one marked number
    assert single == pytest.approx(0.1, abs=4 * sqrt(0.09 / many))
    inside = numbers[1:seq_len]
    assert -1 <= inside.min() < -0.99
    assert 0.99 < inside.max() <= 1


def test_adding_hs97_is_solved_at_a_quarter_of_the_error() -> None:
    assert Adding("hs97").solved_at == Adding().solved_at / 4 < 0.04**2
    assert Adding("hs97").chance == pytest.approx(19 / 480)


def test_adding_in_words() -> None:
    inputs = torch.tensor([[0.421, -1], [-0.5, 1], [0.25, 0], [0.75, -1], [0, 0]])
    assert Adding("hs97").words(inputs) == ["0.42|", "-0.50*", "0.25", "0.75|", "-"]
    assert Adding().words(inputs[1:]) == ["-0.50*", "0.25", "0.75|", "0.00"]
    assert Adding().answer(torch.tensor([1.004])) == "1.00"


@pytest.mark.parametrize("lag", [1, 2, 30])
def test_copy(lag: int) -> None:
    task = Copy()
    batch = draw(task, 300, lag + 20)
    assert task.min_seq_len == 21
    assert (task.inputs.size, task.targets.size) == (10, 9)
    assert set(batch.inputs[:10].flatten().tolist()) == set(range(1, 9))
    for b in range(300):
        data = batch.inputs[:10, b].tolist()
        assert batch.inputs[:, b].tolist() == data + [0] * (lag - 1) + [9] + [0] * 10
        assert batch.targets[:, b].tolist() == [0] * (lag + 10) + data
        assert batch.asked[:, b].tolist() == [False] * (lag + 10) + [True] * 10
    assert batch.weights.eq(1).all()
    assert task.words(batch.inputs[:, 0])[lag + 9] == "!"
    assert task.answer(torch.tensor(8)) == "h"


def test_copy_has_the_published_baseline() -> None:
    for lag, loss in ((100, 0.17329), (200, 0.09452), (500, 0.03999), (1000, 0.020387)):
        assert Copy().baseline_loss(lag + 20) == pytest.approx(loss, abs=1e-5)


@pytest.mark.parametrize("seq_len", [10, 19, 25, 50, 99, 101])
@pytest.mark.parametrize("tenths", [(0.1, 0.5), (0.1, 0.3, 0.6)])
def test_temporal_order(seq_len: int, tenths: tuple[float, ...]) -> None:
    task = TemporalOrder(len(tenths))
    batch = draw(task, 1000, seq_len)
    seen = [set() for _ in tenths]
    for b in range(1000):
        letters = batch.inputs[:, b].tolist()
        places = [t for t, letter in enumerate(letters) if letter < 2]
        assert len(places) == len(tenths)
        for k, place in enumerate(places):
            seen[k].add(place)
        assert int(batch.targets[-1, b]) == sum(letters[place] * 2**k for k, place in enumerate(places))
        assert task.answer(batch.targets[-1, b]) == "".join("AB"[letters[place]] for place in places)
    # Every position in [start L, (start + .1) L) occurs, so the lag varies, and no other.
    ranges = [(round(10 * start) * seq_len, round(10 * start + 1) * seq_len) for start in tenths]
    assert seen == [{t for t in range(seq_len) if first <= 10 * t < end} for first, end in ranges]
    assert set(batch.inputs.flatten().tolist()) == set(range(6))
    assert set(batch.targets[-1].tolist()) == set(range(2 ** len(tenths)))


def people_in(words: list[str]) -> list[tuple[int, str]]:
    return [(t, f"{a} {b}") for t, (a, b) in enumerate(pairwise(words)) if f"{a} {b}" in (*HE, *SHE)]


@pytest.mark.parametrize("seq_len", [7, 8, 12, 30, 61])
def test_pronoun(seq_len: int) -> None:
    task = Pronoun()
    batch = draw(task, 1000, seq_len)
    seconds, counts = set(), Counter()
    for b in range(1000):
        words = task.words(batch.inputs[:, b])
        (first_at, first), (second_at, second) = people_in(words)
        assert first_at == 0
        assert (first in HE) != (second in HE)
        assert 3 <= second_at <= max(3, seq_len // 3)
        seconds.add(second_at)
        assert words[second_at + 2] == "that"
        assert words[-1] in ("he", "she")
        assert not {"he", "she", "who"} & set(words[:-1])
        answer = first if (words[-1] == "he") == (first in HE) else second
        assert task.answer(batch.targets[-1, b]) == answer
        counts[answer == first] += 1
    assert seconds == set(range(3, max(3, seq_len // 3) + 1))
    assert counts[True] == pytest.approx(500, abs=5 * sqrt(250))
    assert set(batch.targets[-1].tolist()) == set(range(8))


@pytest.mark.parametrize(
    ("task", "seq_len", "many"),
    [
        (Pronoun(people=4, filler_words=1), 12, 2000),
        (Pronoun(people=4, filler_words=1, mentions=1), 9, 1000),
        (Subject(), 3, 1000),
    ],
    ids=str,
)
def test_the_automaton_has_what_is_drawn_and_no_more(task: Task, seq_len: int, many: int) -> None:
    """The spaces are small enough to be drawn whole. Every sequence with one token replaced or left out is compared."""
    automaton = task.automaton()
    assert automaton is not None
    drawn = {tuple(tokens) for tokens in task.sample(many, seq_len, generator(0, "all")).inputs.T.tolist()}
    for one in drawn:
        assert automaton.problem(one) is None
    for one in sorted(drawn)[:: max(1, len(drawn) // 3)]:
        for t in range(seq_len):
            for token in range(task.inputs.size):
                other = (*one[:t], token, *one[t + 1 :])
                problem = automaton.problem(other)
                assert (problem is None) == (other in drawn), task.words(torch.tensor(other))
                if problem is not None and problem.at == t and problem.latest is None:
                    assert token not in problem.expected
    assert automaton.tokens >= {token for one in drawn for token in one}


@pytest.mark.parametrize("task", [Pronoun(), Pronoun(mentions=1), Pronoun(people=16, filler_words=5)], ids=str)
@pytest.mark.parametrize("seq_len", [7, 29, 80])
def test_the_automaton_has_sentences_of_every_length(task: Pronoun, seq_len: int) -> None:
    automaton = task.automaton()
    for tokens in task.sample(10, seq_len, generator(3, "drawn")).inputs.T.tolist():
        assert automaton.problem(tokens) is None, task.words(torch.tensor(tokens))


def test_a_task_that_draws_other_sequences_does_not_inherit_the_automaton() -> None:
    class Reversed(Subject):
        def sample(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Batch:
            return super().sample(batch_size, seq_len, rng)

    assert Reversed().automaton() is None
    assert Subject().automaton() is not None


def test_pronoun_with_one_person() -> None:
    task = Pronoun(mentions=1)
    for seq_len in (5, 6, 30):
        batch = draw(task, 500, seq_len)
        for b in range(500):
            words = task.words(batch.inputs[:, b])
            ((at, person),) = people_in(words)
            assert at == 0
            assert words[-1] == "who"
            assert not {"he", "she", "who"} & set(words[:-1])
            assert task.answer(batch.targets[-1, b]) == person


@pytest.mark.parametrize(
    ("task", "expected"),
    [
        (Pronoun(), "202bc8d7e23b9fd3"),
        (Pronoun(people=4, filler_words=3), "a5e0c861590a9a9a"),
        (Pronoun(mentions=1), "544b86d0c5d5a55d"),
        (Pronoun(people=16, mentions=1, filler_words=1), "58427ba4c5bcd18f"),
    ],
    ids=repr,
)
def test_pronoun_draws_the_same_sentences_as_earlier_versions(task: Pronoun, expected: str) -> None:
    """Otherwise repeating a run with a later version would give other numbers.

    The lengths: the shortest, some with and without repetitions of the longest phrase, and one beyond cached grammars.
    """
    hashed = sha256()
    for index, (batch_size, seq_len) in enumerate([(1, 7), (64, 8), (5, 29), (64, 50), (17, 121), (3, 1000), (64, 9)]):
        batch = draw(task, batch_size, seq_len, index)
        for tensor in (batch.inputs, batch.targets[-1]):
            hashed.update(tensor.numpy().astype("<i8").tobytes())
    assert hashed.hexdigest()[:16] == expected


def test_digits_are_those_of_scikit_learn() -> None:
    spec = find_spec("sklearn")  # where its files are: importing it takes seconds
    assert spec is not None
    assert spec.origin is not None
    published = np.loadtxt(Path(spec.origin).with_name("datasets") / "data" / "digits.csv.gz", delimiter=",")
    images, labels = published[:, :-1], published[:, -1]
    theirs = Counter((tuple(image), int(label)) for image, label in zip(images.tolist(), labels, strict=True))
    parts = [
        [(tuple((image * 16).tolist()), int(digit)) for image, digit in zip(part.pixels, part.digit, strict=True)]
        for part in pictures_of_digits()
    ]
    every = [picture for part in parts for picture in part]
    assert Counter(every) == theirs
    assert [len(part) for part in parts] == [1257, 180, 360]
    for part, each in zip(parts[1:], (18, 36), strict=True):
        assert set(Counter(digit for _, digit in part).values()) == {each}
    assert len({image for image, _ in every}) == 1797  # all different: no part shares one, and each has one answer


def test_digits_draws_only_from_its_part() -> None:
    task = Digits("pixel")
    allowed_in = [{tuple(image) for image in part.pixels.tolist()} for part in pictures_of_digits()]
    for part, allowed in zip((task, task.validation(), task.held_out()), allowed_in, strict=True):
        batch = draw(part, 3000, 64)
        seen = Counter(map(tuple, batch.inputs[:, :, 0].T.tolist()))
        assert set(seen) <= allowed
        assert len(seen) > 0.8 * len(allowed)


def test_digits_scans_and_delays() -> None:
    pixel, row = Digits("pixel"), Digits("row")
    mixed, mixed_row = Digits("pixel", permute=True), Digits("row", permute=True)
    steps = draw(pixel, 40, 70)
    picture = steps.inputs[:64, :, 0]
    assert not steps.inputs[64:].any()
    assert steps.asked.sum(0).tolist() == [1] * 40
    assert steps.asked[-1].all()
    rows = draw(row, 40, 8)
    assert torch.equal(rows.inputs.transpose(0, 1).reshape(40, 64).T, picture)
    assert torch.equal(rows.targets[-1], steps.targets[-1])
    shuffled = draw(mixed, 40, 64).inputs[:, :, 0]
    order = [next(i for i in range(64) if torch.equal(picture[i], shuffled[t])) for t in range(64) if shuffled[t].any()]
    assert len(set(order)) > 0.75 * 64 - 5
    assert sum(abs(a - b) == 1 for a, b in pairwise(order)) < 10  # neighbours are separated
    assert torch.equal(shuffled.sort(0).values, picture.sort(0).values)
    assert torch.equal(draw(mixed_row, 40, 8).inputs.transpose(0, 1).reshape(40, 64).T, shuffled)
    assert set((picture * 16).flatten().tolist()) <= set(map(float, range(17)))
    assert row.words(torch.tensor([[0, 0.25, 1, 0, 0, 0, 0, 0.125]])) == [" :@    ."]


def text_parts() -> list[str]:
    """The first 80 %, the next and the last 10 %."""
    cuts = [len(corpus()) * tenths // 10 for tenths in (0, 8, 9, 10)]
    return [corpus()[first:end] for first, end in pairwise(cuts)]


def test_text_asks_for_the_next_character() -> None:
    task = Text()
    for part, text in zip((task, task.validation(), task.held_out()), text_parts(), strict=True):
        batch = draw(part, 100, 60)
        assert batch.asked.all()
        assert batch.weights.eq(1).all()
        for b in range(100):
            passage = "".join(ALPHABET[i] for i in [*batch.inputs[:, b].tolist(), int(batch.targets[-1, b])])
            assert passage in text
            assert batch.targets[:, b].tolist() == [ALPHABET.index(c) for c in passage[1:]]
        # The first and the last possible passage occur, and none beyond.
        beginnings = draw(part, 16, len(text) - 3).inputs[:8]
        starts = {"".join(ALPHABET[i] for i in column) for column in beginnings.T.tolist()}
        assert starts == {text[i : i + 8] for i in range(3)}


def test_text_is_pythons_documentation_in_ascii() -> None:
    text = corpus()
    assert set(text) <= set(ALPHABET)
    assert len(ALPHABET) == 96 == Text().inputs.size
    assert len(text) > 300_000
    assert 'The "while" statement' in text
    assert len(corpus_sha256()) == 64
    paragraphs = [" ".join(paragraph.split()) for paragraph in text.split("\n\n")]
    assert len(paragraphs) == len(set(paragraphs))


def test_parts_of_text_share_no_long_passage() -> None:
    width = 100
    train, validation, test = ({part[i : i + width] for i in range(len(part) - width)} for part in text_parts())
    assert not train & validation
    assert not (train | validation) & test


def test_a_paragraph_with_a_shared_passage_is_left_out() -> None:
    """Documentation repeats itself, in some Pythons across the parts."""
    letters = "".join(map(chr, range(0x4E00, 0x4E00 + 300)))  # no two passages of it are equal
    other = f"before\n\n{letters}\n\nafter"
    own = "a paragraph of its own"
    for begin in (0, 7, 49, 51):
        kept = f"{own}\n\nxx{letters[begin : begin + SHARED - 1]}yy"
        assert without_shared(f"{kept}\n\n{own}", other) == f"{kept}\n\n{own}"
        shared = f"xx{letters[begin : begin + SHARED]}yy"
        assert without_shared(f"{own}\n\n{shared}\n\nends", other) == f"{own}\n\nends"


def test_text_has_the_entropy_of_its_characters() -> None:
    """On the test part, by the training part's frequencies of single characters, and of pairs."""
    train, held = Counter(text_parts()[0]), Counter(text_parts()[2])
    cross_entropy = -sum(n * log2(max(train[c], 0.5) / train.total()) for c, n in held.items()) / held.total()
    assert Text().constant == pytest.approx(cross_entropy, rel=0.002)
    text, _, test = text_parts()
    size = len(ALPHABET)
    pairs, tested = (Counter(pairwise(part)) for part in (text, test))
    first = Counter(text[:-1])
    bigram = (
        -sum(n * log2((pairs[pair] + 0.1) / (first[pair[0]] + 0.1 * size)) for pair, n in tested.items())
        / tested.total()
    )
    assert Text().chance == pytest.approx(bigram, rel=1e-6)
    assert Text().baseline_loss(50) == pytest.approx(bigram * log(2))


def test_text_is_read_in_chunks() -> None:
    assert [Text(n).chunks for n in (1, 7)] == [1, 7]
    assert {name for name, task in TASKS.items() if task().chunks > 1} == {"text"}
    batch = draw(Text(3), 5, 3 * 20)
    for index in range(2):
        assert torch.equal(batch.chunk(index, 20).targets[-1], batch.chunk(index + 1, 20).inputs[0])


def test_text_limits_the_length_of_a_passage() -> None:
    task = Text().held_out()
    longest = len(text_parts()[2]) - 1
    assert len(draw(task, 1, longest).inputs) == longest
    with pytest.raises(ValueError, match=rf"too long for task=text: at most {longest} "):
        draw(task, 1, longest + 1)


def test_text_answers_a_space_after_an_unknown_passage() -> None:
    unknown = torch.tensor([[ALPHABET.index(c)] for c in "~Q~Q~"])
    assert Text().solve(unknown)[-1].tolist() == [ALPHABET.index(" ")]
    assert Text().words(torch.tensor([0, 1, 34])) == ["\\n", " ", "A"]
