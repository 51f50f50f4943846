"""What a run leaves behind: its numbers, its traces, its TensorBoard events, its checkpoint and its result.

One observer writes them all, because all are cut back to the same moment when a killed run continues.
Axes: T time, B batch, K answers (or output features).
"""

import io
import json
import platform
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from math import inf
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import Any, Literal
from zipfile import ZipFile

import torch
from torch import Tensor

from ..evaluate import Evaluation
from ..measurement import Measurement
from ..probes.base import Probe
from ..runs.checksums import write_checksums
from ..runs.directory import RunDirectory
from ..runs.files import (
    CHECKPOINT,
    EVENTS,
    METRICS,
    RESULT,
    RunError,
    json_bytes,
    open_regular,
    plain_json,
    write_atomically,
)
from ..runs.result import Facts, Scale
from ..signals import Batch
from ..tasks.base import Task
from ..training.plan import Diverged, Result
from .curves import draw_curves, draw_heatmap, draw_percentiles
from .events import EventFile, GrowingFile, Hparam
from .numbers import as_points, in_table, parts_as_points
from .tags import describe, results
from .texts import answers, code_block, error_text, summary_table
from .traces import TraceFile, counts

CURVES = 20
"""How many times in a run, about, the latest curves are drawn in TensorBoard, however frequent the measurements."""

_FORMAT = 1  # of checkpoint.pt

_FLUSHES = 10
"""Throttle: write files at most this many times a second, while no more than ``_WAITING`` bytes wait."""

_WAITING = 1 << 20  # bytes


@dataclass
class _Log:
    """The open files of a run."""

    metrics: GrowingFile
    events: EventFile
    since: float
    seconds: float = 0.0  # spent before this process
    traces: dict[str, TraceFile] = field(default_factory=dict)  # by probe, of those that measure series
    second: float = -inf  # in which ``flushes`` are counted
    flushes: int = 0

    def spent(self) -> float:
        return self.seconds + monotonic() - self.since

    def _files(self) -> "Iterable[GrowingFile | EventFile | TraceFile]":
        return (self.metrics, self.events, *self.traces.values())

    def flush(self) -> None:
        for file in self._files():
            file.flush()

    def throttled_flush(self) -> None:
        """Flush at once while flushes are rare, so that a run can be followed; a fast run waits for more to write."""
        now = monotonic()
        if now - self.second >= 1:
            self.second, self.flushes = now, 0
        if self.flushes < _FLUSHES or sum(file.waiting for file in self._files()) > _WAITING:
            self.flushes += 1
            self.flush()

    def checksums(self) -> dict[str, Any]:
        """Checksums of the files up to here; call it after their positions."""
        traces = {probe: file.checksum for probe, file in self.traces.items()}
        return {"metrics": self.metrics.checksum, "events": self.events.checksum, "traces": traces}

    def verify(self) -> None:
        """Read every file again, and raise RunError if it holds something else than was written."""
        for file in (self.metrics, self.events, *self.traces.values()):
            file.verify()

    def close(self) -> None:
        with ExitStack() as stack:  # close each of them, even if closing another fails
            stack.callback(self.events.close)
            stack.callback(self.metrics.close)
            for traces in self.traces.values():
                stack.callback(traces.close)
            for traces in self.traces.values():
                traces.store()


