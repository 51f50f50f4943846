"""What a run leaves behind: its numbers, its traces, its TensorBoard events, its checkpoint and its result.

One observer writes them all, because all are cut back to the same moment when a killed run goes on.
Axes: T time, B batch, K timesteps back from the answer (or outputs), N traces.
"""

import io
import json
import platform
import re
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from importlib.metadata import version
from math import inf, isfinite, isnan
from pathlib import Path
from time import monotonic
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal
from zipfile import ZipFile

import numpy as np
import torch
from jaxtyping import Float
from numpy import ndarray
from torch import Tensor

from ..decay import INPUT, Decay, Trace
from ..runs.directory import RunDirectory
from ..runs.files import (
    CHECKPOINT,
    EVENTS,
    GRADIENTS,
    METRICS,
    RESULT,
    TRACES,
    RunError,
    plain_json,
    write_atomically,
    write_json,
    written_atomically,
)
from ..runs.result import Facts, Scale
from ..runs.traces import TraceLayout
from ..signals import Batch
from ..tasks.base import Task
from ..training.plan import Diverged, Result
from .events import EventFile, GrowingFile, Hparam

if TYPE_CHECKING:
    from .pictures.sentences import Sentence

FLOOR = -12.0
"""The lowest log10 shown in TensorBoard; one underflow would squeeze every other line. Files have the true numbers."""

MOST_POINTS = 256
"""Points of a curve in TensorBoard; longer ones are thinned evenly. Files have them all."""

CURVES = 20
"""How many times in a run, about, its latest curves are drawn anew in TensorBoard, however often it is traced."""

RESULTS = (
    "result/score",
    "result/loss",
    "result/half_life",
    "result/horizon",
    "result/log10_first_over_last",
    "result/steps_to_solve",
)
"""The columns of the HParams table, the same for every run."""

_FORMAT = 1  # of checkpoint.pt

_FLUSHES = 10
"""How many times a second files are written at most, as long as no more than ``_WAITING`` bytes wait."""

_WAITING = 1 << 20  # bytes


