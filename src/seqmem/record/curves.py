"""Draws the series of a probe in TensorBoard: by timestep, by distance from the answer, and as a heatmap.

Axes: T time, B batch, K timesteps back from the answer.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import inf
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8
from numpy import ndarray

from ..decay import mean_by_distance, one_step_back
from ..measurement import Measurement
from ..probes.base import Probe
from . import tags
from .events import EventFile
from .tags import FLOOR

MOST_POINTS = 256
"""Points of a curve in TensorBoard; longer ones are thinned evenly. Files have them all."""


def draw_curves(events: EventFile, probe: Probe, when: str, measurement: Measurement) -> None:
    """Every series, mean over sequences. ``when``: ``latest``, ``at start`` or ``at end``."""
    by_timestep, by_distance = {}, {}
    for name, values in _all_series(probe, measurement).items():
        by_timestep[tags.by_timestep(probe, name, when)] = _scaled(probe, values.mean(1))
        if measurement.answered_at is not None:
            back = mean_by_distance(values, measurement.answered_at)
            share = _relative(back[1:], one_step_back(back))
            by_distance[tags.by_distance(probe, name, when)] = _scaled(probe, share)
    _write_thinned(events, by_timestep)
    _write_thinned(events, by_distance, first=1)


def draw_percentiles(events: EventFile, probe: Probe, measurement: Measurement) -> None:
    """The spread of the main series over sequences, after training."""
    series = _all_series(probe, measurement)
    if probe.main not in series:
        return
    percentiles = np.percentile(series[probe.main], (10, 50, 90), axis=1)
    names = ("10th percentile", "median", "90th percentile")
    rows = {
        tags.by_timestep(probe, probe.main, "at end", name): _scaled(probe, row)
        for name, row in zip(names, percentiles, strict=True)
    }
    _write_thinned(events, rows)


@runtime_checkable
class Traces(Protocol):
    """Measurements of a probe, from a file or not."""

    @property
    def steps(self) -> Sequence[int]: ...

    def read(self, places: Iterable[int]) -> Iterator[Measurement]: ...


@runtime_checkable
class Pictures(Protocol):
    """What shows an image [height width 3]."""

    def image(self, tag: str, pixels: UInt8[ndarray, "height width *rgb"], step: int) -> None: ...


def draw_heatmap(events: Pictures, probe: Probe, traces: Traces, step: int) -> None:
    """The main series over all of training so far, relative to one step back from the answer."""
    from .pictures.heatmap import heatmap, visible  # Pillow is not needed before the first step

    if not probe.curves.heatmap:
        return
    rows = []
    for trace in traces.read(visible(len(traces.steps)).tolist()):
        values = _all_series(probe, trace)[probe.main]
        if trace.answered_at is None:
            return
        rows.append(_relative(values.mean(1), one_step_back(mean_by_distance(values, trace.answered_at))))
    picture = heatmap(_log10(np.stack(rows)), traces.steps)
    events.image(f"{probe.name}/heatmap", picture, step)


def _all_series(probe: Probe, measurement: Measurement) -> dict[str, Float[ndarray, "T B"]]:
    series = {name: values.reshape(len(values), -1) for name, values in measurement.series.items()}
    return {**probe.combined(series), **series}


def _relative(values: Float[ndarray, " points"], reference: float) -> Float[ndarray, " points"]:
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return values / reference


def _scaled(probe: Probe, values: Float[ndarray, " points"]) -> Float[ndarray, " points"]:
    """Logarithms below FLOOR are ``-inf``: ``EventFile.curves`` ends the line there."""
    if not probe.curves.log:
        return values
    logs = _log10(values)
    return np.where(logs < FLOOR, -inf, logs)


def _log10(values: Float[ndarray, "*shape"]) -> Float[ndarray, "*shape"]:
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.log10(values)


def _write_thinned(events: EventFile, curves: Mapping[str, Float[ndarray, " points"]], *, first: int = 0) -> None:
    """``first``: the step of the first point."""
    count = len(next(iter(curves.values()), ()))
    if count:
        places = thinned(count)
        events.curves(first + places, {tag: values[places] for tag, values in curves.items()})


def thinned(count: int) -> ndarray:
    """Which points of a curve are drawn."""
    if count <= MOST_POINTS:
        return np.arange(count)
    return np.linspace(0, count - 1, MOST_POINTS).round().astype(int)
