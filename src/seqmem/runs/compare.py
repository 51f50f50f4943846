"""Compare two finished runs bit for bit: every number except durations, and the final weights."""

import math
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import numpy as np
from numpy import ndarray

from ..decay import is_current
from .directory import RunDirectory
from .files import CHECKPOINT, GRADIENTS, METRICS, RESULT, RunError, open_regular
from .result import StoredResult, diverged
from .traces import read_array

_CLOCK = ("seconds", "steps_per_second")
"""Fields of the result that no two runs share."""

_COMPUTED_WITH = ("versions", "device")
"""Fields of the result that are facts around it."""

_DESCRIBING = ("chance", "baseline_loss", "constant", "plateaus", "distinct")
"""Fields of the result, or of its lengths, that say how to read it, and that earlier versions did not write."""

_STARTED = ("started", "command", "earlier")
"""Fields of the environment that no two runs share."""


@dataclass(frozen=True)
class Difference:
    """One number: ``was`` in the run, ``now`` in the other; None where one of them has no such number.

    ``apart``: the absolute difference; ``relatively``: that over the larger magnitude. NaN where one is no number.
    """

    file: str
    step: int | None
    name: str
    was: Any
    now: Any

    @property
    def apart(self) -> float:
        if any(isinstance(value, bool) or not isinstance(value, int | float) for value in (self.was, self.now)):
            return math.nan
        return abs(float(self.now) - float(self.was)) if self.now != self.was else 0.0

    @property
    def relatively(self) -> float:
        apart = self.apart
        if not math.isfinite(apart) or apart == 0:
            return apart
        return apart / max(abs(float(self.was)), abs(float(self.now)))

    def fields(self) -> dict[str, Any]:
        return asdict(self) | {"apart": self.apart, "relatively": self.relatively}


@dataclass
class Compared:
    """One file: ``numbers`` compared, of which ``differ`` are not the same bits, by at most ``most`` of their size."""

    file: str
    numbers: int = 0
    differ: int = 0
    most: float = 0.0
    first: Difference | None = None

    def add(self, difference: Difference | None, numbers: int = 1, differ: int = 1, most: float | None = None) -> None:
        """Count ``numbers``, of which ``differ`` differ, unless ``difference``, the first of them, is None."""
        self.numbers += numbers
        if difference is None:
            return
        self.differ += differ
        self.most = max(self.most, _number(difference.relatively if most is None else most))
        if self.first is None or _step(difference) < _step(self.first):
            self.first = difference

    def fields(self) -> dict[str, Any]:
        return asdict(self) | {"first": self.first and self.first.fields()}


@dataclass
class Comparison:
    """Two runs of one configuration. ``environment``: fact -> [in the run, in the other], where they differ.

    ``diverged``: whether the run and the other did: such a run has no score that could be the same or not.
    """

    run: str
    reproduction: str
    diverged: tuple[bool, bool]
    files: list[Compared]
    environment: dict[str, tuple[Any, Any]]
    notes: list[str] = field(default_factory=list)

    @property
    def same(self) -> bool:
        return not any(file.differ for file in self.files)

    @property
    def first(self) -> Difference | None:
        """The difference at the earliest training step; at the same step, a metric before a trace."""
        return min((file.first for file in self.files if file.first is not None), key=_step, default=None)

    def fields(self) -> dict[str, Any]:
        """As ``seqmem reproduce --json`` prints it."""
        first, files = self.first and self.first.fields(), [file.fields() for file in self.files]
        return {"same": self.same, "first": first} | asdict(self) | {"files": files}


def _number(value: float) -> float:
    return 0.0 if math.isnan(value) else value


def _step(difference: Difference) -> float:
    return math.inf if difference.step is None else float(difference.step)


