"""The playground's engine in a real browser equals the models in Python; names cannot break the page's data."""

import json
import shutil
import subprocess
from base64 import b64decode
from collections.abc import Callable, Iterator, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from functools import partial
from math import inf, nan
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
from numpy import ndarray
from torch import Tensor, nn

from browser import Visit, visiting
from browser import chromium as chromium
from seqmem.cells import (
    GLA,
    GRU,
    JANET,
    LSTM,
    MGU,
    MLSTM,
    RGLRU,
    RNN,
    UGRNN,
    Additive,
    Attention,
    Cell,
    DeltaNet,
    GatedDeltaNet,
    LinearAttention,
    MinGRU,
    MinLSTM,
    Retention,
    Stack,
    State,
)  # fmt: skip
from seqmem.cells.state import newest
from seqmem.decay import profile
from seqmem.evaluate import Evaluation
from seqmem.lookback import mean_over
from seqmem.models.base import Model
from seqmem.models.encoder_decoder import EncoderDecoder
from seqmem.models.recurrent import SequenceModel
from seqmem.playground import page
from seqmem.playground.bundle import Playable, bundle
from seqmem.probes.gradient import Tracer
from seqmem.randomness import ambient, generator
from seqmem.reading import Reading, beliefs, read, sentence
from seqmem.signals import Batch, Tokens
from seqmem.tasks.adding import Adding
from seqmem.tasks.base import Task
from seqmem.tasks.copy import Copy
from seqmem.tasks.pronoun import Pronoun
from seqmem.tasks.reverse import Reverse
from seqmem.tasks.subject import SUBJECTS, WORDS, Subject
from seqmem.tasks.temporal_order import TemporalOrder

SETUP = Path(__file__).parents[1] / "scripts" / "setup.sh"
same = np.testing.assert_allclose
TASK = Pronoun()


class Leaky(Cell):
    """A cell that the page cannot run."""

    keeps = ("leak",)

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_size, self.output_size = input_size, hidden_size
        self.inner = nn.Linear(input_size + hidden_size, hidden_size)

    def initial_state(self, batch_size: int) -> State:
        return {"slow": self.inner.weight.new_zeros(batch_size, self.output_size)}

    def gates(self, x: Tensor, state: State) -> State:
        return {"leak": state["slow"].sigmoid()}

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        leak = self.gates(x, state)["leak"]
        new = leak * state["slow"] + self.written(leak, x, state)
        return new, {"slow": new}

    def additive(self, x: Tensor, state: State) -> dict[str, Additive]:
        leak = self.gates(x, state)["leak"]
        return {"slow": Additive(leak, self.written(leak, x, state))}

    def written(self, leak: Tensor, x: Tensor, state: State) -> Tensor:
        return (1 - leak) * self.inner(torch.cat([x, state["slow"]], -1)).tanh()


def small(
    cell: Callable[[int], Cell], task: Task = TASK, *, gain: float = 2.0, embed_size: int = 4, layers: int = 1
) -> SequenceModel:
    """A model with random weights, large enough that its answer changes from word to word."""
    with ambient(1, "playground"):
        model = SequenceModel.for_task(task, cell, embed_size=embed_size, layers=layers)
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                if "weight" in name and not name.startswith("embed"):
                    parameter.mul_(gain if name.startswith("cell") else 5)
    return model.eval()


