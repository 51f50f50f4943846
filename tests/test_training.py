"""The training loop: what it reports and when, lengths, carried states, clipping, divergence, stopping."""

from collections.abc import Mapping
from dataclasses import replace
from math import inf
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from seqmem.cells import LSTM, RNN, Cell, State
from seqmem.denormals import flush_denormal
from seqmem.evaluate import length_grid
from seqmem.measurement import Measurement
from seqmem.models.base import trainable
from seqmem.models.recurrent import SequenceModel
from seqmem.optimizers import OPTIMIZERS, adam
from seqmem.probes.base import Probe
from seqmem.randomness import ambient, generator
from seqmem.signals import Batch
from seqmem.tasks import TASKS, Pronoun, Task, Text
from seqmem.training import measuring
from seqmem.training.loop import train
from seqmem.training.plan import Diverged, Interrupted, Plan
from seqmem.training.update import clip, update
from small_models import PLAN, Memory, fresh, weights


def test_it_learns_the_pronoun_where_a_memory_is_kept():
    task, seen = Pronoun(people=4), Memory()
    with ambient(0, "weights"):
        model = SequenceModel.for_task(task, lambda d: LSTM(d, 32, seq_len=12), embed_size=16)
    plan = Plan(seq_len=12, steps=150, evaluate_every=25, trace_every=0)
    result = train(model, task, adam(trainable(model), lr=1e-2), plan, [seen])
    assert result.score > 0.99
    assert result.steps_to_solve is not None
    assert result.steps_to_solve <= 150
    solved = [step for step, kind, values in seen.rows if kind == "eval" and values["score"] >= 0.99]
    assert result.steps_to_solve == solved[0]


def test_what_is_reported_and_when():
    seen = Memory()
    result = train(*fresh(Pronoun()), PLAN, [seen], checkpoints=seen)
    assert [step for step, kind, _ in seen.rows if kind == "train"] == [5, 10, 15, 20, 25, 30]
    assert [step for step, kind, _ in seen.rows if kind == "eval"] == [0, 10, 20, 30]
    assert [step for step, _ in seen.traces] == [0, 10, 20, 30]
    assert [step for step, *_ in seen.shown] == [0, 15, 30]
    assert seen.saves == [30]
    assert seen.result is result
    assert [score.seq_len for score in result.by_length] == length_grid(Pronoun(), 12)
    assert set(result.probes["gradient"]) == {"start", "end"}
    assert set(result.probes["gradient"]["end"]) == {"state", "input", "hidden"}
    trains = [values for _, kind, values in seen.rows if kind == "train"]
    assert all(set(v) == {"loss", "learning_rate", "gradient_norm", "gradient_norm_clipped"} for v in trains)
    assert all(v["gradient_norm_clipped"] <= 1.0 + 1e-6 and v["learning_rate"] == 3e-3 for v in trains)


class InOrder(Memory):
    """Also the order in which observers are called."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[tuple[int, str]] = []

    def logged(self, step: int, kind: Literal["train", "eval"], values: Mapping[str, float]) -> None:
        super().logged(step, kind, values)
        self.said.append((step, kind))

    def measured(self, step: int, probe: Probe, measurement: Measurement) -> None:
        super().measured(step, probe, measurement)
        self.said.append((step, "trace"))

    def save(self, checkpoint: dict[str, Any]) -> None:
        super().save(checkpoint)
        self.said.append((checkpoint["progress"]["step"], "save"))


@pytest.mark.parametrize("at_once", [3, 10])
def test_traces_that_wait_are_those_of_their_own_step(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured later, several at a time, they have the bits of traces measured at once, and are reported in order."""
    monkeypatch.setattr(measuring, "_MOST_QUEUED", at_once)
    plan = replace(PLAN, steps=20, log_every=7, evaluate_every=10, trace_every=1, checkpoint_every=9)
    waiting, at_their_step = InOrder(), InOrder()
    train(*fresh(Pronoun()), plan, [waiting], checkpoints=waiting)
    train(*fresh(Pronoun()), replace(plan, log_every=1), [at_their_step], checkpoints=at_their_step)
    assert [step for step, _ in waiting.traces] == list(range(21))
    for (_, one), (_, other) in zip(waiting.traces, at_their_step.traces, strict=True):
        assert one.norms.keys() == other.norms.keys()
        assert all(np.array_equal(one.norms[name], other.norms[name]) for name in one.norms)
    assert not np.array_equal(waiting.traces[3][1].state, waiting.traces[4][1].state)
    assert [step for step, _ in waiting.said] == sorted(step for step, _ in waiting.said)
    stored = [(step, kind) for step, kind in at_their_step.said if kind != "train" or step in (7, 14, 20)]
    assert waiting.said == stored


