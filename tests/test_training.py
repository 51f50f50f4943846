"""The training loop, the model around a cell, evaluation, optimizers and randomness."""

import json
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from math import inf, log
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np
import pytest
import torch
from hydra import compose
from torch import Tensor

from commandline import TINY, Said, runs_below
from seqmem.cells import CELLS, GRU, LSTM, RNN, Cell, Stack, State
from seqmem.cells.recompute import recomputed
from seqmem.cli.config.schema import LATER, Precision, TrainConfig, from_mapping, identity, own_hydra
from seqmem.decay import Decay, Trace
from seqmem.evaluate import evaluate, length_grid
from seqmem.models.base import hidden_size_for, loss_per_sequence, parameter_count, score_per_sequence, trainable
from seqmem.models.recurrent import SequenceModel
from seqmem.optimizers import OPTIMIZERS, _uncompiled, adam
from seqmem.randomness import _seeded, ambient, generator
from seqmem.signals import Batch
from seqmem.tasks import TASKS, Adding, Copy, Pronoun, Subject, Task, Text
from seqmem.training import loop as training
from seqmem.training.loop import (
    CannotCompile,
    Diverged,
    Interrupted,
    Plan,
    Result,
    check_precision,
    flush_denormal,
    segments,
    train,
    update,
)


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
    assert [step for step, *_ in seen.shown] == [0, 15, 30]
    assert seen.saves == [30]
    assert seen.result is result
    assert [found.seq_len for found in result.by_length] == length_grid(Pronoun(), 12)
    assert set(result.decays) == {"start", "end"}
    assert set(result.decays["end"]) == {"state", "input", "hidden"}
    trains = [values for _, kind, values in seen.rows if kind == "train"]
    assert all(set(v) == {"loss", "learning_rate", "gradient_norm", "gradient_norm_clipped"} for v in trains)
    assert all(v["gradient_norm_clipped"] <= 1.0 + 1e-6 and v["learning_rate"] == 3e-3 for v in trains)


class InOrder(Memory):
    """Also the order in which things are said."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[tuple[int, str]] = []

    def logged(self, step: int, kind: Literal["train", "eval"], values: Mapping[str, float]) -> None:
        super().logged(step, kind, values)
        self.said.append((step, kind))

    def traced(self, step: int, trace: Trace, decays: Mapping[str, Decay]) -> None:
        super().traced(step, trace, decays)
        self.said.append((step, "trace"))

    def save(self, checkpoint: dict[str, Any]) -> None:
        super().save(checkpoint)
        self.said.append((checkpoint["progress"]["step"], "save"))


@pytest.mark.parametrize("at_once", [3, 10])
def test_traces_that_wait_are_those_of_their_own_step(at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Measured later, several in a row, they are bitwise what is measured at once; nothing is said before its turn."""
    monkeypatch.setattr(training, "_TRACED_AT_ONCE", at_once)
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
    kept = [(step, kind) for step, kind in at_their_step.said if kind != "train" or step in (7, 14, 20)]
    assert waiting.said == kept


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
            for value, wanted in zip(vars(one).values(), vars(other).values(), strict=True):
                assert value.dtype == wanted.dtype
                assert torch.equal(value, wanted)
        assert not torch.equal(together[0].inputs, together[1].inputs)


