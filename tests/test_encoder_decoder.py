"""Encoder-decoders against their papers' equations; decoding; the tasks whose answers are fed back.

The laws over all models are in test_models.py, those over all tasks in test_tasks.py.
"""

import json
from collections.abc import Callable
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy import ndarray
from torch import Tensor

from commandline import TINY, Completed
from seqmem.cells import CELLS, GRU, LSTM, Cell, State
from seqmem.decoding import decode, self_fed
from seqmem.evaluate import score
from seqmem.models import EncoderDecoder, RecurrentModel
from seqmem.models.base import loss_per_sequence
from seqmem.probes.gradient import gradient_trace
from seqmem.randomness import ambient, generator
from seqmem.reading import read
from seqmem.reading import typed as typed_text
from seqmem.runs.directory import RunDirectory
from seqmem.runs.summary import read as summary
from seqmem.signals import Batch
from seqmem.tasks import Phrases, Pronoun, Reverse

TASK = Phrases(choices=2)
GO, LENGTH = TASK.feedback().go, 13  # a blank, six words, the mark, five answers


def made(task: Phrases | Reverse = TASK, hidden: int = 4, **options: Any) -> EncoderDecoder:
    with ambient(0, "weights"):
        model = EncoderDecoder.for_task(
            task, lambda d: GRU(d, hidden, form="cho", forget_bias=1.0), embed_size=3, **options
        ).double()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not parameter.requires_grad:
                continue
            parameter.copy_(0.5 * torch.randn(parameter.shape, dtype=torch.double, generator=generator(0, name)))
    return model


def drawn(task: Phrases | Reverse = TASK, seq_len: int = LENGTH, batch_size: int = 3) -> Batch:
    return task.sample(batch_size, seq_len, generator(0, "test"))


# ---- Oracles: the equations once more, in numpy, for one sequence ----------------------------------------------------


def sigmoid(x: ndarray) -> ndarray:
    return 1 / (1 + np.exp(-x))


def softmax(x: ndarray) -> ndarray:
    return np.exp(x - x.max()) / np.exp(x - x.max()).sum()


