"""Models: walking and predicting, loss and score of a sequence, the search for a hidden size, layers, devices."""

import copy
import inspect
import pickle
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from compilers import needs_kernels
from doors import Attention, TwoPhase
from seqmem.cells import CELLS, GRU, LSTM, RNN, Cell
from seqmem.cells.state import Slots, State, leaves, map_leaves, written
from seqmem.models import EncoderDecoder, Model, RecurrentModel, stacked
from seqmem.models.base import (
    hidden_size_for,
    loss_and_gradient,
    loss_per_sequence,
    parameter_count,
    score_per_sequence,
    trainable,
)
from seqmem.models.recurrent import SequenceModel
from seqmem.optimizers import OPTIMIZERS
from seqmem.probes.gradient import gradient_trace
from seqmem.randomness import ambient, generator
from seqmem.signals import Batch, Tokens
from seqmem.tasks import TASKS, Adding, Copy, Pronoun, Reverse, Subject, Task
from seqmem.training.update import update
from small_models import ONE_OF_EACH_TASK


class Reading(RecurrentModel):
    def read_out(self, outputs: Tensor) -> Tensor:
        return -self.readout(outputs.tanh())


def _told(kind: Callable[..., Cell]) -> dict[str, int]:
    return {"seq_len": 9} if "seq_len" in inspect.signature(kind).parameters else {}


def _seen_of(kind: type[Cell]) -> tuple[object, ...]:
    """What a model can tell of a cell: what its state is made of, if that is its output, and its shortcuts."""
    cell = kind(3, 4, **_told(kind))  # pyright: ignore[reportCallIssue]
    _, state = cell.step(torch.zeros(2, 3), cell.initial_state(2))
    leaves = frozenset(Slots if isinstance(leaf, Slots) else leaf.ndim for leaf in state.values())
    methods = ("forward", "forward_tokens", "tapped", "differentiated", "gates")
    return (leaves, cell.output_state is None, *(getattr(kind, name) is getattr(Cell, name) for name in methods))


ONE_OF_EACH = {_seen_of(kind): name for name, kind in reversed(CELLS.items())}.values()
"""Cells that a model can tell apart, one of each kind; test_cells.py goes through all of them."""

MODELS: dict[str, Callable[[Task], Model]] = {
    **{
        name: lambda task, kind=CELLS[name]: RecurrentModel.for_task(
            task, lambda d: kind(d, 4, **_told(kind)), embed_size=3
        )
        for name in ONE_OF_EACH
    },
    "own readout": lambda task: Reading.for_task(task, lambda d: LSTM(d, 4, seq_len=9), embed_size=3),
    "one-hot stack": lambda task: RecurrentModel.for_task(task, lambda d: RNN(d, 4), embed_size=0, layers=2),
    "attention": lambda task: RecurrentModel.for_task(task, lambda d: Attention(d, 4), embed_size=3),
    "two phases": lambda task: TwoPhase(task, lambda d: GRU(d, 4, forget_bias=1.0), embed_size=3, source=4),
    "two phases, stacks": lambda task: TwoPhase(task, stacked(lambda d: Attention(d, 4), 2), embed_size=3, source=4),
}


WITHOUT_GRAPH = [name for name, kind in CELLS.items() if kind.differentiated is not Cell.differentiated]


ENCODER_DECODERS: dict[str, dict[str, Any]] = {
    "one vector": {},
    "a state handed over": {"handover": "state", "maxout": False, "layers": 2},
    "bahdanau": {"attention": "bahdanau", "bidirectional": True},
    "luong": {"attention": "luong", "handover": "state"},
    "input feeding": {"attention": "luong", "attention_score": "dot", "input_feeding": True},
    "attention of its own": {"attention": "bahdanau", "cell": CELLS["attention"]},
}


@pytest.fixture(params=[*MODELS, *ENCODER_DECODERS])
def model(request: pytest.FixtureRequest) -> Model:
    with ambient(0, request.param):
        if request.param in MODELS:
            return MODELS[request.param](Pronoun()).double()
        options = {**ENCODER_DECODERS[request.param]}
        kind = options.pop("cell", LSTM)
        return EncoderDecoder.for_task(
            Reverse(3), lambda d: kind(d, 4, **_told(kind)), embed_size=3, **options
        ).double()