class Recorder:
    """An observer, and the checkpoints, of one training run: give it to ``train`` as both.

        with run.locked(), Recorder(run, ...) as recorder:
            train(model, task, optimizer, plan, [recorder], checkpoints=recorder)

    The caller holds the run's lock, and sets the status of a run that does not finish. Every method raises RunError if
    a file cannot be written.

    Args:
        config: shown in TensorBoard.
        facts: go into the result.
        hparams: the run's row in TensorBoard's table: the same keys, of the same types, for every run.
        probes: those that the run measures with.
    """

    def __init__(
        self,
        run: RunDirectory,
        *,
        config: Mapping[str, Any],
        task: Task,
        facts: Facts,
        hparams: Mapping[str, Hparam],
        probes: Sequence[Probe],
    ) -> None:
        self.run, self.config, self.task, self.facts, self.hparams = run, config, task, facts, hparams
        self.probes = probes
        self._log: _Log | None = None

    def __enter__(self) -> "Recorder":  # noqa: PYI034  (beartype cannot check Self in a method)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        try:
            if self._log is not None and (
                isinstance(error, Diverged) or isinstance(error and error.__cause__, Diverged)
            ):
                self._log.events.session_end(success=False)
            self.close()
        except RunError:
            if error is None:  # else the first error says more
                raise

    def close(self) -> None:
        """Write and close every file; the run may be unfinished."""
        if self._log is None:
            return
        log, self._log = self._log, None
        with self._writing():
            log.close()

    # Checkpoints

    def load(self) -> dict[str, Any] | None:
        """The last checkpoint, with every file cut back to it; None, with every file cleared, if there is none.

        Raises:
            RunError: the checkpoint, or a file that belongs to it, is damaged.
        """
        self.close()
        path = self.run.file(CHECKPOINT)
        saved = _read_checkpoint(path) if path.exists() else None
        with self._writing():
            if saved is None:
                self.run.restart()
                events = EventFile(self.run.file(EVENTS), describe=self.describe)
                self._log = _Log(GrowingFile(self.run.file(METRICS)), events, monotonic())
                self._log.events.hparams(self.hparams, results(self.probes))
                self._log.events.text("config", code_block(json.dumps(plain_json(self.config), indent=2)), 0)
                self._log.events.flush()
                self.run.set_status("running", step=0)
                return None
            self._log = self._cut_back(saved)
            self.run.set_status("running", step=saved["training"]["progress"]["step"])
            return saved["training"]

    def spent_before(self, seconds: float) -> None:
        """Count the seconds that another run took up to here."""
        self._opened().seconds += seconds

    def save(self, checkpoint: dict[str, Any]) -> None:
        log = self._opened()
        with self._writing():
            # Sync what the checkpoint counts before the checkpoint itself: after a kill in between the files have more
            # than it counts, and load() cuts them back.
            for traces in log.traces.values():
                traces.sync()
            saved = {
                "metrics": log.metrics.position(),
                "events": log.events.position(),
                "traces": counts(log.traces),
                "checksums": log.checksums(),
            }
            content = io.BytesIO()
            torch.save({"format": _FORMAT, **saved, "seconds": log.spent(), "training": checkpoint}, content)
            write_atomically(self.run.file(CHECKPOINT), content.getvalue())
            self.run.set_status("running", step=checkpoint["progress"]["step"])

    def _cut_back(self, saved: Mapping[str, Any]) -> _Log:
        checkpoint = self.run.file(CHECKPOINT)
        sums = saved.get("checksums", {})  # earlier versions wrote none
        with ExitStack() as opened:  # closed again if another of them cannot be opened
            try:
                metrics = GrowingFile(self.run.file(METRICS), saved["metrics"], sums.get("metrics"))
                opened.callback(metrics.close)
                events = EventFile(
                    self.run.file(EVENTS), saved["events"], checksum=sums.get("events"), describe=self.describe
                )
                opened.callback(events.close)
            except (FileNotFoundError, ValueError) as error:
                raise _cut_short(error, checkpoint) from error
            traces: dict[str, TraceFile] = {}
            for probe, count in _trace_counts(saved).items():
                traces[probe] = TraceFile(self.run, probe)
                traces[probe].cut_back(count, checkpoint, sums.get("traces", {}).get(probe))
            opened.pop_all()
        return _Log(metrics, events, monotonic(), saved["seconds"], traces)

    # Observing

    def logged(self, step: int, kind: Literal["train", "eval"], values: Mapping[str, float]) -> None:
        log = self._opened()
        self._row(kind, step, values)
        log.events.scalars(step, {f"{kind}/{name}": value for name, value in values.items()})
        with self._writing():
            log.throttled_flush()

    def measured(self, step: int, probe: Probe, measurement: Measurement) -> None:
        log = self._opened()
        self._row("trace", step, {probe.name: measurement.scalars})
        timesteps = measurement.timesteps or self.facts.seq_len
        drawn = as_points(probe, measurement.scalars, timesteps)
        parts = parts_as_points(probe, measurement.scalars, timesteps)
        log.events.scalars(step, {f"{probe.name}/{name}": value for name, value in drawn} | dict(parts))
        with self._writing():
            if measurement.series:
                self._measured_series(step, probe, measurement)
            log.throttled_flush()

    def _measured_series(self, step: int, probe: Probe, measurement: Measurement) -> None:
        log, steps = self._opened(), self.facts.steps
        traces = log.traces.setdefault(probe.name, TraceFile(self.run, probe.name))
        before = traces.steps[-1] if traces.steps else None
        traces.append(step, measurement)
        # A function of the steps only, so that a resumed run draws the same curves.
        if before is None or step * CURVES // steps > before * CURVES // steps:
            draw_curves(log.events, probe, "latest", measurement)
        if step == 0:
            draw_curves(log.events, probe, "at start", measurement)
        count = len(traces.steps)
        if count > 1 and count & (count - 1) == 0:  # at 2, 4, 8 … traces: a few pictures, however long the run
            draw_heatmap(log.events, probe, traces, step)

    def answered(self, step: int, batch: Batch, predicted: Tensor) -> None:
        from .pictures.from_batch import sentences
        from .pictures.sentences import palette, picture  # Pillow is not needed before the first step

        events = self._opened().events
        steps, read = self.facts.steps, sentences(self.task, batch, predicted)
        title = f"step {step:,} of {steps:,}" if steps < 10_000 else f"step {step:,}"  # a picture is narrow
        searched = self.config.get("evaluate", {}).get("beam", 1) > 1  # the score is of other answers
        how = ", written greedily" if searched else ""
        events.text("answers", answers(self.task, read, title=title + how), step)
        for number, one in enumerate(read, start=1):
            sure, close = ("sure of the right answer: 0", "100 %"), (f"off by {error_text(self.task)} or more", "0")
            drawn = picture(one, title=title, ends=close if one.sure is None else sure)
            events.image(f"reading/sentence {number}", drawn, step, palette=palette())

    def finished(self, step: int, result: Result) -> None:
        log, events = self._opened(), self._opened().events
        for evaluation in result.by_length:
            self._row("length", step, evaluation.row())
        lengths = sorted(result.by_length, key=lambda evaluation: evaluation.seq_len)
        events.curve("eval/score_by_length", [one.score for one in lengths], [one.seq_len for one in lengths])
        numbers = {"score": result.score, "loss": result.loss}
        for probe in self.probes:
            with self._writing():
                timesteps = self._draw_end(step, probe) or self.facts.seq_len
            numbers |= dict(in_table(probe, result.probes.get(probe.name, {}).get("end", {}), timesteps))
        numbers["steps_to_solve"] = result.steps_to_solve if result.steps_to_solve is not None else step
        events.scalars(step, {f"result/{name}": float(value) for name, value in numbers.items()})
        summary = self._summary(step, result, log.spent())
        events.text("summary", summary_table(summary, result, self.probes), step)
        events.session_end(success=True)
        with self._writing():
            log.verify()
            for traces in log.traces.values():
                traces.store()
            self.run.set_status("finished", step=step)
            content = json_bytes(summary)
            write_checksums(self.run, {RESULT: content})
            write_atomically(self.run.file(RESULT), content)

    def _draw_end(self, step: int, probe: Probe) -> int | None:
        """Draw the series as they are after training. Returns their number of timesteps; None if there are none."""
        log = self._opened()
        traces = log.traces.get(probe.name)
        if traces is None or not traces.steps:
            return None
        (last,) = traces.read([len(traces.steps) - 1])
        draw_curves(log.events, probe, "at end", last)
        draw_percentiles(log.events, probe, last)
        draw_heatmap(log.events, probe, traces, step)
        return last.timesteps

    # Writing

    def describe(self, tag: str) -> str:
        """What TensorBoard says about a tag, in markdown."""
        return describe(tag, self.task, self.probes, seq_len=self.facts.seq_len)

    def _opened(self) -> _Log:
        if self._log is None:
            raise RuntimeError("a Recorder observes only after load(): give it to train() as its checkpoints, too")
        return self._log

    @contextmanager
    def _writing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            where = error.filename or self.run.path
            reason = error.strerror or error
            raise RunError(f"cannot write to {where}: {reason}; what was saved before is safe") from error

    def _row(self, kind: str, step: int, values: Mapping[str, Any]) -> None:
        self._opened().metrics.write(metrics_row(kind, step, values))

    def _summary(self, step: int, result: Result, seconds: float) -> dict[str, Any]:
        """``result.json``."""
        scale = scale_of(self.task, self.facts.seq_len)
        return {
            **self.facts.fields(),
            "steps": step,
            **scale.fields(),
            "score": result.score,
            "loss": result.loss,
            "solved": scale.solves(result.score),
            "steps_to_solve": result.steps_to_solve,
            **({} if result.best_step is None else {"best_step": result.best_step}),
            "by_length": [with_levels(self.task, evaluation) for evaluation in result.by_length],
            "probes": result.probes,
            "seconds": round(seconds, 3),
            "steps_per_second": round(step / seconds, 3) if seconds > 0 else inf,
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "seqmem": version("seqmem"),
            },
        }


