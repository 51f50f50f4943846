"""``seqmem reproduce``: a finished run once more, elsewhere, and whether every number is the same, bit for bit."""

import json
import math
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np
from rich.console import Console
from rich.text import Text

from ...runs.directory import CHECKPOINT, GRADIENTS, METRICS, RESULT, RunDirectory, RunError, plain_json, read_json
from ..config import schema as settings
from ..config.choose import one_run, refuse_unfinished
from ..config.compose import configuration, explained
from ..config.errors import ConfigError, Parser
from ..launch.one_run import execute, run_path

HERE = ("device", "kernel", "threads")
"""Settings of a run that may be given anew: they are not what it is, but what computes it."""

NEVER_THE_SAME = ("seconds", "steps_per_second")
"""Of ``result.json``: how long it took."""

FACTS = ("versions", "device")
"""Of ``result.json``: with what it was computed."""

NOT_COMPARED = ("started", "command", "earlier")
"""Of ``environment.json``."""


def main(args: Sequence[str]) -> int:
    parser = Parser(
        prog="seqmem reproduce",
        description="Run a finished run's saved configuration again, elsewhere, and say whether its numbers are "
        "bitwise the same, or where they first differ. Exit code 0: they are the same; 1: they are not.",
        epilog="example: seqmem reproduce outputs/pronoun/lstm/len50-seed0-1a2b3c4d. Stopped and started again it goes "
        "on, like any run. The run itself is never touched.",
    )
    parser.add_argument("run", metavar="RUN", help="a run's directory, or a part of its name that no other has")
    parser.add_argument(
        "settings",
        nargs="*",
        default=[],
        metavar="key=value",
        help="device=, kernel=, threads=: what computes it, where that shall not be what the run asked for",
    )
    parser.add_argument(
        "--out",
        metavar="DIR",
        help="where the second run is put, as in outputs=DIR (default: a new folder beside the run's own outputs, "
        "outputs-reproduced/1); one that stands there finished is compared as it is",
    )
    parser.add_argument("--json", action="store_true", help="the comparison as JSON, and nothing else on the output")
    options = parser.parse_intermixed_args(args)
    run = one_run(options.run, "seqmem reproduce")
    found = reproduce(run, options.out, options.settings, quiet=options.json)
    if options.json:
        print(json.dumps(plain_json(found.said()), indent=1, allow_nan=False))
    else:
        show(found, Console(highlight=False))
    return 0 if found.same else 1


# What differs


