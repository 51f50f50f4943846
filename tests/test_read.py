"""``seqmem read``: the printed and drawn numbers against the models; keys and terminals; input that cannot be read."""

import argparse
import io
import json
import os
import pty
import re
import shlex
import shutil
import signal
import sys
import termios
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from importlib.util import find_spec
from itertools import pairwise
from math import exp, inf, log
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from rich.console import Console
from rich.text import Text

import seqmem
from commandline import TINY, Completed
from seqmem.cli.config.schema import from_mapping
from seqmem.cli.config.trained import trained
from seqmem.cli.launch.one_run import execute
from seqmem.cli.main import main
from seqmem.cli.terminal.reader import views
from seqmem.cli.terminal.reader.page import page
from seqmem.cli.terminal.reader.player import SPEEDS, Player, lengths
from seqmem.cli.terminal.reader.terminal import Ended, Terminal, keys, playable
from seqmem.cli.terminal.reader.views import Scene, choose_signs, share_bar, short_names, short_number, time_scale
from seqmem.cli.verbs.read import Readers, _farewell, play
from seqmem.lookback import Weights
from seqmem.reading import Reading, typed
from seqmem.record.recorder import load_checkpoint
from seqmem.runs.directory import RunDirectory
from seqmem.tasks import Adding, Digits, Pronoun, Task

Command = Callable[..., Completed]
DOCS = Path(__file__).parents[1] / "docs" / "read.md"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Untrained models, by kind; tests never write into their directories.

    The first goes through Hydra; the others reuse its configuration, because composing one takes time.
    """
    quick = ("steps=1", "trace.every=100", "checkpoint_every=100", "kernel=torch", "quiet=true")
    first = seqmem.train(*TINY, *quick, "cell=lstm", f"outputs={tmp_path_factory.mktemp('runs')}")
    settings = first.config()
    rnn, gru = ({"cell": {"name": name, "hidden_size": 4}} for name in ("rnn", "gru"))
    kinds: dict[str, dict[str, Any]] = {
        "gru": {**gru, "seq_len": 10}, "rnn": rnn, "stack": {"cell": {**settings["cell"], "layers": 2}},
        "copy": {**gru, "task": {"name": "copy", "length": 3, "symbols": 4}, "seq_len": 9},
        "adding": {"task": {"name": "adding"}}, "digits": {**rnn, "task": {"name": "digits", "scan": "row"}},
        "text": {**gru, "task": {"name": "text"}},
    }  # fmt: skip
    return {"lstm": first.path} | {
        name: execute(from_mapping({**settings, **changes}), overrides=[], console=Console(quiet=True)).path
        for name, changes in kinds.items()
    }


@pytest.fixture
def run_read(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> Callable[..., Completed]:
    """Run ``seqmem read ARGS`` without a terminal, ``columns`` characters wide."""
    monkeypatch.chdir(tmp_path)

    def run(*args: str | Path, columns: int = 80) -> Completed:
        monkeypatch.setenv("COLUMNS", str(columns))
        monkeypatch.setattr(sys, "argv", ["seqmem", "read", *map(str, args)])
        capsys.readouterr()
        try:
            code = main()
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else 0
        captured = capsys.readouterr()
        return Completed(code, captured.out, captured.err)

    return run


def read_json(done: Completed) -> dict[str, Any]:
    assert (done.code, done.err) == (0, "")
    assert done.out.count("\n") == 1
    return json.loads(done.out)


# Made-up readings


def made_up(outputs: Any, *, right: int | None = 0, asked: Sequence[int] | None = None, **changes: Any) -> Reading:
    """A reading of words w0, w1, ..., of which the last asks for one of Pronoun's four answers."""
    table = np.array(outputs, dtype=np.float32)
    steps, answers = len(table), tuple(map(Pronoun(people=4).answer, torch.arange(4)))
    names = [answers[k] for k in table.argmax(1)]
    where = np.zeros(steps, dtype=bool)
    where[list(asked) if asked is not None else [steps - 1]] = True
    return Reading(
        words=tuple(f"w{t}" for t in range(steps)),
        outputs=table,
        answers=answers,
        right=None if right is None else np.full(steps, right),
        asked=where,
        predicts=np.ones(steps, dtype=bool),
        asked_with=None,
        gates=changes.get("gates", {}),
        keeps=changes.get("keeps", ()),
        states=changes.get("states", {"hidden": np.ones((steps, 3), dtype=np.float32)}),
        gradient=changes.get("gradient", {}),
        attention=changes.get("attention", {}),
        chosen=table.argmax(1),
        beam=1,
        texts=(None if right is None else (answers[right],) * steps, tuple(names)),
    )


def looks(rng: np.random.Generator, steps: int, heads: int = 4) -> Weights:
    return Weights([(rng.dirichlet(np.ones(t + 1), size=heads), 0) for t in range(steps)])


def one_hot(*tops: int, confidence: float = 0.7) -> list[list[float]]:
    rest = (1 - confidence) / 3
    return [[confidence if k == top else rest for k in range(4)] for top in tops]


def scene_of(*readings: Reading, unknown: str | None = None) -> Scene:
    task: Task = Pronoun(people=4)
    batch, _ = typed(task, "my brother told his aunt that he")
    labels = tuple(f"model{i}" for i in range(len(readings)))
    return Scene(task, "a sentence", batch, labels, ("50",) * len(readings), readings, unknown)


SIGNS = choose_signs(Console(file=io.TextIOWrapper(io.BytesIO(), "utf-8")))
PLAIN = choose_signs(Console(file=io.TextIOWrapper(io.BytesIO(), "ascii")))


def lines_of(scene: Scene, at: int, view: str = "beliefs", width: int = 80, **how: Any) -> list[str]:
    return [line.plain for line in page(scene, at, view, width, SIGNS, **how).whole()]


