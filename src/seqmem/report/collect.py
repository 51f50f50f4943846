"""Collects every run below some folders, for a report. Thousands of runs take seconds.

Unusable runs are listed with a reason and skipped.

Axes: N traces, T timesteps, B sequences, K timesteps back from the answer, 0 the answer itself.
"""

import json
import re
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from math import nan
from pathlib import Path
from typing import Any

import numpy as np

from ..decay import DESCRIPTIONS, log10_by_distance, relative
from ..measurement import Description, Number
from ..metrics import Metric, Plateau
from ..runs.directory import RunDirectory, State, walk
from ..runs.files import CONFIG, RESULT, RunError
from ..runs.result import Scale, StoredResult
from ..runs.settings import drew_other_data, identity_hash, training_settings
from ..runs.summary import Summary, read


@dataclass(frozen=True, eq=False)
class Profiles:
    """How much gradient arrives, by timesteps back from the answer, over the training.

    ``step`` [N]: updates before each trace. ``log10`` [N K]: log10 of the gradient norm by all states, its mean
    over the sequences; column k is k timesteps back. ``-inf``: below what float64 holds. NaN: not a number.
    """

    step: np.ndarray
    log10: np.ndarray

    @property
    def relative(self) -> np.ndarray:
        """``log10`` from one step back from the answer on, and relative to that, [N K-1]: column j is j + 1 timesteps
        back (``decay.relative``)."""
        return relative(self.log10)


@dataclass(frozen=True, eq=False)
class Run:
    """One run that counts: it is finished, or it diverged. (While runs are collected, an unfinished one, too.)

    Args:
        path: its directory.
        state: as in ``RunDirectory.state``.
        diverged: it has no score: its loss was not finite at the end, or the model's mathematics ended it before.
        error: why it ended before the end; None: it did not fail.
        task: the task's name (a user's own: its class), and the settings in which tasks of that name differ in the
            collection, e.g. ``pronoun people=16``: such tasks differ in difficulty, and often in chance.
        task_name: the name alone.
        cell: the cell's name, likewise its class.
        variant: the settings other than length and seed in which this cell's runs differ in the collection, e.g.
            ``forget_bias=1``; may be empty.
        label: cell and variant; within a task, runs with one label differ in length and seed only.
        seq_len: the training length in timesteps (with lengths=uniform or mixed: the longest).
        steps: updates, of the plan if it diverged.
        score, loss: on held-out sequences of ``seq_len`` after training; NaN if it diverged.
        chance: the score without a memory at ``seq_len``; None: unknown.
        metric: what the score is, e.g. ``accuracy`` (a fraction) or ``mean squared error``.
        solved_at: the score at which the task counts as solved by its own rule; None: it has no rule.
        solved: True if ``score`` reaches it.
        steps_to_solve: the first evaluation during training that reached it, in updates; None: none did.
        by_length: tested length -> score; empty if it diverged.
        probes: name -> ``start`` and ``end`` of training -> what the probe measured, as in result.json.
        descriptions: name of a probe -> what its numbers mean.
        config: the configuration, as in config.json.
        environment: versions, machine and command, as in environment.json; empty if the file is missing.
        hidden_size: units per layer. ``parameters``: of the whole model. None: not known.
        seconds: duration of the training; NaN if it did not end.
        constant: the score of a constant answer; ``plateaus``: levels between no memory and a whole one.
        tested: length -> how to read the score there, where an evaluation says it.
    """

    path: Path
    state: State
    diverged: bool
    error: str | None
    task: str
    task_name: str
    cell: str
    variant: str
    label: str
    seq_len: int
    seed: int
    steps: int
    score: float
    loss: float
    chance: float | None
    metric: Metric
    solved_at: float | None
    solved: bool
    steps_to_solve: int | None
    by_length: dict[int, float]
    probes: Mapping[str, Mapping[str, Any]]
    descriptions: Mapping[str, Description]
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    hidden_size: int | None
    parameters: int | None
    seconds: float
    constant: float | None = None
    plateaus: Sequence[Plateau] = ()
    tested: Mapping[int, Scale] = field(default_factory=dict)

    @property
    def scales(self) -> dict[int, Scale]:
        """Length -> what a score there is compared with, where that is known: at the trained length and ``tested``."""
        own = Scale(self.metric, self.chance, None, self.solved_at, self.constant, self.plateaus)
        return {**self.tested, self.seq_len: own}

    @property
    def counts(self) -> bool:
        """False: it is unfinished, and says nothing about its cell."""
        return self.diverged or self.state == "finished"

    @property
    def higher_is_better(self) -> bool:
        return self.metric.higher_is_better

    def score_at(self, length: int | None = None) -> float | None:
        """The score at a tested length, or at the trained one; NaN if it diverged. None: it was not tested there."""
        if self.diverged:
            return nan
        return self.score if length is None else self.by_length.get(length)

    def first_reached(self, goal: float) -> int | None:
        """The first evaluation during training that reached ``goal``, in updates; None: none is known to.

        For another goal than the task's own the run's metrics are read from the disk.
        """
        if goal == self.solved_at:
            return self.steps_to_solve
        return _first_reached(self.path, self.metric, goal)

    def number(self, probe: str, name: str, when: str) -> float:
        """A number of a probe at the ``start`` or the ``end`` of training; NaN: it was not measured."""
        scalars = self.probes.get(probe, {}).get(when)
        description = self.descriptions.get(probe)
        return nan if scalars is None or description is None else description.of_main(scalars).get(name, nan)

    def profiles(self, *, ends: bool = False) -> Profiles | None:
        """The gradient back from the answer, read from the disk at every call; None: it was not traced.

        Args:
            ends: at the start, in the middle and at the end of training alone: three rows, or fewer where there are
                fewer traces.

        Raises:
            RunError: the traces cannot be read.
        """
        gradients = RunDirectory(self.path).gradients()
        if gradients is None or not len(gradients.step):
            return None
        step = gradients.step
        middle = int(np.abs(step - step[-1] / 2).argmin())
        places = sorted({0, middle, len(step) - 1}) if ends else range(len(step))
        # One trace at a time: all at once may double the memory.
        rows = [log10_by_distance(gradients.state(place), gradients.answered_at) for place in places]
        return Profiles(step[list(places)], np.stack(rows))


