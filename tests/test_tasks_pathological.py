"""Definitions of the tasks of Hochreiter & Schmidhuber 1997 and Pascanu et al. 2013, against plain Python."""

import re
from collections import Counter, defaultdict
from collections.abc import Callable
from hashlib import sha256
from math import log, sqrt

import pytest
import torch

from seqmem.randomness import generator
from seqmem.runs.settings import identity, identity_hash, later, training_settings
from seqmem.signals import Batch
from seqmem.tasks import (
    Adding,
    FirstSymbol,
    Multiplication,
    NoiselessMemorization,
    RandomPermutation,
    Reber,
    Task,
    TemporalOrder,
    TwoSequence,
)


def draw(task: Task, batch_size: int, seq_len: int) -> Batch:
    return task.sample(batch_size, seq_len, generator(0, "test"))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Multiplication("le2015"), "variant=le2015: must be hs97 or pascanu"),
        (lambda: TemporalOrder(variant="x"), "variant=x: must be pascanu or hs97"),
        (lambda: NoiselessMemorization(values=1), "values=1: must be from 2 to 10"),
        (lambda: FirstSymbol("2d"), "variant=2d: must be 2a, 2b or 2c"),
        (lambda: FirstSymbol(p=2), "p=2: must be at least 3"),
        (lambda: TwoSequence("3d"), "variant=3d: must be 3a, 3b or 3c"),
        (lambda: TwoSequence(informative=0), "informative=0: must be at least 1"),
        (lambda: NoiselessMemorization(length=0), "length=0: must be at least 1"),
    ],
)
def test_an_invalid_option(make: Callable[[], Task], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make()


def test_the_least_lengths() -> None:
    tasks = [Adding("pascanu"), Multiplication(), Multiplication("pascanu"), TemporalOrder(variant="hs97")]
    assert [task.min_seq_len for task in tasks] == [10, 11, 10, 10]
    assert [task.min_seq_len for task in (RandomPermutation(), NoiselessMemorization(5, 10))] == [2, 20]


# ---- Marked numbers --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seq_len", [10, 20, 57])
@pytest.mark.parametrize("task", [Adding("pascanu"), Multiplication("pascanu")], ids=repr)
def test_marks_of_pascanu(task: Task, seq_len: int) -> None:
    """As their code draws them: l in [L, 1.1 L), p0 in [0, .1 l), p1 in [.1 l, .5 l)."""
    batch = draw(task, 300, seq_len)
    lengths = set()
    for b in range(300):
        numbers, markers = batch.inputs[:, b].T.tolist()
        (end,) = batch.asked[:, b].nonzero()[:, 0].tolist()
        length = end + 1
        lengths.add(length)
        assert not any(numbers[length:])
        first, second = [t for t, marker in enumerate(markers) if marker]
        assert {markers[first], markers[second]} == {1}
        assert 0 <= first < int(length * 0.1) <= second < int(length * 0.1) + int(length * 0.4)
        two = (numbers[first], numbers[second])
        answer = sum(two) / 2 if isinstance(task, Adding) else two[0] * two[1]
        assert float(batch.targets[end, b]) == pytest.approx(answer, abs=1e-6)
        assert batch.weights[:, b].tolist() == batch.asked[:, b].tolist()
    assert lengths == set(range(seq_len, seq_len + max(1, int(seq_len * 0.1))))
    assert len(batch.inputs) == max(lengths) == task.timesteps(seq_len)


def test_multiplication_hs97() -> None:
    """Experiment 4's sequences with numbers from U[0, 1]; X1 is 1 if the first pair was to be marked."""
    task, alone = Multiplication("hs97"), 0
    for seq_len in (11, 40):
        batch = draw(task, 400, seq_len)
        for b in range(400):
            numbers, markers = batch.inputs[:, b].T.tolist()
            (end,) = batch.asked[:, b].nonzero()[:, 0].tolist()
            assert [t for t, marker in enumerate(markers) if marker == -1] == [0, end]
            marked = [t for t, marker in enumerate(markers) if marker == 1]
            if len(marked) == 1:
                alone += 1
                assert numbers[0] == 1
            answer = numbers[marked[0]] * (numbers[marked[1]] if len(marked) == 2 else 1)
            assert float(batch.targets[end, b]) == pytest.approx(answer, abs=1e-6)
            assert 0 <= min(numbers) <= max(numbers) <= 1
    assert alone == pytest.approx(80, abs=5 * sqrt(72))


@pytest.mark.parametrize("task", [Adding("pascanu"), Multiplication(), Multiplication("pascanu")], ids=repr)
def test_plateaus_of_marked_numbers(task: Task) -> None:
    """What is left when the last marked number is known: a line through it, fitted to many draws."""
    batch = draw(task, 20_000, 20)
    marked = batch.inputs[..., 1] == 1
    last = torch.where(marked, torch.arange(len(marked))[:, None], -1).amax(0)
    second = batch.inputs[..., 0].gather(0, last[None])[0].double()
    wanted = batch.targets[batch.answered_at, torch.arange(20_000), 0].double()
    design = torch.stack([torch.ones_like(second), second], 1)
    fitted = design @ torch.linalg.lstsq(design, wanted[:, None]).solution
    (plateau,) = task.plateaus(20)
    assert float((wanted - fitted[:, 0]).square().mean()) == pytest.approx(plateau.score, rel=0.04)


def test_adding_of_earlier_versions_draws_the_same_numbers() -> None:
    """Otherwise repeating a run with a later version would give other numbers."""
    expected = {"le2015": "d199ac2aa031780f", "tcn": "cc41f13442b41d85", "hs97": "c5d91653adc94ac3"}
    for variant in expected:
        hashed = sha256()
        for tensor in vars(draw(Adding(variant), 16, 23)).values():
            hashed.update(tensor.contiguous().numpy().tobytes())
        assert (variant, hashed.hexdigest()[:16]) == (variant, expected[variant])


# ---- Symbols ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("symbols", "ranges"), [(2, [(10, 20), (50, 60)]), (3, [(10, 20), (33, 43), (66, 76)])], ids=["6a", "6b"]
)
def test_temporal_order_hs97_as_published(symbols: int, ranges: list[tuple[int, int]]) -> None:
    task = TemporalOrder(symbols, "hs97")
    batch = draw(task, 400, 100)
    lengths, places = set(), [set() for _ in ranges]
    for b in range(400):
        text = "".join(task.words(batch.inputs[:, b]))
        matched = re.fullmatch(r"(E[abcdXY]+B)(B*)", text)
        assert matched is not None
        length = len(matched[1])
        lengths.add(length)
        assert batch.asked[:, b].nonzero()[:, 0].tolist() == [length - 1]
        assert batch.weights[:, b].tolist() == batch.asked[:, b].tolist()
        found = [t for t, letter in enumerate(text) if letter in "XY"]
        assert task.answer(batch.targets[length - 1, b]) == "".join(text[t] for t in found)
        assert len(found) == symbols
        for place, seen in zip(found, places, strict=True):
            seen.add(place)
    assert lengths == set(range(100, 111))
    assert places == [set(range(first, last + 1)) for first, last in ranges]
    assert task.inputs.size == 8
    assert set(batch.targets[-1].tolist()) == set(range(2**symbols))
    letters = "XY" if symbols == 2 else "XYX"
    assert task.unanswerable(task.parse(f"Eab{letters}abcdabB")) is None
    assert task.unanswerable(task.parse(f"Eab{letters}abcdab")) == "it does not begin with E and end with B"


