"""What other people's training loops leave: traces of their models in TensorBoard, and as runs beside seqmem's.

A ``SummaryWriter`` gets the numbers and the heat map. Curves over timesteps are rewritten at each trace, which its
files cannot hold (see ``events``): they go into an event file of their own, in the folder ``gradient`` beside it.
"""

import math
import platform
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from time import monotonic
from typing import Any
from weakref import WeakKeyDictionary

import numpy as np
import torch
from jaxtyping import UInt8
from numpy import ndarray

from ..decay import INPUT, Trace
from ..measurement import Measurement
from ..metrics import Metric
from ..probes.gradient import GradientProbe, measurements
from ..runs.checksums import write_checksums
from ..runs.directory import RunDirectory
from ..runs.files import (
    CONFIG,
    ENVIRONMENT,
    EVENTS,
    METRICS,
    RESULT,
    RunError,
    json_bytes,
    write_atomically,
    write_json,
)
from ..runs.result import Facts, Scale
from ..runs.settings import OWN_LOOP
from ..tracing.model_trace import ModelTrace
from .curves import draw_curves, draw_heatmap
from .events import EventFile, GrowingFile
from .numbers import as_points, parts_as_points
from .recorder import metrics_row
from .tags import describe_probes
from .traces import TraceFile

OWN = "own"
"""The task of a run whose task seqmem does not know."""


class LayerProbe(GradientProbe):
    """The gradient of one layer; the first one has the tags of seqmem's own runs."""

    def __init__(self, name: str) -> None:
        super().__init__()
        self.name = name  # pyright: ignore[reportAttributeAccessIssue]


@dataclass
class Kept:
    """The traces of one layer so far, for its heat map."""

    steps: list[int] = field(default_factory=list)
    measured: list[Measurement] = field(default_factory=list)

    def read(self, places: Iterable[int]) -> Iterator[Measurement]:
        return (self.measured[place] for place in places)


class WriterCharts:
    """The numbers and heat maps of traces, in a ``SummaryWriter`` or what has its ``add_scalar`` and ``add_image``."""

    def __init__(self, writer: Any) -> None:
        self._writer = writer
        self._kept: dict[str, Kept] = {}
        folder = getattr(writer, "log_dir", None) or getattr(writer, "logdir", None)
        self._curves = None if folder is None else _event_file(Path(folder) / "gradient")
        self._first = True

    def image(self, tag: str, pixels: UInt8[ndarray, "height width *rgb"], step: int) -> None:
        self._writer.add_image(tag, pixels, step, dataformats="HWC")

    def add(self, step: int, trace: ModelTrace) -> None:
        for probe, part in _probes(trace).items():
            (measurement,) = measurements([part])
            for tag, value in _points(probe, measurement).items():
                self._writer.add_scalar(tag, value, step)
            kept = self._kept.setdefault(probe.name, Kept())
            if kept.measured and kept.measured[0].timesteps != measurement.timesteps:
                kept.steps.clear()
                kept.measured.clear()
            kept.steps.append(step)
            kept.measured.append(measurement)
            draw_heatmap(self, probe, kept, step)
            if self._curves is not None:
                _draw(self._curves, probe, measurement, first=self._first)
        self._first = False
        if self._curves is not None:
            self._curves.flush()