class _Traces:
    """``traces.bin`` while it grows, and how it becomes ``gradients.npz``. In memory are the steps alone."""

    def __init__(self, run: RunDirectory) -> None:
        self._path, self._stored_at = run.file(TRACES), run.file(GRADIENTS)
        self._file: GrowingFile | None = None
        self._layout: TraceLayout | None = None
        self.steps = array("q")

    def cut_back(self, run: RunDirectory, count: int, checkpoint: Path) -> None:
        """Go on after ``count`` traces, which are in the file, or in ``gradients.npz`` where a run had stopped."""
        if not count:
            self._path.unlink(missing_ok=True)
            return
        if run.growing_gradients(ends=True) is None or self._laid_out().whole(self._path.stat().st_size) < count:
            self._take_back(run, count, checkpoint)
        layout = self._laid_out()
        self.steps = array("q", [step for part in self._parts(count) for step in part["step"].tolist()])
        self._file = GrowingFile(self._path, layout.end(count))

    def _laid_out(self) -> TraceLayout:
        if self._layout is None:
            with self._path.open("rb") as file:
                self._layout = TraceLayout.read(file)
        assert self._layout is not None
        return self._layout

    def _parts(self, count: int) -> Iterator[ndarray]:
        """The first ``count`` traces as they lie in the file, about a megabyte at a time."""
        layout = self._laid_out()
        at_once = max(1, _WAITING // layout.dtype.itemsize)
        with self._path.open("rb") as file:
            file.seek(layout.end(0))
            for start in range(0, count, at_once):
                yield np.fromfile(file, layout.dtype, min(at_once, count - start))

    def _take_back(self, run: RunDirectory, count: int, checkpoint: Path) -> None:
        stored = run.stored_gradients()
        if stored is None or len(stored.step) < count:
            lacking = self._path if stored is None else self._stored_at
            raise RunError(f"{lacking} lacks traces: delete {checkpoint} to start this run over")
        timesteps = next(iter(stored.norms.values())).shape[1]
        self._layout = TraceLayout(tuple(stored.norms), timesteps, stored.answered_at)
        with written_atomically(self._path) as file:
            file.write(self._layout.header)
            for i in range(count):
                file.write(_trace_bytes(int(stored.step[i]), [values[i] for values in stored.norms.values()]))

    def append(self, step: int, trace: Trace) -> None:
        """Add a trace.

        Raises:
            RunError: the file was begun with traces of other states.
        """
        if self._file is None or self._layout is None:
            self._layout = TraceLayout(tuple(trace.norms), len(trace.norms[INPUT]), trace.answered_at)
            self._file = GrowingFile(self._path)
            self._file.write(self._layout.header)
        if trace.norms.keys() != set(self._layout.names):
            before, now = (", ".join(sorted(names)) for names in (self._layout.names, trace.norms))
            raise RunError(f"{self._path} has traces of {before}; a cell that has {now} cannot go on: use force=true")
        self._file.write(_trace_bytes(step, [trace.norms[name] for name in self._layout.names]))
        self.steps.append(step)

    def read(self, places: Iterable[int]) -> Iterator[Trace]:
        """Traces from the file, one after another."""
        layout = self._laid_out()
        self.flush()
        with self._path.open("rb") as file:
            for place in places:
                file.seek(layout.end(place))
                (found,) = np.fromfile(file, layout.dtype, 1)
                yield Trace({name: found[f"norm/{name}"] for name in layout.names}, layout.answered_at)

    @property
    def waiting(self) -> int:
        return self._file.waiting if self._file is not None else 0

    def flush(self) -> None:
        if self._file is not None:
            self._file.flush()

    def sync(self) -> None:
        """Everything on the disk."""
        if self._file is not None:
            self._file.position()

    def store(self) -> None:
        """Make ``gradients.npz`` of it, what ``np.savez`` would; after this nothing can be appended."""
        if self._file is None:
            return
        self.close()
        layout, count = self._laid_out(), len(self.steps)
        small = {"step": np.array(self.steps), "answered_at": layout.answered_at}
        said = {"descr": "<f8", "fortran_order": False, "shape": (count, layout.timesteps, len(layout.answered_at))}
        with written_atomically(self._stored_at) as file, ZipFile(file, "w") as archive:
            for name, values in small.items():
                with archive.open(f"{name}.npy", "w") as member:
                    np.lib.format.write_array(member, values)
            for name in layout.names:
                with archive.open(f"norm/{name}.npy", "w", force_zip64=True) as member:
                    np.lib.format.write_array_header_1_0(member, said)
                    for part in self._parts(count):
                        member.write(part[f"norm/{name}"].tobytes())
        self._path.unlink()

    def close(self) -> None:
        file, self._file = self._file, None
        if file is not None:
            file.close()


def _trace_bytes(step: int, series: Sequence[Float[ndarray, "T B"]]) -> bytes:
    """As ``TraceLayout.dtype`` has it."""
    return b"".join([step.to_bytes(8, "little"), *(norms.astype("<f8", copy=False).tobytes() for norms in series)])


@dataclass
class _Log:
    """The open files of a run."""

    metrics: GrowingFile
    events: EventFile
    traces: _Traces
    since: float
    seconds: float = 0.0  # spent before this process
    second: float = -inf  # in which ``flushes`` are counted
    flushes: int = 0

    def spent(self) -> float:
        return self.seconds + monotonic() - self.since

    def flush(self) -> None:
        for file in (self.metrics, self.events, self.traces):
            file.flush()

    def flush_now_and_then(self) -> None:
        """At once for who follows a run, but a fast one does not spend its time on it, nor its memory."""
        now = monotonic()
        if now - self.second >= 1:
            self.second, self.flushes = now, 0
        if self.flushes < _FLUSHES or self.metrics.waiting + self.events.waiting + self.traces.waiting > _WAITING:
            self.flushes += 1
            self.flush()

    def close(self) -> None:
        with ExitStack() as stack:  # each of them, whatever becomes of the others
            stack.callback(self.events.close)
            stack.callback(self.metrics.close)
            stack.callback(self.traces.close)
            self.traces.store()


class Recorder:
    """An observer, and the checkpoints, of one training run: give it to ``train`` as both.

        with run.locked(), Recorder(run, ...) as recorder:
            train(model, task, optimizer, plan, [recorder], checkpoints=recorder)

    The caller holds the run's lock, and sets the status of a run that does not finish. ``config`` is shown in
    TensorBoard; ``hparams`` is the run's row in its table: the same keys, of the same types, for every run. ``facts``
    go into the result: cell, seq_len, seed, steps, hidden_size, layers, parameters, device, and whatever else.

    Every method raises RunError where a file cannot be written.
    """

    def __init__(
        self,
        run: RunDirectory,
        *,
        config: Mapping[str, Any],
        task: Task,
        facts: Facts,
        hparams: Mapping[str, Hparam],
    ) -> None:
        self.run, self.config, self.task, self.facts, self.hparams = run, config, task, facts, hparams
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
        """Keep what there is, also of a run that did not finish."""
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
                self._log = _Log(GrowingFile(self.run.file(METRICS)), events, _Traces(self.run), monotonic())
                self._log.events.hparams(self.hparams, RESULTS)
                self._log.events.text("config", _code_block(json.dumps(plain_json(self.config), indent=2)), 0)
                self._log.events.flush()
                self.run.set_status("running", step=0)
                return None
            self._log = self._cut_back(saved)
            self.run.set_status("running", step=saved["training"]["progress"]["step"])
            return saved["training"]

    def save(self, checkpoint: dict[str, Any]) -> None:
        log = self._opened()
        with self._writing():
            # First what the checkpoint counts on. A kill in between leaves more than it counts, which load() cuts.
            log.traces.sync()
            saved = {
                "metrics": log.metrics.position(),
                "events": log.events.position(),
                "traces": len(log.traces.steps),
            }
            content = io.BytesIO()
            torch.save({"format": _FORMAT, **saved, "seconds": log.spent(), "training": checkpoint}, content)
            write_atomically(self.run.file(CHECKPOINT), content.getvalue())
            self.run.set_status("running", step=checkpoint["progress"]["step"])

    def _cut_back(self, saved: Mapping[str, Any]) -> _Log:
        checkpoint = self.run.file(CHECKPOINT)
        with ExitStack() as opened:  # closed again if another of them cannot be had
            try:
                metrics = GrowingFile(self.run.file(METRICS), saved["metrics"])
                opened.callback(metrics.close)
                events = EventFile(self.run.file(EVENTS), saved["events"], describe=self.describe)
                opened.callback(events.close)
            except (FileNotFoundError, ValueError) as error:
                raise _cut_short(error, checkpoint) from error
            traces = _Traces(self.run)
            traces.cut_back(self.run, saved["traces"], checkpoint)
            opened.pop_all()
        return _Log(metrics, events, traces, monotonic(), saved["seconds"])

    # What happens

    def logged(self, step: int, kind: Literal["train", "eval"], values: Mapping[str, float]) -> None:
        log = self._opened()
        self._row(kind, step, values)
        log.events.scalars(step, {f"{kind}/{name}": value for name, value in values.items()})
        with self._writing():
            log.flush_now_and_then()

    def traced(self, step: int, trace: Trace, decays: Mapping[str, Decay]) -> None:
        log = self._opened()
        before = log.traces.steps[-1] if log.traces.steps else None
        log.traces.append(step, trace)
        self._row("trace", step, {"gradient": {name: found.numbers() for name, found in decays.items()}})
        seq_len = len(trace.norms[INPUT])
        log.events.scalars(step, {f"gradient/{name}": x for name, x in _shown(decays["state"], seq_len).items()})
        with self._writing():
            # By steps alone, so that a run that is resumed draws what it would have.
            steps = self.facts.steps
            if before is None or step * CURVES // steps > before * CURVES // steps:
                self._curves("latest", trace)
            if step == 0:
                self._curves("at start", trace)
            count = len(log.traces.steps)
            if count > 1 and count & (count - 1) == 0:  # 2, 4, 8 … traces: a few pictures, however long the run
                self._heatmap(step)
            log.flush_now_and_then()

    def answered(self, step: int, batch: Batch, predicted: Tensor) -> None:
        from .pictures.sentences import palette, picture  # pictures are not needed before the first step

        events = self._opened().events
        steps, read = self.facts.steps, sentences(self.task, batch, predicted)
        title = f"step {step:,} of {steps:,}" if steps < 10_000 else f"step {step:,}"  # a picture is narrow
        events.text("answers", answers(self.task, read, title=title), step)
        for number, one in enumerate(read, start=1):
            sure, close = ("sure of the right answer: 0", "100 %"), (f"off by {_off(self.task)} or more", "0")
            drawn = picture(one, title=title, ends=close if one.sure is None else sure)
            events.image(f"reading/sentence {number}", drawn, step, palette=palette())

    def finished(self, step: int, result: Result) -> None:
        log, events = self._opened(), self._opened().events
        for found in result.by_length:
            self._row("length", step, asdict(found))
        lengths = sorted(result.by_length, key=lambda found: found.seq_len)
        events.curve("eval/score_by_length", [found.score for found in lengths], [found.seq_len for found in lengths])
        decays = result.decays.get("end", {})
        measured = {"score": result.score, "loss": result.loss}
        if count := len(log.traces.steps):
            with self._writing():
                (last,) = log.traces.read([count - 1])
                self._curves("at end", last)
                self._percentiles(last)
                self._heatmap(step)
            measured |= _shown(decays["state"], len(last.state))
        measured["steps_to_solve"] = result.steps_to_solve if result.steps_to_solve is not None else step
        events.scalars(step, {f"result/{name}": float(value) for name, value in measured.items()})
        summary = self._summary(step, result, log.spent())
        events.text("summary", _table(summary, result), step)
        events.session_end(success=True)
        with self._writing():
            log.metrics.position()
            events.position()
            log.traces.store()
            self.run.set_status("finished", step=step)
            write_json(self.run.file(RESULT), summary)

    # How it is written

    def describe(self, tag: str) -> str:
        """What TensorBoard says about a tag, in markdown."""
        return describe(tag, self.task)

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
        row = plain_json({"kind": kind, "step": step, **values})
        self._opened().metrics.write((json.dumps(row, allow_nan=False) + "\n").encode())

    def _curves(self, when: str, trace: Trace) -> None:
        by_timestep, by_distance = {}, {}
        for name, norms in trace.series().items():
            by_timestep[f"{_group(name)}/by_timestep ({when})"] = _log10(norms.mean(1))
            back = trace.mean_back(norms)
            by_distance[f"{_group(name)}/by_distance_from_answer ({when})"] = _log10(_relative(back, _at_answer(back)))
        self._write_thinned(by_timestep)
        self._write_thinned(by_distance)

    def _percentiles(self, trace: Trace) -> None:
        found = np.percentile(trace.state, (10, 50, 90), axis=1)
        names = ("10th percentile", "median", "90th percentile")
        self._write_thinned(
            {f"gradient/by_timestep {name} (at end)": _log10(x) for name, x in zip(names, found, strict=True)}
        )

    def _write_thinned(self, curves: Mapping[str, Float[ndarray, " points"]]) -> None:
        xs = _thinned(len(next(iter(curves.values()))))
        self._opened().events.curves(xs, {tag: values[xs] for tag, values in curves.items()})

    def _heatmap(self, step: int) -> None:
        from .pictures.heatmap import heatmap, visible  # pictures are not needed before the first step

        log = self._opened()
        rows = []
        for trace in log.traces.read(visible(len(log.traces.steps)).tolist()):
            state = trace.state
            rows.append(_relative(state.mean(1), _at_answer(trace.mean_back(state))))
        picture = heatmap(_log10(np.stack(rows), floor=-inf), log.traces.steps)
        log.events.image("gradient/heatmap", picture, step)

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
            "by_length": [asdict(found) for found in result.by_length],
            "gradient": {
                when: {name: found.numbers() for name, found in decays.items()}
                for when, decays in result.decays.items()
            },
            "seconds": round(seconds, 3),
            "steps_per_second": round(step / seconds, 3) if seconds > 0 else inf,
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "seqmem": version("seqmem"),
            },
        }