# Printed pages


def test_numbers_equal_the_equations(runs: dict[str, Path], run_read: Command) -> None:
    """An LSTM in float64 numpy with the run's weights, in torch's layout: gates i f g o."""
    data = read_json(run_read(runs["lstm"], "--json", "--length", "12", "--sentence", "5"))
    (model,) = data["models"]
    weights = {
        name: value.double().numpy() for name, value in load_checkpoint(runs["lstm"] / "checkpoint.pt")["model"].items()
    }
    vocabulary = Pronoun().words(torch.arange(Pronoun().inputs.size))
    embed, readout = weights["embed.weight"], (weights["readout.weight"], weights["readout.bias"])
    into, across, bias = (
        sum(value for name, value in weights.items() if name.startswith(f"cell.fused.{part}")) for part in
        ("weight_ih", "weight_hh", "bias")
    )  # fmt: skip

    def step(word: str, h: Any, c: Any) -> tuple[Any, Any, Any, Any, Any]:
        a = into @ embed[vocabulary.index(word)] + across @ h + bias
        i, f, g, o = np.split(a, 4)
        i, f, o = (1 / (1 + np.exp(-gate)) for gate in (i, f, o))
        c = f * c + i * np.tanh(g)
        return o * np.tanh(c), c, i, f, o

    h = c = np.zeros(4)
    last = len(data["words"]) - 1
    assert data["asked_with"] == data["words"][last]
    for t, word in enumerate(data["words"]):
        h, c, i, f, o = step(word, h, c)
        probe = h if t == last else step(data["asked_with"], h, c)[0]  # on a copy of the state
        logits = readout[0] @ probe + readout[1]
        shares = np.exp(logits) / np.exp(logits).sum()
        np.testing.assert_allclose(model["outputs"][t], shares, atol=1e-6)
        for name, gate in (("forget", f), ("input", i), ("output", o)):
            np.testing.assert_allclose(model["gates"][name][t], gate, atol=1e-6)
        np.testing.assert_allclose(model["states"]["cell"][t], c, atol=1e-6)
        assert model["top"][t] == int(shares.argmax())
        assert model["said"][t] == data["answers"][int(shares.argmax())]
    candidates = [k for k, name in enumerate(data["answers"]) if name in " ".join(data["words"])]
    assert data["right"][-1] in candidates
    assert data["right"][-1] == Pronoun().solve(Pronoun().parse(" ".join(data["words"]))[:, None])[-1, 0]
    assert model["keeps"] == ["forget"]


@pytest.mark.parametrize("columns", [80, 200])
def test_rows_show_the_numbers_of_the_json(columns: int, runs: dict[str, Path], run_read: Command) -> None:
    both = (runs["rnn"], runs["gru"], "--length", "15")
    data, printed = read_json(run_read(*both, "--json")), run_read(*both, columns=columns)
    assert (printed.code, printed.err) == (0, "")
    rows = [line for line in printed.out.splitlines() if re.match(r" *\d+ ", line)]
    assert [row.split()[1] for row in rows] == data["words"]
    for t, row in enumerate(rows):
        cells = re.findall(r"(✓|✗)?(\w+ \w+) +(\d+) %", row)
        assert len(cells) == 2
        for (sign, name, share), model in zip(cells, data["models"], strict=True):
            top = model["top"][t]
            assert name == data["answers"][top]
            assert int(share) == round(100 * model["outputs"][t][top])
            wrong = "✗" if data["asked"][t] else ""
            assert sign == ("✓" if top == data["right"][t] else wrong)
    assert f"after each word: what each model would answer if '{data['words'][-1]}' came next" in printed.out
    assert "rnn, trained at 8" in printed.out
    assert "gru, trained at 10" in printed.out
    for model in data["models"]:
        verdict = next(line for line in printed.out.splitlines() if line.startswith(f"{model['label']} "))
        assert ("✓ right: " if model["is_right"] else "✗ wrong: says ") + model["said"][-1] in verdict


def test_the_sentence_depends_on_its_number_not_on_the_model(runs: dict[str, Path], run_read: Command) -> None:
    words = [read_json(run_read(runs[cell], "--json", "--length", "20"))["words"] for cell in ("lstm", "rnn")]
    assert words[0] == words[1]
    assert words[0] != read_json(run_read(runs["rnn"], "--json", "--length", "20", "--sentence", "1"))["words"]


def test_the_default_length_is_the_longest_trained_length(runs: dict[str, Path], run_read: Command) -> None:
    assert read_json(run_read(runs["lstm"], runs["gru"], "--json"))["of"] == 10


def test_until_a_word(runs: dict[str, Path], run_read: Command) -> None:
    whole = read_json(run_read(runs["rnn"], "--json"))
    word = whole["words"][3]
    first = whole["words"].index(word) + 1
    for until, count in (("4", 4), (word, first), (word.upper(), first)):
        part = read_json(run_read(runs["rnn"], "--json", "--until", until))
        assert part["words"] == whole["words"][:count]
        model = part["models"][0]
        assert model["is_right"] is None
        assert len(model["outputs"]) == len(part["words"]) == len(model["gradient"]["state"])
    assert " so far " in run_read(runs["rnn"], "--until", "4").out


def test_a_typed_sentence(runs: dict[str, Path], run_read: Command) -> None:
    text = "My brother told his aunt that the old cat slept and she"
    data = read_json(run_read(runs["lstm"], "--json", "--text", text))
    assert data["words"] == text.lower().split()
    assert data["answers"][data["right"][-1]] == "his aunt"
    assert data["unknown"] is data["sentence"] is None
    no_question = run_read(runs["lstm"], "--text", text.removesuffix(" she"))
    assert no_question.code == 0
    assert "not judged: it does not end with a question: he or she" in no_question.out
    assert "▾" not in no_question.out
    assert "✓" not in no_question.out