def test_a_run_of_temporal_order_without_the_variant_is_the_same_run() -> None:
    config = {"task": {"name": "temporal_order", "symbols": 2}, "seq_len": 50}
    newer = {"task": {"name": "temporal_order", "symbols": 2, "variant": "pascanu"}, "seq_len": 50}
    other = {"task": {"name": "temporal_order", "symbols": 2, "variant": "hs97"}, "seq_len": 50}
    assert identity(config) == identity(newer) != identity(other)
    assert training_settings(config) == training_settings(newer)
    assert later(config)["task.variant"] == "pascanu"
    for name in ("adding", "multiplication"):  # which always have had one
        with_variant = {"task": {"name": name, "variant": "pascanu"}}
        assert identity(with_variant) == with_variant
        assert "task.variant" not in later(with_variant)
    assert identity_hash(identity(newer)) == identity_hash(config)


def test_random_permutation() -> None:
    task = RandomPermutation()
    batch = draw(task, 400, 12)
    for b in range(400):
        first, *others = batch.inputs[:, b].tolist()
        assert first in (0, 1)
        assert all(2 <= other <= 99 for other in others)
        assert int(batch.targets[-1, b]) == first
    assert batch.asked.sum(0).eq(1).all()
    assert set(batch.inputs[1:].flatten().tolist()) == set(range(2, 100))
    assert float(batch.inputs[0].double().mean()) == pytest.approx(0.5, abs=5 / sqrt(4 * 400))
    assert task.unanswerable(torch.tensor([0, 7, 1])) == "symbol 3 is 1: there task=random_permutation has 2 to 99"
    assert task.unanswerable(torch.tensor([7, 7])) == "symbol 1 is 7: there task=random_permutation has 0 or 1"


