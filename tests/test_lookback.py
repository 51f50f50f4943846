"""What a model looks back at: against closed forms in numpy, and the same numbers in every view."""

import inspect
from typing import Any

import numpy as np
import pytest
from numpy import ndarray

from doors import TwoPhase
from seqmem.cells import CELLS, GRU, LSTM, Attention, Cell, Stack
from seqmem.lookback import Additions, Weights, half_within
from seqmem.models.base import Model
from seqmem.models.recurrent import RecurrentModel
from seqmem.randomness import ambient
from seqmem.reading import Reading, read, sentence
from seqmem.tasks import Pronoun

T = 11
BATCH = sentence(Pronoun(), T, number=1)


def reading_of(model: Model) -> Reading:
    return read(model, Pronoun(), BATCH, gradient=False)


def model_of(kind: type[Cell], **options: Any) -> RecurrentModel:
    known = {"seq_len": 9} if "seq_len" in inspect.signature(kind).parameters else {}
    with ambient(0, "weights"):
        return RecurrentModel.for_task(Pronoun(), lambda d: kind(d, 4, **known, **options), embed_size=3)


def entered(model: RecurrentModel) -> ndarray:
    """What enters the cell at each timestep, [T D]."""
    return model.embed(BATCH.inputs)[:, 0].detach().double().numpy()


def numbers(cell: Cell) -> dict[str, ndarray]:
    return {name: value.detach().double().numpy() for name, value in cell.state_dict().items()}


def sigmoid(x: ndarray) -> ndarray:
    return 1 / (1 + np.exp(-x))


@pytest.mark.parametrize("gates", ["four", "coupled", "peepholes"])
def test_effective_attention_of_an_lstm_is_its_closed_form(gates: str) -> None:
    """c_T is the sum over t of prod f * i * g; the shares are the terms' norms over their sum."""
    model = model_of(LSTM, **({} if gates == "four" else {gates: True}))
    weights, (h, c) = numbers(model.cell), np.zeros((2, 4))
    layer = [weights[f"fused.{name}_l0"] for name in ("weight_ih", "weight_hh", "bias_ih")]
    peepholes = weights.get("peephole", np.zeros(12))
    keeps, writes, states = [], [], []
    for x in entered(model):
        stacked = layer[0] @ x + layer[1] @ h + layer[2]
        *own, f, g, o = np.split(stacked, 3 if gates == "coupled" else 4)
        p_i, p_f, p_o = np.split(peepholes, 3)
        f = sigmoid(f + p_f * c)
        i = sigmoid(own[0] + p_i * c) if own else 1 - f
        c = f * c + i * np.tanh(g)
        h = sigmoid(o + p_o * c) * np.tanh(c)
        keeps.append(f)
        writes.append(i * np.tanh(g))
        states.append(c)
    looked = reading_of(model).attention["cell"]
    assert isinstance(looked, Additions)
    for end in range(T):
        terms = [np.prod(keeps[t + 1 : end + 1], axis=0) * writes[t] for t in range(end + 1)]
        rest, left = looked.terms(end)
        np.testing.assert_allclose(rest + left.sum(0), states[end], rtol=1e-12, atol=1e-12)
        np.testing.assert_allclose(left, terms, rtol=1e-12, atol=1e-12)
        sizes = np.linalg.norm(terms, axis=1)
        np.testing.assert_allclose(looked.over(end)[0, : end + 1], sizes / sizes.sum(), rtol=1e-12)
        assert not looked.over(end)[0, end + 1 :].any()
        assert looked.before(end) == 0


GATED = ("gru", "ugrnn", "mgu", "janet", "lem", "mingru", "minlstm", "rglru", "slstm")


@pytest.mark.parametrize("name", [*GATED, "lstm1997", "mlstm", "gla", "mamba", "rwkv"])
def test_the_terms_of_a_state_add_up_to_it(name: str) -> None:
    reading = reading_of(model_of(CELLS[name]))
    assert reading.attention
    for state, looked in reading.attention.items():
        assert isinstance(looked, Additions)
        for t in (0, 4, T - 1):
            rest, left = looked.terms(t)
            np.testing.assert_allclose((rest + left.sum(0)).ravel(), reading.states[state][t], rtol=1e-12, atol=1e-12)
            np.testing.assert_allclose(looked.over(t).sum(1) + looked.before(t), 1)


def test_what_stood_before_the_first_word_has_a_share() -> None:
    """A gate of 1/2 that writes 1 each time: 1/2^3 of the old state is left beside 1/4, 1/2 and 1."""
    half, one = np.full((3, 2), 0.5), np.ones((3, 2))
    looked = Additions(length=5, first=1, rest=np.full(2, 0.5 * 8), keep=half, write=one)
    np.testing.assert_allclose(looked.over(3), np.array([[0, 0.25, 0.5, 1, 0]]) / 2.75)
    np.testing.assert_allclose(looked.before(3), [1 / 2.75])
    assert np.isnan(looked.over(0)).all()
    assert np.isnan(looked.over(4)).all()