class Oracle:
    """One sequence through Cho's, Bahdanau's or Luong's network with a model's weights."""

    def __init__(self, model: EncoderDecoder) -> None:
        self.w = {name: parameter.detach().numpy() for name, parameter in model.named_parameters()}
        self.model, self.weights = model, []

    def linear(self, name: str, x: ndarray) -> ndarray:
        return self.w[f"{name}.weight"] @ x + self.w.get(f"{name}.bias", 0.0)

    def gru(self, cell: str, x: ndarray, h: ndarray) -> ndarray:
        """Cho et al. 2014: r, z, n; the state is z * h + (1 - z) * n."""
        w_r, w_z, w_n = np.split(self.w[f"{cell}.fused.weight_ih_l0"], 3)
        u_r, u_z, u_n = np.split(self.w[f"{cell}.fused.weight_hh_l0"], 3)
        b_r, b_z, b_n = np.split(self.w[f"{cell}.fused.bias_ih_l0"], 3)
        r, z = sigmoid(w_r @ x + u_r @ h + b_r), sigmoid(w_z @ x + u_z @ h + b_z)
        return z * h + (1 - z) * np.tanh(w_n @ x + u_n @ (r * h) + b_n)

    def look(self, query: ndarray, annotations: list[ndarray]) -> ndarray:
        w = self.w
        if self.model.attention == "bahdanau":
            energies = [
                float(w["energy.weight"][0] @ np.tanh(self.linear("query", query) + self.linear("key", h)))
                for h in annotations
            ]
        elif self.model.attention_score == "dot":
            energies = [float(query @ h) for h in annotations]
        elif self.model.attention_score == "general":
            energies = [float(query @ w["key.weight"] @ h) for h in annotations]
        else:  # v . tanh(W [s; h])
            both = np.hstack([w["query.weight"], w["key.weight"]])
            energies = [float(w["energy.weight"][0] @ np.tanh(both @ [*query, *h])) for h in annotations]
        self.weights.append(softmax(np.array(energies)))
        return sum(a * h for a, h in zip(self.weights[-1], annotations, strict=True))  # pyright: ignore

    def read(self, tokens: list[int]) -> list[ndarray]:
        """The predictions from the mark on."""
        model, vectors = self.model, [self.w["embed.weight"][token] for token in tokens]
        n = tokens.index(GO)
        h, annotations = np.zeros(4), []
        for x in vectors[:n]:
            h = self.gru("encoder", x, h)
            annotations.append(h)
        if model.backward_encoder is not None:
            h, backwards = np.zeros(4), []
            for x in reversed(vectors[:n]):
                h = self.gru("backward_encoder", x, h)
                backwards.insert(0, h)
            annotations = [np.concatenate(pair) for pair in zip(annotations, backwards, strict=True)]
        context = np.tanh(self.linear("summary", h)) if model.vector else None
        s = np.tanh(self.linear("start", h if context is None else context)) if model.handover == "vector" else h
        predictions, output = [], np.zeros(4)
        for x in vectors[n:]:
            if model.input_feeding:
                x = np.concatenate([x, output])
            seen = self.look(s, annotations) if model.attention == "bahdanau" else context
            s = self.gru("decoder", x if seen is None else np.concatenate([x, seen]), s)
            if model.attention == "luong":
                output = np.tanh(self.linear("join", np.concatenate([self.look(s, annotations), s])))
            elif model.maxout is None:
                output = s
            else:
                pairs = self.linear("maxout", np.concatenate([part for part in (s, x, seen) if part is not None]))
                output = np.maximum(pairs[0::2], pairs[1::2])
            predictions.append(self.linear("readout", output))
        return predictions


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"maxout": False},
        {"handover": "state"},
        {"attention": "bahdanau"},
        {"attention": "bahdanau", "bidirectional": True, "maxout": False},
        {"attention": "bahdanau", "handover": "state"},
        {"attention": "luong"},
        {"attention": "luong", "bidirectional": True},
        {"attention": "luong", "handover": "state"},
        {"attention": "luong", "input_feeding": True},
        {"attention": "luong", "attention_score": "dot", "input_feeding": True},
        {"attention": "luong", "attention_score": "dot", "handover": "state"},
        {"attention": "luong", "attention_score": "concat", "bidirectional": True},
        {"attention": "luong", "attention_score": "concat", "input_feeding": True, "handover": "state"},
    ],
    ids=str,
)
def test_it_computes_its_papers_equations(options: dict[str, Any]) -> None:
    model, batch = made(**options), drawn()
    predicted, _ = model(batch.inputs)
    walked = list(model.walk(batch.inputs))
    for b in range(3):
        oracle = Oracle(model)
        expected = oracle.read(batch.inputs[:, b].tolist())
        torch.testing.assert_close(predicted[7:, b].detach(), torch.tensor(np.array(expected)), rtol=1e-10, atol=1e-12)
        for step, weights in zip(walked[7:], oracle.weights, strict=False):
            alignment, first = step.looks()["alignment"]
            assert first == 0
            np.testing.assert_allclose(alignment[b, 0].detach().numpy(), weights, rtol=1e-10)
    assert bool(oracle.weights) == (model.attention is not None)  # pyright: ignore[reportPossiblyUnboundVariable]


def test_only_attention_leads_past_the_vector() -> None:
    """With the vector cut off no gradient reaches the source; with attention it reaches every word."""
    for attention in (None, "bahdanau", "luong"):
        model = made(attention=attention)
        with torch.no_grad():
            if attention is None:
                model.summary.weight.zero_()
            else:
                assert model.start is not None
                model.start.weight.zero_()
        norms = gradient_trace(model, TASK, drawn())
        assert (norms["input"][:7] > 0).all() == (attention is not None)
        assert (norms["input"][:7] == 0).all() == (attention is None)
        assert norms["encoder/hidden"][7:].isnan().all()  # written while the source is read
        assert norms["decoder/hidden"][:7].isnan().all()
        between = norms["context" if attention is None else "memory"]
        assert between.isnan()[:, 0].tolist() == [t != 7 for t in range(LENGTH)]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"attention": "dot"}, "attention=dot: must be bahdanau, luong or null"),
        ({"handover": "all"}, "handover=all: must be vector or state"),
        ({"bidirectional": True}, "bidirectional=true: needs attention=bahdanau or luong, which look at every word"),
        (
            {"attention": "luong", "attention_score": "additive"},
            "attention_score=additive: must be general, dot or concat",
        ),
        (
            {"attention": "bahdanau", "attention_score": "dot"},
            "attention_score=dot: needs attention=luong, which has several scores",
        ),
        ({"input_feeding": True}, "input_feeding=true: needs attention=luong, which reads out what is fed"),
        (
            {"attention": "luong", "attention_score": "dot", "bidirectional": True},
            "attention_score=dot: annotations of 8 numbers and the decoder's 4 .* use attention_score=general",
        ),
        (
            {"bidirectional": True, "attention": "luong", "handover": "state"},
            "bidirectional=true: two cells end in two states; use handover=vector",
        ),
    ],
    ids=str,
)
def test_options_that_cannot_be(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}$"):
        made(**options)