@pytest.mark.parametrize(("values", "length"), [(2, 5), (5, 10)])
@pytest.mark.parametrize("blanks", [0, 1, 9])
def test_noiseless_memorization(values: int, length: int, blanks: int) -> None:
    """The cue stands where the first answer is due, as in the code of Pascanu et al."""
    task = NoiselessMemorization(values, length)
    batch = draw(task, 60, blanks + 2 * length)
    for b in range(60):
        text = "".join(task.words(batch.inputs[:, b]))
        pattern = text[:length]
        assert set(pattern) <= set("0123456789"[:values])
        assert text == pattern + "." * blanks + "!" + "." * (length - 1)
        said = "".join(task.answer(target) for target in batch.targets[:, b])
        assert said == "." * (length + blanks) + pattern
        assert batch.asked[:, b].tolist() == [False] * (length + blanks) + [True] * length
        assert torch.equal(task.parse(text), batch.inputs[:, b])
    assert batch.weights.eq(1).all()
    text = "".join(task.words(batch.inputs[:, 0]))
    assert task.unanswerable(task.parse(text)) is None
    assert task.unanswerable(task.parse(text.replace("!", "."))) == f"timestep {length + blanks + 1} is not the cue !"


# ---- Experiments 2 and 3 of Hochreiter & Schmidhuber -----------------------------------------------------------------


def test_noise_free_and_with_random_distractors() -> None:
    for variant in ("2a", "2b"):
        task = FirstSymbol(variant, p=10)
        assert task.inputs.size == task.targets.size == 11
        batch = draw(task, 300, 10)
        middle = set()
        for b in range(300):
            first, *others = task.words(batch.inputs[:, b])
            assert first in ("x", "y")
            middle.add(tuple(others))
            assert [task.answer(target) for target in batch.targets[:, b]] == [*others, first]
            assert batch.asked[:, b].tolist() == [False] * 9 + [True]
        assert batch.weights.eq(1).all()
        assert {one for others in middle for one in others} == {f"a{i}" for i in range(1, 10)}
        if variant == "2a":
            assert middle == {tuple(f"a{i}" for i in range(1, 10))}
        assert float((batch.inputs[0] == 0).double().mean()) == pytest.approx(0.5, abs=5 / sqrt(1200))
    with pytest.raises(ValueError, match=r"^seq_len=11 is too long for task=first_symbol of variant=2a: at most p=10$"):
        draw(FirstSymbol("2a", p=10), 1, 11)