def scale_of(task: Task, seq_len: int) -> Scale:
    """How to read scores and losses of a task at a length."""
    return Scale(task.targets.metric, task.chance, task.baseline_loss(seq_len), task.solved_at)


def load_checkpoint(path: Path) -> dict[str, Any]:
    """What ``train`` gave to ``save``: ``model``, ``optimizer`` and ``progress``, on the CPU.

    Raises:
        RunError: there is none, or it is damaged.
    """
    return _read_checkpoint(path)["training"]


def _read_checkpoint(path: Path) -> dict[str, Any]:
    advice = "delete it, or use force=true, to start this run over"
    try:
        with ZipFile(path) as archive:  # torch.load itself looks at no checksum
            damaged = archive.testzip()
        saved = None if damaged else torch.load(path, weights_only=True, map_location="cpu")
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


def _at_answer(back: Float[ndarray, " K"]) -> float:
    """What the others are held against: the norm at the answer, or the first above zero (see ``decay``)."""
    above = np.flatnonzero(back > 0)
    return float(back[above[0]]) if len(above) else float(back[0])


def _relative(norms: Float[ndarray, " points"], answer: float) -> Float[ndarray, " points"]:
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return norms / answer


def _log10(values: Float[ndarray, "*shape"], floor: float = FLOOR) -> Float[ndarray, "*shape"]:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.maximum(np.log10(values), floor)


