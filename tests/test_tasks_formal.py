"""Definitions of the tasks about formal languages and automata, against generators and checkers in plain Python.

Each checker is written from the definition: it reads the words, keeps its own state and shares no code with the task.
"""

import re
from collections import Counter
from itertools import permutations, product
from math import comb, log, sqrt

import numpy as np
import pytest
import torch

from seqmem.randomness import generator
from seqmem.signals import Batch
from seqmem.tasks import Anbn, CycleNavigation, Delay, Dyck, EvenPairs, FlipFlop, Group, Modular, Parity, Task


def draw(task: Task, batch_size: int, seq_len: int) -> Batch:
    return task.sample(batch_size, seq_len, generator(0, "test"))


def texts(task: Task, batch: Batch) -> list[str]:
    return ["".join(task.words(column)) for column in batch.inputs.T]


def answers(task: Task, batch: Batch, b: int) -> list[str]:
    """What is asked of a sequence, one letter per timestep; a dot where nothing is."""
    pairs = zip(batch.asked[:, b], batch.targets[:, b], strict=True)
    return [task.answer(target) if asked else "." for asked, target in pairs]


def test_the_least_lengths() -> None:
    expected = {
        EvenPairs(): 2, CycleNavigation(): 2,
        Parity(): 2, Modular(): 3, Group(): 2, Dyck(): 3, FlipFlop(): 3, Delay(7): 8, Delay(3, xor=True): 4, Anbn(): 7,
        Anbn(3): 10,
    }  # fmt: skip
    assert {task: task.min_seq_len for task in expected} == expected


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Group("S4"), "group=S4: must be Z60, A4xZ5, A5 or S5"),
        (lambda: Dyck(types=1), "types=1: must be from 2 to 30"),
        (lambda: Dyck(types=31), "types=31: must be from 2 to 30"),
        (lambda: Dyck(depth=1), "depth=1: must be at least 2"),
        (lambda: FlipFlop(1.0), "ignore=1.0: must be at least 0 and below 1"),
        (lambda: FlipFlop(-0.1), "ignore=-0.1: must be at least 0 and below 1"),
        (lambda: Delay(0), "delay=0: must be at least 1"),
        (lambda: Anbn(4), "letters=4: must be 2 or 3"),
    ],
)
def test_an_invalid_option(make: type[Task], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make()


@pytest.mark.parametrize(
    ("task", "text", "why"),
    [
        (Parity(), "1", "it is 1 long, task=parity needs 2 timesteps"),
        (Parity(), "10", None),
        (EvenPairs(), "ab", None),
        (EvenPairs(), "a", "it is 1 long, task=even_pairs needs 2 timesteps"),
        (CycleNavigation(), "+.-", None),
        (CycleNavigation(), "+", "it is 1 long, task=cycle_navigation needs 2 timesteps"),
        (Modular(), "3+4*2", None),
        (Modular(), ".3+4", None),
        (Modular(), "3+*2", "word 3 is '*': there task=modular has a digit"),
        (Modular(), "34", "word 2 is '4': there task=modular has +, - or *"),
        (Modular(), "3+.", "word 3 is '.': there task=modular has a digit"),
        (Modular(), "3+", "it does not end with a digit"),
        (Modular(), "3", "it is 1 long, task=modular needs 3 timesteps"),
        (Dyck(), "([", "it is 2 long, task=dyck needs 3 timesteps"),
        (Dyck(), "([](", None),
        (Dyck(), "(])", "word 2 is ']': it closes '('"),
        (Dyck(), "()]", "word 3 is ']': no bracket is open there"),
        (Dyck(), "()", "no bracket is open at its end"),
        (Dyck(), "(.[", "word 2 is '.': it stands at the beginning only"),
        (Dyck(depth=2), "(((", "word 3 is '(': it is 3 deep, task=dyck at most 2"),
        (FlipFlop(), "w1i0r", None),
        (FlipFlop(), "w1r1r", None),
        (FlipFlop(), "w1r0r", "word 4 is '0': there task=flip_flop has 1"),
        (FlipFlop(), "i1i0r", "word 1 is 'i': there task=flip_flop has w"),
        (FlipFlop(), "w1i0", "it does not end with a question: r"),
        (FlipFlop(), "w1w", "it does not end with a question: r"),
        (FlipFlop(), "ww", "word 2 is 'w': there task=flip_flop has 0 or 1"),
        (Anbn(), "..Saaabb", None),
        (Anbn(), "Saab", None),
        (Anbn(), "aab", "word 1 is 'a': there task=anbn has S"),
        (Anbn(), "Saabbb", "word 6 is 'b': there task=anbn has no more letters"),
        (Anbn(), "Saaba", "word 5 is 'a': there task=anbn has b"),
        (Anbn(), "Saa", "what follows cannot be known: it has no b"),
        (Anbn(3), "Saabbc", None),
        (Anbn(3), "Saabc", "word 5 is 'c': there task=anbn has b"),
        (Anbn(3), "Saabbb", "word 6 is 'b': there task=anbn has c"),
    ],
)  # fmt: skip
def test_typed_text_is_answered_or_refused_with_the_reason(task: Task, text: str, why: str | None) -> None:
    assert task.unanswerable(task.parse(text)) == why


@pytest.mark.parametrize(
    "task",
    [EvenPairs(), CycleNavigation(), Parity(), Parity(True), Modular(), Group(), Dyck(), FlipFlop(), Anbn(), Anbn(3)],
    ids=repr,
)
def test_what_is_drawn_may_be_typed(task: Task) -> None:
    for seq_len in (task.min_seq_len, task.min_seq_len + 8, 31):
        batch = draw(task, 30, seq_len)
        for b in range(30):
            inputs = batch.inputs[:, b]
            assert torch.equal(task.parse(" ".join(task.words(inputs))), inputs)
            end = 1 + int(batch.answered_at[b])
            assert task.unanswerable(inputs[:end]) is None
            assert int(task.question(inputs[:end]).targets[-1]) == int(batch.targets[end - 1, b])


# ---- Parity, expressions, groups -------------------------------------------------------------------------------------


def test_parity() -> None:
    for every_step in (False, True):
        task = Parity(every_step)
        batch = draw(task, 300, 12)
        for b, text in enumerate(texts(task, batch)):
            assert set(text) <= set("01")
            parities = ["odd" if text[: t + 1].count("1") % 2 else "even" for t in range(12)]
            assert answers(task, batch, b) == (parities if every_step else ["."] * 11 + parities[-1:])
        assert float(batch.inputs.double().mean()) == pytest.approx(0.5, abs=5 / sqrt(4 * 3600))


def test_even_pairs() -> None:
    """By counting the pairs."""
    task = EvenPairs()
    for seq_len in (2, 3, 12):
        batch = draw(task, 300, seq_len)
        for b, text in enumerate(texts(task, batch)):
            count = sum(text[t : t + 2] in ("ab", "ba") for t in range(seq_len - 1))
            assert answers(task, batch, b) == ["."] * (seq_len - 1) + ["odd" if count % 2 else "even"]
        assert set("".join(texts(task, batch))) == set("ab")


def test_cycle_navigation() -> None:
    """By walking, and by all walks of a length."""
    task = CycleNavigation()
    for seq_len in (2, 3, 12):
        batch = draw(task, 300, seq_len)
        for b, text in enumerate(texts(task, batch)):
            place = 0
            for step in text:
                place = {".": place, "+": (place + 1) % 5, "-": (place - 1) % 5}[step]
            assert answers(task, batch, b) == ["."] * (seq_len - 1) + [str(place)]
        walks = Counter((sum(steps) % 5, steps[-1]) for steps in product((0, 1, -1), repeat=min(seq_len, 8)))
        best = [max(walks[place, step] for place in range(5)) for step in (0, 1, -1)]
        assert task.chance_at(min(seq_len, 8)) == pytest.approx(sum(best) / walks.total())
        ends = [sum(walks[place, step] for step in (0, 1, -1)) for place in range(5)]
        assert task.constant_at(min(seq_len, 8)) == pytest.approx(max(ends) / walks.total())
        loss = -sum(n * log(n / (walks.total() / 3)) for n in walks.values()) / walks.total()
        assert task.baseline_loss(min(seq_len, 8)) == pytest.approx(loss)


@pytest.mark.parametrize("seq_len", [3, 4, 15, 60])
def test_modular_expressions_have_pythons_value(seq_len: int) -> None:
    task = Modular()
    batch = draw(task, 400, seq_len)
    for b, text in enumerate(texts(task, batch)):
        assert re.fullmatch(r"[0-4]([-+*][0-4])*", text if seq_len % 2 else text.removeprefix("."))
        assert len(text) == seq_len
        assert answers(task, batch, b) == ["."] * (seq_len - 1) + [str(eval(text.lstrip(".")) % 5)]
    counts = Counter("".join(texts(task, batch)))
    for word in "+-*":
        assert counts[word] == pytest.approx(400 * ((seq_len - 1) // 2) / 3, abs=5 * sqrt(400 * seq_len / 2 * 2 / 9))


def test_chance_of_short_expressions_by_enumeration() -> None:
    for count in (2, 3):
        table: dict[int, Counter[int]] = {d: Counter() for d in range(5)}
        for digits in product(range(5), repeat=count):
            for operators in product("+-*", repeat=count - 1):
                text = "".join(map("{}{}".format, digits, [*operators, ""]))
                table[digits[-1]][eval(text) % 5] += 1
        total = 5**count * 3 ** (count - 1)
        loss = -sum(n * log(n / row.total()) for row in table.values() for n in row.values()) / total
        assert Modular().chance_at(2 * count - 1) == pytest.approx(
            sum(max(row.values()) for row in table.values()) / total
        )
        assert Modular().baseline_loss(2 * count) == pytest.approx(loss)


@pytest.mark.parametrize("group", ["A5", "S5", "A4xZ5", "Z60"])
def test_products_of_a_group(group: str) -> None:
    """Against matrices of the permutations, and sums."""

    def matrix(name: str) -> np.ndarray:
        image = [int(letter) - 1 for letter in name]
        return np.eye(len(image), dtype=int)[:, image]  # column i has its 1 at the image of i

    def value(name: str) -> tuple:
        if group == "Z60":
            return (int(name),)
        if group == "A4xZ5":
            permutation, number = name.split(":")
            return (matrix(permutation), int(number))
        return (matrix(name),)

    task = Group(group)
    names = task.words(torch.arange(task.inputs.size))
    expected = {
        "Z60": {str(n) for n in range(60)},
        "S5": {"".join(p) for p in permutations("12345")},
        "A5": {name for p in permutations("12345") if round(np.linalg.det(matrix(name := "".join(p)))) == 1},
        "A4xZ5": {
            f"{name}:{n}" for p in permutations("1234") if round(np.linalg.det(matrix(name := "".join(p)))) == 1
            for n in range(5)
        },
    }[group]  # fmt: skip
    assert set(names) == expected
    assert names[0] in ("0", "1234:0", "12345")
    batch = draw(task, 20, 13)
    for b in range(20):
        running: tuple | None = None
        for element, target in zip(batch.inputs[:, b].tolist(), batch.targets[:, b].tolist(), strict=True):
            new = value(names[element])
            if running is None:
                running = new
            elif group == "Z60":
                running = ((running[0] + new[0]) % 60,)
            else:
                running = (running[0] @ new[0], *((running[1] + new[1]) % 5 for _ in new[1:]))
            assert all(np.array_equal(a, c) for a, c in zip(running, value(names[target]), strict=True))
    assert batch.asked.all()
    assert batch.weights.eq(1).all()


# ---- Brackets and counting -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("types", "depth", "seq_len"), [(4, 4, 21), (2, 2, 12), (30, 3, 9), (2, 9, 40)])
def test_dyck_words_balance_and_each_closing_bracket_is_asked(types: int, depth: int, seq_len: int) -> None:
    task = Dyck(types, depth)
    batch = draw(task, 60, seq_len)
    pairs = dict(zip("([{<abcdefghijklmnopqrstuvwxyz", ")]}>ABCDEFGHIJKLMNOPQRSTUVWXYZ", strict=True))
    deepest = 0
    for b, text in enumerate(texts(task, batch)):
        assert text.startswith(".") == (seq_len % 2 == 0)
        stack: list[str] = []
        asked = answers(task, batch, b)
        word = text + asked[-1]  # the last bracket is only predicted
        for t, letter in enumerate(word):
            if letter in pairs:
                stack.append(pairs[letter])
            elif letter != ".":
                assert stack.pop() == letter
                assert asked[t - 1] == letter
            if t < seq_len and (word[t + 1] in pairs or letter == "."):
                assert asked[t] == "."
            deepest = max(deepest, len(stack))
        assert not stack
    assert deepest == min(depth, (seq_len + 1) // 2)
    assert torch.equal(batch.weights.bool(), batch.asked)


def balanced(count: int, most: int) -> list[str]:
    """All words of ``count`` pairs, nested at most ``most`` deep."""

    def grow(word: str, depth: int) -> list[str]:
        if len(word) == 2 * count:
            return [word] if depth == 0 else []
        longer = grow(word + "(", depth + 1) if depth < most else []
        return longer + (grow(word + ")", depth - 1) if depth else [])

    return grow("", 0)


def test_dyck_words_are_uniform_and_chance_is_by_enumeration() -> None:
    for count, most in ((4, 2), (4, 3), (5, 9)):
        words = balanced(count, most)
        task = Dyck(2, most)
        drawn = Counter(
            re.sub(r"[(\[]", "(", text).replace("]", ")") for text in texts(task, draw(task, 4000, 2 * count - 1))
        )
        assert set(drawn) == {word[:-1] for word in words}
        expected = 4000 / len(words)
        chi = sum((n - expected) ** 2 / expected for n in drawn.values())
        assert chi < len(words) + 5 * sqrt(2 * len(words))
        share = sum(word.count("()") for word in words) / (count * len(words))
        assert task.chance_at(2 * count - 1) == pytest.approx(share + (1 - share) / 2)
        assert task.baseline_loss(2 * count) == pytest.approx((1 - share) * log(2))
        assert task.space(2 * count).size == pytest.approx(len(words) * 2**count)
    assert len(balanced(5, 9)) == comb(10, 5) // 6  # Catalan
    for task in (Dyck(), Dyck(2, 2), Dyck(8, 10)):
        assert task.chance_at(2001) == pytest.approx(task.chance, abs=0.002)


@pytest.mark.parametrize(("letters", "seq_len"), [(2, 7), (2, 30), (3, 10), (3, 41)])
def test_anbn(letters: int, seq_len: int) -> None:
    task = Anbn(letters)
    batch = draw(task, 250, seq_len)
    lengths, starts = set(), set()
    for b, text in enumerate(texts(task, batch)):
        matched = re.fullmatch(r"(\.*)S(a+)(b+)(c*)\.*", text)
        assert matched is not None
        blanks, *blocks = matched.groups()
        n = len(blocks[0])
        assert [len(block) for block in blocks] == ([n] * 3)[:letters] + [0] * (3 - letters)
        lengths.add(n)
        starts.add(len(blanks))
        after = ["."] * (len(blanks) + 1 + n)
        counted = [False] * len(after)
        for following in "cT" if letters == 3 else "T":
            same = "b" if letters == 2 or following == "c" else "c"
            after += ["."] * (n - 2) + [same, following]
            counted += [True] * n
        padding = seq_len - len(after)
        assert answers(task, batch, b) == after + ["."] * padding
        assert (batch.weights[:, b] > 0).tolist() == counted + [False] * padding
        followed = text[1:].replace(".", "T") + "T"
        assert all(task.answer(batch.targets[t, b]) == followed[t] for t in range(seq_len) if batch.weights[t, b] > 0)
    assert lengths == set(range(2, (seq_len - 1) // letters + 1))
    assert min(starts) == 0
    assert max(starts) >= (seq_len - 2 * letters) // 2


# ---- A bit, and a delay line -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("ignore", "seq_len"), [(0.8, 41), (0.0, 12), (0.5, 3)])
def test_flip_flop(ignore: float, seq_len: int) -> None:
    task, many = FlipFlop(ignore), 600
    batch = draw(task, many, seq_len)
    middle: Counter[str] = Counter()
    for b, text in enumerate(texts(task, batch)):
        pairs = re.findall(r"([wri])([01]?)", text)
        assert "".join(map("".join, pairs)) == (text if seq_len % 2 else text.removeprefix("."))
        assert (pairs[0][0], pairs[-1]) == ("w", ("r", ""))
        middle.update(kind for kind, _ in pairs[1:-1])
        stored, expected = "", ["."] * (1 - seq_len % 2)
        for kind, bit in pairs:
            if kind == "w":
                stored = bit
            elif kind == "r":
                assert bit in ("", stored)
            expected += [stored if kind == "r" else "."] + ["."] * len(bit)
        assert answers(task, batch, b) == expected
    for kind, share in (("i", ignore), ("w", (1 - ignore) / 2), ("r", (1 - ignore) / 2)):
        total = middle.total()
        assert middle[kind] == pytest.approx(share * total, abs=5 * sqrt(share * (1 - share) * total) + 1e-9)


def test_delay() -> None:
    for delay in (1, 4):
        batch = draw(Delay(delay), 300, 9)
        numbers = batch.inputs[..., 0]
        assert torch.equal(batch.targets[delay:, :, 0], numbers[:-delay])
        assert batch.asked[:, 0].tolist() == [False] * delay + [True] * (9 - delay)
        assert -0.5 <= numbers.min() < -0.49 < 0.49 < numbers.max() <= 0.5
        assert float(numbers.double().square().mean()) == pytest.approx(Delay().chance, abs=5 * sqrt(1 / 180 / 2700))
        task = Delay(delay, xor=True)
        batch = draw(task, 100, 9)
        for b, text in enumerate(texts(task, batch)):
            expected = ["01"[text[t] != text[t - delay]] for t in range(delay, 9)]
            assert answers(task, batch, b) == ["."] * delay + expected
    assert torch.equal(Delay(2).parse("0.5 -0.25 1"), torch.tensor([[0.5], [-0.25], [1.0]]))
    with pytest.raises(ValueError, match=r"^'x' is no number of task=delay: write 0\.42$"):
        Delay().parse("0.5 x")
    assert Delay(2).words(torch.tensor([[0.5], [-0.25]])) == ["0.50", "-0.25"]