def test_very_noisy() -> None:
    """After q distractors each further element is e with probability 1/10."""
    task, q, many = FirstSymbol("2c", p=4), 6, 1500
    assert (task.inputs.size, task.targets.size) == (8, 2)
    batch = draw(task, many, q + 3)
    tails = []
    for b in range(many):
        words = task.words(batch.inputs[:, b])
        end = words.index("e")
        assert words[0] == "b"
        assert words[1] in ("x", "y")
        assert set(words[2:end]) <= {"a1", "a2", "a3", "a4"}
        assert set(words[end:]) == {"e"}
        assert batch.asked[:, b].nonzero()[:, 0].tolist() == [end]
        assert task.answer(batch.targets[end, b]) == words[1]
        tails.append(end - 2 - q)
    assert min(tails) == 0
    assert max(tails) <= 50
    shares = [0.1 * 0.9**k for k in range(51)]
    total = sum(shares)
    mean = sum(k * share for k, share in enumerate(shares)) / total
    assert sum(tails) / many == pytest.approx(mean, abs=5 * 8.5 / sqrt(many))
    assert tails.count(0) / many == pytest.approx(0.1 / total, abs=5 * sqrt(0.09 / many))
    size = 1 / (0.5 * 4.0**-q * sum((share / total) ** 2 * 4.0**-k for k, share in enumerate(shares)))
    assert task.space(q + 3).size == pytest.approx(size)


@pytest.mark.parametrize(
    ("task", "text", "why"),
    [
        (FirstSymbol("2a", 4), "y a1 a2 a3", None),
        (FirstSymbol("2a", 4), "y a1 a3 a3", "word 3 is 'a3': there task=first_symbol has a2"),
        (FirstSymbol("2b", 4), "x a3 a3", None),
        (FirstSymbol("2b", 4), "x a3 y", "word 3 is 'y': there task=first_symbol has a distractor"),
        (FirstSymbol("2b", 4), "a3 y", "word 1 is 'a3': there task=first_symbol has x or y"),
        (FirstSymbol("2c", 4), "b y a4 e", None),
        (FirstSymbol("2c", 4), "b y a4 a4", "word 4 is 'a4': there task=first_symbol has e"),
        (FirstSymbol("2c", 4), "y a4 e", "word 1 is 'y': there task=first_symbol has b"),
        (FirstSymbol("2c", 4), "b y e", "it is 3 long, task=first_symbol needs 4 timesteps"),
    ],
)
def test_typed_symbols_are_answered_or_refused_with_the_reason(task: Task, text: str, why: str | None) -> None:
    inputs = task.parse(text)
    assert task.unanswerable(inputs) == why
    if why is None:
        assert task.answer(task.question(inputs).targets[-1, 0]) in text


@pytest.mark.parametrize(("variant", "informative"), [("3a", 1), ("3a", 3), ("3b", 1), ("3b", 3)])
def test_two_sequence(variant: str, informative: int) -> None:
    task, many = TwoSequence(variant, informative), 2000
    batch = draw(task, many, 20)
    numbers, end = batch.inputs[..., 0], batch.answered_at
    steps = torch.arange(len(numbers))[:, None]
    assert set((end + 1).tolist()) == {20, 21, 22}
    assert torch.equal(batch.asked, steps == end)
    assert torch.equal(batch.weights, batch.asked.float())
    assert not numbers[steps > end].any()
    wanted = batch.targets[end, torch.arange(many), 0]
    assert set(wanted.tolist()) == {0.0, 1.0}
    assert float(wanted.mean()) == pytest.approx(0.5, abs=5 / sqrt(4 * many))
    head = numbers[:informative] * (2 * wanted - 1)  # 1, but for the noise
    assert (head.mean(0) > 0).all()
    noise = numbers[informative:20].flatten()
    assert float(noise.var()) == pytest.approx(0.2, rel=0.05)
    assert float(noise.mean()) == pytest.approx(0, abs=0.02)
    if variant == "3a":
        assert head.eq(1).all()
    else:
        # One of 79 is mirrored, which moves the mean of a single number by 0.447 * 2 * E[z; z > 2.236] = 0.0294.
        assert float(head.mean()) == pytest.approx(1.0294 if informative == 1 else 1, abs=0.05)
        assert float((head - 1).square().mean()) == pytest.approx(0.2, rel=0.1)
    assert torch.equal(task.parse("1 -0.5 -"), torch.tensor([[1.0], [-0.5], [0.0]]))
    assert task.words(torch.tensor([[1.0], [-0.5], [0.0]])) == ["1.00", "-0.50", "-"]