def _thinned(count: int) -> ndarray:
    if count <= MOST_POINTS:
        return np.arange(count)
    return np.linspace(0, count - 1, MOST_POINTS).round().astype(int)


def _shown(decay: Decay, seq_len: int) -> dict[str, float]:
    """The numbers of a decay as TensorBoard can draw them; those that do not exist are left out."""
    numbers = {
        "half_life": min(decay.half_life, 10.0 * seq_len),
        "horizon": min(decay.horizon, float(seq_len)),
        "log10_first_over_last": max(decay.log10_first_over_last, FLOOR),
    }
    return {name: value for name, value in numbers.items() if not isnan(value)}


def _group(name: str) -> str:
    return "gradient" if name == "state" else f"gradient_{name.replace('/', '.')}"


# What people read


_WHOSE = {"gradient": "everything the cell carries past a timestep", "gradient_input": "what enters the first layer"}
_TAGS = {
    "train/loss": "Mean loss of the training batches since the last point (nats, or squared error).",
    "train/learning_rate": "Step size of the optimizer.",
    "train/gradient_norm": "L2 norm of the gradient of all parameters, before clipping.",
    "train/gradient_norm_clipped": "L2 norm of the gradient of all parameters, as the optimizer saw it.",
    "eval/loss": "Mean loss on held-out sequences of the training length (nats, or squared error).",
    "eval/score": "Score ({metric}) on held-out sequences of the training length. Without a memory: {chance}.",
    "eval/score_by_length": "After training: score ({metric}) by sequence length, which is the **step** axis. "
    "Without a memory: {chance}.",
    "eval/score_by_length (seqmem eval)": "Added by seqmem eval: score ({metric}) by sequence length, which is the "
    "**step** axis. Without a memory: {chance}.",
    "gradient/half_life": "Timesteps in which the gradient at the carried state halves on its way back, from a "
    "straight line through the logarithms. Drawn as ten times the sequence when it is longer, or does not decay at "
    "all.",
    "gradient/horizon": "How many timesteps back the gradient at the carried state is below 1/1000 of that at the "
    "answer. Drawn as the length of the sequence when that does not happen.",
    "gradient/log10_first_over_last": "log10 of the gradient norm at the first timestep over that at the answer: "
    "0 all of it arrives, -3 a thousandth. Drawn as {floor:g} when it is less.",
    "gradient/heatmap": "Gradient norm at the carried state by timestep (from left to right) and training step (from "
    "top to bottom), over the norm at the answer; mean over sequences. The colours mean the same in every run.",
    "result/score": "Final score ({metric}). Without a memory: {chance}.",
    "result/loss": "Final loss on held-out sequences (nats, or squared error).",
    "result/half_life": "gradient/half_life at the end.",
    "result/horizon": "gradient/horizon at the end.",
    "result/log10_first_over_last": "gradient/log10_first_over_last at the end.",
    "result/steps_to_solve": "The first evaluation at which the task was solved; the number of steps of the run when "
    "it never was.",
    "config": "The configuration of the run, every default filled in.",
    "summary": "The run in one table.",
    "answers": "A few held-out sequences as the model reads them, before training, half-way and after.",
}