class Named(Cell):
    """Its output is no state, and its one state is called like an output."""

    def __init__(self, input_size: int) -> None:
        super().__init__()
        self.input_size, self.output_size = input_size, 4
        self.read = torch.nn.Linear(input_size, 4)

    def initial_state(self, batch_size: int) -> State:
        return {"output": self.read.weight.new_zeros(batch_size, 4)}

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        new = 0.5 * state["output"] + self.read(x)
        return new.tanh(), {"output": new}


def test_a_cell_whose_state_is_called_output_keeps_it() -> None:
    with ambient(0, "weights"):
        model = EncoderDecoder.for_task(TASK, Named, attention="bahdanau").double()
    inputs = drawn().inputs
    xs, expected = model.embed(inputs), torch.zeros(3, 4, dtype=torch.double)
    for x, step in zip(xs[:7], model.walk(inputs), strict=False):
        expected = 0.5 * expected + model.encoder.read(x)  # pyright: ignore
        torch.testing.assert_close(step.state["encoder/output"], expected)
        torch.testing.assert_close(step.state["encoder_output"], expected.tanh())
    torch.testing.assert_close(model(inputs)[0][-1], model.read_out([*model.walk(inputs)][-1].output))


def test_a_walk_that_begins_at_the_mark_says_the_same() -> None:
    model, inputs = made(attention="luong"), drawn().inputs
    whole = list(model.walk(inputs))
    for step, other in zip(whole[7:], model.walk(inputs[7:], whole[6].state), strict=True):
        torch.testing.assert_close(step.output, other.output)
        for name, terms in step.additive().items():
            for one, same in zip(terms, other.additive()[name], strict=True):
                torch.testing.assert_close(one, same)
        assert other.looks()["alignment"].first == -7


def test_what_it_cannot_take_is_an_error() -> None:
    with pytest.raises(
        ValueError, match=r"needs a task whose answers are its next inputs .* which task=pronoun is not"
    ):
        EncoderDecoder.for_task(Pronoun(), lambda d: LSTM(d, 4, forget_bias=1.0))
    with pytest.raises(ValueError, match=r"^handover=state: the encoder's state does not fit the decoder"):
        EncoderDecoder.for_task(TASK, lambda d: CELLS["tcn"](d, 4), attention="bahdanau", handover="state")
    model, inputs = made(), drawn().inputs
    inputs = torch.cat([inputs, inputs.roll(1, 0)], 1)
    with pytest.raises(ValueError, match=r"^all sources of a batch must end at the same timestep$"):
        model(inputs)
    with pytest.raises(ValueError, match=r"^the source is empty: its mark is the first input$"):
        made(attention="luong")(inputs[7:, :3])


# ---- Decoding --------------------------------------------------------------------------------------------------------


def log_probability(model: Any, task: Reverse, batch: Batch, answers: Tensor) -> Tensor:
    """The log-probability of these answers [N B], by teacher forcing with them."""
    n = len(answers)
    inputs = torch.cat([batch.inputs[: len(batch.inputs) - n + 1], task.feedback().tokens[answers[:-1]]])
    logs = model(inputs)[0][-n:].log_softmax(-1)
    return logs.gather(-1, answers[..., None]).sum((0, 2))


def models() -> list[Any]:
    recurrent = RecurrentModel.for_task(Reverse(3), lambda d: LSTM(d, 4, forget_bias=1.0)).double()
    return [made(Reverse(3), attention="bahdanau"), made(Reverse(3)), recurrent]


def test_beam_search_with_every_beginning_finds_the_likeliest_answers() -> None:
    task, batch = Reverse(3), drawn(Reverse(3), 8)
    every = torch.tensor(list(product(range(3), repeat=4))).T  # [4 81]
    for model in models():
        answers = decode(model, task.feedback(), batch.inputs, batch.counted, beam=81)
        for b in range(3):
            one = Batch(*(tensor[:, b : b + 1].expand(-1, 81) for tensor in vars(batch).values()))
            best = log_probability(model, task, one, every).argmax()
            assert answers[:, b].tolist() == every[:, best].tolist()