@pytest.mark.parametrize(("ours", "torchs"), [("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)])
def test_an_update_in_one_call_is_torchs(ours: str, torchs: type[torch.optim.Adam]):
    """Bit for bit, also where a parameter has no gradient, where types differ, and after loading a state."""
    settings: dict[str, Any] = {"lr": 0.01, "betas": (0.8, 0.9), "eps": 1e-6, "weight_decay": 0.1}
    plain = _uncompiled(torchs)  # or torch would import its compiler: seconds
    for dtypes in ((torch.float32, torch.float32, torch.float32), (torch.float32, torch.float64, torch.float32)):
        sides = []
        for make in (OPTIMIZERS[ours], partial(plain, fused=True)):
            parameters = [
                torch.nn.Parameter(torch.randn(5, 3, generator=generator(0, "start", i)).to(dtype))
                for i, dtype in enumerate(dtypes)
            ]
            optimizer = make(parameters, **settings)
            for step in range(6):
                if step == 3:
                    state = optimizer.state_dict()
                    optimizer = make(parameters, **settings)
                    optimizer.load_state_dict(state)
                for i, parameter in enumerate(parameters):
                    drawn = torch.randn(5, 3, generator=generator(step, "gradient", i)).to(parameter.dtype)
                    parameter.grad = None if i == 2 and step % 2 else drawn
                optimizer.step()
            sides.append((parameters, optimizer.state_dict()))
        (mine, my_state), (theirs, their_state) = sides
        assert all(torch.equal(a, b) for a, b in zip(mine, theirs, strict=True))
        torch.testing.assert_close(my_state["state"], their_state["state"], rtol=0, atol=0)
        assert float(my_state["state"][0]["step"]) == 6


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
    assert training._clip(gradients, most).equal(expected)
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
        (Plan(10, tbptt=0), "tbptt=0: must be at least 1 timestep, or null"),
        (Plan(10, checkpoint_every_t=0), "checkpoint_every_t=0: must be at least 1 timestep, or null"),
        (Plan(10, precision="half"), "precision=half: must be one of float32, bf16, tf32"),
        (Plan(10, precision="tf32"), "precision=tf32: only CUDA devices have it"),
        (Plan(10, compile=True, checkpoint_every_t=2), "checkpoint_every_t=2: does not go with compile=true"),
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


# Truncated backpropagation


class Noisy(Cell):
    """Drops out in every step, and carries a clock that nothing is differentiated through."""

    def __init__(self, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.input_size, self.output_size = input_size, hidden_size
        self.read, self.keep = torch.nn.Linear(input_size, hidden_size), torch.nn.Linear(hidden_size, hidden_size)

    def initial_state(self, batch_size: int) -> State:
        zeros = self.read.weight.new_zeros(batch_size, self.output_size)
        return {"hidden": zeros, "clock": torch.zeros(batch_size, dtype=torch.int64)}

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        dropped = torch.nn.functional.dropout(state["hidden"], 0.3, self.training)
        new = (self.read(x) + self.keep(dropped) + 0.1 * state["clock"][:, None]).tanh()
        hidden = 0.5 * state["hidden"] + 0.5 * new
        return hidden, {"hidden": hidden, "clock": state["clock"] + 1}


MAKERS: dict[str, Any] = {
    "rnn": lambda d: RNN(d, 6),
    "lstm": lambda d: LSTM(d, 6, forget_bias=1.0),
    "gru": lambda d: GRU(d, 6, forget_bias=1.0),
    "gru cho": lambda d: GRU(d, 6, form="cho", forget_bias=1.0),
    "stack": lambda d: Stack([LSTM(d, 6, seq_len=9), Noisy(6, 5), GRU(5, 4, form="cho", forget_bias=1.0)]),
    "custom": lambda d: Noisy(d, 6),
}


def after_one_update(
    cell: str, task: Task, batch: Batch, state: State | None = None, *, every: int | None = None, **options: Any
) -> tuple[Tensor, list[Tensor], State]:
    """([loss, norm, clipped norm], gradients, final state) of a fresh model, in float64."""
    with ambient(0, "weights"):
        model = SequenceModel.for_task(task, MAKERS[cell], embed_size=5).double()
    model.checkpoint(every)
    parameters = trainable(model)
    optimizer = torch.optim.SGD(parameters, lr=0.1)
    with ambient(0, "noise"):
        numbers, final = update(model, task, optimizer, parameters, batch, state, None, **options)
    return numbers, [p.grad for p in parameters if p.grad is not None], final


TBPTT_TASKS: dict[str, tuple[Task, int]] = {
    "text": (Text(chunks=2), 11),
    "pronoun": (Pronoun(), 11),
    "copy": (Copy(symbols=3, length=3), 11),
    "hs97": (Adding(variant="hs97"), 20),
}


def a_batch(name: str) -> tuple[Task, Batch]:
    task, seq_len = TBPTT_TASKS[name]
    return task, task.sample(5, seq_len, generator(0, "t")).to("cpu", torch.float64)


@pytest.mark.parametrize("cell", MAKERS)
@pytest.mark.parametrize("name", TBPTT_TASKS)
def test_a_segment_as_long_as_the_batch_changes_nothing(cell: str, name: str):
    task, batch = a_batch(name)
    whole = after_one_update(cell, task, batch)
    for k in (len(batch.weights), 1000):
        cut = after_one_update(cell, task, batch, tbptt=k)
        assert torch.equal(whole[0], cut[0])
        assert all(torch.equal(a, b) for a, b in zip(whole[1], cut[1], strict=True))
        assert all(torch.equal(whole[2][key], cut[2][key]) for key in whole[2])


@pytest.mark.parametrize("k", [1, 3, 4, 10])
@pytest.mark.parametrize("cell", MAKERS)
@pytest.mark.parametrize("name", TBPTT_TASKS)
def test_truncated_gradients_are_those_of_steps_that_are_detached(cell: str, name: str, k: int):
    """The reference: one loop over timesteps, one loss over all of them, cut by detach alone."""
    task, batch = a_batch(name)
    with ambient(0, "weights"):
        model = SequenceModel.for_task(task, MAKERS[cell], embed_size=5).double()
    start = {key: value + 0.1 if value.is_floating_point() else value
             for key, value in model.cell.initial_state(5).items()}  # fmt: skip
    numbers, gradients, final = after_one_update(cell, task, batch, start, tbptt=k, weighted=batch.weighted)
    state, predicted = start, []
    with ambient(0, "noise"):
        for first in range(0, len(batch.weights), k):
            state = {key: value.detach() for key, value in state.items()}
            outputs, state = model.cell(model.embed(batch.inputs[first : first + k]), state)
            predicted.append(model.readout(outputs))
    loss = loss_per_sequence(task, torch.cat(predicted), batch).mean()
    expected = torch.autograd.grad(loss, trainable(model), materialize_grads=True)
    torch.testing.assert_close(gradients, list(expected), rtol=1e-10, atol=1e-13)
    torch.testing.assert_close(numbers[0], loss.detach(), rtol=1e-12, atol=0)
    # Tokens that are looked up and tokens that are multiplied differ in their last bits.
    torch.testing.assert_close(final, {key: value.detach() for key, value in state.items()}, rtol=1e-13, atol=1e-15)
    assert not any(value.requires_grad for value in final.values())


def test_no_gradient_crosses_the_border_of_a_segment():
    """What is answered at the end and was read before the last segment cannot be learned from."""
    task, batch = a_batch("pronoun")

    def touched(k: int | None) -> set[int]:
        *_, (embedding, *_), _ = after_one_update("lstm", task, batch, tbptt=k, weighted=batch.weighted)
        return set(embedding.abs().sum(1).nonzero()[:, 0].tolist())

    assert touched(None) == set(batch.inputs.unique().tolist())
    assert touched(4) == set(batch.inputs[8:].unique().tolist())  # segments 0-4, 4-8, 8-11


def test_segments_tell_what_of_them_counts():
    assert list(segments(10, 4, slice(5, 9))) == [(0, 4, slice(0, 0)), (4, 8, slice(1, 4)), (8, 10, slice(0, 1))]
    assert list(segments(10, None, slice(9, 10))) == [(0, 10, slice(9, 10))]
    assert list(segments(4, 2, None)) == [(0, 2, slice(0, 2)), (2, 4, slice(0, 2))]


def test_timesteps_without_weight_are_left_out_of_the_readout_and_change_nothing():
    for name in ("pronoun", "hs97", "copy", "text"):
        task, batch = a_batch(name)
        weighted = batch.weighted
        assert not batch.weights[: weighted.start].any()
        assert not batch.weights[weighted.stop :].any()
        assert batch.weights[weighted.start].any()
        assert batch.weights[weighted.stop - 1].any()
        whole, part = after_one_update("lstm", task, batch), after_one_update("lstm", task, batch, weighted=weighted)
        torch.testing.assert_close(whole[:2], part[:2], rtol=1e-12, atol=1e-15)
    seen: list[tuple[int, ...]] = []

    class Watching(torch.nn.Linear):
        def forward(self, outputs: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
            seen.append(tuple(outputs.shape[:2]))
            return super().forward(outputs)

    model, task, _ = fresh(Pronoun())
    model.readout = Watching(12, task.targets.size)
    parameters = trainable(model)
    train(model, task, torch.optim.SGD(parameters), Plan(12, steps=2, batch_size=16, evaluate_sequences=5))
    assert seen.count((1, 16)) == 2
    assert (12, 16) not in seen


def test_truncation_goes_with_carried_states_and_uniform_lengths():
    """The same steps with and without, as long as no segment is shorter than a batch; others where one is."""

    def run(task: Task, **options: Any) -> list[Tensor]:
        model, _, optimizer = fresh(task)
        train(model, task, optimizer, Plan(12, steps=6, batch_size=8, evaluate_sequences=5, trace_every=0, **options))
        return weights(model)

    for task, options in ((Text(chunks=3), {}), (Pronoun(), {"lengths": "uniform"})):
        whole, same, cut = (run(task, tbptt=k, **options) for k in (None, 12, 5))
        assert all(torch.equal(a, b) for a, b in zip(whole, same, strict=True))
        assert not all(torch.equal(a, b) for a, b in zip(whole, cut, strict=True))
        assert all(values.isfinite().all() for values in cut)


# Computing again instead of keeping


@pytest.mark.parametrize("every", [1, 4, 11, 100])
@pytest.mark.parametrize("cell", MAKERS)
def test_computing_again_gives_the_same_gradients(cell: str, every: int):
    """Bitwise for a cell that is its steps, noise included; a fused layer adds up its gradients in another order."""
    for name in ("text", "pronoun"):
        task, batch = a_batch(name)
        whole, again = after_one_update(cell, task, batch), after_one_update(cell, task, batch, every=every)
        if cell == "custom":
            assert torch.equal(whole[0], again[0])
            assert all(torch.equal(a, b) for a, b in zip(whole[1], again[1], strict=True))
        torch.testing.assert_close(whole, again, rtol=1e-11, atol=1e-14)


def test_computing_again_goes_with_truncation_and_leaves_the_generator_where_it_was():
    task, batch = a_batch("text")
    whole, again = (after_one_update("custom", task, batch, every=every, tbptt=5) for every in (None, 2))
    assert all(torch.equal(a, b) for a, b in zip(whole[1], again[1], strict=True))
    runs = []
    for every in (None, 3):
        with ambient(0, "weights"):
            model = SequenceModel.for_task(Pronoun(), lambda d: Noisy(d, 6), embed_size=5)
        plan = Plan(12, steps=5, batch_size=8, evaluate_sequences=5, trace_every=0, checkpoint_every_t=every)
        train(model, Pronoun(), adam(trainable(model)), plan)
        runs.append(weights(model))
    assert all(torch.equal(a, b) for a, b in zip(*runs, strict=True))


class InPlace(Noisy):
    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        state["clock"].add_(1)
        return super().step(x, state)


class Counting(Noisy):
    steps_taken = 0

    def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
        self.steps_taken += 1
        return super().step(x.relu() if self.steps_taken % 2 else x, state)


@pytest.mark.parametrize(
    ("kind", "said"), [(InPlace, "changes its input or its state in place"), (Counting, "does something else when")]
)
def test_a_cell_that_cannot_be_computed_again_is_told_so(kind: type[Cell], said: str):
    with ambient(0, "weights"):
        model = SequenceModel.for_task(Pronoun(), lambda d: kind(d, 6), embed_size=5)  # pyright: ignore[reportCallIssue]
    plan = Plan(11, steps=1, batch_size=4, evaluate_sequences=5, trace_every=0, checkpoint_every_t=3)
    with pytest.raises(RuntimeError, match=f"^checkpoint_every_t: the cell {said}"):
        train(model, Pronoun(), adam(trainable(model)), plan)


def test_gradients_of_gradients_are_refused_where_steps_are_left_out():
    cell = Noisy(3, 4).eval()
    xs = torch.randn(6, 2, 3, generator=generator(0, "x")).requires_grad_()
    outputs, _ = recomputed(cell, xs, None, 2)
    with pytest.raises(RuntimeError, match="gradients of gradients"):
        torch.autograd.grad(outputs.sum(), xs, create_graph=True)


MEMORY = """\
import resource, sys, torch
from seqmem.cells import GRU
from seqmem.cells.fused import use_kernel
from seqmem.models.base import trainable
from seqmem.models.recurrent import SequenceModel
from seqmem.optimizers import OPTIMIZERS
from seqmem.tasks import TASKS
from seqmem.training.loop import update
torch.set_num_threads(1)
task = TASKS["text"](chunks=1)
batch = task.sample(64, 500, torch.Generator().manual_seed(0))
model = SequenceModel.for_task(task, lambda d: GRU(d, 128, form="cho", forget_bias=1.0), embed_size=4)
use_kernel(model, "step")
parameters = trainable(model)
optimizer = OPTIMIZERS["sgd"](parameters, lr=1e-6)
peaks = []
for every, tbptt in ((None, 25), (25, None), (None, None)):  # from the least on: what is seen is the peak
    model.checkpoint(every)
    update(model, task, optimizer, parameters, batch, None, None, tbptt=tbptt)
    peaks.append(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 if sys.platform != "darwin" else 1024))
assert "torch._dynamo" not in sys.modules, "torch's compiler takes seconds to import"
print(*peaks)
"""


def test_both_take_less_memory():
    """In MB: the states and gates of a whole sequence are some 200, 20 times those of a segment."""
    # A shell in between, as a process inherits the peak of the one that starts it: here pytest's own.
    command = ["sh", "-c", '"$0" -c "$1"; exit $?', sys.executable, MEMORY]
    found = subprocess.run(command, capture_output=True, text=True, check=True)
    truncated, again, whole = (float(number) / 1024 for number in found.stdout.split())
    assert truncated < whole - 60
    assert again < whole - 60


# Precision and compilation


def test_bf16_trains_in_half_precision_and_keeps_the_weights_in_float32():
    """Measured at the step, on the CPU's autocast: bf16 enters the readout, float32 comes out of the optimizer."""
    seen: list[torch.dtype] = []

    class Watching(torch.nn.Linear):
        def forward(self, outputs: Tensor) -> Tensor:  # pyright: ignore[reportIncompatibleMethodOverride]
            predicted = super().forward(outputs)
            seen.append(predicted.dtype)
            return predicted

    ends: dict[str, list[Tensor]] = {}
    results: dict[str, Result] = {}
    for precision in ("float32", "bf16"):
        with ambient(0, "weights"):
            model = SequenceModel.for_task(Text(chunks=2), lambda d: Noisy(d, 12), embed_size=8)
            model.readout = Watching(12, Text().targets.size)
        seen.clear()
        plan = Plan(12, steps=20, batch_size=16, evaluate_sequences=50, trace_every=20, precision=precision, tbptt=5)
        results[precision] = train(model, Text(chunks=2), adam(trainable(model)), plan)
        ends[precision] = weights(model)
        assert seen.count(torch.bfloat16) == (60 if precision == "bf16" else 0)  # three segments an update
        assert torch.float32 in seen  # evaluation
        assert all(values.dtype == torch.float32 and values.isfinite().all() for values in ends[precision])
    assert not all(torch.equal(a, b) for a, b in zip(ends["float32"], ends["bf16"], strict=True))
    assert results["bf16"].loss == pytest.approx(results["float32"].loss, rel=0.02)


@pytest.mark.parametrize("cell", MAKERS)
def test_every_cell_trains_in_bf16_whole_in_segments_and_computed_again(cell: str):
    task = Text(chunks=2)
    found = []
    usual = Plan(11, steps=3, batch_size=5, evaluate_sequences=5, trace_every=0, precision="bf16")
    for plan in (usual, replace(usual, tbptt=5), replace(usual, checkpoint_every_t=4)):
        with ambient(0, "weights"):
            model = SequenceModel.for_task(task, MAKERS[cell], embed_size=5)
        found.append(train(model, task, adam(trainable(model)), plan).loss)
    assert found == pytest.approx([found[0]] * 3, rel=0.02)


def test_computing_again_sees_the_same_precision():
    """The backward pass runs outside of autocast; what it computes again does not."""
    task, seen = Text(chunks=2), []

    class Watching(Noisy):
        def step(self, x: Tensor, state: State) -> tuple[Tensor, State]:
            seen.append(self.read(x).dtype)
            return super().step(x, state)

    with ambient(0, "weights"):
        model = SequenceModel.for_task(task, lambda d: Watching(d, 6), embed_size=5)
    model.checkpoint(3)
    parameters = trainable(model)
    batch = task.sample(4, 9, generator(0, "t"))
    update(model, task, torch.optim.SGD(parameters), parameters, batch, None, None, precision="bf16")
    assert seen == [torch.bfloat16] * 18


def test_tf32_is_on_during_an_update_alone_and_for_cuda_alone():
    def switches() -> tuple[bool, bool]:
        return bool(torch.backends.cuda.matmul.allow_tf32), torch.backends.cudnn.allow_tf32

    seen: list[tuple[bool, bool]] = []

    class Watching(RNN):
        def forward(self, xs: Tensor, state: State | None = None) -> tuple[Tensor, State]:
            seen.append(switches())
            return super().forward(xs, state)

    before = switches()
    with ambient(0, "weights"):
        model = SequenceModel.for_task(Pronoun(), lambda d: Watching(d, 6), embed_size=5)
    parameters = trainable(model)
    batch = Pronoun().sample(4, 9, generator(0, "t"))
    for precision in ("float32", "tf32"):
        update(model, Pronoun(), torch.optim.SGD(parameters), parameters, batch, None, None, precision=precision)
    assert seen == [before, (True, True)]
    assert switches() == before


def test_precisions_that_cannot_be_are_refused():
    cpu, meta = torch.device("cpu"), torch.device("meta")
    for precision in ("bf16", "tf32"):
        with pytest.raises(ValueError, match=f"precision={precision}: goes with dtype=float32; with dtype=float64 use"):
            check_precision(precision, cpu, torch.float64)
    with pytest.raises(ValueError, match=r"precision=bf16: torch has no autocast on device=meta"):
        check_precision("bf16", meta, torch.float32)
    check_precision("bf16", cpu, torch.float32)
    check_precision("float32", meta, torch.float64)


def test_on_the_command_line_they_are_part_of_a_run_and_refused_in_its_words(
    tmp_path: Path, typed: Callable[..., Said]
):
    command = ("train", *TINY, "quiet=true")
    settings = ("", "tbptt=3", "precision=bf16", "train.checkpoint_every_t=3")
    for setting in settings:
        assert typed(*command, *([setting] if setting else [])) == Said(0, "", "")
    runs = runs_below(tmp_path)
    assert len(runs) == len(settings)
    written = json.loads((runs[0] / "config.json").read_text())
    assert {"tbptt", "precision", "compile", "train"} <= set(written)
    for setting, said in {
        "tbptt=0": "tbptt=0: must be at least 1 timestep, or null for the whole sequence",
        "train.checkpoint_every_t=0": "train.checkpoint_every_t=0: must be at least 1 timestep, or null for",
        "precision=half": "precision=half: 'half' is not one of float32, bf16, tf32",
        "precision=tf32": "precision=tf32: only CUDA devices have it; on the CPU use precision=float32 or bf16",
        "precision=bf16 dtype=float64": "precision=bf16: goes with dtype=float32; with dtype=float64 use precision=",
        "compile=true kernel=native": "kernel=native: compile=true: torch's compiler cannot see into native kernels",
        "precision=bf16 kernel=native": "kernel=native: precision=bf16: native kernels compute in float32 and float64",
    }.items():
        refused = typed(*command, "seed=1", *setting.split())
        assert (refused.code, refused.out) == (2, "")
        assert said in refused.err
        assert refused.err.count("\n") == 1
    with own_hydra():
        usual = from_mapping(compose("train"))
    assert not set(LATER) & set(identity(usual))
    for name, value in LATER.items():
        other = replace(usual)
        setattr(other, name, TrainConfig(7) if name == "train" else {None: 7, False: True}.get(value, Precision.bf16))
        assert identity(other) != identity(usual)


def test_compile_is_torchs_and_its_errors_are_one_line(monkeypatch: pytest.MonkeyPatch):
    """What it computes is checked by scripts/check_compile.py: it takes half a minute to compile."""
    from torch._dynamo.exc import TorchDynamoException

    calls: list[str] = []

    def stand_in(model: SequenceModel, **options: Any) -> Any:
        def run(*args: Any, **kwargs: Any) -> Any:
            calls.append("update")
            if len(calls) > 3:
                raise TorchDynamoException("\n no C++ compiler\nand much more")
            return model(*args, **kwargs)

        return run

    monkeypatch.setattr(training.torch, "compile", stand_in)
    model, task, optimizer = fresh(Pronoun())
    plan = Plan(12, steps=3, batch_size=4, evaluate_sequences=5, trace_every=0, compile=True)
    train(model, task, optimizer, plan)
    assert calls == ["update"] * 3  # evaluation is not compiled
    assert isinstance(model.cell, GRU)
    assert model.cell.kernel == "torch"  # not auto: the compiler cannot see into native kernels
    model.cell.kernel = "native"
    with pytest.raises(ValueError, match=r"^kernel=native: torch's compiler cannot see into it"):
        train(model, task, optimizer, plan)
    said = r"^compile=true: torch cannot compile this model: no C\+\+ compiler; use compile=false$"
    with pytest.raises(CannotCompile, match=said):
        train(*fresh(Pronoun()), plan)


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