_READING = (
    "A held-out sequence as the model reads it, before training, half-way and after: **move the slider above the "
    "picture**. The darker the ground of a word, the surer of the right answer (or the closer to it) the model would "
    "be if it were asked after that word. A notch above a word: it would give another answer than a word before. A "
    "bubble: the answer it ends with, where it begins to give it. Where many timesteps ask, its answers stand below "
    "what it reads, and those that are wrong are underlined. Runs of one seed and one length read the same sequences, "
    "and the colours mean the same in every run."
)


def describe(tag: str, task: Task) -> str:
    """What TensorBoard says about a tag, in markdown."""
    if tag.startswith("reading/"):
        return _READING
    curve = re.fullmatch(r"(\S+)/by_(timestep|distance_from_answer) ?(.*) \((latest|at start|at end)\)", tag)
    if curve is None:
        metric = task.targets.metric
        return _TAGS.get(tag, "").format(metric=metric.name, chance=metric.text(task.chance), floor=FLOOR)
    group, axis, percentile, when = curve.groups()
    whose = _WHOSE.get(group, f"state `{group.removeprefix('gradient_')}`")
    time = {"latest": "latest trace", "at start": "before training", "at end": "after training"}[when]
    over = f"{percentile} over sequences" if percentile else "mean over sequences"
    if axis == "timestep":
        what = f"log10 of the loss gradient's norm at {whose}, by **timestep** (the step axis)"
    else:
        what = (
            f"log10 of the loss gradient's norm at {whose}, over the norm at the answer, by **timesteps back from "
            "the answer** (the step axis)"
        )
    return f"{what}; {over}; {time}. {FLOOR:g} stands for all that is less."