def test_each_greedy_answer_is_the_likeliest_after_those_before() -> None:
    task, batch = Reverse(3), drawn(Reverse(3), 9)
    for model in models():
        answers = decode(model, task.feedback(), batch.inputs, batch.counted)
        fed = self_fed(model, task, batch)
        assert torch.equal(fed.inputs[:6], batch.inputs[:6])
        assert torch.equal(fed.inputs[6:], answers[:-1])
        assert torch.equal(model(fed.inputs)[0][5:].argmax(-1), answers)
        by_beam = decode(model, task.feedback(), batch.inputs, batch.counted, beam=30)
        likeliest, greedy = (log_probability(model, task, batch, each) for each in (by_beam, answers))
        assert (likeliest >= greedy - 1e-12).all()


def test_scores_are_of_what_a_model_writes_by_itself() -> None:
    """A model that names the symbol that came before is always right if the right one is fed back, and never alone."""

    class Parrot(RecurrentModel):
        def forward(self, inputs: Tensor, state: Any = None, *, at: slice | None = None) -> tuple[Tensor, Any]:
            predicted = torch.nn.functional.one_hot(inputs, 5)[..., :3].double() * 50
            return predicted if at is None else predicted[at], {}

    model, task = Parrot.for_task(Reverse(3), lambda d: LSTM(d, 4, forget_bias=1.0)).double(), Reverse(3)
    source = torch.tensor([[1, 1, 1], [0, 1, 2]]).T
    batch = task.feedback().batch(source, source.flip(0), 6)
    result = score(model, task, 6, [batch])
    # The mark is answered with symbol 0, and so is all that follows: right at one of the six answers.
    assert result.score == pytest.approx(1 / 6)
    assert result.exact == 0
    predicted = model(batch.inputs, at=batch.counted)[0]
    expected = loss_per_sequence(task, predicted, batch.part(3, 6)).mean()
    assert result.loss == pytest.approx(float(expected), rel=1e-6)  # with the right answers as inputs


def test_reading_shows_a_models_own_answers() -> None:
    model, batch = made(), drawn(batch_size=1)
    own = self_fed(model, TASK, batch)
    assert not torch.equal(own.inputs, batch.inputs)
    reading = read(model, TASK, batch)
    assert list(reading.words) == TASK.words(own.inputs[:, 0])
    assert reading.predicts.tolist() == [t >= 7 for t in range(LENGTH)]
    assert reading.right is not None
    assert reading.right[7:].tolist() == batch.targets[7:, 0].tolist()


def test_reading_shows_the_answers_that_the_score_is_about() -> None:
    """By beam search an answer need not be the likeliest after those before it."""
    model, task = made(Reverse(3)), Reverse(3)
    differ = 0
    for b in range(20):
        batch = task.sample(1, 8, generator(b, "beam"))
        answers = decode(model, task.feedback(), batch.inputs, batch.counted, beam=4)[:, 0]
        reading = read(model, task, batch, gradient=False, beam=4)
        assert reading.top[4:].tolist() == answers.tolist()
        assert reading.texts[1][4:] == tuple(map(task.answer, answers))
        assert list(reading.words[5:]) == task.words(task.feedback().tokens[answers[:-1]])
        differ += reading.top[4:].tolist() != reading.outputs[4:].argmax(1).tolist()
        assert score(model, task, 8, [batch], beam=4).score == (reading.top == reading.right)[4:].mean()
    assert differ > 2


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("the girl sees a boy", None),
        ("some girls see the big boy > vidan lumai", None),
        ("the girl see a boy", "word 3 is 'see': there task=phrases has sees or hears"),
        ("a girls see", "word 2 is 'girls': there task=phrases has big, small, girl or boy"),
        ("the girl sees and", "it stops too early: there task=phrases has the, a or some"),
        ("the big", "it stops too early: there task=phrases has girl, girls, boy or boys"),
    ],
)
def test_typed_phrases(text: str, problem: str | None) -> None:
    batch, why = typed_text(TASK, text)
    assert why == problem
    words = text.partition(" > ")[0].split()
    assert TASK.words(batch.inputs[: len(words) + 1, 0]) == [*words, ">"]
    assert batch.asked.flatten().tolist() == [False] * len(words) + [True] * len(words)
    if problem is None:
        said = " ".join(map(TASK.answer, batch.targets[len(words) :, 0]))
        assert said in ("vidas luma la taro no", "vidan lumai nai taro grano lo")