@dataclass(frozen=True)
class Difference:
    """One number. ``was`` in the run, ``now`` in its reproduction; None where one of them has no such number.

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


@dataclass
class Compared:
    """One file: how many of its numbers were held against each other, and how many are not the same bits."""

    file: str
    numbers: int = 0
    differ: int = 0
    most: float = 0.0  # the largest relative difference
    first: Difference | None = None

    def add(self, found: Difference | None, numbers: int = 1, differ: int = 1, most: float | None = None) -> None:
        self.numbers += numbers
        if found is None:
            return
        self.differ += differ
        relatively = found.relatively if most is None else most
        if relatively > self.most:
            self.most = relatively
        if self.first is None or _step(found) < _step(self.first):
            self.first = found


@dataclass
class Reproduction:
    """Two runs of one configuration. ``environment``: fact -> [then, now], where they differ."""

    run: str
    reproduction: str
    files: list[Compared]
    environment: dict[str, tuple[Any, Any]]
    notes: list[str] = field(default_factory=list)

    @property
    def same(self) -> bool:
        return not any(compared.differ for compared in self.files)

    @property
    def first(self) -> Difference | None:
        """Of the earliest training step; at the same step the metrics, which come first, speak for the traces."""
        return min((file.first for file in self.files if file.first is not None), key=_step, default=None)

    def said(self) -> dict[str, Any]:
        """For programs."""
        files = [asdict(file) | {"first": _said(file.first)} for file in self.files]
        return {"same": self.same, "first": _said(self.first)} | asdict(self) | {"files": files}


def _said(found: Difference | None) -> dict[str, Any] | None:
    return found and asdict(found) | {"apart": found.apart, "relatively": found.relatively}


def _step(found: Difference) -> float:
    return math.inf if found.step is None else float(found.step)


def compare(run: RunDirectory, other: RunDirectory) -> Reproduction:
    """Hold two finished runs against each other: every number that is no time, and the final weights.

    Raises:
        RunError: a file of either cannot be read.
    """
    files = [_metrics(run, other), _gradients(run, other), _result(run, other), _weights(run, other)]
    return Reproduction(
        str(run.path), str(other.path), [file for file in files if file is not None], _facts(run, other)
    )


def _same(one: Any, two: Any) -> bool:
    """The same bits: 0.0 is not -0.0, and NaN is NaN. repr tells every two floats apart."""
    return type(one) is type(two) and repr(one) == repr(two)


def _flat(value: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping):
        for key, inner in value.items():
            yield from _flat(inner, f"{name}.{key}" if name else str(key))
    elif isinstance(value, list):
        for place, inner in enumerate(value):
            yield from _flat(inner, f"{name}[{place}]")
    else:
        yield name, value


def _differences(file: str, step: int | None, one: Any, two: Any) -> Iterator[Difference | None]:
    """For every number of either: None where it is the same."""
    was, now = dict(_flat(one)), dict(_flat(two))
    for name in [*was, *(name for name in now if name not in was)]:
        same = name in was and name in now and _same(was[name], now[name])
        yield None if same else Difference(file, step, name, was.get(name), now.get(name))


def _metrics(run: RunDirectory, other: RunDirectory) -> Compared:
    compared, one, two = Compared(METRICS), run.metrics(), other.metrics()
    for was, now in zip(one, two, strict=False):
        kind, step = was.pop("kind", None), was.pop("step", None)
        if (kind, step) != (now.pop("kind", None), now.pop("step", None)):
            raise RunError(f"{run.file(METRICS)} and {other.file(METRICS)} are not of the same measurements")
        for found in _differences(METRICS, step, {str(kind): was}, {str(kind): now}):
            compared.add(found)
    if len(one) != len(two):
        longer = (one if len(one) > len(two) else two)[min(len(one), len(two)) :]
        compared.add(Difference(METRICS, longer[0].get("step"), "lines", len(one), len(two)))
    return compared


def _result(run: RunDirectory, other: RunDirectory) -> Compared:
    compared, left_out = Compared(RESULT), (*NEVER_THE_SAME, *FACTS)
    one, two = ({key: x for key, x in _read_result(each).items() if key not in left_out} for each in (run, other))
    for found in _differences(RESULT, None, one, two):
        compared.add(found)
    return compared


def _read_result(run: RunDirectory) -> dict[str, Any]:
    found = run.result()
    if not isinstance(found, dict):
        raise RunError(f"{run.file(RESULT)} is not a result that seqmem wrote")
    return found


def _gradients(run: RunDirectory, other: RunDirectory) -> Compared | None:
    """One series in memory at a time: traces can be larger than that."""
    paths = [each.file(GRADIENTS) for each in (run, other)]
    if not any(path.exists() for path in paths):
        return None
    for path in paths:
        if not path.exists():
            raise RunError(f"{path} is missing: the traces cannot be compared")
    compared, path = Compared(GRADIENTS), paths[0]
    try:
        with paths[0].open("rb") as a, paths[1].open("rb") as b, np.load(a) as one, np.load(b) as two:
            if sorted(one.files) != sorted(two.files):
                compared.add(Difference(GRADIENTS, None, "series", ", ".join(one.files), ", ".join(two.files)))
                return compared
            steps = one["step"]
            for name in one.files:
                was, path = one[name], paths[1]
                now, path = two[name], paths[0]
                _arrays(compared, GRADIENTS, name, was, now, steps if name.startswith("norm/") else None)
    except (OSError, EOFError, ValueError, KeyError, IndexError, BadZipFile) as error:
        raise RunError(f"{path} cannot be read: {error}") from error
    return compared


def _weights(run: RunDirectory, other: RunDirectory) -> Compared | None:
    """None where the run's checkpoint was deleted, as is done to save room."""
    if not (run.file(CHECKPOINT).exists() and other.file(CHECKPOINT).exists()):
        return None
    from ...record.recorder import load_checkpoint

    one, two = (load_checkpoint(each.file(CHECKPOINT))["model"] for each in (run, other))
    compared = Compared(CHECKPOINT)
    for name in [*one, *(name for name in two if name not in one)]:
        if name in one and name in two:
            _arrays(compared, CHECKPOINT, name, one[name].numpy(), two[name].numpy(), None)
        else:
            compared.add(Difference(CHECKPOINT, None, name, name in one or None, name in two or None))
    return compared


