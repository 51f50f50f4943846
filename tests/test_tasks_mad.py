"""The definition of each task of MAD (Poli et al. 2024), against plain Python written from its description."""

import re
from collections import Counter
from math import log, sqrt

import pytest
import torch

from seqmem.randomness import generator
from seqmem.signals import Batch
from seqmem.tasks import Compression, FuzzyRecall, Memorization, NoisyRecall, Task


def draw(task: Task, batch_size: int, seq_len: int, index: int = 0) -> Batch:
    return task.sample(batch_size, seq_len, generator(0, "mad", index))


def asked_words(task: Task, batch: Batch, b: int) -> list[str]:
    """What is asked of a sequence; a dot where nothing is."""
    pairs = zip(batch.asked[:, b], batch.targets[:, b], strict=True)
    return [task.answer(target) if asked else "." for asked, target in pairs]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: NoisyRecall(keys=1), "keys=1: must be from 2 to 128"),
        (lambda: NoisyRecall(noise_tokens=200), "noise_tokens=200: must be from 2 to 128"),
        (lambda: NoisyRecall(noise=1.0), "noise=1.0: must be at least 0 and below 1"),
        (lambda: FuzzyRecall(values=200), "values=200: must be from 2 to 128"),
        (lambda: FuzzyRecall(key_size=0), "key_size=0: must be from 1 to 7"),
        (lambda: FuzzyRecall(values=20, value_size=9), "value_size=9: must be from 1 to 8"),
        (lambda: Memorization(1), "keys=1: must be from 2 to 8192"),
        (lambda: Compression(symbols=27), "symbols=27: must be from 2 to 26"),
        (lambda: Compression(length=0), "length=0: must be at least 1"),
    ],
)
def test_an_invalid_option(make: type[Task], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        make()


NOT_PAIRS = "before its last key it is not {}pairs of a key and a value or of two noise tokens"


@pytest.mark.parametrize(
    ("task", "text", "why"),
    [
        (NoisyRecall(), "aB0+aBa", None),
        (NoisyRecall(), "-aBa", None),
        (NoisyRecall(), "ab", "it is 2 long, task=noisy_recall needs 3 timesteps"),
        (NoisyRecall(), "aBb", "it ends with 'b', which is none of its keys"),
        (NoisyRecall(), "aBaCa", "a key has two values"),
        (NoisyRecall(), "a0a", NOT_PAIRS.format("")),
        (NoisyRecall(), "aaBa", NOT_PAIRS.format("a noise token, then ")),
        (FuzzyRecall(), "...abCbcDABbc", None),
        (FuzzyRecall(), "..abCbcDABbcD", None),
        (FuzzyRecall(), "abCbcDABbcDAB", "at its end nothing is asked that is known"),
        (FuzzyRecall(), "....abCbDABcd", "at its end nothing is asked that is known"),
        (FuzzyRecall(), "....abCbDAabD", "a key has two values"),
        (FuzzyRecall(), "..abCDbDAabCb", "a key has two values"),
        (FuzzyRecall(), "..abcdCbDAabD", "a key is longer than 3 or a value than 3"),
        (FuzzyRecall(), "..C.abCbDAabD", "it is not blanks, then keys and values by turns"),
        (FuzzyRecall(), "abCab", "it is 5 long, task=fuzzy_recall needs 11 timesteps"),
        (Memorization(), "k3 ? k4 ?", None),
        (Memorization(), "? k3 ?", None),
        (Memorization(), "k3 k3 ?", "word 1 is not ?"),
        (Memorization(), "k3 ? ? ?", "word 3 is not a key"),
        (Memorization(), "?", "it is 1 long, task=memorization needs 2 timesteps"),
        (Compression(length=3), "abc.!", None),
        (Compression(length=3), "abc!", None),
        (Compression(length=3), "ab.!", "it does not begin with 3 symbols"),
        (Compression(length=3), "abcd!", "after its symbols it is not blanks, then !"),
        (Compression(length=3), "abc", "it is 3 long, task=compression needs 4 timesteps"),
    ],
)  # fmt: skip
def test_typed_text_is_answered_or_refused_with_the_reason(task: Task, text: str, why: str | None) -> None:
    assert task.unanswerable(task.parse(text)) == why


@pytest.mark.parametrize("noise", [0.0, 0.5])
@pytest.mark.parametrize("seq_len", [3, 4, 31])
def test_noisy_recall(seq_len: int, noise: float) -> None:
    task, many = NoisyRecall(keys=4, values=5, noise_tokens=3, noise=noise), 400
    batch, lags = draw(task, many, seq_len), []
    noisy, slots, values, last = 0, 0, Counter(), Counter()
    measured = task.lag(batch.inputs)
    for b in range(many):
        words = "".join(task.words(batch.inputs[:, b]))
        assert re.fullmatch(r"[012]?(([abcd][ABCDE])|([012][012]))*[abcd]", words)
        known: dict[str, tuple[str, int]] = {}
        expected = ["."] * seq_len
        for t in range((seq_len - 1) % 2, seq_len, 2):
            key = words[t]
            if key in "012":
                noisy += 1
            elif key in known:
                expected[t] = known[key][0]
                assert int(measured[t, b]) == t - known[key][1]
            if t < seq_len - 1:
                slots += 1
                if key not in "012":
                    assert known.get(key, words[t + 1])[0] == words[t + 1]
                    known[key] = words[t + 1], t
        assert asked_words(task, batch, b) == expected
        values.update(value for value, _ in known.values())
        if len(known) == 2:
            last[sorted(known).index(words[-1])] += 1
        lags.append(int(measured[-1, b]))
    kept = many  # a slot of each sequence
    assert noisy == pytest.approx((slots - kept) * noise, abs=5 * sqrt(slots * 0.25) + 1e-9)
    for count in values.values():
        share = values.total() / 5
        assert count == pytest.approx(share, abs=5 * sqrt(share))
    assert last[0] == pytest.approx(last.total() / 2, abs=5 * sqrt(last.total() / 4))  # however often each was read
    assert set(lags) == set(range(2, seq_len, 2)) or seq_len == 31
    assert torch.equal(batch.weights > 0, batch.asked)


@pytest.mark.parametrize("seq_len", [11, 12, 40])
def test_fuzzy_recall(seq_len: int) -> None:
    """With few tokens, so that keys begin others, and come again."""
    task, many = FuzzyRecall(keys=3, values=4), 200
    batch, measured, sizes = draw(task, many, seq_len), Counter(), Counter()
    lags = task.lag(batch.inputs)
    for b in range(many):
        words = "".join(task.words(batch.inputs[:, b]))
        pairs = [*re.finditer(r"([abc]+)([ABCD]*)", words)]
        assert words == "." * pairs[0].start() + "".join(pair[0] for pair in pairs)
        known: dict[str, tuple[str, int]] = {}
        expected = ["."] * seq_len
        for number, pair in enumerate(pairs):
            key, value = pair[1], pair[2]
            if number == len(pairs) - 1:
                assert known[key][0][:-1] == value  # all but its last token
                value = known[key][0]
            assert 1 <= len(set(key)) == len(key) <= 3
            assert 1 <= len(set(value)) == len(value) <= 3
            if key in known:
                assert known[key][0] == value
                for i, token in enumerate(value):
                    expected[t := pair.end(1) - 1 + i] = token
                    assert int(lags[t, b]) == t - known[key][1]
            else:
                measured[key] += 1
                sizes[len(value)] += 1
            known[key] = value, pair.start()
        assert asked_words(task, batch, b) == expected
        if b >= 20:
            continue
        inputs = batch.inputs[:, b]
        assert torch.equal(task.parse(words), inputs)
        assert task.unanswerable(inputs) is None
        question = task.question(inputs)
        assert torch.equal(question.asked[:, 0], batch.asked[:, b])
        assert torch.equal(question.targets[batch.asked[:, b], 0], batch.targets[batch.asked[:, b], b])
    assert len(measured) == 3 + 6 + 6
    assert set(sizes) == {1, 2, 3}
    assert torch.equal(batch.weights > 0, batch.asked)


def test_the_last_key_of_fuzzy_recall_was_read_anywhere_before() -> None:
    task = FuzzyRecall()
    batch = draw(task, 600, 60)
    lags = task.lag(batch.inputs)[-1]
    assert set(range(6, 50)) <= set(lags.tolist())
    assert float(lags.double().mean()) == pytest.approx(30, abs=3)
    assert task.chance == pytest.approx((1 / 8 + 1 / 7) / 2)


def test_memorization() -> None:
    task = Memorization(7)
    values: dict[str, set[str]] = {}
    for seq_len in (2, 3, 14):
        batch = draw(task, 200, seq_len)
        for b in range(200):
            words, answers = task.words(batch.inputs[:, b]), asked_words(task, batch, b)
            assert words[-2::-2] == [word for word in words[::-1] if word != "?"]
            for t, word in enumerate(words):
                assert (answers[t] == ".") == (word != "?" or t == 0)
                if answers[t] != ".":
                    values.setdefault(words[t - 1], set()).add(answers[t])
    assert set(values) == {f"k{i}" for i in range(7)}
    assert sorted(map(list, values.values())) == [[str(i)] for i in range(7)]  # one value each, and each another
    assert task.chance == 1 / 7
    other = draw(Memorization(7, table=1), 200, 14)
    assert torch.equal(other.inputs, draw(task, 200, 14).inputs)
    assert not torch.equal(other.targets, draw(task, 200, 14).targets)


def test_compression() -> None:
    task, many = Compression(symbols=4, length=3), 500
    batch, counts = draw(task, many, 6), Counter()
    for b in range(many):
        words = "".join(task.words(batch.inputs[:, b]))
        assert re.fullmatch(r"[abcd]{3}\.\.!", words)
        assert task.answer(batch.targets[-1, b]) == words[:3]
        counts[words[:3]] += 1
    expected = many / 64
    assert sum((n - expected) ** 2 / expected for n in counts.values()) + expected * (64 - len(counts)) < 64 + 5 * sqrt(
        128
    )
    assert batch.asked.sum(0).unique().tolist() == [1]
    assert task.baseline_loss(6) == pytest.approx(log(4))


def test_several_answers_at_once_are_scored_each_by_itself() -> None:
    task = Compression(symbols=4, length=3)
    right = draw(task, 50, 4).targets[-1:]
    logits = torch.randn(right.shape, generator=generator(0, "logits"))
    pieces = [(logits[..., i : i + 4], right[..., i : i + 4].argmax(-1)) for i in (0, 4, 8)]
    scores = torch.stack([(guess.argmax(-1) == one).double() for guess, one in pieces]).mean(0)
    losses = [torch.nn.functional.cross_entropy(guess[0], one[0], reduction="none") for guess, one in pieces]
    assert torch.allclose(task.targets.score(logits, right).double(), scores)
    assert torch.allclose(task.targets.loss(logits, right)[0], torch.stack(losses).mean(0))
    assert task.targets.decode(logits).view(-1, 4).sum(1).eq(1).all()
