"""One measurement with a user's own probe.

Axes: T time, B batch.
"""

import json
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ....laws.words import kind, with_type
from ....measurement import Measurement, Number, plain
from ....models.base import Model
from ....probes.base import Curves, Probe, Scheduled, Snapshots
from ....randomness import ambient, disturbed, generator
from ....signals import Batch
from ....training.plan import Plan
from ..errors import ConfigError

_SEQUENCES = 3

_MEASUREMENT = "seqmem.measurement.Measurement({name: number}, {name: series})"


def try_declared(probe: Probe, where: str) -> None:
    """See that a user's own probe says what it measures, before anything asks it.

    Raises:
        ConfigError: it does not.
    """
    numbers = getattr(probe, "numbers", None)
    if not isinstance(numbers, Mapping) or not all(isinstance(number, Number) for number in numbers.values()):
        what = f"numbers is {kind(numbers)}" if not isinstance(numbers, Mapping) else "numbers has other things"
        raise ConfigError(f"{where}: {what}: a dictionary from names to seqmem.measurement.Number('title', 'meaning')")
    for name, number in numbers.items():
        if not isinstance(name, str):
            raise ConfigError(f"{where}: a number is called {name!r}: names must be strings")
        if number.fit and number.fit not in numbers:
            raise ConfigError(f"{where}: the number '{name}' has fit='{number.fit}', which is none of its numbers")
    for name, wanted in (("main", str), ("curves", Curves)):
        if not isinstance(value := getattr(probe, name), wanted):
            raise ConfigError(f"{where}: {name} is {kind(value)}: it must be a {wanted.__name__}")


def try_probe(scheduled: Scheduled, where: str, model: Model, plan: Plan, task: Any) -> None:
    """Measure a model once with a user's own probe, as training does before its first step, on a few sequences.

    Copies are measured, by a copy of the probe: what is tried stays as it was.

    Args:
        where: begins each message, e.g. ``probe.size.target=toys.Size``.

    Raises:
        ConfigError: it breaks what a probe promises.
    """
    few = max(1, min(_SEQUENCES, scheduled.sequences))
    batch = plan.parts(task).validation.sample(few, plan.seq_len, generator(plan.seed, "trial"))
    _Trial(scheduled.probe, where, model, task, batch.to("cpu", torch.float64)).run()