def sentences(task: Task, batch: Batch, predicted: Float[Tensor, "T B K"]) -> "list[Sentence]":
    """Each sequence of a batch as a model read it, up to its last answer.

    Args:
        predicted: what the model would answer if it were asked after each timestep.
    """
    from .pictures.sentences import Sentence

    metric, goal = task.targets.metric, task.solved_at
    symbols = batch.targets.ndim < predicted.ndim
    found = []
    for b, last in enumerate(batch.answered_at.tolist()):
        upto = slice(last + 1)
        targets, outputs = batch.targets[upto, b], predicted[upto, b].detach().double()
        asked, words = batch.asked[upto, b], task.words(batch.inputs[upto, b])
        if asked.sum() == 1:  # the one answer is what there is to be sure of, all the way
            targets = targets[-1:].expand_as(targets)
        scores = task.targets.score(outputs[:, None], targets[:, None])[:, 0]
        if symbols:
            chosen = outputs.argmax(-1)
            names = {symbol: task.answer(torch.tensor(symbol)) for symbol in {*chosen.tolist(), *targets.tolist()}}
            said, wanted = ([names[symbol] for symbol in of.tolist()] for of in (chosen, targets))
            shares = outputs.softmax(-1)
            right, sure = shares.gather(-1, targets[:, None])[:, 0], shares.amax(-1).numpy()
            another = torch.cat([torch.zeros(1, dtype=torch.bool), chosen[1:] != chosen[:-1]])
        else:
            # No two real numbers are equal: another is one that is further from the last than counts as right.
            far = (outputs - outputs[-1]).square().mean(-1) > (goal or 0.0)
            another = torch.zeros_like(asked)
            another[far.nonzero()[-1:, 0] + 1] = True
            said, wanted = ([""] * len(words) for _ in range(2))
            for t in sorted({0, *(asked | another).nonzero()[:, 0].tolist()}):
                said[t], wanted[t] = task.answer(outputs[t]), task.answer(targets[t])
            # 1 for no error, 0 for that of somebody without a memory, or more.
            right, sure = 1 - (scores / task.chance).sqrt().clamp(max=1), None
        # By the score where it says when a task is solved (two real numbers are never equal), else by sight.
        good = [
            bool(ask) and (metric.reached(score, goal) if goal is not None else a == z)
            for ask, score, a, z in zip(asked.tolist(), scores.tolist(), said, wanted, strict=True)
        ]
        found.append(
            Sentence(words, asked.numpy(), right.numpy(), said, wanted, np.array(good), another.numpy(), sure=sure)
        )
    return found