def models() -> dict[str, SequenceModel]:
    """One model for every kind of cell that the page runs, and for every way to combine them."""
    with ambient(1, "stack"):
        embed, width = TASK.inputs.embed(4)
        mixed = SequenceModel(embed, Stack([RNN(width, 7), GRU(7, 5, form="cho", seq_len=9)]), nn.Linear(5, 8)).eval()
    return {
        "rnn tanh": small(partial(RNN, hidden_size=6)),
        "rnn relu": small(partial(RNN, hidden_size=6, nonlinearity="relu"), gain=1.0),
        "lstm": small(partial(LSTM, hidden_size=6, seq_len=20)),
        "gru torch": small(partial(GRU, hidden_size=6, forget_bias=0.0)),
        "gru cho": small(partial(GRU, hidden_size=6, forget_bias=0.0, form="cho")),
        "stack of two": small(partial(LSTM, hidden_size=5, forget_bias=1.0), layers=2),
        "two kinds": mixed,
        "one-hot": small(partial(LSTM, hidden_size=6, forget_bias=1.0, coupled=True), embed_size=0),
        "ugrnn": small(partial(UGRNN, hidden_size=6), gain=4.0),
        "janet": small(partial(JANET, hidden_size=6, forget_bias=0.0, beta=0.5), gain=4.0),
        "mingru": small(partial(MinGRU, hidden_size=6, forget_bias=0.0), gain=4.0),
        "minlstm": small(partial(MinLSTM, hidden_size=6, forget_bias=0.0, normalised=False), gain=9.0),
        "minlstm normalised": small(partial(MinLSTM, hidden_size=6, forget_bias=0.0), gain=4.0, layers=2),
        "mgu": small(partial(MGU, hidden_size=6, forget_bias=0.0), gain=4.0),
        "rglru": small(partial(RGLRU, hidden_size=6), gain=4.0),
        "attention": small(partial(Attention, hidden_size=6, heads=2)),
        "attention of two": small(
            partial(Attention, hidden_size=6, heads=2, positions="learned", window=9, seq_len=20), gain=1.0, layers=2
        ),
        "attention alone": small(
            partial(Attention, hidden_size=5, heads=3, positions="none", wide=0), embed_size=5, gain=3.0
        ),
        "linear_attention": small(partial(LinearAttention, hidden_size=6, heads=2), gain=4.0, layers=2),
        "retention": small(partial(Retention, hidden_size=5, heads=2), gain=2.0),
        "gla": small(partial(GLA, hidden_size=6, heads=2, rank=3), gain=2.0),
        "deltanet": small(partial(DeltaNet, hidden_size=6, heads=2, negative=True), gain=4.0),
        "gated_deltanet": small(partial(GatedDeltaNet, hidden_size=6, heads=2), gain=4.0),
        "mlstm": small(partial(MLSTM, hidden_size=6, heads=2), gain=4.0),
        "mlstm exp": small(partial(MLSTM, hidden_size=4, heads=2, forget="exp"), gain=0.5),
        "vanishing": small(partial(RNN, hidden_size=6), gain=0.1),
    }


LENGTHS = torch.randint(7, 61, (4,), generator=generator(0, "lengths")).tolist()
SENTENCES = 5
"""For each length and each model."""


WRITES = Reverse(5)


BEAMS = {"bahdanau": 2, "dot": 4, "bahdanau of states": 3, "one lstm": 4, "one block": 2, "ahead, vector": 3}
"""What writes by beam search."""


def writers() -> dict[str, Model]:
    """Models that write, by every way from the source to the target."""
    lstm, attention = partial(LSTM, hidden_size=6, forget_bias=1.0), partial(Attention, hidden_size=6, heads=2)
    cho = partial(GRU, hidden_size=6, forget_bias=0.0, form="cho")
    ways: dict[str, dict[str, Any]] = {
        "vector": {"cell": cho},
        "linear": {"cell": lstm, "maxout": False, "embed_size": 0},
        "state": {"cell": lstm, "handover": "state", "layers": 2},
        "bahdanau": {"cell": cho, "attention": "bahdanau", "bidirectional": True, "layers": 2},
        "luong": {"cell": lstm, "attention": "luong", "bidirectional": True},
        "dot": {"cell": lstm, "attention": "luong", "attention_score": "dot", "input_feeding": True},
        "concat": {"cell": cho, "attention": "luong", "attention_score": "concat"},
        "bahdanau of states": {"cell": lstm, "attention": "bahdanau", "handover": "state"},
        "blocks": {"cell": attention, "decoder": attention, "attention": "bahdanau"},
        "one lstm": {"cell": lstm},
        "one block": {"cell": attention},
        "ahead": {"cell": partial(Leaky, hidden_size=5)},
        "ahead, vector": {"cell": partial(Leaky, hidden_size=5)},
    }
    made: dict[str, Model] = {}
    with ambient(2, "writers"):
        for name, options in ways.items():
            alone = name.startswith("one") or name == "ahead"
            kind = SequenceModel if alone else EncoderDecoder
            model = kind.for_task(WRITES, **{"embed_size": 4, **options})
            with torch.no_grad():
                for parameter in model.parameters():
                    parameter.mul_(3)
            made[name] = model.eval()
    return made


@dataclass(frozen=True)
class Browsed:
    """All results from the browser."""

    visit: Visit
    by_model: dict[str, list[dict[str, Any]]]
    unknown_cell: dict[str, Any]
    parsed: dict[str, list[dict[str, Any]]]
    hostile: dict[str, Any]
    decoded: dict[str, Any]
    shares: list[str]
    written: dict[str, list[dict[str, Any]]]


class Hostile(Subject):
    """A task with words that would end the data element or start a script."""

    name: ClassVar[str] = "hostile"
    bad = ("</script><script>window.broken = true</script>", "<!--<script>", "\u2028", "naïve ☃", '"\\u003c', "]]>&lt;")

    def words(self, inputs: Tensor) -> list[str]:
        return [(*self.bad, *WORDS[len(self.bad) :])[i] for i in inputs.tolist()]


