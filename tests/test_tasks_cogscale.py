"""CogScale's tasks against the package ``cogscale``, which defines them.

Its inputs are given to our ``solve``, and our draws are compared with its own.
"""

import re
from collections import Counter
from dataclasses import dataclass
from functools import cache
from typing import Any

import cogscale.evals
import numpy as np
import pytest
import torch
from cogscale.libs.CSL import OneSituationCSLDataset
from torch import Tensor

from commandline import composed
from seqmem.cogscale import PUBLISHED, SIZES
from seqmem.randomness import generator
from seqmem.tasks import TASKS
from seqmem.tasks.cogscale.base import CogScale, Drawn, Symbolic
from seqmem.tasks.cogscale.forecasting import Forecasting
from seqmem.tasks.cogscale.pattern_completion import PatternCompletion

OURS = {name: kind for name, kind in TASKS.items() if issubclass(kind, CogScale)}
WORDS = "cogscale_cross_situation"
"""Whose words the package numbers in another order in every process; its large set of pairs takes 24 GB."""
every = pytest.mark.parametrize(
    "name", [name for name, kind in OURS.items() if issubclass(kind, Drawn) and name != WORDS]
)
forecasts = pytest.mark.parametrize("name", [name for name, kind in OURS.items() if issubclass(kind, Forecasting)])
each_size = pytest.mark.parametrize("size", SIZES)


@dataclass(frozen=True)
class Theirs:
    inputs: Tensor
    targets: Tensor
    asked: Tensor
    answers: int


@cache
def theirs(name: str, size: str, sequences: int) -> Theirs:
    """Sequences as their package draws them, at its own parameters of the size."""
    entry = getattr(cogscale.evals, f"cogscale_{size}")[name.removeprefix("cogscale_")]
    counts = {"n_train": sequences, "n_valid": 0, "n_test": 0, "seed": 7}
    data = entry["fct"](**{**entry["params"], **counts})
    inputs, targets = (torch.from_numpy(np.swapaxes(data[key], 0, 1)).float() for key in ("X_train", "Y_train"))
    asked, answers = (targets != -100).any(-1), targets.shape[-1]
    return Theirs(inputs, targets.argmax(-1) if entry["category"] == "classification" else targets, asked, answers)


def made(name: str, size: str) -> Any:
    return OURS[name](size)  # pyright: ignore[reportCallIssue]


@cache
def their_signal(name: str, size: str) -> dict[str, Tensor]:
    """Each part's inputs, ``X``, and targets, ``Y``, [T D]."""
    entry = getattr(cogscale.evals, f"cogscale_{size}")[name.removeprefix("cogscale_")]
    data = entry["fct"](**entry["params"])
    return {key: torch.from_numpy(values[0]) for key, values in data.items() if key != "category"}


@each_size
@every
def test_their_sequences_have_their_answers(name: str, size: str) -> None:
    task, given = made(name, size), theirs(name, size, 1500 if size == "small" else 5)
    assert (task.inputs.size, task.targets.size) == (given.inputs.shape[-1], given.answers)
    asked = known(task, given)
    assert torch.equal(task.asks(given.inputs), asked)
    assert torch.equal(task.solve(given.inputs)[asked], given.targets[asked])
    for b in range(5):
        assert task.unanswerable(given.inputs[:, b]) is None
        words = task.words(given.inputs[:, b])
        typed = task.parse(" ".join(words))
        assert torch.equal(typed, given.inputs[:, b]) if isinstance(task, Symbolic) else task.words(typed) == words
        question = task.question(given.inputs[:, b])
        assert torch.equal(question.asked[:, 0], asked[:, b])
        assert torch.equal(question.weights, question.asked.float())


def known(task: CogScale, given: Theirs) -> Tensor:
    """Where theirs ask for what can be known: patterns, where one of the inputs at the same place before is shown."""
    asked = given.asked.clone()
    if isinstance(task, PatternCompletion):
        shown, period = ~given.asked, PUBLISHED[task.name.removeprefix("cogscale_")][task.size].length
        for t in range(len(asked)):
            asked[t] &= shown[t % period : t : period].any(0)
    return asked


@every
def test_our_sequences_are_drawn_as_theirs(name: str) -> None:
    """Every feature at every timestep, and every answer where it is asked, is as frequent; pairs of features, too."""
    task, given = made(name, "small"), theirs(name, "small", 1500)
    ours = task.sample(1500, len(given.inputs), generator(0, "ours"))
    asked = known(task, given)
    assert torch.equal(ours.asked.sum(0), asked.sum(0)) or isinstance(task, PatternCompletion)
    drawn = features(ours.inputs, ours.targets, ours.asked, given.answers)
    for mine, other in zip(drawn, features(given.inputs, given.targets, asked, given.answers), strict=True):
        error = ((mine.var(1) + other.var(1) + 2e-4) / 1500).sqrt()
        assert ((mine.mean(1) - other.mean(1)).abs() < 5.5 * error).all()