def compare(
    run: RunDirectory, other: RunDirectory, *, weights: Callable[[Path], Mapping[str, ndarray]] | None = None
) -> Comparison:
    """Compare two finished runs.

    Args:
        weights: reads a checkpoint's weights; None: they are not compared.

    Raises:
        RunError: a file of either cannot be read.
    """
    files = [_metrics(run, other), _gradients(run, other), _results(run, other)]
    if weights is not None:
        files.append(_checkpoints(run, other, weights))
    return Comparison(
        str(run.path),
        str(other.path),
        (diverged(_result(run)), diverged(_result(other))),
        [file for file in files if file is not None],
        _environments(run, other),
    )


def _same(one: Any, two: Any) -> bool:
    """The same bits: 0.0 is not -0.0, and NaN is NaN. repr tells every two floats apart."""
    return type(one) is type(two) and repr(one) == repr(two)


def _leaves(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _leaves(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from _leaves(inner, f"{name}[{place}]")
    else:
        yield name, value


def _differences(file: str, step: int | None, one: Any, two: Any) -> Iterator[Difference | None]:
    """One entry for each number of either run: its Difference, or None if equal."""
    was, now = dict(_leaves(one)), dict(_leaves(two))
    for name in [*was, *(name for name in now if name not in was)]:
        both = name in was and name in now
        recorded = was.get(name) is not None and now.get(name) is not None
        if not recorded and any(part in _DESCRIBING for part in re.split(r"[.\[]", name)):
            continue
        same = both and _same(was[name], now[name])
        yield None if same else Difference(file, step, name, was.get(name), now.get(name))


def _metrics(run: RunDirectory, other: RunDirectory) -> Compared:
    compared, one, two = Compared(METRICS), run.metrics(), other.metrics()
    for was, now in zip(one, two, strict=False):
        kind, step = was.pop("kind", None), was.pop("step", None)
        if (kind, step) != (now.pop("kind", None), now.pop("step", None)):
            raise RunError(f"{run.file(METRICS)} and {other.file(METRICS)} are not of the same measurements")
        was, now = _of_one_definition(was, now)
        for difference in _differences(METRICS, step, {str(kind): was}, {str(kind): now}):
            compared.add(difference)
    if len(one) != len(two):
        longer = (one if len(one) > len(two) else two)[min(len(one), len(two)) :]
        compared.add(Difference(METRICS, longer[0].get("step"), "lines", len(one), len(two)))
    return compared


def _results(run: RunDirectory, other: RunDirectory) -> Compared:
    compared, left_out = Compared(RESULT), (*_CLOCK, *_COMPUTED_WITH)
    one, two = ({key: value for key, value in _result(each).items() if key not in left_out} for each in (run, other))
    for difference in _differences(RESULT, None, *_of_one_definition(one, two)):
        compared.add(difference)
    return compared


def _of_one_definition(one: Mapping[str, Any], two: Mapping[str, Any]) -> tuple[Mapping[str, Any], Mapping[str, Any]]:
    """Leave out the gradient's numbers where an earlier version defined those of one of the runs differently. They
    follow from the traces, which are compared."""
    if {_has_current_decays(one), _has_current_decays(two)} != {True, False}:
        return one, two
    left, right = ({**each, "probes": {**each["probes"], "gradient": None}} for each in (one, two))
    return left, right


def _has_current_decays(values: Mapping[str, Any]) -> bool | None:
    """None: there are none."""
    measured = values.get("probes", {}).get("gradient")
    decays = [part for part in _mappings(measured) if "half_life" in part]
    return all(map(is_current, decays)) if decays else None


def _mappings(value: Any) -> Iterator[Mapping[str, Any]]:
    if isinstance(value, Mapping):
        yield value
        for inner in value.values():
            yield from _mappings(inner)


def _result(run: RunDirectory) -> StoredResult:
    result = run.result()
    if result is None:
        raise RunError(f"{run.path} is not finished: it has no {RESULT}")
    return result


def _gradients(run: RunDirectory, other: RunDirectory) -> Compared | None:
    """One series in memory at a time: traces can be larger than the memory."""
    paths = [each.file(GRADIENTS) for each in (run, other)]
    if not any(path.exists() for path in paths):
        return None
    for path in paths:
        if not path.exists():
            raise RunError(f"{path} is missing: the traces cannot be compared")
    compared, path = Compared(GRADIENTS), paths[0]
    try:
        with (
            open_regular(paths[0]) as a, open_regular(paths[1]) as b, ZipFile(a) as one, ZipFile(b) as two
        ):  # fmt: skip
            names, others = ([name.removesuffix(".npy") for name in each.namelist()] for each in (one, two))
            if sorted(names) != sorted(others):
                compared.add(Difference(GRADIENTS, None, "series", ", ".join(names), ", ".join(others)))
                return compared
            steps = read_array(one, "step")
            for name in names:
                was, path = read_array(one, name), paths[1]
                now, path = read_array(two, name), paths[0]
                _arrays(compared, GRADIENTS, name, was, now, steps if name.startswith("norm/") else None)
    except Exception as error:  # whatever zipfile and numpy make of damaged bytes
        raise RunError(f"{path} cannot be read: {' '.join(str(error).split()) or type(error).__name__}") from error
    return compared


def _checkpoints(
    run: RunDirectory, other: RunDirectory, weights: Callable[[Path], Mapping[str, ndarray]]
) -> Compared | None:
    """None if a checkpoint is missing; users delete them to save space."""
    if not (run.file(CHECKPOINT).exists() and other.file(CHECKPOINT).exists()):
        return None
    one, two = (weights(each.file(CHECKPOINT)) for each in (run, other))
    compared = Compared(CHECKPOINT)
    for name in [*one, *(name for name in two if name not in one)]:
        if name in one and name in two:
            _arrays(compared, CHECKPOINT, name, one[name], two[name], None)
        else:
            compared.add(Difference(CHECKPOINT, None, name, name in one or None, name in two or None))
    return compared


def _arrays(compared: Compared, file: str, name: str, was: ndarray, now: ndarray, steps: ndarray | None) -> None:
    """``steps``: the training steps along the first axis, where it is that of traces."""
    if (was.shape, was.dtype) != (now.shape, now.dtype):
        kinds = [f"{each.dtype} {list(each.shape)}" for each in (was, now)]
        compared.add(Difference(file, None, name, *kinds))
        return
    bits = f"u{was.dtype.itemsize}"
    places = np.flatnonzero(
        np.ascontiguousarray(was).view(bits).ravel() != np.ascontiguousarray(now).view(bits).ravel()
    )
    if not len(places):
        compared.add(None, was.size)
        return
    at = np.unravel_index(places[0], was.shape)
    step = int(steps[at[0]]) if steps is not None else None
    inside = at[1:] if steps is not None else at
    label = f"{name}[{', '.join(str(int(place)) for place in inside)}]"
    before, after = was.ravel()[places].astype(np.float64), now.ravel()[places].astype(np.float64)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        relatively = np.abs(after - before) / np.maximum(np.abs(after), np.abs(before))
    most = float(np.nanmax(relatively)) if np.isfinite(relatively).any() else math.nan
    first = Difference(file, step, label, was[at].item(), now[at].item())
    compared.add(first, was.size, len(places), most)


def _environments(run: RunDirectory, other: RunDirectory) -> dict[str, tuple[Any, Any]]:
    """Versions and machine facts that differ."""
    one, two = (_known(each) for each in (run, other))
    return {
        name: (one.get(name), two.get(name))
        for name in [*one, *(name for name in two if name not in one)]
        if one.get(name) != two.get(name)
    }


def _known(run: RunDirectory) -> dict[str, Any]:
    environment = run.environment()
    earlier = environment.get("earlier") or []
    known = {name: value for name, value in environment.items() if name not in _STARTED}
    known["device"] = _result(run)["device"]
    for name in known:  # a run that was resumed elsewhere has several values
        values = [part.get(name) for part in earlier if isinstance(part, Mapping) and name in part]
        if any(value != known[name] for value in values):
            known[name] = ", then ".join(str(value) for value in dict.fromkeys([*values, known[name]]))
    return known