def _task(model: Model) -> Task:
    """A task that the model can take."""
    return Reverse(3) if isinstance(model, EncoderDecoder) else Pronoun()


@pytest.mark.parametrize("at", [None, slice(8, 9), slice(2, 5)])
def test_forward_is_its_walk_in_values_final_state_and_all_gradients(model: Model, at: slice | None):
    inputs = _task(model).sample(3, 9, generator(0, "t")).inputs
    walked = list(model.walk(inputs))
    expected, end = model.read_out(torch.stack([step.output for step in walked])[at or slice(None)]), walked[-1].state
    predicted, final = model(inputs, at=at)
    torch.testing.assert_close((predicted, final), (expected, end), rtol=1e-10, atol=1e-12)
    parameters = trainable(model)

    def gradients(values: Tensor) -> tuple[Tensor, ...]:
        return torch.autograd.grad(values.square().sum(), parameters, materialize_grads=True)

    torch.testing.assert_close(gradients(predicted), gradients(expected), rtol=1e-9, atol=1e-11)


def _after(model: Model, task: Task, batch: Batch, state: State | None, **options: Any) -> tuple[Any, ...]:
    """Numbers, final state and gradients of an update."""
    parameters = trainable(model)
    optimizer = OPTIMIZERS["sgd"](parameters, lr=1e-30)
    numbers, final = update(model, task, optimizer, parameters, batch, state, 1.0, **options)
    return numbers, final, [parameter.grad for parameter in parameters]


def _has_a_pass(model: Model, batch: Batch, at: slice) -> bool:
    return model.differentiated(batch.inputs, None, at) is not None


