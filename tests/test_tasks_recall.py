"""The definition of each task of recall, against plain Python written from its paper."""

from collections import Counter
from collections.abc import Sequence
from itertools import combinations, permutations, product
from math import log, sqrt

import pytest
import torch

from seqmem.randomness import generator
from seqmem.signals import Batch
from seqmem.tasks import AssociativeRecall, Denoise, Induction, Mqar, NBack, SelectiveCopy, Sorting, Task, VariableCopy


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
    assert squares <= possible - 1 + 5 * sqrt(2 * (possible - 1))


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
        (Induction(), 3, {"symbols": 27}, "symbols=27: must be from 2 to 26"),
        (AssociativeRecall(), 9, {"keys": 27}, "keys=27: must be from 1 to 26"),
        (AssociativeRecall(), 9, {"values": 1}, "values=1: must be from 2 to 10"),
        (AssociativeRecall(pairs=1), 3, {"pairs": 27}, "pairs=27: must be from 1 to 26, the number of keys"),
        (Mqar(), 16, {"keys": 1}, "keys=1: must be from 2 to 4096"),
        (Mqar(), 16, {"values": 5000}, "values=5000: must be from 2 to 4096"),
        (Mqar(), 16, {"pairs": 9}, "pairs=9: must be from 1 to 8, the number of keys or values"),
        (Mqar(), 16, {"power": -1.0}, "power=-1.0: must be from 0 to 1"),
        (Mqar(pairs=1), 4, {"filler": "noise"}, "filler=noise: must be blank or random"),
        (NBack(), 4, {"n": 0}, "n=0: must be at least 1"),
        (Sorting(), 13, {"length": 26}, "length=26: must be at least 2 and less than symbols=26"),
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


def test_induction() -> None:
    task, many = Induction(symbols=4), 600
    batch = draw(task, many, 7)
    places, read = [], Counter()
    for inputs, targets, asked in rows(batch):
        first, last = (t for t, token in enumerate(inputs) if token == 4)
        assert last == 6
        assert targets[-1] == inputs[first + 1]
        assert asked == [False] * 6 + [True]
        places.append(first)
        read.update(token for token in inputs if token < 4)
    assert_uniform(Counter(places), 5)  # directly before the last trigger stands an answer, too
    assert max(places) == 4
    assert_uniform(read, 4)
    assert_lags(task, batch, [(place,) for place in places])


def test_associative_recall() -> None:
    task, many = AssociativeRecall(pairs=3, keys=5, values=4), 900
    batch = draw(task, many, 9)
    at, queried, answers = [], Counter(), Counter()
    for inputs, targets, asked in rows(batch):
        pairs = dict(zip(inputs[0:6:2], inputs[1:6:2], strict=True))
        assert len(pairs) == 3
        assert set(pairs) <= set(range(4, 9))
        assert inputs[6:8] == [9, 9]
        assert targets[-1] == pairs[inputs[-1]]
        assert asked == [False] * 8 + [True]
        at.append((inputs[:-1].index(inputs[-1]),))
        queried[inputs[-1]] += 1
        answers[targets[-1]] += 1
    assert_uniform(Counter(at), 3)
    assert_uniform(queried, 5)
    assert_uniform(answers, 4)
    assert_lags(task, batch, at)


@pytest.mark.parametrize(("pairs", "values"), [(2, 3), (4, 3), (5, 2)])
def test_the_values_alone_are_a_plateau_of_associative_recall(pairs: int, values: int) -> None:
    """By enumerating all values: the most frequent is the best answer."""
    every = [Counter(drawn) for drawn in product(range(values), repeat=pairs)]
    score = sum(max(counts.values()) for counts in every) / pairs / len(every)
    loss = -sum(n / pairs * log(n / pairs) for counts in every for n in counts.values()) / len(every)
    (plateau,) = AssociativeRecall(pairs, keys=5, values=values).plateaus(20)
    assert (plateau.score, plateau.loss) == (pytest.approx(score), pytest.approx(loss))
    assert AssociativeRecall(pairs=1).plateaus(20) == []


@pytest.mark.parametrize("filler", ["blank", "random"])
def test_mqar(filler: str) -> None:
    task, many = Mqar(pairs=2, keys=4, values=5, filler=filler), 900
    batch = draw(task, many, 13)
    at, answers, seen = [], Counter(), set()
    for inputs, targets, asked in rows(batch):
        pairs = dict(zip(inputs[0:4:2], inputs[1:4:2], strict=True))
        questions = [t for t, yes in enumerate(asked) if yes]
        assert all(t >= 4 and t % 2 == 0 for t in questions)
        assert {inputs[t]: targets[t] for t in questions} == pairs  # each key once
        assert len(questions) == len(set(pairs.values())) == 2
        at.append([inputs.index(inputs[t]) for t in questions])
        answers.update(pairs.values())
        seen.update(token for t, token in enumerate(inputs[4:], 4) if t not in questions)
    assert seen == ({9} if filler == "blank" else set(range(9)))
    assert_uniform(answers, 5)
    assert_lags(task, batch, at)
    assert torch.equal(batch.weights > 0, batch.asked)


