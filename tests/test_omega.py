"""The vanishing-gradient regulariser of Pascanu et al. (2013): its value, its gradient, and training with it."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.autograd.functional import jacobian

from seqmem.cells import CELLS, LSTM, RNN, Cell, Stack, State
from seqmem.cells.wrappers import Dropout, LayerNorm, Zoneout
from seqmem.models.base import loss_and_gradient, trainable
from seqmem.models.encoder_decoder import EncoderDecoder
from seqmem.models.recurrent import SequenceModel
from seqmem.optimizers import adam
from seqmem.randomness import ambient, generator
from seqmem.tasks import Pronoun, Reverse, Task, TemporalOrder, Text
from seqmem.training import update as updates
from seqmem.training.loop import train
from seqmem.training.omega import LEAST, Omega, Penalised, omega
from seqmem.training.plan import Interrupted, Plan
from small_models import fresh, weights
from test_early_stopping import Saved

PLAN = Plan(12, steps=12, batch_size=8, evaluate_sequences=5, trace_every=0, log_every=4, omega=2.0)


def a_model(make: Callable[[int], Cell], task: Task | None = None) -> SequenceModel:
    with ambient(0, "weights"):
        return SequenceModel.for_task(task or TemporalOrder(), make, embed_size=3).double()


TASK, LENGTH, SEQUENCES = TemporalOrder(), 10, 2
BATCH = TASK.sample(SEQUENCES, LENGTH, generator(0, "batch"))
LAST = slice(LENGTH - 1, LENGTH)


def passed(model: SequenceModel, weight: float = 1.0) -> Penalised:
    """After the backward pass of ``BATCH``."""
    there = Omega(model, weight).forward(BATCH.inputs, None, LAST)
    _, gradient = loss_and_gradient(TASK, there.predicted, BATCH.part(LAST.start, LAST.stop))
    there.backward(gradient)
    return there


def arguments(model: SequenceModel, until: int = LENGTH) -> tuple[Cell, Tensor, dict[str, Tensor], dict[str, Tensor]]:
    """What ``omega`` takes, before the timestep ``until``: each state's gradient from a pass that begins with it."""
    xs, states = model.embed(BATCH.inputs).detach(), [model.initial_state(SEQUENCES)]
    for x in xs:
        states.append({name: leaf.detach() for name, leaf in model.cell.step(x, states[-1])[1].items()})
    names, by_step = written(states), []
    for t in range(1, until + 1):
        begun = {name: leaf.clone().requires_grad_(name in names) for name, leaf in states[t].items()}
        output, state = begun.get(model.cell.output_state or ""), begun
        for x in xs[t:]:
            output, state = model.cell.step(x, state)
        if output is None:  # of the last state of a cell whose output is none: nothing more depends on it
            by_step.append([torch.zeros_like(begun[name]) for name in names])
            continue
        loss = nn.functional.cross_entropy(model.readout(output), BATCH.targets[-1])
        by_step.append(torch.autograd.grad(loss, [begun[name] for name in names], materialize_grads=True))
    before = {name: torch.stack([state[name] for state in states[:until]]) for name in states[0]}
    return model.cell, xs[:until], before, dict(zip(names, map(torch.stack, zip(*by_step, strict=True)), strict=True))


def written(states: list[State]) -> list[str]:
    return [name for name, leaf in states[-1].items() if leaf.is_floating_point() and leaf is not states[-2][name]]


def made(name: str, width: int) -> Cell:
    kind: Any = CELLS[name]
    timed = ("lstm", "gru", "mgu", "janet", "indrnn", "lmu", "mingru", "minlstm")
    return kind(width, 4, **({"seq_len": 10} if name in timed else {}))


def by_definition(model: SequenceModel, until: int) -> float:
    """Omega with whole Jacobians, one sequence and one timestep after the other."""
    xs, terms = model.embed(BATCH.inputs).detach(), []
    for b in range(SEQUENCES):
        own = xs[:, b : b + 1]
        states = [model.initial_state(1)]
        for x in own:
            states.append({name: leaf.detach() for name, leaf in model.cell.step(x, states[-1])[1].items()})
        names = written(states)

        def vector(state: State, names: list[str] = names) -> Tensor:
            return torch.cat([state[name].flatten() for name in names])

        def state_of(values: Tensor, like: State, names: list[str] = names) -> State:
            parts = values.split([like[name].numel() for name in names])
            return {**like, **{name: part.view_as(like[name]) for name, part in zip(names, parts, strict=True)}}

        def step(t: int, values: Tensor, own: Tensor = own, states: list[State] = states) -> Tensor:
            return vector(model.cell.step(own[t], state_of(values, states[t]))[1])

        def loss(t: int, values: Tensor, b: int = b, own: Tensor = own, states: list[State] = states) -> Tensor:
            """The loss where the state before timestep t has these values."""
            state, output = state_of(values, states[t]), own[0]
            for x in own[t:]:
                output, state = model.cell.step(x, state)
            return nn.functional.cross_entropy(model.readout(output), BATCH.targets[-1, b : b + 1]) / SEQUENCES

        for t in range(until):
            g = jacobian(partial(loss, t + 1), vector(states[t + 1]))
            j = jacobian(partial(step, t), vector(states[t]))
            if g.square().sum() >= LEAST:
                terms.append(((g @ j).square().sum() / g.square().sum() - 1) ** 2)
    return float(torch.stack(terms).mean())


