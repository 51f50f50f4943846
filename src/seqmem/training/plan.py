"""What a training run is told, what it reports, and the ways it can end.

Axes: T time, B batch, K outputs.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from torch import Tensor

from ..evaluate import Evaluation
from ..measurement import Measurement, Scalars
from ..probes.base import Probe, Scheduled
from ..probes.gradient import GradientProbe
from ..signals import Batch
from ..spaces import trained_lengths
from ..tasks.base import Task
from ..tasks.parts import Parts
from .schedule import SCHEDULES

LENGTHS = ("fixed", "uniform", "mixed")
PRECISIONS = ("float32", "bf16", "tf32")


@dataclass(frozen=True)
class Plan:
    """Everything about a training run that is not the model, the task or the optimizer. Lengths are in timesteps,
    intervals in training steps.

    ``lengths``: ``uniform`` draws every batch's length from ``shortest`` (by default the task's minimum) to
    ``seq_len``, ``mixed`` every sequence's (``batches.mixed``). ``clip_norm``: the L2 norm that the gradient of all
    parameters is clipped to; None: never. ``evaluate_lengths``: lengths of the final evaluation; None:
    ``length_grid``. ``evaluate_sequences``: sequences of each length there; the evaluations on the way, every
    ``evaluate_every``, take at most 256. ``evaluate_beam``: as in ``decoding.decode``, where answers are fed back.
    ``trace_every``, ``trace_sequences``, ``trace_loss``: the gradient probe; ``trace_every=0``: no traces. ``probes``:
    further probes.

    ``sequences``: train on one set of so many sequences, drawn from the training data once.
    Each epoch takes all of them in a new random order; its last batch is smaller where ``batch_size`` does not divide
    their number. None: every batch is drawn anew.
    ``patience``: stop after so many evaluations in a row without a better score on the validation data, and take the
    weights of the best one, also where all steps are done. None: all steps, and the last weights.
    ``until_solved``: stop at the first evaluation after which the task counts as solved.
    ``validation_sequences``: of the evaluations during training; None: 256, or ``evaluate_sequences`` if that is less.
    ``schedule``, ``warmup``: of the learning rate, as in ``schedule.factor``.
    ``omega``: the weight of the vanishing-gradient regulariser (Pascanu et al. 2013) beside the loss, see ``omega``;
    None: without it. Every update walks through the timesteps one by one and keeps all of them, in float32 or float64.

    ``tbptt``: truncated backpropagation through time (Williams & Peng 1990; Sutskever 2013, section 2.8.6). A batch is
    read in consecutive segments of this many timesteps, the last one shorter. The state is carried from each segment
    to the next and detached there, so no gradient crosses a border, and only one segment needs memory at a time. The
    segments' gradients are added up to one update per batch; their losses are weighted so that they add up to the loss
    of the whole batch. Segments without an answer are read without a backward pass. From the batch's length on, tbptt
    changes nothing. None: the whole batch. Tasks with chunks are cut between batches in any case.

    ``checkpoint_every_t``: store the cell's states for the backward pass at every this many timesteps only, and
    recompute the others (``seqmem.cells.recompute``): the same gradients up to rounding, more time, less memory.

    ``precision``: of the updates only. ``bf16``: forward and backward passes under torch.autocast; weights, their
    gradients and the optimizer stay in float32. ``tf32``: float32 multiplied in CUDA's TF32. Evaluation is always in
    the model's own dtype and traces are always in float64: they measure the weights, not a way to train them.

    ``compile``: run the updates through torch.compile, which unrolls every timestep: the first update of each length
    takes minutes where sequences are long. It cannot see into native kernels, so cells use torch's layer instead.
    """

    seq_len: int
    steps: int = 1000
    seed: int = 0
    batch_size: int = 64
    lengths: str = "fixed"
    shortest: int | None = None
    clip_norm: float | None = 1.0
    log_every: int = 10
    evaluate_every: int = 50
    evaluate_sequences: int = 1000
    evaluate_lengths: tuple[int, ...] | None = None
    evaluate_beam: int = 1
    trace_every: int = 100
    trace_sequences: int = 32
    trace_loss: str = "last"
    checkpoint_every: int = 100
    on_nan: str = "stop"
    tbptt: int | None = None
    checkpoint_every_t: int | None = None
    sequences: int | None = None
    patience: int | None = None
    until_solved: bool = False
    validation_sequences: int | None = None
    schedule: str = "constant"
    warmup: int = 0
    omega: float | None = None
    precision: str = "float32"
    compile: bool = False
    probes: tuple[Scheduled, ...] = ()

    def scheduled(self) -> tuple[Scheduled, ...]:
        """Every probe of the run, the gradient first."""
        gradient = GradientProbe(loss=self.trace_loss)
        return (Scheduled(gradient, self.trace_every, self.trace_sequences), *self.probes)

    def parts(self, task: Task) -> Parts:
        """What is trained on, what is looked at meanwhile, and what is tested on."""
        return Parts(task, trained_lengths(self.seq_len, self.lengths, self.shortest, task.min_seq_len))

    def check(self, task: Task) -> None:
        """Raise ValueError, one line that says what to change, if the plan does not fit the task."""
        for name in (
            "steps", "batch_size", "log_every", "evaluate_every", "evaluate_sequences", "evaluate_beam",
            "trace_sequences", "checkpoint_every",
        ):  # fmt: skip
            if getattr(self, name) < 1:
                raise ValueError(f"{name}={getattr(self, name)}: must be at least 1")
        if self.trace_every < 0:
            raise ValueError(f"trace_every={self.trace_every}: must be at least 1, or 0 for no traces")
        if self.clip_norm is not None and not self.clip_norm > 0:
            raise ValueError(f"clip_norm={self.clip_norm}: must be positive, or null for no clipping")
        for name in ("tbptt", "checkpoint_every_t"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name}={value}: must be at least 1 timestep, or null for the whole sequence")
        self._check_omega()
        self._check_training_set(task)
        for name in ("patience", "validation_sequences"):
            if (value := getattr(self, name)) is not None and value < 1:
                raise ValueError(f"{name}={value}: must be at least 1, or null")
        if self.until_solved and task.solved_at is None:
            raise ValueError(f"until_solved=true: task={task.name} has no score at which it counts as solved")
        if self.schedule not in SCHEDULES:
            raise ValueError(f"schedule={self.schedule}: must be one of {', '.join(SCHEDULES)}")
        if not 0 <= self.warmup <= self.steps:
            raise ValueError(f"warmup={self.warmup}: must be from 0 to steps={self.steps} updates")
        if self.precision not in PRECISIONS:
            raise ValueError(f"precision={self.precision}: must be one of {', '.join(PRECISIONS)}")
        if self.compile and self.checkpoint_every_t is not None:
            raise ValueError(
                f"checkpoint_every_t={self.checkpoint_every_t}: does not go with compile=true, which decides itself "
                "what to keep"
            )
        if self.on_nan not in ("stop", "continue"):
            raise ValueError(f"on_nan={self.on_nan}: must be 'stop' or 'continue'")
        if self.trace_loss not in ("last", "all"):
            raise ValueError(f"trace_loss={self.trace_loss}: must be 'last' or 'all'")
        self._check_probes()
        if self.lengths not in LENGTHS:
            raise ValueError(f"lengths={self.lengths}: must be one of {', '.join(LENGTHS)}")
        if self.lengths == "mixed" and (task.chunks > 1 or task.feedback() is not None):
            why = "is read in passages" if task.chunks > 1 else "has one mark at which a batch's sources end"
            raise ValueError(f"lengths=mixed: task={task.choice} {why}; use lengths=uniform")
        task.check(self.batch_size, self.seq_len)
        most = task.max_seq_len if task.max_seq_len is not None else self.seq_len
        if self.seq_len > most:
            raise ValueError(f"seq_len={self.seq_len} is too long for task={task.choice}: at most {most}")
        if self.shortest is not None and not task.min_seq_len <= self.shortest <= self.seq_len:
            raise ValueError(
                f"shortest={self.shortest}: must be from {task.min_seq_len}, the least for task={task.choice}, "
                f"to seq_len={self.seq_len}"
            )
        for length in self.evaluate_lengths or ():
            if length < task.min_seq_len:
                raise ValueError(
                    f"evaluate_lengths={list(self.evaluate_lengths or ())}: {length} is too short for "
                    f"task={task.choice}: at least {task.min_seq_len}"
                )
            if task.max_seq_len is not None and length > task.max_seq_len:
                raise ValueError(
                    f"evaluate_lengths={list(self.evaluate_lengths or ())}: {length} is too long for "
                    f"task={task.choice}: at most {task.max_seq_len}"
                )

    def all_probes(self) -> list[Probe]:
        return [scheduled.probe for scheduled in self.scheduled()]

    @property
    def validated(self) -> int:
        """Sequences of each evaluation during training."""
        if self.validation_sequences is not None:
            return self.validation_sequences
        return min(256, self.evaluate_sequences)  # a quarter of the default final evaluation's cost

    @property
    def drawn(self) -> int:
        """Sequences that training draws."""
        return self.sequences if self.sequences is not None else self.steps * self.batch_size

    def _check_omega(self) -> None:
        if self.omega is None:
            return
        if not 0 < self.omega < float("inf"):
            raise ValueError(f"omega={self.omega}: must be more than 0, and finite; or null for no such term")
        for needed, given in {
            "tbptt=null": self.tbptt is None,
            "checkpoint_every_t=null": self.checkpoint_every_t is None,
            "precision=float32": self.precision == "float32",
            "compile=false": not self.compile,
        }.items():
            if not given:
                raise ValueError(f"omega={self.omega:g}: goes with {needed} only")

    def _check_training_set(self, task: Task) -> None:
        if self.sequences is None:
            return
        if self.sequences < 1:
            raise ValueError(f"sequences={self.sequences}: must be at least 1, or null for fresh ones in every batch")
        if self.lengths == "uniform":
            raise ValueError(f"sequences={self.sequences}: goes with lengths=fixed or mixed, not with lengths=uniform")
        if task.chunks > 1:
            raise ValueError(
                f"sequences={self.sequences}: task={task.choice} is read in passages of {task.chunks} batches; use null"
            )

    def _check_probes(self) -> None:
        names: dict[str, str] = {}
        for scheduled in self.scheduled():
            probe = scheduled.probe
            if scheduled.every < 0:
                raise ValueError(f"probe.{probe.name}.every={scheduled.every}: must be at least 1, or 0 for never")
            if scheduled.sequences < 1:
                raise ValueError(f"probe.{probe.name}.sequences={scheduled.sequences}: must be at least 1")
            for number in (probe.name, *probe.numbers):
                if names.setdefault(number, probe.name) != probe.name:
                    raise ValueError(
                        f"probe.{probe.name}: probe {names[number]} has a number '{number}', too: give it another name"
                    )


def check_precision(precision: str, device: torch.device, dtype: torch.dtype) -> None:
    """Raise ValueError if a model of ``dtype`` cannot be trained in ``precision`` on ``device``."""
    if precision != "float32" and dtype != torch.float32:
        name = str(dtype).removeprefix("torch.")
        raise ValueError(f"precision={precision}: goes with dtype=float32; with dtype={name} use precision=float32")
    if precision == "tf32" and device.type == "cpu":
        raise ValueError("precision=tf32: only CUDA devices have it; on the CPU use precision=float32 or bf16")
    if precision == "bf16" and not torch.amp.is_autocast_available(device.type):
        raise ValueError(f"precision=bf16: torch has no autocast on device={device.type}; use precision=float32")


@dataclass(frozen=True)
class Result:
    """The measurements of a finished run.

    ``score`` and ``loss``: on held-out sequences of the run's own length after the last step. ``steps_to_solve``: the
    first evaluation during training that reached the task's ``solved_at``; None: none did. ``probes``: name ->
    ``start`` and ``end`` of training -> the scalars of the probe; empty if it measured nothing. ``best_step``: the step
    whose weights were measured, where that is not the last (``Plan.patience``).
    """

    score: float
    loss: float
    steps_to_solve: int | None
    by_length: Sequence[Evaluation]
    probes: Mapping[str, Mapping[str, Scalars]]
    best_step: int | None = None


@runtime_checkable
class Observer(Protocol):
    """Receives what happens during training. ``step``: the number of updates so far."""

    def logged(self, step: int, kind: Literal["train", "eval"], values: Mapping[str, float]) -> None:
        """``train``: means since the last call (loss, learning_rate, gradient_norm, gradient_norm_clipped).
        ``eval``: loss and score on held-out sequences of the training length."""

    def measured(self, step: int, probe: Probe, measurement: Measurement) -> None: ...

    def answered(self, step: int, batch: Batch, predicted: Tensor) -> None:
        """A few held-out sequences with the model's answer after each timestep, [T B K], on the CPU: before training,
        after half of the steps, and at the end."""

    def finished(self, step: int, result: Result) -> None: ...


@runtime_checkable
class Checkpoints(Protocol):
    """Stores one checkpoint. Everything the observers wrote before ``save`` belongs to it, nothing after."""

    def save(self, checkpoint: dict[str, Any]) -> None: ...

    def load(self) -> dict[str, Any] | None: ...


class Diverged(ArithmeticError):
    """The loss became NaN or infinite. ``step``: the first update (counted from 1) whose loss was not finite."""

    def __init__(self, step: int, loss: float) -> None:
        super().__init__(f"the loss became {loss} at step {step}")
        self.step = step


class Interrupted(Exception):
    """The run was asked to stop, and saved a checkpoint at ``step``."""

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped at step {step}")
        self.step = step


class CannotCompile(RuntimeError):
    """``compile=true``, and torch.compile fails on this model."""
