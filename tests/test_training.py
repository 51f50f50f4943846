"""The training loop, the model around a cell, evaluation, optimizers and randomness."""

import subprocess
import sys
from collections.abc import Mapping
from math import inf, log
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch
from torch import Tensor

from seqmem.cells import CELLS, GRU, LSTM, RNN, Cell, State
from seqmem.evaluate import evaluate, length_grid
from seqmem.model import (
    SequenceModel,
    hidden_size_for,
    loss_per_sequence,
    parameter_count,
    score_per_sequence,
    trainable,
)
from seqmem.optimizers import OPTIMIZERS, adam
from seqmem.randomness import _seeded, ambient, generator
from seqmem.signals import Batch
from seqmem.tasks import TASKS, Copy, Pronoun, Subject, Task, Text
from seqmem.trace import Decay, Trace
from seqmem.training import Diverged, Interrupted, Plan, Result, flush_denormal, train, update


class Memory:
    """An observer that keeps everything, and a checkpoint in memory."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, str, dict[str, float]]] = []
        self.traces: list[tuple[int, Trace]] = []
        self.shown: list[tuple[int, Batch, Tensor]] = []
        self.result: Result | None = None
        self.saved: dict[str, Any] | None = None
        self.saves: list[int] = []

    def logged(self, step: int, kind: Literal["train", "eval"], values: Mapping[str, float]) -> None:
        self.rows.append((step, kind, dict(values)))

    def traced(self, step: int, trace: Trace, decays: Mapping[str, Decay]) -> None:
        self.traces.append((step, trace))

    def answered(self, step: int, batch: Batch, predicted: Tensor) -> None:
        self.shown.append((step, batch, predicted))

    def finished(self, step: int, result: Result) -> None:
        self.result = result

    def save(self, checkpoint: dict[str, Any]) -> None:
        self.saves.append(checkpoint["progress"]["step"])

    def load(self) -> dict[str, Any] | None:
        return None


def fresh(task: Task, seed: int = 0) -> tuple[SequenceModel, Task, torch.optim.Optimizer]:
    with ambient(seed, "weights"):
        model = SequenceModel.for_task(task, lambda d: GRU(d, 12, seq_len=12), embed_size=8)
    return model, task, adam(trainable(model), lr=3e-3)


PLAN = Plan(seq_len=12, steps=30, batch_size=16, log_every=5, evaluate_every=10, evaluate_sequences=50, trace_every=10)


def weights(model: SequenceModel) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in model.parameters()]


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
    assert [step for step, *_ in seen.shown] == [0, 30]
    assert seen.saves == [30]
    assert seen.result is result
    assert [found.seq_len for found in result.by_length] == length_grid(Pronoun(), 12)
    assert set(result.decays) == {"start", "end"}
    assert set(result.decays["end"]) == {"state", "input", "hidden"}
    trains = [values for _, kind, values in seen.rows if kind == "train"]
    assert all(set(v) == {"loss", "learning_rate", "gradient_norm", "gradient_norm_clipped"} for v in trains)
    assert all(v["gradient_norm_clipped"] <= 1.0 + 1e-6 and v["learning_rate"] == 3e-3 for v in trains)


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


def test_global_randomness_is_neither_used_nor_touched():
    """Python's own ``random`` is left out: the type checker of these tests draws from it."""
    first = fresh(Pronoun())
    train(*first, PLAN)
    torch.manual_seed(123)
    np.random.seed(1)
    before = torch.get_rng_state(), np.random.random_sample(3)
    np.random.seed(1)
    second = fresh(Pronoun())
    train(*second, PLAN)
    assert torch.equal(before[0], torch.get_rng_state())
    assert (before[1] == np.random.random_sample(3)).all()
    assert all(torch.equal(a, b) for a, b in zip(weights(first[0]), weights(second[0]), strict=True))


def test_another_seed_is_another_run():
    first, second = fresh(Pronoun(), 0), fresh(Pronoun(), 1)
    assert not torch.equal(weights(first[0])[0], weights(second[0])[0])


def test_streams_of_one_seed_never_meet():
    drawn = {
        tuple(torch.rand(4, generator=generator(seed, stream, index)).tolist())
        for seed in range(3)
        for stream in ("train", "eval", "validate", "trace", "show", "weights")
        for index in range(5)
    }
    assert len(drawn) == 3 * 6 * 5