@needs_kernels
@pytest.mark.parametrize(
    ("name", "task", "length"),
    [
        (name, *task)
        for place, name in enumerate(
            [*WITHOUT_GRAPH, "cho", "stack", "one-hot", "frozen embedding", "frozen cell", "tied"]
        )
        for task in (
            ("text" if name == "tied" else "pronoun", 30),  # 30 words: with a table of products
            (("pronoun", 2), ("text", 30), ("adding", 2))[place % 3],
        )
    ],
)
def test_an_update_without_a_graph_is_autograds_bit_for_bit(
    task: str, name: str, length: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance = TASKS[task]()
    batch = instance.sample(5, instance.min_seq_len + length, generator(0, "t"))
    kind = {"cho": partial(GRU, form="cho"), "stack": LSTM, **CELLS}.get(name, GRU)
    options = _told(kind)
    width = {"tied": 6, "one-hot": 0}.get(name, 5)
    with ambient(0, name):
        model = RecurrentModel.for_task(
            instance, lambda d: kind(d, 6, **options), embed_size=width, layers=1 + (name == "stack")
        )
    with torch.no_grad():
        for parameter in trainable(model):
            parameter.add_(0.01)  # a learning rate of 1e-30 changes zeros, and where relu(0) was, that shows
    if name.startswith("frozen"):
        (model.embed if name == "frozen embedding" else model.cell).requires_grad_(False)
    if name == "tied" and task == "text":
        model.readout.weight = model.embed.weight  # pyright: ignore[reportAttributeAccessIssue]
    start = map_leaves(lambda leaf: torch.full_like(leaf, 0.1), model.initial_state(5))
    last = slice(len(batch.weights) - 1, len(batch.weights))
    cases = [{}, {"weighted": batch.weighted}, {"weighted": last, "tbptt": 4}, {"tbptt": 7}]
    assert _has_a_pass(model, batch, last)
    for state in (None, start):
        passed = [_after(model, instance, batch, state, **case) for case in cases]
        with monkeypatch.context() as patched:
            patched.setattr(RecurrentModel, "differentiated", Model.differentiated)
            by_autograd = [_after(model, instance, batch, state, **case) for case in cases]
        torch.testing.assert_close(passed, by_autograd, rtol=0, atol=0)


@needs_kernels
def test_autograd_remains_where_it_would_do_more() -> None:
    """Hooks, weights and states that are computed from others, another step or readout, another kernel, autocast."""
    batch, last = Pronoun().sample(3, 9, generator(0, "t")), slice(8, 9)

    def make(kind: type[LSTM] = LSTM, model: type[RecurrentModel] = RecurrentModel) -> RecurrentModel:
        return model.for_task(Pronoun(), lambda d: kind(d, 4, seq_len=9), embed_size=3)

    class Learned(LSTM):
        def initial_state(self, batch_size: int) -> State:
            return {name: self.bias[:4].expand(batch_size, 4) for name in ("hidden", "cell")}

    class Stepping(LSTM):
        def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
            return super().step(2 * x, state)

    def hooked(register: Callable[[Any], object]) -> RecurrentModel:
        register(model := make())
        return model

    models = [
        make(Learned), make(Stepping), make(model=Reading),
        hooked(lambda model: model.cell.register_forward_hook(lambda *_: None)),
        hooked(lambda model: model.readout.register_forward_pre_hook(lambda *_: None)),
        hooked(lambda model: model.embed.register_full_backward_hook(lambda *_: None)),
        hooked(lambda model: model.readout.weight.register_hook(lambda gradient: gradient)),
        hooked(lambda model: model.cell.bias.register_post_accumulate_grad_hook(lambda _: None)),
        hooked(lambda model: torch.nn.utils.parametrizations.orthogonal(model.cell.fused, "weight_hh_l0")),
        hooked(lambda model: setattr(model, "readout", torch.nn.Sequential(model.readout, torch.nn.Tanh()))),
        hooked(lambda model: model.cell.use("torch")),
    ]  # fmt: skip
    assert [_has_a_pass(model, batch, last) for model in models] == [False] * len(models)
    assert _has_a_pass(make(), batch, last)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert not _has_a_pass(make(), batch, last)
    handle = torch.nn.modules.module.register_module_forward_hook(lambda *_: None)
    assert not _has_a_pass(make(), batch, last)
    handle.remove()


@needs_kernels
def test_passes_do_not_disturb_each_other_and_end_with_their_cell() -> None:
    """Two in flight at once, an abandoned one, other lengths, weights replaced, a copy of the model."""
    task = Pronoun()
    model = RecurrentModel.for_task(task, lambda d: LSTM(d, 4, seq_len=9), embed_size=3)
    parameters, last = trainable(model), slice(8, 9)
    one, two, longer = (task.sample(3, length, generator(i, "t")).inputs for i, length in enumerate((9, 9, 12)))

    def expected(inputs: Tensor) -> list[Tensor]:
        predicted, _ = model(inputs, at=last)
        return list(torch.autograd.grad(predicted.sum(), parameters))

    def begun(inputs: Tensor) -> Any:
        passed = model.differentiated(inputs, None, last)
        assert passed is not None
        return passed

    def ended(passed: Any) -> list[Tensor | None]:
        model.zero_grad()
        passed.backward(torch.ones_like(passed.predicted))
        return [parameter.grad for parameter in parameters]

    def same(inputs: Tensor, passed: Any) -> None:
        torch.testing.assert_close(ended(passed), expected(inputs), rtol=0, atol=0)

    same(one, begun(one))
    first, second = begun(one), begun(two)
    begun(longer)
    same(one, first)
    same(two, second)
    same(longer, begun(longer))
    same(two, begun(two))
    model.cell.weight_hidden.data = torch.randn_like(model.cell.weight_hidden)  # pyright: ignore
    same(one, begun(one))
    model.load_state_dict({name: value * 0.5 for name, value in model.state_dict().items()})
    same(one, begun(one))
    other, kept = copy.deepcopy(model), [parameter.clone() for parameter in trainable(model)]
    with torch.no_grad():
        for parameter in trainable(other):
            parameter.zero_()
    same(one, begun(one))
    assert len(pickle.dumps(model)) < 20_000
    assert all(map(torch.equal, kept, trainable(model)))


@pytest.mark.parametrize("name", ONE_OF_EACH_TASK)
def test_the_loss_and_its_gradient_are_autograds_bit_for_bit(name: str) -> None:
    task = TASKS[name]()
    batch = task.sample(5, task.min_seq_len + 3, generator(0, "t"))
    predicted = torch.randn(*batch.weights.shape, task.targets.size, generator=generator(1, "t"))
    weighted = batch.weighted
    last = slice(weighted.stop - 1, weighted.stop)
    for at, total in (
        (slice(None), None),
        (weighted, batch.weights.sum(0)),
        (last, None),
        (last, batch.weights.sum(0)),
    ):
        part = Batch(*(tensor[at] for tensor in vars(batch).values()))
        leaf = predicted[at].clone().requires_grad_()
        loss = loss_per_sequence(task, leaf, part, total).mean()
        (gradient,) = torch.autograd.grad(loss, leaf)
        torch.testing.assert_close(
            loss_and_gradient(task, predicted[at], part, total), (loss.detach(), gradient), rtol=0, atol=0
        )


def test_a_loss_of_ones_own_and_ignored_targets_keep_their_gradient() -> None:
    @dataclass(frozen=True)
    class Doubled(Tokens):
        def loss(self, predicted: Tensor, targets: Tensor) -> Tensor:
            return 2 * super().loss(predicted, targets)

    class Task:
        def __init__(self, targets: Tokens) -> None:
            self.targets = targets

    targets = torch.tensor([[1, -100, 0], [-100, 2, 2]])
    batch = Batch(targets, targets, torch.ones(2, 3), torch.ones(2, 3, dtype=torch.bool))
    predicted = torch.randn(2, 3, 3, generator=generator(0, "t"))
    single, gradient = loss_and_gradient(Task(Tokens(3)), predicted, batch)  # pyright: ignore[reportArgumentType]
    double, doubled = loss_and_gradient(Task(Doubled(3)), predicted, batch)  # pyright: ignore[reportArgumentType]
    torch.testing.assert_close((double, doubled), (2 * single, 2 * gradient))
    assert (gradient == 0).all(-1).equal(targets == -100)


def test_the_trace_of_a_model_is_that_of_its_walk(model: Model):
    batch = _task(model).sample(3, 9, generator(0, "t"))
    actual, expected = (gradient_trace(model, _task(model), batch, by=by) for by in ("auto", "step"))
    torch.testing.assert_close(actual, expected, rtol=1e-9, atol=1e-12, equal_nan=True)


@pytest.mark.parametrize("cut", [1, 3, 4, 5, 8])
def test_a_sequence_may_be_cut_anywhere_and_its_state_carried(model: Model, cut: int):
    inputs = _task(model).sample(3, 9, generator(0, "t")).inputs
    whole, final = model(inputs)
    head, state = model(inputs[:cut])
    tail, state = model(inputs[cut:], state)
    torch.testing.assert_close((torch.cat([head, tail]), state), (whole, final), rtol=1e-10, atol=1e-12)


def test_predicting_is_forward_where_nothing_is_fed_back(model: Model):
    batch = _task(model).sample(3, 9, generator(0, "t"))
    for at in (None, slice(8, 9)):
        torch.testing.assert_close(model.predict(batch, at=at), model(batch.inputs, at=at)[0], rtol=0, atol=0)


def test_a_walk_says_what_happens_at_each_timestep(model: Model):
    inputs = _task(model).sample(3, 9, generator(0, "t")).inputs
    state = model.initial_state(3)
    walked = list(model.walk(inputs, state))
    assert len(walked) == 9
    for t, step in enumerate(walked):
        assert step.x.requires_grad
        assert len(step.x) == len(step.output) == 3
        assert all(((gate >= 0) & (gate <= 1)).all() for gate in step.gates().values())
        assert any(written(state, step.state).values())
        for name, (keep, write, _) in step.additive().items():
            old = state.get(name, step.state[name].new_zeros(()))  # a phase begins
            torch.testing.assert_close(keep * old + write, step.state[name])
        for weights, at in step.looks().values():
            assert 0 <= at <= at + weights.shape[-1] - 1 <= t
            torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
        state = step.state
    assert {name for step in walked for name in step.gates()} >= set(model.keeps)
    with torch.no_grad():
        assert not any(leaf.requires_grad for step in model.walk(inputs) for leaf in (step.x, *leaves(step.state)))


def test_walking_marks_no_input_of_the_callers():
    """Real numbers enter as they are: asking for their gradient must not change the batch."""
    batch = Adding().sample(3, 9, generator(0, "t"))
    model = RecurrentModel.for_task(Adding(), lambda d: RNN(d, 4))
    assert all(step.x.requires_grad for step in model.walk(batch.inputs))
    assert not batch.inputs.requires_grad


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

    actual = hidden_size_for(3_000, build)
    off = {size: abs(parameter_count(build(size)) - 3_000) for size in range(1, 200)}
    assert off[actual] == min(off.values())


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