class Wide(Subject):
    """A task with more words than a byte can count."""

    name: ClassVar[str] = "wide"

    @property
    def inputs(self) -> Tokens:
        return Tokens(300)

    def words(self, inputs: Tensor) -> list[str]:
        return [f"word{i}" for i in inputs.tolist()]

    def sample(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Batch:
        drawn = super().sample(batch_size, seq_len, rng)
        return replace(drawn, inputs=drawn.inputs * 23)


TEXTS = {
    "pronoun": [
        "my brother told his aunt that the dog slept and he",
        "My  brother, told HIS aunt: that (the dog slept!) and he?",
        "my brother told his aunt that the dog slept and she",
        "my brother told his aunt that the dog slept and they",
        "my brother told our father that the dog slept and he",
        "my brother told our father that the dog slept and she",
        "my brother he",
        "the old bridge was quiet whille our cat slept and he",
        "my brother told his aunt that the xylophone",
        "brother my told her uncle that the river slept and \"he\"",
        "",
        "  \n\t ",
        "he",
        "... ! my",
        "my mother told his aunt that the dog slept and she",
        "my grandfather told his aunt that the dog slept and he",
        "my sister near the door told our father that he",
        "his aunt told your nephew that again the red river vanished so the dog slept yesterday and she",
    ],
    "subject": [
        "bob AND the walked to store WHO?", "Bob WHO", "who?", "Alice Bob WHO?", "walked to the store", "Bobb who?",
        "walked Bob WHO?",
    ],
    "temporal_order": ["c f d B e e d c f c c A f d", "cfdBeedcfccAfd", "c f x B", "AaBb"],
}  # fmt: skip
PROFILES = ([0.5, 0.25, 3.0, 7.0], [1e-250, 4.0, 0.0, 0.0, 7.0], [0.2, 0.1, 0.0], [0.0, 0.0, 7.0], [0.3, 0.2], [7.0])
"""Norms from the first word to the answer."""

TASKS: dict[str, Task] = {"pronoun": TASK, "subject": Subject(), "temporal_order": TemporalOrder()}


def playable(model: Model, task: Task = TASK, **more: Any) -> Playable:
    return Playable(model, task, **{"cell": "rnn", "seq_len": 20, **more})


@pytest.fixture(scope="module")
def sentences() -> dict[str, list[Batch]]:
    """Model name -> batches of sentences, each of one length."""
    batches = {}
    for name in models():
        rng = generator(0, f"sentences {name}")
        batches[name] = [TASK.sample(SENTENCES, length, rng) for length in LENGTHS]
    batches["vanishing"][0] = TASK.sample(SENTENCES, 400, generator(0, "vanishing"))
    return batches


ASK = """({bundles, sentences, perLength, texts, profiles}) => {
  const text = (values) => {
    let bytes = "";
    for (const byte of new Uint8Array(Float64Array.from(values).buffer)) bytes += String.fromCharCode(byte);
    return btoa(bytes);
  };
  const all = (values) => Object.fromEntries(Object.entries(values).map(([name, some]) => [name, text(some)]));
  const {decode} = globalThis.engine;
  const runs = decode(bundles.runs);
  const byModel = {};
  for (const model of runs.models) {
    byModel[model.label] = sentences[model.label].map(({tokens, answer}, number) => {
      const reading = model.read(tokens);
      const result = {confidence: text(reading.confidence), top: [...reading.top], changedAt: reading.changedAt,
                     T: reading.T, K: reading.K, keeps: reading.keeps, hidden: reading.hidden};
      if (number < 2 * perLength && number % perLength === 0) {
        Object.assign(result, {gates: all(reading.gates), states: all(reading.states), norms: all(reading.norms),
                               gateMeans: all(reading.gateMeans),
                               looks: reading.looks.map(({name, over}) => [name, text(over(reading.T - 3))])});
      }
      if (number < 2 * perLength && number % perLength < 2) result.gradient = all(reading.gradient(answer));
      return result;
    });
  }
  const [leaky] = decode(bundles.leaky).models;
  const readable = leaky.readable();
  const pool = decode(bundles.leaky).sentences;
  const unknownCell = {runs: leaky.runs, other: leaky.read([1, 2, 3]), readings: readable.map(([at, number]) => {
    const reading = leaky.read(pool[at].tokens(number));
    return {seq_len: pool[at].seq_len, right: pool[at].right(number), confidence: text(reading.confidence),
            gateMeans: all(reading.gateMeans), norms: all(reading.norms), keeps: reading.keeps,
            gradient: all(reading.gradient(pool[at].right(number))),
            looks: reading.looks.map(({name, effective, over}) => {
              const rows = Array.from({length: reading.T}, (_, t) => over(t));
              return {name, effective, rows: rows.map((row) => row && text(row))};
            }),
            otherAnswer: reading.gradient(pool[at].right(number) + 1), changedAt: reading.changedAt};
  })};
  const parsed = {};
  for (const [name, some] of Object.entries(texts)) {
    const {task} = decode(bundles[name]);
    parsed[name] = some.map((line) => {
      const result = task.parse(line);
      return {...result, right: task.right(result.tokens), problem: task.problem(result.tokens)};
    });
  }
  const here = decode(JSON.parse(document.getElementById("data").textContent));
  const hostile = {vocabulary: here.task.vocabulary, broken: globalThis.broken === true,
                   parsed: here.task.parse("<!--<script> naïve").unknown.map(({word}) => word)};
  const decoded = {
    groups: runs.groups.map(({name, models}) => [name, models.map(({seed}) => seed)]),
    ids: runs.models.map(({id}) => id),
    lengths: runs.models[0].lengths, shortest: runs.models.map(({shortest}) => shortest),
    sentences: runs.sentences.map((some) => {
      const last = some.count - 1;
      return [some.seq_len, some.count, some.tokens(last), some.right(last)];
    }),
  };
  decoded.wide = decode(bundles.wide).sentences.map((some) => some.tokens(1));
  let refused = null;
  try { decode({...bundles.runs, format: 1}); } catch (error) { refused = error.message; }
  decoded.refused = refused;
  const writing = decode(bundles.writing);
  const written = Object.fromEntries(writing.models.map((model) => [model.label,
    (model.readable() ?? [[2, 0], [5, 1]]).map(([at, number]) => {
      const pool = writing.sentences[at];
      const {answers, confidence, alignment, vector} = model.read(pool.tokens(number));
      return {seq_len: pool.seq_len, number, source: pool.tokens(number), right: pool.right(number), answers,
              confidence: text(confidence), vector: vector && text(vector),
              alignment: alignment && {...alignment, rows: alignment.rows.map(text)}};
    })]));
  const shares = profiles.map((norms) => text(globalThis.engine.relative(Float64Array.from(norms))));
  return JSON.stringify({by_model: byModel, unknown_cell: unknownCell, parsed, hostile, decoded, shares, written});
}"""


@pytest.fixture(scope="module")
def browsed(
    sentences: dict[str, list[Batch]], tmp_path_factory: pytest.TempPathFactory, chromium: Any
) -> Iterator[Browsed]:
    """One page and one call for all tests: starting a browser takes seconds."""
    folder = tmp_path_factory.mktemp("page")
    (folder / "page.html").write_text(
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8"><title>t</title>'
        '<link rel="icon" href="data:,"><link rel="stylesheet" href="style.css"></head><body>'
        '<script type="application/json" id="data"></script><script type="module" src="app.js"></script></body></html>'
    )
    (folder / "style.css").write_text("body { color: green; }")
    # Both define `bytes`, and so does engine.js.
    (folder / "app.js").write_text(
        'import { decode as read, relative } from "./engine.js";\nimport * as other from "./other.js";\n'
        'import { bytes as borrowed } from "./other.js";\nconst bytes = 1;\n'
        "globalThis.engine = { decode: read, relative };\nglobalThis.sum = bytes + other.bytes + borrowed;\n"
    )
    (folder / "other.js").write_text("export const bytes = 20;\n")
    for name in ("engine.js", "cells.js", "tape.js"):
        (folder / name).write_text((page.SOURCES / name).read_text())
    hostile = bundle([playable(small(partial(RNN, hidden_size=2), Hostile()), Hostile())])
    (folder / "index.html").write_text(page.build(hostile, folder))

    runs = []
    for number, (name, model) in enumerate(models().items()):
        more: dict[str, Any] = {"label": name, "group": "pair" if number < 2 else name, "seed": number}
        if number == 0:
            more |= {"lengths": [Evaluation(7, 0.5, nan, 100), Evaluation(20, nan, nan, 100)]}
        runs.append(playable(model, **more))
    runs.append(playable(runs[0].model, label="again", shortest=7, seed=0))
    bundles = {name: bundle([playable(small(partial(RNN, hidden_size=2), task), task)]) for name, task in TASKS.items()}
    bundles["wide"] = bundle([playable(small(partial(RNN, hidden_size=2), Wide()), Wide())])
    bundles["writing"] = bundle(
        [playable(model, WRITES, label=name, seq_len=12, beam=BEAMS.get(name, 1)) for name, model in writers().items()]
    )
    bundles |= {"runs": bundle(runs), "leaky": bundle([playable(small(partial(Leaky, hidden_size=6)), seq_len=10)])}
    questions = {
        name: [
            {"tokens": batch.inputs[:, number].tolist(), "answer": int(batch.targets[-1, number])}
            for batch in batches
            for number in range(SENTENCES)
        ]
        for name, batches in sentences.items()
    }
    with visiting(chromium, folder / "index.html") as visit:
        question = {"bundles": bundles, "sentences": {**questions, "again": []}, "perLength": SENTENCES}
        question |= {"texts": TEXTS, "profiles": PROFILES}
        answer = json.loads(visit.page.evaluate(f"(text) => ({ASK})(JSON.parse(text))", json.dumps(question)))
        yield Browsed(visit, **answer)


def floats(text: str) -> ndarray:
    return np.frombuffer(b64decode(text), "<f8")


def test_gradients_are_drawn_relative_to_one_word_back(browsed: Browsed) -> None:
    """Equal to Python's; at the answer, NaN."""
    for norms, shares in zip(PROFILES, map(floats, browsed.shares), strict=True):
        expected = profile(np.array(norms)[:, None], np.array([len(norms) - 1]))
        same(shares, [*expected, nan], rtol=1e-12, atol=1e-12)


def answers(browsed: Browsed, name: str, batches: Sequence[Batch]) -> Iterator[tuple[Batch, list[dict[str, Any]]]]:
    """Each batch with the browser's readings of its sentences."""
    readings = iter(browsed.by_model[name])
    for batch in batches:
        yield batch, [next(readings) for _ in range(SENTENCES)]


def test_the_same_answers_as_in_python(browsed: Browsed, sentences: dict[str, list[Batch]]) -> None:
    compared = unclear = 0
    for name, model in models().items():
        changes = 0
        for batch, readings in answers(browsed, name, sentences[name]):
            predicted = beliefs(model, TASK, batch.inputs).softmax(-1).numpy()
            exact = beliefs(deepcopy(model).double(), TASK, batch.inputs).softmax(-1).numpy()
            with torch.no_grad():
                same(predicted[-1], model(batch.inputs)[0][-1].softmax(-1).numpy(), atol=1e-5)
            for number, one in enumerate(readings):
                expected = predicted[:, number]
                confidence = floats(one["confidence"]).reshape(one["T"], one["K"])
                same(confidence, expected, atol=1e-4, err_msg=name)
                same(confidence, exact[:, number], atol=1e-11, err_msg=name)
                second, first = np.sort(expected, 1)[:, -2:].T
                clear = first - second > 1e-5  # closer answers may differ between float32 and float64
                unclear += int(not clear[-1])
                top = np.array(one["top"])
                assert (top == expected.argmax(1))[clear].all(), name
                turns = np.flatnonzero(np.diff(top)) + 1
                assert one["changedAt"] == (turns[-1] if len(turns) else None), name
                changes += len(turns)
                compared += 1
        assert changes or name == "vanishing", f"{name} never changes its mind, so little was compared"
    assert compared >= 250
    assert unclear < 5


@torch.no_grad()
def walk(model: SequenceModel, inputs: Tensor) -> tuple[dict[str, ndarray], dict[str, ndarray]]:
    """(gates, states) of one sequence, each [T H]."""
    state, gates, states = model.cell.initial_state(1), [], []
    for x in model.embed(inputs):
        gates.append(model.cell.gates(x, state))
        state = model.cell.step(x, state)[1]
        states.append(state)
    return series(gates), series(states)


def series(steps: list[State]) -> dict[str, ndarray]:
    return {name: torch.cat([newest(step)[name].flatten(1) for step in steps]).numpy() for name in steps[0]}


def test_the_same_gates_and_states_as_in_python(browsed: Browsed, sentences: dict[str, list[Batch]]) -> None:
    for name, model in models().items():
        for batch, (one, *_) in answers(browsed, name, sentences[name][:2]):
            gates, states = walk(model, batch.inputs[:, :1])
            assert list(one["gates"]) == list(gates)
            assert list(one["states"]) == list(states)
            assert one["keeps"] == list(model.cell.keeps)
            for kind, by_name in (("gates", gates), ("states", states)):
                for key, values in by_name.items():
                    same(
                        floats(one[kind][key]).reshape(values.shape),
                        values,
                        rtol=1e-4,
                        atol=1e-4,
                        err_msg=f"{name} {key}",
                    )
            for key, values in gates.items():
                same(floats(one["gateMeans"][key]), values.mean(1), atol=1e-4)
            for key, values in states.items():
                norms = np.linalg.norm(values, axis=1)
                same(floats(one["norms"][key]), norms, rtol=1e-4, atol=1e-4)


def test_the_same_gradients_as_the_trace(browsed: Browsed, sentences: dict[str, list[Batch]]) -> None:
    smallest = inf
    for name, model in models().items():
        for batch, readings in answers(browsed, name, sentences[name][:2]):
            trace = Tracer(model, TASK).measure(batch.sequences(0, 2)).series()
            for number in range(2):
                gradient = {key: floats(text) for key, text in readings[number]["gradient"].items()}
                assert next(iter(gradient)) == "state"
                assert set(gradient) == set(trace)
                for key, values in gradient.items():
                    expected = trace[key][:, number]
                    # Nothing depends on an mlstm's stabiliser: what is computed for it is rounding. Numbers below
                    # 1e-290 are subnormal or nearly so, with fewer digits.
                    most = 1e-6 * expected + 1e-12 * trace["state"][:, number] + 1e-289
                    assert (np.abs(values - expected) <= most).all(), f"{name} {key}"
                    smallest = min(smallest, expected[expected > 1e-290].min(initial=inf))
    assert smallest < 1e-200, "nothing was compared where a square is zero"


def test_the_same_looks_back_as_in_python(browsed: Browsed, sentences: dict[str, list[Batch]]) -> None:
    for name, model in models().items():
        for batch, (one, *_) in answers(browsed, name, sentences[name][:2]):
            expected = read(model, TASK, batch.sequences(0, 1), gradient=False).attention
            assert [which for which, _ in one["looks"]] == list(expected)
            for which, shares in one["looks"]:
                same(floats(shares), mean_over(expected[which], one["T"] - 3), atol=1e-11, err_msg=name)


def test_a_cell_that_cannot_run_in_the_page_is_read_ahead(browsed: Browsed) -> None:
    model, ahead = small(partial(Leaky, hidden_size=6)), browsed.unknown_cell
    assert ahead["runs"] is False
    assert ahead["other"] is None
    lengths = [one["seq_len"] for one in ahead["readings"]]
    assert len(lengths) >= 10
    assert {7, 10, 40} <= set(lengths)
    for one in ahead["readings"]:
        expected: Reading = read(model, TASK, sentence(TASK, one["seq_len"]))
        assert expected.right is not None
        assert one["right"] == expected.right[-1]
        same(floats(one["confidence"]), expected.outputs.ravel(), atol=1e-6)
        same(floats(one["gateMeans"]["leak"]), expected.gates["leak"].mean(1), atol=1e-6)
        same(floats(one["norms"]["slow"]), np.linalg.norm(expected.states["slow"], axis=1), rtol=1e-5)
        assert one["keeps"] == ["leak"]
        (looked,) = one["looks"]
        assert (looked["name"], looked["effective"]) == ("slow", True)
        for t, row in enumerate(looked["rows"]):
            assert (row is None) == (len(expected) > 60 and t < len(expected) - 1)
            if row is not None:
                same(floats(row), mean_over(expected.attention["slow"], t), atol=1e-5)
        assert one["changedAt"] == expected.changed_at
        assert one["otherAnswer"] is None
        assert set(one["gradient"]) == {"state", "slow", "input"}
        for key, values in expected.gradient.items():
            same(floats(one["gradient"][key]), values, rtol=1e-4)


def test_what_is_written_is_what_python_writes(browsed: Browsed) -> None:
    assert list(browsed.written) == list(writers())
    searched = 0
    for name, model in writers().items():
        ahead = name.startswith("ahead")
        assert len(browsed.written[name]) == (5 if ahead else 2)
        for one in browsed.written[name]:
            count = one["seq_len"]
            batch = sentence(WRITES, 2 * count, number=one["number"])
            assert one["source"] == batch.inputs[:count, 0].tolist()
            assert one["right"] == one["source"][::-1]
            reading: Reading = read(model, WRITES, batch, gradient=False, beam=BEAMS.get(name, 1))
            assert one["answers"] == reading.top[count:].tolist(), name
            searched += one["answers"] != read(model, WRITES, batch, gradient=False).top[count:].tolist()
            close: dict[str, Any] = {"rtol": 0, "atol": 1e-5 if ahead else 1e-11, "err_msg": name}
            same(floats(one["confidence"]), reading.outputs[count:].ravel(), **close)
            # A decoder's own state and attention have nothing of the source.
            rows = {
                each: np.nan_to_num([mean_over(looked, count + i)[:count] for i in range(count)])
                for each, looked in reading.attention.items()
            }
            looks = [each for each in rows if rows[each].any()]
            assert (one["alignment"] is None) == (not looks), name
            if looks:
                assert one["alignment"]["name"] == looks[0]
                assert one["alignment"]["effective"] == reading.attention[looks[0]].effective
                same([floats(row) for row in one["alignment"]["rows"]], rows[looks[0]], **close)
            if "context" in reading.states:
                same(floats(one["vector"]), reading.states["context"][count], **close)
            else:
                assert one["vector"] is None or name == "state"
    assert searched >= 3, "beam search finds what greedy answers are, so little was compared"
    changing = [one["answers"] for ways in browsed.written.values() for one in ways if len(set(one["answers"])) > 1]
    assert len(changing) > 10, "most write the same symbol again and again, so little was compared"


def edits(a: str, b: str) -> int:
    """Levenshtein distance by its definition."""
    if not a or not b:
        return len(a) + len(b)
    table = np.zeros((len(a) + 1, len(b) + 1), int)
    table[:, 0], table[0] = range(len(a) + 1), range(len(b) + 1)
    for i, j in np.ndindex(len(a), len(b)):
        table[i + 1, j + 1] = min(table[i, j + 1] + 1, table[i + 1, j] + 1, table[i, j] + (a[i] != b[j]))
    return int(table[-1, -1])


def test_text_is_parsed_as_in_python(browsed: Browsed) -> None:
    for name, task in TASKS.items():
        vocabulary, automaton = task.words(torch.arange(task.inputs.size)), task.automaton()
        occurring = [word for at, word in enumerate(vocabulary) if automaton is None or at in automaton.tokens]
        for text, parsed in zip(TEXTS[name], browsed.parsed[name], strict=True):
            assert parsed["words"] == [vocabulary[token] for token in parsed["tokens"]]
            if parsed["unknown"] or not parsed["tokens"]:
                with pytest.raises(
                    ValueError, match=f"^task={name} has no word" if parsed["unknown"] else "empty"
                ) as error:
                    task.parse(text)
                for unknown in parsed["unknown"]:
                    assert f"'{unknown['word']}'" in str(error.value)
                    assert text.split()[unknown["at"]] == unknown["word"] or name == "temporal_order"
                    far = [edits(unknown["word"].strip(",.;:!?\"'()").lower(), known.lower()) for known in occurring]
                    near = [far[occurring.index(known)] for known in unknown["nearest"]]
                    assert near == sorted(far)[: len(near)], unknown
                continue
            tokens = task.parse(text)
            assert parsed["tokens"] == tokens.tolist(), text
            problem = automaton and automaton.problem(tokens.tolist())
            assert parsed["problem"] == (problem and vars(problem)), text
            if task.naming() is not None:
                known = task.unanswerable(tokens) is None
                assert parsed["right"] == (int(task.solve(tokens[:, None])[-1, 0]) if known else None), text
    (whille,) = browsed.parsed["pronoun"][7]["unknown"]
    assert whille["nearest"][0] == "while"
    assert whille["at"] == 5
    rights = [parsed["right"] for parsed in browsed.parsed["pronoun"]]
    assert {0, None} < set(rights)


def test_words_cannot_end_the_data_or_run_as_a_script(browsed: Browsed) -> None:
    assert browsed.hostile["vocabulary"] == [*Hostile.bad, *WORDS[len(SUBJECTS) :]]
    assert browsed.hostile["broken"] is False
    assert browsed.hostile["parsed"] == ["naïve"]
    assert browsed.visit.messages == []
    assert browsed.visit.requests == []
    assert browsed.visit.page.evaluate("globalThis.sum") == 41, "every module must have its own scope"
    page_ = browsed.visit.page
    # The content security policy blocks other scripts and all requests.
    assert page_.evaluate(
        """() => { const other = document.createElement("script"); other.textContent = "window.broken = true";
                   document.body.append(other); return window.broken === undefined; }"""
    )
    assert page_.evaluate("() => fetch('http://127.0.0.1:9/').then(() => 'fetched', () => 'refused')") == "refused"
    assert any("Content Security Policy" in line for line in browsed.visit.messages)
    browsed.visit.messages.clear()


def test_decoded_facts_about_the_models(browsed: Browsed) -> None:
    decoded, names = browsed.decoded, list(models())
    assert decoded["groups"] == [
        ["pair", [0, 1]], *([name, [number + 2]] for number, name in enumerate(names[2:])), ["again", [0]]
    ]  # fmt: skip
    assert decoded["ids"][0] == "rnn-20-0"
    assert decoded["ids"][-1] == "rnn-20-0-2"
    assert decoded["shortest"] == [*[20] * len(names), 7]
    assert decoded["lengths"] == [
        {"seq_len": 7, "score": 0.5, "sequences": 100}, {"seq_len": 20, "score": None, "sequences": 100}
    ]  # fmt: skip
    lengths = [seq_len for seq_len, *_ in decoded["sentences"]]
    assert lengths == [*range(7, 61), 65, 70, 75, 80]
    for seq_len, number, tokens, right in decoded["sentences"]:
        batch = sentence(TASK, seq_len, number=number - 1)
        assert tokens == batch.inputs[:, 0].tolist()
        assert right == int(batch.targets[-1, 0])
    for tokens in decoded["wide"]:
        assert tokens == sentence(Wide(), len(tokens), number=1).inputs[:, 0].tolist()
    assert max(map(max, decoded["wide"])) > 255
    assert decoded["refused"] == "the data have format 1, this page reads format 2"


def tiny(task: Task, **more: Any) -> Playable:
    return playable(small(partial(RNN, hidden_size=2), task), task, **more)


def test_bundle_refuses_models_that_a_page_cannot_show() -> None:
    other = Pronoun(people=4)
    for models_, why in (
        ([], "there are no models to show"),
        ([tiny(TASK), tiny(other, label="mine")], r"^'mine' was trained on Pronoun\(people=4.*one task$"),
        ([tiny(Adding())], "^task=adding: .* answered by one of several$"),
        ([tiny(Copy())], "^task=copy: .* ask once, at the end, and those whose answers are fed back$"),
    ):
        with pytest.raises(ValueError, match=why):
            bundle(models_)
    with pytest.raises(ValueError, match="sentences_per_length=0: must be at least 1"):
        bundle([tiny(TASK)], sentences_per_length=0)


def test_sources_that_cannot_be_inlined(tmp_path: Path) -> None:
    def write(**texts: str) -> None:
        for name, text in texts.items():
            (tmp_path / name.replace("_", ".")).write_text(text)

    write(a_js='import { b } from "./b.js";\nexport const a = b;\n', b_js='import { a } from "./a.js";\n')
    with pytest.raises(ValueError, match=r"^a.js: imports itself: a.js -> b.js -> a.js$"):
        page.script("a.js", tmp_path)
    write(b_js="export default 1;\n")
    with pytest.raises(ValueError, match=r"^b.js: 'export default 1;' cannot be put inside the page$"):
        page.script("a.js", tmp_path)
    write(b_js='import { c } from "./c.js";\n')
    with pytest.raises(ValueError, match=r"^c.js: no such source of the page$"):
        page.script("a.js", tmp_path)
    write(b_js='export const b = "</SCRIPT>";\n')
    with pytest.raises(ValueError, match="</script"):
        page.script("a.js", tmp_path)
    write(b_js="export const b = 1;\n", page_html="<head></head>", style_css="")
    with pytest.raises(ValueError, match=r"^page.html: there is no <script"):
        page.build({}, tmp_path)
    write(page_html='<script type="module" src="a.js"></script>')
    with pytest.raises(ValueError, match=r"^page.html: .*style.css.* must stand in it once, and stands 0 times$"):
        page.build({}, tmp_path)


def test_the_built_page_is_small_and_self_contained() -> None:
    """A page as large as ``seqmem playground`` builds it: four groups of three seeds, 32 hidden units."""
    cells = {"rnn": partial(RNN, hidden_size=32), "lstm": partial(LSTM, hidden_size=32, seq_len=50)}
    some = [playable(small(cells[cell], embed_size=16), cell=cell) for cell in ("lstm", "rnn")]
    shown = bundle([some[number % 2] for number in range(12)])
    html = page.build(shown)
    assert page.too_large(html, shown) is None
    assert '<link rel="stylesheet"' not in html
    assert " src=" not in html
    warning = page.too_large(html + 600_000 * "x", shown)
    assert warning is not None
    assert warning.startswith("the page has 1.")
    assert "of 12 models" in warning


@pytest.mark.parametrize(
    ("installed", "user", "apt", "message"),
    [
        ((), "0", "exit 0", "installing Chromium"),
        ((), "0", "echo E: no such package; exit 100", "apt-get could not install chromium: E: no such package"),
        ((), "1000", "exit 0", ""),
        (("google-chrome",), "0", "exit 0", ""),
    ],
)
def test_scripts_install_a_browser_where_they_may(
    tmp_path: Path, installed: Sequence[str], user: str, apt: str, message: str
) -> None:
    """With stubs in place of the machine's commands."""
    tools = tmp_path / "bin"
    tools.mkdir()
    for name in ("mktemp", "grep", "tail", "rm", "dirname", "readlink"):
        tool = shutil.which(name)
        assert tool is not None
        (tools / name).symlink_to(tool)
    commands = {
        "id": f"echo {user}",
        "apt-get": f'echo "$*" >>{tmp_path / "log"}; {apt}',
        **dict.fromkeys(installed, ""),
    }
    for name, body in commands.items():
        (tools / name).write_text(f"#!/bin/sh\n{body}\n")
        (tools / name).chmod(0o755)
    shell = shutil.which("sh")
    assert shell is not None
    script = f'set -eu; . "{SETUP}"; begin_browser; end_browser; echo done'
    done = subprocess.run(
        [shell, "-c", script, "scripts/test"], env={"PATH": str(tools)}, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 0
    assert done.stdout == "done\n"
    assert message in done.stderr if message else done.stderr == ""
    log = tmp_path / "log"
    calls = log.read_text() if log.exists() else ""
    assert (calls.splitlines()[0].endswith("install --no-install-recommends chromium")) if message else calls == ""