def test_all_128_bits_of_a_seed_count():
    """manual_seed heeds 32 of them: streams would meet after some ten thousand batches."""
    first, second = torch.Generator(), torch.Generator()
    seeds = (5, 5 + 2**40)
    assert torch.equal(
        torch.rand(3, generator=first.manual_seed(5)), torch.rand(3, generator=second.manual_seed(seeds[1]))
    )
    drawn = [torch.rand(3, generator=_seeded(torch.Generator(), seed)) for seed in (*seeds, 5 + 2**100)]
    assert len({tuple(values.tolist()) for values in drawn}) == 3
    many = torch.rand(100_000, generator=_seeded(torch.Generator(), 7))
    assert many.mean().item() == pytest.approx(0.5, abs=0.005)
    assert many.std().item() == pytest.approx(12**-0.5, abs=0.005)


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
    assert {size for unseen, size in TwoWorlds.drawn if unseen} == {50, 7, 5}


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
    asked = iter([False] * 30 + [True])
    with pytest.raises(Interrupted) as stopped:
        train(*fresh(Pronoun()), PLAN, [seen], checkpoints=seen, stop_requested=lambda: next(asked))
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
        def forward(self, inputs: Tensor, state: State | None = None) -> tuple[Tensor, State]:
            if self.training:
                seen.append(inputs.clone())
            return super().forward(inputs, state)

    with ambient(0, "weights"):
        model = Watching.for_task(task, lambda d: RNN(d, 8), embed_size=8)
    train(model, task, adam(trainable(model)), Plan(10, steps=2, batch_size=4, evaluate_sequences=5, trace_every=0))
    passage = task.sample(4, 20, generator(0, "train", 0)).inputs
    assert torch.equal(torch.cat(seen), passage)


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
    seen, asked = Memory(), iter([False, False, True])
    with pytest.raises(Interrupted) as stopped:
        train(*fresh(Pronoun()), PLAN, [seen], checkpoints=seen, stop_requested=lambda: next(asked))
    assert stopped.value.step == 3
    assert seen.saves == [3]


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (Plan(5), "seq_len=5 is too short for task=pronoun: at least 7"),
        (Plan(10, steps=0), "steps=0: must be at least 1"),
        (Plan(10, batch_size=0), "batch_size=0: must be at least 1"),
        (Plan(10, trace_every=-1), "trace_every=-1: must be at least 1, or 0"),
        (Plan(10, clip_norm=0.0), "clip_norm=0.0: must be positive"),
        (Plan(10, clip_norm=float("nan")), "clip_norm=nan: must be positive"),
        (Plan(10, on_nan="contineu"), "on_nan=contineu: must be 'stop' or 'continue'"),
        (Plan(10, trace_loss="lst"), "trace_loss=lst: must be 'last' or 'all'"),
        (Plan(10, lengths="some"), "lengths=some: must be 'fixed' or 'uniform'"),
        (Plan(10, shortest=11), "shortest=11: must be from 7"),
        (Plan(10, shortest=6), "shortest=6: must be from 7"),
        (Plan(10, evaluate_lengths=(10, 3)), "3 is too short"),
    ],
)
def test_a_plan_that_cannot_be_is_refused_before_anything_happens(plan: Plan, said: str):
    seen = Memory()
    with pytest.raises(ValueError) as refused:  # noqa: PT011  looked at below
        train(*fresh(Pronoun()), plan, [seen])
    assert said in str(refused.value)
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


# The model


def test_the_loss_and_score_of_a_sequence_are_weighted_means_of_its_timesteps():
    task = Copy(symbols=3, length=2)
    batch = task.sample(4, 8, generator(0, "t"))
    predicted = torch.randn(8, 4, task.targets.size, generator=generator(0, "p"))
    logs = predicted.log_softmax(-1)
    by_hand = [-np.mean([logs[t, b, batch.targets[t, b]].item() for t in range(8)]) for b in range(4)]
    assert loss_per_sequence(task, predicted, batch).tolist() == pytest.approx(by_hand, rel=1e-5)
    right = [np.mean([predicted[t, b].argmax() == batch.targets[t, b] for t in (6, 7)]) for b in range(4)]
    assert score_per_sequence(task, predicted, batch).tolist() == pytest.approx(right)


@pytest.mark.parametrize("params", [2_000, 10_000, 50_000])
@pytest.mark.parametrize("kind", [RNN, LSTM, GRU])
def test_params_picks_the_closest_hidden_size(kind: type[Cell], params: int):
    def build(hidden: int) -> SequenceModel:
        options = {} if kind is RNN else {"forget_bias": 1.0}
        return SequenceModel.for_task(Subject(), lambda d: kind(d, hidden, **options), embed_size=8)  # pyright: ignore

    hidden = hidden_size_for(params, build)
    off = {size: abs(parameter_count(build(size)) - params) for size in (hidden - 1, hidden, hidden + 1) if size > 0}
    assert min(off, key=lambda size: off[size]) == hidden


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
@pytest.mark.parametrize("task", TASKS)
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
    numbers, state = update(model, asked, optimizer, parameters, batch, state, None)
    predicted, _ = model(batch.inputs)
    tensors = [numbers, score_per_sequence(asked, predicted, batch), batch.answered_at, *state.values()]
    tensors += [batch.last_answer_only().weights, *(p.grad for p in parameters if p.grad is not None)]
    assert {tensor.device.type for tensor in tensors} == {"meta"}