@pytest.mark.parametrize("power", [0.01, 1.0])
def test_mqar_draws_slots_one_after_the_other_by_their_weights(power: float) -> None:
    """The probability of each pair of slots: the first by its weight, the second by its weight among the others."""
    task, many, slots = Mqar(pairs=2, power=power), 6000, 4
    batch = draw(task, many, 4 + 2 * slots)
    counts = Counter()
    for inputs, _, asked in rows(batch):
        place = {inputs[t]: t // 2 - 2 for t, yes in enumerate(asked) if yes}
        counts[place[inputs[0]], place[inputs[2]]] += 1
    weights = [(n + 1) ** (power - 1) for n in range(slots)]
    for one, two in permutations(range(slots), 2):
        share = weights[one] / sum(weights) * weights[two] / (sum(weights) - weights[one])
        assert counts[one, two] / many == pytest.approx(share, abs=5 * sqrt(share / many))


def test_mqar_is_a_function_of_its_seed_fillers_included() -> None:
    task = Mqar(filler="random")
    one = draw(task, 9, 40)
    torch.rand(7)  # from the global generator
    assert torch.equal(one.inputs, draw(task, 9, 40).inputs)
    assert not torch.equal(one.inputs, draw(task, 9, 40, index=1).inputs)


@pytest.mark.parametrize("n", [1, 3])
def test_nback(n: int) -> None:
    batch = draw(NBack(n, symbols=4), 300, 9)
    for inputs, targets, asked in rows(batch):
        assert targets[n:] == inputs[:-n]
        assert asked == [False] * n + [True] * (9 - n)
    assert_uniform(Counter(batch.inputs.flatten().tolist()), 4)


@pytest.mark.parametrize(("n", "symbols"), [(1, 4), (3, 4), (2, 2)])
def test_nback_by_matches(n: int, symbols: int) -> None:
    batch = draw(NBack(n, symbols, match=True), 300, 10)
    answers, others = Counter(), Counter()
    for inputs, targets, asked in rows(batch):
        assert targets[n:] == [int(a == b) for a, b in zip(inputs[:-n], inputs[n:], strict=True)]
        assert asked == [False] * n + [True] * (10 - n)
        answers.update(targets[n:])
        others.update((b - a) % symbols for a, b in zip(inputs[:-n], inputs[n:], strict=True) if a != b)
    assert_uniform(answers, 2)
    assert_uniform(others, symbols - 1)
    assert_uniform(Counter(batch.inputs[-1].tolist()), symbols)


def test_sorting() -> None:
    task, many = Sorting(symbols=4, length=3), 900
    batch = draw(task, many, 9)
    drawn = Counter()
    for inputs, targets, asked in rows(batch):
        assert inputs[3:] == [4, 4, 5, 4, 4, 4]
        assert targets[6:] == sorted(inputs[:3])
        assert asked == [False] * 6 + [True] * 3
        drawn[tuple(inputs[:3])] += 1
    assert_uniform(drawn, 24)
    assert set(drawn) == set(permutations(range(4), 3))


def test_sorting_by_place_alone_scores_chance() -> None:
    """By enumerating every choice of letters."""
    task = Sorting(symbols=7, length=4)
    places = [Counter(column) for column in zip(*combinations(range(7), 4), strict=True)]
    assert task.chance == pytest.approx(sum(max(place.values()) / place.total() for place in places) / 4)
    loss = -sum(n / place.total() * log(n / place.total()) for place in places for n in place.values()) / 4
    assert task.baseline_loss(20) == pytest.approx(loss)


def test_folds_of_sorting_have_equally_many_orders() -> None:
    """So many of each choice of letters, too."""
    task = Sorting(symbols=6, length=4)
    orders = torch.tensor(list(permutations((0, 2, 3, 5)))).T
    inputs = torch.cat([orders, torch.full((6, 24), 6)])
    assert Counter(task.fold(inputs).tolist()) == dict.fromkeys(range(4), 6)
    assert torch.equal(task.fold(inputs), task.fold(inputs.clamp(max=4)))


@pytest.mark.parametrize(
    ("task", "text", "answer", "why"),
    [
        (Induction(), "cf!dba!", "d", None),
        (Induction(), "cf!dba", None, "it does not end with a question: !"),
        (Induction(), "cfba!", None, "it has 0 triggers ! before the last, task=induction has one"),
        (Induction(), "cfba!!", None, "no symbol stands between the triggers !"),
        (AssociativeRecall(pairs=2), "c9k8..k", "8", None),
        (AssociativeRecall(pairs=2), "c9k8..j", None, "it ends with 'j', which is none of its keys"),
        (AssociativeRecall(pairs=2), "c9c8..c", None, "a key has two values"),
        (AssociativeRecall(pairs=2), "c98k..c", None, "its first 4 timesteps are not 2 pairs of a key and a value"),
        (
            AssociativeRecall(pairs=2),
            "c9k8.1c",
            None,
            "nothing but blanks may stand between the pairs and the last key",
        ),
        (Mqar(pairs=2), "aDcBc.a.", "BD", None),
        (Mqar(pairs=2), "aDcB..a.", "D", None),
        (Mqar(pairs=2), "aDcB.a..", None, "none of its keys stands at word 5, or two or more after it"),
        (Mqar(pairs=2), "aDaBc.a.", None, "a key has two values"),
        (Mqar(pairs=2), "aDBcc.a.", None, "its first 4 timesteps are not 2 pairs of a key and a value"),
        (NBack(2), "cahf", "ca", None),
        (NBack(2), "ca", None, "it is 2 long, task=nback needs 3 timesteps"),
        (Sorting(length=3), "hca..!...", "ach", None),
        (Sorting(length=3), "hch..!...", None, "it has a letter twice"),
        (Sorting(length=3), "hc...!...", None, "its first 3 timesteps, and these alone, must be letters"),
        (Sorting(length=3), "hca...!..", None, "its one cue ! does not stand 3 timesteps before the end"),
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