def answers(task: Task, read: "Sequence[Sentence]", *, title: str) -> str:
    """A few sequences as a model read them, in markdown."""
    from .pictures.sentences import SHADES, text

    if read[0].sure is None:
        legend = f"how close the estimate is by then, {SHADES[0]} off by {_off(task)} or more, {SHADES[-1]} exact"
    else:
        legend = f"how sure of the right answer the model is by then, {SHADES[0]} not at all, {SHADES[-1]} 100 %"
    above = "above every word" if read[0].asked_once else "above every answer"
    return _code_block(text(read, title=title, legend=f"{above} {legend}"))


def _off(task: Task) -> str:
    """The error of somebody without a memory, for tasks whose answers are real numbers."""
    return f"{task.chance**0.5:.2f}"


def _code_block(text: str) -> str:
    """Text as it is: markdown sees nothing but a line of its own fence, which none of ours is."""
    return f"~~~~~~\n{text}\n~~~~~~"


def _table(summary: Mapping[str, Any], result: Result) -> str:
    """``result.json`` in short, for TensorBoard."""
    end = result.decays.get("end", {}).get("state")
    rows = {
        "task, cell": f"{summary['task']}, {summary['cell']}",
        "length": f"{summary['seq_len']} timesteps",
        "seed": summary["seed"],
        "parameters": f"{summary['parameters']:,} ({summary['layers']} x {summary['hidden_size']} units)",
        f"score ({summary['metric']})": f"{summary['score']:.4g}",
        "without a memory": f"{summary['chance']:.4g}",
        "loss": f"{summary['loss']:.4g}",
        "loss without a memory": f"{summary['baseline_loss']:.4g}",
        "solved": f"after {result.steps_to_solve} steps" if result.steps_to_solve is not None else "no",
        "half-life": _timesteps(end.half_life) if end else None,
        "horizon": _timesteps(end.horizon) if end else None,
        "log10(first / last)": f"{end.log10_first_over_last:.3g}" if end else None,
        "steps": f"{summary['steps']:,} in {summary['seconds']:.1f} s on {summary['device']}",
    }
    lines = ["| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows.items() if value is not None)]
    lengths = ["| length | score | loss |", "|---|---|---|"]
    lengths += [f"| {found.seq_len} | {found.score:.4g} | {found.loss:.4g} |" for found in result.by_length]
    return "\n".join([*lines, "", *lengths])


def _timesteps(count: float) -> str:
    return f"{count:.3g} timesteps" if isfinite(count) else str(count)
