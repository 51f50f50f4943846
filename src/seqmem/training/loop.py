"""Train a model on a task, measure it on the way, and evaluate it: one flat loop to read from top to bottom.

It reports through ``Observer``, which the run's directory and the terminal both serve, and knows nothing of either.
"""

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from math import isfinite
from typing import Any, Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, _foreach_mul_, _foreach_norm, nn  # pyright: ignore[reportPrivateImportUsage]

from ..cells.base import State
from ..cells.fused import FusedCell
from ..decay import Decay, Trace, decay_from, decays_of
from ..evaluate import CachedBatches, Evaluation, evaluate, held_out, length_grid, score
from ..models.base import loss_per_sequence, trainable
from ..models.recurrent import SequenceModel
from ..probes.gradient import Tracer
from ..randomness import ambient, generator
from ..reading import beliefs
from ..signals import Batch
from ..tasks.base import Task

PRECISIONS = ("float32", "bf16", "tf32")

_DRAWN_AT_ONCE = 8
_DRAWN_BYTES = 1 << 22
"""Batches to draw in a row, and how much memory they may take together where it is more than one."""

_TRACED_AT_ONCE = 10
_TRACED_BYTES = 1 << 24
"""The same for traces: how many models wait to be measured, and the memory of their weights and of what is found."""