# Evaluation


def test_evaluation_is_the_mean_over_held_out_sequences_and_repeats_itself():
    model, task, _ = fresh(Pronoun())
    first, again = (evaluate(model, task, 15, seed=3, sequences=200) for _ in range(2))
    assert first == again
    batch = task.sample(200, 15, generator(3, "eval", 15))
    predicted, _ = model(batch.inputs)
    assert first.loss == pytest.approx(loss_per_sequence(task, predicted, batch).mean().item(), rel=1e-5)
    assert first.score == pytest.approx((predicted[-1].argmax(-1) == batch.targets[-1]).float().mean().item(), abs=1e-6)
    assert evaluate(model, task, 15, seed=4, sequences=200) != first


def test_an_untrained_model_is_near_chance_and_a_constant_one_at_it():
    task = Pronoun()
    model, _, _ = fresh(task)
    assert evaluate(model, task, 20, seed=0, sequences=2000).score < task.chance + 0.05
    assert task.baseline_loss(20) == pytest.approx(log(4))


def test_evaluation_leaves_the_model_in_its_mode():
    model, task, _ = fresh(Pronoun())
    for mode in (True, False):
        model.train(mode)
        evaluate(model, task, 8, seed=0, sequences=5)
        assert model.training is mode


@pytest.mark.parametrize(
    ("seq_len", "grid"), [(50, [7, 12, 25, 50, 100, 200]), (10, [7, 10, 20, 40]), (7, [7, 14, 28])]
)
def test_the_grid_goes_from_the_shortest_to_four_times_the_length(seq_len: int, grid: list[int]):
    assert length_grid(Pronoun(), seq_len) == grid


# Optimizers


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_every_optimizer_descends(name: str):
    point = torch.nn.Parameter(torch.tensor([3.0, -2.0]))
    optimizer = OPTIMIZERS[name]([point], lr=0.05)
    for _ in range(200):
        optimizer.zero_grad()
        point.square().sum().backward()
        optimizer.step()
    assert point.detach().norm().item() < 0.3


@pytest.mark.parametrize("lr", [0.0, -1.0, float("nan")])
@pytest.mark.parametrize("name", OPTIMIZERS)
def test_a_learning_rate_must_be_positive(name: str, lr: float):
    with pytest.raises(ValueError, match=r"^lr=.*: must be positive$"):
        OPTIMIZERS[name]([torch.nn.Parameter(torch.zeros(1))], lr=lr)


@pytest.mark.parametrize(
    ("name", "options", "theirs"),
    [
        ("adam", {"weight_decay": 0.1}, torch.optim.Adam),
        ("adamw", {"weight_decay": 0.1}, torch.optim.AdamW),
        ("rmsprop", {"momentum": 0.5, "alpha": 0.8}, torch.optim.RMSprop),
        ("sgd", {"momentum": 0.5, "nesterov": True}, torch.optim.SGD),
    ],
)
def test_every_optimizer_is_torchs_own_step_for_step(name: str, options: dict[str, Any], theirs: Any):
    def points() -> list[torch.nn.Parameter]:
        return [torch.nn.Parameter(torch.randn(5, generator=generator(0, "p", i))) for i in range(2)]

    ours, twins = points(), points()
    mine, other = OPTIMIZERS[name](ours, lr=0.01, **options), theirs(twins, lr=0.01, **options)
    for step in range(20):
        if step == 10:  # through a saved state
            state, mine = mine.state_dict(), OPTIMIZERS[name](ours, lr=0.5)
            mine.load_state_dict(state)
        for parameters, optimizer in ((ours, mine), (twins, other)):
            optimizer.zero_grad()
            sum(p.pow(4).sum() for p in parameters).backward()  # pyright: ignore[reportAttributeAccessIssue]
            optimizer.step()
    torch.testing.assert_close(ours, twins, rtol=1e-6, atol=1e-7)


def test_no_optimizer_imports_torchs_compiler():
    """It would cost every run four seconds before its first step."""
    code = (
        "import sys, torch; from seqmem.optimizers import OPTIMIZERS\n"
        "for make in OPTIMIZERS.values():\n"
        "    p = torch.nn.Parameter(torch.ones(2)); o = make([p]); p.sum().backward(); o.step(); o.zero_grad()\n"
        "    o.load_state_dict(o.state_dict())\n"
        "    assert not torch.equal(p.detach(), torch.ones(2))\n"
        "print('torch._dynamo' in sys.modules)"
    )
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert found.stdout == "False\n"