def test_a_memory_of_keys_and_values_is_seen_through_the_query() -> None:
    """Retention: gamma^(T - t) |q . k| |v|, for each head."""
    model = model_of(CELLS["retention"], heads=2)
    rows = entered(model) @ numbers(model.cell)["project.weight"].T
    query, key, value = rows.reshape(T, 3, 2, 2).transpose(1, 0, 2, 3)
    looked = reading_of(model).attention["memory"]
    for head, gamma in enumerate((1 - 2**-5, 1 - 2**-6)):
        end = T - 2
        sizes = [
            gamma ** (end - t) * abs(query[end, head] @ key[t, head]) * np.linalg.norm(value[t, head])
            for t in range(end + 1)
        ]
        np.testing.assert_allclose(looked.over(end)[head, : end + 1], np.array(sizes) / sum(sizes), rtol=1e-7)


@pytest.mark.parametrize("window", [None, 4])
def test_attention_is_its_softmax(window: int | None) -> None:
    model = model_of(Attention, heads=2, positions="none", window=window)
    weights = numbers(model.cell)
    x = entered(model) @ weights["enter.weight"].T
    normal = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5)
    rows = (normal * weights["norm.weight"] + weights["norm.bias"]) @ weights["project.weight"].T
    query, key, _ = rows.reshape(T, 3, 2, 2).transpose(1, 0, 2, 3)
    reading = reading_of(model)
    looked = reading.attention["attention"]
    for end in range(T):
        seen = range(max(0, end - window + 1) if window else 0, end + 1)
        for head in range(2):
            expected = np.zeros(T)
            expected[list(seen)] = np.exp([query[end, head] @ key[t, head] / np.sqrt(2) for t in seen])
            np.testing.assert_allclose(looked.over(end)[head], expected / expected.sum(), rtol=1e-10)
        assert not looked.before(end).any()


def test_upper_layers_come_first_and_attention_before_states() -> None:
    with ambient(0, "weights"):
        cells = [LSTM(3, 4, seq_len=9), Attention(4, 4, heads=2), GRU(4, 4, seq_len=9)]
        model = RecurrentModel.for_task(Pronoun(), lambda _: Stack(cells), embed_size=3)
    reading = reading_of(model)
    assert list(reading.attention) == ["1/attention", "2/hidden", "0/cell"]
    assert [looked.effective for looked in reading.attention.values()] == [False, True, True]
    below, _ = cells[0](model.embed(BATCH.inputs))
    alone = cells[1].looks(below[1], cells[1](below[:1])[1])["attention"]
    np.testing.assert_allclose(reading.attention["1/attention"].over(1)[:, :2], alone[0].detach(), rtol=1e-4)


def test_phases_of_a_model_look_back_while_they_last() -> None:
    with ambient(0, "weights"):
        model = TwoPhase(Pronoun(), lambda d: GRU(d, 4, forget_bias=1.0), embed_size=3, source=4)
    reading = reading_of(model)
    assert list(reading.attention) == ["decoder/hidden", "encoder/hidden"]
    decoder, encoder = (reading.attention[name].over(5)[0] for name in reading.attention)
    assert np.isnan(encoder).all()
    np.testing.assert_allclose(decoder[4:6].sum(), 1)
    assert not decoder[[0, 1, 2, 3, 6, 7]].any()


def test_an_alignment_with_the_source_and_timesteps_before_the_sequence() -> None:
    looked = Weights([None, (np.array([[0.25, 0.75]]), 0), (np.array([[0.5, 0.2, 0.3]]), -1)])
    assert np.isnan(looked.over(0)).all()
    np.testing.assert_allclose(looked.over(1), [[0.25, 0.75, 0]])
    np.testing.assert_allclose(looked.over(2), [[0.2, 0.3, 0]])
    np.testing.assert_allclose([looked.before(1), looked.before(2)], [[0], [0.5]])


def test_half_of_what_is_looked_at() -> None:
    assert half_within(np.array([0.5, 0.2, 0.2, 0.1, 0.0]), 3) == 3
    assert half_within(np.array([0.1, 0.9]), 1) == 1
    assert half_within(np.array([0.2, 0.2]), 1) is None
    assert half_within(np.full(3, np.nan), 2) is None


def test_cells_without_such_paths_say_nothing() -> None:
    assert reading_of(model_of(CELLS["rnn"])).attention == {}