@dataclass(frozen=True, eq=False)
class Group:
    """All runs of one task and one label.

    Args:
        runs: trained length -> seed -> run that counts, both in ascending order.
        unfinished: trained length -> seeds of runs that are not finished, in ascending order.
    """

    task: str
    label: str
    cell: str
    variant: str
    runs: dict[int, dict[int, Run]]
    unfinished: dict[int, list[int]] = field(default_factory=dict)

    @property
    def lengths(self) -> list[int]:
        """Trained lengths of runs that count, ascending."""
        return list(self.runs)

    @property
    def most_seeds(self) -> int:
        """The most seeds of one length, unfinished ones included."""
        every = {*self.runs, *self.unfinished}
        return max((len(self.runs.get(one, ())) + len(self.unfinished.get(one, ())) for one in every), default=0)

    @property
    def first(self) -> Run:
        """Any run, finished if one is: metric and the rule of success are the task's."""
        runs = [run for by_seed in self.runs.values() for run in by_seed.values()]
        return next((run for run in runs if run.state == "finished"), runs[0])

    def at(self, seq_len: int) -> list[Run]:
        """Runs trained at a length, by seed."""
        return list(self.runs.get(seq_len, {}).values())

    def scored(self, seq_len: int) -> list[Run]:
        """Those of ``at`` that did not diverge."""
        return [run for run in self.at(seq_len) if not run.diverged]

    def tested_lengths(self, seq_len: int) -> list[int]:
        """Lengths that every run trained at ``seq_len`` was tested at, ascending; one that diverged fails at all."""
        tested = [set(run.by_length) for run in self.scored(seq_len)]
        return sorted(set.intersection(*tested)) if tested else []


@dataclass(frozen=True)
class Unfinished:
    """A run without a result, which did not diverge. ``state``: as in ``RunDirectory.state``; ``error``: why it failed.

    ``task``, ``label``, ``seq_len``, ``seed``: as of a ``Run``.
    """

    path: Path
    state: State
    step: int
    error: str | None
    task: str = ""
    label: str = ""
    seq_len: int = 0
    seed: int = 0


@dataclass(frozen=True)
class LeftOut:
    """A folder that was not used, and why, in one line; ``unreadable``: it could not be, and may have counted."""

    path: Path
    reason: str
    unreadable: bool = False


