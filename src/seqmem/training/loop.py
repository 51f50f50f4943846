"""Train a model on a task: one loop to read from top to bottom.

It reports to ``Observer``s (the run's directory and the terminal are two) and knows nothing of either.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field
from functools import partial
from math import isfinite
from typing import Literal

import torch
from torch import Tensor

from ..cells.state import State, from_plain, map_leaves, to_plain
from ..denormals import flush_denormal
from ..evaluate import evaluate, length_grid
from ..measurement import Measurement, Scalars
from ..models.base import Model, trainable
from ..probes.base import Probe
from ..randomness import ambient
from ..signals import Batch
from ..tasks.base import Task
from .batches import BatchQueue
from .best import Best
from .compiler import compiled, compiling
from .measuring import ProbeQueue, Validation, seeded, show_answers
from .omega import Omega
from .plan import Checkpoints, Diverged, Interrupted, Observer, Plan, Result, check_precision
from .schedule import LearningRates
from .update import update


def train(
    model: Model,
    task: Task,
    optimizer: torch.optim.Optimizer,
    plan: Plan,
    observers: Sequence[Observer] = (),
    *,
    checkpoints: Checkpoints | None = None,
    stop_requested: Callable[[], bool] = lambda: False,
    interruptible: Callable[[int], AbstractContextManager[None]] = lambda _: nullcontext(),
) -> Result:
    """Train ``model`` in place, on its own device, from its checkpoint if there is one.

    Batch i is a function of (seed, i), so a run stopped anywhere and resumed ends bitwise where it would have.

    Args:
        interruptible: from the last step to a context in which a request to stop may raise ``Interrupted`` at once:
            nothing is written in it.

    Raises:
        ValueError: the plan does not fit the task.
        CannotCompile: ``plan.compile``, and torch.compile fails.
        Diverged: the loss is not finite, and ``plan.on_nan`` is ``stop``.
        Interrupted: ``stop_requested()`` was true after a step; a checkpoint is saved.
    """
    plan.check(task)
    parameters = trainable(model)
    device, dtype = parameters[0].device, parameters[0].dtype
    check_precision(plan.precision, device, dtype)
    omega = None if plan.omega is None else Omega(model, plan.omega)
    model.checkpoint(plan.checkpoint_every_t)
    forward = compiled(model) if plan.compile else model

    rates = LearningRates(optimizer, plan.schedule, plan.steps, plan.warmup)
    now = _restore(checkpoints, model, optimizer, device)
    if now.best is None and plan.patience is not None:
        now.best = Best()
    observer = _Broadcast(observers)
    batches = BatchQueue(task, plan, now.step, device, dtype)
    validation = Validation(model, task, plan)
    probes = [ProbeQueue(scheduled, model, task, plan, observer) for scheduled in plan.scheduled()]

    with flush_denormal(on=True):  # vanishing gradients are denormal, and a CPU is ten times slower on those
        model.train()
        batches.refill()
        for step in range(now.step + 1 if now.step else 0, plan.steps + 1) if not now.stopped_early else ():
            if step > 0:  # step 0 is the model before training: it is only measured
                batch, weighted = batches.pop()
                # Seed by step, so that dropout and the like continue bitwise after a resume.
                noise = partial(ambient, plan.seed, "noise", step - 1, device=device)
                rates.set(step - 1)
                with compiling(on=plan.compile):
                    numbers, state = update(
                        forward, task, optimizer, parameters, batch, now.carried, plan.clip_norm,
                        tbptt=plan.tbptt, weighted=weighted, precision=plan.precision, noise=noise, omega=omega,
                    )  # fmt: skip
                now.step = step
                now.carried = None if step % task.chunks == 0 else state
                now.pending.append(numbers)
                # Draw the next batches before the first GPU sync point below, while the GPU is still busy.
                batches.refill()

            last = step == plan.steps
            stopping = step > 0 and stop_requested()
            evaluating = last or step % plan.evaluate_every == 0
            evaluation = validation.score(step) if evaluating else None  # note: a GPU sync point
            if evaluation is not None and now.best is not None and plan.patience is not None:
                now.best.add(step, evaluation.score, task.targets.metric, model)
                now.stopped_early = not last and now.best.since >= plan.patience
            if evaluation is not None and now.steps_to_solve is None and task.solved_at is not None:
                solved = task.targets.metric.reached(evaluation.score, task.solved_at)
                now.steps_to_solve = step if solved else None
            if plan.until_solved and now.steps_to_solve is not None and step > 0 and not last:
                now.stopped_early = True
            last = last or now.stopped_early
            saving = step > 0 and (last or stopping or step % plan.checkpoint_every == 0)
            logging = step > 0 and (last or step % plan.log_every == 0)
            answering = step == 0 or (not last and step == plan.steps // 2)

            # note: everything below this line that is due is a GPU sync point
            due = [probe for probe in probes if probe.due(step) and not last]
            if saving or logging or evaluating or answering or not all(probe.waits for probe in due):
                for probe in probes:
                    probe.flush()  # first, so that observers are told everything in order
            if (logging or saving) and plan.on_nan == "stop":
                _refuse_nan(now)
            if logging:
                observer.logged(step, "train", _means(now, optimizer))
            if evaluation is not None:
                if plan.on_nan == "stop" and not isfinite(evaluation.loss):  # the last update ruined the weights
                    raise Diverged(step, evaluation.loss)
                observer.logged(step, "eval", {"loss": evaluation.loss, "score": evaluation.score})
            if answering:
                show_answers(model, task, plan, step, observer)
            for probe in due:
                probe.add(step, at_once=step == 0 or saving)
                if step == 0:
                    now.start[probe.name] = probe.latest
            if saving and not last:
                _save(checkpoints, now, model, optimizer)
            if stopping and not last:
                raise Interrupted(step)
            if last:
                break

        if now.best is not None:
            now.best.restore(model)
        # Save before the closing measurements: a run killed during them repeats only them.
        _save(checkpoints, now, model, optimizer)
        for probe in probes:
            if probe.due(now.step, last=True):
                probe.add(now.step, at_once=True)
        show_answers(model, task, plan, now.step, observer)
        by_length, trained = [], plan.parts(task).trained
        for length in sorted({*(plan.evaluate_lengths or length_grid(task, plan.seq_len)), plan.seq_len}):
            if stop_requested():
                raise Interrupted(now.step)
            with interruptible(now.step), seeded(model, plan, now.step):
                by_length.append(
                    evaluate(
                        model,
                        task,
                        length,
                        seed=plan.seed,
                        sequences=plan.evaluate_sequences,
                        trained=trained,
                        beam=plan.evaluate_beam,
                    )
                )

    own = next(evaluation for evaluation in by_length if evaluation.seq_len == plan.seq_len)
    measured = {probe.name: {"start": now.start.get(probe.name, {}), "end": probe.latest} for probe in probes}
    best = None if now.best is None or now.best.step == now.step else now.best.step
    result = Result(own.score, own.loss, now.steps_to_solve, by_length, measured, best)
    observer.finished(now.step, result)
    return result


@dataclass
class _Progress:
    """The contents of a checkpoint besides weights: everything that the rest of the run depends on."""

    step: int = 0
    steps_to_solve: int | None = None
    pending: list[Tensor] = field(default_factory=list)  # the numbers of ``update``, of steps not yet logged
    carried: State | None = None  # the state handed to the next batch, for tasks whose passages span several
    start: dict[str, Scalars] = field(default_factory=dict)  # probe -> its scalars before training
    best: Best | None = None  # with patience alone
    stopped_early: bool = False  # by patience, or solved: what is left are the closing measurements


class _Broadcast:
    """Several observers as one."""

    def __init__(self, observers: Sequence[Observer]) -> None:
        self._observers = observers

    def logged(self, step: int, kind: Literal["train", "eval"], values: Mapping[str, float]) -> None:
        for observer in self._observers:
            observer.logged(step, kind, values)

    def measured(self, step: int, probe: Probe, measurement: Measurement) -> None:
        for observer in self._observers:
            observer.measured(step, probe, measurement)

    def answered(self, step: int, batch: Batch, predicted: Tensor) -> None:
        for observer in self._observers:
            observer.answered(step, batch, predicted)

    def finished(self, step: int, result: Result) -> None:
        for observer in self._observers:
            observer.finished(step, result)


def _means(now: _Progress, optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """The numbers of the steps since the last log line, which starts anew."""
    loss, norm, clipped, *omega = torch.stack(now.pending).double().mean(0).tolist()
    now.pending.clear()
    learning_rate = float(optimizer.param_groups[0]["lr"])
    return {
        "loss": loss, "learning_rate": learning_rate, "gradient_norm": norm, "gradient_norm_clipped": clipped,
        **({"omega": omega[0]} if omega else {}),
    }  # fmt: skip


def _refuse_nan(now: _Progress) -> None:
    losses = torch.stack(now.pending)[:, 0].tolist() if now.pending else []
    for step, loss in enumerate(losses, start=now.step - len(losses) + 1):
        if not isfinite(loss):
            raise Diverged(step, loss)


def _save(checkpoints: Checkpoints | None, now: _Progress, model: Model, optimizer: torch.optim.Optimizer) -> None:
    if checkpoints is not None:
        progress = {
            **vars(now),
            "carried": None if now.carried is None else to_plain(now.carried),
            "best": None if now.best is None else dict(vars(now.best)),
        }
        checkpoints.save({"progress": progress, "model": model.state_dict(), "optimizer": optimizer.state_dict()})


def _restore(
    checkpoints: Checkpoints | None, model: Model, optimizer: torch.optim.Optimizer, device: torch.device
) -> _Progress:
    saved = checkpoints.load() if checkpoints is not None else None
    if saved is None:
        return _Progress()
    model.load_state_dict(saved["model"])
    optimizer.load_state_dict(saved["optimizer"])
    progress = dict(saved["progress"])
    if "start_decays" in progress:  # seqmem 0.2.0 and earlier had one probe
        progress["start"] = {"gradient": progress.pop("start_decays")}
    if progress.get("carried") is not None:
        progress["carried"] = from_plain(progress["carried"])
    if progress.get("best") is not None:
        progress["best"] = Best(**progress["best"])
    now = _Progress(**progress)
    now.pending = [values.to(device) for values in now.pending]
    if now.carried is not None:
        now.carried = map_leaves(lambda leaf: leaf.to(device), now.carried)
    return now