# ---- The language ----------------------------------------------------------------------------------------------------


def test_phrases_keep_their_grammar() -> None:
    """Read without the generator or the parser: agreement by the endings alone, and a dictionary for the stems."""
    task = Phrases()
    batch = task.sample(300, 30, generator(0, "grammar"))
    pairs: dict[str, set[str]] = {}
    verbs = "see hear call follow draw help paint read sing hunt lead eat".split()
    verb_forms = {*verbs, *(verb + "s" for verb in verbs)}
    for b in range(300):
        words = task.words(batch.inputs[:15, b])
        said = [task.answer(word) for word in batch.targets[15:, b]]
        assert len(words) == len(said) == 15
        clauses, current = [], []
        for word in said:
            if word in ("e", "sed", "dum", "kar"):
                clauses.append(current)
                current = []
            else:
                current.append(word)
        clauses.append(current)
        for clause in clauses:
            verb, *rest = clause
            plural = verb.endswith("an")
            phrases = [[]]
            for word in rest:
                phrases[-1].append(word)
                if word[:-1] in ("l", "n", "la", "na", "lo", "no"):  # an article ends its phrase
                    phrases.append([])
            assert phrases.pop() == []
            assert 1 <= len(phrases) <= 2
            for phrase in phrases:
                ending = phrase[0][3:]  # of a noun: its stem has three letters
                assert ending in ("a", "ai", "o", "oi")
                assert all(word.endswith(ending) for word in phrase)
            assert phrases[0][0].endswith("i") == plural
        english_verbs = [word for word in words if word in verb_forms]
        for english, word in zip(english_verbs, (clause[0] for clause in clauses), strict=True):
            pairs.setdefault(english, set()).add(word)
    assert all(len(said) == 1 for said in pairs.values())
    assert len({next(iter(said)) for said in pairs.values()}) == len(pairs) == 24


@pytest.mark.parametrize("attention", ["null", "bahdanau"])
def test_training_reading_and_evaluating_in_the_terminal(typed: Callable[..., Completed], attention: str) -> None:
    line = ("train", *TINY, "task=reverse", "task.symbols=3", "model=encoder_decoder", f"model.attention={attention}")
    done = typed(*line, "seq_len=8", "evaluate.beam=2")
    assert done.code == 0, done
    table = typed("eval", "reverse", "seq_len=8", "beam=3")
    assert table.code == 0, table
    assert "exact" in table.out
    assert "by beam search, 3 beams" in table.out
    (run,) = Path("outputs/reverse").glob("*/len*")
    assert {row["beam"] for row in RunDirectory(run).evaluations()} == {3}
    by_length = json.loads((run / "result.json").read_text())["by_length"]
    assert {row["beam"] for row in by_length} == {2}
    own = summary(RunDirectory(run)).lengths
    assert len(own) == len(by_length), "scores by another beam are not the run's"
    typed("eval", "reverse", "seq_len=8", "sequences=9")
    assert len(summary(RunDirectory(run)).lengths) == len(own) + 1
    assert "answers: by beam search, 2 beams" in typed("read", "reverse").out
    shown = typed("read", "reverse", "--text", "a b c", "--json")
    assert shown.code == 0, shown
    for setting, message in {
        "model.attention=dot": "model.attention=dot: must be bahdanau, luong or null",
        "model=encoder_decoder task=pronoun": "model=encoder_decoder: needs a task whose answers are its next inputs",
        "model.decoder=lstmm": "model.decoder=lstmm: must be the name of a cell, or null for that of cell=.",
        "model=recurrent": "'model.attention'. model=recurrent has none; model=encoder_decoder has it",
        "cell.heads=0 cell=attention": "cell.heads=0: must be at least 1",
    }.items():
        begun = [word for word in line if not (setting.endswith("pronoun") and word.startswith("task"))]
        typed(*begun, *setting.split()).refuses(message, code=2)
    typed("eval", "reverse", "beam=0").refuses("beam=0: must be at least 1", code=2, verb="eval")