@pytest.mark.parametrize(
    "name",
    [
        "rnn", "gru", "lstm", "lstm1997", "cornn", "unicornn", "lem", "lmu", "lru", "slstm", "mlstm", "rwkv",
        "retention", "deltanet",
    ],
)  # fmt: skip
def test_its_value_is_that_of_whole_jacobians(name: str) -> None:
    """Without the last timestep, at which the loss asks for the output: that need not be a state."""
    model = a_model(lambda width: made(name, width))
    value = omega(*arguments(model, LENGTH - 1)).detach()
    assert float(value) == pytest.approx(by_definition(model, LENGTH - 1), rel=1e-9, abs=1e-18)


def test_its_value_is_the_authors_for_their_network() -> None:
    """h = tanh(W x + U h' + b): |U^T (g * (1 - h^2))|^2 / |g|^2, with g = dL/dh from a recursion by hand."""
    model = a_model(lambda width: RNN(width, 5))
    cell: Any = model.cell
    with torch.no_grad():
        hidden, _ = cell(model.embed(BATCH.inputs))
        probabilities = model.readout(hidden[-1]).softmax(-1)
        g = (probabilities - nn.functional.one_hot(BATCH.targets[-1], 4)) / SEQUENCES @ model.readout.weight
        terms = []
        for h in reversed(hidden):
            back = (g * (1 - h**2)) @ cell.weight_hidden
            terms.append((back.square().sum(1) / g.square().sum(1) - 1) ** 2)
            g = back
    torch.testing.assert_close(passed(model).omega, torch.stack(terms).mean(), rtol=1e-10, atol=0)


class Turning(Cell):
    """h = scale * Q h' + W x with an orthogonal Q."""

    output_state = "hidden"

    def __init__(self, input_size: int, hidden_size: int, scale: float = 1.0) -> None:
        super().__init__()
        self.input_size, self.output_size = input_size, hidden_size
        self.read = nn.Linear(input_size, hidden_size)
        self.turn = nn.Parameter(nn.init.orthogonal_(torch.empty(hidden_size, hidden_size, dtype=torch.float64)))
        self.scale = scale

    def initial_state(self, batch_size: int) -> State:
        return {"hidden": self.turn.new_zeros(batch_size, self.output_size)}

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        hidden = self.scale * state["hidden"] @ self.turn + self.read(x)
        return hidden, {"hidden": hidden}


@pytest.mark.parametrize("scale", [1.0, 0.9, 1.5])
def test_a_turn_keeps_the_norm_and_what_shrinks_or_grows_is_counted_exactly(scale: float) -> None:
    there = passed(a_model(lambda width: Turning(width, 6, scale)))
    torch.testing.assert_close(float(there.omega), (scale**2 - 1) ** 2, rtol=1e-10, atol=1e-24)


MAKERS: dict[str, Callable[[int], Cell]] = {
    "rnn": lambda width: RNN(width, 4),
    "lstm": lambda width: LSTM(width, 4, seq_len=10),
    "two layers": lambda width: Stack([LSTM(width, 3, seq_len=10), RNN(3, 4)]),
    "layer norm": lambda width: LayerNorm(RNN(width, 4)),
    "lem": lambda width: made("lem", width),
    "deltanet": lambda width: made("deltanet", width),
}


@pytest.mark.parametrize("name", MAKERS)
def test_the_gradient_of_an_update_is_the_losses_and_central_differences_of_omega(name: str) -> None:
    weight, model = 3.0, a_model(MAKERS[name])
    there = passed(model, weight)
    taken = arguments(model)

    def value() -> float:
        return float(omega(*taken).detach())

    assert value() == pytest.approx(float(there.omega), rel=1e-12)
    predicted, _ = model(BATCH.inputs, at=LAST)
    _, by_predicted = loss_and_gradient(TASK, predicted.detach(), BATCH.part(LAST.start, LAST.stop))
    of_loss = torch.autograd.grad((predicted * by_predicted).sum(), trainable(model), materialize_grads=True)
    inside = {id(parameter) for parameter in model.cell.parameters()}
    for parameter, loss in zip(trainable(model), of_loss, strict=True):
        flat, change, chosen = parameter.data.view(-1), 1e-6, torch.arange(0, parameter.numel(), 3)
        expected = torch.zeros(len(chosen), dtype=torch.float64)
        for i, place in enumerate(chosen.tolist()) if id(parameter) in inside else ():
            at = float(flat[place])
            flat[place] = at + change
            more = value()
            flat[place] = at - change
            expected[i] = (more - value()) / (2 * change)
            flat[place] = at
        got = loss if parameter.grad is None else parameter.grad
        torch.testing.assert_close((got - loss).flatten()[chosen], weight * expected, rtol=2e-6, atol=1e-8)


