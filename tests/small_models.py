"""Small models, batches and an observer that several test modules train with."""

from collections.abc import Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from seqmem.cells import GRU, LSTM, RNN, Cell, CellFactory, Stack, State
from seqmem.decay import Trace
from seqmem.measurement import Measurement
from seqmem.models.base import trainable
from seqmem.models.recurrent import SequenceModel
from seqmem.optimizers import OPTIMIZERS, adam
from seqmem.probes.base import Probe
from seqmem.randomness import ambient, generator
from seqmem.signals import Batch
from seqmem.tasks import TASKS, Adding, Copy, Pronoun, Task, Text
from seqmem.training.plan import Plan, Result
from seqmem.training.update import update


class Memory:
    """An observer that keeps everything, and a checkpoint in memory."""

    def __init__(self) -> None:
        self.rows: list[tuple[int, str, dict[str, float]]] = []
        self.traces: list[tuple[int, Trace]] = []
        self.measurements: list[tuple[int, str, Measurement]] = []
        self.shown: list[tuple[int, Batch, Tensor]] = []
        self.result: Result | None = None
        self.saved: dict[str, Any] | None = None
        self.saves: list[int] = []

    def logged(self, step: int, kind: Literal["train", "eval"], values: Mapping[str, float]) -> None:
        self.rows.append((step, kind, dict(values)))

    def measured(self, step: int, probe: Probe, measurement: Measurement) -> None:
        self.measurements.append((step, probe.name, measurement))
        if measurement.answered_at is not None:
            self.traces.append((step, Trace(measurement.series, measurement.answered_at)))

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


def _seen_of(task: Task) -> tuple[object, ...]:
    """What a model, a training or an evaluation can tell of a task."""
    batch = task.sample(2, task.min_seq_len + 2, generator(0, "t"))
    several, all_counted = bool((batch.asked.sum(0) > 1).any()), torch.equal(batch.weights > 0, batch.asked)
    signals = (task.inputs.discrete, task.targets.discrete, task.targets.metric)
    data = (task.held_out() != task, task.max_seq_len is None, task.chunks > 1)
    return (*signals, *data, several, all_counted, task.feedback() is not None)


ONE_OF_EACH_TASK = tuple({_seen_of(kind()): name for name, kind in reversed(TASKS.items())}.values())
"""Tasks that what runs them can tell apart, one of each kind; test_tasks.py goes through all of them."""


def after_one_update(
    cell: str | CellFactory,
    task: Task,
    batch: Batch,
    state: State | None = None,
    *,
    every: int | None = None,
    **options: Any,
) -> tuple[Tensor, list[Tensor], State]:
    """([loss, norm, clipped norm], gradients, final state) of a fresh model, in float64."""
    with ambient(0, "weights"):
        factory = MAKERS[cell] if isinstance(cell, str) else cell
        model = SequenceModel.for_task(task, factory, embed_size=5).double()
    model.checkpoint(every)
    parameters = trainable(model)
    optimizer = OPTIMIZERS["sgd"](parameters, lr=0.1)
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