def features(inputs: Tensor, targets: Tensor, asked: Tensor, answers: int) -> list[Tensor]:
    """What is compared, [N B ...]: inputs and their squares, answers where they are asked, neighbours, their number."""
    answered = torch.nn.functional.one_hot(targets, answers) if targets.ndim == 2 else targets
    values = [inputs, inputs.square(), answered * asked[..., None], pairs(inputs), asked.sum(0, keepdim=True)]
    return [one.double() for one in values]


def pairs(inputs: Tensor) -> Tensor:
    """Which features are alike at neighbouring timesteps, and at those a few apart."""
    return torch.stack([(inputs * inputs.roll(lag, 0)).sum((0, -1)) / len(inputs) for lag in (1, 2, 4, 5, 20)])[
        ..., None
    ]


@each_size
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_length_of_a_size_is_the_published_one(name: str, size: str) -> None:
    config = composed(f"task=cogscale/{name}", f"task.size={size}")
    if issubclass(OURS[f"cogscale_{name}"], Forecasting):
        published = len(their_signal(f"cogscale_{name}", size)["X_train"])
    elif f"cogscale_{name}" == WORDS:
        published = 2 * len(their_sentences(size).X[0]) + 1
    else:
        published = len(theirs(f"cogscale_{name}", size, 5).inputs)
    assert config.seq_len == config.task["usual_seq_len"] == published
    if size == SIZES[0]:  # each task has a line of its own for it, and each size only another number there
        assert composed(f"task=cogscale/{name}", f"task.size={size}", "seq_len=400").seq_len == 400


@each_size
@forecasts
def test_their_signal(name: str, size: str) -> None:
    """Inputs, targets and parts; the best affine answer and the best constant to the test's last questions."""
    task, given = made(name, size), their_signal(name, size)
    whole, answers = given["X_test"], given["Y_test"]
    assert torch.allclose(task.solve(whole[:, None].float())[:, 0].double()[answers[:, 0] != -100],
                          answers[answers[:, 0] != -100], atol=1e-6)  # fmt: skip
    for part, key in ((task, "train"), (task.validation(), "valid"), (task.held_out(), "test")):
        batch = part.sample(3, task.max_seq_len, generator(0, "whole"))
        inputs, targets = (given[f"{one}_{key}"] for one in "XY")
        asked = (targets != -100).all(-1)
        end = len(inputs)  # theirs reads all before, ours as much as in training
        assert torch.allclose(batch.inputs[:, 1].double(), inputs[end - len(batch.inputs) :], atol=1e-6)
        first = max(int(asked.nonzero()[0]), end - len(batch.inputs) + task.given.delay)
        assert int(batch.asked[:, 1].sum()) == end - first
        assert torch.allclose(batch.targets[batch.asked[:, 1], 1].double(), targets[first:], atol=1e-6)
    known = torch.cat([torch.ones(end - first, 1), inputs[first:]], 1)
    errors = [
        float((some @ torch.linalg.lstsq(some, targets[first:]).solution - targets[first:]).square().mean())
        for some in (known, known[:, :1])
    ]
    assert [task.chance, task.constant] == pytest.approx(errors)


@forecasts
def test_a_passage_begins_anywhere_in_its_part(name: str) -> None:
    task, given = made(name, "small"), their_signal(name, "small")["X_test"]
    for part, first, end in ((task, 0, 90), (task.validation(), 90, 110), (task.held_out(), 110, 200)):
        batch = part.sample(2000, 12, generator(0, "any"))
        starts = [int((given - column[0]).abs().sum(-1).argmin()) for column in batch.inputs.transpose(0, 1).double()]
        assert set(starts) == set(range(first, end - 11))
        assert batch.asked.sum(0).unique().tolist() == [12 - 5]
        with pytest.raises(
            ValueError, match=rf"^a passage of {end + 1} timesteps is too long for task=.*: at most {end}$"
        ):
            part.sample(1, end + 1, generator(0, "any"))


@cache
def their_sentences(size: str) -> OneSituationCSLDataset:
    params = getattr(cogscale.evals, f"cogscale_{size}")["cross_situation"]["params"]
    return OneSituationCSLDataset(params["objects"], params["colors"], params["positions"])


@each_size
def test_their_sentences_have_their_labels(size: str) -> None:
    """Before and after another one: every sentence of the small size, some of the others."""
    task, given = made(WORDS, size), their_sentences(size)
    first = torch.arange(0, len(given.sentences), {"small": 1, "medium": 5, "large": 13}[size])
    second = first[torch.randperm(len(first), generator=generator(0, "pairs"))]
    texts = [f"{given.sentences[i]} and {given.sentences[j]}" for i, j in zip(first, second, strict=True)]
    inputs = torch.stack([task.parse(text) for text in texts], 1)
    labels = torch.from_numpy(given.Y)
    assert torch.equal(task.solve(inputs)[-1].double(), torch.cat([labels[first], labels[second]], -1))
    assert task.space(17).size == len(given.sentences) ** 2  # there are no others
    drawn = task.sample(10 * len(first) if size == "small" else 300, 19, generator(0, "drawn"))
    halves = [" ".join(task.words(column)).lstrip(". ").split(" and ") for column in drawn.inputs.transpose(0, 1)]
    assert {half for pair in halves for half in pair} <= {*given.sentences}
    if size == "small":
        for counts in (Counter(one) for one in zip(*halves, strict=True)):
            assert len(counts) == len(first)
            assert sum((n - 10) ** 2 / 10 for n in counts.values()) < len(first) + 5 * (2 * len(first)) ** 0.5