def _arrays(
    compared: Compared, file: str, name: str, was: np.ndarray, now: np.ndarray, steps: np.ndarray | None
) -> None:
    """``steps``: of the first axis, where it is that of traces."""
    if (was.shape, was.dtype) != (now.shape, now.dtype):
        said = [f"{each.dtype} {list(each.shape)}" for each in (was, now)]
        compared.add(Difference(file, None, name, *said))
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
    found = Difference(file, step, label, was[at].item(), now[at].item())
    compared.add(found, was.size, len(places), most)


def _facts(run: RunDirectory, other: RunDirectory) -> dict[str, tuple[Any, Any]]:
    """Versions and facts of the machines, where they differ."""
    one, two = (_known(each) for each in (run, other))
    return {
        name: (one.get(name), two.get(name))
        for name in [*one, *(name for name in two if name not in one)]
        if one.get(name) != two.get(name)
    }


def _known(run: RunDirectory) -> dict[str, Any]:
    found = read_json(run.file("environment.json")) or {}
    earlier = found.get("earlier") or []
    known = {name: value for name, value in found.items() if name not in NOT_COMPARED}
    known["device"] = _read_result(run).get("device")
    for name in known:  # of a run that was resumed with something else
        values = [part.get(name) for part in earlier if isinstance(part, Mapping) and name in part]
        if any(value != known[name] for value in values):
            known[name] = ", then ".join(str(value) for value in dict.fromkeys([*values, known[name]]))
    return known


# Doing it again


def reproduce(run: RunDirectory, out: str | None, given: Sequence[str] = (), *, quiet: bool = False) -> Reproduction:
    """Train the run's configuration elsewhere, or go on with that, and compare.

    Raises:
        RunError: no such run, not finished, or unreadable; or the second one fails.
        ConfigError: its configuration cannot be run here.
    """
    config = configuration(run)
    refuse_unfinished(run)
    for text in given:
        key, equals, value = text.partition("=")
        if not equals or key not in HERE:
            raise ConfigError(f"'{text}' is not a setting: {'=, '.join(HERE)}= are; all others are the run's")
        with explained():
            checked = settings.from_mapping(
                settings.everything(config) | {key: int(value) if value.isdigit() else value}
            )
        setattr(config, key, getattr(checked, key))

    config.force, config.quiet = False, quiet
    notes = _whose_name_differs(run, run_path(config).name, config)
    config.outputs = out if out is not None else str(_fresh(run, partial(_placed, run_path, config)))
    place = RunDirectory(run_path(config))
    if place.path.resolve() == run.path.resolve():
        raise ConfigError(f"--out {out}: that is where the run itself is; choose another directory")
    stood = place.finished
    config.quiet |= stood  # no line about force=true, which is no word here
    # Where it is trained is told apart from what was found, so that this can be piped.
    second = execute(config, overrides=_overrides(run), console=Console(stderr=True, highlight=False))
    if stood:
        notes.append(f"{second.path} was there, finished, and is compared as it is: another --out trains it anew")
    found = compare(run, second)
    found.notes = notes
    return found