def test_the_logged_loss_is_the_mean_since_the_last_line():
    often, seldom = Memory(), Memory()
    train(*fresh(Pronoun()), Plan(seq_len=12, steps=10, batch_size=16, log_every=1), [often])
    train(*fresh(Pronoun()), Plan(seq_len=12, steps=10, batch_size=16, log_every=5), [seldom])
    each = [values["loss"] for _, kind, values in often.rows if kind == "train"]
    means = [values["loss"] for _, kind, values in seldom.rows if kind == "train"]
    assert means == pytest.approx([np.mean(each[:5]), np.mean(each[5:])], rel=1e-7)


def test_measuring_leaves_training_bitwise_the_same():
    measured, alone = fresh(Pronoun()), fresh(Pronoun())
    train(*measured, PLAN, [Memory()])
    train(*alone, Plan(seq_len=12, steps=30, batch_size=16, log_every=30, evaluate_every=30, trace_every=0))
    assert all(torch.equal(a, b) for a, b in zip(weights(measured[0]), weights(alone[0]), strict=True))


class TwoWorlds(Pronoun):
    """Its held-out data are marked by their length in sentences: training takes 16 of them at a time."""

    drawn: ClassVar[list[tuple[bool, int]]] = []

    def held_out(self) -> "Unseen":
        return Unseen()

    def sample(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Batch:
        self.drawn.append((isinstance(self, Unseen), batch_size))
        return super().sample(batch_size, seq_len, rng)


class Unseen(TwoWorlds):
    pass


def test_training_alone_sees_what_it_trains_on():
    TwoWorlds.drawn.clear()
    plan = Plan(12, steps=3, batch_size=16, evaluate_sequences=50, evaluate_every=1, trace_sequences=7, trace_every=1)
    train(*fresh(TwoWorlds()), plan)
    assert {size for unseen, size in TwoWorlds.drawn if not unseen} == {16}
    assert {size for unseen, size in TwoWorlds.drawn if unseen} == {50, 7, 3}


def test_an_update_that_ruins_the_weights_is_noticed_at_the_last_step_too():
    with ambient(0, "weights"):
        model = SequenceModel.for_task(Pronoun(), lambda d: RNN(d, 8, nonlinearity="relu"), embed_size=8)
    seen = Memory()
    plan = Plan(12, steps=1, batch_size=16, clip_norm=None, evaluate_sequences=5, trace_every=0)
    with pytest.raises(Diverged, match=r"at step 1$"):
        train(model, Pronoun(), OPTIMIZERS["sgd"](trainable(model), lr=1e38), plan, [seen], checkpoints=seen)
    assert seen.saves == []


def test_without_clipping_gradients_are_left_alone_however_large():
    with ambient(0, "weights"):
        model = SequenceModel.for_task(Pronoun(), lambda d: RNN(d, 8), embed_size=8)
    parameters = trainable(model)
    with torch.no_grad():
        model.readout.weight.mul_(1e25)  # pyright: ignore[reportCallIssue]
    batch = Pronoun().sample(4, 12, generator(0, "t"))
    numbers, _ = update(model, Pronoun(), OPTIMIZERS["sgd"](parameters, lr=1e-30), parameters, batch, None, None)
    assert not numbers[1].isfinite()  # the norm is beyond float32, the gradients are not
    assert all(parameter.isfinite().all() for parameter in parameters)


def test_stopping_in_the_closing_evaluation_keeps_the_checkpoint():
    seen = Memory()
    answers = iter([False] * 30 + [True])
    with pytest.raises(Interrupted) as stopped:
        train(*fresh(Pronoun()), PLAN, [seen], checkpoints=seen, stop_requested=lambda: next(answers))
    assert stopped.value.step == 30
    assert seen.saves == [30]


def test_a_task_that_ends_somewhere_says_so_before_training():
    task = Text(chunks=1)
    assert task.max_seq_len is not None
    longest = length_grid(task, task.max_seq_len // 2)[-1]
    assert longest <= task.max_seq_len
    with pytest.raises(ValueError, match=r"^seq_len=\d+ is too long for task=text: at most \d+$"):
        Plan(task.max_seq_len + 1).check(task)
    Plan(task.max_seq_len).check(task)


@pytest.mark.parametrize(
    "name", ["adding", *(name for name, kind in TASKS.items() if kind.samples is not Task.samples)]
)
def test_batches_drawn_together_are_those_drawn_one_by_one(name: str):
    task = TASKS[name]()
    for batch_size, seq_len in ((3, task.min_seq_len), (5, task.min_seq_len + 57)):
        seq_len = min(seq_len, task.max_seq_len or seq_len)
        together = task.samples(batch_size, seq_len, [generator(0, "train", index) for index in range(4)])
        alone = [task.sample(batch_size, seq_len, generator(0, "train", index)) for index in range(4)]
        for one, other in zip(together, alone, strict=True):
            for value, expected in zip(vars(one).values(), vars(other).values(), strict=True):
                assert value.dtype == expected.dtype
                assert torch.equal(value, expected)
        assert not torch.equal(together[0].inputs, together[1].inputs)


def test_uniform_lengths_are_drawn_between_shortest_and_seq_len():
    lengths: list[int] = []

    class Watching(Pronoun):
        def sample(self, batch_size: int, seq_len: int, rng: torch.Generator) -> Batch:
            if batch_size == 3:
                lengths.append(seq_len)
            return super().sample(batch_size, seq_len, rng)

    plan = Plan(12, steps=60, batch_size=3, lengths="uniform", shortest=9, evaluate_sequences=5, trace_every=0)
    train(*fresh(Watching()), plan)
    assert set(lengths) == {9, 10, 11, 12}
    lengths.clear()
    train(*fresh(Watching()), Plan(9, steps=40, batch_size=3, lengths="uniform", evaluate_sequences=5, trace_every=0))
    assert set(lengths) == {7, 8, 9}


def test_the_state_is_carried_through_a_passage_and_dropped_at_its_end():
    given: list[bool] = []

    class Watching(RNN):
        def forward(self, xs: Tensor, state: State | None = None) -> tuple[Tensor, State]:
            if self.training:
                given.append(state is not None)
                assert state is None or not any(value.requires_grad for value in state.values())
            return super().forward(xs, state)

    task = Text(chunks=3)
    with ambient(0, "weights"):
        model = SequenceModel.for_task(task, lambda d: Watching(d, 8), embed_size=8)
    plan = Plan(10, steps=7, batch_size=4, evaluate_sequences=5, trace_every=0)
    train(model, task, adam(trainable(model)), plan)
    assert given == [False, True, True, False, True, True, False]


def test_chunks_of_a_passage_follow_each_other():
    task, seen = Text(chunks=2), []

    class Watching(SequenceModel):
        def forward(
            self, inputs: Tensor, state: State | None = None, *, at: slice | None = None
        ) -> tuple[Tensor, State]:
            if self.training:
                seen.append(inputs.clone())
            return super().forward(inputs, state, at=at)

    with ambient(0, "weights"):
        model = Watching.for_task(task, lambda d: RNN(d, 8), embed_size=8)
    train(model, task, adam(trainable(model)), Plan(10, steps=2, batch_size=4, evaluate_sequences=5, trace_every=0))
    passage = task.sample(4, 20, generator(0, "train", 0)).inputs
    assert torch.equal(torch.cat(seen), passage)


@pytest.mark.parametrize("most", [0.5, 1e4, None])
def test_gradients_are_clipped_as_torch_does_it(most: float | None):
    rng = torch.Generator().manual_seed(2)
    gradients = [torch.randn(size, generator=rng) for size in ((3, 4), (7,), (1,), (20, 30))]
    parameters = [torch.nn.Parameter(torch.zeros_like(gradient)) for gradient in gradients]
    for parameter, gradient in zip(parameters, gradients, strict=True):
        parameter.grad = gradient.clone()
    expected = torch.nn.utils.clip_grad_norm_(parameters, float("inf") if most is None else most)
    assert clip(gradients, most).equal(expected)
    assert all(gradient.equal(p.grad) for gradient, p in zip(gradients, parameters, strict=True) if p.grad is not None)


def test_clipping_comes_after_backward_and_bounds_the_step():
    with ambient(0, "weights"):
        model = SequenceModel.for_task(Pronoun(), lambda d: RNN(d, 8), embed_size=8)
    before, seen = weights(model), Memory()
    plan = Plan(12, steps=1, batch_size=16, clip_norm=1e-3, log_every=1, evaluate_sequences=5, trace_every=0)
    train(model, Pronoun(), OPTIMIZERS["sgd"](trainable(model), lr=1.0), plan, [seen])
    moved = torch.cat([(a - b).flatten() for a, b in zip(weights(model), before, strict=True)]).norm().item()
    row = next(values for _, kind, values in seen.rows if kind == "train")
    assert moved == pytest.approx(1e-3, rel=1e-2)
    assert row["gradient_norm"] > 0.01
    assert row["gradient_norm_clipped"] == pytest.approx(1e-3)


class Exploding(Cell):
    """Fine until the 13th forward pass in training, NaN from then on."""

    def __init__(self, input_size: int) -> None:
        super().__init__()
        self.input_size, self.output_size, self.passes = input_size, 4, 0
        self.read = torch.nn.Linear(input_size, 4)

    def initial_state(self, batch_size: int) -> State:
        return {"hidden": self.read.weight.new_zeros(batch_size, 4)}

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        hidden = self.read(x) + state["hidden"]
        return hidden, {"hidden": hidden}

    def forward(self, xs: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        outputs, final = super().forward(xs, state)
        self.passes += self.training
        return (outputs * inf if self.training and self.passes >= 13 else outputs), final


def test_a_loss_that_is_not_finite_stops_the_run_at_the_step_it_happened():
    task, seen = Pronoun(), Memory()
    model = SequenceModel.for_task(task, Exploding, embed_size=4)
    plan = Plan(8, steps=50, batch_size=4, evaluate_sequences=5, trace_every=0, checkpoint_every=5)
    with pytest.raises(Diverged, match=r"at step 13$") as stopped:
        train(model, task, adam(trainable(model)), plan, [seen], checkpoints=seen)
    assert stopped.value.step == 13
    assert seen.saves == [5, 10]  # nothing that came after is kept
    assert seen.result is None


def test_on_nan_continue_goes_on():
    task, seen = Pronoun(), Memory()
    model = SequenceModel.for_task(task, Exploding, embed_size=4)
    plan = Plan(8, steps=20, batch_size=4, evaluate_sequences=5, trace_every=0, on_nan="continue")
    train(model, task, adam(trainable(model)), plan, [seen])
    assert not np.isfinite(seen.rows[-2][2]["loss"]) or not np.isfinite(seen.rows[-1][2]["loss"])


class Dropping(RNN):
    """A cell of the kind people bring along: it draws from torch's global generator."""

    def forward(self, xs: Tensor, state: State | None = None) -> tuple[Tensor, State]:
        outputs, final = super().forward(torch.nn.functional.dropout(xs, 0.5, self.training), state)
        return outputs, final


def test_a_cell_that_draws_random_numbers_is_a_function_of_seed_and_step():
    def run(memory: Memory | None, stop_after: int) -> tuple[list[Tensor], dict[str, Any]]:
        with ambient(0, "weights"):
            model = SequenceModel.for_task(Pronoun(), lambda d: Dropping(d, 8), embed_size=8)
        plan = Plan(12, steps=stop_after, batch_size=16, evaluate_sequences=5, trace_every=0)
        optimizer = adam(trainable(model))
        train(model, Pronoun(), optimizer, plan, checkpoints=memory)
        return weights(model), {"model": model.state_dict(), "optimizer": optimizer.state_dict()}

    whole, _ = run(None, 12)
    _, half = run(None, 6)
    torch.rand(7)  # whatever else happens in between
    resumed = Memory()
    resumed.saved = {**half, "progress": {"step": 6}}
    resumed.load = lambda: resumed.saved  # pyright: ignore[reportAttributeAccessIssue]
    rest, _ = run(resumed, 12)
    assert all(torch.equal(a, b) for a, b in zip(whole, rest, strict=True))


def test_being_asked_to_stop_saves_after_the_step():
    seen, answers = Memory(), iter([False, False, True])
    with pytest.raises(Interrupted) as stopped:
        train(*fresh(Pronoun()), PLAN, [seen], checkpoints=seen, stop_requested=lambda: next(answers))
    assert stopped.value.step == 3
    assert seen.saves == [3]


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (Plan(5), "seq_len=5 is too short for task=pronoun: at least 7"),
        (Plan(10, steps=0), "steps=0: must be at least 1"),
        (Plan(10, batch_size=0), "batch_size=0: must be at least 1"),
        (Plan(10, trace_every=-1), "trace_every=-1: must be at least 1, or 0"),
        (Plan(10, clip_norm=0.0), "clip_norm=0.0: must be positive"),
        (Plan(10, clip_norm=float("nan")), "clip_norm=nan: must be positive"),
        (Plan(10, tbptt=0), "tbptt=0: must be at least 1 timestep, or null"),
        (Plan(10, checkpoint_every_t=0), "checkpoint_every_t=0: must be at least 1 timestep, or null"),
        (Plan(10, precision="half"), "precision=half: must be one of float32, bf16, tf32"),
        (Plan(10, precision="tf32"), "precision=tf32: only CUDA devices have it"),
        (Plan(10, compile=True, checkpoint_every_t=2), "checkpoint_every_t=2: does not go with compile=true"),
        (Plan(10, on_nan="contineu"), "on_nan=contineu: must be 'stop' or 'continue'"),
        (Plan(10, trace_loss="lst"), "trace_loss=lst: must be 'last' or 'all'"),
        (Plan(10, lengths="some"), "lengths=some: must be one of fixed, uniform, mixed"),
        (Plan(10, shortest=11), "shortest=11: must be from 7"),
        (Plan(10, shortest=6), "shortest=6: must be from 7"),
        (Plan(10, evaluate_lengths=(10, 3)), "3 is too short"),
    ],
)
def test_a_plan_that_cannot_be_is_refused_before_anything_happens(plan: Plan, message: str):
    seen = Memory()
    with pytest.raises(ValueError) as refused:  # noqa: PT011  looked at below
        train(*fresh(Pronoun()), plan, [seen])
    assert message in str(refused.value)
    assert not seen.rows


def test_flushing_denormals_is_undone():
    tiny = torch.tensor(1e-310, dtype=torch.float64)
    assert (tiny * 1.0 > 0).item()
    with flush_denormal(on=True):
        assert (tiny * 1.0 == 0).item()
        with flush_denormal(on=False):
            assert (tiny * 1.0 > 0).item()
        assert (tiny * 1.0 == 0).item()
    assert (tiny * 1.0 > 0).item()