def metrics_row(kind: str, step: int, values: Mapping[str, Any]) -> bytes:
    """A line of ``metrics.jsonl``."""
    row = plain_json({"kind": kind, "step": step, **values})
    return (json.dumps(row, allow_nan=False) + "\n").encode()


def scale_of(task: Task, seq_len: int) -> Scale:
    """How to read scores and losses of a task at a length."""
    return Scale(
        metric=task.targets.metric,
        chance=task.chance_at(seq_len),
        baseline_loss=task.baseline_loss(seq_len),
        solved_at=task.solved_at,
        constant=task.constant_at(seq_len),
        plateaus=tuple(task.plateaus(seq_len)),
    )


def with_levels(task: Task, evaluation: Evaluation) -> dict[str, Any]:
    """A row of ``by_length``: the evaluation, and what to compare it with at its length."""
    return {**evaluation.row(), **scale_of(task, evaluation.seq_len).fields_of_a_length()}


def load_checkpoint(path: Path) -> dict[str, Any]:
    """What ``train`` gave to ``save``: ``model``, ``optimizer`` and ``progress``, on the CPU.

    Raises:
        RunError: there is none, or it is damaged.
    """
    return _read_checkpoint(path)["training"]


def _read_checkpoint(path: Path) -> dict[str, Any]:
    advice = "delete it, or use force=true, to start this run over"
    if path.with_name(RESULT).exists():
        advice = "the run is finished and its numbers stand: restore the file, or train it again with force=true"
    try:
        with open_regular(path) as file:
            with ZipFile(file) as archive:  # torch.load itself looks at no checksum
                damaged = archive.testzip()
            file.seek(0)
            saved = None if damaged else torch.load(file, weights_only=True, map_location="cpu")
    except FileNotFoundError:
        raise RunError(f"{path} does not exist: the run has not got to its first checkpoint") from None
    except Exception as error:  # whatever torch, zipfile and pickle make of damaged bytes
        reason = str(error).splitlines()[0][:80] if str(error) else type(error).__name__
        raise RunError(f"{path} cannot be read ({reason}): {advice}") from error
    if damaged:
        raise RunError(f"{path} cannot be read (wrong checksum of {damaged}): {advice}")
    if not isinstance(saved, dict) or saved.get("format") != _FORMAT:
        raise RunError(f"{path} was written by another version of seqmem: {advice}")
    return saved


def _cut_short(error: Exception, checkpoint: Path) -> RunError:
    what = f"{error.filename} is missing" if isinstance(error, FileNotFoundError) else str(error)
    return RunError(f"{what}, where its checkpoint left off: delete {checkpoint} to start this run over")


def _trace_counts(saved: Mapping[str, Any]) -> dict[str, int]:
    """Probe -> its traces up to the checkpoint. Up to seqmem 0.2.0 the gradient was the only probe."""
    traces = saved["traces"]
    return traces if isinstance(traces, dict) else {"gradient": traces}