@dataclass(frozen=True, eq=False)
class Collection:
    """``runs``: those that count, by task, cell, label, length and seed. ``folders``: the searched folders."""

    folders: list[Path]
    runs: list[Run]
    unfinished: list[Unfinished] = field(default_factory=list)
    left_out: list[LeftOut] = field(default_factory=list)

    @property
    def finished(self) -> list[Run]:
        return [run for run in self.runs if run.state == "finished"]

    @property
    def diverged(self) -> list[Run]:
        return [run for run in self.runs if run.diverged]

    @property
    def tasks(self) -> list[str]:
        return list(dict.fromkeys(run.task for run in self.runs))

    @property
    def groups(self) -> list[Group]:
        """The groups by task and label, in the order of the runs."""
        by_group: dict[tuple[str, str], dict[int, dict[int, Run]]] = defaultdict(lambda: defaultdict(dict))
        for run in self.runs:
            by_group[run.task, run.label][run.seq_len][run.seed] = run
        unfinished: dict[tuple[str, str], dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
        for one in self.unfinished:
            unfinished[one.task, one.label][one.seq_len].append(one.seed)
        groups = []
        for (task, label), runs in by_group.items():
            ordered = {length: dict(sorted(runs[length].items())) for length in sorted(runs)}
            one = next(iter(next(iter(ordered.values())).values()))
            rest = unfinished.get((task, label), {})
            groups.append(
                Group(task, label, one.cell, one.variant, ordered, {at: sorted(rest[at]) for at in sorted(rest)})
            )
        return groups

    def only(self, task: str) -> "Collection":
        """The collection restricted to one task, which is named with or without its settings."""
        return replace(self, runs=[run for run in self.runs if task in (run.task, run.task_name)])


def collect(paths: Iterable[Path | str]) -> Collection:
    """Read every run at or below ``paths``.

    Of several runs of the same training, one counts: a finished one before one that diverged, of those the one tested
    at the most lengths, else the first by path. The others are in ``left_out``. Trainings are the same if their
    ``training_settings`` are equal.

    Raises:
        RunError: there is no run, finished or not; the message names what was left out, if that is all there is.
    """
    folders = [Path(path) for path in paths]
    left_out: list[LeftOut] = []
    runs: list[Run] = []
    reached: dict[Path, int] = {}
    for folder in _folders(folders, left_out):
        try:
            summary = read(RunDirectory(folder))
        except RunError as error:
            left_out.append(LeftOut(folder, _without(folder, str(error)), unreadable=True))
            continue
        runs.append(_run(summary))
        reached[folder] = summary.step
    if not runs:
        where = ", ".join(map(str, folders)) or "no folder"
        more = f"; {len(left_out)} left out, the first {left_out[0].path}: {left_out[0].reason}" if left_out else ""
        raise RunError(f"no runs below {where}: a run's directory has a {CONFIG}{more}")
    runs = _labelled(_once(runs, left_out))
    runs.sort(
        key=lambda run: (
            natural(run.task), natural(run.cell), natural(run.label), run.seq_len, run.seed, not run.counts
        )
    )  # fmt: skip
    runs = _one_a_seed(runs, left_out)
    unfinished = [
        Unfinished(run.path, run.state, reached[run.path], run.error, run.task, run.label, run.seq_len, run.seed)
        for run in sorted(runs, key=lambda run: run.path)
        if not run.counts
    ]
    return Collection(folders, [run for run in runs if run.counts], unfinished, left_out)


@dataclass(frozen=True)
class ProbeNumber:
    """One number that a report shows: its probe, its name there, how to read it, and its name in tables."""

    probe: str
    name: str
    number: Number
    column: str


def probe_numbers(runs: Iterable[Run]) -> list[ProbeNumber]:
    """The numbers of every probe of some runs that are shown everywhere; of probes with one name the first counts."""
    described = dict(DESCRIPTIONS)
    for run in runs:
        for probe, description in run.descriptions.items():
            described.setdefault(probe, description)
    numbers: dict[str, ProbeNumber] = {}
    for probe, description in described.items():
        for name, number in description.shown().items():
            column = name if name not in numbers else f"{probe}_{name}"  # probes of different runs may share a name
            numbers[column] = ProbeNumber(probe, name, number, column)
    return list(numbers.values())


def natural(text: str) -> list[tuple[int, float, str]]:
    """A sort key: ``forget_bias=2`` before ``forget_bias=10``."""
    parts = re.split(r"(\d+(?:\.\d+)?)", text)
    return [(0, float(part), "") if i % 2 else (1, 0.0, part) for i, part in enumerate(parts)]


# Finding and reading


def _folders(given: Sequence[Path], left_out: list[LeftOut]) -> Iterator[Path]:
    """Every folder with a config or a result, each once, by path. Unreadable folders are added to ``left_out``."""
    seen: set[Path] = set()
    for start in given:

        def unreadable(error: OSError) -> None:
            left_out.append(LeftOut(Path(error.filename), f"cannot be read: {error.strerror}", unreadable=True))

        holding = [folder for folder, _, files in walk(start, unreadable) if CONFIG in files or RESULT in files]
        for folder in sorted(holding):
            real = folder.resolve()
            if real not in seen:
                seen.add(real)
                yield folder


def _run(summary: Summary) -> Run:
    result = summary.result
    known = _measured(summary) if result is None else _result(summary, result)
    return Run(
        path=summary.run.path,
        state=summary.state,
        diverged=summary.diverged,
        error=summary.error,
        task=summary.task,
        task_name=summary.task,
        cell=summary.cell,
        variant="",
        label=summary.cell,
        seq_len=summary.seq_len,
        seed=summary.seed,
        steps=summary.steps,
        chance=summary.scale.chance,
        metric=summary.scale.metric,
        solved_at=summary.scale.solved_at,
        descriptions=summary.descriptions,
        config=summary.config,
        environment=summary.environment,
        constant=summary.scale.constant,
        plateaus=summary.scale.plateaus,
        tested=summary.scales,
        **known,
    )


def _result(summary: Summary, result: StoredResult) -> dict[str, Any]:
    """What a finished run measured. With ``on_nan=continue`` it may have diverged."""
    return {
        "score": nan if summary.diverged else result["score"],
        "loss": result["loss"],
        "solved": bool(result["solved"]) and not summary.diverged,
        "steps_to_solve": result["steps_to_solve"],
        "by_length": {} if summary.diverged else summary.by_length,
        "probes": summary.probes,
        "hidden_size": result["hidden_size"],
        "parameters": result["parameters"],
        "seconds": result["seconds"],
    }


def _measured(summary: Summary) -> dict[str, Any]:
    """What a run without a result measured: before its training alone, for what came later is not the end."""
    starts = {name: {"start": stages["start"]} for name, stages in summary.probes.items() if "start" in stages}
    return {
        "score": nan,
        "loss": nan,
        "solved": False,
        "steps_to_solve": None,
        "by_length": {},
        "probes": starts,
        "hidden_size": None,
        "parameters": None,
        "seconds": nan,
    }


@lru_cache(maxsize=65536)
def _first_reached(path: Path, metric: Metric, goal: float) -> int | None:
    try:
        return RunDirectory(path).first_reached(metric, goal)
    except RunError:  # a damaged file costs one number, not the report
        return None


def _without(folder: Path, message: str) -> str:
    """An error message about a folder without the folder's path."""
    return message.removeprefix(str(folder)).lstrip("/: ")


# Duplicates and labels


def _once(runs: Sequence[Run], left_out: list[LeftOut]) -> list[Run]:
    """One run of every training; the duplicates are added to ``left_out``."""
    alike: dict[str, list[Run]] = defaultdict(list)
    mixed = _mixed(runs)
    for run in runs:
        alike[identity_hash(_training(run, mixed))].append(run)
    chosen = []
    for same in alike.values():
        # The first if several have the most.
        best = max(same, key=lambda run: (run.counts, not run.diverged, len(run.by_length)))
        chosen.append(best)
        for run in same:
            if run is not best:
                but = f", with another {difference}" if (difference := _other_result(run, best)) else ""
                left_out.append(LeftOut(run.path, f"the same training as {best.path}, which counts{but}"))
    return chosen


def _other_result(run: Run, best: Run) -> str:
    """How the results of two runs of one training differ; empty: they do not, or one has none."""
    if not run.counts or not best.counts or run.score == best.score or (run.diverged and best.diverged):
        return ""
    there, here = ("diverged" if one.diverged else f"{one.score:.6g}" for one in (run, best))
    return f"score ({there} there, {here} here)"


def _training(run: Run, mixed: set[tuple[str, int]]) -> dict[str, Any]:
    """What the training was, with a word where an earlier version drew other data than this one does, if runs of both
    are collected."""
    earlier = (run.task_name, run.seq_len) in mixed and drew_other_data(run.config, run.environment)
    return training_settings(run.config) | ({"task.data": "earlier"} if earlier else {})


def _mixed(runs: Sequence[Run]) -> set[tuple[str, int]]:
    """(task, length) of which there are runs with the data of this version and with others."""
    data: dict[tuple[str, int], set[bool]] = defaultdict(set)
    for run in runs:
        data[run.task_name, run.seq_len].add(drew_other_data(run.config, run.environment))
    return {place for place, kinds in data.items() if len(kinds) == 2}


def _labelled(runs: Sequence[Run]) -> list[Run]:
    """The runs with ``task``, ``variant`` and ``label`` filled in."""
    mixed = _mixed(runs)
    flat = {id(run): _training(run, mixed) for run in runs}
    task_text: dict[int, str] = {}
    for same in _sorted_by(runs, lambda run: run.task_name):
        keys = [key for key in _differing([flat[id(run)] for run in same], "task.") if key not in _DRAWING]
        task_text |= {id(run): _setting_words(flat[id(run)], keys, keys) for run in same}
    cell_keys = {}
    for same in _sorted_by(runs, lambda run: run.cell):
        cell_keys[same[0].cell] = _differing([flat[id(run)] for run in same], "cell.")
    done = []
    for same in _sorted_by(runs, lambda run: (run.task_name, run.cell)):
        keys = cell_keys[same[0].cell] + _other_keys(same, flat)
        for run in same:
            task = f"{run.task_name} {task_text[id(run)]}".rstrip()
            variant = _setting_words(flat[id(run)], keys, keys)
            done.append(replace(run, task=task, variant=variant, label=f"{run.cell} {variant}".rstrip()))
    return done


_DRAWING = ("task.lengths", "task.shortest")
"""How training lengths are drawn: settings of the training, although they are in the task's group."""


def _sorted_by(runs: Sequence[Run], key: Callable[[Run], Any]) -> Iterator[list[Run]]:
    groups: dict[Any, list[Run]] = defaultdict(list)
    for run in runs:
        groups[key(run)].append(run)
    yield from groups.values()


def _differing(flat: Sequence[Mapping[str, Any]], prefix: str) -> list[str]:
    """Settings of a cell or a task that differ between the runs, or that some runs lack."""
    keys = dict.fromkeys(key for one in flat for key in one if key.startswith(prefix))
    return [key for key in keys if len({_value(one[key]) if key in one else None for one in flat}) > 1]


def _other_keys(runs: Sequence[Run], flat: Mapping[int, Mapping[str, Any]]) -> list[str]:
    """Settings of the training in which runs of one cell and one task differ.

    A setting that depends on the length alone (steps that grow with it) does not count: each length would become a
    variant. Nor does a setting that only one of the optimizers has: the optimizer's name implies it.
    """
    keys = dict.fromkeys(key for run in runs for key in flat[id(run)] if not key.startswith(("cell.", "task.")))
    differing = []
    for key in [*_DRAWING, *(key for key in keys if key not in ("seed", "seq_len"))]:
        by: dict[Any, dict[int, set[str]]] = defaultdict(lambda: defaultdict(set))
        for run in runs:
            one = flat[id(run)]
            if key in one:
                sort = one.get("optimizer.name") if key.startswith("optimizer.") and key != "optimizer.name" else None
                by[sort][run.seq_len].add(_value(one[key]))
        if any(len(values) > 1 for lengths in by.values() for values in lengths.values()) or (
            key in (*_DRAWING, "optimizer.name") and any(len(set.union(*x.values())) > 1 for x in by.values())
        ):
            differing.append(key)
    return differing


def _setting_words(flat: Mapping[str, Any], keys: Sequence[str], among: Sequence[str]) -> str:
    """``forget_bias=1 lr=0.01``; full keys if their last words are ambiguous."""
    short = {key: key.removesuffix(".name").rpartition(".")[2] for key in among}
    doubled = [word for word, count in Counter(short.values()).items() if count > 1]
    return " ".join(
        f"{key if short[key] in doubled else short[key]}={_value(flat[key])}" for key in keys if key in flat
    )


def _value(value: Any) -> str:
    """A value as on the command line; 1 and 1.0 are equal."""
    if isinstance(value, float) and not isinstance(value, bool):
        return f"{value:.6g}"
    return value if isinstance(value, str) else json.dumps(value)


def _one_a_seed(runs: Sequence[Run], left_out: list[LeftOut]) -> list[Run]:
    """One run per task, label, length and seed: runs of several versions may differ in no recorded setting."""
    firsts: dict[tuple[str, str, int, int], Run] = {}
    for run in runs:
        first = firsts.setdefault((run.task, run.label, run.seq_len, run.seed), run)
        if first is not run:
            left_out.append(LeftOut(run.path, f"nothing tells it from {first.path}, which counts"))
    return list(firsts.values())