def test_sequences_that_no_gradient_reaches_have_no_term() -> None:
    cell = RNN(3, 4).double()
    xs, before, g = torch.randn(6, 2, 3).double(), torch.randn(6, 2, 4).double(), torch.randn(6, 2, 4).double()
    g[:3, 1] = 1e-11  # |g|^2 below 1e-20
    value = omega(cell, xs, {"hidden": before}, {"hidden": g})
    whole = omega(cell, xs[:, :1], {"hidden": before[:, :1]}, {"hidden": g[:, :1]}) * 6
    half = omega(cell, xs[3:, 1:], {"hidden": before[3:, 1:]}, {"hidden": g[3:, 1:]}) * 3
    torch.testing.assert_close(value, (whole + half) / 9, rtol=1e-12, atol=0)
    assert float(omega(cell, xs, {"hidden": before}, {"hidden": torch.zeros_like(g)}).detach()) == 0


def test_a_run_with_it_resumes_bit_for_bit_and_logs_it() -> None:
    """Text hands a state from batch to batch; the third update is the last before the stop."""
    plan = replace(PLAN, seq_len=11)
    for task in (Pronoun(), Text(chunks=2)):
        whole = fresh(task)
        seen = Saved()
        train(*whole, plan, [seen], checkpoints=seen)
        logged = [row["omega"] for _, kind, row in seen.rows if kind == "train"]
        assert len(logged) == 3
        assert all(value > 0 for value in logged)
        half, memory, calls = fresh(task), Saved(), iter([False, False, True])
        with pytest.raises(Interrupted):
            train(*half, plan, [memory], checkpoints=memory, stop_requested=lambda calls=calls: next(calls))
        resumed = fresh(task)
        train(*resumed, plan, [memory], checkpoints=memory)
        assert all(torch.equal(a, b) for a, b in zip(weights(whole[0]), weights(resumed[0]), strict=True))
        assert [row for row in memory.rows if row[1] == "train"] == [row for row in seen.rows if row[1] == "train"]
        plain = fresh(task)
        train(*plain, replace(plan, omega=None))
        assert not all(torch.equal(a, b) for a, b in zip(weights(plain[0]), weights(whole[0]), strict=True))


def test_it_keeps_the_gradient_that_would_vanish() -> None:
    """A small recurrent matrix: after some updates with the regulariser alone, the norm is nearly kept."""
    model = a_model(lambda width: RNN(width, 8))
    optimizer = adam(trainable(model), lr=3e-3)
    batch = TemporalOrder().sample(16, 10, generator(0, "batch"))
    values = []
    for _ in range(60):
        numbers, _ = updates.update(
            model, TemporalOrder(), optimizer, trainable(model), batch, None, None, weighted=batch.weighted,
            omega=Omega(model, 10.0),
        )  # fmt: skip
        values.append(float(numbers[3]))
    assert values[0] > 0.3
    assert values[-1] < 0.1 * values[0]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"omega": 0.0}, r"^omega=0.0: must be more than 0, and finite; or null for no such term$"),
        ({"omega": float("nan")}, r"^omega=nan: must be more than 0, and finite"),
        ({"tbptt": 1}, r"^omega=2: goes with tbptt=null only$"),
        ({"compile": True}, r"^omega=2: goes with compile=false only$"),
        ({"precision": "bf16"}, r"^omega=2: goes with precision=float32 only$"),
        ({"checkpoint_every_t": 3}, r"^omega=2: goes with checkpoint_every_t=null only$"),
    ],
    ids=str,
)
def test_plans_that_do_not_go_with_it_are_refused(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        replace(PLAN, **options).check(Pronoun())


def test_models_without_it_are_refused() -> None:
    with ambient(0, "weights"):
        model = EncoderDecoder.for_task(Reverse(3), lambda width: RNN(width, 4))
    with pytest.raises(ValueError, match=r"^omega=4: goes with model=recurrent, whose states are each"):
        Omega(model, 4.0)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda width: made("attention", width), "this cell keeps past timesteps in its state, one by one; "),
        (lambda width: Zoneout(RNN(width, 4), p=0.1), "does not go with zoneout, which draws anew"),
        (lambda width: Stack([Dropout(RNN(width, 4), p=0.1), RNN(4, 4)]), "does not go with dropout, which draws anew"),
    ],
)
def test_cells_without_it_are_refused(make: Callable[[int], Cell], message: str) -> None:
    with pytest.raises(ValueError, match=f"^omega=4: {message}"):
        Omega(a_model(make), 4.0)
    assert Omega(a_model(lambda width: Zoneout(RNN(width, 4), p=0.0)), 4.0).weight == 4