def test_documented_keys_equal_the_json(runs: dict[str, Path], run_read: Command) -> None:
    data = read_json(run_read(runs["lstm"], "--json"))
    top, model_keys = DOCS.read_text().split("| key of a model |")

    def keys_of(table: str) -> set[str]:
        cells = [line.split("|")[1] for line in table.splitlines() if line.startswith("| `")]
        return {name for cell in cells for name in re.findall(r"`([^`]+)`", cell)}

    assert keys_of(top.split("## `--json`")[1]) == set(data)
    assert keys_of(model_keys) == set(data["models"][0])


def test_copied_symbols_numbers_pictures_and_characters(runs: dict[str, Path], run_read: Command) -> None:
    data, copied = read_json(run_read(runs["copy"], "--json")), run_read(runs["copy"]).out
    *_, last = (line for line in copied.splitlines() if re.match(r" *\d+ ", line))
    assert f"wants {data['answers'][data['right'][-1]]}" in last
    good = sum(a == b for a, b in zip(data["models"][0]["top"][-3:], data["right"][-3:], strict=True))
    assert f"{good} of 3 right; says {' '.join(data['models'][0]['said'][-3:])}" in copied
    assert "changes its mind" not in copied

    data, added = read_json(run_read(runs["adding"], "--json")), run_read(runs["adding"]).out
    assert data["answers"] is None
    marked = [float(word[:-1]) for word in data["words"] if word.endswith("*")]
    assert data["right"][-1][0] == pytest.approx(sum(marked), abs=0.011)  # words are rounded
    assert f"says {data['models'][0]['outputs'][-1][0]:.2f}; wanted {data['right'][-1][0]:.2f}: " in added

    digit = run_read(runs["digits"]).out.splitlines()
    assert sum(bool(re.search(r"[░▒▓█]{2}", line[60:])) for line in digit) >= 6
    half = run_read(runs["digits"], "--until", "4").out.splitlines()
    assert sum("· · · · · · · · " in f"{line} " for line in half) == 4

    data, text = read_json(run_read(runs["text"], "--json")), run_read(runs["text"]).out
    outputs, right = data["models"][0]["outputs"], data["right"]
    bits = [-log(row[k], 2) for row, k in zip(outputs, right, strict=True)]
    assert [float(number) for number in re.findall(r"([\d.]+) bits(?! per)", text)] == pytest.approx(bits, abs=0.006)
    assert f"{np.mean(bits):.2f} bits per character" in text


def test_gates_and_gradient(runs: dict[str, Path], run_read: Command) -> None:
    both = (runs["lstm"], runs["rnn"])
    data = read_json(run_read(runs["lstm"], "--json"))["models"][0]
    printed = run_read(*both, "--view", "gates", columns=160).out
    assert "keeps: time constant (words), median unit  10%: slowest tenth" in printed
    rows = [line for line in printed.splitlines() if re.match(r" *\d+ ", line)]
    for t, row in enumerate(rows):
        forget = np.array(data["gates"]["forget"][t])
        shut, wide = 100 * (forget < 0.1).mean(), 100 * (forget > 0.9).mean()
        assert re.search(rf" {forget.mean():.2f} +{shut:.0f}\|{wide:.0f} ", row)
        scale = -1 / np.log(np.median(forget))
        assert f" {scale:.1f} " in row if scale < 100 else f" {scale:.0f} " in row
        assert f" {np.linalg.norm(data['states']['cell'][t]):.1f} " in row
    assert "no gates" in printed
    narrow = run_read(*both, "--view", "gates", columns=40).out
    assert max(map(len, narrow.splitlines()[1:])) <= 40
    words = r"forget: time constant \(words\) [\d.]+, median unit;? [\d.]+ or more, slowest tenth"
    assert re.search(words, " ".join(narrow.split()))
    stacked = run_read(runs["stack"], "--view", "gates", columns=200).out
    assert "0/forget" in stacked
    assert "1/forget" in stacked

    printed = run_read(*both, "--view", "gradient", columns=100).out
    state = np.array(data["gradient"]["state"])
    rows = [line for line in printed.splitlines() if re.match(r" *\d+ ", line)]
    for t, row in enumerate(rows[:-1]):
        percent = 100 * state[t] / state[-2]
        assert f"{percent:.3g} %" in row
    assert "the answer" in rows[-1]
    decays = data["decay"]
    assert decays["state"]["words"].replace("timestep", "word") in printed.replace("\n", " ")
    assert f"{100 * state[0] / state[-2]:.3g} % of it arrives at the first word" in printed
    cell, hidden = (100 * 10 ** decays[name]["log10_arrives"] for name in ("cell", "hidden"))
    assert cell == pytest.approx(100 * data["gradient"]["cell"][0] / data["gradient"]["cell"][-2])
    assert f"of hidden {hidden:.3g} %, cell {cell:.3g} %" in printed


@pytest.mark.parametrize(("columns", "until"), [(80, 5), (200, 8)])
def test_attention(columns: int, until: int, runs: dict[str, Path], run_read: Command) -> None:
    """From the current word, and from the answer, which is word 8."""
    models = read_json(run_read(runs["lstm"], runs["stack"], "--json"))["models"]
    assert [list(model["attention"]) for model in models] == [["cell"], ["1/cell", "0/cell"]]
    both = (runs["lstm"], runs["stack"], runs["rnn"])
    printed = run_read(*both, "--view", "attention", "--until", str(until), columns=columns).out
    assert "effective attention of a state: the share of each word in it," in printed
    assert re.search(r" cell +1/cell +0/cell" if until == 8 else r" cell +answer +1/cell +answer", printed)
    rows = [line for line in printed.splitlines() if re.match(r" *\d+ ", line)]
    assert len(rows) == until
    for t, row in enumerate(rows):
        cell, top, below = (
            [100 * table["over"][end][0][t] for end in ([7] if until == 8 else [until - 1, 7])]
            for model in models
            for table in model["attention"].values()
        )
        shown = [float(number) for number in re.findall(r"([\d.]+) %", row)]
        assert shown == pytest.approx([*cell, *top, *(below if until == 8 else [])], abs=0.051)
    assert re.search(rf"cell at word {until}, '\w+': \d+ % from word \d", printed)
    assert "no attention, and no state that changes by addition alone" in " ".join(printed.split())


