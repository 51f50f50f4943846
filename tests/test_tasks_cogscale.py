"""CogScale's tasks against the package ``cogscale``, which defines them.

Its inputs are given to our ``solve``, and our draws are compared with its own.
"""

from dataclasses import dataclass
from functools import cache

import cogscale.evals
import numpy as np
import pytest
import torch
from torch import Tensor

from commandline import composed
from seqmem.cogscale import PUBLISHED, SIZES
from seqmem.randomness import generator
from seqmem.tasks import TASKS
from seqmem.tasks.cogscale.base import CogScale

OURS = {name: kind for name, kind in TASKS.items() if issubclass(kind, CogScale)}
every = pytest.mark.parametrize("name", OURS)
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
    return Theirs(inputs, targets.argmax(-1), (targets != -100).any(-1), targets.shape[-1])


def made(name: str, size: str) -> CogScale:
    return OURS[name](size)  # pyright: ignore[reportCallIssue]


@each_size
@every
def test_their_sequences_have_their_answers(name: str, size: str) -> None:
    task, given = made(name, size), theirs(name, size, 1500 if size == "small" else 5)
    assert (task.inputs.size, task.targets.size) == (given.inputs.shape[-1], given.answers)
    assert torch.equal(task.asks(given.inputs), given.asked)
    assert torch.equal(task.solve(given.inputs)[given.asked], given.targets[given.asked])
    for b in range(5):
        assert task.unanswerable(given.inputs[:, b]) is None
        words = task.words(given.inputs[:, b])
        assert torch.equal(task.parse(" ".join(words)), given.inputs[:, b])
        question = task.question(given.inputs[:, b])
        assert torch.equal(question.asked[:, 0], given.asked[:, b])
        assert torch.equal(question.weights, question.asked.float())


@every
def test_our_sequences_are_drawn_as_theirs(name: str) -> None:
    """Every feature at every timestep, and every answer where it is asked, is as frequent; pairs of features, too."""
    task, given = made(name, "small"), theirs(name, "small", 1500)
    ours = task.sample(1500, len(given.inputs), generator(0, "ours"))
    assert torch.equal(ours.asked.sum(0), given.asked.sum(0))
    counted = [
        [one.inputs, torch.nn.functional.one_hot(one.targets, given.answers) * one.asked[..., None], pairs(one.inputs)]
        for one in (ours, given)
    ]
    for mine, other in zip(*counted, strict=True):
        p, q = (values.double().mean(1) for values in (mine, other))
        error = ((p * (1 - p) + 1e-4) * 2 / 1500).clamp(min=1e-6).sqrt()
        assert ((p - q).abs() < 5.5 * error).all()


def pairs(inputs: Tensor) -> Tensor:
    """Which features are alike at neighbouring timesteps, and at those a few apart."""
    return torch.stack([(inputs * inputs.roll(lag, 0)).sum((0, -1)) / len(inputs) for lag in (1, 2, 4, 5, 20)])[
        ..., None
    ]


@each_size
@pytest.mark.parametrize("name", PUBLISHED)
def test_the_length_of_a_size_is_the_published_one(name: str, size: str) -> None:
    config = composed(f"task=cogscale/{name}", f"task.size={size}")
    assert config.seq_len == config.task["usual_seq_len"] == len(theirs(f"cogscale_{name}", size, 5).inputs)
    assert composed(f"task=cogscale/{name}", f"task.size={size}", "seq_len=400").seq_len == 400


@every
def test_an_unknown_size_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=r"^size=tiny: must be small, medium or large$"):
        made(name, "tiny")


@every
def test_chance_is_that_of_their_answers(name: str) -> None:
    """The most frequent answer, over their sequences."""
    task, given = made(name, "small"), theirs(name, "small", 1500)
    shares = torch.bincount(given.targets[given.asked]).double() / given.asked.sum()
    assert float(shares.max()) == pytest.approx(task.constant, abs=5 * (0.25 / int(given.asked.sum())) ** 0.5)


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