def _whose_name_differs(run: RunDirectory, name: str, config: settings.RunConfig) -> list[str]:
    """A run's name ends with a hash of its configuration and, for classes of the user's own, of their code.

    Raises:
        RunError: the code has changed since, or is gone.
    """
    own = run.path.resolve().name
    if own == name or not re.fullmatch(r"len\d+-seed-?\d+-[0-9a-f]{8}", own):
        return []
    custom = [str(part["target"]) for part in (config.cell, config.task) if part.get("name") == "custom"]
    if custom:
        raise RunError(
            f"{run.path}: the code of {' or '.join(custom)} is not what it was when the run was made, or is not found "
            f"from {Path.cwd()}: its configuration would make {name} here"
        )
    return [f"its configuration is called {name} by this seqmem: the file was changed, or an older seqmem wrote it"]


def _placed(run_path: Any, config: settings.RunConfig, outputs: Path) -> RunDirectory:
    config.outputs = str(outputs)
    return RunDirectory(run_path(config))


def _fresh(run: RunDirectory, placed: Any) -> Path:
    """The first of outputs-reproduced/1, 2, 3 ... where this run is not finished yet: a stopped one is gone on with."""
    path = run.path if len(run.path.parts) > 3 else run.path.resolve()
    task, cell = placed(Path()).path.parts[-3:-1]
    outputs = path.parents[2] if path.parts[-3:-1] == (task, cell) else path.parent
    name = outputs.resolve().name or "outputs"
    # Beside outputs and not inside: what reads a folder of runs would take every run twice.
    base = outputs.parent if outputs.name else outputs.resolve().parent
    number = 1
    while placed(base / f"{name}-reproduced" / str(number)).finished:
        number += 1
    return base / f"{name}-reproduced" / str(number)


def _overrides(run: RunDirectory) -> list[str]:
    try:
        found = json.loads(run.file("overrides.json").read_text())
    except (OSError, ValueError):  # a record for people, and no more
        return []
    return [str(text) for text in found] if isinstance(found, list) else []


# Saying it


def show(found: Reproduction, console: Console) -> None:
    def say(text: str, style: str = "") -> None:
        console.print(Text(text, style), soft_wrap=True)

    for note in found.notes:
        say(note, "yellow")
    if found.same:
        say("bitwise the same", "bold green")
    else:
        say("not the same", "bold red")
    first = found.first
    if first is not None:
        say(f"  first        {_place(first)}: {_pair(first)}")
    for file in found.files:
        same = f"{file.numbers:,} numbers, all the same"
        most = f", by up to {file.most:.2g} of their size" if file.most and math.isfinite(file.most) else ""
        differ = f"{file.differ:,} of {file.numbers:,} numbers differ{most}"
        say(f"  {file.file:<16} {differ if file.differ else same}")
        if file.first is not None and file.first is not first:
            say(f"  {'':<16} the first: {_place(file.first, within=True)}: {_pair(file.first)}")
    if found.environment:
        say("what differs around them (then, now):" if found.same else "what may be why (then, now):")
        for name, (was, now) in found.environment.items():
            say(f"  {name:<16} {_value(was)}, {_value(now)}")
    else:
        say("versions and machine: no fact that is recorded differs")
    say(f"  run              {found.run}", "dim")
    say(f"  again            {found.reproduction}", "dim")


def _place(found: Difference, *, within: bool = False) -> str:
    step = f"step {found.step}, " if found.step is not None else ""
    return f"{step}{'' if within else f'{found.file}, '}{found.name}"


def _pair(found: Difference) -> str:
    said = f"{_value(found.was)} then, {_value(found.now)} now"
    if math.isfinite(found.apart) and found.apart > 0:
        said += f" ({found.apart:.2g} apart, {found.relatively:.2g} of its size)"
    return said


def _value(value: Any) -> str:
    return "none" if value is None else repr(value) if isinstance(value, float) else str(value)
