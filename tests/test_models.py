"""Models: loss and score of a sequence, the search for a hidden size, layers, devices."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from seqmem.cells import CELLS, GRU, LSTM, RNN, Cell
from seqmem.models.base import hidden_size_for, loss_per_sequence, parameter_count, score_per_sequence, trainable
from seqmem.models.recurrent import SequenceModel
from seqmem.optimizers import OPTIMIZERS
from seqmem.randomness import generator
from seqmem.tasks import TASKS, Copy, Pronoun, Subject
from seqmem.training.update import update


def test_the_loss_and_score_of_a_sequence_are_weighted_means_of_its_timesteps():
    task = Copy(symbols=3, length=2)
    batch = task.sample(4, 8, generator(0, "t"))
    predicted = torch.randn(8, 4, task.targets.size, generator=generator(0, "p"))
    logs = predicted.log_softmax(-1)
    by_hand = [-np.mean([logs[t, b, batch.targets[t, b]].item() for t in range(8)]) for b in range(4)]
    assert loss_per_sequence(task, predicted, batch).tolist() == pytest.approx(by_hand, rel=1e-5)
    right = [np.mean([predicted[t, b].argmax() == batch.targets[t, b] for t in (6, 7)]) for b in range(4)]
    assert score_per_sequence(task, predicted, batch).tolist() == pytest.approx(right)


@pytest.mark.parametrize("first", [True, False])
def test_the_losses_of_parts_add_up_to_that_of_the_whole(first: bool):
    task = Copy(symbols=3, length=2)
    batch = task.sample(4, 8, generator(0, "t"))
    weights = torch.rand(8, 4, generator=generator(0, "w")) if first else batch.weights
    batch = replace(batch, weights=weights)
    predicted = torch.randn(8, 4, task.targets.size, generator=generator(0, "p"))
    whole = loss_per_sequence(task, predicted, batch)
    total = batch.weights.sum(0)
    parts = [loss_per_sequence(task, predicted[a:b], batch.part(a, b), total) for a, b in ((0, 3), (3, 4), (4, 8))]
    torch.testing.assert_close(sum(parts), whole)


@pytest.mark.parametrize("params", [2_000, 10_000, 50_000])
@pytest.mark.parametrize("kind", [RNN, LSTM, GRU])
def test_params_picks_the_closest_hidden_size(kind: type[Cell], params: int):
    def build(hidden: int) -> SequenceModel:
        options = {} if kind is RNN else {"forget_bias": 1.0}
        return SequenceModel.for_task(Subject(), lambda d: kind(d, hidden, **options), embed_size=8)  # pyright: ignore

    hidden = hidden_size_for(params, build)
    off = {size: abs(parameter_count(build(size)) - params) for size in (hidden - 1, hidden, hidden + 1) if size > 0}
    assert min(off, key=lambda size: off[size]) == hidden


@pytest.mark.parametrize("bend", [5, 40])
def test_params_are_counted_where_they_are_no_polynomial(bend: int):
    """Heads are added at ``bend``, say. What 1, 2 and 3 units promise is not believed."""

    def build(hidden: int) -> torch.nn.Module:
        return torch.nn.Linear(hidden, hidden + (100 if hidden >= bend else 0), bias=False)

    found = hidden_size_for(3_000, build)
    off = {size: abs(parameter_count(build(size)) - 3_000) for size in range(1, 200)}
    assert off[found] == min(off.values())


def test_the_search_for_a_size_draws_nothing_and_builds_little(monkeypatch: pytest.MonkeyPatch):
    built: list[int] = []

    def build(hidden: int) -> SequenceModel:
        built.append(hidden)
        return SequenceModel.for_task(Subject(), lambda d: LSTM(d, hidden, seq_len=9), embed_size=8)

    state = torch.get_rng_state()
    hidden_size_for(1_000_000, build)
    assert torch.equal(state, torch.get_rng_state())
    assert len(built) == 4


def test_params_of_what_does_not_grow_are_refused():
    with pytest.raises(ValueError, match="params=50: 1 hidden unit makes 30 parameters and 3 make 30"):
        hidden_size_for(50, lambda _: torch.nn.Linear(5, 5))


def test_too_few_params_are_refused():
    with pytest.raises(ValueError, match="params=5 is too few: one hidden unit already makes"):
        hidden_size_for(5, lambda hidden: torch.nn.Linear(10, hidden))


def test_layers_are_stacked_and_states_named_by_layer():
    model = SequenceModel.for_task(Pronoun(), lambda d: LSTM(d, 6, forget_bias=1.0), embed_size=4, layers=2)
    assert list(model.cell.initial_state(1)) == ["0/hidden", "0/cell", "1/hidden", "1/cell"]
    plain = SequenceModel.for_task(Pronoun(), lambda d: LSTM(d, 6, forget_bias=1.0), embed_size=4)
    assert list(plain.cell.initial_state(1)) == ["hidden", "cell"]


def test_one_hot_inputs_have_no_parameters():
    task = Subject()
    model = SequenceModel.for_task(task, lambda d: RNN(d, 6), embed_size=0)
    inputs = task.sample(2, 5, generator(0, "t")).inputs
    assert torch.equal(model.embed(inputs).argmax(-1), inputs)
    assert parameter_count(model) == 6 * (13 + 6 + 1) + 7 * 6


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("task", ["pronoun", "adding"])  # tokens and numbers; test_devices goes through all tasks
def test_a_whole_update_stays_on_the_models_device(cell: str, task: str):
    """On the meta device a stray CPU tensor, or a number asked of the device, is an error: as it would be a wrong
    device or a hidden wait on CUDA. (The fused optimizers know no meta device, so this is one that is not.)"""
    asked = TASKS[task]()
    options = {} if cell == "rnn" else {"forget_bias": 1.0}
    model = SequenceModel.for_task(asked, lambda d: CELLS[cell](d, 6, **options)).to("meta")
    batch = asked.sample(3, asked.min_seq_len + 1, generator(0, "t")).to(torch.device("meta"), torch.float32)
    parameters = trainable(model)
    optimizer = OPTIMIZERS["rmsprop"](parameters)
    numbers, state = update(model, asked, optimizer, parameters, batch, None, 1.0)
    numbers, state = update(model, asked, optimizer, parameters, batch, state, None, tbptt=2, weighted=slice(1, 2))
    model.checkpoint(2)
    numbers, state = update(model, asked, optimizer, parameters, batch, state, None)
    predicted, _ = model(batch.inputs)
    tensors = [numbers, score_per_sequence(asked, predicted, batch), batch.answered_at, *state.values()]
    tensors += [batch.last_answer_only().weights, *(p.grad for p in parameters if p.grad is not None)]
    assert {tensor.device.type for tensor in tensors} == {"meta"}
