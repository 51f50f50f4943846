"""The gradient trace, against closed forms, finite differences, and itself under irrelevant changes."""

from collections.abc import Callable
from copy import deepcopy
from math import inf

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from seqmem.cells import GRU, LSTM, RNN, Cell, Stack, State
from seqmem.decay import decay
from seqmem.models.base import loss_per_sequence, trainable
from seqmem.models.recurrent import SequenceModel
from seqmem.probes import gradient as trace_module
from seqmem.probes.gradient import Tracer, gradient_trace
from seqmem.randomness import ambient, generator
from seqmem.signals import Batch, Reals
from seqmem.tasks import TASKS, Adding, Copy, Pronoun, Task
from small_models import ONE_OF_EACH_TASK


class Linear(Cell):
    """h_t = W h_{t-1} + x_t: the gradient k steps back is W^T to the k times the one at the answer."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        self.input_size = self.output_size = len(weight)
        self.register_buffer("weight", weight)

    def initial_state(self, batch_size: int) -> State:
        return {"hidden": self.get_buffer("weight").new_zeros(batch_size, self.output_size)}

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        hidden = state["hidden"] @ self.get_buffer("weight").T + x
        return hidden, {"hidden": hidden}


class Sums(Task):
    """Sum the inputs: a task whose loss has a gradient for every model."""

    name, source = "sums", "this test"

    @property
    def inputs(self) -> Reals:
        return Reals(4)

    @property
    def targets(self) -> Reals:
        return Reals(2)

    @property
    def chance(self) -> float:
        return float("inf")

    @property
    def min_seq_len(self) -> int:
        return 1

    def sample(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Batch:
        xs = torch.randn(seq_len, batch_size, 4, generator=rng)
        return Batch.asked_at_end(xs, xs.sum(0)[:, :2] + 3)

    def solve(self, inputs: Tensor) -> Tensor:
        return inputs.cumsum(0)[..., :2] + 3

    def words(self, inputs: Tensor) -> list[str]:
        return [str(x) for x in inputs.tolist()]

    def answer(self, target: Tensor) -> str:
        return str(target.tolist())


def model_of(task: Task, cell: Callable[[int], Cell], *, layers: int = 1) -> SequenceModel:
    with ambient(0, "model"):
        return SequenceModel.for_task(task, cell, embed_size=4, layers=layers)


def orthogonal(size: int) -> Tensor:
    q, _ = torch.linalg.qr(torch.randn(size, size, dtype=torch.float64, generator=generator(0, "q")))
    return q


@pytest.mark.parametrize("rho", [0.5, 0.93, 1.0, 1.2])
def test_a_scaled_rotation_decays_by_its_factor_over_100_steps(rho: float):
    task = Sums()
    model = model_of(task, lambda _: Linear(rho * orthogonal(4)))
    norms = gradient_trace(model, task, task.sample(8, 101, generator(0, "t")))["hidden"]
    ratio = norms[:-1] / norms[1:]
    assert norms.shape == (101, 8)
    # A ratio this exact shows that neither the model nor Q was ever rounded to float32.
    torch.testing.assert_close(ratio, torch.full_like(ratio, rho), rtol=1e-10, atol=0)


@pytest.mark.parametrize("a", [0.5, 1.0, 1.5])
def test_a_leaky_integrator_and_its_input_decay_by_the_leak(a: float):
    task = Sums()
    trace = gradient_trace(
        model_of(task, lambda _: Linear(a * torch.eye(4, dtype=torch.float64))),
        task,
        task.sample(8, 12, generator(0, "t")),
    )
    ratio = trace["hidden"][:-1] / trace["hidden"][1:]
    torch.testing.assert_close(ratio, torch.full_like(ratio, a), rtol=1e-12, atol=0)
    torch.testing.assert_close(trace["input"], trace["hidden"])


@pytest.mark.parametrize("bias", [-1.0, 1.0, 3.0])
def test_an_lstms_cell_state_decays_by_its_pinned_forget_gate(bias: float):
    task = Sums()
    model = model_of(task, lambda d: LSTM(d, 6, forget_bias=bias))
    assert isinstance(model.cell, LSTM)
    with torch.no_grad():
        model.cell.weight_hidden.zero_()  # the gates ignore h and x, so c is the only path through time
        i, _, g, o = model.cell.bias.chunk(4)
        model.cell.weight_input.view(4, 6, -1)[[0, 1, 3]] = 0
        for bias_of_gate in (i, g, o):
            bias_of_gate.zero_()
    norms = gradient_trace(model, task, task.sample(5, 30, generator(0, "t")))["cell"]
    ratio = norms[:-1] / norms[1:]
    torch.testing.assert_close(
        ratio, torch.full_like(ratio, torch.tensor(bias).double().sigmoid().item()), rtol=1e-7, atol=0
    )


CELLS: dict[str, Callable[[int], Cell]] = {
    "rnn": lambda d: RNN(d, 3),
    "lstm": lambda d: LSTM(d, 3, seq_len=6),
    "gru": lambda d: GRU(d, 3, seq_len=6),
    "gru cho": lambda d: GRU(d, 3, seq_len=6, form="cho"),
    "stack": lambda d: Stack([LSTM(d, 3, seq_len=6), RNN(3, 2)]),
}


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("loss", ["last", "all"])
def test_the_trace_of_the_input_equals_finite_differences(name: str, loss: str):
    task = Copy(symbols=2, length=2)
    model = model_of(task, CELLS[name]).double()
    batch = task.sample(1, 7, generator(0, "t")).to("cpu", torch.float64)
    trace = gradient_trace(model, task, batch, loss=loss)["input"]
    if loss == "last":
        batch = batch.last_answer_only()
    xs = model.embed(batch.inputs).detach()

    def at(xs: Tensor) -> Tensor:
        return loss_per_sequence(task, model.readout(model.cell(xs)[0]), batch).sum().detach()

    slopes, h = torch.zeros_like(xs), 1e-5
    for index in np.ndindex(*xs.shape):
        nudge = torch.zeros_like(xs)
        nudge[index] = h
        slopes[index] = (at(xs + nudge) - at(xs - nudge)) / (2 * h)
    torch.testing.assert_close(trace, slopes.norm(dim=-1), rtol=1e-6, atol=1e-10)
    assert (trace > 0).all()


class Nudged(Cell):
    """Add ``nudge`` to the state ``key`` as it leaves timestep ``at``, before anything uses it."""

    def __init__(self, inner: Cell, key: str, at: int, nudge: Tensor) -> None:
        super().__init__()
        self.inner, self.key, self.at, self.nudge, self.t = inner, key, at, nudge, 0
        self.input_size, self.output_size = inner.input_size, inner.output_size

    def initial_state(self, batch_size: int) -> State:
        self.t = 0
        return self.inner.initial_state(batch_size)

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        here, self.t = self.t == self.at, self.t + 1
        if isinstance(self.inner, LSTM) and self.key == "cell":  # h_t depends on c_t: add the nudge in between
            _, new = self.inner.step(x, state)
            gates = torch.nn.functional.linear(x, self.inner.weight_input, self.inner.bias)
            gates = gates + torch.nn.functional.linear(state["hidden"], self.inner.weight_hidden)
            cell = new["cell"] + self.nudge if here else new["cell"]
            hidden = gates.chunk(4, dim=-1)[3].sigmoid() * cell.tanh()
            return hidden, {"hidden": hidden, "cell": cell}
        output, new = self.inner.step(x, state)
        if here:
            new = {**new, self.key: new[self.key] + self.nudge}
            output = new["hidden"]  # the output of these cells is the hidden state
        return output, new


@pytest.mark.parametrize(("name", "key"), [(n, "hidden") for n in CELLS if n != "stack"] + [("lstm", "cell")])
@pytest.mark.parametrize("at", [0, 3, 5])
def test_the_trace_of_a_state_equals_finite_differences(name: str, key: str, at: int):
    task = Sums()
    model = model_of(task, CELLS[name]).double()
    batch = task.sample(1, 6, generator(0, "t")).to("cpu", torch.float64)
    trace = gradient_trace(model, task, batch)[key][at]
    xs, inner, h = model.embed(batch.inputs), model.cell, 1e-5
    slopes = torch.zeros(inner.output_size, dtype=torch.float64)

    def loss(nudge: Tensor) -> Tensor:
        outputs, _ = Nudged(inner, key, at, nudge)(xs)
        return loss_per_sequence(task, model.readout(outputs), batch).sum().detach()

    for index in range(inner.output_size):
        nudge = torch.zeros(1, inner.output_size, dtype=torch.float64)
        nudge[0, index] = h
        slopes[index] = (loss(nudge) - loss(-nudge)) / (2 * h)
    torch.testing.assert_close(trace, slopes.norm()[None], rtol=1e-6, atol=1e-10)
    assert trace.item() > 0


class InPlace(Linear):
    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        hidden = state["hidden"].mul_(0.5).add_(x)
        return hidden.clone(), {"hidden": hidden}


def test_a_state_changed_in_place_is_refused_not_mismeasured():
    task = Sums()
    with pytest.raises(ValueError, match=r"^the state 'hidden' is changed in place"):
        gradient_trace(model_of(task, lambda _: InPlace(torch.eye(4))), task, task.sample(2, 5, generator(0, "t")))


class Delayed(Linear):
    """Also carries its previous state and a clock.

    At the first timestep the previous state is the initial one, which is not an output of any step: no gradient.
    """

    def initial_state(self, batch_size: int) -> State:
        start = super().initial_state(batch_size)
        return {**start, "before": start["hidden"], "clock": torch.zeros(batch_size, dtype=torch.long)}

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        hidden = state["hidden"] @ self.get_buffer("weight").T + 0.1 * state["before"] + x
        return hidden, {"hidden": hidden, "before": state["hidden"], "clock": state["clock"] + 1}


def test_states_without_a_gradient_are_zero_or_nan():
    task = Sums()
    model = model_of(task, lambda _: Delayed(0.5 * torch.eye(4, dtype=torch.float64)))
    trace = gradient_trace(model, task, task.sample(3, 6, generator(0, "t")))
    assert (trace["clock"] == 0).all()
    assert trace["before"][0].isnan().all()
    assert (trace["before"][1:5] > 0).all()
    assert {norms.shape for norms in trace.values()} == {(6, 3)}


class Mealy(Linear):
    """Answers from the state before it is updated."""

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        _, new = super().step(x, state)
        return state["hidden"], new


def test_a_cell_that_answers_first_is_measured_from_where_its_gradient_begins():
    task = Sums()
    model = model_of(task, lambda _: Mealy(0.5 * torch.eye(4, dtype=torch.float64)))
    trace = Tracer(model, task).measure(task.sample(3, 20, generator(0, "t")))
    fit = decay(trace.mean_back(trace.state))
    assert fit.half_life == pytest.approx(1.0)
    assert fit.horizon == 11  # 0.5 to the power of 10 is the first below 1/1000, counted from one step back
    assert fit.points == 19


@pytest.mark.parametrize("name", CELLS)
@pytest.mark.parametrize("loss", ["last", "all"])
def test_the_trace_by_kernels_equals_the_trace_by_steps(name: str, loss: str):
    """Compare each norm relative to itself, down to norms below the range of float32."""
    task = Copy()
    model = model_of(task, CELLS[name])
    with torch.no_grad():
        for parameter in model.cell.parameters():
            if parameter.requires_grad and parameter.ndim == 2:
                parameter.mul_(0.4)
    batch = task.sample(5, 90, generator(0, "trace"))
    fast, slow = (gradient_trace(model, task, batch, loss=loss, by=by) for by in ("auto", "step"))
    assert list(fast) == list(slow)
    for key, norms in slow.items():
        torch.testing.assert_close(fast[key], norms, rtol=1e-10, atol=1e-290)
    if loss == "last":
        assert min(float(norms[0].max()) for norms in slow.values()) < 1e-3  # something has vanished
    with pytest.raises(ValueError, match="by='fast': must be 'auto' or 'step'"):
        gradient_trace(model, task, batch, by="fast")


@pytest.mark.parametrize("by", ["auto", "step"])
def test_a_long_batch_is_traced_in_slices(by: str, monkeypatch: pytest.MonkeyPatch):
    task = Pronoun()
    model = model_of(task, CELLS["lstm"])
    batch = task.sample(7, 20, generator(0, "trace"))
    whole = gradient_trace(model, task, batch, by=by)
    monkeypatch.setattr(trace_module, "_AT_ONCE", 45)  # two sequences of 20 timesteps
    tracer = Tracer(model, task, by=by)
    for _ in range(2):
        sliced = tracer.norms(batch)
        for key, norms in whole.items():
            assert norms.shape == (20, 7)
            torch.testing.assert_close(sliced[key], norms, rtol=1e-12, atol=0)


class Scaled(Linear):
    """Has an attribute that is not a tensor."""

    factor = 1.0

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        return super().step(self.factor * x, state)


@pytest.mark.parametrize("name", CELLS)
def test_one_tracer_follows_a_model_as_it_is_trained(name: str):
    task = Pronoun()
    batches = [task.sample(size, 12, generator(0, "trace", size)) for size in (4, 3)]
    model = model_of(task, CELLS[name])
    tracer = Tracer(model, task)
    for i, batch in enumerate((batches[0], batches[0], *batches)):
        actual = tracer.measure(batch)
        expected = gradient_trace(model, task, batch)
        assert list(actual.norms) == list(expected)
        assert all(np.array_equal(actual.norms[key], norms.numpy()) for key, norms in expected.items())
        assert (actual.answered_at == [11] * len(batch.targets[0])).all()
        with torch.no_grad():
            for parameter in trainable(model):
                parameter.add_(torch.randn(parameter.shape, generator=generator(0, "drift", i)), alpha=0.1)
        assert not np.array_equal(gradient_trace(model, task, batch)["input"].numpy(), actual.norms["input"])


def test_a_tracer_follows_an_embedding_that_learns_and_every_cell_of_a_stack():
    task = Adding()
    with ambient(0, "stack"):
        cells = Stack([LSTM(6, 8, seq_len=20), RNN(8, 5), GRU(5, 7, seq_len=20)])
        model = SequenceModel(nn.Linear(task.inputs.size, 6), cells, nn.Linear(7, task.targets.size))
    batch = task.sample(4, 20, generator(0, "trace"))
    tracer = Tracer(model, task)
    for i in range(3):
        actual, expected = tracer.norms(batch), gradient_trace(model, task, batch, by="step")
        assert list(actual) == list(expected)
        for name, norms in expected.items():
            torch.testing.assert_close(actual[name], norms, rtol=1e-10, atol=0)
        with torch.no_grad():
            for parameter in trainable(model):
                parameter.add_(torch.randn(parameter.shape, generator=generator(0, "drift", i)), alpha=0.1)


def test_a_tracer_caches_nothing_of_an_unknown_cell():
    cell = Scaled(orthogonal(4))
    model = SequenceModel(nn.Identity(), cell, nn.Linear(4, 2)).double()
    batch = Sums().sample(2, 6, generator(0, "t"))
    tracer = Tracer(model, Sums())
    before = tracer.measure(batch).norms["input"]
    cell.factor = 0.0
    assert before.min() > 0
    assert tracer.measure(batch).norms["input"].max() == 0


def test_tracing_does_not_change_the_model():
    task, with_grad = Pronoun(), torch.ones(())
    model = model_of(task, lambda d: LSTM(d, 8, seq_len=20))
    model.train()
    for parameter in model.parameters():
        parameter.grad = with_grad.expand_as(parameter).clone()
    before = deepcopy(model.state_dict())
    gradient_trace(model, task, task.sample(4, 20, generator(0, "t")))
    assert model.training
    assert all(parameter.grad is not None and (parameter.grad == 1).all() for parameter in model.parameters())
    assert all(
        torch.equal(before[name], value) and value.dtype == before[name].dtype
        for name, value in model.state_dict().items()
    )
    assert all(not module._forward_hooks and not module._backward_hooks for module in model.modules())


def test_batch_size_cancels_and_rows_are_independent():
    task = Pronoun()
    model = model_of(task, lambda d: GRU(d, 8, seq_len=20))
    batch = task.sample(4, 20, generator(0, "t"))
    one = Batch(batch.inputs[:, :1], batch.targets[:, :1], batch.weights[:, :1], batch.asked[:, :1])
    whole, alone = gradient_trace(model, task, batch), gradient_trace(model, task, one)
    for name, norms in alone.items():
        torch.testing.assert_close(whole[name][:, :1], norms)


def test_the_trace_works_without_gradients_enabled_and_on_frozen_models():
    task = Pronoun()
    model = model_of(task, lambda d: RNN(d, 8))
    batch = task.sample(4, 20, generator(0, "t"))
    free = gradient_trace(model, task, batch)["hidden"]
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    with torch.no_grad():
        torch.testing.assert_close(gradient_trace(model, task, batch)["hidden"], free)


def test_nothing_underflows_400_steps_back_where_float32_would():
    task = Sums()
    model = model_of(task, lambda d: RNN(d, 16))
    norms = gradient_trace(model, task, task.sample(2, 401, generator(0, "t")))["hidden"]
    assert norms.dtype == torch.float64
    assert (norms > 0).all()
    assert norms[0].max() < 1e-45  # the smallest number float32 has


def test_nothing_underflows_1000_steps_back_where_squares_of_float64_would():
    task = Sums()
    model = model_of(task, lambda _: Linear(0.6 * orthogonal(4)))
    norms = gradient_trace(model, task, task.sample(2, 1001, generator(0, "t")))["hidden"]
    assert norms[0].max() < 1e-200
    torch.testing.assert_close(norms[:-1] / norms[1:], torch.full((1000, 2), 0.6).double(), rtol=1e-6, atol=0)


def test_a_gradient_beyond_float64_is_infinite():
    assert decay(np.array([1.0, 1.0, 1e60, 1e120, inf])).log10_arrives == inf
    assert decay(np.array([1.0, 1e-200, 1e-50, 1e150])).log10_arrives == pytest.approx(350)


def test_loss_last_takes_the_last_answer_and_loss_all_every_answer():
    task = Copy(symbols=4, length=3)
    model = model_of(task, lambda d: RNN(d, 8))
    batch = task.sample(6, 20, generator(0, "t"))
    last = gradient_trace(model, task, batch)["hidden"]
    everything = gradient_trace(model, task, batch, loss="all")["hidden"]
    at = decay(last.mean(1).flip(0).numpy()).half_life
    assert at < 5  # a default tanh network forgets at once
    assert (everything[:5].mean() > 100 * last[:5].mean()).item()  # fresh gradient enters at every step
    with pytest.raises(ValueError, match="must be 'last' or 'all'"):
        gradient_trace(model, task, batch, loss="first")


def test_padding_has_no_gradient():
    task = Adding(variant="hs97")
    model = model_of(task, lambda d: LSTM(d, 8, seq_len=20))
    batch = task.sample(16, 20, generator(0, "t"))
    trace = Tracer(model, task).measure(batch)
    ends = batch.answered_at
    assert ends.unique().numel() > 1
    for row, end in enumerate(ends.tolist()):
        assert (trace.norms["cell"][end + 1 :, row] == 0).all()
        assert (trace.norms["cell"][: end + 1, row] > 0).all()
    back = trace.back(trace.norms["cell"])
    assert np.array_equal(back[0], trace.norms["cell"][ends.numpy(), np.arange(16)])
    assert np.isnan(back).sum() == (ends.max() - ends).sum().item()


def test_all_states_together_are_the_norm_of_the_whole_state():
    task = Pronoun()
    trace = Tracer(model_of(task, lambda d: LSTM(d, 8, seq_len=20)), task).measure(
        task.sample(4, 20, generator(0, "t"))
    )
    together = np.hypot(trace.norms["hidden"], trace.norms["cell"])
    np.testing.assert_allclose(trace.state, together)
    assert list(trace.series()) == ["state", "input", "hidden", "cell"]


@pytest.mark.parametrize("name", ONE_OF_EACH_TASK)
def test_every_task_can_be_traced(name: str):
    task = TASKS[name]()
    batch = task.sample(3, task.min_seq_len + 4, generator(0, "t"))
    trace = gradient_trace(model_of(task, lambda d: LSTM(d, 5, seq_len=20)), task, batch)
    assert all(norms.isfinite().all() and norms.any() for norms in trace.values())


def test_the_grad_of_a_fused_layers_outputs_is_not_the_trace():
    """The common shortcut, ``outputs.retain_grad()``, shows a gradient at the last timestep only."""
    task = Pronoun()
    model = model_of(task, lambda d: LSTM(d, 8, seq_len=20))
    batch = task.sample(4, 20, generator(0, "t"))
    assert isinstance(model.cell, LSTM)
    outputs, _ = model.cell.fused(model.embed(batch.inputs))
    outputs.retain_grad()
    loss_per_sequence(task, model.readout(outputs), batch).sum().backward()
    assert outputs.grad is not None
    assert (outputs.grad[:-1] == 0).all()
    assert (gradient_trace(model, task, batch)["hidden"] > 0).all()
    assert isinstance(model.readout, nn.Linear)