@dataclass(frozen=True)
class _Trial:
    probe: Probe
    where: str
    model: Model
    task: Any
    batch: Batch

    def run(self) -> None:
        probe = self._copied()
        with disturbed(0):
            first = self._checked(self._measured(probe), "measure")
        with disturbed(1) as touched:
            again = self._checked(self._measured(probe), "measure")
        if name := _difference(first, again):
            repair = "it must depend on its arguments alone; what it keeps on self is lost when a run is resumed"
            if touched:  # torch's is seeded for each measurement
                repair = f"draw from torch's global generator, not from {touched[0]}'s, which no seed of the run sets"
            raise self._wrong(f"measure gives another {name} for the same model again", repair)
        self._check_told(probe, first)
        self._check_snapshots(probe, first)

    def _wrong(self, what: str, repair: str) -> ConfigError:
        return ConfigError(f"{self.where}: {what}: {repair}")

    def _copied(self) -> Probe:
        try:
            return deepcopy(self.probe)
        except Exception as error:
            raise ConfigError(f"{self.where}: it cannot be copied: {with_type(error)}") from error

    def _measured(self, probe: Probe) -> Any:
        copy = deepcopy(self.model).to("cpu").double().eval()
        batch = Batch(*(values.clone() for values in vars(self.batch).values()))
        try:
            with ambient(0, "trial"):
                return probe.measure(copy, self.task, batch)
        except Exception as error:
            raise ConfigError(f"{self.where}: measure fails: {with_type(error)}") from error

    # What it measured

    def _checked(self, measurement: Any, method: str) -> Measurement:
        """The measurement, with plain numbers."""
        if not isinstance(measurement, Measurement):
            raise self._wrong(f"{method} returns {kind(measurement)}", f"it must return {_MEASUREMENT}")
        scalars = self._checked_scalars(measurement.scalars, method)
        self._check_series(measurement, method)
        return Measurement(scalars, measurement.series, measurement.answered_at)

    def _checked_scalars(self, scalars: Any, method: str) -> Mapping[str, Any]:
        probe = self.probe
        if not isinstance(scalars, Mapping):
            raise self._wrong(f"{method} returns {kind(scalars)} as scalars", f"it must return {_MEASUREMENT}")
        parts = {name: part for name, part in scalars.items() if isinstance(part, Mapping)}
        for name, value in (pair for part in (scalars, *parts.values()) for pair in part.items()):
            if not isinstance(name, str):
                raise self._wrong(f"{method} returns a number called {name!r}", "names are those in numbers")
            if name in parts and value is parts[name]:
                continue
            if name not in probe.numbers:
                declared = ", ".join(probe.numbers) or "none"
                raise self._wrong(f"{method} returns a number '{name}'", f"numbers has {declared}; add it there")
            if not _is_number(value):
                repair = "a float; NaN where it is not known, infinity where it has no end"
                raise self._wrong(f"{method} returns {kind(value)} as the number '{name}'", repair)
        if parts and probe.main not in parts:
            raise self._wrong(
                f"{method} returns the parts {', '.join(map(str, parts))}, and main is '{probe.main}'",
                "name in main the part that is shown where only one fits",
            )
        if probe.main and not parts and scalars:
            raise self._wrong(
                f"{method} returns no part '{probe.main}', as main says",
                "leave it out, or return {part: {name: number}}",
            )
        if probe.numbers and not any(parts.values() if parts else [scalars]):
            raise self._wrong(f"{method} returns none of its numbers", f"numbers has {', '.join(probe.numbers)}")
        return plain(scalars, probe.numbers)

    def _check_series(self, measurement: Measurement, method: str) -> None:
        steps, count = self.batch.asked.shape
        if not isinstance(measurement.series, Mapping):
            raise self._wrong(f"{method} returns {kind(measurement.series)} as series", "a dictionary of arrays [T B]")
        for name, values in measurement.series.items():
            what = f"{method} returns the series {name!r}"
            if not isinstance(name, str):
                raise self._wrong(what, "names must be strings")
            if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiub":
                as_numpy = ".detach().numpy()" if isinstance(values, Tensor) else "np.array(...)"
                got = f"numbers of type {values.dtype}" if isinstance(values, np.ndarray) else kind(values)
                raise self._wrong(f"{what} as {got}", f"an array of float64, e.g. by {as_numpy}")
            if values.shape not in ((steps,), (steps, count)):
                shapes = f"({steps},) or ({steps}, {count}), [T] or [T B]"
                raise self._wrong(f"{what} of shape {values.shape}", f"{shapes}, with NaN where there is no value")
        if len({values.ndim for values in measurement.series.values()}) > 1:
            raise self._wrong(f"{method} returns series [T] and series [T B]", "they must be of one shape")
        answered = measurement.answered_at
        if answered is not None and not (isinstance(answered, np.ndarray) and answered.shape == (count,)):
            raise self._wrong(
                f"{method} returns {kind(answered)} as answered_at", f"an array of {count} timesteps, [B]"
            )

    def _check_told(self, probe: Probe, measurement: Measurement) -> None:
        """What else it makes of its numbers and series."""
        try:
            combined = probe.combined(
                {name: values.reshape(len(values), -1) for name, values in measurement.series.items()}
            )
        except Exception as error:
            raise ConfigError(f"{self.where}: combined fails: {with_type(error)}") from error
        if not isinstance(combined, Mapping):
            raise self._wrong(f"combined returns {kind(combined)}", "a dictionary of arrays [T B]")
        description = probe.description()
        if description.in_words is not None:
            try:
                words = description.in_words(description.of_main(measurement.scalars))
            except Exception as error:
                raise ConfigError(
                    f"{self.where}: in_words fails: {with_type(error)}: is it a static method?"
                ) from error
            if not isinstance(words, str):
                raise self._wrong(f"in_words returns {kind(words)}", "what the numbers say together, as text")
        try:
            json.dumps(description.fields())
        except (TypeError, ValueError) as error:
            raise ConfigError(f"{self.where}: its numbers cannot be stored: {with_type(error)}") from error

    def _check_snapshots(self, probe: Probe, expected: Measurement) -> None:
        """A way to measure later gives the same, and leaves the model that is trained alone."""
        model = deepcopy(self.model)
        before = _state(model)
        snapshots = probe.snapshots(model, self.task)
        if snapshots is None:
            return
        if not isinstance(snapshots, Snapshots):
            raise self._wrong(
                f"snapshots returns {kind(snapshots)}", "None, or an object with nbytes, take and measure"
            )
        try:
            taken = snapshots.take()
            measured: Sequence[Any] = snapshots.measure(self.batch, [taken])
        except Exception as error:
            raise ConfigError(f"{self.where}: snapshots fail: {with_type(error)}") from error
        if before != _state(model):
            raise self._wrong("snapshots change the model that is trained", "take a copy of what they need")
        if len(measured) != 1:
            raise self._wrong(f"snapshots give {len(measured)} measurements of 1 model", "one each")
        if name := _difference(expected, self._checked(measured[0], "measure of its snapshots")):
            raise self._wrong(f"snapshots give another {name} than measure, which defines it", "mend or leave them out")


def _is_number(value: Any) -> bool:
    try:
        return not isinstance(value, str) and isinstance(float(value), float)
    except (TypeError, ValueError, RuntimeError):
        return False


def _difference(one: Measurement, two: Measurement) -> str | None:
    """The first number or series that differs beyond rounding; None: none does."""
    if one.scalars.keys() != two.scalars.keys():
        return "set of numbers"
    for name, value in one.scalars.items():
        values = [
            [*scalars[name].values()] if isinstance(value, Mapping) else [scalars[name]]
            for scalars in (one.scalars, two.scalars)
        ]
        if len(values[0]) != len(values[1]) or not np.allclose(*values, rtol=1e-6, atol=1e-12, equal_nan=True):
            return f"'{name}'"
    if one.series.keys() != two.series.keys():
        return "set of series"
    for name, series in one.series.items():
        if not np.allclose(series, two.series[name], rtol=1e-6, atol=1e-12, equal_nan=True):
            return f"series '{name}'"
    return None


def _state(model: nn.Module) -> list[Any]:
    """What training counts on: the weights, their gradients, and which parts are in training mode."""
    return [
        *((name, value.dtype, value.tolist()) for name, value in model.state_dict().items()),
        *(value.grad is None for value in model.parameters()),
        *(part.training for part in model.modules()),
    ]