def test_two_sequence_3c_has_noise_on_its_training_answers_alone() -> None:
    task, many = TwoSequence("3c", 3), 4000
    assert task.chance == pytest.approx(0.09)
    trained, tested = draw(task, many, 20), draw(task.held_out(), many, 20)
    assert torch.equal(trained.inputs, tested.inputs)
    assert torch.equal(draw(TwoSequence("3a", 3), many, 20).inputs, tested.inputs)
    rows = torch.arange(many)
    noisy, answers = (one.targets[one.answered_at, rows, 0] for one in (trained, tested))
    classes = tested.inputs[:3, :, 0].T
    assert set(map(tuple, classes.tolist())) == {(1.0, 1.0, 1.0), (-1.0, -1.0, -1.0)}
    assert torch.equal(answers, torch.where(classes[:, 0] > 0, 0.2, 0.8))
    noise = noisy - answers
    assert float(noise.mean()) == pytest.approx(0, abs=5 * sqrt(0.1 / many))
    assert float(noise.var()) == pytest.approx(0.1, rel=5 * sqrt(2 / many))
    assert float((noise * (answers - 0.5)).mean()) == pytest.approx(0, abs=5 * sqrt(0.1 * 0.09 / many))
    assert task.validation() == task.held_out() != task


# ---- Experiment 1 ----------------------------------------------------------------------------------------------------

REBER = {0: "B1", 1: "T2 P3", 2: "S2 X4", 3: "T3 V5", 4: "X3 S6", 5: "P4 V6", 6: "E7"}


def embedded(symbols: int) -> dict[str, float]:
    """All embedded Reber strings of a length -> their probabilities, given that length."""
    strings: dict[str, float] = {}

    def walk(state: int, word: str, probability: float) -> None:
        if state == 7:
            if len(word) == symbols - 4:
                for outer in "TP":
                    strings[f"B{outer}{word}{outer}E"] = probability / 2
        elif len(word) < symbols - 4:
            edges = REBER[state].split()
            for symbol, to in edges:
                walk(int(to), word + symbol, probability / len(edges))

    walk(0, "", 1.0)
    total = sum(strings.values())
    return {string: probability / total for string, probability in strings.items()}


@pytest.mark.parametrize("seq_len", [8, 9, 13])
def test_reber_strings_by_enumeration(seq_len: int) -> None:
    task, many = Reber(), 3000
    strings = embedded(seq_len + 1)
    batch = draw(task, many, seq_len)
    counts = Counter("".join(task.words(column)) + "E" for column in batch.inputs.T)
    assert set(counts) <= set(strings)
    expected = {string: many * share for string, share in strings.items()}
    chi = sum((counts[string] - n) ** 2 / n for string, n in expected.items())
    assert chi < len(strings) + 6 * sqrt(2 * len(strings))
    for b in range(50):
        string = "".join(task.words(batch.inputs[:, b])) + "E"
        assert "".join(task.answer(target) for target in batch.targets[:, b]) == string[1:]
        assert batch.asked[:, b].tolist() == [False] * (seq_len - 2) + [True, False]
        assert task.unanswerable(batch.inputs[:, b]) is None
        assert task.unanswerable(batch.inputs[:-1, b]) is None
        assert task.answer(task.question(batch.inputs[:-1, b]).targets[-1, 0]) == string[1]
    assert batch.weights.eq(1).all()
    assert task.space(seq_len).size == pytest.approx(1 / sum(share**2 for share in strings.values()))
    following: dict[tuple[int, str], Counter[str]] = defaultdict(Counter)
    for string, share in strings.items():
        for t in range(seq_len):
            following[t, string[t]][string[t + 1]] += share  # pyright: ignore[reportArgumentType]
    loss = -sum(share * log(share / some.total()) for some in following.values() for share in some.values())
    assert task.baseline_loss(seq_len) == pytest.approx(loss / seq_len)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("BTBPVVE", None),
        ("BTBPVVET", None),
        ("BTBPVVEP", "word 8 is 'P': there task=reber has T"),
        ("BTBPVVS", "word 7 is 'S': there task=reber has E"),
        ("BTBPV", "it stops too early"),
        ("BTBPVVETE", "nothing follows its last E"),
    ],
)
def test_typed_reber_strings(text: str, why: str | None) -> None:
    assert Reber().unanswerable(Reber().parse(text)) == why