def test_attention_of_heads_and_of_what_came_before() -> None:
    second, third = [[0.75, 0.25], [0.25, 0.75]], [[0.1, 0.2, 0.7], [0.3, 0.2, 0.5]]
    weights = Weights([(np.ones((2, 1)), 0), (np.array(second), 0), (np.array(third), -1)])
    scene = scene_of(made_up(one_hot(0, 0, 0), attention={"attention": weights}))
    lines = lines_of(scene, 1, "attention", width=100)
    rows = [re.findall(r"[\d.]+ %|\S+$", line) for line in lines if re.match(r" *\d ", line)]
    assert rows == [["50.0 %", "20.0 %", "▇▃"], ["50.0 %", "60.0 %", "▃▇"]]
    assert "attention at word 2, 'w1': 50 % from word 1, 'w0'; half or more from this word" in lines[-1]
    assert "20.0 % from before the first word" in lines_of(scene, 2, "attention", width=100)[-1]


@pytest.mark.parametrize("kind", ["ascii", "dumb"])
def test_poor_terminals(
    kind: str, runs: dict[str, Path], run_read: Command, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    monkeypatch.setenv("NO_COLOR", "1")
    if kind == "ascii":
        monkeypatch.setattr("rich.console.Console.encoding", "ascii")
    if kind == "dumb":
        monkeypatch.setenv("TERM", "dumb")
    looks = [("lstm", view) for view in views.VIEWS] + [
        (run, "beliefs") for run in ("copy", "adding", "digits", "text")
    ]
    for run, view in looks if kind == "ascii" else looks[:1]:
        done = run_read(runs[run], "--view", view)
        assert not done.err, done.err
        assert done.code == 0
        assert "\x1b" not in done.out
        assert kind != "ascii" or done.out.isascii()


def test_the_right_answer_is_visible_without_colour() -> None:
    """Without colour, signs mark the right column and the right rows; also in ASCII."""
    scene = scene_of(made_up(one_hot(1, 2, 2), right=2))
    for signs in (SIGNS, PLAIN):
        lines = [line.plain for line in page(scene, 2, "beliefs", 60, signs).whole()]
        pointer = next(line for line in lines if line.strip() == signs.below)
        letters = lines[lines.index(pointer) + 1 :]
        assert letters[0][pointer.index(signs.below)] in ("c", Pronoun(people=4).answer(torch.tensor(2))[0])
        rows = [line for line in lines if re.match(r" *\d ", line)]
        assert [signs.right in row for row in rows] == [False, True, True]
        assert signs.right not in signs.blocks


def test_a_stack_on_a_narrow_terminal_shows_the_keeping_gates_of_every_layer() -> None:
    shares = np.full((2, 3), 0.5, dtype=np.float32)
    names = [f"{layer}/{gate}" for layer in range(2) for gate in ("forget", "input", "output")]
    reading = made_up(one_hot(0, 0), gates=dict.fromkeys(names, shares), keeps=("0/forget", "1/forget"))
    for width, titles in ((33, ["0/for", "0/inp", "1/for"]), (26, ["0/for", "1/for"]), (16, ["0/for"])):
        head = next(line for line in lines_of(scene_of(reading), 1, "gates", width) if " 0/" in line)
        assert [title[:5] for title in head.split()] == titles
    for width in range(30, 120, 7):  # titles are aligned with their numbers at every width
        lines = lines_of(scene_of(reading, reading), 1, "gates", width)
        place = next(place for place, line in enumerate(lines) if " 0/" in line)
        for start in (match.start() for match in re.finditer(r"0/for", lines[place])):
            assert lines[place + 1][start] in SIGNS.blocks, (width, lines)
    *_, means = lines_of(scene_of(reading), 1, "gates", 200)
    assert "1/output 0.50 (0|0 %)" in means


def test_the_name_of_a_timestep(runs: dict[str, Path], run_read: Command) -> None:
    for kind, name in (
        ("rnn", "8 words, sentence 0"), ("copy", "9 timesteps, sequence 0"), ("text", "8 characters, sequence 0")
    ):  # fmt: skip
        assert f"{name} · beliefs" in run_read(runs[kind]).out
    assert "1 word, your own sentence" in run_read(runs["rnn"], "--text", "he").out


def test_a_label_names_the_trained_length_once() -> None:
    scene = scene_of(made_up(one_hot(0, 0)))
    for label, own, head in (
        ("lstm", "50", "lstm, trained at 50"), ("lstm at 50 seed 1", "50", "lstm at 50 seed 1"),
        ("lstm at 50", "7-50", "lstm at 50, trained at 7-50"),
    ):  # fmt: skip
        heads = [line.strip() for line in lines_of(replace(scene, labels=(label,), trained=(own,)), 1)]
        assert head in heads


# Changes of mind, and verdicts


def test_the_last_change_of_mind_is_marked() -> None:
    scene = scene_of(made_up(one_hot(1, 0, 0, 2, 2, 0, 0)), made_up(one_hot(0, 0, 0, 0, 0, 0, 0)))
    times = {"w1": "once,", "w3": "2 times, last", "w5": "3 times, last"}
    for at, marked in ((0, None), (1, "w1"), (2, "w1"), (3, "w3"), (6, "w5")):
        lines = lines_of(scene, at)
        turns = [place for place, line in enumerate(lines) if "changes its mind here" in line]
        assert len(turns) == (marked is not None)
        if marked is not None:
            assert lines[turns[0] - 1].split()[1] == marked
            verdict = "; ".join(lines[lines.index(next(line for line in lines if line.startswith("model0 "))) :])
            assert f"changed its mind {times[marked]} at word {int(marked[1:]) + 1}, '{marked}'" in verdict
    assert any(line.startswith("model1 ") and "never changed its mind" in line for line in lines_of(scene, 6))


def test_changes_after_the_answer_do_not_count() -> None:
    """Padding follows the last question."""
    scene = scene_of(made_up(one_hot(1, 0, 0, 3, 3), asked=[2]))
    lines = lines_of(scene, 4)
    turns = [place for place, line in enumerate(lines) if "changes its mind here" in line]
    assert [lines[place - 1].split()[1] for place in turns] == ["w1"]
    assert any("✓ right: my brother" in line for line in lines)


@pytest.mark.parametrize(
    ("tops", "confidence", "verdict"),
    [
        ((1, 0), 0.9, "✓ right: my brother, 90 %;"),
        ((1, 0), 0.4, "✓ right: my brother, 40 % (a guess);"),
        ((0, 3), 0.6, "✗ wrong: says his aunt, 60 %; it is my brother;"),
    ],
)
def test_verdicts(tops: tuple[int, ...], confidence: float, verdict: str) -> None:
    assert verdict in "; ".join(lines_of(scene_of(made_up(one_hot(*tops, confidence=confidence))), 1)[-2:])


def test_a_verdict_without_a_right_answer() -> None:
    *_, verdict, why = lines_of(scene_of(made_up(one_hot(1, 1), right=None), unknown="it names no person"), 1)
    assert "says her uncle, 70 %" in verdict
    assert why == "not judged: it names no person"


# Closed forms


def test_time_scales_bars_and_short_names() -> None:
    for steps in (0.5, 3.0, 40.0):  # keeping f a step leaves 1/e after -1 / ln f steps
        assert time_scale(exp(-1 / steps)) == pytest.approx(steps)
    assert (time_scale(1.0), time_scale(0.0)) == (inf, 0.0)
    for share in np.linspace(0, 1, 41):
        drawn = share_bar(float(share), 6, SIGNS)
        eighths = 8 * drawn.count("█") + sum(1 + SIGNS.parts.index(c) for c in drawn if c in SIGNS.parts)
        assert len(drawn) == 6
        assert abs(eighths - 48 * share) <= 0.5 + 1e-9
        assert share_bar(float(share), 6, PLAIN).count("#") == round(6 * share)
    assert short_names(["my brother", "his aunt"]) == ["brother", "aunt"]
    assert short_names(["the old cat", "the big cat"]) == ["old cat", "big cat"]
    assert short_names([".", "a", "b"]) == [".", "a", "b"]
    assert short_names([" ", "a"]) == [" ", "a"]
    for value in (0.0, 9.96, 123.4, 99999.0, 1e7, 3e22, inf, float("nan")):
        assert len(short_number(value, SIGNS)) <= 5


def test_gradients_are_drawn_on_a_log_scale() -> None:
    """A factor 10^-2 a step shortens the bar by a quarter; below 10^-8 it is empty."""
    norms = 0.5 * 10.0 ** -(2.0 * np.array([5, 4, 3, 2, 1, 1]))
    lines = lines_of(scene_of(made_up(one_hot(*[0] * 6), gradient={"state": norms})), 5, "gradient", 60)
    rows = [line for line in lines if re.match(r" *\d ", line)]
    drawn = [8 * row.count("█") + sum(1 + SIGNS.parts.index(c) for c in row if c in SIGNS.parts) for row in rows]
    np.testing.assert_allclose(np.array(drawn) / max(drawn), [0, 0.25, 0.5, 0.75, 1, 0], atol=0.01)
    assert any("half-life 0.151 words" in line for line in lines[-3:])  # log10(2) / 2
    assert any("below a thousandth 3 words back" in line for line in lines[-3:])


def test_the_verdict_on_an_uneven_gradient() -> None:
    for norms, verdict in (
        ([0.9, 1.2, 1.0, 1.1, 1.0, 7.0], "stays between 90 % (5 back) and 120 % 90 %"),
        ([0.98, 1.0, 1.01, 1.0, 1.0, 7.0], "keeps its size 98 % of it arrives"),
        ([0.1, 0.1, 0.1, 0.5, 1.0, 7.0], "falls unevenly, to 10 %"),
        ([0.3, 0.3, 0.02, 0.1, 1.0, 7.0], "falls to 2 % at 3 back, then rises to 30 % 30 %"),
        ([16.0, 8.0, 4.0, 2.0, 1.0, 7.0], "grows x2 a word"),
    ):
        lines = lines_of(scene_of(made_up(one_hot(*[0] * 6), gradient={"state": np.array(norms)})), 5, "gradient")
        foot = " ".join(" ".join(lines[-2:]).replace(";", "").split())
        assert verdict in foot, foot


def test_a_picture_equals_the_data_set() -> None:
    spec = find_spec("sklearn")  # where its files are: importing it takes seconds
    assert spec is not None
    assert spec.origin is not None
    published = np.loadtxt(Path(spec.origin).with_name("datasets") / "data" / "digits.csv.gz", delimiter=",")
    pictures = published[:, :-1]
    for task in (Digits(), Digits(scan="row"), Digits(permute=True)):
        batch = task.held_out().sample(1, task.min_seq_len + 2, torch.Generator().manual_seed(3))
        whole = task.picture(batch.inputs[:, 0])
        assert whole is not None
        assert (pictures / 16 == whole.double().numpy().ravel()).all(1).any()
        part = task.picture(batch.inputs[:5, 0])
        assert part is not None
        seen = ~part.isnan()
        assert int(seen.sum()) == 5 * task.inputs.size
        assert torch.equal(part[seen], whole[seen])
    assert Adding().picture(torch.zeros(3, 2)) is None


# The screen


def test_no_line_is_too_long_and_the_current_word_is_on_the_screen() -> None:
    rng = np.random.default_rng(0)
    readings = [
        made_up(
            rng.dirichlet(np.ones(4), size=30),
            gates={name: rng.random((30, 3)) for name in ("forget", "input", "output")},
            keeps=("forget",),
            gradient={"state": 10.0 ** rng.uniform(-12, 3, 30)},
            attention={f"{layer}/attention": looks(rng, 30) for layer in (1, 0)},
        )
        for _ in range(6)
    ]
    for width in (12, 47, 80, 200):
        for count in (1, 4):
            for view in views.VIEWS:
                player = playing(scene_of(*readings[:count]), view=view)
                for height in (1, 5, 24) if width == 80 else (16,):
                    for at in (0, 22):
                        player.at = at
                        frame = player.frame(width, height)
                        assert len(frame) == height
                        assert max(line.cell_len for line in frame) <= width
                        if count == 4 and width == 47:
                            assert "2 more if wider" in frame[0].plain
                        if height >= 5:
                            assert any(line.plain.startswith(f"▸{at + 1:>2} ") for line in frame), (width, height, at)


def playing(scene: Scene, **how: Any) -> Player:
    options: dict[str, Any] = {"length": 50, "number": 0, "among": [7, 10, 50, 70], "scene_of": lambda *_: scene, **how}
    return Player(scene=scene, signs=SIGNS, **options)


def test_time_moves_the_current_word() -> None:
    player = playing(scene_of(made_up(one_hot(*[0] * 10))), speed=4.0)
    seen = []
    for tick in range(40):
        player.tick(100 + tick / 16)  # sixteen ticks a second, four words a second
        seen.append(player.at)
    assert seen == [min(tick // 4, 9) for tick in range(40)]
    assert not player.playing
    assert player.wait(200.0) is None
    player.press(" ")
    assert (player.at, player.playing) == (0, True)
    player.tick(300.0)
    assert player.wait(300.1) == pytest.approx(0.15)
    player.tick(900.0)  # suspended in between: it goes on with the next word
    assert player.at == 1


def test_keys() -> None:
    asked: list[tuple[int, int, bool]] = []
    readings = made_up(one_hot(*[0] * 10)), made_up(one_hot(*[1] * 10), gradient={"state": np.ones(10)})

    def scene(length: int, number: int, gradient: bool) -> Scene:
        asked.append((length, number, gradient))
        return scene_of(readings[1] if gradient else readings[0])

    player = playing(scene_of(readings[0]), scene_of=scene)
    for key, at in (("right", 1), ("l", 2), ("h", 1), ("left", 0), ("left", 0), ("end", 9), ("right", 9), ("g", 0)):
        player.press(key)
        assert (player.at, player.playing) == (at, False), key
    player.press(" ")
    assert player.playing
    for key, chosen in (
        ("up", (70, 0)),
        ("up", (70, 0)),
        ("j", (50, 0)),
        ("n", (50, 1)),
        ("n", (50, 2)),
        ("p", (50, 1)),
    ):
        player.press(key)
        player.settle()
        assert (player.length, player.number) == chosen, key
    assert asked == [(70, 0, False), (50, 0, False), (50, 1, False), (50, 2, False), (50, 1, False)]
    for key, view in (
        ("2", "gates"),
        ("tab", "gradient"),
        ("tab", "attention"),
        ("tab", "beliefs"),
        ("backtab", "attention"),
        ("3", "gradient"),
        ("1", "beliefs"),
    ):
        player.press(key)
        assert player.view == view
    assert asked[5:] == [(50, 1, True)]  # measured once, on the first look
    for key, speed in (("+", 6.0), ("-", 4.0), *(("-", s) for s in SPEEDS[3::-1]), ("-", SPEEDS[0])):
        player.press(key)
        assert player.speed == speed
    for key in "nnnn":
        player.press(key)
    assert len(asked) == 6
    player.frame(80, 24)
    assert asked[6:] == [(50, 5, False)]  # a repeating key reads the last sentence only
    player.press("z")
    assert not player.left
    player.press("q")
    assert player.left


def test_playback_stops_at_until_and_can_go_on() -> None:
    player = playing(scene_of(made_up(one_hot(*[0] * 10))), until=lambda _: 4)
    for tick in range(100):
        player.tick(tick / 4)
    assert (player.at, player.playing) == (4, False)
    player.press(" ")
    for tick in range(100):
        player.tick(1000 + tick / 4)
    assert player.at == 9


def test_a_typed_sentence_has_no_successor_but_has_gradients() -> None:
    plain, measured = made_up(one_hot(0, 0)), made_up(one_hot(0, 0), gradient={"state": np.ones(2)})
    player = playing(scene_of(plain), length=None, with_gradient=lambda: scene_of(measured))
    for key in ("up", "down", "n", "p"):
        player.press(key)
        assert "your own" in player.frame(80, 24)[-1].plain
    player.press("3")
    assert player.scene.readings == (measured,)


def test_lengths_to_choose_from() -> None:
    choices = lengths(7, 200, [50, 33])
    assert choices == sorted(set(choices))
    assert (choices[0], choices[-1]) == (7, 200)
    assert {33, 50} <= set(choices)
    assert all(more / less <= 1.7 for less, more in pairwise(choices))
    assert lengths(5, 5, [5]) == [5]


# The terminal


def test_keys_are_parsed_wherever_the_input_is_cut() -> None:
    data = b"q \x1b[A\x1bOBl\x1b[Z\t\x1b[1;5C\x1b[H\x1bx\xc3"
    names = ["q", " ", "up", "down", "l", "backtab", "tab", "home", "x", "\xc3"]
    assert keys(data) == (names, b"")
    for cut in range(len(data)):
        first, rest = keys(data[:cut])
        second, incomplete = keys(rest + data[cut:])
        assert first + second == names
        assert incomplete == b""
    assert keys(b"\x1b") == ([], b"\x1b")


class Screen:
    """The other end of a pseudo-terminal."""

    def __init__(self) -> None:
        self.far, self.near = pty.openpty()
        self.file = open(self.near, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
        self.console = Console(file=self.file, force_terminal=True, color_system="truecolor", legacy_windows=False)
        self.before = termios.tcgetattr(self.near)
        self.seen = bytearray()
        self.reader = threading.Thread(target=self._read, daemon=True)
        self.reader.start()

    def _read(self) -> None:
        while True:
            try:
                data = os.read(self.far, 65536)
            except OSError:
                return
            self.seen += data

    def press(self, text: bytes) -> None:
        os.write(self.far, text)

    def wait_for(self, text: str) -> None:
        end = time.monotonic() + 5
        while text.encode() not in self.seen:
            assert time.monotonic() < end, bytes(self.seen)
            time.sleep(0.005)

    def is_restored(self) -> bool:
        """Main screen, visible cursor, the previous terminal attributes."""
        self.wait_for("\x1b[?1049l")
        show, hide = self.seen.rfind(b"\x1b[?25h"), self.seen.rfind(b"\x1b[?25l")
        return show > hide and termios.tcgetattr(self.near) == self.before


@pytest.fixture
def screen() -> Iterator[Screen]:
    screen = Screen()
    yield screen
    screen.file.close()
    os.close(screen.near)  # ends the reader, which must stop before its file descriptor can be reused
    screen.reader.join(5)
    os.close(screen.far)


def test_playback_until_q_restores_the_terminal(screen: Screen) -> None:
    termios.tcsetwinsize(screen.near, (30, 90))
    player = playing(scene_of(made_up(one_hot(1, 0, 0, 0, 2))), speed=50.0)
    with Terminal(screen.console, screen.near) as terminal:
        assert terminal.size == (90, 30)
        worker = threading.Thread(target=play, args=(player, terminal))
        worker.start()
        screen.wait_for("wrong: says ")
        screen.press(b"2")
        screen.wait_for("no gates")
        termios.tcsetwinsize(screen.near, (12, 40))
        screen.press(b"\x1b[D1")
        screen.press(b"q")
        worker.join(5)
        assert not worker.is_alive()
        assert b"\x1b[?1049h" in screen.seen
        assert not termios.tcgetattr(screen.near)[3] & termios.ICANON
    assert screen.is_restored()
    assert (player.at, player.view, player.left) == (3, "beliefs", True)


def test_a_full_row_is_drawn_whole(screen: Screen) -> None:
    """The cursor stays on the last column until the next character, so that an erase would wipe that column."""
    termios.tcsetwinsize(screen.near, (4, 20))
    with Terminal(screen.console, screen.near) as terminal:
        terminal.draw([Text("a" * 20), Text("b" * 19), Text(""), Text("d" * 20)])
        screen.wait_for("d")
        rows = bytes(screen.seen).rpartition(b"\x1b[H")[2].replace(b"\r\r\n", b"\r\n").split(b"\r\n")
        assert rows == [b"a" * 20, b"b" * 19 + b"\x1b[K", b"\x1b[K", b"d" * 20]
        termios.tcsetwinsize(screen.near, (6, 20))
        terminal.draw([Text("e" * 20)])  # fewer rows than before: the rest is erased
        screen.wait_for("e" * 20 + "\r\r\n\x1b[J")


@pytest.mark.parametrize("what", ["error", "SIGTERM", "SIGHUP", "Ctrl-C"])
def test_every_exit_restores_the_terminal(what: str, screen: Screen) -> None:
    handlers = [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP)]
    kinds = {"error": ZeroDivisionError, "SIGTERM": Ended, "SIGHUP": Ended, "Ctrl-C": KeyboardInterrupt}
    with pytest.raises(kinds[what]) as raised, Terminal(screen.console, screen.near) as terminal:  # noqa: PT012
        terminal.draw([Text("something")])
        if what == "error":
            raise ZeroDivisionError
        os.kill(os.getpid(), {"Ctrl-C": signal.SIGINT}.get(what) or getattr(signal, what))
        time.sleep(1)
    assert screen.is_restored()
    assert handlers == [signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGTSTP)]
    if isinstance(raised.value, Ended):
        assert raised.value.exit_code == 128 + getattr(signal, what)


def test_playback_needs_a_terminal_and_a_keyboard(
    screen: Screen, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    class Keyboard:
        def __init__(self, number: int) -> None:
            self.fileno = lambda: number

    monkeypatch.setattr(sys, "stdin", Keyboard(screen.near))
    monkeypatch.delenv("TERM", raising=False)
    assert playable(screen.console)
    monkeypatch.setenv("TERM", "dumb")
    assert not playable(Console(file=screen.file, force_terminal=True))
    monkeypatch.setenv("TERM", "xterm")
    with (tmp_path / "file").open("w") as file:
        assert not playable(Console(file=file, force_terminal=True))  # as with FORCE_COLOR
        monkeypatch.setattr(sys, "stdin", Keyboard(file.fileno()))
        assert not playable(screen.console)


def test_the_last_line_is_a_command_that_prints_the_same_page(
    runs: dict[str, Path], run_read: Command, screen: Screen
) -> None:
    termios.tcsetwinsize(screen.near, (20, 50))
    text = "hello  world"
    model = trained(RunDirectory(runs["text"]))
    batch, unknown = typed(model.task, text)
    scene = Readers([model]).scene(batch, "hello", unknown, gradient=False)
    player = playing(scene, length=None, at=6)
    _farewell(player, argparse.Namespace(runs=[str(runs["text"])], text=text), screen.console)
    screen.wait_for("--whole")
    output = bytes(screen.seen).decode().splitlines()
    command = next(line for line in output if "seqmem read" in line)
    again = run_read(*shlex.split(re.sub(r"\x1b\[[\d;]*m", "", command))[2:], columns=50)
    assert again.code == 0
    lines = lines_of(scene, 6, width=50)[1:]
    assert again.out.splitlines()[1:] == [line.rstrip() for line in lines]


# Input that cannot be read


def test_bad_input_is_one_line(runs: dict[str, Path], run_read: Command, tmp_path: Path) -> None:
    run = runs["rnn"]
    for args, line, code in (
        ((run, "--length", "3"), "seq_len=3 is too short for task=pronoun: at least 7", 2),
        ((runs["text"], "--length", "99999999"), "is too long for task=text: at most", 2),
        ((run, "--length", "many"), "argument --length: invalid int value: 'many'; see seqmem read --help", 2),
        ((run, "--until", "99"), "--until 99: there are 8 words, counted from 1", 2),
        ((run, "--until", "0"), "--until 0: there are 8 words, counted from 1", 2),
        ((run, "--until", ""), "--until '': no word is written so", 2),
        ((runs["copy"], "--until", "x"), "--until 'x': no timestep is written so", 2),
        ((runs["adding"], "--text", "0.5* nan*"), "--text: a number in it is not finite", 2),
        ((run, "--until", "xylophone"), "--until 'xylophone': no word is written so", 2),
        ((run, "--text", ""), "--text: the text is empty", 2),
        ((run, "--text", "my brothr said"), "--text: task=pronoun has no word 'brothr' (near: brother", 2),
        ((run, "--text", "he", "--length", "9"), "--text is a sentence of your own: it has no --length", 2),
        ((runs["digits"], "--text", "1"), "--text: the inputs of task=digits cannot be typed", 2),
        ((run, "--sentence", "-1"), "--sentence -1: must be 0 or more", 2),
        *(
            ((run, "--speed", wrong), f"--speed {wrong}: must be more than 0, and at most", 2)
            for wrong in ("0", "inf", "nan")
        ),
        ((run, "--view", "hopes"), "argument --view: invalid choice: 'hopes'", 2),
        ((run, runs["copy"]), "task=copy, not pronoun", 2),
        ((tmp_path / "nowhere",), "nowhere: no run there", 2),
    ):
        run_read(*args).refuses(line, code=code, verb="read")


def test_runs_that_cannot_be_read(runs: dict[str, Path], run_read: Command, tmp_path: Path) -> None:
    def copy(name: str) -> Path:
        return Path(shutil.copytree(runs["rnn"], tmp_path / name / "run"))

    (copy("unfinished") / "result.json").unlink()
    run_read(tmp_path / "unfinished").refuses("is not finished (killed at step 1)", code=1, verb="read")
    (copy("weightless") / "checkpoint.pt").unlink()
    run_read(tmp_path / "weightless").refuses("lacks its checkpoint.pt", code=1, verb="read")
    (copy("damaged") / "checkpoint.pt").write_bytes(b"PK\x03\x04 half a file")
    run_read(tmp_path / "damaged").refuses("checkpoint.pt", code=1, verb="read")
    (copy("foreign") / "checkpoint.pt").write_bytes((runs["lstm"] / "checkpoint.pt").read_bytes())
    run_read(tmp_path / "foreign").refuses("does not fit the run's configuration", code=1, verb="read")
    for name in "abcdefg":
        copy(f"many/{name}")
    run_read(tmp_path / "many").refuses("7 runs are too many side by side, at most 6", code=2, verb="read")
    for kind, name in (("copy", "aa"), ("lstm", "x"), ("gru", "y")):
        shutil.copytree(runs[kind], tmp_path / "mixed" / name / "run")
    for name in "pqrs":
        shutil.copytree(runs["rnn"], tmp_path / "mixed" / name / "run")
    done = run_read(tmp_path / "mixed" / "p", tmp_path / "mixed")
    some = done.err.split("e.g. seqmem read ")[1].split()
    assert [Path(run).parent.name for run in some] == ["p", "x", "y"]  # one of each cell, all of one task
    assert run_read(*some).code == 0
    (tmp_path / "mixed" / "aa" / "run" / "result.json").unlink()
    run_read(tmp_path / "mixed", runs["stack"]).refuses("7 runs are too many", code=2, verb="read")
    config = tmp_path / "mixed" / "x" / "run" / "config.json"
    config.write_text(config.read_text().replace('"pronoun"', '"gone"'))
    run_read(config.parent).refuses("mixed/x/run: no task is called 'gone'", code=2, verb="read")
    for name in "abcde":
        (tmp_path / "many" / name / "run" / "result.json").unlink()
    done = run_read(tmp_path / "many", "--json")
    assert done.code == 0
    assert len(json.loads(done.out)["models"]) == 2
    assert "not finished, so left out: 5 of 7 runs" in done.err
    for words, line in ((("--sentence", "-1"), "--sentence -1: must be 0"), (("--until", "zz"), "--until 'zz': no ")):
        run_read(tmp_path / "many", *words).refuses(line, code=2, verb="read")  # without a note before it