class OwnRun:
    """A run's directory that one training loop writes; each trace leaves a finished run, up to its step.

    Raises:
        RunError: another process writes it, or it cannot be written.
    """

    def __init__(self, path: Path, task: str, seed: int) -> None:
        self._run, self._task, self._seed, self._since = RunDirectory(path), task, seed, monotonic()
        self._lock = ExitStack()
        self._lock.enter_context(self._run.locked())
        if self._run.file(CONFIG).exists() and self._run.config().get("model") != OWN_LOOP:
            self._lock.close()
            raise RunError(f"{path} is a run of seqmem's: choose another run= for your own")
        self._run.restart()
        self._events = EventFile(self._run.file(EVENTS), describe=_describe)
        self._metrics = GrowingFile(self._run.file(METRICS))
        self._traces = TraceFile(self._run, "gradient")
        self._probe = GradientProbe()
        self._first: Measurement | None = None
        self._shape: tuple[Any, ...] = ()

    def add(self, step: int, trace: ModelTrace, loss: float) -> None:
        """
        Raises:
            ValueError: the trace has another length, batch or layers than those before, or a step does not grow.
        """
        part = _together(trace)
        (measurement,) = measurements([part])
        shape = (*sorted(part.norms), *part.state.shape, *part.answered_at.tolist())
        if self._first is not None and shape != self._shape:
            raise ValueError(
                "the traces of one run are of the same layers and the same sequences: log one fixed held-out batch "
                f"(this one has {part.state.shape[0]} timesteps, {part.state.shape[1]} sequences)"
            )
        if self._traces.steps and step <= self._traces.steps[-1]:
            raise ValueError(f"step={step}: the last trace of this run was of step {self._traces.steps[-1]}")
        self._metrics.write(metrics_row("eval", step, {"loss": loss, "score": loss}))
        self._events.scalars(step, {"eval/loss": loss})  # not among the scores, which are accuracies
        self._metrics.write(metrics_row("trace", step, {self._probe.name: measurement.scalars}))
        self._events.scalars(step, _points(self._probe, measurement))
        self._traces.append(step, measurement)
        _draw(self._events, self._probe, measurement, first=self._first is None)
        if len(self._traces.steps) > 1:
            draw_heatmap(self._events, self._probe, self._traces, step)
        for file in (self._metrics, self._events, self._traces):
            file.flush()
        self._first, self._shape = self._first or measurement, shape
        self._finish(step, trace, measurement, loss)

    def _finish(self, step: int, trace: ModelTrace, measurement: Measurement, loss: float) -> None:
        seq_len, seconds = int(measurement.answered_at.max()) + 1, monotonic() - self._since  # pyright: ignore
        config = {
            "task": {"name": self._task}, "cell": {"name": trace.model}, "model": OWN_LOOP,
            "run": self._run.path.name.removesuffix(f"-seed{self._seed}"),  # tells it from others of the same model
            "seq_len": seq_len, "seed": self._seed, "steps": step,
        }  # fmt: skip
        width = next(iter(trace.parts.values())).width
        facts = Facts(
            self._task, trace.model, seq_len, self._seed, width, len(trace.parts), trace.parameters, step, trace.device
        )
        scale = Scale(Metric("loss", higher_is_better=False), None, None, None)
        versions = {"python": platform.python_version(), "torch": torch.__version__, "seqmem": version("seqmem")}
        assert self._first is not None
        result = {
            **facts.fields(), **scale.fields(), "score": loss, "loss": loss, "solved": None, "steps_to_solve": None,
            "by_length": [], "probes": {"gradient": {"start": self._first.scalars, "end": measurement.scalars}},
            "seconds": round(seconds, 3), "steps_per_second": round(step / seconds, 3) if seconds > 0 else math.inf,
            "versions": versions,
        }  # fmt: skip
        write_json(self._run.file(CONFIG), config)
        write_json(self._run.file(ENVIRONMENT), {"versions": versions, "of": trace.of, "notes": [*trace.notes]})
        self._run.set_status("finished", step=step)
        content = json_bytes(result)
        write_checksums(self._run, {RESULT: content})
        write_atomically(self._run.file(RESULT), content)

    def close(self) -> None:
        with self._lock:
            self._metrics.close()
            self._events.close()
            self._traces.close()


_writers: "WeakKeyDictionary[Any, WriterCharts]" = WeakKeyDictionary()
_runs: dict[Path, OwnRun] = {}


def log_trace(
    writer: Any, step: int, trace: ModelTrace, *, run: Path | None, task: str, seed: int, loss: float | None
) -> None:
    """See ``seqmem.log``.

    Raises:
        ValueError: the loss is not known, or the trace does not go with those before.
        RunError: the run cannot be written.
    """
    if run is not None:
        loss = trace.loss if loss is None else loss
        if loss is None:
            raise ValueError("a tap's trace does not know its loss: give it, as loss=loss.item()")
        place = run.resolve()
        if place not in _runs:
            _runs[place] = OwnRun(run, task, seed)
        try:
            _runs[place].add(step, trace, loss)
        except OSError as error:
            raise RunError(f"cannot write to {run}: {error.strerror or error}") from error
    if writer is not None:
        if writer not in _writers:
            _writers[writer] = WriterCharts(writer)
        _writers[writer].add(step, trace)


def _probes(trace: ModelTrace) -> Mapping[LayerProbe, Trace]:
    """The first layer has the tags of seqmem's runs, the others have their path in theirs."""
    names = ["gradient", *(f"gradient_{path.replace('/', '.')}" for path in list(trace.parts)[1:])]
    return {LayerProbe(name): part.trace for name, part in zip(names, trace.parts.values(), strict=True)}


def _together(trace: ModelTrace) -> Trace:
    """The layers that read the same timesteps as the first one, as states of one model."""
    parts = {path: part.trace for path, part in trace.parts.items()}
    first = next(iter(parts.values()))
    norms: dict[str, ndarray] = {}
    for path, part in parts.items():
        same = part.state.shape == first.state.shape and np.array_equal(part.answered_at, first.answered_at)
        if same and trace.parts[path].reverse == next(iter(trace.parts.values())).reverse:
            norms |= {f"{path}/{name}": values for name, values in part.norms.items() if name != INPUT}
    if len(parts) == 1:
        norms = {name.rpartition("/")[2]: values for name, values in norms.items()}
    entered = {INPUT: first.norms[INPUT]} if INPUT in first.norms else {}
    return Trace({**norms, **entered}, first.answered_at)


def _points(probe: GradientProbe, measurement: Measurement) -> dict[str, float]:
    timesteps = measurement.timesteps or 1
    main = {f"{probe.name}/{name}": value for name, value in as_points(probe, measurement.scalars, timesteps)}
    return main | dict(parts_as_points(probe, measurement.scalars, timesteps))


def _draw(events: EventFile, probe: GradientProbe, measurement: Measurement, *, first: bool) -> None:
    for when in ("at start", "latest") if first else ("latest",):
        draw_curves(events, probe, when, measurement)


def _event_file(folder: Path) -> EventFile:
    folder.mkdir(parents=True, exist_ok=True)
    return EventFile(folder / EVENTS, describe=_describe)


def _describe(tag: str) -> str:
    name = tag.partition("/")[0]
    return describe_probes(tag, [GradientProbe(), LayerProbe(name)])