@dataclass(frozen=True)
class Plan:
    """Everything about a training run that is not the model, the task or the optimizer. Lengths are in timesteps,
    intervals in training steps.

    ``lengths``: ``uniform`` draws every batch's length from ``shortest`` (by default the task's minimum) to
    ``seq_len``. ``clip_norm``: the L2 norm that the gradient of all parameters is clipped to; None: never.
    ``evaluate_lengths``: where the final evaluation looks; None: ``length_grid``. ``evaluate_sequences``: how many it
    takes of each; the looks on the way, every ``evaluate_every``, take at most 256. ``trace_every=0``: no traces.

    ``tbptt``: truncated backpropagation through time (Williams & Peng 1990; Sutskever 2013, section 2.8.6). A batch is
    read in consecutive segments of so many timesteps, the last one shorter, with the state carried and detached from
    each to the next: a gradient that would cross the border of a segment is cut, so no error reaches further back
    than the segment it is made in, and memory is needed for one segment only. The segments' gradients are added up to
    one update per batch, and their losses are weighted as in the whole loss, which they add up to. Where a task
    answers in the last segment alone, the others are only read. From the batch's length on it changes nothing.
    None: the whole batch. Tasks with chunks are cut between batches as well, as ever.

    ``checkpoint_every_t``: keep the cell's states for the backward pass at every so many timesteps alone, and compute
    the rest again (``seqmem.cells.recompute``): the same gradients but for rounding, more time, less memory.

    ``precision``: of the updates alone. ``bf16``: forward and backward passes under torch.autocast, with the weights,
    their gradients and the optimizer in float32; ``tf32``: float32 multiplied in CUDA's TF32. Evaluation is always in
    the model's own dtype, traces are always in float64: what is measured is the weights, not a way to train them.

    ``compile``: run the updates through torch.compile, which sees every timestep as code of its own: the first update
    takes minutes where sequences are long, and once more for every new length. It cannot see into native kernels:
    cells that would take them take torch's layer.
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
    trace_every: int = 100
    trace_sequences: int = 32
    trace_loss: str = "last"
    checkpoint_every: int = 100
    on_nan: str = "stop"
    tbptt: int | None = None
    checkpoint_every_t: int | None = None
    precision: str = "float32"
    compile: bool = False

    def check(self, task: Task) -> None:
        """Raise ValueError, in one line that says what to do, where the plan does not fit the task."""
        for name in (
            "steps", "batch_size", "log_every", "evaluate_every", "evaluate_sequences", "trace_sequences",
            "checkpoint_every",
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
        if self.lengths not in ("fixed", "uniform"):
            raise ValueError(f"lengths={self.lengths}: must be 'fixed' or 'uniform'")
        task.check(self.batch_size, self.seq_len)
        most = task.max_seq_len if task.max_seq_len is not None else self.seq_len
        if self.seq_len > most:
            raise ValueError(f"seq_len={self.seq_len} is too long for task={task.name}: at most {most}")
        if self.shortest is not None and not task.min_seq_len <= self.shortest <= self.seq_len:
            raise ValueError(
                f"shortest={self.shortest}: must be from {task.min_seq_len}, the least for task={task.name}, "
                f"to seq_len={self.seq_len}"
            )
        for length in self.evaluate_lengths or ():
            if length < task.min_seq_len:
                raise ValueError(
                    f"evaluate_lengths={list(self.evaluate_lengths or ())}: {length} is too short for "
                    f"task={task.name}: at least {task.min_seq_len}"
                )
            if task.max_seq_len is not None and length > task.max_seq_len:
                raise ValueError(
                    f"evaluate_lengths={list(self.evaluate_lengths or ())}: {length} is too long for "
                    f"task={task.name}: at most {task.max_seq_len}"
                )


@dataclass(frozen=True)
class Result:
    """What a finished run found.

    ``score`` and ``loss`` are of held-out sequences of the run's own length after the last step. ``steps_to_solve``:
    the first evaluation during training at which the task's ``solved_at`` was reached; None: at none.
    ``decays``: ``start`` and ``end`` -> state name (``state``: all together; ``input``) -> Decay.
    """

    score: float
    loss: float
    steps_to_solve: int | None
    by_length: Sequence[Evaluation]
    decays: Mapping[str, Mapping[str, Decay]]


@runtime_checkable
class Observer(Protocol):
    """Is told what happens. ``step`` counts the updates made so far."""

    def logged(self, step: int, kind: Literal["train", "eval"], values: Mapping[str, float]) -> None:
        """Numbers of the training since the last call (loss, score, learning_rate, gradient_norm,
        gradient_norm_clipped), or of an evaluation at the training length (loss, score)."""

    def traced(self, step: int, trace: Trace, decays: Mapping[str, Decay]) -> None: ...

    def answered(self, step: int, batch: Batch, predicted: Tensor) -> None:
        """A few held-out sequences with what the model would answer after each timestep, [T B K], on the CPU: before
        training, after half of the steps, and at the end."""

    def finished(self, step: int, result: Result) -> None: ...


@runtime_checkable
class Checkpoints(Protocol):
    """Keeps one checkpoint. Everything the observers wrote before ``save`` belongs to it, nothing after."""

    def save(self, checkpoint: dict[str, Any]) -> None: ...

    def load(self) -> dict[str, Any] | None: ...


class Diverged(ArithmeticError):
    """The loss became NaN or infinite. ``step``: the first update (counted from 1) whose loss was not finite."""

    def __init__(self, step: int, loss: float) -> None:
        super().__init__(f"the loss became {loss} at step {step}")
        self.step = step


class CannotCompile(RuntimeError):
    """torch.compile was asked for and failed."""


class Interrupted(Exception):
    """The run was asked to stop, and saved itself at ``step``."""

    def __init__(self, step: int) -> None:
        super().__init__(f"stopped at step {step}")
        self.step = step


@dataclass
class _Progress:
    """What a checkpoint holds besides weights: everything that the rest of the run depends on."""

    step: int = 0
    steps_to_solve: int | None = None
    pending: list[Tensor] = field(default_factory=list)  # [loss, norm, clipped norm] of steps not yet logged
    carried: State | None = None  # the state handed to the next batch, where the task's passages span several
    start_decays: dict[str, dict[str, float]] = field(default_factory=dict)


def train(
    model: SequenceModel,
    task: Task,
    optimizer: torch.optim.Optimizer,
    plan: Plan,
    observers: Sequence[Observer] = (),
    *,
    checkpoints: Checkpoints | None = None,
    stop_requested: Callable[[], bool] = lambda: False,
) -> Result:
    """Train ``model`` in place, from its checkpoint if there is one, wherever its parameters are.

    Batch i is a function of (seed, i): a run cut anywhere and resumed ends bitwise where it would have.

    Raises:
        ValueError: the plan does not fit the task.
        CannotCompile: ``plan.compile``, and torch cannot.
        Diverged: the loss is not finite, and ``plan.on_nan`` is ``stop``.
        Interrupted: ``stop_requested()`` was true after a step; the checkpoint is saved.
    """
    plan.check(task)
    quick = min(256, plan.evaluate_sequences)  # a quarter of the cost of the final evaluation, every so often
    parameters = trainable(model)
    device, dtype = parameters[0].device, parameters[0].dtype
    check_precision(plan.precision, device, dtype)
    model.checkpoint(plan.checkpoint_every_t)
    updated = _compiled(model) if plan.compile else model
    now = _restore(checkpoints, model, optimizer, device)

    def draw() -> None:
        """The next few batches. Together they take less time than one by one between updates, when all that draws them
        has left the processor's caches."""
        nonlocal at_once
        indices = range(now.step, min(now.step + at_once, plan.steps))
        if not indices:
            return
        drawn = _training_batches(task, plan, indices)
        weights, weighted = None, slice(0)
        for batch in drawn:
            if batch.weights is not weights:  # batches may share them
                weights, weighted = batch.weights, batch.weighted  # asked on the CPU, where it waits for nothing
            upcoming.append((batch.to(device, dtype), weighted))
        at_once = max(1, min(_DRAWN_AT_ONCE, _DRAWN_BYTES // max(batch.nbytes for batch in drawn)))

    upcoming: deque[tuple[Batch, slice]] = deque()
    at_once = 1  # until their size is known

    def save() -> None:
        if checkpoints is not None:
            checkpoints.save(_checkpoint(now, model, optimizer))

    def log_pending() -> None:
        loss, norm, clipped = torch.stack(now.pending).double().mean(0).tolist()
        values = {"loss": loss, "learning_rate": float(optimizer.param_groups[0]["lr"])}
        values |= {"gradient_norm": norm, "gradient_norm_clipped": clipped}
        now.pending.clear()
        for observer in observers:
            observer.logged(now.step, "train", values)

    def measuring() -> AbstractContextManager[None]:
        """A cell that draws random numbers even in evaluation draws the same ones at the same step."""
        return ambient(plan.seed, "measure", now.step, device=device)

    def held_out_at_home() -> Iterator[Batch]:
        for batch in held_out(task, plan.seq_len, seed=plan.seed, sequences=quick, stream="validate"):
            yield batch.to(device, dtype)

    validation = CachedBatches(held_out_at_home)
    tracer = Tracer(model, task, loss=plan.trace_loss)
    traced = CachedBatches(
        lambda: [task.held_out().sample(plan.trace_sequences, plan.seq_len, generator(plan.seed, "trace"))]
    )

    def look() -> None:
        """Evaluate at the training length."""
        with measuring():
            seen = score(model, task, plan.seq_len, validation)
        if plan.on_nan == "stop" and not isfinite(seen.loss):  # the last update spoilt the weights
            raise Diverged(now.step, seen.loss)
        goal = task.solved_at
        if now.steps_to_solve is None and goal is not None and task.targets.metric.reached(seen.score, goal):
            now.steps_to_solve = now.step
        for observer in observers:
            observer.logged(now.step, "eval", {"loss": seen.loss, "score": seen.score})

    def trace(waiting: Sequence[tuple[int, Float[Tensor, " N"] | None]]) -> dict[str, Decay]:
        """Measure the gradient at every timestep, on the same held-out sequences each time, of models that wait for it:
        (training step, its weights; None: as they are now). In a row they take less time than between updates, as
        batches do. Returns the last one's decays."""
        if not plan.trace_every or not waiting:
            return {}
        (batch,) = traced
        drawing = nullcontext() if tracer.knows else measuring()
        with drawing, flush_denormal(on=False):  # float64 norms go down to where denormals begin
            measured = [tracer.measure(batch, weights) for _, weights in waiting]
        found = decays_of(measured)
        for (step, _), one, of_one in zip(waiting, measured, found, strict=True):
            for observer in observers:
                observer.traced(step, one, of_one)
        return found[-1]

    def trace_kept() -> None:
        trace(kept)
        kept.clear()

    kept: list[tuple[int, Float[Tensor, " N"] | None]] = []
    sizes = sum(tensor.nbytes for tensor in model.state_dict().values()), 32 * plan.trace_sequences * plan.seq_len
    # Where they are seldom nobody is to wait for them.
    often = tracer.knows and plan.trace_every < plan.log_every
    traced_at_once = max(1, min(_TRACED_AT_ONCE, _TRACED_BYTES // max(sizes))) if often else 1

    with flush_denormal(on=True):  # vanishing gradients live among denormals, which cost ten times as much
        if now.step == 0:
            look()
            with measuring():
                _show_answers(model, task, plan, now.step, observers)
            now.start_decays = {name: found.numbers() for name, found in trace([(now.step, None)]).items()}
        model.train()
        draw()
        while upcoming:
            batch, weighted = upcoming.popleft()
            # What a cell draws, dropout say, can be resumed.
            with ambient(plan.seed, "noise", now.step, device=device), _compiling(on=plan.compile):
                numbers, state = update(
                    updated, task, optimizer, parameters, batch, now.carried, plan.clip_norm,
                    tbptt=plan.tbptt, weighted=weighted, precision=plan.precision,
                )  # fmt: skip
            now.step += 1
            now.carried = None if now.step % task.chunks == 0 else state
            now.pending.append(numbers)
            # Made while a GPU is still at this step: before anything below asks it for a number.
            if not upcoming:
                draw()

            last = now.step == plan.steps
            stopping = stop_requested()
            saving = last or stopping or now.step % plan.checkpoint_every == 0
            logging = last or now.step % plan.log_every == 0
            looking = last or now.step % plan.evaluate_every == 0
            showing = not last and now.step == plan.steps // 2
            if logging or looking or showing or saving:  # what happened first is said first
                trace_kept()
            if (logging or saving) and plan.on_nan == "stop":
                _refuse_nan(now)
            if logging:
                log_pending()
            if looking:
                look()
            if showing:
                with measuring():
                    _show_answers(model, task, plan, now.step, observers)
            if not last and plan.trace_every and now.step % plan.trace_every == 0:
                if traced_at_once == 1:
                    trace([(now.step, None)])
                else:
                    kept.append((now.step, tracer.weights()))
                    if saving or len(kept) == traced_at_once:
                        trace_kept()
            if saving and not last:
                save()
            if stopping and not last:
                raise Interrupted(now.step)

        # The last checkpoint comes before the closing measurements: whoever is killed in them repeats just them.
        save()
        end_decays = trace([(now.step, None)])
        with measuring():
            _show_answers(model, task, plan, now.step, observers)
        lengths = plan.evaluate_lengths or length_grid(task, plan.seq_len)
        by_length = []
        for length in sorted({*lengths, plan.seq_len}):
            if stop_requested():
                raise Interrupted(now.step)
            with measuring():
                by_length.append(evaluate(model, task, length, seed=plan.seed, sequences=plan.evaluate_sequences))
    own = next(found for found in by_length if found.seq_len == plan.seq_len)
    decays = {"start": {name: decay_from(numbers) for name, numbers in now.start_decays.items()}, "end": end_decays}
    result = Result(own.score, own.loss, now.steps_to_solve, by_length, decays)
    for observer in observers:
        observer.finished(now.step, result)
    return result


def update(
    model: Callable[..., tuple[Tensor, State]],
    task: Task,
    optimizer: torch.optim.Optimizer,
    parameters: Sequence[nn.Parameter],
    batch: Batch,
    state: State | None,
    clip_norm: float | None,
    *,
    tbptt: int | None = None,
    weighted: slice | None = None,
    precision: str = "float32",
) -> tuple[Float[Tensor, "3"], State]:
    """One training step: ([loss, gradient norm, gradient norm after clipping], the state at the end of the batch).

    Everything stays on the model's device: nothing here waits for a GPU.

    Args:
        model: a SequenceModel, or what torch.compile made of it.
        tbptt, precision: as in ``Plan``.
        weighted: the timesteps outside of which no weight is, ``batch.weighted``; None: it may be anywhere.
    """
    device, dtype, seq_len = parameters[0].device, parameters[0].dtype, len(batch.weights)
    once = weighted is not None and weighted.stop - weighted.start == 1
    total, losses = None if once else batch.weights.sum(0), []
    for parameter in parameters:  # as optimizer.zero_grad() would, which tells a profiler first
        parameter.grad = None
    with _tf32(on=precision == "tf32"):
        for start, stop, asked in segments(seq_len, tbptt, weighted):
            # Where nothing counts there is nothing to differentiate: the segment is read for its state alone.
            with torch.set_grad_enabled(asked.start < asked.stop), _autocast(device, on=precision == "bf16"):
                every = asked == slice(0, stop - start)
                predicted, final = model(batch.inputs[start:stop], state, **({} if every else {"at": asked}))
            state = {name: _detached(value, dtype) for name, value in final.items()}
            if asked.start < asked.stop:
                part = batch.part(start + asked.start, start + asked.stop)
                loss = loss_per_sequence(task, predicted.to(dtype), part, total).mean()
                loss.backward()
                losses.append(loss.detach())
            del predicted, final  # or this segment's graph would live on beside the next one's
    norm = _clip([parameter.grad for parameter in parameters if parameter.grad is not None], clip_norm)
    optimizer.step()
    clipped = norm if clip_norm is None else norm.clamp(max=clip_norm)
    loss = losses[0] if len(losses) == 1 else torch.stack(losses).sum()
    numbers = torch.stack([loss, norm, clipped])
    return numbers, state or {}


def _clip(gradients: list[Tensor], most: float | None) -> Float[Tensor, ""]:
    """The L2 norm of all gradients together, which are scaled to ``most`` where it is larger.

    Bit for bit ``torch.nn.utils.clip_grad_norm_``, which would look at each gradient's type and device twice at every
    step.
    """
    norm = torch.linalg.vector_norm(torch.stack(_foreach_norm(gradients)))
    if most is not None:
        _foreach_mul_(gradients, torch.clamp(most / (norm + 1e-6), max=1.0))
    return norm


def segments(seq_len: int, tbptt: int | None, weighted: slice | None) -> Iterator[tuple[int, int, slice]]:
    """(first timestep, the one after the last, which of its timesteps lie in ``weighted``) of each segment of
    ``tbptt`` timesteps; that slice counts from the segment's start, and is empty where nothing of it counts."""
    weighted = slice(0, seq_len) if weighted is None else weighted
    length = seq_len if tbptt is None else tbptt
    for start in range(0, seq_len, length):
        stop = min(start + length, seq_len)
        first, last = max(weighted.start, start), min(weighted.stop, stop)
        yield start, stop, slice(first - start, last - start) if first < last else slice(0, 0)


def _detached(value: Tensor, dtype: torch.dtype) -> Tensor:
    """Under autocast a state may come out in half precision, and is carried on in the model's own."""
    return value.detach().to(dtype) if value.dtype == torch.bfloat16 else value.detach()


def check_precision(precision: str, device: torch.device, dtype: torch.dtype) -> None:
    """Raise ValueError where a model of ``dtype`` cannot be trained in ``precision`` on ``device``."""
    if precision != "float32" and dtype != torch.float32:
        name = str(dtype).removeprefix("torch.")
        raise ValueError(f"precision={precision}: goes with dtype=float32; with dtype={name} use precision=float32")
    if precision == "tf32" and device.type == "cpu":
        raise ValueError("precision=tf32: only CUDA devices have it; on the CPU use precision=float32 or bf16")
    if precision == "bf16" and not torch.amp.is_autocast_available(device.type):
        raise ValueError(f"precision=bf16: torch has no autocast on device={device.type}; use precision=float32")


def _autocast(device: torch.device, *, on: bool) -> AbstractContextManager[object]:
    return torch.autocast(device.type, dtype=torch.bfloat16) if on else nullcontext()


@contextmanager
def _tf32(*, on: bool) -> Iterator[None]:
    """Inside, CUDA may multiply float32 in TF32 (8 bits of exponent, 10 of mantissa); ``on=False`` changes nothing."""
    if not on:
        yield
        return
    matmul, cudnn = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32 = matmul
        torch.backends.cudnn.allow_tf32 = cudnn


def _compiled(model: SequenceModel) -> Callable[..., tuple[Tensor, State]]:
    for part in model.modules():
        if isinstance(part, FusedCell):
            if part.kernel == "native":
                raise ValueError(
                    "kernel=native: torch's compiler cannot see into it; with compile=true use kernel=auto"
                )
            part.kernel = "torch" if part.kernel == "auto" else part.kernel
    return torch.compile(model, dynamic=False)


@contextmanager
def _compiling(*, on: bool) -> Iterator[None]:
    """torch compiles when it is called, and says what is wrong in many lines."""
    if not on:
        yield
        return
    from torch import _dynamo  # torch's compiler: seconds, for those who asked for it
    from torch._dynamo.exc import TorchDynamoException

    try:
        with _dynamo.config.patch(allow_rnn=True):  # or it leaves out every cell that has one of torch's layers
            yield
    except TorchDynamoException as error:
        said = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
        raise CannotCompile(f"compile=true: torch cannot compile this model: {said}; use compile=false") from error


def _training_batches(task: Task, plan: Plan, indices: Sequence[int]) -> list[Batch]:
    if task.chunks == 1 and plan.lengths == "fixed":
        return task.samples(plan.batch_size, plan.seq_len, [generator(plan.seed, "train", index) for index in indices])
    return [_training_batch(task, plan, index) for index in indices]


def _training_batch(task: Task, plan: Plan, index: int) -> Batch:
    """Batch ``index``: chunk ``index % chunks`` of passage ``index // chunks``, whose length may be drawn."""
    passage, chunk = divmod(index, task.chunks)
    rng = generator(plan.seed, "train", passage)
    seq_len = plan.seq_len
    if plan.lengths == "uniform":
        shortest = plan.shortest if plan.shortest is not None else task.min_seq_len
        seq_len = int(torch.randint(shortest, plan.seq_len + 1, (), generator=rng))
    if task.chunks == 1:
        return task.sample(plan.batch_size, seq_len, rng)
    return task.sample(plan.batch_size, seq_len * task.chunks, rng).chunk(chunk, seq_len)


@torch.no_grad()
def _show_answers(
    model: SequenceModel, task: Task, plan: Plan, step: int, observers: Sequence[Observer], sequences: int = 3
) -> None:
    first = next(model.parameters())
    batch = task.held_out().sample(sequences, plan.seq_len, generator(plan.seed, "show"))
    predicted = beliefs(model.eval(), task, batch.to(first.device, first.dtype).inputs)
    model.train()
    for observer in observers:
        observer.answered(step, batch, predicted.cpu())


def _refuse_nan(now: _Progress) -> None:
    losses = torch.stack(now.pending)[:, 0].tolist() if now.pending else []
    for step, loss in enumerate(losses, start=now.step - len(losses) + 1):
        if not isfinite(loss):
            raise Diverged(step, loss)


def _checkpoint(now: _Progress, model: SequenceModel, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    return {"progress": dict(vars(now)), "model": model.state_dict(), "optimizer": optimizer.state_dict()}


def _restore(
    checkpoints: Checkpoints | None, model: SequenceModel, optimizer: torch.optim.Optimizer, device: torch.device
) -> _Progress:
    saved = checkpoints.load() if checkpoints is not None else None
    if saved is None:
        return _Progress()
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    now = _Progress(**saved["progress"])
    now.pending = [values.to(device) for values in now.pending]
    if now.carried is not None:
        now.carried = {name: value.to(device) for name, value in now.carried.items()}
    return now


@contextmanager
def flush_denormal(*, on: bool) -> Iterator[None]:
    """Treat denormal numbers as zero on this thread (and on those torch starts later), or don't; then as before.

    Weights, losses and scores are far above denormals; only gradients below 1e-38 in float32 are concerned.
    """
    tiny = torch.tensor(1e-310, dtype=torch.float64)
    was_on = bool((tiny * 1.0 == 0).item())
    torch.set_flush_denormal(on)
    try:
        yield
    finally:
        torch.set_flush_denormal(was_on)