def test_cross_situation_by_the_kind_of_each_word() -> None:
    """The first labels of a sentence from a parse of its own: what follows a determiner is a colour or the object."""
    task = made(WORDS, "large")
    batch = task.sample(150, 17, generator(0, "parsed"))
    assert batch.asked.sum(0).unique().tolist() == [1]
    for column, target, lag in zip(
        batch.inputs.transpose(0, 1), batch.targets[-1], task.lag(batch.inputs)[-1].tolist(), strict=True
    ):
        words = task.words(column)
        places, described = [], []
        for half in " ".join(words).strip(". ").split(" and "):
            named = re.search(r"\b(?:a|the) (?!left|right|center|middle|top|bottom)(\w+)(?: (?!on|is)(\w+))?", half)
            assert named is not None
            thing, color = (named[2], named[1]) if named[2] else (named[1], "")
            there = re.search(r"on the (\w+)", half)
            verb = (
                half.split()[0]
                if half.startswith("th") and " " in half and half.split()[0] in ("this", "that")
                else "is"
            )
            where = {"middle": "center"}.get(there[1], there[1]) if there else verb
            if not color and half.split()[-2] == "is":
                color = half.split()[-1]
            described.append(":".join(filter(None, (where, thing, color))))
            begins = [named.start(1), *([there.start(1)] if there else []), *([0] if verb != "is" else [])]
            places.append(len(half[: min(begins)].split()))
        assert task.answer(target) == "/".join(described)
        assert 16 - lag == next(t for t, word in enumerate(words) if word != ".") + places[0]


def test_the_share_of_right_labels_is_their_score() -> None:
    drawn = made(WORDS, "small").sample(40, 17, generator(0, "labels"))
    signal, right = made(WORDS, "small").targets, drawn.targets[-1:]
    logits = torch.randn(right.shape, generator=generator(0, "logits"))
    theirs = cogscale.compute_score(right.numpy(), logits.numpy(), "multi_classification")
    assert float(signal.score(logits, right).mean()) == pytest.approx(1 - theirs)
    likelihood = torch.where(right > 0, logits.sigmoid(), 1 - logits.sigmoid())
    assert torch.allclose(signal.loss(logits, right), -likelihood.log().mean(-1))


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("this is a glass and that is a glass", None),
        ("this is a glass", "it is not two sentences, joined by 'and'"),
        ("this is a glass and that is glass", "task=cogscale/cross_situation has no sentence 'that is glass'"),
        ("the this is a cup and that is a glass", "task=cogscale/cross_situation has no sentence 'the this is a cup'"),
    ],
)  # fmt: skip
def test_typed_sentences(text: str, why: str | None) -> None:
    task = made(WORDS, "medium")
    inputs = task.parse(text)
    assert len(inputs) == 17
    assert task.unanswerable(inputs) == why
    if why is None:
        assert task.answer(task.question(inputs).targets[-1, 0]) == "this:glass/that:glass"
    with pytest.raises(
        ValueError, match=r"^'spoon' is no word of task=cogscale/cross_situation: it has a and blue bowl "
    ):
        task.parse("this is a spoon and this is a cup")


@every
def test_an_unknown_size_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"^size=tiny: must be small, medium or large$"):
        made(name, "tiny")


@every
def test_chance_is_that_of_their_answers(name: str) -> None:
    """The most frequent answer, or the variance, over their sequences."""
    task, given = made(name, "small"), theirs(name, "small", 1500)
    if given.targets.ndim == 3:
        assert float(given.targets[given.asked].var()) == pytest.approx(task.constant, rel=0.02)
        return
    answers = given.targets[given.asked]
    most = float(torch.bincount(answers).max()) / len(answers)
    assert most == pytest.approx(task.constant_at(len(given.inputs)), abs=5 * (0.25 / len(answers)) ** 0.5)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a b . !", "it is 4 long, task=cogscale/simple_copy needs 45 timesteps"),
        ("a " * 21 + ". ! " + ". " * 22, "it does not begin with 22 symbols"),
        ("a " * 22 + "! . " + ". " * 22, "after its symbols only word 24 is !"),
        ("ab " * 22 + "! " + ". " * 22, "it does not begin with 22 symbols"),
        ("c " * 22 + "! " + ". " * 22, None),
    ],
)
def test_what_simple_copy_cannot_answer(text: str, why: str | None) -> None:
    task = made("cogscale_simple_copy", "small")
    assert task.unanswerable(task.parse(text)) == why
    with pytest.raises(ValueError, match=r"^'z' is no input of task=cogscale/simple_copy: write a \.\.\. c, !, \.$"):
        task.parse("z")
